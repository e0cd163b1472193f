//! What can come of a request beside success, before it has a status.

use crate::domain::answer::UnreadableEvent;
use crate::domain::members::InvalidEvent;
use crate::domain::outcome::Refused;
use crate::domain::refusal::Refusal;
use crate::ports::StoreError;

/// Why a valid request is not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The domain said no.
    #[error("{}", .0.refusal)]
    Refused(Refused),
    /// What was sent, or what an amendment would leave, is no log event.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// The `Idempotency-Key` belongs to another request.
    #[error("Idempotency-Key was used for another request")]
    KeyReused,
    /// A request with this `Idempotency-Key` is under way.
    #[error("request in progress")]
    InProgress,
    /// An event of the stream cannot be read.
    #[error("an event of this stream cannot be read")]
    Unreadable(#[source] std::sync::Arc<UnreadableEvent>),
    /// An event of the stream, at or before what is awaited, cannot be projected.
    #[error("key is parked")]
    Parked,
    /// There is nothing to show.
    #[error("Key not found")]
    NotFound,
    /// The views did not come as far as awaited in time.
    #[error("the projection has not reached position {0} yet")]
    NotReached(u64),
    /// The process is ending; nothing was begun.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A store failed.
    #[error(transparent)]
    Failed(#[from] StoreError),
}

impl Error {
    /// There is no such log event, and nothing that says so.
    pub fn no_event() -> Self {
        Self::Refused(Refused { refusal: Refusal::EventNotFound, position: None })
    }
}

impl From<UnreadableEvent> for Error {
    fn from(error: UnreadableEvent) -> Self {
        Self::Unreadable(std::sync::Arc::new(error))
    }
}
