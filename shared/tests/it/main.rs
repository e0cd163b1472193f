//! The `shared` crate from outside: every adapter against the promises of its
//! port, the embedded store against the memory one, the doors between modules,
//! and what is stored, which must not change.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod adapters;
mod esdb;
mod generations;
mod layers;
mod log_rate;
mod model;
mod mongo;
mod stored_events;
mod stored_log_events;
mod support;
