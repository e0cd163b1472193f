//! Ports for servers that may be stopped and come back on the same one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use uuid::Uuid;

/// Below the ports that systems give to clients. A port from among those could go to
/// a client while its server is down, even to one that tries to reach that server.
const FIRST: u128 = 15_000;
const COUNT: u128 = 15_000;

/// A listener on a free port of the loopback address.
///
/// # Errors
/// If none is found.
pub fn listen() -> io::Result<TcpListener> {
    let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for _ in 0..100 {
        let port = FIRST + Uuid::new_v4().as_u128() % COUNT;
        result = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16)));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// A port that was free a moment ago.
///
/// # Errors
/// If none is found.
pub fn free() -> io::Result<u16> {
    Ok(listen()?.local_addr()?.port())
}
