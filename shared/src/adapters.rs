//! The ports, kept by real storage.

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod memory;
mod progress;

use crate::domain::answer::Answer;

/// Where a page of answers ends early: about what a response may hold in memory.
const PAGE_BYTES: usize = 16 * 1024 * 1024;
/// Where a page of events ends early.
const EVENTS_BYTES: usize = 4 * 1024 * 1024;

/// The first of the answers that together stay within a page; at least one.
fn within_bytes(answers: impl Iterator<Item = Answer>) -> impl Iterator<Item = Answer> {
    let mut bytes = 0;
    answers.take_while(move |answer| {
        let first = bytes == 0;
        bytes += answer.key.as_str().len() + answer.value.len();
        first || bytes <= PAGE_BYTES
    })
}
