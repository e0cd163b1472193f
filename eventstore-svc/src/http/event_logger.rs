//! The event logger: events in.

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
use shared::wire::event_logger::shapes::LoggedEvent;
use shared::wire::event_logger::{EventBody, EventJson};

use super::{keyed, record_one};
use crate::WriteSide;

#[derive(utoipa::OpenApi)]
#[openapi(paths(post_event))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let event = || labelled(post(post_event).with_state(side.clone()));
    Router::new().route("/event", event()).route("/event/", event())
}

/// Logs an event.
#[utoipa::path(
    post,
    path = "/event",
    tag = "event logger",
    operation_id = "log_event",
    params(KeyedHeaders),
    request_body(content = LoggedEvent),
    responses(
        (status = 201, description = "The event", body = EventJson<'static>, headers(("ETag"), ("Event-Position"))),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
async fn post_event(State(side): State<Arc<WriteSide>>, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let keyed = keyed(&parts, "/event", &bytes)?;
    let record = record_one(&side, keyed, |now| Ok(EventBody::parse(&bytes)?.into_members(now))).await?;
    let tell = Tell { revision: Some(record.revision), position: Some(record.position) };
    Ok(json(StatusCode::CREATED, &EventJson::from(&*record.event), tell))
}
