//! The rows of sessions and rejections: they come once and stay.

use std::sync::Arc;

use futures::TryStreamExt;
use mongodb::bson::{Document, doc, rawdoc};
use mongodb::{Collection, Database, IndexModel};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::adapters::PAGE_BYTES;
use crate::adapters::mongo::connection::{LIST, READ, WRITE, failed, in_time, within};
use crate::adapters::mongo::meta::{signed, unsigned};
use crate::adapters::mongo::write::Put;
use crate::domain::log_event::{Rejection, Session};
use crate::domain::stream::Position;
use crate::domain::time::Timestamp;
use crate::ports::{ListQuery, Page, Seen, StoreError};

/// What has rows here.
pub(super) trait Listed: Sized + Send {
    type Stored: DeserializeOwned + Send + Sync + Unpin;

    fn put(&self) -> Put;

    /// # Errors
    /// If the row is not as it was written.
    fn read(stored: Self::Stored) -> Result<Self, StoreError>;

    fn position(&self) -> Position;

    /// About its bytes.
    fn size(stored: &Self::Stored) -> usize;
}

#[derive(Deserialize)]
pub(super) struct StoredSession {
    #[serde(rename = "_id")]
    id: String,
    created_at: i64,
    position: i64,
}

impl Listed for Session {
    type Stored = StoredSession;

    fn put(&self) -> Put {
        let (id, position) = (self.id.hyphenated().to_string(), signed(self.position.0));
        let document = rawdoc! { "_id": &*id, "created_at": self.created_at.micros(), "position": position };
        Put { id, position, is_new: true, document }
    }

    fn read(StoredSession { id, created_at, position }: StoredSession) -> Result<Self, StoreError> {
        let (created_at, position) = (Timestamp::from_micros(created_at), Position(unsigned(position)));
        Ok(Self { id: uuid(&id, position)?, created_at, position })
    }

    fn position(&self) -> Position {
        self.position
    }

    fn size(_: &StoredSession) -> usize {
        100
    }
}

#[derive(Deserialize)]
pub(super) struct StoredRejection {
    #[serde(rename = "_id")]
    id: String,
    created_at: i64,
    position: i64,
    message: String,
    /// As JSON text.
    data: String,
}

impl Listed for Rejection {
    type Stored = StoredRejection;

    fn put(&self) -> Put {
        let (id, position) = (self.id.hyphenated().to_string(), signed(self.number));
        let document = rawdoc! {
            "_id": &*id,
            "created_at": self.created_at.micros(),
            "position": position,
            "message": &*self.message,
            "data": self.data.to_string(),
        };
        Put { id, position, is_new: true, document }
    }

    fn read(StoredRejection { id, created_at, position, message, data }: StoredRejection) -> Result<Self, StoreError> {
        let (created_at, position) = (Timestamp::from_micros(created_at), Position(unsigned(position)));
        let data = serde_json::from_str(&data).map_err(|error| StoreError::corrupt(row(position), error))?;
        Ok(Self { id: uuid(&id, position)?, number: position.0, message, data, created_at })
    }

    fn position(&self) -> Position {
        Position(self.number)
    }

    fn size(stored: &StoredRejection) -> usize {
        200 + stored.message.len() + stored.data.len()
    }
}

fn uuid(text: &str, position: Position) -> Result<Uuid, StoreError> {
    Uuid::try_parse(text).map_err(|error| StoreError::corrupt(row(position), error))
}

fn row(position: Position) -> String {
    format!("the row of the event at position {position}")
}

/// Makes the indexes.
pub(super) async fn prepare(database: &Database, rows: &str) -> Result<(), StoreError> {
    let indexes = [doc! { "created_at": 1, "_id": 1 }, doc! { "position": 1 }];
    let indexes = indexes.map(|keys| IndexModel::builder().keys(keys).build());
    within(WRITE, database.collection::<Document>(rows).create_indexes(indexes)).await.map(drop)
}

pub(super) fn put<T: Listed>(item: &T) -> Put {
    item.put()
}

pub(super) fn by_id(id: Uuid) -> Document {
    doc! { "_id": id.hyphenated().to_string() }
}

pub(super) fn by_position(position: u64) -> Document {
    doc! { "position": signed(position) }
}

/// One of them.
pub(super) async fn find<T: Listed>(database: &Database, rows: &str, which: Document) -> Result<Option<T>, StoreError> {
    let rows: Collection<T::Stored> = database.collection(rows);
    within(READ, rows.find_one(which)).await?.map(T::read).transpose()
}

/// A page of them, with the largest of their positions.
pub(super) async fn page<T: Listed>(
    database: &Database,
    rows: &str,
    query: ListQuery,
) -> Result<Seen<Page<Arc<T>>>, StoreError> {
    in_time(LIST, read_page(database, rows, query)).await
}

/// The parts of an order that a page comes from: each is one range of the index.
fn parts(query: ListQuery) -> Vec<Document> {
    let beyond = if query.descending { "$lt" } else { "$gt" };
    match query.behind {
        None => vec![Document::new()],
        Some((at, id)) => vec![
            doc! { "created_at": at.micros(), "_id": { beyond: id.hyphenated().to_string() } },
            doc! { "created_at": { beyond: at.micros() } },
        ],
    }
}

async fn read_page<T: Listed>(
    database: &Database,
    rows: &str,
    query: ListQuery,
) -> Result<Seen<Page<Arc<T>>>, StoreError> {
    let rows: Collection<T::Stored> = database.collection(rows);
    let way = if query.descending { -1 } else { 1 };
    let (mut found, mut bytes, mut position) = (Vec::new(), 0, Position::START);
    for part in parts(query) {
        let wanted = u32::try_from(query.limit.saturating_sub(found.len())).unwrap_or(u32::MAX).saturating_add(1);
        let find = rows.find(part).sort(doc! { "created_at": way, "_id": way });
        let mut rows = find.limit(wanted.into()).batch_size(wanted).max_time(LIST).await.map_err(failed)?;
        while let Some(stored) = rows.try_next().await.map_err(failed)? {
            bytes += T::size(&stored);
            if found.len() == query.limit || bytes > PAGE_BYTES && !found.is_empty() {
                return Ok(Seen { found: Page { found, more: true }, position });
            }
            let item = T::read(stored)?;
            position = position.max(item.position());
            found.push(Arc::new(item));
        }
    }
    Ok(Seen { found: Page { found, more: false }, position })
}
