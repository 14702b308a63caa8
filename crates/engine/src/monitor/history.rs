//! A sample every second of the last quarter of an hour, and the rates and shares of the last seconds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{FlowCounts, latency::Recent};
use tickhound_core::wall::now_ms;

/// The number of samples: 15 minutes.
const SAMPLES_MAX: usize = 900;

/// The window of percentiles in seconds.
const WINDOW_S: usize = 60;

/// The window of rates and shares in seconds: long enough not to flicker, short enough to be current.
const RATE_S: usize = 5;

/// Columns of samples, oldest first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Samples {
    /// When each was taken, in milliseconds since the Unix epoch.
    pub at_ms: VecDeque<u64>,
    /// Ticks committed in a second.
    pub ticks_per_s: VecDeque<f64>,
    /// Alerts committed in a second.
    pub alerts_per_s: VecDeque<f64>,
    /// Ticks between read and commit.
    pub backlog: VecDeque<u64>,
    /// The age of the oldest uncommitted entry in milliseconds; null when it was not known.
    pub behind_ms: VecDeque<Option<u64>>,
    /// The median time from arrival to commit of the second's entries in milliseconds; null when there were none.
    pub p50_ms: VecDeque<Option<f64>>,
    /// The 99th percentile of the same.
    pub p99_ms: VecDeque<Option<f64>>,
    /// The 99.9th percentile of the same.
    pub p999_ms: VecDeque<Option<f64>>,
}

/// Time from arrival to commit of entries in milliseconds; null when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The 99.9th percentile.
    pub p999: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// The window in seconds.
    pub window_s: u64,
}

/// Rates and shares of the last seconds.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Ticks committed per second.
    pub ticks_per_s: f64,
    /// Alerts committed in the last minute.
    pub alerts_per_min: f64,
    /// The latency over the last minute.
    pub latency: Quantiles,
    /// The share of the time that each worker was busy, from 0 to 1.
    pub busy_share: Vec<f64>,
    /// The load of each active detector.
    pub detectors: Vec<DetectorLoad>,
}

/// The load of a detector.
#[derive(Clone, Debug)]
pub struct DetectorLoad {
    /// Its name.
    pub name: String,
    /// Its share of one core, all workers together.
    pub core_share: f64,
}

#[derive(Debug, Default)]
pub(super) struct History {
    samples: Samples,
    readings: VecDeque<Reading>,
    /// Latencies of each of the last seconds.
    seconds: VecDeque<Recent>,
}

/// Counters at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    at: Instant,
    counts: FlowCounts,
    /// Time that each worker was busy.
    busy_ns: Vec<u64>,
    /// Time spent in each detector.
    spent_ns: Vec<(String, u64)>,
}

impl Reading {
    pub(super) fn new(counts: FlowCounts, busy_ns: Vec<u64>, spent_ns: Vec<(String, u64)>) -> Self {
        Self { at: Instant::now(), counts, busy_ns, spent_ns }
    }
}

impl History {
    /// Adds a sample; `recent` has the latencies of its second.
    pub(super) fn push(&mut self, reading: Reading, behind_ms: Option<u64>, recent: Recent) {
        let before = self.readings.back();
        let rate = |count: fn(&FlowCounts) -> u64| before.map_or(0.0, |before| per_second(before, &reading, count));
        let Samples { at_ms, ticks_per_s, alerts_per_s, backlog, behind_ms: behind, p50_ms, p99_ms, p999_ms } =
            &mut self.samples;
        push(at_ms, SAMPLES_MAX, now_ms());
        push(ticks_per_s, SAMPLES_MAX, rate(|counts| counts.completed));
        push(alerts_per_s, SAMPLES_MAX, rate(|counts| counts.alerts));
        push(backlog, SAMPLES_MAX, reading.counts.submitted.saturating_sub(reading.counts.completed));
        push(behind, SAMPLES_MAX, behind_ms);
        let latency = quantiles(recent.histogram());
        push(p50_ms, SAMPLES_MAX, latency.p50);
        push(p99_ms, SAMPLES_MAX, latency.p99);
        push(p999_ms, SAMPLES_MAX, latency.p999);
        push(&mut self.seconds, WINDOW_S, recent);
        push(&mut self.readings, WINDOW_S + 1, reading);
    }

    pub(super) fn samples(&self) -> Samples {
        self.samples.clone()
    }

    pub(super) fn load(&self) -> Load {
        let mut all: Option<Histogram<u32>> = None;
        for second in self.seconds.iter().filter_map(Recent::histogram) {
            match &mut all {
                // Both have the same bounds, so adding one to the other can't fail.
                Some(all) => drop(all.add(second)),
                None => all = Some(second.clone()),
            }
        }
        let latency = Quantiles { window_s: WINDOW_S as u64, ..quantiles(all.as_ref()) };
        let Some(now) = self.readings.back() else { return Load { latency, ..Load::default() } };
        let before = &self.readings[self.readings.len().saturating_sub(RATE_S + 1)];
        let minute = self.readings.front().unwrap_or(now);
        let spent_ns = now.at.duration_since(before.at).as_nanos();
        let share = |more: u64| if spent_ns == 0 { 0.0 } else { more as f64 / spent_ns as f64 };
        let busy = now.busy_ns.iter().enumerate();
        let busy = busy.map(|(shard, ns)| share(ns - before.busy_ns.get(shard).unwrap_or(ns)).min(1.0));
        let detectors = now.spent_ns.iter().map(|(name, ns)| {
            // A detector that is new since then has no rate yet.
            let earlier = before.spent_ns.iter().find(|(known, _)| known == name).map_or(*ns, |(_, ns)| *ns);
            DetectorLoad { name: name.clone(), core_share: share(ns.saturating_sub(earlier)) }
        });
        Load {
            ticks_per_s: per_second(before, now, |counts| counts.completed),
            alerts_per_min: (now.counts.alerts - minute.counts.alerts) as f64,
            latency,
            busy_share: busy.collect(),
            detectors: detectors.collect(),
        }
    }
}

/// Appends a value and drops the oldest one if there are more than `most`.
fn push<T>(values: &mut VecDeque<T>, most: usize, value: T) {
    if values.len() == most {
        values.pop_front();
    }
    values.push_back(value);
}

fn per_second(before: &Reading, now: &Reading, count: fn(&FlowCounts) -> u64) -> f64 {
    let passed = now.at.duration_since(before.at);
    let counted = count(&now.counts) - count(&before.counts);
    if passed == Duration::ZERO { 0.0 } else { counted as f64 / passed.as_secs_f64() }
}

fn quantiles(histogram: Option<&Histogram<u32>>) -> Quantiles {
    let Some(histogram) = histogram else { return Quantiles::default() };
    let ms = |us: u64| Some(us as f64 / 1000.0);
    let at = |quantile| ms(histogram.value_at_quantile(quantile).min(histogram.max()));
    Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()), window_s: 1 }
}
