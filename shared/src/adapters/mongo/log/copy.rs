//! The copy of an event's `data` that filters look into.
//!
//! It has what filters can tell apart and nothing else: numbers as doubles, no nulls,
//! an empty object for each array, so that no path goes into one. Names are written so
//! that the server reads nothing into them, and paths are written alike. The data
//! itself lies beside it as text.

use std::borrow::Cow;

use mongodb::bson::raw::{CString, RawDocumentBuf};
use serde_json::{Map, Value as Json};

use crate::domain::log_event::MAX_DATA_DEPTH;

/// Stands before names that the server would read something into, and before itself.
const ESCAPE: char = '~';

/// The copy of an object.
pub(super) fn of(object: &Map<String, Json>) -> RawDocumentBuf {
    let mut copy = RawDocumentBuf::new();
    for (name, value) in object {
        let Some(name) = escaped(name).and_then(|name| CString::try_from(name.into_owned()).ok()) else { continue };
        match value {
            Json::Null => {}
            Json::Bool(value) => copy.append(&name, *value),
            Json::Number(number) => {
                if let Some(number) = number.as_f64() {
                    copy.append(&name, number);
                }
            }
            Json::String(text) => copy.append(&name, text.as_str()),
            Json::Array(_) => copy.append(&name, RawDocumentBuf::new()),
            Json::Object(object) => copy.append(&name, of(object)),
        }
    }
    copy
}

/// The way to a value in the copy under this field; none where there can be none.
pub(super) fn path(field: &str, names: &[String]) -> Option<String> {
    if names.len() > MAX_DATA_DEPTH {
        return None;
    }
    names.iter().try_fold(field.to_owned(), |path, name| Some(format!("{path}.{}", escaped(name)?)))
}

/// A name in the copy; none if it cannot be reached.
fn escaped(name: &str) -> Option<Cow<'_, str>> {
    if name.contains(['.', '\0']) {
        return None;
    }
    Some(match name.chars().next() {
        None | Some('$' | ESCAPE) => format!("{ESCAPE}{name}").into(),
        Some(_) => name.into(),
    })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, doc};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn copied(json: &Json) -> Document {
        Document::try_from(of(json.as_object().expect("an object"))).expect("a document")
    }

    #[test]
    fn the_copy_holds_what_filters_tell_apart() {
        let data = json!({
            "null": null, "int": 1, "big": u64::MAX, "half": 0.5, "yes": true, "text": "a\0b",
            "array": [1, {"x": 2}], "object": {"deep": null, "deeper": {"x": []}},
            "$gt": 1, "": 2, "~": 3, "~$": 4, "a.b": 5, "a\0b": 6, "0": 7, "_id": 8,
        });
        let expected = doc! {
            "": 0, "int": 1.0, "big": 18_446_744_073_709_551_615.0, "half": 0.5, "yes": true, "text": "a\0b",
            "array": {}, "object": { "deeper": { "x": {} } },
            "~$gt": 1.0, "~": 2.0, "~~": 3.0, "~~$": 4.0, "0": 7.0, "_id": 8.0,
        };
        let sorted = |document: Document| document.into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let mut expected = sorted(expected);
        expected.remove("");
        assert_eq!(sorted(copied(&data)), expected);
    }

    #[test]
    fn paths_are_written_as_names_are() {
        let path = |names: &[&str]| path("d", &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(path(&[]).as_deref(), Some("d"));
        assert_eq!(path(&["a", "$gt", "", "~"]).as_deref(), Some("d.a.~$gt.~.~~"));
        assert_eq!(path(&["a.b"]), None);
        assert_eq!(path(&["a", "b\0"]), None);
        assert_eq!(path(&["a"; MAX_DATA_DEPTH]).map(|path| path.len()), Some(1 + 2 * MAX_DATA_DEPTH));
        assert_eq!(path(&["a"; MAX_DATA_DEPTH + 1]), None);
    }

    /// Names and values that take little as JSON and much as BSON, and whatever else.
    fn any_json() -> impl Strategy<Value = Json> {
        let name = prop_oneof![Just(String::new()), Just("$".to_owned()), "[a-z~$.]{0,3}", ".{0,8}"];
        let leaf = prop_oneof![Just(json!(1)), Just(json!("")), Just(json!(false)), Just(json!([])), Just(json!({}))];
        let json = leaf.prop_recursive(8, 200, 20, move |inner| {
            prop::collection::btree_map(name.clone(), inner, 0..20).prop_map(|object| json!(object))
        });
        prop::collection::btree_map(".{0,4}", json, 0..20).prop_map(|object| json!(object))
    }

    proptest! {
        /// A member of an object is `"name":value,` as JSON, of at least 4 bytes and its
        /// name, and at most 11 bytes and its name as BSON, if it is no text. So an event
        /// of 512 KiB, with its data as text and copied, is far below 16 MiB.
        #[test]
        fn the_copy_takes_at_most_three_times_the_text(data in any_json()) {
            let copy = of(data.as_object().expect("an object"));
            prop_assert!(copy.as_bytes().len() <= 3 * data.to_string().len());
        }
    }
}
