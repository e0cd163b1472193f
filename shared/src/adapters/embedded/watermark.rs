//! The number of the last group of appends that was acknowledged, in a small
//! file beside the log: what tells a torn tail, which nobody was promised, from
//! damage to something that somebody was.
//!
//! It is written after each acknowledged group and synced soon after. After a
//! crash of the process it is exact; after a power cut it may be behind, but it
//! is never ahead of what is durable in the log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// While groups come without a pause, the file is synced this often.
const SYNC_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Watermark {
    file: File,
    unsynced_since: Option<Instant>,
}

/// The acknowledged group as the file has it; none if there is no readable file.
pub(super) fn read(path: &Path) -> io::Result<Option<u64>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((group, checksum)) = bytes.split_at_checked(8) else { return Ok(None) };
    let fits = checksum == crc32fast::hash(group).to_be_bytes();
    let group = group.try_into().map(u64::from_be_bytes).ok();
    if !fits {
        tracing::warn!(path = %path.display(), "the file of the acknowledged group is damaged and is not used");
    }
    Ok(group.filter(|_| fits))
}

impl Watermark {
    /// Opens the file, makes it if it is not there, and writes the group to it
    /// durably.
    pub(super) fn open(path: &Path, group: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let mut watermark = Self { file, unsynced_since: None };
        watermark.set(group)?;
        watermark.file.sync_all()?;
        if let Some(folder) = path.parent() {
            super::sync_folder(folder)?;
        }
        Ok(watermark)
    }

    /// Notes that a group was acknowledged.
    pub(super) fn set(&mut self, group: u64) -> io::Result<()> {
        let group = group.to_be_bytes();
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&group);
        bytes[8..].copy_from_slice(&crc32fast::hash(&group).to_be_bytes());
        self.file.write_all_at(&bytes, 0)?;
        let since = *self.unsynced_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    /// Makes what was noted durable, if anything was.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced_since.take().is_some() {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_was_set_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("watermark");
        assert_eq!(read(&path).expect("no file"), None);
        let mut watermark = Watermark::open(&path, 4).expect("opened");
        watermark.set(5).expect("set");
        assert_eq!(read(&path).expect("readable"), Some(5));
        std::fs::write(&path, [0; 12]).expect("written");
        assert_eq!(read(&path).expect("damaged"), None);
    }
}
