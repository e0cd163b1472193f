//! Many appends over one call, each answered on its own.

use std::collections::{HashMap, VecDeque};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, SystemTime};

use futures::Stream;
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Status, Streaming};
use uuid::Uuid;

use super::append::{Size, WRITE_TIMEOUT};
use super::connection::Link;
use super::{Context, errors, wire};
use crate::core::append::Written;
use crate::core::record::{Proposed, Text};
use crate::core::{Expected, Fault};
use crate::proto::shared::{AllStreamPosition, StreamIdentifier, Uuid as WireId};
use crate::proto::streams::batch_append_req::Options;
use crate::proto::streams::batch_append_req::options::{DeadlineOption, ExpectedStreamPosition};
use crate::proto::streams::batch_append_resp::{
    Result as Outcome, Success, success::CurrentRevisionOption, success::PositionOption,
};
use crate::proto::streams::{BatchAppendReq, BatchAppendResp, ProposedMessage};
use crate::store::{Change, Decided};

/// Answers that may wait for the disk before more is taken in.
const WAITING: usize = 4096;

/// The answers to a call. Reading them is what takes in the appends.
pub(super) struct Batch {
    context: Arc<Context>,
    link: Option<Link>,
    messages: Option<Streaming<BatchAppendReq>>,
    parts: HashMap<Uuid, Parts>,
    replies: VecDeque<Reply>,
    grown: WatchStream<usize>,
    timer: Pin<Box<Sleep>>,
}

/// An append of which not all has come in.
struct Parts {
    stream_identifier: Option<StreamIdentifier>,
    stream: Text,
    expected: Expected,
    limit: Duration,
    size: Size,
    events: Vec<Proposed>,
    fault: Option<Fault>,
}

/// An answer that may be given once that much of the log shows.
struct Reply {
    correlation_id: Option<WireId>,
    stream_identifier: Option<StreamIdentifier>,
    result: Result<Written, Fault>,
    once: usize,
    deadline: Instant,
    lost: bool,
}

impl Batch {
    pub(super) fn new(context: Arc<Context>, request: Request<Streaming<BatchAppendReq>>) -> Self {
        let link = Link::of(request.extensions());
        let grown = WatchStream::from_changes(context.store.grown());
        Self {
            context,
            link,
            messages: Some(request.into_inner()),
            parts: HashMap::new(),
            replies: VecDeque::new(),
            grown,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    fn take(&mut self, request: BatchAppendReq) -> Result<(), Fault> {
        let id = wire::parse_id(request.correlation_id.as_ref())
            .ok_or_else(|| Fault::Invalid("the correlation id is missing".to_owned()))?;
        let mut parts = match (self.parts.remove(&id), request.options) {
            (Some(parts), _) => parts,
            (None, Some(options)) => Parts::new(options)?,
            (None, None) => return Err(Fault::Invalid("the options are missing".to_owned())),
        };
        parts.add(request.proposed_messages);
        if request.is_final {
            let reply = self.decide(parts, request.correlation_id);
            self.replies.push_back(reply);
        } else {
            self.parts.insert(id, parts);
        }
        Ok(())
    }

    fn decide(&self, parts: Parts, correlation_id: Option<WireId>) -> Reply {
        let Context { store, switches, .. } = &*self.context;
        let stream_identifier = parts.stream_identifier;
        let mut reply = Reply {
            correlation_id,
            stream_identifier,
            result: Err(Fault::TimedOut),
            once: 0,
            deadline: Instant::now() + parts.limit,
            lost: false,
        };
        if let Some(fault) = parts.fault {
            reply.result = Err(fault);
        } else if switches.refuses_append() {
            reply.result = Err(Fault::NotReady);
        } else if !parts.limit.is_zero() {
            let change = Change::Append(parts.events);
            let Decided { result, once } = store.change(&parts.stream, parts.expected, change, switches.append_delay());
            (reply.result, reply.once, reply.lost) = (result, once, switches.loses_reply());
        }
        reply
    }

    fn poll_messages(&mut self, task: &mut Task<'_>) -> Result<(), Status> {
        while let Some(messages) = &mut self.messages
            && self.replies.len() < WAITING
        {
            match Pin::new(messages).poll_next(task) {
                Poll::Ready(Some(request)) => self.take(request?)?,
                Poll::Ready(None) => self.messages = None,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

impl Stream for Batch {
    type Item = Result<BatchAppendResp, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Self::Item>> {
        self.poll_messages(task)?;
        loop {
            let Some(reply) = self.replies.front() else {
                return if self.messages.is_none() { Poll::Ready(None) } else { Poll::Pending };
            };
            let (deadline, late) = (reply.deadline, reply.once > 0 && reply.deadline <= Instant::now());
            if late || self.context.store.seen(reply.once) {
                let Some(mut reply) = self.replies.pop_front() else { continue };
                if let Some(link) = self.link.as_ref().filter(|_| reply.lost) {
                    link.cut();
                    return Poll::Pending;
                }
                if late && !self.context.store.seen(reply.once) {
                    reply.result = Err(Fault::TimedOut);
                }
                return Poll::Ready(Some(Ok(reply.into())));
            }
            if Pin::new(&mut self.grown).poll_next(task).is_ready() {
                continue;
            }
            self.timer.as_mut().reset(deadline);
            if self.timer.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Parts {
    fn new(options: Options) -> Result<Self, Fault> {
        let limit = limit(options.deadline_option);
        let expected = match options.expected_stream_position {
            Some(ExpectedStreamPosition::StreamPosition(revision)) => Expected::Exact(revision),
            Some(ExpectedStreamPosition::NoStream(())) => Expected::NoStream,
            Some(ExpectedStreamPosition::Any(())) => Expected::Any,
            Some(ExpectedStreamPosition::StreamExists(())) => Expected::Exists,
            None => return Err(Fault::Invalid("the expected position is missing".to_owned())),
        };
        let (stream, fault) = match wire::stream_name(options.stream_identifier.clone()) {
            Ok(stream) => (stream, None),
            Err(fault) => (Text::from(""), Some(fault)),
        };
        let stream_identifier = options.stream_identifier;
        Ok(Self { stream_identifier, stream, expected, limit, size: Size::default(), events: Vec::new(), fault })
    }

    fn add(&mut self, messages: Vec<ProposedMessage>) {
        for message in messages {
            match wire::proposed(message).and_then(|event| self.size.add(&event).map(|()| event)) {
                Ok(event) => self.events.push(event),
                Err(fault) => self.fault = self.fault.take().or(Some(fault)),
            }
        }
    }
}

/// How long an append may take. The duration is a length, although the Rust client
/// puts the time of day there.
fn limit(deadline: Option<DeadlineOption>) -> Duration {
    let asked = match deadline {
        None => WRITE_TIMEOUT,
        Some(DeadlineOption::Deadline(length)) => Duration::try_from(length).unwrap_or_default(),
        Some(DeadlineOption::Deadline21100(time)) => {
            let time = SystemTime::try_from(time).unwrap_or(SystemTime::UNIX_EPOCH);
            time.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    asked.min(WRITE_TIMEOUT)
}

impl From<Reply> for BatchAppendResp {
    fn from(reply: Reply) -> Self {
        let result = match reply.result {
            Ok(written) => Outcome::Success(Success {
                current_revision_option: Some(
                    written
                        .revision
                        .map_or(CurrentRevisionOption::NoStream(()), CurrentRevisionOption::CurrentRevision),
                ),
                position_option: Some(written.position.map_or(PositionOption::NoPosition(()), |position| {
                    PositionOption::Position(AllStreamPosition {
                        commit_position: position,
                        prepare_position: position,
                    })
                })),
            }),
            Err(fault) => Outcome::Error(errors::item(fault)),
        };
        Self { correlation_id: reply.correlation_id, result: Some(result), stream_identifier: reply.stream_identifier }
    }
}
