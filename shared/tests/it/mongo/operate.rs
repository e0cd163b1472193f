//! Parked streams and rebuilds in MongoDB: what several processes make of them, crashes in
//! their middle, and what is removed behind them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use shared::adapters::mongo::MongoViews;
use shared::domain::filter::{Field, Filter};
use shared::domain::log_event::{LogEvent, Members};
use shared::domain::projection::{AnswerChange, Change, Changes, EventChange, LogChange, Parked};
use shared::domain::stream::{Position, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::ports::{
    AnswersQuery, Checkpoint, EventRef, Generation, Health, LogReader, PARKED_MAX, ParkedQuery, RebuildState, Replayed,
    StatsQuery, StoreError, ViewOperator, ViewReader, ViewWriter,
};
use uuid::Uuid;

use super::server::Place;
use super::{at, change, key, resume, shown, value};

/// Within which every reader follows a swap.
const FOLLOWED: Duration = Duration::from_secs(1);

/// When things are asked for.
fn then() -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000)
}

fn stream(name: &str) -> StreamId {
    StreamId::of_answer(&key(name))
}

fn parking(stream: &StreamId, revision: u64, position: u64) -> Parked {
    let (revision, position) = (Revision(revision), Position(position));
    Parked { stream: stream.clone(), revision, position, error: "$bad".into(), since: then(), replay: false }
}

fn bad(parked: &[Parked]) -> Changes {
    Changes { parked: parked.to_vec(), ..Changes::default() }
}

fn replayed(was: &Parked, change: Option<Change>, still: Option<Parked>) -> Replayed {
    Replayed { was: was.clone(), change, still }
}

async fn apply(views: &MongoViews, from: u64, changes: impl Into<Changes>, to: u64) {
    views.apply(Generation::Live, at(from), changes.into(), at(to)).await.expect("applied");
}

async fn fill(views: &MongoViews, from: u64, changes: impl Into<Changes>, to: u64) {
    views.apply(Generation::Next, at(from), changes.into(), at(to)).await.expect("applied");
}

async fn parked(views: &MongoViews, generation: Generation) -> Vec<Parked> {
    ViewWriter::parked(views, generation).await.expect("parked streams")
}

async fn parked_count(views: &MongoViews) -> u64 {
    ViewReader::parked(views).await.expect("how many")
}

/// Begins a rebuild that is asked for from elsewhere.
async fn begin(views: &MongoViews, other: &MongoViews) {
    other.ask_rebuild(then()).await.expect("asked");
    assert_eq!(views.rebuild(Position(1)).await.expect("begun"), Some(Checkpoint::START));
}

async fn collections(place: &Place) -> BTreeSet<String> {
    let names = place.database().await.list_collection_names().await.unwrap();
    names.into_iter().filter(|name| !name.starts_with("system.")).collect()
}

/// Whether the server does what it is told of a view. SecantusDB says yes and does nothing.
async fn changes_views(place: &Place) -> bool {
    let database = place.database().await;
    for command in ["create", "collMod"] {
        let on = format!("{command}_probe");
        database.run_command(doc! { command: "probe", "viewOn": &on, "pipeline": [] }).await.unwrap();
    }
    let command = doc! { "listCollections": 1, "filter": { "name": "probe" } };
    let listed = database.run_command(command).await.unwrap();
    database.run_command(doc! { "drop": "probe" }).await.unwrap();
    listed.to_string().contains("collMod_probe")
}

async fn set(place: &Place, values: Document) {
    let views = place.database().await.collection::<Document>("views");
    views.update_one(doc! { "_id": "answers" }, doc! { "$set": values }).await.unwrap();
}

async fn soon(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < within, "{what}: not after {within:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parked_streams_are_there_with_the_checkpoint_and_after_a_take_over() {
    let Some(place) = Place::find() else { return };
    let (first, second, reader) = (place.views(), place.views(), place.views());
    resume(&first).await;
    let entries = [parking(&stream("b"), 1, 2), parking(&stream("$a.b"), 0, 3)];
    let changes = Changes { answers: vec![change("b", Some("good"), 0, 1)], ..bad(&entries) };
    apply(&first, 0, changes, 3).await;
    reader.reached(Position(3)).await.expect("reached");
    assert_eq!(parked_count(&reader).await, 2);
    for entry in &entries {
        assert_eq!(reader.parked_stream(&entry.stream).await.unwrap().as_ref(), Some(entry));
    }
    assert_eq!(reader.parked_stream(&stream("a")).await.unwrap(), None);
    // A replay that nobody has carried out goes to the next holder.
    assert_eq!(reader.ask_replay(Some(&entries[1].stream)).await.unwrap(), 1);
    first.close().await;
    assert_eq!(resume(&second).await, at(3));
    let mut found = parked(&second, Generation::Live).await;
    found.sort_by_key(|entry| entry.position);
    assert_eq!(found, [entries[0].clone(), Parked { replay: true, ..entries[1].clone() }]);
    let meta = place.meta().await;
    assert_eq!((meta.get_i64("commit").unwrap(), meta.get_i64("parked_count").unwrap()), (3, 2));
    // A batch that is not at the checkpoint parks nothing.
    let late = first.apply(Generation::Live, at(3), bad(&[parking(&stream("c"), 0, 4)]), at(4)).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    assert_eq!(parked_count(&second).await, 2);
    second.check().await.expect("it is well");
    place.drop_database().await;
}

fn recorded(id: Uuid, name: &str, number: u64, revision: u64, position: u64) -> EventChange {
    let members = Members { name: Some(name.into()), ..Members::default() };
    let event = LogEvent { id, number, created_at: then(), members };
    EventChange { id, number, event: Some(Arc::new(event)), revision: Revision(revision), position: Position(position) }
}

/// The number of events as it is kept, and as they are counted.
async fn counts(views: &MongoViews) -> (u64, u64) {
    let query = StatsQuery { filter: Filter::Any, interval: i64::MAX, by: Field::Name, limit: 100 };
    let rows = views.stats(query).await.unwrap().found.unwrap();
    (views.count(&Filter::Any).await.unwrap().found, rows.iter().map(|row| row.count).sum())
}

/// Recordings, amendments and deletions that were bad, healed in part and as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replays_count_log_events_exactly() {
    let Some(place) = Place::find() else { return };
    let (views, reader) = (place.views(), place.views());
    resume(&views).await;
    let ids = [(); 5].map(|()| Uuid::new_v4());
    let name = |at: usize| StreamId::of_event(ids[at]);
    // 0: bad from the start; 1: a bad amendment, then a deletion; 2: a bad deletion;
    // 3: bad from the start and deleted; 4: bad, good, bad again.
    let log: Vec<_> =
        [(1, 2), (2, 3)].map(|(at, place)| LogChange::Event(recorded(ids[at], "x", place, 0, place))).into();
    let entries = [
        parking(&name(0), 0, 1),
        parking(&name(1), 1, 4),
        parking(&name(2), 1, 5),
        parking(&name(3), 0, 6),
        parking(&name(4), 0, 8),
    ];
    apply(&views, 0, Changes { log, ..bad(&entries) }, 20).await;
    assert_eq!(counts(&reader).await, (2, 2));
    let gone = |change: EventChange| EventChange { event: None, ..change };
    let further = parking(&name(4), 2, 10);
    let steps = [
        (&entries[0], recorded(ids[0], "x", 1, 0, 1), None, 3),
        (&entries[1], gone(recorded(ids[1], "x", 2, 2, 11)), None, 2),
        (&entries[2], gone(recorded(ids[2], "x", 3, 1, 5)), None, 1),
        (&entries[3], gone(recorded(ids[3], "x", 6, 1, 7)), None, 1),
        (&entries[4], recorded(ids[4], "x", 8, 1, 9), Some(further.clone()), 2),
        (&further, gone(recorded(ids[4], "x", 8, 3, 12)), None, 1),
    ];
    let mut left = 5;
    for (was, change, still, count) in steps {
        left -= u64::from(still.is_none());
        let heal = replayed(was, Some(Change::Log(LogChange::Event(change))), still);
        views.replayed(at(20), heal.clone()).await.expect("replayed");
        assert_eq!(counts(&views).await, (count, count), "after {heal:?}");
        assert_eq!(parked_count(&views).await, left);
        // The same once more is nothing: the entry is not as it was.
        let again = views.replayed(at(20), heal).await;
        assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
        assert_eq!(resume(&views).await, at(20));
        assert_eq!(counts(&views).await, (count, count));
    }
    assert_eq!(resume(&views).await, at(20), "a replay moves no checkpoint");
    place.drop_database().await;
}

/// A process that dies between the row and the entry: it is carried out again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replay_that_was_carried_out_in_part_is_repeated() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let was = parking(&stream("a"), 1, 2);
    apply(&views, 0, Changes { answers: vec![change("a", Some("1"), 0, 1)], ..bad(std::slice::from_ref(&was)) }, 5)
        .await;
    views.ask_replay(None).await.unwrap();
    let row = doc! { "_id": "a", "key": "a", "value": "3", "revision": 2_i64, "position": 3_i64 };
    place.rows().await.replace_one(doc! { "_id": "a" }, row).await.unwrap();
    views.close().await;
    let next = place.views();
    resume(&next).await;
    let found = parked(&next, Generation::Live).await;
    assert_eq!(found, [Parked { replay: true, ..was.clone() }], "it is asked for still");
    next.replayed(at(5), replayed(&was, Some(Change::Answer(change("a", Some("3"), 2, 3))), None)).await.unwrap();
    assert_eq!((value(&next, "a").await.as_deref(), parked_count(&next).await), (Some("3"), 0));
    place.drop_database().await;
}

/// Two that each believe it is their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stale_holder_can_neither_heal_nor_park_nor_swap() {
    let Some(place) = Place::find() else { return };
    // What the first believes when it wakes is what it knew: each attempt costs it its turn.
    type Attempt = fn(MongoViews, Parked) -> futures::future::BoxFuture<'static, Result<(), StoreError>>;
    let attempts: [(&str, Attempt); 6] = [
        ("heal", |views, was| {
            Box::pin(async move {
                let change = Change::Answer(change("a", Some("stale"), 1, 2));
                views.replayed(at(5), replayed(&was, Some(change), None)).await
            })
        }),
        ("park", |views, _| {
            Box::pin(async move {
                views.apply(Generation::Live, at(5), bad(&[parking(&stream("stale"), 0, 6)]), at(6)).await
            })
        }),
        ("park in the next", |views, _| {
            Box::pin(async move {
                views.apply(Generation::Next, at(5), bad(&[parking(&stream("stale"), 0, 6)]), at(6)).await
            })
        }),
        ("write to the next", |views, _| {
            Box::pin(async move {
                views.apply(Generation::Next, at(5), vec![change("stale", Some("1"), 0, 6)].into(), at(6)).await
            })
        }),
        ("swap", |views, _| Box::pin(async move { views.swap(at(5), at(5)).await.map(drop) })),
        ("rebuild", |views, _| Box::pin(async move { views.rebuild(Position(99)).await.map(drop) })),
    ];
    for (what, attempt) in attempts {
        let (stale, next) = (place.views(), place.views());
        resume(&stale).await;
        let was = parking(&stream("a"), 1, 2);
        apply(&stale, 0, Changes { answers: vec![change("a", Some("1"), 0, 1)], ..bad(std::slice::from_ref(&was)) }, 5)
            .await;
        begin(&stale, &next).await;
        let rows = Changes { answers: vec![change("a", Some("1"), 0, 1)], ..bad(std::slice::from_ref(&was)) };
        fill(&stale, 0, rows, 5).await;
        // Its lease has run out without its knowledge.
        set(&place, doc! { "lease.until": 0_i64 }).await;
        assert_eq!(resume(&next).await, at(5));
        let before = place.meta().await;
        let late = attempt(stale.clone(), was.clone()).await;
        assert!(matches!(late, Err(StoreError::Conflict)), "{what}: {late:?}");
        tokio::time::timeout(FOLLOWED, stale.interrupted()).await.expect("it knows now");
        let without_lease = |mut meta: Document| {
            meta.remove("lease");
            meta
        };
        assert_eq!(without_lease(place.meta().await), without_lease(before), "{what} changes nothing");
        assert_eq!(value(&next, "a").await.as_deref(), Some("1"), "{what} writes nothing");
        assert_eq!(next.rebuild(Position(5)).await.unwrap(), Some(at(5)), "{what}");
        place.drop_database().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_is_asked_for_elsewhere_and_resumed_by_the_next_holder() {
    let Some(place) = Place::find() else { return };
    let (first, second, other) = (place.views(), place.views(), place.views());
    let early = other.ask_rebuild(then()).await;
    assert!(matches!(early, Err(StoreError::Unavailable { .. })), "before anything was projected: {early:?}");
    assert_eq!(other.rebuild_state().await.unwrap(), RebuildState::default());
    resume(&first).await;
    apply(&first, 0, vec![change("a", Some("1"), 0, 1), change("b", Some("1"), 0, 2)], 2).await;
    // The first look says what there is; from then on only what is new.
    tokio::time::timeout(Duration::from_secs(3), first.asked()).await.expect("it may return for nothing");
    let quiet = tokio::time::timeout(Duration::from_millis(2_500), first.asked()).await;
    assert!(quiet.is_err(), "nothing was asked for");
    let asked = Instant::now();
    let hears = tokio::spawn({
        let first = first.clone();
        async move { first.asked().await }
    });
    other.ask_rebuild(then()).await.expect("asked");
    let again = other.ask_rebuild(then()).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "one at a time: {again:?}");
    tokio::time::timeout(Duration::from_secs(3), hears).await.expect("soon").unwrap();
    println!("heard of {:?} after it was asked for", asked.elapsed());
    assert_eq!(first.rebuild(Position(2)).await.unwrap(), Some(Checkpoint::START));
    fill(&first, 0, Changes { answers: vec![change("a", Some("1"), 0, 1)], ..bad(&[]) }, 1).await;
    let state = other.rebuild_state().await.unwrap();
    assert_eq!((state.is_running, state.done, state.total), (true, Position(1), Position(2)));
    // A death in the middle, with rows that the checkpoint does not cover.
    let number = place.meta().await.get_document("next").unwrap().get_i64("generation").unwrap();
    fill(&first, 1, vec![change("b", Some("1"), 0, 2)], 2).await;
    set(&place, doc! { "next.commit": 1_i64, "next.prepare": 1_i64 }).await;
    first.close().await;
    assert_eq!(resume(&second).await, at(2));
    assert_eq!(second.rebuild(Position(2)).await.unwrap(), Some(at(1)), "it goes on where it was");
    let goes_on = place.meta().await.get_document("next").unwrap().get_i64("generation").unwrap();
    assert_eq!(goes_on, number, "in the same rows");
    fill(&second, 1, vec![change("b", Some("1"), 0, 2), change("c", Some("1"), 0, 3)], 3).await;
    let late = first.apply(Generation::Next, at(1), Changes::default(), at(2)).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    second.check().await.expect("it is well while a rebuild runs");
    assert!(second.swap(at(2), at(3)).await.unwrap());
    assert_eq!(resume(&second).await, at(3));
    let state = other.rebuild_state().await.unwrap();
    assert!(!state.is_running && state.finished_at.is_some(), "{state:?}");
    assert_eq!((state.started_at, state.done, state.total), (Some(then()), Position(3), Position(3)));
    soon("the rows", FOLLOWED, async || value(&other, "c").await.is_some()).await;
    if changes_views(&place).await {
        let mut people = shown(&place).await;
        people.sort();
        let keys: Vec<_> = people.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c"], "what the shell shows follows");
    }
    assert_eq!(second.rebuild(Position(3)).await.unwrap(), None, "it is done");
    place.drop_database().await;
}

/// One reader that reads all the time, one that has read nothing for a while, and those
/// who wait for what comes behind the swap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_elsewhere_follow_a_swap() {
    let Some(place) = Place::find() else { return };
    let (writer, busy, idle) = (place.views(), place.views(), place.views());
    resume(&writer).await;
    let id = Uuid::new_v4();
    let was = parking(&stream("a"), 1, 2);
    let log = vec![LogChange::Event(recorded(id, "old", 3, 0, 3))];
    let answers = vec![change("a", Some("old"), 0, 1)];
    apply(&writer, 0, Changes { answers, log, parked: vec![was.clone()] }, 10).await;
    idle.reached(Position(10)).await.expect("reached");
    assert_eq!(value(&idle, "a").await.as_deref(), Some("old"));
    let waiters: Vec<_> = (0..20)
        .map(|number| {
            let views = if number % 2 == 0 { busy.clone() } else { idle.clone() };
            tokio::spawn(async move {
                views.reached(Position(11)).await.expect("reached");
                value(&views, "late").await
            })
        })
        .collect();
    begin(&writer, &busy).await;
    let over = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let (busy, over) = (busy.clone(), over.clone());
        async move {
            let mut new_since = None;
            while !over.load(Ordering::SeqCst) {
                // In this order: what is not parked any more has been healed.
                let parked = busy.parked_stream(&stream("a")).await.unwrap();
                let found = value(&busy, "a").await.unwrap();
                assert!(parked.is_some() || found == "healed", "{found} where nothing is parked");
                let list = AnswersQuery { prefix: String::new(), after: None, limit: 5 };
                let listed = busy.answers(list).await.unwrap().found.answers[0].value.to_string();
                if found == "healed" {
                    new_since.get_or_insert_with(Instant::now);
                    assert_eq!(listed, "healed", "a list behind a read goes back");
                } else {
                    assert!(new_since.is_none(), "a read goes back");
                }
            }
            new_since
        }
    });
    let log = vec![LogChange::Event(recorded(id, "new", 3, 0, 3))];
    fill(&writer, 0, Changes { answers: vec![change("a", Some("healed"), 1, 2)], log, ..bad(&[]) }, 10).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(writer.swap(at(10), at(10)).await.unwrap());
    let swapped = Instant::now();
    // The first read of whoever has not looked for long.
    assert_eq!(parked_count(&idle).await, 0);
    assert_eq!(value(&idle, "a").await.as_deref(), Some("healed"));
    let event = idle.event(EventRef::Id(id)).await.unwrap().found.unwrap();
    assert_eq!(event.event.members.name.as_deref(), Some("new"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "a swap is not what they wait for");
    assert_eq!(resume(&writer).await, at(10));
    apply(&writer, 10, vec![change("late", Some("here"), 0, 11)], 11).await;
    for waiter in waiters {
        let found = tokio::time::timeout(Duration::from_secs(2), waiter).await.expect("it wakes").unwrap();
        assert_eq!(found.as_deref(), Some("here"));
    }
    over.store(true, Ordering::SeqCst);
    let since = reading.await.unwrap().expect("it follows");
    let took = since.saturating_duration_since(swapped);
    assert!(took < FOLLOWED, "{took:?}");
    println!("a reader elsewhere followed the swap within {took:?}");
    place.drop_database().await;
}

/// Rows that somebody has announced may be seen at any moment, by whom ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_that_may_come_keep_a_swap_back() {
    let Some(place) = Place::find() else { return };
    let (dead, views) = (place.views(), place.views());
    resume(&dead).await;
    apply(&dead, 0, vec![change("a", Some("1"), 0, 1)], 5).await;
    // It dies behind its announcement, of a put alone, and its row comes late.
    set(&place, doc! { "written": 8_i64 }).await;
    dead.close().await;
    resume(&views).await;
    begin(&views, &dead).await;
    fill(&views, 0, vec![change("a", Some("1"), 0, 1)], 5).await;
    let before = place.meta().await;
    assert!(!views.swap(at(5), at(5)).await.unwrap(), "a row may lie beyond");
    assert_eq!(place.meta().await, before, "and nothing has changed");
    let late = doc! { "_id": "late", "key": "late", "value": "1", "revision": 0_i64, "position": 8_i64 };
    place.rows().await.insert_one(late).await.unwrap();
    assert_eq!(value(&dead, "late").await.as_deref(), Some("1"), "it is seen");
    apply(&views, 5, vec![change("late", Some("1"), 0, 8)], 8).await;
    assert!(!views.swap(at(8), at(5)).await.unwrap(), "the next ones do not hold it yet");
    fill(&views, 5, vec![change("late", Some("1"), 0, 8)], 8).await;
    assert!(views.swap(at(8), at(8)).await.unwrap());
    assert_eq!(value(&dead, "late").await.as_deref(), Some("1"), "it is seen still");
    // What is announced for the next generation counts as well, and no list is told of it.
    assert_eq!(resume(&views).await, at(8));
    begin(&views, &dead).await;
    fill(&views, 0, vec![change("late", None, 1, 12)], 12).await;
    let meta = place.meta().await;
    assert_eq!((meta.get_i64("written").unwrap(), meta.get_i64("ahead").unwrap()), (12, 0));
    set(&place, doc! { "next.commit": 8_i64, "next.prepare": 8_i64 }).await;
    assert_eq!(resume(&views).await, at(8));
    assert_eq!(views.rebuild(Position(12)).await.unwrap(), Some(at(8)));
    assert!(!views.swap(at(8), at(8)).await.unwrap(), "there is a removal from beyond in it");
    place.drop_database().await;
}

/// What a replay has healed must not be parked again by a rebuild that had come to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_that_parked_what_was_healed_begins_anew() {
    let Some(place) = Place::find() else { return };
    let (views, other) = (place.views(), place.views());
    resume(&views).await;
    let [a, b] = ["a", "b"].map(stream);
    let entries = [parking(&a, 1, 3), parking(&b, 0, 4)];
    apply(&views, 0, Changes { answers: vec![change("a", Some("1"), 0, 1)], ..bad(&entries) }, 5).await;
    begin(&views, &other).await;
    fill(&views, 0, Changes { answers: vec![change("a", Some("1"), 0, 1)], ..bad(&entries[..1]) }, 3).await;
    // One that it has not come to.
    views.replayed(at(5), replayed(&entries[1], None, None)).await.expect("replayed");
    assert_eq!(views.rebuild(Position(5)).await.unwrap(), Some(at(3)), "it goes on");
    // A replay that comes to nothing.
    let still = Parked { error: "still".into(), ..entries[0].clone() };
    views.replayed(at(5), replayed(&entries[0], None, Some(still.clone()))).await.expect("replayed");
    assert_eq!(views.rebuild(Position(5)).await.unwrap(), Some(at(3)), "it goes on");
    let healed = Change::Answer(change("a", Some("2"), 1, 3));
    views.replayed(at(5), replayed(&still, Some(healed), None)).await.expect("replayed");
    assert_eq!(value(&views, "a").await.as_deref(), Some("2"));
    let late = views.apply(Generation::Next, at(3), Changes::default(), at(4)).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    assert_eq!(resume(&views).await, at(5));
    assert_eq!(views.rebuild(Position(5)).await.unwrap(), Some(Checkpoint::START), "it begins anew");
    assert!(parked(&views, Generation::Next).await.is_empty());
    fill(&views, 0, vec![change("a", Some("2"), 1, 3)], 5).await;
    assert!(views.swap(at(5), at(5)).await.unwrap());
    assert_eq!((value(&other, "a").await.as_deref(), parked_count(&other).await), (Some("2"), 0));
    place.drop_database().await;
}

/// A request that comes in between is not lost in a swap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replay_that_is_asked_for_outlives_a_swap() {
    let Some(place) = Place::find() else { return };
    let (views, other) = (place.views(), place.views());
    resume(&views).await;
    let entries = ["a", "b", "c"].map(|name| parking(&stream(name), 0, 2));
    apply(&views, 0, bad(&entries), 5).await;
    begin(&views, &other).await;
    fill(&views, 0, bad(&entries[..2]), 5).await;
    assert_eq!(other.ask_replay(Some(&entries[1].stream)).await.unwrap(), 1);
    let flagged = |parked: Vec<Parked>| {
        let flagged = parked.into_iter().filter(|parked| parked.replay);
        flagged.map(|parked| parked.stream.to_string()).collect::<BTreeSet<_>>()
    };
    assert_eq!(flagged(parked(&views, Generation::Live).await), ["answer-b".into()].into());
    assert!(views.swap(at(5), at(5)).await.unwrap());
    assert_eq!(resume(&views).await, at(5));
    assert_eq!(flagged(parked(&views, Generation::Live).await), ["answer-b".into()].into());
    assert_eq!(other.ask_replay(Some(&entries[2].stream)).await.unwrap(), 0, "it is parked no more");
    begin(&views, &other).await;
    fill(&views, 0, bad(&entries[..1]), 5).await;
    assert_eq!(other.ask_replay(None).await.unwrap(), 2);
    assert!(views.swap(at(5), at(5)).await.unwrap());
    assert_eq!(resume(&views).await, at(5));
    assert_eq!(flagged(parked(&views, Generation::Live).await), ["answer-a".into()].into());
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn old_and_stray_rows_are_removed_and_nothing_else() {
    let Some(place) = Place::find() else { return };
    let (views, other) = (place.views(), place.views());
    resume(&views).await;
    apply(&views, 0, vec![change("a", Some("1"), 0, 1)], 5).await;
    let name = place.meta().await.get_str("views").unwrap().to_owned();
    // Of a database that was restored over this one: the next generation goes round it.
    let database = place.database().await;
    let ours = |number: u64| ["answers", "events", "sessions", "rejections"].map(|of| format!("{of}_{number}_{name}"));
    let row = || doc! { "_id": "ghost", "key": "ghost", "value": "boo", "revision": 9_i64, "position": 99_i64 };
    let ghost = database.collection::<Document>(&ours(2)[0]);
    ghost.insert_one(row()).await.unwrap();
    let strangers = [
        "people".to_owned(),
        format!("answers_1_{name}_old"),
        format!("answers_01_{name}"),
        format!("copies_1_{name}"),
        "answers_1_deadbeef".to_owned(),
        "answers_1".to_owned(),
    ];
    for stranger in &strangers {
        database.collection::<Document>(stranger).insert_one(doc! { "a": 1 }).await.unwrap();
    }
    begin(&views, &other).await;
    let next = place.meta().await.get_document("next").unwrap().get_i64("generation").unwrap();
    assert_eq!(next, 3, "a number that no rows have");
    fill(&views, 0, vec![change("a", Some("1"), 0, 1)], 5).await;
    assert!(views.swap(at(5), at(5)).await.unwrap());
    assert_eq!(resume(&views).await, at(5));
    assert_eq!(value(&other, "ghost").await, None);
    // Whoever looked right before the swap may read the old rows for a while yet.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let there = collections(&place).await;
    assert!(ours(1).iter().all(|name| there.contains(name)), "{there:?}");
    // A rebuild that runs is left alone as well.
    begin(&views, &other).await;
    let past = doc! { "swapped_at": 1_i64 };
    set(&place, past).await;
    let mut expected: BTreeSet<_> = strangers.iter().cloned().chain(ours(3)).chain(ours(4)).collect();
    expected.extend(["views".to_owned(), "answers".to_owned()]);
    soon("old rows go", Duration::from_secs(20), async || collections(&place).await == expected).await;
    assert_eq!(value(&other, "a").await.as_deref(), Some("1"));
    // Somebody whose process stood still for long makes some of them again.
    database.collection::<Document>(&ours(1)[0]).insert_one(row()).await.unwrap();
    soon("they go again", Duration::from_secs(20), async || collections(&place).await == expected).await;
    place.drop_database().await;
}

/// Views as they were made before there were parked streams and rebuilds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn older_views_go_on() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    apply(&views, 0, vec![change("a", Some("1"), 0, 1)], 5).await;
    views.close().await;
    let meta = place.database().await.collection::<Document>("views");
    let new = ["newest", "parked", "parked_count", "next", "rebuild", "asked", "written", "swapped_at"];
    let unset: Document = new.iter().map(|name| ((*name).to_owned(), "".into())).collect();
    meta.update_one(doc! { "_id": "answers" }, doc! { "$unset": unset }).await.unwrap();
    let next = place.views();
    assert_eq!((parked_count(&next).await, next.ask_replay(None).await.unwrap()), (0, 0));
    assert_eq!(next.parked_stream(&stream("a")).await.unwrap(), None);
    let page = next.parked_streams(ParkedQuery { after: None, limit: 1 }).await.unwrap();
    assert!(page.found.is_empty() && !page.more);
    assert_eq!(next.rebuild_state().await.unwrap(), RebuildState::default());
    assert_eq!(resume(&next).await, at(5));
    assert!(parked(&next, Generation::Live).await.is_empty());
    begin(&next, &views).await;
    fill(&next, 0, vec![change("a", Some("1"), 0, 1)], 5).await;
    assert!(next.swap(at(5), at(5)).await.unwrap());
    assert_eq!(resume(&next).await, at(5));
    assert_eq!(value(&views, "a").await.as_deref(), Some("1"));
    place.drop_database().await;
}

/// As many as may be, with names of the usual length.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_as_may_be_are_parked() {
    let Some(place) = Place::find() else { return };
    let (views, reader) = (place.views(), place.views());
    resume(&views).await;
    let entries: Vec<_> =
        (0..PARKED_MAX as u64).map(|number| parking(&stream(&format!("{number:05}")), 0, number + 1)).collect();
    let begun = Instant::now();
    apply(&views, 0, bad(&entries[..8_192]), 8_192).await;
    apply(&views, 8_192, bad(&entries[8_192..]), 10_000).await;
    println!("parked within {:?}", begun.elapsed());
    let all: Vec<AnswerChange> = vec![change("other", Some("1"), 0, 10_001)];
    let begun = Instant::now();
    apply(&views, 10_000, all, 10_001).await;
    println!("one more batch within {:?}", begun.elapsed());
    reader.reached(Position(10_001)).await.expect("reached");
    assert_eq!(parked_count(&reader).await, 10_000);
    let begun = Instant::now();
    assert_eq!(reader.parked_stream(&entries[9_999].stream).await.unwrap().as_ref(), Some(&entries[9_999]));
    println!("one of them is found within {:?}", begun.elapsed());
    let query = ParkedQuery { after: Some(entries[9_899].stream.clone()), limit: 100 };
    let page = reader.parked_streams(query).await.unwrap();
    assert_eq!((page.found.as_slice(), page.more), (&entries[9_900..], false));
    assert_eq!(reader.ask_replay(None).await.unwrap(), 10_000);
    let flagged = parked(&views, Generation::Live).await;
    assert!(flagged.len() == 10_000 && flagged.iter().all(|parked| parked.replay));
    let healed = Change::Answer(change("00007", Some("1"), 0, 8));
    views.replayed(at(10_001), replayed(&entries[7], Some(healed), None)).await.expect("replayed");
    assert_eq!(parked_count(&reader).await, 9_999);
    assert_eq!(reader.parked_stream(&entries[7].stream).await.unwrap(), None);
    place.drop_database().await;
}
