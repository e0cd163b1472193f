//! Writing rows in bulk, each guarded by its position.

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::Database;
use mongodb::bson::raw::{RawArrayBuf, RawDocumentBuf};
use mongodb::bson::{self, rawdoc};
use serde::Deserialize;

use super::connection::{WRITE, failed, refused, within};
use super::meta::DUPLICATE;
use crate::ports::StoreError;

/// Rows and bytes of one command; a command is a document, of 16 MB at most.
const LOAD_ROWS: usize = 1_000;
const LOAD_BYTES: usize = 8 * 1024 * 1024;
/// What a row takes in a command beside itself, about.
const ROW_BYTES: usize = 100;
/// Commands that are under way at once.
const LOADS: usize = 2;

/// A row to be written.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) id: String,
    pub(super) position: i64,
    /// No row is expected there. (It may be.)
    pub(super) is_new: bool,
    /// With `_id` and `position`.
    pub(super) document: RawDocumentBuf,
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

/// Writes rows with different ids. A row that is as new as what is to be written, or
/// newer, stays as it is.
pub(super) async fn write(database: &Database, collection: &str, puts: Vec<Put>) -> Result<(), StoreError> {
    // Servers take inserts in bulk several times as fast.
    let (new, known): (Vec<_>, Vec<_>) = puts.into_iter().partition(|put| put.is_new);
    let new = loads(new).into_iter().map(|load| (Way::Insert, load));
    let all = new.chain(loads(known).into_iter().map(|load| (Way::Upsert, load)));
    let write = |(way, load)| async move { write_load(database, collection, way, load).await };
    stream::iter(all).map(write).buffer_unordered(LOADS).try_collect().await
}

/// Parts that each fit in a command.
fn loads(puts: Vec<Put>) -> Vec<Vec<Put>> {
    let mut loads: Vec<Vec<Put>> = Vec::new();
    let mut bytes = 0;
    for put in puts {
        let size = put.document.as_bytes().len() + put.id.len() + ROW_BYTES;
        match loads.last_mut().filter(|load| load.len() < LOAD_ROWS && bytes + size <= LOAD_BYTES) {
            Some(load) => load.push(put),
            None => {
                bytes = 0;
                loads.push(vec![put]);
            }
        }
        bytes += size;
    }
    loads
}

async fn write_load(database: &Database, collection: &str, way: Way, mut load: Vec<Put>) -> Result<(), StoreError> {
    let there = command(database, collection, way, &load).await?;
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
    let none = command(database, collection, Way::Update, &load).await?;
    if none.is_empty() { Ok(()) } else { Err(refused(DUPLICATE)) }
}

/// Writes a load; gives the places in it whose row was there unexpectedly, in order.
async fn command(database: &Database, collection: &str, way: Way, load: &[Put]) -> Result<Vec<usize>, StoreError> {
    let items: RawArrayBuf = load.iter().map(|put| item(way, put)).collect();
    let concern = rawdoc! { "w": "majority", "j": true };
    let command = match way {
        Way::Insert => rawdoc! { "insert": collection, "ordered": false, "writeConcern": concern, "documents": items },
        Way::Upsert | Way::Update => {
            rawdoc! { "update": collection, "ordered": false, "writeConcern": concern, "updates": items }
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

fn item(way: Way, put: &Put) -> RawDocumentBuf {
    let row = put.document.clone();
    if way == Way::Insert {
        return row;
    }
    let older = rawdoc! { "_id": &*put.id, "position": { "$lt": put.position } };
    rawdoc! { "q": older, "u": row, "upsert": way == Way::Upsert }
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

    fn put(number: usize, bytes: usize) -> Put {
        let document = rawdoc! { "_id": number.to_string(), "value": "x".repeat(bytes), "position": 1_i64 };
        Put { id: number.to_string(), position: i64::try_from(number).expect("small"), is_new: true, document }
    }

    #[test]
    fn loads_are_bounded_in_rows_and_bytes() {
        let sizes = |puts: Vec<Put>| loads(puts).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(sizes(Vec::new()).is_empty());
        assert_eq!(sizes((0..2_500).map(|number| put(number, 10)).collect()), [1_000, 1_000, 500]);
        assert_eq!(sizes((0..40).map(|number| put(number, 512 * 1024)).collect()), [15, 15, 10]);
        let all = loads((0..3_000).map(|number| put(number, 10_000)).collect());
        assert!(all.concat().iter().zip(0..).all(|(put, number)| put.position == number));
    }
}
