//! Processes for tests: our own programs, started with their settings, ended, killed,
//! and started again.
//!
//! A process says on standard error, as a line of JSON, that it is `serving` and
//! where. Everything here waits for that line or for the end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How often the end of a process is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// The programs of the workspace that tests start, built as the tests themselves are:
/// the folder that they are in. Built once a test binary; `cargo test` alone does not
/// build the programs of other crates.
///
/// `QASERVICE_PROGRAMS` names a folder of programs that were built before.
///
/// # Panics
/// If they do not build.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("QASERVICE_PROGRAMS") {
        Some(folder) => folder.into(),
        None => build(&["eventstore-svc", "projection-svc", "projector-svc", "testkit"]),
    })
}

fn build(packages: &[&str]) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--bins", "--quiet", "--message-format=json"]).current_dir(workspace).stdin(Stdio::null());
    packages.iter().for_each(|package| {
        cargo.args(["-p", package]);
    });
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(built.status.success(), "{packages:?} do not build");
    let told = String::from_utf8_lossy(&built.stdout);
    let executable = told.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["executable"].as_str().map(PathBuf::from)
    });
    executable.expect("cargo names what it built").parent().expect("a folder").to_owned()
}

/// How a process is started.
#[derive(Clone, Debug)]
pub struct Program {
    executable: PathBuf,
    folder: PathBuf,
    vars: BTreeMap<String, String>,
    args: Vec<String>,
}

impl Program {
    /// A program that starts in this folder, with nothing of this environment but `PATH`.
    pub fn new(executable: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        let vars = BTreeMap::from([("LOG_FORMAT".to_owned(), "json".to_owned())]);
        Self { executable: executable.into(), folder: folder.into(), vars, args: Vec::new() }
    }

    /// Another program with the same settings.
    #[must_use]
    pub fn executable(mut self, executable: impl Into<PathBuf>) -> Self {
        self.executable = executable.into();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.vars.remove(name);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Takes all arguments away.
    #[must_use]
    pub fn without_args(mut self) -> Self {
        self.args.clear();
        self
    }

    /// The folder that it starts in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// If it ended instead.
    ///
    /// # Panics
    /// If it neither serves nor ends.
    pub async fn start(&self) -> Result<Process, Refused> {
        let begun = Instant::now();
        let mut child = self.command().spawn().unwrap_or_else(|error| panic!("{}: {error}", self.executable.display()));
        let log = Log::default();
        let (found, serving) = oneshot::channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let reader = std::thread::spawn({
            let log = log.clone();
            move || read(stderr, &log, found)
        });
        match tokio::time::timeout(START, serving).await {
            Ok(Ok(serving)) => {
                let addresses = serving["addresses"].as_str().expect("the line names its addresses");
                let addresses = addresses.split(',').map(|address| address.parse().expect("an address")).collect();
                Ok(Process { program: self.clone(), child, log, serving, addresses })
            }
            Ok(Err(_)) => {
                let status = child.wait().expect("it ended");
                let after = begun.elapsed();
                reader.join().expect("the log is read");
                Err(Refused { status, stderr: log.text(), after })
            }
            Err(_) => {
                end(&mut child);
                panic!("neither serving nor ended after {START:?}: {}", log.text());
            }
        }
    }

    /// Runs it to its end, which must come by itself.
    ///
    /// # Panics
    /// If it cannot be started, or does not end.
    pub async fn run(&self) -> Refused {
        let (begun, mut command) = (Instant::now(), self.command());
        let ended = tokio::task::spawn_blocking(move || command.output());
        let ended = tokio::time::timeout(START, ended).await.expect("it ends").expect("it is waited for");
        let ended = ended.unwrap_or_else(|error| panic!("{}: {error}", self.executable.display()));
        Refused {
            status: ended.status,
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
            after: begun.elapsed(),
        }
    }

    /// The file that it is.
    pub fn path(&self) -> &Path {
        &self.executable
    }

    /// Starts a process that must end by itself with an error.
    ///
    /// # Panics
    /// If it serves, or ends with success or by a signal.
    pub async fn refused(&self) -> Refused {
        match self.start().await {
            Ok(process) => panic!("the process started: {}", process.log()),
            Err(refused) => {
                assert!(!refused.status.success(), "ended with success: {}", refused.stderr);
                assert!(refused.status.code().is_some(), "ended by a signal: {}", refused.stderr);
                refused
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(&self.vars)
            .args(&self.args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A process that ended, and did not serve.
#[derive(Debug)]
pub struct Refused {
    pub status: ExitStatus,
    pub stderr: String,
    pub after: Duration,
}

/// A process that serves. Ended by force when it is dropped.
pub struct Process {
    program: Program,
    child: Child,
    log: Log,
    serving: Value,
    addresses: Vec<SocketAddr>,
}

impl Process {
    /// The fields of the line that says `serving`.
    pub fn serving(&self) -> &Value {
        &self.serving
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where a port is reached from here, also if it listens on all interfaces.
    pub fn reached(&self, port: usize) -> SocketAddr {
        let address = self.addresses[port];
        if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address }
    }

    /// How it was started.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.log.text()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its name, such as `TERM`, `STOP` or `CONT`.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, name: &str) {
        // The shell's own kill is there where the program is not installed.
        let kill = format!("kill -{name} {}", self.id());
        let sent = Command::new("sh").arg("-c").arg(&kill).status().expect("a shell");
        assert!(sent.success(), "{kill}");
    }

    /// Waits for the end; none if it does not come within this time.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if begun.elapsed() > within {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The hard end.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Starts again, after its end, as it was started before.
    ///
    /// # Panics
    /// If it does not serve.
    pub async fn start(&mut self) {
        assert!(!self.is_running(), "it still runs");
        match self.program.start().await {
            Ok(process) => *self = process,
            Err(refused) => panic!("the process did not start again: {refused:?}"),
        }
    }

    /// Starts again, after its end, where it listened before.
    ///
    /// # Panics
    /// If it does not serve.
    pub async fn start_in_place(&mut self) {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        self.program = self.program.clone().var("IP_PORT", &addresses.join(","));
        self.start().await;
    }

    /// The memory that it holds, in MiB.
    ///
    /// # Panics
    /// If it does not run, or the system does not tell.
    pub fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("VmRSS") / 1024
    }

    /// The processor time that it has taken.
    ///
    /// # Panics
    /// As `resident_mib`.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("it runs");
        // The name in brackets may hold anything; user and system time are fields 14 and 15.
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
        // Linux counts in hundredths of a second for programs, whatever its own clock.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let name = self.program.executable.file_name().unwrap_or_default().display();
            eprintln!("--- the log of {name} ---\n{}", self.log.tail());
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended already, which is as good.
    let _ = child.kill();
    let _ = child.wait();
}

/// What a process wrote to standard error so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn text(&self) -> String {
        self.0.lock().join("\n")
    }

    fn tail(&self) -> String {
        let lines = self.0.lock();
        lines[lines.len().saturating_sub(100)..].join("\n")
    }
}

/// Keeps every line, and hands over the fields of the first that says `serving`.
fn read(stderr: impl BufRead, log: &Log, found: oneshot::Sender<Value>) {
    let mut found = Some(found);
    for line in stderr.lines() {
        let Ok(line) = line else { break };
        // Kept first: whoever hears of it finds it in the log.
        log.0.lock().push(line.clone());
        let fields = serde_json::from_str::<Value>(&line).map(|line| line["fields"].clone()).unwrap_or_default();
        if fields["message"] == "serving"
            && let Some(found) = found.take()
        {
            // The test may have given up.
            let _ = found.send(fields);
        }
    }
}
