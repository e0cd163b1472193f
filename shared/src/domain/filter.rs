//! What log events are asked for: a tree of tests of their members.
//!
//! A missing member is null, and only `eq null`, `ne null` and a null within `in` tell
//! it; any other comparison with null or with another type is false, `ne` too, and
//! `Not` turns false into true. Whoever compiles a filter for a store keeps to this.

mod matching;
mod number;
mod parser;
mod print;

use super::log_event::LogEvent;
use super::time::Timestamp;

pub use self::matching::lower;
pub use self::number::{Number, Place, Whole};
pub use self::parser::{FilterError, MAX_FILTER_BYTES, MAX_NESTING, MAX_VALUES};

/// A condition on a log event. One that was parsed is at most `MAX_NESTING` high.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Every event.
    Any,
    Test(Test),
    /// All of them; true if there is none.
    And(Vec<Filter>),
    /// One of them at least; false if there is none.
    Or(Vec<Filter>),
    Not(Box<Filter>),
}

/// A comparison of one member.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    pub field: Field,
    pub op: Op,
}

/// A member, or a place within `data`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    Id,
    Timestamp,
    CreatedAt,
    Name,
    Category,
    Component,
    Environment,
    Message,
    Email,
    CustomerId,
    SessionId,
    Source,
    /// `data` itself if there are no names; else what lies at the end of this path,
    /// which goes through objects only.
    Data(Vec<String>),
    Ce,
}

/// What is asked of a member.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Compare(Comparison, Literal),
    /// It equals one of them.
    In(Vec<Literal>),
    /// A string that holds this, the lower case of each character compared.
    Contains(String),
    /// A string that begins with this.
    StartsWith(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
}

/// A value in a filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Number(Number),
    /// Compared by its UTF-8 bytes. An id's is a UUID's lower case.
    String(String),
    /// Where the field is a time, and only there.
    Time(Timestamp),
}

impl Filter {
    /// That a member equals a value.
    pub fn equals(field: Field, value: Literal) -> Self {
        Self::compare(field, Comparison::Eq, value)
    }

    /// A comparison of a member with a value.
    pub fn compare(field: Field, comparison: Comparison, value: Literal) -> Self {
        Self::test(field, Op::Compare(comparison, value))
    }

    /// That a member is a string that holds this one, whatever the case.
    pub fn contains(field: Field, part: impl Into<String>) -> Self {
        Self::test(field, Op::Contains(part.into()))
    }

    /// A test of a member.
    pub fn test(field: Field, op: Op) -> Self {
        Self::Test(Test { field, op })
    }

    /// No event.
    pub fn none() -> Self {
        Self::Or(Vec::new())
    }

    /// All of them; every event if there is none.
    pub fn all(filters: Vec<Self>) -> Self {
        let mut all = Vec::with_capacity(filters.len());
        for filter in filters {
            match filter {
                Self::Any => {}
                Self::And(more) => all.extend(more),
                other => all.push(other),
            }
        }
        match all.pop() {
            None => Self::Any,
            Some(only) if all.is_empty() => only,
            Some(last) => {
                all.push(last);
                Self::And(all)
            }
        }
    }

    /// One of them at least; no event if there is none.
    pub fn one_of(filters: Vec<Self>) -> Self {
        let mut all = Vec::with_capacity(filters.len());
        for filter in filters {
            match filter {
                Self::Any => return Self::Any,
                Self::Or(more) => all.extend(more),
                other => all.push(other),
            }
        }
        match all.pop() {
            Some(only) if all.is_empty() => only,
            last => {
                all.extend(last);
                Self::Or(all)
            }
        }
    }

    /// What the other does not say.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Not(filter) => *filter,
            other => Self::Not(Box::new(other)),
        }
    }

    /// How many `And`, `Or` and `Not` lie upon each other.
    pub fn height(&self) -> usize {
        match self {
            Self::Any | Self::Test(_) => 0,
            Self::And(filters) | Self::Or(filters) => 1 + filters.iter().map(Self::height).max().unwrap_or(0),
            Self::Not(filter) => 1 + filter.height(),
        }
    }
}

/// The names of members, as they are written in filters.
const MEMBERS: [(&str, Field); 14] = [
    ("id", Field::Id),
    ("timestamp", Field::Timestamp),
    ("created_at", Field::CreatedAt),
    ("name", Field::Name),
    ("category", Field::Category),
    ("component", Field::Component),
    ("environment", Field::Environment),
    ("message", Field::Message),
    ("email", Field::Email),
    ("customer_id", Field::CustomerId),
    ("session_id", Field::SessionId),
    ("source", Field::Source),
    ("data", Field::Data(Vec::new())),
    ("ce", Field::Ce),
];

impl Field {
    /// The member with this name.
    pub fn named(name: &str) -> Option<Self> {
        MEMBERS.iter().find(|(member, _)| *member == name).map(|(_, field)| field.clone())
    }

    /// Its text in an event, as events are counted by it; none where it is missing.
    pub fn text_of(&self, event: &LogEvent) -> Option<String> {
        let LogEvent { id, created_at, members, .. } = event;
        match self {
            Self::Id => Some(id.to_string()),
            Self::Timestamp => Some(members.timestamp.to_string()),
            Self::CreatedAt => Some(created_at.to_string()),
            Self::Name => members.name.clone(),
            Self::Category => members.category.clone(),
            Self::Component => members.component.clone(),
            Self::Environment => members.environment.clone(),
            Self::Message => members.message.clone(),
            Self::Email => members.email.clone(),
            Self::CustomerId => members.customer_id.map(|id| id.to_string()),
            Self::SessionId => members.session_id.map(|id| id.to_string()),
            Self::Source => members.source.clone(),
            Self::Data(_) | Self::Ce => None,
        }
    }

    /// Its name; that of places within `data` is `data`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Timestamp => "timestamp",
            Self::CreatedAt => "created_at",
            Self::Name => "name",
            Self::Category => "category",
            Self::Component => "component",
            Self::Environment => "environment",
            Self::Message => "message",
            Self::Email => "email",
            Self::CustomerId => "customer_id",
            Self::SessionId => "session_id",
            Self::Source => "source",
            Self::Data(_) => "data",
            Self::Ce => "ce",
        }
    }

    /// Whether it is a time.
    pub fn is_time(&self) -> bool {
        matches!(self, Self::Timestamp | Self::CreatedAt)
    }
}

impl From<&str> for Literal {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Literal {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<i64> for Literal {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Literal {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Timestamp> for Literal {
    fn from(moment: Timestamp) -> Self {
        Self::Time(moment)
    }
}
