//! The past: an answer as it was at a revision or a time.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339, macros::format_description};

use crate::{
    app::{Storage, TestApp},
    client::enc,
};

on_each_storage!(
    as_of_a_revision,
    as_of_a_time,
    as_of_a_time_in_any_form,
    exactly_one_of_revision_and_time,
    malformed_moments_are_refused,
);

/// An answer with a past: 0 created, 1 updated, 2 deleted, 3 created, 4 updated.
async fn with_a_past(app: &TestApp) -> Vec<Value> {
    app.create("k", "0").await.created();
    app.update("k", "1").await.updated();
    app.delete("k").await.deleted();
    app.create("k", "3").await.created();
    app.update("k", "4").await.updated();
    app.history("k").await
}

/// Asserts that a query shows the state that an event left.
async fn shows(app: &TestApp, query: &str, event: &Value) {
    let reply = app.get(&format!("/answers/k/as-of?{query}")).await;
    if event["event"] == "delete" {
        reply.not_found();
        return;
    }
    let reply = reply.is(200, &json!({"key": "k", "value": event["data"]["value"]}));
    assert_eq!(reply.revision(), event["revision"].as_u64().unwrap(), "{query}");
    assert_eq!(reply.position(), event["position"].as_u64().unwrap(), "{query}");
}

async fn as_of_a_revision(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let history = with_a_past(&app).await;
    for (revision, event) in history.iter().enumerate() {
        shows(&app, &format!("revision={revision}"), event).await;
    }
    for revision in ["5", "1000000"] {
        app.get(&format!("/answers/k/as-of?revision={revision}")).await.not_found();
    }
    app.get("/answers/never/as-of?revision=0").await.not_found();
}

fn at(event: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(event["recorded_at"].as_str().unwrap(), &Rfc3339).unwrap()
}

fn micros(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");
    let offset = time.offset();
    format!(
        "{}{}{:02}:{:02}",
        time.format(form).unwrap(),
        if offset.is_negative() { '-' } else { '+' },
        offset.whole_hours().abs(),
        offset.minutes_past_hour().abs(),
    )
}

/// What the contract says: the last event recorded at the time or before.
fn last_at(history: &[Value], time: OffsetDateTime) -> Option<&Value> {
    history.iter().rev().find(|event| at(event) <= time)
}

async fn as_of_a_time(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let history = with_a_past(&app).await;
    for event in &history {
        for shift in [-1, 0, 1] {
            let time = at(event) + Duration::microseconds(shift);
            let query = format!("time={}", enc(&micros(time)));
            match last_at(&history, time) {
                Some(event) => shows(&app, &query, event).await,
                None => {
                    let path = format!("/answers/k/as-of?{query}");
                    app.get(&path).await.not_found();
                }
            }
        }
    }
    app.get("/answers/k/as-of?time=1970-01-01T00:00:00Z").await.not_found();
    shows(&app, "time=9999-12-31T23:59:59Z", &history[4]).await;
    app.get("/answers/never/as-of?time=9999-12-31T23:59:59Z").await.not_found();
}

async fn as_of_a_time_in_any_form(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let history = with_a_past(&app).await;
    for event in &history {
        let expected = last_at(&history, at(event)).unwrap();
        let recorded = event["recorded_at"].as_str().unwrap();
        shows(&app, &format!("time={}", enc(recorded)), expected).await;
        for (hours, minutes) in [(2, 0), (-5, -30), (5, 45), (14, 0), (-12, 0)] {
            let offset = UtcOffset::from_hms(hours, minutes, 0).unwrap();
            let elsewhere = micros(at(event).to_offset(offset));
            shows(&app, &format!("time={}", enc(&elsewhere)), expected).await;
        }
        // Digits after the sixth are less than a microsecond.
        let finer = micros(at(event)).replace('+', "999+");
        shows(&app, &format!("time={}", enc(&finer)), expected).await;
    }
    // Whole seconds and few digits.
    let next = at(&history[4]).replace_nanosecond(0).unwrap() + Duration::SECOND;
    let text = next.format(&Rfc3339).unwrap();
    shows(&app, &format!("time={}", enc(&text)), &history[4]).await;
    let text = text.replace('Z', ".5Z");
    shows(&app, &format!("time={}", enc(&text)), &history[4]).await;
}

async fn exactly_one_of_revision_and_time(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    with_a_past(&app).await;
    for path in ["/answers/k/as-of", "/answers/k/as-of?", "/answers/k/as-of?revision=0&time=9999-12-31T23:59:59Z"] {
        app.get(path).await.fails(400);
    }
}

async fn malformed_moments_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    with_a_past(&app).await;
    for query in [
        "revision=",
        "revision=x",
        "revision=-1",
        "revision=1.5",
        "time=",
        "time=now",
        "time=1700000000",
        "time=2026-13-01T00:00:00Z",
        "time=2026-02-30T00:00:00Z",
        "time=2026-01-01T25:00:00Z",
        "time=2026-01-01T00:00:00",
        "time=2026-01-01",
    ] {
        app.get(&format!("/answers/k/as-of?{query}")).await.fails(400);
    }
}
