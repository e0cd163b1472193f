//! Changes by position, sessions and rejections.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};
use uuid::Uuid;

use super::super::generation::failed;
use super::page::stored;
use super::segments::of_number;
use super::snapshot::Snapshot;
use super::tables::{check, damaged, read_rejection, read_session, signed};
use crate::adapters::PAGE_BYTES;
use crate::adapters::in_memory::{shorten, size_of};
use crate::domain::log_event::{Rejection, Session};
use crate::domain::projection::EventChange;
use crate::domain::stream::{Position, Revision};
use crate::domain::time::Timestamp;
use crate::ports::{ListQuery, Page, Record, StoreError};

/// The latest changes from behind one position up to another, in order.
pub(super) fn changes(
    snapshot: &mut Snapshot<'_>,
    after: Position,
    to: Position,
    limit: usize,
) -> Result<Vec<EventChange>, StoreError> {
    let look = snapshot.look();
    // Of what is in the file so much may be out of date.
    let stored = limit.saturating_add(look.replaced().len());
    let mut latest = amended(snapshot, after, to, stored)?;
    latest.extend(recorded(snapshot, after, to, stored)?);
    latest.retain(|latest| look.find(latest.number).is_none());
    latest.sort_unstable_by_key(|latest| latest.position);
    let mut latest = latest.into_iter().peekable();
    let mut young = look.changes(after, to).into_iter().peekable();
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while changes.len() < limit {
        let is_stored = match (latest.peek(), young.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(latest), Some(young)) => latest.position < young.position,
        };
        let next = if is_stored { latest.next().map(|next| next.change(snapshot)) } else { young.next().map(of_young) };
        let Some((change, size)) = next.transpose()? else { break };
        bytes += size;
        if bytes > PAGE_BYTES && !changes.is_empty() {
            break;
        }
        changes.push(change);
    }
    Ok(changes)
}

fn of_young(change: &EventChange) -> Result<(EventChange, usize), StoreError> {
    Ok((change.clone(), change.event.as_deref().map_or(0, size_of)))
}

/// Where the latest change of an event stands.
struct Latest {
    position: Position,
    number: u64,
    /// What was deleted, and the revision of that.
    deleted: Option<(Uuid, Revision)>,
}

impl Latest {
    /// What it is, and about how many bytes it takes.
    fn change(self, snapshot: &mut Snapshot<'_>) -> Result<(EventChange, usize), StoreError> {
        let Self { position, number, deleted } = self;
        if let Some((id, revision)) = deleted {
            return Ok((EventChange { id, number, event: None, revision, position }, 0));
        }
        let (Record { event, revision, .. }, size) = stored(snapshot, number)?.ok_or_else(damaged)?;
        Ok((EventChange { id: event.id, number, event: Some(event), revision, position }, size))
    }
}

/// Events that were never amended: their integer ids are their positions.
fn recorded(
    snapshot: &mut Snapshot<'_>,
    after: Position,
    to: Position,
    limit: usize,
) -> Result<Vec<Latest>, StoreError> {
    let segments = snapshot.segments()?;
    let mut found = Vec::new();
    for segment in segments.iter().skip(of_number(&segments, after.0).unwrap_or(0)) {
        let sql = format!(
            "SELECT number FROM events_{} WHERE number > ?1 AND number <= ?2 AND position = number \
             ORDER BY number LIMIT ?3",
            segment.ordinal
        );
        let mut statement = snapshot.connection().prepare_cached(&sql).map_err(failed)?;
        let row = |row: &Row<'_>| {
            let number = row.get(0)?;
            Ok(Latest { position: Position(number), number, deleted: None })
        };
        let rows =
            statement.query_map(params![signed(after.0), signed(to.0), limit - found.len()], row).map_err(failed)?;
        for row in rows {
            found.push(row.map_err(failed)?);
        }
        if found.len() == limit {
            break;
        }
    }
    Ok(found)
}

/// Events that were amended or deleted.
fn amended(snapshot: &Snapshot<'_>, after: Position, to: Position, limit: usize) -> Result<Vec<Latest>, StoreError> {
    let sql = "SELECT position, number, id, revision, deleted, checksum FROM amended \
               WHERE position > ?1 AND position <= ?2 ORDER BY position LIMIT ?3";
    let mut statement = snapshot.connection().prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(params![signed(after.0), signed(to.0), limit]).map_err(failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        check(row, 6)?;
        let columns = || -> rusqlite::Result<_> {
            let is_deleted: bool = row.get(4)?;
            let (id, revision) = (Uuid::from_bytes(row.get(2)?), Revision(row.get(3)?));
            let deleted = is_deleted.then_some((id, revision));
            Ok(Latest { position: Position(row.get(0)?), number: row.get(1)?, deleted })
        };
        found.push(columns().map_err(failed)?);
    }
    Ok(found)
}

pub(super) fn session(connection: &Connection, id: Uuid) -> Result<Option<Session>, StoreError> {
    let sql = "SELECT created_at, id, position, checksum FROM sessions WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query([id.as_bytes().as_slice()]).map_err(failed)?;
    rows.next().map_err(failed)?.map(read_session).transpose()
}

pub(super) fn sessions(connection: &Connection, query: ListQuery) -> Result<Page<Arc<Session>>, StoreError> {
    let sql = "SELECT created_at, id, position, checksum FROM sessions";
    list(connection, sql, query, |row| Ok((read_session(row)?, 0)))
}

pub(super) fn rejection(connection: &Connection, number: u64) -> Result<Option<Rejection>, StoreError> {
    let sql = "SELECT number, id, created_at, message, data, checksum FROM rejections WHERE number = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query([signed(number)]).map_err(failed)?;
    Ok(rows.next().map_err(failed)?.map(read_rejection).transpose()?.map(|(rejection, _)| rejection))
}

pub(super) fn rejections(connection: &Connection, query: ListQuery) -> Result<Page<Arc<Rejection>>, StoreError> {
    let sql = "SELECT number, id, created_at, message, data, checksum FROM rejections";
    list(connection, sql, query, read_rejection)
}

/// One page of several of the same order, each of which begins where it begins; what is in
/// two of them is there once.
pub(super) fn merge<T>(
    pages: Vec<Page<Arc<T>>>,
    query: ListQuery,
    key: impl Fn(&T) -> (Timestamp, Uuid),
    size: impl Fn(&T) -> usize,
) -> Page<Arc<T>> {
    let in_order = |one: &(Timestamp, Uuid), other: &(Timestamp, Uuid)| {
        if query.descending { other.cmp(one) } else { one.cmp(other) }
    };
    // Behind the end of a page that has more, what it lacks could come next.
    let ends = pages.iter().filter(|page| page.more).filter_map(|page| page.found.last());
    let end = ends.map(|last| key(last)).min_by(in_order);
    let mut found: Vec<_> = pages.into_iter().flat_map(|page| page.found).collect();
    found.sort_by(|one, other| in_order(&key(one), &key(other)));
    found.dedup_by(|one, other| key(one) == key(other));
    if let Some(end) = end {
        found.retain(|item| in_order(&key(item), &end).is_le());
    }
    let is_cut = shorten(&mut found, query.limit, |item| size(item));
    Page { found, more: is_cut || end.is_some() }
}

/// A page of what is ordered by time of recording and id.
fn list<T>(
    connection: &Connection,
    select: &str,
    query: ListQuery,
    read: impl Fn(&Row<'_>) -> Result<(T, usize), StoreError>,
) -> Result<Page<Arc<T>>, StoreError> {
    let (further, direction) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
    let mut values: Vec<Value> = Vec::new();
    let mut bound = String::new();
    if let Some((time, id)) = query.behind {
        values.extend([Value::from(time.micros()), Value::from(id.as_bytes().to_vec())]);
        bound = format!("WHERE (created_at, id) {further} (?1, ?2)");
    }
    let sql = format!("{select} {bound} ORDER BY created_at {direction}, id {direction}");
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(failed)? {
        let (item, size) = read(row)?;
        bytes += size;
        if found.len() == query.limit || (bytes > PAGE_BYTES && !found.is_empty()) {
            return Ok(Page { found, more: true });
        }
        found.push(Arc::new(item));
    }
    Ok(Page { found, more: false })
}
