//! Which storage, and why.

use std::path::PathBuf;
use std::sync::Arc;

use shared::adapters::embedded::{self, Options};
use shared::adapters::memory::{MemoryEvents, MemoryViews};
use shared::config::{Config, ConfigError};
use shared::metrics::Metrics;
use shared::ports::{EventFeed, EventStore, Health, Outcomes, ViewReader, ViewWriter};
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
}

impl Kind {
    /// The name in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Embedded(_) => "embedded",
        }
    }
}

/// Chooses the storage.
///
/// # Errors
/// If one database is set without the other, or both: they come with a later version.
pub(crate) fn choose(config: &Config, in_memory: bool) -> Result<Choice, ConfigError> {
    if in_memory {
        return Ok(Choice { kind: Kind::Memory, why: "-memdb was given; nothing survives the process" });
    }
    let missing = |variable, other| {
        let reason = format!("it is missing, but {other} is set; set both or neither");
        Err(ConfigError { variable, reason })
    };
    match (&config.eventstore, &config.mongodb) {
        (None, None) => {}
        (Some(_), None) => return missing("MONGODB_HOST", "EVENTSTORE_HOST"),
        (None, Some(_)) => return missing("EVENTSTORE_HOST", "MONGODB_HOST"),
        (Some(_), Some(_)) => {
            let reason = "this version does not store in EventStoreDB and MongoDB yet; unset EVENTSTORE_HOST and \
                          MONGODB_HOST to use the embedded store in DATA_DIR";
            return Err(ConfigError { variable: "EVENTSTORE_HOST", reason: reason.into() });
        }
    }
    let why = "neither EVENTSTORE_HOST nor MONGODB_HOST is set";
    Ok(Choice { kind: Kind::Embedded(config.data_dir.clone()), why })
}

/// A storage that is open.
pub(crate) struct Storage {
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) outcomes: Arc<dyn Outcomes>,
    pub(crate) feed: Arc<dyn EventFeed>,
    pub(crate) reader: Arc<dyn ViewReader>,
    pub(crate) writer: Arc<dyn ViewWriter>,
    pub(crate) health: Vec<Arc<dyn Health>>,
    pub(crate) sizes: Arc<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// Finishes and closes everything.
    pub(crate) close: Box<dyn FnOnce() + Send>,
}

impl Storage {
    /// Opens what was chosen; takes its time where there is much to check.
    ///
    /// # Errors
    /// If it does not open.
    pub(crate) async fn open(choice: &Choice, process: &Process) -> Result<Self, Failure> {
        match &choice.kind {
            Kind::Memory => Ok(Self::in_memory(&process.config)),
            Kind::Embedded(folder) => {
                let (folder, config, metrics) = (folder.clone(), process.config.clone(), process.metrics.clone());
                let opened = tokio::task::spawn_blocking(move || Self::embedded(folder, &config, &metrics)).await?;
                Ok(opened.map_err(|error| format!("DATA_DIR: {error}"))?)
            }
        }
    }

    fn in_memory(config: &Config) -> Self {
        let events = MemoryEvents::new(config.idempotency_ttl);
        let views = Arc::new(MemoryViews::new());
        Self {
            events: Arc::new(events.clone()),
            outcomes: Arc::new(events.clone()),
            feed: Arc::new(events),
            reader: views.clone(),
            writer: views,
            health: Vec::new(),
            sizes: Arc::new(Vec::new),
            close: Box::new(|| {}),
        }
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
            writer: Arc::new(views.clone()),
            health: vec![Arc::new(events), Arc::new(views)],
            sizes: Arc::new(move || vec![("log", sized.0.size()), ("views", sized.1.size())]),
            close: Box::new(move || {
                closed.1.close();
                closed.0.close();
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
        assert_eq!(chosen(&[events, views], false), Err("EVENTSTORE_HOST"));
    }
}
