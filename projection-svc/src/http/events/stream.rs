//! The live tail of the event log, by server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{self, Stream};
use shared::http::docs::failures::Unavailable;
use shared::http::docs::parameters::Awaiting;
use shared::http::error::ApiError;
use shared::http::headers::{await_position, last_event_position};
use shared::http::response::{tell_parked, with};

use utoipa::IntoParams;

use super::params::FilterParams;
use super::{Side, at, params};
use crate::live::{News, Tail};

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the handler reads it")]
struct ResumeHeaders {
    /// The tail goes on behind this position; each changed event comes once.
    #[param(rename = "Last-Event-ID", nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    last_event_id: Option<u64>,
}

/// How often a live tail says something, at least.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The live tail, by server-sent events, from now on or behind `Last-Event-ID`.
///
/// `id:` is the position of the event's latest change, the data the event as it is now;
/// a deletion is `event: deleted` with `{"id"}`. A comment comes at least every 15 s.
#[utoipa::path(
    get,
    path = "/v1/events/stream",
    tag = "event log",
    operation_id = "get_events_stream",
    params(FilterParams, ResumeHeaders, Awaiting),
    responses(
        (status = 200, description = "Events as they come", body = serde_json::Value, headers(("Event-Position"), ("Parked")), content_type = "text/event-stream"),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_stream(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse(query.as_deref(), &["q"])?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let from = last_event_position(&headers)?;
    let (tail, now) = side.live.listen(params::filter(&query)?, from, awaited).await?;
    let parked = side.queries.parked().await?;
    let lifecycle = side.lifecycle.clone();
    let until = async move { lifecycle.stopping().await };
    let events = told(tail).take_until(until);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().extend(with(StatusCode::OK, None, Body::empty(), at(now)).headers().clone());
    Ok(tell_parked(response, parked))
}

fn told(tail: Tail) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(tail, async |mut tail| match tail.news(event).await {
        Ok(event) => Some((Ok(event), tail)),
        Err(error) => {
            tracing::warn!(error = %error, "a live tail broke off");
            None
        }
    })
}

fn event(news: &News) -> Event {
    let event = Event::default().id(news.position.to_string()).data(news.json());
    if news.event.is_none() { event.event("deleted") } else { event }
}
