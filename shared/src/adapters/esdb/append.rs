//! Appending: sent on a session, sent again while the outcome is unknown, and settled
//! by what stands in the stream.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::link::{Link, Open, WHAT, Why, unavailable};
use super::node::Begin;
use super::read::{READ, next, until};
use super::sessions::{Answer, Loss, Stored, Then};
use super::stored;
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::metrics::EsdbMetrics;
use crate::ports::{Append, Appended, Direction, StoreError};

/// How long an append may take, with all that it takes to settle it.
pub(super) const APPEND: Duration = Duration::from_secs(5);
/// The pause before what was appended is read again.
const PAUSE: Duration = Duration::from_millis(20);
/// Appends of one call that are under way at once.
const PIPELINE: usize = 256;
/// What may wait at once, in units of 4 KiB: 64 MiB.
const WAITING_UNITS: usize = 16 * 1024;
const UNIT_BYTES: usize = 4 * 1024;

/// Appends events.
pub(super) struct Appender {
    pub(super) link: Arc<Link>,
    waiting: Semaphore,
    metrics: Arc<EsdbMetrics>,
}

/// What stands behind a revision.
enum Behind {
    /// The events that were to be appended.
    Same(Appended),
    /// Only events of other applications, up to here.
    Others(Revision),
    /// Another event of ours, or nothing.
    Else,
}

impl Appender {
    /// Appends through this link.
    pub(super) fn new(link: Arc<Link>, metrics: Arc<EsdbMetrics>) -> Self {
        Self { link, waiting: Semaphore::new(WAITING_UNITS), metrics }
    }

    /// A place for events among those that wait to be appended.
    ///
    /// # Errors
    /// `Busy` if too much is waiting.
    pub(super) fn place(&self, events: &[NewEvent]) -> Result<SemaphorePermit<'_>, StoreError> {
        let bytes: usize = events.iter().map(stored::size).sum();
        let units = u32::try_from(1 + bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        self.waiting.try_acquire_many(units).map_err(|_| StoreError::Busy)
    }

    /// As `EventStore::append`, for events that have their place.
    pub(super) async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: &[NewEvent],
    ) -> Result<Appended, StoreError> {
        let begun = Instant::now();
        let appended = self.settled(stream, expected, events, begun + APPEND).await;
        if appended.is_ok() {
            self.metrics.appended(begun.elapsed());
        }
        appended
    }

    /// As `EventStore::append_each`. Behind one that shows that the server is away, or
    /// takes no more, none is begun: a long call would wait for each.
    pub(super) async fn append_each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let away = OnceLock::new();
        let numbered = appends.into_iter().enumerate();
        let appended = numbered.map(|(index, append)| self.one_of_many(index, append, &away));
        let mut all: Vec<_> = stream::iter(appended).buffer_unordered(PIPELINE).collect().await;
        all.sort_unstable_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, appended)| appended).collect()
    }

    async fn one_of_many(
        &self,
        index: usize,
        Append { stream, expected, events }: Append,
        away: &OnceLock<StoreError>,
    ) -> (usize, Result<Appended, StoreError>) {
        if let Some(error) = away.get() {
            return (index, Err(error.clone()));
        }
        let appended = match self.place(&events) {
            Ok(_place) => self.append(&stream, expected, &events).await,
            Err(error) => Err(error),
        };
        if let Some(error) = appended.as_ref().err().and_then(not_begun) {
            // Whoever comes first has said why.
            let _ = away.set(error);
        }
        (index, appended)
    }

    async fn settled(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: &[NewEvent],
        deadline: Instant,
    ) -> Result<Appended, StoreError> {
        let mut open = self.link.open().await?;
        // Why it may have been stored already.
        let mut doubt = None;
        // Events of other applications may stand behind what was expected.
        let mut at = expected;
        loop {
            let encoded = events.iter().map(|event| stored::encode(event, open.log)).collect::<Result<_, _>>()?;
            match open.sessions.send(stream.as_str(), at, encoded, deadline).await {
                Answer::Stored(last) => return self.placed(&open, stream, events, last, deadline).await,
                Answer::WrongVersion => match self.behind(&open, stream, expected, events, deadline).await {
                    Ok(Behind::Same(appended)) => return Ok(appended),
                    Ok(Behind::Else) => return Err(StoreError::Conflict),
                    Ok(Behind::Others(last)) if Instant::now() < deadline => at = ExpectedRevision::Exact(last),
                    Ok(Behind::Others(_)) => return Err(unsettled(doubt, unavailable("others append without end"))),
                    Err(error) => return Err(unsettled(doubt, error)),
                },
                Answer::Denied(why) => return Err(unsettled(doubt, unavailable(why))),
                Answer::NotSent => return Err(unsettled(doubt, unavailable("there is no session to append through"))),
                Answer::Lost(Loss { why, then }) => {
                    self.metrics.resent();
                    match then {
                        Then::GiveUp => return Err(unknown(why)),
                        Then::Resend => {}
                        Then::Reconnect | Then::Replace => self.link.report(&open, then == Then::Replace, &why),
                    }
                    doubt = Some(why);
                    open = match self.link.reopened(deadline).await {
                        Ok(open) if Instant::now() < deadline => open,
                        Ok(_) => return Err(unsettled(doubt, unavailable("it took too long"))),
                        Err(error) => return Err(unsettled(doubt, error)),
                    };
                }
            }
        }
    }

    /// The answer to an append names only its last event; the others are read.
    async fn placed(
        &self,
        open: &Arc<Open>,
        stream: &StreamId,
        events: &[NewEvent],
        last: Stored,
        deadline: Instant,
    ) -> Result<Appended, StoreError> {
        let others = events.len() - 1;
        let first = Revision(last.revision.0.saturating_sub(others as u64));
        let mut positions = Vec::with_capacity(events.len());
        if others > 0 {
            positions = self.positions(open, stream, first, &events[..others], deadline).await?;
        }
        positions.push(last.position);
        Ok(Appended { first, positions })
    }

    /// Where events stand that are stored from a revision on.
    async fn positions(
        &self,
        open: &Arc<Open>,
        stream: &StreamId,
        first: Revision,
        events: &[NewEvent],
        deadline: Instant,
    ) -> Result<Vec<Position>, StoreError> {
        let mut positions = Vec::with_capacity(events.len());
        let mut open = open.clone();
        while Instant::now() < deadline {
            let from = Revision(first.0 + positions.len() as u64);
            let missing = &events[positions.len()..];
            match self.positions_once(&open, stream, from, missing, deadline, &mut positions).await {
                Ok(()) if positions.len() == events.len() => return Ok(positions),
                Ok(()) => return Err(unknown("what was appended cannot be read")),
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    open = self.link.reopened(deadline).await.map_err(|error| unknown(error.chain()))?;
                }
            }
        }
        Err(unknown("what was appended was not read in time"))
    }

    async fn positions_once(
        &self,
        open: &Arc<Open>,
        stream: &StreamId,
        from: Revision,
        events: &[NewEvent],
        deadline: Instant,
        positions: &mut Vec<Position>,
    ) -> Result<(), StoreError> {
        let failed = |error| self.link.read_failed(open, error);
        let read = open.node.stream(stream.as_str(), Begin::At(from), Direction::Forwards, events.len());
        let mut answers = until(deadline, read).await.map_err(failed)?;
        for event in events {
            let Some(read) = next(&mut answers, deadline).await.map_err(failed)? else { break };
            match stored::decode(read, open.log)? {
                Some(read) if read.event.id == event.id => positions.push(read.position),
                _ => break,
            }
        }
        Ok(())
    }

    /// Looks what stands behind a revision where an append was refused.
    ///
    /// The first event of ours there decides. If it is another one, these events can
    /// never come to stand there: whoever sends them expects an end of the stream that
    /// it has left behind.
    async fn behind(
        &self,
        open: &Arc<Open>,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: &[NewEvent],
        deadline: Instant,
    ) -> Result<Behind, StoreError> {
        let (mut from, mut positions, mut first, mut others) = (expected.first_new(), Vec::new(), None, None);
        let deadline = deadline.min(Instant::now() + READ);
        loop {
            // Mostly the first event says it all.
            let count = if others.is_none() && first.is_none() { 1 } else { events.len() + 64 };
            let failed = |error| self.link.read_failed(open, error);
            let read = open.node.stream(stream.as_str(), Begin::At(from), Direction::Forwards, count);
            let mut answers = until(deadline, read).await.map_err(failed)?;
            let mut seen = 0;
            while let Some(event) = next(&mut answers, deadline).await.map_err(failed)? {
                seen += 1;
                let revision = Revision(event.revision);
                from = revision.next();
                let Some(RecordedEvent { position, event, .. }) = stored::decode(event, open.log)? else {
                    others = Some(revision);
                    continue;
                };
                if events[positions.len()].id != event.id {
                    return Ok(Behind::Else);
                }
                first.get_or_insert(revision);
                positions.push(position);
                if let Some(first) = first.filter(|_| positions.len() == events.len()) {
                    return Ok(Behind::Same(Appended { first, positions }));
                }
            }
            if seen < count {
                return Ok(others.filter(|_| first.is_none()).map_or(Behind::Else, Behind::Others));
            }
        }
    }
}

/// What an error says to appends behind it that were not begun, if it is theirs too.
fn not_begun(error: &StoreError) -> Option<StoreError> {
    match error {
        StoreError::Busy | StoreError::Full { .. } | StoreError::Unavailable { .. } => Some(error.clone()),
        StoreError::OutcomeUnknown { what, source } => Some(StoreError::Unavailable { what, source: source.clone() }),
        StoreError::Conflict | StoreError::Corrupt { .. } | StoreError::Foreign { .. } => None,
    }
}

/// An error that leaves the outcome unknown where it may have been stored before.
fn unsettled(doubt: Option<String>, error: StoreError) -> StoreError {
    match doubt {
        Some(why) => unknown(format!("{}, after {why}", error.chain())),
        None => error,
    }
}

pub(super) fn unknown(why: impl Into<String>) -> StoreError {
    StoreError::OutcomeUnknown { what: WHAT, source: Some(Arc::new(Why(why.into()))) }
}
