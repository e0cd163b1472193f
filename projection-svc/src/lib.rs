//! The read side: latest values and the event log, from the views.

mod http;
pub mod log;
pub mod queries;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use shared::http::health::{self, PingBody};
use shared::http::lifecycle::Lifecycle;
use shared::http::routes::labelled;
use utoipa::openapi::OpenApi;

use log::LogQueries;
use queries::Queries;

/// What the routes of the read side work with.
#[derive(Clone)]
pub struct ReadSide {
    pub queries: Queries,
    pub log: LogQueries,
    pub lifecycle: Lifecycle,
    /// Where links in bodies lead; without it, where the request went.
    pub public_url: Option<String>,
}

/// Every route of the read side.
pub fn router(read_side: ReadSide) -> Router {
    use http::{answers, eye_collector, eye_rest};
    let state = Arc::new(read_side);
    let key = || get(answers::get_answer).with_state(state.clone());
    Router::new()
        .route("/projection/ping", labelled(get(get_ping)))
        .route("/answers", labelled(get(answers::get_answers).with_state(state.clone())))
        .route("/answers/batch", labelled(key()))
        .route("/answers/{key}", labelled(key()))
        .merge(eye_rest::routes(&state))
        .merge(eye_collector::routes(&state))
}

/// What the routes of the read side say of themselves.
pub fn documented() -> OpenApi {
    <Documented as utoipa::OpenApi>::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(paths(http::answers::get_answers, http::answers::get_answer, get_ping))]
struct Documented;

/// That the read side is reached.
#[utoipa::path(
    get,
    path = "/projection/ping",
    tag = "operations",
    operation_id = "ping_projection",
    responses((status = 200, description = "It is", body = PingBody)),
)]
async fn get_ping() -> Response {
    health::get_ping().await
}
