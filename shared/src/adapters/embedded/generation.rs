//! One generation of the views, in two SQLite files: one for the answers, here, and
//! one for the event log (`log_views`).
//!
//! Answers that were projected last are in memory (`recent`) and can be read there; a
//! thread of its own carries them to the file in the order of the keys, the last rows
//! together with the checkpoint. While a generation is built beside another one its
//! answers are sorted first (`runs`). Log events have loads of their own. Each file knows
//! how far it is; projecting resumes at the smaller position, and each half passes over
//! what it has seen. A crash repeats some of the log and loses nothing.
//!
//! The files belong to one log, never run ahead of it, and carry a checksum in
//! each row; where one of these does not hold, they are thrown away and filled again,
//! and until they have caught up reads fail instead of showing less than there was.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::sync::{Cache, GuardResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::Notify;

use super::log_views::{LogViews, Writer as LogWriter};
use super::recent::{Load, Recent, Row as RecentRow, Taken};
use super::runs::Runs;
use super::start::StartError;
use super::{parked, pointer, runs};
use crate::adapters::progress::Progress;
use crate::adapters::{PAGE_BYTES, end_of_prefix, start_of};
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::{Change, Changes, LogChange, Parked};
use crate::domain::stream::{Position, Revision, StreamId};
use crate::ports::{AnswersPage, AnswersQuery, Checkpoint, LogId, Replayed, Seen, StoreError};

/// The version of the tables. Another one in the file: the views are rebuilt.
const FORMAT: i64 = 1;
/// What the cache of rows may take.
const CACHE_BYTES: u64 = 160 * 1024 * 1024;
/// What an entry of the cache takes beside its texts, about.
const ENTRY_BYTES: usize = 160;
/// Of so many reads of a full cache one may put a row into it.
const ADMITTED: u32 = 8;
/// After so many reads of a thread it looks whether the cache is full.
const LOOK_AT_CACHE: u32 = 1_024;
/// Page cache of the writing connection and of each reading one, in KiB.
const WRITER_CACHE_KIB: i64 = 64 * 1024;
const READER_CACHE_KIB: i64 = 32 * 1024;
/// Reading connections that are kept open.
const READERS: usize = 4;
/// Files up to this size are checked whole before the start, larger ones behind it.
const CHECK_AT_START_BYTES: u64 = 64 * 1024 * 1024;
/// Rows that are checked in one go.
const CHECK_ROWS: usize = 10_000;
/// Rows that are written in one transaction.
const ROWS_AT_ONCE: usize = 512;
/// The same of rows whose keys are next to each other: they are on few pages.
const MERGED_AT_ONCE: usize = 4 * 1024;
/// What a merge of rows leaves free on the disk beside the reserve.
const MERGE_ROOM_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes by which a file that is not needed any more is made smaller, and how often.
const SHRUNK_AT_ONCE: u64 = 8 * 1024 * 1024;
const SHRINKING: Duration = Duration::from_millis(20);
/// How long to wait after a failed write.
const RETRY: Duration = Duration::from_secs(1);

const SCHEMA: &str = "
    CREATE TABLE views (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        format INTEGER NOT NULL,
        log TEXT NOT NULL,
        position INTEGER NOT NULL
    );
    CREATE TABLE answers (
        key TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL,
        position INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
";

/// Rows that are carried while a swap waits for them.
const CARRIED_IN_SWAP: usize = 16 * 1024;
/// How long a swap waits for that.
const SWAP_PATIENCE: Duration = Duration::from_millis(250);

/// While more events a second than this are projected, over so long, the indexes of the event
/// log that can wait are not made, as long as no more than so many segments lack them.
const BUSY_RATE: f64 = 5_000.0;
const BUSY_FOR: Duration = Duration::from_millis(250);
const UNINDEXED_MAX: usize = 16;

/// How long a replay waits for the event log's file to have all that was taken.
const PATIENCE: Duration = Duration::from_secs(5);

const CLOSED: StoreError = StoreError::Unavailable { what: "the views", source: None };
const REBUILDING: StoreError =
    StoreError::Unavailable { what: "the read store, which is being rebuilt,", source: None };

thread_local! {
    /// Reads of this thread.
    static READS: Cell<u32> = const { Cell::new(0) };
}

/// One generation. Whoever reads it holds the `Arc` around it, its threads do not.
pub(super) struct OneGeneration(Arc<Inner>);

/// Where a generation is, and of which log.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) log_path: PathBuf,
    pub(super) log: LogId,
    pub(super) segment_events: u64,
    /// The last durable position of the log.
    pub(super) log_end: Arc<dyn Fn() -> Position + Send + Sync>,
    /// Whether less than the reserve and so much more is free on the disk.
    pub(super) lacks_room: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    /// Told when a generation was emptied.
    pub(super) put_back: Arc<Notify>,
}

struct Inner {
    place: Place,
    /// None once the views are closed.
    writer: Mutex<Option<Writer>>,
    /// Rows in runs.
    unmerged: AtomicU64,
    /// What is in runs is to be merged before anything else is written.
    is_merge_due: AtomicBool,
    readers: Mutex<Vec<Reader>>,
    /// Odd while the file is being written, and another number after each write.
    writes: AtomicU64,
    cache_is_full: AtomicBool,
    /// Grows whenever the files are made anew.
    edition: AtomicU64,
    cache: Cache<Key, CachedRow, Weigh>,
    recent: Recent,
    log_views: LogViews,
    reached: Progress,
    /// No row is of a later position.
    newest: AtomicU64,
    /// Until the views are there, reads fail.
    filled_at: AtomicU64,
    carrier: Mutex<Option<JoinHandle<()>>>,
    log_carrier: Mutex<Option<JoinHandle<()>>>,
    indexer: Mutex<Option<JoinHandle<()>>>,
    is_closing: AtomicBool,
}

/// The connection that writes, and the rows that are sorted before they go there.
struct Writer {
    connection: Connection,
    /// None where rows are not sorted, or not any more.
    runs: Option<Runs>,
}

/// A connection that reads.
struct Reader {
    connection: Connection,
    /// Of the file that it reads.
    edition: u64,
    /// Since which write it holds its view of the file: to take and give back the
    /// locks of one costs more than to find a row.
    holds: Option<u64>,
}

impl Reader {
    /// Holds on to the file as it is, if nobody writes to it; lets go of an older view.
    fn hold(&mut self, writes: u64) -> rusqlite::Result<()> {
        let wanted = writes.is_multiple_of(2).then_some(writes);
        if self.holds != wanted {
            self.let_go()?;
            if wanted.is_some() {
                self.connection.execute_batch("BEGIN")?;
            }
            self.holds = wanted;
        }
        Ok(())
    }

    fn let_go(&mut self) -> rusqlite::Result<()> {
        match self.holds.take() {
            Some(_) => self.connection.execute_batch("COMMIT"),
            None => Ok(()),
        }
    }
}

#[derive(Clone)]
struct CachedRow {
    value: Arc<str>,
    revision: Revision,
    position: Position,
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Key, CachedRow> for Weigh {
    fn weight(&self, key: &Key, row: &CachedRow) -> u64 {
        (key.as_str().len() + row.value.len() + ENTRY_BYTES) as u64
    }
}

/// Opens a generation, one that is live or one that is to be built; says why, if it has
/// to be filled anew.
pub(super) fn open(place: Place, is_built: bool) -> Result<(OneGeneration, Option<String>), StartError> {
    let Place { path, log_path, log, segment_events, .. } = &place;
    let end = (place.log_end)();
    let failed = |path: &Path, source| StartError::Views { path: path.into(), source };
    let mut why = None;
    let Found { writer, log_views, position, parked } = match existing_both(&place, is_built, end) {
        Ok(found) => found,
        Err(reason) => {
            why = Some(reason).filter(|_| end > Position::START);
            let writer = Writer::create(path, *log, is_built).map_err(|error| failed(path, error))?;
            let log_views =
                LogViews::create(log_path, *log, *segment_events).map_err(|error| failed(log_path, error))?;
            Found { writer, log_views, position: Position::START, parked: Vec::new() }
        }
    };
    let filled_at = if why.is_some() { end.0 } else { 0 };
    let is_sound = why.is_none() && !is_small(path, log_path);
    let inner = Arc::new(Inner {
        unmerged: AtomicU64::new(writer.runs.as_ref().map_or(0, Runs::rows)),
        is_merge_due: AtomicBool::new(false),
        writer: Mutex::new(Some(writer)),
        readers: Mutex::default(),
        writes: AtomicU64::new(0),
        cache_is_full: AtomicBool::new(false),
        edition: AtomicU64::new(0),
        cache: Cache::with_weighter(CACHE_BYTES as usize / 256, CACHE_BYTES, Weigh),
        recent: Recent::new(position, parked),
        log_views,
        reached: Progress::new(position.0),
        // After a crash some rows may be newer than the checkpoint, but not than the log.
        newest: AtomicU64::new(if why.is_some() { 0 } else { position.max(end).0 }),
        filled_at: AtomicU64::new(filled_at),
        carrier: Mutex::default(),
        log_carrier: Mutex::default(),
        indexer: Mutex::default(),
        is_closing: AtomicBool::new(false),
        place,
    });
    let (carrier, log_carrier, indexer) = (inner.clone(), inner.clone(), inner.clone());
    let failed = |error| StartError::io(&inner.place.path, error);
    let start = |name: &str| std::thread::Builder::new().name(name.into());
    *inner.carrier.lock() = Some(start("views-writer").spawn(move || carrier.carry()).map_err(failed)?);
    *inner.log_carrier.lock() = Some(start("log-views-writer").spawn(move || log_carrier.carry_log()).map_err(failed)?);
    *inner.indexer.lock() = Some(start("views-indexer").spawn(move || indexer.index_log()).map_err(failed)?);
    let generation = OneGeneration(inner);
    if is_sound {
        generation.check_behind();
    }
    Ok((generation, why))
}

fn is_small(path: &Path, log_path: &Path) -> bool {
    size(path) + size(log_path) <= CHECK_AT_START_BYTES
}

/// Files that can be used, from where on the log is to be projected, and what is parked.
struct Found {
    writer: Writer,
    log_views: LogViews,
    position: Position,
    parked: Vec<Parked>,
}

/// Both files as they are, if they can be used.
fn existing_both(place: &Place, is_built: bool, end: Position) -> Result<Found, String> {
    let Place { path, log_path, log, segment_events, .. } = place;
    let check_whole = is_small(path, log_path);
    let (connection, position, parked) = existing(path, *log, end, check_whole)?;
    let log_views = LogViews::existing(log_path, *log, end, check_whole, *segment_events)?;
    let position = position.min(log_views.position());
    let runs = if is_built { Runs::existing(path, &connection) } else { runs::expect_none(path, &connection) };
    let runs = runs.map_err(|error| format!("they are damaged: {}", error.chain()))?;
    Ok(Found { writer: Writer { connection, runs }, log_views, position, parked })
}

/// The answers as they are, if they can be used.
fn existing(
    path: &Path,
    log: LogId,
    end: Position,
    check_whole: bool,
) -> Result<(Connection, Position, Vec<Parked>), String> {
    if !path.exists() {
        return Err("there are none".into());
    }
    let damaged = |error: rusqlite::Error| format!("they are damaged: {error}");
    let connection = connect(path, WRITER_CACHE_KIB).map_err(damaged)?;
    let (format, of, position) = connection
        .query_row("SELECT format, log, position FROM views", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .map_err(damaged)?;
    let position = Position(u64::try_from(position).unwrap_or(u64::MAX));
    if format != FORMAT {
        return Err(format!("their format is {format}, not {FORMAT}"));
    }
    if of != log.0.to_string() {
        return Err(format!("they belong to log {of}, not to {}", log.0));
    }
    if position > end {
        return Err(format!("they are at position {position}, ahead of the log, which ends at {end}"));
    }
    if check_whole {
        check_pages(&connection)?;
        check_rows(&connection).map_err(|error| format!("they are damaged: {}", error.chain()))?;
    }
    connection.execute_batch(parked::SCHEMA).map_err(damaged)?;
    connection.execute_batch(runs::SCHEMA).map_err(damaged)?;
    let parked = parked::read(&connection).map_err(|error| format!("they are damaged: {}", error.chain()))?;
    Ok((connection, position, parked))
}

pub(super) fn check_pages(connection: &Connection) -> Result<(), String> {
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Ok(text) if text == "ok" => Ok(()),
        Ok(text) => Err(format!("they are damaged: {text}")),
        Err(error) => Err(format!("they are damaged: {error}")),
    }
}

/// Reads every row and checks its checksum and order; some at a time, so that the
/// file's own log can be emptied in between.
fn check_rows(connection: &Connection) -> Result<(), StoreError> {
    let mut last: Option<Key> = None;
    loop {
        let after = last.as_ref().map(|key| key.as_str().to_owned());
        let query = AnswersQuery { prefix: String::new(), after, limit: 0 };
        let mut statement = PageStatement::new(connection, &query)?;
        let mut rows = statement.rows(&query)?;
        let mut read = 0;
        while read < CHECK_ROWS
            && let Some((key, _)) = rows.next()?
        {
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(StoreError::Corrupt { what: "the order of the views".into(), source: None });
            }
            last = Some(key);
            read += 1;
        }
        if read < CHECK_ROWS {
            return Ok(());
        }
    }
}

/// Removes a file of SQLite, and what belongs to it.
pub(super) fn remove(path: &Path) -> rusqlite::Result<()> {
    let mut names = pointer::SUFFIXES.iter().map(|suffix| pointer::with_suffix(path, suffix));
    let removed = names.try_for_each(|name| pointer::remove(&name));
    removed.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Takes the disk from a file bit by bit: one that is told of many free blocks at once
/// holds up the syncs of others, by 25 ms for 200 MB.
fn shrink(path: &Path, is_hurried: &dyn Fn() -> bool) -> io::Result<()> {
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut left = file.metadata()?.len();
    while left > SHRUNK_AT_ONCE && !is_hurried() {
        left -= SHRUNK_AT_ONCE;
        file.set_len(left)?;
        std::thread::sleep(SHRINKING);
    }
    Ok(())
}

/// Makes an empty file. Readers make none: the one that they look for may be gone.
pub(super) fn make(path: &Path) -> rusqlite::Result<()> {
    let made = File::create(path);
    made.map(drop).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Throws away what is there and makes empty views.
fn create(path: &Path, log: LogId) -> rusqlite::Result<Connection> {
    remove(path)?;
    make(path)?;
    let mut connection = connect(path, WRITER_CACHE_KIB)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(parked::SCHEMA)?;
    transaction.execute_batch(runs::SCHEMA)?;
    transaction.execute("INSERT INTO views VALUES (1, ?1, ?2, 0)", params![FORMAT, log.0.to_string()])?;
    transaction.commit()?;
    Ok(connection)
}

impl Writer {
    /// Throws away what is there and makes empty views, whose rows are sorted first or not.
    fn create(path: &Path, log: LogId, is_sorting: bool) -> rusqlite::Result<Self> {
        let connection = create(path, log)?;
        let runs = is_sorting.then(|| Runs::create(path)).transpose();
        Ok(Self { connection, runs: runs.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))? })
    }
}

/// Opens a file that is there.
fn connect(path: &Path, cache_kib: i64) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Each transaction of the carrier is synced by itself: a sync of all that has
    // gathered until a checkpoint would hold up the log's own syncs.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", 2_000)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

pub(super) fn size(path: &Path) -> u64 {
    let size = |suffix| std::fs::metadata(pointer::with_suffix(path, suffix)).map_or(0, |file| file.len());
    pointer::SUFFIXES.into_iter().map(size).sum()
}

fn checksum(key: &str, value: &str, revision: u64, position: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&revision.to_be_bytes());
    hasher.update(&position.to_be_bytes());
    hasher.update(key.as_bytes());
    hasher.update(&[0]);
    hasher.update(value.as_bytes());
    hasher.finalize()
}

/// A row whose checksum fits.
fn cached_row(key: &str, row: &Row<'_>, at: usize) -> Result<CachedRow, StoreError> {
    let columns = || -> rusqlite::Result<_> {
        let value = row.get_ref(at)?.as_str()?;
        let (revision, position, sum): (u64, u64, u32) = (row.get(at + 1)?, row.get(at + 2)?, row.get(at + 3)?);
        Ok((value, revision, position, sum))
    };
    let (value, revision, position, sum) = columns().map_err(failed)?;
    if sum != checksum(key, value, revision, position) {
        return Err(StoreError::Corrupt { what: "a row of the views".into(), source: None });
    }
    Ok(CachedRow { value: value.into(), revision: Revision(revision), position: Position(position) })
}

pub(super) fn failed(error: rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match (&error, error.sqlite_error_code()) {
        (_, Some(DatabaseCorrupt | NotADatabase)) => StoreError::corrupt("the views", error),
        // What is stored is not what was written. Nothing else may pass for that: views
        // that are corrupt are thrown away.
        (
            Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::QueryReturnedNoRows,
            _,
        ) => StoreError::corrupt("the views", error),
        _ => StoreError::unavailable("the views", error),
    }
}

/// The statement behind a page.
struct PageStatement<'a>(rusqlite::CachedStatement<'a>);

/// The rows of a page, one after the other.
struct PageRows<'a>(rusqlite::Rows<'a>);

impl<'a> PageStatement<'a> {
    fn new(connection: &'a Connection, query: &AnswersQuery) -> Result<Self, StoreError> {
        let after = if start_of(query).1 { ">" } else { ">=" };
        let end = if end_of_prefix(&query.prefix).is_some() { "key < ?2" } else { "?2 IS NULL" };
        let columns = "key, value, revision, position, checksum";
        let sql = format!("SELECT {columns} FROM answers WHERE key {after} ?1 AND {end} ORDER BY key");
        connection.prepare_cached(&sql).map(Self).map_err(failed)
    }

    fn rows(&mut self, query: &AnswersQuery) -> Result<PageRows<'_>, StoreError> {
        let (start, _) = start_of(query);
        self.0.query(params![start, end_of_prefix(&query.prefix)]).map(PageRows).map_err(failed)
    }
}

impl PageRows<'_> {
    fn next(&mut self) -> Result<Option<(Key, CachedRow)>, StoreError> {
        let Some(row) = self.0.next().map_err(failed)? else { return Ok(None) };
        let no_text = |error| StoreError::corrupt("a key of the views", error);
        let key = Key::from_stored(row.get_ref(0).map_err(failed)?.as_str().map_err(no_text)?);
        let cached = cached_row(key.as_str(), row, 1)?;
        Ok(Some((key, cached)))
    }
}

impl OneGeneration {
    /// Bytes on disk.
    pub(super) fn size(&self) -> u64 {
        size(&self.0.place.path) + self.0.log_views.size()
    }

    /// Carries what is in memory to the files and closes them.
    pub(super) fn close(&self) {
        self.0.recent.close();
        self.0.log_views.take_no_more();
        self.0.is_closing.store(true, Ordering::Release);
        if let Some(indexer) = self.0.indexer.lock().take() {
            indexer.thread().unpark();
            if indexer.join().is_err() {
                tracing::error!("the thread that indexes the views panicked");
            }
        }
        for carrier in [&self.0.carrier, &self.0.log_carrier] {
            if let Some(carrier) = carrier.lock().take()
                && carrier.join().is_err()
            {
                tracing::error!("a thread that writes the views panicked");
            }
        }
        self.0.readers.lock().clear();
        if let Some(writer) = self.0.writer.lock().take()
            && let Err((_, error)) = writer.connection.close()
        {
            tracing::warn!(error = %error, "the views could not be closed");
        }
        self.0.log_views.close();
    }

    /// Closes it and removes its files, gently unless there is a hurry.
    pub(super) fn discard(&self, is_hurried: &dyn Fn() -> bool) {
        // What is being carried ends at the next transaction.
        self.0.edition.fetch_add(1, Ordering::AcqRel);
        self.0.recent.clear();
        self.0.log_views.forget();
        self.close();
        for path in [&self.0.place.path, &self.0.place.log_path] {
            let shrunk =
                shrink(path, is_hurried).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)));
            if let Err(error) = shrunk.and_then(|()| remove(path)) {
                tracing::warn!(error = %error, "old views could not be removed; the next start does it");
            }
        }
    }

    /// Removes what is left of the sorting of rows that are merged, gently unless there is
    /// a hurry.
    pub(super) fn clean_up(&self, is_hurried: &dyn Fn() -> bool) {
        let runs = runs::path(&self.0.place.path);
        if let Err(error) = shrink(&runs, is_hurried).and_then(|()| pointer::remove(&runs)) {
            tracing::warn!(error = %error, "rows that were sorted could not be removed; the next start does it");
        }
    }

    /// Checks both files while they are in use; damage empties them to be filled anew.
    fn check_behind(&self) {
        let inner = self.0.clone();
        let check = move || {
            let begun = Instant::now();
            match inner.read(check_rows).and_then(|()| inner.read_log(LogViews::check)) {
                Ok(()) => tracing::info!(took = ?begun.elapsed(), "the views were checked and are sound"),
                Err(_) if inner.is_closing.load(Ordering::Acquire) => {}
                Err(error) => tracing::warn!(error = %error.chain(), "the views could not be checked"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("check-views".into()).spawn(check) {
            tracing::warn!(error = %error, "the views cannot be checked");
        }
    }

    /// How far it can be read.
    pub(super) fn reached(&self) -> &Progress {
        &self.0.reached
    }

    /// Where projecting goes on.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::at(self.0.recent.position())
    }

    /// What is parked.
    pub(super) fn recent(&self) -> &Recent {
        &self.0.recent
    }

    /// Fails while the views are being filled.
    pub(super) fn check_filled(&self) -> Result<(), StoreError> {
        self.0.check_filled()
    }

    /// The live answer of a key.
    pub(super) fn answer(&self, key: &Key) -> Result<Seen<Option<Answer>>, StoreError> {
        self.0.check_filled()?;
        let Seen { found, position } = self.0.row(key)?;
        let answer = |row: CachedRow| Answer { key: key.clone(), value: row.value, revision: row.revision };
        Ok(Seen { found: found.map(answer), position })
    }

    /// A page of answers.
    pub(super) fn page(&self, query: &AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        self.0.check_filled()?;
        self.0.page(query)
    }

    /// Reads the event log's views, once they are filled, and says what covers that.
    pub(super) fn look<T>(&self, read: impl FnOnce(&LogViews) -> Result<T, StoreError>) -> Result<Seen<T>, StoreError> {
        self.0.look(read)
    }

    /// Takes changes into memory, where they can be read at once.
    pub(super) fn take(&self, from: Checkpoint, changes: Changes, to: Checkpoint) -> Result<(), StoreError> {
        self.0.take(from, changes, to)
    }

    /// As `take`, and waits afterwards while too much has gathered: so whoever builds a
    /// generation waits here and not where somebody waits for him.
    pub(super) fn take_and_wait(&self, from: Checkpoint, changes: Changes, to: Checkpoint) -> Result<(), StoreError> {
        self.0.take(from, changes, to)?;
        self.0.recent.wait_for_room();
        Ok(())
    }

    /// Takes what reading a parked stream again came to.
    pub(super) fn take_replayed(&self, at: Checkpoint, replayed: Replayed) -> Result<(), StoreError> {
        self.0.take_replayed(at, replayed)
    }

    /// Asks that a parked stream, or each of them, is read again; how many that are.
    pub(super) fn ask_replay(&self, stream: Option<&StreamId>) -> Result<usize, StoreError> {
        let asked = self.0.ask_replay(stream);
        // What the writing met; who wants the flag asks again.
        if let Err(error @ StoreError::Corrupt { .. }) = &asked {
            self.0.rebuild(self.0.edition.load(Ordering::Acquire), error);
        }
        asked
    }

    /// Makes everything durable, as the views at a place at or behind their own up to
    /// which the log holds nothing more, to be read instead of others. It is `false` if
    /// those may have newer rows, or if it would take long; then some of it has been done.
    ///
    /// # Errors
    /// `Conflict` if the views are elsewhere.
    pub(super) fn settle(&self, at: Checkpoint, to: Checkpoint, instead: &Self) -> Result<bool, StoreError> {
        let edition = self.0.edition.load(Ordering::Acquire);
        if self.checkpoint() != at {
            return Err(StoreError::Conflict);
        }
        if !at.has_reached(Position(instead.0.newest.load(Ordering::Acquire))) {
            return Ok(false);
        }
        self.0.is_merge_due.store(true, Ordering::Release);
        let unmerged = usize::try_from(self.0.unmerged.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        if unmerged > 0 {
            // They are merged in front of the next load, so there must be one.
            taken(self.0.recent.put(at, Vec::new(), Vec::new(), at))?;
        }
        let waiting = self.0.recent.waiting() + self.0.log_views.waiting();
        if waiting.saturating_add(unmerged) > CARRIED_IN_SWAP {
            self.0.recent.flush(Duration::ZERO);
            self.0.log_views.flush(Duration::ZERO);
            return Ok(false);
        }
        let asked = instead.0.recent.all_parked(None, usize::MAX).into_iter().filter(|parked| parked.replay);
        for parked in asked {
            self.ask_replay(Some(&parked.stream))?;
        }
        if !self.0.recent.flush(SWAP_PATIENCE) || !self.0.log_views.flush(SWAP_PATIENCE) {
            return Ok(false);
        }
        // Nobody was shown more than the others had to show.
        self.0.filled_at.store(instead.0.filled_at.load(Ordering::Acquire), Ordering::Release);
        self.0.take(at, Changes::default(), to)?;
        if !self.0.recent.flush(SWAP_PATIENCE) {
            // They are at another place than their writer believes: it resumes.
            return Err(StoreError::Conflict);
        }
        self.0.sync_log(to.position())?;
        let is_whole = self.0.edition.load(Ordering::Acquire) == edition && self.checkpoint() == to;
        if is_whole { Ok(true) } else { Err(StoreError::Conflict) }
    }
}

/// A write to the file.
struct Writing<'a>(&'a AtomicU64);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Inner {
    /// Runs a read on a connection of the pool. Damage that it meets empties the
    /// views, and is told as a store that does not answer yet.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let now = self.edition.load(Ordering::Acquire);
        let pooled = self.readers.lock().pop().filter(|reader| reader.edition == now);
        let mut reader = match pooled {
            Some(reader) => reader,
            None => {
                let connection = connect(&self.place.path, READER_CACHE_KIB).map_err(failed)?;
                Reader { connection, edition: now, holds: None }
            }
        };
        reader.hold(self.writes.load(Ordering::Acquire)).map_err(failed)?;
        match read(&reader.connection) {
            Err(error @ StoreError::Corrupt { .. }) => {
                drop(reader);
                self.rebuild(now, &error);
                Err(REBUILDING)
            }
            result => {
                self.give_back(reader, now);
                result
            }
        }
    }

    fn give_back(&self, mut reader: Reader, edition: u64) {
        let mut readers = self.readers.lock();
        // A write that began meanwhile has let go of all that were here then.
        let writes = self.writes.load(Ordering::Acquire);
        let fits = reader.holds.is_none_or(|held| held == writes) || reader.let_go().is_ok();
        if fits && readers.len() < READERS && self.edition.load(Ordering::Acquire) == edition {
            readers.push(reader);
        }
    }

    /// To be held while the file is written: nobody holds on to an older view of it,
    /// which would keep its log from being emptied.
    fn begin_write(&self) -> Writing<'_> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        let mut readers = self.readers.lock();
        readers.retain_mut(|reader| reader.let_go().is_ok());
        Writing(&self.writes)
    }

    /// Empties damaged views, unless that has happened since they were looked at;
    /// the projector fills them again.
    fn rebuild(&self, edition: u64, why: &StoreError) {
        let mut writer = self.writer.lock();
        if self.edition.load(Ordering::Acquire) != edition {
            return;
        }
        let Some(Writer { runs, .. }) = writer.take() else { return };
        tracing::warn!(why = why.chain(), "the views are damaged and are rebuilt from the log");
        let mut log_writer = self.log_views.lock();
        self.edition.store(edition + 1, Ordering::Release);
        self.readers.lock().clear();
        self.filled_at.store((self.place.log_end)().0.max(1), Ordering::Release);
        self.reached.put_back();
        self.newest.store(0, Ordering::Release);
        self.recent.clear();
        self.cache.clear();
        self.unmerged.store(0, Ordering::Release);
        self.is_merge_due.store(false, Ordering::Release);
        match Writer::create(&self.place.path, self.place.log, runs.is_some()) {
            Ok(made) => *writer = Some(made),
            Err(error) => tracing::error!(error = %error, "the views cannot be made anew"),
        }
        if let Err(error) = self.log_views.recreate(&mut log_writer) {
            tracing::error!(error = %error, "the views of the event log cannot be made anew");
        }
        drop(log_writer);
        self.place.put_back.notify_one();
    }

    /// Fails while the views are being filled.
    fn check_filled(&self) -> Result<(), StoreError> {
        let filled_at = self.filled_at.load(Ordering::Acquire);
        if filled_at > self.reached.get() {
            return Err(REBUILDING);
        }
        Ok(())
    }

    fn select_row(connection: &Connection, key: &Key) -> Result<Option<CachedRow>, StoreError> {
        let sql = "SELECT value, revision, position, checksum FROM answers WHERE key = ?1";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let found = statement.query_row([key.as_str()], |row| Ok(cached_row(key.as_str(), row, 0))).optional();
        found.map_err(failed)?.transpose()
    }

    fn row(&self, key: &Key) -> Result<Seen<Option<CachedRow>>, StoreError> {
        if !self.is_admitted() {
            let found = match self.cache.get(key) {
                Some(row) => Some(row),
                None => self.find(key)?,
            };
            let position = self.seen(found.as_ref().map(|row| row.position));
            return Ok(Seen { found, position });
        }
        let found = match self.cache.get_value_or_guard(key, None) {
            GuardResult::Value(row) => Some(row),
            GuardResult::Guard(guard) => {
                let found = self.find(key)?;
                if let Some(row) = &found {
                    // Refused if the row was written meanwhile, which is as it must be.
                    let _ = guard.insert(row.clone());
                }
                found
            }
            GuardResult::Timeout => return Err(StoreError::Busy),
        };
        let position = self.seen(found.as_ref().map(|row| row.position));
        Ok(Seen { found, position })
    }

    /// A row that is not in the cache.
    fn find(&self, key: &Key) -> Result<Option<CachedRow>, StoreError> {
        match self.recent.get(key) {
            Some(RecentRow { value, revision, position }) => {
                Ok(value.map(|value| CachedRow { value, revision, position }))
            }
            None => self.read(|connection| Self::select_row(connection, key)),
        }
    }

    /// Whether a row that is read now may take the place of another. Into a full cache
    /// few are let, so that a walk over all keys neither empties it nor pays for it;
    /// what is read often gets in soon.
    fn is_admitted(&self) -> bool {
        let read = READS.replace(READS.get().wrapping_add(1));
        if read.is_multiple_of(LOOK_AT_CACHE) {
            self.cache_is_full.store(self.cache.weight() > CACHE_BYTES / 10 * 9, Ordering::Relaxed);
        }
        read.is_multiple_of(ADMITTED) || !self.cache_is_full.load(Ordering::Relaxed)
    }

    /// Reads the event log's views. Damage empties all views, as for the answers.
    fn read_log<T>(&self, read: impl FnOnce(&LogViews) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let now = self.edition.load(Ordering::Acquire);
        read(&self.log_views).map_err(|error| match error {
            StoreError::Corrupt { .. } => {
                self.rebuild(now, &error);
                REBUILDING
            }
            error => error,
        })
    }

    /// Reads the event log's views, once they are filled, and says what covers that.
    fn look<T>(&self, read: impl FnOnce(&LogViews) -> Result<T, StoreError>) -> Result<Seen<T>, StoreError> {
        self.check_filled()?;
        let found = self.read_log(read)?;
        let position = self.log_views.covered().max(Position(self.reached.get()));
        Ok(Seen { found, position })
    }

    /// Writes a row of the event log though the views have passed its place. What they
    /// took before is carried to the file first, so that the row goes where it would be.
    fn mend_log(&self, at: Checkpoint, change: &LogChange) -> Result<(), StoreError> {
        if !self.log_views.flush(PATIENCE) {
            return Err(StoreError::Busy);
        }
        self.write_log(at, |log, writer| log.mend(writer, at.position(), change))
    }

    /// Makes durable how far the event log's file is, and all that is in it.
    fn sync_log(&self, to: Position) -> Result<(), StoreError> {
        self.write_log(Checkpoint::at(to), |log, writer| log.sync(writer, to))
    }

    /// Writes to the event log's file, of views that are at a place. Whoever makes
    /// the views anew holds the same lock, so that nothing is written behind a position
    /// that is no more.
    fn write_log(
        &self,
        at: Checkpoint,
        write: impl FnOnce(&LogViews, &mut Option<LogWriter>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let edition = self.edition.load(Ordering::Acquire);
        let mut writer = self.log_views.lock();
        if Checkpoint::at(self.recent.position()) != at {
            return Err(StoreError::Conflict);
        }
        let written = write(&self.log_views, &mut writer);
        drop(writer);
        written.map_err(|error| match error {
            StoreError::Corrupt { .. } => {
                self.rebuild(edition, &error);
                REBUILDING
            }
            error => error,
        })
    }

    /// A position that covers all that has been read before this is called: what is
    /// projected is in memory first, and the mark is moved right behind it.
    fn seen(&self, row: Option<Position>) -> Position {
        Position(self.reached.get()).max(row.unwrap_or_default()).max(self.recent.position())
    }

    fn page(&self, query: &AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        let start = query.after.as_deref().filter(|after| *after >= query.prefix.as_str());
        // Memory first: what leaves it meanwhile is in the file then.
        let recent = self.recent.range(&query.prefix, start, query.limit + 1);
        let positions = recent.iter().map(|(_, row)| row.position);
        let last = positions.chain([Position(self.reached.get())]).max();
        let mut page = self.read(|connection| merge(connection, query, recent))?;
        page.found.answers.truncate(query.limit);
        page.position = self.seen(Some(page.position).max(last));
        Ok(page)
    }

    /// Takes changes into memory, where they can be read at once.
    fn take(&self, from: Checkpoint, changes: Changes, to: Checkpoint) -> Result<(), StoreError> {
        let Changes { answers: mut changes, log, parked } = changes;
        let newest = changes.iter().map(|change| change.position).chain(log.iter().map(LogChange::position)).max();
        self.newest.fetch_max(newest.unwrap_or_default().0, Ordering::AcqRel);
        if !log.is_empty() {
            let is_its_place = || Checkpoint::at(self.recent.position()) == from;
            taken(self.log_views.put(log, to.position(), is_its_place))?;
        }
        let seen = Checkpoint::at(Position(self.reached.get()));
        changes.retain(|change| !seen.has_reached(change.position));
        let keys: Vec<_> = changes.iter().map(|change| change.key.clone()).collect();
        taken(self.recent.put(from, changes, parked, to))?;
        for key in &keys {
            self.cache.remove(key);
        }
        self.reached.advance(to.position().0);
        Ok(())
    }

    /// Takes what reading a parked stream again came to: its row first, and when
    /// that can be read nowhere as it was the stream is parked no more. A row of the
    /// event log is durable by then, one of an answer is carried in front of that.
    fn take_replayed(&self, at: Checkpoint, Replayed { was, change, still }: Replayed) -> Result<(), StoreError> {
        if !self.recent.is_parked(at, &was) {
            return Err(StoreError::Conflict);
        }
        let newest = match &change {
            Some(Change::Answer(change)) => change.position,
            Some(Change::Log(change)) => change.position(),
            None => Position::START,
        };
        self.newest.fetch_max(newest.0, Ordering::AcqRel);
        match change {
            Some(Change::Answer(change)) => {
                let key = change.key.clone();
                taken(self.recent.put(at, vec![change], Vec::new(), at))?;
                self.cache.remove(&key);
            }
            Some(Change::Log(change)) => self.mend_log(at, &change)?,
            None => {}
        }
        taken(self.recent.put_replayed(at, &was, still))
    }

    fn ask_replay(&self, stream: Option<&StreamId>) -> Result<usize, StoreError> {
        // With this lock, so that nothing is carried that does not say so.
        let mut writer = self.writer.lock();
        let asked = self.recent.ask_replay(stream);
        if asked.is_empty() {
            return Ok(0);
        }
        let _writing = self.begin_write();
        let transaction = writer.as_mut().ok_or(CLOSED)?.connection.transaction().map_err(failed)?;
        parked::ask_replay(&transaction, &asked)?;
        transaction.commit().map_err(failed)?;
        Ok(asked.len())
    }

    /// Carries what is in memory to the file, until the views are closed.
    fn carry(&self) {
        while let Some(load) = self.recent.next_load() {
            let edition = self.edition.load(Ordering::Acquire);
            match self.carry_load(&load, edition) {
                Ok(()) => {
                    self.recent.carried(&load);
                    self.advance_log(load.to, edition);
                }
                Err(error @ StoreError::Corrupt { .. }) => self.rebuild(edition, &error),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the views could not be written; it is tried again");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Writes a load, as a run or behind all runs.
    fn carry_load(&self, load: &Load, edition: u64) -> Result<(), StoreError> {
        if !self.is_merge_due.load(Ordering::Acquire) && self.write_run(load, edition)? {
            return Ok(());
        }
        if self.merge_runs(edition)? { self.write(&load.rows, load.to, edition) } else { Ok(()) }
    }

    /// Writes a load as a run, together with what is parked and the checkpoint, or leaves
    /// alone views that were made anew meanwhile; `false` if no run may be added.
    fn write_run(&self, load: &Load, edition: u64) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock();
        if self.edition.load(Ordering::Acquire) != edition {
            return Ok(true);
        }
        let Writer { connection, runs } = writer.as_mut().ok_or(CLOSED)?;
        let Some(runs) = runs.as_mut().filter(|runs| runs.has_room()) else { return Ok(false) };
        let run = (!load.rows.is_empty()).then(|| runs.write(&load.rows)).transpose();
        let run = run.map_err(|error| StoreError::unavailable("the views", error))?;
        let _writing = self.begin_write();
        let transaction = connection.transaction().map_err(failed)?;
        run.iter().try_for_each(|run| runs::note(&transaction, run)).map_err(failed)?;
        self.write_place(&transaction, load.to).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        run.into_iter().for_each(|run| runs.add(run));
        self.unmerged.store(runs.rows(), Ordering::Release);
        Ok(true)
    }

    /// Merges all runs into the table, in which there was nothing before, some rows in a
    /// transaction; `false` where that is left for the next start, or the views were made
    /// anew meanwhile: then nothing else may be written either.
    fn merge_runs(&self, edition: u64) -> Result<bool, StoreError> {
        let mut merge = {
            let mut writer = self.writer.lock();
            if self.edition.load(Ordering::Acquire) != edition {
                return Ok(false);
            }
            let Writer { connection, runs } = writer.as_mut().ok_or(CLOSED)?;
            let Some(runs) = runs else { return Ok(true) };
            runs.merge(connection)?
        };
        loop {
            let mut rows = Vec::with_capacity(MERGED_AT_ONCE);
            while rows.len() < MERGED_AT_ONCE
                && let Some(row) = merge.next()?
            {
                rows.push(row);
            }
            let is_last = rows.len() < MERGED_AT_ONCE;
            self.wait_for_room(edition);
            let mut writer = self.writer.lock();
            if self.edition.load(Ordering::Acquire) != edition || self.is_closing.load(Ordering::Acquire) {
                return Ok(false);
            }
            let Writer { connection, runs } = writer.as_mut().ok_or(CLOSED)?;
            let _writing = self.begin_write();
            let transaction = connection.transaction().map_err(failed)?;
            write_rows(&transaction, rows.iter().map(|(key, row)| (key, row))).map_err(failed)?;
            if is_last {
                runs::note_merged(&transaction).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
            if is_last {
                self.unmerged.store(0, Ordering::Release);
                *runs = None;
                return Ok(true);
            }
        }
    }

    /// Waits while the disk has no room, unless nobody needs these views any more.
    fn wait_for_room(&self, edition: u64) {
        let mut was_told = false;
        while (self.place.lacks_room)(MERGE_ROOM_BYTES)
            && self.edition.load(Ordering::Acquire) == edition
            && !self.is_closing.load(Ordering::Acquire)
        {
            if !std::mem::replace(&mut was_told, true) {
                tracing::warn!("the rebuild of the views waits: the disk has too little room for their rows");
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Carries the event log's rows to their file, until the views are closed.
    fn carry_log(&self) {
        loop {
            let edition = self.edition.load(Ordering::Acquire);
            match self.log_views.carry_next() {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error @ StoreError::Corrupt { .. })) => self.rebuild(edition, &error),
                Some(Err(error)) => {
                    tracing::warn!(error = %error.chain(), "the views of the event log could not be written; it is tried again");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Makes the indexes of the event log that can wait, until the views are closed: half of
    /// the time at most, and while much is projected only if too many are missing.
    fn index_log(&self) {
        let (mut looked, mut reached, mut spare) = (Instant::now(), self.reached.get(), 0);
        while !self.is_closing.load(Ordering::Acquire) {
            if looked.elapsed() >= BUSY_FOR {
                let now = self.reached.get();
                let is_busy = now.saturating_sub(reached) as f64 >= BUSY_RATE * looked.elapsed().as_secs_f64();
                spare = if is_busy { UNINDEXED_MAX } else { 0 };
                (looked, reached) = (Instant::now(), now);
            }
            let begun = Instant::now();
            match self.read_log(|log_views| log_views.index_some(spare)) {
                Ok(true) => std::thread::park_timeout(begun.elapsed()),
                Ok(false) => std::thread::park_timeout(RETRY),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "log events could not be indexed; it is tried again");
                    std::thread::park_timeout(RETRY);
                }
            }
        }
    }

    /// Tells the event log's file how far the views are: what comes with log events does
    /// so at once, and what comes without is not worth a write each time.
    fn advance_log(&self, to: Position, edition: u64) {
        let mut writer = self.log_views.lock();
        if self.edition.load(Ordering::Acquire) != edition {
            return;
        }
        if let Err(error) = self.log_views.advance(&mut writer, to) {
            tracing::warn!(error = %error.chain(), "the views of the event log do not know how far they are");
        }
    }

    /// Writes rows, some in a transaction; the last of them together with what is
    /// parked and the checkpoint. A small load is one transaction.
    ///
    /// Views that were made anew meanwhile are left alone.
    fn write(&self, rows: &BTreeMap<Key, RecentRow>, to: Position, edition: u64) -> Result<(), StoreError> {
        let mut rows = rows.iter().peekable();
        loop {
            let mut writer = self.writer.lock();
            if self.edition.load(Ordering::Acquire) != edition {
                return Ok(());
            }
            let _writing = self.begin_write();
            let transaction = writer.as_mut().ok_or(CLOSED)?.connection.transaction().map_err(failed)?;
            write_rows(&transaction, rows.by_ref().take(ROWS_AT_ONCE)).map_err(failed)?;
            let is_last = rows.peek().is_none();
            if is_last {
                self.write_place(&transaction, to).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// What goes with the last rows of a load: what is parked, and the checkpoint.
    fn write_place(&self, transaction: &rusqlite::Transaction<'_>, to: Position) -> rusqlite::Result<()> {
        parked::write(transaction, &self.recent.parked_load())?;
        transaction.execute("UPDATE views SET position = ?1", [to.0]).map(drop)
    }
}

fn taken(taken: Taken) -> Result<(), StoreError> {
    match taken {
        Taken::Yes => Ok(()),
        Taken::WrongPlace => Err(StoreError::Conflict),
        Taken::Closed => Err(CLOSED),
    }
}

fn write_rows<'a>(
    transaction: &rusqlite::Transaction<'_>,
    rows: impl Iterator<Item = (&'a Key, &'a RecentRow)>,
) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached("REPLACE INTO answers VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut remove = transaction.prepare_cached("DELETE FROM answers WHERE key = ?1")?;
    for (key, row) in rows {
        let key = key.as_str();
        let (revision, position) = (row.revision.0, row.position.0);
        match &row.value {
            Some(value) => {
                let sum = checksum(key, value, revision, position);
                put.execute(params![key, &**value, revision, position, sum])?
            }
            None => remove.execute([key])?,
        };
    }
    Ok(())
}

/// A page of what is in the file and in memory together; up to one answer more
/// than asked for. Where both have a row, the later one counts.
fn merge(
    connection: &Connection,
    query: &AnswersQuery,
    recent: Vec<(Key, RecentRow)>,
) -> Result<Seen<AnswersPage>, StoreError> {
    let mut answers = Vec::new();
    let (mut bytes, mut position, mut more) = (0, Position::START, false);
    let mut recent = recent.into_iter().peekable();
    let mut statement = PageStatement::new(connection, query)?;
    let mut stored = statement.rows(query)?;
    let mut next_stored = stored.next()?;
    while answers.len() <= query.limit {
        let order = match (recent.peek(), &next_stored) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((key, _)), Some((stored_key, _))) => key.cmp(stored_key),
        };
        let memory = if order.is_le() { recent.next() } else { None };
        let file = if order.is_ge() { std::mem::replace(&mut next_stored, stored.next()?) } else { None };
        let memory = memory.map(|(key, row)| (key, row.value, row.revision, row.position));
        let file = file.map(|(key, row)| (key, Some(row.value), row.revision, row.position));
        let Some((key, value, revision, at)) = memory.into_iter().chain(file).max_by_key(|row| row.3) else { break };
        let Some(value) = value else { continue };
        bytes += key.as_str().len() + value.len();
        if bytes > PAGE_BYTES && !answers.is_empty() {
            more = true;
            break;
        }
        position = position.max(at);
        answers.push(Answer { key, value, revision });
    }
    more |= answers.len() > query.limit;
    Ok(Seen { found: AnswersPage { answers, more }, position })
}
