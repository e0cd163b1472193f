//! Segments: runs of integer ids that lie in a table each, with indexes of its own.
//!
//! New events go to the last one. So the pages that a batch touches at random are
//! those of one segment's indexes, however long the log is. A read goes through
//! the segments that can hold something for it, which for most is the last one or two:
//! each knows from when to when its events are.

use rusqlite::{Connection, params};

use super::super::generation::failed;
use super::tables;
use crate::domain::time::Timestamp;
use crate::ports::StoreError;

/// From one moment to another, both within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Span {
    pub(super) const ALL: Self = Self { first: i64::MIN, last: i64::MAX };
    pub(super) const NONE: Self = Self { first: i64::MAX, last: i64::MIN };

    /// What is in both.
    pub(super) fn and(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    pub(super) fn is_empty(self) -> bool {
        self.first > self.last
    }

    pub(super) fn is_within(self, other: Self) -> bool {
        self.first >= other.first && self.last <= other.last
    }

    pub(super) fn reach(&mut self, time: Timestamp) {
        self.first = self.first.min(time.micros());
        self.last = self.last.max(time.micros());
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The number in its tables' names.
    pub(super) ordinal: usize,
    /// Its integer ids begin here, and end where the next segment begins.
    pub(super) first: u64,
    /// Events in it.
    pub(super) count: u64,
    /// Timestamps in it lie within.
    pub(super) times: Span,
    /// And times of recording.
    pub(super) created: Span,
    /// Its texts have an index.
    pub(super) has_text: bool,
    /// Its orders by a text have indexes.
    pub(super) has_orders: bool,
}

impl Segment {
    pub(super) fn reach(&mut self, timestamp: Timestamp, created_at: Timestamp) {
        self.times.reach(timestamp);
        self.created.reach(created_at);
    }
}

/// The segments of a file, in order.
pub(super) fn read(connection: &Connection) -> Result<Vec<Segment>, StoreError> {
    let sql = "SELECT ordinal, first, count, oldest, newest, oldest_created, newest_created, has_text, has_orders \
               FROM segments ORDER BY ordinal";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let rows = statement.query_map([], |row| {
        Ok(Segment {
            ordinal: row.get(0)?,
            first: row.get(1)?,
            count: row.get(2)?,
            times: Span { first: row.get(3)?, last: row.get(4)? },
            created: Span { first: row.get(5)?, last: row.get(6)? },
            has_text: row.get(7)?,
            has_orders: row.get(8)?,
        })
    });
    rows.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

/// Makes the tables of a new segment.
pub(super) fn create(connection: &Connection, ordinal: usize, first: u64) -> Result<Segment, StoreError> {
    connection.execute_batch(&tables::segment(ordinal)).map_err(failed)?;
    let (times, created, has_text, has_orders) = (Span::NONE, Span::NONE, false, false);
    let segment = Segment { ordinal, first, count: 0, times, created, has_text, has_orders };
    write(connection, &segment)?;
    Ok(segment)
}

/// Writes what is known about a segment.
pub(super) fn write(connection: &Connection, segment: &Segment) -> Result<(), StoreError> {
    let Segment { ordinal, first, count, times, created, has_text, has_orders } = segment;
    let sql = "REPLACE INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let (times, created) = ((times.first, times.last), (created.first, created.last));
    let values = params![ordinal, first, count, times.0, times.1, created.0, created.1, has_text, has_orders];
    statement.execute(values).map_err(failed)?;
    Ok(())
}

/// Makes the indexes of orders of a segment that has none, if there are more than so many
/// of these; whether there may be more to do.
pub(super) fn order_one(
    connection: &mut Connection,
    segments: &mut [Segment],
    spare: usize,
) -> Result<bool, StoreError> {
    let missing = segments.iter_mut().rev().filter(|segment| !segment.has_orders);
    let Some(segment) = missing.skip(spare).last() else { return Ok(false) };
    let transaction = connection.transaction().map_err(failed)?;
    transaction.execute_batch(&tables::orders(segment.ordinal)).map_err(failed)?;
    let done = Segment { has_orders: true, ..segment.clone() };
    write(&transaction, &done)?;
    transaction.commit().map_err(failed)?;
    *segment = done;
    Ok(true)
}

/// The segment in which an integer id lies.
pub(super) fn of_number(segments: &[Segment], number: u64) -> Option<usize> {
    segments.partition_point(|segment| segment.first <= number).checked_sub(1)
}
