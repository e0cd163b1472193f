//! Which storage, and why.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use shared::adapters::embedded::{self, Options};
use shared::adapters::esdb::{self, EsdbEvents};
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::adapters::mongo::{self, MongoViews, Serves};
use shared::config::{Config, ConfigError, EventStoreDb, MongoDb};
use shared::http::health::Remote;
use shared::metrics::Metrics;
use shared::ports::{EventFeed, EventStore, Health, LogReader, Outcomes, ViewOperator, ViewReader, ViewWriter};
use shared::process::{Failure, Process};

/// A storage and the reason that it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) kind: Kind,
    pub(crate) why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Embedded(PathBuf),
    /// EventStoreDB and MongoDB.
    Databases(EventStoreDb, MongoDb),
}

impl Kind {
    /// The name in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Embedded(_) => "embedded",
            Self::Databases(..) => "eventstoredb and mongodb",
        }
    }
}

/// Chooses the storage.
///
/// # Errors
/// If one database is set without the other.
pub(crate) fn choose(config: &Config, in_memory: bool) -> Result<Choice, ConfigError> {
    if in_memory {
        return Ok(Choice { kind: Kind::Memory, why: "-memdb was given; nothing survives the process" });
    }
    let missing = |variable, other| {
        let reason = format!("it is missing, but {other} is set; set both or neither");
        Err(ConfigError { variable, reason })
    };
    match (&config.eventstore, &config.mongodb) {
        (None, None) => {
            let why = "neither EVENTSTORE_HOST nor MONGODB_HOST is set";
            Ok(Choice { kind: Kind::Embedded(config.data_dir.clone()), why })
        }
        (Some(events), Some(views)) => {
            let why = "EVENTSTORE_HOST and MONGODB_HOST are set";
            Ok(Choice { kind: Kind::Databases(events.clone(), views.clone()), why })
        }
        (Some(_), None) => missing("MONGODB_HOST", "EVENTSTORE_HOST"),
        (None, Some(_)) => missing("EVENTSTORE_HOST", "MONGODB_HOST"),
    }
}

/// A storage that is open.
pub(crate) struct Storage {
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) outcomes: Arc<dyn Outcomes>,
    pub(crate) feed: Arc<dyn EventFeed>,
    pub(crate) reader: Arc<dyn ViewReader>,
    pub(crate) log: Arc<dyn LogReader>,
    pub(crate) writer: Arc<dyn ViewWriter>,
    pub(crate) operator: Arc<dyn ViewOperator>,
    pub(crate) health: Vec<Arc<dyn Health>>,
    pub(crate) sizes: Arc<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// Finishes and closes everything.
    pub(crate) close: BoxFuture<'static, ()>,
}

/// A storage whose settings are known to be good.
pub(crate) enum Prepared {
    Open(Storage),
    /// It is opened when the ports are this process's.
    Folder(PathBuf),
}

impl Prepared {
    /// Prepares what was chosen. Databases need not be there yet.
    ///
    /// # Errors
    /// If a setting cannot be used.
    pub(crate) fn new(kind: &Kind, process: &Process) -> Result<Self, Failure> {
        Ok(match kind {
            Kind::Memory => Self::Open(Storage::in_memory(&process.config)),
            Kind::Embedded(folder) => Self::Folder(folder.clone()),
            Kind::Databases(events, views) => Self::Open(Storage::databases(events, views.clone(), process)?),
        })
    }

    /// Opens it; takes its time where there is much to check.
    ///
    /// # Errors
    /// If it does not open.
    pub(crate) async fn open(self, process: &Process) -> Result<Storage, Failure> {
        let folder = match self {
            Self::Open(storage) => return Ok(storage),
            Self::Folder(folder) => folder,
        };
        let (config, metrics) = (process.config.clone(), process.metrics.clone());
        let opened = tokio::task::spawn_blocking(move || Storage::embedded(folder, &config, &metrics)).await?;
        Ok(opened.map_err(|error| format!("DATA_DIR: {error}"))?)
    }
}

impl Storage {
    fn in_memory(config: &Config) -> Self {
        let events = MemoryEvents::new(config.idempotency_ttl);
        let views = Arc::new(MemoryViews::new());
        Self {
            events: Arc::new(events.clone()),
            outcomes: Arc::new(events.clone()),
            feed: Arc::new(events),
            reader: views.clone(),
            log: views.clone(),
            writer: views.clone(),
            operator: views,
            health: Vec::new(),
            sizes: Arc::new(Vec::new),
            close: Box::pin(async {}),
        }
    }

    fn databases(events: &EventStoreDb, views: MongoDb, process: &Process) -> Result<Self, Failure> {
        let options =
            esdb::Options { outcome_ttl: process.config.idempotency_ttl, metrics: process.metrics.esdb.clone() };
        let events = EsdbEvents::connect(&events.host, options).map_err(|error| format!("EVENTSTORE_HOST: {error}"))?;
        let MongoDb { url, login, database } = views;
        let options = mongo::Options { url, login, database, serves: Serves::OwnLog };
        let views = MongoViews::connect(options).map_err(|error| format!("MONGODB_HOST: {error}"))?;
        let closed = views.clone();
        Ok(Self {
            events: Arc::new(events.clone()),
            outcomes: Arc::new(events.clone()),
            feed: Arc::new(events.clone()),
            reader: Arc::new(views.clone()),
            log: Arc::new(views.clone()),
            writer: Arc::new(views.clone()),
            operator: Arc::new(views.clone()),
            health: vec![Remote::new("EventStoreDB", Arc::new(events)), Remote::new("MongoDB", Arc::new(views))],
            sizes: Arc::new(Vec::new),
            // Whoever stands by can go on at once.
            close: Box::pin(async move { closed.close().await }),
        })
    }

    fn embedded(folder: PathBuf, config: &Config, metrics: &Metrics) -> Result<Self, embedded::StartError> {
        let store = embedded::open(&Options {
            folder,
            disk_reserve_mb: config.disk_reserve_mb,
            outcome_ttl: config.idempotency_ttl,
            metrics: metrics.store.clone(),
        })?;
        if let Some(why) = &store.rebuilding {
            tracing::warn!(why, "the views are rebuilt from the log; until they have caught up, reads answer 503");
        }
        let (events, views) = (store.events, store.views);
        let (sized, closed) = ((events.clone(), views.clone()), (events.clone(), views.clone()));
        Ok(Self {
            events: Arc::new(events.clone()),
            outcomes: Arc::new(events.clone()),
            feed: Arc::new(events.clone()),
            reader: Arc::new(views.clone()),
            log: Arc::new(views.clone()),
            writer: Arc::new(views.clone()),
            operator: Arc::new(views.clone()),
            health: vec![Arc::new(events), Arc::new(views)],
            sizes: Arc::new(move || vec![("log", sized.0.size()), ("views", sized.1.size())]),
            close: Box::pin(async move {
                let close = move || {
                    closed.1.close();
                    closed.0.close();
                };
                if let Err(error) = tokio::task::spawn_blocking(close).await {
                    tracing::error!(error = %error, "the storage could not be closed");
                }
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(vars: &[(&str, &str)], in_memory: bool) -> Result<&'static str, &'static str> {
        let lookup = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let config = Config::from_vars(lookup).expect("valid");
        choose(&config, in_memory).map(|choice| choice.kind.name()).map_err(|error| error.variable)
    }

    #[test]
    fn the_embedded_store_is_the_default() {
        let (events, views) = (("EVENTSTORE_HOST", "a"), ("MONGODB_HOST", "b"));
        assert_eq!(chosen(&[], false), Ok("embedded"));
        assert_eq!(chosen(&[], true), Ok("memory"));
        assert_eq!(chosen(&[events], true), Ok("memory"));
        assert_eq!(chosen(&[events], false), Err("MONGODB_HOST"));
        assert_eq!(chosen(&[views], false), Err("EVENTSTORE_HOST"));
        assert_eq!(chosen(&[events, views], false), Ok("eventstoredb and mongodb"));
    }
}
