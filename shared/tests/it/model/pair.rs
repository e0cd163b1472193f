//! The embedded store and its model, treated alike.

use std::path::Path;

use shared::adapters::embedded::Embedded;
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::domain::answer::{Answer as Row, Key};
use shared::domain::outcome::Kept;
use shared::domain::projection::project as project_event;
use shared::domain::stream::{ExpectedRevision, Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::ports::{
    AnswersPage, AnswersQuery, Checkpoint, Direction, EventFeed, EventStore, Generation, Outcomes, ViewReader,
    ViewWriter,
};
use tempfile::TempDir;

use super::child::{Answer, Event, Order, claim_key, claimed_at};
use super::steps::{At, CLAIMS, Events, KEYS, Step, Write};
use crate::support::{self, resume};

/// What a log and its claims hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    log: Vec<RecordedEvent>,
    kept: Vec<Option<Kept>>,
}

pub(crate) struct Pair {
    folder: TempDir,
    /// None while another process has the folder.
    store: Option<Embedded>,
    events: MemoryEvents,
    views: MemoryViews,
    /// How far the feeds were followed.
    followed: Checkpoint,
    next_id: u128,
}

fn stream(key: usize) -> StreamId {
    StreamId::of_answer(&Key::from_stored(KEYS[key]))
}

/// Folds a log into views up to a position.
pub(crate) async fn project(feed: &impl EventFeed, views: &(impl ViewReader + ViewWriter), to: Position) {
    let mut at = resume(views).await;
    let mut subscription = feed.subscribe(at).await.expect("subscribed");
    while !at.has_reached(to) {
        let left = usize::try_from(to.0 - at.position().0).expect("small");
        let batch = subscription.next(left.min(7)).await.expect("events");
        let changes = batch.events.iter().map(|event| project_event(event).expect("readable")).collect();
        views.apply(Generation::Live, at, changes, batch.checkpoint).await.expect("applied");
        at = batch.checkpoint;
    }
    views.reached(to).await.expect("reached");
}

/// A whole log, of which the last position is known.
async fn log(feed: &impl EventFeed, after: Checkpoint, most: usize) -> Vec<RecordedEvent> {
    let head = feed.head().await.expect("a head");
    let mut subscription = feed.subscribe(after).await.expect("subscribed");
    let (mut events, mut at) = (Vec::new(), after);
    while !at.has_reached(head) && events.len() < most {
        let batch = subscription.next(most - events.len()).await.expect("events");
        events.extend(batch.events);
        at = batch.checkpoint;
    }
    events
}

async fn state<S: EventFeed + Outcomes>(store: &S) -> State {
    let mut kept = Vec::new();
    for claim in 0..CLAIMS {
        kept.push(store.find(&claim_key(claim), claimed_at()).await.expect("found"));
    }
    State { log: log(store, Checkpoint::START, usize::MAX).await, kept }
}

/// A stream read in pages, whose sizes an adapter may choose.
async fn read(
    store: &impl EventStore,
    stream: &StreamId,
    from: u64,
    direction: Direction,
    limit: usize,
) -> Vec<RecordedEvent> {
    let (mut events, mut next) = (Vec::new(), Some(Revision(from)));
    while let Some(from) = next.filter(|_| events.len() < limit) {
        let page = store.read(stream, from, direction, limit - events.len()).await.expect("read");
        let last = page.last().map(|last: &RecordedEvent| last.revision);
        next = last.and_then(|last| match direction {
            Direction::Forwards => Some(last.next()),
            Direction::Backwards => last.0.checked_sub(1).map(Revision),
        });
        events.extend(page);
    }
    events
}

async fn list(views: &impl ViewReader, query: AnswersQuery) -> (AnswersPage, Position) {
    let seen = views.answers(query).await.expect("listed");
    (seen.found, seen.position)
}

async fn row(views: &impl ViewReader, key: &str) -> Option<Row> {
    views.answer(&Key::from_stored(key)).await.expect("read").found
}

impl Pair {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Some(support::open(folder.path()));
        let (events, views) = (MemoryEvents::new(support::TTL), MemoryViews::new());
        Self { folder, store, events, views, followed: Checkpoint::START, next_id: 1 }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn store(&self) -> &Embedded {
        self.store.as_ref().expect("it is open")
    }

    pub(crate) fn close(&mut self) {
        if let Some(store) = self.store.take() {
            support::close(store);
        }
    }

    pub(crate) fn open(&mut self) {
        let store = support::open(self.folder.path());
        assert_eq!(store.rebuilding, None, "the views are sound");
        self.store = Some(store);
    }

    pub(crate) async fn take(&mut self, step: Step) {
        match step {
            Step::Write(write) => {
                let (order, expected) = self.order(write).await;
                let answer = order.carry_out(&self.store().events).await;
                assert_eq!(answer, expected, "the answer to {order:?}");
            }
            Step::Read(key, from, back, limit) => {
                let (stream, direction) = (stream(key), if back { Direction::Backwards } else { Direction::Forwards });
                let embedded = read(&self.store().events, &stream, from, direction, limit).await;
                assert_eq!(embedded, read(&self.events, &stream, from, direction, limit).await, "{step:?}");
                let last = self.store().events.last(&stream).await.expect("read");
                assert_eq!(last, self.events.last(&stream).await.expect("read"), "the last of {stream}");
            }
            Step::Find(claim) => {
                for now in [claimed_at(), Timestamp::from_micros(i64::MAX)] {
                    let key = claim_key(claim);
                    let kept = self.store().events.find(&key, now).await.expect("found");
                    assert_eq!(kept, self.events.find(&key, now).await.expect("found"), "claim {claim} at {now}");
                }
            }
            Step::Follow(most) => {
                let embedded = log(&self.store().events, self.followed, most).await;
                assert_eq!(embedded, log(&self.events, self.followed, most).await, "what follows {:?}", self.followed);
                self.followed = embedded.last().map_or(self.followed, |last| Checkpoint::at(last.position));
            }
            Step::Project(most) => self.project(most).await,
            Step::List(prefix, after, limit) => {
                let query = AnswersQuery { prefix: prefix.into(), after: after.map(Into::into), limit };
                let embedded = list(&self.store().views, query.clone()).await;
                assert_eq!(embedded, list(&self.views, query).await, "{step:?}");
            }
            Step::Agree => self.agree().await,
            Step::Reopen => {
                self.close();
                self.open();
            }
        }
    }

    async fn project(&mut self, most: usize) {
        let at = resume(&self.views).await.position();
        let head = self.events.head().await.expect("a head");
        let to = head.min(Position(at.0.saturating_add(most as u64)));
        project(&self.store().events, &self.store().views, to).await;
        project(&self.events, &self.views, to).await;
    }

    /// What a write comes down to on the streams as they are.
    pub(crate) async fn plan(&mut self, write: Write) -> Order {
        match write {
            Write::Append(key, at, events) => {
                let expected = self.expected(key, at).await;
                let events = match events {
                    Events::New(count, bytes) => (0..count).map(|_| self.event(bytes)).collect(),
                    Events::Again(known, new) => {
                        let first = expected.first_new().0;
                        let stored = read(&self.events, &stream(key), first, Direction::Forwards, known).await;
                        let stored = stored.iter().map(|event| Event { id: event.event.id.as_u128(), bytes: 1 });
                        let new = if stored.len() == 0 { new.max(1) } else { new };
                        stored.chain((0..new).map(|_| self.event(10))).collect()
                    }
                };
                Order::Append { key: KEYS[key].into(), after: after(expected), events }
            }
            Write::Claim(claim, key, at) => {
                let after = after(self.expected(key, at).await);
                let event = self.event(20);
                let fingerprint = self.fingerprint();
                Order::Claim { claim, fingerprint, key: KEYS[key].into(), after, event }
            }
            Write::Refuse(claim) => Order::Refuse { claim, fingerprint: self.fingerprint() },
            Write::Project => Order::Project,
        }
    }

    /// Plans a write and carries it out on the model.
    pub(crate) async fn order(&mut self, write: Write) -> (Order, Answer) {
        let order = self.plan(write).await;
        let answer = self.carry_out(&order).await;
        (order, answer)
    }

    /// Carries out an order on the model.
    pub(crate) async fn carry_out(&self, order: &Order) -> Answer {
        if let Order::Project = order {
            project(&self.events, &self.views, self.events.head().await.expect("a head")).await;
        }
        order.carry_out(&self.events).await
    }

    fn event(&mut self, bytes: usize) -> Event {
        self.next_id += 1;
        Event { id: self.next_id, bytes }
    }

    /// Another for each request, about.
    fn fingerprint(&mut self) -> u8 {
        self.next_id += 1;
        u8::try_from(self.next_id % 256).expect("small")
    }

    async fn expected(&self, key: usize, at: At) -> ExpectedRevision {
        let last = self.events.last(&stream(key)).await.expect("read").map(|last| last.revision);
        match (at, last) {
            (At::NoStream, _) | (At::End | At::Below(_), None) => ExpectedRevision::NoStream,
            (At::End, Some(last)) => ExpectedRevision::Exact(last),
            (At::Below(by), Some(last)) => ExpectedRevision::from(last.0.checked_sub(by).map(Revision)),
            (At::Above(by), last) => ExpectedRevision::Exact(Revision(last.map_or(by, |last| last.0 + by))),
        }
    }

    pub(crate) async fn model_state(&self) -> State {
        state(&self.events).await
    }

    pub(crate) async fn embedded_state(&self) -> State {
        state(&self.store().events).await
    }

    /// Everything that can be seen of the two is the same.
    pub(crate) async fn agree(&self) {
        let store = self.store();
        assert_eq!(self.embedded_state().await, self.model_state().await, "the logs and what is kept");
        for (at, key) in KEYS.iter().enumerate() {
            let stream = stream(at);
            let model = read(&self.events, &stream, 0, Direction::Forwards, usize::MAX).await;
            assert_eq!(read(&store.events, &stream, 0, Direction::Forwards, usize::MAX).await, model, "{stream}");
            assert_eq!(store.events.last(&stream).await.expect("read").as_ref(), model.last(), "the last of {stream}");
            assert_eq!(row(&store.views, key).await, row(&self.views, key).await, "the answer of {key}");
        }
        let all = AnswersQuery { prefix: String::new(), after: None, limit: 1_000 };
        assert_eq!(list(&store.views, all.clone()).await, list(&self.views, all).await, "the answers");
        let checkpoint = resume(&self.views).await;
        assert_eq!(resume(&store.views).await, checkpoint, "the checkpoints");
    }
}

fn after(expected: ExpectedRevision) -> Option<u64> {
    match expected {
        ExpectedRevision::NoStream => None,
        ExpectedRevision::Exact(revision) => Some(revision.0),
    }
}
