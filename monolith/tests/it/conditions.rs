//! ETag, If-Match and If-None-Match.

use serde_json::json;

use crate::{
    app::{Storage, TestApp},
    client::{Call, Reply},
};

on_each_storage!(
    successes_about_one_key_carry_the_revision,
    if_match_makes_commands_conditional,
    if_match_takes_lists_and_any,
    weak_tags_do_not_match_for_commands,
    malformed_conditions_are_refused,
    without_a_live_answer,
    put_if_none_match_means_create_only,
    a_known_answer_is_not_sent_again,
    a_refused_condition_rests_on_the_last_event,
);

async fn successes_about_one_key_carry_the_revision(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    assert_eq!(app.create("k", "1").await.created().header("etag"), Some("\"0\""));
    assert_eq!(app.update("k", "2").await.updated().header("etag"), Some("\"1\""));
    assert_eq!(app.put("k", "3").await.updated().header("etag"), Some("\"2\""));
    assert_eq!(app.delete("k").await.deleted().header("etag"), Some("\"3\""));
    let last = app.put("k", "4").await.created();
    assert_eq!(last.header("etag"), Some("\"4\""));

    assert_eq!(app.read("k", &last).await.status(200).header("etag"), Some("\"4\""));
    for path in ["/answers/k/history", "/answers/k/history?detail=full"] {
        assert_eq!(app.get(path).await.status(200).header("etag"), Some("\"4\""));
    }
    for (revision, tag) in [(0, "\"0\""), (1, "\"1\""), (2, "\"2\""), (4, "\"4\"")] {
        let past = app.get(&format!("/answers/k/as-of?revision={revision}")).await;
        assert_eq!(past.status(200).header("etag"), Some(tag));
    }
}

async fn if_match_makes_commands_conditional(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let by_body = || app.call("PATCH", "/answers").json(&json!({"key": "k", "value": "v"}));
    let matching = |call: Call, tag: &str| call.header("If-Match", tag).send();

    matching(app.patch("k", "1"), "\"0\"").await.updated();
    matching(app.patch("k", "x"), "\"0\"").await.fails(412);
    matching(app.patch("k", "x"), "\"2\"").await.fails(412);
    matching(by_body(), "\"1\"").await.updated();
    matching(by_body(), "\"1\"").await.fails(412);
    matching(app.putting("k", "3"), "\"2\"").await.updated();
    matching(app.putting("k", "x"), "\"2\"").await.fails(412);
    matching(app.deleting("k"), "\"2\"").await.fails(412);
    let deleted = matching(app.deleting("k"), "\"3\"").await.deleted();
    assert_eq!(deleted.revision(), 4);
    // The new answer is not the old one.
    app.create("k", "5").await.created();
    matching(app.patch("k", "x"), "\"3\"").await.fails(412);
    matching(app.patch("k", "x"), "\"4\"").await.fails(412);
    matching(app.patch("k", "6"), "\"5\"").await.updated();
    assert_eq!(app.history("k").await.len(), 7);
}

async fn if_match_takes_lists_and_any(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    for (revision, tag) in [
        (1, "*"),
        (2, "\"1\", \"7\""),
        (3, "\"7\",\"2\""),
        (4, "\"9\" , \"3\" , \"8\""),
        (5, " \"4\" "),
        (6, "W/\"5\", \"5\""),
    ] {
        let reply = app.patch("k", "v").header("If-Match", tag).send().await;
        assert_eq!(reply.updated().revision(), revision, "{tag}");
    }
    for tag in ["\"0\", \"5\"", "\"7\",\"8\""] {
        for call in [app.patch("k", "v"), app.putting("k", "v"), app.deleting("k")] {
            call.header("If-Match", tag).send().await.fails(412);
        }
    }
    app.deleting("k").header("If-Match", "*").send().await.deleted();
}

async fn weak_tags_do_not_match_for_commands(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    for call in [app.patch("k", "v"), app.putting("k", "v"), app.deleting("k")] {
        call.header("If-Match", "W/\"0\"").send().await.fails(412);
    }
    assert_eq!(app.history("k").await.len(), 1);
}

async fn malformed_conditions_are_refused(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("k", "0").await.created();
    for tag in ["0", "abc", "\"0", "0\"", "\"0\" \"1\"", "w/\"0\"", "'0'", "\"0\", 1", "\"0\"x"] {
        for call in [
            app.patch("k", "v"),
            app.call("PATCH", "/answers").json(&json!({"key": "k", "value": "v"})),
            app.putting("k", "v"),
            app.deleting("k"),
        ] {
            call.header("If-Match", tag).send().await.fails(400);
        }
        for path in ["/answers/k", "/answers/k/history", "/answers/k/as-of?revision=0"] {
            app.reading(path, &created).header("If-None-Match", tag).send().await.fails(400);
        }
        app.putting("k", "v").header("If-None-Match", tag).send().await.fails(400);
    }
    assert_eq!(app.history("k").await.len(), 1);
}

async fn without_a_live_answer(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("deleted", "0").await.created();
    app.delete("deleted").await.deleted();
    for key in ["never", "deleted"] {
        for tag in ["*", "\"0\"", "\"1\"", "\"0\", \"1\"", "W/\"1\""] {
            app.patch(key, "v").header("If-Match", tag).send().await.not_found();
            app.call("PATCH", "/answers")
                .json(&json!({"key": key, "value": "v"}))
                .header("If-Match", tag)
                .send()
                .await
                .not_found();
            app.deleting(key).header("If-Match", tag).send().await.not_found();
            app.putting(key, "v").header("If-Match", tag).send().await.fails(412);
        }
    }
    app.get("/answers/never/history").await.not_found();
    assert_eq!(app.history("deleted").await.len(), 2);
}

async fn put_if_none_match_means_create_only(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let only = |value: &str| app.putting("k", value).header("If-None-Match", "*").send();
    assert_eq!(only("0").await.created().revision(), 0);
    only("x").await.fails(412);
    app.delete("k").await.deleted();
    let created = only("2").await.created();
    assert_eq!(created.revision(), 2);
    only("x").await.fails(412);
    app.read("k", &created).await.is(200, &json!({"key": "k", "value": "2"}));
}

async fn a_known_answer_is_not_sent_again(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    app.create("k", "0").await.created();
    let last = app.update("k", "1").await.updated();
    for (path, revision) in [
        ("/answers/k", 1),
        ("/answers/k/history", 1),
        ("/answers/k/history?detail=full", 1),
        ("/answers/k/as-of?revision=0", 0),
        ("/answers/k/as-of?revision=1", 1),
    ] {
        let ask = |method: &str, tag: &str| {
            app.call(method, path)
                .header("Await-Position", last.position().to_string())
                .header("If-None-Match", tag)
                .send()
        };
        for tag in [
            format!("\"{revision}\""),
            format!("W/\"{revision}\""),
            format!("\"7\", \"{revision}\""),
            format!("W/\"{revision}\",\"8\""),
            "*".to_owned(),
        ] {
            for method in ["GET", "HEAD"] {
                let known = ask(method, &tag).await.status(304);
                assert_eq!(known.revision(), revision, "{method} {path} {tag}");
                assert_eq!(known.body.len(), 0);
                assert!(known.position() >= 1);
            }
        }
        for tag in [format!("\"{}\"", 1 - revision), "\"7\"".to_owned()] {
            let other = ask("GET", &tag).await.status(200);
            assert_eq!(other.revision(), revision);
            assert!(!other.body.is_empty());
        }
    }
    // What is not there cannot be known.
    app.call("GET", "/answers/never").header("If-None-Match", "*").send().await.not_found();
    let deleted = app.delete("k").await.deleted();
    app.reading("/answers/k", &deleted).header("If-None-Match", "\"1\"").send().await.not_found();
}

async fn a_refused_condition_rests_on_the_last_event(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let refuse = |call: Call, header: &'static str, tag: &'static str| async move {
        call.header(header, tag).send().await.fails(412)
    };
    refuse(app.putting("k", "v"), "If-Match", "*").await.has_no_position();
    let created = app.create("k", "0").await.created();
    let refused: [Reply; 4] = [
        refuse(app.patch("k", "v"), "If-Match", "\"7\"").await,
        refuse(app.putting("k", "v"), "If-Match", "\"7\"").await,
        refuse(app.deleting("k"), "If-Match", "\"7\"").await,
        refuse(app.putting("k", "v"), "If-None-Match", "*").await,
    ];
    for reply in refused {
        assert_eq!(reply.position(), created.position());
    }
    let deleted = app.delete("k").await.deleted();
    let refused = refuse(app.putting("k", "v"), "If-Match", "\"1\"").await;
    assert_eq!(refused.position(), deleted.position());
}
