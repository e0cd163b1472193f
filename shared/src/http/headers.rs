//! Headers with a meaning of ours.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::ApiError;
use crate::domain::answer::{Condition, Tags};
use crate::domain::outcome::IdempotencyKey;
use crate::domain::stream::{Position, Revision};

/// The position of the event behind a response.
pub const EVENT_POSITION: HeaderName = HeaderName::from_static("event-position");
/// The position that a read waits for.
pub const AWAIT_POSITION: HeaderName = HeaderName::from_static("await-position");
/// How many streams are parked, while any is.
pub const PARKED: HeaderName = HeaderName::from_static("parked");
/// What makes a command safe to repeat.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Names a request in logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where a live stream is taken up again.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The entity tag of a revision.
pub fn etag(revision: Revision) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(revision.0).as_bytes();
    let mut tag = [b'"'; 22];
    tag[1..=digits.len()].copy_from_slice(digits);
    value(&tag[..digits.len() + 2])
}

/// A number as a header's value: one allocation, where `HeaderValue::from` takes two.
pub(super) fn number(number: u64) -> HeaderValue {
    value(itoa::Buffer::new().format(number).as_bytes())
}

/// Something that is known to be ASCII.
pub(super) fn value(ascii: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(ascii).expect("visible ASCII is a header value")
}

/// The one value of a header that must not be repeated.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::bad_request(format!("{name}: must not be given twice")));
    }
    value.to_str().map(Some).map_err(|_| ApiError::bad_request(format!("{name}: must be visible ASCII")))
}

/// `If-Match` and `If-None-Match`.
///
/// # Errors
/// 400 if one is malformed.
pub fn condition(headers: &HeaderMap) -> Result<Condition, ApiError> {
    Ok(Condition { if_match: tags(headers, &header::IF_MATCH, Weak::Never)?, if_none_match: if_none_match(headers)? })
}

/// `If-None-Match`, which on a GET asks for 304.
///
/// # Errors
/// 400 if it is malformed.
pub fn if_none_match(headers: &HeaderMap) -> Result<Option<Tags>, ApiError> {
    tags(headers, &header::IF_NONE_MATCH, Weak::Too)
}

/// Whether weak tags name a revision (RFC 9110, 8.8.3.2: `If-Match` compares strongly).
#[derive(Clone, Copy, PartialEq)]
enum Weak {
    Never,
    Too,
}

fn tags(headers: &HeaderMap, name: &HeaderName, weak: Weak) -> Result<Option<Tags>, ApiError> {
    let malformed = || ApiError::bad_request(format!("{name}: must be * or a list of entity tags such as \"3\""));
    let mut revisions = Vec::new();
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    for value in values {
        let mut rest = value.to_str().map_err(|_| malformed())?.trim();
        if rest == "*" && headers.get_all(name).iter().count() == 1 {
            return Ok(Some(Tags::Any));
        }
        loop {
            let (is_weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
            let (tag, behind) = tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(malformed)?;
            if tag.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(malformed());
            }
            if !is_weak || weak == Weak::Too {
                revisions.extend(revision(tag));
            }
            let behind = behind.trim_start();
            if behind.is_empty() {
                break;
            }
            rest = behind.strip_prefix(',').ok_or_else(malformed)?.trim_start();
        }
    }
    Ok(Some(Tags::Revisions(revisions)))
}

/// The revision that a tag of ours names; other tags name nothing.
fn revision(tag: &str) -> Option<Revision> {
    let number: u64 = tag.parse().ok()?;
    (number.to_string() == tag).then_some(Revision(number))
}

/// The `Idempotency-Key` of a command.
///
/// # Errors
/// 400 if it is malformed.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let bad = |error: String| ApiError::bad_request(format!("Idempotency-Key: {error}"));
    let key = single(headers, &IDEMPOTENCY_KEY)?;
    key.map(|text| IdempotencyKey::parse(text).map_err(|error| bad(error.to_string()))).transpose()
}

/// The position that a read waits for, from the header or the parameter `await`;
/// the larger of both.
///
/// # Errors
/// 400 if one is malformed.
pub fn await_position(headers: &HeaderMap, parameter: Option<&str>) -> Result<Option<Position>, ApiError> {
    let header = single(headers, &AWAIT_POSITION)?.map(|text| position("Await-Position", text)).transpose()?;
    let parameter = parameter.map(|text| position("await", text)).transpose()?;
    Ok(header.max(parameter))
}

fn position(name: &str, text: &str) -> Result<Position, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten().map(Position);
    let range = || ApiError::bad_request(format!("{name}: must be a whole number from 0 to {}", Position::MAX));
    number.filter(|position| *position <= Position::MAX).ok_or_else(range)
}

/// Where a live stream is taken up again.
///
/// # Errors
/// 400 if it is malformed.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<Revision>, ApiError> {
    let bad = || ApiError::bad_request("Last-Event-ID: must be a revision");
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    // None stands behind the largest number, so that no event has it.
    let parse = |text: &str| text.parse().ok().filter(|number| *number < u64::MAX).map(Revision);
    let number = |text| Some(text).filter(digits).and_then(parse).ok_or_else(bad);
    single(headers, &LAST_EVENT_ID)?.map(number).transpose()
}

/// The position behind which a live tail is taken up again.
///
/// # Errors
/// 400 if it is malformed.
pub fn last_event_position(headers: &HeaderMap) -> Result<Option<Position>, ApiError> {
    single(headers, &LAST_EVENT_ID)?.map(|text| position("Last-Event-ID", text)).transpose()
}

/// Whether a media type is named in `Accept`.
pub fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let named = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| {
            text.split(',')
                .any(|range| range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(media_type)))
        })
    };
    headers.get_all(header::ACCEPT).iter().any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    fn if_match(value: &'static str) -> Result<Option<Tags>, u16> {
        condition(&with("if-match", value)).map(|c| c.if_match).map_err(|error| error.status().as_u16())
    }

    #[test]
    fn conditions_are_read() {
        let only = |numbers: &[u64]| Ok(Some(Tags::Revisions(numbers.iter().copied().map(Revision).collect())));
        assert_eq!(if_match("*"), Ok(Some(Tags::Any)));
        assert_eq!(if_match("\"3\""), only(&[3]));
        assert_eq!(if_match("\"3\" , \"x\",\"4\""), only(&[3, 4]));
        assert_eq!(if_match("W/\"3\""), only(&[]));
        assert_eq!(if_match("\"03\""), only(&[]));
        for bad in ["3", "", "\"3", "\"3\" \"4\"", "*, \"3\"", "\"3\","] {
            assert_eq!(if_match(bad), Err(400), "{bad}");
        }
        assert_eq!(
            if_none_match(&with("if-none-match", "W/\"3\"")).expect("valid"),
            Some(Tags::Revisions(vec![Revision(3)]))
        );
    }

    #[test]
    fn a_position_is_a_number_below_2_to_the_53() {
        let read =
            |value| await_position(&with("await-position", value), None).map_err(|error| error.status().as_u16());
        assert_eq!(read("0"), Ok(Some(Position(0))));
        assert_eq!(read("9007199254740991"), Ok(Some(Position::MAX)));
        for bad in ["", "-1", "+1", "1.0", "x", "9007199254740992", "99999999999999999999"] {
            assert_eq!(read(bad), Err(400), "{bad}");
        }
        assert_eq!(await_position(&with("await-position", "3"), Some("5")).expect("valid"), Some(Position(5)));
    }

    #[test]
    fn a_live_stream_is_taken_up_behind_a_revision() {
        let read = |value| last_event_id(&with("last-event-id", value)).map_err(|error| error.status().as_u16());
        assert_eq!(read("0"), Ok(Some(Revision(0))));
        for bad in ["", "-1", "+1", "x", "18446744073709551615", "18446744073709551616"] {
            assert_eq!(read(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn accept_names_media_types() {
        assert!(accepts(&with("accept", "text/html, Application/Problem+JSON;q=0.5"), "application/problem+json"));
        assert!(!accepts(&with("accept", "application/json"), "application/problem+json"));
        assert!(!accepts(&HeaderMap::new(), "text/event-stream"));
    }

    #[test]
    fn an_etag_is_quoted() {
        assert_eq!(etag(Revision(0)), "\"0\"");
        assert_eq!(etag(Revision(120)), "\"120\"");
        assert_eq!(etag(Revision(u64::MAX)), "\"18446744073709551615\"");
    }
}
