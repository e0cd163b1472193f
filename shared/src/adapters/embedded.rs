//! The durable store of a fresh checkout: one folder, nothing to install.
//!
//! The log is a fjall database, the views two SQLite files that can be rebuilt
//! from it. What fjall's own recovery gets wrong is settled before fjall sees
//! the folder: see `journal` and `start`.

mod ahead;
mod engine;
mod events;
mod generation;
mod heads;
mod inbox;
pub mod journal;
mod log_views;
mod memtables;
mod parked;
mod pointer;
mod recent;
mod record;
mod runs;
mod start;
mod streams;
mod tail;
mod views;
mod watermark;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use events::FjallEvents;
pub use start::{StartError, repair};
pub use views::SqliteViews;

use crate::metrics::StoreMetrics;

/// What the embedded store is told at start.
#[derive(Clone)]
pub struct Options {
    /// The folder; made if it is not there.
    pub folder: PathBuf,
    /// Appends are refused while less than this is free on its disk.
    pub disk_reserve_mb: u64,
    /// How long outcomes of commands with an `Idempotency-Key` are kept.
    pub outcome_ttl: Duration,
    /// Where it counts.
    pub metrics: Arc<StoreMetrics>,
}

/// The two halves of the embedded store.
pub struct Embedded {
    pub events: FjallEvents,
    pub views: SqliteViews,
    /// Why the views start empty, if they do.
    pub rebuilding: Option<String>,
}

/// Opens the store, after the log has been checked to hold every acknowledged
/// event. Views that do not belong to this log, are ahead of it or are damaged
/// are thrown away: the projector fills them again.
///
/// # Errors
/// If the folder is in use by another process, acknowledged events are missing
/// or damaged, or the disk fails.
pub fn open(options: &Options) -> Result<Embedded, StartError> {
    open_with(options, log_views::SEGMENT_EVENTS)
}

/// Opens the store with log events in segments of this size.
fn open_with(options: &Options, segment_events: u64) -> Result<Embedded, StartError> {
    std::fs::create_dir_all(&options.folder).map_err(|error| StartError::io(&options.folder, error))?;
    let lock = lock(&options.folder)?;
    let events = FjallEvents::open(options, lock)?;
    let (views, rebuilding) = views::open(options.folder.clone(), &events, segment_events)?;
    Ok(Embedded { events, views, rebuilding })
}

/// Takes the folder for this process, for as long as the file is open.
fn lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|error| StartError::io(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { folder: folder.into() }),
        Err(TryLockError::Error(error)) => Err(StartError::io(&path, error)),
    }
}

/// Makes names that were created or moved in a folder durable.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::domain::filter::Filter;
    use crate::domain::log_event::{LogEvent, Members};
    use crate::domain::projection::{Change, Changes, EventChange, LogChange, Parked};
    use crate::domain::stream::{Metadata, NewEvent, Position, Revision, StreamId};
    use crate::domain::time::Timestamp;
    use crate::ports::{Checkpoint, EventFeed, EventStore, Generation, LogReader, Replayed, ViewWriter};

    fn small_segments(folder: &Path) -> Embedded {
        let metrics = crate::metrics::Metrics::new("test", &[]).expect("metrics").store.clone();
        let outcome_ttl = Duration::from_secs(60);
        let options = Options { folder: folder.into(), disk_reserve_mb: 0, outcome_ttl, metrics };
        open_with(&options, 50).expect("opened")
    }

    /// Whatever is asked for goes through many segments, whose texts are indexed
    /// meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn small_segments_keep_the_promises_of_the_event_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = small_segments(folder.path());
        let views = Arc::new(store.views.clone());
        crate::conformance::log(views.clone(), views.clone(), views.clone()).await;
        store.views.close();
        store.events.close();
    }

    fn event(number: u64, message: String, position: u64) -> LogChange {
        let (id, created_at) = (Uuid::from_u128(number.into()), Timestamp::from_micros(number.cast_signed()));
        let members = Members { timestamp: created_at, message: Some(message), ..Members::default() };
        let event = Some(Arc::new(LogEvent { id, number, created_at, members }));
        let (revision, position) = (Revision(position - number), Position(position));
        LogChange::Event(EventChange { id, number, event, revision, position })
    }

    /// A replay puts an event into a segment whose texts were indexed without it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_a_replay_mends_is_found_by_its_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = small_segments(folder.path());
        let views = &store.views;
        let at = |position| Checkpoint::at(Position(position));
        let stuck = [10, 20].map(|number| Parked {
            stream: StreamId::of_event(Uuid::from_u128(number.into())),
            revision: Revision(0),
            position: Position(number),
            error: "it is of a later version".into(),
            since: Timestamp::from_micros(0),
            replay: false,
        });
        let good = (1..=120).filter(|number| ![10, 20].contains(number));
        let log = good.map(|number| event(number, format!("straw {number}"), number)).collect();
        let changes = Changes { parked: stuck.to_vec(), log, ..Changes::default() };
        views.apply(Generation::Live, at(0), changes, at(200)).await.expect("applied");
        // The indexes of full segments are made within this time.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let needle = Filter::parse("message ct 'needle'").expect("a filter");
        assert_eq!(views.count(&needle).await.expect("a count").found, 0);
        let mended = [event(10, "a needle".into(), 10), event(20, "another needle".into(), 130)];
        for (was, change) in stuck.into_iter().zip(mended) {
            let change = Some(Change::Log(change));
            let twice = Replayed { was: was.clone(), change: change.clone(), still: Some(was.clone()) };
            views.replayed(at(200), twice).await.expect("replayed");
            views.replayed(at(200), Replayed { was, change, still: None }).await.expect("replayed");
        }
        assert_eq!(views.count(&needle).await.expect("a count").found, 2);
        assert_eq!(views.count(&Filter::Any).await.expect("a count").found, 120);
        store.views.close();
        store.events.close();
    }

    /// Where the log's streams end is in rows, and waits, by turns: few are taken to be many
    /// here. Whatever a start finds must be what was appended.
    #[tokio::test]
    async fn streams_end_where_they_ended_before_a_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut ends = BTreeMap::<u64, u64>::new();
        for start in 0..8_u64 {
            let store = small_segments(folder.path());
            for (stream, revision) in &ends {
                assert_eq!(end_of(&store, *stream).await, Some(*revision), "stream {stream} at start {start}");
            }
            for number in 0..40 {
                append(&store, if number % 3 == 0 { number } else { start * 100 + number }, &mut ends).await;
            }
            assert_eq!(end_of(&store, 9_999).await, None);
            store.views.close();
            store.events.close();
        }
    }

    /// Rows of heads are older than the newest events, and may be newer than those that are
    /// lost.
    #[tokio::test]
    async fn a_repair_leaves_streams_that_end_in_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, mut ends) = (small_segments(folder.path()), BTreeMap::new());
        for number in 0..120 {
            append(&store, if number % 4 == 0 { 1_000 } else { number }, &mut ends).await;
        }
        store.views.close();
        store.events.close();
        drop(store);
        let journal = folder.path().join("events/0.jnl");
        let mut bytes = std::fs::read(&journal).expect("readable");
        let written = bytes.iter().rposition(|byte| *byte != 0).expect("something is");
        for at in [written / 3, written / 2, written - 400] {
            bytes[at..at + 24].fill(0);
        }
        std::fs::write(&journal, bytes).expect("writable");
        let report = repair(folder.path()).expect("repaired");
        assert!(report.gaps.len() >= 3, "{report}");
        for start in 0..2 {
            let store = small_segments(folder.path());
            let mut there = BTreeMap::new();
            let log = store.events.subscribe(Checkpoint::START).await.expect("followed").next(1_000).await;
            for event in log.expect("readable").events {
                there.insert(event.stream.as_str().to_owned(), event.revision.0);
            }
            assert!(start > 0 || there.len() < ends.len(), "something was lost");
            for stream in ends.keys() {
                let last = end_of(&store, *stream).await;
                assert_eq!(last, there.get(&format!("answer-{stream}")).copied(), "stream {stream}, start {start}");
            }
            for stream in ends.keys().copied().collect::<Vec<_>>() {
                let last = end_of(&store, stream).await;
                let mut ends = last.map(|last| (stream, last)).into_iter().collect();
                append(&store, stream, &mut ends).await;
            }
            store.views.close();
            store.events.close();
        }
    }

    async fn end_of(store: &Embedded, stream: u64) -> Option<u64> {
        let stream = StreamId::from_stored(&format!("answer-{stream}"));
        let last = store.events.last(&stream).await.expect("readable");
        last.inspect(|last| assert_eq!(last.stream, stream)).map(|last| last.revision.0)
    }

    async fn append(store: &Embedded, stream: u64, ends: &mut BTreeMap<u64, u64>) {
        let metadata = Metadata { schema: 1, recorded_at: Timestamp::from_micros(0) };
        let event = NewEvent { id: Uuid::new_v4(), kind: "a".into(), data: "{}".into(), metadata };
        let name = StreamId::from_stored(&format!("answer-{stream}"));
        let expected = ends.get(&stream).copied().map(Revision).into();
        let appended = EventStore::append(&store.events, &name, expected, vec![event]).await.expect("appended");
        ends.insert(stream, appended.first.0);
    }
}
