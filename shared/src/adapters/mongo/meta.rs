//! The one document that says what the views are: of which log, how far, in which
//! collections their rows lie, which streams are parked, what is being built beside them
//! and whose turn it is to write. All that must be exact moves in one update of it.

use std::future::Future;
use std::time::Instant;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{Acknowledgment, ReturnDocument};
use mongodb::{Collection, Database};
use serde::Deserialize;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::connection::{READ, WRITE, failed, within};
use super::lease::{Known, Lease, Turn};
use super::parked;
use crate::domain::projection::Parked;
use crate::domain::stream::Position;
use crate::domain::time::Timestamp;
use crate::ports::{Checkpoint, LogId, RebuildState, StoreError};

const COLLECTION: &str = "views";
pub(super) const ID: &str = "answers";
/// The version of the documents.
const FORMAT: i64 = 1;
/// A row with this `_id` is there already.
pub(super) const DUPLICATE: i32 = 11_000;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Meta {
    format: i64,
    log: String,
    /// Made at random with the document: other views in the same place are told apart,
    /// and whoever still writes to views that are gone writes where nobody reads.
    pub(super) views: String,
    /// The number of the rows that are shown.
    generation: i64,
    /// The largest number that was ever given to rows.
    #[serde(default)]
    newest: i64,
    commit: i64,
    prepare: i64,
    /// The largest position of a removal, or of a change of the event log, that may be
    /// seen before the checkpoint is there.
    ahead: i64,
    /// How many log events there are at the checkpoint.
    #[serde(default)]
    events: i64,
    /// How many streams are parked.
    #[serde(default)]
    parked_count: i64,
    /// What is built beside that.
    next: Option<Next>,
    #[serde(default)]
    rebuild: Rebuild,
    /// Grows with all that is asked of whoever has the turn.
    #[serde(default)]
    pub(super) asked: i64,
    pub(super) lease: Lease,
}

#[derive(Clone, Debug, Deserialize)]
struct Next {
    generation: i64,
    commit: i64,
    prepare: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Rebuild {
    running: bool,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    done: i64,
    total: i64,
}

/// The collections of rows that belong together. A later generation can be filled
/// beside the one that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) number: i64,
    pub(super) views: String,
}

/// Rows, and how far they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) rows: Rows,
    pub(super) at: Checkpoint,
}

const ANSWERS: &str = "answers";
const EVENTS: &str = "events";
const SESSIONS: &str = "sessions";
const REJECTIONS: &str = "rejections";

impl Rows {
    pub(super) fn answers(&self) -> String {
        self.named(ANSWERS)
    }

    pub(super) fn events(&self) -> String {
        self.named(EVENTS)
    }

    pub(super) fn sessions(&self) -> String {
        self.named(SESSIONS)
    }

    pub(super) fn rejections(&self) -> String {
        self.named(REJECTIONS)
    }

    fn named(&self, what: &str) -> String {
        format!("{what}_{}_{}", self.number, self.views)
    }

    /// Those of some views that a collection belongs to; none if it is no such collection.
    pub(super) fn of(collection: &str, views: &str) -> Option<Self> {
        let mut parts = collection.splitn(3, '_');
        let (what, number) = (parts.next()?, parts.next()?);
        let rows = Self { number: number.parse().ok()?, views: views.to_owned() };
        let is_ours = [ANSWERS, EVENTS, SESSIONS, REJECTIONS].contains(&what) && rows.named(what) == collection;
        is_ours.then_some(rows)
    }
}

impl Meta {
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { commit: unsigned(self.commit), prepare: unsigned(self.prepare) }
    }

    /// How many log events there are at the checkpoint.
    pub(super) fn events(&self) -> u64 {
        unsigned(self.events)
    }

    /// A position that covers all that can be seen of what leaves no row.
    pub(super) fn position(&self) -> Position {
        self.checkpoint().position().max(Position(unsigned(self.ahead)))
    }

    /// Where the rows are.
    pub(super) fn rows(&self) -> Rows {
        self.numbered(self.generation)
    }

    fn numbered(&self, number: i64) -> Rows {
        Rows { number, views: self.views.clone() }
    }

    /// The rows that are shown.
    pub(super) fn live(&self) -> Filled {
        Filled { rows: self.rows(), at: self.checkpoint() }
    }

    /// Those that are built beside them.
    pub(super) fn next(&self) -> Option<Filled> {
        self.next.as_ref().map(|next| Filled {
            rows: self.numbered(next.generation),
            at: Checkpoint { commit: unsigned(next.commit), prepare: unsigned(next.prepare) },
        })
    }

    /// The largest number that was ever given to rows.
    pub(super) fn newest(&self) -> i64 {
        self.newest.max(self.generation)
    }

    /// How many streams are parked.
    pub(super) fn parked(&self) -> u64 {
        unsigned(self.parked_count)
    }

    /// Whether a rebuild is asked for or under way.
    pub(super) fn is_rebuilding(&self) -> bool {
        self.rebuild.running
    }

    pub(super) fn rebuild_state(&self) -> RebuildState {
        let Rebuild { running, started_at, finished_at, done, total } = self.rebuild;
        let (mut done, mut total) = (Position(unsigned(done)), Position(unsigned(total)));
        if running {
            done = self.next().map_or(Position::START, |next| next.at.position());
            total = total.max(done).max(self.checkpoint().position());
        }
        let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
        let (started_at, finished_at) = (time(started_at), time(finished_at));
        RebuildState { is_running: running, done, total, started_at, finished_at }
    }

    /// Why these views cannot be used by this program, if they cannot.
    pub(super) fn unknown_format(&self, database: &str) -> Option<String> {
        let found = self.format;
        (found != FORMAT).then(|| {
            format!("the views in MongoDB database {database:?} have format {found}, not {FORMAT}: {}", remedy())
        })
    }

    /// Why these views are not a log's, if they are not.
    pub(super) fn other_log(&self, log: LogId, database: &str) -> Option<String> {
        let own = log.0.to_string();
        (self.log != own).then(|| {
            let of = &self.log;
            format!(
                "the views in MongoDB database {database:?} belong to log {of}, not to this one, {own}: {}",
                remedy()
            )
        })
    }

    /// Why views of a log cannot be gone on with.
    pub(super) fn ahead_of_log(&self, end: Position, database: &str) -> String {
        let at = self.checkpoint().position();
        format!(
            "the views in MongoDB database {database:?} are at position {at}, ahead of the log, which ends at {end}: {}",
            remedy()
        )
    }
}

fn remedy() -> &'static str {
    "set another MONGODB_DB, or drop that database to have it filled again from this log"
}

/// As positions are stored.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn collection(database: &Database) -> Collection<Meta> {
    database.collection(COLLECTION)
}

/// What is left out wherever the document is read: the parked streams may be many.
pub(super) fn without_parked() -> Document {
    doc! { "parked": 0, "next.parked": 0 }
}

pub(super) async fn find(database: &Database) -> Result<Option<Meta>, StoreError> {
    within(READ, collection(database).find_one(doc! { "_id": ID }).projection(without_parked())).await
}

/// The document, if it is this turn.
pub(super) async fn find_in(database: &Database, turn: &Turn) -> Result<Option<Meta>, StoreError> {
    within(READ, collection(database).find_one(turn.filter()).projection(without_parked())).await
}

/// The document; made for this log if there is none.
pub(super) async fn find_or_make(database: &Database, log: LogId) -> Result<Meta, StoreError> {
    loop {
        if let Some(found) = find(database).await? {
            return Ok(found);
        }
        let views = Uuid::new_v4().simple().to_string();
        let new = doc! {
            "format": FORMAT,
            "log": log.0.to_string(),
            "views": &views[..8],
            "generation": 1_i64,
            "commit": 0_i64,
            "prepare": 0_i64,
            "ahead": 0_i64,
            "events": 0_i64,
            "lease": { "holder": "", "epoch": 0_i64, "until": 0_i64 },
        };
        let collection = collection(database);
        let make = collection
            .find_one_and_update(doc! { "_id": ID }, doc! { "$setOnInsert": new })
            .upsert(true)
            .return_document(ReturnDocument::After);
        match tokio::time::timeout(WRITE, make).await {
            Ok(Ok(Some(made))) => return Ok(made),
            // Somebody else made it at the same moment.
            Ok(Ok(None)) => {}
            Ok(Err(error)) if code(&error) == Some(DUPLICATE) => {}
            Ok(Err(error)) => return Err(failed(error)),
            Err(elapsed) => return Err(StoreError::unavailable("MongoDB", elapsed)),
        }
    }
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        _ => None,
    }
}

/// Notes, before rows are written, that none lies beyond `last`, and that up to `unseen`
/// some may be seen by what they leave out; false if the document is not as it was left.
/// It is not waited for until it is durable: what is written after it is not durable
/// without it either.
pub(super) async fn announce(
    database: &Database,
    as_left: Document,
    last: Position,
    unseen: Option<Position>,
) -> Result<bool, StoreError> {
    // A late repetition must not take it back.
    let mut most = doc! { "written": signed(last.0) };
    if let Some(unseen) = unseen {
        most.insert("ahead", signed(unseen.0));
    }
    let collection = collection(database);
    let announce = collection.update_one(as_left, doc! { "$max": most });
    Ok(within(WRITE, announce.write_concern(Acknowledgment::Nodes(1).into())).await?.matched_count == 1)
}

/// Moves the checkpoint of a generation, with the number of log events and the streams
/// that are parked from here on; false if it is not where it was left, or if it is not
/// this turn any more.
pub(super) async fn advance(
    database: &Database,
    known: Known<'_>,
    to: Checkpoint,
    growth: i64,
    parked: &[Parked],
) -> Result<bool, StoreError> {
    let name = |name| known.field(name);
    let place = doc! { name("commit"): signed(to.commit), name("prepare"): signed(to.prepare) };
    let mut grown = doc! { name("events"): growth };
    let mut moved = doc! { "$set": place };
    if !parked.is_empty() {
        grown.insert(name("parked_count"), i64::try_from(parked.len()).unwrap_or(i64::MAX));
        let entries: Vec<_> = parked.iter().map(parked::entry).collect();
        moved.insert("$push", doc! { name("parked"): { "$each": entries } });
    }
    moved.insert("$inc", grown);
    let collection = collection(database);
    Ok(within(WRITE, collection.update_one(known.filter(), moved)).await?.matched_count == 1)
}

/// The last look at the document, shared by all who want one: one at a time, however
/// many wait.
#[derive(Default)]
pub(super) struct Looks {
    last: Mutex<Option<Look>>,
    /// Looks that began before this moment do not count.
    outdated: parking_lot::Mutex<Option<Instant>>,
}

struct Look {
    begun: Instant,
    found: Result<Option<Meta>, StoreError>,
}

impl Looks {
    /// What a look found that began at this moment or later.
    pub(super) async fn since<F>(&self, since: Instant, look: impl FnOnce() -> F) -> Result<Option<Meta>, StoreError>
    where
        F: Future<Output = Result<Option<Meta>, StoreError>>,
    {
        let mut last = self.last.lock().await;
        let since = self.outdated.lock().map_or(since, |outdated| since.max(outdated));
        if let Some(last) = last.as_ref().filter(|last| last.begun >= since) {
            return last.found.clone();
        }
        let begun = Instant::now();
        let found = look().await;
        *last = Some(Look { begun, found: found.clone() });
        found
    }

    /// Lets no look count any more that began before this moment.
    pub(super) fn outdate(&self) {
        *self.outdated.lock() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_collections_are_ours() {
        let number = |name: &str| Rows::of(name, "1a2b3c4d").map(|rows| rows.number);
        for what in ["answers", "events", "sessions", "rejections"] {
            assert_eq!(number(&format!("{what}_12_1a2b3c4d")), Some(12));
        }
        for other in [
            "views",
            "answers",
            "answers_1",
            "answers_1_",
            "answers_1_1a2b3c4",
            "answers_1_1a2b3c4dd",
            "answers_1_1a2b3c4d_old",
            "answers_01_1a2b3c4d",
            "answers_+1_1a2b3c4d",
            "answers_one_1a2b3c4d",
            "answers__1a2b3c4d",
            "questions_1_1a2b3c4d",
            "my_answers_1_1a2b3c4d",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
