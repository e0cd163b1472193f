//! The fjall database behind `FjallEvents`: its keyspaces, and all reads.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `log` | position | the event, see `record` |
//! | `heads` | hash of the stream | last revision, last position, position of revision 0, stream; see `heads` |
//! | `index` | stream, NUL, revision (from 1 on) | position |
//! | `outcomes` | idempotency key | the outcome, as JSON |
//! | `expiry` | time of the claim, idempotency key | nothing |
//! | `meta` | `log_id` | the format of all this, the log's id |
//! | `meta` | `qaservice/group` | the number of the last group |
//! | `meta` | `qaservice/heads` | up to which position `heads` is complete |
//!
//! Numbers are big-endian, so that keys sort as they count. A stream of one
//! event has no entry in `index`: fresh keys cost no row there. Heads are
//! found by 16 bytes of XXH3, for the engine keeps keys up to 20 bytes in its nodes
//! and follows a pointer for longer ones; the name in the row proves the find.

use std::path::Path;

use bytes::Bytes;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::heads::Heads;
use super::memtables::Memtables;
use super::record;
use crate::adapters::EVENTS_BYTES;
use crate::domain::outcome::{Fingerprint, IdempotencyKey, Kept, Outcome};
use crate::domain::stream::{Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{Direction, LogId, StoreError};

/// Block cache; SQLite has its own.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// When what is new in the log goes to a table. While that is synced nothing else is, so it
/// is small; tables of the log are never merged, for its keys only grow.
const LOG_MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// The key of the number of the last group: `journal` looks for it too.
pub(super) const GROUP_KEY: &[u8] = b"qaservice/group";
const LOG_ID_KEY: &[u8] = b"log_id";
const HEADS_KEY: &[u8] = b"qaservice/heads";
/// In front of the log's id. Format 1 had the id alone, a row in `heads` for every append
/// and no `qaservice/heads`; it is read, and becomes format 2 with its next group.
const FORMAT: u8 = 2;
/// How many events are read at once for their heads.
const TAKEN_UP: usize = 4 * 1024;

pub(super) struct Engine {
    /// These first, for they hold keyspaces: a database is closed when nobody does.
    _memtables: Memtables,
    pub(super) heads: Heads,
    pub(super) db: Database,
    pub(super) log: Keyspace,
    pub(super) index: Keyspace,
    pub(super) outcomes: Keyspace,
    pub(super) expiry: Keyspace,
    pub(super) meta: Keyspace,
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) position: Position,
    /// Of revision 0.
    pub(super) first: Position,
}

impl Head {
    pub(super) fn to_bytes(self, stream: &StreamId) -> Vec<u8> {
        let numbers = [self.revision.0, self.position.0, self.first.0].map(u64::to_be_bytes);
        [numbers.as_flattened(), stream.as_str().as_bytes()].concat()
    }

    /// None if the row is too short or another stream's.
    pub(super) fn from_bytes(bytes: &[u8], stream: &StreamId) -> Option<Self> {
        Self::read(bytes).filter(|(_, name)| *name == stream.as_str().as_bytes()).map(|(head, _)| head)
    }

    /// A head and the name of its stream; none if the row is too short.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (numbers, name) = bytes.split_at_checked(24)?;
        let mut numbers = numbers.chunks_exact(8).map(|eight| eight.try_into().map(u64::from_be_bytes).ok());
        let mut next = || numbers.next().flatten();
        let head = Self { revision: Revision(next()?), position: Position(next()?), first: Position(next()?) };
        Some((head, name))
    }
}

/// An outcome as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredOutcome {
    schema: u32,
    at: Timestamp,
    fingerprint: String,
    outcome: Outcome,
}

impl StoredOutcome {
    pub(super) fn new(at: Timestamp, kept: &Kept) -> Self {
        let fingerprint = kept.fingerprint.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { schema: 1, at, fingerprint, outcome: kept.outcome }
    }

    fn kept(&self) -> Option<Kept> {
        let digits = |at: usize| u8::from_str_radix(self.fingerprint.get(at..at + 2)?, 16).ok();
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = digits(index * 2)?;
        }
        Some(Kept { fingerprint: Fingerprint(bytes), outcome: self.outcome })
    }
}

/// The key of a stream in `heads`.
pub(super) fn head_key(stream: &StreamId) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(stream.as_str().as_bytes()).to_be_bytes()
}

/// The key of an event of a stream in `index`.
pub(super) fn index_key(stream: &StreamId, revision: Revision) -> Vec<u8> {
    [stream.as_str().as_bytes(), &[0], &revision.0.to_be_bytes()].concat()
}

/// The key of a claim in `expiry`, sorted by time.
pub(super) fn expiry_key(at: Timestamp, key: &IdempotencyKey) -> Vec<u8> {
    [&at.micros().max(0).to_be_bytes(), key.to_bytes().as_slice()].concat()
}

pub(super) fn failed(error: fjall::Error) -> StoreError {
    StoreError::corrupt("the event log", error)
}

pub(super) fn missing(what: String) -> StoreError {
    StoreError::Corrupt { what, source: None }
}

impl Engine {
    /// Opens the database, creating what is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, fjall::Error> {
        let db = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true)
            .max_journaling_size(256 * 1024 * 1024)
            .open()?;
        let keyspace = |name: &str, options: KeyspaceCreateOptions| db.keyspace(name, || options);
        let rows = KeyspaceCreateOptions::default;
        let log = keyspace("log", rows().max_memtable_size(LOG_MEMTABLE_BYTES))?;
        let (heads, index) = (keyspace("heads", rows())?, keyspace("index", rows())?);
        let (outcomes, expiry) = (keyspace("outcomes", rows())?, keyspace("expiry", rows())?);
        let large = vec![log.clone(), heads.clone(), index.clone(), outcomes.clone(), expiry.clone()];
        let memtables = Memtables::hold(large).map_err(fjall::Error::Io)?;
        let meta = keyspace("meta", rows())?;
        let noted = meta.get(HEADS_KEY)?;
        let last = || log.last_key_value().map(|last| last.key()).transpose();
        let carried = if noted.is_some() { noted.clone() } else { last()? };
        // Of a number that cannot be read nothing is believed: then all is read again.
        let carried = carried.and_then(|number| position_of(&number).ok()).unwrap_or(Position::START);
        let heads = Heads::new(heads, carried, noted.is_some()).map_err(fjall::Error::Io)?;
        Ok(Self { _memtables: memtables, heads, log, index, outcomes, expiry, meta, db })
    }

    /// Reads the events whose streams' heads are not in their rows yet; to be called first.
    pub(super) fn take_up_heads(&self) -> Result<(), StoreError> {
        let mut at = self.heads.carried();
        loop {
            let events = self.follow(at, Position::MAX, TAKEN_UP)?;
            let Some(last) = events.last() else { return Ok(()) };
            at = last.position;
            events.iter().try_for_each(|event| self.heads.take_up(event))?;
        }
    }

    /// Corrects the rows of heads whose event a repair could not save, as a group with this
    /// number. Rows may be lost, too, whose event is there: the next start reads all events.
    pub(super) fn mend_heads(&self, group: u64) -> Result<(), StoreError> {
        let mut batch = self.db.batch().durability(Some(fjall::PersistMode::SyncAll));
        for row in self.heads.rows().iter() {
            let (key, value) = row.into_inner().map_err(failed)?;
            let unreadable = || missing("the head of a stream".into());
            let (head, name) = Head::read(&value).ok_or_else(unreadable)?;
            if self.is_there(head.position)? {
                continue;
            }
            let stream = StreamId::from_stored(std::str::from_utf8(name).map_err(|_| unreadable())?);
            match self.last_that_is_there(&stream, head)? {
                Some(head) => batch.insert(self.heads.rows(), key, head.to_bytes(&stream)),
                None => batch.remove(self.heads.rows(), key),
            }
        }
        let id = self.log_id()?.ok_or_else(|| missing("the log's id".into()))?;
        for (key, value) in Self::note(id, Position::START) {
            batch.insert(&self.meta, key, value);
        }
        batch.insert(&self.meta, GROUP_KEY, group.to_be_bytes());
        batch.commit().map_err(failed)
    }

    fn is_there(&self, position: Position) -> Result<bool, StoreError> {
        self.log.contains_key(position.0.to_be_bytes()).map_err(failed)
    }

    /// The head that a stream has without the events that are not there; none if it has none.
    fn last_that_is_there(&self, stream: &StreamId, head: Head) -> Result<Option<Head>, StoreError> {
        let indexed = index_key(stream, Revision(1))..=index_key(stream, head.revision);
        for row in self.index.range(indexed).rev() {
            let (key, value) = row.into_inner().map_err(failed)?;
            let revision = key[key.len() - 8..].try_into().map(u64::from_be_bytes).map(Revision);
            let revision = revision.map_err(|error| StoreError::corrupt("a revision", error))?;
            let position = position_of(&value)?;
            if self.is_there(position)? {
                return Ok(Some(Head { revision, position, ..head }));
            }
        }
        let first = Head { revision: Revision::FIRST, position: head.first, first: head.first };
        Ok(self.is_there(head.first)?.then_some(first))
    }

    pub(super) fn log_id(&self) -> Result<Option<LogId>, StoreError> {
        let Some(bytes) = self.meta.get(LOG_ID_KEY).map_err(failed)? else { return Ok(None) };
        let id = match bytes.split_first() {
            Some((&FORMAT, id)) if id.len() == 16 => id,
            Some((format, id)) if id.len() == 16 => {
                return Err(missing(format!("the log's id: its format {format} is unknown to this program")));
            }
            _ => &bytes[..],
        };
        let id = Uuid::from_slice(id).map_err(|error| StoreError::corrupt("the log's id", error))?;
        Ok(Some(LogId(id)))
    }

    /// The rows that say that all heads up to a position are in theirs, of the log with
    /// this id.
    pub(super) fn note(id: LogId, carried: Position) -> [(&'static [u8], Vec<u8>); 2] {
        let id = [&[FORMAT], id.0.as_bytes().as_slice()].concat();
        [(HEADS_KEY, carried.0.to_be_bytes().to_vec()), (LOG_ID_KEY, id)]
    }

    /// Names a new log, as its first group.
    pub(super) fn name(&self, id: LogId) -> Result<(), fjall::Error> {
        let mut batch = self.db.batch().durability(Some(fjall::PersistMode::SyncAll));
        for (key, value) in Self::note(id, Position::START) {
            batch.insert(&self.meta, key, value);
        }
        batch.insert(&self.meta, GROUP_KEY, 1_u64.to_be_bytes());
        batch.commit()
    }

    /// The number of the last group that the database holds.
    pub(super) fn group(&self) -> Result<u64, StoreError> {
        let bytes = self.meta.get(GROUP_KEY).map_err(failed)?.unwrap_or_default();
        bytes[..].try_into().map(u64::from_be_bytes).map_err(|error| StoreError::corrupt("the group's number", error))
    }

    /// The position of the last event.
    pub(super) fn last_position(&self) -> Result<Position, StoreError> {
        let Some(last) = self.log.last_key_value() else { return Ok(Position::START) };
        position_of(&last.key().map_err(failed)?)
    }

    pub(super) fn head(&self, stream: &StreamId) -> Result<Option<Head>, StoreError> {
        self.heads.get(stream)
    }

    /// The event at a position, if there is one.
    pub(super) fn event_at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        let bytes = self.log.get(position.0.to_be_bytes()).map_err(failed)?;
        bytes.map(|bytes| record::decode(position, Bytes::copy_from_slice(&bytes))).transpose()
    }

    /// The event at a position that has one.
    pub(super) fn event(&self, position: Position) -> Result<RecordedEvent, StoreError> {
        self.event_at(position)?.ok_or_else(|| missing(format!("the event at position {position}")))
    }

    /// Positions of a stream's events from one revision to another, both included.
    fn positions(&self, stream: &StreamId, head: Head, from: Revision, to: Revision) -> PositionsOf {
        let indexed = index_key(stream, from.max(Revision(1)))..=index_key(stream, to);
        let first = (from == Revision::FIRST).then_some(head.first);
        (first, self.index.range(indexed))
    }

    /// As `EventStore::read`.
    pub(super) fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let Some(head) = self.head(stream)? else { return Ok(Vec::new()) };
        let span = limit.saturating_sub(1) as u64;
        let (low, high) = match direction {
            Direction::Forwards if from > head.revision => return Ok(Vec::new()),
            Direction::Forwards => (from, head.revision.min(Revision(from.0.saturating_add(span)))),
            Direction::Backwards => {
                let high = from.min(head.revision);
                (Revision(high.0.saturating_sub(span)), high)
            }
        };
        let (first, indexed) = self.positions(stream, head, low, high);
        let rest = indexed.map(|row| row.value().map_err(failed).and_then(|bytes| position_of(&bytes)));
        let positions = first.map(Ok).into_iter().chain(rest).collect::<Result<Vec<_>, _>>()?;
        if positions.len() as u64 != high.0 - low.0 + 1 {
            return Err(missing(format!("an event of stream {stream:?}")));
        }
        match direction {
            Direction::Forwards => self.events(positions.into_iter()),
            Direction::Backwards => self.events(positions.into_iter().rev()),
        }
    }

    fn events(&self, positions: impl Iterator<Item = Position>) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut events = Vec::new();
        let mut bytes = 0;
        for position in positions {
            let event = self.event(position)?;
            bytes += event.event.data.len();
            events.push(event);
            if bytes > EVENTS_BYTES {
                break;
            }
        }
        Ok(events)
    }

    /// Events of the log behind a position, up to another.
    pub(super) fn follow(&self, after: Position, to: Position, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut events = Vec::new();
        let mut bytes = 0;
        for row in self.log.range((after.0 + 1).to_be_bytes()..=to.0.to_be_bytes()).take(limit) {
            let (key, value) = row.into_inner().map_err(failed)?;
            bytes += value.len();
            events.push(record::decode(position_of(&key)?, Bytes::copy_from_slice(&value))?);
            if bytes > EVENTS_BYTES {
                break;
            }
        }
        Ok(events)
    }

    /// What is kept under a key since a time.
    pub(super) fn outcome(&self, key: &IdempotencyKey, not_before: Timestamp) -> Result<Option<Kept>, StoreError> {
        let Some(bytes) = self.outcomes.get(key.to_bytes()).map_err(failed)? else { return Ok(None) };
        let unreadable = |error| StoreError::corrupt("the outcome of a request", error);
        let stored: StoredOutcome = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let kept = stored.kept().ok_or_else(|| missing("the fingerprint of a request".into()))?;
        Ok((stored.at >= not_before).then_some(kept))
    }

    /// Claims older than a time, up to `limit`: their keys in `expiry` and, where
    /// the claim was not renewed since, in `outcomes`.
    pub(super) fn expired(&self, before: Timestamp, limit: usize) -> Result<Vec<Expired>, StoreError> {
        let end = before.micros().max(0).to_be_bytes();
        let mut expired = Vec::new();
        for row in self.expiry.range(..end).take(limit) {
            let entry = row.key().map_err(failed)?;
            let (at, key) = entry.split_at(8);
            let stored = self.outcomes.get(key).map_err(failed)?;
            let same = stored.and_then(|bytes| serde_json::from_slice::<StoredOutcome>(&bytes).ok());
            let same = same.is_some_and(|stored| stored.at.micros().to_be_bytes() == at);
            expired.push(Expired { outcome: same.then(|| key.to_vec()), entry: entry.to_vec() });
        }
        Ok(expired)
    }
}

type PositionsOf = (Option<Position>, fjall::Iter);

/// A claim whose time is over.
pub(super) struct Expired {
    pub(super) entry: Vec<u8>,
    pub(super) outcome: Option<Vec<u8>>,
}

fn position_of(bytes: &[u8]) -> Result<Position, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map(Position).map_err(|error| StoreError::corrupt("a position", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Happened;
    use crate::domain::outcome::{Receipt, Refused};
    use crate::domain::refusal::Refusal;

    /// What is stored today must be read by every later version.
    #[test]
    fn stored_outcomes_are_frozen() {
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let receipt = Receipt { event: Happened::Created, revision: Revision(2), position: Position(9) };
        let refused = Refused { refusal: Refusal::KeyNotFound, position: None };
        let done = Kept { fingerprint: Fingerprint([0xab; 32]), outcome: Outcome::Done(receipt) };
        let not = Kept { fingerprint: Fingerprint([0xab; 32]), outcome: Outcome::Refused(refused) };
        let print = "ab".repeat(32);
        let head = format!(r#"{{"schema":1,"at":"2023-11-14T22:13:20.000000Z","fingerprint":"{print}","outcome":"#);
        let frozen = [
            (done, format!(r#"{head}{{"done":{{"event":"created","revision":2,"position":9}}}}}}"#)),
            (not, format!(r#"{head}{{"refused":{{"refusal":"KeyNotFound","position":null}}}}}}"#)),
        ];
        for (kept, json) in frozen {
            assert_eq!(serde_json::to_string(&StoredOutcome::new(at, &kept)).expect("JSON"), json);
            let read: StoredOutcome = serde_json::from_str(&json).expect("readable");
            assert_eq!(read.kept(), Some(kept));
        }
    }

    #[test]
    fn logs_of_older_formats_are_read_and_of_newer_ones_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = Engine::open(folder.path()).expect("opened");
        let id = LogId(Uuid::from_u128(7));
        assert_eq!(engine.log_id().expect("readable"), None);
        engine.name(id).expect("named");
        assert_eq!(engine.log_id().expect("readable"), Some(id));
        engine.meta.insert(LOG_ID_KEY, id.0.as_bytes()).expect("inserted");
        assert_eq!(engine.log_id().expect("readable"), Some(id));
        engine.meta.insert(LOG_ID_KEY, [&[3], id.0.as_bytes().as_slice()].concat()).expect("inserted");
        let error = engine.log_id().expect_err("refused").to_string();
        assert!(error.contains("format 3 is unknown"), "{error}");
    }

    #[test]
    fn a_head_reads_as_it_was_written() {
        let head = Head { revision: Revision(1), position: Position(2), first: Position(3) };
        let (stream, other) = (StreamId::from_stored("answer-a"), StreamId::from_stored("answer-b"));
        assert_eq!(Head::from_bytes(&head.to_bytes(&stream), &stream), Some(head));
        assert_eq!(Head::from_bytes(&head.to_bytes(&stream), &other), None);
        assert_eq!(Head::from_bytes(&[0; 8], &stream), None);
    }
}
