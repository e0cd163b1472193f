//! The past of an answer or a log event, from the log.

use std::sync::Arc;

use shared::domain::answer::{Answer, AnswerEvent, Key};
use shared::domain::stream::{Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::ports::{Direction, EventStore};

/// How many events are read at once.
pub const PAGE: usize = 256;

/// Reads histories.
#[derive(Clone)]
pub struct History(Arc<dyn EventStore>);

/// A moment of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Revision(Revision),
    Time(Timestamp),
}

/// An answer as it was, and the event that made it so.
pub struct AsOf {
    pub answer: Option<Answer>,
    pub revision: Revision,
    pub position: Position,
}

impl History {
    /// Histories from this store.
    pub fn new(events: Arc<dyn EventStore>) -> Self {
        Self(events)
    }

    /// The newest event of a stream.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn newest(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, Error> {
        Ok(self.0.last(stream).await?)
    }

    /// A page of a stream's events.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn page(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, Error> {
        Ok(self.0.read(stream, from, direction, limit.min(PAGE)).await?)
    }

    /// The answer of a key as it was.
    ///
    /// # Errors
    /// `NotFound` if the key had no event then.
    pub async fn as_of(&self, key: &Key, moment: Moment) -> Result<AsOf, Error> {
        let stream = StreamId::of_answer(key);
        let recorded = match moment {
            Moment::Revision(revision) => self.at(&stream, revision).await?,
            Moment::Time(time) => self.last_until(&stream, time).await?,
        };
        let recorded = recorded.ok_or(Error::NotFound)?;
        let event = AnswerEvent::from_recorded(&recorded)?;
        let answer =
            event.value().map(|value| Answer { key: key.clone(), value: value.clone(), revision: recorded.revision });
        Ok(AsOf { answer, revision: recorded.revision, position: recorded.position })
    }

    async fn at(&self, stream: &StreamId, revision: Revision) -> Result<Option<RecordedEvent>, Error> {
        Ok(self.page(stream, revision, Direction::Forwards, 1).await?.pop())
    }

    /// The last event that was recorded at or before a time: times never go back
    /// within a stream, so halving finds it.
    async fn last_until(&self, stream: &StreamId, time: Timestamp) -> Result<Option<RecordedEvent>, Error> {
        let Some(newest) = self.newest(stream).await? else { return Ok(None) };
        if newest.event.metadata.recorded_at <= time {
            return Ok(Some(newest));
        }
        let mut found = None;
        let (mut low, mut high) = (0, newest.revision.0);
        while low < high {
            let middle = low + (high - low) / 2;
            let event = self.at(stream, Revision(middle)).await?.ok_or(Error::NotFound)?;
            if event.event.metadata.recorded_at <= time {
                low = middle + 1;
                found = Some(event);
            } else {
                high = middle;
            }
        }
        Ok(found)
    }
}
