//! Reads that end: a stream or the whole log, forwards or backwards.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Fault;
use super::filter::Filter;
use super::record::{Record, Text};
use super::state::State;

/// A page of a read holds at most this many events.
const PAGE: usize = 256;
/// And looks at no more than this many, so that a filter does not hold up others.
const SCAN: usize = 4096;
/// The page of which the server tells where the stream begins.
const FIRST_PAGE: u64 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forwards,
    Backwards,
}

/// Where a read of a stream begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamFrom {
    Start,
    End,
    Revision(u64),
}

/// Where a read of the whole log begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AllFrom {
    Start,
    End,
    Position { commit: u64, prepare: u64 },
}

/// An event as a reader gets it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) event: Option<Arc<Record>>,
    pub(crate) link: Option<Arc<Record>>,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Event(Found),
    StreamNotFound(Text),
    FirstRevision(u64),
    LastRevision(u64),
    Confirmation,
    CaughtUp,
    Checkpoint { commit: u64, prepare: u64 },
}

/// What is read, but for where.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) direction: Direction,
    pub(crate) count: u64,
    pub(crate) resolve_links: bool,
    /// Whether the reader is told where the stream begins and ends.
    pub(crate) with_bounds: bool,
}

/// The part of the log that a stream, or all of it, has to offer.
#[derive(Debug)]
enum Source {
    Stream(Text),
    All(Option<Filter>),
}

/// A read under way.
#[derive(Debug)]
pub(crate) struct Read {
    source: Source,
    direction: Direction,
    resolve_links: bool,
    /// Revisions or indices, inclusive and exclusive.
    low: u64,
    high: u64,
    left: u64,
    last: Option<u64>,
}

impl Read {
    /// What comes before the events, and the read of these.
    pub(crate) fn stream(
        state: &State,
        visible: usize,
        now: i64,
        name: Text,
        from: StreamFrom,
        shape: &Shape,
    ) -> Result<(Vec<Item>, Self), Fault> {
        if state.tombstone(&name, visible).is_some() {
            return Err(Fault::StreamDeleted { stream: name });
        }
        if shape.count == 0 || (matches!(from, StreamFrom::End) && shape.direction == Direction::Forwards) {
            return Err(Fault::Unknown("this read makes no sense".to_owned()));
        }
        let mut read = Self {
            source: Source::Stream(name.clone()),
            direction: shape.direction,
            resolve_links: shape.resolve_links,
            low: 0,
            high: 0,
            left: shape.count,
            last: None,
        };
        let stream = state.stream(&name);
        let length = stream.map_or(0, |stream| stream.length_within(visible));
        let Some(stream) = stream.filter(|stream| length > 0 && !stream.limits.deleted()) else {
            return Ok((vec![Item::StreamNotFound(name)], read));
        };
        let first = state.first_readable(&name, stream, length, now);
        let last = length - 1;
        let mut before = Vec::new();
        match shape.direction {
            Direction::Forwards => {
                let start = if let StreamFrom::Revision(revision) = from { revision } else { 0 };
                (read.low, read.high) = (start.max(first), length);
                if shape.with_bounds
                    && let Some(revision) = first_revision(start, shape.count, first, last)
                {
                    before.push(Item::FirstRevision(revision));
                }
            }
            Direction::Backwards => {
                let start = match from {
                    StreamFrom::Start => 0,
                    StreamFrom::End => last,
                    StreamFrom::Revision(revision) => revision.min(last),
                };
                (read.low, read.high) = (first, start + 1);
            }
        }
        read.last = shape.with_bounds.then_some(last);
        Ok((before, read))
    }

    /// A read of the whole log.
    pub(crate) fn all(
        state: &State,
        visible: usize,
        from: AllFrom,
        filter: Option<Filter>,
        shape: &Shape,
    ) -> Result<Self, Fault> {
        if shape.count == 0 {
            return Err(Fault::Unknown("this read makes no sense".to_owned()));
        }
        let visible = visible as u64;
        let start = match from {
            AllFrom::Start => 0,
            AllFrom::End => visible,
            AllFrom::Position { commit, prepare } => {
                if !state.is_boundary(commit) || prepare > commit {
                    return Err(Fault::Unknown(format!("no record begins at {commit}/{prepare}")));
                }
                (state.index_at(commit) as u64).min(visible)
            }
        };
        let (low, high) = match shape.direction {
            Direction::Forwards => (start, visible),
            Direction::Backwards => (0, start),
        };
        Ok(Self {
            source: Source::All(filter),
            direction: shape.direction,
            resolve_links: shape.resolve_links,
            low,
            high,
            left: shape.count,
            last: None,
        })
    }

    /// The next page; false once nothing is left. A page without events says only
    /// that nothing was found so far.
    pub(crate) fn page(&mut self, state: &State, visible: usize, out: &mut VecDeque<Item>) -> bool {
        let mut found = 0;
        for _ in 0..SCAN {
            if self.low >= self.high || self.left == 0 {
                out.extend(self.last.take().map(Item::LastRevision));
                return false;
            }
            let at = match self.direction {
                Direction::Forwards => self.low,
                Direction::Backwards => self.high - 1,
            };
            match self.direction {
                Direction::Forwards => self.low += 1,
                Direction::Backwards => self.high -= 1,
            }
            let record = match &self.source {
                Source::All(_) => state.record(at as usize),
                Source::Stream(name) => {
                    let Some(index) = state.stream(name).and_then(|stream| stream.events.get(at as usize)) else {
                        continue;
                    };
                    state.record(*index)
                }
            };
            if matches!(&self.source, Source::All(Some(filter)) if !filter.matches(record)) {
                continue;
            }
            out.push_back(Item::Event(find(state, visible, record, self.resolve_links)));
            self.left -= 1;
            found += 1;
            if found == PAGE {
                break;
            }
        }
        true
    }
}

/// Tells a reader that sees nothing in its first page where the stream goes on.
fn first_revision(start: u64, count: u64, first: u64, last: u64) -> Option<u64> {
    let page_end = start.saturating_add(count.min(FIRST_PAGE) - 1);
    if page_end < first {
        Some(first)
    } else if start.max(first) > last {
        (last + 1 != start).then_some(last + 1)
    } else {
        None
    }
}

/// The event, and that which it links to.
pub(super) fn find(state: &State, visible: usize, record: &Arc<Record>, resolve_links: bool) -> Found {
    if !resolve_links || &*record.event.kind != "$>" {
        return Found { event: Some(record.clone()), link: None };
    }
    Found { event: target(state, visible, record), link: Some(record.clone()) }
}

fn target(state: &State, visible: usize, link: &Record) -> Option<Arc<Record>> {
    let (revision, stream) = std::str::from_utf8(&link.event.data).ok()?.split_once('@')?;
    let stream = state.stream(&Text::from(stream.to_owned()))?;
    let index = *stream.events.get(revision.parse::<usize>().ok()?)?;
    (index < visible).then(|| state.record(index).clone())
}

#[cfg(test)]
mod tests {
    use super::super::Expected::{Any, NoStream};
    use super::super::filter::Subject;
    use super::super::testing::{append, describe, told};
    use super::*;

    const ALL: u64 = u64::MAX;

    fn shape(direction: Direction, count: u64) -> Shape {
        Shape { direction, count, resolve_links: true, with_bounds: true }
    }

    fn forwards(count: u64) -> Shape {
        shape(Direction::Forwards, count)
    }

    fn backwards(count: u64) -> Shape {
        shape(Direction::Backwards, count)
    }

    fn collect(state: &State, read: &mut Read, mut items: VecDeque<Item>) -> String {
        while read.page(state, state.len(), &mut items) {}
        told(&mut items).join(" ").replace("@a", "")
    }

    fn stream(state: &State, from: StreamFrom, shape: &Shape) -> Result<String, Fault> {
        let (before, mut read) = Read::stream(state, state.len(), 0, "a".into(), from, shape)?;
        Ok(collect(state, &mut read, before.into()))
    }

    fn all(state: &State, from: AllFrom, filter: Option<Filter>, shape: &Shape) -> Result<String, Fault> {
        let mut read = Read::all(state, state.len(), from, filter, shape)?;
        Ok(collect(state, &mut read, VecDeque::new()))
    }

    fn state(count: u128) -> State {
        let mut state = State::default();
        append(&mut state, "a", NoStream, 0..count).unwrap();
        state
    }

    #[test]
    fn a_stream_is_read_both_ways() {
        let state = state(5);
        let read = |from, shape| stream(&state, from, &shape).unwrap();
        assert_eq!(read(StreamFrom::Start, forwards(ALL)), "0 1 2 3 4 last 4");
        assert_eq!(read(StreamFrom::Start, forwards(2)), "0 1 last 4");
        assert_eq!(read(StreamFrom::Revision(3), forwards(ALL)), "3 4 last 4");
        assert_eq!(read(StreamFrom::End, backwards(2)), "4 3 last 4");
        assert_eq!(read(StreamFrom::Revision(1), backwards(ALL)), "1 0 last 4");
        assert_eq!(read(StreamFrom::Revision(99), backwards(1)), "4 last 4");
        assert_eq!(read(StreamFrom::Start, backwards(ALL)), "0 last 4");
        assert_eq!(read(StreamFrom::Revision(9), forwards(ALL)), "first 5 last 4");
        assert_eq!(read(StreamFrom::Revision(5), forwards(ALL)), "last 4");
        assert!(stream(&state, StreamFrom::End, &forwards(1)).is_err());
        assert!(stream(&state, StreamFrom::Start, &forwards(0)).is_err());
    }

    #[test]
    fn what_is_missing_or_deleted_is_not_found() {
        let mut state = State::default();
        assert_eq!(stream(&state, StreamFrom::Start, &forwards(ALL)).unwrap(), "not found");
        append(&mut state, "a", NoStream, 0..5).unwrap();
        state.delete(&"a".into(), Any, 0).unwrap();
        assert_eq!(stream(&state, StreamFrom::End, &backwards(ALL)).unwrap(), "not found");
        append(&mut state, "a", Any, [7]).unwrap();
        assert_eq!(stream(&state, StreamFrom::Start, &forwards(ALL)).unwrap(), "5 last 5");
        state.bury(&"a".into(), Any, 0).unwrap();
        assert_eq!(stream(&state, StreamFrom::Start, &forwards(ALL)), Err(Fault::StreamDeleted { stream: "a".into() }));
    }

    #[test]
    fn limits_hide_events() {
        let mut state = state(100);
        describe(&mut state, "a", r#"{"$tb":81}"#);
        let read = stream(&state, StreamFrom::Start, &forwards(10)).unwrap();
        assert_eq!(read, "first 81 81 82 83 84 85 86 87 88 89 90 last 99");
        describe(&mut state, "a", r#"{"$maxCount":2}"#);
        assert_eq!(stream(&state, StreamFrom::End, &backwards(ALL)).unwrap(), "99 98 last 99");
        describe(&mut state, "a", r#"{"$maxAge":60}"#);
        assert_eq!(stream(&state, StreamFrom::Revision(98), &forwards(ALL)).unwrap(), "98 99 last 99");
        let late = 60 * 10_000_000;
        let (_, mut read) =
            Read::stream(&state, state.len(), late, "a".into(), StreamFrom::End, &backwards(ALL)).unwrap();
        assert_eq!(collect(&state, &mut read, VecDeque::new()), "last 99");
    }

    #[test]
    fn only_the_last_metadata_is_read() {
        let mut state = state(1);
        describe(&mut state, "a", "{}");
        describe(&mut state, "a", "{}");
        let name = "$$a".into();
        let (_, mut read) = Read::stream(&state, state.len(), 0, name, StreamFrom::Start, &forwards(ALL)).unwrap();
        assert_eq!(collect(&state, &mut read, VecDeque::new()), "1@$$a last 1");
    }

    #[test]
    fn the_log_is_read_both_ways() {
        let state = state(3);
        let at = |index: usize| state.record(index).position;
        let position = |commit, prepare| AllFrom::Position { commit, prepare };
        let read = |from, shape| all(&state, from, None, &shape);
        assert_eq!(read(AllFrom::Start, forwards(ALL)).unwrap(), "0 1 2");
        assert_eq!(read(AllFrom::End, backwards(2)).unwrap(), "2 1");
        assert_eq!(read(AllFrom::Start, backwards(2)).unwrap(), "");
        assert_eq!(read(AllFrom::End, forwards(2)).unwrap(), "");
        assert_eq!(read(position(at(1), at(1)), forwards(1)).unwrap(), "1");
        assert_eq!(read(position(at(1), 0), forwards(1)).unwrap(), "1");
        assert_eq!(read(position(at(1), at(1)), backwards(ALL)).unwrap(), "0");
        assert!(matches!(read(position(at(1) + 1, 0), forwards(1)), Err(Fault::Unknown(_))));
    }

    #[test]
    fn a_filter_goes_on_until_the_count() {
        let mut state = State::default();
        for id in 0..200 {
            append(&mut state, if id % 50 == 0 { "a" } else { "b" }, Any, [id]).unwrap();
        }
        let filter = |regex: &str, prefix: &str| Filter::new(Subject::Stream, regex, vec![prefix.to_owned()]).ok();
        assert_eq!(all(&state, AllFrom::Start, filter("", "a"), &forwards(3)).unwrap(), "0 1 2");
        assert_eq!(all(&state, AllFrom::End, filter("^a", "b"), &backwards(3)).unwrap(), "3 2 1");
        let none = Filter::new(Subject::EventType, "", Vec::new()).ok();
        assert_eq!(all(&state, AllFrom::Start, none, &forwards(3)).unwrap(), "");
    }

    #[test]
    fn links_are_resolved() {
        use super::super::record::Proposed;
        let mut state = state(2);
        let link = |to: &[u8]| Proposed::new(uuid::Uuid::new_v4(), "$>", false, b"", to);
        state.append(&"l".into(), Any, vec![link(b"1@a"), link(b"7@a")], 0).unwrap();
        let (_, mut read) =
            Read::stream(&state, state.len(), 0, "l".into(), StreamFrom::Start, &forwards(ALL)).unwrap();
        let mut items = VecDeque::new();
        while read.page(&state, state.len(), &mut items) {}
        let found: Vec<_> = items
            .iter()
            .filter_map(|item| if let Item::Event(found) = item { Some(found) } else { None })
            .map(|found| (found.event.as_ref().map(|event| event.revision), found.link.is_some()))
            .collect();
        assert_eq!(found, [(Some(1), true), (None, true)]);
    }

    #[test]
    fn nothing_is_seen_before_it_shows() {
        let state = state(5);
        let mut read = Read::all(&state, 2, AllFrom::Start, None, &forwards(ALL)).unwrap();
        assert_eq!(collect(&state, &mut read, VecDeque::new()), "0 1");
        let (_, mut read) = Read::stream(&state, 2, 0, "a".into(), StreamFrom::End, &backwards(ALL)).unwrap();
        assert_eq!(collect(&state, &mut read, VecDeque::new()), "1 0 last 1");
    }
}
