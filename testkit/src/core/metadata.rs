//! What the metadata of a stream says of its events.

use serde_json::{Map, Value};

/// `$tb` of a stream that is deleted but may come back; the revision of a tombstone.
pub(crate) const DELETED: u64 = i64::MAX as u64;

/// The limits that hide events from those who read a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_count: Option<u64>,
    pub(crate) max_age_seconds: Option<u64>,
    /// Revisions below this one are hidden.
    pub(crate) truncate_before: Option<u64>,
}

impl Limits {
    /// Metadata that is no JSON object sets none.
    pub(crate) fn parse(data: &[u8]) -> Self {
        let Ok(metadata) = serde_json::from_slice::<Map<String, Value>>(data) else { return Self::default() };
        let number = |name: &str| metadata.get(name).and_then(Value::as_u64);
        Self {
            max_count: number("$maxCount").filter(|count| *count > 0),
            max_age_seconds: number("$maxAge").filter(|seconds| *seconds > 0),
            truncate_before: number("$tb"),
        }
    }

    pub(crate) fn deleted(&self) -> bool {
        self.truncate_before == Some(DELETED)
    }
}

/// The metadata with another `$tb`, all else kept.
pub(crate) fn with_truncate_before(data: &[u8], revision: u64) -> Vec<u8> {
    let mut metadata: Map<String, Value> = serde_json::from_slice(data).unwrap_or_default();
    metadata.insert("$tb".to_owned(), revision.into());
    Value::Object(metadata).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limits = Limits::parse(br#"{"$maxCount":3,"$maxAge":60,"$tb":7,"mine":1}"#);
        assert_eq!(limits, Limits { max_count: Some(3), max_age_seconds: Some(60), truncate_before: Some(7) });
        assert!(Limits::parse(br#"{"$tb":9223372036854775807}"#).deleted());
    }

    #[test]
    fn what_is_no_limit_sets_none() {
        for data in ["", "[]", "{", r#"{"$maxCount":0,"$maxAge":"1","$tb":-1}"#] {
            assert_eq!(Limits::parse(data.as_bytes()), Limits::default(), "{data}");
        }
    }

    #[test]
    fn other_metadata_is_kept() {
        let data = with_truncate_before(br#"{"$tb":1,"mine":[1]}"#, 5);
        assert_eq!(data, br#"{"$tb":5,"mine":[1]}"#);
    }
}
