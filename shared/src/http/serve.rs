//! Listening, connections, and what happens to every request: guards, a name in
//! the log, counters, errors in the form asked for, a graceful end.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::error::{ApiError, Problem, problem_json};
use super::guard::Guard;
use super::headers::{EVENT_POSITION, REQUEST_ID, accepts};
use super::lifecycle::Lifecycle;
use super::routes::RouteLabel;
use crate::config::Listen;
use crate::metrics::Metrics;

/// How long a client may take to send the head of a request, and how long a
/// connection may stay idle.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may leave unread what is sent to it.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// What requests in flight get to finish after the end was announced.
const GRACE: Duration = Duration::from_secs(10);
/// How often a connection without a request is looked for during the end.
const LOOK: Duration = Duration::from_millis(300);
/// What a connection may buffer of a head.
const HEAD_BYTES: usize = 64 * 1024;
/// Connections at once, if the system allows so many files.
const CONNECTIONS: usize = 10_000;
/// Files that are left for storage.
const OTHER_FILES: u64 = 1_200;

/// Everything that answers requests.
pub struct Server {
    router: Router,
    guard: Guard,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    /// Tells this process' request ids from others'.
    boot: u32,
    requests: AtomicU64,
}

/// Sockets that are bound.
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Binds every address; a host's names all of its addresses.
    ///
    /// # Errors
    /// If one cannot be bound; the error names it.
    pub async fn bind(listen: &[Listen]) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for address in listen {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
            sockets.push(bind(address).await.map_err(named)?);
        }
        Ok(Self(sockets))
    }

    /// The addresses as bound, in the order asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

async fn bind(address: &Listen) -> io::Result<TcpListener> {
    let Some(host) = &address.host else {
        // Both families where the system has IPv6.
        let both = TcpListener::bind(("::", address.port)).await;
        return match both {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(("0.0.0.0", address.port)).await
            }
            bound => bound,
        };
    };
    let mut found: Vec<_> = tokio::net::lookup_host((host.as_str(), address.port)).await?.collect();
    // `localhost` means what the other defaults mean.
    found.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(found.as_slice()).await
}

/// Raises the number of files that the process may open as far as the system
/// allows, and says how many connections fit.
fn connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(error = %error, "the limit of open files stays");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fit = files.saturating_sub(OTHER_FILES).max(files / 2);
    usize::try_from(fit).unwrap_or(usize::MAX).min(CONNECTIONS)
}

impl Server {
    /// A server for these routes.
    pub fn new(router: Router, guard: Guard, metrics: Arc<Metrics>, lifecycle: Lifecycle) -> Arc<Self> {
        let router = router
            .fallback(async || ApiError::unknown_path())
            .method_not_allowed_fallback(async || ApiError::wrong_method());
        let boot = uuid::Uuid::new_v4().as_fields().0;
        Arc::new(Self { router, guard, metrics, lifecycle, boot, requests: AtomicU64::new(0) })
    }

    /// Serves until the lifecycle says stop; then lets what is in flight finish,
    /// for ten seconds at most.
    pub async fn serve(self: Arc<Self>, listeners: Listeners) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(connections_limit()));
        let accepting =
            listeners.0.into_iter().map(|socket| self.clone().accept(socket, connections.clone(), places.clone()));
        futures::future::join_all(accepting).await;
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "connections are cut");
            self.lifecycle.cut();
            connections.wait().await;
        }
    }

    async fn accept(self: Arc<Self>, socket: TcpListener, connections: TaskTracker, places: Arc<Semaphore>) {
        let on_loopback = socket.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        loop {
            let place = tokio::select! {
                () = self.lifecycle.stopping() => return,
                place = places.clone().acquire_owned() => place,
            };
            let stream = tokio::select! {
                () = self.lifecycle.stopping() => return,
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(error = %error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let server = self.clone();
            connections.spawn(async move {
                server.metrics.connections.inc();
                server.connection(stream, on_loopback).await;
                server.metrics.connections.dec();
                drop(place);
            });
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, on_loopback: bool) {
        // Small answers must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "TCP_NODELAY could not be set");
        }
        let busy = Arc::new(AtomicUsize::new(0));
        let io = TokioIo::new(Patient::new(stream, busy.clone()));
        let router = self.router.clone();
        let service = service_fn(|request| {
            let (server, busy, router) = (self.clone(), busy.clone(), router.clone());
            async move {
                busy.fetch_add(1, Ordering::Relaxed);
                let response = server.answer(router, request, on_loopback).await;
                busy.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES).half_close(true);
        let mut connection = std::pin::pin!(http.serve_connection(io, service));
        tokio::select! {
            ended = connection.as_mut() => return note(ended),
            () = self.lifecycle.stopping() => connection.as_mut().graceful_shutdown(),
        }
        loop {
            tokio::select! {
                ended = connection.as_mut() => return note(ended),
                () = self.lifecycle.cutting() => return,
                // Half a head is no request: nobody waits for its answer.
                () = tokio::time::sleep(LOOK) => if busy.load(Ordering::Relaxed) == 0 { return },
            }
        }
    }

    async fn answer(&self, mut router: Router, request: Request<Incoming>, on_loopback: bool) -> Response {
        let begun = Instant::now();
        self.metrics.in_flight.inc();
        let asked = Asked::new(&request, self.request_id(request.headers()));
        let allowed = self.check(&request, on_loopback);
        let cors = self.guard.cors_origin(request.headers()).cloned();
        let mut response = match allowed {
            Err(error) => error.into_response(),
            Ok(()) => {
                let answer = AssertUnwindSafe(router.call(request.map(Body::new)));
                match answer.catch_unwind().await {
                    Ok(Ok(response)) => response,
                    Err(_) => ApiError::bug("a handler panicked".into()).into_response(),
                }
            }
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response = allow(response, &asked, cors.is_some());
        }
        self.finish(&asked, &mut response, cors, begun);
        self.metrics.in_flight.dec();
        response
    }

    fn check(&self, request: &Request<Incoming>, on_loopback: bool) -> Result<(), ApiError> {
        let (uri, headers) = (request.uri(), request.headers());
        if !percent_encoded(uri.path().as_bytes()) {
            return Err(ApiError::bad_request("path: a % without two hexadecimal digits behind it"));
        }
        self.guard.check(request.method(), uri, headers, on_loopback)
    }

    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let given = headers.get(REQUEST_ID).filter(|id| {
            let bytes = id.as_bytes();
            (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        });
        given.cloned().unwrap_or_else(|| {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let mut text = String::with_capacity(20);
            let written = std::fmt::Write::write_fmt(&mut text, format_args!("{:08x}-{number}", self.boot));
            written.ok().and_then(|()| HeaderValue::try_from(text).ok()).unwrap_or(HeaderValue::from_static("-"))
        })
    }

    /// Headers, error form, counters and log.
    fn finish(&self, asked: &Asked, response: &mut Response, cors: Option<HeaderValue>, begun: Instant) {
        let status = response.status();
        let problem = response.extensions_mut().remove::<Problem>();
        if let Some(problem) = &problem
            && asked.wants_problem
        {
            *response.body_mut() = Body::from(problem_json(status, problem));
            let media = HeaderValue::from_static("application/problem+json");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let headers = response.headers_mut();
        if let Some(origin) = cors {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
            let shown = HeaderValue::from_static("ETag, Event-Position, Retry-After, Parked, X-Request-Id");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
        headers.insert(REQUEST_ID, asked.id.clone());
        let label = response.extensions_mut().remove::<RouteLabel>();
        let route = label.as_ref().map_or("none", |RouteLabel(path)| path.as_str());
        let took = begun.elapsed();
        let labels = [asked.method, route, status.as_str()];
        self.metrics.requests.with_label_values(&labels).observe(took.as_secs_f64());
        let id = asked.id.to_str().unwrap_or_default();
        if status.is_server_error() {
            let cause = problem.as_ref().map(|problem| problem.cause.as_deref().unwrap_or(&problem.message));
            tracing::warn!(id, method = asked.method, route, status = status.as_u16(), took = ?took, cause, "request failed");
        } else {
            tracing::debug!(id, method = asked.method, route, status = status.as_u16(), took = ?took, "request");
        }
    }
}

fn connections_limit() -> usize {
    let limit = connections();
    tracing::debug!(limit, "connections at once");
    limit
}

/// What of a request is needed after it has been handed on.
struct Asked {
    method: &'static str,
    id: HeaderValue,
    wants_problem: bool,
    is_options: bool,
}

impl Asked {
    fn new(request: &Request<Incoming>, id: HeaderValue) -> Self {
        let method = match *request.method() {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        let wants_problem = accepts(request.headers(), "application/problem+json");
        Self { method, id, wants_problem, is_options: method == "OPTIONS" }
    }
}

/// A 405 with all that is allowed; for OPTIONS that is the answer.
fn allow(mut response: Response, asked: &Asked, cors: bool) -> Response {
    let methods = response.headers().get(header::ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or_default();
    let all = methods.split(',').filter(|method| !method.is_empty()).chain(["OPTIONS"]).collect::<Vec<_>>().join(", ");
    let all = HeaderValue::try_from(all).unwrap_or(HeaderValue::from_static("OPTIONS"));
    if !asked.is_options {
        response.headers_mut().insert(header::ALLOW, all);
        return response;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, all.clone());
    if cors {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, all);
        let sent = "Content-Type, Accept, If-Match, If-None-Match, Await-Position, Idempotency-Key, Last-Event-ID, X-Request-Id";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(sent));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    headers.remove(EVENT_POSITION);
    response
}

fn percent_encoded(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path)
        .all(|at| path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended early");
    }
}

/// A connection that gives up a client which does not read.
struct Patient {
    stream: TcpStream,
    /// Requests and unfinished writes of the connection.
    busy: Arc<AtomicUsize>,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, busy: Arc<AtomicUsize>) -> Self {
        Self { stream, busy, blocked: None }
    }

    fn unblock(&mut self) {
        if self.blocked.take().is_some() {
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn watch<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unblock();
            return written;
        }
        if self.blocked.is_none() {
            self.busy.fetch_add(1, Ordering::Relaxed);
        }
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIME)));
        blocked.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_have_two_digits() {
        assert!(percent_encoded(b"/answers/a%2Fb%20"));
        for bad in ["/%", "/%2", "/%zz", "/a%2Fb%"] {
            assert!(!percent_encoded(bad.as_bytes()), "{bad}");
        }
    }
}
