//! Reading from a node: the one call `Streams/Read`, which answers with events or,
//! as a subscription, goes on for ever.
//!
//! It goes past the client. There a subscription that the server ends cleanly turns
//! in a circle within one poll, where no timeout and no abort can reach it, and a
//! read waits 40 ms for a delayed acknowledgement, since TCP_NODELAY is not set.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use eventstore::{ClientSettings, Endpoint};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::runtime::Handle;
use tonic::codec::{ProstCodec, Streaming};
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use super::proto::{
    All, Amount, Control, Empty, Expression, Filter, Filtering, FromPosition, FromRevision, LogPosition, OneStream,
    Options, READ, ReadReq, ReadResp, Source, StreamName, Uuids,
};
use super::settings::Settings;
use crate::domain::stream::{Position, Revision};
use crate::ports::{Checkpoint, Direction};

/// The first words of the streams whose events are the log. Claims and the log's id
/// stand elsewhere.
const PREFIXES: [&str; 4] = ["answer-", "event-", "session-", "rejection-"];
/// How many events of others the server passes over before it says how far it is.
const WINDOW: u32 = 512;
/// No message of a server is larger.
const MAX_MESSAGE: usize = 32 * 1024 * 1024;
/// What a stream may send ahead of its reader, and all of them together: the bound
/// of what is fetched before it is asked for.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);

/// How often a connection in use is tried, and how long that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

type Http = Client<HttpsConnector<HttpConnector>, tonic::body::Body>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The answers to a read, in order.
pub(super) type Answers = Streaming<ReadResp>;

/// Connections to whichever node is asked; they are made when they are needed.
#[derive(Clone)]
pub(super) struct Transport {
    reads: Http,
    /// Subscriptions have a connection of their own: one that is not read from holds
    /// up no read.
    feeds: Http,
    headers: MetadataMap,
    settings: ClientSettings,
}

/// A node of EventStoreDB, to read from.
#[derive(Clone)]
pub(super) struct Node {
    transport: Transport,
    uri: Uri,
}

/// Runs connections where the adapter was made, not where it is first asked.
#[derive(Clone)]
struct OnRuntime(Handle);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for OnRuntime {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

impl Transport {
    /// Connections as these settings say.
    pub(super) fn new(settings: &Settings, runtime: &Handle) -> Result<Self, BoxError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&settings.client)?)
            .https_or_http()
            .enable_http2()
            .wrap_connector(http);
        let client = || {
            Client::builder(OnRuntime(runtime.clone()))
                .timer(TokioTimer::new())
                .http2_only(true)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_timeout(KEEP_ALIVE)
                .build(connector.clone())
        };
        Ok(Self { reads: client(), feeds: client(), headers: headers(settings)?, settings: settings.client.clone() })
    }

    /// The node at this address.
    pub(super) fn node(&self, endpoint: &Endpoint) -> Node {
        Node { transport: self.clone(), uri: self.settings.to_uri(endpoint) }
    }
}

/// What every call says about who calls, and of which node it wants the answer.
fn headers(settings: &Settings) -> Result<MetadataMap, BoxError> {
    let mut headers = MetadataMap::new();
    if let Some(user) = &settings.hidden.default_user_name {
        let both = [&user.login[..], b":", &user.password[..]].concat();
        let basic = base64::engine::general_purpose::STANDARD.encode(both);
        headers.insert("authorization", MetadataValue::try_from(format!("Basic {basic}"))?);
    }
    if settings.requires_leader() {
        headers.insert("requires-leader", MetadataValue::from_static("true"));
    }
    if let Some(name) = &settings.hidden.connection_name {
        headers.insert("connection-name", MetadataValue::try_from(name.as_str())?);
    }
    Ok(headers)
}

fn tls(settings: &ClientSettings) -> Result<ClientConfig, BoxError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    if !settings.is_secure_mode_enabled() {
        return Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    }
    let config = match settings.tls_ca_file() {
        _ if !settings.is_tls_certificate_verification_enabled() => {
            config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file)? {
                roots.add(certificate?)?;
            }
            config.with_root_certificates(roots)
        }
        None => config.with_native_roots()?,
    };
    Ok(match settings.user_certificate() {
        Some((certificates, key)) => {
            let certificates = CertificateDer::pem_file_iter(certificates)?.collect::<Result<_, _>>()?;
            config.with_client_auth_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?
        }
        None => config.with_no_client_auth(),
    })
}

/// What `tlsVerifyCert=false` asks for: the server may be anyone, but what it signs
/// must be signed.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a node said no to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It does not answer, or it is no longer the one to ask.
    #[error("{}", said(.0))]
    Node(Status),
    /// It answers, and refuses this.
    #[error("{}", said(.0))]
    Refused(Status),
    #[error("the node did not answer in time")]
    Late,
}

/// What a status says, without the headers that it came with.
pub(super) fn said(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        let not_leader = status.metadata().get("exception").is_some_and(|exception| exception == "not-leader");
        match status.code() {
            _ if not_leader => Self::Node(status),
            // A connection that breaks is any of the first four.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded => {
                Self::Node(status)
            }
            _ => Self::Refused(status),
        }
    }
}

impl ReadError {
    /// Whether it may be the answer to where the read was to begin, and no failure at all:
    /// the server said it itself, and something lies behind the status of a connection
    /// that broke.
    pub(super) fn may_be_of_the_place(&self) -> bool {
        match self {
            Self::Node(status) | Self::Refused(status) => {
                matches!(status.code(), Code::Unknown | Code::InvalidArgument | Code::OutOfRange)
                    && std::error::Error::source(status).is_none()
            }
            Self::Late => false,
        }
    }

    /// Whether the stream was deleted for good.
    pub(super) fn is_stream_deleted(&self) -> bool {
        match self {
            Self::Refused(status) | Self::Node(status) => {
                status.metadata().get("exception").is_some_and(|exception| exception == "stream-deleted")
            }
            Self::Late => false,
        }
    }
}

/// Where in a stream to begin.
#[derive(Clone, Copy)]
pub(super) enum Begin {
    At(Revision),
    End,
}

impl Begin {
    /// At the first event.
    pub(super) const FIRST: Self = Self::At(Revision::FIRST);
}

impl Node {
    /// Events of a stream.
    pub(super) async fn stream(
        &self,
        name: &str,
        from: Begin,
        direction: Direction,
        count: usize,
    ) -> Result<Answers, Status> {
        let from = match from {
            // The server counts in signed numbers.
            Begin::At(revision) => FromRevision::Revision(revision.0.min(i64::MAX.cast_unsigned())),
            Begin::End => FromRevision::End(Empty {}),
        };
        let name = StreamName { bytes: bytes::Bytes::copy_from_slice(name.as_bytes()) };
        let source = Source::Stream(OneStream { name: Some(name), from: Some(from) });
        let options = options(source, direction, Amount::Count(count as u64), Filtering::None(Empty {}));
        self.read(&self.transport.reads, options).await
    }

    /// The last events of the log, the newest first: all, or only those under our prefixes.
    pub(super) async fn backwards(
        &self,
        before: Option<Position>,
        filtered: bool,
        count: u64,
    ) -> Result<Answers, Status> {
        let from = before.map_or(FromPosition::End(Empty {}), at);
        let filtering = if filtered { Filtering::Filter(filter()) } else { Filtering::None(Empty {}) };
        let source = Source::All(All { from: Some(from) });
        self.read(&self.transport.reads, options(source, Direction::Backwards, Amount::Count(count), filtering)).await
    }

    /// Events under our prefixes from a position on, that one included.
    pub(super) async fn forwards(&self, from: Position, count: u64) -> Result<Answers, Status> {
        let source = Source::All(All { from: Some(at(from)) });
        let options = options(source, Direction::Forwards, Amount::Count(count), Filtering::Filter(filter()));
        self.read(&self.transport.reads, options).await
    }

    /// The first event, whoever's it is, from a position on, that one included.
    pub(super) async fn first_from(&self, position: Position) -> Result<Answers, Status> {
        let source = Source::All(All { from: Some(at(position)) });
        let options = options(source, Direction::Forwards, Amount::Count(1), Filtering::None(Empty {}));
        self.read(&self.transport.reads, options).await
    }

    /// All events under our prefixes behind a checkpoint, and those that are to come.
    pub(super) async fn subscribe(&self, after: Checkpoint) -> Result<Answers, Status> {
        let from = if after == Checkpoint::START {
            FromPosition::Start(Empty {})
        } else {
            FromPosition::Position(LogPosition { commit: after.commit, prepare: after.prepare })
        };
        let source = Source::All(All { from: Some(from) });
        let amount = Amount::Subscription(Empty {});
        let options = options(source, Direction::Forwards, amount, Filtering::Filter(filter()));
        self.read(&self.transport.feeds, options).await
    }

    async fn read(&self, http: &Http, options: Options) -> Result<Answers, Status> {
        let mut grpc = tonic::client::Grpc::with_origin(http.clone(), self.uri.clone());
        grpc = grpc.max_decoding_message_size(MAX_MESSAGE);
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(ReadReq { options: Some(options) });
        *request.metadata_mut() = self.transport.headers.clone();
        let codec = ProstCodec::<ReadReq, ReadResp>::default();
        Ok(grpc.server_streaming(request, PathAndQuery::from_static(READ), codec).await?.into_inner())
    }
}

/// Whether events of a stream of this name are part of the log.
pub(super) fn is_followed(name: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

fn at(position: Position) -> FromPosition {
    FromPosition::Position(LogPosition { commit: position.0, prepare: position.0 })
}

fn filter() -> Filter {
    let prefixes = PREFIXES.map(str::to_owned).to_vec();
    Filter { stream_name: Some(Expression { prefixes }), window: Some(WINDOW), checkpoint_interval: 1 }
}

fn options(source: Source, direction: Direction, amount: Amount, filtering: Filtering) -> Options {
    let control = matches!(source, Source::Stream(_)).then_some(Control { compatibility: 1 });
    Options {
        source: Some(source),
        direction: i32::from(direction == Direction::Backwards),
        amount: Some(amount),
        filtering: Some(filtering),
        uuids: Some(Uuids { structured: Some(Empty {}) }),
        control,
    }
}
