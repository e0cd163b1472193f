//! A number that grows, and those who wait for it: one waiter list a process,
//! however many requests wait.

use tokio::sync::watch;

/// A value that grows and can be waited for.
#[derive(Debug)]
pub(crate) struct Progress(watch::Sender<u64>);

impl Progress {
    pub(crate) fn new(start: u64) -> Self {
        Self(watch::Sender::new(start))
    }

    pub(crate) fn get(&self) -> u64 {
        *self.0.borrow()
    }

    /// Moves forward; a smaller value changes nothing.
    pub(crate) fn advance(&self, to: u64) {
        self.0.send_if_modified(|now| {
            let grows = to > *now;
            *now = to.max(*now);
            grows
        });
    }

    /// Begins again before everything.
    pub(crate) fn put_back(&self) {
        self.0.send_replace(0);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Returns once the value is at least this.
    pub(crate) async fn reached(&self, at_least: u64) {
        if self.get() < at_least {
            // The sender lives as long as self, so the wait cannot fail.
            let _ = self.watch().wait_for(|now| *now >= at_least).await;
        }
    }
}
