//! What the tests share: opening the embedded store, and a runtime for those
//! that are not async.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use shared::adapters::embedded::{self, Embedded, Options, StartError};
use shared::domain::stream::Position;
use shared::metrics::Metrics;
use shared::ports::{Checkpoint, LogId, ViewWriter};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// How long outcomes are kept.
pub(crate) const TTL: Duration = Duration::from_secs(24 * 3_600);

pub(crate) fn try_open(folder: &Path) -> Result<Embedded, StartError> {
    open_reserving(folder, 0)
}

/// Opens a store that takes nothing while so much is not free on the disk.
pub(crate) fn open_reserving(folder: &Path, disk_reserve_mb: u64) -> Result<Embedded, StartError> {
    let metrics = Metrics::new("test", &[]).expect("metrics").store.clone();
    embedded::open(&Options { folder: folder.into(), disk_reserve_mb, outcome_ttl: TTL, metrics })
}

/// Opens a store that is free or about to be: a process that another test starts
/// holds this one's files, and with them its locks, for the moment before it
/// becomes another program.
pub(crate) fn open(folder: &Path) -> Embedded {
    let begun = Instant::now();
    loop {
        match try_open(folder) {
            Ok(store) => return store,
            Err(StartError::InUse { .. }) if begun.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{} does not open: {error}", folder.display()),
        }
    }
}

/// Where the views are.
pub(crate) async fn resume(views: &impl ViewWriter) -> Checkpoint {
    views.resume(LogId(Uuid::nil()), Position::MAX).await.expect("a checkpoint")
}

/// Closes a store and gives its folder free.
pub(crate) fn close(store: Embedded) {
    store.views.close();
    store.events.close();
}

/// One for all, with several threads.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap())
}

/// A number from the environment, for longer runs.
pub(crate) fn env_number(name: &str, or: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => or,
    }
}
