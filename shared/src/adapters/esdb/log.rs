//! What makes the log this log: the first event of a stream of ours, made by whoever
//! comes first.

use bytes::Bytes;
use eventstore::EventData;
use uuid::Uuid;

use super::node::{Begin, Node, said};
use super::proto::Content;
use super::stored;
use crate::clock;
use crate::domain::stream::{Metadata, NewEvent};
use crate::ports::{Direction, LogId, StoreError};

/// Outside the streams that are followed.
pub(super) const STREAM: &str = "qaservice-log";
const KIND: &str = "LogCreated";

/// The id of the log on this node; none if nobody has made it yet. The first event's
/// own id is the log's: nobody can mistake what it says.
pub(super) async fn find(node: &Node) -> Result<Option<LogId>, String> {
    let mut answers =
        node.stream(STREAM, Begin::FIRST, Direction::Forwards, 1).await.map_err(|status| said(&status))?;
    while let Some(answer) = answers.message().await.map_err(|status| said(&status))? {
        if let Some(Content::Event(read)) = answer.content {
            let id = read.event.and_then(|event| event.id).and_then(|id| id.structured);
            let id = id.ok_or("the first event of its stream qaservice-log has no id")?;
            return Ok(Some(LogId(Uuid::from_u64_pair(id.most.cast_unsigned(), id.least.cast_unsigned()))));
        }
    }
    Ok(None)
}

/// The event that makes a log with this id, or is known there already.
pub(super) fn first_event(log: LogId) -> Result<EventData, StoreError> {
    let event = NewEvent {
        id: log.0,
        kind: KIND.into(),
        data: Bytes::from(format!(r#"{{"log":"{}"}}"#, log.0)),
        metadata: Metadata { schema: 1, recorded_at: clock::now() },
    };
    stored::encode(&event, log)
}
