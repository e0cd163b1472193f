//! Reads that do not end: past events first, then those that are appended.

use std::collections::VecDeque;

use super::Fault;
use super::filter::Filter;
use super::read::{AllFrom, Item, StreamFrom, find};
use super::record::Text;
use super::state::State;

/// A page of past events. Whoever is this far behind the live events gets past
/// events again.
const PAGE: usize = 32;
/// How many live events are looked at in one go.
const LIVE_PAGE: usize = 1024;

/// What a filter is, and how often its reader hears how far it is.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(crate) filter: Filter,
    /// Events considered in a page.
    pub(crate) window: u64,
    /// Events considered between two checkpoints.
    pub(crate) interval: u64,
}

#[derive(Debug)]
enum Source {
    /// The next revision.
    Stream { name: Text, next: u64 },
    /// The next record.
    All { next: usize, filtered: Option<Filtered> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    CatchingUp,
    /// Up to this many of the source's events are delivered as live ones.
    Live {
        until: u64,
    },
}

/// What a subscription can do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Ask again.
    More,
    /// Ask again once the log has grown.
    Waiting,
    /// Nothing more, for this reason.
    Ended(Fault),
}

#[derive(Debug)]
pub(crate) struct Subscription {
    source: Source,
    resolve_links: bool,
    phase: Phase,
    /// Events considered since the last checkpoint that was due.
    considered: u64,
    /// Where the page that comes next begins, as a checkpoint.
    page_start: (u64, u64),
    checkpoint: Option<(u64, u64)>,
    caught_up_any: bool,
    invalid: Option<Fault>,
}

impl Subscription {
    /// # Errors
    /// If the stream is gone for good.
    pub(crate) fn stream(
        state: &State,
        visible: usize,
        name: Text,
        from: StreamFrom,
        resolve_links: bool,
    ) -> Result<Self, Fault> {
        if state.tombstone(&name, visible).is_some() {
            return Err(Fault::StreamDeleted { stream: name });
        }
        let next = match from {
            StreamFrom::Start => 0,
            StreamFrom::End => state.stream(&name).map_or(0, |stream| stream.length_within(visible)),
            StreamFrom::Revision(revision) => revision.saturating_add(1),
        };
        Ok(Self::new(Source::Stream { name, next }, resolve_links, (0, 0)))
    }

    /// A position that is none is told in the course of the subscription.
    pub(crate) fn all(
        state: &State,
        visible: usize,
        from: AllFrom,
        filtered: Option<Filtered>,
        resolve_links: bool,
    ) -> Self {
        let mut invalid = None;
        let (next, start) = match from {
            AllFrom::Start => (0, (0, 0)),
            AllFrom::End => (visible, (state.end(), 0)),
            AllFrom::Position { commit, prepare } => {
                if !state.is_boundary(commit) || prepare > commit {
                    invalid = Some(Fault::Invalid(format!("no record begins at {commit}/{prepare}")));
                }
                // A record is at (p, p), so (p, 0) is before it.
                let after = if prepare == commit { commit.saturating_add(1) } else { commit };
                (state.index_at(after), (commit, prepare))
            }
        };
        Self { invalid, ..Self::new(Source::All { next, filtered }, resolve_links, start) }
    }

    fn new(source: Source, resolve_links: bool, page_start: (u64, u64)) -> Self {
        Self {
            source,
            resolve_links,
            phase: Phase::CatchingUp,
            considered: 0,
            page_start,
            checkpoint: None,
            caught_up_any: false,
            invalid: None,
        }
    }

    /// What comes next. `woken` says that the reader had taken everything and was
    /// waiting, so that what is new is live to it, however much there is.
    pub(crate) fn page(
        &mut self,
        state: &State,
        visible: usize,
        now: i64,
        woken: bool,
        out: &mut VecDeque<Item>,
    ) -> Progress {
        if let Some(fault) = self.invalid.take() {
            return Progress::Ended(fault);
        }
        match self.phase {
            Phase::CatchingUp => self.past_page(state, visible, now, out),
            Phase::Live { until } => self.live_page(state, visible, woken, until, out),
        }
    }

    fn past_page(&mut self, state: &State, visible: usize, now: i64, out: &mut VecDeque<Item>) -> Progress {
        let at_end = match &self.source {
            Source::Stream { .. } => self.stream_page(state, visible, now, out),
            Source::All { .. } => self.all_page(state, visible, out),
        };
        if !at_end {
            return Progress::More;
        }
        if let Some(fault) = self.buried(state, visible, out) {
            return Progress::Ended(fault);
        }
        out.push_back(Item::CaughtUp);
        self.considered = 0;
        self.caught_up_any = false;
        self.phase = Phase::Live { until: self.next() };
        Progress::More
    }

    fn live_page(
        &mut self,
        state: &State,
        visible: usize,
        woken: bool,
        until: u64,
        out: &mut VecDeque<Item>,
    ) -> Progress {
        let mut until = until;
        if self.next() >= until {
            let end = self.end(state, visible);
            let behind = end.saturating_sub(self.next());
            if behind == 0 {
                return self.buried(state, visible, out).map_or(Progress::Waiting, Progress::Ended);
            }
            if behind > PAGE as u64 && !woken {
                self.phase = Phase::CatchingUp;
                self.page_start = self.live_page_start(state);
                return Progress::More;
            }
            until = end;
            self.phase = Phase::Live { until };
        }
        let stop = until.min(self.next() + LIVE_PAGE as u64);
        while self.next() < stop {
            self.live_event(state, visible, out);
        }
        Progress::More
    }

    fn live_event(&mut self, state: &State, visible: usize, out: &mut VecDeque<Item>) {
        let resolve = self.resolve_links;
        match &mut self.source {
            Source::Stream { name, next } => {
                if let Some(index) = state.stream(name).and_then(|stream| stream.events.get(*next as usize)) {
                    out.push_back(Item::Event(find(state, visible, state.record(*index), resolve)));
                }
                *next += 1;
            }
            Source::All { next, filtered } => {
                let record = state.record(*next);
                *next += 1;
                let Some(filtered) = filtered else {
                    out.push_back(Item::Event(find(state, visible, record, resolve)));
                    return;
                };
                if filtered.filter.matches(record) {
                    out.push_back(Item::Event(find(state, visible, record, resolve)));
                }
                self.considered += 1;
                if self.considered >= filtered.interval {
                    self.considered = 0;
                    self.tell((record.position, record.position), out);
                }
            }
        }
    }

    /// Past events of a stream; true at its end.
    fn stream_page(&mut self, state: &State, visible: usize, now: i64, out: &mut VecDeque<Item>) -> bool {
        let Source::Stream { name, next } = &mut self.source else { return true };
        let Some(stream) = state.stream(name) else { return true };
        let length = stream.length_within(visible);
        let first = state.first_readable(name, stream, length, now);
        let start = (*next).max(first).min(length.max(*next));
        let end = length.min(start + PAGE as u64);
        for revision in start..end {
            let record = state.record(stream.events[revision as usize]);
            out.push_back(Item::Event(find(state, visible, record, self.resolve_links)));
        }
        *next = start.max(end);
        *next >= length
    }

    /// Past events of the whole log; true at its end.
    fn all_page(&mut self, state: &State, visible: usize, out: &mut VecDeque<Item>) -> bool {
        let Source::All { next, filtered } = &mut self.source else { return true };
        let window = filtered.as_ref().map_or(u64::MAX, |filtered| filtered.window);
        let (mut considered, mut matches, mut last_match) = (0, 0, None);
        while *next < visible && considered < window.max(1) && matches < PAGE {
            let record = state.record(*next);
            *next += 1;
            considered += 1;
            if filtered.as_ref().is_none_or(|filtered| filtered.filter.matches(record)) {
                matches += 1;
                last_match = Some((record.position, record.position));
                out.push_back(Item::Event(find(state, visible, record, self.resolve_links)));
            }
        }
        let at_end = *next >= visible;
        let following = if at_end { state.end() } else { state.record(*next).position };
        if let Some(interval) = filtered.as_ref().map(|filtered| filtered.interval) {
            self.considered += considered;
            self.caught_up_any |= considered > 0;
            if self.considered >= interval || (at_end && self.caught_up_any) {
                self.considered %= interval;
                self.tell(last_match.unwrap_or(self.page_start), out);
            }
        }
        self.page_start = (following, 0);
        at_end
    }

    /// Tells how far the reader is, never the same twice.
    fn tell(&mut self, checkpoint: (u64, u64), out: &mut VecDeque<Item>) {
        if self.checkpoint.is_none_or(|last| last < checkpoint) {
            self.checkpoint = Some(checkpoint);
            out.push_back(Item::Checkpoint { commit: checkpoint.0, prepare: checkpoint.1 });
        }
    }

    /// Delivers the end of a stream that is gone for good.
    fn buried(&self, state: &State, visible: usize, out: &mut VecDeque<Item>) -> Option<Fault> {
        let Source::Stream { name, .. } = &self.source else { return None };
        let index = state.tombstone(name, visible)?;
        out.push_back(Item::Event(find(state, visible, state.record(index), false)));
        Some(Fault::StreamDeleted { stream: name.clone() })
    }

    fn next(&self) -> u64 {
        match &self.source {
            Source::Stream { next, .. } => *next,
            Source::All { next, .. } => *next as u64,
        }
    }

    fn end(&self, state: &State, visible: usize) -> u64 {
        match &self.source {
            Source::Stream { name, .. } => state.stream(name).map_or(0, |stream| stream.length_within(visible)),
            Source::All { .. } => visible as u64,
        }
    }

    fn live_page_start(&self, state: &State) -> (u64, u64) {
        match &self.source {
            Source::All { next, .. } if *next < state.len() => (state.record(*next).position, 0),
            _ => self.page_start,
        }
    }
}
