//! Parts of texts: an index of trigrams beside each segment that is full.
//!
//! In the last segment texts are looked at one by one. When it is full its index
//! is made, some events at a time, and never changed: an event that was amended counts
//! as found by any part, and whatever is found is looked at.

use rusqlite::{Connection, params};

use super::super::generation::failed;
use super::condition::Sql;
use super::segments::{self, Segment};
use super::snapshot::Snapshot;
use super::tables::signed;
use crate::domain::filter::{Field, Filter, Op, Test, lower};
use crate::domain::log_event::LogEvent;
use crate::ports::StoreError;

/// Events that are indexed in one transaction.
const STEP: usize = 500;
/// With more events than this, the index of an order is walked instead.
const FEW: u64 = 2_000;
/// No more trigrams of a part are asked for.
const MOST_TRIGRAMS: usize = 16;

/// What to look up for a filter: the trigrams of a part that an indexed text must
/// hold; none if it has too few characters.
pub(super) fn expression(filter: &Filter) -> Option<String> {
    let Filter::Test(Test { field: Field::Name | Field::Message | Field::Email, op: Op::Contains(part) }) = filter
    else {
        return None;
    };
    let characters: Vec<char> = indexed(part).chars().collect();
    let mut trigrams: Vec<String> = characters.windows(3).map(|three| three.iter().collect()).collect();
    trigrams.sort_unstable();
    trigrams.dedup();
    trigrams.truncate(MOST_TRIGRAMS);
    let quoted = |trigram: &String| format!("\"{}\"", trigram.replace('"', "\"\""));
    let all: Vec<_> = trigrams.iter().map(quoted).collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}

/// A text as the index has it. It ends texts at a NUL, so there is none.
fn indexed(text: &str) -> String {
    lower(text).replace('\0', "\u{fffd}")
}

/// Whether few events of a segment have the trigrams.
pub(super) fn are_few(snapshot: &Snapshot<'_>, ordinal: usize, expression: &str) -> Result<bool, StoreError> {
    let mut sql = Sql::default();
    let (expression, limit) = (sql.bind(expression.to_owned()), FEW + 1);
    let found = format!("SELECT 1 FROM text_{ordinal} WHERE text_{ordinal} MATCH {expression} LIMIT {limit}");
    sql.push(&format!("SELECT count(*) FROM ({found})"));
    let count: u64 = snapshot.query(&sql, |row| row.get::<_, u64>(0))?.into_iter().sum();
    Ok(count <= FEW)
}

impl Sql {
    /// That an event of a segment may have the trigrams.
    pub(super) fn has_trigrams(&mut self, ordinal: usize, expression: &str) {
        let expression = self.bind(expression.to_owned());
        self.push(&format!(
            "number IN (SELECT rowid FROM text_{ordinal} WHERE text_{ordinal} MATCH {expression} \
             UNION SELECT number FROM amended WHERE number >= (SELECT first FROM segments WHERE ordinal = {ordinal}) \
             AND number < (SELECT first FROM segments WHERE ordinal = {ordinal} + 1)) AND "
        ));
    }
}

/// An index that is being made.
pub(super) struct Indexing {
    ordinal: usize,
    /// The last integer id that is in it; below all before the first.
    after: i64,
}

/// Makes some more of the index of a segment that is full and has none, if there are more
/// than so many of these; whether there may be more to do.
pub(super) fn index_some(
    connection: &mut Connection,
    segments: &mut [Segment],
    indexing: &mut Option<Indexing>,
    spare: usize,
) -> Result<bool, StoreError> {
    let full = segments.len().saturating_sub(1);
    let missing = segments[..full].iter_mut().rev().filter(|segment| !segment.has_text);
    let Some(segment) = missing.skip(spare).last() else { return Ok(false) };
    let transaction = connection.transaction().map_err(failed)?;
    let ordinal = segment.ordinal;
    let after = match indexing.take().filter(|indexing| indexing.ordinal == ordinal) {
        Some(indexing) => indexing.after,
        None => {
            // What a crash may have left is begun again.
            let begin = format!(
                "DROP TABLE IF EXISTS text_{ordinal};
                CREATE VIRTUAL TABLE text_{ordinal} USING fts5(
                    texts, content = '', columnsize = 0, detail = none, tokenize = 'trigram case_sensitive 1'
                );"
            );
            transaction.execute_batch(&begin).map_err(failed)?;
            -1
        }
    };
    let rows = index_rows(&transaction, ordinal, after)?;
    let mut done = segment.clone();
    done.has_text = rows.count < STEP;
    if done.has_text {
        segments::write(&transaction, &done)?;
    }
    transaction.commit().map_err(failed)?;
    if !done.has_text {
        *indexing = Some(Indexing { ordinal, after: rows.last });
    }
    *segment = done;
    Ok(true)
}

/// Adds an event that was not there to an index that has passed its place.
pub(super) fn index_one(
    connection: &Connection,
    segment: &Segment,
    indexing: Option<&Indexing>,
    event: &LogEvent,
) -> Result<(), StoreError> {
    let number = signed(event.number);
    let is_passed = indexing.is_some_and(|indexing| indexing.ordinal == segment.ordinal && number <= indexing.after);
    if segment.has_text || is_passed {
        let members = &event.members;
        let texts = [&members.name, &members.message, &members.email].map(|text| text.as_deref());
        let mut insert = connection.prepare_cached(&insert(segment.ordinal)).map_err(failed)?;
        insert.execute(params![number, indexed_texts(texts)]).map_err(failed)?;
    }
    Ok(())
}

fn insert(ordinal: usize) -> String {
    format!("INSERT INTO text_{ordinal} (rowid, texts) VALUES (?1, ?2)")
}

/// The texts of an event as the index has them.
fn indexed_texts(texts: [Option<&str>; 3]) -> String {
    texts.iter().map(|text| indexed(text.unwrap_or_default()) + "\n").collect()
}

struct Indexed {
    last: i64,
    count: usize,
}

fn index_rows(connection: &Connection, ordinal: usize, after: i64) -> Result<Indexed, StoreError> {
    let select =
        format!("SELECT number, name, message, email FROM events_{ordinal} WHERE number > ?1 ORDER BY number LIMIT ?2");
    let mut select = connection.prepare_cached(&select).map_err(failed)?;
    let mut insert = connection.prepare_cached(&insert(ordinal)).map_err(failed)?;
    let mut rows = select.query(params![after, STEP]).map_err(failed)?;
    let mut indexed_rows = Indexed { last: after, count: 0 };
    while let Some(row) = rows.next().map_err(failed)? {
        let number: i64 = row.get(0).map_err(failed)?;
        let text = |column| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
        let texts = indexed_texts([text(1).map_err(failed)?, text(2).map_err(failed)?, text(3).map_err(failed)?]);
        insert.execute(params![number, texts]).map_err(failed)?;
        indexed_rows = Indexed { last: number, count: indexed_rows.count + 1 };
    }
    Ok(indexed_rows)
}
