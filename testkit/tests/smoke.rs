//! The test server through the real client: that it starts, serves, fails when it is
//! told to, and comes back. What it must do in detail, the conformance suite says.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

use std::time::Duration;

use bytes::Bytes;
use eventstore::{
    AppendToStreamOptions, Client, EventData, ReadAllOptions, ReadStreamOptions, StreamPosition, StreamState,
    SubscribeToAllOptions, SubscriptionEvent, SubscriptionFilter,
};
use testkit::{EsdbServer, Options};

fn server() -> EsdbServer {
    EsdbServer::start(Options::default()).unwrap()
}

fn client(server: &EsdbServer) -> Client {
    Client::new(server.connection_string().parse().unwrap()).unwrap()
}

fn event(text: &'static str) -> EventData {
    EventData::binary("happened", Bytes::from_static(text.as_bytes())).id(uuid::Uuid::new_v4())
}

fn new_stream() -> AppendToStreamOptions {
    AppendToStreamOptions::default().stream_state(StreamState::NoStream)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("no answer within 10 s")
}

async fn read(client: &Client, stream: &str) -> Vec<Bytes> {
    let options = ReadStreamOptions::default().position(StreamPosition::Start);
    let mut events = client.read_stream(stream, &options).await.unwrap();
    let mut found = Vec::new();
    while let Some(event) = within(events.next()).await.unwrap() {
        found.push(event.get_original_event().data.clone());
    }
    found
}

#[tokio::test]
async fn events_are_appended_and_read() {
    let server = server();
    let client = client(&server);
    let written = within(client.append_to_stream("a-1", &new_stream(), vec![event("x"), event("y")])).await.unwrap();
    assert_eq!(written.next_expected_version, 1);
    assert_eq!(read(&client, "a-1").await, ["x", "y"]);

    let again = within(client.append_to_stream("a-1", &new_stream(), event("z"))).await;
    assert!(matches!(again, Err(eventstore::Error::WrongExpectedVersion { .. })), "{again:?}");
}

#[tokio::test]
async fn batches_are_appended() {
    let server = server();
    let client = client(&server);
    let batch = within(client.batch_append(&Default::default())).await.unwrap();
    for revision in 0..100 {
        let expected = if revision == 0 { StreamState::NoStream } else { StreamState::StreamRevision(revision - 1) };
        let result = within(batch.append_to_stream("a-1", expected, vec![event("x")])).await.unwrap();
        assert_eq!(result.current_revision(), Some(revision));
    }
    assert_eq!(read(&client, "a-1").await.len(), 100);
}

#[tokio::test]
async fn the_log_is_read_and_followed() {
    let server = server();
    let client = client(&server);
    for stream in ["a-1", "b-1", "a-2"] {
        within(client.append_to_stream(stream, &new_stream(), event("x"))).await.unwrap();
    }
    let filter = SubscriptionFilter::on_stream_name().add_prefix("a-");
    let options = ReadAllOptions::default().position(StreamPosition::Start).filter(filter.clone());
    let mut all = client.read_all(&options).await.unwrap();
    let mut streams = Vec::new();
    while let Some(event) = within(all.next()).await.unwrap() {
        streams.push(event.get_original_event().stream_id().to_owned());
    }
    assert_eq!(streams, ["a-1", "a-2"]);

    let options = SubscribeToAllOptions::default().position(StreamPosition::Start).filter(filter);
    let mut subscription = client.subscribe_to_all(&options).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match within(subscription.next_subscription_event()).await.unwrap() {
            SubscriptionEvent::EventAppeared(event) => seen.push(event.get_original_event().stream_id().to_owned()),
            SubscriptionEvent::CaughtUp(_) => {
                seen.push("caught up".to_owned());
                within(client.append_to_stream("a-3", &new_stream(), event("x"))).await.unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(seen, ["a-1", "a-2", "caught up", "a-3"]);
}

#[tokio::test]
async fn it_comes_back_with_its_log() {
    let mut server = server();
    let client = client(&server);
    within(client.append_to_stream("a-1", &new_stream(), event("x"))).await.unwrap();
    server.stop();
    let refused = within(client.append_to_stream("a-1", &new_stream(), event("x"))).await;
    assert!(refused.is_err());
    server.start_again().unwrap();
    let mut result = within(client.append_to_stream("a-2", &new_stream(), event("x"))).await;
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        result = within(client.append_to_stream("a-2", &new_stream(), event("x"))).await;
    }
    result.unwrap();
    assert_eq!(read(&client, "a-1").await, ["x"]);
}
