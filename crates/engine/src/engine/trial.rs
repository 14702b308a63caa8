//! Entries that end the process whenever they are processed.
//!
//! Which one it was, a process that has ended can't tell. So the first pending entry of a recovery is
//! processed alone, and marked as tried before. If the mark is still there at the next start, the
//! recovery did not come to its end: then pending entries are processed and marked one by one.
//!
//! What holds: a mark counts an end of the process against an entry only while a worker has that entry. Before it
//! is marked every detector has started and knows what was restored; when the worker has answered, the next
//! step takes the count back. A process that is killed at any other time leaves nothing on an entry's account.

use std::time::{Duration, Instant};

use tokio::{sync::oneshot, time::timeout};
use tracing::{error, warn};

use super::Engine;
use crate::{commit::Flight, shard::Task};
use tickhound_core::{
    checkpoint::CHUNKS,
    event::Entries,
    stream::{Attempt, Commit, ReadFrom, ReadRequest, Stream, StreamError},
};

/// An entry that a worker has had for so long is noted as stuck. An entry takes milliseconds, also one that makes
/// detectors fail; whoever ends a process because it hangs waits longer.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// What is known of pending entries that were tried before.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The first pending entry is read alone, and marked as tried.
    pub(super) first: bool,
    /// The last recovery did not come to its end: so many pending entries are processed and marked one by
    /// one, so that the one that ends the process becomes known. No more were in flight when it ended.
    pub(super) careful: usize,
    /// The mark that the partition has. Kept until all that was pending is processed.
    pub(super) attempt: Option<Attempt>,
    /// The entry that a worker has on trial.
    pub(super) tried: Option<Tried>,
}

/// An entry that is marked and in a worker's hands.
#[derive(Debug)]
pub(super) struct Tried {
    /// Number of its read.
    read: u64,
    /// Its account before.
    before: Attempt,
    /// When the workers were given it.
    since: Instant,
    /// Whether it has been noted that they have it for long.
    stuck: bool,
}

impl Trial {
    /// A recovery begins, of a partition that has this mark; at most so many entries were in flight.
    pub(super) fn begin(attempt: Option<Attempt>, in_flight: usize) -> Self {
        // A recovery that did not come to its end ended the process: something in it may again.
        let careful = if attempt.is_some() { in_flight } else { 0 };
        Self { first: true, careful, attempt, tried: None }
    }

    /// The partition has this mark now.
    pub(super) fn marked(&mut self, attempt: Attempt) {
        self.attempt = Some(attempt).filter(|attempt| *attempt != Attempt::NONE);
        self.tried.take_if(|tried| tried.before == attempt);
    }

    /// Whether the next pending entry is processed alone.
    fn is_next_alone(&self) -> bool {
        self.careful > 0 || self.first
    }
}

impl<S: Stream> Engine<S> {
    /// How many entries to read now.
    pub(super) fn wanted(&self) -> usize {
        let free = self.generation.flow.backlog.saturating_sub(self.in_flight + self.fresh.len());
        let one_by_one = self.trial.is_next_alone() || self.trial.tried.is_some();
        match self.position.from() {
            ReadFrom::Pending(_) if one_by_one && !self.is_idle() => 0,
            ReadFrom::Pending(_) if one_by_one => 1,
            _ if S::IN_MEMORY => free.min(self.generation.flow.batch),
            _ => free.min(self.generation.flow.batch).min(self.intake.room(self.in_flight_bytes())),
        }
    }

    /// Bytes of entries that are between read and commit.
    fn in_flight_bytes(&self) -> usize {
        self.fresh.bytes() + self.flights.iter().map(Flight::bytes).sum::<usize>()
    }

    /// Processes what was read and had been read before, unless it is an entry that has ended the process too often.
    pub(super) async fn take_up(&mut self, entries: Entries) -> Result<(), StreamError> {
        let alone = self.trial.is_next_alone();
        let (true, Some(entry)) = (alone, entries.first()) else {
            self.submit(entries, true).await;
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
        self.start_detectors().await;
        if let Err(error) = self.mark(before.begun()).await {
            // The next acquisition reads from the first pending entry on, which is this one.
            self.trial.first = true;
            return Err(error);
        }
        self.trial.tried = Some(Tried { read: self.reads + 1, before, since: Instant::now(), stuck: false });
        self.submit(entries, true).await;
        Ok(())
    }

    /// The mark that the next commit sets, if it is to change.
    pub(super) fn next_mark(&self) -> Option<Attempt> {
        if let Some(tried) = &self.trial.tried {
            // Whatever ends the process from now on, it is not this entry.
            return (!self.is_with_workers(tried.read)).then_some(tried.before);
        }
        let recovering = self.position.from() != ReadFrom::New || self.flights.iter().any(Flight::is_recovered);
        (self.trial.attempt.is_some() && !recovering).then_some(Attempt::NONE)
    }

    /// Waits for the answer of a worker, and notes for the next process if an entry on trial is stuck there.
    pub(super) async fn wait_for_outcome(&mut self) -> Result<(), StreamError> {
        let watched = self.trial.tried.as_ref().filter(|tried| !tried.stuck && self.is_with_workers(tried.read));
        let outcome = match watched.map(|tried| (tried.before, tried.since.elapsed())) {
            Some((before, since)) => match timeout(STUCK_AFTER.saturating_sub(since), self.outcomes.recv()).await {
                Ok(outcome) => outcome,
                Err(_) => return self.note_stuck(before).await,
            },
            None => self.outcomes.recv().await,
        };
        if let Some(worked) = outcome {
            self.accept(worked);
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
        if let Some(tried) = &mut self.trial.tried {
            tried.stuck = true;
        }
        Ok(())
    }

    /// Sets the mark in a step of its own.
    async fn mark(&mut self, attempt: Attempt) -> Result<(), StreamError> {
        let mark = Commit { attempt: Some(attempt), ..Commit::default() };
        self.step(mark, ReadRequest { from: self.position.from(), count: 0 }).await.map(drop)
    }

    /// Has every worker start its detectors; what was restored lies before this in its queue. An end of the process
    /// up to here has nothing to do with an entry.
    async fn start_detectors(&mut self) {
        let mut started = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (to, answer) = oneshot::channel();
            shard.submit(Task::Start(to)).await;
            started.push(answer);
        }
        for answer in started {
            // A worker that has ended takes the process with it.
            let _ = self.stats.waiting(answer).await;
        }
    }

    /// Whether workers have not yet answered for all of this read.
    fn is_with_workers(&self, read: u64) -> bool {
        self.flights.iter().any(|flight| flight.read() == read && !flight.is_ready())
    }

    async fn give_up(&mut self, entries: Entries, attempt: Attempt) {
        // It was given to this group once before its first recovery.
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
        self.set_aside(entries, reason).await;
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
