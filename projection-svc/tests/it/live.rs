//! The live tail: who looks, who hears what, and who falls behind.

use std::time::Duration;

use axum::body::BodyDataStream;
use futures::StreamExt;
use serde_json::{Value as Json, json};

use super::{Side, Write, delete, id, named, put};

/// Reads a live tail.
struct Tail {
    body: BodyDataStream,
    text: String,
}

/// What a tail tells: the position, the kind and the data.
type Told = (u64, String, Json);

impl Tail {
    async fn open(side: &Side, path: &str, last: Option<u64>) -> Self {
        let headers: Vec<_> = last.map(|last| ("last-event-id", last.to_string())).into_iter().collect();
        let response = side.get_with(path, &headers).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers().contains_key("event-position"));
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    async fn next(&mut self) -> Told {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let told = read(block);
                self.text = rest.to_owned();
                return told;
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next()).await.expect("in time");
            self.text += str::from_utf8(&piece.expect("the tail goes on").unwrap()).unwrap();
        }
    }

    async fn is_silent(&mut self) {
        assert_eq!(self.text, "");
        let more = tokio::time::timeout(Duration::from_millis(100), self.body.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

fn read(block: &str) -> Told {
    let field = |name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim_start())
    };
    let data = serde_json::from_str(field("data").unwrap()).unwrap();
    (field("id").unwrap().parse().unwrap(), field("event").unwrap_or_default().to_owned(), data)
}

#[tokio::test]
async fn however_many_listen_the_views_are_looked_at_once() {
    let mut side = Side::new();
    let mut tails = Vec::new();
    for _ in 0..20 {
        tails.push(Tail::open(&side, "/v1/events/stream", None).await);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = side.looks();
    for n in 1..=10 {
        side.apply([put(id(n), named("a"))]).await;
        for tail in &mut tails {
            assert_eq!(tail.next().await.2["id"], id(n).to_string());
        }
    }
    // One look finds the change, and one that there is no other.
    let looks = side.looks() - before;
    assert!(looks <= 2 * 10 + 2, "{looks}");
}

#[tokio::test]
async fn while_nobody_listens_nobody_looks() {
    let mut side = Side::new();
    side.apply([put(id(1), named("a"))]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(side.looks(), 0);
    drop(Tail::open(&side, "/v1/events/stream", None).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = side.looks();
    for n in 2..10 {
        side.apply([put(id(n), named("a"))]).await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert_eq!(side.looks(), before);
    // And whoever comes then hears what happens then.
    let mut tail = Tail::open(&side, "/v1/events/stream", None).await;
    side.apply([put(id(20), named("b"))]).await;
    assert_eq!(tail.next().await.2["id"], id(20).to_string());
}

#[tokio::test]
async fn who_does_not_read_looks_for_himself_later() {
    let mut side = Side::new();
    let mut slow = Tail::open(&side, "/v1/events/stream", None).await;
    let mut quick = Tail::open(&side, "/v1/events/stream", None).await;
    // Far more than is kept of what came last.
    let message = "m".repeat(200 * 1024);
    for n in 1..=100 {
        let members = || shared::domain::log_event::Members { message: Some(message.clone()), ..named("a") };
        side.apply([put(id(n), members()), put(id(1_000 + n), members())]).await;
        assert_eq!(quick.next().await.2["id"], id(n).to_string());
        assert_eq!(quick.next().await.2["id"], id(1_000 + n).to_string());
    }
    for n in 1..=100 {
        let first = slow.next().await;
        assert_eq!((first.0, &first.2["id"]), (4 * n as u64 - 2, &json!(id(n))));
        let second = slow.next().await;
        assert_eq!((second.0, &second.2["id"]), (4 * n as u64, &json!(id(1_000 + n))));
    }
    slow.is_silent().await;
}

#[tokio::test]
async fn a_tail_that_is_taken_up_again_tells_each_changed_event_once() {
    let mut side = Side::new();
    let all = (1..=600).map(|n| put(id(n), named("old")));
    side.apply(all.collect::<Vec<_>>()).await;
    // Some change again, and some go.
    side.apply((1..=600u128).filter(|n| n.is_multiple_of(3)).map(|n| put(id(n), named("new"))).collect::<Vec<_>>())
        .await;
    side.apply((1..=600u128).filter(|n| n.is_multiple_of(5)).map(|n| delete(id(n))).collect::<Vec<_>>()).await;
    for from in [0, 1, 600, 1_199, 1_200, 1_500] {
        let mut tail = Tail::open(&side, "/v1/events/stream", Some(from)).await;
        let mut told = std::collections::BTreeMap::new();
        let expected = |n: u128| {
            let last = if n.is_multiple_of(5) {
                1_600 + 2 * (n as u64 / 5)
            } else if n.is_multiple_of(3) {
                1_200 + 2 * (n as u64 / 3)
            } else {
                2 * n as u64
            };
            (last > from).then_some(last)
        };
        let count = (1..=600).filter_map(expected).count();
        let mut last = from;
        for _ in 0..count {
            let (position, kind, data) = tail.next().await;
            assert!(position > last, "{position} after {last}");
            last = position;
            assert_eq!(kind == "deleted", data == json!({"id": data["id"]}), "{data}");
            assert_eq!(told.insert(data["id"].to_string(), position), None, "twice: {data}");
        }
        for n in 1..=600 {
            assert_eq!(told.get(&json!(id(n)).to_string()).copied(), expected(n), "{n} behind {from}");
        }
        tail.is_silent().await;
    }
}

#[tokio::test]
async fn a_tail_that_is_taken_up_again_is_told_nothing_of_what_was_before() {
    let mut side = Side::new();
    // Another one keeps what came last in memory.
    let mut other = Tail::open(&side, "/v1/events/stream", None).await;
    for name in ["a", "b", "c"] {
        side.apply([put(id(1), named(name)), put(id(2), named(name))]).await;
        assert_eq!(other.next().await.2["name"], name);
        assert_eq!(other.next().await.2["name"], name);
    }
    let mut again = Tail::open(&side, "/v1/events/stream", Some(2)).await;
    assert_eq!(again.next().await.0, 10);
    assert_eq!(again.next().await.0, 12);
    again.is_silent().await;
}

#[tokio::test]
async fn a_filter_lets_through_what_matches_and_what_is_gone() {
    let mut side = Side::new();
    side.apply([put(id(1), named("a")), put(id(2), named("b"))]).await;
    let mut tail = Tail::open(&side, "/v1/events/stream?q=name%20eq%20'a'", None).await;
    let writes: Vec<Write> = vec![
        put(id(3), named("b")),
        put(id(4), named("a")),
        // From matching to not matching, and the other way round.
        put(id(1), named("b")),
        put(id(2), named("a")),
        // One that never matched.
        delete(id(3)),
    ];
    side.apply(writes).await;
    assert_eq!(tail.next().await.2["id"], id(4).to_string());
    let (position, kind, event) = tail.next().await;
    assert_eq!((position, kind.as_str(), &event["name"]), (12, "", &json!("a")));
    assert_eq!(tail.next().await, (14, "deleted".into(), json!({"id": id(3)})));
    tail.is_silent().await;
}

#[tokio::test]
async fn a_tail_from_ahead_of_the_views_waits_for_them() {
    let mut side = Side::new();
    side.apply([put(id(1), named("a"))]).await;
    let mut tail = Tail::open(&side, "/v1/events/stream", Some(4)).await;
    side.apply([put(id(2), named("a")), put(id(3), named("a"))]).await;
    assert_eq!(tail.next().await.0, 6);
    tail.is_silent().await;
}

#[tokio::test]
async fn many_join_while_much_changes_and_none_misses_anything() {
    let mut side = Side::new();
    let mut tails = Vec::new();
    for n in 1..=300 {
        side.apply([put(id(n), named("a"))]).await;
        if n.is_multiple_of(10) {
            let from = side.position - 14;
            tails.push((from, Tail::open(&side, "/v1/events/stream", Some(from)).await));
        }
        if n.is_multiple_of(7) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for (from, mut tail) in tails {
        for position in (from + 2..=600).step_by(2) {
            assert_eq!(tail.next().await.0, position, "of a tail that began at {from}");
        }
        tail.is_silent().await;
    }
}

#[tokio::test]
async fn a_tail_ends_with_the_process() {
    let side = Side::new();
    let mut tail = Tail::open(&side, "/v1/events/stream", None).await;
    side.lifecycle.stop();
    let end = tokio::time::timeout(Duration::from_secs(5), tail.body.next()).await.expect("in time");
    assert!(end.is_none());
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let side = Side::new();
    for path in
        ["/v1/events/stream?q=name", "/v1/events/stream?name=a", "/v1/events/stream?q=&q=", "/v1/events/stream?await=x"]
    {
        side.refused(path).await;
    }
    for last in ["x", "-1", "", "9007199254740992"] {
        let response = side.get_with("/v1/events/stream", &[("last-event-id", last.into())]).await;
        assert_eq!(response.status(), 400, "{last}");
    }
    // A position that does not come.
    assert_eq!(side.get_with("/v1/events/stream?await=1", &[]).await.status(), 503);
}
