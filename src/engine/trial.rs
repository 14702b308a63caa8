//! Entries that end the process whenever they are worked.
//!
//! Which one it was, a process that has ended can't tell. So the first pending entry of a recovery is
//! worked alone, and marked as tried before. If the mark is still there at the next start, the
//! recovery did not come to its end: then pending entries are worked and marked one by one.

use tracing::error;

use super::Engine;
use crate::{
    checkpoint::CHUNKS,
    commit::Flight,
    event::{Entries, EntryId},
    stream::{Commit, From, Read, Stream, StreamError},
};

/// Marks a recovery that has come to its end.
pub(super) const NO_ATTEMPT: (EntryId, u64) = (EntryId::ZERO, 0);

/// What is known of pending entries that were tried before.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The first pending entry is read alone, and marked as tried.
    pub(super) first: bool,
    /// The last recovery did not come to its end: so many pending entries are worked and marked one by
    /// one, so that the one that ends the process becomes known. No more were in hand when it ended.
    pub(super) careful: usize,
    /// The pending entry that was tried last, and how often. Kept with the partition until all that was
    /// pending is worked.
    pub(super) attempt: Option<(EntryId, u64)>,
}

impl<S: Stream> Engine<S> {
    /// How many entries to read now.
    pub(super) fn wanted(&self) -> usize {
        let free = self.generation.flow.backlog.saturating_sub(self.in_flight + self.fresh.len());
        match self.position.from() {
            From::Pending(_) if self.trial.careful > 0 && !self.is_idle() => 0,
            From::Pending(_) if self.trial.careful > 0 || self.trial.first => 1,
            _ => free.min(self.generation.flow.batch),
        }
    }

    /// Works what was read and had been read before, unless it is an entry that has ended the process too often.
    pub(super) async fn take_up(&mut self, entries: Entries) -> Result<(), StreamError> {
        let alone = self.trial.careful > 0 || self.trial.first;
        let (true, Some(entry)) = (alone, entries.first()) else {
            self.submit(entries, true).await;
            return Ok(());
        };
        self.trial.first = false;
        self.trial.careful = self.trial.careful.saturating_sub(1);
        let before = self.trial.attempt.filter(|(tried, _)| *tried == entry).map_or(0, |(_, times)| times);
        // It was given to this group once before its first recovery.
        let deliveries = before + 1;
        let most = self.config.stream.max_deliveries;
        if most > 0 && deliveries >= most {
            error!(%entry, deliveries, "a host has died whenever it worked this entry; it is set aside");
            let reason =
                format!("a host died each of the {deliveries} times that it worked this entry (stream.max_deliveries)");
            self.set_aside(entries, reason).await;
            return Ok(());
        }
        let attempt = Some((entry, before + 1));
        let mark = Commit { attempt, ..Commit::default() };
        if let Err(error) = self.step(mark, Read { from: self.position.from(), count: 0 }).await {
            // Nothing is in flight: reading from the start finds this entry again.
            self.position.reread_pending();
            self.trial.first = true;
            return Err(error);
        }
        self.submit(entries, true).await;
        Ok(())
    }

    async fn set_aside(&mut self, entries: Entries, reason: String) {
        self.reads += 1;
        self.poison.extend(entries.first());
        let out_of_order = self.position.works(&entries);
        let mut flight = Flight::set_aside(self.reads, entries, reason, self.place());
        flight.out_of_order = out_of_order;
        self.launch(flight);
        if out_of_order {
            self.visit(0..CHUNKS).await;
        }
    }
}
