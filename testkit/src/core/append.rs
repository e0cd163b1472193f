//! Appends, and when they are refused or known already.

use bytes::Bytes;
use uuid::Uuid;

use super::metadata::{DELETED, with_truncate_before};
use super::record::{Proposed, Record, Text};
use super::state::State;
use super::{Expected, Fault};

/// What a call that was taken comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Of the last event; `None` if the stream has none.
    pub(crate) revision: Option<u64>,
    /// `None` where the event cannot be read any more.
    pub(crate) position: Option<u64>,
}

enum Verdict {
    Append,
    /// The events are there; the last of them has this revision.
    Known(u64),
}

impl State {
    /// Appends all events or none.
    pub(crate) fn append(
        &mut self,
        stream: &Text,
        expected: Expected,
        events: Vec<Proposed>,
        now: i64,
    ) -> Result<Written, Fault> {
        match self.check(stream, expected, &events)? {
            Verdict::Known(revision) => Ok(self.known(stream, revision, now)),
            Verdict::Append if events.is_empty() => {
                let revision = self.stream(stream).and_then(|stream| stream.last());
                Ok(Written { revision, position: Some(self.last_position()) })
            }
            Verdict::Append => {
                let deleted = self.deleted(stream);
                let written = self.write(stream, self.next(stream), events, now);
                if let Some((name, next)) = deleted {
                    self.revive(&name, next, now);
                }
                Ok(written)
            }
        }
    }

    /// Hides all events until the next append.
    pub(crate) fn delete(&mut self, stream: &Text, expected: Expected, now: i64) -> Result<Written, Fault> {
        self.check(stream, expected, &[])?;
        let metadata = stream.metadata_stream();
        if self.next(stream) == 0 && self.next(&metadata) == 0 {
            return Err(wrong_version(stream, expected, None));
        }
        let event = metadata_event(with_truncate_before(b"", DELETED));
        Ok(self.write(&metadata, self.next(&metadata), vec![event], now))
    }

    /// Ends a stream for good.
    pub(crate) fn bury(&mut self, stream: &Text, expected: Expected, now: i64) -> Result<Written, Fault> {
        self.check(stream, expected, &[])?;
        let event = system_event("$streamDeleted", false, Bytes::new());
        Ok(self.write(stream, DELETED, vec![event], now))
    }

    /// The one event of a fresh log.
    pub(crate) fn begin(&mut self, now: i64) {
        let event = metadata_event(br#"{"$maxAge":2592000}"#.to_vec());
        self.write(&"$$$scavenges".into(), 0, vec![event], now);
    }

    fn check(&self, name: &Text, expected: Expected, events: &[Proposed]) -> Result<Verdict, Fault> {
        if self.tombstone(name, self.len()).is_some() {
            return Err(Fault::StreamDeleted { stream: name.clone() });
        }
        let stream = self.stream(name);
        let last = stream.and_then(|stream| stream.last());
        let deleted = stream.is_some_and(|stream| stream.limits.deleted());
        let wrong = || wrong_version(name, expected, last);
        let behind = match expected {
            Expected::Exists if deleted => return Err(Fault::StreamDeleted { stream: name.clone() }),
            Expected::Exists if last.is_none() && self.next(&name.metadata_stream()) == 0 => {
                return Err(wrong());
            }
            Expected::Any | Expected::Exists => return self.check_recent(name, events).ok_or_else(wrong),
            Expected::NoStream if last.is_none() => return Ok(Verdict::Append),
            Expected::NoStream => 0,
            Expected::Exact(revision) if Some(revision) == last => return Ok(Verdict::Append),
            Expected::Exact(revision) if Some(revision) > last => return Err(wrong()),
            Expected::Exact(revision) => revision + 1,
        };
        let matching = events.iter().zip(behind..).take_while(|(event, revision)| {
            let index = stream.and_then(|stream| stream.events.get(*revision as usize));
            index.is_some_and(|index| self.record(*index).event.id == event.id)
        });
        match matching.count() {
            0 if deleted && expected == Expected::NoStream && !events.is_empty() => Ok(Verdict::Append),
            count if count == events.len() && count > 0 => Ok(Verdict::Known(behind + count as u64 - 1)),
            _ => Err(wrong()),
        }
    }

    /// Without a revision to compare at, only ids of late are known. `None` if the
    /// events are known in part.
    fn check_recent(&self, name: &Text, events: &[Proposed]) -> Option<Verdict> {
        let mut known = events.iter().map(|event| self.recent(name, event.id));
        let Some(Some(mut revision)) = known.next() else { return Some(Verdict::Append) };
        for next in known {
            revision = next?;
        }
        Some(Verdict::Known(revision))
    }

    fn known(&self, name: &Text, revision: u64, now: i64) -> Written {
        let position = self.stream(name).and_then(|stream| {
            let first = self.first_readable(name, stream, stream.events.len() as u64, now);
            (first <= revision).then(|| self.record(stream.events[revision as usize]).position)
        });
        Written { revision: Some(revision), position }
    }

    fn write(&mut self, stream: &Text, first: u64, events: Vec<Proposed>, now: i64) -> Written {
        // Every record of a stream shares the memory of its name.
        let stream = match self.stream(stream).and_then(|stream| stream.events.first()) {
            Some(index) => self.record(*index).stream.clone(),
            None => Text::from(stream.to_string()),
        };
        for (event, revision) in events.into_iter().zip(first..) {
            let id = event.id;
            self.push(Record { position: self.end(), stream: stream.clone(), revision, created: now, event });
            self.remember(&stream, id, revision);
        }
        let last = self.log.last().expect("written just now");
        Written { revision: Some(last.revision), position: Some(last.position) }
    }

    /// The deleted stream that a write to this one brings back: itself, or the one
    /// that it describes. With where it goes on.
    fn deleted(&self, name: &Text) -> Option<(Text, u64)> {
        let name = name.described().unwrap_or_else(|| name.clone());
        let stream = self.stream(&name)?;
        stream.limits.deleted().then_some((name, stream.events.len() as u64))
    }

    /// Shows a deleted stream again, from here on.
    fn revive(&mut self, name: &Text, from: u64, now: i64) {
        let metadata = name.metadata_stream();
        let current = self.stream(&metadata).and_then(|stream| stream.events.last());
        let data = current.map_or(Bytes::new(), |index| self.record(*index).event.data.clone());
        let event = metadata_event(with_truncate_before(&data, from));
        self.write(&metadata, self.next(&metadata), vec![event], now);
    }

    /// The revision of a stream's next event.
    fn next(&self, name: &Text) -> u64 {
        self.stream(name).map_or(0, |stream| stream.events.len() as u64)
    }

    fn last_position(&self) -> u64 {
        self.log.last().map_or(0, |record| record.position)
    }
}

fn wrong_version(stream: &Text, expected: Expected, current: Option<u64>) -> Fault {
    Fault::WrongExpectedVersion { stream: stream.clone(), expected, current }
}

fn metadata_event(data: Vec<u8>) -> Proposed {
    system_event("$metadata", true, data.into())
}

fn system_event(kind: &'static str, json: bool, data: Bytes) -> Proposed {
    Proposed { id: Uuid::new_v4(), kind: kind.into(), json, metadata: Bytes::new(), data }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{append, describe, event};
    use super::*;
    use Expected::{Any, Exact, Exists, NoStream};

    /// A stream `a` with events of the ids 0, 1, 2.
    fn three() -> State {
        let mut state = State::default();
        assert_eq!(append(&mut state, "a", NoStream, 0..3), Ok(Some(2)));
        state
    }

    fn wrong(expected: Expected, current: Option<u64>) -> Result<Option<u64>, Fault> {
        Err(wrong_version(&"a".into(), expected, current))
    }

    #[test]
    fn the_expected_revision_must_be_the_last() {
        let mut state = three();
        assert_eq!(append(&mut state, "a", NoStream, [9]), wrong(NoStream, Some(2)));
        assert_eq!(append(&mut state, "a", Exact(1), [9]), wrong(Exact(1), Some(2)));
        assert_eq!(append(&mut state, "a", Exact(3), [9]), wrong(Exact(3), Some(2)));
        assert_eq!(append(&mut state, "a", Exact(2), [9]), Ok(Some(3)));
        assert_eq!(append(&mut state, "a", Exists, [8]), Ok(Some(4)));
        let mut state = State::default();
        assert_eq!(append(&mut state, "a", Exists, [1]), wrong(Exists, None));
        assert_eq!(append(&mut state, "a", Exact(0), [1]), wrong(Exact(0), None));
        assert_eq!(append(&mut state, "a", Any, [1]), Ok(Some(0)));
    }

    #[test]
    fn events_that_are_there_are_not_appended_again() {
        let mut state = three();
        let length = state.len();
        assert_eq!(append(&mut state, "a", NoStream, 0..3), Ok(Some(2)));
        assert_eq!(append(&mut state, "a", NoStream, 0..2), Ok(Some(1)));
        assert_eq!(append(&mut state, "a", Exact(0), [1]), Ok(Some(1)));
        assert_eq!(append(&mut state, "a", Any, [1]), Ok(Some(1)));
        assert_eq!(append(&mut state, "a", NoStream, 0..4), wrong(NoStream, Some(2)));
        assert_eq!(append(&mut state, "a", Any, [1, 9]), wrong(Any, Some(2)));
        assert_eq!(append(&mut state, "a", NoStream, []), wrong(NoStream, Some(2)));
        assert_eq!(state.len(), length);
    }

    #[test]
    fn a_known_id_is_appended_at_the_end() {
        let mut state = three();
        assert_eq!(append(&mut state, "a", Exact(2), [0]), Ok(Some(3)));
        assert_eq!(append(&mut state, "a", Any, [9, 0]), Ok(Some(5)));
        state.forget_recent();
        assert_eq!(append(&mut state, "a", Any, [0]), Ok(Some(6)));
    }

    #[test]
    fn nothing_is_appended_where_it_is_expected() {
        let mut state = State::default();
        assert_eq!(append(&mut state, "a", NoStream, []), Ok(None));
        assert!(state.stream(&"a".into()).is_none());
        let mut state = three();
        assert_eq!(append(&mut state, "a", Exact(2), []), Ok(Some(2)));
        assert_eq!(append(&mut state, "a", Any, []), Ok(Some(2)));
    }

    #[test]
    fn a_deleted_stream_goes_on_behind_its_end() {
        for expected in [Any, NoStream, Exact(2)] {
            let mut state = three();
            state.delete(&"a".into(), Exact(2), 0).unwrap();
            assert_eq!(append(&mut state, "a", Exists, [9]), Err(Fault::StreamDeleted { stream: "a".into() }));
            assert_eq!(append(&mut state, "a", expected, [9]), Ok(Some(3)));
            let stream = state.stream(&"a".into()).unwrap();
            assert_eq!(stream.limits.truncate_before, Some(3));
            assert_eq!(state.next(&"$$a".into()), 2);
            assert_eq!(append(&mut state, "a", NoStream, [8]), wrong(NoStream, Some(3)));
        }
    }

    #[test]
    fn events_before_a_deletion_are_known_without_a_position() {
        let mut state = three();
        state.delete(&"a".into(), Any, 0).unwrap();
        let known = state.append(&"a".into(), NoStream, vec![event(0), event(1)], 0);
        assert_eq!(known, Ok(Written { revision: Some(1), position: None }));
        assert_eq!(append(&mut state, "a", NoStream, [0, 9]), wrong(NoStream, Some(2)));
    }

    #[test]
    fn metadata_brings_a_stream_back() {
        let mut state = three();
        state.delete(&"a".into(), Any, 0).unwrap();
        describe(&mut state, "a", r#"{"$maxCount":5,"mine":1}"#);
        let limits = state.stream(&"a".into()).unwrap().limits;
        assert_eq!((limits.max_count, limits.truncate_before), (Some(5), Some(3)));
    }

    #[test]
    fn only_what_is_there_is_deleted() {
        let mut state = State::default();
        assert_eq!(state.delete(&"a".into(), Any, 0), Err(wrong_version(&"a".into(), Any, None)));
        describe(&mut state, "a", "{}");
        state.delete(&"a".into(), NoStream, 0).unwrap();
        let mut state = State::default();
        describe(&mut state, "a", "{}");
        assert_eq!(append(&mut state, "a", Exists, [1]), Ok(Some(0)));
    }

    #[test]
    fn a_tombstone_is_the_end() {
        let mut state = three();
        assert_eq!(state.bury(&"a".into(), Exact(1), 0), Err(wrong_version(&"a".into(), Exact(1), Some(2))));
        assert_eq!(state.bury(&"a".into(), Exact(2), 0).unwrap().revision, Some(DELETED));
        for stream in ["a", "$$a"] {
            let gone = Err(Fault::StreamDeleted { stream: stream.into() });
            assert_eq!(append(&mut state, stream, Any, [9]), gone);
        }
        assert!(state.bury(&"a".into(), Any, 0).is_err());
        state.bury(&"missing".into(), NoStream, 0).unwrap();
    }

    #[test]
    fn positions_grow_by_what_records_take() {
        let state = three();
        let records = state.since(0);
        assert!(records[0].position > 0);
        for pair in records.windows(2) {
            assert_eq!(pair[0].position + pair[0].length(), pair[1].position);
        }
        assert_eq!(state.end(), records[2].position + records[2].length());
    }
}
