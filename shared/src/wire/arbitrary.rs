//! Bodies that a client may send, for property tests: sound ones, and what comes close.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

const MEMBERS: [&str; 16] = [
    "timestamp",
    "name",
    "category",
    "component",
    "environment",
    "message",
    "email",
    "customer_id",
    "session_id",
    "source",
    "data",
    "ce",
    "id",
    "created_at",
    "specversion",
    "type",
];

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,8}".prop_map(Json::from),
        Just(json!("1.0")),
        Just(json!("2018-01-01T00:00:00+01:00")),
        Just(json!("67e55044-10b1-426f-9247-bb680e5fe0c8")),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::vec((".{0,4}", inner), 0..4).prop_map(|all| Json::from(Map::from_iter(all))),
        ]
    })
}

/// The text of something like an event.
pub(super) fn event_text() -> impl Strategy<Value = String> {
    let member = (prop::sample::select(&MEMBERS[..]).prop_map(str::to_owned), json_value());
    prop_oneof![
        8 => prop::collection::vec(member, 0..6)
            .prop_map(|members| {
                let members = members.iter().map(|(name, value)| format!("{}: {value}", json!(name)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        1 => json_value().prop_map(|value| value.to_string()),
        1 => ".{0,40}",
    ]
}

/// Any body.
pub(super) fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        event_text().prop_map(String::into_bytes),
        prop::collection::vec(event_text(), 0..4).prop_map(|all| format!("[{}]", all.join(",")).into_bytes()),
        prop::collection::vec(event_text(), 0..4).prop_map(|all| all.join("\n").into_bytes()),
        any::<Vec<u8>>(),
    ]
}
