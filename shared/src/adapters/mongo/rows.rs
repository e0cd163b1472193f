//! Rows of answers: one document a key, with the revision and position of its last
//! event. A removal leaves the document without `key` and `value`: it keeps a late put
//! out, and the index on `key`, which lists use, does not hold it.
//!
//! What comes from clients is only ever a value in a document or the bound of a range,
//! never part of a pipeline, so that nothing in it can act as an operator.

use std::sync::Arc;

use futures::TryStreamExt;
use mongodb::bson::raw::RawDocumentBuf;
use mongodb::bson::{Document, doc, rawdoc};
use mongodb::error::ErrorKind;
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};
use serde::Deserialize;

use super::connection::{READ, WRITE, within};
use super::meta::{signed, unsigned};
use super::write::Put;
use crate::adapters::{PAGE_BYTES, end_of_prefix, start_of};
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::AnswerChange;
use crate::domain::stream::{Position, Revision};
use crate::ports::{AnswersPage, AnswersQuery, Seen, StoreError};

/// What people look at in the database's shell.
const SHOWN: &str = "answers";
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

/// Makes what the rows need: the index of those that are live.
pub(super) async fn prepare(database: &Database, rows: &str) -> Result<(), StoreError> {
    let options = IndexOptions::builder().name("live".to_owned()).sparse(true).build();
    let index = IndexModel::builder().keys(doc! { "key": 1 }).options(options).build();
    within(WRITE, database.collection::<Document>(rows).create_index(index)).await.map(drop)
}

/// Makes these rows the ones that people look at.
pub(super) async fn show(database: &Database, rows: &str) -> Result<(), StoreError> {
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

/// The row of a change.
pub(super) fn put(change: &AnswerChange) -> Put {
    Put {
        id: change.key.as_str().to_owned(),
        position: signed(change.position.0),
        is_new: change.revision == Revision::FIRST,
        document: document(change),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
