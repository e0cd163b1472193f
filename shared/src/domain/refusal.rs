//! Every way in which the domain says no to a command.

use serde::{Deserialize, Serialize};

/// Why a valid command is not carried out in the state that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A create on a key that has a live answer.
    #[error("Key exists")]
    KeyExists,
    /// An update or delete on a key that has none.
    #[error("Key not found")]
    KeyNotFound,
    /// `If-Match` does not name the revision of what is there, or nothing is there.
    #[error("If-Match does not name the present revision")]
    NotMatched,
    /// `If-None-Match` names the revision of what is there.
    #[error("If-None-Match names the present revision")]
    Matched,
    /// A log event that was never recorded, or is deleted.
    #[error("Event not found")]
    EventNotFound,
}
