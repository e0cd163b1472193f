//! Loads of the event log: ingest in batches, whole speed or paced, and pages of it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{self, Client, Response};
use crate::latency::Latencies;
use crate::requests::{expect_success, position_of, sample_lag};
use crate::{Arguments, Outcome, keys};

const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";
/// How many of each there are.
const SESSIONS: u32 = 10_000;
const CUSTOMERS: u32 = 100_000;
const CATEGORIES: u32 = 20;
const NAMES: u32 = 1_000;
/// The events happen one after the other from 2026-01-01 on.
const MILLIS_BETWEEN: u64 = 60;
/// How many pages at each end of a walk are compared.
const ENDS: usize = 100;

fn session(n: u32) -> String {
    let hex = keys::scatter(n % SESSIONS);
    format!("{hex:08x}-0000-4000-8000-{:012x}", n % SESSIONS)
}

fn customer(n: u32) -> u32 {
    keys::scatter(n) % CUSTOMERS
}

fn category(n: u32) -> String {
    format!("category-{}", keys::scatter(n ^ 0x0bad_cafe) % CATEGORIES)
}

fn name(n: u32) -> String {
    format!("event-{}", keys::scatter(n ^ 0x5bd1_e995) % NAMES)
}

/// When the `n`-th event happens; January has room for 44 million.
fn timestamp(n: u32) -> String {
    let millis = u64::from(n) * MILLIS_BETWEEN;
    let seconds = millis / 1_000;
    let (day, hour, minute) = (1 + seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!("2026-01-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", seconds % 60, millis % 1_000)
}

/// The `n`-th event, about 300 bytes.
fn write_event(n: u32, to: &mut Vec<u8>) -> io::Result<()> {
    let mut text = [0; keys::VALUE_LEN];
    keys::put_value(&mut text, n);
    write!(
        to,
        r#"{{"timestamp":"{}","name":"{}","category":"{}","component":"bench","message":"{}","customer_id":{},"session_id":"{}","data":{{"host":"host-{}","ms":{}}}}}"#,
        timestamp(n),
        name(n),
        category(n),
        String::from_utf8_lossy(&text),
        customer(n),
        session(keys::scatter(n)),
        n % 50,
        n % 997,
    )
}

/// What a connection came to.
#[derive(Default)]
struct Sent {
    latencies: Latencies,
    position: u64,
}

/// The batches that all connections send.
struct Plan {
    next: AtomicU64,
    batch: u64,
    first: u64,
    last: u64,
    /// How long the sending of one event may take; none: as fast as it goes.
    pace: Option<Duration>,
    began: Instant,
}

impl Plan {
    /// The next batch and when it is due; none at the end.
    fn batch(&self) -> Option<(u64, u64, Instant)> {
        let start = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let end = (start + self.batch).min(self.last);
        let sent = u32::try_from(start - self.first).unwrap_or(u32::MAX);
        let due = self.pace.map_or_else(Instant::now, |pace| self.began + pace * sent);
        (start < end).then_some((start, end, due))
    }
}

/// Events by `POST /v1/events`, `--batch` of them a request, as NDJSON.
pub(crate) fn ingest(arguments: &Arguments) -> Outcome {
    let connections: u32 = arguments.number_or("connections", 4)?;
    let rate: f64 = arguments.number_or("rate", 0.0)?;
    let first: u64 = arguments.number_or("first", 0)?;
    let count =
        if rate > 0.0 { (rate * arguments.number::<f64>("seconds")?) as u64 } else { arguments.number("count")? };
    let plan = Arc::new(Plan {
        next: AtomicU64::new(first),
        batch: arguments.number_or("batch", 500)?,
        first,
        last: first + count,
        pace: (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate)),
        began: Instant::now(),
    });
    let senders: Vec<_> = (0..connections.max(1))
        .map(|_| {
            let (plan, client) = (Arc::clone(&plan), Client::connect(arguments.text("url")?)?);
            Ok(thread::spawn(move || send(&plan, client)))
        })
        .collect::<io::Result<_>>()?;
    let mut all = Sent::default();
    for sender in senders {
        let sent = sender.join().map_err(|_| http::invalid("a sender panicked".to_owned()))??;
        all.latencies.merge(sent.latencies);
        all.position = all.position.max(sent.position);
    }
    let seconds = plan.began.elapsed().as_secs_f64();
    let rate = count as f64 / seconds;
    let requests = all.latencies.report().replace("count=", "requests=");
    Ok(format!("BENCH rate={rate:.0} count={count} seconds={seconds:.3} position={} {requests}", all.position))
}

fn send(plan: &Plan, mut client: Client) -> io::Result<Sent> {
    let (mut sent, mut body) = (Sent::default(), Vec::new());
    while let Some((start, end, due)) = plan.batch() {
        body.clear();
        for n in start..end {
            write_event(n as u32, &mut body)?;
            body.push(b'\n');
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let begun = if plan.pace.is_some() { due } else { Instant::now() };
        let response = client.post_with("/v1/events", NDJSON, &body)?;
        sent.latencies.record(begun.elapsed());
        expect_all(&response)?;
        sent.position = sent.position.max(position_of(&response)?);
    }
    Ok(sent)
}

/// Nothing may be refused.
fn expect_all(response: &Response) -> io::Result<()> {
    expect_success(response)?;
    match memchr::memmem::find(&response.body, b"\"rejected\":[]") {
        Some(_) => Ok(()),
        None => Err(http::invalid(response.shown())),
    }
}

/// The lag of single events, as `lag` does it for answers.
pub(crate) fn lag(arguments: &Arguments) -> Outcome {
    let mut made = 0;
    sample_lag(arguments, |writer| {
        let mut body = Vec::new();
        write_event(made, &mut body)?;
        made += 1;
        let response = writer.post("/v1/events", &body)?;
        let path = format!("/v1/events/{}", between(&response.body, "\"ids\":[\"", "\"").unwrap_or_default());
        Ok((response, path))
    })
}

fn between<'a>(text: &'a [u8], before: &str, after: &str) -> Option<&'a str> {
    let begin = memchr::memmem::find(text, before.as_bytes())? + before.len();
    let end = begin + memchr::memmem::find(&text[begin..], after.as_bytes())?;
    std::str::from_utf8(&text[begin..end]).ok()
}

/// First pages of lists of `--what`, one after the other, of values in turn.
pub(crate) fn pages(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let count: u32 = arguments.number("count")?;
    let what = arguments.text("what")?;
    let mut latencies = Latencies::default();
    let mut rows = 0;
    let until = Instant::now() + Duration::from_secs_f64(arguments.number("seconds")?);
    for n in (0..u32::MAX).map(keys::scatter) {
        let n = n % count.max(1);
        let path = match what {
            "session" => format!("/v1/events?session_id={}", session(keys::scatter(n))),
            "category" => format!("/v1/events?category={}", category(n)),
            "customer" => format!("/v1/events?customer_id={}", customer(n)),
            "name" => format!("/v1/events?name={}", name(n)),
            "range" => {
                let (from, to) = (timestamp(n), timestamp(n.saturating_add(60_000)));
                format!("/v1/events?q=timestamp%20gte%20'{from}'%20AND%20timestamp%20lt%20'{to}'")
            }
            _ => return Err(http::invalid(format!("--what is no such list: {what}"))),
        };
        let sent = Instant::now();
        let response = client.get(&path, "")?;
        latencies.record(sent.elapsed());
        expect_success(&response)?;
        rows += memchr::memmem::find_iter(&response.body, b"\"created_at\"").count();
        if Instant::now() > until {
            break;
        }
    }
    Ok(format!("BENCH rows={rows} {}", latencies.report()))
}

/// Follows cursors through a list, and compares its first pages with its last.
pub(crate) fn walk(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let pages: usize = arguments.number("pages")?;
    let list = format!("/v1/events?limit={}", arguments.number_or("limit", 50)?);
    let (mut took, mut cursor) = (Vec::new(), String::new());
    for _ in 0..pages {
        let sent = Instant::now();
        let response = client.get(&format!("{list}{cursor}"), "")?;
        took.push(sent.elapsed());
        expect_success(&response)?;
        let Some(next) = between(&response.body, "\"next\":\"", "\"") else { break };
        cursor = format!("&cursor={next}");
    }
    let ends = ENDS.min(took.len() / 2);
    let median = |some: &[Duration]| {
        let mut some = some.to_vec();
        some.sort_unstable();
        some.get(some.len() / 2).map_or(0.0, |took| took.as_secs_f64() * 1e6)
    };
    let (first, last) = (median(&took[..ends]), median(&took[took.len() - ends..]));
    Ok(format!("BENCH pages={} first_us={first:.1} last_us={last:.1}", took.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_a_time_of_its_own() {
        let mut text = Vec::new();
        write_event(1_440_001, &mut text).expect("written");
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(text.starts_with(r#"{"timestamp":"2026-01-02T00:00:00.060Z","name":"event-"#), "{text}");
        assert!(!text.contains('\n') && text.ends_with("}}"));
        assert_eq!(session(0).len(), 36);
    }

    #[test]
    fn batches_cover_all_events_once() {
        let (next, began) = (AtomicU64::new(5), Instant::now());
        let plan = Plan { next, batch: 4, first: 5, last: 15, pace: Some(Duration::from_secs(1)), began };
        let all: Vec<_> =
            std::iter::from_fn(|| plan.batch()).map(|(start, end, due)| (start, end, due - began)).collect();
        let seconds = Duration::from_secs;
        assert_eq!(all, [(5, 9, seconds(0)), (9, 13, seconds(4)), (13, 15, seconds(8))]);
    }

    #[test]
    fn texts_are_found_between_others() {
        assert_eq!(between(br#"{"ids":["a"]}"#, "\"ids\":[\"", "\""), Some("a"));
        assert_eq!(between(b"{}", "x", "y"), None);
    }
}
