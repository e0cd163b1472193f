//! Sessions of `batch_append`: appends are sent on streams that are open already, one
//! round trip each. A refused append ends its session, and the answers of the others
//! on it are lost; so there are several, and others stand ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use eventstore::{BatchAppendClient, BatchAppendOptions, BatchWriteResult, Client, Error, EventData, StreamState};
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Code;

use super::link::chain;
use super::log;
use crate::domain::stream::{ExpectedRevision, Position, Revision};
use crate::ports::LogId;

/// Open sessions for appends to new streams, and for all others. Apart, because it is
/// the first kind that is refused in the course of things: a create of a key that exists.
const LANE: usize = 4;
/// Sessions that take the place of ended ones at once.
const SPARE: usize = 4;
/// How long an answer may take: the server gives up after 2 s by itself.
const ANSWER: Duration = Duration::from_secs(3);
const LATE: &str = "an append was not answered in time";
/// What the client says when a session ended for another append's sake.
const CLOSED: &str = "Batch-append stream has been closed";

/// The open sessions of a client.
pub(super) struct Sessions {
    client: Client,
    log: LogId,
    lanes: [Lane; 2],
    spare: Mutex<Vec<Arc<Session>>>,
    /// Told when sessions are missing.
    missing: Arc<Notify>,
    /// Told when there are new ones.
    filled: Notify,
    answered: AtomicBool,
    /// When the server last said something about an append.
    heard: Mutex<Instant>,
}

#[derive(Default)]
struct Lane {
    places: [Mutex<Option<Arc<Session>>>; LANE],
    next: AtomicUsize,
}

struct Session {
    client: BatchAppendClient,
}

/// Where an append ended up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    /// Of the last event.
    pub(super) revision: Revision,
    pub(super) position: Position,
}

/// What became of an append that was sent once.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Stored),
    /// The stream ends elsewhere: this sending stored nothing.
    WrongVersion,
    /// The server will not have it, now or later; it stored nothing.
    Denied(String),
    /// There was no session to send it on.
    NotSent,
    /// It may or may not be stored.
    Lost(Loss),
}

/// Why an answer did not come.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) why: String,
    pub(super) then: Then,
}

/// What a lost answer says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The session ended for another append's sake: send it again.
    Resend,
    /// It would be the same again.
    GiveUp,
    /// The connection is in trouble.
    Reconnect,
    /// And the client would lead to the same place again.
    Replace,
}

impl Sessions {
    /// No sessions yet.
    pub(super) fn new(client: Client, log: LogId, missing: Arc<Notify>) -> Self {
        Self {
            client,
            log,
            lanes: Default::default(),
            spare: Mutex::default(),
            missing,
            filled: Notify::new(),
            answered: AtomicBool::new(false),
            heard: Mutex::new(Instant::now()),
        }
    }

    /// Whether an append came through.
    pub(super) fn have_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Opens what is missing.
    pub(super) async fn fill(&self) -> Result<(), String> {
        let places = self.lanes.iter().flat_map(|lane| &lane.places).filter(|place| place.lock().is_none());
        let fill = |place| async move {
            let session = self.begin().await?;
            *Mutex::lock(place) = Some(session);
            self.filled.notify_waiters();
            Ok::<_, String>(())
        };
        let spare = SPARE.saturating_sub(self.spare.lock().len());
        let (_, spare) =
            tokio::try_join!(try_join_all(places.map(fill)), try_join_all((0..spare).map(|_| self.begin())))?;
        self.spare.lock().extend(spare);
        Ok(())
    }

    /// Opens a session and sends the log's first event on it, which stands in the log
    /// already, or comes to stand there now. That proves that the session works, and
    /// takes from it the slowness of its first message: the opening and that are two
    /// small writes on a connection without TCP_NODELAY.
    async fn begin(&self) -> Result<Arc<Session>, String> {
        let client = self.client.batch_append(&BatchAppendOptions::default()).await.map_err(|error| chain(&error))?;
        let first = log::first_event(self.log).map_err(|error| error.chain())?;
        let sent = client.append_to_stream(log::STREAM, StreamState::NoStream, vec![first]);
        let answer = tokio::time::timeout(ANSWER, sent).await.map_err(|_| LATE)?;
        answer.map_err(|error| chain(&error))?;
        Ok(Arc::new(Session { client }))
    }

    /// Sends an append once and waits for its answer.
    pub(super) async fn send(
        &self,
        stream: &str,
        expected: ExpectedRevision,
        events: Vec<EventData>,
        deadline: Instant,
    ) -> Answer {
        let (lane, state) = match expected {
            ExpectedRevision::NoStream => (&self.lanes[0], StreamState::NoStream),
            ExpectedRevision::Exact(Revision(last)) => (&self.lanes[1], StreamState::StreamRevision(last)),
        };
        let Ok(session) = tokio::time::timeout_at(deadline, self.session(lane)).await else { return Answer::NotSent };
        let sent = session.client.append_to_stream(stream, state, events);
        let answer = tokio::time::timeout_at(deadline.min(Instant::now() + ANSWER), sent).await;
        let answer = match answer {
            Ok(Ok(stored)) => stored_at(&stored),
            Ok(Err(error)) => failed(error),
            // A server that answers others is only slow: connecting anew would not help it.
            Err(_) if self.heard.lock().elapsed() < ANSWER => lost(LATE.into(), Then::Resend),
            Err(_) => lost(LATE.into(), Then::Replace),
        };
        if !matches!(answer, Answer::Lost(_)) {
            *self.heard.lock() = Instant::now();
        }
        if let Answer::Stored(_) = answer {
            self.answered.store(true, Ordering::Relaxed);
        } else {
            self.retire(lane, &session);
        }
        answer
    }

    async fn session(&self, lane: &Lane) -> Arc<Session> {
        loop {
            // Looking after listening: nothing is missed.
            let filled = self.filled.notified();
            if let Some(session) = lane.pick() {
                return session;
            }
            filled.await;
        }
    }

    /// Puts another in the place of a session that ended.
    fn retire(&self, lane: &Lane, ended: &Arc<Session>) {
        let is_it = |session: &Arc<Session>| Arc::ptr_eq(session, ended);
        for place in &lane.places {
            let mut place = place.lock();
            if place.as_ref().is_some_and(is_it) {
                *place = self.spare.lock().pop();
                self.missing.notify_one();
                return;
            }
        }
    }
}

impl Lane {
    fn pick(&self) -> Option<Arc<Session>> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (0..LANE).find_map(|step| self.places[next.wrapping_add(step) % LANE].lock().clone())
    }
}

fn stored_at(stored: &BatchWriteResult) -> Answer {
    match (stored.current_revision(), stored.current_position()) {
        (Some(revision), Some(position)) => {
            Answer::Stored(Stored { revision: Revision(revision), position: Position(position.commit) })
        }
        _ => Answer::Denied("what was appended was deleted".into()),
    }
}

/// What an error says about the append that got it. The codes of the answer to a
/// single append come as `Grpc`, as those of a broken call do only in part.
fn failed(error: Error) -> Answer {
    let why = chain(&error);
    match error {
        Error::Grpc { code: Code::AlreadyExists, .. } => Answer::WrongVersion,
        Error::Grpc { code: Code::NotFound, .. } => Answer::Denied("the stream was deleted for good".into()),
        Error::Grpc { code: Code::PermissionDenied, .. } => Answer::Denied(why),
        Error::Grpc { code: Code::InvalidArgument, .. } => lost(why, Then::GiveUp),
        // The server gave this append up in the middle, and this one only.
        Error::Grpc { code: Code::DeadlineExceeded | Code::Unknown, .. } => lost(why, Then::Resend),
        Error::ServerError(text) if text.contains(CLOSED) => lost(why, Then::Resend),
        // The connection broke, and the client connects again by itself.
        Error::ServerError(_) | Error::Grpc { .. } | Error::DeadlineExceeded => lost(why, Then::Reconnect),
        _ => lost(why, Then::Replace),
    }
}

fn lost(why: String, then: Then) -> Answer {
    Answer::Lost(Loss { why, then })
}
