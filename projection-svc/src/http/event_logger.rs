//! The event logger: events out, all of them or those that a filter means.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use shared::domain::filter::Filter;
use shared::http::docs::failures::Unavailable;
use shared::http::docs::parameters::Awaiting;
use shared::http::error::ApiError;
use shared::http::headers::await_position;
use shared::http::list::{List, write_json};
use shared::http::query::Query;
use shared::http::response::{JSON, Tell, tell_parked, with};
use shared::http::routes::labelled;
use shared::ports::{Order, Record, SortKey, Ties};
use shared::wire::event_logger::EventJson;

use super::events::FilterParams;
use crate::ReadSide;
use crate::queries::Listed;

const OLDEST_FIRST: Order = Order { by: SortKey::CreatedAt, descending: false, ties: Ties::Id };

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_events))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<ReadSide>) -> Router {
    let events = || labelled(get(get_events).with_state(side.clone()));
    Router::new().route("/event", events()).route("/event/", events())
}

/// All events, or those that a filter means, oldest first.
#[utoipa::path(
    get,
    path = "/event",
    tag = "event logger",
    operation_id = "list_logged_events",
    params(FilterParams, Awaiting),
    responses(
        (status = 200, description = "The events", body = Vec<EventJson<'static>>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_events(
    State(side): State<Arc<ReadSide>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    let awaited = await_position(&headers, query.last("await"))?;
    let filter = match query.last("q").filter(|text| !text.is_empty()) {
        Some(text) => Filter::parse(text).map_err(|error| ApiError::bad_request(format!("q: {error}")))?,
        None => Filter::Any,
    };
    let Listed { found, position, parked } = side.log.all(filter, OLDEST_FIRST, awaited).await?;
    let write = |record: &Record, text: &mut Vec<u8>| write_json(&EventJson::from(&*record.event), text);
    let body = List::array(found, write).into_body().await?;
    let tell = Tell { revision: None, position: Some(position) };
    Ok(tell_parked(with(StatusCode::OK, Some(JSON), body, tell), parked))
}
