//! Events that the programs cannot read, in the log that they follow: the stream of such
//! an event is parked and says so, and nothing else is touched; a replay after the
//! mending heals it.
//!
//! The events are put into the log past the programs, by the adapters of its store. No
//! newer program comes to read them here, so the log itself is mended: the test server
//! for EventStoreDB rewrites an event at its place, and the embedded log is put back as it
//! was before the bad events, which are appended once more as they should have been.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::adapters::embedded::{self as folder, Embedded};
use shared::adapters::esdb::{self, EsdbEvents};
use shared::clock;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::log_event::LogFact;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::metrics::Metrics;
use shared::ports::{Checkpoint, EventFeed, EventStore};
use tempfile::TempDir;
use uuid::Uuid;

use crate::app::{RECOVERY, Storage, TestApp};
use crate::client::{Reply, answer};

on! { embedded: Embedded, a_bad_event_parks_its_stream_alone, a_replay_heals_what_was_mended, log_events_are_parked_and_healed }
on! { databases: Databases, a_bad_event_parks_its_stream_alone, a_replay_heals_what_was_mended, log_events_are_parked_and_healed }
on! { services: Services, a_bad_event_parks_its_stream_alone, a_replay_heals_what_was_mended, log_events_are_parked_and_healed }

/// In how many ways an event can be bad.
const WAYS: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// An event as it should be, and how it is appended.
struct Bad {
    stream: StreamId,
    revision: u64,
    good: NewEvent,
    way: usize,
    position: u64,
}

impl Bad {
    fn spoilt(&self) -> NewEvent {
        let mut event = self.good.clone();
        match self.way {
            0 => event.metadata.schema = 2,
            1 => event.kind = "AnswerRenamedEvent".into(),
            _ => event.data = r#"{"key":7}"#.into(),
        }
        event
    }

    fn error(&self) -> &'static str {
        ["schema version 2", "unknown event type \"AnswerRenamedEvent\"", "does not fit"][self.way]
    }
}

fn update(key: &str, value: &str) -> NewEvent {
    let event = AnswerEvent::Updated { key: Key::parse(key).unwrap(), value: value.into() };
    event.to_new(Uuid::new_v4(), clock::now())
}

fn stream_of(key: &str) -> StreamId {
    StreamId::of_answer(&Key::parse(key).unwrap())
}

/// The service with bad events in its log.
struct Poisoned {
    app: TestApp,
    bad: Vec<Bad>,
    /// The embedded log before them.
    before: TempDir,
}

impl Poisoned {
    /// Appends these behind the programs' backs, some of the bad events followed by a good
    /// one of their stream.
    async fn new(mut app: TestApp, bad: Vec<(StreamId, u64, NewEvent, Option<NewEvent>)>) -> Self {
        let before = tempfile::tempdir().unwrap();
        let embedded = app.storage() == Storage::Embedded;
        if embedded {
            app.stop().await;
            copy(&app.folder().join("data"), before.path());
        }
        let log = Log::open(&app);
        let mut all = Vec::new();
        for (way, (stream, revision, good, next)) in (0..WAYS).cycle().zip(bad) {
            let mut bad = Bad { stream, revision, good, way, position: 0 };
            let expected = revision.checked_sub(1).map(Revision).into();
            bad.position = log.append(&bad.stream, expected, bad.spoilt()).await;
            if let Some(next) = next {
                log.append(&bad.stream, ExpectedRevision::Exact(Revision(revision)), next).await;
            }
            all.push(bad);
        }
        log.close();
        if embedded {
            app.start().await;
        }
        Self { app, bad: all, before }
    }

    /// Makes these events what they should have been.
    async fn mend(&mut self, which: impl Fn(&Bad) -> bool) {
        let mended: Vec<_> = self.bad.iter().filter(|bad| which(bad)).collect();
        if self.app.storage() != Storage::Embedded {
            for Bad { stream, revision, good, .. } in mended {
                self.app.databases().rewrite(stream.as_str(), *revision, |kind, metadata, data| {
                    *kind = good.kind.to_string();
                    *metadata = String::from_utf8_lossy(metadata).replace("\"schema\":2", "\"schema\":1").into_bytes();
                    *data = good.data.to_vec();
                });
            }
            return;
        }
        self.app.stop().await;
        let data = self.app.folder().join("data");
        let again = tempfile::tempdir().unwrap();
        copy(self.before.path(), again.path());
        let (old, new) = (open(&data), open(again.path()));
        let from = Checkpoint::at(new.events.head().await.unwrap());
        let end = old.events.head().await.unwrap();
        let mut events = old.events.subscribe(from).await.unwrap();
        let mut at = from;
        while !at.has_reached(end) {
            let batch = events.next(1_000).await.unwrap();
            for RecordedEvent { stream, revision, mut event, position } in batch.events {
                if let Some(bad) = mended.iter().find(|bad| bad.stream == stream && bad.revision == revision.0) {
                    event = bad.good.clone();
                }
                let expected = revision.0.checked_sub(1).map(Revision).into();
                let appended = EventStore::append(&new.events, &stream, expected, vec![event]).await.unwrap();
                assert_eq!(appended.positions, [position], "each at its place");
            }
            at = batch.checkpoint;
        }
        drop(events);
        for store in [old, new] {
            close(store);
        }
        // The views stay as they were.
        for name in ["events", "watermark"] {
            let (from, to) = (again.path().join(name), data.join(name));
            if to.is_dir() {
                fs::remove_dir_all(&to).unwrap();
                copy(&from, &to);
            } else {
                fs::copy(from, to).unwrap();
            }
        }
        self.app.start().await;
    }

    async fn operate(&self, method: &str, path: &str, body: &str) -> Reply {
        self.app.call_at(self.app.operators(), method, path).body(body.to_owned()).send().await
    }

    async fn parked(&self) -> Vec<Value> {
        let reply = self.operate("GET", "/parked", "").await.status(200);
        assert_eq!(reply.json()["next"], Value::Null);
        reply.json()["parked"].as_array().unwrap().clone()
    }

    async fn parked_are(&self, expected: &[&Bad]) {
        eventually(&format!("{} parked streams", expected.len()), async || self.parked().await.len() == expected.len())
            .await;
        for (entry, bad) in self.parked().await.iter().zip(sorted(expected)) {
            assert_eq!(entry["stream"], bad.stream.as_str());
            assert_eq!((&entry["revision"], &entry["position"]), (&json!(bad.revision), &json!(bad.position)));
            assert!(entry["error"].as_str().unwrap().contains(bad.error()), "{entry}");
            assert!(entry["since"].as_str().unwrap().ends_with('Z'), "{entry}");
        }
    }

    async fn is_ready(&self) {
        eventually("it is ready", async || self.app.get("/readyz").await.status == 200).await;
        if self.app.storage() == Storage::Services {
            self.app.call_at(self.app.operators(), "GET", "/readyz").send().await.status(200);
        }
    }
}

fn sorted<'a>(bad: &[&'a Bad]) -> Vec<&'a Bad> {
    let mut bad = bad.to_vec();
    bad.sort_by(|a, b| a.stream.cmp(&b.stream));
    bad
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < RECOVERY, "not within {RECOVERY:?}: {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[track_caller]
fn is_parked(reply: Reply) {
    let reply = reply.busy();
    assert_eq!(reply.json(), json!({"error": "key is parked"}));
}

/// The log of an app, for one who appends to it past the programs.
enum Log {
    Embedded(Embedded),
    Database(EsdbEvents),
}

impl Log {
    fn open(app: &TestApp) -> Self {
        if app.storage() == Storage::Embedded {
            return Self::Embedded(open(&app.folder().join("data")));
        }
        let metrics = Metrics::new("test", &[]).unwrap().esdb.clone();
        let options = esdb::Options { outcome_ttl: DAY, metrics };
        Self::Database(EsdbEvents::connect(&app.databases().events(), options).unwrap())
    }

    async fn append(&self, stream: &StreamId, expected: ExpectedRevision, event: NewEvent) -> u64 {
        let store: &dyn EventStore = match self {
            Self::Embedded(store) => &store.events,
            Self::Database(events) => events,
        };
        let Position(position) = store.append(stream, expected, vec![event]).await.unwrap().positions[0];
        position
    }

    fn close(self) {
        if let Self::Embedded(store) = self {
            close(store);
        }
    }
}

fn open(folder: &Path) -> Embedded {
    let metrics = Metrics::new("test", &[]).unwrap().store.clone();
    let options = folder::Options { folder: folder.into(), disk_reserve_mb: 0, outcome_ttl: DAY, metrics };
    let begun = Instant::now();
    loop {
        // A process that another test starts holds its files for a moment.
        match folder::open(&options) {
            Ok(store) => return store,
            Err(error) => assert!(begun.elapsed() < RECOVERY, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn close(store: Embedded) {
    store.views.close();
    store.events.close();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Three answers, each bad in another way, and one that is good. The bad events are the
/// last of their streams, or there is a good one behind each.
async fn with_bad_answers(storage: Storage, are_last: bool) -> Poisoned {
    let app = TestApp::spawn(storage).await;
    let mut bad = Vec::new();
    let mut last = app.create("good", "good").await.created();
    for way in 0..WAYS {
        let key = format!("bad {way}");
        last = app.create(&key, "before").await.created();
        bad.push((stream_of(&key), 1, update(&key, "mended"), (!are_last).then(|| update(&key, "after"))));
    }
    app.read("good", &last).await.status(200);
    Poisoned::new(app, bad).await
}

async fn a_bad_event_parks_its_stream_alone(storage: Storage) {
    let mut at = with_bad_answers(storage, true).await;
    for round in 0..2 {
        at.parked_are(&at.bad.iter().collect::<Vec<_>>()).await;
        let app = &at.app;
        let on = app.create(&format!("on {round}"), "v").await.created();
        app.read(&format!("on {round}"), &on).await.is(200, &json!({"key": format!("on {round}"), "value": "v"}));
        app.update("good", &format!("good {round}")).await.updated();
        for bad in &at.bad {
            let key = bad.stream.as_str().strip_prefix("answer-").unwrap();
            let good = json!({"key": key, "value": "before"});
            app.get(&answer(key)).await.is(200, &good);
            let awaiting = async |position: u64| {
                app.call("GET", &answer(key)).header("Await-Position", position.to_string()).send().await
            };
            awaiting(bad.position - 1).await.is(200, &good);
            is_parked(awaiting(bad.position).await);
            is_parked(awaiting(on.position()).await);
            is_parked(app.update(key, "v").await);
            is_parked(app.put(key, "v").await);
            is_parked(app.create(key, "v").await);
            is_parked(app.delete(key).await);
            is_parked(app.get(&format!("{}/as-of?revision=1", answer(key))).await);
            is_parked(app.get(&format!("{}/history", answer(key))).await);
        }
        let told = |reply: &Reply| reply.header("parked").map(str::to_owned);
        for path in ["/answers", "/answers?prefix=good", "/v1/events", "/v1/events/stats?interval=1h&by=name"] {
            let reply = app.reading(path, &on).send().await.status(200);
            assert_eq!(told(&reply), Some(WAYS.to_string()), "{path}");
        }
        let list = app.reading("/answers?prefix=bad", &on).send().await.status(200).json();
        let values: Vec<_> = list["answers"].as_array().unwrap().iter().map(|answer| &answer["value"]).collect();
        assert_eq!(values, ["before"; WAYS], "lists have the last good values");
        at.is_ready().await;
        // A restart changes nothing of it.
        at.app.restart().await;
    }
}

async fn a_replay_heals_what_was_mended(storage: Storage) {
    let mut at = with_bad_answers(storage, false).await;
    at.parked_are(&at.bad.iter().collect::<Vec<_>>()).await;
    at.mend(|bad| bad.way != 2).await;
    at.operate("POST", "/parked/replay", r#"{"stream":"answer-good"}"#).await.fails(404);
    let asked = at.operate("POST", "/parked/replay", r#"{"stream":"answer-bad 0"}"#).await;
    asked.is(202, &json!({"streams": 1}));
    at.parked_are(&[&at.bad[1], &at.bad[2]]).await;
    let healed = async |at: &Poisoned, key: &str| {
        let updated = at.app.update(key, "next").await.updated();
        assert_eq!(updated.revision(), 3);
        at.app.read(key, &updated).await.is(200, &json!({"key": key, "value": "next"}));
        let values: Vec<_> = at.app.history(key).await.iter().map(|event| event["data"]["value"].clone()).collect();
        assert_eq!(values, ["before", "mended", "after", "next"]);
    };
    // What stands behind the mended event counts, and is there without a command.
    let await_it = at.bad[0].position.to_string();
    let read = at.app.call("GET", &answer("bad 0")).header("Await-Position", &await_it).send().await;
    read.is(200, &json!({"key": "bad 0", "value": "after"}));
    healed(&at, "bad 0").await;
    // All that are left: one is mended, and one is not.
    at.operate("POST", "/parked/replay", "").await.is(202, &json!({"streams": 2}));
    at.parked_are(&[&at.bad[2]]).await;
    healed(&at, "bad 1").await;
    is_parked(at.app.get("/answers/bad%202/history").await);
    at.app.get(&answer("bad 2")).await.is(200, &json!({"key": "bad 2", "value": "before"}));
    let list = at.app.get("/answers").await.status(200);
    assert_eq!(list.header("parked"), Some("1"));
    at.mend(|_| true).await;
    at.operate("POST", "/parked/replay", "{}").await.is(202, &json!({"streams": 1}));
    at.parked_are(&[]).await;
    healed(&at, "bad 2").await;
    let list = at.app.get("/answers").await.status(200);
    assert_eq!(list.header("parked"), None);
    assert_eq!(list.json()["answers"].as_array().unwrap().len(), 4);
}

/// A log event whose amendment is bad, and one that was bad from the beginning.
async fn log_events_are_parked_and_healed(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let sent = app.call("POST", "/v1/events").json(&json!([{"name": "a"}, {"name": "b"}])).send().await.status(202);
    let ids: Vec<Uuid> = serde_json::from_value(sent.json()["ids"].clone()).unwrap();
    app.reading(&format!("/v1/events/{}", ids[0]), &sent).send().await.status(200);
    let history = app.get(&format!("/v1/events/{}/history?detail=full", ids[0])).await.status(200).json();
    let number = history[0]["position"].as_u64().unwrap();
    let members = |name: &str| shared::domain::log_event::Members { name: Some(name.into()), ..Default::default() };
    let amended = |name: &str, number: u64| {
        let fact = LogFact::Amended { number, created_at: clock::now(), members: members(name) };
        fact.to_new(Uuid::new_v4(), clock::now())
    };
    let lone = Uuid::new_v4();
    let recorded = LogFact::Recorded(members("lone")).to_new(Uuid::new_v4(), clock::now());
    let bad = vec![
        (StreamId::of_event(ids[0]), 1, amended("mended", number), None),
        (StreamId::of_event(lone), 0, recorded, None),
    ];
    let mut at = Poisoned::new(app, bad).await;
    at.parked_are(&at.bad.iter().collect::<Vec<_>>()).await;
    let app = &at.app;
    let path = format!("/v1/events/{}", ids[0]);
    let on = app.call("POST", "/v1/events").json(&json!({"name": "c"})).send().await.status(202);
    let seen = app.get(&path).await.status(200).json();
    assert_eq!(seen["name"], "a", "the last good one");
    is_parked(app.reading(&path, &on).send().await);
    is_parked(app.reading(&format!("/v1/events/{lone}"), &on).send().await);
    app.get(&format!("/v1/events/{lone}")).await.fails(404);
    is_parked(app.call("PATCH", &path).json(&json!({"name": "d"})).send().await);
    is_parked(app.call("DELETE", &path).send().await);
    is_parked(app.get(&format!("{path}/history")).await);
    let list = app.reading("/v1/events", &on).send().await.status(200);
    assert_eq!(list.header("parked"), Some("2"));
    assert_eq!(list.json()["events"].as_array().unwrap().len(), 3);
    for path in ["/v1/events/stats?interval=1h&by=name", "/v1/sessions", "/v1/rejections", "/api/read", "/event"] {
        let reply = app.reading(path, &on).send().await.status(200);
        assert_eq!(reply.header("parked"), Some("2"), "{path}");
    }
    at.is_ready().await;

    at.mend(|_| true).await;
    at.operate("POST", "/parked/replay", "").await.is(202, &json!({"streams": 2}));
    at.parked_are(&[]).await;
    let app = &at.app;
    let seen = app.get(&path).await.status(200).json();
    assert_eq!(seen["name"], "mended");
    let seen = app.get(&format!("/v1/events/{lone}")).await.status(200).json();
    assert_eq!(seen["name"], "lone");
    let list = app.get("/v1/events").await.status(200);
    assert_eq!((list.header("parked"), list.json()["events"].as_array().unwrap().len()), (None, 4));
    let stats = app.get("/v1/events/stats?interval=1h&by=name").await.status(200).json();
    assert_eq!(stats["total"], 4);
    let patched = app.call("PATCH", &path).json(&json!({"name": "next"})).send().await.status(200);
    let seen = app.reading(&path, &patched).send().await.status(200).json();
    assert_eq!(seen["name"], "next");
}
