//! What routes have in common: the key in a path, and the label under which a
//! request is counted.

use std::cell::RefCell;
use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request};
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::MethodRouter;
use uuid::Uuid;

use super::error::ApiError;
use crate::domain::answer::Key;
use crate::domain::stream::Position;

/// The key that a path names. `/answers/batch` is a route of its own for POST,
/// and to every other method a key like any other.
pub struct KeyPath(pub Key);

impl<S: Send + Sync> FromRequestParts<S> for KeyPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let no_text = |_| ApiError::bad_request("path: the key is not UTF-8");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(no_text)?;
        let text = params.iter().find(|(name, _)| *name == "key").map_or("batch", |(_, text)| text);
        Key::parse(text).map(Self).map_err(|error| ApiError::bad_request(format!("path: the key {error}")))
    }
}

/// The id that a path names, as UUIDs are written everywhere: with hyphens, in letters
/// of any case.
pub struct IdPath(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let malformed = || ApiError::bad_request("path: the id must be a UUID");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        let text = params.iter().find(|(name, _)| *name == "id").map(|(_, text)| text);
        let hyphenated = text.filter(|text| text.len() == uuid::fmt::Hyphenated::LENGTH);
        hyphenated.and_then(|text| Uuid::try_parse(text).ok()).map(Self).ok_or_else(malformed)
    }
}

/// The integer id that a path names; 0, which nothing has, for a number that is none.
pub struct NumberPath(pub u64);

impl<S: Send + Sync> FromRequestParts<S> for NumberPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let malformed = || ApiError::bad_request("path: the id must be a whole number");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        match params.iter().find(|(name, _)| *name == "number") {
            // Two slashes with nothing between.
            None | Some((_, "")) => Err(ApiError::unknown_path()),
            Some((_, text)) => number(text).map(Self).ok_or_else(malformed),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok().filter(|number| *number <= Position::MAX.0).unwrap_or(0))
}

thread_local! {
    /// The route that was called last on this thread.
    static CALLED: RefCell<Option<MatchedPath>> = const { RefCell::new(None) };
}

/// The labelled route that this thread has called since this was last asked. A route
/// is called where its request is polled, so whoever polls a request and asks right
/// behind that learns its route, and nothing need be carried in the response.
pub(super) fn called() -> Option<MatchedPath> {
    CALLED.take()
}

/// Lets a route tell that it was called.
pub fn labelled(route: MethodRouter) -> MethodRouter {
    route.layer(LabelLayer)
}

#[derive(Clone)]
struct LabelLayer;

impl<S> tower_layer::Layer<S> for LabelLayer {
    type Service = Labelled<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Labelled(inner)
    }
}

#[derive(Clone)]
struct Labelled<S>(S);

impl<S> tower_service::Service<Request> for Labelled<S>
where
    S: tower_service::Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        CALLED.set(request.extensions().get::<MatchedPath>().cloned());
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_nothing_has_is_still_a_number() {
        assert_eq!(number("7"), Some(7));
        assert_eq!(number("9007199254740991"), Some(Position::MAX.0));
        for none in ["0", "-7", "9007199254740992", "18446744073709551616"] {
            assert_eq!(number(none), Some(0), "{none}");
        }
        for malformed in ["", "-", "x", "1.5", "+7", " 7", "1e3"] {
            assert_eq!(number(malformed), None, "{malformed}");
        }
    }
}
