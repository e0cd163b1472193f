//! Headers and parameters of requests that routes have in common. What need not be
//! sent has no example: the page would send it.

use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use crate::wire::answers::shapes::KeyText;

/// What a command may be sent with.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct CommandHeaders {
    /// Makes the command safe to repeat: the repetition gets the first outcome, for at
    /// least 24 hours. Its scope is the whole service.
    #[param(
        rename = "Idempotency-Key",
        nullable = false,
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]{1,255}$"
    )]
    pub idempotency_key: Option<String>,
    /// Carries the command out only if the live answer has one of these revisions; `*`
    /// is any.
    #[param(rename = "If-Match", nullable = false, pattern = r#"^(\*|"[0-9]+"( ?, ?"[0-9]+")*)$"#)]
    pub if_match: Option<String>,
    /// `*`: carries the command out only if there is no live answer.
    #[param(rename = "If-None-Match", nullable = false, pattern = r#"^(\*|(W/)?"[0-9]+"( ?, ?(W/)?"[0-9]+")*)$"#)]
    pub if_none_match: Option<String>,
}

/// What a command without conditions may be sent with.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct KeyedHeaders {
    /// Makes the command safe to repeat: the repetition gets the first outcome, for at
    /// least 24 hours. Its scope is the whole service.
    #[param(
        rename = "Idempotency-Key",
        nullable = false,
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]{1,255}$"
    )]
    pub idempotency_key: Option<String>,
}

/// What a read of one thing may be sent with.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct CachedHeaders {
    /// Answers 304 if the revision is one of these.
    #[param(rename = "If-None-Match", nullable = false, pattern = r#"^(\*|(W/)?"[0-9]+"( ?, ?(W/)?"[0-9]+")*)$"#)]
    pub if_none_match: Option<String>,
}

/// The position that a read waits for: a header or a parameter.
pub struct Awaiting;

impl IntoParams for Awaiting {
    fn into_params(place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        [AwaitHeader::into_params(&place), AwaitParams::into_params(&place)].concat()
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is read by hand")]
struct AwaitHeader {
    /// Answers only once the projection has reached this position; 503 if it does not
    /// within 5 s. History and as-of are never behind: they wait for nothing.
    #[param(rename = "Await-Position", nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    await_position: Option<u64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is read by hand")]
struct AwaitParams {
    /// `Await-Position` as a parameter; the larger of both counts.
    #[param(rename = "await", nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    await_position: Option<u64>,
}

/// The id of a log event in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct IdParams {
    pub id: uuid::Uuid,
}

/// An integer id in a path: the position of what recorded it.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NumberParams {
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    pub number: u64,
}

/// The key in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct KeyParams {
    /// UTF-8 of at most 512 bytes without control characters, percent-encoded; neither
    /// `.` nor `..`.
    #[param(value_type = KeyText, example = "name")]
    pub key: String,
}
