//! Rows of the event log that a store holds in memory: sessions and rejections, which come
//! once and stay, and about what an event takes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::PAGE_BYTES;
use crate::domain::log_event::{LogEvent, Members, Rejection, Session};
use crate::domain::projection::EventChange;
use crate::domain::time::Timestamp;
use crate::ports::{ListQuery, Page, Record};

/// Sessions and rejections.
#[derive(Debug, Default)]
pub(super) struct Others {
    sessions: HashMap<Uuid, Arc<Session>>,
    sessions_by_time: BTreeMap<(Timestamp, Uuid), Arc<Session>>,
    rejections: HashMap<u64, Arc<Rejection>>,
    rejections_by_time: BTreeMap<(Timestamp, Uuid), Arc<Rejection>>,
}

impl Others {
    pub(super) fn put_session(&mut self, session: Arc<Session>) {
        self.sessions_by_time.insert((session.created_at, session.id), session.clone());
        self.sessions.insert(session.id, session);
    }

    pub(super) fn put_rejection(&mut self, rejection: Arc<Rejection>) {
        self.rejections_by_time.insert((rejection.created_at, rejection.id), rejection.clone());
        self.rejections.insert(rejection.number, rejection);
    }

    /// All of them, in the order of time.
    #[cfg(feature = "embedded")]
    pub(super) fn all_sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions_by_time.values().map(|session| &**session)
    }

    /// All of them, in the order of time.
    #[cfg(feature = "embedded")]
    pub(super) fn all_rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejections_by_time.values().map(|rejection| &**rejection)
    }

    pub(super) fn session(&self, id: Uuid) -> Option<Arc<Session>> {
        self.sessions.get(&id).cloned()
    }

    pub(super) fn sessions(&self, query: ListQuery) -> Page<Arc<Session>> {
        list(&self.sessions_by_time, query, |_| 0)
    }

    pub(super) fn rejection(&self, number: u64) -> Option<Arc<Rejection>> {
        self.rejections.get(&number).cloned()
    }

    pub(super) fn rejections(&self, query: ListQuery) -> Page<Arc<Rejection>> {
        list(&self.rejections_by_time, query, rejection_size)
    }
}

/// The event that a change leaves, if it leaves one.
pub(super) fn record_of(change: &EventChange) -> Option<Record> {
    let event = change.event.clone()?;
    Some(Record { event, revision: change.revision, position: change.position })
}

/// Keeps the first of them, up to a limit and within the bytes of a page, at least
/// one. Whether there are others.
pub(super) fn shorten<T>(found: &mut Vec<T>, limit: usize, size: impl Fn(&T) -> usize) -> bool {
    let mut bytes = 0;
    let within = |item: &T| {
        bytes += size(item);
        bytes <= PAGE_BYTES
    };
    let fitting = found.iter().take(limit).map(within).take_while(|fits| *fits).count();
    let kept = fitting.max(1).min(found.len());
    let more = kept < found.len();
    found.truncate(kept);
    more
}

fn list<T>(
    by_time: &BTreeMap<(Timestamp, Uuid), Arc<T>>,
    query: ListQuery,
    size: impl Fn(&T) -> usize,
) -> Page<Arc<T>> {
    let behind = query.behind.map_or(Bound::Unbounded, Bound::Excluded);
    let some = |rows: &mut dyn Iterator<Item = Arc<T>>| rows.take(query.limit.saturating_add(1)).collect::<Vec<_>>();
    let mut found = if query.descending {
        some(&mut by_time.range((Bound::Unbounded, behind)).rev().map(|(_, row)| row.clone()))
    } else {
        some(&mut by_time.range((behind, Bound::Unbounded)).map(|(_, row)| row.clone()))
    };
    let more = shorten(&mut found, query.limit, |row| size(row));
    Page { found, more }
}

/// About the bytes of a rejection as JSON.
pub(super) fn rejection_size(rejection: &Rejection) -> usize {
    rejection.message.len() + json_size(&rejection.data)
}

/// About the bytes of an event as JSON.
pub(super) fn size_of(event: &LogEvent) -> usize {
    let Members { name, category, component, environment, message, email, source, data, ce, .. } = &event.members;
    let texts = [name, category, component, environment, message, email, source];
    let objects = [data, ce].into_iter().flatten().map(object_size);
    200 + texts.into_iter().flatten().map(String::len).chain(objects).sum::<usize>()
}

fn object_size(object: &Map<String, Json>) -> usize {
    object.iter().map(|(name, value)| name.len() + json_size(value)).sum()
}

fn json_size(json: &Json) -> usize {
    let inside = match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(json_size).sum(),
        Json::Object(members) => object_size(members),
    };
    8 + inside
}
