//! Events as they happen: one subscription a process feeds all live streams.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use shared::domain::stream::{RecordedEvent, StreamId};
use shared::http::lifecycle::Lifecycle;
use shared::ports::{Checkpoint, EventFeed, StoreError};
use tokio::sync::Notify;

/// A listener that is this many events behind reads the stream again.
const BEHIND: usize = 256;
/// How many events are taken from the log at once.
const PAGE: usize = 512;
/// How long to wait after the log failed.
const RETRY: Duration = Duration::from_millis(500);

/// Hands new events of the log to those who listen to their streams.
#[derive(Clone)]
pub struct Live(Arc<Hub>);

struct Hub {
    feed: Arc<dyn EventFeed>,
    listeners: Mutex<HashMap<StreamId, Vec<Arc<Inbox>>>>,
    someone: Notify,
    lifecycle: Lifecycle,
}

/// What one live stream has heard and not taken yet.
#[derive(Default)]
struct Inbox {
    events: Mutex<Heard>,
    news: Notify,
}

/// What a live stream heard since it asked last.
#[derive(Default)]
pub struct Heard {
    pub events: VecDeque<Arc<RecordedEvent>>,
    /// Events were left out: read the stream again.
    pub missed: bool,
}

/// What one live stream hears, from the moment that it was made.
pub struct Listening {
    stream: StreamId,
    inbox: Arc<Inbox>,
    hub: Weak<Hub>,
}

impl Live {
    /// Live streams of this log. The subscription runs while anybody listens.
    pub fn new(feed: Arc<dyn EventFeed>, lifecycle: Lifecycle) -> Self {
        Self(Arc::new(Hub { feed, listeners: Mutex::default(), someone: Notify::new(), lifecycle }))
    }

    /// Follows the log for the listeners until the process ends.
    pub async fn run(&self) {
        tokio::select! {
            () = self.0.lifecycle.stopping() => {}
            () = self.0.follow() => {}
        }
    }

    /// Listens to a stream from now on: what is read afterwards and what is heard
    /// leave no gap between them.
    pub fn listen(&self, stream: StreamId) -> Listening {
        let inbox = Arc::<Inbox>::default();
        self.0.listeners.lock().entry(stream.clone()).or_default().push(inbox.clone());
        self.0.someone.notify_one();
        Listening { stream, inbox, hub: Arc::downgrade(&self.0) }
    }
}

impl Listening {
    /// What happened since the last call; waits until something has.
    pub async fn next(&mut self) -> Heard {
        loop {
            let heard = std::mem::take(&mut *self.inbox.events.lock());
            if heard.missed || !heard.events.is_empty() {
                return heard;
            }
            self.inbox.news.notified().await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let mut listeners = hub.listeners.lock();
        if let Some(of_stream) = listeners.get_mut(&self.stream) {
            of_stream.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
            if of_stream.is_empty() {
                listeners.remove(&self.stream);
            }
        }
    }
}

impl Inbox {
    fn tell(&self, event: Arc<RecordedEvent>) {
        let mut heard = self.events.lock();
        if heard.events.len() < BEHIND {
            heard.events.push_back(event);
        } else {
            heard.missed = true;
        }
        drop(heard);
        self.news.notify_one();
    }

    fn miss(&self) {
        self.events.lock().missed = true;
        self.news.notify_one();
    }
}

impl Hub {
    async fn follow(&self) {
        loop {
            while self.listeners.lock().is_empty() {
                self.someone.notified().await;
            }
            if let Err(error) = self.follow_while_heard().await {
                tracing::warn!(error = %error.chain(), "live streams wait for the log");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Follows the log from its end on, for as long as anybody listens.
    async fn follow_while_heard(&self) -> Result<(), StoreError> {
        let head = self.feed.head().await?;
        let mut subscription = self.feed.subscribe(Checkpoint::at(head)).await?;
        // What came before the subscription was heard by nobody.
        self.listeners.lock().values().flatten().for_each(|inbox| inbox.miss());
        while !self.listeners.lock().is_empty() {
            let batch = subscription.next(PAGE).await?;
            let listeners = self.listeners.lock();
            for event in batch.events {
                if let Some(of_stream) = listeners.get(&event.stream) {
                    let event = Arc::new(event);
                    of_stream.iter().for_each(|inbox| inbox.tell(event.clone()));
                }
            }
        }
        Ok(())
    }
}
