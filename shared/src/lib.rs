//! What the services of qaservice have in common, from the inside out.

pub mod domain;
pub mod ports;

#[cfg(feature = "conformance")]
pub mod conformance;

pub mod adapters;
pub mod clock;
pub mod config;
pub mod error;
pub mod http;
pub mod logging;
pub mod login;
pub mod metrics;
pub mod process;
pub mod wire;
