//! Reads and subscriptions.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use futures::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::Context;
use super::switches::{Ending, Orders};
use super::wire::{self, IdForm};
use crate::core::Fault;
use crate::core::filter::{Filter, Subject};
use crate::core::read::{AllFrom, Direction, Item, Read, Shape, StreamFrom};
use crate::core::subscription::{Filtered, Progress, Subscription};
use crate::proto::streams::read_req::all_options::AllOption;
use crate::proto::streams::read_req::filter_options::{Filter as WireFilter, Window};
use crate::proto::streams::read_req::options::{CountOption, FilterOption, StreamOption};
use crate::proto::streams::read_req::stream_options::RevisionOption;
use crate::proto::streams::read_req::uuid_option::Content;
use crate::proto::streams::read_req::{AllOptions, FilterOptions, Options, ReadDirection};
use crate::proto::streams::{ReadReq, ReadResp};
use crate::store::now;

/// The window of a filter that does not say.
const WINDOW: u64 = 32;

/// The answers to a read.
pub(super) struct Reader {
    context: Arc<Context>,
    form: IdForm,
    ready: VecDeque<Item>,
    source: Source,
}

enum Source {
    Read(Read),
    Subscription(Box<Live>),
    /// The last answer, if it is an error.
    Ended(Option<Fault>),
}

struct Live {
    subscription: Subscription,
    grown: WatchStream<usize>,
    orders: WatchStream<Orders>,
    order: Orders,
    /// How often subscriptions had been ended when this one began.
    ended: u64,
    /// Whether the reader had taken everything there was.
    woken: bool,
}

impl Reader {
    pub(super) fn open(context: Arc<Context>, request: ReadReq) -> Result<Self, Fault> {
        let options = request.options.ok_or_else(|| invalid("the options are missing"))?;
        let form = match options.uuid_option.as_ref().ok_or_else(|| invalid("the form of ids is missing"))?.content {
            Some(Content::String(())) => IdForm::String,
            Some(Content::Structured(())) | None => IdForm::Structured,
        };
        let mut ready = VecDeque::new();
        let source = match options.count_option {
            Some(CountOption::Count(count)) => Source::Read(read(&context, options, count, &mut ready)?),
            Some(CountOption::Subscription(())) => {
                let live = subscribe(&context, options)?;
                ready.push_back(Item::Confirmation);
                Source::Subscription(Box::new(live))
            }
            None => return Err(invalid("neither a count nor a subscription is asked for")),
        };
        Ok(Self { context, form, ready, source })
    }

    /// Gets more; pending if there is nothing yet.
    fn poll_source(&mut self, task: &mut Task<'_>) -> Poll<()> {
        let store = &self.context.store;
        match &mut self.source {
            Source::Ended(_) => return Poll::Ready(()),
            Source::Read(read) => {
                if !store.look(|state, visible| read.page(state, visible, &mut self.ready)) {
                    self.source = Source::Ended(None);
                } else if self.ready.is_empty() {
                    // Nothing found so far: let others have their turn.
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            Source::Subscription(live) => {
                if live.order.paused {
                    live.woken = true;
                    return live.poll_orders(task);
                }
                let woken = std::mem::take(&mut live.woken);
                let progress =
                    store.look(|state, visible| live.subscription.page(state, visible, now(), woken, &mut self.ready));
                match progress {
                    Progress::More if self.ready.is_empty() => {
                        live.woken = woken;
                        task.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Progress::More => {}
                    Progress::Waiting => {
                        live.woken = true;
                        let grown = Pin::new(&mut live.grown).poll_next(task).map(drop);
                        return if grown.is_ready() { grown } else { live.poll_orders(task) };
                    }
                    Progress::Ended(fault) => self.source = Source::Ended(Some(fault)),
                }
            }
        }
        Poll::Ready(())
    }

    /// Whether all subscriptions were ended since this one began.
    fn obey(&mut self) {
        let Source::Subscription(live) = &mut self.source else { return };
        if live.order.ended == live.ended {
            return;
        }
        let fault = match live.order.ending {
            Ending::Clean => None,
            Ending::Unavailable => Some(Fault::NotReady),
            Ending::Unknown => Some(Fault::Unknown("the subscription failed".to_owned())),
        };
        self.ready.clear();
        self.source = Source::Ended(fault);
    }
}

impl Live {
    fn poll_orders(&mut self, task: &mut Task<'_>) -> Poll<()> {
        match Pin::new(&mut self.orders).poll_next(task) {
            Poll::Ready(Some(order)) => {
                self.order = order;
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Stream for Reader {
    type Item = Result<ReadResp, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Self::Item>> {
        if let Source::Subscription(live) = &mut self.source {
            // Also for a reader that always finds something ready.
            while live.poll_orders(task).is_ready() {}
        }
        loop {
            self.obey();
            let held = matches!(&self.source, Source::Subscription(live) if live.order.paused);
            if !held && let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(wire::response(item, self.form))));
            }
            if let Source::Ended(fault) = &mut self.source {
                return Poll::Ready(fault.take().map(|fault| Err(fault.into())));
            }
            if self.poll_source(task).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

fn read(context: &Context, options: Options, count: u64, ready: &mut VecDeque<Item>) -> Result<Read, Fault> {
    let shape = Shape {
        direction: match ReadDirection::try_from(options.read_direction) {
            Ok(ReadDirection::Forwards) => Direction::Forwards,
            Ok(ReadDirection::Backwards) => Direction::Backwards,
            Err(_) => return Err(invalid("no such direction")),
        },
        count,
        resolve_links: options.resolve_links,
        with_bounds: options.control_option.is_some_and(|control| control.compatibility >= 1),
    };
    match options.stream_option.ok_or_else(|| invalid("neither a stream nor all is asked for"))? {
        StreamOption::Stream(stream) => {
            unfiltered(options.filter_option)?;
            let from = stream_from(stream.revision_option)?;
            let name = wire::stream_name(stream.stream_identifier)?;
            let (before, read) =
                context.store.look(|state, visible| Read::stream(state, visible, now(), name, from, &shape))?;
            ready.extend(before);
            Ok(read)
        }
        StreamOption::All(all) => {
            let from = all_from(&all)?;
            let filter = match options.filter_option {
                Some(FilterOption::Filter(wire)) => Some(filter(wire)?.filter),
                other => unfiltered(other).map(|()| None)?,
            };
            context.store.look(|state, visible| Read::all(state, visible, from, filter, &shape))
        }
    }
}

fn subscribe(context: &Context, options: Options) -> Result<Live, Fault> {
    if options.read_direction != ReadDirection::Forwards as i32 {
        return Err(invalid("a subscription goes forwards"));
    }
    let grown = WatchStream::from_changes(context.store.grown());
    let orders = context.switches.orders();
    let resolve = options.resolve_links;
    let subscription = match options.stream_option.ok_or_else(|| invalid("neither a stream nor all is asked for"))? {
        StreamOption::Stream(stream) => {
            unfiltered(options.filter_option)?;
            let from = stream_from(stream.revision_option)?;
            let name = wire::stream_name(stream.stream_identifier)?;
            context.store.look(|state, visible| Subscription::stream(state, visible, name, from, resolve))?
        }
        StreamOption::All(all) => {
            let from = all_from(&all)?;
            let filtered = match options.filter_option {
                Some(FilterOption::Filter(wire)) => Some(filtered(wire)?),
                other => unfiltered(other).map(|()| None)?,
            };
            context.store.look(|state, visible| Subscription::all(state, visible, from, filtered, resolve))
        }
    };
    let order = *orders.borrow();
    let orders = WatchStream::from_changes(orders);
    Ok(Live { subscription, grown, orders, order, ended: order.ended, woken: false })
}

fn stream_from(option: Option<RevisionOption>) -> Result<StreamFrom, Fault> {
    match option.ok_or_else(|| invalid("where to begin is missing"))? {
        RevisionOption::Revision(revision) => Ok(StreamFrom::Revision(revision)),
        RevisionOption::Start(()) => Ok(StreamFrom::Start),
        RevisionOption::End(()) => Ok(StreamFrom::End),
    }
}

fn all_from(options: &AllOptions) -> Result<AllFrom, Fault> {
    match options.all_option.as_ref().ok_or_else(|| invalid("where to begin is missing"))? {
        AllOption::Position(position) => {
            Ok(AllFrom::Position { commit: position.commit_position, prepare: position.prepare_position })
        }
        AllOption::Start(()) => Ok(AllFrom::Start),
        AllOption::End(()) => Ok(AllFrom::End),
    }
}

/// A filter goes with all alone, and has to be ruled out by name elsewhere.
fn unfiltered(option: Option<FilterOption>) -> Result<(), Fault> {
    match option {
        Some(FilterOption::NoFilter(())) => Ok(()),
        Some(FilterOption::Filter(_)) => Err(invalid("a stream is read without a filter")),
        None => Err(invalid("neither a filter nor none is asked for")),
    }
}

fn filtered(options: FilterOptions) -> Result<Filtered, Fault> {
    if options.checkpoint_interval_multiplier == 0 {
        return Err(invalid("the checkpoint interval is zero"));
    }
    filter(options)
}

fn filter(options: FilterOptions) -> Result<Filtered, Fault> {
    let (subject, expression) = match options.filter.ok_or_else(|| invalid("the filter is empty"))? {
        WireFilter::StreamIdentifier(expression) => (Subject::Stream, expression),
        WireFilter::EventType(expression) => (Subject::EventType, expression),
    };
    let window = match options.window.ok_or_else(|| invalid("the window is missing"))? {
        Window::Max(events) => u64::from(events),
        Window::Count(()) => WINDOW,
    };
    let interval = (window * u64::from(options.checkpoint_interval_multiplier)).max(1);
    Ok(Filtered { filter: Filter::new(subject, &expression.regex, expression.prefix)?, window, interval })
}

fn invalid(message: &str) -> Fault {
    Fault::Invalid(message.to_owned())
}
