//! The ports, kept by real storage.

#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "esdb")]
pub mod esdb;
mod in_memory;
pub mod memory;
#[cfg(feature = "mongo")]
pub mod mongo;
mod progress;

use crate::domain::answer::Answer;
#[cfg(any(feature = "embedded", feature = "mongo"))]
use crate::ports::AnswersQuery;

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

/// The text behind all that begin with a prefix; none where there is no end.
#[cfg(any(feature = "embedded", feature = "mongo"))]
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The characters in order, with the gap that the surrogates leave.
        if let Some(next) = (last..=char::MAX).nth(1) {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

/// Where a page starts, and whether right behind that.
#[cfg(any(feature = "embedded", feature = "mongo"))]
fn start_of(query: &AnswersQuery) -> (&str, bool) {
    let behind = query.after.as_deref().filter(|after| *after >= query.prefix.as_str());
    (behind.unwrap_or(&query.prefix), behind.is_some())
}

#[cfg(all(test, any(feature = "embedded", feature = "mongo")))]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_its_last_character() {
        assert_eq!(end_of_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(end_of_prefix("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(end_of_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(end_of_prefix("\u{10ffff}"), None);
        assert_eq!(end_of_prefix(""), None);
    }
}
