//! What a shard remembers of its symbols, out to be kept and back in again.

use std::{ops::Range, sync::Arc};

use anyhow::{Context, Result};
use rustc_hash::FxHashMap;
use tracing::{error, warn};

use super::{Answer, Cooldowns, Faulted, SavedSymbol, Shard, Slot, TaskOutcome, Worked};
use crate::{ingest::Job, plugin::Fault};
use tickhound_core::{
    checkpoint::{CHUNKS, DetectorState, Packer, SymbolState, arrived_ms, chunk_of},
    event::CLOCK,
};

/// Symbols restored in one call, which has a deadline.
const RESTORED_AT_ONCE: usize = 256;

/// Number, name, and what each detector remembers.
type KnownSymbol = (u32, Arc<str>, Vec<DetectorState>);

/// Knows which symbols have changed since they were saved, and what was saved.
pub(super) struct Memory {
    packer: Packer,
    /// The shard's symbols by chunk.
    chunks: Vec<Vec<(u32, Arc<str>)>>,
    /// By symbol id.
    chunk_of: Vec<u16>,
    changed: Vec<bool>,
    /// When the last read with a tick of the symbol ended, ms of an entry's id.
    arrived_ms: Vec<u64>,
    /// What was saved last, as of the last visit to the symbol's chunk.
    kept: Vec<Option<Arc<[u8]>>>,
    /// Whether that is gone from where it was saved.
    gone: Vec<bool>,
}

impl Memory {
    pub(super) fn new() -> Result<Self> {
        let packer = Packer::new().context("failed to start the compressor")?;
        let chunks = vec![Vec::new(); usize::from(CHUNKS)];
        let (chunk_of, changed, kept, gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { packer, chunks, chunk_of, changed, arrived_ms: Vec::new(), kept, gone })
    }

    /// Takes note of the symbols that are about to change.
    pub(super) fn note(&mut self, job: &Job) {
        for (id, name) in &job.symbols {
            self.add(*id, name);
        }
        for symbol in job.batch.symbol.iter().filter(|symbol| **symbol != CLOCK) {
            self.changed[*symbol as usize] = true;
            // What is recovered may have arrived before what was processed already.
            let arrived_ms = &mut self.arrived_ms[*symbol as usize];
            *arrived_ms = job.arrived_ms.max(*arrived_ms);
        }
    }

    /// Takes note of what was saved of a symbol, when the newest entry processed had arrived at `newest_ms`.
    fn note_saved(&mut self, id: u32, packed: Vec<u8>, newest_ms: u64) {
        let id = id as usize;
        let arrived_ms = arrived_ms(&packed);
        // An older release did not save the arrival: as if there had been a tick just now, saved again with that time.
        self.changed[id] |= arrived_ms.is_none();
        self.arrived_ms[id] = arrived_ms.unwrap_or(newest_ms);
        self.kept[id] = Some(packed.into());
    }

    /// Every state is to be saved again.
    pub(super) fn all_changed(&mut self) {
        self.changed.fill(true);
    }

    /// What was saved is gone from there: every state is to be saved again, though it be the same.
    pub(super) fn all_gone(&mut self) {
        self.all_changed();
        self.gone.fill(true);
    }

    /// The state of this symbol is to be saved again.
    pub(super) fn has_changed(&mut self, symbol: u32) {
        self.changed[symbol as usize] = true;
    }

    /// When the last tick of each symbol arrived, by its id.
    pub(super) fn into_arrivals(self) -> Vec<u64> {
        self.arrived_ms
    }

    /// The last tick of the symbol was shown to a warm-up, and arrived then.
    pub(super) fn note_arrival(&mut self, symbol: u32, arrived_ms: u64) {
        self.arrived_ms[symbol as usize] = arrived_ms;
    }

    /// Whether there is a saved state of the symbol.
    pub(super) fn has_saved(&self, symbol: u32) -> bool {
        self.kept[symbol as usize].is_some()
    }

    pub(super) fn symbols_of(&self, chunk: u16) -> &[(u32, Arc<str>)] {
        &self.chunks[usize::from(chunk)]
    }

    pub(super) fn chunk_of(&self, symbol: u32) -> u16 {
        self.chunk_of[symbol as usize]
    }

    /// Gives a detector what is kept of it.
    pub(super) fn restore_kept(&mut self, chunk: u16, slot: &mut Slot) -> Result<(), Fault> {
        let version = slot.spec.plugin.manifest.state_version;
        for part in self.chunks[usize::from(chunk)].chunks(RESTORED_AT_ONCE) {
            let mut states: Vec<(u32, Vec<u8>)> = Vec::new();
            let spec = slot.spec.clone();
            for (id, _) in part.iter().filter(|(_, name)| spec.wants(name)) {
                let Some(kept) = &self.kept[*id as usize] else { continue };
                let detectors = self.packer.unpack(kept).map(|state| state.detectors).unwrap_or_default();
                let state = detectors.into_iter().find(|state| state.detector == slot.spec.name);
                match state {
                    Some(state) if state.schema == slot.schema => states.push((*id, state.bytes)),
                    Some(_) => slot.lack("it failed before its state was saved"),
                    // It had not seen the symbol then: all are saved with each change of detectors.
                    None => {}
                }
            }
            let states: Vec<(u32, &[u8])> = states.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect();
            if let Some(refusal) = slot.restore(version, &states)? {
                slot.lack(&format!("it refuses its own state: {refusal}"));
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, id: u32, name: &Arc<str>) {
        let chunk = chunk_of(name);
        self.chunks[usize::from(chunk)].push((id, name.clone()));
        let length = self.changed.len().max(id as usize + 1);
        self.changed.resize(length, false);
        self.arrived_ms.resize(length, 0);
        self.kept.resize(length, None);
        self.gone.resize(length, false);
        self.chunk_of.resize(length, 0);
        self.chunk_of[id as usize] = chunk;
    }
}

impl Shard {
    pub(super) fn save(&mut self, read: u64, chunks: Range<u16>) -> Answer {
        let (mut worked, mut saved) = (Worked::default(), Vec::new());
        let clocked = self.slots.iter().any(|slot| slot.spec.plugin.manifest.wants_clock);
        let memory = &self.memory;
        let due = chunks.clone().flat_map(|chunk| memory.symbols_of(chunk));
        let due: Vec<(u32, Arc<str>)> =
            due.filter(|(id, _)| clocked || memory.changed[*id as usize]).cloned().collect();
        let mut states: FxHashMap<u32, Vec<DetectorState>> = FxHashMap::default();
        for number in 0..self.slots.len() {
            self.save_slot(number, &due, &mut states, &mut worked);
        }
        let Self { normalizer, memory, journal, slots, .. } = self;
        for (id, name) in due {
            let Some(normalizer_state) = normalizer.save(id) else { continue };
            let state = SymbolState { normalizer: normalizer_state, detectors: states.remove(&id).unwrap_or_default() };
            let packed: Option<Arc<[u8]>> = match memory.packer.pack(memory.arrived_ms[id as usize], &state) {
                Ok(packed) => Some(packed.into()),
                Err(error) => {
                    warn!(event = "state_not_saved", symbol = %name, %error, "failed to save the state of a symbol");
                    None
                }
            };
            memory.changed[id as usize] = packed.is_none();
            let before = std::mem::replace(&mut memory.kept[id as usize], packed.clone());
            let gone = std::mem::take(&mut memory.gone[id as usize]);
            let differs = |packed: &Arc<[u8]>| gone || before.as_ref() != Some(packed);
            saved.extend(packed.filter(differs).map(|packed| (name, packed)));
        }
        chunks.for_each(|chunk| journal.mark(chunk));
        journal.trim(|chunk| !memory.symbols_of(chunk).is_empty());
        for slot in slots {
            slot.failed_on = slot.failed_on.split_off(&(journal.first(), 0));
        }
        self.tell_lacks(&mut worked);
        Answer::new(read, worked, TaskOutcome::Saved(saved))
    }

    /// Adds what a detector remembers of the symbols.
    fn save_slot(
        &mut self,
        number: usize,
        due: &[(u32, Arc<str>)],
        states: &mut FxHashMap<u32, Vec<DetectorState>>,
        worked: &mut Worked,
    ) {
        if self.slots[number].instance.is_none() {
            return;
        }
        let handing_over = self.slots[number].predecessor.is_some();
        let Err(fault) = self.slots[number].save(due, &self.cooldowns, states) else { return };
        // Once more, since it may have been short of time.
        let again = self.rebuild(number).and_then(|()| self.slots[number].save(due, &self.cooldowns, states));
        let quarantined = again.is_err() && {
            let slot = &mut self.slots[number];
            slot.instance = None;
            let limits = slot.spec.limits;
            slot.spec.health.failed(&fault.to_string(), limits.faults_max, limits.fault_window)
        };
        if again.is_err() && !quarantined && self.rebuild(number).is_err() {
            self.slots[number].lack("it failed while its state was saved");
        }
        if handing_over {
            // What the journal holds was meant for the one before.
            self.slots[number].lack("it failed while it took over its state");
        }
        worked.faulted.push(Faulted { detector: number as u16, entry: None, fault, quarantined });
    }

    pub(super) fn restore(&mut self, saved: Vec<SavedSymbol>) -> Answer {
        let (mut worked, mut damaged) = (Worked::default(), Vec::new());
        let mut symbols = Vec::with_capacity(saved.len());
        let mut states: Vec<KnownSymbol> = Vec::with_capacity(saved.len());
        for SavedSymbol { id, name, packed, newest_ms } in saved {
            self.memory.add(id, &name);
            self.journal.mark(chunk_of(&name));
            let state = self.memory.packer.unpack(&packed);
            match state.and_then(|state| self.normalizer.restore(id, &state.normalizer).map(|()| state.detectors)) {
                Ok(detectors) => {
                    self.restore_silence(id, &name, &detectors);
                    self.memory.note_saved(id, packed, newest_ms);
                    states.push((id, name.clone(), detectors));
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    error!(event = "state_damaged", symbol = %name, %error, "a saved state can't be read; dropped it");
                    damaged.push(name.clone());
                    let wanting = self.slots.iter_mut().filter(|slot| slot.spec.wants(&name));
                    wanting.for_each(|slot| slot.lack("the saved state of a symbol cannot be read"));
                }
            }
            symbols.push((id, name));
        }
        self.symbols.extend(symbols.iter().cloned());
        for slot in &mut self.slots {
            slot.note_wanted(&symbols);
            slot.restore_saved(&symbols, &self.symbols, &states);
        }
        self.tell_lacks(&mut worked);
        Answer::new(0, worked, TaskOutcome::Restored(damaged))
    }

    /// Cool-downs go on, except where a detector does not want the symbol any more: then what is saved of it goes with
    /// the next visit.
    fn restore_silence(&mut self, id: u32, name: &str, detectors: &[DetectorState]) {
        for DetectorState { detector, alerted, alerted_apart, .. } in detectors {
            let slot = self.slots.iter().find(|slot| slot.spec.name == *detector);
            match slot.is_none_or(|slot| slot.spec.wants(name)) {
                true => self.cooldowns.restore(detector, id, [*alerted, *alerted_apart]),
                false => self.memory.has_changed(id),
            }
        }
    }
}

impl Slot {
    /// Adds what it remembers of the symbols.
    fn save(
        &mut self,
        due: &[(u32, Arc<str>)],
        cooldowns: &Cooldowns,
        states: &mut FxHashMap<u32, Vec<DetectorState>>,
    ) -> Result<(), Fault> {
        let ids: Vec<u32> = due.iter().filter(|(_, name)| self.spec.wants(name)).map(|(id, _)| *id).collect();
        self.move_over(ids.iter().copied())?;
        let Some(instance) = self.instance.as_mut().filter(|_| !ids.is_empty()) else { return Ok(()) };
        for (id, bytes) in instance.save(&ids)? {
            let (detector, [alerted, alerted_apart]) = (self.spec.name.clone(), cooldowns.of(&self.spec.name, id));
            let state = DetectorState { detector, schema: self.schema, bytes, alerted, alerted_apart };
            states.entry(id).or_default().push(state);
        }
        Ok(())
    }

    fn restore_saved(&mut self, new: &[(u32, Arc<str>)], symbols: &[(u32, Arc<str>)], states: &[KnownSymbol]) {
        let spec = self.spec.clone();
        let mut readable: Vec<(u32, &[u8])> = Vec::new();
        for (id, _, detectors) in states.iter().filter(|(_, name, _)| spec.wants(name)) {
            let Some(state) = detectors.iter().find(|state| state.detector == spec.name) else { continue };
            if state.schema == self.schema {
                readable.push((*id, &state.bytes));
            } else {
                self.lack("its plugin or parameters have changed since its state was saved");
            }
        }
        let version = spec.plugin.manifest.state_version;
        let restored = self.make_ready(new, symbols).and_then(|()| {
            let parts = readable.chunks(RESTORED_AT_ONCE).map(|part| self.restore(version, part));
            parts.collect::<Result<Vec<_>, _>>()
        });
        match restored {
            Ok(refusals) => {
                if let Some(refusal) = refusals.into_iter().flatten().next() {
                    self.lack(&format!("it refuses its saved state: {refusal}"));
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
                self.lack("it failed while its state was restored");
            }
        }
    }
}
