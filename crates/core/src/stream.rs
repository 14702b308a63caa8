//! What the engine asks of a partition: own it, read from it, commit to it.
//!
//! Reading and committing are one call because they are one atomic step: a
//! host that has lost its lease can then neither publish nor acknowledge nor
//! take an entry away from its successor.

mod attempt;
pub mod owner;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

pub use self::attempt::Attempt;
use crate::{
    checkpoint::{SavedStates, Visit},
    event::{Alert, Clock, DeadLetter, Entries, EntryId},
    rate::Rates,
};

/// Totals over the life of the partition's group, kept with each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Commits made.
    pub commits: u64,
    /// Entries acknowledged, or lost.
    pub entries: u64,
    /// Alerts published.
    pub alerts: u64,
    /// Entries without any alert or dead letter.
    pub quiet: u64,
    /// Alerts of shadows.
    pub shadow_alerts: u64,
    /// Detections that were held back: too soon after an alert of their symbol, or too many in a minute.
    pub held_back: u64,
    /// Dead letters: entries that are no tick, and ticks on which a detector failed.
    pub dead: u64,
    /// Entries that were trimmed away before they were worked.
    pub lost: u64,
    /// Entries that were worked, and trimmed away before a recovery could read them again: what
    /// detectors knew of them is lost.
    pub state_gap: u64,
}

/// Everything that one or more batches caused.
#[derive(Debug, Default)]
pub struct Commit {
    /// In entry order, then in the order of the detectors' names.
    pub alerts: Vec<Alert>,
    /// Alerts of shadows, and whom each follows; they go elsewhere.
    pub shadow_alerts: Vec<(String, Alert)>,
    /// Entries and ticks set aside.
    pub dead_letters: Vec<DeadLetter>,
    /// Entries to acknowledge, in stream order.
    pub done: Vec<EntryId>,
    /// Entries that had been processed before a group that was set back handed them out again: only acknowledged.
    pub repeated: Vec<EntryId>,
    /// Ticks in these entries.
    pub ticks: u64,
    /// Totals including this commit.
    pub totals: Totals,
    /// What the router must know to go on as if it had never stopped.
    pub clock: Clock,
    /// The newest entry worked so far; adopted ones, worked later, may be older.
    pub newest: EntryId,
    /// Entries ever added to the stream up to `newest`; `None` if that is not known.
    pub index: Option<u64>,
    /// Entries among the dead letters that must not be worked when the stream is re-read.
    pub poison: Vec<EntryId>,
    /// States as of the end of this commit.
    pub visit: Option<Visit>,
    /// The mark of a recovery, if it is to change.
    pub attempt: Option<Attempt>,
    /// What has been raised of late, this commit included.
    pub rates: Rates,
    /// How the host is doing, for onlookers, as JSON.
    pub receipt: Option<Arc<str>>,
}

impl Commit {
    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.repeated.is_empty()
            && self.visit.is_none()
            && self.attempt.is_none()
            && self.receipt.is_none()
    }

    /// Whether it counts among [`Totals::commits`].
    pub fn is_counted(&self) -> bool {
        !self.done.is_empty() || self.visit.is_some()
    }
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// Entries that were delivered under this consumer's name and not acknowledged, after this id.
    Pending(EntryId),
    /// Entries never delivered to the group.
    New,
}

/// What tells one commit from every other, whoever made it and whatever a failover made of the server.
///
/// Neither the number nor the epoch would do alone or together: two hosts may count alike, and a replica that is
/// promoted before it has heard of an acquisition hands out that acquisition's epoch once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitId {
    /// Number of the commit; 0 when there was none.
    pub number: u64,
    /// The epoch it was made under.
    pub epoch: u64,
    /// The token of the acquisition that it was made under; 0 for a commit of a release without tokens.
    pub token: u64,
    /// The newest entry that had been processed.
    pub newest: EntryId,
}

/// Which entries to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// Where to begin.
    pub from: ReadFrom,
    /// How many at most; 0 = none, only commit.
    pub count: usize,
}

/// What a step has read.
#[derive(Debug, Default)]
pub struct Delivery {
    /// In stream order.
    pub entries: Entries,
    /// How the stream stood just before; `None` if the read was not of new entries, or the server does
    /// not tell.
    pub extent: Option<Extent>,
    /// The newest id that the stream has given out; `None` if the read was not of new entries, or nobody else
    /// adds to what is read.
    pub newest: Option<EntryId>,
}

/// How much a stream has held.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Entries ever added.
    pub added: u64,
    /// Entries trimmed or deleted.
    pub removed: u64,
    /// Whether no other consumer of the group takes entries.
    pub alone: bool,
}

/// A partition that is now ours.
#[derive(Clone, Debug, Default)]
pub struct Acquisition {
    /// Raised at each acquisition and release; checked in every step.
    pub epoch: u64,
    /// A number drawn at random for this acquisition, which no other one has.
    pub token: u64,
    /// As of the last commit, whoever made it.
    pub totals: Totals,
    /// The last commit, whoever made it.
    pub last_commit: CommitId,
    /// As of the last commit.
    pub clock: Clock,
    /// The newest entry that was worked; `None` when there was no commit.
    pub newest: Option<EntryId>,
    /// Entries ever added to the stream up to that one, or to where the group begins; `None` if that is
    /// not known.
    pub index: Option<u64>,
    /// The oldest entry that the stream holds.
    pub oldest: Option<EntryId>,
    /// The newest entry that the group was given.
    pub last_delivered: EntryId,
    /// The stream was deleted and begins anew, with ids below those that were processed: nothing that was processed
    /// is in it, and nothing that is in it was processed.
    pub began_anew: bool,
    /// The mark of a recovery that has not come to its end.
    pub attempt: Option<Attempt>,
    /// Detectors whose states are all saved, with what must be the same to read them; `None` if no visit was ever made.
    pub complete: Option<BTreeMap<String, u64>>,
    /// What each detector was, that its states were made by; empty if that was not written down.
    pub made_by: BTreeMap<String, u64>,
    /// As of the last commit.
    pub rates: Rates,
}

/// What was taken over from other consumers of the group, and what is there to be processed afterwards.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Entries that were taken over.
    pub entries: usize,
    /// Who takes and holds entries now.
    pub consumers: Consumers,
    /// Entries whose body was trimmed away; already counted in the kept totals.
    pub lost: Vec<EntryId>,
}

/// The consumers of the group.
#[derive(Clone, Copy, Debug)]
pub struct Consumers {
    /// No consumer beside our own takes or holds entries.
    pub alone: bool,
    /// Entries that are pending under our own name, however they came there.
    pub own_pending: u64,
}

impl Default for Consumers {
    /// Nobody else, and nothing pending.
    fn default() -> Self {
        Self { alone: true, own_pending: 0 }
    }
}

/// How an attempt to own a partition ended.
#[derive(Debug)]
pub enum AcquireOutcome {
    /// It is ours.
    Owned(Box<Acquisition>),
    /// Another host owns it; its name, and when to look again.
    Held {
        /// Host and process.
        by: String,
        /// Until then it can't change hands.
        retry_in: Duration,
    },
}

/// Why a step did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Another host has taken over, before this step or right after it.
    #[error("another host has taken over")]
    Fenced,
    /// The server is away, or answered with an error; the step may or may not have happened.
    #[error("{0}")]
    Unavailable(String),
    /// The server can't be used as it is, and waiting won't change that.
    #[error("{0}")]
    Misconfigured(String),
}

/// What a stream holds, read beside whoever works it, and without any effect.
pub trait History: Send + 'static {
    /// Entries after one id and up to another, in stream order, at most `count`.
    fn read(
        &mut self,
        after: EntryId,
        through: EntryId,
        count: usize,
    ) -> impl Future<Output = Result<Entries, StreamError>> + Send;
}

/// A partition: one stream, read by one owner at a time.
pub trait Stream: Send {
    /// Reads the same stream on a connection of its own.
    type History: History;

    /// Whether entries are in memory before they are read: then it is only counted how many are in flight.
    const IN_MEMORY: bool = false;

    /// A reader beside this one.
    fn reader(&self) -> Self::History;

    /// Tries to become the owner. After an error of any call, this is how to go on.
    fn acquire(&mut self) -> impl Future<Output = Result<AcquireOutcome, StreamError>> + Send;

    /// Begins one atomic step: all of `commit` happens or nothing, and then the read. Between this and
    /// [`Stream::finish`] the host may work, while the server does.
    fn begin(&mut self, commit: &Commit, read: ReadRequest) -> impl Future<Output = Result<(), StreamError>> + Send;

    /// How the step that was begun has ended.
    fn finish(&mut self) -> impl Future<Output = Result<Delivery, StreamError>> + Send;

    /// The states that visits have saved.
    fn saved(&mut self) -> impl Future<Output = Result<SavedStates, StreamError>> + Send;

    /// Entries after one id and up to another, in stream order, at most `count`. Has no effect.
    fn history(
        &mut self,
        after: EntryId,
        through: EntryId,
        count: usize,
    ) -> impl Future<Output = Result<Entries, StreamError>> + Send;

    /// Entries from `first` to `last` that were given to a consumer of the group, ours or any, and not
    /// acknowledged.
    fn pending(
        &mut self,
        first: EntryId,
        last: EntryId,
    ) -> impl Future<Output = Result<BTreeSet<EntryId>, StreamError>> + Send;

    /// Takes over what dead consumers of the group left pending.
    fn adopt(&mut self) -> impl Future<Output = Result<Adoption, StreamError>> + Send;

    /// Who else takes entries of the group, as of now.
    fn consumers(&mut self) -> impl Future<Output = Result<Consumers, StreamError>> + Send {
        async { Ok(Consumers::default()) }
    }

    /// Moves a group that was set back forward again: to what is pending, and at least to `last`, the newest entry that
    /// is committed; unless it has moved meanwhile.
    fn restore_group(&mut self, last: EntryId) -> impl Future<Output = Result<(), StreamError>> + Send {
        let _ = last;
        async { Ok(()) }
    }

    /// Returns when there may be entries after `last`, or after a while. Has no effect on the
    /// partition, so it may be dropped at any time.
    fn wait(&mut self, last: EntryId) -> impl Future<Output = Result<(), StreamError>> + Send;

    /// Gives up ownership so that a stand-by need not wait. Best effort.
    fn release(&mut self) -> impl Future<Output = ()> + Send;
}
