//! The read side as a process of its own, on MongoDB.

use std::process::ExitCode;
use std::sync::Arc;

use projection_svc::ReadSide;
use projection_svc::live::Live;
use projection_svc::log::LogQueries;
use projection_svc::queries::Queries;
use shared::adapters::mongo::{MongoViews, Options, Serves};
use shared::config::MongoDb;
use shared::http::elsewhere::READ_SIDE;
use shared::http::health::{Remote, nothing_to_refresh};
use shared::process::{self, Failure, Process, Program, Service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: READ_SIDE.name,
    version: env!("CARGO_PKG_VERSION"),
    about: "the latest answers, from MongoDB",
    ports: &[READ_SIDE.port],
    admin: None,
    counts: &[],
};

fn main() -> ExitCode {
    process::main(&PROGRAM, serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let MongoDb { url, login, database } = process.config.mongodb()?.clone();
    let options = Options { url, login, database, serves: Serves::AnyLog };
    let views = MongoViews::connect(options).map_err(|error| format!("MONGODB_HOST: {error}"))?;

    let listeners = process.listen().await?;
    let shared = Arc::new(views.clone());
    let queries = Queries::new(shared.clone(), shared.clone(), process.config.await_timeout);
    let log = LogQueries::new(shared, queries.clone());
    let live = Live::new(log.clone(), process.lifecycle.clone());
    let public_url = process.config.web.public_url.clone();
    let read_side = ReadSide { queries, log, live: live.clone(), lifecycle: process.lifecycle.clone(), public_url };
    let service = Service {
        router: projection_svc::router(read_side),
        documented: projection_svc::documented(),
        admin: None,
        checks: vec![Remote::new("MongoDB", Arc::new(views))],
        refresh: nothing_to_refresh(),
        tasks: vec![Box::pin(async move { live.run().await })],
        storage: "mongodb",
        why: "the read side reads from there",
    };
    process.serve(listeners, service).await
}
