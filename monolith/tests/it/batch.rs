//! Many commands at once, as lines.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    app::{Storage, TestApp},
    client::{Lines, PATIENCE, Raw, read_to_end},
};

on_each_storage!(
    every_operation,
    a_bad_line_fails_alone,
    lines_of_one_key_take_effect_in_order,
    blank_lines_are_skipped_but_counted,
    lines_end_in_many_ways,
    an_empty_body_has_no_results,
    large_lines,
    results_come_while_lines_are_sent,
    each_line_can_be_repeated,
    a_batch_under_a_shutdown,
    a_malformed_idempotency_key_is_refused_at_once;
    locally: ten_thousand_results_wait,
    many_lines_are_answered_in_order,
    one_that_never_reads_is_cut_off,
    a_silent_sender_does_not_hold_up_the_end,
);

fn line(op: &str, key: &str, value: &str) -> String {
    let line = match op {
        "delete" => json!({"op": op, "key": key}),
        _ => json!({"op": op, "key": key, "value": value}),
    };
    line.to_string() + "\n"
}

fn results(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "each line ends");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

async fn send(app: &TestApp, body: impl Into<reqwest::Body>) -> Vec<Value> {
    let reply = app.call("POST", "/answers/batch").body(body).send().await.status(200);
    assert_eq!(reply.media_type(), "application/x-ndjson");
    results(&reply.text())
}

fn status(result: &Value) -> u64 {
    result["status"].as_u64().unwrap()
}

fn statuses(results: &[Value]) -> Vec<u64> {
    results.iter().map(status).collect()
}

async fn every_operation(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let body = [
        line("create", "a", "1"),
        line("create", "a", "x"),
        line("update", "a", "2"),
        line("put", "a", "3"),
        line("delete", "a", ""),
        line("delete", "a", ""),
        line("update", "a", "x"),
        line("put", "a", "4"),
    ];
    let results = send(&app, body.concat()).await;
    let expected = [
        (201, "ok", "AnswerCreatedEvent", Some(0)),
        (409, "error", "Key exists", None),
        (200, "ok", "AnswerUpdatedEvent", Some(1)),
        (200, "ok", "AnswerUpdatedEvent", Some(2)),
        (200, "ok", "AnswerDeletedEvent", Some(3)),
        (404, "error", "Key not found", None),
        (404, "error", "Key not found", None),
        (201, "ok", "AnswerCreatedEvent", Some(4)),
    ];
    assert_eq!(results.len(), expected.len());
    let mut positions = Vec::new();
    for (result, (code, member, text, revision)) in results.iter().zip(expected) {
        assert_eq!(status(result), code, "{result}");
        assert_eq!(result[member], text, "{result}");
        if let Some(revision) = revision {
            assert_eq!(result["revision"], revision);
            positions.push(result["position"].as_u64().unwrap());
            assert_eq!(result.as_object().unwrap().len(), 4, "{result}");
        }
    }
    assert!(positions.is_sorted_by(|a, b| a < b));
    let largest = positions.last().unwrap();
    app.get(&format!("/answers/a?await={largest}")).await.is(200, &json!({"key": "a", "value": "4"}));
    assert_eq!(app.history("a").await.len(), 5);
}

async fn a_bad_line_fails_alone(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let long = "k".repeat(513);
    let bad: Vec<Vec<u8>> = [
        "{",
        "x",
        "[]",
        "null",
        "\"create\"",
        "{}",
        "{\"op\":\"create\"}",
        "{\"op\":\"create\",\"key\":\"b\"}",
        "{\"op\":\"update\",\"key\":\"b\"}",
        "{\"op\":\"put\",\"key\":\"b\"}",
        "{\"op\":\"put\",\"value\":\"v\"}",
        "{\"op\":\"delete\"}",
        "{\"key\":\"b\",\"value\":\"v\"}",
        "{\"op\":\"Create\",\"key\":\"b\",\"value\":\"v\"}",
        "{\"op\":\"upsert\",\"key\":\"b\",\"value\":\"v\"}",
        "{\"op\":1,\"key\":\"b\",\"value\":\"v\"}",
        "{\"op\":\"put\",\"key\":1,\"value\":\"v\"}",
        "{\"op\":\"put\",\"key\":\"b\",\"value\":1}",
        "{\"op\":\"put\",\"key\":\"b\",\"value\":null}",
        "{\"op\":\"put\",\"key\":\"\",\"value\":\"v\"}",
        "{\"op\":\"put\",\"key\":\"b\",\"value\":\"\"}",
        "{\"op\":\"put\",\"key\":\".\",\"value\":\"v\"}",
        "{\"op\":\"put\",\"key\":\"..\",\"value\":\"v\"}",
        "{\"op\":\"put\",\"key\":\"a\\u0085\",\"value\":\"v\"}",
        "{\"op\":\"put\",\"key\":\"b\",\"value\":\"v\"} x",
        "{\"op\":\"put\",\"key\":\"b\",\"value\":\"v\"",
        "{\"op\":\"put\",\"key\":\"b\",\"value\":\"\\ud800\"}",
        &format!("{{\"op\":\"put\",\"key\":\"{long}\",\"value\":\"v\"}}"),
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([b"{\"op\":\"put\",\"key\":\"b\",\"value\":\"\xff\"}".to_vec()])
    .collect();
    let mut body = Vec::new();
    for (n, bad) in bad.iter().enumerate() {
        body.extend_from_slice(bad);
        body.push(b'\n');
        body.extend_from_slice(line("create", &format!("good{n}"), "v").as_bytes());
    }
    let results = send(&app, body).await;
    assert_eq!(results.len(), bad.len() * 2);
    for (pair, bad) in results.chunks(2).zip(&bad) {
        let bad = String::from_utf8_lossy(bad);
        assert_eq!(statuses(pair), [400, 201], "{bad}");
        assert!(!pair[0]["error"].as_str().unwrap().is_empty(), "{bad}");
        assert_eq!(pair[0].get("ok"), None, "{bad}");
    }
    app.get("/answers/b/history").await.not_found();
}

async fn lines_of_one_key_take_effect_in_order(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // Several keys in turn, each through its own whole life.
    let mut body = String::new();
    let mut expected = Vec::new();
    let mut revisions: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..100 {
        for key in ["a", "b", "c"] {
            for (op, code) in [("create", 201), ("update", 200), ("put", 200), ("delete", 200)] {
                body += &line(op, key, &format!("{round} {op}"));
                let revision = revisions.entry(key.to_owned()).or_default();
                expected.push((code, *revision));
                *revision += 1;
            }
        }
    }
    let results = send(&app, body).await;
    let got: Vec<(u64, u64)> =
        results.iter().map(|r| (status(r), r["revision"].as_u64().unwrap_or(u64::MAX))).collect();
    assert_eq!(got, expected);
    for key in ["a", "b", "c"] {
        let history = app.history(key).await;
        assert_eq!(history.len(), 400);
        for (n, event) in history.iter().enumerate() {
            let op = ["create", "update", "put", "delete"][n % 4];
            let value = match op {
                "delete" => String::new(),
                _ => format!("{} {op}", n / 4),
            };
            assert_eq!(event["data"]["value"], value);
        }
    }
}

async fn blank_lines_are_skipped_but_counted(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keyed = |body: String| app.call("POST", "/answers/batch").header("Idempotency-Key", "once").body(body);
    let first = keyed(format!("\n{}\n\n{}", line("create", "a", "1"), line("create", "b", "2")));
    let first = results(&first.send().await.status(200).text());
    assert_eq!(statuses(&first), [201, 201]);
    // `b` was on line 5, and so it is here; line 3 is new.
    let again = keyed(format!("\n\n{}\n{}", line("create", "c", "3"), line("create", "b", "2")));
    let again = results(&again.send().await.status(200).text());
    assert_eq!(statuses(&again), [201, 201]);
    assert_eq!(again[1], first[1]);
    // On another line it is another command, on a used one another body.
    let other = keyed(format!("{}{}", line("create", "b", "2"), line("create", "b", "2")));
    let other = results(&other.send().await.status(200).text());
    assert_eq!(statuses(&other), [409, 422]);
    for key in ["a", "b", "c"] {
        assert_eq!(app.history(key).await.len(), 1);
    }
}

async fn lines_end_in_many_ways(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let with_returns = line("create", "a", "1").replace('\n', "\r\n");
    let unended = line("create", "b", "2");
    let results = send(&app, format!("{with_returns}{}", unended.trim_end())).await;
    assert_eq!(statuses(&results), [201, 201]);
    // Lines are lines however the body is cut into pieces.
    let body = [line("update", "a", "é🔑"), line("update", "b", "3")].concat();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = body.bytes().map(|byte| Ok(vec![byte])).collect();
    let results = send(&app, reqwest::Body::wrap_stream(futures::stream::iter(pieces))).await;
    assert_eq!(statuses(&results), [200, 200]);
    let path = format!("/answers/a?await={}", results[1]["position"]);
    app.get(&path).await.is(200, &json!({"key": "a", "value": "é🔑"}));
}

async fn an_empty_body_has_no_results(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for body in ["", "\n", "\n\n\n"] {
        assert_eq!(send(&app, body).await, Vec::<Value>::new());
    }
}

async fn large_lines(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let padded = |key: &str, size: usize| {
        let frame = json!({"op": "put", "key": key, "value": "v", "x": ""}).to_string();
        frame.replace("\"x\":\"", &format!("\"x\":\"{}", "x".repeat(size - frame.len()))) + "\n"
    };
    let mib_4 = 4 * 1024 * 1024;
    assert_eq!(padded("a", mib_4).len(), mib_4 + 1, "the line and its end");
    let body = [
        line("put", "before", "v"),
        padded("fits", mib_4 - 1),
        padded("over", mib_4 + 2),
        line("put", "between", "v"),
        padded("far-over", 3 * mib_4),
        line("put", "value-fits", &"v".repeat(512 * 1024)),
        line("put", "value-over", &"v".repeat(512 * 1024 + 1)),
        line("put", "after", "v"),
    ];
    let results = send(&app, body.concat()).await;
    assert_eq!(statuses(&results), [201, 201, 413, 201, 413, 201, 413, 201]);
    for (n, key) in [(2, "over"), (4, "far-over"), (6, "value-over")] {
        assert!(!results[n]["error"].as_str().unwrap().is_empty());
        app.get(&format!("/answers/{key}/history")).await.not_found();
    }
}

/// A batch to which lines are sent as the test goes on.
struct Open {
    lines: UnboundedSender<Result<Bytes, std::io::Error>>,
    results: Lines,
}

impl Open {
    /// Sends the first line at once, for some servers answer only then.
    async fn with(app: &TestApp, first: String) -> Self {
        let (lines, body) = unbounded();
        lines.unbounded_send(Ok(first.into())).unwrap();
        let body = reqwest::Body::wrap_stream(body);
        let call = app.call("POST", "/answers/batch").body(body).open();
        let response = timeout(PATIENCE, call).await.expect("a head").unwrap();
        assert_eq!(response.status(), 200);
        Self { lines, results: Lines::new(response) }
    }

    fn send(&self, line: String) {
        self.lines.unbounded_send(Ok(line.into())).unwrap();
    }
}

async fn results_come_while_lines_are_sent(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut batch = Open::with(&app, line("create", "k", "0")).await;
    let mut result = batch.results.json().await.unwrap();
    assert_eq!(status(&result), 201);
    for n in 1..50_u64 {
        let path = format!("/answers/k?await={}", result["position"]);
        let read = app.get(&path).await.status(200);
        assert_eq!(read.revision(), n - 1);
        batch.send(line("update", "k", &n.to_string()));
        result = batch.results.json().await.unwrap();
        assert_eq!((status(&result), &result["revision"]), (200, &json!(n)));
    }
    drop(batch.lines);
    assert_eq!(batch.results.rest().await, Vec::<Value>::new());
}

/// The head of a batch that announces so many bytes.
fn head(app: &TestApp, length: usize) -> String {
    format!(
        "POST /answers/batch HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n",
        app.address()
    )
}

async fn ten_thousand_results_wait(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let body: String = (0..10_000).map(|n| line("create", &format!("k{n}"), "v")).collect();
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let request = head(&app, body.len()) + &body;
    // All of it is taken before a byte is read.
    timeout(PATIENCE, stream.write_all(request.as_bytes())).await.expect("everything is taken").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reply = Raw::parse(&read_to_end(&mut stream).await);
    assert_eq!(reply.status, 200);
    let results = results(&String::from_utf8(reply.body).unwrap());
    assert_eq!(results.len(), 10_000);
    assert!(results.iter().all(|r| status(r) == 201 && r["revision"] == 0));
}

async fn many_lines_are_answered_in_order(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // More than wait for a client, which this one reads while it sends.
    let mut body = String::new();
    for n in 0..30_000 {
        body += &match n % 3 {
            0 => line("create", &format!("k{n}"), "v"),
            1 => line("update", "never", "v"),
            _ => line("put", &format!("hot{}", n % 2), &n.to_string()),
        };
    }
    let results = send(&app, body).await;
    assert_eq!(results.len(), 30_000);
    for (n, result) in results.iter().enumerate() {
        match n % 3 {
            0 => assert_eq!((status(result), &result["revision"]), (201, &json!(0)), "{n}"),
            1 => assert_eq!(status(result), 404, "{n}"),
            _ => assert_eq!(result["revision"], n / 6, "{n}"),
        }
    }
    let largest = results.iter().filter_map(|r| r["position"].as_u64()).max().unwrap();
    for key in ["hot0", "hot1"] {
        let read = app.get(&format!("/answers/{key}?await={largest}")).await;
        assert_eq!(read.status(200).revision(), 4999);
    }
}

async fn one_that_never_reads_is_cut_off(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(app.address()).await.unwrap();
    let begun = Instant::now();
    stream.write_all(head(&app, usize::MAX / 4).as_bytes()).await.unwrap();
    let lines = line("delete", "never", "").repeat(1000);
    let cut = async { while stream.write_all(lines.as_bytes()).await.is_ok() {} };
    timeout(Duration::from_secs(120), cut).await.expect("the connection is cut");
    let after = begun.elapsed();
    assert!(after >= Duration::from_secs(25), "cut after {after:?} already");
    assert!(app.resident_mib() < 500, "{} MiB", app.resident_mib());
    app.create("k", "v").await.created();
}

async fn each_line_can_be_repeated(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let body = [
        line("create", "a", "1"),
        line("update", "a", "2"),
        line("create", "a", "x"),
        line("delete", "b", ""),
        line("put", "b", "1"),
        line("delete", "a", ""),
        line("put", "b", "2"),
    ]
    .concat();
    let keyed = |body: &str| {
        app.call("POST", "/answers/batch").header("Idempotency-Key", "a-batch").body(body.to_owned()).send()
    };
    let first = results(&keyed(&body).await.status(200).text());
    assert_eq!(statuses(&first), [201, 200, 409, 404, 201, 200, 200]);
    for _ in 0..2 {
        let again = results(&keyed(&body).await.status(200).text());
        assert_eq!(again, first);
    }
    assert_eq!(app.history("a").await.len(), 3);
    assert_eq!(app.history("b").await.len(), 2);
    // The first part of it, then all with one line changed.
    let part = body.lines().next().unwrap().to_owned() + "\n";
    let again = results(&keyed(&part).await.status(200).text());
    assert_eq!(again, first[..1]);
    let changed = body.replacen("\"2\"", "\"3\"", 1);
    let other = results(&keyed(&changed).await.status(200).text());
    assert_eq!(statuses(&other), [201, 422, 409, 404, 201, 200, 200]);
    assert_eq!(app.history("a").await.len(), 3);
}

async fn a_batch_under_a_shutdown(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let mut batch = Open::with(&app, line("create", "k", "0")).await;
    assert_eq!(status(&batch.results.json().await.unwrap()), 201);
    app.signal("TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    for n in 0..100 {
        batch.send(line("create", &format!("k{n}"), "v"));
    }
    drop(batch.lines);
    let results = batch.results.rest().await;
    assert_eq!(results.len(), 100);
    let begun = results.iter().take_while(|r| status(r) == 201).count();
    for result in &results[begun..] {
        assert_eq!(status(result), 503, "{result}");
        assert!(!result["error"].as_str().unwrap().is_empty());
    }
    app.ends().await;
}

async fn a_silent_sender_does_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let mut batch = Open::with(&app, line("create", "k", "0")).await;
    assert_eq!(status(&batch.results.json().await.unwrap()), 201);
    // Neither a line nor the end of the body comes any more.
    app.stop().await;
    drop(batch);
}

async fn a_malformed_idempotency_key_is_refused_at_once(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.call("POST", "/answers/batch")
        .header("Idempotency-Key", "a b")
        .body(line("create", "k", "0"))
        .send()
        .await
        .fails(400);
    app.get("/answers/k/history").await.not_found();
}
