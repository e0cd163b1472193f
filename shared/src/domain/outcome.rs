//! What a command came to, as it is answered and, under an `Idempotency-Key`, kept.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::refusal::Refusal;
use super::stream::{Position, Revision};
use super::time::Timestamp;

/// A command that was carried out, or refused by the state that it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The event that it caused.
    Done(Receipt),
    /// Why not.
    Refused(Refused),
    /// A request that causes events in streams of their own has begun: whoever repeats
    /// it causes the same ones, and only those that are missing.
    Begun(Begun),
}

/// All that a repetition needs to cause the same events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Random; every id of the request's events comes from it.
    pub seed: Uuid,
    /// When it began: what is decided by the time goes by this.
    pub at: Timestamp,
    /// Whether it is recorded as a rejection, where that was up to the state of the log.
    pub rejected: bool,
}

/// What happened to an answer or a log event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    Created,
    Updated,
    Deleted,
}

/// The event that a command caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What happened.
    pub event: Happened,
    /// Its revision.
    pub revision: Revision,
    /// Its position.
    pub position: Position,
}

/// A refusal and the event that it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The position of the stream's last event; none where the stream has none.
    pub position: Option<Position>,
}

/// The `Idempotency-Key` of a command: 1 to 255 visible ASCII characters, and for
/// a line of a batch its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey {
    key: Box<str>,
    line: Option<u64>,
}

/// A text that is no `Idempotency-Key`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// Takes a key as a client sent it.
    ///
    /// # Errors
    /// If it is empty, longer than 255, or holds anything but visible ASCII.
    pub fn parse(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > 255 || !visible {
            return Err(InvalidIdempotencyKey);
        }
        Ok(Self { key: text.into(), line: None })
    }

    /// The key of line `number` of the batch that was sent with this key.
    #[must_use]
    pub fn of_line(&self, number: u64) -> Self {
        Self { key: self.key.clone(), line: Some(number) }
    }

    /// Bytes that no other key has: what a store finds it by.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.key.as_bytes().to_vec();
        if let Some(line) = self.line {
            // No visible character is a space, so the two kinds never meet.
            bytes.push(b' ');
            bytes.extend_from_slice(&line.to_be_bytes());
        }
        bytes
    }
}

/// SHA-256 of all that makes a request the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// An outcome that is kept under an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of the request that came first.
    pub fingerprint: Fingerprint,
    /// What it came to.
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_ascii() {
        for bad in ["", "a b", "ä", "a\u{7f}", &"x".repeat(256)] {
            assert_eq!(IdempotencyKey::parse(bad), Err(InvalidIdempotencyKey), "{bad}");
        }
        for good in ["a", "!~", &"x".repeat(255)] {
            assert!(IdempotencyKey::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_line_never_meets_a_whole_request() {
        let key = IdempotencyKey::parse("k").expect("valid");
        assert_ne!(key.to_bytes(), key.of_line(0).to_bytes());
        assert_ne!(key.of_line(1).to_bytes(), key.of_line(2).to_bytes());
    }
}
