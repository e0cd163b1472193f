//! What `ViewReader`, `ViewWriter` and `ViewOperator` promise of a rebuild: views are built
//! anew beside the live ones, and take their place at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::parked::{Desk, follows, parking, put, recorded};
use super::views::{LOG, Racing};
use super::{fresh_key, soon};
use crate::clock;
use crate::domain::answer::Key;
use crate::domain::log_event::Session;
use crate::domain::projection::{AnswerChange, Change, Changes, LogChange, Parked};
use crate::domain::stream::{Position, StreamId};
use crate::ports::{
    Checkpoint, EventRef, Generation, LogReader, RebuildState, Replayed, StoreError, ViewOperator, ViewReader,
    ViewWriter,
};

/// How many rebuilds race readers, and how long the live views go on beside each.
const RACED: usize = 3;
const RACE: Duration = Duration::from_millis(700);

/// Views in which nothing is parked, of which no rebuild runs, and which nobody else writes
/// meanwhile; `reader` may read them from elsewhere. What was in them is gone in the end.
///
/// # Panics
/// If the views break a promise.
pub async fn rebuild<R, W>(reader: Arc<R>, writer: Arc<W>)
where
    R: ViewReader + LogReader + 'static,
    W: ViewWriter + ViewOperator + 'static,
{
    let mut desk = Desk::new(reader, writer).await;
    // Before anything was projected there is nothing to build anew.
    let to = desk.ahead(1);
    desk.apply(Changes::default(), to).await;
    desk.nothing_is_built_unasked().await;
    desk.new_views_take_the_place_of_the_live_ones().await;
    desk.a_swap_elsewhere_is_a_conflict().await;
    desk.rows_must_have_been_passed().await;
    desk.waiters_survive_a_swap().await;
    desk.log_events_are_those_of_the_new_views().await;
    desk.what_is_mended_meanwhile_stays_so().await;
    desk.nobody_goes_back_in_a_swap().await;
}

impl Desk {
    async fn next(&self) -> Option<Checkpoint> {
        soon("the next generation", self.writer.rebuild(self.at.position())).await.expect("what was asked for")
    }

    async fn state(&self) -> RebuildState {
        soon("the state", self.operator.rebuild_state()).await.expect("a state")
    }

    /// Asks for a rebuild and begins it.
    async fn begin(&self) -> Checkpoint {
        soon("asking", self.operator.ask_rebuild(clock::now())).await.expect("asked");
        let begun = self.next().await.expect("it is asked for");
        assert_eq!(begun, Checkpoint::START, "new views begin at the beginning");
        begun
    }

    /// Fills the next generation from the beginning.
    async fn fill(&self, changes: Changes, to: Checkpoint) {
        let from = Checkpoint::START;
        soon("apply", self.writer.apply(Generation::Next, from, changes, to)).await.expect("applied");
    }

    /// Swaps as soon as that may be, and resumes.
    async fn swap(&mut self, next: Checkpoint) {
        let begun = Instant::now();
        while !soon("a swap", self.writer.swap(self.at, next)).await.expect("swapped") {
            assert!(begun.elapsed() < super::DEADLINE, "no swap");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let resumed = soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        assert_eq!(resumed, self.at.max(next), "the live views are at the later of the two");
        self.at = resumed;
    }

    async fn nothing_is_built_unasked(&mut self) {
        assert_eq!(self.next().await, None, "nobody has asked");
        assert!(!self.state().await.is_running);
        let changes = vec![put(&fresh_key(), Some("v"), 0, Position(1))].into();
        let applied = self.writer.apply(Generation::Next, Checkpoint::START, changes, Checkpoint::at(Position(1)));
        let applied = soon("apply", applied).await;
        assert!(matches!(applied, Err(StoreError::Conflict)), "there is no next generation: {applied:?}");
        let swapped = soon("a swap", self.writer.swap(self.at, Checkpoint::START)).await;
        assert!(matches!(swapped, Err(StoreError::Conflict)), "there is nothing to swap: {swapped:?}");
        let resumed = soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        assert_eq!(resumed, self.at);
        let parked = soon("parked", self.writer.parked(Generation::Next)).await;
        let is_none = parked.as_ref().map_or_else(|error| matches!(error, StoreError::Conflict), Vec::is_empty);
        assert!(is_none, "of a generation that is not there: {parked:?}");
        soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
    }

    async fn new_views_take_the_place_of_the_live_ones(&mut self) {
        let (kept, changed, only_live, only_next) = (fresh_key(), fresh_key(), fresh_key(), fresh_key());
        let first = self.ahead(1);
        let old = |key: &Key| put(key, Some("old"), 0, first);
        self.apply(vec![old(&kept), old(&changed), old(&only_live)].into(), first).await;
        let live_parked = self.park(&[StreamId::of_answer(&only_live)], 1).await.remove(0);

        let waiting = tokio::spawn({
            let writer = self.writer.clone();
            async move { writer.asked().await }
        });
        let now = clock::now();
        soon("asking", self.operator.ask_rebuild(now)).await.expect("asked");
        soon("who waits for requests", waiting).await.expect("it ends");
        let again = soon("asking", self.operator.ask_rebuild(clock::now())).await;
        assert!(matches!(again, Err(StoreError::Conflict)), "one at a time: {again:?}");
        let state = self.state().await;
        assert!(state.is_running && state.started_at == Some(now), "{state:?}");
        assert_eq!(self.next().await, Some(Checkpoint::START), "new views begin at the beginning");
        let again = soon("asking", self.operator.ask_rebuild(clock::now())).await;
        assert!(matches!(again, Err(StoreError::Conflict)), "nor while it runs: {again:?}");
        let parked = soon("parked", self.writer.parked(Generation::Next)).await.expect("parked streams");
        assert_eq!(parked, [], "nothing is parked in views that are empty");

        // What is built is nobody's to see.
        let half = Checkpoint::at(Position(first.0 - 1));
        let other_stream = StreamId::of_answer(&only_next);
        let next_parked = parking(&other_stream, 1, half.position());
        let early = put(&only_next, Some("new"), 0, Position(half.position().0 - 1));
        let changes = Changes { answers: vec![early], parked: vec![next_parked.clone()], ..Changes::default() };
        self.fill(changes, half).await;
        assert_eq!(self.value(&only_next).await, None, "it is not live yet");
        self.is_live(&kept, "old").await;
        assert_eq!(self.all_parked().await, std::slice::from_ref(&live_parked), "each has its own");
        assert_eq!(self.reader.parked().await.expect("how many"), 1);
        assert_eq!(self.reader.parked_stream(&other_stream).await.expect("one"), None);
        let parked = soon("parked", self.writer.parked(Generation::Next)).await.expect("parked streams");
        assert_eq!(parked, std::slice::from_ref(&next_parked), "each has its own");
        // The live views go on meanwhile, and a restart changes nothing.
        let second = self.ahead(1);
        self.apply(vec![put(&changed, Some("newer"), 1, second)].into(), second).await;
        self.is_live(&changed, "newer").await;
        let resumed = soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        assert_eq!(resumed, self.at, "the live checkpoint is its own");
        assert_eq!(self.next().await, Some(half), "it goes on where it was");
        let parked = soon("parked", self.writer.parked(Generation::Next)).await.expect("parked streams");
        assert_eq!(parked, std::slice::from_ref(&next_parked), "parked streams too");
        let state = self.state().await;
        assert_eq!((state.is_running, state.done), (true, half.position()), "{state:?}");
        assert!(state.total >= self.at.position(), "{state:?}");
        for from in [Checkpoint::START, self.at, Checkpoint::at(Position(half.position().0 + 1))] {
            let changes = vec![put(&kept, Some("no"), 9, self.ahead(1))].into();
            let applied =
                soon("apply", self.writer.apply(Generation::Next, from, changes, Checkpoint::at(self.ahead(1)))).await;
            assert!(matches!(applied, Err(StoreError::Conflict)), "from {from:?}: {applied:?}");
        }
        soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");

        // All but the key that only the live views have.
        let rest: Vec<AnswerChange> = vec![old(&kept), old(&changed), put(&changed, Some("newer"), 1, second)];
        let to = self.at;
        soon("apply", self.writer.apply(Generation::Next, half, rest.into(), to)).await.expect("applied");
        self.swap(to).await;
        follows("the new views", async || self.value(&only_next).await == Some(("new".into(), 0))).await;
        self.is_live(&kept, "old").await;
        self.is_live(&changed, "newer").await;
        assert_eq!(self.value(&only_live).await, None, "the rows of the old views are gone");
        assert_eq!(self.all_parked().await, std::slice::from_ref(&next_parked), "so are their parked streams");
        follows("parked streams of the new views", async || {
            let gone = self.reader.parked_stream(&live_parked.stream).await.expect("one").is_none();
            let found = self.reader.parked_stream(&other_stream).await.expect("one");
            gone && found.as_ref() == Some(&next_parked) && self.reader.parked().await.expect("how many") == 1
        })
        .await;
        let state = self.state().await;
        assert!(!state.is_running && state.done == state.total, "{state:?}");
        assert!(state.started_at == Some(now) && state.finished_at >= Some(now), "{state:?}");
        assert_eq!(self.next().await, None, "it is done");
        let applied = soon("apply", self.writer.apply(Generation::Next, to, Changes::default(), to)).await;
        assert!(matches!(applied, Err(StoreError::Conflict)), "there is no next generation any more: {applied:?}");
        soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        // The new views are written like any others.
        let third = self.ahead(1);
        self.apply(vec![put(&kept, Some("third"), 1, third), put(&changed, None, 2, third)].into(), third).await;
        self.is_live(&kept, "third").await;
        assert_eq!(self.value(&changed).await, None);
        let healed = put(&only_next, Some("healed"), 1, next_parked.position);
        let change = crate::domain::projection::Change::Answer(healed);
        self.replay(&next_parked, Some(change), None).await;
        follows("a replay in new views", async || self.value(&only_next).await == Some(("healed".into(), 1))).await;
        assert_eq!(self.all_parked().await, <[Parked; 0]>::default());
    }

    async fn is_live(&self, key: &Key, value: &str) {
        assert_eq!(self.value(key).await.map(|(value, _)| value).as_deref(), Some(value), "of {key}");
    }

    async fn a_swap_elsewhere_is_a_conflict(&mut self) {
        let key = fresh_key();
        let position = self.ahead(1);
        self.apply(vec![put(&key, Some("live"), 0, position)].into(), position).await;
        self.begin().await;
        let next = self.at;
        self.fill(vec![put(&key, Some("next"), 0, position)].into(), next).await;
        let beside = [Checkpoint::START, Checkpoint::at(Position(position.0 - 1)), Checkpoint::at(self.ahead(1))];
        for other in beside {
            for (live, new) in [(other, next), (self.at, other)] {
                let swapped = soon("a swap", self.writer.swap(live, new)).await;
                assert!(matches!(swapped, Err(StoreError::Conflict)), "{live:?} and {new:?}: {swapped:?}");
                self.is_live(&key, "live").await;
                let resumed =
                    soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
                assert_eq!(resumed, self.at, "a conflict changes nothing");
                assert_eq!(self.next().await, Some(next), "a conflict changes nothing");
            }
        }
        self.swap(next).await;
        follows("the new views", async || self.value(&key).await == Some(("next".into(), 0))).await;
    }

    /// Whoever has seen a row must not see an older one: new views that have not passed it
    /// stay where they are. Behind the last row the live views may be further.
    async fn rows_must_have_been_passed(&mut self) {
        let key = fresh_key();
        let (before, row, end) = (self.ahead(1), self.ahead(2), self.ahead(3));
        self.apply(vec![put(&key, Some("old"), 0, before), put(&key, Some("new"), 1, row)].into(), row).await;
        self.begin().await;
        let at = Checkpoint::at(before);
        self.fill(vec![put(&key, Some("old"), 0, before)].into(), at).await;
        let swapped = soon("a swap", self.writer.swap(self.at, at)).await.expect("it can be tried");
        assert!(!swapped, "a row lies behind the new views");
        self.is_live(&key, "new").await;
        assert_eq!(self.next().await, Some(at), "and nothing has changed");
        let to = Checkpoint::at(row);
        let rest = vec![put(&key, Some("new"), 1, row)].into();
        soon("apply", self.writer.apply(Generation::Next, at, rest, to)).await.expect("applied");
        // Others have written to the log since, which both have seen or not.
        self.apply(Changes::default(), end).await;
        self.swap(to).await;
        assert_eq!(self.at, Checkpoint::at(end));
        self.is_live(&key, "new").await;
        // And the other way about.
        let far = self.ahead(2);
        self.begin().await;
        let to = Checkpoint::at(far);
        self.fill(vec![put(&key, Some("new"), 1, row)].into(), to).await;
        self.swap(to).await;
        assert_eq!(self.at, to);
        soon("what new views have reached", self.reader.reached(far)).await.expect("reached");
        self.is_live(&key, "new").await;
    }

    async fn waiters_survive_a_swap(&mut self) {
        let key = fresh_key();
        let beyond = self.ahead(2);
        let wait = |position: Position| {
            let (reader, key) = (self.reader.clone(), key.clone());
            tokio::spawn(async move {
                reader.reached(position).await.expect("reached");
                reader.answer(&key).await.expect("read").found.map(|answer| answer.value)
            })
        };
        let waiters: Vec<_> = (0..50).map(|_| wait(beyond)).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.begin().await;
        let to = self.at;
        self.fill(Changes::default(), to).await;
        self.swap(to).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "a swap is not what they wait for");
        self.apply(vec![put(&key, Some("here"), 0, beyond)].into(), beyond).await;
        for waiter in waiters {
            let found = soon("a waiter", waiter).await.expect("it ends");
            assert_eq!(found.as_deref(), Some("here"), "a waiter that has woken sees the change");
        }
    }

    async fn log_events_are_those_of_the_new_views(&mut self) {
        let [kept, gone, found] = [(); 3].map(|()| Uuid::new_v4());
        let (one, two) = (self.ahead(1), self.ahead(2));
        let event = |id: Uuid, name: &str, at: Position| LogChange::Event(recorded(id, name, at.0, 0, at));
        self.apply(vec![event(kept, "kept", one), event(gone, "gone", two)].into(), two).await;
        self.begin().await;
        let session = Session { id: Uuid::new_v4(), created_at: clock::now(), position: Position(2) };
        let session = Arc::new(session);
        let to = self.at;
        let changes = vec![
            event(found, "found", Position(1)),
            LogChange::Session(session.clone()),
            event(kept, "kept anew", one),
        ];
        self.fill(changes.into(), to).await;
        let name = async |which: EventRef| {
            let seen = soon("an event", self.log.event(which)).await.expect("an event");
            seen.found.and_then(|record| record.event.members.name.clone())
        };
        assert_eq!(name(EventRef::Id(kept)).await.as_deref(), Some("kept"), "what is built is nobody's to see");
        assert_eq!(name(EventRef::Id(found)).await, None);
        assert_eq!(self.log.session(session.id).await.expect("a session").found, None);
        self.swap(to).await;
        follows("the new events", async || {
            let seen = self.log.event(EventRef::Id(found)).await.expect("an event").found;
            seen.is_some_and(|record| record.event.members.name.as_deref() == Some("found"))
        })
        .await;
        let name = async |which: EventRef| {
            let seen = soon("an event", self.log.event(which)).await.expect("an event");
            seen.found.and_then(|record| record.event.members.name.clone())
        };
        assert_eq!(name(EventRef::Number(one.0)).await.as_deref(), Some("kept anew"));
        assert_eq!(name(EventRef::Number(1)).await.as_deref(), Some("found"));
        assert_eq!((name(EventRef::Id(gone)).await, name(EventRef::Number(two.0)).await), (None, None));
        assert_eq!((self.count().await, self.counted().await), (2, 2), "exactly those of the new views");
        assert_eq!(self.log.session(session.id).await.expect("a session").found, Some(session));
        let changes = soon("changes", self.log.changes(Position::START, 10)).await.expect("changes").found;
        assert_eq!(changes.iter().map(|change| change.id).collect::<Vec<_>>(), [found, kept]);
        let three = self.ahead(1);
        self.apply(vec![event(gone, "back", three)].into(), three).await;
        assert_eq!((self.count().await, self.counted().await), (3, 3));
    }

    /// Rebuild after rebuild under a writer and its readers.
    async fn what_is_mended_meanwhile_stays_so(&mut self) {
        let (key, other) = (fresh_key(), fresh_key());
        let parked = self.park(&[StreamId::of_answer(&key), StreamId::of_answer(&other)], 0).await;
        self.begin().await;
        let next = Changes { parked: parked.clone(), ..Changes::default() };
        self.fill(next.clone(), self.at).await;
        let was = parked[0].clone();
        let change = Some(Change::Answer(put(&key, Some("mended"), 0, was.position)));
        let replayed = Replayed { was, change, still: None };
        soon("a replay", self.writer.replayed(self.at, replayed)).await.expect("replayed");
        self.is_live(&key, "mended").await;
        assert_eq!(self.next().await, Some(Checkpoint::START), "views that had it parked are begun anew");
        let row = put(&key, Some("mended"), 0, parked[0].position);
        let still = Changes { answers: vec![row], parked: parked[1..].to_vec(), ..Changes::default() };
        self.fill(still, self.at).await;
        let asked = self.operator.ask_replay(Some(&parked[1].stream));
        assert_eq!(soon("asking", asked).await.expect("asked"), 1);
        self.swap(self.at).await;
        self.is_live(&key, "mended").await;
        let asked = Parked { replay: true, ..parked[1].clone() };
        assert_eq!(self.all_parked().await, std::slice::from_ref(&asked), "what is asked for is not forgotten");
        let replayed = Replayed { was: asked, change: None, still: None };
        soon("a replay", self.writer.replayed(self.at, replayed)).await.expect("replayed");
    }

    async fn nobody_goes_back_in_a_swap(&mut self) {
        let race = Racing::start(&self.reader);
        let mut log: Vec<AnswerChange> = Vec::new();
        let mut round = 0;
        let mut go_on = async |desk: &mut Self, log: &mut Vec<AnswerChange>| {
            let changes = race.changes(round, desk.at);
            round += 1;
            let to = Checkpoint::at(changes.last().expect("at least one").position);
            log.extend(changes.iter().cloned());
            let applied = desk.writer.apply(Generation::Live, desk.at, changes.into(), to);
            soon("apply", applied).await.expect("applied");
            desk.at = to;
        };
        for _ in 0..RACED {
            let begun = Instant::now();
            while begun.elapsed() < RACE / 2 {
                go_on(self, &mut log).await;
            }
            let mut next = self.begin().await;
            let begun = Instant::now();
            loop {
                let is_last = begun.elapsed() > RACE;
                let behind: Vec<_> = log.iter().filter(|change| !next.has_reached(change.position)).cloned().collect();
                let some = if is_last { behind } else { behind.into_iter().take(40).collect() };
                let to = some.last().map_or(next, |last| Checkpoint::at(last.position));
                let applied = self.writer.apply(Generation::Next, next, some.into(), to);
                soon("apply", applied).await.expect("applied");
                next = to;
                if is_last {
                    break;
                }
                go_on(self, &mut log).await;
            }
            self.swap(next).await;
        }
        for _ in 0..20 {
            go_on(self, &mut log).await;
        }
        race.end().await;
    }
}
