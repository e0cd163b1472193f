//! How an event lies in EventStoreDB: its data as it is, its metadata as JSON with
//! the log's id beside it. An event without that id is another application's.

use bytes::Bytes;
use eventstore::EventData;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::proto::Event;
use crate::domain::stream::{Metadata, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{LogId, StoreError};

/// The custom metadata of an event of ours.
#[derive(Serialize, Deserialize)]
struct StoredMetadata {
    schema: u32,
    recorded_at: Timestamp,
    log: Uuid,
}

/// What tells whose an event is.
#[derive(Deserialize)]
struct Mark {
    log: Uuid,
}

/// Why an event of ours cannot be read.
#[derive(Debug, thiserror::Error)]
enum BadEvent {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its position {0} is too large")]
    Position(u64),
}

/// The event as the client sends it.
///
/// # Errors
/// If its data is no JSON.
pub(super) fn encode(event: &NewEvent, log: LogId) -> Result<EventData, StoreError> {
    let bad = |error| StoreError::corrupt("the data of a new event", error);
    // A field more in the metadata must get a place here.
    let Metadata { schema, recorded_at } = event.metadata;
    let metadata = serde_json::to_vec(&StoredMetadata { schema, recorded_at, log: log.0 }).map_err(bad)?;
    let data: &RawValue = serde_json::from_slice(&event.data).map_err(bad)?;
    let encoded = EventData::json(&event.kind, &data).map_err(bad)?;
    Ok(encoded.id(event.id).metadata(Bytes::from(metadata)))
}

/// About how many bytes of an append an event takes, by the stricter of the server's rules.
pub(super) fn size(event: &NewEvent) -> usize {
    event.data.len() + 2 * event.kind.len() + 150
}

/// Reads an event; none if it is not of this log. Of one that is, but for whose metadata
/// this program is too old, all else is given.
///
/// # Errors
/// `Corrupt` if it is, and cannot be read.
pub(super) fn decode(event: Event, log: LogId) -> Result<Option<RecordedEvent>, StoreError> {
    let metadata = match serde_json::from_slice(&event.metadata) {
        Ok(StoredMetadata { schema, recorded_at, log: of }) if of == log.0 => Metadata { schema, recorded_at },
        Ok(_) => return Ok(None),
        Err(_) => match serde_json::from_slice::<Mark>(&event.metadata) {
            Ok(mark) if mark.log == log.0 => Metadata::UNREADABLE,
            _ => return Ok(None),
        },
    };
    let position = event.position;
    let corrupt = |error| StoreError::corrupt(format!("the event at position {position}"), error);
    recorded(event, metadata).map(Some).map_err(corrupt)
}

fn recorded(event: Event, metadata: Metadata) -> Result<RecordedEvent, BadEvent> {
    let id = event.id.and_then(|id| id.structured).ok_or(BadEvent::Missing("id"))?;
    let name = event.stream.ok_or(BadEvent::Missing("stream"))?;
    let name = std::str::from_utf8(&name.bytes).map_err(|_| BadEvent::Missing("stream"))?;
    let kind = event.properties.into_iter().find(|property| property.key == "type").ok_or(BadEvent::Missing("type"))?;
    let position = Position(event.position);
    if position > Position::MAX {
        return Err(BadEvent::Position(event.position));
    }
    Ok(RecordedEvent {
        position,
        stream: StreamId::from_stored(name),
        revision: Revision(event.revision),
        event: NewEvent {
            id: Uuid::from_u64_pair(id.most.cast_unsigned(), id.least.cast_unsigned()),
            kind: kind.value.into(),
            data: event.data,
            metadata,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::proto::{EventId, Halves, Property, StreamName};
    use super::*;

    const LOG: LogId = LogId(Uuid::from_u128(9));

    fn event(metadata: &str) -> Event {
        Event {
            id: Some(EventId { structured: Some(Halves { most: 0, least: -1 }) }),
            stream: Some(StreamName { bytes: Bytes::from_static("answer-ключ".as_bytes()) }),
            revision: 3,
            position: 77,
            properties: vec![Property { key: "type".into(), value: "AnswerCreatedEvent".into() }],
            metadata: Bytes::copy_from_slice(metadata.as_bytes()),
            data: Bytes::from_static(b"{}"),
        }
    }

    fn metadata(log: LogId) -> String {
        format!(r#"{{"schema":1,"recorded_at":"2023-11-14T22:13:20.000001Z","log":"{}"}}"#, log.0)
    }

    #[test]
    fn an_event_of_ours_is_read() {
        let read = decode(event(&metadata(LOG)), LOG).expect("readable").expect("ours");
        assert_eq!((read.position, read.revision), (Position(77), Revision(3)));
        assert_eq!((read.stream.as_str(), &*read.event.kind), ("answer-ключ", "AnswerCreatedEvent"));
        assert_eq!(read.event.id, Uuid::from_u128(u128::from(u64::MAX)));
        let at = Timestamp::from_micros(1_700_000_000_000_001);
        assert_eq!(read.event.metadata, Metadata { schema: 1, recorded_at: at });
    }

    #[test]
    fn an_event_of_others_is_passed_over() {
        let other = LogId(Uuid::from_u128(8));
        for theirs in ["", "{}", "[]", "no json", r#"{"log":1}"#, r#"{"log":"name"}"#, &metadata(other)] {
            assert_eq!(decode(event(theirs), LOG).expect("no error"), None, "{theirs}");
        }
    }

    #[test]
    fn an_event_of_ours_that_cannot_be_read_is_not() {
        let spoiled: [fn(&mut Event); 3] =
            [|event| event.id = None, |event| event.properties.clear(), |event| event.position = 1 << 53];
        for spoil in spoiled {
            let mut event = event(&metadata(LOG));
            spoil(&mut event);
            assert!(matches!(decode(event, LOG), Err(StoreError::Corrupt { .. })));
        }
    }

    #[test]
    fn metadata_of_a_later_version_keeps_the_rest() {
        let marked = format!(r#"{{"schema":"one","log":"{}"}}"#, LOG.0);
        let read = decode(event(&marked), LOG).expect("readable").expect("ours");
        assert_eq!((read.stream.as_str(), read.revision, read.position), ("answer-ключ", Revision(3), Position(77)));
        assert_eq!(read.event.metadata, Metadata::UNREADABLE);
    }

    #[test]
    fn the_metadata_is_frozen() {
        let metadata = StoredMetadata { schema: 1, recorded_at: Timestamp::from_micros(0), log: LOG.0 };
        let frozen =
            r#"{"schema":1,"recorded_at":"1970-01-01T00:00:00.000000Z","log":"00000000-0000-0000-0000-000000000009"}"#;
        assert_eq!(serde_json::to_string(&metadata).expect("JSON"), frozen);
    }
}
