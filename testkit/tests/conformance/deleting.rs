//! Soft deletes: the events are hidden, and the stream goes on if it is written to.

use eventstore::{
    DeleteStreamOptions, Error, ReadAllOptions, ReadStreamOptions, StreamMetadataResult, StreamPosition, StreamState,
};
use serde_json::json;
use tonic::Code;

use crate::server::{Event, Server, events, eventually, on_server, recorded_ids, revisions, soon, stream_prefix};
use crate::wire::{Expect, Written, assert_stream_deleted, assert_wrong_version, proposed};

/// What the metadata of a soft-deleted stream says: nothing below this is shown.
const ALL: u64 = i64::MAX.cast_unsigned();

async fn delete(server: &Server, stream: &str, state: StreamState) -> eventstore::Result<()> {
    let options = DeleteStreamOptions::default().stream_state(state);
    soon("a delete", server.client.delete_stream(stream, &options)).await.map(drop)
}

/// The stream's metadata, once its `$tb` is this, and its revision.
async fn metadata_with_tb(server: &Server, stream: &str, tb: u64) -> (u64, serde_json::Value) {
    eventually("metadata of a revived stream", async || {
        server.metadata(stream).await.unwrap().filter(|(_, value)| value["$tb"] == json!(tb))
    })
    .await
}

/// 28.
#[test]
fn a_soft_deleted_stream_is_not_found() {
    on_server(async |server| {
        for state in [StreamState::Any, StreamState::StreamExists, StreamState::StreamRevision(1)] {
            let stream = server.stream();
            server.fill(&stream, 2).await;
            delete(server, &stream, state).await.unwrap();
            let backwards = ReadStreamOptions::default().position(StreamPosition::End);
            for options in [ReadStreamOptions::default(), backwards] {
                let read = server.read(&stream, &options).await;
                assert!(matches!(read, Err(Error::ResourceNotFound)), "{state:?}: {read:?}");
            }
        }
    });
}

/// The delete is itself an event of the stream's metadata, which it replaces.
#[test]
fn a_soft_delete_replaces_the_metadata_and_answers_with_its_position() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        server.set_metadata(&stream, &json!({ "$maxCount": 5, "colour": "blue" })).await;
        let (commit, prepare) = server.delete(&stream, Expect::At(1)).await.unwrap();

        assert_eq!(Some((1, json!({ "$tb": ALL }))), server.metadata(&stream).await.unwrap());
        let read = server.read(&format!("$${stream}"), &ReadStreamOptions::default()).await.unwrap();
        assert_eq!((commit, prepare), (read[0].position.commit, read[0].position.prepare));
        assert_eq!("$metadata", read[0].event_type);
    });
}

#[test]
fn a_soft_delete_at_another_revision_is_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        for (expect, told) in [(Expect::At(1), 1), (Expect::At(7), 7), (Expect::NoStream, -1)] {
            assert_wrong_version(&server.delete(&stream, expect).await.unwrap_err(), &stream, told, 2);
        }
        assert_eq!(vec![0, 1, 2], server.revisions(&stream).await.unwrap());
        let refused = delete(server, &stream, StreamState::NoStream).await;
        assert!(matches!(refused, Err(Error::Grpc { code: Code::FailedPrecondition, .. })), "{refused:?}");
    });
}

/// 29.
#[test]
fn a_soft_delete_of_a_missing_stream_is_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        for (expect, told) in [(Expect::Any, -2), (Expect::Exists, -4), (Expect::NoStream, -1), (Expect::At(0), 0)] {
            assert_wrong_version(&server.delete(&stream, expect).await.unwrap_err(), &stream, told, -1);
        }
    });
}

/// 30.
#[test]
fn a_stream_with_only_metadata_can_be_deleted_with_no_stream() {
    on_server(async |server| {
        let stream = server.stream();
        server.set_metadata(&stream, &json!({ "colour": "blue" })).await;
        delete(server, &stream, StreamState::NoStream).await.unwrap();
        assert_eq!(Some((1, json!({ "$tb": ALL }))), server.metadata(&stream).await.unwrap());
    });
}

/// 31, 32. The server lowers `$tb` a moment after the append.
#[test]
fn a_soft_deleted_stream_goes_on_where_it_ended() {
    on_server(async |server| {
        for state in [StreamState::Any, StreamState::NoStream, StreamState::StreamRevision(1)] {
            let stream = server.stream();
            server.fill(&stream, 2).await;
            delete(server, &stream, StreamState::Any).await.unwrap();
            let written = server.append(&stream, state, &events(3)).await.unwrap();
            assert_eq!(4, written.next_expected_version, "{state:?}");

            assert_eq!((1, json!({ "$tb": 2 })), metadata_with_tb(server, &stream, 2).await);
            assert_eq!(vec![2, 3, 4], server.revisions(&stream).await.unwrap());
            let options = ReadStreamOptions::default().position(StreamPosition::End);
            assert_eq!(vec![4, 3, 2], revisions(&server.read(&stream, &options).await.unwrap()));
            let StreamMetadataResult::Success(known) = server.known_metadata(&stream).await else { panic!("none") };
            assert_eq!((1, Some(2)), (known.version(), known.metadata().truncate_before));
        }
    });
}

/// 33.
#[test]
fn no_stream_is_true_of_a_soft_deleted_stream_only_once() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        delete(server, &stream, StreamState::Any).await.unwrap();
        server.append(&stream, StreamState::NoStream, &events(3)).await.unwrap();
        metadata_with_tb(server, &stream, 2).await;
        let again = server.append(&stream, StreamState::NoStream, &[Event::new()]).await;
        assert!(matches!(again, Err(Error::WrongExpectedVersion { .. })), "{again:?}");
    });
}

#[test]
fn another_revision_of_a_soft_deleted_stream_is_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        delete(server, &stream, StreamState::Any).await.unwrap();
        for revision in [0, 2] {
            let appended = server.append(&stream, StreamState::StreamRevision(revision), &[Event::new()]).await;
            assert!(matches!(appended, Err(Error::WrongExpectedVersion { .. })), "{revision}: {appended:?}");
        }
    });
}

/// 34.
#[test]
fn stream_exists_on_a_soft_deleted_stream_says_that_it_is_deleted() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        delete(server, &stream, StreamState::Any).await.unwrap();
        let appended = server.append(&stream, StreamState::StreamExists, &[Event::new()]).await;
        assert!(matches!(appended, Err(Error::ResourceDeleted)), "{appended:?}");
        let messages = vec![proposed(&Event::new())];
        assert_stream_deleted(&server.raw_append(&stream, Expect::Exists, messages).await.unwrap_err(), &stream);
    });
}

/// 35. The event is known, but can no longer be read.
#[test]
fn a_known_event_of_a_soft_deleted_stream_is_answered_without_a_position() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 1).await;
        delete(server, &stream, StreamState::Any).await.unwrap();
        let again = server.write(&stream, Expect::NoStream, &events).await;
        assert_eq!(Written { revision: Some(0), position: None }, again);
        assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
    });
}

/// 36. The events, then the delete, then what revives the stream.
#[test]
fn the_log_keeps_what_a_soft_delete_hides() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let first = server.fill(&stream, 2).await;
        delete(server, &stream, StreamState::Any).await.unwrap();

        let both = stream_prefix(&stream).add_prefix(format!("$${stream}"));
        let options = ReadAllOptions::default().position(StreamPosition::Position(from)).filter(both);
        let read = server.read_all(&options).await.unwrap();
        assert_eq!(vec![first[0].id, first[1].id], recorded_ids(&read[..2]));
        let [deletion] = &read[2..] else { panic!("not one more: {read:?}") };
        assert_eq!(format!("$${stream}"), deletion.stream_id());
        assert_eq!(("$metadata", 0), (deletion.event_type.as_str(), deletion.revision));
        assert_eq!(json!({ "$tb": ALL }), deletion.as_json::<serde_json::Value>().unwrap());

        let second = Event::new();
        server.append(&stream, StreamState::Any, std::slice::from_ref(&second)).await.unwrap();
        metadata_with_tb(server, &stream, 2).await;
        let read = server.read_all(&options).await.unwrap();
        let [appended, revival] = &read[3..] else { panic!("not two more: {read:?}") };
        assert_eq!(second.id, appended.id);
        assert_eq!(("$metadata", 1), (revival.event_type.as_str(), revival.revision));
    });
}

/// Other metadata written since the delete stays when `$tb` is put right.
#[test]
fn metadata_written_to_a_soft_deleted_stream_revives_it() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        delete(server, &stream, StreamState::Any).await.unwrap();
        server.set_metadata(&stream, &json!({ "colour": "blue" })).await;
        let (_, value) = metadata_with_tb(server, &stream, 2).await;
        assert_eq!(json!({ "$tb": 2, "colour": "blue" }), value);
        assert_eq!(Vec::<u64>::new(), server.revisions(&stream).await.unwrap());
    });
}

#[test]
fn a_stream_may_be_deleted_and_revived_again() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        for round in 0..3_u64 {
            delete(server, &stream, StreamState::Any).await.unwrap();
            assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
            let written = server.append(&stream, StreamState::NoStream, &[Event::new()]).await.unwrap();
            assert_eq!(round + 1, written.next_expected_version);
            metadata_with_tb(server, &stream, round + 1).await;
            assert_eq!(vec![round + 1], server.revisions(&stream).await.unwrap());
        }
    });
}
