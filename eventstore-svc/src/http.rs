//! The routes of the write side.

pub(crate) mod answers;
pub(crate) mod batch;
pub(crate) mod history;
