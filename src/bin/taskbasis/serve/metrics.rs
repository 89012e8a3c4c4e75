//! What is counted and measured, as Prometheus reads it.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use taskbasis::CacheStats;

/// The type of the text, as its standard names it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, EncodeLabelSet, Hash, PartialEq, Eq)]
struct Answer {
    route: String,
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Hash, PartialEq, Eq)]
struct Route {
    route: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Hash, PartialEq, Eq)]
struct Reason {
    reason: &'static str,
}

/// The counters of a server. No label is taken from a request: whatever clients send, they stay as few.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    seconds: Family<Route, Histogram>,
    dropped: Family<Reason, Counter>,
    pub images: Counter,
    pub batch: Histogram,
    pub queue: Histogram,
    pub weights: Histogram,
    pub run: Histogram,
    pub waiting: Gauge,
    pub connections: Gauge,
    hits: Gauge,
    misses: Gauge,
    evictions: Gauge,
    entries: Gauge,
    bytes: Gauge,
    budget: Gauge,
    reconstructing: Gauge<f64, AtomicU64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// From a tenth of a millisecond to a minute, each bound some two times the last.
fn seconds() -> Histogram {
    Histogram::new([1e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("taskbasis"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            dropped: Family::default(),
            images: Counter::default(),
            batch: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            queue: seconds(),
            weights: seconds(),
            run: seconds(),
            waiting: Gauge::default(),
            connections: Gauge::default(),
            hits: Gauge::default(),
            misses: Gauge::default(),
            evictions: Gauge::default(),
            entries: Gauge::default(),
            bytes: Gauge::default(),
            budget: Gauge::default(),
            reconstructing: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let to = &mut self.registry;
        let second = || Unit::Seconds;
        to.register("requests", "Requests that were answered, by route and status", self.requests.clone());
        to.register_with_unit("request", "Time from head to answer, by route", second(), self.seconds.clone());
        to.register("dropped", "Requests that no run was made for, by reason", self.dropped.clone());
        to.register("images", "Images that were run", self.images.clone());
        to.register("batch_images", "Images in a run", self.batch.clone());
        to.register_with_unit("queue", "Time in the queue, by request", second(), self.queue.clone());
        to.register_with_unit("weights", "Time for the weights of a run", second(), self.weights.clone());
        to.register_with_unit("run", "Time of the encoder in a run", second(), self.run.clone());
        to.register("waiting_images", "Images that were asked for and not answered yet", self.waiting.clone());
        to.register("connections", "Open connections", self.connections.clone());
        to.register("cache_hits", "Requests for weights that were there", self.hits.clone());
        to.register("cache_misses", "Requests for weights that were reconstructed", self.misses.clone());
        to.register("cache_evictions", "Weights that were dropped to make room", self.evictions.clone());
        to.register("cache_entries", "Weights that are kept", self.entries.clone());
        to.register_with_unit("cache", "Bytes that they take", Unit::Bytes, self.bytes.clone());
        to.register_with_unit("cache_budget", "Bytes that they may take", Unit::Bytes, self.budget.clone());
        let spent = self.reconstructing.clone();
        to.register_with_unit("reconstructing", "Time spent in reconstructing, in all", second(), spent);
    }

    /// Notes an answer.
    pub fn answered(&self, route: &str, status: u16, took: Duration) {
        self.requests.get_or_create(&Answer { route: route.to_owned(), status }).inc();
        self.seconds.get_or_create(&Route { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// Notes a request that is not run.
    pub fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
    }

    /// The text, with the cache as it is now.
    pub fn text(&self, cache: &CacheStats) -> Result<String, fmt::Error> {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.hits, cache.hits);
        set(&self.misses, cache.misses);
        set(&self.evictions, cache.evictions);
        set(&self.entries, cache.entries as u64);
        set(&self.bytes, (cache.bytes + cache.spare_bytes) as u64);
        set(&self.budget, cache.budget as u64);
        self.reconstructing.set(cache.reconstructing.as_secs_f64());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
