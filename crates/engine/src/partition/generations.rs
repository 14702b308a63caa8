//! Changes of the generation while ticks flow, and the receipts that report them.
//!
//! A change reaches the shards as a task between two batches, at the same position of the stream in each, and right behind
//! it all states are saved. A detector that would start without a state is first warmed up in the background; until then
//! the generation before stays active.
//!
//! What holds: this part decides which generation is to be active. The partition activates it, and reports back with
//! [`Generations::activated`] once every shard has done so.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    quarantine::Quarantines,
    receipts::{self, Receipts},
    warm_up::{WarmUp, WarmUpEnd, WarmUpSetup, Warmed},
};
use crate::{
    archive::Archive,
    commit::Flight,
    plugin::{DetectorSpec, Generation, Reload, watch::WatcherHandle},
    shard::{FaultReport, Incidents, StateOrigin},
    stats::Stats,
};
use tickhound_core::{
    config::Config,
    event::EntryId,
    receipt::{Receipt, RejectedChange},
    stream::{Acquisition, History},
    wall::now_ms,
};

/// How long the load of changed files may delay a start. A plugin that was never compiled here takes some tenths of a
/// second, one in an interpreted language some seconds.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The origin of a state that a warm-up has built, in receipts.
const REWARMED: &str = "rewarmed";

/// How long before the start of a host the stream of a server without any may begin: the server's clock may be behind.
const CLOCKS_DIFFER_MS: u64 = 2_000;

/// The pause before a warm-up is tried again after the server has failed.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The generations of a partition: the newest one, and what its detectors still need.
pub(super) struct Generations {
    /// The generation that is to be active. Another one is active while detectors warm up.
    target: Arc<Generation>,
    warm_up: WarmUpPhase,
    states: DetectorStates,
    quarantines: Quarantines,
    receipts: Receipts,
    /// Activations that are not committed yet: if the host were killed now, what came before them would be replayed by what
    /// came with them. Whoever reads the log must not take them for done.
    uncommitted: Vec<Activated>,
    reloads: watch::Receiver<Reload>,
    watcher: WatcherHandle,
    /// Whether detectors warm up (`plugins.rewarm_s`).
    warms_up: bool,
    /// What was before the stream, if anybody knows.
    archive: Option<Arc<dyn Archive>>,
    /// Where the stream begins for a host that has no commit before it: what is up to this entry is history.
    base: EntryId,
    stats: Arc<Stats>,
}

/// A generation to activate, with the detectors that were warmed up, if any were.
pub(super) struct Activation {
    pub(super) generation: Arc<Generation>,
    pub(super) warmed: Option<Warmed>,
}

/// A generation that every shard has activated.
struct Activated {
    number: u64,
    pause: Duration,
    /// The name, the version and the origin of the state of each detector.
    detectors: String,
}

/// Detectors of the target without a state, and how far their warm-up is.
enum WarmUpPhase {
    /// Every detector has its state.
    Idle,
    /// These detectors are to be warmed up, from this time on.
    Due(Vec<Arc<DetectorSpec>>, Instant),
    /// The detectors warm up.
    Running(WarmUp),
}

/// What is known of the states of the active detectors.
#[derive(Default)]
struct DetectorStates {
    /// Where the state of each comes from.
    origins: BTreeMap<String, &'static str>,
    /// How many sessions of the archive those were shown that have warmed up.
    sessions: BTreeMap<String, u32>,
    /// Detectors whose state is missing, and the read at which that was last seen. They do not count as complete until they
    /// have warmed up, so that a host which starts meanwhile warms them up too.
    incomplete: BTreeMap<String, u64>,
    /// Incomplete detectors that are to be warmed up.
    lacking: Vec<String>,
}

impl Generations {
    pub(super) fn new(reloads: watch::Receiver<Reload>, config: &Config, stats: Arc<Stats>) -> Self {
        let target = reloads.borrow().generation.clone();
        Self {
            target,
            warm_up: WarmUpPhase::Idle,
            states: DetectorStates::default(),
            quarantines: Quarantines::default(),
            receipts: Receipts::default(),
            uncommitted: Vec::new(),
            reloads,
            watcher: WatcherHandle::default(),
            warms_up: config.plugins.rewarm_s > 0,
            archive: None,
            base: EntryId::ZERO,
            stats,
        }
    }

    /// Has `watcher` check the files whenever the host becomes owner.
    pub(super) fn set_watcher(&mut self, watcher: WatcherHandle) {
        self.watcher = watcher;
    }

    /// Has warm-ups begin with `archive`.
    pub(super) fn set_archive(&mut self, archive: Arc<dyn Archive>) {
        self.archive = Some(archive);
    }

    /// The newest entry that is history: the newest one that was processed, or, before the first one, where the stream begins.
    pub(super) fn history_end(&self, newest: EntryId) -> EntryId {
        if newest == EntryId::ZERO { self.base } else { newest }
    }

    /// Whether there may be something to warm up on, although nothing was committed.
    pub(super) fn has_archive(&self) -> bool {
        self.archive_end_ms().is_some()
    }

    fn archive_end_ms(&self) -> Option<u64> {
        self.archive.as_ref().and_then(|archive| archive.end_ms())
    }

    /// Begins with the newest generation, and returns the one to start with: detectors without a saved state follow when
    /// they have warmed up.
    pub(super) async fn begin(&mut self, acquired: &Acquisition) -> Arc<Generation> {
        self.load_changed_files().await;
        let newest = self.reloads.borrow_and_update().generation.clone();
        self.target = with_active_specs(&newest, &self.target.detectors);
        let has_history = acquired.newest.is_some_and(|newest| newest > EntryId::ZERO);
        // A release without this list saved the states of every detector.
        let has_list = acquired.complete.is_some();
        let warms_up = self.warms_up && if has_history { has_list } else { self.has_archive() };
        self.base = if has_history { EntryId::ZERO } else { self.first_position(acquired) };
        let complete = acquired.complete.as_ref();
        let is_complete =
            |spec: &&Arc<DetectorSpec>| complete.and_then(|complete| complete.get(&spec.name)) == Some(&spec.schema());
        let (ready, cold): (Vec<_>, Vec<_>) =
            self.target.detectors.iter().cloned().partition(|spec| !warms_up || is_complete(&spec));
        self.states = DetectorStates::default();
        for spec in &ready {
            let origin = if has_history && is_complete(&spec) { "restored" } else { "cold" };
            self.states.origins.insert(spec.name.clone(), origin);
        }
        self.receipts.since_ms = now_ms();
        self.receipts.changed();
        if cold.is_empty() {
            self.warm_up = WarmUpPhase::Idle;
            self.target.clone()
        } else {
            self.warm_up = WarmUpPhase::due(cold);
            Arc::new(self.target.with(ready))
        }
    }

    /// Takes up a change of the configuration or the plugins. `active` is the generation that is active now. Returns the
    /// new one if it can be activated at once. With `has_history` unset there is nothing to warm up on.
    pub(super) fn take_reload(&mut self, active: &Generation, has_history: bool) -> Option<Activation> {
        if !self.reloads.has_changed().unwrap_or(false) {
            return None;
        }
        let newest = self.reloads.borrow_and_update().generation.clone();
        self.receipts.changed();
        if newest.number == self.target.number {
            return None;
        }
        let target = with_active_specs(&newest, &active.detectors);
        self.quarantines.interrupt_trials(&active.detectors);
        let lacks_state = |spec: &&Arc<DetectorSpec>| {
            let now = active.detectors.iter().find(|now| now.name == spec.name);
            if now.is_some_and(|now| Arc::ptr_eq(now, spec) && now.health.is_quarantined()) {
                // It warms up when its quarantine is over.
                return false;
            }
            let continues = |now: &Arc<DetectorSpec>| now.schema() == spec.schema() && !now.health.is_quarantined();
            !now.is_some_and(continues) || self.states.incomplete.contains_key(&spec.name)
        };
        let cold: Vec<Arc<DetectorSpec>> = target.detectors.iter().filter(lacks_state).cloned().collect();
        self.target = target;
        if cold.is_empty() || !self.warms_up || !has_history {
            self.warm_up = WarmUpPhase::Idle;
            return Some(self.activation(None));
        }
        self.warm_up = WarmUpPhase::due(cold);
        None
    }

    /// Continues with the warm-up: notes how far the stream has been processed, and finishes the warm-up if it is close to
    /// that. Returns the generation that can be activated then.
    pub(super) async fn take_warm_up(&mut self, newest: EntryId, active: &Arc<Generation>) -> Option<Activation> {
        let newest = self.history_end(newest);
        let WarmUpPhase::Running(warm_up) = &self.warm_up else { return None };
        warm_up.note(newest);
        if !warm_up.is_close() {
            return None;
        }
        let WarmUpPhase::Running(warm_up) = std::mem::replace(&mut self.warm_up, WarmUpPhase::Idle) else {
            return None;
        };
        let names = warm_up.names().to_vec();
        match warm_up.finish(newest, &self.stats).await {
            WarmUpEnd::Finished(warmed) => {
                self.states.sessions.extend(names.into_iter().map(|name| (name, warmed.sessions)));
                Some(self.activation(Some(warmed)))
            }
            WarmUpEnd::NoEntries => {
                warn!(
                    event = "warm_up_empty",
                    detectors = names.join(", "),
                    "there are no earlier entries to warm up on, neither in the stream nor in the files of history.dir; the \
                     detectors start cold"
                );
                Some(self.activation(None))
            }
            WarmUpEnd::Interrupted(error) => {
                warn!(event = "warm_up_interrupted", %error, "the warm-up was interrupted; starting it again");
                let cold = self.target.detectors.iter().filter(|spec| names.contains(&spec.name)).cloned().collect();
                self.warm_up = WarmUpPhase::Due(cold, Instant::now() + RETRY_AFTER);
                None
            }
            WarmUpEnd::OutOfBudget { detector, reason } => {
                self.leave_out(&detector, &names, active);
                self.reject(&[detector], &reason);
                None
            }
            WarmUpEnd::Failed(error) => {
                self.target = active.clone();
                self.reject(&names, &format!("{error:#}"));
                None
            }
        }
    }

    /// Brings back detectors whose states are missing, all at once, or one whose quarantine is over. Returns the generation
    /// to activate if that one does not warm up.
    pub(super) fn bring_back(&mut self, active: &Generation) -> Option<Activation> {
        if !matches!(self.warm_up, WarmUpPhase::Idle) {
            return None;
        }
        let lacking = std::mem::take(&mut self.states.lacking);
        let incomplete = &self.states.incomplete;
        // A detector that was warmed up meanwhile for another reason is complete.
        let is_lacking = |spec: &&Arc<DetectorSpec>| {
            lacking.contains(&spec.name) && incomplete.contains_key(&spec.name) && !spec.health.is_quarantined()
        };
        let cold: Vec<Arc<DetectorSpec>> = active.detectors.iter().filter(is_lacking).cloned().collect();
        if !cold.is_empty() {
            self.warm_up = WarmUpPhase::due(cold);
            return None;
        }
        let mut detectors = self.target.detectors.clone();
        let healed = self.quarantines.try_again(&mut detectors)?;
        self.target = Arc::new(self.target.with(detectors));
        if !self.warms_up {
            return Some(self.activation(None));
        }
        self.warm_up = WarmUpPhase::due(vec![healed]);
        None
    }

    /// The detectors that are to be active, those included that are yet to warm up.
    pub(super) fn wanted_detectors(&self) -> &[Arc<DetectorSpec>] {
        &self.target.detectors
    }

    /// Whether a warm-up is to start now.
    pub(super) fn is_warm_up_due(&self) -> bool {
        matches!(&self.warm_up, WarmUpPhase::Due(_, at) if *at <= Instant::now())
    }

    /// Starts the warm-up that is due.
    pub(super) fn start_warm_up<H: History>(&mut self, mut setup: WarmUpSetup<H>, config: &Config) {
        let WarmUpPhase::Due(cold, _) = std::mem::replace(&mut self.warm_up, WarmUpPhase::Idle) else { return };
        let names: Vec<String> = cold.iter().map(|spec| spec.name.clone()).collect();
        setup.archive.clone_from(&self.archive);
        info!(
            event = "warm_up_started",
            detectors = names.join(", "),
            "warming up detectors on earlier entries before they become active"
        );
        let generation = Arc::new(self.target.with(cold));
        self.warm_up = WarmUpPhase::Running(WarmUp::start(names, generation, setup, config));
        self.receipts.changed();
    }

    /// Delays the warm-up that is due: the server has failed. It may still do everything else, so the flow continues.
    pub(super) fn delay_warm_up(&mut self) {
        if let WarmUpPhase::Due(_, at) = &mut self.warm_up {
            *at = Instant::now() + RETRY_AFTER;
        }
    }

    /// Whether detectors warm up, or are to.
    pub(super) fn is_warming_up(&self) -> bool {
        !matches!(self.warm_up, WarmUpPhase::Idle)
    }

    /// Returns when the warm-up is close to its end or is to start; cancel-safe.
    pub(super) async fn warm_up_changed(&mut self) {
        match &mut self.warm_up {
            WarmUpPhase::Idle => std::future::pending().await,
            WarmUpPhase::Due(_, at) => tokio::time::sleep_until((*at).into()).await,
            WarmUpPhase::Running(warm_up) => warm_up.changed().await,
        }
    }

    /// Returns when there may be a change to take up; cancel-safe.
    pub(super) async fn changed(&mut self) {
        let Self { reloads, warm_up, .. } = self;
        let reloaded = async {
            if reloads.changed().await.is_err() {
                // The sender is gone: nothing will ever change.
                std::future::pending::<()>().await;
            }
            // To wait marks the value as seen, but it is yet to be taken up.
            reloads.mark_changed();
        };
        match warm_up {
            WarmUpPhase::Running(warm_up) => tokio::select! {
                // Both are cancel-safe.
                () = reloaded => {}
                () = warm_up.changed() => {}
            },
            // A warm-up that is due starts with the next turn of the loop: the wait for entries ends by itself.
            WarmUpPhase::Idle | WarmUpPhase::Due(..) => reloaded.await,
        }
    }

    /// Notes that every shard has activated the generation of a swap, and saved its states; that took `pause`. `origins`
    /// has where the state of each of its detectors comes from.
    pub(super) fn activated(&mut self, swap: &Flight, origins: &[StateOrigin], pause: Duration) {
        let generation = swap.generation();
        let is_active = |name: &str| generation.detectors.iter().any(|spec| spec.name == name);
        self.states.origins.retain(|name, _| is_active(name));
        self.states.incomplete.retain(|name, _| is_active(name));
        for (spec, origin) in generation.detectors.iter().zip(origins) {
            if *origin != StateOrigin::Unchanged {
                self.states.replaced(&spec.name, *origin, swap.number(), self.warms_up);
                self.quarantines.replaced_by(spec);
            }
        }
        self.stats.monitor.swaps.fetch_add(1, Relaxed);
        self.receipts.activated(pause);
        let detectors = generation
            .detectors
            .iter()
            .map(|spec| format!("{} {} ({})", spec.name, spec.plugin.manifest.version, self.states.origin(&spec.name)));
        let detectors = detectors.collect::<Vec<_>>().join(", ");
        self.uncommitted.push(Activated { number: generation.number, pause, detectors });
    }

    /// Notes that a commit has happened, with the states of all that was activated before it.
    pub(super) fn committed(&mut self) {
        for Activated { number, pause, detectors } in self.uncommitted.drain(..) {
            info!(
                event = "generation_activated",
                generation = number,
                pause_us = pause.as_micros() as u64,
                "active detectors: {detectors}"
            );
        }
    }

    /// The detectors whose states are all saved with the next visit, with what must be the same to read them.
    pub(super) fn complete(&self, generation: &Generation) -> Vec<(String, u64)> {
        let is_complete = |spec: &&Arc<DetectorSpec>| {
            !self.states.incomplete.contains_key(&spec.name) && !spec.health.is_quarantined()
        };
        generation.detectors.iter().filter(is_complete).map(|spec| (spec.name.clone(), spec.schema())).collect()
    }

    /// Notes what went wrong in a shard at a read: faults, quarantines, and missing states.
    pub(super) fn note_incidents(&mut self, read: u64, incidents: &Incidents, generation: &Generation) {
        for FaultReport { detector, entry, fault, quarantined } in &incidents.faulted {
            let spec = &generation.detectors[usize::from(*detector)];
            self.receipts.changed();
            match entry {
                Some(_) => warn!(
                    event = "detector_failed_on_tick",
                    detector = %spec.name,
                    %fault,
                    "a detector failed on a tick; the tick is dead-lettered for this detector, which continues"
                ),
                None => warn!(
                    event = "detector_recovered",
                    detector = %spec.name,
                    %fault,
                    "a detector failed outside of a tick"
                ),
            }
            if *quarantined {
                self.quarantines.begin(spec);
            }
        }
        self.note_missing_states(read, &incidents.cold, generation);
    }

    /// Notes detectors, by index, whose state was found to be missing at a read.
    pub(super) fn note_missing_states(&mut self, read: u64, cold: &[(u16, String)], generation: &Generation) {
        for (detector, reason) in cold {
            let name = &generation.detectors[usize::from(*detector)].name;
            warn!(
                event = "state_missing",
                detector = %name,
                %reason,
                "detector state is missing (plugins.rewarm_s says whether it warms up again)"
            );
            self.lacks_state(name, read);
        }
    }

    /// Notes a detector whose state was found to be missing at a read.
    pub(super) fn lacks_state(&mut self, name: &str, read: u64) {
        self.states.origins.insert(name.to_owned(), "cold");
        self.receipts.changed();
        let before = self.states.incomplete.insert(name.to_owned(), read);
        if before.is_none() && self.warms_up {
            self.states.lacking.push(name.to_owned());
        }
    }

    /// The receipt that the next step writes, if one is due. `active` is the generation that is active now.
    /// `symbols` is the number of symbols that are known.
    pub(super) fn receipt(&mut self, active: &Arc<Generation>, symbols: u64) -> Option<Arc<str>> {
        let conditions = self.stats.conditions.changes();
        if self.receipts.is_due(conditions) {
            let text = self.write_receipt(active, symbols);
            self.receipts.set(text, conditions);
        }
        self.receipts.unwritten()
    }

    /// Notes that a step has written this receipt.
    pub(super) fn receipt_written(&mut self, receipt: &Arc<str>) {
        self.receipts.written(receipt);
    }

    /// Loads files that have changed. Otherwise a change that the last owner has taken up, and this host has not noticed
    /// yet, would be taken back for a moment.
    async fn load_changed_files(&self) {
        let load = tokio::time::timeout(RELOAD_TIMEOUT, self.watcher.scan_now());
        if self.stats.waiting(load).await.is_err() {
            warn!(
                event = "reload_slow",
                "loading the changed files takes long; starting with the configuration and plugins that are loaded"
            );
        }
    }

    /// Continues without `failed`, one of the detectors `names` that were warmed up: the others warm up again. A change is
    /// rejected as a whole, so its other detectors are left out too.
    fn leave_out(&mut self, failed: &str, names: &[String], active: &Arc<Generation>) {
        if self.target.number != active.number {
            self.target = active.clone();
            return;
        }
        let detectors = self.target.detectors.iter().filter_map(|spec| {
            let stays = active.detectors.iter().find(|active| active.name == failed);
            if spec.name == failed { stays.cloned() } else { Some(spec.clone()) }
        });
        let detectors: Vec<Arc<DetectorSpec>> = detectors.collect();
        let is_left = |spec: &&Arc<DetectorSpec>| spec.name != failed && names.contains(&spec.name);
        let cold: Vec<Arc<DetectorSpec>> = detectors.iter().filter(is_left).cloned().collect();
        self.target = Arc::new(self.target.with(detectors));
        if !cold.is_empty() {
            self.warm_up = WarmUpPhase::due(cold);
        }
    }

    /// The last entry before those that a group delivers which has no commit yet.
    fn first_position(&self, acquired: &Acquisition) -> EntryId {
        match (acquired.last_delivered, acquired.oldest) {
            (EntryId::ZERO, Some(oldest)) => oldest.before(),
            // Nobody has added anything: the ids to come are times from now on. The market may have been closed for days, so
            // sessions count from the newest one that is known.
            (EntryId::ZERO, None) => {
                let begun_ms = now_ms().saturating_sub(CLOCKS_DIFFER_MS);
                EntryId { millis: self.archive_end_ms().map_or(begun_ms, |end_ms| end_ms.min(begun_ms)), seq: 0 }
            }
            (delivered, _) => delivered,
        }
    }

    fn activation(&self, warmed: Option<Warmed>) -> Activation {
        Activation { generation: self.target.clone(), warmed }
    }

    /// Rejects a change whose detectors failed in their warm-up; the active generation stays.
    fn reject(&mut self, names: &[String], reason: &str) {
        warn!(
            event = "warm_up_failed",
            detectors = names.join(", "),
            reason,
            "the warm-up failed; the active detectors stay as they are"
        );
        let reason = format!("{} could not be warmed up: {reason}", names.join(", "));
        self.receipts.rejected = Some(RejectedChange { at_ms: now_ms(), reason, is_current: true });
        self.quarantines.prolong(names);
        self.receipts.changed();
    }

    fn write_receipt(&self, active: &Arc<Generation>, symbols: u64) -> Arc<str> {
        let Reload { rejection, needs_restart, .. } = self.reloads.borrow().clone();
        let has_seen_enough = receipts::has_seen_enough(symbols, self.stats.completed.load(Relaxed));
        let of_detector = |spec: &Arc<DetectorSpec>| {
            let mut receipt = receipts::of_detector(spec, &self.states.origins, &self.quarantines);
            receipt.rewarmed_sessions = self.states.sessions_of(&spec.name);
            (receipt.alerts, receipt.left_out) = self.stats.monitor.outcomes(&spec.name);
            receipt.unmatched = spec.unmatched().filter(|_| has_seen_enough).map(str::to_owned).collect();
            receipt
        };
        let warming = match &self.warm_up {
            WarmUpPhase::Running(warm_up) => warm_up.names().to_vec(),
            WarmUpPhase::Idle | WarmUpPhase::Due(..) => Vec::new(),
        };
        let receipt = Receipt {
            at_ms: now_ms(),
            generation: active.number,
            since_ms: self.receipts.since_ms,
            pause_us: self.receipts.pause.as_micros() as u64,
            symbols,
            detectors: active.detectors.iter().map(of_detector).collect(),
            warming,
            rejection: self.receipts.rejected.clone().or(rejection),
            needs_restart,
            market: active.market.receipt(),
            conditions: self.stats.conditions.current(),
            last_tick_ms: self.stats.monitor.last_tick_ms(),
        };
        let text = serde_json::to_string(&receipt).unwrap_or_default().into();
        self.stats.monitor.receipt_written(receipt, active);
        text
    }
}

impl WarmUpPhase {
    /// These detectors are to be warmed up as soon as possible.
    fn due(cold: Vec<Arc<DetectorSpec>>) -> Self {
        Self::Due(cold, Instant::now())
    }
}

impl DetectorStates {
    /// The number of sessions of the archive that a detector was shown; 0 if its state has another origin.
    fn sessions_of(&self, detector: &str) -> u32 {
        let is_rewarmed = self.origin(detector) == REWARMED;
        self.sessions.get(detector).copied().filter(|_| is_rewarmed).unwrap_or(0)
    }

    fn origin(&self, detector: &str) -> &'static str {
        self.origins.get(detector).copied().unwrap_or("cold")
    }

    /// Notes that a detector was replaced in the swap of this number.
    fn replaced(&mut self, name: &str, origin: StateOrigin, swap: u64, warms_up: bool) {
        let text = match origin {
            StateOrigin::Unchanged => return,
            StateOrigin::Predecessor => "carried",
            StateOrigin::WarmUp => REWARMED,
            StateOrigin::Cold => "cold",
        };
        // A carried state lacks what the one before lacked. Otherwise only what was seen since the swap is missing.
        match self.incomplete.get(name) {
            Some(seen) if origin == StateOrigin::Predecessor || *seen >= swap => {
                if warms_up && !self.lacking.iter().any(|lacking| lacking == name) {
                    self.lacking.push(name.to_owned());
                }
            }
            _ => drop(self.incomplete.remove(name)),
        }
        self.origins.insert(name.to_owned(), text);
    }
}

/// The newest generation, with those of its detectors that are active already. The loader knows a detector as it was loaded:
/// one that was quarantined and has come back since would be in quarantine again.
fn with_active_specs(newest: &Generation, active: &[Arc<DetectorSpec>]) -> Arc<Generation> {
    let known = |spec: &Arc<DetectorSpec>| active.iter().find(|active| active.is(spec)).unwrap_or(spec).clone();
    Arc::new(newest.with(newest.detectors.iter().map(known).collect()))
}

/// The version of each detector that makes states from now on.
pub(super) fn made_by(generation: &Generation) -> Vec<(String, u64)> {
    generation.detectors.iter().map(|spec| (spec.name.clone(), spec.fingerprint())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::quarantine::tests::generation;

    /// The loader still has the detector that was quarantined. Any other change of the configuration brought that one back,
    /// in quarantine, and nothing tried it again.
    #[test]
    fn a_change_keeps_a_detector_that_has_come_back_from_quarantine() {
        let newest = generation();
        let quarantined = &newest.detectors[0];
        while !quarantined.health.record_fault("it", 3, Duration::from_secs(60)) {}
        let back = Arc::new(quarantined.without_faults());
        let target = with_active_specs(&newest, std::slice::from_ref(&back));
        assert!(Arc::ptr_eq(&target.detectors[0], &back) && !target.detectors[0].health.is_quarantined());
    }
}
