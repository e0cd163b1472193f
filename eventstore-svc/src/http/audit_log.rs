//! The audit log: logs in.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::docs::parameters::KeyedHeaders;
use shared::http::error::{ApiError, ProblemBody};
use shared::http::response::{Tell, json};
use shared::http::routes::labelled;
use shared::wire::audit_log::shapes::NewLog;
use shared::wire::audit_log::{LogBody, LogJson, WrittenJson, Wrong};

use super::{keyed, record_one};
use crate::WriteSide;

#[derive(utoipa::OpenApi)]
#[openapi(paths(post_write))]
pub(crate) struct Documented;

/// Its routes.
pub(crate) fn routes(side: &Arc<WriteSide>) -> Router {
    let write = || labelled(post(post_write).with_state(side.clone()));
    Router::new().route("/api/write", write()).route("/api/write/", write())
}

/// Writes a log.
#[utoipa::path(
    post,
    path = "/api/write",
    tag = "audit log",
    operation_id = "write_log",
    params(KeyedHeaders),
    request_body(content = NewLog),
    responses(
        (status = 201, description = "The log", body = WrittenJson<'static>, headers(("ETag"), ("Event-Position"))),
        (
            status = 400, description = "The body or a header is malformed",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")),
        ),
        (
            status = 408, description = "The body did not arrive within 30 s",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")),
        ),
        (
            status = 409, description = "A request with this `Idempotency-Key` is under way",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")), headers(("Retry-After")),
        ),
        (
            status = 413, description = "The body or the event is too large",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")),
        ),
        (
            status = 422, description = "Members that cannot be, each named; or the `Idempotency-Key` came with another request",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")),
        ),
        (
            status = 503, description = "Not now",
            content((Wrong = "application/json"), (ProblemBody<'static> = "application/problem+json")), headers(("Retry-After")),
        ),
    ),
)]
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
