//! `MongoViews`: the read store in MongoDB, from 5.0 on; a standalone server will do.
//!
//! One document (`meta`) says which log the views are of, how far they are, in which
//! collection their rows lie and whose turn it is to write them (`lease`). Rows are
//! absolute and guarded by their position (`rows`), and they are written before the
//! checkpoint: a crash anywhere repeats work and never skips or undoes it.

mod connection;
mod lease;
mod log;
mod meta;
mod rows;
mod waiting;
mod write;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mongodb::Database;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use connection::{InvalidUrl, Options, Serves};

use super::progress::Progress;
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::{Changes, EventChange, fold};
use crate::domain::stream::Position;
use crate::ports::{
    AnswersPage, AnswersQuery, Checkpoint, Generation, Health, LogId, Seen, StoreError, ViewReader, ViewWriter,
};
use connection::Connection;
use lease::Turn;
use meta::{Looks, Meta, Rows};
use waiting::Waiting;

/// How old the meta document may be that a read of one answer goes by: its own row
/// says what the answer rests on.
const FRESH: Duration = Duration::from_millis(20);
/// How often whoever stands by asks for the turn.
const STAND_BY: Duration = Duration::from_secs(1);
/// How often a list is read again because its rows were replaced meanwhile.
const ATTEMPTS: usize = 3;

/// The views in a MongoDB database.
#[derive(Clone)]
pub struct MongoViews(Arc<Inner>);

struct Inner {
    connection: Connection,
    serves: Serves,
    /// What `resume` found about the views.
    verdict: RwLock<Verdict>,
    looks: Looks,
    /// How far the views are, as far as this process knows, and of which views that is.
    reached: Progress,
    known: Mutex<Option<String>>,
    waiting: Arc<Waiting>,
    poller: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Who this process is to the lease.
    holder: Uuid,
    /// This process's turn to write; none while it has none.
    turn: watch::Sender<Option<Turn>>,
    renewal: Mutex<Option<AbortOnDropHandle<()>>>,
    runtime: Handle,
}

/// Whether the views are those of the log at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Own(LogId),
    Foreign(String),
}

impl MongoViews {
    /// Views that connect when they are first used, and again whenever the database
    /// returns: it need not be there yet. Call it on the runtime that outlives all use.
    ///
    /// # Errors
    /// If the connection string is none.
    pub fn connect(options: Options) -> Result<Self, InvalidUrl> {
        let views = Self(Arc::new(Inner {
            connection: Connection::new(&options)?,
            serves: options.serves,
            verdict: RwLock::new(Verdict::Unknown),
            looks: Looks::default(),
            reached: Progress::new(0),
            known: Mutex::default(),
            waiting: Arc::default(),
            poller: Mutex::default(),
            holder: Uuid::new_v4(),
            turn: watch::Sender::new(None),
            renewal: Mutex::default(),
            runtime: Handle::current(),
        }));
        let poller = waiting::poll(views.0.waiting.clone(), Arc::downgrade(&views.0));
        *views.0.poller.lock() = Some(AbortOnDropHandle::new(tokio::spawn(poller)));
        Ok(views)
    }

    /// Gives the turn to write to whoever waits for it. Without this they wait until
    /// the lease has run out.
    pub async fn close(&self) {
        let Some(turn) = self.0.turn.send_replace(None) else { return };
        self.0.renewal.lock().take();
        let released = async { lease::release(self.0.connection.database().await?, &turn).await };
        if let Err(error) = released.await {
            tracing::warn!(error = %error.chain(), "the lease of the views could not be released; it runs out");
        }
    }
}

impl Inner {
    async fn database(&self) -> Result<&Database, StoreError> {
        self.connection.database().await
    }

    /// The meta document as it was at this moment or later; none before anything was
    /// projected.
    async fn look(&self, since: Instant) -> Result<Option<Meta>, StoreError> {
        self.looks
            .since(since, || async {
                let found = meta::find(self.database().await?).await?;
                self.note(found.as_ref());
                Ok(found)
            })
            .await
    }

    /// The meta document of views that may be shown.
    async fn shown(&self, since: Instant) -> Result<Option<Meta>, StoreError> {
        self.check_verdict()?;
        let found = self.look(since).await?;
        if let Some(why) = found.as_ref().and_then(|meta| meta.unknown_format(self.connection.name())) {
            return Err(StoreError::Foreign { why });
        }
        match (self.serves, &*self.verdict.read(), &found) {
            (Serves::AnyLog, _, _) => Ok(found),
            (Serves::OwnLog, Verdict::Own(log), Some(meta)) => match meta.other_log(*log, self.connection.name()) {
                None => Ok(found),
                Some(why) => Err(StoreError::Foreign { why }),
            },
            (Serves::OwnLog, _, _) => Err(UNMATCHED),
        }
    }

    /// Fails where only the views of the own log may be shown and it is not certain
    /// that they are.
    fn check_verdict(&self) -> Result<(), StoreError> {
        match (self.serves, &*self.verdict.read()) {
            (Serves::AnyLog, _) | (_, Verdict::Own(_)) => Ok(()),
            (_, Verdict::Foreign(why)) => Err(StoreError::Foreign { why: why.clone() }),
            (_, Verdict::Unknown) => Err(UNMATCHED),
        }
    }

    /// Takes note of how far the views are. Other views than before, in a database that
    /// was emptied, begin again.
    fn note(&self, meta: Option<&Meta>) {
        let mut known = self.known.lock();
        let views = meta.map(|meta| meta.views.clone());
        if *known != views {
            if known.is_some() {
                self.reached.put_back();
            }
            *known = views;
        }
        self.reached.advance(meta.map_or(0, |meta| meta.checkpoint().position().0));
    }

    fn foreign(&self, why: String) -> StoreError {
        *self.verdict.write() = Verdict::Foreign(why.clone());
        StoreError::Foreign { why }
    }

    /// Lets reads show these views from now on.
    fn own(&self, log: LogId, meta: &Meta) {
        let mut verdict = self.verdict.write();
        if *verdict != Verdict::Own(log) {
            let (database, position) = (self.connection.name(), meta.checkpoint().position().0);
            tracing::info!(database, position, "the views are of this log");
            *verdict = Verdict::Own(log);
        }
    }

    /// Waits for the turn to write the views of this log.
    async fn take_turn(&self, log: LogId) -> Result<Meta, StoreError> {
        let mut told = false;
        loop {
            let database = self.database().await?;
            let meta = meta::find_or_make(database, log).await?;
            let name = self.connection.name();
            if let Some(why) = meta.unknown_format(name).or_else(|| meta.other_log(log, name)) {
                return Err(self.foreign(why));
            }
            if let Some(meta) = lease::take(database, &meta, self.holder).await? {
                return Ok(meta);
            }
            // Whoever has the turn knows that the views are not ahead of the log.
            self.own(log, &meta);
            if !told {
                tracing::info!("another process projects; standing by");
                told = true;
            }
            tokio::time::sleep(STAND_BY).await;
        }
    }

    /// Begins the turn that was taken, or goes on with it.
    fn begin(self: &Arc<Self>, meta: &Meta) {
        let turn = Turn::new(meta, self.holder);
        let goes_on = self.turn.borrow().as_ref().is_some_and(|now| now.is(&turn));
        self.turn.send_replace(Some(turn.clone()));
        if !goes_on {
            let renewal = self.runtime.spawn(renew(Arc::downgrade(self), turn));
            *self.renewal.lock() = Some(AbortOnDropHandle::new(renewal));
        }
    }

    /// Ends a turn that another process may have now.
    fn lose(&self, turn: &Turn) {
        self.turn.send_if_modified(|now| {
            let is_it = now.as_ref().is_some_and(|now| now.is(turn));
            if is_it {
                *now = None;
            }
            is_it
        });
    }

    /// Writes rows, then the checkpoint.
    async fn write(&self, turn: &Turn, changes: Changes, to: Checkpoint) -> Result<(), StoreError> {
        let database = self.database().await?;
        let Changes { mut answers, log, parked: _ } = changes;
        let removed = answers.iter().filter(|change| change.value.is_none()).map(|change| change.position).max();
        if let Some(unseen) = removed.max(log::unseen(&log))
            && !meta::announce(database, turn, unseen).await?
        {
            return Err(StoreError::Conflict);
        }
        let growth = log::growth(&log);
        fold(&mut answers);
        let of_answers = turn.rows.answers();
        tokio::try_join!(
            write::write(database, &of_answers, answers.iter().map(rows::put).collect()),
            log::put(database, &turn.rows, log),
        )?;
        if meta::advance(database, turn, to, growth).await? { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Reads one row; `at` tells the position that it rests on.
    async fn one<T, F>(
        &self,
        find: impl FnOnce(Database, Rows) -> F,
        at: impl Fn(&T) -> Position,
    ) -> Result<Seen<Option<T>>, StoreError>
    where
        F: Future<Output = Result<Option<T>, StoreError>>,
    {
        let Some(meta) = self.shown(Instant::now() - FRESH).await? else { return Ok(nothing(None)) };
        let found = find(self.database().await?.clone(), meta.rows()).await?;
        let position = found.as_ref().map_or(Position::START, at);
        let position = position.max(meta.checkpoint().position()).max(Position(self.reached.get()));
        Ok(Seen { found, position })
    }

    /// Reads many rows, or none by what they leave out; `none` is what there is before
    /// anything was projected. Where the rows were replaced meanwhile it reads again.
    async fn listed<T, F>(&self, none: T, list: impl Fn(Database, Rows) -> F) -> Result<Seen<T>, StoreError>
    where
        F: Future<Output = Result<Seen<T>, StoreError>>,
    {
        let mut before = self.shown(Instant::now() - FRESH).await?;
        for _ in 0..ATTEMPTS {
            let Some(meta) = before else { return Ok(nothing(none)) };
            let seen = list(self.database().await?.clone(), meta.rows()).await?;
            // What leaves no row in a list is covered by `ahead`, read behind it.
            let after = self.shown(Instant::now()).await?;
            if let Some(after) = after.as_ref().filter(|after| after.rows() == meta.rows()) {
                let position = seen.position.max(after.position()).max(Position(self.reached.get()));
                return Ok(Seen { found: seen.found, position });
            }
            before = after;
        }
        Err(REPLACED)
    }

    /// The latest changes of log events up to the checkpoint. Rows beyond it may be there
    /// already, and others before them not yet.
    async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, StoreError> {
        let mut before = self.shown(Instant::now()).await?;
        for _ in 0..ATTEMPTS {
            let Some(meta) = before else { return Ok(nothing(Vec::new())) };
            let to = meta.checkpoint().position();
            let (found, more) = log::changes(self.database().await?, &meta.rows(), after, to, limit).await?;
            let now = self.shown(Instant::now()).await?;
            if now.as_ref().is_some_and(|now| now.rows() == meta.rows()) {
                // All changes up to this position are among these.
                let last = found.last().filter(|_| more).map(|last| last.position);
                return Ok(Seen { found, position: last.unwrap_or(to) });
            }
            before = now;
        }
        Err(REPLACED)
    }
}

const REPLACED: StoreError =
    StoreError::Unavailable { what: "the read store, whose rows are being replaced,", source: None };
const UNMATCHED: StoreError =
    StoreError::Unavailable { what: "the read store, which was not compared with the log yet,", source: None };
/// What an operator is told; the driver's own words are for the log.
const NO_ANSWER: &str = "MongoDB does not answer, or not to this login: check MONGODB_HOST, MONGODB_USER and \
                         MONGODB_PASS; the log says why";

fn nothing<T>(found: T) -> Seen<T> {
    Seen { found, position: Position::START }
}

/// Renews the lease until it is lost. While the database is away the turn goes on: only
/// the database can say that another process has it.
async fn renew(views: Weak<Inner>, turn: Turn) {
    let mut failing = false;
    loop {
        tokio::time::sleep(lease::RENEWAL).await;
        let Some(views) = views.upgrade() else { return };
        if !views.turn.borrow().as_ref().is_some_and(|now| now.is(&turn)) {
            return;
        }
        let renewed = async { lease::renew(views.database().await?, &turn).await };
        match renewed.await {
            Ok(true) => failing = false,
            Ok(false) => {
                tracing::warn!("another process projects now");
                return views.lose(&turn);
            }
            Err(error) if !failing => {
                tracing::warn!(error = %error.chain(), "the lease of the views cannot be renewed; it is tried again");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

#[async_trait]
impl ViewReader for MongoViews {
    async fn answer(&self, key: &Key) -> Result<Seen<Option<Answer>>, StoreError> {
        let find = |database: Database, rows: Rows| async move { rows::find(&database, &rows.answers(), key).await };
        let Seen { found, position } = self.0.one(find, |row| row.position).await?;
        Ok(Seen { found: found.and_then(|row| row.answer(key.clone())), position })
    }

    async fn answers(&self, query: AnswersQuery) -> Result<Seen<AnswersPage>, StoreError> {
        let none = AnswersPage { answers: Vec::new(), more: false };
        let query = &query;
        let page = |database: Database, rows: Rows| async move { rows::page(&database, &rows.answers(), query).await };
        self.0.listed(none, page).await
    }

    async fn reached(&self, position: Position) -> Result<(), StoreError> {
        self.0.check_verdict()?;
        if self.0.reached.get() < position.0 {
            let _waits = self.0.waiting.join();
            self.0.reached.reached(position.0).await;
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        Ok(self.0.look(Instant::now()).await?.map_or(Checkpoint::START, |meta| meta.checkpoint()))
    }

    async fn parked(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn parked_stream(
        &self,
        _stream: &crate::domain::stream::StreamId,
    ) -> Result<Option<crate::domain::projection::Parked>, StoreError> {
        Ok(None)
    }
}

#[async_trait]
impl crate::ports::ViewOperator for MongoViews {
    async fn parked_streams(
        &self,
        _query: crate::ports::ParkedQuery,
    ) -> Result<crate::ports::Page<crate::domain::projection::Parked>, StoreError> {
        todo!()
    }
    async fn ask_replay(&self, _stream: Option<&crate::domain::stream::StreamId>) -> Result<u64, StoreError> {
        todo!()
    }
    async fn ask_rebuild(&self, _now: crate::domain::time::Timestamp) -> Result<(), StoreError> {
        todo!()
    }
    async fn rebuild_state(&self) -> Result<crate::ports::RebuildState, StoreError> {
        Ok(crate::ports::RebuildState::default())
    }
}

#[async_trait]
impl ViewWriter for MongoViews {
    async fn resume(&self, log: LogId, end: Position) -> Result<Checkpoint, StoreError> {
        let had_turn = self.0.turn.borrow().clone();
        let meta = self.0.take_turn(log).await?;
        let database = self.0.database().await?;
        rows::prepare(database, &meta.rows().answers()).await?;
        log::prepare(database, &meta.rows()).await?;
        self.0.begin(&meta);
        let checkpoint = meta.checkpoint();
        if checkpoint.position() > end {
            // Another process may have moved on behind `end`, unless this one has had
            // the turn since before `end` was asked for: ask again.
            let exact = had_turn.is_some_and(|turn| turn.is(&Turn::new(&meta, self.0.holder)));
            if exact {
                return Err(self.0.foreign(meta.ahead_of_log(end, self.0.connection.name())));
            }
            *self.0.verdict.write() = Verdict::Unknown;
            return Err(StoreError::Conflict);
        }
        self.0.own(log, &meta);
        self.0.note(Some(&meta));
        Ok(checkpoint)
    }

    async fn apply(
        &self,
        generation: Generation,
        from: Checkpoint,
        changes: Changes,
        to: Checkpoint,
    ) -> Result<(), StoreError> {
        let turn = self.0.turn.borrow().clone().ok_or(StoreError::Conflict)?;
        if turn.at != from {
            return Err(StoreError::Conflict);
        }
        if to <= from {
            return Ok(());
        }
        let mut changes = changes;
        changes.answers.retain(|change| !from.has_reached(change.position));
        changes.log.retain(|change| !from.has_reached(change.position()));
        match self.0.write(&turn, changes, to).await {
            Ok(()) => {
                self.0.turn.send_if_modified(|now| {
                    if let Some(now) = now.as_mut().filter(|now| now.is(&turn)) {
                        now.at = to;
                    }
                    false
                });
                self.0.reached.advance(to.position().0);
                Ok(())
            }
            Err(error) => {
                if matches!(error, StoreError::Conflict) {
                    self.0.lose(&turn);
                }
                Err(error)
            }
        }
    }

    async fn interrupted(&self) {
        // The sender lives as long as self.
        let _ = self.0.turn.subscribe().wait_for(Option::is_none).await;
    }

    async fn parked(&self, _generation: Generation) -> Result<Vec<crate::domain::projection::Parked>, StoreError> {
        Ok(Vec::new())
    }
    async fn replayed(&self, _at: Checkpoint, _replayed: crate::ports::Replayed) -> Result<(), StoreError> {
        todo!()
    }
    async fn asked(&self) {
        std::future::pending().await
    }
    async fn rebuild(&self, _head: Position) -> Result<Option<Checkpoint>, StoreError> {
        Ok(None)
    }
    async fn swap(&self, _live: Checkpoint, _next: Checkpoint) -> Result<bool, StoreError> {
        todo!()
    }
}

#[async_trait]
impl Health for MongoViews {
    async fn check(&self) -> Result<(), String> {
        if let Verdict::Foreign(why) = &*self.0.verdict.read() {
            return Err(why.clone());
        }
        self.0.shown(Instant::now()).await.map(drop).map_err(|error| {
            tracing::warn!(error = %error.chain(), "the views cannot be read");
            match error {
                StoreError::Unavailable { source: Some(_), .. } => NO_ANSWER.into(),
                error => error.to_string(),
            }
        })
    }
}
