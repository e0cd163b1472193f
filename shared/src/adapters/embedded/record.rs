//! How an event lies in the log: a few binary fields around two JSON texts, and
//! a checksum over all of it and its position.

use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

use crate::domain::stream::{Metadata, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::ports::StoreError;

/// The first byte of every record.
const FORMAT: u8 = 1;
/// What metadata takes, about.
const METADATA: usize = 64;

/// A stored record that does not read as one.
#[derive(Debug, thiserror::Error)]
enum BadRecord {
    #[error("it is too short")]
    Short,
    #[error("its checksum does not fit")]
    Checksum,
    #[error("its format {0} is unknown to this program")]
    Format(u8),
    #[error("a name in it is not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
}

/// The bytes of an event at its place.
pub(super) fn encode(stream: &StreamId, revision: Revision, event: &NewEvent, position: Position) -> Vec<u8> {
    let name = stream.as_str().as_bytes();
    let length = 1 + 16 + 8 + 2 + name.len() + 1 + event.kind.len() + 4 + METADATA + event.data.len() + 4;
    let mut bytes = Vec::with_capacity(length);
    bytes.put_u8(FORMAT);
    bytes.put_slice(event.id.as_bytes());
    bytes.put_u64(revision.0);
    bytes.put_u16(u16::try_from(name.len()).expect("a stream's name is bounded"));
    bytes.put_slice(name);
    bytes.put_u8(u8::try_from(event.kind.len()).expect("an event type's name is short"));
    bytes.put_slice(event.kind.as_bytes());
    let at = bytes.len();
    bytes.put_u32(0);
    serde_json::to_writer(&mut bytes, &event.metadata).expect("metadata is always JSON");
    let metadata = u32::try_from(bytes.len() - at - 4).expect("metadata is small");
    bytes[at..at + 4].copy_from_slice(&metadata.to_be_bytes());
    bytes.put_slice(&event.data);
    let checksum = checksum(position, &bytes);
    bytes.put_u32(checksum);
    bytes
}

/// Reads a record that was found at a position. Of one that is whole, but for whose
/// metadata this program is too old, all else is given.
pub(super) fn decode(position: Position, bytes: Bytes) -> Result<RecordedEvent, StoreError> {
    parse(position, bytes).map_err(|error| StoreError::corrupt(format!("the event at position {position}"), error))
}

fn parse(position: Position, mut bytes: Bytes) -> Result<RecordedEvent, BadRecord> {
    let end = bytes.len().checked_sub(4).ok_or(BadRecord::Short)?;
    if bytes.split_off(end).get_u32() != checksum(position, &bytes) {
        return Err(BadRecord::Checksum);
    }
    match bytes.try_get_u8().map_err(|_| BadRecord::Short)? {
        FORMAT => {}
        other => return Err(BadRecord::Format(other)),
    }
    let id = Uuid::from_slice(&take(&mut bytes, 16)?).map_err(|_| BadRecord::Short)?;
    let revision = Revision(take(&mut bytes, 8)?.get_u64());
    let length = take(&mut bytes, 2)?.get_u16();
    let stream = StreamId::from_stored(std::str::from_utf8(&take(&mut bytes, length.into())?)?);
    let length = take(&mut bytes, 1)?.get_u8();
    let kind = std::str::from_utf8(&take(&mut bytes, length.into())?)?.to_owned().into();
    let length = take(&mut bytes, 4)?.get_u32();
    let metadata = serde_json::from_slice(&take(&mut bytes, length as usize)?).unwrap_or(Metadata::UNREADABLE);
    Ok(RecordedEvent { position, stream, revision, event: NewEvent { id, kind, data: bytes, metadata } })
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, BadRecord> {
    if bytes.len() < length {
        return Err(BadRecord::Short);
    }
    Ok(bytes.split_to(length))
}

fn checksum(position: Position, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.0.to_be_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer::{AnswerEvent, Key, UnreadableEvent};
    use crate::domain::time::Timestamp;

    fn event() -> (StreamId, NewEvent) {
        let key = Key::parse("ключ/😀").expect("valid");
        let event = AnswerEvent::Created { key: key.clone(), value: "värde".into() };
        (StreamId::of_answer(&key), event.to_new(Uuid::from_u128(7), Timestamp::from_micros(1)))
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let (stream, event) = event();
        let bytes = encode(&stream, Revision(3), &event, Position(9));
        let read = decode(Position(9), bytes.into()).expect("readable");
        assert_eq!(read, RecordedEvent { position: Position(9), stream, revision: Revision(3), event });
    }

    #[test]
    fn a_changed_byte_or_another_place_is_noticed() {
        let (stream, event) = event();
        let bytes = encode(&stream, Revision(3), &event, Position(9));
        assert!(decode(Position(8), bytes.clone().into()).is_err());
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert!(decode(Position(9), damaged.into()).is_err(), "byte {index}");
            assert!(decode(Position(9), bytes[..index].to_vec().into()).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn metadata_of_a_later_version_keeps_the_rest() {
        let (stream, event) = event();
        let mut bytes = encode(&stream, Revision(3), &event, Position(9));
        let schema = br#""schema":1"#;
        let at = bytes.windows(schema.len()).position(|window| window == schema).expect("it is there");
        bytes[at + schema.len() - 1] = b'x';
        let end = bytes.len() - 4;
        let checksum = checksum(Position(9), &bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_be_bytes());
        let event = NewEvent { metadata: Metadata::UNREADABLE, ..event };
        let read = decode(Position(9), bytes.into()).expect("readable");
        assert_eq!(read, RecordedEvent { position: Position(9), stream, revision: Revision(3), event });
        assert!(matches!(AnswerEvent::from_recorded(&read), Err(UnreadableEvent::Metadata)));
    }

    /// What is stored today must be read by every later version.
    #[test]
    fn the_format_is_frozen() {
        let key = Key::parse("name").expect("valid");
        let created = AnswerEvent::Created { key: key.clone(), value: "john".into() };
        let event = created.to_new(Uuid::from_u128(1), Timestamp::from_micros(1_700_000_000_000_000));
        let bytes = encode(&StreamId::of_answer(&key), Revision(0), &event, Position(1));
        let frozen = concat!(
            "\u{1}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{1}\0\0\0\0\0\0\0\0\0\u{b}answer-name\u{12}AnswerCreatedEvent",
            "\0\0\0\u{38}{\"schema\":1,\"recorded_at\":\"2023-11-14T22:13:20.000000Z\"}",
            "{\"key\":\"name\",\"value\":\"john\"}",
        );
        assert_eq!(std::str::from_utf8(&bytes[..bytes.len() - 4]), Ok(frozen));
        assert_eq!(&bytes[bytes.len() - 4..], checksum(Position(1), frozen.as_bytes()).to_be_bytes());
    }
}
