//! Random log events and filters that meet: what is awkward comes often, from few
//! values, so that much is alike.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Number as JsonNumber, Value as Json};
use uuid::Uuid;

use crate::domain::filter::{Comparison, Field, Filter, Literal, Number, Op};
use crate::domain::log_event::{LogEvent, Members};
use crate::domain::time::Timestamp;

const TEXTS: [&str; 72] = [
    "",
    " ",
    "a",
    "A",
    "b",
    "B",
    "ab",
    "aB",
    "AB",
    "abc",
    "a ",
    " a",
    "aa",
    "z",
    "i",
    "I",
    "\u{130}",
    "\u{131}",
    "i\u{307}",
    "\u{df}",
    "\u{1e9e}",
    "ss",
    "SS",
    "k",
    "K",
    "\u{212a}",
    "\u{3a3}",
    "\u{3c3}",
    "\u{3c2}",
    "ΟΔΟΣ",
    "οδος",
    "ǅ",
    "ǆ",
    "ﬃ",
    "𐐀",
    "𐐨",
    "é",
    "e\u{301}",
    "É",
    "漢字",
    "😀",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{d7ff}",
    "'",
    "it's",
    "\"",
    "\\",
    "\\'",
    "%",
    "_",
    "a%b",
    "a_b",
    "*",
    "a*",
    "?",
    "[a-z]",
    "^a$",
    ".*",
    "(",
    "a.b",
    "$gt",
    "$a",
    "\0",
    "a\0b",
    "\n",
    "null",
    "true",
    "1",
    "1.0",
    "2018-01-01",
];
/// Some meet paths of filters, the others no filter can name.
const NAMES: [&str; 30] = [
    "a", "a", "a", "b", "b", "c", "A", "é", "\u{130}", "$a", "$gt", "$$ROOT", "_id", "0", "1", "null", "true",
    "length", "x y", "'", "\"", "\\", "#", "[0]", "*", "\n", "a.b", ".", "", "data",
];
const INTEGERS: [i64; 16] = [
    0,
    1,
    -1,
    2,
    18,
    19,
    1 << 53,
    (1 << 53) + 1,
    -(1 << 53) - 1,
    1 << 62,
    (1 << 62) + 1,
    i64::MAX - 512,
    i64::MAX - 1,
    i64::MAX,
    i64::MIN + 1,
    i64::MIN,
];
const DOUBLES: [f64; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    0.1,
    0.5,
    -0.5,
    18.5,
    5e-324,
    1e300,
    -1e300,
    9_007_199_254_740_992.0,
    18_446_744_073_709_551_616.0,
];
const NUMBERS: [&str; 16] = [
    "0",
    "-0",
    "-0.0",
    "1",
    "1.0",
    "10e-1",
    "1.5",
    "18.5",
    "9007199254740993",
    "9223372036854775806.5",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "-9223372036854775809",
    "1e300",
    "-1e999",
];
const SESSIONS: [Uuid; 3] = [
    Uuid::from_u128(0xE208_5BE5_9137_4E4E_80B5_F1FF_DDC2_5423),
    Uuid::from_u128(0xE208_5BE5_0000_4000_8000_0000_0000_0000),
    Uuid::from_u128(0),
];

pub(super) fn text() -> impl Strategy<Value = String> + Clone {
    let one = || select(&TEXTS[..]);
    prop_oneof![
        6 => one().prop_map(str::to_owned),
        2 => (one(), one()).prop_map(|(a, b)| format!("{a}{b}")),
        1 => (one(), one(), one()).prop_map(|(a, b, c)| format!("{a} {b} {c}")),
        1 => ".{0,6}",
    ]
}

pub(super) fn moment() -> impl Strategy<Value = Timestamp> + Clone {
    let day = 86_400_000_000;
    let date = 1_514_764_800_000_000;
    let moments =
        vec![i64::MIN, -day, -1, 0, 1, date - 1, date, date + 1, date + 260_000, date + day / 2, date + day, i64::MAX];
    select(moments).prop_map(Timestamp::from_micros)
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        select(&INTEGERS[..]).prop_map(Json::from),
        select(&DOUBLES[..]).prop_map(Json::from),
        Just(Json::from(u64::MAX)),
        Just(Json::from(i64::MAX as u64 + 1)),
        text().prop_map(Json::String),
        text().prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            3 => object(inner).prop_map(Json::Object),
        ]
    })
}

fn object(inner: impl Strategy<Value = Json>) -> impl Strategy<Value = Map<String, Json>> {
    let member = (select(&NAMES[..]).prop_map(str::to_owned), inner);
    prop::collection::vec(member, 0..7).prop_map(|members| members.into_iter().collect())
}

fn optional<T: Clone + std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.75, strategy)
}

/// Members, but for the source.
pub(super) fn members() -> impl Strategy<Value = Members> {
    let texts = prop::array::uniform6(optional(text()));
    let ids = (optional(select(&INTEGERS[..])), optional(select(&SESSIONS[..])));
    let objects = (optional(object(json())), prop::option::weighted(0.3, object(json())));
    (moment(), texts, ids, objects).prop_map(|(timestamp, texts, (customer_id, session_id), (data, ce))| {
        let [name, category, component, environment, message, email] = texts;
        Members {
            timestamp,
            name,
            category,
            component,
            environment,
            message,
            email,
            customer_id,
            session_id,
            source: None,
            data,
            ce,
        }
    })
}

/// Any JSON at all.
pub(super) fn anything() -> impl Strategy<Value = Json> {
    json()
}

fn field() -> impl Strategy<Value = Field> {
    use Field::{
        Category, Ce, Component, CreatedAt, CustomerId, Email, Environment, Id, Message, Name, SessionId, Timestamp,
    };
    let members = vec![
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
        Ce,
    ];
    let names: Vec<_> = NAMES.into_iter().filter(|name| !name.is_empty() && !name.contains('.')).collect();
    let path = prop::collection::vec(select(names).prop_map(str::to_owned), 0..4);
    prop_oneof![4 => select(members), 1 => path.prop_map(Field::Data)]
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        1 => Just(Literal::Null),
        1 => any::<bool>().prop_map(Literal::Bool),
        2 => select(&NUMBERS[..]).prop_map(|text| Literal::Number(Number::parse(text).expect("a number"))),
        2 => select(&INTEGERS[..]).prop_map(Literal::from),
        3 => text().prop_map(Literal::String),
    ]
}

/// What an event has there, where a filter can say it.
fn literal_of(event: &LogEvent, field: &Field) -> Option<Literal> {
    let LogEvent { id, created_at, members, .. } = event;
    let text = |text: &Option<String>| text.clone().map(Literal::String);
    match field {
        Field::Id => Some(id.to_string().into()),
        Field::Timestamp => Some(members.timestamp.into()),
        Field::CreatedAt => Some((*created_at).into()),
        Field::Name => text(&members.name),
        Field::Category => text(&members.category),
        Field::Component => text(&members.component),
        Field::Environment => text(&members.environment),
        Field::Message => text(&members.message),
        Field::Email => text(&members.email),
        Field::CustomerId => members.customer_id.map(Literal::from),
        Field::SessionId => members.session_id.map(|id| id.to_string().into()),
        Field::Source => text(&members.source),
        Field::Ce => None,
        Field::Data(names) => {
            let (first, rest) = names.split_first()?;
            let found = members.data.as_ref()?.get(first)?;
            literal_in(rest.iter().try_fold(found, |json, name| json.as_object()?.get(name))?)
        }
    }
}

fn literal_in(json: &Json) -> Option<Literal> {
    match json {
        Json::Null => Some(Literal::Null),
        Json::Bool(value) => Some((*value).into()),
        Json::Number(number) => Number::parse(&JsonNumber::to_string(number)).map(Literal::Number),
        Json::String(text) => Some(text.clone().into()),
        Json::Array(_) | Json::Object(_) => None,
    }
}

/// A path that an event has, picked by some indices.
fn path_of(event: &LogEvent, picks: &[Index]) -> Option<Field> {
    let mut names = Vec::new();
    let mut at = event.members.data.as_ref();
    for pick in picks {
        let reachable = |name: &&String| !name.is_empty() && !name.contains('.');
        let within: Vec<_> = at.into_iter().flat_map(Map::keys).filter(reachable).collect();
        if within.is_empty() {
            break;
        }
        let name = within[pick.index(within.len())];
        names.push(name.clone());
        at = at.and_then(|object| object.get(name)).and_then(Json::as_object);
    }
    (!names.is_empty()).then_some(Field::Data(names))
}

/// A part of a text, in another case now and then.
fn part_of(text: &str, picks: &[Index], case: u8) -> String {
    let characters: Vec<_> = text.chars().collect();
    let (a, b) = (picks[0].index(characters.len() + 1), picks[1].index(characters.len() + 1));
    let part: String = characters[a.min(b)..a.max(b)].iter().collect();
    match case {
        0 => part.to_uppercase(),
        1 => part.to_lowercase(),
        _ => part,
    }
}

fn test(events: Arc<Vec<LogEvent>>) -> impl Strategy<Value = Filter> {
    use Comparison::{Eq, Gt, Gte, Lt, Lte, Ne};
    let choice = (any::<Index>(), prop::array::uniform3(any::<Index>()), any::<bool>(), field());
    let values = (
        prop::collection::vec(literal(), 1..4),
        prop::collection::vec(any::<Index>(), 0..3),
        prop::bool::weighted(0.8),
    );
    let op = (0..12_u8, select(vec![Eq, Ne, Gt, Gte, Lt, Lte]), 0..4_u8, text());
    (choice, values, op).prop_map(
        move |((of, picks, path, field), (others, more, known), (op, comparison, case, other))| {
            let (before, behind) = events.split_at(of.index(events.len()));
            let in_turn = behind.iter().chain(before);
            let event = &behind[0];
            let field = path.then(|| path_of(event, &picks)).flatten().unwrap_or(field);
            // Where the field is a time the parser lets no other texts through.
            let fits = |value: &Literal| !(field.is_time() && matches!(value, Literal::String(_)));
            let known = known
                .then(|| in_turn.filter_map(|event| literal_of(event, &field)).find(|value| *value != Literal::Null))
                .flatten();
            let others: Vec<_> = others.into_iter().filter(fits).collect();
            let first = known.or_else(|| others.first().cloned()).unwrap_or(Literal::Null);
            let op = match (op, &first) {
                (0..6, _) => Op::Compare(comparison, first),
                (6..8, _) => {
                    let more = more.iter().filter_map(|at| literal_of(&events[at.index(events.len())], &field));
                    Op::In(std::iter::once(first).chain(more).chain(others).collect())
                }
                (8..10, Literal::String(text)) => Op::Contains(part_of(text, &picks, case)),
                (10.., Literal::String(text)) => {
                    let end = picks[0].index(text.chars().count() + 1);
                    Op::StartsWith(text.chars().take(end).collect())
                }
                (8, _) => Op::Contains(other),
                (10, _) => Op::StartsWith(other),
                (9 | 11.., _) => Op::Compare(comparison, first),
            };
            Filter::test(field, op)
        },
    )
}

/// Filters that say something about these events.
pub(super) fn filter(events: Arc<Vec<LogEvent>>) -> impl Strategy<Value = Filter> {
    test(events).prop_recursive(4, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::all),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::one_of),
            inner.prop_map(Filter::negated),
        ]
    })
}
