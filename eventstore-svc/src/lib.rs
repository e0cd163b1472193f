//! The write side: decides commands and appends events, serves history.

pub mod commands;
mod detach;
pub mod history;
mod http;
pub mod live;
pub mod log;
mod places;
mod turns;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::{get, patch, post};
use shared::domain::outcome::Fingerprint;
use shared::http::health::{self, PingBody};
use shared::http::lifecycle::Lifecycle;
use shared::http::routes::labelled;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use commands::Commands;
use history::History;
use live::Live;
use log::LogCommands;

/// What the routes of the write side work with.
#[derive(Clone)]
pub struct WriteSide {
    pub commands: Commands,
    pub log: LogCommands,
    pub history: History,
    pub live: Live,
    pub lifecycle: Lifecycle,
}

/// Every route of the write side.
pub fn router(write_side: WriteSide) -> Router {
    use http::{answers, audit_log, batch, event_logger, events, eye_collector, eye_rest, history};
    let state = Arc::new(write_side);
    let key = || patch(answers::patch_answer).put(answers::put_answer).delete(answers::delete_answer);
    Router::new()
        .route("/eventstore/ping", labelled(get(get_ping)))
        .route("/answers", labelled(post(answers::post_answer).patch(answers::patch_answers).with_state(state.clone())))
        .route("/answers/batch", labelled(key().post(batch::post_batch).with_state(state.clone())))
        .route("/answers/{key}", labelled(key().with_state(state.clone())))
        .route("/answers/{key}/history", labelled(get(history::get_history).with_state(state.clone())))
        .route("/answers/{key}/as-of", labelled(get(history::get_as_of).with_state(state.clone())))
        .route("/v1/events/{id}/history", labelled(get(history::get_event_history).with_state(state.clone())))
        .merge(events::routes(&state))
        .merge(eye_rest::routes(&state))
        .merge(eye_collector::routes(&state))
        .merge(audit_log::routes(&state))
        .merge(event_logger::routes(&state))
}

/// What the routes of the write side say of themselves.
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
#[openapi(paths(
    http::answers::post_answer,
    http::answers::patch_answers,
    http::batch::post_batch,
    http::answers::patch_answer,
    http::answers::put_answer,
    http::answers::delete_answer,
    http::history::get_history,
    http::history::get_as_of,
    http::history::get_event_history,
    get_ping,
))]
struct Documented;

/// That the write side is reached.
#[utoipa::path(
    get,
    path = "/eventstore/ping",
    tag = "operations",
    operation_id = "ping_eventstore",
    responses((status = 200, description = "It is", body = PingBody)),
)]
async fn get_ping() -> Response {
    health::get_ping().await
}

/// The fingerprint of a request: all that makes a repetition the same request.
fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Fingerprint(hash.finalize().into())
}
