//! A MongoDB for a test: the one at `MONGODB_HOST`, or a SecantusDB of its own.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use shared::adapters::mongo::{MongoViews, Options, Serves};
use shared::login::Login;
use testkit::mongo::Mongo;
use uuid::Uuid;

/// A database that no other test has, on a server that is there.
pub(crate) struct Place {
    url: String,
    login: Option<Login>,
    name: String,
    own: Option<Mongo>,
}

impl Place {
    /// A server for a test; none where there is no MongoDB to be had.
    pub(crate) fn find() -> Option<Self> {
        let Ok(host) = std::env::var("MONGODB_HOST") else { return Self::own(None) };
        let url = if host.contains("://") { host } else { format!("mongodb://{host}") };
        let login = std::env::var("MONGODB_USER").ok().zip(std::env::var("MONGODB_PASS").ok());
        let login = login.map(|(user, pass)| Login { user, pass });
        Some(Self { url, login, name: fresh_name(), own: None })
    }

    /// A server of the test's own, which it may kill; with a login for this one alone.
    pub(crate) fn own(login: Option<Login>) -> Option<Self> {
        let credentials = login.clone().map(|Login { user, pass }| (user, pass));
        let own = Mongo::start_or_skip(testkit::mongo::Options { credentials, ..Default::default() })?;
        Some(Self { url: format!("mongodb://{}", own.address()), login, name: fresh_name(), own: Some(own) })
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.own.as_mut().expect("a server of the test's own").kill().unwrap();
    }

    /// Starts it again, on the same files and port.
    pub(crate) fn start(&mut self) {
        self.own.as_mut().expect("a server of the test's own").start_again().unwrap();
    }

    /// Stops the server from doing anything; its connections stay.
    pub(crate) fn pause(&self) {
        self.own.as_ref().expect("a server of the test's own").pause().unwrap();
    }

    pub(crate) fn go_on(&self) {
        self.own.as_ref().expect("a server of the test's own").go_on().unwrap();
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

    /// Puts the checkpoint back, as if the process had died before it was written, with
    /// the number of log events there.
    pub(crate) async fn put_back(&self, position: u64, events: i64) {
        self.set(doc! { "ahead": 0_i64 }).await;
        self.put_back_only(position, events).await;
    }

    /// The same, with what was announced.
    pub(crate) async fn put_back_only(&self, position: u64, events: i64) {
        let position = i64::try_from(position).unwrap();
        self.set(doc! { "commit": position, "prepare": position, "events": events }).await;
    }

    async fn set(&self, values: Document) {
        let views: Collection<Document> = self.database().await.collection("views");
        views.update_one(doc! { "_id": "answers" }, doc! { "$set": values }).await.unwrap();
    }

    pub(crate) async fn drop_database(&self) {
        self.database().await.drop().await.unwrap();
    }
}

fn fresh_name() -> String {
    format!("qaservice-test-{}", Uuid::new_v4())
}
