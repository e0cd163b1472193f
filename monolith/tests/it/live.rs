//! Live histories by server-sent events.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::{
    app::{Storage, TestApp},
    client::{Event, Sse},
};

on_each_storage!(
    the_history_and_then_what_happens,
    a_stream_goes_on_after_the_last_event_seen,
    a_stream_joins_its_history_without_a_gap,
    every_stream_gets_every_event,
    streams_of_different_keys_do_not_mix,
    values_keep_to_their_event,
    without_a_history_there_is_no_stream,
    malformed_last_event_ids_are_refused,
    a_comment_keeps_a_stream_open,
    a_stream_does_not_hold_up_the_end,
    a_silent_client_does_not_hold_up_others,
);

fn event(id: u64, kind: &str, value: &str) -> Event {
    Event { id, data: json!({"type": kind, "data": {"key": "k", "value": value}}) }
}

async fn the_history_and_then_what_happens(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    app.update("k", "1").await.updated();
    let mut stream = Sse::open(&app, "k", None).await;
    assert_eq!(stream.next().await, event(0, "AnswerCreatedEvent", "0"));
    assert_eq!(stream.next().await, event(1, "AnswerUpdatedEvent", "1"));
    app.delete("k").await.deleted();
    assert_eq!(stream.next().await, event(2, "AnswerDeletedEvent", ""));
    app.put("k", "3").await.created();
    assert_eq!(stream.next().await, event(3, "AnswerCreatedEvent", "3"));
    app.create("k", "x").await.exists();
    app.put("k", "4").await.updated();
    assert_eq!(stream.next().await, event(4, "AnswerUpdatedEvent", "4"));
    let line = "{\"op\":\"update\",\"key\":\"k\",\"value\":\"5\"}\n";
    app.call("POST", "/answers/batch").body(line).send().await.status(200);
    assert_eq!(stream.next().await, event(5, "AnswerUpdatedEvent", "5"));
    // The elements are those of the history.
    let history = app.get("/answers/k/history").await.json();
    let mut again = Sse::open(&app, "k", None).await;
    for element in history.as_array().unwrap() {
        assert_eq!(again.next().await.data, *element);
    }
    // A deleted answer has a history, too.
    app.delete("k").await.deleted();
    let mut deleted = Sse::open(&app, "k", Some("5")).await;
    assert_eq!(deleted.next().await, event(6, "AnswerDeletedEvent", ""));
}

async fn a_stream_goes_on_after_the_last_event_seen(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    for n in 1..5 {
        app.update("k", &n.to_string()).await.updated();
    }
    for last in 0..4 {
        let mut stream = Sse::open(&app, "k", Some(&last.to_string())).await;
        for id in last + 1..5 {
            assert_eq!(stream.next().await, event(id, "AnswerUpdatedEvent", &id.to_string()));
        }
    }
    let mut stream = Sse::open(&app, "k", Some("4")).await;
    app.update("k", "5").await.updated();
    assert_eq!(stream.next().await, event(5, "AnswerUpdatedEvent", "5"));
}

async fn a_stream_joins_its_history_without_a_gap(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let writes = async {
        for n in 1..=400 {
            app.update("k", &n.to_string()).await.updated();
        }
    };
    let reads = join_all((0..8).map(async |n| {
        tokio::time::sleep(Duration::from_millis(20 * n)).await;
        let mut stream = Sse::open(&app, "k", None).await;
        for id in 0..=400 {
            let event = stream.next().await;
            assert_eq!(event.id, id);
            assert_eq!(event.data["data"]["value"], id.to_string());
        }
    }));
    tokio::join!(writes, reads);
}

async fn every_stream_gets_every_event(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let mut streams = join_all((0..50).map(|_| Sse::open(&app, "k", None))).await;
    // Beyond what any stream would buffer for a reader that is behind.
    let lines: String =
        (1..=1000).map(|n| json!({"op": "update", "key": "k", "value": n.to_string()}).to_string() + "\n").collect();
    app.call("POST", "/answers/batch").body(lines).send().await.status(200);
    for stream in &mut streams {
        for id in 0..=1000 {
            let event = stream.next().await;
            assert_eq!(event.id, id);
            assert_eq!(event.data["data"]["value"], id.to_string());
        }
    }
}

async fn streams_of_different_keys_do_not_mix(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys = ["k", "k2", "K", "k/history"];
    for key in keys {
        app.create(key, key).await.created();
    }
    let mut streams = join_all(keys.iter().map(|key| Sse::open(&app, key, None))).await;
    for n in 1..20 {
        for key in keys {
            app.update(key, &n.to_string()).await.updated();
        }
    }
    for (stream, key) in streams.iter_mut().zip(keys) {
        for id in 0..20 {
            let event = stream.next().await;
            assert_eq!((event.id, &event.data["data"]["key"]), (id, &json!(key)));
        }
    }
}

async fn values_keep_to_their_event(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let values = ["a\nb", "a\r\n\r\nid: 9\n\ndata: x", "\u{2028}", ": comment"];
    app.create("k", "0").await.created();
    let mut stream = Sse::open(&app, "k", Some("0")).await;
    for (n, value) in values.into_iter().enumerate() {
        app.update("k", value).await.updated();
        let expected = event(n as u64 + 1, "AnswerUpdatedEvent", value);
        assert_eq!(stream.next().await, expected);
    }
}

async fn without_a_history_there_is_no_stream(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.call("GET", "/answers/never/history").header("Accept", "text/event-stream").send().await.not_found();
}

async fn malformed_last_event_ids_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    for id in ["x", "-1", "1.5", "99999999999999999999999"] {
        app.call("GET", "/answers/k/history")
            .header("Accept", "text/event-stream")
            .header("Last-Event-ID", id)
            .send()
            .await
            .fails(400);
    }
}

async fn a_comment_keeps_a_stream_open(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let mut stream = Sse::open(&app, "k", None).await;
    assert_eq!(stream.next().await.id, 0);
    let begun = Instant::now();
    stream.comment().await;
    stream.comment().await;
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(45), "{waited:?}");
    assert!(waited > Duration::from_secs(14), "{waited:?}");
    app.update("k", "1").await.updated();
    assert_eq!(stream.next().await.id, 1);
}

async fn a_stream_does_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let mut streams = join_all((0..10).map(|_| Sse::open(&app, "k", None))).await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.id, 0);
    }
    app.stop().await;
    for stream in streams {
        stream.ended().await;
    }
}

async fn a_silent_client_does_not_hold_up_others(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    // Opened and never read, while more is sent than any socket takes.
    let silent = Sse::open(&app, "k", None).await;
    let mut reading = Sse::open(&app, "k", Some("0")).await;
    let value = "v".repeat(500 * 1024);
    for n in 1..=60 {
        app.update("k", &value).await.updated();
        let event = reading.next().await;
        assert_eq!(event.id, n);
        assert!(event.data["data"]["value"] == value.as_str());
    }
    app.stop().await;
    drop(silent);
}
