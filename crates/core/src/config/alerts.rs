//! `[alerts]` and `[dead_letters]`: where alerts and dead letters go.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// `[alerts]`: where alerts go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// The Redis Stream that receives alerts, in the transaction that acknowledges their entries. Each consumer group
    /// needs its own.
    pub stream: String,
    /// The approximate number of alerts that the stream retains. 0: all.
    pub maxlen: usize,
    /// The time from an entry's arrival to its alert after which the alert is marked as stale, ms. 0: never. The
    /// default of a minute exceeds every pause of a busy day, and an intraday alert that is older is worth little.
    pub stale_after_ms: u64,
    /// The Redis Stream that receives the alerts of shadows. It retains `maxlen` alerts, too.
    pub shadow_stream: String,
    /// Whether each alert writes a `DETECTED` line to the log.
    pub log: bool,
    /// Whether stale alerts write that line, too. Otherwise the log only counts them.
    pub log_stale: bool,
    /// The file that receives a JSON line for each alert, relative to the project root. Empty: no file.
    pub jsonl: PathBuf,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            stream: "alerts:intraday".into(),
            shadow_stream: "alerts:intraday:shadow".into(),
            maxlen: 100_000,
            stale_after_ms: 60_000,
            log: true,
            log_stale: false,
            jsonl: PathBuf::new(),
        }
    }
}

impl AlertsConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["alerts"]);
        section.check_not_empty("stream", &self.stream)?;
        section.check_not_empty("shadow_stream", &self.shadow_stream)
    }
}

/// `[dead_letters]`: entries and ticks that can't be processed, with the reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The approximate number of dead letters that the stream retains. 0: all.
    pub maxlen: usize,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self { maxlen: 100_000 }
    }
}
