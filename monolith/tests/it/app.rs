//! `TestApp`: the service on one of its storages, with its own folder, on ports of the
//! system's choice. It is one process of the monolith, or the three services. What is
//! said to it over HTTP is in `client.rs`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
pub(crate) use testkit::processes::Refused;
use testkit::processes::{Process, Program, programs};

use crate::databases::Databases;

/// How long a graceful end may take, whatever clients do: some 12 s, and room for a
/// busy machine.
pub(crate) const GRACE: Duration = Duration::from_secs(16);

/// How long recovery and take-over may take.
pub(crate) const RECOVERY: Duration = Duration::from_secs(15);

/// Makes a test of each named `async fn(Storage)` for each storage, and for the three
/// services on theirs. Those behind `locally:` are for the monolith on the storages
/// that it brings along: what does not depend on where events go.
macro_rules! on_each_storage {
    ($($test:ident),+ $(; locally: $($local:ident),+)? $(,)?) => {
        on! { memory: Memory, $($test),+ $(, $($local),+)? }
        on! { embedded: Embedded, $($test),+ $(, $($local),+)? }
        on! { databases: Databases, $($test),+ }
        on! { services: Services, $($test),+ }
    };
    (locally: $($local:ident),+ $(,)?) => {
        on! { memory: Memory, $($local),+ }
        on! { embedded: Embedded, $($local),+ }
    };
}

macro_rules! on {
    ($module:ident: $storage:ident, $($test:ident),+) => {
        mod $module {
            $(#[tokio::test]
            async fn $test() {
                let storage = $crate::app::Storage::$storage;
                if storage.is_there() {
                    super::$test(storage).await;
                }
            })+
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Memory,
    Embedded,
    /// The monolith on EventStoreDB and MongoDB.
    Databases,
    /// The three services on EventStoreDB and MongoDB.
    Services,
}

impl Storage {
    /// What a process calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Embedded => "embedded",
            Self::Databases | Self::Services => "eventstoredb and mongodb",
        }
    }

    /// Whether it stays when the processes end.
    pub(crate) fn is_durable(self) -> bool {
        self != Self::Memory
    }

    /// Whether what it needs is there; says so if not.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::Memory | Self::Embedded => true,
            Self::Databases | Self::Services => Databases::are_there(),
        }
    }
}

/// What the processes are started with.
#[derive(Clone)]
pub(crate) struct Settings {
    storage: Storage,
    /// Of the monolith; the services have the same but for the executable.
    pub(crate) program: Program,
    dotenv: Option<String>,
    folder: Arc<TempDir>,
    databases: Option<Arc<Databases>>,
}

impl Settings {
    fn new(storage: Storage) -> Self {
        let folder = Arc::new(TempDir::with_prefix("qaservice-").unwrap());
        let data = folder.path().join("data");
        let program = Program::new(env!("CARGO_BIN_EXE_monolith"), folder.path())
            .var("ADMIN_ADDR", "127.0.0.1:0")
            .var("DATA_DIR", data.to_str().unwrap());
        let settings = Self { storage, program, dotenv: None, folder, databases: None };
        let settings = match storage {
            Storage::Services => settings.var("IP_PORT", "127.0.0.1:0"),
            _ => settings.var("IP_PORT", "127.0.0.1:0,127.0.0.1:0"),
        };
        match storage {
            Storage::Memory => settings.arg("-memdb"),
            Storage::Embedded => settings,
            Storage::Databases | Storage::Services => settings.on(Databases::new()),
        }
    }

    /// On these databases.
    pub(crate) fn on(mut self, databases: Databases) -> Self {
        for (name, value) in databases.vars() {
            self = self.var(name, &value);
        }
        self.databases = Some(Arc::new(databases));
        self
    }

    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.program = self.program.var(name, value);
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.program = self.program.without(name);
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.program = self.program.arg(arg);
        self
    }

    pub(crate) fn without_args(mut self) -> Self {
        self.program = self.program.without_args();
        self
    }

    /// The text of `.env` in the working directory.
    pub(crate) fn dotenv(mut self, text: &str) -> Self {
        self.dotenv = Some(text.to_owned());
        self
    }

    /// The working directory; the data folder is `data` within.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the processes and waits until they can be worked with.
    pub(crate) async fn spawn(self) -> TestApp {
        let app = self.launch().await;
        app.settle().await;
        app
    }

    /// Starts the processes.
    pub(crate) async fn launch(self) -> TestApp {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        TestApp { processes: self.start().await, settings: self, client }
    }

    /// Starts a process that must end by itself with an error.
    pub(crate) async fn refused(&self) -> Refused {
        self.write_dotenv();
        self.programs()[0].refused().await
    }

    async fn start(&self) -> Vec<Process> {
        self.write_dotenv();
        let programs = self.programs();
        let started = futures::future::join_all(programs.iter().map(Program::start)).await;
        let started = started.into_iter().map(|started| started.unwrap_or_else(|error| panic!("no start: {error:?}")));
        started.collect()
    }

    fn programs(&self) -> Vec<Program> {
        match self.storage {
            Storage::Services => SERVICES.map(|name| self.program.clone().executable(programs().join(name))).into(),
            _ => vec![self.program.clone()],
        }
    }

    fn write_dotenv(&self) {
        if let Some(text) = &self.dotenv {
            std::fs::write(self.folder().join(".env"), text).unwrap();
        }
    }
}

/// The services in the order of `TestApp::processes`.
pub(crate) const SERVICES: [&str; 3] = ["eventstore-svc", "projection-svc", "projector-svc"];

/// The running processes. Ended by force when it is dropped.
pub(crate) struct TestApp {
    settings: Settings,
    /// The monolith, or the services.
    pub(crate) processes: Vec<Process>,
    pub(crate) client: reqwest::Client,
}

impl TestApp {
    pub(crate) async fn spawn(storage: Storage) -> Self {
        Self::settings(storage).spawn().await
    }

    /// The monolith shows views only when it knows that they are its log's.
    async fn settle(&self) {
        let begun = Instant::now();
        while self.settings.storage == Storage::Databases && self.get("/readyz").await.status != 200 {
            assert!(begun.elapsed() < GRACE, "not ready after {GRACE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// To be changed before the start.
    pub(crate) fn settings(storage: Storage) -> Settings {
        Settings::new(storage)
    }

    /// One that waits long for positions: for tests that write much, on a stand-in for a
    /// database that takes it slowly.
    pub(crate) async fn patient(storage: Storage) -> Self {
        Self::settings(storage).var("AWAIT_TIMEOUT_MS", "120000").spawn().await
    }

    /// The fields of the line that says `serving`.
    pub(crate) fn serving(&self) -> &Value {
        self.processes[0].serving()
    }

    /// All that answer queries and commands: the monolith's ports, or the write side's
    /// and the read side's.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match self.settings.storage {
            Storage::Services => self.processes[..2].iter().flat_map(Process::addresses).copied().collect(),
            _ => self.processes[0].addresses().to_vec(),
        }
    }

    /// Where commands go, from here.
    pub(crate) fn address(&self) -> SocketAddr {
        self.processes[0].reached(0)
    }

    /// Where a call goes: commands to the first port and reads to the last, or to the
    /// service that has the path.
    pub(crate) fn home(&self, method: &str, path: &str) -> SocketAddr {
        let is_read = matches!(method, "GET" | "HEAD");
        match self.settings.storage {
            Storage::Services => {
                let segments: Vec<_> = path.split('?').next().unwrap_or_default().split('/').skip(1).collect();
                let is_of_the_views = matches!(
                    segments[..],
                    ["answers"]
                        | ["answers", _]
                        | ["projection", "ping"]
                        | ["v1", "events" | "sessions" | "rejections"]
                        | ["v1", "events", _]
                        | ["api" | "event" | "events" | "sessions" | "errors", ..]
                );
                self.processes[usize::from(is_read && is_of_the_views)].reached(0)
            }
            _ if is_read => self.reached(self.addresses().len() - 1),
            _ => self.address(),
        }
    }

    /// Where a port is reached from here, also if it listens on all interfaces.
    pub(crate) fn reached(&self, port: usize) -> SocketAddr {
        match self.settings.storage {
            Storage::Services => self.processes[port].reached(0),
            _ => self.processes[0].reached(port),
        }
    }

    /// Where operators are served, from here.
    pub(crate) fn admin(&self) -> SocketAddr {
        match self.settings.storage {
            Storage::Services => self.processes[2].reached(0),
            _ => self.serving()["admin"].as_str().expect("it is said").parse().expect("one address"),
        }
    }

    /// Where operators call.
    pub(crate) fn operators(&self) -> SocketAddr {
        match self.settings.storage {
            Storage::Services => self.processes[2].reached(0),
            _ => self.serving()["admin"].as_str().expect("the line names it").parse().unwrap(),
        }
    }

    /// The storage that it is on.
    pub(crate) fn storage(&self) -> Storage {
        self.settings.storage
    }

    /// The databases that it is on.
    pub(crate) fn databases(&self) -> &Databases {
        self.settings.databases.as_ref().expect("it is on databases")
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.settings.folder().to_owned()
    }

    /// The settings of these processes, for others on the same storage.
    pub(crate) fn same_settings(&self) -> Settings {
        self.settings.clone()
    }

    pub(crate) fn log(&self) -> String {
        self.processes.iter().map(Process::log).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.processes.iter_mut().all(Process::is_running)
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.processes.iter().for_each(|process| process.signal(name));
    }

    /// Waits for the end; asserts that it comes in time, with success.
    pub(crate) async fn ends(&mut self) {
        for process in &mut self.processes {
            match process.ended(GRACE).await {
                Some(status) => assert!(status.success(), "ended with {status}"),
                None => panic!("still running {GRACE:?} after the signal"),
            }
        }
    }

    /// A graceful end.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        self.ends().await;
    }

    /// The hard end.
    pub(crate) fn kill(&mut self) {
        self.processes.iter_mut().for_each(Process::kill);
    }

    /// Starts again on the same storage, on other ports, after `stop` or `kill`.
    pub(crate) async fn start(&mut self) {
        self.processes = self.settings.start().await;
        self.settle().await;
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// The memory that the first process holds, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        self.processes[0].resident_mib()
    }
}
