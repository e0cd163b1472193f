//! Events of other applications in streams that bear our names.

use bytes::Bytes;
use eventstore::{AppendToStreamOptions, EventData};
use shared::conformance;
use shared::domain::stream::{ExpectedRevision, Metadata, Revision};
use shared::ports::{Checkpoint, Direction, EventFeed, EventStore, StoreError};

use super::{Place, all, append_raw, append_raw_event, event, exact, fresh, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_of_others_are_passed_over() {
    let place = Place::any();
    let (log, client) = (place.log(), place.client());
    let stream = fresh();
    let other_log = format!(r#"{{"schema":1,"recorded_at":"2026-01-01T00:00:00Z","log":"{}"}}"#, uuid::Uuid::new_v4());
    let begin = Checkpoint::at(log.end().await.unwrap());
    let mut ours = Vec::new();
    let mut expected = ExpectedRevision::NoStream;
    for metadata in [None, Some("{}"), Some("no json"), Some(other_log.as_str())] {
        append_raw(&client, &stream, metadata).await;
        append_raw(&client, &stream, metadata).await;
        let events = vec![event("one"), event("two")];
        let appended = log.append(&stream, expected, events.clone()).await.unwrap();
        assert_eq!(log.append(&stream, expected, events.clone()).await.unwrap(), appended, "the same again");
        let conflict = log.append(&stream, expected, vec![event("three")]).await;
        assert!(matches!(conflict, Err(StoreError::Conflict)), "{conflict:?}");
        expected = exact(appended.first.0 + 1);
        ours.extend(events.into_iter().map(|event| event.id));
    }
    append_raw(&client, &stream, None).await;

    let read = all(&log, &stream).await;
    assert_eq!(read.iter().map(|event| event.event.id).collect::<Vec<_>>(), ours);
    assert_eq!(read.iter().map(|event| event.revision.0).collect::<Vec<_>>(), [2, 3, 6, 7, 10, 11, 14, 15]);
    assert_eq!(log.last(&stream).await.unwrap().as_ref(), read.last(), "the last of ours");
    for limit in [1, 3] {
        let back = log.read(&stream, Revision(9), Direction::Backwards, limit).await.unwrap();
        assert_eq!(back.first(), Some(&read[3]), "backwards from an event of others");
    }

    assert_eq!(log.head().await.unwrap(), read[7].position, "the head is ours");
    assert!(log.end().await.unwrap() > read[7].position, "the end is anybody's");
    let mut subscription = log.subscribe(begin).await.unwrap();
    let mut followed = Vec::new();
    while followed.len() < read.len() {
        let batch = soon("events", subscription.next(100)).await.unwrap();
        followed.extend(batch.events.into_iter().filter(|event| event.stream == stream));
    }
    assert_eq!(followed, read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_of_ours_whose_metadata_cannot_be_read_keeps_the_rest() {
    let place = Place::any();
    let (log, client) = (place.log(), place.client());
    let stream = fresh();
    log.append(&stream, ExpectedRevision::NoStream, vec![event("one")]).await.unwrap();
    let begin = Checkpoint::at(log.head().await.unwrap());
    let spoiled = format!(r#"{{"schema":"?","log":"{}"}}"#, log.log_id().await.unwrap().0);
    append_raw_event(&client, stream.as_str(), "Ours", b"{}", Some(&spoiled), uuid::Uuid::new_v4()).await;
    let read = log.read(&stream, Revision::FIRST, Direction::Forwards, 10).await.unwrap();
    assert_eq!(read.len(), 2);
    let spoiled = read[1].clone();
    assert_eq!((&*spoiled.event.kind, spoiled.revision), ("Ours", Revision(1)));
    assert_eq!(spoiled.event.metadata, Metadata::UNREADABLE);
    assert_eq!(log.last(&stream).await.unwrap().as_ref(), Some(&spoiled));
    assert_eq!(log.at(spoiled.position).await.unwrap().as_ref(), Some(&spoiled));
    let appended = log.append(&stream, exact(0), vec![event("two")]).await;
    assert!(matches!(appended, Err(StoreError::Conflict)), "its revision is taken: {appended:?}");
    // Others may append to a shared server meanwhile.
    let mut subscription = log.subscribe(begin).await.unwrap();
    loop {
        let batch = soon("the event", subscription.next(10)).await.unwrap();
        if let Some(found) = batch.events.iter().find(|event| event.stream == stream) {
            assert_eq!(*found, spoiled, "whoever follows the log gets past it");
            break;
        }
    }
}

/// What others write moves the checkpoint, not the head.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_checkpoint_moves_when_others_write() {
    let place = Place::any();
    let (log, client) = (place.log(), place.client());
    log.append(&fresh(), ExpectedRevision::NoStream, vec![event("one")]).await.unwrap();
    let head = log.head().await.unwrap();
    let theirs = shared::domain::stream::StreamId::from_stored(&format!("theirs-{}", uuid::Uuid::new_v4()));
    for _ in 0..4 {
        let events: Vec<_> = (0..500).map(|_| EventData::binary("TheirEvent", Bytes::from_static(b"{}"))).collect();
        client.append_to_stream(theirs.as_str(), &AppendToStreamOptions::default(), events).await.unwrap();
    }
    let end = log.end().await.unwrap();
    let mut subscription = log.subscribe(Checkpoint::at(head)).await.unwrap();
    let mut at = Checkpoint::at(head);
    while at.commit <= head.0 {
        let batch = soon("a checkpoint", subscription.next(10)).await.unwrap();
        assert!(batch.checkpoint >= at, "never back");
        at = batch.checkpoint;
    }
    assert!(log.end().await.unwrap() >= end && at.commit <= log.end().await.unwrap().0);
    // It goes on from there.
    let stream = fresh();
    let appended = log.append(&stream, ExpectedRevision::NoStream, vec![event("two")]).await.unwrap();
    let mut subscription = log.subscribe(at).await.unwrap();
    loop {
        let batch = soon("the event", subscription.next(10)).await.unwrap();
        if batch.events.iter().any(|event| event.position == appended.positions[0]) {
            break;
        }
    }
    assert_eq!(log.head().await.unwrap(), appended.positions[0].max(log.head().await.unwrap()));
}

/// The suites again, on a log between whose events others write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_promises_hold_beside_others() {
    let place = Place::any();
    let client = place.client();
    let noise = tokio::spawn(async move {
        loop {
            append_raw(&client, &fresh(), None).await;
            append_raw(&client, &shared::domain::stream::StreamId::from_stored("noise"), None).await;
        }
    });
    conformance::feed(place.log(), place.log()).await;
    noise.abort();
}
