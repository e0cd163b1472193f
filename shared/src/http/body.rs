//! Bodies of requests, read whole: bounded each, bounded together, and bounded
//! in time.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::time::{Instant, timeout_at};

use super::error::ApiError;

/// The largest body of a command.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// All bodies that are being read may take this much memory together.
const ALL_BODIES_BYTES: usize = 256 * 1024 * 1024;
/// A body that has not come whole by then is given up.
const TIME: Duration = Duration::from_secs(30);

/// What is read and thrown away of a body that is too large, and for how long, so
/// that its sender gets to read the answer.
const DISCARD_BYTES: usize = 64 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// What all bodies that are being read take now.
static READING: AtomicUsize = AtomicUsize::new(0);

/// Bytes that count against what all bodies may take.
#[derive(Default)]
struct Share(usize);

impl Share {
    fn grow(&mut self, by: usize) -> Result<(), ApiError> {
        self.0 += by;
        if READING.fetch_add(by, Ordering::Relaxed) + by > ALL_BODIES_BYTES {
            return Err(ApiError::unavailable("too many large requests at once"));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        READING.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 if it is larger, 408 if it comes too slowly, 503 if too much is being read
/// already, 400 if it breaks off.
pub async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("body: must not be larger than {limit} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut body = body;
    if announced.is_some_and(|length| length > limit) {
        // Who asks first is told before it sends.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body).await;
        }
        return Err(too_large());
    }
    let mut share = Share::default();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let deadline = Instant::now() + TIME;
    loop {
        let frame = match at_once(&mut body).await {
            Some(frame) => frame,
            None => timeout_at(deadline, body.frame()).await.map_err(|_| ApiError::too_slow())?,
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("body: it broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        share.grow(data.len())?;
        if first.len() + rest.len() + data.len() > limit {
            drop((first, rest, share));
            discard(&mut body).await;
            return Err(too_large());
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// The next frame if the connection has it already, as with nearly every body that
/// comes with its head: a timer would cost more than the frame.
async fn at_once(body: &mut Body) -> Option<Option<Result<Frame<Bytes>, axum::Error>>> {
    let mut asked = false;
    std::future::poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending if asked => Poll::Ready(None),
        // The connection hands over what it has once it has been asked.
        Poll::Pending => {
            asked = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// Reads the rest of a body, within bounds, and keeps nothing of it.
async fn discard(body: &mut Body) {
    let rest = async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Whoever is too slow may find the connection closed.
    let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_chunks(chunks: &[&'static str], limit: usize) -> Result<Bytes, u16> {
        let chunks: Vec<Result<_, std::io::Error>> = chunks.iter().map(|chunk| Ok(*chunk)).collect();
        let body = Body::from_stream(futures::stream::iter(chunks));
        read(&HeaderMap::new(), body, limit).await.map_err(|error| error.status().as_u16())
    }

    #[tokio::test]
    async fn a_body_is_put_together_up_to_its_limit() {
        assert_eq!(read_chunks(&[], 4).await, Ok(Bytes::new()));
        assert_eq!(read_chunks(&["ab", "c", "d"], 4).await, Ok(Bytes::from_static(b"abcd")));
        assert_eq!(read_chunks(&["ab", "c", "de"], 4).await, Err(413));
    }

    #[tokio::test]
    async fn an_announced_length_is_believed() {
        let headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, "5".parse().expect("a value"))]);
        let refused = read(&headers, Body::empty(), 4).await.map_err(|error| error.status().as_u16());
        assert_eq!(refused, Err(413));
    }
}
