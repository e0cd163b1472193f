//! The live tail of the event log.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::{Lines, Reply, enc},
};

on_each_storage! {
    what_happens_is_told_as_it_happens,
    a_tail_starts_now,
    a_filter_lets_through_what_matches_and_what_is_gone,
    a_tail_that_is_taken_up_again_tells_each_changed_event_once,
    every_tail_hears_everything,
    who_reads_nothing_holds_up_nobody,
    malformed_last_event_ids_are_refused,
    a_comment_keeps_a_tail_open,
    a_tail_does_not_hold_up_the_end
}

/// What a tail tells: the position, the kind, the data.
type Told = (u64, String, Value);

/// Reads a live tail.
struct Tail(Lines);

impl Tail {
    async fn open(app: &TestApp, query: &str, last: Option<u64>) -> Self {
        let mut call = app.call("GET", &format!("/v1/events/stream?{query}"));
        if let Some(last) = last {
            call = call.header("Last-Event-ID", last.to_string());
        }
        let response = call.open().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers()["event-position"].to_str().unwrap().parse::<u64>().is_ok());
        Self(Lines::new(response))
    }

    async fn next(&mut self) -> Told {
        let (mut id, mut kind, mut data) = (None, String::new(), None);
        loop {
            let line = self.0.next().await.expect("the tail goes on");
            match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                None if line.is_empty() && data.is_some() => return (id.unwrap(), kind, data.unwrap()),
                None | Some(("", _)) => {}
                Some(("id", value)) => id = Some(value.parse().unwrap()),
                Some(("event", value)) => kind = value.to_owned(),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                Some(_) => panic!("{line}"),
            }
        }
    }
}

async fn record(app: &TestApp, event: &Value) -> (String, Reply) {
    let reply = app.call("POST", "/v1/events").json(event).send().await.status(202);
    (reply.json()["ids"][0].as_str().unwrap().to_owned(), reply)
}

fn path(id: &str) -> String {
    format!("/v1/events/{id}")
}

async fn what_happens_is_told_as_it_happens(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut tail = Tail::open(&app, "", None).await;
    let (id, recorded) = record(&app, &json!({"name": "a\nid: 7\n\ndata: x", "data": {"x": 1}})).await;
    let told = tail.next().await;
    assert_eq!((told.0, told.1.as_str()), (recorded.position(), ""));
    assert_eq!(told.2, app.reading(&path(&id), &recorded).send().await.json());
    let patched = app.call("PATCH", &path(&id)).json(&json!({"name": "b"})).send().await.status(200);
    assert_eq!(tail.next().await, (patched.position(), String::new(), patched.json()));
    let deleted = app.call("DELETE", &path(&id)).send().await.status(204);
    assert_eq!(tail.next().await, (deleted.position(), "deleted".into(), json!({"id": id})));
    // Answers, sessions and refusals are no changes of events.
    app.create("k", "v").await.created();
    app.call("POST", "/v1/sessions").send().await.status(201);
    let (next, reply) = record(&app, &json!({})).await;
    let told = tail.next().await;
    assert_eq!((told.0, &told.2["id"]), (reply.position(), &json!(next)));
}

async fn a_tail_starts_now(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let (_, before) = record(&app, &json!({"name": "before"})).await;
    let mut tail = Tail::open(&app, &format!("await={}", before.position()), None).await;
    record(&app, &json!({"name": "after"})).await;
    assert_eq!(tail.next().await.2["name"], "after");
}

async fn a_filter_lets_through_what_matches_and_what_is_gone(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut tail = Tail::open(&app, &format!("q={}", enc("name eq 'a' AND data.n gt 1")), None).await;
    record(&app, &json!({"name": "a", "data": {"n": 1}})).await;
    let (other, _) = record(&app, &json!({"name": "b", "data": {"n": 2}})).await;
    let (id, _) = record(&app, &json!({"name": "a", "data": {"n": 2}})).await;
    assert_eq!(tail.next().await.2["id"], id);
    // It leaves, and what is not seen any more says nothing; another one enters.
    app.call("PATCH", &path(&id)).json(&json!({"name": "b"})).send().await.status(200);
    let entered = app.call("PATCH", &path(&other)).json(&json!({"name": "a"})).send().await.status(200);
    assert_eq!(tail.next().await, (entered.position(), String::new(), entered.json()));
    // Whatever the filter says.
    let (never, _) = record(&app, &json!({"name": "c"})).await;
    let deleted = app.call("DELETE", &path(&never)).send().await.status(204);
    assert_eq!(tail.next().await, (deleted.position(), "deleted".into(), json!({"id": never})));
}

async fn a_tail_that_is_taken_up_again_tells_each_changed_event_once(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut tail = Tail::open(&app, "", None).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(record(&app, &json!({"name": n.to_string()})).await.0);
    }
    let seen = tail.next().await.0;
    drop(tail);
    // While nobody listens some change twice, and some go.
    let mut last = 0;
    for (n, id) in ids.iter().enumerate() {
        for name in ["x", "y"] {
            if n.is_multiple_of(3) {
                let patch = app.call("PATCH", &path(id)).json(&json!({"name": name}));
                last = patch.send().await.status(200).position();
            }
        }
        if n.is_multiple_of(5) {
            last = app.call("DELETE", &path(id)).send().await.status(204).position();
        }
    }
    let mut tail = Tail::open(&app, &format!("await={last}"), Some(seen)).await;
    let mut told = Vec::new();
    // The first was told before it changed, and has changed.
    for _ in &ids {
        told.push(tail.next().await);
    }
    assert!(told.windows(2).all(|two| two[0].0 < two[1].0), "{told:?}");
    for (n, id) in ids.iter().enumerate() {
        let of_this: Vec<_> = told.iter().filter(|(_, _, data)| data["id"] == **id).collect();
        assert_eq!(of_this.len(), 1, "{n}: {of_this:?}");
        let (_, kind, data) = of_this[0];
        if n.is_multiple_of(5) {
            assert_eq!((kind.as_str(), data), ("deleted", &json!({"id": id})));
        } else {
            let name = if n.is_multiple_of(3) { "y".to_owned() } else { n.to_string() };
            assert_eq!((kind.as_str(), data["name"].as_str()), ("", Some(name.as_str())));
        }
    }
    // And then goes on.
    let (next, _) = record(&app, &json!({})).await;
    assert_eq!(tail.next().await.2["id"], next);
}

async fn every_tail_hears_everything(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let (_, first) = record(&app, &json!({"name": "first"})).await;
    let (app, position) = (&app, first.position());
    let write = async {
        for batch in 0..20 {
            let events: Vec<_> = (0..100).map(|n| json!({"name": (batch * 100 + n).to_string()})).collect();
            app.call("POST", "/v1/events").json(&json!(events)).send().await.status(202);
        }
    };
    let listen = join_all((0..20).map(async |n| {
        tokio::time::sleep(Duration::from_millis(10 * n)).await;
        let mut tail = Tail::open(app, "", Some(position)).await;
        let mut names = std::collections::BTreeSet::new();
        let mut last = position;
        while names.len() < 2_000 {
            let (at, _, event) = tail.next().await;
            assert!(at > last, "{at} after {last}");
            last = at;
            assert!(names.insert(event["name"].as_str().unwrap().to_owned()), "twice: {event}");
        }
    }));
    tokio::join!(write, listen);
}

async fn who_reads_nothing_holds_up_nobody(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let silent = Tail::open(&app, "", None).await;
    let mut reading = Tail::open(&app, "", None).await;
    let message = "m".repeat(400 * 1024);
    for _ in 0..60 {
        let (id, _) = record(&app, &json!({"message": message})).await;
        assert_eq!(reading.next().await.2["id"], id);
    }
    app.stop().await;
    drop(silent);
}

async fn malformed_last_event_ids_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for id in ["x", "-1", "1.5", "", "9007199254740992"] {
        app.call("GET", "/v1/events/stream").header("Last-Event-ID", id).send().await.fails(400);
    }
}

async fn a_comment_keeps_a_tail_open(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut tail = Tail::open(&app, "", None).await;
    let begun = Instant::now();
    while !tail.0.next().await.expect("the tail goes on").starts_with(':') {}
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(14) && waited < Duration::from_secs(25), "{waited:?}");
}

async fn a_tail_does_not_hold_up_the_end(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let mut tails = join_all((0..10).map(|_| Tail::open(&app, "", None))).await;
    app.stop().await;
    for tail in &mut tails {
        while tail.0.next().await.is_some() {}
    }
}
