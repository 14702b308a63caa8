//! After a fault: back to where the detector was, then tick by tick, to find the one to blame.
//!
//! What holds: whoever else works in the shard notices nothing; the detector misses the ticks that it
//! fails on and no other, until it has failed too often.

use std::collections::BTreeMap;

use super::{Faulted, Shard, Worked, slot::started};
use crate::plugin::{Fault, bindings::tickhound::detector::types::Detection};
use tickhound_core::{
    checkpoint::CHUNKS,
    event::{Batch, CLOCK},
};

/// If it fails even without a new tick this often in a row, it begins anew without a state.
const REBUILDS_MAX: u32 = 3;

/// Where it failed: at a row of the batch, or before it came to one.
struct Failed {
    row: Option<usize>,
    fault: Fault,
}

impl Shard {
    /// A detector has failed somewhere in `batch`. What it finds in the rows that it can work.
    pub(super) fn mend(
        &mut self,
        number: usize,
        batch: &Batch,
        first: Fault,
        counts: bool,
        worked: &mut Worked,
    ) -> Vec<Detection> {
        let position = self.journal.end();
        let (mut found, mut done, mut unexplained, mut rebuilds) = (Vec::new(), 0, Some(first), 0);
        loop {
            let Err(Failed { row, fault }) = self.go_on(number, batch, &mut done, &mut found) else {
                if let Some(fault) = unexplained {
                    self.report(number, None, fault, counts, worked);
                }
                return found;
            };
            unexplained = None;
            let entry = row.map(|row| batch.entry[row]);
            if let Some(row) = row {
                self.slots[number].failed_on.insert((position, row as u32));
                done = row + 1;
            }
            if self.report(number, entry, fault, counts, worked) {
                self.slots[number].spec.health.skipped(batch.len() - done);
                return found;
            }
            rebuilds = if row.is_some() { 0 } else { rebuilds + 1 };
            if rebuilds == REBUILDS_MAX {
                let slot = &mut self.slots[number];
                slot.instance = None;
                slot.lack("it failed whenever it was brought back to where it was");
                return found;
            }
        }
    }

    /// Whether that was one fault too many.
    fn report(&mut self, number: usize, entry: Option<u32>, fault: Fault, counts: bool, worked: &mut Worked) -> bool {
        let slot = &mut self.slots[number];
        let limits = slot.spec.limits;
        let quarantined = counts && slot.spec.health.failed(&fault.to_string(), limits.faults_max, limits.fault_window);
        if quarantined {
            slot.instance = None;
        }
        worked.faulted.push(Faulted { detector: number as u16, entry, fault, quarantined });
        quarantined
    }

    /// Brings it back to where it was after the row before `done`, and on from there row by row.
    fn go_on(
        &mut self,
        number: usize,
        batch: &Batch,
        done: &mut usize,
        found: &mut Vec<Detection>,
    ) -> Result<(), Failed> {
        self.rebuild(number).map_err(|fault| Failed { row: None, fault })?;
        let position = self.journal.end();
        let slot = &mut self.slots[number];
        let failed_on = slot.failed_on.clone();
        let before = (0..*done as u32).filter(|row| !failed_on.contains(&(position, *row)));
        slot.detect_rows(batch, before).map_err(|fault| Failed { row: None, fault })?;
        for row in *done..batch.len() {
            let detections = slot.detect_rows(batch, std::iter::once(row as u32));
            found.extend(detections.map_err(|fault| Failed { row: Some(row), fault })?);
            *done = row + 1;
        }
        Ok(())
    }

    /// A fresh instance that knows what it knew at the end of the journal: from what is kept, and what
    /// came after it.
    pub(super) fn rebuild(&mut self, number: usize) -> Result<(), Fault> {
        let Self { symbols, slots, memory, journal, .. } = self;
        let slot = &mut slots[number];
        (slot.instance, slot.predecessor) = (None, None);
        slot.instance = Some(started(&slot.spec, symbols)?);
        let mut marks: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        for chunk in (0..CHUNKS).filter(|chunk| !memory.symbols_of(*chunk).is_empty()) {
            marks.entry(journal.mark_of(chunk)).or_default().push(chunk);
        }
        for (position, batch) in journal.batches() {
            for chunk in marks.remove(&position).into_iter().flatten() {
                memory.restore_kept(chunk, slot)?;
            }
            let failed_on = std::mem::take(&mut slot.failed_on);
            let known = |symbol: u32| symbol == CLOCK || journal.mark_of(memory.chunk_of(symbol)) <= position;
            let rows = (0u32..).zip(&batch.symbol).filter(|(_, symbol)| known(**symbol)).map(|(row, _)| row);
            let answer = slot.detect_rows(batch, rows.filter(|row| !failed_on.contains(&(position, *row))));
            slot.failed_on = failed_on;
            answer?;
        }
        for chunk in marks.into_values().flatten() {
            memory.restore_kept(chunk, slot)?;
        }
        Ok(())
    }
}
