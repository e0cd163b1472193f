//! Log events as clients send them natively: one, an array of them, or one a line.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::log_event::{Amendment, Members};
use crate::domain::members::{InvalidEvent, kind_of};
use crate::domain::time::Timestamp;

/// The most events in one body.
pub const MAX_ELEMENTS: usize = 10_000;

/// Why a body does not hold events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvents {
    #[error("body: malformed JSON: {0}")]
    Json(String),
    #[error("body: must not hold more than {MAX_ELEMENTS} events")]
    TooMany,
}

/// One of the events in a body, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its place in the body, from 0; blank lines are counted.
    pub index: usize,
    pub text: &'a [u8],
}

/// The events in a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Elements<'a> {
    /// The body is an event, or should be one.
    One(&'a [u8]),
    Many(Vec<Element<'a>>),
}

impl<'a> Elements<'a> {
    /// A body of JSON: an event, or an array of them.
    ///
    /// # Errors
    /// If an array is no JSON, or too many are in it.
    pub fn of_json(body: &'a [u8]) -> Result<Self, BadEvents> {
        if body.trim_ascii_start().first() != Some(&b'[') {
            return Ok(Self::One(body));
        }
        let mut texts = Vec::new();
        let mut json = serde_json::Deserializer::from_slice(body);
        let read = Texts(&mut texts).deserialize(&mut json).and_then(|()| json.end());
        if texts.len() > MAX_ELEMENTS {
            return Err(BadEvents::TooMany);
        }
        read.map_err(|error| BadEvents::Json(error.to_string()))?;
        let element = |(index, text): (usize, &'a RawValue)| Element { index, text: text.get().as_bytes() };
        Ok(Self::Many(texts.into_iter().enumerate().map(element).collect()))
    }

    /// A body of lines, each an event; blank ones are only counted.
    ///
    /// # Errors
    /// If there are too many.
    pub fn of_lines(body: &'a [u8]) -> Result<Self, BadEvents> {
        let mut elements = Vec::new();
        let (mut start, mut index) = (0, 0);
        while start < body.len() {
            let end = memchr::memchr(b'\n', &body[start..]).map_or(body.len(), |length| start + length);
            let text = body[start..end].trim_ascii();
            if !text.is_empty() {
                elements.push(Element { index, text });
            }
            if elements.len() > MAX_ELEMENTS {
                return Err(BadEvents::TooMany);
            }
            (start, index) = (end + 1, index + 1);
        }
        Ok(Self::Many(elements))
    }
}

/// Takes the texts in an array, and no more of them than are let through.
struct Texts<'a, 'de>(&'a mut Vec<&'de RawValue>);

impl<'de> DeserializeSeed<'de> for Texts<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(text) = array.next_element()? {
            self.0.push(text);
            if self.0.len() > MAX_ELEMENTS {
                return Err(A::Error::custom("too many"));
            }
        }
        Ok(())
    }
}

/// The members of an event, straight from its text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBody<'a> {
    #[serde(borrow, default)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    component: Option<String>,
    #[serde(default)]
    environment: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    customer_id: Option<i64>,
    #[serde(default)]
    session_id: Option<Uuid>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    data: Option<Map<String, Json>>,
    #[serde(default)]
    ce: Option<Map<String, Json>>,
}

/// Reads an event; without a time of its own it happened `now`.
///
/// # Errors
/// If it is no JSON object, or a member is unknown or not what it must be.
pub fn read_event(text: &[u8], now: Timestamp) -> Result<Members, InvalidEvent> {
    // serde would take an array for the members in their order.
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    let read = is_object.then(|| serde_json::from_slice(text).ok()).flatten();
    match read.and_then(|body| members(body, now)) {
        Some(members) => Ok(members),
        None => read_slowly(text, now),
    }
}

fn members(body: EventBody<'_>, now: Timestamp) -> Option<Members> {
    let timestamp = body.timestamp.map_or(Some(now), |text| Timestamp::parse(&text).ok())?;
    Some(Members {
        timestamp,
        name: body.name,
        category: body.category,
        component: body.component,
        environment: body.environment,
        message: body.message,
        email: body.email,
        customer_id: body.customer_id,
        session_id: body.session_id,
        source: body.source,
        data: body.data,
        ce: body.ce,
    })
}

/// Finds out what exactly is wrong, if anything is.
fn read_slowly(text: &[u8], now: Timestamp) -> Result<Members, InvalidEvent> {
    let mut members = Members { timestamp: now, ..Members::default() };
    for (name, value) in object("event", text)? {
        match (name.as_str(), value) {
            // A missing member is null, and the other way round.
            ("timestamp", Json::Null) => {}
            (name, value) => members.set(name, value)?,
        }
    }
    Ok(members)
}

/// The members of a JSON object, which is called by a name in errors.
///
/// # Errors
/// If it is none.
pub(super) fn object(called: &'static str, text: &[u8]) -> Result<Map<String, Json>, InvalidEvent> {
    match serde_json::from_slice(text) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(other) => Err(InvalidEvent::member(called, format!("must be a JSON object, not {}", kind_of(&other)))),
        Err(error) => Err(InvalidEvent::member(called, format!("malformed JSON: {error}"))),
    }
}

/// Reads the merge patch of an event.
///
/// # Errors
/// If it is no JSON object.
pub fn read_patch(body: &[u8]) -> Result<Amendment, InvalidEvent> {
    object("body", body).map(Amendment::Merge)
}

/// Reads the body of a new session, which need not be there and says nothing yet.
///
/// # Errors
/// If it is there and no empty JSON object.
pub fn read_session(body: &[u8]) -> Result<(), InvalidEvent> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    match object("body", body)?.keys().next() {
        Some(name) => {
            let name: String = name.chars().take(64).collect();
            Err(InvalidEvent::member(name, "is no member of a session that can be set"))
        }
        None => Ok(()),
    }
}

/// What became of the events in a body.
#[derive(Serialize, ToSchema)]
#[schema(as = Recorded)]
pub struct RecordedJson {
    pub accepted: usize,
    /// Of those that are stored, in their order.
    pub ids: Vec<Uuid>,
    pub rejected: Vec<RejectedJson>,
}

/// An event of a body that is not stored.
#[derive(Serialize, ToSchema)]
#[schema(as = RejectedElement)]
pub struct RejectedJson {
    /// Its place in the body, from 0; blank lines are counted.
    pub index: usize,
    pub error: String,
}

/// A session that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = NewSession)]
pub struct NewSessionJson {
    pub id: Uuid,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_micros(0)
    }

    fn event(text: &str) -> Result<Members, String> {
        read_event(text.as_bytes(), now()).map_err(|error| error.to_string())
    }

    fn indexes(elements: Result<Elements<'_>, BadEvents>) -> Vec<usize> {
        match elements.expect("elements") {
            Elements::Many(all) => all.iter().map(|element| element.index).collect(),
            Elements::One(_) => panic!("one"),
        }
    }

    #[test]
    fn an_event_is_read() {
        let text = r#"{"timestamp":"2018-01-01 00:00:00.0000019","name":"ünï\u0000","category":"c","component":"k",
            "environment":"e","message":"m","email":"a@b.c","customer_id":-9223372036854775808,
            "session_id":"67E55044-10B1-426F-9247-BB680E5FE0C8","source":"s","data":{"a":[1.5,null]},"ce":{"id":"1"}}"#;
        let members = event(text).expect("valid");
        assert_eq!(members.timestamp, Timestamp::from_micros(1_514_764_800_000_001));
        assert_eq!(members.name.as_deref(), Some("ünï\0"));
        assert_eq!(members.customer_id, Some(i64::MIN));
        assert_eq!(members.session_id, Some(Uuid::from_u128(0x67e55044_10b1_426f_9247_bb680e5fe0c8)));
        assert_eq!(json!(members.data), json!({ "a": [1.5, null] }));
        assert_eq!(event("{}"), Ok(Members { timestamp: now(), ..Members::default() }));
        assert_eq!(event(r#"{"timestamp":null,"name":null,"data":null}"#), event("{}"));
        // Of members that are given twice the last counts, as everywhere.
        assert_eq!(event(r#"{"name":"a","name":"b"}"#), event(r#"{"name":"b"}"#));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_member() {
        for (text, error) in [
            ("7", "event: must be a JSON object, not a number"),
            ("[\"2018-01-01\"]", "event: must be a JSON object, not an array"),
            (r#"{"name":7}"#, "name: must be a string, not a number"),
            (r#"{"id":"x"}"#, "id: is given by the service and cannot be set"),
            (r#"{"created_at":null}"#, "created_at: is given by the service and cannot be set"),
            (r#"{"nmae":"x"}"#, "nmae: is no member of an event"),
            (r#"{"session_id":"x"}"#, "session_id: must be a UUID"),
            (r#"{"data":"x"}"#, "data: must be an object, not a string"),
            (r#"{"customer_id":1e3}"#, "customer_id: must be a whole number of 64 bits"),
        ] {
            assert_eq!(event(text), Err(error.into()), "{text}");
        }
        assert!(event("{").expect_err("cut off").starts_with("event: malformed JSON: "));
        assert!(event("").expect_err("empty").starts_with("event: malformed JSON: "));
        assert!(event(r#"{"timestamp":"now"}"#).expect_err("no time").starts_with("timestamp: not a time"));
        assert!(event(&format!(r#"{{"data":{}1{}}}"#, "[".repeat(200), "]".repeat(200))).is_err());
    }

    #[test]
    fn elements_are_counted() {
        assert_eq!(Elements::of_json(b" {}"), Ok(Elements::One(b" {}")));
        assert_eq!(Elements::of_json(b""), Ok(Elements::One(b"")));
        assert_eq!(indexes(Elements::of_json(b" [{}, 1 ,[[]]] ")), [0, 1, 2]);
        assert_eq!(indexes(Elements::of_json(b"[]")), [0; 0]);
        assert_eq!(indexes(Elements::of_lines(b"{}\r\n\n  \n{\n1")), [0, 3, 4]);
        for bad in ["[", "[1,]", "[1]]", "[1] x", "[\"\u{1}\"]"] {
            assert!(matches!(Elements::of_json(bad.as_bytes()), Err(BadEvents::Json(_))), "{bad}");
        }
        let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert_eq!(indexes(Elements::of_json(many(MAX_ELEMENTS).as_bytes())).len(), MAX_ELEMENTS);
        assert_eq!(Elements::of_json(many(MAX_ELEMENTS + 1).as_bytes()), Err(BadEvents::TooMany));
        // What comes behind the last that is let through is not looked at.
        assert_eq!(Elements::of_json(format!("[{}", "1,".repeat(20_000)).as_bytes()), Err(BadEvents::TooMany));
        assert_eq!(indexes(Elements::of_lines("1\n".repeat(MAX_ELEMENTS).as_bytes())).len(), MAX_ELEMENTS);
        assert_eq!(Elements::of_lines("1\n".repeat(MAX_ELEMENTS + 1).as_bytes()), Err(BadEvents::TooMany));
        assert_eq!(indexes(Elements::of_lines("\n".repeat(2 * MAX_ELEMENTS).as_bytes())), [0; 0]);
    }

    #[test]
    fn a_session_has_no_members_to_set() {
        for good in ["", " ", "{}", " { } "] {
            assert_eq!(read_session(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in ["x", "[]", "null", r#"{"id":"x"}"#] {
            assert!(read_session(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Both ways to read an event mean the same.
        #[test]
        fn the_fast_way_and_the_slow_way_agree(text in super::super::arbitrary::event_text()) {
            let fast = read_event(text.as_bytes(), now());
            prop_assert_eq!(fast, read_slowly(text.as_bytes(), now()));
        }

        #[test]
        fn nothing_panics(body in super::super::arbitrary::body()) {
            let _ = read_patch(&body);
            let _ = read_session(&body);
            for elements in [Elements::of_json(&body), Elements::of_lines(&body)].into_iter().flatten() {
                match elements {
                    Elements::One(text) => drop(read_event(text, now())),
                    Elements::Many(all) => all.iter().for_each(|element| drop(read_event(element.text, now()))),
                }
            }
        }
    }
}
