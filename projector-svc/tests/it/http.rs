//! The operators' routes, over views in memory that the tests park streams in.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use shared::adapters::memory::MemoryViews;
use shared::domain::projection::{Changes, Parked};
use shared::domain::stream::{Position, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::ports::{Checkpoint, Generation, ViewReader, ViewWriter};
use tower_service::Service;

struct Side {
    views: Arc<MemoryViews>,
    router: Router,
}

impl Side {
    fn new() -> Self {
        let views = Arc::new(MemoryViews::new());
        Self { router: projector_svc::router(views.clone()), views }
    }

    /// Parks streams, each at a position of its own from 2 on.
    async fn park(&self, streams: impl IntoIterator<Item = &str>) {
        let parked = |(stream, place): (&str, u64)| Parked {
            stream: StreamId::from_stored(stream),
            revision: Revision(place),
            position: Position(place + 2),
            error: format!("no good {place}"),
            since: Timestamp::from_micros(1_500_000),
            replay: false,
        };
        let from = self.views.checkpoint().await.unwrap();
        let parked: Vec<_> = streams.into_iter().zip(0..).map(parked).collect();
        let to = Checkpoint::at(Position(from.position().0 + 100));
        self.views.apply(Generation::Live, from, Changes { parked, ..Changes::default() }, to).await.unwrap();
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let (head, body) = self.router.clone().call(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), serde_json::from_slice(&body).unwrap_or(Json::Null))
    }

    async fn get(&self, path: &str) -> Json {
        let (status, body) = self.call("GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// Whether a replay is asked for, of each parked stream.
    async fn asked(&self) -> Vec<(String, bool)> {
        let parked = ViewWriter::parked(&*self.views, Generation::Live).await.unwrap();
        parked.into_iter().map(|parked| (parked.stream.as_str().to_owned(), parked.replay)).collect()
    }
}

#[tokio::test]
async fn parked_streams_are_listed_in_pages() {
    let side = Side::new();
    assert_eq!(side.get("/parked").await, json!({"parked": [], "next": null}));
    side.park(["answer-b", "answer-a/ ä", "event-1"]).await;
    let parked = |stream: &str, place: u64| {
        json!({
            "stream": stream, "revision": place, "position": place + 2,
            "error": format!("no good {place}"), "since": "1970-01-01T00:00:01.5Z",
        })
    };
    let all = [parked("answer-a/ ä", 1), parked("answer-b", 0), parked("event-1", 2)];
    assert_eq!(side.get("/parked").await, json!({"parked": all, "next": null}));
    assert_eq!(side.get("/parked?limit=3").await, json!({"parked": all, "next": null}));
    let mut path = "/parked?limit=1".to_owned();
    for (place, one) in all.iter().enumerate() {
        let page = side.get(&path).await;
        assert_eq!(page["parked"], json!([one]));
        assert_eq!(page["next"].is_string(), place < 2, "{page}");
        path = format!("/parked?limit=1&cursor={}", page["next"].as_str().unwrap_or_default());
    }
}

#[tokio::test]
async fn parameters_are_held_to_their_ranges() {
    let side = Side::new();
    for (path, named) in [
        ("/parked?limit=0", "limit"),
        ("/parked?limit=1001", "limit"),
        ("/parked?limit=x", "limit"),
        ("/parked?limit=1&limit=1", "limit"),
        ("/parked?cursor=answer-a", "cursor"),
        ("/parked?cursor=", "cursor"),
        ("/parked?prefix=a", "prefix"),
        ("/rebuild?now=1", "now"),
    ] {
        let (status, body) = side.call("GET", path, "").await;
        assert_eq!(status, 400, "{path}: {body}");
        assert!(body["error"].as_str().unwrap().starts_with(named), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_replay_is_asked_for_one_stream_or_all() {
    let side = Side::new();
    assert_eq!(side.call("POST", "/parked/replay", "").await, (202, json!({"streams": 0})));
    side.park(["answer-a", "answer-b", "answer-c"]).await;
    let one = side.call("POST", "/parked/replay", r#"{"stream":"answer-b"}"#).await;
    assert_eq!(one, (202, json!({"streams": 1})));
    let asked = |a, b, c| vec![("answer-a".to_owned(), a), ("answer-b".to_owned(), b), ("answer-c".to_owned(), c)];
    assert_eq!(side.asked().await, asked(false, true, false));
    let none = side.call("POST", "/parked/replay", r#"{"stream":"answer-d"}"#).await;
    assert_eq!(none, (404, json!({"error": "stream is not parked"})));
    for bad in
        ["{", "[]", "7", r#"{"stream":7}"#, r#"{"stream":""}"#, r#"{"stream":null}"#, r#"{"streams":"answer-a"}"#]
    {
        let (status, body) = side.call("POST", "/parked/replay", bad).await;
        assert_eq!(status, 400, "{bad}: {body}");
        assert!(body["error"].is_string(), "{bad}: {body}");
    }
    assert_eq!(side.call("POST", "/parked/replay?stream=answer-a", "").await.0, 400);
    assert_eq!(side.call("POST", "/parked/replay", &" ".repeat(70_000)).await.0, 413);
    assert_eq!(side.asked().await, asked(false, true, false));
    for all in ["", "{}"] {
        assert_eq!(side.call("POST", "/parked/replay", all).await, (202, json!({"streams": 3})));
    }
    assert_eq!(side.asked().await, asked(true, true, true));
}

#[tokio::test]
async fn a_rebuild_is_asked_for_once() {
    let side = Side::new();
    side.park([]).await;
    let never = json!({"state": "idle", "done": 0, "total": 0, "started_at": null, "finished_at": null});
    assert_eq!(side.get("/rebuild").await, never);
    assert_eq!(side.call("POST", "/rebuild", r#"{"now":true}"#).await.0, 400);
    assert_eq!(side.get("/rebuild").await, never);
    let (status, asked) = side.call("POST", "/rebuild", "{}").await;
    assert_eq!((status, &asked["state"]), (202, &json!("running")));
    let running = side.get("/rebuild").await;
    assert_eq!((&running["state"], &running["started_at"]), (&json!("running"), &asked["started_at"]));
    assert_eq!((&running["done"], &running["finished_at"]), (&json!(0), &Json::Null));
    assert_eq!(side.call("POST", "/rebuild", "").await, (409, json!({"error": "a rebuild is running"})));

    let live = side.views.checkpoint().await.unwrap();
    let next = side.views.rebuild(Position(100)).await.unwrap().unwrap();
    side.views.apply(Generation::Next, next, Changes::default(), live).await.unwrap();
    assert_eq!((&side.get("/rebuild").await["done"], &running["total"]), (&json!(100), &json!(100)));
    assert!(side.views.swap(live, live).await.unwrap());
    let done = side.get("/rebuild").await;
    assert_eq!((&done["state"], &done["done"], &done["total"]), (&json!("idle"), &json!(100), &json!(100)));
    assert_eq!(done["started_at"], asked["started_at"]);
    assert!(done["finished_at"].is_string());
    assert_eq!(side.call("POST", "/rebuild", "").await.0, 202);
}
