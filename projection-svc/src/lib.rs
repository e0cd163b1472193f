//! The read side: latest values, from the views.

mod http;
pub mod queries;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use shared::http::health::get_ping;
use shared::http::routes::labelled;

use queries::Queries;

/// Every route of the read side.
pub fn router(queries: Queries) -> Router {
    use http::answers;
    let state = Arc::new(queries);
    let key = || get(answers::get_answer).with_state(state.clone());
    Router::new()
        .route("/projection/ping", labelled(get(get_ping)))
        .route("/answers", labelled(get(answers::get_answers).with_state(state.clone())))
        .route("/answers/batch", labelled(key()))
        .route("/answers/{key}", labelled(key()))
}
