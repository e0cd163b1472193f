//! Stand-ins for the databases, and helpers for tests.

mod core;
pub mod mongo;
pub mod ports;
pub mod processes;
pub mod programs;
pub mod proto;
pub mod server;
mod store;

pub use server::switches::{Ending, Switches};
pub use server::{EsdbServer, Options};
