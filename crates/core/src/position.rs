//! Where a host stands in its partition: what it knows to be committed, and where it reads on.
//!
//! The decisions of the commit protocol, without any I/O: `tests` has two hosts with positions of
//! their own at one model of a server, in every order of reads, commits, lost answers, crashes and
//! take-overs that chance comes up with.

use crate::{
    event::{Entries, EntryId},
    stream::{Acquisition, Commit, CommitId, Delivery, ReadFrom},
};

/// What an acquisition means for what the host has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nobody else has committed meanwhile: what is in flight goes on.
    Undisturbed,
    /// The entries that were read are gone from the server, and nobody has committed since: only this host knows
    /// them, so what is in flight goes on. The states have to be saved again, since ids may begin again.
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
    /// So many of the first entries had been processed before: the group was set back.
    pub repeated: usize,
}

/// Of one host in one partition.
#[derive(Debug)]
pub struct Position {
    /// Under which the partition is ours; 0 before the first time.
    epoch: u64,
    /// Of the acquisition under which the partition is ours.
    token: u64,
    /// The last commit that is known to have happened.
    last_commit: CommitId,
    /// A commit whose step failed: it may have happened.
    unsettled: Option<Commit>,
    /// Everything up to `newest` is known to the detectors, or set aside.
    ready: bool,
    from: ReadFrom,
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
            token: 0,
            last_commit: CommitId::default(),
            unsettled: None,
            ready: false,
            from: ReadFrom::Pending(EntryId::ZERO),
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
    pub fn from(&self) -> ReadFrom {
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

    /// The newest entry of the last commit that is known to have happened.
    pub fn committed_newest(&self) -> EntryId {
        self.last_commit.newest
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
    /// The epoch of this acquisition tells nothing: an acquisition whose answer was lost has raised it too.
    pub fn settle(&mut self, acquired: &Acquisition) -> Option<Commit> {
        let happened = self.unsettled.take_if(|commit| {
            let Self { epoch, token, .. } = *self;
            commit_id(commit, epoch, token) == acquired.last_commit
        })?;
        self.committed(&happened);
        Some(happened)
    }

    /// Entries of the open commit.
    pub fn open_entries(&self) -> &[EntryId] {
        self.unsettled.as_ref().map_or(&[], |commit| &commit.done)
    }

    /// The partition is ours (again), and what was open is settled. `forgotten`: the server does not know all of what is
    /// in flight any more. Entries in flight that somebody else has acknowledged are not forgotten.
    ///
    /// Pending entries are read from the first on, also when nobody has committed meanwhile: an answer that was lost
    /// leaves entries pending, and so does a standby that dies after it has adopted some. Whoever reads leaves out
    /// what is in flight.
    pub fn resume(&mut self, acquired: &Acquisition, forgotten: bool) -> Resume {
        let last = acquired.last_commit;
        let ours = self.ready && last == self.last_commit;
        // The group hands out again what is in flight here: it was made anew, or the server has gone back.
        let gone_back = forgotten || acquired.last_delivered < self.last_read;
        let gone = acquired.began_anew || acquired.oldest.is_none_or(|oldest| oldest > self.last_read);
        let emptied = self.ready && (ours || last == CommitId::default()) && gone;
        (self.epoch, self.token) = (acquired.epoch, acquired.token);
        self.from = ReadFrom::Pending(EntryId::ZERO);
        if ours && !gone_back && !acquired.began_anew {
            return Resume::Undisturbed;
        }
        self.last_commit = last;
        if emptied {
            // Ids may begin again.
            (self.last_read, self.newest, self.index) = (EntryId::ZERO, EntryId::ZERO, None);
            return Resume::Emptied;
        }
        self.unsettled = None;
        self.ready = false;
        self.last_read = acquired.last_delivered;
        self.newest = acquired.newest.unwrap_or(acquired.last_delivered);
        if acquired.began_anew {
            (self.last_read, self.newest) = (EntryId::ZERO, EntryId::ZERO);
        }
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
            self.last_commit = commit_id(commit, self.epoch, self.token);
        }
    }

    /// Takes note of a read of at most `count` entries.
    pub fn read(&mut self, delivered: &Delivery, count: usize) -> Progress {
        let entries = &delivered.entries;
        let last = entries.last();
        let was_at = self.from;
        if let Some(last) = last {
            self.last_read = self.last_read.max(last);
        }
        if let ReadFrom::Pending(_) = self.from {
            self.from = last.map_or(ReadFrom::New, ReadFrom::Pending);
        }
        let caught_up = was_at == ReadFrom::New && entries.len() < count;
        let repeated = self.repeated(was_at, delivered);
        let (index, skipped) = self.count_along(delivered, repeated, caught_up);
        self.index = index;
        Progress { caught_up, skipped, repeated }
    }

    /// How many of the first entries lie before what was processed: the group gives each entry once, in order, so it
    /// was set back.
    fn repeated(&self, from: ReadFrom, delivered: &Delivery) -> usize {
        if from != ReadFrom::New || delivered.newest.is_none() {
            return 0;
        }
        delivered.entries.iter().take_while(|entry| entry.id <= self.newest).count()
    }

    /// Whether the stream was deleted and filled again: it has given out no id as high as that of an entry that was
    /// read from it.
    pub fn began_anew(&self, delivered: &Delivery) -> bool {
        delivered.newest.is_some_and(|newest| newest < self.last_read)
    }

    /// Whether this read of at most `count` entries would show that some vanished. It may be that somebody else was
    /// given them.
    pub fn misses(&self, delivered: &Delivery, count: usize) -> bool {
        let caught_up = self.from == ReadFrom::New && delivered.entries.len() < count;
        self.count_along(delivered, self.repeated(self.from, delivered), caught_up).1 > 0
    }

    /// Compares what the server has counted with what came: how many entries there were up to this read, if that is
    /// known, and how many of them vanished before the group was given them.
    fn count_along(&self, delivered: &Delivery, repeated: usize, caught_up: bool) -> (Option<u64>, u64) {
        let Some(extent) = delivered.extent else { return (self.index, 0) };
        let before = self.index;
        let read = (delivered.entries.len() - repeated) as u64;
        // What somebody else was given is counted by the server, and may yet be adopted and counted here.
        let to_the_end = extent.alone
            || delivered
                .newest
                .is_none_or(|newest| delivered.entries.last().unwrap_or(self.newest).max(self.newest) >= newest);
        // What was removed was removed from the front. It is behind us, or it was never read.
        let mut index = before.map(|index| index.max(extent.removed));
        if caught_up && to_the_end {
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
        self.from = ReadFrom::Pending(EntryId::ZERO);
    }

    /// Others hold entries, or did until now, perhaps some that lie between those that were read: how many there were up
    /// to the newest is known once all is read.
    pub fn count_anew(&mut self) {
        self.index = None;
    }

    /// These entries are about to be worked. Whether they are out of order: older than what was worked before.
    pub fn works(&mut self, entries: &Entries) -> bool {
        let out_of_order = entries.first().is_some_and(|first| first <= self.newest);
        // Older ones lay in other hands while the newest was read, and may not have been counted then.
        self.index = self.index.filter(|_| !out_of_order).map(|index| index + entries.len() as u64);
        self.newest = entries.last().map_or(self.newest, |last| last.max(self.newest));
        out_of_order
    }
}

fn commit_id(commit: &Commit, epoch: u64, token: u64) -> CommitId {
    CommitId { number: commit.totals.commits, epoch, token, newest: commit.newest }
}

#[cfg(test)]
mod tests;
