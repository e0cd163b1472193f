//! The routes of the read side.

pub(crate) mod answers;
pub(crate) mod audit_log;
pub(crate) mod event_logger;
pub(crate) mod events;
pub(crate) mod eye_collector;
pub(crate) mod eye_rest;
