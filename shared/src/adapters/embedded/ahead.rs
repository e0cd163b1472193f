//! Writes zeros ahead of the engine in its journal. The engine makes a journal as one
//! large hole; a sync of bytes in a hole has to write the file system's own journal too,
//! and takes half as long again and twice the processor time of one that finds blocks.
//!
//! A hole reads as zeros already, and so does what lies behind the file's end once the
//! engine writes there, so nothing changes but where the bytes lie. Only journals are
//! touched that the engine has made since it was opened: in an older one it appends at
//! the file's end, which must stay where it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How much is written at once, and how far ahead of the engine it always ends.
const CHUNK: u64 = 256 * 1024;
const MARGIN: u64 = 64 * 1024;
/// What may lie in front of the first write.
const HEAD: u64 = 4 * 1024;
/// What the engine writes for a row beside its key and value, at most.
pub(super) const ROW_BYTES: usize = 64;

pub(super) struct Ahead {
    folder: PathBuf,
    /// The number of the newest journal.
    journal: u64,
    /// That journal, if it was made since the engine was opened.
    file: Option<File>,
    /// The engine's place in it is not beyond this.
    written: u64,
    /// No zeros are written in front of this.
    zeroed: u64,
    /// What was written since the newest journal was looked for.
    last: u64,
}

impl Ahead {
    /// Of a folder that the engine is about to open.
    pub(super) fn before_opening(folder: &Path) -> io::Result<Self> {
        let mut journal = None;
        match fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries {
                    journal = journal.max(number(&entry?.path()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let journal = journal.unwrap_or(0);
        let folder = folder.into();
        Ok(Self { folder, journal, file: None, written: 0, zeroed: 0, last: 0 })
    }

    /// To be called in front of every write of the engine with what it writes at most.
    /// Zeros are a help and no more: where they cannot be written there are none.
    pub(super) fn make_room(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if let Err(error) = self.follow().and_then(|()| self.zero(bytes)) {
            tracing::debug!(error = %error, "no zeros are written ahead in this journal");
            self.file = None;
        }
        self.written += bytes;
        self.last = bytes;
    }

    /// Goes on to the engine's newest journal.
    fn follow(&mut self) -> io::Result<()> {
        loop {
            let next = self.folder.join(format!("{}.jnl", self.journal + 1));
            let file = match OpenOptions::new().write(true).open(next) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            self.file = Some(file);
            self.journal += 1;
            // It may have been there for the last write already.
            self.written = self.last + HEAD;
            self.zeroed = self.written + MARGIN;
        }
    }

    fn zero(&mut self, bytes: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let wanted = self.written + bytes + MARGIN;
        // A write larger than the margin may have gone beyond.
        self.zeroed = self.zeroed.max(self.written + MARGIN);
        while self.zeroed < wanted {
            file.write_all_at(&ZEROS, self.zeroed)?;
            self.zeroed += CHUNK;
        }
        Ok(())
    }
}

static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

/// The number of a journal by its name.
fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()
}
