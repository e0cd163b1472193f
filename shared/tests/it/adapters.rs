//! Every adapter keeps the promises of its ports: a fresh one, and the embedded
//! store also after it was closed and opened again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shared::adapters::embedded::Embedded;
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::conformance;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::filter::Filter;
use shared::domain::log_event::{Members, Session, recording};
use shared::domain::projection::{Change, LogChange, project};
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, Revision, StreamId};
use shared::ports::{
    Checkpoint, EventFeed, EventRef, EventStore, Generation, LogReader, StoreError, ViewReader, ViewWriter,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::support::{TTL, close, open, resume, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_event_store() {
    conformance::events(Arc::new(MemoryEvents::new(TTL))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_event_feed() {
    let events = Arc::new(MemoryEvents::new(TTL));
    conformance::feed(events.clone(), events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_outcomes() {
    let events = Arc::new(MemoryEvents::new(TTL));
    conformance::outcomes(events.clone(), events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_views() {
    let views = Arc::new(MemoryViews::new());
    conformance::views(views.clone(), views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_the_event_log() {
    let views = Arc::new(MemoryViews::new());
    conformance::log(views.clone(), views.clone(), views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_parked_streams() {
    let views = Arc::new(MemoryViews::new());
    conformance::parked(views.clone(), views).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_promises_of_a_rebuild() {
    let views = Arc::new(MemoryViews::new());
    conformance::rebuild(views.clone(), views).await;
}

/// The embedded store in a folder of its own.
pub(crate) struct Store {
    pub(crate) folder: TempDir,
    pub(crate) open: Embedded,
}

impl Store {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { open: open(folder.path()), folder }
    }

    pub(crate) fn reopened(self) -> Self {
        let Self { folder, open: store } = self;
        close(store);
        Self { open: open(folder.path()), folder }
    }

    fn events(&self) -> Arc<shared::adapters::embedded::FjallEvents> {
        Arc::new(self.open.events.clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_event_store() {
    let mut store = Store::new();
    for _ in 0..2 {
        conformance::events(store.events()).await;
        store = store.reopened();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_event_feed() {
    let mut store = Store::new();
    for _ in 0..2 {
        conformance::feed(store.events(), store.events()).await;
        let before = store.events().log_id().await.unwrap();
        store = store.reopened();
        assert_eq!(store.events().log_id().await.unwrap(), before, "a log keeps its id");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_outcomes() {
    let mut store = Store::new();
    for _ in 0..2 {
        conformance::outcomes(store.events(), store.events()).await;
        store = store.reopened();
    }
}

/// Views that are ahead of their log are thrown away, so it is filled up to them
/// before they are opened again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_views() {
    let mut store = Store::new();
    for round in 0..2 {
        let views = Arc::new(store.open.views.clone());
        conformance::views(views.clone(), views.clone()).await;
        drop(views);
        store = again(store, round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_parked_streams() {
    let mut store = Store::new();
    for round in 0..2 {
        let views = Arc::new(store.open.views.clone());
        conformance::parked(views.clone(), views.clone()).await;
        drop(views);
        store = again(store, round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_a_rebuild() {
    let mut store = Store::new();
    for round in 0..2 {
        let views = Arc::new(store.open.views.clone());
        conformance::rebuild(views.clone(), views.clone()).await;
        drop(views);
        store = again(store, round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_keeps_the_promises_of_the_event_log() {
    let mut store = Store::new();
    for round in 0..2 {
        let views = Arc::new(store.open.views.clone());
        conformance::log(views.clone(), views.clone(), views.clone()).await;
        drop(views);
        store = again(store, round).await;
    }
}

/// The same store, opened again, with all that was in its views.
async fn again(store: Store, round: u32) -> Store {
    let at = resume(&store.open.views).await;
    fill(&store, at).await;
    let store = store.reopened();
    assert_eq!(store.open.rebuilding, None, "sound views are kept, round {round}");
    assert_eq!(resume(&store.open.views).await, at, "and their checkpoint, round {round}");
    store
}

/// Appends events until the log has reached a checkpoint.
pub(crate) async fn fill(store: &Store, at: Checkpoint) {
    let events = store.events();
    while events.position() < at.position() {
        let missing = at.position().0 - events.position().0;
        let stream = StreamId::from_stored(&format!("filling-{}", Uuid::new_v4()));
        let some = (0..missing.min(2_000)).map(|_| created(&Key::from_stored("k"), "v")).collect();
        events.append(&stream, ExpectedRevision::NoStream, some).await.unwrap();
    }
}

pub(crate) fn created(key: &Key, value: &str) -> NewEvent {
    AnswerEvent::Created { key: key.clone(), value: value.into() }.to_new(Uuid::new_v4(), shared::clock::now())
}

/// A run of commands on one key is one append of up to this many events, and up
/// to about a megabyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_knows_a_large_append_again() {
    let store = Store::new();
    let events = store.events();
    for (count, bytes) in [(128, 7_000), (10, 512 * 1024), (2_000, 10)] {
        let key = Key::from_stored(&format!("{count}"));
        let stream = StreamId::of_answer(&key);
        let some: Vec<_> = (0..count).map(|_| created(&key, &"x".repeat(bytes))).collect();
        let appended = events.append(&stream, ExpectedRevision::NoStream, some.clone()).await.unwrap();
        let again = events.append(&stream, ExpectedRevision::NoStream, some).await;
        assert_eq!(again.expect("the same success"), appended, "{count} events of {bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_folder_is_for_one_at_a_time() {
    let store = Store::new();
    assert!(try_open(store.folder.path()).is_err_and(|error| error.to_string().contains("in use")));
    store.reopened();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_log_that_is_closed_says_so() {
    let store = Store::new();
    let (key, events) = (Key::from_stored("k"), store.events());
    let stream = StreamId::of_answer(&key);
    events.append(&stream, ExpectedRevision::NoStream, vec![created(&key, "v")]).await.unwrap();
    events.close();
    let appended = events.append(&stream, ExpectedRevision::NoStream, vec![created(&key, "v")]).await;
    assert!(matches!(appended, Err(StoreError::Unavailable { .. })), "{appended:?}");
    assert!(matches!(events.last(&stream).await, Err(StoreError::Unavailable { .. })));
}

/// Whatever is wrong with either file of the views, they are filled again from the log,
/// and until then they do not show less than there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_views_that_are_damaged_or_gone_are_filled_again() {
    type Spoil = fn(&std::path::Path);
    let spoil: [(&str, Spoil); 4] = [
        ("removed", |views| std::fs::remove_file(views).unwrap()),
        ("emptied", |views| std::fs::write(views, "").unwrap()),
        ("other", |views| std::fs::write(views, "no database".repeat(1_000)).unwrap()),
        ("damaged", |views| damage(views, "precise")),
    ];
    for (what, spoil) in spoil {
        for file in ["views.db", "log-views.db"] {
            let (store, key, id) = with_one_of_each("precise").await;
            let Store { folder, open: closing } = store;
            close(closing);
            spoil(&folder.path().join(file));
            let store = Store { open: open(folder.path()), folder };
            assert!(store.open.rebuilding.is_some(), "{what} {file} is not used");
            let early = store.open.views.answer(&key).await;
            assert!(matches!(early, Err(StoreError::Unavailable { .. })), "{what} {file}: {early:?}");
            let early = store.open.views.event(EventRef::Id(id)).await;
            assert!(matches!(early, Err(StoreError::Unavailable { .. })), "{what} {file}: {early:?}");
            project_all(&store).await;
            shows(&store, &key, id, "precise").await;
            // Once filled they are as good as any.
            let store = store.reopened();
            assert_eq!(store.open.rebuilding, None, "{what} {file}");
            shows(&store, &key, id, "precise").await;
        }
    }
}

/// The views of another log, or of more than the log holds, are not used.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_views_of_another_log_or_ahead_are_filled_again() {
    for file in ["views.db", "log-views.db"] {
        let (ours, key, id) = with_one_of_each("ours").await;
        let (other, ..) = with_one_of_each("another's").await;
        let (Store { folder, open: closing }, Store { folder: other, open: also_closing }) = (ours, other);
        close(closing);
        close(also_closing);
        std::fs::copy(other.path().join(file), folder.path().join(file)).unwrap();
        let store = Store { open: open(folder.path()), folder };
        let why = store.open.rebuilding.clone().expect("it is another log's");
        assert!(why.contains("belong to log"), "{file}: {why}");
        project_all(&store).await;
        shows(&store, &key, id, "ours").await;
        // What is applied without having been appended is more than there is in the log.
        let at = resume(&store.open.views).await;
        let to = Checkpoint::at(Position(at.position().0 + 1));
        let session = Session { id: Uuid::new_v4(), created_at: shared::clock::now(), position: to.position() };
        let change = Change::Log(LogChange::Session(Arc::new(session)));
        let Store { folder, open: closing } = store;
        close(closing);
        let before = std::fs::read(folder.path().join("views.db")).unwrap();
        let store = Store { open: open(folder.path()), folder };
        store.open.views.apply(Generation::Live, at, std::iter::once(change).collect(), to).await.unwrap();
        let Store { folder, open: closing } = store;
        close(closing);
        if file == "log-views.db" {
            std::fs::write(folder.path().join("views.db"), before).unwrap();
        }
        let store = Store { open: open(folder.path()), folder };
        let why = store.open.rebuilding.clone().expect("it is ahead");
        assert!(why.contains("ahead of the log"), "{file}: {why}");
        project_all(&store).await;
        shows(&store, &key, id, "ours").await;
    }
}

/// Damage that a read meets empties the views, and they are filled again while the
/// process goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_log_events_that_are_damaged_while_in_use_are_filled_again() {
    let (store, key, id) = with_one_of_each("precise").await;
    // Everything into the file itself, where readers that are new meet it.
    let Store { folder, open: closing } = store;
    close(closing);
    let store = Store { open: open(folder.path()), folder };
    assert_eq!(store.open.rebuilding, None);
    damage(&store.folder.path().join("log-views.db"), "precise");
    let found = store.open.views.event(EventRef::Id(id)).await;
    assert!(matches!(found, Err(StoreError::Unavailable { .. })), "{found:?}");
    let answer = store.open.views.answer(&key).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    tokio::time::timeout(std::time::Duration::from_secs(5), store.open.views.interrupted()).await.unwrap();
    project_all(&store).await;
    shows(&store, &key, id, "precise").await;
}

/// A log with an answer and a log event, both in the views.
pub(crate) async fn with_one_of_each(text: &str) -> (Store, Key, Uuid) {
    let store = Store::new();
    let (key, id) = (Key::from_stored("key"), Uuid::new_v4());
    let new = vec![created(&key, text)];
    store.open.events.append(&StreamId::of_answer(&key), ExpectedRevision::NoStream, new).await.unwrap();
    let now = shared::clock::now();
    let members = Members { timestamp: now, message: Some(text.into()), ..Members::default() };
    let (stream, event) = recording(id, &members.check().unwrap(), now);
    store.open.events.append(&stream, ExpectedRevision::NoStream, vec![event]).await.unwrap();
    project_all(&store).await;
    (store, key, id)
}

pub(crate) async fn shows(store: &Store, key: &Key, id: Uuid, text: &str) {
    let seen = store.open.views.answer(key).await.unwrap();
    assert_eq!(seen.found.map(|answer| answer.value).as_deref(), Some(text));
    let seen = store.open.views.event(EventRef::Id(id)).await.unwrap().found.expect("the event");
    assert_eq!(seen.event.members.message.as_deref(), Some(text));
    let count = store.open.views.count(&Filter::Any).await.unwrap();
    assert_eq!(count.found, 1, "once and no more");
}

pub(crate) fn damage(file: &Path, text: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
    assert!(!found.is_empty(), "{text} is in the file");
    found.into_iter().for_each(|at| bytes[at] ^= 1);
    // In place: whoever has it open sees it.
    let mut file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
}

async fn project_all(store: &Store) {
    let (events, views) = (&store.open.events, &store.open.views);
    let mut at = resume(views).await;
    let mut subscription = events.subscribe(at).await.unwrap();
    while !at.has_reached(events.head().await.unwrap()) {
        let batch = subscription.next(100).await.unwrap();
        let changes = batch.events.iter().map(|event| project(event).unwrap()).collect();
        views.apply(Generation::Live, at, changes, batch.checkpoint).await.unwrap();
        at = batch.checkpoint;
    }
}

/// Large events, until the engine has gone on to journals of its own making, in which
/// zeros are written ahead of it. What the files hold then, as a kill would leave
/// them, and what they hold after a close: every event.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_events_are_all_there_behind_zeros_written_ahead() {
    const STREAMS: usize = 5;
    let value = "v".repeat(400 * 1024);
    let keys: Vec<_> = (0..STREAMS).map(|number| Key::from_stored(&format!("large-{number}"))).collect();
    let mut store = Store::new();
    let mut length = 0;
    while newest_journal(store.folder.path()) < 1 {
        let append = |key: &Key| {
            let (events, stream) = (store.events(), StreamId::of_answer(key));
            let expected = ExpectedRevision::from((length as u64).checked_sub(1).map(Revision));
            let both = vec![created(key, &value), created(key, "small")];
            async move { EventStore::append(&*events, &stream, expected, both).await }
        };
        let appended = futures::future::join_all(keys.iter().map(append)).await;
        assert!(appended.iter().all(Result::is_ok), "{appended:?}");
        length += 2;
        assert!(length < 2_000, "the engine goes on to another journal");
    }
    // A few behind the zeros of the newest one.
    let stream = StreamId::of_answer(&keys[0]);
    for number in 0..20 {
        let expected = ExpectedRevision::Exact(Revision(length as u64 - 1 + number));
        EventStore::append(&*store.events(), &stream, expected, vec![created(&keys[0], "last")]).await.unwrap();
    }
    let killed = copy_running(store.folder.path());
    let killed = Store { open: open(killed.path()), folder: killed };
    store = store.reopened();
    for store in [killed, store] {
        for (number, key) in keys.iter().enumerate() {
            let last = store.open.events.last(&StreamId::of_answer(key)).await.unwrap().unwrap();
            let more = if number == 0 { 20 } else { 0 };
            assert_eq!(last.revision, Revision(length as u64 - 1 + more), "{key}");
        }
        let mut subscription = store.open.events.subscribe(Checkpoint::START).await.unwrap();
        let mut seen = 0;
        while seen < length * STREAMS + 20 {
            seen += subscription.next(1_000).await.unwrap().events.len();
        }
        drop(subscription);
        let expected = ExpectedRevision::Exact(Revision(length as u64 + 19));
        EventStore::append(&*store.events(), &stream, expected, vec![created(&keys[0], "more")]).await.unwrap();
        let store = store.reopened();
        let last = store.open.events.last(&stream).await.unwrap().unwrap();
        assert_eq!(last.revision, Revision(length as u64 + 20));
    }
}

fn newest_journal(folder: &Path) -> u64 {
    let names = std::fs::read_dir(folder.join("events")).unwrap().map(|entry| entry.unwrap().path());
    let journals = names.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    journals.filter_map(|path| path.file_stem()?.to_str()?.parse().ok()).max().unwrap()
}

/// What a kill right now would leave of a store that is open: copied again while the engine
/// writes tables meanwhile, for a kill leaves one moment.
pub(crate) fn copy_running(from: &Path) -> TempDir {
    loop {
        let (copied, before) = (tempfile::tempdir().unwrap(), files(from));
        copy(from, copied.path());
        if files(from) == before {
            return copied;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All files below a folder, with their lengths.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // It may go away meanwhile.
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => files.extend(self::files(&path)),
            Ok(found) => drop(files.insert(path, found.len())),
            Err(_) => {}
        }
    }
    files
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else if let Err(error) = std::fs::copy(entry.path(), to) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}
