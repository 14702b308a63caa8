//! Builds the stages, joins them, and drives a partition from start to drain.
//!
//! One task reads, routes and commits; the shards work meanwhile. While batch k
//! is being worked, k-1 is committed and k+1 read, both in one step. At most
//! `backlog` entries are between read and commit: reads are sized by what is
//! free, so every queue has an end.
//!
//! After an error what is in flight stays in flight. If nobody else owned the
//! partition meanwhile, the engine goes on with it; otherwise it forgets it and
//! starts afresh, as the new process would that it now is.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::{
    commit::Flight,
    config::Config,
    decode::Decoder,
    event::{Entries, EntryId},
    ingest::Ingest,
    normalize::Normalizer,
    plugin::Generation,
    retry::Retry,
    shard::{ShardHandle, Worked},
    sink::Sinks,
    stats::Stats,
    stream::{Acquire, Acquired, Clock, Commit, From, Read, Stream, StreamError, Totals},
};

/// How often to look whether another consumer of the group has died.
const ADOPT_EVERY: Duration = Duration::from_secs(30);

/// How a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Not at all: only when told to stop.
    Stopped,
    /// When all that is there is worked off, pending entries included.
    Drained,
}

/// A partition and everything that works it.
pub struct Engine<S> {
    stream: S,
    config: Config,
    generation: Arc<Generation>,
    ingest: Ingest,
    sinks: Sinks,
    stats: Arc<Stats>,
    shards: Vec<ShardHandle>,
    outbox: mpsc::Sender<Worked>,
    outcomes: mpsc::Receiver<Worked>,
    flights: VecDeque<Flight>,
    /// Entries in `flights`.
    in_flight: usize,
    /// A commit whose step failed: it may have happened.
    unsettled: Option<Commit>,
    totals: Totals,
    /// Under which we own the partition; 0 before the first time.
    epoch: u64,
    /// Number and epoch of the last commit that we know of.
    last_commit: (u64, u64),
    reads: u64,
    last_read: EntryId,
    from: From,
}

enum Ended {
    Stopped,
    Drained,
}

impl<S: Stream> Engine<S> {
    /// Prepares a run; nothing is read and no thread started yet.
    pub fn new(
        stream: S,
        config: &Config,
        generation: Generation,
        decoder: Decoder,
        sinks: Sinks,
        stats: Arc<Stats>,
    ) -> Self {
        // Each read in flight is at most one job per shard and holds at least one entry.
        let (outbox, outcomes) = mpsc::channel(config.engine.backlog * config.engine.worker_count() + 1);
        let ingest = Ingest::new(decoder, config.engine.worker_count(), Clock::default());
        Self {
            stream,
            config: config.clone(),
            generation: Arc::new(generation),
            ingest,
            sinks,
            stats,
            shards: Vec::new(),
            outbox,
            outcomes,
            flights: VecDeque::new(),
            in_flight: 0,
            unsettled: None,
            totals: Totals::default(),
            epoch: 0,
            last_commit: (0, 0),
            reads: 0,
            last_read: EntryId::ZERO,
            from: From::Pending(EntryId::ZERO),
        }
    }

    /// Works until told to stop, or until drained. Whatever was read is committed before it returns.
    /// Returns the group's totals, or `None` if the partition was never ours.
    ///
    /// # Errors
    /// When the server can't be used as it is configured.
    pub async fn run(mut self, until: Until, mut stop: watch::Receiver<bool>) -> Result<Option<Totals>> {
        let mut retry = Retry::default();
        loop {
            let Some(acquired) = self.own(&mut stop, &mut retry).await? else {
                if self.in_flight > 0 {
                    warn!(
                        entries = self.in_flight,
                        "stopped without redis; what was read is worked again at the next start"
                    );
                }
                break;
            };
            let undisturbed = self.resume(acquired)?;
            if !undisturbed
                && let Some(last) = self.sinks.last_in_file()
                && let Ok(missed) = self.stream.alerts_after(&last).await
            {
                self.sinks.catch_up(missed);
            }
            match self.work(until, &mut stop, &mut retry).await {
                Ok(ended) => {
                    self.stream.release().await;
                    match ended {
                        Ended::Stopped => info!("stopped; everything that was read is committed"),
                        Ended::Drained => info!("drained"),
                    }
                    break;
                }
                Err(StreamError::Fenced) => warn!("another host has taken over; standing by"),
                Err(error) => {
                    retry.after(&error);
                    tokio::select! {
                        () = tokio::time::sleep(retry.pause()) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                }
            }
        }
        self.shards.drain(..).for_each(ShardHandle::join);
        Ok((self.epoch > 0).then_some(self.totals))
    }

    /// Becomes the owner, however long it takes; `None` when told to stop.
    async fn own(&mut self, stop: &mut watch::Receiver<bool>, retry: &mut Retry) -> Result<Option<Acquired>> {
        let mut standing_by = None;
        loop {
            let pause = match self.stream.acquire().await {
                Ok(Acquire::Owned(acquired)) => {
                    info!(epoch = acquired.epoch, "reading is ours");
                    return Ok(Some(acquired));
                }
                Ok(Acquire::Held { by, retry_in }) => {
                    retry.reached();
                    if standing_by.as_ref() != Some(&by) {
                        info!(owner = %by, "standing by: another host works this stream");
                        standing_by = Some(by);
                    }
                    retry_in
                }
                Err(StreamError::Misconfigured(what)) if self.epoch == 0 => bail!(what),
                Err(error) => {
                    retry.after(&error);
                    retry.pause()
                }
            };
            tokio::select! {
                // Both are cancel-safe.
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }

    /// Goes on with what is in flight, or starts afresh if another host has committed meanwhile.
    /// Returns whether nobody has.
    fn resume(&mut self, acquired: Acquired) -> Result<bool> {
        // A commit is known by its number and the epoch it was made under: two hosts may count alike.
        let last = (acquired.totals.commits, acquired.committed_under);
        if let Some(commit) = self.unsettled.take_if(|commit| (commit.totals.commits, self.epoch) == last) {
            self.committed(&commit);
        }
        let undisturbed = self.epoch > 0 && last == self.last_commit;
        self.epoch = acquired.epoch;
        self.last_commit = last;
        if undisturbed {
            // What is in flight lies before this point; an answer that was lost left its entries after it.
            if self.from == From::New {
                self.from = From::Pending(self.last_read);
            }
            return Ok(true);
        }
        self.flights.clear();
        self.in_flight = 0;
        self.unsettled = None;
        self.totals = acquired.totals;
        self.last_read = acquired.last_delivered;
        self.from = From::Pending(EntryId::ZERO);
        self.ingest.reset(acquired.clock);
        self.stats.submitted.store(self.stats.completed.load(Relaxed), Relaxed);
        self.start_shards()?;
        Ok(false)
    }

    fn start_shards(&mut self) -> Result<()> {
        self.shards.drain(..).for_each(ShardHandle::join);
        while self.outcomes.try_recv().is_ok() {}
        for number in 0..self.config.engine.worker_count() {
            let normalizer = Normalizer::new(&self.config.input)?;
            let (generation, outbox) = (self.generation.clone(), self.outbox.clone());
            let queue = self.config.engine.backlog + 1;
            self.shards.push(ShardHandle::start(number, generation, normalizer, queue, outbox)?);
        }
        Ok(())
    }

    async fn work(
        &mut self,
        until: Until,
        stop: &mut watch::Receiver<bool>,
        retry: &mut Retry,
    ) -> Result<Ended, StreamError> {
        let mut caught_up = false;
        let mut adopt_at = Instant::now();
        loop {
            let mut adopting = adopt_at <= Instant::now();
            if adopting && self.flights.is_empty() && self.unsettled.is_none() {
                self.adopt().await?;
                adopt_at = Instant::now() + ADOPT_EVERY;
                adopting = false;
            }
            while let Ok(worked) = self.outcomes.try_recv() {
                self.accept(worked);
            }
            let stopping = *stop.borrow();
            let free = self.config.engine.backlog.saturating_sub(self.in_flight);
            // What is adopted must be read apart from what is in flight, which is pending too.
            let count = if stopping || adopting { 0 } else { free.min(self.config.stream.batch) };
            let commit = self.next_commit();
            if commit.done.is_empty() && (count == 0 || caught_up) {
                if !self.flights.is_empty() {
                    if let Some(worked) = self.outcomes.recv().await {
                        self.accept(worked);
                    }
                    continue;
                }
                if stopping {
                    return Ok(Ended::Stopped);
                }
                if until == Until::Drained {
                    return Ok(Ended::Drained);
                }
                tokio::select! {
                    // Dropping the wait loses nothing: it has no effect on the partition.
                    waited = self.stream.wait(self.last_read) => waited?,
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                caught_up = false;
                continue;
            }
            let from = self.from;
            let answer = self.stream.step(&commit, Read { from, count }).await;
            let entries = match answer {
                Ok(entries) => entries,
                Err(error) => {
                    self.unsettled = (!commit.done.is_empty()).then_some(commit);
                    return Err(error);
                }
            };
            retry.reached();
            self.committed(&commit);
            if count > 0 {
                caught_up = self.note_read(from, &entries, count);
            }
            if !entries.is_empty() {
                self.submit(entries, from != From::New);
            }
        }
    }

    /// Takes over what dead consumers left; it is then read like our own pending entries.
    async fn adopt(&mut self) -> Result<(), StreamError> {
        let adopted = self.stream.adopt().await?;
        tell_lost(&adopted.lost);
        self.totals.entries += adopted.lost.len() as u64;
        self.totals.lost += adopted.lost.len() as u64;
        if adopted.entries > 0 {
            self.from = From::Pending(EntryId::ZERO);
        }
        Ok(())
    }

    /// Whether there is nothing more to read for now.
    fn note_read(&mut self, from: From, entries: &Entries, count: usize) -> bool {
        let last = entries.len().checked_sub(1).and_then(|last| entries.get(last)).map(|entry| entry.id);
        if let Some(last) = last {
            self.last_read = self.last_read.max(last);
        }
        match (from, last) {
            (From::Pending(_), Some(last)) => {
                self.from = From::Pending(last);
                false
            }
            (From::Pending(_), None) => {
                self.from = From::New;
                false
            }
            (From::New, _) => entries.len() < count,
        }
    }

    fn submit(&mut self, entries: Entries, recovered: bool) {
        self.reads += 1;
        let mut routed = self.ingest.route(self.reads, &entries);
        tell_lost(&routed.lost);
        self.stats.unseen.fetch_add(routed.untimed, Relaxed);
        let flight = Flight::new(self.reads, entries, recovered, &mut routed, self.ingest.clock());
        self.stats.submitted.fetch_add(flight.ticks as u64, Relaxed);
        self.in_flight += flight.entries();
        self.flights.push_back(flight);
        for (shard, job) in self.shards.iter().zip(routed.jobs) {
            if let Some(job) = job {
                shard.submit(job);
            }
        }
    }

    fn accept(&mut self, worked: Worked) {
        let repaired = worked.repaired.out_of_order + worked.repaired.volume_repaired;
        self.stats.repaired.fetch_add(repaired, Relaxed);
        self.stats.unseen.fetch_add(worked.repaired.unpriced, Relaxed);
        for faulted in &worked.faulted {
            let spec = &self.generation.detectors[faulted.detector as usize];
            warn!(detector = %spec.name, fault = %faulted.fault, ticks = faulted.rows, "a detector failed; started anew");
        }
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.read() == worked.read) {
            flight.accept(worked);
        }
    }

    /// Everything that is worked and stands at the front: commits are in stream order.
    fn next_commit(&mut self) -> Commit {
        if let Some(commit) = self.unsettled.take() {
            return commit;
        }
        let mut commit = Commit { totals: self.totals, ..Commit::default() };
        let now_ms = now_ms();
        while self.flights.front().is_some_and(Flight::is_ready)
            && let Some(flight) = self.flights.pop_front()
        {
            commit.ticks += flight.ticks as u64;
            flight.settle(&self.generation, &self.ingest, now_ms, &mut commit);
        }
        commit.totals.commits += u64::from(!commit.done.is_empty());
        commit
    }

    fn committed(&mut self, commit: &Commit) {
        let Some(last) = commit.done.last() else { return };
        self.totals = commit.totals;
        self.last_commit = (commit.totals.commits, self.epoch);
        self.in_flight -= commit.done.len();
        let Stats { completed, alerts, dead, lag_ms, .. } = &*self.stats;
        completed.fetch_add(commit.ticks, Relaxed);
        alerts.fetch_add(commit.alerts.len() as u64, Relaxed);
        dead.fetch_add(commit.dead_letters.len() as u64, Relaxed);
        lag_ms.store(now_ms().saturating_sub(last.millis), Relaxed);
        self.sinks.publish(&commit.alerts);
    }
}

fn tell_lost(lost: &[EntryId]) {
    if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
        warn!(entries = lost.len(), %first, %last, "entries were trimmed away before they were worked");
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
