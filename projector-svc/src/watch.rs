//! Looks at log and views now and then: whether both answer, how far the views are
//! behind, and whether they move. What it finds is as true of a projector that waits
//! for its turn as of the one that works.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::clock;
use shared::domain::stream::Position;
use shared::domain::time::Timestamp;
use shared::http::health::Refresh;
use shared::http::lifecycle::Lifecycle;
use shared::metrics::Metrics;
use shared::ports::{Checkpoint, EventFeed, Health, StoreError, ViewOperator, ViewReader};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::status::Status;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(2);
/// Whoever asks hears of a look that is no older.
const FRESH: Duration = Duration::from_secs(1);
/// How long a store may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many events that wait are counted, and for how long.
const COUNTED: usize = 10_000;
const COUNTING: Duration = Duration::from_secs(1);

/// Watches the way from the log to the views.
pub struct Watch {
    feed: Arc<dyn EventFeed>,
    views: Arc<dyn ViewReader>,
    operator: Arc<dyn ViewOperator>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    /// One look at a time.
    looking: Mutex<()>,
}

impl Watch {
    pub(crate) fn new(
        feed: Arc<dyn EventFeed>,
        views: Arc<dyn ViewReader>,
        operator: Arc<dyn ViewOperator>,
        metrics: Arc<Metrics>,
        status: Arc<Status>,
    ) -> Self {
        Self { feed, views, operator, metrics, status, looking: Mutex::default() }
    }

    /// Looks every few seconds until the lifecycle says stop.
    pub async fn run(self: Arc<Self>, lifecycle: Lifecycle) {
        let looking = async {
            loop {
                self.look(LOOK).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = lifecycle.stopping() => {}
            () = looking => {}
        }
    }

    /// To be called before the gauges of the projection are read.
    pub fn refreshing(self: Arc<Self>) -> Refresh {
        Arc::new(move || {
            let watch = self.clone();
            Box::pin(async move { watch.refresh().await })
        })
    }

    /// Brings the gauges of the projection up to date.
    pub async fn refresh(&self) {
        self.look(Duration::ZERO).await;
        self.look_at_requests().await;
        let Some((head, views)) = self.status.known() else { return };
        let (mut events, mut oldest) = (0, None);
        if !views.has_reached(head) {
            // What has been counted counts, whatever ends it.
            let _ = timeout(COUNTING, self.count(views, head, &mut events, &mut oldest)).await;
        }
        let since = |oldest: Timestamp| clock::now().micros().saturating_sub(oldest.micros());
        let waiting = Duration::from_micros(oldest.map_or(0, since).try_into().unwrap_or(0));
        self.metrics.projection.looked(head, views.position(), events, waiting);
    }

    /// What does not answer stays as it was.
    async fn look_at_requests(&self) {
        if let Ok(Ok(parked)) = timeout(PATIENCE, self.views.parked()).await {
            self.metrics.projection.parked(parked);
        }
        if let Ok(Ok(rebuild)) = timeout(PATIENCE, self.operator.rebuild_state()).await {
            self.metrics.projection.rebuild(&rebuild);
        }
    }

    /// Counts the events that are not projected yet, and finds the first of them.
    async fn count(
        &self,
        after: Checkpoint,
        head: Position,
        events: &mut usize,
        oldest: &mut Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let mut subscription = self.feed.subscribe(after).await?;
        while *events < COUNTED {
            let batch = subscription.next(COUNTED - *events).await?;
            *events += batch.events.iter().filter(|event| event.position <= head).count();
            let mut known = batch.events.iter().map(|event| &event.event.metadata).filter(|known| known.is_readable());
            *oldest = oldest.or(known.next().map(|known| known.recorded_at));
            if batch.checkpoint.has_reached(head) {
                break;
            }
        }
        Ok(())
    }

    /// Looks, unless somebody has within this time.
    async fn look(&self, within: Duration) {
        let _one = self.looking.lock().await;
        if self.status.age().is_some_and(|age| age < within) {
            return;
        }
        // In this order: views that have reached an earlier head are not behind.
        let head = answered("the event log", self.feed.head()).await;
        let views = answered("the read store", self.views.checkpoint()).await;
        self.status.looked(head, views, Instant::now());
    }
}

#[async_trait]
impl Health for Watch {
    async fn check(&self) -> Result<(), String> {
        self.look(FRESH).await;
        self.status.check(Instant::now())
    }
}

async fn answered<T>(what: &str, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{what} does not answer")),
    }
}
