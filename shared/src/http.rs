//! What every process does with HTTP: connections, guards, bodies, headers,
//! errors. The routes are the services' own.

pub mod body;
pub mod cursor;
pub mod docs;
pub mod elsewhere;
pub mod error;
pub mod guard;
pub mod headers;
pub mod health;
pub mod lifecycle;
pub mod link;
pub mod list;
pub mod query;
pub mod response;
pub mod routes;
pub mod serve;
