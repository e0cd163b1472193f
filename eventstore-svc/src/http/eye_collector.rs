//! The Eye's collector: events in.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::docs::failures::{InProgress, KeyReused, TooLarge, TooSlow, Unavailable};
use shared::http::docs::parameters::KeyedHeaders;
use shared::http::error::ApiError;
use shared::http::response::{Tell, json};
use shared::http::routes::labelled;
use shared::wire::eye_collector::shapes::CollectedEvent;
use shared::wire::eye_collector::{SuccessBody, read_event};
use shared::wire::sent::sent;

use super::keyed;
use crate::WriteSide;
use crate::log::{Entry, Refuse, Stored};

#[derive(utoipa::OpenApi)]
#[openapi(paths(post_event))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let event = || labelled(post(post_event).with_state(side.clone()));
    Router::new().route("/api/event", event()).route("/api/event/", event())
}

/// Sends an event in. What is no good becomes an error record.
///
#[utoipa::path(
    post,
    path = "/api/event/",
    tag = "The Eye's collector",
    operation_id = "collect_event",
    params(KeyedHeaders),
    request_body(content = CollectedEvent),
    responses(
        (status = 201, description = "Whether it is an event", body = SuccessBody, headers(("Event-Position"))),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
/// Whatever is no event becomes an error record, malformed JSON too:
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
