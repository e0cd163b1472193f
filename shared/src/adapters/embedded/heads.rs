//! Where each stream ends: rows of `heads` that are as old as they like, and in memory what
//! the log has added since. To write a row with every append would cost more than all else
//! of it, for the engine has to find a place among all streams; here rows wait and are
//! carried in the order of their keys, some with each group, so that neighbours share the
//! search and a stream that is appended to often is written once in a while.
//!
//! Nothing is lost with what waits: a row in `meta` says up to which position all heads are
//! in their rows, and the rest is read from the log at the start.

use std::collections::BTreeMap;

use fjall::Keyspace;
use parking_lot::Mutex;

use super::engine::{Head, failed, head_key, missing};
use super::streams::Streams;
use crate::domain::stream::{Position, RecordedEvent, Revision, StreamId};
use crate::ports::StoreError;

/// When more streams than this wait, all that wait are carried.
const ROOM: usize = if cfg!(test) { 8 } else { 64 * 1024 };
/// Nor does a start read more events than about this, and as many as come while they are
/// carried.
const EVENTS: u64 = 4 * ROOM as u64;
/// How many are carried for each append: what waits becomes less while more comes.
const EACH: usize = 2;

pub(super) struct Heads {
    rows: Keyspace,
    streams: Streams,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    /// By their keys, as numbers.
    heads: BTreeMap<u128, (StreamId, Head)>,
    /// What all rows know.
    carried: Position,
    /// Whether a row in `meta` says so. A store of an earlier version has none.
    is_noted: bool,
    round: Option<Round>,
}

/// What waits is being carried.
#[derive(Clone, Copy)]
struct Round {
    /// All in front of this key have been.
    next: u128,
    /// Heads up to this position were there when it began.
    to: Position,
}

/// What is carried with a group.
pub(super) struct Carry {
    pub(super) rows: Vec<([u8; 16], Vec<u8>)>,
    /// What is to be noted: with this group all rows are so far.
    pub(super) note: Option<Position>,
    round: Option<Round>,
}

impl Heads {
    /// The heads whose rows are complete up to a position, which is noted or not yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn new(rows: Keyspace, carried: Position, is_noted: bool) -> std::io::Result<Self> {
        let streams = Streams::of(rows.clone())?;
        let waiting = Waiting { heads: BTreeMap::new(), carried, is_noted, round: None };
        Ok(Self { rows, streams, waiting: Mutex::new(waiting) })
    }

    pub(super) fn rows(&self) -> &Keyspace {
        &self.rows
    }

    /// Up to where no event need be read at the start.
    pub(super) fn carried(&self) -> Position {
        self.waiting.lock().carried
    }

    /// Takes up an event that is in the log; to be called for all behind `carried`, in
    /// their order, before anything else.
    pub(super) fn take_up(&self, event: &RecordedEvent) -> Result<(), StoreError> {
        let RecordedEvent { position, stream, revision, .. } = event;
        let known = self.get(stream)?;
        if known.is_some_and(|known| known.position >= *position) {
            return Ok(());
        }
        // Where a repair could not save the first event its position is not known any more.
        let lost = if *revision == Revision::FIRST { *position } else { Position::START };
        let first = known.map_or(lost, |known| known.first);
        let head = Head { revision: *revision, position: *position, first };
        let key = head_key(stream);
        self.streams.add(&key);
        self.waiting.lock().heads.insert(u128::from_be_bytes(key), (stream.clone(), head));
        Ok(())
    }

    pub(super) fn get(&self, stream: &StreamId) -> Result<Option<Head>, StoreError> {
        let key = head_key(stream);
        let waits = self.waiting.lock().heads.get(&u128::from_be_bytes(key)).cloned();
        let head = match waits {
            Some((of, head)) => (of == *stream).then_some(head),
            None => match self.rows.get(key).map_err(failed)? {
                Some(bytes) => Head::from_bytes(&bytes, stream),
                None => return Ok(None),
            },
        };
        head.map(Some).ok_or_else(|| missing(format!("the head of stream {stream:?}")))
    }

    /// As `get`, by whoever appends: what is new is not searched for.
    pub(super) fn get_before_append(&self, stream: &StreamId) -> Result<Option<Head>, StoreError> {
        if self.streams.may_have(&head_key(stream)) { self.get(stream) } else { Ok(None) }
    }

    /// To be told of a stream before its first event is written.
    pub(super) fn begins(&self, stream: &StreamId) {
        self.streams.add(&head_key(stream));
    }

    /// What to carry with a group of so many appends behind a position.
    pub(super) fn carry(&self, appends: usize, durable: Position) -> Carry {
        let waiting = self.waiting.lock();
        let mut carry = Carry { rows: Vec::new(), note: None, round: waiting.round };
        if !waiting.is_noted {
            carry.note = Some(waiting.carried);
        } else if appends > 0 {
            let many = waiting.heads.len() > ROOM || durable.0.saturating_sub(waiting.carried.0) > EVENTS;
            let begun = || many.then_some(Round { next: 0, to: durable });
            let Some(round) = waiting.round.or_else(begun) else { return carry };
            let mut next = waiting.heads.range(round.next..);
            let some = next.by_ref().take(appends * EACH);
            carry.rows.extend(some.map(|(key, (stream, head))| (key.to_be_bytes(), head.to_bytes(stream))));
            carry.round = next.next().map(|(key, _)| Round { next: *key, to: round.to });
            carry.note = carry.round.is_none().then_some(round.to);
        }
        carry
    }

    /// What was carried is stored, and with it a group that leaves these heads.
    pub(super) fn stored(&self, carry: Carry, heads: Vec<(StreamId, Head)>) {
        let mut waiting = self.waiting.lock();
        for (key, _) in &carry.rows {
            waiting.heads.remove(&u128::from_be_bytes(*key));
        }
        if let Some(carried) = carry.note {
            waiting.carried = carried;
            waiting.is_noted = true;
        }
        waiting.round = carry.round;
        for (stream, head) in heads {
            waiting.heads.insert(u128::from_be_bytes(head_key(&stream)), (stream, head));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::domain::stream::{Metadata, NewEvent};
    use crate::domain::time::Timestamp;

    fn stream(number: u64) -> StreamId {
        StreamId::from_stored(&format!("answer-{number}"))
    }

    fn event(stream: &StreamId, head: Head) -> RecordedEvent {
        let metadata = Metadata { schema: 1, recorded_at: Timestamp::from_micros(0) };
        let event = NewEvent { id: Uuid::nil(), kind: "a".into(), data: Bytes::new(), metadata };
        RecordedEvent { position: head.position, stream: stream.clone(), revision: head.revision, event }
    }

    /// Writes what a group carries as the log's writer does.
    fn group(db: &fjall::Database, heads: &Heads, noted: &mut Position, appends: Vec<(StreamId, Head)>, behind: u64) {
        let carry = heads.carry(appends.len(), Position(behind));
        let mut batch = db.batch();
        for (key, row) in &carry.rows {
            batch.insert(heads.rows(), *key, row.as_slice());
        }
        batch.commit().expect("written");
        *noted = carry.note.unwrap_or(*noted);
        heads.stored(carry, appends);
    }

    #[test]
    fn heads_wait_are_carried_and_are_read_from_the_log_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(folder.path()).open().expect("opened");
        let rows = db.keyspace("heads", fjall::KeyspaceCreateOptions::default).expect("made");
        let mut noted = Position::START;
        let (mut log, mut ends) = (Vec::new(), HashMap::<u64, Head>::new());
        let mut heads = Heads::new(rows.clone(), noted, true).expect("started");
        let mut most = 0;
        for round in 0..400_u64 {
            // Some streams are appended to again and again, most are new.
            let numbers = [round % 3, 100 + round * 2, 101 + round * 2];
            let appends = numbers.map(|number| {
                let position = Position(log.len() as u64 + 1);
                let known = ends.get(&number).copied();
                let revision = known.map_or(Revision::FIRST, |known| known.revision.next());
                let head = Head { revision, position, first: known.map_or(position, |known| known.first) };
                assert_eq!(heads.get_before_append(&stream(number)).expect("readable"), known);
                heads.begins(&stream(number));
                log.push(event(&stream(number), head));
                ends.insert(number, head);
                (stream(number), head)
            });
            group(&db, &heads, &mut noted, appends.to_vec(), log.len() as u64 - 3);
            most = most.max(heads.waiting.lock().heads.len());
            if round % 50 == 49 {
                drop(heads);
                heads = Heads::new(rows.clone(), noted, true).expect("started");
                let behind = log.iter().filter(|event| event.position > noted);
                behind.for_each(|event| heads.take_up(event).expect("taken up"));
                for (number, head) in &ends {
                    assert_eq!(heads.get(&stream(*number)).expect("readable"), Some(*head), "stream {number}");
                }
            }
        }
        assert!(most < ROOM * 8, "{most} heads waited");
        assert!(log.len() as u64 - noted.0 < EVENTS * 2, "{noted} is noted of {}", log.len());
        assert_eq!(heads.get(&stream(9_999)).expect("readable"), None);
    }

    #[test]
    fn a_stream_that_is_appended_to_forever_is_carried_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(folder.path()).open().expect("opened");
        let rows = db.keyspace("heads", fjall::KeyspaceCreateOptions::default).expect("made");
        let (heads, mut noted) = (Heads::new(rows, Position::START, true).expect("started"), Position::START);
        for number in 1..=10 * EVENTS {
            let head = Head { revision: Revision(number - 1), position: Position(number), first: Position(1) };
            group(&db, &heads, &mut noted, vec![(stream(1), head)], number - 1);
        }
        assert!(noted.0 > 8 * EVENTS, "{noted} is noted");
    }

    #[test]
    fn a_store_without_a_note_gets_one_with_its_next_group() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(folder.path()).open().expect("opened");
        let rows = db.keyspace("heads", fjall::KeyspaceCreateOptions::default).expect("made");
        let head = Head { revision: Revision(0), position: Position(7), first: Position(7) };
        rows.insert(head_key(&stream(1)), head.to_bytes(&stream(1))).expect("inserted");
        let heads = Heads::new(rows, Position(7), false).expect("started");
        let carry = heads.carry(0, Position(7));
        assert_eq!((carry.note, carry.rows.len()), (Some(Position(7)), 0));
        heads.stored(carry, Vec::new());
        assert_eq!(heads.carry(0, Position(7)).note, None);
        assert_eq!(heads.get(&stream(1)).expect("readable"), Some(head));
    }

    #[test]
    fn what_lies_before_the_rows_is_not_taken_up_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(folder.path()).open().expect("opened");
        let rows = db.keyspace("heads", fjall::KeyspaceCreateOptions::default).expect("made");
        let first = Head { revision: Revision(0), position: Position(1), first: Position(1) };
        let last = Head { revision: Revision(1), position: Position(2), ..first };
        rows.insert(head_key(&stream(1)), last.to_bytes(&stream(1))).expect("inserted");
        let heads = Heads::new(rows, Position::START, true).expect("started");
        heads.take_up(&event(&stream(1), first)).expect("taken up");
        heads.take_up(&event(&stream(1), last)).expect("taken up");
        assert_eq!(heads.get(&stream(1)).expect("readable"), Some(last));
        assert_eq!(heads.waiting.lock().heads.len(), 0);
    }
}
