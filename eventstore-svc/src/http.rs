//! The routes of the write side.

pub(crate) mod answers;
pub(crate) mod audit_log;
pub(crate) mod batch;
pub(crate) mod event_logger;
pub(crate) mod events;
pub(crate) mod eye_collector;
pub(crate) mod eye_rest;
pub(crate) mod history;

use axum::http::header;
use axum::http::request::Parts;
use shared::domain::log_event::Members;
use shared::domain::time::Timestamp;
use shared::http::error::ApiError;
use shared::http::headers::idempotency_key;
use shared::ports::Record;

use crate::log::{Entry, Keyed, Stored};
use crate::{WriteSide, fingerprint};

/// What makes a request on the event log safe to repeat. `path` is the same for all
/// forms of its path.
fn keyed(parts: &Parts, path: &str, bytes: &[u8]) -> Result<Option<Keyed>, ApiError> {
    keyed_with(parts, path, bytes, &[])
}

/// The same where more of the request decides what it means.
fn keyed_with(parts: &Parts, path: &str, bytes: &[u8], more: &[&[u8]]) -> Result<Option<Keyed>, ApiError> {
    let Some(key) = idempotency_key(&parts.headers)? else { return Ok(None) };
    let mut all = vec![parts.method.as_str().as_bytes(), path.as_bytes(), bytes];
    all.extend(more);
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        all.push(b"condition");
        all.extend(parts.headers.get_all(name).iter().map(|value| value.as_bytes()));
    }
    Ok(Some(Keyed { key, fingerprint: fingerprint(&all) }))
}

/// Records one event, or nothing.
async fn record_one(
    side: &WriteSide,
    keyed: Option<Keyed>,
    members: impl Fn(Timestamp) -> Result<Members, ApiError>,
) -> Result<Record, ApiError> {
    let stored = side.log.record(keyed, |now| Ok::<_, ApiError>(vec![Entry::Record(members(now)?)])).await?.pop();
    match stored.transpose()? {
        Some(Stored::Event(record)) => Ok(record),
        Some(Stored::Rejection(_)) | None => Err(ApiError::bug("an event was not recorded".into())),
    }
}
