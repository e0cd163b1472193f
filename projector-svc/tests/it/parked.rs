//! Events that cannot be projected: their streams are parked alone, and are read again
//! when that is asked for.

use std::time::Duration;

use shared::domain::projection::Parked;
use shared::domain::stream::{Position, Revision, StreamId};
use shared::ports::{Generation, Health, StoreError, ViewOperator, ViewReader, ViewWriter};

use crate::{AWAY, Mood, Running, answer, eventually};

/// The stream's entry, if it is parked.
async fn entry(running: &Running, key: &str) -> Option<Parked> {
    running.views.views.parked_stream(&answer(key)).await.unwrap()
}

async fn is_parked_at(running: &Running, key: &str, revision: u64) {
    eventually("the stream is parked there", async || {
        entry(running, key).await.is_some_and(|parked| parked.revision == Revision(revision) && !parked.replay)
    })
    .await;
}

async fn is_healed(running: &Running, key: &str) {
    eventually("the stream is parked no more", async || entry(running, key).await.is_none()).await;
}

async fn ask(running: &Running, stream: Option<&StreamId>) -> u64 {
    running.views.views.ask_replay(stream).await.unwrap()
}

#[tokio::test]
async fn a_bad_event_parks_its_stream_alone() {
    let running = Running::start(Mood::Good);
    running.append("bad").await;
    running.log.poison("bad", 1);
    for n in 1..4 {
        running.update("bad", n, &n.to_string()).await;
        running.append(&format!("good-{n}")).await;
    }
    running.caught_up().await;
    let parked = entry(&running, "bad").await.expect("it is parked");
    assert_eq!((parked.revision, parked.position, parked.replay), (Revision(1), Position(2), false));
    assert!(parked.error.contains("unknown event type"), "{}", parked.error);
    assert_eq!(running.value("bad").await.as_deref(), Some("v"), "the last good value");
    for n in 1..4 {
        assert_eq!(running.value(&format!("good-{n}")).await.as_deref(), Some("v"));
    }
    assert_eq!(running.watch.check().await, Ok(()), "it is well");
    assert_eq!(running.gauge("parked_streams").await, 1.0);
    assert_eq!(running.gauge("projection_lag_events").await, 0.0, "what waits there is not lag");
    running.end().await;
}

/// One that comes new to the views passes over what is parked.
#[tokio::test]
async fn a_stream_stays_parked_for_whoever_goes_on() {
    let running = Running::start(Mood::Good);
    running.append("bad").await;
    running.log.poison("bad", 1);
    running.update("bad", 1, "1").await;
    running.caught_up().await;
    let before = entry(&running, "bad").await;
    let running = running.restarted().await;
    // Nobody has asked: it waits, though it could be read by now.
    running.log.mend_all();
    running.update("bad", 2, "2").await;
    running.append("good").await;
    running.caught_up().await;
    assert_eq!(entry(&running, "bad").await, before);
    assert_eq!(running.value("bad").await.as_deref(), Some("v"));
    assert_eq!(ask(&running, Some(&answer("bad"))).await, 1);
    is_healed(&running, "bad").await;
    assert_eq!(running.value("bad").await.as_deref(), Some("2"));
    running.end().await;
}

#[tokio::test]
async fn a_replay_heals_what_was_mended_and_nothing_else() {
    let running = Running::start(Mood::Good);
    for key in ["a", "b", "c"] {
        running.append(key).await;
        running.log.poison(key, 1);
        running.update(key, 1, "1").await;
        running.update(key, 2, "2").await;
    }
    running.delete("b", 3).await;
    running.caught_up().await;
    assert_eq!(running.gauge("parked_streams").await, 3.0);
    // Nothing was mended: all is as it was, and what was asked for is done.
    let before = entry(&running, "a").await.expect("it is parked");
    assert_eq!(ask(&running, None).await, 3);
    for key in ["a", "b", "c"] {
        is_parked_at(&running, key, 1).await;
    }
    assert_eq!(entry(&running, "a").await.map(|parked| parked.since), Some(before.since), "it is the same trouble");
    assert_eq!(running.value("a").await.as_deref(), Some("v"));

    running.log.mend("a", 1);
    running.log.mend("b", 1);
    assert_eq!(ask(&running, Some(&answer("a"))).await, 1);
    is_healed(&running, "a").await;
    assert_eq!(running.value("a").await.as_deref(), Some("2"), "the last event counts");
    assert!(entry(&running, "b").await.is_some(), "nobody has asked for it");
    assert_eq!(ask(&running, None).await, 2);
    is_healed(&running, "b").await;
    assert_eq!(running.value("b").await, None, "it was deleted");
    is_parked_at(&running, "c", 1).await;
    // Afterwards it is followed like any other.
    running.update("a", 3, "3").await;
    running.caught_up().await;
    assert_eq!(running.value("a").await.as_deref(), Some("3"));
    assert_eq!(running.gauge("parked_streams").await, 1.0);
    running.end().await;
}

#[tokio::test]
async fn a_replay_goes_as_far_as_it_can() {
    let running = Running::start(Mood::Good);
    running.append("k").await;
    running.log.poison("k", 1);
    running.log.poison("k", 3);
    for revision in 1..5 {
        running.update("k", revision, &revision.to_string()).await;
    }
    running.caught_up().await;
    running.log.mend("k", 1);
    ask(&running, None).await;
    is_parked_at(&running, "k", 3).await;
    assert_eq!(running.value("k").await.as_deref(), Some("2"), "what lies in front of it");
    assert_eq!(entry(&running, "k").await.map(|parked| parked.position), Some(Position(4)));
    running.log.mend("k", 3);
    ask(&running, None).await;
    is_healed(&running, "k").await;
    assert_eq!(running.value("k").await.as_deref(), Some("4"));
    running.end().await;
}

/// Streams of more events than are read at once, while others and itself go on.
#[tokio::test]
async fn a_long_stream_is_replayed_while_it_grows() {
    let running = Running::start(Mood::Good);
    running.append("long").await;
    running.log.poison("long", 1);
    for revision in 1..2_600 {
        running.update("long", revision, &revision.to_string()).await;
    }
    running.caught_up().await;
    running.log.mend_all();
    ask(&running, None).await;
    for revision in 2_600..2_900 {
        running.update("long", revision, &revision.to_string()).await;
        tokio::task::yield_now().await;
    }
    is_healed(&running, "long").await;
    running.caught_up().await;
    assert_eq!(running.value("long").await.as_deref(), Some("2899"), "nothing is lost between the two");
    running.end().await;
}

#[tokio::test]
async fn more_than_there_is_room_for_stops_the_projection() {
    let running = Running::with(Mood::Good, |projector| projector.parking_at_most(2));
    for n in 0..3 {
        running.log.poison(&format!("bad-{n}"), 0);
    }
    running.append("good-0").await;
    running.append("bad-0").await;
    running.append("bad-1").await;
    running.append("good-1").await;
    running.append("bad-2").await;
    running.append("good-2").await;
    eventually("it says so", async || running.watch.check().await.is_err()).await;
    let told = running.watch.check().await.expect_err("not ready");
    assert!(told.contains("answer-bad-2") && told.contains("position 5"), "it names the event: {told}");
    assert_eq!(running.value("good-1").await.as_deref(), Some("v"), "what lies in front of it");
    assert_eq!(running.value("good-2").await, None);
    assert_eq!(running.views.views.checkpoint().await.unwrap().position(), Position(4));
    assert_eq!(running.parked().await, 2);
    // Where one of those parked is healed there is room again.
    running.log.mend("bad-0", 0);
    ask(&running, Some(&answer("bad-0"))).await;
    running.caught_up().await;
    assert_eq!(running.value("bad-0").await.as_deref(), Some("v"));
    assert_eq!(running.value("good-2").await.as_deref(), Some("v"));
    assert!(entry(&running, "bad-2").await.is_some());
    eventually("it is well", async || running.watch.check().await.is_ok()).await;
    running.end().await;
}

/// Whatever a store fails with, that is no reason to park anything.
#[tokio::test]
async fn an_outage_parks_nothing() {
    let unreadable = StoreError::Corrupt { what: "a page".into(), source: None };
    for outage in [AWAY, StoreError::Busy, StoreError::Full { reserve_mb: 1 }, StoreError::Conflict, unreadable] {
        let running = Running::start(Mood::Good);
        running.append("a").await;
        running.caught_up().await;
        running.log.set(Some(outage.clone()));
        running.views.set(Mood::Once(outage));
        running.append("b").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        running.log.set(None);
        running.caught_up().await;
        assert_eq!(running.parked().await, 0);
        assert_eq!(running.value("b").await.as_deref(), Some("v"));
        running.end().await;
    }
}

/// A store that goes away in the middle of a replay: what was asked for is carried out
/// when it is back.
#[tokio::test]
async fn a_replay_outlives_an_outage() {
    for store in ["log", "views"] {
        let running = Running::start(Mood::Good);
        running.append("k").await;
        running.log.poison("k", 1);
        running.update("k", 1, "1").await;
        running.caught_up().await;
        running.log.mend_all();
        match store {
            "log" => running.log.set(Some(AWAY)),
            _ => running.views.set(Mood::Away),
        }
        ask(&running, None).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let parked = ViewWriter::parked(&*running.views.views, Generation::Live).await.unwrap();
        assert!(parked.len() == 1 && parked[0].replay, "{store}: it is still asked for: {parked:?}");
        running.log.set(None);
        running.views.set(Mood::Good);
        is_healed(&running, "k").await;
        assert_eq!(running.value("k").await.as_deref(), Some("1"), "{store}");
        running.end().await;
    }
}
