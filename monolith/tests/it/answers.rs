//! The call table, the failure table by state, the rules of what may follow what, and
//! races.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::{Reply, answer},
};

on_each_storage!(
    every_call_of_the_table,
    an_update_by_either_path,
    put_creates_or_updates,
    every_allowed_sequence,
    every_forbidden_sequence,
    an_update_to_the_same_value_is_an_event,
    a_get_is_never_recorded,
    the_failures_by_state,
    revisions_go_on_after_a_deletion,
    racing_creates_have_one_winner,
    racing_updates_are_all_taken,
    racing_conditional_updates_have_one_winner,
    racing_puts_have_one_create,
    racing_deletes_have_one_winner,
    racing_commands_on_many_keys,
    random_commands_do_as_a_model_does;
    locally: both_ports_serve_every_route,
);

async fn every_call_of_the_table(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("name", "john").await.created();
    assert_eq!(created.revision(), 0);
    assert!(created.position() >= 1);
    app.read("name", &created).await.is(200, &json!({"key": "name", "value": "john"}));

    let updated = app.update("name", "jack").await.updated();
    assert_eq!(updated.revision(), 1);
    assert!(updated.position() > created.position());
    let read = app.read("name", &updated).await.is(200, &json!({"key": "name", "value": "jack"}));
    assert_eq!(read.revision(), 1);

    let list = app.reading("/answers", &updated).send().await;
    list.is(200, &json!({"answers": [{"key": "name", "value": "jack"}], "next": null}));

    let deleted = app.delete("name").await.deleted();
    assert_eq!(deleted.revision(), 2);
    assert!(deleted.position() > updated.position());
    app.read("name", &deleted).await.not_found();

    let again = app.put("name", "jim").await.created();
    assert_eq!(again.revision(), 3);
    app.get("/answers/name/history").await.is(
        200,
        &json!([
            {"type": "AnswerCreatedEvent", "data": {"key": "name", "value": "john"}},
            {"type": "AnswerUpdatedEvent", "data": {"key": "name", "value": "jack"}},
            {"type": "AnswerDeletedEvent", "data": {"key": "name", "value": ""}},
            {"type": "AnswerCreatedEvent", "data": {"key": "name", "value": "jim"}},
        ]),
    );
}

async fn an_update_by_either_path(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("a", "1").await.created();
    let by_body = app.call("PATCH", "/answers").json(&json!({"key": "a", "value": "2"})).send().await.updated();
    assert_eq!(by_body.revision(), 1);
    let by_path = app.update("a", "3").await.updated();
    assert_eq!(by_path.revision(), 2);
    app.read("a", &by_path).await.is(200, &json!({"key": "a", "value": "3"}));
}

async fn put_creates_or_updates(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    assert_eq!(app.put("a", "1").await.created().revision(), 0);
    assert_eq!(app.put("a", "2").await.updated().revision(), 1);
    app.delete("a").await.deleted();
    let last = app.put("a", "3").await.created();
    assert_eq!(last.revision(), 3);
    app.read("a", &last).await.is(200, &json!({"key": "a", "value": "3"}));
}

/// Does what the letters say to one key: create, update, delete, put.
async fn perform(app: &TestApp, key: &str, steps: &str) -> Vec<Reply> {
    let mut replies = Vec::new();
    for (n, step) in steps.chars().enumerate() {
        let value = format!("v{n}");
        replies.push(match step {
            'c' => app.create(key, &value).await,
            'u' => app.update(key, &value).await,
            'd' => app.delete(key).await,
            'p' => app.put(key, &value).await,
            _ => unreachable!(),
        });
    }
    replies
}

async fn every_allowed_sequence(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let allowed = [
        ("cdcu", vec![201, 200, 201, 200]),
        ("cudcu", vec![201, 200, 200, 201, 200]),
        ("cuuuu", vec![201, 200, 200, 200, 200]),
        ("cdcdcd", vec![201, 200, 201, 200, 201, 200]),
        ("pdpd", vec![201, 200, 201, 200]),
        ("ppp", vec![201, 200, 200]),
        ("cpd", vec![201, 200, 200]),
        ("pu", vec![201, 200]),
    ];
    for (steps, statuses) in allowed {
        let replies = perform(&app, steps, steps).await;
        let got: Vec<u16> = replies.iter().map(|r| r.status).collect();
        assert_eq!(got, statuses, "{steps}");
        let revisions: Vec<u64> = replies.iter().map(Reply::revision).collect();
        assert_eq!(revisions, (0..steps.len() as u64).collect::<Vec<_>>());
    }
}

async fn every_forbidden_sequence(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (steps, status) in [
        ("cc", 409),
        ("pc", 409),
        ("cuc", 409),
        ("cdcc", 409),
        ("cdu", 404),
        ("cdd", 404),
        ("pdd", 404),
        ("cudu", 404),
        ("u", 404),
        ("d", 404),
    ] {
        let replies = perform(&app, steps, steps).await;
        let (last, before) = replies.split_last().unwrap();
        assert!(before.iter().all(|r| r.status < 300), "{steps}");
        match status {
            409 => last.clone().exists(),
            _ => last.clone().not_found(),
        };
        // What is refused is not recorded.
        let history = app.get(&format!("{}/history", answer(steps))).await;
        match steps.len() {
            1 => {
                history.not_found();
            }
            n => assert_eq!(history.status(200).json().as_array().unwrap().len(), n - 1, "{steps}"),
        }
    }
}

async fn an_update_to_the_same_value_is_an_event(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let first = app.create("a", "same").await.created();
    let second = app.update("a", "same").await.updated();
    let third = app.put("a", "same").await.updated();
    assert_eq!((second.revision(), third.revision()), (1, 2));
    assert!(first.position() < second.position() && second.position() < third.position());
    assert_eq!(app.history("a").await.len(), 3);
}

async fn a_get_is_never_recorded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("a", "1").await.created();
    for path in ["/answers/a", "/answers/a/history", "/answers/a/as-of?revision=0", "/answers"] {
        app.reading(path, &created).send().await.status(200);
        app.call("HEAD", path).send().await.status(200);
    }
    app.get("/answers/never").await.not_found();
    app.get("/answers/never/history").await.not_found();
    assert_eq!(app.history("a").await.len(), 1);
    assert_eq!(app.update("a", "2").await.updated().revision(), 1);
    app.create("never", "1").await.created();
}

async fn the_failures_by_state(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // Never created.
    app.get("/answers/k").await.not_found();
    app.get("/answers/k/history").await.not_found();
    app.get("/answers/k/history?detail=full").await.not_found();
    app.get("/answers/k/as-of?revision=0").await.not_found();
    app.update("k", "v").await.not_found();
    app.call("PATCH", "/answers").json(&json!({"key": "k", "value": "v"})).send().await.not_found();
    app.delete("k").await.not_found();
    // Live.
    let created = app.create("k", "v").await.created();
    app.create("k", "w").await.exists();
    app.read("k", &created).await.is(200, &json!({"key": "k", "value": "v"}));
    // Deleted: the history stays.
    let deleted = app.delete("k").await.deleted();
    app.read("k", &deleted).await.not_found();
    app.update("k", "v").await.not_found();
    app.call("PATCH", "/answers").json(&json!({"key": "k", "value": "v"})).send().await.not_found();
    app.delete("k").await.not_found();
    let history = app.get("/answers/k/history").await.status(200);
    assert_eq!(history.json().as_array().unwrap().len(), 2);
}

async fn revisions_go_on_after_a_deletion(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let revisions: Vec<u64> = perform(&app, "a", "cdcdc").await.iter().map(Reply::revision).collect();
    assert_eq!(revisions, [0, 1, 2, 3, 4]);
    let read = app.get("/answers/a/history").await.status(200);
    assert_eq!(read.revision(), 4);
}

const RACERS: usize = 64;

fn statuses(replies: &[Reply]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.status).or_default() += 1;
    }
    counts
}

/// The replies that are successes, by revision.
fn successes(replies: &[Reply]) -> BTreeMap<u64, u64> {
    let taken: Vec<&Reply> = replies.iter().filter(|r| r.status < 300).collect();
    let by_revision: BTreeMap<u64, u64> = taken.iter().map(|r| (r.revision(), r.position())).collect();
    assert_eq!(by_revision.len(), taken.len(), "two share a revision");
    let positions: Vec<u64> = by_revision.values().copied().collect();
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
    by_revision
}

async fn racing_creates_have_one_winner(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for round in 0..5 {
        let key = format!("k{round}");
        let values: Vec<String> = (0..RACERS).map(|n| format!("v{n}")).collect();
        let replies = join_all(values.iter().map(|value| app.create(&key, value))).await;
        assert_eq!(statuses(&replies), BTreeMap::from([(201, 1), (409, RACERS - 1)]));
        let won = replies.iter().position(|r| r.status == 201).unwrap();
        for reply in &replies {
            // A refusal rests on the event that won.
            assert_eq!(reply.position(), replies[won].position());
        }
        app.read(&key, &replies[won]).await.is(200, &json!({"key": key, "value": values[won]}));
        assert_eq!(app.history(&key).await.len(), 1);
    }
}

async fn racing_updates_are_all_taken(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "v").await.created();
    let values: Vec<String> = (0..RACERS).map(|n| format!("v{n}")).collect();
    let replies = join_all(values.iter().map(|value| app.update("k", value))).await;
    assert_eq!(statuses(&replies), BTreeMap::from([(200, RACERS)]));
    let taken = successes(&replies);
    assert!(taken.keys().copied().eq(1..=RACERS as u64));

    let history = app.history("k").await;
    assert_eq!(history.len(), RACERS + 1);
    for (reply, value) in replies.iter().zip(&values) {
        let event = &history[usize::try_from(reply.revision()).unwrap()];
        assert_eq!(event["data"]["value"], *value);
        assert_eq!(event["position"], reply.position());
    }
    let last = replies.iter().max_by_key(|r| r.revision()).unwrap();
    let read = app.read("k", last).await.status(200);
    assert_eq!(read.json()["value"], history[RACERS]["data"]["value"]);
}

async fn racing_conditional_updates_have_one_winner(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "v").await.created();
    let replies =
        join_all((0..RACERS).map(|n| app.patch("k", &n.to_string()).header("If-Match", "\"0\"").send())).await;
    assert_eq!(statuses(&replies), BTreeMap::from([(200, 1), (412, RACERS - 1)]));
    assert_eq!(app.history("k").await.len(), 2);
}

async fn racing_puts_have_one_create(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let values: Vec<String> = (0..RACERS).map(|n| format!("v{n}")).collect();
    let replies = join_all(values.iter().map(|value| app.put("k", value))).await;
    assert_eq!(statuses(&replies), BTreeMap::from([(200, RACERS - 1), (201, 1)]));
    assert!(successes(&replies).keys().copied().eq(0..RACERS as u64));
    let created = replies.iter().find(|r| r.status == 201).unwrap();
    assert_eq!(created.revision(), 0);

    let replies =
        join_all((0..RACERS).map(|n| app.putting("only", &n.to_string()).header("If-None-Match", "*").send())).await;
    assert_eq!(statuses(&replies), BTreeMap::from([(201, 1), (412, RACERS - 1)]));
    assert_eq!(app.history("only").await.len(), 1);
}

async fn racing_deletes_have_one_winner(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "v").await.created();
    let replies = join_all((0..RACERS).map(|_| app.delete("k"))).await;
    assert_eq!(statuses(&replies), BTreeMap::from([(200, 1), (404, RACERS - 1)]));
    assert_eq!(app.history("k").await.len(), 2);
}

async fn racing_commands_on_many_keys(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys: Vec<String> = (0..RACERS).map(|n| format!("k{n:02}")).collect();
    let replies = join_all(keys.iter().map(|key| app.create(key, key))).await;
    assert_eq!(statuses(&replies), BTreeMap::from([(201, RACERS)]));
    let positions: BTreeSet<u64> = replies.iter().map(Reply::position).collect();
    assert_eq!(positions.len(), RACERS, "each event has its own position");
    let last = replies.iter().max_by_key(|r| r.position()).unwrap();
    let list = app.reading("/answers", last).send().await.status(200);
    let listed: Vec<Value> = list.json()["answers"].as_array().unwrap().clone();
    let expected: Vec<Value> = keys.iter().map(|k| json!({"key": k, "value": k})).collect();
    assert_eq!(listed, expected);
}

/// Small, repeatable randomness.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What the contract says of one key.
#[derive(Default)]
struct Model {
    live: Option<String>,
    history: Vec<Value>,
}

impl Model {
    fn record(&mut self, kind: &str, key: &str, value: Option<&str>) {
        let data = json!({"key": key, "value": value.unwrap_or_default()});
        self.history.push(json!({"type": kind, "data": data}));
        self.live = value.map(str::to_owned);
    }
}

async fn random_commands_do_as_a_model_does(storage: Storage) {
    let seed = 0x5eed_0001;
    let mut dice = Dice(seed);
    let app = TestApp::spawn(storage).await;
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for n in 0..600 {
        let key = format!("key {}", dice.throw(6));
        let value = format!("value {n}");
        let model = models.entry(key.clone()).or_default();
        let current = model.history.len().saturating_sub(1);
        let live = model.live.is_some();
        let what = format!("seed {seed:#x}, step {n}");
        match dice.throw(7) {
            0 | 1 => {
                let reply = app.create(&key, &value).await;
                assert_eq!(reply.status, if live { 409 } else { 201 }, "{what}");
                if !live {
                    model.record("AnswerCreatedEvent", &key, Some(&value));
                }
            }
            2 => {
                let reply = app.update(&key, &value).await;
                assert_eq!(reply.status, if live { 200 } else { 404 }, "{what}");
                if live {
                    model.record("AnswerUpdatedEvent", &key, Some(&value));
                }
            }
            3 => {
                let reply = app.put(&key, &value).await;
                assert_eq!(reply.status, if live { 200 } else { 201 }, "{what}");
                let kind = ["AnswerCreatedEvent", "AnswerUpdatedEvent"][usize::from(live)];
                model.record(kind, &key, Some(&value));
            }
            4 => {
                let reply = app.delete(&key).await;
                assert_eq!(reply.status, if live { 200 } else { 404 }, "{what}");
                if live {
                    model.record("AnswerDeletedEvent", &key, None);
                }
            }
            5 => {
                let named = current as u64 + dice.throw(2);
                let call = app.putting(&key, &value);
                let reply = call.header("If-Match", format!("\"{named}\"")).send().await;
                let matches = live && named == current as u64;
                assert_eq!(reply.status, if matches { 200 } else { 412 }, "{what}");
                if matches {
                    model.record("AnswerUpdatedEvent", &key, Some(&value));
                }
            }
            _ => {
                let history = app.get(&format!("{}/history", answer(&key))).await;
                if model.history.is_empty() {
                    history.not_found();
                } else {
                    let history = history.is(200, &json!(model.history));
                    let read = app.read(&key, &history).await;
                    match &model.live {
                        Some(value) => read.is(200, &json!({"key": key, "value": value})),
                        None => read.not_found(),
                    };
                }
            }
        }
    }
}

async fn both_ports_serve_every_route(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    assert_eq!(app.addresses().len(), 2);
    for port in [0, 1] {
        let key = format!("k{port}");
        let path = format!("/answers/{key}");
        let created =
            app.call_on(port, "POST", "/answers").json(&json!({"key": key, "value": "v"})).send().await.created();
        app.call_on(port, "PATCH", "/answers").json(&json!({"key": key, "value": "w"})).send().await.updated();
        app.call_on(port, "PATCH", &path).json(&json!({"value": "x"})).send().await.updated();
        let last = app.call_on(port, "PUT", &path).json(&json!({"value": "y"})).send().await.updated();
        assert!(created.position() < last.position());
        for read in [
            path.clone(),
            "/answers".to_owned(),
            format!("{path}/history"),
            format!("{path}/as-of?revision=0"),
            "/healthz".to_owned(),
            "/readyz".to_owned(),
            "/metrics".to_owned(),
            "/eventstore/ping".to_owned(),
            "/projection/ping".to_owned(),
        ] {
            app.call_on(port, "GET", &read)
                .header("Await-Position", last.position().to_string())
                .send()
                .await
                .status(200);
        }
        app.call_on(port, "POST", "/answers/batch")
            .body("{\"op\":\"put\",\"key\":\"b\",\"value\":\"1\"}\n")
            .send()
            .await
            .status(200);
        app.call_on(port, "DELETE", &path).send().await.deleted();
    }
}
