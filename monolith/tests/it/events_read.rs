//! The event log's queries in their native shape: single events, lists and their pages,
//! counts, sessions and rejections.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::{Reply, enc},
};

on_each_storage! {
    an_event_is_read_as_it_was_recorded,
    an_event_is_read_as_it_is_now,
    an_event_that_is_not_there_is_not_found,
    a_malformed_id_is_refused,
    reads_wait_for_what_was_written,
    positions_that_do_not_come_are_given_up,
    lists_are_paged_in_every_order,
    pages_under_changes_show_what_stays_exactly_once,
    lists_are_filtered,
    malformed_parameters_are_refused_by_name,
    events_are_counted_by_time_and_member,
    sessions_are_listed_oldest_first,
    rejections_are_listed;
    locally: paths_have_their_methods
}

const SORTS: [&str; 8] =
    ["timestamp", "-timestamp", "created_at", "-created_at", "name", "-name", "category", "-category"];

/// Records events; their ids, and the answer.
async fn record(app: &TestApp, events: &[Value]) -> (Vec<String>, Reply) {
    let reply = app.call("POST", "/v1/events").json(&json!(events)).send().await.status(202);
    let body = reply.json();
    assert_eq!(body["accepted"], events.len(), "{body}");
    (serde_json::from_value(body["ids"].clone()).unwrap(), reply)
}

fn path(id: &str) -> String {
    format!("/v1/events/{id}")
}

async fn list(app: &TestApp, query: &str) -> Vec<Value> {
    let body = app.get(&format!("/v1/events?limit=500&{query}")).await.status(200).json();
    assert_eq!(body["next"], Value::Null, "a short list");
    body["events"].as_array().unwrap().clone()
}

/// Events with ties and nulls among their members.
async fn many(app: &TestApp) -> Vec<String> {
    let names = [json!(null), json!(""), json!("a"), json!("A"), json!("\u{fffd}"), json!("\u{1f600}")];
    let event = |n: usize| {
        json!({
            "timestamp": format!("2026-01-0{}T0{}:00:00Z", 1 + n % 3, n % 7),
            "name": names[n % 6],
            "category": names[n / 3 % 6],
            "customer_id": if n.is_multiple_of(4) { json!(null) } else { json!(n % 4) },
            "data": {"n": n},
        })
    };
    let (ids, reply) = record(app, &(0..150).map(event).collect::<Vec<_>>()).await;
    app.reading("/v1/events?limit=1", &reply).send().await.status(200);
    ids
}

async fn an_event_is_read_as_it_was_recorded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let event = json!({
        "timestamp": "2026-01-31 12:00:00.1234567", "name": "login", "category": "auth", "component": "web",
        "environment": "prod", "message": "m", "email": "a@b.c", "customer_id": i64::MIN,
        "session_id": "67e55044-10b1-426f-9247-bb680e5fe0c8", "source": "s", "data": {"host": "ü", "deep": [{"a": null}]},
        "ce": {"x": 1},
    });
    let (ids, reply) = record(&app, &[event.clone(), json!({"name": "bare"})]).await;
    let read = app.reading(&path(&ids[0]), &reply).send().await.status(200);
    assert_eq!((read.revision(), read.position()), (0, reply.position()));
    let mut expected = event;
    expected["id"] = json!(ids[0]);
    expected["timestamp"] = "2026-01-31T12:00:00.123456Z".into();
    let mut shown = read.json();
    let created_at = shown.as_object_mut().unwrap().remove("created_at").unwrap();
    assert!(created_at.as_str().unwrap().ends_with('Z'));
    assert_eq!(shown, expected);
    // What is missing is null, but the time, which is that of the recording.
    let bare = app.get(&path(&ids[1])).await.json();
    assert_eq!(bare["timestamp"], bare["created_at"]);
    assert_eq!(bare.as_object().unwrap().len(), 14);
    for member in bare.as_object().unwrap().iter().filter(|(_, value)| !value.is_null()) {
        assert!(["id", "timestamp", "created_at", "name"].contains(&member.0.as_str()), "{member:?}");
    }
    // HEAD says the same but for the body.
    let head = app.call("HEAD", &path(&ids[0])).send().await.status(200);
    assert_eq!((head.revision(), head.position(), head.body.len()), (0, reply.position(), 0));
    assert_eq!(head.header("content-length"), Some(read.body.len().to_string().as_str()));
}

async fn an_event_is_read_as_it_is_now(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let (ids, _) = record(&app, &[json!({"name": "a", "data": {"x": 1, "y": 2}})]).await;
    let one = path(&ids[0]);
    let patched = app.call("PATCH", &one).json(&json!({"name": null, "data": {"x": null}})).send().await.status(200);
    let read = app.reading(&one, &patched).send().await.status(200);
    assert_eq!(read.json(), patched.json());
    assert_eq!((&read.json()["name"], &read.json()["data"]), (&json!(null), &json!({"y": 2})));
    assert_eq!((read.revision(), read.position()), (1, patched.position()));
    for tag in ["\"1\"", "W/\"1\"", "*", "\"7\", \"1\""] {
        let same = app.call("GET", &one).header("If-None-Match", tag).send().await.status(304);
        assert_eq!((same.revision(), same.position(), same.body.len()), (1, patched.position(), 0), "{tag}");
    }
    app.call("GET", &one).header("If-None-Match", "\"0\"").send().await.status(200);
    app.call("GET", &one).header("If-None-Match", "1").send().await.fails(400);
    let deleted = app.call("DELETE", &one).send().await.status(204);
    let gone = app.reading(&one, &deleted).send().await;
    assert_eq!(gone.position(), deleted.position());
    gone.is(404, &json!({"error": "Event not found"}));
    assert_eq!(list(&app, "").await, Vec::<Value>::new());
}

async fn an_event_that_is_not_there_is_not_found(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let never = path("67e55044-10b1-426f-9247-bb680e5fe0c8");
    app.get(&never).await.is(404, &json!({"error": "Event not found"}));
    app.call("HEAD", &never).send().await.status(404);
}

async fn a_malformed_id_is_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for id in ["x", "1", "67e5504410b1426f9247bb680e5fe0c8", "%7B67e55044-10b1-426f-9247-bb680e5fe0c8%7D", "%FF", "%00"]
    {
        app.get(&path(id)).await.fails(400);
    }
    let (ids, reply) = record(&app, &[json!({})]).await;
    app.reading(&path(&ids[0].to_uppercase()), &reply).send().await.status(200);
}

async fn reads_wait_for_what_was_written(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for n in 0..50 {
        let name = format!("n{n}");
        let (ids, reply) = record(&app, &[json!({"name": name})]).await;
        let awaited = reply.position();
        match n % 5 {
            0 => assert_eq!(app.reading(&path(&ids[0]), &reply).send().await.status(200).json()["name"], name),
            1 => assert_eq!(list(&app, &format!("name={name}&await={awaited}")).await.len(), 1),
            2 => {
                let stats = app.reading("/v1/events/stats", &reply).send().await.status(200);
                assert_eq!(stats.json()["total"], n + 1);
                assert!(stats.position() >= awaited);
            }
            3 => {
                let listed = app.reading("/v1/events?limit=1&sort=-created_at", &reply).send().await.status(200);
                assert!(listed.position() >= awaited);
            }
            _ => drop(app.get(&format!("{}?await={awaited}", path(&ids[0]))).await.status(200)),
        }
    }
    let registered = app.call("POST", "/v1/sessions").send().await.status(201);
    let sessions = app.reading("/v1/sessions", &registered).send().await.status(200);
    assert_eq!(sessions.json()["sessions"][0]["id"], registered.json()["id"]);
    assert!(sessions.position() >= registered.position());
}

async fn positions_that_do_not_come_are_given_up(storage: Storage) {
    let app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "50").spawn().await;
    let (ids, reply) = record(&app, &[json!({})]).await;
    let beyond = (reply.position() + 1_000_000).to_string();
    let paths =
        ["/v1/events", "/v1/events/stats", "/v1/events/stream", "/v1/sessions", "/v1/rejections", &path(&ids[0])];
    for path in paths {
        app.call("GET", path).header("Await-Position", &beyond).send().await.busy();
        app.get(&format!("{path}?await={beyond}")).await.busy();
        app.call("GET", path).header("Await-Position", "x").send().await.fails(400);
        app.get(&format!("{path}?await=9007199254740992")).await.fails(400);
    }
}

/// All pages of a list; `between` is done after each.
async fn pages(app: &TestApp, sort: &str, limit: usize, between: impl AsyncFn(usize)) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for page in 0.. {
        let body = app.get(&format!("/v1/events?sort={sort}&limit={limit}{cursor}")).await.status(200).json();
        all.extend(body["events"].as_array().unwrap().clone());
        let Some(next) = body["next"].as_str() else { break };
        assert_eq!(enc(next), next, "a cursor needs no encoding");
        cursor = format!("&cursor={next}");
        between(page).await;
    }
    all
}

async fn lists_are_paged_in_every_order(storage: Storage) {
    let app = TestApp::patient(storage).await;
    many(&app).await;
    for sort in SORTS {
        let whole = list(&app, &format!("sort={sort}")).await;
        assert_eq!(whole.len(), 150);
        // Microseconds make the texts of these times differ in length.
        let printed = |event: &Value| match sort.trim_start_matches('-') {
            "created_at" => json!(event["created_at"].as_str().unwrap().trim_end_matches('Z')),
            member => event[member].clone(),
        };
        let key = |event: &Value| {
            (printed(event).as_str().map(|text| text.as_bytes().to_vec()), event["id"].as_str().unwrap().to_owned())
        };
        let mut sorted = whole.clone();
        sorted.sort_by_key(key);
        if sort.starts_with('-') {
            sorted.reverse();
        }
        assert_eq!(whole, sorted, "{sort}");
        for limit in [1, 11, 150] {
            assert_eq!(pages(&app, sort, limit, async |_| {}).await, whole, "{sort}");
        }
    }
    assert_eq!(list(&app, "").await, list(&app, "sort=-timestamp").await);
    let first = app.get("/v1/events").await.json();
    assert_eq!(first["events"].as_array().unwrap().len(), 50);
    // A cursor belongs to its order.
    let next = first["next"].as_str().unwrap();
    for sort in ["timestamp", "name", "-created_at"] {
        app.get(&format!("/v1/events?sort={sort}&cursor={next}")).await.fails(400);
    }
    app.get(&format!("/v1/events?sort=-timestamp&cursor={next}")).await.status(200);
}

async fn pages_under_changes_show_what_stays_exactly_once(storage: Storage) {
    let app = TestApp::patient(storage).await;
    let ids = many(&app).await;
    let mut changed = BTreeSet::new();
    for (round, sort) in SORTS.into_iter().enumerate() {
        // Those that are touched in this round are others than before.
        let touched: Vec<_> = ids.iter().skip(round).step_by(8).cloned().collect();
        changed.extend(touched.iter().cloned());
        let between = async |page: usize| {
            let one = path(&touched[page % touched.len()]);
            let last = match page % 3 {
                0 => app.call("DELETE", &one).send().await,
                1 => app.call("PATCH", &one).json(&json!({"name": "zz", "timestamp": "2027-01-01"})).send().await,
                _ => record(&app, &[json!({"name": "0", "category": "b"})]).await.1,
            };
            if last.status < 300 {
                app.reading("/v1/events?limit=1", &last).send().await.status(200);
            }
        };
        let found = pages(&app, sort, 10, between).await;
        let mut times = BTreeMap::<String, usize>::new();
        for event in &found {
            *times.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        for id in ids.iter().filter(|id| !changed.contains(*id)) {
            assert_eq!(times.get(id), Some(&1), "{sort}: {id}");
        }
    }
}

async fn lists_are_filtered(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    many(&app).await;
    let whole = list(&app, "").await;
    let expected = |is: &dyn Fn(&Value) -> bool| whole.iter().filter(|event| is(event)).cloned().collect::<Vec<_>>();
    let asked = async |q: &str| list(&app, &format!("q={}", enc(q))).await;
    let number = |event: &Value| event["data"]["n"].as_u64().unwrap();
    assert_eq!(asked("data.n lt 10").await, expected(&|event| number(event) < 10));
    assert_eq!(asked("name eq null").await, expected(&|event| event["name"].is_null()));
    assert_eq!(asked("name ct 'A'").await, expected(&|event| event["name"] == "a" || event["name"] == "A"));
    assert_eq!(asked("NOT name eq 'a'").await, expected(&|event| event["name"] != "a"));
    let both = "(category eq 'a' OR category sw 'A') AND timestamp gte 2026-01-02";
    let both_by_hand = expected(&|event| {
        (event["category"] == "a" || event["category"] == "A")
            && event["timestamp"].as_str().unwrap() >= "2026-01-02T00:00:00Z"
    });
    assert_eq!(asked(&both.replace("2026-01-02", "'2026-01-02'")).await, both_by_hand);
    // Members as parameters, alone, together, and with a filter.
    assert_eq!(list(&app, "name=a").await, expected(&|event| event["name"] == "a"));
    assert_eq!(
        list(&app, "name=a&customer_id=2").await,
        expected(&|event| event["name"] == "a" && event["customer_id"] == 2)
    );
    assert_eq!(
        list(&app, "name=a&q=data.n%20gt%2075").await,
        expected(&|event| event["name"] == "a" && number(event) > 75)
    );
    assert_eq!(
        list(&app, "timestamp=2026-01-02T01:00:00%2B01:00").await,
        expected(&|event| event["timestamp"] == "2026-01-02T00:00:00Z")
    );
    assert_eq!(list(&app, "name=%25").await, Vec::<Value>::new());
}

async fn malformed_parameters_are_refused_by_name(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (path, name) in [
        ("/v1/events?nme=a", "nme"),
        ("/v1/events?data=a", "data"),
        ("/v1/events?ce=a", "ce"),
        ("/v1/events?name=a&name=a", "name"),
        ("/v1/events?limit=0", "limit"),
        ("/v1/events?limit=501", "limit"),
        ("/v1/events?limit=-1", "limit"),
        ("/v1/events?sort=message", "sort"),
        ("/v1/events?sort=--name", "sort"),
        ("/v1/events?cursor=x", "cursor"),
        ("/v1/events?cursor=", "cursor"),
        ("/v1/events?customer_id=9223372036854775808", "customer_id"),
        ("/v1/events?session_id=x", "session_id"),
        ("/v1/events?id=x", "id"),
        ("/v1/events?created_at=yesterday", "created_at"),
        ("/v1/events?q=name", "q"),
        ("/v1/events/stats?interval=1", "interval"),
        ("/v1/events/stats?interval=0h", "interval"),
        ("/v1/events/stats?by=data", "by"),
        ("/v1/events/stats?name=a", "name"),
        ("/v1/events/stream?limit=1", "limit"),
        ("/v1/events/stream?q=(", "q"),
        ("/v1/sessions?limit=0", "limit"),
        ("/v1/sessions?cursor=AAAA", "cursor"),
        ("/v1/sessions?sort=id", "sort"),
        ("/v1/rejections?q=", "q"),
    ] {
        let error = app.get(path).await.fails(400).error();
        assert!(error.starts_with(&format!("{name}: ")), "{path}: {error}");
    }
    let error = app.get("/v1/events?q=name%20is%20'a'").await.fails(400).error();
    assert!(error.contains("column 6"), "{error}");
}

async fn events_are_counted_by_time_and_member(storage: Storage) {
    let app = TestApp::patient(storage).await;
    many(&app).await;
    for (interval, digits) in [("1h", 13), ("1d", 10)] {
        for by in ["category", "customer_id"] {
            for q in ["", "name eq 'a'"] {
                let (mut buckets, mut total) = (BTreeMap::<String, BTreeMap<String, u64>>::new(), 0);
                for event in list(&app, &format!("q={}", enc(q))).await {
                    let value = event[by].as_str().map_or_else(|| event[by].to_string(), str::to_owned);
                    let start = event["timestamp"].as_str().unwrap()[..digits].to_owned();
                    *buckets.entry(start).or_default().entry(value).or_default() += 1;
                    total += 1;
                }
                let buckets: Vec<_> = buckets
                    .into_iter()
                    .map(|(start, by)| {
                        let start = start.clone() + &"2026-01-01T00:00:00Z"[start.len()..];
                        json!({"start": start, "count": by.values().sum::<u64>(), "by": by})
                    })
                    .collect();
                let path = format!("/v1/events/stats?interval={interval}&by={by}&q={}", enc(q));
                let expected = json!({"interval": interval, "by": by, "buckets": buckets, "total": total});
                app.get(&path).await.is(200, &expected);
            }
        }
    }
    let by_default = app.get("/v1/events/stats").await.json();
    assert_eq!((&by_default["interval"], &by_default["by"]), (&json!("1h"), &json!("category")));
}

async fn sessions_are_listed_oldest_first(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push(app.call("POST", "/v1/sessions").send().await.status(201).json()["id"].clone());
    }
    // One that an event brings along.
    let session = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    expected.push(json!(session));
    let (_, reply) = record(&app, &[json!({"session_id": session})]).await;
    let (mut found, mut query) = (Vec::new(), format!("limit=4&await={}", reply.position()));
    loop {
        let body = app.get(&format!("/v1/sessions?{query}")).await.status(200).json();
        found.extend(body["sessions"].as_array().unwrap().clone());
        let Some(next) = body["next"].as_str() else { break };
        query = format!("limit=4&cursor={next}");
    }
    assert_eq!(found.iter().map(|session| session["id"].clone()).collect::<Vec<_>>(), expected);
    for session in &found {
        assert_eq!(session.as_object().unwrap().len(), 2);
        assert!(session["created_at"].as_str().unwrap().ends_with('Z'), "{session}");
    }
}

async fn rejections_are_listed(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    // What is refused natively is answered and not recorded.
    app.call("POST", "/v1/events").json(&json!([{"name": "a"}, {"name": 1}])).send().await.status(202);
    app.get("/v1/rejections").await.is(200, &json!({"rejections": [], "next": null}));
}

async fn paths_have_their_methods(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for path in ["/v1/events", "/v1/events/stats", "/v1/events/stream", "/v1/sessions", "/v1/rejections"] {
        let refused = app.call("PUT", path).send().await.fails(405);
        assert!(refused.allow().contains(&"GET".to_owned()), "{path}: {:?}", refused.allow());
        app.call("OPTIONS", path).send().await.status(204);
        app.call("HEAD", path).send().await.status(200);
    }
}
