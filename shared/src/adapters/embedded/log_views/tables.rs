//! The tables of the file: what is in a row, and how it is proven to be whole.

use std::sync::Arc;

use rusqlite::types::{ToSql, ValueRef};
use rusqlite::{Connection, Row, params};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::super::generation::failed;
use crate::domain::log_event::{LogEvent, Members, Rejection, Session};
use crate::domain::stream::{Position, Revision};
use crate::domain::time::Timestamp;
use crate::ports::{Record, StoreError};

/// What is there from the start. The events lie in segments, see `segment`.
pub(super) const SCHEMA: &str = "
    CREATE TABLE views (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        format INTEGER NOT NULL,
        log TEXT NOT NULL,
        position INTEGER NOT NULL
    );
    -- The runs of integer ids that lie in a table each, and what they hold.
    CREATE TABLE segments (
        ordinal INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        oldest INTEGER NOT NULL,
        newest INTEGER NOT NULL,
        oldest_created INTEGER NOT NULL,
        newest_created INTEGER NOT NULL,
        has_text INTEGER NOT NULL,
        has_orders INTEGER NOT NULL
    );
    -- Events whose latest change is not their recording: amended or deleted.
    CREATE TABLE amended (
        position INTEGER PRIMARY KEY,
        number INTEGER NOT NULL UNIQUE,
        id BLOB NOT NULL,
        revision INTEGER NOT NULL,
        deleted INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE sessions (
        created_at INTEGER NOT NULL,
        id BLOB NOT NULL UNIQUE,
        position INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (created_at, id)
    ) WITHOUT ROWID;
    CREATE TABLE rejections (
        number INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        created_at INTEGER NOT NULL,
        message TEXT NOT NULL,
        data TEXT NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE INDEX rejections_created ON rejections (created_at, id);
";

/// The columns of an event, in the order of `EventRow`.
pub(super) const EVENT_COLUMNS: &str = "number, id, revision, position, timestamp, created_at, name, category, \
     component, environment, message, email, customer_id, session_id, source, data, ce, checksum";

/// Makes the tables of a segment. The members that events are asked for by equality
/// have an index each, in which those with the same value are in the order of time.
pub(super) fn segment(ordinal: usize) -> String {
    let mut sql = format!(
        "CREATE TABLE events_{ordinal} (
            number INTEGER PRIMARY KEY,
            id BLOB NOT NULL,
            revision INTEGER NOT NULL,
            position INTEGER NOT NULL,
            timestamp INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            name TEXT,
            category TEXT,
            component TEXT,
            environment TEXT,
            message TEXT,
            email TEXT,
            customer_id INTEGER,
            session_id BLOB,
            source TEXT,
            data TEXT,
            ce TEXT,
            checksum INTEGER NOT NULL
        );
        CREATE INDEX by_id_{ordinal} ON events_{ordinal} (id);
        CREATE INDEX by_timestamp_{ordinal} ON events_{ordinal} (timestamp, id);
        CREATE INDEX by_created_at_{ordinal} ON events_{ordinal} (created_at, id);"
    );
    for column in EQUALITIES {
        sql += &format!(
            "CREATE INDEX equal_{column}_{ordinal} ON events_{ordinal} ({column}, timestamp, id) \
             WHERE {column} IS NOT NULL;"
        );
    }
    sql
}

/// Makes the indexes of the orders by a text. Their entries go to random places, and
/// they are asked for least, so a segment gets them when there is time for that.
pub(super) fn orders(ordinal: usize) -> String {
    let index = |column| format!("CREATE INDEX by_{column}_{ordinal} ON events_{ordinal} ({column}, id);");
    ["name", "category"].map(index).concat()
}

/// Columns that have an index for equality.
pub(super) const EQUALITIES: [&str; 8] =
    ["session_id", "customer_id", "email", "name", "component", "category", "source", "environment"];

/// The sum over the values of a row.
struct Sum(crc32fast::Hasher);

impl Sum {
    fn new() -> Self {
        Self(crc32fast::Hasher::new())
    }

    fn number(mut self, number: i64) -> Self {
        self.0.update(&[1]);
        self.0.update(&number.to_be_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&[2]);
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    fn value(mut self, value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Integer(number) => self.number(number),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => self.bytes(bytes),
            // No table has any.
            ValueRef::Null | ValueRef::Real(_) => {
                self.0.update(&[0]);
                self
            }
        }
    }

    fn optional(mut self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => {
                self.0.update(&[0]);
                self
            }
        }
    }

    fn done(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

/// Checks the last column of a row against all before it.
pub(super) fn check(row: &Row<'_>, columns: usize) -> Result<(), StoreError> {
    let mut sum = Sum::new();
    for column in 0..columns - 1 {
        sum = sum.value(row.get_ref(column).map_err(failed)?);
    }
    let stored: i64 = row.get(columns - 1).map_err(failed)?;
    if sum.done() == stored { Ok(()) } else { Err(damaged()) }
}

pub(super) fn damaged() -> StoreError {
    StoreError::Corrupt { what: "a row of the views".into(), source: None }
}

pub(super) fn signed(number: u64) -> i64 {
    // Positions and revisions are below 2^53; what clients ask for may be anything.
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Writes an event; what was there under its number must be gone.
pub(super) fn insert_event(
    connection: &Connection,
    ordinal: usize,
    event: &LogEvent,
    revision: Revision,
    position: Position,
) -> Result<(), StoreError> {
    let LogEvent { id, number, created_at, members } = event;
    let json = |map: &Option<Map<String, Json>>| map.as_ref().map(serde_json::to_string).transpose();
    let no_json = |error| StoreError::corrupt("an event's data", error);
    let (data, ce) = (json(&members.data).map_err(no_json)?, json(&members.ce).map_err(no_json)?);
    let texts = [&members.name, &members.category, &members.component, &members.environment, &members.message];
    let mut sum = Sum::new()
        .number(signed(*number))
        .bytes(id.as_bytes())
        .number(signed(revision.0))
        .number(signed(position.0))
        .number(members.timestamp.micros())
        .number(created_at.micros());
    for text in texts.into_iter().chain([&members.email]) {
        sum = sum.optional(text.as_ref().map(String::as_bytes));
    }
    sum = match members.customer_id {
        Some(number) => sum.number(number),
        None => sum.optional(None),
    };
    let session = members.session_id.as_ref().map(|id| id.as_bytes().as_slice());
    let sum = sum
        .optional(session)
        .optional(members.source.as_ref().map(String::as_bytes))
        .optional(data.as_ref().map(String::as_bytes))
        .optional(ce.as_ref().map(String::as_bytes))
        .done();
    let sql = format!(
        "INSERT INTO events_{ordinal} ({EVENT_COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let values: [&dyn ToSql; 18] = [
        &signed(*number),
        &id.as_bytes().as_slice(),
        &signed(revision.0),
        &signed(position.0),
        &members.timestamp.micros(),
        &created_at.micros(),
        &members.name,
        &members.category,
        &members.component,
        &members.environment,
        &members.message,
        &members.email,
        &members.customer_id,
        &session,
        &members.source,
        &data,
        &ce,
        &sum,
    ];
    statement.execute(values.as_slice()).map_err(failed)?;
    Ok(())
}

/// Reads a row of `EVENT_COLUMNS` whose checksum fits; and about how many bytes it takes.
pub(super) fn read_event(row: &Row<'_>) -> Result<(Record, usize), StoreError> {
    check(row, 18)?;
    let mut bytes = 0;
    let mut columns = || -> rusqlite::Result<_> {
        let mut text = |at: usize| -> rusqlite::Result<Option<String>> {
            let text: Option<String> = row.get(at)?;
            bytes += text.as_ref().map_or(0, String::len);
            Ok(text)
        };
        let members = Members {
            timestamp: Timestamp::from_micros(row.get(4)?),
            name: text(6)?,
            category: text(7)?,
            component: text(8)?,
            environment: text(9)?,
            message: text(10)?,
            email: text(11)?,
            customer_id: row.get(12)?,
            session_id: row.get::<_, Option<[u8; 16]>>(13)?.map(Uuid::from_bytes),
            source: text(14)?,
            data: None,
            ce: None,
        };
        let id = Uuid::from_bytes(row.get(1)?);
        let event = LogEvent { id, number: row.get(0)?, created_at: Timestamp::from_micros(row.get(5)?), members };
        Ok((event, Revision(row.get(2)?), Position(row.get(3)?)))
    };
    let (mut event, revision, position) = columns().map_err(failed)?;
    for (at, member) in [(15, &mut event.members.data), (16, &mut event.members.ce)] {
        if let Some(text) = row.get_ref(at).map_err(failed)?.as_bytes_or_null().map_err(|_| damaged())? {
            bytes += text.len();
            *member =
                Some(serde_json::from_slice(text).map_err(|error| StoreError::corrupt("an event's data", error))?);
        }
    }
    Ok((Record { event: Arc::new(event), revision, position }, bytes))
}

/// Notes that the latest change of an event is not its recording.
pub(super) fn insert_amended(
    connection: &Connection,
    position: Position,
    number: u64,
    id: Uuid,
    revision: Revision,
    deleted: bool,
) -> Result<(), StoreError> {
    let sum = Sum::new()
        .number(signed(position.0))
        .number(signed(number))
        .bytes(id.as_bytes())
        .number(signed(revision.0))
        .number(i64::from(deleted))
        .done();
    let sql =
        "REPLACE INTO amended (position, number, id, revision, deleted, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let values = params![position.0, number, id.as_bytes(), revision.0, deleted, sum];
    statement.execute(values).map_err(failed)?;
    Ok(())
}

pub(super) fn insert_session(connection: &Connection, session: &Session) -> Result<(), StoreError> {
    let Session { id, created_at, position } = session;
    let sum = Sum::new().number(created_at.micros()).bytes(id.as_bytes()).number(signed(position.0)).done();
    let sql = "REPLACE INTO sessions (created_at, id, position, checksum) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params![created_at.micros(), id.as_bytes(), position.0, sum]).map_err(failed)?;
    Ok(())
}

/// Reads a row of created_at, id, position and checksum.
pub(super) fn read_session(row: &Row<'_>) -> Result<Session, StoreError> {
    check(row, 4)?;
    let columns = || -> rusqlite::Result<_> {
        let (created_at, id) = (Timestamp::from_micros(row.get(0)?), Uuid::from_bytes(row.get(1)?));
        Ok(Session { id, created_at, position: Position(row.get(2)?) })
    };
    columns().map_err(failed)
}

pub(super) fn insert_rejection(connection: &Connection, rejection: &Rejection) -> Result<(), StoreError> {
    let Rejection { id, number, message, data, created_at } = rejection;
    let data = serde_json::to_string(data).map_err(|error| StoreError::corrupt("a rejection's data", error))?;
    let sum = Sum::new()
        .number(signed(*number))
        .bytes(id.as_bytes())
        .number(created_at.micros())
        .bytes(message.as_bytes())
        .bytes(data.as_bytes())
        .done();
    let sql =
        "REPLACE INTO rejections (number, id, created_at, message, data, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let values = params![number, id.as_bytes(), created_at.micros(), message, data, sum];
    statement.execute(values).map_err(failed)?;
    Ok(())
}

/// Reads a row of number, id, created_at, message, data and checksum; and about how
/// many bytes it takes.
pub(super) fn read_rejection(row: &Row<'_>) -> Result<(Rejection, usize), StoreError> {
    check(row, 6)?;
    let columns = || -> rusqlite::Result<_> {
        let (id, created_at) = (Uuid::from_bytes(row.get(1)?), Timestamp::from_micros(row.get(2)?));
        Ok((row.get(0)?, id, created_at, row.get::<_, String>(3)?, row.get::<_, String>(4)?))
    };
    let (number, id, created_at, message, text) = columns().map_err(failed)?;
    let data = serde_json::from_str(&text).map_err(|error| StoreError::corrupt("a rejection's data", error))?;
    let bytes = message.len() + text.len();
    Ok((Rejection { id, number, message, data, created_at }, bytes))
}

/// Removes the event with a number; how many there were.
pub(super) fn remove_event(connection: &Connection, ordinal: usize, number: u64) -> Result<u64, StoreError> {
    let sql = format!("DELETE FROM events_{ordinal} WHERE number = ?1");
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let removed = statement.execute([number]).map_err(failed)?;
    Ok(removed as u64)
}

/// Checks events behind a number: the last one, and how many there were.
pub(super) fn check_events(
    connection: &Connection,
    ordinal: usize,
    after: Option<i64>,
    limit: usize,
) -> Result<(Option<i64>, usize), StoreError> {
    let sql = format!("SELECT {EVENT_COLUMNS} FROM events_{ordinal} WHERE number > ?1 ORDER BY number LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query(params![after.unwrap_or(-1), limit]).map_err(failed)?;
    let (mut last, mut count) = (None, 0);
    while let Some(row) = rows.next().map_err(failed)? {
        check(row, 18)?;
        last = Some(row.get(0).map_err(failed)?);
        count += 1;
    }
    Ok((last, count))
}

/// Checks all that is no event.
pub(super) fn check_others(connection: &Connection) -> Result<(), StoreError> {
    for (sql, columns) in [
        ("SELECT position, number, id, revision, deleted, checksum FROM amended", 6),
        ("SELECT created_at, id, position, checksum FROM sessions", 4),
        ("SELECT number, id, created_at, message, data, checksum FROM rejections", 6),
    ] {
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            check(row, columns)?;
        }
    }
    Ok(())
}
