//! Responses with our headers.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use super::headers::{EVENT_POSITION, PARKED, etag, number};
use crate::domain::stream::{Position, Revision};

/// The media type of nearly everything.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// A JSON text a line.
pub const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// What a response tells beside its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tell {
    pub revision: Option<Revision>,
    pub position: Option<Position>,
}

/// A response with a JSON body.
pub fn json(status: StatusCode, body: &impl Serialize, tell: Tell) -> Response {
    let body = serde_json::to_vec(body).expect("our own shapes are always JSON");
    with(status, Some(JSON), Body::from(body), tell)
}

/// A response with any body.
pub fn with(status: StatusCode, content_type: Option<HeaderValue>, body: Body, tell: Tell) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(8);
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(revision) = tell.revision {
        headers.insert(header::ETAG, etag(revision));
    }
    if let Some(position) = tell.position {
        headers.insert(EVENT_POSITION, number(position.0));
    }
    response
}

/// A response that also tells how many streams are parked, while any is: what it shows
/// may lack what waits behind them.
pub fn tell_parked(mut response: Response, streams: u64) -> Response {
    if streams > 0 {
        response.headers_mut().insert(PARKED, HeaderValue::from(streams));
    }
    response
}

/// 304 and nothing else.
pub fn not_modified(tell: Tell) -> Response {
    with(StatusCode::NOT_MODIFIED, None, Body::empty(), tell)
}
