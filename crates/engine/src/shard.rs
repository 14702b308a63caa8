//! One worker thread: the symbols hashed to it, and its own instance of each detector.
//!
//! Invariant: for each task that is to be answered, one [`Worked`] goes out, in the
//! order of the tasks, whatever the detectors do.

mod cooldown;
mod fault_replay;
mod journal;
mod memory;
mod slot;
mod swap;

use std::{
    ops::Range,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

pub use self::swap::{Came, Warmed};
use self::{
    cooldown::{Candidate, Cooldowns},
    fault_replay::FailedCall,
    journal::Journal,
    memory::Memory,
    slot::Slot,
};
use crate::{
    ingest::Job,
    plugin::{Fault, Generation, bindings, runtime::BACKGROUND_NICE},
};
use tickhound_core::{
    event::{Batch, CLOCK, Direction},
    normalize::{NormalizeCounts, Normalizer},
};

/// What a shard is asked to do.
pub enum Task {
    /// Work these rows; answered.
    Work(Job),
    /// As [`Task::Work`], for what was worked before: what detectors find is known, and their faults
    /// are not held against them again.
    Rework(Job),
    /// Save the states of its symbols in these chunks; answered.
    Save {
        /// Number of the visit, counted with the reads.
        read: u64,
        /// Chunks of the visit.
        chunks: Range<u16>,
    },
    /// Go on with these symbols where they were saved; answered.
    Restore(Vec<SavedSymbol>),
    /// What was saved is gone from where it was: save all of it with the next visits; not answered.
    SaveAnew,
    /// Go on with another generation; answered.
    Swap {
        /// Number of the swap, counted with the reads.
        read: u64,
        /// What is in force from here on.
        generation: Arc<Generation>,
        /// Symbols of those that were warmed up that this shard has never met.
        symbols: Vec<(u32, Arc<str>)>,
        /// Detectors that were warmed up elsewhere.
        warmed: Vec<Warmed>,
    },
    /// Start every detector that has not started; answered on the channel that comes with it, after all that was asked
    /// before.
    Start(oneshot::Sender<()>),
    /// Hand over every detector and end; answered on the channel that comes with it.
    Leave(oneshot::Sender<Vec<Warmed>>),
}

/// Looks on: sees every row as detectors see it, those of one symbol in order.
pub trait Tape: Send + Sync {
    /// The rows of one read that belong to a shard, and the symbols that are new in it.
    fn note(&self, shard: usize, symbols: &[(u32, Arc<str>)], rows: &Batch);
}

/// A symbol with its packed state.
#[derive(Debug)]
pub struct SavedSymbol {
    /// Its number in this run.
    pub id: u32,
    /// Its name.
    pub name: Arc<str>,
    /// As [`tickhound_core::checkpoint::Packer`] packs it.
    pub packed: Vec<u8>,
    /// When the newest entry that was processed arrived, ms of its id: for a state that does not tell when its symbol's
    /// last tick did.
    pub newest_ms: u64,
}

/// What a shard made of a task.
#[derive(Debug, Default)]
pub struct Worked {
    /// Number of the read.
    pub read: u64,
    /// Number of the shard.
    pub shard: usize,
    /// Rows that it was given.
    pub rows: usize,
    /// Detections at or above each detector's minimum confidence.
    pub found: Vec<Found>,
    /// Detections that came too soon after an alert of their symbol and direction.
    pub held_back: u64,
    /// Calls that did not end well.
    pub faulted: Vec<Faulted>,
    /// Detectors that lack a state that they should have, by index, with the reason.
    pub cold: Vec<(u16, String)>,
    /// Symbols whose saved states can't be read.
    pub damaged: Vec<Arc<str>>,
    /// Where the state of each detector of a new generation comes from.
    pub came: Vec<Came>,
    /// What was repaired.
    pub repaired: NormalizeCounts,
    /// Symbols that have changed since they were last saved, with their packed states.
    pub saved: Vec<(Arc<str>, Arc<[u8]>)>,
    /// How long it took.
    pub took: Duration,
}

/// A detection, its numbers resolved.
#[derive(Debug)]
pub struct Found {
    /// Index of its entry in the read.
    pub entry: u32,
    /// Index of its detector in the generation.
    pub detector: u16,
    /// Whether it was made on a clock row.
    pub on_clock: bool,
    /// The symbol it is about.
    pub symbol: u32,
    /// Event time, ns.
    pub time: u64,
    /// Price then; NaN when none is known.
    pub price: f64,
    /// 0..=1.
    pub confidence: f64,
    /// Up, down or none.
    pub direction: Direction,
    /// Named numbers.
    pub evidence: Vec<(String, f64)>,
}

/// A call that did not end well.
#[derive(Debug)]
pub struct Faulted {
    /// Index of the detector in the generation.
    pub detector: u16,
    /// Index of the entry whose tick it failed on; `None` if no single one is to blame: it went well
    /// when it was tried again, or it failed at something else.
    pub entry: Option<u32>,
    /// What happened.
    pub fault: Fault,
    /// Whether that was one fault too many: it is given no ticks for a while.
    pub quarantined: bool,
}

/// The engine's end of a shard.
pub struct ShardHandle {
    tasks: mpsc::Sender<Task>,
    thread: thread::JoinHandle<()>,
}

impl ShardHandle {
    /// Starts a worker thread, one that gives way to others if it is in the `background`; `tape` looks on.
    /// `outbox` has room for every answer that can be waiting: a worker never waits for the engine, so
    /// the engine may wait for a worker.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        number: usize,
        generation: Arc<Generation>,
        normalizer: Normalizer,
        queue: usize,
        outbox: mpsc::Sender<Worked>,
        background: bool,
        tape: Option<Arc<dyn Tape>>,
    ) -> Result<Self> {
        let memory = Memory::new()?;
        let (tasks, mut inbox) = mpsc::channel::<Task>(queue);
        let thread = thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                let _ends = EndsProcess;
                if background {
                    // On Linux the niceness is the thread's own. Where it can't be had, it is only slower.
                    let _ = rustix::process::nice(BACKGROUND_NICE);
                }
                let mut shard = Shard::new(&generation, normalizer, memory);
                shard.tape = tape.map(|tape| (number, tape));
                while let Some(task) = inbox.blocking_recv() {
                    let started = Instant::now();
                    let mut answer = match task {
                        Task::Work(job) => shard.work(job, true),
                        Task::Rework(job) => shard.work(job, false),
                        Task::Save { read, chunks } => shard.save(read, chunks),
                        Task::Restore(states) => shard.restore(states),
                        Task::SaveAnew => {
                            shard.memory.all_gone();
                            continue;
                        }
                        Task::Start(to) => {
                            shard.start();
                            // Whoever asked may have been fenced meanwhile.
                            let _ = to.send(());
                            continue;
                        }
                        Task::Swap { read, generation, symbols, warmed } => {
                            shard.swap(read, &generation, symbols, warmed)
                        }
                        Task::Leave(to) => {
                            // Whoever asked may not want them any more.
                            let _ = to.send(shard.leave());
                            break;
                        }
                    };
                    (answer.shard, answer.took) = (number, started.elapsed());
                    if outbox.blocking_send(answer).is_err() {
                        break;
                    }
                }
            })
            .context("failed to start a worker thread")?;
        Ok(Self { tasks, thread })
    }

    /// Hands over a task; waits while the queue is full.
    pub async fn submit(&self, task: Task) {
        if self.tasks.send(task).await.is_err() {
            warn!(event = "worker_ended", "a worker ended unexpectedly");
        }
    }

    /// Lets the worker finish what it has, and end.
    pub fn join(self) {
        let Self { tasks, thread } = self;
        drop(tasks);
        // A worker that panicked has ended the process.
        let _ = thread.join();
    }
}

/// A worker that panicked would leave the engine waiting for its answer for ever, with the lease in
/// hand. A process that ends loses nothing: the next one goes on where the last commit was.
struct EndsProcess;

impl Drop for EndsProcess {
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
    symbols: Vec<(u32, Arc<str>)>,
    normalizer: Normalizer,
    slots: Vec<Slot>,
    memory: Memory,
    journal: Journal,
    cooldowns: Cooldowns,
    tape: Option<(usize, Arc<dyn Tape>)>,
}

impl Shard {
    fn new(generation: &Generation, normalizer: Normalizer, memory: Memory) -> Self {
        let slots = generation.detectors.iter().map(|spec| Slot::new(spec.clone())).collect();
        Self {
            symbols: Vec::new(),
            normalizer,
            slots,
            memory,
            journal: Journal::default(),
            cooldowns: Cooldowns::default(),
            tape: None,
        }
    }

    /// Starts what has not started, as its first tick would.
    fn start(&mut self) {
        let Self { slots, symbols, .. } = self;
        for slot in slots.iter_mut().filter(|slot| slot.instance.is_none() && !slot.spec.health.is_quarantined()) {
            // What fails here fails again at the first tick, and is reported with it.
            let _ = slot.make_ready(&[], symbols);
        }
    }

    /// `counts`: faults are counted, and too many of them bring a detector into quarantine.
    fn work(&mut self, mut job: Job, counts: bool) -> Worked {
        self.symbols.extend(job.symbols.iter().cloned());
        self.memory.note(&job);
        let rows = job.batch.len();
        let repaired = self.normalizer.apply(&mut job.batch);
        if let Some((number, tape)) = &self.tape {
            tape.note(*number, &job.symbols, &job.batch);
        }
        let mut worked = Worked { read: job.read, rows, repaired, ..Worked::default() };
        for number in 0..self.slots.len() {
            let slot = &mut self.slots[number];
            slot.note_wanted(&job.symbols);
            let detections = match slot.detect(&job.batch, &job.symbols, &self.symbols) {
                Ok(detections) => detections,
                Err(fault) => self
                    .replay_after_fault(FailedCall { detector: number, batch: &job.batch, fault, counts }, &mut worked),
            };
            let slot = &self.slots[number];
            for found in detections.into_iter().filter(|found| found.confidence >= slot.spec.min_confidence) {
                let found = resolve(found, number as u16, &job.batch, &self.normalizer);
                let (name, cooldown_s) = (&slot.spec.name, slot.spec.settings.cooldown_s);
                let Found { symbol, direction, time, .. } = found;
                if self.cooldowns.admit(name, Candidate { symbol, direction, time }, cooldown_s) {
                    worked.found.push(found);
                } else {
                    worked.held_back += 1;
                }
            }
        }
        self.journal.push(job.batch);
        self.tell_lacks(&mut worked);
        worked
    }

    /// Adds what detectors have found that they lack, since this was last asked.
    fn tell_lacks(&mut self, worked: &mut Worked) {
        let lacks = (0u16..).zip(&mut self.slots).filter_map(|(number, slot)| Some((number, slot.lacks.take()?)));
        worked.cold.extend(lacks);
    }
}

fn resolve(
    found: bindings::tickhound::detector::types::Detection,
    detector: u16,
    batch: &Batch,
    normalizer: &Normalizer,
) -> Found {
    use bindings::tickhound::detector::types::Direction as Guest;
    let row = found.row as usize;
    let on_clock = batch.symbol[row] == CLOCK;
    let price = if on_clock { price_at(found.symbol, row, batch, normalizer) } else { batch.price[row] };
    Found {
        entry: batch.entry[row],
        detector,
        on_clock,
        symbol: found.symbol,
        time: batch.time[row],
        price,
        confidence: found.confidence,
        direction: match found.direction {
            Guest::Up => Direction::Up,
            Guest::Down => Direction::Down,
            Guest::None => Direction::None,
        },
        evidence: found.evidence,
    }
}

/// The price of a symbol when a clock row came: that of its last row before, or else the one before this batch. How
/// ticks are cut into batches must not show in an alert.
fn price_at(symbol: u32, clock_row: usize, batch: &Batch, normalizer: &Normalizer) -> f64 {
    let before = batch.symbol[..clock_row].iter().rposition(|other| *other == symbol);
    before.map_or_else(|| normalizer.price_before(symbol), |row| batch.price[row])
}
