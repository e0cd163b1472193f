//! Catch-up subscriptions: what was there, then what comes.

use std::time::Duration;

use eventstore::{Error, ReadStreamOptions, StreamPosition, StreamState, SubscribeToAllOptions, SubscriptionEvent};
use tonic::Code;

use crate::server::{Event, Feed, events, ids, on_server, stream_prefix};
use crate::wire::{Expect, Read, assert_stream_deleted};

/// 42.
#[test]
fn a_subscription_from_the_start_tells_what_was_there_and_then_what_comes() {
    on_server(async |server| {
        let stream = server.stream();
        let mut all = server.fill(&stream, 3).await;
        let mut feed = server.subscribe(&stream, StreamPosition::Start).await;
        feed.confirmed().await;
        for (revision, event) in all.iter().enumerate() {
            let told = feed.event().await;
            assert_eq!((event.id, revision as u64), (told.id, told.revision));
        }
        feed.caught_up().await;
        for revision in 3..6 {
            all.push(Event::new());
            server.append(&stream, StreamState::Any, &all[revision..]).await.unwrap();
            let told = feed.event().await;
            assert_eq!((all[revision].id, revision as u64), (told.id, told.revision));
            assert_eq!((&all[revision].data, stream.as_str()), (&told.data, told.stream_id()));
        }
    });
}

/// 43.
#[test]
fn a_subscription_from_the_end_tells_only_what_comes() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let mut feed = server.subscribe(&stream, StreamPosition::End).await;
        feed.confirmed().await;
        feed.caught_up().await;
        server.append(&stream, StreamState::Any, &events(2)).await.unwrap();
        assert_eq!(3, feed.event().await.revision);
        assert_eq!(4, feed.event().await.revision);
    });
}

/// 43.
#[test]
fn a_subscription_to_all_from_the_end_tells_only_what_comes() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let mut feed = server.subscribe_all(StreamPosition::End, stream_prefix(&stream)).await;
        feed.confirmed().await;
        for message in feed.until_caught_up().await {
            assert!(matches!(message, SubscriptionEvent::Checkpoint(_)), "{message:?}");
        }
        server.append(&stream, StreamState::Any, &events(2)).await.unwrap();
        assert_eq!(3, feed.next_event().await.revision);
        assert_eq!(4, feed.next_event().await.revision);
    });
}

/// 44.
#[test]
fn a_subscription_from_a_revision_begins_with_the_next() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 5).await;
        let mut feed = server.subscribe(&stream, StreamPosition::Position(2)).await;
        feed.confirmed().await;
        assert_eq!(3, feed.event().await.revision);
        assert_eq!(4, feed.event().await.revision);
        feed.caught_up().await;
    });
}

#[test]
fn a_subscription_with_nothing_to_catch_up_is_confirmed_and_has_caught_up() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 5).await;
        let mut feed = server.subscribe(&stream, StreamPosition::Position(4)).await;
        feed.confirmed().await;
        feed.caught_up().await;
        server.append(&stream, StreamState::Any, &[Event::new()]).await.unwrap();
        assert_eq!(5, feed.event().await.revision);
    });
}

#[test]
fn a_subscription_from_beyond_the_end_passes_over_what_comes_until_then() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        let mut feed = server.subscribe(&stream, StreamPosition::Position(4)).await;
        feed.confirmed().await;
        feed.caught_up().await;
        for _ in 0..5 {
            server.append(&stream, StreamState::Any, &[Event::new()]).await.unwrap();
        }
        assert_eq!(5, feed.next_event().await.revision);
        assert_eq!(6, feed.next_event().await.revision);
    });
}

/// 44.
#[test]
fn a_subscription_to_all_from_a_position_begins_with_the_next_event() {
    on_server(async |server| {
        let stream = server.stream();
        let events = server.fill(&stream, 5).await;
        let read = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        let from = StreamPosition::Position(read[1].position);

        // The append is contiguous, so the next events of all are ours.
        let options = SubscribeToAllOptions::default().position(from);
        let mut feed = Feed::new(server.client.subscribe_to_all(&options).await);
        feed.confirmed().await;
        for event in &read[2..] {
            let told = feed.event().await;
            assert_eq!((event.id, event.revision, event.position), (told.id, told.revision, told.position));
        }

        let mut feed = server.subscribe_all(from, stream_prefix(&stream)).await;
        feed.confirmed().await;
        for event in &events[2..] {
            assert_eq!(event.id, feed.next_event().await.id);
        }
    });
}

/// 45.
#[test]
fn a_subscription_to_a_missing_stream_tells_its_first_event() {
    on_server(async |server| {
        for from in [StreamPosition::Start, StreamPosition::End] {
            let stream = server.stream();
            let mut feed = server.subscribe(&stream, from).await;
            feed.confirmed().await;
            feed.caught_up().await;
            server.append(&stream, StreamState::NoStream, &events(2)).await.unwrap();
            assert_eq!(0, feed.event().await.revision);
            assert_eq!(1, feed.event().await.revision);
        }
    });
}

/// 46.
#[test]
fn a_tombstone_is_told_and_ends_the_subscription() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        let mut feed = server.subscribe(&stream, StreamPosition::Start).await;
        feed.confirmed().await;
        feed.event().await;
        feed.caught_up().await;
        let mut messages = server.open(Read::stream(&stream).at_end().subscription()).await;
        messages.confirmed().await;
        messages.caught_up().await;

        server.tombstone(&stream, Expect::Any).await.unwrap();
        let told = feed.event().await;
        assert_eq!(("$streamDeleted", i64::MAX.cast_unsigned()), (told.event_type.as_str(), told.revision));
        let end = feed.next().await;
        assert!(matches!(end, Err(Error::ResourceDeleted)), "{end:?}");

        let told = messages.event().await.event.expect("an event");
        assert_eq!("$streamDeleted", told.metadata["type"]);
        assert_stream_deleted(&messages.next().await.unwrap_err(), &stream);
    });
}

#[test]
fn a_subscription_to_a_tombstoned_stream_is_not_confirmed() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 1).await;
        server.tombstone(&stream, Expect::Any).await.unwrap();
        for read in [Read::stream(&stream), Read::stream(&stream).at_end(), Read::stream(&stream).at_revision(0)] {
            let mut messages = server.open(read.subscription()).await;
            assert_stream_deleted(&messages.next().await.unwrap_err(), &stream);
        }
    });
}

#[test]
fn a_soft_delete_does_not_end_a_subscription() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 2).await;
        let mut feed = server.subscribe(&stream, StreamPosition::Start).await;
        feed.confirmed().await;
        feed.event().await;
        feed.event().await;
        feed.caught_up().await;
        server.delete(&stream, Expect::Any).await.unwrap();
        server.append(&stream, StreamState::Any, &[Event::new()]).await.unwrap();
        assert_eq!(2, feed.next_event().await.revision);
    });
}

#[test]
fn a_subscription_from_inside_an_event_is_confirmed_and_then_invalid() {
    on_server(async |server| {
        let inside = server.mark().await.commit + 1;
        let mut messages = server.open(Read::all().at_position(inside, inside).subscription()).await;
        messages.confirmed().await;
        assert_eq!(Code::InvalidArgument, messages.failure().await.code());
    });
}

/// Far more than the server holds for a live subscriber.
#[test]
fn a_long_past_is_told_in_order() {
    on_server(async |server| {
        let stream = server.stream();
        let mut all = Vec::new();
        for _ in 0..10 {
            let events = events(200);
            server.append(&stream, StreamState::Any, &events).await.unwrap();
            all.extend(events);
        }
        let mut feed = server.subscribe(&stream, StreamPosition::Start).await;
        feed.confirmed().await;
        let mut told = Vec::new();
        while told.len() < all.len() {
            told.push(feed.event().await.id);
        }
        assert_eq!(ids(&all), told);
        feed.caught_up().await;
    });
}

/// A subscriber that is late is served from the log again: nothing is lost or doubled.
#[test]
fn a_subscriber_that_does_not_keep_up_misses_nothing() {
    on_server(async |server| {
        let stream = server.stream();
        let mut feed = server.subscribe(&stream, StreamPosition::Start).await;
        feed.confirmed().await;
        feed.caught_up().await;
        let mut of_all = server.subscribe_all(StreamPosition::End, stream_prefix(&stream)).await;
        of_all.confirmed().await;
        of_all.until_caught_up().await;

        let mut all = Vec::new();
        for _ in 0..100 {
            let events = events(20);
            server.write(&stream, Expect::Any, &events).await;
            all.extend(events);
        }
        for feed in [&mut feed, &mut of_all] {
            let mut told = Vec::new();
            while told.len() < all.len() {
                told.push(feed.next_event().await.id);
            }
            assert_eq!(ids(&all), told);
        }
    });
}

/// Where the past ends and the present begins, nothing falls between.
#[test]
fn events_written_while_a_subscription_catches_up_are_told_once_in_order() {
    on_server(async |server| {
        let stream = server.stream();
        server.fill(&stream, 300).await;
        let mut writer = tokio::task::JoinSet::new();
        let written = stream.clone();
        writer.spawn(async move {
            loop {
                server.write(&written, Expect::Any, &[Event::new()]).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        for _ in 0..5 {
            let mut feed = server.subscribe(&stream, StreamPosition::Start).await;
            let now = StreamPosition::Position(server.mark().await);
            let mut of_all = server.subscribe_all(now, stream_prefix(&stream)).await;
            let first = of_all.next_event().await.revision;
            for revision in first + 1..first + 11 {
                assert_eq!(revision, of_all.next_event().await.revision);
            }
            for revision in 0..320 {
                assert_eq!(revision, feed.next_event().await.revision);
            }
        }
    });
}
