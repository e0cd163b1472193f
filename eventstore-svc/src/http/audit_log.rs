//! The audit log: logs in.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::error::ApiError;
use shared::http::response::{Tell, json};
use shared::http::routes::labelled;
use shared::wire::audit_log::{LogBody, LogJson, WrittenJson, Wrong};

use super::{keyed, record_one};
use crate::WriteSide;

/// Its routes.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let write = || labelled(post(post_write).with_state(side.clone()));
    Router::new().route("/api/write", write()).route("/api/write/", write())
}

/// `POST /api/write`.
async fn post_write(State(side): State<Arc<WriteSide>>, request: Request<Body>) -> Result<Response, ApiError> {
    write(&side, request).await.map_err(|error| error.shaped(Wrong::told))
}

async fn write(side: &WriteSide, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let keyed = keyed(&parts, "/api/write", &bytes)?;
    let record = record_one(side, keyed, |now| Ok(LogBody::parse(&bytes)?.into_members(now))).await?;
    let tell = Tell { revision: Some(record.revision), position: Some(record.position) };
    Ok(json(StatusCode::CREATED, &WrittenJson { log: LogJson::written(&record.event) }, tell))
}
