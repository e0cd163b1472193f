//! The read side: latest values and the event log, from the views.

mod http;
pub mod live;
pub mod log;
pub mod queries;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use shared::http::health::{self, PingBody};
use shared::http::lifecycle::Lifecycle;
use shared::http::routes::labelled;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use live::Live;
use log::LogQueries;
use queries::Queries;

/// What the routes of the read side work with.
#[derive(Clone)]
pub struct ReadSide {
    pub queries: Queries,
    pub log: LogQueries,
    pub live: Live,
    pub lifecycle: Lifecycle,
    /// Where links in bodies lead; without it, where the request went.
    pub public_url: Option<String>,
}

/// Every route of the read side.
pub fn router(read_side: ReadSide) -> Router {
    use http::{answers, audit_log, event_logger, events, eye_collector, eye_rest};
    let state = Arc::new(read_side);
    let key = || get(answers::get_answer).with_state(state.clone());
    Router::new()
        .route("/projection/ping", labelled(get(get_ping)))
        .route("/answers", labelled(get(answers::get_answers).with_state(state.clone())))
        .route("/answers/batch", labelled(key()))
        .route("/answers/{key}", labelled(key()))
        .route("/v1/events", labelled(get(events::get_events).with_state(state.clone())))
        .route("/v1/events/stats", labelled(get(events::get_stats).with_state(state.clone())))
        .route("/v1/events/stream", labelled(get(events::get_stream).with_state(state.clone())))
        .route("/v1/events/{id}", labelled(get(events::get_event).with_state(state.clone())))
        .route("/v1/sessions", labelled(get(events::get_sessions).with_state(state.clone())))
        .route("/v1/rejections", labelled(get(events::get_rejections).with_state(state.clone())))
        .merge(eye_rest::routes(&state))
        .merge(eye_collector::routes(&state))
        .merge(audit_log::routes(&state))
        .merge(event_logger::routes(&state))
}

/// What the routes of the read side say of themselves.
pub fn documented() -> OpenApi {
    use http::{audit_log, event_logger, events, eye_collector, eye_rest};
    let log = [
        events::Documented::openapi(),
        audit_log::Documented::openapi(),
        event_logger::Documented::openapi(),
        eye_rest::Documented::openapi(),
        eye_collector::Documented::openapi(),
    ];
    log.into_iter().fold(Documented::openapi(), OpenApi::merge_from)
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
