//! From one generation to the next while ticks flow, and the receipts that tell of it.
//!
//! A change comes to the shards as a task between two batches, at the same place of the stream in
//! each, and right behind it all states are saved: what was processed before a change is never re-read
//! by what came with it. A detector that would come without a state is first warmed up in the
//! background; until then everything stays as it was.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{Engine, warm::Warming};
use crate::{
    commit::Flight,
    plugin::{DetectorSpec, Generation, Reload},
    shard::{Came, Faulted, Task, Warmed, Worked},
    sink::Sinks,
};
use tickhound_core::{
    checkpoint::CHUNKS,
    receipt::{DetectorReceipt, Receipt, RejectedChange},
    stream::{Acquisition, Stream, StreamError},
    wall::now_ms,
};

/// First and longest time that a detector is in quarantine; each time twice as long.
const QUARANTINE_MIN: Duration = Duration::from_secs(30);
const QUARANTINE_MAX: Duration = Duration::from_secs(3600);

/// How often a receipt is written while nothing but its counters changes.
const RECEIPT_EVERY: Duration = Duration::from_secs(2);

/// What is known of the detectors in force, beside what they do.
#[derive(Default)]
pub(super) struct Standing {
    /// Where the state of each came from.
    came: BTreeMap<String, &'static str>,
    /// Detectors that do not know what they should, and at which read that was last seen. Until they have warmed up
    /// they do not count as complete: a host that starts meanwhile has to warm them up too.
    incomplete: BTreeMap<String, u64>,
    quarantines: BTreeMap<String, Quarantine>,
    /// Incomplete detectors that are to be warmed up.
    lacking: Vec<String>,
    since_ms: u64,
    pause: Duration,
    /// Why the newest generation is not in force, though it was offered.
    refusal: Option<RejectedChange>,
    receipt: Option<Arc<str>>,
    receipt_due: Option<Instant>,
}

struct Quarantine {
    spec: Arc<DetectorSpec>,
    times: u32,
    until: Instant,
    until_ms: u64,
    /// It is being tried again.
    probing: bool,
}

impl<S: Stream> Engine<S> {
    /// Begins with the newest generation; what it is to have but has no saved state comes later.
    pub(super) fn begin_generation(&mut self, acquired: &Acquisition) {
        self.warming = None;
        self.target = self.reloads.borrow_and_update().generation.clone();
        let worked = acquired.newest.is_some();
        // Releases that wrote no such list saved everything.
        let warms = worked && acquired.complete.is_some() && self.config.plugins.rewarm_s > 0;
        let known = acquired.complete.as_ref();
        let is_known =
            |spec: &&Arc<DetectorSpec>| known.and_then(|known| known.get(&spec.name)) == Some(&spec.schema());
        let (with, cold): (Vec<_>, Vec<_>) = self.target.detectors.iter().partition(|spec| !warms || is_known(spec));
        let with: Vec<Arc<DetectorSpec>> = with.into_iter().cloned().collect();
        let cold: Vec<Arc<DetectorSpec>> = cold.into_iter().cloned().collect();
        self.standing.came.clear();
        self.standing.incomplete.clear();
        self.standing.lacking.clear();
        for spec in &with {
            let came = if worked && is_known(&spec) { "restored" } else { "cold" };
            self.standing.came.insert(spec.name.clone(), came);
        }
        self.standing.since_ms = now_ms();
        self.standing.changed();
        self.generation = match cold.is_empty() {
            true => self.target.clone(),
            false => Arc::new(self.target.with(with)),
        };
        self.cold = cold;
    }

    /// Takes up what has changed since it was last asked.
    ///
    /// # Errors
    /// When the server does not tell what a warm-up must know; it is asked again after a while.
    pub(super) async fn take_up_changes(&mut self) -> Result<(), StreamError> {
        if self.reloads.has_changed().unwrap_or(false) {
            let generation = self.reloads.borrow_and_update().generation.clone();
            self.standing.changed();
            if generation.number != self.target.number {
                self.change_to(generation).await;
            }
        }
        if let Some(warming) = &self.warming {
            warming.note(self.position.newest());
            if warming.is_close() {
                self.finish_warming().await;
            }
        }
        if self.warming.is_none() && self.cold.is_empty() {
            self.bring_back().await;
        }
        if !self.cold.is_empty() && self.warm_at <= Instant::now() {
            self.warm().await?;
        }
        Ok(())
    }

    /// Brings back detectors that lack their states, all at once, or one whose quarantine is over.
    async fn bring_back(&mut self) {
        let Standing { lacking, incomplete, .. } = &mut self.standing;
        let lacking = std::mem::take(lacking);
        // What was warmed up meanwhile for another reason lacks nothing any more.
        let lacks = |spec: &&Arc<DetectorSpec>| lacking.contains(&spec.name) && incomplete.contains_key(&spec.name);
        let lacks = |spec: &&Arc<DetectorSpec>| lacks(spec) && !spec.health.is_quarantined();
        self.cold = self.generation.detectors.iter().filter(lacks).cloned().collect();
        if !self.cold.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut quarantines = self.standing.quarantines.values_mut();
        let Some(quarantine) = quarantines.find(|quarantine| quarantine.until <= now && !quarantine.probing) else {
            return;
        };
        quarantine.probing = true;
        let name = quarantine.spec.name.clone();
        let Some(index) = self.target.detectors.iter().position(|spec| Arc::ptr_eq(spec, &quarantine.spec)) else {
            self.standing.quarantines.remove(&name);
            return;
        };
        info!(event = "quarantine_ended", detector = %name, "the quarantine is over; trying the detector again");
        let mut detectors = self.target.detectors.clone();
        let healed = Arc::new(detectors[index].healed());
        quarantine.spec = healed.clone();
        detectors[index] = healed.clone();
        self.target = Arc::new(self.target.with(detectors));
        match self.config.plugins.rewarm_s {
            0 => self.swap(self.target.clone(), Vec::new()).await,
            _ => self.cold = vec![healed],
        }
    }

    async fn change_to(&mut self, target: Arc<Generation>) {
        let lacks_state = |spec: &&Arc<DetectorSpec>| {
            let now = self.generation.detectors.iter().find(|now| now.name == spec.name);
            let goes_on = |now: &Arc<DetectorSpec>| now.schema() == spec.schema() && !now.health.is_quarantined();
            !now.is_some_and(goes_on) || self.standing.incomplete.contains_key(&spec.name)
        };
        let cold: Vec<Arc<DetectorSpec>> = target.detectors.iter().filter(lacks_state).cloned().collect();
        self.target = target;
        self.warming = None;
        self.cold.clear();
        if cold.is_empty() || self.config.plugins.rewarm_s == 0 || self.totals.commits == 0 {
            self.swap(self.target.clone(), Vec::new()).await;
        } else {
            self.cold = cold;
        }
    }

    /// From the next batch on.
    pub(super) async fn swap(&mut self, generation: Arc<Generation>, warmed: Vec<Vec<Warmed>>) {
        if generation.alerts != self.generation.alerts {
            self.sinks = Sinks::new(&generation.alerts);
        }
        self.generation = generation;
        self.reads += 1;
        self.flights.push_back(Flight::swap(self.reads, self.shards.len(), self.place()));
        let mut warmed = warmed.into_iter();
        for shard in &self.shards {
            let (read, generation, warmed) = (self.reads, self.generation.clone(), warmed.next().unwrap_or_default());
            let seen = warmed.first().into_iter().flat_map(Warmed::symbols);
            let symbols = seen.filter_map(|name| Some((self.ingest.meet(name)?, name.clone()))).collect();
            shard.submit(Task::Swap { read, generation, symbols, warmed }).await;
        }
        // Nothing after the change is committed before every boundary lies at it.
        self.visit(0..CHUNKS).await;
    }

    /// Every shard has taken up a generation, and saved what it knows; that took `pause`.
    pub(super) fn swapped(&mut self, flight: &Flight, pause: Duration) {
        let Standing { came, incomplete, lacking, quarantines, .. } = &mut self.standing;
        let names: Vec<&String> = flight.generation.detectors.iter().map(|spec| &spec.name).collect();
        came.retain(|name, _| names.contains(&name));
        incomplete.retain(|name, _| names.contains(&name));
        for (spec, now) in flight.generation.detectors.iter().zip(&flight.came) {
            let came_from = match now {
                Came::Kept => continue,
                Came::Carried => "carried",
                Came::Rewarmed => "rewarmed",
                Came::Cold => "cold",
            };
            // What was lacking then, the new one does not lack; what it lacks itself has been seen since.
            match incomplete.get(&spec.name) {
                Some(seen) if *now == Came::Carried || *seen >= flight.read() => {
                    if self.config.plugins.rewarm_s > 0 && !lacking.contains(&spec.name) {
                        lacking.push(spec.name.clone());
                    }
                }
                _ => drop(incomplete.remove(&spec.name)),
            }
            came.insert(spec.name.clone(), came_from);
            quarantines.retain(|name, quarantine| *name != spec.name || Arc::ptr_eq(&quarantine.spec, spec));
        }
        self.stats.monitor.swaps.fetch_add(1, Relaxed);
        self.standing.since_ms = now_ms();
        self.standing.refusal = None;
        self.standing.pause = pause;
        self.standing.changed();
        let detectors: Vec<String> = flight
            .generation
            .detectors
            .iter()
            .map(|spec| {
                format!("{} {} ({})", spec.name, spec.plugin.manifest.version, self.standing.came_from(&spec.name))
            })
            .collect();
        let pause_us = pause.as_micros() as u64;
        info!(
            event = "generation_activated",
            generation = flight.generation.number,
            pause_us,
            "active detectors: {}",
            detectors.join(", ")
        );
    }

    /// The detectors whose states are all saved with the next visit.
    pub(super) fn complete(&self, generation: &Generation) -> Vec<(String, u64)> {
        let incomplete = &self.standing.incomplete;
        let saved = generation.detectors.iter();
        let saved = saved.filter(|spec| !incomplete.contains_key(&spec.name) && !spec.health.is_quarantined());
        saved.map(|spec| (spec.name.clone(), spec.schema())).collect()
    }

    pub(super) fn note_faults(&mut self, worked: &Worked, generation: &Generation) {
        for Faulted { detector, entry, fault, quarantined } in &worked.faulted {
            let spec = &generation.detectors[usize::from(*detector)];
            let now = Instant::now();
            self.standing.changed();
            match entry {
                Some(_) => {
                    warn!(
                        event = "detector_failed_on_tick",
                        detector = %spec.name,
                        %fault,
                        "a detector failed on a tick; the tick is dead-lettered for this detector, which continues"
                    );
                }
                None => warn!(
                    event = "detector_recovered",
                    detector = %spec.name,
                    %fault,
                    "a detector failed; restored its state from before the fault"
                ),
            }
            if *quarantined {
                let before = self.standing.quarantines.get(&spec.name);
                let before = before.filter(|before| Arc::ptr_eq(&before.spec, spec));
                if before.is_some_and(|before| !before.probing) {
                    // Another shard was in the middle of it.
                    continue;
                }
                let times = before.map_or(0, |before| before.times);
                let wait = QUARANTINE_MIN.saturating_mul(1 << times.min(16)).min(QUARANTINE_MAX);
                warn!(
                    event = "detector_quarantined",
                    detector = %spec.name,
                    wait_s = wait.as_secs(),
                    "a detector exceeded its fault budget (plugins.faults); it is quarantined and receives no ticks \
                     for now"
                );
                let until_ms = now_ms() + wait.as_millis() as u64;
                let (spec, until) = (spec.clone(), now + wait);
                let quarantine = Quarantine { spec, times: times + 1, until, until_ms, probing: false };
                self.standing.quarantines.insert(quarantine.spec.name.clone(), quarantine);
            }
        }
        self.note_lacks(worked.read, &worked.cold, generation);
    }

    /// Takes note of detectors, by index, that have found at a read that they lack a state.
    pub(super) fn note_lacks(&mut self, read: u64, cold: &[(u16, String)], generation: &Generation) {
        for (detector, reason) in cold {
            let name = &generation.detectors[usize::from(*detector)].name;
            warn!(
                event = "state_missing",
                detector = %name,
                %reason,
                "detector state is missing (plugins.rewarm_s says whether it warms up again)"
            );
            self.lacks(name, read);
        }
    }

    /// A detector does not know what it should, as was seen at this read.
    pub(super) fn lacks(&mut self, name: &str, read: u64) {
        self.standing.came.insert(name.to_owned(), "cold");
        self.standing.changed();
        let before = self.standing.incomplete.insert(name.to_owned(), read);
        if before.is_none() && self.config.plugins.rewarm_s > 0 {
            self.standing.lacking.push(name.to_owned());
        }
    }

    /// A warm-up ended with a fault: what is in force stays so.
    pub(super) fn refuse_warmed(&mut self, names: &[String], reason: &str) {
        warn!(
            event = "warm_up_failed",
            detectors = names.join(", "),
            reason,
            "the warm-up failed; the active detectors stay as they are"
        );
        let at_ms = now_ms();
        let reason = format!("{} could not be warmed up: {reason}", names.join(", "));
        self.standing.refusal = Some(RejectedChange { at_ms, reason, standing: true });
        let now = Instant::now();
        for quarantine in self.standing.quarantines.values_mut().filter(|q| names.contains(&q.spec.name)) {
            let wait = QUARANTINE_MIN.saturating_mul(1 << quarantine.times.min(16)).min(QUARANTINE_MAX);
            quarantine.times += 1;
            quarantine.probing = false;
            (quarantine.until, quarantine.until_ms) = (now + wait, now_ms() + wait.as_millis() as u64);
        }
        self.standing.changed();
    }

    /// What is to be written for onlookers with the next step, if anything.
    pub(super) fn receipt(&mut self) -> Option<Arc<str>> {
        if self.standing.receipt_due.is_some_and(|due| due <= Instant::now()) {
            self.standing.receipt = Some(self.write_receipt());
            self.standing.receipt_due = None;
        }
        self.standing.receipt.clone()
    }

    /// A step with this receipt has happened.
    pub(super) fn receipt_written(&mut self, receipt: &Arc<str>) {
        self.standing.receipt.take_if(|newest| Arc::ptr_eq(newest, receipt));
        self.standing.receipt_due.get_or_insert(Instant::now() + RECEIPT_EVERY);
    }

    fn write_receipt(&self) -> Arc<str> {
        let Reload { refusal, needs_restart, .. } = self.reloads.borrow().clone();
        let receipt = Receipt {
            at_ms: now_ms(),
            generation: self.generation.number,
            since_ms: self.standing.since_ms,
            pause_us: self.standing.pause.as_micros() as u64,
            detectors: self.generation.detectors.iter().map(|spec| self.standing.receipt_of(spec)).collect(),
            warming: self.warming.as_ref().map_or_else(Vec::new, Warming::names),
            refusal: self.standing.refusal.clone().or(refusal),
            needs_restart,
        };
        let text = serde_json::to_string(&receipt).unwrap_or_default().into();
        self.stats.monitor.told(receipt, &self.generation);
        text
    }
}

/// What each detector is, that states are made by from now on.
pub(super) fn made_by(generation: &Generation) -> Vec<(String, u64)> {
    generation.detectors.iter().map(|spec| (spec.name.clone(), spec.fingerprint())).collect()
}

impl Standing {
    /// Onlookers are told with the next step.
    pub(super) fn changed(&mut self) {
        self.receipt_due = Some(Instant::now());
    }

    fn came_from(&self, detector: &str) -> &'static str {
        self.came.get(detector).copied().unwrap_or("cold")
    }

    fn receipt_of(&self, spec: &DetectorSpec) -> DetectorReceipt {
        let (faults, last_fault) = spec.health.fault_count();
        let quarantine = self.quarantines.get(&spec.name).filter(|_| spec.health.is_quarantined());
        DetectorReceipt {
            name: spec.name.clone(),
            shadow_of: spec.settings.shadow_of.clone(),
            plugin: spec.plugin.manifest.name.clone(),
            version: spec.plugin.manifest.version.clone(),
            file: spec.plugin.file.display().to_string(),
            sha256: spec.plugin.sha256.clone(),
            generation: spec.generation,
            since_ms: spec.since_ms,
            state: self.came_from(&spec.name).to_owned(),
            ns_per_tick: spec.health.ns_per_tick(),
            faults,
            last_fault,
            quarantined_until_ms: quarantine.map(|quarantine| quarantine.until_ms),
            skipped: spec.health.skipped_ticks(),
        }
    }
}
