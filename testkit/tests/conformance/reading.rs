//! Reads of a stream.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use eventstore::{Error, ReadEvent, ReadStreamOptions, StreamPosition, StreamState};
use serde_json::json;
use testkit::proto::streams::read_resp::RecordedEvent;
use testkit::proto::streams::read_resp::read_event::Position;
use tonic::Code;

use crate::server::{Event, Server, ids, on_server, recorded_ids, revisions, soon};
use crate::wire::{Content, Expect, Filter, Id, IdForm, Read, proposed};

/// A read as the client tells it: the stream's ends, as far as they are told, and
/// the revisions between them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    first: Option<u64>,
    revisions: Vec<u64>,
    last: Option<u64>,
}

async fn told(server: &Server, stream: &str, options: &ReadStreamOptions) -> Told {
    let mut read = soon("a read", server.client.read_stream(stream, options)).await.unwrap();
    let mut told = Told::default();
    while let Some(message) = soon("a message", read.next_read_event()).await.unwrap() {
        assert_eq!(None, told.last, "the last position is the last message");
        match message {
            ReadEvent::FirstStreamPosition(first) => {
                assert!(told.revisions.is_empty(), "the first position comes before the events");
                told.first = Some(first);
            }
            ReadEvent::Event(event) => told.revisions.push(event.get_original_event().revision),
            ReadEvent::LastStreamPosition(last) => told.last = Some(last),
            ReadEvent::LastAllStreamPosition(position) => panic!("a position of $all: {position}"),
        }
    }
    told
}

/// The events of a bare read, alone.
fn recorded(contents: Vec<Content>) -> Vec<RecordedEvent> {
    let event = |content| match content {
        Content::Event(event) => event.event.expect("an event"),
        other => panic!("not an event: {other:?}"),
    };
    contents.into_iter().map(event).collect()
}

/// 18.
#[test]
fn events_are_read_as_they_were_written() {
    on_server(async |server| {
        let stream = server.stream();
        let events = [
            Event::of("Ключ 鍵"),
            Event { data: Bytes::new(), custom: Bytes::new(), ..Event::of_size(0) },
            Event { data: vec![0, 255, 10].into(), custom: vec![254, 0].into(), ..Event::of_size(3) },
        ];
        server.append(&stream, StreamState::NoStream, &events).await.unwrap();
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(vec![0, 1, 2], revisions(&read));
        for (event, read) in events.iter().zip(&read) {
            assert_eq!((stream.as_str(), event.id), (read.stream_id(), read.id));
            assert_eq!(event.kind, read.event_type);
            assert_eq!((&event.data, &event.custom), (&read.data, &read.custom_metadata));
            assert_eq!(event.content_type == "application/json", read.is_json);
        }
    });
}

/// 18. Other keys of a writer are dropped, and a content type is one of two.
#[test]
fn the_metadata_of_a_read_event_has_exactly_three_keys() {
    on_server(async |server| {
        let stream = server.stream();
        let types = [
            ("application/json", "application/json"),
            ("application/octet-stream", "application/octet-stream"),
            ("text/plain", "application/octet-stream"),
            ("application/json; charset=utf-8", "application/octet-stream"),
        ];
        let messages = types.map(|(sent, _)| {
            let mut message = proposed(&Event { content_type: sent.into(), ..Event::new() });
            message.metadata.insert("colour".into(), "blue".into());
            message.metadata.insert("created".into(), "1".into());
            message
        });
        server.raw_append(&stream, Expect::NoStream, messages.into()).await.unwrap();

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let read = recorded(server.raw_read(Read::stream(&stream)).await.unwrap());
        assert_eq!(types.len(), read.len());
        for (event, (_, content_type)) in read.iter().zip(types) {
            let keys: HashSet<_> = event.metadata.keys().map(String::as_str).collect();
            assert_eq!(HashSet::from(["type", "content-type", "created"]), keys);
            assert_eq!("Happened", event.metadata["type"]);
            assert_eq!(content_type, event.metadata["content-type"]);
            let ticks: u64 = event.metadata["created"].parse().expect("a decimal count");
            let apart = now.abs_diff(ticks / 10_000_000);
            assert!(apart < 24 * 3600, "created {apart} s from now, as far as this machine's clock knows");
        }
    });
}

#[test]
fn a_read_event_has_its_position_beside_it() {
    on_server(async |server| {
        let stream = server.stream();
        let written = server.append(&stream, StreamState::NoStream, &[Event::new()]).await.unwrap();
        let contents = server.raw_read(Read::stream(&stream)).await.unwrap();
        let [Content::Event(read)] = &contents[..] else { panic!("not one event: {contents:?}") };
        assert_eq!(Some(Position::CommitPosition(written.position.commit)), read.position);
        assert!(read.link.is_none());
        let event = read.event.as_ref().expect("an event");
        assert_eq!(
            (written.position.commit, written.position.prepare),
            (event.commit_position, event.prepare_position)
        );
    });
}

#[test]
fn ids_have_the_form_that_the_read_asks_for() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 1).await;
        let (most, least) = events[0].id.as_u64_pair();
        for (form, textual) in [(Some(IdForm::String(())), true), (Some(IdForm::Structured(())), false), (None, false)]
        {
            let read = recorded(server.raw_read(Read::stream(&stream).ids_as(form)).await.unwrap());
            match read[0].id.clone().and_then(|id| id.value).expect("an id") {
                Id::String(id) => {
                    assert!(textual, "text for {form:?}");
                    assert_eq!(events[0].id.to_string(), id.to_lowercase());
                }
                Id::Structured(id) => {
                    assert!(!textual, "numbers for {form:?}");
                    let halves = (id.most_significant_bits.cast_unsigned(), id.least_significant_bits.cast_unsigned());
                    assert_eq!((most, least), halves);
                }
            }
        }
    });
}

#[test]
fn a_read_that_says_nothing_of_ids_is_invalid() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let status = server.raw_read(Read::stream(&stream).without_id_option()).await.unwrap_err();
        assert_eq!(Code::InvalidArgument, status.code());
    });
}

#[test]
fn options_that_do_not_go_together_are_invalid() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let filtered = Read::stream(&stream).filter(Filter::stream_prefixes(&[&stream]));
        let backwards = Read::stream(&stream).backwards().subscription();
        for read in [filtered.clone(), filtered.subscription(), backwards, Read::all().backwards().subscription()] {
            let status = server.open(read).await.failure().await;
            assert_eq!(Code::InvalidArgument, status.code(), "{status:?}");
        }
    });
}

/// 19.
#[test]
fn a_count_stops_a_read_and_the_last_revision_is_told() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 100).await;
        let read = told(server, &stream, &ReadStreamOptions::default().max_count(50)).await;
        assert_eq!(Told { first: None, revisions: (0..50).collect(), last: Some(99) }, read);
        let read = told(server, &stream, &ReadStreamOptions::default()).await;
        assert_eq!(Told { first: None, revisions: (0..100).collect(), last: Some(99) }, read);
    });
}

/// 20.
#[test]
fn a_read_forwards_begins_with_the_revision_asked_for() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 100).await;
        let options = ReadStreamOptions::default().position(StreamPosition::Position(60)).max_count(20);
        let read = told(server, &stream, &options).await;
        assert_eq!(Told { first: None, revisions: (60..80).collect(), last: Some(99) }, read);
    });
}

/// 21.
#[test]
fn the_first_visible_revision_is_told_if_the_first_page_shows_nothing() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 100).await;
        server.set_metadata(&stream, &json!({ "$tb": 81 })).await;
        let read = told(server, &stream, &ReadStreamOptions::default().max_count(10)).await;
        assert_eq!(Told { first: Some(81), revisions: (81..91).collect(), last: Some(99) }, read);

        // Here the first page shows the first visible event.
        let options = ReadStreamOptions::default().position(StreamPosition::Position(75)).max_count(10);
        let read = told(server, &stream, &options).await;
        assert_eq!(None, read.first);
        assert_eq!(Some(81), read.revisions.first().copied());
    });
}

#[test]
fn a_read_from_beyond_the_end_tells_where_the_stream_would_go_on() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 10).await;
        let beyond = |revision| ReadStreamOptions::default().position(StreamPosition::Position(revision));
        let read = told(server, &stream, &beyond(15)).await;
        assert_eq!(Told { first: Some(10), revisions: vec![], last: Some(9) }, read);
        let read = told(server, &stream, &beyond(10)).await;
        assert_eq!(Told { first: None, revisions: vec![], last: Some(9) }, read);
    });
}

#[test]
fn the_ends_of_a_stream_are_told_only_to_who_asks() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let contents = server.raw_read(Read::stream(&stream)).await.unwrap();
        assert_eq!(3, recorded(contents).len());
        let contents = server.raw_read(Read::stream(&stream).with_ends().count(1)).await.unwrap();
        assert!(matches!(contents[..], [Content::Event(_), Content::LastStreamPosition(2)]), "{contents:?}");
    });
}

/// 22. The last revision is told here too, the first never.
#[test]
fn a_read_backwards_from_the_end_is_newest_first() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 50).await;
        let options = ReadStreamOptions::default().position(StreamPosition::End);
        let read = server.read(&stream, &options).await.unwrap();
        assert_eq!((0..50).rev().collect::<Vec<_>>(), revisions(&read));
        assert_eq!(ids(&events).into_iter().rev().collect::<Vec<_>>(), recorded_ids(&read));

        let read = told(server, &stream, &options.clone().max_count(1)).await;
        assert_eq!(Told { first: None, revisions: vec![49], last: Some(49) }, read);
        let read = told(server, &stream, &options.max_count(20)).await;
        assert_eq!(Told { first: None, revisions: (30..50).rev().collect(), last: Some(49) }, read);
    });
}

#[test]
fn a_read_backwards_includes_the_revision_asked_for() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 10).await;
        let from = |revision| ReadStreamOptions::default().backwards().position(StreamPosition::Position(revision));
        let read = told(server, &stream, &from(4).max_count(3)).await;
        assert_eq!(vec![4, 3, 2], read.revisions);
        let read = told(server, &stream, &from(1)).await;
        assert_eq!(vec![1, 0], read.revisions);
        let read = told(server, &stream, &from(1000).max_count(2)).await;
        assert_eq!(vec![9, 8], read.revisions);
    });
}

#[test]
fn a_read_backwards_goes_down_to_the_lowest_visible_revision() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 50).await;
        server.set_metadata(&stream, &json!({ "$tb": 7 })).await;
        let read = told(server, &stream, &ReadStreamOptions::default().position(StreamPosition::End)).await;
        assert_eq!(Told { first: None, revisions: (7..50).rev().collect(), last: Some(49) }, read);
    });
}

#[test]
fn a_read_backwards_from_the_start_gives_only_the_first_event() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let read = recorded(server.raw_read(Read::stream(&stream).backwards()).await.unwrap());
        assert_eq!(vec![0], read.iter().map(|event| event.stream_revision).collect::<Vec<_>>());
    });
}

#[test]
fn a_read_forwards_from_the_end_and_a_count_of_zero_are_unknown_errors() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        for read in [Read::stream(&stream).at_end(), Read::stream(&stream).count(0)] {
            let status = server.raw_read(read).await.unwrap_err();
            assert_eq!(Code::Unknown, status.code(), "{status:?}");
        }
    });
}

/// 23.
#[test]
fn a_missing_stream_is_not_found() {
    on_server(async |server| {
        let stream = server.stream();
        for options in [ReadStreamOptions::default(), ReadStreamOptions::default().position(StreamPosition::End)] {
            let read = server.read(&stream, &options).await;
            assert!(matches!(read, Err(Error::ResourceNotFound)), "{read:?}");
        }
        for read in [Read::stream(&stream), Read::stream(&stream).with_ends(), Read::stream(&stream).at_revision(5)] {
            let contents = server.raw_read(read).await.unwrap();
            let [Content::StreamNotFound(missing)] = &contents[..] else { panic!("{contents:?}") };
            let name = &missing.stream_identifier.as_ref().expect("the stream").stream_name;
            assert_eq!(stream.as_bytes(), name);
        }
    });
}

/// Missing is what has never been written, not what shows nothing.
#[test]
fn a_read_that_finds_nothing_visible_ends_without_events() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        server.set_metadata(&stream, &json!({ "$tb": 3 })).await;
        assert_eq!(Vec::<u64>::new(), server.revisions(&stream).await.unwrap());
        let backwards = ReadStreamOptions::default().position(StreamPosition::End);
        assert!(server.read(&stream, &backwards).await.unwrap().is_empty());
    });
}

/// What an acknowledged append has written is there for every read from then on.
#[test]
fn an_append_is_readable_once_it_is_answered() {
    on_server(async |server| {
        let stream = server.stream();
        for revision in 0..20 {
            server.write(&stream, Expect::Any, &[Event::new()]).await;
            let last = recorded(server.raw_read(Read::stream(&stream).backwards().at_end().count(1)).await.unwrap());
            assert_eq!(revision, last[0].stream_revision);
        }
    });
}
