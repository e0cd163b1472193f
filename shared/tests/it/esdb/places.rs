//! Looks at positions: what is there, what is not, and what cannot be known now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventstore::{AppendToStreamOptions, EventData, ReadAllOptions, StreamState};
use shared::domain::outcome::{Fingerprint, Happened, IdempotencyKey};
use shared::domain::stream::{ExpectedRevision, Position, StreamId};
use shared::ports::{Append, Claim, EventFeed, EventStore, Health, StoreError};
use uuid::Uuid;

use super::{Place, all, append_raw, append_raw_event, event, exact, fresh, log_of, ready, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_position_holds_an_event_of_ours_or_nothing() {
    let place = Place::any();
    let (log, client) = (place.log(), place.client());
    let stream = fresh();
    append_raw(&client, &stream, None).await;
    log.append(&stream, ExpectedRevision::NoStream, vec![event("one"), event("two")]).await.unwrap();
    let claim = Claim {
        key: IdempotencyKey::parse(&Uuid::new_v4().to_string()).unwrap(),
        fingerprint: Fingerprint([1; 32]),
        at: shared::clock::now(),
    };
    let outcomes: Arc<dyn shared::ports::Outcomes> = log.clone();
    outcomes.append(&claim, &stream, exact(2), event("three"), Happened::Updated).await.unwrap();
    let log_id = log.log_id().await.unwrap().0;
    for metadata in [Uuid::new_v4(), log_id].map(|log| format!(r#"{{"log":"{log}"}}"#)) {
        // Ours by its mark, and of no stream of ours; and the other way round.
        let theirs = if metadata.contains(&log_id.to_string()) { "theirs-1" } else { stream.as_str() };
        append_raw_event(&client, theirs, "TheirEvent", b"{}", Some(&metadata), Uuid::new_v4()).await;
    }

    let ours = all(&log, &stream).await;
    assert_eq!(ours.len(), 3);
    let mut positions = Vec::new();
    let mut everything = client.read_all(&ReadAllOptions::default().max_count(100_000)).await.unwrap();
    while let Some(read) = everything.next().await.unwrap() {
        positions.push(read.get_original_event().position.commit);
    }
    for recorded in &ours {
        assert!(positions.contains(&recorded.position.0));
        assert_eq!(log.at(recorded.position).await.unwrap().as_ref(), Some(recorded), "what stands there");
        for beside in [recorded.position.0 - 1, recorded.position.0 + 1] {
            assert_eq!(log.at(Position(beside)).await.unwrap(), None, "within an event");
        }
    }
    // A shared server has many others.
    for position in positions.into_iter().rev().take(200) {
        let found = log.at(Position(position)).await.unwrap();
        let mine = ours.iter().find(|recorded| recorded.position.0 == position);
        if let Some(found) = &found {
            assert!(found.stream.subject().is_some(), "{found:?}");
        }
        assert!(mine.is_none() || found.as_ref() == mine);
        assert!(found.is_none_or(|found| found.stream != stream || mine.is_some()));
    }
    let end = log.end().await.unwrap().0;
    for nothing in [0, end + 1, end + 4_096, 1 << 40, (1 << 53) - 1, 1 << 53, u64::MAX] {
        assert_eq!(log.at(Position(nothing)).await.unwrap(), None, "{nothing}");
    }
    log.check().await.expect("none of this was taken for trouble");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_in_trouble_is_not_taken_for_an_empty_position() {
    let mut server = server();
    let log = log_of(&server);
    let appended = log.append(&fresh(), ExpectedRevision::NoStream, vec![event("one")]).await.unwrap();
    let (there, within) = (appended.positions[0], Position(appended.positions[0].0 + 1));
    let unavailable = async |what: &str| {
        for position in [there, within] {
            let found = log.at(position).await;
            assert!(matches!(found, Err(StoreError::Unavailable { .. })), "{what}: {found:?}");
        }
    };
    server.switches().fail_reads(true);
    unavailable("reads that fail").await;
    server.switches().fail_reads(false);
    ready(&log).await;
    server.switches().refuse_calls(true);
    unavailable("calls that are refused").await;
    server.switches().refuse_calls(false);
    ready(&log).await;
    server.stop();
    unavailable("a server that is down").await;
    server.start_again().unwrap();
    ready(&log).await;
    for _ in 0..20 {
        server.switches().drop_connections();
        assert!(log.at(there).await.unwrap().is_some(), "a connection that broke is made again");
        assert_eq!(log.at(within).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_of_one_call_are_apart() {
    let place = Place::any();
    let (log, client) = (place.log(), place.client());
    let taken = fresh();
    log.append(&taken, ExpectedRevision::NoStream, vec![event("there")]).await.unwrap();
    let one = |stream: &StreamId, number: usize| Append {
        stream: stream.clone(),
        expected: ExpectedRevision::NoStream,
        events: vec![event(&number.to_string())],
    };
    let mut appends: Vec<_> = (0..1_000).map(|number| one(&fresh(), number)).collect();
    appends[500] = one(&taken, 500);
    let theirs = fresh();
    let options = AppendToStreamOptions::default().stream_state(StreamState::Any);
    client.append_to_stream(theirs.as_str(), &options, EventData::binary("x", Default::default())).await.unwrap();
    appends[700] = one(&theirs, 700);
    let outcomes = log.append_each(appends.clone()).await;
    assert_eq!(outcomes.len(), appends.len());
    for (index, (append, outcome)) in appends.iter().zip(&outcomes).enumerate() {
        if index == 500 {
            assert!(matches!(outcome, Err(StoreError::Conflict)), "{outcome:?}");
            continue;
        }
        let appended = outcome.as_ref().unwrap_or_else(|error| panic!("append {index}: {error:?}"));
        let last = log.at(appended.positions[0]).await.unwrap().expect("it stands there");
        assert_eq!((&last.stream, &last.event), (&append.stream, &append.events[0]), "outcomes are in order");
    }
    let again = log.append_each(appends).await;
    assert!(again.iter().zip(&outcomes).all(|(a, b)| a.as_ref().ok() == b.as_ref().ok()), "the same again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_call_waits_once_for_a_server_that_is_away() {
    let mut server = server();
    let log = log_of(&server);
    ready(&log).await;
    let delay = Duration::from_secs(7);
    server.switches().delay_reads(delay);
    server.switches().delay_appends(delay);
    let appends: Vec<_> = (0..2_000)
        .map(|_| Append { stream: fresh(), expected: ExpectedRevision::NoStream, events: vec![event("x")] })
        .collect();
    let begun = Instant::now();
    let outcomes = log.append_each(appends.clone()).await;
    assert!(begun.elapsed().as_secs() < 12, "{:?}", begun.elapsed());
    let begun: Vec<_> = outcomes.iter().map(|one| matches!(one, Err(StoreError::OutcomeUnknown { .. }))).collect();
    assert!(outcomes.iter().all(Result::is_err) && begun.iter().any(|begun| *begun), "{:?}", outcomes[0]);
    assert!(begun.iter().filter(|begun| **begun).count() <= 256, "the others were not begun");
    server.stop();
    server.switches().delay_reads(Default::default());
    server.switches().delay_appends(Default::default());
    server.start_again().unwrap();
    ready(&log).await;
    let outcomes = log.append_each(appends).await;
    assert!(outcomes.iter().all(Result::is_ok), "repeated, all are there");
}
