//! Queries on the event log, natively.

mod cursor;
mod params;
mod stream;

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use shared::domain::stream::Position;
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::http::docs::failures::{EventNotFound, Unavailable};
use shared::http::docs::parameters::{Awaiting, CachedHeaders, IdParams};
use shared::http::error::ApiError;
use shared::http::headers::{await_position, if_none_match};
use shared::http::query::Query;
use shared::http::response::{Tell, json, not_modified, tell_parked};
use shared::http::routes::IdPath;
use shared::ports::{EventRef, EventsQuery, From, ListQuery, Order, Place, Seen, Sorted, StatsRow};
use shared::wire::events::{BucketJson, EventJson, EventsJson, RejectionJson, RejectionsJson, SessionsJson, StatsJson};
use shared::wire::time::shortest;
use uuid::Uuid;

use crate::ReadSide;
use crate::queries::Listed;
use cursor::{Cursor, List};
use params::{EventsParams, MemberParams, PageParams, StatsParams};

pub(crate) use params::FilterParams;
pub(crate) use stream::get_stream;

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_events, get_stats, stream::get_stream, get_event, get_sessions, get_rejections))]
pub(crate) struct Documented;

type Side = State<Arc<ReadSide>>;

fn at(position: Position) -> Tell {
    Tell { revision: None, position: Some(position) }
}

/// A log event, as the projection has it.
#[utoipa::path(
    get,
    path = "/v1/events/{id}",
    tag = "event log",
    operation_id = "get_event",
    params(IdParams, CachedHeaders, Awaiting),
    responses(
        (status = 200, description = "The event", body = EventJson<'static>, headers(("ETag"), ("Event-Position"))),
        (status = 304, description = "`If-None-Match` names its revision", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_event(
    State(side): Side,
    IdPath(id): IdPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse(query.as_deref(), &[])?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let none_match = if_none_match(&headers)?;
    let Seen { found, position } = side.log.event(EventRef::Id(id), awaited).await?;
    let record = found.ok_or_else(|| ApiError::from(Error::no_event()).resting_on(Some(position)))?;
    let tell = Tell { revision: Some(record.revision), position: Some(position) };
    if none_match.is_some_and(|tags| tags.name(record.revision)) {
        return Ok(not_modified(tell));
    }
    Ok(json(StatusCode::OK, &EventJson::from(&*record.event), tell))
}

/// Log events that a filter or members mean, in pages. Any member but `data` and `ce`
/// may be given, and is compared by equality.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "event log",
    operation_id = "get_events",
    params(FilterParams, EventsParams, MemberParams, Awaiting),
    responses(
        (status = 200, description = "A page", body = EventsJson<'static>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_events(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse_with_members(query.as_deref(), &["q", "sort", "limit", "cursor"])?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let (filter, order, limit) = (params::filter_with_members(&query)?, params::sort(&query)?, params::limit(&query)?);
    let list = List::Events(order);
    let from = match query.get("cursor")?.map(|text| cursor::read(list, text)).transpose()? {
        None => From::Start,
        Some(Cursor::Behind(place)) => From::Behind(place),
        Some(Cursor::BehindLong { id, hash }) => From::Behind(long_place(&side, order, id, hash).await?),
    };
    let Listed { found: page, position, parked } =
        side.log.events(EventsQuery { filter, order, from, limit }, awaited).await?;
    let last = page.events.last().filter(|_| page.more);
    let body = EventsJson {
        next: last.map(|last| cursor::write(list, &order.place_of(&last.event))),
        events: page.events.iter().map(|record| EventJson::from(&*record.event)).collect(),
    };
    Ok(tell_parked(json(StatusCode::OK, &body, at(position)), parked))
}

/// The place behind an event whose text is too long for a cursor.
async fn long_place(side: &ReadSide, order: Order, id: Uuid, hash: [u8; 32]) -> Result<Place, ApiError> {
    let record = side.log.event(EventRef::Id(id), None).await?.found;
    let place = record.map(|record| order.place_of(&record.event));
    let is_same = |place: &Place| matches!(&place.key, Sorted::Text(Some(text)) if cursor::hash_of(text) == hash);
    let changed = || ApiError::bad_request("cursor: the event that it stands behind has changed; begin again");
    place.filter(is_same).ok_or_else(changed)
}

/// How many events there are in each interval, by a member. Empty intervals are left
/// out.
#[utoipa::path(
    get,
    path = "/v1/events/stats",
    tag = "event log",
    operation_id = "get_stats",
    params(FilterParams, StatsParams, Awaiting),
    responses(
        (status = 200, description = "The counts", body = StatsJson<'static>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_stats(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse(query.as_deref(), &["interval", "by", "q"])?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let (asked, interval) = params::stats(&query)?;
    let by = asked.by.clone();
    let Listed { found, position, parked } = side.log.stats(asked, awaited).await?;
    let rows = found.ok_or_else(|| params::too_many().resting_on(Some(position)))?;
    let buckets = buckets(rows, by.is_time());
    let total = buckets.iter().fold(0, |total: u64, bucket| total.saturating_add(bucket.count));
    let body = StatsJson { interval, by: by.name(), buckets, total };
    Ok(tell_parked(json(StatusCode::OK, &body, at(position)), parked))
}

/// The rows of each bucket put together.
fn buckets(rows: Vec<StatsRow>, of_times: bool) -> Vec<BucketJson> {
    let mut buckets: Vec<(Timestamp, BucketJson)> = Vec::new();
    for StatsRow { start, value, count } in rows {
        let printed = |text: String| text.parse().map_or(text, shortest);
        let value = if of_times { value.map(printed) } else { value };
        match buckets.last_mut() {
            Some((last, bucket)) if *last == start => bucket.add(value, count),
            _ => {
                let mut bucket = BucketJson::new(start);
                bucket.add(value, count);
                buckets.push((start, bucket));
            }
        }
    }
    buckets.into_iter().map(|(_, bucket)| bucket).collect()
}

/// Which sessions or rejections are asked for, and the position that is awaited.
fn list_query(
    list: List,
    query: &Query,
    headers: &HeaderMap,
    descending: bool,
) -> Result<(ListQuery, Option<Position>), ApiError> {
    let awaited = await_position(headers, query.get("await")?)?;
    let behind = match query.get("cursor")?.map(|text| cursor::read(list, text)).transpose()? {
        Some(Cursor::Behind(Place { key: Sorted::Time(time), id, .. })) => Some((time, id)),
        _ => None,
    };
    Ok((ListQuery { descending, behind, limit: params::limit(query)? }, awaited))
}

/// The cursor behind a session or a rejection.
fn behind(list: List, created_at: Timestamp, id: Uuid) -> String {
    cursor::write(list, &Place { key: Sorted::Time(created_at), id, number: 0 })
}

/// Sessions, oldest first, in pages.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    tag = "event log",
    operation_id = "get_sessions",
    params(PageParams, Awaiting),
    responses(
        (status = 200, description = "A page", body = SessionsJson, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_sessions(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse(query.as_deref(), &["limit", "cursor"])?;
    let (query, awaited) = list_query(List::Sessions, &query, &headers, false)?;
    let Listed { found: page, position, parked } = side.log.sessions(query, awaited).await?;
    let last = page.found.last().filter(|_| page.more);
    let body = SessionsJson {
        next: last.map(|last| behind(List::Sessions, last.created_at, last.id)),
        sessions: page.found.iter().map(|session| (&**session).into()).collect(),
    };
    Ok(tell_parked(json(StatusCode::OK, &body, at(position)), parked))
}

/// What was sent in by older shapes and refused, newest first, in pages.
#[utoipa::path(
    get,
    path = "/v1/rejections",
    tag = "event log",
    operation_id = "get_rejections",
    params(PageParams, Awaiting),
    responses(
        (status = 200, description = "A page", body = RejectionsJson<'static>, headers(("Event-Position"), ("Parked"))),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_rejections(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse(query.as_deref(), &["limit", "cursor"])?;
    let (query, awaited) = list_query(List::Rejections, &query, &headers, true)?;
    let Listed { found: page, position, parked } = side.log.rejections(query, awaited).await?;
    let last = page.found.last().filter(|_| page.more);
    let body = RejectionsJson {
        next: last.map(|last| behind(List::Rejections, last.created_at, last.id)),
        rejections: page.found.iter().map(|rejection| RejectionJson::from(&**rejection)).collect(),
    };
    Ok(tell_parked(json(StatusCode::OK, &body, at(position)), parked))
}
