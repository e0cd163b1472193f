//! Lists: order, prefixes, pages.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::enc,
};

on_each_storage!(
    an_empty_list,
    only_live_answers_are_listed,
    the_order_is_that_of_the_bytes,
    a_prefix_is_taken_as_it_is,
    the_bounds_of_limit,
    pages_show_each_answer_once,
    a_full_last_page_is_the_end,
    pages_under_changes,
    malformed_cursors_are_refused,
);

/// Stores answers whose value is their key, and returns a position to await.
async fn store(app: &TestApp, keys: &[String]) -> u64 {
    let lines: String =
        keys.iter().map(|key| json!({"op": "create", "key": key, "value": key}).to_string() + "\n").collect();
    let reply = app.call("POST", "/answers/batch").body(lines).send().await.status(200);
    let text = reply.text();
    let results: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(results.len(), keys.len());
    assert!(results.iter().all(|r| r["status"] == 201), "{text:.500}");
    results.iter().map(|r| r["position"].as_u64().unwrap()).max().unwrap()
}

/// One page: its keys and the cursor to go on with.
async fn page(app: &TestApp, query: &str) -> (Vec<String>, Option<String>) {
    let page = app.get(&format!("/answers?{query}")).await.status(200).json();
    assert_eq!(page.as_object().unwrap().len(), 2, "answers and next");
    let keys = page["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| {
            let key = answer["key"].as_str().unwrap();
            assert_eq!(*answer, json!({"key": key, "value": key}));
            key.to_owned()
        })
        .collect();
    let next = match &page["next"] {
        Value::Null => None,
        Value::String(cursor) => Some(cursor.clone()),
        other => panic!("next: {other}"),
    };
    (keys, next)
}

/// All keys by pages; each page but the last is full.
async fn pages(app: &TestApp, query: &str, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let (keys, next) = page(app, &format!("{query}&limit={limit}{cursor}")).await;
        assert!(keys.len() <= limit);
        all.extend(keys.iter().cloned());
        match next {
            None => return all,
            Some(next) => {
                assert_eq!(keys.len(), limit);
                cursor = format!("&cursor={}", enc(&next));
            }
        }
    }
}

async fn an_empty_list(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for path in ["/answers", "/answers?prefix=a", "/answers?limit=1"] {
        app.get(path).await.is(200, &json!({"answers": [], "next": null}));
    }
}

async fn only_live_answers_are_listed(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for key in ["a", "b", "c"] {
        app.create(key, "1").await.created();
    }
    app.delete("b").await.deleted();
    app.update("c", "2").await.updated();
    app.delete("a").await.deleted();
    let last = app.create("a", "3").await.created();
    app.reading("/answers", &last).send().await.is(
        200,
        &json!({
            "answers": [{"key": "a", "value": "3"}, {"key": "c", "value": "2"}],
            "next": null,
        }),
    );
}

async fn the_order_is_that_of_the_bytes(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // Other orders would differ: by UTF-16 unit, by case, by language, by number.
    let mut keys: Vec<String> = [
        "\u{1f600}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{10000}",
        "\u{e000}",
        "\u{d7ff}",
        "\u{10ffff}",
        "a",
        "A",
        "b",
        "B",
        "Z",
        "_",
        "~",
        " ",
        "!",
        "\u{e9}",
        "e\u{301}",
        "e",
        "f",
        "10",
        "9",
        "1",
        "aa",
        "a\u{a0}",
        "a ",
        "a!",
        "ss",
        "\u{df}",
    ]
    .map(str::to_owned)
    .to_vec();
    let last = store(&app, &keys).await;
    keys.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let place = |key: &str| keys.iter().position(|k| k == key).unwrap();
    assert!(place("\u{fffd}") < place("\u{1f600}"));
    assert_eq!(page(&app, &format!("await={last}")).await, (keys.clone(), None));
    for limit in [1, 2, 5] {
        assert_eq!(pages(&app, &format!("await={last}"), limit).await, keys);
    }
}

async fn a_prefix_is_taken_as_it_is(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut keys: Vec<String> = [
        "a",
        "ab",
        "abc",
        "aB",
        "Ab",
        "b",
        "a%",
        "a%b",
        "a_b",
        "axb",
        "a*",
        "a[b",
        "a\\b",
        "a'b",
        "a\u{10ffff}",
        "a\u{10ffff}b",
        "\u{10ffff}",
        "\u{10ffff}\u{10ffff}",
        "\u{d7ff}",
        "\u{d7ff}x",
        "\u{e000}",
        "\u{7e}",
        "\u{7e}x",
        "é",
        "e\u{301}",
        "🔑",
        "🔑🔑",
        "🔒",
    ]
    .map(str::to_owned)
    .to_vec();
    let last = store(&app, &keys).await;
    keys.sort();
    for prefix in [
        "",
        "a",
        "ab",
        "abc",
        "abcd",
        "aB",
        "A",
        "a%",
        "a_",
        "a*",
        "a[",
        "a\\",
        "a'",
        "a\u{10ffff}",
        "\u{10ffff}",
        "\u{d7ff}",
        "\u{e000}",
        "~",
        "é",
        "e",
        "🔑",
        "%",
        "_",
        "x",
    ] {
        let expected: Vec<String> = keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        let query = format!("await={last}&prefix={}", enc(prefix));
        assert_eq!(page(&app, &query).await, (expected.clone(), None), "{prefix:?}");
        for limit in [1, 3] {
            assert_eq!(pages(&app, &query, limit).await, expected, "{prefix:?}");
        }
    }
}

async fn the_bounds_of_limit(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys: Vec<String> = (0..1005).map(|n| format!("k{n:04}")).collect();
    let last = store(&app, &keys).await;
    let (by_default, next) = page(&app, &format!("await={last}")).await;
    assert_eq!(by_default, keys[..100]);
    assert!(next.is_some());
    for limit in [1, 2, 99, 100, 101, 1000] {
        let (some, next) = page(&app, &format!("limit={limit}")).await;
        assert_eq!(some, keys[..limit]);
        assert!(next.is_some());
    }
    for limit in ["0", "1001", "-1", "x", "1.5", "99999999999999999999"] {
        app.get(&format!("/answers?limit={limit}")).await.fails(400);
    }
}

async fn pages_show_each_answer_once(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys: Vec<String> = (0..250).map(|n| format!("k{n:03}")).collect();
    let last = store(&app, &keys).await;
    for limit in [1, 7, 83, 249, 251, 1000] {
        assert_eq!(pages(&app, &format!("await={last}"), limit).await, keys);
    }
    assert_eq!(pages(&app, "prefix=k1", 9).await, keys[100..200]);
}

async fn a_full_last_page_is_the_end(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    let last = store(&app, &keys).await;
    assert_eq!(page(&app, &format!("await={last}&limit=10")).await, (keys.clone(), None));
    let (first, next) = page(&app, "limit=5").await;
    assert_eq!(first, keys[..5]);
    let cursor = enc(&next.unwrap());
    assert_eq!(page(&app, &format!("limit=5&cursor={cursor}")).await, (keys[5..].to_vec(), None));
}

async fn pages_under_changes(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys: Vec<String> = (0..20).map(|n| format!("k{n:02}")).collect();
    let last = store(&app, &keys).await;
    let (mut seen, next) = page(&app, &format!("await={last}&limit=10")).await;
    assert_eq!(seen, keys[..10]);
    // Before the cursor, at it, and after it.
    app.create("a", "a").await.created();
    app.delete("k00").await.deleted();
    app.delete("k09").await.deleted();
    app.delete("k10").await.deleted();
    let last = app.create("k105", "k105").await.created();
    let cursor = enc(&next.unwrap());
    let query = format!("await={}&limit=10&cursor={cursor}", last.position());
    let (rest, _) = page(&app, &query).await;
    seen.extend(rest);
    let expected: BTreeSet<String> =
        keys.iter().filter(|key| *key != "k10").cloned().chain(["k105".to_owned()]).collect();
    assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
}

async fn malformed_cursors_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let keys: Vec<String> = (0..3).map(|n| format!("k{n}")).collect();
    let last = store(&app, &keys).await;
    let (_, next) = page(&app, &format!("await={last}&limit=1")).await;
    assert!(next.is_some());
    for cursor in ["!!!", "%00", "%ff%fe", "%20", "%22", "%F0%9F%94%91"] {
        app.get(&format!("/answers?cursor={cursor}")).await.fails(400);
    }
}
