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
use shared::http::error::ApiError;
use shared::http::headers::{await_position, last_event_position};
use shared::http::response::with;

use super::{Side, at, params};
use crate::live::{News, Tail};

/// How often a live tail says something, at least.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/events/stream`.
pub(crate) async fn get_stream(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::parse(query.as_deref(), &["q"])?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let from = last_event_position(&headers)?;
    let (tail, now) = side.live.listen(params::filter(&query)?, from, awaited).await?;
    let lifecycle = side.lifecycle.clone();
    let until = async move { lifecycle.stopping().await };
    let events = told(tail).take_until(until);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().extend(with(StatusCode::OK, None, Body::empty(), at(now)).headers().clone());
    Ok(response)
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
