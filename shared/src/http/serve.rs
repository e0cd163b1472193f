//! Listening, connections, and what happens to every request: guards, a name in
//! the log, counters, errors in the form asked for, a graceful end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::MatchedPath;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::task::AtomicWaker;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus::Histogram;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::elsewhere::{self, Layout};
use super::error::{ApiError, Problem, problem_json};
use super::guard::Guard;
use super::headers::{EVENT_POSITION, REQUEST_ID, accepts, value};
use super::lifecycle::Lifecycle;
use super::routes::called;
use crate::config::Listen;
use crate::metrics::Metrics;

/// How long a client may take to send the head of a request, and how long a
/// connection may stay idle.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may leave unread what is sent to it.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// What requests in flight get to finish after the end was announced.
const GRACE: Duration = Duration::from_secs(10);
/// How often connections are looked at, and how often during the end.
const LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_millis(300);
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
    open: Arc<Connections>,
    /// Tells this process' request ids from others'.
    boot: String,
}

/// What each thread has for itself, so that requests do not meet over it.
#[derive(Default)]
struct Local {
    /// The name of its last request, and how much of that all of them have.
    id: Vec<u8>,
    prefix: usize,
    requests: u64,
    /// Of each method, route and status that has been met.
    histograms: Vec<((&'static str, String, u16), Histogram)>,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

static THREADS: AtomicU64 = AtomicU64::new(0);

impl Local {
    /// A name for a request that came without one.
    fn next_id(&mut self, boot: &str) -> HeaderValue {
        if self.id.is_empty() {
            self.id = format!("{boot}-{}-", THREADS.fetch_add(1, Ordering::Relaxed)).into();
            self.prefix = self.id.len();
        }
        self.requests += 1;
        self.id.truncate(self.prefix);
        self.id.extend_from_slice(itoa::Buffer::new().format(self.requests).as_bytes());
        value(&self.id)
    }

    fn observe(&mut self, metrics: &Metrics, method: &'static str, route: &str, status: StatusCode, took: Duration) {
        let found = self.histograms.iter().find(|((m, r, s), _)| *m == method && *s == status.as_u16() && r == route);
        if let Some((_, histogram)) = found {
            return histogram.observe(took.as_secs_f64());
        }
        let histogram = metrics.requests.with_label_values(&[method, route, status.as_str()]);
        histogram.observe(took.as_secs_f64());
        self.histograms.push(((method, route.to_owned(), status.as_u16()), histogram));
    }
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
fn connections_that_fit() -> usize {
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
    pub fn new(router: Router, layout: Layout, guard: Guard, metrics: Arc<Metrics>, lifecycle: Lifecycle) -> Arc<Self> {
        let router = elsewhere::told(router, layout);
        let boot = format!("{:08x}", uuid::Uuid::new_v4().as_fields().0);
        Arc::new(Self { router, guard, metrics, lifecycle, open: Arc::default(), boot })
    }

    /// Serves until the lifecycle says stop; then lets what is in flight finish,
    /// for ten seconds at most.
    ///
    /// Each connection belongs to one of `threads` threads for its whole life: no
    /// work moves between cores, and none wakes another to look for some.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub async fn serve(self: Arc<Self>, listeners: Listeners, threads: usize) -> io::Result<()> {
        let pool = Pool::start(threads)?;
        let connections = TaskTracker::new();
        let watching = tokio::spawn(self.open.clone().watch(self.lifecycle.clone()));
        let places = Arc::new(Semaphore::new(connections_that_fit()));
        let accept = |socket| self.clone().accept(socket, &pool, connections.clone(), places.clone());
        futures::future::join_all(listeners.0.into_iter().map(accept)).await;
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "connections are cut");
            self.lifecycle.cut();
            connections.wait().await;
        }
        watching.abort();
        pool.end();
        Ok(())
    }

    async fn accept(
        self: Arc<Self>,
        socket: TcpListener,
        pool: &Pool,
        connections: TaskTracker,
        places: Arc<Semaphore>,
    ) {
        let on_loopback = socket.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        loop {
            let place = tokio::select! {
                () = self.lifecycle.stopping() => return,
                place = places.clone().acquire_owned() => place,
            };
            let accepted = tokio::select! {
                () = self.lifecycle.stopping() => return,
                accepted = socket.accept() => accepted.and_then(|(stream, _)| stream.into_std()),
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let server = self.clone();
            let thread = pool.least_busy();
            let open = thread.open.clone();
            open.fetch_add(1, Ordering::Relaxed);
            let serving = connections.track_future(async move {
                server.metrics.connections.inc();
                match TcpStream::from_std(stream) {
                    Ok(stream) => server.connection(stream, on_loopback).await,
                    Err(error) => tracing::warn!(error = %error, "a connection could not be served"),
                }
                server.metrics.connections.dec();
                open.fetch_sub(1, Ordering::Relaxed);
                drop(place);
            });
            thread.runtime.spawn(serving);
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, on_loopback: bool) {
        // Small answers must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "TCP_NODELAY could not be set");
        }
        let watched = self.open.add();
        let io = TokioIo::new(Patient::new(stream, watched.clone()));
        let router = self.router.clone();
        let service = service_fn(|request| {
            let (server, watched, router) = (self.clone(), watched.clone(), router.clone());
            async move {
                watched.begin();
                let response = server.answer(router, request, on_loopback).await;
                let response = whole_or_counted(response, &watched, &self.open);
                watched.end(self.open.now());
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.max_buf_size(HEAD_BYTES).half_close(true);
        let mut connection = std::pin::pin!(http.serve_connection(io, service));
        let mut stopping = false;
        let ended = std::future::poll_fn(|cx| {
            watched.register(cx);
            if watched.is_cut() {
                return Poll::Ready(Ok(()));
            }
            if self.lifecycle.is_stopping() && !std::mem::replace(&mut stopping, true) {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        });
        note(ended.await);
        self.open.remove(&watched);
    }

    async fn answer(&self, mut router: Router, request: Request<Incoming>, on_loopback: bool) -> Response {
        let begun = Instant::now();
        let asked = Asked::new(&request, self.request_id(request.headers()));
        let allowed = self.check(&request, on_loopback);
        let cors = self.guard.cors_origin(request.headers()).cloned();
        let mut route = None;
        let mut response = match allowed {
            Err(error) => error.into_response(),
            Ok(()) => {
                let mut answer = AssertUnwindSafe(router.call(request.map(Body::new))).catch_unwind();
                let answered = std::future::poll_fn(|cx| {
                    let answered = answer.poll_unpin(cx);
                    route = called().or(route.take());
                    answered
                });
                match answered.await {
                    Ok(Ok(response)) => response,
                    Err(_) => ApiError::bug("a handler panicked".into()).into_response(),
                }
            }
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response = allow(response, &asked, cors.is_some());
        }
        self.finish(&asked, route.as_ref(), &mut response, cors, begun);
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
        given.cloned().unwrap_or_else(|| LOCAL.with_borrow_mut(|local| local.next_id(&self.boot)))
    }

    /// Headers, error form, counters and log.
    fn finish(
        &self,
        asked: &Asked,
        route: Option<&MatchedPath>,
        response: &mut Response,
        cors: Option<HeaderValue>,
        begun: Instant,
    ) {
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
        let route = route.map_or("none", MatchedPath::as_str);
        let took = begun.elapsed();
        LOCAL.with_borrow_mut(|local| local.observe(&self.metrics, asked.method, route, status, took));
        let id = asked.id.to_str().unwrap_or_default();
        if status.is_server_error() {
            let cause = problem.as_ref().map(|problem| problem.cause.as_deref().unwrap_or(&problem.message));
            tracing::warn!(id, method = asked.method, route, status = status.as_u16(), took = ?took, cause, "request failed");
        } else {
            tracing::debug!(id, method = asked.method, route, status = status.as_u16(), took = ?took, "request");
        }
    }
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

/// All open connections. One task looks at them now and then: a timer for each
/// request would cost a system call or two.
#[derive(Default)]
struct Connections {
    all: Mutex<HashMap<u64, Arc<Watched>>>,
    next: AtomicU64,
    /// Seconds since the start, as of the last look.
    seconds: AtomicU64,
}

/// What is known about a connection from outside.
struct Watched {
    number: u64,
    /// Requests that are being answered and writes that wait for the client.
    busy: AtomicUsize,
    /// Since when the head of the next request is awaited.
    idle_since: AtomicU64,
    cut: AtomicBool,
    registered: AtomicBool,
    waker: AtomicWaker,
}

impl Watched {
    fn begin(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, now: u64) {
        self.idle_since.store(now, Ordering::Relaxed);
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection stays in its task, so that one waker is enough.
    fn register(&self, cx: &Context<'_>) {
        if !self.registered.load(Ordering::Relaxed) {
            self.registered.store(true, Ordering::Relaxed);
            self.waker.register(cx.waker());
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.registered.store(false, Ordering::Relaxed);
        self.waker.wake();
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }
}

impl Connections {
    fn now(&self) -> u64 {
        self.seconds.load(Ordering::Relaxed)
    }

    fn add(&self) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            busy: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            cut: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        self.all.lock().insert(watched.number, watched.clone());
        watched
    }

    fn remove(&self, watched: &Watched) {
        self.all.lock().remove(&watched.number);
    }

    fn each(&self, look: impl Fn(&Watched)) {
        let all: Vec<_> = self.all.lock().values().cloned().collect();
        all.iter().for_each(|watched| look(watched));
    }

    /// Cuts connections that have been idle for too long. During the end it tells
    /// all of them, and cuts those that are in no request: half a head is none, and
    /// nobody waits for its answer.
    async fn watch(self: Arc<Self>, lifecycle: Lifecycle) {
        let begun = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = lifecycle.stopping() => break,
            }
            let now = begun.elapsed().as_secs();
            self.seconds.store(now, Ordering::Relaxed);
            let oldest = now.saturating_sub(HEAD_TIME.as_secs());
            self.each(|watched| {
                if watched.is_idle() && watched.idle_since.load(Ordering::Relaxed) < oldest {
                    watched.cut();
                }
            });
        }
        self.each(Watched::wake);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LAST_LOOK) => self.each(|watched| if watched.is_idle() { watched.cut() }),
                () = lifecycle.cutting() => self.each(Watched::cut),
            }
            if lifecycle.is_cutting() {
                tokio::time::sleep(LAST_LOOK).await;
            }
        }
    }
}

/// A response that is not there whole keeps its connection busy until it ends.
fn whole_or_counted(response: Response, watched: &Arc<Watched>, open: &Arc<Connections>) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    watched.begin();
    response.map(|body| Body::new(Counted { body, watched: watched.clone(), open: open.clone() }))
}

/// A body that is sent as it is made.
struct Counted {
    body: Body,
    watched: Arc<Watched>,
    open: Arc<Connections>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.watched.end(self.open.now());
    }
}

impl HttpBody for Counted {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Threads that serve connections, each with a runtime of its own.
struct Pool {
    threads: Vec<PoolThread>,
    end: CancellationToken,
}

struct PoolThread {
    runtime: tokio::runtime::Handle,
    /// Connections that it serves.
    open: Arc<AtomicUsize>,
}

impl Pool {
    fn start(threads: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let threads = (0..threads.max(1)).map(|number| PoolThread::start(number, end.clone()));
        Ok(Self { threads: threads.collect::<io::Result<_>>()?, end })
    }

    fn least_busy(&self) -> &PoolThread {
        let busy = |thread: &&PoolThread| thread.open.load(Ordering::Relaxed);
        self.threads.iter().min_by_key(busy).expect("there is at least one")
    }

    fn end(self) {
        self.end.cancel();
    }
}

impl PoolThread {
    fn start(number: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let run = move || runtime.block_on(end.cancelled());
        std::thread::Builder::new().name(format!("http-{number}")).spawn(run)?;
        Ok(Self { runtime: handle, open: Arc::default() })
    }
}

/// A connection that gives up a client which does not read.
struct Patient {
    stream: TcpStream,
    watched: Arc<Watched>,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, watched: Arc<Watched>) -> Self {
        Self { stream, watched, blocked: None }
    }

    fn unblock(&mut self) {
        if self.blocked.take().is_some() {
            self.watched.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn watch<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unblock();
            return written;
        }
        if self.blocked.is_none() {
            self.watched.begin();
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
