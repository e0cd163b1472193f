//! The log in EventStoreDB: the promises of its ports, on the test server or, with
//! `EVENTSTORE_HOST` set, on any; and what goes wrong with a server and its clients.

mod claims;
mod faults;
mod figures;
mod others;
mod places;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventstore::{AppendToStreamOptions, Client, EventData, StreamState};
use shared::adapters::esdb::{EsdbEvents, Options};
use shared::conformance;
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::stream::{ExpectedRevision, NewEvent, RecordedEvent, Revision, StreamId};
use shared::metrics::Metrics;
use shared::ports::{Direction, EventFeed, EventStore, Health};
use testkit::EsdbServer;
use uuid::Uuid;

use super::support::TTL;

/// What takes longer never comes.
const SOON: Duration = Duration::from_secs(20);

/// An EventStoreDB: a test server of its own, or the one that is named.
struct Place {
    settings: String,
    _server: Option<EsdbServer>,
}

impl Place {
    fn any() -> Self {
        match std::env::var("EVENTSTORE_HOST") {
            Ok(settings) => Self { settings, _server: None },
            Err(_) => {
                let server = server();
                Self { settings: server.address().to_string(), _server: Some(server) }
            }
        }
    }

    fn log(&self) -> Arc<EsdbEvents> {
        Arc::new(connect(&self.settings))
    }

    /// The client itself, for what the adapter does not do.
    fn client(&self) -> Client {
        let settings = match self.settings.contains("://") {
            true => self.settings.clone(),
            false => format!("esdb://{}?tls=false&discoveryInterval=20", self.settings),
        };
        Client::new(settings.parse().unwrap()).unwrap()
    }
}

fn server() -> EsdbServer {
    EsdbServer::start(testkit::Options::default()).unwrap()
}

fn connect(settings: &str) -> EsdbEvents {
    let metrics = Metrics::new("test", &[]).unwrap().esdb.clone();
    EsdbEvents::connect(settings, Options { outcome_ttl: TTL, metrics }).unwrap()
}

fn log_of(server: &EsdbServer) -> Arc<EsdbEvents> {
    Arc::new(connect(&server.address().to_string()))
}

fn fresh() -> StreamId {
    StreamId::of_answer(&Key::from_stored(&Uuid::new_v4().to_string()))
}

fn event(value: &str) -> NewEvent {
    let event = AnswerEvent::Updated { key: Key::from_stored("k"), value: value.into() };
    event.to_new(Uuid::new_v4(), shared::clock::now())
}

fn exact(revision: u64) -> ExpectedRevision {
    ExpectedRevision::Exact(Revision(revision))
}

async fn all(log: &EsdbEvents, stream: &StreamId) -> Vec<RecordedEvent> {
    let mut events: Vec<RecordedEvent> = Vec::new();
    loop {
        let from = events.last().map_or(Revision::FIRST, |last| last.revision.next());
        let page = log.read(stream, from, Direction::Forwards, 1_000).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// Appends an event as another application would.
async fn append_raw(client: &Client, stream: &StreamId, metadata: Option<&str>) {
    append_raw_event(client, stream.as_str(), "TheirEvent", b"{}", metadata, Uuid::new_v4()).await;
}

async fn append_raw_event(client: &Client, stream: &str, kind: &str, data: &[u8], metadata: Option<&str>, id: Uuid) {
    let mut event = EventData::binary(kind, Bytes::copy_from_slice(data)).id(id);
    if let Some(metadata) = metadata {
        event = event.metadata(Bytes::copy_from_slice(metadata.as_bytes()));
    }
    let options = AppendToStreamOptions::default().stream_state(StreamState::Any);
    client.append_to_stream(stream, &options, event).await.unwrap();
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < SOON, "{what}: not after {SOON:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what}: not after {SOON:?}"))
}

async fn ready(log: &EsdbEvents) {
    until("a link", || async { log.check().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn esdb_keeps_the_promises_of_event_store() {
    conformance::events(Place::any().log()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn esdb_keeps_the_promises_of_event_feed() {
    let place = Place::any();
    conformance::feed(place.log(), place.log()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn esdb_keeps_the_promises_of_outcomes() {
    let place = Place::any();
    conformance::outcomes(place.log(), place.log()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_who_come_first_find_one_log() {
    let place = Place::any();
    let logs: Vec<_> = (0..8).map(|_| place.log()).collect();
    let mut ids = Vec::new();
    for log in &logs {
        ids.push(soon("a log id", log.log_id()).await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "a log has one id");
    assert_eq!(place.log().log_id().await.unwrap(), ids[0], "and keeps it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_of_many_events_tells_where_each_stands() {
    let place = Place::any();
    let log = place.log();
    for (count, bytes) in [(128, 7_000), (1, 512 * 1024), (500, 10)] {
        let stream = fresh();
        let events: Vec<_> = (0..count).map(|_| event(&"x".repeat(bytes))).collect();
        let appended = log.append(&stream, ExpectedRevision::NoStream, events.clone()).await.unwrap();
        let read: Vec<_> = all(&log, &stream).await.iter().map(|event| event.position).collect();
        assert_eq!(appended.positions, read, "{count} events of {bytes} bytes");
        let again = log.append(&stream, ExpectedRevision::NoStream, events).await.unwrap();
        assert_eq!(again, appended, "{count} events of {bytes} bytes again");
    }
}
