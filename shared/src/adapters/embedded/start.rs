//! Opening the log: first the check that every acknowledged event is there, then
//! the engine. Where something is missing the start stops, and nothing has been
//! changed; `repair` is for the operator to call.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ahead::Ahead;
use super::engine::Engine;
use super::journal::{self, Damage, Gap, JournalError, RepairReport, Verdict};
use super::watermark::{self, Watermark};
use super::{lock, sync_folder};
use crate::domain::stream::Position;
use crate::ports::{LogId, StoreError};

/// The folder of the engine.
pub(super) const EVENTS: &str = "events";
/// Where it is made before it gets its name.
const EVENTS_NEW: &str = "events.new";
/// Where a journal is kept while its tail is cut off on trial.
const TRIAL: &str = "events.tail";
const WATERMARK: &str = "watermark";
const GAPS: &str = "accepted-gaps.json";
/// No group holds more events than this.
const GROUP_EVENTS: u64 = 64 * 1024;

/// Why the embedded store does not open.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the folder {} is in use by another process", folder.display())]
    InUse { folder: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the event log in {} is damaged: {damage}", folder.display())]
    Damaged { folder: PathBuf, damage: Damage },
    #[error(
        "the event log in {} ends at group {found}, but group {acknowledged} was acknowledged: journals are missing \
         or damaged; put them back from a backup, or run `monolith --repair` to go on without what is lost",
        folder.display()
    )]
    Lost { folder: PathBuf, found: u64, acknowledged: u64 },
    #[error("the journals cannot be read: {0}")]
    Journal(#[from] JournalError),
    #[error("the event log in {} cannot be opened: {source}", folder.display())]
    Engine { folder: PathBuf, source: fjall::Error },
    #[error("the views in {} cannot be made: {source}", path.display())]
    Views { path: PathBuf, source: rusqlite::Error },
    #[error("{}", .0.chain())]
    Store(StoreError),
}

impl StartError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A log that is open and whole.
pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) ahead: Ahead,
    pub(super) id: LogId,
    /// The number that the last group has, or would have.
    pub(super) group: u64,
    pub(super) head: Position,
    pub(super) watermark: Watermark,
}

/// Opens the log of a data folder, makes it if there is none.
pub(super) fn open(folder: &Path) -> Result<Opened, StartError> {
    let events = folder.join(EVENTS);
    let acknowledged = acknowledged(folder)?;
    if !events.exists() {
        if let Some(acknowledged) = acknowledged {
            return Err(StartError::Lost { folder: events, found: 0, acknowledged });
        }
        create(folder)?;
    }
    sync_names(folder).map_err(|error| StartError::io(folder, error))?;
    let accepted = accepted_losses(folder)?;
    let gaps = accepted.gaps();
    let ahead = Ahead::before_opening(&events).map_err(|error| StartError::io(&events, error))?;
    let engine = match journal::audit(&events)?.verdict(acknowledged, &gaps) {
        Verdict::Damaged(damage) => return Err(StartError::Damaged { folder: events, damage }),
        Verdict::Sound { .. } => {
            journal::rewrite_tail(&events, acknowledged.unwrap_or(0))?;
            engine(&events)?
        }
        Verdict::TornTail { journal, keep, bytes } => {
            tracing::warn!(bytes, "the log ends in a write that was never acknowledged; it is cut off");
            journal::cut(&events, journal, keep)?;
            engine(&events)?
        }
        Verdict::Uncertain { journal, keep, bytes } => try_cut(folder, journal, keep, bytes, acknowledged)?,
    };
    let found = beyond(engine.group()?, &gaps);
    if let Some(acknowledged) = acknowledged.filter(|acknowledged| found < *acknowledged) {
        return Err(StartError::Lost { folder: events, found, acknowledged });
    }
    let path = folder.join(WATERMARK);
    let watermark = Watermark::open(&path, found).map_err(|error| StartError::io(&path, error))?;
    let id = engine.log_id()?.ok_or_else(|| StoreError::Corrupt { what: "the log's id".into(), source: None })?;
    let head = engine.last_position()?.max(Position(accepted.position));
    Ok(Opened { engine, ahead, id, group: found, head, watermark })
}

fn engine(events: &Path) -> Result<Engine, StartError> {
    let engine = Engine::open(events).map_err(|source| StartError::Engine { folder: events.into(), source })?;
    engine.take_up_heads()?;
    Ok(engine)
}

fn acknowledged(folder: &Path) -> Result<Option<u64>, StartError> {
    let path = folder.join(WATERMARK);
    watermark::read(&path).map_err(|error| StartError::io(&path, error))
}

/// Makes an empty log under another name first, so that a crash leaves none or a
/// whole one.
fn create(folder: &Path) -> Result<(), StartError> {
    let (new, events) = (folder.join(EVENTS_NEW), folder.join(EVENTS));
    let made = |error| StartError::io(&new, error);
    if new.exists() {
        fs::remove_dir_all(&new).map_err(made)?;
    }
    let empty = engine(&new)?;
    let named = empty.name(LogId(Uuid::new_v4()));
    named.map_err(|source| StartError::Engine { folder: new.clone(), source })?;
    drop(empty);
    // The engine does not sync the folder of its keyspaces; without that a power
    // cut may leave a log that opens and has lost everything.
    sync_folders(&new).map_err(made)?;
    fs::rename(&new, &events).map_err(made)
}

/// Syncs a folder and all folders in it.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

/// Makes the names of the log and of the data folder itself durable: at every
/// start, for an earlier one may have ended before it got there.
fn sync_names(folder: &Path) -> io::Result<()> {
    let whole = fs::canonicalize(folder)?;
    sync_folder(&whole)?;
    whole.parent().map_or(Ok(()), sync_folder)
}

/// Cuts a tail off of which no journal tells whether it was acknowledged, and asks
/// the database. If it was, the tail is put back.
fn try_cut(
    folder: &Path,
    journal: u64,
    keep: u64,
    bytes: u64,
    acknowledged: Option<u64>,
) -> Result<Engine, StartError> {
    let events = folder.join(EVENTS);
    let (path, kept) = (events.join(format!("{journal}.jnl")), folder.join(TRIAL));
    let failed = |error| StartError::io(&path, error);
    fs::copy(&path, &kept).map_err(failed)?;
    journal::cut(&events, journal, keep)?;
    let cut = engine(&events)?;
    let found = cut.group()?;
    if let Some(acknowledged) = acknowledged.filter(|acknowledged| found < *acknowledged) {
        drop(cut);
        fs::copy(&kept, &path).map_err(failed)?;
        return Err(StartError::Lost { folder: events, found, acknowledged });
    }
    tracing::warn!(bytes, "the log ends in a write that was never acknowledged; it is cut off");
    fs::remove_file(&kept).map_err(failed)?;
    Ok(cut)
}

/// A group, or the end of the accepted gap that follows it.
fn beyond(group: u64, gaps: &[Gap]) -> u64 {
    let follows = |at: u64| gaps.iter().find(|gap| gap.first <= at + 1 && at < gap.last).map(|gap| gap.last);
    let mut group = group;
    while let Some(last) = follows(group) {
        group = last;
    }
    group
}

/// Losses that an operator has accepted by a repair.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct AcceptedLosses {
    /// Groups that are gone, first and last.
    groups: Vec<(u64, u64)>,
    /// No lost event stood behind this position: new ones do, for a position is
    /// never given twice.
    position: u64,
}

impl AcceptedLosses {
    pub(super) fn gaps(&self) -> Vec<Gap> {
        self.groups.iter().map(|(first, last)| Gap { first: *first, last: *last }).collect()
    }
}

pub(super) fn accepted_losses(folder: &Path) -> Result<AcceptedLosses, StartError> {
    let path = folder.join(GAPS);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StartError::io(&path, error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(AcceptedLosses::default()),
        Err(error) => Err(StartError::io(&path, error)),
    }
}

fn accept(folder: &Path, losses: &AcceptedLosses) -> Result<(), StartError> {
    let (path, new) = (folder.join(GAPS), folder.join("accepted-gaps.new"));
    let failed = |error| StartError::io(&path, error);
    let bytes = serde_json::to_vec(losses).map_err(|error| failed(error.into()))?;
    fs::write(&new, bytes).map_err(failed)?;
    fs::File::open(&new).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&new, &path).and_then(|()| sync_folder(folder)).map_err(failed)
}

/// Makes a damaged log of a data folder fit to open: every intact group is kept,
/// what cannot be read is dropped and told, the originals are kept beside it. The
/// views are thrown away, since they may show what was lost.
///
/// # Errors
/// If the folder is in use or the disk fails.
pub fn repair(folder: &Path) -> Result<RepairReport, StartError> {
    let events = folder.join(EVENTS);
    if !events.exists() {
        return Err(StartError::io(&events, io::ErrorKind::NotFound.into()));
    }
    let _lock = lock(folder)?;
    let mut losses = accepted_losses(folder)?;
    let acknowledged = acknowledged(folder)?;
    let mut report = journal::repair(&events, acknowledged, &losses.gaps())?;
    losses.groups.extend(report.gaps.iter().map(|gap| (gap.first, gap.last)));
    // What no journal knows any more the database may still lack.
    let mended = engine(&events)?;
    let found = beyond(mended.group()?, &losses.gaps());
    if let Some(last) = acknowledged.filter(|acknowledged| found < *acknowledged) {
        losses.groups.push((found + 1, last));
        report.gaps.push(Gap { first: found + 1, last });
    }
    if report.gaps.is_empty() && report.files.is_empty() {
        return Ok(report);
    }
    let lost: u64 = report.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
    mended.mend_heads(beyond(mended.group()?, &losses.gaps()) + 1)?;
    let end = mended.last_position()?.0.max(losses.position);
    losses.position = end.saturating_add((lost + 1).saturating_mul(GROUP_EVENTS)).min(Position::MAX.0 / 2);
    drop(mended);
    accept(folder, &losses)?;
    super::pointer::remove_all(folder).map_err(|error| StartError::io(folder, error))?;
    Ok(report)
}
