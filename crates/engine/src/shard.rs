//! A worker thread with the symbols hashed to it and its own instance of each detector.
//!
//! What holds: for each task that is answered, one [`Answer`] is sent, in the order of the tasks, whatever the detectors
//! do.

mod cooldown;
mod eviction;
mod fault_replay;
mod journal;
mod memory;
mod prices;
mod rows;
mod saved;
mod slot;
mod swap;

use std::{
    ops::Range,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use self::{
    cooldown::{Candidate, Cooldowns},
    fault_replay::FailedCall,
    journal::Journal,
    memory::Memory,
    prices::LastPrices,
    rows::{Names, ShardRows},
    slot::Slot,
};
pub use self::{
    saved::{RestoredState, SavedSymbol, UnpackedSymbol},
    swap::{StateOrigin, WarmDetector},
};
use crate::{
    ingest::{Job, OwnerBase, TakenOver},
    plugin::{Detection, Fault, Generation, runtime::BACKGROUND_NICE},
};
use tickhound_core::{
    checkpoint::SharedBases,
    event::{Batch, CLOCK, Direction},
    stream::LeftOut,
};

/// A task for a shard.
pub enum Task {
    /// Process these rows; answered.
    Process(Job),
    /// Process rows that were processed before the last commit; answered. Their alerts are published already, and their
    /// faults do not count against a detector again.
    Replay(Job),
    /// Save the states of the symbols in these chunks; answered.
    Save {
        /// The number of the visit, counted with the reads.
        read: u64,
        /// The chunks of the visit.
        chunks: Range<u16>,
        /// What is saved with the states of the detectors, of those of the shard's symbols and groups in these chunks that have
        /// changed since the visit before.
        bases: Vec<OwnerBase>,
        /// What the owners of the visit depend on, if this shard is to pack it.
        shared: Option<Box<SharedBases>>,
    },
    /// Restore symbols and groups from their saved states; answered.
    Restore {
        /// The symbols and groups.
        symbols: Vec<UnpackedSymbol>,
        /// The members of the groups that the shard does not know yet.
        members: Vec<(u32, Arc<str>)>,
    },
    /// Save every state with the next visits, since the server has lost what was saved; not answered.
    SaveAnew,
    /// Continue with another generation; answered.
    Swap {
        /// The number of the swap, counted with the reads.
        read: u64,
        /// The generation that is active from here on.
        generation: Arc<Generation>,
        /// What only the warm-up of the `warmed` detectors knows.
        taken_over: TakenOver,
        /// Detectors that were warmed up in another shard.
        warmed: Vec<WarmDetector>,
    },
    /// Forget these symbols, as far as the shard has them; answered. A visit to all chunks must follow.
    Evict {
        /// The number of the eviction, counted with the reads.
        read: u64,
        /// The numbers of the symbols.
        symbols: Arc<[u32]>,
    },
    /// Start every detector that has not started. Answered on the channel that comes with it, after all tasks before it.
    Start(oneshot::Sender<()>),
    /// Hand over every detector and end; answered on the channel that comes with it.
    Leave(oneshot::Sender<Vec<WarmDetector>>),
}

/// An observer that sees every row as detectors see it, those of one symbol in order.
pub trait Tape: Send + Sync {
    /// Notes the rows of one read that belong to a shard, and the symbols that are new in it.
    fn note(&self, shard: usize, symbols: &[(u32, Arc<str>)], rows: &Batch);
}

/// The answer of a shard to a task.
#[derive(Debug)]
pub struct Answer {
    /// The number of the read, visit, swap or eviction; 0 for restored states, which have none.
    pub read: u64,
    /// The number of the shard.
    pub shard: usize,
    /// How long the task took.
    pub took: Duration,
    /// What went wrong meanwhile.
    pub incidents: Incidents,
    /// What the task was for.
    pub outcome: TaskOutcome,
}

/// The result of a task, by its kind.
#[derive(Debug)]
pub enum TaskOutcome {
    /// Rows were processed.
    Processed(Processing),
    /// States were saved.
    Saved(SavedOwners),
    /// States were restored.
    Restored,
    /// A generation was activated; where the state of each of its detectors comes from.
    Swapped(Vec<StateOrigin>),
    /// Symbols were forgotten.
    Evicted,
}

/// The result of a visit.
#[derive(Debug, Default)]
pub struct SavedOwners {
    /// The symbols and groups that have changed since their last visit, with their packed states.
    pub states: Vec<(Arc<str>, Arc<[u8]>)>,
    /// What the owners of the visit depend on, packed.
    pub shared: Option<Vec<u8>>,
}

/// The result of processing the rows of one read.
#[derive(Debug, Default)]
pub struct Processing {
    /// The number of rows.
    pub rows: usize,
    /// Detections at or above each detector's minimum confidence.
    pub found: Vec<ResolvedDetection>,
    /// The detections that were left out here, by the index of their detector in the generation.
    pub left_out: Vec<(u16, LeftOut)>,
}

/// What went wrong in a shard during a task.
#[derive(Debug, Default)]
pub struct Incidents {
    /// Calls that failed.
    pub faulted: Vec<FaultReport>,
    /// Detectors whose state is missing, by index, with the reason.
    pub cold: Vec<(u16, String)>,
}

/// A detection whose numbers are resolved.
#[derive(Debug)]
pub struct ResolvedDetection {
    /// The index of its entry in the read.
    pub entry: u32,
    /// The index of its detector in the generation.
    pub detector: u16,
    /// Whether it was made on a clock row.
    pub on_clock: bool,
    /// The symbol or group whose state it comes from.
    pub owner: u32,
    /// What it is about: the owner, or a member of the group.
    pub symbol: u32,
    /// The members that make up the event of a group.
    pub members: Vec<u32>,
    /// The event time in nanoseconds.
    pub time: u64,
    /// The price at that time; NaN if none is known.
    pub price: f64,
    /// The confidence, from 0 to 1.
    pub confidence: f64,
    /// The direction: up, down or none.
    pub direction: Direction,
    /// Named numbers.
    pub evidence: Vec<(String, f64)>,
}

/// A failed call of a detector.
#[derive(Debug)]
pub struct FaultReport {
    /// The index of the detector in the generation.
    pub detector: u16,
    /// The index of the entry whose tick the detector failed on. `None` if no single tick is to blame: the detector
    /// succeeded when it was tried again, or it failed at something else.
    pub entry: Option<u32>,
    /// The fault.
    pub fault: Fault,
    /// Whether the fault exceeded the detector's fault budget.
    pub quarantined: bool,
}

/// The engine's end of a shard.
pub struct ShardHandle {
    tasks: mpsc::Sender<Task>,
    thread: thread::JoinHandle<()>,
}

/// What a shard is started with.
pub struct ShardSetup {
    /// The number of the shard.
    pub number: usize,
    /// The generation that it begins with.
    pub generation: Arc<Generation>,
    /// The number of tasks that may wait for it.
    pub queue: usize,
    /// The priority of its thread.
    pub priority: Priority,
    /// An observer of its rows, if there is one.
    pub tape: Option<Arc<dyn Tape>>,
}

/// The priority of a worker thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// The thread processes the stream.
    Live,
    /// The thread warms up detectors and gives way to those that process the stream.
    Background,
}

impl Answer {
    /// An answer without the number of its shard and its duration, which the shard's thread adds.
    pub fn new(read: u64, incidents: Incidents, outcome: TaskOutcome) -> Self {
        Self { read, shard: 0, took: Duration::ZERO, incidents, outcome }
    }
}

impl ShardHandle {
    /// Starts a worker thread. `outbox` must have room for every answer that can be waiting: a worker never waits for
    /// the engine, so the engine may wait for a worker.
    ///
    /// # Errors
    /// Fails if the system can't start a thread.
    pub fn start(setup: ShardSetup, outbox: mpsc::Sender<Answer>) -> Result<Self> {
        let ShardSetup { number, generation, queue, priority, tape } = setup;
        let memory = Memory::new()?;
        let (tasks, inbox) = mpsc::channel::<Task>(queue);
        let thread = thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                let _abort = AbortOnPanic;
                if priority == Priority::Background {
                    // On Linux each thread has its own niceness. If it can't be raised, the warm-up only disturbs more.
                    let _ = rustix::process::nice(BACKGROUND_NICE);
                }
                let mut shard = Shard::new(&generation, memory);
                shard.tape = tape.map(|tape| (number, tape));
                shard.run(number, inbox, &outbox);
            })
            .context("failed to start a worker thread")?;
        Ok(Self { tasks, thread })
    }

    /// Submits a task; waits while the queue is full.
    pub async fn submit(&self, task: Task) {
        if self.tasks.send(task).await.is_err() {
            warn!(event = "worker_ended", "a worker ended unexpectedly");
        }
    }

    /// Lets the worker finish its tasks and end.
    pub fn join(self) {
        let Self { tasks, thread } = self;
        drop(tasks);
        // A worker that panicked has aborted the process, so there is no error to report.
        let _ = thread.join();
    }
}

/// Aborts the process if its thread panics: the engine would wait for the worker's answer forever while it holds the
/// lease. A process that ends loses nothing, since the next one continues from the last commit.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            error!(
                event = "worker_panicked",
                "a worker panicked; aborting the process. The next start continues from the last commit."
            );
            std::process::abort();
        }
    }
}

struct Shard {
    /// The symbols and groups that have their states here.
    symbols: Vec<(u32, Arc<str>)>,
    /// The symbols that groups here have as members.
    members: Vec<(u32, Arc<str>)>,
    /// Their names by their numbers.
    member_names: FxHashMap<u32, Arc<str>>,
    prices: LastPrices,
    slots: Vec<Slot>,
    memory: Memory,
    journal: Journal,
    cooldowns: Cooldowns,
    tape: Option<(usize, Arc<dyn Tape>)>,
}

impl Shard {
    fn new(generation: &Generation, memory: Memory) -> Self {
        let slots = generation.detectors.iter().map(|spec| Slot::new(spec.clone())).collect();
        Self {
            symbols: Vec::new(),
            members: Vec::new(),
            member_names: FxHashMap::default(),
            prices: LastPrices::default(),
            slots,
            memory,
            journal: Journal::default(),
            cooldowns: Cooldowns::default(),
            tape: None,
        }
    }

    /// Runs tasks until the engine drops its end or asks for the detectors.
    fn run(mut self, number: usize, mut inbox: mpsc::Receiver<Task>, outbox: &mpsc::Sender<Answer>) {
        while let Some(task) = inbox.blocking_recv() {
            let started = Instant::now();
            let mut answer = match task {
                Task::Process(job) => self.process(job, FaultBudget::Charged),
                Task::Replay(job) => self.process(job, FaultBudget::Untouched),
                Task::Save { read, chunks, bases, shared } => self.save(read, chunks, bases, shared),
                Task::Restore { symbols, members } => self.restore(symbols, members),
                Task::Evict { read, symbols } => self.evict(read, &symbols),
                Task::SaveAnew => {
                    self.memory.mark_all_lost();
                    continue;
                }
                Task::Start(to) => {
                    self.start();
                    // The engine may have been fenced meanwhile, and may not wait for this any more.
                    let _ = to.send(());
                    continue;
                }
                Task::Swap { read, generation, taken_over, warmed } => self.swap(read, &generation, taken_over, warmed),
                Task::Leave(to) => {
                    // The warm-up may have been dropped meanwhile.
                    let _ = to.send(self.leave());
                    break;
                }
            };
            (answer.shard, answer.took) = (number, started.elapsed());
            if outbox.blocking_send(answer).is_err() {
                break;
            }
        }
    }

    /// Starts every detector that has not started, as its first tick would.
    fn start(&mut self) {
        let Self { slots, symbols, members, .. } = self;
        let (none, all) = (Names { owners: &[], members: &[] }, Names { owners: symbols, members });
        for slot in slots.iter_mut().filter(|slot| slot.instance.is_none() && !slot.spec.health.is_quarantined()) {
            // What fails here fails again at the first tick, and is reported then.
            let _ = slot.make_ready(none, all);
        }
    }

    fn process(&mut self, mut job: Job, budget: FaultBudget) -> Answer {
        // What a change of the generation or a warm-up has brought already.
        job.symbols.retain(|(id, _)| !self.memory.knows(*id));
        job.members = self.meet_members(job.members);
        self.symbols.extend(job.symbols.iter().cloned());
        job.symbols.iter().for_each(|(id, name)| self.memory.add(*id, name));
        if let Some((number, tape)) = &self.tape {
            tape.note(*number, &job.symbols, &job.batch);
        }
        let mut incidents = Incidents::default();
        let mut processing = Processing { rows: job.rows(), ..Processing::default() };
        let rows = ShardRows::of(&mut job);
        let new = Names { owners: &job.symbols, members: &job.members };
        for number in 0..self.slots.len() {
            let found = self.detect(number, &ShardRead { rows: &rows, new, budget }, &mut incidents);
            self.admit(number, found, &mut processing);
        }
        self.prices.note(&rows.ticks);
        // Only now: to recover from a fault, a detector is rebuilt as of the end of the journal, which is before this
        // batch.
        self.journal.push(rows);
        self.report_missing_states(&mut incidents);
        Answer::new(job.read, incidents, TaskOutcome::Processed(processing))
    }

    /// Shows a detector its rows, and returns what it has found.
    fn detect(&mut self, number: usize, read: &ShardRead<'_>, incidents: &mut Incidents) -> Vec<ResolvedDetection> {
        let ShardRead { rows, new, budget } = *read;
        let all = Names { owners: &self.symbols, members: &self.members };
        let slot = &mut self.slots[number];
        slot.note_wanted(new);
        let empty = Batch::default();
        let batch = match rows.of_view(slot.spec.view()) {
            Some(batch) => batch,
            // All names are introduced to an instance when it starts.
            None if slot.instance.is_none() => return Vec::new(),
            None => &empty,
        };
        let detections = match slot.detect(batch, new, all) {
            Ok(detections) => detections,
            Err(fault) => {
                let call = FailedCall { detector: number, batch, fault, counts: budget == FaultBudget::Charged };
                self.replay_after_fault(call, incidents)
            }
        };
        let found = detections.into_iter().map(|found| resolve(found, number as u16, (rows, batch), &self.prices));
        found.collect()
    }

    /// Adds those detections of a detector that may become alerts.
    fn admit(&mut self, number: usize, found: Vec<ResolvedDetection>, processing: &mut Processing) {
        let spec = &self.slots[number].spec;
        let mut left_out = LeftOut { min_confidence: found.len() as u64, ..LeftOut::default() };
        for found in found.into_iter().filter(|found| found.confidence >= spec.min_confidence) {
            left_out.min_confidence -= 1;
            let ResolvedDetection { owner, symbol, direction, time, .. } = found;
            let about = if owner == symbol { None } else { self.member_names.get(&symbol) };
            let candidate = Candidate { owner, about: about.map(|name| &**name), direction, time };
            if self.cooldowns.admit(&spec.name, candidate, spec.settings.cooldown_s) {
                processing.found.push(found);
            } else {
                left_out.cooldown += 1;
            }
        }
        if !left_out.is_empty() {
            processing.left_out.push((number as u16, left_out));
        }
    }

    /// Notes members of the shard's groups, and returns those that it did not know.
    fn meet_members(&mut self, mut members: Vec<(u32, Arc<str>)>) -> Vec<(u32, Arc<str>)> {
        members.retain(|(id, name)| self.member_names.insert(*id, name.clone()).is_none());
        self.members.extend(members.iter().cloned());
        members
    }

    /// All names that the shard knows.
    fn names(&self) -> Names<'_> {
        Names { owners: &self.symbols, members: &self.members }
    }

    /// Adds the detectors whose state was found to be missing since this was last called.
    fn report_missing_states(&mut self, incidents: &mut Incidents) {
        let lacks = (0u16..).zip(&mut self.slots).filter_map(|(number, slot)| Some((number, slot.lacks.take()?)));
        incidents.cold.extend(lacks);
    }
}

/// What a shard has of one read.
struct ShardRead<'a> {
    rows: &'a ShardRows,
    /// The names that are new with it.
    new: Names<'a>,
    budget: FaultBudget,
}

/// Whether the faults of a detector count against its fault budget.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FaultBudget {
    Charged,
    Untouched,
}

fn resolve(found: Detection, detector: u16, rows: (&ShardRows, &Batch), prices: &LastPrices) -> ResolvedDetection {
    let Detection { row, owner, about, confidence, direction, members, evidence } = found;
    let (all, batch) = rows;
    let row = row as usize;
    let on_clock = batch.symbol[row] == CLOCK;
    let price = match (batch.group.is_empty(), on_clock) {
        (true, true) => prices.at_clock(about, (batch.entry[row], batch.time[row]), &all.ticks),
        _ if batch.symbol[row] == about => batch.price[row],
        // A group has no price. That of another member may be known in one shard and not in another.
        _ => f64::NAN,
    };
    let (entry, time) = (batch.entry[row], batch.time[row]);
    ResolvedDetection {
        entry,
        detector,
        on_clock,
        owner,
        symbol: about,
        members,
        time,
        price,
        confidence,
        direction,
        evidence,
    }
}
