//! The one thread that writes to the log: group commit, and opening the database
//! again after a failure.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::engine::{Engine, GROUP_KEY, Head, StoredOutcome, expiry_key, head_key, index_key};
use super::events::Shared;
use super::watermark::Watermark;
use super::{journal, record, start};
use crate::domain::answer::AnswerEventKind;
use crate::domain::outcome::{IdempotencyKey, Kept, Outcome, Refused};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, Revision, StreamId};
use crate::ports::{Appended, Claim, ClaimedAppend, StoreError, done};

/// A group holds at most this many jobs; more would only add to their latency.
const GROUP_JOBS: usize = 256;
/// And about this many bytes of events.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// When nothing comes for this long, what can wait is done.
const IDLE: Duration = Duration::from_millis(50);
/// How often expired outcomes are removed, and how many at once.
const SWEEP: Duration = Duration::from_secs(10);
const SWEEP_CLAIMS: usize = 1_000;
/// How often a failed store is tried again.
const REOPEN: Duration = Duration::from_millis(200);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Something to write.
pub(super) enum Work {
    Append {
        stream: StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
        reply: Reply<Appended>,
    },
    Claimed {
        claim: Claim,
        stream: StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: AnswerEventKind,
        reply: Reply<ClaimedAppend>,
    },
    Refusal {
        claim: Claim,
        refused: Refused,
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
        let bytes = match &work {
            Work::Append { events, .. } => events.iter().map(|event| event.data.len()).sum(),
            Work::Claimed { event, .. } => event.data.len(),
            Work::Refusal { .. } => 0,
        };
        Self { work, bytes, runtime: Handle::try_current().ok() }
    }

    fn fail(self, error: StoreError) {
        match self.work {
            Work::Append { reply, .. } => drop(reply.send(Err(error))),
            Work::Claimed { reply, .. } => drop(reply.send(Err(error))),
            Work::Refusal { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// What is sent once the group is durable; told whether it is.
struct Answer {
    /// Where the one who asked waits.
    runtime: Option<Handle>,
    send: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Job>,
    /// The number of the last group that was acknowledged.
    group: u64,
    watermark: Watermark,
    swept: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, queue: Receiver<Job>, group: u64, watermark: Watermark) -> Self {
        Self { shared, queue, group, watermark, swept: Instant::now() }
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self) {
        loop {
            match self.queue.recv_timeout(IDLE) {
                Ok(job) => {
                    let jobs = self.gather(job);
                    self.write(jobs);
                }
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.swept.elapsed() > SWEEP {
                self.sweep();
            }
        }
        self.idle();
        self.shared.engine.write().take();
    }

    fn gather(&self, first: Job) -> Vec<Job> {
        let mut bytes = first.bytes;
        let mut jobs = vec![first];
        while jobs.len() < GROUP_JOBS && bytes < GROUP_BYTES {
            let Ok(job) = self.queue.try_recv() else { break };
            bytes += job.bytes;
            jobs.push(job);
        }
        jobs
    }

    fn idle(&mut self) {
        if let Err(error) = self.watermark.sync() {
            self.fail("the file of the acknowledged group cannot be synced", &error);
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        if let Some(error) = self.no_room() {
            jobs.into_iter().for_each(|job| job.fail(error.clone()));
            return;
        }
        let engine = match self.shared.engine() {
            Ok(engine) => engine,
            Err(error) => return jobs.into_iter().for_each(|job| job.fail(error.clone())),
        };
        let mut group = Group::new(&engine, &self.shared);
        jobs.into_iter().for_each(|job| group.add(job));
        let Group { batch, answers, next, again, .. } = group;
        let durable = self.commit(&engine, batch, next, answers.len());
        drop(engine);
        self.answer(answers, &durable);
        if durable.is_err() {
            self.reopen();
        }
        if !again.is_empty() {
            self.write(again);
        }
    }

    /// Answers a group. One task in each runtime that waits does it: to wake each of
    /// those who wait from this thread would cost more than the write.
    fn answer(&self, answers: Vec<Answer>, durable: &Result<(), StoreError>) {
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

    /// Makes a group durable and then visible.
    fn commit(
        &mut self,
        engine: &Engine,
        mut batch: fjall::OwnedWriteBatch,
        next: Position,
        jobs: usize,
    ) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let group = self.group + 1;
        batch.insert(&engine.meta, GROUP_KEY, group.to_be_bytes());
        let begun = Instant::now();
        let unknown =
            |source: crate::ports::Source| StoreError::OutcomeUnknown { what: "the event log", source: Some(source) };
        if let Err(error) = batch.commit() {
            self.fail("a group of events could not be written", &error);
            return Err(unknown(Arc::new(error)));
        }
        self.group = group;
        if let Err(error) = self.watermark.set(group) {
            self.fail("the acknowledged group could not be noted", &error);
            return Err(unknown(Arc::new(error)));
        }
        self.shared.options.metrics.group(jobs, begun.elapsed());
        self.shared.durable.advance(next.0 - 1);
        Ok(())
    }

    fn no_room(&self) -> Option<StoreError> {
        let reserve_mb = self.shared.options.disk_reserve_mb;
        let free = free_bytes(&self.shared.folder)?;
        (free < reserve_mb.saturating_mul(1024 * 1024)).then_some(StoreError::Full { reserve_mb })
    }

    fn fail(&self, what: &str, error: &dyn std::error::Error) {
        tracing::error!(error = %error, "{what}; nothing is acknowledged until the log has been opened again");
        *self.shared.trouble.lock() = Some(format!("the event log: {what}"));
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
            match self.queue.recv_timeout(left) {
                Ok(job) => job.fail(StoreError::Unavailable { what: "the event log", source: None }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
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
        let events = folder.join(start::EVENTS);
        journal::cut_after_group(&events, self.group, &start::accepted_losses(folder)?.gaps())?;
        let opened = start::open(folder)?;
        self.group = opened.group;
        self.watermark = opened.watermark;
        self.shared.durable.advance(opened.head.0);
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
        let mut batch = engine.db.batch().durability(Some(fjall::PersistMode::SyncData));
        for claim in expired {
            batch.remove(&engine.expiry, claim.entry);
            if let Some(outcome) = claim.outcome {
                batch.remove(&engine.outcomes, outcome);
            }
        }
        let next = Position(self.shared.durable.get() + 1);
        let swept = self.commit(&engine, batch, next, 0);
        drop(engine);
        if swept.is_err() {
            self.reopen();
        }
    }
}

/// Jobs that become durable together.
struct Group<'a> {
    engine: &'a Engine,
    shared: &'a Shared,
    batch: fjall::OwnedWriteBatch,
    /// Heads of streams as this group leaves them.
    heads: HashMap<StreamId, Head>,
    claims: HashMap<IdempotencyKey, Kept>,
    /// The position of the next event.
    next: Position,
    answers: Vec<Answer>,
    /// Jobs that can be judged only once this group is durable.
    again: Vec<Job>,
}

impl<'a> Group<'a> {
    fn new(engine: &'a Engine, shared: &'a Shared) -> Self {
        let batch = engine.db.batch().durability(Some(fjall::PersistMode::SyncData));
        let next = Position(shared.durable.get() + 1);
        Self {
            engine,
            shared,
            batch,
            heads: HashMap::new(),
            claims: HashMap::new(),
            next,
            answers: Vec::new(),
            again: Vec::new(),
        }
    }

    fn add(&mut self, job: Job) {
        let Job { work, bytes, runtime } = job;
        match work {
            Work::Append { stream, expected, events, reply } => {
                if self.waits(&stream, expected) {
                    return self.again.push(Job {
                        work: Work::Append { stream, expected, events, reply },
                        bytes,
                        runtime,
                    });
                }
                let appended = self.append(&stream, expected, &events);
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
            Work::Refusal { claim, refused, reply } => {
                let kept = Kept { fingerprint: claim.fingerprint, outcome: Outcome::Refused(refused) };
                let stands = self.taken(&claim).and_then(|taken| match taken {
                    Some(kept) => Ok(kept),
                    None => self.keep(&claim, kept).map(|()| kept),
                });
                self.answer(runtime, reply, stands);
            }
        }
    }

    /// Whether an append is behind events that this very group adds: whether it
    /// repeats them can be seen once they are stored.
    fn waits(&self, stream: &StreamId, expected: ExpectedRevision) -> bool {
        self.heads.get(stream).is_some_and(|head| head.revision >= expected.first_new())
    }

    fn answer<T: Send + 'static>(&mut self, runtime: Option<Handle>, reply: Reply<T>, result: Result<T, StoreError>) {
        let send = Box::new(move |durable: Result<(), StoreError>| {
            // Who asked may have gone away.
            let _ = reply.send(durable.and(result));
        });
        self.answers.push(Answer { runtime, send });
    }

    fn head(&self, stream: &StreamId) -> Result<Option<Head>, StoreError> {
        self.heads.get(stream).map_or_else(|| self.engine.head(stream), |head| Ok(Some(*head)))
    }

    fn append(
        &mut self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: &[NewEvent],
    ) -> Result<Appended, StoreError> {
        let head = self.head(stream)?;
        if ExpectedRevision::from(head.map(|head| head.revision)) != expected {
            return self.repeated(stream, head, expected, events);
        }
        let first = expected.first_new();
        let mut positions = Vec::with_capacity(events.len());
        let mut head = head;
        for event in events {
            let position = self.next;
            let revision = head.map_or(first, |head| head.revision.next());
            let value = record::encode(stream, revision, event, position);
            self.batch.insert(&self.engine.log, position.0.to_be_bytes(), value);
            if head.is_some() {
                self.batch.insert(&self.engine.index, index_key(stream, revision), position.0.to_be_bytes());
            }
            head = Some(Head { revision, position, first: head.map_or(position, |head| head.first) });
            positions.push(position);
            self.next.0 += 1;
        }
        if let Some(head) = head {
            self.batch.insert(&self.engine.heads, head_key(stream), head.to_bytes(stream));
            self.heads.insert(stream.clone(), head);
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
        kind: AnswerEventKind,
    ) -> Result<ClaimedAppend, StoreError> {
        if let Some(kept) = self.taken(claim)? {
            return Ok(ClaimedAppend::Taken(kept));
        }
        let appended = self.append(stream, expected, &[event])?;
        self.keep(claim, Kept { fingerprint: claim.fingerprint, outcome: done(kind, &appended) })?;
        Ok(ClaimedAppend::Appended(appended))
    }

    fn taken(&self, claim: &Claim) -> Result<Option<Kept>, StoreError> {
        if let Some(kept) = self.claims.get(&claim.key) {
            return Ok(Some(*kept));
        }
        self.engine.outcome(&claim.key, self.shared.outcome_since(claim.at))
    }

    fn keep(&mut self, claim: &Claim, kept: Kept) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&StoredOutcome::new(claim.at, &kept));
        let value = value.map_err(|error| StoreError::corrupt("an outcome", error))?;
        self.batch.insert(&self.engine.outcomes, claim.key.to_bytes(), value);
        self.batch.insert(&self.engine.expiry, expiry_key(claim.at, &claim.key), []);
        self.claims.insert(claim.key.clone(), kept);
        Ok(())
    }
}

/// What is free on the disk of a folder; none where the system does not tell.
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether the disk takes writes and syncs.
fn probe(folder: &Path) -> std::io::Result<()> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_all());
    std::fs::remove_file(&path)?;
    written
}
