//! The two APIs of The Eye beyond their transcripts: the same events through both, what
//! is refused, repetitions, races, long lists and pages.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::{Call, Reply},
};

on_each_storage! {
    what_comes_in_through_one_is_found_through_the_other,
    a_native_event_has_what_these_shapes_know,
    an_amendment_through_one_is_seen_through_the_other,
    what_cannot_be_stored_becomes_an_error_record,
    an_error_record_is_bounded,
    only_what_is_no_object_is_a_400,
    a_repetition_stores_nothing_twice,
    a_repetition_of_a_change_gets_its_outcome,
    racing_patches_lose_nothing,
    a_long_list_is_whole_and_in_order,
    a_client_pages_from_link_to_link,
    a_page_is_whole_however_large_its_events,
    numbers_of_nothing_are_not_found,
    reads_wait_for_positions;
    locally: each_path_says_what_it_takes
}

const SESSION: &str = "9ab1b579-7021-4e0c-8ea1-2ac9f52f3058";
const ACCEPTED: &str = "Event will be created after validation";

fn event(name: &str, timestamp: &str) -> Value {
    json!({ "session": { "id": SESSION }, "category": "c", "name": name, "data": { "n": 1 }, "timestamp": timestamp })
}

fn collected(name: &str, timestamp: &str) -> Value {
    json!({ "session_id": SESSION, "category": "c", "name": name, "data": { "n": 1 }, "timestamp": timestamp })
}

async fn with_session(storage: Storage) -> TestApp {
    let app = TestApp::patient(storage).await;
    app.call("POST", "/sessions/").json(&json!({ "id": SESSION })).send().await.is(201, &json!({ "id": SESSION }));
    app
}

impl TestApp {
    async fn post_event(&self, event: &Value) -> Reply {
        self.call("POST", "/events/").json(event).send().await.is(200, &json!(ACCEPTED))
    }

    async fn collect(&self, event: &Value, success: bool) -> Reply {
        self.call("POST", "/api/event/").json(event).send().await.is(201, &json!({ "success": success }))
    }

    async fn list(&self, path: &str, after: &Reply) -> Vec<Value> {
        self.reading(path, after).send().await.status(200).json().as_array().unwrap().clone()
    }
}

async fn what_comes_in_through_one_is_found_through_the_other(storage: Storage) {
    let app = with_session(storage).await;
    app.post_event(&event("rest", "2021-06-15T00:00:00.25Z")).await;
    let last = app.collect(&collected("collector", "2021-06-14"), true).await;
    let of_rest: Vec<Value> = app.list("/events/", &last).await;
    let names = |events: &[Value]| events.iter().map(|event| event["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&of_rest), ["rest", "collector"]);
    assert_eq!(of_rest[1]["session"], json!({ "id": SESSION }));
    assert_eq!(of_rest[1]["id"], last.position());
    let page = app.reading("/api/event/", &last).send().await.status(200).json();
    assert_eq!(names(page["results"].as_array().unwrap()), ["rest", "collector"]);
    assert_eq!(page["results"][0]["timestamp"], "2021-06-15T00:00:00.250000Z");
    let native = app.reading("/v1/events?category=c", &last).send().await.status(200).json();
    assert_eq!(names(native["events"].as_array().unwrap()), ["rest", "collector"]);
    assert!(native["events"].as_array().unwrap().iter().all(|event| event["session_id"] == SESSION));
    // A session of the collector's can be used at once, before anything is projected.
    let other = "0f3d57f0-4d0c-4d8c-9d2c-3f6f6d5bd1aa";
    let mut first = collected("first", "2021-06-14");
    first["session_id"] = json!(other);
    app.collect(&first, true).await;
    let mut second = event("second", "2021-06-14");
    second["session"]["id"] = json!(other);
    let last = app.post_event(&second).await;
    assert_eq!(app.list(&format!("/events/?session={other}"), &last).await.len(), 2);
    assert!(app.list("/errors/", &last).await.is_empty());
    let sessions = app.reading("/v1/sessions", &last).send().await.status(200).json();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 2);
}

async fn a_native_event_has_what_these_shapes_know(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let bare = json!({ "timestamp": "2021-06-14T00:00:00Z", "message": "no member of theirs" });
    let full = json!({
        "timestamp": "2021-06-13T23:59:59.5Z", "name": "n", "category": "c", "session_id": SESSION, "data": {},
        "email": "a@b.example",
    });
    let last = app.call("POST", "/v1/events").json(&json!([bare, full])).send().await.status(202);
    let page = app.reading("/api/event/", &last).send().await.status(200).json();
    let none = Value::Null;
    let expected = json!([
        { "session_id": none, "timestamp": "2021-06-14T00:00:00Z", "category": none, "name": none, "data": none },
        { "session_id": SESSION, "timestamp": "2021-06-13T23:59:59.500000Z", "category": "c", "name": "n", "data": {} },
    ]);
    assert_eq!(page["results"], expected);
    let listed = app.list("/events/", &last).await;
    assert_eq!((&listed[0]["session"], &listed[0]["name"]), (&none, &none));
    assert_eq!(listed[1]["session"], json!({ "id": SESSION }));
    // Its session is a known one, and a change leaves what these shapes do not show.
    let id = listed[0]["id"].as_u64().unwrap();
    let patch = json!({ "session": { "id": SESSION } });
    let patched = app.call("PATCH", &format!("/events/{id}/")).json(&patch).send().await.status(200);
    let native = app.reading(&format!("/v1/events?session_id={SESSION}"), &patched).send().await.status(200).json();
    assert_eq!(native["events"].as_array().unwrap().len(), 2);
    assert_eq!(native["events"][0]["message"], "no member of theirs");
    app.post_event(&event("n", "2021-06-14")).await;
}

async fn an_amendment_through_one_is_seen_through_the_other(storage: Storage) {
    let app = with_session(storage).await;
    let id = app.collect(&collected("n", "2021-06-14"), true).await.position();
    let patched = app.call("PATCH", &format!("/events/{id}/")).json(&json!({ "data": { "m": [1] } })).send().await;
    assert_eq!(patched.json()["data"], json!({ "m": [1] }));
    let page = app.reading("/api/event", &patched).send().await.status(200).json();
    assert_eq!(page["results"][0]["data"], json!({ "m": [1] }));
    let deleted = app.call("DELETE", &format!("/events/{id}")).send().await.status(204);
    let page = app.reading("/api/event", &deleted).send().await.status(200).json();
    assert_eq!(page["count"], 0);
}

async fn what_cannot_be_stored_becomes_an_error_record(storage: Storage) {
    let app = with_session(storage).await;
    let deep = (0..40).fold(json!({}), |inner, _| json!({ "a": inner }));
    for (data, message) in [
        (json!({ "a": "x".repeat(600 * 1024) }), "event: must not be longer than 524288 bytes as JSON"),
        (deep, "data: must not have more than 32 levels"),
        (json!({ "a\u{0}": 1 }), "data: must not have names with NUL"),
    ] {
        let (mut of_rest, mut of_collector) = (event("n", "2021-06-14"), collected("n", "2021-06-14"));
        of_rest["data"] = data.clone();
        of_collector["data"] = data;
        for last in [app.post_event(&of_rest).await, app.collect(&of_collector, false).await] {
            let error = app.reading(&format!("/errors/{}/", last.position()), &last).send().await.status(200).json();
            assert_eq!(error["message"], message);
        }
    }
    // As a change it is refused, and nothing is kept.
    let last = app.post_event(&event("n", "2021-06-14")).await;
    let patch =
        |data: Value| app.call("PATCH", &format!("/events/{}/", last.position())).json(&json!({ "data": data }));
    patch(json!({ "a\u{0}": 1 })).send().await.fails(400);
    patch(json!({ "a": "x".repeat(600 * 1024) })).send().await.fails(413);
    assert_eq!(app.list("/errors/", &last).await.len(), 6);
    assert_eq!(app.list("/events/", &last).await.len(), 1);
}

async fn an_error_record_is_bounded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let long = json!({ "name": "ä\"".repeat(100_000) }).to_string();
    let text = "ä\"".repeat(100_000);
    for body in [long, text] {
        let last =
            app.call("POST", "/api/event/").body(body.clone()).send().await.is(201, &json!({ "success": false }));
        let error = app.reading(&format!("/errors/{}", last.position()), &last).send().await.status(200).json();
        let kept = error["data"].as_str().unwrap();
        assert!(error["data"].to_string().len() <= 64 * 1024 && kept.len() > 32 * 1024, "{}", kept.len());
        assert!(body.starts_with(kept), "{kept:.100}");
        assert!(error["message"].as_str().unwrap().len() < 1024);
    }
}

async fn only_what_is_no_object_is_a_400(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for body in ["[]", "null", "\"{}\"", "7", "{", "a=b", "{\"a\":1}x"] {
        app.call("POST", "/events/").body(body).send().await.fails(400).has_no_position();
    }
    let deep = format!("{}1{}", r#"{"a":"#.repeat(1000), "}".repeat(1000));
    for body in ["", " ", "{}", r#"{"timestamp":1e999}"#, deep.as_str()] {
        app.call("POST", "/events/").body(body.to_owned()).send().await.is(200, &json!(ACCEPTED)).position();
    }
}

fn keyed(call: Call, key: &str) -> Call {
    call.header("Idempotency-Key", key)
}

#[track_caller]
fn assert_same(first: &Reply, again: &Reply) {
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    for header in ["etag", "event-position", "content-type"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
}

async fn a_repetition_stores_nothing_twice(storage: Storage) {
    let app = with_session(storage).await;
    let no_session = json!({ "category": "c", "name": "n", "data": {}, "timestamp": "2021-06-14" });
    let calls = [
        ("/sessions/", json!({}), 201),
        ("/events/", event("n", "2021-06-14"), 200),
        ("/events/", event("future", "9999-12-31"), 200),
        ("/events/", no_session.clone(), 200),
        ("/api/event/", collected("n", "2021-06-14"), 201),
        ("/api/event/", no_session, 201),
    ];
    let mut last = None;
    for (n, (path, body, status)) in calls.iter().enumerate() {
        let send = |path: &str| keyed(app.call("POST", path).json(body), &format!("k{n}")).send();
        let first = send(path).await.status(*status);
        assert_same(&first, &send(path).await);
        assert_same(&first, &send(path.trim_end_matches('/')).await);
        let other = keyed(app.call("POST", path).json(&json!({ "name": "other" })), &format!("k{n}"));
        other.send().await.fails(422);
        last = Some(first);
    }
    let last = last.unwrap();
    assert_eq!(app.list("/sessions/", &last).await.len(), 2);
    assert_eq!(app.list("/events/", &last).await.len(), 2);
    assert_eq!(app.list("/errors/", &last).await.len(), 3);
    // A session that was unknown stays so for the request that said it.
    let other = "0f3d57f0-4d0c-4d8c-9d2c-3f6f6d5bd1aa";
    let mut unknown = event("n", "2021-06-14");
    unknown["session"]["id"] = json!(other);
    let send = || keyed(app.call("POST", "/events/").json(&unknown), "unknown").send();
    let first = send().await.status(200);
    let known = app.call("POST", "/sessions/").json(&json!({ "id": other })).send().await.status(201);
    assert_same(&first, &send().await);
    assert_eq!(app.list("/errors/", &known).await.len(), 4);
    assert_eq!(app.list("/events/", &known).await.len(), 2);
}

async fn a_repetition_of_a_change_gets_its_outcome(storage: Storage) {
    let app = with_session(storage).await;
    let id = app.post_event(&event("n", "2021-06-14")).await.position();
    let path = format!("/events/{id}/");
    let patch = || keyed(app.call("PATCH", &path).json(&json!({ "name": "patched" })), "patch").send();
    let put = || keyed(app.call("PUT", &path).json(&event("put", "2021-06-15")), "put").send();
    let delete = || keyed(app.call("DELETE", &path), "delete").send();
    let patched = patch().await.status(200);
    let replaced = put().await.status(200);
    assert_same(&patched, &patch().await);
    let deleted = delete().await.status(204);
    for _ in 0..2 {
        assert_same(&patched, &patch().await);
        assert_same(&replaced, &put().await);
        assert_same(&deleted, &delete().await);
    }
    assert_eq!((patched.revision(), replaced.revision(), deleted.revision()), (1, 2, 3));
    keyed(app.call("PATCH", &path).json(&json!({ "name": "other" })), "patch").send().await.fails(422);
    keyed(app.call("PATCH", &path).json(&json!({ "name": 7 })), "patch").send().await.fails(422);
    let gone = keyed(app.call("DELETE", &path), "gone").send().await.fails(404);
    assert_same(&gone, &keyed(app.call("DELETE", &path), "gone").send().await);
}

async fn racing_patches_lose_nothing(storage: Storage) {
    const EACH: usize = 20;
    let app = with_session(storage).await;
    let id = app.post_event(&event("n", "2021-06-14")).await.position();
    let patch = |body: Value| {
        let call = app.call("PATCH", &format!("/events/{id}/")).json(&body);
        async move { call.send().await.status(200) }
    };
    let bodies = (0..EACH).flat_map(|n| {
        [json!({ "name": format!("n{n}") }), json!({ "category": format!("c{n}") }), json!({ "data": { "n": n } })]
    });
    let replies = join_all(bodies.map(patch)).await;
    let mut revisions: Vec<u64> = replies.iter().map(Reply::revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=3 * EACH as u64).collect::<Vec<_>>());
    let last = replies.iter().max_by_key(|reply| reply.position()).unwrap();
    let now = app.reading(&format!("/events/{id}/"), last).send().await.status(200);
    assert_eq!(now.body, last.body);
    // Each kind of change left its mark, whatever came after it.
    let now = now.json();
    assert!(now["name"].as_str().unwrap().len() > 1 && now["category"].as_str().unwrap().len() > 1, "{now}");
}

async fn a_long_list_is_whole_and_in_order(storage: Storage) {
    const EVENTS: usize = 1_200;
    let app = with_session(storage).await;
    let mut ids = Vec::new();
    for hundred in 0..EVENTS / 100 {
        let post = |n: usize| {
            let event = event(&format!("n{n}"), &format!("2021-06-{:02}", 10 + n % 3));
            let app = &app;
            async move { (n % 3, app.post_event(&event).await.position()) }
        };
        ids.extend(join_all((0..100).map(|n| post(100 * hundred + n))).await);
    }
    ids.sort_unstable();
    ids.reverse();
    let last = ids.iter().map(|(_, id)| *id).max().unwrap();
    let listed = app.get(&format!("/events/?await={last}")).await.status(200);
    let listed: Vec<u64> = listed.json().as_array().unwrap().iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert_eq!(listed, ids.iter().map(|(_, id)| *id).collect::<Vec<_>>());
}

/// The pages from a path on, by their links.
async fn walk(app: &TestApp, path: &str, link: &str) -> Vec<Value> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let page = app.get(&path).await.status(200).json();
        next = page[link].as_str().map(|url| {
            let (_, rest) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
            format!("/{rest}")
        });
        pages.push(page);
    }
    pages
}

async fn a_client_pages_from_link_to_link(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let post = async |n: u64| app.collect(&collected(&format!("n{n}"), "2021-06-14"), true).await;
    let mut last = 0;
    for n in 0..45 {
        last = post(n).await.position();
    }
    let path = format!("/api/event/?await={last}&category=c&x=%26");
    let pages = walk(&app, &path, "next").await;
    let sizes: Vec<usize> = pages.iter().map(|page| page["results"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [20, 20, 5]);
    let names: Vec<String> = pages
        .iter()
        .flat_map(|page| page["results"].as_array().unwrap())
        .map(|event| event["name"].as_str().unwrap().to_owned())
        .collect();
    // All of one moment: the last that came is the newest.
    assert_eq!(names, (0..45).rev().map(|n| format!("n{n}")).collect::<Vec<_>>());
    assert!(pages.iter().all(|page| page["count"] == 45));
    let back = walk(&app, &format!("{path}&page=3"), "previous").await;
    assert_eq!(back.len(), 3);
    assert_eq!(back[2]["results"], pages[0]["results"]);
    app.get("/api/event/?page=4").await.fails(404);
    app.get("/api/event/?page=18446744073709551615").await.fails(404);
    assert_eq!(app.get("/api/event/?page=2&page=1&page_size=x&page_size=45").await.json()["next"], Value::Null);
    let mut settings = TestApp::settings(storage);
    settings = settings.var("PUBLIC_URL", "https://qa.example/base");
    let app = settings.spawn().await;
    for n in 0..2 {
        last = app.collect(&collected(&format!("n{n}"), "2021-06-14"), true).await.position();
    }
    let page = app.get(&format!("/api/event?await={last}&page_size=1")).await.status(200).json();
    assert_eq!(page["next"], format!("https://qa.example/base/api/event?await={last}&page_size=1&page=2"));
}

async fn a_page_is_whole_however_large_its_events(storage: Storage) {
    let app = with_session(storage).await;
    let mut large = collected("large", "2021-06-14");
    large["data"] = json!({ "a": "x".repeat(500 * 1024) });
    let mut last = app.collect(&large, true).await;
    for _ in 0..29 {
        last = app.collect(&large, true).await;
    }
    let page = app.reading("/api/event/?page_size=25", &last).send().await.status(200).json();
    assert_eq!((page["count"].as_u64(), page["results"].as_array().unwrap().len()), (Some(30), 25));
    assert_eq!(app.list("/events/", &last).await.len(), 30);
}

async fn numbers_of_nothing_are_not_found(storage: Storage) {
    let app = with_session(storage).await;
    let answer = app.create("k", "v").await.created().position();
    let patched = app.post_event(&event("n", "2021-06-14")).await.position();
    let patch = json!({ "name": "m" });
    let last = app.call("PATCH", &format!("/events/{patched}/")).json(&patch).send().await.status(200);
    let error = app.post_event(&json!({})).await;
    let numbers = [
        "0".to_owned(),
        "-1".into(),
        answer.to_string(),
        last.position().to_string(),
        error.position().to_string(),
        (error.position() + 1).to_string(),
        ((1_u64 << 53) - 1).to_string(),
        (1_u64 << 53).to_string(),
        u64::MAX.to_string(),
        "99999999999999999999999".into(),
    ];
    for number in &numbers {
        let path = format!("/events/{number}/");
        app.reading(&path, &error).send().await.fails(404);
        app.call("PATCH", &path).json(&patch).send().await.fails(404);
        app.call("PUT", &path).json(&event("n", "2021-06-14")).send().await.fails(404);
        app.call("DELETE", &path).send().await.fails(404);
        if *number != error.position().to_string() {
            app.reading(&format!("/errors/{number}"), &error).send().await.fails(404);
        }
    }
    for malformed in ["x", "1.5", "1e3", "+1", "%20", "%FF"] {
        app.get(&format!("/events/{malformed}/")).await.fails(400);
        app.call("DELETE", &format!("/events/{malformed}")).send().await.fails(400);
    }
    app.reading(&format!("/events/{patched}/"), &error).send().await.status(200);
}

async fn each_path_says_what_it_takes(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (path, methods) in [
        ("/sessions", &["GET", "HEAD", "POST"][..]),
        ("/events", &["GET", "HEAD", "POST"]),
        ("/events/7", &["DELETE", "GET", "HEAD", "PATCH", "PUT"]),
        ("/errors", &["GET", "HEAD"]),
        ("/errors/7", &["GET", "HEAD"]),
        ("/api/event", &["GET", "HEAD", "POST"]),
    ] {
        for path in [path.to_owned(), format!("{path}/")] {
            assert_eq!(app.call("OPTIONS", &path).send().await.status(204).allow(), methods, "{path}");
            assert_eq!(app.call("TRACE", &path).send().await.fails(405).allow(), methods, "{path}");
            let head = app.call("HEAD", &path).send().await;
            assert_eq!((head.status, head.body.len()), (app.get(&path).await.status, 0), "{path}");
        }
        app.get(&format!("{path}//")).await.fails(404);
    }
}

async fn reads_wait_for_positions(storage: Storage) {
    let app = with_session(storage).await;
    for path in ["/sessions/", "/events/", "/events/1/", "/errors/", "/errors/1/", "/api/event/"] {
        app.call("GET", path).header("Await-Position", "x").send().await.fails(400);
        app.get(&format!("{path}?await=x")).await.fails(400);
        // Unknown parameters mean nothing, and the last of repeated ones counts.
        assert!(app.get(&format!("{path}?await=x&await=0&a=1&a=2")).await.status != 400, "{path}");
    }
    for n in 0..20 {
        let posted = app.post_event(&event(&format!("n{n}"), "2021-06-14")).await;
        let listed = app.list("/events/", &posted).await;
        assert_eq!((listed.len(), &listed[0]["id"]), (n + 1, &json!(posted.position())));
        let page = app.reading("/api/event/", &posted).send().await.status(200);
        assert_eq!(page.json()["count"], n + 1);
        assert!(page.position() >= posted.position());
    }
}
