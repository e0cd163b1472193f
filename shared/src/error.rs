//! What can come of a request beside success, before it has a status.

use crate::domain::answer::UnreadableEvent;
use crate::domain::outcome::Refused;
use crate::ports::StoreError;

/// Why a valid request is not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The domain said no.
    #[error("{}", .0.refusal)]
    Refused(Refused),
    /// The `Idempotency-Key` belongs to another request.
    #[error("Idempotency-Key was used for another request")]
    KeyReused,
    /// A request with this `Idempotency-Key` is under way.
    #[error("request in progress")]
    InProgress,
    /// An event of the stream cannot be read.
    #[error("an event of this stream cannot be read")]
    Unreadable(#[source] std::sync::Arc<UnreadableEvent>),
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

impl From<UnreadableEvent> for Error {
    fn from(error: UnreadableEvent) -> Self {
        Self::Unreadable(std::sync::Arc::new(error))
    }
}
