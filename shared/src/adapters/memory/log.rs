//! The event log's rows in memory: plain, for they are what other stores are held to.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::adapters::PAGE_BYTES;
use crate::domain::filter::Filter;
use crate::domain::log_event::{LogEvent, Members, Rejection, Session};
use crate::domain::projection::{EventChange, LogChange};
use crate::domain::stream::Position;
use crate::domain::time::Timestamp;
use crate::ports::{
    EventRef, EventsPage, EventsQuery, From, ListQuery, Order, Page, Place, Record, StatsQuery, StatsRow,
};

/// Log events, deleted ones too, sessions and rejections.
#[derive(Default)]
pub(super) struct LogRows {
    events: HashMap<Uuid, EventChange>,
    by_number: HashMap<u64, Uuid>,
    by_position: BTreeMap<Position, Uuid>,
    sessions: HashMap<Uuid, Arc<Session>>,
    sessions_by_time: BTreeMap<(Timestamp, Uuid), Arc<Session>>,
    rejections: HashMap<u64, Arc<Rejection>>,
    rejections_by_time: BTreeMap<(Timestamp, Uuid), Arc<Rejection>>,
}

impl LogRows {
    /// Makes a change, unless a later one of the same row is known.
    pub(super) fn apply(&mut self, change: LogChange) {
        match change {
            LogChange::Event(change) => self.put(change),
            LogChange::Session(session) => {
                self.sessions_by_time.insert((session.created_at, session.id), session.clone());
                self.sessions.insert(session.id, session);
            }
            LogChange::Rejection(rejection) => {
                self.rejections_by_time.insert((rejection.created_at, rejection.id), rejection.clone());
                self.rejections.insert(rejection.number, rejection);
            }
        }
    }

    fn put(&mut self, change: EventChange) {
        if let Some(known) = self.events.get(&change.id) {
            if known.position >= change.position {
                return;
            }
            self.by_position.remove(&known.position);
        }
        self.by_position.insert(change.position, change.id);
        self.by_number.insert(change.number, change.id);
        self.events.insert(change.id, change);
    }

    pub(super) fn event(&self, which: EventRef) -> Option<Record> {
        let id = match which {
            EventRef::Id(id) => id,
            EventRef::Number(number) => *self.by_number.get(&number)?,
        };
        record(self.events.get(&id)?)
    }

    fn live(&self) -> impl Iterator<Item = Record> {
        self.events.values().filter_map(record)
    }

    pub(super) fn events(&self, query: &EventsQuery) -> EventsPage {
        let is_asked_for = |record: &Record| {
            let behind = match &query.from {
                From::Behind(place) => query.order.compare(&query.order.place_of(&record.event), place).is_gt(),
                From::Start | From::Skip(_) => true,
            };
            behind && query.filter.matches(&record.event)
        };
        let mut found: Vec<_> = self.live().filter(is_asked_for).collect();
        found.sort_by_cached_key(|record| InOrder(query.order, query.order.place_of(&record.event)));
        let skipped = match query.from {
            From::Skip(events) => usize::try_from(events).unwrap_or(usize::MAX).min(found.len()),
            From::Start | From::Behind(_) => 0,
        };
        found.drain(..skipped);
        let more = shorten(&mut found, query.limit, |record| size_of(&record.event));
        EventsPage { events: found, more }
    }

    pub(super) fn count(&self, filter: &Filter) -> u64 {
        self.live().filter(|record| filter.matches(&record.event)).count() as u64
    }

    pub(super) fn stats(&self, query: &StatsQuery) -> Option<Vec<StatsRow>> {
        let (mut rows, mut bytes) = (BTreeMap::<_, u64>::new(), 0);
        for Record { event, .. } in self.live().filter(|record| query.filter.matches(&record.event)) {
            let bucket = event.members.timestamp.micros().div_euclid(query.interval);
            let start = Timestamp::from_micros(bucket.saturating_mul(query.interval));
            let value = query.by.text_of(&event);
            let length = value.as_ref().map_or(0, String::len);
            let count = rows.entry((start, value)).or_default();
            if *count == 0 {
                bytes += length;
            }
            *count += 1;
            if rows.len() > query.limit || bytes > PAGE_BYTES {
                return None;
            }
        }
        Some(rows.into_iter().map(|((start, value), count)| StatsRow { start, value, count }).collect())
    }

    pub(super) fn changes(&self, after: Position, limit: usize) -> Vec<EventChange> {
        let behind = self.by_position.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        let mut changes: Vec<_> = behind.map(|(_, id)| self.events[id].clone()).collect();
        shorten(&mut changes, limit, |change| change.event.as_deref().map_or(0, size_of));
        changes
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
        list(&self.rejections_by_time, query, |rejection| rejection.message.len() + json_size(&rejection.data))
    }
}

fn record(change: &EventChange) -> Option<Record> {
    let event = change.event.clone()?;
    Some(Record { event, revision: change.revision, position: change.position })
}

/// A place that compares as its order says.
struct InOrder(Order, Place);

impl Ord for InOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.compare(&self.1, &other.1)
    }
}

impl PartialOrd for InOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InOrder {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for InOrder {}

/// Keeps the first of them, up to a limit and within the bytes of a page, at least
/// one. Whether there are others.
fn shorten<T>(found: &mut Vec<T>, limit: usize, size: impl Fn(&T) -> usize) -> bool {
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

/// About the bytes of an event as JSON.
fn size_of(event: &LogEvent) -> usize {
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
