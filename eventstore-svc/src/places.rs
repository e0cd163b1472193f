//! Bounds what waits to be written: room for so much, taken and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// What is counted in, in bytes.
const UNIT_BYTES: usize = 4 * 1024;
/// How long somebody waits for a place, at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many units something of this size takes.
pub(crate) fn units(bytes: usize) -> usize {
    1 + bytes / UNIT_BYTES
}

/// What may wait at once; to take and give back costs one atomic step.
#[derive(Clone)]
pub(crate) struct Places(Arc<Room>);

#[derive(Default)]
struct Room {
    /// What all that waits may take, in units.
    all: usize,
    taken: AtomicUsize,
    /// Who waits for a place.
    waiting: AtomicUsize,
    given_back: Notify,
}

impl Places {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Room { all: bytes / UNIT_BYTES, ..Room::default() }))
    }

    /// A place, if there is one now.
    pub(crate) fn take(&self, units: usize) -> Option<Place> {
        let before = self.0.taken.fetch_add(units, Ordering::AcqRel);
        if before + units <= self.0.all {
            return Some(Place { of: self.0.clone(), units });
        }
        // Nobody is told: nothing was given back.
        self.0.taken.fetch_sub(units, Ordering::AcqRel);
        None
    }

    /// A place, if there is one within some seconds.
    pub(crate) async fn wait(&self, units: usize) -> Option<Place> {
        if let Some(place) = self.take(units) {
            return Some(place);
        }
        let wait = async {
            loop {
                // Looking again after listening: nothing is missed.
                let given_back = self.0.given_back.notified();
                match self.take(units) {
                    Some(place) => return place,
                    None => given_back.await,
                }
            }
        };
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
        let place = tokio::time::timeout(PATIENCE, wait).await;
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        place.ok()
    }
}

/// A place among what waits, given back when dropped.
pub struct Place {
    of: Arc<Room>,
    units: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.units, Ordering::AcqRel);
        if self.of.waiting.load(Ordering::Acquire) > 0 {
            self.of.given_back.notify_waiters();
        }
    }
}
