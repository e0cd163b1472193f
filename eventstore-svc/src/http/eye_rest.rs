//! The Eye's REST API: sessions and events in, changes of events.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, post, put};
use bytes::Bytes;
use shared::clock;
use shared::domain::log_event::Amendment;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::docs::failures::{
    EventNotFound, InProgress, KeyReused, PreconditionFailed, TooLarge, TooSlow, Unavailable,
};
use shared::http::docs::parameters::{CommandHeaders, KeyedHeaders, NumberParams};
use shared::http::error::ApiError;
use shared::http::headers::condition;
use shared::http::response::{Tell, json, with};
use shared::http::routes::{NumberPath, labelled};
use shared::ports::EventRef;
use shared::wire::eye_rest::shapes::{NewSession, SentEvent, SentPatch};
use shared::wire::eye_rest::{ACCEPTED, BadEvent, EventBody, SessionBody, Values, read_event, read_session};
use shared::wire::sent::{Needs, sent};

use super::keyed;
use crate::WriteSide;
use crate::log::{Entry, Refuse};

type Side = State<Arc<WriteSide>>;

#[derive(utoipa::OpenApi)]
#[openapi(paths(post_session, post_event, put_event, patch_event, delete_event))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let with_side = |route: MethodRouter<Arc<WriteSide>>| labelled(route.with_state(side.clone()));
    let event = || with_side(put(put_event).patch(patch_event).delete(delete_event));
    Router::new()
        .route("/sessions", with_side(post(post_session)))
        .route("/sessions/", with_side(post(post_session)))
        .route("/events", with_side(post(post_event)))
        .route("/events/", with_side(post(post_event)))
        .route("/events/{number}", event())
        .route("/events/{number}/", event())
}

/// Registers a session: with the id that the body names, or a new one.
#[utoipa::path(
    post,
    path = "/sessions/",
    tag = "The Eye",
    operation_id = "register_session",
    params(KeyedHeaders),
    request_body(content = Option<NewSession>),
    responses(
        (status = 201, description = "The session", body = SessionBody, headers(("Event-Position"))),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
async fn post_session(State(side): Side, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, bytes) = whole(request).await?;
    let keyed = keyed(&parts, "/sessions/", &bytes)?;
    side.log.check_key(keyed.as_ref()).await?;
    let id = read_session(&bytes).map_err(ApiError::bad_request)?;
    let session = side.log.register(id, keyed).await?;
    let tell = Tell { revision: None, position: Some(session.position) };
    Ok(json(StatusCode::CREATED, &SessionBody::from(&*session), tell))
}

/// Sends an event in. What is no good becomes an error record, with the same answer.
///
#[utoipa::path(
    post,
    path = "/events/",
    tag = "The Eye",
    operation_id = "send_event",
    params(KeyedHeaders),
    request_body(content = SentEvent),
    responses(
        (status = 200, description = "It, or its error record, is durable", body = String, content_type = "application/json", headers(("Event-Position")), example = json!("Event will be created after validation")),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
/// `POST /events/`. The answer is the same for an event and for an error record.
async fn post_event(State(side): Side, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, bytes) = whole(request).await?;
    let keyed = keyed(&parts, "/events/", &bytes)?;
    let refuse = |message| Refuse { message, data: sent(&bytes) };
    let entries = |now| match read_event(&bytes, now) {
        Ok(members) => Ok(vec![Entry::RecordIfKnown(members, refuse("session: is unknown".into()))]),
        Err(BadEvent::Refused(message)) => Ok(vec![Entry::Reject(refuse(message))]),
        Err(BadEvent::NoObject(error)) => Err(ApiError::bad_request(error.to_string())),
    };
    let stored = side.log.record(keyed, entries).await?.pop();
    let stored = stored.ok_or_else(|| ApiError::bug("an event came to nothing".into()))??;
    let tell = Tell { revision: None, position: Some(stored.position()) };
    Ok(json(StatusCode::OK, &ACCEPTED, tell))
}

/// Replaces an event.
#[utoipa::path(
    put,
    path = "/events/{number}/",
    tag = "The Eye",
    operation_id = "put_event",
    params(NumberParams, CommandHeaders),
    request_body(content = SentEvent),
    responses(
        (status = 200, description = "The event", body = EventBody<'static>, headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 412, response = PreconditionFailed),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
async fn put_event(
    State(side): Side,
    NumberPath(number): NumberPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    amend(&side, number, request, Needs::All).await
}

/// Changes some members of an event.
#[utoipa::path(
    patch,
    path = "/events/{number}/",
    tag = "The Eye",
    operation_id = "change_event",
    params(NumberParams, CommandHeaders),
    request_body(content = SentPatch),
    responses(
        (status = 200, description = "The event", body = EventBody<'static>, headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 412, response = PreconditionFailed),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
async fn patch_event(
    State(side): Side,
    NumberPath(number): NumberPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    amend(&side, number, request, Needs::Some).await
}

async fn amend(side: &WriteSide, number: u64, request: Request<Body>, needs: Needs) -> Result<Response, ApiError> {
    let (parts, bytes) = whole(request).await?;
    let keyed = keyed(&parts, &format!("/events/{number}/"), &bytes)?;
    side.log.check_key(keyed.as_ref()).await?;
    let condition = condition(&parts.headers)?;
    let bad = |error: String| ApiError::bad_request(error);
    // What is taken once is taken ever after: time goes on and sessions stay.
    let (values, mut faults) = Values::parse(&bytes, needs, clock::now()).map_err(|error| bad(error.to_string()))?;
    if let Some(session) = values.session
        && !side.log.knows_session(session).await?
    {
        faults.add("session", "is unknown");
    }
    faults.check().map_err(|faults| bad(faults.to_string()))?;
    let amendment = Amendment::Set(values.into_json());
    let record = side.log.amend(EventRef::Number(number), amendment, condition, keyed).await?;
    let tell = Tell { revision: Some(record.revision), position: Some(record.position) };
    Ok(json(StatusCode::OK, &EventBody::from(&*record.event), tell))
}

/// Deletes an event.
#[utoipa::path(
    delete,
    path = "/events/{number}/",
    tag = "The Eye",
    operation_id = "remove_event",
    params(NumberParams, CommandHeaders),
    responses(
        (status = 204, description = "The event is gone; its history stays", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 412, response = PreconditionFailed),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
/// What its body says does not matter.
async fn delete_event(
    State(side): Side,
    NumberPath(number): NumberPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, bytes) = whole(request).await?;
    let keyed = keyed(&parts, &format!("/events/{number}/"), &bytes)?;
    side.log.check_key(keyed.as_ref()).await?;
    let condition = condition(&parts.headers)?;
    let receipt = side.log.delete(EventRef::Number(number), condition, keyed).await?;
    let tell = Tell { revision: Some(receipt.revision), position: Some(receipt.position) };
    Ok(with(StatusCode::NO_CONTENT, None, Body::empty(), tell))
}

async fn whole(request: Request<Body>) -> Result<(Parts, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    Ok((parts, bytes))
}
