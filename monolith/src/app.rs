//! The process: its parts put together, its start and its end.

use std::sync::Arc;

use axum::Router;
use eventstore_svc::WriteSide;
use eventstore_svc::commands::Commands;
use eventstore_svc::history::History;
use eventstore_svc::live::Live;
use projection_svc::queries::Queries;
use projector_svc::{Projector, Status};
use shared::clock;
use shared::config::{Config, Listen};
use shared::http::guard::Guard;
use shared::http::health::{self, Operations};
use shared::http::lifecycle::Lifecycle;
use shared::http::serve::{Listeners, Server};
use shared::metrics::{Metrics, Snapshot};
use shared::ports::{EventFeed, Health, ViewReader};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Failure;
use crate::storage::{Choice, Storage};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Both sides' ports; each serves every route.
const PORTS: [u16; 2] = [8080, 8081];

/// Runs until it is told to end.
pub(crate) async fn serve(config: Config, choice: Choice) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let metrics = Metrics::new(VERSION)?;
    let lifecycle = Lifecycle::default();
    let listen = config.listen.clone().unwrap_or_else(default_addresses);
    let listeners = Listeners::bind(&listen).await.map_err(|error| format!("IP_PORT: {error}"))?;
    let opened = {
        let (choice, config, metrics) = (choice.clone(), config.clone(), metrics.clone());
        tokio::task::spawn_blocking(move || Storage::open(&choice, &config, &metrics)).await?
    };
    let storage = opened.map_err(|error| format!("DATA_DIR: {error}"))?;
    let projector = Projector::new(storage.feed.clone(), storage.writer.clone(), metrics.clone());
    let live = Live::new(storage.feed.clone(), lifecycle.clone());
    let router = router(&config, &storage, &metrics, &lifecycle, projector.status(), live.clone());
    let server = Server::new(router, Guard::new(config.web.clone()), metrics, lifecycle.clone());

    let addresses = listeners.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    tracing::info!(storage = choice.kind.name(), why = choice.why, addresses, version = VERSION, "serving");
    let projecting = tokio::spawn(projector.run(lifecycle.clone()));
    let living = tokio::spawn(async move { live.run().await });
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let serving = tokio::spawn(server.serve(listeners, threads));

    end(&mut signals, &config, &lifecycle).await;
    serving.await??;
    projecting.await?;
    living.await?;
    tokio::task::spawn_blocking(storage.close).await?;
    tracing::info!("ended");
    Ok(())
}

fn default_addresses() -> Vec<Listen> {
    PORTS.iter().map(|port| Listen { host: Some("127.0.0.1".into()), port: *port }).collect()
}

/// Waits for the signal to end, then leads the process there.
async fn end(signals: &mut Signals, config: &Config, lifecycle: &Lifecycle) {
    signals.next().await;
    tracing::info!(drain = ?config.drain, "ending");
    lifecycle.drain();
    tokio::select! {
        () = tokio::time::sleep(config.drain) => {}
        () = signals.next() => {}
    }
    lifecycle.stop();
}

/// SIGTERM and SIGINT.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

fn router(
    config: &Config,
    storage: &Storage,
    metrics: &Arc<Metrics>,
    lifecycle: &Lifecycle,
    projection: Arc<Status>,
    live: Live,
) -> Router {
    let write_side = WriteSide {
        commands: Commands::new(storage.events.clone(), storage.outcomes.clone(), metrics.clone()),
        history: History::new(storage.events.clone()),
        live,
        lifecycle: lifecycle.clone(),
    };
    let queries = Queries::new(storage.reader.clone(), config.await_timeout);
    let operations = Operations {
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
        ready: ready(storage.health.clone(), projection.clone()),
        snapshot: snapshot(storage, projection),
    };
    eventstore_svc::router(write_side).merge(projection_svc::router(queries)).merge(health::router(operations))
}

type Ready = Arc<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

fn ready(stores: Vec<Arc<dyn Health>>, projection: Arc<Status>) -> Ready {
    Arc::new(move || {
        let (stores, projection) = (stores.clone(), projection.clone());
        Box::pin(async move {
            for store in stores {
                store.check().await?;
            }
            projection.check()
        })
    })
}

type Look = Arc<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = Snapshot> + Send>> + Send + Sync>;

fn snapshot(storage: &Storage, projection: Arc<Status>) -> Look {
    let (feed, reader, sizes) = (storage.feed.clone(), storage.reader.clone(), storage.sizes.clone());
    Arc::new(move || {
        let (feed, reader, sizes) = (feed.clone(), reader.clone(), sizes.clone());
        let waiting = projection.waiting(clock::now());
        Box::pin(async move { look(feed.as_ref(), reader.as_ref(), waiting, sizes()).await })
    })
}

async fn look(
    feed: &dyn EventFeed,
    reader: &dyn ViewReader,
    waiting: std::time::Duration,
    sizes: Vec<(&'static str, u64)>,
) -> Snapshot {
    let projected = reader.checkpoint().await.unwrap_or_default().position();
    Snapshot { head: feed.head().await.unwrap_or_default(), projected, waiting, sizes }
}
