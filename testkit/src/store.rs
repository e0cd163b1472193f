//! The log between its readers and writers: what of it may be seen, and when.
//! An append is decided on at once and shows, to its writer too, only when it is
//! on disk (where there is one) and the delay that a test asked for is over.

mod file;
mod pacer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::core::append::Written;
use crate::core::record::{Proposed, Text};
use crate::core::state::State;
use crate::core::{Expected, Fault};
use file::LogFile;
use pacer::Pacer;

/// Now, in steps of 100 ns since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos() / 100).unwrap_or(i64::MAX)
}

/// How much of the log may be seen.
pub(crate) struct Visible {
    count: AtomicUsize,
    grown: watch::Sender<usize>,
}

impl Visible {
    fn publish(&self, count: usize) {
        if self.count.fetch_max(count, Ordering::AcqRel) < count {
            self.grown.send_if_modified(|seen| {
                let grown = *seen < count;
                *seen = count.max(*seen);
                grown
            });
        }
    }
}

/// What a writer asks for.
#[derive(Debug)]
pub(crate) enum Change {
    Append(Vec<Proposed>),
    Delete,
    Tombstone,
}

/// A decision, and how much of the log must be seen before it may be told.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) result: Result<Written, Fault>,
    pub(crate) once: usize,
}

pub(crate) struct Store {
    state: RwLock<State>,
    visible: Arc<Visible>,
    pacer: Arc<Pacer>,
    file: Option<LogFile>,
}

impl Store {
    /// # Errors
    /// If the folder cannot be used, or another process does.
    pub(crate) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let visible = Arc::new(Visible { count: AtomicUsize::new(0), grown: watch::Sender::new(0) });
        let pacer = Pacer::start(visible.clone())?;
        let mut state = State::default();
        let file = folder.map(|folder| LogFile::open(folder, &mut state, pacer.clone())).transpose()?;
        visible.publish(state.len());
        let store = Self { state: RwLock::new(state), visible, pacer, file };
        if store.state.read().len() == 0 {
            let mut state = store.state.write();
            state.begin(now());
            store.settle(&state, 0, Duration::ZERO);
        }
        Ok(store)
    }

    /// Decides on a change; it is seen after the delay.
    pub(crate) fn change(&self, stream: &Text, expected: Expected, change: Change, delay: Duration) -> Decided {
        let mut state = self.state.write();
        let (before, now) = (state.len(), now());
        let result = match change {
            Change::Append(events) => state.append(stream, expected, events, now),
            Change::Delete => state.delete(stream, expected, now),
            Change::Tombstone => state.bury(stream, expected, now),
        };
        if state.len() > before {
            self.settle(&state, before, delay);
        }
        // Nobody hears of what is not on disk: refusals wait for what they rest on.
        Decided { result, once: state.len() }
    }

    fn settle(&self, state: &State, before: usize, delay: Duration) {
        let due = Instant::now() + delay;
        match &self.file {
            Some(file) => file.write(state.since(before), state.len(), due),
            None => self.pacer.publish_at(due, state.len()),
        }
    }

    /// Runs with the log and how much of it may be seen.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State, usize) -> T) -> T {
        let visible = self.visible.count.load(Ordering::Acquire);
        look(&self.state.read(), visible)
    }

    /// Tells of growth.
    pub(crate) fn grown(&self) -> watch::Receiver<usize> {
        self.visible.grown.subscribe()
    }

    pub(crate) fn seen(&self, count: usize) -> bool {
        self.visible.count.load(Ordering::Acquire) >= count
    }

    /// Makes a stored event say something else, in memory; whether there is one.
    pub(crate) fn rewrite(&self, stream: &str, revision: u64, change: impl FnOnce(&Proposed) -> Proposed) -> bool {
        self.state.write().rewrite(stream, revision, change)
    }

    /// As at a restart.
    pub(crate) fn forget_recent(&self) {
        self.state.write().forget_recent();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.close();
        }
        self.pacer.close();
    }
}
