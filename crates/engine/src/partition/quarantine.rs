//! Quarantines of detectors, each twice as long as the one before.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::plugin::DetectorSpec;
use tickhound_core::wall::now_ms;

/// The first quarantine of a detector: long enough that a detector which fails on each tick costs next to nothing.
const QUARANTINE_MIN: Duration = Duration::from_secs(30);

/// The longest quarantine.
const QUARANTINE_MAX: Duration = Duration::from_secs(3600);

/// The detectors in quarantine, by name.
#[derive(Default)]
pub(super) struct Quarantines(BTreeMap<String, Quarantine>);

/// The quarantine of one detector.
struct Quarantine {
    spec: Arc<DetectorSpec>,
    /// How many quarantines the detector has had, this one included.
    times: u32,
    length: Duration,
    until: Instant,
    until_ms: u64,
    /// Whether the detector is being tried again.
    probing: bool,
}

impl Quarantine {
    fn begin(spec: Arc<DetectorSpec>, before: u32) -> Self {
        let length = QUARANTINE_MIN.saturating_mul(1 << before.min(16)).min(QUARANTINE_MAX);
        let (until, until_ms) = (Instant::now() + length, now_ms() + length.as_millis() as u64);
        Self { spec, times: before + 1, length, until, until_ms, probing: false }
    }
}

impl Quarantines {
    /// Quarantines a detector that has exceeded its fault budget.
    pub(super) fn begin(&mut self, spec: &Arc<DetectorSpec>) {
        let before = self.0.get(&spec.name).filter(|before| Arc::ptr_eq(&before.spec, spec));
        if before.is_some_and(|before| !before.probing) {
            // Another shard has quarantined it already; this one was in the middle of a batch.
            return;
        }
        let quarantine = Quarantine::begin(spec.clone(), before.map_or(0, |before| before.times));
        warn!(
            event = "detector_quarantined",
            detector = %spec.name,
            wait_s = quarantine.length.as_secs(),
            "a detector exceeded its fault budget (plugins.faults); it is quarantined and receives no ticks for now"
        );
        self.0.insert(spec.name.clone(), quarantine);
    }

    /// Prolongs the quarantines of these detectors, which failed again when they were tried.
    pub(super) fn prolong(&mut self, names: &[String]) {
        for quarantine in self.0.values_mut().filter(|quarantine| names.contains(&quarantine.spec.name)) {
            *quarantine = Quarantine::begin(quarantine.spec.clone(), quarantine.times);
        }
    }

    /// Replaces a detector of `detectors` whose quarantine is over by one with a fresh fault budget, and returns that one.
    /// The quarantine stays until the new detector is active.
    pub(super) fn try_again(&mut self, detectors: &mut [Arc<DetectorSpec>]) -> Option<Arc<DetectorSpec>> {
        let now = Instant::now();
        let mut quarantines = self.0.values_mut();
        let quarantine = quarantines.find(|quarantine| quarantine.until <= now && !quarantine.probing)?;
        quarantine.probing = true;
        let name = quarantine.spec.name.clone();
        let Some(detector) = detectors.iter_mut().find(|spec| Arc::ptr_eq(spec, &quarantine.spec)) else {
            // It was changed or removed meanwhile.
            self.0.remove(&name);
            return None;
        };
        info!(event = "quarantine_ended", detector = %name, "the quarantine is over; trying the detector again");
        *detector = Arc::new(detector.without_faults());
        quarantine.spec = detector.clone();
        Some(detector.clone())
    }

    /// Ends the quarantine of a detector that another one of its name has replaced.
    pub(super) fn replaced_by(&mut self, spec: &Arc<DetectorSpec>) {
        self.0.retain(|name, quarantine| *name != spec.name || Arc::ptr_eq(&quarantine.spec, spec));
    }

    /// When the quarantine of a detector ends, in milliseconds since the Unix epoch; `None` if it is not in quarantine.
    pub(super) fn until_ms(&self, spec: &DetectorSpec) -> Option<u64> {
        self.0.get(&spec.name).filter(|_| spec.health.is_quarantined()).map(|quarantine| quarantine.until_ms)
    }
}
