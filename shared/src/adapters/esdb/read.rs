//! Reading streams: pages that are bounded by number and bytes, without the events of
//! others.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::link::{Link, Open, WHAT};
use super::node::{Answers, Begin, ReadError};
use super::proto::{Content, Event};
use super::stored;
use crate::domain::stream::{RecordedEvent, Revision, StreamId};
use crate::ports::{Direction, StoreError};

/// How long a read may take.
pub(super) const READ: Duration = Duration::from_secs(5);
/// Events that are asked for at once at most; a page says where it ends.
const PAGE: usize = 4_096;

/// Waits for a step of a read.
pub(super) async fn until<T>(deadline: Instant, step: impl Future<Output = Result<T, Status>>) -> Result<T, ReadError> {
    match tokio::time::timeout_at(deadline, step).await {
        Ok(answer) => answer.map_err(ReadError::from),
        Err(_) => Err(ReadError::Late),
    }
}

/// The next event of a read; none at its end.
pub(super) async fn next(answers: &mut Answers, deadline: Instant) -> Result<Option<Event>, ReadError> {
    while let Some(answer) = until(deadline, answers.message()).await? {
        match answer.content {
            Some(Content::Event(read)) => {
                // A link whose target is gone comes without an event.
                if let Some(event) = read.event {
                    return Ok(Some(event));
                }
            }
            Some(Content::StreamNotFound(_)) => return Ok(None),
            Some(Content::Confirmation(_) | Content::Checkpoint(_)) | None => {}
        }
    }
    Ok(None)
}

/// Why a read broke off.
pub(super) enum Broken {
    Read(ReadError),
    Store(StoreError),
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Link {
    /// As `EventStore::read`. A connection that turns out to be broken is made again,
    /// once.
    pub(super) async fn read(
        &self,
        stream: &StreamId,
        from: Begin,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let deadline = Instant::now() + READ;
        let mut open = self.open().await?;
        let mut again = true;
        loop {
            let error = match page(&open, stream, from, direction, limit, deadline).await {
                Ok(events) => return Ok(events),
                Err(Broken::Store(error)) => return Err(error),
                Err(Broken::Read(error)) => error,
            };
            if error.is_stream_deleted() {
                return Err(StoreError::corrupt(format!("stream {stream}, which was deleted in {WHAT},"), error));
            }
            let broke = matches!(error, ReadError::Node(_));
            let error = self.read_failed(&open, error);
            if !broke || !std::mem::replace(&mut again, false) {
                return Err(error);
            }
            open = self.open().await?;
        }
    }
}

async fn page(
    open: &Arc<Open>,
    stream: &StreamId,
    from: Begin,
    direction: Direction,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<RecordedEvent>, Broken> {
    let (mut found, mut bytes, mut from) = (Vec::new(), 0, from);
    loop {
        let count = limit.min(PAGE);
        let mut answers = until(deadline, open.node.stream(stream.as_str(), from, direction, count)).await?;
        let (mut seen, mut last) = (0, None);
        while let Some(event) = next(&mut answers, deadline).await? {
            seen += 1;
            last = Some(event.revision);
            bytes += event.data.len();
            found.extend(stored::decode(event, open.log).map_err(Broken::Store)?);
            if found.len() >= limit || bytes >= super::super::EVENTS_BYTES && !found.is_empty() {
                return Ok(found);
            }
        }
        // Events of others are passed over; a page of nothing else is not the end.
        let Some(last) = last.filter(|_| found.is_empty() && seen >= count) else { return Ok(found) };
        from = match direction {
            Direction::Forwards => Begin::At(Revision(last).next()),
            Direction::Backwards if last == 0 => return Ok(found),
            Direction::Backwards => Begin::At(Revision(last - 1)),
        };
    }
}
