//! What an event does to the read store: a pure function from the log to rows.

use std::sync::Arc;

use uuid::Uuid;

use super::answer::{AnswerEvent, Key, UnreadableEvent};
use super::log_event::{LogEvent, Rejection, Session, event_after};
use super::stream::{Position, RecordedEvent, Revision, StreamId, Subject};
use super::time::Timestamp;

/// Bytes that are kept of why a stream is parked.
const ERROR_BYTES: usize = 300;

/// One absolute change of the read store, so that a replay lands in the same place.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Answer(AnswerChange),
    Log(LogChange),
}

/// Changes that belong together, each kind in the order of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub answers: Vec<AnswerChange>,
    pub log: Vec<LogChange>,
    /// Streams that are parked from here on.
    pub parked: Vec<Parked>,
}

impl Changes {
    /// Adds one behind the others.
    pub fn push(&mut self, change: Change) {
        match change {
            Change::Answer(change) => self.answers.push(change),
            Change::Log(change) => self.log.push(change),
        }
    }

    /// How many rows there are to change.
    pub fn len(&self) -> usize {
        self.answers.len() + self.log.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.parked.is_empty()
    }
}

impl FromIterator<Change> for Changes {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut all = Self::default();
        changes.into_iter().for_each(|change| all.push(change));
        all
    }
}

impl From<Vec<AnswerChange>> for Changes {
    fn from(answers: Vec<AnswerChange>) -> Self {
        Self { answers, ..Self::default() }
    }
}

impl From<Vec<LogChange>> for Changes {
    fn from(log: Vec<LogChange>) -> Self {
        Self { log, ..Self::default() }
    }
}

/// A change of the event log's rows.
#[derive(Clone, Debug, PartialEq)]
pub enum LogChange {
    Event(EventChange),
    /// Sessions and rejections come once and stay.
    Session(Arc<Session>),
    Rejection(Arc<Rejection>),
}

impl LogChange {
    /// Of the event behind it.
    pub fn position(&self) -> Position {
        match self {
            Self::Event(change) => change.position,
            Self::Session(session) => session.position,
            Self::Rejection(rejection) => Position(rejection.number),
        }
    }
}

/// A log event as it is from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct EventChange {
    pub id: Uuid,
    /// Its integer id.
    pub number: u64,
    /// None: deleted.
    pub event: Option<Arc<LogEvent>>,
    /// Of the event behind it.
    pub revision: Revision,
    /// Of the event behind it.
    pub position: Position,
}

/// An answer's row from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerChange {
    /// The row.
    pub key: Key,
    /// Its new value; none removes it.
    pub value: Option<Arc<str>>,
    /// Of the event behind it.
    pub revision: Revision,
    /// Of the event behind it.
    pub position: Position,
}

/// An event that cannot be turned into changes.
#[derive(Debug, thiserror::Error)]
#[error("event {revision} of stream {stream:?} at position {position} cannot be projected")]
pub struct Unprojectable {
    pub stream: StreamId,
    pub revision: Revision,
    pub position: Position,
    pub source: UnreadableEvent,
}

/// A stream that the views do not follow any more: one of its events cannot be
/// projected, and what comes behind that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    pub stream: StreamId,
    /// Of the first event that cannot be projected.
    pub revision: Revision,
    /// Of the same event.
    pub position: Position,
    /// Why it cannot be, in a few words.
    pub error: String,
    /// When that was found.
    pub since: Timestamp,
    /// A replay has been asked for and not been carried out yet.
    pub replay: bool,
}

impl Parked {
    /// Parks the stream of an event that cannot be projected.
    pub fn new(event: &Unprojectable, since: Timestamp) -> Self {
        let Unprojectable { stream, revision, position, source } = event;
        let mut error = source.to_string();
        let whole = (0..=ERROR_BYTES.min(error.len())).rev().find(|end| error.is_char_boundary(*end));
        error.truncate(whole.unwrap_or(0));
        Self { stream: stream.clone(), revision: *revision, position: *position, error, since, replay: false }
    }

    /// Whether an event waits behind the one that cannot be projected, or is that one.
    pub fn holds(&self, event: &RecordedEvent) -> bool {
        self.stream == event.stream && self.revision <= event.revision
    }
}

/// The changes that an event makes.
///
/// # Errors
/// If the event cannot be read.
pub fn project(recorded: &RecordedEvent) -> Result<Change, Unprojectable> {
    change_of(recorded).map_err(|source| Unprojectable {
        stream: recorded.stream.clone(),
        revision: recorded.revision,
        position: recorded.position,
        source,
    })
}

fn change_of(recorded: &RecordedEvent) -> Result<Change, UnreadableEvent> {
    let RecordedEvent { position, revision, .. } = *recorded;
    Ok(match recorded.stream.subject() {
        Some(Subject::Answer(_)) => {
            let event = AnswerEvent::from_recorded(recorded)?;
            let (key, value) = (event.key().clone(), event.value().cloned());
            Change::Answer(AnswerChange { key, value, revision, position })
        }
        Some(Subject::Event(_)) => {
            let (id, number, event) = event_after(recorded)?;
            Change::Log(LogChange::Event(EventChange { id, number, event: event.map(Arc::new), revision, position }))
        }
        Some(Subject::Session(_)) => Change::Log(LogChange::Session(Arc::new(Session::from_recorded(recorded)?))),
        Some(Subject::Rejection(_)) => Change::Log(LogChange::Rejection(Arc::new(Rejection::from_recorded(recorded)?))),
        None => return Err(UnreadableEvent::Stream(recorded.stream.to_string())),
    })
}

/// Keeps of each key only its last change, in the order of the log.
pub fn fold(changes: &mut Vec<AnswerChange>) {
    let mut last = std::collections::HashMap::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        last.insert(change.key.clone(), index);
    }
    if last.len() < changes.len() {
        let mut index = 0;
        changes.retain(|change| {
            let keep = last.get(&change.key) == Some(&index);
            index += 1;
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, position: u64) -> AnswerChange {
        AnswerChange {
            key: Key::from_stored(key),
            value: Some("v".into()),
            revision: Revision(position),
            position: Position(position),
        }
    }

    #[test]
    fn folding_keeps_the_last_change_of_a_key() {
        let mut changes = vec![change("a", 1), change("b", 2), change("a", 3), change("c", 4)];
        fold(&mut changes);
        assert_eq!(changes, [change("b", 2), change("a", 3), change("c", 4)]);
    }
}
