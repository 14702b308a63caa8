//! Forgets symbols that have made room for others.
//!
//! What holds: nothing of an evicted symbol stays in the shard, so that it begins as a new one when it comes back. An
//! instance can't be asked to forget, so a new one takes over the states of the symbols that stay.

use rustc_hash::FxHashSet;
use tracing::warn;

use super::{
    Answer, Incidents, Shard, Slot, TaskOutcome,
    slot::{ColdReport, PredecessorKind},
};

impl Shard {
    /// Forgets those of `symbols` that belong to this shard.
    pub(super) fn evict(&mut self, read: u64, symbols: &[u32]) -> Answer {
        let mut incidents = Incidents::default();
        let mut evicted: FxHashSet<u32> = symbols.iter().copied().filter(|id| self.memory.knows(*id)).collect();
        self.memory.forget(&evicted);
        if !self.members.is_empty() {
            let symbols: FxHashSet<u32> = symbols.iter().copied().collect();
            self.member_names.retain(|id, _| !symbols.contains(id));
            evicted.extend(self.members.extract_if(.., |(id, _)| symbols.contains(id)).map(|(id, _)| id));
        }
        if !evicted.is_empty() {
            self.symbols.retain(|(id, _)| !evicted.contains(id));
            self.cooldowns.forget_symbols(&evicted);
            self.prices.forget(&evicted);
            for slot in std::mem::take(&mut self.slots) {
                let slot = self.without(slot, &evicted);
                self.slots.push(slot);
            }
            self.report_missing_states(&mut incidents);
        }
        Answer::new(read, incidents, TaskOutcome::Evicted)
    }

    /// Returns the slot with an instance that does not know the evicted symbols.
    fn without(&self, mut slot: Slot, evicted: &FxHashSet<u32>) -> Slot {
        let knows_any = slot.instance.as_ref().is_some_and(|instance| evicted.iter().any(|id| instance.knows(*id)));
        if !knows_any {
            return slot;
        }
        let (spec, lacks) = (slot.spec.clone(), std::mem::take(&mut slot.lacks));
        let carried = slot.hand_over_all().and_then(|()| self.carry(&spec, slot, PredecessorKind::Same));
        let mut slot = match carried {
            Ok(slot) => slot,
            Err(fault) => {
                warn!(
                    event = "state_takeover_failed",
                    detector = %spec.name,
                    %fault,
                    "a detector failed while symbols were evicted; starting it cold"
                );
                let mut slot = Slot::new(spec);
                slot.mark_cold("it failed while symbols were evicted");
                slot
            }
        };
        if matches!(slot.lacks, ColdReport::None) {
            slot.lacks = lacks;
        }
        slot.note_wanted(self.names());
        slot
    }
}
