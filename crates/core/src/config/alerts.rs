//! `[alerts]` and `[dead_letters]`: where alerts and dead letters go.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// The largest value of `maxlen`: an alert takes up to a kilobyte of the server's memory.
const MAXLEN_MAX: usize = 100_000_000;

/// Why `maxlen` has a limit.
const MAXLEN_REASON: &str = "each takes up to a kilobyte of the server's memory; 0 = all";

/// The largest value of `alerts.stale_after_ms`: a month.
const STALE_AFTER_MAX_MS: u64 = 31 * 86_400_000;

/// `[alerts]`: where alerts go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// The Redis Stream that receives alerts, in the transaction that acknowledges their entries. Each consumer group
    /// needs its own.
    pub stream: String,
    /// The approximate number of alerts that the stream retains. 0: all.
    pub maxlen: usize,
    /// The number of minutes of event time whose alerts one detector can't push out of the stream: it may raise
    /// `maxlen / keep_minutes` alerts in a minute, unless its own limit says otherwise. Several such detectors together
    /// push them out sooner. 0: no limit.
    ///
    /// A limit of event time gives the same alerts live, in a replay, and after a crash. A share of the stream that depends
    /// on the other detectors would not. With the defaults it is 10,000 alerts in a minute, which is 2 for each of 5,000
    /// symbols: no detector of events comes near it, and a detector that alerts on every tick of a few symbols may do so.
    pub keep_minutes: usize,
    /// The time from an entry's arrival to its alert after which the alert is marked as stale, ms. 0: never. The
    /// default of a minute exceeds every pause of a busy day, and an intraday alert that is older is worth little.
    pub stale_after_ms: u64,
    /// The Redis Stream that receives the alerts of shadows. It retains `maxlen` alerts, too.
    pub shadow_stream: String,
    /// Whether each alert writes a `DETECTED` line to the log.
    pub log: bool,
    /// Whether that line has the direction and the price behind the confidence. Programs that parse the line may know
    /// nothing of these, hence not by default.
    pub log_details: bool,
    /// Whether stale alerts write that line, too. Otherwise the log only counts them.
    pub log_stale: bool,
    /// The file that receives a JSON line for each alert, relative to the project root. Empty: no file.
    pub jsonl: PathBuf,
    /// How an alert is written into its entry of both streams.
    pub layout: AlertsLayout,
    /// The field that holds the JSON object, if the layout is `json`.
    pub field: String,
    /// Further members of that object, by name: what readers of the stream call them.
    pub map: BTreeMap<String, MappedValue>,
}

/// How an alert is written into its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertsLayout {
    /// Each value is a field of its own.
    Fields,
    /// One field holds a JSON object.
    Json,
}

/// The value of a member that `[alerts.map]` adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, true, false, or { up = \"…\", down = \"…\", none = \"…\" }")]
pub enum MappedValue {
    /// The same for all alerts.
    Flag(bool),
    /// The same for all alerts.
    Integer(i64),
    /// The same for all alerts.
    Number(f64),
    /// A text with placeholders in braces. A single placeholder has the type of its value.
    Text(String),
    /// A word for each direction.
    Directions(DirectionWords),
}

/// A word for each direction of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectionWords {
    /// For `up`.
    pub up: String,
    /// For `down`.
    pub down: String,
    /// For `none`.
    pub none: String,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            stream: "alerts:intraday".into(),
            shadow_stream: "alerts:intraday:shadow".into(),
            maxlen: 100_000,
            keep_minutes: 10,
            stale_after_ms: 60_000,
            log: true,
            log_details: false,
            log_stale: false,
            jsonl: PathBuf::new(),
            layout: AlertsLayout::Fields,
            field: "data".into(),
            map: BTreeMap::new(),
        }
    }
}

impl AlertsConfig {
    /// Returns the maximum number of alerts in a minute of event time of a detector without a limit of its own; 0: no
    /// limit.
    pub fn max_per_minute(&self) -> u64 {
        let limited = self.maxlen > 0 && self.keep_minutes > 0;
        if limited { (self.maxlen / self.keep_minutes).max(1) as u64 } else { 0 }
    }

    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["alerts"]);
        section.check_not_empty("stream", &self.stream)?;
        section.check_limit("maxlen", self.maxlen, 0..=MAXLEN_MAX, MAXLEN_REASON)?;
        section.check_range("stale_after_ms", self.stale_after_ms, 0..=STALE_AFTER_MAX_MS)?;
        section.check_range("keep_minutes", self.keep_minutes, 0..=1440)?;
        section.check_not_empty("shadow_stream", &self.shadow_stream)?;
        section.check_not_empty("field", &self.field)?;
        ensure!(
            self.map.is_empty() || self.layout == AlertsLayout::Json,
            "{}: alerts.map adds members to a JSON object, and needs alerts.layout = \"json\"",
            section.at("map")
        );
        Ok(())
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

impl DeadLettersConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["dead_letters"]);
        section.check_limit("maxlen", self.maxlen, 0..=MAXLEN_MAX, MAXLEN_REASON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detector_has_a_share_of_each_minute_that_the_stream_keeps() {
        let share =
            |maxlen, keep_minutes| AlertsConfig { maxlen, keep_minutes, ..AlertsConfig::default() }.max_per_minute();
        assert_eq!(AlertsConfig::default().max_per_minute(), 10_000);
        assert_eq!([share(100, 60), share(5, 60)], [1, 1]);
        assert_eq!([share(0, 10), share(100_000, 0)], [0, 0], "without a limit");
    }
}
