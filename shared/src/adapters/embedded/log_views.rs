//! The event log's half of the views: a SQLite file of its own, and in memory what is not
//! in the file yet (`young`).
//!
//! A load of changes is one transaction, together with the position that it leads
//! to, so the file is never torn. It is not synced: a power cut may take its last
//! transactions, and then projecting resumes where it is.

mod condition;
mod counts;
mod lists;
mod page;
mod plan;
mod segments;
mod snapshot;
mod tables;
mod text;
mod young;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OpenFlags, params};
use uuid::Uuid;

use self::segments::{Segment, of_number};
use self::snapshot::{Reader, Snapshot};
use self::text::Indexing;
use self::young::{Load, Young};
use super::generation::{failed, make, remove, size};
use super::recent::Taken;
use crate::adapters::in_memory::{record_of, rejection_size};
use crate::domain::filter::Filter;
use crate::domain::log_event::{LogEvent, Rejection, Session};
use crate::domain::projection::{EventChange, LogChange};
use crate::domain::stream::{Position, Revision};
use crate::ports::{
    EventRef, EventsPage, EventsQuery, ListQuery, LogId, Page, Record, StatsQuery, StatsRow, StoreError,
};

/// The version of the tables. Another one in the file: the views are rebuilt.
const FORMAT: i64 = 2;
/// Events in a segment.
pub(super) const SEGMENT_EVENTS: u64 = 256 * 1024;
/// Loads that may gather while a segment fills.
const LOADS: u64 = 4;
/// Bytes of a page of a new file. Rows and the entries of 13 indexes are on fewer pages,
/// each found in fewer steps, than with the usual 4 KiB.
const FILE_PAGE_BYTES: i64 = 8 * 1024;
/// Page cache of the writing connection and of each reading one, in KiB.
const WRITER_CACHE_KIB: i64 = 128 * 1024;
const READER_CACHE_KIB: i64 = 16 * 1024;
/// Pages that gather in the file's own log before they go to their places: most of them
/// are written again and again. And what is kept of that log's file.
const CHECKPOINT_PAGES: i64 = 16_000;
const JOURNAL_BYTES: i64 = 192 * 1024 * 1024;
/// Reading connections that are kept open.
const READERS: usize = 4;
/// Statements that a connection keeps prepared: some for each segment.
const STATEMENTS: usize = 512;
/// Rows that are checked in one go.
const CHECK_ROWS: usize = 10_000;

const CLOSED: StoreError = StoreError::Unavailable { what: "the views", source: None };

/// The event log's views in a file.
pub(super) struct LogViews {
    path: PathBuf,
    log: LogId,
    segment_events: u64,
    /// What is not in the file yet.
    young: Young,
    /// None once the views are closed, or when they could not be made anew.
    writer: Mutex<Option<Writer>>,
    readers: Mutex<Vec<Reader>>,
    /// Grows whenever the file is made anew.
    edition: AtomicU64,
    /// A position that covers all that can be seen in the file.
    covered: AtomicU64,
}

/// The connection that writes, and what it knows about the file.
pub(super) struct Writer {
    connection: Connection,
    position: Position,
    segments: Vec<Segment>,
    indexing: Option<Indexing>,
    segment_events: u64,
}

impl LogViews {
    /// The file of a log as it is, and how far it is, if it can be used.
    pub(super) fn existing(
        path: &Path,
        log: LogId,
        end: Position,
        check_whole: bool,
        segment_events: u64,
    ) -> Result<Self, String> {
        if !path.exists() {
            return Err("there are none of the event log".into());
        }
        let damaged = |error: rusqlite::Error| format!("those of the event log are damaged: {error}");
        let connection = connect(path, WRITER_CACHE_KIB).map_err(damaged)?;
        let (format, of, position) = connection
            .query_row("SELECT format, log, position FROM views", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, Position(row.get(2)?)))
            })
            .map_err(damaged)?;
        if format != FORMAT {
            return Err(format!("the format of those of the event log is {format}, not {FORMAT}"));
        }
        if of != log.0.to_string() {
            return Err(format!("those of the event log belong to log {of}, not to {}", log.0));
        }
        if position > end {
            return Err(format!("those of the event log are at {position}, ahead of the log, which ends at {end}"));
        }
        let broken = |error: StoreError| format!("those of the event log are damaged: {}", error.chain());
        if check_whole {
            super::generation::check_pages(&connection)?;
        }
        let segments = segments::read(&connection).map_err(broken)?;
        let views = Self::new(
            path,
            log,
            segment_events,
            Some(Writer { connection, position, segments, indexing: None, segment_events }),
        );
        if check_whole {
            views.check().map_err(broken)?;
            // What it has read need not stay in memory.
            views.readers.lock().clear();
        }
        Ok(views)
    }

    /// Throws away what is there and makes an empty file.
    pub(super) fn create(path: &Path, log: LogId, segment_events: u64) -> rusqlite::Result<Self> {
        let writer = Writer::create(path, log, segment_events)?;
        Ok(Self::new(path, log, segment_events, Some(writer)))
    }

    fn new(path: &Path, log: LogId, segment_events: u64, writer: Option<Writer>) -> Self {
        let position = writer.as_ref().map_or(0, |writer| writer.position.0);
        Self {
            path: path.into(),
            log,
            segment_events,
            young: Young::new(Position(position), usize::try_from(segment_events / LOADS).unwrap_or(usize::MAX).max(1)),
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            edition: AtomicU64::new(0),
            covered: AtomicU64::new(position),
        }
    }

    /// Bytes on disk.
    pub(super) fn size(&self) -> u64 {
        size(&self.path)
    }

    /// A position that covers all that has been read before this is called.
    pub(super) fn covered(&self) -> Position {
        Position(self.covered.load(Ordering::Acquire))
    }

    /// To be held while the file is written or made anew.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock()
    }

    /// Takes changes in the order of the log, but those that have been taken, to be read at
    /// once; waits while too much has gathered. Whether the views are where the changes
    /// begin is asked when nobody can empty them.
    pub(super) fn put(&self, changes: Vec<LogChange>, to: Position, is_its_place: impl FnOnce() -> bool) -> Taken {
        let is_its_place = || {
            let is_its_place = is_its_place();
            if is_its_place {
                self.covered.fetch_max(to.0, Ordering::AcqRel);
            }
            is_its_place
        };
        self.young.put(changes, to, is_its_place)
    }

    /// Carries the next load to the file, once it is worth it; none when all is carried and
    /// the views are closed. A load that could not be carried is the next one again.
    pub(super) fn carry_next(&self) -> Option<Result<(), StoreError>> {
        // Before the load is taken: when the file is made anew, what is in memory goes first.
        let edition = self.edition.load(Ordering::Acquire);
        let load = self.young.next_load()?;
        Some(self.carry(&load, edition))
    }

    /// Carries a load to the file, unless that was made anew since an edition.
    fn carry(&self, load: &Arc<Load>, edition: u64) -> Result<(), StoreError> {
        let mut writer = self.lock();
        if self.edition.load(Ordering::Acquire) != edition {
            return Ok(());
        }
        let writer = writer.as_mut().ok_or(CLOSED)?;
        if load.to() > writer.position {
            writer.write(load.to(), |batch| batch.carry(load))?;
        }
        self.young.carried(load);
        Ok(())
    }

    /// Waits a while until all is in the file; whether it is.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        self.young.flush(patience)
    }

    /// How many changes are not in the file.
    pub(super) fn waiting(&self) -> usize {
        self.young.waiting()
    }

    /// Forgets what is not in the file.
    pub(super) fn forget(&self) {
        self.young.clear();
    }

    /// Makes some more of the indexes that are not made with each event, where more segments
    /// than so many lack them; whether there may be more to do.
    pub(super) fn index_some(&self, spare: usize) -> Result<bool, StoreError> {
        let mut writer = self.lock();
        let Writer { connection, segments, indexing, .. } = writer.as_mut().ok_or(CLOSED)?;
        Ok(segments::order_one(connection, segments, spare)?
            || text::index_some(connection, segments, indexing, spare)?)
    }

    /// Notes that there are no changes up to a position but those that are in the file, if
    /// that is so.
    pub(super) fn advance(&self, writer: &mut Option<Writer>, to: Position) -> Result<(), StoreError> {
        let writer = writer.as_mut().ok_or(CLOSED)?;
        if to <= writer.position || !self.young.is_carried(to) {
            return Ok(());
        }
        writer.write(to, |_| Ok(()))
    }

    /// Writes the row of one event that was passed over when its turn was, durably. The
    /// views are at a place behind it, and all that was taken is in the file.
    pub(super) fn mend(&self, writer: &mut Option<Writer>, at: Position, change: &LogChange) -> Result<(), StoreError> {
        let writer = writer.as_mut().ok_or(CLOSED)?;
        self.covered.fetch_max(at.0, Ordering::AcqRel);
        writer.durably(|writer| writer.write(at.max(writer.position), |batch| batch.mend(change)))
    }

    /// Makes all that was taken durable, up to a position behind which there is no more;
    /// it is in the file already.
    pub(super) fn sync(&self, writer: &mut Option<Writer>, to: Position) -> Result<(), StoreError> {
        let writer = writer.as_mut().ok_or(CLOSED)?;
        self.covered.fetch_max(to.0, Ordering::AcqRel);
        writer.durably(|writer| writer.write(to.max(writer.position), |_| Ok(())))
    }

    /// How far the file is.
    pub(super) fn position(&self) -> Position {
        self.lock().as_ref().map_or(Position::START, |writer| writer.position)
    }

    /// Empties the file.
    pub(super) fn recreate(&self, writer: &mut Option<Writer>) -> rusqlite::Result<()> {
        *writer = None;
        self.young.clear();
        self.edition.fetch_add(1, Ordering::AcqRel);
        self.readers.lock().clear();
        *writer = Some(Writer::create(&self.path, self.log, self.segment_events)?);
        self.covered.store(0, Ordering::Release);
        Ok(())
    }

    /// Takes no more; what was taken is still carried.
    pub(super) fn take_no_more(&self) {
        self.young.close();
    }

    pub(super) fn close(&self) {
        self.readers.lock().clear();
        if let Some(writer) = self.lock().take()
            && let Err((_, error)) = writer.connection.close()
        {
            tracing::warn!(error = %error, "the views of the event log could not be closed");
        }
    }

    /// Runs a read on a connection of the pool, and on what is in memory.
    fn read<T>(&self, read: impl FnOnce(&mut Snapshot<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // Memory first: what leaves it meanwhile is in the file then.
        let look = self.young.look();
        let now = self.edition.load(Ordering::Acquire);
        let pooled = self.readers.lock().pop().filter(|reader| reader.edition == now);
        let reader = match pooled {
            Some(reader) => reader,
            None => connect(&self.path, READER_CACHE_KIB)
                .and_then(|connection| Reader::new(connection, now))
                .map_err(failed)?,
        };
        let found = read(&mut Snapshot::new(&reader, look)?)?;
        let mut readers = self.readers.lock();
        if readers.len() < READERS && self.edition.load(Ordering::Acquire) == now {
            readers.push(reader);
        }
        Ok(found)
    }

    pub(super) fn event(&self, which: EventRef) -> Result<Option<Record>, StoreError> {
        if let EventRef::Id(id) = which
            && let Some(change) = self.young.find(id)
        {
            return Ok(record_of(&change));
        }
        self.read(|snapshot| {
            let number = match which {
                EventRef::Number(number) => Some(number),
                EventRef::Id(id) => page::number_of(snapshot, id)?,
            };
            let found = number.map(|number| page::record(snapshot, number)).transpose()?.flatten();
            Ok(found.map(|(record, _)| record))
        })
    }

    pub(super) fn events(&self, query: &EventsQuery) -> Result<EventsPage, StoreError> {
        self.read(|snapshot| page::page(snapshot, query))
    }

    pub(super) fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.read(|snapshot| counts::count(snapshot, filter))
    }

    pub(super) fn stats(&self, query: &StatsQuery) -> Result<Option<Vec<StatsRow>>, StoreError> {
        self.read(|snapshot| counts::stats(snapshot, query))
    }

    pub(super) fn changes(&self, after: Position, to: Position, limit: usize) -> Result<Vec<EventChange>, StoreError> {
        self.read(|snapshot| lists::changes(snapshot, after, to, limit))
    }

    pub(super) fn session(&self, id: Uuid) -> Result<Option<Arc<Session>>, StoreError> {
        match self.young.session(id) {
            Some(session) => Ok(Some(session)),
            None => self.read(|snapshot| Ok(lists::session(snapshot.connection(), id)?.map(Arc::new))),
        }
    }

    pub(super) fn sessions(&self, query: ListQuery) -> Result<Page<Arc<Session>>, StoreError> {
        let mut pages = self.young.sessions(query);
        pages.push(self.read(|snapshot| lists::sessions(snapshot.connection(), query))?);
        Ok(lists::merge(pages, query, |session| (session.created_at, session.id), |_| 0))
    }

    pub(super) fn rejection(&self, number: u64) -> Result<Option<Arc<Rejection>>, StoreError> {
        match self.young.rejection(number) {
            Some(rejection) => Ok(Some(rejection)),
            None => self.read(|snapshot| Ok(lists::rejection(snapshot.connection(), number)?.map(Arc::new))),
        }
    }

    pub(super) fn rejections(&self, query: ListQuery) -> Result<Page<Arc<Rejection>>, StoreError> {
        let mut pages = self.young.rejections(query);
        pages.push(self.read(|snapshot| lists::rejections(snapshot.connection(), query))?);
        Ok(lists::merge(pages, query, |rejection| (rejection.created_at, rejection.id), rejection_size))
    }

    /// Reads every row and checks its checksum; some at a time, so that the file's own
    /// log can be emptied in between.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for segment in self.read(|snapshot| snapshot.segments())?.iter() {
            let mut after = None;
            loop {
                let (last, rows) = self
                    .read(|snapshot| tables::check_events(snapshot.connection(), segment.ordinal, after, CHECK_ROWS))?;
                after = last.or(after);
                if rows < CHECK_ROWS {
                    break;
                }
            }
        }
        self.read(|snapshot| tables::check_others(snapshot.connection()))
    }
}

impl Writer {
    fn create(path: &Path, log: LogId, segment_events: u64) -> rusqlite::Result<Self> {
        remove(path)?;
        make(path)?;
        let mut connection = connect(path, WRITER_CACHE_KIB)?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(tables::SCHEMA)?;
        transaction.execute("INSERT INTO views VALUES (1, ?1, ?2, 0)", params![FORMAT, log.0.to_string()])?;
        transaction.commit()?;
        Ok(Self { connection, position: Position::START, segments: Vec::new(), indexing: None, segment_events })
    }

    /// Writes in a transaction, together with the position that it leads to.
    fn write(
        &mut self,
        to: Position,
        write: impl FnOnce(&mut Batch<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction().map_err(failed)?;
        let mut segments = self.segments.clone();
        let (indexing, segment_events) = (self.indexing.as_ref(), self.segment_events);
        write(&mut Batch { connection: &transaction, segments: &mut segments, segment_events, indexing })?;
        for segment in segments.iter().zip(0..).filter(|(segment, at)| self.segments.get(*at) != Some(*segment)) {
            segments::write(&transaction, segment.0)?;
        }
        transaction
            .prepare_cached("UPDATE views SET position = ?1")
            .and_then(|mut update| update.execute([to.0]))
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        self.segments = segments;
        self.position = to;
        Ok(())
    }

    /// Writes so that it is on disk, with all that was written before.
    fn durably(&mut self, write: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let synchronous = |writer: &Self, how| writer.connection.pragma_update(None, "synchronous", how);
        synchronous(self, "FULL").map_err(failed)?;
        let written = write(self);
        synchronous(self, "NORMAL").map_err(failed)?;
        written
    }
}

/// A transaction of changes.
struct Batch<'a> {
    connection: &'a Connection,
    segments: &'a mut Vec<Segment>,
    segment_events: u64,
    /// The index of texts that is being made.
    indexing: Option<&'a Indexing>,
}

impl Batch<'_> {
    fn carry(&mut self, load: &Load) -> Result<(), StoreError> {
        load.recorded().try_for_each(|change| self.put_new(change))?;
        load.changed().try_for_each(|change| self.put(change))?;
        load.others().all_sessions().try_for_each(|session| tables::insert_session(self.connection, session))?;
        load.others().all_rejections().try_for_each(|rejection| tables::insert_rejection(self.connection, rejection))
    }

    /// Puts an event that was recorded behind all that is there, as it is since.
    fn put_new(&mut self, change: &EventChange) -> Result<(), StoreError> {
        let EventChange { id, number, event, revision, position } = change;
        if *number != position.0 {
            tables::insert_amended(self.connection, *position, *number, *id, *revision, event.is_none())?;
        }
        let Some(event) = event else { return Ok(()) };
        let at = self.segment_of(*number, true)?;
        self.insert(at, event, *revision, *position)
    }

    fn insert(
        &mut self,
        at: usize,
        event: &LogEvent,
        revision: Revision,
        position: Position,
    ) -> Result<(), StoreError> {
        let segment = &mut self.segments[at];
        tables::insert_event(self.connection, segment.ordinal, event, revision, position)?;
        segment.count += 1;
        segment.reach(event.members.timestamp, event.created_at);
        Ok(())
    }

    fn put(&mut self, change: &EventChange) -> Result<(), StoreError> {
        let EventChange { id, number, event, revision, position } = change;
        let is_recording = *number == position.0 && event.is_some();
        let at = self.segment_of(*number, is_recording)?;
        let segment = &mut self.segments[at];
        if !is_recording {
            segment.count -= tables::remove_event(self.connection, segment.ordinal, *number)?;
            tables::insert_amended(self.connection, *position, *number, *id, *revision, event.is_none())?;
        }
        event.as_ref().map_or(Ok(()), |event| self.insert(at, event, *revision, *position))
    }

    /// As `carry`, of a change that stands among those that are there: it begins no
    /// segment, and what is in its place goes. An index of texts that has passed it
    /// gets it too, unless it was there.
    fn mend(&mut self, change: &LogChange) -> Result<(), StoreError> {
        let EventChange { id, number, event, revision, position } = match change {
            LogChange::Event(change) => change,
            LogChange::Session(session) => return tables::insert_session(self.connection, session),
            LogChange::Rejection(rejection) => return tables::insert_rejection(self.connection, rejection),
        };
        let at = self.segment_of(*number, false)?;
        let segment = &mut self.segments[at];
        let removed = tables::remove_event(self.connection, segment.ordinal, *number)?;
        segment.count -= removed;
        let Some(event) = event else {
            return tables::insert_amended(self.connection, *position, *number, *id, *revision, true);
        };
        if *number != position.0 {
            tables::insert_amended(self.connection, *position, *number, *id, *revision, false)?;
        } else if removed == 0 {
            text::index_one(self.connection, segment, self.indexing, event)?;
        }
        self.insert(at, event, *revision, *position)
    }

    /// Where the event with a number belongs. A recording behind a full segment begins
    /// a new one: no number that came before is as large.
    fn segment_of(&mut self, number: u64, is_recording: bool) -> Result<usize, StoreError> {
        match (of_number(self.segments, number), self.segments.last()) {
            (_, None) => self.begin(0, 0),
            (_, Some(last)) if is_recording && last.count >= self.segment_events => {
                let next = last.ordinal + 1;
                self.begin(next, number)
            }
            (found, Some(_)) => Ok(found.unwrap_or(0)),
        }
    }

    fn begin(&mut self, ordinal: usize, first: u64) -> Result<usize, StoreError> {
        self.segments.push(segments::create(self.connection, ordinal, first)?);
        Ok(self.segments.len() - 1)
    }
}

fn connect(path: &Path, cache_kib: i64) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // Before anything is in the file.
    connection.pragma_update(None, "page_size", FILE_PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}
