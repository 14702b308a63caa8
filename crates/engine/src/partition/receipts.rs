//! Receipts: what status reports show of the active generation, written with the next step after a change.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::quarantine::Quarantines;
use crate::plugin::DetectorSpec;
use tickhound_core::{
    receipt::{DetectorReceipt, RejectedChange},
    wall::now_ms,
};

/// How often a receipt is written while only its counters change.
const RECEIPT_EVERY: Duration = Duration::from_secs(2);

/// A feed names most of its symbols within its first thousand ticks, unless it has very many.
const TICKS_MIN: u64 = 1000;

/// The same for a feed of very many symbols.
const TICKS_PER_SYMBOL: u64 = 10;

/// What the next receipt says beside the detectors, and when it is due.
#[derive(Default)]
pub(super) struct Receipts {
    /// Since when the generation is active, in milliseconds since the Unix epoch.
    pub(super) since_ms: u64,
    /// How long a worker paused at most to activate it.
    pub(super) pause: Duration,
    /// Why the newest generation was rejected, if it was.
    pub(super) rejected: Option<RejectedChange>,
    /// A receipt that is not written yet.
    text: Option<Arc<str>>,
    due: Option<Instant>,
    /// How many conditions had begun or ended when the last receipt was made.
    conditions: u64,
}

impl Receipts {
    /// Makes a receipt due with the next step.
    pub(super) fn changed(&mut self) {
        self.due = Some(Instant::now());
    }

    /// Notes that a generation was activated.
    pub(super) fn activated(&mut self, pause: Duration) {
        self.since_ms = now_ms();
        self.pause = pause;
        self.rejected = None;
        self.changed();
    }

    /// Whether a new receipt is due. `conditions` is how many conditions have begun or ended.
    pub(super) fn is_due(&self, conditions: u64) -> bool {
        self.conditions != conditions || self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Sets the receipt that is written with the next step.
    pub(super) fn set(&mut self, text: Arc<str>, conditions: u64) {
        self.conditions = conditions;
        self.text = Some(text);
        self.due = None;
    }

    /// The receipt to write with the next step, if there is one.
    pub(super) fn unwritten(&self) -> Option<Arc<str>> {
        self.text.clone()
    }

    /// Notes that a step has written this receipt.
    pub(super) fn written(&mut self, receipt: &Arc<str>) {
        // A newer one may have been made since the step began.
        self.text.take_if(|newest| Arc::ptr_eq(newest, receipt));
        self.due.get_or_insert(Instant::now() + RECEIPT_EVERY);
    }
}

/// Whether so much was seen that a pattern without a match is probably a mistake. `symbols` is the number of symbols that
/// are known, `ticks` that of the ticks since the start.
pub(super) fn has_seen_enough(symbols: u64, ticks: u64) -> bool {
    ticks >= TICKS_MIN.max(symbols.saturating_mul(TICKS_PER_SYMBOL))
}

/// The part of a receipt about one detector, without its alerts. `origins` has where the states of the detectors come from.
pub(super) fn of_detector(
    spec: &DetectorSpec,
    origins: &BTreeMap<String, &'static str>,
    quarantines: &Quarantines,
) -> DetectorReceipt {
    let (faults, last_fault) = spec.health.fault_count();
    DetectorReceipt {
        name: spec.name.clone(),
        shadow_of: spec.settings.shadow_of.clone(),
        plugin: spec.plugin.manifest.name.clone(),
        version: spec.plugin.manifest.version.clone(),
        file: spec.plugin.file.display().to_string(),
        sha256: spec.plugin.sha256.clone(),
        generation: spec.generation,
        since_ms: spec.since_ms,
        state: origins.get(&spec.name).copied().unwrap_or("cold").to_owned(),
        ns_per_tick: spec.health.ns_per_tick(),
        faults,
        last_fault,
        quarantined_until_ms: quarantines.until_ms(spec),
        skipped: spec.health.skipped_ticks(),
        ..DetectorReceipt::default()
    }
}
