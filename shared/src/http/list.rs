//! Lists on their way out, a piece at a time, so that a list of any length takes
//! little memory.

use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;

use crate::error::Error;

/// A piece is sent when it is this large.
const PIECE_BYTES: usize = 64 * 1024;

/// A JSON text that is a list, or holds one: what stands before its elements, how each
/// is written, and what stands behind them.
pub struct List<T, W> {
    pub head: Vec<u8>,
    pub elements: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>,
    pub write: W,
    pub tail: Vec<u8>,
}

impl<T, W> List<T, W>
where
    T: Send + 'static,
    W: FnMut(&T, &mut Vec<u8>) + Send + 'static,
{
    /// A plain array.
    pub fn array(elements: impl Stream<Item = Result<T, Error>> + Send + 'static, write: W) -> Self {
        Self { head: b"[".to_vec(), elements: Box::pin(elements), write, tail: b"]".to_vec() }
    }

    /// A short list in one piece, a long one streamed.
    ///
    /// # Errors
    /// What fails in the first piece; what fails later breaks the body off.
    pub async fn into_body(self) -> Result<Body, Error> {
        let Self { head, elements, write, tail } = self;
        let mut pieces = Pieces { text: head, elements, write, tail, between: false, ended: false };
        let first = pieces.piece().await?.unwrap_or_default();
        if pieces.ended {
            return Ok(Body::from(first));
        }
        let rest = stream::try_unfold(pieces, async |mut pieces| match pieces.piece().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, pieces))),
            Err(error) => {
                tracing::warn!(error = %error, "a list broke off");
                Err(std::io::Error::other(error))
            }
        });
        Ok(Body::from_stream(stream::once(std::future::ready(Ok(first))).chain(rest)))
    }
}

/// Adds an element of our own shapes to a text.
pub fn write_json(element: &impl Serialize, to: &mut Vec<u8>) {
    serde_json::to_writer(to, element).expect("our own shapes are always JSON");
}

struct Pieces<T, W> {
    text: Vec<u8>,
    elements: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>,
    write: W,
    tail: Vec<u8>,
    /// Whether a comma comes before the next element.
    between: bool,
    ended: bool,
}

impl<T, W: FnMut(&T, &mut Vec<u8>)> Pieces<T, W> {
    /// The next piece; none behind the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        while self.text.len() < PIECE_BYTES {
            let Some(element) = self.elements.next().await else {
                self.text.append(&mut self.tail);
                self.ended = true;
                break;
            };
            if std::mem::replace(&mut self.between, true) {
                self.text.push(b',');
            }
            (self.write)(&element?, &mut self.text);
        }
        Ok(Some(std::mem::take(&mut self.text).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn list(elements: Vec<Result<String, Error>>) -> List<String, impl FnMut(&String, &mut Vec<u8>) + Send> {
        List::array(stream::iter(elements), |text: &String, to: &mut Vec<u8>| to.extend_from_slice(text.as_bytes()))
    }

    async fn whole(elements: Vec<Result<String, Error>>) -> Vec<u8> {
        let body = list(elements).into_body().await.expect("a body");
        body.collect().await.expect("whole").to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_list_is_put_together() {
        assert_eq!(whole(Vec::new()).await, b"[]");
        assert_eq!(whole(vec![Ok("1".into())]).await, b"[1]");
        assert_eq!(whole(vec![Ok("1".into()), Ok("2".into())]).await, b"[1,2]");
        let long = "1".repeat(PIECE_BYTES);
        let expected = format!("[{long},{long},2]").into_bytes();
        assert_eq!(whole(vec![Ok(long.clone()), Ok(long), Ok("2".into())]).await, expected);
    }

    #[tokio::test]
    async fn what_fails_at_first_is_answered_and_later_breaks_off() {
        assert!(list(vec![Ok("1".into()), Err(Error::NotFound)]).into_body().await.is_err());
        let long = "1".repeat(PIECE_BYTES);
        let body = list(vec![Ok(long), Err(Error::NotFound)]).into_body().await.expect("a body");
        assert!(body.collect().await.is_err());
    }
}
