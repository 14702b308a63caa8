//! Quarantines of detectors, each twice as long as the one before.
//!
//! What holds: a detector is recognized by what it is, and not by its `Arc`: one that is tried again is another `Arc` with
//! a fresh fault budget, and after a trial that fails the one before stays active.

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
        let before = self.0.get(&spec.name).filter(|before| before.spec.is(spec));
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
        let Some(detector) = detectors.iter_mut().find(|spec| spec.is(&quarantine.spec)) else {
            // It was changed or removed meanwhile.
            self.0.remove(&name);
            return None;
        };
        info!(event = "quarantine_ended", detector = %name, "the quarantine is over; trying the detector again");
        *detector = Arc::new(detector.without_faults());
        quarantine.spec = detector.clone();
        Some(detector.clone())
    }

    /// Notes that the detectors of `active` stay: those that were to be tried again and are still in quarantine are tried
    /// again as soon as possible.
    pub(super) fn interrupt_trials(&mut self, active: &[Arc<DetectorSpec>]) {
        for quarantine in self.0.values_mut() {
            let waits = |spec: &&Arc<DetectorSpec>| spec.is(&quarantine.spec) && spec.health.is_quarantined();
            if active.iter().any(|spec| waits(&spec)) {
                quarantine.probing = false;
            }
        }
    }

    /// Ends the quarantine of a detector that another one of its name has replaced.
    pub(super) fn replaced_by(&mut self, spec: &Arc<DetectorSpec>) {
        self.0.retain(|name, quarantine| *name != spec.name || quarantine.spec.is(spec));
    }

    /// When the quarantine of a detector ends, in milliseconds since the Unix epoch; `None` if it is not in quarantine.
    pub(super) fn until_ms(&self, spec: &DetectorSpec) -> Option<u64> {
        self.0.get(&spec.name).filter(|_| spec.health.is_quarantined()).map(|quarantine| quarantine.until_ms)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::plugin::{Generation, Isolation, Runtime};
    use tickhound_core::{config, decode::Decoder};

    /// A generation with `breakout` alone.
    pub(in crate::partition) fn generation() -> Generation {
        let loaded = config::shipped("[detectors.breakout]\nplugin = \"breakout\"").unwrap();
        let decoder = Decoder::new(&loaded.config.input, &loaded.root).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/breakout.wasm");
        let bytes = std::fs::read(&file).unwrap();
        let plugins = [("breakout", file, bytes.as_slice())];
        let runtime = Runtime::new(None, Isolation::InProcess).unwrap();
        Generation::embedded(&runtime, &loaded, decoder.column_names(), &plugins).unwrap()
    }

    fn detector() -> Arc<DetectorSpec> {
        generation().detectors[0].clone()
    }

    fn expire(quarantines: &mut Quarantines) {
        quarantines.0.values_mut().for_each(|quarantine| quarantine.until = Instant::now());
    }

    /// A detector that failed in its warm-up too was never tried again: the one that came back after that was the one from
    /// before the trial, which its quarantine did not recognize.
    #[test]
    fn a_detector_that_fails_when_it_is_tried_again_is_tried_once_more() {
        let (spec, mut quarantines) = (detector(), Quarantines::default());
        quarantines.begin(&spec);
        for times in 1..=3 {
            assert_eq!(quarantines.0["breakout"].times, times);
            assert!(quarantines.try_again(&mut [spec.clone()]).is_none(), "the quarantine is not over");
            expire(&mut quarantines);
            // What is active is still the detector from before: the trial was not a success.
            let mut detectors = [spec.clone()];
            let fresh = quarantines.try_again(&mut detectors).unwrap();
            assert!(Arc::ptr_eq(&fresh, &detectors[0]) && !Arc::ptr_eq(&fresh, &spec));
            quarantines.prolong(&["breakout".to_owned()]);
        }
    }

    #[test]
    fn a_detector_that_fails_after_it_came_back_is_quarantined_for_longer() {
        let (spec, mut quarantines) = (detector(), Quarantines::default());
        quarantines.begin(&spec);
        expire(&mut quarantines);
        let fresh = quarantines.try_again(&mut [spec.clone()]).unwrap();
        quarantines.replaced_by(&fresh);
        quarantines.begin(&fresh);
        // Another shard was in the middle of a batch.
        quarantines.begin(&fresh);
        assert_eq!(quarantines.0["breakout"].times, 2);
    }

    /// A change of the configuration in the middle of a trial drops the trial; the detector waited for ever.
    #[test]
    fn a_trial_that_is_interrupted_is_made_again() {
        let (spec, mut quarantines) = (detector(), Quarantines::default());
        while !spec.health.record_fault("it", 3, Duration::from_secs(60)) {}
        quarantines.begin(&spec);
        expire(&mut quarantines);
        assert!(quarantines.try_again(&mut [spec.clone()]).is_some());
        assert!(quarantines.try_again(&mut [spec.clone()]).is_none(), "it is being tried");
        quarantines.interrupt_trials(std::slice::from_ref(&spec));
        assert!(quarantines.try_again(&mut [spec.clone()]).is_some());
    }
}
