//! What only the three services have: a part of the routes each, settings that they
//! need, and each other, in several replicas.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};
use testkit::processes::{Process, Program, programs};

use crate::{
    app::{GRACE, RECOVERY, SERVICES, Settings, Storage, TestApp},
    client::{Reply, answer},
    databases::Databases,
};

/// Whether the services can run here; says so if not.
fn are_there() -> bool {
    Storage::Services.is_there()
}

async fn services() -> TestApp {
    TestApp::spawn(Storage::Services).await
}

/// On databases that this test may stop and kill.
async fn services_on(databases: Databases) -> TestApp {
    TestApp::settings(Storage::Services).on(databases).spawn().await
}

impl TestApp {
    /// The status of `/readyz` of a process, and what it says.
    async fn ready(&self, process: &Process) -> (u16, Value) {
        let reply = self.call_at(process.reached(0), "GET", "/readyz").send().await;
        (reply.status, reply.json())
    }

    async fn all_ready(&self) {
        for process in &self.processes {
            eventually("all are ready", async || self.ready(process).await.0 == 200).await;
        }
    }

    async fn gauge(&self, process: &Process, name: &str) -> f64 {
        let text = self.call_at(process.reached(0), "GET", "/metrics").send().await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("qaservice_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

/// Waits until something holds, as long as a recovery may take; twice as long, for the
/// stand-in for MongoDB shares the machine with other tests while it starts.
async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let (begun, patience) = (Instant::now(), RECOVERY * 2);
    while !holds().await {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn service(settings: &Settings, name: &str) -> Program {
    settings.program.clone().executable(programs().join(name))
}

// ------------------------------------------------------------------- settings

/// The settings of a process that has nowhere to store.
fn bare(name: &str) -> Program {
    let settings = TestApp::settings(Storage::Embedded);
    let folder = settings.folder().to_owned();
    // The folder goes with the settings; these processes end before they need one.
    Program::new(programs().join(name), folder.parent().unwrap()).var("IP_PORT", "127.0.0.1:0")
}

#[tokio::test]
async fn what_a_service_needs_and_lacks_stops_its_start() {
    let (events, views) = (("EVENTSTORE_HOST", "localhost"), ("MONGODB_HOST", "localhost"));
    for (name, given, missing) in [
        ("eventstore-svc", None, "EVENTSTORE_HOST"),
        ("eventstore-svc", Some(views), "EVENTSTORE_HOST"),
        ("projection-svc", None, "MONGODB_HOST"),
        ("projection-svc", Some(events), "MONGODB_HOST"),
        ("projector-svc", Some(events), "MONGODB_HOST"),
        ("projector-svc", Some(views), "EVENTSTORE_HOST"),
    ] {
        let program = given.into_iter().fold(bare(name), |program, (name, value)| program.var(name, value));
        let refused = program.refused().await;
        assert!(refused.stderr.starts_with(&format!("{name}: {missing}: ")), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn bad_settings_stop_the_start_and_stay_secret() {
    // A port that is taken would be told instead, were it bound first.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (variable, value) in [
        ("EVENTSTORE_HOST", "http://admin:s3cret-0451@localhost"),
        ("EVENTSTORE_HOST", "admin:s3cret-0451@localhost"),
        ("EVENTSTORE_HOST", "localhost:port"),
        ("MONGODB_HOST", "root:s3cret-0451@localhost"),
        ("MONGODB_HOST", "mongodb://root:s3cret-0451@"),
        ("MONGODB_HOST", "localhost:0"),
        ("MONGODB_DB", "a.b"),
        ("MONGODB_USER", ""),
    ] {
        let program = bare("projector-svc")
            .var("EVENTSTORE_HOST", "localhost")
            .var("MONGODB_HOST", "localhost")
            .var("MONGODB_PASS", if variable == "MONGODB_USER" { "s3cret-0451" } else { "" })
            .var(variable, value)
            .var("IP_PORT", &taken);
        let refused = program.refused().await;
        assert!(refused.stderr.starts_with(&format!("projector-svc: {variable}: ")), "{value}: {}", refused.stderr);
        assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn memory_is_the_monoliths() {
    for name in SERVICES {
        for argument in ["-memdb", "--memdb"] {
            let program = bare(name).var("EVENTSTORE_HOST", "localhost").var("MONGODB_HOST", "localhost");
            let refused = program.arg(argument).refused().await;
            assert!(refused.stderr.contains("monolith"), "{}", refused.stderr);
        }
    }
}

#[tokio::test]
async fn each_has_its_port() {
    if !are_there() {
        return;
    }
    let app = services().await;
    for (process, name) in app.processes.iter().zip(SERVICES) {
        assert_eq!(process.serving()["process"], name);
        assert_eq!(process.addresses().len(), 1);
    }
    let help = |name: &str| std::process::Command::new(programs().join(name)).arg("--version").output().unwrap();
    for name in SERVICES {
        let told = String::from_utf8(help(name).stdout).unwrap();
        assert_eq!(told.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
    }
}

// --------------------------------------------------------------------- routes

/// Every call, and who serves it.
const CALLS: [(&str, &str, usize); 19] = [
    ("POST", "/answers", 0),
    ("PATCH", "/answers", 0),
    ("PATCH", "/answers/k", 0),
    ("PUT", "/answers/k", 0),
    ("DELETE", "/answers/k", 0),
    ("POST", "/answers/batch", 0),
    ("PUT", "/answers/batch", 0),
    ("GET", "/answers/k/history", 0),
    ("HEAD", "/answers/k/history", 0),
    ("GET", "/answers/k/as-of", 0),
    ("GET", "/eventstore/ping", 0),
    ("GET", "/answers", 1),
    ("GET", "/answers/k", 1),
    ("HEAD", "/answers/k", 1),
    ("GET", "/answers/batch", 1),
    ("GET", "/projection/ping", 1),
    ("GET", "/parked", 2),
    ("POST", "/parked/replay", 2),
    ("GET", "/rebuild", 2),
];

#[tokio::test]
async fn what_another_serves_is_told() {
    if !are_there() {
        return;
    }
    let app = services().await;
    for (method, path, home) in CALLS {
        for (process, name) in SERVICES.iter().enumerate() {
            let reply = app.call_at(app.processes[process].reached(0), method, path).body("{}").send().await;
            let what = format!("{method} {path} on {name}: {} {}", reply.status, reply.text());
            if process == home {
                assert!(reply.status != 405, "{what}");
                let told = reply.text();
                assert!(!told.contains("-svc"), "{what}");
                continue;
            }
            // The path may have other methods here.
            let here = CALLS.iter().any(|(_, other, home)| *other == path && *home == process);
            assert_eq!(reply.status, if here { 405 } else { 404 }, "{what}");
            if method != "HEAD" {
                assert!(reply.error().contains(SERVICES[home]), "{what}");
            }
            assert_eq!(reply.header("allow").is_some(), here, "{what}");
        }
    }
    let allow = async |process: usize, path: &str| {
        app.call_at(app.processes[process].reached(0), "OPTIONS", path).send().await.status(204).allow()
    };
    assert_eq!(allow(0, "/answers").await, ["PATCH", "POST"]);
    assert_eq!(allow(1, "/answers").await, ["GET", "HEAD"]);
    assert_eq!(allow(0, "/answers/k").await, ["DELETE", "PATCH", "PUT"]);
    assert_eq!(allow(1, "/answers/batch").await, ["GET", "HEAD"]);
    let pong = json!({"message": "pong"});
    app.get("/eventstore/ping").await.is(200, &pong);
    app.get("/projection/ping").await.is(200, &pong);
    for process in &app.processes {
        for path in ["/healthz", "/readyz", "/metrics"] {
            app.call_at(process.reached(0), "GET", path).send().await.status(200);
        }
        app.call_at(process.reached(0), "GET", "/nowhere").send().await.fails(404);
    }
}

#[tokio::test]
async fn each_counts_what_it_does() {
    if !are_there() {
        return;
    }
    let app = services().await;
    let created = app.create("k", "v").await.created();
    app.read("k", &created).await.status(200);
    let projector = &app.processes[2];
    assert_eq!(app.gauge(projector, "projection_working").await, 1.0);
    assert_eq!(app.gauge(projector, "projection_lag_events").await, 0.0);
    assert_eq!(app.gauge(projector, "log_head_position").await, created.position() as f64);
    assert!(app.gauge(projector, "projection_position").await >= created.position() as f64);
    for process in &app.processes[..2] {
        let text = app.call_at(process.reached(0), "GET", "/metrics").send().await.text();
        assert!(!text.contains("qaservice_projection_"), "what it does not know it does not tell: {text}");
    }
}

// ---------------------------------------------------------- together, and twice

#[tokio::test]
async fn what_is_written_is_read_by_every_reader() {
    if !are_there() {
        return;
    }
    let app = services().await;
    let settings = app.same_settings();
    let reader = service(&settings, "projection-svc").start().await.unwrap();
    let writer = service(&settings, "eventstore-svc").start().await.unwrap();
    for n in 0..50 {
        let key = format!("k{n}");
        let home = if n % 2 == 0 { app.processes[0].reached(0) } else { writer.reached(0) };
        let body = json!({"key": key, "value": n.to_string()});
        let created = app.call_at(home, "POST", "/answers").json(&body).send().await.created();
        for reader in [&app.processes[1], &reader] {
            let position = created.position().to_string();
            let read = app.call_at(reader.reached(0), "GET", &answer(&key)).header("Await-Position", position);
            let read = read.send().await.is(200, &body);
            assert!(read.position() >= created.position());
        }
    }
}

#[tokio::test]
async fn two_writers_race_on_one_key() {
    if !are_there() {
        return;
    }
    let app = services().await;
    let other = service(&app.same_settings(), "eventstore-svc").start().await.unwrap();
    let homes = [app.processes[0].reached(0), other.reached(0)];
    let sent = |n: usize, method: &'static str, path: &'static str, body: Value| {
        app.call_at(homes[n % 2], method, path).json(&body).send()
    };
    let created = join_all((0..16).map(|n| sent(n, "POST", "/answers", json!({"key": "k", "value": n.to_string()}))));
    let statuses: Vec<u16> = created.await.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    // Updates that ask for nothing are all taken.
    let updated = join_all((0..32).map(|n| sent(n, "PATCH", "/answers/k", json!({"value": n.to_string()})))).await;
    let mut revisions: Vec<u64> = updated.into_iter().map(|reply| reply.updated().revision()).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=32).collect::<Vec<_>>());
    assert_eq!(app.history("k").await.len(), 33);
}

#[tokio::test]
async fn two_writers_race_on_one_idempotency_key() {
    if !are_there() {
        return;
    }
    let app = services().await;
    let other = service(&app.same_settings(), "eventstore-svc").start().await.unwrap();
    let homes = [app.processes[0].reached(0), other.reached(0)];
    for round in 0..10 {
        let key = format!("k{round}");
        let body = json!({"key": key, "value": "v"});
        let send = |n: usize| {
            let call = app.call_at(homes[n % 2], "POST", "/answers").json(&body);
            call.header("Idempotency-Key", format!("round-{round}")).send()
        };
        let replies = join_all((0..8).map(send)).await;
        let told: Vec<_> = replies.iter().map(|reply| (reply.status, reply.text())).collect();
        let begun = |reply: &&Reply| reply.status == 201;
        let first = replies.iter().find(begun).unwrap_or_else(|| panic!("none: {told:?}"));
        for reply in &replies {
            match reply.status {
                201 => assert_eq!(reply.position(), first.position(), "{told:?}"),
                _ => assert_eq!(reply.error(), "request in progress", "{told:?}"),
            }
        }
        assert_eq!(send(0).await.created().position(), first.position());
        assert_eq!(send(1).await.created().position(), first.position());
        assert_eq!(app.history(&key).await.len(), 1);
    }
}

/// One works, the other is ready to; when the first is killed it goes on in time.
#[tokio::test]
async fn a_projector_that_stands_by_takes_over() {
    if !are_there() {
        return;
    }
    let mut app = services().await;
    let created = app.create("a", "v").await.created();
    app.read("a", &created).await.status(200);
    let second = service(&app.same_settings(), "projector-svc").start().await.unwrap();
    app.processes.push(second);
    app.all_ready().await;
    let works =
        async |app: &TestApp, process: usize| app.gauge(&app.processes[process], "projection_working").await == 1.0;
    assert!(works(&app, 2).await && !works(&app, 3).await);
    assert_eq!(app.gauge(&app.processes[3], "projection_lag_events").await, 0.0);

    app.processes[2].kill();
    let created = app.create("b", "v").await.created();
    let begun = Instant::now();
    loop {
        // Waiting is no fault of the one that stands by.
        assert_eq!(app.ready(&app.processes[3]).await.0, 200);
        if app.read("b", &created).await.status == 200 {
            break;
        }
        assert!(begun.elapsed() < RECOVERY, "nobody took over");
    }
    assert!(begun.elapsed() < RECOVERY);
    assert!(works(&app, 3).await);

    // Who ends as it should hands over at once.
    app.processes[2].start().await;
    app.processes[3].signal("TERM");
    assert!(app.processes[3].ended(GRACE).await.unwrap().success());
    let begun = Instant::now();
    let created = app.create("c", "v").await.created();
    app.read("c", &created).await.status(200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    app.processes.pop();
}

// --------------------------------------------------------------------- faults

/// The services are there first.
#[tokio::test]
async fn databases_that_come_late_are_found() {
    if !are_there() {
        return;
    }
    let databases = Databases::own();
    databases.stop_events();
    databases.stop_views();
    let app = services_on(databases).await;
    for process in &app.processes {
        app.call_at(process.reached(0), "GET", "/healthz").send().await.status(200);
        let (status, told) = app.ready(process).await;
        assert_eq!(status, 503, "{told}");
    }
    app.create("k", "v").await.busy();
    app.get("/answers/k/history").await.busy();
    app.get("/answers/k").await.busy();
    app.databases().start_events();
    app.databases().start_views();
    app.all_ready().await;
    let created = app.create("k", "v").await.created();
    app.read("k", &created).await.status(200);
}

/// Either database goes away for a while and returns: nobody has to be restarted.
#[tokio::test]
async fn each_database_may_go_and_return() {
    if !are_there() {
        return;
    }
    let mut app = services_on(Databases::own()).await;
    let mut keys = 0;
    let mut create = async |app: &TestApp| {
        keys += 1;
        let key = format!("k{keys}");
        (app.create(&key, "v").await, key)
    };
    for away in [Duration::from_secs(1), Duration::from_secs(8)] {
        // Without views events are taken all the same.
        create(&app).await.0.created();
        app.databases().stop_views();
        let (created, key) = create(&app).await;
        let created = created.created();
        tokio::time::sleep(away).await;
        app.get(&answer(&key)).await.busy();
        app.databases().start_views();
        eventually("the views catch up", async || app.read(&key, &created).await.status == 200).await;
        app.all_ready().await;

        // Without the log the views are read all the same.
        app.databases().stop_events();
        create(&app).await.0.fails(503);
        app.get(&answer(&key)).await.status(200);
        tokio::time::sleep(away).await;
        app.databases().start_events();
        let begun = Instant::now();
        let (created, key) = loop {
            let (reply, key) = create(&app).await;
            if reply.status == 201 {
                break (reply, key);
            }
            assert!(begun.elapsed() < RECOVERY, "{}", reply.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        eventually("the views go on", async || app.read(&key, &created).await.status == 200).await;
        app.all_ready().await;
    }
    assert!(app.is_running());
    app.stop().await;
}

/// Views of another log are neither written nor, by the monolith, shown.
#[tokio::test]
async fn foreign_views_are_left_alone() {
    if !are_there() {
        return;
    }
    let databases = Databases::own();
    let app = TestApp::settings(Storage::Services).on(databases).spawn().await;
    let created = app.create("old", "v").await.created();
    app.read("old", &created).await.status(200);
    let views: Vec<_> = app.databases().vars().into_iter().filter(|(name, _)| name.starts_with("MONGODB")).collect();
    let onto_these =
        |settings: Settings| views.iter().fold(settings, |settings, (name, value)| settings.var(name, value));

    // A log of its own, and the views of the first.
    let other = onto_these(TestApp::settings(Storage::Services)).spawn().await;
    other.create("new", "v").await.created();
    let projector = &other.processes[2];
    eventually("the projector says so", async || other.ready(projector).await.0 == 503).await;
    let (_, told) = other.ready(projector).await;
    assert!(told["error"].as_str().unwrap().contains("MONGODB_DB"), "it says what to do: {told}");
    other.call_at(projector.reached(0), "GET", "/healthz").send().await.status(200);
    // The first goes on, and its views are whole.
    let created = app.create("older", "v").await.created();
    let list = app.reading("/answers", &created).send().await.status(200).json();
    let keys: Vec<_> = list["answers"].as_array().unwrap().iter().map(|answer| answer["key"].clone()).collect();
    assert_eq!(keys, ["old", "older"]);

    let monolith = onto_these(TestApp::settings(Storage::Databases)).launch().await;
    monolith.create("new", "v").await.created();
    for path in ["/answers/old", "/answers/new", "/answers"] {
        monolith.get(path).await.busy();
    }
    assert_eq!(monolith.history("new").await.len(), 1);
    monolith.get("/readyz").await.fails(503);
}

// ----------------------------------------------------------------------- ends

/// Each ends gracefully under load, and what was acknowledged is there.
#[tokio::test]
async fn a_graceful_end_under_load_loses_nothing() {
    if !are_there() {
        return;
    }
    let mut app = services().await;
    let writers = join_all((0..8).map(|writer| {
        let app = &app;
        async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                let key = format!("{writer}-{n}");
                let call = app.call("POST", "/answers").json(&json!({"key": key, "value": key}));
                match call.try_send().await {
                    Ok(reply) if reply.status == 201 => acknowledged.push((key, reply)),
                    Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
                    Err(_) => break,
                }
            }
            acknowledged
        }
    }));
    let end = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        app.signal("TERM");
    };
    let (acknowledged, ()) = tokio::join!(writers, end);
    app.ends().await;
    app.start().await;
    let acknowledged: Vec<_> = acknowledged.into_iter().flatten().collect();
    assert!(acknowledged.len() > 8, "{}", acknowledged.len());
    for (key, reply) in &acknowledged {
        app.read(key, reply).await.is(200, &json!({"key": key, "value": key}));
    }
}

/// Nobody asks, and next to nothing is done.
#[tokio::test]
async fn idle_processes_use_next_to_nothing() {
    if !are_there() {
        return;
    }
    let app = services().await;
    let created = app.create("k", "v").await.created();
    app.read("k", &created).await.status(200);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = || app.processes.iter().map(Process::cpu).collect::<Vec<_>>();
    let (before, begun) = (cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    for ((process, name), (before, after)) in app.processes.iter().zip(SERVICES).zip(before.into_iter().zip(cpu())) {
        let share = (after - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        eprintln!("{name}: {:.2} % of a core, {} MiB", share * 100.0, process.resident_mib());
        // Debug builds need some times as much as what is shipped.
        let bound = if cfg!(debug_assertions) { 0.04 } else { 0.01 };
        assert!(share < bound, "{name}: {share}");
        assert!(process.resident_mib() < 60, "{name}: {} MiB", process.resident_mib());
    }
}
