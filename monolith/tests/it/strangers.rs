//! Web pages of strangers: the rules on Host and Origin.

use serde_json::json;

use crate::{
    app::{Storage, TestApp},
    client::Raw,
};

on_each_storage!(
    locally: a_foreign_host_is_refused_on_loopback,
    allowed_hosts_are_served,
    a_listener_on_all_interfaces_takes_any_host,
    a_foreign_origin_may_only_read,
    the_origin_of_the_service_itself,
    listed_origins_are_served,
    the_origin_of_the_public_url,
);

async fn a_foreign_host_is_refused_on_loopback(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "1.2.3",
    ] {
        let host = format!("Host: {host}");
        for (method, target) in [
            ("GET", "/answers"),
            ("GET", "/healthz"),
            ("GET", "/metrics"),
            ("DELETE", "/answers/k"),
            ("OPTIONS", "/answers"),
            ("GET", "/nowhere"),
        ] {
            app.plain(method, target, &[&host]).await.fails(403);
        }
        app.plain("HEAD", "/answers", &[&host]).await.status(403);
    }
    for host in [
        "localhost",
        "localhost:1234",
        "LocalHost",
        "127.0.0.1",
        "127.0.0.1:9",
        "192.168.1.4:8080",
        "[::1]",
        "[::1]:8080",
        "[fe80::1]:80",
    ] {
        let host = format!("Host: {host}");
        app.plain("GET", "/answers", &[&host]).await.status(200);
        app.plain("DELETE", "/answers/k", &[&host]).await.fails(404);
    }
}

async fn allowed_hosts_are_served(storage: Storage) {
    let app = TestApp::settings(storage).var("ALLOWED_HOSTS", "qa.internal,other.example").spawn().await;
    for host in ["qa.internal", "QA.internal", "other.example", "localhost", "127.0.0.1"] {
        let host = format!("Host: {host}");
        app.plain("GET", "/answers", &[&host]).await.status(200);
    }
    for host in ["evil.example", "sub.qa.internal", "qa.internal.example"] {
        let host = format!("Host: {host}");
        app.plain("GET", "/answers", &[&host]).await.fails(403);
    }
}

async fn a_listener_on_all_interfaces_takes_any_host(storage: Storage) {
    let app = TestApp::settings(storage).var("IP_PORT", "0.0.0.0:0").spawn().await;
    for host in ["anything.example", "localhost", "10.0.0.1:80"] {
        let host = format!("Host: {host}");
        app.plain("GET", "/answers", &[&host]).await.status(200);
    }
}

async fn with_origin(app: &TestApp, method: &str, host: &str, origin: &str) -> Raw {
    let host = format!("Host: {host}");
    let origin = format!("Origin: {origin}");
    app.plain(method, "/answers/k", &[&host, &origin]).await
}

async fn a_foreign_origin_may_only_read(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let created = app.create("k", "v").await.created();
    let host = app.address().to_string();
    for origin in [
        "http://evil.example",
        "https://evil.example:8443",
        "http://127.0.0.1:1",
        "http://localhost.evil.example",
        "null",
        "nonsense",
        "file://",
    ] {
        with_origin(&app, "DELETE", &host, origin).await.fails(403);
        for (method, path) in [
            ("POST", "/answers"),
            ("PATCH", "/answers"),
            ("PUT", "/answers/k"),
            ("PATCH", "/answers/k"),
            ("POST", "/answers/batch"),
            ("POST", "/nowhere"),
        ] {
            app.call(method, path)
                .json(&json!({"key": "k", "value": "w"}))
                .header("Origin", origin)
                .send()
                .await
                .fails(403);
        }
        app.reading("/answers/k", &created)
            .header("Origin", origin)
            .send()
            .await
            .is(200, &json!({"key": "k", "value": "v"}));
        with_origin(&app, "HEAD", &host, origin).await.status(200);
    }
    assert_eq!(app.history("k").await.len(), 1);
}

async fn the_origin_of_the_service_itself(storage: Storage) {
    let app = TestApp::spawn(storage).await;
    let address = app.address().to_string();
    for (host, origin) in [
        (address.as_str(), format!("http://{address}")),
        (address.as_str(), format!("https://{address}")),
        ("localhost", "http://localhost".to_owned()),
        ("localhost", "https://localhost".to_owned()),
        ("localhost:80", "http://localhost".to_owned()),
        ("localhost", "http://localhost:80".to_owned()),
        ("localhost:443", "https://localhost".to_owned()),
        ("localhost:8080", "http://localhost:8080".to_owned()),
        ("[::1]:8080", "http://[::1]:8080".to_owned()),
    ] {
        // Served: the key is what is missing.
        with_origin(&app, "DELETE", host, &origin).await.fails(404);
    }
    for (host, origin) in [
        ("localhost:8080", "http://localhost:8081"),
        ("localhost:8080", "http://localhost"),
        ("localhost", "http://127.0.0.1"),
        ("127.0.0.1:8080", "http://127.0.0.2:8080"),
    ] {
        with_origin(&app, "DELETE", host, origin).await.fails(403);
    }
}

async fn listed_origins_are_served(storage: Storage) {
    let app =
        TestApp::settings(storage).var("CORS_ORIGINS", "https://app.example,http://other.example:3000").spawn().await;
    let host = app.address().to_string();
    for origin in ["https://app.example", "http://other.example:3000"] {
        with_origin(&app, "DELETE", &host, origin).await.fails(404);
    }
    for origin in [
        "http://other.example",
        "https://app.example:8443",
        "https://sub.app.example",
        "https://app.example.evil.example",
        "null",
    ] {
        with_origin(&app, "DELETE", &host, origin).await.fails(403);
    }
}

async fn the_origin_of_the_public_url(storage: Storage) {
    let app = TestApp::settings(storage).var("PUBLIC_URL", "https://qa.example").spawn().await;
    let host = app.address().to_string();
    with_origin(&app, "DELETE", &host, "https://qa.example").await.fails(404);
    for origin in ["https://qa.example:8443", "https://other.example"] {
        with_origin(&app, "DELETE", &host, origin).await.fails(403);
    }
    // Forwarded headers do not make an origin one's own.
    let refused = app
        .plain(
            "DELETE",
            "/answers/k",
            &["Origin: http://evil.example", "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example"],
        )
        .await;
    refused.fails(403);
}
