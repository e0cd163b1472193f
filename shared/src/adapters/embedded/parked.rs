//! Parked streams in the answers' file. All of them are in memory too (`recent`): here
//! is what a start finds.

use rusqlite::{Connection, Row, params};

use super::generation::failed;
use super::recent::ParkedChanges;
use crate::domain::projection::Parked;
use crate::domain::stream::{Position, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::StoreError;

/// Files that were made before streams were parked get it when they are opened.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS parked (
        stream TEXT NOT NULL PRIMARY KEY,
        revision INTEGER NOT NULL,
        position INTEGER NOT NULL,
        error TEXT NOT NULL,
        since INTEGER NOT NULL,
        replay INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
";

/// All parked streams.
pub(super) fn read(connection: &Connection) -> Result<Vec<Parked>, StoreError> {
    let sql = "SELECT stream, revision, position, error, since, replay, checksum FROM parked ORDER BY stream";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let (parked, sum) = parked(row).map_err(failed)?;
        if checksum(&parked) != sum {
            return Err(StoreError::Corrupt { what: "a parked stream of the views".into(), source: None });
        }
        all.push(parked);
    }
    Ok(all)
}

fn parked(row: &Row<'_>) -> rusqlite::Result<(Parked, u32)> {
    let parked = Parked {
        stream: StreamId::from_stored(row.get_ref(0)?.as_str()?),
        revision: Revision(row.get(1)?),
        position: Position(row.get(2)?),
        error: row.get(3)?,
        since: Timestamp::from_micros(row.get(4)?),
        replay: row.get(5)?,
    };
    Ok((parked, row.get(6)?))
}

/// Writes what has changed.
pub(super) fn write(connection: &Connection, changes: &ParkedChanges) -> rusqlite::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut remove = connection.prepare_cached("DELETE FROM parked WHERE stream = ?1")?;
    for (stream, parked) in changes {
        match parked {
            Some(parked) => put(connection, "REPLACE", parked)?,
            None => _ = remove.execute([stream.as_str()])?,
        }
    }
    Ok(())
}

/// Notes that replays are asked for. An entry that is not in the file yet may go in ahead
/// of the checkpoint, but never in the place of an older one of its stream: that is where
/// the rows in the file are.
pub(super) fn ask_replay(connection: &Connection, asked: &[Parked]) -> Result<(), StoreError> {
    let mut ask = connection.prepare_cached("UPDATE parked SET replay = 1 WHERE stream = ?1").map_err(failed)?;
    for parked in asked {
        put(connection, "INSERT OR IGNORE", parked).map_err(failed)?;
        ask.execute([parked.stream.as_str()]).map_err(failed)?;
    }
    Ok(())
}

fn put(connection: &Connection, how: &str, parked: &Parked) -> rusqlite::Result<()> {
    let Parked { stream, revision, position, error, since, replay } = parked;
    let mut put = connection.prepare_cached(&format!("{how} INTO parked VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"))?;
    let sum = checksum(parked);
    put.execute(params![stream.as_str(), revision.0, position.0, error, since.micros(), replay, sum])?;
    Ok(())
}

/// The flag is not in it: a flag that is wrong costs or saves one reading of a stream.
fn checksum(parked: &Parked) -> u32 {
    let Parked { stream, revision, position, error, since, replay: _ } = parked;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&revision.0.to_be_bytes());
    hasher.update(&position.0.to_be_bytes());
    hasher.update(&since.micros().to_be_bytes());
    hasher.update(stream.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(error.as_bytes());
    hasher.finalize()
}
