//! Failures that routes have in common, as responses that handlers name.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::{Header, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{PartialSchema, ToResponse, ToSchema};

use crate::http::error::{ErrorBody, ProblemBody, problem_body};

/// A failure: its status, the last part of its problem type, and its headers.
struct Failure {
    name: &'static str,
    status: u16,
    what: &'static str,
    problem: &'static str,
    example: &'static str,
    headers: &'static [&'static str],
}

macro_rules! failures {
    ($($name:ident = $status:literal $problem:literal $example:literal [$($header:literal),*] $what:literal;)+) => {
        $(#[doc = $what]
        pub struct $name;

        impl ToResponse<'static> for $name {
            fn response() -> (&'static str, RefOr<Response>) {
                const FAILURE: Failure = Failure {
                    name: stringify!($name),
                    status: $status,
                    what: $what,
                    problem: $problem,
                    example: $example,
                    headers: &[$($header),*],
                };
                (FAILURE.name, FAILURE.response())
            }
        })+

        /// Every failure, by its name.
        pub(super) fn all() -> BTreeMap<String, RefOr<Response>> {
            [$($name::response()),+].into_iter().map(|(name, response)| (name.to_owned(), response)).collect()
        }
    };
}

failures! {
    BadRequest = 400 "bad-request" "limit: must be a whole number from 1 to 1000" []
        "Something of the request is malformed or out of range; the error says what and where";
    Forbidden = 403 "forbidden" "Host: not a name of this machine; ALLOWED_HOSTS names others" []
        "A web page of another origin may not send this, or the host is not a name of this machine";
    KeyNotFound = 404 "key-not-found" "Key not found" ["Event-Position"]
        "The key has no live answer; `Event-Position` is that of the event that says so, if there is one";
    EventNotFound = 404 "event-not-found" "event not found" ["Event-Position"]
        "There is no such event, or it is gone";
    ErrorNotFound = 404 "not-found" "error not found" ["Event-Position"]
        "There is no such error record";
    PageNotFound = 404 "not-found" "page: there is none behind page 1" ["Event-Position", "Parked"]
        "The page lies past the end";
    NotParked = 404 "not-parked" "stream is not parked" []
        "The stream that is named is not parked";
    TooSlow = 408 "too-slow" "the body did not arrive in time" []
        "The body did not arrive within 30 s";
    KeyExists = 409 "key-exists" "Key exists" ["Event-Position", "Retry-After"]
        "The key has a live answer; or a request with this `Idempotency-Key` is under way (`request in progress`)";
    InProgress = 409 "request-in-progress" "request in progress" ["Retry-After"]
        "A request with this `Idempotency-Key` is under way";
    RebuildRunning = 409 "rebuild-running" "a rebuild is running" []
        "A rebuild is asked for or under way; `GET /rebuild` says how it goes";
    PreconditionFailed = 412 "precondition-failed" "If-Match does not name the current revision" ["Event-Position"]
        "`If-Match` does not name the revision at hand, or `If-None-Match: *` was sent and there is one";
    TooLarge = 413 "too-large" "body: must not be larger than 4194304 bytes" []
        "The body or something in it is too large";
    KeyReused = 422 "idempotency-key-reused" "Idempotency-Key was used for another request" []
        "This `Idempotency-Key` came with another method, path, condition or body before";
    Internal = 500 "internal" "internal error" []
        "A bug";
    Unavailable = 503 "unavailable" "the event log does not answer" ["Retry-After"]
        "A backend does not answer, too much is waiting, or the key is parked: one of its events cannot be read, \
         or lies at or before what is awaited and cannot be projected. The request may be repeated; where the error says \
         `outcome unknown` it may have taken effect: repeat it with its `Idempotency-Key`, or read first";
}

impl Failure {
    fn response(&self) -> RefOr<Response> {
        let plain = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(ErrorBody::name())))
            .example(Some(json!({ "error": self.example })));
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(ProblemBody::name())))
            .example(serde_json::to_value(problem_body(self.status, self.problem, self.example)).ok());
        let response = ResponseBuilder::new()
            .description(self.what)
            .content("application/json", plain.build())
            .content("application/problem+json", problem.build());
        let named = |response: ResponseBuilder, name: &&str| response.header(*name, Header::default());
        self.headers.iter().fold(response, named).into()
    }
}

/// The bodies of failures.
pub(super) fn schemas() -> [(String, RefOr<Schema>); 2] {
    [(ErrorBody::name().into(), ErrorBody::schema()), (ProblemBody::name().into(), ProblemBody::schema())]
}

/// What the server itself may answer, whichever route is asked.
pub(super) fn of_every_route() -> [(String, RefOr<Response>); 3] {
    let failure = |status: &str, name: &str| (status.to_owned(), RefOr::Ref(Ref::from_response_name(name)));
    [failure("400", "BadRequest"), failure("403", "Forbidden"), failure("500", "Internal")]
}
