//! The Eye's collector: events in.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::error::ApiError;
use shared::http::response::{Tell, json};
use shared::http::routes::labelled;
use shared::wire::eye_collector::{SuccessBody, read_event};
use shared::wire::sent::sent;

use super::keyed;
use crate::WriteSide;
use crate::log::{Entry, Refuse, Stored};

/// Its routes.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let event = || labelled(post(post_event).with_state(side.clone()));
    Router::new().route("/api/event", event()).route("/api/event/", event())
}

/// `POST /api/event/`. Whatever is no event becomes an error record, malformed JSON too:
/// the answer is one of two, and nothing that was sent is lost.
async fn post_event(State(side): State<Arc<WriteSide>>, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let keyed = keyed(&parts, "/api/event/", &bytes)?;
    let entries = |_| {
        let entry = match read_event(&bytes) {
            Ok(members) => Entry::Record(members),
            Err(message) => Entry::Reject(Refuse { message, data: sent(&bytes) }),
        };
        Ok::<_, ApiError>(vec![entry])
    };
    let stored = side.log.record(keyed, entries).await?.pop();
    let stored = stored.ok_or_else(|| ApiError::bug("an event came to nothing".into()))??;
    let body = SuccessBody { success: matches!(stored, Stored::Event(_)) };
    Ok(json(StatusCode::CREATED, &body, Tell { revision: None, position: Some(stored.position()) }))
}
