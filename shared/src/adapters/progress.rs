//! A number that grows, and those who wait for it: one waiter list a process,
//! however many requests wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// A value that grows and can be waited for. Reading it takes no lock.
#[derive(Debug)]
pub(crate) struct Progress {
    now: AtomicU64,
    told: watch::Sender<u64>,
}

impl Progress {
    pub(crate) fn new(start: u64) -> Self {
        Self { now: AtomicU64::new(start), told: watch::Sender::new(start) }
    }

    pub(crate) fn get(&self) -> u64 {
        self.now.load(Ordering::Acquire)
    }

    /// Moves forward; a smaller value changes nothing.
    pub(crate) fn advance(&self, to: u64) {
        self.told.send_if_modified(|now| {
            let grows = to > *now;
            *now = to.max(*now);
            self.now.store(*now, Ordering::Release);
            grows
        });
    }

    /// Begins again before everything.
    #[cfg(any(feature = "embedded", feature = "mongo"))]
    pub(crate) fn put_back(&self) {
        self.told.send_modify(|now| {
            *now = 0;
            self.now.store(0, Ordering::Release);
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Returns once the value is at least this.
    pub(crate) async fn reached(&self, at_least: u64) {
        if self.get() < at_least {
            // The sender lives as long as self, so the wait cannot fail.
            let _ = self.watch().wait_for(|now| *now >= at_least).await;
        }
    }
}
