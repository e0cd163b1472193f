//! Events as they are stored, and their form in the log's file.

use std::fmt;
use std::ops::Deref;

use bytes::{Buf as _, BufMut as _, Bytes};
use uuid::Uuid;

/// UTF-8 that is cheap to clone: the name of a stream, the type of an event.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Text(Bytes);

impl Text {
    pub(crate) fn parse(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The stream that this metadata stream describes.
    pub(crate) fn described(&self) -> Option<Self> {
        self.starts_with("$$").then(|| Self(self.0.slice(2..)))
    }

    /// The stream that holds this one's metadata.
    pub(crate) fn metadata_stream(&self) -> Self {
        Self::from(format!("$${}", &**self))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

/// An event that someone wants to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposed {
    pub(crate) id: Uuid,
    pub(crate) kind: Text,
    /// Whether its content type is JSON.
    pub(crate) json: bool,
    pub(crate) metadata: Bytes,
    pub(crate) data: Bytes,
}

impl Proposed {
    /// With memory of its own, so that it does not hold that of the message that it
    /// came in.
    pub(crate) fn new(id: Uuid, kind: &str, json: bool, metadata: &[u8], data: &[u8]) -> Self {
        let mut memory = Bytes::from([kind.as_bytes(), metadata, data].concat());
        let kind = Text(memory.split_to(kind.len()));
        let metadata = memory.split_to(metadata.len());
        Self { id, kind, json, metadata, data: memory }
    }

    /// What it counts against the limit of an append.
    pub(crate) fn size(&self) -> usize {
        self.data.len() + self.metadata.len() + 2 * self.kind.chars().count()
    }
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it begins in the log's file, or would if there were one.
    pub(crate) position: u64,
    pub(crate) stream: Text,
    pub(crate) revision: u64,
    /// When, in steps of 100 ns since 1970.
    pub(crate) created: i64,
    pub(crate) event: Proposed,
}

/// The log's file begins with these bytes, so no event is at position 0.
pub(crate) const FILE_HEADER: &[u8; 16] = b"esdb-testd log 1";
/// Length and checksum of what follows.
const FRAME: usize = 8;
/// Flags, revision, time, id, and four lengths.
const FIXED: usize = 1 + 8 + 8 + 16 + 4 * 4;
const JSON: u8 = 1;
const ENDS_CALL: u8 = 2;

impl Record {
    /// How much of the log it takes.
    pub(crate) fn length(&self) -> u64 {
        let event = &self.event;
        (FRAME + FIXED + self.stream.len() + event.kind.len() + event.metadata.len() + event.data.len()) as u64
    }

    /// Appends its form in the file. The last record of a call is marked: one that
    /// is stored only in part did not happen.
    pub(crate) fn encode(&self, ends_call: bool, into: &mut Vec<u8>) {
        let start = into.len();
        let parts = [self.stream.as_bytes(), self.event.kind.as_bytes(), &self.event.metadata, &self.event.data];
        into.put_u32_le(self.length() as u32 - FRAME as u32);
        into.put_u32_le(0);
        into.put_u8(if self.event.json { JSON } else { 0 } | if ends_call { ENDS_CALL } else { 0 });
        into.put_u64_le(self.revision);
        into.put_i64_le(self.created);
        into.put_slice(self.event.id.as_bytes());
        for part in parts {
            into.put_u32_le(part.len() as u32);
        }
        for part in parts {
            into.put_slice(part);
        }
        let checksum = crc32fast::hash(&into[start + FRAME..]);
        into[start + 4..start + FRAME].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The record at this offset, and whether it ends its call; `None` if there is
    /// no whole one.
    pub(crate) fn decode(file: &Bytes, offset: usize) -> Option<(Self, bool)> {
        let mut frame = file.get(offset..offset + FRAME)?;
        let (length, checksum) = (frame.get_u32_le() as usize, frame.get_u32_le());
        let start = offset + FRAME;
        let body = file.get(start..start.checked_add(length)?)?;
        if length < FIXED || crc32fast::hash(body) != checksum {
            return None;
        }
        let mut fixed = &body[..FIXED];
        let flags = fixed.get_u8();
        let revision = fixed.get_u64_le();
        let created = fixed.get_i64_le();
        let id = Uuid::from_u128(fixed.get_u128());
        let mut rest = file.slice(start + FIXED..start + length);
        let mut part = || {
            let length = fixed.get_u32_le() as usize;
            (length <= rest.len()).then(|| rest.split_to(length))
        };
        let (stream, kind) = (Text::parse(part()?)?, Text::parse(part()?)?);
        let (metadata, data) = (part()?, part()?);
        let event = Proposed { id, kind, json: flags & JSON != 0, metadata, data };
        let record = Self { position: offset as u64, stream, revision, created, event };
        Some((record, flags & ENDS_CALL != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(position: u64) -> Record {
        let event = Proposed {
            id: Uuid::from_u128(7),
            kind: "Köln".into(),
            json: true,
            metadata: Bytes::from_static(b"{}"),
            data: Bytes::from_static(b"[1]"),
        };
        Record { position, stream: "a-1".into(), revision: 3, created: -5, event }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut file = FILE_HEADER.to_vec();
        record(16).encode(true, &mut file);
        assert_eq!(file.len() as u64, 16 + record(16).length());
        let file = Bytes::from(file);
        assert_eq!(Record::decode(&file, 16), Some((record(16), true)));
        assert_eq!(Record::decode(&file, file.len()), None);
    }

    #[test]
    fn a_damaged_record_is_none() {
        let mut file = Vec::new();
        record(0).encode(false, &mut file);
        for cut in 0..file.len() {
            assert_eq!(Record::decode(&Bytes::copy_from_slice(&file[..cut]), 0), None);
        }
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(Record::decode(&damaged.into(), 0), None, "byte {at}");
        }
    }

    #[test]
    fn the_size_counts_characters_of_the_type_twice() {
        assert_eq!(record(0).event.size(), 3 + 2 + 8);
    }
}
