//! A metric with its samples, and how all are written: OpenMetrics for those who ask for it, else Prometheus' own text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use tickhound_engine::monitor::{BOUNDS_US, Buckets};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

#[derive(Debug)]
pub(super) enum Value {
    Whole(u64),
    Number(f64),
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

/// Only grows; `_total` is added to its name.
pub(super) fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: None, kind: MetricType::Counter, samples: Vec::new() }
}

pub(super) fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { kind: MetricType::Gauge, ..counter(name, help) }
}

/// Of seconds.
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
    /// The unit is added to its name.
    pub(super) fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    pub(super) fn one(self, value: impl Into<Value>) -> Self {
        self.with(&[], value)
    }

    pub(super) fn with(mut self, labels: &[(&'static str, &str)], value: impl Into<Value>) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push((labels, value.into()));
        self
    }

    pub(super) fn observed(self, observed: &Buckets) -> Self {
        let (sum_us, counts) = observed.read();
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        self.one(Value::Histogram { sum: sum_us as f64 / 1e6, buckets: bounds.zip(counts).collect() })
    }
}

/// The content type, and the text.
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
            for (labels, value) in samples {
                match labels.is_empty() {
                    true => sample(&mut metric, *kind, value)?,
                    false => sample(&mut metric.encode_family(labels)?, *kind, value)?,
                }
            }
        }
        Ok(())
    }
}

fn sample(metric: &mut MetricEncoder<'_>, kind: MetricType, value: &Value) -> fmt::Result {
    match value {
        Value::Whole(value) if kind == MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        Value::Number(value) if kind == MetricType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::Whole(value) => metric.encode_gauge(value),
        Value::Number(value) => metric.encode_gauge(value),
        Value::Histogram { sum, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}
