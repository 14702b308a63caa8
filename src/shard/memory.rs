//! What a shard remembers of its symbols, out to be kept and back in again.

use std::{hash::BuildHasher, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use rustc_hash::{FxBuildHasher, FxHashMap};
use tracing::warn;

use super::{SavedSymbol, Shard, Slot, Worked};
use crate::{
    checkpoint::{CHUNKS, DetectorState, Packer, SymbolState, chunk_of},
    event::CLOCK,
    ingest::Job,
    plugin::Fault,
};

/// Number, name, and what each detector remembers.
type KnownSymbol = (u32, Arc<str>, Vec<DetectorState>);

/// Knows which symbols have changed since they were saved.
pub(super) struct Memory {
    packer: Packer,
    /// The shard's symbols by chunk.
    chunks: Vec<Vec<(u32, Arc<str>)>>,
    /// By symbol id.
    changed: Vec<bool>,
    /// Hash of what was saved last, by symbol id; 0 when nothing was. Only kept where detectors hear
    /// the clock, which may change a symbol without a tick of its own.
    hashes: Vec<u64>,
}

impl Memory {
    pub(super) fn new() -> Result<Self> {
        let packer = Packer::new().context("failed to start the compressor")?;
        let chunks = vec![Vec::new(); usize::from(CHUNKS)];
        Ok(Self { packer, chunks, changed: Vec::new(), hashes: Vec::new() })
    }

    /// Takes note of the symbols that are about to change.
    pub(super) fn note(&mut self, job: &Job) {
        for (id, name) in &job.symbols {
            self.add(*id, name);
        }
        for symbol in job.batch.symbol.iter().filter(|symbol| **symbol != CLOCK) {
            self.changed[*symbol as usize] = true;
        }
    }

    pub(super) fn all_changed(&mut self) {
        self.changed.fill(true);
    }

    fn add(&mut self, id: u32, name: &Arc<str>) {
        self.chunks[usize::from(chunk_of(name))].push((id, name.clone()));
        let length = self.changed.len().max(id as usize + 1);
        self.changed.resize(length, false);
        self.hashes.resize(length, 0);
    }
}

impl Shard {
    pub(super) fn save(&mut self, read: u64, chunks: std::ops::Range<u16>) -> Worked {
        let started = Instant::now();
        let Self { normalizer, slots, memory, .. } = self;
        let clocked = slots.iter().any(|slot| slot.spec.plugin.manifest.wants_clock);
        let chunks = &memory.chunks[usize::from(chunks.start)..usize::from(chunks.end)];
        let due = chunks.iter().flatten().filter(|(id, _)| clocked || memory.changed[*id as usize]);
        let due: Vec<(u32, Arc<str>)> = due.cloned().collect();
        let mut worked = Worked { read, ..Worked::default() };
        if due.is_empty() {
            return worked;
        }
        let mut states: FxHashMap<u32, Vec<DetectorState>> = FxHashMap::default();
        let mut failed = false;
        for slot in slots.iter_mut() {
            failed |= !slot.save(&due, &mut states);
        }
        if failed {
            memory.all_changed();
        }
        for (id, name) in due {
            let Some(normalizer_state) = normalizer.save(id) else { continue };
            let state = SymbolState { normalizer: normalizer_state, detectors: states.remove(&id).unwrap_or_default() };
            let packed = match memory.packer.pack(normalizer.last_time(id), &state) {
                Ok(packed) => packed,
                Err(error) => {
                    warn!(symbol = %name, %error, "a state can't be saved");
                    continue;
                }
            };
            memory.changed[id as usize] = false;
            if clocked {
                let hash = FxBuildHasher.hash_one(&packed);
                if std::mem::replace(&mut memory.hashes[id as usize], hash) == hash {
                    continue;
                }
            }
            worked.saved.push((name, packed));
        }
        worked.saving = started.elapsed();
        worked
    }

    pub(super) fn restore(&mut self, saved: Vec<SavedSymbol>) {
        let mut symbols = Vec::with_capacity(saved.len());
        let mut states: Vec<KnownSymbol> = Vec::with_capacity(saved.len());
        for SavedSymbol { id, name, packed } in saved {
            self.memory.add(id, &name);
            let state = self.memory.packer.unpack(&packed);
            match state.and_then(|state| self.normalizer.restore(id, &state.normalizer).map(|()| state.detectors)) {
                Ok(detectors) => states.push((id, name.clone(), detectors)),
                Err(error) => {
                    warn!(symbol = %name, error = format!("{error:#}"), "a saved state can't be read; it warms up again");
                }
            }
            symbols.push((id, name));
        }
        self.symbols.extend(symbols.iter().cloned());
        for slot in &mut self.slots {
            slot.restore(&symbols, &self.symbols, &states);
        }
    }
}

impl Slot {
    /// Adds what it remembers of the symbols. Whether that went well.
    fn save(&mut self, due: &[(u32, Arc<str>)], states: &mut FxHashMap<u32, Vec<DetectorState>>) -> bool {
        let Some(instance) = &mut self.instance else { return true };
        let ids: Vec<u32> = due.iter().filter(|(_, name)| self.spec.wants(name)).map(|(id, _)| *id).collect();
        match instance.save(&ids) {
            Ok(saved) => {
                for (id, bytes) in saved {
                    let detector = self.spec.name.clone();
                    states.entry(id).or_default().push(DetectorState { detector, schema: self.schema, bytes });
                }
                true
            }
            Err(fault) => {
                warn!(detector = %self.spec.name, %fault, "a detector failed while its state was saved; started anew");
                self.instance = None;
                false
            }
        }
    }

    fn restore(&mut self, new: &[(u32, Arc<str>)], symbols: &[(u32, Arc<str>)], states: &[KnownSymbol]) {
        let name = self.spec.name.clone();
        let mut readable: Vec<(u32, &[u8])> = Vec::new();
        for (id, _, detectors) in states.iter().filter(|(_, name, _)| self.spec.wants(name)) {
            let Some(state) = detectors.iter().find(|state| state.detector == name) else { continue };
            if state.schema == self.schema {
                readable.push((*id, &state.bytes));
            } else if !std::mem::replace(&mut self.told_cold, true) {
                warn!(detector = %name, "its plugin or parameters have changed since its state was saved; it warms up again");
            }
        }
        let restored = self.make_ready(new, symbols).and_then(|()| self.restore_all(&readable));
        match restored {
            Ok(None) => {}
            Ok(Some(reason)) => {
                warn!(detector = %name, reason, "a detector refuses saved states; it warms up again there");
            }
            Err(fault) => {
                warn!(detector = %name, %fault, "a detector failed while its state was restored; started anew");
                self.instance = None;
            }
        }
    }

    /// Why it refuses one of the states, if it does; the others are restored all the same.
    fn restore_all(&mut self, states: &[(u32, &[u8])]) -> Result<Option<String>, Fault> {
        let version = self.spec.plugin.manifest.state_version;
        let Some(instance) = &mut self.instance else { return Ok(None) };
        if states.is_empty() || instance.restore(version, states)?.is_ok() {
            return Ok(None);
        }
        let mut refused = None;
        for state in states {
            refused = instance.restore(version, std::slice::from_ref(state))?.err().or(refused);
        }
        Ok(refused)
    }
}
