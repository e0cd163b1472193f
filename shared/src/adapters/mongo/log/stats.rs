//! Counts of log events by time and member.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use mongodb::bson::{self, Bson, Document, doc};
use mongodb::{Collection, Database};
use serde::Deserialize;

use super::condition::compile;
use super::events::{Stored, each, matching};
use crate::adapters::mongo::connection::{LIST, failed, in_time};
use crate::adapters::mongo::meta::unsigned;
use crate::domain::filter::Field;
use crate::domain::log_event::LogEvent;
use crate::domain::time::Timestamp;
use crate::ports::{StatsQuery, StatsRow, StoreError};

/// A group as the server gives it.
#[derive(Deserialize)]
struct Group {
    #[serde(rename = "_id")]
    key: Key,
    count: i64,
}

#[derive(Deserialize)]
struct Key {
    start: i64,
    value: Option<Bson>,
}

/// As `LogReader::stats`.
pub(super) async fn count(
    database: &Database,
    rows: &str,
    query: &StatsQuery,
) -> Result<Option<Vec<StatsRow>>, StoreError> {
    in_time(LIST, read(database, rows, query)).await
}

async fn read(database: &Database, rows: &str, query: &StatsQuery) -> Result<Option<Vec<StatsRow>>, StoreError> {
    let compiled = compile(&query.filter);
    let Some(condition) = matching(&compiled, Document::new()) else { return Ok(Some(Vec::new())) };
    let mut counts = BTreeMap::new();
    if compiled.exact {
        let rows: Collection<Document> = database.collection(rows);
        let groups = rows.aggregate(pipeline(condition, query)).allow_disk_use(true).max_time(LIST);
        let mut groups = groups.await.map_err(failed)?;
        while let Some(group) = groups.try_next().await.map_err(failed)? {
            let group: Group = bson::deserialize_from_document(group).map_err(|error| failed(error.into()))?;
            let value = group.key.value.and_then(|value| text(&query.by, value));
            *counts.entry((Timestamp::from_micros(group.key.start), value)).or_default() += unsigned(group.count);
        }
    } else {
        let rows: Collection<Stored> = database.collection(rows);
        let add = |event: &LogEvent| {
            if counts.len() <= query.limit {
                *counts.entry((bucket(event, query.interval), query.by.text_of(event))).or_default() += 1;
            }
        };
        each(&rows, condition, &query.filter, add).await?;
    }
    let rows = counts.into_iter().map(|((start, value), count)| StatsRow { start, value, count });
    Ok(Some(rows.collect::<Vec<_>>()).filter(|rows| rows.len() <= query.limit))
}

/// Groups by the start of the bucket, in whole numbers: the remainder has the sign of the
/// time, and before 1970 the bucket begins one further back.
fn pipeline(condition: Document, query: &StatsQuery) -> Vec<Document> {
    let remainder = doc! { "$mod": ["$timestamp", query.interval] };
    let into = doc! { "$cond": [
        { "$lt": [&remainder, 0_i64] },
        { "$add": [&remainder, query.interval] },
        &remainder,
    ] };
    let start = doc! { "$subtract": ["$timestamp", into] };
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
    let key = match field_of(&query.by) {
        Some(field) => doc! { "start": start, "value": format!("${field}") },
        None => doc! { "start": start },
    };
    vec![
        doc! { "$match": condition },
        doc! { "$group": { "_id": key, "count": { "$sum": 1_i64 } } },
        doc! { "$limit": limit },
    ]
}

/// The field of a member; none for those that events are not counted by.
fn field_of(field: &Field) -> Option<&'static str> {
    match field {
        Field::Id => Some("_id"),
        Field::Data(_) | Field::Ce => None,
        other => Some(other.name()),
    }
}

/// A value as it is read.
fn text(field: &Field, value: Bson) -> Option<String> {
    match (field, value) {
        (Field::Timestamp | Field::CreatedAt, Bson::Int64(micros)) => Some(Timestamp::from_micros(micros).to_string()),
        (_, Bson::Int64(number)) => Some(number.to_string()),
        (_, Bson::String(text)) => Some(text),
        _ => None,
    }
}

fn bucket(event: &LogEvent, interval: i64) -> Timestamp {
    let number = event.members.timestamp.micros().div_euclid(interval);
    Timestamp::from_micros(number.saturating_mul(interval))
}
