//! After a fault: rebuilds the detector, and replays the batch tick by tick to find the tick that caused the fault.
//!
//! What holds: a fault does not affect the other detectors of the shard. The detector misses only the ticks that it fails
//! on, until it exceeds its fault budget.

use std::collections::BTreeMap;

use super::{
    FaultReport, Incidents, Shard,
    rows::{Names, owners},
    slot::start_instance,
};
use crate::plugin::{Detection, Fault};
use tickhound_core::{
    checkpoint::CHUNKS,
    event::{Batch, CLOCK},
};

/// The number of rebuilds in a row that may fail before a new tick is reached. After that the detector starts cold.
const REBUILDS_MAX: u32 = 3;

/// A call with a batch that ended with a fault.
pub(super) struct FailedCall<'a> {
    /// The index of the detector.
    pub(super) detector: usize,
    pub(super) batch: &'a Batch,
    pub(super) fault: Fault,
    /// Whether its faults count against the fault budget.
    pub(super) counts: bool,
}

/// The point in a replay at which it failed.
enum ReplayFailure {
    /// The detector failed while it was rebuilt, or on rows that it had processed before.
    Rebuild(Fault),
    /// The detector failed on this row of the batch.
    Row(usize, Fault),
}

/// The progress of a replay.
#[derive(Default)]
struct BatchReplay {
    /// The number of rows that the detector has processed, or failed on.
    done: usize,
    detections: Vec<Detection>,
}

impl Shard {
    /// Replays the batch of a failed call, and returns the detections in the rows that the detector can process.
    pub(super) fn replay_after_fault(&mut self, call: FailedCall<'_>, incidents: &mut Incidents) -> Vec<Detection> {
        let FailedCall { detector, batch, fault, counts } = call;
        let position = self.journal.end();
        let (mut replay, mut unexplained, mut rebuilds) = (BatchReplay::default(), Some(fault), 0);
        while let Err(failure) = self.replay(detector, batch, &mut replay) {
            // The first fault is one of these failures, so it is reported only if no failure follows.
            unexplained = None;
            let (entry, fault) = match failure {
                ReplayFailure::Row(row, fault) => {
                    self.slots[detector].failed_on.insert((position, row as u32));
                    (replay.done, rebuilds) = (row + 1, 0);
                    (Some(batch.entry[row]), fault)
                }
                ReplayFailure::Rebuild(fault) => {
                    rebuilds += 1;
                    (None, fault)
                }
            };
            // Without room for the states of its symbols, a detector can't be rebuilt, however often that is tried.
            let is_full = entry.is_none() && matches!(fault, Fault::Memory { .. });
            let tolerated = if is_full { 0 } else { self.slots[detector].spec.limits.faults_max };
            let quarantined = counts && self.charge(detector, &fault, tolerated);
            incidents.faulted.push(FaultReport { detector: detector as u16, entry, fault, quarantined });
            if quarantined {
                self.slots[detector].spec.health.record_skipped(batch.len() - replay.done);
                return replay.detections;
            }
            if rebuilds == REBUILDS_MAX {
                let slot = &mut self.slots[detector];
                slot.instance = None;
                slot.mark_cold("it failed each time its state was rebuilt");
                return replay.detections;
            }
        }
        if let Some(fault) = unexplained {
            let quarantined = counts && self.charge(detector, &fault, self.slots[detector].spec.limits.faults_max);
            incidents.faulted.push(FaultReport { detector: detector as u16, entry: None, fault, quarantined });
        }
        replay.detections
    }

    /// Charges a fault to the detector's budget, and quarantines the detector if it has had more than `tolerated` faults.
    /// Returns whether it is in quarantine.
    pub(super) fn charge(&mut self, detector: usize, fault: &Fault, tolerated: usize) -> bool {
        let slot = &mut self.slots[detector];
        let window = slot.spec.limits.fault_window;
        let quarantined = slot.spec.health.record_fault(&fault.to_string(), tolerated, window);
        if quarantined {
            slot.instance = None;
        }
        quarantined
    }

    /// Rebuilds the detector as of the last row that is done, and then processes the other rows one by one.
    fn replay(&mut self, detector: usize, batch: &Batch, replay: &mut BatchReplay) -> Result<(), ReplayFailure> {
        self.rebuild(detector).map_err(ReplayFailure::Rebuild)?;
        let position = self.journal.end();
        let slot = &mut self.slots[detector];
        let failed_on = slot.failed_on.clone();
        let done = (0..replay.done as u32).filter(|row| !failed_on.contains(&(position, *row)));
        // The detections in these rows are known already.
        slot.detect_rows(batch, done).map_err(ReplayFailure::Rebuild)?;
        for row in replay.done..batch.len() {
            let detections = slot.detect_rows(batch, std::iter::once(row as u32));
            replay.detections.extend(detections.map_err(|fault| ReplayFailure::Row(row, fault))?);
            replay.done = row + 1;
        }
        Ok(())
    }

    /// Starts an instance with the state as of the end of the journal, from saved states and the batches since.
    pub(super) fn rebuild(&mut self, detector: usize) -> Result<(), Fault> {
        let Self { symbols, members, slots, memory, journal, .. } = self;
        let slot = &mut slots[detector];
        (slot.instance, slot.predecessor) = (None, None);
        slot.instance = Some(start_instance(&slot.spec, Names { owners: symbols, members })?);
        // Chunks were saved at different positions. Each is restored when the replay reaches its position, and the rows
        // of its symbols before that are left out.
        let mut marks: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        for chunk in (0..CHUNKS).filter(|chunk| !memory.symbols_of(*chunk).is_empty()) {
            marks.entry(journal.mark_of(chunk)).or_default().push(chunk);
        }
        for (position, rows) in journal.batches() {
            for chunk in marks.remove(&position).into_iter().flatten() {
                memory.restore_chunk(chunk, slot)?;
            }
            let Some(batch) = rows.of_view(slot.spec.view()) else { continue };
            // The rows borrow the set while the slot is borrowed mutably.
            let failed_on = std::mem::take(&mut slot.failed_on);
            // A symbol that was evicted since is unknown to the new instance.
            let is_restored = |owner: u32| {
                owner == CLOCK || memory.knows(owner) && journal.mark_of(memory.chunk_of(owner)) <= position
            };
            let rows = (0u32..).zip(owners(batch)).filter(|(_, owner)| is_restored(**owner)).map(|(row, _)| row);
            let answer = slot.detect_rows(batch, rows.filter(|row| !failed_on.contains(&(position, *row))));
            slot.failed_on = failed_on;
            answer?;
        }
        // These chunks were saved after the last batch.
        for chunk in marks.into_values().flatten() {
            memory.restore_chunk(chunk, slot)?;
        }
        Ok(())
    }
}
