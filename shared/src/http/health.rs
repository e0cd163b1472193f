//! Whether the process lives, whether it can work, and what it counts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::error::ApiError;
use super::lifecycle::Lifecycle;
use super::response::{self, Tell};
use super::routes::labelled;
use crate::metrics::{Metrics, Snapshot};

type Asked<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the operating routes ask of the process.
#[derive(Clone)]
pub struct Operations {
    pub lifecycle: Lifecycle,
    pub metrics: Arc<Metrics>,
    /// What is wrong, if anything is.
    pub ready: Arc<dyn Fn() -> Asked<Result<(), String>> + Send + Sync>,
    /// The state of log and views.
    pub snapshot: Arc<dyn Fn() -> Asked<Snapshot> + Send + Sync>,
}

const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// `/healthz`, `/readyz` and `/metrics`.
pub fn router(operations: Operations) -> Router {
    let ready = operations.clone();
    Router::new()
        .route("/healthz", labelled(get(async || ok("alive"))))
        .route("/readyz", labelled(get(async move || get_ready(&ready).await)))
        .route("/metrics", labelled(get(async move || get_metrics(&operations).await)))
}

/// `{"message":"pong"}`, to see that a way is open.
pub async fn get_ping() -> Response {
    response::json(StatusCode::OK, &json!({ "message": "pong" }), Tell::default())
}

fn ok(status: &str) -> Response {
    response::json(StatusCode::OK, &json!({ "status": status }), Tell::default())
}

async fn get_ready(operations: &Operations) -> Response {
    if operations.lifecycle.is_draining() {
        return ApiError::unavailable("the process is ending").into_response();
    }
    match (operations.ready)().await {
        Ok(()) => ok("ready"),
        Err(reason) => ApiError::unavailable(reason).into_response(),
    }
}

async fn get_metrics(operations: &Operations) -> Response {
    let now = (operations.snapshot)().await;
    match operations.metrics.render(&now) {
        Ok(text) => response::with(StatusCode::OK, Some(METRICS_TEXT), Body::from(text), Tell::default()),
        Err(error) => ApiError::bug(error.to_string()).into_response(),
    }
}
