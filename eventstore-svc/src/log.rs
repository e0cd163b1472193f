//! Commands on the event log: record what was sent in, amend and delete it, register
//! sessions.
//!
//! What a request records goes into streams of its own, each element by itself. Under
//! an `Idempotency-Key` the request first keeps a random seed and its time: ids and
//! times come from these, so that a repetition appends the same events, and with that
//! only those that are missing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use shared::clock;
use shared::domain::answer::Condition;
use shared::domain::log_event::{
    Amendment, Denied, LogAsk, LogCommand, LogEvent, LogEventState, LogFact, MAX_REJECTION_BYTES, Members, Rejection,
    Session, decide, keepable, recording,
};
use shared::domain::members::{Checked, InvalidEvent};
use shared::domain::outcome::{Begun, Fingerprint, Happened, IdempotencyKey, Kept, Outcome, Receipt, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, Revision, StreamId, Subject};
use shared::domain::time::Timestamp;
use shared::error::Error;
use shared::metrics::Metrics;
use shared::ports::{
    Append, Appended, Claim, ClaimedAppend, Direction, EventRef, EventStore, Outcomes, Record, StoreError,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::places::{Place, Places, units};
use crate::turns::Turns;

/// What all waiting commands may take.
const WAITING_BYTES: usize = 128 * 1024 * 1024;
/// So many elements, or about so many bytes of them, are on their way to the store at
/// once: a large request must not hold up the others.
const PIECE: usize = 512;
const PIECE_BYTES: usize = 1024 * 1024;
/// What an element takes while it waits, beside its own bytes.
const ELEMENT_BYTES: usize = 1024;
/// How long a change is tried again when others append to the same stream.
const CONFLICT_TIME: Duration = Duration::from_secs(5);
/// How many sessions are remembered.
const SESSIONS: usize = 100_000;

/// Takes commands on the event log.
#[derive(Clone)]
pub struct LogCommands(Arc<Inner>);

struct Inner {
    events: Arc<dyn EventStore>,
    outcomes: Arc<dyn Outcomes>,
    metrics: Arc<Metrics>,
    /// Sessions that are registered; they never go away.
    sessions: Cache<Uuid, ()>,
    turns: Turns,
    waiting: Places,
}

/// What makes a request safe to repeat.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub key: IdempotencyKey,
    /// Of the request: method, path, conditions and body.
    pub fingerprint: Fingerprint,
}

/// One element of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// An event. A session that is new becomes a known one.
    Record(Members),
    /// An event of a session that must be known; else it is kept as refused. (A request
    /// with such an element has no other.)
    RecordIfKnown(Members, Refuse),
    /// Kept as refused.
    Reject(Refuse),
}

/// What becomes a rejection.
#[derive(Clone, Debug, PartialEq)]
pub struct Refuse {
    pub message: String,
    /// What was sent; what is too long or too deep is kept as the beginning of its text.
    pub data: serde_json::Value,
}

/// What an element became.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    Event(Record),
    Rejection(Arc<Rejection>),
}

impl Stored {
    /// Of the event behind it.
    pub fn position(&self) -> Position {
        match self {
            Self::Event(record) => record.position,
            Self::Rejection(rejection) => Position(rejection.number),
        }
    }
}

/// An element on its way.
struct Planned {
    id: Uuid,
    kind: Kind,
    stream: StreamId,
    event: NewEvent,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
enum Kind {
    Event(Members),
    Rejection(Refuse),
}

impl LogCommands {
    /// Commands on these stores.
    pub fn new(events: Arc<dyn EventStore>, outcomes: Arc<dyn Outcomes>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            events,
            outcomes,
            metrics,
            sessions: Cache::new(SESSIONS),
            turns: Turns::default(),
            waiting: Places::new(WAITING_BYTES),
        }))
    }

    /// Records the elements of a request, each by itself; the outcomes are in their
    /// order. The key is looked up first. `entries` gets the request's time, on a
    /// repetition the first one's, and must say the same each time that it is asked.
    ///
    /// # Errors
    /// What `entries` says; `KeyReused`; `Busy` if too much is waiting; or if the key
    /// cannot be looked up or kept. Then nothing was stored.
    pub async fn record<E: From<Error>>(
        &self,
        keyed: Option<Keyed>,
        mut entries: impl FnMut(Timestamp) -> Result<Vec<Entry>, E>,
    ) -> Result<Vec<Result<Stored, Error>>, E> {
        let now = clock::now();
        let claim = keyed.map(|Keyed { key, fingerprint }| Claim { key, fingerprint, at: now });
        let mut begun = match &claim {
            Some(claim) => self.0.begun(claim).await?,
            None => None,
        };
        let checked = |entries: Vec<Entry>| entries.into_iter().map(Sound::check).collect::<Vec<_>>();
        let mut sound = checked(entries(begun.map_or(now, |begun| begun.at))?);
        let _place = self.0.place_for(&sound)?;
        if sound.iter().all(Result::is_err) {
            let error = |sound: Result<Sound, InvalidEvent>| sound.map_or_else(|e| Some(Err(e.into())), |_| None);
            return Ok(sound.into_iter().filter_map(error).collect());
        }
        let rejected = match begun {
            Some(begun) => begun.rejected,
            None => self.0.rejects(&sound).await?,
        };
        if let (Some(claim), None) = (&claim, begun) {
            let stands = self.0.keep_begun(claim, rejected).await?;
            if stands.at != now {
                sound = checked(entries(stands.at)?);
            }
            begun = Some(stands);
        }
        let rejected = begun.map_or(rejected, |begun| begun.rejected);
        let at = begun.map_or(now, |begun| begun.at);
        let planned = (0..).zip(sound).map(|(index, sound)| {
            let id = begun.map_or_else(Uuid::new_v4, |begun| derived(begun.seed, index));
            sound.map(|sound| sound.plan(id, rejected, at))
        });
        Ok(self.0.record(planned.collect(), at).await)
    }

    /// Changes the members of a log event. Racing changes lose nothing.
    ///
    /// # Errors
    /// `EventNotFound`, `NotMatched`, `Matched`; `Invalid` if what it would leave is no
    /// event; `KeyReused`; `Busy`; or if the store fails.
    pub async fn amend(
        &self,
        target: EventRef,
        amendment: Amendment,
        condition: Condition,
        keyed: Option<Keyed>,
    ) -> Result<Record, Error> {
        let command = LogCommand { ask: LogAsk::Amend(amendment), condition };
        let changed = self.0.counted("amend_event", self.0.change(target, &command, keyed)).await?;
        match changed {
            Changed::Now { event: Some(event), receipt: Receipt { revision, position, .. } } => {
                Ok(Record { event, revision, position })
            }
            Changed::Now { event: None, receipt } | Changed::Before(receipt) => self.0.as_it_was(target, receipt).await,
        }
    }

    /// Deletes a log event.
    ///
    /// # Errors
    /// As `amend`.
    pub async fn delete(&self, target: EventRef, condition: Condition, keyed: Option<Keyed>) -> Result<Receipt, Error> {
        let command = LogCommand { ask: LogAsk::Delete, condition };
        match self.0.counted("delete_event", self.0.change(target, &command, keyed)).await? {
            Changed::Now { receipt, .. } | Changed::Before(receipt) => Ok(receipt),
        }
    }

    /// Registers a session: a new one, or the caller's own, which may be known already.
    ///
    /// # Errors
    /// `KeyReused`; `Busy`; or if the store fails.
    pub async fn register(&self, id: Option<Uuid>, keyed: Option<Keyed>) -> Result<Arc<Session>, Error> {
        self.0.counted("register_session", self.0.register(id, keyed)).await
    }

    /// Looks a key up for a request that may be refused before it comes to a command.
    ///
    /// # Errors
    /// `KeyReused`; or if the key cannot be looked up.
    pub async fn check_key(&self, keyed: Option<&Keyed>) -> Result<(), Error> {
        let Some(Keyed { key, fingerprint }) = keyed else { return Ok(()) };
        match self.0.outcomes.find(key, clock::now()).await? {
            Some(kept) if kept.fingerprint != *fingerprint => Err(Error::KeyReused),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a session is registered.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn knows_session(&self, id: Uuid) -> Result<bool, Error> {
        self.0.knows_session(id).await
    }
}

/// An id that nobody can guess who does not know the seed: a UUID of version 4.
fn derived(seed: Uuid, index: u64) -> Uuid {
    let hash = Sha256::new().chain_update(seed.as_bytes()).chain_update(index.to_be_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// An element that can be stored.
#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
enum Sound {
    Event(Checked, Option<Refuse>),
    Rejection(Refuse),
}

impl Sound {
    fn check(entry: Entry) -> Result<Self, InvalidEvent> {
        Ok(match entry {
            Entry::Record(members) => Self::Event(members.check()?, None),
            Entry::RecordIfKnown(members, refuse) => Self::Event(members.check()?, Some(refuse.keepable())),
            Entry::Reject(refuse) => Self::Rejection(refuse.keepable()),
        })
    }

    /// About what it takes while it waits: an event is held as text and as members.
    fn bytes(&self) -> usize {
        ELEMENT_BYTES
            + match self {
                Self::Event(members, _) => 2 * members.json().len(),
                Self::Rejection(_) => MAX_REJECTION_BYTES,
            }
    }

    fn plan(self, id: Uuid, rejected: bool, at: Timestamp) -> Planned {
        match self {
            Self::Rejection(refuse) => refuse.plan(id, at),
            Self::Event(_, Some(refuse)) if rejected => refuse.plan(id, at),
            Self::Event(members, _) => {
                let (stream, event) = recording(id, &members, at);
                Planned { id, kind: Kind::Event(members.into_members()), stream, event }
            }
        }
    }
}

impl Refuse {
    fn keepable(self) -> Self {
        Self { data: keepable(self.data), ..self }
    }

    fn plan(self, id: Uuid, at: Timestamp) -> Planned {
        let event = Rejection::to_new(id, &self.message, self.data.clone(), at);
        Planned { id, kind: Kind::Rejection(self), stream: StreamId::of_rejection(id), event }
    }
}

impl Planned {
    fn session(&self) -> Option<Uuid> {
        match &self.kind {
            Kind::Event(members) => members.session_id,
            Kind::Rejection(_) => None,
        }
    }

    /// What it is once it is stored.
    fn stored(id: Uuid, kind: Kind, at: Timestamp, position: Position) -> Stored {
        match kind {
            Kind::Event(members) => {
                let event = Arc::new(LogEvent { id, number: position.0, created_at: at, members });
                Stored::Event(Record { event, revision: Revision::FIRST, position })
            }
            Kind::Rejection(Refuse { message, data }) => {
                Stored::Rejection(Arc::new(Rejection { id, number: position.0, message, data, created_at: at }))
            }
        }
    }
}

/// What a change came to.
enum Changed {
    /// It happened now, and this is what it left.
    Now { receipt: Receipt, event: Option<Arc<LogEvent>> },
    /// It happened when the request came first.
    Before(Receipt),
}

impl Changed {
    fn receipt(&self) -> Receipt {
        match self {
            Self::Now { receipt, .. } | Self::Before(receipt) => *receipt,
        }
    }
}

/// A result that is counted.
trait Counted {
    fn name(&self) -> &'static str;
}

impl Counted for Changed {
    fn name(&self) -> &'static str {
        match self.receipt().event {
            Happened::Created => "created",
            Happened::Updated => "amended",
            Happened::Deleted => "deleted",
        }
    }
}

impl Counted for Arc<Session> {
    fn name(&self) -> &'static str {
        "registered"
    }
}

impl Counted for Stored {
    fn name(&self) -> &'static str {
        match self {
            Self::Event(_) => "recorded",
            Self::Rejection(_) => "rejected",
        }
    }
}

/// The name under which an outcome is counted.
fn name_of(outcome: &Result<impl Counted, Error>) -> &'static str {
    match outcome {
        Ok(done) => done.name(),
        Err(Error::Refused(Refused { refusal: Refusal::EventNotFound, .. })) => "event_not_found",
        Err(Error::Refused(_)) => "precondition_failed",
        Err(Error::Invalid(_)) => "invalid",
        Err(_) => "failed",
    }
}

impl Inner {
    async fn counted<T: Counted>(
        &self,
        verb: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let outcome = work.await;
        self.metrics.commands.with_label_values(&[verb, name_of(&outcome)]).inc();
        outcome
    }

    fn place_for(&self, sound: &[Result<Sound, InvalidEvent>]) -> Result<Place, Error> {
        let bytes = sound.iter().flatten().map(Sound::bytes).sum();
        self.waiting.take(units(bytes)).ok_or(Error::Failed(StoreError::Busy))
    }

    /// Whether a request becomes a rejection because its session is not known.
    async fn rejects(&self, sound: &[Result<Sound, InvalidEvent>]) -> Result<bool, Error> {
        for sound in sound.iter().flatten() {
            if let Sound::Event(members, Some(_)) = sound {
                let known = match members.members().session_id {
                    Some(session) => self.knows_session(session).await?,
                    None => false,
                };
                if !known {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn knows_session(&self, id: Uuid) -> Result<bool, Error> {
        if self.sessions.get(&id).is_some() {
            return Ok(true);
        }
        let known = self.events.last(&StreamId::of_session(id)).await?.is_some();
        if known {
            self.sessions.insert(id, ());
        }
        Ok(known)
    }

    /// What the request began with when it came before.
    async fn begun(&self, claim: &Claim) -> Result<Option<Begun>, Error> {
        let kept = self.outcomes.find(&claim.key, claim.at).await?;
        kept.map(|kept| as_begun(claim, kept)).transpose()
    }

    /// Keeps what the request begins with. Of racing ones, one stands.
    async fn keep_begun(&self, claim: &Claim, rejected: bool) -> Result<Begun, Error> {
        let begun = Begun { seed: Uuid::new_v4(), at: claim.at, rejected };
        as_begun(claim, self.outcomes.keep(claim, Outcome::Begun(begun)).await?)
    }

    /// Appends what is planned, sessions first.
    async fn record(&self, planned: Vec<Result<Planned, InvalidEvent>>, at: Timestamp) -> Vec<Result<Stored, Error>> {
        let sessions = planned.iter().flatten().filter_map(Planned::session);
        let unregistered = self.register_all(sessions.collect(), at).await;
        let mut outcomes = Vec::with_capacity(planned.len());
        let mut planned = planned.into_iter().peekable();
        let mut away = None;
        while planned.peek().is_some() {
            let mut appends = Vec::new();
            let mut bytes = 0;
            let mut piece = Vec::new();
            while let Some(next) = planned.next_if(|_| appends.len() < PIECE && bytes < PIECE_BYTES) {
                piece.push(match next {
                    Err(invalid) => Err(Error::Invalid(invalid)),
                    Ok(planned) => match planned.session().and_then(|session| unregistered.get(&session)) {
                        Some(error) => Err(Error::Failed(error.clone())),
                        None => {
                            let Planned { id, kind, stream, event } = planned;
                            bytes += event.data.len();
                            appends.push(Append { stream, expected: ExpectedRevision::NoStream, events: vec![event] });
                            Ok((id, kind))
                        }
                    },
                });
            }
            let mut appended = self.append_piece(appends, &mut away).await.into_iter();
            outcomes.extend(piece.into_iter().map(|element| {
                let (id, kind) = element?;
                let lost = || Err(StoreError::OutcomeUnknown { what: "the event log", source: None });
                let appended = appended.next().unwrap_or_else(lost)?;
                Ok(Planned::stored(id, kind, at, position_of(&appended)))
            }));
        }
        self.count_records(&outcomes);
        outcomes
    }

    /// Appends, unless the store was found away already.
    async fn append_piece(
        &self,
        appends: Vec<Append>,
        away: &mut Option<StoreError>,
    ) -> Vec<Result<Appended, StoreError>> {
        if let Some(error) = away {
            return appends.iter().map(|_| Err(error.clone())).collect();
        }
        if appends.is_empty() {
            return Vec::new();
        }
        let appended = self.events.append_each(appends).await;
        *away = appended.iter().find_map(|outcome| not_begun(outcome.as_ref().err()?));
        appended
    }

    fn count_records(&self, outcomes: &[Result<Stored, Error>]) {
        let mut counts: Vec<(&'static str, u64)> = Vec::new();
        for name in outcomes.iter().map(name_of) {
            match counts.iter_mut().find(|(counted, _)| *counted == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        for (name, count) in counts {
            self.metrics.commands.with_label_values(&["record_event", name]).inc_by(count);
        }
    }

    /// Makes sessions known that are not; answers with those where that failed.
    async fn register_all(&self, sessions: Vec<Uuid>, at: Timestamp) -> HashMap<Uuid, StoreError> {
        let mut unknown = sessions;
        unknown.retain(|session| self.sessions.get(session).is_none());
        unknown.sort_unstable();
        unknown.dedup();
        let (mut failed, mut away) = (HashMap::new(), None);
        for piece in unknown.chunks(PIECE) {
            let appends = piece.iter().map(|session| registration(*session, at)).collect();
            for (session, appended) in piece.iter().zip(self.append_piece(appends, &mut away).await) {
                match appended {
                    // A conflict: it is registered by another event than ours.
                    Ok(_) | Err(StoreError::Conflict) => self.sessions.insert(*session, ()),
                    Err(error) => drop(failed.insert(*session, error)),
                }
            }
        }
        failed
    }

    async fn register(&self, id: Option<Uuid>, keyed: Option<Keyed>) -> Result<Arc<Session>, Error> {
        let _place = self.waiting.take(units(0)).ok_or(StoreError::Busy)?;
        let now = clock::now();
        let claim = keyed.map(|Keyed { key, fingerprint }| Claim { key, fingerprint, at: now });
        let begun = match &claim {
            None => None,
            Some(claim) => match self.begun(claim).await? {
                Some(begun) => Some(begun),
                None => Some(self.keep_begun(claim, false).await?),
            },
        };
        let at = begun.map_or(now, |begun| begun.at);
        let own = id;
        let id = id.unwrap_or_else(|| begun.map_or_else(Uuid::new_v4, |begun| derived(begun.seed, 0)));
        let Append { stream, expected, events } = registration(id, at);
        let appended = match self.events.append(&stream, expected, events).await {
            Ok(appended) => Some(appended),
            Err(StoreError::Conflict) => None,
            Err(error) => return Err(error.into()),
        };
        self.sessions.insert(id, ());
        match appended {
            Some(appended) if own.is_none() => {
                Ok(Arc::new(Session { id, created_at: at, position: position_of(&appended) }))
            }
            // Somebody may have registered it before.
            _ => {
                let first = self.events.read(&stream, Revision::FIRST, Direction::Forwards, 1).await?.pop();
                Ok(Arc::new(Session::from_recorded(&first.ok_or(StoreError::Conflict)?)?))
            }
        }
    }

    async fn change(&self, target: EventRef, command: &LogCommand, keyed: Option<Keyed>) -> Result<Changed, Error> {
        let _place = self.waiting.take(units(ELEMENT_BYTES + command.size())).ok_or(StoreError::Busy)?;
        let claim = keyed.map(|Keyed { key, fingerprint }| Claim { key, fingerprint, at: clock::now() });
        if let Some(claim) = &claim
            && let Some(kept) = self.outcomes.find(&claim.key, claim.at).await?
        {
            return as_changed(claim, kept);
        }
        let Some(id) = self.resolve(target).await? else {
            return self.denied(claim.as_ref(), Refusal::EventNotFound, None).await;
        };
        let _turn = self.turns.take(id).await;
        let stream = StreamId::of_event(id);
        let deadline = Instant::now() + CONFLICT_TIME;
        loop {
            let last = self.events.last(&stream).await?;
            let state = last.as_ref().map(LogEventState::after).transpose()?.unwrap_or_default();
            let fact = match decide(&state, command) {
                Ok(fact) => fact,
                Err(Denied::Invalid(invalid)) => return Err(invalid.into()),
                Err(Denied::Refused(refusal)) => {
                    let position = state.last.map(|last| last.position);
                    return self.denied(claim.as_ref(), refusal, position).await;
                }
            };
            match self.append_fact(claim.as_ref(), id, &state, fact).await {
                Err(Error::Failed(StoreError::Conflict)) if Instant::now() < deadline => {}
                changed => return changed,
            }
        }
    }

    /// Appends what was decided, behind the state that it was decided on.
    async fn append_fact(
        &self,
        claim: Option<&Claim>,
        id: Uuid,
        state: &LogEventState,
        fact: LogFact,
    ) -> Result<Changed, Error> {
        // Clocks go back; within a stream time does not.
        let now = clock::now();
        let recorded_at = state.last.map_or(now, |last| last.recorded_at.max(now));
        let (stream, expected) = (StreamId::of_event(id), ExpectedRevision::from(state.revision()));
        let event = fact.to_new(Uuid::new_v4(), recorded_at);
        let (kind, left) = match fact {
            LogFact::Recorded(_) => (Happened::Created, None),
            LogFact::Amended { number, created_at, members } => {
                let session = members.session_id.into_iter().collect();
                if let Some((_, error)) = self.register_all(session, now).await.into_iter().next() {
                    return Err(error.into());
                }
                (Happened::Updated, Some(Arc::new(LogEvent { id, number, created_at, members })))
            }
            LogFact::Deleted { .. } => (Happened::Deleted, None),
        };
        let appended = match claim {
            None => self.events.append(&stream, expected, vec![event]).await?,
            Some(claim) => match self.outcomes.append(claim, &stream, expected, event, kind).await? {
                ClaimedAppend::Appended(appended) => appended,
                ClaimedAppend::Taken(kept) => return as_changed(claim, kept),
            },
        };
        let receipt = Receipt { event: kind, revision: appended.first, position: position_of(&appended) };
        Ok(Changed::Now { receipt, event: left })
    }

    /// Answers with a refusal, which is kept under the request's key.
    async fn denied(
        &self,
        claim: Option<&Claim>,
        refusal: Refusal,
        position: Option<Position>,
    ) -> Result<Changed, Error> {
        let refused = Refused { refusal, position };
        match claim {
            None => Err(Error::Refused(refused)),
            Some(claim) => as_changed(claim, self.outcomes.keep(claim, Outcome::Refused(refused)).await?),
        }
    }

    /// The id of an event. An integer id is the position of a recording.
    async fn resolve(&self, target: EventRef) -> Result<Option<Uuid>, Error> {
        let number = match target {
            EventRef::Id(id) => return Ok(Some(id)),
            EventRef::Number(number) if number > Position::MAX.0 => return Ok(None),
            EventRef::Number(number) => number,
        };
        let Some(recorded) = self.events.at(Position(number)).await? else { return Ok(None) };
        let Some(Subject::Event(_)) = recorded.stream.subject() else { return Ok(None) };
        let (id, fact) = LogFact::from_recorded(&recorded)?;
        Ok(matches!(fact, LogFact::Recorded(_)).then_some(id))
    }

    /// An event as a change left it.
    async fn as_it_was(&self, target: EventRef, receipt: Receipt) -> Result<Record, Error> {
        let id = self.resolve(target).await?.ok_or_else(Error::no_event)?;
        let stream = StreamId::of_event(id);
        let recorded = self.events.read(&stream, receipt.revision, Direction::Forwards, 1).await?.pop();
        let recorded = recorded.ok_or_else(Error::no_event)?;
        let event = LogEventState::after(&recorded)?.event.ok_or_else(Error::no_event)?;
        Ok(Record { event, revision: recorded.revision, position: recorded.position })
    }
}

fn registration(session: Uuid, at: Timestamp) -> Append {
    let (stream, event) = (StreamId::of_session(session), Session::to_new(session, at));
    Append { stream, expected: ExpectedRevision::NoStream, events: vec![event] }
}

fn position_of(appended: &Appended) -> Position {
    appended.positions.first().copied().unwrap_or_default()
}

/// What those are told that were not begun because a store is away; none if the error
/// concerns one append alone.
fn not_begun(error: &StoreError) -> Option<StoreError> {
    match error {
        StoreError::Conflict | StoreError::Corrupt { .. } => None,
        StoreError::OutcomeUnknown { what, .. } => Some(StoreError::Unavailable { what, source: None }),
        StoreError::Busy | StoreError::Full { .. } | StoreError::Unavailable { .. } | StoreError::Foreign { .. } => {
            Some(error.clone())
        }
    }
}

fn same_request(claim: &Claim, kept: Kept) -> Result<Outcome, Error> {
    if kept.fingerprint == claim.fingerprint { Ok(kept.outcome) } else { Err(Error::KeyReused) }
}

fn as_begun(claim: &Claim, kept: Kept) -> Result<Begun, Error> {
    match same_request(claim, kept)? {
        Outcome::Begun(begun) => Ok(begun),
        Outcome::Done(_) | Outcome::Refused(_) => Err(Error::KeyReused),
    }
}

fn as_changed(claim: &Claim, kept: Kept) -> Result<Changed, Error> {
    match same_request(claim, kept)? {
        Outcome::Done(receipt) => Ok(Changed::Before(receipt)),
        Outcome::Refused(refused) => Err(Error::Refused(refused)),
        Outcome::Begun(_) => Err(Error::KeyReused),
    }
}
