//! The receipt of a host: which plugins and settings are in force, and since when.
//!
//! The host writes it beside the stream whenever something changes, and `tickhound status` reads it.

use serde::{Deserialize, Serialize};

use crate::{condition::Condition, stream::LeftOut};

/// What one host runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    /// When the receipt was written, ms since the Unix epoch.
    pub at_ms: u64,
    /// The number of the generation, which is a set of plugins and settings, in force. It counts from the host's start.
    pub generation: u64,
    /// When that generation came into force, ms since the Unix epoch.
    pub since_ms: u64,
    /// The longest pause of a worker when the generation came into force, us.
    pub pause_us: u64,
    /// The number of symbols that the host knows.
    pub symbols: u64,
    /// The enabled detectors.
    pub detectors: Vec<DetectorReceipt>,
    /// The names of detectors that are warming up before they come into force.
    pub warming: Vec<String>,
    /// The last change that was rejected.
    #[serde(rename = "refusal")]
    pub rejection: Option<RejectedChange>,
    /// The keys of the configuration that were changed and take effect after a restart.
    pub needs_restart: Vec<String>,
    /// What detectors know of the market beside the ticks of one symbol.
    #[serde(skip_serializing_if = "MarketReceipt::is_empty")]
    pub market: MarketReceipt,
    /// What is wrong with the feed or the host, the gravest first.
    pub conditions: Vec<Condition>,
    /// When the host or the owner before it committed the last tick, ms since the Unix epoch; `None` if none has.
    pub last_tick_ms: Option<u64>,
}

/// The reference data, groups and contexts in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MarketReceipt {
    /// The SHA-256 of the reference data, hexadecimal; empty if there is none.
    pub reference: String,
    /// The number of its rows.
    pub rows: u64,
    /// The families of groups that the configuration defines.
    pub groups: Vec<String>,
    /// The names of contexts.
    pub contexts: Vec<String>,
}

impl MarketReceipt {
    /// Whether there is none of these.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one detector runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DetectorReceipt {
    /// The name of the detector, as in `[detectors.NAME]`.
    pub name: String,
    /// The detector that this one shadows; empty if this one is live.
    pub shadow_of: String,
    /// The name of its plugin, as the plugin's manifest has it.
    pub plugin: String,
    /// The version of the plugin.
    pub version: String,
    /// The file of the plugin.
    pub file: String,
    /// The SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// The generation in which this plugin and these settings came into force.
    pub generation: u64,
    /// When they came into force, ms since the Unix epoch.
    pub since_ms: u64,
    /// The origin of its state: `carried` over from its predecessor, `restored` at the host's start, `rewarmed` from
    /// the stream's history, or `cold`.
    pub state: String,
    /// How many sessions of `history.dir` it was warmed up with before the stream; 0 if there were none, or its state has
    /// another origin.
    pub rewarmed_sessions: u32,
    /// The time that a tick takes, ns; `None` before it is measured.
    pub ns_per_tick: Option<u64>,
    /// The number of calls that failed.
    pub faults: u64,
    /// The message of the last failure.
    pub last_fault: Option<String>,
    /// When its quarantine ends, ms since the Unix epoch; `None` if it is not quarantined.
    pub quarantined_until_ms: Option<u64>,
    /// The number of ticks that it did not see while quarantined.
    pub skipped: u64,
    /// The number of its alerts that this host has committed.
    pub alerts: u64,
    /// The number of its detections that did not become alerts, by reason.
    pub left_out: LeftOut,
    /// Those of its patterns that match no symbol, once the host has seen enough to say so.
    pub unmatched: Vec<String>,
}

impl DetectorReceipt {
    /// The origin of its state as people see it, such as `rewarmed, 5 sessions`.
    pub fn state_text(&self) -> String {
        match self.rewarmed_sessions {
            0 => self.state.clone(),
            1 => format!("{}, 1 session", self.state),
            sessions => format!("{}, {sessions} sessions", self.state),
        }
    }
}

/// A change that was rejected, so that the previous generation as a whole stays in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectedChange {
    /// When the change was rejected, ms since the Unix epoch.
    pub at_ms: u64,
    /// What is wrong, where, and what to do.
    pub reason: String,
    /// Whether no later change has come into force.
    #[serde(rename = "standing")]
    pub is_current: bool,
}
