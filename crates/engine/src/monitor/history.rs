//! A sample every second, kept for a quarter of an hour; rates and shares of the last seconds from it.

use std::{
    collections::VecDeque,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{DetectorView, latency::Recent, since_epoch};
use crate::stats::Stats;

/// Samples that are kept: 15 minutes.
const KEPT: usize = 900;

/// Seconds over which percentiles are told.
const WINDOW_S: usize = 60;

/// Seconds over which rates and shares are told: so many that they don't flicker, so few that they are of now.
const RATE_S: usize = 5;

/// Columns of samples, oldest first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Samples {
    /// When each was taken, ms since the Unix epoch.
    pub at_ms: VecDeque<u64>,
    /// Ticks committed in a second.
    pub ticks_per_s: VecDeque<f64>,
    /// Alerts committed in a second.
    pub alerts_per_s: VecDeque<f64>,
    /// Ticks between read and commit.
    pub backlog: VecDeque<u64>,
    /// Age of the oldest uncommitted entry, ms; null when it was not known.
    pub behind_ms: VecDeque<Option<u64>>,
    /// Latency of the second's entries, arrival to commit, ms; null when there were none.
    pub p50_ms: VecDeque<Option<f64>>,
    /// As `p50_ms`.
    pub p99_ms: VecDeque<Option<f64>>,
    /// As `p50_ms`.
    pub p999_ms: VecDeque<Option<f64>>,
}

/// Latency of entries, arrival to commit, ms; null when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of them took no longer.
    pub p50: Option<f64>,
    /// 99 in a hundred.
    pub p99: Option<f64>,
    /// 999 in a thousand.
    pub p999: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// Seconds that this is about.
    pub window_s: u64,
}

/// How much is going on.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Ticks committed per second.
    pub ticks_per_s: f64,
    /// Alerts committed in the last minute.
    pub alerts_per_min: f64,
    /// Latency over the last minute.
    pub latency: Quantiles,
    /// Share of the time that each worker was at work, 0..=1.
    pub busy_share: Vec<f64>,
    /// Each detector in force.
    pub detectors: Vec<DetectorLoad>,
}

/// How much of the machine a detector takes.
#[derive(Clone, Debug)]
pub struct DetectorLoad {
    /// Its name.
    pub name: String,
    /// Share of one core, all workers together.
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
struct Reading {
    at: Instant,
    completed: u64,
    alerts: u64,
    busy_ns: Vec<u64>,
    spent_ns: Vec<(String, u64)>,
}

impl History {
    pub(super) fn push(
        &mut self,
        stats: &Stats,
        behind_ms: Option<u64>,
        recent: Recent,
        busy_ns: Vec<u64>,
        detectors: &[DetectorView],
    ) {
        let reading = Reading {
            at: Instant::now(),
            completed: stats.completed.load(Relaxed),
            alerts: stats.alerts.load(Relaxed),
            busy_ns,
            spent_ns: detectors.iter().map(|view| (view.spec.name.clone(), view.counts.spent_ns)).collect(),
        };
        let before = self.readings.back();
        let rate = |count: fn(&Reading) -> u64| before.map_or(0.0, |before| per_second(before, &reading, count));
        let Samples { at_ms, ticks_per_s, alerts_per_s, backlog, behind_ms: behind, p50_ms, p99_ms, p999_ms } =
            &mut self.samples;
        keep(at_ms, KEPT, since_epoch().as_millis() as u64);
        keep(ticks_per_s, KEPT, rate(|reading| reading.completed));
        keep(alerts_per_s, KEPT, rate(|reading| reading.alerts));
        keep(backlog, KEPT, stats.submitted.load(Relaxed).saturating_sub(reading.completed));
        keep(behind, KEPT, behind_ms);
        let latency = quantiles(recent.histogram());
        keep(p50_ms, KEPT, latency.p50);
        keep(p99_ms, KEPT, latency.p99);
        keep(p999_ms, KEPT, latency.p999);
        keep(&mut self.seconds, WINDOW_S, recent);
        keep(&mut self.readings, WINDOW_S + 1, reading);
    }

    pub(super) fn samples(&self) -> Samples {
        self.samples.clone()
    }

    pub(super) fn load(&self) -> Load {
        let mut all: Option<Histogram<u32>> = None;
        for second in self.seconds.iter().filter_map(Recent::histogram) {
            match &mut all {
                // Both have the same bounds, so one fits into the other.
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
            let earlier = before.spent_ns.iter().find(|(known, _)| known == name).map_or(*ns, |(_, ns)| *ns);
            DetectorLoad { name: name.clone(), core_share: share(ns.saturating_sub(earlier)) }
        });
        Load {
            ticks_per_s: per_second(before, now, |reading| reading.completed),
            alerts_per_min: (now.alerts - minute.alerts) as f64,
            latency,
            busy_share: busy.collect(),
            detectors: detectors.collect(),
        }
    }
}

fn keep<T>(values: &mut VecDeque<T>, most: usize, value: T) {
    if values.len() == most {
        values.pop_front();
    }
    values.push_back(value);
}

fn per_second(before: &Reading, now: &Reading, count: fn(&Reading) -> u64) -> f64 {
    let passed = now.at.duration_since(before.at);
    if passed == Duration::ZERO { 0.0 } else { (count(now) - count(before)) as f64 / passed.as_secs_f64() }
}

fn quantiles(histogram: Option<&Histogram<u32>>) -> Quantiles {
    let Some(histogram) = histogram else { return Quantiles::default() };
    let ms = |us: u64| Some(us as f64 / 1000.0);
    let at = |quantile| ms(histogram.value_at_quantile(quantile).min(histogram.max()));
    Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()), window_s: 1 }
}
