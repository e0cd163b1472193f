//! Shapes of The Eye's REST API as the documentation tells them, where they are not
//! those that are read and written.

use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::SessionBody;

/// A session that is to be registered.
#[derive(ToSchema)]
#[schema(as = NewEyeSession)]
pub struct NewSession {
    /// By default a new one.
    pub id: Option<Uuid>,
}

/// An event that is sent in.
#[derive(ToSchema)]
#[schema(as = NewEyeEvent)]
pub struct SentEvent {
    /// A session that is known.
    pub session: SessionBody,
    #[schema(example = "page interaction")]
    pub category: String,
    #[schema(example = "pageview")]
    pub name: String,
    /// Any object but the empty one.
    #[schema(value_type = Object, example = json!({"host": "www.example.com", "path": "/"}))]
    pub data: serde_json::Value,
    /// Not in the future.
    #[schema(example = "2021-01-01 09:15:27.243860")]
    pub timestamp: String,
}

/// What of an event is to be changed.
#[derive(ToSchema)]
#[schema(as = EyeEventPatch)]
pub struct SentPatch {
    #[schema(nullable = false)]
    pub session: Option<SessionBody>,
    #[schema(nullable = false, example = "page interaction")]
    pub category: Option<String>,
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[schema(required = false, nullable = false, value_type = Object, example = json!({"path": "/a"}))]
    pub data: Option<serde_json::Value>,
    #[schema(nullable = false, example = "2021-01-01 09:15:27")]
    pub timestamp: Option<String>,
}

/// Which events are asked for. Unknown parameters are ignored, and the last of repeated
/// ones counts; an empty one says nothing.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EyeParams {
    /// A UUID.
    #[param(
        nullable = false,
        pattern = "^([0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12})?$"
    )]
    pub session: Option<String>,
    #[param(nullable = false)]
    pub category: Option<String>,
    /// The latest time, itself included.
    #[param(nullable = false, rename = "timestamp__lte")]
    pub timestamp_lte: Option<String>,
    /// The earliest time, itself included.
    #[param(nullable = false, rename = "timestamp__gte")]
    pub timestamp_gte: Option<String>,
}
