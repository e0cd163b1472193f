//! Bodies and values: what is malformed, what is too large, what is ignored.

use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::answer,
};

on_each_storage!(
    malformed_bodies_are_refused,
    an_error_says_where,
    the_content_type_does_not_matter,
    unnamed_members_are_ignored,
    values_are_kept_as_they_are,
    the_largest_value,
    the_largest_body,
);

const KIB_512: usize = 512 * 1024;
const MIB_4: usize = 4 * 1024 * 1024;

async fn malformed_bodies_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("live", "v").await.created();
    let bodies: Vec<&[u8]> = vec![
        b"",
        b" ",
        b"{",
        b"}",
        b"key=a&value=b",
        b"null",
        b"true",
        b"1",
        b"\"live\"",
        b"[]",
        b"[\"live\",\"v\"]",
        b"{}",
        b"{\"value\":\"v\"",
        b"{\"value\":\"v\",}",
        b"{'value':'v'}",
        b"{\"value\":\"v\"}{}",
        b"{\"value\":\"v\"} x",
        b"{\"value\":\"\xff\"}",
        b"{\"value\":\"\xc3\"}",
        b"{\"value\":\"\xed\xa0\x80\"}",
        b"{\"value\":\"\\ud800\"}",
        b"{\"value\":\"\\x\"}",
        b"{\"value\":\"a\nb\"}",
        b"{\"value\":\"\"}",
        b"{\"value\":null}",
        b"{\"value\":1}",
        b"{\"value\":true}",
        b"{\"value\":[]}",
        b"{\"value\":{}}",
        b"{\"Value\":\"v\"}",
    ];
    for body in bodies {
        for (method, path) in [("PUT", "/answers/live"), ("PATCH", "/answers/live")] {
            app.call(method, path).body(body.to_vec()).send().await.fails(400);
        }
        for method in ["POST", "PATCH"] {
            app.call(method, "/answers").body(body.to_vec()).send().await.fails(400);
        }
    }
    for body in [
        json!({"value": "v"}),
        json!({"key": "live"}),
        json!({"key": "", "value": "v"}),
        json!({"key": "live", "value": ""}),
        json!({"key": null, "value": "v"}),
        json!({"key": "live", "value": null}),
        json!({"key": 1, "value": "v"}),
        json!({"key": ["live"], "value": "v"}),
        json!({"key": {"key": "live"}, "value": "v"}),
        json!({"key": "live", "value": 1.5}),
        json!({"key": "live", "value": false}),
        json!({"key": "live", "value": ["v"]}),
        json!([{"key": "live", "value": "v"}]),
    ] {
        for method in ["POST", "PATCH"] {
            app.call(method, "/answers").json(&body).send().await.fails(400);
        }
    }
    assert_eq!(app.history("live").await.len(), 1, "nothing was recorded");
}

async fn an_error_says_where(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (body, named) in [
        (json!({"value": "v"}), "key"),
        (json!({"key": "", "value": "v"}), "key"),
        (json!({"key": 1, "value": "v"}), "key"),
        (json!({"key": "a\n", "value": "v"}), "key"),
        (json!({"key": "k"}), "value"),
        (json!({"key": "k", "value": ""}), "value"),
        (json!({"key": "k", "value": 1}), "value"),
    ] {
        let error = app.call("POST", "/answers").json(&body).send().await.fails(400).error();
        assert!(error.contains(named), "{body}: {error}");
    }
    for (path, named) in [
        ("/answers?limit=0", "limit"),
        ("/answers?limit=x", "limit"),
        ("/answers/k/history?from=x", "from"),
        ("/answers/k/history?limit=x", "limit"),
        ("/answers/k/history?direction=x", "direction"),
        ("/answers/k/as-of?revision=x", "revision"),
        ("/answers/k/as-of?time=x", "time"),
        ("/answers?await=x", "await"),
    ] {
        let error = app.get(path).await.fails(400).error();
        assert!(error.to_lowercase().contains(named), "{path}: {error}");
    }
}

async fn the_content_type_does_not_matter(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let types = [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("text/plain"),
        Some("application/json; charset=utf-8"),
        Some("application/octet-stream"),
        Some("multipart/form-data; boundary=x"),
        Some("nonsense"),
    ];
    for (n, kind) in types.into_iter().enumerate() {
        let key = format!("k{n}");
        for (method, path, status) in [
            ("POST", "/answers".to_owned(), 201),
            ("PATCH", "/answers".to_owned(), 200),
            ("PATCH", answer(&key), 200),
            ("PUT", answer(&key), 200),
        ] {
            let body = json!({"key": key, "value": "v"}).to_string();
            let mut call = app.call(method, &path).body(body);
            if let Some(kind) = kind {
                call = call.header("Content-Type", kind);
            }
            call.send().await.status(status);
        }
        let call = app.call("POST", "/answers/batch").body(format!("{{\"op\":\"delete\",\"key\":\"{key}\"}}\n"));
        let reply = match kind {
            Some(kind) => call.header("Content-Type", kind),
            None => call,
        }
        .send()
        .await
        .status(200);
        assert_eq!(reply.json()["ok"], "AnswerDeletedEvent");
    }
}

async fn unnamed_members_are_ignored(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let body = json!({
        "key": "k", "value": "v", "id": 1, "type": null, "nested": {"value": "w"},
        "list": [1, 2], "revision": 9, "op": "delete",
    });
    app.call("POST", "/answers").json(&body).send().await.created();
    app.call("PATCH", "/answers").json(&body).send().await.updated();
    app.call("PATCH", "/answers/k").json(&body).send().await.updated();
    let last = app.call("PUT", "/answers/k").json(&body).send().await.updated();
    app.read("k", &last).await.is(200, &json!({"key": "k", "value": "v"}));
    for event in app.get("/answers/k/history").await.json().as_array().unwrap() {
        assert_eq!(event["data"], json!({"key": "k", "value": "v"}));
    }
}

async fn values_are_kept_as_they_are(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (n, value) in [
        " ",
        "\n",
        "\0",
        "a\0b\u{1f}\u{7f}\u{85}\r\n\t",
        "\u{2028}\u{2029}",
        "e\u{301} \u{e9}",
        "🔑\u{10ffff}\u{fffd}\u{feff}",
        "\"\\/",
        "</script>",
        "null",
        "{\"json\":1}",
        "data: x\n\nid: 7",
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{n}");
        let created = app.create(&key, value).await.created();
        app.read(&key, &created).await.is(200, &json!({"key": key, "value": value}));
        app.get(&format!("/answers/{key}/history"))
            .await
            .is(200, &json!([{"type": "AnswerCreatedEvent", "data": {"key": key, "value": value}}]));
        app.get(&format!("/answers/{key}/as-of?revision=0")).await.is(200, &json!({"key": key, "value": value}));
    }
    // However they were escaped on the way in.
    let created = app
        .call("PUT", "/answers/escaped")
        .body("{\"value\":\"\\u0041\\ud83d\\udd11\\/\\u00e9\"}")
        .send()
        .await
        .created();
    app.read("escaped", &created).await.is(200, &json!({"key": "escaped", "value": "A🔑/\u{e9}"}));
}

async fn the_largest_value(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // A character and the bytes that it takes within JSON.
    for (n, (unit, encoded)) in [("a", 1), ("\"", 2), ("\n", 2), ("\u{1}", 6), ("🔑", 4)].into_iter().enumerate() {
        let key = format!("k{n}");
        let fits = unit.repeat(KIB_512 / encoded) + &"x".repeat(KIB_512 % encoded);
        assert_eq!(Value::from(fits.as_str()).to_string().len() - 2, KIB_512);
        let over = fits.clone() + "x";

        let created = app.create(&key, &fits).await.created();
        let read = app.read(&key, &created).await.status(200);
        assert!(read.json()["value"] == fits, "{unit:?} came back changed");
        app.update(&key, &over).await.fails(413);
        app.put(&key, &over).await.fails(413);
        app.create(&format!("over{n}"), &over).await.fails(413);
        app.update(&key, &fits).await.updated();
        assert_eq!(app.history(&key).await.len(), 2);
    }
}

async fn the_largest_body(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let body = |key: &str, size: usize| {
        let frame = format!("{{\"key\":\"{key}\",\"value\":\"v\",\"ignored\":\"\"}}");
        frame.replace("ignored\":\"", &format!("ignored\":\"{}", "x".repeat(size - frame.len())))
    };
    assert_eq!(body("fits", MIB_4).len(), MIB_4);
    app.call("POST", "/answers").body(body("fits", MIB_4)).send().await.created();
    for (method, path) in
        [("POST", "/answers"), ("PATCH", "/answers"), ("PATCH", "/answers/fits"), ("PUT", "/answers/fits")]
    {
        app.call(method, path).body(body("fits", MIB_4 + 1)).send().await.fails(413);
    }
    // Without a length said before.
    let parts = body("chunked", MIB_4 + 1).into_bytes();
    let parts: Vec<Result<Vec<u8>, std::io::Error>> = parts.chunks(100_000).map(|part| Ok(part.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures::stream::iter(parts));
    app.call("POST", "/answers").body(body).send().await.fails(413);
    app.get("/answers/chunked/history").await.not_found();
    assert_eq!(app.history("fits").await.len(), 1);
}
