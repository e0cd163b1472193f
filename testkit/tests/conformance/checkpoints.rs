//! How far a filtered subscription has come where nothing of its own is written.

use eventstore::{Position, ReadStreamOptions, StreamPosition, StreamState, SubscriptionEvent};
use uuid::Uuid;

use crate::server::{Event, Feed, Server, events, ids, on_server, stream_prefix};
use crate::wire::{Content, Filter, Read};

/// What a filtered subscription tells, without the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Event(Uuid, Position),
    Checkpoint(Position),
}

impl Told {
    fn of(message: SubscriptionEvent) -> Self {
        match message {
            SubscriptionEvent::EventAppeared(event) => {
                let event = event.get_original_event();
                Self::Event(event.id, event.position)
            }
            SubscriptionEvent::Checkpoint(position) => Self::Checkpoint(position),
            other => panic!("neither an event nor a checkpoint: {other:?}"),
        }
    }

    fn id(&self) -> Option<Uuid> {
        match self {
            Self::Event(id, _) => Some(*id),
            Self::Checkpoint(_) => None,
        }
    }

    fn checkpoint(&self) -> Option<Position> {
        match self {
            Self::Event(..) => None,
            Self::Checkpoint(position) => Some(*position),
        }
    }
}

/// Subscribes from after a position, and tells what comes until it has caught up.
async fn catch_up(server: &Server, stream: &str, from: Position, window: u32) -> Vec<Told> {
    let (told, _) = catch_up_and_stay(server, stream, from, window).await;
    told
}

async fn catch_up_and_stay(server: &Server, stream: &str, from: Position, window: u32) -> (Vec<Told>, Feed) {
    let filter = stream_prefix(stream).max(window);
    let mut feed = server.subscribe_all(StreamPosition::Position(from), filter).await;
    feed.confirmed().await;
    let told = feed.until_caught_up().await.into_iter().map(Told::of).collect();
    (told, feed)
}

/// The next things told, until a condition holds or nothing comes any more.
async fn told_until(feed: &mut Feed, mut enough: impl FnMut(&[Told]) -> bool) -> Vec<Told> {
    let mut told = Vec::new();
    while !enough(&told) {
        match feed.next().await.unwrap() {
            // A subscriber that was late for a moment catches up again.
            SubscriptionEvent::CaughtUp(_) | SubscriptionEvent::FellBehind(_) => {}
            message => told.push(Told::of(message)),
        }
    }
    told
}

fn event_ids(told: &[Told]) -> Vec<Uuid> {
    told.iter().filter_map(Told::id).collect()
}

fn checkpoints(told: &[Told]) -> Vec<Position> {
    told.iter().filter_map(Told::checkpoint).collect()
}

/// Holds what is told to be in order: a checkpoint has reached all told before it, and
/// none told after it; no two are alike.
fn assert_in_order(told: &[Told]) {
    let mut reached = Position::start();
    let mut last_checkpoint = None;
    for one in told {
        match *one {
            Told::Event(_, position) => {
                assert!(position > reached, "{position} after {reached}: {told:?}");
                reached = position;
            }
            Told::Checkpoint(position) => {
                assert!(position >= reached, "checkpoint {position} after {reached}: {told:?}");
                assert!(Some(position) > last_checkpoint, "checkpoint {position} after {last_checkpoint:?}: {told:?}");
                (reached, last_checkpoint) = (position, Some(position));
            }
        }
    }
}

/// Holds that no more matches than the interval come between two checkpoints.
fn assert_interval(told: &[Told], interval: usize) {
    let runs = told.split(|one| one.checkpoint().is_some());
    for run in runs {
        assert!(run.len() <= interval, "{} matches without a checkpoint: {told:?}", run.len());
    }
}

/// Rounds of some events of the stream, and more of another's.
async fn write_mixed(server: &Server, stream: &str, rounds: usize, own: usize, others: usize) -> Vec<Event> {
    let other = server.stream();
    let mut all = Vec::new();
    for _ in 0..rounds {
        let events = events(own);
        server.append(stream, StreamState::Any, &events).await.unwrap();
        all.extend(events);
        server.append(&other, StreamState::Any, &self::events(others)).await.unwrap();
    }
    all
}

/// 47.
#[test]
fn a_subscription_that_matches_nothing_is_told_a_checkpoint_before_it_has_caught_up() {
    on_server(async |server| {
        server.mark().await;
        let mut feed = server.subscribe_all(StreamPosition::Start, stream_prefix(&server.stream())).await;
        feed.confirmed().await;
        let told: Vec<_> = feed.until_caught_up().await.into_iter().map(Told::of).collect();
        assert!(!told.is_empty());
        assert!(event_ids(&told).is_empty());
        assert_in_order(&told);
    });
}

#[test]
fn a_checkpoint_comes_right_before_a_subscription_has_caught_up() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let written = write_mixed(server, &stream, 2, 3, 5).await;
        let told = catch_up(server, &stream, from, 32).await;
        assert_eq!(ids(&written), event_ids(&told));
        assert!(told.last().is_some_and(|last| last.checkpoint().is_some()), "{told:?}");
        assert_in_order(&told);
    });
}

/// With a window of 10 and 300 events to pass, one checkpoint would be too few.
#[test]
fn a_subscription_is_told_checkpoints_while_it_catches_up() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let written = write_mixed(server, &stream, 5, 20, 40).await;
        let told = catch_up(server, &stream, from, 10).await;
        assert_eq!(ids(&written), event_ids(&told));
        assert!(checkpoints(&told).len() >= 5, "{told:?}");
        assert_in_order(&told);
        assert_interval(&told, 10);
    });
}

/// The second kind has no prepare position: it has reached all below its commit
/// position, but not the event there. The first page starts where the subscription does.
#[test]
fn a_checkpoint_while_catching_up_is_the_last_match_or_the_start_of_a_page() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        write_mixed(server, &stream, 4, 7, 35).await;
        let told = catch_up(server, &stream, from, 10).await;
        let mut last_match = from;
        for one in &told {
            match *one {
                Told::Event(_, position) => last_match = position,
                Told::Checkpoint(position) => {
                    let of_page = position.prepare == 0 && position.commit > 0;
                    assert!(of_page || last_match == position, "{position}: {told:?}");
                }
            }
        }
        assert!(checkpoints(&told).iter().any(|checkpoint| checkpoint.prepare == 0), "{told:?}");
    });
}

/// What a projector that starts again rests on.
#[test]
fn a_subscription_resumed_from_any_checkpoint_misses_nothing() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let written = write_mixed(server, &stream, 4, 7, 35).await;
        let told = catch_up(server, &stream, from, 10).await;
        assert_eq!(ids(&written), event_ids(&told));
        let mut resumed = 0;
        for (index, one) in told.iter().enumerate() {
            let Some(checkpoint) = one.checkpoint() else { continue };
            let again = event_ids(&catch_up(server, &stream, checkpoint, 10).await);
            let rest = event_ids(&told[index..]);
            assert!(again.ends_with(&rest), "from {checkpoint}: {again:?} instead of {rest:?}");
            resumed += 1;
        }
        assert!(resumed >= 4, "{told:?}");
    });
}

/// As clients do that keep the commit position alone.
#[test]
fn a_subscription_resumed_from_the_commit_position_of_a_checkpoint_misses_nothing() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        write_mixed(server, &stream, 3, 5, 25).await;
        let told = catch_up(server, &stream, from, 10).await;
        for (index, one) in told.iter().enumerate() {
            let Some(Position { commit, .. }) = one.checkpoint() else { continue };
            let again = event_ids(&catch_up(server, &stream, Position { commit, prepare: commit }, 10).await);
            let rest = event_ids(&told[index..]);
            assert!(again.ends_with(&rest), "from {commit}: {again:?} instead of {rest:?}");
        }
    });
}

/// 48. Other tests write as well, so there may be more than ours account for.
#[test]
fn a_live_subscription_is_told_a_checkpoint_for_every_so_many_commits() {
    on_server(async |server| {
        let from = server.mark().await;
        let (stream, other) = (server.stream(), server.stream());
        let (_, mut feed) = catch_up_and_stay(server, &stream, from, 10).await;
        let mut told = Vec::new();
        for _ in 0..5 {
            server.append(&other, StreamState::Any, &events(10)).await.unwrap();
            told.extend(told_until(&mut feed, |told| !told.is_empty()).await);
        }
        let read = server.read(&other, &ReadStreamOptions::default()).await.unwrap();
        let reached = |told: &[Told]| checkpoints(told).iter().any(|checkpoint| *checkpoint >= read[39].position);
        if !reached(&told) {
            told.extend(told_until(&mut feed, reached).await);
        }
        assert!(event_ids(&told).is_empty());
        assert!(checkpoints(&told).len() >= 4, "{told:?}");
        assert_in_order(&told);
    });
}

/// 48. A checkpoint comes behind the event at its position.
#[test]
fn live_events_and_checkpoints_come_in_the_order_of_the_log() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let (_, mut feed) = catch_up_and_stay(server, &stream, from, 10).await;
        let mut written = Vec::new();
        let mut told = Vec::new();
        for _ in 0..30 {
            let event = Event::new();
            server.append(&stream, StreamState::Any, std::slice::from_ref(&event)).await.unwrap();
            told.extend(told_until(&mut feed, |told| told.iter().any(|one| one.id() == Some(event.id))).await);
            written.push(event);
        }
        told.extend(
            told_until(&mut feed, |more| {
                let earlier = checkpoints(&told).len();
                earlier + checkpoints(more).len() >= 2
            })
            .await,
        );
        assert_eq!(ids(&written), event_ids(&told));
        assert_in_order(&told);
        assert_interval(&told, 10);
    });
}

/// A page is a window's worth of events looked at, a checkpoint as many pages' worth
/// as the multiplier says.
#[test]
fn a_multiplier_makes_checkpoints_rarer() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        server.fill(&stream, 60).await;
        let read = |multiplier| {
            let filter = Filter::stream_prefixes(&[&stream]).window(5).multiplier(multiplier);
            Read::all().at_position(from.commit, from.prepare).filter(filter).subscription()
        };
        for (multiplier, interval) in [(1, 5), (4, 20)] {
            let mut messages = server.open(read(multiplier)).await;
            messages.confirmed().await;
            let (mut run, mut longest, mut matches, mut checkpoints) = (0, 0, 0, 0);
            loop {
                match messages.next().await.unwrap().expect("no end") {
                    Content::Event(_) => {
                        run += 1;
                        matches += 1;
                    }
                    Content::Checkpoint(_) => {
                        longest = longest.max(run);
                        run = 0;
                        checkpoints += 1;
                    }
                    Content::CaughtUp(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((60, 0), (matches, run));
            assert!(longest <= interval, "{longest} matches without a checkpoint");
            assert!(checkpoints >= 60 / interval, "{checkpoints} checkpoints");
        }
    });
}

#[test]
fn a_multiplier_of_zero_is_an_error() {
    on_server(async |server| {
        let from = server.mark().await;
        let filter = Filter::stream_prefixes(&["conformance-"]).multiplier(0);
        let read = Read::all().at_position(from.commit, from.prepare).filter(filter).subscription();
        server.open(read).await.failure().await;
    });
}

/// The position goes on without matches, so that nothing is passed over twice.
#[test]
fn a_resumed_subscription_goes_on_from_what_a_live_checkpoint_has_reached() {
    on_server(async |server| {
        let from = server.mark().await;
        let (stream, other) = (server.stream(), server.stream());
        let (_, mut feed) = catch_up_and_stay(server, &stream, from, 5).await;
        server.append(&other, StreamState::Any, &events(10)).await.unwrap();
        let told = told_until(&mut feed, |told| !told.is_empty()).await;
        let Some(checkpoint) = told[0].checkpoint() else { panic!("{told:?}") };
        drop(feed);

        let event = Event::new();
        server.append(&stream, StreamState::NoStream, std::slice::from_ref(&event)).await.unwrap();
        let told = catch_up(server, &stream, checkpoint, 5).await;
        assert_eq!(vec![event.id], event_ids(&told));
    });
}
