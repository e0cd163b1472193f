//! Follows the log and writes the views, in the order of the log.
//!
//! It begins at the views' checkpoint, and after any failure again there. An event that
//! cannot be projected parks its stream: what comes behind it in that stream waits, and
//! nothing else does (`follower`). Beside that it carries out what operators ask for:
//! replays of parked streams, and rebuilds (`requests`).

mod follower;
mod http;
mod requests;
mod status;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use shared::clock;
use shared::domain::projection::Unprojectable;
use shared::http::lifecycle::Lifecycle;
use shared::metrics::Metrics;
use shared::ports::{
    Checkpoint, EventFeed, EventStore, Generation, PARKED_MAX, StoreError, Subscription, ViewOperator, ViewReader,
    ViewWriter,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use http::{documented, router};

use follower::Follower;
use status::{Status, Trouble};
use watch::Watch;

/// Events that are projected together at most.
const BATCH: usize = 8_192;
/// Under load a batch gathers for this long: what is written together costs less.
const PACE: Duration = Duration::from_millis(8);
/// A batch that is smaller than this is not worth gathering for.
const FULL_ENOUGH: usize = 32;
/// How long to wait after a failure, first and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Keeps views up to date with a log.
pub struct Projector {
    feed: Arc<dyn EventFeed>,
    events: Arc<dyn EventStore>,
    views: Arc<dyn ViewWriter>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    parked_max: usize,
}

enum Failure {
    Store(StoreError),
    /// One more that cannot be projected, and no room to park its stream.
    Event(Unprojectable),
    /// The views are elsewhere than believed, or it is another's turn: begin again.
    PutBack,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::PutBack,
            error => Self::Store(error),
        }
    }
}

impl Projector {
    /// A projector from this log, followed and read, into these views.
    pub fn new(
        feed: Arc<dyn EventFeed>,
        events: Arc<dyn EventStore>,
        views: Arc<dyn ViewWriter>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { feed, events, views, metrics, status: Arc::new(Status::new()), parked_max: PARKED_MAX }
    }

    /// Parks no more streams than this at once.
    #[must_use]
    pub fn parking_at_most(self, streams: usize) -> Self {
        Self { parked_max: streams, ..self }
    }

    /// What tells how it is doing, from the same views read.
    pub fn watch(&self, views: Arc<dyn ViewReader>, operator: Arc<dyn ViewOperator>) -> Arc<Watch> {
        Arc::new(Watch::new(self.feed.clone(), views, operator, self.metrics.clone(), self.status.clone()))
    }

    /// Projects until the lifecycle says stop. What is being written then is written
    /// whole, with its checkpoint.
    pub async fn run(self, lifecycle: Lifecycle) {
        let mut retry = RETRY;
        while !lifecycle.is_stopping() {
            let begun = Instant::now();
            let Err(failure) = self.follow(&lifecycle).await else { return };
            match failure {
                Failure::PutBack if begun.elapsed() > RETRY => continue,
                Failure::PutBack => {}
                Failure::Event(error) => {
                    let what = format!("{error}: {}", error.source);
                    if self.status.held_up(Trouble::Event(what.clone())) {
                        tracing::error!(
                            error = what,
                            "too many streams are parked for one more; the projection stops there"
                        );
                    }
                }
                Failure::Store(StoreError::Foreign { why }) => {
                    if self.status.held_up(Trouble::Foreign(why.clone())) {
                        tracing::error!(why, "the views are not this log's; nothing is written to them");
                    }
                }
                Failure::Store(error) => {
                    if self.status.held_up(Trouble::Store(error.to_string())) {
                        tracing::warn!(error = %error.chain(), "the projection is held up; it begins again at its checkpoint");
                    }
                }
            }
            // Whoever worked for a while may try again at once.
            retry = if begun.elapsed() > RETRY_MAX { RETRY } else { (retry * 2).min(RETRY_MAX) };
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = tokio::time::sleep(retry) => {}
            }
        }
    }

    /// Follows the log from the checkpoint on; `Ok` at the end of the process.
    async fn follow(&self, lifecycle: &Lifecycle) -> Result<(), Failure> {
        let begun = tokio::select! {
            biased;
            () = lifecycle.stopping() => return Ok(()),
            begun = self.begin() => begun?,
        };
        self.metrics.projection.working(true);
        let ended = self.work(begun, lifecycle).await;
        self.metrics.projection.working(false);
        ended
    }

    /// Waits for its turn, and subscribes behind the checkpoint.
    async fn begin(&self) -> Result<(Checkpoint, Box<dyn Subscription>), StoreError> {
        let at = match self.resume().await {
            // While it waited for its turn another may have carried the views beyond
            // what was the log's end before. Now nobody else moves them.
            Err(StoreError::Conflict | StoreError::Foreign { .. }) => self.resume().await?,
            resumed => resumed?,
        };
        let events = self.feed.subscribe(at).await?;
        self.status.resumed();
        tracing::info!(position = at.position().0, "projecting");
        Ok((at, events))
    }

    async fn resume(&self) -> Result<Checkpoint, StoreError> {
        let (log, end) = (self.feed.log_id().await?, self.feed.end().await?);
        self.views.resume(log, end).await
    }

    async fn work(
        &self,
        (at, events): (Checkpoint, Box<dyn Subscription>),
        lifecycle: &Lifecycle,
    ) -> Result<(), Failure> {
        let live = Follower::new(&*self.views, Generation::Live, at, self.parked_max).await?;
        let is_full = live.is_full();
        let live = Mutex::new(live);
        if is_full {
            // What waits for room may be the next event.
            tokio::select! {
                biased;
                () = lifecycle.stopping() => return Ok(()),
                replayed = requests::replay(self, &live) => replayed?,
            }
        }
        tokio::select! {
            biased;
            ended = self.follow_live(&live, events, lifecycle) => ended,
            failure = requests::serve(self, &live) => Err(failure),
        }
    }

    /// Keeps the live views up with the log; `Ok` at the end of the process.
    async fn follow_live(
        &self,
        live: &Mutex<Follower>,
        mut events: Box<dyn Subscription>,
        lifecycle: &Lifecycle,
    ) -> Result<(), Failure> {
        loop {
            let (batch, mut live) = tokio::select! {
                biased;
                () = lifecycle.stopping() => return Ok(()),
                () = self.views.interrupted() => return Err(Failure::PutBack),
                next = async { Ok::<_, StoreError>((events.next(BATCH).await?, live.lock().await)) } => next?,
            };
            let begun = Instant::now();
            let full = batch.events.len() >= FULL_ENOUGH;
            let mut known = batch.events.iter().map(|event| &event.event.metadata).filter(|known| known.is_readable());
            let oldest = known.next().map(|known| known.recorded_at);
            let count = live.project(&*self.views, batch).await?;
            drop(live);
            self.status.applied(Instant::now());
            if let Some(oldest) = oldest {
                self.metrics.projection.applied(count, oldest, clock::now());
            }
            if full {
                tokio::time::sleep_until(begun + PACE).await;
            }
        }
    }
}
