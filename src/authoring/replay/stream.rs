//! A recording as a partition: one owner, nothing is kept, every commit is shown to the sink.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow};
use tokio::sync::{mpsc, watch};

use super::source::{Ids, Source, wait_until};
use tickhound_core::{
    checkpoint::SavedStates,
    decode::{Decoder, Names, PlainTick, Scalar},
    event::{Entries, EntryId, TickRow},
    stream::{AcquireOutcome, Acquisition, Adoption, Commit, Delivery, ReadFrom, ReadRequest, Stream, StreamError},
};
use tickhound_engine::simulated::NoHistory;
use tickhound_recorded::{
    pace::{Pace, Pacer},
    record::Record,
};

/// Reads that may wait for the engine.
const AHEAD: usize = 4;

/// Ticks due within this time go together.
const GRAIN: Duration = Duration::from_millis(2);

/// A detector that fails on so many ticks is not worth going on with.
const FAULTS_MAX: u64 = 1000;

/// How far a replay is, for a progress bar.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Of `length`: bytes, or ms, or ticks.
    pub(crate) position: AtomicU64,
    /// The end of that; 0 = not known.
    pub(crate) length: AtomicU64,
    /// Entries read.
    pub(crate) entries: AtomicU64,
}

/// Entries read ahead by a thread of its own.
pub(super) struct Reader {
    chunks: mpsc::Receiver<Chunk>,
}

enum Chunk {
    Entries(Entries),
    End { skipped_lines: u64, untimed: u64, stopped: bool, error: Option<Error> },
}

impl Reader {
    pub(super) fn start(
        source: Source,
        pace: Pace,
        batch: usize,
        progress: Arc<Progress>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self> {
        let (sender, chunks) = mpsc::channel(AHEAD);
        let run = move || read(source, pace, batch, &progress, &stop, &sender);
        thread::Builder::new().name("reader".into()).spawn(run).context("failed to start the reader's thread")?;
        Ok(Self { chunks })
    }
}

fn read(
    mut source: Source,
    pace: Pace,
    batch: usize,
    progress: &Progress,
    stop: &watch::Receiver<bool>,
    chunks: &mpsc::Sender<Chunk>,
) {
    let (mut ids, mut stopped) = (Ids::default(), false);
    let ended = pump(&mut source, pace, batch, &mut ids, progress, stop, chunks).map(|whole| stopped = !whole);
    let end = Chunk::End { skipped_lines: source.skipped(), untimed: ids.untimed(), stopped, error: ended.err() };
    // Nobody listens when the engine has ended before.
    let _ = chunks.blocking_send(end);
}

/// Whether it came to the end.
fn pump(
    source: &mut Source,
    pace: Pace,
    batch: usize,
    ids: &mut Ids,
    progress: &Progress,
    stop: &watch::Receiver<bool>,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<bool> {
    let told_to_stop = || *stop.borrow();
    let mut pacer = Pacer::new(pace);
    let mut record = Record::default();
    let mut table = source.table().map(|(decoder, names)| Table { decoder, names });
    let mut entries = Entries::default();
    let started = Instant::now();
    let names = table.as_ref().map(|table| table.names.clone());
    let send = |entries: &mut Entries, source: &Source| {
        if let (Some(decoded), Some(names)) = (&mut entries.decoded, &names) {
            decoded.names = names.take_new();
        }
        let (position, length) = source.progress();
        progress.position.store(position, Relaxed);
        progress.length.store(length, Relaxed);
        progress.entries.fetch_add(entries.len() as u64, Relaxed);
        entries.is_empty() || chunks.blocking_send(Chunk::Entries(std::mem::take(entries))).is_ok()
    };
    while source.next(&mut record)? {
        let Some(id) = ids.next(&record)? else { continue };
        if pace != Pace::Max {
            let due = started + pacer.due(record.time);
            if due > Instant::now() + GRAIN && !(send(&mut entries, source) && wait_until(due, &told_to_stop)) {
                return Ok(false);
            }
        }
        // Rows and other entries don't go into one read.
        let is_row = record.is_row();
        if entries.decoded.is_some() != is_row && !send(&mut entries, source) {
            return Ok(false);
        }
        entries.push_entry(id);
        if let Some(tick) = record.tick() {
            put_tick(&mut entries, tick);
        } else if let (Some(cells), Some(table)) = (record.cells(), &mut table) {
            table.decode(&mut entries, id, cells);
        } else {
            record.fields().for_each(|(name, value)| entries.push_field(name, value));
        }
        if entries.len() >= batch && (!send(&mut entries, source) || told_to_stop()) {
            return Ok(false);
        }
    }
    send(&mut entries, source);
    Ok(true)
}

/// The tick of the entry begun last.
fn put_tick(entries: &mut Entries, tick: &PlainTick) {
    let index = (entries.len() - 1) as u32;
    let decoded = entries.decoded.get_or_insert_default();
    let PlainTick { symbol, time, price, columns } = tick;
    decoded.push(TickRow { entry: index, symbol: *symbol, time: Some(*time), price: *price, columns });
}

/// Decodes rows of tables here, in the reader's thread.
struct Table {
    decoder: Decoder,
    names: Names,
}

impl Table {
    /// Adds the ticks of the entry begun last.
    fn decode<'c>(&mut self, entries: &mut Entries, id: EntryId, cells: impl Iterator<Item = (usize, Scalar<'c>)>) {
        let Self { decoder, names } = self;
        let index = (entries.len() - 1) as u32;
        let decoded = entries.decoded.get_or_insert_default();
        let outcome = decoder.decode_cells(id.millis, cells, &mut |tick| {
            let symbol = names.number(&tick.symbol);
            decoded.push(TickRow { entry: index, symbol, time: tick.time, price: tick.price, columns: &tick.columns });
        });
        if let Err(error) = outcome {
            decoded.refused.push((index, error.to_string()));
        }
    }
}

/// What was committed.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) alerts: BTreeMap<String, u64>,
    pub(super) undecodable: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    pub(super) skipped_lines: u64,
    pub(super) untimed: u64,
    pub(super) stopped: bool,
    /// Why it did not come to its end.
    pub(super) error: Option<Error>,
}

type Sink = Box<dyn FnMut(&Commit) -> Result<()> + Send>;

/// See above.
pub(super) struct ReplayStream {
    reader: Reader,
    /// Read and not given to the engine yet.
    next: Option<Entries>,
    /// By the step that was begun.
    read: Entries,
    sink: Sink,
    collected: Arc<Mutex<Collected>>,
    stop: watch::Sender<bool>,
}

impl ReplayStream {
    pub(super) fn new(reader: Reader, sink: Sink, collected: Arc<Mutex<Collected>>, stop: watch::Sender<bool>) -> Self {
        Self { reader, next: None, read: Entries::default(), sink, collected, stop }
    }

    fn end(&mut self, error: Option<Error>) {
        let mut collected = self.collected.lock().expect("nobody panics while holding it");
        if collected.error.is_none() {
            collected.error = error;
        }
        self.stop.send_replace(true);
    }

    fn take(&mut self, chunk: Option<Chunk>) {
        match chunk {
            Some(Chunk::Entries(entries)) => self.next = Some(entries),
            Some(Chunk::End { skipped_lines, untimed, stopped, error }) => {
                let mut collected = self.collected.lock().expect("nobody panics while holding it");
                (collected.skipped_lines, collected.untimed, collected.stopped) = (skipped_lines, untimed, stopped);
                drop(collected);
                self.end(error);
            }
            None => self.end(None),
        }
    }

    fn collect(&mut self, commit: &Commit) -> Result<()> {
        let mut collected = self.collected.lock().expect("nobody panics while holding it");
        let shadows = commit.shadow_alerts.iter().map(|(_, alert)| alert);
        for alert in commit.alerts.iter().chain(shadows) {
            *collected.alerts.entry(alert.detector.clone()).or_default() += 1;
        }
        for letter in &commit.dead_letters {
            let Some(blamed) = &letter.blamed else {
                *collected.undecodable.entry(letter.reason.clone()).or_default() += 1;
                continue;
            };
            let faults = collected.faults.entry(blamed.detector.clone()).or_default();
            *faults += 1;
            if *faults > FAULTS_MAX {
                return Err(anyhow!(
                    "{} failed on {FAULTS_MAX} ticks, at {}: {}",
                    blamed.detector,
                    letter.entry,
                    letter.reason
                ));
            }
        }
        drop(collected);
        (self.sink)(commit)
    }
}

impl Stream for ReplayStream {
    type History = NoHistory;

    const IN_MEMORY: bool = true;

    fn reader(&self) -> NoHistory {
        NoHistory
    }

    async fn acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        Ok(AcquireOutcome::Owned(Box::new(Acquisition { epoch: 1, ..Acquisition::default() })))
    }

    async fn begin(&mut self, commit: &Commit, read: ReadRequest) -> Result<(), StreamError> {
        if !commit.done.is_empty()
            && let Err(error) = self.collect(commit)
        {
            self.end(Some(error));
        }
        let mut entries = Entries::default();
        if read.from == ReadFrom::New && read.count > 0 {
            if self.next.is_none()
                && let Ok(chunk) = self.reader.chunks.try_recv()
            {
                self.take(Some(chunk));
            }
            // One that does not fit waits until there is room.
            entries = self.next.take_if(|next| next.len() <= read.count).unwrap_or_default();
        }
        self.read = entries;
        Ok(())
    }

    async fn finish(&mut self) -> Result<Delivery, StreamError> {
        Ok(Delivery { entries: std::mem::take(&mut self.read), ..Delivery::default() })
    }

    async fn wait(&mut self, _last: EntryId) -> Result<(), StreamError> {
        if self.next.is_none() {
            let chunk = self.reader.chunks.recv().await;
            self.take(chunk);
        }
        Ok(())
    }

    async fn saved(&mut self) -> Result<SavedStates, StreamError> {
        Ok(SavedStates::default())
    }

    async fn history(&mut self, _after: EntryId, _through: EntryId, _count: usize) -> Result<Entries, StreamError> {
        Ok(Entries::default())
    }

    async fn pending(&mut self, _: EntryId, _: EntryId) -> Result<BTreeSet<EntryId>, StreamError> {
        Ok(BTreeSet::new())
    }

    async fn adopt(&mut self) -> Result<Adoption, StreamError> {
        Ok(Adoption::default())
    }

    async fn release(&mut self) {}
}
