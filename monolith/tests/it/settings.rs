//! Settings: what is chosen and said at start, and what stops it.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::app::{GRACE, Refused, Settings, Storage, TestApp};

on_each_storage!(
    locally: the_start_says_what_was_chosen,
    a_bad_value_stops_the_start,
    every_setting_has_its_use,
    the_file_is_read_and_the_environment_wins,
    addresses_of_all_forms,
    a_taken_port_stops_the_start,
    every_line_of_the_log_is_json,
    no_secrets_in_the_log,
);

#[track_caller]
fn assert_names(refused: &Refused, variable: &str) {
    assert!(refused.stderr.contains(variable), "{variable} is not named: {}", refused.stderr);
    assert!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
    let quickly = Duration::from_secs(10);
    assert!(refused.after < quickly, "{variable}: {:?}", refused.after);
}

async fn the_start_says_what_was_chosen(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let line = app.serving();
    assert_eq!(line["storage"], storage.name());
    assert!(!line["why"].as_str().unwrap().is_empty());
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(app.addresses().len(), 2);
    assert!(app.addresses().iter().all(|a| a.port() != 0 && a.ip().is_loopback()));
    assert_eq!(app.log().matches("\"serving\"").count(), 1);
    // Memory leaves nothing behind.
    let data = app.folder().join("data");
    app.create("k", "v").await.created();
    assert_eq!(data.is_dir(), storage == Storage::Embedded);
}

async fn a_bad_value_stops_the_start(storage: Storage) {
    let mut checks = Vec::new();
    for (variable, values) in [
        ("IP_PORT", vec!["nonsense", "127.0.0.1:99999", "127.0.0.1:0,x", "999.0.0.1:0"]),
        ("ADMIN_ADDR", vec!["nonsense", "8082", "127.0.0.1:0,", "999.0.0.1:0"]),
        ("DISK_RESERVE_MB", vec!["x", "-1", "1.5"]),
        ("AWAIT_TIMEOUT_MS", vec!["x", "-1", "5s"]),
        ("DRAIN_MS", vec!["x", "-1"]),
        ("IDEMPOTENCY_TTL_S", vec!["x", "-1"]),
        ("LOG_FORMAT", vec!["xml", "JSON5"]),
        ("RUST_LOG", vec!["[[[", "qaservice=loudest"]),
        ("PUBLIC_URL", vec!["nonsense", "ftp://qa.example", "//qa.example"]),
        ("CORS_ORIGINS", vec!["nonsense", "https://app.example,x"]),
        ("ALLOWED_HOSTS", vec!["http://qa.example", "a b"]),
    ] {
        for value in values {
            let settings = TestApp::settings(storage).var(variable, value);
            checks.push(async move { assert_names(&settings.refused().await, variable) });
        }
    }
    // A few at a time, for each is a process.
    for check in checks {
        check.await;
    }
}

async fn every_setting_has_its_use(storage: Storage) {
    let app = TestApp::settings(storage)
        .var("DISK_RESERVE_MB", "1")
        .var("AWAIT_TIMEOUT_MS", "100")
        .var("DRAIN_MS", "1")
        .var("IDEMPOTENCY_TTL_S", "86400")
        .var("RUST_LOG", "warn,monolith=info,info")
        .var("PUBLIC_URL", "https://qa.example/answers")
        .var("CORS_ORIGINS", "https://app.example")
        .var("ALLOWED_HOSTS", "qa.example")
        .spawn()
        .await;
    app.create("k", "v").await.created();
}

async fn the_file_is_read_and_the_environment_wins(storage: Storage) {
    let refused = TestApp::settings(storage).dotenv("AWAIT_TIMEOUT_MS=soon\n").refused().await;
    assert_names(&refused, "AWAIT_TIMEOUT_MS");

    let app = TestApp::settings(storage)
        .dotenv("# a comment\nALLOWED_HOSTS=from.file\nAWAIT_TIMEOUT_MS=never\nLOG_FORMAT=xml\n")
        .var("AWAIT_TIMEOUT_MS", "100")
        .spawn()
        .await;
    app.plain("GET", "/answers", &["Host: from.file"]).await.status(200);
    app.plain("GET", "/answers", &["Host: from.elsewhere"]).await.fails(403);
    let begun = Instant::now();
    app.get("/answers?await=1000000").await.busy();
    assert!(begun.elapsed() < Duration::from_secs(4));
}

async fn addresses_of_all_forms(storage: Storage) {
    for (addresses, loopback) in [
        ("127.0.0.1:0", vec![true]),
        (":0", vec![false]),
        ("0.0.0.0:0", vec![false]),
        ("127.0.0.1:0,:0", vec![true, false]),
        ("127.0.0.1:0, 127.0.0.1:0,127.0.0.1:0", vec![true; 3]),
    ] {
        let app = TestApp::settings(storage).var("IP_PORT", addresses).spawn().await;
        let got: Vec<bool> = app.addresses().iter().map(|a| a.ip().is_loopback()).collect();
        assert_eq!(got, loopback, "{addresses}");
        for port in 0..loopback.len() {
            app.call_on(port, "GET", "/healthz").send().await.status(200);
        }
    }
}

async fn a_taken_port_stops_the_start(storage: Storage) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for addresses in [address.clone(), format!("127.0.0.1:0,{address}")] {
        let refused = TestApp::settings(storage).var("IP_PORT", &addresses).refused().await;
        assert_names(&refused, &address);
    }
}

async fn every_line_of_the_log_is_json(storage: Storage) {
    let mut app = TestApp::settings(storage).var("RUST_LOG", "debug").spawn().await;
    app.create("k", "v").await.created();
    app.create("k", "v").await.exists();
    app.get("/nowhere").await.fails(404);
    app.call("POST", "/answers").body("{").send().await.fails(400);
    app.stop().await;
    for line in app.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["level"].is_string(), "{line}");
        assert!(line["timestamp"].is_string(), "{line}");
    }
}

async fn no_secrets_in_the_log(storage: Storage) {
    let mut app = TestApp::settings(storage).var("RUST_LOG", "debug").spawn().await;
    let secret = "s3cret-0451";
    app.create("k", secret).await.created();
    app.putting("k", secret)
        .header("Authorization", format!("Bearer {secret}"))
        .header("Cookie", format!("session={secret}"))
        .send()
        .await
        .updated();
    app.call("POST", "/answers").body(format!("{{\"key\":\"j\",\"value\":\"{secret}\"")).send().await.fails(400);
    app.call("POST", "/answers/batch")
        .body(format!("{{\"op\":\"put\",\"key\":\"b\",\"value\":\"{secret}\"}}\n"))
        .send()
        .await
        .status(200);
    app.get("/answers/k/history").await.status(200);
    assert!(!app.get("/metrics").await.text().contains(secret));
    app.stop().await;
    assert!(!app.log().contains(secret), "{}", app.log());
}

fn hosts(settings: Settings, eventstore: Option<&str>, mongodb: Option<&str>) -> Settings {
    let settings = match eventstore {
        Some(host) => settings.var("EVENTSTORE_HOST", host),
        None => settings,
    };
    match mongodb {
        Some(host) => settings.var("MONGODB_HOST", host),
        None => settings,
    }
}

#[tokio::test]
async fn one_database_alone_stops_the_start() {
    let embedded = || TestApp::settings(Storage::Embedded);
    let refused = hosts(embedded(), Some("localhost"), None).refused().await;
    assert_names(&refused, "MONGODB_HOST");
    let refused = hosts(embedded(), None, Some("localhost")).refused().await;
    assert_names(&refused, "EVENTSTORE_HOST");
    assert!(!embedded().folder().join("data").exists());
}

/// They need not be there, and are never replaced by another store.
#[tokio::test]
async fn both_databases_are_chosen() {
    let settings = hosts(
        TestApp::settings(Storage::Embedded),
        Some("esdb://admin:s3cret-0451@localhost:1?tls=false"),
        Some("mongodb://root:s3cret-0451@localhost:1"),
    );
    let app = settings.launch().await;
    assert_eq!(app.serving()["storage"], Storage::Databases.name());
    let why = app.serving()["why"].as_str().unwrap();
    assert!(why.contains("EVENTSTORE_HOST") && why.contains("MONGODB_HOST"), "{why}");
    app.get("/healthz").await.status(200);
    let told = app.get("/readyz").await.fails(503).text();
    assert!(!app.folder().join("data").exists());
    assert!(!app.log().contains("s3cret") && !told.contains("s3cret"), "{told} {}", app.log());
}

#[tokio::test]
async fn memory_is_chosen_before_the_databases() {
    let settings = hosts(TestApp::settings(Storage::Memory), Some("localhost"), Some("localhost"));
    assert_eq!(settings.spawn().await.serving()["storage"], "memory");
}

#[tokio::test]
async fn memory_by_two_dashes() {
    let app = TestApp::settings(Storage::Embedded).arg("--memdb").spawn().await;
    assert_eq!(app.serving()["storage"], "memory");
    assert!(!app.folder().join("data").exists());
}

#[tokio::test]
async fn the_default_folder_is_data() {
    let app = TestApp::settings(Storage::Memory).without_args().without("DATA_DIR").spawn().await;
    assert_eq!(app.serving()["storage"], "embedded");
    app.create("k", "v").await.created();
    assert!(app.folder().join("data").is_dir());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_stops_the_start() {
    let settings = TestApp::settings(Storage::Embedded);
    std::fs::write(settings.folder().join("data"), "a file").unwrap();
    assert_names(&settings.refused().await, "DATA_DIR");
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_stops() {
    let mut app = TestApp::spawn(Storage::Embedded).await;
    let created = app.create("k", "v").await.created();
    let refused = app.same_settings().refused().await;
    assert_names(&refused, "DATA_DIR");
    // The first goes on, and keeps what it has.
    assert!(app.is_running());
    app.read("k", &created).await.status(200);
    app.update("k", "w").await.updated();
    app.restart().await;
    assert_eq!(app.history("k").await.len(), 2);
}

/// Text is for people: the line is not JSON, and says the same.
#[tokio::test]
async fn a_log_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_monolith"))
        .env_clear()
        .env("IP_PORT", "127.0.0.1:0")
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("LOG_FORMAT", "text")
        .arg("-memdb")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::from(std::fs::File::create(folder.path().join("log")).unwrap()))
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let line = loop {
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        if let Some(line) = log.lines().find(|line| line.contains("serving")) {
            break Some(line.to_owned());
        }
        if begun.elapsed() > GRACE {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let line = line.expect("a line that says serving");
    assert!(serde_json::from_str::<Value>(&line).is_err(), "{line}");
    assert!(line.contains("memory") && line.contains("127.0.0.1:"), "{line}");
}
