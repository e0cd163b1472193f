//! Follows the log and writes the views, in the order of the log.
//!
//! It begins at the views' checkpoint, and after any failure again there. An event
//! that cannot be projected stops it: nothing is skipped.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::clock;
use shared::domain::projection::{Unprojectable, project};
use shared::domain::stream::RecordedEvent;
use shared::domain::time::Timestamp;
use shared::http::lifecycle::Lifecycle;
use shared::metrics::Metrics;
use shared::ports::{Batch, Checkpoint, EventFeed, StoreError, ViewWriter};
use tokio::time::Instant;

/// Events that are projected together at most.
const BATCH: usize = 8_192;
/// Under load a batch gathers for this long: what is written together costs less.
const PACE: Duration = Duration::from_millis(8);
/// A batch that is smaller than this is not worth gathering for.
const FULL_ENOUGH: usize = 32;
/// How long to wait after a failure, first and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// An event that has waited longer without the checkpoint moving is a stall.
const STALL: Duration = Duration::from_secs(30);

/// Keeps views up to date with a log.
pub struct Projector {
    feed: Arc<dyn EventFeed>,
    views: Arc<dyn ViewWriter>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
}

/// How the projector is doing, for those who watch it.
pub struct Status {
    state: Mutex<State>,
}

struct State {
    /// What it cannot get past, if anything.
    trouble: Option<Trouble>,
    /// When the checkpoint last moved, or had nothing to move for.
    moved: Instant,
    /// When the first event that is being projected was recorded.
    waiting_since: Option<Timestamp>,
}

/// What stands in the projector's way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// This event; it will not go away.
    Event(String),
    /// A store; it is tried again.
    Store(String),
}

enum Failure {
    Store(StoreError),
    Event(Unprojectable),
    /// The views were put back: begin again where they are now.
    PutBack,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Status {
    /// Events wait from now on, if none did.
    fn begin(&self, oldest: Option<Timestamp>) {
        let mut state = self.state.lock();
        if state.waiting_since.is_none() {
            state.moved = Instant::now();
        }
        state.waiting_since = oldest;
    }

    /// The checkpoint moved, and nothing waits that is known of.
    fn applied(&self) {
        *self.state.lock() = State { trouble: None, moved: Instant::now(), waiting_since: None };
    }

    /// Notes what stands in the way; tells whether that is news.
    fn held_up(&self, by: Trouble) -> bool {
        let mut state = self.state.lock();
        let news = state.trouble.as_ref() != Some(&by);
        state.trouble = Some(by);
        news
    }

    /// Whether it works: nothing stands in its way, and no event has waited half a
    /// minute without the checkpoint moving.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let state = self.state.lock();
        match &state.trouble {
            Some(Trouble::Event(what)) => return Err(format!("the projector stopped: {what}")),
            Some(Trouble::Store(what)) if state.moved.elapsed() > STALL => {
                return Err(format!("the projector is held up: {what}"));
            }
            _ => {}
        }
        if state.waiting_since.is_some() && state.moved.elapsed() > STALL {
            return Err("events wait and the projection does not move".into());
        }
        Ok(())
    }

    /// How long the oldest event that is not projected yet has waited.
    pub fn waiting(&self, now: Timestamp) -> Duration {
        let since = self.state.lock().waiting_since;
        let micros = since.map_or(0, |since| now.micros().saturating_sub(since.micros()));
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

impl Projector {
    /// A projector from this log into these views.
    pub fn new(feed: Arc<dyn EventFeed>, views: Arc<dyn ViewWriter>, metrics: Arc<Metrics>) -> Self {
        let state = State { trouble: None, moved: Instant::now(), waiting_since: None };
        Self { feed, views, metrics, status: Arc::new(Status { state: Mutex::new(state) }) }
    }

    /// How it is doing.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// Projects until the lifecycle says stop. What is being written then is written
    /// whole, with its checkpoint.
    pub async fn run(self, lifecycle: Lifecycle) {
        let mut retry = RETRY;
        while !lifecycle.is_stopping() {
            let begun = Instant::now();
            let Err(failure) = self.follow(&lifecycle).await else { return };
            match failure {
                Failure::PutBack => continue,
                Failure::Event(error) => {
                    let what = format!("{error}: {}", error.source);
                    if self.status.held_up(Trouble::Event(what.clone())) {
                        tracing::error!(error = what, "an event cannot be projected; the projection stops there");
                    }
                }
                Failure::Store(error) => {
                    tracing::warn!(error = %error.chain(), "the projection is held up; it begins again at its checkpoint");
                    self.status.held_up(Trouble::Store(error.to_string()));
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
        let (log, end) = (self.feed.log_id().await?, self.feed.end().await?);
        let mut at = self.views.resume(log, end).await?;
        let mut events = self.feed.subscribe(at).await?;
        loop {
            let batch = tokio::select! {
                biased;
                () = lifecycle.stopping() => return Ok(()),
                () = self.views.interrupted() => return Err(Failure::PutBack),
                batch = events.next(BATCH) => batch?,
            };
            let begun = Instant::now();
            let full = batch.events.len() >= FULL_ENOUGH;
            at = self.project(at, batch).await?;
            if full {
                tokio::time::sleep_until(begun + PACE).await;
            }
        }
    }

    /// Projects a batch; in front of an event that cannot be projected the rest is
    /// still written.
    async fn project(&self, from: Checkpoint, batch: Batch) -> Result<Checkpoint, Failure> {
        let oldest = batch.events.first().map(|event| event.event.metadata.recorded_at);
        self.status.begin(oldest);
        let mut changes = Vec::with_capacity(batch.events.len());
        let mut stuck = None;
        let mut to = batch.checkpoint;
        for event in &batch.events {
            match project(event) {
                Ok(change) => changes.push(change),
                Err(error) => {
                    to = before(event, &batch.events, from);
                    stuck = Some(error);
                    break;
                }
            }
        }
        let count = changes.len();
        if to > from {
            self.views.apply(from, changes, to).await?;
        }
        if let Some(error) = stuck {
            return Err(Failure::Event(error));
        }
        self.status.applied();
        if let Some(oldest) = oldest {
            self.metrics.projection.applied(count, oldest, clock::now());
        }
        Ok(to)
    }
}

/// The checkpoint right in front of an event of a batch.
fn before(event: &RecordedEvent, batch: &[RecordedEvent], from: Checkpoint) -> Checkpoint {
    let earlier = batch.iter().take_while(|other| other.position < event.position).last();
    earlier.map_or(from, |earlier| Checkpoint::at(earlier.position))
}
