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
        while self.count.load(Ordering::Acquire) == 0 {
            self.joined.notified().await;
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Looks at the checkpoint while somebody waits, sooner again when it moves or when
/// somebody new comes.
pub(super) async fn poll(waiting: Arc<Waiting>, views: Weak<Inner>) {
    let mut pause = SOON;
    loop {
        waiting.somebody().await;
        let Some(views) = views.upgrade() else { return };
        let (begun, before) = (Instant::now(), views.reached.get());
        pause = match views.look(begun).await {
            Err(_) => AWAY,
            Ok(_) if views.reached.get() > before => SOON,
            Ok(_) => (pause * 3 / 2).min(LATER),
        };
        drop(views);
        tokio::time::sleep_until((begun + SOON).into()).await;
        tokio::select! {
            () = tokio::time::sleep_until((begun + pause).into()) => {}
            () = waiting.joined.notified(), if pause <= LATER => pause = SOON,
        }
    }
}
