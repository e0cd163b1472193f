//! Appends that share one call.

use std::time::{Duration, SystemTime};

use eventstore::{BatchAppendOptions, Error, ReadStreamOptions, StreamState};
use testkit::proto::shared::wrong_expected_version::{CurrentStreamRevisionOption, ExpectedStreamPositionOption};
use testkit::proto::shared::{MaximumAppendSizeExceeded, StreamDeleted, Timeout, WrongExpectedVersion};
use testkit::proto::streams::batch_append_req::options::DeadlineOption;
use testkit::proto::streams::batch_append_resp::success::{CurrentRevisionOption, PositionOption};
use tonic::Code;
use uuid::Uuid;

use crate::server::{Event, events, ids, on_server, recorded_ids, soon};
use crate::wire::{BatchResult, Expect, batch, proposed, refused, structured, text};

/// The revision and the position that a batch was answered with.
fn written(result: BatchResult) -> (u64, (u64, u64)) {
    let BatchResult::Success(success) = result else { panic!("no success: {result:?}") };
    let Some(CurrentRevisionOption::CurrentRevision(revision)) = success.current_revision_option else {
        panic!("no revision: {success:?}")
    };
    let Some(PositionOption::Position(position)) = success.position_option else { panic!("no position: {success:?}") };
    (revision, (position.commit_position, position.prepare_position))
}

#[test]
fn a_batch_answers_with_the_revision_and_position_of_its_last_event() {
    on_server(async |server| {
        let stream = server.stream();
        let events = events(3);
        let (revision, position) = written(server.batches().ask(batch(&stream, Expect::NoStream, &events)).await);
        assert_eq!(2, revision);
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&events), recorded_ids(&read));
        assert_eq!((read[2].position.commit, read[2].position.prepare), position);
        assert_eq!(events[2].data, read[2].data);
        assert_eq!(events[2].custom, read[2].custom_metadata);
    });
}

/// 14. The stream is echoed too.
#[test]
fn a_reply_has_the_correlation_id_in_the_form_it_was_sent_in() {
    on_server(async |server| {
        let stream = server.stream();
        let mut batches = server.batches();
        for correlation_id in [text(Uuid::new_v4()), structured(Uuid::new_v4())] {
            let mut request = batch(&stream, Expect::Any, &[Event::new()]);
            request.correlation_id = Some(correlation_id.clone());
            batches.send(request);
            let reply = batches.reply().await;
            assert_eq!(Some(correlation_id), reply.correlation_id);
            assert_eq!(stream.as_bytes(), reply.stream_identifier.expect("a stream").stream_name);
        }
    });
}

/// 15.
#[test]
fn a_batch_in_two_messages_is_one_write() {
    on_server(async |server| {
        let stream = server.stream();
        let events = events(5);
        let mut first = batch(&stream, Expect::NoStream, &events[..3]);
        first.is_final = false;
        let mut second = first.clone();
        second.options = None;
        second.proposed_messages = events[3..].iter().map(proposed).collect();
        second.is_final = true;

        let mut batches = server.batches();
        batches.send(first);
        let (revision, _) = written(batches.ask(second).await);
        assert_eq!(4, revision);
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&events), recorded_ids(&read));
    });
}

/// 15. Messages are gathered by their correlation id.
#[test]
fn batches_in_pieces_may_be_mixed() {
    on_server(async |server| {
        let streams = [server.stream(), server.stream()];
        let events = [events(2), events(2)];
        let pieces = [0, 1].map(|which| {
            let mut first = batch(&streams[which], Expect::NoStream, &events[which][..1]);
            first.is_final = false;
            let mut second = first.clone();
            second.options = None;
            second.proposed_messages = events[which][1..].iter().map(proposed).collect();
            second.is_final = true;
            (first, second)
        });
        let [(first, first_end), (second, second_end)] = pieces;
        let mut batches = server.batches();
        batches.send(first);
        batches.send(second);
        assert_eq!(1, written(batches.ask(second_end).await).0);
        assert_eq!(1, written(batches.ask(first_end).await).0);
        for (stream, events) in streams.iter().zip(&events) {
            let read = server.read(stream, &ReadStreamOptions::default()).await.unwrap();
            assert_eq!(ids(events), recorded_ids(&read));
        }
    });
}

#[test]
fn a_batch_sent_again_is_known() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let events = events(2);
        let mut batches = server.batches();
        for expect in [Expect::At(0), Expect::At(0), Expect::Any] {
            let again = written(batches.ask(batch(&stream, expect, &events)).await);
            let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
            assert_eq!(3, read.len());
            assert_eq!((2, (read[2].position.commit, read[2].position.prepare)), again);
        }
    });
}

/// 16.
#[test]
fn a_deadline_of_zero_is_passed_at_once() {
    on_server(async |server| {
        let mut request = batch(&server.stream(), Expect::Any, &[Event::new()]);
        let options = request.options.as_mut().unwrap();
        options.deadline_option = Some(DeadlineOption::Deadline(prost_types::Duration::default()));
        let (status, _) = refused::<Timeout>(server.batches().ask(request).await, "Timeout");
        assert_eq!(Code::DeadlineExceeded as i32, status.code);
        assert_eq!("Timeout", status.message);
    });
}

/// The Rust client sends the moment since the epoch as a length, older ones a moment.
#[test]
fn a_deadline_may_be_a_length_or_a_moment() {
    on_server(async |server| {
        let stream = server.stream();
        let later = SystemTime::now() + Duration::from_secs(600);
        let since_the_epoch = later.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let length = |length: Duration| DeadlineOption::Deadline(length.try_into().unwrap());
        let mut batches = server.batches();
        for deadline in
            [length(Duration::from_secs(5)), length(since_the_epoch), DeadlineOption::Deadline21100(later.into())]
        {
            let mut request = batch(&stream, Expect::Any, &[Event::new()]);
            request.options.as_mut().unwrap().deadline_option = Some(deadline);
            written(batches.ask(request).await);
        }
        assert_eq!(vec![0, 1, 2], server.revisions(&stream).await.unwrap());
    });
}

/// 17.
#[test]
fn a_wrong_version_is_an_item_with_details_and_the_call_goes_on() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        let mut batches = server.batches();
        for (expect, told) in [
            (Expect::NoStream, ExpectedStreamPositionOption::ExpectedNoStream(())),
            (Expect::At(0), ExpectedStreamPositionOption::ExpectedStreamPosition(0)),
            (Expect::At(5), ExpectedStreamPositionOption::ExpectedStreamPosition(5)),
        ] {
            let result = batches.ask(batch(&stream, expect, &[Event::new()])).await;
            let (status, details) = refused::<WrongExpectedVersion>(result, "WrongExpectedVersion");
            assert_eq!((Code::AlreadyExists as i32, "WrongExpectedVersion"), (status.code, status.message.as_str()));
            let current = CurrentStreamRevisionOption::CurrentStreamRevision(1);
            assert_eq!(Some(current), details.current_stream_revision_option);
            assert_eq!(Some(told), details.expected_stream_position_option);
        }

        let result = batches.ask(batch(&server.stream(), Expect::Exists, &[Event::new()])).await;
        let (_, details) = refused::<WrongExpectedVersion>(result, "WrongExpectedVersion");
        let none = CurrentStreamRevisionOption::CurrentNoStream(());
        assert_eq!(Some(none), details.current_stream_revision_option);
        let exists = ExpectedStreamPositionOption::ExpectedStreamExists(());
        assert_eq!(Some(exists), details.expected_stream_position_option);

        assert_eq!(2, written(batches.ask(batch(&stream, Expect::At(1), &[Event::new()])).await).0);
    });
}

#[test]
fn a_batch_to_a_tombstoned_stream_is_not_found() {
    on_server(async |server| {
        let stream = server.stream();
        server.tombstone(&stream, Expect::NoStream).await.unwrap();
        let result = server.batches().ask(batch(&stream, Expect::Any, &[Event::new()])).await;
        let (status, details) = refused::<StreamDeleted>(result, "StreamDeleted");
        assert_eq!((Code::NotFound as i32, "StreamDeleted"), (status.code, status.message.as_str()));
        assert_eq!(stream.as_bytes(), details.stream_identifier.expect("the stream").stream_name);
    });
}

#[test]
fn a_batch_of_more_than_a_mebibyte_is_invalid_and_writes_nothing() {
    on_server(async |server| {
        let stream = server.stream();
        let mut batches = server.batches();
        let too_large = [Event::of_size(700 * 1024), Event::of_size(400 * 1024)];
        let result = batches.ask(batch(&stream, Expect::Any, &too_large)).await;
        let (status, details) = refused::<MaximumAppendSizeExceeded>(result, "MaximumAppendSizeExceeded");
        assert_eq!(Code::InvalidArgument as i32, status.code);
        assert_eq!(1024 * 1024, details.max_append_size);
        assert!(matches!(server.revisions(&stream).await, Err(Error::ResourceNotFound)));
        assert_eq!(0, written(batches.ask(batch(&stream, Expect::NoStream, &[Event::new()])).await).0);
    });
}

/// The hot path of our commands: many in flight on one call, each answered by its own.
#[test]
fn many_batches_in_flight_are_each_answered() {
    on_server(async |server| {
        let session = server.client.batch_append(&BatchAppendOptions::default()).await.unwrap();
        let streams: Vec<_> = (0..100).map(|_| server.stream()).collect();
        let appends = streams.iter().map(|stream| {
            let events = vec![Event::new().into(), Event::new().into()];
            session.append_to_stream(stream, StreamState::NoStream, events)
        });
        let results = soon("the batches", futures::future::join_all(appends)).await;
        for (stream, result) in streams.iter().zip(results) {
            let result = result.unwrap();
            assert_eq!((stream.as_str(), Some(1)), (result.stream_name(), result.current_revision()));
            assert!(result.current_position().is_some());
            assert_eq!(vec![0, 1], server.revisions(stream).await.unwrap());
        }
    });
}

/// Batches to one stream are written in the order in which they were sent.
#[test]
fn batches_in_flight_to_one_stream_keep_their_order() {
    on_server(async |server| {
        let stream = server.stream();
        let events = events(50);
        let mut batches = server.batches();
        for (number, event) in events.iter().enumerate() {
            let expect = number.checked_sub(1).map_or(Expect::NoStream, |last| Expect::At(last as u64));
            batches.send(batch(&stream, expect, std::slice::from_ref(event)));
        }
        for _ in &events {
            written(batches.reply().await.result.expect("a result"));
        }
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        assert_eq!(ids(&events), recorded_ids(&read));
    });
}

#[test]
fn the_client_sees_a_wrong_version_in_a_batch_as_already_exists() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let session = server.client.batch_append(&BatchAppendOptions::default()).await.unwrap();
        let append = session.append_to_stream(&stream, StreamState::NoStream, vec![Event::new().into()]);
        let result = soon("a batch", append).await;
        assert!(matches!(result, Err(Error::Grpc { code: Code::AlreadyExists, .. })), "{result:?}");
    });
}
