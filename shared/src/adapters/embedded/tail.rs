//! The last durable events, in memory: whoever follows the log closely need not
//! read them back.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::domain::stream::{Position, RecordedEvent};

/// What is kept at most, in events and in bytes of what they say.
const EVENTS: usize = 16 * 1024;
const BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Tail(Mutex<Kept>);

struct Kept {
    /// Every durable event behind this position is kept.
    after: Position,
    events: VecDeque<RecordedEvent>,
    bytes: usize,
}

impl Tail {
    /// The tail of a log that ends here.
    pub(super) fn new(end: Position) -> Self {
        Self(Mutex::new(Kept { after: end, events: VecDeque::new(), bytes: 0 }))
    }

    /// Begins again at an end.
    pub(super) fn reset(&self, end: Position) {
        *self.0.lock() = Kept { after: end, events: VecDeque::new(), bytes: 0 };
    }

    /// Adds events that have become durable.
    pub(super) fn push(&self, events: Vec<RecordedEvent>) {
        let mut kept = self.0.lock();
        kept.bytes += events.iter().map(|event| event.event.data.len()).sum::<usize>();
        kept.events.extend(events);
        while kept.events.len() > EVENTS || kept.bytes > BYTES {
            let Some(first) = kept.events.pop_front() else { break };
            kept.bytes -= first.event.data.len();
            kept.after = first.position;
        }
    }

    /// The events behind one position up to another, `limit` at most; none if some
    /// of them are not kept any more.
    pub(super) fn follow(&self, after: Position, to: Position, limit: usize) -> Option<Vec<RecordedEvent>> {
        let kept = self.0.lock();
        if after < kept.after {
            return None;
        }
        let from = kept.events.partition_point(|event| event.position <= after);
        let wanted = kept.events.range(from..).take_while(|event| event.position <= to);
        Some(wanted.take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::domain::stream::{Metadata, NewEvent, Revision, StreamId};
    use crate::domain::time::Timestamp;

    fn event(position: u64, bytes: usize) -> RecordedEvent {
        let metadata = Metadata { schema: 1, recorded_at: Timestamp::from_micros(0) };
        let event = NewEvent { id: Uuid::nil(), kind: "a".into(), data: Bytes::from(vec![0; bytes]), metadata };
        let stream = StreamId::from_stored("answer-a");
        RecordedEvent { position: Position(position), stream, revision: Revision(0), event }
    }

    fn positions(tail: &Tail, after: u64, to: u64, limit: usize) -> Option<Vec<u64>> {
        let events = tail.follow(Position(after), Position(to), limit)?;
        Some(events.iter().map(|event| event.position.0).collect())
    }

    #[test]
    fn it_has_all_or_says_so() {
        let tail = Tail::new(Position(3));
        tail.push(vec![event(4, 1), event(6, 1)]);
        tail.push(vec![event(7, 1)]);
        assert_eq!(positions(&tail, 2, 7, 9), None);
        assert_eq!(positions(&tail, 3, 7, 9), Some(vec![4, 6, 7]));
        assert_eq!(positions(&tail, 4, 6, 9), Some(vec![6]));
        assert_eq!(positions(&tail, 3, 7, 2), Some(vec![4, 6]));
        assert_eq!(positions(&tail, 7, 7, 9), Some(vec![]));
        tail.reset(Position(5));
        assert_eq!(positions(&tail, 4, 7, 9), None);
    }

    #[test]
    fn it_stays_small() {
        let tail = Tail::new(Position(0));
        tail.push((1..=9).map(|at| event(at, BYTES / 4)).collect());
        assert_eq!(positions(&tail, 4, 9, 9), None);
        assert_eq!(positions(&tail, 5, 9, 9), Some(vec![6, 7, 8, 9]));
        tail.push((10..EVENTS as u64 + 20).map(|at| event(at, 1)).collect());
        assert_eq!(positions(&tail, 18, 99, 9), None);
        assert_eq!(positions(&tail, 19, 21, 9), Some(vec![20, 21]));
    }
}
