//! `[engine]`: threads, queues and checkpoints.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// The largest value of `engine.backlog`.
pub const BACKLOG_MAX: usize = 10_000_000;

/// `[engine]`: threads and queues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// The number of worker threads. 0: one per core.
    pub workers: usize,
    /// The maximum number of entries between read and commit. It bounds memory, and what is processed again after a
    /// crash. The default is four reads: one being read, two being processed, one being committed.
    pub backlog: usize,
    /// The usual time between two saves of a detector's state, ms. Saves are rarer where they take long, and more
    /// frequent where many ticks arrive. A shorter time means less to replay after a crash, and more to write.
    pub checkpoint_every_ms: u64,
    /// The time between two progress lines in the log, seconds. 0: no progress lines.
    pub report_every: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { workers: 0, backlog: 2000, checkpoint_every_ms: 5000, report_every: 5 }
    }
}

impl EngineConfig {
    /// The number of worker threads: as configured, or one per core.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, Into::into),
            n => n,
        }
    }

    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["engine"]);
        section.check_range("checkpoint_every_ms", self.checkpoint_every_ms, 10..=3_600_000)?;
        section.check_range("backlog", self.backlog, 1..=BACKLOG_MAX)
    }
}
