//! Pages: the events of many segments in one order.
//!
//! Each source (a segment, and where several values will do, one of them) gives its
//! events in order, some at a time and from a place on; the one whose next event
//! comes first is taken from. Nothing is held open between, so that a long walk
//! can let go of its view of the file now and then. What is not in the file is a source
//! that gives all it has at once.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::Value;
use uuid::Uuid;

use super::super::generation::failed;
use super::condition::Sql;
use super::plan::{self, Plan};
use super::segments::{Segment, Span, of_number};
use super::snapshot::Snapshot;
use super::tables::{EVENT_COLUMNS, read_event, signed};
use super::text;
use super::young::{Group, Look};
use crate::adapters::PAGE_BYTES;
use crate::adapters::in_memory::{record_of, size_of};
use crate::domain::log_event::LogEvent;
use crate::domain::time::Timestamp;
use crate::ports::{EventsPage, EventsQuery, From, Order, Place, Record, SortKey, Sorted, StoreError, Ties};

/// How many places a source is asked for at first, and at most.
const FIRST_CHUNK: usize = 16;
const LARGEST_CHUNK: usize = 16 * 1024;

/// Reads a page.
pub(super) fn page(snapshot: &mut Snapshot<'_>, query: &EventsQuery) -> Result<EventsPage, StoreError> {
    let plan = Plan::new(&query.filter);
    let (behind, skip) = match &query.from {
        From::Start => (None, 0),
        From::Behind(place) => (Some(place), 0),
        From::Skip(count) => (None, *count),
    };
    let mut walk = Walk::new(&plan, query.order, behind, &snapshot.segments()?, snapshot.look());
    walk.add_young(query, skip);
    for _ in 0..skip {
        if walk.next(snapshot)?.is_none() {
            break;
        }
    }
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(place) = walk.next(snapshot)? {
        if events.len() == query.limit {
            return Ok(EventsPage { events, more: true });
        }
        let Some((record, size)) = record(snapshot, place.number)? else { continue };
        // A view of the file that was taken later may show it as it is since.
        if snapshot.was_renewed() && !query.filter.matches(&record.event) {
            continue;
        }
        bytes += size;
        if bytes > PAGE_BYTES && !events.is_empty() {
            return Ok(EventsPage { events, more: true });
        }
        events.push(record);
    }
    Ok(EventsPage { events, more: false })
}

/// The event with an integer id, and about how many bytes it takes.
pub(super) fn record(snapshot: &mut Snapshot<'_>, number: u64) -> Result<Option<(Record, usize)>, StoreError> {
    match snapshot.look().find(number) {
        Some(change) => Ok(record_of(change).map(|record| {
            let bytes = size_of(&record.event);
            (record, bytes)
        })),
        None => stored(snapshot, number),
    }
}

/// The event with an integer id as it is in the file.
pub(super) fn stored(snapshot: &mut Snapshot<'_>, number: u64) -> Result<Option<(Record, usize)>, StoreError> {
    let segments = snapshot.segments()?;
    let Some(at) = of_number(&segments, number) else { return Ok(None) };
    let sql = format!("SELECT {EVENT_COLUMNS} FROM events_{} WHERE number = ?1", segments[at].ordinal);
    let mut statement = snapshot.connection().prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query([signed(number)]).map_err(failed)?;
    rows.next().map_err(failed)?.map(read_event).transpose()
}

/// The integer id of the event with an id.
pub(super) fn number_of(snapshot: &mut Snapshot<'_>, id: Uuid) -> Result<Option<u64>, StoreError> {
    for segment in snapshot.segments()?.iter().rev() {
        let sql = format!("SELECT number FROM events_{0} INDEXED BY by_id_{0} WHERE id = ?1", segment.ordinal);
        let mut statement = snapshot.connection().prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query([id.as_bytes().as_slice()]).map_err(failed)?;
        if let Some(row) = rows.next().map_err(failed)? {
            return row.get(0).map(Some).map_err(failed);
        }
    }
    Ok(None)
}

/// The events that match, in order: their places.
struct Walk<'a> {
    plan: &'a Plan,
    order: Order,
    behind: Option<Place>,
    sources: Vec<Source<'a>>,
    heads: BinaryHeap<Head>,
    look: Arc<Look>,
}

struct Source<'a> {
    /// None where it is not in the file.
    ordinal: Option<usize>,
    /// Whether events are looked up by their trigrams; none until that is decided.
    by_text: Option<bool>,
    /// Whether its orders by a text have indexes.
    has_orders: bool,
    value: Option<&'a Value>,
    nulls: Nulls,
    found: VecDeque<Place>,
    /// The last place that was found; none before the first.
    last: Option<Place>,
    chunk: usize,
    /// Nothing is behind what was found.
    is_done: bool,
}

/// Where a text is sorted by, nulls and texts are sources of their own: SQLite's
/// comparisons do not go past a null.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    Either,
    Only,
    None,
}

/// What a source has next: an event, or what it can have at best.
struct Head {
    source: usize,
    /// Nothing in it comes before this; none where that is not known.
    best: Option<Sorted>,
    place: Option<Place>,
    order: Order,
}

impl Head {
    /// In the order of the walk; what is only possible comes before what is there.
    fn compare(&self, other: &Self) -> Ordering {
        if let (Some(one), Some(other)) = (&self.place, &other.place) {
            return self.order.compare(one, other);
        }
        let keys = match (self.key(), other.key()) {
            (Some(one), Some(other)) if self.order.descending => other.cmp(one),
            (Some(one), Some(other)) => one.cmp(other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        };
        keys.then(self.place.is_some().cmp(&other.place.is_some()))
    }

    fn key(&self) -> Option<&Sorted> {
        self.place.as_ref().map(|place| &place.key).or(self.best.as_ref())
    }
}

/// The heap gives the greatest, so what comes first is greatest.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare(other).reverse()
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl<'a> Walk<'a> {
    fn new(plan: &'a Plan, order: Order, behind: Option<&Place>, segments: &[Segment], look: Arc<Look>) -> Self {
        let (sources, heads) = (Vec::new(), BinaryHeap::new());
        let mut walk = Self { plan, order, behind: behind.cloned(), sources, heads, look };
        let concerned = |segment: &&Segment| plan.concerns(segment) && is_behind(order, segment, behind);
        for segment in segments.iter().filter(concerned) {
            for value in plan.values() {
                for &nulls in parts(order, behind) {
                    let source = walk.sources.len();
                    walk.sources.push(Source::new(segment, value, nulls));
                    walk.heads.push(Head { source, best: best(order, segment), place: None, order });
                }
            }
        }
        walk
    }

    /// Adds what is not in the file, as much of it as can be asked for.
    fn add_young(&mut self, query: &EventsQuery, skip: u64) {
        let found = young_places(&self.look, self.plan, query, skip);
        let source = self.sources.len();
        self.sources.push(Source::young(found));
        self.heads.push(Head { source, best: None, place: None, order: self.order });
    }

    /// The next place.
    fn next(&mut self, snapshot: &mut Snapshot<'_>) -> Result<Option<Place>, StoreError> {
        while let Some(Head { source: number, place, .. }) = self.heads.pop() {
            let source = &mut self.sources[number];
            if source.found.is_empty() && !source.is_done {
                source.fetch(snapshot, self.plan, self.order, self.behind.as_ref())?;
            }
            if let Some(next) = source.found.pop_front() {
                self.heads.push(Head { source: number, best: None, place: Some(next), order: self.order });
            }
            let is_stored = source.ordinal.is_some();
            match place {
                // The file has an earlier state of it.
                Some(place) if is_stored && self.look.find(place.number).is_some() => {}
                Some(place) => return Ok(Some(place)),
                None => {}
            }
        }
        Ok(None)
    }
}

/// The places of events that match and are not in the file, in order: as many as can be
/// asked for. Groups whose events all come behind these are not looked at.
fn young_places(look: &Look, plan: &Plan, query: &EventsQuery, skip: u64) -> VecDeque<Place> {
    let order = query.order;
    let is_behind = |event: &LogEvent| match &query.from {
        From::Behind(place) => order.compare(&order.place_of(event), place).is_gt(),
        From::Start | From::Skip(_) => true,
    };
    let matches = |event: &&LogEvent| query.filter.matches(event) && is_behind(event);
    let most = usize::try_from(skip).unwrap_or(usize::MAX).saturating_add(query.limit).saturating_add(1);
    let by_time = order.by == SortKey::Timestamp;
    let mut groups = look.groups();
    groups.retain(|group| !group.times.and(plan.times).is_empty());
    if by_time {
        groups.sort_unstable_by_key(|group| if order.descending { !group.times.last } else { group.times.first });
    }
    let comes_behind = |group: &Group<'_>, last: &LogEvent| {
        let last = last.members.timestamp.micros();
        if order.descending { group.times.last < last } else { group.times.first > last }
    };
    let mut found: Vec<&LogEvent> = Vec::new();
    for group in groups {
        if by_time && found.len() == most && found.last().is_some_and(|last| comes_behind(&group, last)) {
            break;
        }
        found.extend(look.latest(group).filter_map(|change| change.event.as_deref()).filter(matches));
        if found.len() > most {
            // The last of those that are kept is in its place.
            found.select_nth_unstable_by(most - 1, |one, other| order.compare_events(one, other));
            found.truncate(most);
        }
    }
    found.sort_unstable_by(|one, other| order.compare_events(one, other));
    found.into_iter().map(|event| order.place_of(event)).collect()
}

/// The parts of a segment that can hold something behind a place.
fn parts(order: Order, behind: Option<&Place>) -> &'static [Nulls] {
    match (order.by, behind.map(|place| &place.key)) {
        (SortKey::Timestamp | SortKey::CreatedAt | SortKey::Number, _) => &[Nulls::Either],
        // Null is lowest.
        (_, Some(Sorted::Text(None))) if order.descending => &[Nulls::Only],
        (_, Some(Sorted::Text(Some(_)))) if !order.descending => &[Nulls::None],
        _ => &[Nulls::Only, Nulls::None],
    }
}

/// Times that a segment's events have, where the order is by that.
fn span(order: Order, segment: &Segment) -> Option<Span> {
    match order.by {
        SortKey::Timestamp => Some(segment.times),
        SortKey::CreatedAt => Some(segment.created),
        SortKey::Name | SortKey::Category | SortKey::Number => None,
    }
}

/// What comes first of all that can be in a segment.
fn best(order: Order, segment: &Segment) -> Option<Sorted> {
    match (span(order, segment), order.by) {
        (Some(span), _) => {
            let first = if order.descending { span.last } else { span.first };
            Some(Sorted::Time(Timestamp::from_micros(first)))
        }
        (None, SortKey::Number) if !order.descending => Some(Sorted::Number(segment.first)),
        _ => None,
    }
}

/// Whether a segment can hold something behind a place.
fn is_behind(order: Order, segment: &Segment, behind: Option<&Place>) -> bool {
    match (span(order, segment), behind.map(|place| &place.key)) {
        (Some(span), Some(Sorted::Time(time))) if order.descending => span.first <= time.micros(),
        (Some(span), Some(Sorted::Time(time))) => span.last >= time.micros(),
        _ => true,
    }
}

impl<'a> Source<'a> {
    fn new(segment: &Segment, value: Option<&'a Value>, nulls: Nulls) -> Self {
        let by_text = if segment.has_text && value.is_none() { None } else { Some(false) };
        Self {
            ordinal: Some(segment.ordinal),
            by_text,
            has_orders: segment.has_orders,
            value,
            nulls,
            found: VecDeque::new(),
            last: None,
            chunk: FIRST_CHUNK,
            is_done: false,
        }
    }

    /// What is not in the file, in order.
    fn young(found: VecDeque<Place>) -> Self {
        let (by_text, value, nulls, chunk) = (Some(false), None, Nulls::Either, 0);
        Self { ordinal: None, by_text, has_orders: false, value, nulls, found, last: None, chunk, is_done: true }
    }

    /// Asks for what comes next, more each time.
    fn fetch(
        &mut self,
        snapshot: &mut Snapshot<'_>,
        plan: &Plan,
        order: Order,
        behind: Option<&Place>,
    ) -> Result<(), StoreError> {
        let Some(ordinal) = self.ordinal else { return Ok(()) };
        snapshot.renew_if_old()?;
        if self.by_text.is_none() {
            let are_few = |trigrams: &String| text::are_few(snapshot, ordinal, trigrams);
            self.by_text = Some(plan.trigrams.as_ref().map(are_few).transpose()?.unwrap_or(false));
        }
        let statement = self.statement(ordinal, plan, order, self.last.as_ref().or(behind));
        let found = snapshot.query(&statement, |row| place(order.by, row))?;
        self.is_done = found.len() < self.chunk;
        self.chunk = (self.chunk * 4).min(LARGEST_CHUNK);
        self.last = found.last().cloned().or(self.last.take());
        self.found = found.into();
        Ok(())
    }

    fn statement(&self, ordinal: usize, plan: &Plan, order: Order, behind: Option<&Place>) -> Sql {
        let key = key(order.by);
        let mut sql = Sql::default();
        let trigrams = plan.trigrams.as_ref().filter(|_| self.by_text == Some(true));
        let index = match (&plan.equality, order.by) {
            (Some((column, _)), _) => plan::index(column, ordinal),
            (None, SortKey::Number) => "NOT INDEXED".into(),
            (None, _) if trigrams.is_some() => "NOT INDEXED".into(),
            (None, SortKey::Name | SortKey::Category) if !self.has_orders => "NOT INDEXED".into(),
            (None, _) => format!("INDEXED BY by_{key}_{ordinal}"),
        };
        sql.push(&format!("SELECT {key}, id, number FROM events_{ordinal} {index} WHERE "));
        sql.equality(plan, self.value);
        if let Some(trigrams) = trigrams {
            sql.has_trigrams(ordinal, trigrams);
        }
        // A place of the other part lies before all of this one.
        let is_here = |place: &&Place| match self.nulls {
            Nulls::Only => place.key == Sorted::Text(None),
            Nulls::None => place.key != Sorted::Text(None),
            Nulls::Either => true,
        };
        let bound = behind.filter(is_here).map(|place| self.bound(&mut sql, order, place));
        match (self.nulls, &bound) {
            (Nulls::Only, _) => sql.push(&format!("{key} IS NULL AND ")),
            // Every text, said so that the index need not be walked through its nulls. (A
            // bound says it too, and with both SQLite would begin at the first text.)
            (Nulls::None, None) => sql.push(&format!("{key} >= '' AND ")),
            (Nulls::None, Some(_)) | (Nulls::Either, _) => {}
        }
        if let Some(bound) = bound {
            sql.push(&format!("{bound} AND "));
        }
        let rest = sql.condition(&plan.rest);
        sql.push(&rest);
        let direction = if order.descending { "DESC" } else { "ASC" };
        let ties = match order.ties {
            Ties::Id => format!("id {direction}"),
            Ties::Number => "number ASC".into(),
            Ties::NumberDescending => "number DESC".into(),
        };
        let chunk = sql.bind(i64::try_from(self.chunk).unwrap_or(i64::MAX));
        sql.push(&format!(" ORDER BY {key} {direction}, {ties} LIMIT {chunk}"));
        sql
    }

    /// That an event comes behind a place.
    fn bound(&self, sql: &mut Sql, order: Order, place: &Place) -> String {
        let key = key(order.by);
        let number = || Value::from(i64::try_from(place.number).unwrap_or(i64::MAX));
        let further = if order.descending { "<" } else { ">" };
        let (tie, tie_further, tie_value) = match order.ties {
            Ties::Id => ("id", further, Value::from(place.id.as_bytes().to_vec())),
            Ties::Number => ("number", ">", number()),
            Ties::NumberDescending => ("number", "<", number()),
        };
        let value = match &place.key {
            Sorted::Time(time) => Value::from(time.micros()),
            Sorted::Number(_) => return format!("number {further} {}", sql.bind(number())),
            Sorted::Text(Some(text)) => Value::from(text.clone()),
            Sorted::Text(None) => return format!("{tie} {tie_further} {}", sql.bind(tie_value)),
        };
        let (value, tie_value) = (sql.bind(value), sql.bind(tie_value));
        if order.ties == Ties::Id {
            return format!("({key}, id) {further} ({value}, {tie_value})");
        }
        format!("{key} {further}= {value} AND ({key} <> {value} OR {tie} {tie_further} {tie_value})")
    }
}

/// The column that an order goes by.
fn key(by: SortKey) -> &'static str {
    match by {
        SortKey::Timestamp => "timestamp",
        SortKey::CreatedAt => "created_at",
        SortKey::Name => "name",
        SortKey::Category => "category",
        SortKey::Number => "number",
    }
}

/// Reads a row of the key, the id and the integer id.
fn place(by: SortKey, row: &Row<'_>) -> rusqlite::Result<Place> {
    let key = match by {
        SortKey::Timestamp | SortKey::CreatedAt => Sorted::Time(Timestamp::from_micros(row.get(0)?)),
        SortKey::Name | SortKey::Category => Sorted::Text(row.get(0)?),
        SortKey::Number => Sorted::Number(row.get(0)?),
    };
    Ok(Place { key, id: Uuid::from_bytes(row.get(1)?), number: row.get(2)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::embedded::log_views::{LogViews, segments, tables};
    use crate::domain::filter::{Comparison, Field, Filter, Literal, Op, Test};
    use crate::domain::log_event::Members;
    use crate::domain::projection::{EventChange, LogChange};
    use crate::domain::stream::{Position, Revision};
    use crate::ports::LogId;

    fn compare(field: Field, comparison: Comparison, literal: Literal) -> Filter {
        Filter::Test(Test { field, op: Op::Compare(comparison, literal) })
    }

    /// The plans of all statements that a query begins with.
    fn plans(query: &EventsQuery) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let views = LogViews::create(&folder.path().join("views"), LogId(Uuid::nil()), 9).expect("created");
        let writer = views.lock();
        let connection = &writer.as_ref().expect("open").connection;
        let segment = segments::create(connection, 0, 0).expect("created");
        connection.execute_batch(&tables::orders(0)).expect("created");
        let whole = Span::ALL;
        let segment = Segment { times: whole, created: whole, has_orders: true, ..segment };
        let plan = Plan::new(&query.filter);
        let behind = match &query.from {
            From::Behind(place) => Some(place),
            From::Start | From::Skip(_) => None,
        };
        let walk = Walk::new(&plan, query.order, behind, &[segment], Arc::default());
        let explain = |source: &Source<'_>| {
            let sql = source.statement(0, &plan, query.order, behind);
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", sql.text)).expect("a plan");
            let values = rusqlite::params_from_iter(&sql.values);
            let rows = statement.query_map(values, |row| row.get::<_, String>(3)).expect("rows");
            rows.map(|row| row.expect("a row")).collect::<Vec<_>>().join("; ")
        };
        walk.sources.iter().map(explain).collect()
    }

    fn text(text: &str) -> Literal {
        Literal::String(text.into())
    }

    /// However deep a page is: it is found, not walked to, and nothing is sorted.
    #[test]
    fn pages_are_served_by_indexes() {
        let id = Uuid::from_u128(7);
        let session = text(&id.to_string());
        let time = |micros| Literal::Time(Timestamp::from_micros(micros));
        let range = [(Comparison::Gte, 10), (Comparison::Lt, 99)]
            .map(|(comparison, at)| compare(Field::Timestamp, comparison, time(at)));
        let filters = [
            Filter::Any,
            Filter::And(range.to_vec()),
            compare(Field::SessionId, Comparison::Eq, session.clone()),
            compare(Field::Name, Comparison::Eq, text("n")),
            compare(Field::Category, Comparison::Eq, text("c")),
            Filter::And([vec![compare(Field::SessionId, Comparison::Eq, session)], range.to_vec()].concat()),
            Filter::Test(Test { field: Field::Email, op: Op::In(vec![text("a"), text("b")]) }),
        ];
        let keys = [
            (SortKey::Timestamp, Sorted::Time(Timestamp::from_micros(50))),
            (SortKey::CreatedAt, Sorted::Time(Timestamp::from_micros(50))),
            (SortKey::Name, Sorted::Text(Some("n".into()))),
            (SortKey::Category, Sorted::Text(Some("c".into()))),
            (SortKey::Name, Sorted::Text(None)),
            (SortKey::Number, Sorted::Number(9)),
        ];
        for (by, key) in keys {
            for filter in &filters {
                // Filters that have an index have it in the order of time.
                if by != SortKey::Timestamp && !matches!(filter, Filter::Any) {
                    continue;
                }
                for descending in [true, false] {
                    for from in [From::Start, From::Behind(Place { key: key.clone(), id, number: 9 })] {
                        let order = Order { by, descending, ties: Ties::Id };
                        let query = EventsQuery { filter: filter.clone(), order, from, limit: 50 };
                        let is_deep = query.from != From::Start;
                        for plan in plans(&query) {
                            assert!(!plan.contains("TEMP B-TREE"), "{query:?}: {plan}");
                            assert!(plan.contains("SEARCH") || !is_deep && *filter == Filter::Any, "{query:?}: {plan}");
                        }
                    }
                }
            }
        }
    }

    /// The order is the same before a segment has the indexes of it.
    #[test]
    fn orders_by_text_need_no_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let views = LogViews::create(&folder.path().join("views"), LogId(Uuid::nil()), 9).expect("created");
        let names = [Some("b"), None, Some("a"), Some(""), Some("b"), None, Some("c")];
        let events = (1..=30_u64).map(|number| {
            let id = Uuid::from_u128(u128::from(number * 7919 % 31));
            let name = names[number as usize % names.len()].map(str::to_owned);
            let members = Members { name: name.clone(), category: name, ..Members::default() };
            let event = LogEvent { id, number, created_at: Timestamp::from_micros(5), members };
            (number, id, Arc::new(event))
        });
        let events: Vec<_> = events.collect();
        let changes = events.iter().map(|(number, id, event)| {
            let (number, id, event) = (*number, *id, Some(event.clone()));
            LogChange::Event(EventChange { id, number, event, revision: Revision(0), position: Position(number) })
        });
        views.put(changes.collect(), Position(30), || true);
        views.take_no_more();
        while let Some(carried) = views.carry_next() {
            carried.expect("carried");
        }
        let mut wanted: Vec<_> = events.iter().map(|(_, id, event)| (event.members.name.clone(), *id)).collect();
        wanted.sort();
        for round in ["without", "with some", "with all"] {
            for (by, descending) in
                [SortKey::Name, SortKey::Category].into_iter().flat_map(|by| [(by, false), (by, true)])
            {
                let order = Order { by, descending, ties: Ties::Id };
                let (mut found, mut from) = (Vec::new(), From::Start);
                loop {
                    let query = EventsQuery { filter: Filter::Any, order, from, limit: 4 };
                    let page = views.events(&query).expect("a page");
                    found.extend(page.events.iter().map(|one| (one.event.members.name.clone(), one.event.id)));
                    match page.events.last() {
                        Some(last) if page.more => from = From::Behind(order.place_of(&last.event)),
                        _ => break,
                    }
                }
                if descending {
                    found.reverse();
                }
                assert_eq!(found, wanted, "{round}, {order:?}");
            }
            let mut writer = views.lock();
            let writer = writer.as_mut().expect("open");
            let spare = if round == "without" { 2 } else { 0 };
            while segments::order_one(&mut writer.connection, &mut writer.segments, spare).expect("made") {}
            let missing = writer.segments.iter().filter(|segment| !segment.has_orders).count();
            assert_eq!((missing, writer.segments.len()), (spare, 4));
        }
    }

    /// Where ties are ordered otherwise, no more is sorted than they are.
    #[test]
    fn only_ties_are_sorted() {
        for ties in [Ties::Number, Ties::NumberDescending] {
            let order = Order { by: SortKey::Timestamp, descending: true, ties };
            let place = Place { key: Sorted::Time(Timestamp::from_micros(5)), id: Uuid::nil(), number: 9 };
            let query = EventsQuery { filter: Filter::Any, order, from: From::Behind(place), limit: 50 };
            for plan in plans(&query) {
                assert!(plan.contains("SEARCH") && plan.contains("LAST TERM OF ORDER BY"), "{plan}");
            }
        }
    }
}
