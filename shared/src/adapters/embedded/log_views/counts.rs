//! Counts of events, whole and by time and member.

use std::collections::BTreeMap;

use rusqlite::types::{Value, ValueRef};
use uuid::Uuid;

use super::condition::Sql;
use super::plan::{self, Plan};
use super::segments::{Segment, Span};
use super::snapshot::Snapshot;
use super::{page, tables::signed};
use crate::domain::filter::{Field, Filter};
use crate::domain::log_event::LogEvent;
use crate::domain::time::Timestamp;
use crate::ports::{StatsQuery, StatsRow, StoreError};

/// How many events match.
pub(super) fn count(snapshot: &mut Snapshot<'_>, filter: &Filter) -> Result<u64, StoreError> {
    let plan = Plan::new(filter);
    let segments = snapshot.segments()?;
    let mut count = 0;
    for segment in segments.iter().filter(|segment| plan.concerns(segment)) {
        if plan.is_time_only && segment.times.is_within(plan.times) {
            count += segment.count;
            continue;
        }
        for value in plan.values() {
            snapshot.renew_if_old()?;
            let sql = statement("count(*)", segment, &plan, value, snapshot, Sql::default());
            count += snapshot.query(&sql, |row| row.get::<_, u64>(0))?.into_iter().sum::<u64>();
        }
    }
    let look = snapshot.look();
    let matches = |event: &LogEvent| filter.matches(event);
    for number in look.replaced() {
        let stored = page::stored(snapshot, number)?;
        count = count.saturating_sub(u64::from(stored.is_some_and(|(stored, _)| matches(&stored.event))));
    }
    Ok(count + look.events().filter(|change| change.event.as_deref().is_some_and(matches)).count() as u64)
}

/// How many match in each time bucket with each value of a member.
pub(super) fn stats(snapshot: &mut Snapshot<'_>, query: &StatsQuery) -> Result<Option<Vec<StatsRow>>, StoreError> {
    let plan = Plan::new(&query.filter);
    let (segments, look) = (snapshot.segments()?, snapshot.look());
    let replaced = look.replaced();
    let mut rows = BTreeMap::<_, u64>::new();
    for segment in segments.iter().filter(|segment| plan.concerns(segment)) {
        for value in plan.values() {
            snapshot.renew_if_old()?;
            let mut sql = Sql::default();
            let interval = sql.bind(query.interval);
            let wanted = format!("bucket(timestamp, {interval}), {}, count(*)", query.by.name());
            let mut sql = statement(&wanted, segment, &plan, value, snapshot, sql);
            // One more than is asked for: so that it is known to be too many.
            let limit = query.limit.saturating_add(replaced.len()).saturating_add(1);
            let limit = sql.bind(i64::try_from(limit).unwrap_or(i64::MAX));
            sql.push(&format!(" GROUP BY 1, 2 LIMIT {limit}"));
            for (start, value, count) in snapshot.query(&sql, |row| {
                Ok((Timestamp::from_micros(row.get(0)?), text(&query.by, row.get_ref(1)?), row.get::<_, u64>(2)?))
            })? {
                *rows.entry((start, value)).or_default() += count;
            }
            if rows.len() > query.limit.saturating_add(replaced.len()) {
                return Ok(None);
            }
        }
    }
    for number in replaced {
        let stored = page::stored(snapshot, number)?.map(|(stored, _)| stored.event);
        if let Some(stored) = stored.filter(|stored| query.filter.matches(stored)) {
            rows.entry(query.row_of(&stored)).and_modify(|count| *count = count.saturating_sub(1));
        }
    }
    for event in look.events().filter_map(|change| change.event.as_deref()).filter(|event| query.filter.matches(event))
    {
        *rows.entry(query.row_of(event)).or_default() += 1;
    }
    rows.retain(|_, count| *count > 0);
    if rows.len() > query.limit {
        return Ok(None);
    }
    let rows = rows.into_iter().map(|((start, value), count)| StatsRow { start, value, count });
    Ok(Some(rows.collect()))
}

fn statement(
    wanted: &str,
    segment: &Segment,
    plan: &Plan,
    value: Option<&Value>,
    snapshot: &Snapshot<'_>,
    mut sql: Sql,
) -> Sql {
    let ordinal = segment.ordinal;
    let trigrams = plan.trigrams.as_ref().filter(|_| segment.has_text && plan.equality.is_none());
    let index = match &plan.equality {
        Some((column, _)) => plan::index(column, ordinal),
        None if trigrams.is_some() => "NOT INDEXED".into(),
        None if plan.times != Span::ALL => format!("INDEXED BY by_timestamp_{ordinal}"),
        None => String::new(),
    };
    sql.push(&format!("SELECT {wanted} FROM events_{ordinal} {index} WHERE "));
    sql.equality(plan, value);
    if let Some(trigrams) = trigrams {
        sql.has_trigrams(ordinal, trigrams);
    }
    if let Some(end) = snapshot.end() {
        // A later view of the file may hold what is looked at in memory, too.
        let end = sql.bind(signed(end.0));
        sql.push(&format!("number <= {end} AND "));
    }
    let rest = sql.condition(&plan.rest);
    sql.push(&rest);
    sql
}

/// A member's text as it is counted.
fn text(field: &Field, value: ValueRef<'_>) -> Option<String> {
    match (field, value) {
        (Field::Timestamp | Field::CreatedAt, ValueRef::Integer(micros)) => {
            Some(Timestamp::from_micros(micros).to_string())
        }
        (_, ValueRef::Integer(number)) => Some(number.to_string()),
        (_, ValueRef::Blob(id)) => Uuid::from_slice(id).ok().map(|id| id.to_string()),
        (_, ValueRef::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
        (_, ValueRef::Null | ValueRef::Real(_)) => None,
    }
}
