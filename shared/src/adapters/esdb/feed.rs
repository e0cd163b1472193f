//! Following the log: a catch-up subscription on `$all` under our prefixes, and where
//! the log ends.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::{Link, Open, WHAT, unavailable};
use super::node::{Answers, ReadError};
use super::proto::{Content, LogPosition, ReadResp};
use super::read::{Broken, READ, next, until};
use super::stored;
use crate::domain::stream::{Position, RecordedEvent};
use crate::ports::{Batch, Checkpoint, LogId, StoreError, Subscription};

/// Events that are looked at together for one of ours.
const LOOK: u64 = 32;

/// Where the log ended when somebody looked last.
#[derive(Default)]
pub(super) struct Ends(Mutex<Seen>);

#[derive(Clone, Copy, Default)]
struct Seen {
    log: Option<LogId>,
    /// Of the last event, whoever's it is.
    end: Position,
    /// Of the last event of ours.
    head: Position,
}

impl Link {
    /// As `EventFeed::end`.
    pub(super) async fn end(&self) -> Result<Position, StoreError> {
        let open = self.open().await?;
        self.look(&open, last_of_all(&open)).await
    }

    /// As `EventFeed::head`. Where nothing was appended since it was asked last, it
    /// costs the read of one event. What others append is looked through once, and
    /// not again from the end backwards each time.
    pub(super) async fn head(&self, ends: &Ends) -> Result<Position, StoreError> {
        let open = self.open().await?;
        let seen = Some(*ends.0.lock()).filter(|seen| seen.log == Some(open.log)).unwrap_or_default();
        let now = self.look(&open, look(&open, seen)).await?;
        let mut ends = ends.0.lock();
        if ends.log == now.log {
            // Of two that looked at once the later may come first.
            ends.end = ends.end.max(now.end);
            ends.head = ends.head.max(now.head);
        } else {
            *ends = now;
        }
        Ok(ends.head)
    }

    /// As `EventFeed::subscribe`.
    pub(super) async fn follow(&self, after: Checkpoint) -> Result<EsdbSubscription, StoreError> {
        let open = self.open().await?;
        let begin = async {
            let deadline = Instant::now() + READ;
            let mut answers = until(deadline, open.node.subscribe(after)).await?;
            // The server says first that it will, or why it will not.
            let first = until(deadline, answers.message()).await?;
            Ok::<_, ReadError>((answers, first))
        };
        let (answers, first) = begin.await.map_err(|error| self.read_failed(&open, error))?;
        let mut subscription = EsdbSubscription {
            answers,
            log: open.log,
            at: after,
            told: after,
            events: VecDeque::new(),
            bytes: 0,
            end: None,
        };
        match first {
            Some(first) => subscription.take(first),
            None => subscription.end = Some(ended()),
        }
        Ok(subscription)
    }

    async fn look<T>(
        &self,
        open: &std::sync::Arc<Open>,
        look: impl Future<Output = Result<T, Broken>>,
    ) -> Result<T, StoreError> {
        look.await.map_err(|failed| match failed {
            Broken::Read(error) => self.read_failed(open, error),
            Broken::Store(error) => error,
        })
    }
}

/// The position of the last event, whoever's it is.
pub(super) async fn last_of_all(open: &Open) -> Result<Position, Broken> {
    let deadline = Instant::now() + READ;
    let mut answers = until(deadline, open.node.backwards(None, false, 1)).await?;
    Ok(next(&mut answers, deadline).await?.map_or(Position::START, |event| Position(event.position)))
}

async fn look(open: &Open, seen: Seen) -> Result<Seen, Broken> {
    let end = last_of_all(open).await?;
    let log = Some(open.log);
    if end <= seen.end || seen.end > Position::START && !any_of_ours(open, seen.end).await? {
        return Ok(Seen { log, end: end.max(seen.end), head: seen.head });
    }
    let head = last_of_ours(open).await?.max(seen.head);
    Ok(Seen { log, end: end.max(head), head })
}

/// Whether anything of ours stands behind a position.
async fn any_of_ours(open: &Open, behind: Position) -> Result<bool, Broken> {
    let deadline = Instant::now() + READ;
    let mut from = behind;
    loop {
        let mut answers = until(deadline, open.node.forwards(from, LOOK)).await?;
        let (mut looked, begin) = (0, from);
        while let Some(event) = next(&mut answers, deadline).await? {
            looked += 1;
            from = Position(event.position);
            if from > begin && stored::decode(event, open.log).map_err(Broken::Store)?.is_some() {
                return Ok(true);
            }
        }
        if looked < LOOK {
            return Ok(false);
        }
    }
}

async fn last_of_ours(open: &Open) -> Result<Position, Broken> {
    let deadline = Instant::now() + READ;
    let (mut before, mut count) = (None, 1);
    loop {
        let mut answers = until(deadline, open.node.backwards(before, true, count)).await?;
        let mut looked = 0;
        while let Some(event) = next(&mut answers, deadline).await? {
            looked += 1;
            before = Some(Position(event.position));
            if let Some(ours) = stored::decode(event, open.log).map_err(Broken::Store)? {
                return Ok(ours.position);
            }
        }
        if looked < count {
            return Ok(Position::START);
        }
        // Others have events under our prefixes.
        count = LOOK;
    }
}

/// A place in the log of EventStoreDB.
///
/// What the server sends ahead waits in the connection, up to the window of a stream;
/// a call takes as much of it as it may.
pub(super) struct EsdbSubscription {
    answers: Answers,
    log: LogId,
    /// What the server has told so far.
    at: Checkpoint,
    /// What the caller has been told.
    told: Checkpoint,
    /// Events that the caller has not got yet, and their size.
    events: VecDeque<RecordedEvent>,
    bytes: usize,
    /// Why there is nothing more to come.
    end: Option<StoreError>,
}

fn ended() -> StoreError {
    unavailable("the server ended the subscription")
}

#[async_trait]
impl Subscription for EsdbSubscription {
    async fn next(&mut self, limit: usize) -> Result<Batch, StoreError> {
        poll_fn(|cx| self.poll(cx, limit)).await
    }
}

impl EsdbSubscription {
    /// All state is in self, so a caller that stops waiting loses nothing.
    fn poll(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<Result<Batch, StoreError>> {
        while self.end.is_none() && self.events.len() < limit && self.bytes < super::super::EVENTS_BYTES {
            match std::pin::Pin::new(&mut self.answers).poll_next(cx) {
                Poll::Ready(Some(Ok(answer))) => self.take(answer),
                Poll::Ready(Some(Err(status))) => {
                    self.end = Some(StoreError::unavailable(WHAT, ReadError::from(status)));
                }
                // An end without an error is one too: there is always more to come.
                Poll::Ready(None) => self.end = Some(ended()),
                Poll::Pending => break,
            }
        }
        if !self.events.is_empty() || self.at > self.told {
            return Poll::Ready(Ok(self.batch(limit)));
        }
        match &self.end {
            Some(error) => Poll::Ready(Err(error.clone())),
            None => Poll::Pending,
        }
    }

    fn take(&mut self, answer: ReadResp) {
        match answer.content {
            Some(Content::Event(read)) => {
                let Some(event) = read.event else { return };
                let at = Checkpoint::at(Position(event.position));
                // Begun at a checkpoint within a page, the server may repeat some.
                if at <= self.at {
                    return;
                }
                match stored::decode(event, self.log) {
                    Ok(Some(event)) => {
                        self.bytes += event.event.data.len();
                        self.events.push_back(event);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.end = Some(error);
                        return;
                    }
                }
                self.at = at;
            }
            Some(Content::Checkpoint(LogPosition { commit, prepare })) => {
                self.at = self.at.max(Checkpoint { commit, prepare });
            }
            Some(Content::Confirmation(_) | Content::StreamNotFound(_)) | None => {}
        }
    }

    fn batch(&mut self, limit: usize) -> Batch {
        let events: Vec<_> = self.events.drain(..limit.min(self.events.len())).collect();
        self.bytes -= events.iter().map(|event| event.event.data.len()).sum::<usize>();
        let last = events.last().map(|event| Checkpoint::at(event.position));
        self.told = last.filter(|_| !self.events.is_empty()).unwrap_or(self.at);
        Batch { events, checkpoint: self.told }
    }
}
