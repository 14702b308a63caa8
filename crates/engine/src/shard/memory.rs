//! Saves and restores the states of a shard's symbols.
//!
//! What holds: the packed state of a symbol stays in memory until its next save, so that a detector can be rebuilt from
//! it after a fault.

use std::{ops::Range, sync::Arc};

use anyhow::{Context, Result};
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::{error, warn};

use super::{
    Answer, Cooldowns, FaultReport, Incidents, RestoredState, SavedOwners, SavedSymbol, Shard, Slot, TaskOutcome,
    UnpackedSymbol,
    rows::{Names, owns},
    slot::PredecessorKind,
};
use crate::{ingest::OwnerBase, plugin::Fault};
use tickhound_core::{
    checkpoint::{AboutMember, CHUNKS, DetectorState, Packer, SharedBases, SymbolState, arrived_ms, chunk_of},
    normalize::NormalizerState,
};

/// The maximum number of symbols in one restore, since the call has a deadline.
const RESTORED_AT_ONCE: usize = 256;

/// A symbol with the states of its detectors.
struct RestorableSymbol {
    id: u32,
    name: Arc<str>,
    detectors: Vec<DetectorState>,
}

/// What is saved of a symbol or group beside the states of detectors.
#[derive(Clone)]
struct Base {
    /// The state of the normalizer; `None` for a group.
    normalizer: Option<NormalizerState>,
    /// Bars, last values and computed columns.
    series: Vec<u8>,
}

/// The saved states of a shard's symbols, and which of them have changed since.
pub(super) struct Memory {
    packer: Packer,
    /// The shard's symbols by chunk.
    chunks: Vec<Vec<(u32, Arc<str>)>>,
    /// The chunk of a symbol, by symbol id like the fields that follow.
    chunk_of: Vec<u16>,
    /// Whether the symbol has changed since its last save.
    changed: Vec<bool>,
    /// When the last tick of the symbol had arrived at the last visit to its chunk, ms of an entry's id.
    arrived_ms: Vec<u64>,
    /// What is saved beside the states of detectors, as of that visit; `None` if there was no tick.
    bases: Vec<Option<Base>>,
    /// The packed state as of the last visit to the symbol's chunk.
    packed: Vec<Option<Arc<[u8]>>>,
    /// Whether the server has lost the saved state.
    lost: Vec<bool>,
    /// Whether the shard has the symbol, which may have been evicted.
    known: Vec<bool>,
}

impl Memory {
    pub(super) fn new() -> Result<Self> {
        let packer = Packer::new().context("failed to start the compressor")?;
        let chunks = vec![Vec::new(); usize::from(CHUNKS)];
        Ok(Self {
            packer,
            chunks,
            chunk_of: Vec::new(),
            changed: Vec::new(),
            arrived_ms: Vec::new(),
            bases: Vec::new(),
            packed: Vec::new(),
            lost: Vec::new(),
            known: Vec::new(),
        })
    }

    /// Notes what is saved of a symbol beside the states of the detectors.
    fn note_base(&mut self, base: OwnerBase) {
        let OwnerBase { id, arrived_ms, normalizer, series } = base;
        let id = id as usize;
        self.changed[id] = true;
        (self.arrived_ms[id], self.bases[id]) = (arrived_ms, Some(Base { normalizer, series }));
    }

    /// Records the saved state of a symbol. The newest processed entry had arrived at `newest_ms`.
    fn note_saved(&mut self, id: u32, packed: Vec<u8>, newest_ms: u64, base: Base) {
        let id = id as usize;
        let arrived_ms = arrived_ms(&packed);
        // An older release did not save the arrival. The symbol then counts as one that has just had a tick, and its state
        // is saved again with that time.
        self.changed[id] |= arrived_ms.is_none();
        self.arrived_ms[id] = arrived_ms.unwrap_or(newest_ms);
        (self.packed[id], self.bases[id]) = (Some(packed.into()), Some(base));
    }

    /// Packs what the owners of a visit depend on.
    fn pack_shared(&mut self, shared: &SharedBases) -> Option<Vec<u8>> {
        let packed = self.packer.pack_bases(shared);
        let failed = |error: &anyhow::Error| {
            let error = format!("{error:#}");
            warn!(event = "bases_not_saved", %error, "failed to save what groups and contexts depend on");
        };
        packed.inspect_err(failed).ok()
    }

    /// Marks every state as changed, so that it is saved again.
    pub(super) fn mark_all_changed(&mut self) {
        self.changed.fill(true);
    }

    /// Marks every saved state as lost by the server, so that it is saved again even if it is unchanged.
    pub(super) fn mark_all_lost(&mut self) {
        self.mark_all_changed();
        self.lost.fill(true);
    }

    /// Marks the state of a symbol as changed, so that it is saved again.
    pub(super) fn mark_changed(&mut self, symbol: u32) {
        self.changed[symbol as usize] = true;
    }

    /// Returns the symbols of a chunk.
    pub(super) fn symbols_of(&self, chunk: u16) -> &[(u32, Arc<str>)] {
        &self.chunks[usize::from(chunk)]
    }

    /// Returns the chunk of a symbol.
    pub(super) fn chunk_of(&self, symbol: u32) -> u16 {
        self.chunk_of[symbol as usize]
    }

    /// Restores a detector's saved states of the symbols in a chunk.
    pub(super) fn restore_chunk(&mut self, chunk: u16, slot: &mut Slot) -> Result<(), Fault> {
        let version = slot.spec.plugin.manifest.state_version;
        for part in self.chunks[usize::from(chunk)].chunks(RESTORED_AT_ONCE) {
            let mut states: Vec<(u32, Vec<u8>)> = Vec::new();
            let spec = slot.spec.clone();
            for (id, _) in part.iter().filter(|(_, name)| owns(&spec, name)) {
                let Some(packed) = &self.packed[*id as usize] else { continue };
                let detectors = self.packer.unpack(packed).map(|state| state.detectors).unwrap_or_default();
                let state = detectors.into_iter().find(|state| state.detector == slot.spec.name);
                match state {
                    Some(state) if state.schema == slot.schema => states.push((*id, state.bytes)),
                    Some(_) => slot.mark_cold("it failed before its state was saved"),
                    // The detector had not seen the symbol then, since all states are saved after each change of detectors.
                    None => {}
                }
            }
            let states: Vec<(u32, &[u8])> = states.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect();
            if let Some(rejection) = slot.restore(version, &states)? {
                slot.mark_cold(&format!("it rejects its own state: {rejection}"));
            }
        }
        Ok(())
    }

    /// Adds a symbol without a saved state.
    pub(super) fn add(&mut self, id: u32, name: &Arc<str>) {
        let chunk = chunk_of(name);
        self.chunks[usize::from(chunk)].push((id, name.clone()));
        let length = self.changed.len().max(id as usize + 1);
        self.changed.resize(length, false);
        self.arrived_ms.resize(length, 0);
        self.bases.resize(length, None);
        self.packed.resize(length, None);
        self.lost.resize(length, false);
        self.chunk_of.resize(length, 0);
        self.chunk_of[id as usize] = chunk;
        self.known.resize(length, false);
        self.known[id as usize] = true;
    }

    /// Returns whether the shard has the symbol.
    pub(super) fn knows(&self, symbol: u32) -> bool {
        self.known.get(symbol as usize) == Some(&true)
    }

    /// Forgets symbols that are evicted.
    pub(super) fn forget(&mut self, evicted: &FxHashSet<u32>) {
        for chunk in &mut self.chunks {
            chunk.retain(|(id, _)| !evicted.contains(id));
        }
        for id in evicted.iter().map(|id| *id as usize) {
            (self.changed[id], self.lost[id], self.known[id]) = (false, false, false);
            (self.arrived_ms[id], self.bases[id], self.packed[id]) = (0, None, None);
        }
    }
}

impl Shard {
    pub(super) fn save(
        &mut self,
        read: u64,
        chunks: Range<u16>,
        bases: Vec<OwnerBase>,
        shared: Option<Box<SharedBases>>,
    ) -> Answer {
        let (mut incidents, mut saved) = (Incidents::default(), Vec::new());
        bases.into_iter().for_each(|base| self.memory.note_base(base));
        let clocked = self.slots.iter().any(|slot| slot.spec.plugin.manifest.wants_clock);
        let memory = &self.memory;
        let due = chunks.clone().flat_map(|chunk| memory.symbols_of(chunk));
        // A clock row may have changed the state of every symbol.
        let due: Vec<(u32, Arc<str>)> =
            due.filter(|(id, _)| clocked || memory.changed[*id as usize]).cloned().collect();
        let mut states: FxHashMap<u32, Vec<DetectorState>> = FxHashMap::default();
        for number in 0..self.slots.len() {
            self.save_slot(number, &due, &mut states, &mut incidents);
        }
        let Self { memory, journal, slots, .. } = self;
        for (id, name) in due {
            let Some(Base { normalizer, series }) = &memory.bases[id as usize] else { continue };
            let detectors = states.remove(&id).unwrap_or_default();
            let normalizer = normalizer.as_ref().map(NormalizerState::to_bytes).unwrap_or_default();
            let state = SymbolState { normalizer, detectors, series: series.clone() };
            let packed: Option<Arc<[u8]>> = match memory.packer.pack(memory.arrived_ms[id as usize], &state) {
                Ok(packed) => Some(packed.into()),
                Err(error) => {
                    warn!(event = "state_not_saved", symbol = %name, %error, "failed to save the state of a symbol");
                    None
                }
            };
            memory.changed[id as usize] = packed.is_none();
            let before = std::mem::replace(&mut memory.packed[id as usize], packed.clone());
            let gone = std::mem::take(&mut memory.lost[id as usize]);
            let differs = |packed: &Arc<[u8]>| gone || before.as_ref() != Some(packed);
            saved.extend(packed.filter(differs).map(|packed| (name, packed)));
        }
        chunks.for_each(|chunk| journal.mark(chunk));
        journal.trim(|chunk| !memory.symbols_of(chunk).is_empty());
        for slot in slots {
            slot.failed_on = slot.failed_on.split_off(&(journal.first(), 0));
        }
        self.report_missing_states(&mut incidents);
        let shared = shared.and_then(|shared| self.memory.pack_shared(&shared));
        Answer::new(read, incidents, TaskOutcome::Saved(SavedOwners { states: saved, shared }))
    }

    /// Adds a detector's states of the symbols. A detector that fails is rebuilt, and tried once more.
    fn save_slot(
        &mut self,
        number: usize,
        due: &[(u32, Arc<str>)],
        states: &mut FxHashMap<u32, Vec<DetectorState>>,
        incidents: &mut Incidents,
    ) {
        if self.slots[number].instance.is_none() {
            return;
        }
        let handing_over = self.slots[number].predecessor.as_ref().map(|predecessor| predecessor.kind);
        let Err(fault) = self.slots[number].save(due, &self.cooldowns, states) else { return };
        // The detector may only have run out of time, which does not count if it has enough of it now. A state that breaks
        // the contract always counts: a detector could return one with each save, and be rebuilt each time.
        let again = self.rebuild(number).and_then(|()| self.slots[number].save(due, &self.cooldowns, states));
        let counts = again.is_err() || matches!(fault, Fault::Contract(_));
        let quarantined = counts && self.charge(number, &fault, self.slots[number].spec.limits.faults_max);
        if again.is_err() {
            self.slots[number].instance = None;
        }
        if again.is_err() && !quarantined && self.rebuild(number).is_err() {
            self.slots[number].mark_cold("it failed while its state was saved");
        }
        if handing_over == Some(PredecessorKind::Other) {
            // The saved states and the journal are those of the predecessor, and don't contain what was not handed over.
            self.slots[number].mark_cold("it failed while it took over its state");
        }
        incidents.faulted.push(FaultReport { detector: number as u16, entry: None, fault, quarantined });
    }

    pub(super) fn restore(&mut self, unpacked: Vec<UnpackedSymbol>, members: Vec<(u32, Arc<str>)>) -> Answer {
        let mut incidents = Incidents::default();
        let mut symbols = Vec::with_capacity(unpacked.len());
        let mut states: Vec<RestorableSymbol> = Vec::with_capacity(unpacked.len());
        for UnpackedSymbol { saved: SavedSymbol { id, name, packed, newest_ms }, state } in unpacked {
            self.memory.add(id, &name);
            self.journal.mark(chunk_of(&name));
            match state {
                Ok(RestoredState { normalizer, series, detectors }) => {
                    self.restore_cooldowns(id, &name, &detectors);
                    self.prices.set(id, normalizer.as_ref().map_or(f64::NAN, NormalizerState::price));
                    self.memory.note_saved(id, packed, newest_ms, Base { normalizer, series });
                    states.push(RestorableSymbol { id, name: name.clone(), detectors });
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    error!(event = "state_damaged", symbol = %name, %error, "a saved state can't be read; dropped it");
                    let wanting = self.slots.iter_mut().filter(|slot| owns(&slot.spec, &name));
                    wanting.for_each(|slot| slot.mark_cold("the saved state of a symbol can't be read"));
                }
            }
            symbols.push((id, name));
        }
        self.symbols.extend(symbols.iter().cloned());
        let members = self.meet_members(members);
        for slot in &mut self.slots {
            let new = Names { owners: &symbols, members: &members };
            slot.note_wanted(new);
            slot.restore_saved(new, Names { owners: &self.symbols, members: &self.members }, &states);
        }
        self.report_missing_states(&mut incidents);
        Answer::new(0, incidents, TaskOutcome::Restored)
    }

    /// Restores the cool-downs of a symbol. If a detector does not see the symbol any more, its saved state is removed with
    /// the next visit.
    fn restore_cooldowns(&mut self, id: u32, name: &str, detectors: &[DetectorState]) {
        for DetectorState { detector, alerted, alerted_apart, about, .. } in detectors {
            let slot = self.slots.iter().find(|slot| slot.spec.name == *detector);
            if slot.is_none_or(|slot| owns(&slot.spec, name)) {
                self.cooldowns.restore(detector, id, [*alerted, *alerted_apart]);
                for AboutMember { member, alerted, alerted_apart } in about {
                    self.cooldowns.restore_about(detector, id, member, [*alerted, *alerted_apart]);
                }
            } else {
                self.memory.mark_changed(id);
            }
        }
    }
}

impl Slot {
    /// Adds the detector's states of the symbols.
    fn save(
        &mut self,
        due: &[(u32, Arc<str>)],
        cooldowns: &Cooldowns,
        states: &mut FxHashMap<u32, Vec<DetectorState>>,
    ) -> Result<(), Fault> {
        let ids: Vec<u32> = due.iter().filter(|(_, name)| owns(&self.spec, name)).map(|(id, _)| *id).collect();
        self.hand_over(ids.iter().copied())?;
        let Some(instance) = self.instance.as_mut().filter(|_| !ids.is_empty()) else { return Ok(()) };
        for (id, bytes) in instance.save(&ids)? {
            let (detector, [alerted, alerted_apart]) = (self.spec.name.clone(), cooldowns.of(&self.spec.name, id));
            let about = cooldowns.about(&detector, id).map(|(member, [alerted, alerted_apart])| AboutMember {
                member: member.to_owned(),
                alerted: *alerted,
                alerted_apart: *alerted_apart,
            });
            let about = about.collect();
            let state = DetectorState { detector, schema: self.schema, bytes, alerted, alerted_apart, about };
            states.entry(id).or_default().push(state);
        }
        Ok(())
    }

    /// Restores the detector's states of the `new` ones of `symbols`.
    fn restore_saved(&mut self, new: Names<'_>, all: Names<'_>, states: &[RestorableSymbol]) {
        let spec = self.spec.clone();
        let mut readable: Vec<(u32, &[u8])> = Vec::new();
        for RestorableSymbol { id, detectors, .. } in states.iter().filter(|symbol| owns(&spec, &symbol.name)) {
            let Some(state) = detectors.iter().find(|state| state.detector == spec.name) else { continue };
            if state.schema == self.schema {
                readable.push((*id, &state.bytes));
            } else {
                self.mark_cold("its plugin or parameters have changed since its state was saved");
            }
        }
        let version = spec.plugin.manifest.state_version;
        let restored = self.make_ready(new, all).and_then(|()| {
            let parts = readable.chunks(RESTORED_AT_ONCE).map(|part| self.restore(version, part));
            parts.collect::<Result<Vec<_>, _>>()
        });
        match restored {
            Ok(rejections) => {
                if let Some(rejection) = rejections.into_iter().flatten().next() {
                    self.mark_cold(&format!("it rejects its saved state: {rejection}"));
                }
            }
            Err(fault) => {
                warn!(
                    event = "state_restore_failed",
                    detector = %spec.name,
                    %fault,
                    "a detector failed while its state was restored; starting it cold"
                );
                self.instance = None;
                self.mark_cold("it failed while its state was restored");
            }
        }
    }
}
