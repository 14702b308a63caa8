//! Whether the host moves: counted by the engine's loop and by waits of the host's end, read by those who vouch for it.
//!
//! What holds: the pulse stands still when the host is stuck, and only then. Waits that end by themselves (for ticks,
//! for the next attempt to reach the server, for the last notifications and the alerts file) keep it going.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The pulse of one engine; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Turns>);

#[derive(Debug)]
struct Turns {
    since: Instant,
    count: AtomicU64,
    /// When the loop last came round, ms after `since`.
    last_ms: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Self { since: Instant::now(), count: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// The loop has come round, or a wait that ends by itself goes on.
    pub fn turn(&self) {
        self.0.last_ms.store(self.0.since.elapsed().as_millis() as u64, Relaxed);
        self.0.count.fetch_add(1, Relaxed);
    }

    /// How often the loop has come round.
    pub fn turns(&self) -> u64 {
        self.0.count.load(Relaxed)
    }

    /// How long ago the loop last came round.
    pub fn still_for(&self) -> Duration {
        self.0.since.elapsed().saturating_sub(Duration::from_millis(self.0.last_ms.load(Relaxed)))
    }
}
