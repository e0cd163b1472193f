//! JSON shapes and the domain, one into the other. Pure: no HTTP, no stores.

pub mod answers;
#[cfg(test)]
mod arbitrary;
pub mod audit_log;
pub mod cloud_events;
pub mod event_logger;
pub mod events;
pub mod eye_collector;
pub mod eye_rest;
pub mod history;
pub mod new_events;
pub mod operate;
pub mod sent;
pub mod time;
