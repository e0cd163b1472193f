//! Every adapter keeps the promises of its ports: a fresh one, and the embedded
//! store also after it was closed and opened again.

use std::sync::Arc;

use shared::adapters::embedded::Embedded;
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::conformance;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::projection::project;
use shared::domain::stream::{ExpectedRevision, NewEvent, StreamId};
use shared::ports::{Checkpoint, EventFeed, EventStore, StoreError, ViewReader, ViewWriter};
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

/// The embedded store in a folder of its own.
struct Store {
    folder: TempDir,
    open: Embedded,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { open: open(folder.path()), folder }
    }

    fn reopened(self) -> Self {
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
        let at = resume(&*views).await;
        drop(views);
        fill(&store, at).await;
        store = store.reopened();
        assert_eq!(store.open.rebuilding, None, "sound views are kept, round {round}");
        assert_eq!(resume(&store.open.views).await, at, "and their checkpoint, round {round}");
    }
}

/// Appends events until the log has reached a checkpoint.
async fn fill(store: &Store, at: Checkpoint) {
    let events = store.events();
    while events.position() < at.position() {
        let missing = at.position().0 - events.position().0;
        let stream = StreamId::from_stored(&format!("filling-{}", Uuid::new_v4()));
        let some = (0..missing.min(2_000)).map(|_| created(&Key::from_stored("k"), "v")).collect();
        events.append(&stream, ExpectedRevision::NoStream, some).await.unwrap();
    }
}

fn created(key: &Key, value: &str) -> NewEvent {
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

/// Whatever is wrong with the views, they are filled again from the log, and
/// until then they do not show less than there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_views_that_are_damaged_or_gone_are_filled_again() {
    type Spoil = fn(&std::path::Path);
    let spoil: [(&str, Spoil); 4] = [
        ("removed", |views| std::fs::remove_file(views).unwrap()),
        ("emptied", |views| std::fs::write(views, "").unwrap()),
        ("other", |views| std::fs::write(views, "no database".repeat(1_000)).unwrap()),
        ("damaged", |views| {
            let mut bytes = std::fs::read(views).unwrap();
            let at = bytes.windows(7).position(|seven| seven == b"precise").expect("the value is in the file");
            bytes[at] ^= 1;
            std::fs::write(views, bytes).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        let store = Store::new();
        let key = Key::from_stored("key");
        let new = vec![created(&key, "precise")];
        store.open.events.append(&StreamId::of_answer(&key), ExpectedRevision::NoStream, new).await.unwrap();
        project_all(&store).await;
        let Store { folder, open: closing } = store;
        close(closing);
        spoil(&folder.path().join("views.db"));
        let store = Store { open: open(folder.path()), folder };
        assert!(store.open.rebuilding.is_some(), "{what} views are not used");
        let early = store.open.views.answer(&key).await;
        assert!(matches!(early, Err(StoreError::Unavailable { .. })), "{what}: {early:?}");
        project_all(&store).await;
        let seen = store.open.views.answer(&key).await.unwrap();
        assert_eq!(seen.found.map(|answer| answer.value).as_deref(), Some("precise"), "{what}");
        // Once filled they are as good as any.
        assert_eq!(store.reopened().open.rebuilding, None, "{what}");
    }
}

async fn project_all(store: &Store) {
    let (events, views) = (&store.open.events, &store.open.views);
    let mut at = resume(views).await;
    let mut subscription = events.subscribe(at).await.unwrap();
    while !at.has_reached(events.head().await.unwrap()) {
        let batch = subscription.next(100).await.unwrap();
        let changes = batch.events.iter().map(|event| project(event).unwrap()).collect();
        views.apply(at, changes, batch.checkpoint).await.unwrap();
        at = batch.checkpoint;
    }
}
