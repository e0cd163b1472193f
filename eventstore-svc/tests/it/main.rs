//! How commands are carried out: runs of a hot key, conflicts, clients that go away,
//! and the bound on what waits. On a log in memory that can be told to conflict.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod log;
mod parked;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eventstore_svc::commands::{Claimed, Commands, RUN_COMMANDS};
use parking_lot::Mutex;
use shared::adapters::memory::MemoryEvents;
use shared::domain::answer::{AnswerCommand, AnswerEvent, Ask, Condition, Key, Value};
use shared::domain::outcome::{Fingerprint, IdempotencyKey, Outcome, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::metrics::Metrics;
use shared::ports::{Appended, Direction, EventStore, StoreError};
use uuid::Uuid;

/// A log in memory that counts appends, and on demand lets another writer in.
struct Counting {
    events: MemoryEvents,
    appends: AtomicU64,
    conflicts: AtomicU64,
    intrude: Mutex<Option<NewEvent>>,
}

#[async_trait::async_trait]
impl EventStore for Counting {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        // Others get to queue behind the run that is under way.
        tokio::task::yield_now().await;
        let intruder = self.intrude.lock().take();
        if let Some(event) = intruder {
            EventStore::append(&self.events, stream, expected, vec![event]).await?;
        }
        self.appends.fetch_add(1, Ordering::Relaxed);
        let appended = EventStore::append(&self.events, stream, expected, events).await;
        self.conflicts.fetch_add(u64::from(appended.is_err()), Ordering::Relaxed);
        appended
    }

    async fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.events.read(stream, from, direction, limit).await
    }

    async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        self.events.at(position).await
    }

    async fn last(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, StoreError> {
        self.events.last(stream).await
    }
}

fn commands() -> (Commands, Arc<Counting>) {
    let events = MemoryEvents::new(Duration::from_secs(60));
    let store = Arc::new(Counting {
        events: events.clone(),
        appends: AtomicU64::new(0),
        conflicts: AtomicU64::new(0),
        intrude: Mutex::default(),
    });
    let metrics = Metrics::new("test", &[]).expect("metrics");
    (Commands::new(store.clone(), Arc::new(events), metrics), store)
}

fn command(ask: Ask) -> AnswerCommand {
    AnswerCommand { key: Key::parse("k").expect("a key"), ask, condition: Condition::default() }
}

fn put(value: &str) -> AnswerCommand {
    command(Ask::Put(Value::parse(value).expect("a value")))
}

async fn execute(commands: &Commands, command: AnswerCommand) -> Result<Outcome, Error> {
    let place = commands.place(&command)?;
    commands.execute(command, None, place).await
}

fn revision(outcome: Result<Outcome, Error>) -> u64 {
    match outcome.expect("an outcome") {
        Outcome::Done(receipt) => receipt.revision.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hot_key_costs_no_retries() {
    let (commands, store) = commands();
    let all = (0..1_000).map(|n| execute(&commands, put(&n.to_string())));
    let revisions: Vec<_> = futures::future::join_all(all).await.into_iter().map(revision).collect();
    assert_eq!(revisions, (0..1_000).collect::<Vec<_>>());
    assert_eq!(store.conflicts.load(Ordering::Relaxed), 0);
    let appends = store.appends.load(Ordering::Relaxed);
    assert!(appends <= 1 + 999_u64.div_ceil(RUN_COMMANDS as u64), "{appends} appends");
}

#[tokio::test]
async fn a_conflict_is_decided_again() {
    let (commands, store) = commands();
    assert_eq!(revision(execute(&commands, put("mine")).await), 0);
    let other = AnswerEvent::Updated { key: Key::parse("k").expect("a key"), value: "other".into() };
    *store.intrude.lock() = Some(other.to_new(Uuid::new_v4(), Timestamp::default()));
    assert_eq!(revision(execute(&commands, put("mine again")).await), 2);
    assert_eq!(store.conflicts.load(Ordering::Relaxed), 1);
    let gone = AnswerEvent::Deleted { key: Key::parse("k").expect("a key") };
    *store.intrude.lock() = Some(gone.to_new(Uuid::new_v4(), Timestamp::default()));
    let refused = execute(&commands, command(Ask::Delete)).await.expect("an outcome");
    let position = Some(Position(4));
    assert_eq!(refused, Outcome::Refused(Refused { refusal: Refusal::KeyNotFound, position }));
}

/// A state that is kept may be older than the log: others write, too.
#[tokio::test]
async fn a_refusal_rests_on_the_log() {
    let (commands, store) = commands();
    let keyed = async |command: AnswerCommand, key: &str| {
        let place = commands.place(&command)?;
        let key = IdempotencyKey::parse(key).expect("a key");
        let Claimed::Free(claiming) = commands.claim(key, Fingerprint([0; 32])).await? else { panic!("it is new") };
        commands.execute(command, Some(claiming), place).await
    };
    let stream = StreamId::from_stored("answer-k");
    let behind_its_back = async |event: AnswerEvent, last: u64| {
        let event = event.to_new(Uuid::new_v4(), Timestamp::default());
        let at = ExpectedRevision::Exact(Revision(last));
        EventStore::append(&store.events, &stream, at, vec![event]).await.expect("appended");
    };
    let key = || Key::parse("k").expect("a key");
    let create = || command(Ask::Create(Value::parse("mine").expect("a value")));
    assert_eq!(revision(execute(&commands, create()).await), 0);
    behind_its_back(AnswerEvent::Deleted { key: key() }, 0).await;
    assert_eq!(revision(execute(&commands, create()).await), 2);
    behind_its_back(AnswerEvent::Deleted { key: key() }, 2).await;
    assert_eq!(revision(keyed(create(), "once").await), 4);
    behind_its_back(AnswerEvent::Deleted { key: key() }, 4).await;
    assert!(matches!(execute(&commands, command(Ask::Delete)).await, Ok(Outcome::Refused(_))));
    behind_its_back(AnswerEvent::Created { key: key(), value: "theirs".into() }, 5).await;
    assert_eq!(revision(execute(&commands, command(Ask::Delete)).await), 7);
}

#[tokio::test]
async fn a_dropped_command_is_carried_out() {
    let (commands, store) = commands();
    let mut first = Box::pin(execute(&commands, put("1")));
    assert!(futures::poll!(&mut first).is_pending());
    let second = tokio::spawn({
        let commands = commands.clone();
        async move { execute(&commands, put("2")).await }
    });
    tokio::task::yield_now().await;
    drop(first);
    assert_eq!(revision(second.await.expect("not cancelled")), 1);
    assert_eq!(
        store.events.last(&StreamId::from_stored("answer-k")).await.expect("read").expect("an event").revision,
        Revision(1)
    );
}

#[tokio::test]
async fn places_are_bounded_and_given_back() {
    let (commands, _) = commands();
    let large = put(&"v".repeat(500 * 1024));
    let mut taken = Vec::new();
    while let Ok(place) = commands.place(&large) {
        taken.push(place);
    }
    // 64 MiB in all.
    assert!((100..=131).contains(&taken.len()), "{}", taken.len());
    assert!(matches!(commands.place(&large), Err(Error::Failed(StoreError::Busy))));
    let mut waiting = Box::pin(commands.wait_for_place(&large));
    assert!(futures::poll!(&mut waiting).is_pending());
    taken.pop();
    assert!(waiting.await.is_ok());
    drop(taken);
    assert!(commands.place(&large).is_ok());
}
