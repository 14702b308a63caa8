//! Counters of this run, what it is at, and the line that tells them every few seconds.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::info;

use crate::monitor::Monitor;
use tickhound_core::pulse::Pulse;

/// How often a wait that ends by itself shows that the loop behind it lives.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// What the engine is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Loading plugins.
    #[default]
    Starting,
    /// Trying to reach the server.
    Reaching,
    /// Another host works the stream.
    StandingBy,
    /// The lease is held; getting back to what was known.
    Restoring,
    /// Reading, detecting, committing.
    Working,
}

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
    /// Whether the engine's loop comes round.
    pub pulse: Pulse,
    phase: AtomicU8,
}

impl Stats {
    /// What the engine is at.
    pub fn phase(&self) -> Phase {
        let phase = self.phase.load(Relaxed);
        let phases = [Phase::Starting, Phase::Reaching, Phase::StandingBy, Phase::Restoring, Phase::Working];
        phases.into_iter().find(|known| *known as u8 == phase).unwrap_or_default()
    }

    /// The engine is at something else now.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.turn();
    }

    /// The engine's loop has come round.
    pub fn turn(&self) {
        self.pulse.turn();
    }

    /// Waits for what ends by itself, such as an answer with a time-out. To wait is not to be stuck.
    pub async fn waiting<T>(&self, what: impl Future<Output = T>) -> T {
        tokio::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                () = tokio::time::sleep(TURN_EVERY) => self.turn(),
            }
        }
    }

    /// Logs the counters once, without a rate.
    pub fn tell(&self) {
        info!(event = "progress_reported", "{}, {}", self.workers(), self.results());
    }

    pub fn workers(&self) -> String {
        let (submitted, completed) = (self.submitted.load(Relaxed), self.completed.load(Relaxed));
        format!("submitted: {submitted}, completed: {completed}, backlog: {}", submitted.saturating_sub(completed))
    }

    pub fn results(&self) -> String {
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
        info!(event = "progress_reported", "{}, rate: {rate:.0}/s, {}", stats.workers(), stats.results());
    }
}
