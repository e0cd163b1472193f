//! Holds on to the engine's memtables for longer than the engine does. Whoever lets go of
//! a memtable last frees its rows one by one, a tenth of a second of work for a full one;
//! the engine does that while it holds a lock that every write needs. So a thread of ours
//! is always the last, and nobody waits for it.

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{AbstractTree, Keyspace};

/// How often it looks for new memtables, and for those that nobody else holds: it takes
/// seconds to fill one.
const LOOK: Duration = Duration::from_millis(50);

/// The thread that holds on to them. It lets go of the keyspaces, too, when this is dropped.
pub(super) struct Memtables {
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Memtables {
    /// Holds on to those of some keyspaces.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn hold(keyspaces: Vec<Keyspace>) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let hold = move || keep(&keyspaces, &stopped);
        let thread = std::thread::Builder::new().name("log-memtables".into()).spawn(hold)?;
        Ok(Self { thread: Some((stop, thread)) })
    }
}

impl Drop for Memtables {
    fn drop(&mut self) {
        let Some((stop, thread)) = self.thread.take() else { return };
        drop(stop);
        if thread.join().is_err() {
            tracing::error!("the thread that holds the log's memtables panicked");
        }
    }
}

fn keep(keyspaces: &[Keyspace], stopped: &Receiver<()>) {
    let mut held: Vec<Arc<dyn Any + Send + Sync>> = Vec::new();
    while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        for keyspace in keyspaces {
            let active: Arc<dyn Any + Send + Sync> = keyspace.tree.active_memtable();
            if !held.iter().any(|held| Arc::ptr_eq(held, &active)) {
                held.push(active);
            }
        }
        held.retain(|held| Arc::strong_count(held) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memtable_outlives_its_flush_and_goes_with_the_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(folder.path()).open().expect("opened");
        let keyspace = db.keyspace("rows", fjall::KeyspaceCreateOptions::default).expect("made");
        keyspace.insert("key", "value").expect("inserted");
        let memtables = Memtables::hold(vec![keyspace.clone()]).expect("started");
        let active = Arc::downgrade(&keyspace.tree.active_memtable());
        std::thread::sleep(LOOK * 4);
        assert_eq!(active.strong_count(), 2, "the engine and we hold it");
        // Flushed twice: the second one lets go of what the first one replaced.
        for _ in 0..2 {
            keyspace.rotate_memtable_and_wait().expect("flushed");
            keyspace.insert("key", "value").expect("inserted");
        }
        let begun = std::time::Instant::now();
        while active.strong_count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is never freed");
            std::thread::sleep(LOOK);
        }
        drop(memtables);
        drop((keyspace, db));
        fjall::Database::builder(folder.path()).open().expect("nobody holds the database any more");
    }
}
