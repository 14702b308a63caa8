//! `[engine]`: threads, queues and checkpoints.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// The largest value of `engine.workers`. Each worker is a thread with an instance of every detector, from one to some ten
/// MiB each, and no more workers compute at once than the machine has cores.
pub const WORKERS_MAX: usize = 256;

/// The largest value of `engine.report_every`, seconds: a day, as progress that is rarer is of no use.
const REPORT_EVERY_MAX_S: u64 = 86_400;

/// The largest value of `engine.backlog`.
pub const BACKLOG_MAX: usize = 10_000_000;

/// The largest value of `engine.symbols_max`.
const SYMBOLS_MAX: usize = 10_000_000;

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
    /// The maximum number of symbols that detectors remember. Beyond it, the longest silent ones are forgotten, an eighth
    /// of the maximum at once, and begin as new symbols when they come back. The default exceeds an options universe of
    /// 120,000; how many symbols a detector has memory for is up to `plugins.memory_max_mib`.
    pub symbols_max: usize,
    /// The time between two progress lines in the log, seconds. 0: no progress lines.
    pub report_every: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { workers: 0, backlog: 2000, checkpoint_every_ms: 5000, symbols_max: 200_000, report_every: 5 }
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
        section.check_limit(
            "workers",
            self.workers,
            0..=WORKERS_MAX,
            "each worker is a thread with an instance of every detector, and more workers than cores gain nothing; 0 = one per \
             core",
        )?;
        section.check_range("report_every", self.report_every, 0..=REPORT_EVERY_MAX_S)?;
        section.check_range("checkpoint_every_ms", self.checkpoint_every_ms, 10..=3_600_000)?;
        section.check_range("symbols_max", self.symbols_max, 1..=SYMBOLS_MAX)?;
        section.check_range("backlog", self.backlog, 1..=BACKLOG_MAX)
    }
}
