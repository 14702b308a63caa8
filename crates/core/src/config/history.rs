//! `[history]`: ticks from before the stream, in files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[history]`: the files that detectors without a state are warmed up with before the stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// The folder of daily files, relative to the project root; `tickhound record` writes them. Empty: none.
    pub dir: PathBuf,
}
