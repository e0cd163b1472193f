//! What the server does, as plain synchronous code: no network, no waiting.
//! `server` puts the protocol in front of it, `store` shares it between calls
//! and keeps it on disk.

pub(crate) mod append;
pub(crate) mod filter;
pub(crate) mod metadata;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod state;
pub(crate) mod subscription;
#[cfg(test)]
mod testing;

use record::Text;

/// Where the writer of a call believes the stream to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    Exists,
    NoStream,
    Exact(u64),
}

/// Why a call failed; `server::errors` gives each its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    WrongExpectedVersion { stream: Text, expected: Expected, current: Option<u64> },
    StreamDeleted { stream: Text },
    AppendTooLarge { max: u32 },
    MissingMetadata,
    NotLeader { host: String, port: u16 },
    NotReady,
    TimedOut,
    NotAuthenticated,
    Invalid(String),
    Unknown(String),
}
