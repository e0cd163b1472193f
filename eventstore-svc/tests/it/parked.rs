//! Events that this program cannot read, met by commands, histories and the past: 503,
//! and nothing of the reason told.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use eventstore_svc::WriteSide;
use eventstore_svc::commands::Commands;
use eventstore_svc::history::History;
use eventstore_svc::live::Live;
use eventstore_svc::log::LogCommands;
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use shared::adapters::memory::MemoryEvents;
use shared::domain::stream::{ExpectedRevision, Metadata, NewEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::http::lifecycle::Lifecycle;
use shared::metrics::Metrics;
use shared::ports::EventStore;
use tower_service::Service;
use uuid::Uuid;

struct Side {
    events: MemoryEvents,
    router: Router,
}

impl Side {
    fn new() -> Self {
        let events = MemoryEvents::new(Duration::from_secs(60));
        let (log, lifecycle) = (Arc::new(events.clone()), Lifecycle::default());
        let metrics = Metrics::new("test", &[]).unwrap();
        let live = Live::new(log.clone(), lifecycle.clone());
        let router = eventstore_svc::router(WriteSide {
            commands: Commands::new(log.clone(), log.clone(), metrics.clone()),
            log: LogCommands::new(log.clone(), log.clone(), metrics),
            history: History::new(log),
            live,
            lifecycle,
        });
        Self { events, router }
    }

    /// Appends an event behind those that the stream has; gives its position.
    async fn spoil(&self, stream: &str, event: NewEvent) -> u64 {
        let stream = StreamId::from_stored(stream);
        let last = self.events.last(&stream).await.unwrap().map(|last| last.revision);
        let appended = EventStore::append(&self.events, &stream, ExpectedRevision::from(last), vec![event]);
        appended.await.unwrap().positions[0].0
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, bool, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let (head, body) = self.router.clone().call(request).await.unwrap().into_parts();
        // A live stream does not end; nobody here waits for what it says.
        let is_live = head.headers["content-type"] == "text/event-stream";
        let body = if is_live { Vec::new() } else { body.collect().await.unwrap().to_bytes().to_vec() };
        let retry = head.headers.contains_key("retry-after");
        (head.status.as_u16(), retry, String::from_utf8(body).unwrap())
    }

    async fn is_parked(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let (status, retry, told) = self.call(method, path, headers, body).await;
        assert_eq!((status, retry, &*told), (503, true, r#"{"error":"key is parked"}"#), "{method} {path} {headers:?}");
    }

    async fn is(&self, status: u16, method: &str, path: &str, body: &str) -> Json {
        let (found, _, told) = self.call(method, path, &[], body).await;
        assert_eq!(found, status, "{method} {path}: {told}");
        serde_json::from_str(&told).unwrap_or_default()
    }
}

/// Events of later versions, and damaged ones.
fn unreadable(kind: &'static str) -> [NewEvent; 4] {
    let metadata = |schema| Metadata { schema, recorded_at: Timestamp::from_micros(4_000_000_000_000_000) };
    let event = |kind: &'static str, data: &'static str, metadata| NewEvent {
        id: Uuid::new_v4(),
        kind: kind.into(),
        data: data.into(),
        metadata,
    };
    [
        event(kind, "{}", metadata(2)),
        event("RenamedEvent", "{}", metadata(1)),
        event(kind, "[\"secret\"]", metadata(1)),
        event(kind, "{}", Metadata::UNREADABLE),
    ]
}

const LIVE: (&str, &str) = ("accept", "text/event-stream");
const KEYED: (&str, &str) = ("idempotency-key", "once");

#[tokio::test]
async fn an_answer_with_an_event_that_cannot_be_read_is_parked() {
    for event in unreadable("AnswerUpdatedEvent") {
        let side = Side::new();
        side.is(201, "POST", "/answers", r#"{"key":"k","value":"good"}"#).await;
        side.spoil("answer-k", event).await;
        for (method, path, body) in [
            ("POST", "/answers", r#"{"key":"k","value":"v"}"#),
            ("PATCH", "/answers", r#"{"key":"k","value":"v"}"#),
            ("PATCH", "/answers/k", r#"{"value":"v"}"#),
            ("PUT", "/answers/k", r#"{"value":"v"}"#),
            ("DELETE", "/answers/k", ""),
            ("GET", "/answers/k/history", ""),
            ("GET", "/answers/k/history?detail=full&direction=backwards", ""),
            ("GET", "/answers/k/history?from=1", ""),
            ("GET", "/answers/k/as-of?revision=1", ""),
            ("GET", "/answers/k/as-of?time=2200-01-01T00:00:00Z", ""),
        ] {
            side.is_parked(method, path, &[], body).await;
            side.is_parked(method, path, &[KEYED, ("if-match", "*")], body).await;
        }
        side.is_parked("GET", "/answers/k/history", &[LIVE], "").await;
        side.is_parked("GET", "/answers/k/history", &[LIVE, ("last-event-id", "0")], "").await;
        // What lies in front of it is as good as ever.
        side.is(200, "GET", "/answers/k/as-of?revision=0", "").await;
        side.is(200, "GET", "/answers/k/history?limit=1", "").await;
        // Others go on.
        side.is(201, "PUT", "/answers/j", r#"{"value":"v"}"#).await;
    }
}

#[tokio::test]
async fn a_line_of_a_batch_says_so() {
    let side = Side::new();
    let [event, ..] = unreadable("AnswerCreatedEvent");
    side.spoil("answer-k", event).await;
    let lines = "{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}\n";
    let (status, _, told) = side.call("POST", "/answers/batch", &[], lines).await;
    assert_eq!((status, told.trim()), (200, r#"{"status":503,"error":"key is parked"}"#));
    // Lines that are not begun for that say whose key it is.
    let more = format!("{lines}{}", "{\"op\":\"put\",\"key\":\"j\",\"value\":\"v\"}\n".repeat(2_000));
    let (_, _, told) = side.call("POST", "/answers/batch", &[], &more).await;
    let last: Json = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"status": 503, "error": "not begun: the key of an earlier line is parked"}));
}

#[tokio::test]
async fn a_log_event_with_an_event_that_cannot_be_read_is_parked() {
    for event in unreadable("LogEventAmended") {
        let side = Side::new();
        let recorded = side.is(202, "POST", "/v1/events", r#"{"name":"good"}"#).await;
        let id = recorded["ids"][0].as_str().unwrap();
        side.spoil(&format!("event-{id}"), event).await;
        let path = format!("/v1/events/{id}");
        let session = json!({"id": id});
        side.is(201, "POST", "/sessions/", &session.to_string()).await;
        let whole =
            json!({"session": session, "category": "a", "name": "v", "data": {"a": 1}, "timestamp": "2020-01-01"});
        let body = whole.to_string();
        side.is_parked("PATCH", &path, &[KEYED], r#"{"name":"v"}"#).await;
        side.is_parked("DELETE", &path, &[], "").await;
        side.is_parked("GET", &format!("{path}/history"), &[], "").await;
        side.is_parked("GET", &format!("{path}/history"), &[LIVE], "").await;
        side.is_parked("PATCH", "/events/1/", &[], r#"{"name":"v"}"#).await;
        side.is_parked("PUT", "/events/1/", &[], &body).await;
        side.is_parked("DELETE", "/events/1", &[], "").await;
        side.is(202, "POST", "/v1/events", r#"{"name":"good"}"#).await;
    }
}

#[tokio::test]
async fn a_recording_that_cannot_be_read_is_parked_under_its_number() {
    for event in unreadable("LogEventRecorded") {
        let side = Side::new();
        let number = side.spoil(&format!("event-{}", Uuid::from_u128(7)), event).await;
        side.is_parked("PATCH", &format!("/events/{number}/"), &[], r#"{"name":"v"}"#).await;
        side.is_parked("DELETE", &format!("/v1/events/{}", Uuid::from_u128(7)), &[], "").await;
        side.is(404, "DELETE", "/events/2/", "").await;
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_read_is_parked() {
    for event in unreadable("SessionRegistered") {
        let side = Side::new();
        let id = Uuid::from_u128(7);
        side.spoil(&format!("session-{id}"), event).await;
        side.is_parked("POST", "/sessions/", &[], &json!({"id": id}).to_string()).await;
        side.is(201, "POST", "/sessions/", "").await;
    }
}

#[tokio::test]
async fn what_was_before_it_is_found_by_time() {
    let side = Side::new();
    side.is(201, "POST", "/answers", r#"{"key":"k","value":"good"}"#).await;
    let [later, _, _, unread] = unreadable("AnswerUpdatedEvent");
    side.spoil("answer-k", later).await;
    side.is(200, "GET", "/answers/k/as-of?time=2090-01-01T00:00:00Z", "").await;
    side.is_parked("GET", "/answers/k/as-of?time=2100-01-01T00:00:00Z", &[], "").await;
    // Of one whose time cannot be read nobody knows what it is before.
    side.spoil("answer-k", unread).await;
    side.is_parked("GET", "/answers/k/as-of?time=2090-01-01T00:00:00Z", &[], "").await;
    assert_eq!(Revision(2), side.events.last(&StreamId::from_stored("answer-k")).await.unwrap().unwrap().revision);
}
