//! The routes of the read side.

pub(crate) mod answers;
pub(crate) mod eye_collector;
pub(crate) mod eye_rest;
