//! Rows of answers: one document a key, with the revision and position of its last
//! event. A removal leaves the document without `key` and `value`: it keeps a late put
//! out, and the index on `key`, which lists use, does not hold it.
//!
//! What comes from clients is only ever a value in a document or the bound of a range,
//! never part of a pipeline, so that nothing in it can act as an operator.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::raw::{RawArrayBuf, RawDocumentBuf};
use mongodb::bson::{self, Document, doc, rawdoc};
use mongodb::error::ErrorKind;
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};
use serde::Deserialize;

use super::connection::{READ, WRITE, failed, refused, within};
use super::meta::{DUPLICATE, signed, unsigned};
use crate::adapters::{PAGE_BYTES, end_of_prefix, start_of};
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::AnswerChange;
use crate::domain::stream::{Position, Revision};
use crate::ports::{AnswersPage, AnswersQuery, Seen, StoreError};

/// What people look at in the database's shell.
const SHOWN: &str = "answers";
/// Rows and bytes of one command; a command is a document, of 16 MB at most.
const LOAD_ROWS: usize = 1_000;
const LOAD_BYTES: usize = 8 * 1024 * 1024;
/// What a row takes beside its texts, about.
const ROW_BYTES: usize = 160;
/// Commands that are under way at once.
const LOADS: usize = 2;
/// The name is taken already.
const NAMESPACE_EXISTS: i32 = 48;

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    key: String,
    value: Option<Arc<str>>,
    revision: i64,
    position: i64,
}

/// What is known of a key.
pub(super) struct Row {
    value: Option<Arc<str>>,
    revision: Revision,
    pub(super) position: Position,
}

impl Row {
    /// The answer; none for a removal.
    pub(super) fn answer(self, key: Key) -> Option<Answer> {
        let revision = self.revision;
        self.value.map(|value| Answer { key, value, revision })
    }
}

impl From<Stored> for Row {
    fn from(stored: Stored) -> Self {
        let Stored { value, revision, position, .. } = stored;
        Self { value, revision: Revision(unsigned(revision)), position: Position(unsigned(position)) }
    }
}

/// Makes what the rows need: the index of those that are live, and the view of them
/// that people look at.
pub(super) async fn prepare(database: &Database, rows: &str) -> Result<(), StoreError> {
    let options = IndexOptions::builder().name("live".to_owned()).sparse(true).build();
    let index = IndexModel::builder().keys(doc! { "key": 1 }).options(options).build();
    within(WRITE, database.collection::<Document>(rows).create_index(index)).await?;
    let pipeline =
        [doc! { "$match": { "key": { "$exists": true } } }, doc! { "$project": { "_id": 0, "key": 1, "value": 1 } }];
    let create = doc! { "create": SHOWN, "viewOn": rows, "pipeline": &pipeline[..] };
    let change = doc! { "collMod": SHOWN, "viewOn": rows, "pipeline": &pipeline[..] };
    let shown = match within(WRITE, run(database, create)).await? {
        Err(NAMESPACE_EXISTS) => within(WRITE, run(database, change)).await?,
        other => other,
    };
    if let Err(code) = shown {
        // Nothing of ours reads it.
        tracing::warn!(code, "the view {SHOWN:?} for the database's shell could not be made");
    }
    Ok(())
}

/// Runs a command that the server may refuse with a code.
async fn run(database: &Database, command: Document) -> Result<Result<(), i32>, mongodb::error::Error> {
    match database.run_command(command).await {
        Ok(_) => Ok(Ok(())),
        Err(error) => match &*error.kind {
            ErrorKind::Command(refused) => Ok(Err(refused.code)),
            _ => Err(error),
        },
    }
}

/// The row of a key.
pub(super) async fn find(database: &Database, rows: &str, key: &Key) -> Result<Option<Row>, StoreError> {
    let rows: Collection<Stored> = database.collection(rows);
    Ok(within(READ, rows.find_one(of_key(key))).await?.map(Row::from))
}

fn of_key(key: &Key) -> Document {
    doc! { "_id": key.as_str() }
}

/// Live answers in the order of their keys' bytes, with the largest of their positions.
pub(super) async fn page(
    database: &Database,
    rows: &str,
    query: &AnswersQuery,
) -> Result<Seen<AnswersPage>, StoreError> {
    within(WRITE, read_page(database, rows, query)).await
}

/// The condition of a page: a range of keys. It holds for strings alone.
fn of_page(query: &AnswersQuery) -> Document {
    let (start, is_behind) = start_of(query);
    let mut range = doc! { if is_behind { "$gt" } else { "$gte" }: start };
    if let Some(end) = end_of_prefix(&query.prefix) {
        range.insert("$lt", end);
    }
    doc! { "key": range }
}

async fn read_page(
    database: &Database,
    rows: &str,
    query: &AnswersQuery,
) -> Result<Seen<AnswersPage>, mongodb::error::Error> {
    let rows: Collection<Stored> = database.collection(rows);
    let count = u32::try_from(query.limit).unwrap_or(u32::MAX).saturating_add(1);
    let find = rows.find(of_page(query)).sort(doc! { "key": 1 }).limit(count.into()).batch_size(count);
    let mut found = find.await?;
    let (mut answers, mut bytes, mut position) = (Vec::new(), 0, Position::START);
    let mut more = false;
    while let Some(stored) = found.try_next().await? {
        let key = Key::from_stored(&stored.key);
        let row = Row::from(stored);
        let at = row.position;
        let Some(answer) = row.answer(key) else { continue };
        bytes += answer.key.as_str().len() + answer.value.len();
        if answers.len() == query.limit || bytes > PAGE_BYTES && !answers.is_empty() {
            more = true;
            break;
        }
        position = position.max(at);
        answers.push(answer);
    }
    Ok(Seen { found: AnswersPage { answers, more }, position })
}

/// Writes rows of different keys. A row that is newer than its change stays as it is.
pub(super) async fn write(database: &Database, rows: &str, changes: Vec<AnswerChange>) -> Result<(), StoreError> {
    // The first event of a key finds no row but in a repetition, and servers take
    // inserts in bulk several times as fast.
    let (new, known): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.revision == Revision::FIRST);
    let loads = loads(new).into_iter().map(|load| (Way::Insert, load));
    let loads = loads.chain(self::loads(known).into_iter().map(|load| (Way::Upsert, load)));
    let write = |(way, load)| async move { write_load(database, rows, way, load).await };
    stream::iter(loads).map(write).buffer_unordered(LOADS).try_collect().await
}

/// How a row gets to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Insert,
    /// Where the row is older, or where there is none.
    Upsert,
    /// Where the row is older.
    Update,
}

/// Parts that each fit in a command.
fn loads(changes: Vec<AnswerChange>) -> Vec<Vec<AnswerChange>> {
    let mut loads: Vec<Vec<AnswerChange>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = 3 * change.key.as_str().len() + change.value.as_ref().map_or(0, |value| value.len()) + ROW_BYTES;
        match loads.last_mut().filter(|load| load.len() < LOAD_ROWS && bytes + size <= LOAD_BYTES) {
            Some(load) => load.push(change),
            None => {
                bytes = 0;
                loads.push(vec![change]);
            }
        }
        bytes += size;
    }
    loads
}

async fn write_load(database: &Database, rows: &str, way: Way, mut load: Vec<AnswerChange>) -> Result<(), StoreError> {
    let there = command(database, rows, way, &load).await?;
    if there.is_empty() {
        return Ok(());
    }
    // A row is there that the write did not expect: it is newer, or it came in at the
    // same moment and may be older. No row ever goes away, so now a plain update is exact.
    let mut index = 0;
    load.retain(|_| {
        index += 1;
        there.binary_search(&(index - 1)).is_ok()
    });
    let none = command(database, rows, Way::Update, &load).await?;
    if none.is_empty() { Ok(()) } else { Err(refused(DUPLICATE)) }
}

/// Writes a load; gives the places in it whose row was there unexpectedly, in order.
async fn command(database: &Database, rows: &str, way: Way, load: &[AnswerChange]) -> Result<Vec<usize>, StoreError> {
    let items: RawArrayBuf = load.iter().map(|change| item(way, change)).collect();
    let concern = rawdoc! { "w": "majority", "j": true };
    let command = match way {
        Way::Insert => rawdoc! { "insert": rows, "ordered": false, "writeConcern": concern, "documents": items },
        Way::Upsert | Way::Update => {
            rawdoc! { "update": rows, "ordered": false, "writeConcern": concern, "updates": items }
        }
    };
    let reply = within(WRITE, database.run_raw_command(command)).await?;
    let reply: Reply = bson::deserialize_from_document(reply).map_err(|error| failed(error.into()))?;
    if let Some(error) = reply.write_concern_error {
        return Err(refused(error.code));
    }
    let mut there = Vec::with_capacity(reply.write_errors.len());
    for error in reply.write_errors {
        if error.code != DUPLICATE {
            return Err(refused(error.code));
        }
        there.push(error.index);
    }
    there.sort_unstable();
    Ok(there)
}

fn item(way: Way, change: &AnswerChange) -> RawDocumentBuf {
    let row = document(change);
    if way == Way::Insert {
        return row;
    }
    let older = rawdoc! { "_id": change.key.as_str(), "position": { "$lt": signed(change.position.0) } };
    rawdoc! { "q": older, "u": row, "upsert": way == Way::Upsert }
}

fn document(change: &AnswerChange) -> RawDocumentBuf {
    let key = change.key.as_str();
    let (revision, position) = (signed(change.revision.0), signed(change.position.0));
    match &change.value {
        Some(value) => {
            rawdoc! { "_id": key, "key": key, "value": &**value, "revision": revision, "position": position }
        }
        None => rawdoc! { "_id": key, "revision": revision, "position": position },
    }
}

/// What the server says to a write of many rows.
#[derive(Deserialize)]
struct Reply {
    #[serde(default, rename = "writeErrors")]
    write_errors: Vec<WriteError>,
    #[serde(rename = "writeConcernError")]
    write_concern_error: Option<ConcernError>,
}

#[derive(Deserialize)]
struct WriteError {
    index: usize,
    code: i32,
}

#[derive(Deserialize)]
struct ConcernError {
    code: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: usize, bytes: usize) -> AnswerChange {
        AnswerChange {
            key: Key::from_stored(&number.to_string()),
            value: Some("x".repeat(bytes).into()),
            revision: Revision(1),
            position: Position(number as u64 + 1),
        }
    }

    #[test]
    fn loads_are_bounded_in_rows_and_bytes() {
        let sizes = |changes: Vec<AnswerChange>| loads(changes).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(sizes(Vec::new()).is_empty());
        assert_eq!(sizes((0..2_500).map(|number| change(number, 10)).collect()), [1_000, 1_000, 500]);
        assert_eq!(sizes((0..40).map(|number| change(number, 512 * 1024)).collect()), [15, 15, 10]);
        let all = loads((0..3_000).map(|number| change(number, 10_000)).collect());
        assert!(all.concat().iter().zip(0..).all(|(change, number)| change.position == Position(number + 1)));
    }

    #[test]
    fn what_clients_send_stays_a_value() {
        let key = Key::from_stored("$where");
        let change = AnswerChange {
            key: key.clone(),
            value: Some("$$NOW".into()),
            revision: Revision(0),
            position: Position(1),
        };
        let row = Document::try_from(document(&change)).expect("a document");
        assert_eq!(
            row,
            doc! { "_id": "$where", "key": "$where", "value": "$$NOW", "revision": 0_i64, "position": 1_i64 }
        );
        let query = AnswersQuery { prefix: "$gt".into(), after: Some("$regex".into()), limit: 1 };
        assert_eq!(of_page(&query), doc! { "key": { "$gt": "$regex", "$lt": "$gu" } });
    }
}
