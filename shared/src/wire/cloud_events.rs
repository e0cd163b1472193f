//! CloudEvents 1.0: structured, in batches, and binary, where the attributes are
//! headers and the body is the data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json};

use super::new_events::object;
use crate::domain::log_event::Members;
use crate::domain::members::{InvalidEvent, kind_of};
use crate::domain::time::Timestamp;

/// Attributes that every CloudEvent has.
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];
/// Attributes that are texts wherever they are.
const TEXTS: [&str; 7] = ["id", "source", "specversion", "type", "subject", "datacontenttype", "dataschema"];

/// Reads a structured CloudEvent; without a time of its own it happened `now`.
///
/// # Errors
/// If it is no CloudEvent of version 1.0.
pub fn read_structured(text: &[u8], now: Timestamp) -> Result<Members, InvalidEvent> {
    let mut attributes = object("event", text)?;
    let data = match (attributes.remove("data"), attributes.remove("data_base64")) {
        (None | Some(Json::Null), None | Some(Json::Null)) => None,
        (Some(data), None | Some(Json::Null)) => Some(as_object(data)),
        (None | Some(Json::Null), Some(Json::String(text))) => match STANDARD.decode(&text) {
            Ok(_) => Some(only("base64", Json::String(text))),
            Err(_) => return Err(InvalidEvent::member("data_base64", "must be base64")),
        },
        (None | Some(Json::Null), Some(other)) => {
            return Err(InvalidEvent::member("data_base64", format!("must be a string, not {}", kind_of(&other))));
        }
        (Some(_), Some(_)) => return Err(InvalidEvent::member("data_base64", "must not be given together with data")),
    };
    members(attributes, data, now)
}

/// Reads a binary CloudEvent: its attributes by their names without `ce-`, as headers
/// have them, the type of its data, and the data.
///
/// # Errors
/// If it is no CloudEvent of version 1.0, or its data is not of its type.
pub fn read_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    content_type: Option<&str>,
    body: &[u8],
    now: Timestamp,
) -> Result<Members, InvalidEvent> {
    let mut attributes = Map::new();
    for (name, value) in headers {
        let header = || format!("ce-{name}");
        let text = std::str::from_utf8(value).ok().map(|text| percent_decode_str(text).decode_utf8());
        let Some(Ok(text)) = text else { return Err(InvalidEvent::member(header(), "must be UTF-8")) };
        if name == "datacontenttype" || name == "data" || name == "data_base64" {
            return Err(InvalidEvent::member(header(), "is no header of a CloudEvent"));
        }
        if attributes.insert(name.to_owned(), Json::String(text.into_owned())).is_some() {
            return Err(InvalidEvent::member(header(), "must not be given twice"));
        }
    }
    if let Some(content_type) = content_type {
        attributes.insert("datacontenttype".into(), content_type.into());
    }
    let data = match content_type {
        _ if body.is_empty() => None,
        Some(content_type) if is_json(content_type) => {
            let malformed = |error| InvalidEvent::member("data", format!("malformed JSON: {error}"));
            Some(as_object(serde_json::from_slice(body).map_err(malformed)?))
        }
        _ => Some(only("base64", Json::String(STANDARD.encode(body)))),
    };
    members(attributes, data, now)
}

/// The type of a media type, in lower case and without its parameters.
pub fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

fn members(
    mut attributes: Map<String, Json>,
    data: Option<Map<String, Json>>,
    now: Timestamp,
) -> Result<Members, InvalidEvent> {
    // An attribute that is null is not there.
    attributes.retain(|_, value| !value.is_null());
    for (name, value) in &attributes {
        check(name, value)?;
    }
    if let Some(missing) = REQUIRED.into_iter().find(|name| !attributes.contains_key(*name)) {
        let reason = "is missing; a CloudEvent has id, source, specversion and type";
        return Err(InvalidEvent::member(missing, reason));
    }
    if attributes.get("specversion").and_then(Json::as_str) != Some("1.0") {
        return Err(InvalidEvent::member("specversion", "must be 1.0"));
    }
    let mut members = Members { timestamp: now, data, ..Members::default() };
    for (attribute, member) in [("type", "name"), ("source", "source")] {
        members.set(member, attributes.remove(attribute).unwrap_or_default())?;
    }
    if let Some(time) = attributes.remove("time") {
        let no_time = |error| InvalidEvent::member("time", error);
        members.timestamp = match time {
            Json::String(text) => Timestamp::parse(&text).map_err(|error| no_time(error.to_string()))?,
            other => return Err(no_time(format!("must be a time, not {}", kind_of(&other)))),
        };
    }
    members.ce = Some(attributes);
    Ok(members)
}

/// Checks an attribute: its name has small letters and digits, its value no parts.
fn check(name: &str, value: &Json) -> Result<(), InvalidEvent> {
    let shown = || name.chars().take(64).collect::<String>();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(InvalidEvent::member(shown(), "is no name of an attribute: these have a to z and 0 to 9 only"));
    }
    let is_text = TEXTS.contains(&name);
    match value {
        Json::String(text) if is_text && text.is_empty() => Err(InvalidEvent::member(shown(), "must not be empty")),
        Json::String(_) => Ok(()),
        Json::Bool(_) | Json::Number(_) if !is_text => Ok(()),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
            let expected = if is_text { "a string" } else { "a string, number or boolean" };
            Err(InvalidEvent::member(shown(), format!("must be {expected}, not {}", kind_of(value))))
        }
    }
}

fn as_object(data: Json) -> Map<String, Json> {
    match data {
        Json::Object(object) => object,
        other => only("value", other),
    }
}

fn only(name: &str, value: Json) -> Map<String, Json> {
    Map::from_iter([(name.to_owned(), value)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_micros(0)
    }

    fn structured(event: &Json) -> Result<Members, String> {
        read_structured(event.to_string().as_bytes(), now()).map_err(|error| error.to_string())
    }

    fn event(more: Json) -> Json {
        let mut event = json!({ "specversion": "1.0", "id": "a-1", "source": "/s", "type": "t.made" });
        event.as_object_mut().expect("an object").append(&mut serde_json::from_value(more).expect("an object"));
        event
    }

    fn binary(headers: &[(&str, &str)], content_type: Option<&str>, body: &[u8]) -> Result<Members, String> {
        let required = [("id", "a-1"), ("source", "/s"), ("specversion", "1.0"), ("type", "t.made")];
        let headers = required.iter().chain(headers).map(|(name, value)| (*name, value.as_bytes()));
        read_binary(headers, content_type, body, now()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_structured_event_is_read() {
        let members = structured(&event(json!({
            "time": "2018-04-05T17:31:00.1234567Z", "subject": "x", "datacontenttype": "application/json",
            "dataschema": "https://s", "extension": 7, "flag": true, "gone": null, "data": { "a": 1 },
        })))
        .expect("valid");
        assert_eq!(members.name.as_deref(), Some("t.made"));
        assert_eq!(members.source.as_deref(), Some("/s"));
        assert_eq!(members.timestamp, "2018-04-05T17:31:00.123456Z".parse().expect("a time"));
        assert_eq!(json!(members.data), json!({ "a": 1 }));
        assert_eq!(
            json!(members.ce),
            json!({
                "id": "a-1", "specversion": "1.0", "subject": "x", "datacontenttype": "application/json",
                "dataschema": "https://s", "extension": 7, "flag": true,
            })
        );
        assert_eq!(structured(&event(json!({}))).expect("valid").timestamp, now());
    }

    #[test]
    fn data_that_is_no_object_becomes_one() {
        let data = |more: Json| structured(&event(more)).map(|members| json!(members.data));
        assert_eq!(data(json!({})), Ok(Json::Null));
        for value in [json!("text"), json!(7), json!([1]), json!(false)] {
            assert_eq!(data(json!({ "data": value })), Ok(json!({ "value": value })));
        }
        assert_eq!(data(json!({ "data_base64": "aGk=" })), Ok(json!({ "base64": "aGk=" })));
        for bad in [json!({ "data_base64": "?" }), json!({ "data_base64": 7 }), json!({ "data_base64": "", "data": 1 })]
        {
            assert!(data(bad).expect_err("refused").starts_with("data_base64: "));
        }
    }

    #[test]
    fn what_is_no_cloud_event_is_refused() {
        for name in REQUIRED {
            let mut without = event(json!({}));
            without.as_object_mut().expect("an object").remove(name);
            let error = format!("{name}: is missing; a CloudEvent has id, source, specversion and type");
            assert_eq!(structured(&without), Err(error));
        }
        for (more, error) in [
            (json!({ "specversion": "0.3" }), "specversion: must be 1.0"),
            (json!({ "id": "" }), "id: must not be empty"),
            (json!({ "type": 7 }), "type: must be a string, not a number"),
            (json!({ "extension": {} }), "extension: must be a string, number or boolean, not an object"),
            (json!({ "created_at": "x" }), "created_at: is no name of an attribute: these have a to z and 0 to 9 only"),
        ] {
            assert_eq!(structured(&event(more)), Err(error.into()));
        }
        assert!(structured(&event(json!({ "time": "now" }))).expect_err("no time").starts_with("time: not a time"));
        assert_eq!(structured(&json!([])), Err("event: must be a JSON object, not an array".into()));
    }

    #[test]
    fn a_binary_event_is_read() {
        let headers = [("time", "2018-04-05T17:31:00Z"), ("subject", "Euro%20%E2%82%AC"), ("rowid", "7")];
        let members = binary(&headers, Some("application/vnd.x+json; charset=utf-8"), b"{\"a\":1}").expect("valid");
        assert_eq!(members.timestamp, "2018-04-05T17:31:00Z".parse().expect("a time"));
        assert_eq!(json!(members.data), json!({ "a": 1 }));
        let ce = json!({
            "id": "a-1", "specversion": "1.0", "subject": "Euro €", "rowid": "7",
            "datacontenttype": "application/vnd.x+json; charset=utf-8",
        });
        assert_eq!(json!(members.ce), ce);
        let data = |content_type, body: &[u8]| binary(&[], content_type, body).map(|members| json!(members.data));
        assert_eq!(data(None, b"hi"), Ok(json!({ "base64": "aGk=" })));
        assert_eq!(data(Some("text/plain"), b"hi"), Ok(json!({ "base64": "aGk=" })));
        assert_eq!(data(Some("Application/JSON"), b"[1]"), Ok(json!({ "value": [1] })));
        assert_eq!(data(Some("application/json"), b""), Ok(Json::Null));
        assert!(data(Some("application/json"), b"{").expect_err("cut off").starts_with("data: malformed JSON"));
        assert_eq!(binary(&[("id", "b")], None, b""), Err("ce-id: must not be given twice".into()));
        assert_eq!(binary(&[("a", "%FF")], None, b""), Err("ce-a: must be UTF-8".into()));
        assert!(binary(&[("datacontenttype", "x")], None, b"").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(body in super::super::arbitrary::body(), name in "[ -~]{0,12}", value in any::<Vec<u8>>()) {
            let _ = read_structured(&body, now());
            let _ = read_binary([(name.as_str(), &value[..])].into_iter(), Some("a/b+json"), &body, now());
        }
    }
}
