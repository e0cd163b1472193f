//! What the members of a log event may be, and how they are changed.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::log_event::{MAX_DATA_DEPTH, MAX_EVENT_BYTES, Members};
use super::time::Timestamp;

/// Why something is no log event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    #[error("{name}: {reason}")]
    Member { name: Cow<'static, str>, reason: Cow<'static, str> },
    #[error("event: must not be longer than {MAX_EVENT_BYTES} bytes as JSON")]
    TooLong,
}

impl InvalidEvent {
    /// A member that is not what it must be.
    pub fn member(name: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Member { name: name.into(), reason: reason.into() }
    }

    /// A member that no event has. What a client sent comes back no longer than this.
    pub fn unknown(name: &str) -> Self {
        let shown: String = name.chars().take(64).collect();
        Self::member(shown, "is no member of an event")
    }
}

/// Members that can be stored everywhere, and their JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    members: Members,
    json: Bytes,
}

impl Checked {
    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn into_members(self) -> Members {
        self.members
    }

    /// The members as JSON, as they are stored.
    pub fn json(&self) -> &Bytes {
        &self.json
    }
}

impl Members {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// If `data` or `ce` is too deep or has a name with NUL, or all of it is too long.
    pub fn check(self) -> Result<Checked, InvalidEvent> {
        for (name, object) in [("data", &self.data), ("ce", &self.ce)] {
            if let Some(object) = object {
                check_object(object, MAX_DATA_DEPTH).map_err(|reason| InvalidEvent::member(name, reason))?;
            }
        }
        let json = serde_json::to_vec(&self).expect("texts, numbers and JSON are always JSON");
        if json.len() > MAX_EVENT_BYTES {
            return Err(InvalidEvent::TooLong);
        }
        Ok(Checked { members: self, json: json.into() })
    }

    /// Gives a member a value; null takes it away.
    ///
    /// # Errors
    /// If no such member can be set, or not to that.
    pub fn set(&mut self, name: &str, value: Json) -> Result<(), InvalidEvent> {
        match name {
            "timestamp" => self.timestamp = time(value)?,
            "name" => self.name = text("name", value)?,
            "category" => self.category = text("category", value)?,
            "component" => self.component = text("component", value)?,
            "environment" => self.environment = text("environment", value)?,
            "message" => self.message = text("message", value)?,
            "email" => self.email = text("email", value)?,
            "customer_id" => self.customer_id = integer("customer_id", value)?,
            "session_id" => self.session_id = uuid("session_id", value)?,
            "source" => self.source = text("source", value)?,
            "data" => self.data = object("data", value)?,
            "ce" => self.ce = object("ce", value)?,
            "id" => return Err(InvalidEvent::member("id", "is given by the service and cannot be set")),
            "created_at" => {
                return Err(InvalidEvent::member("created_at", "is given by the service and cannot be set"));
            }
            _ => return Err(InvalidEvent::unknown(name)),
        }
        Ok(())
    }

    /// Changes the members by a merge patch (RFC 7396).
    ///
    /// # Errors
    /// As `set`.
    pub fn merge(&mut self, patch: &Map<String, Json>) -> Result<(), InvalidEvent> {
        for (name, value) in patch {
            let target = match name.as_str() {
                "data" => self.data.take(),
                "ce" => self.ce.take(),
                _ => None,
            };
            let value = match value {
                Json::Object(patch) => Json::Object(merged(target, patch)),
                other => other.clone(),
            };
            self.set(name, value)?;
        }
        Ok(())
    }
}

fn merged(target: Option<Map<String, Json>>, patch: &Map<String, Json>) -> Map<String, Json> {
    let mut target = target.unwrap_or_default();
    for (name, value) in patch {
        match value {
            Json::Null => drop(target.remove(name)),
            Json::Object(patch) => {
                let inner = match target.remove(name) {
                    Some(Json::Object(inner)) => Some(inner),
                    _ => None,
                };
                target.insert(name.clone(), Json::Object(merged(inner, patch)));
            }
            other => drop(target.insert(name.clone(), other.clone())),
        }
    }
    target
}

/// Checks the levels of an object, itself counted, and its names.
///
/// # Errors
/// What is wrong.
pub fn check_object(object: &Map<String, Json>, levels: usize) -> Result<(), &'static str> {
    let Some(below) = levels.checked_sub(1) else { return Err(TOO_DEEP) };
    for (name, value) in object {
        if name.contains('\0') {
            return Err("must not have names with NUL");
        }
        check_value(value, below)?;
    }
    Ok(())
}

/// The same for any value, of which only objects and arrays are levels.
///
/// # Errors
/// What is wrong.
pub fn check_value(value: &Json, levels: usize) -> Result<(), &'static str> {
    match value {
        Json::Object(object) => check_object(object, levels),
        Json::Array(values) => {
            let below = levels.checked_sub(1).ok_or(TOO_DEEP)?;
            values.iter().try_for_each(|value| check_value(value, below))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Ok(()),
    }
}

const TOO_DEEP: &str = "must not have more than 32 levels";
const _: () = assert!(MAX_DATA_DEPTH == 32, "the text says 32");

/// What a value is, for those who expected something else.
pub fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

fn expected(name: &'static str, what: &str, value: &Json) -> InvalidEvent {
    InvalidEvent::member(name, format!("must be {what}, not {}", kind_of(value)))
}

fn text(name: &'static str, value: Json) -> Result<Option<String>, InvalidEvent> {
    match value {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text)),
        other => Err(expected(name, "a string", &other)),
    }
}

fn integer(name: &'static str, value: Json) -> Result<Option<i64>, InvalidEvent> {
    match value {
        Json::Null => Ok(None),
        Json::Number(number) => {
            number.as_i64().map(Some).ok_or_else(|| InvalidEvent::member(name, "must be a whole number of 64 bits"))
        }
        other => Err(expected(name, "a whole number", &other)),
    }
}

fn uuid(name: &'static str, value: Json) -> Result<Option<Uuid>, InvalidEvent> {
    match value {
        Json::Null => Ok(None),
        Json::String(text) => {
            Uuid::try_parse(&text).map(Some).map_err(|_| InvalidEvent::member(name, "must be a UUID"))
        }
        other => Err(expected(name, "a UUID", &other)),
    }
}

fn object(name: &'static str, value: Json) -> Result<Option<Map<String, Json>>, InvalidEvent> {
    match value {
        Json::Null => Ok(None),
        Json::Object(object) => Ok(Some(object)),
        other => Err(expected(name, "an object", &other)),
    }
}

fn time(value: Json) -> Result<Timestamp, InvalidEvent> {
    match value {
        Json::Null => Err(InvalidEvent::member("timestamp", "cannot be taken away")),
        Json::String(text) => {
            Timestamp::parse(&text).map_err(|error| InvalidEvent::member("timestamp", error.to_string()))
        }
        other => Err(expected("timestamp", "a time", &other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(json: Json) -> Map<String, Json> {
        serde_json::from_value(json).expect("an object")
    }

    fn with_data(data: Json) -> Members {
        Members { data: Some(map(data)), ..Members::default() }
    }

    fn nested(levels: usize) -> Json {
        (1..levels).fold(json!({}), |inner, _| json!({ "a": inner }))
    }

    #[test]
    fn data_has_32_levels_and_no_nul_in_names() {
        assert!(with_data(nested(32)).check().is_ok());
        let error = |members: Members| members.check().map(drop).map_err(|error| error.to_string());
        assert_eq!(error(with_data(nested(33))), Err("data: must not have more than 32 levels".into()));
        assert!(with_data(json!({ "a": (1..31).fold(json!([]), |inner, _| json!([inner])) })).check().is_ok());
        assert!(with_data(json!({ "a": (0..31).fold(json!([]), |inner, _| json!([inner])) })).check().is_err());
        assert_eq!(error(with_data(json!({ "a": [{ "b\0": 1 }] }))), Err("data: must not have names with NUL".into()));
        let ce = Members { ce: Some(map(json!({ "\0": 1 }))), ..Members::default() };
        assert_eq!(error(ce), Err("ce: must not have names with NUL".into()));
    }

    #[test]
    fn an_event_is_512_kib_long_at_most() {
        let empty = Members { name: Some(String::new()), ..Members::default() }.check().expect("short").json().len();
        let named = |length: usize| Members { name: Some("x".repeat(length)), ..Members::default() }.check();
        assert!(named(MAX_EVENT_BYTES - empty).is_ok());
        assert_eq!(named(MAX_EVENT_BYTES - empty + 1), Err(InvalidEvent::TooLong));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_member() {
        let error = |name: &str, value: Json| Members::default().set(name, value).expect_err("refused").to_string();
        assert_eq!(error("name", json!(7)), "name: must be a string, not a number");
        assert_eq!(error("customer_id", json!(1.0)), "customer_id: must be a whole number of 64 bits");
        assert_eq!(error("customer_id", json!(u64::MAX)), "customer_id: must be a whole number of 64 bits");
        assert_eq!(error("customer_id", json!("7")), "customer_id: must be a whole number, not a string");
        assert_eq!(error("session_id", json!("x")), "session_id: must be a UUID");
        assert_eq!(error("data", json!([])), "data: must be an object, not an array");
        assert!(error("timestamp", json!("yesterday")).starts_with("timestamp: not a time such as "));
        assert_eq!(error("timestamp", Json::Null), "timestamp: cannot be taken away");
        assert_eq!(error("id", json!("x")), "id: is given by the service and cannot be set");
        assert_eq!(error("created_at", Json::Null), "created_at: is given by the service and cannot be set");
        assert_eq!(error("nmae", json!("x")), "nmae: is no member of an event");
        assert_eq!(error(&"ä".repeat(1000), Json::Null), format!("{}: is no member of an event", "ä".repeat(64)));
    }

    /// The examples of RFC 7396, appendix A, that have an object to patch.
    #[test]
    fn a_merge_patch_merges_as_its_rfc_says() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut members = with_data(target);
            members.merge(&map(json!({ "data": patch }))).expect("valid");
            assert_eq!(members.data, Some(map(result)));
        }
    }

    #[test]
    fn a_merge_patch_takes_members_away() {
        let mut members = Members { name: Some("a".into()), customer_id: Some(1), ..with_data(json!({ "a": 1 })) };
        members.merge(&map(json!({ "name": null, "data": null, "email": "e" }))).expect("valid");
        assert_eq!(members, Members { customer_id: Some(1), email: Some("e".into()), ..Members::default() });
        assert!(members.merge(&map(json!({ "name": { "a": 1 } }))).is_err());
    }
}
