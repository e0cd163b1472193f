//! A read of the file: all of it sees the same moment, unless it takes so long that
//! the file's own log would grow behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params_from_iter};

use super::super::generation::failed;
use super::condition::{Called, Sql, register};
use super::segments::{self, Segment};
use super::young::Look;
use crate::domain::filter::Filter;
use crate::domain::stream::Position;
use crate::ports::StoreError;

/// A view of the file that is older is let go of, where the read can bear it.
const OLD: Duration = Duration::from_secs(1);

/// A connection that reads.
pub(super) struct Reader {
    pub(super) connection: Connection,
    /// Of the file that it reads.
    pub(super) edition: u64,
    called: Called,
}

impl Reader {
    pub(super) fn new(connection: Connection, edition: u64) -> rusqlite::Result<Self> {
        let called = register(&connection)?;
        Ok(Self { connection, edition, called })
    }
}

/// The views at a moment: the file, and what was not in it.
pub(super) struct Snapshot<'a> {
    reader: &'a Reader,
    look: Arc<Look>,
    /// How far the file was at first; none where nothing but the file is looked at.
    end: Option<Position>,
    begun: Instant,
    segments: Option<Arc<[Segment]>>,
    was_renewed: bool,
}

impl<'a> Snapshot<'a> {
    /// The file as it is, and what was looked at in memory before.
    pub(super) fn new(reader: &'a Reader, mut look: Look) -> Result<Self, StoreError> {
        reader.connection.execute_batch("BEGIN").map_err(failed)?;
        let mut end = None;
        if !look.is_empty() {
            let sql = "SELECT position FROM views";
            let position = reader.connection.prepare_cached(sql).and_then(|mut at| at.query_row([], |row| row.get(0)));
            let file = *end.insert(Position(position.map_err(failed)?));
            look.leave_out(file);
        }
        Ok(Self { reader, look: Arc::new(look), end, begun: Instant::now(), segments: None, was_renewed: false })
    }

    /// How far the file was at first; none where nothing but the file is looked at.
    pub(super) fn end(&self) -> Option<Position> {
        self.end
    }

    /// What is not in the file.
    pub(super) fn look(&self) -> Arc<Look> {
        self.look.clone()
    }

    pub(super) fn connection(&self) -> &'a Connection {
        &self.reader.connection
    }

    /// The segments that there are.
    pub(super) fn segments(&mut self) -> Result<Arc<[Segment]>, StoreError> {
        match &self.segments {
            Some(segments) => Ok(segments.clone()),
            None => Ok(self.segments.insert(segments::read(&self.reader.connection)?.into()).clone()),
        }
    }

    /// Lets go of a view that is old and takes a new one.
    pub(super) fn renew_if_old(&mut self) -> Result<(), StoreError> {
        if self.begun.elapsed() > OLD {
            self.reader.connection.execute_batch("COMMIT; BEGIN").map_err(failed)?;
            self.begun = Instant::now();
            self.was_renewed = true;
        }
        Ok(())
    }

    /// Whether what is read now may be later than what was read first.
    pub(super) fn was_renewed(&self) -> bool {
        self.was_renewed
    }

    /// All rows of a statement.
    pub(super) fn query<T>(
        &self,
        sql: &Sql,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        *self.reader.called.lock() = sql.tests.iter().cloned().collect::<Arc<[Filter]>>();
        let mut statement = self.reader.connection.prepare_cached(&sql.text).map_err(failed)?;
        let rows = statement.query_map(params_from_iter(&sql.values), read).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // An open transaction that cannot be ended ends with its connection.
        let _ = self.reader.connection.execute_batch("COMMIT");
    }
}
