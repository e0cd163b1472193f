//! `MongoViews`: the read store in MongoDB, from 5.0 on; a standalone server will do.
//!
//! One document (`meta`) says which log the views are of, how far they are, in which
//! collections their rows lie, which streams are parked (`parked`), what is built beside
//! them (`rebuild`) and whose turn it is to write (`lease`). Rows are absolute and guarded
//! by their position (`rows`), and they are written before the checkpoint (`writer`): a
//! crash anywhere repeats work and never skips or undoes it.

mod connection;
mod lease;
mod log;
mod meta;
mod operator;
mod parked;
mod rebuild;
mod rows;
mod waiting;
mod write;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mongodb::Database;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use connection::{InvalidUrl, Options, Serves};

use super::progress::Progress;
use crate::domain::answer::{Answer, Key};
use crate::domain::projection::{EventChange, Parked};
use crate::domain::stream::{Position, StreamId};
use crate::ports::{AnswersPage, AnswersQuery, Checkpoint, Health, LogId, Seen, StoreError, ViewReader};
use connection::Connection;
use lease::Turn;
use meta::{Looks, Meta, Rows};
use waiting::Waiting;

/// How old the meta document may be that a read of one answer goes by: its own row
/// says what the answer rests on.
const FRESH: Duration = Duration::from_millis(20);
/// How often something is read again because its rows were replaced meanwhile.
const ATTEMPTS: usize = 3;
/// Whoever took longer than this to read a row looks whether it is still one that is
/// shown. The rows may have been removed `rebuild::GRACE` after they were replaced.
const SLOW: Duration = Duration::from_secs(10);

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
    /// Something was asked of whoever has the turn, here; and what this process knows to
    /// have been asked anywhere.
    asked: Notify,
    heard: Mutex<Option<(String, i64)>>,
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
            asked: Notify::new(),
            heard: Mutex::default(),
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

    /// The meta document that a read of one thing goes by. While a rebuild is under way
    /// it is as new as the read: other rows may be shown at any moment, in which a stream
    /// may be parked that was not, or may not be any more.
    async fn current(&self) -> Result<Option<Meta>, StoreError> {
        let now = Instant::now();
        let found = self.shown(now - FRESH).await?;
        if found.as_ref().is_some_and(|meta| meta.next().is_some()) { self.shown(now).await } else { Ok(found) }
    }

    /// The meta document that tells of parked streams: nothing that was awaited is missing.
    async fn of_parked(&self) -> Result<Option<Meta>, StoreError> {
        let reached = self.reached.get();
        let found = self.current().await?;
        let position = found.as_ref().map_or(Position::START, |meta| meta.checkpoint().position());
        if position.0 < reached { self.shown(Instant::now()).await } else { Ok(found) }
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

    /// Reads one row; `at` tells the position that it rests on.
    async fn one<T, F>(
        &self,
        find: impl Fn(Database, Rows) -> F,
        at: impl Fn(&T) -> Position,
    ) -> Result<Seen<Option<T>>, StoreError>
    where
        F: Future<Output = Result<Option<T>, StoreError>>,
    {
        for _ in 0..ATTEMPTS {
            let begun = Instant::now();
            let Some(meta) = self.current().await? else { return Ok(nothing(None)) };
            let found = find(self.database().await?.clone(), meta.rows()).await?;
            if begun.elapsed() < SLOW {
                let position = found.as_ref().map_or(Position::START, &at);
                let position = position.max(meta.checkpoint().position()).max(Position(self.reached.get()));
                return Ok(Seen { found, position });
            }
        }
        Err(REPLACED)
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
        Ok(self.0.of_parked().await?.map_or(0, |meta| meta.parked()))
    }

    async fn parked_stream(&self, stream: &StreamId) -> Result<Option<Parked>, StoreError> {
        match self.0.of_parked().await? {
            Some(meta) if meta.parked() > 0 => parked::find(self.0.database().await?, &meta.views, stream).await,
            _ => Ok(None),
        }
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
