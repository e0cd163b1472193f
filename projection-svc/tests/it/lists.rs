//! Lists: their orders, their pages, and what is counted of them.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use serde_json::{Value as Json, json};
use shared::domain::filter::Filter;
use shared::domain::log_event::Members;
use shared::ports::{Order, SortKey, Ties};
use uuid::Uuid;

use super::{Side, change, delete, id, micros, named, put};

const SORTS: [&str; 8] =
    ["timestamp", "-timestamp", "created_at", "-created_at", "name", "-name", "category", "-category"];

/// Events with many ties and nulls among their members.
async fn many() -> Side {
    let mut side = Side::new();
    let names = [None, Some(""), Some("a"), Some("A"), Some("\u{fffd}"), Some("\u{1f600}"), Some("aa")];
    let event = |n: u128| {
        let text = |n: u128| names[usize::try_from(n % 7).unwrap()].map(str::to_owned);
        let members = Members {
            timestamp: micros(i64::try_from(n % 13).unwrap() * 1_800_000_000 - 5_000_000_000),
            name: text(n / 3),
            category: text(n / 5),
            customer_id: (!n.is_multiple_of(4)).then_some(i64::try_from(n % 4).unwrap()),
            ..Members::default()
        };
        change(
            Uuid::from_u128(n * 0x9e37_79b9_7f4a_7c15_0123),
            None,
            micros(i64::try_from(n % 11).unwrap()),
            Some(members),
        )
    };
    side.apply((1..=211).map(event).collect::<Vec<_>>()).await;
    side
}

/// All pages of a list; what happens between two of them is said by `between`.
async fn pages(side: &mut Side, path: &str, limit: usize, between: impl AsyncFn(&mut Side, usize)) -> Vec<Json> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for page in 0.. {
        let body = side.get(&format!("{path}&limit={limit}{cursor}")).await;
        let events = body["events"].as_array().unwrap().clone();
        assert!(events.len() == limit || body["next"].is_null());
        all.extend(events);
        match body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        between(side, page).await;
    }
    all
}

/// The sort key of an event as the contract orders it.
fn key(event: &Json, sort: &str) -> (Option<Vec<u8>>, String) {
    let member = &event[sort.trim_start_matches('-')];
    (member.as_str().map(|text| text.as_bytes().to_vec()), event["id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_order_is_paged_through_without_a_gap() {
    let mut side = many().await;
    for sort in SORTS {
        let path = format!("/v1/events?sort={sort}");
        let whole = side.get(&format!("{path}&limit=500")).await["events"].as_array().unwrap().clone();
        assert_eq!(whole.len(), 211);
        let printed: Vec<_> = whole.iter().map(|event| key(event, sort)).collect();
        let mut sorted = printed.clone();
        // Times of this test print to the same length, so their texts are in order, too.
        if !sort.ends_with("created_at") {
            sorted.sort();
            if sort.starts_with('-') {
                sorted.reverse();
            }
            assert_eq!(printed, sorted, "{sort}");
        }
        for limit in [1, 7, 100, 211] {
            assert_eq!(pages(&mut side, &path, limit, async |_, _| {}).await, whole, "{sort} {limit}");
        }
    }
    let by_default = side.get("/v1/events").await;
    assert_eq!(by_default["events"], side.get("/v1/events?sort=-timestamp&limit=50").await["events"]);
}

#[tokio::test]
async fn what_does_not_change_meanwhile_comes_exactly_once() {
    for sort in SORTS {
        let mut side = many().await;
        let whole = side.get("/v1/events?limit=500").await["events"].as_array().unwrap().clone();
        let ids: Vec<Uuid> = whole.iter().map(|event| event["id"].as_str().unwrap().parse().unwrap()).collect();
        let changed = BTreeSet::from_iter(ids.iter().copied().step_by(4));
        // Between two pages events come, change their places, and go.
        let between = async |side: &mut Side, page: usize| {
            let target = *changed.iter().nth(page % changed.len()).unwrap();
            let mut writes = vec![put(id(page as u128), named(["", "b", "z"][page % 3]))];
            writes.push(if page.is_multiple_of(2) { delete(target) } else { put(target, named("moved")) });
            side.apply(writes).await;
        };
        let found = pages(&mut side, &format!("/v1/events?sort={sort}"), 10, between).await;
        let mut times = BTreeMap::<String, usize>::new();
        for event in &found {
            *times.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        for id in ids.iter().filter(|id| !changed.contains(id)) {
            assert_eq!(times.get(&id.to_string()), Some(&1), "{sort}");
        }
    }
}

#[tokio::test]
async fn a_page_goes_on_behind_an_event_that_is_gone() {
    let mut side = Side::new();
    side.apply((1..=4).map(|n| put(id(n), named("a"))).collect::<Vec<_>>()).await;
    let first = side.get("/v1/events?sort=name&limit=2").await;
    side.apply([delete(id(2)), delete(id(3))]).await;
    let cursor = first["next"].as_str().unwrap();
    let second = side.get(&format!("/v1/events?sort=name&limit=2&cursor={cursor}")).await;
    assert_eq!(second["events"][0]["id"], id(4).to_string());
    assert_eq!(second["next"], Json::Null);
}

#[tokio::test]
async fn names_of_any_length_are_paged_through() {
    let mut side = Side::new();
    // In a URL, and beyond what goes into one.
    let lengths = [10_000, 16 * 1024, 16 * 1024 + 1, 100_000, 400_000];
    let name = |n: usize| "ä".repeat(lengths[n] / 2) + "b";
    side.apply((0..5).map(|n| put(id(n as u128 + 1), named(&name(n)))).collect::<Vec<_>>()).await;
    for sort in ["name", "-name"] {
        let found = pages(&mut side, &format!("/v1/events?sort={sort}"), 1, async |_, _| {}).await;
        assert_eq!(found.len(), 5);
    }
    // A cursor that names an event is good while that is as it was.
    let first = side.get("/v1/events?sort=-name&limit=1").await;
    side.apply([put(id(1), named("a"))]).await;
    let next = format!("/v1/events?sort=-name&cursor={}", first["next"].as_str().unwrap());
    assert_eq!(side.get(&next).await["events"].as_array().unwrap().len(), 4);
    side.apply([put(id(5), named("a"))]).await;
    assert!(side.refused(&next).await.starts_with("cursor: "));
}

#[tokio::test]
async fn cursors_belong_to_their_order() {
    let side = many().await;
    for sort in SORTS {
        let first = side.get(&format!("/v1/events?sort={sort}&limit=1")).await;
        let cursor = first["next"].as_str().unwrap();
        for other in SORTS.into_iter().filter(|other| *other != sort) {
            let error = side.refused(&format!("/v1/events?sort={other}&cursor={cursor}")).await;
            assert!(error.starts_with("cursor: "), "{error}");
        }
        for path in ["/v1/sessions", "/v1/rejections"] {
            side.refused(&format!("{path}?cursor={cursor}")).await;
        }
    }
    for garbage in ["", "x", "AAAA", "%20", "%F0%9F%94%91", "k", "null"] {
        side.refused(&format!("/v1/events?cursor={garbage}")).await;
    }
}

#[tokio::test]
async fn parameters_are_known_and_come_once() {
    let side = many().await;
    for (query, name) in [
        ("nme=a", "nme"),
        ("data=a", "data"),
        ("ce=a", "ce"),
        ("name=a&name=b", "name"),
        ("limit=5&limit=5", "limit"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("sort=message", "sort"),
        ("sort=", "sort"),
        ("q=name%20is%20'a'", "q"),
        ("customer_id=x", "customer_id"),
        ("session_id=x", "session_id"),
        ("timestamp=x", "timestamp"),
        ("await=x", "await"),
        ("page=1", "page"),
    ] {
        let error = side.refused(&format!("/v1/events?{query}")).await;
        assert!(error.starts_with(&format!("{name}: ")), "{query}: {error}");
    }
    let error = side.refused("/v1/events?q=name%20is%20'a'").await;
    assert!(error.contains("column 6"), "{error}");
    for path in ["/v1/sessions?sort=id", "/v1/rejections?q=", "/v1/events/stats?sort=name"] {
        side.refused(path).await;
    }
    let one = format!("/v1/events/{}", id(1));
    side.refused(&format!("{one}?limit=1")).await;
    for bad in ["x", "7", "00000000000000000000000000000001", "%7B00000000-0000-0000-0000-000000000001%7D"] {
        side.refused(&format!("/v1/events/{bad}")).await;
    }
}

#[tokio::test]
async fn members_are_asked_for_by_equality() {
    let side = many().await;
    let whole = side.get("/v1/events?limit=500").await["events"].as_array().unwrap().clone();
    let expected = |is: &dyn Fn(&Json) -> bool| whole.iter().filter(|event| is(event)).cloned().collect::<Vec<_>>();
    let asked = async |query: &str| side.get(&format!("/v1/events?limit=500&{query}")).await["events"].clone();
    assert_eq!(asked("name=a").await, json!(expected(&|event| event["name"] == "a")));
    assert_eq!(asked("name=").await, json!(expected(&|event| event["name"] == "")));
    assert_eq!(asked("name=null").await, json!([]));
    assert_eq!(asked("customer_id=3").await, json!(expected(&|event| event["customer_id"] == 3)));
    let both = expected(&|event| event["customer_id"] == 3 && event["name"] != "a" && !event["name"].is_null());
    assert_eq!(asked("customer_id=3&q=name%20ne%20'a'").await, json!(both));
    let timestamp = whole[0]["timestamp"].as_str().unwrap();
    let same = expected(&|event| event["timestamp"] == timestamp);
    assert_eq!(asked(&format!("timestamp={timestamp}")).await, json!(same));
    let first = whole[0]["id"].as_str().unwrap();
    assert_eq!(asked(&format!("id={}", first.to_uppercase())).await, json!([whole[0]]));
}

#[tokio::test]
async fn stats_count_what_a_plain_count_counts() {
    let side = many().await;
    let whole = side.get("/v1/events?limit=500").await["events"].as_array().unwrap().clone();
    for (interval, seconds) in [("1h", 3_600), ("30m", 1_800), ("7s", 7), ("1w", 604_800), ("5200w", 3_144_960_000_i64)]
    {
        for by in ["category", "customer_id", "name", "timestamp", "id"] {
            let mut expected = BTreeMap::<i64, BTreeMap<String, u64>>::new();
            for event in &whole {
                let timestamp: shared::domain::time::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
                let bucket = timestamp.micros().div_euclid(seconds * 1_000_000) * seconds * 1_000_000;
                let value = match &event[by] {
                    Json::Null => "null".to_owned(),
                    Json::String(text) => text.clone(),
                    other => other.to_string(),
                };
                *expected.entry(bucket).or_default().entry(value).or_default() += 1;
            }
            let buckets: Vec<_> = expected
                .into_iter()
                .map(|(start, by)| {
                    let start = shared::wire::time::shortest(micros(start));
                    json!({"start": start, "count": by.values().sum::<u64>(), "by": by})
                })
                .collect();
            let path = format!("/v1/events/stats?interval={interval}&by={by}");
            let expected = json!({"interval": interval, "by": by, "buckets": buckets, "total": whole.len()});
            assert_eq!(side.get(&path).await, expected, "{path}");
        }
    }
    let by_default = side.get("/v1/events/stats").await;
    assert_eq!(by_default, side.get("/v1/events/stats?interval=1h&by=category&q=").await);
    assert_eq!(side.get("/v1/events/stats?q=name%20eq%20'a'").await["total"], {
        let named = side.get("/v1/events?name=a&limit=500").await;
        json!(named["events"].as_array().unwrap().len())
    });
    let none = json!({"interval": "1h", "by": "category", "buckets": [], "total": 0});
    assert_eq!(side.get("/v1/events/stats?q=name%20eq%20'nobody'").await, none);
    for (query, name) in [
        ("interval=0s", "interval"),
        ("interval=1", "interval"),
        ("interval=99999999999999999999w", "interval"),
        ("interval=15250284452471w", "interval"),
        ("by=data", "by"),
        ("by=ce", "by"),
        ("by=data.host", "by"),
        ("by=", "by"),
        ("q=x", "q"),
        ("name=a", "name"),
    ] {
        let error = side.refused(&format!("/v1/events/stats?{query}")).await;
        assert!(error.starts_with(&format!("{name}: ")), "{query}: {error}");
    }
}

#[tokio::test]
async fn stats_at_the_ends_of_time_do_not_overflow() {
    let mut side = Side::new();
    let at = |n, micros_| put(id(n), Members { timestamp: micros(micros_), ..Members::default() });
    side.apply([at(1, i64::MIN), at(2, i64::MAX), at(3, -1), at(4, 0)]).await;
    for interval in ["1s", "1d", "5200w"] {
        let stats = side.get(&format!("/v1/events/stats?interval={interval}")).await;
        assert_eq!((&stats["total"], stats["buckets"].as_array().unwrap().len()), (&json!(4), 4), "{stats}");
    }
}

#[tokio::test]
async fn too_much_to_count_is_refused() {
    let mut side = Side::new();
    let at = |n: u128| {
        put(id(n), Members { timestamp: micros(i64::try_from(n).unwrap() * 1_000_000), ..Members::default() })
    };
    side.apply((1..=10_001).map(at).collect::<Vec<_>>()).await;
    assert!(side.refused("/v1/events/stats?interval=1s").await.starts_with("interval: "));
    assert_eq!(side.get("/v1/events/stats?interval=2s").await["total"], 10_001);
    assert!(side.refused("/v1/events/stats?interval=1w&by=id").await.starts_with("interval: "));
}

#[tokio::test]
async fn whole_lists_are_read_in_every_order() {
    let side = many().await;
    for (by, sort) in [(SortKey::Timestamp, "timestamp"), (SortKey::Name, "name")] {
        for descending in [false, true] {
            let order = Order { by, descending, ties: Ties::Id };
            let whole = side.queries.all(Filter::Any, order, None).await.unwrap();
            let found: Vec<_> = whole.found.map_ok(|record| record.event.id).try_collect().await.unwrap();
            let sort = if descending { format!("-{sort}") } else { sort.to_owned() };
            let page = side.get(&format!("/v1/events?limit=500&sort={sort}")).await;
            let expected: Vec<Uuid> = page["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["id"].as_str().unwrap().parse().unwrap())
                .collect();
            assert_eq!(found, expected, "{sort}");
        }
    }
}

#[tokio::test]
async fn a_whole_list_ends_though_events_keep_coming() {
    let mut side = Side::new();
    side.apply((1..=1_200).map(|n| put(id(n), named("a"))).collect::<Vec<_>>()).await;
    let order = Order { by: SortKey::Name, descending: false, ties: Ties::Id };
    let mut whole = side.queries.all(Filter::Any, order, None).await.unwrap().found;
    let mut count = 0u128;
    while whole.try_next().await.unwrap().is_some() {
        count += 1;
        if count.is_multiple_of(100) {
            side.apply([put(id(10_000 + count), named("b"))]).await;
        }
    }
    assert_eq!(count, 1_200);
}
