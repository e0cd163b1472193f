//! The views in MongoDB: what other adapters do not have to fear. A server of the
//! test's own is SecantusDB; `MONGODB_HOST` names another to run the tests against,
//! but for those that kill the server.

mod log;
mod operate;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use shared::adapters::mongo::{MongoViews, Serves};
use shared::conformance;
use shared::domain::answer::Key;
use shared::domain::projection::{AnswerChange, Changes};
use shared::domain::stream::{Position, Revision};
use shared::login::Login;
use shared::ports::{AnswersQuery, Checkpoint, Generation, Health, LogId, StoreError, ViewReader, ViewWriter};
use uuid::Uuid;

use server::Place;

const LOG: LogId = LogId(Uuid::from_u128(0x0b5c_0000_0000_4000_8000_0000_0000_0001));
const OTHER_LOG: LogId = LogId(Uuid::from_u128(0x0b5c_0000_0000_4000_8000_0000_0000_0002));
/// Within which another process goes on.
const TAKE_OVER: Duration = Duration::from_secs(15);

fn key(text: &str) -> Key {
    Key::from_stored(text)
}

fn at(position: u64) -> Checkpoint {
    Checkpoint::at(Position(position))
}

/// A change of a key at a position; without a value a removal.
fn change(text: &str, value: Option<&str>, revision: u64, position: u64) -> AnswerChange {
    AnswerChange {
        key: key(text),
        value: value.map(Into::into),
        revision: Revision(revision),
        position: Position(position),
    }
}

async fn resume(views: &MongoViews) -> Checkpoint {
    views.resume(LOG, Position::MAX).await.expect("the turn")
}

async fn value(views: &MongoViews, text: &str) -> Option<String> {
    let seen = views.answer(&key(text)).await.expect("an answer can be read");
    seen.found.map(|answer| answer.value.to_string())
}

/// A log of puts and removals of some keys, with gaps between the positions.
struct Log(Vec<AnswerChange>);

impl Log {
    fn random(runner: &mut TestRunner, length: usize, keys: u8) -> Self {
        let one = (0..keys, proptest::option::weighted(0.75, 0..1_000_u32), 1..4_u64);
        let ops = prop::collection::vec(one, length).new_tree(runner).unwrap().current();
        let (mut revisions, mut position) = (BTreeMap::new(), 0);
        let change = |(name, value, step): (u8, Option<u32>, u64)| {
            position += step;
            let revision = revisions.entry(name).and_modify(|revision| *revision += 1).or_insert(0);
            change(&format!("key-{name}"), value.map(|value| value.to_string()).as_deref(), *revision, position)
        };
        Self(ops.into_iter().map(change).collect())
    }

    fn end(&self) -> Position {
        self.0.last().map_or(Position::START, |last| last.position)
    }

    /// What lies behind a checkpoint, up to so many changes.
    fn behind(&self, from: Checkpoint, count: usize) -> Vec<AnswerChange> {
        self.0.iter().filter(|change| !from.has_reached(change.position)).take(count).cloned().collect()
    }

    /// All rows that there must be, removals too.
    fn fold(&self) -> BTreeMap<String, (Option<String>, i64, i64)> {
        let row = |change: &AnswerChange| {
            let value = change.value.as_ref().map(ToString::to_string);
            let (revision, position) = (change.revision.0 as i64, change.position.0 as i64);
            (change.key.to_string(), (value, revision, position))
        };
        self.0.iter().map(row).collect()
    }

    async fn is_in(&self, place: &Place) {
        let rows: Vec<Document> = place.rows().await.find(doc! {}).await.unwrap().try_collect().await.unwrap();
        let row = |row: &Document| {
            let value = row.get_str("value").ok().map(str::to_owned);
            let key = row.get_str("_id").unwrap().to_owned();
            assert_eq!(row.get_str("key").ok(), value.is_some().then_some(key.as_str()), "of {row}");
            (key, (value, row.get_i64("revision").unwrap(), row.get_i64("position").unwrap()))
        };
        let found: BTreeMap<_, _> = rows.iter().map(row).collect();
        assert_eq!(found, self.fold(), "the rows are a fold of the log");
        let live = self.fold().into_iter().filter_map(|(key, (value, ..))| Some((key, value?)));
        let mut shown: Vec<_> = shown(place).await;
        shown.sort();
        assert_eq!(shown, live.collect::<Vec<_>>(), "the answers that the shell shows are the live ones");
    }
}

/// What `db.answers.find()` shows.
async fn shown(place: &Place) -> Vec<(String, String)> {
    let view = place.database().await.collection::<Document>("answers");
    let shown: Vec<Document> = view.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    let text = |answer: &Document, name: &str| answer.get_str(name).expect("a text").to_owned();
    shown.iter().map(|answer| (text(answer, "key"), text(answer, "value"))).collect()
}

/// Applies a log as the projector does, until it is through or told to end.
async fn project(views: &MongoViews, log: &Log, batch: usize, over: &AtomicBool) {
    'resumed: while !over.load(Ordering::SeqCst) {
        let Ok(mut from) = views.resume(LOG, Position::MAX).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !over.load(Ordering::SeqCst) {
            let changes = log.behind(from, batch);
            let Some(to) = changes.last().map(|last| Checkpoint::at(last.position)) else { return };
            if views.apply(Generation::Live, from, changes.into(), to).await.is_err() {
                continue 'resumed;
            }
            from = to;
        }
    }
}

async fn project_all(views: &MongoViews, log: &Log, batch: usize) {
    project(views, log, batch, &AtomicBool::new(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mongodb_keeps_the_promises_of_views() {
    let Some(place) = Place::find() else { return };
    let views = Arc::new(place.views());
    conformance::views(views.clone(), views.clone()).await;
    views.check().await.expect("it is well");
    views.close().await;
    // A process that only reads learns of the checkpoint from the database.
    let (writer, reader) = (Arc::new(place.views()), Arc::new(place.views()));
    conformance::views(reader, writer).await;
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mongodb_keeps_the_promises_of_the_event_log() {
    let Some(place) = Place::find() else { return };
    let views = Arc::new(place.views());
    conformance::log(views.clone(), views.clone(), views).await;
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mongodb_keeps_the_promises_of_parked_streams() {
    let Some(place) = Place::find() else { return };
    let views = Arc::new(place.views());
    conformance::parked(views.clone(), views).await;
    place.drop_database().await;
    let (writer, reader) = (Arc::new(place.views()), Arc::new(place.views()));
    conformance::parked(reader, writer).await;
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mongodb_keeps_the_promises_of_rebuilds() {
    let Some(place) = Place::find() else { return };
    let views = Arc::new(place.views());
    conformance::rebuild(views.clone(), views).await;
    place.drop_database().await;
    let (writer, reader) = (Arc::new(place.views()), Arc::new(place.views()));
    conformance::rebuild(reader, writer).await;
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_login_is_asked_for_and_never_told() {
    let login = Login { user: "some one".into(), pass: "s3cr:t/w%rd@".into() };
    let Some(place) = Place::own(Some(login.clone())) else { return };
    let views = place.views();
    resume(&views).await;
    views
        .apply(Generation::Live, Checkpoint::START, vec![change("k", Some("v"), 0, 1)].into(), at(1))
        .await
        .expect("applied");
    assert_eq!(value(&views, "k").await.as_deref(), Some("v"));
    for login in [Some(Login { pass: "s3cr:t/wrong".into(), ..login }), None] {
        let mut options = place.options(Serves::AnyLog);
        options.login = login;
        let views = MongoViews::connect(options).unwrap();
        let error = views.answer(&key("k")).await.expect_err("without the right password");
        let health = views.check().await.expect_err("without the right password");
        assert!(health.contains("MONGODB_USER"), "{health}: {error:?}");
        for text in [error.to_string(), error.chain(), format!("{error:?}"), health] {
            assert!(!text.contains("s3cr") && !text.contains("some one"), "{text}");
        }
    }
}

/// Batches that are cut otherwise, repeated and late: the rows stay a fold of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crash_between_rows_and_checkpoint_only_repeats() {
    let Some(place) = Place::find() else { return };
    let mut runner = TestRunner::deterministic();
    let log = Log::random(&mut runner, 400, 24);
    let views = place.views();
    project_all(&views, &log, 50).await;
    log.is_in(&place).await;
    for (back, batch) in [(0, 400), (0, 7), (log.end().0 / 2, 33), (log.end().0 - 1, 1)] {
        place.put_back(back, 0).await;
        project_all(&views, &log, batch).await;
        log.is_in(&place).await;
        assert_eq!(resume(&views).await.position(), log.end(), "from {back}, {batch} at once");
    }
    // A batch whose rows alone were written, and then others go on in smaller steps.
    let (first, rest) = (Log(log.0[..200].to_vec()), &log);
    let other = Place::find().expect("as before");
    let views = other.views();
    project_all(&views, &first, 200).await;
    other.put_back(0, 0).await;
    views.close().await;
    let next = other.views();
    assert_eq!(resume(&next).await, Checkpoint::START);
    let seen = next.answer(&first.0[199].key).await.unwrap();
    assert_eq!(seen.position, first.end(), "a row that the checkpoint does not cover counts, removed or not");
    project_all(&next, rest, 11).await;
    log.is_in(&other).await;
    place.drop_database().await;
    other.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_rests_on_tombstones_too() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let changes = [change("a", Some("1"), 0, 1), change("b", Some("1"), 0, 2), change("a", None, 1, 3)];
    views.apply(Generation::Live, Checkpoint::START, changes[..2].to_vec().into(), at(2)).await.expect("applied");
    views.apply(Generation::Live, at(2), changes[2..].to_vec().into(), at(3)).await.expect("applied");
    views.close().await;
    // As if the process had died before the checkpoint: the removal can be seen.
    let ahead = place.meta().await.get_i64("ahead").unwrap();
    assert_eq!(ahead, 3, "a removal is announced");
    let collection = place.database().await.collection::<Document>("views");
    let back = doc! { "$set": { "commit": 2_i64, "prepare": 2_i64 } };
    collection.update_one(doc! { "_id": "answers" }, back).await.unwrap();
    let reader = place.views();
    let seen = reader.answer(&key("a")).await.unwrap();
    assert_eq!((seen.found, seen.position), (None, Position(3)), "a removal that was read");
    let all = AnswersQuery { prefix: String::new(), after: None, limit: 10 };
    let page = reader.answers(all).await.unwrap();
    assert_eq!((page.found.answers.len(), page.position), (1, Position(3)), "a removal that a list leaves out");
    let early = tokio::time::timeout(Duration::from_millis(300), reader.reached(Position(3))).await;
    assert!(early.is_err(), "the position is not reached before the checkpoint is there");
    let next = place.views();
    assert_eq!(resume(&next).await, at(2));
    next.apply(Generation::Live, at(2), changes[2..].to_vec().into(), at(3)).await.expect("a repetition");
    tokio::time::timeout(Duration::from_secs(2), reader.reached(Position(3))).await.expect("soon").expect("reached");
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_process_writes_and_the_next_takes_over() {
    let Some(place) = Place::find() else { return };
    let (first, second) = (place.views(), place.views());
    assert_eq!(resume(&first).await, Checkpoint::START);
    let epoch = |meta: Document| meta.get_document("lease").unwrap().get("epoch").and_then(Bson::as_i64).unwrap();
    let begun = epoch(place.meta().await);
    resume(&first).await;
    assert_eq!(epoch(place.meta().await), begun, "the same holder goes on in the same epoch");
    let stand_by = tokio::spawn({
        let second = second.clone();
        async move { (resume(&second).await, Instant::now()) }
    });
    // Longer than the lease: it is renewed.
    let renewed = tokio::time::timeout(Duration::from_secs(12), first.interrupted()).await;
    assert!(renewed.is_err() && !stand_by.is_finished(), "the lease is kept");
    first
        .apply(Generation::Live, Checkpoint::START, vec![change("a", Some("1"), 0, 1)].into(), at(1))
        .await
        .expect("applied");
    let closed = Instant::now();
    first.close().await;
    let (resumed, taken) = stand_by.await.unwrap();
    assert_eq!(resumed, at(1));
    assert!(taken - closed < Duration::from_secs(3), "a released lease is taken at once");
    assert_eq!(epoch(place.meta().await), begun + 1, "each holder has an epoch of its own");
    let late = first.apply(Generation::Live, at(1), vec![change("a", Some("2"), 1, 2)].into(), at(2)).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    second.apply(Generation::Live, at(1), vec![change("a", Some("2"), 1, 2)].into(), at(2)).await.expect("applied");
    // A death: nobody releases anything.
    let died = Instant::now();
    drop(second);
    let third = place.views();
    assert_eq!(resume(&third).await, at(2));
    let took = died.elapsed();
    assert!(took < TAKE_OVER, "{took:?}");
    println!("taken over {took:?} after the holder's death");
    place.drop_database().await;
}

/// A holder whose whole process stands still, and wakes in the middle of its work.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_paused_holder_can_only_repeat() {
    let Some(place) = Place::find() else { return };
    let log = Log::random(&mut TestRunner::deterministic(), 60, 6);
    let options = place.options(Serves::AnyLog);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (told, tell) = tokio::sync::oneshot::channel();
    let half = log.0[29].position;
    let paused = std::thread::spawn({
        let log = Log(log.0.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let views = runtime.block_on(async {
                let views = MongoViews::connect(options).unwrap();
                resume(&views).await;
                views
                    .apply(
                        Generation::Live,
                        Checkpoint::START,
                        log.behind(Checkpoint::START, 30).into(),
                        Checkpoint::at(half),
                    )
                    .await
                    .unwrap();
                views
            });
            told.send(()).unwrap();
            // Nothing of it runs until now, neither its renewals nor its connections.
            wait.recv().unwrap();
            runtime.block_on(async {
                let late = views
                    .apply(
                        Generation::Live,
                        Checkpoint::at(half),
                        log.behind(Checkpoint::at(half), 10).into(),
                        at(half.0 + 1),
                    )
                    .await;
                assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
                tokio::time::timeout(Duration::from_secs(5), views.interrupted()).await.expect("it learns of it");
            });
        }
    });
    tell.await.unwrap();
    let begun = Instant::now();
    let next = place.views();
    project_all(&next, &log, 5).await;
    assert!(begun.elapsed() < TAKE_OVER, "{:?}", begun.elapsed());
    log.is_in(&place).await;
    go.send(()).unwrap();
    tokio::task::spawn_blocking(move || paused.join().unwrap()).await.unwrap();
    log.is_in(&place).await;
    assert_eq!(next.checkpoint().await.unwrap().position(), log.end());
    place.drop_database().await;
}

/// Projectors that give the turn to each other in the middle of the log, by a release
/// or because their checkpoint is not where they left it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn projectors_that_alternate_leave_a_fold_of_the_log() {
    let Some(place) = Place::find() else { return };
    let log = Arc::new(Log::random(&mut TestRunner::deterministic(), 600, 20));
    let projectors: Vec<_> = (0..3_usize)
        .map(|number| {
            let (views, log) = (place.views(), log.clone());
            tokio::spawn(async move {
                let mut turns = 0;
                loop {
                    let mut from = resume(&views).await;
                    turns += 1;
                    for _ in 0..3 + number {
                        let changes = log.behind(from, 10 + 7 * number);
                        let Some(last) = changes.last() else { return turns };
                        let to = Checkpoint::at(last.position);
                        if views.apply(Generation::Live, from, changes.into(), to).await.is_err() {
                            break;
                        }
                        from = to;
                    }
                    views.close().await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    // The first that is through keeps the turn until it is gone.
    let (first, _, rest) = futures::future::select_all(projectors).await;
    let mut turns = first.unwrap();
    log.is_in(&place).await;
    for projector in rest {
        turns += projector.await.unwrap();
    }
    assert!(turns > 5, "{turns} turns");
    log.is_in(&place).await;
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_of_another_log_are_left_alone() {
    let Some(place) = Place::find() else { return };
    let own = place.views();
    resume(&own).await;
    own.apply(Generation::Live, Checkpoint::START, vec![change("a", Some("1"), 0, 7)].into(), at(7))
        .await
        .expect("applied");
    let before = place.meta().await.get_str("views").unwrap().to_owned();
    // It does not even wait for its turn.
    let other = place.views();
    let foreign = tokio::time::timeout(Duration::from_secs(5), other.resume(OTHER_LOG, Position::MAX)).await;
    let Err(StoreError::Foreign { why }) = foreign.expect("at once") else { panic!("views of another log") };
    assert!(why.contains(&LOG.0.to_string()) && why.contains("MONGODB_DB"), "{why}");
    assert_eq!(other.check().await.expect_err("not well"), why);
    assert!(own.check().await.is_ok());
    // Beyond the log's end; exact, since nobody else can have moved it.
    let ahead = own.resume(LOG, Position(6)).await;
    assert!(matches!(&ahead, Err(StoreError::Foreign { why }) if why.contains("ahead")), "{ahead:?}");
    assert_eq!(own.resume(LOG, Position(7)).await.expect("at its end"), at(7));
    own.close().await;
    // Whoever has just taken its turn asks once more where the log ends.
    let next = place.views();
    assert!(matches!(next.resume(LOG, Position(6)).await, Err(StoreError::Conflict)));
    assert!(matches!(next.resume(LOG, Position(6)).await, Err(StoreError::Foreign { .. })));
    let meta = place.meta().await;
    assert_eq!((meta.get_str("views").unwrap(), meta.get_i64("commit").unwrap()), (before.as_str(), 7));
    assert_eq!(value(&other, "a").await.as_deref(), Some("1"), "whoever serves any log serves it");
    place.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_monolith_shows_views_of_its_own_log_alone() {
    let Some(place) = Place::find() else { return };
    let own = |place: &Place| MongoViews::connect(place.options(Serves::OwnLog)).unwrap();
    let first = own(&place);
    assert!(matches!(first.answer(&key("a")).await, Err(StoreError::Unavailable { .. })), "not compared yet");
    assert!(matches!(first.reached(Position(0)).await, Err(StoreError::Unavailable { .. })), "not compared yet");
    assert!(first.check().await.is_err());
    resume(&first).await;
    first
        .apply(Generation::Live, Checkpoint::START, vec![change("a", Some("1"), 0, 1)].into(), at(1))
        .await
        .expect("applied");
    assert_eq!(value(&first, "a").await.as_deref(), Some("1"));
    // One that stands by reads, too.
    let second = own(&place);
    let stand_by = tokio::spawn({
        let second = second.clone();
        async move { resume(&second).await }
    });
    let begun = Instant::now();
    while second.answer(&key("a")).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "whoever stands by does not read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    second.check().await.expect("it is well");
    assert!(!stand_by.is_finished());
    stand_by.abort();
    // One of another log does not.
    let other = own(&place);
    assert!(other.resume(OTHER_LOG, Position::MAX).await.is_err());
    let all = AnswersQuery { prefix: String::new(), after: None, limit: 10 };
    assert!(matches!(other.answer(&key("a")).await, Err(StoreError::Foreign { .. })));
    assert!(matches!(other.answers(all).await, Err(StoreError::Foreign { .. })));
    assert!(matches!(other.reached(Position(0)).await, Err(StoreError::Foreign { .. })));
    // Until the database is dropped, as the message said.
    drop(first);
    place.drop_database().await;
    other.resume(OTHER_LOG, Position::MAX).await.expect("empty views are anybody's");
    assert_eq!(value(&other, "a").await, None);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(matches!(second.answer(&key("a")).await, Err(StoreError::Foreign { .. })), "another's views by now");
    place.drop_database().await;
}

/// Whoever drops the database drops it under those who use it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_that_are_gone_are_filled_again() {
    let Some(place) = Place::find() else { return };
    let log = Log::random(&mut TestRunner::deterministic(), 50, 5);
    let (views, reader) = (place.views(), place.views());
    project_all(&views, &log, 20).await;
    reader.reached(log.end()).await.expect("reached");
    place.drop_database().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(reader.answer(&log.0[0].key).await.unwrap().found.is_none(), "an empty database shows nothing");
    let end = log.end();
    let early = tokio::time::timeout(Duration::from_millis(300), reader.reached(end)).await;
    assert!(early.is_err(), "what was reached before does not count");
    let to = at(end.0 + 1);
    let late = views
        .apply(Generation::Live, Checkpoint::at(end), vec![change("late", Some("1"), 0, end.0 + 1)].into(), to)
        .await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    project_all(&views, &log, 20).await;
    log.is_in(&place).await;
    tokio::time::timeout(Duration::from_secs(5), reader.reached(end)).await.expect("soon").expect("reached");
    assert_eq!(value(&views, "late").await, None, "what was written to views that are gone is gone");
    place.drop_database().await;
}

fn stages(plan: &Document, found: &mut Vec<String>) {
    for (name, part) in plan {
        match part {
            Bson::String(stage) if name == "stage" => found.push(stage.clone()),
            Bson::Document(part) => stages(part, found),
            Bson::Array(parts) => parts.iter().filter_map(Bson::as_document).for_each(|part| stages(part, found)),
            _ => {}
        }
    }
}

/// How the server goes about a command, and how many documents it looks at.
async fn explain(place: &Place, command: Document) -> (Vec<String>, i64) {
    let explain = doc! { "explain": command, "verbosity": "executionStats" };
    let plan = place.database().await.run_command(explain).await.unwrap();
    let mut found = Vec::new();
    stages(plan.get_document("queryPlanner").unwrap().get_document("winningPlan").unwrap(), &mut found);
    let looked_at = plan.get_document("executionStats").unwrap().get("totalDocsExamined").unwrap();
    let looked_at = looked_at.as_i64().or(looked_at.as_i32().map(Into::into)).expect("a number");
    (found, looked_at)
}

/// The very conditions that the adapter sends, on many tombstones and few answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_scanned() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let name = |number: u64| format!("key-{number:05}");
    let put: Vec<_> = (0..1_000).map(|number| change(&name(number), Some("v"), 0, number + 1)).collect();
    views.apply(Generation::Live, Checkpoint::START, put.into(), at(1_000)).await.expect("applied");
    let removed = (0..1_000).filter(|number| number % 100 != 50);
    let removed = removed.map(|number| change(&name(number), None, 1, number + 1_001)).collect::<Vec<_>>();
    views.apply(Generation::Live, at(1_000), removed.into(), at(2_000)).await.expect("applied");
    let rows = place.rows().await.name().to_owned();
    let one = doc! { "find": &rows, "filter": { "_id": name(50) } };
    let range = doc! { "key": { "$gte": "key-", "$lt": "key." } };
    let list = doc! { "find": &rows, "filter": range, "sort": { "key": 1 }, "limit": 101, "batchSize": 101 };
    let all = doc! { "find": &rows, "filter": { "key": { "$gt": "" } }, "sort": { "key": 1 }, "limit": 3 };
    for (what, command, most) in [("one", one, 1), ("a list", list, 10), ("all", all, 3)] {
        let (stages, looked_at) = explain(&place, command).await;
        let scans = stages.iter().any(|stage| stage == "COLLSCAN" || stage == "SORT");
        assert!(
            !scans && stages.iter().any(|stage| stage.contains("IXSCAN") || stage == "IDHACK"),
            "{what}: {stages:?}"
        );
        // A server may look at all rows of the range before it counts to the limit.
        assert!(looked_at <= most.max(10), "{what} looks at {looked_at} rows");
    }
    let update = |query: Document| {
        doc! { "update": &rows, "updates": [{ "q": query, "u": { "$set": { "position": 9_999_i64 } } }] }
    };
    // SecantusDB tells a scan of every update, even of one by `_id` alone.
    if !explain(&place, update(doc! { "_id": name(50) })).await.0.contains(&"COLLSCAN".to_owned()) {
        let guarded = doc! { "_id": name(50), "position": { "$lt": 9_999_i64 } };
        let (stages, looked_at) = explain(&place, update(guarded)).await;
        assert!(!stages.contains(&"COLLSCAN".to_owned()) && looked_at <= 1, "a guarded update: {stages:?}");
    }
    // And what the explained list shows is what the adapter lists.
    let query = AnswersQuery { prefix: "key-".into(), after: None, limit: 100 };
    assert_eq!(views.answers(query).await.unwrap().found.answers.len(), 10);
    assert_eq!(shown(&place).await.len(), 10);
    place.drop_database().await;
}

/// Values at their largest, more than a message or a command takes in one piece.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_batches_are_split() {
    let Some(place) = Place::find() else { return };
    let views = place.views();
    resume(&views).await;
    let large = "x".repeat(512 * 1024);
    for (revision, from) in [(0, 0), (1, 60)] {
        let put = (0..60).map(|number| change(&format!("{number:02}"), Some(&large), revision, from + number + 1));
        views.apply(Generation::Live, at(from), put.collect::<Vec<_>>().into(), at(from + 60)).await.expect("applied");
    }
    let count = place.rows().await.count_documents(doc! { "revision": 1_i64 }).await.unwrap();
    assert_eq!(count, 60);
    place.drop_database().await;
}

async fn queries(place: &Place) -> Option<i64> {
    let status = place.database().await.run_command(doc! { "serverStatus": 1 }).await.ok()?;
    let count = status.get_document("opcounters").ok()?.get("query")?;
    count.as_i64().or(count.as_i32().map(Into::into))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_poller_asks_while_somebody_waits() {
    let Some(place) = Place::own(None) else { return };
    let (writer, reader) = (place.views(), place.views());
    resume(&writer).await;
    writer
        .apply(Generation::Live, Checkpoint::START, vec![change("a", Some("1"), 0, 1)].into(), at(1))
        .await
        .expect("applied");
    reader.reached(Position(1)).await.expect("reached");
    let Some(before) = queries(&place).await else { return };
    for _ in 0..1_000 {
        reader.reached(Position(1)).await.expect("reached");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = queries(&place).await.unwrap() - before;
    assert!(idle <= 3, "{idle} queries while nobody waits");
    // All wait for what does not come; then all are gone.
    let waiters: Vec<_> = (0..500)
        .map(|_| {
            let reader = reader.clone();
            tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(2), reader.reached(Position(2))).await })
        })
        .collect();
    for waiter in waiters {
        assert!(waiter.await.unwrap().is_err(), "nothing was reached");
    }
    let waiting = queries(&place).await.unwrap() - before - idle;
    assert!((5..=80).contains(&waiting), "{waiting} queries for 500 who wait for 2 s");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = queries(&place).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = queries(&place).await.unwrap() - before;
    assert!(idle <= 3, "{idle} queries when they are gone");
    // And whoever waits learns of it soon.
    let waiter = tokio::spawn(async move {
        reader.reached(Position(2)).await.expect("reached");
        Instant::now()
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    writer.apply(Generation::Live, at(1), Changes::default(), at(2)).await.expect("applied");
    let late = Instant::now();
    let late = waiter.await.unwrap().saturating_duration_since(late);
    assert!(late < Duration::from_millis(500), "{late:?}");
}

/// The database comes up minutes after the services, and goes away under load, again
/// and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_database_loses_nothing() {
    let Some(mut place) = Place::own(None) else { return };
    place.kill();
    let (views, reader) = (place.views(), place.views());
    let begun = Instant::now();
    let away = views.answer(&key("a")).await;
    assert!(matches!(away, Err(StoreError::Unavailable { .. })), "{away:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "it fails soon");
    assert!(views.check().await.is_err());
    let log = Arc::new(Log::random(&mut TestRunner::deterministic(), 8_000, 200));
    let over = Arc::new(AtomicBool::new(false));
    let projecting = tokio::spawn({
        let (views, log, over) = (views.clone(), log.clone(), over.clone());
        async move { project(&views, &log, 40, &over).await }
    });
    let newest = Arc::new(AtomicU64::new(0));
    let reading = tokio::spawn({
        let (reader, newest, over) = (reader.clone(), newest.clone(), over.clone());
        async move {
            let mut seen = BTreeMap::new();
            while !over.load(Ordering::SeqCst) {
                for name in (0..200).step_by(7).map(|number| format!("key-{number}")) {
                    let Ok(found) = reader.answer(&key(&name)).await else { continue };
                    let revision = found.found.map(|answer| answer.revision);
                    let before = seen.insert(name, revision).flatten();
                    assert!(revision.is_none() || revision >= before, "{revision:?} after {before:?}");
                    newest.fetch_max(found.position.0, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    });
    for round in 0..4 {
        place.start();
        let returned = Instant::now();
        let before = newest.load(Ordering::SeqCst);
        while newest.load(Ordering::SeqCst) <= before {
            assert!(returned.elapsed() < Duration::from_secs(15), "no recovery in round {round}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("round {round}: projecting and reading {:?} after the start", returned.elapsed());
        if round < 3 {
            tokio::time::sleep(Duration::from_millis(400 + 170 * round)).await;
            place.kill();
            tokio::time::sleep(Duration::from_millis(300 * round)).await;
        }
    }
    // However slow the machine is, it moves.
    let mut moved = (0, Instant::now());
    while !projecting.is_finished() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = newest.load(Ordering::SeqCst);
        moved = if now > moved.0 { (now, Instant::now()) } else { moved };
        assert!(moved.1.elapsed() < Duration::from_secs(20), "it stands at {now}");
    }
    projecting.await.unwrap();
    over.store(true, Ordering::SeqCst);
    reading.await.unwrap();
    log.is_in(&place).await;
    assert_eq!(views.checkpoint().await.unwrap().position(), log.end());
}

/// A server that keeps its connections and does not answer, as behind a cut cable.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_hangs_is_not_waited_for() {
    let Some(place) = Place::own(None) else { return };
    let views = place.views();
    resume(&views).await;
    views
        .apply(Generation::Live, Checkpoint::START, vec![change("a", Some("1"), 0, 1)].into(), at(1))
        .await
        .expect("applied");
    place.pause();
    let begun = Instant::now();
    let name = key("a");
    let all = AnswersQuery { prefix: String::new(), after: None, limit: 10 };
    let (one, all) = tokio::join!(views.answer(&name), views.answers(all));
    assert!(matches!(one, Err(StoreError::Unavailable { .. })), "{one:?}");
    assert!(matches!(all, Err(StoreError::Unavailable { .. })), "{all:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let applied = views.apply(Generation::Live, at(1), vec![change("a", Some("2"), 1, 2)].into(), at(2)).await;
    assert!(matches!(applied, Err(StoreError::Unavailable { .. })), "{applied:?}");
    place.go_on();
    let returned = Instant::now();
    let log = Log(vec![change("a", Some("1"), 0, 1), change("a", Some("2"), 1, 2)]);
    project_all(&views, &log, 1).await;
    assert_eq!(value(&views, "a").await.as_deref(), Some("2"));
    assert!(returned.elapsed() < Duration::from_secs(15), "{:?}", returned.elapsed());
    log.is_in(&place).await;
}
