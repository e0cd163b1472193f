//! Queries on answers.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use shared::error::Error;
use shared::http::cursor;
use shared::http::docs::failures::{KeyNotFound, Unavailable};
use shared::http::docs::parameters::{Awaiting, CachedHeaders, KeyParams};
use shared::http::error::ApiError;
use shared::http::headers::{await_position, if_none_match};
use shared::http::query::Query;
use shared::http::response::{Tell, json, not_modified, tell_parked};
use shared::http::routes::KeyPath;
use shared::ports::{AnswersQuery, Seen};
use shared::wire::answers::{AnswerJson, AnswersJson};
use utoipa::IntoParams;

use crate::ReadSide;
use crate::queries::Listed;

type Side = State<Arc<ReadSide>>;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the handler reads them one by one")]
struct ListParams {
    /// Only keys that begin so.
    #[param(nullable = false)]
    prefix: Option<String>,
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// The `next` of an earlier page.
    #[param(nullable = false, pattern = "^k([0-9A-Za-z]|-[0-9A-F]{2})+$")]
    cursor: Option<String>,
}

/// How many answers a page has, if nobody says.
const LIMIT: u64 = 100;

/// An answer, as the projection has it.
#[utoipa::path(
    get,
    path = "/answers/{key}",
    tag = "answers",
    params(KeyParams, CachedHeaders, Awaiting),
    responses(
        (
            status = 200, description = "The answer", body = AnswerJson<'static>,
            headers(("ETag"), ("Event-Position")),
        ),
        (status = 304, description = "`If-None-Match` names its revision", headers(("ETag"), ("Event-Position"))),
        (status = 404, response = KeyNotFound),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_answer(
    State(side): Side,
    KeyPath(key): KeyPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let none_match = if_none_match(&headers)?;
    let Seen { found, position } = side.queries.answer(&key, awaited).await?;
    let answer = found.ok_or_else(|| ApiError::from(Error::NotFound).resting_on(Some(position)))?;
    let tell = Tell { revision: Some(answer.revision), position: Some(position) };
    if none_match.is_some_and(|tags| tags.name(answer.revision)) {
        return Ok(not_modified(tell));
    }
    Ok(json(StatusCode::OK, &AnswerJson::from(&answer), tell))
}

/// Answers in the order of their keys (by UTF-8 bytes), in pages.
#[utoipa::path(
    get,
    path = "/answers",
    tag = "answers",
    params(ListParams, Awaiting),
    responses(
        (
            status = 200, description = "A page", body = AnswersJson<'static>,
            headers(("Event-Position"), ("Parked")),
        ),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn get_answers(
    State(side): Side,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    let awaited = await_position(&headers, query.get("await")?)?;
    let limit = query.number("limit", 1..=1000)?.unwrap_or(LIMIT);
    let query = AnswersQuery {
        prefix: query.get("prefix")?.unwrap_or_default().to_owned(),
        after: query.get("cursor")?.map(cursor::text_of).transpose()?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let Listed { found: page, position, parked } = side.queries.answers(query, awaited).await?;
    let last = page.answers.last().filter(|_| page.more);
    let body = AnswersJson {
        next: last.map(|answer| cursor::behind(answer.key.as_str())),
        answers: page.answers.iter().map(AnswerJson::from).collect(),
    };
    Ok(tell_parked(json(StatusCode::OK, &body, Tell { revision: None, position: Some(position) }), parked))
}
