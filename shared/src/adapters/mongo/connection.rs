//! The way to the database: settings, limits of time, and what the driver's errors
//! mean. No error of this adapter holds a name or a password.

use std::future::IntoFuture;
use std::time::Duration;

use mongodb::error::{Error, ErrorKind};
use mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Database};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::login::Login;
use crate::ports::StoreError;

/// How long a read may take, with the search for a server.
pub(super) const READ: Duration = Duration::from_secs(4);
/// How long a write may take.
pub(super) const WRITE: Duration = Duration::from_secs(10);
/// How long a list or a count may take.
pub(super) const LIST: Duration = Duration::from_secs(10);
const SERVER_SELECTION: Duration = Duration::from_millis(2_500);
const CONNECT: Duration = Duration::from_secs(2);
const CONNECTIONS: u32 = 64;
const IDLE: Duration = Duration::from_secs(300);

/// What the adapter is told at start.
#[derive(Clone)]
pub struct Options {
    /// A whole connection string, such as `mongodb://localhost:27017`.
    pub url: String,
    /// Counts before what the connection string says.
    pub login: Option<Login>,
    /// All that the adapter writes is in this database.
    pub database: String,
    /// What reads show.
    pub serves: Serves,
}

/// What reads show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// The views of whichever log is in the database.
    AnyLog,
    /// Nothing until `ViewWriter::resume` has found the views to be of its log.
    OwnLog,
}

/// A connection string that is none.
#[derive(Debug, thiserror::Error)]
#[error("it is no connection string of MongoDB{0}")]
pub struct InvalidUrl(String);

/// A client that is made when it is first asked for.
pub(super) struct Connection {
    url: ConnectionString,
    name: String,
    runtime: Handle,
    database: OnceCell<Database>,
}

impl Connection {
    pub(super) fn new(options: &Options) -> Result<Self, InvalidUrl> {
        Ok(Self {
            url: parse(options)?,
            name: options.database.clone(),
            runtime: Handle::current(),
            database: OnceCell::new(),
        })
    }

    /// The name of the database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The database. Only a `mongodb+srv` string needs an answer from somewhere first.
    pub(super) async fn database(&self) -> Result<&Database, StoreError> {
        let make = || async {
            let (url, name) = (self.url.clone(), self.name.clone());
            // The client's tasks end with the runtime that it was made on, and requests
            // come on others.
            let made = self.runtime.spawn(async move { client(url).await.map(|client| client.database(&name)) });
            made.await.map_err(|error| StoreError::unavailable(WHAT, error))?.map_err(failed)
        };
        self.database.get_or_try_init(make).await
    }
}

const WHAT: &str = "MongoDB";

fn parse(options: &Options) -> Result<ConnectionString, InvalidUrl> {
    let url = &options.url;
    // What is wrong may be a part of a password.
    let told = |error: Error| match &*error.kind {
        ErrorKind::InvalidArgument { message, .. } if !url.contains('@') => InvalidUrl(format!(": {message}")),
        _ => InvalidUrl("; characters of a name or password other than letters and digits go in as %40".into()),
    };
    let parsed = ConnectionString::parse(url).map_err(told)?;
    let Some(login) = &options.login else { return Ok(parsed) };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| InvalidUrl(String::new()))?;
    let (hosts, settings) = rest.split_once('?').map_or((rest, None), |(hosts, settings)| (hosts, Some(settings)));
    let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
    let [user, pass] = [&login.user, &login.pass].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC));
    let settings = settings.map_or_else(String::new, |settings| format!("?{settings}"));
    let slash = if hosts.contains('/') || settings.is_empty() { "" } else { "/" };
    ConnectionString::parse(format!("{scheme}://{user}:{pass}@{hosts}{slash}{settings}")).map_err(told)
}

async fn client(url: ConnectionString) -> Result<Client, Error> {
    let mut options = ClientOptions::parse(url).await?;
    options.app_name.get_or_insert_with(|| "qaservice".into());
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION);
    options.connect_timeout.get_or_insert(CONNECT);
    options.max_pool_size.get_or_insert(CONNECTIONS);
    options.max_idle_time.get_or_insert(IDLE);
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    Client::with_options(options)
}

/// Runs an operation for this long at most.
pub(super) async fn within<T>(
    limit: Duration,
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, operation.into_future()).await {
        Ok(result) => result.map_err(failed),
        Err(elapsed) => Err(StoreError::unavailable(WHAT, elapsed)),
    }
}

/// Runs what takes several operations for this long at most.
pub(super) async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(elapsed) => Err(StoreError::unavailable(WHAT, elapsed)),
    }
}

/// What an error of the driver means.
pub(super) fn failed(error: Error) -> StoreError {
    match &*error.kind {
        ErrorKind::BsonDeserialization(_) | ErrorKind::Bson(_) => StoreError::corrupt("a document of the views", error),
        _ => StoreError::unavailable(WHAT, error),
    }
}

/// A failed write that the driver did not look at: only the code is told, for the
/// server's text shows what was to be written.
pub(super) fn refused(code: i32) -> StoreError {
    StoreError::unavailable(WHAT, WriteRefused(code))
}

#[derive(Debug, thiserror::Error)]
#[error("it refused a write with code {0}")]
struct WriteRefused(i32);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str, login: Option<(&str, &str)>) -> Options {
        let login = login.map(|(user, pass)| Login { user: user.into(), pass: pass.into() });
        Options { url: url.into(), login, database: "qaservice".into(), serves: Serves::AnyLog }
    }

    async fn parsed(url: &str, login: Option<(&str, &str)>) -> ClientOptions {
        ClientOptions::parse(parse(&options(url, login)).expect("valid")).await.expect("valid")
    }

    #[tokio::test]
    async fn a_login_is_checked_against_admin_unless_the_string_says_otherwise() {
        let login = Some(("us/er", "p@ss:w%rd"));
        for (url, source) in [
            ("mongodb://h:1", "admin"),
            ("mongodb://h:1/", "admin"),
            ("mongodb://other:secret@h:1/", "admin"),
            ("mongodb://h:1/?authSource=people", "people"),
            ("mongodb://h:1?authSource=people", "people"),
            ("mongodb://h:1/people", "people"),
        ] {
            let credential = parsed(url, login).await.credential.expect("a login");
            assert_eq!(credential.source.as_deref(), Some(source), "{url}");
            assert_eq!(credential.username.as_deref(), Some("us/er"));
            assert_eq!(credential.password.as_deref(), Some("p@ss:w%rd"));
        }
        let own = parsed("mongodb://own:word@h", None).await.credential.expect("a login");
        assert_eq!((own.username.as_deref(), own.source.as_deref()), (Some("own"), Some("admin")));
        assert!(parsed("mongodb://h", None).await.credential.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for url in
            ["mongodb://u:sec@ret@h", "mongodb://u:sec?ret@h", "mongodb://u:sec/ret@h:port", "mongodb://u:sec%@h"]
        {
            let error = parse(&options(url, None)).expect_err(url).to_string();
            assert!(!error.contains("sec") && !error.contains("ret"), "{error}");
        }
        let error = parse(&options("mongodb://h/?w=-1", None)).expect_err("w").to_string();
        assert!(error.contains('w'), "{error}");
        assert!(parse(&options("h", None)).is_err());
    }
}
