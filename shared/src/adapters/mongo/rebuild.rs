//! Building the views anew beside those that are shown.
//!
//! Each generation of rows has a number of its own, larger than all before it, and the
//! meta document says which one is shown. Rows of a generation that it does not name, and
//! that has a smaller number than one that it named, can never be shown again: those are
//! removed, however late somebody wrote them.

use std::time::Duration;

use mongodb::Database;
use mongodb::bson::doc;
use mongodb::options::Acknowledgment;

use super::connection::{READ, WRITE, within};
use super::lease::{Known, Turn, now};
use super::meta::{self, Filled, ID, Meta, Rows, signed};
use super::{log, rows};
use crate::domain::stream::Position;
use crate::domain::time::Timestamp;
use crate::ports::{Checkpoint, StoreError};

/// For how long rows stay that are not shown any more: readers may have looked at the meta
/// document before. No read takes as long.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// Notes that all is to be built anew; false if that is asked for or under way.
pub(super) async fn ask(database: &Database, views: &str, at: Timestamp) -> Result<bool, StoreError> {
    let filter = doc! { "_id": ID, "views": views, "rebuild.running": { "$ne": true } };
    let rebuild = doc! { "running": true, "started_at": at.micros(), "done": 0_i64, "total": 0_i64 };
    let ask = doc! { "$set": { "rebuild": rebuild }, "$inc": { "asked": 1_i64 } };
    let collection = meta::collection(database);
    Ok(within(WRITE, collection.update_one(filter, ask)).await?.matched_count == 1)
}

/// Begins the next generation; none if it is not this turn any more.
pub(super) async fn begin(database: &Database, turn: &Turn, meta: &Meta) -> Result<Option<Filled>, StoreError> {
    // A database that was restored over another may hold rows of numbers yet to come.
    let names = within(READ, database.list_collection_names()).await?;
    let there = names.iter().filter_map(|name| Rows::of(name, &meta.views)).map(|rows| rows.number).max();
    let number = meta.newest().max(there.unwrap_or(0)) + 1;
    let next = doc! {
        "generation": number,
        "commit": 0_i64,
        "prepare": 0_i64,
        "events": 0_i64,
        "parked": [],
        "parked_count": 0_i64,
    };
    let mut filter = turn.filter();
    filter.extend(doc! { "next": { "$exists": false }, "rebuild.running": true });
    let begin = doc! { "$set": { "next": next, "newest": number } };
    let collection = meta::collection(database);
    let begun = within(WRITE, collection.update_one(filter, begin)).await?.matched_count == 1;
    let rows = Rows { number, views: meta.views.clone() };
    Ok(begun.then_some(Filled { rows, at: Checkpoint::START }))
}

/// Makes what the rows of a generation need.
pub(super) async fn prepare(database: &Database, rows: &Rows) -> Result<(), StoreError> {
    rows::prepare(database, &rows.answers()).await?;
    log::prepare(database, rows).await
}

/// Notes how far the log is, for the progress.
pub(super) async fn note_total(database: &Database, turn: &Turn, head: Position) -> Result<(), StoreError> {
    let total = doc! { "$max": { "rebuild.total": signed(head.0) } };
    let collection = meta::collection(database);
    let note = collection.update_one(turn.filter(), total).write_concern(Acknowledgment::Nodes(1).into());
    within(WRITE, note).await.map(drop)
}

/// Makes the next generation the one that is shown; false if not both are where they were
/// left, or if some row may lie beyond the next one.
pub(super) async fn swap(
    database: &Database,
    live: Known<'_>,
    next: Known<'_>,
    finished_at: Timestamp,
) -> Result<bool, StoreError> {
    let at = live.at.max(next.at);
    let position = signed(at.position().0);
    let mut filter = live.filter();
    filter.extend(next.filter());
    // Also where there is no such field.
    let up_to = doc! { "$not": { "$gt": signed(next.at.position().0) } };
    filter.extend(doc! { "ahead": up_to.clone(), "written": up_to });
    let total = doc! { "$max": ["$rebuild.total", position] };
    let swapped = doc! {
        "generation": "$next.generation",
        "commit": signed(at.commit),
        "prepare": signed(at.prepare),
        "events": "$next.events",
        "parked": "$next.parked",
        "parked_count": "$next.parked_count",
        "swapped_at": now(),
        "rebuild.running": false,
        "rebuild.finished_at": finished_at.micros(),
        "rebuild.done": total.clone(),
        "rebuild.total": total,
    };
    let swap = vec![doc! { "$set": swapped }, doc! { "$unset": "next" }];
    let collection = meta::collection(database);
    Ok(within(WRITE, collection.update_one(filter, swap)).await?.matched_count == 1)
}

/// Removes the rows that can never be shown again, once nobody reads them.
pub(super) async fn sweep(database: &Database, turn: &Turn) -> Result<(), StoreError> {
    let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
    let swapped = doc! { "$ifNull": ["$swapped_at", 0_i64] };
    let mut filter = turn.filter();
    filter.insert("$expr", doc! { "$lte": [swapped, { "$subtract": [now(), grace] }] });
    let collection = meta::collection(database);
    let find = collection.find_one(filter).projection(meta::without_parked());
    let Some(meta) = within(READ, find).await? else { return Ok(()) };
    let kept = [Some(meta.rows()), meta.next().map(|next| next.rows)];
    let names = within(READ, database.list_collection_names().filter(doc! { "type": "collection" })).await?;
    for name in names {
        let Some(rows) = Rows::of(&name, &meta.views) else { continue };
        if rows.number <= meta.newest() && !kept.contains(&Some(rows)) {
            within(WRITE, database.collection::<()>(&name).drop()).await?;
            tracing::info!(collection = name, "rows that are not shown any more were removed");
        }
    }
    Ok(())
}
