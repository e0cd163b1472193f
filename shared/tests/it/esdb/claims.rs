//! Claims at every point where a process may die.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shared::adapters::esdb::EsdbEvents;
use shared::clock;
use shared::domain::outcome::Happened;
use shared::domain::outcome::{Fingerprint, IdempotencyKey, Kept, Outcome, Receipt, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, NewEvent, Revision, StreamId};
use shared::ports::{Appended, Claim, ClaimedAppend, EventFeed, EventStore, Outcomes, StoreError};
use uuid::Uuid;

use super::{Place, all, append_raw_event, event, exact, fresh, log_of, ready, server, soon};

fn key() -> IdempotencyKey {
    IdempotencyKey::parse(&Uuid::new_v4().to_string()).unwrap()
}

fn claim(key: &IdempotencyKey) -> Claim {
    Claim { key: key.clone(), fingerprint: Fingerprint([7; 32]), at: clock::now() }
}

/// The stream of a key's claims, as it is stored.
fn claims_of(key: &IdempotencyKey) -> String {
    use sha2::{Digest, Sha256};
    let digits: Vec<_> = Sha256::digest(key.to_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("claim-{}", digits.concat())
}

/// Leaves a claim as a process does that dies before it appends the event. What is
/// written out here is stored for ever: it must never change.
async fn die_after_the_claim(
    place: &Place,
    key: &IdempotencyKey,
    stream: &StreamId,
    expected: Option<u64>,
) -> NewEvent {
    let new = event("claimed");
    let at = clock::now().to_string();
    let data = json!({
        "fingerprint": "07".repeat(32),
        "stream": stream.as_str(),
        "expected": expected,
        "outcome": "updated",
        "id": new.id,
        "kind": &*new.kind,
        "metadata": {"schema": 1, "recorded_at": new.metadata.recorded_at.to_string()},
        "data": serde_json::from_slice::<Value>(&new.data).unwrap(),
    });
    let log = place.log().log_id().await.unwrap();
    let metadata = json!({"schema": 1, "recorded_at": at, "log": log.0}).to_string();
    let data = serde_json::to_vec(&data).unwrap();
    append_raw_event(&place.client(), &claims_of(key), "ClaimMade", &data, Some(&metadata), Uuid::new_v4()).await;
    new
}

fn done(revision: u64, position: shared::domain::stream::Position) -> Kept {
    let receipt = Receipt { event: Happened::Updated, revision: Revision(revision), position };
    Kept { fingerprint: Fingerprint([7; 32]), outcome: Outcome::Done(receipt) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_that_was_left_open_is_settled_by_who_finds_it() {
    let place = Place::any();
    let log = place.log();
    let other = put(&log, &fresh(), ExpectedRevision::NoStream, vec![event("")]).await.unwrap();
    assert_eq!(other.first, Revision(0));
    for finder in 0..4 {
        let (key, stream) = (key(), fresh());
        let new = die_after_the_claim(&place, &key, &stream, None).await;
        assert_eq!(all(&log, &stream).await, []);
        let told = match finder {
            0 => log.find(&key, clock::now()).await.unwrap(),
            1 => Some(
                log.keep(&claim(&key), Outcome::Refused(Refused { refusal: Refusal::KeyExists, position: None }))
                    .await
                    .unwrap(),
            ),
            2 => match append(&log, &key, &stream, ExpectedRevision::NoStream).await.unwrap() {
                ClaimedAppend::Taken(kept) => Some(kept),
                other => panic!("{other:?}"),
            },
            _ => {
                let find = || {
                    let (log, key) = (place.log(), key.clone());
                    tokio::spawn(async move { log.find(&key, clock::now()).await.unwrap() })
                };
                let finders: Vec<_> = (0..8).map(|_| find()).collect();
                let mut told = Vec::new();
                for finder in finders {
                    told.push(finder.await.unwrap());
                }
                told.dedup();
                assert_eq!(told.len(), 1, "all are told the same");
                told.remove(0)
            }
        };
        let stored = all(&log, &stream).await;
        assert_eq!(stored.len(), 1, "finder {finder}");
        assert_eq!(stored[0].event, new, "the event is the one that was claimed, to the last byte");
        assert_eq!(told, Some(done(0, stored[0].position)), "finder {finder}");
        // The one who made the claim was only slow.
        let late = put(&log, &stream, ExpectedRevision::NoStream, vec![new]).await.unwrap();
        assert_eq!(late.positions, [stored[0].position]);
        assert_eq!(all(&log, &stream).await.len(), 1);
    }
}

async fn put(
    log: &EsdbEvents,
    stream: &StreamId,
    expected: ExpectedRevision,
    events: Vec<NewEvent>,
) -> Result<Appended, StoreError> {
    EventStore::append(log, stream, expected, events).await
}

async fn append(
    log: &EsdbEvents,
    key: &IdempotencyKey,
    stream: &StreamId,
    expected: ExpectedRevision,
) -> Result<ClaimedAppend, StoreError> {
    Outcomes::append(log, &claim(key), stream, expected, event("another"), Happened::Updated).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_that_can_never_be_carried_out_is_free() {
    let place = Place::any();
    let log = place.log();
    for refusing in [false, true] {
        let (key, stream) = (key(), fresh());
        put(&log, &stream, ExpectedRevision::NoStream, vec![event("0")]).await.unwrap();
        let new = die_after_the_claim(&place, &key, &stream, Some(0)).await;
        put(&log, &stream, exact(0), vec![event("1")]).await.unwrap();
        assert_eq!(log.find(&key, clock::now()).await.unwrap(), None);
        if refusing {
            let refused = Refused { refusal: Refusal::KeyExists, position: None };
            let kept = log.keep(&claim(&key), Outcome::Refused(refused)).await.unwrap();
            assert_eq!(kept.outcome, Outcome::Refused(refused));
            assert_eq!(log.find(&key, clock::now()).await.unwrap(), Some(kept));
        } else {
            let ClaimedAppend::Appended(appended) = append(&log, &key, &stream, exact(1)).await.unwrap() else {
                panic!("the key is free");
            };
            assert_eq!(log.find(&key, clock::now()).await.unwrap(), Some(done(2, appended.positions[0])));
        }
        // The one who made the first claim comes too late.
        let late = put(&log, &stream, exact(0), vec![new]).await;
        assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
        assert_eq!(all(&log, &stream).await.len(), if refusing { 2 } else { 3 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_claim_is_free() {
    let place = Place::any();
    let log = place.log();
    let (key, stream) = (key(), fresh());
    die_after_the_claim(&place, &key, &stream, None).await;
    let later = shared::domain::time::Timestamp::from_micros(clock::now().micros() + 25 * 3_600_000_000);
    assert_eq!(log.find(&key, later).await.unwrap(), None);
    assert_eq!(all(&log, &stream).await, [], "it is not settled any more");
    let again = Claim { at: later, ..claim(&key) };
    let new = event("again");
    let appended = Outcomes::append(&*log, &again, &stream, ExpectedRevision::NoStream, new, Happened::Updated).await;
    let Ok(ClaimedAppend::Appended(appended)) = appended else { panic!("{appended:?}") };
    assert_eq!(log.find(&key, later).await.unwrap(), Some(done(0, appended.positions[0])));
}

/// Processes that die at any moment of a claimed append, and others that repeat it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claimed_append_that_is_cut_off_anywhere_is_exact() {
    let server = server();
    let (log, other) = (log_of(&server), log_of(&server));
    ready(&log).await;
    ready(&other).await;
    server.switches().delay_appends(Duration::from_millis(3));
    let mut cut = 0;
    for round in 0..120_u64 {
        let (key, stream) = (key(), fresh());
        let task = {
            let (log, key, stream) = (log.clone(), key.clone(), stream.clone());
            tokio::spawn(async move { append(&log, &key, &stream, ExpectedRevision::NoStream).await })
        };
        tokio::time::sleep(Duration::from_micros(round * 90)).await;
        match round % 3 {
            0 => server.switches().lose_replies(1),
            1 => server.switches().drop_connections(),
            _ => {}
        }
        task.abort();
        cut += usize::from(task.await.is_err());
        server.switches().lose_replies(0);
        let told = loop {
            match soon("a repetition", append(&other, &key, &stream, ExpectedRevision::NoStream)).await {
                Ok(told) => break told,
                Err(StoreError::Conflict) => panic!("of racing claims none is told of a conflict"),
                Err(_) => {}
            }
        };
        let stored = all(&other, &stream).await;
        assert_eq!(stored.len(), 1, "round {round}: one event, whoever appended it");
        let kept = other.find(&key, clock::now()).await.unwrap();
        assert_eq!(kept, Some(done(0, stored[0].position)), "round {round}");
        if let ClaimedAppend::Taken(taken) = told {
            assert_eq!(Some(taken), kept, "round {round}");
        }
    }
    assert!(cut > 30, "{cut} were cut off");
}

/// Two commands on one stream under keys of their own: both come through in the end,
/// each once, and a conflict leaves the key for the next attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_that_fight_for_a_stream_all_come_through() {
    let place = Place::any();
    let stream = fresh();
    let fighters: Vec<_> = (0..12)
        .map(|_| {
            let (log, stream) = (place.log(), stream.clone());
            tokio::spawn(async move { until_appended(&log, &stream).await })
        })
        .collect();
    let mut revisions = Vec::new();
    for fighter in fighters {
        revisions.push(soon("a fighter", fighter).await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (0..12).collect::<Vec<_>>());
    assert_eq!(all(&place.log(), &stream).await.len(), 12);
}

async fn until_appended(log: &Arc<EsdbEvents>, stream: &StreamId) -> u64 {
    let key = key();
    loop {
        let last = log.last(stream).await.unwrap().map(|last| last.revision);
        match append(log, &key, stream, ExpectedRevision::from(last)).await {
            Ok(ClaimedAppend::Appended(appended)) => return appended.first.0,
            Err(StoreError::Conflict) => {}
            other => panic!("{other:?}"),
        }
    }
}
