//! Views that are built anew while everybody works: no read fails, goes back or misses a
//! row, whoever is killed meanwhile, and in the end they are a fold of the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use testkit::processes::{Process, programs};
use tokio::sync::{Mutex, MutexGuard};

use crate::app::{RECOVERY, Storage, TestApp};
use crate::client::{Reply, answer, enc};

on! { memory: Memory, nobody_notices_a_rebuild }
on! { embedded: Embedded, nobody_notices_a_rebuild, one_that_is_killed_goes_on }
on! { databases: Databases, nobody_notices_a_rebuild, one_that_is_killed_goes_on }
on! { services: Services, nobody_notices_a_rebuild, another_goes_on }

/// Keys that are written all the time, each by a writer of its own.
const HOT: usize = 4;
const READERS: usize = 4;
/// How long a rebuild may take on a stand-in for a database and a busy machine.
const REBUILT: Duration = Duration::from_secs(60);

fn cold_keys(storage: Storage) -> usize {
    match storage {
        Storage::Memory | Storage::Embedded => 12_000,
        Storage::Databases | Storage::Services => 400,
    }
}

/// How long writers and readers rest: the stand-in for a database takes little.
fn rest(storage: Storage) -> Duration {
    Duration::from_millis(match storage {
        Storage::Memory | Storage::Embedded => 5,
        Storage::Databases | Storage::Services => 25,
    })
}

/// Full load on the stand-in for a database is for one test at a time.
async fn alone(storage: Storage) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::const_new(());
    match storage {
        Storage::Memory | Storage::Embedded => None,
        Storage::Databases | Storage::Services => Some(TURN.lock().await),
    }
}

/// The service with some answers, deleted ones and log events too.
async fn filled(storage: Storage) -> TestApp {
    let app = TestApp::patient(storage).await;
    let count = cold_keys(storage);
    let line = |op: &str, n: usize, value: &str| json!({"op": op, "key": format!("cold {n:05}"), "value": value});
    let mut lines: Vec<_> = (0..count).map(|n| line("create", n, "first")).collect();
    lines.extend((0..count).step_by(7).map(|n| line("update", n, "second")));
    lines.extend((0..count).step_by(10).map(|n| json!({"op": "delete", "key": format!("cold {n:05}")})));
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let reply = app.call("POST", "/answers/batch").body(body).send().await.status(200);
    let last =
        reply.text().lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["position"].as_u64()).max();
    let events: String = (0..count / 10).map(|n| format!("{{\"name\":\"event {n}\"}}\n")).collect();
    let sent = app.call("POST", "/v1/events").header("Content-Type", "application/x-ndjson").body(events).send().await;
    let position = sent.status(202).position().max(last.unwrap());
    for hot in 0..HOT {
        app.create(&format!("hot {hot}"), "0").await.created();
    }
    app.call("GET", "/answers").header("Await-Position", position.to_string()).send().await.status(200);
    app
}

fn cold_value(n: usize) -> Option<&'static str> {
    match n {
        n if n.is_multiple_of(10) => None,
        n if n.is_multiple_of(7) => Some("second"),
        _ => Some("first"),
    }
}

/// What was acknowledged of a hot key.
#[derive(Default)]
struct Hot {
    value: AtomicU64,
    position: AtomicU64,
}

/// Writers and readers, beside whatever else is done.
struct Load<'a> {
    app: &'a TestApp,
    cold: usize,
    hot: [Hot; HOT],
    over: AtomicBool,
    reads: AtomicU64,
}

impl<'a> Load<'a> {
    fn new(app: &'a TestApp) -> Self {
        let (hot, over, reads) = (Default::default(), AtomicBool::new(false), AtomicU64::new(0));
        Self { app, cold: cold_keys(app.storage()), hot, over, reads }
    }

    /// Does it under load.
    async fn beside(self, what: impl Future<Output = ()>) {
        let over = async {
            what.await;
            self.over.store(true, Ordering::SeqCst);
        };
        let writers = join_all((0..HOT).map(|hot| self.write(hot)));
        let readers = join_all((0..READERS).map(|reader| self.read(reader)));
        tokio::join!(over, writers, readers);
        eprintln!("{} reads of every kind", self.reads.load(Ordering::SeqCst));
        assert!(self.reads.load(Ordering::SeqCst) > 10);
        self.is_a_fold().await;
    }

    async fn write(&self, hot: usize) {
        for value in 1.. {
            let reply = self.app.update(&format!("hot {hot}"), &value.to_string()).await.updated();
            self.hot[hot].position.store(reply.position(), Ordering::SeqCst);
            self.hot[hot].value.store(value, Ordering::SeqCst);
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(rest(self.app.storage())).await;
        }
    }

    async fn read(&self, reader: usize) {
        // What this reader has seen: it must never see less.
        let (mut seen, mut position) = ([0; HOT], 0);
        for round in reader.. {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let hot = round % HOT;
            let least = self.hot[hot].value.load(Ordering::SeqCst);
            let due = if round % 3 == 0 { 0 } else { self.hot[hot].position.load(Ordering::SeqCst) };
            let least = if due == 0 { seen[hot] } else { least.max(seen[hot]) };
            let at = |path: &str, position: u64| {
                self.app.call("GET", path).header("Await-Position", position.to_string()).send()
            };
            let reply = at(&answer(&format!("hot {hot}")), position.max(due)).await.status(200);
            let value: u64 = reply.json()["value"].as_str().unwrap().parse().unwrap();
            assert!(value >= least, "{value} is older than {least}, which was seen or acknowledged");
            seen[hot] = value;
            position = position.max(reply.position());

            // Any row, without waiting for anything.
            let n = (round * 7919) % self.cold;
            let reply = self.app.get(&answer(&format!("cold {n:05}"))).await;
            match cold_value(n) {
                Some(value) => assert_eq!(reply.status(200).json()["value"], value),
                None => drop(reply.not_found()),
            }
            let reply =
                self.app.get(&format!("/answers?limit=20&prefix={}", enc(&format!("cold {:03}", n / 100)))).await;
            let found = reply.status(200).json()["answers"].as_array().unwrap().len();
            assert_eq!(found, 20, "a list misses rows");
            let reply = self.app.get("/v1/events/stats?interval=52w&by=category").await.status(200);
            assert_eq!(reply.json()["total"], self.cold / 10, "every event is counted once");
            self.reads.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(rest(self.app.storage())).await;
        }
    }

    /// All rows, against what was acknowledged.
    async fn is_a_fold(&self) {
        let mut expected: BTreeMap<String, String> =
            (0..self.cold).filter_map(|n| Some((format!("cold {n:05}"), cold_value(n)?.to_owned()))).collect();
        let mut last = 0;
        for (n, hot) in self.hot.iter().enumerate() {
            expected.insert(format!("hot {n}"), hot.value.load(Ordering::SeqCst).to_string());
            last = last.max(hot.position.load(Ordering::SeqCst));
        }
        let (mut found, mut cursor) = (BTreeMap::new(), String::new());
        loop {
            let call = self.app.call("GET", &format!("/answers?limit=1000{cursor}"));
            let page = call.header("Await-Position", last.to_string()).send().await.status(200).json();
            for row in page["answers"].as_array().unwrap() {
                found.insert(row["key"].as_str().unwrap().to_owned(), row["value"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", enc(next)),
                None => break,
            }
        }
        assert!(found == expected, "{} rows, and {} were expected", found.len(), expected.len());
    }
}

impl TestApp {
    async fn rebuild(&self, process: Option<&Process>) -> Reply {
        let address = process.map_or_else(|| self.operators(), |process| process.reached(0));
        self.call_at(address, "POST", "/rebuild").send().await
    }

    async fn rebuild_state(&self) -> Value {
        self.call_at(self.operators(), "GET", "/rebuild").send().await.status(200).json()
    }

    pub(crate) async fn is_rebuilt(&self) -> Value {
        let begun = Instant::now();
        loop {
            let state = self.rebuild_state().await;
            if state["state"] == "idle" {
                assert_eq!(state["done"], state["total"], "{state}");
                assert!(state["finished_at"].as_str() >= state["started_at"].as_str(), "{state}");
                return state;
            }
            assert_eq!(state["state"], "running");
            assert!(begun.elapsed() < REBUILT, "not rebuilt after {REBUILT:?}: {state}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn nobody_notices_a_rebuild(storage: Storage) {
    let _turn = alone(storage).await;
    let app = filled(storage).await;
    let state = app.rebuild_state().await;
    assert_eq!((&state["state"], &state["started_at"]), (&json!("idle"), &Value::Null), "{state}");
    let rebuilds = async {
        let mut started = String::new();
        for _ in 0..2 {
            let (first, second) = tokio::join!(app.rebuild(None), app.rebuild(None));
            let (taken, refused) = if first.status == 202 { (first, second) } else { (second, first) };
            let at = taken.status(202).json();
            refused.fails(409);
            assert_eq!(at["state"], "running");
            let begun = Instant::now();
            let mut done = 0;
            loop {
                let state = app.rebuild_state().await;
                if state["state"] == "idle" {
                    break;
                }
                let now = state["done"].as_u64().unwrap();
                assert!(now >= done && now <= state["total"].as_u64().unwrap(), "{state}");
                done = now;
                assert!(begun.elapsed() < REBUILT, "{state}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let state = app.is_rebuilt().await;
            assert!(*state["started_at"].as_str().unwrap() > *started, "{state}");
            started = state["started_at"].as_str().unwrap().to_owned();
            eprintln!("rebuilt in {:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    Load::new(&app).beside(rebuilds).await;
    app.get("/readyz").await.status(200);
}

/// `kill -9` again and again in the middle of it.
async fn one_that_is_killed_goes_on(storage: Storage) {
    let _turn = alone(storage).await;
    let mut app = filled(storage).await;
    app.rebuild(None).await.status(202);
    let mut kills = 0;
    for pause in [5, 40, 90] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let was = app.rebuild_state().await;
        app.kill();
        app.start().await;
        let now = app.rebuild_state().await;
        assert_eq!(now["started_at"], was["started_at"], "a request that was answered is not forgotten");
        if was["state"] == "running" {
            kills += 1;
        }
        let key = format!("kill {pause}");
        let created = app.create(&key, "v").await.created();
        app.read(&key, &created).await.status(200);
        app.delete(&key).await.deleted();
    }
    eprintln!("killed in the middle {kills} times");
    app.is_rebuilt().await;
    Load::new(&app)
        .beside(async {
            app.rebuild(None).await.status(202);
            app.is_rebuilt().await;
        })
        .await;
}

/// Two projectors: it does not matter which is asked, and where the one that works is
/// killed the other goes on.
async fn another_goes_on(storage: Storage) {
    let _turn = alone(storage).await;
    let mut app = filled(storage).await;
    let second = app.same_settings().program.executable(programs().join("projector-svc"));
    let second = second.start().await.unwrap();
    let works = async |app: &TestApp, process: &Process| {
        let text = app.call_at(process.reached(0), "GET", "/metrics").send().await.text();
        text.lines().any(|line| line == "qaservice_projection_working 1")
    };
    assert!(works(&app, &app.processes[2]).await, "the first has the turn");
    app.rebuild(Some(&second)).await.status(202);
    app.rebuild(None).await.fails(409);
    // Whoever is operated on from here on stays.
    let mut first = std::mem::replace(&mut app.processes[2], second);
    Load::new(&app)
        .beside(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let state = app.rebuild_state().await;
            eprintln!("killed at {state}");
            first.kill();
            app.is_rebuilt().await;
            let begun = Instant::now();
            while !works(&app, &app.processes[2]).await {
                assert!(begun.elapsed() < RECOVERY, "nobody took over");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            first.start().await;
            app.rebuild(Some(&first)).await.status(202);
            app.is_rebuilt().await;
        })
        .await;
    let reply = app.call_at(first.reached(0), "GET", "/readyz").send().await;
    assert_eq!(reply.status, 200);
}
