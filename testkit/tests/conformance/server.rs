//! The server under test, and what the tests do with it through the client crate.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use eventstore::{
    AppendToStreamOptions, Client, Position, ReadAllOptions, ReadStream, ReadStreamOptions, RecordedEvent,
    ResolvedEvent, StreamMetadataResult, StreamPosition, StreamState, SubscribeToAllOptions, SubscribeToStreamOptions,
    Subscription, SubscriptionEvent, SubscriptionFilter, WriteResult,
};
use serde_json::{Value, json};
use testkit::{EsdbServer, Options};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

/// What takes longer never comes.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// No test takes longer, whatever it waits for.
const TEST_LIMIT: Duration = Duration::from_secs(90);

/// The streams' and the connections' tasks outlive the test that began them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// The server of this crate, in memory, for as long as the tests run.
static OWN: LazyLock<EsdbServer> = LazyLock::new(|| EsdbServer::start(Options::default()).expect("a server"));

/// Runs a test against the server.
pub(crate) fn on_server(test: impl AsyncFnOnce(&'static Server)) {
    RUNTIME.block_on(async {
        let server = SERVER.get_or_init(|| async { Server::find() }).await;
        if tokio::time::timeout(TEST_LIMIT, test(server)).await.is_err() {
            panic!("the test has not ended after {TEST_LIMIT:?}");
        }
    });
}

/// What a future comes to, which must not take long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing after {SOON:?}"),
    }
}

/// Asks until there is an answer, for what the server does a moment after its reply.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let answered = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(what, answered).await
}

/// An event to append.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: Uuid,
    pub(crate) kind: String,
    pub(crate) content_type: String,
    pub(crate) data: Bytes,
    pub(crate) custom: Bytes,
}

impl Event {
    /// A small JSON event with an id of its own.
    pub(crate) fn new() -> Self {
        Self::of("Happened")
    }

    /// A small JSON event of a type.
    pub(crate) fn of(kind: &str) -> Self {
        let id = Uuid::new_v4();
        Self {
            id,
            kind: kind.into(),
            content_type: "application/json".into(),
            data: json!({ "is": id }).to_string().into(),
            custom: json!({ "by": "a test" }).to_string().into(),
        }
    }

    /// An event of so many bytes, its type and metadata counted or not.
    pub(crate) fn of_size(data: usize) -> Self {
        let bytes = vec![b'.'; data];
        Self {
            content_type: "application/octet-stream".into(),
            data: bytes.into(),
            custom: Bytes::new(),
            ..Self::new()
        }
    }

    /// A value of a stream's metadata.
    pub(crate) fn metadata(value: &Value) -> Self {
        Self { data: value.to_string().into(), custom: Bytes::new(), ..Self::of("$metadata") }
    }
}

impl From<Event> for eventstore::EventData {
    fn from(event: Event) -> Self {
        let data = if event.content_type == "application/json" {
            let value: Value = serde_json::from_slice(&event.data).expect("JSON");
            Self::json(&event.kind, &value).expect("JSON")
        } else {
            Self::binary(&event.kind, event.data)
        };
        data.id(event.id).metadata(event.custom)
    }
}

/// So many small events.
pub(crate) fn events(count: usize) -> Vec<Event> {
    (0..count).map(|_| Event::new()).collect()
}

/// The ids of events, in order.
pub(crate) fn ids(events: &[Event]) -> Vec<Uuid> {
    events.iter().map(|event| event.id).collect()
}

/// A server that all tests share.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) client: Client,
    pub(crate) channel: Channel,
}

impl Server {
    fn find() -> Self {
        let address = match std::env::var("EVENTSTORE_HOST") {
            Ok(host) if host.contains(':') => host,
            Ok(host) if !host.is_empty() => format!("{host}:2113"),
            _ => OWN.address().to_string(),
        };
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        let client = connect(&format!("esdb://{address}?tls=false"));
        Self { address, client, channel }
    }

    /// A stream that nobody else has.
    pub(crate) fn stream(&self) -> String {
        format!("conformance-{}", Uuid::new_v4())
    }

    /// Appends; errors are the client's.
    pub(crate) async fn append(
        &self,
        stream: &str,
        state: StreamState,
        events: &[Event],
    ) -> eventstore::Result<WriteResult> {
        let options = AppendToStreamOptions::default().stream_state(state);
        let events: Vec<_> = events.iter().cloned().map(eventstore::EventData::from).collect();
        soon("an append", self.client.append_to_stream(stream, &options, events)).await
    }

    /// Appends so many events to a new stream, in one call.
    pub(crate) async fn fill(&self, stream: &str, count: usize) -> Vec<Event> {
        let events = events(count);
        self.append(stream, StreamState::NoStream, &events).await.unwrap();
        events
    }

    /// Appends a value to the stream's metadata, as JSON that the client leaves alone.
    pub(crate) async fn set_metadata(&self, stream: &str, value: &Value) -> WriteResult {
        self.append(&format!("$${stream}"), StreamState::Any, &[Event::metadata(value)]).await.unwrap()
    }

    /// The stream's metadata and its revision; None if there is none.
    pub(crate) async fn metadata(&self, stream: &str) -> eventstore::Result<Option<(u64, Value)>> {
        let events = self.read(&format!("$${stream}"), &ReadStreamOptions::default()).await;
        match events {
            Ok(events) => Ok(events.first().map(|event| (event.revision, event.as_json().unwrap()))),
            Err(eventstore::Error::ResourceNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The stream's metadata as the client knows it. It tells of a deletion in its
    /// result or in an error, by whether the server's error ends an open call.
    pub(crate) async fn known_metadata(&self, stream: &str) -> StreamMetadataResult {
        let options = ReadStreamOptions::default();
        match soon("a read of metadata", self.client.get_stream_metadata(stream, &options)).await {
            Err(eventstore::Error::ResourceDeleted) => StreamMetadataResult::Deleted,
            result => result.unwrap(),
        }
    }

    /// Reads a stream's events; an error may come when the call is opened or later.
    pub(crate) async fn read(
        &self,
        stream: &str,
        options: &ReadStreamOptions,
    ) -> eventstore::Result<Vec<RecordedEvent>> {
        Ok(self.read_resolved(stream, options).await?.into_iter().map(original).collect())
    }

    /// Reads a stream's events with the links that led to them.
    pub(crate) async fn read_resolved(
        &self,
        stream: &str,
        options: &ReadStreamOptions,
    ) -> eventstore::Result<Vec<ResolvedEvent>> {
        let read = async { drain(self.client.read_stream(stream, options).await?).await };
        soon("a read of a stream", read).await
    }

    /// Reads `$all`.
    pub(crate) async fn read_all(&self, options: &ReadAllOptions) -> eventstore::Result<Vec<RecordedEvent>> {
        let read = async { drain(self.client.read_all(options).await?).await };
        Ok(soon("a read of $all", read).await?.into_iter().map(original).collect())
    }

    /// The revisions that a read of the whole stream gives.
    pub(crate) async fn revisions(&self, stream: &str) -> eventstore::Result<Vec<u64>> {
        Ok(revisions(&self.read(stream, &ReadStreamOptions::default()).await?))
    }

    /// The position that the log has reached: that of an event appended for this.
    pub(crate) async fn mark(&self) -> Position {
        let stream = format!("mark-{}", Uuid::new_v4());
        self.append(&stream, StreamState::NoStream, &[Event::new()]).await.unwrap().position
    }

    /// Subscribes to a stream.
    pub(crate) async fn subscribe(&self, stream: &str, from: StreamPosition<u64>) -> Feed {
        let options = SubscribeToStreamOptions::default().start_from(from);
        Feed(self.client.subscribe_to_stream(stream, &options).await)
    }

    /// Subscribes to the events of `$all` that the filter lets pass.
    pub(crate) async fn subscribe_all(&self, from: StreamPosition<Position>, filter: SubscriptionFilter) -> Feed {
        let options = SubscribeToAllOptions::default().position(from).filter(filter);
        Feed(self.client.subscribe_to_all(&options).await)
    }
}

/// A client of an address.
pub(crate) fn connect(address: &str) -> Client {
    Client::new(address.parse().expect("settings")).expect("a client")
}

async fn drain(mut read: ReadStream) -> eventstore::Result<Vec<ResolvedEvent>> {
    let mut events = Vec::new();
    while let Some(event) = read.next().await? {
        events.push(event);
    }
    Ok(events)
}

/// The event itself, or the link that stands for it.
fn original(event: ResolvedEvent) -> RecordedEvent {
    event.link.or(event.event).expect("an event or a link")
}

/// The revisions of events, in order.
pub(crate) fn revisions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.revision).collect()
}

/// The ids of recorded events, in order.
pub(crate) fn recorded_ids(events: &[RecordedEvent]) -> Vec<Uuid> {
    events.iter().map(|event| event.id).collect()
}

/// Lets pass the streams whose name begins so.
pub(crate) fn stream_prefix(prefix: &str) -> SubscriptionFilter {
    SubscriptionFilter::on_stream_name().add_prefix(prefix)
}

/// A subscription of the client, message by message. Each must come soon.
pub(crate) struct Feed(Subscription);

impl Feed {
    pub(crate) fn new(subscription: Subscription) -> Self {
        Self(subscription)
    }

    pub(crate) async fn next(&mut self) -> eventstore::Result<SubscriptionEvent> {
        soon("a message of a subscription", self.0.next_subscription_event()).await
    }

    pub(crate) async fn confirmed(&mut self) {
        let message = self.next().await.unwrap();
        assert!(matches!(&message, SubscriptionEvent::Confirmed(id) if !id.is_empty()), "no confirmation: {message:?}");
    }

    /// The next message, which must be an event.
    pub(crate) async fn event(&mut self) -> RecordedEvent {
        match self.next().await.unwrap() {
            SubscriptionEvent::EventAppeared(event) => original(event),
            other => panic!("not an event: {other:?}"),
        }
    }

    /// The next event, past what else is told.
    pub(crate) async fn next_event(&mut self) -> RecordedEvent {
        loop {
            if let SubscriptionEvent::EventAppeared(event) = self.next().await.unwrap() {
                return original(event);
            }
        }
    }

    pub(crate) async fn caught_up(&mut self) {
        let message = self.next().await.unwrap();
        assert!(matches!(message, SubscriptionEvent::CaughtUp(_)), "not caught up: {message:?}");
    }

    /// What is told from here until the subscription has caught up, that excluded.
    pub(crate) async fn until_caught_up(&mut self) -> Vec<SubscriptionEvent> {
        let mut messages = Vec::new();
        loop {
            match self.next().await.unwrap() {
                SubscriptionEvent::CaughtUp(_) => return messages,
                other => messages.push(other),
            }
        }
    }
}
