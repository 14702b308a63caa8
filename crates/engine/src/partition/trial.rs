//! Finds entries that end the process whenever they are processed.
//!
//! A process that has ended can't report which entry ended it. So the first pending entry of a recovery is processed
//! alone and marked in the checkpoint before. If the mark is still there at the next start, the recovery has not
//! finished, and pending entries are processed and marked one by one.
//!
//! What holds: a mark counts an end of the process against an entry only while a worker has that entry. Before the mark
//! is set, every detector has started and has its restored state. When the worker has answered, the next step takes the
//! count back. A process that is killed at any other time leaves no count on an entry.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{error, warn};

use super::{Partition, pipeline::Pipeline};
use crate::commit::Origin;
use tickhound_core::{
    event::Entries,
    stream::{Attempt, Commit, ReadFrom, ReadRequest, Stream, StreamError},
};

/// How long a worker may have an entry on trial before that is noted. An entry takes milliseconds, even one on which
/// detectors fail, and whoever ends a process that hangs waits longer.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// What is known of pending entries that were processed before.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// Whether the next pending entry is the first of a recovery, which is processed alone and marked.
    first: bool,
    /// The number of pending entries that are processed and marked one by one, because the last recovery has not
    /// finished: as many as could be in flight when the process ended.
    careful: usize,
    /// The mark of the partition. It stays until all that was pending is processed.
    attempt: Option<Attempt>,
    /// The entry on trial.
    entry: Option<EntryTrial>,
}

/// An entry that is marked and with a worker.
#[derive(Debug)]
struct EntryTrial {
    /// The number of its read.
    read: u64,
    /// Its mark before the trial.
    before: Attempt,
    /// When the workers got it.
    since: Instant,
    /// Whether it is noted in the checkpoint that they have it for long.
    stuck: bool,
}

impl Trial {
    /// Begins a recovery of a partition with this mark. At most `in_flight` entries were in flight when the last owner
    /// ended.
    pub(super) fn begin(attempt: Option<Attempt>, in_flight: usize) -> Self {
        // A recovery that has not finished ended the process: something in it may do so again.
        let careful = if attempt.is_some() { in_flight } else { 0 };
        Self { first: true, careful, attempt, entry: None }
    }

    /// Continues with the mark that the partition has now.
    pub(super) fn resume(&mut self, attempt: Option<Attempt>) {
        self.attempt = attempt;
    }

    /// Notes that the partition has this mark now.
    pub(super) fn marked(&mut self, attempt: Attempt) {
        self.attempt = Some(attempt).filter(|attempt| *attempt != Attempt::NONE);
        self.entry.take_if(|entry| entry.before == attempt);
    }

    /// Notes that no pending entry is left.
    pub(super) fn no_more_pending(&mut self) {
        (self.first, self.careful) = (false, 0);
    }

    /// The mark that the next commit sets, if it changes.
    pub(super) fn next_mark(&self, pipeline: &Pipeline) -> Option<Attempt> {
        if let Some(entry) = &self.entry {
            // From the worker's answer on, whatever ends the process, it is not this entry.
            return (!pipeline.is_with_workers(entry.read)).then_some(entry.before);
        }
        let recovering = pipeline.position.from() != ReadFrom::New || pipeline.has_recovered();
        (self.attempt.is_some() && !recovering).then_some(Attempt::NONE)
    }

    /// Whether pending entries are read one by one for now.
    pub(super) fn is_one_by_one(&self) -> bool {
        self.is_next_alone() || self.entry.is_some()
    }

    /// Whether the next pending entry is processed alone.
    fn is_next_alone(&self) -> bool {
        self.careful > 0 || self.first
    }
}

impl<S: Stream> Partition<S> {
    /// Processes entries that were delivered before, unless it is one that has ended the process too often.
    pub(super) async fn take_recovered(&mut self, entries: Entries) -> Result<(), StreamError> {
        let entry = entries.first().filter(|_| self.trial.is_next_alone());
        let Some(entry) = entry else {
            self.submit(entries, Origin::Recovered).await;
            return Ok(());
        };
        self.trial.first = false;
        self.trial.careful = self.trial.careful.saturating_sub(1);
        let known = self.trial.attempt.filter(|attempt| attempt.entry == entry);
        let before = known.unwrap_or_else(|| Attempt::first(entry));
        if before.is_given_up(self.config.stream.max_deliveries) {
            self.give_up(entries, before).await;
            return Ok(());
        }
        // An end of the process up to here is not the entry's: detectors start, and restore their states, before the mark.
        self.pipeline.workers.start_detectors(&self.stats).await;
        if let Err(error) = self.mark(before.begun()).await {
            // The next acquisition reads from the first pending entry on, which is this one.
            self.trial.first = true;
            return Err(error);
        }
        let read = self.pipeline.next_number();
        self.trial.entry = Some(EntryTrial { read, before, since: Instant::now(), stuck: false });
        self.submit(entries, Origin::Recovered).await;
        Ok(())
    }

    /// Waits for an answer of a worker. If an entry on trial takes long, that is noted in the checkpoint.
    pub(super) async fn wait_for_answer(&mut self) -> Result<(), StreamError> {
        let is_watched = |entry: &&EntryTrial| !entry.stuck && self.pipeline.is_with_workers(entry.read);
        let watched = self.trial.entry.as_ref().filter(is_watched).map(|entry| (entry.before, entry.since.elapsed()));
        let answer = self.pipeline.workers.answer();
        let answer = match watched {
            // A timeout loses no answer, since to receive one is cancel-safe.
            Some((before, elapsed)) => match timeout(STUCK_AFTER.saturating_sub(elapsed), answer).await {
                Ok(answer) => answer,
                Err(_) => return self.note_stuck(before).await,
            },
            None => answer.await,
        };
        if let Some(answer) = answer {
            self.accept(answer);
        }
        Ok(())
    }

    async fn note_stuck(&mut self, before: Attempt) -> Result<(), StreamError> {
        warn!(
            event = "pending_entry_stuck",
            entry = %before.entry,
            "no worker has finished this pending entry yet; if the process ends now, the entry is taken for the cause \
             (stream.max_deliveries)"
        );
        self.mark(before.got_stuck()).await?;
        if let Some(entry) = &mut self.trial.entry {
            entry.stuck = true;
        }
        Ok(())
    }

    /// Sets the mark in a step of its own.
    async fn mark(&mut self, attempt: Attempt) -> Result<(), StreamError> {
        let mark = Commit { attempt: Some(attempt), ..Commit::default() };
        self.step(mark, ReadRequest { from: self.pipeline.position.from(), count: 0 }).await.map(drop)
    }

    async fn give_up(&mut self, entries: Entries, attempt: Attempt) {
        // The entry was delivered to this group once before its first recovery.
        let (entry, deliveries) = (attempt.entry, attempt.ends() + 1);
        error!(
            event = "pending_entry_dead_lettered",
            %entry,
            deliveries,
            sudden = attempt.sudden,
            stuck = attempt.stuck,
            "a host ended each time this entry was processed; it becomes a dead letter"
        );
        let reason =
            format!("a host died each of the {deliveries} times that it processed this entry (stream.max_deliveries)");
        self.redelivery.processing(&entries);
        self.retention.poison.extend(entries.first());
        self.pipeline.dead_letter(entries, reason).await;
    }
}
