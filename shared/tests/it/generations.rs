//! The embedded views: parked streams that outlive a crash, replays that mend them, and
//! generations that are built beside the live one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shared::adapters::embedded::SqliteViews;
use shared::clock;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::filter::Filter;
use shared::domain::log_event::{LogEvent, Members};
use shared::domain::projection::{AnswerChange, Change, Changes, EventChange, LogChange, Parked, project};
use shared::domain::stream::{ExpectedRevision, Position, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::ports::{
    AnswersQuery, Checkpoint, EventFeed, EventRef, EventStore, Generation, LogReader, ParkedQuery, Replayed,
    StoreError, ViewOperator, ViewReader, ViewWriter,
};
use uuid::Uuid;

use super::adapters::{Store, copy_running, damage, fill, shows, with_one_of_each};
use super::support::{close, open, open_reserving, resume};

/// What is done to a closed store's folder.
type OnFolder<'a> = &'a dyn Fn(&Path);

/// Rows in memory are in the file after this.
const CARRIED: Duration = Duration::from_millis(1_600);

fn at(position: u64) -> Checkpoint {
    Checkpoint::at(Position(position))
}

fn answer(key: &Key, value: &str, revision: u64, position: u64) -> AnswerChange {
    let (revision, position) = (Revision(revision), Position(position));
    AnswerChange { key: key.clone(), value: Some(value.into()), revision, position }
}

fn parked(stream: &StreamId, revision: u64, position: u64) -> Parked {
    Parked {
        stream: stream.clone(),
        revision: Revision(revision),
        position: Position(position),
        error: "schema version 2 is newer than this program".into(),
        since: Timestamp::from_micros(1_700_000_000_000_001),
        replay: false,
    }
}

fn event(id: Uuid, number: u64, message: &str, revision: u64, position: u64) -> EventChange {
    let created_at = Timestamp::from_micros(1_700_000_000_000_000);
    let members = Members { timestamp: created_at, message: Some(message.into()), ..Members::default() };
    let event = Some(Arc::new(LogEvent { id, number, created_at, members }));
    EventChange { id, number, event, revision: Revision(revision), position: Position(position) }
}

async fn apply(views: &SqliteViews, from: u64, changes: Changes, to: u64) {
    views.apply(Generation::Live, at(from), changes, at(to)).await.unwrap();
}

async fn all_parked(views: &SqliteViews) -> Vec<Parked> {
    let all = ViewWriter::parked(views, Generation::Live).await.unwrap();
    assert_eq!(ViewReader::parked(views).await.unwrap(), all.len() as u64);
    for parked in &all {
        assert_eq!(views.parked_stream(&parked.stream).await.unwrap().as_ref(), Some(parked));
    }
    let listed = views.parked_streams(ParkedQuery { after: None, limit: 100 }).await.unwrap();
    assert_eq!((listed.found, listed.more), (all.clone(), false));
    all
}

async fn value(views: &SqliteViews, key: &Key) -> Option<String> {
    views.answer(key).await.unwrap().found.map(|answer| answer.value.to_string())
}

/// What a kill leaves of a store.
fn killed(store: &Store) -> Store {
    let folder = copy_running(store.folder.path());
    Store { open: open(folder.path()), folder }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parked_streams_outlive_a_kill_with_their_checkpoint() {
    let store = Store::new();
    fill(&store, at(9)).await;
    let (one, other) = (Key::from_stored("one"), Key::from_stored("other"));
    let (one, other) = (parked(&StreamId::of_answer(&one), 3, 4), parked(&StreamId::of_answer(&other), 0, 5));
    let views = &store.open.views;
    apply(views, 0, Changes { parked: vec![other.clone(), one.clone()], ..Changes::default() }, 7).await;
    let both = vec![one.clone(), other.clone()];
    assert_eq!(all_parked(views).await, both);
    // The request alone is durable at once; the checkpoint follows it.
    assert_eq!(views.ask_replay(Some(&other.stream)).await.unwrap(), 1);
    assert_eq!(views.ask_replay(Some(&StreamId::from_stored("answer-nobody"))).await.unwrap(), 0);
    views.asked().await;
    let both = vec![one.clone(), Parked { replay: true, ..other.clone() }];
    assert_eq!(all_parked(views).await, both);
    let early = killed(&store);
    let asked = all_parked(&early.open.views).await;
    assert!(asked.contains(&both[1]), "{asked:?}");
    tokio::time::sleep(CARRIED).await;
    let late = killed(&store);
    for store in [late, early.reopened(), store.reopened()] {
        let views = &store.open.views;
        assert_eq!(store.open.rebuilding, None);
        if resume(views).await == at(7) {
            assert_eq!(all_parked(views).await, both);
        }
        assert_eq!(views.ask_replay(None).await.unwrap(), ViewReader::parked(views).await.unwrap());
        let store = store.reopened();
        assert!(all_parked(&store.open.views).await.iter().all(|parked| parked.replay));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replay_mends_an_answer() {
    let store = Store::new();
    fill(&store, at(9)).await;
    let key = Key::from_stored("key");
    let was = parked(&StreamId::of_answer(&key), 1, 2);
    let views = &store.open.views;
    apply(views, 0, Changes { parked: vec![was.clone()], ..vec![answer(&key, "old", 0, 1)].into() }, 5).await;
    // Everything has been read once, from the file too.
    tokio::time::sleep(CARRIED).await;
    assert_eq!(value(views, &key).await.as_deref(), Some("old"));
    let still = parked(&was.stream, 3, 4);
    let change = Some(Change::Answer(answer(&key, "newer", 2, 3)));
    let first = Replayed { was: was.clone(), change, still: Some(still.clone()) };
    for (at, was) in [(at(4), was.clone()), (at(5), parked(&was.stream, 0, 1))] {
        let elsewhere = views.replayed(at, Replayed { was, ..first.clone() }).await;
        assert!(matches!(elsewhere, Err(StoreError::Conflict)), "{elsewhere:?}");
    }
    views.replayed(at(5), first.clone()).await.unwrap();
    assert_eq!(value(views, &key).await.as_deref(), Some("newer"));
    assert_eq!(all_parked(views).await, std::slice::from_ref(&still));
    let again = views.replayed(at(5), first).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    assert_eq!(views.ask_replay(None).await.unwrap(), 1);
    tokio::time::sleep(CARRIED).await;
    let store = killed(&store);
    let views = &store.open.views;
    assert_eq!(resume(views).await, at(5));
    let asked = all_parked(views).await;
    assert_eq!(asked, [Parked { replay: true, ..still }]);
    let change = Some(Change::Answer(answer(&key, "newest", 3, 4)));
    views.replayed(at(5), Replayed { was: asked[0].clone(), change, still: None }).await.unwrap();
    assert_eq!(value(views, &key).await.as_deref(), Some("newest"));
    // What comes behind that is projected as ever.
    apply(views, 5, vec![answer(&key, "last", 4, 6)].into(), 6).await;
    for store in [killed(&store), store.reopened()] {
        let parked = all_parked(&store.open.views).await;
        match resume(&store.open.views).await {
            now if now == at(6) => assert!(parked.is_empty(), "{parked:?}"),
            now => assert_eq!((now, parked.len()), (at(5), 1), "nothing of it was carried yet"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replay_mends_log_events() {
    let store = Store::new();
    fill(&store, at(99)).await;
    let views = &store.open.views;
    let ids: Vec<_> = (0..4).map(|_| Uuid::new_v4()).collect();
    // Of the first the recording could not be projected, of the second an amendment, of
    // the third the recording in front of its deletion; nothing is wrong with the fourth.
    let stuck = [parked(&StreamId::of_event(ids[0]), 0, 1), parked(&StreamId::of_event(ids[1]), 1, 4)];
    let stuck = [stuck[0].clone(), stuck[1].clone(), parked(&StreamId::of_event(ids[2]), 0, 3)];
    let log = [event(ids[1], 2, "recorded", 0, 2), event(ids[3], 7, "fine", 0, 7)].map(LogChange::Event);
    apply(views, 0, Changes { parked: stuck.to_vec(), ..log.to_vec().into() }, 9).await;
    assert_eq!(views.count(&Filter::Any).await.unwrap().found, 2);
    let deleted = EventChange { event: None, ..event(ids[2], 3, "", 1, 5) };
    let mended = [event(ids[0], 1, "mended", 0, 1), event(ids[1], 2, "amended", 1, 4), deleted.clone()];
    let replayed = stuck.iter().zip(&mended).map(|(was, change)| {
        let change = Some(Change::Log(LogChange::Event(change.clone())));
        Replayed { was: was.clone(), change, still: None }
    });
    let replayed: Vec<_> = replayed.collect();
    for replayed in &replayed {
        let again = Replayed { still: Some(replayed.was.clone()), ..replayed.clone() };
        views.replayed(at(9), again).await.unwrap();
        // A crash may repeat it.
        views.replayed(at(9), replayed.clone()).await.unwrap();
    }
    let latest = [mended[0].clone(), mended[1].clone(), deleted, event(ids[3], 7, "fine", 0, 7)];
    let store = store.reopened();
    for views in [&killed(&store).open.views, &store.open.views] {
        assert!(all_parked(views).await.is_empty());
        assert_eq!(views.count(&Filter::Any).await.unwrap().found, 3);
        assert_eq!(views.changes(Position::START, 10).await.unwrap().found, latest);
        for (number, id) in [(1, ids[0]), (2, ids[1]), (3, ids[2]), (7, ids[3])] {
            let by_id = views.event(EventRef::Id(id)).await.unwrap().found;
            let by_number = views.event(EventRef::Number(number)).await.unwrap().found;
            assert_eq!((by_id.is_some(), &by_id), (number != 3, &by_number));
        }
    }
}

async fn append(store: &Store, key: &Key, values: std::ops::Range<u64>) {
    for value in values {
        let value = value.to_string();
        let event = AnswerEvent::Created { key: key.clone(), value: value.as_str().into() };
        let stream = StreamId::of_answer(key);
        let last = store.open.events.last(&stream).await.unwrap().map(|last| last.revision);
        let event = event.to_new(Uuid::new_v4(), clock::now());
        let expected = ExpectedRevision::from(last);
        EventStore::append(&store.open.events, &stream, expected, vec![event]).await.unwrap();
    }
}

/// Projects the log from one place to another, some events at a time.
async fn follow(store: &Store, generation: Generation, mut now: Checkpoint, to: Checkpoint) {
    let mut subscription = store.open.events.subscribe(now).await.unwrap();
    while now < to {
        let batch = subscription.next((to.position().0 - now.position().0).min(3) as usize).await.unwrap();
        let changes = batch.events.iter().map(|event| project(event).unwrap()).collect();
        store.open.views.apply(generation, now, changes, batch.checkpoint).await.unwrap();
        now = batch.checkpoint;
    }
}

async fn swap(views: &SqliteViews, live: Checkpoint, next: Checkpoint) {
    let begun = Instant::now();
    while !views.swap(live, next).await.unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it comes to an end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains("views") && !name.contains(".db-")).collect();
    names.sort();
    names
}

async fn wait_for_files(folder: &Path, wanted: [&str; 3]) {
    let begun = Instant::now();
    while files(folder) != wanted {
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", files(folder));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_goes_on_after_a_kill_and_becomes_the_live_views() {
    let mut store = Store::new();
    let keys = ["a", "b", "c"].map(Key::from_stored);
    for key in &keys {
        append(&store, key, 0..10).await;
    }
    let stuck = parked(&StreamId::from_stored("answer-stuck"), 0, 30);
    follow(&store, Generation::Live, Checkpoint::START, at(29)).await;
    let changes = Changes { parked: vec![stuck.clone()], ..vec![answer(&keys[2], "9", 9, 30)].into() };
    apply(&store.open.views, 29, changes, 30).await;
    assert_eq!(store.open.views.ask_replay(None).await.unwrap(), 1);
    let views = &store.open.views;
    assert_eq!(views.rebuild(Position(30)).await.unwrap(), None, "nobody asked");
    let nothing = views.apply(Generation::Next, Checkpoint::START, Changes::default(), at(1)).await;
    assert!(matches!(nothing, Err(StoreError::Conflict)), "{nothing:?}");
    let begun = clock::now();
    views.ask_rebuild(begun).await.unwrap();
    views.asked().await;
    assert!(matches!(views.ask_rebuild(begun).await, Err(StoreError::Conflict)));
    assert_eq!(views.rebuild(Position(30)).await.unwrap(), Some(Checkpoint::START));
    follow(&store, Generation::Next, Checkpoint::START, at(12)).await;
    let changes = Changes { parked: vec![stuck.clone()], ..Changes::default() };
    views.apply(Generation::Next, at(12), changes, at(12)).await.unwrap();
    let state = views.rebuild_state().await.unwrap();
    assert_eq!((state.is_running, state.done, state.total), (true, Position(12), Position(30)));
    assert_eq!(state.started_at, Some(begun));
    tokio::time::sleep(CARRIED).await;
    for round in 0..2 {
        store = if round == 0 { killed(&store) } else { store.reopened() };
        assert_eq!(store.open.rebuilding, None);
        assert_eq!(files(store.folder.path()).len(), 5);
        assert!(matches!(store.open.views.ask_rebuild(begun).await, Err(StoreError::Conflict)));
        assert!(store.open.views.rebuild_state().await.unwrap().is_running);
        let on = store.open.views.rebuild(Position(30)).await.unwrap();
        assert_eq!(on, Some(at(12)), "it goes on where it was");
    }
    follow(&store, Generation::Next, at(12), at(30)).await;
    let views = &store.open.views;
    let wrong = views.swap(at(29), at(30)).await;
    assert!(matches!(wrong, Err(StoreError::Conflict)), "{wrong:?}");
    let size = views.size();
    swap(views, at(30), at(30)).await;
    assert!(views.size() < size, "{size}");
    assert_eq!(resume(views).await, at(30));
    let state = views.rebuild_state().await.unwrap();
    assert_eq!((state.is_running, state.done, state.total), (false, Position(30), Position(30)));
    assert!(state.finished_at.unwrap() >= begun);
    wait_for_files(store.folder.path(), ["log-views-2.db", "views-2.db", "views.json"]).await;
    // Also what a kill right behind the swap leaves, and strays that it does not name.
    let dead = killed(&store);
    let Store { folder, open: closing } = dead;
    close(closing);
    for stray in ["views.db", "log-views.db-wal", "views-7.db"] {
        std::fs::write(folder.path().join(stray), "stray").unwrap();
    }
    let dead = Store { open: open(folder.path()), folder };
    assert_eq!(files(dead.folder.path()), ["log-views-2.db", "views-2.db", "views.json"]);
    for store in [dead, store] {
        let views = &store.open.views;
        assert_eq!(store.open.rebuilding, None);
        for key in &keys {
            assert_eq!(value(views, key).await.as_deref(), Some("9"));
        }
        assert_eq!(all_parked(views).await, [Parked { replay: true, ..stuck.clone() }], "asked for before the swap");
        assert_eq!(views.rebuild_state().await.unwrap().started_at, Some(begun));
        // Another one.
        views.ask_rebuild(clock::now()).await.unwrap();
        assert_eq!(views.rebuild(Position(30)).await.unwrap(), Some(Checkpoint::START));
        follow(&store, Generation::Next, Checkpoint::START, at(30)).await;
        swap(views, at(30), at(30)).await;
        wait_for_files(store.folder.path(), ["log-views-3.db", "views-3.db", "views.json"]).await;
        assert!(all_parked(views).await.is_empty(), "nothing is wrong any more");
    }
}

/// The new views may be ahead of the live ones, or behind them where nothing is between.
/// What is asked for is not forgotten, and the commands keep what is reserved for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_waits_for_room_on_the_disk() {
    let Store { folder, open: store } = Store::new();
    apply(&store.views, 0, vec![answer(&Key::parse("k").unwrap(), "v", 0, 1)].into(), 1).await;
    store.views.ask_rebuild(clock::now()).await.unwrap();
    close(store);
    let full = open_reserving(folder.path(), u64::MAX).unwrap();
    for _ in 0..2 {
        assert_eq!(full.views.rebuild(Position(1)).await.unwrap(), None);
        assert!(full.views.rebuild_state().await.unwrap().is_running);
    }
    close(full);
    let store = open(folder.path());
    assert_eq!(store.views.rebuild(Position(1)).await.unwrap(), Some(Checkpoint::START));
    close(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_hears_of_a_swap() {
    let store = Store::new();
    let key = Key::from_stored("key");
    append(&store, &key, 0..8).await;
    let views = &store.open.views;
    follow(&store, Generation::Live, Checkpoint::START, at(5)).await;
    let waits = |position: u64| {
        let views = views.clone();
        tokio::spawn(async move { views.reached(Position(position)).await })
    };
    let (near, far) = (waits(8), waits(9));
    views.ask_rebuild(clock::now()).await.unwrap();
    views.rebuild(Position(8)).await.unwrap();
    follow(&store, Generation::Next, Checkpoint::START, at(8)).await;
    swap(views, at(5), at(8)).await;
    tokio::time::timeout(Duration::from_secs(1), near).await.expect("it hears of it").unwrap().unwrap();
    assert_eq!(value(views, &key).await.as_deref(), Some("7"));
    assert!(!far.is_finished());
    append(&store, &key, 8..9).await;
    follow(&store, Generation::Live, at(8), at(9)).await;
    tokio::time::timeout(Duration::from_secs(1), far).await.expect("it waits on").unwrap().unwrap();
    // Positions without events of ours.
    apply(views, 9, Changes::default(), 20).await;
    views.ask_rebuild(clock::now()).await.unwrap();
    views.rebuild(Position(9)).await.unwrap();
    follow(&store, Generation::Next, Checkpoint::START, at(9)).await;
    swap(views, at(20), at(9)).await;
    assert_eq!((resume(views).await, views.checkpoint().await.unwrap()), (at(20), at(20)));
    views.reached(Position(20)).await.unwrap();
    store.reopened();
}

/// Readers of all kinds, through swap after swap: no failure, nothing older than before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_never_go_back_through_swaps() {
    let store = Store::new();
    let key = Key::from_stored("key");
    append(&store, &key, 0..10).await;
    follow(&store, Generation::Live, Checkpoint::START, at(10)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let readers = (0..3).map(|number| {
        let (views, key, is_over) = (store.open.views.clone(), key.clone(), is_over.clone());
        tokio::spawn(async move {
            let (mut value, mut position, mut reads) = (0_u64, Position::START, 0_u64);
            while !is_over.load(Ordering::Acquire) {
                let query = AnswersQuery { prefix: String::new(), after: None, limit: 10 };
                let seen = match number {
                    0 => views.answers(query).await.map(|seen| (seen.found.answers[0].value.clone(), seen.position)),
                    _ => views.answer(&key).await.map(|seen| (seen.found.unwrap().value, seen.position)),
                };
                let (now, at) = seen.expect("no read fails");
                let now = now.parse().unwrap();
                assert!(now >= value && at >= position, "{now} at {at} behind {value} at {position}");
                (value, position, reads) = (now, at, reads + 1);
                if number == 2 {
                    tokio::task::yield_now().await;
                }
            }
            reads
        })
    });
    let readers: Vec<_> = readers.collect();
    for round in 1..=12 {
        let (begin, end) = (round * 10, round * 10 + 10);
        let views = &store.open.views;
        views.ask_rebuild(clock::now()).await.unwrap();
        views.rebuild(Position(begin)).await.unwrap();
        follow(&store, Generation::Next, Checkpoint::START, at(begin - 3)).await;
        append(&store, &key, begin..end).await;
        follow(&store, Generation::Live, at(begin), at(end)).await;
        follow(&store, Generation::Next, at(begin - 3), at(end)).await;
        swap(views, at(end), at(end)).await;
    }
    is_over.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.await.unwrap() > 20);
    }
    wait_for_files(store.folder.path(), ["log-views-13.db", "views-13.db", "views.json"]).await;
}

/// Damage empties the live views. Those that are being built may take their place
/// before they are filled again, and nobody is shown less than there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn damage_of_the_live_views_and_a_rebuild_meet() {
    let (store, key, id) = with_one_of_each("precise").await;
    let Store { folder, open: closing } = store;
    close(closing);
    let store = Store { open: open(folder.path()), folder };
    let views = &store.open.views;
    views.ask_rebuild(clock::now()).await.unwrap();
    views.rebuild(Position(2)).await.unwrap();
    follow(&store, Generation::Next, Checkpoint::START, at(1)).await;
    damage(&store.folder.path().join("log-views.db"), "precise");
    let found = views.event(EventRef::Id(id)).await;
    assert!(matches!(found, Err(StoreError::Unavailable { .. })), "{found:?}");
    tokio::time::timeout(Duration::from_secs(5), views.interrupted()).await.unwrap();
    assert_eq!(resume(views).await, Checkpoint::START);
    swap(views, Checkpoint::START, at(1)).await;
    assert_eq!(resume(views).await, at(1));
    let early = views.answer(&key).await;
    assert!(matches!(early, Err(StoreError::Unavailable { .. })), "{early:?}");
    follow(&store, Generation::Live, at(1), at(2)).await;
    shows(&store, &key, id, "precise").await;
    let store = store.reopened();
    shows(&store, &key, id, "precise").await;
}

/// Views that are being built and turn out to be damaged begin again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn damaged_views_that_are_being_built_begin_again() {
    let (store, key, id) = with_one_of_each("precise").await;
    let views = &store.open.views;
    views.ask_rebuild(clock::now()).await.unwrap();
    views.rebuild(Position(2)).await.unwrap();
    follow(&store, Generation::Next, Checkpoint::START, at(2)).await;
    let Store { folder, open: closing } = store;
    close(closing);
    damage(&folder.path().join("log-views-2.db"), "precise");
    let store = Store { open: open(folder.path()), folder };
    assert_eq!(store.open.rebuilding, None);
    shows(&store, &key, id, "precise").await;
    let views = &store.open.views;
    assert_eq!(views.rebuild(Position(2)).await.unwrap(), Some(Checkpoint::START));
    follow(&store, Generation::Next, Checkpoint::START, at(2)).await;
    swap(views, at(2), at(2)).await;
    shows(&store, &key, id, "precise").await;
    assert_eq!(store.reopened().open.rebuilding, None);
}

/// A kill in the middle of the merge of rows that were sorted first leaves some of them in
/// the table; the merge goes on behind these. Where the sorted rows are gone or damaged the
/// rebuild begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_merge_of_sorted_rows_goes_on_after_a_kill() {
    let store = Store::new();
    let keys = ["a", "b", "c"].map(Key::from_stored);
    for key in &keys {
        append(&store, key, 0..4).await;
    }
    follow(&store, Generation::Live, Checkpoint::START, at(12)).await;
    let views = &store.open.views;
    views.ask_rebuild(clock::now()).await.unwrap();
    views.rebuild(Position(12)).await.unwrap();
    // In three runs, of which the later hide what is in the earlier.
    for end in [3, 7, 12] {
        let from = views.rebuild(Position(12)).await.unwrap().unwrap();
        follow(&store, Generation::Next, from, at(end)).await;
        tokio::time::sleep(CARRIED).await;
    }
    let [begun, halfway, gone, damaged] = [(); 4].map(|()| killed(&store));
    swap(views, at(12), at(12)).await;
    let row: (String, String, i64, i64, i64) = {
        let answers = rusqlite::Connection::open(store.folder.path().join("views-2.db")).unwrap();
        answers.query_row("SELECT * FROM answers WHERE key = 'a'", [], |row| row.try_into()).unwrap()
    };
    drop(store);

    let reopened = |store: Store, change: OnFolder<'_>| {
        let Store { folder, open: closing } = store;
        close(closing);
        change(folder.path());
        Store { open: open(folder.path()), folder }
    };
    let merged_one = |folder: &Path| {
        let answers = rusqlite::Connection::open(folder.join("views-2.db")).unwrap();
        assert_eq!(answers.query_row("SELECT count(*) FROM runs", [], |row| row.get::<_, i64>(0)).unwrap(), 3);
        answers.execute("INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5)", row.clone()).unwrap();
    };
    let lost = |folder: &Path| std::fs::remove_file(folder.join("views-2.db-runs")).unwrap();
    let wrong = |folder: &Path| {
        let path = folder.join("views-2.db-runs");
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let nothing = |_: &Path| {};
    let rounds: [(Store, OnFolder<'_>, u64); 4] =
        [(begun, &nothing, 12), (halfway, &merged_one, 12), (gone, &lost, 0), (damaged, &wrong, 12)];
    for (store, change, from) in rounds {
        let store = reopened(store, change);
        let views = &store.open.views;
        assert_eq!(views.rebuild(Position(12)).await.unwrap(), Some(at(from)));
        // Damage shows when the rows are merged.
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(10), "it comes to an end");
            let next = views.rebuild(Position(12)).await.unwrap().unwrap();
            follow(&store, Generation::Next, next, at(12)).await;
            match views.swap(at(12), at(12)).await {
                Ok(true) => break,
                Ok(false) | Err(StoreError::Conflict) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
        while store.folder.path().join("views-2.db-runs").exists() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is removed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let store = store.reopened();
        assert_eq!(store.open.rebuilding, None);
        for key in &keys {
            assert_eq!(value(&store.open.views, key).await.as_deref(), Some("3"));
        }
    }
}
