//! `kill -9` while events are sent in: what was accepted is there afterwards, and a
//! repetition with its key stores exactly what is missing.
//!
//! `QASERVICE_KILL_ROUNDS` sets how many rounds, `QASERVICE_SEED` repeats a run.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::crash_support::{Client, Launch, Reply, Rng, Service, env_number, seed};

const WRITERS: u64 = 8;
const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// A request and, if it was answered, the ids that it got.
struct Sent {
    key: String,
    /// The names of its events, which no other request has.
    names: Vec<String>,
    ids: Option<Vec<String>>,
}

impl Sent {
    fn new(rng: &mut Rng, writer: &str, number: u64) -> Self {
        let count = if rng.chance(20) { rng.between(100, 1_500) } else { rng.between(1, 20) };
        let name = |event: u64| format!("{writer} {number} {event}");
        Self { key: format!("{writer}-{number}"), names: (0..count).map(name).collect(), ids: None }
    }

    fn send(&self, client: &mut Client) -> std::io::Result<Reply> {
        let headers = [NDJSON, ("Idempotency-Key", self.key.as_str())];
        let line =
            |name: &String| format!("{{\"name\":\"{name}\",\"data\":{{\"pad\":\"{}\"}}}}\n", "x".repeat(name.len()));
        let body: String = self.names.iter().map(line).collect();
        client.send("POST", "/v1/events", &headers, body.as_bytes())
    }

    /// Sends it until it has an outcome.
    fn repeat(&self, client: &mut Client) -> Vec<String> {
        for _ in 0..200 {
            let reply = self.send(client).expect("an answer");
            if !matches!(reply.status, 409 | 503) {
                return accepted(&reply);
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("no outcome of {:?}", self.key);
    }
}

#[track_caller]
fn accepted(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 202, "{}", reply.text());
    serde_json::from_value(reply.json()["ids"].clone()).expect("ids")
}

#[test]
fn kill_9_while_events_come_in_loses_and_doubles_nothing() {
    let mut rng = Rng::new(seed("kill_9_while_events_come_in"));
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let (mut all, mut unknown) = (Vec::<Sent>::new(), 0);
    for round in 0..env_number("QASERVICE_KILL_ROUNDS", 12).div_ceil(3) {
        let mut service = Launch::on(&data).start();
        let mut sent = load(&mut service, &mut rng, round);
        let service = Launch::on(&data).start();
        let mut client = service.client();
        unknown += sent.iter().filter(|request| request.ids.is_none()).count();
        for request in &mut sent {
            let ids = request.repeat(&mut client);
            assert_eq!(ids.len(), request.names.len());
            if let Some(first) = &request.ids {
                assert_eq!(*first, ids, "a repetition answers as the first did");
            }
            assert_eq!(request.repeat(&mut client), ids, "and so does another");
            request.ids = Some(ids);
        }
        all.extend(sent);
        eprintln!("round {round}: {} requests so far, of these {unknown} without an answer", all.len());
        check(&mut client, &all);
        // Here positions have no gaps: the next one tells how many events there are.
        let probe = client.send("POST", "/v1/events", &[], b"{}").expect("an answer");
        let events = all.iter().map(|request| request.names.len() as u64).sum::<u64>();
        assert_eq!(probe.position(), Some(events + round + 1), "as many events as were sent, and a probe a round");
    }
    assert!(all.len() > 20, "hardly any load: {}", all.len());
}

/// Lets writers send until the process is killed.
fn load(service: &mut Service, rng: &mut Rng, round: u64) -> Vec<Sent> {
    let ending = Arc::new(AtomicBool::new(false));
    let log = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (mut rng, mut client) = (rng.fork(), service.client());
            let (ending, log) = (ending.clone(), log.clone());
            thread::spawn(move || {
                for number in 0.. {
                    let mut request = Sent::new(&mut rng, &format!("r{round}w{writer}"), number);
                    let reply = request.send(&mut client);
                    let cut_off = reply.is_err();
                    assert!(!cut_off || ending.load(Ordering::SeqCst), "cut off before the end: {:?}", reply.err());
                    request.ids = reply.ok().as_ref().map(accepted);
                    log.lock().expect("not poisoned").push(request);
                    if cut_off || ending.load(Ordering::SeqCst) {
                        return;
                    }
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(rng.between(15, 600)));
    ending.store(true, Ordering::SeqCst);
    service.kill();
    for writer in writers {
        writer.join().expect("a writer does not fail before the end");
    }
    std::mem::take(&mut log.lock().expect("not poisoned"))
}

/// Every accepted event is there as it was sent, and once.
fn check(client: &mut Client, all: &[Sent]) {
    let mut seen = HashSet::new();
    for request in all {
        let Some(ids) = &request.ids else { continue };
        for (id, name) in ids.iter().zip(&request.names) {
            assert!(seen.insert(id.clone()), "{id} was given twice");
            // Looking at each would take longer than all else.
            if !(ids.len() < 4 || id.ends_with(['0', '8'])) {
                continue;
            }
            let history: Vec<Value> =
                serde_json::from_value(client.get(&format!("/v1/events/{id}/history"), &[]).json()).expect("a history");
            assert_eq!(history.len(), 1, "{id}");
            assert_eq!(history[0]["data"]["name"], name.as_str());
        }
    }
}
