//! Cursors: places behind a row, as one word that needs no encoding in a URL.
//!
//! A cursor holds the list that it belongs to, the row's id, and what the list is
//! sorted by, so that a page behind it costs the same wherever it is. Only a text that
//! is too long for a URL is not in it: then the row is looked up, and the text has to
//! be the same still.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use shared::domain::time::Timestamp;
use shared::http::error::ApiError;
use shared::ports::{Order, Place, SortKey, Sorted};
use uuid::Uuid;

/// The longest text that a cursor holds.
const TEXT_BYTES: usize = 16 * 1024;

/// A list that has cursors of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Events(Order),
    Sessions,
    Rejections,
}

/// A place as a cursor holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cursor {
    Behind(Place),
    /// Behind the event with this id, while its text has this hash.
    BehindLong {
        id: Uuid,
        hash: [u8; 32],
    },
}

/// What follows the id, where the list is sorted by text.
const NULL: u8 = 0;
const TEXT: u8 = 1;
const HASH: u8 = 2;

impl List {
    /// The first byte of its cursors.
    fn tag(self) -> u8 {
        let order = match self {
            Self::Sessions => return b's',
            Self::Rejections => return b'r',
            Self::Events(order) => order,
        };
        let by = match order.by {
            SortKey::Timestamp => b'T',
            SortKey::CreatedAt => b'A',
            SortKey::Name => b'N',
            SortKey::Category => b'C',
            SortKey::Number => b'I',
        };
        if order.descending { by | 0x80 } else { by }
    }
}

pub(super) fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The cursor behind a place of a list.
pub(super) fn write(list: List, place: &Place) -> String {
    let mut bytes = vec![list.tag()];
    bytes.extend_from_slice(place.id.as_bytes());
    match &place.key {
        Sorted::Time(time) => bytes.extend_from_slice(&time.micros().to_be_bytes()),
        Sorted::Number(number) => bytes.extend_from_slice(&number.to_be_bytes()),
        Sorted::Text(None) => bytes.push(NULL),
        Sorted::Text(Some(text)) if text.len() <= TEXT_BYTES => {
            bytes.push(TEXT);
            bytes.extend_from_slice(text.as_bytes());
        }
        Sorted::Text(Some(text)) => {
            bytes.push(HASH);
            bytes.extend_from_slice(&hash_of(text));
        }
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor of a list.
///
/// # Errors
/// 400 if it is none, or another list's.
pub(super) fn read(list: List, cursor: &str) -> Result<Cursor, ApiError> {
    let malformed = || ApiError::bad_request("cursor: must be the next of an earlier page in the same order");
    parse(list, cursor).ok_or_else(malformed)
}

fn parse(list: List, cursor: &str) -> Option<Cursor> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (_, rest) = bytes.split_first().filter(|(tag, _)| **tag == list.tag())?;
    let (id, key) = rest.split_first_chunk()?;
    let id = Uuid::from_bytes(*id);
    let by = match list {
        List::Events(order) => order.by,
        List::Sessions | List::Rejections => SortKey::CreatedAt,
    };
    let key = match by {
        SortKey::Timestamp | SortKey::CreatedAt => Sorted::Time(time(i64::from_be_bytes(key.try_into().ok()?))?),
        SortKey::Number => Sorted::Number(u64::from_be_bytes(key.try_into().ok()?)),
        SortKey::Name | SortKey::Category => match key.split_first()? {
            (&NULL, []) => Sorted::Text(None),
            (&TEXT, text) if text.len() <= TEXT_BYTES => Sorted::Text(Some(str::from_utf8(text).ok()?.to_owned())),
            (&HASH, hash) => return Some(Cursor::BehindLong { id, hash: hash.try_into().ok()? }),
            _ => return None,
        },
    };
    Some(Cursor::Behind(Place { key, id, number: 0 }))
}

fn time(micros: i64) -> Option<Timestamp> {
    let time = Timestamp::from_micros(micros);
    (time.micros() == micros).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ports::Ties;

    const SORTS: [SortKey; 4] = [SortKey::Timestamp, SortKey::CreatedAt, SortKey::Name, SortKey::Category];

    fn lists() -> Vec<List> {
        let events = |by| [false, true].map(|descending| List::Events(Order { by, descending, ties: Ties::Id }));
        SORTS.into_iter().flat_map(events).chain([List::Sessions, List::Rejections]).collect()
    }

    fn keys(list: List) -> Vec<Sorted> {
        match list {
            List::Events(Order { by: SortKey::Name | SortKey::Category, .. }) => {
                let texts = ["", "a", "ä/?&=😀", &"x".repeat(TEXT_BYTES)];
                texts.into_iter().map(|text| Sorted::Text(Some(text.into()))).chain([Sorted::Text(None)]).collect()
            }
            _ => [0, -1, i64::MIN, i64::MAX].map(|micros| Sorted::Time(Timestamp::from_micros(micros))).into(),
        }
    }

    #[test]
    fn a_cursor_reads_as_it_was_written_and_nowhere_else() {
        for list in lists() {
            for key in keys(list) {
                let place = Place { key, id: Uuid::from_u128(0xf0f1), number: 0 };
                let cursor = write(list, &place);
                assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{cursor}");
                assert_eq!(parse(list, &cursor), Some(Cursor::Behind(place)));
                for other in lists().into_iter().filter(|other| *other != list) {
                    assert_eq!(parse(other, &cursor), None, "{list:?} {other:?}");
                }
                for end in [0, 1, 5, 20] {
                    assert_eq!(parse(list, &cursor[..end]), None, "{list:?} {end}");
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_known_by_its_hash() {
        let list = List::Events(Order { by: SortKey::Name, descending: true, ties: Ties::Id });
        let (id, text) = (Uuid::from_u128(7), "x".repeat(TEXT_BYTES + 1));
        let cursor = write(list, &Place { key: Sorted::Text(Some(text.clone())), id, number: 0 });
        assert!(cursor.len() < 100, "{cursor}");
        assert_eq!(parse(list, &cursor), Some(Cursor::BehindLong { id, hash: hash_of(&text) }));
    }

    #[test]
    fn garbage_is_no_cursor() {
        for list in lists() {
            for text in
                ["", "x", "name", "!!!", "====", "AAAA", "\u{1f511}", "VAAAAAAAAAAAAAAAAAAAAAA", &"A".repeat(100)]
            {
                assert_eq!(parse(list, text), None, "{list:?} {text}");
            }
        }
    }
}
