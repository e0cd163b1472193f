//! The one document that says what the views are: of which log, how far, in which
//! collection their rows lie and whose turn it is to write.

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
use super::lease::{Lease, Turn};
use crate::domain::stream::Position;
use crate::ports::{Checkpoint, LogId, StoreError};

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
    /// Grows when the rows are built anew beside those that are shown.
    generation: i64,
    commit: i64,
    prepare: i64,
    /// The largest position of a removal, or of a change of the event log, that may be
    /// seen before the checkpoint is there.
    ahead: i64,
    /// How many log events there are at the checkpoint.
    #[serde(default)]
    events: i64,
    pub(super) lease: Lease,
}

/// The collections of rows that belong together. A later generation can be filled
/// beside the one that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    number: i64,
    views: String,
}

impl Rows {
    pub(super) fn answers(&self) -> String {
        self.named("answers")
    }

    pub(super) fn events(&self) -> String {
        self.named("events")
    }

    pub(super) fn sessions(&self) -> String {
        self.named("sessions")
    }

    pub(super) fn rejections(&self) -> String {
        self.named("rejections")
    }

    fn named(&self, what: &str) -> String {
        format!("{what}_{}_{}", self.number, self.views)
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
        Rows { number: self.generation, views: self.views.clone() }
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

pub(super) async fn find(database: &Database) -> Result<Option<Meta>, StoreError> {
    within(READ, collection(database).find_one(doc! { "_id": ID })).await
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

/// The document while it is this turn, at the checkpoint where the turn is.
fn at(turn: &Turn) -> Document {
    let mut filter = turn.filter();
    filter.insert("commit", signed(turn.at.commit));
    filter.insert("prepare", signed(turn.at.prepare));
    filter
}

/// Says that what leaves no row behind may be seen from now on, up to this position;
/// false if it is not this turn any more. It is not waited for until it is durable: what is written after
/// it is not durable without it either.
pub(super) async fn announce(database: &Database, turn: &Turn, unseen: Position) -> Result<bool, StoreError> {
    let collection = collection(database);
    // A late repetition must not take it back.
    let ahead = doc! { "$max": { "ahead": signed(unseen.0) } };
    let announce = collection.update_one(at(turn), ahead).write_concern(Acknowledgment::Nodes(1).into());
    Ok(within(WRITE, announce).await?.matched_count == 1)
}

/// Moves the checkpoint from where the turn is, with the number of log events; false if
/// it is not there, or if it is not this turn any more.
pub(super) async fn advance(database: &Database, turn: &Turn, to: Checkpoint, growth: i64) -> Result<bool, StoreError> {
    let collection = collection(database);
    let place = doc! { "commit": signed(to.commit), "prepare": signed(to.prepare) };
    let moved = doc! { "$set": place, "$inc": { "events": growth } };
    Ok(within(WRITE, collection.update_one(at(turn), moved)).await?.matched_count == 1)
}

/// The last look at the document, shared by all who want one: one at a time, however
/// many wait.
#[derive(Default)]
pub(super) struct Looks(Mutex<Option<Look>>);

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
        let mut last = self.0.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.begun >= since) {
            return last.found.clone();
        }
        let begun = Instant::now();
        let found = look().await;
        *last = Some(Look { begun, found: found.clone() });
        found
    }
}
