//! The projector as a process of its own, from EventStoreDB into MongoDB.

use std::process::ExitCode;
use std::sync::Arc;

use projector_svc::Projector;
use shared::adapters::esdb::{self, EsdbEvents};
use shared::adapters::mongo::{self, MongoViews, Serves};
use shared::config::MongoDb;
use shared::http::elsewhere::PROJECTOR;
use shared::metrics::Part;
use shared::process::{self, Failure, Process, Program, Service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: PROJECTOR.name,
    version: env!("CARGO_PKG_VERSION"),
    about: "carries events from EventStoreDB to the views in MongoDB",
    ports: &[PROJECTOR.port],
    admin: None,
    counts: &[Part::Esdb, Part::Projection],
};

fn main() -> ExitCode {
    process::main(&PROGRAM, serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let (eventstore, mongodb) = (process.config.eventstore()?, process.config.mongodb()?);
    let options = esdb::Options { outcome_ttl: process.config.idempotency_ttl, metrics: process.metrics.esdb.clone() };
    let log = EsdbEvents::connect(&eventstore.host, options).map_err(|error| format!("EVENTSTORE_HOST: {error}"))?;
    let MongoDb { url, login, database } = mongodb.clone();
    let options = mongo::Options { url, login, database, serves: Serves::AnyLog };
    let views = MongoViews::connect(options).map_err(|error| format!("MONGODB_HOST: {error}"))?;

    let listeners = process.listen().await?;
    let (log, writer) = (Arc::new(log), Arc::new(views.clone()));
    let projector = Projector::new(log.clone(), log, writer.clone(), process.metrics.clone());
    let watch = projector.watch(writer.clone(), writer.clone());
    let service = Service {
        router: projector_svc::router(writer),
        documented: projector_svc::documented(),
        admin: None,
        checks: vec![watch.clone()],
        refresh: watch.clone().refreshing(),
        tasks: vec![Box::pin(projector.run(process.lifecycle.clone())), Box::pin(watch.run(process.lifecycle.clone()))],
        storage: "eventstoredb and mongodb",
        why: "the projector carries one into the other",
    };
    process.serve(listeners, service).await?;
    // Whoever stands by can go on at once.
    views.close().await;
    Ok(())
}
