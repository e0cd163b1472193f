//! Commands on the event log in its native shape.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodRouter, patch, post};
use shared::domain::log_event::Members;
use shared::domain::members::InvalidEvent;
use shared::domain::stream::Revision;
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::docs::failures::{
    EventNotFound, InProgress, KeyReused, PreconditionFailed, TooLarge, TooSlow, Unavailable,
};
use shared::http::docs::parameters::{CommandHeaders, IdParams, KeyedHeaders};
use shared::http::error::ApiError;
use shared::http::headers::condition;
use shared::http::query::Query;
use shared::http::response::{Tell, json, with};
use shared::http::routes::{IdPath, labelled};
use shared::ports::{EventRef, StoreError};
use shared::wire::cloud_events::{essence, read_binary, read_structured};
use shared::wire::events::EventJson;
use shared::wire::events::shapes::{CloudEvent, EmptyBody, EventPatch, NewEvent, NewEvents};
use shared::wire::new_events::{
    BadEvents, Element, Elements, NewSessionJson, RecordedJson, RejectedJson, read_event, read_patch, read_session,
};

use super::{keyed, keyed_with};
use crate::WriteSide;
use crate::log::{Entry, Stored};

type Side = State<Arc<WriteSide>>;

#[derive(utoipa::OpenApi)]
#[openapi(paths(post_events, patch_event, delete_event, post_session))]
pub(crate) struct Documented;

/// The largest body of events.
const MAX_EVENTS_BYTES: usize = 16 * 1024 * 1024;
/// What the headers of a binary CloudEvent begin with.
const CE: &str = "ce-";

/// Its routes, but for the history.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let with_side = |route: MethodRouter<Arc<WriteSide>>| labelled(route.with_state(side.clone()));
    Router::new()
        .route("/v1/events", with_side(post(post_events)))
        .route("/v1/events/{id}", with_side(patch(patch_event).delete(delete_event)))
        .route("/v1/sessions", with_side(post(post_session)))
}

/// Records events. A bad one of many is rejected alone; nothing acceptable at all is
/// a 400.
///
/// Elements are separate writes: after a 503 some may be stored. Repeated with its
/// `Idempotency-Key` the request stores the missing ones and answers for all.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "event log",
    operation_id = "post_events",
    params(KeyedHeaders),
    request_body(
        description = "One event, or up to 10,000 as an array, as lines or as CloudEvents 1.0; at most 16 MiB. A CloudEvent may also come as `ce-` headers with its data as the body",
        content(
            (NewEvents = "application/json"),
            (NewEvent = "application/x-ndjson", example = "{\"name\":\"started\"}\n{\"name\":\"stopped\"}\n"),
            (CloudEvent = "application/cloudevents+json"),
            (Vec<CloudEvent> = "application/cloudevents-batch+json"),
        ),
    ),
    responses(
        (status = 202, description = "What was recorded, and what was not", body = RecordedJson, headers(("Event-Position"))),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn post_events(State(side): Side, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_EVENTS_BYTES).await?;
    let keyed = keyed_with(&parts, "/v1/events", &bytes, &typed(&parts))?;
    let shape = Shape::of(&parts);
    // Which of the elements are handed on, and why others are not.
    let (mut indexes, mut rejected) = (Vec::new(), Vec::new());
    let mut single = false;
    let entries = |now: Timestamp| {
        no_parameters(&parts)?;
        (indexes, rejected) = (Vec::new(), Vec::new());
        let elements = match shape.elements(&bytes)? {
            Elements::One(text) => {
                single = true;
                vec![Element { index: 0, text }]
            }
            Elements::Many(elements) => elements,
        };
        let mut entries = Vec::with_capacity(elements.len());
        for Element { index, text } in elements {
            match shape.read(&parts, text, now) {
                Ok(members) => {
                    indexes.push(index);
                    entries.push(Entry::Record(members));
                }
                Err(invalid) => rejected.push(RejectedJson { index, error: invalid.to_string() }),
            }
        }
        if entries.is_empty() { Err(nothing(&rejected, single)) } else { Ok(entries) }
    };
    let stored = side.log.record(keyed, entries).await?;
    let mut ids = Vec::with_capacity(stored.len());
    let mut position = None;
    let mut failed = None;
    for (index, outcome) in indexes.into_iter().zip(stored) {
        match outcome {
            Ok(Stored::Event(record)) => {
                ids.push(record.event.id);
                position = position.max(Some(record.position));
            }
            // No entry asked for that.
            Ok(Stored::Rejection(_)) => {}
            Err(Error::Invalid(invalid)) => rejected.push(RejectedJson { index, error: invalid.to_string() }),
            Err(error) => failed = Some(worse(failed, error)),
        }
    }
    rejected.sort_by_key(|rejected| rejected.index);
    if let Some(error) = failed {
        return Err(partly(error, !ids.is_empty()).into());
    }
    if ids.is_empty() {
        return Err(nothing(&rejected, single));
    }
    let body = RecordedJson { accepted: ids.len(), ids, rejected };
    Ok(json(StatusCode::ACCEPTED, &body, Tell { revision: None, position }))
}

/// How a request holds events.
enum Shape {
    Json,
    Lines,
    CloudEvents,
    BinaryCloudEvent,
}

impl Shape {
    /// What the Content-Type says, or the headers of a binary CloudEvent; anything else
    /// is taken for JSON, for `curl -d` sends the type of a form.
    fn of(parts: &Parts) -> Self {
        match essence(content_type(parts).unwrap_or_default()).as_str() {
            "application/x-ndjson" | "application/ndjson" => Self::Lines,
            "application/cloudevents+json" | "application/cloudevents-batch+json" => Self::CloudEvents,
            _ if parts.headers.keys().any(|name| name.as_str().starts_with(CE)) => Self::BinaryCloudEvent,
            _ => Self::Json,
        }
    }

    fn elements<'a>(&self, body: &'a [u8]) -> Result<Elements<'a>, ApiError> {
        let elements = match self {
            Self::Json | Self::CloudEvents => Elements::of_json(body),
            Self::Lines => Elements::of_lines(body),
            Self::BinaryCloudEvent => Ok(Elements::One(body)),
        };
        elements.map_err(|error| match error {
            BadEvents::TooMany => ApiError::too_large(error.to_string()),
            BadEvents::Json(_) => ApiError::bad_request(error.to_string()),
        })
    }

    fn read(&self, parts: &Parts, text: &[u8], now: Timestamp) -> Result<Members, InvalidEvent> {
        match self {
            Self::Json | Self::Lines => read_event(text, now),
            Self::CloudEvents => read_structured(text, now),
            Self::BinaryCloudEvent => {
                let attributes = parts
                    .headers
                    .iter()
                    .filter_map(|(name, value)| Some((name.as_str().strip_prefix(CE)?, value.as_bytes())));
                read_binary(attributes, content_type(parts), text, now)
            }
        }
    }
}

fn content_type(parts: &Parts) -> Option<&str> {
    parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// 400: there is nothing that could be stored.
fn nothing(rejected: &[RejectedJson], single: bool) -> ApiError {
    match rejected.first() {
        None => ApiError::bad_request("body: holds no event"),
        Some(RejectedJson { error, .. }) if single => ApiError::bad_request(error.clone()),
        Some(RejectedJson { index, error }) => {
            let count = rejected.len();
            ApiError::bad_request(format!(
                "none of the {count} events can be taken; the first, at index {index}: {error}"
            ))
        }
    }
}

/// Of two failures the one that says more of what may have happened.
fn worse(known: Option<Error>, other: Error) -> Error {
    match known {
        Some(known) if !matches!(other, Error::Failed(StoreError::OutcomeUnknown { .. })) => known,
        _ => other,
    }
}

/// A failure of some elements: where others are stored it is not as if nothing was done.
fn partly(error: Error, some_are_stored: bool) -> Error {
    match error {
        Error::Failed(StoreError::OutcomeUnknown { .. }) => error,
        Error::Failed(behind) if some_are_stored => {
            Error::Failed(StoreError::OutcomeUnknown { what: "the event log", source: Some(Arc::new(behind)) })
        }
        other => other,
    }
}

/// Changes a log event by a merge patch (RFC 7396).
#[utoipa::path(
    patch,
    path = "/v1/events/{id}",
    tag = "event log",
    operation_id = "patch_event",
    params(IdParams, CommandHeaders),
    request_body(content = EventPatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The event", body = EventJson<'static>, headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 412, response = PreconditionFailed),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn patch_event(
    State(side): Side,
    IdPath(id): IdPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let keyed = keyed(&parts, &format!("/v1/events/{id}"), &bytes)?;
    side.log.check_key(keyed.as_ref()).await?;
    no_parameters(&parts)?;
    let (condition, patch) = (condition(&parts.headers)?, read_patch(&bytes).map_err(Error::from)?);
    let record = side.log.amend(EventRef::Id(id), patch, condition, keyed).await?;
    let tell = Tell { revision: Some(record.revision), position: Some(record.position) };
    Ok(json(StatusCode::OK, &EventJson::from(&*record.event), tell))
}

/// Deletes a log event. What the body says does not matter.
#[utoipa::path(
    delete,
    path = "/v1/events/{id}",
    tag = "event log",
    operation_id = "delete_event",
    params(IdParams, CommandHeaders),
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
pub(crate) async fn delete_event(
    State(side): Side,
    IdPath(id): IdPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let keyed = keyed(&parts, &format!("/v1/events/{id}"), &bytes)?;
    side.log.check_key(keyed.as_ref()).await?;
    no_parameters(&parts)?;
    let receipt = side.log.delete(EventRef::Id(id), condition(&parts.headers)?, keyed).await?;
    let tell = Tell { revision: Some(receipt.revision), position: Some(receipt.position) };
    Ok(with(StatusCode::NO_CONTENT, None, Body::empty(), tell))
}

/// Registers a session.
#[utoipa::path(
    post,
    path = "/v1/sessions",
    tag = "event log",
    operation_id = "post_session",
    params(KeyedHeaders),
    request_body(content = Option<EmptyBody>),
    responses(
        (status = 201, description = "The session", body = NewSessionJson, headers(("ETag"), ("Event-Position"))),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn post_session(State(side): Side, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let keyed = keyed(&parts, "/v1/sessions", &bytes)?;
    side.log.check_key(keyed.as_ref()).await?;
    no_parameters(&parts)?;
    read_session(&bytes).map_err(Error::from)?;
    let session = side.log.register(None, keyed).await?;
    let tell = Tell { revision: Some(Revision::FIRST), position: Some(session.position) };
    Ok(json(StatusCode::CREATED, &NewSessionJson { id: session.id }, tell))
}

/// What of the headers decides how a body is read.
fn typed(parts: &Parts) -> Vec<&[u8]> {
    let mut all: Vec<_> = parts.headers.get_all(header::CONTENT_TYPE).iter().map(|value| value.as_bytes()).collect();
    let mut attributes: Vec<_> = parts.headers.iter().filter(|(name, _)| name.as_str().starts_with(CE)).collect();
    attributes.sort_by_key(|(name, _)| name.as_str());
    all.extend(attributes.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]));
    all
}

/// Commands have no parameters.
fn no_parameters(parts: &Parts) -> Result<(), ApiError> {
    Query::parse(parts.uri.query())?.only(&[])
}
