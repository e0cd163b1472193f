//! Changes of the event log as they become visible: one look at the views a process
//! feeds all who listen, and nobody looks while nobody listens.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use shared::domain::filter::Filter;
use shared::domain::log_event::LogEvent;
use shared::domain::projection::EventChange;
use shared::domain::stream::Position;
use shared::error::Error;
use shared::http::lifecycle::Lifecycle;
use shared::wire::events::{DeletedJson, EventJson};
use tokio::sync::{Semaphore, watch};

use crate::log::LogQueries;

/// How many changes are taken from the views at once.
const PAGE: usize = 256;
/// How much of what came last is kept for listeners. Those who are further behind look
/// for themselves.
const RECENT_BYTES: usize = 8 * 1024 * 1024;
/// How much each of those may hold, and how many look at a time.
const OWN_BYTES: usize = 512 * 1024;
const OWN_LOOKS: usize = 4;
/// How long changes gather between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// How long to wait after the views failed.
const RETRY: Duration = Duration::from_millis(500);

/// Tells those who listen of changes.
#[derive(Clone)]
pub struct Live(Arc<Hub>);

struct Hub {
    log: LogQueries,
    lifecycle: Lifecycle,
    listeners: watch::Sender<usize>,
    recent: watch::Sender<Recent>,
    own_looks: Semaphore,
}

/// A change, and its JSON once somebody needs it.
pub(crate) struct News {
    pub(crate) position: Position,
    /// None: deleted.
    pub(crate) event: Option<Arc<LogEvent>>,
    id: uuid::Uuid,
    json: OnceLock<String>,
}

/// What changed behind one position and up to another.
struct Chunk {
    upto: Position,
    news: Vec<News>,
}

/// What came last: all that changed behind `from` and up to `upto`.
#[derive(Default)]
struct Recent {
    from: Position,
    upto: Position,
    chunks: VecDeque<(Arc<Chunk>, usize)>,
    bytes: usize,
}

/// Where one who listens finds what comes behind a position.
enum Next {
    Here(Arc<Chunk>),
    /// It was here, or never.
    InTheViews,
    /// It is yet to come.
    Later,
}

/// One who listens.
pub(crate) struct Tail {
    hub: Arc<Hub>,
    recent: watch::Receiver<Recent>,
    filter: Filter,
    /// All that changed up to here has been told.
    at: Position,
    /// How far the views were when it began: up to there they are asked, for what came
    /// last may hold events as they were before they changed again.
    begun: Position,
    chunk: Held,
    /// The next of the chunk.
    next: usize,
}

/// What one who listens holds: nothing that others share, lest those who are slow keep
/// it all in memory.
enum Held {
    Shared(Weak<Chunk>),
    Own(Arc<Chunk>),
}

impl News {
    fn new(EventChange { id, event, position, .. }: EventChange) -> Self {
        Self { position, event, id, json: OnceLock::new() }
    }

    /// The event as it is now, or the id of one that is gone.
    pub(crate) fn json(&self) -> &str {
        let json = || match &self.event {
            Some(event) => serde_json::to_string(&EventJson::from(&**event)),
            None => serde_json::to_string(&DeletedJson { id: self.id }),
        };
        self.json.get_or_init(|| json().expect("our own shapes are always JSON"))
    }

    fn is_for(&self, filter: &Filter) -> bool {
        self.event.as_ref().is_none_or(|event| filter.matches(event))
    }
}

impl Chunk {
    /// What of it one who listens is told, and no more than one may hold; at least one.
    fn only_for(mut self, filter: &Filter) -> Self {
        self.news.retain(|news| news.is_for(filter));
        let mut bytes = 0;
        let within = |news: &&News| {
            let first = bytes == 0;
            bytes += news.json().len();
            first || bytes <= OWN_BYTES
        };
        let kept = self.news.iter().take_while(within).count();
        if kept < self.news.len() {
            self.news.truncate(kept);
            self.upto = self.news.last().map_or(self.upto, |last| last.position);
        }
        self
    }
}

impl Held {
    fn get(&self) -> Option<Arc<Chunk>> {
        match self {
            Self::Shared(chunk) => chunk.upgrade(),
            Self::Own(chunk) => Some(chunk.clone()),
        }
    }
}

impl Recent {
    fn from(position: Position) -> Self {
        Self { from: position, upto: position, ..Self::default() }
    }

    fn push(&mut self, chunk: Arc<Chunk>) {
        let bytes = chunk.news.iter().map(|news| news.json().len()).sum();
        self.upto = chunk.upto;
        self.bytes += bytes;
        self.chunks.push_back((chunk, bytes));
        while self.bytes > RECENT_BYTES
            && self.chunks.len() > 1
            && let Some((oldest, bytes)) = self.chunks.pop_front()
        {
            self.bytes -= bytes;
            self.from = oldest.upto;
        }
    }

    fn behind(&self, at: Position) -> Next {
        if at < self.from {
            return Next::InTheViews;
        }
        // Nearly always it is the last one.
        let behind = self.chunks.partition_point(|(chunk, _)| chunk.upto <= at);
        self.chunks.get(behind).map_or(Next::Later, |(chunk, _)| Next::Here(chunk.clone()))
    }
}

impl Live {
    /// The changes of this log. The views are looked at while anybody listens.
    pub fn new(log: LogQueries, lifecycle: Lifecycle) -> Self {
        let (listeners, recent) = (watch::Sender::new(0), watch::Sender::default());
        let own_looks = Semaphore::new(OWN_LOOKS);
        Self(Arc::new(Hub { log, lifecycle, listeners, recent, own_looks }))
    }

    /// Looks at the views for the listeners until the process ends.
    pub async fn run(&self) {
        tokio::select! {
            () = self.0.lifecycle.stopping() => {}
            () = self.0.follow() => {}
        }
    }

    /// Listens from a position on, or from now on; and what now is.
    ///
    /// # Errors
    /// As `LogQueries::event`.
    pub(crate) async fn listen(
        &self,
        filter: Filter,
        from: Option<Position>,
        awaited: Option<Position>,
    ) -> Result<(Tail, Position), Error> {
        let now = self.0.log.position(awaited).await?;
        self.0.listeners.send_modify(|listeners| *listeners += 1);
        let (hub, recent) = (self.0.clone(), self.0.recent.subscribe());
        let chunk = Held::Shared(Weak::new());
        Ok((Tail { hub, recent, filter, at: from.unwrap_or(now), begun: now, chunk, next: 0 }, now))
    }
}

impl Hub {
    async fn follow(&self) {
        let mut listeners = self.listeners.subscribe();
        loop {
            // The sender lives as long as self, so waiting cannot fail.
            let _ = listeners.wait_for(|listeners| *listeners > 0).await;
            if let Err(error) = self.follow_while_heard().await {
                tracing::warn!(error = %error, "live tails wait for the views");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Looks at what changes from now on, for as long as anybody listens.
    async fn follow_while_heard(&self) -> Result<(), Error> {
        let mut listeners = self.listeners.subscribe();
        let mut at = self.log.position(None).await?;
        // What changed before is for nobody here.
        self.recent.send_replace(Recent::from(at));
        loop {
            tokio::select! {
                reached = self.log.reached(Position(at.0 + 1)) => reached?,
                _ = listeners.wait_for(|listeners| *listeners == 0) => return Ok(()),
            }
            loop {
                let chunk = Arc::new(self.look(at).await?);
                at = chunk.upto;
                if chunk.news.is_empty() {
                    break;
                }
                self.recent.send_modify(|recent| recent.push(chunk));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What changed behind a position; nothing only if it is all known.
    async fn look(&self, after: Position) -> Result<Chunk, Error> {
        let seen = self.log.changes(after, PAGE).await?;
        let upto = seen.found.last().map_or(seen.position.max(after), |last| last.position);
        Ok(Chunk { upto, news: seen.found.into_iter().map(News::new).collect() })
    }
}

impl Tail {
    /// Waits for the next change that it listens for.
    ///
    /// # Errors
    /// If it has to look for itself and the views fail.
    pub(crate) async fn news<T>(&mut self, tell: impl FnOnce(&News) -> T) -> Result<T, Error> {
        loop {
            if let Some(chunk) = self.chunk.get() {
                while let Some(news) = chunk.news.get(self.next) {
                    self.next += 1;
                    if news.position > self.at && news.is_for(&self.filter) {
                        self.at = news.position;
                        return Ok(tell(news));
                    }
                }
                self.at = self.at.max(chunk.upto);
            }
            self.chunk = self.chunk().await?;
            self.next = 0;
        }
    }

    async fn chunk(&mut self) -> Result<Held, Error> {
        loop {
            let recent = self.recent.borrow_and_update().behind(self.at);
            match if self.at < self.begun { Next::InTheViews } else { recent } {
                Next::Here(chunk) => return Ok(Held::Shared(Arc::downgrade(&chunk))),
                // The sender lives in the hub that self holds.
                Next::Later => drop(self.recent.changed().await),
                Next::InTheViews => {
                    let chunk = self.own_chunk().await?;
                    if chunk.upto > self.at {
                        return Ok(Held::Own(Arc::new(chunk)));
                    }
                    // The views have been put back: they will be here again.
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn own_chunk(&self) -> Result<Chunk, Error> {
        // Nobody closes it; without a permit a look is no worse.
        let _turn = self.hub.own_looks.acquire().await;
        Ok(self.hub.look(self.at).await?.only_for(&self.filter))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.hub.listeners.send_modify(|listeners| *listeners -= 1);
    }
}
