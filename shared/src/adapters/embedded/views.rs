//! `SqliteViews`: the read store of the embedded log, in a SQLite file.
//!
//! The file needs no sync of its own: it can be rebuilt from the log. It belongs
//! to one log, never runs ahead of it, and carries a checksum in each row; where
//! one of these does not hold, it is thrown away and filled again, and until it
//! has caught up reads fail instead of showing less than there was.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use quick_cache::sync::{Cache, GuardResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::Notify;

use super::events::{FjallEvents, blocking};
use super::start::StartError;
use crate::adapters::progress::Progress;
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::{self, Change};
use crate::domain::stream::{Position, Revision};
use crate::ports::{AnswersPage, AnswersQuery, Checkpoint, Health, LogId, Seen, StoreError, ViewReader, ViewWriter};

/// The version of the tables. Another one in the file: the views are rebuilt.
const FORMAT: i64 = 1;
/// What the cache of rows may take.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// What an entry of the cache takes beside its texts, about.
const ENTRY_BYTES: usize = 160;
/// Page cache of the writing connection and of each reading one, in KiB.
const WRITER_CACHE_KIB: i64 = 64 * 1024;
const READER_CACHE_KIB: i64 = 16 * 1024;
/// Reading connections that are kept open.
const READERS: usize = 4;
/// Files up to this size are checked whole before the start, larger ones behind it.
const CHECK_AT_START_BYTES: u64 = 64 * 1024 * 1024;
/// Rows that are checked in one go.
const CHECK_ROWS: usize = 10_000;

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

const REBUILDING: StoreError =
    StoreError::Unavailable { what: "the read store, which is being rebuilt,", source: None };

/// The views in a file.
#[derive(Clone)]
pub struct SqliteViews(Arc<Inner>);

struct Inner {
    path: PathBuf,
    log: LogId,
    /// None once the views are closed.
    writer: Mutex<Option<Connection>>,
    /// With the generation of the file that they read.
    readers: Mutex<Vec<(u64, Connection)>>,
    /// Grows whenever the file is made anew.
    generation: AtomicU64,
    cache: Cache<Key, CachedRow, Weigh>,
    reached: Progress,
    /// Until the views are there, reads fail.
    filled_at: AtomicU64,
    /// The last durable position of the log.
    log_end: Box<dyn Fn() -> Position + Send + Sync>,
    put_back: Notify,
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

/// Opens the views of a log; says why, if they have to be filled anew.
pub(super) fn open(path: &Path, events: &FjallEvents) -> Result<(SqliteViews, Option<String>), StartError> {
    let end = events.clone();
    let log = events.id();
    let failed = |error| StartError::Views { path: path.into(), source: error };
    let mut why = None;
    let (connection, position) = match existing(path, log, events.position()) {
        Ok(found) => found,
        Err(reason) => {
            why = Some(reason).filter(|_| events.position() > Position::START);
            (create(path, log).map_err(failed)?, Position::START)
        }
    };
    let filled_at = if why.is_some() { events.position().0 } else { 0 };
    let views = SqliteViews(Arc::new(Inner {
        path: path.into(),
        log,
        writer: Mutex::new(Some(connection)),
        readers: Mutex::default(),
        generation: AtomicU64::new(0),
        cache: Cache::with_weighter(CACHE_BYTES as usize / 256, CACHE_BYTES, Weigh),
        reached: Progress::new(position.0),
        filled_at: AtomicU64::new(filled_at),
        log_end: Box::new(move || end.position()),
        put_back: Notify::new(),
    }));
    if why.is_none() && size(path) > CHECK_AT_START_BYTES {
        views.check_behind();
    }
    Ok((views, why))
}

/// The views as they are, if they can be used.
fn existing(path: &Path, log: LogId, end: Position) -> Result<(Connection, Position), String> {
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
    if size(path) <= CHECK_AT_START_BYTES {
        check_pages(&connection)?;
        check_rows(&connection).map_err(|error| format!("they are damaged: {}", error.chain()))?;
    }
    Ok((connection, position))
}

fn check_pages(connection: &Connection) -> Result<(), String> {
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Ok(text) if text == "ok" => Ok(()),
        Ok(text) => Err(format!("they are damaged: {text}")),
        Err(error) => Err(format!("they are damaged: {error}")),
    }
}

/// Reads every row and checks its checksum and order.
fn check_rows(connection: &Connection) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        let query = AnswersQuery { prefix: String::new(), after: last.take(), limit: CHECK_ROWS };
        let rows = select_page(connection, &query)?;
        let Some((key, _)) = rows.last() else { return Ok(()) };
        if rows.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(StoreError::Corrupt { what: "the order of the views".into(), source: None });
        }
        last = Some(key.as_str().to_owned());
    }
}

/// Throws away what is there and makes empty views.
fn create(path: &Path, log: LogId) -> rusqlite::Result<Connection> {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(rusqlite::Error::ToSqlConversionFailure(Box::new(error)));
            }
            _ => {}
        }
    }
    let mut connection = connect(path, WRITER_CACHE_KIB)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("INSERT INTO views VALUES (1, ?1, ?2, 0)", params![FORMAT, log.0.to_string()])?;
    transaction.commit()?;
    Ok(connection)
}

fn connect(path: &Path, cache_kib: i64) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

fn size(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path.as_os_str(), &wal].iter().filter_map(|name| std::fs::metadata(name).ok()).map(|file| file.len()).sum()
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

fn failed(error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => StoreError::corrupt("the views", error),
        None => StoreError::corrupt("the views", error),
        Some(_) => StoreError::unavailable("the views", error),
    }
}

/// The text behind all that begin with a prefix; none where there is no end.
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The characters in order, with the gap that the surrogates leave.
        if let Some(next) = (last..=char::MAX).nth(1) {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

fn select_page(connection: &Connection, query: &AnswersQuery) -> Result<Vec<(Key, CachedRow)>, StoreError> {
    let select = |after: &str, end: &str| {
        format!(
            "SELECT key, value, revision, position, checksum FROM answers WHERE key {after} ?1{end} ORDER BY key LIMIT ?3"
        )
    };
    let end = end_of_prefix(&query.prefix);
    let behind = query.after.as_deref().filter(|after| *after >= query.prefix.as_str());
    let sql = select(
        if behind.is_some() { ">" } else { ">=" },
        if end.is_some() { " AND key < ?2" } else { " AND ?2 IS NULL" },
    );
    let start = behind.unwrap_or(&query.prefix);
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query(params![start, end, query.limit]).map_err(failed)?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        let key = Key::from_stored(
            row.get_ref(0)
                .map_err(failed)?
                .as_str()
                .map_err(|error| StoreError::corrupt("a key of the views", error))?,
        );
        let cached = cached_row(key.as_str(), row, 1)?;
        bytes += key.as_str().len() + cached.value.len();
        if bytes > crate::adapters::PAGE_BYTES && !found.is_empty() {
            break;
        }
        found.push((key, cached));
    }
    Ok(found)
}

impl SqliteViews {
    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        size(&self.0.path)
    }

    /// Writes what is in SQLite's own log back to the file and closes it.
    pub fn close(&self) {
        self.0.readers.lock().clear();
        if let Some(writer) = self.0.writer.lock().take()
            && let Err((_, error)) = writer.close()
        {
            tracing::warn!(error = %error, "the views could not be closed");
        }
    }

    /// Checks the whole file while it is in use; damage empties it to be filled anew.
    fn check_behind(&self) {
        let inner = self.0.clone();
        let check = move || {
            let begun = std::time::Instant::now();
            match inner.read(check_rows) {
                Ok(()) => tracing::info!(took = ?begun.elapsed(), "the views were checked and are sound"),
                Err(error) => tracing::warn!(error = %error.chain(), "the views could not be checked"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("check-views".into()).spawn(check) {
            tracing::warn!(error = %error, "the views cannot be checked");
        }
    }
}

impl Inner {
    /// Runs a read on a connection of the pool. Damage that it meets empties the
    /// views, and is told as a store that does not answer yet.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let now = self.generation.load(Ordering::Acquire);
        let pooled = self.readers.lock().pop().filter(|(generation, _)| *generation == now);
        let connection = match pooled {
            Some((_, connection)) => connection,
            None => connect(&self.path, READER_CACHE_KIB).map_err(failed)?,
        };
        match read(&connection) {
            Err(error @ StoreError::Corrupt { .. }) => {
                drop(connection);
                self.rebuild(now, &error);
                Err(REBUILDING)
            }
            result => {
                let mut readers = self.readers.lock();
                if readers.len() < READERS && self.generation.load(Ordering::Acquire) == now {
                    readers.push((now, connection));
                }
                result
            }
        }
    }

    /// Empties damaged views, unless that has happened since they were looked at;
    /// the projector fills them again.
    fn rebuild(&self, generation: u64, why: &StoreError) {
        let mut writer = self.writer.lock();
        if self.generation.load(Ordering::Acquire) != generation || writer.take().is_none() {
            return;
        }
        tracing::warn!(why = why.chain(), "the views are damaged and are rebuilt from the log");
        self.generation.store(generation + 1, Ordering::Release);
        self.readers.lock().clear();
        self.filled_at.store((self.log_end)().0.max(1), Ordering::Release);
        self.reached.put_back();
        self.cache.clear();
        match create(&self.path, self.log) {
            Ok(connection) => *writer = Some(connection),
            Err(error) => tracing::error!(error = %error, "the views cannot be made anew"),
        }
        self.put_back.notify_one();
    }

    /// Fails while the views are being filled.
    fn check_filled(&self) -> Result<(), StoreError> {
        let filled_at = self.filled_at.load(Ordering::Acquire);
        if filled_at > self.reached.get() {
            return Err(REBUILDING);
        }
        Ok(())
    }

    fn stored_checkpoint(connection: &Connection) -> Result<Checkpoint, StoreError> {
        let mut statement = connection.prepare_cached("SELECT position FROM views").map_err(failed)?;
        let position = statement.query_row([], |row| row.get::<_, u64>(0)).map_err(failed)?;
        Ok(Checkpoint::at(Position(position)))
    }

    fn select_row(connection: &Connection, key: &Key) -> Result<Option<CachedRow>, StoreError> {
        let sql = "SELECT value, revision, position, checksum FROM answers WHERE key = ?1";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let found = statement.query_row([key.as_str()], |row| Ok(cached_row(key.as_str(), row, 0))).optional();
        found.map_err(failed)?.transpose()
    }

    fn row(&self, key: &Key) -> Result<Seen<Option<CachedRow>>, StoreError> {
        // Taken first: what is read after it is at least as new.
        let reached = Position(self.reached.get());
        let seen = |row: CachedRow| Seen { position: reached.max(row.position), found: Some(row) };
        match self.cache.get_value_or_guard(key, None) {
            GuardResult::Value(row) => Ok(seen(row)),
            GuardResult::Guard(guard) => {
                if let Some(row) = self.read(|connection| Self::select_row(connection, key))? {
                    // Refused if the row was written meanwhile, which is as it must be.
                    let _ = guard.insert(row.clone());
                    return Ok(seen(row));
                }
                // A removal leaves no position: the checkpoint behind it stands in.
                let position = self.read(Self::stored_checkpoint)?.position();
                Ok(Seen { found: None, position: position.max(reached) })
            }
            GuardResult::Timeout => Err(StoreError::Busy),
        }
    }

    fn page(&self, query: &AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        let one_more = AnswersQuery { limit: query.limit + 1, ..query.clone() };
        let (rows, position) = self.read(|connection| {
            let snapshot = connection.unchecked_transaction().map_err(failed)?;
            let position = Self::stored_checkpoint(&snapshot)?.position();
            Ok((select_page(&snapshot, &one_more)?, position))
        })?;
        let answers = rows.into_iter().map(|(key, row)| Answer { key, value: row.value, revision: row.revision });
        let mut answers: Vec<_> = answers.collect();
        let full = answers.len() > query.limit;
        answers.truncate(query.limit);
        let more = full || answers.len() < query.limit && self.has_more(query, answers.last())?;
        Ok(Seen { found: AnswersPage { answers, more }, position })
    }

    /// Whether a page that ended early ended for its size.
    fn has_more(&self, query: &AnswersQuery, last: Option<&Answer>) -> Result<bool, StoreError> {
        let Some(last) = last else { return Ok(false) };
        let next = AnswersQuery { after: Some(last.key.as_str().into()), limit: 1, ..query.clone() };
        self.read(|connection| select_page(connection, &next)).map(|rows| !rows.is_empty())
    }

    fn write(&self, from: Checkpoint, mut changes: Vec<Change>, to: Checkpoint) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let closed = StoreError::Unavailable { what: "the views", source: None };
        let connection = writer.as_mut().ok_or(closed)?;
        let seen = Self::stored_checkpoint(connection)?;
        if seen != from {
            return Err(StoreError::Conflict);
        }
        changes.retain(|change| !seen.has_reached(change.position));
        projection::fold(&mut changes);
        // Neighbours share pages of the tree.
        changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let transaction = connection.transaction().map_err(failed)?;
        write_rows(&transaction, &changes).map_err(failed)?;
        let moved =
            transaction.prepare_cached("UPDATE views SET position = ?1").map_err(failed)?.execute([to.position().0]);
        moved.map_err(failed)?;
        transaction.commit().map_err(failed)?;
        for change in &changes {
            self.cache.remove(&change.key);
        }
        self.reached.advance(to.position().0);
        Ok(())
    }
}

fn write_rows(transaction: &rusqlite::Transaction<'_>, changes: &[Change]) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached("REPLACE INTO answers VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut remove = transaction.prepare_cached("DELETE FROM answers WHERE key = ?1")?;
    for Change { key, value, revision, position } in changes {
        let key = key.as_str();
        match value {
            Some(value) => put.execute(params![
                key,
                &**value,
                revision.0,
                position.0,
                checksum(key, value, revision.0, position.0)
            ])?,
            None => remove.execute([key])?,
        };
    }
    Ok(())
}

#[async_trait]
impl ViewReader for SqliteViews {
    /// A look into memory or some pages of a file: cheaper here than a hop to
    /// another thread.
    async fn answer(&self, key: &Key) -> Result<Seen<Option<Answer>>, StoreError> {
        self.0.check_filled()?;
        let Seen { found, position } = self.0.row(key)?;
        let answer = |row: CachedRow| Answer { key: key.clone(), value: row.value, revision: row.revision };
        Ok(Seen { found: found.map(answer), position })
    }

    async fn answers(&self, query: AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        self.0.check_filled()?;
        let inner = self.0.clone();
        blocking(move || inner.page(&query)).await
    }

    async fn reached(&self, position: Position) -> Result<(), StoreError> {
        self.0.reached.reached(position.0).await;
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        Ok(Checkpoint::at(Position(self.0.reached.get())))
    }
}

#[async_trait]
impl ViewWriter for SqliteViews {
    async fn resume(&self) -> Result<Checkpoint, StoreError> {
        let inner = self.0.clone();
        blocking(move || {
            let writer = inner.writer.lock();
            let closed = StoreError::Unavailable { what: "the views", source: None };
            Inner::stored_checkpoint(writer.as_ref().ok_or(closed)?)
        })
        .await
    }

    async fn apply(&self, from: Checkpoint, changes: Vec<Change>, to: Checkpoint) -> Result<(), StoreError> {
        let inner = self.0.clone();
        let applied = blocking(move || {
            let generation = inner.generation.load(Ordering::Acquire);
            let applied = inner.write(from, changes, to);
            if let Err(error @ StoreError::Corrupt { .. }) = &applied {
                inner.rebuild(generation, error);
            }
            applied
        });
        applied.await
    }

    async fn put_back(&self) {
        self.0.put_back.notified().await;
    }
}

#[async_trait]
impl Health for SqliteViews {
    async fn check(&self) -> Result<(), String> {
        self.0.check_filled().map_err(|_| "the views are being rebuilt from the log".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_its_last_character() {
        assert_eq!(end_of_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(end_of_prefix("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(end_of_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(end_of_prefix("\u{10ffff}"), None);
        assert_eq!(end_of_prefix(""), None);
    }
}
