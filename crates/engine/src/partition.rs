//! A partition: builds the stages, joins them, and drives them from the start to the drain.
//!
//! One task reads, routes and commits, while the workers process. While batch k is with the workers, one step commits
//! k-1 and reads k+2; while the server works on that step, k+1 is decoded and routed. At most `engine.backlog` entries are
//! between read and commit: reads are sized by what is free, so every queue has an end.
//!
//! What holds: after an error, what is in flight stays in flight. If nobody else has owned the partition meanwhile, the
//! host continues with it; otherwise it drops that and recovers from the checkpoint (`recovery`), as a new process would.

mod delivery;
mod generations;
mod intake;
mod leadership;
mod pipeline;
mod quarantine;
mod receipts;
mod recovery;
mod resume;
mod trial;
mod warm_up;
mod workers;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::sync::watch;
use tracing::{info, warn};

use self::{
    delivery::{ReadProgress, Redelivery},
    generations::{Activation, Generations, made_by},
    intake::Intake,
    leadership::Leadership,
    pipeline::Pipeline,
    recovery::ResumeOutcome,
    trial::Trial,
    warm_up::WarmUpSetup,
};
use crate::{
    archive::Archive,
    commit::{Flight, Origin, Payload},
    monitor::Phase,
    plugin::{Reload, watch::WatcherHandle},
    shard::{Answer, Tape},
    sink::Sinks,
    stats::Stats,
};
use tickhound_core::{
    config::Config,
    decode::Decoder,
    event::{Clock, Entries, EntryId},
    normalize::Normalizer,
    rate::AlertRates,
    stream::{Acquisition, Commit, Delivery, ReadFrom, ReadRequest, Stream, StreamError, Totals},
    wall::now_ms,
};

/// How often to check whether another consumer of the group has died. A dead one is only known after a while anyway.
const ADOPT_EVERY: Duration = Duration::from_secs(30);

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: it ends when it is stopped.
    Stopped,
    /// When all entries are processed, pending ones included.
    Drained,
}

/// What a partition is processed with.
pub struct Stages {
    /// The newest generation, and each one after it.
    pub reloads: watch::Receiver<Reload>,
    /// The decoder of its entries.
    pub decoder: Decoder,
    /// The normalizer of its ticks.
    pub normalizer: Normalizer,
    /// The sinks of its alerts.
    pub sinks: Sinks,
    /// The counters of the run.
    pub stats: Arc<Stats>,
}

/// A partition and everything that processes it.
pub struct Partition<S> {
    stream: S,
    config: Config,
    stats: Arc<Stats>,
    sinks: Sinks,
    pipeline: Pipeline,
    generations: Generations,
    trial: Trial,
    redelivery: Redelivery,
    retention: Retention,
    account: Account,
}

/// The sums over all commits of the group.
#[derive(Debug, Default)]
struct Account {
    totals: Totals,
    rates: AlertRates,
}

/// What is saved beside states, or is deleted with the next visit.
#[derive(Debug, Default)]
struct Retention {
    /// Entries that ended the process too often: no replay and no warm-up may show them.
    poison: Vec<EntryId>,
    /// Poison entries that are no longer in the stream, and can be deleted.
    passed: Vec<EntryId>,
    /// Symbols whose saved states can be deleted.
    forgotten: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Early,
    Stopped,
    Drained,
}

/// The state of the loop beside the parts of the partition.
struct TurnState {
    until: Until,
    reading: ReadProgress,
    /// When dead consumers are checked next.
    adopt_at: Instant,
}

/// Whether reading pauses for an adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopting {
    NotDue,
    WaitsForCommits,
}

/// What a turn of the loop may do.
struct Turn {
    stopping: bool,
    /// Whether a drain waits for a warm-up.
    warming_up: bool,
    /// How many entries to read.
    count: usize,
}

impl<S: Stream> Partition<S> {
    /// Prepares a run; nothing is read and no thread is started yet.
    pub fn new(stream: S, config: &Config, stages: Stages) -> Self {
        let Stages { reloads, decoder, normalizer, sinks, stats } = stages;
        let generation = reloads.borrow().generation.clone();
        Self {
            stream,
            config: config.clone(),
            sinks,
            pipeline: Pipeline::new(config, decoder, normalizer, generation, stats.clone()),
            generations: Generations::new(reloads, config, stats.clone()),
            stats,
            trial: Trial::default(),
            redelivery: Redelivery::default(),
            retention: Retention::default(),
            account: Account::default(),
        }
    }

    /// Has `watcher` check the files whenever the host becomes owner.
    pub fn with_watcher(mut self, watcher: WatcherHandle) -> Self {
        self.generations.set_watcher(watcher);
        self
    }

    /// Has warm-ups begin with what `archive` has from before the stream.
    pub fn with_archive(mut self, archive: Arc<dyn Archive>) -> Self {
        self.generations.set_archive(archive);
        self
    }

    /// Has `tape` observe the rows of all shards.
    pub fn with_tape(mut self, tape: Arc<dyn Tape>) -> Self {
        self.pipeline.workers.tape = Some(tape);
        self
    }

    /// Processes the partition until it is stopped or drained. Everything that was read is committed before this returns.
    /// Returns the totals of the group, or `None` if the host has never been owner.
    ///
    /// # Errors
    /// Fails if the server can't be used as it is configured, or if what was read can't be committed after a stop.
    pub async fn run(mut self, until: Until, stop: watch::Receiver<bool>) -> Result<Option<Totals>> {
        let mut leadership = Leadership::new(stop, self.stats.clone());
        loop {
            let (was_owner, oldest_ms) = (self.pipeline.position.epoch() > 0, self.pipeline.oldest_ms());
            let Some(acquired) = leadership.acquire(&mut self.stream, was_owner, oldest_ms).await? else {
                if self.pipeline.entries() > 0 {
                    warn!(
                        event = "host_stopped_uncommitted",
                        entries = self.pipeline.entries(),
                        "stopped without Redis; the entries in flight are processed again at the next start"
                    );
                }
                break;
            };
            match self.lead(&acquired, until, &mut leadership).await {
                Ok(end) => {
                    self.stream.release().await;
                    end.log();
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
                    self.pipeline.intake.begin_small();
                    if let Err(given_up) = leadership.failed(&error).await {
                        self.stream.release().await;
                        return Err(given_up);
                    }
                }
            }
        }
        self.pipeline.workers.join();
        Ok((self.pipeline.position.epoch() > 0).then_some(self.account.totals))
    }

    /// Owns the partition: continues or recovers, and then processes it.
    async fn lead(
        &mut self,
        acquired: &Acquisition,
        until: Until,
        leadership: &mut Leadership,
    ) -> Result<End, StreamError> {
        match self.resume(acquired, leadership.stop()).await? {
            ResumeOutcome::Stopped => Ok(End::Early),
            ResumeOutcome::Ready => {
                self.pipeline.intake.lift_page_limit();
                let end = self.process(until, leadership).await;
                // Entries that were read are in flight from now on, whatever becomes of the lease.
                self.submit_fresh().await;
                end
            }
        }
    }

    /// The loop of an owner, turn by turn.
    async fn process(&mut self, until: Until, leadership: &mut Leadership) -> Result<End, StreamError> {
        self.stats.enter(Phase::Processing);
        let mut turns = TurnState { until, reading: ReadProgress::Behind, adopt_at: Instant::now() };
        loop {
            self.stats.turn(self.pipeline.oldest_ms());
            let adoption = self.adopt_if_due(&mut turns).await?;
            self.accept_answers();
            self.take_up_changes().await?;
            self.visit_if_due().await;
            let turn = self.plan_turn(&turns, adoption, leadership.is_stopping());
            let commit = self.next_commit();
            if commit.is_empty() && (turn.count == 0 || turns.reading == ReadProgress::CaughtUp) {
                if let Some(end) = self.rest(&turn, &mut turns, leadership).await? {
                    return Ok(end);
                }
                continue;
            }
            let read = ReadRequest { from: self.pipeline.position.from(), count: turn.count };
            let delivered = self.step(commit, read).await?;
            leadership.reached();
            if read.count > 0 {
                self.pipeline.intake.note(&delivered.entries);
                turns.reading = self.take_delivery(delivered, read).await?;
            }
        }
    }

    /// Adopts what dead consumers left, once nothing is in flight.
    async fn adopt_if_due(&mut self, turns: &mut TurnState) -> Result<Adopting, StreamError> {
        if Instant::now() < turns.adopt_at {
            return Ok(Adopting::NotDue);
        }
        if !self.pipeline.is_idle() || self.pipeline.position.has_unknown_commit() {
            return Ok(Adopting::WaitsForCommits);
        }
        self.adopt().await?;
        turns.adopt_at = Instant::now() + ADOPT_EVERY;
        Ok(Adopting::NotDue)
    }

    fn accept_answers(&mut self) {
        while let Some(answer) = self.pipeline.workers.try_answer() {
            self.accept(answer);
        }
    }

    fn accept(&mut self, answer: Answer) {
        self.stats.answered(&answer);
        // An answer to a flight that was dropped has no effect.
        if let Some(flight) = self.pipeline.flight_mut(answer.read) {
            self.generations.note_incidents(answer.read, &answer.incidents, flight.generation());
            flight.accept(answer);
        }
    }

    /// Takes up changes of the configuration and the plugins, warm-ups that have ended, and detectors that come back.
    async fn take_up_changes(&mut self) -> Result<(), StreamError> {
        let has_history = self.account.totals.commits > 0 || self.generations.has_archive();
        if let Some(activation) = self.generations.take_reload(self.pipeline.generation(), has_history) {
            self.activate(activation).await;
        }
        let newest = self.pipeline.position.newest();
        if let Some(activation) = self.generations.take_warm_up(newest, self.pipeline.generation()).await {
            self.activate(activation).await;
        }
        if let Some(activation) = self.generations.bring_back(self.pipeline.generation()) {
            self.activate(activation).await;
        }
        if self.generations.is_warm_up_due() { self.start_warm_up().await } else { Ok(()) }
    }

    /// Activates a generation from the next batch on.
    async fn activate(&mut self, activation: Activation) {
        let Activation { generation, warmed } = activation;
        if generation.alerts != self.pipeline.generation().alerts {
            self.sinks = Sinks::new(&generation.alerts);
        }
        self.pipeline.swap(generation, warmed).await;
    }

    /// Starts the warm-up that is due.
    ///
    /// # Errors
    /// Fails if the server does not report what is pending; the warm-up is tried again after a while.
    async fn start_warm_up(&mut self) -> Result<(), StreamError> {
        let newest = self.generations.history_end(self.pipeline.position.newest());
        let pending = self.stats.waiting(self.stream.pending(EntryId::ZERO, newest)).await;
        let mut left_out = pending.inspect_err(|_| self.generations.delay_warm_up())?;
        // What is pending and not in flight is processed later, by the detectors that are active then.
        for id in self.pipeline.ids() {
            left_out.remove(&id);
        }
        left_out.extend(&self.retention.poison);
        let ingest = self.pipeline.ingest.beside(Clock::default());
        let setup = WarmUpSetup { history: self.stream.reader(), ingest, left_out, newest, archive: None };
        self.generations.start_warm_up(setup, &self.config);
        Ok(())
    }

    async fn visit_if_due(&mut self) {
        if let Some(chunks) = self.pipeline.pace.due(Instant::now(), self.pipeline.ingest.chunk_sizes()) {
            self.pipeline.visit(chunks).await;
        }
    }

    fn plan_turn(&self, turns: &TurnState, adoption: Adopting, stopping: bool) -> Turn {
        // A drain has every entry seen by every detector; otherwise entries do not wait for a warm-up.
        let warming_up = turns.until == Until::Drained && self.generations.is_warming_up();
        // What is adopted must be read apart from what is in flight, which is pending too: nothing is read until all is
        // committed.
        let pauses = stopping || warming_up || adoption == Adopting::WaitsForCommits;
        Turn { stopping, warming_up, count: if pauses { 0 } else { self.wanted() } }
    }

    /// How many entries to read now.
    fn wanted(&self) -> usize {
        let flow = &self.pipeline.generation().flow;
        let free = self.pipeline.free().min(flow.batch);
        let one_by_one = self.trial.is_one_by_one();
        match self.pipeline.position.from() {
            ReadFrom::Pending(_) if one_by_one && !self.pipeline.is_idle() => 0,
            ReadFrom::Pending(_) if one_by_one => 1,
            _ if S::IN_MEMORY => free,
            _ => free.min(self.pipeline.intake.room(self.pipeline.bytes())),
        }
    }

    /// A turn without a step: nothing can be committed, and nothing is to be read for now. Returns how the run ends, if it
    /// does.
    async fn rest(
        &mut self,
        turn: &Turn,
        turns: &mut TurnState,
        leadership: &mut Leadership,
    ) -> Result<Option<End>, StreamError> {
        if self.pipeline.has_fresh() {
            // If no shard has anything to do with these entries, they can be committed at once.
            self.submit_fresh().await;
        } else if self.pipeline.has_flights() {
            self.wait_for_answer().await?;
        } else if turn.warming_up && !turn.stopping {
            tokio::select! {
                // Both are cancel-safe.
                () = self.stats.waiting(self.generations.warm_up_changed()) => {}
                () = leadership.stopped() => {}
            }
        } else if turn.stopping || turns.until == Until::Drained {
            // All changes are saved, so that the next start has nothing to replay.
            let Some(chunks) = self.pipeline.pace.rest(self.pipeline.ingest.chunk_sizes()) else {
                return Ok(Some(if turn.stopping { End::Stopped } else { End::Drained }));
            };
            self.pipeline.visit(chunks).await;
        } else {
            self.sinks.report_stale();
            let last_read = self.pipeline.position.last_read();
            tokio::select! {
                // All are cancel-safe; to wait for entries has no effect on the partition.
                waited = self.stats.waiting(self.stream.wait(last_read)) => waited?,
                () = leadership.stopped() => {}
                () = self.generations.changed() => {}
            }
            turns.reading = ReadProgress::Behind;
        }
        Ok(None)
    }

    /// Commits and reads in one round trip. While the server works on it, the entries of the last read are routed.
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
                Ok(delivered)
            }
            Err(error) => {
                // It may have happened nevertheless: the next acquisition shows that.
                self.pipeline.position.set_unknown_commit(commit);
                Err(error)
            }
        }
    }

    async fn submit_fresh(&mut self) {
        let entries = self.pipeline.take_fresh();
        if !entries.is_empty() {
            self.submit(entries, Origin::New).await;
        }
    }

    async fn submit(&mut self, entries: Entries, origin: Origin) {
        self.redelivery.processing(&entries);
        self.pipeline.submit(entries, origin).await;
    }

    /// Collects what is ready for a commit: whole flights, in stream order.
    fn next_commit(&mut self) -> Commit {
        if let Some(commit) = self.pipeline.position.take_unknown_commit() {
            // Repeated as it was: it may have happened, and must not happen in another form.
            return commit;
        }
        let Account { totals, rates } = &self.account;
        let mut commit = Commit { totals: *totals, rates: rates.clone(), ..Commit::default() };
        let now_ms = now_ms();
        // A flight that is committed with the visit behind it stays with it, however large the commit gets.
        let (mut bytes, mut joined) = (0, false);
        while commit.visit.is_none() && (joined || !Intake::is_full(bytes)) {
            let Some(flight) = self.pipeline.pop_ready() else { break };
            (bytes, joined) = (bytes + flight.bytes(), flight.needs_visit());
            self.add_flight(flight, now_ms, &mut commit);
        }
        if let Some(visit) = &mut commit.visit {
            visit.forgotten = std::mem::take(&mut self.retention.forgotten);
            visit.passed = std::mem::take(&mut self.retention.passed);
        }
        commit.attempt = self.trial.next_mark(&self.pipeline);
        commit.repeated = self.redelivery.repeated.iter().copied().collect();
        commit.receipt =
            self.generations.receipt(self.pipeline.generation(), self.pipeline.ingest.symbol_count() as u64);
        commit.totals.commits += u64::from(commit.is_counted());
        commit
    }

    fn add_flight(&mut self, flight: Flight, now_ms: u64, commit: &mut Commit) {
        match flight.payload() {
            Payload::Read(_) => {}
            Payload::Visit(visit) => self.pipeline.pace.saved(flight.took(), visit.symbols()),
            Payload::Swap(origins) => {
                // A worker pauses for the change and for the visit behind it.
                let pause = flight.took() + self.pipeline.first_took();
                self.generations.activated(&flight, origins, pause);
            }
            Payload::Eviction(evicted) => {
                self.retention.forgotten.extend(evicted.names.iter().map(ToString::to_string));
                self.pipeline.evicted(evicted);
            }
        }
        let generation = flight.generation().clone();
        flight.add_to(&self.pipeline.ingest, now_ms, commit);
        if let Some(visit) = &mut commit.visit {
            visit.complete = self.generations.complete(&generation);
            visit.made_by = made_by(&generation);
        }
    }

    /// Notes a step that has happened.
    fn committed(&mut self, commit: &Commit) {
        self.count_commit(commit);
        if let Some(receipt) = &commit.receipt {
            self.generations.receipt_written(receipt);
        }
        self.redelivery.acknowledged(&commit.repeated);
        if let Some(attempt) = commit.attempt {
            self.trial.marked(attempt);
        }
    }

    /// Counts a commit that has happened, and publishes its alerts.
    fn count_commit(&mut self, commit: &Commit) {
        if !commit.is_counted() {
            return;
        }
        self.pipeline.committed(commit);
        self.generations.committed();
        self.account = Account { totals: commit.totals, rates: commit.rates.clone() };
        self.stats.committed(commit);
        self.sinks.publish(&commit.alerts, &commit.over_limit);
    }
}

impl End {
    fn log(self) {
        match self {
            Self::Early => info!(event = "host_stopped_early", "stopped before reading any entry"),
            Self::Stopped => info!(event = "host_stopped", "stopped; all entries read are committed"),
            Self::Drained => info!(event = "host_drained", "drained; all entries are committed"),
        }
    }
}
