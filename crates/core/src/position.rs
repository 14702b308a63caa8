//! The position of a host in its partition: what it knows to be committed, and where it continues to read.
//!
//! These are the decisions of the commit protocol, without any I/O. The tests run two hosts, each with its position,
//! against a model of the server, in random orders of reads, commits, lost answers, crashes and takeovers.
//!
//! What holds: a commit whose answer was lost is *unknown* until an acquisition shows whether it happened. It is then
//! confirmed or tried again, and never dropped while its entries are in flight.

use crate::{
    event::{Entries, EntryId},
    stream::{Acquisition, Commit, CommitId, Delivery, ReadFrom},
};

/// What an acquisition means for the entries that the host has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// No other host has committed since: the entries in flight are still valid.
    Undisturbed,
    /// The server has lost the entries that were read, and no other host has committed since. Only this host knows them,
    /// so those in flight are still valid. All states must be saved again, because ids may restart.
    Emptied,
    /// Another host has committed, or this is the first acquisition: the host starts from the saved states.
    Afresh,
}

/// What a read has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether there is nothing more to read for now.
    pub caught_up: bool,
    /// The number of entries that were trimmed before they were read.
    pub skipped: u64,
    /// The number of leading entries that had been processed before, because the group was set back.
    pub repeated: usize,
}

/// The position of one host in one partition.
#[derive(Debug)]
pub struct Position {
    /// The epoch of the last acquisition; 0 before the first.
    epoch: u64,
    /// The token of the last acquisition.
    token: u64,
    /// The last commit that is known to have happened.
    last_commit: CommitId,
    /// A commit whose step failed, so that it is not known whether it happened.
    unknown_commit: Option<Commit>,
    /// Whether the detectors' states include every entry up to `newest`.
    is_restored: bool,
    /// Where the next read begins.
    from: ReadFrom,
    /// The newest entry that was read.
    last_read: EntryId,
    /// The newest entry that was processed, or is about to be.
    newest: EntryId,
    /// The number of entries ever added to the stream up to `newest`, if it is known. If entries are trimmed unread, this
    /// falls behind the server's count.
    index: Option<u64>,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            epoch: 0,
            token: 0,
            last_commit: CommitId::default(),
            unknown_commit: None,
            is_restored: false,
            from: ReadFrom::Pending(EntryId::ZERO),
            last_read: EntryId::ZERO,
            newest: EntryId::ZERO,
            index: None,
        }
    }
}

impl Position {
    /// The epoch of the last acquisition; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the next read begins.
    pub fn from(&self) -> ReadFrom {
        self.from
    }

    /// The newest entry that was read.
    pub fn last_read(&self) -> EntryId {
        self.last_read
    }

    /// The newest entry that was processed, or is about to be.
    pub fn newest(&self) -> EntryId {
        self.newest
    }

    /// The newest entry of the last commit that is known to have happened.
    pub fn committed_newest(&self) -> EntryId {
        self.last_commit.newest
    }

    /// The number of entries ever added to the stream up to the newest, if it is known.
    pub fn index(&self) -> Option<u64> {
        self.index
    }

    /// Whether there is an unknown commit. It must be tried again before any other commit.
    pub fn has_unsettled(&self) -> bool {
        self.unknown_commit.is_some()
    }

    /// Reconciles the unknown commit with an acquisition: returns it if the acquisition shows that it happened.
    pub fn settle(&mut self, acquired: &Acquisition) -> Option<Commit> {
        let happened = self.unknown_commit.take_if(|commit| {
            // Compared under the epoch of the commit: the epoch of this acquisition says nothing, since an acquisition
            // whose answer was lost has raised it, too.

            let Self { epoch, token, .. } = *self;
            commit_id(commit, epoch, token) == acquired.last_commit
        })?;
        self.committed(&happened);
        Some(happened)
    }

    /// The entries of the unknown commit.
    pub fn open_entries(&self) -> &[EntryId] {
        self.unknown_commit.as_ref().map_or(&[], |commit| &commit.done)
    }

    /// Continues after an acquisition, once the unknown commit is reconciled with it. `forgotten` says that the server
    /// does not know all entries in flight any more; those that another host has acknowledged do not count.
    ///
    /// The next read begins at the first pending entry, even if no other host has committed: a lost answer leaves entries
    /// pending, and so does a standby that dies after an adoption. The caller leaves out the entries in flight.
    pub fn resume(&mut self, acquired: &Acquisition, forgotten: bool) -> Resume {
        let last = acquired.last_commit;
        let is_ours = self.is_restored && last == self.last_commit;
        // The group was created again, or the server fell back to an earlier state: entries that are in flight will be
        // delivered a second time.
        let went_back = forgotten || acquired.last_delivered < self.last_read;
        let entries_gone = acquired.began_anew || acquired.oldest.is_none_or(|oldest| oldest > self.last_read);
        // A server without any commit has lost everything. That is no other host's commit.
        let emptied = self.is_restored && (is_ours || last == CommitId::default()) && entries_gone;
        (self.epoch, self.token) = (acquired.epoch, acquired.token);
        self.from = ReadFrom::Pending(EntryId::ZERO);
        if is_ours && !went_back && !acquired.began_anew {
            return Resume::Undisturbed;
        }
        self.last_commit = last;
        if emptied {
            // New entries may have lower ids than those that were processed.
            (self.last_read, self.newest, self.index) = (EntryId::ZERO, EntryId::ZERO, None);
            return Resume::Emptied;
        }
        // From here on the server decides: what this host has in flight, another host has processed or will be delivered
        // again.
        self.unknown_commit = None;
        self.is_restored = false;
        self.last_read = acquired.last_delivered;
        self.newest = acquired.newest.unwrap_or(acquired.last_delivered);
        if acquired.began_anew {
            (self.last_read, self.newest) = (EntryId::ZERO, EntryId::ZERO);
        }
        self.index = acquired.index;
        Resume::Afresh
    }

    /// Notes that the detectors' states include every entry up to the last commit.
    pub fn restored(&mut self) {
        self.is_restored = true;
    }

    /// Takes the unknown commit, to try it again.
    pub fn take_unsettled(&mut self) -> Option<Commit> {
        self.unknown_commit.take()
    }

    /// Notes that the step of a commit failed, so that it is not known whether the commit happened.
    pub fn unsettled(&mut self, commit: Commit) {
        // A commit that is not counted processes no entries and saves no states, so it need not be tried again.
        self.unknown_commit = commit.is_counted().then_some(commit);
    }

    /// Notes that a commit has happened.
    pub fn committed(&mut self, commit: &Commit) {
        if commit.is_counted() {
            self.last_commit = commit_id(commit, self.epoch, self.token);
        }
    }

    /// Notes a read of at most `count` entries.
    pub fn read(&mut self, delivered: &Delivery, count: usize) -> Progress {
        let entries = &delivered.entries;
        let last = entries.last();
        let from = self.from;
        if let Some(last) = last {
            self.last_read = self.last_read.max(last);
        }
        // Pending entries are read page by page. An empty page ends them, and new entries follow.
        if let ReadFrom::Pending(_) = from {
            self.from = last.map_or(ReadFrom::New, ReadFrom::Pending);
        }
        let caught_up = from == ReadFrom::New && entries.len() < count;
        let repeated = self.repeated(from, delivered);
        let (index, skipped) = self.count_along(delivered, repeated, caught_up);
        self.index = index;
        Progress { caught_up, skipped, repeated }
    }

    /// The number of leading entries that are not newer than those processed. A group delivers each new entry once and in
    /// order, so it must have been set back.
    fn repeated(&self, from: ReadFrom, delivered: &Delivery) -> usize {
        if from != ReadFrom::New || delivered.newest.is_none() {
            return 0;
        }
        delivered.entries.iter().take_while(|entry| entry.id <= self.newest).count()
    }

    /// Whether the stream was deleted and filled again: its newest id is below that of an entry that was read from it.
    pub fn began_anew(&self, delivered: &Delivery) -> bool {
        delivered.newest.is_some_and(|newest| newest < self.last_read)
    }

    /// Whether a read of at most `count` entries shows that entries are missing. Another consumer may have received them.
    pub fn misses(&self, delivered: &Delivery, count: usize) -> bool {
        let caught_up = self.from == ReadFrom::New && delivered.entries.len() < count;
        self.count_along(delivered, self.repeated(self.from, delivered), caught_up).1 > 0
    }

    /// Compares the server's counts with the entries that were read. Returns the number of entries up to this read, if it
    /// is known, and how many of them were trimmed before the group received them.
    fn count_along(&self, delivered: &Delivery, repeated: usize, caught_up: bool) -> (Option<u64>, u64) {
        let Some(extent) = delivered.extent else { return (self.index, 0) };
        let before = self.index;
        let read = (delivered.entries.len() - repeated) as u64;
        // The server also counts entries that another consumer received. They may still be adopted, and are then counted
        // here, so the server's count is only taken over if this host has received the newest entry.
        let at_the_end = extent.alone
            || delivered
                .newest
                .is_none_or(|newest| delivered.entries.last().unwrap_or(self.newest).max(self.newest) >= newest);
        // Trimming removes the oldest entries, so those removed beyond `index` were never read.
        let mut index = before.map(|index| index.max(extent.removed));
        if caught_up && at_the_end {
            index = Some(extent.added.saturating_sub(read));
        } else if !extent.alone {
            index = None;
        }
        // With other consumers, a missing entry may be one of theirs.
        match (before, index) {
            (Some(before), Some(now)) if extent.alone => (index, now.saturating_sub(before)),
            _ => (index, 0),
        }
    }

    /// Makes the next read begin at the first pending entry, because entries were added to the pending ones.
    pub fn reread_pending(&mut self) {
        self.from = ReadFrom::Pending(EntryId::ZERO);
    }

    /// Forgets the number of entries up to the newest, until the next read to the end of the stream: other consumers hold
    /// or held entries, perhaps some between those that were read.
    pub fn count_anew(&mut self) {
        self.index = None;
    }

    /// Notes that these entries are about to be processed. Returns whether they are out of order, that is older than
    /// entries that were processed before.
    pub fn works(&mut self, entries: &Entries) -> bool {
        let out_of_order = entries.first().is_some_and(|first| first <= self.newest);
        // Older entries were pending for other consumers while the newest was read, and may not have been counted then.
        self.index = self.index.filter(|_| !out_of_order).map(|index| index + entries.len() as u64);
        self.newest = entries.last().map_or(self.newest, |last| last.max(self.newest));
        out_of_order
    }
}

/// The id of a commit made under an acquisition.
fn commit_id(commit: &Commit, epoch: u64, token: u64) -> CommitId {
    CommitId { number: commit.totals.commits, epoch, token, newest: commit.newest }
}

#[cfg(test)]
mod tests;
