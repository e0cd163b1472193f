//! The documentation: the document frozen, complete, and shown by a page that asks
//! nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::app::{SERVICES, Storage, TestApp};

on_each_storage!(
    the_document_names_what_each_process_serves,
    the_document_for_operators_is_as_kept;
    locally: the_document_is_as_kept,
    each_documented_path_has_the_documented_methods,
    every_reference_leads_somewhere,
    the_page_needs_no_other_host,
    a_public_url_is_where_calls_go,
);

/// A document, as it was agreed on.
fn kept(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs").join(name)
}

async fn document(app: &TestApp) -> Value {
    app.get("/openapi.json").await.status(200).json()
}

async fn the_document_is_as_kept(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    assert_kept("openapi.json", &document(&app).await);
}

/// That of the projector, and of what the monolith has instead.
async fn the_document_for_operators_is_as_kept(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let name = if storage == Storage::Services { "openapi-projector.json" } else { "openapi-admin.json" };
    assert_kept(name, &app.call_at(app.admin(), "GET", "/openapi.json").send().await.status(200).json());
}

fn assert_kept(name: &str, now: &Value) {
    if std::env::var_os("RENEW_OPENAPI").is_some() {
        std::fs::write(kept(name), serde_json::to_string_pretty(now).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(kept(name)).unwrap()).unwrap();
    let difference = difference("", now, &kept);
    assert!(
        difference.is_none(),
        "the document is not the one in docs/{name} any more, from {difference:?} on; if it shall change:\n\
         RENEW_OPENAPI=1 cargo test --workspace --all-features --test it -- docs::"
    );
}

/// Where the first difference is.
fn difference(place: &str, now: &Value, kept: &Value) -> Option<String> {
    let (Value::Object(members), Value::Object(others)) = (now, kept) else {
        return (now != kept).then(|| place.to_owned());
    };
    let names: BTreeSet<_> = members.keys().chain(others.keys()).collect();
    names.into_iter().find_map(|name| difference(&format!("{place}/{name}"), &now[name], &kept[name]))
}

/// The paths of a document with their methods.
fn methods(document: &Value) -> BTreeMap<&str, BTreeSet<String>> {
    let operations = |item: &Value| item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
    document["paths"].as_object().unwrap().iter().map(|(path, item)| (path.as_str(), operations(item))).collect()
}

async fn each_documented_path_has_the_documented_methods(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let document = document(&app).await;
    let documented = methods(&document);
    // A key like any other to all methods but POST.
    let of_a_key = documented["/answers/{key}"].clone();
    for (path, mut methods) in documented {
        if path == "/answers/batch" {
            methods.extend(of_a_key.clone());
        }
        if methods.contains("GET") {
            methods.insert("HEAD".into());
        }
        let id = "00000000-0000-4000-8000-000000000000";
        let some = path.replace("{key}", "k").replace("{id}", id).replace("{number}", "1");
        let allowed = app.call("OPTIONS", &some).send().await.status(204).allow();
        assert_eq!(allowed.into_iter().collect::<BTreeSet<_>>(), methods, "{path}");
    }
}

async fn every_reference_leads_somewhere(storage: Storage) {
    fn check(part: &Value, whole: &Value) {
        match part {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    assert!(whole.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                members.values().for_each(|member| check(member, whole));
            }
            Value::Array(elements) => elements.iter().for_each(|element| check(element, whole)),
            _ => {}
        }
    }
    let app = TestApp::spawn(storage).await;
    let document = document(&app).await;
    assert_eq!(document["openapi"].as_str().unwrap().split('.').take(2).collect::<Vec<_>>(), ["3", "1"]);
    check(&document, &document);
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let mut names = BTreeSet::new();
    for operation in operations {
        assert!(names.insert(operation["operationId"].as_str().unwrap()), "{operation}");
        assert!(operation["summary"].is_string(), "{operation}");
        for status in ["400", "403", "500"] {
            assert!(operation["responses"][status].is_object(), "{operation}");
        }
    }
}

async fn the_document_names_what_each_process_serves(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let everywhere = ["/docs/", "/healthz", "/metrics", "/openapi.json", "/readyz"];
    for (number, process) in app.processes.iter().enumerate() {
        let address = process.reached(0);
        let reply = app.client.get(format!("http://{address}/openapi.json")).send().await.unwrap();
        let document: Value = reply.json().await.unwrap();
        let documented = methods(&document);
        let name = if storage == Storage::Services { SERVICES[number] } else { "monolith" };
        assert_eq!(document["info"]["title"], format!("qaservice: {name}"));
        for path in everywhere {
            assert!(documented.contains_key(path), "{name}: {path}");
        }
        let has = |path, method: &str| documented.get(path).is_some_and(|methods| methods.contains(method));
        let (writes, reads) = match name {
            "monolith" => (true, true),
            name => (name == "eventstore-svc", name == "projection-svc"),
        };
        assert_eq!(has("/answers", "POST"), writes, "{name}");
        assert_eq!(has("/answers/{key}/history", "GET"), writes, "{name}");
        assert_eq!(has("/answers", "GET"), reads, "{name}");
        for path in ["/v1/events", "/event", "/events/", "/api/event/", "/sessions/"] {
            assert_eq!((has(path, "POST"), has(path, "GET")), (writes, reads), "{name}: {path}");
        }
        assert_eq!((has("/api/write", "POST"), has("/api/read", "GET")), (writes, reads), "{name}");
        for path in ["/docs/", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/start.js"] {
            let reply = app.client.get(format!("http://{address}{path}")).send().await.unwrap();
            assert_eq!(reply.status(), 200, "{name}: {path}");
        }
    }
}

async fn the_page_needs_no_other_host(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let redirect = app.get("/docs").await.status(308);
    assert_eq!(redirect.header("location"), Some("docs/"));
    let page = app.get("/docs/").await.status(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(!text.contains("//") && text.contains("swagger-ui-bundle.js"), "{text}");
    app.get("/docs/nothing.js").await.fails(404);
    app.get("/docs/..%2f..%2fCargo.toml").await.fails(404);
    app.plain("GET", "/docs/", &["Host: evil.example"]).await.fails(403);
    app.plain("GET", "/openapi.json", &["Host: evil.example"]).await.fails(403);
    // Whoever has it keeps it for a while, and the licence comes along.
    assert_eq!(page.header("cache-control"), Some("max-age=3600"));
    app.get("/docs/LICENSE").await.status(200);
}

async fn a_public_url_is_where_calls_go(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    assert_eq!(document(&app).await["servers"][0]["url"], "/");
    let app = TestApp::settings(storage).var("PUBLIC_URL", "https://qa.example/base").spawn().await;
    assert_eq!(document(&app).await["servers"][0]["url"], "https://qa.example/base");
    let page = app.get("/docs/").await.status(200);
    assert!(page.header("content-security-policy").unwrap().contains("connect-src 'self' https://qa.example;"));
}
