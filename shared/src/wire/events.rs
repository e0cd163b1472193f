//! The native shapes of the event log.

pub mod shapes;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::history::{Detail, ElementJson, EventDetail};
use super::time::shortest;
use crate::domain::answer::UnreadableEvent;
use crate::domain::log_event::{LogEvent, LogFact, Members, Rejection, Session, event_after};
use crate::domain::stream::RecordedEvent;
use crate::domain::time::Timestamp;

/// A log event as clients see it.
#[derive(Serialize, ToSchema)]
#[schema(as = LogEvent)]
pub struct EventJson<'a> {
    pub id: Uuid,
    #[schema(format = DateTime)]
    pub timestamp: String,
    #[schema(format = DateTime)]
    pub created_at: String,
    pub name: Option<&'a str>,
    pub category: Option<&'a str>,
    pub component: Option<&'a str>,
    pub environment: Option<&'a str>,
    pub message: Option<&'a str>,
    pub email: Option<&'a str>,
    pub customer_id: Option<i64>,
    pub session_id: Option<Uuid>,
    pub source: Option<&'a str>,
    #[schema(value_type = Option<Object>)]
    pub data: Option<&'a Map<String, Json>>,
    #[schema(value_type = Option<Object>)]
    pub ce: Option<&'a Map<String, Json>>,
}

impl<'a> From<&'a LogEvent> for EventJson<'a> {
    fn from(event: &'a LogEvent) -> Self {
        let LogEvent { id, created_at, members, .. } = event;
        let Members { timestamp, customer_id, session_id, .. } = *members;
        Self {
            id: *id,
            timestamp: shortest(timestamp),
            created_at: shortest(*created_at),
            name: members.name.as_deref(),
            category: members.category.as_deref(),
            component: members.component.as_deref(),
            environment: members.environment.as_deref(),
            message: members.message.as_deref(),
            email: members.email.as_deref(),
            customer_id,
            session_id,
            source: members.source.as_deref(),
            data: members.data.as_ref(),
            ce: members.ce.as_ref(),
        }
    }
}

/// A page of log events.
#[derive(Serialize, ToSchema)]
#[schema(as = LogEventsPage)]
pub struct EventsJson<'a> {
    pub events: Vec<EventJson<'a>>,
    pub next: Option<String>,
}

/// A log event that is gone.
#[derive(Serialize, ToSchema)]
#[schema(as = DeletedLogEvent)]
pub struct DeletedJson {
    pub id: Uuid,
}

/// Writes an event of a log event's stream as an element of its history: the log event
/// as it was from then on, or of one that is gone its id.
///
/// # Errors
/// If the event cannot be read.
pub fn write_log_event(recorded: &RecordedEvent, detail: Detail, into: &mut Vec<u8>) -> Result<(), UnreadableEvent> {
    let kind = &*recorded.event.kind;
    let (id, _, event) = event_after(recorded)?;
    let detail = EventDetail::of(recorded, LogFact::verb_of(kind), detail);
    match event {
        Some(event) => serde_json::to_writer(into, &ElementJson { kind, data: EventJson::from(&event), detail })?,
        None => serde_json::to_writer(into, &ElementJson { kind, data: DeletedJson { id }, detail })?,
    }
    Ok(())
}

/// How many log events there are by time and a member.
#[derive(Serialize, ToSchema)]
#[schema(as = Stats)]
pub struct StatsJson<'a> {
    pub interval: &'a str,
    pub by: &'a str,
    pub buckets: Vec<BucketJson>,
    pub total: u64,
}

/// What lies within an interval.
#[derive(Serialize, ToSchema)]
#[schema(as = StatsBucket)]
pub struct BucketJson {
    pub start: String,
    pub count: u64,
    /// By the member's value; `null` where it is missing.
    pub by: BTreeMap<String, u64>,
}

impl BucketJson {
    /// A bucket without anything in it.
    pub fn new(start: Timestamp) -> Self {
        Self { start: shortest(start), count: 0, by: BTreeMap::new() }
    }

    /// Counts events that have the same value.
    pub fn add(&mut self, value: Option<String>, count: u64) {
        self.count = self.count.saturating_add(count);
        // A value may be the word null itself.
        let of_value = self.by.entry(value.unwrap_or_else(|| "null".into())).or_default();
        *of_value = of_value.saturating_add(count);
    }
}

/// A session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionJson {
    pub id: Uuid,
    pub created_at: String,
}

impl From<&Session> for SessionJson {
    fn from(session: &Session) -> Self {
        Self { id: session.id, created_at: shortest(session.created_at) }
    }
}

/// A page of sessions.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionsPage)]
pub struct SessionsJson {
    pub sessions: Vec<SessionJson>,
    pub next: Option<String>,
}

/// What was sent in and refused.
#[derive(Serialize, ToSchema)]
#[schema(as = Rejection)]
pub struct RejectionJson<'a> {
    pub id: Uuid,
    pub message: &'a str,
    #[schema(value_type = serde_json::Value)]
    pub data: &'a Json,
    pub created_at: String,
}

impl<'a> From<&'a Rejection> for RejectionJson<'a> {
    fn from(rejection: &'a Rejection) -> Self {
        let Rejection { id, message, data, created_at, .. } = rejection;
        Self { id: *id, message, data, created_at: shortest(*created_at) }
    }
}

/// A page of rejections.
#[derive(Serialize, ToSchema)]
#[schema(as = RejectionsPage)]
pub struct RejectionsJson<'a> {
    pub rejections: Vec<RejectionJson<'a>>,
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_lacks_is_null() {
        let id = Uuid::from_u128(1);
        let members = Members { timestamp: Timestamp::from_micros(1_500_000), ..Members::default() };
        let event = LogEvent { id, number: 7, created_at: Timestamp::from_micros(2_000_000), members };
        let json = serde_json::to_value(EventJson::from(&event)).expect("JSON");
        let expected = serde_json::json!({
            "id": "00000000-0000-0000-0000-000000000001",
            "timestamp": "1970-01-01T00:00:01.5Z",
            "created_at": "1970-01-01T00:00:02Z",
            "name": null,
            "category": null,
            "component": null,
            "environment": null,
            "message": null,
            "email": null,
            "customer_id": null,
            "session_id": null,
            "source": null,
            "data": null,
            "ce": null,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_missing_value_and_the_word_null_are_counted_together() {
        let mut bucket = BucketJson::new(Timestamp::from_micros(0));
        bucket.add(None, 2);
        bucket.add(Some("null".into()), 1);
        bucket.add(Some("a".into()), u64::MAX);
        assert_eq!(bucket.count, u64::MAX);
        assert_eq!(bucket.by.into_iter().collect::<Vec<_>>(), [("a".into(), u64::MAX), ("null".into(), 3)]);
    }
}
