//! `FjallEvents`: the ports of the log, on an engine that one thread writes to.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use super::engine::Engine;
use super::inbox::Inbox;
use super::start::{self, StartError};
use super::tail::Tail;
use super::writer::{Job, UNAVAILABLE, Work, Writer};
use super::{super::progress::Progress, Options};
use crate::domain::outcome::{Happened, IdempotencyKey, Kept, Outcome};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{
    Append, Appended, Batch, Checkpoint, Claim, ClaimedAppend, Direction, EventFeed, EventStore, Health, LogId,
    Outcomes, StoreError, Subscription,
};

/// How long a read waits while the database is being opened again, and how often
/// it looks.
const REOPENING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// The durable log in a folder.
///
/// Appends that wait are checked and written together, with one fsync, and then
/// all are answered. After a failed write or sync nothing is acknowledged until
/// the database has been opened again, which the writer does by itself; reads go
/// on meanwhile.
#[derive(Clone)]
pub struct FjallEvents(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer thread and the readers have in common.
pub(super) struct Shared {
    pub(super) id: LogId,
    /// None while the database is being opened again.
    pub(super) engine: RwLock<Option<Arc<Engine>>>,
    /// The last position that is durable, and with that visible.
    pub(super) durable: Progress,
    /// The last durable events.
    pub(super) tail: Tail,
    /// What waits for the writer.
    pub(super) inbox: Inbox,
    /// What stops the writer, while something does.
    pub(super) trouble: Mutex<Option<String>>,
    pub(super) folder: PathBuf,
    pub(super) options: Options,
    /// Keeps other processes out.
    _lock: File,
}

impl Shared {
    pub(super) fn engine(&self) -> Result<Arc<Engine>, StoreError> {
        self.engine.read().clone().ok_or(UNAVAILABLE)
    }

    /// The engine for a read: while the database is being opened again, reads wait.
    async fn readable(&self) -> Result<Arc<Engine>, StoreError> {
        let deadline = tokio::time::Instant::now() + REOPENING;
        loop {
            match self.engine() {
                Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                engine => return engine,
            }
        }
    }

    /// Whether less than the reserve and so much more is free on the disk; no where the
    /// system does not tell.
    pub(super) fn lacks_room(&self, bytes: u64) -> bool {
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else { return false };
        let reserve = self.options.disk_reserve_mb.saturating_mul(1024 * 1024);
        disk.f_bavail.saturating_mul(disk.f_frsize) < reserve.saturating_add(bytes)
    }

    pub(super) fn outcome_since(&self, now: Timestamp) -> Timestamp {
        let ttl = i64::try_from(self.options.outcome_ttl.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(now.micros().saturating_sub(ttl))
    }
}

impl FjallEvents {
    pub(super) fn open(options: &Options, lock: File) -> Result<Self, StartError> {
        let folder = options.folder.clone();
        let opened = start::open(&folder)?;
        let shared = Arc::new(Shared {
            id: opened.id,
            durable: Progress::new(opened.head.0),
            tail: Tail::new(opened.head),
            inbox: Inbox::default(),
            engine: RwLock::new(Some(Arc::new(opened.engine))),
            trouble: Mutex::default(),
            folder,
            options: options.clone(),
            _lock: lock,
        });
        let writer = Writer::new(shared.clone(), opened.group, opened.watermark, opened.ahead);
        let start = |writer: Writer| std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run());
        let thread = writer.and_then(start).map_err(|error| StartError::io(&options.folder, error))?;
        let handle = Handle { shared, writer: Mutex::new(Some(thread)) };
        Ok(Self(Arc::new(handle)))
    }

    /// Finishes what was handed in, syncs and closes the log. Later appends are
    /// refused.
    pub fn close(&self) {
        self.0.close();
    }

    pub(super) fn id(&self) -> LogId {
        self.0.shared.id
    }

    /// Whether less than the reserve and so much more is free on the disk.
    pub(super) fn lacks_room(&self, bytes: u64) -> bool {
        self.0.shared.lacks_room(bytes)
    }

    /// The last durable position.
    pub fn position(&self) -> Position {
        Position(self.0.shared.durable.get())
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.0.shared.engine().ok().and_then(|engine| engine.db.disk_space().ok()).unwrap_or_default()
    }

    async fn submit<T>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.inbox.push(Job::new(work(reply)))?;
        answer.await.map_err(|_| StoreError::OutcomeUnknown { what: "the event log", source: None })?
    }
}

impl Handle {
    fn close(&self) {
        self.shared.inbox.close();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the log's writer thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs a read that may touch many blocks where it does not hold up others.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = |error| StoreError::unavailable("the embedded store", error);
    tokio::task::spawn_blocking(read).await.map_err(ended)?
}

#[async_trait]
impl EventStore for FjallEvents {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let stream = stream.clone();
        self.submit(|reply| Work::Append { stream, expected, events, reply }).await
    }

    async fn append_each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let count = appends.len();
        if count == 0 {
            return Vec::new();
        }
        let outcomes = self.submit(|reply| Work::Each { appends, reply }).await;
        outcomes.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let (engine, stream) = (self.0.shared.readable().await?, stream.clone());
        blocking(move || engine.read(&stream, from, direction, limit)).await
    }

    /// Two point reads, mostly from memory: cheaper here than a hop to another thread.
    async fn last(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, StoreError> {
        let engine = self.0.shared.readable().await?;
        engine.head(stream)?.map(|head| engine.event(head.position)).transpose()
    }

    async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        self.0.shared.readable().await?.event_at(position)
    }
}

#[async_trait]
impl Outcomes for FjallEvents {
    async fn find(&self, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Kept>, StoreError> {
        self.0.shared.readable().await?.outcome(key, self.0.shared.outcome_since(now))
    }

    async fn append(
        &self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
    ) -> Result<ClaimedAppend, StoreError> {
        let (claim, stream) = (claim.clone(), stream.clone());
        self.submit(|reply| Work::Claimed { claim, stream, expected, event, kind, reply }).await
    }

    async fn keep(&self, claim: &Claim, outcome: Outcome) -> Result<Kept, StoreError> {
        let claim = claim.clone();
        self.submit(|reply| Work::Keep { claim, outcome, reply }).await
    }
}

#[async_trait]
impl EventFeed for FjallEvents {
    async fn log_id(&self) -> Result<LogId, StoreError> {
        Ok(self.0.shared.id)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        Ok(self.position())
    }

    async fn end(&self) -> Result<Position, StoreError> {
        Ok(self.position())
    }

    async fn subscribe(&self, after: Checkpoint) -> Result<Box<dyn Subscription>, StoreError> {
        let shared = self.0.shared.clone();
        Ok(Box::new(FjallSubscription { durable: shared.durable.watch(), shared, at: after.position() }))
    }
}

#[async_trait]
impl Health for FjallEvents {
    async fn check(&self) -> Result<(), String> {
        self.0.shared.trouble.lock().clone().map_or(Ok(()), Err)
    }
}

struct FjallSubscription {
    shared: Arc<Shared>,
    durable: watch::Receiver<u64>,
    at: Position,
}

#[async_trait]
impl Subscription for FjallSubscription {
    async fn next(&mut self, limit: usize) -> Result<Batch, StoreError> {
        let at = self.at;
        // The sender lives as long as the shared state that self holds.
        let durable = self.durable.wait_for(|durable| *durable > at.0).await.map(|durable| *durable).unwrap_or(at.0);
        let events = match self.shared.tail.follow(at, Position(durable), limit) {
            Some(events) => events,
            None => {
                let engine = self.shared.readable().await?;
                blocking(move || engine.follow(at, Position(durable), limit)).await?
            }
        };
        self.at = events.last().map_or(Position(durable), |event| event.position);
        Ok(Batch { events, checkpoint: Checkpoint::at(self.at) })
    }
}
