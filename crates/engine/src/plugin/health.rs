//! How a detector is doing, in all shards together: what it costs, how often it failed, and whether
//! it is given ticks at all.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Of one detector, shared by its instances.
#[derive(Debug, Default)]
pub struct Health {
    quarantined: AtomicBool,
    ticks: AtomicU64,
    skipped: AtomicU64,
    spent_ns: AtomicU64,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    lately: Vec<Instant>,
    all: u64,
    last: Option<String>,
}

impl Health {
    /// Whether it is given no ticks.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Relaxed)
    }

    /// Takes note of a fault. Whether the detector is in quarantine from now on: it was one too many, that
    /// is more than `most` within `window`, in this shard or another.
    pub fn failed(&self, fault: &str, most: usize, window: Duration) -> bool {
        let now = Instant::now();
        let mut faults = self.faults();
        faults.lately.retain(|at| now.duration_since(*at) < window);
        faults.lately.push(now);
        faults.all += 1;
        faults.last = Some(fault.to_owned());
        self.quarantined.fetch_or(faults.lately.len() > most, Relaxed);
        self.is_quarantined()
    }

    /// Takes note of a call that went well.
    pub fn worked(&self, ticks: usize, took: Duration) {
        self.ticks.fetch_add(ticks as u64, Relaxed);
        self.spent_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// Takes note of ticks that it was not given, being in quarantine.
    pub fn skipped(&self, ticks: usize) {
        self.skipped.fetch_add(ticks as u64, Relaxed);
    }

    /// Ticks that it was not given.
    pub fn skipped_ticks(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Faults so far, and what the last one said.
    pub fn fault_count(&self) -> (u64, Option<String>) {
        let faults = self.faults();
        (faults.all, faults.last.clone())
    }

    /// Rows that it has worked.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    /// Time that this took, ns, all workers together.
    pub fn spent_ns(&self) -> u64 {
        self.spent_ns.load(Relaxed)
    }

    /// What a tick costs, ns; `None` before the first.
    pub fn ns_per_tick(&self) -> Option<u64> {
        self.spent_ns.load(Relaxed).checked_div(self.ticks.load(Relaxed))
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
