//! Keys: what may be one, how it is written in paths, and that it is kept as it is.

use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::{Reply, answer, enc},
};

on_each_storage!(
    every_key_goes_through_every_call,
    names_of_routes_are_keys,
    keys_are_not_normalised,
    escapes_are_read_in_either_case,
    the_longest_key,
    control_characters_are_refused,
    dots_alone_are_refused,
    malformed_paths_are_refused,
    the_key_of_the_body_is_that_of_the_path,
);

/// Keys that trip up naive routers and stores.
const KEYS: [&str; 33] = [
    "a/b",
    "/",
    "//",
    "a/history",
    "a/as-of",
    "../a",
    "a/..",
    "a b",
    " ",
    " a ",
    "🔑",
    "👩‍👩‍👧‍👦",
    "%",
    "%2F",
    "a%20b",
    "a+b",
    "a?b#c",
    "a&b=c;d",
    "'; DROP TABLE answers; --",
    "\"quoted\\\"",
    "{key}",
    ":key",
    "*",
    "_%",
    "...",
    ".a",
    "naïve",
    "\u{a0}",
    "\u{ad}",
    "\u{feff}bom",
    "\u{200d}",
    "\u{fffd}\u{ffff}",
    "\u{10ffff}",
];

async fn every_key_goes_through_every_call(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for key in KEYS {
        goes_through_every_call(&app, key).await;
    }
}

async fn names_of_routes_are_keys(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for key in ["batch", "history", "as-of", "answers", "healthz"] {
        goes_through_every_call(&app, key).await;
    }
}

async fn goes_through_every_call(app: &TestApp, key: &str) {
    let path = answer(key);
    app.create(key, "1").await.created();
    app.create(key, "1").await.exists();
    let updated = app.update(key, "2").await.updated();
    let is = json!({"key": key, "value": "2"});
    assert_eq!(app.read(key, &updated).await.is(200, &is).revision(), 1);
    let list = format!("/answers?prefix={}", enc(key));
    let list = app.reading(&list, &updated).send().await.status(200);
    let listed = list.json()["answers"].as_array().unwrap().clone();
    assert!(listed.contains(&is), "{key:?} in {listed:?}");
    app.get(&format!("{path}/as-of?revision=0")).await.is(200, &json!({"key": key, "value": "1"}));
    app.put(key, "3").await.updated();
    app.call("PATCH", "/answers").json(&json!({"key": key, "value": "4"})).send().await.updated();
    app.delete(key).await.deleted();
    let history = app.get(&format!("{path}/history")).await.status(200);
    let history = history.json();
    let history = history.as_array().unwrap();
    assert_eq!(history.len(), 5);
    assert!(history.iter().all(|event| event["data"]["key"] == key));
}

async fn keys_are_not_normalised(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // Composed, decomposed; two cases; a ligature; with and without a space.
    let keys = ["\u{e9}", "e\u{301}", "Key", "key", "KEY", "ﬁ", "fi", "fi "];
    let mut last = None;
    for (n, key) in keys.iter().enumerate() {
        last = Some(app.create(key, &n.to_string()).await.created());
    }
    for (n, key) in keys.iter().enumerate() {
        app.read(key, last.as_ref().unwrap()).await.is(200, &json!({"key": key, "value": n.to_string()}));
    }
}

async fn escapes_are_read_in_either_case(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("a/b\u{e9}", "v").await.created();
    for path in ["/answers/a%2Fb%C3%A9", "/answers/a%2fb%c3%a9", "/answers/%61%2Fb%C3%A9"] {
        app.reading(path, &created).send().await.is(200, &json!({"key": "a/b\u{e9}", "value": "v"}));
    }
    // A slash that is not escaped divides the path.
    app.get("/answers/a/b%C3%A9").await.fails(404);
    // A plus is a plus.
    let created = app.create("a+b", "plus").await.created();
    app.reading("/answers/a+b", &created).send().await.is(200, &json!({"key": "a+b", "value": "plus"}));
}

async fn the_longest_key(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for unit in ["a", "\u{e9}", "🔑", "/"] {
        let longest = unit.repeat(512 / unit.len());
        assert_eq!(longest.len(), 512);
        let created = app.create(&longest, "v").await.created();
        app.read(&longest, &created).await.is(200, &json!({"key": longest, "value": "v"}));
        app.delete(&longest).await.deleted();

        let over = longest + "x";
        for reply in every_call(&app, &over).await {
            reply.fails(400);
        }
    }
}

async fn control_characters_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for c in ['\0', '\u{1}', '\t', '\n', '\r', '\u{1f}', '\u{7f}', '\u{80}', '\u{85}', '\u{9f}'] {
        for key in [format!("a{c}b"), c.to_string()] {
            for reply in every_call(&app, &key).await {
                reply.fails(400);
            }
        }
    }
}

/// Each call that names a key, in the body or in the path.
async fn every_call(app: &TestApp, key: &str) -> Vec<Reply> {
    let path = answer(key);
    vec![
        app.create(key, "v").await,
        app.call("PATCH", "/answers").json(&json!({"key": key, "value": "v"})).send().await,
        app.update(key, "v").await,
        app.put(key, "v").await,
        app.delete(key).await,
        app.get(&path).await,
        app.get(&format!("{path}/history")).await,
        app.get(&format!("{path}/as-of?revision=0")).await,
    ]
}

async fn dots_alone_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for key in [".", ".."] {
        app.create(key, "v").await.fails(400);
        app.call("PATCH", "/answers").json(&json!({"key": key, "value": "v"})).send().await.fails(400);
    }
    // Clients tidy such paths away, so they are sent as they are.
    for key in [".", "..", "%2e", "%2E%2E", ".%2e"] {
        for suffix in ["", "/history", "/as-of?revision=0"] {
            let target = format!("/answers/{key}{suffix}");
            app.plain("GET", &target, &[]).await.fails(400);
        }
        let target = format!("/answers/{key}");
        app.plain("DELETE", &target, &[]).await.fails(400);
        for method in ["PUT", "PATCH"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
                 Content-Length: 13\r\n\r\n{{\"value\":\"v\"}}",
                app.address()
            );
            app.raw(request).await.fails(400);
        }
    }
    app.create("...", "v").await.created();
}

async fn malformed_paths_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for key in ["%ff", "%c3%28", "a%80", "%ed%a0%80"] {
        for suffix in ["", "/history", "/as-of?revision=0"] {
            let target = format!("/answers/{key}{suffix}");
            app.plain("GET", &target, &[]).await.fails(400);
        }
        app.plain("DELETE", &format!("/answers/{key}"), &[]).await.fails(400);
    }
}

async fn the_key_of_the_body_is_that_of_the_path(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let send = |method: &'static str, body: Value| app.call(method, "/answers/a%2Fb").json(&body).send();
    send("PUT", json!({"key": "a/b", "value": "1"})).await.created();
    send("PUT", json!({"key": "a/b", "value": "2"})).await.updated();
    send("PATCH", json!({"key": "a/b", "value": "3"})).await.updated();
    for method in ["PUT", "PATCH"] {
        for key in [json!("b"), json!("a%2Fb"), json!("A/b"), json!(""), json!(7)] {
            send(method, json!({"key": key, "value": "4"})).await.fails(400);
        }
    }
    assert_eq!(app.history("a/b").await.len(), 3);
    app.get("/answers/b/history").await.not_found();
}
