//! What holds for every route: methods, problem details, health, metrics.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    app::{Storage, TestApp},
    client::{Raw, Reply, read_to_end},
};

on_each_storage!(
    head_is_a_get_without_a_body,
    an_unknown_path_is_a_404,
    failures_as_problem_details,
    plain_errors_without_asking_for_problems,
    health,
    metrics;
    locally: options_names_the_methods,
    a_wrong_method_is_a_405,
    pings,
    one_connection_serves_many_requests,
    requests_of_all_forms,
);

async fn head_is_a_get_without_a_body(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let last = app.update("k", "1").await.updated();
    for (path, status) in [
        ("/answers/k", 200),
        ("/answers/never", 404),
        ("/answers", 200),
        ("/answers?limit=0", 400),
        ("/answers/k/history", 200),
        ("/answers/never/history", 404),
        ("/answers/k/history?detail=full", 200),
        ("/answers/k/as-of?revision=0", 200),
        ("/answers/k/as-of", 400),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/eventstore/ping", 200),
        ("/projection/ping", 200),
        ("/nowhere", 404),
    ] {
        let get = app.reading(path, &last).send().await.status(status);
        let head =
            app.call("HEAD", path).header("Await-Position", last.position().to_string()).send().await.status(status);
        assert_eq!(head.body.len(), 0, "{path}");
        for header in ["etag", "content-type"] {
            assert_eq!(head.header(header), get.header(header), "{path}: {header}");
        }
        let positions = [&head, &get].map(|r| r.header("event-position").is_some());
        assert_eq!(positions[0], positions[1], "{path}");
    }
    // On the wire, too, nothing follows the head.
    let raw = app.plain("HEAD", "/answers/k", &[]).await.status(200);
    assert_eq!(raw.body, b"");
}

async fn options_names_the_methods(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (path, methods) in [
        ("/answers", vec!["GET", "HEAD", "PATCH", "POST"]),
        ("/answers/k", vec!["DELETE", "GET", "HEAD", "PATCH", "PUT"]),
        ("/answers/batch", vec!["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"]),
        ("/answers/k/history", vec!["GET", "HEAD"]),
        ("/answers/k/as-of", vec!["GET", "HEAD"]),
        ("/healthz", vec!["GET", "HEAD"]),
        ("/readyz", vec!["GET", "HEAD"]),
        ("/metrics", vec!["GET", "HEAD"]),
        ("/eventstore/ping", vec!["GET", "HEAD"]),
        ("/projection/ping", vec!["GET", "HEAD"]),
    ] {
        let reply = app.call("OPTIONS", path).send().await.status(204);
        assert_eq!(reply.allow(), methods, "{path}");
        assert_eq!(reply.body.len(), 0, "{path}");
    }
}

async fn a_wrong_method_is_a_405(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (method, path, allowed) in [
        ("PUT", "/answers", vec!["GET", "HEAD", "PATCH", "POST"]),
        ("DELETE", "/answers", vec!["GET", "HEAD", "PATCH", "POST"]),
        ("POST", "/answers/k", vec!["DELETE", "GET", "HEAD", "PATCH", "PUT"]),
        ("BREW", "/answers/k", vec!["DELETE", "GET", "HEAD", "PATCH", "PUT"]),
        ("BREW", "/answers/batch", vec!["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"]),
        ("POST", "/answers/k/history", vec!["GET", "HEAD"]),
        ("DELETE", "/answers/k/history", vec!["GET", "HEAD"]),
        ("PUT", "/answers/k/as-of", vec!["GET", "HEAD"]),
        ("POST", "/healthz", vec!["GET", "HEAD"]),
        ("DELETE", "/metrics", vec!["GET", "HEAD"]),
        ("POST", "/eventstore/ping", vec!["GET", "HEAD"]),
        ("POST", "/projection/ping", vec!["GET", "HEAD"]),
    ] {
        let reply = app.call(method, path).send().await.fails(405);
        assert_eq!(reply.allow(), allowed, "{method} {path}");
    }
    // Methods are told apart by case.
    app.plain("get", "/answers", &[]).await.fails(405);
    app.plain("BREW", "/answers", &[]).await.fails(405);
}

async fn an_unknown_path_is_a_404(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "v").await.created();
    for path in [
        "/nowhere",
        "/Answers",
        "/answer",
        "/answers/k/",
        "/answers/k/nowhere",
        "/answers/k/history/0",
        "/answers/k/history/",
        "/answers/k/as-of/0",
        "/eventstore",
        "/projection/pong",
        "/v2/answers",
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            app.call(method, path).send().await.fails(404);
        }
        app.call("HEAD", path).send().await.status(404);
    }
}

/// One failure of each kind, asked for as the client likes.
async fn failures(app: &TestApp, accept: &str) -> Vec<(u16, Reply)> {
    let big = "v".repeat(512 * 1024 + 1);
    let calls = [
        (400, app.call("POST", "/answers").body("{")),
        (400, app.call("GET", "/answers?limit=0")),
        (404, app.call("GET", "/answers/never")),
        (404, app.call("DELETE", "/answers/never")),
        (404, app.call("GET", "/answers/never/history")),
        (404, app.call("GET", "/nowhere")),
        (405, app.call("POST", "/answers/k")),
        (409, app.call("POST", "/answers").json(&json!({"key": "k", "value": "v"}))),
        (412, app.putting("k", "v").header("If-Match", "\"7\"")),
        (413, app.putting("k", &big)),
        (422, app.putting("k", "w").header("Idempotency-Key", "used")),
        (503, app.call("GET", "/answers?await=1000000")),
        (403, app.putting("k", "v").header("Origin", "http://evil.example")),
    ];
    let mut replies = Vec::new();
    for (status, call) in calls {
        replies.push((status, call.header("Accept", accept).send().await.status(status)));
    }
    replies
}

async fn failing_app(storage: Storage) -> TestApp {
    let app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "50").spawn().await;
    app.putting("k", "v").header("Idempotency-Key", "used").send().await.created();
    app
}

async fn failures_as_problem_details(storage: Storage) {
    let app = failing_app(storage).await;
    let mut types: BTreeMap<String, u16> = BTreeMap::new();
    for accept in [
        "application/problem+json",
        "application/problem+json, application/json;q=0.5",
        "application/json;q=0.5,application/problem+json",
    ] {
        for (status, reply) in failures(&app, accept).await {
            assert_eq!(reply.media_type(), "application/problem+json");
            let problem = reply.json();
            let member = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(problem["status"], status, "{problem}");
            for name in ["type", "title", "detail"] {
                assert!(!member(name).is_empty(), "{name} in {problem}");
            }
            // A type is that of one status, and does not change.
            let before = types.insert(member("type"), status);
            assert!(before.is_none_or(|before| before == status), "{problem}");
        }
    }
    // What comes along stays.
    let reply = app
        .call("POST", "/answers")
        .json(&json!({"key": "k", "value": "v"}))
        .header("Accept", "application/problem+json")
        .send()
        .await
        .status(409);
    assert_eq!(reply.json()["detail"], "Key exists");
    assert!(reply.position() >= 1);
    let reply = app.call("POST", "/answers/k").header("Accept", "application/problem+json").send().await.status(405);
    match storage {
        Storage::Services => assert_eq!(reply.allow(), ["DELETE", "PATCH", "PUT"]),
        _ => assert_eq!(reply.allow(), ["DELETE", "GET", "HEAD", "PATCH", "PUT"]),
    }
    // A success is none.
    let reply = app.call("GET", "/answers/k?await=1").header("Accept", "application/problem+json").send().await;
    reply.is(200, &json!({"key": "k", "value": "v"}));
}

async fn plain_errors_without_asking_for_problems(storage: Storage) {
    let app = failing_app(storage).await;
    for accept in ["*/*", "application/json", "text/html", "application/*"] {
        for (status, reply) in failures(&app, accept).await {
            reply.fails(status);
        }
    }
}

async fn pings(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for port in [0, 1] {
        for path in ["/eventstore/ping", "/projection/ping"] {
            app.call_on(port, "GET", path).send().await.is(200, &json!({"message": "pong"}));
        }
    }
}

async fn health(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.get("/healthz").await.status(200);
    app.get("/readyz").await.status(200);
    app.create("k", "v").await.created();
    app.get("/healthz").await.status(200);
    app.get("/readyz").await.status(200);
}

async fn metrics(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let key = "needle-zqxj";
    let created = app.create(key, "haystack-zqxj").await.created();
    app.read(key, &created).await.status(200);
    app.create(key, "x").await.exists();
    let reply = app.get("/metrics").await.status(200);
    assert_eq!(reply.media_type(), "text/plain");
    let text = reply.text();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let has = |parts: &[&str]| {
        text.lines().any(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
    };
    // Requests by route and status, with histograms of their latency.
    assert!(has(&["/answers", "201"]), "{text}");
    assert!(has(&["/answers", "409"]), "{text}");
    assert!(has(&["_bucket{", "le=\"+Inf\""]), "{text}");
    assert!(text.contains("# TYPE "));
    assert!(text.contains("# HELP "));
    // A route is a pattern, and what clients store stays with them.
    assert!(!text.contains("zqxj"), "{text}");
}

async fn one_connection_serves_many_requests(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let host = app.address();
    let mut requests = String::new();
    for n in 0..20 {
        let body = json!({"key": "k", "value": n.to_string()}).to_string();
        let method = if n == 0 { "POST" } else { "PATCH" };
        requests +=
            &format!("{method} /answers HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        // A refusal leaves the connection usable.
        requests += &format!("GET /nowhere HTTP/1.1\r\nHost: {host}\r\n\r\n");
    }
    requests += &format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let text = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
    let mut expected = vec!["201", "404"];
    expected.extend(["200", "404"].repeat(19));
    expected.push("200");
    assert_eq!(statuses, expected);
    assert_eq!(app.history("k").await.len(), 20);
}

async fn requests_of_all_forms(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("k", "v").await.created();
    let awaited = format!("Await-Position: {}", created.position());
    let is = json!({"key": "k", "value": "v"});
    let get =
        async |target: &str, headers: &[&str]| -> Value { app.plain("GET", target, headers).await.status(200).json() };
    assert_eq!(get("/answers/k", &[&awaited]).await, is);
    // The whole address as the target; header names in any case.
    let absolute = format!("http://{}/answers/k", app.address());
    assert_eq!(get(&absolute, &[&awaited]).await, is);
    assert_eq!(get("/answers/k", &[&awaited.to_uppercase()]).await, is);
    assert_eq!(get("/answers/k?", &[&awaited]).await, is);
    // What is no HTTP is refused, and the service goes on.
    let refused = app.raw("nonsense\r\n\r\n").await;
    assert_eq!(refused.status, 400);
    // Whether the refusal of endless headers reaches a client that still sends is up
    // to the two kernels; that no success comes, and that the service goes on, is not.
    let long = format!(
        "GET /answers/k HTTP/1.1\r\nHost: {}\r\nX-Long: {}\r\nConnection: close\r\n\r\n",
        app.address(),
        "x".repeat(2 << 20)
    );
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let _ = stream.write_all(long.as_bytes()).await;
    let refused = read_to_end(&mut stream).await;
    if !refused.is_empty() {
        let status = Raw::parse(&refused).status;
        assert!((400..500).contains(&status), "{status}");
    }
    app.read("k", &created).await.is(200, &is);
}
