//! The audit log and the event logger beside each other and the native API: the same
//! log, and what each of them cannot say.

use serde_json::{Value, json};

use crate::{
    app::{Storage, TestApp},
    client::{Reply, enc},
};

on_each_storage!(
    a_log_is_seen_through_the_others,
    an_event_is_seen_through_the_others,
    a_native_event_has_what_these_shapes_know,
    changes_are_seen,
    a_long_list_is_whole_and_in_order,
    a_page_is_whole_however_large_its_logs,
    a_name_that_is_missing_is_the_lowest;
    locally: limits_are_checked_at_the_door,
    reads_wait_for_positions,
    paths_have_their_methods,
);

impl TestApp {
    async fn write(&self, log: &Value) -> Reply {
        self.call("POST", "/api/write").json(log).send().await.status(201)
    }

    async fn save(&self, event: &Value) -> Reply {
        self.call("POST", "/event").json(event).send().await.status(201)
    }

    async fn record(&self, events: &Value) -> Reply {
        self.call("POST", "/v1/events").json(events).send().await.status(202)
    }

    async fn seen(&self, path: &str, after: &Reply) -> Value {
        self.reading(path, after).send().await.status(200).json()
    }
}

fn event(component: &str, message: &str) -> Value {
    json!({
        "email": "diego@chefhero.com", "environment": "production", "component": component,
        "message": message, "data": {"key": 123},
    })
}

async fn a_log_is_seen_through_the_others(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let log = json!({
        "event_name": "new customer", "description": "a buyer", "created_at": "2017-01-01T00:00:00.5Z", "customer_id": 18,
    });
    let written = app.write(&log).await;
    assert_eq!(written.json(), json!({ "log": log }));
    // Its time is when it happened; when it was recorded is another.
    let query =
        enc("name eq 'new customer' AND timestamp lt '2018-1-1' AND createdAt gte '2018-1-1' AND message ct 'BUYER'");
    let events = app.seen(&format!("/event?q={query}"), &written).await;
    let [found] = &events.as_array().unwrap()[..] else { panic!("{events}") };
    let (id, created_at) = (found["id"].as_str().unwrap(), found["createdAt"].as_i64().unwrap());
    let expected = json!({
        "id": id, "email": null, "environment": null, "component": null, "message": "a buyer", "data": null,
        "createdAt": created_at,
    });
    assert_eq!(*found, expected);
    let native = app.seen(&format!("/v1/events/{id}"), &written).await;
    assert_eq!((&native["name"], &native["message"]), (&json!("new customer"), &json!("a buyer")));
    assert_eq!((&native["customer_id"], &native["timestamp"]), (&json!(18), &json!("2017-01-01T00:00:00.5Z")));
    let listed = app.seen("/v1/events?customer_id=18", &written).await;
    assert_eq!(listed["events"], json!([native]));
}

async fn an_event_is_seen_through_the_others(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let saved = app.save(&event("order", "the buyer")).await;
    let id = saved.json()["id"].as_str().unwrap().to_owned();
    let native = app.seen(&format!("/v1/events/{id}"), &saved).await;
    for (name, value) in event("order", "the buyer").as_object().unwrap() {
        assert_eq!(native[name], *value, "{name}");
    }
    let page = app.seen("/api/read", &saved).await;
    let expected = json!({
        "id": saved.position(), "created_at": native["timestamp"], "event_name": null, "description": "the buyer",
    });
    assert_eq!(page["logs"], json!([expected]));
    assert_eq!(page["metadata"]["total_records"], 1);
    // A name that is missing holds no part.
    assert_eq!(app.seen("/api/read?event_name=a", &saved).await, json!({"logs": [], "metadata": {}}));
}

async fn a_native_event_has_what_these_shapes_know(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let recorded = app
        .record(&json!({
            "timestamp": "2022-11-14T22:01:56.000001+01:00", "name": "n", "message": "m", "component": "c",
            "environment": "e", "email": "no address", "customer_id": i64::MIN, "category": "x", "data": {},
        }))
        .await;
    let id = recorded.json()["ids"][0].clone();
    let expected = json!({
        "id": recorded.position(), "created_at": "2022-11-14T21:01:56.000001Z", "event_name": "n", "description": "m",
        "customer_id": i64::MIN,
    });
    let path = format!("/api/read?customer_id={}&sort=-created_at", i64::MIN);
    assert_eq!(app.seen(&path, &recorded).await["logs"], json!([expected]));
    let events = app.seen("/event", &recorded).await;
    let expected = json!([{
        "id": id, "email": "no address", "environment": "e", "component": "c", "message": "m", "data": {},
        "createdAt": events[0]["createdAt"],
    }]);
    assert_eq!(events, expected);
}

async fn changes_are_seen(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let saved = app.save(&event("order", "first")).await;
    let body = saved.json();
    let path = format!("/v1/events/{}", body["id"].as_str().unwrap());
    let patch = json!({"name": "named", "message": "second", "data": {"key": null, "other": 1}});
    let patched = app.call("PATCH", &path).json(&patch).send().await.status(200);
    let mut expected = body.clone();
    expected["message"] = json!("second");
    expected["data"] = json!({"other": 1});
    assert_eq!(app.seen("/event", &patched).await, json!([expected]));
    let log = app.seen("/api/read?event_name=NAME", &patched).await["logs"][0].clone();
    assert_eq!((&log["id"], &log["description"]), (&json!(saved.position()), &json!("second")));
    let deleted = app.call("DELETE", &path).send().await.status(204);
    assert_eq!(app.seen("/event", &deleted).await, json!([]));
    assert_eq!(app.seen("/api/read", &deleted).await, json!({"logs": [], "metadata": {}}));
}

async fn a_long_list_is_whole_and_in_order(storage: Storage) {
    let app = TestApp::patient(storage).await;
    let events: Vec<_> = (0..1_200).map(|n| json!({"message": n.to_string(), "data": {"n": n}})).collect();
    let recorded = app.record(&json!(events)).await;
    let last = app.save(&event("order", "last")).await;
    assert!(last.position() > recorded.position());
    let list = app.seen("/event", &last).await;
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1_201);
    assert_eq!(list.last().unwrap()["message"], "last");
    assert!(list.is_sorted_by_key(|event| event["createdAt"].as_i64().unwrap()));
    let some = app.seen(&format!("/event?q={}", enc("data.n gte 1100")), &last).await;
    assert_eq!(some.as_array().unwrap().len(), 100);
    let page = app.seen("/api/read?page=13&page_size=100", &last).await;
    assert_eq!(page["logs"].as_array().unwrap().len(), 1);
    let metadata =
        json!({"current_page": 13, "page_size": 100, "first_page": 1, "last_page": 13, "total_records": 1_201});
    assert_eq!(page["metadata"], metadata);
    let mut ids = Vec::new();
    for number in 1..=13 {
        let page = app.seen(&format!("/api/read?page={number}&page_size=100&sort=event_name"), &last).await;
        ids.extend(page["logs"].as_array().unwrap().iter().map(|log| log["id"].as_u64().unwrap()));
    }
    // None has a name: all are ties.
    assert!(ids.len() == 1_201 && ids.is_sorted_by(|a, b| a < b));
}

async fn a_page_is_whole_however_large_its_logs(storage: Storage) {
    let app = TestApp::patient(storage).await;
    let mut last = None;
    for n in 0..30 {
        let log = json!({"event_name": n.to_string(), "description": "x".repeat(500_000)});
        last = Some(app.write(&log).await);
    }
    let page = app.seen("/api/read?page_size=29", &last.unwrap()).await;
    let names: Vec<_> =
        page["logs"].as_array().unwrap().iter().map(|log| log["event_name"].as_str().unwrap()).collect();
    assert_eq!(names, (0..29).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!((&page["metadata"]["last_page"], &page["metadata"]["total_records"]), (&json!(2), &json!(30)));
}

async fn a_name_that_is_missing_is_the_lowest(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let recorded =
        app.record(&json!([{"name": "b"}, {"message": "m"}, {"name": ""}, {"name": "B"}, {"name": "b"}])).await;
    let names = async |sort: &str| -> Value {
        let page = app.seen(&format!("/api/read?sort={sort}"), &recorded).await;
        page["logs"].as_array().unwrap().iter().map(|log| log["event_name"].clone()).collect()
    };
    assert_eq!(names("event_name").await, json!([null, "", "B", "b", "b"]));
    assert_eq!(names("-event_name").await, json!(["b", "b", "B", "", null]));
}

async fn limits_are_checked_at_the_door(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let about = |reply: &Reply| reply.json()["error"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let long = json!({"event_name": "n", "description": "x".repeat(512 * 1024)});
    let reply = app.call("POST", "/api/write").json(&long).send().await.status(413);
    assert_eq!(about(&reply), ["event"]);
    let body = " ".repeat((4 << 20) + 1);
    let reply = app.call("POST", "/api/write").body(body.clone()).send().await.status(413);
    assert_eq!(about(&reply), ["body"]);
    app.call("POST", "/event").body(body).send().await.fails(413);
    let mut large = event("c", "m");
    large["data"] = json!({"x": "x".repeat(512 * 1024)});
    app.call("POST", "/event").json(&large).send().await.fails(413);
    let deep = |levels| (1..levels).fold(json!({"a": 1}), |inner, _| json!({ "a": inner }));
    large["data"] = deep(33);
    let reply = app.call("POST", "/event").json(&large).send().await.fails(400);
    assert_eq!(reply.error(), "data: must not have more than 32 levels");
    large["data"] = deep(32);
    app.save(&large).await;
    let reply = app.call("POST", "/api/write").header("Idempotency-Key", "a b").json(&long).send().await.status(400);
    assert_eq!(about(&reply), ["Idempotency-Key"]);
    app.get("/event?q=%FF").await.fails(400);
    assert_eq!(about(&app.get("/api/read?event_name=%FF").await.status(400)), ["request"]);
}

async fn reads_wait_for_positions(storage: Storage) {
    let app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "100").spawn().await;
    for header in [true, false] {
        let get = |path: &str| {
            let call = app.call("GET", &if header { path.to_owned() } else { format!("{path}?await=999") });
            if header { call.header("Await-Position", "999") } else { call }
        };
        get("/event").send().await.busy();
        let reply = get("/api/read").send().await.status(503);
        assert!(reply.header("retry-after").is_some());
        assert_eq!(reply.json(), json!({"error": {"request": "the projection has not reached position 999 yet"}}));
        let problem = get("/api/read").header("Accept", "application/problem+json").send().await.status(503);
        assert_eq!(problem.media_type(), "application/problem+json");
    }
}

async fn paths_have_their_methods(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (path, methods) in
        [("/api/write", &["POST"][..]), ("/api/read", &["GET", "HEAD"]), ("/event", &["GET", "HEAD", "POST"])]
    {
        for path in [path.to_owned(), format!("{path}/")] {
            assert_eq!(app.call("OPTIONS", &path).send().await.status(204).allow(), methods, "{path}");
            assert_eq!(app.call("PATCH", &path).send().await.fails(405).allow(), methods, "{path}");
        }
        app.call("GET", &format!("{path}//")).send().await.fails(404);
    }
}
