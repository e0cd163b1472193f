//! The ways to make the test server misbehave, as a client sees them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

use std::time::{Duration, Instant};

use eventstore::{
    Client, Error, EventData, ReadStreamOptions, StreamPosition, StreamState, SubscribeToStreamOptions, Subscription,
    SubscriptionEvent,
};
use testkit::proto::shared::StreamIdentifier;
use testkit::proto::streams::read_req::options::{CountOption, FilterOption, StreamOption};
use testkit::proto::streams::read_req::stream_options::RevisionOption;
use testkit::proto::streams::read_req::{self, StreamOptions, UuidOption};
use testkit::proto::streams::{ReadReq, streams_client::StreamsClient};
use testkit::{Ending, EsdbServer, Options};

fn server() -> (EsdbServer, Client) {
    let server = EsdbServer::start(Options::default()).unwrap();
    let client = Client::new(server.connection_string().parse().unwrap()).unwrap();
    (server, client)
}

fn event() -> EventData {
    EventData::binary("happened", Default::default()).id(uuid::Uuid::new_v4())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("no answer within 10 s")
}

async fn append(client: &Client) -> eventstore::Result<()> {
    within(client.append_to_stream("a-1", &Default::default(), event())).await.map(drop)
}

/// How many events the stream has.
async fn count(client: &Client) -> eventstore::Result<usize> {
    let options = ReadStreamOptions::default().position(StreamPosition::Start);
    let mut events = within(client.read_stream("a-1", &options)).await?;
    let mut count = 0;
    while within(events.next()).await?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// As `count`, for a connection that may have to be made first.
async fn count_again(client: &Client) -> usize {
    for _ in 0..50 {
        if let Ok(count) = count(client).await {
            return count;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the client does not come back");
}

async fn subscribe(client: &Client) -> Subscription {
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Start);
    let mut subscription = client.subscribe_to_stream("a-1", &options).await;
    while !matches!(within(subscription.next_subscription_event()).await, Ok(SubscriptionEvent::CaughtUp(_))) {}
    subscription
}

#[tokio::test]
async fn appends_are_delayed_together_and_unseen_meanwhile() {
    let (server, client) = server();
    append(&client).await.unwrap();
    server.switches().delay_appends(Duration::from_millis(300));
    let batch = within(client.batch_append(&Default::default())).await.unwrap();
    let begun = Instant::now();
    let appends = (0..20).map(|_| batch.append_to_stream("a-1", StreamState::Any, vec![event()]));
    let seen = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        count(&client).await.unwrap()
    };
    let (results, seen) = futures::join!(futures::future::join_all(appends), seen);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(seen, 1);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(900), "{took:?}");
    assert_eq!(count(&client).await.unwrap(), 21);
}

#[tokio::test]
async fn reads_are_delayed() {
    let (server, client) = server();
    append(&client).await.unwrap();
    server.switches().delay_reads(Duration::from_millis(300));
    let begun = Instant::now();
    assert_eq!(count(&client).await.unwrap(), 1);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn calls_are_refused() {
    let (server, client) = server();
    append(&client).await.unwrap();
    server.switches().refuse_calls(true);
    assert!(matches!(append(&client).await, Err(Error::ServerError(_))));
    assert!(count(&client).await.is_err());
    server.switches().refuse_calls(false);
    server.switches().fail_reads(true);
    assert!(count(&client).await.is_err());
    server.switches().fail_reads(false);
    assert_eq!(count_again(&client).await, 1);
}

#[tokio::test]
async fn connections_are_dropped_and_refused() {
    let (server, client) = server();
    append(&client).await.unwrap();
    let mut subscription = subscribe(&client).await;
    server.switches().refuse_connections(true);
    server.switches().drop_connections();
    assert!(within(subscription.next_subscription_event()).await.is_err());
    assert!(append(&client).await.is_err());
    server.switches().refuse_connections(false);
    assert_eq!(count_again(&client).await, 1);
}

#[tokio::test]
async fn an_append_is_refused_and_nothing_is_written() {
    let (server, client) = server();
    append(&client).await.unwrap();
    server.switches().refuse_appends(2);
    assert!(append(&client).await.is_err());
    let batch = within(client.batch_append(&Default::default())).await.unwrap();
    let refused = within(batch.append_to_stream("a-1", StreamState::Any, vec![event()])).await;
    assert!(refused.is_err(), "{refused:?}");
    append(&client).await.unwrap();
    assert_eq!(count(&client).await.unwrap(), 2);
}

#[tokio::test]
async fn a_reply_is_lost_and_the_events_are_there() {
    let (server, client) = server();
    append(&client).await.unwrap();
    server.switches().lose_replies(1);
    assert!(append(&client).await.is_err());
    assert_eq!(count_again(&client).await, 2);

    let batch = within(client.batch_append(&Default::default())).await.unwrap();
    server.switches().lose_replies(1);
    let lost = within(batch.append_to_stream("a-1", StreamState::Any, vec![event()])).await;
    assert!(lost.is_err(), "{lost:?}");
    assert_eq!(count_again(&client).await, 3);
}

#[tokio::test]
async fn subscriptions_are_paused() {
    let (server, client) = server();
    append(&client).await.unwrap();
    let mut subscription = subscribe(&client).await;
    server.switches().pause_subscriptions(true);
    append(&client).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), subscription.next()).await;
    assert!(early.is_err(), "an event came while subscriptions were paused");
    server.switches().pause_subscriptions(false);
    assert_eq!(within(subscription.next()).await.unwrap().get_original_event().revision, 1);
}

#[tokio::test]
async fn subscriptions_are_ended_with_an_error() {
    let (server, client) = server();
    append(&client).await.unwrap();
    for ending in [Ending::Unavailable, Ending::Unknown] {
        let mut subscription = subscribe(&client).await;
        server.switches().end_subscriptions(ending);
        assert!(matches!(within(subscription.next_subscription_event()).await, Err(Error::ServerError(_))));
    }
    // Those that begin later live.
    let mut subscription = subscribe(&client).await;
    append(&client).await.unwrap();
    assert_eq!(within(subscription.next()).await.unwrap().get_original_event().revision, 1);
}

/// The real client never comes back from this, so the bare protocol is asked.
#[tokio::test]
async fn subscriptions_are_ended_cleanly() {
    let (server, _) = server();
    let mut client = StreamsClient::connect(format!("http://{}", server.address())).await.unwrap();
    let stream = StreamOptions {
        stream_identifier: Some(StreamIdentifier { stream_name: "a-1".into() }),
        revision_option: Some(RevisionOption::Start(())),
    };
    let options = read_req::Options {
        stream_option: Some(StreamOption::Stream(stream)),
        count_option: Some(CountOption::Subscription(())),
        filter_option: Some(FilterOption::NoFilter(())),
        uuid_option: Some(UuidOption::default()),
        ..Default::default()
    };
    let mut answers = client.read(ReadReq { options: Some(options) }).await.unwrap().into_inner();
    for _ in ["confirmation", "caught up"] {
        assert!(within(answers.message()).await.unwrap().is_some());
    }
    server.switches().end_subscriptions(Ending::Clean);
    assert_eq!(within(answers.message()).await.unwrap(), None);
}

#[tokio::test]
async fn another_leader_is_named() {
    let (server, client) = server();
    let (other, other_client) = self::server();
    append(&client).await.unwrap();
    server.switches().not_leader(Some(("127.0.0.1".to_owned(), other.address().port())));
    let sent_on = append(&client).await;
    assert!(matches!(sent_on, Err(Error::NotLeaderException(_))), "{sent_on:?}");
    // The client has moved.
    append(&client).await.unwrap();
    assert_eq!(count(&other_client).await.unwrap(), 1);
}

#[tokio::test]
async fn strangers_are_refused() {
    let credentials = Some(("admin".to_owned(), "changeit".to_owned()));
    let server = EsdbServer::start(Options { credentials, ..Options::default() }).unwrap();
    let client = |user: &str| Client::new(format!("esdb://{user}{}?tls=false", server.address()).parse().unwrap());
    let admin = client("admin:changeit@").unwrap();
    append(&admin).await.unwrap();
    assert!(matches!(append(&client("").unwrap()).await, Err(Error::AccessDenied)));
    assert!(matches!(append(&client("admin:wrong@").unwrap()).await, Err(Error::AccessDenied)));
}
