//! Filters as SQL. What SQLite compares as the filter means it becomes plain SQL
//! with bound values; all else is a call back into the filter itself.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use uuid::Uuid;

use crate::adapters::end_of_prefix;
use crate::domain::filter::{Comparison, Field, Filter, Literal, Number, Op, Place, Test, Whole};
use crate::domain::log_event::{LogEvent, Members};
use crate::domain::time::Timestamp;

/// What always holds and what never does, without SQLite's knowing: it takes no advice
/// about indexes where it sees that nothing can be found.
const TRUE: &str = "+number >= 0";
const FALSE: &str = "+number < 0";

/// A statement as it grows: its text, the values that are bound in it, and the tests
/// that it calls back.
#[derive(Default)]
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) values: Vec<Value>,
    pub(super) tests: Vec<Filter>,
}

impl Sql {
    /// A place for a value.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text += text;
    }

    /// The condition that a filter is.
    pub(super) fn condition(&mut self, filter: &Filter) -> String {
        match filter {
            Filter::Any => TRUE.into(),
            Filter::Test(test) => self.test(test),
            Filter::And(all) => self.joined(all, " AND ", TRUE),
            Filter::Or(some) => self.joined(some, " OR ", FALSE),
            Filter::Not(not) => format!("NOT ({})", self.condition(not)),
        }
    }

    /// Joined in halves, for SQLite bounds how deep an expression may be.
    fn joined(&mut self, filters: &[Filter], with: &str, none: &str) -> String {
        match filters {
            [] => none.into(),
            [one] => self.condition(one),
            more => {
                let (left, right) = more.split_at(more.len() / 2);
                let left = self.joined(left, with, none);
                format!("({left}{with}{})", self.joined(right, with, none))
            }
        }
    }

    fn test(&mut self, test: &Test) -> String {
        let plain = match column(&test.field) {
            Some((column, kind)) => self.plain(column, kind, &test.op),
            None => None,
        };
        plain.unwrap_or_else(|| self.called(test))
    }

    /// Calls the test back.
    fn called(&mut self, test: &Test) -> String {
        let number = self.tests.len();
        self.tests.push(Filter::Test(test.clone()));
        format!("holds({number}, {})", test.field.name())
    }

    /// Plain SQL, if it means the same.
    fn plain(&mut self, column: &str, kind: Kind, op: &Op) -> Option<String> {
        Some(match op {
            Op::Compare(Comparison::Eq, Literal::Null) => format!("{column} IS NULL"),
            Op::Compare(Comparison::Ne, Literal::Null) => format!("{column} IS NOT NULL"),
            Op::Compare(_, Literal::Null) => FALSE.into(),
            Op::Compare(comparison, literal) => self.compared(column, kind, *comparison, literal)?,
            Op::In(literals) => self.one_of(column, kind, literals),
            Op::StartsWith(prefix) if kind == Kind::Text => {
                let start = self.bind(prefix.clone());
                match end_of_prefix(prefix).map(|end| self.bind(end)) {
                    Some(end) => format!("ifnull({column} >= {start} AND {column} < {end}, 0)"),
                    None => format!("ifnull({column} >= {start}, 0)"),
                }
            }
            Op::StartsWith(_) | Op::Contains(_) => return None,
        })
    }

    fn compared(&mut self, column: &str, kind: Kind, comparison: Comparison, literal: &Literal) -> Option<String> {
        if let (Kind::Integer, Literal::Number(number)) = (kind, literal) {
            return Some(match number.place.compared(comparison) {
                Whole::Always => format!("{column} IS NOT NULL"),
                Whole::Never => FALSE.into(),
                Whole::Compare(comparison, with) => self.comparison(column, comparison, with.into()),
            });
        }
        let ordered = !matches!(comparison, Comparison::Eq | Comparison::Ne);
        let value = match value_of(kind, literal) {
            // Ids are ordered as texts are, and may be compared with any.
            Known::Value(Value::Blob(_)) | Known::None if ordered && kind == Kind::Id => return None,
            Known::Value(value) => value,
            Known::None if comparison == Comparison::Ne && is_of(kind, literal) => {
                return Some(format!("{column} IS NOT NULL"));
            }
            Known::None => return Some(FALSE.into()),
        };
        Some(self.comparison(column, comparison, value))
    }

    fn comparison(&mut self, column: &str, comparison: Comparison, value: Value) -> String {
        let value = self.bind(value);
        let operator = match comparison {
            Comparison::Eq => return format!("{column} IS {value}"),
            Comparison::Ne => "<>",
            Comparison::Gt => ">",
            Comparison::Gte => ">=",
            Comparison::Lt => "<",
            Comparison::Lte => "<=",
        };
        // Times are never null, and only what stands by itself leads to an index.
        if matches!(column, "timestamp" | "created_at") {
            return format!("{column} {operator} {value}");
        }
        format!("ifnull({column} {operator} {value}, 0)")
    }

    fn one_of(&mut self, column: &str, kind: Kind, literals: &[Literal]) -> String {
        let mut values = Vec::new();
        let mut null = false;
        for literal in literals {
            match literal {
                Literal::Null => null = true,
                literal => {
                    if let Known::Value(value) = value_of(kind, literal) {
                        values.push(self.bind(value));
                    }
                }
            }
        }
        let is_null = if null { format!("{column} IS NULL") } else { FALSE.into() };
        if values.is_empty() {
            return is_null;
        }
        format!("({is_null} OR ifnull({column} IN ({}), 0))", values.join(", "))
    }
}

/// How a column keeps its member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Microseconds.
    Time,
    Integer,
    /// The bytes of a UUID.
    Id,
}

/// The column of a member that SQLite can compare.
fn column(field: &Field) -> Option<(&'static str, Kind)> {
    let kind = match field {
        Field::Id | Field::SessionId => Kind::Id,
        Field::Timestamp | Field::CreatedAt => Kind::Time,
        Field::CustomerId => Kind::Integer,
        Field::Data(_) | Field::Ce => return None,
        _ => Kind::Text,
    };
    Some((field.name(), kind))
}

enum Known {
    Value(Value),
    /// No value of the column equals the literal.
    None,
}

/// The value that a column has where it equals a literal.
fn value_of(kind: Kind, literal: &Literal) -> Known {
    match (kind, literal) {
        (Kind::Text, Literal::String(text)) => Known::Value(text.clone().into()),
        (Kind::Time, Literal::Time(time)) => Known::Value(time.micros().into()),
        (Kind::Integer, Literal::Number(Number { place: Place::At(integer), .. })) => Known::Value((*integer).into()),
        (Kind::Id, Literal::String(text)) => match Uuid::try_parse(text) {
            Ok(id) if id.hyphenated().to_string() == *text => Known::Value(id.into_bytes().to_vec().into()),
            _ => Known::None,
        },
        _ => Known::None,
    }
}

/// Whether a literal is of the type of a column, so that they differ and do not only
/// have nothing in common.
fn is_of(kind: Kind, literal: &Literal) -> bool {
    match kind {
        Kind::Text | Kind::Id => matches!(literal, Literal::String(_)),
        Kind::Integer => matches!(literal, Literal::Number(_)),
        Kind::Time => matches!(literal, Literal::Time(_)),
    }
}

/// The values that a test asks a column for by equality; none if it asks for more.
pub(super) fn equal_to(test: &Test) -> Option<(&'static str, Vec<Value>)> {
    let (column, kind) = column(&test.field)?;
    let literals = match &test.op {
        Op::Compare(Comparison::Eq, literal) => std::slice::from_ref(literal),
        Op::In(literals) => literals,
        _ => return None,
    };
    let mut values = Vec::new();
    for literal in literals {
        match literal {
            Literal::Null => return None,
            literal => match value_of(kind, literal) {
                Known::Value(value) if !values.contains(&value) => values.push(value),
                _ => {}
            },
        }
    }
    Some((column, values))
}

/// The tests that statements of a connection call back.
pub(super) type Called = Arc<Mutex<Arc<[Filter]>>>;

/// Gives a connection what statements call.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<Called> {
    let called = Called::new(Mutex::new(Arc::new([])));
    let tests = called.clone();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("holds", 2, flags, move |context| holds(&tests.lock(), context))?;
    connection.create_scalar_function("bucket", 2, flags | FunctionFlags::SQLITE_DETERMINISTIC, |context| {
        let (time, interval): (i64, i64) = (context.get(0)?, context.get(1)?);
        Ok(time.div_euclid(interval).saturating_mul(interval))
    })?;
    Ok(called)
}

/// Whether a test holds for the value of its column.
fn holds(tests: &[Filter], context: &Context<'_>) -> rusqlite::Result<bool> {
    let number: usize = context.get(0)?;
    let Some(filter @ Filter::Test(test)) = tests.get(number) else { return Ok(false) };
    let value = context.get_raw(1);
    let mut event =
        LogEvent { id: Uuid::nil(), number: 0, created_at: Timestamp::default(), members: Members::default() };
    if !matches!(value, ValueRef::Null) {
        set(&mut event, &test.field, value)?;
    }
    Ok(filter.matches(&event))
}

fn set(event: &mut LogEvent, field: &Field, value: ValueRef<'_>) -> rusqlite::Result<()> {
    let members = &mut event.members;
    let wrong = |error: rusqlite::types::FromSqlError| rusqlite::Error::UserFunctionError(Box::new(error));
    let text = || value.as_str().map(|text| Some(text.to_owned())).map_err(wrong);
    let json = || {
        let bytes = value.as_bytes().map_err(wrong)?;
        serde_json::from_slice(bytes).map(Some).map_err(|error| rusqlite::Error::UserFunctionError(Box::new(error)))
    };
    let id = || {
        let bytes = value.as_blob().map_err(wrong)?;
        Uuid::from_slice(bytes).map_err(|error| rusqlite::Error::UserFunctionError(Box::new(error)))
    };
    let integer = || value.as_i64().map_err(wrong);
    match field {
        Field::Id => event.id = id()?,
        Field::Timestamp => members.timestamp = Timestamp::from_micros(integer()?),
        Field::CreatedAt => event.created_at = Timestamp::from_micros(integer()?),
        Field::Name => members.name = text()?,
        Field::Category => members.category = text()?,
        Field::Component => members.component = text()?,
        Field::Environment => members.environment = text()?,
        Field::Message => members.message = text()?,
        Field::Email => members.email = text()?,
        Field::CustomerId => members.customer_id = Some(integer()?),
        Field::SessionId => members.session_id = Some(id()?),
        Field::Source => members.source = text()?,
        Field::Data(_) => members.data = json()?,
        Field::Ce => members.ce = json()?,
    }
    Ok(())
}
