//! SecantusDB, which stands in for MongoDB, as a process of its own.

mod wire;

use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(10);

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where it keeps its data; a temporary folder without it.
    pub folder: Option<PathBuf>,
    /// A free one without it.
    pub port: Option<u16>,
    /// The only user, with a password; everybody without it.
    pub credentials: Option<(String, String)>,
}

/// A server on the loopback address. It ends when this is dropped.
#[derive(Debug)]
pub struct Mongo {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    credentials: Option<(String, String)>,
    child: Option<Child>,
    _temporary: Option<TempDir>,
}

/// The program: named by `SECANTUSD`, in `PATH`, or installed by the test script.
pub fn program() -> Option<PathBuf> {
    crate::programs::found("SECANTUSD", "secantusd-py", "secantus")
}

impl Mongo {
    /// Starts a server and waits until it answers; without the program it says so, and
    /// the test is to be skipped.
    ///
    /// # Panics
    /// If it does not start, or is missing where nothing may be skipped.
    pub fn start_or_skip(options: Options) -> Option<Self> {
        let Some(program) = program() else {
            crate::programs::skip("SecantusDB is missing: name it by SECANTUSD, or run ./test.sh");
            return None;
        };
        Some(Self::start(&program, options).expect("SecantusDB should start"))
    }

    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(program: &Path, options: Options) -> io::Result<Self> {
        let temporary = if options.folder.is_none() { Some(tempfile::tempdir()?) } else { None };
        let folder = options.folder.or_else(|| Some(temporary.as_ref()?.path().to_owned())).unwrap_or_default();
        let port = options.port.map_or_else(crate::ports::free, Ok)?;
        let mut server =
            Self { program: program.to_owned(), folder, port, credentials: None, child: None, _temporary: temporary };
        server.spawn()?;
        if let Some((user, password)) = options.credentials {
            // It takes its first user while it lets in everybody.
            wire::create_user(server.address(), &user, &password)?;
            server.stop()?;
            server.credentials = Some((user, password));
            server.spawn()?;
        }
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// For a client, with the credentials if there are any.
    pub fn connection_string(&self) -> String {
        match &self.credentials {
            Some((user, password)) => format!("mongodb://{user}:{password}@{}/?authSource=admin", self.address()),
            None => format!("mongodb://{}", self.address()),
        }
    }

    /// The process, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it keeps its data and, in `output`, what it says.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        let begun = Instant::now();
        while let Some(child) = &mut self.child
            && child.try_wait()?.is_none()
            && begun.elapsed() < END
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()
    }

    /// Starts it on the same port and data once more, if it does not run.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_again(&mut self) -> io::Result<()> {
        if self.child.is_some() { Ok(()) } else { self.spawn() }
    }

    /// Stops it from doing anything, until it may go on.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn go_on(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    fn spawn(&mut self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let output = OpenOptions::new().create(true).append(true).open(self.folder.join("output"))?;
        let mut command = Command::new(&self.program);
        command.arg("--port").arg(self.port.to_string());
        command.arg("--storage-path").arg(self.folder.join("data")).arg("--sync-on-commit");
        if self.credentials.is_some() {
            command.arg("--auth");
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        self.child = Some(command.spawn()?);
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            if wire::answers(self.address()) {
                return Ok(());
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || begun.elapsed() > START {
                self.kill()?;
                let output = std::fs::read_to_string(self.folder.join("output")).unwrap_or_default();
                return Err(io::Error::other(format!("SecantusDB did not start:\n{output}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mongo {
    fn drop(&mut self) {
        drop(self.kill());
    }
}
