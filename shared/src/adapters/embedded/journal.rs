//! Reads, judges and mends the engine's journals (`N.jnl`) before the engine opens them.
//!
//! The engine's own recovery refuses to open on some torn tails and silently cuts off
//! everything behind damage in the middle. Here every batch is checked against its
//! checksum, the group numbers (see [`GROUP_KEY`]) show what is missing, and the number of
//! the last acknowledged group tells a torn write from a lost event.
//!
//! All of it runs while the engine is closed: a closing engine still writes its buffer, so
//! drop every handle before [`cut`], [`cut_after_group`], [`rewrite_tail`] or [`repair`].
//! Keeping the acknowledged number and the accepted gaps is left to the caller.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The key of the item that carries a batch's group number (`u64`, big-endian).
pub const GROUP_KEY: &[u8] = b"qaservice/group";

const MAGIC: &[u8; 4] = b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const START_BYTES: u64 = 13;
const ITEM_BYTES: u64 = 21;
const CLEAR_BYTES: u64 = 9;
const END_BYTES: u64 = 13;
const WINDOW: usize = 256 * 1024;
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK + START_BYTES as usize] = [0; BLOCK + START_BYTES as usize];

/// The engine's sequence numbers rise by one a batch and a little for flushes. The journal's
/// checksum does not cover them, so a leap beyond this is taken for damage.
const SEQNO_LEAP: u64 = 1 << 32;

/// Why the journals could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A `.jnl` file that the engine did not name; it would refuse to open.
    #[error("{} is not a journal of the engine: move it away", .0.display())]
    Stranger(PathBuf),
    /// A cut would lie outside the file.
    #[error("{journal}.jnl has {len} bytes and cannot be cut to {keep}")]
    OutOfRange {
        /// The journal's number.
        journal: u64,
        /// Its length.
        len: u64,
        /// The length asked for.
        keep: u64,
    },
    /// The group that must stay is not there, so cutting would hide a loss.
    #[error("group {group} was acknowledged but the journals end with group {last}")]
    Lost {
        /// The acknowledged group.
        group: u64,
        /// The last group found up to it.
        last: u64,
    },
    /// A cut would have removed an acknowledged group.
    #[error("cutting {journal}.jnl at byte {keep} would remove group {group}, which was acknowledged")]
    WouldRemove {
        /// The journal's number.
        journal: u64,
        /// Where it would have been cut.
        keep: u64,
        /// An acknowledged group behind that place.
        group: u64,
    },
    /// The content behind the damage looks like so many batches that the search was given up.
    #[error("{journal}.jnl: the search for intact batches behind byte {at} was given up; nothing was changed")]
    GaveUp {
        /// The journal's number.
        journal: u64,
        /// Where the unreadable part begins.
        at: u64,
    },
}

type Result<T, E = JournalError> = std::result::Result<T, E>;

/// A range of group numbers, both ends included, that a repair could not save.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gap {
    /// The first missing group.
    pub first: u64,
    /// The last missing group.
    pub last: u64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "group {}", self.first),
            false => write!(f, "groups {} to {}", self.first, self.last),
        }
    }
}

/// A count of batches and the group numbers at its ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stretch {
    /// How many intact batches.
    pub batches: u64,
    /// The first group number among them.
    pub first: Option<u64>,
    /// The last one.
    pub last: Option<u64>,
}

impl Stretch {
    fn add(&mut self, group: Option<u64>) {
        self.batches += 1;
        self.first = self.first.or(group);
        self.last = group.or(self.last);
    }
}

/// What follows the intact batches at the beginning of a journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// The end of the file, or zeros up to it.
    Clean,
    /// Something that is no batch.
    Broken(Broken),
}

/// The part of a journal from its first damage on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Broken {
    /// Every unreadable range, in order.
    pub holes: Vec<Hole>,
    /// The valid batches behind damage.
    pub behind: Stretch,
    /// The last hole reaches the end of the file and holds the end mark of a batch that is
    /// not its last bytes: it was more than one batch, and only one can be unacknowledged.
    pub several: bool,
    /// False when the search behind the damage was given up.
    pub searched: bool,
}

/// An unreadable range of a journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hole {
    /// Where it begins.
    pub at: u64,
    /// Its length, without the zeros at the end of the file.
    pub bytes: u64,
    /// How many intact batches follow it in the same file.
    pub behind: u64,
}

/// What one journal holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalAudit {
    /// The number in its name.
    pub number: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The batches before any damage.
    pub intact: Stretch,
    /// Where they end.
    pub valid_to: u64,
    /// What follows them.
    pub end: End,
}

impl JournalAudit {
    fn is_empty(&self) -> bool {
        self.intact.batches == 0 && self.end == End::Clean
    }
}

/// What all journals hold, in the order of their numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Audit {
    /// One entry a journal.
    pub journals: Vec<JournalAudit>,
    /// The highest group found anywhere.
    pub last: Option<u64>,
    order: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Bytes that are no batch.
    Unreadable {
        /// The journal's number.
        journal: u64,
        /// The unreadable range.
        hole: Hole,
        /// False when the search behind it was given up.
        searched: bool,
    },
    /// Group numbers leap between two intact batches.
    Missing {
        /// The journal's number.
        journal: u64,
        /// Where the batch behind the gap begins.
        at: u64,
        /// What is not there.
        gap: Gap,
    },
    /// A group number that is not above the one before.
    Backwards {
        /// The journal's number.
        journal: u64,
        /// Where the batch begins.
        at: u64,
        /// Its group.
        group: u64,
        /// The highest group before it.
        after: u64,
    },
    /// A batch whose sequence number (which no checksum covers) does not fit its neighbours.
    Sequence {
        /// The journal's number.
        journal: u64,
        /// Where the batch begins.
        at: u64,
    },
    /// The journals end before the last acknowledged group.
    LostEnd {
        /// The last group found.
        last: u64,
        /// What is not there.
        gap: Gap,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { journal, hole, searched } => {
                let Hole { at, bytes, behind } = hole;
                write!(
                    f,
                    "{journal}.jnl: {bytes} bytes from byte {at} on are unreadable, {behind} intact batches lie behind them"
                )?;
                if *searched { Ok(()) } else { f.write_str(" (the search for more was given up)") }
            }
            Self::Missing { journal, at, gap } => {
                write!(f, "{journal}.jnl: {gap} missing before byte {at}")
            }
            Self::Backwards { journal, at, group, after } => {
                write!(f, "{journal}.jnl: group {group} at byte {at} comes after group {after}")
            }
            Self::Sequence { journal, at } => {
                write!(f, "{journal}.jnl: the batch at byte {at} has a damaged sequence number")
            }
            Self::LostEnd { last, gap } => {
                write!(f, "{gap} acknowledged but missing, the journals end with group {last}")
            }
        }
    }
}

/// Why the engine must not be opened, for the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// All that is wrong, in the order of the journals.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        f.write_str("the event store's journals are damaged")?;
        for (i, fault) in self.faults.iter().take(SHOWN).enumerate() {
            write!(f, "{} {fault}", if i == 0 { ":" } else { ";" })?;
        }
        if self.faults.len() > SHOWN {
            write!(f, "; and {} more faults", self.faults.len() - SHOWN)?;
        }
        f.write_str("; nothing has been changed: run `monolith --repair`")
    }
}

impl std::error::Error for Damage {}

/// What to do with the journals.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing: open the engine, and expect at least this group in it (if one is named).
    Sound {
        /// The last group in the journals, none if all of them were flushed.
        last: Option<u64>,
    },
    /// The last write was never acknowledged: [`cut`] it off and open the engine.
    TornTail {
        /// The journal's number.
        journal: u64,
        /// The length to cut it to.
        keep: u64,
        /// How many bytes that drops.
        bytes: u64,
    },
    /// As `TornTail`, but the journals name no group: copy the journal, cut it, open the
    /// engine and compare the group stored there with the acknowledged one.
    Uncertain {
        /// The journal's number.
        journal: u64,
        /// The length to cut it to.
        keep: u64,
        /// How many bytes that drops.
        bytes: u64,
    },
    /// An acknowledged group may be lost: do not open the engine.
    Damaged(Damage),
}

impl Audit {
    /// Weighs what was found against the last acknowledged group and the gaps that earlier
    /// repairs have left.
    #[must_use]
    pub fn verdict(&self, acknowledged: Option<u64>, accepted: &[Gap]) -> Verdict {
        let tail = self.torn_tail();
        let torn = tail.map(|(journal, hole)| (journal.number, hole.at));
        let mut faults = self.faults(accepted, torn);
        faults.extend(self.lost_end(acknowledged, accepted));
        match tail {
            _ if !faults.is_empty() => {
                // The operator is shown the tail as well, for it may be what was lost.
                let faults = if torn.is_some() { self.with_tail(faults, accepted) } else { faults };
                Verdict::Damaged(Damage { faults })
            }
            None => Verdict::Sound { last: self.last },
            Some((journal, hole)) => {
                let (journal, keep, bytes) = (journal.number, hole.at, hole.bytes);
                match self.last {
                    Some(_) => Verdict::TornTail { journal, keep, bytes },
                    None => Verdict::Uncertain { journal, keep, bytes },
                }
            }
        }
    }

    /// The damage that can be an unacknowledged write: at the end of the last journal that
    /// holds anything (a failed write does not keep the engine from starting another file),
    /// one batch at most, nothing intact behind it.
    fn torn_tail(&self) -> Option<(&JournalAudit, Hole)> {
        let journal = self.journals.iter().rev().find(|journal| !journal.is_empty())?;
        match &journal.end {
            End::Broken(broken) if broken.searched && !broken.several && broken.behind.batches == 0 => {
                broken.holes.first().map(|hole| (journal, *hole))
            }
            _ => None,
        }
    }

    fn faults(&self, accepted: &[Gap], except: Option<(u64, u64)>) -> Vec<Fault> {
        let holes = self.journals.iter().flat_map(holes_of);
        let holes = holes.filter(|fault| except.is_none_or(|place| fault.place() != place));
        let order = self.order.iter().filter(|fault| match fault {
            Fault::Missing { gap, .. } => !covered(*gap, accepted),
            _ => true,
        });
        let mut faults: Vec<Fault> = holes.chain(order.cloned()).collect();
        faults.sort_by_key(Fault::place);
        faults
    }

    fn with_tail(&self, faults: Vec<Fault>, accepted: &[Gap]) -> Vec<Fault> {
        let end = faults.into_iter().filter(|fault| matches!(fault, Fault::LostEnd { .. }));
        self.faults(accepted, None).into_iter().chain(end).collect()
    }

    fn lost_end(&self, acknowledged: Option<u64>, accepted: &[Gap]) -> Option<Fault> {
        let (last, acknowledged) = (self.last?, acknowledged?);
        let reached = reach(last, accepted);
        (reached < acknowledged).then_some(Fault::LostEnd { last, gap: Gap { first: reached + 1, last: acknowledged } })
    }
}

impl Fault {
    fn place(&self) -> (u64, u64) {
        match self {
            Self::Unreadable { journal, hole, .. } => (*journal, hole.at),
            Self::Missing { journal, at, .. }
            | Self::Backwards { journal, at, .. }
            | Self::Sequence { journal, at } => (*journal, *at),
            Self::LostEnd { .. } => (u64::MAX, u64::MAX),
        }
    }
}

fn holes_of(journal: &JournalAudit) -> Vec<Fault> {
    let End::Broken(broken) = &journal.end else {
        return Vec::new();
    };
    let fault = |hole: &Hole| Fault::Unreadable { journal: journal.number, hole: *hole, searched: broken.searched };
    broken.holes.iter().map(fault).collect()
}

/// The group up to which `last` reaches when the accepted gaps behind it are skipped.
fn reach(last: u64, accepted: &[Gap]) -> u64 {
    let mut reached = last;
    while let Some(gap) = accepted.iter().find(|gap| gap.first <= reached.saturating_add(1) && gap.last > reached) {
        reached = gap.last;
    }
    reached
}

fn covered(gap: Gap, accepted: &[Gap]) -> bool {
    reach(gap.first.saturating_sub(1), accepted) >= gap.last
}

/// Reads all journals in the folder, a window at a time, and changes nothing. A folder that
/// is not there holds no journals.
///
/// # Errors
///
/// When a file cannot be read or is not named as the engine names its journals.
pub fn audit(folder: &Path) -> Result<Audit> {
    let mut order = Order::default();
    let mut journals = Vec::new();
    for (number, path) in list(folder)? {
        let walk = walk_path(&path, order.group, SEARCH, |batch| order.check(number, batch))?;
        journals.push(walk.audit(number));
    }
    Ok(Audit { journals, last: order.group, order: order.faults })
}

/// Follows the numbers from batch to batch, across journals.
#[derive(Default)]
struct Order {
    group: Option<u64>,
    seqno: Option<u64>,
    faults: Vec<Fault>,
}

impl Order {
    fn check(&mut self, journal: u64, batch: &Batch) {
        let at = batch.at;
        if self.seqno.is_some_and(|before| batch.seqno <= before || batch.seqno - before > SEQNO_LEAP) {
            self.faults.push(Fault::Sequence { journal, at });
        }
        self.seqno = Some(batch.seqno);
        let Some(group) = batch.group else { return };
        match self.group {
            Some(after) if group <= after => {
                self.faults.push(Fault::Backwards { journal, at, group, after });
            }
            Some(before) if group - before > 1 => {
                let gap = Gap { first: before + 1, last: group - 1 };
                self.faults.push(Fault::Missing { journal, at, gap });
            }
            _ => {}
        }
        self.group = self.group.max(Some(group));
    }
}

/// Cuts a journal to its first `keep` bytes and makes that durable. The engine appends there.
///
/// # Errors
///
/// When the journal is shorter than that, or the file system refuses.
pub fn cut(folder: &Path, journal: u64, keep: u64) -> Result<()> {
    let path = journal_path(folder, journal);
    let opened = OpenOptions::new().write(true).open(&path);
    let file = opened.map_err(io_error("open", &path))?;
    let len = file.metadata().map_err(io_error("read the length of", &path))?.len();
    if keep > len {
        return Err(JournalError::OutOfRange { journal, len, keep });
    }
    file.set_len(keep).map_err(io_error("cut", &path))?;
    file.sync_all().map_err(io_error("sync", &path))
}

/// Cuts off all that was written after the given group, intact or not: after a failed write
/// it was never acknowledged. Returns how many bytes were dropped. A group that is no longer
/// in the journals because it was flushed is fine.
///
/// # Errors
///
/// When an acknowledged group is missing or would be removed (nothing is changed then), or
/// the file system refuses.
pub fn cut_after_group(folder: &Path, group: u64, accepted: &[Gap]) -> Result<u64> {
    let mut plans = Vec::new();
    let mut last = None;
    let mut over = None;
    for (number, path) in list(folder)? {
        let plan = plan_cut(number, &path, group, last)?;
        if let (Some((journal, keep)), Some(group)) = (over, plan.first_kept) {
            return Err(JournalError::WouldRemove { journal, keep, group });
        }
        last = last.max(plan.last_kept);
        if plan.bytes > 0 {
            over = over.or(Some((number, plan.keep)));
            plans.push((number, plan));
        }
    }
    if let Some(last) = last.filter(|last| reach(*last, accepted) < group) {
        return Err(JournalError::Lost { group, last });
    }
    // The last file first, so that a kill in between leaves no hole.
    for (number, plan) in plans.iter().rev() {
        cut(folder, *number, plan.keep)?;
    }
    Ok(plans.iter().map(|(_, plan)| plan.bytes).sum())
}

struct CutPlan {
    keep: u64,
    bytes: u64,
    first_kept: Option<u64>,
    last_kept: Option<u64>,
}

fn plan_cut(journal: u64, path: &Path, group: u64, last: Option<u64>) -> Result<CutPlan> {
    let (mut first_over, mut late) = (None, None);
    let (mut first_kept, mut last_kept) = (None, None);
    let walk = walk_path(path, last, SEARCH, |batch| match batch.group {
        Some(found) if found > group => first_over = first_over.or(Some(batch.at)),
        Some(found) => {
            first_kept = first_kept.or(Some(found));
            last_kept = last_kept.max(Some(found));
            late = Some((batch.at, found));
        }
        None => {}
    })?;
    let keep = first_over.unwrap_or(walk.valid_to).min(walk.valid_to);
    if let Some((_, group)) = late.filter(|(at, _)| *at >= keep) {
        return Err(JournalError::WouldRemove { journal, keep, group });
    }
    // Where the search was given up, only what follows the group itself may be dropped.
    if let Some(at) = walk.gave_up.filter(|_| last_kept != Some(group)) {
        return Err(JournalError::GaveUp { journal, at });
    }
    let bytes = walk.used.saturating_sub(keep);
    Ok(CutPlan { keep, bytes, first_kept, last_kept })
}

/// Writes the intact batches above the given group again, the same bytes in the same place,
/// and syncs: after a failed sync the page cache may call pages clean that never reached the
/// disk.
///
/// # Errors
///
/// When the file system refuses.
pub fn rewrite_tail(folder: &Path, from_group: u64) -> Result<()> {
    for (_, path) in list(folder)? {
        let mut first = None;
        let walk = walk_path(&path, None, SEARCH, |batch| {
            if batch.group.is_some_and(|group| group > from_group) {
                first = first.or(Some(batch.at));
            }
        })?;
        if let Some(first) = first.filter(|first| *first < walk.valid_to) {
            rewrite(&path, first, walk.valid_to).map_err(io_error("rewrite", &path))?;
        }
    }
    Ok(())
}

fn rewrite(path: &Path, from: u64, to: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut buf = vec![0; WINDOW];
    let mut at = from;
    while at < to {
        let n = at_most(to - at, WINDOW);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut buf[..n])?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&buf[..n])?;
        at += n as u64;
    }
    file.sync_all()
}

/// What a repair did, for the operator and for the caller to store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RepairReport {
    /// The folder with the originals of the files below, if any was changed.
    pub originals: Option<PathBuf>,
    /// Every journal that was rewritten.
    pub files: Vec<RepairedJournal>,
    /// The lost groups: store these as accepted before the next [`Audit::verdict`].
    pub gaps: Vec<Gap>,
    /// Bytes before the first group in the journals were unreadable (before this one, or none
    /// is left at all). No number tells which groups they held, or whether they were flushed.
    pub unknown_before: Option<Option<u64>>,
    /// The last group in the journals.
    pub last: Option<u64>,
    /// The lowest number that the next group may have, lest it lies in an accepted gap.
    pub next_group: Option<u64>,
}

/// What a repair did with one journal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RepairedJournal {
    /// The journal's number.
    pub number: u64,
    /// How many batches it holds now.
    pub batches: u64,
    /// The unreadable ranges of the original, which were dropped.
    pub dropped: Vec<Hole>,
    /// How many batches were dropped since their group had come before.
    pub repeated: u64,
    /// How many batches were given a new sequence number.
    pub renumbered: u64,
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.files.is_empty() {
            f.write_str("no journal had to be changed")?;
        }
        for (i, file) in self.files.iter().enumerate() {
            write!(f, "{}{file}", if i == 0 { "" } else { "; " })?;
        }
        if let Some(originals) = &self.originals {
            write!(f, "; the originals are in {}", originals.display())?;
        }
        match self.unknown_before {
            Some(Some(first)) => write!(f, "; groups before group {first} may be lost, unless they were flushed")?,
            Some(None) => f.write_str("; the journals hold no group any more")?,
            None => {}
        }
        if self.gaps.is_empty() {
            return f.write_str("; no gap between the groups");
        }
        for (i, gap) in self.gaps.iter().enumerate() {
            write!(f, "{}{gap}", if i == 0 { "; lost: " } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for RepairedJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.jnl: kept {} batches", self.number, self.batches)?;
        for hole in &self.dropped {
            write!(f, ", dropped {} unreadable bytes at byte {}", hole.bytes, hole.at)?;
        }
        if self.repeated > 0 {
            write!(f, ", dropped {} batches whose groups had come before", self.repeated)?;
        }
        if self.renumbered > 0 {
            write!(f, ", mended {} sequence numbers", self.renumbered)?;
        }
        Ok(())
    }
}

/// Rewrites every damaged journal so that it holds all its intact batches, those behind the
/// damage too. The original is copied beside the folder first. May be killed at any moment
/// and run again; without damage it changes nothing, and it names the gaps every time until
/// they are accepted.
///
/// # Errors
///
/// When the file system refuses, or the search behind the damage had to be given up.
pub fn repair(folder: &Path, acknowledged: Option<u64>, accepted: &[Gap]) -> Result<RepairReport> {
    remove_leftovers(folder)?;
    let mut plans = survey(folder)?;
    renumber(&mut plans);
    let mut report = RepairReport::default();
    for plan in plans.iter().filter(|plan| plan.is_changed()) {
        let originals = match report.originals.take() {
            Some(originals) => originals,
            None => originals_folder(folder)?,
        };
        let kept = originals.join(format!("{}.jnl", plan.report.number));
        keep_copy(&plan.path, &kept).map_err(io_error("copy to", &kept))?;
        sync_folder(&originals)?;
        replace(folder, plan)?;
        report.originals = Some(originals);
        report.files.push(plan.report.clone());
    }
    let groups = plans.iter().flat_map(|plan| &plan.kept).filter_map(|kept| kept.batch.group);
    (report.gaps, report.last) = gaps(groups, acknowledged, accepted);
    report.unknown_before = unknown_before(&plans);
    let reached = report.last.map(|last| reach(reach(last, accepted), &report.gaps));
    report.next_group = reached.max(acknowledged).map(|group| group.saturating_add(1));
    Ok(report)
}

fn gaps(groups: impl Iterator<Item = u64>, acknowledged: Option<u64>, accepted: &[Gap]) -> (Vec<Gap>, Option<u64>) {
    let (mut gaps, mut last) = (Vec::new(), None);
    for group in groups {
        let before: u64 = last.replace(group).unwrap_or(group.saturating_sub(1));
        let gap = Gap { first: before.saturating_add(1), last: group.saturating_sub(1) };
        if gap.first <= gap.last && !covered(gap, accepted) {
            gaps.push(gap);
        }
    }
    if let (Some(last), Some(acknowledged)) = (last, acknowledged) {
        let first = reach(last, accepted).saturating_add(1);
        if first <= acknowledged {
            gaps.push(Gap { first, last: acknowledged });
        }
    }
    (gaps, last)
}

/// Whether something was dropped before the first group, and that group.
fn unknown_before(plans: &[Plan]) -> Option<Option<u64>> {
    let mut dropped = false;
    for plan in plans {
        let mut groups = plan.kept.iter().filter_map(|kept| Some((kept.batch.at, kept.batch.group?)));
        let first = groups.next();
        let is_before = |hole: &Hole| first.is_none_or(|(at, _)| hole.at < at);
        dropped |= plan.report.dropped.iter().any(is_before);
        if let Some((_, group)) = first {
            return dropped.then_some(Some(group));
        }
    }
    dropped.then_some(None)
}

/// A journal as it will be after the repair.
struct Plan {
    path: PathBuf,
    kept: Vec<Kept>,
    report: RepairedJournal,
}

struct Kept {
    batch: Batch,
    seqno: u64,
}

impl Plan {
    fn is_changed(&self) -> bool {
        let report = &self.report;
        !report.dropped.is_empty() || report.repeated > 0 || report.renumbered > 0
    }
}

fn survey(folder: &Path) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    let mut last = None;
    for (number, path) in list(folder)? {
        let (mut kept, mut repeated) = (Vec::new(), 0);
        let before = last;
        let walk = walk_path(&path, before, PATIENT_SEARCH, |batch| {
            if batch.group.is_some() && batch.group <= last {
                repeated += 1;
                return;
            }
            last = last.max(batch.group);
            kept.push(Kept { batch: *batch, seqno: batch.seqno });
        })?;
        if let Some(at) = walk.gave_up {
            return Err(JournalError::GaveUp { journal: number, at });
        }
        let batches = kept.len() as u64;
        let report = RepairedJournal { number, batches, dropped: walk.holes, repeated, renumbered: 0 };
        plans.push(Plan { path, kept, report });
    }
    Ok(plans)
}

/// Gives the batches whose sequence numbers do not fit ones that do: the engine drops a batch
/// silently when its number is below that of what was flushed. The items have a checksum, the
/// number has not, so such a batch is otherwise intact.
fn renumber(plans: &mut [Plan]) {
    let seqnos: Vec<u64> = plans.iter().flat_map(|plan| &plan.kept).map(|kept| kept.seqno).collect();
    if seqnos.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= SEQNO_LEAP) {
        return;
    }
    let mut fitting = fitting(&seqnos).into_iter();
    for plan in plans {
        for (kept, seqno) in plan.kept.iter_mut().zip(&mut fitting) {
            plan.report.renumbered += u64::from(kept.seqno != seqno);
            kept.seqno = seqno;
        }
    }
}

/// Rising numbers that agree with the longest rising run of the given ones.
fn fitting(seqnos: &[u64]) -> Vec<u64> {
    let mut sorted = seqnos.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let trusted = longest_rising(seqnos, |seqno| seqno.abs_diff(median) <= SEQNO_LEAP);
    let lead = trusted.first().map_or(0, |first| *first as u64);
    let base = trusted.first().map_or(median, |first| seqnos[*first]);
    let trusted: BTreeSet<usize> = trusted.into_iter().collect();
    let mut next = base.saturating_sub(lead);
    let fit = |(i, seqno): (usize, &u64)| {
        let fit = if trusted.contains(&i) { next.max(*seqno) } else { next };
        next = fit.saturating_add(1);
        fit
    };
    seqnos.iter().enumerate().map(fit).collect()
}

/// The places of a longest strictly rising subsequence (patience sorting).
fn longest_rising(seqnos: &[u64], plausible: impl Fn(u64) -> bool) -> Vec<usize> {
    let mut tops: Vec<usize> = Vec::new();
    let mut before = vec![None; seqnos.len()];
    for (i, seqno) in seqnos.iter().enumerate().filter(|(_, seqno)| plausible(**seqno)) {
        let pile = tops.partition_point(|top| seqnos[*top] < *seqno);
        before[i] = pile.checked_sub(1).map(|left| tops[left]);
        match tops.get_mut(pile) {
            Some(top) => *top = i,
            None => tops.push(i),
        }
    }
    let mut chain: Vec<usize> = std::iter::successors(tops.last().copied(), |i| before[*i]).collect();
    chain.reverse();
    chain
}

fn originals_folder(folder: &Path) -> Result<PathBuf> {
    let whole = fs::canonicalize(folder).map_err(io_error("find", folder))?;
    let parent = whole.parent().unwrap_or(&whole);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut tries = 0;
    loop {
        let name = match tries {
            0 => format!("damaged-{seconds}"),
            _ => format!("damaged-{seconds}-{tries}"),
        };
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => {
                sync_folder(parent)?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => tries += 1,
            Err(error) => return Err(io_error("create", &path)(error)),
        }
    }
}

fn keep_copy(from: &Path, to: &Path) -> io::Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part)?;
    OpenOptions::new().write(true).open(&part)?.sync_all()?;
    fs::rename(&part, to)
}

/// Puts the intact batches in the place of the journal; the temporary name does not end in
/// `.jnl`, so that the engine would pass it over.
fn replace(folder: &Path, plan: &Plan) -> Result<()> {
    let temporary = folder.join(format!("{}.jnl.repair", plan.report.number));
    write_kept(plan, &temporary).map_err(io_error("write", &temporary))?;
    keep_owner(&plan.path, &temporary);
    fs::rename(&temporary, &plan.path).map_err(io_error("replace", &plan.path))?;
    sync_folder(folder)
}

/// A repair may run as another user than the service. Where the owner cannot be kept, the
/// service's own error tells.
#[cfg(unix)]
fn keep_owner(from: &Path, to: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    if let Ok(owner) = fs::metadata(from) {
        let _ = fs::set_permissions(to, owner.permissions());
        let _ = chown(to, Some(owner.uid()), Some(owner.gid()));
    }
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &Path) {}

fn write_kept(plan: &Plan, to: &Path) -> io::Result<()> {
    let mut from = File::open(&plan.path)?;
    let mut out = BufWriter::with_capacity(WINDOW, File::create(to)?);
    for Kept { batch, seqno } in &plan.kept {
        let seqno_at = batch.at + 5;
        copy_range(&mut from, batch.at, seqno_at, &mut out)?;
        out.write_all(&seqno.to_le_bytes())?;
        copy_range(&mut from, seqno_at + 8, batch.end, &mut out)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn copy_range(from: &mut File, at: u64, end: u64, to: &mut impl Write) -> io::Result<()> {
    from.seek(SeekFrom::Start(at))?;
    match io::copy(&mut from.take(end - at), to)? {
        copied if copied == end - at => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn remove_leftovers(folder: &Path) -> Result<()> {
    for (_, path) in list(folder)? {
        let leftover = path.with_extension("jnl.repair");
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &leftover)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("sync", folder))
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

fn journal_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.jnl"))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_path_buf();
    move |source| JournalError::Io { doing, path, source }
}

/// The journals by number. The engine takes every `.jnl` for one of its own and refuses odd
/// names, so these are an error here too.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", folder))?,
    };
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error("list", folder))?.path();
        if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("jnl")) {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match stem.and_then(|stem| stem.parse().ok()) {
            Some(number) if path == journal_path(folder, number) && path.is_file() => {
                journals.push((number, path));
            }
            _ => return Err(JournalError::Stranger(path)),
        }
    }
    journals.sort_unstable();
    Ok(journals)
}

/// An intact batch.
#[derive(Clone, Copy, Debug)]
struct Batch {
    at: u64,
    end: u64,
    seqno: u64,
    group: Option<u64>,
}

/// What stands at some place of a journal.
enum Look {
    Batch(Batch),
    /// The frame of a batch up to its end mark, but with another checksum.
    Spoiled {
        end: u64,
    },
    Nothing,
}

/// What a walk through one journal found, besides the batches.
struct Walk {
    len: u64,
    valid_to: u64,
    /// Up to the last byte that is not zero.
    used: u64,
    intact: Stretch,
    behind: Stretch,
    holes: Vec<Hole>,
    several: bool,
    gave_up: Option<u64>,
}

impl Walk {
    fn audit(self, number: u64) -> JournalAudit {
        let end = match self.holes.is_empty() {
            true => End::Clean,
            false => End::Broken(Broken {
                holes: self.holes,
                behind: self.behind,
                several: self.several,
                searched: self.gave_up.is_none(),
            }),
        };
        JournalAudit { number, len: self.len, intact: self.intact, valid_to: self.valid_to, end }
    }

    fn add(&mut self, batch: &Batch) {
        self.used = batch.end;
        match self.holes.is_empty() {
            true => {
                self.valid_to = batch.end;
                self.intact.add(batch.group);
            }
            false => {
                self.behind.add(batch.group);
                self.holes.iter_mut().for_each(|hole| hole.behind += 1);
            }
        }
    }
}

/// How much fruitless work, in bytes for each byte of the file, a search may cost. Content
/// made to look like batches would otherwise make it quadratic.
const SEARCH: u64 = 8;
/// The same when a repair depends on it.
const PATIENT_SEARCH: u64 = 512;

fn walk_path(path: &Path, last: Option<u64>, patience: u64, visit: impl FnMut(&Batch)) -> Result<Walk> {
    let walked = Journal::open(path).and_then(|journal| journal.walk(last, patience, visit));
    walked.map_err(io_error("read", path))
}

/// A journal file behind a window of bounded size.
struct Journal {
    file: File,
    len: u64,
    window: Vec<u8>,
    window_at: u64,
    /// The work done so far, in bytes or what takes as long.
    work: u64,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len, window: Vec::new(), window_at: 0, work: 0 })
    }

    /// Visits every intact batch in order, those behind damage too. `last` is the highest
    /// group of the journals before.
    fn walk(mut self, mut last: Option<u64>, patience: u64, mut visit: impl FnMut(&Batch)) -> io::Result<Walk> {
        let mut walk = self.new_walk();
        let mut budget = self.len.saturating_mul(patience).saturating_add(16 << 20);
        let mut at = 0;
        loop {
            let work = self.work;
            let spoiled_end = match self.look(at)? {
                Look::Batch(batch) => {
                    visit(&batch);
                    walk.add(&batch);
                    last = last.max(batch.group);
                    at = batch.end;
                    continue;
                }
                Look::Spoiled { end } => Some(end),
                Look::Nothing => None,
            };
            budget = budget.saturating_sub(self.work - work);
            if self.skip_zeros(at)? == self.len {
                return Ok(walk);
            }
            match self.resume(at, spoiled_end, last, &mut budget)? {
                Some(next) => {
                    walk.holes.push(Hole { at, bytes: next - at, behind: 0 });
                    at = next;
                }
                None => {
                    walk.gave_up = (budget == 0).then_some(at);
                    self.end_broken(at, &mut walk)?;
                    return Ok(walk);
                }
            }
        }
    }

    fn new_walk(&self) -> Walk {
        Walk {
            len: self.len,
            valid_to: 0,
            used: 0,
            intact: Stretch::default(),
            behind: Stretch::default(),
            holes: Vec::new(),
            several: false,
            gave_up: None,
        }
    }

    fn end_broken(&mut self, at: u64, walk: &mut Walk) -> io::Result<()> {
        walk.used = self.used_from(at)?;
        walk.several = self.holds_several(at, walk.used)?;
        walk.holes.push(Hole { at, bytes: walk.used - at, behind: 0 });
        Ok(())
    }

    /// The first place behind `at` where an intact batch begins, none if there is none or the
    /// budget is used up (zero).
    fn resume(
        &mut self,
        at: u64,
        spoiled_end: Option<u64>,
        last: Option<u64>,
        budget: &mut u64,
    ) -> io::Result<Option<u64>> {
        // Where just one group is missing, the spoiled frame was that group. It is stepped
        // over as a whole, so that a value which holds the bytes of a batch is not taken for one.
        if let (Some(end), Some(last)) = (spoiled_end, last)
            && let Look::Batch(next) = self.look(end)?
            && next.group == last.checked_add(2)
        {
            return Ok(Some(end));
        }
        let mut from = at + 1;
        while *budget > 0
            && let Some(start) = self.find_start(from)?
        {
            let work = self.work;
            match self.look(start)? {
                Look::Batch(batch) if batch.group.is_none() || batch.group > last => {
                    return Ok(Some(start));
                }
                _ => {}
            }
            *budget = budget.saturating_sub(self.work - work);
            from = start + 1;
        }
        Ok(None)
    }

    /// The next place that looks like a start mark with an item behind it.
    fn find_start(&mut self, from: u64) -> io::Result<Option<u64>> {
        const HEAD: usize = START_BYTES as usize;
        let mut at = from;
        loop {
            let ahead = self.ahead(at, BLOCK + HEAD)?;
            if ahead.len() <= HEAD {
                return Ok(None);
            }
            let places = if ahead.len() >= ZEROS.len() { BLOCK } else { ahead.len() - HEAD };
            if ahead[..places + HEAD] == ZEROS[..places + HEAD] {
                at += places as u64;
                continue;
            }
            let is_start = |i: &usize| ahead[*i] == START && matches!(ahead[i + HEAD], ITEM | CLEAR);
            match (0..places).find(is_start) {
                Some(i) => return Ok(Some(at + i as u64)),
                None => at += places as u64,
            }
        }
    }

    fn look(&mut self, at: u64) -> io::Result<Look> {
        // One window is to hold the whole of a common batch, since it is read twice.
        self.ahead(at, WINDOW / 4)?;
        let Some(head) = self.bytes::<13>(at)? else {
            return Ok(Look::Nothing);
        };
        let count = u64::from(u32_at(&head, 1));
        let possible = (self.len - at) / CLEAR_BYTES;
        if head[0] != START || count == 0 || count > possible {
            return Ok(Look::Nothing);
        }
        let items_at = at + START_BYTES;
        let Some((end_at, group)) = self.frame(items_at, count)? else {
            return Ok(Look::Nothing);
        };
        let Some(tail) = self.bytes::<13>(end_at)? else {
            return Ok(Look::Nothing);
        };
        if tail[0] != END || tail[9..] != MAGIC[..] {
            return Ok(Look::Nothing);
        }
        let end = end_at + END_BYTES;
        Ok(match self.checksum(items_at, end_at)? == u64_at(&tail, 1) {
            true => Look::Batch(Batch { at, end, seqno: u64_at(&head, 5), group }),
            false => Look::Spoiled { end },
        })
    }

    /// Where so many items end, and the group among them.
    fn frame(&mut self, from: u64, count: u64) -> io::Result<Option<(u64, Option<u64>)>> {
        let (mut at, mut group) = (from, None);
        for _ in 0..count {
            self.work += 16;
            let Some(next) = self.item_end(at)? else {
                return Ok(None);
            };
            if let Some(found) = self.group(at, next)? {
                group = Some(found);
            }
            at = next;
        }
        Ok(Some((at, group)))
    }

    fn item_end(&mut self, at: u64) -> io::Result<Option<u64>> {
        let ahead = self.ahead(at, ITEM_BYTES as usize)?;
        let bytes = match (ahead.first(), ahead.get(..ITEM_BYTES as usize)) {
            (Some(&CLEAR), _) => CLEAR_BYTES,
            (Some(&ITEM), Some(head)) if is_item(head) => {
                ITEM_BYTES + u64::from(u16_at(head, 11)) + u64::from(u32_at(head, 17))
            }
            _ => return Ok(None),
        };
        Ok((bytes <= self.len - at).then_some(at + bytes))
    }

    fn group(&mut self, at: u64, end: u64) -> io::Result<Option<u64>> {
        const BYTES: usize = ITEM_BYTES as usize + GROUP_KEY.len() + 8;
        if end - at != BYTES as u64 {
            return Ok(None);
        }
        let Some(item) = self.bytes::<BYTES>(at)? else {
            return Ok(None);
        };
        let (head, rest) = item.split_at(ITEM_BYTES as usize);
        let Some(value) = rest.strip_prefix(GROUP_KEY) else {
            return Ok(None);
        };
        let is_plain = head[1] == 0 && head[2] == 0 && usize::from(u16_at(head, 11)) == GROUP_KEY.len();
        Ok(value.try_into().ok().filter(|_| is_plain).map(u64::from_be_bytes))
    }

    fn checksum(&mut self, from: u64, to: u64) -> io::Result<u64> {
        self.work += to - from;
        if to - from <= WINDOW as u64 {
            let bytes = at_most(to - from, WINDOW);
            return Ok(xxh3_64(&self.ahead(from, bytes)?[..bytes]));
        }
        let mut hasher = Xxh3::new();
        let mut at = from;
        while at < to {
            let ahead = self.ahead(at, 1)?;
            let n = at_most(to - at, ahead.len());
            hasher.update(&ahead[..n]);
            at += n as u64;
        }
        Ok(hasher.digest())
    }

    /// The first byte from `at` on that is not zero (to within a block), or the length.
    fn skip_zeros(&mut self, mut at: u64) -> io::Result<u64> {
        while at < self.len {
            let ahead = self.ahead(at, BLOCK)?;
            let n = ahead.len().min(BLOCK);
            if ahead[..n] != ZEROS[..n] {
                return Ok(at);
            }
            at += n as u64;
        }
        Ok(self.len)
    }

    /// Where the zeros at the end begin, seen from `at`.
    fn used_from(&mut self, from: u64) -> io::Result<u64> {
        let (mut at, mut used) = (from, from);
        while at < self.len {
            let ahead = self.ahead(at, BLOCK)?;
            let n = ahead.len().min(BLOCK);
            if ahead[..n] != ZEROS[..n] {
                let last = ahead[..n].iter().rposition(|byte| *byte != 0);
                used = last.map_or(used, |last| at + last as u64 + 1);
            }
            at += n as u64;
        }
        Ok(used)
    }

    /// Whether an end mark stands in the range with more behind it.
    fn holds_several(&mut self, from: u64, used: u64) -> io::Result<bool> {
        const MARK: usize = END_BYTES as usize;
        let mut at = from;
        while at + END_BYTES < used {
            let ahead = self.ahead(at, BLOCK)?;
            let places = at_most(used - END_BYTES - at, ahead.len().saturating_sub(MARK - 1));
            let is_mark = |i: usize| ahead[i] == END && ahead[i + 9..i + MARK] == MAGIC[..];
            if (0..places).any(is_mark) {
                return Ok(true);
            }
            at += places as u64;
        }
        Ok(false)
    }

    fn bytes<const N: usize>(&mut self, at: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.ahead(at, N)?.first_chunk().copied())
    }

    /// What the window holds from `at` on: at least `min` bytes, fewer only at the end of the
    /// file.
    fn ahead(&mut self, at: u64, min: usize) -> io::Result<&[u8]> {
        let wanted = at_most(self.len.saturating_sub(at), min);
        let offset = at.checked_sub(self.window_at).and_then(|offset| usize::try_from(offset).ok());
        if let Some(offset) = offset.filter(|offset| offset + wanted <= self.window.len()) {
            return Ok(&self.window[offset..]);
        }
        self.load(at)?;
        Ok(&self.window)
    }

    fn load(&mut self, at: u64) -> io::Result<()> {
        let n = at_most(self.len.saturating_sub(at), WINDOW);
        self.work += n as u64;
        self.window.resize(n, 0);
        self.window_at = at;
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut self.window)
    }
}

fn is_item(head: &[u8]) -> bool {
    // Kinds: value, tombstone, weak tombstone. On any other the engine panics.
    let compressed = head[2] == 1;
    let plain = head[2] == 0 && u32_at(head, 13) == u32_at(head, 17);
    head[1] <= 2 && (plain || compressed)
}

fn at_most(bytes: u64, limit: usize) -> usize {
    usize::try_from(bytes).map_or(limit, |bytes| bytes.min(limit))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use fjall::{CompressionType, Database, KeyspaceCreateOptions, PersistMode};
    use tempfile::TempDir;

    /// A store's folder (`<temp>/db`), written as the event store writes.
    struct Store {
        temp: TempDir,
    }

    struct Rng(u64);

    impl Rng {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }

        fn below(&mut self, n: u64) -> u64 {
            self.next() % n.max(1)
        }

        fn bytes(&mut self, n: usize) -> Vec<u8> {
            (0..n).map(|_| self.next() as u8).collect()
        }
    }

    fn items(group: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rng = Rng(group * 7919);
        let item = |i: u64| {
            let mut key = group.to_be_bytes().to_vec();
            key.push(i as u8);
            let size = [0, 30, 300, 1500][rng.below(4) as usize];
            (key, rng.bytes(size))
        };
        (0..1 + group % 4).map(item).collect()
    }

    fn big_items(group: u64, bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let key = group.to_be_bytes().to_vec();
        vec![(key, Rng(group).bytes(bytes))]
    }

    impl Store {
        fn empty() -> Self {
            Self { temp: tempfile::tempdir().unwrap() }
        }

        /// Groups 1 to `last` in one journal without the preallocated zeros (but for some).
        fn with(last: u64) -> Self {
            let store = Self::empty();
            store.write(1..=last);
            store.trim();
            store
        }

        /// The same, in several journals that begin with these groups.
        fn split(last: u64, starts: &[u64]) -> Self {
            let store = Self::with(last);
            let bytes = store.bytes(0);
            let places = store.places(0);
            let cuts: Vec<usize> = starts.iter().map(|start| places[*start as usize - 1].0).collect();
            for (i, from) in cuts.iter().enumerate() {
                let to = cuts.get(i + 1).copied().unwrap_or(bytes.len());
                store.put(i as u64, &bytes[*from..to]);
            }
            store
        }

        fn folder(&self) -> PathBuf {
            self.temp.path().join("db")
        }

        fn path(&self, number: u64) -> PathBuf {
            journal_path(&self.folder(), number)
        }

        fn bytes(&self, number: u64) -> Vec<u8> {
            fs::read(self.path(number)).unwrap()
        }

        fn put(&self, number: u64, bytes: &[u8]) {
            fs::write(self.path(number), bytes).unwrap();
        }

        fn change(&self, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
            let mut bytes = self.bytes(number);
            change(&mut bytes);
            self.put(number, &bytes);
        }

        fn trim(&self) {
            let used = self.places(0).last().unwrap().1 as u64;
            let file = OpenOptions::new().write(true).open(self.path(0)).unwrap();
            file.set_len(used).unwrap();
            file.set_len(used + 5000).unwrap();
        }

        /// Where each batch begins and ends.
        fn places(&self, number: u64) -> Vec<(usize, usize)> {
            let mut places = Vec::new();
            let visit = |batch: &Batch| places.push((batch.at as usize, batch.end as usize));
            walk_path(&self.path(number), None, SEARCH, visit).unwrap();
            places
        }

        fn open(&self) -> Database {
            let builder = Database::builder(self.folder()).manual_journal_persist(true);
            builder.journal_compression(CompressionType::None).worker_threads(1).open().unwrap()
        }

        fn write(&self, groups: impl IntoIterator<Item = u64>) {
            self.write_items(groups.into_iter().map(|group| (group, items(group))));
        }

        fn write_items(&self, groups: impl IntoIterator<Item = (u64, Vec<(Vec<u8>, Vec<u8>)>)>) {
            let db = self.open();
            let events = db.keyspace("events", KeyspaceCreateOptions::default).unwrap();
            let meta = db.keyspace("meta", KeyspaceCreateOptions::default).unwrap();
            for (group, items) in groups {
                let mut batch = db.batch().durability(Some(PersistMode::SyncData));
                for (key, value) in items {
                    batch.insert(&events, key, value);
                }
                batch.insert(&meta, GROUP_KEY, group.to_be_bytes());
                batch.commit().unwrap();
            }
        }

        /// Opens the engine and returns those of the groups that are whole in it.
        fn groups_in_engine(&self, upto: u64) -> Vec<u64> {
            let db = self.open();
            let events = db.keyspace("events", KeyspaceCreateOptions::default).unwrap();
            let is_there = |(key, value): &(Vec<u8>, Vec<u8>)| {
                events.get(key).unwrap().is_some_and(|found| found[..] == value[..])
            };
            (1..=upto).filter(|group| items(*group).iter().all(is_there)).collect()
        }

        fn audit(&self) -> Audit {
            audit(&self.folder()).unwrap()
        }

        fn verdict(&self, acknowledged: u64) -> Verdict {
            self.audit().verdict(Some(acknowledged), &[])
        }

        fn damage(&self, acknowledged: u64) -> Damage {
            match self.verdict(acknowledged) {
                Verdict::Damaged(damage) => damage,
                other => panic!("not seen as damaged: {other:?}"),
            }
        }

        fn repair(&self, acknowledged: u64) -> RepairReport {
            let report = repair(&self.folder(), Some(acknowledged), &[]).unwrap();
            let again = repair(&self.folder(), Some(acknowledged), &report.gaps).unwrap();
            assert_eq!((again.files.len(), again.gaps.len()), (0, 0));
            let verdict = self.audit().verdict(Some(acknowledged), &report.gaps);
            assert_eq!(verdict, Verdict::Sound { last: report.last });
            report
        }
    }

    fn all(groups: impl IntoIterator<Item = u64>) -> Vec<u64> {
        groups.into_iter().collect()
    }

    fn flip(bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5A);
    }

    #[test]
    fn a_folder_without_journals_is_sound() {
        let store = Store::empty();
        assert_eq!(store.verdict(7), Verdict::Sound { last: None });
        fs::create_dir(store.folder()).unwrap();
        assert_eq!(store.verdict(7), Verdict::Sound { last: None });
        store.put(3, &[]);
        store.put(4, &[0; 10_000]);
        assert_eq!(store.verdict(7), Verdict::Sound { last: None });
        assert_eq!(cut_after_group(&store.folder(), 7, &[]).unwrap(), 0);
        assert_eq!(repair(&store.folder(), Some(7), &[]).unwrap().files, []);
        fs::write(store.folder().join("x.jnl"), "").unwrap();
        assert!(matches!(audit(&store.folder()), Err(JournalError::Stranger(_))));
    }

    #[test]
    fn what_the_engine_writes_is_sound() {
        let store = Store::empty();
        store.write(1..=9);
        let audit = store.audit();
        let [journal] = &audit.journals[..] else { panic!("{audit:?}") };
        assert_eq!(journal.len, 64 << 20);
        assert_eq!(journal.intact, Stretch { batches: 9, first: Some(1), last: Some(9) });
        assert_eq!(store.verdict(9), Verdict::Sound { last: Some(9) });
        assert_eq!(store.verdict(8), Verdict::Sound { last: Some(9) });
        let damage = store.damage(11);
        let gap = Gap { first: 10, last: 11 };
        assert_eq!(damage.faults, [Fault::LostEnd { last: 9, gap }]);
        assert!(matches!(audit.verdict(Some(11), &[gap]), Verdict::Sound { .. }));
    }

    #[test]
    fn a_batch_torn_at_any_byte_is_cut_off() {
        let store = Store::with(4);
        let (at, end) = store.places(0)[3];
        let whole = store.bytes(0);
        for torn in at..end {
            let mut bytes = whole[..torn].to_vec();
            for zeros in [0, 600] {
                bytes.resize(torn + zeros, 0);
                store.put(0, &bytes);
                match store.verdict(3) {
                    Verdict::Sound { last: Some(3) } => assert_eq!(torn, at),
                    Verdict::TornTail { journal: 0, keep, .. } => assert_eq!(keep, at as u64),
                    other => panic!("torn at {torn}: {other:?}"),
                }
                assert!(matches!(store.verdict(4), Verdict::Damaged(_)));
            }
        }
        cut(&store.folder(), 0, at as u64).unwrap();
        assert_eq!(store.groups_in_engine(4), all(1..=3));
        store.write(4..=5);
        assert_eq!(store.verdict(5), Verdict::Sound { last: Some(5) });
        assert_eq!(store.groups_in_engine(5), all(1..=5));
    }

    #[test]
    fn a_tail_of_which_some_pages_are_missing_is_cut_off() {
        let store = Store::with(3);
        store.write_items([(4, big_items(4, 40_000))]);
        let (at, end) = store.places(0)[3];
        let whole = store.bytes(0);
        let mut rng = Rng(1);
        for _ in 0..40 {
            let pages: Vec<usize> = (at / 4096..=end / 4096).filter(|_| rng.below(3) == 0).collect();
            let mut bytes = whole.clone();
            for page in &pages {
                bytes[(page * 4096).max(at)..((page + 1) * 4096).min(end)].fill(0);
            }
            store.put(0, &bytes);
            match store.verdict(3) {
                Verdict::Sound { last: Some(4) } => assert!(pages.is_empty()),
                Verdict::TornTail { keep, .. } => assert_eq!(keep, at as u64),
                other => panic!("without pages {pages:?}: {other:?}"),
            }
        }
        cut(&store.folder(), 0, at as u64).unwrap();
        assert_eq!(store.groups_in_engine(3), all(1..=3));
    }

    #[test]
    fn an_end_mark_does_not_make_a_damaged_batch_whole() {
        let store = Store::with(6);
        let (at, end) = store.places(0)[5];
        store.change(0, |bytes| flip(&mut bytes[end - 60..end - 59]));
        assert_eq!(store.verdict(5), Verdict::TornTail { journal: 0, keep: at as u64, bytes: (end - at) as u64 });
        assert!(matches!(store.verdict(6), Verdict::Damaged(_)));
    }

    #[test]
    fn two_broken_batches_at_the_end_are_no_torn_write() {
        let store = Store::with(6);
        let places = store.places(0);
        store.change(0, |bytes| {
            flip(&mut bytes[places[4].0..places[4].0 + 20]);
            flip(&mut bytes[places[5].0..places[5].0 + 20]);
        });
        // Even if the acknowledged number lags, as it may after a power cut.
        assert!(matches!(store.verdict(4), Verdict::Damaged(_)));
    }

    #[test]
    fn without_any_group_a_torn_tail_is_uncertain() {
        let store = Store::with(1);
        store.change(0, |bytes| {
            bytes.truncate(40);
            bytes[39] = 9;
        });
        assert_eq!(store.verdict(9), Verdict::Uncertain { journal: 0, keep: 0, bytes: 40 });
        cut(&store.folder(), 0, 0).unwrap();
        assert_eq!(store.groups_in_engine(1), Vec::<u64>::new());
        assert!(matches!(cut(&store.folder(), 0, 1), Err(JournalError::OutOfRange { .. })));
    }

    #[test]
    fn damage_in_the_middle_costs_only_what_it_hits() {
        let store = Store::with(20);
        let (at, end) = store.places(0)[9];
        let original = {
            store.change(0, |bytes| bytes[at + 40..at + 60].fill(0));
            store.bytes(0)
        };
        let damage = store.damage(20);
        let hole = Hole { at: at as u64, bytes: (end - at) as u64, behind: 10 };
        let gap = Gap { first: 10, last: 10 };
        assert_eq!(
            damage.faults,
            [
                Fault::Unreadable { journal: 0, hole, searched: true },
                Fault::Missing { journal: 0, at: end as u64, gap },
            ]
        );
        let said = damage.to_string();
        for part in [
            "0.jnl",
            &format!("{} bytes from byte {at}", end - at),
            "group 10",
            "10 intact batches",
            "run `monolith --repair`",
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
        let report = store.repair(20);
        assert_eq!((report.gaps.clone(), report.last, report.next_group), (vec![gap], Some(20), Some(21)));
        assert_eq!(fs::read(report.originals.clone().unwrap().join("0.jnl")).unwrap(), original);
        assert!(report.to_string().contains("lost: group 10"), "{report}");
        let without = all((1..=9).chain(11..=20));
        assert_eq!(store.groups_in_engine(20), without);
        store.write([21]);
        assert_eq!(store.groups_in_engine(21), all(without.into_iter().chain([21])));
        assert_eq!(store.audit().verdict(Some(21), &report.gaps), Verdict::Sound { last: Some(21) });
    }

    #[test]
    fn damaged_lengths_and_counts_are_survived() {
        let store = Store::with(8);
        let whole = store.bytes(0);
        let (at, _) = store.places(0)[3];
        // item count, key length, value length, length on disk; the tag and the kind.
        for (offset, width) in [(1, 4), (24, 2), (26, 4), (30, 4), (13, 1), (14, 1)] {
            for byte in [0x01, 0x7F, 0xFF] {
                store.put(0, &whole);
                store.change(0, |bytes| bytes[at + offset..at + offset + width].fill(byte));
                assert_eq!(store.damage(8).faults.len(), 2);
                assert_eq!(store.repair(8).gaps, [Gap { first: 4, last: 4 }]);
            }
        }
        assert_eq!(store.groups_in_engine(8), all([1, 2, 3, 5, 6, 7, 8]));
    }

    #[test]
    fn a_damaged_sequence_number_is_mended() {
        for (group, seqno) in [(4, 0), (4, u64::MAX), (1, u64::MAX / 2), (8, 1), (8, 1 << 40)] {
            let store = Store::with(8);
            let (at, _) = store.places(0)[group - 1];
            store.change(0, |bytes| bytes[at + 5..at + 13].copy_from_slice(&u64::to_le_bytes(seqno)));
            let faults = store.damage(8).faults;
            let is_sequence = |fault: &Fault| matches!(fault, Fault::Sequence { .. });
            assert!(faults.iter().all(is_sequence), "{faults:?}");
            let report = store.repair(8);
            assert_eq!((report.files[0].renumbered, report.gaps.len()), (1, 0));
            assert_eq!(store.groups_in_engine(8), all(1..=8));
        }
    }

    /// The engine opens without a word and lacks the group, see [`renumber`].
    #[test]
    fn the_engine_drops_a_batch_with_a_low_sequence_number_after_a_flush() {
        let store = Store::with(5);
        {
            let db = store.open();
            for name in ["events", "meta"] {
                let keyspace = db.keyspace(name, KeyspaceCreateOptions::default);
                keyspace.unwrap().rotate_memtable_and_wait().unwrap();
            }
        }
        store.write(6..=9);
        let (at, _) = store.places(0)[6];
        store.change(0, |bytes| bytes[at + 5..at + 13].fill(0));
        assert!(matches!(store.damage(9).faults[..], [Fault::Sequence { .. }]));
        let copy = Store::empty();
        copy_folder(&store.folder(), &copy.folder());
        assert_eq!(copy.groups_in_engine(9), all([1, 2, 3, 4, 5, 6, 8, 9]));
        assert_eq!(store.repair(9).files[0].renumbered, 1);
        assert_eq!(store.groups_in_engine(9), all(1..=9));
    }

    #[test]
    fn sealed_journals_must_be_whole() {
        let store = Store::split(30, &[1, 11, 21]);
        assert_eq!(store.verdict(30), Verdict::Sound { last: Some(30) });
        let (at, _) = *store.places(1).last().unwrap();
        store.change(1, |bytes| bytes.truncate(at + 30));
        assert_eq!(store.damage(30).faults.len(), 2);
        let report = store.repair(30);
        assert_eq!(report.gaps, [Gap { first: 20, last: 20 }]);
        assert_eq!(store.groups_in_engine(30), all((1..=19).chain(21..=30)));
    }

    #[test]
    fn a_missing_journal_is_noticed_unless_it_is_the_oldest() {
        let store = Store::split(30, &[1, 11, 21]);
        fs::remove_file(store.path(0)).unwrap();
        assert_eq!(store.verdict(30), Verdict::Sound { last: Some(30) });
        let store = Store::split(30, &[1, 11, 21]);
        fs::remove_file(store.path(1)).unwrap();
        let gap = Gap { first: 11, last: 20 };
        assert_eq!(store.damage(30).faults, [Fault::Missing { journal: 2, at: 0, gap }]);
        let report = store.repair(30);
        assert_eq!((report.files.len(), report.gaps.clone()), (0, vec![gap]));
        assert_eq!(store.groups_in_engine(30), all((1..=10).chain(21..=30)));
        let store = Store::split(30, &[1, 11, 21]);
        fs::remove_file(store.path(2)).unwrap();
        assert!(matches!(store.damage(30).faults[..], [Fault::LostEnd { last: 20, .. }]));
        let report = store.repair(30);
        assert_eq!((report.last, report.next_group), (Some(20), Some(31)));
    }

    #[test]
    fn a_journal_that_comes_twice_is_noticed_and_dropped() {
        let store = Store::split(20, &[1, 11]);
        store.put(2, &store.bytes(0));
        assert!(matches!(store.damage(20).faults[0], Fault::Backwards { journal: 2, .. } | Fault::Sequence { .. }));
        let report = store.repair(20);
        assert_eq!(report.files[0].repeated, 10);
        assert_eq!(store.groups_in_engine(20), all(1..=20));
    }

    #[test]
    fn a_batch_inside_a_value_is_not_taken_for_one() {
        let store = Store::with(3);
        let (at, end) = store.places(0)[1];
        let inner = store.bytes(0)[at..end].to_vec();
        let mut rng = Rng(3);
        let value = [rng.bytes(50), inner.clone(), rng.bytes(50)].concat();
        store.write_items([(4, vec![(b"planted".to_vec(), value)])]);
        store.write(5..=6);
        assert_eq!(store.verdict(6), Verdict::Sound { last: Some(6) });
        let (at, end) = store.places(0)[3];
        store.change(0, |bytes| flip(&mut bytes[at + 45..at + 48]));
        let damage = store.damage(6);
        let hole = Hole { at: at as u64, bytes: (end - at) as u64, behind: 2 };
        assert_eq!(damage.faults[0], Fault::Unreadable { journal: 0, hole, searched: true });
        assert_eq!(store.repair(6).files[0].batches, 5);
    }

    #[test]
    fn after_a_failed_write_only_the_unacknowledged_is_cut() {
        let store = Store::split(12, &[1, 9]);
        assert_eq!(cut_after_group(&store.folder(), 12, &[]).unwrap(), 0);
        let (at, end) = *store.places(1).last().unwrap();
        assert_eq!(cut_after_group(&store.folder(), 11, &[]).unwrap(), (end - at) as u64);
        store.change(1, |bytes| bytes.extend(b"\x01\x05torn"));
        assert_eq!(cut_after_group(&store.folder(), 11, &[]).unwrap(), 6);
        assert!(matches!(cut_after_group(&store.folder(), 12, &[]), Err(JournalError::Lost { last: 11, .. })));
        // The journal was changed at once after the write: its first batch goes.
        store.change(1, |bytes| {
            bytes.truncate(20);
            bytes[19] = 9;
        });
        store.put(2, &[0; 100]);
        assert_eq!(store.verdict(8), Verdict::TornTail { journal: 1, keep: 0, bytes: 20 });
        assert_eq!(cut_after_group(&store.folder(), 8, &[]).unwrap(), 20);
        assert_eq!(store.groups_in_engine(12), all(1..=8));
    }

    #[test]
    fn a_cut_never_removes_what_was_acknowledged() {
        let store = Store::with(9);
        let (at, _) = store.places(0)[4];
        store.change(0, |bytes| flip(&mut bytes[at..at + 9]));
        let before = store.bytes(0);
        let cut = cut_after_group(&store.folder(), 8, &[]);
        assert!(matches!(cut, Err(JournalError::WouldRemove { group: 8, .. })), "{cut:?}");
        assert!(before == store.bytes(0));
    }

    #[test]
    fn rewriting_the_tail_changes_nothing() {
        let store = Store::split(12, &[1, 9]);
        let before = (store.bytes(0), store.bytes(1));
        for from in [0, 7, 11, 12, 99] {
            rewrite_tail(&store.folder(), from).unwrap();
            assert!(before == (store.bytes(0), store.bytes(1)));
        }
    }

    #[test]
    fn a_repair_that_was_killed_can_be_run_again() {
        let store = Store::split(30, &[1, 11, 21]);
        for number in 0..2 {
            let (at, end) = store.places(number)[4];
            store.change(number, |bytes| flip(&mut bytes[at..end]));
        }
        // As if killed between the two files, and while writing the second.
        let (first, second) = (store.bytes(0), store.bytes(1));
        store.repair(30);
        let repaired = store.bytes(0);
        store.put(1, &second);
        fs::write(store.folder().join("1.jnl.repair"), &second[..100]).unwrap();
        let report = store.repair(30);
        assert_eq!((report.files.len(), report.gaps.len()), (1, 2));
        assert!(repaired == store.bytes(0) && first != repaired);
        assert!(!store.folder().join("1.jnl.repair").exists());
        assert_eq!(store.groups_in_engine(30).len(), 28);
    }

    #[test]
    fn adversarial_content_is_searched_in_bounded_time() {
        let ones = vec![1; 4 << 20];
        // Starts whose one value reaches to where the next begins, without end.
        let mut nested = Vec::new();
        while nested.len() < 2 << 20 {
            nested.extend([START, 255, 255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            nested.extend([ITEM, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            nested.extend([13, 0, 0, 0, 13, 0, 0, 0]);
        }
        for content in [ones, nested, Rng(5).bytes(2 << 20)] {
            let store = Store::with(3);
            let used = store.places(0)[2].1;
            store.change(0, |bytes| {
                bytes.truncate(used);
                bytes.extend(&content);
            });
            match store.verdict(3) {
                Verdict::TornTail { keep, .. } => assert_eq!(keep, used as u64),
                Verdict::Damaged(damage) => {
                    assert!(matches!(damage.faults[0], Fault::Unreadable { searched: false, .. }))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn random_damage_never_hides_a_loss() {
        const LAST: u64 = 40;
        let template = Store::split(LAST, &[1, 14, 28]);
        let journals: Vec<Vec<u8>> = (0..3).map(|number| template.bytes(number)).collect();
        let places: Vec<_> = (0..3).map(|number| template.places(number)).collect();
        for seed in 1..=48 {
            let mut rng = Rng(seed);
            let store = Store::empty();
            copy_folder(&template.folder(), &store.folder());
            let mut hit = BTreeSet::new();
            for _ in 0..1 + rng.below(2) {
                let number = rng.below(3) as usize;
                let used = places[number].last().unwrap().1;
                let from = rng.below(used as u64) as usize;
                let most = 1 << rng.below(13);
                let length = 1 + rng.below(most) as usize;
                let to = (from + length).min(used);
                let noise = rng.bytes(to - from);
                let kind = rng.below(4);
                store.change(number as u64, |bytes| match kind {
                    0 => bytes[from..to].fill(0),
                    1 => flip(&mut bytes[from..to]),
                    2 => bytes[from..to].copy_from_slice(&noise),
                    _ => bytes[from] ^= 1 << (noise[0] % 8),
                });
                let first = [1, 14, 28][number];
                let is_hit = |(_, (at, end)): &(u64, &(usize, usize))| *at < to && from < *end;
                hit.extend((first..).zip(&places[number]).filter(is_hit).map(|(group, _)| group));
            }
            let changed = (0..3).any(|number| journals[number] != store.bytes(number as u64));
            check_damaged(&store, LAST, &hit, changed, seed);
        }
    }

    fn check_damaged(store: &Store, last: u64, hit: &BTreeSet<u64>, changed: bool, seed: u64) {
        // The last group unacknowledged, on a copy: a torn tail may cost that one alone.
        if let Verdict::TornTail { journal, keep, .. } = store.verdict(last - 1) {
            let copy = Store::empty();
            copy_folder(&store.folder(), &copy.folder());
            cut(&copy.folder(), journal, keep).unwrap();
            assert_eq!(copy.groups_in_engine(last - 1), all(1..last), "seed {seed}");
        }
        let verdict = store.verdict(last);
        match &verdict {
            // Only a sequence number that still fits may go unnoticed, and it costs nothing.
            Verdict::Sound { .. } => {
                assert_eq!(store.groups_in_engine(last), all(1..=last), "seed {seed}");
                return;
            }
            Verdict::Damaged(_) => assert!(changed),
            other => panic!("seed {seed}: {other:?}"),
        }
        let report = store.repair(last);
        let found = store.groups_in_engine(last);
        for group in (1..=last).filter(|group| !hit.contains(group)) {
            assert!(found.contains(&group), "seed {seed}: group {group}, {verdict:?}, {report}");
        }
        let lost: u64 = report.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
        let unknown = match report.unknown_before {
            Some(Some(first)) => first - 1,
            _ => 0,
        };
        assert_eq!(found.len() as u64 + lost + unknown, last, "seed {seed}: {report}");
    }

    fn copy_folder(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy_folder(&entry.path(), &to),
                false => drop(fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
}
