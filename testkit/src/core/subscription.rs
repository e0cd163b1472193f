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

#[cfg(test)]
mod tests {
    use super::super::Expected::{Any, NoStream};
    use super::super::filter::Subject;
    use super::super::testing::{append, told};
    use super::*;

    /// All that there is now, and why it ends if it does.
    fn drain(subscription: &mut Subscription, state: &State, woken: bool) -> (Vec<String>, Progress) {
        let mut items = VecDeque::new();
        let mut woken = woken;
        loop {
            let progress = subscription.page(state, state.len(), 0, woken, &mut items);
            woken = false;
            if progress != Progress::More {
                return (told(&mut items), progress);
            }
        }
    }

    fn next(subscription: &mut Subscription, state: &State, woken: bool) -> String {
        let (told, progress) = drain(subscription, state, woken);
        assert_eq!(progress, Progress::Waiting);
        told.join(" ")
    }

    fn to_stream(state: &State, from: StreamFrom) -> Subscription {
        Subscription::stream(state, state.len(), "a".into(), from, false).unwrap()
    }

    fn to_all(state: &State, from: AllFrom, prefix: &str, window: u64, multiplier: u64) -> Subscription {
        let filter = Filter::new(Subject::Stream, "", vec![prefix.to_owned()]).unwrap();
        let filtered = Filtered { filter, window, interval: window * multiplier };
        Subscription::all(state, state.len(), from, Some(filtered), false)
    }

    #[test]
    fn past_events_come_before_live_ones() {
        let mut state = State::default();
        append(&mut state, "a", NoStream, 0..3).unwrap();
        for (from, past) in [
            (StreamFrom::Start, "0@a 1@a 2@a caught up"),
            (StreamFrom::Revision(0), "1@a 2@a caught up"),
            (StreamFrom::Revision(2), "caught up"),
            (StreamFrom::End, "caught up"),
        ] {
            assert_eq!(next(&mut to_stream(&state, from), &state, false), past, "{from:?}");
        }
        let mut subscription = to_stream(&state, StreamFrom::End);
        next(&mut subscription, &state, false);
        append(&mut state, "b", Any, [9]).unwrap();
        assert_eq!(next(&mut subscription, &state, true), "");
        append(&mut state, "a", Any, [9]).unwrap();
        assert_eq!(next(&mut subscription, &state, true), "3@a");
    }

    #[test]
    fn a_missing_stream_may_come() {
        let mut state = State::default();
        let mut first = to_stream(&state, StreamFrom::Start);
        let mut later = to_stream(&state, StreamFrom::Revision(1));
        for subscription in [&mut first, &mut later] {
            assert_eq!(next(subscription, &state, false), "caught up");
        }
        append(&mut state, "a", Any, 0..3).unwrap();
        assert_eq!(next(&mut first, &state, true), "0@a 1@a 2@a");
        assert_eq!(next(&mut later, &state, true), "2@a");
    }

    #[test]
    fn a_tombstone_ends_it_and_a_deletion_does_not() {
        let mut state = State::default();
        append(&mut state, "a", NoStream, 0..3).unwrap();
        let mut subscription = to_stream(&state, StreamFrom::Start);
        next(&mut subscription, &state, false);
        state.delete(&"a".into(), Any, 0).unwrap();
        assert_eq!(next(&mut subscription, &state, true), "");
        append(&mut state, "a", Any, [9]).unwrap();
        assert_eq!(next(&mut subscription, &state, true), "3@a");
        state.bury(&"a".into(), Any, 0).unwrap();
        let (told, progress) = drain(&mut subscription, &state, true);
        assert_eq!(told, ["9223372036854775807@a"]);
        assert_eq!(progress, Progress::Ended(Fault::StreamDeleted { stream: "a".into() }));
        assert!(Subscription::stream(&state, state.len(), "a".into(), StreamFrom::End, false).is_err());
    }

    #[test]
    fn a_filter_that_matches_nothing_tells_how_far_it_is() {
        let mut state = State::default();
        append(&mut state, "b", Any, 0..3).unwrap();
        let mut subscription = to_all(&state, AllFrom::Start, "a", 32, 1);
        assert_eq!(next(&mut subscription, &state, false), "checkpoint 0 caught up");
        append(&mut state, "b", Any, 3..100).unwrap();
        let mut subscription = to_all(&state, AllFrom::Start, "a", 32, 1);
        let at = |index: usize| state.record(index).position;
        let told = next(&mut subscription, &state, false);
        let pages = [at(32), at(64), at(96)].map(|position| format!("checkpoint {position}/0")).join(" ");
        assert_eq!(told, format!("checkpoint 0 {pages} caught up"));
    }

    #[test]
    fn a_checkpoint_after_a_match_is_the_match() {
        let mut state = State::default();
        for id in 0..40 {
            append(&mut state, if id == 5 || id == 33 { "a" } else { "b" }, Any, [id]).unwrap();
        }
        let at = |index: usize| state.record(index).position;
        let mut subscription = to_all(&state, AllFrom::Start, "a", 32, 1);
        let expected = format!("0@a checkpoint {} 1@a checkpoint {} caught up", at(5), at(33));
        assert_eq!(next(&mut subscription, &state, false), expected);
        // Only the one at the end where the interval is longer than the log.
        let mut subscription = to_all(&state, AllFrom::Start, "a", 32, 2);
        assert_eq!(next(&mut subscription, &state, false), format!("0@a 1@a checkpoint {} caught up", at(33)));
        // Nothing to catch up.
        let mut subscription = to_all(&state, AllFrom::End, "a", 32, 1);
        assert_eq!(next(&mut subscription, &state, false), "caught up");
    }

    #[test]
    fn a_resumed_subscription_misses_and_repeats_nothing() {
        let mut state = State::default();
        for id in 0..100 {
            append(&mut state, if id % 40 == 0 { "a" } else { "b" }, Any, [id]).unwrap();
        }
        let at = |index: usize| state.record(index).position;
        for (index, expected) in [(39, "1@a 2@a"), (40, "2@a"), (79, "2@a"), (80, "")] {
            let from = AllFrom::Position { commit: at(index), prepare: at(index) };
            let told = next(&mut to_all(&state, from, "a", 32, 1), &state, false);
            let events: Vec<_> = told.split(' ').filter(|word| word.ends_with("@a")).collect();
            assert_eq!(events.join(" "), expected, "after {index}");
        }
        let before = AllFrom::Position { commit: at(40), prepare: 0 };
        assert!(next(&mut to_all(&state, before, "a", 32, 1), &state, false).starts_with("1@a"));
    }

    #[test]
    fn live_checkpoints_count_all_events() {
        let mut state = State::default();
        let mut subscription = to_all(&state, AllFrom::Start, "a", 4, 1);
        assert_eq!(next(&mut subscription, &state, false), "caught up");
        let mut told = Vec::new();
        for id in 0..9 {
            append(&mut state, if id == 3 { "a" } else { "b" }, Any, [id]).unwrap();
            told.push(next(&mut subscription, &state, true));
        }
        let at = |index: usize| state.record(index).position;
        let (first, second) = (format!("0@a checkpoint {}", at(3)), format!("checkpoint {}", at(7)));
        assert_eq!(told, ["", "", "", &first, "", "", "", &second, ""]);
    }

    #[test]
    fn a_late_reader_catches_up_again() {
        let mut state = State::default();
        let mut subscription = to_all(&state, AllFrom::Start, "a", 32, 1);
        next(&mut subscription, &state, false);
        append(&mut state, "a", Any, 0..40).unwrap();
        let told = next(&mut subscription, &state, false);
        assert!(told.ends_with(&format!("checkpoint {} caught up", state.record(39).position)), "{told}");
        // A reader that waits is not late, however much comes at once.
        append(&mut state, "a", Any, 100..140).unwrap();
        assert!(!next(&mut subscription, &state, true).contains("caught up"));
    }

    #[test]
    fn a_position_that_is_none_is_an_error() {
        let mut state = State::default();
        append(&mut state, "a", Any, 0..2).unwrap();
        let commit = state.record(1).position + 1;
        let from = AllFrom::Position { commit, prepare: commit };
        let mut subscription = Subscription::all(&state, state.len(), from, None, false);
        let (_, progress) = drain(&mut subscription, &state, false);
        assert!(matches!(progress, Progress::Ended(Fault::Invalid(_))), "{progress:?}");
    }
}
