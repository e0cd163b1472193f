//! Shapes of the audit log as the documentation tells them, where they are not those
//! that are read and written.

use utoipa::{IntoParams, ToSchema};

use super::LogJson;

/// A log that is to be written.
#[derive(ToSchema)]
#[schema(as = NewAuditLog)]
pub struct NewLog {
    #[schema(min_length = 1, example = "login")]
    pub event_name: String,
    #[schema(min_length = 1, example = "someone came in")]
    pub description: String,
    /// By default now.
    #[schema(example = "2020-11-20T21:20:04.333Z")]
    pub created_at: Option<String>,
    #[schema(example = 7)]
    pub customer_id: Option<i64>,
}

/// Which logs are asked for. Unknown parameters are ignored, and the last of repeated
/// ones counts; an empty one says nothing.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadParams {
    /// A part of the name, in letters of any case.
    #[param(nullable = false)]
    pub event_name: Option<String>,
    #[param(nullable = false)]
    pub customer_id: Option<i64>,
    /// `event_name` or `created_at`, with `-` for descending.
    #[param(nullable = false, pattern = "^(-?(event_name|created_at))?$")]
    pub sort: Option<String>,
    #[param(nullable = false, format = "uint64", minimum = 1, default = 1)]
    pub page: Option<u64>,
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    pub page_size: Option<u64>,
}

/// Where the page stands among all; empty if it has no logs.
#[derive(ToSchema)]
#[schema(as = AuditLogMetadata)]
pub struct Metadata {
    #[schema(nullable = false)]
    pub current_page: Option<u64>,
    #[schema(nullable = false)]
    pub page_size: Option<u64>,
    #[schema(nullable = false)]
    pub first_page: Option<u64>,
    #[schema(nullable = false)]
    pub last_page: Option<u64>,
    #[schema(nullable = false)]
    pub total_records: Option<u64>,
}

/// A page of logs.
#[derive(ToSchema)]
#[schema(as = AuditLogPage)]
pub struct LogsPage<'a> {
    pub logs: Vec<LogJson<'a>>,
    pub metadata: Metadata,
}
