//! The read side: latest values and the event log, from the views.

mod http;
pub mod log;
pub mod queries;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use shared::http::health::get_ping;
use shared::http::lifecycle::Lifecycle;
use shared::http::routes::labelled;

use log::LogQueries;
use queries::Queries;

/// What the routes of the read side work with.
#[derive(Clone)]
pub struct ReadSide {
    pub queries: Queries,
    pub log: LogQueries,
    pub lifecycle: Lifecycle,
}

/// Every route of the read side.
pub fn router(read_side: ReadSide) -> Router {
    use http::answers;
    let state = Arc::new(read_side);
    let key = || get(answers::get_answer).with_state(state.clone());
    Router::new()
        .route("/projection/ping", labelled(get(get_ping)))
        .route("/answers", labelled(get(answers::get_answers).with_state(state.clone())))
        .route("/answers/batch", labelled(key()))
        .route("/answers/{key}", labelled(key()))
}
