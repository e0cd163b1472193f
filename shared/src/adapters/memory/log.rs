//! The event log's rows in memory: plain, for they are what other stores are held to.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use uuid::Uuid;

use crate::adapters::PAGE_BYTES;
use crate::adapters::in_memory::{Others, record_of, shorten, size_of};
use crate::domain::filter::Filter;
use crate::domain::projection::{EventChange, LogChange};
use crate::domain::stream::Position;
use crate::ports::{EventRef, EventsPage, EventsQuery, From, Order, Place, Record, StatsQuery, StatsRow};

/// Log events, deleted ones too, sessions and rejections.
#[derive(Default)]
pub(super) struct LogRows {
    events: HashMap<Uuid, EventChange>,
    by_number: HashMap<u64, Uuid>,
    by_position: BTreeMap<Position, Uuid>,
    pub(super) others: Others,
}

impl LogRows {
    /// Makes a change, unless a later one of the same row is known.
    pub(super) fn apply(&mut self, change: LogChange) {
        match change {
            LogChange::Event(change) => self.put(change),
            LogChange::Session(session) => self.others.put_session(session),
            LogChange::Rejection(rejection) => self.others.put_rejection(rejection),
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
        record_of(self.events.get(&id)?)
    }

    fn live(&self) -> impl Iterator<Item = Record> {
        self.events.values().filter_map(record_of)
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
            let row = query.row_of(&event);
            let length = row.1.as_ref().map_or(0, String::len);
            let count = rows.entry(row).or_default();
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
