//! The event log: records that other systems send in, the sessions that they belong
//! to, and what was refused; and the rules of their lives.
//!
//! A log event is recorded once, may be amended any number of times, and deleted.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::answer::{Condition, LastEvent, UnreadableEvent, check_schema};
use super::members::{Checked, InvalidEvent, check_value};
use super::refusal::Refusal;
use super::stream::{Metadata, NewEvent, Position, RecordedEvent, Revision, StreamId, Subject};
use super::time::Timestamp;

/// The longest log event, in bytes of its members as JSON, amendments applied.
pub const MAX_EVENT_BYTES: usize = 512 * 1024;
/// The levels that `data` may have.
pub const MAX_DATA_DEPTH: usize = 32;
/// The longest record of what was refused, in bytes as JSON.
pub const MAX_REJECTION_BYTES: usize = 64 * 1024;
/// The version of the shape of the data of these events.
const SCHEMA: u32 = 1;

/// What senders say about something that happened. What is missing is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Members {
    /// When it happened.
    pub timestamp: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Map<String, Json>>,
    /// Attributes of a CloudEvent that have no member of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ce: Option<Map<String, Json>>,
}

/// A record of the log as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEvent {
    /// Made here, at random.
    pub id: Uuid,
    /// Its integer id for older clients: the position of its recording.
    pub number: u64,
    /// When it was recorded.
    pub created_at: Timestamp,
    pub members: Members,
}

/// What happened to a log event; never changed once stored.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFact {
    Recorded(Members),
    /// All that holds from now on, not only what is new, so that it can be projected
    /// without what came before.
    Amended {
        number: u64,
        created_at: Timestamp,
        members: Members,
    },
    Deleted {
        number: u64,
    },
}

/// A session that log events can belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: Uuid,
    pub created_at: Timestamp,
    /// Of its registration.
    pub position: Position,
}

/// Something that was sent in and could not become a log event.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    pub id: Uuid,
    /// Its integer id for older clients: the position of its recording.
    pub number: u64,
    /// What is wrong.
    pub message: String,
    /// What was sent, as far as it was kept.
    pub data: Json,
    pub created_at: Timestamp,
}

/// The stored data of a recording, before it has a place in the log.
#[derive(Serialize, Deserialize)]
struct AmendedData {
    number: u64,
    created_at: Timestamp,
    #[serde(flatten)]
    members: Members,
}

#[derive(Serialize, Deserialize)]
struct DeletedData {
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct RejectedData {
    message: String,
    data: Json,
}

const RECORDED: &str = "LogEventRecorded";
const AMENDED: &str = "LogEventAmended";
const DELETED: &str = "LogEventDeleted";
const REGISTERED: &str = "SessionRegistered";
const REJECTED: &str = "LogEventRejected";

fn new_event(id: Uuid, kind: &'static str, data: &impl Serialize, recorded_at: Timestamp) -> NewEvent {
    let data = serde_json::to_vec(data).expect("texts, numbers and JSON are always JSON");
    of_bytes(id, kind, data.into(), recorded_at)
}

fn of_bytes(id: Uuid, kind: &'static str, data: Bytes, recorded_at: Timestamp) -> NewEvent {
    NewEvent { id, kind: kind.into(), data, metadata: Metadata { schema: SCHEMA, recorded_at } }
}

/// The stored data, if the event is of this kind and schema.
fn data_of<'a, T: Deserialize<'a>>(recorded: &'a RecordedEvent) -> Result<T, UnreadableEvent> {
    let NewEvent { data, metadata, .. } = &recorded.event;
    check_schema(metadata, SCHEMA)?;
    Ok(serde_json::from_slice(data)?)
}

fn unknown(recorded: &RecordedEvent) -> UnreadableEvent {
    UnreadableEvent::Kind(recorded.event.kind.to_string())
}

impl LogFact {
    /// The stored type, which clients see in histories.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Recorded(_) => RECORDED,
            Self::Amended { .. } => AMENDED,
            Self::Deleted { .. } => DELETED,
        }
    }

    /// The short name of a stored type, in a detailed history.
    pub fn verb_of(kind: &str) -> &'static str {
        match kind {
            AMENDED => "amend",
            DELETED => "delete",
            _ => "record",
        }
    }

    /// The event as it is appended.
    pub fn to_new(&self, id: Uuid, recorded_at: Timestamp) -> NewEvent {
        match self {
            Self::Recorded(members) => new_event(id, RECORDED, members, recorded_at),
            Self::Amended { number, created_at, members } => {
                let data = AmendedData { number: *number, created_at: *created_at, members: members.clone() };
                new_event(id, AMENDED, &data, recorded_at)
            }
            Self::Deleted { number } => new_event(id, DELETED, &DeletedData { number: *number }, recorded_at),
        }
    }

    /// Reads a stored event.
    ///
    /// # Errors
    /// If its type or schema is unknown here, its data is not what its type promises,
    /// or its stream is not that of a log event.
    pub fn from_recorded(recorded: &RecordedEvent) -> Result<(Uuid, Self), UnreadableEvent> {
        let Some(Subject::Event(id)) = recorded.stream.subject() else {
            return Err(UnreadableEvent::Stream(recorded.stream.to_string()));
        };
        let fact = match &*recorded.event.kind {
            RECORDED => Self::Recorded(data_of(recorded)?),
            AMENDED => {
                let AmendedData { number, created_at, members } = data_of(recorded)?;
                Self::Amended { number, created_at, members }
            }
            DELETED => Self::Deleted { number: data_of::<DeletedData>(recorded)?.number },
            _ => return Err(unknown(recorded)),
        };
        Ok((id, fact))
    }
}

/// The log event that a stored event leaves, and its integer id; none behind a
/// deletion.
///
/// # Errors
/// As `LogFact::from_recorded`.
pub fn event_after(recorded: &RecordedEvent) -> Result<(Uuid, u64, Option<LogEvent>), UnreadableEvent> {
    let (id, fact) = LogFact::from_recorded(recorded)?;
    Ok(match fact {
        LogFact::Recorded(members) => {
            let number = recorded.position.0;
            let created_at = recorded.event.metadata.recorded_at;
            (id, number, Some(LogEvent { id, number, created_at, members }))
        }
        LogFact::Amended { number, created_at, members } => {
            (id, number, Some(LogEvent { id, number, created_at, members }))
        }
        LogFact::Deleted { number } => (id, number, None),
    })
}

impl Session {
    /// The registration as it is appended, to `StreamId::of_session`.
    pub fn to_new(id: Uuid, recorded_at: Timestamp) -> NewEvent {
        new_event(id, REGISTERED, &Map::new(), recorded_at)
    }

    /// Reads a stored registration.
    ///
    /// # Errors
    /// As `LogFact::from_recorded`.
    pub fn from_recorded(recorded: &RecordedEvent) -> Result<Self, UnreadableEvent> {
        let Some(Subject::Session(id)) = recorded.stream.subject() else {
            return Err(UnreadableEvent::Stream(recorded.stream.to_string()));
        };
        if &*recorded.event.kind != REGISTERED {
            return Err(unknown(recorded));
        }
        data_of::<Map<String, Json>>(recorded)?;
        Ok(Self { id, created_at: recorded.event.metadata.recorded_at, position: recorded.position })
    }
}

impl Rejection {
    /// The record as it is appended, to `StreamId::of_rejection`.
    pub fn to_new(id: Uuid, message: &str, data: Json, recorded_at: Timestamp) -> NewEvent {
        new_event(id, REJECTED, &RejectedData { message: message.to_owned(), data: keepable(data) }, recorded_at)
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// As `LogFact::from_recorded`.
    pub fn from_recorded(recorded: &RecordedEvent) -> Result<Self, UnreadableEvent> {
        let Some(Subject::Rejection(id)) = recorded.stream.subject() else {
            return Err(UnreadableEvent::Stream(recorded.stream.to_string()));
        };
        if &*recorded.event.kind != REJECTED {
            return Err(unknown(recorded));
        }
        let RejectedData { message, data } = data_of(recorded)?;
        let created_at = recorded.event.metadata.recorded_at;
        Ok(Self { id, number: recorded.position.0, message, data, created_at })
    }
}

/// Where the life of a log event stands: all that a decision needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogEventState {
    /// The last event of the stream; none before the first.
    pub last: Option<LastEvent>,
    /// What holds now; none before the recording and behind the deletion.
    pub event: Option<Arc<LogEvent>>,
}

impl LogEventState {
    /// The state that a stream's last event leaves: it says all that matters.
    ///
    /// # Errors
    /// As `LogFact::from_recorded`.
    pub fn after(recorded: &RecordedEvent) -> Result<Self, UnreadableEvent> {
        let (_, _, event) = event_after(recorded)?;
        let RecordedEvent { position, revision, event: NewEvent { metadata, .. }, .. } = recorded;
        let last = LastEvent { revision: *revision, position: *position, recorded_at: metadata.recorded_at };
        Ok(Self { last: Some(last), event: event.map(Arc::new) })
    }

    /// The revision of the last event.
    pub fn revision(&self) -> Option<Revision> {
        self.last.map(|last| last.revision)
    }
}

/// The stream and the first event of a record.
pub fn recording(id: Uuid, members: &Checked, recorded_at: Timestamp) -> (StreamId, NewEvent) {
    (StreamId::of_event(id), of_bytes(id, RECORDED, members.json().clone(), recorded_at))
}

/// What of a refused body can be kept on every storage: all of it, or the beginning of
/// its text.
pub fn keepable(sent: Json) -> Json {
    let json = sent.to_string();
    if json.len() <= MAX_REJECTION_BYTES && check_value(&sent, MAX_DATA_DEPTH).is_ok() {
        return sent;
    }
    // What is a text already is not quoted once more.
    let text = sent.as_str().unwrap_or(&json);
    Json::String(text_up_to(text, MAX_REJECTION_BYTES))
}

/// The beginning of a text that is no longer than this as JSON.
fn text_up_to(text: &str, most: usize) -> String {
    let mut left = most.saturating_sub(2);
    let fits = |c: &char| {
        let length = match c {
            '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
            '\0'..' ' => 6,
            _ => c.len_utf8(),
        };
        left.checked_sub(length).map(|less| left = less).is_some()
    };
    text.chars().take_while(fits).collect()
}

/// What is asked of a log event, valid in itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LogCommand {
    pub ask: LogAsk,
    pub condition: Condition,
}

impl LogCommand {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        match &self.ask {
            LogAsk::Amend(Amendment::Merge(members) | Amendment::Set(members)) => {
                serde_json::to_vec(members).map_or(0, |text| text.len())
            }
            LogAsk::Delete => 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum LogAsk {
    Amend(Amendment),
    Delete,
}

/// A change of a log event's members, as JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Amendment {
    /// A merge patch (RFC 7396).
    Merge(Map<String, Json>),
    /// Each member that is named gets this value as a whole.
    Set(Map<String, Json>),
}

impl Amendment {
    /// The members that it leaves.
    fn apply(&self, members: &Members) -> Result<Members, InvalidEvent> {
        let mut members = members.clone();
        match self {
            Self::Merge(patch) => members.merge(patch)?,
            Self::Set(values) => {
                for (name, value) in values {
                    members.set(name, value.clone())?;
                }
            }
        }
        Ok(members.check()?.into_members())
    }
}

/// Why a command on a log event is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The state says no.
    Refused(Refusal),
    /// What would come of it is no log event.
    Invalid(InvalidEvent),
}

/// What a command causes in a state.
///
/// # Errors
/// If there is no such event, it is not at the revision that was named, or what the
/// amendment leaves is no event.
pub fn decide(state: &LogEventState, command: &LogCommand) -> Result<LogFact, Denied> {
    let event = state.event.as_deref().ok_or(Denied::Refused(Refusal::EventNotFound))?;
    command.condition.check(state.revision()).map_err(Denied::Refused)?;
    let LogEvent { number, created_at, members, .. } = event;
    match &command.ask {
        LogAsk::Amend(amendment) => {
            let members = amendment.apply(members).map_err(Denied::Invalid)?;
            Ok(LogFact::Amended { number: *number, created_at: *created_at, members })
        }
        LogAsk::Delete => Ok(LogFact::Deleted { number: *number }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::answer::Tags;
    use super::*;

    fn map(json: Json) -> Map<String, Json> {
        serde_json::from_value(json).expect("an object")
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    /// The state behind these facts, each stored in its turn.
    fn given(facts: &[LogFact]) -> LogEventState {
        let id = Uuid::from_u128(1);
        let stored = |(revision, fact): (u64, &LogFact)| RecordedEvent {
            position: Position(revision + 5),
            stream: StreamId::of_event(id),
            revision: Revision(revision),
            event: fact.to_new(id, at(revision.cast_signed())),
        };
        let last = (0..).zip(facts).map(stored).last();
        last.map_or_else(LogEventState::default, |last| LogEventState::after(&last).expect("readable"))
    }

    fn recorded() -> LogFact {
        LogFact::Recorded(Members {
            timestamp: at(7),
            name: Some("login".into()),
            data: Some(map(json!({ "a": 1, "b": { "c": 2 } }))),
            ..Members::default()
        })
    }

    fn amended(members: Members) -> LogFact {
        LogFact::Amended { number: 5, created_at: at(0), members }
    }

    fn command(ask: LogAsk) -> LogCommand {
        LogCommand { ask, condition: Condition::default() }
    }

    fn merge(patch: Json) -> LogCommand {
        command(LogAsk::Amend(Amendment::Merge(map(patch))))
    }

    #[test]
    fn an_amendment_says_all_that_holds() {
        let LogFact::Recorded(members) = recorded() else { unreachable!() };
        let merged = Members { data: Some(map(json!({ "a": 1, "b": {} }))), name: None, ..members.clone() };
        let patch = merge(json!({ "name": null, "data": { "b": { "c": null } } }));
        assert_eq!(decide(&given(&[recorded()]), &patch), Ok(amended(merged.clone())));
        let set = Members { data: Some(map(json!({ "b": 3 }))), ..merged.clone() };
        let values = command(LogAsk::Amend(Amendment::Set(map(json!({ "data": { "b": 3 } })))));
        assert_eq!(decide(&given(&[recorded(), amended(merged)]), &values), Ok(amended(set)));
    }

    #[test]
    fn an_event_is_deleted_once() {
        let deleted = LogFact::Deleted { number: 5 };
        assert_eq!(decide(&given(&[recorded()]), &command(LogAsk::Delete)), Ok(deleted.clone()));
        let gone = Err(Denied::Refused(Refusal::EventNotFound));
        for state in [given(&[]), given(&[recorded(), deleted])] {
            assert_eq!(decide(&state, &command(LogAsk::Delete)), gone);
            assert_eq!(decide(&state, &merge(json!({}))), gone);
            let condition = Condition { if_match: Some(Tags::Any), if_none_match: None };
            assert_eq!(decide(&state, &LogCommand { ask: LogAsk::Delete, condition }), gone);
        }
    }

    #[test]
    fn conditions_name_revisions() {
        let state = given(&[recorded(), amended(Members::default())]);
        let when = |if_match: Option<u64>, if_none_match: Option<u64>| {
            let tags = |revision: Option<u64>| revision.map(|revision| Tags::Revisions(vec![Revision(revision)]));
            let condition = Condition { if_match: tags(if_match), if_none_match: tags(if_none_match) };
            decide(&state, &LogCommand { ask: LogAsk::Delete, condition }).map(drop)
        };
        assert_eq!(when(Some(1), Some(0)), Ok(()));
        assert_eq!(when(Some(0), None), Err(Denied::Refused(Refusal::NotMatched)));
        assert_eq!(when(None, Some(1)), Err(Denied::Refused(Refusal::Matched)));
    }

    #[test]
    fn what_an_amendment_leaves_is_an_event() {
        let state = given(&[recorded()]);
        for patch in [json!({ "id": "x" }), json!({ "created_at": null }), json!({ "x": 1 }), json!({ "data": 1 })] {
            assert!(matches!(decide(&state, &merge(patch.clone())), Err(Denied::Invalid(_))), "{patch}");
        }
        let long = merge(json!({ "message": "x".repeat(MAX_EVENT_BYTES) }));
        assert_eq!(decide(&state, &long), Err(Denied::Invalid(InvalidEvent::TooLong)));
    }

    #[test]
    fn what_is_kept_of_a_refused_body_is_bounded() {
        let small = json!({ "a": [1, "\u{0}"] });
        assert_eq!(keepable(small.clone()), small);
        for sent in [json!("\u{1}".repeat(40_000)), json!({ "a\u{0}": 1 }), json!({ "ä": "\"ä".repeat(30_000) })] {
            let kept = keepable(sent.clone());
            assert!(kept.to_string().len() <= MAX_REJECTION_BYTES, "{}", kept.to_string().len());
            let text = sent.as_str().map_or_else(|| sent.to_string(), str::to_owned);
            assert!(text.starts_with(kept.as_str().expect("a text")));
        }
    }
}
