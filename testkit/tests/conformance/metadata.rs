//! A stream's metadata, and what it hides.

use std::time::Duration;

use eventstore::{
    AppendToStreamOptions, Error, ReadAllOptions, ReadStreamOptions, StreamMetadataBuilder, StreamMetadataResult,
    StreamPosition, StreamState,
};
use serde_json::json;

use crate::server::{Event, events, eventually, on_server, revisions, soon, stream_prefix};
use crate::wire::Expect;

/// 40.
#[test]
fn metadata_is_missing_then_the_latest_then_deleted() {
    on_server(async |server| {
        let stream = server.stream();
        assert!(server.known_metadata(&stream).await.is_not_found());

        for (revision, colour) in [(0, "blue"), (1, "red")] {
            let value = StreamMetadataBuilder::new().max_count(7).insert_custom_property("colour", colour).build();
            let options = AppendToStreamOptions::default();
            soon("metadata", server.client.set_stream_metadata(stream.as_str(), &options, &value)).await.unwrap();
            match server.known_metadata(&stream).await {
                StreamMetadataResult::Success(known) => {
                    assert_eq!((revision, &value), (known.version(), known.metadata()));
                }
                other => panic!("no metadata: {other:?}"),
            }
        }

        server.tombstone(&stream, Expect::Any).await.unwrap();
        assert!(server.known_metadata(&stream).await.is_deleted());
    });
}

/// Metadata is written with an expectation, as every stream.
#[test]
fn metadata_has_revisions_of_its_own() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 5).await;
        let of_metadata = format!("$${stream}");
        let event = || Event::metadata(&json!({ "a": 1 }));
        let written = server.append(&of_metadata, StreamState::NoStream, &[event()]).await.unwrap();
        assert_eq!(0, written.next_expected_version);
        let written = server.append(&of_metadata, StreamState::StreamRevision(0), &[event()]).await.unwrap();
        assert_eq!(1, written.next_expected_version);
        let refused = server.append(&of_metadata, StreamState::StreamRevision(0), &[event()]).await;
        assert!(matches!(refused, Err(Error::WrongExpectedVersion { .. })), "{refused:?}");
    });
}

#[test]
fn a_stream_of_metadata_shows_only_its_last_event() {
    on_server(async |server| {
        let stream = server.stream();
        for number in 0..3 {
            server.set_metadata(&stream, &json!({ "number": number })).await;
        }
        let of_metadata = format!("$${stream}");
        let backwards = ReadStreamOptions::default().position(StreamPosition::End);
        for options in [ReadStreamOptions::default(), backwards] {
            assert_eq!(vec![2], revisions(&server.read(&of_metadata, &options).await.unwrap()));
        }
        assert_eq!(Some((2, json!({ "number": 2 }))), server.metadata(&stream).await.unwrap());
    });
}

/// 41.
#[test]
fn a_maximum_count_shows_only_the_last_events() {
    on_server(async |server| {
        let stream = server.stream();
        server.set_metadata(&stream, &json!({ "$maxCount": 3 })).await;
        server.fill(&stream, 10).await;
        assert_eq!(vec![7, 8, 9], server.revisions(&stream).await.unwrap());
        let options = ReadStreamOptions::default().position(StreamPosition::End);
        assert_eq!(vec![9, 8, 7], revisions(&server.read(&stream, &options).await.unwrap()));

        let written = server.append(&stream, StreamState::StreamRevision(9), &[Event::new()]).await.unwrap();
        assert_eq!(10, written.next_expected_version);
        assert_eq!(vec![8, 9, 10], server.revisions(&stream).await.unwrap());
    });
}

#[test]
fn what_is_hidden_from_a_stream_stays_in_the_log() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        server.set_metadata(&stream, &json!({ "$maxCount": 1 })).await;
        server.fill(&stream, 5).await;
        let options = ReadAllOptions::default().position(StreamPosition::Position(from)).filter(stream_prefix(&stream));
        assert_eq!(vec![0, 1, 2, 3, 4], revisions(&server.read_all(&options).await.unwrap()));
    });
}

#[test]
fn events_below_a_revision_can_be_hidden_and_shown_again() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 5).await;
        server.set_metadata(&stream, &json!({ "$tb": 3 })).await;
        assert_eq!(vec![3, 4], server.revisions(&stream).await.unwrap());
        let refused = server.append(&stream, StreamState::NoStream, &[Event::new()]).await;
        assert!(matches!(refused, Err(Error::WrongExpectedVersion { .. })), "{refused:?}");

        server.set_metadata(&stream, &json!({})).await;
        assert_eq!(vec![0, 1, 2, 3, 4], server.revisions(&stream).await.unwrap());
    });
}

/// Hidden events are no missing stream, and keep their revisions: what was written
/// with NoStream once cannot be written so again.
#[test]
fn a_maximum_age_in_seconds_hides_events_and_keeps_their_revisions() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        server.set_metadata(&stream, &json!({ "$maxAge": 3600 })).await;
        assert_eq!(vec![0, 1, 2], server.revisions(&stream).await.unwrap());

        server.set_metadata(&stream, &json!({ "$maxAge": 1 })).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        eventually("hidden events", async || server.revisions(&stream).await.unwrap().is_empty().then_some(())).await;
        let refused = server.append(&stream, StreamState::NoStream, &[Event::new()]).await;
        assert!(matches!(refused, Err(Error::WrongExpectedVersion { .. })), "{refused:?}");

        server.set_metadata(&stream, &json!({})).await;
        let written = server.append(&stream, StreamState::StreamRevision(2), &events(1)).await.unwrap();
        assert_eq!(3, written.next_expected_version);
        assert_eq!(vec![0, 1, 2, 3], server.revisions(&stream).await.unwrap());
    });
}

#[test]
fn unknown_keys_are_kept_and_what_is_no_json_counts_as_nothing() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let value = json!({ "colour": { "is": ["blue", 7] }, "$maxCount": 1 });
        server.set_metadata(&stream, &value).await;
        assert_eq!(Some((0, value)), server.metadata(&stream).await.unwrap());
        assert_eq!(vec![2], server.revisions(&stream).await.unwrap());

        let malformed = Event { data: "{ \"$maxCount\": ".into(), ..Event::of("$metadata") };
        server.write(&format!("$${stream}"), Expect::Any, &[malformed]).await;
        assert_eq!(vec![0, 1, 2], server.revisions(&stream).await.unwrap());
    });
}
