//! What is stored of the event log today must be read by every later version.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};
use shared::domain::log_event::{LogEvent, LogFact, Members, Rejection, Session, event_after, keepable, recording};
use shared::domain::outcome::{Begun, Outcome};
use shared::domain::projection::{Change, LogChange, project};
use shared::domain::stream::{NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::wire::cloud_events::{read_binary, read_structured};
use shared::wire::events::EventJson;
use shared::wire::new_events::{Element, Elements, read_event};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x7afc_6819_9a54_462e_9703_d02c_cc95_2b7c);

fn at() -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_001)
}

fn map(json: Json) -> Map<String, Json> {
    serde_json::from_value(json).unwrap()
}

fn full() -> Members {
    Members {
        timestamp: Timestamp::from_micros(-1),
        name: Some("login\u{0}\u{1f600}".into()),
        category: Some("auth".into()),
        component: Some("web".into()),
        environment: Some("prod".into()),
        message: Some("\"m\"".into()),
        email: Some("a@b.c".into()),
        customer_id: Some(i64::MIN),
        session_id: Some(ID),
        source: Some("/s".into()),
        data: Some(map(json!({ "b": [1.5, -0.0, u64::MAX, 1e300, null, true], "a": { "é": "x" } }))),
        ce: Some(map(json!({ "id": "1" }))),
    }
}

/// The stream, type and data of each kind of event, and what they mean.
fn snapshots() -> [(StreamId, &'static str, &'static str, LogFact); 4] {
    let stream = StreamId::of_event(ID);
    let bare = Members { timestamp: at(), ..Members::default() };
    [
        (
            stream.clone(),
            "LogEventRecorded",
            r#"{"timestamp":"2023-11-14T22:13:20.000001Z"}"#,
            LogFact::Recorded(bare.clone()),
        ),
        (
            stream.clone(),
            "LogEventRecorded",
            concat!(
                r#"{"timestamp":"1969-12-31T23:59:59.999999Z","name":"login\u0000😀","category":"auth","#,
                r#""component":"web","environment":"prod","message":"\"m\"","email":"a@b.c","#,
                r#""customer_id":-9223372036854775808,"session_id":"7afc6819-9a54-462e-9703-d02ccc952b7c","#,
                r#""source":"/s","data":{"a":{"é":"x"},"b":[1.5,-0.0,18446744073709551615,1e+300,null,true]},"#,
                r#""ce":{"id":"1"}}"#,
            ),
            LogFact::Recorded(full()),
        ),
        (
            stream.clone(),
            "LogEventAmended",
            concat!(
                r#"{"number":9007199254740991,"created_at":"1970-01-01T00:00:00.000000Z","#,
                r#""timestamp":"2023-11-14T22:13:20.000001Z"}"#,
            ),
            LogFact::Amended { number: Position::MAX.0, created_at: Timestamp::from_micros(0), members: bare },
        ),
        (stream, "LogEventDeleted", r#"{"number":7}"#, LogFact::Deleted { number: 7 }),
    ]
}

fn recorded(stream: StreamId, event: NewEvent) -> RecordedEvent {
    RecordedEvent { position: Position(7), stream, revision: Revision(3), event }
}

fn stored(kind: &'static str, data: &str) -> NewEvent {
    let metadata = serde_json::from_str(r#"{"schema":1,"recorded_at":"2023-11-14T22:13:20.000001Z"}"#).unwrap();
    NewEvent { id: ID, kind: kind.into(), data: data.to_owned().into(), metadata }
}

#[test]
fn stored_log_events_are_frozen() {
    for (stream, kind, data, fact) in snapshots() {
        assert_eq!(stream.as_str(), "event-7afc6819-9a54-462e-9703-d02ccc952b7c");
        let new = fact.to_new(ID, at());
        assert_eq!((&*new.kind, std::str::from_utf8(&new.data)), (kind, Ok(data)));
        assert_eq!(new, stored(kind, data));
        assert_eq!(LogFact::from_recorded(&recorded(stream.clone(), stored(kind, data))).unwrap(), (ID, fact.clone()));
        if let LogFact::Recorded(members) = fact {
            assert_eq!(recording(ID, &members.check().unwrap(), at()), (stream, stored(kind, data)));
        }
    }
}

#[test]
fn stored_sessions_and_rejections_are_frozen() {
    let stream = StreamId::of_session(ID);
    assert_eq!(stream.as_str(), "session-7afc6819-9a54-462e-9703-d02ccc952b7c");
    let new = stored("SessionRegistered", "{}");
    assert_eq!(Session::to_new(ID, at()), new);
    let session = Session { id: ID, created_at: at(), position: Position(7) };
    assert_eq!(Session::from_recorded(&recorded(stream, new)).unwrap(), session);
    let stream = StreamId::of_rejection(ID);
    assert_eq!(stream.as_str(), "rejection-7afc6819-9a54-462e-9703-d02ccc952b7c");
    let new = stored("LogEventRejected", r#"{"message":"m","data":[{"a":1},"\u0000"]}"#);
    let data = json!([{ "a": 1 }, "\u{0}"]);
    assert_eq!(Rejection::to_new(ID, "m", data.clone(), at()), new);
    let rejection = Rejection { id: ID, number: 7, message: "m".into(), data, created_at: at() };
    assert_eq!(Rejection::from_recorded(&recorded(stream, new)).unwrap(), rejection);
}

#[test]
fn the_beginning_of_a_request_is_frozen() {
    let begun = Outcome::Begun(Begun { seed: ID, at: at(), rejected: true });
    let text = concat!(
        r#"{"begun":{"seed":"7afc6819-9a54-462e-9703-d02ccc952b7c","#,
        r#""at":"2023-11-14T22:13:20.000001Z","rejected":true}}"#,
    );
    assert_eq!(serde_json::to_string(&begun).unwrap(), text);
    assert_eq!(serde_json::from_str::<Outcome>(text).unwrap(), begun);
}

#[test]
fn what_is_not_ours_is_not_read() {
    let event = StreamId::of_event(ID);
    for (stream, kind, data) in [
        (event.clone(), "LogEventRecorded", "{}"),
        (event.clone(), "LogEventRecorded", r#"{"timestamp":"2023-11-14"}"#),
        (event.clone(), "LogEventAmended", r#"{"timestamp":"2023-11-14T22:13:20.000001Z"}"#),
        (event.clone(), "AnswerCreatedEvent", r#"{"key":"k","value":"v"}"#),
        (StreamId::of_session(ID), "LogEventDeleted", r#"{"number":7}"#),
        (StreamId::from_stored("event-x"), "LogEventDeleted", r#"{"number":7}"#),
    ] {
        assert!(project(&recorded(stream, stored(kind, data))).is_err(), "{kind} {data}");
    }
    let mut newer = stored("LogEventDeleted", r#"{"number":7}"#);
    newer.metadata.schema = 2;
    assert!(project(&recorded(event, newer)).is_err());
}

/// What is accepted is stored as one event, and projected to the same members.
fn assert_reads_back(members: Members) -> Result<(), TestCaseError> {
    let Ok(checked) = members.clone().check() else { return Ok(()) };
    let (stream, new) = recording(ID, &checked, at());
    let change = project(&recorded(stream.clone(), new));
    let Ok(Change::Log(LogChange::Event(change))) = change else { panic!("not projected: {change:?}") };
    let event = LogEvent { id: ID, number: 7, created_at: at(), members: members.clone() };
    prop_assert_eq!(change.event.as_deref(), Some(&event));
    // An amendment that changes nothing leaves the same.
    let amended = LogFact::Amended { number: 7, created_at: at(), members: members.clone() }.to_new(ID, at());
    prop_assert_eq!(event_after(&recorded(stream, amended)).unwrap(), (ID, 7, Some(event.clone())));
    // What is shown is accepted again, but for what the service gives.
    let mut shown = serde_json::to_value(EventJson::from(&event)).unwrap();
    let shown = shown.as_object_mut().unwrap();
    shown.retain(|name, _| name != "id" && name != "created_at");
    prop_assert_eq!(read_event(json!(shown).to_string().as_bytes(), at()), Ok(members));
    Ok(())
}

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        any::<String>().prop_map(Json::from),
        Just(json!("1.0")),
        Just(json!("2018-01-01T00:00:00.123456789+01:00")),
        Just(json!("67e55044-10b1-426f-9247-bb680e5fe0c8")),
    ];
    leaf.prop_recursive(5, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|all| Json::from(Map::from_iter(all))),
        ]
    })
}

/// Bodies whose members are often what they must be.
fn event_body() -> impl Strategy<Value = Json> {
    const NAMES: &[&str] =
        &["name", "category", "component", "environment", "message", "email", "source", "type", "id", "x"];
    let text = (prop::sample::select(NAMES), any::<String>().prop_map(Json::from));
    let other = (
        prop::sample::select(&["timestamp", "customer_id", "session_id", "data", "ce", "time", "specversion"][..]),
        json_value(),
    );
    let object = prop_oneof![Just("data"), Just("ce")]
        .prop_flat_map(|name| (Just(name), prop::collection::vec((any::<String>(), json_value()), 0..4)))
        .prop_map(|(name, all)| (name, Json::from(Map::from_iter(all))));
    let member = prop_oneof![3 => text, 1 => other, 2 => object];
    prop::collection::vec(member, 0..8).prop_map(|members| {
        Json::from(Map::from_iter(members.into_iter().map(|(name, value)| (name.to_owned(), value))))
    })
}

/// The same as a CloudEvent.
fn cloud_event() -> impl Strategy<Value = Json> {
    (event_body(), any::<bool>()).prop_map(|(mut body, whole)| {
        let members = body.as_object_mut().unwrap();
        members.retain(|name, _| !whole || name != "ce" && name != "customer_id" && name != "session_id");
        if whole {
            members.append(&mut map(json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t" })));
        }
        body
    })
}

proptest! {
    #[test]
    fn an_accepted_event_is_read_back(body in event_body()) {
        if let Ok(members) = read_event(body.to_string().as_bytes(), at()) {
            assert_reads_back(members)?;
        }
    }

    #[test]
    fn an_accepted_cloud_event_is_read_back(body in cloud_event()) {
        if let Ok(members) = read_structured(body.to_string().as_bytes(), at()) {
            assert_reads_back(members)?;
        }
    }

    #[test]
    fn an_accepted_binary_cloud_event_is_read_back(
        subject in any::<Vec<u8>>(),
        json in any::<bool>(),
        body in prop_oneof![any::<Vec<u8>>(), json_value().prop_map(|json| json.to_string().into_bytes())],
    ) {
        let required: [(&str, &[u8]); 4] = [("specversion", b"1.0"), ("id", b"1"), ("source", b"s"), ("type", b"t")];
        let headers = required.into_iter().chain([("subject", &subject[..])]);
        let content_type = if json { "application/json" } else { "image/png" };
        if let Ok(members) = read_binary(headers, Some(content_type), &body, at()) {
            assert_reads_back(members)?;
        }
    }

    #[test]
    fn accepted_elements_are_read_back(bodies in prop::collection::vec(event_body(), 0..5)) {
        let array = json!(bodies).to_string();
        let lines: String = bodies.iter().map(|body| format!("{body}\n")).collect();
        let (array, lines) = (Elements::of_json(array.as_bytes()).unwrap(), Elements::of_lines(lines.as_bytes()).unwrap());
        prop_assert_eq!(&array, &lines);
        let Elements::Many(elements) = array else { panic!("one") };
        for Element { text, .. } in elements {
            if let Ok(members) = read_event(text, at()) {
                assert_reads_back(members)?;
            }
        }
    }

    #[test]
    fn what_is_refused_is_kept_as_it_can_be_read_back(sent in json_value()) {
        let kept = keepable(sent);
        let new = Rejection::to_new(ID, "m", kept.clone(), at());
        let read = Rejection::from_recorded(&recorded(StreamId::of_rejection(ID), new)).unwrap();
        prop_assert_eq!(read.data, kept);
    }
}
