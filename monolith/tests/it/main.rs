//! The HTTP contract, section by section, against the built `monolith`.
//!
//! Every test starts its own process on ports that the system chooses, with its own
//! folder, so all may run at once. To add an area, write `<area>.rs` and a line here;
//! to run a test on every storage, name it in `on_each_storage!` (see `app.rs`).
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

#[macro_use]
mod app;
mod client;

mod answers;
mod batch;
mod conditions;
mod crash_support;
mod databases;
mod deployment;
mod dialects;
mod docs;
mod events_live;
mod events_read;
mod events_write;
mod eye;
mod faults;
mod history;
mod http;
mod idempotency;
mod keys;
mod kill;
mod kill_events;
mod lifecycle;
mod lists;
mod live;
mod operators;
mod parked;
mod past;
mod positions;
mod power_cut;
mod processes;
mod readme;
mod rebuilds;
mod rounds;
mod schemathesis;
mod settings;
mod strangers;
mod transcripts;
mod values;
