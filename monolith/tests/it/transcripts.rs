//! Transcripts: what clients of the older APIs send and get back, as data, replayed
//! against the service. Each is a file in `transcripts/` and a test of that name below,
//! on a log that is empty at its start.
//!
//! ```text
//! Anything before the first exchange is a remark.
//!
//! ## what the exchange shows
//! POST /api/write?x=1
//! Content-Type: application/x-www-form-urlencoded
//!
//! {"event_name":"new customer"}
//!
//! --> 201
//! Event-Position: <integer:first>
//!
//! {"log":{"created_at":"<time>","event_name":"new customer"}}
//! ```
//!
//! The request is its method and path, its headers, an empty line and its body, as they
//! are sent; behind the arrow stand the status, headers and body that must come back. A
//! request without a body ends at the arrow, and a reply without one must be empty. A
//! body that is JSON is compared as JSON, and its reply must say that it is; any other
//! as text. What lines of headers do not name may be anything.
//!
//! In what must come back a header's value, or a string of JSON, may be `<any>`,
//! `<uuid>` (version 4, a string), `<time>` (RFC 3339 in UTC, a string), `<integer>` or
//! `<text>`; a header may be `<none>`, which is not there, and a whole body `<any>`.
//! `<uuid:name>` keeps what it finds under a name: from then on `<name>` stands for
//! that, in requests and replies, alone or within a longer text. `<host>` is where the
//! request goes.
//!
//! A GET or HEAD that says nothing about it waits for all that was done before it.

use std::collections::HashMap;

use serde_json::Value;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    app::{Storage, TestApp},
    client::Reply,
};

/// Makes a test of each transcript, on each storage.
macro_rules! transcripts {
    ($($name:ident),+ $(,)?) => {
        $(async fn $name(storage: Storage) {
            replay(storage, include_str!(concat!("transcripts/", stringify!($name), ".txt"))).await;
        })+
        on_each_storage! { $($name),+ }
    };
}

transcripts!(answers, audit_log, event_logger, eye_collector, eye_rest);

/// A request and what must come back.
#[derive(Debug, Default, PartialEq)]
struct Exchange {
    title: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    status: u16,
    expected_headers: Vec<(String, String)>,
    expected_body: String,
}

/// The exchanges of a transcript.
fn read(text: &str) -> Vec<Exchange> {
    let parts = format!("\n{text}");
    parts.split("\n## ").skip(1).map(exchange).collect()
}

fn exchange(text: &str) -> Exchange {
    let (title, rest) = text.split_once('\n').expect("a request behind the title");
    let (request, reply) = rest.split_once("\n--> ").unwrap_or_else(|| panic!("{title}: no reply"));
    let (first, headers, body) = message(request);
    let (method, path) = first.split_once(' ').unwrap_or_else(|| panic!("{title}: no path"));
    let (status, expected_headers, expected_body) = message(reply);
    Exchange {
        title: title.trim().into(),
        method: method.into(),
        path: path.into(),
        headers,
        body,
        status: status.parse().unwrap_or_else(|_| panic!("{title}: {status} is no status")),
        expected_headers,
        expected_body,
    }
}

/// The first line, the headers and the body.
fn message(text: &str) -> (String, Vec<(String, String)>, String) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let first = lines.next().expect("a first line").trim().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
        (name.trim().to_owned(), value.trim().to_owned())
    };
    (first, lines.map(header).collect(), body.trim().to_owned())
}

/// Says the transcript to the service.
async fn replay(storage: Storage, text: &str) {
    let app = TestApp::spawn(storage).await;
    let exchanges = read(text);
    assert!(!exchanges.is_empty());
    let mut player = Player::default();
    for exchange in exchanges {
        player.play(&app, &exchange).await;
    }
}

/// What is known while a transcript is replayed.
#[derive(Default)]
struct Player {
    /// What was found under names.
    kept: HashMap<String, Value>,
    /// The position of the last thing done.
    position: u64,
}

impl Player {
    async fn play(&mut self, app: &TestApp, exchange: &Exchange) {
        let path = self.filled(&exchange.path);
        let home = app.home(&exchange.method, &path);
        self.kept.insert("host".into(), home.to_string().into());
        let mut call = app.call_at(home, &exchange.method, &path);
        for (name, value) in &exchange.headers {
            call = call.header(name, self.filled(value));
        }
        let reads = matches!(exchange.method.as_str(), "GET" | "HEAD");
        let waits = |(name, _): &(String, String)| name.eq_ignore_ascii_case("await-position");
        if reads && !exchange.headers.iter().any(waits) && !path.contains("await=") {
            call = call.header("Await-Position", self.position.to_string());
        }
        if !exchange.body.is_empty() {
            call = call.body(self.filled(&exchange.body));
        }
        let reply = call.send().await;
        if let Some(position) = reply.header("event-position").filter(|_| !reads) {
            self.position = self.position.max(position.parse().unwrap());
        }
        if let Err(why) = self.compare(exchange, &reply) {
            let (title, Exchange { method, path, .. }) = (&exchange.title, exchange);
            panic!("{title}\n{method} {path}\n{why}\n{} {:?}\n{}", reply.status, reply.headers, reply.text());
        }
    }

    fn compare(&mut self, exchange: &Exchange, reply: &Reply) -> Result<(), String> {
        if reply.status != exchange.status {
            return Err(format!("{}, not {}", reply.status, exchange.status));
        }
        for (name, expected) in &exchange.expected_headers {
            self.compare_header(name, expected, reply.header(name))?;
        }
        match exchange.expected_body.as_str() {
            "<any>" => Ok(()),
            "" if reply.body.is_empty() => Ok(()),
            text => match serde_json::from_str(text) {
                Ok(_) if !reply.media_type().ends_with("json") => Err(format!("{} is not JSON", reply.media_type())),
                Ok(expected) => self.compare_json("body", &expected, &reply.json()),
                Err(_) if reply.text().trim() == self.filled(text) => Ok(()),
                Err(_) => Err(format!("the body is not {text:?}")),
            },
        }
    }

    fn compare_header(&mut self, name: &str, expected: &str, found: Option<&str>) -> Result<(), String> {
        let found = match (expected, found) {
            ("<none>", None) => return Ok(()),
            ("<none>", Some(found)) => return Err(format!("{name}: {found}, not none")),
            (_, None) => return Err(format!("{name} is missing")),
            (_, Some(found)) => found,
        };
        if placeholder(expected).is_some_and(|(kind, _)| KINDS.contains(&kind)) {
            // Numbers are texts in headers.
            let number = found.parse::<u64>().ok().filter(|_| expected.starts_with("<integer"));
            return self.compare_json(name, &expected.into(), &number.map_or_else(|| found.into(), Value::from));
        }
        if found == self.filled(expected) { Ok(()) } else { Err(format!("{name}: {found}, not {expected}")) }
    }

    fn compare_json(&mut self, place: &str, expected: &Value, found: &Value) -> Result<(), String> {
        let different = || Err(format!("{place}: {found}, not {expected}"));
        match (expected, found) {
            (Value::Object(expected), Value::Object(members)) => {
                if expected.keys().ne(members.keys()) {
                    return Err(format!("{place}: {:?}, not {:?}", members.keys(), expected.keys()));
                }
                let mut pairs = expected.iter().zip(members.values());
                pairs.try_for_each(|((name, value), found)| self.compare_json(&format!("{place}.{name}"), value, found))
            }
            (Value::Array(expected), Value::Array(elements)) if expected.len() == elements.len() => {
                let mut pairs = expected.iter().zip(elements).enumerate();
                pairs.try_for_each(|(n, (value, found))| self.compare_json(&format!("{place}[{n}]"), value, found))
            }
            (Value::String(text), _) => self.compare_text(text, found).or_else(|()| different()),
            _ if expected == found => Ok(()),
            _ => different(),
        }
    }

    fn compare_text(&mut self, expected: &str, found: &Value) -> Result<(), ()> {
        let fits = match placeholder(expected) {
            Some((kind, name)) if KINDS.contains(&kind) => {
                if let Some(name) = name {
                    self.kept.insert(name.to_owned(), found.clone());
                }
                fits(kind, found)
            }
            Some((name, None)) if self.kept.contains_key(name) => self.kept[name] == *found,
            _ => found.as_str() == Some(&*self.filled(expected)),
        };
        if fits { Ok(()) } else { Err(()) }
    }

    /// The text with everything put in that is kept under a name.
    fn filled(&self, text: &str) -> String {
        let put = |text: String, (name, value): (&String, &Value)| text.replace(&format!("<{name}>"), &text_of(value));
        self.kept.iter().fold(text.to_owned(), put)
    }
}

/// `<kind>` or `<kind:name>`.
fn placeholder(text: &str) -> Option<(&str, Option<&str>)> {
    let inside = text.strip_prefix('<')?.strip_suffix('>')?;
    Some(inside.split_once(':').map_or((inside, None), |(kind, name)| (kind, Some(name))))
}

const KINDS: [&str; 5] = ["any", "integer", "text", "time", "uuid"];

/// Whether a value is of a kind.
fn fits(kind: &str, found: &Value) -> bool {
    let text = |is: fn(&str) -> bool| found.as_str().is_some_and(is);
    match kind {
        "any" => true,
        "integer" => found.is_i64() || found.is_u64(),
        "text" => text(|text| !text.is_empty()),
        "time" => text(|text| OffsetDateTime::parse(text, &Rfc3339).is_ok_and(|time| time.offset() == UtcOffset::UTC)),
        "uuid" => {
            text(|text| Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text && id.get_version_num() == 4))
        }
        _ => panic!("<{kind}> is nothing"),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn a_transcript_is_read() {
    let text =
        "a remark\n\n## one\nGET /a?b=c\n--> 204\n\n## two\nPOST /a\nX-Y: z: 1\n\n{\n\n}\n\n--> 201\nA: b\n\nbody\n";
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let one = Exchange {
        title: "one".into(),
        method: "GET".into(),
        path: "/a?b=c".into(),
        status: 204,
        ..Exchange::default()
    };
    let two = Exchange {
        title: "two".into(),
        method: "POST".into(),
        path: "/a".into(),
        headers: header("X-Y", "z: 1"),
        body: "{\n\n}".into(),
        status: 201,
        expected_headers: header("A", "b"),
        expected_body: "body".into(),
    };
    assert_eq!(read(text), [one, two]);
}

#[test]
fn values_are_compared_and_kept() {
    let mut player = Player::default();
    let mut same = |expected: &str, found: &str| {
        player.compare_json("", &serde_json::from_str(expected).unwrap(), &serde_json::from_str(found).unwrap()).is_ok()
    };
    let id = r#""3fd2b1c4-8f0e-4a51-9a52-0a6ee6a2c1d3""#;
    assert!(same(r#"{"a":["<integer:n>",1,null]}"#, r#"{"a":[7,1,null]}"#));
    assert!(same(r#"["<n>","x<n>y"]"#, r#"[7,"x7y"]"#));
    assert!(same(r#""<uuid:id>""#, id) && same(r#""<id>""#, id));
    assert!(same(r#""<time>""#, r#""2022-11-14T21:01:56Z""#));
    for (expected, found) in [
        (r#""<n>""#, r#""7""#),
        (r#""<integer>""#, r#""7""#),
        (r#""<integer>""#, "7.5"),
        (r#""<uuid>""#, "\"3FD2B1C4-8f0e-4a51-9a52-0a6ee6a2c1d3\""),
        (r#""<time>""#, r#""2022-11-14T21:01:56+01:00""#),
        (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
        (r#"{"a":1,"b":null}"#, r#"{"a":1}"#),
        ("[1]", "[1,2]"),
        (r#""<unheard-of>""#, "7"),
    ] {
        assert!(!same(expected, found), "{expected} {found}");
    }
}
