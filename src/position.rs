//! Where a host stands in its partition: what it knows to be committed, and where it reads on.
//!
//! The decisions of the commit protocol, without any I/O: `tests` has two hosts with positions of
//! their own at one model of a server, in every order of reads, commits, lost answers, crashes and
//! take-overs that chance comes up with.

use crate::{
    event::{Entries, EntryId},
    stream::{Acquired, Commit, Delivered, Extent, From},
};

/// What an acquisition means for what the host has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nobody else has committed meanwhile: what is in flight goes on.
    Undisturbed,
    /// The server has lost all that it knew, the entries that were read too, and nobody has committed
    /// since: only this host knows, so what is in flight goes on. The states have to be saved again.
    Emptied,
    /// Another host has committed, or this is the first time: everything from what is saved.
    Afresh,
}

/// What a read has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// There is nothing more to read for now.
    pub caught_up: bool,
    /// Entries that were trimmed away unread.
    pub skipped: u64,
}

/// Of one host in one partition.
#[derive(Debug)]
pub struct Position {
    /// Under which the partition is ours; 0 before the first time.
    epoch: u64,
    /// Number and epoch of the last commit that is known to have happened.
    last_commit: (u64, u64),
    /// A commit whose step failed: it may have happened.
    unsettled: Option<Commit>,
    /// Everything up to `newest` is known to the detectors, or set aside.
    ready: bool,
    from: From,
    last_read: EntryId,
    newest: EntryId,
    /// Entries ever added to the stream up to `newest`, if that is known: where entries vanish unread,
    /// it falls behind what the server counts.
    index: Option<u64>,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            epoch: 0,
            last_commit: (0, 0),
            unsettled: None,
            ready: false,
            from: From::Pending(EntryId::ZERO),
            last_read: EntryId::ZERO,
            newest: EntryId::ZERO,
            index: None,
        }
    }
}

impl Position {
    /// Epoch of the last acquisition; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the next read begins.
    pub fn from(&self) -> From {
        self.from
    }

    /// The newest entry that was read, for waiting behind it.
    pub fn last_read(&self) -> EntryId {
        self.last_read
    }

    /// The newest entry that the detectors know of, or are about to.
    pub fn newest(&self) -> EntryId {
        self.newest
    }

    /// Entries ever added to the stream up to the newest, if that is known.
    pub fn index(&self) -> Option<u64> {
        self.index
    }

    /// A commit that may have happened is open: it is tried again before anything else.
    pub fn has_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    /// The open commit, if this acquisition shows that it happened.
    ///
    /// A commit is known by its number and the epoch it was made under: two hosts may count alike. The
    /// current epoch tells nothing: an acquisition whose answer was lost has raised it too.
    pub fn settle(&mut self, acquired: &Acquired) -> Option<Commit> {
        let last = last_commit(acquired);
        let happened = self.unsettled.take_if(|commit| (commit.totals.commits, self.epoch) == last)?;
        self.committed(&happened);
        Some(happened)
    }

    /// Entries of the open commit.
    pub fn open_entries(&self) -> &[EntryId] {
        self.unsettled.as_ref().map_or(&[], |commit| &commit.done)
    }

    /// The partition is ours (again), and what was open is settled. `held`: every entry in hand is
    /// pending under our name. If not, the group has gone back or was made anew, and hands them out again.
    pub fn resume(&mut self, acquired: &Acquired, held: bool) -> Resume {
        let last = last_commit(acquired);
        let gone_back = !held || acquired.last_delivered < self.last_read;
        let undisturbed = self.ready && last == self.last_commit && !gone_back;
        // What is still there will be handed out again.
        let emptied = self.ready && last == (0, 0) && acquired.oldest.is_none_or(|oldest| oldest > self.last_read);
        self.epoch = acquired.epoch;
        if undisturbed {
            // What is in flight lies before this point; an answer that was lost left its entries after it.
            if self.from == From::New {
                self.from = From::Pending(self.last_read);
            }
            return Resume::Undisturbed;
        }
        self.last_commit = last;
        self.from = From::Pending(EntryId::ZERO);
        if emptied {
            // Ids may begin again.
            (self.last_read, self.newest, self.index) = (EntryId::ZERO, EntryId::ZERO, None);
            return Resume::Emptied;
        }
        self.unsettled = None;
        self.ready = false;
        self.last_read = acquired.last_delivered;
        self.newest = acquired.newest.unwrap_or(acquired.last_delivered);
        self.index = acquired.index;
        Resume::Afresh
    }

    /// Detectors know everything up to the newest commit.
    pub fn restored(&mut self) {
        self.ready = true;
    }

    /// The open commit, to be tried again.
    pub fn take_unsettled(&mut self) -> Option<Commit> {
        self.unsettled.take()
    }

    /// This commit's step failed; whether it happened is not known.
    pub fn unsettled(&mut self, commit: Commit) {
        self.unsettled = commit.is_counted().then_some(commit);
    }

    /// This commit has happened.
    pub fn committed(&mut self, commit: &Commit) {
        if commit.is_counted() {
            self.last_commit = (commit.totals.commits, self.epoch);
        }
    }

    /// Takes note of a read of at most `count` entries.
    pub fn read(&mut self, delivered: &Delivered, count: usize) -> Progress {
        let entries = &delivered.entries;
        let last = entries.last();
        let was_at = self.from;
        if let Some(last) = last {
            self.last_read = self.last_read.max(last);
        }
        if let From::Pending(_) = self.from {
            self.from = last.map_or(From::New, From::Pending);
        }
        let caught_up = was_at == From::New && entries.len() < count;
        let (index, skipped) = match delivered.extent {
            Some(extent) => self.count_along(extent, entries.len() as u64, caught_up),
            None => (self.index, 0),
        };
        self.index = index;
        Progress { caught_up, skipped }
    }

    /// Whether this read of at most `count` entries would show that some vanished. It may be that somebody else was
    /// given them.
    pub fn misses(&self, delivered: &Delivered, count: usize) -> bool {
        let read = delivered.entries.len();
        let caught_up = self.from == From::New && read < count;
        delivered.extent.is_some_and(|extent| self.count_along(extent, read as u64, caught_up).1 > 0)
    }

    /// Compares what the server has counted with what came: how many entries there were up to this read, if that is
    /// known, and how many of them vanished before the group was given them.
    fn count_along(&self, extent: Extent, read: u64, caught_up: bool) -> (Option<u64>, u64) {
        let before = self.index;
        // What was removed was removed from the front. It is behind us, or it was never read.
        let mut index = before.map(|index| index.max(extent.removed));
        if caught_up {
            index = Some(extent.added.saturating_sub(read));
        } else if !extent.alone {
            index = None;
        }
        match (before, index) {
            (Some(before), Some(now)) if extent.alone => (index, now.saturating_sub(before)),
            _ => (index, 0),
        }
    }

    /// Pending entries are to be read from the start: others have been added to them.
    pub fn reread_pending(&mut self) {
        self.from = From::Pending(EntryId::ZERO);
    }

    /// These entries are about to be worked. Whether they are out of order: older than what was worked before.
    pub fn works(&mut self, entries: &Entries) -> bool {
        let out_of_order = entries.first().is_some_and(|first| first <= self.newest);
        if !out_of_order {
            self.index = self.index.map(|index| index + entries.len() as u64);
        }
        self.newest = entries.last().map_or(self.newest, |last| last.max(self.newest));
        out_of_order
    }
}

/// Number and epoch of the last commit, as the server has them.
fn last_commit(acquired: &Acquired) -> (u64, u64) {
    (acquired.totals.commits, acquired.committed_under)
}

#[cfg(test)]
mod tests;
