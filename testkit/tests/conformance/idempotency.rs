//! Events that are sent again: when they are known, and when they are written twice.

use eventstore::{CurrentRevision, Error, ReadStreamOptions, StreamState};

use crate::server::{Event, Server, events, ids, on_server, recorded_ids};
use crate::wire::{AppendResult, Expect, Written, proposed};

/// The answer that tells of an event of the stream, as it was first written.
async fn written_as(server: &Server, stream: &str, revision: usize) -> Written {
    let read = server.read(stream, &ReadStreamOptions::default()).await.unwrap();
    let event = &read[revision];
    assert_eq!(revision as u64, event.revision);
    Written { revision: Some(event.revision), position: Some((event.position.commit, event.position.prepare)) }
}

/// Sends events again, which must be known: nothing is added, and the answer is that
/// of the last event sent.
async fn assert_known(server: &Server, stream: &str, expect: Expect, events: &[Event], last: usize) {
    let before = server.revisions(stream).await.unwrap();
    let expected = written_as(server, stream, last).await;
    assert_eq!(expected, server.write(stream, expect, events).await, "{expect:?}");
    assert_eq!(before, server.revisions(stream).await.unwrap(), "{expect:?}");
}

async fn assert_wrong_version(server: &Server, stream: &str, expect: Expect, events: &[Event]) {
    let before = server.revisions(stream).await.unwrap();
    let result = server.raw_append(stream, expect, events.iter().map(proposed).collect()).await.unwrap();
    assert!(matches!(result, AppendResult::WrongExpectedVersion(_)), "{expect:?}: {result:?}");
    assert_eq!(before, server.revisions(stream).await.unwrap(), "{expect:?}");
}

/// 7.
#[test]
fn all_events_again_with_no_stream_are_known() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 3).await;
        assert_known(server, &stream, Expect::NoStream, &events, 2).await;
    });
}

/// 7. The answer tells of the last event sent, not of the stream's end.
#[test]
fn the_leading_events_again_with_no_stream_are_known() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 4).await;
        assert_known(server, &stream, Expect::NoStream, &events[..1], 0).await;
        assert_known(server, &stream, Expect::NoStream, &events[..3], 2).await;
    });
}

#[test]
fn events_again_at_the_revision_they_were_written_at_are_known() {
    on_server(async |server| {
        let stream = server.stream();
        let first = server.fill(&stream, 2).await;
        let second = events(2);
        server.append(&stream, StreamState::StreamRevision(1), &second).await.unwrap();
        server.append(&stream, StreamState::Any, &[Event::new()]).await.unwrap();
        assert_known(server, &stream, Expect::At(1), &second, 3).await;
        assert_known(server, &stream, Expect::At(1), &second[..1], 2).await;
        assert_known(server, &stream, Expect::At(0), &first[1..], 1).await;
    });
}

/// The client alone settles an append whose outcome it does not know in this way.
#[test]
fn the_client_sees_a_known_append_as_the_first_one() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let events = events(2);
        let first = server.append(&stream, StreamState::StreamRevision(0), &events).await.unwrap();
        let again = server.append(&stream, StreamState::StreamRevision(0), &events).await.unwrap();
        assert_eq!((first.next_expected_version, first.position), (again.next_expected_version, again.position));
        assert_eq!(vec![0, 1, 2], server.revisions(&stream).await.unwrap());
    });
}

/// Only ids are compared; what was written first stays.
#[test]
fn a_known_id_with_other_data_changes_nothing() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 1).await;
        let other = Event { id: events[0].id, ..Event::of("Other") };
        assert_known(server, &stream, Expect::NoStream, &[other], 0).await;
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!((events[0].kind.as_str(), &events[0].data), (read[0].event_type.as_str(), &read[0].data));
    });
}

/// 8.
#[test]
fn known_events_with_any_or_stream_exists_are_known() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 4).await;
        for expect in [Expect::Any, Expect::Exists] {
            assert_known(server, &stream, expect, &events, 3).await;
            assert_known(server, &stream, expect, &events[1..3], 2).await;
            assert_known(server, &stream, expect, &events[..1], 0).await;
        }
    });
}

/// 9. The last revision is not below the expected one, so ids are not looked at.
#[test]
fn a_known_event_at_exactly_the_last_revision_is_appended_again() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 2).await;
        let written = server.append(&stream, StreamState::StreamRevision(1), &events[..1]).await.unwrap();
        assert_eq!(2, written.next_expected_version);
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(vec![events[0].id, events[1].id, events[0].id], recorded_ids(&read));
    });
}

/// 10.
#[test]
fn known_events_with_a_new_one_behind_them_are_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        let mut events = server.fill(&stream, 2).await;
        events.push(Event::new());
        for expect in [Expect::NoStream, Expect::Any, Expect::Exists] {
            assert_wrong_version(server, &stream, expect, &events).await;
        }

        let again = server.append(&stream, StreamState::NoStream, &events).await;
        let Err(Error::WrongExpectedVersion { current, .. }) = again else { panic!("{again:?}") };
        assert_eq!(CurrentRevision::Current(1), current);
    });
}

#[test]
fn known_events_in_another_order_or_place_are_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 3).await;
        let swapped = [events[1].clone(), events[0].clone()];
        assert_wrong_version(server, &stream, Expect::NoStream, &swapped).await;
        assert_wrong_version(server, &stream, Expect::NoStream, &events[1..]).await;
        assert_wrong_version(server, &stream, Expect::At(0), &events[..1]).await;
    });
}

/// With Any, the first id alone decides whether the call is new.
#[test]
fn a_new_event_with_a_known_one_behind_it_is_appended_with_any() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 1).await;
        let mixed = [Event::new(), events[0].clone()];
        let written = server.append(&stream, StreamState::Any, &mixed).await.unwrap();
        assert_eq!(2, written.next_expected_version);
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&mixed), recorded_ids(&read[1..]));
    });
}

/// Ids are known by stream.
#[test]
fn an_event_known_in_one_stream_is_new_in_another() {
    on_server(async |server| {
        let events = server.fill(&server.stream(), 2).await;
        let other = server.stream();
        let written = server.append(&other, StreamState::Any, &events).await.unwrap();
        assert_eq!(1, written.next_expected_version);
        assert_eq!(vec![0, 1], server.revisions(&other).await.unwrap());
    });
}

#[test]
fn the_same_append_from_many_at_once_is_written_once() {
    on_server(async |server| {
        let stream = server.stream();
        let events = events(2);
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let (stream, events) = (stream.clone(), events.clone());
                tokio::spawn(async move { server.write(&stream, Expect::NoStream, &events).await })
            })
            .collect();
        for sender in senders {
            let written = sender.await.unwrap();
            assert_eq!(written_as(server, &stream, 1).await, written);
        }
        assert_eq!(vec![0, 1], server.revisions(&stream).await.unwrap());
    });
}
