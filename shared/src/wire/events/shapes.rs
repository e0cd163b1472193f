//! Shapes of the event log as the documentation tells them, where they are not those
//! that are read and written.

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A log event that is sent in; at most 512 KiB. Members with other names are refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "login", "category": "user", "data": {"host": "a"}}))]
pub struct NewEvent {
    /// When it happened, by default now: RFC 3339, `YYYY-MM-DD HH:MM:SS[.f]` or
    /// `YYYY-MM-DD`.
    pub timestamp: Option<String>,
    pub name: Option<String>,
    pub category: Option<String>,
    pub component: Option<String>,
    pub environment: Option<String>,
    pub message: Option<String>,
    pub email: Option<String>,
    pub customer_id: Option<i64>,
    pub session_id: Option<Uuid>,
    pub source: Option<String>,
    /// Any object, at most 32 levels deep, without NUL in names.
    #[schema(value_type = Option<Object>)]
    pub data: Option<serde_json::Value>,
    /// Attributes of a CloudEvent that have no member of their own.
    #[schema(value_type = Option<Object>)]
    pub ce: Option<serde_json::Value>,
}

/// An event or an array of them.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(example = json!({"name": "login", "category": "user", "data": {"host": "a"}}))]
pub enum NewEvents {
    One(Box<NewEvent>),
    Many(Vec<NewEvent>),
}

/// A merge patch (RFC 7396): what is null is taken away. `id` and `created_at` stay.
#[derive(ToSchema)]
#[schema(value_type = NewEvent, example = json!({"category": null, "data": {"host": "b"}}))]
pub struct EventPatch(pub NewEvent);

/// A CloudEvent 1.0. `type` is the name, `time` the timestamp and `source` the source;
/// other attributes are kept in `ce`.
#[derive(ToSchema)]
#[schema(example = json!({"specversion": "1.0", "id": "1", "source": "/a", "type": "login", "data": {"host": "a"}}))]
pub struct CloudEvent {
    #[schema(pattern = "^1\\.0$")]
    pub specversion: String,
    #[schema(min_length = 1)]
    pub id: String,
    #[schema(min_length = 1)]
    pub source: String,
    #[schema(rename = "type", min_length = 1)]
    pub kind: String,
    #[schema(required = false, nullable = false, value_type = String, format = DateTime)]
    pub time: Option<String>,
    /// Any JSON; what is no object becomes `{"value": …}`.
    #[schema(required = false, value_type = serde_json::Value)]
    pub data: Option<serde_json::Value>,
}

/// An object without members.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmptyBody {}

/// What happened to a log event.
#[derive(ToSchema)]
pub enum LogFactName {
    LogEventRecorded,
    LogEventAmended,
    LogEventDeleted,
}

/// An event of a log event's history. What stands behind `data` comes with
/// `detail=full`.
#[derive(ToSchema)]
pub struct LogEventChange {
    #[schema(rename = "type")]
    pub kind: LogFactName,
    /// The event as it was from then on; of one that is gone its id alone.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
    #[schema(nullable = false)]
    pub event: Option<String>,
    #[schema(nullable = false)]
    pub id: Option<Uuid>,
    #[schema(nullable = false)]
    pub revision: Option<u64>,
    #[schema(nullable = false)]
    pub position: Option<u64>,
    #[schema(required = false, nullable = false, value_type = String, format = DateTime)]
    pub recorded_at: Option<String>,
    #[schema(required = false, nullable = false, value_type = Object)]
    pub metadata: Option<serde_json::Value>,
}
