//! What the tests of the core share.

use std::collections::VecDeque;

use uuid::Uuid;

use super::append::Written;
use super::read::Item;
use super::record::{Proposed, Text};
use super::state::State;
use super::{Expected, Fault};

pub(super) fn event(id: u128) -> Proposed {
    Proposed::new(Uuid::from_u128(id), "happened", true, b"", b"{}")
}

/// Appends events of these ids.
pub(super) fn append(
    state: &mut State,
    stream: &'static str,
    expected: Expected,
    ids: impl IntoIterator<Item = u128>,
) -> Result<Option<u64>, Fault> {
    let events = ids.into_iter().map(event).collect();
    state.append(&stream.into(), expected, events, 0).map(|written| written.revision)
}

/// Writes the metadata of a stream.
pub(super) fn describe(state: &mut State, stream: &'static str, metadata: &str) -> Written {
    let event = Proposed::new(Uuid::new_v4(), "$metadata", true, b"", metadata.as_bytes());
    state.append(&Text::from(stream).metadata_stream(), Expected::Any, vec![event], 0).unwrap()
}

/// What a reader gets, in short: `1@a` is an event, all else is named.
pub(super) fn told(items: &mut VecDeque<Item>) -> Vec<String> {
    items
        .drain(..)
        .map(|item| match item {
            Item::Event(found) => {
                let record = found.link.or(found.event).unwrap();
                format!("{}@{}", record.revision, &*record.stream)
            }
            Item::StreamNotFound(_) => "not found".to_owned(),
            Item::FirstRevision(revision) => format!("first {revision}"),
            Item::LastRevision(revision) => format!("last {revision}"),
            Item::Confirmation => "confirmed".to_owned(),
            Item::CaughtUp => "caught up".to_owned(),
            Item::Checkpoint { commit, prepare } if commit == prepare => format!("checkpoint {commit}"),
            Item::Checkpoint { commit, prepare } => format!("checkpoint {commit}/{prepare}"),
        })
        .collect()
}
