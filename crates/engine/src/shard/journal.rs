//! The batches since states were last saved, from which a detector's state is rebuilt after a fault.
//!
//! What holds: the current state of a symbol follows from its saved state and from the symbol's rows in the journal since
//! its chunk's mark.

use std::collections::VecDeque;

use super::rows::ShardRows;
use tickhound_core::checkpoint::CHUNKS;

/// The batches of a shard, back to the oldest mark of a used chunk.
pub(super) struct Journal {
    /// All rows of the shard, normalized.
    batches: VecDeque<ShardRows>,
    /// The position of the first batch. Positions count from the shard's start.
    first: u64,
    /// The position at which a chunk was last saved, by chunk.
    marks: Vec<u64>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { batches: VecDeque::new(), first: 0, marks: vec![0; usize::from(CHUNKS)] }
    }
}

impl Journal {
    /// Appends a batch.
    pub(super) fn push(&mut self, batch: ShardRows) {
        self.batches.push_back(batch);
    }

    /// Returns the position of the next batch.
    pub(super) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Returns the position of the oldest batch.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the position at which a chunk was last saved.
    pub(super) fn mark_of(&self, chunk: u16) -> u64 {
        self.marks[usize::from(chunk)]
    }

    /// Marks a chunk as saved at the current position.
    pub(super) fn mark(&mut self, chunk: u16) {
        self.marks[usize::from(chunk)] = self.end();
    }

    /// Drops the batches that no used chunk needs.
    pub(super) fn trim(&mut self, used: impl Fn(u16) -> bool) {
        let needed = (0..CHUNKS).filter(|chunk| used(*chunk)).map(|chunk| self.mark_of(chunk)).min();
        let needed = needed.unwrap_or_else(|| self.end());
        while self.first < needed && self.batches.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Returns every batch with its position.
    pub(super) fn batches(&self) -> impl Iterator<Item = (u64, &ShardRows)> {
        (self.first..).zip(&self.batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stays_as_long_as_a_used_chunk_needs_it() {
        let mut journal = Journal::default();
        let positions = |journal: &Journal| journal.batches().map(|(position, _)| position).collect::<Vec<_>>();
        for _ in 0..3 {
            journal.push(ShardRows::default());
        }
        journal.mark(7);
        journal.push(ShardRows::default());
        journal.trim(|chunk| chunk == 7 || chunk == 8);
        assert_eq!(positions(&journal), [0, 1, 2, 3], "chunk 8 was never saved");
        journal.trim(|chunk| chunk == 7);
        assert_eq!((positions(&journal), journal.end()), (vec![3], 4));
        journal.trim(|_| false);
        assert!(positions(&journal).is_empty());
    }
}
