//! Shapes as the documentation tells them, where they are not those that are read
//! and written: those hold what may be missing, these say what must be there.

use utoipa::ToSchema;

use super::AnswerJson;

/// UTF-8 of 1 to 512 bytes without control characters; neither `.` nor `..`.
#[derive(ToSchema)]
#[schema(
    value_type = String, min_length = 1, max_length = 512, example = "name",
    pattern = r"^(?!\.{1,2}$)[^\x00-\x1f\x7f-\x9f]+$"
)]
pub struct KeyText(pub String);

/// Any text but the empty one, of at most 512 KiB in JSON.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, example = "john")]
pub struct ValueText(pub String);

/// A key and the value that it shall have.
#[derive(ToSchema)]
pub struct AnswerBody {
    pub key: KeyText,
    pub value: ValueText,
}

/// The value that the path's key shall have.
#[derive(ToSchema)]
pub struct ValueBody {
    pub value: ValueText,
    /// If it is given it must be the path's.
    #[schema(nullable = false)]
    pub key: Option<KeyText>,
}

/// What happened.
#[derive(ToSchema)]
#[schema(example = "AnswerCreatedEvent")]
pub enum EventName {
    AnswerCreatedEvent,
    AnswerUpdatedEvent,
    AnswerDeletedEvent,
}

/// A command's success.
#[derive(ToSchema)]
pub struct OkBody {
    pub ok: EventName,
}

/// What is asked for in a line of a batch.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Op {
    Create,
    Update,
    Put,
    Delete,
}

/// A line of a batch.
#[derive(ToSchema)]
pub struct BatchLine {
    pub op: Op,
    pub key: KeyText,
    /// A deletion needs none.
    #[schema(nullable = false)]
    pub value: Option<ValueText>,
}

/// What happened, in a word.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Verb {
    Create,
    Update,
    Delete,
}

/// An event of a history. A deletion's value is empty. What stands behind `data` comes
/// with `detail=full`.
#[derive(ToSchema)]
pub struct AnswerEvent<'a> {
    #[schema(rename = "type")]
    pub kind: EventName,
    pub data: AnswerJson<'a>,
    #[schema(nullable = false)]
    pub event: Option<Verb>,
    #[schema(nullable = false)]
    pub id: Option<uuid::Uuid>,
    #[schema(nullable = false, example = 0)]
    pub revision: Option<u64>,
    #[schema(nullable = false, example = 42)]
    pub position: Option<u64>,
    /// UTC, with six fractional digits.
    #[schema(
        required = false, nullable = false, value_type = String, format = DateTime,
        example = "2026-01-01T00:00:00.000000Z"
    )]
    pub recorded_at: Option<String>,
    /// What is stored beside the event: when it was recorded and the version of its form.
    #[schema(required = false, nullable = false, value_type = Object)]
    pub metadata: Option<serde_json::Value>,
}
