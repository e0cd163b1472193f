//! The Eye's collector: events out, in pages that are counted.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use shared::http::docs::failures::{PageNotFound, Unavailable};
use shared::http::docs::parameters::Awaiting;
use shared::http::error::ApiError;
use shared::http::headers::await_position;
use shared::http::link;
use shared::http::list::{List, write_json};
use shared::http::query::Query;
use shared::http::response::{JSON, Tell, tell_parked, with};
use shared::http::routes::labelled;
use shared::ports::{EventsQuery, From, Order, Record, SortKey, Ties};
use shared::wire::eye_collector::shapes::{CollectedPage, CollectorParams};
use shared::wire::eye_collector::{EventBody, Page, TAIL, query_of_page, read_filter};

use crate::ReadSide;
use crate::queries::Listed;

/// Newest first.
const ORDER: Order = Order { by: SortKey::Timestamp, descending: true, ties: Ties::NumberDescending };
/// How many events a page has, if nobody says.
const PAGE_SIZE: u64 = 20;
const MAX_PAGE_SIZE: u64 = 100;
/// What the resource takes, wherever it is served.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, POST, HEAD, OPTIONS");
/// Errors come in the form that `Accept` asks for.
const VARY: HeaderValue = HeaderValue::from_static("Accept");

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_events))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<ReadSide>) -> Router {
    let events = || labelled(get(get_events).with_state(side.clone()));
    Router::new().route("/api/event", events()).route("/api/event/", events())
}

/// Events that the parameters mean, newest first, in pages that are counted.
#[utoipa::path(
    get,
    path = "/api/event/",
    tag = "The Eye's collector",
    operation_id = "list_collected_events",
    params(CollectorParams, Awaiting),
    responses(
        (status = 200, description = "A page", body = CollectedPage<'static>, headers(("Event-Position"), ("Parked"))),
        (status = 404, response = PageNotFound),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_events(
    State(side): State<Arc<ReadSide>>,
    uri: Uri,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = Query::parse(raw.as_deref())?;
    let awaited = await_position(&headers, query.last("await"))?;
    let filter = read_filter(|name| query.last(name)).map_err(|faults| ApiError::bad_request(faults.to_string()))?;
    let page = Page {
        number: query.last_page("page")?.unwrap_or(1),
        size: query.last_number("page_size", 1..=MAX_PAGE_SIZE)?.unwrap_or(PAGE_SIZE),
    };
    let counted = side.log.count(&filter, awaited).await?;
    let count = counted.found;
    if !page.is_of(count) {
        let past = ApiError::not_found(format!("page: there is none behind page {}", page.last(count)));
        return Ok(tell_parked(past.resting_on(Some(counted.position)).into_response(), counted.parked));
    }
    let from = From::Skip(page.skip());
    let limit = usize::try_from(page.size).unwrap_or(usize::MAX);
    let events = EventsQuery { filter, order: ORDER, from, limit };
    // Not older than the count.
    let Listed { found, position, parked } = side.log.window(events, Some(counted.position)).await?;
    let link = |number| link::to(side.public_url.as_deref(), &uri, &headers, &query_of_page(raw.as_deref(), number));
    let list = List {
        head: page.head(count, link),
        elements: found,
        write: |record: &Record, text: &mut Vec<u8>| write_json(&EventBody::from(&*record.event), text),
        tail: TAIL.to_vec(),
    };
    let tell = Tell { revision: None, position: Some(position) };
    let response = with(StatusCode::OK, Some(JSON), list.into_body().await?, tell);
    let mut response = tell_parked(response, parked.max(counted.parked));
    response.headers_mut().extend([(header::ALLOW, ALLOW), (header::VARY, VARY)]);
    Ok(response)
}
