//! Appends, and what they expect of the stream.

use eventstore::{CurrentRevision, Error, ReadStreamOptions, StreamState};
use serde_json::json;
use testkit::proto::streams::append_resp;
use testkit::proto::streams::append_resp::wrong_expected_version::{
    CurrentRevisionOption, CurrentRevisionOption2060, ExpectedRevisionOption, ExpectedRevisionOption2060,
};
use tonic::Code;
use uuid::Uuid;

use crate::server::{Event, Server, events, ids, on_server, recorded_ids};
use crate::wire::{AppendResult, Expect, exception, proposed, structured, trailer};

const MEBIBYTE: usize = 1024 * 1024;

/// Holds an append to be refused for the stream's present revision.
fn assert_conflict(
    result: eventstore::Result<eventstore::WriteResult>,
    expected: StreamState,
    current: CurrentRevision,
) {
    match result {
        Err(Error::WrongExpectedVersion { expected: told, current: is }) => {
            assert_eq!((expected, current), (told, is));
        }
        other => panic!("no wrong version: {other:?}"),
    }
}

/// 1.
#[test]
fn the_first_append_to_a_stream_has_revision_0_and_a_position() {
    on_server(async |server| {
        let written = server.append(&server.stream(), StreamState::NoStream, &[Event::new()]).await.unwrap();
        assert_eq!(0, written.next_expected_version);
        assert!(written.position.commit > 0);
        assert_eq!(written.position.commit, written.position.prepare);
    });
}

/// 2.
#[test]
fn appends_with_any_count_up() {
    on_server(async |server| {
        let stream = server.stream();
        for revision in 0..2 {
            let written = server.append(&stream, StreamState::Any, &[Event::new()]).await.unwrap();
            assert_eq!(revision, written.next_expected_version);
        }
    });
}

/// 3.
#[test]
fn an_append_of_100_events_answers_with_the_revision_of_the_last() {
    on_server(async |server| {
        let written = server.append(&server.stream(), StreamState::NoStream, &events(100)).await.unwrap();
        assert_eq!(99, written.next_expected_version);
    });
}

/// The usual life of a stream: each append at the revision that the last one gave.
#[test]
fn an_append_at_exactly_the_last_revision_succeeds() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let written = server.append(&stream, StreamState::StreamRevision(2), &events(2)).await.unwrap();
        assert_eq!(4, written.next_expected_version);
        assert_eq!(vec![0, 1, 2, 3, 4], server.revisions(&stream).await.unwrap());
    });
}

/// 4.
#[test]
fn no_stream_on_an_existing_stream_is_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        let again = server.append(&stream, StreamState::NoStream, &[Event::new()]).await;
        assert_conflict(again, StreamState::NoStream, CurrentRevision::Current(1));
        assert_eq!(vec![0, 1], server.revisions(&stream).await.unwrap());
    });
}

/// 5.
#[test]
fn an_exact_revision_of_a_missing_stream_is_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        let state = StreamState::StreamRevision(3);
        let appended = server.append(&stream, state, &[Event::new()]).await;
        assert_conflict(appended, state, CurrentRevision::NoStream);
        assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
    });
}

#[test]
fn an_exact_revision_above_or_below_the_last_is_a_wrong_version() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        for revision in [0, 1, 3, 100] {
            let state = StreamState::StreamRevision(revision);
            let appended = server.append(&stream, state, &[Event::new()]).await;
            assert_conflict(appended, state, CurrentRevision::Current(2));
        }
    });
}

/// 6.
#[test]
fn stream_exists_on_a_missing_stream_is_a_wrong_version() {
    on_server(async |server| {
        let appended = server.append(&server.stream(), StreamState::StreamExists, &[Event::new()]).await;
        assert_conflict(appended, StreamState::StreamExists, CurrentRevision::NoStream);
    });
}

/// 6.
#[test]
fn stream_exists_is_true_of_a_stream_with_events_or_only_metadata() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let written = server.append(&stream, StreamState::StreamExists, &[Event::new()]).await.unwrap();
        assert_eq!(1, written.next_expected_version);

        let bare = server.stream();
        server.set_metadata(&bare, &json!({ "about": "nothing yet" })).await;
        let written = server.append(&bare, StreamState::StreamExists, &[Event::new()]).await.unwrap();
        assert_eq!(0, written.next_expected_version);
    });
}

/// The wrong version is part of a good reply, with the twins of old clients beside it.
#[test]
fn a_wrong_version_is_told_in_the_reply_and_in_its_legacy_twins() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        for (expect, told, twin) in [
            (
                Expect::NoStream,
                ExpectedRevisionOption::ExpectedNoStream(()),
                ExpectedRevisionOption2060::ExpectedRevision2060(u64::MAX),
            ),
            (
                Expect::At(7),
                ExpectedRevisionOption::ExpectedRevision(7),
                ExpectedRevisionOption2060::ExpectedRevision2060(7),
            ),
        ] {
            let wrong = wrong(server, &stream, expect).await;
            assert_eq!(Some(CurrentRevisionOption::CurrentRevision(1)), wrong.current_revision_option);
            assert_eq!(Some(told), wrong.expected_revision_option);
            assert_eq!(Some(CurrentRevisionOption2060::CurrentRevision2060(1)), wrong.current_revision_option_20_6_0);
            assert_eq!(Some(twin), wrong.expected_revision_option_20_6_0);
        }

        let wrong = wrong(server, &server.stream(), Expect::Exists).await;
        assert_eq!(Some(CurrentRevisionOption::CurrentNoStream(())), wrong.current_revision_option);
        assert_eq!(Some(ExpectedRevisionOption::ExpectedStreamExists(())), wrong.expected_revision_option);
        assert_eq!(Some(CurrentRevisionOption2060::NoStream2060(())), wrong.current_revision_option_20_6_0);
        assert_eq!(Some(ExpectedRevisionOption2060::StreamExists2060(())), wrong.expected_revision_option_20_6_0);
    });
}

async fn wrong(server: &Server, stream: &str, expect: Expect) -> append_resp::WrongExpectedVersion {
    match server.raw_append(stream, expect, vec![proposed(&Event::new())]).await.unwrap() {
        AppendResult::WrongExpectedVersion(wrong) => wrong,
        other => panic!("no wrong version: {other:?}"),
    }
}

/// 11.
#[test]
fn zero_events_to_a_missing_stream_succeed_and_leave_it_missing() {
    on_server(async |server| {
        for expect in [Expect::NoStream, Expect::Any] {
            let stream = server.stream();
            let written = server.write(&stream, expect, &[]).await;
            assert_eq!(None, written.revision);
            assert!(written.position.is_some());
            assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
        }
    });
}

/// 11.
#[test]
fn zero_events_at_the_last_revision_succeed_and_below_it_do_not() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        let written = server.write(&stream, Expect::At(1), &[]).await;
        assert_eq!(Some(1), written.revision);
        assert!(written.position.is_some());

        wrong_without_events(server, &stream, Expect::At(0)).await;
        wrong_without_events(server, &stream, Expect::NoStream).await;
        assert_eq!(vec![0, 1], server.revisions(&stream).await.unwrap());
    });
}

async fn wrong_without_events(server: &Server, stream: &str, expect: Expect) {
    let result = server.raw_append(stream, expect, Vec::new()).await.unwrap();
    assert!(matches!(result, AppendResult::WrongExpectedVersion(_)), "{result:?}");
}

/// 13.
#[test]
fn an_append_of_more_than_a_mebibyte_is_invalid_and_writes_nothing() {
    on_server(async |server| {
        let stream = server.stream();
        let appended = server.append(&stream, StreamState::NoStream, &[Event::of_size(MEBIBYTE + 1)]).await;
        assert!(matches!(appended, Err(Error::Grpc { code: Code::InvalidArgument, .. })), "{appended:?}");

        let halves = [Event::of_size(MEBIBYTE / 2), Event::of_size(MEBIBYTE / 2 + 1)];
        let messages = halves.iter().map(proposed).collect();
        let status = server.raw_append(&stream, Expect::NoStream, messages).await.unwrap_err();
        assert_eq!(Code::InvalidArgument, status.code());
        assert_eq!("maximum-append-size-exceeded", exception(&status));
        assert_eq!(MEBIBYTE.to_string(), trailer(&status, "maximum-append-size"));
        assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
    });
}

/// 13. Newer servers count the type, twice its length, and the metadata as well.
#[test]
fn an_append_of_a_mebibyte_by_the_stricter_count_is_written() {
    on_server(async |server| {
        let stream = server.stream();
        let first = Event::of_size(MEBIBYTE / 2);
        let custom = bytes::Bytes::from(vec![b'.'; 1000]);
        let rest = MEBIBYTE / 2 - custom.len() - 2 * 2 * first.kind.len();
        let second = Event { custom, ..Event::of_size(rest) };
        let both = [first, second];
        server.append(&stream, StreamState::NoStream, &both).await.unwrap();
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&both), recorded_ids(&read));
        assert_eq!(rest, read[1].data.len());
    });
}

#[test]
fn an_event_without_type_or_content_type_is_invalid() {
    on_server(async |server| {
        let stream = server.stream();
        for missing in ["type", "content-type"] {
            let mut message = proposed(&Event::new());
            message.metadata.remove(missing);
            let status = server.raw_append(&stream, Expect::Any, vec![message]).await.unwrap_err();
            assert_eq!(Code::InvalidArgument, status.code());
            assert_eq!("missing-required-metadata-property", exception(&status));
            assert_eq!("type,content-type", trailer(&status, "required-metadata-properties"));
        }
        assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
    });
}

#[test]
fn an_empty_stream_name_a_nil_id_and_an_empty_type_are_unknown_errors() {
    on_server(async |server| {
        let stream = server.stream();
        let good = proposed(&Event::new());
        let mut nil = good.clone();
        nil.id = Some(structured(Uuid::nil()));
        let mut typeless = good.clone();
        typeless.metadata.insert("type".into(), String::new());
        for (stream, message) in [("", good), (&stream, nil), (&stream, typeless)] {
            let status = server.raw_append(stream, Expect::Any, vec![message]).await.unwrap_err();
            assert_eq!(Code::Unknown, status.code(), "{status:?}");
        }
        assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
    });
}

#[test]
fn names_and_types_may_be_any_text_of_any_length() {
    on_server(async |server| {
        for name in ["Ключ 鍵/😀@%00 \"quoted\"\n", &"long-".repeat(400)] {
            let stream = format!("{}-{name}", server.stream());
            let event = Event::of(name);
            server.append(&stream, StreamState::NoStream, std::slice::from_ref(&event)).await.unwrap();
            let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
            assert_eq!(vec![event.id], recorded_ids(&read));
            assert_eq!((stream.as_str(), name), (read[0].stream_id(), read[0].event_type.as_str()));
        }
    });
}

/// What optimistic concurrency rests on.
#[test]
fn of_appends_that_race_at_one_revision_exactly_one_is_written() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let racers: Vec<_> = (0..16)
            .map(|_| {
                let stream = stream.clone();
                tokio::spawn(async move {
                    let events = events(2);
                    let result = server.append(&stream, StreamState::StreamRevision(0), &events).await;
                    (events, result)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                (events, Ok(written)) => {
                    assert_eq!(2, written.next_expected_version);
                    winners.push(events);
                }
                (_, result) => {
                    assert_conflict(result, StreamState::StreamRevision(0), CurrentRevision::Current(2));
                }
            }
        }
        assert_eq!(1, winners.len());
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&winners[0]), recorded_ids(&read[1..]));
    });
}
