//! Shapes of the event logger as the documentation tells them, where they are not those
//! that are read and written.

use utoipa::ToSchema;

/// An event that is to be logged.
#[derive(ToSchema)]
pub struct LoggedEvent {
    #[schema(format = "email", max_length = 100, example = "someone@example.com")]
    pub email: String,
    #[schema(min_length = 1, max_length = 100, example = "production")]
    pub environment: String,
    #[schema(min_length = 1, max_length = 100, example = "orders")]
    pub component: String,
    #[schema(min_length = 1, max_length = 1000, example = "an order was placed")]
    pub message: String,
    /// Any object but the empty one.
    #[schema(value_type = Object, example = json!({"order": 7}))]
    pub data: serde_json::Value,
}
