//! Views that are built anew beside the live ones, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shared::clock;
use shared::domain::answer::Key;
use shared::domain::stream::{Position, Revision};
use shared::ports::{AnswersQuery, EventFeed, Generation, StoreError, ViewOperator, ViewReader, ViewWriter};

use crate::{AWAY, Mood, PATIENCE, Running, answer, eventually};

async fn ask(running: &Running) {
    running.views.views.ask_rebuild(clock::now()).await.unwrap();
}

async fn is_done(running: &Running) {
    eventually("the rebuild is done", async || !running.views.views.rebuild_state().await.unwrap().is_running).await;
}

/// What the views hold: they must be the fold of what was appended.
async fn rows(running: &Running) -> BTreeMap<String, String> {
    let (mut rows, mut after) = (BTreeMap::new(), None);
    loop {
        let query = AnswersQuery { prefix: String::new(), after, limit: 1_000 };
        let page = running.views.views.answers(query).await.unwrap().found;
        after = page.answers.last().map(|last| last.key.as_str().to_owned());
        rows.extend(page.answers.into_iter().map(|answer| (answer.key.to_string(), answer.value.to_string())));
        if !page.more {
            return rows;
        }
    }
}

#[tokio::test]
async fn views_are_built_anew() {
    let running = Running::start(Mood::Good);
    for n in 0..100 {
        running.append(&format!("k{n}")).await;
        running.update(&format!("k{n}"), 1, &n.to_string()).await;
    }
    running.delete("k7", 2).await;
    running.caught_up().await;
    let before = rows(&running).await;
    ask(&running).await;
    is_done(&running).await;
    assert_eq!(running.views.swaps.load(Ordering::SeqCst), 1);
    assert_eq!(rows(&running).await, before);
    let head = running.log.events.head().await.unwrap();
    let state = running.views.views.rebuild_state().await.unwrap();
    assert_eq!((state.done, state.total), (head, head), "{state:?}");
    running.append("next").await;
    running.caught_up().await;
    assert_eq!(running.value("next").await.as_deref(), Some("v"));
    ask(&running).await;
    is_done(&running).await;
    assert_eq!(rows(&running).await.len(), before.len() + 1, "and once more");
    running.end().await;
}

#[tokio::test]
async fn views_of_an_empty_log_are_built_anew() {
    let running = Running::start(Mood::Good);
    ask(&running).await;
    is_done(&running).await;
    running.append("k").await;
    running.caught_up().await;
    assert_eq!(running.value("k").await.as_deref(), Some("v"));
    running.end().await;
}

/// A rebuild parks what it cannot project, and heals what it can by now.
#[tokio::test]
async fn new_views_have_parked_streams_of_their_own() {
    let running = Running::start(Mood::Good);
    for key in ["mended", "bad"] {
        running.append(key).await;
        running.log.poison(key, 1);
        running.update(key, 1, "1").await;
    }
    running.append("good").await;
    running.caught_up().await;
    assert_eq!(running.parked().await, 2);
    running.log.mend("mended", 1);
    ask(&running).await;
    is_done(&running).await;
    let parked = ViewWriter::parked(&*running.views.views, Generation::Live).await.unwrap();
    assert_eq!(parked.iter().map(|parked| &parked.stream).collect::<Vec<_>>(), [&answer("bad")]);
    assert_eq!(parked[0].revision, Revision(1));
    assert_eq!(running.value("mended").await.as_deref(), Some("1"));
    assert_eq!(running.value("bad").await.as_deref(), Some("v"));
    // It goes on passing them over.
    running.update("bad", 2, "2").await;
    running.update("mended", 2, "2").await;
    running.caught_up().await;
    assert_eq!(running.value("bad").await.as_deref(), Some("v"));
    assert_eq!(running.value("mended").await.as_deref(), Some("2"));
    running.end().await;
}

/// A rebuild that meets more bad events than there is room for leaves the live views as
/// they are, and going on.
#[tokio::test]
async fn a_rebuild_without_room_leaves_the_live_views_alone() {
    let running = Running::with(Mood::Good, |projector| projector.parking_at_most(1));
    for n in 0..3 {
        running.append(&format!("k{n}")).await;
    }
    running.caught_up().await;
    // They were good when they were projected.
    running.log.poison("k0", 0);
    running.log.poison("k1", 0);
    ask(&running).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 3..6 {
        let key = format!("k{n}");
        running.append(&key).await;
        running.caught_up().await;
        assert_eq!(running.value(&key).await.as_deref(), Some("v"));
    }
    assert!(running.views.views.rebuild_state().await.unwrap().is_running, "it waits to be mended");
    assert_eq!(running.parked().await, 0);
    running.log.mend_all();
    is_done(&running).await;
    assert_eq!((rows(&running).await.len(), running.parked().await), (5, 1), "one had been parked in it");
    running.views.views.ask_replay(None).await.unwrap();
    eventually("it is healed", async || rows(&running).await.len() == 6).await;
    running.end().await;
}

/// Writers, and readers that await what they were told of, from the beginning to the end.
async fn under_load(mut spoil: impl AsyncFnMut(&Running)) {
    const KEYS: usize = 20;
    let running = Arc::new(Running::start(Mood::Good));
    for n in 0..KEYS {
        running.append(&format!("k{n}")).await;
    }
    for n in 0..2_000 {
        running.append(&format!("cold-{n}")).await;
    }
    running.caught_up().await;
    let over = Arc::new(AtomicBool::new(false));
    let due: Arc<Vec<_>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (running, over, due, written) = (running.clone(), over.clone(), due.clone(), written.clone());
        async move {
            for round in 1.. {
                for (n, due) in due.iter().enumerate() {
                    let at = running.update(&format!("k{n}"), round, &round.to_string()).await;
                    due.store(round, Ordering::SeqCst);
                    written.store(at.0, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                if over.load(Ordering::SeqCst) {
                    return round;
                }
            }
            0
        }
    });
    let readers: Vec<_> = (0..4)
        .map(|reader: usize| {
            let (running, over, due, written) = (running.clone(), over.clone(), due.clone(), written.clone());
            tokio::spawn(async move {
                let mut reads = 0_usize;
                while !over.load(Ordering::SeqCst) {
                    let n = (reads + reader) % KEYS;
                    let (least, at) = (due[n].load(Ordering::SeqCst), written.load(Ordering::SeqCst));
                    tokio::time::timeout(PATIENCE, running.views.views.reached(Position(at)))
                        .await
                        .expect("reached")
                        .unwrap();
                    let key = Key::parse(&format!("k{n}")).unwrap();
                    let seen = running.views.views.answer(&key).await.unwrap();
                    let found = seen.found.expect("no row is ever missing").value;
                    if least > 0 {
                        assert!(found.parse::<u64>().unwrap() >= least, "{found} is older than {least}");
                    }
                    assert!(running.value(&format!("cold-{}", reads % 2_000)).await.is_some(), "a row is missing");
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    for _ in 0..3 {
        ask(&running).await;
        spoil(&running).await;
        is_done(&running).await;
    }
    assert_eq!(running.views.swaps.load(Ordering::SeqCst), 3);
    over.store(true, Ordering::SeqCst);
    let last = writer.await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    running.caught_up().await;
    let rows = rows(&running).await;
    assert_eq!(rows.len(), KEYS + 2_000);
    assert!((0..KEYS).all(|n| rows[&format!("k{n}")] == last.to_string()));
    Arc::into_inner(running).expect("nobody else has it").end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_goes_back_while_views_are_built_anew() {
    under_load(async |_| {}).await;
}

/// The same while the views, or the log, now and then fail in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_outlives_outages() {
    let mut turn = 0;
    under_load(async |running| {
        for _ in 0..2 {
            turn += 1;
            match turn % 4 {
                0 => running.views.set(Mood::Once(AWAY)),
                1 => running.views.set(Mood::Once(StoreError::Conflict)),
                2 => {
                    running.log.set(Some(AWAY));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    running.log.set(None);
                }
                _ => running.views.interrupt.notify_one(),
            }
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    })
    .await;
}

/// Whoever comes next goes on with it.
#[tokio::test]
async fn a_rebuild_is_gone_on_with_by_another() {
    let mut running = Running::start(Mood::Good);
    for n in 0..300 {
        running.append(&format!("k{n}")).await;
    }
    running.caught_up().await;
    running.views.holds_swaps.store(true, Ordering::SeqCst);
    ask(&running).await;
    let next = async |running: &Running| running.views.views.rebuild_state().await.unwrap().done;
    eventually("it is built", async || next(&running).await >= Position(300)).await;
    for round in 0..3 {
        let done = next(&running).await;
        running = running.restarted().await;
        assert!(next(&running).await >= done, "it does not begin anew");
        running.append(&format!("round-{round}")).await;
        running.caught_up().await;
    }
    assert!(running.views.views.rebuild_state().await.unwrap().is_running);
    running.views.holds_swaps.store(false, Ordering::SeqCst);
    is_done(&running).await;
    assert_eq!(rows(&running).await.len(), 303);
    running.end().await;
}
