//! What `EventStore` promises.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::{event, fresh_stream, some_events, soon};
use crate::domain::answer::{AnswerEvent, Key};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{Append, Appended, Direction, EventStore, StoreError};
use Direction::{Backwards, Forwards};
use ExpectedRevision::{Exact, NoStream};

const RACERS: u64 = 64;
const LARGE: usize = 512 * 1024;

/// Appends and reads of streams.
///
/// # Panics
/// If the store breaks a promise.
pub async fn events(store: Arc<dyn EventStore>) {
    let log = Log(store);
    log.appends_take_their_places().await;
    log.what_was_appended_is_read_as_it_was().await;
    log.a_stream_is_read_both_ways().await;
    log.a_stream_without_events_is_empty().await;
    log.many_events_are_read_in_pages().await;
    log.large_values_are_kept().await;
    log.another_revision_is_a_conflict().await;
    log.a_repeated_append_is_the_same_success().await;
    log.a_repetition_with_other_events_is_a_conflict().await;
    log.at_the_end_known_ids_are_appended_again().await;
    log.of_racing_appends_one_wins().await;
    log.racers_that_retry_all_append().await;
    log.many_appends_have_an_outcome_each().await;
    log.a_position_is_looked_up_exactly().await;
}

/// A store whose answers must be there.
#[derive(Clone)]
struct Log(Arc<dyn EventStore>);

fn exact(revision: u64) -> ExpectedRevision {
    Exact(Revision(revision))
}

fn ids(events: &[RecordedEvent]) -> Vec<Uuid> {
    events.iter().map(|recorded| recorded.event.id).collect()
}

impl Log {
    async fn append(&self, stream: &StreamId, expected: ExpectedRevision, events: &[NewEvent]) -> Appended {
        let appended = soon("append", self.0.append(stream, expected, events.to_vec())).await;
        let appended = appended.unwrap_or_else(|error| panic!("append at {expected:?} failed: {error:?}"));
        assert_eq!(appended.first, expected.first_new(), "the first revision of an append at {expected:?}");
        assert_eq!(appended.positions.len(), events.len(), "an append tells the position of each event");
        assert!(appended.positions.is_sorted_by(|a, b| a < b), "positions of an append grow: {appended:?}");
        assert!(appended.positions.iter().all(|at| (Position(1)..=Position::MAX).contains(at)), "{appended:?}");
        appended
    }

    async fn conflicts(&self, stream: &StreamId, expected: ExpectedRevision, events: &[NewEvent], why: &str) {
        let before = self.all(stream).await;
        let refused = soon("append", self.0.append(stream, expected, events.to_vec())).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{why} must be a conflict, not {refused:?}");
        assert_eq!(self.all(stream).await, before, "{why} must append nothing");
    }

    async fn read(&self, stream: &StreamId, from: u64, direction: Direction, limit: usize) -> Vec<RecordedEvent> {
        let read = soon("read", self.0.read(stream, Revision(from), direction, limit)).await;
        let read = read.unwrap_or_else(|error| panic!("read {direction:?} from {from} failed: {error:?}"));
        assert!(read.len() <= limit, "read gave {} events, more than {limit}", read.len());
        read
    }

    async fn all(&self, stream: &StreamId) -> Vec<RecordedEvent> {
        let mut all = Vec::new();
        loop {
            let page = self.read(stream, all.len() as u64, Forwards, 1_000).await;
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    async fn last(&self, stream: &StreamId) -> Option<RecordedEvent> {
        soon("last", self.0.last(stream)).await.expect("last answers")
    }

    async fn with(&self, count: usize) -> (StreamId, Vec<NewEvent>, Appended) {
        let (stream, events) = (fresh_stream(), some_events(count));
        let appended = self.append(&stream, NoStream, &events).await;
        (stream, events, appended)
    }

    async fn appends_take_their_places(&self) {
        let (stream, other) = (fresh_stream(), fresh_stream());
        let mut positions = Vec::new();
        positions.extend(self.append(&stream, NoStream, &some_events(1)).await.positions);
        positions.extend(self.append(&stream, exact(0), &some_events(3)).await.positions);
        positions.extend(self.append(&other, NoStream, &some_events(2)).await.positions);
        positions.extend(self.append(&stream, exact(3), &some_events(1)).await.positions);
        assert!(positions.is_sorted_by(|a, b| a < b), "later appends stand later in the log: {positions:?}");
        let read = self.all(&stream).await;
        let revisions: Vec<_> = read.iter().map(|recorded| recorded.revision.0).collect();
        assert_eq!(revisions, [0, 1, 2, 3, 4], "revisions have no gaps");
        let read: Vec<_> = read.iter().map(|recorded| recorded.position).collect();
        assert_eq!(read, [&positions[..4], &positions[6..]].concat(), "events are read at the positions told");
    }

    async fn what_was_appended_is_read_as_it_was(&self) {
        let stream = fresh_stream();
        let key = Key::from_stored("snö/ключ \u{10ffff}");
        let value: std::sync::Arc<str> = "\"\\/\u{0}\u{1f}\n\u{2028}ß漢😀\u{fffd}".into();
        let made = [
            AnswerEvent::Created { key: key.clone(), value: value.clone() },
            AnswerEvent::Updated { key: key.clone(), value },
            AnswerEvent::Deleted { key },
        ];
        let times = [0, 1_700_000_000_123_456, 1_700_000_000_123_457].map(Timestamp::from_micros);
        let events: Vec<_> = made.iter().zip(times).map(|(event, at)| event.to_new(Uuid::new_v4(), at)).collect();
        let appended = self.append(&stream, NoStream, &events).await;
        let expected: Vec<_> = events
            .into_iter()
            .zip(appended.positions)
            .zip(0..)
            .map(|((event, position), revision)| RecordedEvent {
                position,
                stream: stream.clone(),
                revision: Revision(revision),
                event,
            })
            .collect();
        assert_eq!(self.all(&stream).await, expected, "id, kind, data, metadata and place are kept");
        assert_eq!(self.last(&stream).await.as_ref(), expected.last(), "the last event");
    }

    async fn a_stream_is_read_both_ways(&self) {
        let (stream, _, _) = self.with(7).await;
        let all = self.all(&stream).await;
        let reversed: Vec<_> = all.iter().rev().cloned().collect();
        assert_eq!(self.read(&stream, 0, Forwards, 7).await, all);
        assert_eq!(self.read(&stream, 0, Forwards, 1).await, all[..1]);
        assert_eq!(self.read(&stream, 2, Forwards, 3).await, all[2..5]);
        assert_eq!(self.read(&stream, 6, Forwards, 10).await, all[6..]);
        assert_eq!(self.read(&stream, 7, Forwards, 10).await, [], "nothing lies beyond the end");
        assert_eq!(self.read(&stream, 1 << 40, Forwards, 10).await, [], "nothing lies far beyond the end");
        assert_eq!(self.read(&stream, 6, Backwards, 10).await, reversed);
        assert_eq!(self.read(&stream, 4, Backwards, 2).await, reversed[2..4]);
        assert_eq!(self.read(&stream, 0, Backwards, 10).await, all[..1]);
        assert_eq!(self.read(&stream, 7, Backwards, 2).await, reversed[..2], "beyond the end means the end");
        assert_eq!(self.read(&stream, 1 << 40, Backwards, 10).await, reversed, "far beyond the end means the end");
        assert_eq!(self.last(&stream).await, all.last().cloned());
    }

    async fn a_stream_without_events_is_empty(&self) {
        let stream = fresh_stream();
        for direction in [Forwards, Backwards] {
            for from in [0, 1, 1 << 40] {
                assert_eq!(self.read(&stream, from, direction, 5).await, [], "{direction:?} from {from}");
            }
        }
        assert_eq!(self.last(&stream).await, None);
    }

    async fn many_events_are_read_in_pages(&self) {
        let (stream, mut events, _) = self.with(100).await;
        for _ in 0..12 {
            let more = some_events(100);
            self.append(&stream, exact(events.len() as u64 - 1), &more).await;
            events.extend(more);
        }
        let expected: Vec<_> = events.iter().map(|event| event.id).collect();
        let mut read = Vec::new();
        while read.len() < expected.len() {
            let page = self.read(&stream, read.len() as u64, Forwards, 97).await;
            assert!(!page.is_empty(), "a page before the end holds something");
            read.extend(ids(&page));
        }
        assert_eq!(read, expected, "pages forwards");
        let mut read = Vec::new();
        let mut from = Some(expected.len() as u64 + 5);
        while let Some(at) = from {
            let page = self.read(&stream, at, Backwards, 97).await;
            assert!(!page.is_empty(), "a page before the beginning holds something");
            from = page.last().and_then(|recorded| recorded.revision.0.checked_sub(1));
            read.extend(ids(&page));
        }
        read.reverse();
        assert_eq!(read, expected, "pages backwards");
    }

    async fn large_values_are_kept(&self) {
        let stream = fresh_stream();
        let large: Vec<_> = (0..12_u8).map(|at| event(&char::from(b'a' + at).to_string().repeat(LARGE))).collect();
        for (event, revision) in large.iter().zip(0_u64..) {
            let expected = revision.checked_sub(1).map_or(NoStream, exact);
            self.append(&stream, expected, std::slice::from_ref(event)).await;
        }
        let read: Vec<_> = self.all(&stream).await.into_iter().map(|recorded| recorded.event).collect();
        assert!(read == large, "events of 512 KiB are read as they were");
        let mut read = Vec::new();
        while read.len() < large.len() {
            let page = self.read(&stream, (large.len() - read.len() - 1) as u64, Backwards, 100).await;
            assert!(!page.is_empty(), "a page of large events holds something");
            read.extend(page.into_iter().map(|recorded| recorded.event));
        }
        assert!(read.iter().rev().eq(&large), "events of 512 KiB are read backwards as they were");
    }

    async fn another_revision_is_a_conflict(&self) {
        let (stream, _, _) = self.with(4).await;
        let (one, two) = (some_events(1), some_events(2));
        for (expected, why) in [
            (NoStream, "NoStream on a stream that exists"),
            (exact(0), "a revision far below the last"),
            (exact(2), "the revision below the last"),
            (exact(4), "the revision above the last"),
            (exact(1 << 40), "a revision far above the last"),
        ] {
            self.conflicts(&stream, expected, &one, why).await;
            self.conflicts(&stream, expected, &two, why).await;
        }
        let missing = fresh_stream();
        self.conflicts(&missing, exact(0), &one, "revision 0 of a stream without events").await;
        self.conflicts(&missing, exact(5), &two, "revision 5 of a stream without events").await;
        // Conflicts leave the way free.
        self.append(&missing, NoStream, &one).await;
        self.append(&stream, exact(3), &two).await;
    }

    async fn a_repeated_append_is_the_same_success(&self) {
        let stream = fresh_stream();
        let (first, second, third) = (some_events(1), some_events(3), some_events(2));
        let appended = [
            self.append(&stream, NoStream, &first).await,
            self.append(&stream, exact(0), &second).await,
            self.append(&stream, exact(3), &third).await,
        ];
        let all = self.all(&stream).await;
        // The last first: then those with later events behind them.
        for (expected, events, appended) in
            [(exact(3), &third, &appended[2]), (exact(0), &second, &appended[1]), (NoStream, &first, &appended[0])]
        {
            let again = self.append(&stream, expected, events).await;
            assert_eq!(&again, appended, "the same events at {expected:?} are the same success");
        }
        let leading = self.append(&stream, exact(0), &second[..2]).await;
        assert_eq!(leading.positions, appended[1].positions[..2], "a leading part of an append is the same success");
        assert_eq!(self.all(&stream).await, all, "repetitions append nothing");
    }

    async fn a_repetition_with_other_events_is_a_conflict(&self) {
        let (stream, events, _) = self.with(3).await;
        let with_tail = |keep: usize, fresh: usize| [&events[..keep], &some_events(fresh)].concat();
        self.conflicts(&stream, NoStream, &with_tail(2, 1), "another event at the end of a repetition").await;
        self.conflicts(&stream, NoStream, &with_tail(3, 1), "a repetition that goes on behind the end").await;
        self.conflicts(&stream, exact(1), &with_tail(1, 0), "a known event at another revision").await;
        let swapped = [events[1].clone(), events[0].clone()];
        self.conflicts(&stream, NoStream, &swapped, "known events in another order").await;
        let elsewhere = fresh_stream();
        self.append(&elsewhere, NoStream, &some_events(3)).await;
        self.conflicts(&elsewhere, NoStream, &events, "events that another stream holds").await;
    }

    async fn at_the_end_known_ids_are_appended_again(&self) {
        let (stream, events, appended) = self.with(2).await;
        let again = self.append(&stream, exact(1), &events).await;
        assert!(again.positions[0] > appended.positions[1], "known ids at the last revision are a new append");
        let read = ids(&self.all(&stream).await);
        let id = |at: usize| events[at].id;
        assert_eq!(read, [id(0), id(1), id(0), id(1)], "known ids at the last revision are appended");
    }

    async fn of_racing_appends_one_wins(&self) {
        let (stream, _, _) = self.with(1).await;
        for expected in [0, 1] {
            let racers: Vec<_> = (0..RACERS)
                .map(|_| {
                    let (log, stream) = (self.clone(), stream.clone());
                    tokio::spawn(async move {
                        let new = event("race");
                        let id = new.id;
                        match soon("append", log.0.append(&stream, exact(expected), vec![new])).await {
                            Ok(_) => Some(id),
                            Err(StoreError::Conflict) => None,
                            Err(error) => panic!("a racing append failed: {error:?}"),
                        }
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for racer in racers {
                winners.extend(racer.await.expect("a racer ends"));
            }
            assert_eq!(winners.len(), 1, "of appends at the same revision exactly one wins");
            let read = ids(&self.all(&stream).await);
            assert_eq!(read[1 + usize::try_from(expected).expect("small")..], winners, "the winner alone is there");
        }
    }

    async fn racers_that_retry_all_append(&self) {
        let stream = fresh_stream();
        let racers: Vec<_> = (0..RACERS)
            .map(|number| {
                let (log, stream) = (self.clone(), stream.clone());
                tokio::spawn(async move { log.append_until_done(&stream, event(&number.to_string())).await })
            })
            .collect();
        let mut appended = Vec::new();
        for racer in racers {
            appended.push(racer.await.expect("a racer ends"));
        }
        appended.sort_by_key(|(revision, ..)| *revision);
        let read = self.all(&stream).await;
        let found: Vec<_> = read.iter().map(|r| (r.revision, r.position, r.event.id)).collect();
        assert_eq!(found, appended, "each racer's event is where its append said, once");
        let revisions: Vec<_> = read.iter().map(|recorded| recorded.revision.0).collect();
        assert_eq!(revisions, (0..RACERS).collect::<Vec<_>>(), "no gaps");
        let positions: HashSet<_> = read.iter().map(|recorded| recorded.position).collect();
        assert_eq!(positions.len() as u64, RACERS, "no position twice");
        assert!(read.is_sorted_by(|a, b| a.position < b.position), "positions grow with revisions");
    }

    async fn append_until_done(&self, stream: &StreamId, event: NewEvent) -> (Revision, Position, Uuid) {
        for _ in 0..100 * RACERS {
            let expected = ExpectedRevision::from(self.last(stream).await.map(|last| last.revision));
            match soon("append", self.0.append(stream, expected, vec![event.clone()])).await {
                Ok(appended) => return (appended.first, appended.positions[0], event.id),
                Err(StoreError::Conflict) => tokio::task::yield_now().await,
                Err(error) => panic!("a racing append failed: {error:?}"),
            }
        }
        panic!("an append that retries never gets through");
    }

    async fn each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let count = appends.len();
        let outcomes = soon("append each", self.0.append_each(appends)).await;
        assert_eq!(outcomes.len(), count, "each append has an outcome");
        outcomes
    }

    async fn many_appends_have_an_outcome_each(&self) {
        assert!(self.each(Vec::new()).await.is_empty(), "no append, no outcome");
        let (known, events, appended) = self.with(2).await;
        let new = |count| Append { stream: fresh_stream(), expected: NoStream, events: some_events(count) };
        let mut appends: Vec<_> = (0..200).map(|number| new(number % 3 + 1)).collect();
        appends[50] = Append { stream: known.clone(), expected: NoStream, events: some_events(1) };
        appends[60] = Append { stream: fresh_stream(), expected: exact(7), events: some_events(1) };
        let first = self.each(appends.clone()).await;
        // Again, with what is new among what is stored already.
        let mut more = appends.clone();
        more[50] = Append { stream: known.clone(), expected: NoStream, events: events.clone() };
        more[60] = new(1);
        let again = self.each(more.clone()).await;
        for (index, append) in appends.iter().enumerate() {
            if [50, 60].contains(&index) {
                assert!(matches!(first[index], Err(StoreError::Conflict)), "{index}: {:?}", first[index]);
                continue;
            }
            let outcome = first[index].as_ref().unwrap_or_else(|error| panic!("{index}: {error:?}"));
            assert_eq!(again[index].as_ref().ok(), Some(outcome), "a repeated append is the same success");
            let read = self.all(&append.stream).await;
            let stored: Vec<_> = read.iter().map(|recorded| recorded.event.clone()).collect();
            assert_eq!(stored, append.events, "what is acknowledged is stored once");
            let positions: Vec<_> = read.iter().map(|recorded| recorded.position).collect();
            assert_eq!((outcome.first, &outcome.positions), (Revision::FIRST, &positions));
        }
        assert_eq!(again[50].as_ref().ok(), Some(&appended), "stored long before");
        assert!(again[60].is_ok(), "a new one among them");
        assert_eq!((self.all(&known).await.len(), self.all(&more[60].stream).await.len()), (2, 1));
    }

    async fn a_position_is_looked_up_exactly(&self) {
        let (stream, _, appended) = self.with(3).await;
        let all = self.all(&stream).await;
        for (position, event) in appended.positions.iter().zip(&all) {
            let found = soon("at", self.0.at(*position)).await.expect("at answers");
            assert_eq!(found.as_ref(), Some(event), "the event at its position");
        }
        let last = appended.positions[2].0;
        for position in [0, last + 1_000_000_000, Position::MAX.0, Position::MAX.0 + 1, u64::MAX] {
            let found = soon("at", self.0.at(Position(position))).await.expect("at answers");
            assert_eq!(found, None, "nothing at {position}");
        }
        // Between events there may be another's, but none of this stream.
        for position in appended.positions.windows(2).flat_map(|pair| pair[0].0 + 1..pair[1].0).take(8) {
            let found = soon("at", self.0.at(Position(position))).await.expect("at answers");
            assert!(found.is_none_or(|found| found.stream != stream), "nothing of this stream at {position}");
        }
    }
}
