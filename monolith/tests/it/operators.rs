//! The operators' routes: where they are, and where they are not. What they do to parked
//! streams and views is tried elsewhere.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Storage, TestApp};
use crate::client::{Call, Reply};

on_each_storage!(
    they_are_served_to_operators_alone,
    nothing_is_parked_at_first,
    a_rebuild_is_seen_to_its_end;
    locally: what_is_asked_wrongly_is_refused,
    pages_of_strangers_are_refused,
    addresses_are_a_list,
    a_taken_address_stops_the_start,
    a_stop_ends_them_too,
);

const ROUTES: [(&str, &str); 4] =
    [("GET", "/parked"), ("POST", "/parked/replay"), ("GET", "/rebuild"), ("POST", "/rebuild")];

impl TestApp {
    fn asked(&self, method: &str, path: &str) -> Call {
        self.call_at(self.admin(), method, path)
    }

    async fn ask(&self, method: &str, path: &str) -> Reply {
        self.asked(method, path).send().await
    }
}

async fn they_are_served_to_operators_alone(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let (named, others) = match storage {
        Storage::Services => ("projector-svc", "-svc"),
        _ => ("ADMIN_ADDR", "IP_PORT"),
    };
    for address in app.addresses() {
        for (method, path) in ROUTES {
            let error = app.call_at(address, method, path).send().await.fails(404).error();
            assert!(error.contains(named) && error.contains("8082"), "{error}");
        }
    }
    for path in ["/answers", "/v1/events", "/eventstore/ping", "/event", "/answers/k/history"] {
        let error = app.ask("GET", path).await.fails(404).error();
        assert!(error.contains(others), "{path}: {error}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/docs/", "/openapi.json", "/parked", "/rebuild"] {
        app.ask("GET", path).await.status(200);
        let head = app.ask("HEAD", path).await.status(200);
        assert!(head.body.is_empty());
    }
    assert!(app.ask("GET", "/metrics").await.text().contains("qaservice_parked_streams 0"));
    let document = app.ask("GET", "/openapi.json").await.json();
    for (method, path) in ROUTES {
        assert!(document["paths"][path][method.to_lowercase()].is_object(), "{method} {path}");
    }
    for (path, allowed) in
        [("/parked", vec!["GET", "HEAD"]), ("/parked/replay", vec!["POST"]), ("/rebuild", vec!["GET", "HEAD", "POST"])]
    {
        assert_eq!(app.ask("OPTIONS", path).await.status(204).allow(), allowed);
        assert_eq!(app.ask("DELETE", path).await.fails(405).allow(), allowed);
    }
    assert_eq!(app.ask("GET", "/parked/replay").await.fails(405).allow(), ["POST"]);
    app.ask("GET", "/nowhere").await.fails(404);
}

async fn nothing_is_parked_at_first(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("k", "v").await.created();
    let read = app.read("k", &created).await.status(200);
    assert_eq!(read.header("parked"), None);
    app.ask("GET", "/parked").await.is(200, &json!({"parked": [], "next": null}));
    let all = app.asked("POST", "/parked/replay");
    // As curl says it, whatever the type.
    all.header("content-type", "application/x-www-form-urlencoded")
        .body("{}")
        .send()
        .await
        .is(202, &json!({"streams": 0}));
    let one = app.asked("POST", "/parked/replay").json(&json!({"stream": "answer-k"})).send().await;
    one.is(404, &json!({"error": "stream is not parked"}));
}

async fn a_rebuild_is_seen_to_its_end(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("k", "v").await.created();
    app.read("k", &created).await.status(200);
    let asked = app.ask("POST", "/rebuild").await.status(202).json();
    assert_eq!(asked["state"], "running");
    let begun = std::time::Instant::now();
    let done = loop {
        let state = app.ask("GET", "/rebuild").await.status(200).json();
        assert_eq!(state["started_at"], asked["started_at"]);
        if state["state"] == "idle" {
            break state;
        }
        assert!(begun.elapsed() < crate::app::RECOVERY, "{state}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(done["finished_at"].as_str() >= done["started_at"].as_str(), "{done}");
    assert!(done["done"].as_u64() >= Some(created.position()) && done["done"] == done["total"], "{done}");
    app.read("k", &created).await.is(200, &json!({"key": "k", "value": "v"}));
}

async fn what_is_asked_wrongly_is_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for path in ["/parked?limit=0", "/parked?cursor=x", "/parked?stream=k", "/rebuild?all=1"] {
        app.ask("GET", path).await.fails(400);
    }
    for bad in ["{", "[]", r#"{"stream":7}"#, r#"{"stream":null}"#, r#"{"name":"k"}"#] {
        app.asked("POST", "/parked/replay").body(bad).send().await.fails(400);
    }
    let told = app.asked("GET", "/parked?limit=0").header("accept", "application/problem+json").send().await;
    assert_eq!(told.status, 400);
    assert_eq!(told.media_type(), "application/problem+json");
    let problem: Value = told.json();
    assert_eq!(problem["type"], "urn:qaservice:problem:bad-request");
    let told = app.asked("POST", "/parked/replay").header("accept", "application/problem+json");
    let told = told.body(r#"{"stream":"answer-k"}"#).send().await.status(404);
    assert_eq!(told.json()["type"], "urn:qaservice:problem:not-parked");
}

async fn pages_of_strangers_are_refused(storage: Storage) {
    let app = TestApp::settings(storage).var("CORS_ORIGINS", "https://app.example").spawn().await;
    for (method, path) in ROUTES.into_iter().filter(|(method, _)| *method == Method::POST) {
        app.asked(method, path).header("origin", "https://evil.example").send().await.fails(403);
        app.asked(method, path).header("host", "evil.example").send().await.fails(403);
    }
    app.asked("GET", "/parked").header("host", "evil.example").send().await.fails(403);
    let listed = app.asked("POST", "/parked/replay").header("origin", "https://app.example").send().await.status(202);
    assert_eq!(listed.header("access-control-allow-origin"), Some("https://app.example"));
}

async fn addresses_are_a_list(storage: Storage) {
    let app = TestApp::settings(storage).var("ADMIN_ADDR", "127.0.0.1:0, 127.0.0.1:0").spawn().await;
    let addresses: Vec<_> = app.serving()["admin"].as_str().unwrap().split(',').collect();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        app.call_at(address.parse().unwrap(), "GET", "/parked").send().await.status(200);
    }
}

async fn a_taken_address_stops_the_start(storage: Storage) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for addresses in [address.clone(), format!("127.0.0.1:0,{address}")] {
        let refused = TestApp::settings(storage).var("ADMIN_ADDR", &addresses).refused().await;
        assert!(refused.stderr.contains("ADMIN_ADDR: ") && refused.stderr.contains(&address), "{}", refused.stderr);
    }
}

async fn a_stop_ends_them_too(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let admin = app.admin();
    app.stop().await;
    assert!(app.call_at(admin, "GET", "/healthz").try_send().await.is_err());
}
