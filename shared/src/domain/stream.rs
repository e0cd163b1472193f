//! Streams of events: their names, places in them and places in the whole log.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::answer::Key;
use super::time::Timestamp;

/// The first words of the names of streams.
const ANSWER_PREFIX: &str = "answer-";
const EVENT_PREFIX: &str = "event-";
const SESSION_PREFIX: &str = "session-";
const REJECTION_PREFIX: &str = "rejection-";

/// The name of a stream: the events of one answer, log event, session or rejection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The stream of the answer with this key: `answer-<key>`.
    pub fn of_answer(key: &Key) -> Self {
        Self::named(ANSWER_PREFIX, key.as_str())
    }

    /// The stream of a log event: `event-<uuid>`.
    pub fn of_event(id: Uuid) -> Self {
        Self::of_uuid(EVENT_PREFIX, id)
    }

    /// The stream of a session: `session-<uuid>`.
    pub fn of_session(id: Uuid) -> Self {
        Self::of_uuid(SESSION_PREFIX, id)
    }

    /// The stream of a rejection: `rejection-<uuid>`.
    pub fn of_rejection(id: Uuid) -> Self {
        Self::of_uuid(REJECTION_PREFIX, id)
    }

    fn of_uuid(prefix: &str, id: Uuid) -> Self {
        let mut text = Uuid::encode_buffer();
        Self::named(prefix, id.hyphenated().encode_lower(&mut text))
    }

    /// Short names are put together where they cost no allocation.
    fn named(prefix: &str, rest: &str) -> Self {
        let mut short = [0; 128];
        let name = short.get_mut(..prefix.len() + rest.len()).and_then(|name| {
            let (front, back) = name.split_at_mut(prefix.len());
            front.copy_from_slice(prefix.as_bytes());
            back.copy_from_slice(rest.as_bytes());
            std::str::from_utf8(name).ok()
        });
        Self(name.map_or_else(|| [prefix, rest].concat().into(), Arc::from))
    }

    /// Whose events the stream holds; none if it is no stream of ours.
    pub fn subject(&self) -> Option<Subject<'_>> {
        let uuid = |text: &str| Uuid::try_parse(text).ok();
        let (prefix, rest) = self.0.split_at(self.0.find('-')? + 1);
        match prefix {
            ANSWER_PREFIX => Some(Subject::Answer(rest)),
            EVENT_PREFIX => uuid(rest).map(Subject::Event),
            SESSION_PREFIX => uuid(rest).map(Subject::Session),
            REJECTION_PREFIX => uuid(rest).map(Subject::Rejection),
            _ => None,
        }
    }

    /// A name as a store gave it back.
    pub fn from_stored(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose events a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The answer with this key.
    Answer(&'a str),
    Event(Uuid),
    Session(Uuid),
    Rejection(Uuid),
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for StreamId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// An event's place in its stream, from 0, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The first event of a stream.
    pub const FIRST: Self = Self(0);

    /// The revision that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event's place in the whole log: from 1, below 2^53, only growing, with gaps.
/// 0 is before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);
    /// The largest position there can be: what a double holds exactly.
    pub const MAX: Self = Self((1 << 53) - 1);
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a stream must end for an append to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedRevision {
    /// The stream has no event yet.
    NoStream,
    /// The stream's last event has this revision.
    Exact(Revision),
}

impl ExpectedRevision {
    /// The revision that the first appended event gets.
    pub fn first_new(self) -> Revision {
        match self {
            Self::NoStream => Revision::FIRST,
            Self::Exact(last) => last.next(),
        }
    }
}

impl From<Option<Revision>> for ExpectedRevision {
    fn from(last: Option<Revision>) -> Self {
        last.map_or(Self::NoStream, Self::Exact)
    }
}

/// What is kept about an event beside what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The version of the shape of the event's data.
    pub schema: u32,
    /// When the write side decided; never goes back within a stream.
    pub recorded_at: Timestamp,
}

impl Metadata {
    /// Stands for metadata that an adapter could not read: a later version of this
    /// program may have written it. What needs the event refuses it for that, and what
    /// looks for a time finds it before all others, so that it is not passed over.
    pub const UNREADABLE: Self = Self { schema: 0, recorded_at: Timestamp::EARLIEST };

    /// Whether these were read.
    pub fn is_readable(&self) -> bool {
        *self != Self::UNREADABLE
    }
}

/// An event that is to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Made once by who appends: the same id appended again at the same revision
    /// is the same append.
    pub id: Uuid,
    /// Its type, such as `AnswerCreatedEvent`.
    pub kind: Cow<'static, str>,
    /// What it says, a JSON object.
    pub data: Bytes,
    /// What is kept beside.
    pub metadata: Metadata,
}

/// An event as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Where it stands in the log.
    pub position: Position,
    /// Whose event it is.
    pub stream: StreamId,
    /// Where it stands in its stream.
    pub revision: Revision,
    /// As it was appended.
    pub event: NewEvent,
}
