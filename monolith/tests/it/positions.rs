//! Event-Position and Await-Position: to read what one wrote.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    app::{Storage, TestApp},
    client::Reply,
};

on_each_storage!(
    positions_only_grow,
    refusals_by_state_carry_the_event_they_rest_on,
    what_is_written_is_read,
    what_is_written_is_listed,
    a_read_waits_for_what_is_to_come,
    a_position_beyond_the_log_is_a_503,
    the_default_wait_is_5_s,
    malformed_positions_are_refused,
    a_read_carries_a_position_that_can_be_awaited,
    a_read_never_shows_anything_older,
    history_and_as_of_wait_for_nothing,
);

async fn positions_only_grow(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut last = 0;
    for n in 0..50 {
        let key = format!("k{}", n % 7);
        let reply = app.put(&key, "v").await;
        assert!(reply.position() > last, "{} after {last}", reply.position());
        last = reply.position();
        let batch = format!("{{\"op\":\"put\",\"key\":\"b{n}\",\"value\":\"v\"}}\n");
        let batch = app.call("POST", "/answers/batch").body(batch).send().await;
        let position = batch.json()["position"].as_u64().unwrap();
        assert!(position > last, "{position} after {last}");
        last = position;
    }
}

async fn refusals_by_state_carry_the_event_they_rest_on(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.update("k", "v").await.not_found().has_no_position();
    app.delete("k").await.not_found().has_no_position();
    let created = app.create("k", "v").await.created();
    app.create("other", "v").await.created();
    assert_eq!(app.create("k", "v").await.exists().position(), created.position());
    let updated = app.update("k", "w").await.updated();
    assert_eq!(app.create("k", "v").await.exists().position(), updated.position());
    let deleted = app.delete("k").await.deleted();
    app.create("another", "v").await.created();
    assert_eq!(app.update("k", "v").await.not_found().position(), deleted.position());
    assert_eq!(app.delete("k").await.not_found().position(), deleted.position());
    // A refusal can be awaited too: then the read shows why.
    let refused = app.delete("k").await.not_found();
    app.read("k", &refused).await.not_found();
    // What is malformed rests on nothing.
    app.create("k", "").await.fails(400).has_no_position();
}

async fn what_is_written_is_read(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut last = app.create("k", "v").await.created();
    for n in 0..300 {
        let value = n.to_string();
        let by_parameter = format!("/answers/k?await={}", last.position());
        assert_eq!(app.get(&by_parameter).await.status(200).revision(), last.revision());
        last = app.update("k", &value).await.updated();
        let read = app.read("k", &last).await.is(200, &json!({"key": "k", "value": value}));
        assert_eq!(read.revision(), last.revision());
        assert!(read.position() >= last.position());
        if n % 10 == 0 {
            let deleted = app.delete("k").await.deleted();
            app.read("k", &deleted).await.not_found();
            last = app.create("k", &value).await.created();
        }
    }
}

async fn what_is_written_is_listed(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for n in 0..100 {
        let key = format!("k{n:03}");
        let last = app.create(&key, "v").await.created();
        let path = format!("/answers?prefix={key}");
        let expected = json!({"answers": [{"key": key, "value": "v"}], "next": null});
        let list = app.reading(&path, &last).send().await.is(200, &expected);
        assert!(list.position() >= last.position());
        let path = format!("{path}&await={}", last.position());
        app.get(&path).await.is(200, &expected);
    }
}

async fn a_read_waits_for_what_is_to_come(storage: Storage) {
    let app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "30000").spawn().await;
    let created = app.create("k", "old").await.created();
    let beyond = (created.position() + 1).to_string();
    let begun = Instant::now();
    let read = app.call("GET", "/answers/k").header("Await-Position", &beyond).send();
    let write = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        app.update("k", "new").await.updated()
    };
    let (read, write) = tokio::join!(read, write);
    assert!(write.position() > created.position());
    read.is(200, &json!({"key": "k", "value": "new"}));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

async fn a_position_beyond_the_log_is_a_503(storage: Storage) {
    let app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "300").spawn().await;
    let created = app.create("k", "v").await.created();
    for beyond in [created.position() + 1_000_000, (1 << 53) - 1] {
        for path in ["/answers/k", "/answers/never", "/answers"] {
            let begun = Instant::now();
            app.call("GET", path).header("Await-Position", beyond.to_string()).send().await.busy();
            assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            let path = format!("{path}?await={beyond}");
            app.get(&path).await.busy();
        }
    }
    app.read("k", &created).await.status(200);
}

async fn the_default_wait_is_5_s(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let begun = Instant::now();
    app.get("/answers/k?await=1000000").await.busy();
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(4900), "{waited:?}");
    assert!(waited < Duration::from_secs(15), "{waited:?}");
}

async fn malformed_positions_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "v").await.created();
    for position in ["", "x", "-1", "1.5", "1e3", "0x1", "1 2", "\"1\"", "99999999999999999999999"] {
        for path in ["/answers/k", "/answers", "/answers/k/history", "/answers/k/as-of?revision=0"] {
            app.call("GET", path).header("Await-Position", position).send().await.fails(400);
        }
    }
    for path in ["/answers/k", "/answers"] {
        for position in ["", "x", "-1", "1.5", "99999999999999999999999"] {
            app.get(&format!("{path}?await={position}")).await.fails(400);
        }
    }
}

async fn a_read_carries_a_position_that_can_be_awaited(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.get("/answers?await=0").await.status(200);
    let mut last: Option<Reply> = None;
    for n in 0..20 {
        let written = app.put("k", &n.to_string()).await;
        for path in ["/answers/k", "/answers", "/answers/never"] {
            let read = app.reading(path, &written).send().await;
            assert!(read.position() >= written.position());
            // An idle system has reached it.
            let again = app.reading(path, &read).send().await;
            assert_eq!(again.status, read.status);
            assert_eq!(again.body, read.body);
            last = Some(again);
        }
    }
    // What reads carry grows, too.
    let last = last.unwrap();
    let later = app.put("k", "later").await;
    let read = app.read("k", &later).await;
    assert!(read.position() > last.position());
}

/// One client reads and hands the position on; what it saw must then be there.
async fn a_read_never_shows_anything_older(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let writes = async {
        for n in 1..=300 {
            app.update("k", &n.to_string()).await.updated();
        }
    };
    let reads = async {
        let mut seen = 0;
        let mut before = app.get("/answers/k?await=1").await.status(200);
        while seen < 300 {
            let read = app.reading("/answers/k", &before).send().await.status(200);
            let value: u64 = read.json()["value"].as_str().unwrap().parse().unwrap();
            assert_eq!(value, read.revision());
            assert!(value >= seen, "{value} after {seen}");
            assert!(read.position() >= before.position());
            let list = app.reading("/answers", &read).send().await.status(200);
            let listed = list.json()["answers"][0]["value"].as_str().unwrap().parse();
            assert!(listed.unwrap_or(0_u64) >= value);
            seen = value;
            before = read;
        }
    };
    tokio::join!(writes, reads);
}

async fn history_and_as_of_wait_for_nothing(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("k", "0").await.created();
    let updated = app.update("k", "1").await.updated();
    app.create("other", "v").await.created();
    let begun = Instant::now();
    for (path, position) in [
        ("/answers/k/history", updated.position()),
        ("/answers/k/history?detail=full", updated.position()),
        ("/answers/k/history?detail=full&limit=1", created.position()),
        ("/answers/k/history?detail=full&direction=backwards&limit=1", updated.position()),
        ("/answers/k/as-of?revision=0", created.position()),
        ("/answers/k/as-of?revision=1", updated.position()),
    ] {
        let reply = app.call("GET", path).header("Await-Position", "1000000000").send().await.status(200);
        assert_eq!(reply.position(), position, "{path}");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
