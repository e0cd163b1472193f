//! The event log's commands in their native shape: what is sent in, how it is changed,
//! its history, sessions.

use std::collections::HashSet;

use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    app::{Storage, TestApp},
    client::{Call, Reply, Sse},
};

on_each_storage!(
    an_event_is_recorded,
    an_array_is_recorded,
    lines_are_recorded,
    a_bad_element_of_many_is_refused_alone,
    cloud_events_are_recorded,
    an_event_is_amended,
    an_event_is_deleted,
    conditions_name_revisions,
    racing_amendments_lose_nothing,
    the_history_of_an_event,
    the_live_history_of_an_event,
    sessions_are_registered,
    the_largest_requests,
    a_repetition_records_nothing_twice,
    concurrent_repetitions_record_once,
    changes_are_repeated_safely,
    another_request_is_refused;
    locally: what_holds_no_event_is_refused,
    the_content_type_decides,
    limits_are_checked_at_the_door,
    what_is_malformed_is_refused,
    paths_have_their_methods,
);

const NDJSON: &str = "application/x-ndjson";
const FORM: &str = "application/x-www-form-urlencoded";

fn posting(app: &TestApp, content_type: &str, body: impl Into<reqwest::Body>) -> Call {
    app.call("POST", "/v1/events").header("content-type", content_type).body(body)
}

async fn post(app: &TestApp, body: &Value) -> Reply {
    posting(app, "application/json", body.to_string()).send().await
}

/// The ids in an answer, each of them a UUID of version 4.
#[track_caller]
fn ids(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 202, "{}", reply.text());
    let body = reply.json();
    let ids: Vec<String> = serde_json::from_value(body["ids"].clone()).unwrap();
    assert_eq!(body["accepted"], ids.len());
    for id in &ids {
        let uuid = Uuid::try_parse(id).unwrap();
        assert_eq!((uuid.get_version_num(), uuid.to_string()), (4, id.clone()));
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    ids
}

#[track_caller]
fn rejected(reply: &Reply) -> Vec<(u64, String)> {
    let body = reply.json();
    let rejected = body["rejected"].as_array().unwrap().iter();
    rejected.map(|one| (one["index"].as_u64().unwrap(), one["error"].as_str().unwrap().to_owned())).collect()
}

async fn record(app: &TestApp, event: &Value) -> String {
    ids(&post(app, event).await).remove(0)
}

fn path(id: &str) -> String {
    format!("/v1/events/{id}")
}

async fn history(app: &TestApp, id: &str) -> Vec<Value> {
    let reply = app.get(&format!("{}/history?detail=full", path(id))).await.status(200);
    reply.json().as_array().unwrap().clone()
}

/// The event as its newest history element has it.
async fn now(app: &TestApp, id: &str) -> Value {
    history(app, id).await.pop().unwrap()["data"].take()
}

fn patching(app: &TestApp, id: &str, patch: &Value) -> Call {
    app.call("PATCH", &path(id)).json(patch)
}

#[track_caller]
fn not_found(reply: Reply) -> Reply {
    reply.is(404, &json!({"error": "Event not found"}))
}

async fn an_event_is_recorded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let event = json!({
        "timestamp": "2026-01-31T12:00:00.000001+01:00", "name": "login", "category": "auth", "component": "web",
        "environment": "prod", "message": "m", "email": "a@b.c", "customer_id": i64::MAX,
        "session_id": "67E55044-10b1-426f-9247-bb680e5fe0c8", "source": "s",
        "data": {"host": "ü", "n": 0.1, "big": 1.7976931348623157e308, "deep": [{"a": null}]}, "ce": {"x": 1},
    });
    let reply = post(&app, &event).await;
    let id = ids(&reply).remove(0);
    reply.clone().is(202, &json!({"accepted": 1, "ids": [id], "rejected": []}));
    let stored = history(&app, &id).await;
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0]["type"].as_str(), stored[0]["event"].as_str()), (Some("LogEventRecorded"), Some("record")));
    assert_eq!(stored[0]["position"], reply.position());
    let mut shown = stored[0]["data"].clone();
    assert_eq!(shown["id"].take(), id);
    assert!(shown["created_at"].take().as_str().unwrap().ends_with('Z'));
    let mut expected = event;
    expected["timestamp"] = "2026-01-31T11:00:00.000001Z".into();
    expected["session_id"] = "67e55044-10b1-426f-9247-bb680e5fe0c8".into();
    expected["id"] = Value::Null;
    expected["created_at"] = Value::Null;
    assert_eq!(shown, expected);
    // What is missing is null, and it happened now.
    let bare = record(&app, &json!({})).await;
    let shown = now(&app, &bare).await;
    assert_eq!(shown["timestamp"], shown["created_at"]);
    assert_eq!(shown.as_object().unwrap().len(), 14);
    assert!(shown["name"].is_null() && shown["data"].is_null() && shown["ce"].is_null());
}

async fn an_array_is_recorded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let reply = post(&app, &json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])).await;
    let mut largest = 0;
    for (id, name) in ids(&reply).iter().zip(["a", "b", "c"]) {
        let stored = history(&app, id).await;
        assert_eq!(stored[0]["data"]["name"], name);
        largest = largest.max(stored[0]["position"].as_u64().unwrap());
    }
    assert_eq!(reply.position(), largest);
}

async fn lines_are_recorded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let reply = posting(&app, NDJSON, "{\"name\":\"a\"}\r\n\n  \n{\"name\":\"b\"}\n{\"nmae\":1}").send().await;
    assert_eq!(ids(&reply).len(), 2);
    assert_eq!(rejected(&reply), [(4, "nmae: is no member of an event".into())]);
}

async fn a_bad_element_of_many_is_refused_alone(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let long = "x".repeat(512 * 1024);
    let reply = post(
        &app,
        &json!([{"name": 1}, {"name": "good"}, 7, {"id": Uuid::nil()}, {"created_at": null}, {"data": {"a\0": 1}},
            {"customer_id": 9.5}, {"message": long}, {"timestamp": "never"}, {"message": "good, too"}]),
    )
    .await;
    assert_eq!(ids(&reply).len(), 2);
    let rejected = rejected(&reply);
    assert_eq!(rejected.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 2, 3, 4, 5, 6, 7, 8]);
    for ((_, error), begin) in rejected.iter().zip([
        "name: must be a string, not a number",
        "event: must be a JSON object, not a number",
        "id: ",
        "created_at: ",
        "data: must not have names with NUL",
        "customer_id: must be a whole number",
        "event: must not be longer than 524288 bytes as JSON",
        "timestamp: not a time",
    ]) {
        assert!(error.starts_with(begin), "{error}");
    }
}

async fn cloud_events_are_recorded(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let event = json!({
        "specversion": "1.0", "id": "a-1", "source": "/s", "type": "t.made", "time": "2018-04-05T17:31:00Z",
        "subject": "x", "rowid": 7, "data": [1],
    });
    let ce = json!({"specversion": "1.0", "id": "a-1", "subject": "x", "rowid": 7});
    let check = async |reply: Reply, data: Value, ce: Value| {
        let shown = now(&app, &ids(&reply)[0]).await;
        assert_eq!((shown["name"].as_str(), shown["source"].as_str()), (Some("t.made"), Some("/s")));
        assert_eq!((&shown["timestamp"], &shown["data"], &shown["ce"]), (&json!("2018-04-05T17:31:00Z"), &data, &ce));
    };
    let structured = "application/cloudevents+json; charset=UTF-8";
    check(posting(&app, structured, event.to_string()).send().await, json!({"value": [1]}), ce.clone()).await;
    let without_id = json!({"specversion": "1.0", "source": "/s", "type": "t"});
    let batch = json!([without_id, event]).to_string();
    let reply = posting(&app, "application/cloudevents-batch+json", batch).send().await;
    assert_eq!(rejected(&reply).len(), 1);
    assert!(rejected(&reply)[0].1.starts_with("id: is missing"));
    check(reply, json!({"value": [1]}), ce).await;
    let binary = |content_type: &str, body: &'static [u8]| {
        posting(&app, content_type, body)
            .header("ce-specversion", "1.0")
            .header("ce-id", "a-1")
            .header("ce-source", "/s")
            .header("ce-type", "t.made")
            .header("ce-time", "2018-04-05T17:31:00Z")
    };
    let of = |content_type: &str| json!({"specversion": "1.0", "id": "a-1", "datacontenttype": content_type});
    check(binary("application/json", b"{\"a\":1}").send().await, json!({"a": 1}), of("application/json")).await;
    let bytes = json!({"base64": "/wA="});
    check(binary("application/octet-stream", b"\xff\0").send().await, bytes, of("application/octet-stream")).await;
    let missing = posting(&app, "application/json", "{}").header("ce-id", "1").send().await.fails(400);
    assert!(missing.error().starts_with("source: is missing"), "{}", missing.error());
}

async fn an_event_is_amended(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({"name": "a", "data": {"a": 1, "b": {"c": 2, "d": 3}}})).await;
    let before = now(&app, &id).await;
    let patch = json!({"name": null, "message": "m", "data": {"b": {"c": null}, "e": [1]}});
    let reply = patching(&app, &id, &patch).send().await.status(200);
    assert_eq!(reply.revision(), 1);
    let mut expected = before.clone();
    expected["name"] = Value::Null;
    expected["message"] = "m".into();
    expected["data"] = json!({"a": 1, "b": {"d": 3}, "e": [1]});
    assert_eq!(reply.json(), expected);
    let stored = history(&app, &id).await;
    assert_eq!(stored.len(), 2);
    assert_eq!((stored[1]["type"].as_str(), stored[1]["event"].as_str()), (Some("LogEventAmended"), Some("amend")));
    assert_eq!((&stored[0]["data"], &stored[1]["data"]), (&before, &expected));
    assert_eq!(stored[1]["position"], reply.position());
    // An amendment that changes nothing is one, too.
    assert_eq!(patching(&app, &id, &json!({})).send().await.status(200).revision(), 2);
    for (patch, error) in [
        (json!({"id": id}), "id: "),
        (json!({"created_at": "2018-01-01"}), "created_at: "),
        (json!({"nmae": 1}), "nmae: is no member"),
        (json!({"data": 1}), "data: must be an object"),
        (json!({"timestamp": null}), "timestamp: cannot be taken away"),
        (json!([]), "body: must be a JSON object"),
    ] {
        let reply = patching(&app, &id, &patch).send().await.fails(400);
        assert!(reply.error().starts_with(error), "{}", reply.error());
    }
    let long = json!({"data": {"x": "x".repeat(512 * 1024)}});
    patching(&app, &id, &long).send().await.fails(413);
    let unknown = Uuid::new_v4().to_string();
    not_found(patching(&app, &unknown, &json!({})).send().await).has_no_position();
    assert_eq!(history(&app, &id).await.len(), 3);
}

async fn an_event_is_deleted(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({"name": "a"})).await;
    let reply = app.call("DELETE", &path(&id)).send().await.status(204);
    assert_eq!((reply.revision(), reply.body.len()), (1, 0));
    let stored = history(&app, &id).await;
    assert_eq!(stored[1]["data"], json!({"id": id}));
    assert_eq!((stored[1]["type"].as_str(), stored[1]["event"].as_str()), (Some("LogEventDeleted"), Some("delete")));
    for call in [app.call("DELETE", &path(&id)), patching(&app, &id, &json!({}))] {
        let gone = not_found(call.header("If-Match", "*").send().await);
        assert_eq!(gone.position(), reply.position());
    }
}

async fn conditions_name_revisions(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({})).await;
    let patch = || patching(&app, &id, &json!({"name": "b"}));
    patch().header("If-Match", "\"1\"").send().await.fails(412);
    patch().header("If-None-Match", "*").send().await.fails(412);
    patch().header("If-Match", "x").send().await.fails(400);
    assert_eq!(patch().header("If-Match", "\"0\"").send().await.status(200).revision(), 1);
    app.call("DELETE", &path(&id)).header("If-Match", "\"0\"").send().await.fails(412);
    app.call("DELETE", &path(&id)).header("If-Match", "\"0\", \"1\"").send().await.status(204);
}

async fn racing_amendments_lose_nothing(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({})).await;
    let patches: Vec<_> = (0..40).map(|n| json!({"data": {format!("m{n}"): n}})).collect();
    let replies = join_all(patches.iter().map(|patch| patching(&app, &id, patch).send())).await;
    let mut revisions: Vec<_> = replies.into_iter().map(|reply| reply.status(200).revision()).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=40).collect::<Vec<_>>());
    assert_eq!(now(&app, &id).await["data"].as_object().unwrap().len(), 40);
}

async fn the_history_of_an_event(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({"name": "0"})).await;
    for n in 1..5 {
        patching(&app, &id, &json!({"name": n.to_string()})).send().await.status(200);
    }
    let get = async |query: &str| app.get(&format!("{}/history{query}", path(&id))).await;
    let names = |reply: &Reply| {
        let all = reply.json();
        all.as_array().unwrap().iter().map(|one| one["data"]["name"].as_str().unwrap().to_owned()).collect::<String>()
    };
    let whole = get("").await.status(200);
    assert_eq!((names(&whole).as_str(), whole.revision()), ("01234", 4));
    let keys: Vec<_> = whole.json()[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["data", "type"]);
    assert_eq!(names(&get("?from=1&limit=2").await), "12");
    assert_eq!(names(&get("?direction=backwards&limit=2").await), "43");
    let stored = history(&app, &id).await;
    let times: Vec<_> = stored.iter().map(|one| one["recorded_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted() && times.iter().all(|time| time.len() == 27), "{times:?}");
    assert_eq!(get("?from=1&limit=1").await.position(), stored[1]["position"].as_u64().unwrap());
    for query in ["?limit=0", "?direction=up", "?detail=much", "?page=1", "?from=1&from=2", "?await=x"] {
        get(query).await.fails(400);
    }
    let headers = app.call("GET", &format!("{}/history", path(&id))).header("If-None-Match", "\"4\"");
    assert_eq!(headers.send().await.status(304).revision(), 4);
    not_found(app.get(&format!("{}/history", path(&Uuid::new_v4().to_string()))).await);
    app.get("/v1/events/x/history").await.fails(400);
}

async fn the_live_history_of_an_event(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({"name": "0"})).await;
    let mut stream = Sse::open_path(&app, &format!("{}/history", path(&id)), None).await;
    assert_eq!(stream.next().await.data["data"]["name"], "0");
    patching(&app, &id, &json!({"name": "1"})).send().await.status(200);
    let event = stream.next().await;
    assert_eq!((event.id, event.data["data"]["name"].as_str()), (1, Some("1")));
    app.call("DELETE", &path(&id)).send().await.status(204);
    assert_eq!(stream.next().await.data, json!({"type": "LogEventDeleted", "data": {"id": id}}));
}

async fn sessions_are_registered(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let post = || app.call("POST", "/v1/sessions");
    let reply = post().send().await.status(201);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    reply.clone().is(201, &json!({"id": id}));
    assert_eq!(Uuid::try_parse(&id).unwrap().get_version_num(), 4);
    assert!(reply.position() > 0);
    let other = post().json(&json!({})).send().await.status(201);
    assert_ne!(other.json()["id"], id.as_str());
    let keyed = || post().header("Idempotency-Key", "session").send();
    let first = keyed().await.status(201);
    let again = keyed().await.status(201);
    assert_eq!((first.json(), first.position()), (again.json(), again.position()));
    for bad in ["x", "[]", "{\"id\":\"67e55044-10b1-426f-9247-bb680e5fe0c8\"}"] {
        post().body(bad).send().await.fails(400);
    }
}

async fn the_largest_requests(storage: Storage) {
    let app = TestApp::patient(storage).await;
    let session = Uuid::new_v4();
    let lines: String = (0..10_000).map(|n| format!("{{\"name\":\"{n}\",\"session_id\":\"{session}\"}}\n")).collect();
    let reply = posting(&app, NDJSON, lines.clone()).send().await;
    let all = ids(&reply);
    assert_eq!(all.len(), 10_000);
    for n in [0, 511, 512, 9_999] {
        assert_eq!(now(&app, &all[n]).await["name"], n.to_string());
    }
    posting(&app, NDJSON, lines + "{}").send().await.fails(413);
    // As many of the largest events as a body holds.
    let large = format!("{{\"message\":\"{}\"}}", "x".repeat(512 * 1024 - 200));
    let body = format!("[{}]", vec![large; 31].join(","));
    assert_eq!(ids(&posting(&app, "application/json", body).send().await).len(), 31);
}

async fn what_holds_no_event_is_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for (content_type, body, error) in [
        ("application/json", "", "event: malformed JSON"),
        ("application/json", "[]", "body: holds no event"),
        ("application/json", "[{}", "body: malformed JSON"),
        ("application/json", "7", "event: must be a JSON object, not a number"),
        ("application/json", "{\"name\":1}", "name: must be a string, not a number"),
        ("application/json", "[{\"name\":1},2]", "none of the 2 events can be taken; the first, at index 0: name: "),
        (NDJSON, "\n\n", "body: holds no event"),
        (NDJSON, "\n{", "none of the 1 events can be taken; the first, at index 1: event: malformed JSON"),
        ("application/cloudevents+json", "{}", "id: is missing"),
        ("application/json", "{\"data\":{\"a\":1e999}}", "event: malformed JSON"),
    ] {
        let reply = posting(&app, content_type, body).send().await.fails(400);
        assert!(reply.error().starts_with(error), "{body}: {}", reply.error());
    }
    let deep = |levels: usize| format!("{{\"data\":{}{}}}", "{\"a\":".repeat(levels) + "1", "}".repeat(levels));
    assert_eq!(ids(&posting(&app, FORM, deep(32)).send().await).len(), 1);
    let reply = posting(&app, FORM, deep(33)).send().await.fails(400);
    assert_eq!(reply.error(), "data: must not have more than 32 levels");
    posting(&app, FORM, deep(300)).send().await.fails(400);
}

async fn the_content_type_decides(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for content_type in [FORM, "text/plain", "nonsense", "application/json; charset=utf-8"] {
        assert_eq!(ids(&posting(&app, content_type, "{\"name\":\"a\"}").send().await).len(), 1, "{content_type}");
        assert_eq!(ids(&posting(&app, content_type, "[{},{}]").send().await).len(), 2, "{content_type}");
    }
    assert_eq!(ids(&app.call("POST", "/v1/events").body("{}").send().await).len(), 1);
    posting(&app, "application/json", "{}\n{}").send().await.fails(400);
    assert_eq!(ids(&posting(&app, "Application/X-NDJSON; a=b", "{}\n{}").send().await).len(), 2);
}

async fn limits_are_checked_at_the_door(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    posting(&app, NDJSON, "\n".repeat(16 * 1024 * 1024) + "{").send().await.fails(413);
    let lines = "\n".repeat(16 * 1024 * 1024 - 2) + "{}";
    assert_eq!(ids(&posting(&app, NDJSON, lines).send().await).len(), 1);
    posting(&app, "application/json", format!("[{}]", vec!["{}"; 10_001].join(","))).send().await.fails(413);
}

async fn what_is_malformed_is_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({})).await;
    for (method, path) in [
        ("POST", "/v1/events?name=x".to_owned()),
        ("POST", "/v1/sessions?x".to_owned()),
        ("PATCH", format!("{}?await=1", path(&id))),
        ("DELETE", format!("{}?x=1", path(&id))),
        ("PATCH", path("x")),
        ("DELETE", path("67e5504410b1426f9247bb680e5fe0c8")),
    ] {
        app.call(method, &path).body("{}").send().await.fails(400);
    }
    for key in ["", "a b"] {
        posting(&app, FORM, "{}").header("Idempotency-Key", key).send().await.fails(400);
    }
    assert_eq!(history(&app, &id).await.len(), 1);
}

async fn paths_have_their_methods(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = Uuid::new_v4().to_string();
    for (method, path, allowed) in [
        ("PUT", "/v1/events".to_owned(), "POST"),
        ("PUT", path(&id), "PATCH"),
        ("POST", format!("{}/history", path(&id)), "GET"),
        ("DELETE", "/v1/sessions".to_owned(), "POST"),
    ] {
        let reply = app.call(method, &path).send().await.fails(405);
        assert!(reply.allow().iter().any(|name| name == allowed), "{method} {path}: {:?}", reply.allow());
    }
}

async fn a_repetition_records_nothing_twice(storage: Storage) {
    let mut app = TestApp::spawn(storage).await;
    let session = Uuid::new_v4();
    let body = format!("{{\"name\":\"a\",\"session_id\":\"{session}\"}}\n{{\"name\":7}}\n{{}}\n");
    async fn send(app: &TestApp, body: &str) -> Reply {
        posting(app, NDJSON, body.to_owned()).header("Idempotency-Key", "k").send().await
    }
    let first = send(&app, &body).await;
    let recorded = ids(&first);
    let id = &recorded[0];
    let before = history(&app, id).await;
    patching(&app, id, &json!({"name": "b"})).send().await.status(200);
    app.call("DELETE", &path(&recorded[1])).send().await.status(204);
    if storage.is_durable() {
        app.restart().await;
    }
    for _ in 0..2 {
        let again = send(&app, &body).await;
        assert_eq!((again.status, again.json(), again.position()), (202, first.json(), first.position()));
    }
    let after = history(&app, id).await;
    assert_eq!((after.len(), &after[0]), (2, &before[0]));
    assert_eq!(history(&app, &recorded[1]).await.len(), 2);
    // Without the key they are others.
    let other = posting(&app, NDJSON, body).send().await;
    assert!(ids(&other).iter().all(|id| !recorded.contains(id)));
    // What is malformed is not kept.
    let bad = || posting(&app, FORM, "{").header("Idempotency-Key", "bad").send();
    bad().await.fails(400);
    bad().await.fails(400);
    ids(&posting(&app, FORM, "{}").header("Idempotency-Key", "bad").send().await);
}

async fn concurrent_repetitions_record_once(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let body = "{}\n".repeat(20);
    let send = || posting(&app, NDJSON, body.clone()).header("Idempotency-Key", "k").send();
    let replies = join_all((0..8).map(|_| send())).await;
    let done: Vec<_> = replies.into_iter().filter(|reply| reply.status != 409).collect();
    assert!(!done.is_empty());
    for reply in &done {
        assert_eq!(ids(reply), ids(&done[0]));
        assert_eq!(reply.position(), done[0].position());
    }
    for id in ids(&done[0]) {
        assert_eq!(history(&app, &id).await.len(), 1);
    }
}

async fn changes_are_repeated_safely(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({"name": "a"})).await;
    let patch = || patching(&app, &id, &json!({"name": "b"})).header("Idempotency-Key", "patch").send();
    let delete = || app.call("DELETE", &path(&id)).header("Idempotency-Key", "delete").send();
    let unmatched =
        || patching(&app, &id, &json!({})).header("If-Match", "\"9\"").header("Idempotency-Key", "unmatched").send();
    let same = |first: &Reply, again: &Reply| {
        assert_eq!((first.status, &first.body), (again.status, &again.body));
        for header in ["etag", "event-position"] {
            assert_eq!(first.header(header), again.header(header), "{header}");
        }
    };
    let refused = unmatched().await.fails(412);
    let patched = patch().await.status(200);
    patching(&app, &id, &json!({"name": "c"})).send().await.status(200);
    same(&patched, &patch().await);
    let deleted = delete().await.status(204);
    same(&deleted, &delete().await);
    same(&patched, &patch().await);
    same(&refused, &unmatched().await);
    assert_eq!(history(&app, &id).await.len(), 4);
    let unknown = path(&Uuid::new_v4().to_string());
    let missing = || app.call("DELETE", &unknown).header("Idempotency-Key", "missing").send();
    same(&not_found(missing().await), &missing().await);
}

async fn another_request_is_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let id = record(&app, &json!({})).await;
    let keyed = |call: Call| call.header("Idempotency-Key", "k").send();
    ids(&keyed(posting(&app, "application/json", "{}")).await);
    for call in [
        posting(&app, "application/json", "{"),
        posting(&app, "application/json", "[{}]"),
        posting(&app, NDJSON, "{}"),
        posting(&app, "application/json", "{}").header("ce-id", "x"),
        app.call("POST", "/v1/sessions"),
        patching(&app, &id, &json!({})),
        app.call("PATCH", &path(&id)).body("{"),
        app.call("DELETE", &path(&id)),
        app.call("POST", "/answers").json(&json!({"key": "k", "value": "v"})),
    ] {
        keyed(call).await.fails(422);
    }
    let used =
        || app.call("POST", "/answers").json(&json!({"key": "k", "value": "v"})).header("Idempotency-Key", "answer");
    used().send().await.created();
    posting(&app, "application/json", "{}").header("Idempotency-Key", "answer").send().await.fails(422);
}
