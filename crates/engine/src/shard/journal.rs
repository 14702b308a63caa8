//! The batches since states were last saved, so that a detector that failed can be brought back to
//! where it was.
//!
//! What holds: from what is kept of a chunk's symbols, and the rows of these symbols in the journal
//! from the chunk's mark on, comes what a detector knows of them now.

use std::collections::VecDeque;

use tickhound_core::{checkpoint::CHUNKS, event::Batch};

pub(super) struct Journal {
    /// Normalised, all rows of the shard.
    batches: VecDeque<Batch>,
    /// Position of the first of them; positions count from the shard's start.
    first: u64,
    /// By chunk: the position that what is kept of its symbols is as of.
    marks: Vec<u64>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { batches: VecDeque::new(), first: 0, marks: vec![0; usize::from(CHUNKS)] }
    }
}

impl Journal {
    pub(super) fn push(&mut self, batch: Batch) {
        self.batches.push_back(batch);
    }

    /// Position of the next batch.
    pub(super) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Position of the oldest batch.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn mark_of(&self, chunk: u16) -> u64 {
        self.marks[usize::from(chunk)]
    }

    /// What is kept of a chunk's symbols is as of now.
    pub(super) fn mark(&mut self, chunk: u16) {
        self.marks[usize::from(chunk)] = self.end();
    }

    /// Drops what no chunk in use needs any more.
    pub(super) fn trim(&mut self, used: impl Fn(u16) -> bool) {
        let needed = (0..CHUNKS).filter(|chunk| used(*chunk)).map(|chunk| self.mark_of(chunk)).min();
        let needed = needed.unwrap_or_else(|| self.end());
        while self.first < needed && self.batches.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Every batch with its position.
    pub(super) fn batches(&self) -> impl Iterator<Item = (u64, &Batch)> {
        (self.first..).zip(&self.batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_kept_as_long_as_a_chunk_in_use_needs_it() {
        let mut journal = Journal::default();
        let positions = |journal: &Journal| journal.batches().map(|(position, _)| position).collect::<Vec<_>>();
        for _ in 0..3 {
            journal.push(Batch::default());
        }
        journal.mark(7);
        journal.push(Batch::default());
        journal.trim(|chunk| chunk == 7 || chunk == 8);
        assert_eq!(positions(&journal), [0, 1, 2, 3], "chunk 8 is as of the beginning");
        journal.trim(|chunk| chunk == 7);
        assert_eq!((positions(&journal), journal.end()), (vec![3], 4));
        journal.trim(|_| false);
        assert!(positions(&journal).is_empty());
    }
}
