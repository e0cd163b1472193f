//! The routes of the write side.

pub(crate) mod answers;
pub(crate) mod batch;
pub(crate) mod events;
pub(crate) mod eye_collector;
pub(crate) mod eye_rest;
pub(crate) mod history;

use axum::http::header;
use axum::http::request::Parts;
use shared::http::error::ApiError;
use shared::http::headers::idempotency_key;

use crate::fingerprint;
use crate::log::Keyed;

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
