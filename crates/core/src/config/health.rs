//! `[health]`: from when on a feed counts as not healthy.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// The longest silence that can be configured, seconds: a day.
const SILENT_AFTER_MAX_S: u64 = 86_400;

/// `[health]`: the limits behind the verdict of `tickhound status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// The feed counts as silent when no tick has come for this long while a session is open, seconds; 0: never. The
    /// default is far longer than any pause of a feed with a liquid instrument. Without a calendar nothing is judged,
    /// because the night is silent too.
    pub silent_after_s: u64,
    /// The share of a minute's entries that makes dead letters a condition, 0 to 1; 0: never. The default tolerates
    /// single odd entries.
    pub dead_share: f64,
    /// The share of a minute's ticks with a raised time or a repaired volume that is a condition, 0 to 1; 0: never. The
    /// default is above what a feed of several merged sources has.
    pub repaired_share: f64,
    /// The share of a minute's ticks outside of every session that is a condition, 0 to 1; 0: never. The default
    /// tolerates instruments whose session differs from that of the others.
    pub off_session_share: f64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { silent_after_s: 60, dead_share: 0.05, repaired_share: 0.1, off_session_share: 0.5 }
    }
}

impl HealthConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["health"]);
        section.check_range("silent_after_s", self.silent_after_s, 0..=SILENT_AFTER_MAX_S)?;
        section.check_range("dead_share", self.dead_share, 0.0..=1.0)?;
        section.check_range("repaired_share", self.repaired_share, 0.0..=1.0)?;
        section.check_range("off_session_share", self.off_session_share, 0.0..=1.0)
    }
}
