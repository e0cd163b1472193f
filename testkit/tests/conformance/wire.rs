//! The bare protocol, for what the client does not show.

use futures::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;

use testkit::proto::rpc;
use testkit::proto::shared::{self, StreamIdentifier};
use testkit::proto::streams::expectation::ExpectedStreamRevision;
use testkit::proto::streams::streams_client::StreamsClient;
use testkit::proto::streams::{
    AppendReq, BatchAppendReq, BatchAppendResp, DeleteReq, Expectation, Position, ProposedMessage, ReadReq, ReadResp,
    TombstoneReq, append_req, append_resp, batch_append_req, delete_resp, read_resp, tombstone_resp,
};

pub(crate) use testkit::proto::shared::uuid::Value as Id;
pub(crate) use testkit::proto::streams::append_resp::Result as AppendResult;
pub(crate) use testkit::proto::streams::batch_append_resp::Result as BatchResult;
pub(crate) use testkit::proto::streams::read_req::uuid_option::Content as IdForm;
pub(crate) use testkit::proto::streams::read_resp::Content;

use testkit::proto::streams::read_req::all_options::AllOption;
use testkit::proto::streams::read_req::filter_options::{Expression, Filter as FilterOn, Window};
use testkit::proto::streams::read_req::options::{CountOption, FilterOption, StreamOption};
use testkit::proto::streams::read_req::stream_options::RevisionOption;
use testkit::proto::streams::read_req::{AllOptions, ControlOption, FilterOptions, Options, StreamOptions, UuidOption};

use crate::server::{Event, Server, soon};

/// What a stream must be for a write to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Any,
    Exists,
    NoStream,
    At(u64),
}

/// The success of an append: the revision and the position of its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) revision: Option<u64>,
    pub(crate) position: Option<(u64, u64)>,
}

impl Server {
    fn streams(&self) -> StreamsClient<tonic::transport::Channel> {
        StreamsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// An append whose reply is told whole.
    pub(crate) async fn raw_append(
        &self,
        stream: &str,
        expect: Expect,
        messages: Vec<ProposedMessage>,
    ) -> Result<AppendResult, Status> {
        let head = append_req::Content::Options(expectation(stream, expect));
        let tail = messages.into_iter().map(append_req::Content::ProposedMessage);
        let requests: Vec<_> =
            std::iter::once(head).chain(tail).map(|content| AppendReq { content: Some(content) }).collect();
        let reply = soon("an append", self.streams().append(futures::stream::iter(requests))).await?;
        Ok(reply.into_inner().result.expect("a result"))
    }

    /// An append that must succeed.
    pub(crate) async fn write(&self, stream: &str, expect: Expect, events: &[Event]) -> Written {
        use append_resp::success::{CurrentRevisionOption, PositionOption};
        let messages = events.iter().map(proposed).collect();
        let success = match self.raw_append(stream, expect, messages).await.unwrap() {
            AppendResult::Success(success) => success,
            other => panic!("no success: {other:?}"),
        };
        let revision = match success.current_revision_option.expect("a revision or no stream") {
            CurrentRevisionOption::CurrentRevision(revision) => Some(revision),
            CurrentRevisionOption::NoStream(()) => None,
        };
        let position = match success.position_option.expect("a position or none") {
            PositionOption::Position(position) => Some((position.commit_position, position.prepare_position)),
            PositionOption::NoPosition(()) => None,
        };
        Written { revision, position }
    }

    /// A soft delete; its position.
    pub(crate) async fn delete(&self, stream: &str, expect: Expect) -> Result<(u64, u64), Status> {
        let request = DeleteReq { options: Some(expectation(stream, expect)) };
        let reply = soon("a delete", self.streams().delete(request)).await?.into_inner();
        match reply.position_option {
            Some(delete_resp::PositionOption::Position(at)) => Ok((at.commit_position, at.prepare_position)),
            other => panic!("no position: {other:?}"),
        }
    }

    /// A tombstone; its position.
    pub(crate) async fn tombstone(&self, stream: &str, expect: Expect) -> Result<(u64, u64), Status> {
        let request = TombstoneReq { options: Some(expectation(stream, expect)) };
        let reply = soon("a tombstone", self.streams().tombstone(request)).await?.into_inner();
        match reply.position_option {
            Some(tombstone_resp::PositionOption::Position(at)) => Ok((at.commit_position, at.prepare_position)),
            other => panic!("no position: {other:?}"),
        }
    }

    /// All messages of a read; its error may come when it is opened or later.
    pub(crate) async fn raw_read(&self, read: Read) -> Result<Vec<Content>, Status> {
        let mut messages = self.open(read).await;
        let mut contents = Vec::new();
        while let Some(content) = messages.next().await? {
            contents.push(content);
        }
        Ok(contents)
    }

    /// A read or a subscription, message by message.
    pub(crate) async fn open(&self, read: Read) -> Messages {
        let request = ReadReq { options: Some(read.0) };
        Messages(soon("a read", self.streams().read(request)).await.map(tonic::Response::into_inner))
    }

    /// A call of batches.
    pub(crate) fn batches(&self) -> Batches {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (incoming, replies) = mpsc::unbounded_channel();
        let mut client = self.streams();
        // The real server answers the call itself only with its first reply.
        tokio::spawn(async move {
            let call = client.batch_append(Request::new(UnboundedReceiverStream::new(outgoing))).await;
            let mut stream = match call {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(incoming.send(Err(status))),
            };
            while let Some(reply) = stream.next().await {
                if incoming.send(reply).is_err() {
                    return;
                }
            }
        });
        Batches { requests, replies }
    }
}

/// The messages of a read, from an opened call or one that failed at once.
pub(crate) struct Messages(Result<Streaming<ReadResp>, Status>);

impl Messages {
    /// The next message; None at the end of the read.
    pub(crate) async fn next(&mut self) -> Result<Option<Content>, Status> {
        let stream = match &mut self.0 {
            Ok(stream) => stream,
            Err(status) => return Err(status.clone()),
        };
        match soon("a message of a read", stream.message()).await? {
            Some(message) => Ok(Some(message.content.expect("a content"))),
            None => Ok(None),
        }
    }

    /// The next message, which must be a confirmation.
    pub(crate) async fn confirmed(&mut self) {
        let message = self.next().await.unwrap();
        assert!(matches!(message, Some(Content::Confirmation(_))), "no confirmation: {message:?}");
    }

    /// The next message, which must be an event.
    pub(crate) async fn event(&mut self) -> read_resp::ReadEvent {
        match self.next().await.unwrap() {
            Some(Content::Event(event)) => event,
            other => panic!("not an event: {other:?}"),
        }
    }

    /// The next message, which must be that the subscription has caught up.
    pub(crate) async fn caught_up(&mut self) {
        let message = self.next().await.unwrap();
        assert!(matches!(message, Some(Content::CaughtUp(_))), "not caught up: {message:?}");
    }

    /// The error that the call ends with, whatever comes before.
    pub(crate) async fn failure(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without an error"),
                Err(status) => return status,
            }
        }
    }
}

/// A read, built as the protocol has it.
#[derive(Clone)]
pub(crate) struct Read(Options);

impl Read {
    /// All of a stream, forwards from its start.
    pub(crate) fn stream(stream: &str) -> Self {
        Self::of(StreamOption::Stream(StreamOptions {
            stream_identifier: name(stream),
            revision_option: Some(RevisionOption::Start(())),
        }))
    }

    /// `$all`, forwards from its start.
    pub(crate) fn all() -> Self {
        Self::of(StreamOption::All(AllOptions { all_option: Some(AllOption::Start(())) }))
    }

    fn of(stream: StreamOption) -> Self {
        Self(Options {
            read_direction: 0,
            resolve_links: false,
            uuid_option: Some(UuidOption { content: Some(IdForm::String(())) }),
            control_option: None,
            stream_option: Some(stream),
            count_option: Some(CountOption::Count(u64::MAX)),
            filter_option: Some(FilterOption::NoFilter(())),
        })
    }

    pub(crate) fn backwards(mut self) -> Self {
        self.0.read_direction = 1;
        self
    }

    pub(crate) fn at_revision(self, revision: u64) -> Self {
        self.starting_in_stream(RevisionOption::Revision(revision))
    }

    pub(crate) fn at_position(self, commit_position: u64, prepare_position: u64) -> Self {
        self.starting_in_all(AllOption::Position(Position { commit_position, prepare_position }))
    }

    pub(crate) fn at_end(self) -> Self {
        match self.0.stream_option {
            Some(StreamOption::All(_)) => self.starting_in_all(AllOption::End(())),
            _ => self.starting_in_stream(RevisionOption::End(())),
        }
    }

    fn starting_in_stream(mut self, from: RevisionOption) -> Self {
        match &mut self.0.stream_option {
            Some(StreamOption::Stream(stream)) => stream.revision_option = Some(from),
            other => panic!("no stream: {other:?}"),
        }
        self
    }

    fn starting_in_all(mut self, from: AllOption) -> Self {
        match &mut self.0.stream_option {
            Some(StreamOption::All(all)) => all.all_option = Some(from),
            other => panic!("not $all: {other:?}"),
        }
        self
    }

    pub(crate) fn count(mut self, count: u64) -> Self {
        self.0.count_option = Some(CountOption::Count(count));
        self
    }

    pub(crate) fn subscription(mut self) -> Self {
        self.0.count_option = Some(CountOption::Subscription(()));
        self
    }

    pub(crate) fn filter(mut self, filter: Filter) -> Self {
        self.0.filter_option = Some(FilterOption::Filter(filter.0));
        self
    }

    pub(crate) fn resolving_links(mut self) -> Self {
        self.0.resolve_links = true;
        self
    }

    /// Asks for the ends of the stream to be told.
    pub(crate) fn with_ends(mut self) -> Self {
        self.0.control_option = Some(ControlOption { compatibility: 1 });
        self
    }

    /// Asks for ids in a form; None leaves the form out.
    pub(crate) fn ids_as(mut self, form: Option<IdForm>) -> Self {
        self.0.uuid_option = Some(UuidOption { content: form });
        self
    }

    /// Says nothing of ids at all.
    pub(crate) fn without_id_option(mut self) -> Self {
        self.0.uuid_option = None;
        self
    }
}

/// A filter of `$all`, with a window of 32 and a multiplier of 1.
#[derive(Clone)]
pub(crate) struct Filter(FilterOptions);

impl Filter {
    pub(crate) fn stream_prefixes(prefixes: &[&str]) -> Self {
        Self::of(FilterOn::StreamIdentifier(expression("", prefixes)))
    }

    pub(crate) fn stream_regex_or_prefixes(regex: &str, prefixes: &[&str]) -> Self {
        Self::of(FilterOn::StreamIdentifier(expression(regex, prefixes)))
    }

    fn of(filter: FilterOn) -> Self {
        Self(FilterOptions { checkpoint_interval_multiplier: 1, filter: Some(filter), window: Some(Window::Count(())) })
    }

    pub(crate) fn window(mut self, max: u32) -> Self {
        self.0.window = Some(Window::Max(max));
        self
    }

    pub(crate) fn multiplier(mut self, multiplier: u32) -> Self {
        self.0.checkpoint_interval_multiplier = multiplier;
        self
    }
}

fn expression(regex: &str, prefixes: &[&str]) -> Expression {
    Expression { regex: regex.into(), prefix: prefixes.iter().map(|&prefix| prefix.into()).collect() }
}

/// One call of batches: requests out, replies in.
pub(crate) struct Batches {
    requests: mpsc::UnboundedSender<BatchAppendReq>,
    replies: mpsc::UnboundedReceiver<Result<BatchAppendResp, Status>>,
}

impl Batches {
    pub(crate) fn send(&self, request: BatchAppendReq) {
        self.requests.send(request).expect("an open call");
    }

    pub(crate) async fn reply(&mut self) -> BatchAppendResp {
        soon("a reply to a batch", self.replies.recv()).await.expect("a reply").unwrap()
    }

    /// Sends a request and takes the reply, which must be the one to it.
    pub(crate) async fn ask(&mut self, request: BatchAppendReq) -> BatchResult {
        let correlation_id = request.correlation_id.clone();
        self.send(request);
        let reply = self.reply().await;
        assert_eq!(correlation_id, reply.correlation_id);
        reply.result.expect("a result")
    }
}

/// A batch in one message, with no deadline of its own.
pub(crate) fn batch(stream: &str, expect: Expect, events: &[Event]) -> BatchAppendReq {
    use batch_append_req::options::ExpectedStreamPosition;
    let expected_stream_position = match expect {
        Expect::Any => ExpectedStreamPosition::Any(()),
        Expect::Exists => ExpectedStreamPosition::StreamExists(()),
        Expect::NoStream => ExpectedStreamPosition::NoStream(()),
        Expect::At(revision) => ExpectedStreamPosition::StreamPosition(revision),
    };
    BatchAppendReq {
        correlation_id: Some(structured(Uuid::new_v4())),
        options: Some(batch_append_req::Options {
            stream_identifier: name(stream),
            expected_stream_position: Some(expected_stream_position),
            deadline_option: None,
        }),
        proposed_messages: events.iter().map(proposed).collect(),
        is_final: true,
    }
}

fn expectation(stream: &str, expect: Expect) -> Expectation {
    let expected = match expect {
        Expect::Any => ExpectedStreamRevision::Any(()),
        Expect::Exists => ExpectedStreamRevision::StreamExists(()),
        Expect::NoStream => ExpectedStreamRevision::NoStream(()),
        Expect::At(revision) => ExpectedStreamRevision::Revision(revision),
    };
    Expectation { stream_identifier: name(stream), expected_stream_revision: Some(expected) }
}

/// An event as an append has it.
pub(crate) fn proposed(event: &Event) -> ProposedMessage {
    ProposedMessage {
        id: Some(structured(event.id)),
        metadata: [("type", &event.kind), ("content-type", &event.content_type)]
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .into(),
        custom_metadata: event.custom.clone(),
        data: event.data.clone(),
    }
}

/// An id as two numbers.
pub(crate) fn structured(id: Uuid) -> shared::Uuid {
    let (most, least) = id.as_u64_pair();
    let halves = shared::uuid::Structured {
        most_significant_bits: most.cast_signed(),
        least_significant_bits: least.cast_signed(),
    };
    shared::Uuid { value: Some(Id::Structured(halves)) }
}

/// An id as text.
pub(crate) fn text(id: Uuid) -> shared::Uuid {
    shared::Uuid { value: Some(Id::String(id.to_string())) }
}

fn name(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: stream.to_owned().into() })
}

/// What an error's `exception` trailer says.
pub(crate) fn exception(status: &Status) -> &str {
    trailer(status, "exception")
}

/// A trailer of an error; empty if it has none of the name.
pub(crate) fn trailer<'a>(status: &'a Status, name: &str) -> &'a str {
    status.metadata().get(name).map_or("", |value| value.to_str().expect("text"))
}

/// Holds an error to be that of a stream which has been tombstoned.
pub(crate) fn assert_stream_deleted(status: &Status, stream: &str) {
    assert_eq!((Code::FailedPrecondition, "stream-deleted"), (status.code(), exception(status)), "{status:?}");
    assert_eq!(stream, trailer(status, "stream-name"));
}

/// Holds an error of a delete or a tombstone to be a wrong expectation.
pub(crate) fn assert_wrong_version(status: &Status, stream: &str, expected: i64, actual: i64) {
    assert_eq!((Code::FailedPrecondition, "wrong-expected-version"), (status.code(), exception(status)), "{status:?}");
    assert_eq!(stream, trailer(status, "stream-name"));
    assert_eq!(expected.to_string(), trailer(status, "expected-version"));
    assert_eq!(actual.to_string(), trailer(status, "actual-version"));
}

/// The error of a batch, and its details, which must be of the type asked for.
pub(crate) fn refused<Details: Message + Default>(result: BatchResult, type_name: &str) -> (rpc::Status, Details) {
    let BatchResult::Error(status) = result else { panic!("no error: {result:?}") };
    let details = status.details.clone().expect("details");
    assert_eq!(format!("type.googleapis.com/event_store.client.{type_name}"), details.type_url);
    let details = Details::decode(details.value.as_slice()).expect("details of their type");
    (status, details)
}
