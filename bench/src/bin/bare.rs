//! The yardstick: a bare axum server with the service's busiest routes, headers
//! and bodies, and nothing behind them. No storage, no locks, no middleware.
//!
//! It does what no implementation of the contract could leave out (read the
//! body, parse it, percent-decode the key, write the answer), so the service's
//! rate divided by this one's is what durability and bookkeeping leave over.

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As long as the values that the load scripts write.
const VALUE: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00a1b2c3d";

#[derive(Deserialize)]
struct AnswerBody {
    key: String,
    value: String,
}

/// What `events.lua` sends.
#[derive(Deserialize)]
#[expect(dead_code, reason = "that they are parsed is what counts")]
struct EventBody {
    timestamp: String,
    name: String,
    category: String,
    message: String,
    customer_id: i64,
    session_id: String,
    data: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct AnswerView<'a> {
    key: &'a str,
    value: &'a str,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--listen"), Some(address)) => address.parse()?,
        _ => return Err("usage: bare --listen 127.0.0.1:PORT".into()),
    };
    let router = Router::new()
        .route("/answers", post(create_answer))
        .route("/answers/{key}", get(get_answer))
        .route("/v1/events", post(create_event))
        .route("/readyz", get(|| async { "ok" }));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router).await?;
    Ok(())
}

async fn create_answer(body: Bytes) -> Response {
    match serde_json::from_slice::<AnswerBody>(&body) {
        Ok(answer) if !answer.key.is_empty() && !answer.value.is_empty() => {
            let body = r#"{"ok":"AnswerCreatedEvent"}"#;
            (StatusCode::CREATED, headers(), body).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn create_event(body: Bytes) -> Response {
    match serde_json::from_slice::<EventBody>(&body) {
        Ok(event) if !event.name.is_empty() && !event.data.is_empty() => {
            let body = r#"{"accepted":1,"ids":["6f9619ff-8b86-4d01-b42d-00cf4fc964ff"],"rejected":[]}"#;
            (StatusCode::ACCEPTED, headers(), body).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn get_answer(Path(key): Path<String>) -> Response {
    let view = AnswerView { key: &key, value: VALUE };
    match serde_json::to_vec(&view) {
        Ok(body) => (headers(), body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The names that the service sends, with values as long as its own.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ETAG, HeaderValue::from_static("\"0\""));
    headers.insert(HeaderName::from_static("event-position"), HeaderValue::from_static("1234567"));
    headers.insert(
        HeaderName::from_static("x-request-id"),
        HeaderValue::from_static("6f9619ff-8b86-4d01-b42d-00cf4fc964ff"),
    );
    headers
}
