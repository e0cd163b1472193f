//! The protocol's messages to and from what the core knows.

use std::collections::HashMap;

use uuid::Uuid;

use crate::core::read::{Found, Item};
use crate::core::record::{Proposed, Record, Text};
use crate::core::{Expected, Fault};
use crate::proto::shared::{StreamIdentifier, Uuid as WireId, uuid::Structured, uuid::Value};
use crate::proto::streams::expectation::ExpectedStreamRevision;
use crate::proto::streams::read_resp::{
    Checkpoint, Content, ReadEvent, RecordedEvent, StreamNotFound, SubscriptionConfirmation, read_event::Position,
};
use crate::proto::streams::{Expectation, ProposedMessage, ReadResp};

const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

/// How a reader wants ids.
#[derive(Clone, Copy, Debug)]
pub(super) enum IdForm {
    Structured,
    String,
}

pub(super) fn string_id(id: Uuid) -> WireId {
    WireId { value: Some(Value::String(id.to_string())) }
}

fn id_as(id: Uuid, form: IdForm) -> WireId {
    match form {
        IdForm::String => string_id(id),
        IdForm::Structured => {
            let (most, least) = id.as_u64_pair();
            let most_significant_bits = most as i64;
            let value = Value::Structured(Structured { most_significant_bits, least_significant_bits: least as i64 });
            WireId { value: Some(value) }
        }
    }
}

pub(super) fn parse_id(id: Option<&WireId>) -> Option<Uuid> {
    match id?.value.as_ref()? {
        Value::String(text) => Uuid::parse_str(text).ok(),
        Value::Structured(halves) => {
            let (most, least) = (halves.most_significant_bits, halves.least_significant_bits);
            Some(Uuid::from_u64_pair(most as u64, least as u64))
        }
    }
}

/// The name of a stream. The real server ends on a write to `$$`; this one refuses it.
pub(super) fn stream_name(stream: Option<StreamIdentifier>) -> Result<Text, Fault> {
    let stream = stream.ok_or_else(|| Fault::Invalid("the stream is missing".to_owned()))?;
    match Text::parse(stream.stream_name) {
        None => Err(Fault::Invalid("the name of the stream is not UTF-8".to_owned())),
        Some(name) if name.is_empty() || &*name == "$$" => {
            Err(Fault::Unknown(format!("{name:?} is no name of a stream")))
        }
        Some(name) => Ok(name),
    }
}

pub(super) fn expectation(options: Option<Expectation>) -> Result<(Text, Expected), Fault> {
    let options = options.ok_or_else(|| Fault::Invalid("the options are missing".to_owned()))?;
    let expected = match options.expected_stream_revision {
        Some(ExpectedStreamRevision::Revision(revision)) => Expected::Exact(revision),
        Some(ExpectedStreamRevision::NoStream(())) => Expected::NoStream,
        Some(ExpectedStreamRevision::Any(())) => Expected::Any,
        Some(ExpectedStreamRevision::StreamExists(())) => Expected::Exists,
        None => return Err(Fault::Invalid("the expected revision is missing".to_owned())),
    };
    Ok((stream_name(options.stream_identifier)?, expected))
}

pub(super) fn proposed(mut message: ProposedMessage) -> Result<Proposed, Fault> {
    let id = parse_id(message.id.as_ref()).filter(|id| !id.is_nil());
    let id = id.ok_or_else(|| Fault::Unknown("the id of an event is missing".to_owned()))?;
    let (Some(kind), Some(content_type)) = (message.metadata.remove("type"), message.metadata.remove("content-type"))
    else {
        return Err(Fault::MissingMetadata);
    };
    if kind.is_empty() {
        return Err(Fault::Unknown("the type of an event is empty".to_owned()));
    }
    Ok(Proposed::new(id, &kind, content_type == JSON, &message.custom_metadata, &message.data))
}

/// What a reader gets, as a message.
pub(super) fn response(item: Item, form: IdForm) -> ReadResp {
    let content = match item {
        Item::Event(found) => Content::Event(event(&found, form)),
        Item::StreamNotFound(name) => Content::StreamNotFound(StreamNotFound {
            stream_identifier: Some(StreamIdentifier { stream_name: name.bytes() }),
        }),
        Item::FirstRevision(revision) => Content::FirstStreamPosition(revision),
        Item::LastRevision(revision) => Content::LastStreamPosition(revision),
        Item::Confirmation => {
            Content::Confirmation(SubscriptionConfirmation { subscription_id: Uuid::new_v4().to_string() })
        }
        Item::CaughtUp => Content::CaughtUp(()),
        Item::Checkpoint { commit, prepare } => {
            Content::Checkpoint(Checkpoint { commit_position: commit, prepare_position: prepare })
        }
    };
    ReadResp { content: Some(content) }
}

fn event(found: &Found, form: IdForm) -> ReadEvent {
    let original = found.link.as_ref().or(found.event.as_ref());
    ReadEvent {
        event: found.event.as_ref().map(|record| recorded(record, form)),
        link: found.link.as_ref().map(|record| recorded(record, form)),
        position: original.map(|record| Position::CommitPosition(record.position)),
    }
}

fn recorded(record: &Record, form: IdForm) -> RecordedEvent {
    let content_type = if record.event.json { JSON } else { BINARY };
    RecordedEvent {
        id: Some(id_as(record.event.id, form)),
        stream_identifier: Some(StreamIdentifier { stream_name: record.stream.bytes() }),
        stream_revision: record.revision,
        prepare_position: record.position,
        commit_position: record.position,
        metadata: HashMap::from([
            ("type".to_owned(), record.event.kind.to_string()),
            ("content-type".to_owned(), content_type.to_owned()),
            ("created".to_owned(), record.created.to_string()),
        ]),
        custom_metadata: record.event.metadata.clone(),
        data: record.event.data.clone(),
    }
}
