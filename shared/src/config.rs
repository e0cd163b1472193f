//! Settings: from the environment, then from `.env`. A bad one is told by name
//! before a port is bound or a folder touched.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::login::Login;

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {reason}")]
pub struct ConfigError {
    pub variable: &'static str,
    pub reason: String,
}

/// Every setting of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `IP_PORT`; none where the process has its default.
    pub listen: Option<Vec<Listen>>,
    /// `ADMIN_ADDR`; none where the process has its default, if it has such an address.
    pub admin: Option<Vec<Listen>>,
    /// `DATA_DIR`.
    pub data_dir: PathBuf,
    /// `EVENTSTORE_HOST`.
    pub eventstore: Option<EventStoreDb>,
    /// `MONGODB_HOST` and what belongs to it.
    pub mongodb: Option<MongoDb>,
    pub web: Web,
    /// `DISK_RESERVE_MB`.
    pub disk_reserve_mb: u64,
    /// `DRAIN_MS`.
    pub drain: Duration,
    /// `AWAIT_TIMEOUT_MS`.
    pub await_timeout: Duration,
    /// `IDEMPOTENCY_TTL_S`.
    pub idempotency_ttl: Duration,
    /// `RUST_LOG`.
    pub log_filter: String,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
}

/// Where EventStoreDB is.
#[derive(Clone, PartialEq, Eq)]
pub struct EventStoreDb {
    /// `EVENTSTORE_HOST` as it is: a host, host:port, or a whole connection string, which
    /// may hold a password.
    pub host: String,
}

/// Where MongoDB is, and what of it is ours.
#[derive(Clone, PartialEq, Eq)]
pub struct MongoDb {
    /// A whole connection string, such as `mongodb://localhost:27017`. It may hold a
    /// password.
    pub url: String,
    /// `MONGODB_USER` and `MONGODB_PASS`.
    pub login: Option<Login>,
    /// `MONGODB_DB`.
    pub database: String,
}

// Connection strings and passwords are not for the log.
impl fmt::Debug for EventStoreDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStoreDb").finish_non_exhaustive()
    }
}

impl fmt::Debug for MongoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoDb").field("database", &self.database).finish_non_exhaustive()
    }
}

/// What decides whether a browser's page may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Web {
    /// `CORS_ORIGINS`.
    pub cors_origins: Vec<String>,
    /// `ALLOWED_HOSTS`, in lower case, without ports.
    pub allowed_hosts: Vec<String>,
    /// `PUBLIC_URL`, without a slash at its end.
    pub public_url: Option<String>,
}

impl Web {
    /// The origin of `PUBLIC_URL`, in lower case.
    pub fn public_origin(&self) -> Option<String> {
        let url = self.public_url.as_deref()?;
        let behind_scheme = url.find("://").map_or(0, |at| at + 3);
        let end = url[behind_scheme..].find('/').map_or(url.len(), |at| at + behind_scheme);
        Some(url[..end].to_ascii_lowercase())
    }
}

/// An address to listen on; without a host, every address of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub host: Option<String>,
    pub port: u16,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.as_deref().unwrap_or_default(), self.port)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || format!("{text:?} is not of the form host:port or :port");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let port = port.parse().map_err(|_| format!("{port:?} in {text:?} is no port (0 to 65535)"))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if bracketed.is_none() && host.contains([':', '[', ']']) || host.contains(char::is_whitespace) {
            return Err(form());
        }
        Ok(Self { host: Some(host).filter(|host| !host.is_empty()).map(str::to_owned), port })
    }
}

/// Reads variables, and tells which one is bad.
struct Reader<L>(L);

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// The text of a variable; an empty one counts as missing.
    fn text(&self, variable: &'static str) -> Option<String> {
        (self.0)(variable).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn parse<T>(
        &self,
        variable: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let text = self.text(variable);
        text.map(|text| parse(&text).map_err(|reason| ConfigError { variable, reason })).transpose()
    }

    fn list<T>(
        &self,
        variable: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        self.parse(variable, |text| text.split(',').map(|item| parse(item.trim())).collect())
    }

    fn number(&self, variable: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        self.parse(variable, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| format!("{text:?} is no whole number from {} to {}", range.start(), range.end()))
        })
    }
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    fn mongodb(&self) -> Result<Option<MongoDb>, ConfigError> {
        let login = match (self.text("MONGODB_USER"), self.text("MONGODB_PASS")) {
            (Some(user), Some(pass)) => Some(Login { user, pass }),
            (None, None) => None,
            (Some(_), None) => return Err(missing("MONGODB_PASS", "MONGODB_USER is set")),
            (None, Some(_)) => return Err(missing("MONGODB_USER", "MONGODB_PASS is set")),
        };
        let database = self.parse("MONGODB_DB", database_name)?.unwrap_or_else(|| "qaservice".into());
        let url = self.parse("MONGODB_HOST", mongodb_url)?;
        Ok(url.map(|url| MongoDb { url, login, database }))
    }
}

fn missing(variable: &'static str, why: &str) -> ConfigError {
    ConfigError { variable, reason: format!("it is missing, but {why}") }
}

impl Config {
    /// Where the events are, for a process that needs them there.
    ///
    /// # Errors
    /// If `EVENTSTORE_HOST` is not set.
    pub fn eventstore(&self) -> Result<&EventStoreDb, ConfigError> {
        self.eventstore.as_ref().ok_or_else(|| missing("EVENTSTORE_HOST", "the events are in EventStoreDB"))
    }

    /// Where the views are, for a process that needs them there.
    ///
    /// # Errors
    /// If `MONGODB_HOST` is not set.
    pub fn mongodb(&self) -> Result<&MongoDb, ConfigError> {
        self.mongodb.as_ref().ok_or_else(|| missing("MONGODB_HOST", "the views are in MongoDB"))
    }

    /// Reads all settings through `lookup`.
    ///
    /// # Errors
    /// The first setting that cannot be used, and why.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        const YEAR_S: u64 = 366 * 24 * 3600;
        let vars = Reader(lookup);
        Ok(Self {
            listen: vars.list("IP_PORT", str::parse)?,
            admin: vars.list("ADMIN_ADDR", str::parse)?,
            data_dir: vars.text("DATA_DIR").unwrap_or_else(|| "./data".into()).into(),
            eventstore: vars.text("EVENTSTORE_HOST").map(|host| EventStoreDb { host }),
            mongodb: vars.mongodb()?,
            web: Web {
                cors_origins: vars.list("CORS_ORIGINS", origin)?.unwrap_or_default(),
                allowed_hosts: vars.list("ALLOWED_HOSTS", host_name)?.unwrap_or_default(),
                public_url: vars.parse("PUBLIC_URL", public_url)?,
            },
            disk_reserve_mb: vars.number("DISK_RESERVE_MB", 0..=u64::MAX >> 20)?.unwrap_or(64),
            drain: Duration::from_millis(vars.number("DRAIN_MS", 0..=3_600_000)?.unwrap_or(0)),
            await_timeout: Duration::from_millis(vars.number("AWAIT_TIMEOUT_MS", 0..=600_000)?.unwrap_or(5_000)),
            idempotency_ttl: Duration::from_secs(vars.number("IDEMPOTENCY_TTL_S", 1..=10 * YEAR_S)?.unwrap_or(86_400)),
            log_filter: vars
                .parse("RUST_LOG", log_filter)?
                .unwrap_or_else(|| "info,fjall=warn,kurrentdb=off,lsm_tree=warn".into()),
            log_format: vars.parse("LOG_FORMAT", log_format)?.unwrap_or(LogFormat::Text),
        })
    }
}

/// Looks variables up in the environment, then in the file `.env` of the working
/// folder.
///
/// # Errors
/// If there is a `.env` that cannot be read.
pub fn environment() -> Result<impl Fn(&str) -> Option<String>, ConfigError> {
    let bad = |error: dotenvy::Error| ConfigError { variable: ".env", reason: error.to_string() };
    let file: std::collections::HashMap<String, String> = match dotenvy::from_path_iter(".env") {
        Ok(lines) => lines.collect::<Result<_, _>>().map_err(bad)?,
        Err(error) if error.not_found() => std::collections::HashMap::new(),
        Err(error) => return Err(bad(error)),
    };
    Ok(move |variable: &str| std::env::var(variable).ok().or_else(|| file.get(variable).cloned()))
}

fn log_filter(text: &str) -> Result<String, String> {
    text.parse::<tracing_subscriber::filter::Targets>()
        .map(drop)
        .or_else(|_| text.parse::<tracing_subscriber::EnvFilter>().map(drop))
        .map_err(|error| format!("{text:?} is no log filter: {error}"))?;
    Ok(text.into())
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither text nor json")),
    }
}

/// An origin such as `https://example.com:8443`, or `*` for all.
fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.into());
    }
    let uri = web_address(text)?;
    match uri.path_and_query().map(|path| path.as_str()) {
        None | Some("/") if !text.ends_with('/') => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("{text:?} is no origin: scheme, host and port only")),
    }
}

fn public_url(text: &str) -> Result<String, String> {
    let uri = web_address(text)?;
    if uri.query().is_some() || text.contains('#') {
        return Err(format!("{text:?} must not have a query or fragment"));
    }
    Ok(text.trim_end_matches('/').into())
}

fn web_address(text: &str) -> Result<axum::http::Uri, String> {
    let uri: axum::http::Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if !known || uri.host().is_none_or(str::is_empty) || user {
        return Err(format!("{text:?} is no URL of the form http(s)://host[:port]"));
    }
    Ok(uri)
}

/// A connection string as it is; a host, or host and port, as one for a server
/// without TLS.
fn mongodb_url(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("mongodb" | "mongodb+srv", _)) => Ok(text.into()),
        Some(_) => Err("it is no connection string that begins with mongodb:// or mongodb+srv://".into()),
        None => Ok(format!("mongodb://{}", host_and_port(text, 27017)?)),
    }
}

/// A host, or host and port; the text may hold a password by mistake, so that no
/// error shows it.
fn host_and_port(text: &str, default: u16) -> Result<String, String> {
    let form = || "it is neither a host, nor host:port, nor a connection string".to_owned();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port != 0).ok_or("the port is none (1 to 65535)")?)
        }
        _ => (text, default),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<std::net::Ipv6Addr>() {
        return Ok(format!("[{address}]:{port}"));
    }
    host_name(host).map(|host| format!("{host}:{port}")).map_err(|_| form())
}

/// A name that MongoDB takes for a database, on any system.
fn database_name(text: &str) -> Result<String, String> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || r#"/\."$*<>:|?"#.contains(c);
    if text.len() > 63 || text.contains(forbidden) {
        return Err(format!("{text:?} is no name of a database: up to 63 bytes without spaces and /\\.\"$*<>:|?"));
    }
    if ["admin", "config", "local"].contains(&text) {
        return Err(format!("{text:?} is MongoDB's own"));
    }
    Ok(text.into())
}

fn host_name(text: &str) -> Result<String, String> {
    let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if valid {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is no host name (without scheme and port)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn without_anything_there_are_defaults() {
        let config = with(&[]).expect("defaults");
        assert_eq!((&config.listen, &config.admin), (&None, &None));
        assert_eq!(config.data_dir, PathBuf::from("./data"));
        assert_eq!(config.disk_reserve_mb, 64);
        assert_eq!(config.await_timeout, Duration::from_secs(5));
        assert_eq!(config.idempotency_ttl, Duration::from_secs(24 * 3600));
        assert_eq!(config.drain, Duration::ZERO);
        assert_eq!(with(&[("IP_PORT", ""), ("MONGODB_HOST", " ")]), with(&[]));
    }

    #[test]
    fn addresses_are_lists() {
        let config = with(&[("IP_PORT", "127.0.0.1:8080, :3050,[::1]:0,localhost:9")]).expect("valid");
        let listen: Vec<_> = config.listen.expect("set").iter().map(|l| (l.host.clone(), l.port)).collect();
        let host = |text: &str| Some(text.to_owned());
        assert_eq!(listen, [(host("127.0.0.1"), 8080), (None, 3050), (host("::1"), 0), (host("localhost"), 9)]);
    }

    #[test]
    fn a_bad_value_is_told_by_its_name() {
        let bad = [
            ("IP_PORT", "8080"),
            ("IP_PORT", ":99999"),
            ("IP_PORT", ":80,"),
            ("IP_PORT", "::1:80"),
            ("ADMIN_ADDR", "8082"),
            ("ADMIN_ADDR", "127.0.0.1:8082,"),
            ("DISK_RESERVE_MB", "-1"),
            ("DRAIN_MS", "soon"),
            ("AWAIT_TIMEOUT_MS", "1.5"),
            ("IDEMPOTENCY_TTL_S", "0"),
            ("LOG_FORMAT", "xml"),
            ("RUST_LOG", "qaservice=loud"),
            ("PUBLIC_URL", "example.com"),
            ("PUBLIC_URL", "ftp://example.com"),
            ("PUBLIC_URL", "https://example.com/?a"),
            ("CORS_ORIGINS", "https://example.com/path"),
            ("CORS_ORIGINS", "example.com"),
            ("ALLOWED_HOSTS", "http://example.com"),
            ("MONGODB_HOST", "root:secret@localhost:27017"),
            ("MONGODB_HOST", "localhost:port"),
            ("MONGODB_HOST", "localhost:0"),
            ("MONGODB_HOST", "two words"),
            ("MONGODB_HOST", "esdb://localhost"),
            ("MONGODB_HOST", "localhost:99999"),
            ("MONGODB_HOST", "a,b"),
            ("MONGODB_DB", "a.b"),
            ("MONGODB_DB", "a b"),
            ("MONGODB_DB", "admin"),
        ];
        for (variable, value) in bad {
            let error = with(&[(variable, value)]).expect_err(value);
            assert!(error.to_string().starts_with(&format!("{variable}: ")), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(with(&[("MONGODB_USER", "root")]).expect_err("half a login").variable, "MONGODB_PASS");
        assert_eq!(with(&[("MONGODB_PASS", "secret")]).expect_err("half a login").variable, "MONGODB_USER");
    }

    #[test]
    fn databases_are_named_by_host_or_whole_string() {
        let eventstore = with(&[("EVENTSTORE_HOST", "esdb://admin:secret@a")]).expect("valid").eventstore;
        assert!(!format!("{eventstore:?}").contains("secret"));
        assert_eq!(eventstore.expect("set").host, "esdb://admin:secret@a");
        let mongodb = |vars: &[(&str, &str)]| with(vars).expect("valid").mongodb;
        let views = mongodb(&[("MONGODB_HOST", "localhost")]).expect("set");
        assert_eq!((views.url.as_str(), views.database.as_str()), ("mongodb://localhost:27017", "qaservice"));
        assert!(views.login.is_none());
        for (host, url) in [
            ("Views.example:27018", "mongodb://views.example:27018"),
            ("10.0.0.1", "mongodb://10.0.0.1:27017"),
            ("::1", "mongodb://[::1]:27017"),
            ("[::1]:1", "mongodb://[::1]:1"),
        ] {
            assert_eq!(mongodb(&[("MONGODB_HOST", host)]).expect("set").url, url);
        }
        let whole = [("MONGODB_HOST", "mongodb+srv://a/"), ("MONGODB_USER", "root"), ("MONGODB_PASS", "secret")];
        let views = mongodb(&whole).expect("set");
        assert_eq!(views.url, "mongodb+srv://a/");
        assert!(!format!("{views:?}").contains("secret"));
        let login = views.login.expect("set");
        assert_eq!((login.user.as_str(), login.pass.as_str()), ("root", "secret"));
        assert_eq!(mongodb(&[("MONGODB_DB", "other")]), None);
    }

    #[test]
    fn what_a_process_needs_and_lacks_is_told_by_its_name() {
        let nothing = with(&[]).expect("valid");
        assert_eq!(nothing.eventstore().expect_err("not set").variable, "EVENTSTORE_HOST");
        assert_eq!(nothing.mongodb().expect_err("not set").variable, "MONGODB_HOST");
        let both = with(&[("EVENTSTORE_HOST", "a"), ("MONGODB_HOST", "b")]).expect("valid");
        assert!(both.eventstore().is_ok() && both.mongodb().is_ok());
    }

    #[test]
    fn web_settings_are_taken_as_they_compare() {
        let config = with(&[
            ("CORS_ORIGINS", "https://App.example.com, http://localhost:3000"),
            ("ALLOWED_HOSTS", "Qa.Example"),
            ("PUBLIC_URL", "https://qa.example/base/"),
        ]);
        let web = config.expect("valid").web;
        assert_eq!(web.cors_origins, ["https://app.example.com", "http://localhost:3000"]);
        assert_eq!(web.allowed_hosts, ["qa.example"]);
        assert_eq!(web.public_url.as_deref(), Some("https://qa.example/base"));
    }
}
