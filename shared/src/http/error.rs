//! From meaning to status and body: the only place that knows which is which.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::headers::EVENT_POSITION;
use crate::domain::members::InvalidEvent;
use crate::domain::refusal::Refusal;
use crate::domain::stream::Position;
use crate::error::Error;
use crate::ports::StoreError;
use crate::wire::answers::BadBody;
use crate::wire::{audit_log, event_logger};

/// The problem of a key that is parked.
const PARKED: &str = "parked";

/// A failed request, as the client learns of it.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    problem: &'static str,
    message: String,
    position: Option<Position>,
    retry_after: Option<u32>,
    /// What the log learns beside, never the client.
    cause: Option<String>,
    /// The body, where an older API has a shape of its own for it.
    body: Option<String>,
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// What is wrong, and where.
    #[schema(example = "Key not found")]
    error: &'a str,
}

/// The body of an error as problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
pub struct ProblemBody<'a> {
    /// Which problem it is; stable.
    #[serde(rename = "type")]
    #[schema(example = "urn:qaservice:problem:key-not-found")]
    kind: String,
    #[schema(example = "Not Found")]
    title: &'a str,
    #[schema(minimum = 400, maximum = 599, example = 404)]
    status: u16,
    /// What is wrong, and where.
    #[schema(example = "Key not found")]
    detail: &'a str,
}

/// An error's parts, for those who write it in another form.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The last part of the problem type's URI.
    pub name: &'static str,
    /// What the client is told.
    pub message: String,
    /// What the log is told.
    pub cause: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, problem: &'static str, message: impl Into<String>) -> Self {
        Self { status, problem, message: message.into(), position: None, retry_after: None, cause: None, body: None }
    }

    /// 400: something of the request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// 404: what the path or the query names is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// 404: there is no such path here.
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-path", "there is nothing at this path")
    }

    /// 404: there is no such path here, but elsewhere.
    pub fn unknown_path_but(elsewhere: &str) -> Self {
        Self { message: format!("there is nothing at this path in this process; {elsewhere}"), ..Self::unknown_path() }
    }

    /// 405: the path has other methods.
    pub fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong-method",
            "this path does not take this method; Allow names those that it takes",
        )
    }

    /// 405: the path has other methods here; this one is taken elsewhere.
    pub fn wrong_method_but(elsewhere: &str) -> Self {
        Self {
            message: format!("this path does not take this method in this process; {elsewhere}"),
            ..Self::wrong_method()
        }
    }

    /// 403: a page or host that is not let in.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: the stream that is named is not parked.
    pub fn not_parked() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-parked", "stream is not parked")
    }

    /// 409: a rebuild is asked for or under way.
    pub fn rebuild_running() -> Self {
        Self::new(StatusCode::CONFLICT, "rebuild-running", "a rebuild is running")
    }

    /// 413: a body or value that is too large.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    }

    /// 408: a body that does not come.
    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the body did not arrive in time")
    }

    /// 500: a bug.
    pub fn bug(cause: String) -> Self {
        let error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error");
        Self { cause: Some(cause), ..error }
    }

    /// 422: something that was understood cannot be, in APIs that tell this from a
    /// malformed request.
    fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value", message)
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Self { retry_after: Some(1), ..error }
    }

    /// 503 for what was not begun because something in front of it failed like this.
    #[must_use]
    pub fn not_begun(&self) -> Self {
        match self.problem {
            PARKED => Self::unavailable("not begun: the key of an earlier line is parked"),
            _ => Self::unavailable(self.message()),
        }
    }

    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The event that it rests on.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The same error, resting on an event at this position.
    #[must_use]
    pub fn resting_on(self, position: Option<Position>) -> Self {
        Self { position, ..self }
    }
}

impl ApiError {
    /// The same error in another shape, made from its message, if it has none yet.
    #[must_use]
    pub fn shaped<B: Serialize>(self, shape: impl FnOnce(&str) -> B) -> Self {
        let body = self.body.or_else(|| serde_json::to_string(&shape(&self.message)).ok());
        Self { body, ..self }
    }
}

impl From<audit_log::Wrong> for ApiError {
    fn from(wrong: audit_log::Wrong) -> Self {
        Self::unprocessable(wrong.to_string()).shaped(|_| &wrong)
    }
}

impl From<audit_log::BadLog> for ApiError {
    fn from(error: audit_log::BadLog) -> Self {
        match error {
            audit_log::BadLog::Malformed(wrong) => Self::bad_request(wrong.to_string()).shaped(|_| &wrong),
            audit_log::BadLog::Values(wrong) => wrong.into(),
        }
    }
}

impl From<event_logger::BadEvent> for ApiError {
    fn from(error: event_logger::BadEvent) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<BadBody> for ApiError {
    fn from(error: BadBody) -> Self {
        match error {
            BadBody::TooLarge(_) => Self::too_large(error.to_string()),
            BadBody::Json(_) | BadBody::NoObject | BadBody::Field { .. } => Self::bad_request(error.to_string()),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Refused(refused) => {
                let (status, problem) = match refused.refusal {
                    Refusal::KeyExists => (StatusCode::CONFLICT, "key-exists"),
                    Refusal::KeyNotFound => (StatusCode::NOT_FOUND, "key-not-found"),
                    Refusal::EventNotFound => (StatusCode::NOT_FOUND, "event-not-found"),
                    Refusal::NotMatched | Refusal::Matched => (StatusCode::PRECONDITION_FAILED, "precondition-failed"),
                };
                Self::new(status, problem, message).resting_on(refused.position)
            }
            Error::Invalid(InvalidEvent::Member { .. }) => Self::bad_request(message),
            Error::Invalid(InvalidEvent::TooLong) => Self::too_large(message),
            Error::NotFound => Self::new(StatusCode::NOT_FOUND, "key-not-found", message),
            Error::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", message),
            Error::InProgress => {
                let error = Self::new(StatusCode::CONFLICT, "request-in-progress", message);
                Self { retry_after: Some(1), ..error }
            }
            Error::Unreadable(source) => Self { cause: Some(source.to_string()), ..Self::parked() },
            Error::Parked => Self::parked(),
            Error::NotReached(_) | Error::ShuttingDown => Self::unavailable(message),
            Error::Failed(error) => error.into(),
        }
    }
}

impl ApiError {
    fn parked() -> Self {
        Self { problem: PARKED, ..Self::unavailable("key is parked") }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let cause = Some(error.chain());
        match error {
            // A conflict comes here only after many tries.
            StoreError::Conflict | StoreError::Busy => Self::unavailable("too much is waiting to be written"),
            StoreError::Full { .. } | StoreError::Unavailable { .. } | StoreError::Foreign { .. } => {
                Self { cause, ..Self::unavailable(message) }
            }
            StoreError::OutcomeUnknown { .. } => {
                Self { cause, problem: "outcome-unknown", ..Self::unavailable(format!("outcome unknown: {message}")) }
            }
            StoreError::Corrupt { .. } => Self { cause, ..Self::parked() },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let plain =
            || serde_json::to_string(&ErrorBody { error: &self.message }).expect("our own shapes are always JSON");
        let body = self.body.unwrap_or_else(plain);
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        let mut number = |name: HeaderName, number: u64| response.headers_mut().insert(name, HeaderValue::from(number));
        if let Some(position) = self.position {
            number(EVENT_POSITION, position.0);
        }
        if let Some(seconds) = self.retry_after {
            number(header::RETRY_AFTER, seconds.into());
        }
        let problem = Problem { name: self.problem, message: self.message, cause: self.cause };
        response.extensions_mut().insert(problem);
        response
    }
}

/// The body of an error as RFC 9457 has it.
pub fn problem_json(status: StatusCode, problem: &Problem) -> Vec<u8> {
    let body = problem_body(status.as_u16(), problem.name, &problem.message);
    serde_json::to_vec(&body).expect("our own shapes are always JSON")
}

/// The same, before it is written; `name` is the last part of the problem's type.
pub(super) fn problem_body<'a>(status: u16, name: &str, detail: &'a str) -> ProblemBody<'a> {
    let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    ProblemBody { kind: format!("urn:qaservice:problem:{name}"), title, status, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Refused;

    #[test]
    fn refusals_have_their_statuses() {
        let status = |refusal| {
            let error = ApiError::from(Error::Refused(Refused { refusal, position: Some(Position(3)) }));
            assert_eq!(error.position(), Some(Position(3)));
            error.status().as_u16()
        };
        assert_eq!(status(Refusal::KeyExists), 409);
        assert_eq!(status(Refusal::KeyNotFound), 404);
        assert_eq!(status(Refusal::NotMatched), 412);
        assert_eq!(status(Refusal::Matched), 412);
        assert_eq!(status(Refusal::EventNotFound), 404);
    }

    #[test]
    fn what_lies_behind_a_failure_is_not_told() {
        let secret = std::io::Error::other("/var/secret is gone");
        let error = ApiError::from(StoreError::unavailable("the event log", secret));
        assert_eq!(error.message(), "the event log does not answer");
        assert_eq!(error.cause.as_deref(), Some("the event log does not answer: /var/secret is gone"));
    }
}
