//! `$all`: the whole log, and the positions in it.

use eventstore::{Position, ReadAllOptions, ReadStreamOptions, RecordedEvent, StreamPosition, StreamState};
use tonic::Code;

use crate::server::{Event, events, ids, on_server, recorded_ids, revisions, stream_prefix};
use crate::wire::{Expect, Read};

fn at(event: &RecordedEvent) -> StreamPosition<Position> {
    StreamPosition::Position(event.position)
}

/// 12.
#[test]
fn the_position_of_an_append_is_that_of_its_last_event() {
    on_server(async |server| {
        let stream = server.stream();
        let events = events(3);
        let written = server.append(&stream, StreamState::NoStream, &events).await.unwrap();
        let options = ReadAllOptions::default().position(StreamPosition::Position(written.position)).max_count(1);
        let read = server.read_all(&options).await.unwrap();
        assert_eq!((events[2].id, written.position), (read[0].id, read[0].position));
    });
}

/// A position is a byte offset: it grows by at least what was written.
#[test]
fn positions_grow_by_more_than_what_is_written() {
    on_server(async |server| {
        let stream = server.stream();
        let size = 1000;
        let mut events: Vec<_> = (0..3).map(|_| Event::of_size(size)).collect();
        server.append(&stream, StreamState::NoStream, &events).await.unwrap();
        for _ in 0..2 {
            let event = Event::of_size(size);
            server.append(&stream, StreamState::Any, std::slice::from_ref(&event)).await.unwrap();
            events.push(event);
        }
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&events), recorded_ids(&read));
        assert!(read[0].position.commit > 0);
        for event in &read {
            assert_eq!(event.position.commit, event.position.prepare);
        }
        for pair in read.windows(2) {
            assert!(pair[1].position.commit > pair[0].position.commit + size as u64, "{pair:?}");
        }
    });
}

/// The log's order is that of the acknowledgements, whatever the stream.
#[test]
fn an_append_after_another_has_a_greater_position() {
    on_server(async |server| {
        let mut last = 0;
        for _ in 0..10 {
            let position = server.mark().await.commit;
            assert!(position > last);
            last = position;
        }
    });
}

#[test]
fn an_append_is_contiguous_in_the_log() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 40).await;
        let of_stream = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        let read = server.read_all(&ReadAllOptions::default().position(at(&of_stream[0])).max_count(40)).await.unwrap();
        assert_eq!(ids(&events), recorded_ids(&read));
        for (one, other) in of_stream.iter().zip(&read) {
            assert_eq!((one.position, one.revision, &one.data), (other.position, other.revision, &other.data));
        }
    });
}

/// 24.
#[test]
fn a_read_forwards_begins_with_the_event_at_the_position() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 5).await;
        for event in server.read(&stream, &ReadStreamOptions::default()).await.unwrap() {
            let read = server.read_all(&ReadAllOptions::default().position(at(&event)).max_count(1)).await.unwrap();
            assert_eq!(vec![event.id], recorded_ids(&read));
        }
    });
}

/// 25.
#[test]
fn a_read_backwards_leaves_out_the_event_at_the_position() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 5).await;
        let events = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        let options = ReadAllOptions::default().backwards().position(at(&events[3])).max_count(2);
        let read = server.read_all(&options).await.unwrap();
        assert_eq!(vec![events[2].id, events[1].id], recorded_ids(&read));
    });
}

/// 26.
#[test]
fn a_read_backwards_from_the_end_is_newest_first() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 50).await;
        let options =
            ReadAllOptions::default().position(StreamPosition::End).filter(stream_prefix(&stream)).max_count(20);
        let read = server.read_all(&options).await.unwrap();
        assert_eq!((30..50).rev().collect::<Vec<_>>(), revisions(&read));

        // Others write at the same time, so ours need not be the very last.
        let options = ReadAllOptions::default().position(StreamPosition::End).max_count(5);
        let read = server.read_all(&options).await.unwrap();
        assert_eq!(5, read.len());
        assert!(read.windows(2).all(|pair| pair[0].position > pair[1].position), "{read:?}");
    });
}

/// The log begins with events of the server's own.
#[test]
fn a_read_forwards_from_the_start_is_oldest_first() {
    on_server(async |server| {
        server.fill(&server.stream(), 5).await;
        let read = server.read_all(&ReadAllOptions::default().max_count(5)).await.unwrap();
        assert_eq!(5, read.len());
        assert!(read.windows(2).all(|pair| pair[0].position < pair[1].position), "{read:?}");
    });
}

#[test]
fn there_is_nothing_before_the_start_and_after_the_end() {
    on_server(async |server| {
        server.mark().await;
        for read in [Read::all().backwards(), Read::all().at_end()] {
            let contents = server.raw_read(read.count(10)).await.unwrap();
            assert!(contents.is_empty(), "{contents:?}");
        }
    });
}

#[test]
fn a_read_forwards_from_inside_an_event_is_an_unknown_error() {
    on_server(async |server| {
        let inside = server.mark().await.commit + 1;
        let status = server.raw_read(Read::all().at_position(inside, inside).count(1)).await.unwrap_err();
        assert_eq!(Code::Unknown, status.code(), "{status:?}");
    });
}

#[test]
fn a_read_backwards_from_inside_an_event_is_an_unknown_error() {
    on_server(async |server| {
        let inside = server.mark().await.commit + 1;
        let read = Read::all().at_position(inside, inside).backwards().count(1);
        let status = server.raw_read(read).await.unwrap_err();
        assert_eq!(Code::Unknown, status.code(), "{status:?}");
    });
}

/// The events of metadata and of tombstones are part of the log as all others.
#[test]
fn the_log_shows_the_events_of_system_streams() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let written = server.set_metadata(&stream, &serde_json::json!({ "a": 1 })).await;
        let options = ReadAllOptions::default().position(StreamPosition::Position(written.position)).max_count(1);
        let read = server.read_all(&options).await.unwrap();
        assert_eq!(format!("$${stream}"), read[0].stream_id());
        assert_eq!("$metadata", read[0].event_type);

        server.tombstone(&stream, Expect::Any).await.unwrap();
        let options = options.filter(stream_prefix(&stream));
        let read = server.read_all(&options).await.unwrap();
        assert_eq!(("$streamDeleted", i64::MAX.cast_unsigned()), (read[0].event_type.as_str(), read[0].revision));
    });
}
