//! Replaces the detectors of a shard with those of the next generation, between two batches.
//!
//! What holds: a detector's state of a symbol that it does not see any more is dropped, in the shard and where it is
//! saved. If it sees the symbol again later, it starts cold with it, as it would after a restart.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracing::warn;

use super::{
    Answer, Incidents, Shard, TaskOutcome,
    rows::owns,
    slot::{Predecessor, PredecessorKind, Slot, start_instance},
};
use crate::{
    ingest::TakenOver,
    plugin::{DetectorSpec, Fault, Generation},
};

/// The origin of a detector's state in a new generation. The order is that of the shards' results: the greatest one is the
/// result for the detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateOrigin {
    /// The instance is unchanged.
    Unchanged,
    /// A predecessor with another version or other parameters hands over the state.
    Predecessor,
    /// A warm-up has built the state from the stream's history.
    WarmUp,
    /// There is no state.
    Cold,
}

/// A detector that was warmed up in a background shard.
pub struct WarmDetector {
    slot: Slot,
    /// The symbols of its shard.
    symbols: Arc<[(u32, Arc<str>)]>,
}

impl Shard {
    /// Replaces the detectors. `taken_over` is what only the warm-up of the `warmed` detectors knows.
    pub(super) fn swap(
        &mut self,
        read: u64,
        generation: &Generation,
        taken_over: TakenOver,
        warmed: Vec<WarmDetector>,
    ) -> Answer {
        let mut taken_over = taken_over;
        taken_over.symbols.retain(|(id, _)| !self.memory.knows(*id));
        taken_over.symbols.iter().for_each(|(id, name)| self.memory.add(*id, name));
        taken_over.prices.iter().for_each(|(id, price)| self.prices.set(*id, *price));
        self.symbols.extend(taken_over.symbols);
        self.meet_members(taken_over.members);
        let ours = if warmed.is_empty() { FxHashMap::default() } else { ids_by_name(&self.symbols) };
        let mut before: FxHashMap<String, Slot> =
            self.slots.drain(..).map(|slot| (slot.spec.name.clone(), slot)).collect();
        let mut warmed: FxHashMap<String, WarmDetector> =
            warmed.into_iter().map(|warmed| (warmed.slot.spec.name.clone(), warmed)).collect();
        let (mut incidents, mut origins) = (Incidents::default(), Vec::with_capacity(generation.detectors.len()));
        for spec in &generation.detectors {
            let before = before.remove(&spec.name);
            if let Some(before) = &before {
                self.forget_filtered(&before.spec, spec);
            }
            let (mut slot, origin) = match warmed.remove(&spec.name) {
                Some(warmed) => (self.succeed_warmed(spec, warmed, &ours), StateOrigin::WarmUp),
                None => self.succeed(spec, before),
            };
            if origin == StateOrigin::Cold {
                self.cooldowns.forget_all(&spec.name);
            }
            slot.note_wanted(self.names());
            if let Err(fault) = slot.introduce_all(self.names()) {
                warn!(
                    event = "symbol_introduction_failed",
                    detector = %spec.name,
                    %fault,
                    "a detector failed while its symbols were introduced"
                );
                slot.instance = None;
                slot.mark_cold("it failed while its symbols were introduced");
            }
            self.slots.push(slot);
            origins.push(origin);
        }
        before.keys().for_each(|name| self.cooldowns.forget_all(name));
        // No state of a removed detector may stay saved, since a later detector of that name must start cold.
        if !before.is_empty() || origins.iter().any(|origin| matches!(origin, StateOrigin::WarmUp | StateOrigin::Cold))
        {
            self.memory.mark_all_changed();
        }
        self.report_missing_states(&mut incidents);
        Answer::new(read, incidents, TaskOutcome::Swapped(origins))
    }

    /// Forgets the symbols that only one of both versions of a detector sees: there is no state to continue with, and none
    /// may stay saved.
    fn forget_filtered(&mut self, before: &DetectorSpec, now: &DetectorSpec) {
        if before.settings.symbols == now.settings.symbols && before.view() == now.view() {
            return;
        }
        for (id, _) in self.symbols.iter().filter(|(_, name)| owns(before, name) != owns(now, name)) {
            self.cooldowns.forget(&now.name, *id);
            self.memory.mark_changed(*id);
        }
    }

    /// Ends the shard, and returns its detectors with its symbols.
    pub(super) fn leave(self) -> Vec<WarmDetector> {
        let Self { symbols, slots, .. } = self;
        let symbols: Arc<[(u32, Arc<str>)]> = symbols.into();
        slots.into_iter().map(|slot| WarmDetector { slot, symbols: symbols.clone() }).collect()
    }

    /// Returns the slot of a detector in the new generation, given the slot `before`, and the origin of its state.
    fn succeed(&self, spec: &Arc<DetectorSpec>, before: Option<Slot>) -> (Slot, StateOrigin) {
        let Some(mut before) = before else { return (Slot::new(spec.clone()), StateOrigin::Cold) };
        let handed_over = if Arc::ptr_eq(&before.spec, spec) {
            return (before, StateOrigin::Unchanged);
        } else if before.spec.runs_as(spec)
            && !before.spec.health.is_quarantined()
            && !self.loses_symbols(&before, spec)
        {
            before.set_spec(spec.clone(), self.names()).map(|()| (before, StateOrigin::Unchanged))
        } else if before.schema == spec.schema() && before.instance.is_some() {
            before
                .hand_over_all()
                .and_then(|()| self.carry(spec, before, PredecessorKind::Other))
                .map(|slot| (slot, StateOrigin::Predecessor))
        } else {
            return (Slot::new(spec.clone()), StateOrigin::Cold);
        };
        handed_over.unwrap_or_else(|fault| {
            warn!(
                event = "state_takeover_failed",
                detector = %spec.name,
                %fault,
                "a detector failed while it took over the state of its predecessor; starting it cold"
            );
            let mut slot = Slot::new(spec.clone());
            slot.mark_cold("it failed while it took over its state");
            (slot, StateOrigin::Cold)
        })
    }

    /// Returns whether the instance knows symbols that the detector does not see any more.
    fn loses_symbols(&self, before: &Slot, spec: &DetectorSpec) -> bool {
        let knows = |id: u32| before.instance.as_ref().is_some_and(|instance| instance.knows(id));
        let is_lost = |(id, name): &(u32, Arc<str>)| knows(*id) && !spec.wants(name);
        before.spec.settings.symbols != spec.settings.symbols && self.names().symbols(spec).iter().any(is_lost)
    }

    /// Returns a new instance to which the previous one hands over its states with the batches that follow.
    pub(super) fn carry(&self, spec: &Arc<DetectorSpec>, before: Slot, kind: PredecessorKind) -> Result<Slot, Fault> {
        let mut slot = Slot::new(spec.clone());
        slot.instance = Some(start_instance(spec, self.names())?);
        slot.failed_on = before.failed_on;
        let Some(instance) = before.instance else { return Ok(slot) };
        let continues = |(id, name): &&(u32, Arc<str>)| instance.knows(*id) && owns(spec, name);
        // Both instances belong to this shard, so their ids are equal.
        let pending = self.symbols.iter().filter(continues).map(|(id, _)| (*id, *id)).collect();
        let state_version = before.spec.plugin.manifest.state_version;
        slot.predecessor = Some(Predecessor { kind, instance, state_version, pending });
        Ok(slot)
    }

    /// Returns the slot of a detector whose states a warmed-up instance hands over.
    fn succeed_warmed(
        &mut self,
        spec: &Arc<DetectorSpec>,
        warmed: WarmDetector,
        ours: &FxHashMap<Arc<str>, u32>,
    ) -> Slot {
        let mut slot = Slot::new(spec.clone());
        let Some(instance) = warmed.slot.instance else { return slot };
        match start_instance(spec, self.names()) {
            Ok(started) => slot.instance = Some(started),
            Err(fault) => {
                warn!(
                    event = "detector_start_failed",
                    detector = %spec.name,
                    %fault,
                    "a detector failed while it was started"
                );
                return slot;
            }
        }
        let known = warmed.symbols.iter().filter(|(its, name)| instance.knows(*its) && owns(spec, name));
        let pending: FxHashMap<u32, u32> = known.filter_map(|(its, name)| Some((*ours.get(name)?, *its))).collect();
        // A cool-down is saved with a state. Without a state it would end with the process, so it ends now.
        let stateless = self.symbols.iter().filter(|(id, _)| !pending.contains_key(id));
        stateless.for_each(|(id, _)| self.cooldowns.forget(&spec.name, *id));
        let (kind, state_version) = (PredecessorKind::Other, spec.plugin.manifest.state_version);
        slot.predecessor = Some(Predecessor { kind, instance, state_version, pending });
        slot
    }
}

fn ids_by_name(symbols: &[(u32, Arc<str>)]) -> FxHashMap<Arc<str>, u32> {
    symbols.iter().map(|(id, name)| (name.clone(), *id)).collect()
}
