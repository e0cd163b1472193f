//! Connections that can be cut, and who may call.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::metadata::MetadataMap;
use tonic::transport::server::Connected;
use tonic::{Extensions, Request};

use super::Context;
use crate::core::Fault;

/// The connections that come in.
pub(super) fn accept(listener: TcpListener, context: Arc<Context>) -> impl Stream<Item = io::Result<Connection>> {
    futures::stream::unfold((listener, context), |(listener, context)| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if context.switches.connections_refused() => drop(stream),
                Ok((stream, _)) => {
                    let connection = stream.set_nodelay(true).map(|()| Connection::new(stream, &context));
                    return Some((connection, (listener, context)));
                }
                // Too many open files, as a rule.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    })
}

/// Cuts the connection that a call came in on.
#[derive(Clone, Debug)]
pub(super) struct Link(CancellationToken);

impl Link {
    pub(super) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get::<Self>().cloned()
    }

    pub(super) fn cut(&self) {
        self.0.cancel();
    }
}

pub(super) struct Connection {
    stream: TcpStream,
    token: CancellationToken,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn new(stream: TcpStream, context: &Context) -> Self {
        let token = context.switches.connection();
        let cut = Box::pin(token.clone().cancelled_owned());
        Self { stream, token, cut }
    }

    fn check(&self) -> io::Result<()> {
        if self.token.is_cancelled() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let read = Pin::new(&mut self.stream).poll_read(task, buffer);
        if read.is_pending() && self.cut.as_mut().poll(task).is_ready() {
            self.check()?;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(task, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = Link;

    fn connect_info(&self) -> Link {
        Link(self.token.clone())
    }
}

/// Lets a call in or not that everybody may make.
pub(super) fn ready(context: &Context) -> Result<(), Fault> {
    if context.switches.calls_refused() { Err(Fault::NotReady) } else { Ok(()) }
}

/// Lets a call in or not.
pub(super) fn admit<T>(context: &Context, request: &Request<T>) -> Result<(), Fault> {
    ready(context)?;
    let header = |name| text(request.metadata(), name);
    if let Some(expected) = &context.credentials
        && header("authorization") != Some(expected)
    {
        return Err(Fault::NotAuthenticated);
    }
    match context.switches.leader() {
        Some((host, port)) if header("requires-leader") == Some("true") => Err(Fault::NotLeader { host, port }),
        _ => Ok(()),
    }
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name)?.to_str().ok()
}

/// The header of a user with a password.
pub(super) fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut header = "Basic ".to_owned();
    for chunk in format!("{user}:{password}").as_bytes().chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            header.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    header
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_are_in_base64() {
        assert_eq!(super::basic("admin", "changeit"), "Basic YWRtaW46Y2hhbmdlaXQ=");
        assert_eq!(super::basic("a", "b"), "Basic YTpi");
        assert_eq!(super::basic("ab", "c"), "Basic YWI6Yw==");
    }
}
