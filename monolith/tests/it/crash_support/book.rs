//! Random commands and the book of their outcomes: what was acknowledged must
//! be there, what was refused must not, and what is unknown may be, once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, Reply, Rng, encoded};

/// How long the read side may take to catch up after a start.
const CATCH_UP: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Update,
    Put,
    Delete,
}

#[derive(Clone)]
pub(crate) struct Op {
    pub(crate) verb: Verb,
    pub(crate) key: String,
    /// Given to no other command; empty for a deletion.
    pub(crate) value: String,
}

/// Values may be long; their beginning tells them apart.
impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.verb, self.key, beginning(&self.value))
    }
}

fn beginning(value: &str) -> String {
    value.chars().take(48).collect()
}

/// One request: a command alone, or the lines of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) ops: Vec<Op>,
    pub(crate) batch: bool,
    /// PATCH with the key in the body instead of in the path.
    pub(crate) key_in_body: bool,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) condition: Option<(&'static str, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done {
        kind: Kind,
        revision: u64,
        position: u64,
    },
    /// Answered, and it says that nothing happened.
    Refused(u16, String),
    /// Not answered, or answered that it is unknown.
    Unknown(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Update,
    Delete,
}

impl Kind {
    fn of_type(name: &str) -> Self {
        match name {
            "AnswerCreatedEvent" => Self::Create,
            "AnswerUpdatedEvent" => Self::Update,
            "AnswerDeletedEvent" => Self::Delete,
            other => panic!("no such event: {other:?}"),
        }
    }
}

impl Request {
    pub(crate) fn one(verb: Verb, key: &str, value: &str) -> Self {
        let op = Op { verb, key: key.to_owned(), value: value.to_owned() };
        Self { ops: vec![op], batch: false, key_in_body: false, idempotency_key: None, condition: None }
    }

    pub(crate) fn batch(ops: Vec<Op>) -> Self {
        Self { ops, batch: true, key_in_body: false, idempotency_key: None, condition: None }
    }

    /// Sends it once and tells what became of each of its operations.
    pub(crate) fn send(&self, client: &mut Client) -> Vec<Outcome> {
        self.send_for_reply(client).0
    }

    /// Likewise, with the reply if there was one.
    pub(crate) fn send_for_reply(&self, client: &mut Client) -> (Vec<Outcome>, Option<Reply>) {
        let op = &self.ops[0];
        let path = format!("/answers/{}", encoded(&op.key));
        let keyed = json!({"key": op.key, "value": op.value});
        let value = json!({"value": op.value});
        let (method, path, body) = match op.verb {
            _ if self.batch => ("POST", "/answers/batch".to_owned(), self.lines()),
            Verb::Create => ("POST", "/answers".to_owned(), keyed.to_string()),
            Verb::Update if self.key_in_body => ("PATCH", "/answers".to_owned(), keyed.to_string()),
            Verb::Update => ("PATCH", path, value.to_string()),
            Verb::Put => ("PUT", path, value.to_string()),
            Verb::Delete => ("DELETE", path, String::new()),
        };
        let mut headers = Vec::new();
        if let Some(key) = &self.idempotency_key {
            headers.push(("idempotency-key", key.as_str()));
        }
        if let Some((name, text)) = &self.condition {
            headers.push((name, text.as_str()));
        }
        if self.batch {
            headers.push(("content-type", "application/x-ndjson"));
        }
        match client.send(method, &path, &headers, body.as_bytes()) {
            Err(error) => (vec![Outcome::Unknown(error.to_string()); self.ops.len()], None),
            Ok(reply) if self.batch => (self.batch_outcomes(&reply), Some(reply)),
            Ok(reply) => (vec![single_outcome(&reply)], Some(reply)),
        }
    }

    fn lines(&self) -> String {
        let mut body = String::new();
        for op in &self.ops {
            let verb = match op.verb {
                Verb::Create => "create",
                Verb::Update => "update",
                Verb::Put => "put",
                Verb::Delete => "delete",
            };
            let line = match op.verb {
                Verb::Delete => json!({"op": verb, "key": op.key}),
                _ => json!({"op": verb, "key": op.key, "value": op.value}),
            };
            writeln!(body, "{line}").expect("a string takes it");
        }
        body
    }

    fn batch_outcomes(&self, reply: &Reply) -> Vec<Outcome> {
        if reply.status != 200 {
            return vec![refusal(reply.status, &reply.text()); self.ops.len()];
        }
        // A last line without its end may be half a line.
        let text = reply.text();
        let whole = if reply.complete { &text[..] } else { text.rsplit_once('\n').map_or("", |(whole, _)| whole) };
        let mut lines = whole.lines().filter(|line| !line.is_empty());
        let outcomes: Vec<_> = self
            .ops
            .iter()
            .map(|_| match lines.next() {
                None if reply.complete => panic!("the batch lacks lines: {text}"),
                None => Outcome::Unknown("the batch was cut off".to_owned()),
                Some(line) => line_outcome(line),
            })
            .collect();
        assert_eq!(lines.next(), None, "the batch has too many lines");
        outcomes
    }
}

fn single_outcome(reply: &Reply) -> Outcome {
    if !(200..300).contains(&reply.status) {
        return refusal(reply.status, &reply.text());
    }
    if !reply.complete {
        return Outcome::Unknown("the reply was cut off".to_owned());
    }
    let body = reply.json();
    let kind = Kind::of_type(body["ok"].as_str().unwrap_or_else(|| panic!("no ok in {body}")));
    let status = if kind == Kind::Create { 201 } else { 200 };
    assert_eq!(reply.status, status, "{body}");
    Outcome::Done {
        kind,
        revision: reply.revision().unwrap_or_else(|| panic!("no ETag with {body}")),
        position: reply.position().unwrap_or_else(|| panic!("no Event-Position with {body}")),
    }
}

fn line_outcome(line: &str) -> Outcome {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let status = line["status"].as_u64().unwrap_or_else(|| panic!("no status in {line}"));
    if !(200..300).contains(&status) {
        return refusal(u16::try_from(status).expect("a status"), &line["error"].to_string());
    }
    Outcome::Done {
        kind: Kind::of_type(line["ok"].as_str().unwrap_or_else(|| panic!("no ok in {line}"))),
        revision: line["revision"].as_u64().unwrap_or_else(|| panic!("no revision in {line}")),
        position: line["position"].as_u64().unwrap_or_else(|| panic!("no position in {line}")),
    }
}

fn refusal(status: u16, text: &str) -> Outcome {
    if status == 503 && text.contains("outcome unknown") {
        Outcome::Unknown(text.to_owned())
    } else {
        Outcome::Refused(status, text.to_owned())
    }
}

/// One writer's source of requests.
#[derive(Debug)]
pub(crate) struct Requests {
    rng: Rng,
    name: String,
    count: u64,
    hot: Vec<String>,
    own: Vec<String>,
    max_value: u64,
    /// How many of a hundred commands go to a new key, and of the others to an own.
    fresh: u64,
    to_own: u64,
}

impl Requests {
    /// `name` must be no other source's, in the whole life of the folder.
    pub(crate) fn new(rng: Rng, name: &str, hot: &[String], max_value: u64) -> Self {
        let (name, hot) = (name.to_owned(), hot.to_vec());
        Self { rng, name, count: 0, hot, own: Vec::new(), max_value, fresh: 40, to_own: 25 }
    }

    /// Likewise, to no keys but these; most to the own ones.
    pub(crate) fn on_keys(rng: Rng, name: &str, hot: &[String], own: Vec<String>, max_value: u64) -> Self {
        Self { own, fresh: 0, to_own: 70, ..Self::new(rng, name, hot, max_value) }
    }

    /// A value that no other command has; its token is found in files too.
    fn value(&mut self) -> String {
        let (a, b) = (self.rng.next(), self.rng.next());
        let mut value = format!("tok{a:016x}{b:016x}.{}.{}", self.name, self.count);
        let length = if self.rng.chance(90) { 200 } else { self.max_value };
        for _ in 0..self.rng.below(length.max(1)) {
            // Letters that do not repeat, so that no codec squeezes them.
            value.push(char::from(b'a' + u8::try_from(self.rng.below(26)).expect("fits")));
        }
        value
    }

    fn op(&mut self) -> Op {
        self.count += 1;
        let fresh = self.rng.chance(self.fresh);
        let (key, verb) = if fresh {
            let key = format!("{}/{}", self.name, self.count);
            self.own.push(key.clone());
            (key, if self.rng.chance(80) { Verb::Create } else { Verb::Put })
        } else {
            let own = !self.own.is_empty() && self.rng.chance(self.to_own);
            let key = if own { self.rng.pick(&self.own) } else { self.rng.pick(&self.hot) };
            let key = key.clone();
            (
                key,
                *self.rng.pick(&[
                    Verb::Create,
                    Verb::Update,
                    Verb::Update,
                    Verb::Update,
                    Verb::Put,
                    Verb::Put,
                    Verb::Put,
                    Verb::Delete,
                ]),
            )
        };
        let value = if verb == Verb::Delete { String::new() } else { self.value() };
        Op { verb, key, value }
    }

    pub(crate) fn next(&mut self) -> Request {
        let batch = self.rng.chance(10);
        let mut request = if batch {
            let lines = self.rng.between(1, 40);
            Request::batch((0..lines).map(|_| self.op()).collect())
        } else {
            let op = self.op();
            Request { key_in_body: self.rng.chance(30), ..Request::one(op.verb, &op.key, &op.value) }
        };
        if self.rng.chance(50) {
            self.count += 1;
            request.idempotency_key = Some(format!("{}:{}", self.name, self.count));
        }
        if !batch && self.rng.chance(10) {
            request.condition = match request.ops[0].verb {
                Verb::Put if self.rng.chance(50) => Some(("if-none-match", "*".to_owned())),
                Verb::Create => None,
                _ => {
                    let revision = self.rng.below(20);
                    Some(("if-match", if self.rng.chance(50) { "*".to_owned() } else { format!("\"{revision}\"") }))
                }
            };
        }
        request
    }
}

/// An event as the history shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) revision: u64,
    pub(crate) position: u64,
    pub(crate) value: String,
    pub(crate) id: String,
    pub(crate) recorded_at: String,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} at revision {}, position {}, {}, {:?}",
            self.kind,
            self.revision,
            self.position,
            self.recorded_at,
            beginning(&self.value)
        )
    }
}

/// The history of a key, empty where there is none, checked to be legal.
pub(crate) fn history(client: &mut Client, key: &str) -> Vec<Event> {
    let path = format!("/answers/{}/history?detail=full", encoded(key));
    let reply = client.get(&path, &[]);
    if reply.status == 404 {
        return Vec::new();
    }
    assert_eq!(reply.status, 200, "history of {key:?}: {}", reply.text());
    let events = reply.json();
    let events: Vec<_> = events
        .as_array()
        .expect("an array")
        .iter()
        .map(|event| {
            let text = |name: &str| match event[name].as_str() {
                Some(text) => text.to_owned(),
                None => panic!("no {name} in {event}"),
            };
            let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("no {name} in {event}"));
            assert_eq!(event["data"]["key"].as_str(), Some(key), "{event}");
            let kind = Kind::of_type(&text("type"));
            let short = match kind {
                Kind::Create => "create",
                Kind::Update => "update",
                Kind::Delete => "delete",
            };
            assert_eq!(text("event"), short, "{event}");
            Event {
                kind,
                revision: number("revision"),
                position: number("position"),
                value: event["data"]["value"].as_str().expect("a value").to_owned(),
                id: text("id"),
                recorded_at: text("recorded_at"),
            }
        })
        .collect();
    assert!(!events.is_empty(), "an empty history of {key:?} must be a 404");
    assert_legal(key, &events);
    let newest = events.last().expect("not empty");
    assert_eq!(reply.revision(), Some(newest.revision), "ETag of the history of {key:?}");
    events
}

/// The rules: revisions from 0, positions that grow, times that do not go
/// back, a create where nothing is live, update and delete where something is.
fn assert_legal(key: &str, events: &[Event]) {
    let mut live = false;
    let mut last: Option<&Event> = None;
    for (expected, event) in events.iter().enumerate() {
        let shown = format!("{key:?}: {event:?} after {last:?}");
        assert_eq!(event.revision, expected as u64, "revisions have a hole: {shown}");
        assert_eq!(event.kind == Kind::Create, !live, "not a legal sequence: {shown}");
        assert_eq!(event.kind == Kind::Delete, event.value.is_empty(), "value: {shown}");
        assert!(event.position >= 1, "positions begin at 1: {shown}");
        // 2026-11-21T10:43:17.123456Z: of one length, so that text order is time order.
        let shape: String = event.recorded_at.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "recorded_at: {shown}");
        if let Some(last) = last {
            assert!(event.position > last.position, "positions do not grow: {shown}");
            assert!(event.recorded_at >= last.recorded_at, "recorded_at goes back: {shown}");
        }
        live = event.kind != Kind::Delete;
        last = Some(event);
    }
}

/// The acknowledged, the refused, the unknown.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Histories as they were read after the last check; they may only grow.
    settled: BTreeMap<String, Vec<Event>>,
    /// Events that histories must show: by key, revision.
    acknowledged: HashMap<String, BTreeMap<u64, (Kind, u64, String)>>,
    /// Values that must be in no history, and why.
    never: HashMap<String, String>,
    /// Values that may be in a history, at most once.
    maybe: HashSet<String>,
    maybe_deletes: HashMap<String, u64>,
    /// Keys that a command went to since the last check.
    touched: HashSet<String>,
    pub(crate) count_acknowledged: u64,
    pub(crate) count_unknown: u64,
}

impl Book {
    pub(crate) fn record(&mut self, request: &Request, outcomes: &[Outcome]) {
        assert_eq!(request.ops.len(), outcomes.len());
        for (op, outcome) in request.ops.iter().zip(outcomes) {
            self.touched.insert(op.key.clone());
            match outcome {
                Outcome::Done { kind, revision, position } => self.done(op, *kind, *revision, *position),
                Outcome::Refused(status, why) => {
                    assert!([404, 409, 412, 503].contains(status), "{op:?} was refused with {status}: {why}");
                    self.refused(op, format!("{status} {why}"));
                }
                Outcome::Unknown(_) => self.unknown(op),
            }
        }
    }

    /// A repetition with its key: it tells what was unknown, and does what
    /// was turned away with a 503.
    pub(crate) fn resolve(&mut self, request: &Request, first: &[Outcome], second: &[Outcome]) {
        for (op, first) in request.ops.iter().zip(first) {
            match first {
                Outcome::Unknown(_) => self.forget_unknown(op),
                Outcome::Refused(503, _) => {
                    self.never.remove(&op.value);
                }
                Outcome::Done { .. } | Outcome::Refused(..) => {}
            }
        }
        self.record(request, second);
    }

    fn done(&mut self, op: &Op, kind: Kind, revision: u64, position: u64) {
        let possible: &[Kind] = match op.verb {
            Verb::Create => &[Kind::Create],
            Verb::Update => &[Kind::Update],
            Verb::Put => &[Kind::Create, Kind::Update],
            Verb::Delete => &[Kind::Delete],
        };
        assert!(possible.contains(&kind), "{op:?} caused a {kind:?}");
        let entry = (kind, position, op.value.clone());
        let of_key = self.acknowledged.entry(op.key.clone()).or_default();
        if let Some(other) = of_key.insert(revision, entry.clone()) {
            assert_eq!(other, entry, "revision {revision} of {:?} was acknowledged twice", op.key);
        } else {
            self.count_acknowledged += 1;
        }
    }

    fn refused(&mut self, op: &Op, why: String) {
        if op.verb != Verb::Delete {
            self.never.insert(op.value.clone(), why);
        }
    }

    fn unknown(&mut self, op: &Op) {
        self.count_unknown += 1;
        if op.verb == Verb::Delete {
            *self.maybe_deletes.entry(op.key.clone()).or_default() += 1;
        } else {
            self.maybe.insert(op.value.clone());
        }
    }

    fn forget_unknown(&mut self, op: &Op) {
        if op.verb == Verb::Delete {
            let count = self.maybe_deletes.get_mut(&op.key);
            if let Some(count) = count {
                *count = count.saturating_sub(1);
            }
        } else {
            self.maybe.remove(&op.value);
        }
    }

    /// Every key that a command ever went to.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.settled.keys().cloned().collect();
        keys.extend(self.touched.iter().cloned());
        keys.sort();
        keys.dedup();
        keys
    }

    /// The keys that a command went to since the last check.
    pub(crate) fn touched(&self) -> Vec<String> {
        self.touched.iter().cloned().collect()
    }

    /// Reads all histories and holds them against the book. What
    /// is there now has settled: it must stay, and what is not there now must
    /// not come later.
    fn check_histories(&mut self, client: &mut Client) {
        self.check_histories_of(client, &self.keys());
    }

    /// Likewise of these keys, all that were touched among them.
    pub(crate) fn check_histories_of(&mut self, client: &mut Client, keys: &[String]) {
        for key in keys {
            let events = history(client, key);
            self.check_history(key, &events);
            self.settled.insert(key.clone(), events);
        }
        let mut seen = HashMap::new();
        for (key, events) in &self.settled {
            for event in events.iter().filter(|event| event.kind != Kind::Delete) {
                let other = seen.insert(event.value.as_str(), (key, event));
                assert_eq!(other, None, "one command, two events: {key:?} {event:?}");
            }
        }
        let mut places = HashMap::new();
        for (key, event) in self.settled.iter().flat_map(|(key, events)| events.iter().map(move |event| (key, event))) {
            let other = places.insert(event.position, (key, event));
            assert_eq!(other, None, "one position, two events: {key:?} {event:?}");
        }
        let late: Vec<_> = self.maybe.iter().filter(|value| !seen.contains_key(value.as_str())).cloned().collect();
        for value in late {
            self.never.insert(value, "its outcome was unknown and it was not there at the last check".to_owned());
        }
        self.maybe.clear();
        self.maybe_deletes.clear();
        self.touched.clear();
    }

    /// Only what was acknowledged, and settles nothing: for before anything is
    /// repeated, as a repetition could mend a loss.
    pub(crate) fn check_acknowledged(&self, client: &mut Client) {
        for key in self.touched.iter().filter(|key| self.acknowledged.contains_key(*key)) {
            self.check_acknowledged_in(key, &history(client, key));
        }
    }

    fn check_history(&self, key: &str, events: &[Event]) {
        let settled = self.settled.get(key).map_or(&[][..], Vec::as_slice);
        assert!(
            events.starts_with(settled),
            "{key:?} had {} events that were read before, now {} and another past: {:?} was {:?}",
            settled.len(),
            events.len(),
            events.iter().zip(settled).find(|(now, then)| now != then),
            settled.last()
        );
        self.check_acknowledged_in(key, events);
        let none = BTreeMap::new();
        let acknowledged = self.acknowledged.get(key).unwrap_or(&none);
        let mut unclaimed_deletes = 0;
        for event in events.iter().skip(settled.len()) {
            if acknowledged.contains_key(&event.revision) {
                continue;
            }
            if event.kind == Kind::Delete {
                unclaimed_deletes += 1;
                continue;
            }
            if let Some(why) = self.never.get(&event.value) {
                panic!("{key:?} has {event:?}, though its command was refused: {why}");
            }
            assert!(self.maybe.contains(&event.value), "{key:?} has {event:?}, which nobody caused");
        }
        let maybe_deletes = self.maybe_deletes.get(key).copied().unwrap_or(0);
        assert!(
            unclaimed_deletes <= maybe_deletes,
            "{key:?} has {unclaimed_deletes} deletions beside the acknowledged, {maybe_deletes} were unknown"
        );
    }

    fn check_acknowledged_in(&self, key: &str, events: &[Event]) {
        for (revision, (kind, position, value)) in self.acknowledged.get(key).into_iter().flatten() {
            let shown = format!("revision {revision} of {key:?} ({kind:?} at {position}, {:?})", beginning(value));
            let found = usize::try_from(*revision).ok().and_then(|revision| events.get(revision));
            let found = found.unwrap_or_else(|| panic!("LOST, though acknowledged: {shown}; {} events", events.len()));
            assert_eq!((found.kind, found.position, &found.value), (*kind, *position, value), "changed: {shown}");
        }
    }

    /// The rows that the histories come to.
    pub(crate) fn fold(&self) -> BTreeMap<String, (String, u64)> {
        fold(self.settled.iter().map(|(key, events)| (key.as_str(), events.as_slice())))
    }

    pub(crate) fn largest_position(&self) -> u64 {
        let newest = self.settled.values().filter_map(|events| events.last());
        newest.map(|event| event.position).max().unwrap_or(0)
    }

    /// All keys' histories, then the read side against their fold.
    pub(crate) fn check_all(&mut self, client: &mut Client, reader: &mut Client) {
        self.check_histories(client);
        check_views(reader, &self.fold(), self.largest_position());
    }
}

pub(crate) fn fold<'a>(histories: impl Iterator<Item = (&'a str, &'a [Event])>) -> BTreeMap<String, (String, u64)> {
    let newest = histories.filter_map(|(key, events)| events.last().map(|event| (key, event)));
    let live = newest.filter(|(_, event)| event.kind != Kind::Delete);
    live.map(|(key, event)| (key.to_owned(), (event.value.clone(), event.revision))).collect()
}

/// The read side, awaited at the position, is these rows and no others.
pub(crate) fn check_views(reader: &mut Client, rows: &BTreeMap<String, (String, u64)>, position: u64) {
    let await_position = position.to_string();
    let headers = [("await-position", await_position.as_str())];
    let begun = Instant::now();
    let mut got = Vec::new();
    let mut cursor = String::new();
    loop {
        let reply = reader.get(&format!("/answers?limit=700{cursor}"), &headers);
        if reply.status == 503 && begun.elapsed() < CATCH_UP {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        assert_eq!(reply.status, 200, "list, awaiting {position}: {}", reply.text());
        let page = reply.json();
        for row in page["answers"].as_array().expect("answers") {
            let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("no {name} in {row}")).to_owned();
            got.push((text("key"), text("value")));
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
        assert!(got.len() <= rows.len() + 1000, "paging does not end");
    }
    let expected: Vec<_> = rows.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    if got != expected {
        let short = |(key, value): &(String, String)| (key.clone(), beginning(value));
        let missing: Vec<_> = expected.iter().filter(|row| !got.contains(row)).take(5).map(short).collect();
        let extra: Vec<_> = got.iter().filter(|row| !expected.contains(row)).take(5).map(short).collect();
        panic!(
            "the views are not the fold of the log: {} rows, not {}; missing {missing:?}; too many or other {extra:?}",
            got.len(),
            expected.len()
        );
    }
    for (key, (value, revision)) in rows.iter().take(5) {
        let reply = reader.get(&format!("/answers/{}", encoded(key)), &headers);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["value"].as_str(), Some(value.as_str()));
        assert_eq!(reply.revision(), Some(*revision), "ETag of {key:?} on the read side");
    }
}
