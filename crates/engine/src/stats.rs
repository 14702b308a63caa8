//! Counters of one run and the line that logs them every few seconds.
//!
//! What holds: all that is counted here is in ticks, except alerts and dead letters. So is the backlog that the log, the
//! metrics and the API show; `engine.backlog` limits the same backlog in entries.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::info;

use crate::{
    conditions::Conditions,
    monitor::{FlowCounts, Monitor, Phase},
    shard::Answer,
};
use tickhound_core::{
    normalize::{CalendarCounts, NormalizeCounts},
    pulse::Pulse,
    stream::Commit,
    wall::since_epoch,
};

/// How often a wait that ends by itself shows that the engine is not stuck.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// Counters that the engine fills and status reports read.
#[derive(Debug, Default)]
pub struct Stats {
    /// Ticks handed to workers.
    pub submitted: AtomicU64,
    /// Ticks processed and committed.
    pub completed: AtomicU64,
    /// Alerts committed.
    pub alerts: AtomicU64,
    /// Stale alerts among them.
    pub stale: AtomicU64,
    /// Dead letters committed.
    pub dead: AtomicU64,
    /// Ticks whose time or volume was repaired.
    pub repaired: AtomicU64,
    /// Ticks that no detector saw, because no price or no time was known yet.
    pub unseen: AtomicU64,
    /// The time from arrival to commit of the newest committed entry in milliseconds.
    pub lag_ms: AtomicU64,
    /// What is wrong with the feed or the host.
    pub conditions: Conditions,
    /// More detail for status reports and metrics.
    pub monitor: Monitor,
    /// Whether the engine's loop is alive.
    pub pulse: Pulse,
}

impl Stats {
    /// The phase of the host.
    pub fn phase(&self) -> Phase {
        self.monitor.phase()
    }

    /// Enters another phase.
    pub fn enter(&self, phase: Phase) {
        self.monitor.enter(phase);
        self.pulse.turn();
    }

    /// Notes a turn of the engine's loop. `oldest_ms` is when the oldest entry in flight arrived, in milliseconds since the
    /// Unix epoch.
    pub fn turn(&self, oldest_ms: Option<u64>) {
        self.monitor.set_oldest(oldest_ms);
        self.pulse.turn();
    }

    /// Waits for something that ends by itself, such as an answer with a timeout: the engine is not stuck meanwhile.
    /// It is as cancel-safe as `what`.
    pub async fn waiting<T>(&self, what: impl Future<Output = T>) -> T {
        tokio::pin!(what);
        loop {
            tokio::select! {
                // `what` is only borrowed, so a turn does not cancel it. A timer is cancel-safe.
                done = &mut what => return done,
                () = tokio::time::sleep(TURN_EVERY) => self.pulse.turn(),
            }
        }
    }

    /// Counts ticks that were handed to workers.
    pub(crate) fn submitted(&self, ticks: usize) {
        self.submitted.fetch_add(ticks as u64, Relaxed);
    }

    /// Counts ticks without a time.
    pub(crate) fn untimed(&self, ticks: u64) {
        self.unseen.fetch_add(ticks, Relaxed);
        self.monitor.untimed.fetch_add(ticks, Relaxed);
    }

    /// Forgets ticks that will not be committed: another host has acquired the lease.
    pub(crate) fn drop_backlog(&self) {
        self.submitted.store(self.completed.load(Relaxed), Relaxed);
    }

    /// Counts what was repaired in the ticks of a read, and what the symbols of each calendar had.
    pub(crate) fn normalized(&self, repaired: &NormalizeCounts, calendars: &[CalendarCounts]) {
        self.repaired.fetch_add(repaired.out_of_order + repaired.volume_repaired, Relaxed);
        self.unseen.fetch_add(repaired.unpriced, Relaxed);
        self.monitor.normalized(repaired, calendars);
    }

    /// Counts the answer of a shard.
    pub(crate) fn answered(&self, answer: &Answer) {
        self.monitor.answered(answer);
    }

    /// Counts a commit that is known to have happened.
    pub(crate) fn committed(&self, commit: &Commit) {
        // One reading of the clock, so that the latencies of a commit agree.
        let now = since_epoch();
        let Self { completed, alerts, stale, dead, lag_ms, .. } = self;
        completed.fetch_add(commit.ticks, Relaxed);
        alerts.fetch_add(commit.alerts.len() as u64, Relaxed);
        stale.fetch_add(commit.alerts.iter().filter(|alert| alert.stale).count() as u64, Relaxed);
        dead.fetch_add(commit.dead_letters.len() as u64, Relaxed);
        if let Some(last) = commit.done.last() {
            lag_ms.store((now.as_millis() as u64).saturating_sub(last.millis), Relaxed);
        }
        self.monitor.committed(commit, now);
    }

    /// Takes the next sample for charts and rates; called once a second.
    pub fn sample(&self, behind_ms: Option<u64>) {
        let counts = FlowCounts {
            submitted: self.submitted.load(Relaxed),
            completed: self.completed.load(Relaxed),
            alerts: self.alerts.load(Relaxed),
        };
        self.monitor.sample(counts, behind_ms);
    }

    /// Logs the counters once, without a rate.
    pub fn log(&self) {
        info!(event = "progress_reported", "{}, {}", self.workers(), self.results());
    }

    /// The counters of ticks as text.
    pub fn workers(&self) -> String {
        let (submitted, completed) = (self.submitted.load(Relaxed), self.completed.load(Relaxed));
        format!("submitted: {submitted}, completed: {completed}, backlog: {}", submitted.saturating_sub(completed))
    }

    /// The counters of results as text.
    pub fn results(&self) -> String {
        let Self { alerts, stale, dead, repaired, unseen, lag_ms, .. } = self;
        let counts = [("alerts", alerts), ("late", stale), ("dead", dead), ("repaired", repaired), ("unseen", unseen)];
        let counts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name}: {}", count.load(Relaxed))).collect();
        format!("{}, lag: {} ms", counts.join(", "), lag_ms.load(Relaxed))
    }
}

/// Logs the counters every `period` until the task is aborted.
pub async fn log_progress(stats: Arc<Stats>, period: Duration) {
    let mut timer = tokio::time::interval(period);
    let (mut since, mut before) = (Instant::now(), 0);
    timer.tick().await;
    loop {
        timer.tick().await;
        let completed = stats.completed.load(Relaxed);
        let rate = (completed - before) as f64 / since.elapsed().as_secs_f64();
        (since, before) = (Instant::now(), completed);
        info!(event = "progress_reported", "{}, rate: {rate:.0}/s, {}", stats.workers(), stats.results());
    }
}
