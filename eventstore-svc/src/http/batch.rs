//! `POST /answers/batch`: many commands over one connection, answered in order
//! while they still come in, with bounded memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, Stream, StreamExt};
use http_body_util::BodyExt;
use shared::domain::answer::AnswerCommand;
use shared::domain::outcome::{IdempotencyKey, Outcome};
use shared::error::Error;
use shared::http::docs::parameters::KeyedHeaders;
use shared::http::error::ApiError;
use shared::http::headers::idempotency_key;
use shared::http::response::{NDJSON, Tell, with};
use shared::wire::answers::shapes::BatchLine;
use shared::wire::answers::{AnswerBody, LineJson};
use tokio::sync::mpsc;

use super::answers::status_of;
use crate::commands::Commands;
use crate::{WriteSide, fingerprint};

/// The longest line.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;
/// Commands of one batch that are under way at once.
const WINDOW: usize = 1_024;
/// Results that wait for a client which does not read yet.
const RESULTS: usize = 10_000;
/// Results that are written together.
const PIECE: usize = 512;
/// How long a client may leave us without a line.
const SILENCE: Duration = Duration::from_secs(60);
/// The same while the process ends.
const LAST_SILENCE: Duration = Duration::from_secs(1);
/// How long a client may leave its results unread once all their places are taken.
const UNREAD: Duration = Duration::from_secs(30);

/// Many commands at once, a JSON text a line, answered in order while they still come.
///
/// A bad line fails alone. Lines of one key take effect in order. The largest position
/// is the one to await. After a first 503 line no further line is begun.
/// `Idempotency-Key` counts for each line by its number.
#[utoipa::path(
    post,
    path = "/answers/batch",
    tag = "answers",
    params(KeyedHeaders),
    request_body(
        content = BatchLine, content_type = "application/x-ndjson", description = "Lines of at most 4 MiB",
        example = "{\"op\":\"create\",\"key\":\"name\",\"value\":\"john\"}\n{\"op\":\"delete\",\"key\":\"name\"}\n",
    ),
    responses((
        status = 200, description = "A line for each line", content_type = "application/x-ndjson", body = LineJson<'static>,
        example = "{\"status\":201,\"ok\":\"AnswerCreatedEvent\",\"revision\":0,\"position\":1}\n\
            {\"status\":200,\"ok\":\"AnswerDeletedEvent\",\"revision\":1,\"position\":2}\n",
    )),
)]
pub(crate) async fn post_batch(
    State(side): State<Arc<WriteSide>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(request.headers())?;
    let (results, waiting) = mpsc::channel(RESULTS);
    tokio::spawn(run(side, key, Lines::new(request.into_body()), results));
    Ok(with(StatusCode::OK, Some(NDJSON), Body::from_stream(Results { waiting, broken: None }), Tell::default()))
}

/// What a line came to.
type Result_ = Result<Outcome, ApiError>;

/// Reads lines, has them carried out, and hands their results on in order.
async fn run(side: Arc<WriteSide>, key: Option<IdempotencyKey>, mut lines: Lines, results: mpsc::Sender<Item>) {
    let mut under_way: FuturesOrdered<BoxFuture<'static, Result_>> = FuturesOrdered::new();
    // The first result that says 503 stops the rest.
    let mut stopped: Option<ApiError> = None;
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            biased;
            Some(result) = under_way.next(), if !under_way.is_empty() => {
                if let Err(error) = &result && error.status() == StatusCode::SERVICE_UNAVAILABLE && stopped.is_none() {
                    stopped = Some(error.clone());
                }
                if hand_on(&results, Ok(result)).await.is_err() {
                    return;
                }
            }
            line = lines.next(), if open && under_way.len() < WINDOW => {
                if side.lifecycle.is_stopping() {
                    stopped.get_or_insert_with(|| Error::ShuttingDown.into());
                }
                match line {
                    Ok(Some(line)) => {
                        let not_begun = stopped.as_ref().map(ApiError::not_begun);
                        under_way.push_back(match not_begun {
                            Some(error) => Box::pin(std::future::ready(Err(error))),
                            None => begin(&side.commands, key.as_ref(), line).await,
                        });
                    }
                    Ok(None) => open = false,
                    Err(error) => {
                        // What was begun is finished; the results break off behind it.
                        while let Some(result) = under_way.next().await {
                            if hand_on(&results, Ok(result)).await.is_err() {
                                return;
                            }
                        }
                        let _ = hand_on(&results, Err(error)).await;
                        return;
                    }
                }
            }
            () = side.lifecycle.stopping(), if open && !lines.is_last() => {
                // Lines that still come are answered; nobody waits long for more.
                stopped.get_or_insert_with(|| Error::ShuttingDown.into());
                lines.end_soon();
            }
        }
    }
}

/// Puts a result where the client finds it, if it reads.
async fn hand_on(results: &mpsc::Sender<Item>, item: Item) -> Result<(), ()> {
    match tokio::time::timeout(UNREAD, results.send(item)).await {
        Ok(Ok(())) => Ok(()),
        // The client is gone, or is cut off.
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

/// Begins a line: its place in its key's queue is taken when this returns.
async fn begin(commands: &Commands, key: Option<&IdempotencyKey>, line: Line) -> BoxFuture<'static, Result_> {
    let refused = |error: ApiError| -> BoxFuture<'static, Result_> { Box::pin(std::future::ready(Err(error))) };
    let bytes = match line.bytes {
        Ok(bytes) => bytes,
        Err(error) => return refused(error),
    };
    let command = AnswerBody::parse(&bytes).and_then(|body| body.command()).map_err(ApiError::from);
    let claim = key.map(|key| (key.of_line(line.number), fingerprint(&[b"POST", b"/answers/batch", &bytes])));
    let command: AnswerCommand = match (command, &claim) {
        (Ok(command), _) => command,
        (Err(error), None) => return refused(error),
        (Err(error), Some((key, fingerprint))) => {
            // A line that came before as another one is told so first.
            let reused = commands.claim(key.clone(), *fingerprint).await.err();
            return refused(reused.map_or(error, ApiError::from));
        }
    };
    let claiming = claim.map(|(key, fingerprint)| commands.claim_unseen(key, fingerprint)).transpose();
    match (claiming, commands.wait_for_place(&command).await) {
        (Ok(claiming), Ok(place)) => {
            let outcome = commands.execute_apart(command, claiming, place);
            Box::pin(async move {
                match outcome.await? {
                    Outcome::Refused(refused) => Err(Error::Refused(refused).into()),
                    Outcome::Begun(_) => Err(Error::KeyReused.into()),
                    done @ Outcome::Done(_) => Ok(done),
                }
            })
        }
        (Err(error), _) | (_, Err(error)) => refused(error.into()),
    }
}

/// A line that says something; blank ones are only counted.
struct Line {
    /// From 1.
    number: u64,
    bytes: Result<Bytes, ApiError>,
}

/// The lines of a body.
struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer has no end of line in it.
    searched: usize,
    number: u64,
    /// Whether the rest of an oversized line is being passed over.
    skipping: bool,
    ended: bool,
    /// Whether a silence ends the body, as its own end would.
    last: bool,
}

impl Lines {
    fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, number: 0, skipping: false, ended: false, last: false }
    }

    /// The next silence is the end.
    fn end_soon(&mut self) {
        self.last = true;
    }

    fn is_last(&self) -> bool {
        self.last
    }

    /// The next line; none at the end of the body. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Option<Line>, std::io::Error> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(self.take_last());
            }
            let silence = if self.last { LAST_SILENCE } else { SILENCE };
            let Ok(frame) = tokio::time::timeout(silence, self.body.frame()).await else {
                if !self.last {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                self.ended = true;
                continue;
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(std::io::Error::other(error)),
                None => self.ended = true,
            }
        }
    }

    /// A line that is there whole, or is too long already.
    fn take(&mut self) -> Option<Line> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return self.pass_over();
            };
            let bytes = self.buffer.split_to(self.searched + end + 1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            self.number += 1;
            if let Some(line) = self.line(bytes.freeze()) {
                return Some(line);
            }
        }
    }

    /// What stands behind the last end of line.
    fn take_last(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        self.searched = 0;
        if std::mem::take(&mut self.skipping) || rest.is_empty() {
            return None;
        }
        self.number += 1;
        self.line(rest)
    }

    /// Answers a line that is too long before its end has come, and forgets it.
    fn pass_over(&mut self) -> Option<Line> {
        if self.skipping {
            self.buffer.clear();
            self.searched = 0;
            return None;
        }
        if self.buffer.len() <= MAX_LINE_BYTES {
            return None;
        }
        self.buffer.clear();
        self.searched = 0;
        self.skipping = true;
        self.number += 1;
        Some(self.too_long())
    }

    fn too_long(&self) -> Line {
        let error = ApiError::too_large(format!("line: must not be longer than {MAX_LINE_BYTES} bytes"));
        Line { number: self.number, bytes: Err(error) }
    }

    fn line(&self, bytes: Bytes) -> Option<Line> {
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return None;
        }
        if text.len() > MAX_LINE_BYTES {
            return Some(self.too_long());
        }
        Some(Line { number: self.number, bytes: Ok(bytes.slice_ref(text)) })
    }
}

type Item = Result<Result_, std::io::Error>;

/// The body of the response: results as they come, many in one piece.
struct Results {
    waiting: mpsc::Receiver<Item>,
    /// What breaks the body off once the results before it are out.
    broken: Option<std::io::Error>,
}

impl Stream for Results {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut text = Vec::new();
        for _ in 0..PIECE {
            match self.waiting.poll_recv(cx) {
                Poll::Ready(Some(Ok(result))) => write_line(&mut text, result),
                Poll::Ready(Some(Err(error))) if text.is_empty() => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Err(error))) => {
                    self.broken = Some(error);
                    break;
                }
                Poll::Ready(None) if text.is_empty() => return Poll::Ready(None),
                Poll::Pending if text.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(text.into())))
    }
}

fn write_line(text: &mut Vec<u8>, result: Result_) {
    let line = match &result {
        Ok(Outcome::Done(receipt)) => LineJson {
            status: status_of(receipt.event),
            ok: Some(receipt.event.name()),
            error: None,
            revision: Some(receipt.revision.0),
            position: Some(receipt.position.0),
        },
        // `begin` turns refusals into errors.
        Ok(Outcome::Refused(_) | Outcome::Begun(_)) => return,
        Err(error) => LineJson {
            status: error.status().as_u16(),
            ok: None,
            error: Some(error.message()),
            revision: None,
            position: error.position().map(|position| position.0),
        },
    };
    serde_json::to_writer(&mut *text, &line).expect("a vector takes our own shapes");
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(chunks: Vec<Vec<u8>>) -> Vec<(u64, Result<String, u16>)> {
        let chunks = chunks.into_iter().map(Ok::<_, std::io::Error>);
        let mut lines = Lines::new(Body::from_stream(futures::stream::iter(chunks)));
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.expect("no failure") {
            let text = line.bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            found.push((line.number, text.map_err(|error| error.status().as_u16())));
        }
        found
    }

    fn text(number: u64, text: &str) -> (u64, Result<String, u16>) {
        (number, Ok(text.into()))
    }

    #[tokio::test]
    async fn lines_are_counted_and_blank_ones_skipped() {
        let found = lines(vec![b"a\n\n \r\nb".to_vec(), b"c\r\n".to_vec(), b"d".to_vec()]).await;
        assert_eq!(found, [text(1, "a"), text(4, "bc"), text(5, "d")]);
        assert_eq!(lines(vec![]).await, []);
    }

    #[tokio::test]
    async fn an_oversized_line_fails_alone() {
        let long = vec![b'x'; MAX_LINE_BYTES / 2 + 1];
        let found = lines(vec![b"a\n".to_vec(), long.clone(), long, b"xx\nb\n".to_vec()]).await;
        assert_eq!(found, [text(1, "a"), (2, Err(413)), text(3, "b")]);
    }
}
