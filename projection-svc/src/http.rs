//! The routes of the read side.

pub(crate) mod answers;
