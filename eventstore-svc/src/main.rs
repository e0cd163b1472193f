//! The write side as a process of its own, on EventStoreDB.

use std::process::ExitCode;
use std::sync::Arc;

use eventstore_svc::WriteSide;
use eventstore_svc::commands::Commands;
use eventstore_svc::history::History;
use eventstore_svc::live::Live;
use eventstore_svc::log::LogCommands;
use shared::adapters::esdb::{self, EsdbEvents};
use shared::http::elsewhere::WRITE_SIDE;
use shared::http::health::{Remote, nothing_to_refresh};
use shared::metrics::Part;
use shared::process::{self, Failure, Process, Program, Service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: WRITE_SIDE.name,
    version: env!("CARGO_PKG_VERSION"),
    about: "commands and histories, on EventStoreDB",
    ports: &[WRITE_SIDE.port],
    admin: None,
    counts: &[Part::Esdb],
};

fn main() -> ExitCode {
    process::main(&PROGRAM, serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let host = &process.config.eventstore()?.host;
    let options = esdb::Options { outcome_ttl: process.config.idempotency_ttl, metrics: process.metrics.esdb.clone() };
    let events = EsdbEvents::connect(host, options).map_err(|error| format!("EVENTSTORE_HOST: {error}"))?;
    let events = Arc::new(events);

    let listeners = process.listen().await?;
    let lifecycle = process.lifecycle.clone();
    let live = Live::new(events.clone(), lifecycle.clone());
    let write_side = WriteSide {
        commands: Commands::new(events.clone(), events.clone(), process.metrics.clone()),
        log: LogCommands::new(events.clone(), events.clone(), process.metrics.clone()),
        history: History::new(events.clone()),
        live: live.clone(),
        lifecycle,
    };
    let service = Service {
        router: eventstore_svc::router(write_side),
        documented: eventstore_svc::documented(),
        admin: None,
        checks: vec![Remote::new("EventStoreDB", events)],
        refresh: nothing_to_refresh(),
        tasks: vec![Box::pin(async move { live.run().await })],
        storage: "eventstoredb",
        why: "the write side keeps its events there",
    };
    process.serve(listeners, service).await
}
