//! The operators' routes: parked streams, replays and rebuilds.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use shared::clock;
use shared::domain::stream::StreamId;
use shared::http::body;
use shared::http::cursor;
use shared::http::docs::failures::{NotParked, RebuildRunning, TooLarge, TooSlow, Unavailable};
use shared::http::error::ApiError;
use shared::http::query::Query;
use shared::http::response::{Tell, json};
use shared::http::routes::labelled;
use shared::ports::{ParkedQuery, RebuildState, StoreError, ViewOperator};
use shared::wire::operate::{
    ParkedJson, ParkedPageJson, RebuildAskedJson, RebuildJson, ReplayBody, ReplayJson, parse_nothing,
};
use utoipa::IntoParams;
use utoipa::openapi::OpenApi;

/// The views, as operators see them.
type Operator = State<Arc<dyn ViewOperator>>;

/// How many parked streams a page has, if nobody says.
const LIMIT: u64 = 100;
/// The largest body that is read.
const BODY_BYTES: usize = 64 * 1024;

/// Every route for operators.
pub fn router(operator: Arc<dyn ViewOperator>) -> Router {
    let route = |route: MethodRouter<Arc<dyn ViewOperator>>| labelled(route.with_state(operator.clone()));
    Router::new()
        .route("/parked", route(get(get_parked)))
        .route("/parked/replay", route(post(post_replay)))
        .route("/rebuild", route(get(get_rebuild).post(post_rebuild)))
}

/// What the routes for operators say of themselves.
pub fn documented() -> OpenApi {
    <Documented as utoipa::OpenApi>::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_parked, post_replay, get_rebuild, post_rebuild))]
struct Documented;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the handler reads them one by one")]
struct PageParams {
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// The `next` of an earlier page.
    #[param(nullable = false, pattern = "^k([0-9A-Za-z]|-[0-9A-F]{2})+$")]
    cursor: Option<String>,
}

/// Parked streams in the order of their names (by UTF-8 bytes), in pages.
#[utoipa::path(
    get,
    path = "/parked",
    tag = "operate",
    params(PageParams),
    responses(
        (status = 200, description = "A page", body = ParkedPageJson<'static>),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_parked(State(operator): Operator, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    query.only(&["limit", "cursor"])?;
    let limit = query.number("limit", 1..=1000)?.unwrap_or(LIMIT);
    let after = query.get("cursor")?.map(cursor::text_of).transpose()?;
    let query = ParkedQuery {
        after: after.map(|name| StreamId::from_stored(&name)),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let page = operator.parked_streams(query).await?;
    let last = page.found.last().filter(|_| page.more);
    let body = ParkedPageJson {
        next: last.map(|last| cursor::behind(last.stream.as_str())),
        parked: page.found.iter().map(ParkedJson::from).collect(),
    };
    Ok(json(StatusCode::OK, &body, Tell::default()))
}

/// Asks that a parked stream is read again from where it is parked; without a body, or
/// with one that names none, that all of them are. The projector does so within seconds:
/// what can be projected now is not parked any more.
#[utoipa::path(
    post,
    path = "/parked/replay",
    tag = "operate",
    request_body(content = Option<ReplayBody>),
    responses(
        (
            status = 202, description = "It is asked for; how many streams that are", body = ReplayJson,
            example = json!({"streams": 1}),
        ),
        (status = 404, response = NotParked),
        (status = 408, response = TooSlow),
        (status = 413, response = TooLarge),
        (status = 503, response = Unavailable),
    ),
)]
async fn post_replay(
    State(operator): Operator,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let stream = ReplayBody::parse(&read(query.as_deref(), request).await?)?.stream;
    let streams = operator.ask_replay(stream.as_ref()).await?;
    if stream.is_some() && streams == 0 {
        return Err(ApiError::not_parked());
    }
    Ok(json(StatusCode::ACCEPTED, &ReplayJson { streams }, Tell::default()))
}

/// Asks that all views are built anew from the log, beside the live ones, which go on
/// meanwhile. Once the new ones have caught up they become the live ones.
#[utoipa::path(
    post,
    path = "/rebuild",
    tag = "operate",
    responses(
        (
            status = 202, description = "It is asked for", body = RebuildAskedJson,
            example = json!({"state": "running", "started_at": "2026-11-21T12:00:00.5Z"}),
        ),
        (status = 408, response = TooSlow),
        (status = 409, response = RebuildRunning),
        (status = 413, response = TooLarge),
        (status = 503, response = Unavailable),
    ),
)]
async fn post_rebuild(
    State(operator): Operator,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    parse_nothing(&read(query.as_deref(), request).await?)?;
    let now = clock::now();
    match operator.ask_rebuild(now).await {
        Ok(()) => Ok(json(StatusCode::ACCEPTED, &RebuildAskedJson::at(now), Tell::default())),
        Err(StoreError::Conflict) => Err(ApiError::rebuild_running()),
        Err(error) => Err(error.into()),
    }
}

/// How the rebuild goes, or the last one went.
#[utoipa::path(
    get,
    path = "/rebuild",
    tag = "operate",
    responses(
        (
            status = 200, description = "`done` and `total` are positions: how far the new views are, and how far \
                                         they have to come",
            body = RebuildJson,
            example = json!({
                "state": "running", "done": 420_000, "total": 1_000_000,
                "started_at": "2026-11-21T12:00:00.5Z", "finished_at": null,
            }),
        ),
        (status = 503, response = Unavailable),
    ),
)]
async fn get_rebuild(State(operator): Operator, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Query::parse(query.as_deref())?.only(&[])?;
    let RebuildState { is_running, done, total, started_at, finished_at } = operator.rebuild_state().await?;
    let body = RebuildJson::new(is_running, (done, total), started_at, finished_at);
    Ok(json(StatusCode::OK, &body, Tell::default()))
}

/// The body of a request that has no parameters.
async fn read(query: Option<&str>, request: Request<Body>) -> Result<Bytes, ApiError> {
    Query::parse(query)?.only(&[])?;
    let (parts, body) = request.into_parts();
    body::read(&parts.headers, body, BODY_BYTES).await
}
