//! What tests say to a `TestApp` and read from it: calls by reqwest, exact bytes by a
//! bare socket, and the two kinds of streams.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use reqwest::{Body, Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::app::TestApp;

/// How long anything may take that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Percent-encodes one path segment or query value, all but unreserved characters.
pub(crate) fn enc(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// A request in the making. By default commands go to the first port and everything
/// else to the second.
pub(crate) struct Call {
    client: reqwest::Client,
    method: Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Body>,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(body.to_string()).header("content-type", "application/json")
    }

    /// A body without a Content-Type.
    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) async fn open(self) -> Result<reqwest::Response, reqwest::Error> {
        let mut request = self.client.request(self.method, &self.url);
        for (name, value) in self.headers {
            request = request.header(name, reqwest::header::HeaderValue::from_bytes(&value).unwrap());
        }
        if let Some(body) = self.body {
            request = request.body(body);
        }
        request.send().await
    }

    pub(crate) async fn try_send(self) -> Result<Reply, reqwest::Error> {
        let what = format!("{} {}", self.method, self.url);
        let whole = async {
            let response = self.open().await?;
            Ok(Reply {
                what: what.clone(),
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.bytes().await?,
            })
        };
        match timeout(PATIENCE, whole).await {
            Ok(reply) => reply,
            Err(_) => panic!("{what}: no answer after {PATIENCE:?}"),
        }
    }

    pub(crate) async fn send(self) -> Reply {
        let what = format!("{} {}", self.method, self.url);
        match self.try_send().await {
            Ok(reply) => reply,
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    what: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{}: {error} in {:.300}", self.what, self.text()),
        }
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {:.300}", self.what, self.text());
        self
    }

    /// Asserts the status and the whole body, which is JSON and says so.
    #[track_caller]
    pub(crate) fn is(self, status: u16, body: &Value) -> Self {
        let reply = self.status(status);
        assert_eq!(reply.json(), *body, "{}", reply.what);
        assert_eq!(reply.media_type(), "application/json", "{}: {:.300}", reply.what, reply.text());
        reply
    }

    /// Asserts the status and a body that is `{"error":"<something>"}` and nothing else.
    #[track_caller]
    pub(crate) fn fails(self, status: u16) -> Self {
        let reply = self.status(status);
        let error = reply.error();
        assert!(!error.is_empty(), "{}: an empty error", reply.what);
        let body = json!({ "error": error });
        reply.is(status, &body)
    }

    #[track_caller]
    pub(crate) fn not_found(self) -> Self {
        self.is(404, &json!({"error": "Key not found"}))
    }

    #[track_caller]
    pub(crate) fn exists(self) -> Self {
        self.is(409, &json!({"error": "Key exists"}))
    }

    #[track_caller]
    pub(crate) fn created(self) -> Self {
        self.is(201, &json!({"ok": "AnswerCreatedEvent"}))
    }

    #[track_caller]
    pub(crate) fn updated(self) -> Self {
        self.is(200, &json!({"ok": "AnswerUpdatedEvent"}))
    }

    #[track_caller]
    pub(crate) fn deleted(self) -> Self {
        self.is(200, &json!({"ok": "AnswerDeletedEvent"}))
    }

    #[track_caller]
    pub(crate) fn error(&self) -> String {
        match self.json()["error"].as_str() {
            Some(error) => error.to_owned(),
            None => panic!("{}: no error in {:.300}", self.what, self.text()),
        }
    }

    pub(crate) fn media_type(&self) -> &str {
        let value = self.header("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    /// The revision that the ETag names: a strong tag of digits.
    #[track_caller]
    pub(crate) fn revision(&self) -> u64 {
        let tag = self.header("etag").expect("an ETag");
        let digits = tag
            .strip_prefix('"')
            .and_then(|tag| tag.strip_suffix('"'))
            .unwrap_or_else(|| panic!("{}: ETag {tag}", self.what));
        digits.parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn position(&self) -> u64 {
        let Some(position) = self.header("event-position") else {
            panic!("{}: no Event-Position ({})", self.what, self.status);
        };
        let position = position.parse().unwrap();
        assert!(position < 1 << 53, "{position}");
        position
    }

    #[track_caller]
    pub(crate) fn has_no_position(self) -> Self {
        assert_eq!(self.header("event-position"), None, "{}", self.what);
        self
    }

    /// Asserts a 503 that may be repeated.
    #[track_caller]
    pub(crate) fn busy(self) -> Self {
        let reply = self.fails(503);
        let seconds = reply.header("retry-after").expect("Retry-After");
        assert!(seconds.parse::<u32>().is_ok(), "Retry-After: {seconds}");
        reply
    }

    /// The methods that `Allow` names, sorted, without OPTIONS.
    #[track_caller]
    pub(crate) fn allow(&self) -> Vec<String> {
        let mut methods: Vec<String> = self
            .header("allow")
            .unwrap_or_else(|| panic!("{}: no Allow", self.what))
            .split(',')
            .map(|method| method.trim().to_owned())
            .filter(|method| method != "OPTIONS")
            .collect();
        methods.sort();
        methods
    }
}

impl TestApp {
    /// A call on a port: 0 is the first.
    pub(crate) fn call_on(&self, port: usize, method: &str, path: &str) -> Call {
        self.call_at(self.reached(port), method, path)
    }

    /// A call where it belongs.
    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        self.call_at(self.home(method, path), method, path)
    }

    /// A call at an address.
    pub(crate) fn call_at(&self, address: SocketAddr, method: &str, path: &str) -> Call {
        Call {
            client: self.client.clone(),
            method: method.parse().unwrap(),
            url: format!("http://{address}{path}"),
            headers: Vec::new(),
            body: None,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path).send().await
    }

    pub(crate) async fn create(&self, key: &str, value: &str) -> Reply {
        self.call("POST", "/answers").json(&json!({"key": key, "value": value})).send().await
    }

    /// The call to change one answer, to be given conditions.
    pub(crate) fn patch(&self, key: &str, value: &str) -> Call {
        self.call("PATCH", &answer(key)).json(&json!({ "value": value }))
    }

    pub(crate) async fn update(&self, key: &str, value: &str) -> Reply {
        self.patch(key, value).send().await
    }

    /// The call to put one answer, to be given conditions.
    pub(crate) fn putting(&self, key: &str, value: &str) -> Call {
        self.call("PUT", &answer(key)).json(&json!({ "value": value }))
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Reply {
        self.putting(key, value).send().await
    }

    /// The call to delete one answer, to be given conditions.
    pub(crate) fn deleting(&self, key: &str) -> Call {
        self.call("DELETE", &answer(key))
    }

    pub(crate) async fn delete(&self, key: &str) -> Reply {
        self.deleting(key).send().await
    }

    /// A get of one answer that waits for what a command did.
    pub(crate) async fn read(&self, key: &str, after: &Reply) -> Reply {
        self.reading(&answer(key), after).send().await
    }

    /// A get on the read side that waits for what a command did.
    pub(crate) fn reading(&self, path: &str, after: &Reply) -> Call {
        self.call("GET", path).header("Await-Position", after.position().to_string())
    }

    /// The whole history of a key with all details.
    pub(crate) async fn history(&self, key: &str) -> Vec<Value> {
        let reply = self.get(&format!("{}/history?detail=full", answer(key))).await.status(200);
        reply.json().as_array().unwrap().clone()
    }

    /// A request of exactly these bytes, where commands go, and what comes back until
    /// the connection ends. It should ask for `Connection: close`.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Raw {
        raw(self.address(), request).await
    }

    /// A request without a body, its target and headers taken as they are.
    pub(crate) async fn plain(&self, method: &str, target: &str, headers: &[&str]) -> Raw {
        let home = self.home(method, target);
        let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|h| h.to_ascii_lowercase().starts_with("host:")) {
            request += &format!("Host: {home}\r\n");
        }
        for header in headers {
            request += header;
            request += "\r\n";
        }
        raw(home, request + "\r\n").await
    }
}

pub(crate) fn answer(key: &str) -> String {
    format!("/answers/{}", enc(key))
}

/// An answer read from a bare socket.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut raw = Self { status, head, body: bytes[end + 4..].to_vec() };
        if raw.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            raw.body = unchunk(&raw.body);
        }
        raw
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {}", String::from_utf8_lossy(&self.body)),
        }
    }

    /// Asserts the status and a body that is an error.
    #[track_caller]
    pub(crate) fn fails(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        let error = body["error"].as_str().unwrap_or_default();
        assert!(!error.is_empty(), "{body}");
        assert_eq!(body, json!({ "error": error }));
        self
    }

    #[track_caller]
    pub(crate) fn status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {}", self.head, String::from_utf8_lossy(&self.body));
        self
    }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    panic!("a chunked body without an end");
}

pub(crate) async fn raw(address: SocketAddr, request: impl AsRef<[u8]>) -> Raw {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    Raw::parse(&read_to_end(&mut stream).await)
}

/// All that comes until the other side ends, by a reset too.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match timeout(PATIENCE, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return bytes,
            Ok(Ok(n)) => bytes.extend_from_slice(&buffer[..n]),
            Err(_) => panic!("no end after {PATIENCE:?}: {:?}", bytes.len()),
        }
    }
}

/// Reads a response line by line as it comes.
pub(crate) struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { response, buffer: Vec::new() }
    }

    /// The next line without its end; `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Some(String::from_utf8(line).unwrap());
            }
            match timeout(PATIENCE, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.buffer.extend_from_slice(&bytes),
                Ok(Ok(None)) => {
                    assert!(self.buffer.is_empty(), "a last line without its end");
                    return None;
                }
                Ok(Err(error)) => panic!("the body broke off: {error:?}"),
                Err(_) => panic!("no line after {PATIENCE:?}"),
            }
        }
    }

    pub(crate) async fn json(&mut self) -> Option<Value> {
        let line = self.next().await?;
        Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line}")))
    }

    /// Everything that is left, parsed.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(value) = self.json().await {
            all.push(value);
        }
        all
    }
}

/// One event of a live stream.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) data: Value,
}

/// Reads server-sent events.
pub(crate) struct Sse {
    lines: Lines,
}

impl Sse {
    /// Opens the live stream of a key; asserts that it is one.
    pub(crate) async fn open(app: &TestApp, key: &str, last: Option<&str>) -> Self {
        Self::open_path(app, &format!("{}/history", answer(key)), last).await
    }

    /// Opens the live stream at a path; asserts that it is one.
    pub(crate) async fn open_path(app: &TestApp, path: &str, last: Option<&str>) -> Self {
        let mut call = app.call("GET", path).header("Accept", "text/event-stream");
        if let Some(last) = last {
            call = call.header("Last-Event-ID", last);
        }
        let response = call.open().await.unwrap();
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Self { lines: Lines::new(response) }
    }

    /// The next event, comments passed over.
    pub(crate) async fn next(&mut self) -> Event {
        let mut id = None;
        let mut data: Option<String> = None;
        loop {
            let line = self.lines.next().await.expect("the stream goes on");
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                if let Some(data) = data.take() {
                    return Event {
                        id: id.expect("an id with each event"),
                        data: serde_json::from_str(&data).unwrap(),
                    };
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => {}
                "id" => id = Some(value.parse().unwrap()),
                "data" => match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                },
                "retry" => assert!(value.parse::<u64>().is_ok(), "{line}"),
                _ => panic!("{line}"),
            }
        }
    }

    /// Waits for a comment line, in which time no event may come.
    pub(crate) async fn comment(&mut self) {
        loop {
            let line = self.lines.next().await.expect("the stream goes on");
            if line.starts_with(':') {
                return;
            }
            assert!(!line.starts_with("data"), "an event: {line}");
        }
    }

    /// Waits until the other side ends the stream, in whatever way.
    pub(crate) async fn ended(mut self) {
        let end = async { while let Ok(Some(_)) = self.lines.response.chunk().await {} };
        timeout(PATIENCE, end).await.expect("the stream ends");
    }
}
