//! Commands on answers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use shared::domain::answer::{AnswerCommand, Ask, Condition, Key};
use shared::domain::outcome::{Happened, Outcome};
use shared::error::Error;
use shared::http::body::{self, MAX_BODY_BYTES};
use shared::http::docs::failures::{
    InProgress, KeyExists, KeyNotFound, KeyReused, PreconditionFailed, TooLarge, TooSlow, Unavailable,
};
use shared::http::docs::parameters::{CommandHeaders, KeyParams};
use shared::http::error::ApiError;
use shared::http::headers::{condition, idempotency_key};
use shared::http::response::{JSON, Tell, with};
use shared::http::routes::KeyPath;
use shared::wire::answers::shapes::{AnswerBody as AnswerShape, OkBody, ValueBody};
use shared::wire::answers::{AnswerBody, BadBody};

use crate::commands::Claimed;
use crate::{WriteSide, fingerprint};

type Side = State<Arc<WriteSide>>;

/// Makes an answer. Its key must have none.
#[utoipa::path(
    post,
    path = "/answers",
    tag = "answers",
    params(CommandHeaders),
    request_body(content = AnswerShape),
    responses(
        (
            status = 201, description = "The answer is there", body = OkBody,
            headers(("ETag"), ("Event-Position")), example = json!({"ok": "AnswerCreatedEvent"}),
        ),
        (status = 408, response = TooSlow),
        (status = 409, response = KeyExists),
        (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn post_answer(State(side): Side, request: Request<Body>) -> Result<Response, ApiError> {
    command(&side, None, request, |body, _| Ok((body.key()?, Ask::Create(body.value()?)))).await
}

/// Changes an answer that is there.
#[utoipa::path(
    patch,
    path = "/answers",
    tag = "answers",
    params(CommandHeaders),
    request_body(content = AnswerShape),
    responses(
        (
            status = 200, description = "The answer has the value", body = OkBody,
            headers(("ETag"), ("Event-Position")), example = json!({"ok": "AnswerUpdatedEvent"}),
        ),
        (status = 404, response = KeyNotFound),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn patch_answers(State(side): Side, request: Request<Body>) -> Result<Response, ApiError> {
    command(&side, None, request, |body, _| Ok((body.key()?, Ask::Update(body.value()?)))).await
}

/// Changes an answer that is there.
#[utoipa::path(
    patch,
    path = "/answers/{key}",
    tag = "answers",
    params(KeyParams, CommandHeaders),
    request_body(content = ValueBody),
    responses(
        (
            status = 200, description = "The answer has the value", body = OkBody,
            headers(("ETag"), ("Event-Position")), example = json!({"ok": "AnswerUpdatedEvent"}),
        ),
        (status = 404, response = KeyNotFound),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn patch_answer(
    State(side): Side,
    KeyPath(key): KeyPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    command(&side, Some(key), request, |body, key| with_key(body, key, |body| Ok(Ask::Update(body.value()?)))).await
}

/// Makes an answer or changes it.
#[utoipa::path(
    put,
    path = "/answers/{key}",
    tag = "answers",
    params(KeyParams, CommandHeaders),
    request_body(content = ValueBody),
    responses(
        (
            status = 201, description = "The answer is there", body = OkBody,
            headers(("ETag"), ("Event-Position")), example = json!({"ok": "AnswerCreatedEvent"}),
        ),
        (
            status = 200, description = "The answer has the value", body = OkBody,
            headers(("ETag"), ("Event-Position")), example = json!({"ok": "AnswerUpdatedEvent"}),
        ),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn put_answer(
    State(side): Side,
    KeyPath(key): KeyPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    command(&side, Some(key), request, |body, key| with_key(body, key, |body| Ok(Ask::Put(body.value()?)))).await
}

/// Deletes an answer that is there. What the body says does not matter.
#[utoipa::path(
    delete,
    path = "/answers/{key}",
    tag = "answers",
    params(KeyParams, CommandHeaders),
    responses(
        (
            status = 200, description = "The answer is gone; its history stays", body = OkBody,
            headers(("ETag"), ("Event-Position")), example = json!({"ok": "AnswerDeletedEvent"}),
        ),
        (status = 404, response = KeyNotFound),
        (status = 408, response = TooSlow),
        (status = 409, response = InProgress),
        (status = 412, response = PreconditionFailed),
        (status = 413, response = TooLarge),
        (status = 422, response = KeyReused),
        (status = 503, response = Unavailable),
    ),
)]
pub(crate) async fn delete_answer(
    State(side): Side,
    KeyPath(key): KeyPath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    carry_out(&side, &parts, Some(&key.clone()), &bytes, |_| Ok((key, Ask::Delete))).await
}

fn with_key(
    body: &AnswerBody<'_>,
    key: Option<Key>,
    ask: impl FnOnce(&AnswerBody<'_>) -> Result<Ask, BadBody>,
) -> Result<(Key, Ask), BadBody> {
    match key {
        Some(key) => body.agrees_with(&key).and_then(|()| ask(body)).map(|ask| (key, ask)),
        None => Ok((body.key()?, ask(body)?)),
    }
}

async fn command(
    side: &WriteSide,
    key: Option<Key>,
    request: Request<Body>,
    ask: impl FnOnce(&AnswerBody<'_>, Option<Key>) -> Result<(Key, Ask), BadBody>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, MAX_BODY_BYTES).await?;
    let of_path = key.clone();
    carry_out(side, &parts, key.as_ref(), &bytes, |bytes| ask(&AnswerBody::parse(bytes)?, of_path)).await
}

/// Looks the `Idempotency-Key` up, before anything else is decided; then reads the
/// command and has it carried out.
async fn carry_out(
    side: &WriteSide,
    parts: &Parts,
    of_path: Option<&Key>,
    bytes: &Bytes,
    ask: impl FnOnce(&[u8]) -> Result<(Key, Ask), BadBody>,
) -> Result<Response, ApiError> {
    let claiming = match idempotency_key(&parts.headers)? {
        None => None,
        Some(key) => match side.commands.claim(key, request_fingerprint(parts, of_path, bytes)).await? {
            Claimed::Kept(outcome) => return respond(outcome),
            Claimed::Free(claiming) => Some(claiming),
        },
    };
    let condition: Condition = condition(&parts.headers)?;
    let (key, ask) = ask(bytes)?;
    let command = AnswerCommand { key, ask, condition };
    let place = side.commands.place(&command)?;
    respond(side.commands.execute(command, claiming, place).await?)
}

/// Method, path (its key decoded), conditions and body.
fn request_fingerprint(parts: &Parts, key: Option<&Key>, bytes: &[u8]) -> shared::domain::outcome::Fingerprint {
    let method = parts.method.as_str().as_bytes();
    let key = key.map_or(&b""[..], |key| key.as_str().as_bytes());
    let mut all = vec![method, b"/answers", key, bytes];
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        all.push(b"condition");
        all.extend(parts.headers.get_all(name).iter().map(|value| value.as_bytes()));
    }
    fingerprint(&all)
}

/// The answer to an outcome, the first time and ever after.
fn respond(outcome: Outcome) -> Result<Response, ApiError> {
    let receipt = match outcome {
        Outcome::Done(receipt) => receipt,
        Outcome::Refused(refused) => return Err(Error::Refused(refused).into()),
        Outcome::Begun(_) => return Err(Error::KeyReused.into()),
    };
    let (status, body) = done(receipt.event);
    let tell = Tell { revision: Some(receipt.revision), position: Some(receipt.position) };
    Ok(with(status, Some(JSON), Body::from(body), tell))
}

fn done(event: Happened) -> (StatusCode, &'static str) {
    match event {
        Happened::Created => (StatusCode::CREATED, r#"{"ok":"AnswerCreatedEvent"}"#),
        Happened::Updated => (StatusCode::OK, r#"{"ok":"AnswerUpdatedEvent"}"#),
        Happened::Deleted => (StatusCode::OK, r#"{"ok":"AnswerDeletedEvent"}"#),
    }
}

/// The status that an event is answered with.
pub(crate) fn status_of(event: Happened) -> u16 {
    done(event).0.as_u16()
}
