//! A detector's place in the shard: which rows it sees, its instance, and the one that it succeeds.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use tracing::warn;

use crate::plugin::{DetectorSpec, Fault, Instance, bindings::tickhound::detector::types::Detection};
use tickhound_core::event::{Batch, CLOCK};

/// States moved from an instance to its successor with each batch, beside those that the batch needs:
/// so few that a batch hardly takes longer, so many that it is soon done.
const MOVED_AT_ONCE: usize = 64;

pub(super) struct Slot {
    pub(super) spec: Arc<DetectorSpec>,
    /// Hash of what must be the same for a saved state to be read.
    pub(super) schema: u64,
    /// `None` before the first batch, and in quarantine.
    pub(super) instance: Option<Instance>,
    pub(super) predecessor: Option<Predecessor>,
    /// Why it does not know what it should, once.
    pub(super) lacks: Option<String>,
    /// That it lacks something has been said.
    told: bool,
    /// Rows that it failed on and is not shown again: position in the journal, row.
    pub(super) failed_on: BTreeSet<(u64, u32)>,
    /// By symbol id, whether the detector sees it. Only for those that don't see all.
    wanted: Vec<bool>,
    /// The rows it sees, and where they stand in the shard's batch.
    selected: Batch,
    selected_rows: Vec<u32>,
}

/// An instance that works no more. Its states move to its successor, each before it is needed there:
/// all at once would hold up ticks.
pub(super) struct Predecessor {
    pub(super) instance: Instance,
    pub(super) state_version: u32,
    /// Symbols that have not moved: our number of each, and its own.
    pub(super) left: FxHashMap<u32, u32>,
}

impl Slot {
    pub(super) fn new(spec: Arc<DetectorSpec>) -> Self {
        Self {
            schema: spec.schema(),
            spec,
            instance: None,
            predecessor: None,
            lacks: None,
            told: false,
            failed_on: BTreeSet::new(),
            wanted: Vec::new(),
            selected: Batch::default(),
            selected_rows: Vec::new(),
        }
    }

    /// Detections with their rows counted in the shard's batch. `new` are those of `symbols` that come
    /// with this batch.
    pub(super) fn detect(
        &mut self,
        batch: &Batch,
        new: &[(u32, Arc<str>)],
        symbols: &[(u32, Arc<str>)],
    ) -> Result<Vec<Detection>, Fault> {
        if self.spec.health.is_quarantined() {
            (self.instance, self.predecessor) = (None, None);
            self.spec.health.skipped(batch.len());
            return Ok(Vec::new());
        }
        self.make_ready(new, symbols)?;
        if self.predecessor.is_some() {
            self.move_for(batch)?;
        }
        if self.spec.wants_all() {
            return self.call(batch);
        }
        let Self { wanted, selected, selected_rows, .. } = self;
        selected_rows.clear();
        selected_rows
            .extend((0u32..).zip(&batch.symbol).filter(|(_, symbol)| sees(wanted, **symbol)).map(|(row, _)| row));
        pick(batch, selected_rows, selected);
        self.call_selected()
    }

    /// Detections at some rows of the batch alone, if the detector sees them.
    pub(super) fn detect_rows(
        &mut self,
        batch: &Batch,
        rows: impl Iterator<Item = u32>,
    ) -> Result<Vec<Detection>, Fault> {
        let Self { spec, wanted, selected, selected_rows, .. } = self;
        let all = spec.wants_all();
        selected_rows.clear();
        selected_rows.extend(rows.filter(|row| all || sees(wanted, batch.symbol[*row as usize])));
        pick(batch, selected_rows, selected);
        self.call_selected()
    }

    fn call_selected(&mut self) -> Result<Vec<Detection>, Fault> {
        let selected = std::mem::take(&mut self.selected);
        let answer = self.call(&selected);
        self.selected = selected;
        let mut detections = answer?;
        for found in &mut detections {
            found.row = self.selected_rows[found.row as usize];
        }
        Ok(detections)
    }

    fn call(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        let Some(instance) = self.instance.as_mut().filter(|_| !batch.is_empty()) else { return Ok(Vec::new()) };
        let started = Instant::now();
        let detections = instance.detect(batch)?;
        self.spec.health.worked(batch.len(), started.elapsed());
        Ok(detections)
    }

    /// Sees to it that there is an instance, and that it knows the `new` ones of `symbols`.
    pub(super) fn make_ready(&mut self, new: &[(u32, Arc<str>)], symbols: &[(u32, Arc<str>)]) -> Result<(), Fault> {
        match &mut self.instance {
            Some(instance) => introduce(instance, &self.spec, new),
            None => {
                self.instance = Some(started(&self.spec, symbols)?);
                Ok(())
            }
        }
    }

    pub(super) fn note_wanted(&mut self, symbols: &[(u32, Arc<str>)]) {
        if self.spec.wants_all() {
            return;
        }
        for (id, name) in symbols {
            let id = *id as usize;
            if self.wanted.len() <= id {
                self.wanted.resize(id + 1, false);
            }
            self.wanted[id] = self.spec.wants(name);
        }
    }

    /// Takes up other settings of the host for the same code.
    pub(super) fn set_spec(&mut self, spec: Arc<DetectorSpec>, symbols: &[(u32, Arc<str>)]) -> Result<(), Fault> {
        self.spec = spec;
        self.wanted.clear();
        self.note_wanted(symbols);
        self.introduce_all(symbols)
    }

    /// Tells the instance, if there is one, of those of the shard's symbols that it was not told of.
    pub(super) fn introduce_all(&mut self, symbols: &[(u32, Arc<str>)]) -> Result<(), Fault> {
        let Some(instance) = &mut self.instance else { return Ok(()) };
        let new: Vec<(u32, Arc<str>)> = symbols.iter().filter(|(id, _)| !instance.knows(*id)).cloned().collect();
        introduce(instance, &self.spec, &new)
    }

    /// It does not know what it should.
    pub(super) fn lack(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.told, true) {
            self.lacks = Some(reason.to_owned());
        }
    }

    /// Moves what this batch needs, and some more.
    fn move_for(&mut self, batch: &Batch) -> Result<(), Fault> {
        // A clock row may concern every symbol.
        if self.spec.plugin.manifest.wants_clock && batch.symbol.contains(&CLOCK) {
            return self.move_all();
        }
        let mut due: FxHashSet<u32> = batch.symbol.iter().copied().collect();
        if let Some(Predecessor { left, .. }) = &self.predecessor {
            due.extend(left.keys().take(MOVED_AT_ONCE));
        }
        self.move_over(due)
    }

    pub(super) fn move_all(&mut self) -> Result<(), Fault> {
        let Some(Predecessor { left, .. }) = &self.predecessor else { return Ok(()) };
        let all: Vec<u32> = left.keys().copied().collect();
        for part in all.chunks(MOVED_AT_ONCE) {
            self.move_over(part.iter().copied())?;
        }
        Ok(())
    }

    /// Moves the states of those of `due` that have not moved yet. The fault is the successor's.
    pub(super) fn move_over(&mut self, due: impl IntoIterator<Item = u32>) -> Result<(), Fault> {
        let Some(before) = &mut self.predecessor else { return Ok(()) };
        let ours: FxHashMap<u32, u32> =
            due.into_iter().filter_map(|our| before.left.remove(&our).map(|its| (its, our))).collect();
        let version = before.state_version;
        let theirs: Vec<u32> = ours.keys().copied().collect();
        let saved = if theirs.is_empty() { Ok(Vec::new()) } else { before.instance.save(&theirs) };
        if saved.is_err() || before.left.is_empty() {
            self.predecessor = None;
        }
        let saved = match saved {
            Ok(saved) => saved,
            Err(fault) => {
                warn!(
                    event = "state_handover_failed",
                    detector = %self.spec.name,
                    %fault,
                    "a detector failed while it handed over its state to its successor"
                );
                self.lack("the version before failed while it handed over its state");
                return Ok(());
            }
        };
        let states: Vec<(u32, &[u8])> = saved.iter().map(|(its, bytes)| (ours[its], bytes.as_slice())).collect();
        if let Some(refusal) = self.restore(version, &states)? {
            self.lack(&format!("it refuses the state of the version before: {refusal}"));
        }
        Ok(())
    }

    /// Why it refuses one of the states, if it does; the others are restored all the same.
    pub(super) fn restore(&mut self, version: u32, states: &[(u32, &[u8])]) -> Result<Option<String>, Fault> {
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

/// A fresh instance that knows the names of all symbols it may see.
pub(super) fn started(spec: &DetectorSpec, symbols: &[(u32, Arc<str>)]) -> Result<Instance, Fault> {
    let mut fresh = spec.start()?;
    introduce(&mut fresh, spec, symbols)?;
    Ok(fresh)
}

fn introduce(instance: &mut Instance, spec: &DetectorSpec, symbols: &[(u32, Arc<str>)]) -> Result<(), Fault> {
    let wanted: Vec<(u32, &str)> =
        symbols.iter().filter(|(_, name)| spec.wants(name)).map(|(id, name)| (*id, &**name)).collect();
    if wanted.is_empty() { Ok(()) } else { instance.introduce(&wanted) }
}

/// Clock rows alone keep silence observable, so they go along even where no tick does.
fn sees(wanted: &[bool], symbol: u32) -> bool {
    symbol == CLOCK || wanted.get(symbol as usize) == Some(&true)
}

/// Copies some rows.
fn pick(batch: &Batch, rows: &[u32], picked: &mut Batch) {
    fn copy<T: Copy>(from: &[T], rows: &[u32], to: &mut Vec<T>) {
        to.clear();
        to.extend(rows.iter().map(|row| from[*row as usize]));
    }
    copy(&batch.entry, rows, &mut picked.entry);
    copy(&batch.symbol, rows, &mut picked.symbol);
    copy(&batch.time, rows, &mut picked.time);
    copy(&batch.price, rows, &mut picked.price);
    picked.columns.resize(batch.columns.len(), Vec::new());
    for (from, to) in batch.columns.iter().zip(&mut picked.columns) {
        copy(from, rows, to);
    }
}
