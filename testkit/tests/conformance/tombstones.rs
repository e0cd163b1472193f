//! Tombstones: a stream that ends for good.

use eventstore::{Error, ReadStreamOptions, StreamState, TombstoneStreamOptions};
use serde_json::json;
use tonic::Code;

use crate::server::{Event, Server, on_server, soon};
use crate::wire::{Expect, Read, assert_stream_deleted, assert_wrong_version, proposed};

async fn tombstone(server: &Server, stream: &str, state: StreamState) -> eventstore::Result<()> {
    let options = TombstoneStreamOptions::default().stream_state(state);
    soon("a tombstone", server.client.tombstone_stream(stream, &options)).await.map(drop)
}

/// 37.
#[test]
fn a_tombstoned_stream_cannot_be_read() {
    on_server(async |server| {
        for state in
            [StreamState::Any, StreamState::NoStream, StreamState::StreamExists, StreamState::StreamRevision(1)]
        {
            let stream = server.stream();
            if state != StreamState::NoStream {
                server.fill(&stream, 2).await;
            }
            tombstone(server, &stream, state).await.unwrap();
            let read = server.read(&stream, &ReadStreamOptions::default()).await;
            assert!(matches!(read, Err(Error::ResourceDeleted)), "{state:?}: {read:?}");
            for read in [Read::stream(&stream), Read::stream(&stream).backwards().at_end()] {
                assert_stream_deleted(&server.raw_read(read).await.unwrap_err(), &stream);
            }
        }
    });
}

/// 37. Any is true of a missing stream as well.
#[test]
fn a_missing_stream_can_be_tombstoned_with_any() {
    on_server(async |server| {
        let stream = server.stream();
        tombstone(server, &stream, StreamState::Any).await.unwrap();
        let read = server.read(&stream, &ReadStreamOptions::default()).await;
        assert!(matches!(read, Err(Error::ResourceDeleted)), "{read:?}");
    });
}

#[test]
fn a_soft_deleted_stream_can_be_tombstoned() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        server.delete(&stream, Expect::Any).await.unwrap();
        tombstone(server, &stream, StreamState::Any).await.unwrap();
        let read = server.read(&stream, &ReadStreamOptions::default()).await;
        assert!(matches!(read, Err(Error::ResourceDeleted)), "{read:?}");
    });
}

/// 38.
#[test]
fn nothing_can_be_written_after_a_tombstone() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 2).await;
        tombstone(server, &stream, StreamState::Any).await.unwrap();
        for state in
            [StreamState::Any, StreamState::NoStream, StreamState::StreamExists, StreamState::StreamRevision(1)]
        {
            let appended = server.append(&stream, state, &[Event::new()]).await;
            assert!(matches!(appended, Err(Error::ResourceDeleted)), "{state:?}: {appended:?}");
        }
        let known = server.append(&stream, StreamState::NoStream, &events).await;
        assert!(matches!(known, Err(Error::ResourceDeleted)), "{known:?}");
        let again = tombstone(server, &stream, StreamState::Any).await;
        assert!(matches!(again, Err(Error::ResourceDeleted)), "{again:?}");

        let messages = vec![proposed(&Event::new())];
        assert_stream_deleted(&server.raw_append(&stream, Expect::Any, messages).await.unwrap_err(), &stream);
        assert_stream_deleted(&server.tombstone(&stream, Expect::Any).await.unwrap_err(), &stream);
        assert_stream_deleted(&server.delete(&stream, Expect::Any).await.unwrap_err(), &stream);
    });
}

/// 38. The stream of its metadata ends with it.
#[test]
fn the_metadata_of_a_tombstoned_stream_ends_too() {
    on_server(async |server| {
        let stream = server.stream();
        server.set_metadata(&stream, &json!({ "colour": "blue" })).await;
        tombstone(server, &stream, StreamState::Any).await.unwrap();
        assert!(server.known_metadata(&stream).await.is_deleted());
        let event = Event::metadata(&json!({ "colour": "red" }));
        let written = server.append(&format!("$${stream}"), StreamState::Any, &[event]).await;
        assert!(matches!(written, Err(Error::ResourceDeleted)), "{written:?}");
    });
}

/// 39.
#[test]
fn a_tombstone_at_another_revision_is_a_wrong_version() {
    on_server(async |server| {
        let missing = server.stream();
        assert_wrong_version(&server.tombstone(&missing, Expect::At(1)).await.unwrap_err(), &missing, 1, -1);
        assert_wrong_version(&server.tombstone(&missing, Expect::Exists).await.unwrap_err(), &missing, -4, -1);
        let refused = tombstone(server, &missing, StreamState::StreamRevision(1)).await;
        assert!(matches!(refused, Err(Error::Grpc { code: Code::FailedPrecondition, .. })), "{refused:?}");

        let stream = server.stream();
        server.fill(&stream, 3).await;
        assert_wrong_version(&server.tombstone(&stream, Expect::At(1)).await.unwrap_err(), &stream, 1, 2);
        assert_wrong_version(&server.tombstone(&stream, Expect::NoStream).await.unwrap_err(), &stream, -1, 2);
        assert_eq!(vec![0, 1, 2], server.revisions(&stream).await.unwrap());
    });
}
