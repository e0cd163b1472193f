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
    /// `If-Match` does not name the live answer's revision, or there is no live answer.
    #[error("If-Match does not name the revision of the live answer")]
    NotMatched,
    /// `If-None-Match` names the live answer.
    #[error("If-None-Match names the live answer")]
    Matched,
}
