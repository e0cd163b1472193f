//! What the services need of the outside. An adapter MUST keep every promise
//! here; `conformance` holds them to it. A promise that EventStoreDB could not
//! keep has no place here: an append is one stream, one expected revision and
//! its events, and nothing is atomic across streams.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::answer::{Answer, Key};
use crate::domain::filter::{Field, Filter};
use crate::domain::log_event::{LogEvent, Rejection, Session};
use crate::domain::outcome::{Fingerprint, Happened, IdempotencyKey, Kept, Outcome};
use crate::domain::projection::{Change, Changes, EventChange, Parked};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;

/// What lies behind a failure, for the log and never for a client.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// A store that does not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The stream ends elsewhere than expected; nothing was appended.
    #[error("the stream does not end at the expected revision")]
    Conflict,
    /// More is waiting than the store takes; nothing was done.
    #[error("too much is waiting to be written")]
    Busy,
    /// There is too little room to write; nothing was done.
    #[error("less than {reserve_mb} MB of disk space is free")]
    Full { reserve_mb: u64 },
    /// The store does not answer; nothing was done.
    #[error("{what} does not answer")]
    Unavailable { what: &'static str, source: Option<Source> },
    /// The store failed in mid-append: the events may or may not be stored.
    /// Appending the same events at the same revision again settles it.
    #[error("{what} failed while it was writing")]
    OutcomeUnknown { what: &'static str, source: Option<Source> },
    /// What is stored cannot be read.
    #[error("{what} cannot be read")]
    Corrupt { what: String, source: Option<Source> },
    /// The views are not those of this log, or know more than it holds. Nothing was
    /// written, and nothing is until an operator has put it right.
    #[error("{why}")]
    Foreign { why: String },
}

impl StoreError {
    /// A store that does not answer, and why.
    pub fn unavailable(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { what, source: Some(Arc::new(source)) }
    }

    /// Something stored that cannot be read, and why.
    pub fn corrupt(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Corrupt { what: what.into(), source: Some(Arc::new(source)) }
    }

    /// The error and all that lies behind it, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self).or_else(|| self.behind());
        while let Some(error) = next {
            text = format!("{text}: {error}");
            next = error.source();
        }
        text
    }

    fn behind(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable { source, .. } | Self::OutcomeUnknown { source, .. } | Self::Corrupt { source, .. } => {
                source.as_deref().map(|source| source as _)
            }
            Self::Conflict | Self::Busy | Self::Full { .. } | Self::Foreign { .. } => None,
        }
    }
}

/// Which way a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forwards,
    Backwards,
}

/// What an append came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Of the first event of the append.
    pub first: Revision,
    /// Of each event, in order.
    pub positions: Vec<Position>,
}

/// Events to append to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub stream: StreamId,
    pub expected: ExpectedRevision,
    pub events: Vec<NewEvent>,
}

/// Streams of events: append and read.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Appends events to one stream, all or none, right behind `expected`. (Events of
    /// other applications in a stream count for nothing, but their revisions are
    /// taken: `Appended` says which ones these got.)
    ///
    /// It returns only when the events are durable, and no reader or subscriber
    /// sees them before that. The same events, by their ids, appended again at
    /// the same expected revision give the same result and append nothing.
    /// `events` is never empty.
    ///
    /// # Errors
    /// `Conflict` if the stream ends elsewhere and holds other events there;
    /// `OutcomeUnknown` if it may have been stored; any other: nothing was stored.
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError>;

    /// Up to `limit` events of a stream, from `from` (inclusive) on, in order of
    /// the direction. Backwards, a `from` beyond the end means the end. There may
    /// be fewer than `limit` before the end (pages are bounded in bytes too), but
    /// none only where nothing is left; a stream without events has none. `limit` is
    /// at least 1.
    ///
    /// # Errors
    /// `Corrupt` if an event in the range cannot be read.
    async fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The last event of a stream.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read.
    async fn last(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, StoreError>;

    /// The event of ours that is recorded exactly at this position; none if there is
    /// none, also where the position is another application's, between two events or
    /// beyond the end. It costs one look, not a scan.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read; `Unavailable` if the store does not answer, never
    /// for a position that holds nothing.
    async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError>;

    /// Appends to streams, no two to the same one, each append by itself: some may be
    /// stored and others not. The outcomes are in the order of the appends. Stores that write what
    /// comes together in one go do so.
    async fn append_each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let appends = appends
            .into_iter()
            .map(|Append { stream, expected, events }| async move { self.append(&stream, expected, events).await });
        futures::future::join_all(appends).await
    }
}

/// An append under an `Idempotency-Key`: appended now, or already taken.
#[derive(Clone, Debug)]
pub enum ClaimedAppend {
    Appended(Appended),
    Taken(Kept),
}

/// The claim of a request on its `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Claim {
    pub key: IdempotencyKey,
    pub fingerprint: Fingerprint,
    /// When it was made: kept for the store's time to live from then on.
    pub at: Timestamp,
}

/// Outcomes of commands that were sent with an `Idempotency-Key`.
///
/// What it answers is durable. Of racing claims on one key exactly one stands;
/// the others are told its outcome.
#[async_trait]
pub trait Outcomes: Send + Sync {
    /// What is kept under a key and not older than the time to live. A claim that
    /// was left open by a crash is settled first.
    async fn find(&self, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Kept>, StoreError>;

    /// Appends one event and keeps its outcome, so that a crash leaves both or a
    /// claim that `find` settles. `expected` is a revision that has been read or
    /// acknowledged.
    ///
    /// # Errors
    /// As `EventStore::append`. After a `Conflict` the claim is free again.
    async fn append(
        &self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
    ) -> Result<ClaimedAppend, StoreError>;

    /// Keeps an outcome that appends nothing: a refusal, or the beginning of a request
    /// that causes many events. Answers with the outcome that stands.
    async fn keep(&self, claim: &Claim, outcome: Outcome) -> Result<Kept, StoreError>;
}

/// How far a reader of the log has come. (c, p) as EventStoreDB gives them: it
/// has reached every position below c, and c itself if p is c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint {
    pub commit: u64,
    pub prepare: u64,
}

impl Checkpoint {
    /// Before the first event.
    pub const START: Self = Self { commit: 0, prepare: 0 };

    /// Right behind the event at this position.
    pub fn at(position: Position) -> Self {
        Self { commit: position.0, prepare: position.0 }
    }

    /// The largest position that it has reached.
    pub fn position(self) -> Position {
        if self.prepare == self.commit { Position(self.commit) } else { Position(self.commit.saturating_sub(1)) }
    }

    /// Whether the event at this position, if there is one, has been seen.
    pub fn has_reached(self, position: Position) -> bool {
        self.position() >= position
    }
}

/// What makes a log this log and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogId(pub Uuid);

/// Events in the order of the log, and how far they lead.
#[derive(Clone, Debug)]
pub struct Batch {
    pub events: Vec<RecordedEvent>,
    pub checkpoint: Checkpoint,
}

/// The whole log, in order.
#[async_trait]
pub trait EventFeed: Send + Sync {
    /// Which log this is; the same for its whole life.
    async fn log_id(&self) -> Result<LogId, StoreError>;

    /// The position of the last event of ours.
    async fn head(&self) -> Result<Position, StoreError>;

    /// The position of the last event, whoever's it is: no checkpoint of this log lies
    /// beyond it.
    async fn end(&self) -> Result<Position, StoreError>;

    /// Follows the log from behind `after`.
    async fn subscribe(&self, after: Checkpoint) -> Result<Box<dyn Subscription>, StoreError>;
}

/// A place in the log that moves forward.
#[async_trait]
pub trait Subscription: Send {
    /// The next events, up to `limit`, in log order, none left out; waits until
    /// there is something to tell. Dropping the future loses nothing.
    ///
    /// # Errors
    /// After an error the subscription is over: begin a new one.
    async fn next(&mut self, limit: usize) -> Result<Batch, StoreError>;
}

/// What was found, and a position that keeps later reads from going back: a
/// reader that awaits it sees nothing older than this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    pub found: T,
    pub position: Position,
}

/// Which answers to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswersQuery {
    /// Keys that begin with this.
    pub prefix: String,
    /// Keys behind this one.
    pub after: Option<String>,
    /// At least 1.
    pub limit: usize,
}

/// Answers in the order of their keys' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswersPage {
    pub answers: Vec<Answer>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// The read store, read.
#[async_trait]
pub trait ViewReader: Send + Sync {
    /// The live answer of a key.
    async fn answer(&self, key: &Key) -> Result<Seen<Option<Answer>>, StoreError>;

    /// Live answers in key order, by UTF-8 bytes. A page may end before `limit`
    /// to stay within some megabytes; `more` says so.
    async fn answers(&self, query: AnswersQuery) -> Result<Seen<AnswersPage>, StoreError>;

    /// Returns once every change up to this position can be read.
    async fn reached(&self, position: Position) -> Result<(), StoreError>;

    /// How far the views are.
    async fn checkpoint(&self) -> Result<Checkpoint, StoreError>;

    /// How many streams are parked. It costs next to nothing while there is none.
    async fn parked(&self) -> Result<u64, StoreError>;

    /// Since when a stream is parked, if it is: as it was when the last `reached` of the
    /// caller returned, or later. It costs next to nothing while no stream is parked.
    async fn parked_stream(&self, stream: &StreamId) -> Result<Option<Parked>, StoreError>;
}

/// A log event of the read store.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub event: Arc<LogEvent>,
    /// Of the event behind it.
    pub revision: Revision,
    /// Of the event behind it.
    pub position: Position,
}

/// By what a log event is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventRef {
    Id(Uuid),
    /// The integer id of older clients.
    Number(u64),
}

/// The order of log events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub by: SortKey,
    pub descending: bool,
    pub ties: Ties,
}

impl Order {
    /// Where an event stands.
    pub fn place_of(self, event: &LogEvent) -> Place {
        let members = &event.members;
        let key = match self.by {
            SortKey::Timestamp => Sorted::Time(members.timestamp),
            SortKey::CreatedAt => Sorted::Time(event.created_at),
            SortKey::Name => Sorted::Text(members.name.clone()),
            SortKey::Category => Sorted::Text(members.category.clone()),
            SortKey::Number => Sorted::Number(event.number),
        };
        Place { key, id: event.id, number: event.number }
    }

    /// Which of two places comes first.
    pub fn compare(self, a: &Place, b: &Place) -> Ordering {
        self.ordered(a.key.cmp(&b.key), (a.id, a.number), (b.id, b.number))
    }

    /// Which of two events comes first.
    pub fn compare_events(self, a: &LogEvent, b: &LogEvent) -> Ordering {
        let keys = match self.by {
            SortKey::Timestamp => a.members.timestamp.cmp(&b.members.timestamp),
            SortKey::CreatedAt => a.created_at.cmp(&b.created_at),
            SortKey::Name => a.members.name.cmp(&b.members.name),
            SortKey::Category => a.members.category.cmp(&b.members.category),
            SortKey::Number => a.number.cmp(&b.number),
        };
        self.ordered(keys, (a.id, a.number), (b.id, b.number))
    }

    fn ordered(self, keys: Ordering, a: (Uuid, u64), b: (Uuid, u64)) -> Ordering {
        let turned = |ordering: Ordering| if self.descending { ordering.reverse() } else { ordering };
        let ties = match self.ties {
            Ties::Id => turned(a.0.cmp(&b.0)),
            Ties::Number => a.1.cmp(&b.1),
            Ties::NumberDescending => b.1.cmp(&a.1),
        };
        turned(keys).then(ties)
    }
}

/// What log events are sorted by; null is lowest, texts compare by their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortKey {
    Timestamp,
    CreatedAt,
    Name,
    Category,
    Number,
}

/// How log events are ordered that are sorted alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// By id, in the direction of the order.
    Id,
    /// By integer id, always ascending.
    Number,
    /// By integer id, always descending.
    NumberDescending,
}

/// A place in an order, behind an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub key: Sorted,
    /// That of the event; its integer id where ties are ordered by that.
    pub id: Uuid,
    pub number: u64,
}

/// The value of a sort key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sorted {
    Time(Timestamp),
    Text(Option<String>),
    Number(u64),
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Start,
    /// Costs the same however deep it is.
    Behind(Place),
    /// So many events on: for clients that count pages.
    Skip(u64),
}

/// Which log events to list.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsQuery {
    pub filter: Filter,
    pub order: Order,
    pub from: From,
    /// At least 1.
    pub limit: usize,
}

/// Log events in the order that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsPage {
    pub events: Vec<Record>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// What to count.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsQuery {
    pub filter: Filter,
    /// The length of a bucket, in microseconds; buckets start at its multiples since 1970.
    pub interval: i64,
    /// Any member but `data` and `ce`.
    pub by: Field,
    /// At least 1: with more rows than this the answer is `None`.
    pub limit: usize,
}

impl StatsQuery {
    /// The row that an event counts in: where its bucket starts, and its value.
    pub fn row_of(&self, event: &LogEvent) -> (Timestamp, Option<String>) {
        let bucket = event.members.timestamp.micros().div_euclid(self.interval);
        (Timestamp::from_micros(bucket.saturating_mul(self.interval)), self.by.text_of(event))
    }
}

/// How many events have a value in a time bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsRow {
    pub start: Timestamp,
    /// The member's text, a time's with six digits; none where it is missing.
    pub value: Option<String>,
    pub count: u64,
}

/// Which sessions or rejections to list, by when they were recorded, ties by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListQuery {
    pub descending: bool,
    pub behind: Option<(Timestamp, Uuid)>,
    /// At least 1.
    pub limit: usize,
}

/// Things in an order, and whether there are more behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub found: Vec<T>,
    pub more: bool,
}

/// The event log in the read store, read. Pages may end before their limit to stay
/// within some megabytes; `more` says so.
#[async_trait]
pub trait LogReader: Send + Sync {
    /// A log event that is not deleted.
    async fn event(&self, which: EventRef) -> Result<Seen<Option<Record>>, StoreError>;

    /// A page of log events.
    async fn events(&self, query: EventsQuery) -> Result<Seen<EventsPage>, StoreError>;

    /// How many log events there are.
    async fn count(&self, filter: &Filter) -> Result<Seen<u64>, StoreError>;

    /// How many there are in each time bucket with each value of a member, in that
    /// order, nulls first; none if there are more rows than the limit, or more than some
    /// megabytes of them.
    async fn stats(&self, query: StatsQuery) -> Result<Seen<Option<Vec<StatsRow>>>, StoreError>;

    /// The latest change of each log event whose latest change lies behind a position,
    /// in the order of these, deletions too. None lies beyond the position that is seen.
    async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, StoreError>;

    /// A session.
    async fn session(&self, id: Uuid) -> Result<Seen<Option<Arc<Session>>>, StoreError>;

    /// A page of sessions.
    async fn sessions(&self, query: ListQuery) -> Result<Seen<Page<Arc<Session>>>, StoreError>;

    /// A rejection, by its integer id.
    async fn rejection(&self, number: u64) -> Result<Seen<Option<Arc<Rejection>>>, StoreError>;

    /// A page of rejections.
    async fn rejections(&self, query: ListQuery) -> Result<Seen<Page<Arc<Rejection>>>, StoreError>;
}

/// Streams that may be parked at once. Where more events cannot be projected something
/// else is wrong than some events, and the projector stops at the next one.
pub const PARKED_MAX: usize = 10_000;

/// Which views are written: those that readers see, or those that are built beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    Live,
    Next,
}

/// What reading a parked stream again came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The entry that was carried out, as `ViewWriter::parked` gave it.
    pub was: Parked,
    /// What the last event that could be projected makes of the stream's row; none if
    /// that is still the first that cannot.
    pub change: Option<Change>,
    /// Where the stream is parked now; none: it is not any more.
    pub still: Option<Parked>,
}

/// The read store, written by one projector at a time.
///
/// There are two generations at most: the live one, which readers see, and while a
/// rebuild runs the next one beside it, with rows, a checkpoint and parked streams of its
/// own. All calls but `resume`, `interrupted` and `asked` may fail with `Conflict`, if it is no longer
/// this process's turn or the views are elsewhere than believed: resume.
#[async_trait]
pub trait ViewWriter: Send + Sync {
    /// How far the views of this log are: where to go on. Views that have no log yet
    /// become this one's. Where several processes may write the same views, it waits
    /// until it is this one's turn; dropping the future ends the wait.
    ///
    /// # Errors
    /// `Foreign` if the views are another log's, or are beyond `end`, the position of
    /// the log's last event. (Views that are opened together with their log have
    /// looked at that then.)
    async fn resume(&self, log: LogId, end: Position) -> Result<Checkpoint, StoreError>;

    /// Writes changes, in log order, and moves the checkpoint of a generation from one
    /// place to another. A crash leaves all of it or something that the same call
    /// repeated completes; streams are parked together with the checkpoint. Changes that
    /// the views have seen already change nothing: a late put cannot undo a removal.
    ///
    /// # Errors
    /// `Conflict` also if the checkpoint is not at `from`.
    async fn apply(
        &self,
        generation: Generation,
        from: Checkpoint,
        changes: Changes,
        to: Checkpoint,
    ) -> Result<(), StoreError>;

    /// Returns when the views were put back by something other than `apply`, or when
    /// it is another process's turn, so that the projector must resume; else never.
    async fn interrupted(&self);

    /// The streams that are parked in a generation; up to `PARKED_MAX`.
    async fn parked(&self, generation: Generation) -> Result<Vec<Parked>, StoreError>;

    /// Writes what reading a parked stream of the live views again came to; `at` is their
    /// checkpoint. The change is that of an event up to `at`, and the row takes it though
    /// the views have passed that place. A crash leaves the entry and its replay asked for
    /// until all of it is durable. A next generation that has parked the same stream is
    /// thrown away and begun anew: a swap must not take back what was mended.
    async fn replayed(&self, at: Checkpoint, replayed: Replayed) -> Result<(), StoreError>;

    /// Returns when a replay or a rebuild may have been asked for since it returned last;
    /// it may also return for nothing, about once a second.
    async fn asked(&self);

    /// Begins the next generation if a rebuild is asked for, or goes on with it, and
    /// gives its checkpoint; none if no rebuild is asked for, or while it has to wait for
    /// room. `head` is the position of
    /// the log's last event of ours, for the progress.
    async fn rebuild(&self, head: Position) -> Result<Option<Checkpoint>, StoreError>;

    /// Makes the next generation the live one, for all readers within a second; at these
    /// places of the two, between which the log holds no event of ours. It is `false`, and
    /// nothing has changed, if the next one has not passed every position that a row of the
    /// live one may have yet. Replays that are asked for are so afterwards, too. The live
    /// views are at the later of the two then: resume.
    async fn swap(&self, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError>;
}

/// How a rebuild goes. Positions tell how far: most logs do not know how many events
/// they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebuildState {
    /// One is asked for or under way.
    pub is_running: bool,
    /// How far the next generation is; of the last rebuild where it ended.
    pub done: Position,
    /// How far the log was when it was looked at last; never less than `done`.
    pub total: Position,
    /// When it was asked for.
    pub started_at: Option<Timestamp>,
    /// When the last one was done.
    pub finished_at: Option<Timestamp>,
}

/// Which parked streams to list, in the order of their names' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedQuery {
    pub after: Option<StreamId>,
    /// At least 1.
    pub limit: usize,
}

/// What an operator asks of the views. Requests are durable before they are answered, and
/// are carried out by whoever writes the views, wherever they were asked for.
#[async_trait]
pub trait ViewOperator: Send + Sync {
    /// Parked streams.
    async fn parked_streams(&self, query: ParkedQuery) -> Result<Page<Parked>, StoreError>;

    /// Asks that a parked stream, or each of them, is read again from where it is parked.
    /// Gives how many that are.
    async fn ask_replay(&self, stream: Option<&StreamId>) -> Result<u64, StoreError>;

    /// Asks that all views are built anew beside the live ones.
    ///
    /// # Errors
    /// `Conflict` while a rebuild is asked for or under way; `Unavailable` before anything
    /// was projected.
    async fn ask_rebuild(&self, now: Timestamp) -> Result<(), StoreError>;

    /// How the rebuild goes, or the last one went.
    async fn rebuild_state(&self) -> Result<RebuildState, StoreError>;
}

/// Whether a store can do its work.
#[async_trait]
pub trait Health: Send + Sync {
    /// # Errors
    /// What is wrong, for an operator: no paths and no secrets.
    async fn check(&self) -> Result<(), String>;
}

/// An outcome as it is kept for a claim that appended.
pub fn done(kind: Happened, appended: &Appended) -> Outcome {
    Outcome::Done(crate::domain::outcome::Receipt {
        event: kind,
        revision: appended.first,
        position: appended.positions.first().copied().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_below_its_commit_has_not_reached_it() {
        let between = Checkpoint { commit: 10, prepare: 0 };
        assert_eq!(between.position(), Position(9));
        assert!(between.has_reached(Position(9)));
        assert!(!between.has_reached(Position(10)));
        assert!(Checkpoint::at(Position(10)).has_reached(Position(10)));
        assert!(between < Checkpoint::at(Position(10)));
        assert_eq!(Checkpoint::START.position(), Position(0));
    }
}
