//! The log in EventStoreDB, on its official client.
//!
//! Appends go through the client's sessions of `batch_append`; reads and subscriptions
//! are a call of our own to the node that the client chose (`node` says why). `link`
//! keeps both alive.

mod append;
mod at;
mod claims;
mod feed;
mod link;
mod log;
mod node;
mod proto;
mod read;
mod sessions;
mod settings;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

pub use settings::InvalidSettings;

use append::Appender;
use claims::Claims;
use feed::Ends;
use link::{Link, WHAT};
use node::{Begin, Transport};
use settings::Settings;

use crate::domain::outcome::{Happened, IdempotencyKey, Kept, Outcome};
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, RecordedEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::metrics::EsdbMetrics;
use crate::ports::{
    Append, Appended, Checkpoint, Claim, ClaimedAppend, Direction, EventFeed, EventStore, Health, LogId, Outcomes,
    StoreError, Subscription,
};

/// What the adapter is told at start.
#[derive(Clone)]
pub struct Options {
    /// How long outcomes of commands with an `Idempotency-Key` are kept.
    pub outcome_ttl: Duration,
    /// Where it counts.
    pub metrics: Arc<EsdbMetrics>,
}

/// The log in EventStoreDB.
///
/// It waits for no server: calls answer `Unavailable` while there is none, and go
/// through once there is one again. Clones are the same log.
#[derive(Clone)]
pub struct EsdbEvents(Arc<Inner>);

struct Inner {
    claims: Claims,
    ends: Ends,
    _keeper: AbortOnDropHandle<()>,
}

impl EsdbEvents {
    /// The log at the place that `EVENTSTORE_HOST` names: a host, host:port, or a whole
    /// connection string `esdb://…` or `kurrentdb://…`. It returns at once, and connects
    /// in the background on the runtime that it is called in, which must outlive it.
    ///
    /// # Errors
    /// If the text is none of these, or names certificates that cannot be read.
    pub fn connect(settings: &str, options: Options) -> Result<Self, InvalidSettings> {
        let settings = Settings::parse(settings.trim())?;
        let runtime = Handle::current();
        let transport = Transport::new(&settings, &runtime)
            .map_err(|error| InvalidSettings::new(format!("the connection cannot be set up: {error}")))?;
        let link = Arc::new(Link::new(settings, transport, options.metrics.clone()));
        let keeper = AbortOnDropHandle::new(runtime.spawn(link.clone().keep()));
        let claims = Claims::new(Appender::new(link, options.metrics), options.outcome_ttl);
        Ok(Self(Arc::new(Inner { claims, ends: Ends::default(), _keeper: keeper })))
    }

    fn appender(&self) -> &Appender {
        &self.0.claims.appender
    }

    fn link(&self) -> &Link {
        &self.appender().link
    }
}

#[async_trait]
impl EventStore for EsdbEvents {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedRevision,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let _place = self.appender().place(&events)?;
        self.appender().append(stream, expected, &events).await
    }

    async fn read(
        &self,
        stream: &StreamId,
        from: Revision,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.link().read(stream, Begin::At(from), direction, limit).await
    }

    async fn last(&self, stream: &StreamId) -> Result<Option<RecordedEvent>, StoreError> {
        let last = self.link().read(stream, Begin::End, Direction::Backwards, 1).await?;
        Ok(last.into_iter().next())
    }

    async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        self.link().at(position).await
    }

    async fn append_each(&self, appends: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        self.appender().append_each(appends).await
    }
}

#[async_trait]
impl Outcomes for EsdbEvents {
    async fn find(&self, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Kept>, StoreError> {
        self.0.claims.find(key, now).await
    }

    async fn append(
        &self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
    ) -> Result<ClaimedAppend, StoreError> {
        self.0.claims.append(claim, stream, expected, event, kind).await
    }

    async fn keep(&self, claim: &Claim, outcome: Outcome) -> Result<Kept, StoreError> {
        self.0.claims.keep(claim, outcome).await
    }
}

#[async_trait]
impl EventFeed for EsdbEvents {
    async fn log_id(&self) -> Result<LogId, StoreError> {
        Ok(self.link().open().await?.log)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.link().head(&self.0.ends).await
    }

    async fn end(&self) -> Result<Position, StoreError> {
        self.link().end().await
    }

    async fn subscribe(&self, after: Checkpoint) -> Result<Box<dyn Subscription>, StoreError> {
        Ok(Box::new(self.link().follow(after).await?))
    }
}

#[async_trait]
impl Health for EsdbEvents {
    async fn check(&self) -> Result<(), String> {
        self.link()
            .end()
            .await
            .map(drop)
            .map_err(|_| self.link().trouble().unwrap_or(format!("{WHAT} does not answer")))
    }
}
