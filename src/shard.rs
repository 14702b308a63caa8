//! One worker thread: the symbols hashed to it, and its own instance of each detector.
//!
//! Invariant: for each task that is to be answered, one [`Worked`] goes out, in the
//! order of the tasks, whatever the detectors do.

mod memory;

use std::{ops::Range, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tracing::{error, warn};

use self::memory::Memory;
use crate::{
    event::{Batch, CLOCK, Direction},
    ingest::Job,
    normalize::{NormalizeCounts, Normalizer},
    plugin::{DetectorSpec, Fault, Generation, Instance, bindings},
};

/// What a shard is asked to do.
#[derive(Debug)]
pub enum Task {
    /// Work these rows; answered.
    Work(Job),
    /// Save the states of its symbols in these chunks; answered.
    Save {
        /// Number of the visit, counted with the reads.
        read: u64,
        /// Chunks of the visit.
        chunks: Range<u16>,
    },
    /// Go on with these symbols where they were saved; not answered.
    Restore(Vec<SavedSymbol>),
}

/// A symbol with its packed state.
#[derive(Debug)]
pub struct SavedSymbol {
    /// Its number in this run.
    pub id: u32,
    /// Its name.
    pub name: Arc<str>,
    /// As [`crate::checkpoint::Packer`] packs it.
    pub packed: Vec<u8>,
}

/// What a shard made of a task.
#[derive(Debug, Default)]
pub struct Worked {
    /// Number of the read.
    pub read: u64,
    /// Detections at or above each detector's minimum confidence.
    pub found: Vec<Found>,
    /// Calls that did not end well.
    pub faulted: Vec<Faulted>,
    /// What was repaired.
    pub repaired: NormalizeCounts,
    /// Symbols that have changed since they were last saved, with their packed states.
    pub saved: Vec<(Arc<str>, Vec<u8>)>,
    /// How long saving took.
    pub saving: Duration,
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

/// A batch that a detector did not see to the end.
#[derive(Debug)]
pub struct Faulted {
    /// Index of the detector in the generation.
    pub detector: u16,
    /// Index of the first entry of the batch.
    pub entry: u32,
    /// Rows of the batch.
    pub rows: usize,
    /// What happened.
    pub fault: Fault,
}

/// The engine's end of a shard.
pub struct ShardHandle {
    tasks: mpsc::Sender<Task>,
    thread: thread::JoinHandle<()>,
}

impl ShardHandle {
    /// Starts a worker thread. `outbox` has room for every answer that can be waiting: a worker never
    /// waits for the engine, so the engine may wait for a worker.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        number: usize,
        generation: Arc<Generation>,
        normalizer: Normalizer,
        queue: usize,
        outbox: mpsc::Sender<Worked>,
    ) -> Result<Self> {
        let memory = Memory::new()?;
        let (tasks, mut inbox) = mpsc::channel::<Task>(queue);
        let thread = thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                let _ends = EndsProcess;
                let mut shard = Shard::new(&generation, normalizer, memory);
                while let Some(task) = inbox.blocking_recv() {
                    let answer = match task {
                        Task::Work(job) => shard.work(job),
                        Task::Save { read, chunks } => shard.save(read, chunks),
                        Task::Restore(states) => {
                            shard.restore(states);
                            continue;
                        }
                    };
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
            warn!("a worker has ended early");
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
            error!("a worker panicked; ending the process, the next one goes on from the last commit");
            std::process::abort();
        }
    }
}

struct Shard {
    symbols: Vec<(u32, Arc<str>)>,
    normalizer: Normalizer,
    slots: Vec<Slot>,
    memory: Memory,
}

/// A detector's place in the shard.
struct Slot {
    spec: Arc<DetectorSpec>,
    instance: Option<Instance>,
    /// By symbol id, whether the detector sees it. Only for those that don't see all.
    wanted: Vec<bool>,
    /// The rows it sees, and where they stand in the shard's batch. Only for those that don't see all.
    selected: Batch,
    selected_rows: Vec<u32>,
    /// Hash of what must be the same for a saved state to be read.
    schema: u64,
    /// That it warms up again has been said.
    told_cold: bool,
}

impl Shard {
    fn new(generation: &Generation, normalizer: Normalizer, memory: Memory) -> Self {
        let slots = generation.detectors.iter().map(|spec| Slot::new(spec.clone())).collect();
        Self { symbols: Vec::new(), normalizer, slots, memory }
    }

    fn work(&mut self, mut job: Job) -> Worked {
        self.symbols.extend(job.symbols.iter().cloned());
        self.memory.note(&job);
        let repaired = self.normalizer.apply(&mut job.batch);
        let mut worked = Worked { read: job.read, repaired, ..Worked::default() };
        let Self { symbols, normalizer, slots, memory } = self;
        for (detector, slot) in slots.iter_mut().enumerate() {
            let detector = detector as u16;
            match slot.detect(&job, symbols) {
                Ok(detections) => {
                    for found in detections {
                        if found.confidence >= slot.spec.min_confidence {
                            worked.found.push(resolve(found, detector, &job.batch, normalizer));
                        }
                    }
                }
                Err(fault) => {
                    slot.instance = None;
                    // What it knew of any symbol is gone, and must not come back from a saved state.
                    memory.all_changed();
                    let entry = job.batch.entry.first().copied().unwrap_or(0);
                    worked.faulted.push(Faulted { detector, entry, rows: job.batch.len(), fault });
                }
            }
        }
        worked
    }
}

impl Slot {
    fn new(spec: Arc<DetectorSpec>) -> Self {
        Self {
            schema: spec.schema(),
            spec,
            instance: None,
            wanted: Vec::new(),
            selected: Batch::default(),
            selected_rows: Vec::new(),
            told_cold: false,
        }
    }

    /// Detections with their rows counted in the shard's batch.
    fn detect(
        &mut self,
        job: &Job,
        symbols: &[(u32, Arc<str>)],
    ) -> Result<Vec<bindings::tickhound::detector::types::Detection>, Fault> {
        self.make_ready(&job.symbols, symbols)?;
        let Self { spec, instance: Some(instance), wanted, selected, selected_rows, .. } = self else {
            return Ok(Vec::new());
        };
        if job.batch.is_empty() {
            return Ok(Vec::new());
        }
        if spec.wants_all() {
            return instance.detect(&job.batch);
        }
        select(&job.batch, wanted, selected, selected_rows);
        if selected.is_empty() {
            return Ok(Vec::new());
        }
        let mut detections = instance.detect(selected)?;
        for found in &mut detections {
            found.row = selected_rows[found.row as usize];
        }
        Ok(detections)
    }

    /// Sees to it that there is an instance, and that it knows the `new` ones of `symbols`.
    fn make_ready(&mut self, new: &[(u32, Arc<str>)], symbols: &[(u32, Arc<str>)]) -> Result<(), Fault> {
        self.note_wanted(new);
        match &mut self.instance {
            Some(instance) => introduce(instance, &self.spec, new),
            // The first one, or the last one faulted: it starts anew, and gets to know every symbol.
            None => {
                let mut fresh = self.spec.start()?;
                introduce(&mut fresh, &self.spec, symbols)?;
                self.instance = Some(fresh);
                Ok(())
            }
        }
    }

    fn note_wanted(&mut self, symbols: &[(u32, Arc<str>)]) {
        if self.spec.wants_all() {
            return;
        }
        for (id, name) in symbols {
            let id = *id as usize;
            if self.wanted.len() <= id {
                self.wanted.resize(id + 1, false);
            }
            self.wanted[id] = self.spec.wants(name);
        }
    }
}

fn introduce(instance: &mut Instance, spec: &DetectorSpec, symbols: &[(u32, Arc<str>)]) -> Result<(), Fault> {
    let wanted: Vec<(u32, &str)> =
        symbols.iter().filter(|(_, name)| spec.wants(name)).map(|(id, name)| (*id, &**name)).collect();
    if wanted.is_empty() { Ok(()) } else { instance.introduce(&wanted) }
}

/// Copies the rows of wanted symbols, and clock rows.
fn select(batch: &Batch, wanted: &[bool], selected: &mut Batch, rows: &mut Vec<u32>) {
    rows.clear();
    let sees = |symbol: u32| symbol == CLOCK || wanted.get(symbol as usize) == Some(&true);
    rows.extend((0u32..).zip(&batch.symbol).filter(|(_, symbol)| sees(**symbol)).map(|(row, _)| row));
    // Clock rows alone keep silence observable, so they go along even where no tick does.
    fn pick<T: Copy>(from: &[T], rows: &[u32], to: &mut Vec<T>) {
        to.clear();
        to.extend(rows.iter().map(|row| from[*row as usize]));
    }
    pick(&batch.entry, rows, &mut selected.entry);
    pick(&batch.symbol, rows, &mut selected.symbol);
    pick(&batch.time, rows, &mut selected.time);
    pick(&batch.price, rows, &mut selected.price);
    selected.columns.resize(batch.columns.len(), Vec::new());
    for (from, to) in batch.columns.iter().zip(&mut selected.columns) {
        pick(from, rows, to);
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
    let price = if on_clock { normalizer.last_price(found.symbol) } else { batch.price[row] };
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
