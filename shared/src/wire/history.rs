//! The elements of a history, whatever it is the history of.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::stream::{Metadata, RecordedEvent};
use crate::domain::time::Timestamp;

/// How much of each event a history tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Detail {
    #[default]
    Plain,
    Full,
}

/// An element.
#[derive(Serialize)]
pub struct ElementJson<'a, T> {
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub data: T,
    #[serde(flatten)]
    pub detail: Option<EventDetail<'a>>,
}

/// What is told in full.
#[derive(Serialize)]
pub struct EventDetail<'a> {
    event: &'static str,
    id: Uuid,
    revision: u64,
    position: u64,
    recorded_at: Timestamp,
    metadata: &'a Metadata,
}

impl<'a> EventDetail<'a> {
    /// Of an event with this short name, if it is asked for.
    pub fn of(recorded: &'a RecordedEvent, event: &'static str, detail: Detail) -> Option<Self> {
        (detail == Detail::Full).then_some(Self {
            event,
            id: recorded.event.id,
            revision: recorded.revision.0,
            position: recorded.position.0,
            recorded_at: recorded.event.metadata.recorded_at,
            metadata: &recorded.event.metadata,
        })
    }
}
