//! What filters mean.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::{Comparison, Field, Filter, Literal, Number, Op, Test, Whole};
use crate::domain::log_event::LogEvent;
use crate::domain::time::Timestamp;

/// The lower case of each character by itself: what `Contains` compares. (That of a
/// whole text may differ: a sigma at the end of a word has another.)
pub fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// A member as filters see it.
#[derive(Debug)]
enum Value<'a> {
    Null,
    Bool(bool),
    Double(f64),
    Integer(i64),
    Text(Cow<'a, str>),
    Time(Timestamp),
    /// An object or an array, which is not null and equals nothing.
    Composite,
}

impl Filter {
    /// Whether it holds for an event.
    pub fn matches(&self, event: &LogEvent) -> bool {
        match self {
            Self::Any => true,
            Self::Test(test) => test.matches(event),
            Self::And(filters) => filters.iter().all(|filter| filter.matches(event)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(event)),
            Self::Not(filter) => !filter.matches(event),
        }
    }
}

impl Test {
    fn matches(&self, event: &LogEvent) -> bool {
        let value = Value::of(&self.field, event);
        match &self.op {
            Op::Compare(comparison, literal) => value.compares(*comparison, literal),
            Op::In(literals) => literals.iter().any(|literal| value.compares(Comparison::Eq, literal)),
            Op::Contains(part) => value.text().is_some_and(|text| lower(text).contains(&lower(part))),
            Op::StartsWith(start) => value.text().is_some_and(|text| text.starts_with(start.as_str())),
        }
    }
}

impl<'a> Value<'a> {
    fn of(field: &Field, event: &'a LogEvent) -> Self {
        let members = &event.members;
        match field {
            Field::Id => Self::uuid(event.id),
            Field::Timestamp => Self::Time(members.timestamp),
            Field::CreatedAt => Self::Time(event.created_at),
            Field::Name => Self::optional(members.name.as_deref()),
            Field::Category => Self::optional(members.category.as_deref()),
            Field::Component => Self::optional(members.component.as_deref()),
            Field::Environment => Self::optional(members.environment.as_deref()),
            Field::Message => Self::optional(members.message.as_deref()),
            Field::Email => Self::optional(members.email.as_deref()),
            Field::CustomerId => members.customer_id.map_or(Self::Null, Self::Integer),
            Field::SessionId => members.session_id.map_or(Self::Null, Self::uuid),
            Field::Source => Self::optional(members.source.as_deref()),
            Field::Data(names) => members.data.as_ref().map_or(Self::Null, |data| Self::within(data, names)),
            Field::Ce => members.ce.as_ref().map_or(Self::Null, |_| Self::Composite),
        }
    }

    fn optional(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

    fn uuid(id: Uuid) -> Self {
        Self::Text(id.hyphenated().to_string().into())
    }

    /// What lies at the end of a path through objects.
    fn within(data: &'a Map<String, Json>, names: &[String]) -> Self {
        let Some((first, rest)) = names.split_first() else { return Self::Composite };
        match rest.iter().try_fold(data.get(first), |json, name| Some(json?.as_object()?.get(name))).flatten() {
            None | Some(Json::Null) => Self::Null,
            Some(Json::Bool(value)) => Self::Bool(*value),
            Some(Json::Number(number)) => number.as_f64().map_or(Self::Composite, Self::Double),
            Some(Json::String(text)) => Self::Text(text.into()),
            Some(Json::Array(_) | Json::Object(_)) => Self::Composite,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn compares(&self, comparison: Comparison, literal: &Literal) -> bool {
        match (self, literal, comparison) {
            (Self::Null, Literal::Null, Comparison::Eq) => true,
            (value, Literal::Null, Comparison::Ne) => !matches!(value, Self::Null),
            (Self::Integer(value), Literal::Number(number), _) => whole(*value, comparison, *number),
            (value, literal, comparison) => value.order(literal).is_some_and(|order| comparison.holds(order)),
        }
    }

    /// How it compares with a value of its own type.
    fn order(&self, literal: &Literal) -> Option<Ordering> {
        match (self, literal) {
            (Self::Bool(value), Literal::Bool(other)) => Some(value.cmp(other)),
            (Self::Double(value), Literal::Number(other)) => value.partial_cmp(&other.double),
            (Self::Text(value), Literal::String(other)) => Some(value.as_bytes().cmp(other.as_bytes())),
            (Self::Time(value), Literal::Time(other)) => Some(value.cmp(other)),
            _ => None,
        }
    }
}

fn whole(value: i64, comparison: Comparison, number: Number) -> bool {
    match number.place.compared(comparison) {
        Whole::Always => true,
        Whole::Never => false,
        Whole::Compare(comparison, with) => comparison.holds(value.cmp(&with)),
    }
}

impl Comparison {
    /// Whether it holds for two values in this order.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Gt => order.is_gt(),
            Self::Gte => order.is_ge(),
            Self::Lt => order.is_lt(),
            Self::Lte => order.is_le(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::log_event::Members;

    /// An event with everything, whose times are 2020-06-15 and 2021-01-01.
    fn full() -> LogEvent {
        let data = json!({
            "null": null, "yes": true, "no": false, "one": 1, "half": 0.5, "big": 9_007_199_254_740_993_i64,
            "huge": u64::MAX, "text": "Straße", "empty": "", "zero": -0.0, "array": [1, "x", {"in": 1}], "object": {"deep": {"er": "x"}},
            "$gt": "dollar", "a.b": 1, "another key": "Some value", "0": "naught", "true": "word", "": 1,
        });
        LogEvent {
            id: Uuid::from_u128(0xABCD_EF00_0000_4000_8000_0000_0000_0001),
            number: 7,
            created_at: Timestamp::parse("2021-01-01").expect("a date"),
            members: Members {
                timestamp: Timestamp::parse("2020-06-15T12:00:00.25Z").expect("a time"),
                name: Some("cta click".into()),
                category: Some("Page Interaction".into()),
                component: Some("order".into()),
                environment: Some("production".into()),
                message: Some("The Buyer #1 İstanbul ΣΊΣΥΦΟΣ".into()),
                email: Some("diego@chefhero.com".into()),
                customer_id: Some(18),
                session_id: Some(Uuid::from_u128(0xE208_5BE5_9137_4E4E_80B5_F1FF_DDC2_5423)),
                source: Some("".into()),
                data: data.as_object().cloned(),
                ce: Some(Map::new()),
            },
        }
    }

    /// One with nothing.
    fn bare() -> LogEvent {
        LogEvent { members: Members { timestamp: full().members.timestamp, ..Members::default() }, ..full() }
    }

    fn holds(text: &str, event: &LogEvent) -> bool {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let found = filter.matches(event);
        assert_eq!(filter.negated().matches(event), !found, "NOT ({text})");
        found
    }

    #[test]
    fn says_what_holds_for_an_event() {
        for (text, expected) in [
            ("", true),
            // Strings, by their bytes.
            ("component eq 'order'", true),
            ("component eq 'Order'", false),
            ("component ne 'Order'", true),
            ("component ne 'order'", false),
            ("component gt 'ordeq'", true),
            ("component gt 'order'", false),
            ("component gte 'order'", true),
            ("component lt 'ordes'", true),
            ("component lte 'order'", true),
            ("component lt 'order'", false),
            ("component gt 'Z'", true),
            ("data.text gt 'Strasz'", true),
            ("source eq ''", true),
            ("source eq null", false),
            // Parts, by the lower case of each character.
            ("message ct 'buyer'", true),
            ("message ct 'THE B'", true),
            ("message ct ''", true),
            ("message ct 'seller'", false),
            ("message ct 'i\u{307}stan'", true),
            ("message ct 'i'", true),
            ("message ct 'İ'", true),
            ("message ct 'istan'", false),
            ("message ct 'σίσυφοσ'", true),
            ("message ct 'σίσυφος'", false),
            ("data.text ct 'SSE'", false),
            ("data.text ct 'AẞE'", true),
            ("message sw 'The'", true),
            ("message sw 'the'", false),
            ("message sw ''", true),
            // Ids are texts in lower case.
            ("id eq 'abcdef00-0000-4000-8000-000000000001'", true),
            ("id eq 'ABCDEF00-0000-4000-8000-000000000001'", false),
            ("id sw 'abcdef00-'", true),
            ("id ct 'ABCDEF00-'", true),
            ("id gt 'abc'", true),
            ("id lt 'abd'", true),
            ("session_id eq 'e2085be5-9137-4e4e-80b5-f1ffddc25423'", true),
            ("session_id eq 'e2085be591374e4e80b5f1ffddc25423'", false),
            // Times.
            ("timestamp eq '2020-06-15T12:00:00.25Z'", true),
            ("timestamp eq '2020-06-15 14:00:00.25000099+02:00'", true),
            ("timestamp gt '2020-6-15'", true),
            ("timestamp lt '2020-06-15'", false),
            ("createdAt gte '2021-1-1'", true),
            ("created_at lte '2021-01-01'", true),
            ("created_at ne '2021-01-02'", true),
            ("created_at eq 1609459200", false),
            ("created_at ne 1609459200", false),
            ("created_at gt false", false),
            ("created_at ct '2021'", false),
            ("created_at sw ''", false),
            ("created_at in ('2020-1-1', '2021-1-1')", true),
            ("created_at eq null", false),
            ("created_at ne null", true),
            // The integer that it is.
            ("customer_id eq 18", true),
            ("customer_id eq 18.0", true),
            ("customer_id eq 1.8e1", true),
            ("customer_id eq 18.5", false),
            ("customer_id ne 18.5", true),
            ("customer_id lt 18.5", true),
            ("customer_id gt 17.5", true),
            ("customer_id gte 18.000000000000000000000000000001", false),
            ("customer_id lt 1e40", true),
            ("customer_id gt -1e40", true),
            ("customer_id ne 1e40", true),
            ("customer_id eq '18'", false),
            ("customer_id ne '18'", false),
            ("customer_id ct '1'", false),
            ("customer_id sw '1'", false),
            ("customer_id in (1, 18)", true),
            // Numbers within data, as doubles.
            ("data.one eq 1", true),
            ("data.one eq 1.0", true),
            ("data.half gt 0.25", true),
            ("data.half lt 1e-1", false),
            ("data.big eq 9007199254740992", true),
            ("data.big eq 9007199254740993", true),
            ("data.big gt 9007199254740992", false),
            ("data.huge eq 18446744073709551616", true),
            ("data.huge lt 1e999", true),
            ("data.zero eq 0", true),
            ("data.zero eq -0", true),
            ("data.zero lt 0", false),
            ("data.one in ('1', true, 2, 1)", true),
            ("data.one in ('1', true, 2)", false),
            // False is less than true.
            ("data.yes eq true", true),
            ("data.yes gt false", true),
            ("data.no lt true", true),
            ("data.no gte true", false),
            ("data.no ne true", true),
            ("data.no lte false", true),
            // Other types never compare.
            ("data.one eq true", false),
            ("data.one ne true", false),
            ("data.yes eq 1", false),
            ("data.yes ne 1", false),
            ("data.yes ne 'true'", false),
            ("data.text gt 0", false),
            ("data.one ct '1'", false),
            ("data.text eq null", false),
            ("data.text gt null", false),
            ("name ct null", false),
            ("name sw 5", false),
            // Null, and what tells it.
            ("data.null eq null", true),
            ("data.null ne null", false),
            ("data.missing eq null", true),
            ("data.null eq 1", false),
            ("data.null ne 1", false),
            ("data.null lt 1", false),
            ("data.null gte null", false),
            ("data.null lte null", false),
            ("data.null in (1, null)", true),
            ("data.null in (1)", false),
            ("data.one in (null)", false),
            ("data.null ct ''", false),
            ("data.null sw ''", false),
            // Objects and arrays are not null and equal nothing.
            ("data eq null", false),
            ("data ne null", true),
            ("data ne 1", false),
            ("ce ne null", true),
            ("ce eq 'x'", false),
            ("data.object eq null", false),
            ("data.object ne null", true),
            ("data.object ne 'x'", false),
            ("data.array ne null", true),
            ("data.array eq 1", false),
            ("data.array eq 'x'", false),
            ("data.array ct 'x'", false),
            ("data.array in (1, 'x')", false),
            // Paths go through objects only.
            ("data.object.deep.er eq 'x'", true),
            ("data.object.deep.no eq null", true),
            ("data.array.0 eq 1", false),
            ("data.array.0 eq null", true),
            ("data.array.in eq 1", false),
            ("data.one.more eq null", true),
            ("data.text.length eq null", true),
            // Names are names, whatever they look like.
            ("data.$gt eq 'dollar'", true),
            ("data.0 eq 'naught'", true),
            ("data.true eq 'word'", true),
            ("data.a.b eq 1", false),
            ("data.'another key' eq 'Some value'", true),
            // AND binds tighter than OR, NOT tighter than both.
            ("component eq 'order' OR name eq 'x' AND name eq 'x'", true),
            ("(component eq 'order' OR name eq 'x') AND name eq 'x'", false),
            ("NOT component eq 'x' AND name eq 'x'", false),
            ("NOT (component eq 'x' AND name eq 'x')", true),
            ("NOT NOT component eq 'order'", true),
            ("NOT data.missing ne 'x'", true),
            ("((email eq 'diego@chefhero.com') AND (createdAt gte '2018-1-1') AND (message ct 'buyer' ))", true),
        ] {
            assert_eq!(holds(text, &full()), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_member_is_null_and_nothing_else() {
        let members =
            ["name", "category", "component", "environment", "message", "email", "source", "session_id", "customer_id"];
        for member in members.into_iter().chain(["data", "data.x", "data.x.y", "ce"]) {
            for (test, expected) in [
                ("eq null", true),
                ("ne null", false),
                ("in ('x', null)", true),
                ("in ('x', 1)", false),
                ("eq 'x'", false),
                ("ne 'x'", false),
                ("ne 1", false),
                ("gt ''", false),
                ("lt 1", false),
                ("gte null", false),
                ("ne true", false),
                ("ct ''", false),
                ("sw ''", false),
            ] {
                assert_eq!(holds(&format!("{member} {test}"), &bare()), expected, "{member} {test}");
            }
        }
    }
}
