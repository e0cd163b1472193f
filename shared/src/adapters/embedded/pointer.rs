//! Which files of the data folder are the views, and how a rebuild goes: a small file
//! that is replaced whole. Without it the views are the first generation, in the files
//! that they have always been in.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{runs, sync_folder};
use crate::domain::stream::Position;
use crate::domain::time::Timestamp;

const NAME: &str = "views.json";
const NEW: &str = "views.json.new";
/// The version of the file. Another one in it: the views are rebuilt.
const SCHEMA: u32 = 1;
/// The files of a generation: its answers and its event log.
const FILES: [&str; 2] = ["views", "log-views"];
/// What is added to a file's name, by SQLite and where rows are sorted.
pub(super) const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", runs::SUFFIX];

/// The name of a file with something added to it.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    schema: u32,
    /// The generation that readers see.
    pub(super) live: u64,
    /// The one that is to be built beside it, from the moment that a rebuild is asked for.
    pub(super) next: Option<u64>,
    /// Of that rebuild, or of the last one.
    pub(super) started_at: Option<Timestamp>,
    /// Of the last one.
    pub(super) finished_at: Option<Timestamp>,
    /// Where the last one ended.
    pub(super) done: u64,
}

impl Pointer {
    /// What is so where nothing says otherwise.
    fn to(live: u64) -> Self {
        Self { schema: SCHEMA, live, next: None, started_at: None, finished_at: None, done: 0 }
    }

    /// With a rebuild asked for; none while one is.
    pub(super) fn asked(&self, now: Timestamp) -> Option<Self> {
        let (next, started_at) = (Some(self.live + 1), Some(now));
        self.next.is_none().then(|| Self { next, started_at, ..Self::to(self.live) })
    }

    /// With the next generation as the live one; none if there is none.
    pub(super) fn swapped(&self, done: Position, now: Timestamp) -> Option<Self> {
        let (done, finished_at) = (done.0, Some(now));
        self.next.map(|live| Self { started_at: self.started_at, finished_at, done, ..Self::to(live) })
    }

    /// Reads the file. One that cannot be read names a generation that is not there:
    /// the views are filled anew.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let bytes = match fs::read(folder.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::to(1)),
            Err(error) => return Err(error),
        };
        let read: Option<Self> = serde_json::from_slice(&bytes).ok().filter(|read: &Self| read.schema == SCHEMA);
        match read {
            Some(read) => Ok(read),
            None => {
                tracing::warn!("the file that says which views are the live ones cannot be read");
                let numbers = files(folder)?.into_iter().map(|(number, _)| number);
                Ok(Self::to(numbers.max().unwrap_or(0) + 1))
            }
        }
    }

    /// Puts it in the place of the file: a crash leaves the old one or the new one.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join(NEW);
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        // The names of what it points to first.
        sync_folder(folder)?;
        fs::rename(&new, folder.join(NAME))?;
        sync_folder(folder)
    }

    /// Removes the files of generations that it does not name.
    pub(super) fn remove_strays(&self, folder: &Path) -> io::Result<()> {
        for (number, path) in files(folder)? {
            if number != self.live && Some(number) != self.next {
                tracing::info!(generation = number, "a file of old views is removed");
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The files of a generation: its answers and its event log.
pub(super) fn paths(folder: &Path, generation: u64) -> [PathBuf; 2] {
    FILES.map(|name| match generation {
        1 => folder.join(format!("{name}.db")),
        number => folder.join(format!("{name}-{number}.db")),
    })
}

/// Removes all views of a folder.
pub(super) fn remove_all(folder: &Path) -> io::Result<()> {
    for (_, path) in files(folder)? {
        remove(&path)?;
    }
    remove(&folder.join(NAME))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// All files of views, and of which generation they are.
fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(generation_of) {
            files.push((number, entry.path()));
        }
    }
    Ok(files)
}

/// The generation that a file's name says.
fn generation_of(file: &str) -> Option<u64> {
    let (name, suffix) = file.split_once(".db")?;
    let rest = FILES.iter().find_map(|known| name.strip_prefix(known)).filter(|_| SUFFIXES.contains(&suffix))?;
    match rest.strip_prefix('-') {
        None => rest.is_empty().then_some(1),
        Some(number) => number.parse().ok().filter(|number| *number > 1 && rest == format!("-{number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_generation() {
        let folder = Path::new("");
        for generation in [1, 2, 10] {
            for path in paths(folder, generation) {
                let name = path.to_str().expect("text");
                for suffix in SUFFIXES {
                    assert_eq!(generation_of(&format!("{name}{suffix}")), Some(generation), "{name}{suffix}");
                }
            }
        }
        for other in
            ["views.db.bak", "views-.db", "views-1.db", "views-02.db", "views-x.db", "my-views.db", "views.json"]
        {
            assert_eq!(generation_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_it_says_is_frozen() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let said = Pointer { next: Some(3), started_at: Some(now), done: 7, ..Pointer::to(2) };
        said.write(folder.path()).expect("written");
        let text = fs::read_to_string(folder.path().join(NAME)).expect("there");
        let frozen =
            r#"{"schema":1,"live":2,"next":3,"started_at":"2023-11-14T22:13:20.000000Z","finished_at":null,"done":7}"#;
        assert_eq!(text, frozen);
        assert_eq!(Pointer::read(folder.path()).expect("read"), said);
    }

    #[test]
    fn one_that_cannot_be_read_points_to_new_views() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Pointer::read(folder.path()).expect("read"), Pointer::to(1));
        fs::write(folder.path().join("views-4.db"), "").expect("written");
        for text in ["", "{}", r#"{"schema":2,"live":4,"done":0}"#] {
            fs::write(folder.path().join(NAME), text).expect("written");
            assert_eq!(Pointer::read(folder.path()).expect("read"), Pointer::to(5), "{text}");
        }
    }

    #[test]
    fn strays_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["views.db", "views.db-wal", "log-views-2.db", "log-views-3.db-shm", "views-4.db", "lock", NAME];
        names.iter().for_each(|name| fs::write(folder.path().join(name), "").expect("written"));
        let left = || {
            let names = fs::read_dir(folder.path()).expect("there").map(|entry| entry.expect("one").file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().expect("text")).collect();
            names.sort();
            names
        };
        Pointer { next: Some(3), ..Pointer::to(2) }.remove_strays(folder.path()).expect("removed");
        assert_eq!(left(), ["lock", "log-views-2.db", "log-views-3.db-shm", NAME]);
        remove_all(folder.path()).expect("removed");
        assert_eq!(left(), ["lock"]);
    }
}
