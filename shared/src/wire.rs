//! JSON shapes and the domain, one into the other. Pure: no HTTP, no stores.

pub mod answers;
pub mod events;
pub mod eye_collector;
pub mod eye_rest;
pub mod sent;
pub mod time;
