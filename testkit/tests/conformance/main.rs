//! What a server must do to pass for EventStoreDB, checked from outside.
//!
//! One suite for any server: `EVENTSTORE_HOST=host:port cargo test -p testkit --test
//! conformance` runs it against an insecure node of EventStoreDB, without the
//! variable it starts the server of this crate, in memory. It speaks through the
//! client crate where that shows the fact, and through the bare protocol (`wire`)
//! where it does not: message order, trailers, forms of ids.
//!
//! The tests know nothing of the server but the protocol: streams are fresh, the log
//! is shared with other tests and with the server itself, positions have gaps, and
//! what the server does a moment after its reply is waited for. Nothing is sent that
//! hangs or ends a real server: no count of 0 on `$all`, no search window of 0 on a
//! read, no append to `$$`. The number in a test's comment is the fact's number in
//! the checklist of the protocol's description; facts without one are from its text.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod server;
mod wire;

mod all;
mod appending;
mod batches;
mod checkpoints;
mod connecting;
mod deleting;
mod filters;
mod idempotency;
mod links;
mod metadata;
mod reading;
mod subscriptions;
mod tombstones;
