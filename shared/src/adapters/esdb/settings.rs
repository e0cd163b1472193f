//! `EVENTSTORE_HOST` as the client takes it.

use eventstore::{ClientSettings, NodePreference};
use serde::Deserialize;

/// The port of EventStoreDB.
const PORT: u16 = 2113;
/// How long the client waits before it connects; its own 500 ms are for clusters.
const DISCOVERY_MS: u64 = 20;

/// A text that says nothing about where EventStoreDB is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSettings(String);

impl InvalidSettings {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// Where EventStoreDB is and how it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) client: ClientSettings,
    pub(super) hidden: Hidden,
}

/// What the client's settings hold and do not show but in their serialised form.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Hidden {
    pub(super) default_user_name: Option<User>,
    pub(super) connection_name: Option<String>,
}

#[derive(Clone, Deserialize)]
pub(super) struct User {
    pub(super) login: Vec<u8>,
    pub(super) password: Vec<u8>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User")
    }
}

impl Settings {
    /// Takes host, host:port, or a whole connection string.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidSettings> {
        let string = if text.contains("://") { text.to_owned() } else { of_host(text)? };
        // The client's own message would repeat the string, and with it the password.
        let client = string.parse::<ClientSettings>().map_err(|error| {
            let why = error.error().map(|error| format!(" ({error})")).unwrap_or_default();
            InvalidSettings(format!("it is no connection string such as esdb://localhost:2113?tls=false{why}"))
        })?;
        if client.hosts().is_empty() {
            return Err(InvalidSettings("the connection string names no host".into()));
        }
        if client.max_discover_attempts() < 2 {
            return Err(InvalidSettings("with maxDiscoverAttempts below 2 the client never connects".into()));
        }
        let hidden = serde_json::to_value(&client).and_then(Hidden::deserialize);
        let hidden = hidden.map_err(|_| InvalidSettings("the connection string cannot be used".into()))?;
        Ok(Self { client, hidden })
    }

    /// Whether the client looks for a node among several.
    pub(super) fn is_cluster(&self) -> bool {
        self.client.is_dns_discovery_enabled() || self.client.hosts().len() > 1
    }

    pub(super) fn requires_leader(&self) -> bool {
        self.client.node_preference() == NodePreference::Leader
    }
}

/// The connection string of a single node without TLS.
fn of_host(text: &str) -> Result<String, InvalidSettings> {
    // Not repeated: it may hold a password.
    let form = || InvalidSettings("it is neither host, host:port nor a connection string esdb://…".into());
    let split = if text.ends_with(']') { None } else { text.rsplit_once(':') };
    let (host, port) = match split {
        None => (text, PORT),
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(form)?),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    if !valid {
        return Err(form());
    }
    Ok(format!("esdb://{host}:{port}?tls=false&discoveryInterval={DISCOVERY_MS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> (String, bool) {
        let settings = Settings::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let host = &settings.client.hosts()[0];
        (settings.client.to_uri(host).to_string(), settings.is_cluster())
    }

    #[test]
    fn a_host_is_a_single_node_without_tls() {
        for (text, uri) in [
            ("localhost", "http://localhost:2113/"),
            ("db_1.example.com:12345", "http://db_1.example.com:12345/"),
            ("10.0.0.1", "http://10.0.0.1:2113/"),
            ("[::1]", "http://[::1]:2113/"),
            ("[::1]:99", "http://[::1]:99/"),
        ] {
            assert_eq!(node(text), (uri.to_owned(), false), "{text}");
        }
    }

    #[test]
    fn a_connection_string_is_taken_whole() {
        assert_eq!(node("esdb://a.example:1234"), ("https://a.example:1234/".into(), false));
        assert_eq!(node("kurrentdb://a:1,b:2,c:3?tls=false"), ("http://a:1/".into(), true));
        assert_eq!(node("esdb+discover://a:1?tls=false"), ("http://a:1/".into(), true));
        let named = Settings::parse("esdb://us:pw@a?connectionName=me").expect("valid");
        let user = named.hidden.default_user_name.expect("a user");
        assert_eq!((user.login.as_slice(), user.password.as_slice()), (&b"us"[..], &b"pw"[..]));
        assert_eq!(named.hidden.connection_name.as_deref(), Some("me"));
        assert!(named.client.is_secure_mode_enabled());
    }

    #[test]
    fn what_cannot_be_used_is_told_without_secrets() {
        for text in [
            "",
            "a b",
            "a:b",
            "a:0",
            "a:70000",
            "a,b",
            "::1",
            "[::g]",
            "user:secret@host",
            "http://localhost:2113",
            "esdb://",
            "esdb://user:secret@h:notaport",
            "esdb://user:secret@h?maxDiscoverAttempts=1",
            "esdb://user:secret@h?nodePreference=none",
        ] {
            let error = Settings::parse(text).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
