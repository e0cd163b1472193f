//! The databases that a `TestApp` runs on: an EventStoreDB test server in this
//! process, one for each app, since all share one log; and a database of its own on
//! one MongoDB for the whole run. That is a SecantusDB, or the server that
//! `MONGODB_HOST` names (with `MONGODB_USER` and `MONGODB_PASS`).

use std::{
    env,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use parking_lot::Mutex;
use testkit::{EsdbServer, Options, mongo::Mongo};
use uuid::Uuid;

/// An EventStoreDB and a database of MongoDB, of one test.
pub(crate) struct Databases {
    events: Mutex<EsdbServer>,
    views: Views,
    name: String,
}

enum Views {
    /// The one that all tests share.
    Shared(&'static Server),
    /// One that a test may stop.
    Own(Mutex<Mongo>),
}

/// A MongoDB for all tests.
struct Server {
    vars: Vec<(&'static str, String)>,
    _guard: Option<Guard>,
}

impl Databases {
    /// Whether they can be had; says so if not.
    pub(crate) fn are_there() -> bool {
        shared().is_some()
    }

    pub(crate) fn new() -> Self {
        Self::with(Views::Shared(shared().expect("the caller asked whether they are there")))
    }

    /// With a MongoDB of its own, which the test may stop.
    pub(crate) fn own() -> Self {
        let mongo = Mongo::start_or_skip(testkit::mongo::Options::default()).expect("the caller asked");
        Self::with(Views::Own(Mutex::new(mongo)))
    }

    fn with(views: Views) -> Self {
        let events = EsdbServer::start(Options { threads: 1, ..Options::default() }).unwrap();
        Self { events: Mutex::new(events), views, name: format!("qaservice-test-{}", Uuid::new_v4()) }
    }

    /// The settings of a process on them.
    pub(crate) fn vars(&self) -> Vec<(&'static str, String)> {
        let mut vars = match &self.views {
            Views::Shared(server) => server.vars.clone(),
            Views::Own(mongo) => vec![("MONGODB_HOST", mongo.lock().address().to_string())],
        };
        vars.push(("MONGODB_DB", self.name.clone()));
        vars.push(("EVENTSTORE_HOST", self.events.lock().address().to_string()));
        vars
    }

    /// Where the event log is.
    pub(crate) fn events(&self) -> String {
        self.events.lock().address().to_string()
    }

    /// Makes a stored event say something else: its type, its metadata and its data.
    pub(crate) fn rewrite(
        &self,
        stream: &str,
        revision: u64,
        change: impl FnOnce(&mut String, &mut Vec<u8>, &mut Vec<u8>),
    ) {
        self.events.lock().rewrite(stream, revision, change);
    }

    /// Takes the event log away, with all its connections.
    pub(crate) fn stop_events(&self) {
        self.events.lock().stop();
    }

    /// Brings it back as it was.
    pub(crate) fn start_events(&self) {
        self.events.lock().start_again().unwrap();
    }

    /// Takes the MongoDB of the test's own away. It is not killed: one that was just made
    /// may not start again then.
    pub(crate) fn stop_views(&self) {
        self.own_mongo().lock().stop().unwrap();
    }

    pub(crate) fn start_views(&self) {
        self.own_mongo().lock().start_again().unwrap();
    }

    fn own_mongo(&self) -> &Mutex<Mongo> {
        match &self.views {
            Views::Own(mongo) => mongo,
            Views::Shared(_) => panic!("others use it, too"),
        }
    }
}

fn shared() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(Server::find).as_ref()
}

impl Server {
    fn find() -> Option<Self> {
        if let Ok(host) = env::var("MONGODB_HOST") {
            let login = ["MONGODB_USER", "MONGODB_PASS"].into_iter();
            let login = login.filter_map(|name| Some((name, env::var(name).ok()?)));
            return Some(Self { vars: login.chain([("MONGODB_HOST", host)]).collect(), _guard: None });
        }
        let mongo = Mongo::start_or_skip(testkit::mongo::Options::default())?;
        let vars = vec![("MONGODB_HOST", mongo.address().to_string())];
        Some(Self { vars, _guard: Some(Guard::of(mongo)) })
    }
}

/// Ends a server with this process: statics are not dropped.
struct Guard {
    _server: Mongo,
    _waits: Child,
}

impl Guard {
    fn of(server: Mongo) -> Self {
        // Its input ends when this process does, however that comes about.
        let script = "read -r _; kill -KILL $0; rm -rf \"$1\"";
        let waits = Command::new("sh")
            .args(["-c", script, &server.id().unwrap().to_string()])
            .arg(server.folder())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { _server: server, _waits: waits }
    }
}
