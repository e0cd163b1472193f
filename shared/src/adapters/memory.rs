//! Everything in memory, for `-memdb` and as the model that other adapters are
//! held to. Nothing survives the process.

mod log;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::progress::Progress;
use crate::clock;
use crate::domain::answer::{Answer, Key};
use crate::domain::filter::Filter;
use crate::domain::log_event::{Rejection, Session};
use crate::domain::outcome::{Happened, IdempotencyKey, Kept, Outcome};
use crate::domain::projection::{AnswerChange, Change, Changes, EventChange, LogChange, Parked};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{
    AnswersPage, AnswersQuery, Append, Appended, Batch, Checkpoint, Claim, ClaimedAppend, Direction, EventFeed,
    EventRef, EventStore, EventsPage, EventsQuery, Generation, ListQuery, LogId, LogReader, Outcomes, Page,
    ParkedQuery, RebuildState, Record, Replayed, Seen, StatsQuery, StatsRow, StoreError, Subscription, ViewOperator,
    ViewReader, ViewWriter, done,
};

/// The log in memory.
#[derive(Clone)]
pub struct MemoryEvents(Arc<Shared>);

struct Shared {
    id: LogId,
    state: Mutex<State>,
    head: Progress,
    /// How long an outcome is kept, in microseconds.
    ttl_micros: i64,
}

#[derive(Default)]
struct State {
    log: Vec<RecordedEvent>,
    /// Of each stream, where its events stand in `log`.
    streams: HashMap<StreamId, Vec<usize>>,
    outcomes: HashMap<IdempotencyKey, (Timestamp, Kept)>,
}

impl MemoryEvents {
    /// An empty log that keeps outcomes for `ttl`.
    pub fn new(ttl: std::time::Duration) -> Self {
        Self(Arc::new(Shared {
            id: LogId(Uuid::new_v4()),
            state: Mutex::default(),
            head: Progress::new(0),
            ttl_micros: i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX),
        }))
    }

    fn find_kept(&self, state: &State, key: &IdempotencyKey, now: Timestamp) -> Option<Kept> {
        let (at, kept) = state.outcomes.get(key)?;
        (now.micros().saturating_sub(at.micros()) <= self.0.ttl_micros).then_some(*kept)
    }
}

impl State {
    fn of_stream(&self, stream: &StreamId) -> &[usize] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    fn append(
        &mut self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let first = expected.first_new();
        let places = self.of_stream(stream);
        let stored = places.get(usize::try_from(first.0).unwrap_or(usize::MAX)..).ok_or(StoreError::Conflict)?;
        if !stored.is_empty() {
            let again = stored.iter().map(|place| &self.log[*place]).take(events.len()).collect::<Vec<_>>();
            let same = again.len() == events.len() && again.iter().zip(&events).all(|(a, b)| a.event.id == b.id);
            let positions = again.iter().map(|recorded| recorded.position).collect();
            return if same { Ok(Appended { first, positions }) } else { Err(StoreError::Conflict) };
        }
        let mut positions = Vec::with_capacity(events.len());
        for (event, revision) in events.into_iter().zip(first.0..) {
            let position = Position(self.log.len() as u64 + 1);
            self.streams.entry(stream.clone()).or_default().push(self.log.len());
            self.log.push(RecordedEvent { position, stream: stream.clone(), revision: Revision(revision), event });
            positions.push(position);
        }
        Ok(Appended { first, positions })
    }
}

/// The first of the events that together stay within a page; at least one.
fn page(events: impl Iterator<Item = RecordedEvent>) -> Vec<RecordedEvent> {
    let mut bytes = 0;
    let within = |event: &RecordedEvent| {
        let first = bytes == 0;
        bytes += event.event.data.len();
        first || bytes <= super::EVENTS_BYTES
    };
    events.take_while(within).collect()
}

#[async_trait]
impl EventStore for MemoryEvents {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let mut state = self.0.state.lock();
        let appended = state.append(stream, expected, events)?;
        self.0.head.advance(state.log.len() as u64);
        Ok(appended)
    }

    async fn append_each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let mut state = self.0.state.lock();
        let mut append = |Append { stream, expected, events }: Append| state.append(&stream, expected, events);
        let appended = appends.into_iter().map(&mut append).collect();
        self.0.head.advance(state.log.len() as u64);
        appended
    }

    async fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let state = self.0.state.lock();
        let places = state.of_stream(stream);
        let from = usize::try_from(from.0).unwrap_or(usize::MAX);
        let event = |place: &usize| state.log[*place].clone();
        Ok(match direction {
            Direction::Forwards => page(places.iter().skip(from).take(limit).map(event)),
            Direction::Backwards => {
                let end = from.saturating_add(1).min(places.len());
                page(places[..end].iter().rev().take(limit).map(event))
            }
        })
    }

    async fn last(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, StoreError> {
        let state = self.0.state.lock();
        Ok(state.of_stream(stream).last().map(|place| state.log[*place].clone()))
    }

    async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        let state = self.0.state.lock();
        let place = usize::try_from(position.0).ok().and_then(|position| position.checked_sub(1));
        Ok(place.and_then(|place| state.log.get(place).cloned()))
    }
}

#[async_trait]
impl Outcomes for MemoryEvents {
    async fn find(&self, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Kept>, StoreError> {
        Ok(self.find_kept(&self.0.state.lock(), key, now))
    }

    async fn append(
        &self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
    ) -> Result<ClaimedAppend, StoreError> {
        let mut state = self.0.state.lock();
        if let Some(kept) = self.find_kept(&state, &claim.key, claim.at) {
            return Ok(ClaimedAppend::Taken(kept));
        }
        let appended = state.append(stream, expected, vec![event])?;
        let kept = Kept { fingerprint: claim.fingerprint, outcome: done(kind, &appended) };
        state.outcomes.insert(claim.key.clone(), (claim.at, kept));
        self.0.head.advance(state.log.len() as u64);
        Ok(ClaimedAppend::Appended(appended))
    }

    async fn keep(&self, claim: &Claim, outcome: Outcome) -> Result<Kept, StoreError> {
        let mut state = self.0.state.lock();
        if let Some(kept) = self.find_kept(&state, &claim.key, claim.at) {
            return Ok(kept);
        }
        let kept = Kept { fingerprint: claim.fingerprint, outcome };
        state.outcomes.insert(claim.key.clone(), (claim.at, kept));
        Ok(kept)
    }
}

#[async_trait]
impl EventFeed for MemoryEvents {
    async fn log_id(&self) -> Result<LogId, StoreError> {
        Ok(self.0.id)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        Ok(Position(self.0.head.get()))
    }

    async fn end(&self) -> Result<Position, StoreError> {
        self.head().await
    }

    async fn subscribe(&self, after: Checkpoint) -> Result<Box<dyn Subscription>, StoreError> {
        Ok(Box::new(MemorySubscription { events: self.clone(), head: self.0.head.watch(), at: after.position() }))
    }
}

struct MemorySubscription {
    events: MemoryEvents,
    head: watch::Receiver<u64>,
    at: Position,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self, limit: usize) -> Result<Batch, StoreError> {
        let at = self.at.0;
        // The sender lives as long as the log that self holds.
        let _ = self.head.wait_for(|head| *head > at).await;
        let state = self.events.0.state.lock();
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let events = page(state.log.iter().skip(start).take(limit).cloned());
        self.at = events.last().map_or(self.at, |event| event.position);
        Ok(Batch { events, checkpoint: Checkpoint::at(self.at) })
    }
}

/// The read store in memory.
pub struct MemoryViews {
    state: RwLock<Views>,
    reached: Progress,
    asked: Notify,
}

#[derive(Default)]
struct Views {
    live: Rows,
    /// Those that are built beside them.
    next: Option<Rows>,
    rebuild: RebuildState,
}

#[derive(Default)]
struct Rows {
    answers: BTreeMap<Key, Answer>,
    log: log::LogRows,
    checkpoint: Checkpoint,
    /// Of the newest change of a row.
    newest: Position,
    parked: BTreeMap<StreamId, Parked>,
}

impl Rows {
    fn apply(&mut self, from: Checkpoint, changes: Changes, to: Checkpoint) -> Result<(), StoreError> {
        let seen = self.checkpoint;
        if seen != from {
            return Err(StoreError::Conflict);
        }
        let answers = changes.answers.iter().map(|change| change.position);
        let newest = answers.chain(changes.log.iter().map(LogChange::position)).max();
        self.newest = self.newest.max(newest.unwrap_or_default());
        changes.answers.into_iter().filter(|new| !seen.has_reached(new.position)).for_each(|change| self.put(change));
        let unseen = changes.log.into_iter().filter(|new| !seen.has_reached(new.position()));
        unseen.for_each(|change| self.log.apply(change));
        self.parked.extend(changes.parked.into_iter().map(|parked| (parked.stream.clone(), parked)));
        self.checkpoint = seen.max(to);
        Ok(())
    }

    fn put(&mut self, AnswerChange { key, value, revision, .. }: AnswerChange) {
        match value {
            Some(value) => self.answers.insert(key.clone(), Answer { key, value, revision }),
            None => self.answers.remove(&key),
        };
    }

    fn replayed(&mut self, at: Checkpoint, Replayed { was, change, still }: Replayed) -> Result<(), StoreError> {
        if self.checkpoint != at || !self.parked.contains_key(&was.stream) {
            return Err(StoreError::Conflict);
        }
        match change {
            Some(Change::Answer(change)) => self.put(change),
            Some(Change::Log(change)) => self.log.apply(change),
            None => {}
        }
        match still {
            Some(still) => self.parked.insert(was.stream, still),
            None => self.parked.remove(&was.stream),
        };
        Ok(())
    }
}

impl Default for MemoryViews {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryViews {
    /// Empty views.
    pub fn new() -> Self {
        Self { state: RwLock::default(), reached: Progress::new(0), asked: Notify::new() }
    }

    /// What is in the rows of the event log, and up to where.
    fn look<T>(&self, at: impl FnOnce(&log::LogRows) -> T) -> Seen<T> {
        let rows = &self.state.read().live;
        Seen { found: at(&rows.log), position: rows.checkpoint.position() }
    }
}

#[async_trait]
impl ViewReader for MemoryViews {
    async fn answer(&self, key: &Key) -> Result<Seen<Option<Answer>>, StoreError> {
        let rows = &self.state.read().live;
        Ok(Seen { found: rows.answers.get(key).cloned(), position: rows.checkpoint.position() })
    }

    async fn answers(&self, query: AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        let rows = &self.state.read().live;
        let after = query.after.as_deref().filter(|after| *after >= query.prefix.as_str());
        let start = after.map_or(Bound::Included(query.prefix.as_str()), Bound::Excluded);
        let found = rows
            .answers
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(&query.prefix))
            .map(|(_, answer)| answer.clone());
        let answers: Vec<_> = super::within_bytes(found.take(query.limit)).collect();
        let more = answers.last().is_some_and(|last| {
            rows.answers
                .range::<str, _>((Bound::Excluded(last.key.as_str()), Bound::Unbounded))
                .next()
                .is_some_and(|(key, _)| key.as_str().starts_with(&query.prefix))
        });
        Ok(Seen { found: AnswersPage { answers, more }, position: rows.checkpoint.position() })
    }

    async fn reached(&self, position: Position) -> Result<(), StoreError> {
        self.reached.reached(position.0).await;
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        Ok(self.state.read().live.checkpoint)
    }

    async fn parked(&self) -> Result<u64, StoreError> {
        Ok(self.state.read().live.parked.len() as u64)
    }

    async fn parked_stream(&self, stream: &StreamId) -> Result<Option<Parked>, StoreError> {
        Ok(self.state.read().live.parked.get(stream).cloned())
    }
}

#[async_trait]
impl LogReader for MemoryViews {
    async fn event(&self, which: EventRef) -> Result<Seen<Option<Record>>, StoreError> {
        Ok(self.look(|rows| rows.event(which)))
    }

    async fn events(&self, query: EventsQuery) -> Result<Seen<EventsPage>, StoreError> {
        Ok(self.look(|rows| rows.events(&query)))
    }

    async fn count(&self, filter: &Filter) -> Result<Seen<u64>, StoreError> {
        Ok(self.look(|rows| rows.count(filter)))
    }

    async fn stats(&self, query: StatsQuery) -> Result<Seen<Option<Vec<StatsRow>>>, StoreError> {
        Ok(self.look(|rows| rows.stats(&query)))
    }

    async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, StoreError> {
        Ok(self.look(|rows| rows.changes(after, limit)))
    }

    async fn session(&self, id: Uuid) -> Result<Seen<Option<Arc<Session>>>, StoreError> {
        Ok(self.look(|rows| rows.others.session(id)))
    }

    async fn sessions(&self, query: ListQuery) -> Result<Seen<Page<Arc<Session>>>, StoreError> {
        Ok(self.look(|rows| rows.others.sessions(query)))
    }

    async fn rejection(&self, number: u64) -> Result<Seen<Option<Arc<Rejection>>>, StoreError> {
        Ok(self.look(|rows| rows.others.rejection(number)))
    }

    async fn rejections(&self, query: ListQuery) -> Result<Seen<Page<Arc<Rejection>>>, StoreError> {
        Ok(self.look(|rows| rows.others.rejections(query)))
    }
}

#[async_trait]
impl ViewWriter for MemoryViews {
    async fn resume(&self, _log: LogId, _end: Position) -> Result<Checkpoint, StoreError> {
        Ok(self.state.read().live.checkpoint)
    }

    async fn apply(
        &self,
        generation: Generation,
        from: Checkpoint,
        changes: Changes,
        to: Checkpoint,
    ) -> Result<(), StoreError> {
        let mut state = self.state.write();
        match generation {
            Generation::Live => {
                state.live.apply(from, changes, to)?;
                self.reached.advance(state.live.checkpoint.position().0);
            }
            Generation::Next => state.next.as_mut().ok_or(StoreError::Conflict)?.apply(from, changes, to)?,
        }
        Ok(())
    }

    async fn interrupted(&self) {
        std::future::pending().await
    }

    async fn parked(&self, generation: Generation) -> Result<Vec<Parked>, StoreError> {
        let state = self.state.read();
        let rows = match generation {
            Generation::Live => Some(&state.live),
            Generation::Next => state.next.as_ref(),
        };
        Ok(rows.into_iter().flat_map(|rows| rows.parked.values().cloned()).collect())
    }

    async fn replayed(&self, at: Checkpoint, replayed: Replayed) -> Result<(), StoreError> {
        let mut state = self.state.write();
        let stream = replayed.was.stream.clone();
        state.live.replayed(at, replayed)?;
        // What mends the live views must not be undone by a swap.
        state.next.take_if(|next| next.parked.contains_key(&stream));
        Ok(())
    }

    async fn asked(&self) {
        self.asked.notified().await;
    }

    async fn rebuild(&self, head: Position) -> Result<Option<Checkpoint>, StoreError> {
        let mut state = self.state.write();
        if !state.rebuild.is_running {
            return Ok(None);
        }
        state.rebuild.total = head;
        Ok(Some(state.next.get_or_insert_default().checkpoint))
    }

    async fn swap(&self, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let built = state.next.as_ref().map(|rows| rows.checkpoint);
        if state.live.checkpoint != live || built != Some(next) {
            return Err(StoreError::Conflict);
        }
        if !next.has_reached(state.live.newest) {
            return Ok(false);
        }
        let mut rows = state.next.take().unwrap_or_default();
        rows.checkpoint = live.max(next);
        for asked in state.live.parked.values().filter(|parked| parked.replay) {
            rows.parked.entry(asked.stream.clone()).and_modify(|parked| parked.replay = true);
        }
        let at = rows.checkpoint.position();
        state.live = rows;
        let total = state.rebuild.total.max(at);
        let (done, finished_at) = (total, Some(clock::now()));
        state.rebuild = RebuildState { is_running: false, done, total, finished_at, ..state.rebuild };
        self.reached.advance(at.0);
        Ok(true)
    }
}

#[async_trait]
impl ViewOperator for MemoryViews {
    async fn parked_streams(&self, query: ParkedQuery) -> Result<Page<Parked>, StoreError> {
        let state = self.state.read();
        let start = query.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = state.live.parked.range((start, Bound::Unbounded)).map(|(_, parked)| parked.clone());
        let found = behind.by_ref().take(query.limit).collect();
        Ok(Page { found, more: behind.next().is_some() })
    }

    async fn ask_replay(&self, stream: Option<&StreamId>) -> Result<u64, StoreError> {
        let mut state = self.state.write();
        let meant =
            state.live.parked.values_mut().filter(|parked| stream.is_none_or(|stream| parked.stream == *stream));
        let count = meant.map(|parked| parked.replay = true).count();
        self.asked.notify_one();
        Ok(count as u64)
    }

    async fn ask_rebuild(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if state.rebuild.is_running {
            return Err(StoreError::Conflict);
        }
        let (is_running, started_at) = (true, Some(now));
        state.rebuild = RebuildState { is_running, started_at, ..RebuildState::default() };
        self.asked.notify_one();
        Ok(())
    }

    async fn rebuild_state(&self) -> Result<RebuildState, StoreError> {
        let state = self.state.read();
        let mut rebuild = state.rebuild;
        if rebuild.is_running {
            rebuild.done = state.next.as_ref().map_or(Position::START, |rows| rows.checkpoint.position());
            rebuild.total = rebuild.total.max(rebuild.done).max(state.live.checkpoint.position());
        }
        Ok(rebuild)
    }
}
