//! The link to EventStoreDB: a client, the node that it chose, the log that is found
//! there, and open sessions to append through. A task of its own makes it, and makes
//! it again after trouble, with growing pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventstore::{Client, operations};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::log;
use super::node::{Node, ReadError, Transport};
use super::sessions::Sessions;
use super::settings::Settings;
use crate::metrics::EsdbMetrics;
use crate::ports::{LogId, StoreError};

/// What does not answer, as a client is told.
pub(super) const WHAT: &str = "EventStoreDB";
/// How long a call waits for a link that is being made.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long each step of making one may take.
const STEP: Duration = Duration::from_secs(5);
/// The pause before the next attempt, first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Something else than a driver's error lies behind it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Why(pub(super) String);

/// An error that says that nothing was done.
pub(super) fn unavailable(why: impl Into<String>) -> StoreError {
    StoreError::unavailable(WHAT, Why(why.into()))
}

/// All that is shared by the calls and the task that keeps the link.
pub(super) struct Link {
    settings: Settings,
    transport: Transport,
    state: watch::Sender<State>,
    /// Something is to be done for the link: it is in trouble, or sessions are missing.
    pub(super) work: Arc<Notify>,
    /// The client is not to be used again.
    discard: AtomicBool,
    metrics: Arc<EsdbMetrics>,
}

enum State {
    Opening,
    Open(Arc<Open>),
    /// The last attempt failed, for this reason.
    Down(Arc<str>),
}

/// A link that worked when it was last used.
pub(super) struct Open {
    pub(super) node: Node,
    pub(super) log: LogId,
    pub(super) sessions: Sessions,
}

impl Link {
    /// A link that is yet to be made.
    pub(super) fn new(settings: Settings, transport: Transport, metrics: Arc<EsdbMetrics>) -> Self {
        let (state, _) = watch::channel(State::Opening);
        Self { settings, transport, state, work: Arc::default(), discard: AtomicBool::new(false), metrics }
    }

    /// The link, if it is open or will be within some seconds.
    ///
    /// # Errors
    /// `Unavailable`, at once where the last attempt to make it failed.
    pub(super) async fn open(&self) -> Result<Arc<Open>, StoreError> {
        if let State::Open(open) = &*self.state.borrow() {
            return Ok(open.clone());
        }
        self.wait(Instant::now() + PATIENCE, |state| !matches!(state, State::Opening)).await
    }

    /// The link, as soon as it is open again, whatever fails meanwhile.
    ///
    /// # Errors
    /// `Unavailable` if it is not open in time.
    pub(super) async fn reopened(&self, deadline: Instant) -> Result<Arc<Open>, StoreError> {
        self.wait(deadline, |state| matches!(state, State::Open(_))).await
    }

    async fn wait(&self, deadline: Instant, enough: impl FnMut(&State) -> bool) -> Result<Arc<Open>, StoreError> {
        let mut state = self.state.subscribe();
        // The sender lives in self.
        let _ = tokio::time::timeout_at(deadline, state.wait_for(enough)).await;
        match &*state.borrow() {
            State::Open(open) => Ok(open.clone()),
            State::Opening => Err(unavailable("it is being connected to")),
            State::Down(why) => Err(unavailable(&**why)),
        }
    }

    /// Why the link is not open, if it is not.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Open(_) => None,
            State::Opening => Some(format!("{WHAT} is being connected to")),
            State::Down(why) => Some(format!("{WHAT} does not answer: {why}")),
        }
    }

    /// A link did not do what it should: it is made anew. `discard` says that its
    /// client would lead to the same place again.
    pub(super) fn report(&self, of: &Arc<Open>, discard: bool, why: &str) {
        let closed = self.state.send_if_modified(|state| {
            let current = matches!(state, State::Open(open) if Arc::ptr_eq(open, of));
            if current {
                *state = State::Opening;
            }
            current
        });
        if closed {
            // A client finds the nodes of a cluster only when it is new.
            self.discard.fetch_or(discard || self.settings.is_cluster(), Ordering::AcqRel);
            tracing::warn!(why, "lost the connection to {WHAT}");
            self.work.notify_one();
        }
    }

    /// What a read failed with, as the ports say it; a link that caused it is made anew.
    pub(super) fn read_failed(&self, of: &Arc<Open>, error: ReadError) -> StoreError {
        match &error {
            ReadError::Node(status) => self.report(of, status.metadata().get("exception").is_some(), status.message()),
            ReadError::Late => self.report(of, true, "a read was not answered in time"),
            ReadError::Refused(_) => {}
        }
        StoreError::unavailable(WHAT, error)
    }

    /// Makes the link and keeps it, for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        let (mut client, mut failures, mut told) = (None, 0_u32, None);
        loop {
            if self.discard.swap(false, Ordering::AcqRel) {
                // A client that was connected leaves its task behind (the task holds its
                // own end of the channel), so one is given up only where it must be.
                client = None;
            }
            match self.make(&mut client).await {
                Ok(open) => {
                    tracing::info!(log = %open.log.0, "connected to {WHAT}");
                    told = None;
                    let open = Arc::new(open);
                    self.state.send_replace(State::Open(open.clone()));
                    self.fill(&open).await;
                    self.metrics.disconnected();
                    failures = if open.sessions.have_answered() { 0 } else { failures + 1 };
                }
                Err(error) => {
                    client = None;
                    failures += 1;
                    let why: Arc<str> = error.into();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(%why, "cannot connect to {WHAT}");
                        told = Some(why.clone());
                    }
                    self.state.send_replace(State::Down(why));
                }
            }
            if failures > 0 {
                tokio::time::sleep((PAUSE * 2_u32.saturating_pow(failures.min(10) - 1)).min(PAUSE_MAX)).await;
            }
        }
    }

    /// Opens the sessions that are missing, until there is trouble.
    async fn fill(&self, open: &Arc<Open>) {
        loop {
            self.work.notified().await;
            if !matches!(&*self.state.borrow(), State::Open(_)) {
                return;
            }
            if let Err(error) = within(open.sessions.fill()).await {
                self.report(open, true, &error);
            }
        }
    }

    async fn make(&self, kept: &mut Option<Client>) -> Result<Open, String> {
        let client = match kept {
            Some(client) => client.clone(),
            None => kept.insert(self.new_client().await?).clone(),
        };
        let chosen = operations::Client::from(client.clone());
        let chosen = within(async { chosen.current_selected_node().await.map_err(|error| chain(&error)) }).await?;
        let node = self.transport.node(&chosen);
        // Also the proof that the node answers.
        if let Some(log) = within(log::find(&node)).await? {
            return self.with_sessions(client, node, log).await;
        }
        match self.with_sessions(client.clone(), node.clone(), LogId(Uuid::new_v4())).await {
            Ok(open) => Ok(open),
            // Somebody else may have come first.
            Err(error) => match within(log::find(&node)).await? {
                Some(log) => self.with_sessions(client, node, log).await,
                None => Err(error),
            },
        }
    }

    async fn with_sessions(&self, client: Client, node: Node, log: LogId) -> Result<Open, String> {
        let sessions = Sessions::new(client, log, self.work.clone());
        within(sessions.fill()).await?;
        Ok(Open { node, log, sessions })
    }

    async fn new_client(&self) -> Result<Client, String> {
        let settings = self.settings.client.clone();
        // It reads the system's certificates.
        let made = tokio::task::spawn_blocking(move || Client::new(settings).map_err(|error| error.to_string()));
        made.await.map_err(|error| error.to_string())?
    }
}

async fn within<T>(step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(STEP, step).await.unwrap_or_else(|_| Err("it did not answer in time".into()))
}

/// An error and all that lies behind it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
