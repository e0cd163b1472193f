//! Shapes of The Eye's collector as the documentation tells them, where they are not
//! those that are read and written.

use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::EventBody;

/// An event that is sent in.
#[derive(ToSchema)]
#[schema(as = NewCollectorEvent)]
pub struct CollectedEvent {
    pub session_id: Uuid,
    #[schema(example = "page interaction")]
    pub category: String,
    #[schema(example = "cta click")]
    pub name: String,
    #[schema(value_type = Object, example = json!({"host": "www.example.com", "element": "chat bubble"}))]
    pub data: serde_json::Value,
    #[schema(example = "2021-01-01 09:15:27.243860")]
    pub timestamp: String,
}

/// Which events are asked for. Unknown parameters are ignored, and the last of repeated
/// ones counts; an empty one says nothing.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CollectorParams {
    /// A UUID.
    #[param(
        nullable = false,
        pattern = "^([0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12})?$"
    )]
    pub session_id: Option<String>,
    #[param(nullable = false)]
    pub category: Option<String>,
    #[param(nullable = false)]
    pub name: Option<String>,
    /// The earliest time, itself included.
    #[param(nullable = false)]
    pub timestamp_after: Option<String>,
    /// The latest time, itself included.
    #[param(nullable = false)]
    pub timestamp_before: Option<String>,
    /// As `timestamp_after`.
    #[param(nullable = false)]
    pub timestamp_start: Option<String>,
    /// As `timestamp_before`.
    #[param(nullable = false)]
    pub timestamp_end: Option<String>,
    #[param(nullable = false, format = "uint64", minimum = 1, default = 1)]
    pub page: Option<u64>,
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    pub page_size: Option<u64>,
}

/// A page of events.
#[derive(ToSchema)]
#[schema(as = CollectorPage)]
pub struct CollectedPage<'a> {
    /// How many there are on all pages.
    pub count: u64,
    /// The whole link to the page that follows.
    #[schema(format = "uri")]
    pub next: Option<String>,
    /// The whole link to the page before.
    #[schema(format = "uri")]
    pub previous: Option<String>,
    pub results: Vec<EventBody<'a>>,
}
