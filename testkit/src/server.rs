//! An EventStoreDB for tests: its gRPC protocol over a log in memory or in one file.
//! It does what the real server does as far as clients can tell, without persistent
//! subscriptions, projections, clusters and TLS.

// The services' traits ask for tonic's own error, large as it is.
#![allow(clippy::result_large_err)]

mod append;
mod batch;
mod connection;
mod errors;
mod features;
mod read;
mod streams;
pub mod switches;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::core::record::Proposed;
use crate::proto::gossip::gossip_server::GossipServer;
use crate::proto::server_features::server_features_server::ServerFeaturesServer;
use crate::proto::streams::streams_server::StreamsServer;
use crate::store::Store;
use switches::{Ending, Switches};

/// How large a message may be, as on the real server.
const MAX_MESSAGE: usize = 16_767_216;
/// What a client may send before it is read, as on the real server.
const STREAM_WINDOW: u32 = 768 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long a graceful end may take.
const GRACE: Duration = Duration::from_millis(500);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the log is kept; in memory without it.
    pub data: Option<PathBuf>,
    /// See [`Switches::delay_appends`].
    pub append_delay: Duration,
    /// The only user and password that are let in; everybody without it.
    pub credentials: Option<(String, String)>,
    /// Threads that serve connections.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: None,
            append_delay: Duration::ZERO,
            credentials: None,
            threads: 2,
        }
    }
}

/// What all calls share.
struct Context {
    store: Store,
    switches: Switches,
    address: SocketAddr,
    credentials: Option<String>,
}

/// A server on threads of its own. It stops when it is dropped.
pub struct EsdbServer {
    context: Arc<Context>,
    threads: usize,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    graceful: CancellationToken,
    thread: JoinHandle<()>,
}

impl EsdbServer {
    /// Starts a server; it answers from now on.
    ///
    /// # Errors
    /// If the address or the folder cannot be used.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = match options.listen {
            free if free.port() == 0 && free.ip().is_loopback() && free.is_ipv4() => crate::ports::listen()?,
            address => TcpListener::bind(address)?,
        };
        let switches = Switches::default();
        switches.delay_appends(options.append_delay);
        let context = Context {
            store: Store::open(options.data.as_deref())?,
            switches,
            address: listener.local_addr()?,
            credentials: options.credentials.map(|(user, password)| connection::basic(&user, &password)),
        };
        let mut server = Self { context: Arc::new(context), threads: options.threads.max(1), running: None };
        server.serve(listener)?;
        Ok(server)
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        self.context.address
    }

    /// For a client, without credentials.
    pub fn connection_string(&self) -> String {
        format!("esdb://{}?tls=false", self.address())
    }

    /// Ways to make it misbehave.
    pub fn switches(&self) -> &Switches {
        &self.context.switches
    }

    /// Makes a stored event say something else at its place, as no log ever does: what
    /// becomes of its type, its metadata and its data. A log in a file keeps what it had.
    ///
    /// # Panics
    /// If there is no such event.
    pub fn rewrite(&self, stream: &str, revision: u64, change: impl FnOnce(&mut String, &mut Vec<u8>, &mut Vec<u8>)) {
        let changed = |event: &Proposed| {
            let (mut kind, mut metadata, mut data) =
                (event.kind.to_string(), event.metadata.to_vec(), event.data.to_vec());
            change(&mut kind, &mut metadata, &mut data);
            Proposed::new(event.id, &kind, event.json, &metadata, &data)
        };
        assert!(self.context.store.rewrite(stream, revision, changed), "no event {revision} of {stream}");
    }

    /// Cuts all connections and stops listening, in mid-call if need be. The log
    /// stays for [`start_again`](Self::start_again).
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            drop(running.thread.join());
        }
    }

    /// Ends subscriptions with an error, lets calls finish for a moment, and stops.
    pub fn shut_down(&mut self) {
        self.context.switches.end_subscriptions(Ending::Unavailable);
        if let Some(running) = &self.running {
            running.graceful.cancel();
            let begun = std::time::Instant::now();
            while !running.thread.is_finished() && begun.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.stop();
    }

    /// Serves the same log at the same address once more.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.stop();
        self.context.store.forget_recent();
        self.serve(TcpListener::bind(self.address())?)
    }

    fn serve(&mut self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .thread_name("esdb-server")
            .enable_all()
            .build()?;
        let (stop, graceful) = (CancellationToken::new(), CancellationToken::new());
        let listener = {
            let _runtime = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let serving = serve(self.context.clone(), listener, stop.clone(), graceful.clone());
        // The runtime ends with this thread, and with it every connection.
        let thread = std::thread::Builder::new().name("esdb".to_owned()).spawn(move || runtime.block_on(serving))?;
        self.running = Some(Running { stop, graceful, thread });
        Ok(())
    }
}

impl Drop for EsdbServer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    context: Arc<Context>,
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
    graceful: CancellationToken,
) {
    let connections = connection::accept(listener, context.clone());
    let streams = StreamsServer::from_arc(Arc::new(streams::StreamsService(context.clone())))
        .max_decoding_message_size(MAX_MESSAGE);
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(streams)
        .add_service(ServerFeaturesServer::new(features::FeaturesService(context.clone())))
        .add_service(GossipServer::new(features::GossipService(context)))
        .serve_with_incoming_shutdown(connections, graceful.cancelled_owned());
    tokio::select! {
        result = serving => {
            if let Err(error) = result {
                tracing::error!(%error, "the server ended");
            }
        }
        () = stop.cancelled() => {}
    }
}
