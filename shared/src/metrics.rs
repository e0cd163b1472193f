//! What an operator can see at `/metrics`, in Prometheus' text format.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::domain::stream::Position;
use crate::domain::time::Timestamp;
use crate::ports::RebuildState;

/// Upper bounds of latencies, in seconds.
const LATENCIES: [f64; 15] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Upper bounds of group sizes.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Everything that this process counts.
pub struct Metrics {
    registry: Registry,
    /// Requests by method, route and status: how many and how long.
    pub requests: HistogramVec,
    /// Open connections.
    pub connections: IntGauge,
    /// Commands by verb and outcome.
    pub commands: IntCounterVec,
    pub store: Arc<StoreMetrics>,
    pub esdb: Arc<EsdbMetrics>,
    pub projection: ProjectionMetrics,
    store_bytes: IntGaugeVec,
}

/// What the log's writer counts.
pub struct StoreMetrics {
    group_size: Histogram,
    sync_seconds: Histogram,
}

/// What the way to EventStoreDB counts.
pub struct EsdbMetrics {
    append_seconds: Histogram,
    resent: IntCounter,
    reconnects: IntCounter,
}

/// What the projector counts.
pub struct ProjectionMetrics {
    head: IntGauge,
    position: IntGauge,
    working: IntGauge,
    lag_events: IntGauge,
    lag_seconds: prometheus::Gauge,
    delay: Histogram,
    batch_size: Histogram,
    parked: IntGauge,
    rebuild_running: IntGauge,
    rebuild_done: IntGauge,
    rebuild_total: IntGauge,
}

/// What only some processes have to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A log that is written and kept here.
    Store,
    /// A log that is kept in EventStoreDB.
    Esdb,
    /// The way from the log to the views.
    Projection,
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("qaservice")
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts { common_opts: opts(name, help), buckets: buckets.to_vec() }
}

impl StoreMetrics {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            group_size: Histogram::with_opts(histogram(
                "log_group_size",
                "Appends that were made durable together.",
                &SIZES,
            ))?,
            sync_seconds: Histogram::with_opts(histogram(
                "log_sync_seconds",
                "Time to write a group of appends and sync it to disk.",
                &LATENCIES,
            ))?,
        })
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.group_size.clone()))?;
        registry.register(Box::new(self.sync_seconds.clone()))
    }

    /// A group of so many appends became durable.
    pub fn group(&self, appends: usize, took: Duration) {
        self.group_size.observe(appends as f64);
        self.sync_seconds.observe(took.as_secs_f64());
    }
}

impl EsdbMetrics {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            append_seconds: Histogram::with_opts(histogram(
                "log_append_seconds",
                "Time until EventStoreDB has acknowledged an append.",
                &LATENCIES,
            ))?,
            resent: IntCounter::with_opts(opts(
                "log_resent_total",
                "Appends that were sent to EventStoreDB again because their answer was lost.",
            ))?,
            reconnects: IntCounter::with_opts(opts(
                "log_reconnects_total",
                "How often the connection to EventStoreDB was lost.",
            ))?,
        })
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.append_seconds.clone()))?;
        registry.register(Box::new(self.resent.clone()))?;
        registry.register(Box::new(self.reconnects.clone()))
    }

    /// EventStoreDB has acknowledged an append.
    pub fn appended(&self, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// The answer to an append was lost.
    pub fn resent(&self) {
        self.resent.inc();
    }

    /// The connection to EventStoreDB was lost.
    pub fn disconnected(&self) {
        self.reconnects.inc();
    }
}

impl ProjectionMetrics {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            head: IntGauge::with_opts(opts("log_head_position", "The position of the log's last event."))?,
            working: IntGauge::with_opts(opts(
                "projection_working",
                "1 while this process writes the views; 0 while it waits for its turn, or cannot.",
            ))?,
            position: IntGauge::with_opts(opts("projection_position", "The position that the views have reached."))?,
            lag_events: IntGauge::with_opts(opts(
                "projection_lag_events",
                "Events that are not projected yet; counted up to 10,000.",
            ))?,
            lag_seconds: prometheus::Gauge::with_opts(opts(
                "projection_lag_seconds",
                "How long the oldest event that is not projected yet has waited.",
            ))?,
            delay: Histogram::with_opts(histogram(
                "projection_delay_seconds",
                "Time from the recording of a batch's oldest event until it can be read.",
                &LATENCIES,
            ))?,
            batch_size: Histogram::with_opts(histogram(
                "projection_batch_size",
                "Events that were projected together.",
                &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0],
            ))?,
            parked: IntGauge::with_opts(opts("parked_streams", "Streams with an event that cannot be projected."))?,
            rebuild_running: IntGauge::with_opts(opts("rebuild_running", "1 while the views are built anew, else 0."))?,
            rebuild_done: IntGauge::with_opts(opts(
                "rebuild_done_position",
                "The position that the views have reached which are built anew.",
            ))?,
            rebuild_total: IntGauge::with_opts(opts(
                "rebuild_total_position",
                "The position that they have to reach.",
            ))?,
        })
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.head.clone()))?;
        registry.register(Box::new(self.position.clone()))?;
        registry.register(Box::new(self.working.clone()))?;
        registry.register(Box::new(self.lag_events.clone()))?;
        registry.register(Box::new(self.lag_seconds.clone()))?;
        registry.register(Box::new(self.delay.clone()))?;
        registry.register(Box::new(self.batch_size.clone()))?;
        registry.register(Box::new(self.parked.clone()))?;
        registry.register(Box::new(self.rebuild_running.clone()))?;
        registry.register(Box::new(self.rebuild_done.clone()))?;
        registry.register(Box::new(self.rebuild_total.clone()))
    }

    /// So many streams are parked.
    pub fn parked(&self, streams: u64) {
        self.parked.set(gauge(streams));
    }

    /// How the rebuild goes.
    pub fn rebuild(&self, state: &RebuildState) {
        self.rebuild_running.set(i64::from(state.is_running));
        self.rebuild_done.set(gauge(state.done.0));
        self.rebuild_total.set(gauge(state.total.0));
    }

    /// Somebody looked: the log ends at `head`, the views are at `projected`, and so
    /// many events wait between them, the oldest for so long.
    pub fn looked(&self, head: Position, projected: Position, events: usize, waiting: Duration) {
        self.head.set(gauge(head.0));
        self.position.set(gauge(projected.0));
        self.lag_events.set(gauge(events as u64));
        self.lag_seconds.set(waiting.as_secs_f64());
    }

    /// Whether this process writes the views.
    pub fn working(&self, works: bool) {
        self.working.set(works.into());
    }

    /// A batch can be read now; `oldest` is when its first event was recorded.
    pub fn applied(&self, events: usize, oldest: Timestamp, now: Timestamp) {
        let micros = now.micros().saturating_sub(oldest.micros()).max(0);
        self.delay.observe(micros as f64 / 1e6);
        self.batch_size.observe(events as f64);
    }
}

impl Metrics {
    /// Counters at zero. What belongs to other parts than these is not shown.
    ///
    /// # Errors
    /// If two of them had the same name.
    pub fn new(version: &str, parts: &[Part]) -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let build = IntGauge::with_opts(opts("build_info", "Always 1.").const_label("version", version))?;
        build.set(1);
        let metrics = Self {
            requests: HistogramVec::new(
                histogram("http_request_duration_seconds", "Time until a response begins.", &LATENCIES),
                &["method", "route", "status"],
            )?,
            connections: IntGauge::with_opts(opts("http_connections", "Open connections."))?,
            commands: IntCounterVec::new(
                opts("commands_total", "Commands by verb and outcome."),
                &["verb", "outcome"],
            )?,
            store: Arc::new(StoreMetrics::new()?),
            esdb: Arc::new(EsdbMetrics::new()?),
            projection: ProjectionMetrics::new()?,
            store_bytes: IntGaugeVec::new(opts("store_size_bytes", "Bytes on disk."), &["part"])?,
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(build))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.commands.clone()))?;
        for part in parts {
            match part {
                Part::Store => metrics.store.register(registry)?,
                Part::Esdb => metrics.esdb.register(registry)?,
                Part::Projection => metrics.projection.register(registry)?,
            }
        }
        registry.register(Box::new(metrics.store_bytes.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Arc::new(metrics))
    }

    /// What lies on disk, by part.
    pub fn sizes(&self, sizes: &[(&'static str, u64)]) {
        for (part, bytes) in sizes {
            self.store_bytes.with_label_values(&[part]).set(gauge(*bytes));
        }
    }

    /// All of it as text.
    ///
    /// # Errors
    /// If a number cannot be written as text.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
