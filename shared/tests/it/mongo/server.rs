//! A MongoDB for a test: the one at `MONGODB_HOST`, or a SecantusDB of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use shared::adapters::mongo::{Login, MongoViews, Options, Serves};
use tempfile::TempDir;
use uuid::Uuid;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);

/// A database that no other test has, on a server that is there.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) login: Option<Login>,
    pub(crate) name: String,
    process: Option<Process>,
}

/// A SecantusDB.
struct Process {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    with_login: bool,
    child: Child,
}

impl Place {
    /// A server for a test; none where there is no MongoDB to be had.
    pub(crate) async fn find() -> Option<Self> {
        match std::env::var("MONGODB_HOST") {
            Ok(host) => Some(Self::at(&host)),
            Err(_) => Self::own().await,
        }
    }

    fn at(host: &str) -> Self {
        let url = if host.contains("://") { host.to_owned() } else { format!("mongodb://{host}") };
        let login = std::env::var("MONGODB_USER").ok().zip(std::env::var("MONGODB_PASS").ok());
        let login = login.map(|(user, pass)| Login { user, pass });
        Self { url, login, name: fresh_name(), process: None }
    }

    /// A server of the test's own, which it may kill.
    pub(crate) async fn own() -> Option<Self> {
        let Some(program) = program() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "SecantusDB is missing");
            eprintln!("skipped: SecantusDB is missing; ./test.sh installs it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(&program, folder.path(), port, false);
        let process = Process { program, folder, port, with_login: false, child };
        let url = format!("mongodb://127.0.0.1:{port}");
        let place = Self { url, login: None, name: fresh_name(), process: Some(process) };
        place.answers().await;
        Some(place)
    }

    /// Returns once the server answers.
    async fn answers(&self) {
        let database = self.database().await;
        let begun = Instant::now();
        while let Err(error) = database.run_command(doc! { "ping": 1 }).await {
            assert!(begun.elapsed() < START, "the server does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        let process = self.process.as_mut().expect("a server of the test's own");
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// Starts it again, on the same files and port.
    pub(crate) fn start(&mut self) {
        let process = self.process.as_mut().expect("a server of the test's own");
        process.child = spawn(&process.program, process.folder.path(), process.port, process.with_login);
    }

    /// Has the server ask for this login from now on.
    pub(crate) async fn ask_for(&mut self, login: Login) {
        let admin = self.client().await.database("admin");
        let create = doc! { "createUser": &login.user, "pwd": &login.pass, "roles": ["root"] };
        admin.run_command(create).await.unwrap();
        self.kill();
        self.process.as_mut().expect("a server of the test's own").with_login = true;
        self.start();
        self.login = Some(login);
        self.answers().await;
    }

    pub(crate) fn options(&self, serves: Serves) -> Options {
        Options { url: self.url.clone(), login: self.login.clone(), database: self.name.clone(), serves }
    }

    /// Views here, as a process has them.
    pub(crate) fn views(&self) -> MongoViews {
        MongoViews::connect(self.options(Serves::AnyLog)).unwrap()
    }

    async fn client(&self) -> Client {
        let mut options = mongodb::options::ClientOptions::parse(&self.url).await.unwrap();
        options.server_selection_timeout = Some(Duration::from_secs(5));
        if let Some(Login { user, pass }) = self.login.clone() {
            let credential = mongodb::options::Credential::builder().username(user).password(pass).build();
            options.credential = Some(credential);
        }
        Client::with_options(options).unwrap()
    }

    /// The database as it is seen from elsewhere.
    pub(crate) async fn database(&self) -> Database {
        self.client().await.database(&self.name)
    }

    pub(crate) async fn meta(&self) -> Document {
        let views: Collection<Document> = self.database().await.collection("views");
        views.find_one(doc! { "_id": "answers" }).await.unwrap().expect("a meta document")
    }

    /// The collection of the rows.
    pub(crate) async fn rows(&self) -> Collection<Document> {
        let meta = self.meta().await;
        let name = format!("answers_{}_{}", meta.get_i64("generation").unwrap(), meta.get_str("views").unwrap());
        self.database().await.collection(&name)
    }

    /// Puts the checkpoint back, as if the process had died before it was written.
    pub(crate) async fn put_back(&self, position: u64) {
        let views: Collection<Document> = self.database().await.collection("views");
        let position = i64::try_from(position).unwrap();
        let set = doc! { "$set": { "commit": position, "prepare": position, "ahead": 0_i64 } };
        views.update_one(doc! { "_id": "answers" }, set).await.unwrap();
    }

    pub(crate) async fn drop_database(&self) {
        self.database().await.drop().await.unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fresh_name() -> String {
    format!("qaservice-test-{}", Uuid::new_v4())
}

/// Where the server is: `SECANTUSD`, the `PATH`, or where `./test.sh` puts it.
fn program() -> Option<PathBuf> {
    const NAME: &str = "secantusd-py";
    if let Some(named) = std::env::var_os("SECANTUSD") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/secantus/bin");
    std::env::split_paths(&path).chain([own]).map(|folder| folder.join(NAME)).find(|program| program.is_file())
}

fn spawn(program: &Path, folder: &Path, port: u16, with_login: bool) -> Child {
    let mut command = Command::new(program);
    command.args(["--sync-on-commit", "--cache-size", "256M", "--port", &port.to_string(), "--storage-path"]);
    command.arg(folder.join("data"));
    if with_login {
        command.arg("--auth");
    }
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
