//! A recording as a stream: it has one owner, saves nothing, and passes every commit to the sink.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow};
use tokio::sync::{mpsc, watch};

use super::{
    OnFaults,
    source::{Ids, Source, wait_until},
};
use tickhound_core::{
    decode::{Decoder, Names, NewNames, PlainTick, Scalar},
    event::{Entries, EntryId, TickRow},
    stream::{AcquireOutcome, Acquisition, Commit, Delivery, ReadFrom, ReadRequest, Stream, StreamError},
};
use tickhound_engine::simulated::NoHistory;
use tickhound_recorded::{
    pace::{Pace, Pacer},
    record::Record,
};

/// The chunks that may wait for the engine.
const AHEAD: usize = 4;

/// Ticks that are due within this time are sent together.
const GRAIN: Duration = Duration::from_millis(2);

/// The progress of a replay, for a progress bar.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// How much of `length` was read: bytes, ms, or ticks.
    pub(crate) position: AtomicU64,
    /// The length of the recording in the same unit; 0 if it is unknown.
    pub(crate) length: AtomicU64,
    /// Entries read.
    pub(crate) entries: AtomicU64,
}

/// Receives entries that a separate thread reads ahead.
pub(super) struct Reader {
    chunks: mpsc::Receiver<Chunk>,
}

enum Chunk {
    Entries(Entries),
    End { skipped_lines: u64, untimed: u64, ending: Ending },
}

/// Why the reader has ended.
enum Ending {
    /// The source was read to its end.
    Complete,
    /// The replay was stopped, or the engine has ended.
    Stopped,
    /// The source can't be read.
    Failed(Error),
}

impl Reader {
    pub(super) fn start(
        source: Source,
        pace: Pace,
        batch: usize,
        progress: Arc<Progress>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self> {
        let (chunks, receiver) = mpsc::channel(AHEAD);
        let pump = Pump { source, pace, batch, progress, stop, chunks, ids: Ids::default() };
        let thread = thread::Builder::new().name("reader".into()).spawn(move || pump.run());
        thread.context("failed to start the reader's thread")?;
        Ok(Self { chunks: receiver })
    }
}

/// Moves entries from the source to the engine, on the reader's thread.
struct Pump {
    source: Source,
    pace: Pace,
    /// Entries in one chunk.
    batch: usize,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
    chunks: mpsc::Sender<Chunk>,
    ids: Ids,
}

impl Pump {
    fn run(mut self) {
        let ending = self.read_all().unwrap_or_else(Ending::Failed);
        let (skipped_lines, untimed) = (self.source.skipped(), self.ids.untimed());
        // If the engine has ended before, nothing receives this, and that is fine.
        let _ = self.chunks.blocking_send(Chunk::End { skipped_lines, untimed, ending });
    }

    fn read_all(&mut self) -> Result<Ending> {
        let mut pacer = Pacer::new(self.pace);
        let mut record = Record::default();
        let mut table = self.source.table().map(|(decoder, names)| Table { decoder, names });
        let mut entries = Entries::default();
        let started = Instant::now();
        while self.source.next(&mut record)? {
            let Some(id) = self.ids.next(&record)? else { continue };
            if self.pace != Pace::Max {
                let due = started + pacer.due(record.time);
                // What was read before is sent first, so that it is not late by the wait.
                if due > Instant::now() + GRAIN
                    && !(self.send(&mut entries, table.as_ref()) && wait_until(due, &|| self.is_stopped()))
                {
                    return Ok(Ending::Stopped);
                }
            }
            // Rows of tables are decoded here and other entries in the engine, so they don't share a chunk.
            if entries.decoded.is_some() != record.is_row() && !self.send(&mut entries, table.as_ref()) {
                return Ok(Ending::Stopped);
            }
            entries.push_entry(id);
            if let Some(tick) = record.tick() {
                put_tick(&mut entries, tick);
            } else if let (Some(cells), Some(table)) = (record.cells(), &mut table) {
                table.decode(&mut entries, id, cells);
            } else {
                record.fields().for_each(|(name, value)| entries.push_field(name, value));
            }
            if entries.len() >= self.batch && (!self.send(&mut entries, table.as_ref()) || self.is_stopped()) {
                return Ok(Ending::Stopped);
            }
        }
        self.send(&mut entries, table.as_ref());
        Ok(Ending::Complete)
    }

    /// Sends the entries, and updates the progress; false if the engine has ended.
    fn send(&self, entries: &mut Entries, table: Option<&Table>) -> bool {
        if let (Some(decoded), Some(table)) = (&mut entries.decoded, table) {
            let NewNames { names, venues } = table.names.take_new();
            (decoded.names, decoded.venues) = (names, venues);
        }
        let (position, length) = self.source.progress();
        self.progress.position.store(position, Relaxed);
        self.progress.length.store(length, Relaxed);
        self.progress.entries.fetch_add(entries.len() as u64, Relaxed);
        entries.is_empty() || self.chunks.blocking_send(Chunk::Entries(std::mem::take(entries))).is_ok()
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Adds the tick of the entry that was pushed last.
fn put_tick(entries: &mut Entries, tick: &PlainTick) {
    let index = (entries.len() - 1) as u32;
    let decoded = entries.decoded.get_or_insert_default();
    let PlainTick { symbol, time, price, columns } = tick;
    decoded.push(TickRow { entry: index, symbol: *symbol, time: Some(*time), price: *price, columns });
}

/// Decodes rows of tables, on the reader's thread.
struct Table {
    decoder: Decoder,
    names: Names,
}

impl Table {
    /// Adds the ticks of the entry that was pushed last.
    fn decode<'c>(&mut self, entries: &mut Entries, id: EntryId, cells: impl Iterator<Item = (usize, Scalar<'c>)>) {
        let Self { decoder, names } = self;
        let index = (entries.len() - 1) as u32;
        let decoded = entries.decoded.get_or_insert_default();
        let outcome = decoder.decode_cells(id.millis, cells, &mut |tick| {
            let symbol = names.number(&tick.symbol, &tick.venue);
            decoded.push(TickRow { entry: index, symbol, time: tick.time, price: tick.price, columns: &tick.columns });
        });
        if let Err(error) = outcome {
            decoded.rejected.push((index, error.to_string()));
        }
    }
}

/// Counts of what was read and committed.
#[derive(Default)]
pub(super) struct ReplayCounts {
    pub(super) alerts: BTreeMap<String, u64>,
    pub(super) undecodable: BTreeMap<String, u64>,
    faults: BTreeMap<String, FaultCount>,
    pub(super) skipped_lines: u64,
    pub(super) untimed: u64,
    pub(super) stopped: bool,
    /// Why the replay has failed.
    pub(super) error: Option<Error>,
}

/// The ticks on which a detector has failed.
struct FaultCount {
    ticks: u64,
    /// The first of them, and why: an entry and a sentence.
    first: String,
}

type CommitSink = Box<dyn FnMut(&Commit) -> Result<()> + Send>;

/// The stream that the engine reads from and commits to.
pub(super) struct ReplayStream {
    reader: Reader,
    /// The chunk that was received and not given to the engine yet.
    next: Option<Entries>,
    /// The entries of the step in flight.
    read: Entries,
    sink: CommitSink,
    counts: Arc<Mutex<ReplayCounts>>,
    on_faults: OnFaults,
    stop: watch::Sender<bool>,
}

impl ReplayStream {
    pub(super) fn new(
        reader: Reader,
        sink: CommitSink,
        counts: Arc<Mutex<ReplayCounts>>,
        on_faults: OnFaults,
        stop: watch::Sender<bool>,
    ) -> Self {
        Self { reader, next: None, read: Entries::default(), sink, counts, on_faults, stop }
    }

    /// Ends the replay; of several errors, the first one counts.
    fn end(&mut self, error: Option<Error>) {
        let mut counts = self.counts.lock().expect("no thread panics while it holds the lock");
        if counts.error.is_none() {
            counts.error = error;
        }
        self.stop.send_replace(true);
    }

    fn receive(&mut self, chunk: Option<Chunk>) {
        match chunk {
            Some(Chunk::Entries(entries)) => self.next = Some(entries),
            Some(Chunk::End { skipped_lines, untimed, ending }) => {
                let mut counts = self.counts.lock().expect("no thread panics while it holds the lock");
                (counts.skipped_lines, counts.untimed) = (skipped_lines, untimed);
                counts.stopped = matches!(ending, Ending::Stopped);
                drop(counts);
                self.end(match ending {
                    Ending::Complete | Ending::Stopped => None,
                    Ending::Failed(error) => Some(error),
                });
            }
            None => self.end(None),
        }
    }

    fn collect(&mut self, commit: &Commit) -> Result<()> {
        let mut counts = self.counts.lock().expect("no thread panics while it holds the lock");
        let shadows = commit.shadow_alerts.iter().map(|(_, alert)| alert);
        for alert in commit.alerts.iter().chain(shadows) {
            *counts.alerts.entry(alert.detector.clone()).or_default() += 1;
        }
        for letter in &commit.dead_letters {
            let Some(blamed) = &letter.blamed else {
                *counts.undecodable.entry(letter.reason.clone()).or_default() += 1;
                continue;
            };
            let faults = counts.faults.entry(blamed.detector.clone()).or_insert_with(|| FaultCount {
                ticks: 0,
                first: format!("entry {}: {}", letter.entry, letter.reason),
            });
            faults.ticks += 1;
            if let OnFaults::EndAfter(tolerated) = self.on_faults
                && faults.ticks > tolerated
            {
                let FaultCount { ticks, first } = &*faults;
                return Err(out_of_budget(&blamed.detector, *ticks, tolerated, first));
            }
        }
        drop(counts);
        (self.sink)(commit)
    }
}

/// The error of a replay in which a detector has failed too often.
pub(super) fn out_of_budget(detector: &str, faults: u64, tolerated: u64, first: &str) -> Error {
    anyhow!(
        "{detector} failed on {faults} ticks, and a replay tolerates {tolerated} (plugins.faults); the first was {first}"
    )
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
                self.receive(Some(chunk));
            }
            // A chunk that is larger than the request waits until the engine asks for more.
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
            self.receive(chunk);
        }
        Ok(())
    }
}
