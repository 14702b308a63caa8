//! `[history]`: ticks from before the stream, in files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[history]`: the files that detectors without a state are warmed up with before the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// The folder of daily files, relative to the project root; `tickhound record` writes them. A folder that is missing has
    /// none yet. Empty: none.
    pub dir: PathBuf,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { dir: "history".into() }
    }
}
