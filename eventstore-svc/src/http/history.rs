//! Histories: whole, in pages, live, and the past at a moment.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream};
use shared::domain::answer::UnreadableEvent;
use shared::domain::stream::{RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::http::docs::failures::{EventNotFound, KeyNotFound, Unavailable};
use shared::http::docs::parameters::{Awaiting, CachedHeaders, IdParams, KeyParams};
use shared::http::error::ApiError;
use shared::http::headers::{accepts, await_position, if_none_match, last_event_id};
use shared::http::query::Query;
use shared::http::response::{JSON, Tell, json, not_modified, with};
use shared::http::routes::{IdPath, KeyPath};
use shared::ports::Direction;
use shared::wire::answers::shapes::AnswerEvent;
use shared::wire::answers::{AnswerJson, write_event};
use shared::wire::events::shapes::LogEventChange;
use shared::wire::events::write_log_event;
use shared::wire::history::Detail;
use utoipa::{IntoParams, ToSchema};

use crate::WriteSide;
use crate::history::{History, Moment, PAGE};
use crate::live::Listening;

type Side = State<Arc<WriteSide>>;

/// How often a live stream says something, at least.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`Range` reads them")]
struct HistoryParams {
    /// The first revision to show; backwards, the newest.
    #[param(nullable = false, format = "uint64", minimum = 0)]
    from: Option<u64>,
    /// How many events to show; without it the whole history comes.
    #[param(nullable = false, minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    #[param(nullable = false, inline)]
    direction: Option<Towards>,
    #[param(nullable = false, inline)]
    detail: Option<DetailWord>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "`Range` reads it")]
enum Towards {
    Forwards,
    Backwards,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "`Range` reads it")]
enum DetailWord {
    Full,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the handler reads it")]
struct ResumeHeaders {
    /// A live stream goes on behind this revision.
    #[param(rename = "Last-Event-ID", nullable = false, format = "uint64", minimum = 0)]
    last_event_id: Option<u64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`moment` reads them")]
struct AsOfParams {
    /// After this revision.
    #[param(nullable = false, format = "uint64", minimum = 0)]
    revision: Option<u64>,
    /// After the last event that was recorded by this time (RFC 3339).
    #[param(nullable = false, value_type = String, format = DateTime)]
    time: Option<String>,
}

/// What of a history is asked for.
struct Range {
    from: Option<Revision>,
    limit: Option<u64>,
    direction: Direction,
    detail: Detail,
}

impl Range {
    fn parse(query: &Query) -> Result<Self, ApiError> {
        let direction = [("forwards", Direction::Forwards), ("backwards", Direction::Backwards)];
        Ok(Self {
            from: query.number("from", 0..=u64::MAX)?.map(Revision),
            limit: query.number("limit", 1..=10_000)?,
            direction: query.word("direction", &direction)?.unwrap_or(Direction::Forwards),
            detail: query.word("detail", &[("full", Detail::Full)])?.unwrap_or_default(),
        })
    }
}

/// Whose history it is.
#[derive(Clone)]
struct Past {
    stream: StreamId,
    /// Writes an event as an element.
    write: fn(&RecordedEvent, Detail, &mut Vec<u8>) -> Result<(), UnreadableEvent>,
    /// What is said where there is none.
    missing: fn() -> Error,
}

/// Everything that happened to a key, oldest first, from the log itself.
///
/// With `Accept: text/event-stream` the history comes as server-sent events without a
/// name, and every new event follows as it happens: `id:` is the revision, the data is
/// an element of the array, and a comment comes at least every 15 s.
#[utoipa::path(
    get,
    path = "/answers/{key}/history",
    tag = "answers",
    params(KeyParams, HistoryParams, CachedHeaders, Awaiting, ResumeHeaders),
    responses(
        (
            status = 200,
            description = "The events; `ETag` is the newest revision, `Event-Position` that of the newest event shown",
            content((Vec<AnswerEvent<'static>> = "application/json"), (serde_json::Value = "text/event-stream")),
            headers(("ETag"), ("Event-Position")),
        ),
        (status = 304, description = "`If-None-Match` names the newest revision", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = KeyNotFound),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_history(
    State(side): Side,
    KeyPath(key): KeyPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let past = Past { stream: StreamId::of_answer(&key), write: write_event, missing: || Error::NotFound };
    let query = Query::parse(query.as_deref())?;
    show(&side, past, &query, &headers).await
}

/// Everything that happened to a log event, each time as it was from then on.
///
/// With `Accept: text/event-stream` it comes as server-sent events, as an answer's
/// history does.
#[utoipa::path(
    get,
    path = "/v1/events/{id}/history",
    tag = "event log",
    operation_id = "get_event_history",
    params(IdParams, HistoryParams, CachedHeaders, Awaiting, ResumeHeaders),
    responses(
        (
            status = 200,
            description = "The events; `ETag` is the newest revision, `Event-Position` that of the newest event shown",
            content((Vec<LogEventChange> = "application/json"), (serde_json::Value = "text/event-stream")),
            headers(("ETag"), ("Event-Position")),
        ),
        (status = 304, description = "`If-None-Match` names the newest revision", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = EventNotFound),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_event_history(
    State(side): Side,
    IdPath(id): IdPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let past = Past { stream: StreamId::of_event(id), write: write_log_event, missing: Error::no_event };
    let query = Query::parse(query.as_deref())?;
    query.only(&["from", "limit", "direction", "detail", "await"])?;
    show(&side, past, &query, &headers).await
}

async fn show(side: &WriteSide, past: Past, query: &Query, headers: &HeaderMap) -> Result<Response, ApiError> {
    let range = Range::parse(query)?;
    await_position(headers, query.get("await")?)?;
    let last_seen = last_event_id(headers)?;
    if accepts(headers, "text/event-stream") {
        return follow(side, past, &range, last_seen).await;
    }
    let none_match = if_none_match(headers)?;
    let newest = side.history.newest(&past.stream).await?.ok_or_else(past.missing)?;
    let mut tell = Tell { revision: Some(newest.revision), position: Some(newest.position) };
    let pages = Pages::new(&range, newest.revision, side.history.clone(), past);
    tell.position = match pages.newest_shown() {
        Some(shown) if shown < newest.revision => Some(pages.position_of(shown).await?),
        _ => tell.position,
    };
    if none_match.is_some_and(|tags| tags.name(newest.revision)) {
        return Ok(not_modified(tell));
    }
    let body = pages.into_body().await?;
    Ok(with(StatusCode::OK, Some(JSON), body, tell))
}

/// A history on its way out, a page at a time.
struct Pages {
    history: History,
    past: Past,
    direction: Direction,
    detail: Detail,
    /// The next event, and how many are left; the end of the history is fixed when
    /// it is asked for.
    next: Revision,
    left: u64,
    begun: bool,
}

impl Pages {
    fn new(range: &Range, newest: Revision, history: History, past: Past) -> Self {
        let limit = range.limit.unwrap_or(u64::MAX);
        let (next, there) = match range.direction {
            Direction::Forwards => {
                let from = range.from.unwrap_or(Revision::FIRST);
                (from, (newest.0 + 1).saturating_sub(from.0))
            }
            Direction::Backwards => {
                let from = range.from.unwrap_or(newest).min(newest);
                (from, from.0 + 1)
            }
        };
        let left = there.min(limit);
        Self { history, past, direction: range.direction, detail: range.detail, next, left, begun: false }
    }

    /// The newest revision among those that are shown.
    fn newest_shown(&self) -> Option<Revision> {
        let last = self.left.checked_sub(1)?;
        Some(match self.direction {
            Direction::Forwards => Revision(self.next.0 + last),
            Direction::Backwards => self.next,
        })
    }

    async fn position_of(&self, revision: Revision) -> Result<shared::domain::stream::Position, Error> {
        let found = self.history.page(&self.past.stream, revision, Direction::Forwards, 1).await?;
        found.first().map(|event| event.position).ok_or_else(self.past.missing)
    }

    /// The next piece of the JSON array; none behind its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        if self.begun && self.left == 0 {
            return Ok(None);
        }
        let mut text = Vec::new();
        text.extend_from_slice(if self.begun { b"" } else { b"[" });
        if self.left > 0 {
            let limit = usize::try_from(self.left).unwrap_or(PAGE).min(PAGE);
            let events = self.history.page(&self.past.stream, self.next, self.direction, limit).await?;
            if events.is_empty() {
                return Err((self.past.missing)());
            }
            self.write(&events, &mut text)?;
        }
        self.begun = true;
        if self.left == 0 {
            text.push(b']');
        }
        Ok(Some(text.into()))
    }

    fn write(&mut self, events: &[RecordedEvent], text: &mut Vec<u8>) -> Result<(), UnreadableEvent> {
        for event in events {
            if self.begun {
                text.push(b',');
            }
            (self.past.write)(event, self.detail, text)?;
            self.begun = true;
            self.left -= 1;
            self.next = match self.direction {
                Direction::Forwards => self.next.next(),
                Direction::Backwards => Revision(self.next.0.saturating_sub(1)),
            };
        }
        Ok(())
    }

    /// A short history in one piece, a long one streamed. What fails in the first
    /// piece is answered; what fails later breaks the body off.
    async fn into_body(mut self) -> Result<Body, Error> {
        let first = self.piece().await?.unwrap_or_default();
        if self.left == 0 {
            return Ok(Body::from(first));
        }
        let rest = stream::try_unfold(self, async |mut pages| match pages.piece().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, pages))),
            Err(error) => {
                tracing::warn!(error = %error, "a history broke off");
                Err(std::io::Error::other(error))
            }
        });
        let first = stream::once(std::future::ready(Ok(first)));
        Ok(Body::from_stream(futures::StreamExt::chain(first, rest)))
    }
}

/// A history as a live stream.
async fn follow(side: &WriteSide, past: Past, range: &Range, last: Option<Revision>) -> Result<Response, ApiError> {
    if range.limit.is_some() || range.direction == Direction::Backwards {
        let parameter = if range.limit.is_some() { "limit" } else { "direction" };
        return Err(ApiError::bad_request(format!("{parameter}: has no meaning in a live stream")));
    }
    // Listening comes first: nothing falls between the reading and the hearing.
    let listening = side.live.listen(past.stream.clone());
    let newest = side.history.newest(&past.stream).await?.ok_or_else(past.missing)?;
    let next = last.map(Revision::next).or(range.from).unwrap_or(Revision::FIRST);
    let mut follower = Follower {
        history: side.history.clone(),
        past,
        listening,
        next,
        detail: range.detail,
        ready: Vec::new().into_iter(),
        reread: true,
    };
    follower.begin().await?;
    let lifecycle = side.lifecycle.clone();
    let until = async move { lifecycle.stopping().await };
    let events = futures::StreamExt::take_until(follower.into_stream(), until);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let tell = Tell { revision: Some(newest.revision), position: Some(newest.position) };
    response.headers_mut().extend(with(StatusCode::OK, None, Body::empty(), tell).headers().clone());
    Ok(response)
}

struct Follower {
    history: History,
    past: Past,
    listening: Listening,
    next: Revision,
    detail: Detail,
    /// Events that are known and not sent yet.
    ready: std::vec::IntoIter<Arc<RecordedEvent>>,
    /// Whether the stream has to be read before listening goes on.
    reread: bool,
}

impl Follower {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut follower| match follower.event().await {
            Ok(event) => Some((Ok(event), follower)),
            Err(error) => {
                tracing::warn!(error = %error, "a live stream broke off");
                None
            }
        })
    }

    /// Reads what is sent first. What cannot be read in there is answered, as with a
    /// history that does not go on; what cannot be later breaks the stream off.
    async fn begin(&mut self) -> Result<(), Error> {
        self.read().await?;
        let mut text = Vec::new();
        for event in self.ready.as_slice() {
            text.clear();
            (self.past.write)(event, self.detail, &mut text)?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let page = self.history.page(&self.past.stream, self.next, Direction::Forwards, PAGE).await?;
        self.reread = !page.is_empty();
        self.ready = page.into_iter().map(Arc::new).collect::<Vec<_>>().into_iter();
        Ok(())
    }

    async fn event(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(recorded) = self.ready.next() {
                if recorded.revision < self.next {
                    continue;
                }
                if recorded.revision > self.next {
                    self.reread = true;
                    self.ready = Vec::new().into_iter();
                    continue;
                }
                return self.send(&recorded);
            }
            if self.reread {
                self.read().await?;
            } else {
                let heard = self.listening.next().await;
                self.reread = heard.missed;
                self.ready = Vec::from(heard.events).into_iter();
            }
        }
    }

    fn send(&mut self, recorded: &RecordedEvent) -> Result<Event, Error> {
        let mut text = Vec::new();
        (self.past.write)(recorded, self.detail, &mut text)?;
        self.next = recorded.revision.next();
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        Ok(Event::default().id(recorded.revision.to_string()).data(text))
    }
}

/// The answer as it was after a revision, or at a time: one of the two must be given.
#[utoipa::path(
    get,
    path = "/answers/{key}/as-of",
    tag = "answers",
    params(KeyParams, AsOfParams, CachedHeaders, Awaiting),
    responses(
        (
            status = 200,
            description = "The answer then; `ETag` is its revision",
            body = AnswerJson<'static>,
            headers(("ETag"), ("Event-Position")),
        ),
        (status = 304, description = "`If-None-Match` names that revision", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = KeyNotFound),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_as_of(
    State(side): Side,
    KeyPath(key): KeyPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    await_position(&headers, query.get("await")?)?;
    let none_match = if_none_match(&headers)?;
    let as_of = side.history.as_of(&key, moment(&query)?).await?;
    let tell = Tell { revision: Some(as_of.revision), position: Some(as_of.position) };
    let gone = || ApiError::from(Error::NotFound).resting_on(Some(as_of.position));
    let answer = as_of.answer.ok_or_else(gone)?;
    if none_match.is_some_and(|tags| tags.name(as_of.revision)) {
        return Ok(not_modified(tell));
    }
    Ok(json(StatusCode::OK, &AnswerJson::from(&answer), tell))
}

fn moment(query: &Query) -> Result<Moment, ApiError> {
    let revision = query.number("revision", 0..=u64::MAX)?;
    match (revision, query.get("time")?) {
        (Some(revision), None) => Ok(Moment::Revision(Revision(revision))),
        (None, Some(time)) => {
            let parsed = parse_time(time).map_err(|error| ApiError::bad_request(format!("time: {error}")));
            parsed.map(Moment::Time)
        }
        (Some(_), Some(_)) => Err(ApiError::bad_request("revision and time: must not both be given")),
        (None, None) => Err(ApiError::bad_request("revision or time: one of them must be given")),
    }
}

/// A time; a `+` that a URL turned into a space is taken for what it was.
fn parse_time(text: &str) -> Result<Timestamp, shared::domain::time::InvalidTimestamp> {
    text.parse().or_else(|error| match text.rsplit_once(' ') {
        Some((time, offset)) if time.contains(['T', 't']) => format!("{time}+{offset}").parse(),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_plus_is_found_again() {
        let plain: Timestamp = "2026-01-01T00:00:00+01:00".parse().expect("valid");
        assert_eq!(parse_time("2026-01-01T00:00:00 01:00"), Ok(plain));
        assert!(parse_time("2026-01-01 00:00:00").is_err());
    }
}
