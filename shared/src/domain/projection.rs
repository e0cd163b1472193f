//! What an event does to the read store: a pure function from the log to rows.

use std::sync::Arc;

use super::answer::{AnswerEvent, Key, UnreadableEvent};
use super::stream::{Position, RecordedEvent, Revision, StreamId};

/// One absolute change of the read store, so that a replay lands in the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
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

/// The changes that an event makes.
///
/// # Errors
/// If the event cannot be read.
pub fn project(recorded: &RecordedEvent) -> Result<Change, Unprojectable> {
    let event = AnswerEvent::from_recorded(recorded).map_err(|source| Unprojectable {
        stream: recorded.stream.clone(),
        revision: recorded.revision,
        position: recorded.position,
        source,
    })?;
    Ok(Change {
        key: event.key().clone(),
        value: event.value().cloned(),
        revision: recorded.revision,
        position: recorded.position,
    })
}

/// Keeps of each key only its last change, in the order of the log.
pub fn fold(changes: &mut Vec<Change>) {
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

    fn change(key: &str, position: u64) -> Change {
        Change {
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
