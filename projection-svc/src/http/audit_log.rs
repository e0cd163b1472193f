//! The audit log: logs out, in pages that are counted.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use futures::{StreamExt, stream};
use shared::http::docs::parameters::Awaiting;
use shared::http::error::{ApiError, ProblemBody};
use shared::http::headers::await_position;
use shared::http::list::{List, write_json};
use shared::http::query::Query;
use shared::http::response::{JSON, Tell, tell_parked, with};
use shared::http::routes::labelled;
use shared::ports::{EventsQuery, From, Order, Record, SortKey, Ties};
use shared::wire::audit_log::shapes::{LogsPage, ReadParams};
use shared::wire::audit_log::{ListParams, LogJson, MetadataJson, SortBy, Wrong};

use crate::ReadSide;

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_read))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<ReadSide>) -> Router {
    let read = || labelled(get(get_read).with_state(side.clone()));
    Router::new().route("/api/read", read()).route("/api/read/", read())
}

/// Logs in pages that are counted; without `sort`, and on ties, in the order of their ids.
#[utoipa::path(
    get,
    path = "/api/read",
    tag = "audit log",
    operation_id = "read_logs",
    params(ReadParams, Awaiting),
    responses(
        (status = 200, description = "A page", body = LogsPage<'static>, headers(("Event-Position"), ("Parked"))),
        (
            status = 400, description = "A header is malformed",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")),
        ),
        (
            status = 422, description = "Parameters that cannot be, each named",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")),
        ),
        (
            status = 503, description = "Not now",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")), headers(("Retry-After")),
        ),
    ),
)]
async fn get_read(
    State(side): State<Arc<ReadSide>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    read(&side, query.as_deref(), &headers).await.map_err(|error| error.shaped(Wrong::told))
}

async fn read(side: &ReadSide, query: Option<&str>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let query = Query::parse(query)?;
    let awaited = await_position(headers, query.last("await"))?;
    let params = ListParams::parse(|name| query.last(name))?;
    let count = side.log.count(&params.filter(), awaited).await?;
    let mut page = side.log.window(page_of(&params), None).await?;
    let first = page.found.next().await.transpose()?;
    // What was recorded between the two counts too.
    let shown = params.skipped().saturating_add(u64::from(first.is_some()));
    let metadata = match &first {
        Some(_) => MetadataJson::of(&params, count.found.max(shown)),
        None => MetadataJson::None {},
    };
    let mut tail = br#"],"metadata":"#.to_vec();
    write_json(&metadata, &mut tail);
    tail.push(b'}');
    let list = List {
        head: br#"{"logs":["#.to_vec(),
        elements: stream::iter(first.map(Ok)).chain(page.found).boxed(),
        write: |record: &Record, text: &mut Vec<u8>| write_json(&LogJson::listed(&record.event), text),
        tail,
    };
    let position = count.position.max(page.position);
    let tell = Tell { revision: None, position: Some(position) };
    let response = with(StatusCode::OK, Some(JSON), list.into_body().await?, tell);
    Ok(tell_parked(response, count.parked.max(page.parked)))
}

fn page_of(params: &ListParams) -> EventsQuery {
    let by = match params.sort {
        SortBy::Id => SortKey::Number,
        SortBy::EventName => SortKey::Name,
        SortBy::CreatedAt => SortKey::Timestamp,
    };
    EventsQuery {
        filter: params.filter(),
        order: Order { by, descending: params.descending, ties: Ties::Number },
        from: From::Skip(params.skipped()),
        limit: usize::try_from(params.page_size).unwrap_or(usize::MAX),
    }
}
