//! Rows that were projected and are not in the file yet: readable in memory, and
//! carried away in loads that are large enough to be worth the writing. Streams that
//! are parked are all in memory; what changes about them travels with the loads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::domain::answer::Key;
use crate::domain::projection::{AnswerChange, Parked};
use crate::domain::stream::{Position, Revision, StreamId};
use crate::ports::Checkpoint;

/// A load is taken away when it has this many rows or bytes, or is this old.
const LOAD_ROWS: usize = 256 * 1024;
const LOAD_BYTES: usize = 48 * 1024 * 1024;
pub(super) const LOAD_AGE: Duration = Duration::from_secs(1);
/// While rows come faster than this many in that time, they gather longer: the more
/// of them fall on a page of the file, the fewer pages are written.
pub(super) const MANY_ROWS: usize = 4 * 1024;
pub(super) const LONG_LOAD_AGE: Duration = Duration::from_secs(5);
/// What a row takes beside its texts, about.
const ROW_BYTES: usize = 128;

/// A row, or where one was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// None: removed.
    pub(super) value: Option<Arc<str>>,
    pub(super) revision: Revision,
    pub(super) position: Position,
}

/// Rows on their way to the file, and how far they lead.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) rows: Arc<BTreeMap<Key, Row>>,
    pub(super) to: Position,
}

/// Streams that are parked from now on; none where one is not any more.
pub(super) type ParkedChanges = BTreeMap<StreamId, Option<Parked>>;

/// What became of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// The views are not where the changes begin.
    WrongPlace,
    Closed,
}

pub(super) struct Recent {
    state: Mutex<State>,
    /// As in the state, to be read without the lock.
    to: AtomicU64,
    /// Whether there is any row in memory.
    has_rows: AtomicBool,
    /// How many streams are parked, to be read without the lock.
    parked: AtomicUsize,
    changed: Condvar,
}

struct State {
    /// What gathers.
    rows: BTreeMap<Key, Row>,
    bytes: usize,
    since: Option<Instant>,
    to: Position,
    /// What is being carried.
    load: Option<Load>,
    /// All streams that are parked.
    parked: BTreeMap<StreamId, Parked>,
    /// What has changed about them behind what is being carried, and what is carried
    /// of that.
    parked_rows: ParkedChanges,
    parked_load: ParkedChanges,
    /// Somebody waits until all is carried.
    is_hurried: bool,
    closed: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.rows.len() >= LOAD_ROWS || self.bytes >= LOAD_BYTES
    }

    fn ripe_age(&self) -> Duration {
        if self.rows.len() < MANY_ROWS { LOAD_AGE } else { LONG_LOAD_AGE }
    }

    fn is_ripe(&self) -> bool {
        self.is_full()
            || self.closed
            || self.is_hurried
            || self.since.is_some_and(|since| since.elapsed() >= self.ripe_age())
    }

    fn is_parked(&self, was: &Parked) -> bool {
        let now = self.parked.get(&was.stream);
        now.is_some_and(|now| (now.revision, now.position) == (was.revision, was.position))
    }

    fn get(&self, key: &Key) -> Option<&Row> {
        self.rows.get(key).or_else(|| self.load.as_ref()?.rows.get(key))
    }
}

impl Recent {
    /// Nothing, behind a file that has come to this position and holds these streams
    /// parked.
    pub(super) fn new(position: Position, parked: Vec<Parked>) -> Self {
        let state = State {
            rows: BTreeMap::new(),
            bytes: 0,
            since: None,
            to: position,
            load: None,
            parked: parked.into_iter().map(|parked| (parked.stream.clone(), parked)).collect(),
            parked_rows: BTreeMap::new(),
            parked_load: BTreeMap::new(),
            is_hurried: false,
            closed: false,
        };
        Self {
            to: AtomicU64::new(position.0),
            has_rows: AtomicBool::new(false),
            parked: AtomicUsize::new(state.parked.len()),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// How far the views are.
    pub(super) fn position(&self) -> Position {
        Position(self.to.load(Ordering::Acquire))
    }

    /// The row of a key, if it is not in the file alone.
    pub(super) fn get(&self, key: &Key) -> Option<Row> {
        if !self.has_rows.load(Ordering::Acquire) {
            return None;
        }
        self.state.lock().get(key).cloned()
    }

    /// Rows whose keys begin with a prefix and stand behind a key, in order, until
    /// `live` of them have a value.
    pub(super) fn range(&self, prefix: &str, after: Option<&str>, live: usize) -> Vec<(Key, Row)> {
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let state = self.state.lock();
        let none = BTreeMap::new();
        let carried = state.load.as_ref().map_or(&none, |load| &*load.rows);
        let mut new = state.rows.range::<str, _>((start, Bound::Unbounded)).peekable();
        let mut old = carried.range::<str, _>((start, Bound::Unbounded)).peekable();
        let mut found = Vec::new();
        let mut living = 0;
        while living < live {
            let order = match (new.peek(), old.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((new, _)), Some((old, _))) => new.cmp(old),
            };
            let older = if order.is_ge() { old.next() } else { None };
            let newer = if order.is_le() { new.next() } else { None };
            let Some((key, row)) = newer.or(older).filter(|(key, _)| key.as_str().starts_with(prefix)) else { break };
            living += usize::from(row.value.is_some());
            found.push((key.clone(), row.clone()));
        }
        found
    }

    /// How many streams are parked.
    pub(super) fn count_parked(&self) -> usize {
        self.parked.load(Ordering::Acquire)
    }

    /// Since when a stream is parked, if it is.
    pub(super) fn parked(&self, stream: &StreamId) -> Option<Parked> {
        if self.count_parked() == 0 {
            return None;
        }
        self.state.lock().parked.get(stream).cloned()
    }

    /// Streams that are parked, behind one and in the order of their names.
    pub(super) fn all_parked(&self, after: Option<&StreamId>, limit: usize) -> Vec<Parked> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.lock();
        state
            .parked
            .range::<StreamId, _>((start, Bound::Unbounded))
            .take(limit)
            .map(|(_, parked)| parked.clone())
            .collect()
    }

    /// Takes changes in the order of the log, and what is parked from there on; waits
    /// while too much has gathered.
    pub(super) fn put(
        &self,
        from: Checkpoint,
        changes: Vec<AnswerChange>,
        parked: Vec<Parked>,
        to: Checkpoint,
    ) -> Taken {
        let parked = parked.into_iter().map(|parked| (parked.stream.clone(), Some(parked)));
        self.put_if(None, from, changes, parked.collect(), to)
    }

    /// Takes what became of a stream that was parked; its row must be there already.
    pub(super) fn put_replayed(&self, at: Checkpoint, was: &Parked, still: Option<Parked>) -> Taken {
        self.put_if(Some(was), at, Vec::new(), BTreeMap::from([(was.stream.clone(), still)]), at)
    }

    /// Whether a stream is parked as believed, and the views are where they are
    /// believed to be.
    pub(super) fn is_parked(&self, at: Checkpoint, was: &Parked) -> bool {
        let state = self.state.lock();
        Checkpoint::at(state.to) == at && state.is_parked(was)
    }

    fn put_if(
        &self,
        was: Option<&Parked>,
        from: Checkpoint,
        changes: Vec<AnswerChange>,
        parked: ParkedChanges,
        to: Checkpoint,
    ) -> Taken {
        let mut state = self.state.lock();
        while state.is_full() && !state.closed {
            self.changed.wait(&mut state);
        }
        if state.closed {
            return Taken::Closed;
        }
        if Checkpoint::at(state.to) != from || was.is_some_and(|was| !state.is_parked(was)) {
            return Taken::WrongPlace;
        }
        for AnswerChange { key, value, revision, position } in changes {
            let bytes = key.as_str().len() + value.as_ref().map_or(0, |value| value.len()) + ROW_BYTES;
            state.bytes += bytes;
            state.rows.insert(key, Row { value, revision, position });
        }
        for (stream, parked) in parked {
            match &parked {
                Some(parked) => state.parked.insert(stream.clone(), parked.clone()),
                None => state.parked.remove(&stream),
            };
            state.parked_rows.insert(stream, parked);
        }
        self.parked.store(state.parked.len(), Ordering::Release);
        state.to = to.position();
        self.has_rows.store(true, Ordering::Release);
        self.to.store(state.to.0, Ordering::Release);
        state.since.get_or_insert_with(Instant::now);
        if state.is_full() {
            self.changed.notify_all();
        }
        Taken::Yes
    }

    /// The next load to carry, once it is worth it; none when all is carried and the
    /// views are closed. A load that was not carried is given again.
    pub(super) fn next_load(&self) -> Option<Load> {
        let mut state = self.state.lock();
        loop {
            if let Some(load) = &state.load {
                return Some(load.clone());
            }
            if state.since.is_some() && state.is_ripe() {
                state.bytes = 0;
                state.since = None;
                let load = Load { rows: Arc::new(std::mem::take(&mut state.rows)), to: state.to };
                state.parked_load = std::mem::take(&mut state.parked_rows);
                state.load = Some(load.clone());
                self.changed.notify_all();
                return Some(load);
            }
            if state.closed {
                return None;
            }
            self.changed.wait_for(&mut state, LOAD_AGE / 4);
        }
    }

    /// What is carried with the load about streams that are parked.
    pub(super) fn parked_load(&self) -> ParkedChanges {
        self.state.lock().parked_load.clone()
    }

    /// Notes that a replay of a parked stream, or of each of them, is asked for; which
    /// those are. Whatever of them is carried later says so too.
    pub(super) fn ask_replay(&self, stream: Option<&StreamId>) -> Vec<Parked> {
        let mut state = self.state.lock();
        let State { parked, parked_rows, parked_load, .. } = &mut *state;
        let meant = parked.values_mut().filter(|parked| stream.is_none_or(|stream| parked.stream == *stream));
        let asked = meant.map(|parked| {
            parked.replay = true;
            let name = &parked.stream;
            let carried = parked_rows.get_mut(name).or_else(|| parked_load.get_mut(name));
            if let Some(Some(carried)) = carried {
                carried.replay = true;
            }
            parked.clone()
        });
        asked.collect()
    }

    /// A load is in the file.
    pub(super) fn carried(&self, load: &Load) {
        let mut state = self.state.lock();
        let done = state.load.take_if(|carried| Arc::ptr_eq(&carried.rows, &load.rows));
        if done.is_some() {
            state.parked_load.clear();
            state.is_hurried &= state.since.is_some();
        }
        self.has_rows.store(!state.rows.is_empty() || state.load.is_some(), Ordering::Release);
        drop(state);
        // Many rows take a while to give back: not under the lock.
        drop(done);
        self.changed.notify_all();
    }

    /// Waits a while until all is in the file; whether it is. What is not is carried
    /// without delay from now on.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.since.is_some() || state.load.is_some() {
            state.is_hurried = true;
            self.changed.notify_all();
            if self.changed.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// How many rows are not in the file.
    pub(super) fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.rows.len() + state.load.as_ref().map_or(0, |load| load.rows.len())
    }

    /// Waits while too much has gathered.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.is_full() && !state.closed {
            self.changed.wait(&mut state);
        }
    }

    /// Forgets everything: the file begins anew.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.parked.clear();
        state.parked_rows.clear();
        state.parked_load.clear();
        self.parked.store(0, Ordering::Release);
        state.rows.clear();
        state.bytes = 0;
        state.since = None;
        state.load = None;
        state.to = Position::START;
        self.to.store(0, Ordering::Release);
        self.has_rows.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Takes no more; what is there is still carried.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>, position: u64) -> AnswerChange {
        AnswerChange {
            key: Key::from_stored(key),
            value: value.map(Into::into),
            revision: Revision(0),
            position: Position(position),
        }
    }

    fn keys(recent: &Recent, prefix: &str, after: Option<&str>, live: usize) -> Vec<(String, u64)> {
        let found = recent.range(prefix, after, live);
        found.into_iter().map(|(key, row)| (key.to_string(), row.position.0)).collect()
    }

    #[test]
    fn what_gathers_hides_what_is_carried() {
        let recent = Recent::new(Position::START, Vec::new());
        let at = |position| Checkpoint::at(Position(position));
        let first = vec![change("a", Some("1"), 1), change("b", Some("1"), 2), change("c", Some("1"), 3)];
        assert_eq!(recent.put(at(0), first, vec![], at(3)), Taken::Yes);
        std::thread::sleep(LOAD_AGE);
        let load = recent.next_load().expect("it is old enough");
        assert_eq!(recent.put(at(3), vec![change("b", None, 4)], vec![], at(4)), Taken::Yes);
        assert_eq!(recent.put(at(3), vec![], vec![], at(5)), Taken::WrongPlace);
        assert_eq!(keys(&recent, "", None, 9), [("a".into(), 1), ("b".into(), 4), ("c".into(), 3)]);
        assert_eq!(keys(&recent, "", None, 1), [("a".into(), 1)]);
        assert_eq!(keys(&recent, "", Some("a"), 1), [("b".into(), 4), ("c".into(), 3)]);
        assert_eq!(keys(&recent, "b", None, 9), [("b".into(), 4)]);
        recent.carried(&load);
        assert_eq!(keys(&recent, "", None, 9), [("b".into(), 4)]);
        assert_eq!(recent.get(&Key::from_stored("a")), None);
        recent.close();
        assert_eq!(recent.put(at(4), vec![], vec![], at(5)), Taken::Closed);
        let rest = recent.next_load().expect("what is left");
        assert_eq!(rest.to, Position(4));
        recent.carried(&rest);
        assert!(recent.next_load().is_none());
    }
}
