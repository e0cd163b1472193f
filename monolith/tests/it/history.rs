//! Histories: both shapes, pages, long ones.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::app::{Storage, TestApp};

on_each_storage!(
    the_plain_shape,
    the_full_shape,
    times_and_places_never_go_back,
    pages_forwards_and_backwards,
    the_bounds_of_the_parameters,
    a_long_history_comes_whole,
    large_values_come_whole,
);

async fn the_plain_shape(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("name", "john").await.created();
    app.update("name", "jack").await.updated();
    app.delete("name").await.deleted();
    let last = app.put("name", "jim").await.created();
    let history = app.get("/answers/name/history").await.is(
        200,
        &json!([
            {"type": "AnswerCreatedEvent", "data": {"key": "name", "value": "john"}},
            {"type": "AnswerUpdatedEvent", "data": {"key": "name", "value": "jack"}},
            {"type": "AnswerDeletedEvent", "data": {"key": "name", "value": ""}},
            {"type": "AnswerCreatedEvent", "data": {"key": "name", "value": "jim"}},
        ]),
    );
    assert_eq!(history.revision(), 3);
    assert_eq!(history.position(), last.position());
}

async fn the_full_shape(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let before = OffsetDateTime::now_utc() - Duration::SECOND;
    let replies = [
        app.create("k", "1").await.created(),
        app.update("k", "2").await.updated(),
        app.delete("k").await.deleted(),
        app.put("k", "3").await.created(),
        app.put("k", "4").await.updated(),
    ];
    let after = OffsetDateTime::now_utc() + Duration::SECOND;
    let history = app.history("k").await;
    let expected = [
        ("AnswerCreatedEvent", "create", "1"),
        ("AnswerUpdatedEvent", "update", "2"),
        ("AnswerDeletedEvent", "delete", ""),
        ("AnswerCreatedEvent", "create", "3"),
        ("AnswerUpdatedEvent", "update", "4"),
    ];
    assert_eq!(history.len(), expected.len());
    let mut ids = Vec::new();
    for (n, (event, (kind, name, value))) in history.iter().zip(expected).enumerate() {
        let mut members: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["data", "event", "id", "metadata", "position", "recorded_at", "revision", "type"]);
        assert_eq!(event["type"], kind);
        assert_eq!(event["event"], name);
        assert_eq!(event["data"], json!({"key": "k", "value": value}));
        assert_eq!(event["revision"], n);
        assert_eq!(event["position"], replies[n].position());
        assert!(event["metadata"].is_object(), "{event}");
        ids.push(event["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap());
        let recorded = recorded_at(event);
        assert!(before <= recorded && recorded <= after, "{event}");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5, "each event has its own id");
    assert_eq!(app.history("k").await, history, "a second read shows the same");
}

/// Asserts the form of the time: UTC, six fractional digits.
fn recorded_at(event: &Value) -> OffsetDateTime {
    let text = event["recorded_at"].as_str().unwrap();
    let time = OffsetDateTime::parse(text, &Rfc3339).unwrap();
    assert_eq!(time.offset(), UtcOffset::UTC, "{text}");
    let fraction = text.split_once('.').unwrap().1;
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    assert_eq!(digits, 6, "{text}");
    time
}

async fn times_and_places_never_go_back(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "v").await.created();
    futures::future::join_all((0..64).map(|_| app.update("k", "w"))).await;
    let history = app.history("k").await;
    assert_eq!(history.len(), 65);
    for (n, pair) in history.windows(2).enumerate() {
        assert_eq!(pair[1]["revision"], n + 1);
        assert!(recorded_at(&pair[0]) <= recorded_at(&pair[1]));
        assert!(pair[0]["position"].as_u64() < pair[1]["position"].as_u64());
    }
}

async fn pages_forwards_and_backwards(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    for n in 1..10 {
        app.update("k", &n.to_string()).await.updated();
    }
    let all = app.history("k").await;
    let page = async |query: &str| {
        let page = app.get(&format!("/answers/k/history?detail=full{query}")).await;
        page.status(200).json().as_array().unwrap().clone()
    };
    let mut backwards = all.clone();
    backwards.reverse();

    assert_eq!(page("&from=0").await, all);
    assert_eq!(page("&from=4").await, all[4..]);
    assert_eq!(page("&from=9").await, all[9..]);
    assert_eq!(page("&limit=3").await, all[..3]);
    assert_eq!(page("&from=4&limit=3").await, all[4..7]);
    assert_eq!(page("&from=8&limit=10000").await, all[8..]);
    assert_eq!(page("&direction=backwards").await, backwards);
    assert_eq!(page("&direction=backwards&limit=3").await, backwards[..3]);
    assert_eq!(page("&direction=backwards&from=4").await, backwards[5..]);
    assert_eq!(page("&direction=backwards&from=4&limit=2").await, backwards[5..7]);
    assert_eq!(page("&direction=backwards&from=0").await, all[..1]);

    let (mut whole, mut from) = (Vec::new(), 0);
    while from < 10 {
        let some = page(&format!("&from={from}&limit=4")).await;
        from += some.len();
        whole.extend(some);
    }
    assert_eq!(whole, all);
    // The plain shape is paged alike.
    let plain = app.get("/answers/k/history?from=2&limit=1").await;
    plain.is(200, &json!([{"type": "AnswerUpdatedEvent", "data": {"key": "k", "value": "2"}}]));
}

async fn the_bounds_of_the_parameters(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    for query in [
        "limit=0",
        "limit=10001",
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "limit=",
        "from=-1",
        "from=x",
        "from=0.5",
        "from=99999999999999999999999",
        "direction=sideways",
        "direction=",
        "detail=some",
    ] {
        app.get(&format!("/answers/k/history?{query}")).await.fails(400);
    }
    for query in ["limit=1", "limit=10000", "from=0"] {
        let reply = app.get(&format!("/answers/k/history?{query}")).await.status(200);
        assert_eq!(reply.json().as_array().unwrap().len(), 1, "{query}");
    }
}

async fn a_long_history_comes_whole(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let count = 3_000_usize;
    let mut lines = json!({"op": "create", "key": "k", "value": "0"}).to_string() + "\n";
    for n in 1..count {
        lines += &json!({"op": "update", "key": "k", "value": n.to_string()}).to_string();
        lines += "\n";
    }
    let reply = app.call("POST", "/answers/batch").body(lines).send().await.status(200);
    assert_eq!(reply.text().lines().count(), count);

    let plain = app.get("/answers/k/history").await.status(200);
    assert_eq!(plain.revision(), count as u64 - 1);
    let plain = plain.json();
    let plain = plain.as_array().unwrap();
    assert_eq!(plain.len(), count);
    for (n, event) in plain.iter().enumerate() {
        assert_eq!(event["data"]["value"], n.to_string());
    }

    let all = app.history("k").await;
    assert_eq!(all.len(), count);
    for (n, event) in all.iter().enumerate() {
        assert_eq!(event["revision"], n);
        assert_eq!(event["data"]["value"], n.to_string());
    }
    let backwards = app.get("/answers/k/history?detail=full&direction=backwards").await.status(200).json();
    assert!(backwards.as_array().unwrap().iter().eq(all.iter().rev()));
    let mut paged = Vec::new();
    while paged.len() < count {
        let path = format!("/answers/k/history?detail=full&limit=999&from={}", paged.len());
        let page = app.get(&path).await.status(200).json();
        assert!(!page.as_array().unwrap().is_empty());
        paged.extend(page.as_array().unwrap().iter().cloned());
    }
    assert!(paged == all);
}

async fn large_values_come_whole(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let value = |n: usize| format!("{n}").repeat(100 * 1024);
    app.create("k", &value(0)).await.created();
    for n in 1..10 {
        app.update("k", &value(n)).await.updated();
    }
    let history = app.get("/answers/k/history").await.status(200).json();
    let history = history.as_array().unwrap();
    assert_eq!(history.len(), 10);
    for (n, event) in history.iter().enumerate() {
        assert!(event["data"]["value"] == value(n), "event {n} differs");
    }
}
