//! The log and what is known of its streams.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use super::metadata::Limits;
use super::record::{FILE_HEADER, Proposed, Record, Text};

/// Ids that are remembered to recognise appends at any revision, as many as the
/// real server's 8 MiB hold, about. Forgotten at a restart.
const RECENT: usize = 100_000;

/// What is known of a stream: which records are its own, by revision.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Indices into the log.
    pub(crate) events: Vec<usize>,
    pub(crate) tombstone: Option<usize>,
    pub(crate) limits: Limits,
}

impl Stream {
    /// Its last revision.
    pub(crate) fn last(&self) -> Option<u64> {
        (self.events.len() as u64).checked_sub(1)
    }

    /// How many of its events are among the first `visible` of the log.
    pub(crate) fn length_within(&self, visible: usize) -> u64 {
        match self.events.last() {
            Some(last) if *last >= visible => self.events.partition_point(|index| *index < visible) as u64,
            _ => self.events.len() as u64,
        }
    }
}

/// The log. It only grows; whoever waits for the disk sees a part of it.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) log: Vec<Arc<Record>>,
    numbers: HashMap<Text, usize>,
    streams: Vec<Stream>,
    recent: HashMap<(usize, Uuid), u64>,
    recent_order: VecDeque<(usize, Uuid)>,
    end: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            log: Vec::new(),
            numbers: HashMap::new(),
            streams: Vec::new(),
            recent: HashMap::new(),
            recent_order: VecDeque::new(),
            end: FILE_HEADER.len() as u64,
        }
    }
}

impl State {
    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.log.len()
    }

    /// Makes a stored event say something else at its place, as a log never does;
    /// whether there is one.
    pub(crate) fn rewrite(&mut self, stream: &str, revision: u64, change: impl FnOnce(&Proposed) -> Proposed) -> bool {
        let number = self.numbers.get(&Text::from(stream.to_owned()));
        let events = number.map_or(&[][..], |number| &self.streams[*number].events);
        let index = usize::try_from(revision).ok().and_then(|revision| events.get(revision)).copied();
        let Some(record) = index.map(|index| &mut self.log[index]) else { return false };
        let event = change(&record.event);
        *record = Arc::new(Record { event, ..(**record).clone() });
        true
    }

    /// Where the next record goes.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn record(&self, index: usize) -> &Arc<Record> {
        &self.log[index]
    }

    /// The records from this index on.
    pub(crate) fn since(&self, index: usize) -> &[Arc<Record>] {
        &self.log[index..]
    }

    pub(crate) fn stream(&self, name: &Text) -> Option<&Stream> {
        self.number(name).map(|number| &self.streams[number])
    }

    pub(super) fn number(&self, name: &Text) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// The first record at or behind a position, as an index.
    pub(crate) fn index_at(&self, position: u64) -> usize {
        self.log.partition_point(|record| record.position < position)
    }

    /// Whether a reader may name this position: the beginning of the log or of a
    /// record, or the end.
    pub(crate) fn is_boundary(&self, position: u64) -> bool {
        position == 0
            || position == self.end
            || self.log.binary_search_by_key(&position, |record| record.position).is_ok()
    }

    /// Whether a stream, or the one that it describes, is gone for good.
    pub(crate) fn tombstone(&self, name: &Text, visible: usize) -> Option<usize> {
        let described = name.described();
        let stream = self.stream(described.as_ref().unwrap_or(name))?;
        stream.tombstone.filter(|index| *index < visible)
    }

    /// Adds a record that was decided on.
    pub(crate) fn push(&mut self, record: Record) {
        let index = self.log.len();
        let number = self.enter(&record.stream);
        if record.revision == super::metadata::DELETED {
            self.streams[number].tombstone = Some(index);
        } else {
            self.streams[number].events.push(index);
        }
        if let Some(described) = record.stream.described() {
            let limits = if record.event.json { Limits::parse(&record.event.data) } else { Limits::default() };
            let described = self.enter(&described);
            self.streams[described].limits = limits;
        }
        self.end = record.position + record.length();
        self.log.push(Arc::new(record));
    }

    fn enter(&mut self, name: &Text) -> usize {
        if let Some(number) = self.number(name) {
            return number;
        }
        self.numbers.insert(name.clone(), self.streams.len());
        self.streams.push(Stream { events: Vec::new(), tombstone: None, limits: Limits::default() });
        self.streams.len() - 1
    }

    /// The revision that an id was given lately in this stream.
    pub(super) fn recent(&self, stream: &Text, id: Uuid) -> Option<u64> {
        self.recent.get(&(self.number(stream)?, id)).copied()
    }

    pub(super) fn remember(&mut self, stream: &Text, id: Uuid, revision: u64) {
        let Some(number) = self.number(stream) else { return };
        if self.recent.insert((number, id), revision).is_none() {
            self.recent_order.push_back((number, id));
        }
        if self.recent_order.len() > RECENT
            && let Some(oldest) = self.recent_order.pop_front()
        {
            self.recent.remove(&oldest);
        }
    }

    /// As at a restart.
    pub(crate) fn forget_recent(&mut self) {
        self.recent.clear();
        self.recent_order.clear();
    }

    /// The first revision that a reader of the stream may see, of its first `length`.
    pub(crate) fn first_readable(&self, name: &Text, stream: &Stream, length: u64, now: i64) -> u64 {
        let limits = stream.limits;
        let max_count = if name.starts_with("$$") { Some(1) } else { limits.max_count };
        let by_count = max_count.map_or(0, |count| length.saturating_sub(count));
        let mut first = by_count.max(limits.truncate_before.unwrap_or(0));
        if let Some(seconds) = limits.max_age_seconds {
            let oldest = now.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(10_000_000));
            while first < length && self.log[stream.events[first as usize]].created <= oldest {
                first += 1;
            }
        }
        first
    }
}
