//! What `ViewReader` and `ViewWriter` promise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{DEADLINE, soon};
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::{AnswerChange, Changes};
use crate::domain::stream::{Position, Revision};
use crate::ports::{AnswersQuery, Checkpoint, Generation, LogId, StoreError, ViewReader, ViewWriter};

/// The log that the views are told of.
pub(super) const LOG: LogId = LogId(Uuid::from_u128(0x6d5f_5e0a_9c1e_4f0b_8a53_27f1_c0de_0001));
/// How long readers and the writer race.
const RACE: Duration = Duration::from_millis(2_500);
/// Keys that they race for; every fourth is removed now and then.
const RACED_KEYS: usize = 8;
const READERS: usize = 8;
const LARGE: usize = 512 * 1024;

/// Views of answers, which nobody else writes meanwhile.
///
/// # Panics
/// If the views break a promise.
pub async fn views(reader: Arc<dyn ViewReader>, writer: Arc<dyn ViewWriter>) {
    let at = soon("the checkpoint", writer.resume(LOG, Position::MAX)).await.expect("a checkpoint");
    let mut views = Views { reader, writer, at };
    views.answers_are_put_and_removed().await;
    views.the_last_change_of_a_key_counts().await;
    views.changes_may_be_none().await;
    views.another_checkpoint_is_a_conflict().await;
    views.what_was_reached_is_not_applied_again().await;
    views.values_are_kept_as_they_are().await;
    views.keys_are_listed_by_their_bytes().await;
    views.prefixes_end_where_they_should().await;
    views.lists_show_what_was_applied_last().await;
    views.large_pages_are_read_whole().await;
    views.waiters_wake_when_they_should().await;
    views.nobody_sees_less_than_was_reached().await;
}

struct Views {
    reader: Arc<dyn ViewReader>,
    writer: Arc<dyn ViewWriter>,
    at: Checkpoint,
}

/// The beginning of keys that nobody else has.
fn fresh() -> String {
    format!("{}-", Uuid::new_v4())
}

fn key(text: impl AsRef<str>) -> Key {
    Key::from_stored(text.as_ref())
}

fn query(prefix: &str, after: Option<&str>, limit: usize) -> AnswersQuery {
    AnswersQuery { prefix: prefix.into(), after: after.map(Into::into), limit }
}

fn number_in(answer: &Answer) -> u64 {
    answer.value.parse().expect("a number")
}

impl Views {
    /// Changes in the order of the log, with gaps between them.
    fn changes(&self, changes: &[(&Key, Option<&str>)]) -> Vec<AnswerChange> {
        let positions = (1..).map(|step| Position(self.at.position().0 + 3 * step));
        let change = |((key, value), position): (&(&Key, Option<&str>), Position)| AnswerChange {
            key: (*key).clone(),
            value: value.map(Into::into),
            revision: Revision(position.0 / 2),
            position,
        };
        changes.iter().zip(positions).map(change).collect()
    }

    /// Applies changes and moves on behind the last.
    async fn apply(&mut self, changes: &[(&Key, Option<&str>)]) -> Vec<AnswerChange> {
        let changes = self.changes(changes);
        let to = changes.last().map_or(self.at, |last| Checkpoint::at(last.position));
        soon("apply", self.writer.apply(Generation::Live, self.at, changes.clone().into(), to)).await.expect("applied");
        self.at = to;
        soon("the position that was applied", self.reader.reached(to.position())).await.expect("reached");
        changes
    }

    async fn answer(&self, key: &Key) -> Option<(Arc<str>, Revision)> {
        let seen = soon("an answer", self.reader.answer(key)).await.expect("answers can be read");
        assert!(seen.position <= self.at.position(), "a position that nothing has reached yet: {}", seen.position);
        seen.found.map(|answer| {
            assert_eq!(&answer.key, key, "the answer of another key");
            (answer.value, answer.revision)
        })
    }

    async fn holds(&self, change: &AnswerChange, why: &str) {
        let expected = change.value.clone().map(|value| (value, change.revision));
        assert_eq!(self.answer(&change.key).await, expected, "{why}");
    }

    async fn page(&self, query: AnswersQuery) -> (Vec<String>, bool) {
        let seen = soon("a page", self.reader.answers(query.clone())).await.expect("answers can be listed");
        assert!(seen.position <= self.at.position(), "a position that nothing has reached yet: {}", seen.position);
        let keys: Vec<_> = seen.found.answers.iter().map(|answer| answer.key.as_str().to_owned()).collect();
        assert!(keys.len() <= query.limit, "{} answers, more than {}", keys.len(), query.limit);
        (keys, seen.found.more)
    }

    async fn checkpoint_is(&self, at: Checkpoint, why: &str) {
        assert_eq!(
            soon("the checkpoint", self.writer.resume(LOG, Position::MAX)).await.expect("a checkpoint"),
            at,
            "{why}"
        );
        let read = soon("the checkpoint", self.reader.checkpoint()).await.expect("a checkpoint");
        assert_eq!(read.position(), at.position(), "{why}, for readers");
    }

    async fn answers_are_put_and_removed(&mut self) {
        let (a, b) = (key(fresh()), key(fresh()));
        assert_eq!(self.answer(&a).await, None, "a key without an answer");
        let put = self.apply(&[(&a, Some("1")), (&b, Some("2"))]).await;
        self.checkpoint_is(self.at, "after apply").await;
        self.holds(&put[0], "a put").await;
        self.holds(&put[1], "another put").await;
        let put = self.apply(&[(&a, Some("3"))]).await;
        self.holds(&put[0], "a second put").await;
        let removed = self.apply(&[(&a, None)]).await;
        self.holds(&removed[0], "a removal").await;
        assert!(self.answer(&b).await.is_some(), "the removal of another key");
        let absent = key(fresh());
        self.apply(&[(&absent, None), (&a, None)]).await;
        assert_eq!(self.answer(&absent).await, None, "the removal of nothing");
        let put = self.apply(&[(&a, Some("4"))]).await;
        self.holds(&put[0], "a put after a removal").await;
        let listed = self.page(query(a.as_str(), None, 5)).await;
        assert_eq!(listed, (vec![a.as_str().to_owned()], false), "a list shows what there is");
    }

    async fn the_last_change_of_a_key_counts(&mut self) {
        let (a, b, c) = (key(fresh()), key(fresh()), key(fresh()));
        let changes = self
            .apply(&[
                (&a, Some("1")),
                (&b, Some("1")),
                (&a, Some("2")),
                (&c, None),
                (&b, None),
                (&a, None),
                (&c, Some("1")),
                (&a, Some("3")),
            ])
            .await;
        self.holds(&changes[7], "put, put, removed, put").await;
        self.holds(&changes[4], "put, removed").await;
        self.holds(&changes[6], "removed, put").await;
    }

    async fn changes_may_be_none(&mut self) {
        self.apply(&[]).await;
        self.checkpoint_is(self.at, "where nothing changed").await;
        // Events that change nothing move the checkpoint too.
        let to = Checkpoint::at(Position(self.at.position().0 + 10));
        self.writer.apply(Generation::Live, self.at, Changes::default(), to).await.expect("applied");
        self.at = to;
        soon("a position without changes", self.reader.reached(to.position())).await.expect("reached");
        self.checkpoint_is(self.at, "behind events that change nothing").await;
    }

    async fn another_checkpoint_is_a_conflict(&mut self) {
        let a = key(fresh());
        let before = self.at;
        let put = self.apply(&[(&a, Some("1"))]).await;
        let late = self.changes(&[(&a, Some("2"))]);
        let to = Checkpoint::at(late[0].position);
        let ahead = Checkpoint::at(Position(self.at.position().0 + 1));
        for from in [before, Checkpoint::START, ahead, to] {
            let applied = soon("apply", self.writer.apply(Generation::Live, from, late.clone().into(), to)).await;
            assert!(matches!(applied, Err(StoreError::Conflict)), "from {from:?}: {applied:?}");
            self.checkpoint_is(self.at, "after a conflict").await;
            self.holds(&put[0], "a conflict changes nothing").await;
        }
    }

    async fn what_was_reached_is_not_applied_again(&mut self) {
        let (a, b, new) = (key(fresh()), key(fresh()), key(fresh()));
        let put = self.apply(&[(&a, Some("1")), (&b, Some("1"))]).await;
        let removed = self.apply(&[(&b, None)]).await;
        let mut again = vec![
            AnswerChange { value: Some("late".into()), ..put[0].clone() },
            AnswerChange { value: Some("late".into()), ..put[1].clone() },
            AnswerChange { value: Some("late".into()), ..removed[0].clone() },
        ];
        again.extend(self.changes(&[(&new, Some("1"))]));
        let to = Checkpoint::at(again[3].position);
        self.writer.apply(Generation::Live, self.at, again.clone().into(), to).await.expect("applied");
        self.at = to;
        soon("the position that was applied", self.reader.reached(to.position())).await.expect("reached");
        self.holds(&put[0], "a position that was reached puts nothing").await;
        self.holds(&removed[0], "a late put does not undo a removal").await;
        self.holds(&again[3], "what is new is applied").await;
    }

    async fn values_are_kept_as_they_are(&mut self) {
        let large = "\u{1f600}x\"".repeat(LARGE / 6);
        for value in ["\u{0}", "a\u{0}b", "\"\\\n\u{1f}", "ß漢😀\u{fffd}\u{10ffff}", " ", "1", "null", &large] {
            let text = format!("{}é漢😀'%_\"\\*", fresh());
            let put = self.apply(&[(&key(&text), Some(value))]).await;
            self.holds(&put[0], "a value").await;
            let seen = self.reader.answers(query(&text, None, 1)).await.expect("answers can be listed");
            assert_eq!(seen.found.answers.first().map(|answer| &*answer.value), Some(value), "a value in a list");
        }
        // Keys that differ in case, accents or the end are different keys.
        let base = fresh();
        let keys: Vec<_> =
            ["a", "A", "á", "a\u{301}", "a ", "a  "].iter().map(|end| key(format!("{base}{end}"))).collect();
        for key in &keys {
            self.apply(&[(key, Some(key.as_str()))]).await;
        }
        for key in &keys {
            assert_eq!(self.answer(key).await.map(|(value, _)| value).as_deref(), Some(key.as_str()));
        }
    }

    async fn put_all(&mut self, keys: impl Iterator<Item = String>) -> BTreeMap<String, ()> {
        let keys: Vec<_> = keys.map(key).collect();
        self.apply(&keys.iter().map(|key| (key, Some("v"))).collect::<Vec<_>>()).await;
        keys.iter().map(|key| (key.as_str().to_owned(), ())).collect()
    }

    async fn keys_are_listed_by_their_bytes(&mut self) {
        let base = fresh();
        let ends =
            ["\u{1f600}", "\u{fffd}", "b", "B", "", "a", "aa", "ab", "é", "~", "\u{ff}", "\u{7ff}", "\u{800}", "é/"];
        let keys = self.put_all(ends.iter().map(|end| format!("{base}{end}"))).await;
        let place = |end: &str| keys.keys().position(|key| *key == format!("{base}{end}"));
        assert!(place("\u{fffd}") < place("\u{1f600}"), "the order of bytes, not of UTF-16");
        for limit in [1, 2, 5, keys.len() - 1, keys.len(), 100] {
            for after in std::iter::once(None).chain(keys.keys().map(Some)) {
                let behind: Vec<_> = keys.keys().filter(|key| Some(*key) > after).cloned().collect();
                let expected = behind.iter().take(limit).cloned().collect();
                let page = self.page(query(&base, after.map(String::as_str), limit)).await;
                assert_eq!(page, (expected, behind.len() > limit), "after {after:?}, limit {limit}");
            }
        }
        let all: Vec<_> = keys.keys().cloned().collect();
        let between = format!("{base}a0");
        let behind: Vec<_> = keys.keys().filter(|key| **key > between).cloned().collect();
        assert_eq!(
            self.page(query(&base, Some(&between), 100)).await,
            (behind, false),
            "after a key that is not there"
        );
        assert_eq!(self.page(query(&base, Some("\u{1}"), 100)).await, (all, false), "after a key before the prefix");
        assert_eq!(self.page(query(&base, Some("\u{10ffff}"), 100)).await, (vec![], false), "after a key behind it");
    }

    async fn prefixes_end_where_they_should(&mut self) {
        let base = fresh();
        let ends = [
            "a",
            "a%",
            "a_",
            "ab",
            "a*",
            "a\u{d7ff}",
            "a\u{d7ff}x",
            "a\u{e000}",
            "a\u{10fffe}",
            "a\u{10ffff}",
            "a\u{10ffff}\u{10ffff}",
            "a\u{10ffff}z",
            "b",
            "B",
            "\u{7f}",
            "\u{80}x",
            "\u{7ff}y",
            "\u{800}",
            "\u{ffff}q",
            "\u{10000}q",
            "ß",
            "ss",
        ];
        let keys = self.put_all(ends.iter().map(|end| format!("{base}{end}"))).await;
        let mut prefixes: Vec<_> = keys.keys().cloned().collect();
        prefixes.extend(["", "c", "\u{ffff}", "\u{10000}"].map(|end| format!("{base}{end}")));
        for prefix in prefixes {
            let expected: Vec<_> = keys.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
            let page = self.page(query(&prefix, None, 100)).await;
            assert_eq!(page, (expected.clone(), false), "prefix {prefix:?}");
            let Some(first) = expected.first() else { continue };
            let page = self.page(query(&prefix, None, 1)).await;
            assert_eq!(page, (vec![first.clone()], expected.len() > 1), "the first with prefix {prefix:?}");
        }
    }

    /// Whether a change is old or new must not show, wherever an adapter keeps it.
    async fn lists_show_what_was_applied_last(&mut self) {
        for settle in [0, 50, 500].map(Duration::from_millis) {
            let base = fresh();
            let keys: Vec<_> = (0..40).map(|number| key(format!("{base}{number:02}"))).collect();
            self.apply(&keys.iter().map(|key| (key, Some("old"))).collect::<Vec<_>>()).await;
            tokio::time::sleep(settle).await;
            // Of the first thirty every fifth stays; of the others every second is new.
            let removed = keys[..30].iter().enumerate().filter(|(at, _)| at % 5 != 4).map(|(_, key)| (key, None));
            let renewed = keys[30..].iter().step_by(2).map(|key| (key, Some("new")));
            self.apply(&removed.chain(renewed).collect::<Vec<_>>()).await;
            let left = |(at, key): (usize, &Key)| match at {
                0..30 => (at % 5 == 4).then(|| (key.clone(), "old")),
                _ => Some((key.clone(), if at % 2 == 0 { "new" } else { "old" })),
            };
            let left: Vec<_> = keys.iter().enumerate().filter_map(left).collect();
            for limit in [1, 2, 3, 7, 100] {
                let mut read = Vec::new();
                loop {
                    let after = read.last().map(|(key, _): &(Key, _)| key.as_str().to_owned());
                    let page = self.reader.answers(query(&base, after.as_deref(), limit)).await.expect("listed").found;
                    assert!(page.answers.len() <= limit, "{} answers, more than {limit}", page.answers.len());
                    assert!(!page.more || !page.answers.is_empty(), "a page with more behind it holds something");
                    read.extend(page.answers.into_iter().map(|answer| (answer.key, answer.value)));
                    if !page.more {
                        break;
                    }
                }
                let read: Vec<_> = read.iter().map(|(key, value)| (key.clone(), &**value)).collect();
                assert_eq!(read, left, "pages of {limit}, {settle:?} after the first changes");
            }
        }
    }

    async fn large_pages_are_read_whole(&mut self) {
        let (base, value) = (fresh(), "x".repeat(LARGE - 1));
        let keys: Vec<_> = (0..40).map(|number| key(format!("{base}{number:02}"))).collect();
        for some in keys.chunks(5) {
            self.apply(&some.iter().map(|key| (key, Some(value.as_str()))).collect::<Vec<_>>()).await;
        }
        let mut read = Vec::new();
        loop {
            let after = read.last().map(String::as_str);
            let (page, more) = self.page(query(&base, after, 1_000)).await;
            assert!(!page.is_empty(), "a page of large answers holds something");
            read.extend(page);
            if !more {
                break;
            }
        }
        assert!(read.iter().eq(keys.iter().map(Key::as_str)), "pages of large answers: {read:?}");
    }

    async fn waiters_wake_when_they_should(&mut self) {
        let a = key(fresh());
        let now = self.at.position();
        soon("a position that was reached", self.reader.reached(now)).await.expect("reached");
        soon("the beginning", self.reader.reached(Position::START)).await.expect("reached");
        let next = self.changes(&[(&a, Some("1"))])[0].position;
        let (reader, a) = (self.reader.clone(), &a);
        let waiters: Vec<_> = (0..200)
            .map(|_| {
                let (reader, a) = (reader.clone(), a.clone());
                tokio::spawn(async move {
                    reader.reached(next).await.expect("reached");
                    reader.answer(&a).await.expect("read").found.is_some()
                })
            })
            .collect();
        let beyond = tokio::spawn({
            let reader = reader.clone();
            async move { reader.reached(Position(next.0 + 1)).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "a wait ends before the position was reached");
        self.apply(&[(a, Some("1"))]).await;
        for waiter in waiters {
            assert!(soon("a waiter", waiter).await.expect("it ends"), "a waiter that has woken sees the change");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!beyond.is_finished(), "a wait ends before the position was reached");
        self.apply(&[(a, Some("2"))]).await;
        soon("a waiter for a position without a change", beyond).await.expect("it ends").expect("reached");
    }

    async fn nobody_sees_less_than_was_reached(&mut self) {
        let race = Racing::start(&self.reader);
        let begun = Instant::now();
        for round in 0.. {
            if begun.elapsed() > RACE {
                break;
            }
            let changes = race.changes(round, self.at);
            let to = Checkpoint::at(changes.last().expect("at least one").position);
            soon("apply", self.writer.apply(Generation::Live, self.at, changes.into(), to)).await.expect("applied");
            self.at = to;
            if round % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        race.end().await;
    }
}

/// Readers at work: they fail where a read shows less than was reached.
pub(super) struct Racing {
    race: Arc<Race>,
    readers: Vec<JoinHandle<usize>>,
}

impl Racing {
    pub(super) fn start(reader: &Arc<dyn ViewReader>) -> Self {
        let base = fresh();
        let race = Arc::new(Race {
            reader: reader.clone(),
            keys: (0..RACED_KEYS).map(|number| key(format!("{base}{number}"))).collect(),
            due: (0..RACED_KEYS).map(|_| AtomicU64::new(0)).collect(),
            over: AtomicBool::new(false),
            base,
        });
        let reader = |number: usize| {
            let race = race.clone();
            tokio::spawn(async move { if number % 4 == 3 { race.list(number).await } else { race.read(number).await } })
        };
        let readers = (0..READERS).map(reader).collect();
        Self { race, readers }
    }

    /// The changes of a round, right behind a checkpoint: from one change to all keys in
    /// one apply, now and then a key twice. Readers wait for them from now on.
    pub(super) fn changes(&self, round: usize, at: Checkpoint) -> Vec<AnswerChange> {
        let race = &self.race;
        let some = (0..=(round * 7 % 10)).map(|at| ((round + at) % RACED_KEYS, at)).zip(at.position().0 + 1..);
        let changes: Vec<_> = some
            .map(|((at, twice), position)| AnswerChange {
                key: race.keys[at].clone(),
                value: (!(race.is_removed(at) && (round + twice).is_multiple_of(3)))
                    .then(|| position.to_string().into()),
                revision: Revision(position),
                position: Position(position),
            })
            .collect();
        for change in &changes {
            let at = race.keys.iter().position(|key| *key == change.key).expect("a raced key");
            race.due[at].store(change.position.0, Ordering::SeqCst);
        }
        changes
    }

    pub(super) async fn end(self) {
        self.race.over.store(true, Ordering::SeqCst);
        let mut reads = 0;
        for reader in self.readers {
            reads += tokio::time::timeout(DEADLINE, reader).await.expect("a reader ends").expect("a reader ends");
        }
        assert!(reads > 0, "nobody read anything");
    }
}

/// Readers of keys that a writer changes without a pause: the value of a key is
/// the position of its last change.
struct Race {
    reader: Arc<dyn ViewReader>,
    base: String,
    keys: Vec<Key>,
    /// Of each key, the position of the newest change that was handed to `apply`.
    due: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Race {
    /// Whether a key is removed now and then, so that it may be missing.
    fn is_removed(&self, at: usize) -> bool {
        at % 4 == 3
    }

    fn check(&self, at: usize, found: Option<u64>, least: u64, why: &str) {
        match found {
            Some(value) => assert!(value >= least, "{why}: {value} is older than {least}"),
            None => assert!(least == 0 || self.is_removed(at), "{why}: nothing, which is older than {least}"),
        }
    }

    async fn read(&self, number: usize) -> usize {
        let mut reads = 0;
        while !self.over.load(Ordering::SeqCst) {
            let at = (reads * 5 + number) % RACED_KEYS;
            let due = self.due[at].load(Ordering::SeqCst);
            // Some wait for what is on its way, some look at what there is.
            let least = if reads % 3 == 0 { 0 } else { due };
            self.reader.reached(Position(least)).await.expect("reached");
            let seen = self.reader.answer(&self.keys[at]).await.expect("read");
            let found = seen.found.as_ref().map(number_in);
            self.check(at, found, least, "behind an awaited position");
            self.reader.reached(seen.position).await.expect("reached");
            let again = self.reader.answer(&self.keys[at]).await.expect("read");
            let newer = again.found.as_ref().map(number_in);
            self.check(at, newer, found.unwrap_or(0), "behind the position of an earlier read");
            assert!(again.position >= seen.position, "a position that was awaited is reached");
            reads += 1;
            if reads % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        reads
    }

    async fn list(&self, number: usize) -> usize {
        let mut reads = 0;
        while !self.over.load(Ordering::SeqCst) {
            let due: Vec<_> = self.due.iter().map(|due| due.load(Ordering::SeqCst)).collect();
            let newest = due.iter().copied().max().unwrap_or(0);
            self.reader.reached(Position(newest)).await.expect("reached");
            let page = self.reader.answers(query(&self.base, None, 100)).await.expect("listed");
            let found = |key: &Key| page.found.answers.iter().find(|answer| answer.key == *key).map(number_in);
            for (at, key) in self.keys.iter().enumerate() {
                self.check(at, found(key), due[at], "a list behind an awaited position");
            }
            self.reader.reached(page.position).await.expect("reached");
            let at = (reads + number) % RACED_KEYS;
            let seen = self.reader.answer(&self.keys[at]).await.expect("read");
            let least = found(&self.keys[at]).unwrap_or(0);
            self.check(at, seen.found.as_ref().map(number_in), least, "behind the position of a list");
            reads += 1;
        }
        reads
    }
}
