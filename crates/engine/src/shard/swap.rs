//! From one generation to the next, between two batches.
//!
//! What holds: what a detector knows of a symbol that it does not want any more is gone, here and where it is saved. When
//! the symbol is wanted again it begins anew, as it would after a restart.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::Serialize;
use tracing::warn;

use super::{
    Answer, Shard, TaskOutcome, Worked,
    slot::{Predecessor, Slot, started},
};
use crate::plugin::{DetectorSpec, Fault, Generation};
use tickhound_core::normalize::Normalizer;

/// Where the state of a detector comes from in a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// Nothing has changed for its instance.
    Kept,
    /// From the version before, or from other parameters.
    Carried,
    /// From the stream's own history.
    Rewarmed,
    /// There is none.
    Cold,
}

/// A detector of a shard, warmed up in another place, with its symbols.
pub struct Warmed {
    slot: Slot,
    seen: Arc<Seen>,
}

/// What a shard has seen beside its detectors.
struct Seen {
    symbols: Vec<(u32, Arc<str>)>,
    normalizer: Normalizer,
    /// When the last tick of each symbol arrived, by its id.
    arrived_ms: Vec<u64>,
}

impl Warmed {
    /// The symbols that its shard has seen.
    pub fn symbols(&self) -> impl Iterator<Item = &Arc<str>> {
        self.seen.symbols.iter().map(|(_, name)| name)
    }
}

impl Shard {
    /// `new` are symbols of those that were `warmed` up that this shard has never met.
    pub(super) fn swap(
        &mut self,
        read: u64,
        generation: &Generation,
        new: Vec<(u32, Arc<str>)>,
        warmed: Vec<Warmed>,
    ) -> Answer {
        new.iter().for_each(|(id, name)| self.memory.add(*id, name));
        self.symbols.extend(new);
        let ours = if warmed.is_empty() { FxHashMap::default() } else { ids_by_name(&self.symbols) };
        if let Some(warmed) = warmed.first() {
            self.take_normalized(&warmed.seen, &ours);
        }
        let mut before: FxHashMap<String, Slot> =
            self.slots.drain(..).map(|slot| (slot.spec.name.clone(), slot)).collect();
        let mut warmed: FxHashMap<String, Warmed> =
            warmed.into_iter().map(|warmed| (warmed.slot.spec.name.clone(), warmed)).collect();
        let (mut worked, mut origins) = (Worked::default(), Vec::with_capacity(generation.detectors.len()));
        for spec in &generation.detectors {
            let before = before.remove(&spec.name);
            if let Some(before) = &before {
                self.forget_unwanted(&before.spec, spec);
            }
            let (mut slot, came) = match warmed.remove(&spec.name) {
                Some(warmed) => (self.succeed_warmed(spec, warmed, &ours), Came::Rewarmed),
                None => self.succeed(spec, before),
            };
            if came == Came::Cold {
                self.cooldowns.forget_all(&spec.name);
            }
            slot.note_wanted(&self.symbols);
            if let Err(fault) = slot.introduce_all(&self.symbols) {
                warn!(
                    event = "symbol_introduction_failed",
                    detector = %spec.name,
                    %fault,
                    "a detector failed while its symbols were introduced"
                );
                slot.instance = None;
                slot.lack("it failed while it was told its symbols");
            }
            self.slots.push(slot);
            origins.push(came);
        }
        before.keys().for_each(|name| self.cooldowns.forget_all(name));
        // Nothing of those that are gone may stay saved: whoever comes under their names begins anew.
        if !before.is_empty() || origins.iter().any(|came| matches!(came, Came::Rewarmed | Came::Cold)) {
            self.memory.all_changed();
        }
        self.tell_lacks(&mut worked);
        Answer::new(read, worked, TaskOutcome::Swapped(origins))
    }

    /// Goes on with the normalized ticks of symbols of which nothing is known here: their saved states were damaged.
    fn take_normalized(&mut self, seen: &Seen, ours: &FxHashMap<Arc<str>, u32>) {
        for (its, name) in &seen.symbols {
            let is_unknown = |our: u32| !self.memory.has_saved(our) && !self.normalizer.knows(our);
            let our = ours.get(name).filter(|our| is_unknown(**our));
            let Some((our, saved)) = our.zip(seen.normalizer.save(*its)) else { continue };
            self.memory.note_arrival(*our, seen.arrived_ms.get(*its as usize).copied().unwrap_or(0));
            if let Err(error) = self.normalizer.restore(*our, &saved) {
                warn!(
                    event = "normalizer_handover_failed",
                    symbol = %name,
                    error = format!("{error:#}"),
                    "failed to hand over the normalizer state of a symbol"
                );
            }
        }
    }

    /// Wherever the one before wanted a symbol and this one does not, or the other way round, there is nothing to go on
    /// with, and nothing of it may stay saved.
    fn forget_unwanted(&mut self, before: &DetectorSpec, now: &DetectorSpec) {
        if before.settings.symbols == now.settings.symbols {
            return;
        }
        for (id, _) in self.symbols.iter().filter(|(_, name)| before.wants(name) != now.wants(name)) {
            self.cooldowns.forget(&now.name, *id);
            self.memory.has_changed(*id);
        }
    }

    /// Hands over every detector.
    pub(super) fn leave(self) -> Vec<Warmed> {
        let Self { symbols, normalizer, slots, memory, .. } = self;
        let seen = Arc::new(Seen { symbols, normalizer, arrived_ms: memory.into_arrivals() });
        slots.into_iter().map(|slot| Warmed { slot, seen: seen.clone() }).collect()
    }

    fn succeed(&self, spec: &Arc<DetectorSpec>, before: Option<Slot>) -> (Slot, Came) {
        let Some(mut before) = before else { return (Slot::new(spec.clone()), Came::Cold) };
        let handed_over = if Arc::ptr_eq(&before.spec, spec) {
            return (before, Came::Kept);
        } else if before.spec.runs_as(spec)
            && !before.spec.health.is_quarantined()
            && !self.loses_symbols(&before, spec)
        {
            before.set_spec(spec.clone(), &self.symbols).map(|()| (before, Came::Kept))
        } else if before.schema == spec.schema() && before.instance.is_some() {
            before.move_all().and_then(|()| self.carry(spec, before)).map(|slot| (slot, Came::Carried))
        } else {
            return (Slot::new(spec.clone()), Came::Cold);
        };
        handed_over.unwrap_or_else(|fault| {
            warn!(
                event = "state_takeover_failed",
                detector = %spec.name,
                %fault,
                "a detector failed while it took over the state of its predecessor; starting it cold"
            );
            let mut slot = Slot::new(spec.clone());
            slot.lack("it failed while it took over its state");
            (slot, Came::Cold)
        })
    }

    /// Whether there are symbols that the instance knows and that it is not to see any more.
    fn loses_symbols(&self, before: &Slot, spec: &DetectorSpec) -> bool {
        let knows = |id: u32| before.instance.as_ref().is_some_and(|instance| instance.knows(id));
        before.spec.settings.symbols != spec.settings.symbols
            && self.symbols.iter().any(|(id, name)| knows(*id) && !spec.wants(name))
    }

    fn carry(&self, spec: &Arc<DetectorSpec>, before: Slot) -> Result<Slot, Fault> {
        let mut slot = Slot::new(spec.clone());
        slot.instance = Some(started(spec, &self.symbols)?);
        slot.failed_on = before.failed_on;
        let Some(instance) = before.instance else { return Ok(slot) };
        let goes_on = |(id, name): &&(u32, Arc<str>)| instance.knows(*id) && spec.wants(name);
        let left = self.symbols.iter().filter(goes_on).map(|(id, _)| (*id, *id)).collect();
        let state_version = before.spec.plugin.manifest.state_version;
        slot.predecessor = Some(Predecessor { instance, state_version, left });
        Ok(slot)
    }

    fn succeed_warmed(&mut self, spec: &Arc<DetectorSpec>, warmed: Warmed, ours: &FxHashMap<Arc<str>, u32>) -> Slot {
        let mut slot = Slot::new(spec.clone());
        let Some(instance) = warmed.slot.instance else { return slot };
        match started(spec, &self.symbols) {
            Ok(fresh) => slot.instance = Some(fresh),
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
        let known = warmed.seen.symbols.iter().filter(|(its, _)| instance.knows(*its));
        let left: FxHashMap<u32, u32> = known.filter_map(|(its, name)| Some((*ours.get(name)?, *its))).collect();
        // A cool-down is saved with a state: without one it would not outlive the process.
        let without = self.symbols.iter().filter(|(id, _)| !left.contains_key(id));
        without.for_each(|(id, _)| self.cooldowns.forget(&spec.name, *id));
        slot.predecessor = Some(Predecessor { instance, state_version: spec.plugin.manifest.state_version, left });
        slot
    }
}

fn ids_by_name(symbols: &[(u32, Arc<str>)]) -> FxHashMap<Arc<str>, u32> {
    symbols.iter().map(|(id, name)| (name.clone(), *id)).collect()
}
