//! The threads that write to the log: group commit, and opening the database again
//! after a failure.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::{Keyspace, UserKey, UserValue};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::ahead::{Ahead, ROW_BYTES};
use super::engine::{Engine, GROUP_KEY, Head, StoredOutcome, expiry_key, index_key};
use super::events::Shared;
use super::inbox::Until;
use super::watermark::Watermark;
use super::{journal, record, start};
use crate::domain::outcome::{Happened, IdempotencyKey, Kept, Outcome};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::ports::{Append, Appended, Claim, ClaimedAppend, StoreError, done};

/// A group holds at most this many jobs; more would only add to their latency.
const GROUP_JOBS: usize = 256;
/// And about this many bytes of events.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// What an append takes beside its events where many are handed over together.
const EACH_BYTES: usize = 256;
/// While a group is on its way, so many appends are worth preparing.
const WORTH_IT: usize = 32;
/// Groups up to this many appends are written by the thread that judged them.
const ALONE: usize = 2;
/// When nothing comes for this long, what can wait is done.
const IDLE: Duration = Duration::from_millis(50);
/// How often expired outcomes are removed, and how many at once.
const SWEEP: Duration = Duration::from_secs(10);
const SWEEP_CLAIMS: usize = 1_000;
/// How often a failed store is tried again.
const REOPEN: Duration = Duration::from_millis(200);

/// The log does not answer; nothing was done.
pub(super) const UNAVAILABLE: StoreError = StoreError::Unavailable { what: "the event log", source: None };

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Something to write.
pub(super) enum Work {
    Append {
        stream: StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
        reply: Reply<Appended>,
    },
    /// Appends that are handed over together, each with an outcome of its own.
    Each {
        appends: Vec<Append>,
        reply: Reply<Vec<Result<Appended, StoreError>>>,
    },
    Claimed {
        claim: Claim,
        stream: StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
        reply: Reply<ClaimedAppend>,
    },
    Keep {
        claim: Claim,
        outcome: Outcome,
        reply: Reply<Kept>,
    },
}

/// Work, and how large it is.
pub(super) struct Job {
    work: Work,
    bytes: usize,
    runtime: Option<Handle>,
}

impl Job {
    pub(super) fn new(work: Work) -> Self {
        let size = |events: &[NewEvent]| events.iter().map(|event| event.data.len()).sum::<usize>();
        let bytes = match &work {
            Work::Append { events, .. } => size(events),
            Work::Each { appends, .. } => appends.iter().map(|append| EACH_BYTES + size(&append.events)).sum(),
            Work::Claimed { event, .. } => event.data.len(),
            Work::Keep { .. } => 0,
        };
        Self { work, bytes, runtime: Handle::try_current().ok() }
    }

    /// How many appends it is.
    pub(super) fn appends(&self) -> usize {
        match &self.work {
            Work::Each { appends, .. } => appends.len(),
            Work::Append { .. } | Work::Claimed { .. } | Work::Keep { .. } => 1,
        }
    }

    fn fail(self, error: StoreError) {
        match self.work {
            Work::Each { reply, .. } => drop(reply.send(Err(error))),
            Work::Append { reply, .. } => drop(reply.send(Err(error))),
            Work::Claimed { reply, .. } => drop(reply.send(Err(error))),
            Work::Keep { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// What is sent once the group is durable; told whether it is.
struct Answer {
    /// Where the one who asked waits.
    runtime: Option<Handle>,
    send: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

/// Judges jobs and gathers them in groups. While one group is being made durable it
/// prepares the next; never are two on their way, so that a crash can leave at most
/// one torn.
pub(super) struct Writer {
    shared: Arc<Shared>,
    committer: Arc<Mutex<Committer>>,
    handed_over: SyncSender<Prepared>,
    commits: JoinHandle<()>,
    on_its_way: bool,
    /// The group that jobs are added to; not empty.
    open: Option<Group>,
    /// What the group on its way leaves, as long as no other is open.
    behind: Added,
    /// Jobs that wait for the group on its way.
    again: Vec<Job>,
    /// The position of the next event.
    next: Position,
    swept: Instant,
}

/// Makes groups durable, in order.
pub(super) struct Committer {
    shared: Arc<Shared>,
    /// The number of the last group that was acknowledged.
    group: u64,
    watermark: Watermark,
    ahead: Ahead,
}

/// A group on its way to the disk.
struct Prepared {
    engine: Arc<Engine>,
    batch: Rows,
    events: Vec<RecordedEvent>,
    /// Where its streams end with it.
    heads: Vec<(StreamId, Head)>,
    next: Position,
    answers: Vec<Answer>,
    /// How many appends it is.
    appends: usize,
}

/// Rows that are written together, and how much that is.
struct Rows {
    batch: fjall::OwnedWriteBatch,
    bytes: usize,
}

impl Rows {
    fn new(engine: &Engine) -> Self {
        Self { batch: engine.db.batch().durability(Some(fjall::PersistMode::SyncData)), bytes: 0 }
    }

    fn insert(&mut self, of: &Keyspace, key: impl Into<UserKey>, value: impl Into<UserValue>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len() + ROW_BYTES;
        self.batch.insert(of, key, value);
    }

    fn remove(&mut self, of: &Keyspace, key: impl Into<UserKey>) {
        let key = key.into();
        self.bytes += key.len() + ROW_BYTES;
        self.batch.remove(of, key);
    }
}

impl Writer {
    /// A writer behind this group.
    ///
    /// # Errors
    /// If its second thread cannot be started.
    pub(super) fn new(shared: Arc<Shared>, group: u64, watermark: Watermark, ahead: Ahead) -> std::io::Result<Self> {
        let committer = Arc::new(Mutex::new(Committer { shared: shared.clone(), group, watermark, ahead }));
        let (handed_over, groups) = sync_channel::<Prepared>(1);
        let (commits, ends) = (committer.clone(), shared.clone());
        let commit = move || {
            for group in groups {
                ends.inbox.end(commits.lock().finish(group));
            }
        };
        let commits = std::thread::Builder::new().name("log-commit".into()).spawn(commit)?;
        Ok(Self {
            next: Position(shared.durable.get() + 1),
            shared,
            committer,
            handed_over,
            commits,
            on_its_way: false,
            open: None,
            behind: Added::default(),
            again: Vec::new(),
            swept: Instant::now(),
        })
    }

    /// Works until the inbox is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let room = self.open.as_ref().map_or(GROUP_JOBS, Group::room);
            let until = match &self.open {
                _ if self.on_its_way && room == 0 => Until::Ended,
                // One job is not worth waking up for while it could not be written.
                _ if self.on_its_way => Until::EndedOr(WORTH_IT.min(room)),
                Some(_) => Until::Now,
                None => Until::Any(IDLE),
            };
            let news = self.shared.inbox.next(until, room);
            let mut jobs = news.jobs;
            if let Some(ended) = news.ended {
                self.on_its_way = false;
                if ended.is_err() {
                    // Until the log is open again may take as long as it likes.
                    std::mem::take(&mut jobs).into_iter().for_each(|job| job.fail(UNAVAILABLE));
                }
                self.ended(&ended);
            }
            let quiet = jobs.is_empty() && self.open.is_none() && !self.on_its_way;
            if quiet && news.closed {
                break;
            }
            if quiet {
                self.idle();
            }
            self.add(jobs);
            if !self.on_its_way
                && let Some(group) = self.open.take()
            {
                self.close(group);
            }
            if self.swept.elapsed() > SWEEP && !self.on_its_way {
                self.sweep();
            }
        }
        self.idle();
        drop(self.handed_over);
        if self.commits.join().is_err() {
            tracing::error!("the thread that syncs the log panicked");
        }
        self.shared.engine.write().take();
    }

    /// Adds jobs to the open group, which is begun if there is none.
    fn add(&mut self, jobs: impl IntoIterator<Item = Job>) {
        let mut jobs = jobs.into_iter();
        let Some(first) = jobs.next() else { return };
        let group = match &mut self.open {
            Some(group) => group,
            None => match self.begin() {
                Ok(group) => self.open.insert(group),
                Err(error) => return std::iter::once(first).chain(jobs).for_each(|job| job.fail(error.clone())),
            },
        };
        group.add(first);
        jobs.for_each(|job| group.add(job));
    }

    fn begin(&mut self) -> Result<Group, StoreError> {
        if let Some(error) = self.no_room() {
            return Err(error);
        }
        let engine = self.shared.engine()?;
        Ok(Group::new(engine, self.shared.clone(), std::mem::take(&mut self.behind), self.next))
    }

    /// Sends a group on its way. A small one is written at once: the way to the
    /// other thread would cost more than what could be prepared meanwhile.
    fn close(&mut self, group: Group) {
        let small = group.appends <= ALONE;
        let Group { engine, batch, events, next, answers, appends, added, again, .. } = group;
        self.next = next;
        self.again.extend(again);
        let heads = added.heads.iter().map(|(stream, head)| (stream.clone(), *head)).collect();
        let group = Prepared { engine, batch, events, heads, next, answers, appends };
        if small {
            let ended = self.committer.lock().finish(group);
            return self.ended(&ended);
        }
        self.behind = added;
        self.on_its_way = true;
        if self.handed_over.send(group).is_err() {
            // Its answers are dropped, and with that unknown.
            self.on_its_way = false;
            self.ended(&Err(UNAVAILABLE));
        }
    }

    /// Goes on behind a group that is stored, or that is not.
    fn ended(&mut self, ended: &Result<(), StoreError>) {
        self.behind = Added::default();
        let mut again = std::mem::take(&mut self.again);
        if let Some(open) = &mut self.open {
            open.behind = Added::default();
            again.append(&mut open.again);
        }
        if ended.is_ok() {
            return self.add(again);
        }
        again.into_iter().for_each(|job| job.fail(UNAVAILABLE));
        // It was judged by what is not stored, and is not stored either.
        if let Some(open) = self.open.take() {
            answer(open.answers, &Err(UNAVAILABLE));
        }
        self.reopen();
    }

    fn idle(&mut self) {
        let mut committer = self.committer.lock();
        if let Err(error) = committer.watermark.sync() {
            committer.fail("the file of the acknowledged group cannot be synced", &error);
        }
    }

    fn no_room(&self) -> Option<StoreError> {
        let reserve_mb = self.shared.options.disk_reserve_mb;
        self.shared.lacks_room(0).then_some(StoreError::Full { reserve_mb })
    }

    /// Opens the database again, for as long as it takes. Readers keep the old one
    /// until the disk takes writes again. What was never acknowledged is cut off,
    /// for a failed sync leaves pages that look written and are not.
    fn reopen(&mut self) {
        let mut next_try = Instant::now() + REOPEN;
        loop {
            let left = next_try.saturating_duration_since(Instant::now());
            if left.is_zero() {
                match self.try_reopen() {
                    Ok(()) => break,
                    Err(error) => tracing::error!(error = %error, "the log could not be opened again"),
                }
                next_try = Instant::now() + REOPEN;
                continue;
            }
            let news = self.shared.inbox.next(Until::Any(left), usize::MAX);
            news.jobs.into_iter().for_each(|job| job.fail(UNAVAILABLE));
            if news.closed {
                return;
            }
        }
        *self.shared.trouble.lock() = None;
        tracing::info!("the log was opened again; appends are taken");
    }

    fn try_reopen(&mut self) -> Result<(), start::StartError> {
        let folder = &self.shared.folder;
        probe(folder).map_err(|error| start::StartError::io(folder, error))?;
        let old = self.shared.engine.write().take();
        if let Some(mut engine) = old {
            // Readers hold it for moments only.
            loop {
                match Arc::try_unwrap(engine) {
                    Ok(last) => break drop(last),
                    Err(shared) => engine = shared,
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut committer = self.committer.lock();
        let events = folder.join(start::EVENTS);
        journal::cut_after_group(&events, committer.group, &start::accepted_losses(folder)?.gaps())?;
        let opened = start::open(folder)?;
        committer.group = opened.group;
        committer.watermark = opened.watermark;
        committer.ahead = opened.ahead;
        self.shared.tail.reset(opened.head);
        self.shared.durable.advance(opened.head.0);
        self.next = Position(self.shared.durable.get() + 1);
        *self.shared.engine.write() = Some(Arc::new(opened.engine));
        Ok(())
    }

    /// Removes outcomes whose time is over.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let Ok(engine) = self.shared.engine() else { return };
        let before = self.shared.outcome_since(crate::clock::now());
        let expired = match engine.expired(before, SWEEP_CLAIMS) {
            Ok(expired) => expired,
            Err(error) => return tracing::warn!(error = %error.chain(), "expired outcomes could not be read"),
        };
        let mut batch = Rows::new(&engine);
        for claim in expired {
            batch.remove(&engine.expiry, claim.entry);
            if let Some(outcome) = claim.outcome {
                batch.remove(&engine.outcomes, outcome);
            }
        }
        let next = Position(self.shared.durable.get() + 1);
        let (events, heads, answers) = (Vec::new(), Vec::new(), Vec::new());
        let swept = Prepared { engine, batch, events, heads, next, answers, appends: 0 };
        let swept = self.committer.lock().finish(swept);
        if swept.is_err() {
            // An open group holds the database, too, and must go before it is opened again.
            self.ended(&swept);
        }
    }
}

impl Committer {
    /// Makes a group durable and answers it.
    fn finish(&mut self, mut group: Prepared) -> Result<(), StoreError> {
        let answers = std::mem::take(&mut group.answers);
        let durable = self.commit(group);
        answer(answers, &durable);
        durable
    }

    /// Makes a group durable and then visible.
    fn commit(&mut self, group: Prepared) -> Result<(), StoreError> {
        let Prepared { engine, batch: mut rows, events, heads, next, appends, .. } = group;
        if rows.batch.is_empty() {
            return Ok(());
        }
        let carry = engine.heads.carry(appends, Position(self.shared.durable.get()));
        for (key, row) in &carry.rows {
            rows.insert(engine.heads.rows(), *key, row.as_slice());
        }
        for (key, value) in carry.note.iter().flat_map(|carried| Engine::note(self.shared.id, *carried)) {
            rows.insert(&engine.meta, key, value);
        }
        let group = self.group + 1;
        rows.insert(&engine.meta, GROUP_KEY, group.to_be_bytes());
        let begun = Instant::now();
        let unknown =
            |source: crate::ports::Source| StoreError::OutcomeUnknown { what: "the event log", source: Some(source) };
        self.ahead.make_room(rows.bytes);
        if let Err(error) = rows.batch.commit() {
            self.fail("a group of events could not be written", &error);
            return Err(unknown(Arc::new(error)));
        }
        self.group = group;
        if let Err(error) = self.watermark.set(group) {
            self.fail("the acknowledged group could not be noted", &error);
            return Err(unknown(Arc::new(error)));
        }
        self.shared.options.metrics.group(appends, begun.elapsed());
        engine.heads.stored(carry, heads);
        self.shared.tail.push(events);
        self.shared.durable.advance(next.0 - 1);
        Ok(())
    }

    fn fail(&self, what: &str, error: &dyn std::error::Error) {
        tracing::error!(error = %error, "{what}; nothing is acknowledged until the log has been opened again");
        *self.shared.trouble.lock() = Some(format!("the event log: {what}"));
    }
}

/// Answers a group. One task in each runtime that waits does it: to wake each of
/// those who wait from this thread would cost more than the write.
fn answer(answers: Vec<Answer>, durable: &Result<(), StoreError>) {
    let mut of_runtimes: Vec<(Option<Handle>, Vec<Answer>)> = Vec::new();
    for answer in answers {
        let id = answer.runtime.as_ref().map(Handle::id);
        match of_runtimes.iter_mut().find(|(runtime, _)| runtime.as_ref().map(Handle::id) == id) {
            Some((_, of_runtime)) => of_runtime.push(answer),
            None => of_runtimes.push((answer.runtime.clone(), vec![answer])),
        }
    }
    for (runtime, answers) in of_runtimes {
        let durable = durable.clone();
        let all = move || answers.into_iter().for_each(|answer| (answer.send)(durable.clone()));
        match runtime {
            Some(runtime) => drop(runtime.spawn(async move { all() })),
            None => all(),
        }
    }
}

/// Jobs that become durable together.
struct Group {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    batch: Rows,
    /// What it adds, for those who follow the log.
    events: Vec<RecordedEvent>,
    bytes: usize,
    /// What it adds, for the jobs behind.
    added: Added,
    /// What the group in front of it adds, while that is on its way.
    behind: Added,
    /// The position of the next event.
    next: Position,
    answers: Vec<Answer>,
    /// How many appends have been judged.
    appends: usize,
    /// Jobs that can be judged only once this group or the one in front is stored.
    again: Vec<Job>,
}

/// Heads of streams and claims as a group leaves them.
#[derive(Default)]
struct Added {
    heads: HashMap<StreamId, Head, RandomState>,
    claims: HashMap<IdempotencyKey, Kept, RandomState>,
}

impl Group {
    fn new(engine: Arc<Engine>, shared: Arc<Shared>, behind: Added, next: Position) -> Self {
        let batch = Rows::new(&engine);
        Self {
            engine,
            shared,
            batch,
            events: Vec::new(),
            bytes: 0,
            added: Added::default(),
            behind,
            next,
            answers: Vec::new(),
            appends: 0,
            again: Vec::new(),
        }
    }

    /// How many jobs it still takes.
    fn room(&self) -> usize {
        let jobs = self.answers.len() + self.again.len();
        if self.bytes < GROUP_BYTES { GROUP_JOBS.saturating_sub(jobs) } else { 0 }
    }

    fn add(&mut self, job: Job) {
        let appends = job.appends();
        let Job { work, bytes, runtime } = job;
        self.bytes += bytes;
        match work {
            Work::Each { appends, reply } => {
                if appends.iter().any(|append| self.waits(&append.stream, append.expected)) {
                    return self.again.push(Job { work: Work::Each { appends, reply }, bytes, runtime });
                }
                let append = |Append { stream, expected, events }| self.append(&stream, expected, events);
                let outcomes = appends.into_iter().map(append).collect();
                self.answer(runtime, reply, Ok(outcomes));
            }
            Work::Append { stream, expected, events, reply } => {
                if self.waits(&stream, expected) {
                    return self.again.push(Job {
                        work: Work::Append { stream, expected, events, reply },
                        bytes,
                        runtime,
                    });
                }
                let appended = self.append(&stream, expected, events);
                self.answer(runtime, reply, appended);
            }
            Work::Claimed { claim, stream, expected, event, kind, reply } => {
                if self.waits(&stream, expected) {
                    let work = Work::Claimed { claim, stream, expected, event, kind, reply };
                    return self.again.push(Job { work, bytes, runtime });
                }
                let appended = self.append_claimed(&claim, &stream, expected, event, kind);
                self.answer(runtime, reply, appended);
            }
            Work::Keep { claim, outcome, reply } => {
                let kept = Kept { fingerprint: claim.fingerprint, outcome };
                let stands = self.taken(&claim).and_then(|taken| match taken {
                    Some(kept) => Ok(kept),
                    None => self.keep(&claim, kept).map(|()| kept),
                });
                self.answer(runtime, reply, stands);
            }
        }
        self.appends += appends;
    }

    /// Whether an append is behind events that are not stored yet: whether it
    /// repeats them can be seen once they are.
    fn waits(&self, stream: &StreamId, expected: ExpectedRevision) -> bool {
        self.unstored(stream).is_some_and(|head| head.revision >= expected.first_new())
    }

    /// The head of a stream as this group or the one in front leaves it.
    fn unstored(&self, stream: &StreamId) -> Option<Head> {
        self.added.heads.get(stream).or_else(|| self.behind.heads.get(stream)).copied()
    }

    fn answer<T: Send + 'static>(&mut self, runtime: Option<Handle>, reply: Reply<T>, result: Result<T, StoreError>) {
        let send = Box::new(move |durable: Result<(), StoreError>| {
            // Who asked may have gone away.
            let _ = reply.send(durable.and(result));
        });
        self.answers.push(Answer { runtime, send });
    }

    fn head(&self, stream: &StreamId) -> Result<Option<Head>, StoreError> {
        self.unstored(stream).map_or_else(|| self.engine.heads.get_before_append(stream), |head| Ok(Some(head)))
    }

    fn append(
        &mut self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let head = self.head(stream)?;
        if ExpectedRevision::from(head.map(|head| head.revision)) != expected {
            return self.repeated(stream, head, expected, &events);
        }
        if head.is_none() {
            self.engine.heads.begins(stream);
        }
        let first = expected.first_new();
        let mut positions = Vec::with_capacity(events.len());
        let mut head = head;
        for event in events {
            let position = self.next;
            let revision = head.map_or(first, |head| head.revision.next());
            let value = record::encode(stream, revision, &event, position);
            self.batch.insert(&self.engine.log, position.0.to_be_bytes(), value);
            if head.is_some() {
                self.batch.insert(&self.engine.index, index_key(stream, revision), position.0.to_be_bytes());
            }
            head = Some(Head { revision, position, first: head.map_or(position, |head| head.first) });
            self.events.push(RecordedEvent { position, stream: stream.clone(), revision, event });
            positions.push(position);
            self.next.0 += 1;
        }
        if let Some(head) = head {
            self.added.heads.insert(stream.clone(), head);
        }
        Ok(Appended { first, positions })
    }

    /// An append at another revision than the stream's last: the same success if
    /// it is the same append, else a conflict.
    fn repeated(
        &self,
        stream: &StreamId,
        head: Option<Head>,
        expected: ExpectedRevision,
        events: &[NewEvent],
    ) -> Result<Appended, StoreError> {
        let first = expected.first_new();
        if head.is_none_or(|head| head.revision < first) {
            return Err(StoreError::Conflict);
        }
        let mut stored = Vec::new();
        // Pages are bounded in bytes.
        while stored.len() < events.len() {
            let (from, left) = (Revision(first.0 + stored.len() as u64), events.len() - stored.len());
            let page = self.engine.read(stream, from, crate::ports::Direction::Forwards, left)?;
            if page.is_empty() {
                break;
            }
            stored.extend(page);
        }
        let same = stored.len() == events.len() && stored.iter().zip(events).all(|(a, b)| a.event.id == b.id);
        let positions = stored.iter().map(|recorded| recorded.position).collect();
        if same { Ok(Appended { first, positions }) } else { Err(StoreError::Conflict) }
    }

    fn append_claimed(
        &mut self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
    ) -> Result<ClaimedAppend, StoreError> {
        if let Some(kept) = self.taken(claim)? {
            return Ok(ClaimedAppend::Taken(kept));
        }
        let appended = self.append(stream, expected, vec![event])?;
        self.keep(claim, Kept { fingerprint: claim.fingerprint, outcome: done(kind, &appended) })?;
        Ok(ClaimedAppend::Appended(appended))
    }

    fn taken(&self, claim: &Claim) -> Result<Option<Kept>, StoreError> {
        let unstored = self.added.claims.get(&claim.key).or_else(|| self.behind.claims.get(&claim.key));
        if let Some(kept) = unstored {
            return Ok(Some(*kept));
        }
        self.engine.outcome(&claim.key, self.shared.outcome_since(claim.at))
    }

    fn keep(&mut self, claim: &Claim, kept: Kept) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&StoredOutcome::new(claim.at, &kept));
        let value = value.map_err(|error| StoreError::corrupt("an outcome", error))?;
        self.batch.insert(&self.engine.outcomes, claim.key.to_bytes(), value);
        self.batch.insert(&self.engine.expiry, expiry_key(claim.at, &claim.key), []);
        self.added.claims.insert(claim.key.clone(), kept);
        Ok(())
    }
}

/// Whether the disk takes writes and syncs.
fn probe(folder: &Path) -> std::io::Result<()> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_all());
    std::fs::remove_file(&path)?;
    written
}
