//! The three services put together.

use std::sync::Arc;

use eventstore_svc::WriteSide;
use eventstore_svc::commands::Commands;
use eventstore_svc::history::History;
use eventstore_svc::live::Live;
use eventstore_svc::log::LogCommands;
use projection_svc::ReadSide;
use projection_svc::log::LogQueries;
use projection_svc::queries::Queries;
use projector_svc::Projector;
use projector_svc::watch::Watch;
use shared::http::health::Refresh;
use shared::metrics::Metrics;
use shared::process::{Admin, Failure, Process, Service};

use crate::storage::{Choice, Prepared, Storage};

/// Serves from the chosen storage until the process is told to end.
pub(crate) async fn serve(process: Process, choice: Choice) -> Result<(), Failure> {
    let prepared = Prepared::new(&choice.kind, &process)?;
    let (listeners, for_operators) = (process.listen().await?, process.listen_admin().await?);
    let storage = prepared.open(&process).await?;
    let (metrics, lifecycle) = (process.metrics.clone(), process.lifecycle.clone());
    let projector =
        Projector::new(storage.feed.clone(), storage.events.clone(), storage.writer.clone(), metrics.clone());
    let watch = projector.watch(storage.reader.clone(), storage.operator.clone());
    let live = Live::new(storage.feed.clone(), lifecycle.clone());
    let write_side = WriteSide {
        commands: Commands::new(storage.events.clone(), storage.outcomes.clone(), metrics.clone()),
        log: LogCommands::new(storage.events.clone(), storage.outcomes.clone(), metrics.clone()),
        history: History::new(storage.events.clone()),
        live: live.clone(),
        lifecycle: lifecycle.clone(),
    };
    let queries = Queries::new(storage.reader.clone(), storage.operator.clone(), process.config.await_timeout);
    let log = LogQueries::new(storage.log.clone(), queries.clone());
    let tail = projection_svc::live::Live::new(log.clone(), lifecycle.clone());
    let read_side = ReadSide {
        queries,
        log,
        live: tail.clone(),
        lifecycle: lifecycle.clone(),
        public_url: process.config.web.public_url.clone(),
    };
    let mut checks = storage.health.clone();
    checks.push(watch.clone());
    let service = Service {
        router: eventstore_svc::router(write_side).merge(projection_svc::router(read_side)),
        documented: eventstore_svc::documented().merge_from(projection_svc::documented()),
        admin: Some(Admin {
            listeners: for_operators,
            about: "parked events and rebuilds of the views",
            router: projector_svc::router(storage.operator.clone()),
            documented: projector_svc::documented(),
        }),
        checks,
        refresh: refresh(&storage, watch.clone(), metrics),
        tasks: vec![
            Box::pin(projector.run(lifecycle.clone())),
            Box::pin(watch.run(lifecycle)),
            Box::pin(async move { live.run().await }),
            Box::pin(async move { tail.run().await }),
        ],
        storage: choice.kind.name(),
        why: choice.why,
    };
    process.serve(listeners, service).await?;
    storage.close.await;
    Ok(())
}

fn refresh(storage: &Storage, watch: Arc<Watch>, metrics: Arc<Metrics>) -> Refresh {
    let sizes = storage.sizes.clone();
    Arc::new(move || {
        metrics.sizes(&sizes());
        let watch = watch.clone();
        Box::pin(async move { watch.refresh().await })
    })
}
