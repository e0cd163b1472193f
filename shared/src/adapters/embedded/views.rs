//! `SqliteViews`: the read store of the embedded log, as its ports see it: the
//! generation of files that is live (`generation`), the one that is built beside it
//! while a rebuild runs, and the file that says which is which (`pointer`).
//!
//! A swap writes that file, and from then on readers take the new generation; whoever
//! still reads the old one goes on with it, and when the last one has let go its
//! files are removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::events::{FjallEvents, blocking};
use super::generation::{self, OneGeneration, Place};
use super::log_views::LogViews;
use super::pointer::{self, Pointer};
use super::start::StartError;
use crate::clock;
use crate::domain::answer::{Answer, Key};
use crate::domain::filter::Filter;
use crate::domain::log_event::{Rejection, Session};
use crate::domain::projection::{Changes, EventChange, Parked};
use crate::domain::stream::{Position, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{
    AnswersPage, AnswersQuery, Checkpoint, EventRef, EventsPage, EventsQuery, Generation, Health, ListQuery, LogId,
    LogReader, Page, ParkedQuery, RebuildState, Record, Replayed, Seen, StatsQuery, StatsRow, StoreError, ViewOperator,
    ViewReader, ViewWriter,
};

/// How often it looks whether readers have let go of old views.
const LET_GO: Duration = Duration::from_millis(20);
/// How long after a rebuild could not begin it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// What a rebuild leaves free on the disk beside the reserve, at most: about what it writes
/// until it looks again.
const ROOM_BYTES: u64 = 256 * 1024 * 1024;

/// The views in files.
#[derive(Clone)]
pub struct SqliteViews(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    log: LogId,
    segment_events: u64,
    log_end: Arc<dyn Fn() -> Position + Send + Sync>,
    /// Whether less than the reserve and so much more is free on the disk.
    lacks_room: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    live: RwLock<Arc<OneGeneration>>,
    /// One that is being built.
    next: Mutex<Option<Arc<OneGeneration>>>,
    pointer: Mutex<Pointer>,
    /// How far the log was when the rebuild looked last.
    total: AtomicU64,
    /// A rebuild waits for room, and that has been told.
    waits_for_room: AtomicBool,
    /// Counts swaps.
    swaps: watch::Sender<u64>,
    put_back: Arc<Notify>,
    asked: Notify,
    /// Removes old generations, one thread each.
    removers: Mutex<Vec<JoinHandle<()>>>,
    is_closing: AtomicBool,
}

/// Opens the views of a log, answers and log events; says why, if they have to be
/// filled anew.
pub(super) fn open(
    folder: PathBuf,
    events: &FjallEvents,
    segment_events: u64,
) -> Result<(SqliteViews, Option<String>), StartError> {
    let failed = |error| StartError::io(&folder, error);
    let pointer = Pointer::read(&folder).map_err(failed)?;
    pointer.remove_strays(&folder).map_err(failed)?;
    let (log, log_end, put_back) = (events.id(), events.clone(), Arc::new(Notify::new()));
    let disk = events.clone();
    let log_end: Arc<dyn Fn() -> Position + Send + Sync> = Arc::new(move || log_end.position());
    let [path, log_path] = pointer::paths(&folder, pointer.live);
    let lacks_room: Arc<dyn Fn(u64) -> bool + Send + Sync> = Arc::new(move |bytes| disk.lacks_room(bytes));
    let (log_end_of, put_back_of, lacks_room_of) = (log_end.clone(), put_back.clone(), lacks_room.clone());
    let place = Place {
        path,
        log_path,
        log,
        segment_events,
        log_end: log_end_of,
        lacks_room: lacks_room_of,
        put_back: put_back_of,
    };
    let (live, why) = generation::open(place, false)?;
    let shared = Shared {
        folder,
        log,
        segment_events,
        log_end,
        lacks_room,
        live: RwLock::new(Arc::new(live)),
        next: Mutex::default(),
        pointer: Mutex::new(pointer),
        total: AtomicU64::new(0),
        waits_for_room: AtomicBool::new(false),
        swaps: watch::Sender::new(0),
        put_back,
        asked: Notify::new(),
        removers: Mutex::default(),
        is_closing: AtomicBool::new(false),
    };
    Ok((SqliteViews(Arc::new(shared)), why))
}

impl SqliteViews {
    /// Bytes on disk, those of views that are being built too.
    pub fn size(&self) -> u64 {
        self.0.live().size() + self.0.next().map_or(0, |next| next.size())
    }

    /// Carries what is in memory to the files and closes them.
    pub fn close(&self) {
        self.0.is_closing.store(true, Ordering::Release);
        for remover in std::mem::take(&mut *self.0.removers.lock()) {
            if remover.join().is_err() {
                tracing::error!("the thread that removes old views panicked");
            }
        }
        if let Some(next) = self.0.next.lock().take() {
            next.close();
        }
        self.0.live().close();
    }

    /// A read that may touch many pages, away from the async threads.
    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&LogViews) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Seen<T>, StoreError> {
        let live = self.0.live();
        blocking(move || live.look(read)).await
    }
}

impl Shared {
    fn live(&self) -> Arc<OneGeneration> {
        self.live.read().clone()
    }

    fn next(&self) -> Option<Arc<OneGeneration>> {
        self.next.lock().clone()
    }

    fn generation(&self, which: Generation) -> Result<Arc<OneGeneration>, StoreError> {
        match which {
            Generation::Live => Ok(self.live()),
            Generation::Next => self.next().ok_or(StoreError::Conflict),
        }
    }

    fn is_rebuilding(&self) -> bool {
        self.pointer.lock().next.is_some()
    }

    /// The generation that is being built, opened or made if it is not there yet; none if
    /// no rebuild is asked for.
    fn built(&self) -> Result<Option<Arc<OneGeneration>>, StartError> {
        let Some(number) = self.pointer.lock().next else { return Ok(None) };
        if let Some(next) = self.next() {
            return Ok(Some(next));
        }
        let [path, log_path] = pointer::paths(&self.folder, number);
        let (log_end, lacks_room) = (self.log_end.clone(), self.lacks_room.clone());
        let (log, segment_events, put_back) = (self.log, self.segment_events, self.put_back.clone());
        let place = Place { path, log_path, log, segment_events, log_end, lacks_room, put_back };
        let next = Arc::new(generation::open(place, true)?.0);
        let mut place = self.next.lock();
        if self.is_closing.load(Ordering::Acquire) {
            next.close();
            return Ok(None);
        }
        Ok(Some(place.insert(next).clone()))
    }

    /// Whether the disk has room to build on; it says so when that changes for the worse.
    fn has_room(&self) -> bool {
        let lacks_room = (self.lacks_room)(self.live().size().min(ROOM_BYTES));
        if !self.waits_for_room.swap(lacks_room, Ordering::AcqRel) && lacks_room {
            tracing::warn!("the rebuild of the views waits: the disk has too little room for them");
        }
        !lacks_room
    }

    /// Throws away what has been built of the next generation, if this stream is parked
    /// in it. It is begun anew.
    fn discard_if_parked(&self, stream: &StreamId) {
        let is_parked = |next: &mut Arc<OneGeneration>| next.recent().parked(stream).is_some();
        if let Some(next) = self.next.lock().take_if(is_parked) {
            next.discard(&|| true);
        }
    }

    fn swap(self: &Arc<Self>, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError> {
        let (old, new) = (self.live(), self.generation(Generation::Next)?);
        if old.checkpoint() != live {
            return Err(StoreError::Conflict);
        }
        let to = live.max(next);
        if !new.settle(next, to, &old)? {
            return Ok(false);
        }
        let mut pointer = self.pointer.lock();
        let named = pointer.swapped(to.position(), clock::now()).ok_or(StoreError::Conflict)?;
        named.write(&self.folder).map_err(|error| StoreError::unavailable("the views", error))?;
        *pointer = named;
        drop(pointer);
        *self.next.lock() = None;
        *self.live.write() = new.clone();
        self.swaps.send_modify(|swaps| *swaps += 1);
        self.remove_behind(old, new);
        Ok(true)
    }

    /// Removes a generation when its last reader has let go of it, and what the building of
    /// the new one has left.
    fn remove_behind(self: &Arc<Self>, old: Arc<OneGeneration>, new: Arc<OneGeneration>) {
        let shared = self.clone();
        let remove = move || {
            let is_closing = || shared.is_closing.load(Ordering::Acquire);
            new.clean_up(&is_closing);
            drop(new);
            while Arc::strong_count(&old) > 1 && !is_closing() {
                std::thread::sleep(LET_GO);
            }
            old.discard(&is_closing);
        };
        let mut removers = self.removers.lock();
        removers.retain(|remover| !remover.is_finished());
        match std::thread::Builder::new().name("views-remover".into()).spawn(remove) {
            Ok(remover) => removers.push(remover),
            Err(error) => tracing::warn!(error = %error, "old views are not removed before the next start"),
        }
    }
}

#[async_trait]
impl ViewReader for SqliteViews {
    /// A look into memory or some pages of a file: cheaper here than a hop to
    /// another thread.
    async fn answer(&self, key: &Key) -> Result<Seen<Option<Answer>>, StoreError> {
        self.0.live().answer(key)
    }

    async fn answers(&self, query: AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        let live = self.0.live();
        blocking(move || live.page(&query)).await
    }

    /// Other views may become the live ones meanwhile, and these are no longer written.
    async fn reached(&self, position: Position) -> Result<(), StoreError> {
        let has_reached = |shared: &Shared| shared.live.read().reached().get() >= position.0;
        if has_reached(&self.0) {
            return Ok(());
        }
        let mut swaps = self.0.swaps.subscribe();
        loop {
            let mut reached = self.0.live.read().reached().watch();
            tokio::select! {
                // Their sender is gone when they are no longer the live ones.
                reached = reached.wait_for(|now| *now >= position.0) => if reached.is_ok() {
                    return Ok(());
                },
                _ = swaps.changed() => {}
            }
            if has_reached(&self.0) {
                return Ok(());
            }
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        Ok(Checkpoint::at(Position(self.0.live.read().reached().get())))
    }

    async fn parked(&self) -> Result<u64, StoreError> {
        Ok(self.0.live.read().recent().count_parked() as u64)
    }

    async fn parked_stream(&self, stream: &StreamId) -> Result<Option<Parked>, StoreError> {
        Ok(self.0.live.read().recent().parked(stream))
    }
}

#[async_trait]
impl LogReader for SqliteViews {
    /// Some pages of a file, as for an answer.
    async fn event(&self, which: EventRef) -> Result<Seen<Option<Record>>, StoreError> {
        self.0.live().look(|log| log.event(which))
    }

    async fn events(&self, query: EventsQuery) -> Result<Seen<EventsPage>, StoreError> {
        self.look(move |log| log.events(&query)).await
    }

    async fn count(&self, filter: &Filter) -> Result<Seen<u64>, StoreError> {
        let filter = filter.clone();
        self.look(move |log| log.count(&filter)).await
    }

    async fn stats(&self, query: StatsQuery) -> Result<Seen<Option<Vec<StatsRow>>>, StoreError> {
        self.look(move |log| log.stats(&query)).await
    }

    /// The position that is seen is that of before, so that what comes in between is
    /// not passed over.
    async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, StoreError> {
        let live = self.0.live();
        let to = Position(live.reached().get());
        let seen = blocking(move || live.look(|log| log.changes(after, to, limit))).await?;
        Ok(Seen { position: to, ..seen })
    }

    async fn session(&self, id: Uuid) -> Result<Seen<Option<Arc<Session>>>, StoreError> {
        self.0.live().look(|log| log.session(id))
    }

    async fn sessions(&self, query: ListQuery) -> Result<Seen<Page<Arc<Session>>>, StoreError> {
        self.look(move |log| log.sessions(query)).await
    }

    async fn rejection(&self, number: u64) -> Result<Seen<Option<Arc<Rejection>>>, StoreError> {
        self.0.live().look(|log| log.rejection(number))
    }

    async fn rejections(&self, query: ListQuery) -> Result<Seen<Page<Arc<Rejection>>>, StoreError> {
        self.look(move |log| log.rejections(query)).await
    }
}

#[async_trait]
impl ViewWriter for SqliteViews {
    async fn resume(&self, _log: LogId, _end: Position) -> Result<Checkpoint, StoreError> {
        Ok(self.0.live().checkpoint())
    }

    async fn apply(
        &self,
        generation: Generation,
        from: Checkpoint,
        changes: Changes,
        to: Checkpoint,
    ) -> Result<(), StoreError> {
        let views = self.0.generation(generation)?;
        blocking(move || match generation {
            Generation::Live => views.take(from, changes, to),
            Generation::Next => views.take_and_wait(from, changes, to),
        })
        .await
    }

    async fn interrupted(&self) {
        self.0.put_back.notified().await;
    }

    async fn parked(&self, generation: Generation) -> Result<Vec<Parked>, StoreError> {
        let views = self.0.generation(generation).ok();
        Ok(views.map_or_else(Vec::new, |views| views.recent().all_parked(None, usize::MAX)))
    }

    async fn replayed(&self, at: Checkpoint, replayed: Replayed) -> Result<(), StoreError> {
        let shared = self.0.clone();
        blocking(move || {
            // First: what mends the live views must not be undone by a swap, after a crash
            // neither.
            shared.discard_if_parked(&replayed.was.stream);
            shared.live().take_replayed(at, replayed)
        })
        .await
    }

    async fn asked(&self) {
        // A rebuild that is asked for and not under way could not begin.
        tokio::select! {
            () = self.0.asked.notified() => {}
            () = tokio::time::sleep(AGAIN), if self.0.is_rebuilding() => {}
        }
    }

    /// Views that cannot be built do not keep the live ones from being written.
    async fn rebuild(&self, head: Position) -> Result<Option<Checkpoint>, StoreError> {
        if !self.0.is_rebuilding() {
            return Ok(None);
        }
        self.0.total.store(head.0, Ordering::Release);
        let shared = self.0.clone();
        let built = blocking(move || {
            if !shared.has_room() {
                return Ok(None);
            }
            Ok(shared.built().unwrap_or_else(|error| {
                tracing::warn!(error = %error, "the rebuild of the views cannot begin; it is tried again");
                None
            }))
        });
        Ok(built.await?.map(|built| built.checkpoint()))
    }

    async fn swap(&self, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError> {
        let shared = self.0.clone();
        blocking(move || shared.swap(live, next)).await
    }
}

#[async_trait]
impl ViewOperator for SqliteViews {
    async fn parked_streams(&self, query: ParkedQuery) -> Result<Page<Parked>, StoreError> {
        let mut found = self.0.live().recent().all_parked(query.after.as_ref(), query.limit.saturating_add(1));
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        Ok(Page { found, more })
    }

    async fn ask_replay(&self, stream: Option<&StreamId>) -> Result<u64, StoreError> {
        let (live, stream) = (self.0.live(), stream.cloned());
        let count = blocking(move || live.ask_replay(stream.as_ref())).await?;
        self.0.asked.notify_one();
        Ok(count as u64)
    }

    async fn ask_rebuild(&self, now: Timestamp) -> Result<(), StoreError> {
        let shared = self.0.clone();
        blocking(move || {
            let mut pointer = shared.pointer.lock();
            let asked = pointer.asked(now).ok_or(StoreError::Conflict)?;
            asked.write(&shared.folder).map_err(|error| StoreError::unavailable("the views", error))?;
            *pointer = asked;
            shared.total.store(0, Ordering::Release);
            Ok(())
        })
        .await?;
        self.0.asked.notify_one();
        Ok(())
    }

    async fn rebuild_state(&self) -> Result<RebuildState, StoreError> {
        let Pointer { next, started_at, finished_at, done, .. } = self.0.pointer.lock().clone();
        let state = RebuildState {
            is_running: next.is_some(),
            done: Position(done),
            total: Position(done),
            started_at,
            finished_at,
        };
        if !state.is_running {
            return Ok(state);
        }
        let done = self.0.next().map_or(Position::START, |next| next.checkpoint().position());
        let total = Position(self.0.total.load(Ordering::Acquire)).max(self.0.live().checkpoint().position());
        Ok(RebuildState { done, total: total.max(done), ..state })
    }
}

#[async_trait]
impl Health for SqliteViews {
    async fn check(&self) -> Result<(), String> {
        self.0.live().check_filled().map_err(|_| "the views are being rebuilt from the log".into())
    }
}
