//! `TestApp`: one process of the monolith with its own folder, on ports of the system's
//! choice. What is said to it over HTTP is in `client.rs`.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// How long a graceful end may take, whatever clients do: some 12 s, and room for a
/// busy machine.
pub(crate) const GRACE: Duration = Duration::from_secs(16);

/// Makes a test of each named `async fn(Storage)` for each storage.
macro_rules! on_each_storage {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::app::Storage::Memory).await;
            })+
        }
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::app::Storage::Embedded).await;
            })+
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Memory,
    Embedded,
}

impl Storage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Embedded => "embedded",
        }
    }
}

/// What a process is started with.
#[derive(Clone)]
pub(crate) struct Settings {
    vars: Vec<(String, String)>,
    args: Vec<String>,
    dotenv: Option<String>,
    folder: Arc<TempDir>,
}

impl Settings {
    fn new(storage: Storage) -> Self {
        let folder = Arc::new(TempDir::with_prefix("qaservice-").unwrap());
        let data = folder.path().join("data");
        let settings = Self { vars: Vec::new(), args: Vec::new(), dotenv: None, folder }
            .var("IP_PORT", "127.0.0.1:0,127.0.0.1:0")
            .var("ADMIN_ADDR", "127.0.0.1:0")
            .var("DATA_DIR", data.to_str().unwrap())
            .var("LOG_FORMAT", "json");
        match storage {
            Storage::Memory => settings.arg("-memdb"),
            Storage::Embedded => settings,
        }
    }

    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.retain(|(n, _)| n != name);
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.vars.retain(|(n, _)| n != name);
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub(crate) fn without_args(mut self) -> Self {
        self.args.clear();
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

    pub(crate) async fn spawn(self) -> TestApp {
        match Process::start(&self).await {
            Ok(process) => TestApp {
                settings: self,
                process,
                client: reqwest::Client::builder()
                    .no_proxy()
                    .redirect(reqwest::redirect::Policy::none())
                    .build()
                    .unwrap(),
            },
            Err(refused) => panic!("the process did not start: {refused:?}"),
        }
    }

    /// Starts a process that must end by itself with an error.
    pub(crate) async fn refused(&self) -> Refused {
        match Process::start(self).await {
            Ok(mut process) => {
                process.kill();
                panic!("the process started: {}", process.log.text());
            }
            Err(refused) => {
                assert!(!refused.status.success(), "ended with success: {}", refused.stderr);
                assert!(refused.status.code().is_some(), "ended by a signal: {}", refused.stderr);
                refused
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monolith"));
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.vars.iter().map(|(n, v)| (n, v)))
            .args(&self.args)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A process that ended before it served.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    pub(crate) after: Duration,
}

/// What a process wrote to stderr so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    fn tail(&self) -> String {
        let lines = self.0.lock().unwrap();
        lines[lines.len().saturating_sub(100)..].join("\n")
    }
}

struct Process {
    child: Child,
    log: Log,
    serving: Value,
    addresses: Vec<SocketAddr>,
}

impl Process {
    async fn start(settings: &Settings) -> Result<Self, Refused> {
        if let Some(text) = &settings.dotenv {
            std::fs::write(settings.folder().join(".env"), text).unwrap();
        }
        let begun = Instant::now();
        let mut child = settings.command().spawn().unwrap();
        let log = Log::default();
        let (found, serving) = oneshot::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn({
            let log = log.clone();
            move || read_log(stderr, &log, found)
        });

        match tokio::time::timeout(START, serving).await {
            Ok(Ok(serving)) => {
                let addresses = serving["addresses"]
                    .as_str()
                    .expect("the line names its addresses")
                    .split(',')
                    .map(|address| address.trim().parse().unwrap())
                    .collect();
                Ok(Self { child, log, serving, addresses })
            }
            Ok(Err(_)) => {
                let status = child.wait().unwrap();
                let after = begun.elapsed();
                reader.join().unwrap();
                Err(Refused { status, stderr: log.text(), after })
            }
            Err(_) => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("neither serving nor ended after {START:?}: {}", log.text());
            }
        }
    }

    fn kill(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if begun.elapsed() > within {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the process's log ---\n{}", self.log.tail());
        }
    }
}

/// Keeps every line, and hands over the fields of the first that says `serving`.
fn read_log(stderr: impl BufRead, log: &Log, found: oneshot::Sender<Value>) {
    let mut found = Some(found);
    for line in stderr.lines() {
        let Ok(line) = line else { break };
        // Kept first: whoever hears of it finds it in the log.
        log.push(line.clone());
        if found.is_some() {
            let fields = serde_json::from_str::<Value>(&line).map(|line| line["fields"].clone()).unwrap_or_default();
            if fields["message"] == "serving" {
                // The test may have given up.
                let _ = found.take().unwrap().send(fields);
            }
        }
    }
}

/// A running process. Ended by force when it is dropped.
pub(crate) struct TestApp {
    settings: Settings,
    process: Process,
    pub(crate) client: reqwest::Client,
}

impl TestApp {
    pub(crate) async fn spawn(storage: Storage) -> Self {
        Self::settings(storage).spawn().await
    }

    /// To be changed before the start.
    pub(crate) fn settings(storage: Storage) -> Settings {
        Settings::new(storage)
    }

    /// The fields of the line that says `serving`.
    pub(crate) fn serving(&self) -> &Value {
        &self.process.serving
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.process.addresses
    }

    /// Where the first port is reached from here.
    pub(crate) fn address(&self) -> SocketAddr {
        self.reached(0)
    }

    /// Where a port is reached from here, also if it listens on all interfaces.
    pub(crate) fn reached(&self, port: usize) -> SocketAddr {
        let address = self.process.addresses[port];
        if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.settings.folder().to_owned()
    }

    /// The settings of this process, for another one on the same folder.
    pub(crate) fn same_settings(&self) -> Settings {
        self.settings.clone()
    }

    pub(crate) fn log(&self) -> String {
        self.process.log.text()
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own kill is there where the program is not installed.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.id())).status().unwrap();
        assert!(sent.success(), "no {name} for {}", self.id());
    }

    /// Waits for the end of the process; asserts that it comes in time, with success.
    pub(crate) async fn ends(&mut self) {
        match self.process.ended(GRACE).await {
            Some(status) => assert!(status.success(), "ended with {status}"),
            None => panic!("still running {GRACE:?} after the signal"),
        }
    }

    /// A graceful end.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        self.ends().await;
    }

    /// The hard end.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again on the same folder, on other ports, after `stop` or `kill`.
    pub(crate) async fn start(&mut self) {
        match Process::start(&self.settings).await {
            Ok(process) => self.process = process,
            Err(refused) => panic!("the process did not start again: {refused:?}"),
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// The memory that the process holds, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() / 1024
    }
}
