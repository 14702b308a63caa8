//! `[record]`: how `tickhound record` writes the files of `[history]`.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// `[record]`: how `tickhound record` writes the files of `[history]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordConfig {
    /// How many days a file is kept, the present one included. 0: for ever. The default holds the sessions of a month, and
    /// `plugins.rewarm_sessions` needs a week of them.
    pub keep_days: u32,
    /// How much room the recorder leaves on its disk, MiB. Below it, nothing is written: a full disk would also stop the
    /// server's append-only file, and all else that is on it.
    pub free_min_mib: u64,
    /// The log of `record --background`, relative to the project root. It is rotated as `[service]` says.
    pub log_file: PathBuf,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { keep_days: 30, free_min_mib: 1024, log_file: "logs/record.log".into() }
    }
}

impl RecordConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["record"]);
        section.check_range("keep_days", self.keep_days, 0..=36_500)?;
        section.check_range("free_min_mib", self.free_min_mib, 0..=1_000_000_000)?;
        section.check_file("log_file", &self.log_file)
    }
}
