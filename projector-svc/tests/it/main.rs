//! The projector from outside: what it does when log or views are not there, views not
//! its own, or it is another's turn; with events that it cannot read, and beside views
//! that it builds anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod http;
mod parked;
mod rebuild;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use projector_svc::Projector;
use projector_svc::watch::Watch;
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::clock;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::projection::{Changes, Parked};
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::http::lifecycle::Lifecycle;
use shared::metrics::{Metrics, Part};
use shared::ports::{
    Appended, Batch, Checkpoint, Direction, EventFeed, EventStore, Generation, Health, LogId, Replayed, StoreError,
    Subscription, ViewReader, ViewWriter,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

/// How long anything may take that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tries until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The stream of an answer.
fn answer(key: &str) -> StreamId {
    StreamId::of_answer(&Key::parse(key).unwrap())
}

/// A log in memory of which some events are of a kind that is not known yet, and which
/// does not answer where that is asked for.
struct Log {
    events: MemoryEvents,
    bad: Mutex<HashSet<(StreamId, Revision)>>,
    outage: Mutex<Option<StoreError>>,
}

impl Log {
    fn new() -> Self {
        Self { events: MemoryEvents::new(PATIENCE), bad: Mutex::default(), outage: Mutex::default() }
    }

    /// The event at this place cannot be read, if need be once it is appended.
    fn poison(&self, key: &str, revision: u64) {
        self.bad.lock().insert((answer(key), Revision(revision)));
    }

    /// The event at this place can be read again, as if by a newer program.
    fn mend(&self, key: &str, revision: u64) {
        self.bad.lock().remove(&(answer(key), Revision(revision)));
    }

    fn mend_all(&self) {
        self.bad.lock().clear();
    }

    /// What every read fails with from now on.
    fn set(&self, outage: Option<StoreError>) {
        *self.outage.lock() = outage;
    }

    fn answers(&self) -> Result<(), StoreError> {
        self.outage.lock().clone().map_or(Ok(()), Err)
    }

    fn shown(&self, events: Vec<RecordedEvent>) -> Vec<RecordedEvent> {
        let bad = self.bad.lock();
        let show = |mut event: RecordedEvent| {
            if bad.contains(&(event.stream.clone(), event.revision)) {
                event.event.kind = "AnswerRenamedEvent".into();
            }
            event
        };
        events.into_iter().map(show).collect()
    }
}

#[async_trait]
impl EventStore for Log {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        EventStore::append(&self.events, stream, expected, events).await
    }

    async fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.answers()?;
        Ok(self.shown(self.events.read(stream, from, direction, limit).await?))
    }

    async fn last(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, StoreError> {
        self.events.last(stream).await
    }

    async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        self.events.at(position).await
    }
}

/// The log as the projector follows it.
#[derive(Clone)]
struct Feed(Arc<Log>);

#[async_trait]
impl EventFeed for Feed {
    async fn log_id(&self) -> Result<LogId, StoreError> {
        self.0.events.log_id().await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.0.answers()?;
        self.0.events.head().await
    }

    async fn end(&self) -> Result<Position, StoreError> {
        self.head().await
    }

    async fn subscribe(&self, after: Checkpoint) -> Result<Box<dyn Subscription>, StoreError> {
        self.0.answers()?;
        Ok(Box::new(Following { log: self.0.clone(), events: self.0.events.subscribe(after).await? }))
    }
}

struct Following {
    log: Arc<Log>,
    events: Box<dyn Subscription>,
}

#[async_trait]
impl Subscription for Following {
    async fn next(&mut self, limit: usize) -> Result<Batch, StoreError> {
        let batch = self.events.next(limit).await?;
        self.log.answers()?;
        Ok(Batch { events: self.log.shown(batch.events), ..batch })
    }
}

/// Views in memory that do as a database may.
#[derive(Default)]
struct Views {
    views: Arc<MemoryViews>,
    mood: Mutex<Mood>,
    changed: Notify,
    applied: AtomicU64,
    /// How often other views became the live ones.
    swaps: AtomicU64,
    /// Rows lie where the new views have not come yet.
    holds_swaps: AtomicBool,
    /// Ends a turn.
    interrupt: Notify,
}

#[derive(Clone, Default)]
enum Mood {
    #[default]
    Good,
    /// It is another's turn.
    Waiting,
    Foreign,
    Away,
    /// The next call fails like this, then all is well.
    Once(StoreError),
}

const AWAY: StoreError = StoreError::Unavailable { what: "the read store", source: None };

impl Views {
    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
        self.changed.notify_waiters();
    }

    async fn humour(&self) -> Result<(), StoreError> {
        loop {
            let changed = self.changed.notified();
            let mood = self.mood.lock().clone();
            match mood {
                Mood::Good => return Ok(()),
                Mood::Waiting => changed.await,
                Mood::Foreign => return Err(StoreError::Foreign { why: "another log's".into() }),
                Mood::Away => return Err(AWAY),
                Mood::Once(error) => {
                    self.set(Mood::Good);
                    return Err(error);
                }
            }
        }
    }
}

#[async_trait]
impl ViewWriter for Views {
    async fn resume(&self, log: LogId, end: Position) -> Result<Checkpoint, StoreError> {
        self.humour().await?;
        self.views.resume(log, end).await
    }

    async fn apply(
        &self,
        generation: Generation,
        from: Checkpoint,
        changes: Changes,
        to: Checkpoint,
    ) -> Result<(), StoreError> {
        self.humour().await?;
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.views.apply(generation, from, changes, to).await
    }

    async fn interrupted(&self) {
        self.interrupt.notified().await;
    }

    async fn parked(&self, generation: Generation) -> Result<Vec<Parked>, StoreError> {
        ViewWriter::parked(&*self.views, generation).await
    }

    async fn replayed(&self, at: Checkpoint, replayed: Replayed) -> Result<(), StoreError> {
        self.humour().await?;
        self.views.replayed(at, replayed).await
    }

    async fn asked(&self) {
        self.views.asked().await;
    }

    async fn rebuild(&self, head: Position) -> Result<Option<Checkpoint>, StoreError> {
        self.humour().await?;
        self.views.rebuild(head).await
    }

    async fn swap(&self, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError> {
        self.humour().await?;
        if self.holds_swaps.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let swapped = self.views.swap(live, next).await?;
        self.swaps.fetch_add(u64::from(swapped), Ordering::SeqCst);
        Ok(swapped)
    }
}

struct Running {
    log: Arc<Log>,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    watch: Arc<Watch>,
    lifecycle: Lifecycle,
    projecting: JoinHandle<()>,
}

impl Running {
    fn start(mood: Mood) -> Self {
        Self::with(mood, |projector| projector)
    }

    fn with(mood: Mood, change: impl FnOnce(Projector) -> Projector) -> Self {
        let views = Arc::new(Views::default());
        views.set(mood);
        Self::on(Arc::new(Log::new()), views, change)
    }

    fn on(log: Arc<Log>, views: Arc<Views>, change: impl FnOnce(Projector) -> Projector) -> Self {
        let (metrics, lifecycle) = (Metrics::new("test", &[Part::Projection]).unwrap(), Lifecycle::default());
        let projector =
            change(Projector::new(Arc::new(Feed(log.clone())), log.clone(), views.clone(), metrics.clone()));
        let watch = projector.watch(views.views.clone(), views.views.clone());
        let projecting = tokio::spawn(projector.run(lifecycle.clone()));
        Self { log, views, metrics, watch, lifecycle, projecting }
    }

    /// Another one on the same log and views.
    async fn restarted(self) -> Self {
        let (log, views) = (self.log.clone(), self.views.clone());
        self.end().await;
        Self::on(log, views, |projector| projector)
    }

    async fn append(&self, key: &str) {
        let event = AnswerEvent::Created { key: Key::parse(key).unwrap(), value: "v".into() };
        self.append_at(key, ExpectedRevision::NoStream, event).await;
    }

    /// Appends an update at this revision.
    async fn update(&self, key: &str, revision: u64, value: &str) -> Position {
        let event = AnswerEvent::Updated { key: Key::parse(key).unwrap(), value: value.into() };
        self.append_at(key, ExpectedRevision::Exact(Revision(revision - 1)), event).await
    }

    /// Appends a deletion at this revision.
    async fn delete(&self, key: &str, revision: u64) {
        let event = AnswerEvent::Deleted { key: Key::parse(key).unwrap() };
        self.append_at(key, ExpectedRevision::Exact(Revision(revision - 1)), event).await;
    }

    async fn append_at(&self, key: &str, expected: ExpectedRevision, event: AnswerEvent) -> Position {
        let event = event.to_new(Uuid::new_v4(), clock::now());
        self.log.append(&answer(key), expected, vec![event]).await.unwrap().positions[0]
    }

    async fn value(&self, key: &str) -> Option<String> {
        let seen = self.views.views.answer(&Key::parse(key).unwrap()).await.unwrap();
        seen.found.map(|answer| answer.value.to_string())
    }

    async fn parked(&self) -> u64 {
        ViewReader::parked(&*self.views.views).await.unwrap()
    }

    async fn caught_up(&self) {
        let head = self.log.events.head().await.unwrap();
        timeout(PATIENCE, self.views.views.reached(head)).await.expect("the views come as far").unwrap();
    }

    /// The value of a gauge, looked up now.
    async fn gauge(&self, name: &str) -> f64 {
        self.watch.refresh().await;
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("qaservice_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    async fn end(self) {
        self.lifecycle.stop();
        timeout(Duration::from_secs(1), self.projecting).await.expect("it ends at once").unwrap();
    }
}

#[tokio::test]
async fn one_that_stands_by_is_well_and_knows_how_far_behind_the_views_are() {
    let running = Running::start(Mood::Waiting);
    assert_eq!(running.watch.check().await, Ok(()));
    for n in 0..3 {
        running.append(&n.to_string()).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(running.watch.check().await, Ok(()), "others have half a minute");
    assert_eq!(running.gauge("projection_lag_events").await, 3.0);
    assert!(running.gauge("projection_lag_seconds").await >= 1.0);
    assert_eq!(running.gauge("projection_working").await, 0.0);
    running.views.set(Mood::Good);
    running.caught_up().await;
    assert_eq!(running.gauge("projection_lag_events").await, 0.0);
    assert_eq!(running.gauge("projection_lag_seconds").await, 0.0);
    assert_eq!(running.gauge("projection_working").await, 1.0);
    running.end().await;
}

#[tokio::test]
async fn one_that_stands_by_ends_when_it_is_told() {
    let running = Running::start(Mood::Waiting);
    tokio::task::yield_now().await;
    running.end().await;
}

#[tokio::test]
async fn foreign_views_are_left_alone_until_they_are_put_right() {
    let running = Running::start(Mood::Foreign);
    running.append("k").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let told = running.watch.check().await.expect_err("not ready");
    assert!(told.contains("another log's"), "{told}");
    assert_eq!(running.views.applied.load(Ordering::Relaxed), 0);
    running.views.set(Mood::Good);
    running.caught_up().await;
    assert_eq!(running.watch.check().await, Ok(()));
    running.end().await;
}

#[tokio::test]
async fn it_goes_on_by_itself_when_the_views_return() {
    let running = Running::start(Mood::Good);
    running.append("a").await;
    running.caught_up().await;
    running.views.set(Mood::Away);
    running.append("b").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    running.views.set(Mood::Good);
    running.caught_up().await;
    assert_eq!(running.watch.check().await, Ok(()));
    running.end().await;
}

/// While one waits for its turn the views may pass what was the log's end before.
#[tokio::test]
async fn views_that_moved_on_meanwhile_are_no_trouble() {
    let foreign = StoreError::Foreign { why: "ahead of the log".into() };
    for once in [StoreError::Conflict, foreign] {
        let running = Running::start(Mood::Once(once));
        running.append("k").await;
        running.caught_up().await;
        assert_eq!(running.watch.check().await, Ok(()));
        running.end().await;
    }
}

/// A turn that was lost in mid-batch is taken again, and nothing is left out.
#[tokio::test]
async fn a_lost_turn_is_taken_again() {
    let running = Running::start(Mood::Good);
    running.append("a").await;
    running.caught_up().await;
    running.views.set(Mood::Once(StoreError::Conflict));
    running.append("b").await;
    running.append("c").await;
    running.caught_up().await;
    let key = Key::parse("b").unwrap();
    assert!(running.views.views.answer(&key).await.unwrap().found.is_some());
    running.end().await;
}
