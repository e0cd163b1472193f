//! Parked streams, as reads show them: refused where they are awaited, told where they
//! may be missing.

use axum::http::StatusCode;
use serde_json::{Value as Json, json};
use shared::domain::answer::Key;
use shared::domain::log_event::{Members, Rejection, Session};
use shared::domain::projection::{AnswerChange, Changes, LogChange, Parked};
use shared::domain::stream::{Position, Revision, StreamId};
use shared::ports::{Checkpoint, Generation, Replayed, ViewReader, ViewWriter};

use super::{Side, Write, change, id, micros, named, put};

/// Every route that shows many at once.
const LISTS: [&str; 13] = [
    "/answers",
    "/answers?prefix=none",
    "/v1/events",
    "/v1/events/stats",
    "/v1/sessions",
    "/v1/rejections",
    "/event",
    "/event/?q=name%20eq%20'a'",
    "/events/",
    "/sessions/",
    "/errors/",
    "/api/read",
    "/api/event/",
];

impl Side {
    async fn write(&mut self, changes: Changes) {
        let from = self.log.views.checkpoint().await.unwrap();
        let to = Checkpoint::at(Position(self.position));
        self.log.views.apply(Generation::Live, from, changes, to).await.unwrap();
    }

    async fn put_answer(&mut self, key: &str, value: &str) {
        self.position += 2;
        let (key, position) = (Key::parse(key).unwrap(), Position(self.position));
        let change = AnswerChange { key, value: Some(value.into()), revision: Revision(0), position };
        self.write(Changes::from(vec![change])).await;
    }

    /// Parks a stream at an event of it that has the next position, which it gives.
    async fn park(&mut self, stream: StreamId, revision: u64) -> u64 {
        self.position += 2;
        let parked = Parked {
            stream,
            revision: Revision(revision),
            position: Position(self.position),
            error: "no good".into(),
            since: micros(0),
            replay: false,
        };
        self.write(Changes { parked: vec![parked], ..Changes::default() }).await;
        self.position
    }

    async fn heal(&self, stream: &StreamId) {
        let was = self.log.views.parked_stream(stream).await.unwrap().unwrap();
        let at = self.log.views.checkpoint().await.unwrap();
        self.log.views.replayed(at, Replayed { was, change: None, still: None }).await.unwrap();
    }

    /// The header that lists have, of one that is answered with 200.
    async fn parked(&self, path: &str) -> Option<String> {
        let response = self.get_with(path, &[]).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.headers().get("parked").map(|parked| parked.to_str().unwrap().to_owned())
    }

    /// The status of a get that awaits a position, by the header and by the parameter.
    async fn awaiting(&self, path: &str, position: u64) -> (u16, Json) {
        let by_header = self.get_with(path, &[("await-position", position.to_string())]).await;
        let (status, headers, body) = self.reply(&format!("{path}?await={position}")).await;
        assert_eq!(by_header.status(), status, "{path}");
        assert!(!headers.contains_key("parked"), "{path}");
        assert_eq!(headers.contains_key("retry-after"), status == StatusCode::SERVICE_UNAVAILABLE, "{path}");
        (status.as_u16(), body)
    }

    /// Asserts that a get is refused from a position on, and only if that is awaited.
    async fn is_parked_from(&self, path: &str, position: u64, otherwise: u16) {
        let parked = (503, json!({"error": "key is parked"}));
        assert_eq!(self.awaiting(path, position - 1).await.0, otherwise, "{path} before it");
        assert_eq!(self.awaiting(path, position).await, parked, "{path} at it");
        assert_eq!(self.awaiting(path, self.position).await, parked, "{path} beyond it");
        let any = [("if-none-match", "*".to_owned()), ("await-position", position.to_string())];
        assert_eq!(self.get_with(path, &any).await.status(), 503, "{path} that is known");
        let response = self.get_with(path, &[]).await;
        assert_eq!(response.status().as_u16(), otherwise, "{path}");
        assert!(!response.headers().contains_key("parked"), "{path}");
    }
}

fn session(number: u128) -> Write {
    Box::new(move |position| {
        LogChange::Session(Session { id: id(number), created_at: micros(0), position: Position(position) }.into())
    })
}

fn rejection(number: u128) -> Write {
    Box::new(move |position| {
        let (message, data) = ("no".to_owned(), Json::Null);
        LogChange::Rejection(
            Rejection { id: id(number), number: position, message, data, created_at: micros(0) }.into(),
        )
    })
}

fn answer(key: &str) -> StreamId {
    StreamId::of_answer(&Key::parse(key).unwrap())
}

#[tokio::test]
async fn an_answer_is_refused_where_it_is_awaited() {
    let mut side = Side::new();
    side.put_answer("a", "good").await;
    side.put_answer("b", "good").await;
    let at = side.park(answer("a"), 1).await;
    side.park(answer("never"), 0).await;
    side.put_answer("b", "better").await;
    side.is_parked_from("/answers/a", at, 200).await;
    assert_eq!(side.get("/answers/a").await["value"], "good");
    side.is_parked_from("/answers/never", at + 2, 404).await;
    assert_eq!(side.awaiting("/answers/b", side.position).await.0, 200);
    side.heal(&answer("a")).await;
    assert_eq!(side.awaiting("/answers/a", side.position).await.0, 200);
}

#[tokio::test]
async fn a_log_event_is_refused_by_either_id() {
    let mut side = Side::new();
    side.apply([put(id(1), named("a")), put(id(2), named("b"))]).await;
    let at = side.park(StreamId::of_event(id(1)), 1).await;
    let unrecorded = side.park(StreamId::of_event(id(3)), 0).await;
    side.apply([put(id(2), named("c"))]).await;
    for path in [format!("/v1/events/{}", id(1)), "/events/2/".into()] {
        side.is_parked_from(&path, at, 200).await;
    }
    for path in [format!("/v1/events/{}", id(3)), format!("/events/{unrecorded}")] {
        side.is_parked_from(&path, unrecorded, 404).await;
    }
    // An amendment is no recording, whether it is parked or not.
    assert_eq!(side.awaiting(&format!("/events/{at}/"), side.position).await.0, 404);
    for path in [format!("/v1/events/{}", id(2)), "/events/4/".into()] {
        assert_eq!(side.awaiting(&path, side.position).await.0, 200, "{path}");
    }
    side.heal(&StreamId::of_event(id(1))).await;
    assert_eq!(side.awaiting("/events/2/", side.position).await.0, 200);
}

#[tokio::test]
async fn an_error_record_is_refused_by_its_number() {
    let mut side = Side::new();
    side.apply([rejection(1)]).await;
    let parked = side.park(StreamId::of_rejection(id(2)), 0).await;
    let of_a_session = side.park(StreamId::of_session(id(3)), 0).await;
    side.is_parked_from(&format!("/errors/{parked}/"), parked, 404).await;
    assert_eq!(side.awaiting("/errors/2/", side.position).await.0, 200);
    for path in [format!("/errors/{of_a_session}/"), format!("/events/{of_a_session}/")] {
        assert_eq!(side.awaiting(&path, side.position).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn lists_tell_how_many_are_parked_while_any_is() {
    let mut side = Side::new();
    side.put_answer("a", "good").await;
    side.apply([put(id(1), named("a")), session(1), rejection(1)]).await;
    for path in LISTS {
        assert_eq!(side.parked(path).await, None, "{path}");
    }
    side.park(answer("a"), 1).await;
    for path in LISTS {
        assert_eq!(side.parked(path).await.as_deref(), Some("1"), "{path}");
    }
    side.park(StreamId::of_event(id(1)), 1).await;
    let awaited = format!("/answers?await={}", side.position);
    for path in LISTS.into_iter().chain(["/v1/events/stream", &awaited]) {
        assert_eq!(side.parked(path).await.as_deref(), Some("2"), "{path}");
    }
    let past = side.get_with("/api/event/?page=2", &[]).await;
    assert_eq!((past.status().as_u16(), past.headers()["parked"].to_str().unwrap()), (404, "2"));
    side.heal(&answer("a")).await;
    side.heal(&StreamId::of_event(id(1))).await;
    for path in LISTS.into_iter().chain(["/v1/events/stream"]) {
        assert_eq!(side.parked(path).await, None, "{path}");
    }
}

/// Long lists are streamed; the header comes with their beginning.
#[tokio::test]
async fn a_streamed_list_tells_it_too() {
    let mut side = Side::new();
    let long = Members { message: Some("x".repeat(2_000)), ..Members::default() };
    let all: Vec<_> = (1..=700).map(|n| change(id(n), None, micros(0), Some(long.clone()))).collect();
    side.apply(all).await;
    side.park(answer("a"), 1).await;
    for path in ["/event", "/events/"] {
        assert_eq!(side.parked(path).await.as_deref(), Some("1"), "{path}");
    }
}
