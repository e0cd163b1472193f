//! Rows of views that are being built: sorted runs in a file beside that of the answers,
//! until all of them are merged into it.
//!
//! Rows come in the order of the log, which is none of their keys': each load that goes
//! to a tree by itself writes most of its pages once more. So each load becomes a run,
//! and at the end one pass over all runs in the order of the keys writes each page once.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use rusqlite::Connection;

use super::generation::failed;
use super::pointer;
use super::recent::Row;
use crate::domain::answer::Key;
use crate::domain::stream::{Position, Revision};
use crate::ports::StoreError;

/// What is added to the name of the answers' file.
pub(super) const SUFFIX: &str = "-runs";
/// Which runs belong to the answers' file. Files that were made before there were runs get
/// it when they are opened.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS runs (
        start INTEGER NOT NULL PRIMARY KEY,
        \"end\" INTEGER NOT NULL,
        rows INTEGER NOT NULL
    );
";
/// Bytes that are written and synced together. The log's syncs wait behind them.
const CHUNK_BYTES: usize = 256 * 1024;
/// What is read of a run at once.
const READ_BYTES: usize = 64 * 1024;
/// In front of a row's texts: their lengths, its revision, its position.
const HEAD_BYTES: usize = 4 + 4 + 8 + 8;
/// The length of a value that was removed.
const REMOVED: u32 = u32::MAX;
/// More runs than this are merged before others are added.
const RUNS_MAX: usize = 1_024;

/// The runs of a generation, the later one last.
pub(super) struct Runs {
    file: Arc<File>,
    runs: Vec<Run>,
    is_merging: bool,
}

/// Where a run lies, and how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    bytes: Range<u64>,
    rows: u64,
}

impl Runs {
    /// None yet, for the answers in a file that has no rows.
    pub(super) fn create(answers: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path(answers))?;
        Ok(Self { file: Arc::new(file), runs: Vec::new(), is_merging: false })
    }

    /// Those that belong to the answers in a file; none if all have been merged.
    pub(super) fn existing(answers: &Path, connection: &Connection) -> Result<Option<Self>, StoreError> {
        let runs = read_runs(connection).map_err(failed)?;
        let has_rows = connection.query_row("SELECT EXISTS (SELECT 1 FROM answers)", [], |row| row.get(0));
        let has_rows: bool = has_rows.map_err(failed)?;
        let failed = |error| StoreError::unavailable("the views", error);
        if runs.is_empty() {
            return if has_rows { Ok(None) } else { Self::create(answers).map(Some).map_err(failed) };
        }
        let file = File::options().read(true).write(true).open(path(answers));
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::NotFound => StoreError::corrupt("the rows of the views", error),
            _ => failed(error),
        })?;
        Ok(Some(Self { file: Arc::new(file), runs, is_merging: has_rows }))
    }

    /// How many rows they have, those that a later run hides too.
    pub(super) fn rows(&self) -> u64 {
        self.runs.iter().map(|run| run.rows).sum()
    }

    /// Whether another may be added: to runs some of whose rows are in the tree already none may.
    pub(super) fn has_room(&self) -> bool {
        !self.is_merging && self.runs.len() < RUNS_MAX
    }

    /// Writes some rows as a run, durably. It counts once it is noted in the answers' file and added here.
    pub(super) fn write(&self, rows: &BTreeMap<Key, Row>) -> io::Result<Run> {
        let start = self.runs.last().map_or(0, |last| last.bytes.end);
        let (mut end, mut buffer) = (start, Vec::with_capacity(CHUNK_BYTES * 2));
        for (key, row) in rows {
            encode(&mut buffer, key, row);
            if buffer.len() >= CHUNK_BYTES {
                end = self.flush(&mut buffer, end)?;
            }
        }
        end = self.flush(&mut buffer, end)?;
        Ok(Run { bytes: start..end, rows: rows.len() as u64 })
    }

    fn flush(&self, buffer: &mut Vec<u8>, at: u64) -> io::Result<u64> {
        self.file.write_all_at(buffer, at)?;
        self.file.sync_data()?;
        let end = at + buffer.len() as u64;
        buffer.clear();
        Ok(end)
    }

    pub(super) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// The latest row of each key behind those of a merge that did not come to its end.
    pub(super) fn merge(&mut self, connection: &Connection) -> Result<Merge, StoreError> {
        self.is_merging = true;
        let last = connection.query_row("SELECT max(key) FROM answers", [], |row| row.get::<_, Option<String>>(0));
        let after = last.map_err(failed)?.map(|key| Key::from_stored(&key));
        let runs = self.runs.iter().map(|run| RunReader::new(self.file.clone(), run.bytes.clone())).collect();
        let mut merge = Merge { runs, heads: BinaryHeap::new(), after };
        for run in 0..merge.runs.len() {
            merge.refill(run)?;
        }
        Ok(merge)
    }
}

/// Makes sure that the answers in a file are there without runs.
pub(super) fn expect_none(answers: &Path, connection: &Connection) -> Result<Option<Runs>, StoreError> {
    if !read_runs(connection).map_err(failed)?.is_empty() {
        return Err(StoreError::Corrupt { what: "the views, of which rows were not merged,".into(), source: None });
    }
    // What is left of those that are merged.
    pointer::remove(&path(answers)).map_err(|error| StoreError::unavailable("the views", error))?;
    Ok(None)
}

/// Notes in the answers' file that a run belongs to it.
pub(super) fn note(connection: &Connection, run: &Run) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO runs VALUES (?1, ?2, ?3)", (run.bytes.start, run.bytes.end, run.rows)).map(drop)
}

/// Notes that all of them are in the answers' table.
pub(super) fn note_merged(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM runs", []).map(drop)
}

fn read_runs(connection: &Connection) -> rusqlite::Result<Vec<Run>> {
    let mut statement = connection.prepare("SELECT start, \"end\", rows FROM runs ORDER BY start")?;
    let runs = statement.query_map([], |row| Ok(Run { bytes: row.get(0)?..row.get(1)?, rows: row.get(2)? }))?;
    runs.collect()
}

/// The file of the runs of the answers in a file.
pub(super) fn path(answers: &Path) -> PathBuf {
    pointer::with_suffix(answers, SUFFIX)
}

fn encode(bytes: &mut Vec<u8>, key: &Key, row: &Row) {
    let start = bytes.len();
    let length = |text: &str| u32::try_from(text.len()).expect("keys and values are bounded");
    bytes.put_u32(length(key.as_str()));
    bytes.put_u32(row.value.as_deref().map_or(REMOVED, length));
    bytes.put_u64(row.revision.0);
    bytes.put_u64(row.position.0);
    bytes.put_slice(key.as_str().as_bytes());
    bytes.put_slice(row.value.as_deref().unwrap_or_default().as_bytes());
    let checksum = crc32fast::hash(&bytes[start..]);
    bytes.put_u32(checksum);
}

/// Reads a run from its beginning.
struct RunReader(BufReader<Section>);

/// A part of a file.
struct Section {
    file: Arc<File>,
    bytes: Range<u64>,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.end - self.bytes.start).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..most], self.bytes.start)?;
        self.bytes.start += read as u64;
        Ok(read)
    }
}

impl RunReader {
    fn new(file: Arc<File>, bytes: Range<u64>) -> Self {
        Self(BufReader::with_capacity(READ_BYTES, Section { file, bytes }))
    }

    fn next(&mut self) -> Result<Option<(Key, Row)>, StoreError> {
        if self.0.buffer().is_empty() && self.0.get_ref().bytes.is_empty() {
            return Ok(None);
        }
        self.read().map(Some).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => StoreError::corrupt("a row of the views", error),
            _ => StoreError::unavailable("the views", error),
        })
    }

    fn read(&mut self) -> io::Result<(Key, Row)> {
        let mut head = [0; HEAD_BYTES];
        self.0.read_exact(&mut head)?;
        let mut fields = &head[..];
        let (key, value) = (fields.get_u32(), fields.get_u32());
        let (revision, position) = (Revision(fields.get_u64()), Position(fields.get_u64()));
        let value_bytes = if value == REMOVED { 0 } else { value };
        let length = u64::from(key) + u64::from(value_bytes) + 4;
        let mut bytes = Vec::new();
        (&mut self.0).take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let sum = bytes.split_off(bytes.len() - 4);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(&bytes);
        if sum.as_slice().get_u32() != hasher.finalize() {
            return Err(io::Error::new(ErrorKind::InvalidData, "its checksum does not fit"));
        }
        let (key, text) = bytes.split_at(key as usize);
        let text_of = |bytes| std::str::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
        let value = if value == REMOVED { None } else { Some(text_of(text)?.into()) };
        Ok((Key::from_stored(text_of(key)?), Row { value, revision, position }))
    }
}

/// All runs as one, in the order of the keys.
pub(super) struct Merge {
    runs: Vec<RunReader>,
    heads: BinaryHeap<Head>,
    /// Rows up to here are left out.
    after: Option<Key>,
}

/// The next row of a run. The largest is the one with the smallest key, of those that of
/// the latest run.
struct Head {
    key: Key,
    row: Row,
    run: usize,
}

impl Head {
    fn order(&self) -> (Reverse<&Key>, usize) {
        (Reverse(&self.key), self.run)
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl Merge {
    fn refill(&mut self, run: usize) -> Result<(), StoreError> {
        while let Some((key, row)) = self.runs[run].next()? {
            if self.after.as_ref().is_none_or(|after| key > *after) {
                self.heads.push(Head { key, row, run });
                break;
            }
        }
        Ok(())
    }

    /// The next row that was not removed.
    pub(super) fn next(&mut self) -> Result<Option<(Key, Row)>, StoreError> {
        while let Some(Head { key, row, run }) = self.heads.pop() {
            self.refill(run)?;
            while let Some(older) = self.heads.peek().filter(|head| head.key == key).map(|head| head.run) {
                self.heads.pop();
                self.refill(older)?;
            }
            if row.value.is_some() {
                return Ok(Some((key, row)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<'a>(rows: impl IntoIterator<Item = (&'a str, Option<&'a str>, u64)>) -> BTreeMap<Key, Row> {
        let row = |(key, value, position): (&str, Option<&str>, u64)| {
            let (revision, position) = (Revision(position / 2), Position(position));
            (Key::from_stored(key), Row { value: value.map(Into::into), revision, position })
        };
        rows.into_iter().map(row).collect()
    }

    /// An answers' file with nothing but what runs need.
    fn answers(folder: &Path) -> (PathBuf, Connection) {
        let path = folder.join("views.db");
        let connection = Connection::open(&path).expect("opened");
        connection.execute_batch("CREATE TABLE answers (key TEXT NOT NULL PRIMARY KEY)").expect("made");
        connection.execute_batch(SCHEMA).expect("made");
        (path, connection)
    }

    fn add(runs: &mut Runs, connection: &Connection, rows: &BTreeMap<Key, Row>) {
        let run = runs.write(rows).expect("written");
        note(connection, &run).expect("noted");
        runs.add(run);
    }

    fn merged(runs: &mut Runs, connection: &Connection) -> Result<Vec<(String, String, u64)>, StoreError> {
        let mut merge = runs.merge(connection)?;
        let mut all = Vec::new();
        while let Some((key, row)) = merge.next()? {
            assert_eq!(row.revision.0, row.position.0 / 2);
            all.push((key.to_string(), row.value.expect("it was not removed").to_string(), row.position.0));
        }
        Ok(all)
    }

    #[test]
    fn the_latest_row_of_each_key_comes_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, connection) = answers(folder.path());
        let mut runs = Runs::existing(&path, &connection).expect("made").expect("some");
        let long = "ö".repeat(CHUNK_BYTES);
        add(&mut runs, &connection, &rows([("b", Some("old"), 1), ("a", Some(""), 2), ("c", Some("gone"), 3)]));
        add(&mut runs, &connection, &rows([("c", None, 4), ("b", Some(long.as_str()), 5), ("d", Some("4"), 6)]));
        add(&mut runs, &connection, &rows([("d", None, 7), ("c", Some("again"), 8), ("e", None, 9)]));
        let wanted = [("a".into(), String::new(), 2), ("b".into(), long.clone(), 5), ("c".into(), "again".into(), 8)];
        assert_eq!(runs.rows(), 9);
        assert_eq!(merged(&mut runs, &connection).expect("merged"), wanted);
        assert!(!runs.has_room(), "what is merged is all");
        let mut runs = Runs::existing(&path, &connection).expect("opened").expect("some");
        assert!(runs.has_room());
        assert_eq!(merged(&mut runs, &connection).expect("merged"), wanted);
        // A merge that came to `a`.
        connection.execute("INSERT INTO answers VALUES ('a')", []).expect("written");
        let mut runs = Runs::existing(&path, &connection).expect("opened").expect("some");
        assert!(!runs.has_room());
        assert_eq!(merged(&mut runs, &connection).expect("merged"), wanted[1..]);
        assert!(expect_none(&path, &connection).is_err());
        note_merged(&connection).expect("noted");
        assert!(Runs::existing(&path, &connection).expect("opened").is_none());
        assert!(expect_none(&path, &connection).expect("none").is_none());
        assert!(!super::path(&path).exists());
    }

    /// Whatever byte is another one, and wherever the file ends too early.
    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, connection) = answers(folder.path());
        let mut runs = Runs::existing(&path, &connection).expect("made").expect("some");
        add(&mut runs, &connection, &rows([("a", Some("one"), 1), ("b", None, 2)]));
        add(&mut runs, &connection, &rows([("a", Some("two"), 3)]));
        let file = super::path(&path);
        let bytes = std::fs::read(&file).expect("there");
        let corrupt = || {
            let found = Runs::existing(&path, &connection).map(|runs| merged(&mut runs.expect("some"), &connection));
            matches!(found, Err(StoreError::Corrupt { .. }) | Ok(Err(StoreError::Corrupt { .. })))
        };
        assert!(!corrupt());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).expect("written");
            assert!(corrupt(), "byte {at}");
            std::fs::write(&file, &bytes[..at]).expect("written");
            assert!(corrupt(), "cut at {at}");
        }
        std::fs::remove_file(&file).expect("removed");
        assert!(corrupt(), "removed");
    }
}
