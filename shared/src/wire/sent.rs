//! Objects that clients of older shapes send, read member by member, so that all that
//! is wrong with one is told at once.

use std::fmt;

use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::time::{parse_time, parse_time_in_url};
use crate::domain::filter::{Comparison, Field, Filter, Literal};
use crate::domain::members::kind_of;
use crate::domain::time::Timestamp;

/// Why a body is no object that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoObject {
    #[error("body: malformed JSON: {0}")]
    Json(String),
    #[error("body: must be a JSON object, not {0}")]
    Other(&'static str),
    /// It is an object by the grammar of JSON, but deeper than can be read, or with a
    /// number or text that is none.
    #[error("body: cannot be read: {0}")]
    Unreadable(String),
}

/// Reads a body; an empty one is `{}`.
///
/// # Errors
/// If it is no JSON object that can be read.
pub fn object(bytes: &[u8]) -> Result<Map<String, Json>, NoObject> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(other) => Err(NoObject::Other(kind_of(&other))),
        Err(error) if is_object(bytes) => Err(NoObject::Unreadable(error.to_string())),
        Err(error) => Err(NoObject::Json(error.to_string())),
    }
}

/// Whether a text is an object by the grammar, which knows no limits.
fn is_object(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok_and(|raw| raw.get().starts_with('{'))
}

/// What was sent, to be kept: JSON, or else its text.
pub fn sent(bytes: &[u8]) -> Json {
    match object(bytes) {
        Ok(object) => Json::Object(object),
        Err(_) => {
            serde_json::from_slice(bytes).unwrap_or_else(|_| Json::String(String::from_utf8_lossy(bytes).into_owned()))
        }
    }
}

/// All that is wrong with what was sent, each with its member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<(&'static str, String)>);

impl Faults {
    /// One more.
    pub fn add(&mut self, member: &'static str, reason: impl ToString) {
        self.0.push((member, reason.to_string()));
    }

    /// # Errors
    /// If anything is wrong: what.
    pub fn check(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (member, reason)) in self.0.iter().enumerate() {
            let between = if n == 0 { "" } else { "; " };
            write!(f, "{between}{member}: {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Which members must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    All,
    /// Those that are there.
    Some,
}

/// Takes members out of an object and keeps what is wrong with them. A member comes
/// back as none where it is wrong, or may be missing and is.
pub struct Reader {
    object: Map<String, Json>,
    needs: Needs,
    pub faults: Faults,
}

impl Reader {
    pub fn new(object: Map<String, Json>, needs: Needs) -> Self {
        Self { object, needs, faults: Faults::default() }
    }

    /// A member that is of the right kind if `read` says so.
    pub fn member<T>(
        &mut self,
        name: &'static str,
        what: &str,
        read: impl FnOnce(Json) -> Result<T, Json>,
    ) -> Option<T> {
        match self.object.remove(name) {
            None if self.needs == Needs::Some => None,
            None => self.wrong(name, "is missing"),
            Some(value) => match read(value) {
                Ok(read) => Some(read),
                Err(value) => self.wrong(name, format!("must be {what}, not {}", kind_of(&value))),
            },
        }
    }

    /// A member that is wrong.
    pub fn wrong<T>(&mut self, name: &'static str, reason: impl ToString) -> Option<T> {
        self.faults.add(name, reason);
        None
    }

    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.member(name, "a string", |value| match value {
            Json::String(text) => Ok(text),
            other => Err(other),
        })
    }

    pub fn uuid(&mut self, name: &'static str) -> Option<Uuid> {
        let text = self.text(name)?;
        Uuid::try_parse(&text).ok().or_else(|| self.wrong(name, "must be a UUID"))
    }

    pub fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        parse_time(&text).map_err(|error| self.faults.add(name, error)).ok()
    }

    pub fn object(&mut self, name: &'static str) -> Option<Map<String, Json>> {
        self.member(name, "an object", |value| match value {
            Json::Object(object) => Ok(object),
            other => Err(other),
        })
    }
}

/// Tests of an event's members, read from a request's parameters. One that is empty
/// counts as not given, as in forms that are sent half filled in.
pub struct Conditions<P> {
    parameter: P,
    tests: Vec<Filter>,
    faults: Faults,
}

impl<'a, P: Fn(&str) -> Option<&'a str>> Conditions<P> {
    /// `parameter` gives the value of one.
    pub fn new(parameter: P) -> Self {
        Self { parameter, tests: Vec::new(), faults: Faults::default() }
    }

    /// A text that a member must equal.
    pub fn text(&mut self, name: &'static str, field: Field) {
        if let Some(text) = self.given(name) {
            self.add(field, Comparison::Eq, Literal::String(text.to_owned()));
        }
    }

    /// A UUID that a member must equal.
    pub fn uuid(&mut self, name: &'static str, field: Field) {
        match self.given(name).map(Uuid::try_parse) {
            None => {}
            Some(Ok(id)) => self.add(field, Comparison::Eq, Literal::String(id.to_string())),
            Some(Err(_)) => self.faults.add(name, "must be a UUID"),
        }
    }

    /// A bound of the timestamp.
    pub fn time(&mut self, name: &'static str, comparison: Comparison) {
        match self.given(name).map(parse_time_in_url) {
            None => {}
            Some(Ok(moment)) => self.add(Field::Timestamp, comparison, Literal::Time(moment)),
            Some(Err(error)) => self.faults.add(name, error),
        }
    }

    fn given(&self, name: &str) -> Option<&'a str> {
        (self.parameter)(name).filter(|text| !text.is_empty())
    }

    fn add(&mut self, field: Field, comparison: Comparison, literal: Literal) {
        self.tests.push(Filter::compare(field, comparison, literal));
    }

    /// All of them.
    ///
    /// # Errors
    /// What is wrong, each parameter named.
    pub fn all(self) -> Result<Filter, Faults> {
        self.faults.check()?;
        Ok(Filter::all(self.tests))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_an_object_or_it_is_told_what_it_is() {
        assert_eq!(object(b""), Ok(Map::new()));
        assert_eq!(object(b" \n"), Ok(Map::new()));
        assert_eq!(object(b"[1]"), Err(NoObject::Other("an array")));
        for malformed in ["{", "{}{}", "a=b", "{\"a\":\u{1}}", "\u{feff}{}"] {
            assert!(matches!(object(malformed.as_bytes()), Err(NoObject::Json(_))), "{malformed}");
        }
        assert!(matches!(object(b"{\"a\":\"\xff\"}"), Err(NoObject::Json(_))));
        let deep = [r#"{"a":"#.repeat(200), "1".into(), "}".repeat(200)].concat();
        for unreadable in [deep.as_str(), r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#] {
            assert!(matches!(object(unreadable.as_bytes()), Err(NoObject::Unreadable(_))), "{unreadable}");
            assert_eq!(sent(unreadable.as_bytes()), json!(unreadable));
        }
    }

    #[test]
    fn what_was_sent_is_kept_as_json_or_text() {
        assert_eq!(sent(b""), json!({}));
        assert_eq!(sent(b"[1]"), json!([1]));
        assert_eq!(sent(b"a=b"), json!("a=b"));
        assert_eq!(sent(b"a\xff"), json!("a\u{fffd}"));
    }

    #[test]
    fn conditions_that_are_empty_are_none() {
        let mut conditions = Conditions::new(|name: &str| (name == "category").then_some(""));
        conditions.text("category", Field::Category);
        conditions.uuid("session", Field::SessionId);
        assert_eq!(conditions.all(), Ok(Filter::Any));
    }
}
