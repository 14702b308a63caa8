//! What a step has read: which of it is to be processed, and what the rest means.
//!
//! What holds: of the entries that the server hands out under our name, those in flight are left to their flights,
//! those that were processed are only acknowledged, and each other one is processed.

use std::collections::BTreeSet;

use tracing::{error, warn};

use super::{Engine, tell_lost};
use crate::commit::Flight;
use tickhound_core::{
    event::{Entries, EntryId},
    position::Progress,
    stream::{Consumers, Delivery, Extent, ReadFrom, ReadRequest, Stream, StreamError},
};

impl<S: Stream> Engine<S> {
    /// Takes up what was read. Whether there is nothing more to read for now.
    pub(super) async fn take_delivered(
        &mut self,
        mut delivered: Delivery,
        read: ReadRequest,
    ) -> Result<bool, StreamError> {
        if self.position.began_anew(&delivered) {
            // An acquisition looks where the group of the new stream stands.
            return Err(StreamError::Unavailable("the stream was deleted and begins anew".into()));
        }
        let unread = self.position.misses(&delivered, read.count) && self.look_for_missing(&mut delivered).await?;
        let newest = self.position.newest();
        let Progress { caught_up, repeated, .. } = self.note_read(&delivered, read.count);
        match read.from {
            ReadFrom::New => {
                if repeated > 0 {
                    self.leave_out_repeated(&mut delivered.entries, newest);
                }
                self.fresh = delivered.entries;
            }
            ReadFrom::Pending(_) => self.take_pending(delivered.entries).await?,
        }
        if repeated > 0 {
            // Not past what is in flight, unless it is pending: a group that was made anew does not know it, and must hand
            // it out again, lest it is lost with this process.
            self.stream.restore_group(self.position.committed_newest()).await?;
        }
        if unread {
            self.position.reread_pending();
        }
        Ok(caught_up && !unread)
    }

    /// Takes over what dead consumers left, and finds what else is pending under our name; both are then read like
    /// what was pending at the start. Nothing is in flight meanwhile.
    pub(super) async fn adopt(&mut self) -> Result<(), StreamError> {
        let adopted = self.stats.waiting(self.stream.adopt()).await?;
        tell_lost(&adopted.lost);
        self.totals.entries += adopted.lost.len() as u64;
        self.totals.lost += adopted.lost.len() as u64;
        let Consumers { alone, own_pending } = adopted.consumers;
        if own_pending > 0 {
            if self.position.from() == ReadFrom::New && adopted.entries == 0 {
                tell_unread(own_pending);
            }
            self.position.reread_pending();
        }
        if !alone || adopted.entries > 0 {
            self.position.count_anew();
        }
        self.elsewhere = if alone {
            BTreeSet::new()
        } else {
            self.stats.waiting(self.stream.pending(EntryId::ZERO, self.position.newest())).await?
        };
        Ok(())
    }

    fn note_read(&mut self, delivered: &Delivery, count: usize) -> Progress {
        let after = self.position.last_read();
        let progress = self.position.read(delivered, count);
        if progress.skipped > 0 {
            let before = delivered.entries.first().map_or_else(|| "the end".to_owned(), |id| id.to_string());
            error!(
                event = "entries_trimmed",
                entries = progress.skipped,
                %after,
                before,
                "entries were trimmed from the stream before they were read"
            );
            self.totals.entries += progress.skipped;
            self.totals.lost += progress.skipped;
        }
        progress
    }

    /// Entries seem to have vanished. When it was last looked, no other consumer was at work; what is missing may be
    /// in the hands of one, or pending under our own name because somebody else reads under it. Whether it is the latter.
    async fn look_for_missing(&mut self, delivered: &mut Delivery) -> Result<bool, StreamError> {
        let Consumers { alone, own_pending } = self.stream.consumers().await?;
        let known = self.in_flight + self.repeated.len() + delivered.entries.len();
        let unread = own_pending > known as u64;
        if unread {
            tell_unread(own_pending - known as u64);
        }
        if let Some(extent) = delivered.extent {
            delivered.extent = Some(Extent { alone: alone && !unread, ..extent });
        }
        Ok(unread)
    }

    /// Leaves out entries up to `newest`, which were processed or are in flight; unless another consumer held them
    /// unprocessed until the group was set back.
    fn leave_out_repeated(&mut self, entries: &mut Entries, newest: EntryId) {
        let in_flight = self.ids_in_flight();
        let ids = entries.iter().map(|entry| entry.id).filter(|id| *id <= newest);
        let processed = ids.filter(|id| !in_flight.contains(id) && !self.elsewhere.contains(id));
        let processed: BTreeSet<EntryId> = processed.collect();
        entries.retain(|id| !in_flight.contains(&id) && !processed.contains(&id));
        self.repeated.extend(processed);
    }

    /// Processes what was pending before, in this life or another.
    async fn take_pending(&mut self, mut entries: Entries) -> Result<(), StreamError> {
        if entries.is_empty() {
            (self.trial.first, self.trial.careful) = (false, 0);
            return Ok(());
        }
        let in_flight = self.ids_in_flight();
        entries.retain(|id| !in_flight.contains(&id) && !self.repeated.contains(&id));
        if entries.is_empty() { Ok(()) } else { self.take_up(entries).await }
    }

    /// Entries between read and commit, those of an open commit included.
    pub(super) fn ids_in_flight(&self) -> BTreeSet<EntryId> {
        let open = self.position.open_entries().iter().copied();
        self.flights.iter().flat_map(Flight::ids).chain(open).collect()
    }
}

fn tell_unread(entries: u64) {
    warn!(
        event = "own_pending_unread",
        entries,
        "entries are pending under the consumer name of this host, which never received them; processing them. Does \
         another client read as the consumer stream.consumer?"
    );
}
