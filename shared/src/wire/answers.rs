//! The shapes of answers: bodies of commands, answers, events of a history and
//! the lines of a batch.

pub mod shapes;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::history::{Detail, ElementJson, EventDetail};
use crate::domain::answer::{
    Answer, AnswerCommand, AnswerEvent, Ask, Condition, InvalidKey, InvalidValue, Key, UnreadableEvent, Value,
};
use crate::domain::stream::RecordedEvent;

/// Why a body is no command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    #[error("body: malformed JSON: {0}")]
    Json(String),
    #[error("body: must be a JSON object")]
    NoObject,
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("value: {0}")]
    TooLarge(InvalidValue),
}

impl BadBody {
    pub(super) fn field(field: &'static str, reason: impl ToString) -> Self {
        Self::Field { field, reason: reason.to_string() }
    }
}

/// The members that commands have in their bodies.
#[derive(Deserialize, Default)]
pub struct AnswerBody<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    value: Option<Cow<'a, str>>,
}

/// A text as it lies in the body, unless something in it is escaped: of an `Option<Cow<str>>`
/// serde always makes a copy.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Text>::deserialize(from)?.map(|Text(text)| text))
}

impl<'a> AnswerBody<'a> {
    /// Reads a body; members with other names are ignored.
    ///
    /// # Errors
    /// If it is no JSON object or one of the members is no string.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadBody> {
        // serde would take an array for the members in their order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Self::parse_slowly(bytes);
        }
        serde_json::from_slice(bytes).or_else(|_| Self::parse_slowly(bytes))
    }

    /// Finds out what exactly is wrong, if anything is.
    fn parse_slowly(bytes: &[u8]) -> Result<Self, BadBody> {
        use serde_json::Value as Json;
        let json: Json = serde_json::from_slice(bytes).map_err(|error| BadBody::Json(error.to_string()))?;
        let Json::Object(mut members) = json else { return Err(BadBody::NoObject) };
        let mut text = |field| match members.remove(field) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(Cow::Owned(text))),
            Some(other) => Err(BadBody::field(field, format!("must be a string, not {}", kind_of(&other)))),
        };
        // A line of a batch alone has an op; elsewhere that name means nothing.
        Ok(Self { key: text("key")?, value: text("value")?, op: text("op").unwrap_or_default() })
    }

    /// The key that the body must have.
    ///
    /// # Errors
    /// If it is missing or no key.
    pub fn key(&self) -> Result<Key, BadBody> {
        let text = self.key.as_deref().ok_or_else(|| BadBody::field("key", "is missing"))?;
        Key::parse(text).map_err(|error: InvalidKey| BadBody::field("key", error))
    }

    /// Checks that a key in the body, if there is one, is the path's.
    ///
    /// # Errors
    /// If it is another one.
    pub fn agrees_with(&self, key: &Key) -> Result<(), BadBody> {
        match self.key.as_deref() {
            Some(text) if text != key.as_str() => Err(BadBody::field("key", "differs from the key in the path")),
            _ => Ok(()),
        }
    }

    /// The value that the body must have.
    ///
    /// # Errors
    /// If it is missing or no value.
    pub fn value(&self) -> Result<Value, BadBody> {
        let text = self.value.as_deref().ok_or_else(|| BadBody::field("value", "is missing"))?;
        Value::parse(text).map_err(|error| match error {
            InvalidValue::Empty => BadBody::field("value", error),
            InvalidValue::TooLong => BadBody::TooLarge(error),
        })
    }

    /// The command of a line of a batch.
    ///
    /// # Errors
    /// If the line lacks something or has something bad.
    pub fn command(&self) -> Result<AnswerCommand, BadBody> {
        let op = self.op.as_deref().ok_or_else(|| BadBody::field("op", "is missing"))?;
        let ask = match op {
            "create" => Ask::Create(self.value()?),
            "update" => Ask::Update(self.value()?),
            "put" => Ask::Put(self.value()?),
            "delete" => Ask::Delete,
            _ => return Err(BadBody::field("op", "must be create, update, put or delete")),
        };
        Ok(AnswerCommand { key: self.key()?, ask, condition: Condition::default() })
    }
}

fn kind_of(json: &serde_json::Value) -> &'static str {
    use serde_json::Value as Json;
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

/// An answer as clients see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Answer)]
pub struct AnswerJson<'a> {
    #[schema(example = "name")]
    pub key: &'a str,
    #[schema(example = "john")]
    pub value: &'a str,
}

impl<'a> From<&'a Answer> for AnswerJson<'a> {
    fn from(answer: &'a Answer) -> Self {
        Self { key: answer.key.as_str(), value: &answer.value }
    }
}

/// A page of answers.
#[derive(Serialize, ToSchema)]
#[schema(as = AnswersPage)]
pub struct AnswersJson<'a> {
    pub answers: Vec<AnswerJson<'a>>,
    /// The `cursor` of the page that follows; null at the end.
    pub next: Option<String>,
}

/// Writes an event as an element of a history.
///
/// # Errors
/// If the event cannot be read.
pub fn write_event(recorded: &RecordedEvent, detail: Detail, into: &mut Vec<u8>) -> Result<(), UnreadableEvent> {
    let event = AnswerEvent::from_recorded(recorded)?;
    let data = AnswerJson { key: event.key().as_str(), value: event.value().map_or("", |value| value) };
    let detail = EventDetail::of(recorded, event.kind().verb(), detail);
    serde_json::to_writer(into, &ElementJson { kind: event.kind().name(), data, detail })?;
    Ok(())
}

/// A line of a batch's response.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchResult)]
pub struct LineJson<'a> {
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ok: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub position: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(body: &str) -> String {
        let parsed = AnswerBody::parse(body.as_bytes());
        parsed.and_then(|body| body.key().and(body.value()).map(drop)).expect_err(body).to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        assert!(bad("{").starts_with("body: malformed JSON: EOF while parsing"), "{}", bad("{"));
        assert_eq!(bad("[]"), "body: must be a JSON object");
        assert_eq!(bad("{}"), "key: is missing");
        assert_eq!(bad(r#"{"key":null,"value":"v"}"#), "key: is missing");
        assert_eq!(bad(r#"{"key":7,"value":"v"}"#), "key: must be a string, not a number");
        assert_eq!(bad(r#"{"key":"","value":"v"}"#), "key: must not be empty");
        assert_eq!(bad(r#"{"key":"k"}"#), "value: is missing");
        assert_eq!(bad(r#"{"key":"k","value":""}"#), "value: must not be empty");
        assert_eq!(bad(r#"{"key":"k","value":["v"]}"#), "value: must be a string, not an array");
        assert!(bad(r#"{"key":"k","value":"\ud800"}"#).starts_with("body: malformed JSON"));
    }

    #[test]
    fn other_members_are_ignored_and_the_last_of_a_name_counts() {
        let body = AnswerBody::parse(br#"{"key":"a","x":{"y":[1]},"op":7,"key":"b","value":"v"}"#).expect("valid");
        assert_eq!(body.key().expect("a key").as_str(), "b");
        assert_eq!(body.value().expect("a value").as_str(), "v");
    }

    #[test]
    fn a_line_has_an_op() {
        let line =
            |text: &str| AnswerBody::parse(text.as_bytes()).and_then(|body| body.command()).map_err(|e| e.to_string());
        assert_eq!(line(r#"{"op":"delete","key":"k"}"#).expect("valid").ask, Ask::Delete);
        assert_eq!(line(r#"{"key":"k"}"#).expect_err("no op"), "op: is missing");
        assert_eq!(
            line(r#"{"op":"drop","key":"k"}"#).expect_err("bad op"),
            "op: must be create, update, put or delete"
        );
        assert_eq!(line(r#"{"op":"put","key":"k"}"#).expect_err("no value"), "value: is missing");
    }
}
