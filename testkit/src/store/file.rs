//! The log in one file. Appends that wait for the disk share its next sync.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::pacer::Pacer;
use crate::core::record::{FILE_HEADER, Record};
use crate::core::state::State;

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    due: Vec<(Instant, usize)>,
    closed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    pacer: Arc<Pacer>,
}

pub(super) struct LogFile {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl LogFile {
    /// Opens the log of a folder and reads it. What a crash left of a call that
    /// was being written is cut off.
    pub(super) fn open(folder: &Path, state: &mut State, pacer: Arc<Pacer>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = lock(folder)?;
        let path = folder.join("log");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let stored = Bytes::from(fs::read(&path)?);
        let end = if stored.len() < FILE_HEADER.len() && FILE_HEADER.starts_with(&stored) {
            file.set_len(0)?;
            file.write_all(FILE_HEADER)?;
            FILE_HEADER.len()
        } else if stored.starts_with(FILE_HEADER) {
            load(&stored, state)
        } else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is not a log of ours", path.display())));
        };
        if end < stored.len() {
            tracing::warn!(bytes = stored.len() - end, "cut off what was being written when the process ended");
        }
        file.set_len(end as u64)?;
        file.seek(SeekFrom::Start(end as u64))?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;

        let shared = Arc::new(Shared { waiting: Mutex::default(), changed: Condvar::new(), pacer });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("esdb-disk".to_owned()).spawn(move || own.run(&mut file))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), _lock: lock })
    }

    /// Hands the records of one call to the disk. `count` of all are then on it, to be
    /// seen at `due`.
    pub(super) fn write(&self, records: &[Arc<Record>], count: usize, due: Instant) {
        let mut waiting = self.shared.waiting.lock();
        let Some((last, others)) = records.split_last() else { return };
        for record in others {
            record.encode(false, &mut waiting.bytes);
        }
        last.encode(true, &mut waiting.bytes);
        if waiting.due.is_empty() {
            self.shared.changed.notify_one();
        }
        waiting.due.push((due, count));
    }

    /// Ends once everything is on disk.
    pub(super) fn close(&self) {
        self.shared.waiting.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn run(&self, file: &mut File) {
        let mut group = Waiting::default();
        loop {
            {
                let mut waiting = self.waiting.lock();
                while waiting.due.is_empty() {
                    if waiting.closed {
                        return;
                    }
                    self.changed.wait(&mut waiting);
                }
                std::mem::swap(&mut group.bytes, &mut waiting.bytes);
                std::mem::swap(&mut group.due, &mut waiting.due);
            }
            if let Err(error) = file.write_all(&group.bytes).and_then(|()| file.sync_data()) {
                // Nothing after this may be told, so every writer runs into its deadline.
                tracing::error!(%error, "the log cannot be written; nothing is acknowledged any more");
                return;
            }
            for (due, count) in group.due.drain(..) {
                self.pacer.publish_at(due, count);
            }
            group.bytes.clear();
        }
    }
}

/// Reads all whole calls; gives their end.
fn load(stored: &Bytes, state: &mut State) -> usize {
    let (mut offset, mut end, mut call) = (FILE_HEADER.len(), FILE_HEADER.len(), Vec::new());
    while let Some((record, ends_call)) = Record::decode(stored, offset) {
        offset += record.length() as usize;
        call.push(record);
        if ends_call {
            end = offset;
            for record in call.drain(..) {
                state.push(record);
            }
        }
    }
    end
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let what = format!("another process uses {}", folder.display());
            Err(io::Error::new(io::ErrorKind::WouldBlock, what))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
