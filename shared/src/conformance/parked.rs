//! What `ViewReader`, `ViewWriter` and `ViewOperator` promise of parked streams: they are
//! parked with the checkpoint, listed, and read again when that is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::views::LOG;
use super::{DEADLINE, fresh_key, soon};
use crate::clock;
use crate::domain::answer::Key;
use crate::domain::filter::{Field, Filter};
use crate::domain::log_event::{LogEvent, Members};
use crate::domain::projection::{AnswerChange, Change, Changes, EventChange, LogChange, Parked};
use crate::domain::stream::{Position, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{
    Checkpoint, EventRef, EventsQuery, From, Generation, LogReader, Order, ParkedQuery, Replayed, SortKey, StatsQuery,
    StoreError, Ties, ViewOperator, ViewReader, ViewWriter,
};

/// Within which readers follow what was done to the views without their checkpoint.
const FOLLOWED: Duration = Duration::from_secs(2);
/// How long readers and the writer race.
const RACE: Duration = Duration::from_millis(1_500);
const READERS: u64 = 4;
const WEEK: i64 = 7 * 24 * 3_600 * 1_000_000;

/// Views in which nothing is parked and which nobody else writes meanwhile; `reader` may
/// read them from elsewhere. Nothing is parked in the end.
///
/// # Panics
/// If the views break a promise.
pub async fn parked<R, W>(reader: Arc<R>, writer: Arc<W>)
where
    R: ViewReader + LogReader + 'static,
    W: ViewWriter + ViewOperator + 'static,
{
    let mut desk = Desk::new(reader, writer).await;
    desk.streams_are_parked_with_the_checkpoint().await;
    desk.a_conflict_parks_nothing().await;
    desk.parked_streams_are_listed_by_their_names().await;
    desk.replays_are_asked_for().await;
    desk.a_replay_heals_an_answer().await;
    desk.a_replay_may_remove_an_answer().await;
    desk.a_replay_may_come_to_nothing_or_not_far().await;
    desk.a_replay_elsewhere_is_a_conflict().await;
    desk.a_replay_heals_log_events().await;
    desk.whoever_has_reached_it_finds_it_parked().await;
    assert!(desk.all_parked().await.is_empty(), "nothing is left parked");
}

/// All sides of the same views.
pub(super) struct Desk {
    pub(super) reader: Arc<dyn ViewReader>,
    pub(super) log: Arc<dyn LogReader>,
    pub(super) writer: Arc<dyn ViewWriter>,
    pub(super) operator: Arc<dyn ViewOperator>,
    pub(super) at: Checkpoint,
}

/// A put or a removal.
pub(super) fn put(key: &Key, value: Option<&str>, revision: u64, position: Position) -> AnswerChange {
    AnswerChange { key: key.clone(), value: value.map(Into::into), revision: Revision(revision), position }
}

/// A stream that is parked.
pub(super) fn parking(stream: &StreamId, revision: u64, position: Position) -> Parked {
    Parked {
        stream: stream.clone(),
        revision: Revision(revision),
        position,
        error: "schema version 2 is newer than this programm’s – \"\\\u{1}'".into(),
        since: clock::now(),
        replay: false,
    }
}

/// A recording, or with its number an amendment.
pub(super) fn recorded(id: Uuid, name: &str, number: u64, revision: u64, position: Position) -> EventChange {
    let members = Members { name: Some(name.into()), timestamp: Timestamp::from_micros(1), ..Members::default() };
    let event = LogEvent { id, number, created_at: Timestamp::from_micros(2), members };
    EventChange { id, number, event: Some(Arc::new(event)), revision: Revision(revision), position }
}

/// Tries until it holds; what readers see later than the writer.
pub(super) async fn follows(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < FOLLOWED, "{what}: not after {FOLLOWED:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Desk {
    pub(super) async fn new<R, W>(reader: Arc<R>, writer: Arc<W>) -> Self
    where
        R: ViewReader + LogReader + 'static,
        W: ViewWriter + ViewOperator + 'static,
    {
        let at = soon("the checkpoint", writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        Self { reader: reader.clone(), log: reader, writer: writer.clone(), operator: writer, at }
    }

    /// A position that is so many events on.
    pub(super) fn ahead(&self, events: u64) -> Position {
        Position(self.at.position().0 + 3 * events)
    }

    /// Moves the live views on.
    pub(super) async fn apply(&mut self, changes: Changes, to: Position) {
        let to = Checkpoint::at(to);
        soon("apply", self.writer.apply(Generation::Live, self.at, changes, to)).await.expect("applied");
        self.at = to;
        soon("the position that was applied", self.reader.reached(to.position())).await.expect("reached");
    }

    /// Parks streams in front of the next position.
    pub(super) async fn park(&mut self, streams: &[StreamId], revision: u64) -> Vec<Parked> {
        let parked: Vec<_> =
            streams.iter().zip(1..).map(|(stream, at)| parking(stream, revision, self.ahead(at))).collect();
        let to = self.ahead(parked.len() as u64 + 1);
        self.apply(Changes { parked: parked.clone(), ..Changes::default() }, to).await;
        parked
    }

    pub(super) async fn value(&self, key: &Key) -> Option<(String, u64)> {
        let seen = soon("an answer", self.reader.answer(key)).await.expect("answers can be read");
        assert!(seen.position <= self.at.position(), "a position that nothing has reached yet: {}", seen.position);
        seen.found.map(|answer| (answer.value.to_string(), answer.revision.0))
    }

    pub(super) async fn all_parked(&self) -> Vec<Parked> {
        let mut parked = soon("parked streams", self.writer.parked(Generation::Live)).await.expect("parked streams");
        parked.sort_by(|a, b| a.stream.cmp(&b.stream));
        parked
    }

    /// That exactly these streams are parked, from every side, at once.
    async fn are_parked(&self, expected: &[Parked], why: &str) {
        let mut expected = expected.to_vec();
        expected.sort_by(|a, b| a.stream.cmp(&b.stream));
        assert_eq!(self.all_parked().await, expected, "{why}, for the projector");
        let query = ParkedQuery { after: None, limit: expected.len() + 1 };
        let listed = soon("a list", self.operator.parked_streams(query)).await.expect("a list");
        assert_eq!((listed.found, listed.more), (expected.clone(), false), "{why}, for operators");
        let count = soon("how many", self.reader.parked()).await.expect("how many");
        assert_eq!(count, expected.len() as u64, "{why}, for readers");
        for parked in expected {
            let found = soon("one", self.reader.parked_stream(&parked.stream)).await.expect("one");
            // Whether a replay was asked for is nothing to readers.
            let found = found.map(|found| Parked { replay: parked.replay, ..found });
            assert_eq!(found, Some(parked), "{why}, for readers of that stream");
        }
    }

    /// The same, once readers have followed.
    async fn will_be_parked(&self, expected: &[Parked], why: &str) {
        follows(why, async || {
            let mut same = self.reader.parked().await.expect("how many") == expected.len() as u64;
            for parked in expected {
                let found = self.reader.parked_stream(&parked.stream).await.expect("one");
                same &= found.is_some_and(|found| Parked { replay: parked.replay, ..found } == *parked);
            }
            same
        })
        .await;
        self.are_parked(expected, why).await;
    }

    pub(super) async fn replay(&self, was: &Parked, change: Option<Change>, still: Option<Parked>) {
        let replayed = Replayed { was: was.clone(), change, still };
        soon("a replay", self.writer.replayed(self.at, replayed)).await.expect("replayed");
    }

    /// Heals all without a change, as if the streams ended where they are parked.
    async fn heal_all(&self) {
        for parked in self.all_parked().await {
            self.replay(&parked, None, None).await;
        }
        self.will_be_parked(&[], "nothing").await;
    }

    async fn streams_are_parked_with_the_checkpoint(&mut self) {
        self.are_parked(&[], "nothing").await;
        let (good, bad, other) = (fresh_key(), fresh_key(), fresh_key());
        let (stream, unknown) = (StreamId::of_answer(&bad), StreamId::of_answer(&other));
        let first = [put(&good, Some("1"), 0, self.ahead(1)), put(&bad, Some("1"), 0, self.ahead(2))];
        self.apply(first.to_vec().into(), self.ahead(2)).await;
        let one = parking(&stream, 1, self.ahead(2));
        let changes = Changes {
            answers: vec![put(&good, Some("2"), 1, self.ahead(1)), put(&other, Some("1"), 0, self.ahead(3))],
            parked: vec![one.clone()],
            ..Changes::default()
        };
        self.apply(changes, self.ahead(3)).await;
        self.are_parked(std::slice::from_ref(&one), "with its checkpoint").await;
        assert_eq!(self.value(&bad).await, Some(("1".into(), 0)), "the last good value stays");
        assert_eq!(self.value(&good).await, Some(("2".into(), 1)), "others go on");
        assert_eq!(self.value(&other).await, Some(("1".into(), 0)), "behind it, too");
        let none = soon("one", self.reader.parked_stream(&unknown)).await.expect("one");
        assert_eq!(none, None, "a stream that is not parked");
        let resumed = soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        assert_eq!(resumed, self.at, "the checkpoint is behind it");
        self.are_parked(std::slice::from_ref(&one), "after a resume").await;
        // A stream of each kind, with nothing else to write.
        let others = [StreamId::of_event(Uuid::new_v4()), StreamId::of_session(Uuid::new_v4()), unknown];
        let mut all = self.park(&others, 7).await;
        all.push(one);
        self.are_parked(&all, "streams of any kind").await;
        self.heal_all().await;
    }

    async fn a_conflict_parks_nothing(&mut self) {
        let stream = StreamId::of_answer(&fresh_key());
        let ahead = Checkpoint::at(self.ahead(9));
        let changes = Changes { parked: vec![parking(&stream, 0, self.ahead(10))], ..Changes::default() };
        let applied = soon("apply", self.writer.apply(Generation::Live, ahead, changes, ahead)).await;
        assert!(matches!(applied, Err(StoreError::Conflict)), "{applied:?}");
        self.are_parked(&[], "after a conflict").await;
    }

    async fn parked_streams_are_listed_by_their_names(&mut self) {
        let ends = ["\u{1f600}", "\u{fffd}", "b", "B", "", "a", "aa", "é", "~", "\u{ff}", "é/", "%", "a.b", "$c", "'"];
        let base = Uuid::new_v4();
        let streams: Vec<_> =
            ends.iter().map(|end| StreamId::of_answer(&Key::from_stored(&format!("{base}{end}")))).collect();
        let mut parked = self.park(&streams, 3).await;
        self.are_parked(&parked, "many").await;
        parked.sort_by(|a, b| a.stream.as_str().as_bytes().cmp(b.stream.as_str().as_bytes()));
        for limit in [1, 4, parked.len(), parked.len() + 1] {
            let mut found: Vec<Parked> = Vec::new();
            loop {
                let after = found.last().map(|last| last.stream.clone());
                let page = soon("a page", self.operator.parked_streams(ParkedQuery { after, limit })).await;
                let page = page.expect("a page");
                assert!(page.found.len() <= limit, "{} streams, more than {limit}", page.found.len());
                found.extend(page.found);
                assert_eq!(page.more, found.len() < parked.len(), "pages of {limit}");
                if !page.more {
                    break;
                }
            }
            assert_eq!(found, parked, "pages of {limit}");
        }
        let between = ParkedQuery { after: Some(StreamId::from_stored(&format!("answer-{base}a0"))), limit: 1 };
        let page = soon("a page", self.operator.parked_streams(between)).await.expect("a page");
        assert_eq!(page.found[0].stream, StreamId::of_answer(&Key::from_stored(&format!("{base}aa"))));
        self.heal_all().await;
    }

    /// How many of the parked streams are to be read again.
    async fn to_replay(&self) -> usize {
        self.all_parked().await.iter().filter(|parked| parked.replay).count()
    }

    async fn replays_are_asked_for(&mut self) {
        let streams: Vec<_> = (0..3).map(|_| StreamId::of_answer(&fresh_key())).collect();
        let asked = soon("asking", self.operator.ask_replay(None)).await.expect("asked");
        assert_eq!(asked, 0, "where nothing is parked");
        let parked = self.park(&streams, 1).await;
        let stranger = StreamId::of_answer(&fresh_key());
        let asked = soon("asking", self.operator.ask_replay(Some(&stranger))).await.expect("asked");
        assert_eq!((asked, self.to_replay().await), (0, 0), "a stream that is not parked");
        let waiting = tokio::spawn({
            let writer = self.writer.clone();
            // One waits, is told, and waits again for what is asked from then on.
            async move { writer.asked().await }
        });
        let asked = soon("asking", self.operator.ask_replay(Some(&streams[1]))).await.expect("asked");
        assert_eq!((asked, self.to_replay().await), (1, 1), "one");
        soon("who waits for requests", waiting).await.expect("it ends");
        let page = soon("a page", self.operator.parked_streams(ParkedQuery { after: None, limit: 5 })).await;
        let listed = page.expect("a page").found;
        let flagged: Vec<_> = listed.iter().filter(|parked| parked.replay).map(|parked| &parked.stream).collect();
        assert_eq!(flagged, [&streams[1]], "operators see it");
        let again = soon("asking", self.operator.ask_replay(Some(&streams[1]))).await.expect("asked");
        assert_eq!((again, self.to_replay().await), (1, 1), "the same once more");
        // It stays asked for, whatever else is applied, until it is carried out.
        let to = self.ahead(2);
        self.apply(Changes::default(), to).await;
        let asked = soon("asking", self.operator.ask_replay(None)).await.expect("asked");
        assert_eq!((asked, self.to_replay().await), (3, 3), "all");
        soon("who looks for requests", self.writer.asked()).await;
        let was = Parked { replay: true, ..parked[0].clone() };
        self.replay(&was, None, Some(parked[0].clone())).await;
        assert_eq!(self.to_replay().await, 2, "what was carried out is not asked for any more");
        self.heal_all().await;
    }

    /// A key with a good value whose stream is parked behind it, and the views well past.
    async fn parked_answer(&mut self) -> (Key, Parked) {
        let (key, other) = (fresh_key(), fresh_key());
        self.apply(vec![put(&key, Some("good"), 0, self.ahead(1))].into(), self.ahead(1)).await;
        let parked = self.park(&[StreamId::of_answer(&key)], 1).await.remove(0);
        self.apply(vec![put(&other, Some("on"), 0, self.ahead(4))].into(), self.ahead(4)).await;
        soon("asking", self.operator.ask_replay(Some(&parked.stream))).await.expect("asked");
        let was = self.all_parked().await.into_iter().find(|found| found.stream == parked.stream);
        (key, was.expect("it is parked"))
    }

    async fn a_replay_heals_an_answer(&mut self) {
        let (key, was) = self.parked_answer().await;
        let healed = put(&key, Some("healed"), 2, Position(was.position.0 + 1));
        assert!(self.at.has_reached(healed.position), "the views have passed it");
        let before = soon("the checkpoint", self.reader.checkpoint()).await.expect("a checkpoint");
        self.replay(&was, Some(Change::Answer(healed.clone())), None).await;
        follows("the healed answer", async || self.value(&key).await == Some(("healed".into(), 2))).await;
        self.will_be_parked(&[], "healed").await;
        let after = soon("the checkpoint", self.reader.checkpoint()).await.expect("a checkpoint");
        assert_eq!(after.position(), before.position(), "a replay moves no checkpoint");
        let resumed = soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        assert_eq!(resumed, self.at, "a replay moves no checkpoint");
        // From here on it is a stream like any other.
        let next = put(&key, Some("next"), 3, self.ahead(1));
        self.apply(vec![put(&key, Some("late"), 1, was.position), next].into(), self.ahead(1)).await;
        assert_eq!(self.value(&key).await, Some(("next".into(), 3)), "what comes behind a replay");
    }

    async fn a_replay_may_remove_an_answer(&mut self) {
        let (key, was) = self.parked_answer().await;
        let gone = put(&key, None, 2, Position(was.position.0 + 1));
        self.replay(&was, Some(Change::Answer(gone)), None).await;
        follows("the removal", async || self.value(&key).await.is_none()).await;
        self.will_be_parked(&[], "removed").await;
        let late = put(&key, Some("late"), 1, was.position);
        self.apply(vec![late].into(), self.ahead(1)).await;
        assert_eq!(self.value(&key).await, None, "a late put does not undo a removal that was replayed");
        let query = crate::ports::AnswersQuery { prefix: key.as_str().into(), after: None, limit: 5 };
        let listed = soon("a list", self.reader.answers(query)).await.expect("a list");
        assert_eq!(listed.found.answers, [], "it is in no list either");
        self.apply(vec![put(&key, Some("back"), 3, self.ahead(1))].into(), self.ahead(1)).await;
        assert_eq!(self.value(&key).await, Some(("back".into(), 3)), "and can come back");
        // A stream that nobody has seen a good event of.
        let key = fresh_key();
        let was = self.park(&[StreamId::of_answer(&key)], 0).await.remove(0);
        let first = put(&key, Some("first"), 0, was.position);
        self.replay(&was, Some(Change::Answer(first)), None).await;
        follows("a row that was never there", async || self.value(&key).await == Some(("first".into(), 0))).await;
        self.will_be_parked(&[], "healed").await;
    }

    async fn a_replay_may_come_to_nothing_or_not_far(&mut self) {
        let (key, was) = self.parked_answer().await;
        let still = Parked { error: "it is bad still".into(), replay: false, ..was.clone() };
        self.replay(&was, None, Some(still.clone())).await;
        self.will_be_parked(std::slice::from_ref(&still), "still parked where it was").await;
        assert_eq!(self.value(&key).await, Some(("good".into(), 0)), "the last good value stays");
        let better = put(&key, Some("better"), 4, Position(was.position.0 + 1));
        let further = parking(&was.stream, 5, Position(was.position.0 + 2));
        self.replay(&still, Some(Change::Answer(better)), Some(further.clone())).await;
        follows("the better answer", async || self.value(&key).await == Some(("better".into(), 4))).await;
        self.will_be_parked(std::slice::from_ref(&further), "parked further on").await;
        self.heal_all().await;
        assert_eq!(self.value(&key).await, Some(("better".into(), 4)), "a replay without a change changes nothing");
    }

    async fn a_replay_elsewhere_is_a_conflict(&mut self) {
        let (key, was) = self.parked_answer().await;
        let change = Some(Change::Answer(put(&key, Some("no"), 2, Position(was.position.0 + 1))));
        let replayed = Replayed { was: was.clone(), change, still: None };
        let (before, ahead) = (Checkpoint::at(was.position), Checkpoint::at(self.ahead(1)));
        for at in [Checkpoint::START, before, ahead] {
            let conflict = soon("a replay", self.writer.replayed(at, replayed.clone())).await;
            assert!(matches!(conflict, Err(StoreError::Conflict)), "at {at:?}: {conflict:?}");
            assert_eq!(self.value(&key).await, Some(("good".into(), 0)), "a conflict changes nothing");
            self.are_parked(std::slice::from_ref(&was), "a conflict changes nothing").await;
        }
        // A conflict may cost the turn, as everywhere.
        let resumed = soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        assert_eq!(resumed, self.at);
        self.replay(&was, None, None).await;
        let conflict = soon("a replay", self.writer.replayed(self.at, replayed)).await;
        assert!(matches!(conflict, Err(StoreError::Conflict)), "of a stream that is not parked: {conflict:?}");
        assert_eq!(self.value(&key).await, Some(("good".into(), 0)), "a conflict changes nothing");
        soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
        self.will_be_parked(&[], "healed").await;
    }

    pub(super) async fn count(&self) -> u64 {
        soon("a count", self.log.count(&Filter::Any)).await.expect("a count").found
    }

    pub(super) async fn counted(&self) -> u64 {
        let query = StatsQuery { filter: Filter::Any, interval: WEEK, by: Field::Category, limit: 1_000_000 };
        let rows = soon("counts", self.log.stats(query)).await.expect("counts").found.expect("they fit");
        rows.iter().map(|row| row.count).sum()
    }

    /// The name of an event, looked up by its id; the same by its number and in a list.
    async fn name(&self, id: Uuid, number: u64) -> Option<(String, u64)> {
        let name = |event: &LogEvent| event.members.name.clone().expect("a name");
        let seen = soon("an event", self.log.event(EventRef::Id(id))).await.expect("an event").found;
        let by_number = soon("an event", self.log.event(EventRef::Number(number))).await.expect("an event").found;
        assert_eq!(seen, by_number, "by its number");
        let order = Order { by: SortKey::Timestamp, descending: true, ties: Ties::Id };
        let filter = Filter::equals(Field::Id, id.to_string().into());
        let query = EventsQuery { filter, order, from: From::Start, limit: 2 };
        let listed = soon("a list", self.log.events(query)).await.expect("a list").found.events;
        assert_eq!(listed, seen.clone().into_iter().collect::<Vec<_>>(), "in a list");
        seen.map(|record| (name(&record.event), record.revision.0))
    }

    /// Three streams: one whose recording is bad, one whose amendment is bad, and one that
    /// was deleted behind the event that is bad.
    async fn a_replay_heals_log_events(&mut self) {
        let (count, counted) = (self.count().await, self.counted().await);
        let [unseen, amended, deleted, gone] = [(); 4].map(|()| Uuid::new_v4());
        let numbers = [1, 2, 3, 4].map(|at| self.ahead(at));
        let known = [(amended, numbers[1]), (deleted, numbers[2])];
        let recordings = known.map(|(id, number)| LogChange::Event(recorded(id, "recorded", number.0, 0, number)));
        let bad = parking(&StreamId::of_event(unseen), 0, numbers[0]);
        let never = parking(&StreamId::of_event(gone), 0, numbers[3]);
        let changes =
            Changes { log: recordings.to_vec(), parked: vec![bad.clone(), never.clone()], ..Changes::default() };
        self.apply(changes, self.ahead(5)).await;
        let streams = [amended, deleted].map(StreamId::of_event);
        let parked = self.park(&streams, 1).await;
        let later = Uuid::new_v4();
        let number = self.ahead(2);
        self.apply(vec![LogChange::Event(recorded(later, "later", number.0, 0, number))].into(), number).await;
        assert_eq!((self.count().await, self.counted().await), (count + 3, counted + 3), "what could be projected");
        assert_eq!(self.name(unseen, numbers[0].0).await, None, "nothing is known of it");

        let heal = async |was: &Parked, change: EventChange| {
            self.replay(was, Some(Change::Log(LogChange::Event(change))), None).await;
        };
        heal(&bad, recorded(unseen, "seen", numbers[0].0, 0, numbers[0])).await;
        follows("a recording", async || self.name(unseen, numbers[0].0).await == Some(("seen".into(), 0))).await;
        assert_eq!((self.count().await, self.counted().await), (count + 4, counted + 4), "a recording counts");
        heal(&parked[0], recorded(amended, "amended", numbers[1].0, 1, parked[0].position)).await;
        follows("an amendment", async || self.name(amended, numbers[1].0).await == Some(("amended".into(), 1))).await;
        assert_eq!((self.count().await, self.counted().await), (count + 4, counted + 4), "an amendment does not");
        let at = Position(parked[1].position.0 + 1);
        let deletion = EventChange { event: None, ..recorded(deleted, "", numbers[2].0, 2, at) };
        heal(&parked[1], deletion).await;
        follows("a deletion", async || self.name(deleted, numbers[2].0).await.is_none()).await;
        assert_eq!((self.count().await, self.counted().await), (count + 3, counted + 3), "a deletion counts");
        let deletion = EventChange { event: None, ..recorded(gone, "", numbers[3].0, 1, Position(numbers[3].0 + 1)) };
        heal(&never, deletion).await;
        self.will_be_parked(&[], "healed").await;
        assert_eq!(self.name(gone, numbers[3].0).await, None);
        assert_eq!((self.count().await, self.counted().await), (count + 3, counted + 3), "of nothing it does not");

        // Whoever reads the changes from the beginning finds all of them, in their order.
        let changes = soon("changes", self.log.changes(Position(numbers[0].0 - 1), 100)).await.expect("changes");
        let found: Vec<_> = changes.found.iter().map(|change| (change.id, change.event.is_some())).collect();
        let expected = [(unseen, true), (gone, false), (amended, true), (deleted, false), (later, true)];
        assert_eq!(found, expected, "changes come in the order of the log");
        // Afterwards they are streams like any other.
        let next = recorded(amended, "next", numbers[1].0, 2, self.ahead(1));
        let late = recorded(deleted, "late", numbers[2].0, 1, parked[1].position);
        self.apply(vec![LogChange::Event(late), LogChange::Event(next)].into(), self.ahead(1)).await;
        assert_eq!(self.name(amended, numbers[1].0).await, Some(("next".into(), 2)));
        assert_eq!(self.name(deleted, numbers[2].0).await, None, "a late put does not undo a deletion");
        assert_eq!((self.count().await, self.counted().await), (count + 3, counted + 3));
    }

    /// Whoever awaits a position at or beyond an event that cannot be projected finds its
    /// stream parked.
    async fn whoever_has_reached_it_finds_it_parked(&mut self) {
        let base = Uuid::new_v4();
        let name = move |at: u64| StreamId::of_answer(&Key::from_stored(&format!("{base}-{at}")));
        let (newest, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let reader = |number: u64| {
            let (reader, newest, over) = (self.reader.clone(), newest.clone(), over.clone());
            async move {
                let mut reads = 0;
                while !over.load(Ordering::SeqCst) {
                    // A place of a stream is three times its number behind the first.
                    let due = newest.load(Ordering::SeqCst);
                    if due == 0 {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    reader.reached(Position(due)).await.expect("reached");
                    let found = reader.parked_stream(&name(due)).await.expect("one");
                    assert_eq!(found.map(|found| found.position), Some(Position(due)), "reader {number}");
                    assert!(reader.parked().await.expect("how many") > 0);
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            }
        };
        let readers: Vec<_> = (0..READERS).map(|number| tokio::spawn(reader(number))).collect();
        let begun = Instant::now();
        while begun.elapsed() < RACE {
            let at = self.ahead(1);
            newest.store(at.0, Ordering::SeqCst);
            let changes = Changes { parked: vec![parking(&name(at.0), 0, at)], ..Changes::default() };
            soon("apply", self.writer.apply(Generation::Live, self.at, changes, Checkpoint::at(at)))
                .await
                .expect("applied");
            self.at = Checkpoint::at(at);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        over.store(true, Ordering::SeqCst);
        for reader in readers {
            let reads = tokio::time::timeout(DEADLINE, reader).await.expect("a reader ends").expect("a reader ends");
            assert!(reads > 0, "nobody read anything");
        }
        self.heal_all().await;
    }
}
