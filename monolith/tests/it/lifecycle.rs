//! From start to end: what stays, what a graceful end waits for, and what not.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    app::{RECOVERY, Storage, TestApp},
    client::{PATIENCE, Raw, Reply, answer, read_to_end},
};

on_each_storage!(
    either_signal_ends_it,
    while_it_drains_it_serves,
    what_is_in_flight_is_finished;
    locally: idle_connections_do_not_hold_up_the_end,
    unfinished_requests_do_not_hold_up_the_end,
    an_unread_response_does_not_hold_up_the_end,
    slow_clients_do_not_hold_up_others,
    a_waiting_read_does_not_hold_up_the_end,
);

async fn either_signal_ends_it(storage: Storage) {
    for signal in ["TERM", "INT"] {
        let mut app = TestApp::spawn(storage).await;
        app.create("k", "v").await.created();
        app.signal(signal);
        app.ends().await;
        assert!(TcpStream::connect(app.address()).await.is_err());
    }
}

async fn while_it_drains_it_serves(storage: Storage) {
    let mut app = TestApp::settings(storage).var("DRAIN_MS", "3000").spawn().await;
    app.get("/readyz").await.status(200);
    let begun = Instant::now();
    app.signal("TERM");
    loop {
        let ready = app.get("/readyz").await;
        if ready.status == 503 {
            break;
        }
        ready.status(200);
        assert!(begun.elapsed() < Duration::from_millis(2000), "still ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // On new connections, as a balancer would still make them.
    app.plain("GET", "/healthz", &[]).await.status(200);
    app.plain("GET", "/answers", &[]).await.status(200);
    let created = app.create("k", "v").await.created();
    app.read("k", &created).await.status(200);
    app.plain("GET", "/readyz", &[]).await.status(503);
    assert!(app.is_running());
    app.ends().await;
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_millis(2900), "ended after {lasted:?} already");
}

/// A connection on which so much of a request was sent.
async fn begin(app: &TestApp, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream
}

async fn what_is_in_flight_is_finished(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let body = "{\"key\":\"k\",\"value\":\"v\"}";
    let head = format!("POST /answers HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", app.address(), body.len());
    let mut stream = begin(&app, head + &body[..10]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    app.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let reply = Raw::parse(&read_to_end(&mut stream).await).status(201);
    assert_eq!(reply.json(), json!({"ok": "AnswerCreatedEvent"}));
    app.ends().await;
    if storage.is_durable() {
        app.start().await;
        assert_eq!(app.history("k").await.len(), 1);
    }
}

async fn idle_connections_do_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        // One that never said a word, and one that stays after its request.
        idle.push(begin(&app, "").await);
        let used = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", app.address());
        idle.push(begin(&app, used).await);
    }
    app.get("/healthz").await.status(200);
    app.stop().await;
}

async fn unfinished_requests_do_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let host = app.address();
    let mut unfinished = Vec::new();
    for bytes in [
        "G".to_owned(),
        "GET /answers HTTP/1.1\r\n".to_owned(),
        format!("GET /answers HTTP/1.1\r\nHost: {host}\r\nX-Slow: "),
        format!("POST /answers HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n"),
        format!("POST /answers HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{\"key\""),
        format!("PUT /answers/k HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{{\"v"),
    ] {
        unfinished.push(begin(&app, bytes).await);
    }
    app.get("/healthz").await.status(200);
    app.stop().await;
}

/// An answer whose history is larger than what sockets take unread.
async fn with_a_large_history(app: &TestApp) {
    let value = "v".repeat(500 * 1024);
    app.create("large", &value).await.created();
    for _ in 0..49 {
        app.update("large", &value).await.updated();
    }
}

fn large_history(app: &TestApp) -> String {
    format!("GET /answers/large/history HTTP/1.1\r\nHost: {}\r\n\r\n", app.address())
}

async fn an_unread_response_does_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    with_a_large_history(&app).await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(begin(&app, large_history(&app)).await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    app.stop().await;
}

async fn slow_clients_do_not_hold_up_others(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    with_a_large_history(&app).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(begin(&app, large_history(&app)).await);
    }
    for _ in 0..100 {
        slow.push(begin(&app, "GET /answers HTTP/1.1\r\nX-Slow: ").await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 0..50 {
        let work = async {
            let created = app.create(&format!("k{n}"), "v").await.created();
            app.read(&format!("k{n}"), &created).await.status(200);
        };
        timeout(Duration::from_secs(10), work).await.expect("others are served");
    }
    // 20 times 25 MB would be 500.
    assert!(app.resident_mib() < 400, "{} MiB", app.resident_mib());
    drop(slow);
}

async fn a_waiting_read_does_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "600000").spawn().await;
    let waiting = format!("GET /answers/k?await=1000000 HTTP/1.1\r\nHost: {}\r\n\r\n", app.address());
    let waiting = begin(&app, waiting).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    app.stop().await;
    drop(waiting);
}

/// Everything that can be read of some keys.
async fn snapshot(app: &TestApp, keys: &[&str]) -> Vec<(u16, Option<u64>, Value)> {
    let mut seen = Vec::new();
    let mut see = |reply: Reply| {
        let revision = reply.header("etag").map(|_| reply.revision());
        seen.push((reply.status, revision, reply.json()));
    };
    let awaited = app.get("/answers?limit=1000&await=1").await;
    see(awaited.clone());
    for key in keys {
        see(app.reading(&answer(key), &awaited).send().await);
        for path in ["history?detail=full", "history", "as-of?revision=0", "as-of?revision=1"] {
            see(app.get(&format!("{}/{path}", answer(key))).await);
        }
    }
    seen
}

async fn everything_stays(storage: Storage, end: impl AsyncFn(&mut TestApp)) {
    let mut app = TestApp::spawn(storage).await;
    let keys = ["a", "b", "c", "é/🔑", "never"];
    app.create("a", "1").await.created();
    app.create("b", "1").await.created();
    app.update("b", "2").await.updated();
    app.create("c", "1").await.created();
    app.delete("c").await.deleted();
    app.create("é/🔑", "\0\"\u{1f600}").await.created();
    let mut last = app.put("a", "2").await.updated();
    app.reading("/answers", &last).send().await.status(200);
    let before = snapshot(&app, &keys).await;
    assert_eq!(before[0].2["answers"].as_array().unwrap().len(), 3);

    for round in 0..if storage == Storage::Embedded { 3 } else { 1 } {
        end(&mut app).await;
        // What was answered can be awaited, and looks the same.
        awaited(&app, &last).await;
        assert_eq!(snapshot(&app, &keys).await, before, "round {round}");
        // The state is what commands are decided on, and positions go on growing.
        app.create("a", "x").await.exists();
        app.update("c", "x").await.not_found();
        let other = format!("other{round}");
        let next = app.create(&other, "v").await.created();
        assert!(next.position() > last.position());
        last = app.delete(&other).await.deleted();
        awaited(&app, &last).await;
    }
}

/// Waits for what a command did, as long as a recovery may take: a projector that was
/// killed has its turn for some seconds more.
async fn awaited(app: &TestApp, after: &Reply) {
    let begun = Instant::now();
    while app.reading("/answers", after).send().await.status != 200 {
        assert!(begun.elapsed() < RECOVERY, "the projector does not go on");
    }
}

/// Where it stays, and what of that is there.
fn durable() -> impl Iterator<Item = Storage> {
    [Storage::Embedded, Storage::Databases, Storage::Services].into_iter().filter(|storage| storage.is_there())
}

#[tokio::test]
async fn everything_stays_through_a_restart() {
    for storage in durable() {
        everything_stays(storage, async |app| app.restart().await).await;
    }
}

#[tokio::test]
async fn everything_stays_through_a_kill() {
    for storage in durable() {
        everything_stays(storage, async |app| {
            app.kill();
            app.start().await;
        })
        .await;
    }
}

#[tokio::test]
async fn memory_does_not_outlive_the_process() {
    let mut app = TestApp::spawn(Storage::Memory).await;
    app.create("k", "v").await.created();
    app.restart().await;
    app.get("/answers/k/history").await.not_found();
    app.create("k", "v").await.created();
}

/// Writers go on while the process is told to end: each success is there afterwards,
/// and nothing that was refused.
#[tokio::test]
async fn every_acknowledged_write_comes_through_an_end_under_load() {
    for signal in ["TERM", "KILL"] {
        let mut app = TestApp::spawn(Storage::Embedded).await;
        let writers = join_all((0..16).map(|writer| {
            let app = &app;
            async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let key = format!("{writer}-{n}");
                    let call = app.call("POST", "/answers").json(&json!({"key": key, "value": key}));
                    match call.try_send().await {
                        Ok(reply) if reply.status == 201 => acknowledged.push((key, reply)),
                        Ok(reply) if reply.status == 503 => {}
                        Ok(reply) => panic!("{}: {}", reply.status, reply.text()),
                        Err(_) => break,
                    }
                }
                acknowledged
            }
        }));
        let end = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            app.signal(signal);
        };
        let (acknowledged, ()) =
            timeout(PATIENCE, async { tokio::join!(writers, end) }).await.expect("the writers see the end");
        let acknowledged: Vec<(String, Reply)> = acknowledged.into_iter().flatten().collect();
        assert!(acknowledged.len() > 16, "{}", acknowledged.len());
        match signal {
            "TERM" => app.ends().await,
            _ => app.kill(),
        }
        app.start().await;
        for (key, reply) in &acknowledged {
            let read = app.read(key, reply).await;
            read.is(200, &json!({"key": key, "value": key}));
            let history = app.history(key).await;
            assert_eq!(history.len(), 1);
            assert_eq!(history[0]["position"], reply.position());
        }
    }
}

/// A disk that is too full refuses commands, in good time, and nothing else.
#[tokio::test]
async fn a_full_disk_refuses_commands_only() {
    let mut app = TestApp::spawn(Storage::Embedded).await;
    app.create("k", "v").await.created();
    app.stop().await;
    // More than any disk has.
    let full = app.same_settings().var("DISK_RESERVE_MB", "1000000000");
    let mut app = full.spawn().await;
    for _ in 0..3 {
        app.create("j", "v").await.busy();
        app.update("k", "w").await.busy();
        app.put("k", "w").await.busy();
        app.delete("k").await.busy();
        let line = "{\"op\":\"put\",\"key\":\"k\",\"value\":\"w\"}\n";
        let batch = app.call("POST", "/answers/batch").body(line).send().await;
        assert_eq!(batch.status(200).json()["status"], 503);
    }
    let is = json!({"key": "k", "value": "v"});
    app.get("/answers/k?await=1").await.is(200, &is);
    assert_eq!(app.history("k").await.len(), 1);
    app.get("/healthz").await.status(200);
    app.stop().await;
    // With room again it goes on.
    let app = app.same_settings().var("DISK_RESERVE_MB", "1").spawn().await;
    app.update("k", "w").await.updated();
    assert_eq!(app.history("k").await.len(), 2);
}
