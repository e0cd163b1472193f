//! A process from its start to its end: command line, settings, listeners,
//! signals. What it serves, and from which storage, is its own.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use utoipa::openapi::OpenApi;

use crate::config::{Config, ConfigError, Listen, Web, environment};
use crate::http::docs::{self, About, pages};
use crate::http::elsewhere::Layout;
use crate::http::guard::Guard;
use crate::http::health::{self, Operations, Refresh};
use crate::http::lifecycle::Lifecycle;
use crate::http::serve::{Listeners, Server};
use crate::logging;
use crate::metrics::{Metrics, Part};
use crate::ports::Health;

/// How long a step of `--health` may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What ends a process before its time, told in one line.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is known of a process before it starts.
pub struct Program {
    pub name: &'static str,
    pub version: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it listens on 127.0.0.1, if nobody says.
    pub ports: &'static [u16],
    /// Where it listens for operators, if nobody says; none if they have no address of
    /// their own.
    pub admin: Option<u16>,
    /// What it has to count beside requests.
    pub counts: &'static [Part],
}

/// A process with its settings, before it listens.
pub struct Process {
    program: &'static Program,
    signals: Signals,
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub lifecycle: Lifecycle,
}

/// What a process does when it serves.
pub struct Service {
    pub router: Router,
    /// What the routes say of themselves.
    pub documented: OpenApi,
    /// What is served to operators alone.
    pub admin: Option<Admin>,
    /// What must be well for the process to be ready.
    pub checks: Vec<Arc<dyn Health>>,
    /// Brings gauges up to date before they are read.
    pub refresh: Refresh,
    /// What runs beside the requests; ends when the lifecycle says stop.
    pub tasks: Vec<BoxFuture<'static, ()>>,
    /// The storage and why it is that one, for the line that says `serving`.
    pub storage: &'static str,
    pub why: &'static str,
}

/// What a process serves to operators, at addresses of their own.
pub struct Admin {
    pub listeners: Listeners,
    /// What it is, in a line.
    pub about: &'static str,
    pub router: Router,
    /// What the routes say of themselves.
    pub documented: OpenApi,
}

/// The `main` of a service whose command line has nothing to choose.
pub fn main(program: &'static Program, serve: impl AsyncFnOnce(Process) -> Result<(), Failure>) -> ExitCode {
    program.exit(program.obey(std::env::args().skip(1), serve))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Serve,
    Health,
    Help,
    Version,
}

fn asked(program: &Program, arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::Serve;
    for argument in arguments {
        asked = match argument.as_str() {
            "-memdb" | "--memdb" => {
                let name = program.name;
                return Err(format!("{argument}: {name} shares its storage with other processes; run monolith -memdb"));
            }
            "-health" | "--health" => Asked::Health,
            "-h" | "-help" | "--help" => Asked::Help,
            "-V" | "-version" | "--version" => Asked::Version,
            other => return Err(unknown(other)),
        };
    }
    Ok(asked)
}

/// Whether a GET is answered with 200.
fn ask(host: &str, port: u16, path: &str) -> std::io::Result<bool> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut connection) => {
                connection.set_read_timeout(Some(PATIENCE))?;
                connection.set_write_timeout(Some(PATIENCE))?;
                write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
                let mut status = [0; 12];
                connection.read_exact(&mut status)?;
                return Ok(status.ends_with(b" 200"));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn on_loopback(ports: &[u16]) -> Vec<Listen> {
    ports.iter().map(|port| Listen { host: Some("127.0.0.1".into()), port: *port }).collect()
}

/// What is said of an argument that nobody knows.
pub fn unknown(argument: &str) -> String {
    format!("unknown argument {argument:?}; --help names those that there are")
}

impl Program {
    fn obey(
        &'static self,
        arguments: impl Iterator<Item = String>,
        serve: impl AsyncFnOnce(Process) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match asked(self, arguments)? {
            Asked::Serve => self.run(Config::from_vars(environment()?)?, serve),
            Asked::Health => self.ask_health(&Config::from_vars(environment()?)?),
            Asked::Help => {
                println!("{}", self.help());
                Ok(())
            }
            Asked::Version => {
                self.print_version();
                Ok(())
            }
        }
    }

    fn help(&self) -> String {
        let Self { name, about, .. } = self;
        format!(
            "{name}: {about}\n\nusage: {name} [--health | --help | --version]\n\n  \
             --health   ask the one that runs with these settings whether it is alive\n\n\
             Settings come from the environment and from .env: see the README."
        )
    }

    /// Asks the process that runs on this machine with these settings whether it is
    /// alive: for containers without a shell.
    ///
    /// # Errors
    /// If it does not say so within two seconds.
    pub fn ask_health(&self, config: &Config) -> Result<(), Failure> {
        let listen = self.listen(config).into_iter().next().ok_or("IP_PORT: there is no address")?;
        let host = match listen.host.as_deref() {
            None | Some("0.0.0.0" | "::") => "localhost",
            Some(host) => host,
        };
        let alive = ask(host, listen.port, "/healthz").map_err(|error| format!("{host}:{}: {error}", listen.port))?;
        if alive { Ok(()) } else { Err(format!("{host}:{} is not alive", listen.port).into()) }
    }

    /// Where it listens.
    fn listen(&self, config: &Config) -> Vec<Listen> {
        config.listen.clone().unwrap_or_else(|| on_loopback(self.ports))
    }

    /// Where it listens for operators.
    fn listen_admin(&self, config: &Config) -> Vec<Listen> {
        config.admin.clone().unwrap_or_else(|| on_loopback(self.admin.as_slice()))
    }

    /// How this process and others are spread.
    fn layout(&self) -> Layout {
        if self.admin.is_some() { Layout::Monolith } else { Layout::Services }
    }

    /// Prints name and version.
    pub fn print_version(&self) {
        println!("{} {}", self.name, self.version);
    }

    /// Runs `serve` with these settings, with a log, until it returns.
    ///
    /// # Errors
    /// What ended it before its time.
    pub fn run(
        &'static self,
        config: Config,
        serve: impl AsyncFnOnce(Process) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        logging::start(&config)?;
        // Requests have threads of their own.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            serve(Process::new(self, config)?).await?;
            tracing::info!("ended");
            Ok(())
        })
    }

    /// Tells what went wrong, if anything did, and what the process ends with.
    pub fn exit(&self, ended: Result<(), Failure>) -> ExitCode {
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", self.name);
                ExitCode::FAILURE
            }
        }
    }
}

impl Process {
    fn new(program: &'static Program, config: Config) -> Result<Self, Failure> {
        let metrics = Metrics::new(program.version, program.counts)?;
        Ok(Self { program, signals: Signals::new()?, config, metrics, lifecycle: Lifecycle::default() })
    }

    /// Binds the addresses of `IP_PORT`.
    ///
    /// # Errors
    /// If one cannot be bound.
    pub async fn listen(&self) -> Result<Listeners, ConfigError> {
        bind("IP_PORT", &self.program.listen(&self.config)).await
    }

    /// Binds the addresses of `ADMIN_ADDR`.
    ///
    /// # Errors
    /// If one cannot be bound.
    pub async fn listen_admin(&self) -> Result<Listeners, ConfigError> {
        bind("ADMIN_ADDR", &self.program.listen_admin(&self.config)).await
    }

    /// Serves until a signal ends the process and what was begun is finished.
    ///
    /// # Errors
    /// If a thread or task fails.
    pub async fn serve(mut self, listeners: Listeners, service: Service) -> Result<(), Failure> {
        let Service { router, documented, admin, checks, refresh, tasks, storage, why } = service;
        let (lifecycle, metrics) = (self.lifecycle.clone(), self.metrics.clone());
        let operations = Operations { lifecycle, metrics, checks, refresh };
        let Program { name, version, about, .. } = *self.program;
        let web = &self.config.web;
        let server = self.server(about, router, documented, web, operations.clone());

        let (addresses, admin_addresses) = (named(&listeners), admin.as_ref().map(|admin| named(&admin.listeners)));
        tracing::info!(process = name, storage, why, addresses, admin = admin_addresses, version, "serving");
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let mut serving = vec![tokio::spawn(server.serve(listeners, threads))];
        if let Some(Admin { listeners, about, router, documented }) = admin {
            // Their page calls where it comes from, not what is public.
            let here = Web { public_url: None, ..web.clone() };
            let server = self.server(about, router, documented, &here, operations);
            serving.push(tokio::spawn(server.serve(listeners, 1)));
        }

        self.end().await;
        for serving in serving {
            serving.await??;
        }
        for task in tasks {
            task.await?;
        }
        Ok(())
    }

    /// A server of these routes, with those that every process has; `shown` is where the
    /// documentation says that they are.
    fn server(
        &self,
        about: &'static str,
        router: Router,
        documented: OpenApi,
        shown: &Web,
        operations: Operations,
    ) -> Arc<Server> {
        let Program { name, version, .. } = *self.program;
        let document = docs::document(&About { name, version, about }, shown, documented);
        let router = router.merge(health::router(operations)).merge(pages::router(&document, shown));
        let (guard, metrics) = (Guard::new(self.config.web.clone()), self.metrics.clone());
        Server::new(router, self.program.layout(), guard, metrics, self.lifecycle.clone())
    }

    /// Waits for the signal to end, then leads the process there.
    async fn end(&mut self) {
        self.signals.next().await;
        tracing::info!(drain = ?self.config.drain, "ending");
        self.lifecycle.drain();
        tokio::select! {
            () = tokio::time::sleep(self.config.drain) => {}
            () = self.signals.next() => {}
        }
        self.lifecycle.stop();
    }
}

async fn bind(variable: &'static str, listen: &[Listen]) -> Result<Listeners, ConfigError> {
    let bad = |error: std::io::Error| ConfigError { variable, reason: error.to_string() };
    Listeners::bind(listen).await.map_err(bad)
}

/// Addresses as the log names them.
fn named(listeners: &Listeners) -> String {
    listeners.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_no_storage_in_memory() {
        let program =
            Program { name: "some-svc", version: "1", about: "serves", ports: &[1], admin: None, counts: &[] };
        let read = |list: &[&str]| asked(&program, list.iter().map(|text| (*text).to_owned()));
        assert_eq!(read(&[]), Ok(Asked::Serve));
        assert_eq!(read(&["--version"]), Ok(Asked::Version));
        assert_eq!(read(&["--health"]), Ok(Asked::Health));
        assert!(read(&["serve"]).is_err());
        for memory in ["-memdb", "--memdb"] {
            assert!(read(&[memory]).expect_err("refused").contains("monolith"));
        }
        assert!(program.help().starts_with("some-svc: serves\n"));
    }
}
