//! The event log's rows in MongoDB, held to those in memory, and what others do not
//! have to fear: crashes between rows and checkpoint, replaced rows, odd names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use shared::adapters::memory::MemoryViews;
use shared::adapters::mongo::MongoViews;
use shared::domain::filter::{Field, Filter};
use shared::domain::log_event::{LogEvent, Members, Rejection, Session};
use shared::domain::projection::{Changes, EventChange, LogChange};
use shared::domain::stream::{Position, Revision};
use shared::domain::time::Timestamp;
use shared::ports::{
    Checkpoint, EventRef, EventsQuery, From, Generation, ListQuery, LogReader, Order, SortKey, StatsQuery, Ties,
    ViewWriter,
};
use uuid::Uuid;

use super::server::Place;
use super::{LOG, at, resume};

/// A log event as it is recorded at a position.
fn recorded(members: Members, position: u64) -> EventChange {
    let id = Uuid::new_v4();
    let created_at = Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(position).unwrap());
    let event = Some(Arc::new(LogEvent { id, number: position, created_at, members }));
    EventChange { id, number: position, event, revision: Revision::FIRST, position: Position(position) }
}

fn amended(change: &EventChange, members: Members, position: u64) -> EventChange {
    let event = change.event.as_deref().map(|event| Arc::new(LogEvent { members, ..event.clone() }));
    EventChange { event, revision: change.revision.next(), position: Position(position), ..change.clone() }
}

fn deleted(change: &EventChange, position: u64) -> EventChange {
    EventChange { event: None, revision: change.revision.next(), position: Position(position), ..change.clone() }
}

fn events(changes: impl IntoIterator<Item = EventChange>) -> Changes {
    changes.into_iter().map(LogChange::Event).collect::<Vec<_>>().into()
}

fn odd_data() -> Json {
    json!({
        "null": null, "yes": true, "no": false, "one": 1, "half": 0.5, "big": 9_007_199_254_740_993_i64,
        "huge": u64::MAX, "text": "Straße", "empty": "", "zero": -0.0, "array": [1, "x", {"in": 1}],
        "object": {"deep": {"er": "x"}}, "$gt": "dollar", "a.b": 1, "another key": "Some value", "0": "naught",
        "true": "word", "": 1, "$where": {"$ne": [null]}, "~": "tilde", "~$gt": 2, "nul": "a\0b",
    })
}

fn data() -> impl Strategy<Value = Option<Json>> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        prop_oneof![Just(-1_i64), Just(0), Just(1), Just(i64::MAX)].prop_map(|value| json!(value)),
        prop_oneof![Just(0.5), Just(-0.0), Just(1e300)].prop_map(|value: f64| json!(value)),
        prop::sample::select(vec!["", "x", "X", "İi", "\u{212a}elvin", "a\0b", "$ne", "straße"]).prop_map(|v| json!(v)),
        Just(json!([1, "x", null, {"a": 1}])),
    ];
    let name = prop::sample::select(vec!["a", "b", "$gt", "", "~", "0", "a.b", "x y"]);
    let object = leaf.prop_recursive(3, 12, 4, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..4).prop_map(|object| json!(object))
    });
    let name = prop::sample::select(vec!["a", "b", "$gt", "", "~", "0", "a.b"]);
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(odd_data())),
        4 => prop::collection::btree_map(name, object, 0..4).prop_map(|object| Some(json!(object))),
    ]
}

fn text() -> impl Strategy<Value = Option<String>> {
    let texts = ["", "a", "A", "ab", "B", "ä", "İstanbul", "\u{212a}", "kelvin", "\u{fffd}", "😀", "$a.b", "%_\\*"];
    proptest::option::weighted(0.8, prop::sample::select(texts.to_vec()).prop_map(str::to_owned))
}

fn members() -> impl Strategy<Value = Members> {
    let times = prop_oneof![Just(-1_i64), Just(0), Just(1), Just(-3_600_000_000), -5_000_000..5_000_000_i64];
    let customers = proptest::option::of(prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), 0..3_i64]);
    let session = proptest::option::of((0..3_u128).prop_map(Uuid::from_u128));
    (times, [text(), text(), text(), text()], customers, session, data(), data()).prop_map(
        |(timestamp, [name, category, message, source], customer_id, session_id, data, ce)| {
            let object = |json: Option<Json>| json.and_then(|json| json.as_object().cloned());
            Members {
                timestamp: Timestamp::from_micros(timestamp),
                name,
                category,
                message,
                source,
                customer_id,
                session_id,
                data: object(data),
                ce: object(ce),
                ..Members::default()
            }
        },
    )
}

const FILTERS: &[&str] = &[
    "",
    "name eq 'a'",
    "name ne 'a'",
    "NOT name eq 'a'",
    "name eq null",
    "name ne null",
    "name gt 'a' AND name lte 'ä'",
    "name lt ''",
    "name gte ''",
    "name in ('a', null, 'İstanbul')",
    "name ct 'a'",
    "name ct 'k'",
    "name ct 'i'",
    "name ct 'İ'",
    "name ct '.'",
    "name ct '_\\*'",
    "name ct ''",
    "name sw 'a'",
    "name sw '$'",
    "name sw ''",
    "name eq 1 OR NOT (name ne 1)",
    "category eq 'a' AND (customer_id eq 1 OR session_id ne null)",
    "customer_id gt 0.5",
    "customer_id eq 9223372036854775807",
    "customer_id lt 1e40 AND customer_id ne -1",
    "customer_id in (1, 2.5, null)",
    "session_id eq '00000000-0000-0000-0000-000000000001'",
    "session_id sw '00000000' AND id gt '7'",
    "id ct 'A'",
    "timestamp gte '1970-01-01' AND timestamp lt '1970-01-01T00:00:02Z'",
    "timestamp ne '1970-01-01'",
    "createdAt gt '2023-01-01'",
    "data eq null",
    "data ne null",
    "data eq 'x'",
    "ce ne null",
    "ce eq '{}' OR ce ct 'a'",
    "data.a eq 'x'",
    "data.a ne 'x'",
    "data.a eq 1",
    "data.a eq 9223372036854775807",
    "data.a ne 1",
    "data.a gt 0",
    "data.a lte 0.5",
    "data.a eq true",
    "data.a lt true",
    "data.a eq null",
    "data.a ne null",
    "data.a in (null, 'x', 1, true)",
    "data.a ct 'x'",
    "data.a ct 'SS'",
    "data.a sw ''",
    "data.a.b ne null",
    "data.a.a eq 'x' OR data.b.b gt 0",
    "NOT data.a.b.a eq null",
    "data.array ne null AND NOT data.array eq 1",
    "data.one eq 1 AND data.huge gt 1e19 AND data.zero eq 0",
    "data.nul ct 'A'",
    "data.true eq 'word'",
];

async fn agree(mongo: &MongoViews, memory: &MemoryViews, what: &str, filter: &Filter, order: Order, limit: usize) {
    let mut from = From::Start;
    loop {
        let query = EventsQuery { filter: filter.clone(), order, from: from.clone(), limit };
        let (ours, theirs) = (mongo.events(query.clone()).await.unwrap(), memory.events(query).await.unwrap());
        assert_eq!(ours.found, theirs.found, "{what} from {from:?}");
        let Some(last) = theirs.found.events.last().filter(|_| theirs.found.more) else { return };
        from = From::Behind(order.place_of(&last.event));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queries_mean_what_they_mean_in_memory() {
    let Some(place) = Place::find() else { return };
    let (mongo, memory) = (place.views(), MemoryViews::new());
    let mut runner = TestRunner::deterministic();
    let mut one = move || members().new_tree(&mut runner).unwrap().current();
    let mut changes: Vec<_> = (1..=120).map(|number| recorded(one(), number * 3)).collect();
    let mut position = 400;
    for index in 0..60 {
        let change =
            if index % 4 == 0 { deleted(&changes[index], position) } else { amended(&changes[index], one(), position) };
        position += 2;
        changes.push(change);
    }
    resume(&mongo).await;
    memory.resume(LOG, Position::MAX).await.unwrap();
    let mut from = Checkpoint::START;
    for batch in changes.chunks(50) {
        let to = Checkpoint::at(batch.last().unwrap().position);
        mongo.apply(Generation::Live, from, events(batch.to_vec()), to).await.unwrap();
        memory.apply(Generation::Live, from, events(batch.to_vec()), to).await.unwrap();
        from = to;
    }
    let newest = Order { by: SortKey::Timestamp, descending: true, ties: Ties::Id };
    for text in FILTERS {
        let filter = Filter::parse(text).unwrap();
        agree(&mongo, &memory, text, &filter, newest, 50).await;
        let (ours, theirs) = (mongo.count(&filter).await.unwrap(), memory.count(&filter).await.unwrap());
        assert_eq!((ours.found, ours.position), (theirs.found, theirs.position), "count of {text}");
    }
    let filter = Filter::parse("name ne 'a'").unwrap();
    for by in [SortKey::Timestamp, SortKey::CreatedAt, SortKey::Name, SortKey::Category, SortKey::Number] {
        for ties in [Ties::Id, Ties::Number, Ties::NumberDescending] {
            for descending in [false, true] {
                let order = Order { by, descending, ties };
                agree(&mongo, &memory, &format!("{order:?}"), &Filter::Any, order, 7).await;
                let query = EventsQuery { filter: filter.clone(), order, from: From::Skip(13), limit: 11 };
                let (ours, theirs) = (mongo.events(query.clone()).await, memory.events(query).await);
                assert_eq!(ours.unwrap().found, theirs.unwrap().found, "{order:?} by pages");
            }
        }
    }
    // Longer than a pattern may be.
    let long = recorded(Members { message: Some("ΣxK".repeat(1_000)), ..one() }, position);
    let almost = recorded(Members { message: Some("ΣxK".repeat(999)), ..one() }, position + 1);
    let to = at(position + 1);
    mongo.apply(Generation::Live, from, events([long.clone(), almost.clone()]), to).await.unwrap();
    memory.apply(Generation::Live, from, events([long, almost]), to).await.unwrap();
    for filter in [
        Filter::contains(Field::Message, "σX\u{212a}".repeat(1_000)),
        Filter::contains(Field::Message, "σxk".repeat(400)),
    ] {
        for filter in [filter.clone(), filter.negated()] {
            agree(&mongo, &memory, "a long part", &filter, newest, 40).await;
            assert_eq!(mongo.count(&filter).await.unwrap().found, memory.count(&filter).await.unwrap().found);
            let stats = StatsQuery { filter, interval: 1_000_000, by: Field::Name, limit: 1_000 };
            assert_eq!(mongo.stats(stats.clone()).await.unwrap().found, memory.stats(stats).await.unwrap().found);
        }
    }
    for by in ["id", "timestamp", "created_at", "name", "customer_id", "session_id", "source"] {
        for interval in [1, 1_000_000, 3_600_000_000, i64::MAX] {
            for limit in [1_000, 5] {
                let by = Field::named(by).unwrap();
                let query = StatsQuery { filter: filter.clone(), interval, by, limit };
                let (ours, theirs) =
                    (mongo.stats(query.clone()).await.unwrap(), memory.stats(query.clone()).await.unwrap());
                assert_eq!(ours.found, theirs.found, "{query:?}");
            }
        }
    }
    for change in &changes {
        for which in [EventRef::Id(change.id), EventRef::Number(change.number)] {
            assert_eq!(mongo.event(which).await.unwrap().found, memory.event(which).await.unwrap().found, "{which:?}");
        }
    }
    let mut after = Position::START;
    loop {
        let (ours, theirs) = (mongo.changes(after, 17).await.unwrap(), memory.changes(after, 17).await.unwrap());
        assert_eq!(ours.found, theirs.found, "changes behind {after}");
        let Some(last) = ours.found.last() else { break };
        assert_eq!(ours.position, if ours.found.len() < 17 { to.position() } else { last.position });
        after = last.position;
    }
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_of_the_largest_size_has_room() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    // Little as text, and much as a copy: short names and one digit.
    let wide: Json = (0..58_000).map(|number| (format!("{number:x}"), json!(1))).collect();
    let text = wide.to_string().len();
    assert!((500 * 1024..=512 * 1024).contains(&text), "{text}");
    let mut deep = json!("x".repeat(500 * 1024));
    for _ in 0..31 {
        deep = json!({ "$": deep });
    }
    let of =
        |data: &Json, position| recorded(Members { data: data.as_object().cloned(), ..Members::default() }, position);
    let changes: Vec<_> =
        (1..=12).map(|position| of(if position % 2 == 0 { &deep } else { &wide }, position)).collect();
    views.apply(Generation::Live, Checkpoint::START, events(changes.clone()), at(12)).await.expect("applied");
    for change in changes {
        let found = views.event(EventRef::Id(change.id)).await.unwrap().found.expect("it is there");
        assert!(Some(found.event) == change.event);
    }
    let stats: Document = place.database().await.run_command(doc! { "ping": 1 }).await.unwrap();
    assert!(stats.get("ok").is_some());
    place.drop_database().await;
}

/// Batches that are repeated, late and cut otherwise change nothing, and the number of
/// events is that of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn repeated_changes_of_events_change_nothing() {
    let Some(place) = Place::find() else { return };
    let (views, memory) = (place.views(), MemoryViews::new());
    let one = Members { name: Some("a".into()), ..Members::default() };
    let two = Members { name: Some("b".into()), ..Members::default() };
    let (first, second) = (recorded(one.clone(), 1), recorded(one.clone(), 2));
    let gone = deleted(&first, 5);
    let other = amended(&second, two, 4);
    let changes = [first, second.clone(), recorded(one, 3), other, gone];
    resume(&views).await;
    for (back, step) in [(0, 5), (0, 2), (3, 1), (1, 4)] {
        if back > 0 || step < 5 {
            place.put_back(back, i64::from([0, 1, 2, 3][usize::try_from(back).unwrap()])).await;
        }
        let mut from = resume(&views).await;
        assert_eq!(from, at(back));
        while from < at(5) {
            let behind = changes.iter().filter(|change| !from.has_reached(change.position)).take(step).cloned();
            let behind: Vec<_> = behind.collect();
            let to = Checkpoint::at(behind.last().unwrap().position);
            views.apply(Generation::Live, from, events(behind), to).await.expect("applied");
            from = to;
        }
        assert_eq!(views.count(&Filter::Any).await.unwrap().found, 2, "from {back}, {step} at once");
        memory.apply(Generation::Live, memory_at(&memory).await, events(changes.to_vec()), at(5)).await.unwrap();
        let query = EventsQuery {
            filter: Filter::Any,
            order: Order { by: SortKey::Number, descending: false, ties: Ties::Number },
            from: From::Start,
            limit: 10,
        };
        assert_eq!(views.events(query.clone()).await.unwrap().found, memory.events(query).await.unwrap().found);
    }
    place.drop_database().await;
}

async fn memory_at(memory: &MemoryViews) -> Checkpoint {
    memory.resume(LOG, Position::MAX).await.unwrap()
}

/// A process that dies between rows and checkpoint: what was seen is not forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_list_leaves_out_is_announced() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let first = recorded(Members::default(), 1);
    views
        .apply(Generation::Live, Checkpoint::START, events([first.clone(), recorded(Members::default(), 2)]), at(2))
        .await
        .unwrap();
    views.apply(Generation::Live, at(2), events([deleted(&first, 3)]), at(3)).await.unwrap();
    views.close().await;
    place.put_back_only(2, 2).await;
    let reader = place.views();
    let query = EventsQuery {
        filter: Filter::Any,
        order: Order { by: SortKey::Timestamp, descending: true, ties: Ties::Id },
        from: From::Start,
        limit: 10,
    };
    let page = reader.events(query).await.unwrap();
    assert_eq!((page.found.events.len(), page.position), (1, Position(3)), "a removal that a list leaves out");
    let counted = reader.count(&Filter::parse("timestamp ne null").unwrap()).await.unwrap();
    assert_eq!((counted.found, counted.position), (1, Position(3)));
    let counted = reader.count(&Filter::Any).await.unwrap();
    assert_eq!((counted.found, counted.position), (2, Position(2)), "the number is that of the checkpoint");
    for which in [EventRef::Id(first.id), EventRef::Number(1)] {
        let one = reader.event(which).await.unwrap();
        assert_eq!((one.found, one.position), (None, Position(3)));
    }
    let changes = reader.changes(Position(0), 10).await.unwrap();
    assert_eq!(changes.found.len(), 1, "a change beyond the checkpoint comes later");
    assert_eq!(changes.position, Position(2));
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_and_rejections_are_listed() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let time = |micros| Timestamp::from_micros(micros);
    let sessions: Vec<_> = (1..=9_u64)
        .map(|at| Arc::new(Session { id: Uuid::new_v4(), created_at: time(at as i64 / 4), position: Position(at) }))
        .collect();
    let rejections: Vec<_> = (10..=19_u64)
        .map(|at| {
            let data = json!({ "$gt": [at, { "a.b": null }], "": 0.1 });
            let message = "no such session".to_owned();
            Arc::new(Rejection { id: Uuid::new_v4(), number: at, message, data, created_at: time(at as i64 / 4) })
        })
        .collect();
    let changes = sessions.iter().cloned().map(LogChange::Session);
    let changes: Vec<_> = changes.chain(rejections.iter().cloned().map(LogChange::Rejection)).collect();
    for _ in 0..2 {
        let from = resume(&views).await;
        views.apply(Generation::Live, from, changes.clone().into(), at(19)).await.expect("applied");
        place.put_back(0, 0).await;
    }
    for descending in [false, true] {
        let mut behind = None;
        let (mut found_sessions, mut found_rejections) = (Vec::new(), Vec::new());
        loop {
            let page = views.sessions(ListQuery { descending, behind, limit: 2 }).await.unwrap().found;
            found_sessions.extend(page.found);
            let Some(last) = found_sessions.last().filter(|_| page.more) else { break };
            behind = Some((last.created_at, last.id));
        }
        behind = None;
        loop {
            let page = views.rejections(ListQuery { descending, behind, limit: 3 }).await.unwrap().found;
            found_rejections.extend(page.found);
            let Some(last) = found_rejections.last().filter(|_| page.more) else { break };
            behind = Some((last.created_at, last.id));
        }
        let (mut sessions, mut rejections) = (sessions.clone(), rejections.clone());
        sessions.sort_by_key(|session| (session.created_at, session.id));
        rejections.sort_by_key(|rejection| (rejection.created_at, rejection.id));
        if descending {
            sessions.reverse();
            rejections.reverse();
        }
        assert_eq!(found_sessions, sessions);
        assert_eq!(found_rejections, rejections);
    }
    assert_eq!(views.session(sessions[3].id).await.unwrap().found.as_ref(), Some(&sessions[3]));
    assert_eq!(views.session(Uuid::new_v4()).await.unwrap().found, None);
    assert_eq!(views.rejection(12).await.unwrap().found.as_ref(), Some(&rejections[2]));
    assert_eq!(views.rejection(5).await.unwrap().found, None);
    place.drop_database().await;
}

/// `cargo test --release -p shared --test it -- --ignored --nocapture figures_of_log_rows`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures_of_log_rows() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let (mut position, mut from) = (0, Checkpoint::START);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        let batch: Vec<_> = (0..1_000)
            .map(|_| {
                position += 1;
                let data = json!({ "host": format!("h{}", position % 10), "bytes": position });
                recorded(
                    Members {
                        timestamp: Timestamp::from_micros(1_700_000_000_000_000 + position as i64),
                        name: Some(format!("name-{}", position % 50)),
                        category: Some(format!("category-{}", position % 7)),
                        customer_id: Some(position as i64 % 1_000),
                        session_id: Some(Uuid::from_u128(u128::from(position % 100))),
                        data: data.as_object().cloned(),
                        ..Members::default()
                    },
                    position,
                )
            })
            .collect();
        views.apply(Generation::Live, from, events(batch), at(position)).await.unwrap();
        from = at(position);
    }
    println!("{:.0} events/s in batches of 1,000", position as f64 / begun.elapsed().as_secs_f64());
    let order = Order { by: SortKey::Timestamp, descending: true, ties: Ties::Id };
    for text in ["", "name eq 'name-7'", "session_id eq '00000000-0000-0000-0000-000000000007'", "customer_id eq 5"] {
        let filter = Filter::parse(text).unwrap();
        let query = EventsQuery { filter: filter.clone(), order, from: From::Start, limit: 50 };
        let begun = Instant::now();
        let page = views.events(query).await.unwrap().found;
        let took = begun.elapsed();
        let begun = Instant::now();
        let count = views.count(&filter).await.unwrap().found;
        println!("{text:?}: a page of {} in {took:?}, counted {count} in {:?}", page.events.len(), begun.elapsed());
    }
    place.drop_database().await;
}
