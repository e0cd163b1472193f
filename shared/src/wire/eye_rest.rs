//! The shapes of The Eye's REST API: sessions, events and errors.

pub mod shapes;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::sent::{Conditions, Faults, Needs, NoObject, Reader, object};
use super::time::six_or_none;
use crate::domain::filter::{Comparison, Field, Filter};
use crate::domain::log_event::{LogEvent, MAX_DATA_DEPTH, Members, Rejection, Session};
use crate::domain::members::check_object;
use crate::domain::time::Timestamp;

/// What `POST /events/` is answered with, whatever comes of the event.
pub const ACCEPTED: &str = "Event will be created after validation";

/// The body of `POST /sessions/`: the id that the caller wants, if it has one.
///
/// # Errors
/// What is wrong with the body.
pub fn read_session(bytes: &[u8]) -> Result<Option<Uuid>, String> {
    let mut body = object(bytes).map_err(|error| error.to_string())?;
    body.retain(|_, value| !value.is_null());
    let mut reader = Reader::new(body, Needs::Some);
    let id = reader.uuid("id");
    reader.faults.check().map_err(|faults| faults.to_string())?;
    Ok(id)
}

/// Why a body of `POST /events/` is no event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    #[error(transparent)]
    NoObject(NoObject),
    /// It becomes an error record, with this message.
    #[error("{0}")]
    Refused(String),
}

/// The body of `POST /events/`. An event must not be of the future, as seen from `now`.
///
/// # Errors
/// What is wrong with it, each member named.
pub fn read_event(bytes: &[u8], now: Timestamp) -> Result<Members, BadEvent> {
    let body = object(bytes).map_err(|error| match error {
        NoObject::Unreadable(_) => BadEvent::Refused(error.to_string()),
        NoObject::Json(_) | NoObject::Other(_) => BadEvent::NoObject(error),
    })?;
    let (values, faults) = Values::read(body, Needs::All, now);
    faults.check().map_err(|faults| BadEvent::Refused(faults.to_string()))?;
    let checked = values.into_members().check().map_err(|error| BadEvent::Refused(error.to_string()))?;
    Ok(checked.into_members())
}

/// The values that a body gives to members of an event. After a reading that needs all
/// of them, all are there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    pub session: Option<Uuid>,
    pub category: Option<String>,
    pub name: Option<String>,
    pub data: Option<Map<String, Json>>,
    pub timestamp: Option<Timestamp>,
}

impl Values {
    /// The body of a PUT, which needs all members, or of a PATCH: what can be read of
    /// it, and what is wrong with the rest.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub fn parse(bytes: &[u8], needs: Needs, now: Timestamp) -> Result<(Self, Faults), NoObject> {
        Ok(Self::read(object(bytes)?, needs, now))
    }

    fn read(body: Map<String, Json>, needs: Needs, now: Timestamp) -> (Self, Faults) {
        let mut reader = Reader::new(body, needs);
        let values = Self {
            session: session(&mut reader),
            category: reader.text("category"),
            name: reader.text("name"),
            data: data(&mut reader),
            timestamp: timestamp(&mut reader, now),
        };
        (values, reader.faults)
    }

    fn into_members(self) -> Members {
        Members {
            timestamp: self.timestamp.unwrap_or_default(),
            name: self.name,
            category: self.category,
            session_id: self.session,
            data: self.data,
            ..Members::default()
        }
    }

    /// The values under the names that the members have natively.
    pub fn into_json(self) -> Map<String, Json> {
        let members = [
            ("session_id", self.session.map(|id| Json::String(id.to_string()))),
            ("category", self.category.map(Json::String)),
            ("name", self.name.map(Json::String)),
            ("data", self.data.map(Json::Object)),
            ("timestamp", self.timestamp.map(|moment| Json::String(moment.to_string()))),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// `{"id":<uuid>}`.
fn session(reader: &mut Reader) -> Option<Uuid> {
    let session = reader.object("session")?;
    let mut inner = Reader::new(session, Needs::All);
    inner.uuid("id").or_else(|| reader.wrong("session", inner.faults))
}

fn data(reader: &mut Reader) -> Option<Map<String, Json>> {
    let data = reader.object("data")?;
    if data.is_empty() {
        return reader.wrong("data", "must not be empty");
    }
    match check_object(&data, MAX_DATA_DEPTH) {
        Ok(()) => Some(data),
        Err(reason) => reader.wrong("data", reason),
    }
}

fn timestamp(reader: &mut Reader, now: Timestamp) -> Option<Timestamp> {
    let moment = reader.time("timestamp")?;
    if moment > now { reader.wrong("timestamp", "must not lie in the future") } else { Some(moment) }
}

/// Which events `GET /events/` asks for; `parameter` gives the value of one.
///
/// # Errors
/// What is wrong, each parameter named.
pub fn read_filter<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Result<Filter, Faults> {
    let mut filters = Conditions::new(parameter);
    filters.uuid("session", Field::SessionId);
    filters.text("category", Field::Category);
    filters.time("timestamp__lte", Comparison::Lte);
    filters.time("timestamp__gte", Comparison::Gte);
    filters.all()
}

/// A session, also as the part of an event.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = EyeSession)]
pub struct SessionBody {
    pub id: Uuid,
}

impl From<&Session> for SessionBody {
    fn from(session: &Session) -> Self {
        Self { id: session.id }
    }
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EyeEvent)]
pub struct EventBody<'a> {
    pub id: u64,
    pub session: Option<SessionBody>,
    pub category: Option<&'a str>,
    pub name: Option<&'a str>,
    #[schema(value_type = Option<Object>)]
    pub data: Option<&'a Map<String, Json>>,
    pub timestamp: String,
    pub created_at: String,
}

impl<'a> From<&'a LogEvent> for EventBody<'a> {
    fn from(event: &'a LogEvent) -> Self {
        let Members { session_id, category, name, data, timestamp, .. } = &event.members;
        Self {
            id: event.number,
            session: session_id.map(|id| SessionBody { id }),
            category: category.as_deref(),
            name: name.as_deref(),
            data: data.as_ref(),
            timestamp: six_or_none(*timestamp),
            created_at: six_or_none(event.created_at),
        }
    }
}

/// Something that was sent in and did not become an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EyeError)]
pub struct ErrorBody<'a> {
    pub id: u64,
    #[schema(value_type = serde_json::Value)]
    pub data: &'a Json,
    pub message: &'a str,
    pub created_at: String,
}

impl<'a> From<&'a Rejection> for ErrorBody<'a> {
    fn from(rejection: &'a Rejection) -> Self {
        Self {
            id: rejection.number,
            data: &rejection.data,
            message: &rejection.message,
            created_at: six_or_none(rejection.created_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_623_715_200_000_000;
    const EVENT: &str = r#"{"session":{"id":"9ab1b579-7021-4e0c-8ea1-2ac9f52f3058"},"category":"page interaction",
        "name":"pageview","data":{"host":"www.consumeraffairs.com","path":"/"},"timestamp":"2021-06-15 00:00:00"}"#;

    fn now() -> Timestamp {
        Timestamp::from_micros(NOW)
    }

    /// The event of the document with some members changed; null takes one away.
    fn with(changes: &Json) -> Vec<u8> {
        let mut event: Map<String, Json> = serde_json::from_str(EVENT).expect("an object");
        for (name, value) in changes.as_object().expect("an object") {
            match value {
                Json::Null => drop(event.remove(name)),
                value => drop(event.insert(name.clone(), value.clone())),
            }
        }
        serde_json::to_vec(&event).expect("JSON")
    }

    fn refusal(changes: &Json) -> String {
        read_event(&with(changes), now()).expect_err("refused").to_string()
    }

    #[test]
    fn the_event_of_the_document_is_read() {
        let members = read_event(EVENT.as_bytes(), now()).expect("an event");
        assert_eq!(members.timestamp, now());
        assert_eq!(
            members.session_id.map(|id| id.to_string()).as_deref(),
            Some("9ab1b579-7021-4e0c-8ea1-2ac9f52f3058")
        );
        let event = LogEvent { id: Uuid::nil(), number: 7, created_at: Timestamp::from_micros(NOW + 1), members };
        let mut expected: Json = serde_json::from_str(EVENT).expect("JSON");
        expected["id"] = json!(7);
        expected["timestamp"] = json!("2021-06-15T00:00:00Z");
        expected["created_at"] = json!("2021-06-15T00:00:00.000001Z");
        assert_eq!(serde_json::to_value(EventBody::from(&event)).expect("JSON"), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (changes, message) in [
            (json!({"data":{}}), "data: must not be empty"),
            (json!({"data":"{}"}), "data: must be an object, not a string"),
            (json!({"data":{"a\0":1}}), "data: must not have names with NUL"),
            (json!({"timestamp":"2021-06-15T00:00:00.000001Z"}), "timestamp: must not lie in the future"),
            (json!({"timestamp":1}), "timestamp: must be a string, not a number"),
            (json!({"session":null}), "session: is missing"),
            (json!({"session":"9ab1b579-7021-4e0c-8ea1-2ac9f52f3058"}), "session: must be an object, not a string"),
            (json!({"session":{}}), "session: id: is missing"),
            (json!({"session":{"id":"x"}}), "session: id: must be a UUID"),
            (json!({"name":null,"category":[]}), "category: must be a string, not an array; name: is missing"),
        ] {
            assert_eq!(refusal(&changes), message, "{changes}");
        }
        let long = json!({ "data": { "a": "x".repeat(600 * 1024) } });
        assert!(refusal(&long).starts_with("event: must not be longer"));
    }

    #[test]
    fn only_what_is_no_object_cannot_become_an_error_record() {
        let no_object = |bytes: &[u8]| matches!(read_event(bytes, now()), Err(BadEvent::NoObject(_)));
        assert!(no_object(b"[]") && no_object(b"7") && no_object(b"x"));
        assert!(!no_object(b"") && !no_object(b"{}") && !no_object(br#"{"a":1e999}"#));
    }

    #[test]
    fn a_patch_has_what_it_has() {
        let (values, faults) = Values::parse(br#"{"name":"n","x":1}"#, Needs::Some, now()).expect("an object");
        assert_eq!(
            (values.into_json(), faults),
            (json!({"name":"n"}).as_object().expect("an object").clone(), Faults::default())
        );
        let (values, _) = Values::parse(EVENT.as_bytes(), Needs::All, now()).expect("an object");
        let mut members = Members::default();
        for (name, value) in values.clone().into_json() {
            members.set(&name, value).expect("a member");
        }
        assert_eq!(members, values.into_members());
    }

    #[test]
    fn a_session_may_have_an_id() {
        assert_eq!(read_session(b""), Ok(None));
        assert_eq!(read_session(br#"{"id":null,"x":1}"#), Ok(None));
        let id = "9ab1b579-7021-4e0c-8ea1-2ac9f52f3058";
        assert_eq!(read_session(format!(r#"{{"id":"{id}"}}"#).as_bytes()), Ok(id.parse().ok()));
        assert_eq!(read_session(br#"{"id":"x"}"#), Err("id: must be a UUID".into()));
        assert!(read_session(b"[]").is_err());
    }

    fn json_value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<String>().prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_is_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_event(&bytes, now()), read_session(&bytes), Values::parse(&bytes, Needs::Some, now()));
        }

        #[test]
        fn no_object_is_too_much(
            name in prop_oneof!["session", "category", "name", "data", "timestamp", ".*"],
            value in json_value(),
        ) {
            let mut changes = Map::new();
            changes.insert(name, value);
            let _ = read_event(&with(&Json::Object(changes.clone())), now());
            let _ = Values::parse(&Json::Object(changes).to_string().into_bytes(), Needs::Some, now());
        }

        #[test]
        fn what_is_accepted_reads_back(
            (category, name) in any::<(String, String)>(),
            data in prop::collection::btree_map("[^\0]*", json_value(), 1..4),
            (session, micros) in (any::<u128>(), -62_167_219_200_000_000..=NOW),
        ) {
            let data = Json::Object(data.into_iter().collect());
            let moment = Timestamp::from_micros(micros);
            let session = Uuid::from_u128(session).to_string();
            let sent = json!({
                "session": { "id": session }, "category": category, "name": name, "data": data,
                "timestamp": six_or_none(moment),
            });
            match read_event(sent.to_string().as_bytes(), now()) {
                Err(BadEvent::Refused(message)) => prop_assert_eq!(message, "data: must not have names with NUL"),
                Err(error) => prop_assert!(false, "{error}"),
                Ok(members) => {
                    let event = LogEvent { id: Uuid::nil(), number: 1, created_at: moment, members };
                    let mut read = serde_json::to_value(EventBody::from(&event)).expect("JSON");
                    let extra = read.as_object_mut().map(|read| (read.remove("id"), read.remove("created_at")));
                    prop_assert_eq!(extra, Some((Some(json!(1)), Some(json!(six_or_none(moment))))));
                    prop_assert_eq!(read, sent);
                }
            }
        }
    }
}
