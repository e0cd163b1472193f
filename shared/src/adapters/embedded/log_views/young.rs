//! Log events that were projected and are not in the file yet: readable in memory, and
//! carried to the file in loads that are large enough to be worth the writing. An index
//! of the file has a page for every few dozen events, scattered, so a load of many
//! thousand writes each page once where loads of a hundred would write it for each event.
//!
//! A reader looks here first and at the file then, and leaves out what both have: a load
//! is in the file whole, together with the place that it leads to, or not at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::super::recent::{LOAD_AGE, LONG_LOAD_AGE, MANY_ROWS, Taken};
use super::segments::Span;
use crate::adapters::in_memory::{Others, rejection_size, size_of};
use crate::domain::log_event::{Rejection, Session};
use crate::domain::projection::{EventChange, LogChange};
use crate::domain::stream::Position;
use crate::ports::{ListQuery, Page};

/// A load is carried when it has this many bytes; or as many events as it is told, or
/// when it is as old as a load of answers may be.
const LOAD_BYTES: usize = 48 * 1024 * 1024;
/// What a change takes beside its texts, about.
const CHANGE_BYTES: usize = 256;
/// Events in a run.
const RUN_EVENTS: usize = 1_024;

/// Events that came one behind the other, by integer id. A reader keeps it as it is.
#[derive(Clone, Debug)]
struct Run {
    events: Vec<EventChange>,
    /// Of the latest change in it.
    newest: Position,
    /// Timestamps in it lie within.
    times: Span,
}

impl Run {
    fn new() -> Self {
        Self { events: Vec::with_capacity(RUN_EVENTS), newest: Position::START, times: Span::NONE }
    }

    fn reach(&mut self, change: &EventChange) {
        self.newest = self.newest.max(change.position);
        if let Some(event) = &change.event {
            self.times.reach(event.members.timestamp);
        }
    }

    fn first(&self) -> u64 {
        self.events.first().map_or(u64::MAX, |first| first.number)
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        self.events.binary_search_by_key(&number, |change| change.number).ok()
    }
}

/// The latest changes of events, up to a place of the log.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Events that were recorded behind everything that is in front of this part.
    runs: Vec<Arc<Run>>,
    /// Changes of events that were recorded in front of it.
    changed: Arc<BTreeMap<u64, EventChange>>,
    to: Position,
}

impl Part {
    fn find(&self, number: u64) -> Option<&EventChange> {
        if let Some(changed) = self.changed.get(&number) {
            return Some(changed);
        }
        let run = &self.runs[self.run_of(number)?];
        run.place_of(number).map(|at| &run.events[at])
    }

    /// The run in which an integer id would stand.
    fn run_of(&self, number: u64) -> Option<usize> {
        self.runs.partition_point(|run| run.first() <= number).checked_sub(1)
    }

    fn recorded(&self) -> impl Iterator<Item = &EventChange> {
        self.runs.iter().flat_map(|run| &run.events)
    }

    /// Takes the change of an event, unless a later one is known.
    fn put(&mut self, change: EventChange) {
        let found = self.run_of(change.number).and_then(|run| Some((run, self.runs[run].place_of(change.number)?)));
        if let Some((run, at)) = found {
            let run = Arc::make_mut(&mut self.runs[run]);
            run.reach(&change);
            if run.events[at].position < change.position {
                run.events[at] = change;
            }
            return;
        }
        let last = self.runs.last().and_then(|run| run.events.last());
        let is_recording = change.number == change.position.0 && change.event.is_some();
        if is_recording && last.is_none_or(|last| last.number < change.number) {
            return self.push(change);
        }
        let changed = Arc::make_mut(&mut self.changed);
        if changed.get(&change.number).is_none_or(|known| known.position < change.position) {
            changed.insert(change.number, change);
        }
    }

    fn push(&mut self, change: EventChange) {
        if self.runs.last().is_none_or(|run| run.events.len() >= RUN_EVENTS) {
            self.runs.push(Arc::new(Run::new()));
        }
        if let Some(run) = self.runs.last_mut() {
            let run = Arc::make_mut(run);
            run.reach(&change);
            run.events.push(change);
        }
    }
}

/// What is carried to the file in one step.
#[derive(Debug, Default)]
pub(super) struct Load {
    part: Part,
    others: Others,
    by_id: HashMap<Uuid, u64>,
    /// The first change that it was given.
    first: Option<Position>,
    count: usize,
    bytes: usize,
}

impl Load {
    /// Events that were recorded behind all that is in the file, by integer id.
    pub(super) fn recorded(&self) -> impl Iterator<Item = &EventChange> {
        self.part.recorded()
    }

    /// Changes of events that were recorded before, by integer id.
    pub(super) fn changed(&self) -> impl Iterator<Item = &EventChange> {
        self.part.changed.values()
    }

    /// Sessions and rejections.
    pub(super) fn others(&self) -> &Others {
        &self.others
    }

    /// The place that it leads to.
    pub(super) fn to(&self) -> Position {
        self.part.to
    }

    fn put(&mut self, change: LogChange) {
        self.first.get_or_insert(change.position());
        self.count += 1;
        self.bytes += CHANGE_BYTES;
        match change {
            LogChange::Event(change) => {
                self.bytes += change.event.as_deref().map_or(0, size_of);
                self.by_id.insert(change.id, change.number);
                self.part.put(change);
            }
            LogChange::Session(session) => self.others.put_session(session),
            LogChange::Rejection(rejection) => {
                self.bytes += rejection_size(&rejection);
                self.others.put_rejection(rejection);
            }
        }
    }
}

/// Changes that were taken together.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    part: usize,
    /// Their events happened within.
    pub(super) times: Span,
    changes: Changes<'a>,
}

#[derive(Clone, Copy)]
enum Changes<'a> {
    Run(&'a [EventChange]),
    Changed(&'a BTreeMap<u64, EventChange>),
}

/// What is in memory, as a reader found it.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The later one last.
    parts: Vec<Part>,
}

impl Look {
    /// Nothing but what the file holds.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Leaves out what is in a file that is up to a place.
    pub(super) fn leave_out(&mut self, file: Position) {
        self.parts.retain(|part| part.to > file);
    }

    /// The latest change of the event with an integer id, if it is not in the file.
    pub(super) fn find(&self, number: u64) -> Option<&EventChange> {
        self.parts.iter().rev().find_map(|part| part.find(number))
    }

    /// The latest change of each event that has one here; deletions too, in no order.
    pub(super) fn events(&self) -> impl Iterator<Item = &EventChange> {
        self.groups().into_iter().flat_map(|group| self.latest(group))
    }

    /// Those changes in groups, and in which span of time each group's events happened.
    pub(super) fn groups(&self) -> Vec<Group<'_>> {
        let mut groups = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let runs = part.runs.iter();
            groups.extend(runs.map(|run| Group { part: at, times: run.times, changes: Changes::Run(&run.events) }));
            if !part.changed.is_empty() {
                groups.push(Group { part: at, times: Span::ALL, changes: Changes::Changed(&part.changed) });
            }
        }
        groups
    }

    /// The changes of a group behind which there is no later one.
    pub(super) fn latest<'a>(&'a self, group: Group<'a>) -> impl Iterator<Item = &'a EventChange> {
        let (run, changed) = match group.changes {
            Changes::Run(run) => (Some(run), None),
            Changes::Changed(changed) => (None, Some(changed)),
        };
        let changes = run.into_iter().flatten().chain(changed.into_iter().flat_map(BTreeMap::values));
        changes.filter(move |change| self.is_latest(group.part, change))
    }

    /// Whether no later part has the event of a change in one part.
    fn is_latest(&self, part: usize, change: &EventChange) -> bool {
        self.parts[part + 1..].iter().all(|later| !later.changed.contains_key(&change.number))
    }

    /// Those of them whose change lies behind one position and up to another.
    pub(super) fn changes(&self, after: Position, to: Position) -> Vec<&EventChange> {
        let mut found = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let recorded = part.runs.iter().filter(|run| run.newest > after).flat_map(|run| &run.events);
            found.extend(
                recorded
                    .chain(part.changed.values())
                    .filter(|change| change.position > after && change.position <= to && self.is_latest(at, change)),
            );
        }
        found.sort_unstable_by_key(|change| change.position);
        found
    }

    /// Events of which the file may hold an earlier state, by integer id.
    pub(super) fn replaced(&self) -> Vec<u64> {
        let mut replaced: Vec<_> = self.parts.iter().flat_map(|part| part.changed.keys().copied()).collect();
        replaced.sort_unstable();
        replaced.dedup();
        replaced
    }
}

/// All that is in memory.
pub(super) struct Young {
    state: Mutex<State>,
    changed: Condvar,
    /// Events that make a load worth carrying.
    load_events: usize,
}

struct State {
    /// What gathers.
    gathers: Load,
    since: Option<Instant>,
    /// What is being carried.
    load: Option<Arc<Load>>,
    /// Changes up to here have been taken.
    to: Position,
    /// Somebody waits until all is carried.
    is_hurried: bool,
    closed: bool,
}

impl State {
    fn is_full(&self, load_events: usize) -> bool {
        self.gathers.count >= load_events || self.gathers.bytes >= LOAD_BYTES
    }

    fn is_ripe(&self, load_events: usize) -> bool {
        let age = if self.gathers.count < MANY_ROWS { LOAD_AGE } else { LONG_LOAD_AGE };
        self.is_full(load_events)
            || self.closed
            || self.is_hurried
            || self.since.is_some_and(|since| since.elapsed() >= age)
    }

    /// What gathers, and what is carried.
    fn loads(&self) -> impl Iterator<Item = &Load> {
        std::iter::once(&self.gathers).chain(self.load.as_deref())
    }
}

impl Young {
    /// Nothing, behind a file that is up to a place.
    pub(super) fn new(file: Position, load_events: usize) -> Self {
        let (gathers, since, load) = (Load::default(), None, None);
        let state = State { gathers, since, load, to: file, is_hurried: false, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), load_events }
    }

    /// Takes changes in the order of the log, but those that have been taken; waits while
    /// too much has gathered. Whether the views are where the changes begin is asked when
    /// nobody can empty them.
    pub(super) fn put(&self, changes: Vec<LogChange>, to: Position, is_its_place: impl FnOnce() -> bool) -> Taken {
        let mut state = self.state.lock();
        while state.is_full(self.load_events) && !state.closed {
            self.changed.wait(&mut state);
        }
        if state.closed {
            return Taken::Closed;
        }
        if !is_its_place() {
            return Taken::WrongPlace;
        }
        let known = state.to;
        for change in changes.into_iter().skip_while(|change| change.position() <= known) {
            state.gathers.put(change);
            state.since.get_or_insert_with(Instant::now);
        }
        state.to = known.max(to);
        state.gathers.part.to = state.to;
        if state.is_full(self.load_events) {
            self.changed.notify_all();
        }
        Taken::Yes
    }

    /// What can be read here now.
    pub(super) fn look(&self) -> Look {
        let state = self.state.lock();
        let parts = state.load.as_deref().into_iter().chain(state.since.is_some().then_some(&state.gathers));
        Look { parts: parts.map(|load| load.part.clone()).collect() }
    }

    /// The latest change of the event with an id, if it is not in the file.
    pub(super) fn find(&self, id: Uuid) -> Option<EventChange> {
        self.state.lock().loads().find_map(|load| load.part.find(*load.by_id.get(&id)?)).cloned()
    }

    pub(super) fn session(&self, id: Uuid) -> Option<Arc<Session>> {
        self.state.lock().loads().find_map(|load| load.others.session(id))
    }

    pub(super) fn sessions(&self, query: ListQuery) -> Vec<Page<Arc<Session>>> {
        self.state.lock().loads().map(|load| load.others.sessions(query)).collect()
    }

    pub(super) fn rejection(&self, number: u64) -> Option<Arc<Rejection>> {
        self.state.lock().loads().find_map(|load| load.others.rejection(number))
    }

    pub(super) fn rejections(&self, query: ListQuery) -> Vec<Page<Arc<Rejection>>> {
        self.state.lock().loads().map(|load| load.others.rejections(query)).collect()
    }

    /// The next load to carry, once it is worth it; none when all is carried and the views
    /// are closed. A load that was not carried is given again.
    pub(super) fn next_load(&self) -> Option<Arc<Load>> {
        let mut state = self.state.lock();
        loop {
            if let Some(load) = &state.load {
                return Some(load.clone());
            }
            if state.since.is_some() && state.is_ripe(self.load_events) {
                state.since = None;
                let load = Arc::new(std::mem::take(&mut state.gathers));
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

    /// A load is in the file.
    pub(super) fn carried(&self, load: &Arc<Load>) {
        let mut state = self.state.lock();
        let done = state.load.take_if(|carried| Arc::ptr_eq(carried, load));
        if done.is_some() {
            state.is_hurried &= state.since.is_some();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether all changes up to a place are in the file.
    pub(super) fn is_carried(&self, to: Position) -> bool {
        self.state.lock().loads().all(|load| load.first.is_none_or(|first| first > to))
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

    /// How many changes are not in the file.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().loads().map(|load| load.count).sum()
    }

    /// Forgets everything: the file begins anew.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.gathers = Load::default();
        state.since = None;
        state.load = None;
        state.to = Position::START;
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
    use crate::domain::log_event::{LogEvent, Members};
    use crate::domain::stream::Revision;
    use crate::domain::time::Timestamp;

    fn change(number: u64, position: u64, is_deleted: bool) -> LogChange {
        let id = Uuid::from_u128(number.into());
        let event = LogEvent { id, number, created_at: Timestamp::default(), members: Members::default() };
        let event = (!is_deleted).then(|| Arc::new(event));
        let (revision, position) = (Revision(position - number), Position(position));
        LogChange::Event(EventChange { id, number, event, revision, position })
    }

    /// Integer ids and positions of the latest changes, by the former.
    fn seen(look: &Look) -> Vec<(u64, u64)> {
        let mut seen: Vec<_> = look.events().map(|change| (change.number, change.position.0)).collect();
        seen.sort_unstable();
        seen
    }

    fn put(young: &Young, changes: Vec<LogChange>, to: u64) -> Taken {
        young.put(changes, Position(to), || true)
    }

    #[test]
    fn what_gathers_hides_what_is_carried_and_that_the_file() {
        let young = Young::new(Position(10), 4);
        let first = vec![change(7, 10, false), change(11, 11, false), change(12, 12, false), change(9, 13, false)];
        assert_eq!(put(&young, first, 13), Taken::Yes);
        // An event of the same batch may change in it, and is one row all the same.
        assert_eq!(put(&young, vec![change(14, 14, false), change(14, 15, false)], 15), Taken::Yes);
        let load = young.next_load().expect("it is full");
        assert_eq!(load.recorded().map(|change| change.number).collect::<Vec<_>>(), [11, 12, 14]);
        assert_eq!(load.changed().map(|change| change.number).collect::<Vec<_>>(), [9]);
        let second = vec![change(12, 16, true), change(17, 17, false), change(9, 18, false), change(8, 19, true)];
        assert_eq!(put(&young, second, 19), Taken::Yes);
        let look = young.look();
        assert_eq!(seen(&look), [(8, 19), (9, 18), (11, 11), (12, 16), (14, 15), (17, 17)]);
        assert_eq!(look.replaced(), [8, 9, 12]);
        assert!(look.find(12).is_some_and(|change| change.event.is_none()));
        let later = look.changes(Position(12), Position(18));
        assert_eq!(later.iter().map(|change| change.position.0).collect::<Vec<_>>(), [15, 16, 17, 18]);
        assert_eq!(young.find(Uuid::from_u128(14)).map(|change| change.position), Some(Position(15)));
        assert_eq!((young.is_carried(Position(10)), young.is_carried(Position(11))), (true, false));

        let mut with_file = young.look();
        with_file.leave_out(load.to());
        assert_eq!(seen(&with_file), [(8, 19), (9, 18), (12, 16), (17, 17)]);
        young.carried(&load);
        assert_eq!(seen(&young.look()), seen(&with_file));
        assert_eq!((young.is_carried(Position(15)), young.is_carried(Position(16))), (true, false));
        // A reader keeps what it has found.
        assert_eq!(seen(&look).len(), 6);
    }

    #[test]
    fn what_is_taken_is_not_taken_again() {
        let young = Young::new(Position::START, 100);
        assert_eq!(put(&young, vec![change(1, 1, false), change(2, 2, false)], 2), Taken::Yes);
        assert_eq!(put(&young, vec![change(2, 2, false), change(1, 3, false)], 3), Taken::Yes);
        assert_eq!(young.put(vec![change(4, 4, false)], Position(4), || false), Taken::WrongPlace);
        assert_eq!(seen(&young.look()), [(1, 3), (2, 2)]);
        assert!(!young.flush(Duration::ZERO));
        let load = young.next_load().expect("somebody waits for it");
        young.carried(&load);
        assert!(young.flush(Duration::ZERO) && young.look().is_empty());
        young.close();
        assert!(young.next_load().is_none());
        assert_eq!(put(&young, vec![change(4, 4, false)], 4), Taken::Closed);
    }

    /// Readers hold runs while events in them change.
    #[test]
    fn runs_are_found_by_integer_id() {
        let young = Young::new(Position::START, usize::MAX);
        let events = 3 * RUN_EVENTS as u64;
        assert_eq!(put(&young, (1..=events).map(|n| change(2 * n, 2 * n, false)).collect(), 2 * events), Taken::Yes);
        let before = young.look();
        let later = 2 * events + 1;
        assert_eq!(put(&young, vec![change(2_050, later, true)], later), Taken::Yes);
        let after = young.look();
        assert_eq!(before.find(2_050).map(|change| change.position.0), Some(2_050));
        assert_eq!(after.find(2_050).map(|change| change.position.0), Some(later));
        assert!(after.find(2_051).is_none() && after.find(0).is_none() && after.find(later).is_none());
        assert_eq!(after.events().count() as u64, events);
        assert_eq!(after.changes(Position(2 * events), Position(later)).len(), 1);
    }
}
