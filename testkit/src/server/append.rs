//! Appends, deletions and tombstones of one call each.

use std::time::Duration;

use tonic::{Request, Status, Streaming};

use super::Context;
use super::connection::Link;
use super::wire;
use crate::core::append::Written;
use crate::core::record::{Proposed, Text};
use crate::core::{Expected, Fault};
use crate::proto::streams::append_req::Content;
use crate::proto::streams::append_resp::wrong_expected_version::{
    CurrentRevisionOption as WrongCurrent, CurrentRevisionOption2060 as OldCurrent,
    ExpectedRevisionOption as WrongExpected, ExpectedRevisionOption2060 as OldExpected,
};
use crate::proto::streams::append_resp::{
    Result as Outcome, Success, WrongExpectedVersion, success::CurrentRevisionOption, success::PositionOption,
};
use crate::proto::streams::{AppendReq, AppendResp, Position};
use crate::store::Change;

/// What one append may hold.
pub(super) const MAX_APPEND: u32 = 1024 * 1024;
/// How long a write may take to reach the disk.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn append(context: &Context, request: Request<Streaming<AppendReq>>) -> Result<AppendResp, Status> {
    let link = Link::of(request.extensions());
    let mut messages = request.into_inner();
    let Some(AppendReq { content: Some(Content::Options(options)) }) = messages.message().await? else {
        return Err(Fault::Invalid("the options come first".to_owned()).into());
    };
    let (stream, expected) = wire::expectation(Some(options))?;
    let mut size = Size::default();
    let mut events = Vec::new();
    while let Some(message) = messages.message().await? {
        let Some(Content::ProposedMessage(message)) = message.content else {
            return Err(Fault::Invalid("an event was expected".to_owned()).into());
        };
        let event = wire::proposed(message)?;
        size.add(&event)?;
        events.push(event);
    }
    let result = match write(context, link, &stream, expected, Change::Append(events)).await {
        Ok(written) => Outcome::Success(Success {
            current_revision_option: Some(
                written.revision.map_or(CurrentRevisionOption::NoStream(()), CurrentRevisionOption::CurrentRevision),
            ),
            position_option: Some(position(written).map_or(PositionOption::NoPosition(()), PositionOption::Position)),
        }),
        Err(Fault::WrongExpectedVersion { expected, current, .. }) => {
            Outcome::WrongExpectedVersion(wrong_version(expected, current))
        }
        Err(fault) => return Err(fault.into()),
    };
    Ok(AppendResp { result: Some(result) })
}

/// The bytes of an append so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size(usize);

impl Size {
    pub(super) fn add(&mut self, event: &Proposed) -> Result<(), Fault> {
        self.0 += event.size();
        if self.0 > MAX_APPEND as usize { Err(Fault::AppendTooLarge { max: MAX_APPEND }) } else { Ok(()) }
    }
}

/// Makes a change and waits until it shows.
pub(super) async fn write(
    context: &Context,
    link: Option<Link>,
    stream: &Text,
    expected: Expected,
    change: Change,
) -> Result<Written, Fault> {
    if context.switches.refuses_append() {
        return Err(Fault::NotReady);
    }
    let decided = context.store.change(stream, expected, change, context.switches.append_delay());
    let lost = context.switches.loses_reply();
    if !context.store.seen(decided.once) {
        let mut grown = context.store.grown();
        let shown = grown.wait_for(|count| *count >= decided.once);
        tokio::time::timeout(WRITE_TIMEOUT, shown).await.map_err(|_| Fault::TimedOut)?.map_err(|_| Fault::TimedOut)?;
    }
    if let Some(link) = link.filter(|_| lost) {
        link.cut();
        return std::future::pending().await;
    }
    decided.result
}

pub(super) fn position(written: Written) -> Option<Position> {
    written.position.map(|position| Position { commit_position: position, prepare_position: position })
}

fn wrong_version(expected: Expected, current: Option<u64>) -> WrongExpectedVersion {
    let (expected_revision_option, expected_revision_option_20_6_0) = match expected {
        Expected::Any => (WrongExpected::ExpectedAny(()), OldExpected::Any2060(())),
        Expected::Exists => (WrongExpected::ExpectedStreamExists(()), OldExpected::StreamExists2060(())),
        Expected::NoStream => (WrongExpected::ExpectedNoStream(()), OldExpected::ExpectedRevision2060(u64::MAX)),
        Expected::Exact(revision) => {
            (WrongExpected::ExpectedRevision(revision), OldExpected::ExpectedRevision2060(revision))
        }
    };
    WrongExpectedVersion {
        current_revision_option_20_6_0: Some(
            current.map_or(OldCurrent::NoStream2060(()), OldCurrent::CurrentRevision2060),
        ),
        expected_revision_option_20_6_0: Some(expected_revision_option_20_6_0),
        current_revision_option: Some(current.map_or(WrongCurrent::CurrentNoStream(()), WrongCurrent::CurrentRevision)),
        expected_revision_option: Some(expected_revision_option),
    }
}
