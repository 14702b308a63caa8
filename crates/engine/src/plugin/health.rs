//! The health of a detector in all shards together: its cost, its faults, and whether it is in quarantine.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The health of one detector, shared by its instances.
#[derive(Debug, Default)]
pub struct Health {
    quarantined: AtomicBool,
    ticks: AtomicU64,
    skipped: AtomicU64,
    spent_ns: AtomicU64,
    faults: Mutex<FaultLog>,
}

#[derive(Debug, Default)]
struct FaultLog {
    /// The faults within the fault window.
    recent: Vec<Instant>,
    total: u64,
    last: Option<String>,
}

impl Health {
    /// Returns whether the detector is in quarantine, where it gets no ticks.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Relaxed)
    }

    /// Records a fault, and returns whether the detector is in quarantine now. That is the case after more than
    /// `tolerated` faults within `window`, in all shards together.
    pub(crate) fn record_fault(&self, fault: &str, tolerated: usize, window: Duration) -> bool {
        let now = Instant::now();
        let mut faults = self.faults();
        faults.recent.retain(|at| now.duration_since(*at) < window);
        faults.recent.push(now);
        faults.total += 1;
        faults.last = Some(fault.to_owned());
        self.quarantined.fetch_or(faults.recent.len() > tolerated, Relaxed);
        self.is_quarantined()
    }

    /// Records a successful call.
    pub(crate) fn record_call(&self, ticks: usize, took: Duration) {
        self.ticks.fetch_add(ticks as u64, Relaxed);
        self.spent_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// Records ticks that the detector did not get because it was in quarantine.
    pub(crate) fn record_skipped(&self, ticks: usize) {
        self.skipped.fetch_add(ticks as u64, Relaxed);
    }

    /// Returns the number of ticks that the detector did not get.
    pub fn skipped_ticks(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Returns the number of faults so far, and the message of the last one.
    pub fn fault_count(&self) -> (u64, Option<String>) {
        let faults = self.faults();
        (faults.total, faults.last.clone())
    }

    /// Returns the number of rows in successful calls.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    /// Returns the time spent in successful calls in all shards, ns.
    pub fn spent_ns(&self) -> u64 {
        self.spent_ns.load(Relaxed)
    }

    /// Returns the mean cost of a tick, ns; `None` before the first.
    pub fn ns_per_tick(&self) -> Option<u64> {
        self.spent_ns.load(Relaxed).checked_div(self.ticks.load(Relaxed))
    }

    fn faults(&self) -> MutexGuard<'_, FaultLog> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
