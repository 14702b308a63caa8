//! What runs now, and since when: the answer to "did my reload work?".
//!
//! The host writes it beside the stream whenever something changes; `tickhound status` reads it.

use serde::{Deserialize, Serialize};

/// Of one host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    /// When it was written, ms since the Unix epoch.
    pub at_ms: u64,
    /// Number of the set of plugins and settings in force; counts from the host's start.
    pub generation: u64,
    /// Since when it is in force, ms since the Unix epoch.
    pub since_ms: u64,
    /// Longest that a worker paused to take it up, us.
    pub pause_us: u64,
    /// Each enabled detector.
    pub detectors: Vec<DetectorReceipt>,
    /// Detectors that are being shown what the stream holds before they take over.
    pub warming: Vec<String>,
    /// The last change that was refused.
    pub refusal: Option<RejectedChange>,
    /// Keys of the configuration that were changed and are read at the start only.
    pub needs_restart: Vec<String>,
}

/// Of one detector.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DetectorReceipt {
    /// As in `[detectors.NAME]`.
    pub name: String,
    /// The detector that it is a shadow of; empty if it is live.
    pub shadow_of: String,
    /// Name of its plugin, as the plugin has it.
    pub plugin: String,
    /// Version of the plugin.
    pub version: String,
    /// The plugin's file.
    pub file: String,
    /// SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// Generation that it came with as it is.
    pub generation: u64,
    /// Since when it is as it is, ms since the Unix epoch.
    pub since_ms: u64,
    /// Where its state came from then: `carried` from the one before, `restored` at the host's start,
    /// `rewarmed` from the stream's history, or `cold`.
    pub state: String,
    /// What a tick costs, ns.
    pub ns_per_tick: Option<u64>,
    /// Calls that did not end well.
    pub faults: u64,
    /// What the last of them said.
    pub last_fault: Option<String>,
    /// When it is tried again, ms since the Unix epoch; `None` if it is not in quarantine.
    pub quarantined_until_ms: Option<u64>,
    /// Ticks that it was not given meanwhile.
    pub skipped: u64,
}

/// A change that was not taken up: the generation before stays in force, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectedChange {
    /// When, ms since the Unix epoch.
    pub at_ms: u64,
    /// What was wrong, with its place, and what to do.
    pub reason: String,
    /// Whether it still is: no later change was taken up.
    pub standing: bool,
}
