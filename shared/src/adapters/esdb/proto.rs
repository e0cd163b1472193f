//! The messages of `event_store.client.streams.Streams/Read`, as far as they are
//! used here. What is left out is skipped when it arrives.

use bytes::Bytes;
use prost::{Message, Oneof};

/// The path of the call.
pub(super) const READ: &str = "/event_store.client.streams.Streams/Read";

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadReq {
    #[prost(message, optional, tag = "1")]
    pub(super) options: Option<Options>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Options {
    #[prost(oneof = "Source", tags = "1, 2")]
    pub(super) source: Option<Source>,
    /// 0 is forwards, 1 backwards.
    #[prost(int32, tag = "3")]
    pub(super) direction: i32,
    #[prost(oneof = "Amount", tags = "5, 6")]
    pub(super) amount: Option<Amount>,
    #[prost(oneof = "Filtering", tags = "7, 8")]
    pub(super) filtering: Option<Filtering>,
    #[prost(message, optional, tag = "9")]
    pub(super) uuids: Option<Uuids>,
    #[prost(message, optional, tag = "10")]
    pub(super) control: Option<Control>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Source {
    #[prost(message, tag = "1")]
    Stream(OneStream),
    #[prost(message, tag = "2")]
    All(All),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OneStream {
    #[prost(message, optional, tag = "1")]
    pub(super) name: Option<StreamName>,
    #[prost(oneof = "FromRevision", tags = "2, 3, 4")]
    pub(super) from: Option<FromRevision>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum FromRevision {
    #[prost(uint64, tag = "2")]
    Revision(u64),
    #[prost(message, tag = "3")]
    Start(Empty),
    #[prost(message, tag = "4")]
    End(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct All {
    #[prost(oneof = "FromPosition", tags = "1, 2, 3")]
    pub(super) from: Option<FromPosition>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum FromPosition {
    #[prost(message, tag = "1")]
    Position(LogPosition),
    #[prost(message, tag = "2")]
    Start(Empty),
    #[prost(message, tag = "3")]
    End(Empty),
}

/// A place in `$all`; a checkpoint has the same shape.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct LogPosition {
    #[prost(uint64, tag = "1")]
    pub(super) commit: u64,
    #[prost(uint64, tag = "2")]
    pub(super) prepare: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Amount {
    #[prost(uint64, tag = "5")]
    Count(u64),
    #[prost(message, tag = "6")]
    Subscription(Empty),
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Filtering {
    #[prost(message, tag = "7")]
    Filter(Filter),
    #[prost(message, tag = "8")]
    None(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Filter {
    #[prost(message, optional, tag = "1")]
    pub(super) stream_name: Option<Expression>,
    /// How many events are looked at before a pause.
    #[prost(uint32, optional, tag = "3")]
    pub(super) window: Option<u32>,
    /// A checkpoint after this many windows.
    #[prost(uint32, tag = "5")]
    pub(super) checkpoint_interval: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Expression {
    #[prost(string, repeated, tag = "2")]
    pub(super) prefixes: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Uuids {
    #[prost(message, optional, tag = "1")]
    pub(super) structured: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Control {
    #[prost(uint32, tag = "1")]
    pub(super) compatibility: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamName {
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) bytes: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadResp {
    #[prost(oneof = "Content", tags = "1, 2, 3, 4")]
    pub(super) content: Option<Content>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Content {
    #[prost(message, tag = "1")]
    Event(ReadEvent),
    #[prost(message, tag = "2")]
    Confirmation(Empty),
    #[prost(message, tag = "3")]
    Checkpoint(LogPosition),
    #[prost(message, tag = "4")]
    StreamNotFound(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadEvent {
    #[prost(message, optional, tag = "1")]
    pub(super) event: Option<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(message, optional, tag = "1")]
    pub(super) id: Option<EventId>,
    #[prost(message, optional, tag = "2")]
    pub(super) stream: Option<StreamName>,
    #[prost(uint64, tag = "3")]
    pub(super) revision: u64,
    #[prost(uint64, tag = "5")]
    pub(super) position: u64,
    #[prost(message, repeated, tag = "6")]
    pub(super) properties: Vec<Property>,
    #[prost(bytes = "bytes", tag = "7")]
    pub(super) metadata: Bytes,
    #[prost(bytes = "bytes", tag = "8")]
    pub(super) data: Bytes,
}

/// An entry of a map of strings.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Property {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EventId {
    #[prost(message, optional, tag = "1")]
    pub(super) structured: Option<Halves>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Halves {
    #[prost(int64, tag = "1")]
    pub(super) most: i64,
    #[prost(int64, tag = "2")]
    pub(super) least: i64,
}
