//! The projector from outside: what it does when views are not there, not its own,
//! or another's turn.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use projector_svc::Projector;
use projector_svc::watch::Watch;
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::clock;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::projection::{Changes, Parked};
use shared::domain::stream::{ExpectedRevision, Position, StreamId};
use shared::http::lifecycle::Lifecycle;
use shared::metrics::{Metrics, Part};
use shared::ports::{
    Checkpoint, EventFeed, EventStore, Generation, Health, LogId, Replayed, StoreError, ViewReader, ViewWriter,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

/// How long anything may take that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Views in memory that do as a database may.
#[derive(Default)]
struct Views {
    views: Arc<MemoryViews>,
    mood: Mutex<Mood>,
    changed: Notify,
    applied: AtomicU64,
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
        self.views.interrupted().await;
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
        self.views.rebuild(head).await
    }

    async fn swap(&self, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError> {
        self.humour().await?;
        self.views.swap(live, next).await
    }
}

struct Running {
    events: MemoryEvents,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    watch: Arc<Watch>,
    lifecycle: Lifecycle,
    projecting: JoinHandle<()>,
}

impl Running {
    fn start(mood: Mood) -> Self {
        let (events, views) = (MemoryEvents::new(PATIENCE), Arc::new(Views::default()));
        views.set(mood);
        let (metrics, lifecycle) = (Metrics::new("test", &[Part::Projection]).unwrap(), Lifecycle::default());
        let log = Arc::new(events.clone());
        let projector = Projector::new(log.clone(), log, views.clone(), metrics.clone());
        let watch = projector.watch(views.views.clone(), views.views.clone());
        let projecting = tokio::spawn(projector.run(lifecycle.clone()));
        Self { events, views, metrics, watch, lifecycle, projecting }
    }

    async fn append(&self, key: &str) {
        let event = AnswerEvent::Created { key: Key::parse(key).unwrap(), value: "v".into() };
        let event = event.to_new(Uuid::new_v4(), clock::now());
        let stream = StreamId::from_stored(&format!("answer-{key}"));
        self.events.append(&stream, ExpectedRevision::NoStream, vec![event]).await.unwrap();
    }

    async fn caught_up(&self) {
        let head = self.events.head().await.unwrap();
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
