//! The rules: what an answer is, which commands are allowed in which state, and
//! what the events mean. No async, I/O, clock or HTTP.

pub mod answer;
pub mod filter;
pub mod log_event;
pub mod members;
pub mod outcome;
pub mod projection;
pub mod refusal;
pub mod stream;
pub mod time;
