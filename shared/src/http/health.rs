//! Whether the process lives, whether it can work, and what it counts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;

use super::docs::failures::Unavailable;
use super::error::ApiError;
use super::lifecycle::Lifecycle;
use super::response::{self, Tell};
use super::routes::labelled;
use crate::metrics::Metrics;
use crate::ports::Health;

/// How long a store that is well is believed to be, and one that is not.
const WELL: Duration = Duration::from_secs(1);
const UNWELL: Duration = Duration::from_millis(200);
/// How long a store may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Brings gauges up to date.
pub type Refresh = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// For a process whose gauges are always up to date.
pub fn nothing_to_refresh() -> Refresh {
    Arc::new(|| Box::pin(async {}))
}

/// What the operating routes ask of the process.
#[derive(Clone)]
pub struct Operations {
    pub lifecycle: Lifecycle,
    pub metrics: Arc<Metrics>,
    /// What must be well for the process to be ready.
    pub checks: Vec<Arc<dyn Health>>,
    /// Called before the metrics are read.
    pub refresh: Refresh,
}

/// The health of a store elsewhere: asked for at most once a second, whoever wants
/// to know, and never waited for long.
pub struct Remote {
    store: Arc<dyn Health>,
    what: &'static str,
    patience: Duration,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Remote {
    /// The health of this store, by the name that operators know.
    pub fn new(what: &'static str, store: Arc<dyn Health>) -> Arc<Self> {
        Arc::new(Self { store, what, patience: PATIENCE, last: Mutex::default() })
    }
}

#[async_trait]
impl Health for Remote {
    async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < if found.is_ok() { WELL } else { UNWELL }
        {
            return found.clone();
        }
        let found = tokio::time::timeout(self.patience, self.store.check()).await;
        let found = found.unwrap_or_else(|_| Err(format!("{} does not answer", self.what)));
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What the operating routes say of themselves.
pub fn documented() -> OpenApi {
    <Documented as utoipa::OpenApi>::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_alive, get_ready, get_metrics), components(schemas(StatusBody)))]
struct Documented;

/// `/healthz`, `/readyz` and `/metrics`.
pub fn router(operations: Operations) -> Router {
    let ready = operations.clone();
    Router::new()
        .route("/healthz", labelled(get(get_alive)))
        .route("/readyz", labelled(get(async move || get_ready(&ready).await)))
        .route("/metrics", labelled(get(async move || get_metrics(&operations).await)))
}

/// What a ping is answered with.
#[derive(Serialize, ToSchema)]
pub struct PingBody {
    #[schema(example = "pong")]
    message: &'static str,
}

/// `{"message":"pong"}`, to see that a way is open.
pub async fn get_ping() -> Response {
    response::json(StatusCode::OK, &PingBody { message: "pong" }, Tell::default())
}

/// How the process is.
#[derive(Serialize, ToSchema)]
struct StatusBody {
    #[schema(example = "ready")]
    status: &'static str,
}

fn ok(status: &'static str) -> Response {
    response::json(StatusCode::OK, &StatusBody { status }, Tell::default())
}

/// Whether the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operations",
    responses((status = 200, description = "It does", body = StatusBody, example = json!({"status": "alive"}))),
)]
async fn get_alive() -> Response {
    ok("alive")
}

/// Whether the process can work: its backends answer, no event has waited for long,
/// and it is not ending.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "It can", body = StatusBody, example = json!({"status": "ready"})),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_ready(operations: &Operations) -> Response {
    if operations.lifecycle.is_draining() {
        return ApiError::unavailable("the process is ending").into_response();
    }
    for check in &operations.checks {
        if let Err(reason) = check.check().await {
            return ApiError::unavailable(reason).into_response();
        }
    }
    ok("ready")
}

/// What the process counts, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses((status = 200, description = "Counters and gauges", content_type = "text/plain", body = String)),
)]
async fn get_metrics(operations: &Operations) -> Response {
    (operations.refresh)().await;
    match operations.metrics.render() {
        Ok(text) => response::with(StatusCode::OK, Some(METRICS_TEXT), Body::from(text), Tell::default()),
        Err(error) => ApiError::bug(error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Well the first time, then silent.
    struct Falls(AtomicUsize);

    #[async_trait]
    impl Health for Falls {
        async fn check(&self) -> Result<(), String> {
            if self.0.fetch_add(1, Ordering::Relaxed) > 0 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_silent_store_is_asked_seldom_and_not_waited_for() {
        let store = Arc::new(Falls(AtomicUsize::new(0)));
        let patience = Duration::from_millis(20);
        let remote = Remote { store: store.clone(), what: "the store", patience, last: Mutex::default() };
        for _ in 0..3 {
            assert_eq!(remote.check().await, Ok(()));
        }
        assert_eq!(store.0.load(Ordering::Relaxed), 1);
        tokio::time::sleep(WELL).await;
        assert_eq!(remote.check().await, Err("the store does not answer".into()));
    }
}
