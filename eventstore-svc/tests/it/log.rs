//! How commands on the event log are carried out: where the log fails for some of a
//! request's events, and where others change the same event.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventstore_svc::log::{Entry, Keyed, LogCommands, Refuse, Stored};
use parking_lot::Mutex;
use serde_json::json;
use shared::adapters::memory::MemoryEvents;
use shared::domain::answer::Condition;
use shared::domain::log_event::{Amendment, LogFact, Members};
use shared::domain::outcome::{Fingerprint, IdempotencyKey, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::metrics::Metrics;
use shared::ports::{Append, Appended, Direction, EventRef, EventStore, StoreError};
use uuid::Uuid;

/// A log in memory that on demand fails for some appends of those that come together,
/// and lets another writer in.
#[derive(Clone)]
struct Failing {
    events: MemoryEvents,
    /// Appends with these places fail, each once.
    fails: Arc<Mutex<HashSet<usize>>>,
    intrude: Arc<Mutex<Option<NewEvent>>>,
    appends: Arc<AtomicUsize>,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { what: "the event log", source: None }
}

#[async_trait::async_trait]
impl EventStore for Failing {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let intruder = self.intrude.lock().take();
        if let Some(event) = intruder {
            EventStore::append(&self.events, stream, expected, vec![event]).await?;
        }
        EventStore::append(&self.events, stream, expected, events).await
    }

    async fn append_each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let mut outcomes = Vec::new();
        for append in appends {
            let place = self.appends.fetch_add(1, Ordering::Relaxed);
            let fails = self.fails.lock().remove(&place);
            outcomes.push(match fails {
                true => Err(unavailable()),
                false => EventStore::append(&self.events, &append.stream, append.expected, append.events).await,
            });
        }
        outcomes
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

fn commands() -> (LogCommands, Failing) {
    let events = MemoryEvents::new(Duration::from_secs(60));
    let store =
        Failing { events: events.clone(), fails: Arc::default(), intrude: Arc::default(), appends: Arc::default() };
    let metrics = Metrics::new("test", &[]).expect("metrics");
    (LogCommands::new(Arc::new(store.clone()), Arc::new(events), metrics), store)
}

fn keyed(key: &str) -> Option<Keyed> {
    Some(Keyed { key: IdempotencyKey::parse(key).expect("valid"), fingerprint: Fingerprint([7; 32]) })
}

fn named(number: usize, at: Timestamp) -> Entry {
    Entry::Record(Members { timestamp: at, name: Some(number.to_string()), ..Members::default() })
}

async fn record(log: &LogCommands, key: Option<Keyed>, count: usize) -> Vec<Result<Stored, Error>> {
    let entries = |at| Ok::<_, Error>((0..count).map(|number| named(number, at)).collect());
    log.record(key, entries).await.expect("outcomes")
}

fn id(stored: &Stored) -> Uuid {
    match stored {
        Stored::Event(record) => record.event.id,
        Stored::Rejection(rejection) => rejection.id,
    }
}

async fn one(log: &LogCommands) -> (Uuid, u64) {
    let stored = record(log, None, 1).await.remove(0).expect("stored");
    (id(&stored), stored.position().0)
}

#[tokio::test]
async fn a_repetition_stores_what_is_missing() {
    let (log, store) = commands();
    store.fails.lock().extend([3, 600]);
    let first = record(&log, keyed("k"), 1_500).await;
    // In the first piece one fails; the pieces behind the one that fails are not begun.
    let failed: Vec<_> = (0..1_500).filter(|index| first[*index].is_err()).collect();
    assert!(failed.contains(&3) && !failed.contains(&4) && failed.contains(&1_499), "{}", failed.len());
    let stored = |outcomes: &[Result<Stored, Error>]| outcomes.iter().flatten().map(id).collect::<Vec<_>>();
    let second = record(&log, keyed("k"), 1_500).await;
    let third = record(&log, keyed("k"), 1_500).await;
    let ids = stored(&third);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1_500);
    for (outcome, index) in first.iter().chain(&second).zip((0..1_500).cycle()) {
        let outcome = outcome.as_ref().ok();
        assert!(outcome.is_none() || outcome == third[index].as_ref().ok(), "{index}: the same each time");
    }
    for id in ids {
        let stream = StreamId::of_event(id);
        let events = store.read(&stream, Revision::FIRST, Direction::Forwards, 10).await.expect("read");
        assert_eq!(events.len(), 1, "stored once");
    }
    let end = record(&log, None, 1).await.remove(0).expect("stored").position();
    assert_eq!(end, Position(1_501), "nothing beside");
}

#[tokio::test]
async fn of_a_lost_session_its_events_fail() {
    let (log, store) = commands();
    store.fails.lock().insert(0);
    let (lost, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let entries = |at| {
        let entry = |session| Entry::Record(Members { timestamp: at, session_id: session, ..Members::default() });
        Ok::<_, Error>([Some(lost), Some(other), None, Some(lost)].into_iter().map(entry).collect())
    };
    let first = log.record(keyed("k"), entries).await.expect("outcomes");
    // The log was found away, so nothing else was begun for the failed session.
    assert!(first[0].is_err() && first[3].is_err() && first[2].is_ok());
    assert!(!log.knows_session(lost).await.expect("known"));
    let second = log.record(keyed("k"), entries).await.expect("outcomes");
    assert!(second.iter().all(Result::is_ok), "{second:?}");
    assert_eq!(first[2].as_ref().ok(), second[2].as_ref().ok());
    for session in [lost, other] {
        assert!(log.knows_session(session).await.expect("known"));
        let events = store.read(&StreamId::of_session(session), Revision::FIRST, Direction::Forwards, 9).await;
        assert_eq!(events.expect("read").len(), 1);
    }
}

#[tokio::test]
async fn an_amendment_is_decided_again_when_others_amend() {
    let (log, store) = commands();
    let (id, number) = one(&log).await;
    let members = Members { category: Some("theirs".into()), ..Members::default() };
    let theirs = LogFact::Amended { number, created_at: Timestamp::from_micros(0), members };
    *store.intrude.lock() = Some(theirs.to_new(Uuid::new_v4(), Timestamp::from_micros(i64::MAX)));
    let patch = Amendment::Merge(json!({ "name": "ours" }).as_object().expect("an object").clone());
    let record = log.amend(EventRef::Id(id), patch, Condition::default(), None).await.expect("amended");
    assert_eq!(record.revision, Revision(2));
    let members = &record.event.members;
    assert_eq!((members.name.as_deref(), members.category.as_deref()), (Some("ours"), Some("theirs")));
    // Their clock is ahead, and time does not go back.
    let last = store.last(&StreamId::of_event(id)).await.expect("read").expect("an event");
    assert_eq!(last.event.metadata.recorded_at, Timestamp::from_micros(i64::MAX));
}

#[tokio::test]
async fn an_unknown_session_makes_a_rejection_and_stays_one() {
    let (log, _) = commands();
    let session = Uuid::from_u128(1);
    let entries = |at| {
        let members = Members { timestamp: at, session_id: Some(session), ..Members::default() };
        let refuse = Refuse { message: "unknown".into(), data: json!({ "a": 1 }) };
        Ok::<_, Error>(vec![Entry::RecordIfKnown(members, refuse)])
    };
    let first = log.record(keyed("k"), entries).await.expect("outcomes").remove(0).expect("stored");
    let Stored::Rejection(rejection) = &first else { panic!("{first:?}") };
    assert_eq!((rejection.message.as_str(), &rejection.data), ("unknown", &json!({ "a": 1 })));
    let registered = log.register(Some(session), None).await.expect("registered");
    assert_eq!(log.register(Some(session), None).await.expect("again"), registered);
    let again = log.record(keyed("k"), entries).await.expect("outcomes").remove(0).expect("stored");
    assert_eq!(again, first);
    let other = log.record(None, entries).await.expect("outcomes").remove(0).expect("stored");
    assert!(matches!(other, Stored::Event(_)), "{other:?}");
}

#[tokio::test]
async fn a_number_is_the_position_of_a_recording() {
    let (log, _) = commands();
    let (id, number) = one(&log).await;
    let change = |number| log.delete(EventRef::Number(number), Condition::default(), None);
    let patch = Amendment::Set(json!({ "name": "x" }).as_object().expect("an object").clone());
    let amended = log.amend(EventRef::Number(number), patch, Condition::default(), None).await.expect("amended");
    assert_eq!((amended.event.id, amended.event.number), (id, number));
    let session = log.register(None, None).await.expect("registered").position.0;
    let none = Refused { refusal: Refusal::EventNotFound, position: None };
    for other in [0, amended.position.0, session, session + 1, Position::MAX.0, u64::MAX] {
        let missing = change(other).await.expect_err("no recording");
        assert!(matches!(missing, Error::Refused(refused) if refused == none), "{other}: {missing:?}");
    }
    change(number).await.expect("deleted");
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let (log, _) = commands();
    let large = |at| {
        let message = Some("x".repeat(500_000));
        let entry = || Entry::Record(Members { timestamp: at, message: message.clone(), ..Members::default() });
        Ok::<_, Error>(std::iter::repeat_with(entry).take(300).collect())
    };
    let busy = log.record(None, large).await;
    assert!(matches!(busy, Err(Error::Failed(StoreError::Busy))), "too much at once");
    assert_eq!(record(&log, None, 10_000).await.iter().filter(|outcome| outcome.is_ok()).count(), 10_000);
}
