//! Sorts what a step has read: which entries to process, and what the others mean.
//!
//! What holds: of the entries that the server delivers under our name, those in flight are left to their flights, those
//! that were processed are only acknowledged, and each other one is processed.

use std::collections::BTreeSet;

use tracing::{error, warn};

use super::{Partition, pipeline::report_trimmed};
use tickhound_core::{
    event::{Entries, EntryId},
    position::Progress,
    stream::{Consumers, Delivery, Extent, ReadFrom, ReadRequest, Stream, StreamError},
};

/// Entries that a group which was set back may deliver once more.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    /// Entries that were processed and delivered again: they are only to be acknowledged.
    pub(super) repeated: BTreeSet<EntryId>,
    /// Entries before the newest one that other consumers held at the last check: they have not been processed.
    held_elsewhere: BTreeSet<EntryId>,
}

/// Whether there is more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadProgress {
    /// There may be more.
    Behind,
    /// Nothing is left to read for now.
    CaughtUp,
}

impl Redelivery {
    /// Notes entries that are about to be processed.
    pub(super) fn processing(&mut self, entries: &Entries) {
        if !self.held_elsewhere.is_empty() {
            for entry in entries.iter() {
                self.held_elsewhere.remove(&entry.id);
            }
        }
    }

    /// Notes entries that a commit has acknowledged again.
    pub(super) fn acknowledged(&mut self, repeated: &[EntryId]) {
        for id in repeated {
            self.repeated.remove(id);
        }
    }

    /// Removes entries up to `newest`, which were processed or are in flight. Entries that another consumer held
    /// unprocessed until the group was set back stay.
    fn remove_processed(&mut self, entries: &mut Entries, newest: EntryId, in_flight: &BTreeSet<EntryId>) {
        let ids = entries.iter().map(|entry| entry.id).filter(|id| *id <= newest);
        let processed = ids.filter(|id| !in_flight.contains(id) && !self.held_elsewhere.contains(id));
        let processed: BTreeSet<EntryId> = processed.collect();
        entries.retain(|id| !in_flight.contains(&id) && !processed.contains(&id));
        self.repeated.extend(processed);
    }
}

impl<S: Stream> Partition<S> {
    /// Takes what was read, and says whether there is more to read.
    pub(super) async fn take_delivery(
        &mut self,
        mut delivered: Delivery,
        read: ReadRequest,
    ) -> Result<ReadProgress, StreamError> {
        if self.pipeline.position.began_anew(&delivered) {
            // The next acquisition finds the position of the group in the new stream.
            return Err(StreamError::Unavailable("the stream was deleted and created again".into()));
        }
        let unread = self.pipeline.position.misses(&delivered, read.count) && self.find_missing(&mut delivered).await?;
        let newest = self.pipeline.position.newest();
        let Progress { caught_up, repeated, .. } = self.note_read(&delivered, read.count);
        match read.from {
            ReadFrom::New => {
                if repeated > 0 {
                    self.redelivery.remove_processed(&mut delivered.entries, newest, &self.pipeline.ids());
                }
                self.pipeline.set_fresh(delivered.entries);
            }
            ReadFrom::Pending(_) => self.take_pending(delivered.entries).await?,
        }
        if repeated > 0 {
            // Not past what is in flight, unless it is pending: a group that was created again does not know those
            // entries and must deliver them again if this process ends before it commits them.
            self.stats.waiting(self.stream.restore_group(self.pipeline.position.committed_newest())).await?;
        }
        if unread {
            self.pipeline.position.reread_pending();
        }
        Ok(if caught_up && !unread { ReadProgress::CaughtUp } else { ReadProgress::Behind })
    }

    /// Adopts what dead consumers left, and checks what else is pending under our name. Both are then read like pending
    /// entries at the start. Nothing may be in flight.
    pub(super) async fn adopt(&mut self) -> Result<(), StreamError> {
        let adopted = self.stats.waiting(self.stream.adopt()).await?;
        report_trimmed(&adopted.lost);
        self.account.totals.entries += adopted.lost.len() as u64;
        self.account.totals.lost += adopted.lost.len() as u64;
        let Consumers { alone, own_pending } = adopted.consumers;
        let position = &mut self.pipeline.position;
        if own_pending > 0 {
            if position.from() == ReadFrom::New && adopted.entries == 0 {
                report_unread(own_pending);
            }
            position.reread_pending();
        }
        if !alone || adopted.entries > 0 {
            position.forget_index();
        }
        let newest = position.newest();
        self.redelivery.held_elsewhere = if alone {
            BTreeSet::new()
        } else {
            self.stats.waiting(self.stream.pending(EntryId::ZERO, newest)).await?
        };
        Ok(())
    }

    fn note_read(&mut self, delivered: &Delivery, count: usize) -> Progress {
        let after = self.pipeline.position.last_read();
        let progress = self.pipeline.position.record_read(delivered, count);
        if progress.skipped > 0 {
            let before = delivered.entries.first().map_or_else(|| "the end".to_owned(), |id| id.to_string());
            error!(
                event = "entries_trimmed",
                entries = progress.skipped,
                %after,
                before,
                "entries were trimmed from the stream before they were read"
            );
            self.account.totals.entries += progress.skipped;
            self.account.totals.lost += progress.skipped;
        }
        progress
    }

    /// Finds out about entries that seem to be trimmed. At the last check there was no other consumer. By now one may hold
    /// them, or they are pending under our own name because another client reads under it. Returns whether they are
    /// pending under our name.
    async fn find_missing(&mut self, delivered: &mut Delivery) -> Result<bool, StreamError> {
        let Consumers { alone, own_pending } = self.stats.waiting(self.stream.consumers()).await?;
        let known = self.pipeline.entries() + self.redelivery.repeated.len() + delivered.entries.len();
        let unread = own_pending > known as u64;
        if unread {
            report_unread(own_pending - known as u64);
        }
        if let Some(extent) = delivered.extent {
            delivered.extent = Some(Extent { alone: alone && !unread, ..extent });
        }
        Ok(unread)
    }

    /// Processes entries that were delivered before.
    async fn take_pending(&mut self, mut entries: Entries) -> Result<(), StreamError> {
        if entries.is_empty() {
            self.trial.no_more_pending();
            return Ok(());
        }
        let in_flight = self.pipeline.ids();
        entries.retain(|id| !in_flight.contains(&id) && !self.redelivery.repeated.contains(&id));
        if entries.is_empty() { Ok(()) } else { self.take_recovered(entries).await }
    }
}

fn report_unread(entries: u64) {
    warn!(
        event = "own_pending_unread",
        entries,
        "entries are pending under the consumer name of this host, which never received them; processing them. Does \
         another client read as the consumer stream.consumer?"
    );
}
