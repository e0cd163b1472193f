//! Servers that go away, connections that break, answers that are lost: nothing that
//! was acknowledged is missing, nothing is there twice, and all comes right by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shared::adapters::esdb::EsdbEvents;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, StreamId};
use shared::ports::{Checkpoint, Direction, EventFeed, EventStore, Health, StoreError};
use testkit::Ending;

use super::{all, connect, event, exact, fresh, log_of, ready, server, soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_down_at_the_start_is_waited_for() {
    let mut server = server();
    server.stop();
    let log = log_of(&server);
    let stream = fresh();
    for _ in 0..3 {
        let begun = Instant::now();
        let append = log.append(&stream, ExpectedRevision::NoStream, vec![event("early")]).await;
        assert!(matches!(append, Err(StoreError::Unavailable { .. })), "{append:?}");
        assert!(matches!(log.last(&stream).await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(log.head().await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(log.subscribe(Checkpoint::START).await.err(), Some(StoreError::Unavailable { .. })));
        assert!(log.check().await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(6), "no call waits long: {:?}", begun.elapsed());
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.start_again().unwrap();
    let begun = Instant::now();
    ready(&log).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it came back after {:?}", begun.elapsed());
    log.append(&stream, ExpectedRevision::NoStream, vec![event("late")]).await.unwrap();
}

/// A stream and what was acknowledged in it.
type Written = (StreamId, Vec<(Position, NewEvent)>);

/// Appends to streams of their own for as long as they may, each event until its
/// outcome is known, and then compares.
struct Writers {
    log: Arc<EsdbEvents>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Written>>,
}

impl Writers {
    fn start(log: &Arc<EsdbEvents>, count: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let write = |number: usize| {
            let (log, stop) = (log.clone(), stop.clone());
            tokio::spawn(async move {
                let (stream, mut acknowledged) = (fresh(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let last = acknowledged.len() as u64;
                    let expected = last.checked_sub(1).map_or(ExpectedRevision::NoStream, exact);
                    let events: Vec<_> = (0..1 + number % 3).map(|at| event(&format!("{last}+{at}"))).collect();
                    let positions = until_known(&log, &stream, expected, &events).await;
                    acknowledged.extend(positions.into_iter().zip(events));
                }
                (stream, acknowledged)
            })
        };
        let tasks = (0..count).map(write).collect();
        Self { log: log.clone(), stop, tasks }
    }

    /// How many events were acknowledged.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for task in self.tasks {
            let (stream, acknowledged) = soon("a writer", task).await.unwrap();
            let read: Vec<_> =
                all(&self.log, &stream).await.into_iter().map(|event| (event.position, event.event)).collect();
            assert!(read == acknowledged, "what was acknowledged stands in its stream, once and in order");
            count += read.len();
        }
        count
    }
}

async fn until_known(
    log: &EsdbEvents,
    stream: &StreamId,
    expected: ExpectedRevision,
    events: &[NewEvent],
) -> Vec<Position> {
    loop {
        match log.append(stream, expected, events.to_vec()).await {
            Ok(appended) => return appended.positions,
            Err(StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. } | StoreError::Busy) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("an append to a stream of one's own failed: {error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restarts_under_load_lose_and_double_nothing() {
    let mut server = server();
    server.switches().delay_appends(Duration::from_millis(1));
    let log = log_of(&server);
    let writers = Writers::start(&log, 16);
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        if round % 2 == 0 {
            server.stop()
        } else {
            server.shut_down()
        }
        tokio::time::sleep(Duration::from_millis(100 * round)).await;
        server.start_again().unwrap();
        until("an append after a restart", || async {
            log.append(&fresh(), ExpectedRevision::NoStream, vec![event("probe")]).await.is_ok()
        })
        .await;
    }
    assert!(writers.finish().await > 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_break_lose_and_double_nothing() {
    let server = server();
    server.switches().delay_appends(Duration::from_millis(1));
    let log = log_of(&server);
    let writers = Writers::start(&log, 16);
    for round in 0..24 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        match round % 4 {
            0 => server.switches().drop_connections(),
            1 => server.switches().lose_replies(1),
            2 => server.switches().refuse_appends(2),
            _ => {
                server.switches().refuse_calls(true);
                server.switches().drop_connections();
                tokio::time::sleep(Duration::from_millis(60)).await;
                server.switches().refuse_calls(false);
            }
        }
    }
    let count = writers.finish().await;
    assert!(count > 100, "{count} events came through");
}

/// A lost answer is no error for the caller: the append is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_answer_is_settled() {
    let server = server();
    let log = log_of(&server);
    ready(&log).await;
    let stream = fresh();
    for revision in 0..5_u64 {
        server.switches().lose_replies(1);
        let expected = revision.checked_sub(1).map_or(ExpectedRevision::NoStream, exact);
        let appended = log.append(&stream, expected, vec![event("once")]).await.unwrap();
        assert_eq!(appended.first.0, revision);
    }
    assert_eq!(all(&log, &stream).await.len(), 5);
}

/// A refused append ends its session; the others of that session come through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_append_takes_no_other_with_it() {
    let server = server();
    server.switches().delay_appends(Duration::from_millis(2));
    let log = log_of(&server);
    let taken = fresh();
    log.append(&taken, ExpectedRevision::NoStream, vec![event("first")]).await.unwrap();
    let writers = Writers::start(&log, 32);
    for _ in 0..200 {
        let refused = log.append(&taken, ExpectedRevision::NoStream, vec![event("second")]).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
        let refused = log.append(&taken, exact(3), vec![event("second")]).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    }
    writers.finish().await;
    assert_eq!(all(&log, &taken).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn too_much_that_waits_is_turned_away() {
    let server = server();
    let log = log_of(&server);
    ready(&log).await;
    server.switches().delay_appends(Duration::from_secs(60));
    let value: Arc<str> = "x".repeat(500_000).into();
    let appends: Vec<_> = (0..200)
        .map(|_| {
            let (log, value) = (log.clone(), value.clone());
            tokio::spawn(async move { log.append(&fresh(), ExpectedRevision::NoStream, vec![event(&value)]).await })
        })
        .collect();
    let mut busy = 0;
    for append in appends {
        match append.await.unwrap() {
            Err(StoreError::Busy) => busy += 1,
            Ok(_) | Err(StoreError::OutcomeUnknown { .. } | StoreError::Unavailable { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((1..150).contains(&busy), "{busy} of 200 were turned away");
}

/// On a runtime of one thread: a client that turned in a circle would never let this
/// test go on.
#[tokio::test]
async fn a_subscription_that_ends_is_an_error_and_no_more() {
    let server = server();
    let log = log_of(&server);
    let stream = fresh();
    log.append(&stream, ExpectedRevision::NoStream, vec![event("0")]).await.unwrap();
    let mut at = Checkpoint::START;
    for (ending, revision) in [Ending::Clean, Ending::Unavailable, Ending::Unknown, Ending::Clean].into_iter().zip(0..)
    {
        let mut subscription = log.subscribe(at).await.unwrap();
        let batch = soon("an event", subscription.next(10)).await.unwrap();
        assert_eq!(batch.events.len(), 1, "it goes on where another was");
        at = batch.checkpoint;
        let waiting = async {
            loop {
                match subscription.next(10).await {
                    Ok(batch) => assert!(batch.events.is_empty() && batch.checkpoint >= at),
                    Err(error) => return error,
                }
            }
        };
        let end = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.switches().end_subscriptions(ending);
        };
        let (error, ()) = soon("the end", async { tokio::join!(waiting, end) }).await;
        assert!(matches!(error, StoreError::Unavailable { .. }), "{ending:?}: {error:?}");
        assert!(subscription.next(10).await.is_err(), "and stays over");
        log.append(&stream, exact(revision), vec![event("next")]).await.unwrap();
    }
}

/// A follower that begins again after each error misses nothing and sees nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_survives_what_happens_to_servers() {
    let mut server = server();
    let log = log_of(&server);
    ready(&log).await;
    let writers = Writers::start(&log, 8);
    let (follower, stop) = follow(log.clone());
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        match round % 4 {
            0 => server.switches().end_subscriptions(Ending::Clean),
            1 => server.switches().drop_connections(),
            2 => server.switches().end_subscriptions(Ending::Unknown),
            _ => {
                server.stop();
                server.start_again().unwrap();
            }
        }
    }
    ready(&log).await;
    let count = writers.finish().await;
    let end = log.head().await.unwrap();
    stop.send(end).unwrap();
    let followed = soon("the follower", follower).await.unwrap();
    assert!(followed.is_sorted_by(|a, b| a < b), "in order, none twice");
    assert_eq!(followed.len(), count, "none missed");
}

type Followed = tokio::task::JoinHandle<Vec<Position>>;

fn follow(log: Arc<EsdbEvents>) -> (Followed, tokio::sync::watch::Sender<Position>) {
    let (stop, until) = tokio::sync::watch::channel(Position::MAX);
    let follower = tokio::spawn(async move {
        let (mut at, mut followed) = (Checkpoint::START, Vec::new());
        while !at.has_reached(*until.borrow()) {
            let Ok(mut subscription) = log.subscribe(at).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            while !at.has_reached(*until.borrow()) {
                let next = tokio::time::timeout(Duration::from_millis(50), subscription.next(100));
                match next.await {
                    Ok(Ok(batch)) => {
                        assert!(batch.checkpoint >= at, "never back");
                        at = batch.checkpoint;
                        followed.extend(batch.events.iter().map(|event| event.position));
                    }
                    Ok(Err(_)) => break,
                    Err(_) => {}
                }
            }
        }
        followed
    });
    (follower, stop)
}

/// Another log in the place of the one that was there: what is appended then belongs
/// to that one, and can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_was_emptied_has_another_log() {
    let mut first = server();
    let address = first.address();
    let log = connect(&address.to_string());
    let before = log.log_id().await.unwrap();
    first.stop();
    drop(first);
    assert!(log.check().await.is_err());
    let options = testkit::Options { listen: address, ..Default::default() };
    let _second = testkit::EsdbServer::start(options).unwrap();
    ready(&log).await;
    assert_ne!(log.log_id().await.unwrap(), before);
    let stream = fresh();
    log.append(&stream, ExpectedRevision::NoStream, vec![event("new")]).await.unwrap();
    let anew = connect(&address.to_string());
    assert_eq!(
        anew.read(&stream, shared::domain::stream::Revision::FIRST, Direction::Forwards, 9).await.unwrap().len(),
        1
    );
}

/// A server that takes connections and says nothing holds nobody up for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_hangs_holds_nobody_up() {
    let server = server();
    let log = log_of(&server);
    ready(&log).await;
    let stream = fresh();
    server.switches().delay_reads(Duration::from_secs(60));
    let begun = Instant::now();
    assert!(log.last(&stream).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    server.switches().delay_reads(Duration::ZERO);
    ready(&log).await;
    // The server gives up an append after 2 s by itself, and then it is sent again.
    server.switches().delay_appends(Duration::from_secs(60));
    let begun = Instant::now();
    let append = log.append(&stream, ExpectedRevision::NoStream, vec![event("slow")]).await;
    assert!(matches!(append, Err(StoreError::OutcomeUnknown { .. })), "{append:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_leader_is_looked_for() {
    let (old, new) = (server(), server());
    let settings = format!("esdb://{},{}?tls=false&discoveryInterval=20", old.address(), new.address());
    let log = connect(&settings);
    ready(&log).await;
    old.switches().not_leader(Some((new.address().ip().to_string(), new.address().port())));
    new.switches().not_leader(None);
    until("an append through the new leader", || async {
        log.append(&fresh(), ExpectedRevision::NoStream, vec![event("there")]).await.is_ok()
    })
    .await;
    ready(&log).await;
}
