//! What a process counts, and how it is told to Prometheus.
//!
//! Counters and histograms are atomics that are read when somebody asks; everything else is looked up then. Each crate has one
//! `metrics.rs` that names what it tells; `docs/metrics.md` lists all of it.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::build::{RELEASE, REVISION};

/// Content type of [`Told::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A total since the process started, or a sum that also falls.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes `n` away.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// How much there is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Parts of a [`Busy`] counter: with as many threads as cores few share one.
const PARTS: usize = 16;

/// A counter for what happens with every message: each thread adds to a part of its own, so that cores do not take a cache line
/// from each other.
#[derive(Debug)]
pub struct Busy([Part; PARTS]);

/// A cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Part(AtomicU64);

static NEXT_PART: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MY_PART: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Default for Busy {
    fn default() -> Self {
        Self::new()
    }
}

impl Busy {
    /// Zero.
    pub const fn new() -> Self {
        Self([const { Part(AtomicU64::new(0)) }; PARTS])
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        let part = MY_PART.get().unwrap_or_else(|| {
            let part = NEXT_PART.fetch_add(1, Ordering::Relaxed) % PARTS;
            MY_PART.set(Some(part));
            part
        });
        self.0[part].0.fetch_add(n, Ordering::Relaxed);
    }

    /// How much there is.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|part| part.0.load(Ordering::Relaxed)).sum()
    }
}

/// Upper ends of the buckets of a [`Latencies`], in seconds: a tenth of a millisecond, where an idle machine is, to more than
/// any deadline of ours.
pub const LATENCY_BOUNDS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// A histogram of times.
#[derive(Debug)]
pub struct Latencies {
    /// The last is for what is beyond [`LATENCY_BOUNDS`].
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// Empty.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; LATENCY_BOUNDS.len() + 1], nanos: AtomicU64::new(0) }
    }

    /// Takes in that `n` things took `time`.
    pub fn observe(&self, time: Duration, n: u64) {
        let seconds = time.as_secs_f64();
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(n, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos.saturating_mul(n), Ordering::Relaxed);
    }

    /// Upper end of each bucket in seconds, the last without end, and how many fell into it.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = LATENCY_BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.buckets.iter().map(|b| b.load(Ordering::Relaxed))).collect()
    }
}

/// Where a [`Source`] puts what it has to tell. Names are without the `roomring_` that all begin with, and a counter's
/// without its `_total`.
#[derive(Debug)]
pub struct Sink<'a>(DescriptorEncoder<'a>);

/// Values of one name, each under one label.
pub type Labelled<'a> = &'a [(&'a str, u64)];

impl Sink<'_> {
    /// A total.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
    }

    /// A total of seconds.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn seconds_counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
    }

    /// Totals by `label`.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn counters(&mut self, name: &str, help: &str, label: &str, values: Labelled<'_>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            metric.encode_family(&[(label, *of)])?.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>)?;
        }
        Ok(())
    }

    /// How much there is now.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// How much there is now by `label`.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn gauges(&mut self, name: &str, help: &str, label: &str, values: Labelled<'_>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            metric.encode_family(&[(label, *of)])?.encode_gauge(value)?;
        }
        Ok(())
    }

    /// A time.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A constant 1 with labels that say what is.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_family(&labels)?.encode_gauge(&1_u64)
    }

    /// Which build this process, one of `role`, is.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn build(&mut self, role: &str) -> fmt::Result {
        let labels = [("role", role), ("version", RELEASE), ("revision", REVISION.unwrap_or("unknown"))];
        let help = "A constant 1 that names the binary, its version and, of a release, the commit it was built from.";
        self.info("build_info", help, &labels)
    }

    /// A histogram of times.
    ///
    /// # Errors
    /// As the formatter's.
    pub fn latencies(&mut self, name: &str, help: &str, latencies: &Latencies) -> fmt::Result {
        let buckets = latencies.buckets();
        let count = buckets.iter().map(|(_, n)| n).sum();
        #[allow(clippy::cast_precision_loss)] // 2^53 ns are a hundred days of waiting.
        let sum = latencies.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Something that has numbers to tell.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Tells all of them, as they are now. Names do not depend on what there is to tell.
    ///
    /// # Errors
    /// As the sink's.
    fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result;
}

#[derive(Debug)]
struct Collected<S>(S);

impl<S: Source> Collector for Collected<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.tell(&mut Sink(encoder))
    }
}

/// Everything that a process tells.
#[derive(Debug)]
pub struct Told(Registry);

impl Told {
    /// What `ours` tells, all under `roomring_`, and what is known of the process itself, under `process_` as everywhere.
    pub fn new(ours: impl Source) -> Self {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("roomring").register_collector(Box::new(Collected(ours)));
        registry.register_collector(Box::new(Collected(super::process::Process::new())));
        Self(registry)
    }

    /// In Prometheus' text format.
    ///
    /// # Errors
    /// If a source has none of its numbers to tell after all.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Example(Latencies);

    impl Source for Example {
        fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result {
            sink.counter("things", "Things done.", 3)?;
            sink.counters("ends", "Ends.", "why", &[("a", 1), ("b", 2)])?;
            sink.gauges("none", "Nothing yet.", "why", &[])?;
            sink.info("build_info", "The build.", &[("version", "1"), ("role", "example")])?;
            sink.latencies("wait_seconds", "Waits.", &self.0)
        }
    }

    #[test]
    fn text_is_as_prometheus_wants_it() {
        let waits = Latencies::new();
        waits.observe(Duration::from_micros(100), 1);
        waits.observe(Duration::from_micros(101), 2);
        waits.observe(Duration::from_secs(60), 1);
        let text = Told::new(Example(waits)).text().unwrap();
        for line in [
            "# HELP roomring_things_total Things done.",
            "# TYPE roomring_things_total counter",
            "roomring_things_total 3",
            "roomring_ends_total{why=\"b\"} 2",
            "# TYPE roomring_none gauge",
            "roomring_build_info{version=\"1\",role=\"example\"} 1",
            "# TYPE roomring_wait_seconds histogram",
            "roomring_wait_seconds_bucket{le=\"0.0001\"} 1",
            "roomring_wait_seconds_bucket{le=\"0.00025\"} 3",
            "roomring_wait_seconds_bucket{le=\"5\"} 3",
            "roomring_wait_seconds_bucket{le=\"+Inf\"} 4",
            "roomring_wait_seconds_count 4",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        let sum = text.lines().find_map(|l| l.strip_prefix("roomring_wait_seconds_sum ")).unwrap();
        assert!((sum.parse::<f64>().unwrap() - 60.000_302).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn parts_of_a_busy_counter_add_up() {
        static BUSY: Busy = Busy::new();
        std::thread::scope(|scope| {
            for _ in 0..PARTS + 3 {
                scope.spawn(|| (0..1000).for_each(|_| BUSY.add(2)));
            }
        });
        assert_eq!(BUSY.get(), 2000 * (PARTS as u64 + 3));
    }
}
