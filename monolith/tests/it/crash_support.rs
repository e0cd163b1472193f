//! What the crash tests share: starting the binary, a raw HTTP client that
//! tells "refused" from "unknown", random commands, and the book of what was
//! acknowledged. It uses nothing of the service's crates, so that a mistake
//! there cannot hide in here.

pub(crate) mod book;
pub(crate) mod trace;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a start may take: a debug build under strace on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// SplitMix64: small, seedable, good enough to choose commands with.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("fits")]
    }

    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// The seed of a test, printed so that a failure can be repeated with
/// `QASERVICE_SEED`.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = std::env::var("QASERVICE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(now.expect("after 1970").as_nanos() & 0xFFFF_FFFF).expect("fits")
    });
    eprintln!("{test}: QASERVICE_SEED={seed}");
    seed
}

pub(crate) fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

/// Says why a test cannot run here; on CI that is a failure.
pub(crate) fn skip(test: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must run on CI, but {why}");
    eprintln!("SKIPPED {test}: {why}");
}

/// Whether strace is there and may trace and tamper; else why not.
pub(crate) fn strace_works() -> Result<(), String> {
    let probe = Command::new("strace").args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "true"]).output();
    match probe {
        Err(error) => Err(format!("strace cannot be started ({error}); Debian package strace")),
        Ok(output) if !output.status.success() => {
            Err(format!("strace cannot trace here: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => Ok(()),
    }
}

// ---------------------------------------------------------------- the process

/// How to start the binary.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    data: PathBuf,
    env: BTreeMap<String, String>,
    strace: Vec<String>,
}

/// A start that did not come to serve.
#[derive(Debug)]
pub(crate) struct StartFailure {
    pub(crate) status: Option<ExitStatus>,
    pub(crate) log: String,
    pub(crate) took: Duration,
}

impl Launch {
    pub(crate) fn on(data: &Path) -> Self {
        Self { data: data.to_owned(), env: BTreeMap::new(), strace: Vec::new() }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs it under `strace -f` with these arguments.
    pub(crate) fn strace(mut self, arguments: &[&str]) -> Self {
        self.strace = arguments.iter().map(|&text| text.to_owned()).collect();
        self
    }

    fn command(&self) -> Command {
        // Another build than the tests' own can be named, the release build for one.
        let named = std::env::var_os("QASERVICE_BINARY");
        let binary = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_monolith").into());
        let mut command = if self.strace.is_empty() {
            Command::new(&binary)
        } else {
            let mut command = Command::new("strace");
            command.arg("-f").args(&self.strace).arg("--").arg(&binary);
            command
        };
        // The settings of whoever runs the tests must not reach the service,
        // and neither must a `.env` in the working folder.
        for name in [
            "EVENTSTORE_HOST",
            "MONGODB_HOST",
            "MONGODB_USER",
            "MONGODB_PASS",
            "MONGODB_DB",
            "DISK_RESERVE_MB",
            "DRAIN_MS",
            "CORS_ORIGINS",
            "ALLOWED_HOSTS",
            "PUBLIC_URL",
            "AWAIT_TIMEOUT_MS",
            "IDEMPOTENCY_TTL_S",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command
            .current_dir(std::env::temp_dir())
            .env("IP_PORT", "127.0.0.1:0,127.0.0.1:0")
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("DATA_DIR", &self.data)
            .env("LOG_FORMAT", "json")
            .env("DISK_RESERVE_MB", "1")
            .envs(&self.env)
            .stdin(Stdio::null());
        command
    }

    /// Starts the binary and waits until it serves.
    pub(crate) fn try_start(&self) -> Result<Service, Box<StartFailure>> {
        let begun = Instant::now();
        let mut child =
            self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary can be started");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(Vec::<String>::new()));
        let (serving, served) = std::sync::mpsc::channel();
        let lines = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let addresses = serving_addresses(&line);
                lines.lock().expect("not poisoned").push(line);
                if let Some(addresses) = addresses {
                    // Nobody listens any more once the start was given up.
                    let _ = serving.send(addresses);
                }
            }
        });
        let mut service = Service {
            pid: child.id(),
            traced: !self.strace.is_empty(),
            child: Some(child),
            addresses: Vec::new(),
            log,
            reader: Some(reader),
        };
        loop {
            if let Ok(addresses) = served.recv_timeout(Duration::from_millis(5)) {
                service.addresses = addresses;
                if service.traced {
                    service.pid = traced_child(service.pid).expect("strace has its child");
                }
                return Ok(service);
            }
            let status = service.child_mut().try_wait().expect("can be waited for");
            if status.is_some() || begun.elapsed() > START_TIMEOUT {
                let took = begun.elapsed();
                service.kill();
                return Err(Box::new(StartFailure { status, log: service.log_text(), took }));
            }
        }
    }

    pub(crate) fn start(&self) -> Service {
        match self.try_start() {
            Ok(service) => service,
            Err(failure) => panic!(
                "the service did not start on {}: {:?} after {:?}\n{}",
                self.data.display(),
                failure.status,
                failure.took,
                failure.log
            ),
        }
    }

    /// Starts the binary and kills it after a while, whether it serves or not;
    /// gives what it logged.
    pub(crate) fn start_and_kill(&self, patience: Duration) -> String {
        let mut command = self.command();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("can be started");
        let mut stderr = child.stderr.take().expect("piped");
        let reader = thread::spawn(move || {
            let mut log = Vec::new();
            stderr.read_to_end(&mut log).expect("readable");
            String::from_utf8_lossy(&log).into_owned()
        });
        thread::sleep(patience);
        let ended = child.try_wait().expect("can be waited for");
        let _ = child.kill();
        let _ = child.wait();
        let log = reader.join().expect("the log's reader does not panic");
        assert!(ended.is_none(), "the start ended by itself with {ended:?}\n{log}");
        log
    }

    /// Runs `monolith --repair` on the folder.
    pub(crate) fn repair(&self) -> Output {
        self.command().arg("--repair").output().expect("the binary can be started")
    }
}

fn serving_addresses(line: &str) -> Option<Vec<SocketAddr>> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    if fields.get("message")?.as_str()? != "serving" {
        return None;
    }
    let addresses = fields.get("addresses")?.as_str()?;
    let addresses: Vec<_> = addresses
        .split(',')
        .map(|text| text.trim().trim_start_matches("http://").parse().expect("an address"))
        .collect();
    Some(addresses)
}

/// The process whose parent is `strace`.
fn traced_child(strace: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let after_name = stat.rsplit_once(") ")?.1;
        let parent: u32 = after_name.split(' ').nth(1)?.parse().ok()?;
        (parent == strace).then_some(pid)
    })
}

/// A running binary; killed when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    child: Option<Child>,
    /// The service itself, not the strace around it.
    pid: u32,
    traced: bool,
    addresses: Vec<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Service {
    fn child_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect("not stopped yet")
    }

    /// A client of the first address.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.addresses[0])
    }

    /// A client of the last address: both serve every route.
    pub(crate) fn reader(&self) -> Client {
        Client::new(*self.addresses.last().expect("an address"))
    }

    pub(crate) fn log_text(&self) -> String {
        self.log.lock().expect("not poisoned").join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child_mut().try_wait().expect("can be waited for").is_none()
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if self.traced {
            let pid = traced_child(child.id()).unwrap_or(self.pid);
            if pid == child.id() {
                let _ = child.kill();
            } else {
                signal(pid, "KILL");
            }
        } else {
            let _ = child.kill();
        }
        let _ = child.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log's reader does not panic");
        }
    }

    /// SIGTERM, and waits for a graceful end.
    pub(crate) fn terminate(&mut self) {
        signal(self.pid, "TERM");
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child_mut().try_wait().expect("can be waited for") {
                assert!(
                    status.success() && status.signal().is_none(),
                    "SIGTERM ended the service with {status}\n{}",
                    self.log_text()
                );
                break;
            }
            assert!(
                begun.elapsed() < STOP_TIMEOUT,
                "the service still runs {STOP_TIMEOUT:?} after SIGTERM\n{}",
                self.log_text()
            );
            thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the service's log\n{}", self.log_text());
        }
    }
}

fn signal(pid: u32, name: &str) {
    // The crate forbids unsafe code, and the shell has `kill` built in.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).stderr(Stdio::null()).status();
    status.expect("sh can be started");
}

// ----------------------------------------------------------------- the client

#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came whole; the head always did.
    pub(crate) complete: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status, self.text()))
    }

    pub(crate) fn position(&self) -> Option<u64> {
        self.header("event-position").map(|text| text.parse().expect("a position"))
    }

    pub(crate) fn revision(&self) -> Option<u64> {
        let tag = self.header("etag")?;
        Some(tag.trim_matches('"').parse().expect("a revision"))
    }
}

/// HTTP/1.1 over one kept connection. It never repeats by itself: after an
/// error the outcome of the request is unknown.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
                stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
                BufReader::new(stream)
            }
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            write!(request, "{name}: {value}\r\n").expect("a string takes it");
        }
        if method != "GET" {
            write!(request, "content-length: {}\r\n", body.len()).expect("a string takes it");
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        stream.get_mut().write_all(&request)?;
        let reply = read_reply(&mut stream)?;
        if reply.complete && reply.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    /// A GET, which may be repeated on a new connection.
    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Reply {
        for last in [false, true] {
            match self.send("GET", path, headers, b"") {
                Ok(reply) if reply.complete || last => {
                    assert!(reply.complete, "GET {path}: the body was cut off");
                    return reply;
                }
                Err(error) if last => panic!("GET {path}: {error}"),
                Ok(_) | Err(_) => {}
            }
        }
        unreachable!("the last try returns or panics")
    }
}

fn read_line(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 || !line.ends_with('\n') {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_reply(stream: &mut impl BufRead) -> std::io::Result<Reply> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut reply = Reply::default();
    let status = read_line(stream)?;
    let status = status.strip_prefix("HTTP/1.1 ").ok_or_else(|| bad(&status))?;
    reply.status = status.get(..3).and_then(|text| text.parse().ok()).ok_or_else(|| bad(status))?;
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
        reply.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let chunked = reply.header("transfer-encoding").is_some_and(|text| text.contains("chunked"));
    let length: u64 = reply.header("content-length").map_or(0, |text| text.parse().expect("a length"));
    reply.complete = if chunked {
        read_chunks(stream, &mut reply.body).is_ok()
    } else {
        let read = stream.by_ref().take(length).read_to_end(&mut reply.body);
        read.is_ok_and(|got| got as u64 == length)
    };
    Ok(reply)
}

/// Keeps what came even when the connection breaks: a line of a batch that
/// was answered was acknowledged.
fn read_chunks(stream: &mut impl BufRead, body: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let size = read_line(stream)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
        let got = stream.by_ref().take(size).read_to_end(body)?;
        if got as u64 != size {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if !read_line(stream)?.is_empty() {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if size == 0 {
            return Ok(());
        }
    }
}

/// Percent-encodes all but unreserved characters.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes it");
        }
    }
    out
}

/// Copies a folder whole, holes of files included as zeros or holes.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("can be made");
    for entry in std::fs::read_dir(from).expect("can be listed") {
        let entry = entry.expect("can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("can be copied");
        }
    }
}
