//! The event log: records that other systems send in, the sessions that they belong
//! to, and what was refused; and the rules of their lives.
//!
//! A log event is recorded once, may be amended any number of times, and deleted.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::answer::{LastEvent, UnreadableEvent};
use super::stream::{Metadata, NewEvent, Position, RecordedEvent, Revision, StreamId, Subject};
use super::time::Timestamp;

/// The longest log event, in bytes of its members as JSON, amendments applied.
pub const MAX_EVENT_BYTES: usize = 512 * 1024;
/// The levels that `data` may have.
pub const MAX_DATA_DEPTH: usize = 32;
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

fn new_event(id: Uuid, kind: &str, data: &impl Serialize, recorded_at: Timestamp) -> NewEvent {
    let data = serde_json::to_vec(data).expect("texts, numbers and JSON are always JSON");
    NewEvent { id, kind: kind.into(), data: Bytes::from(data), metadata: Metadata { schema: SCHEMA, recorded_at } }
}

/// The stored data, if the event is of this kind and schema.
fn data_of<'a, T: Deserialize<'a>>(recorded: &'a RecordedEvent) -> Result<T, UnreadableEvent> {
    let NewEvent { data, metadata, .. } = &recorded.event;
    if metadata.schema != SCHEMA {
        return Err(UnreadableEvent::Schema(metadata.schema));
    }
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
        new_event(id, REJECTED, &RejectedData { message: message.to_owned(), data }, recorded_at)
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
pub fn recording(id: Uuid, members: Members, recorded_at: Timestamp) -> (StreamId, NewEvent) {
    (StreamId::of_event(id), LogFact::Recorded(members).to_new(id, recorded_at))
}
