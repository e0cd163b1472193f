//! Answers: a key with its value, and the rules of their lives.
//!
//! Create needs that the key has no live answer, update and delete need one.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::outcome::Happened;
use super::refusal::Refusal;
use super::stream::{Metadata, NewEvent, Position, RecordedEvent, Revision, Subject};
use super::time::Timestamp;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The longest value, in bytes of its JSON encoding without the quotes.
pub const MAX_VALUE_BYTES: usize = 512 * 1024;
/// The version of the shape of the data of answer events.
const SCHEMA: u32 = 1;

/// The key of an answer: 1 to 512 bytes of UTF-8 without control characters, as
/// it was sent, not normalised. Keys compare by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("must not be empty")]
    Empty,
    #[error("must not be longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
    #[error("must not hold control characters")]
    Control,
    #[error("must not be '.' or '..'")]
    Dots,
}

impl Key {
    /// Takes a key as a client sent it.
    ///
    /// # Errors
    /// If the text breaks one of the rules of a key.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        match text {
            "" => Err(InvalidKey::Empty),
            "." | ".." => Err(InvalidKey::Dots),
            _ if text.len() > MAX_KEY_BYTES => Err(InvalidKey::TooLong),
            _ if text.chars().any(char::is_control) => Err(InvalidKey::Control),
            _ => Ok(Self(text.into())),
        }
    }

    /// A key that a store gave back: it was valid when it was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The value of an answer: any text but the empty one, up to 512 KiB as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Arc<str>);

/// Why a text is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("must not be empty")]
    Empty,
    #[error("must not be longer than {MAX_VALUE_BYTES} bytes as JSON")]
    TooLong,
}

impl Value {
    /// Takes a value as a client sent it.
    ///
    /// # Errors
    /// If it is empty or too long.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::Empty);
        }
        if encoded_len(text) > MAX_VALUE_BYTES {
            return Err(InvalidValue::TooLong);
        }
        Ok(Self(text.into()))
    }

    /// The text of the value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The bytes that serde_json writes for a text, without the quotes.
fn encoded_len(text: &str) -> usize {
    if text.len() * 6 <= MAX_VALUE_BYTES {
        return text.len();
    }
    let escapes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 1,
        0x00..0x20 => 5,
        _ => 0,
    });
    text.len() + escapes.sum::<usize>()
}

/// A key with its live value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub key: Key,
    pub value: Arc<str>,
    /// Of the event that gave it this value.
    pub revision: Revision,
}

/// What was asked, valid in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerCommand {
    pub key: Key,
    pub ask: Ask,
    pub condition: Condition,
}

/// The verb of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Create(Value),
    Update(Value),
    /// Create or update, whichever the state allows.
    Put(Value),
    Delete,
}

impl AnswerCommand {
    /// About how many bytes its event takes.
    pub fn size(&self) -> usize {
        let value = match &self.ask {
            Ask::Create(value) | Ask::Update(value) | Ask::Put(value) => value.as_str().len(),
            Ask::Delete => 0,
        };
        self.key.as_str().len() + value
    }

    /// The verb's name, for counters.
    pub fn verb(&self) -> &'static str {
        match self.ask {
            Ask::Create(_) => "create",
            Ask::Update(_) => "update",
            Ask::Put(_) => "put",
            Ask::Delete => "delete",
        }
    }

    /// Whether it is meant for a key without any event.
    pub fn expects_new_key(&self) -> bool {
        match self.ask {
            Ask::Create(_) => self.condition.if_match.is_none(),
            Ask::Put(_) => self.condition.if_none_match == Some(Tags::Any) && self.condition.if_match.is_none(),
            Ask::Update(_) | Ask::Delete => false,
        }
    }
}

/// `If-Match` and `If-None-Match`, as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
}

/// What an entity-tag header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any live answer.
    Any,
    /// The revisions in the list; tags that are no revision of ours name nothing.
    Revisions(Vec<Revision>),
}

impl Tags {
    /// Whether a live answer at this revision is named.
    pub fn name(&self, revision: Revision) -> bool {
        match self {
            Self::Any => true,
            Self::Revisions(revisions) => revisions.contains(&revision),
        }
    }
}

impl Condition {
    /// Checks it against the revision of what is there, if something is.
    ///
    /// # Errors
    /// `NotMatched` or `Matched`.
    pub fn check(&self, live: Option<Revision>) -> Result<(), Refusal> {
        let named = |tags: &Tags| live.is_some_and(|revision| tags.name(revision));
        if self.if_match.as_ref().is_some_and(|tags| !named(tags)) {
            return Err(Refusal::NotMatched);
        }
        if self.if_none_match.as_ref().is_some_and(named) {
            return Err(Refusal::Matched);
        }
        Ok(())
    }
}

/// What happened to an answer; never changed once stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerEvent {
    Created { key: Key, value: Arc<str> },
    Updated { key: Key, value: Arc<str> },
    Deleted { key: Key },
}

/// How an answer calls what happened to it.
impl Happened {
    /// The stored type, which clients see too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "AnswerCreatedEvent",
            Self::Updated => "AnswerUpdatedEvent",
            Self::Deleted => "AnswerDeletedEvent",
        }
    }

    /// The short name in a detailed history.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Created => "create",
            Self::Updated => "update",
            Self::Deleted => "delete",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted].into_iter().find(|kind| kind.name() == name)
    }
}

/// The stored data of an answer event; a deletion's value is empty.
#[derive(Serialize, Deserialize)]
struct AnswerData<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    value: std::borrow::Cow<'a, str>,
}

/// Why a stored event cannot be read as an answer event.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableEvent {
    #[error("unknown event type {0:?}")]
    Kind(String),
    #[error("schema version {0} is newer than this program")]
    Schema(u32),
    #[error("its metadata cannot be read")]
    Metadata,
    #[error("its data does not fit its type")]
    Data(#[from] serde_json::Error),
    #[error("it names the key {0:?}, which is not its stream's")]
    Stream(String),
}

/// Refuses metadata that could not be read or are of another schema than the known one.
pub(super) fn check_schema(metadata: &Metadata, known: u32) -> Result<(), UnreadableEvent> {
    if !metadata.is_readable() {
        return Err(UnreadableEvent::Metadata);
    }
    if metadata.schema == known { Ok(()) } else { Err(UnreadableEvent::Schema(metadata.schema)) }
}

impl AnswerEvent {
    /// What happened.
    pub fn kind(&self) -> Happened {
        match self {
            Self::Created { .. } => Happened::Created,
            Self::Updated { .. } => Happened::Updated,
            Self::Deleted { .. } => Happened::Deleted,
        }
    }

    /// The key that it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Created { key, .. } | Self::Updated { key, .. } | Self::Deleted { key } => key,
        }
    }

    /// The value that it gave; none for a deletion.
    pub fn value(&self) -> Option<&Arc<str>> {
        match self {
            Self::Created { value, .. } | Self::Updated { value, .. } => Some(value),
            Self::Deleted { .. } => None,
        }
    }

    /// The event as it is appended.
    pub fn to_new(&self, id: uuid::Uuid, recorded_at: Timestamp) -> NewEvent {
        let data = AnswerData { key: self.key().as_str().into(), value: self.value().map_or("", |value| value).into() };
        let data = serde_json::to_vec(&data).expect("two strings are always JSON");
        NewEvent {
            id,
            kind: self.kind().name().into(),
            data: Bytes::from(data),
            metadata: Metadata { schema: SCHEMA, recorded_at },
        }
    }

    /// Reads a stored event.
    ///
    /// # Errors
    /// If its type or schema is unknown here, its data is not what its type
    /// promises, or it stands in another key's stream.
    pub fn from_recorded(recorded: &RecordedEvent) -> Result<Self, UnreadableEvent> {
        let NewEvent { kind, data, metadata, .. } = &recorded.event;
        let kind = Happened::from_name(kind).ok_or_else(|| UnreadableEvent::Kind(kind.to_string()))?;
        check_schema(metadata, SCHEMA)?;
        let AnswerData { key, value } = serde_json::from_slice(data)?;
        let key = Key::from_stored(&key);
        if recorded.stream.subject() != Some(Subject::Answer(key.as_str())) {
            return Err(UnreadableEvent::Stream(key.to_string()));
        }
        Ok(match kind {
            Happened::Created => Self::Created { key, value: value.into() },
            Happened::Updated => Self::Updated { key, value: value.into() },
            Happened::Deleted => Self::Deleted { key },
        })
    }
}

/// Where the life of a key stands: all that a decision needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerState {
    /// The last event of the stream; none before the first.
    pub last: Option<LastEvent>,
    /// Whether the key has a live answer.
    pub live: bool,
}

/// The newest event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastEvent {
    pub revision: Revision,
    pub position: Position,
    pub recorded_at: Timestamp,
}

impl AnswerState {
    /// The revision of the last event.
    pub fn revision(&self) -> Option<Revision> {
        self.last.map(|last| last.revision)
    }

    fn live_revision(&self) -> Option<Revision> {
        self.revision().filter(|_| self.live)
    }
}

/// Decides a command on a state.
///
/// # Errors
/// The refusal, if the state or the command's condition does not allow it.
pub fn decide(state: &AnswerState, command: &AnswerCommand) -> Result<AnswerEvent, Refusal> {
    let live = state.live_revision();
    let key = command.key.clone();
    let needs_live = matches!(command.ask, Ask::Update(_) | Ask::Delete);
    if needs_live && live.is_none() {
        return Err(Refusal::KeyNotFound);
    }
    command.condition.check(live)?;
    match &command.ask {
        Ask::Create(_) if live.is_some() => Err(Refusal::KeyExists),
        Ask::Put(value) if live.is_some() => Ok(AnswerEvent::Updated { key, value: value.0.clone() }),
        Ask::Create(value) | Ask::Put(value) => Ok(AnswerEvent::Created { key, value: value.0.clone() }),
        Ask::Update(value) => Ok(AnswerEvent::Updated { key, value: value.0.clone() }),
        Ask::Delete => Ok(AnswerEvent::Deleted { key }),
    }
}

/// The state after an event of this kind, which is now the stream's last.
pub fn evolve(kind: Happened, last: LastEvent) -> AnswerState {
    AnswerState { last: Some(last), live: kind != Happened::Deleted }
}

#[cfg(test)]
mod tests {
    use super::super::stream::StreamId;
    use super::*;

    fn key() -> Key {
        Key::parse("name").expect("valid")
    }

    fn value(text: &str) -> Value {
        Value::parse(text).expect("valid")
    }

    fn given(kinds: &[Happened]) -> AnswerState {
        kinds.iter().zip(0..).fold(AnswerState::default(), |_, (kind, n)| {
            let last =
                LastEvent { revision: Revision(n), position: Position(n + 1), recorded_at: Timestamp::default() };
            evolve(*kind, last)
        })
    }

    fn when(state: AnswerState, ask: Ask) -> Result<Happened, Refusal> {
        when_if(state, ask, Condition::default())
    }

    fn when_if(state: AnswerState, ask: Ask, condition: Condition) -> Result<Happened, Refusal> {
        decide(&state, &AnswerCommand { key: key(), ask, condition }).map(|event| event.kind())
    }

    use Happened::{Created, Deleted, Updated};

    #[test]
    fn the_documented_sequences_are_allowed() {
        assert_eq!(when(given(&[]), Ask::Create(value("a"))), Ok(Created));
        assert_eq!(when(given(&[Created]), Ask::Delete), Ok(Deleted));
        assert_eq!(when(given(&[Created, Deleted]), Ask::Create(value("b"))), Ok(Created));
        assert_eq!(when(given(&[Created, Deleted, Created]), Ask::Update(value("b"))), Ok(Updated));
        assert_eq!(when(given(&[Created, Updated]), Ask::Update(value("a"))), Ok(Updated));
    }

    #[test]
    fn the_documented_sequences_are_refused() {
        assert_eq!(when(given(&[Created, Deleted]), Ask::Update(value("a"))), Err(Refusal::KeyNotFound));
        assert_eq!(when(given(&[Created]), Ask::Create(value("a"))), Err(Refusal::KeyExists));
        assert_eq!(when(given(&[Created, Deleted]), Ask::Delete), Err(Refusal::KeyNotFound));
        assert_eq!(when(given(&[]), Ask::Update(value("a"))), Err(Refusal::KeyNotFound));
    }

    #[test]
    fn a_put_creates_or_updates() {
        assert_eq!(when(given(&[]), Ask::Put(value("a"))), Ok(Created));
        assert_eq!(when(given(&[Created]), Ask::Put(value("a"))), Ok(Updated));
        assert_eq!(when(given(&[Created, Deleted]), Ask::Put(value("a"))), Ok(Created));
    }

    #[test]
    fn conditions_name_the_live_revision() {
        let only = |n| Condition { if_match: Some(Tags::Revisions(vec![Revision(n)])), ..Condition::default() };
        let any = Condition { if_match: Some(Tags::Any), ..Condition::default() };
        let live = given(&[Created, Updated]);
        assert_eq!(when_if(live, Ask::Delete, only(1)), Ok(Deleted));
        assert_eq!(when_if(live, Ask::Delete, only(0)), Err(Refusal::NotMatched));
        assert_eq!(when_if(live, Ask::Put(value("x")), any.clone()), Ok(Updated));
        let gone = given(&[Created, Deleted]);
        assert_eq!(when_if(gone, Ask::Put(value("x")), any.clone()), Err(Refusal::NotMatched));
        assert_eq!(when_if(gone, Ask::Put(value("x")), only(1)), Err(Refusal::NotMatched));
        assert_eq!(when_if(gone, Ask::Delete, any), Err(Refusal::KeyNotFound));
    }

    #[test]
    fn if_none_match_any_is_create_only() {
        let new = Condition { if_none_match: Some(Tags::Any), ..Condition::default() };
        assert_eq!(when_if(given(&[]), Ask::Put(value("x")), new.clone()), Ok(Created));
        assert_eq!(when_if(given(&[Created, Deleted]), Ask::Put(value("x")), new.clone()), Ok(Created));
        assert_eq!(when_if(given(&[Created]), Ask::Put(value("x")), new), Err(Refusal::Matched));
    }

    #[test]
    fn keys_have_rules() {
        assert_eq!(Key::parse(""), Err(InvalidKey::Empty));
        assert_eq!(Key::parse("."), Err(InvalidKey::Dots));
        assert_eq!(Key::parse(".."), Err(InvalidKey::Dots));
        assert_eq!(Key::parse("a\u{85}"), Err(InvalidKey::Control));
        assert_eq!(Key::parse(&"k".repeat(513)), Err(InvalidKey::TooLong));
        for good in ["...", "a/b", " ", "batch", "😀", "e\u{301}", &"k".repeat(512)] {
            assert!(Key::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn values_are_measured_as_json() {
        assert_eq!(Value::parse(""), Err(InvalidValue::Empty));
        assert!(Value::parse(&"v".repeat(MAX_VALUE_BYTES)).is_ok());
        assert_eq!(Value::parse(&"v".repeat(MAX_VALUE_BYTES + 1)), Err(InvalidValue::TooLong));
        assert!(Value::parse(&"\"".repeat(MAX_VALUE_BYTES / 2)).is_ok());
        assert_eq!(Value::parse(&"\"".repeat(MAX_VALUE_BYTES / 2 + 1)), Err(InvalidValue::TooLong));
        assert_eq!(Value::parse(&"\0".repeat(MAX_VALUE_BYTES / 6 + 1)), Err(InvalidValue::TooLong));
    }

    #[test]
    fn the_measure_is_what_serde_json_writes() {
        let text: String = (0..0x250_u32).filter_map(char::from_u32).cycle().take(300_000).collect();
        let written = serde_json::to_string(&text).expect("a string");
        assert_eq!(encoded_len(&text), written.len() - 2);
    }

    #[test]
    fn events_are_read_as_they_were_written() {
        let written = [
            AnswerEvent::Created { key: key(), value: "\"\u{0}😀".into() },
            AnswerEvent::Updated { key: key(), value: "x".into() },
            AnswerEvent::Deleted { key: key() },
        ];
        for event in written {
            let recorded = RecordedEvent {
                position: Position(1),
                stream: StreamId::of_answer(&key()),
                revision: Revision(0),
                event: event.to_new(uuid::Uuid::nil(), Timestamp::default()),
            };
            assert_eq!(AnswerEvent::from_recorded(&recorded).expect("readable"), event);
        }
    }

    #[test]
    fn an_event_in_anothers_stream_is_unreadable() {
        let recorded = RecordedEvent {
            position: Position(1),
            stream: StreamId::from_stored("answer-other"),
            revision: Revision(0),
            event: AnswerEvent::Deleted { key: key() }.to_new(uuid::Uuid::nil(), Timestamp::default()),
        };
        assert!(matches!(AnswerEvent::from_recorded(&recorded), Err(UnreadableEvent::Stream(_))));
    }
}
