//! A filter as a match document.
//!
//! Servers compare within a type only, which is what filters mean; where they mean
//! something else (`ne`, `NOT`, nulls) it is said in other words. What clients send is
//! only ever a value, a pattern without any meaning of its own, or an escaped path.

use mongodb::bson::{Bson, Document, doc};

use super::{copy, needle};
use crate::adapters::end_of_prefix;
use crate::domain::filter::{Comparison, Field, Filter, Literal, Op, Test, Whole};

/// Where the copy of the data is.
pub(super) const COPY: &str = "d";

/// What holds for a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    Always,
    Never,
    Match(Document),
}

use Condition::{Always, Match, Never};

/// A filter for the server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compiled {
    /// Every row that the filter holds for is one of these.
    pub(super) condition: Condition,
    /// And these are no others.
    pub(super) exact: bool,
}

/// Compiles a filter.
pub(super) fn compile(filter: &Filter) -> Compiled {
    let mut exact = true;
    let condition = condition(filter, true, &mut exact);
    Compiled { condition, exact }
}

/// A member as the rows have it.
enum Place {
    Text(&'static str),
    Time(&'static str),
    Integer(&'static str),
    /// Any type of value.
    Json(String),
    /// Not null, if it is there, and equal to nothing.
    Composite(&'static str),
    /// Nothing is ever there.
    Nowhere,
}

impl Place {
    fn of(field: &Field) -> Self {
        match field {
            Field::Id => Self::Text("_id"),
            Field::Timestamp => Self::Time("timestamp"),
            Field::CreatedAt => Self::Time("created_at"),
            Field::Name => Self::Text("name"),
            Field::Category => Self::Text("category"),
            Field::Component => Self::Text("component"),
            Field::Environment => Self::Text("environment"),
            Field::Message => Self::Text("message"),
            Field::Email => Self::Text("email"),
            Field::CustomerId => Self::Integer("customer_id"),
            Field::SessionId => Self::Text("session_id"),
            Field::Source => Self::Text("source"),
            Field::Data(names) if names.is_empty() => Self::Composite(COPY),
            Field::Data(names) => copy::path(COPY, names).map_or(Self::Nowhere, Self::Json),
            Field::Ce => Self::Composite("ce"),
        }
    }

    fn path(&self) -> Option<&str> {
        match self {
            Self::Text(path) | Self::Time(path) | Self::Integer(path) | Self::Composite(path) => Some(path),
            Self::Json(path) => Some(path),
            Self::Nowhere => None,
        }
    }

    fn exists(&self, exists: bool) -> Condition {
        match self.path() {
            Some(path) => on(path, doc! { "$exists": exists }),
            None if exists => Never,
            None => Always,
        }
    }

    fn compares(&self, comparison: Comparison, literal: &Literal) -> Condition {
        match (self, literal) {
            (_, Literal::Null) => match comparison {
                Comparison::Eq => self.exists(false),
                Comparison::Ne => self.exists(true),
                Comparison::Gt | Comparison::Gte | Comparison::Lt | Comparison::Lte => Never,
            },
            (Self::Integer(path), Literal::Number(number)) => match number.place.compared(comparison) {
                Whole::Always => self.exists(true),
                Whole::Never => Never,
                Whole::Compare(comparison, with) => compared(path, comparison, "long", with.into()),
            },
            _ => match self.value(literal) {
                Some((path, kind, value)) => compared(path, comparison, kind, value),
                None => Never,
            },
        }
    }

    /// A value that members here can equal.
    fn value(&self, literal: &Literal) -> Option<(&str, &'static str, Bson)> {
        match (self, literal) {
            (Self::Text(path), Literal::String(text)) => Some((path, "string", text.as_str().into())),
            (Self::Time(path), Literal::Time(moment)) => Some((path, "long", moment.micros().into())),
            (Self::Integer(path), Literal::Number(number)) => match number.place.compared(Comparison::Eq) {
                Whole::Compare(Comparison::Eq, value) => Some((path, "long", value.into())),
                _ => None,
            },
            (Self::Json(path), Literal::String(text)) => Some((path, "string", text.as_str().into())),
            (Self::Json(path), Literal::Number(number)) => Some((path, "double", number.double.into())),
            (Self::Json(path), Literal::Bool(value)) => Some((path, "bool", (*value).into())),
            _ => None,
        }
    }

    fn is_one_of(&self, literals: &[Literal]) -> Condition {
        let values: Vec<_> =
            literals.iter().filter_map(|literal| self.value(literal)).map(|(.., value)| value).collect();
        let equals = match self.path() {
            Some(path) if !values.is_empty() => on(path, doc! { "$in": values }),
            _ => Never,
        };
        if literals.contains(&Literal::Null) { one_of(vec![self.exists(false), equals]) } else { equals }
    }

    /// Where strings are.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(path) => Some(path),
            Self::Json(path) => Some(path),
            Self::Time(_) | Self::Integer(_) | Self::Composite(_) | Self::Nowhere => None,
        }
    }
}

fn condition(filter: &Filter, positive: bool, exact: &mut bool) -> Condition {
    match filter {
        Filter::Any => Always,
        Filter::Test(test) => self::test(test, positive, exact),
        Filter::And(filters) => all(filters.iter().map(|filter| condition(filter, positive, exact)).collect()),
        Filter::Or(filters) => one_of(filters.iter().map(|filter| condition(filter, positive, exact)).collect()),
        Filter::Not(filter) => match condition(filter, !positive, exact) {
            Always => Never,
            Never => Always,
            Match(condition) => Match(doc! { "$nor": [condition] }),
        },
    }
}

fn test(Test { field, op }: &Test, positive: bool, exact: &mut bool) -> Condition {
    let place = Place::of(field);
    match op {
        Op::Compare(comparison, literal) => place.compares(*comparison, literal),
        Op::In(literals) => place.is_one_of(literals),
        Op::StartsWith(start) => place.text().map_or(Never, |path| starts_with(path, start)),
        Op::Contains(part) => place.text().map_or(Never, |path| match needle::pattern(part) {
            (pattern, _) if pattern.is_empty() => on(path, doc! { "$type": "string" }),
            (pattern, true) => on(path, doc! { "$regex": pattern }),
            (pattern, false) => {
                *exact = false;
                // What is left out of a `NOT` makes it larger.
                if positive { on(path, doc! { "$regex": pattern }) } else { Never }
            }
        }),
    }
}

fn on(path: &str, holds: Document) -> Condition {
    Match(doc! { path: holds })
}

fn compared(path: &str, comparison: Comparison, kind: &str, value: Bson) -> Condition {
    on(
        path,
        match comparison {
            Comparison::Eq => doc! { "$eq": value },
            // Another type is not unequal.
            Comparison::Ne => doc! { "$type": kind, "$ne": value },
            Comparison::Gt => doc! { "$gt": value },
            Comparison::Gte => doc! { "$gte": value },
            Comparison::Lt => doc! { "$lt": value },
            Comparison::Lte => doc! { "$lte": value },
        },
    )
}

fn starts_with(path: &str, start: &str) -> Condition {
    let mut range = doc! { "$gte": start };
    if let Some(end) = end_of_prefix(start) {
        range.insert("$lt", end);
    }
    on(path, range)
}

/// What holds where all of these do.
pub(super) fn all(conditions: Vec<Condition>) -> Condition {
    if conditions.contains(&Never) { Never } else { joined("$and", conditions).unwrap_or(Always) }
}

/// What holds where one of these does.
fn one_of(conditions: Vec<Condition>) -> Condition {
    if conditions.contains(&Always) { Always } else { joined("$or", conditions).unwrap_or(Never) }
}

fn joined(operator: &str, conditions: Vec<Condition>) -> Option<Condition> {
    let mut parts: Vec<_> =
        conditions.into_iter().filter_map(|one| if let Match(one) = one { Some(one) } else { None }).collect();
    match parts.pop()? {
        last if parts.is_empty() => Some(Match(last)),
        last => {
            parts.push(last);
            Some(Match(doc! { operator: parts }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Condition {
        let compiled = compile(&Filter::parse(text).expect("a filter"));
        assert!(compiled.exact, "{text}");
        compiled.condition
    }

    #[test]
    fn filters_become_plain_matches() {
        for (text, expected) in [
            ("", Always),
            ("name eq 'a'", Match(doc! { "name": { "$eq": "a" } })),
            ("name ne 'a'", Match(doc! { "name": { "$type": "string", "$ne": "a" } })),
            ("name eq null", Match(doc! { "name": { "$exists": false } })),
            ("name gt null", Never),
            ("name eq 1", Never),
            ("NOT name eq 1", Always),
            ("NOT name eq 'a'", Match(doc! { "$nor": [{ "name": { "$eq": "a" } }] })),
            ("name sw 'ab'", Match(doc! { "name": { "$gte": "ab", "$lt": "ac" } })),
            ("name ct 'a.'", Match(doc! { "name": { "$regex": r"[aA]\x2e" } })),
            ("name ct ''", Match(doc! { "name": { "$type": "string" } })),
            ("customer_id gt 1.5", Match(doc! { "customer_id": { "$gt": 1_i64 } })),
            ("customer_id ne 1.5", Match(doc! { "customer_id": { "$exists": true } })),
            ("customer_id eq 1.5", Never),
            ("data ne null", Match(doc! { "d": { "$exists": true } })),
            ("data eq 'x'", Never),
            ("ce eq '{}'", Never),
            ("data.a in (1, 'x', true)", Match(doc! { "d.a": { "$in": [1.0, "x", true] } })),
            (
                "data.a in (null, 1)",
                Match(doc! { "$or": [{ "d.a": { "$exists": false } }, { "d.a": { "$in": [1.0] } }] }),
            ),
            (
                "name eq 'a' AND (category eq 'b' OR data.x lt 2)",
                Match(doc! { "$and": [
                    { "name": { "$eq": "a" } },
                    { "$or": [{ "category": { "$eq": "b" } }, { "d.x": { "$lt": 2.0 } }] },
                ] }),
            ),
            ("name eq 'a' AND name eq 1", Never),
            ("name eq 'a' OR name eq 1", Match(doc! { "name": { "$eq": "a" } })),
        ] {
            assert_eq!(compiled(text), expected, "{text}");
        }
    }

    #[test]
    fn what_clients_send_stays_a_value() {
        let names = |names: &[&str]| Field::Data(names.iter().map(|name| (*name).to_owned()).collect());
        for (field, text, expected) in [
            (Field::Name, "$where", doc! { "name": { "$eq": "$where" } }),
            (names(&["$gt"]), "$ne", doc! { "d.~$gt": { "$eq": "$ne" } }),
            (names(&["a", ""]), "{}", doc! { "d.a.~": { "$eq": "{}" } }),
        ] {
            assert_eq!(compile(&Filter::equals(field, text.into())).condition, Match(expected));
        }
        let unreachable = Filter::equals(names(&["a.b"]), Literal::Null);
        assert_eq!(compile(&unreachable).condition, Always);
    }

    #[test]
    fn a_long_part_is_asked_for_in_part() {
        let long = Filter::contains(Field::Name, "x".repeat(5_000));
        let compiled = compile(&long);
        assert!(!compiled.exact && matches!(compiled.condition, Match(_)));
        assert_eq!(compile(&long.negated()), Compiled { condition: Always, exact: false });
    }
}
