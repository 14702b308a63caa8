//! Counters of this run, and the line that tells them every few seconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::info;

use crate::monitor::Monitor;

/// Counted by the engine, read by whoever reports.
#[derive(Debug, Default)]
pub struct Stats {
    /// Ticks handed to workers.
    pub submitted: AtomicU64,
    /// Ticks worked and committed.
    pub completed: AtomicU64,
    /// Alerts committed.
    pub alerts: AtomicU64,
    /// Alerts among them that are stale.
    pub late: AtomicU64,
    /// Dead letters committed.
    pub dead: AtomicU64,
    /// Ticks whose time or volume was repaired.
    pub repaired: AtomicU64,
    /// Ticks that no detector saw: no price or no time was known yet.
    pub unseen: AtomicU64,
    /// Time from arrival to commit of the newest committed entry, ms.
    pub lag_ms: AtomicU64,
    /// The rest, for onlookers.
    pub monitor: Monitor,
}

impl Stats {
    /// Logs the counters once, without a rate.
    pub fn tell(&self) {
        info!("{}, {}", self.workers(), self.results());
    }

    fn workers(&self) -> String {
        let (submitted, completed) = (self.submitted.load(Relaxed), self.completed.load(Relaxed));
        format!("submitted: {submitted}, completed: {completed}, backlog: {}", submitted.saturating_sub(completed))
    }

    fn results(&self) -> String {
        let Self { alerts, late, dead, repaired, unseen, lag_ms, .. } = self;
        let counts = [("alerts", alerts), ("late", late), ("dead", dead), ("repaired", repaired), ("unseen", unseen)];
        let counts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name}: {}", count.load(Relaxed))).collect();
        format!("{}, lag: {} ms", counts.join(", "), lag_ms.load(Relaxed))
    }
}

/// Logs the counters every `period` until the task is aborted.
pub async fn report(stats: Arc<Stats>, period: Duration) {
    let mut timer = tokio::time::interval(period);
    let (mut since, mut before) = (Instant::now(), 0);
    timer.tick().await;
    loop {
        timer.tick().await;
        let completed = stats.completed.load(Relaxed);
        let rate = (completed - before) as f64 / since.elapsed().as_secs_f64();
        (since, before) = (Instant::now(), completed);
        info!("{}, rate: {rate:.0}/s, {}", stats.workers(), stats.results());
    }
}
