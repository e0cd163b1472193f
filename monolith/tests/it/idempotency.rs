//! Safe retries: a command with an Idempotency-Key has one outcome.

use futures::future::join_all;
use serde_json::json;

use crate::{
    app::{Storage, TestApp},
    client::{Call, Reply},
};

on_each_storage!(
    a_repetition_gets_the_first_outcome,
    a_repetition_gets_it_whatever_happened_since,
    refusals_are_kept,
    what_is_malformed_is_not_kept,
    another_request_is_refused,
    malformed_keys_are_refused,
    the_longest_key,
    concurrent_repetitions_append_once,
    concurrent_requests_with_keys_of_their_own,
    without_a_key_nothing_is_repeated,
);

fn keyed(call: Call, key: &str) -> Call {
    call.header("Idempotency-Key", key)
}

fn posting(app: &TestApp, key: &str, value: &str) -> Call {
    app.call("POST", "/answers").json(&json!({"key": key, "value": value}))
}

#[track_caller]
fn assert_same(first: &Reply, again: &Reply) {
    assert_eq!(again.status, first.status);
    assert_eq!(again.body, first.body);
    for header in ["etag", "event-position", "content-type"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
}

async fn a_repetition_gets_the_first_outcome(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let calls: [(&str, &dyn Fn() -> Call); 5] = [
        ("post", &|| posting(&app, "k", "0")),
        ("patch", &|| app.patch("k", "1")),
        ("patch-body", &|| app.call("PATCH", "/answers").json(&json!({"key": "k", "value": "2"}))),
        ("put", &|| app.putting("k", "3")),
        ("delete", &|| app.deleting("k")),
    ];
    for (n, (name, call)) in calls.iter().enumerate() {
        let first = keyed(call(), name).send().await;
        assert!(first.status < 300, "{name}: {}", first.text());
        assert_eq!(first.revision(), n as u64);
        for _ in 0..3 {
            assert_same(&first, &keyed(call(), name).send().await);
        }
        assert_eq!(app.history("k").await.len(), n + 1);
    }
    // On the other port, too, where there is one.
    let first = keyed(posting(&app, "k", "0"), "post").send().await;
    let port = if storage == Storage::Services { 0 } else { 1 };
    let other = app.call_on(port, "POST", "/answers").json(&json!({"key": "k", "value": "0"}));
    assert_same(&first, &keyed(other, "post").send().await);
    assert_eq!(app.history("k").await.len(), 5);
}

async fn a_repetition_gets_it_whatever_happened_since(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let create = || keyed(posting(&app, "k", "0"), "create").send();
    let delete = || keyed(app.deleting("k"), "delete").send();
    let created = create().await.created();
    let deleted = delete().await.deleted();
    assert_same(&created, &create().await);
    app.read("k", &deleted).await.not_found();
    app.create("k", "again").await.created();
    assert_same(&deleted, &delete().await);
    assert_same(&created, &create().await);
    let put = || keyed(app.putting("k", "v"), "put").send();
    let updated = put().await.updated();
    app.delete("k").await.deleted();
    assert_same(&updated, &put().await);
    assert_eq!(app.history("k").await.len(), 5);

    let conditional =
        |revision: &'static str| keyed(app.putting("c", "v"), "conditional").header("If-Match", revision).send();
    app.create("c", "0").await.created();
    let first = conditional("\"0\"").await.updated();
    assert_same(&first, &conditional("\"0\"").await);
    assert_eq!(app.history("c").await.len(), 2);
}

async fn refusals_are_kept(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let missing = || keyed(app.patch("k", "x"), "404").send();
    let not_deleted = || keyed(app.deleting("k"), "404-delete").send();
    let existing = || keyed(posting(&app, "k", "x"), "409").send();
    let unmatched = || keyed(app.putting("k", "x"), "412").header("If-Match", "\"5\"").send();
    let not_only = || keyed(app.putting("k", "x"), "412-only").header("If-None-Match", "*").send();

    let first_missing = missing().await.not_found();
    let first_not_deleted = not_deleted().await.not_found();
    app.create("k", "0").await.created();
    let first_existing = existing().await.exists();
    let first_unmatched = unmatched().await.fails(412);
    let first_not_only = not_only().await.fails(412);
    // Each would be taken now.
    for n in 1..=5 {
        app.update("k", &n.to_string()).await.updated();
    }
    assert_same(&first_missing, &missing().await);
    assert_same(&first_not_deleted, &not_deleted().await);
    assert_same(&first_unmatched, &unmatched().await);
    app.delete("k").await.deleted();
    assert_same(&first_existing, &existing().await);
    assert_same(&first_not_only, &not_only().await);
    assert_eq!(app.history("k").await.len(), 7);
}

async fn what_is_malformed_is_not_kept(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let send = |body: &str| keyed(app.call("POST", "/answers").body(body.to_owned()), "mended").send();
    send("{").await.fails(400);
    send("{\"key\":\"k\"}").await.fails(400);
    let over = json!({"key": "k", "value": "v".repeat(512 * 1024 + 1)}).to_string();
    send(&over).await.fails(413);
    keyed(app.putting("k", "v"), "mended").header("If-Match", "x").send().await.fails(400);
    send("{\"key\":\"k\",\"value\":\"v\"}").await.created();
    // Now the first outcome is known, and looked up before anything else.
    send("{").await.fails(422);
    assert_eq!(app.history("k").await.len(), 1);
}

async fn another_request_is_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("live", "0").await.created();
    keyed(app.putting("k", "v"), "used").send().await.created();
    let others = [
        ("value", app.putting("k", "w")),
        ("path", app.putting("j", "v")),
        ("method", app.patch("k", "v")),
        ("method", app.deleting("k")),
        ("method and path", posting(&app, "k", "v")),
        ("condition", app.putting("k", "v").header("If-Match", "\"0\"")),
        ("condition", app.putting("k", "v").header("If-Match", "*")),
        ("condition", app.putting("k", "v").header("If-None-Match", "*")),
        ("everything", app.deleting("live")),
    ];
    for (what, call) in others {
        let reply = keyed(call, "used").send().await;
        assert_eq!(reply.status, 422, "another {what}");
        reply.fails(422);
    }
    // Refusals and conditional commands are held to their request, too.
    keyed(app.patch("never", "v"), "refused").send().await.not_found();
    keyed(app.patch("never", "w"), "refused").send().await.fails(422);
    let conditional = |tag: &'static str| keyed(app.patch("live", "v"), "conditional").header("If-Match", tag).send();
    conditional("\"0\"").await.updated();
    conditional("\"1\"").await.fails(422);
    keyed(app.patch("live", "v"), "conditional").send().await.fails(422);
    // The two ways to update are two requests.
    keyed(app.patch("live", "x"), "way").send().await.updated();
    let other = app.call("PATCH", "/answers").json(&json!({"key": "live", "value": "x"}));
    keyed(other, "way").send().await.fails(422);

    assert_eq!(app.history("k").await.len(), 1);
    assert_eq!(app.history("live").await.len(), 3);
    app.get("/answers/j/history").await.not_found();
}

async fn malformed_keys_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("live", "0").await.created();
    let over = "k".repeat(256);
    let keys: [&[u8]; 6] = [b"", b"a b", b"a\tb", "\u{e9}".as_bytes(), b"\xff", over.as_bytes()];
    for key in keys {
        for call in [posting(&app, "k", "v"), app.patch("live", "v"), app.putting("k", "v"), app.deleting("live")] {
            call.header("Idempotency-Key", key).send().await.fails(400);
        }
    }
    app.get("/answers/k/history").await.not_found();
    assert_eq!(app.history("live").await.len(), 1);
}

async fn the_longest_key(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let visible: String = ('!'..='~').collect();
    let longest = "k".repeat(255);
    // The same but for the last character.
    let other = format!("{}l", "k".repeat(254));
    for (n, key) in [visible.as_str(), &longest, &other, "!", "\"quoted\""].into_iter().enumerate() {
        let call = || keyed(posting(&app, &format!("k{n}"), "v"), key).send();
        let first = call().await.created();
        assert_same(&first, &call().await);
    }
}

async fn concurrent_repetitions_append_once(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for round in 0..10 {
        let key = format!("k{round}");
        let token = format!("token-{round}");
        let call = || keyed(app.putting(&key, "v"), &token);
        let replies = join_all((0..32).map(|_| call().send())).await;
        let (busy, done): (Vec<_>, Vec<_>) = replies.into_iter().partition(|r| r.status == 409);
        assert!(!done.is_empty());
        for reply in &done {
            assert_same(&done[0], &reply.clone().created());
        }
        for reply in busy {
            let reply = reply.is(409, &json!({"error": "request in progress"}));
            assert!(reply.header("retry-after").is_some());
        }
        assert_same(&done[0], &call().send().await);
        assert_eq!(app.history(&key).await.len(), 1);
    }
}

async fn concurrent_requests_with_keys_of_their_own(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("hot", "v").await.created();
    let tokens: Vec<String> = (0..64).map(|n| format!("token-{n}")).collect();
    let call = |n: usize| keyed(app.patch("hot", &n.to_string()), &tokens[n]).send();
    let first = join_all((0..64).map(call)).await;
    let again = join_all((0..64).map(call)).await;
    for (first, again) in first.into_iter().zip(again) {
        assert_same(&first.updated(), &again);
    }
    assert_eq!(app.history("hot").await.len(), 65);
}

async fn without_a_key_nothing_is_repeated(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    assert_eq!(app.put("k", "v").await.created().revision(), 0);
    assert_eq!(app.put("k", "v").await.updated().revision(), 1);
    assert_eq!(app.history("k").await.len(), 2);
}

/// What is kept on disk comes through either end.
mod durable {
    use super::*;

    async fn outcomes_come_through(end: impl AsyncFn(&mut TestApp)) {
        let mut app = TestApp::spawn(Storage::Embedded).await;
        let requests = |app: &TestApp| {
            [
                keyed(posting(app, "k", "0"), "created"),
                keyed(posting(app, "k", "1"), "exists"),
                keyed(app.patch("never", "1"), "missing"),
                keyed(app.patch("k", "1"), "unmatched").header("If-Match", "\"7\""),
                keyed(app.patch("k", "1"), "updated").header("If-Match", "\"0\""),
                keyed(app.deleting("k"), "deleted"),
            ]
        };
        let mut first = Vec::new();
        for call in requests(&app) {
            first.push(call.send().await);
        }
        let statuses: Vec<u16> = first.iter().map(|r| r.status).collect();
        assert_eq!(statuses, [201, 409, 404, 412, 200, 200]);
        let lines = "{\"op\":\"put\",\"key\":\"b\",\"value\":\"1\"}\n\n{\"op\":\"delete\",\"key\":\"c\"}\n";
        let batch = |app: &TestApp| keyed(app.call("POST", "/answers/batch").body(lines), "batch").send();
        let first_batch = batch(&app).await.status(200);

        for _ in 0..2 {
            end(&mut app).await;
            for (call, first) in requests(&app).into_iter().zip(&first) {
                assert_same(first, &call.send().await);
            }
            assert_eq!(batch(&app).await.status(200).body, first_batch.body);
            keyed(posting(&app, "k", "x"), "created").send().await.fails(422);
            assert_eq!(app.history("k").await.len(), 3);
            assert_eq!(app.history("b").await.len(), 1);
        }
    }

    #[tokio::test]
    async fn outcomes_come_through_a_restart() {
        outcomes_come_through(async |app| app.restart().await).await;
    }

    #[tokio::test]
    async fn outcomes_come_through_a_kill() {
        outcomes_come_through(async |app| {
            app.kill();
            app.start().await;
        })
        .await;
    }
}
