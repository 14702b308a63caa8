//! What the engine needs of a partition: to own it, read from it, and commit to it.
//!
//! Reading and committing are one call because they are one atomic step: a host that has lost its lease can then
//! neither publish nor acknowledge, nor take an entry away from its successor.

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
    publish::AlertLayout,
    rate::AlertRates,
};

/// The totals over the life of the partition's group, stored with each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// The number of commits.
    pub commits: u64,
    /// Entries that were acknowledged or lost.
    pub entries: u64,
    /// Alerts that were published.
    pub alerts: u64,
    /// Entries that caused neither an alert nor a dead letter.
    pub quiet: u64,
    /// Alerts of shadows that were published.
    pub shadow_alerts: u64,
    /// Detections that were held back: too soon after an alert of their symbol, or beyond the limit per minute.
    pub held_back: u64,
    /// Detections below their detector's `min_confidence`.
    pub below_min_confidence: u64,
    /// Dead letters: entries that are not ticks, and entries on which a detector failed.
    pub dead: u64,
    /// Entries that were trimmed before they were processed.
    pub lost: u64,
    /// Entries that were processed, and trimmed before a recovery could replay them: they are missing in the detectors'
    /// states.
    pub state_gap: u64,
}

/// The detections of one detector that did not become alerts, by the setting that left them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Detections below `min_confidence`.
    pub min_confidence: u64,
    /// Detections too soon after an alert of their symbol and direction (`cooldown_s`).
    pub cooldown: u64,
    /// Detections beyond the limit in a minute of event time (`max_alerts_per_minute`, or that of `[alerts]`).
    pub per_minute: u64,
}

/// The alerts of one detector that a limit per minute has held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// The number of alerts that were held back.
    pub count: u64,
    /// The limit, alerts in a minute of event time.
    pub most: u64,
    /// Which setting the limit follows from.
    pub origin: LimitOrigin,
}

/// The setting that a detector's limit of alerts per minute follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOrigin {
    /// The detector's own `max_alerts_per_minute`.
    Detector,
    /// `alerts.maxlen / alerts.keep_minutes`, which is nobody's choice for this detector.
    Alerts,
}

impl LeftOut {
    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the detections of another count.
    pub fn add(&mut self, other: &Self) {
        self.min_confidence += other.min_confidence;
        self.cooldown += other.cooldown;
        self.per_minute += other.per_minute;
    }

    /// Detections that a limit held back, although they were as sure as was asked for.
    pub fn held_back(&self) -> u64 {
        self.cooldown + self.per_minute
    }
}

/// Everything that one or more batches caused, to be written in one transaction.
#[derive(Debug, Default)]
pub struct Commit {
    /// Alerts in entry order, then in the order of the detectors' names.
    pub alerts: Vec<Alert>,
    /// Alerts of shadows, which go to a stream of their own, each with the name of the shadowed detector.
    pub shadow_alerts: Vec<(String, Alert)>,
    /// How both are written.
    pub layout: Arc<AlertLayout>,
    /// Dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// Entries that were processed and are to be acknowledged, in stream order.
    pub done: Vec<EntryId>,
    /// Entries that had been processed before, and were delivered again by a group that was set back. They are only
    /// acknowledged.
    pub repeated: Vec<EntryId>,
    /// The number of ticks in the processed entries.
    pub ticks: u64,
    /// The totals, this commit included.
    pub totals: Totals,
    /// The event time, from which a restarted router continues.
    pub clock: Clock,
    /// The newest entry that was processed so far. Adopted entries are processed later and may be older.
    pub newest: EntryId,
    /// The number of entries ever added to the stream up to `newest`; `None` if it is not known.
    pub index: Option<u64>,
    /// Entries among the dead letters that a replay must skip.
    pub poison: Vec<EntryId>,
    /// The states to save, as of the end of this commit.
    pub visit: Option<Visit>,
    /// The new mark of a recovery, if it changes.
    pub attempt: Option<Attempt>,
    /// The recent alert rates, this commit included.
    pub rates: AlertRates,
    /// The number of alerts that a limit per minute has held back, by detector.
    pub over_limit: BTreeMap<String, OverLimit>,
    /// The detections that did not become alerts, by detector.
    pub left_out: BTreeMap<String, LeftOut>,
    /// The host's status for observers, as JSON.
    pub receipt: Option<Arc<str>>,
}

impl Commit {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.repeated.is_empty()
            && self.visit.is_none()
            && self.attempt.is_none()
            && self.receipt.is_none()
    }

    /// Whether the commit counts in [`Totals::commits`].
    pub fn is_counted(&self) -> bool {
        !self.done.is_empty() || self.visit.is_some()
    }
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the entries after this id that were delivered to this consumer and not acknowledged.
    Pending(EntryId),
    /// At the entries that were never delivered to the group.
    New,
}

/// Identifies a commit among those of all hosts, even across failovers of the server.
///
/// Number and epoch are not enough, neither alone nor together: two hosts may count alike, and a replica that is
/// promoted before it has replicated an acquisition assigns that acquisition's epoch once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitId {
    /// The number of the commit; 0 if there was none.
    pub number: u64,
    /// The epoch under which it was made.
    pub epoch: u64,
    /// The token of the acquisition under which it was made; 0 for a commit of a release without tokens.
    pub token: u64,
    /// The newest entry that had been processed.
    pub newest: EntryId,
}

/// Which entries to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// Where to begin.
    pub from: ReadFrom,
    /// The maximum number of entries; 0: the step only commits.
    pub count: usize,
}

/// The entries that a step has read.
#[derive(Debug, Default)]
pub struct Delivery {
    /// The entries in stream order.
    pub entries: Entries,
    /// The extent of the stream just before; `None` if the read was not of new entries, or the server does not report
    /// it.
    pub extent: Option<Extent>,
    /// The newest id that the stream has assigned; `None` if the read was not of new entries, or no other process adds
    /// to the stream.
    pub newest: Option<EntryId>,
}

/// How many entries a stream has had.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Entries that were ever added.
    pub added: u64,
    /// Entries that were trimmed or deleted.
    pub removed: u64,
    /// Whether no other consumer of the group receives entries.
    pub alone: bool,
}

/// A partition as its new owner acquires it.
#[derive(Clone, Debug, Default)]
pub struct Acquisition {
    /// The epoch, which each acquisition and release raises and every step checks.
    pub epoch: u64,
    /// A random number that identifies this acquisition.
    pub token: u64,
    /// The totals as of the last commit of any host.
    pub totals: Totals,
    /// The last commit of any host.
    pub last_commit: CommitId,
    /// The event time as of the last commit.
    pub clock: Clock,
    /// The newest entry that was processed; `None` if there was no commit.
    pub newest: Option<EntryId>,
    /// The number of entries ever added to the stream up to that one, or up to the position at which the group begins;
    /// `None` if it is not known.
    pub index: Option<u64>,
    /// The oldest entry in the stream; `None` if the stream is empty.
    pub oldest: Option<EntryId>,
    /// The newest entry that was delivered to the group.
    pub last_delivered: EntryId,
    /// Whether the stream was deleted and filled again, with ids below those that were processed: none of its entries
    /// was processed.
    pub began_anew: bool,
    /// The mark of a recovery that was interrupted.
    pub attempt: Option<Attempt>,
    /// The detectors whose states are all saved, with the hash that must be equal to read them; `None` if no state was
    /// ever saved.
    pub complete: Option<BTreeMap<String, u64>>,
    /// The fingerprint of each detector that its states were made by; empty if an older release saved them.
    pub made_by: BTreeMap<String, u64>,
    /// The recent alert rates as of the last commit.
    pub rates: AlertRates,
}

/// The result of taking over entries from other consumers of the group.
#[derive(Debug, Default)]
pub struct Adoption {
    /// The number of entries that were taken over.
    pub entries: usize,
    /// The consumers of the group, as of now.
    pub consumers: Consumers,
    /// Entries that were trimmed while they were pending. The stored totals already include them.
    pub lost: Vec<EntryId>,
}

/// The consumers of the group.
#[derive(Clone, Copy, Debug)]
pub struct Consumers {
    /// Whether no other consumer receives entries or has pending ones.
    pub alone: bool,
    /// The number of entries that are pending for this consumer.
    pub own_pending: u64,
}

impl Default for Consumers {
    /// No other consumer, and no pending entries.
    fn default() -> Self {
        Self { alone: true, own_pending: 0 }
    }
}

/// The outcome of an attempt to acquire a partition.
#[derive(Debug)]
pub enum AcquireOutcome {
    /// This host owns the partition.
    Owned(Box<Acquisition>),
    /// Another host owns the partition.
    Held {
        /// The process and the host that own it.
        by: String,
        /// The time until its lease may expire.
        retry_in: Duration,
    },
}

/// Why a call failed. A step may have happened nevertheless.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Another host has taken over, before the step or right after it.
    #[error("another host has taken over")]
    Fenced,
    /// The server can't be reached, or answered with an error. The step may or may not have happened.
    #[error("{0}")]
    Unavailable(String),
    /// What a read asked for is too large to be received at once. Fewer entries may be read.
    #[error("{0}")]
    TooLarge(String),
    /// The server can't be used as it is configured. Trying again does not help.
    #[error("{0}")]
    Misconfigured(String),
}

/// Reads the entries of a stream, beside its owner and without any effect.
pub trait History: Send + 'static {
    /// Reads at most `count` entries after one id and up to another, in stream order.
    fn read(
        &mut self,
        after: EntryId,
        through: EntryId,
        count: usize,
    ) -> impl Future<Output = Result<Entries, StreamError>> + Send;
}

/// A partition: one stream, read by one owner at a time.
///
/// After an error of any call but [`Self::acquire`], the caller must acquire the partition again. The same applies if
/// the future of a call is dropped before it completes, except for [`Self::wait`]: no other call is cancel-safe.
///
/// The calls with a body do what a partition in memory does, which nobody else reads and of which nothing is saved. A
/// partition on a server implements all of them.
pub trait Stream: Send {
    /// A reader of the same stream on a connection of its own.
    type History: History;

    /// Whether entries are in memory before they are read: their bytes then do not count against the limit in flight.
    const IN_MEMORY: bool = false;

    /// Creates a reader that works beside this stream.
    fn reader(&self) -> Self::History;

    /// Tries to become the owner. A success fences all previous owners: none of their later steps happens.
    fn acquire(&mut self) -> impl Future<Output = Result<AcquireOutcome, StreamError>> + Send;

    /// Sends one atomic step: either all of `commit` happens and then the read, or nothing. The caller may do other
    /// work until it calls [`Self::finish`]. No other call may come in between.
    fn begin(&mut self, commit: &Commit, read: ReadRequest) -> impl Future<Output = Result<(), StreamError>> + Send;

    /// Waits for the outcome of the step that was begun. A success means that all of the commit has happened, and that
    /// the delivered entries are pending for this consumer. After an error, whether it happened is only known from the
    /// next acquisition.
    fn finish(&mut self) -> impl Future<Output = Result<Delivery, StreamError>> + Send;

    /// Reads the states that visits have saved, as of the last commit.
    fn saved(&mut self) -> impl Future<Output = Result<SavedStates, StreamError>> + Send {
        async { Ok(SavedStates::default()) }
    }

    /// Reads at most `count` entries after one id and up to another, in stream order. It has no effect on the
    /// partition.
    fn history(
        &mut self,
        after: EntryId,
        through: EntryId,
        count: usize,
    ) -> impl Future<Output = Result<Entries, StreamError>> + Send {
        let _ = (after, through, count);
        async { Ok(Entries::default()) }
    }

    /// Lists the entries from `first` to `last` that were delivered to any consumer of the group and not acknowledged.
    /// It has no effect on the partition.
    fn pending(
        &mut self,
        first: EntryId,
        last: EntryId,
    ) -> impl Future<Output = Result<BTreeSet<EntryId>, StreamError>> + Send {
        let _ = (first, last);
        async { Ok(BTreeSet::new()) }
    }

    /// Takes over the entries that dead consumers of the group left pending. They become pending for this consumer, and
    /// the next read of pending entries delivers them. Those that were trimmed are acknowledged and counted as lost.
    fn adopt(&mut self) -> impl Future<Output = Result<Adoption, StreamError>> + Send {
        async { Ok(Adoption::default()) }
    }

    /// Reports which consumers of the group receive entries, as of now. It has no effect on the partition.
    fn consumers(&mut self) -> impl Future<Output = Result<Consumers, StreamError>> + Send {
        async { Ok(Consumers::default()) }
    }

    /// Moves a group that was set back forward again: past every pending entry, and past `last`, the newest committed
    /// entry. A group that has moved since is left alone.
    fn restore_group(&mut self, last: EntryId) -> impl Future<Output = Result<(), StreamError>> + Send {
        let _ = last;
        async { Ok(()) }
    }

    /// Returns once there may be entries after `last`, or after a while. It is cancel-safe: it has no effect on the
    /// partition.
    fn wait(&mut self, last: EntryId) -> impl Future<Output = Result<(), StreamError>> + Send;

    /// Gives up ownership, so that a standby need not wait for the lease to expire. Errors are ignored, as the lease
    /// expires anyway.
    fn release(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
