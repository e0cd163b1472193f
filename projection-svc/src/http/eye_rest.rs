//! The Eye's REST API: sessions, events and errors out.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use shared::domain::log_event::{Rejection, Session};
use shared::domain::stream::Position;
use shared::error::Error;
use shared::http::docs::failures::{ErrorNotFound, EventNotFound, Unavailable};
use shared::http::docs::parameters::{Awaiting, CachedHeaders, NumberParams};
use shared::http::error::ApiError;
use shared::http::headers::{await_position, if_none_match};
use shared::http::list::{List, write_json};
use shared::http::query::Query;
use shared::http::response::{JSON, Tell, json, not_modified, tell_parked, with};
use shared::http::routes::{NumberPath, labelled};
use shared::ports::{EventRef, Order, Record, Seen, SortKey, Ties};
use shared::wire::eye_rest::shapes::EyeParams;
use shared::wire::eye_rest::{ErrorBody, EventBody, SessionBody, read_filter};

use crate::ReadSide;
use crate::log::Whole;
use crate::queries::Listed;

type Side = State<Arc<ReadSide>>;

/// Newest first; an event's id is its integer id here.
const NEWEST_FIRST: Order = Order { by: SortKey::Timestamp, descending: true, ties: Ties::NumberDescending };

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_sessions, get_events, get_event, get_errors, get_error))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<ReadSide>) -> Router {
    let with_side = |route: MethodRouter<Arc<ReadSide>>| labelled(route.with_state(side.clone()));
    Router::new()
        .route("/sessions", with_side(get(get_sessions)))
        .route("/sessions/", with_side(get(get_sessions)))
        .route("/events", with_side(get(get_events)))
        .route("/events/", with_side(get(get_events)))
        .route("/events/{number}", with_side(get(get_event)))
        .route("/events/{number}/", with_side(get(get_event)))
        .route("/errors", with_side(get(get_errors)))
        .route("/errors/", with_side(get(get_errors)))
        .route("/errors/{number}", with_side(get(get_error)))
        .route("/errors/{number}/", with_side(get(get_error)))
}

/// All sessions, oldest first.
#[utoipa::path(
    get,
    path = "/sessions/",
    tag = "The Eye",
    operation_id = "list_sessions",
    params(Awaiting),
    responses(
        (status = 200, description = "The sessions", body = Vec<SessionBody>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_sessions(State(side): Side, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response, ApiError> {
    let awaited = awaited(&headers, query.as_deref())?;
    let seen = side.log.all_sessions(false, awaited).await?;
    list(seen, |session: &Arc<Session>, text| write_json(&SessionBody::from(&**session), text)).await
}

/// All events that the parameters mean, newest first.
#[utoipa::path(
    get,
    path = "/events/",
    tag = "The Eye",
    operation_id = "list_events",
    params(EyeParams, Awaiting),
    responses(
        (status = 200, description = "The events", body = Vec<EventBody<'static>>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_events(State(side): Side, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    let awaited = await_position(&headers, query.last("await"))?;
    let filter = read_filter(|name| query.last(name)).map_err(|faults| ApiError::bad_request(faults.to_string()))?;
    let seen = side.log.all(filter, NEWEST_FIRST, awaited).await?;
    list(seen, |record: &Record, text| write_json(&EventBody::from(&*record.event), text)).await
}

/// An event.
#[utoipa::path(
    get,
    path = "/events/{number}/",
    tag = "The Eye",
    operation_id = "read_event",
    params(NumberParams, CachedHeaders, Awaiting),
    responses(
        (status = 200, description = "The event", body = EventBody<'static>, headers(("ETag"), ("Event-Position"))),
        (status = 304, description = "`If-None-Match` names its revision", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_event(
    State(side): Side,
    NumberPath(number): NumberPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let awaited = awaited(&headers, query.as_deref())?;
    let none_match = if_none_match(&headers)?;
    let Seen { found, position } = side.log.event(EventRef::Number(number), awaited).await?;
    let record = found.ok_or_else(|| ApiError::from(Error::no_event()).resting_on(Some(position)))?;
    let tell = Tell { revision: Some(record.revision), position: Some(position) };
    if none_match.is_some_and(|tags| tags.name(record.revision)) {
        return Ok(not_modified(tell));
    }
    Ok(json(StatusCode::OK, &EventBody::from(&*record.event), tell))
}

/// All error records, newest first.
#[utoipa::path(
    get,
    path = "/errors/",
    tag = "The Eye",
    operation_id = "list_errors",
    params(Awaiting),
    responses(
        (status = 200, description = "The error records", body = Vec<ErrorBody<'static>>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_errors(State(side): Side, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response, ApiError> {
    let awaited = awaited(&headers, query.as_deref())?;
    let seen = side.log.all_rejections(true, awaited).await?;
    list(seen, |rejection: &Arc<Rejection>, text| write_json(&ErrorBody::from(&**rejection), text)).await
}

/// An error record.
#[utoipa::path(
    get,
    path = "/errors/{number}/",
    tag = "The Eye",
    operation_id = "read_error",
    params(NumberParams, Awaiting),
    responses(
        (status = 200, description = "The error record", body = ErrorBody<'static>, headers(("Event-Position"))),
        (status = 404, response = ErrorNotFound),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_error(
    State(side): Side,
    NumberPath(number): NumberPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let awaited = awaited(&headers, query.as_deref())?;
    let Seen { found, position } = side.log.rejection(number, awaited).await?;
    let rejection = found.ok_or_else(|| ApiError::not_found("error not found").resting_on(Some(position)))?;
    let tell = Tell { revision: None, position: Some(position) };
    Ok(json(StatusCode::OK, &ErrorBody::from(&*rejection), tell))
}

fn awaited(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Position>, ApiError> {
    await_position(headers, Query::parse(query)?.last("await"))
}

/// A plain array.
async fn list<T: Send + 'static>(
    Listed { found, position, parked }: Listed<Whole<T>>,
    write: impl FnMut(&T, &mut Vec<u8>) + Send + 'static,
) -> Result<Response, ApiError> {
    let body: Body = List::array(found, write).into_body().await?;
    let tell = Tell { revision: None, position: Some(position) };
    Ok(tell_parked(with(StatusCode::OK, Some(JSON), body, tell), parked))
}
