//! Turns: who changes the same thing in this process does so one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// The things that somebody changes or waits to change.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    /// Returns when it is the caller's turn; turns come in the order of the calls.
    pub(crate) async fn take(&self, id: Uuid) -> Turn {
        let queue = self.0.lock().entry(id).or_default().clone();
        // From here on, whether or not the turn comes, somebody looks after the entry.
        let mut turn = Turn { of: self.clone(), id, guard: None };
        turn.guard = Some(queue.lock_owned().await);
        turn
    }
}

/// The right to change a thing, for as long as it lives.
pub(crate) struct Turn {
    of: Turns,
    id: Uuid,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.of.0.lock();
        drop(self.guard.take());
        // Whoever waits holds the queue too.
        if all.get(&self.id).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_leave_nothing() {
        let (turns, id) = (Turns::default(), Uuid::from_u128(1));
        let first = turns.take(id).await;
        let (mut second, mut third) = (Box::pin(turns.take(id)), Box::pin(turns.take(id)));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        turns.take(Uuid::from_u128(2)).await;
        drop(first);
        assert!(futures::poll!(&mut third).is_pending());
        let second = second.await;
        drop(third);
        drop(second);
        assert!(turns.0.lock().is_empty());
    }
}
