//! A detector's slot in a shard: its instance, the rows that it sees, and the predecessor whose states it takes over.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use tracing::warn;

use super::rows::{Names, owners};
use crate::plugin::{Detection, DetectorSpec, Fault, Instance, feed_of_row};
use tickhound_core::event::{Batch, CLOCK};

/// The number of states that an instance hands over to its successor with each batch, in addition to those that the batch
/// needs: few enough that a batch hardly takes longer, many enough that the handover ends soon.
const HANDED_OVER_PER_BATCH: usize = 64;

/// The most rows in one call. They are copied into the guest's memory, where a read with huge lists of ticks would take the
/// room of its states. A usual read has a few hundred. With so many, the detections that each row may have are together
/// within the most that a call may return (64 MiB), so a long list of ticks never makes a good detector break that limit.
const ROWS_PER_CALL_MAX: usize = 1 << 14;

/// A detector in a shard.
pub(super) struct Slot {
    pub(super) spec: Arc<DetectorSpec>,
    /// The hash of everything that must be equal for a saved state to be restored.
    pub(super) schema: u64,
    /// The running instance; `None` before the first batch, and in quarantine.
    pub(super) instance: Option<Instance>,
    pub(super) predecessor: Option<Predecessor>,
    /// Whether the detector lacks state, which is reported once.
    pub(super) lacks: ColdReport,
    /// The rows that the detector failed on, which it does not get again: position in the journal, and row.
    pub(super) failed_on: BTreeSet<(u64, u32)>,
    /// Whether the detector sees a symbol, by symbol id. Unused by a detector that sees all.
    wanted: Vec<bool>,
    /// The rows that the detector sees.
    selected: Batch,
    /// The index of each selected row in the shard's batch.
    selected_rows: Vec<u32>,
}

/// A report that a detector lacks state.
#[derive(Debug, Default)]
pub(super) enum ColdReport {
    /// The detector lacks nothing.
    #[default]
    None,
    /// The detector lacks state for this reason, which is not reported yet.
    Due(String),
    /// The report was taken. A slot makes only one.
    Taken,
}

impl ColdReport {
    /// Takes the reason if it is not reported yet.
    pub(super) fn take(&mut self) -> Option<String> {
        let Self::Due(reason) = self else { return None };
        let reason = std::mem::take(reason);
        *self = Self::Taken;
        Some(reason)
    }
}

/// What a predecessor is to its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PredecessorKind {
    /// It has another version or other parameters, or was warmed up elsewhere. The saved states are not those of the
    /// successor until all are handed over and saved.
    Other,
    /// It is the same detector, which knew symbols that were evicted. The saved states are the successor's own, so that it
    /// can be rebuilt from them.
    Same,
}

/// An instance that gets no more batches. It hands over each state to its successor before the successor needs it. A
/// handover of all states at once would delay ticks.
pub(super) struct Predecessor {
    pub(super) kind: PredecessorKind,
    pub(super) instance: Instance,
    pub(super) state_version: u32,
    /// The symbols whose states are not handed over yet: the predecessor's id by the successor's.
    pub(super) pending: FxHashMap<u32, u32>,
}

impl Slot {
    pub(super) fn new(spec: Arc<DetectorSpec>) -> Self {
        Self {
            schema: spec.schema(),
            spec,
            instance: None,
            predecessor: None,
            lacks: ColdReport::None,
            failed_on: BTreeSet::new(),
            wanted: Vec::new(),
            selected: Batch::default(),
            selected_rows: Vec::new(),
        }
    }

    /// Processes a batch. The rows of the detections are those of the shard's batch. `new` are the symbols that this batch
    /// adds to `symbols`.
    pub(super) fn detect(&mut self, batch: &Batch, new: Names<'_>, all: Names<'_>) -> Result<Vec<Detection>, Fault> {
        if self.spec.health.is_quarantined() {
            (self.instance, self.predecessor) = (None, None);
            self.spec.health.record_skipped(batch.len());
            return Ok(Vec::new());
        }
        self.make_ready(new, all)?;
        if self.predecessor.is_some() {
            self.hand_over_for(batch)?;
        }
        if self.spec.wants_all() && !self.spec.has_wakes() {
            return self.call(batch);
        }
        self.detect_rows(batch, 0..batch.len() as u32)
    }

    /// Processes some rows of a batch, if the detector sees them.
    pub(super) fn detect_rows(
        &mut self,
        batch: &Batch,
        rows: impl Iterator<Item = u32>,
    ) -> Result<Vec<Detection>, Fault> {
        let Self { spec, wanted, selected, selected_rows, .. } = self;
        let all = spec.wants_all();
        selected_rows.clear();
        selected_rows.extend(rows.filter(|row| all || sees(wanted, batch.symbol[*row as usize])));
        if spec.has_wakes()
            && let Some(instance) = &self.instance
        {
            instance.keep_waking(batch, selected_rows);
        }
        copy_rows(batch, selected_rows, selected);
        if !all && spec.view().has_feeds() {
            let sees = |symbol: u32| sees(wanted, symbol);
            let feeds = selected_rows.iter().map(|row| feed_of_row(batch, spec.view(), *row as usize, sees));
            selected.feed.clear();
            selected.feed.extend(feeds);
        }
        self.call_selected()
    }

    /// Starts the instance if there is none, and introduces the `new` ones of `all` names.
    pub(super) fn make_ready(&mut self, new: Names<'_>, all: Names<'_>) -> Result<(), Fault> {
        match &mut self.instance {
            Some(instance) => introduce(instance, &self.spec, new),
            None => {
                self.instance = Some(start_instance(&self.spec, all)?);
                Ok(())
            }
        }
    }

    /// Records which of the names the detector sees.
    pub(super) fn note_wanted(&mut self, names: Names<'_>) {
        if self.spec.wants_all() {
            return;
        }
        for (id, name) in names.symbols(&self.spec) {
            let id = *id as usize;
            if self.wanted.len() <= id {
                self.wanted.resize(id + 1, false);
            }
            self.wanted[id] = self.spec.wants(name);
        }
    }

    /// Applies other settings of the host to the same plugin and parameters.
    pub(super) fn set_spec(&mut self, spec: Arc<DetectorSpec>, names: Names<'_>) -> Result<(), Fault> {
        self.spec = spec;
        self.wanted.clear();
        self.note_wanted(names);
        self.introduce_all(names)
    }

    /// Introduces those of the shard's names that the instance does not know, if there is an instance.
    pub(super) fn introduce_all(&mut self, names: Names<'_>) -> Result<(), Fault> {
        let Some(instance) = &mut self.instance else { return Ok(()) };
        let unknown = |names: &[(u32, Arc<str>)]| -> Vec<(u32, Arc<str>)> {
            names.iter().filter(|(id, _)| !instance.knows(*id)).cloned().collect()
        };
        let (owners, members) = (unknown(names.owners), unknown(names.members));
        introduce(instance, &self.spec, Names { owners: &owners, members: &members })
    }

    /// Reports that the detector lacks state, unless the slot has reported that before.
    pub(super) fn mark_cold(&mut self, reason: &str) {
        if matches!(self.lacks, ColdReport::None) {
            self.lacks = ColdReport::Due(reason.to_owned());
        }
    }

    /// Hands over all pending states.
    pub(super) fn hand_over_all(&mut self) -> Result<(), Fault> {
        let Some(Predecessor { pending, .. }) = &self.predecessor else { return Ok(()) };
        let all: Vec<u32> = pending.keys().copied().collect();
        for part in all.chunks(HANDED_OVER_PER_BATCH) {
            self.hand_over(part.iter().copied())?;
        }
        Ok(())
    }

    /// Hands over those states of `due` that are pending. Returns a fault of the successor, or of a predecessor that is the
    /// same detector. A fault of another predecessor ends the handover, and the successor continues without the pending
    /// states.
    pub(super) fn hand_over(&mut self, due: impl IntoIterator<Item = u32>) -> Result<(), Fault> {
        let Some(predecessor) = &mut self.predecessor else { return Ok(()) };
        // The successor's ids by the predecessor's, since the states come back under the predecessor's ids.
        let ours: FxHashMap<u32, u32> =
            due.into_iter().filter_map(|our| predecessor.pending.remove(&our).map(|its| (its, our))).collect();
        let (version, kind) = (predecessor.state_version, predecessor.kind);
        let theirs: Vec<u32> = ours.keys().copied().collect();
        let saved = if theirs.is_empty() { Ok(Vec::new()) } else { predecessor.instance.save(&theirs) };
        if saved.is_err() || predecessor.pending.is_empty() {
            self.predecessor = None;
        }
        let saved = match saved {
            Ok(saved) => saved,
            // The caller rebuilds the detector.
            Err(fault) if kind == PredecessorKind::Same => return Err(fault),
            Err(fault) => {
                warn!(
                    event = "state_handover_failed",
                    detector = %self.spec.name,
                    %fault,
                    "a detector failed while it handed over its state to its successor"
                );
                self.mark_cold("its predecessor failed while it handed over its state");
                return Ok(());
            }
        };
        let states: Vec<(u32, &[u8])> = saved.iter().map(|(its, bytes)| (ours[its], bytes.as_slice())).collect();
        if let Some(rejection) = self.restore(version, &states)? {
            self.mark_cold(&format!("it rejects the state of its predecessor: {rejection}"));
        }
        Ok(())
    }

    /// Restores states. If the detector rejects some of them, it restores the others, and returns the reason of one
    /// rejection.
    pub(super) fn restore(&mut self, version: u32, states: &[(u32, &[u8])]) -> Result<Option<String>, Fault> {
        let Some(instance) = &mut self.instance else { return Ok(None) };
        if states.is_empty() || instance.restore(version, states)?.is_ok() {
            return Ok(None);
        }
        // A rejection applies to the whole call. One call per state finds those that can be restored.
        let mut rejection = None;
        for state in states {
            rejection = instance.restore(version, std::slice::from_ref(state))?.err().or(rejection);
        }
        Ok(rejection)
    }

    /// Calls the detector with the selected rows, and converts the rows of detections to those of the shard's batch.
    fn call_selected(&mut self) -> Result<Vec<Detection>, Fault> {
        let selected = std::mem::take(&mut self.selected);
        let answer = self.call(&selected);
        self.selected = selected;
        let mut detections = answer?;
        for detection in &mut detections {
            detection.row = self.selected_rows[detection.row as usize];
        }
        Ok(detections)
    }

    fn call(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        if batch.len() <= ROWS_PER_CALL_MAX {
            return self.call_once(batch);
        }
        let mut all = Vec::new();
        for first in (0..batch.len()).step_by(ROWS_PER_CALL_MAX) {
            let part = batch.rows(first..batch.len().min(first + ROWS_PER_CALL_MAX));
            let detections = self.call_once(&part)?;
            all.extend(detections.into_iter().map(|found| Detection { row: found.row + first as u32, ..found }));
        }
        Ok(all)
    }

    fn call_once(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        let Some(instance) = self.instance.as_mut().filter(|_| !batch.is_empty()) else { return Ok(Vec::new()) };
        let started = Instant::now();
        let detections = instance.detect(batch)?;
        self.spec.health.record_call(batch.len(), started.elapsed());
        Ok(detections)
    }

    /// Hands over the states that this batch needs, and some more.
    fn hand_over_for(&mut self, batch: &Batch) -> Result<(), Fault> {
        // A clock row may concern every symbol.
        if self.spec.plugin.manifest.wants_clock && batch.symbol.contains(&CLOCK) {
            return self.hand_over_all();
        }
        let mut due: FxHashSet<u32> = owners(batch).iter().copied().collect();
        if let Some(Predecessor { pending, .. }) = &self.predecessor {
            due.extend(pending.keys().take(HANDED_OVER_PER_BATCH));
        }
        self.hand_over(due)
    }
}

/// Starts an instance, and introduces those of the names that it sees.
pub(super) fn start_instance(spec: &DetectorSpec, names: Names<'_>) -> Result<Instance, Fault> {
    let mut instance = spec.start()?;
    introduce(&mut instance, spec, names)?;
    Ok(instance)
}

fn introduce(instance: &mut Instance, spec: &DetectorSpec, names: Names<'_>) -> Result<(), Fault> {
    let wanted: Vec<(u32, &str)> = names.of(spec).map(|(id, name)| (*id, &**name)).collect();
    if wanted.is_empty() { Ok(()) } else { instance.introduce(&wanted) }
}

/// Returns whether the detector sees a row. It sees every clock row, since only these show that a symbol has no ticks.
fn sees(wanted: &[bool], symbol: u32) -> bool {
    symbol == CLOCK || wanted.get(symbol as usize) == Some(&true)
}

/// Copies some rows of a batch, and reuses the buffers of `picked`.
fn copy_rows(batch: &Batch, rows: &[u32], picked: &mut Batch) {
    fn copy<T: Copy>(from: &[T], rows: &[u32], to: &mut Vec<T>) {
        to.clear();
        // A list that no detector reads is empty.
        if !from.is_empty() {
            to.extend(rows.iter().map(|row| from[*row as usize]));
        }
    }
    copy(&batch.entry, rows, &mut picked.entry);
    copy(&batch.symbol, rows, &mut picked.symbol);
    copy(&batch.time, rows, &mut picked.time);
    copy(&batch.price, rows, &mut picked.price);
    copy(&batch.group, rows, &mut picked.group);
    copy(&batch.feed, rows, &mut picked.feed);
    picked.columns.resize(batch.columns.len(), Vec::new());
    for (from, to) in batch.columns.iter().zip(&mut picked.columns) {
        copy(from, rows, to);
    }
}
