//! Waiting for a checkpoint that another process moves: one poller a process, which
//! asks only while somebody waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Inner;

/// How often the checkpoint is looked at: at first, and when it does not move.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_millis(50);
/// How long to leave a database alone that does not answer.
const AWAY: Duration = Duration::from_millis(250);

/// Those who wait.
#[derive(Default)]
pub(super) struct Waiting {
    count: AtomicUsize,
    joined: Notify,
}

/// One who waits, until it is dropped.
pub(super) struct Waiter<'a>(&'a Waiting);

impl Waiting {
    pub(super) fn join(&self) -> Waiter<'_> {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.joined.notify_one();
        Waiter(self)
    }

    /// Returns once somebody waits.
    async fn somebody(&self) {
        while !self.is_somebody() {
            self.joined.notified().await;
        }
    }

    fn is_somebody(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Looks at the checkpoint while somebody waits, sooner again when it moves or when
/// somebody new comes. Where this process has the turn to write, `apply` tells those
/// who wait, and another can have moved the checkpoint only if the turn was lost: then
/// there is no hurry.
pub(super) async fn poll(waiting: Arc<Waiting>, views: Weak<Inner>) {
    let mut pause = SOON;
    loop {
        waiting.somebody().await;
        let Some(writes) = views.upgrade().map(|views| views.turn.borrow().is_some()) else { return };
        if writes {
            tokio::time::sleep(LATER).await;
            if !waiting.is_somebody() {
                continue;
            }
        }
        let begun = Instant::now();
        pause = look(&views, begun, pause).await;
        tokio::time::sleep_until((begun + SOON).into()).await;
        tokio::select! {
            () = tokio::time::sleep_until((begun + pause).into()) => {}
            () = waiting.joined.notified(), if pause <= LATER => pause = SOON,
        }
    }
}

/// Looks once; gives how long to wait before the next look.
async fn look(views: &Weak<Inner>, begun: Instant, pause: Duration) -> Duration {
    let Some(views) = views.upgrade() else { return AWAY };
    let before = views.reached.get();
    match views.look(begun).await {
        Err(_) => AWAY,
        Ok(_) if views.reached.get() > before => SOON,
        Ok(_) => (pause * 3 / 2).min(LATER),
    }
}
