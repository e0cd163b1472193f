//! Stand-ins for the databases, and helpers for tests.

pub mod processes;
