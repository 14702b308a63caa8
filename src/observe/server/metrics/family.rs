//! Metric families with their samples, and their text form: OpenMetrics for clients that ask for it, otherwise the
//! format of Prometheus.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use tickhound_engine::monitor::{BOUNDS_US, Buckets};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A metric with all its samples.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    samples: Vec<MetricSample>,
}

/// A value with its labels.
#[derive(Debug)]
struct MetricSample {
    labels: Vec<(&'static str, String)>,
    value: MetricValue,
}

#[derive(Debug)]
pub(super) enum MetricValue {
    Whole(u64),
    Number(f64),
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
}

impl From<u64> for MetricValue {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for MetricValue {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

/// Makes a counter, which only rises; `_total` is appended to its name.
pub(super) fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: None, kind: MetricType::Counter, samples: Vec::new() }
}

pub(super) fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { kind: MetricType::Gauge, ..counter(name, help) }
}

/// Makes a histogram of seconds.
pub(super) fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { kind: MetricType::Histogram, unit: Some(seconds()), ..counter(name, help) }
}

pub(super) fn seconds() -> Unit {
    Unit::Seconds
}

pub(super) fn bytes() -> Unit {
    Unit::Bytes
}

impl Family {
    /// Sets the unit, which is appended to the name.
    pub(super) fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Adds a sample without labels.
    pub(super) fn one(self, value: impl Into<MetricValue>) -> Self {
        self.with(&[], value)
    }

    /// Adds a sample with labels.
    pub(super) fn with(mut self, labels: &[(&'static str, &str)], value: impl Into<MetricValue>) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(MetricSample { labels, value: value.into() });
        self
    }

    pub(super) fn observed(self, observed: &Buckets) -> Self {
        let (sum_us, counts) = observed.read();
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        self.one(MetricValue::Histogram { sum: sum_us as f64 / 1e6, buckets: bounds.zip(counts).collect() })
    }
}

/// Returns the content type and the text.
pub(super) fn write(families: Vec<Family>, openmetrics: bool) -> Result<(&'static str, String), fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut written = String::new();
    if openmetrics {
        text::encode(&mut written, &registry)?;
        return Ok((OPENMETRICS, written));
    }
    prometheus_text::encode(&mut written, &registry)?;
    Ok((prometheus_text::CONTENT_TYPE, written))
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, unit, kind, samples } in &self.0 {
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
            for MetricSample { labels, value } in samples {
                if labels.is_empty() {
                    encode(&mut metric, *kind, value)?;
                } else {
                    encode(&mut metric.encode_family(labels)?, *kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(metric: &mut MetricEncoder<'_>, kind: MetricType, value: &MetricValue) -> fmt::Result {
    match value {
        MetricValue::Whole(value) if kind == MetricType::Counter => {
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        MetricValue::Number(value) if kind == MetricType::Counter => {
            metric.encode_counter::<NoLabelSet, _, f64>(value, None)
        }
        MetricValue::Whole(value) => metric.encode_gauge(value),
        MetricValue::Number(value) => metric.encode_gauge(value),
        MetricValue::Histogram { sum, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}
