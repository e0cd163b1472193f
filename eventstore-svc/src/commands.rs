//! From a command to a durable event: read the state, decide, append.
//!
//! Commands on one key queue behind each other. Whoever finds a key idle leads:
//! it takes what waits, decides each command on the state that the one before
//! leaves, and sends the run as one append, so that a hot key costs no retries.
//! The states of recent keys are kept in bounded memory, proven by the expected
//! revision of the append.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use shared::clock;
use shared::domain::answer::{AnswerCommand, AnswerEvent, AnswerState, Key, LastEvent, decide, evolve};
use shared::domain::outcome::{Fingerprint, Happened, IdempotencyKey, Kept, Outcome, Receipt, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::metrics::Metrics;
use shared::ports::{Claim, ClaimedAppend, EventStore, Outcomes, StoreError, done};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::detach::Detach;
use crate::places::{Place, Places, units};

/// What all waiting commands may take.
const WAITING_BYTES: usize = 64 * 1024 * 1024;
/// A run holds at most this many commands.
pub const RUN_COMMANDS: usize = 128;
/// And about this many bytes: EventStoreDB takes 1 MiB in one append.
const RUN_BYTES: usize = 900 * 1024;
/// How long an append is tried again when others append to the same stream.
const CONFLICT_TIME: Duration = Duration::from_secs(5);
/// How many states of keys are kept.
const STATES: usize = 100_000;
/// Locks over which keys are spread.
const SHARDS: usize = 64;

/// Of each busy key what waits for its leader.
type Busy = HashMap<Key, VecDeque<Waiting>, RandomState>;
type Reply = oneshot::Sender<Result<Outcome, Error>>;

/// Takes commands.
#[derive(Clone)]
pub struct Commands(Arc<Inner>);

struct Inner {
    events: Arc<dyn EventStore>,
    outcomes: Arc<dyn Outcomes>,
    metrics: Arc<Metrics>,
    busy: Vec<Mutex<Busy>>,
    hasher: RandomState,
    states: Cache<Key, AnswerState>,
    waiting: Places,
    claimed: Arc<Mutex<HashSet<IdempotencyKey>>>,
}

/// The right to use an `Idempotency-Key` in this process, for as long as it lives.
pub struct Claiming {
    claim: Claim,
    /// Whether it is known that nothing is kept under the key.
    is_free: bool,
    claimed: Arc<Mutex<HashSet<IdempotencyKey>>>,
}

impl Drop for Claiming {
    fn drop(&mut self) {
        self.claimed.lock().remove(&self.claim.key);
    }
}

/// What a claim on an `Idempotency-Key` finds.
pub enum Claimed {
    /// Nothing is kept: go on with it.
    Free(Claiming),
    /// The request came before, and this is what it came to.
    Kept(Outcome),
}

struct Waiting {
    command: AnswerCommand,
    claiming: Option<Box<Claiming>>,
    reply: Reply,
    _place: Place,
}

/// What is known about a stream's end.
#[derive(Clone, Copy)]
enum Known {
    /// It was read or acknowledged.
    State(AnswerState),
    /// A key that nobody has touched is likely new: the append will tell.
    LikelyNew,
}

impl Known {
    fn state(self) -> AnswerState {
        match self {
            Self::State(state) => state,
            Self::LikelyNew => AnswerState::default(),
        }
    }
}

impl Commands {
    /// Commands on these stores.
    pub fn new(events: Arc<dyn EventStore>, outcomes: Arc<dyn Outcomes>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            events,
            outcomes,
            metrics,
            busy: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            states: Cache::new(STATES),
            waiting: Places::new(WAITING_BYTES),
            claimed: Arc::default(),
        }))
    }

    /// A place for a command, at once or not at all.
    ///
    /// # Errors
    /// `Busy` if too much is waiting.
    pub fn place(&self, command: &AnswerCommand) -> Result<Place, Error> {
        self.0.waiting.take(units(command.size())).ok_or(Error::Failed(StoreError::Busy))
    }

    /// A place for a command, waiting for it.
    ///
    /// # Errors
    /// `Busy` if there is none within some seconds.
    pub async fn wait_for_place(&self, command: &AnswerCommand) -> Result<Place, Error> {
        self.0.waiting.wait(units(command.size())).await.ok_or(Error::Failed(StoreError::Busy))
    }

    /// Claims an `Idempotency-Key` for a request and looks up what is kept under it.
    ///
    /// # Errors
    /// `InProgress` if the key is in use in this process, `KeyReused` if it belongs
    /// to another request.
    pub async fn claim(&self, key: IdempotencyKey, fingerprint: Fingerprint) -> Result<Claimed, Error> {
        let mut claiming = self.claim_unseen(key, fingerprint)?;
        match self.0.look_up(&claiming.claim).await? {
            Some(outcome) => Ok(Claimed::Kept(outcome)),
            None => {
                claiming.is_free = true;
                Ok(Claimed::Free(claiming))
            }
        }
    }

    /// Claims an `Idempotency-Key` for a command that looks up itself what is kept
    /// under it when its turn comes.
    ///
    /// # Errors
    /// `InProgress` if the key is in use in this process.
    pub fn claim_unseen(&self, key: IdempotencyKey, fingerprint: Fingerprint) -> Result<Claiming, Error> {
        if !self.0.claimed.lock().insert(key.clone()) {
            return Err(Error::InProgress);
        }
        let claim = Claim { key, fingerprint, at: clock::now() };
        Ok(Claiming { claim, is_free: false, claimed: self.0.claimed.clone() })
    }

    /// Puts a command in its key's queue, at once and in order of the calls; the
    /// future answers when the outcome is durable. Dropping it drops the answer,
    /// not the command.
    pub fn execute(
        &self,
        command: AnswerCommand,
        claiming: Option<Claiming>,
        place: Place,
    ) -> impl Future<Output = Result<Outcome, Error>> + Send + 'static {
        let (lead, answer, verb) = self.hand_in(command, claiming, place);
        let inner = self.0.clone();
        async move {
            let outcome = led(lead, answer).await;
            inner.count(verb, &outcome);
            outcome
        }
    }

    /// As `execute`, but the work goes on whether or not the future is polled: for
    /// those who hand in many before they look at the answers.
    pub fn execute_apart(
        &self,
        command: AnswerCommand,
        claiming: Option<Claiming>,
        place: Place,
    ) -> impl Future<Output = Result<Outcome, Error>> + Send + 'static {
        let (lead, answer, verb) = self.hand_in(command, claiming, place);
        // Dropped, it goes on as a task.
        drop(lead);
        let inner = self.0.clone();
        async move {
            let outcome = led(Detach::nothing(), answer).await;
            inner.count(verb, &outcome);
            outcome
        }
    }

    fn hand_in(
        &self,
        command: AnswerCommand,
        claiming: Option<Claiming>,
        place: Place,
    ) -> (Detach, oneshot::Receiver<Result<Outcome, Error>>, &'static str) {
        let (reply, answer) = oneshot::channel();
        let verb = command.verb();
        let key = command.key.clone();
        let waiting = Waiting { command, claiming: claiming.map(Box::new), reply, _place: place };
        let lead = match self.0.enqueue(&key, waiting) {
            Some(first) => Detach::new(self.0.clone().lead(key, first)),
            None => Detach::nothing(),
        };
        (lead, answer, verb)
    }
}

/// Waits for an answer while leading, if it is on this command to lead.
async fn led(lead: Detach, answer: oneshot::Receiver<Result<Outcome, Error>>) -> Result<Outcome, Error> {
    let mut lead = lead;
    let mut answer = answer;
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        () = &mut lead => answer.await,
    };
    let lost = |_| Error::Failed(StoreError::OutcomeUnknown { what: "the command", source: None });
    answered.map_err(lost)?
}

impl Inner {
    fn count(&self, verb: &'static str, outcome: &Result<Outcome, Error>) {
        let outcome = match outcome {
            Ok(Outcome::Done(receipt)) => receipt.event.name(),
            Ok(Outcome::Refused(refused)) => match refused.refusal {
                Refusal::KeyExists => "key_exists",
                Refusal::KeyNotFound => "key_not_found",
                Refusal::EventNotFound => "event_not_found",
                Refusal::NotMatched | Refusal::Matched => "precondition_failed",
            },
            // No command on an answer comes to that.
            Ok(Outcome::Begun(_)) | Err(_) => "failed",
        };
        self.metrics.commands.with_label_values(&[verb, outcome]).inc();
    }

    fn shard(&self, key: &Key) -> &Mutex<Busy> {
        let hash = self.hasher.hash_one(key);
        &self.busy[usize::try_from(hash % SHARDS as u64).unwrap_or_default()]
    }

    /// Queues a command behind its key's leader, or gives it back to be led.
    fn enqueue(&self, key: &Key, waiting: Waiting) -> Option<Waiting> {
        let mut busy = self.shard(key).lock();
        if let Some(queue) = busy.get_mut(key) {
            queue.push_back(waiting);
            return None;
        }
        busy.insert(key.clone(), VecDeque::new());
        Some(waiting)
    }

    async fn lead(self: Arc<Self>, key: Key, first: Waiting) {
        let mut run = vec![first];
        loop {
            self.work(&key, run).await;
            match self.next_run(&key) {
                Some(next) => run = next,
                None => return,
            }
        }
    }

    /// What goes into the next append: commands without a claim together, one with
    /// a claim alone. None if nothing waits, and then the key is idle.
    fn next_run(&self, key: &Key) -> Option<Vec<Waiting>> {
        let mut busy = self.shard(key).lock();
        let queue = busy.get_mut(key)?;
        let mut run = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.front() {
            let alone = next.claiming.is_some();
            bytes += next.command.size();
            if !run.is_empty() && (alone || run.len() >= RUN_COMMANDS || bytes > RUN_BYTES) {
                break;
            }
            run.extend(queue.pop_front());
            if alone {
                break;
            }
        }
        if run.is_empty() {
            busy.remove(key);
            return None;
        }
        Some(run)
    }

    async fn work(&self, key: &Key, mut run: Vec<Waiting>) {
        match run.pop() {
            Some(Waiting { command, claiming: Some(claiming), reply, .. }) if run.is_empty() => {
                // Apart, for most commands have no claim and need not carry its state.
                let outcome = Box::pin(self.claimed(key, &command, &claiming)).await;
                drop(claiming);
                // Who asked may have gone away.
                let _ = reply.send(outcome);
            }
            Some(last) => {
                run.push(last);
                self.plain(key, run).await;
            }
            None => {}
        }
    }

    /// Decides a run on one state and appends its events together.
    async fn plain(&self, key: &Key, run: Vec<Waiting>) {
        let stream = StreamId::of_answer(key);
        let deadline = Instant::now() + CONFLICT_TIME;
        let mut known = self.known(key, run.first());
        loop {
            let was_read = known.is_none();
            let state = match known {
                Some(known) => Ok(known),
                None => self.read_state(&stream).await.map(Known::State),
            };
            let start = match state {
                Ok(state) => state,
                Err(error) => return fail(run, &error),
            };
            let mut plan = Plan::new(start.state(), run.iter().map(|waiting| &waiting.command), clock::now());
            // An append proves the state that it was decided on. Without one it has to be
            // read: another process may have written.
            let is_unlikely = matches!(start, Known::LikelyNew) && matches!(plan.steps.first(), Some(Step::Refused(_)));
            if is_unlikely || plan.events.is_empty() && !was_read {
                known = None;
                continue;
            }
            if plan.events.is_empty() {
                return plan.answer(run, start.state(), &[]);
            }
            let expected = ExpectedRevision::from(start.state().revision());
            match self.events.append(&stream, expected, std::mem::take(&mut plan.events)).await {
                Ok(appended) => {
                    plan.first = appended.first;
                    self.states.insert(key.clone(), plan.end(&appended.positions));
                    return plan.answer(run, start.state(), &appended.positions);
                }
                Err(StoreError::Conflict) if Instant::now() < deadline => known = None,
                Err(error) => {
                    self.states.remove(key);
                    return plan.fail(run, start.state(), &Error::Failed(error));
                }
            }
        }
    }

    /// Carries out one command under its claim.
    async fn claimed(&self, key: &Key, command: &AnswerCommand, claiming: &Claiming) -> Result<Outcome, Error> {
        let claim = &claiming.claim;
        if !claiming.is_free
            && let Some(outcome) = self.look_up(claim).await?
        {
            return Ok(outcome);
        }
        let stream = StreamId::of_answer(key);
        let deadline = Instant::now() + CONFLICT_TIME;
        let mut state = self.states.get(key);
        loop {
            let known = state.take();
            let start = match known {
                Some(state) => state,
                None => self.read_state(&stream).await?,
            };
            let mut plan = Plan::new(start, std::iter::once(command), clock::now());
            let Some(event) = plan.events.pop() else {
                // As in `plain`: no append proves the state.
                if known.is_some() {
                    continue;
                }
                let refusal = plan.refusal().ok_or(StoreError::Conflict)?;
                let refused = Refused { refusal, position: start.last.map(|last| last.position) };
                return same_request(claim, self.outcomes.keep(claim, Outcome::Refused(refused)).await?);
            };
            let kind = plan.kinds[0];
            let expected = ExpectedRevision::from(start.revision());
            match self.outcomes.append(claim, &stream, expected, event, kind).await {
                Ok(ClaimedAppend::Taken(kept)) => return same_request(claim, kept),
                Ok(ClaimedAppend::Appended(appended)) => {
                    plan.first = appended.first;
                    self.states.insert(key.clone(), plan.end(&appended.positions));
                    return Ok(done(kind, &appended));
                }
                Err(StoreError::Conflict) if Instant::now() < deadline => self.states.remove(key),
                Err(error) => {
                    self.states.remove(key);
                    return Err(error.into());
                }
            };
        }
    }

    async fn look_up(&self, claim: &Claim) -> Result<Option<Outcome>, Error> {
        let kept = self.outcomes.find(&claim.key, claim.at).await?;
        kept.map(|kept| same_request(claim, kept)).transpose()
    }

    fn known(&self, key: &Key, first: Option<&Waiting>) -> Option<Known> {
        if let Some(state) = self.states.get(key) {
            return Some(Known::State(state));
        }
        first.filter(|waiting| waiting.command.expects_new_key()).map(|_| Known::LikelyNew)
    }

    async fn read_state(&self, stream: &StreamId) -> Result<AnswerState, Error> {
        let last = self.events.last(stream).await?;
        Ok(last.map(|last| state_after(&last)).transpose()?.unwrap_or_default())
    }
}

/// The state that a stream's last event leaves: it says all that matters.
fn state_after(last: &RecordedEvent) -> Result<AnswerState, Error> {
    let event = AnswerEvent::from_recorded(last)?;
    let recorded_at = last.event.metadata.recorded_at;
    Ok(evolve(event.kind(), LastEvent { revision: last.revision, position: last.position, recorded_at }))
}

fn same_request(claim: &Claim, kept: Kept) -> Result<Outcome, Error> {
    if kept.fingerprint == claim.fingerprint { Ok(kept.outcome) } else { Err(Error::KeyReused) }
}

fn fail(run: Vec<Waiting>, error: &Error) {
    for waiting in run {
        let _ = waiting.reply.send(Err(error.clone()));
    }
}

/// What a run of commands comes to on a state, before it is appended.
struct Plan {
    events: Vec<NewEvent>,
    kinds: Vec<Happened>,
    /// When the last of the events is recorded.
    recorded_at: Timestamp,
    /// The revision of the first: where it is expected, then where it was stored.
    first: Revision,
    steps: Vec<Step>,
}

enum Step {
    /// The event with this place in the run.
    Event(usize),
    Refused(RefusedAfter),
}

/// A refusal, and how many events of the run come before it.
struct RefusedAfter {
    refusal: Refusal,
    events: usize,
}

impl Plan {
    fn new<'a>(start: AnswerState, commands: impl Iterator<Item = &'a AnswerCommand>, now: Timestamp) -> Self {
        // Clocks go back; within a stream time does not.
        let recorded_at = start.last.map_or(now, |last| last.recorded_at.max(now));
        let first = ExpectedRevision::from(start.revision()).first_new();
        let mut plan = Self { events: Vec::new(), kinds: Vec::new(), recorded_at, first, steps: Vec::new() };
        let mut state = start;
        for command in commands {
            let events = plan.events.len();
            match decide(&state, command) {
                Ok(event) => {
                    plan.events.push(event.to_new(Uuid::new_v4(), recorded_at));
                    plan.kinds.push(event.kind());
                    plan.steps.push(Step::Event(events));
                    let revision = Revision(first.0 + events as u64);
                    state = evolve(event.kind(), LastEvent { revision, position: Position::START, recorded_at });
                }
                Err(refusal) => plan.steps.push(Step::Refused(RefusedAfter { refusal, events })),
            }
        }
        plan
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.steps.first()? {
            Step::Refused(after) => Some(after.refusal),
            Step::Event(_) => None,
        }
    }

    /// The state that the appended events leave.
    fn end(&self, positions: &[Position]) -> AnswerState {
        let (Some(kind), Some(position)) = (self.kinds.last(), positions.last()) else { return AnswerState::default() };
        let revision = Revision(self.first.0 + self.kinds.len() as u64 - 1);
        evolve(*kind, LastEvent { revision, position: *position, recorded_at: self.recorded_at })
    }

    fn outcome(&self, step: &Step, start: AnswerState, positions: &[Position]) -> Outcome {
        match step {
            Step::Event(index) => Outcome::Done(Receipt {
                event: self.kinds[*index],
                revision: Revision(self.first.0 + *index as u64),
                position: positions.get(*index).copied().unwrap_or_default(),
            }),
            Step::Refused(RefusedAfter { refusal, events }) => {
                let own = events.checked_sub(1).and_then(|last| positions.get(last)).copied();
                let position = own.or(start.last.map(|last| last.position));
                Outcome::Refused(Refused { refusal: *refusal, position })
            }
        }
    }

    fn answer(&self, run: Vec<Waiting>, start: AnswerState, positions: &[Position]) {
        for (waiting, step) in run.into_iter().zip(&self.steps) {
            let _ = waiting.reply.send(Ok(self.outcome(step, start, positions)));
        }
    }

    /// Answers after a failed append: what rests on the events of the run failed
    /// with them, earlier refusals stand.
    fn fail(&self, run: Vec<Waiting>, start: AnswerState, error: &Error) {
        for (waiting, step) in run.into_iter().zip(&self.steps) {
            let stands = matches!(step, Step::Refused(RefusedAfter { events: 0, .. }));
            let outcome = if stands { Ok(self.outcome(step, start, &[])) } else { Err(error.clone()) };
            let _ = waiting.reply.send(outcome);
        }
    }
}
