//! One worker thread: the symbols hashed to it, and its own instance of each detector.
//!
//! Invariant: for each job that comes in, one [`Worked`] goes out, in the same
//! order, whatever the detectors do.

use std::{sync::Arc, thread};

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::{
    event::{Batch, CLOCK, Direction},
    ingest::Job,
    normalize::{NormalizeCounts, Normalizer},
    plugin::{DetectorSpec, Fault, Generation, Instance, bindings},
};

/// What a shard made of a job.
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
    jobs: mpsc::Sender<Job>,
    thread: thread::JoinHandle<()>,
}

impl ShardHandle {
    /// Starts a worker thread. `queue` is at least the number of jobs that can be in flight.
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
        let (jobs, mut inbox) = mpsc::channel::<Job>(queue);
        let thread = thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                let _ends = EndsProcess;
                let mut shard = Shard::new(&generation, normalizer);
                while let Some(job) = inbox.blocking_recv() {
                    if outbox.blocking_send(shard.work(job)).is_err() {
                        break;
                    }
                }
            })
            .context("failed to start a worker thread")?;
        Ok(Self { jobs, thread })
    }

    /// Hands over a job. The queue has room: the engine keeps what is in flight below its length.
    pub fn submit(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            warn!("a worker has ended early");
        }
    }

    /// Lets the worker finish what it has, and end.
    pub fn join(self) {
        let Self { jobs, thread } = self;
        drop(jobs);
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
}

impl Shard {
    fn new(generation: &Generation, normalizer: Normalizer) -> Self {
        let slots = generation.detectors.iter().map(|spec| Slot::new(spec.clone())).collect();
        Self { symbols: Vec::new(), normalizer, slots }
    }

    fn work(&mut self, mut job: Job) -> Worked {
        self.symbols.extend(job.symbols.iter().cloned());
        let repaired = self.normalizer.apply(&mut job.batch);
        let mut worked = Worked { read: job.read, repaired, ..Worked::default() };
        let Self { symbols, normalizer, slots } = self;
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
        Self { spec, instance: None, wanted: Vec::new(), selected: Batch::default(), selected_rows: Vec::new() }
    }

    /// Detections with their rows counted in the shard's batch.
    fn detect(
        &mut self,
        job: &Job,
        symbols: &[(u32, Arc<str>)],
    ) -> Result<Vec<bindings::tickhound::detector::types::Detection>, Fault> {
        self.note_wanted(&job.symbols);
        let instance = match &mut self.instance {
            Some(instance) => {
                introduce(instance, &self.spec, &job.symbols)?;
                instance
            }
            // The first one, or the last one faulted: it starts anew, and gets to know every symbol.
            None => {
                let mut fresh = self.spec.start()?;
                introduce(&mut fresh, &self.spec, symbols)?;
                self.instance.insert(fresh)
            }
        };
        if job.batch.is_empty() {
            return Ok(Vec::new());
        }
        if self.spec.wants_all() {
            return instance.detect(&job.batch);
        }
        select(&job.batch, &self.wanted, &mut self.selected, &mut self.selected_rows);
        if self.selected.is_empty() {
            return Ok(Vec::new());
        }
        let mut detections = instance.detect(&self.selected)?;
        for found in &mut detections {
            found.row = self.selected_rows[found.row as usize];
        }
        Ok(detections)
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
