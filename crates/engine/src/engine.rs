//! Builds the stages, joins them, and drives a partition from start to drain.
//!
//! One task reads, routes and commits; the shards work meanwhile. While batch k
//! is being worked, k-1 is committed and k+2 read, both in one step; and while the
//! server does that, k+1 is decoded and routed. At most `backlog` entries are
//! between read and commit: reads are sized by what is free, so every queue has an end.
//!
//! After an error what is in flight stays in flight. If nobody else owned the
//! partition meanwhile, the engine goes on with it; otherwise it forgets it and
//! restores what was saved (`restore`), as the new process would that it now is.

mod generations;
mod intake;
mod reading;
mod restore;
mod resume;
mod trial;
mod warm;

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::{
    generations::{Standing, made_by},
    intake::Intake,
    trial::Trial,
    warm::Warming,
};
use crate::{
    commit::{Flight, Place},
    ingest::Ingest,
    monitor::Role,
    pace::Pace,
    plugin::{DetectorSpec, Generation, Reload, watch::Looker},
    retry::Retry,
    shard::{ShardHandle, Tape, Task, Worked},
    sink::Sinks,
    stats::{Phase, Stats},
};
use tickhound_core::{
    checkpoint::CHUNKS,
    config::{BACKLOG_MAX, Config},
    decode::Decoder,
    event::{Clock, Entries, EntryId},
    position::Position,
    rate::Rates,
    stream::{Commit, Delivery, ReadRequest, Stream, StreamError, Totals},
    wall::now_ms,
};

/// A host that is told to stop, and can't commit what it has read, tries for so long.
const STOP_TRIES_FOR: Duration = Duration::from_secs(10);

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
    /// What the shards work with, from the last read on.
    generation: Arc<Generation>,
    /// What is to be in force; differs from it while detectors are warmed up.
    target: Arc<Generation>,
    /// Detectors of it that are to be warmed up, as soon as the server tells what is pending.
    cold: Vec<Arc<DetectorSpec>>,
    /// Not before this time.
    warm_at: Instant,
    warming: Option<Warming>,
    standing: Standing,
    reloads: watch::Receiver<Reload>,
    looker: Looker,
    ingest: Ingest,
    sinks: Sinks,
    stats: Arc<Stats>,
    shards: Vec<ShardHandle>,
    outbox: mpsc::Sender<Worked>,
    outcomes: mpsc::Receiver<Worked>,
    /// Entries that were read last: decoded and routed while the server works on the next step.
    fresh: Entries,
    flights: VecDeque<Flight>,
    /// Entries in `flights`.
    in_flight: usize,
    intake: Intake,
    totals: Totals,
    rates: Rates,
    position: Position,
    /// Reads and visits so far, muted ones too.
    reads: u64,
    pace: Pace,
    trial: Trial,
    /// Symbols that are not worth keeping, and poisonous entries that no recovery will meet again.
    forgotten: Vec<String>,
    passed: Vec<EntryId>,
    /// Poisonous entries, all of them.
    poison: Vec<EntryId>,
    tape: Option<Arc<dyn Tape>>,
    /// Entries that are to be acknowledged only: a group that was set back has handed them out again.
    repeated: BTreeSet<EntryId>,
    /// Entries behind the newest one that other consumers held when it was last looked.
    elsewhere: BTreeSet<EntryId>,
}

enum Ended {
    Early,
    Stopped,
    Drained,
}

impl<S: Stream> Engine<S> {
    /// Prepares a run; nothing is read and no thread started yet.
    pub fn new(
        stream: S,
        config: &Config,
        reloads: watch::Receiver<Reload>,
        decoder: Decoder,
        sinks: Sinks,
        stats: Arc<Stats>,
    ) -> Self {
        // Each read in flight holds at least one entry, may have a visit behind it, and is at most one
        // task per shard. Beside them there may be some changes of the generation. The backlog may be changed
        // while it runs, and room that is not used costs nothing.
        let (outbox, outcomes) = mpsc::channel((2 * BACKLOG_MAX + 16) * config.engine.worker_count());
        let generation = reloads.borrow().generation.clone();
        let ingest = Ingest::new(decoder, config.engine.worker_count(), Clock::default());
        Self {
            stream,
            config: config.clone(),
            target: generation.clone(),
            generation,
            cold: Vec::new(),
            warm_at: Instant::now(),
            warming: None,
            standing: Standing::default(),
            reloads,
            looker: Looker::default(),
            ingest,
            sinks,
            stats,
            shards: Vec::new(),
            outbox,
            outcomes,
            fresh: Entries::default(),
            flights: VecDeque::new(),
            in_flight: 0,
            intake: Intake::default(),
            totals: Totals::default(),
            rates: Rates::default(),
            position: Position::default(),
            reads: 0,
            pace: Pace::new(Duration::from_millis(config.engine.checkpoint_every_ms)),
            trial: Trial::default(),
            forgotten: Vec::new(),
            passed: Vec::new(),
            poison: Vec::new(),
            tape: None,
            repeated: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
        }
    }

    /// Asks `looker` what the files are whenever the partition becomes this host's.
    pub fn with_looker(self, looker: Looker) -> Self {
        Self { looker, ..self }
    }

    /// Has `tape` look on.
    pub fn with_tape(mut self, tape: Arc<dyn Tape>) -> Self {
        self.tape = Some(tape);
        self
    }

    /// Works until told to stop, or until drained. Whatever was read is committed before it returns.
    /// Returns the group's totals, or `None` if the partition was never ours.
    ///
    /// # Errors
    /// When the server can't be used as it is configured, or, after it was told to stop, what was read can't be
    /// committed.
    pub async fn run(mut self, until: Until, mut stop: watch::Receiver<bool>) -> Result<Option<Totals>> {
        let mut retry = Retry::default();
        let mut stopping_since: Option<Instant> = None;
        loop {
            let Some(acquired) = self.own(&mut stop, &mut retry).await? else {
                if self.in_flight > 0 {
                    warn!(
                        event = "host_stopped_uncommitted",
                        entries = self.in_flight,
                        "stopped without Redis; the entries in flight are processed again at the next start"
                    );
                }
                break;
            };
            let ended = match self.resume(&acquired, &stop).await? {
                Ok(true) => {
                    let ended = self.work(until, &mut stop, &mut retry).await;
                    self.submit_fresh().await;
                    ended
                }
                Ok(false) => Ok(Ended::Early),
                Err(error) => Err(error),
            };
            match ended {
                Ok(ended) => {
                    self.stream.release().await;
                    match ended {
                        Ended::Early => info!(event = "host_stopped_early", "stopped before reading any entry"),
                        Ended::Stopped => info!(event = "host_stopped", "stopped; all entries read are committed"),
                        Ended::Drained => info!(event = "host_drained", "drained; all entries are committed"),
                    }
                    break;
                }
                Err(StreamError::Misconfigured(what)) => {
                    self.stream.release().await;
                    bail!(what);
                }
                Err(StreamError::Fenced) => {
                    self.stats.monitor.fenced.fetch_add(1, Relaxed);
                    warn!(event = "host_fenced", "another host has acquired the lease; standing by");
                }
                Err(error) => {
                    self.stats.monitor.disconnects.fetch_add(1, Relaxed);
                    self.stats.monitor.is_now(Role::Connecting);
                    retry.after(&error);
                    if *stop.borrow() && stopping_since.get_or_insert_with(Instant::now).elapsed() >= STOP_TRIES_FOR {
                        self.stream.release().await;
                        bail!(
                            "stopped, but what was read could not be committed ({error}); it is processed again at the next start"
                        );
                    }
                    self.pause(retry.pause(), &mut stop).await;
                }
            }
        }
        self.shards.drain(..).for_each(ShardHandle::join);
        Ok((self.position.epoch() > 0).then_some(self.totals))
    }

    /// Waits for the next attempt; an order to stop ends that once.
    async fn pause(&self, pause: Duration, stop: &mut watch::Receiver<bool>) {
        let pause = self.stats.waiting(tokio::time::sleep(pause));
        let stopping = *stop.borrow();
        if stopping {
            // To stop is no reason to try in a hurry.
            pause.await;
        } else {
            tokio::select! {
                // Both are cancel-safe.
                () = pause => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    async fn work(
        &mut self,
        until: Until,
        stop: &mut watch::Receiver<bool>,
        retry: &mut Retry,
    ) -> Result<Ended, StreamError> {
        self.stats.enter(Phase::Working);
        let mut caught_up = false;
        let mut adopt_at = Instant::now();
        loop {
            self.stats.monitor.turned(self.oldest_in_flight());
            self.stats.turn();
            let mut adopting = adopt_at <= Instant::now();
            if adopting && self.is_idle() && !self.position.has_unsettled() {
                self.adopt().await?;
                adopt_at = Instant::now() + ADOPT_EVERY;
                adopting = false;
            }
            while let Ok(worked) = self.outcomes.try_recv() {
                self.accept(worked);
            }
            self.take_up_changes().await?;
            if let Some(chunks) = self.pace.due(Instant::now(), self.ingest.chunk_sizes()) {
                self.visit(chunks).await;
            }
            let stopping = *stop.borrow();
            // What is adopted must be read apart from what is in flight, which is pending too.
            // Who drains wants every entry seen by every detector; others are not kept waiting.
            let waiting = until == Until::Drained && (self.warming.is_some() || !self.cold.is_empty());
            let count = if stopping || adopting || waiting { 0 } else { self.wanted() };
            let commit = self.next_commit();
            if commit.is_empty() && (count == 0 || caught_up) {
                if !self.fresh.is_empty() {
                    // Perhaps no shard has anything to do with it, and it can be committed at once.
                    self.submit_fresh().await;
                    continue;
                }
                if !self.flights.is_empty() {
                    self.wait_for_outcome().await?;
                    continue;
                }
                if waiting && !stopping {
                    let stats = self.stats.clone();
                    tokio::select! {
                        () = stats.waiting(self.wait_for_warming()) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                    continue;
                }
                if stopping || until == Until::Drained {
                    // The next start then has nothing to read again.
                    if let Some(chunks) = self.pace.rest(self.ingest.chunk_sizes()) {
                        self.visit(chunks).await;
                        continue;
                    }
                    return Ok(if stopping { Ended::Stopped } else { Ended::Drained });
                }
                self.sinks.tell_late();
                tokio::select! {
                    // Dropping the wait loses nothing: it has no effect on the partition.
                    waited = self.stats.waiting(self.stream.wait(self.position.last_read())) => waited?,
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = changed(&mut self.reloads, &mut self.warming) => {}
                }
                caught_up = false;
                continue;
            }
            let read = ReadRequest { from: self.position.from(), count };
            let delivered = self.step(commit, read).await?;
            retry.reached();
            if count > 0 {
                self.intake.note(&delivered.entries);
                caught_up = self.take_delivered(delivered, read).await?;
            }
        }
    }

    /// Nothing is between read and commit.
    fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.fresh.is_empty()
    }

    async fn submit_fresh(&mut self) {
        let entries = std::mem::take(&mut self.fresh);
        if !entries.is_empty() {
            self.submit(entries, false).await;
        }
    }

    async fn step(&mut self, commit: Commit, read: ReadRequest) -> Result<Delivery, StreamError> {
        let started = Instant::now();
        let begun = self.stream.begin(&commit, read).await;
        self.submit_fresh().await;
        let ended = match begun {
            Ok(()) => self.stream.finish().await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(delivered) => {
                self.stats.monitor.stepped(started.elapsed());
                self.committed(&commit);
                if let Some(receipt) = &commit.receipt {
                    self.receipt_written(receipt);
                }
                for id in &commit.repeated {
                    self.repeated.remove(id);
                }
                if let Some(attempt) = commit.attempt {
                    self.trial.marked(attempt);
                }
                Ok(delivered)
            }
            Err(error) => {
                self.position.unsettled(commit);
                Err(error)
            }
        }
    }

    async fn submit(&mut self, entries: Entries, recovered: bool) {
        self.reads += 1;
        let mut routed = self.ingest.route(self.reads, &entries);
        tell_lost(&routed.lost);
        self.stats.unseen.fetch_add(routed.untimed, Relaxed);
        self.stats.monitor.untimed.fetch_add(routed.untimed, Relaxed);
        let out_of_order = self.position.works(&entries);
        let mut flight = Flight::new(self.reads, entries, recovered, &mut routed, self.place());
        flight.out_of_order = out_of_order;
        self.launch(flight);
        for (number, (shard, job)) in self.shards.iter().zip(routed.jobs).enumerate() {
            if let Some(job) = job {
                self.stats.monitor.queued(number, job.batch.len());
                shard.submit(Task::Work(job)).await;
            }
        }
        if out_of_order {
            self.visit(0..CHUNKS).await;
        }
    }

    fn place(&self) -> Place {
        let generation = self.generation.clone();
        Place { generation, newest: self.position.newest(), index: self.position.index(), clock: self.ingest.clock() }
    }

    fn launch(&mut self, flight: Flight) {
        if !self.elsewhere.is_empty() {
            for id in flight.ids() {
                self.elsewhere.remove(&id);
            }
        }
        self.stats.submitted.fetch_add(flight.ticks as u64, Relaxed);
        self.in_flight += flight.entries();
        self.pace.worked(flight.entries());
        self.flights.push_back(flight);
    }

    /// Has the states of these chunks saved, as of all that was read so far.
    async fn visit(&mut self, chunks: Range<u16>) {
        self.reads += 1;
        self.pace.started(&chunks);
        self.flights.push_back(Flight::visit(self.reads, chunks.clone(), self.shards.len(), self.place()));
        for shard in &self.shards {
            shard.submit(Task::Save { read: self.reads, chunks: chunks.clone() }).await;
        }
    }

    fn accept(&mut self, worked: Worked) {
        self.stats.monitor.worked(&worked);
        let repaired = worked.repaired.out_of_order + worked.repaired.volume_repaired;
        self.stats.repaired.fetch_add(repaired, Relaxed);
        self.stats.unseen.fetch_add(worked.repaired.unpriced, Relaxed);
        let Some(index) = self.flights.iter().position(|flight| flight.read() == worked.read) else { return };
        let generation = self.flights[index].generation.clone();
        self.note_faults(&worked, &generation);
        self.flights[index].accept(worked);
    }

    /// Everything that is worked and stands at the front: commits are in stream order.
    fn next_commit(&mut self) -> Commit {
        if let Some(commit) = self.position.take_unsettled() {
            return commit;
        }
        let mut commit = Commit { totals: self.totals, rates: self.rates.clone(), ..Commit::default() };
        let now_ms = now_ms();
        // What is one commit with the flight behind it stays one, however large.
        let (mut bytes, mut goes_on) = (0, false);
        while commit.visit.is_none()
            && (goes_on || !Intake::is_full(bytes))
            && self.flights.front().is_some_and(Flight::is_ready)
        {
            let with_next = self.flights[0].out_of_order || self.flights[0].is_swap();
            if with_next && !self.flights.get(1).is_some_and(Flight::is_ready) {
                break;
            }
            let Some(flight) = self.flights.pop_front() else { break };
            commit.ticks += flight.ticks as u64;
            (bytes, goes_on) = (bytes + flight.bytes(), with_next);
            if flight.is_visit() {
                self.pace.saved(flight.took, flight.saved_symbols());
            }
            if flight.is_swap() {
                let saving = self.flights.front().map_or(Duration::ZERO, |visit| visit.took);
                self.swapped(&flight, flight.took + saving);
                continue;
            }
            let generation = flight.generation.clone();
            flight.settle(&self.ingest, now_ms, &mut commit);
            if let Some(visit) = &mut commit.visit {
                visit.complete = self.complete(&generation);
                visit.made_by = made_by(&generation);
            }
        }
        if let Some(visit) = &mut commit.visit {
            visit.forgotten = std::mem::take(&mut self.forgotten);
            visit.passed = std::mem::take(&mut self.passed);
        }
        commit.attempt = self.next_mark();
        commit.repeated = self.repeated.iter().copied().collect();
        commit.receipt = self.receipt();
        commit.totals.commits += u64::from(commit.is_counted());
        commit
    }

    fn committed(&mut self, commit: &Commit) {
        if !commit.is_counted() {
            return;
        }
        self.position.committed(commit);
        self.totals = commit.totals;
        self.rates = commit.rates.clone();
        self.in_flight -= commit.done.len();
        let Stats { completed, alerts, late, dead, lag_ms, .. } = &*self.stats;
        completed.fetch_add(commit.ticks, Relaxed);
        alerts.fetch_add(commit.alerts.len() as u64, Relaxed);
        late.fetch_add(commit.alerts.iter().filter(|alert| alert.stale).count() as u64, Relaxed);
        dead.fetch_add(commit.dead_letters.len() as u64, Relaxed);
        if let Some(last) = commit.done.last() {
            lag_ms.store(now_ms().saturating_sub(last.millis), Relaxed);
        }
        self.stats.monitor.committed(commit);
        self.sinks.publish(&commit.alerts);
    }

    /// When the oldest entry between read and commit arrived, ms since the Unix epoch.
    fn oldest_in_flight(&self) -> Option<u64> {
        self.flights.iter().find_map(|flight| flight.ids().next()).map(|id| id.millis)
    }
}

/// Returns when there may be something to take up.
async fn changed(reloads: &mut watch::Receiver<Reload>, warming: &mut Option<Warming>) {
    let reloaded = async {
        if reloads.changed().await.is_err() {
            // Nothing will ever change.
            std::future::pending::<()>().await;
        }
        reloads.mark_changed();
    };
    match warming {
        Some(warming) => tokio::select! { () = reloaded => {} () = warming.changed() => {} },
        None => reloaded.await,
    }
}

fn tell_lost(lost: &[EntryId]) {
    if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
        error!(
            event = "pending_entries_trimmed",
            entries = lost.len(),
            %first,
            %last,
            "entries were trimmed from the stream before they were processed"
        );
    }
}
