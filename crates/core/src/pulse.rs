//! The pulse of a host: whether its engine loop still runs, for health checks.
//!
//! What holds: the pulse stops when the host is stuck, and only then. Waits that end by themselves (for ticks, for the next
//! attempt to connect, for the last notifications and the alerts file at the host's end) keep it going.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The pulse of one engine. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<LoopTurns>);

#[derive(Debug)]
struct LoopTurns {
    since: Instant,
    count: AtomicU64,
    /// The time of the last turn, ms after `since`.
    last_ms: AtomicU64,
}

impl Default for LoopTurns {
    fn default() -> Self {
        Self { since: Instant::now(), count: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Notes a turn of the loop, or of a wait that ends by itself.
    pub fn turn(&self) {
        self.0.last_ms.store(self.0.since.elapsed().as_millis() as u64, Relaxed);
        self.0.count.fetch_add(1, Relaxed);
    }

    /// The number of turns.
    pub fn turns(&self) -> u64 {
        self.0.count.load(Relaxed)
    }

    /// The time since the last turn.
    pub fn still_for(&self) -> Duration {
        self.0.since.elapsed().saturating_sub(Duration::from_millis(self.0.last_ms.load(Relaxed)))
    }
}
