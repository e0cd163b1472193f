//! What `EventFeed` promises.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{fresh_stream, some_events, soon};
use crate::domain::stream::{ExpectedRevision, Position, RecordedEvent, StreamId};
use crate::ports::{Batch, Checkpoint, Direction, EventFeed, EventStore, Subscription};

/// Writers at the same time, and what each appends.
const WRITERS: u64 = 16;
const APPENDS: u64 = 20;

/// The log in order. Others may append to it meanwhile: only the suite's own
/// events are counted.
///
/// # Panics
/// If the feed breaks a promise.
pub async fn feed(store: Arc<dyn EventStore>, feed: Arc<dyn EventFeed>) {
    let log = Log { store, feed };
    log.it_has_one_name().await;
    log.it_is_followed_from_the_start().await;
    log.it_is_followed_from_a_checkpoint().await;
    log.it_is_followed_from_its_head().await;
    log.a_limit_is_kept().await;
    log.its_head_grows().await;
    log.dropping_a_wait_loses_nothing().await;
    log.under_load_it_is_whole_and_in_order().await;
}

#[derive(Clone)]
struct Log {
    store: Arc<dyn EventStore>,
    feed: Arc<dyn EventFeed>,
}

/// Follows a log and checks what it is told.
struct Follower {
    subscription: Box<dyn Subscription>,
    at: Checkpoint,
    last: Position,
}

impl Follower {
    async fn next(&mut self, limit: usize) -> Vec<RecordedEvent> {
        let batch = soon("the feed's next events", self.subscription.next(limit)).await;
        self.checked(batch.expect("the feed goes on"), limit)
    }

    fn checked(&mut self, batch: Batch, limit: usize) -> Vec<RecordedEvent> {
        let Batch { events, checkpoint } = batch;
        assert!(events.len() <= limit, "{} events, more than {limit}", events.len());
        assert!(checkpoint >= self.at, "a checkpoint goes back: {checkpoint:?} after {:?}", self.at);
        for event in &events {
            assert!(event.position > self.last, "position {} comes after {}", event.position, self.last);
            assert!(event.position <= Position::MAX, "position {} is too large", event.position);
            assert!(checkpoint.has_reached(event.position), "{checkpoint:?} lies before event {}", event.position);
            self.last = event.position;
        }
        self.at = checkpoint;
        self.last = self.last.max(checkpoint.position());
        events
    }

    /// The events of these streams, until there are so many.
    async fn of(&mut self, streams: &HashSet<StreamId>, count: usize, limit: usize) -> Vec<RecordedEvent> {
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(self.next(limit).await.into_iter().filter(|event| streams.contains(&event.stream)));
        }
        found
    }
}

impl Log {
    async fn append(&self, stream: &StreamId, expected: ExpectedRevision, count: usize) -> Vec<RecordedEvent> {
        let events = some_events(count);
        let appended = self.store.append(stream, expected, events.clone()).await.expect("appended");
        let recorded = |((event, position), revision)| RecordedEvent {
            position,
            stream: stream.clone(),
            revision: crate::domain::stream::Revision(revision),
            event,
        };
        events.into_iter().zip(appended.positions).zip(appended.first.0..).map(recorded).collect()
    }

    async fn follow(&self, after: Checkpoint) -> Follower {
        let subscription = soon("a subscription", self.feed.subscribe(after)).await.expect("subscribed");
        Follower { subscription, at: after, last: after.position() }
    }

    async fn head(&self) -> Position {
        soon("the head", self.feed.head()).await.expect("a head")
    }

    /// Some events on three streams, in the order of the log.
    async fn some(&self) -> (HashSet<StreamId>, Vec<RecordedEvent>) {
        let streams = [fresh_stream(), fresh_stream(), fresh_stream()];
        let mut appended = Vec::new();
        for count in 1..4 {
            for stream in &streams {
                let last = appended.iter().rfind(|event: &&RecordedEvent| event.stream == *stream);
                let expected = ExpectedRevision::from(last.map(|last| last.revision));
                appended.extend(self.append(stream, expected, count).await);
            }
        }
        (streams.into(), appended)
    }

    async fn it_has_one_name(&self) {
        let (head, end) = (self.head().await, self.feed.end().await.expect("an end"));
        assert!(end >= head, "the log ends at {end}, before its event at {head}");
        let id = self.feed.log_id().await.expect("a name");
        self.append(&fresh_stream(), ExpectedRevision::NoStream, 1).await;
        assert_eq!(self.feed.log_id().await.expect("a name"), id, "the log's id stays");
    }

    async fn it_is_followed_from_the_start(&self) {
        let (streams, appended) = self.some().await;
        for limit in [1_000, 3] {
            let found = self.follow(Checkpoint::START).await.of(&streams, appended.len(), limit).await;
            assert_eq!(found, appended, "all events, as appended, in the order of the log");
        }
    }

    async fn it_is_followed_from_a_checkpoint(&self) {
        let (streams, appended) = self.some().await;
        for behind in [0, 3, appended.len() - 2] {
            let after = Checkpoint::at(appended[behind].position);
            let mut follower = self.follow(after).await;
            let found = follower.of(&streams, appended.len() - behind - 1, 4).await;
            assert_eq!(found, appended[behind + 1..], "what follows event {behind}");
        }
        // The checkpoints of a subscription are such places too.
        let mut follower = self.follow(Checkpoint::START).await;
        let first = follower.of(&streams, 1, 1).await;
        let rest = self.follow(follower.at).await.of(&streams, appended.len() - 1, 1_000).await;
        assert_eq!([first, rest].concat(), appended, "a subscription goes on where another was");
    }

    async fn it_is_followed_from_its_head(&self) {
        let (streams, appended) = self.some().await;
        let stream = &appended[0].stream;
        soon("the head behind an append", async {
            while self.head().await < appended[appended.len() - 1].position {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let mut follower = self.follow(Checkpoint::at(self.head().await)).await;
        let last = appended.iter().rfind(|event| event.stream == *stream).map(|event| event.revision);
        let new = self.append(stream, ExpectedRevision::from(last), 2).await;
        assert_eq!(follower.of(&streams, 2, 100).await, new, "from the head on only what is new");
    }

    async fn a_limit_is_kept(&self) {
        let begin = Checkpoint::at(self.head().await);
        let (streams, appended) = self.some().await;
        for limit in [1, 2, 5] {
            let found = self.follow(begin).await.of(&streams, appended.len(), limit).await;
            assert_eq!(found, appended, "pages of {limit}");
        }
    }

    async fn its_head_grows(&self) {
        let mut last = self.head().await;
        for _ in 0..5 {
            let appended = self.append(&fresh_stream(), ExpectedRevision::NoStream, 2).await;
            soon("the head behind an append", async {
                while last < appended[1].position {
                    let head = self.head().await;
                    assert!(head >= last, "the head goes back from {last} to {head}");
                    last = head;
                }
            })
            .await;
        }
    }

    async fn dropping_a_wait_loses_nothing(&self) {
        let mut follower = self.follow(Checkpoint::at(self.head().await)).await;
        let stream = fresh_stream();
        let writer = {
            let (log, stream) = (self.clone(), stream.clone());
            tokio::spawn(async move {
                let mut appended = log.append(&stream, ExpectedRevision::NoStream, 1).await;
                for revision in 0..60 {
                    let expected = ExpectedRevision::Exact(crate::domain::stream::Revision(revision));
                    appended.extend(log.append(&stream, expected, 1).await);
                    tokio::time::sleep(Duration::from_micros(revision * 37 % 2_000)).await;
                }
                appended
            })
        };
        let mut found = Vec::new();
        let collect = async {
            for patience in (0..).map(|round: u64| Duration::from_micros(round * 211 % 3_000)) {
                // A wait that is given up at once, in the middle, or never.
                let next = tokio::time::timeout(patience, follower.subscription.next(2));
                if let Ok(batch) = next.await {
                    let events = follower.checked(batch.expect("the feed goes on"), 2);
                    found.extend(events.into_iter().filter(|event| event.stream == stream));
                }
                if found.len() >= 61 {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::DEADLINE, collect).await.expect("waits that are dropped lose nothing");
        assert_eq!(found, writer.await.expect("the writer ends"), "waits that are dropped lose and double nothing");
    }

    async fn under_load_it_is_whole_and_in_order(&self) {
        let begin = Checkpoint::at(self.head().await);
        let streams: Vec<_> = (0..WRITERS).map(|_| fresh_stream()).collect();
        let mine: Arc<HashSet<_>> = Arc::new(streams.iter().cloned().collect());
        let followers: Vec<_> = [1, 7, 1_000]
            .into_iter()
            .map(|limit| {
                let (log, mine) = (self.clone(), mine.clone());
                tokio::spawn(async move { log.follow_and_read(begin, &mine, limit).await })
            })
            .collect();
        let writers: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let log = self.clone();
                tokio::spawn(async move { log.append_many(&stream).await })
            })
            .collect();
        let mut appended = Vec::new();
        for writer in writers {
            appended.extend(writer.await.expect("a writer ends"));
        }
        appended.sort_by_key(|event| event.position);
        for follower in followers {
            let found = follower.await.expect("a follower ends");
            assert_eq!(found.len(), appended.len(), "nothing is left out or doubled");
            assert!(found == appended, "events come as they were appended, in the order of the log");
        }
    }

    async fn append_many(&self, stream: &StreamId) -> Vec<RecordedEvent> {
        let mut appended: Vec<RecordedEvent> = Vec::new();
        for number in 0..APPENDS {
            let expected = ExpectedRevision::from(appended.last().map(|last| last.revision));
            let count = 1 + usize::try_from(number % 3).expect("small");
            appended.extend(self.append(stream, expected, count).await);
        }
        appended
    }

    /// What a follower sees must be readable through the store at that moment.
    async fn follow_and_read(&self, begin: Checkpoint, mine: &HashSet<StreamId>, limit: usize) -> Vec<RecordedEvent> {
        let count: u64 = WRITERS * (0..APPENDS).map(|number| 1 + number % 3).sum::<u64>();
        let count = usize::try_from(count).expect("small");
        let mut follower = self.follow(begin).await;
        let mut found = Vec::new();
        let mut revisions = HashMap::new();
        while found.len() < count {
            for seen in follower.next(limit).await.into_iter().filter(|event| mine.contains(&event.stream)) {
                let read = self.store.read(&seen.stream, seen.revision, Direction::Forwards, 1).await.expect("read");
                assert!(read.first() == Some(&seen), "an event that was seen cannot be read yet");
                let next = revisions.entry(seen.stream.clone()).or_insert(0);
                assert_eq!(seen.revision.0, *next, "the events of a stream come in its order");
                *next += 1;
                found.push(seen);
            }
        }
        found
    }
}
