//! What `LogReader` and `ViewWriter` promise together: the log's rows are those that
//! were applied, and a query finds exactly what plain Rust finds among them.

mod random;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::soon;
use super::views::LOG;
use crate::domain::filter::{Comparison, Field, Filter, Literal};
use crate::domain::log_event::{LogEvent, MAX_EVENT_BYTES, Members, Rejection, Session};
use crate::domain::projection::{EventChange, LogChange};
use crate::domain::stream::{Position, Revision};
use crate::domain::time::Timestamp;
use crate::ports::{
    Checkpoint, EventRef, EventsQuery, From, Generation, ListQuery, LogReader, Order, Page, Record, Seen, SortKey,
    StatsQuery, StatsRow, StoreError, Ties, ViewReader, ViewWriter,
};

const ORDERS: [SortKey; 5] =
    [SortKey::Timestamp, SortKey::CreatedAt, SortKey::Name, SortKey::Category, SortKey::Number];
const TIES: [Ties; 3] = [Ties::Id, Ties::Number, Ties::NumberDescending];
/// How often random filters are tried on new random events, and how many each time.
const ROUNDS: usize = 6;
const FILTERS: usize = 60;
const EVENTS: usize = 40;

/// Views of log events, which nobody else writes meanwhile. All three are the same
/// views.
///
/// # Panics
/// If the views break a promise.
pub async fn log(reader: Arc<dyn LogReader>, views: Arc<dyn ViewReader>, writer: Arc<dyn ViewWriter>) {
    let at = soon("the checkpoint", writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
    let mut log = Log { reader, views, writer, at, rows: BTreeMap::new(), tag: String::new() };
    log.events_are_put_amended_and_deleted().await;
    log.the_last_change_of_an_event_counts().await;
    log.what_was_reached_is_not_applied_again().await;
    log.events_are_kept_as_they_are().await;
    log.every_order_can_be_paged_through().await;
    log.deep_pages_hold_each_event_once().await;
    log.all_events_are_counted().await;
    log.buckets_are_counted().await;
    log.changes_come_in_their_order().await;
    log.who_follows_the_changes_misses_none().await;
    log.sessions_are_listed_by_their_time().await;
    log.rejections_are_listed_by_their_time().await;
    log.pages_are_bounded_in_bytes().await;
    log.unusual_filters_are_taken().await;
    log.random_filters_find_what_they_mean().await;
}

struct Log {
    reader: Arc<dyn LogReader>,
    views: Arc<dyn ViewReader>,
    writer: Arc<dyn ViewWriter>,
    at: Checkpoint,
    /// The latest change of each event that has this tag: what must be found.
    rows: BTreeMap<Uuid, EventChange>,
    /// The source of the events at hand, for the views may hold others.
    tag: String,
}

fn moment(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

fn order(by: SortKey, descending: bool, ties: Ties) -> Order {
    Order { by, descending, ties }
}

fn record(change: &EventChange) -> Option<Record> {
    let event = change.event.clone()?;
    Some(Record { event, revision: change.revision, position: change.position })
}

fn ids(records: &[Record]) -> Vec<Uuid> {
    records.iter().map(|record| record.event.id).collect()
}

impl Log {
    /// Leaves the events there are and begins with new ones.
    fn anew(&mut self) {
        self.rows.clear();
        self.tag = format!("tag {}", Uuid::new_v4());
    }

    /// Only of the events at hand.
    fn mine(&self, filter: Filter) -> Filter {
        Filter::all(vec![Filter::equals(Field::Source, self.tag.clone().into()), filter])
    }

    /// The positions of the next changes, with gaps between them.
    fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        let at = self.at.position().0;
        (1..).map(move |step| Position(at + 3 * step))
    }

    fn seen<T>(&self, seen: Seen<T>) -> T {
        assert!(seen.position <= self.at.position(), "a position that nothing has reached yet: {}", seen.position);
        seen.found
    }

    /// Applies changes and moves on behind the last.
    async fn apply(&mut self, changes: Vec<LogChange>) {
        let to = changes.iter().map(LogChange::position).max().unwrap_or_default();
        self.apply_to(changes, to).await;
    }

    async fn apply_to(&mut self, changes: Vec<LogChange>, to: Position) {
        for change in &changes {
            let LogChange::Event(change) = change else { continue };
            let known = self.rows.get(&change.id).map_or(self.at.position(), |known| known.position);
            if change.position > known {
                self.rows.insert(change.id, change.clone());
            }
        }
        let to = Checkpoint::at(to.max(self.at.position()));
        soon("apply", self.writer.apply(Generation::Live, self.at, changes.into(), to)).await.expect("applied");
        self.at = to;
        soon("the position that was applied", self.views.reached(to.position())).await.expect("reached");
    }

    /// Records events; their ids in the order of recording.
    async fn record(&mut self, events: Vec<(Members, Timestamp)>) -> Vec<Uuid> {
        let mut ids = Vec::new();
        let mut changes = Vec::new();
        for ((mut members, created_at), position) in events.into_iter().zip(self.positions()) {
            members.source.get_or_insert_with(|| self.tag.clone());
            let (id, number) = (Uuid::new_v4(), position.0);
            let event = LogEvent { id, number, created_at, members };
            ids.push(id);
            changes.push(LogChange::Event(EventChange {
                id,
                number,
                event: Some(Arc::new(event)),
                revision: Revision::FIRST,
                position,
            }));
        }
        self.apply(changes).await;
        ids
    }

    async fn record_one(&mut self, members: Members) -> Uuid {
        self.record(vec![(members, moment("2020-02-02"))]).await[0]
    }

    /// The next change of an event; without members its deletion.
    fn change(&self, id: Uuid, members: Option<Members>, position: Position) -> EventChange {
        let known = &self.rows[&id];
        let created_at = known.event.as_ref().map_or_else(Timestamp::default, |event| event.created_at);
        let event = members.map(|mut members| {
            members.source.get_or_insert_with(|| self.tag.clone());
            Arc::new(LogEvent { id, number: known.number, created_at, members })
        });
        EventChange { id, number: known.number, event, revision: known.revision.next(), position }
    }

    async fn change_now(&mut self, id: Uuid, members: Option<Members>) -> EventChange {
        let position = self.positions().next().expect("there is always another");
        let change = self.change(id, members, position);
        self.apply(vec![LogChange::Event(change.clone())]).await;
        change
    }

    async fn event(&self, which: EventRef) -> Option<Record> {
        let seen = soon("an event", self.reader.event(which)).await;
        self.seen(seen.unwrap_or_else(|error| panic!("{which:?} can be read: {}", error.chain())))
    }

    /// That an event is what was applied last, by both its ids and in lists.
    async fn holds(&self, id: Uuid, why: &str) {
        let change = &self.rows[&id];
        let expected = record(change);
        assert_eq!(self.event(EventRef::Id(id)).await, expected, "{why}");
        assert_eq!(self.event(EventRef::Number(change.number)).await, expected, "{why}, by its number");
        let listed = self.all(&Filter::equals(Field::Id, id.to_string().into())).await;
        assert_eq!(listed, expected.into_iter().collect::<Vec<_>>(), "{why}, listed");
    }

    async fn page(&self, query: EventsQuery) -> (Vec<Record>, bool) {
        let limit = query.limit;
        let page = match soon("a page", self.reader.events(query.clone())).await {
            Ok(seen) => self.seen(seen),
            Err(error) => panic!("{} can be listed: {}", query.filter, error.chain()),
        };
        assert!(page.events.len() <= limit, "{} events, more than {limit}", page.events.len());
        assert!(!page.more || !page.events.is_empty(), "a page with more behind it holds something");
        (page.events, page.more)
    }

    /// All pages one behind the other, each behind the last event of the one before.
    async fn walk(&self, filter: &Filter, order: Order, limit: usize) -> Vec<Record> {
        let mut found: Vec<Record> = Vec::new();
        loop {
            let from = found.last().map_or(From::Start, |last| From::Behind(order.place_of(&last.event)));
            let (events, more) = self.page(EventsQuery { filter: filter.clone(), order, from, limit }).await;
            found.extend(events);
            if !more {
                return found;
            }
        }
    }

    async fn all(&self, filter: &Filter) -> Vec<Record> {
        self.walk(filter, order(SortKey::Timestamp, true, Ties::Id), 1_000).await
    }

    async fn count(&self, filter: &Filter) -> u64 {
        match soon("a count", self.reader.count(filter)).await {
            Ok(seen) => self.seen(seen),
            Err(error) => panic!("{filter} can be counted: {}", error.chain()),
        }
    }

    /// What plain Rust finds.
    fn expected(&self, filter: &Filter, order: Order) -> Vec<Record> {
        let records = self.rows.values().filter_map(record);
        let mut found: Vec<_> = records.filter(|record| filter.matches(&record.event)).collect();
        found.sort_by(|a, b| order.compare(&order.place_of(&a.event), &order.place_of(&b.event)));
        found
    }

    async fn events_are_put_amended_and_deleted(&mut self) {
        self.anew();
        for which in [EventRef::Id(Uuid::new_v4()), EventRef::Id(Uuid::nil())] {
            assert_eq!(self.event(which).await, None, "an event that is not there");
        }
        let nowhere = [0, self.at.position().0 + 1, (1 << 53) - 1, 1 << 53, i64::MAX as u64, 1 << 63, u64::MAX];
        for number in nowhere {
            assert_eq!(self.event(EventRef::Number(number)).await, None, "number {number}");
        }
        let named = |name: &str| Members { name: Some(name.into()), ..Members::default() };
        let id = self.record_one(named("first")).await;
        let other = self.record_one(named("other")).await;
        self.holds(id, "a recording").await;
        self.holds(other, "another recording").await;
        let number = self.rows[&id].number;
        for beside in [number - 1, number + 1, number + 2] {
            assert_eq!(self.event(EventRef::Number(beside)).await, None, "{beside}, beside a recording");
        }
        let amended = self.change_now(id, Some(named("second"))).await;
        self.holds(id, "an amendment").await;
        assert_eq!(self.event(EventRef::Number(amended.position.0)).await, None, "an amendment has no number");
        self.change_now(id, Some(Members::default())).await;
        self.holds(id, "an amendment that takes members away").await;
        let deleted = self.change_now(id, None).await;
        self.holds(id, "a deletion").await;
        assert_eq!(self.event(EventRef::Number(deleted.position.0)).await, None, "a deletion has no number");
        self.holds(other, "the deletion of another event").await;
        let left = self.all(&self.mine(Filter::Any)).await;
        assert_eq!(ids(&left), [other], "a list shows what there is");
        assert_eq!(self.count(&self.mine(Filter::Any)).await, 1);
    }

    /// Changes of one event that are applied together, and one of an event that the
    /// views have never seen.
    async fn the_last_change_of_an_event_counts(&mut self) {
        self.anew();
        let named = |name: &str| Some(Members { name: Some(name.into()), ..Members::default() });
        let ids = self.record((0..4).map(|_| (Members::default(), moment("2020-02-02"))).collect()).await;
        let steps = [
            (0, named("a")),
            (1, named("a")),
            (0, None),
            (2, named("a")),
            (1, named("b")),
            (2, named("b")),
            (2, named("c")),
            (3, None),
        ];
        let mut revisions = HashMap::new();
        let mut changes = Vec::new();
        for ((at, members), position) in steps.into_iter().zip(self.positions()) {
            let mut change = self.change(ids[at], members, position);
            let revision = revisions.entry(at).or_insert(change.revision);
            change.revision = *revision;
            *revision = revision.next();
            changes.push(LogChange::Event(change));
        }
        let position = Position(changes.last().map_or(0, |change| change.position().0) + 3);
        let unseen = EventChange { id: Uuid::new_v4(), number: 1, event: None, revision: Revision(1), position };
        changes.push(LogChange::Event(unseen.clone()));
        self.apply(changes).await;
        for id in ids {
            self.holds(id, "the last of several changes").await;
        }
        assert_eq!(self.event(EventRef::Id(unseen.id)).await, None, "the deletion of an event never seen");
        // Recorded and deleted in one go.
        let positions: Vec<_> = self.positions().take(2).collect();
        let id = Uuid::new_v4();
        let event =
            LogEvent { id, number: positions[0].0, created_at: moment("2020-02-02"), members: Members::default() };
        let put = EventChange {
            id,
            number: event.number,
            event: Some(Arc::new(event)),
            revision: Revision::FIRST,
            position: positions[0],
        };
        let gone = EventChange { event: None, revision: Revision(1), position: positions[1], ..put.clone() };
        self.apply(vec![LogChange::Event(put), LogChange::Event(gone)]).await;
        self.holds(id, "recorded and deleted in one go").await;
        self.rows.remove(&unseen.id);
    }

    async fn what_was_reached_is_not_applied_again(&mut self) {
        self.anew();
        let named = |name: &str| Some(Members { name: Some(name.into()), ..Members::default() });
        let ids = self.record((0..3).map(|_| (Members::default(), moment("2020-02-02"))).collect()).await;
        let mut late: Vec<_> = self.rows.values().cloned().collect();
        late.push(self.change_now(ids[0], named("amended")).await);
        late.push(self.change_now(ids[1], None).await);
        let spoilt = |change: &EventChange| {
            let id = change.id;
            let members = Members { name: Some("late".into()), source: Some("late".into()), ..Members::default() };
            let event = LogEvent { id, number: change.number, created_at: moment("2020-02-02"), members };
            LogChange::Event(EventChange { event: Some(Arc::new(event)), ..change.clone() })
        };
        let before = self.rows.clone();
        late.sort_by_key(|change| change.position);
        let mut again: Vec<_> = late.iter().map(spoilt).collect();
        let position = self.positions().next().expect("there is always another");
        again.push(LogChange::Event(self.change(ids[2], named("new"), position)));
        self.apply(again).await;
        for id in &ids[..2] {
            assert_eq!(self.rows[id], before[id], "the model forgets what is late");
            self.holds(*id, "a late change changes nothing").await;
        }
        self.holds(ids[2], "what is new is applied").await;
        // A replay that brings nothing new.
        self.apply_to(late.iter().map(spoilt).collect(), self.at.position()).await;
        for id in ids {
            self.holds(id, "a replay changes nothing").await;
        }
        let late = self.count(&Filter::equals(Field::Source, "late".into())).await;
        assert_eq!(late, 0, "nothing of a late change is found");
    }

    async fn events_are_kept_as_they_are(&mut self) {
        self.anew();
        let mut runner = TestRunner::default();
        let mut events: Vec<_> = (0..60).map(|_| one(&mut runner, &(random::members(), random::moment()))).collect();
        let deepest =
            (1..crate::domain::log_event::MAX_DATA_DEPTH).fold(json!({"x": "deep"}), |inner, _| json!({"x": inner}));
        let large = "\u{1f600}x\"\0".repeat(MAX_EVENT_BYTES / 24);
        let wide: serde_json::Map<_, _> = (0..2_000).map(|at| (format!("name {at}"), json!(at))).collect();
        for data in [deepest, json!({"large": large}), Json::Object(wide), json!({})] {
            let members = Members { data: data.as_object().cloned(), ..Members::default() };
            events.push((members, moment("2020-02-02T00:00:00.000001Z")));
        }
        let long = Members { message: Some("m".repeat(MAX_EVENT_BYTES - 1_000)), ..Members::default() };
        events.push((long, moment("2020-02-02")));
        for id in self.record(events).await {
            self.holds(id, "an event is what was recorded").await;
        }
    }

    /// Events of which many stand alike, in every order, in pages of any length, behind
    /// a place and by skipping.
    async fn every_order_can_be_paged_through(&mut self) {
        self.anew();
        let names = [None, Some(""), Some("a"), Some("B"), Some("b"), Some("\u{ffff}"), Some("\u{10000}"), Some("a\0")];
        let times = ["0000-01-01", "2018-01-01", "2018-01-01T00:00:00.000001Z", "9999-12-31T23:59:59.999999Z"];
        let event = |at: usize| {
            let members = Members {
                timestamp: moment(times[at % 4]),
                name: names[at * 5 % 8].map(Into::into),
                category: names[at / 3 % 3].map(Into::into),
                ..Members::default()
            };
            (members, moment(times[at / 6 % 4]))
        };
        let ids = self.record((0..26).map(event).collect()).await;
        self.change_now(ids[3], None).await;
        self.change_now(ids[20], Some(event(2).0)).await;
        let filter = self.mine(Filter::Any);
        for (by, descending, ties) in ORDERS.into_iter().flat_map(|by| {
            [false, true]
                .into_iter()
                .flat_map(move |descending| TIES.into_iter().map(move |ties| (by, descending, ties)))
        }) {
            let order = order(by, descending, ties);
            let expected = self.expected(&filter, order);
            assert_eq!(expected.len(), 25);
            for limit in [1, 4, 25, 26] {
                let found = self.walk(&filter, order, limit).await;
                assert_eq!(ids_and_keys(&found, order), ids_and_keys(&expected, order), "{order:?}, pages of {limit}");
            }
            for (skip, limit) in
                [(0, 3), (1, 1), (7, 10), (24, 5), (25, 5), (1_000, 5), (i64::MAX as u64, 5), (u64::MAX, 5)]
            {
                let query = EventsQuery { filter: filter.clone(), order, from: From::Skip(skip), limit };
                let (found, more) = self.page(query).await;
                let rest = expected.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default();
                let page = rest.iter().take(limit).cloned().collect::<Vec<_>>();
                assert_eq!(found, page, "{order:?}, {limit} behind {skip} others");
                assert_eq!(
                    more,
                    rest.len() > limit,
                    "{order:?}, whether there are more than {limit} behind {skip} others"
                );
            }
        }
        // A place stays one when its event goes.
        let order = order(SortKey::Name, true, Ties::Id);
        let before = self.expected(&filter, order);
        let place = order.place_of(&before[10].event);
        self.change_now(before[10].event.id, None).await;
        let query = EventsQuery { filter, order, from: From::Behind(place), limit: 5 };
        assert_eq!(self.page(query).await, (before[11..16].to_vec(), true), "behind an event that is gone");
    }

    async fn deep_pages_hold_each_event_once(&mut self) {
        self.anew();
        for _ in 0..4 {
            let events = (0..500).map(|at| {
                let timestamp = Timestamp::from_micros(1_600_000_000_000_000 + at / 7);
                (Members { timestamp, ..Members::default() }, moment("2020-02-02"))
            });
            self.record(events.collect()).await;
        }
        let filter = self.mine(Filter::Any);
        for (descending, limit) in [(true, 50), (false, 499)] {
            let order = order(SortKey::Timestamp, descending, Ties::Id);
            let found = self.walk(&filter, order, limit).await;
            assert_eq!(ids(&found), ids(&self.expected(&filter, order)), "pages of {limit}");
        }
        assert_eq!(self.count(&filter).await, 2_000);
    }

    async fn all_events_are_counted(&mut self) {
        self.anew();
        let before = self.count(&Filter::Any).await;
        let ids = self.record((0..5).map(|_| (Members::default(), moment("2020-02-02"))).collect()).await;
        assert_eq!(self.count(&Filter::Any).await, before + 5, "recordings count");
        self.change_now(ids[0], Some(Members::default())).await;
        assert_eq!(self.count(&Filter::Any).await, before + 5, "an amendment counts nothing");
        self.change_now(ids[0], None).await;
        self.change_now(ids[1], None).await;
        assert_eq!(self.count(&Filter::Any).await, before + 3, "deletions count");
        assert_eq!(self.count(&Filter::none()).await, 0, "nothing is nothing");
    }

    async fn buckets_are_counted(&mut self) {
        self.anew();
        let mut runner = TestRunner::default();
        let times =
            ["1969-12-31T23:59:59.999999Z", "1970-01-01", "2018-01-01T12:00:00Z", "2018-01-01T12:59:59.999999Z"];
        let event = |at: usize| {
            let (members, created_at) = one(&mut runner, &(random::members(), random::moment()));
            (Members { timestamp: moment(times[at % 4]), ..members }, created_at)
        };
        let ids = self.record((0..60).map(event).collect()).await;
        self.change_now(ids[0], None).await;
        let fields = [
            Field::Id,
            Field::Timestamp,
            Field::CreatedAt,
            Field::Name,
            Field::Category,
            Field::Component,
            Field::Environment,
            Field::Message,
            Field::Email,
            Field::CustomerId,
            Field::SessionId,
            Field::Source,
        ];
        let hour = 3_600_000_000;
        let some = self.mine(Filter::compare(Field::Name, Comparison::Ne, Literal::Null));
        for filter in [self.mine(Filter::Any), some, self.mine(Filter::none())] {
            for (field, interval) in
                fields.iter().zip([hour, 1_000_000, 24 * hour, 7 * 24 * hour, 5 * hour].into_iter().cycle())
            {
                let expected = self.buckets(&filter, field, interval);
                let query = |limit| StatsQuery { filter: filter.clone(), interval, by: field.clone(), limit };
                let counted = self.stats(query(expected.len().max(1))).await;
                assert_eq!(counted.as_ref(), Some(&expected), "{field} every {interval} microseconds, {filter}");
                if expected.len() > 1 {
                    assert_eq!(self.stats(query(expected.len() - 1)).await, None, "more rows than the limit");
                }
            }
        }
    }

    async fn stats(&self, query: StatsQuery) -> Option<Vec<StatsRow>> {
        match soon("stats", self.reader.stats(query.clone())).await {
            Ok(seen) => self.seen(seen),
            Err(error) => panic!("{query:?} can be counted: {}", error.chain()),
        }
    }

    fn buckets(&self, filter: &Filter, field: &Field, interval: i64) -> Vec<StatsRow> {
        let mut counts = BTreeMap::<_, u64>::new();
        for Record { event, .. } in self.expected(filter, order(SortKey::Number, false, Ties::Id)) {
            let start = event.members.timestamp.micros().div_euclid(interval) * interval;
            *counts.entry((Timestamp::from_micros(start), member(&event, field))).or_default() += 1;
        }
        counts.into_iter().map(|((start, value), count)| StatsRow { start, value, count }).collect()
    }

    async fn changes_come_in_their_order(&mut self) {
        self.anew();
        let begin = self.at.position();
        let ids = self.record((0..12).map(|_| (Members::default(), moment("2020-02-02"))).collect()).await;
        self.change_now(ids[2], Some(Members { name: Some("amended".into()), ..Members::default() })).await;
        self.change_now(ids[5], None).await;
        self.change_now(ids[2], Some(Members { name: Some("again".into()), ..Members::default() })).await;
        let mut latest: Vec<_> = self.rows.values().cloned().collect();
        latest.sort_by_key(|change| change.position);
        for limit in [1, 5, 12, 100] {
            let (mut found, mut after) = (Vec::new(), begin);
            loop {
                let changes = self.changes(after, limit).await;
                let Some(last) = changes.last() else { break };
                after = last.position;
                found.extend(changes);
            }
            assert_eq!(found, latest, "the latest change of each event, {limit} at a time");
        }
        let behind = |after: Position| latest.iter().filter(move |change| change.position > after).cloned();
        for after in (begin.0..=self.at.position().0).map(Position) {
            assert_eq!(self.changes(after, 100).await, behind(after).collect::<Vec<_>>(), "behind {after}");
        }
        assert_eq!(self.changes(Position::MAX, 5).await, [], "behind everything");
        // What is no event's change moves the position on and is none of these.
        let session = Session { id: Uuid::new_v4(), created_at: moment("2020-02-02"), position: self.next() };
        self.apply(vec![LogChange::Session(Arc::new(session))]).await;
        let seen = soon("changes", self.reader.changes(begin, 100)).await.expect("changes can be read");
        assert_eq!(seen.found, latest, "a session is no event");
        assert_eq!(seen.position, self.at.position(), "idle views are seen whole");
    }

    /// Some follow the changes while they are written, from page to page, and from what
    /// was seen where a page is empty.
    async fn who_follows_the_changes_misses_none(&mut self) {
        self.anew();
        let begin = self.at.position();
        let ids = self.record((0..8).map(|_| (Members::default(), moment("2020-02-02"))).collect()).await;
        let written = Arc::new(AtomicU64::new(u64::MAX));
        let followers: Vec<_> = [1, 3, 100]
            .into_iter()
            .map(|limit| tokio::spawn(follow(self.reader.clone(), begin, limit, written.clone())))
            .collect();
        for round in 0..150_usize {
            let numbered = |name: usize| Members { customer_id: i64::try_from(name).ok(), ..Members::default() };
            let changes = (0..=round % 5).zip(self.positions()).map(|(at, position)| {
                // No event twice in one go, for the next change follows the last that is known.
                let id = ids[(round * 3 + at) % ids.len()];
                LogChange::Event(self.change(id, Some(numbered(round)), position))
            });
            let changes = changes.collect();
            self.apply(changes).await;
        }
        for id in &ids[2..5] {
            self.change_now(*id, None).await;
        }
        written.store(self.at.position().0, Ordering::SeqCst);
        for follower in followers {
            let found = soon("a follower", follower).await.expect("it ends");
            assert_eq!(found, self.rows, "what a follower knows at the end");
        }
    }

    async fn changes(&self, after: Position, limit: usize) -> Vec<EventChange> {
        let seen = soon("changes", self.reader.changes(after, limit)).await.expect("changes can be read");
        assert!(seen.found.len() <= limit, "{} changes, more than {limit}", seen.found.len());
        assert!(seen.found.iter().all(|change| change.position <= seen.position), "a change beyond what is seen");
        self.seen(seen)
    }

    fn next(&self) -> Position {
        self.positions().next().expect("there is always another")
    }

    async fn sessions_are_listed_by_their_time(&mut self) {
        let begin = fresh_moment();
        let unknown = soon("a session", self.reader.session(Uuid::new_v4())).await.expect("sessions can be read");
        assert_eq!(self.seen(unknown), None, "a session that is not there");
        let sessions: Vec<_> = self
            .positions()
            .take(9)
            .enumerate()
            .map(|(at, position)| {
                let created_at = Timestamp::from_micros(begin.micros() + 1 + at as i64 / 3);
                Arc::new(Session { id: Uuid::new_v4(), created_at, position })
            })
            .collect();
        let changes: Vec<_> = sessions.iter().cloned().map(LogChange::Session).collect();
        self.apply(changes.clone()).await;
        // Once more, as a replay would.
        self.apply_to(changes, self.at.position()).await;
        for session in &sessions {
            let seen = soon("a session", self.reader.session(session.id)).await.expect("sessions can be read");
            assert_eq!(self.seen(seen).as_ref(), Some(session));
        }
        let place = |session: &Arc<Session>| (session.created_at, session.id);
        let reader = self.reader.clone();
        self.lists(begin, sessions, place, |query| {
            let reader = reader.clone();
            async move { reader.sessions(query).await }
        })
        .await;
    }

    async fn rejections_are_listed_by_their_time(&mut self) {
        let begin = fresh_moment();
        let mut runner = TestRunner::default();
        let large = json!({"sent": "\u{1f600}\0".repeat(10_000)});
        let rejections: Vec<_> = self
            .positions()
            .take(9)
            .enumerate()
            .map(|(at, position)| {
                let created_at = Timestamp::from_micros(begin.micros() + 1 + at as i64 / 3);
                let message = one(&mut runner, &random::text());
                let data = if at == 4 { large.clone() } else { one(&mut runner, &random::anything()) };
                Arc::new(Rejection { id: Uuid::new_v4(), number: position.0, message, data, created_at })
            })
            .collect();
        let changes: Vec<_> = rejections.iter().cloned().map(LogChange::Rejection).collect();
        self.apply(changes.clone()).await;
        self.apply_to(changes, self.at.position()).await;
        for rejection in &rejections {
            let seen = soon("a rejection", self.reader.rejection(rejection.number)).await.expect("it can be read");
            assert_eq!(self.seen(seen).as_ref(), Some(rejection));
            assert_eq!(self.event(EventRef::Number(rejection.number)).await, None, "a rejection is no event");
        }
        let number = rejections[0].number;
        for nowhere in [0, number - 1, number + 1, 1 << 53, 1 << 63, u64::MAX] {
            let seen = soon("a rejection", self.reader.rejection(nowhere)).await.expect("rejections can be read");
            assert_eq!(self.seen(seen), None, "rejection {nowhere}");
        }
        let place = |rejection: &Arc<Rejection>| (rejection.created_at, rejection.id);
        let reader = self.reader.clone();
        self.lists(begin, rejections, place, |query| {
            let reader = reader.clone();
            async move { reader.rejections(query).await }
        })
        .await;
    }

    /// Lists things by their times, which lie behind one that nothing else is near.
    async fn lists<T, F>(
        &self,
        begin: Timestamp,
        mut things: Vec<Arc<T>>,
        place: impl Fn(&Arc<T>) -> (Timestamp, Uuid),
        list: impl Fn(ListQuery) -> F,
    ) where
        T: PartialEq + std::fmt::Debug,
        F: Future<Output = Result<Seen<Page<Arc<T>>>, StoreError>>,
    {
        let end = Timestamp::from_micros(begin.micros() + 1_000);
        things.sort_by_key(&place);
        for (descending, edge) in [(false, begin), (true, end)] {
            let place = &place;
            for limit in [1, 2, 4, 9] {
                let (mut found, mut behind) = (Vec::new(), Some((edge, Uuid::nil())));
                while found.len() < things.len() {
                    let query = ListQuery { descending, behind, limit };
                    let page = self.seen(soon("a list", list(query)).await.expect("it can be listed"));
                    assert!(page.found.len() <= limit, "{} of at most {limit}", page.found.len());
                    let left = things.len() - found.len();
                    assert!(page.more || left <= limit, "there is more behind a page");
                    found.extend(page.found.into_iter().take(left));
                    behind = found.last().map(place);
                }
                assert_eq!(found, things, "by time and id, descending {descending}, {limit} at a time");
            }
            things.reverse();
        }
        let first = self
            .seen(soon("a list", list(ListQuery { descending: true, behind: None, limit: 1 })).await.expect("listed"));
        assert_eq!(first.found.len(), 1, "a list begins at the end");
    }

    async fn pages_are_bounded_in_bytes(&mut self) {
        const COUNT: usize = 40;
        self.anew();
        let begin = self.at.position();
        for _ in 0..COUNT / 5 {
            let large = || Members { message: Some("x".repeat(MAX_EVENT_BYTES - 1_000)), ..Members::default() };
            self.record((0..5).map(|_| (large(), moment("2020-02-02"))).collect()).await;
        }
        let filter = self.mine(Filter::Any);
        let order = order(SortKey::Number, false, Ties::Number);
        let query = EventsQuery { filter: filter.clone(), order, from: From::Start, limit: 1_000 };
        let (first, more) = self.page(query).await;
        assert!(more && first.len() < COUNT, "a page of {} large events is too long", first.len());
        let found = self.walk(&filter, order, 1_000).await;
        assert_eq!(ids(&found), ids(&self.expected(&filter, order)), "pages of large events");
        let (mut changes, mut after) = (Vec::new(), begin);
        loop {
            let some = self.changes(after, 1_000).await;
            let Some(last) = some.last() else { break };
            assert!(some.len() < COUNT, "{} large changes are too many at once", some.len());
            after = last.position;
            changes.extend(some.into_iter().map(|change| change.id));
        }
        assert_eq!(changes, ids(&found), "large changes");
    }

    /// As wide, as deep and as long as they can be, and with values of every type.
    async fn unusual_filters_are_taken(&mut self) {
        self.anew();
        let named = |name: &str| Members { name: Some(name.into()), customer_id: Some(7), ..Members::default() };
        self.record(["a", "b", "c"].map(|name| (named(name), moment("2020-02-02"))).to_vec()).await;
        let nested = |open: &str, count: usize| format!("{}name eq 'a'{}", open.repeat(count), ")".repeat(count));
        let many = (0..999).map(|at| format!("'{at}'")).collect::<Vec<_>>().join(",");
        let long = "x".repeat(16_000);
        let texts = [
            vec!["ce eq 1"; 1_260].join(" OR ") + " OR name eq 'a'",
            vec!["id ne 1"; 1_260].join(" AND ") + " AND name eq 'a'",
            vec!["NOT ce eq 1"; 900].join(" AND "),
            vec!["data.x eq null"; 780].join(" AND "),
            nested("(name eq 'b' OR customer_id eq 7 AND ", 32),
            nested("NOT (name eq 'b' OR ", 32),
            nested("NOT (customer_id eq 7 AND ", 31),
            format!("name in ({many}, 'b')"),
            format!("data.x in ({many}, null)"),
            format!("NOT id in ({many}, 'b')"),
            format!("name lt '{long}'"),
            format!("name ct '{long}'"),
            format!("name sw '{long}'"),
            format!("data.x ct '{}'", "%_*?[".repeat(3_000)),
            format!("NOT data{} eq 'x'", ".x".repeat(32)),
        ];
        let fields = ["id", "timestamp", "created_at", "name", "customer_id", "session_id", "data.x"];
        let mixed = fields.map(|field| format!("NOT {field} in (1, '2018-01-01', true, 1.5, null, '2018-01-02')"));
        for text in texts.into_iter().chain(mixed) {
            let filter = self.mine(Filter::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
            self.finds_what_it_means(&filter, order(SortKey::Name, false, Ties::Id), 10)
                .await
                .unwrap_or_else(|difference| panic!("{}…: {difference}", text.chars().take(80).collect::<String>()));
        }
    }

    /// That an adapter finds what plain Rust finds, page by page and counted.
    async fn finds_what_it_means(&self, filter: &Filter, order: Order, limit: usize) -> Result<usize, String> {
        let expected = self.expected(filter, order);
        let found = self.walk(filter, order, limit).await;
        if found != expected {
            let only = |some: &[Record], others: &[Record]| -> Vec<_> {
                some.iter().filter(|record| !others.contains(record)).map(|record| record.event.clone()).collect()
            };
            let (missing, wrong) = (only(&expected, &found), only(&found, &expected));
            return Err(match (missing.first(), wrong.first()) {
                (None, None) => format!("another order than {order:?}: {:?}, not {:?}", ids(&found), ids(&expected)),
                (Some(missing), _) => format!("{} are missing, such as {missing:?}", only(&expected, &found).len()),
                (None, Some(wrong)) => format!("{} are wrong, such as {wrong:?}", only(&found, &expected).len()),
            });
        }
        let counted = self.count(filter).await;
        if counted != expected.len() as u64 {
            return Err(format!("{counted} are counted and {} listed", expected.len()));
        }
        Ok(expected.len())
    }

    /// Random filters over random events. Where one finds something else than it means,
    /// the smallest that does so is told.
    async fn random_filters_find_what_they_mean(&mut self) {
        let mut runner = TestRunner::default();
        let mut telling = 0;
        for round in 0..ROUNDS {
            self.anew();
            let event = (random::members(), random::moment());
            let ids = self.record((0..EVENTS).map(|_| one(&mut runner, &event)).collect()).await;
            for id in ids.iter().step_by(9) {
                let members = (round % 2 == 0).then(|| one(&mut runner, &event).0);
                self.change_now(*id, members).await;
            }
            let events: Vec<_> = self.rows.values().filter_map(record).map(|record| (*record.event).clone()).collect();
            let (count, filters) = (events.len(), random::filter(Arc::new(events)));
            for number in 0..FILTERS {
                let order = order(ORDERS[number % 5], number % 2 == 0, TIES[number / 2 % 3]);
                let limit = [1_000, 11, 1_000, 40][number % 4];
                let mut tree = filters.new_tree(&mut runner).expect("a filter");
                match self.finds_what_it_means(&self.mine(tree.current()), order, limit).await {
                    Ok(found) => telling += usize::from(found > 0 && found < count),
                    Err(difference) => {
                        let told = self.smallest(&mut tree, order, limit).await;
                        panic!("{}", told.unwrap_or_else(|| format!("{}: {difference}", tree.current())));
                    }
                }
            }
        }
        let tried = ROUNDS * FILTERS;
        assert!(telling * 3 > tried, "only {telling} of {tried} random filters let some events through and not all");
    }

    /// The smallest filter that does not find what it means, and what it finds.
    async fn smallest(&self, tree: &mut impl ValueTree<Value = Filter>, order: Order, limit: usize) -> Option<String> {
        let mut told = None;
        let mut steps = 0;
        let mut goes_on = tree.simplify();
        while goes_on && steps < 300 {
            steps += 1;
            goes_on = match self.finds_what_it_means(&self.mine(tree.current()), order, limit).await {
                Ok(_) => tree.complicate(),
                Err(difference) => {
                    told = Some(format!("{}: {difference}", tree.current()));
                    tree.simplify()
                }
            };
        }
        told
    }
}

/// Follows the changes until all that was written is seen: the last of each event.
async fn follow(
    reader: Arc<dyn LogReader>,
    begin: Position,
    limit: usize,
    written: Arc<AtomicU64>,
) -> BTreeMap<Uuid, EventChange> {
    let (mut found, mut after) = (BTreeMap::new(), begin);
    while after.0 < written.load(Ordering::SeqCst) {
        let Seen { found: changes, position } = reader.changes(after, limit).await.expect("changes can be read");
        assert!(changes.iter().all(|change| change.position > after), "a change that was seen already");
        assert!(changes.iter().all(|change| change.position <= position), "a change beyond what is seen");
        assert!(changes.is_sorted_by_key(|change| change.position), "changes in another order than the log's");
        after = changes.last().map_or(position.max(after), |last| last.position);
        found.extend(changes.into_iter().map(|change| (change.id, change)));
        tokio::task::yield_now().await;
    }
    found
}

fn one<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> S::Value {
    strategy.new_tree(runner).expect("a value").current()
}

fn ids_and_keys(records: &[Record], order: Order) -> Vec<(Uuid, String)> {
    records.iter().map(|record| (record.event.id, format!("{:?}", order.place_of(&record.event).key))).collect()
}

/// A moment that nothing else is near.
fn fresh_moment() -> Timestamp {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    Timestamp::from_micros(i64::try_from(random % 200_000_000_000_000_000).expect("it fits"))
}

/// A member's text as it is counted.
fn member(event: &LogEvent, field: &Field) -> Option<String> {
    let LogEvent { id, created_at, members, .. } = event;
    match field {
        Field::Id => Some(id.to_string()),
        Field::Timestamp => Some(members.timestamp.to_string()),
        Field::CreatedAt => Some(created_at.to_string()),
        Field::Name => members.name.clone(),
        Field::Category => members.category.clone(),
        Field::Component => members.component.clone(),
        Field::Environment => members.environment.clone(),
        Field::Message => members.message.clone(),
        Field::Email => members.email.clone(),
        Field::CustomerId => members.customer_id.map(|id| id.to_string()),
        Field::SessionId => members.session_id.map(|id| id.to_string()),
        Field::Source => members.source.clone(),
        Field::Data(_) | Field::Ce => None,
    }
}
