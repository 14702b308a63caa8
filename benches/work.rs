//! The parts of the hot path, each at work on the same simulated market: for the clock (`parts.rs`) and for the count
//! of instructions and allocations (`instructions.rs`).
//!
//! What holds: a part does the same whenever it is made anew, and each pass of it works on ticks that it has not seen,
//! as in a market; when there are no more, it begins again with nothing remembered.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::{Timestamp, tz::TimeZone};
use tickhound_core::{
    checkpoint::{DetectorState, Packer, SymbolState},
    config::{self, DetectorConfig, LoadedConfig},
    decode::{Decoder, Outcome},
    event::{Batch, Clock, DecodedTicks, Entries, Entry, EntryId, TickRow},
    normalize::{NormalizedRow, Normalizer},
    session::Sessions,
    simulate::{Instrument, Layout, Renderer, SimConfig, Simulator, Tick},
    stream::Commit,
};
use tickhound_engine::{
    commit::{Flight, Frontier, Origin},
    ingest::{Ingest, Job, Routed},
    plugin::{DetectorSpec, Fault, Generation, Instance, Isolation, Loader},
    shard::{
        Answer, Incidents, Priority, Processing, ResolvedDetection, ShardHandle, ShardSetup, Tape, Task, TaskOutcome,
    },
};
use tickhound_redis::resp::{Replies, Scanner};
use tokio::{runtime, sync::mpsc};

/// Ticks of one pass.
pub(crate) const PASS: usize = 2000;

/// Passes before a part begins again.
pub(crate) const PASSES: usize = 8;

/// Entries of one read, as `stream.batch` has it.
const READ: usize = 500;

/// Of an answer, as a socket hands them over.
const PIECE: usize = 64 * 1024;

/// So few that detectors know each of them well after half of the passes.
const SYMBOLS: usize = 16;

/// Time between a tick and its arrival at the server.
const DELAY_MS: u64 = 3;

/// What the worker is to call once, in its own thread, when it gets its next batch.
pub(crate) static IN_WORKER: Mutex<Option<fn()>> = Mutex::new(None);

/// A part of the hot path.
pub(crate) struct Part {
    /// What it does, and to what.
    pub(crate) name: String,
    /// Of these, there are so many in a pass.
    pub(crate) items: usize,
    /// Whether it is done by a worker's thread.
    pub(crate) in_worker: bool,
    /// One pass.
    pub(crate) pass: Box<dyn FnMut()>,
}

/// Every part; `batches` are the sizes of batches that detectors are called with.
pub(crate) fn parts(batches: &[usize]) -> Result<Vec<Part>> {
    let market = Market::new()?;
    let mut parts = vec![
        market.read(),
        market.decode("json", &market.simulated(Layout::Json))?,
        market.decode("flat", &market.simulated(Layout::Flat))?,
        market.decode("msgpack", &market.simulated(Layout::Msgpack))?,
        market.decode("kite", &market.full())?,
        market.route()?,
        market.ingest()?,
        market.normalize()?,
    ];
    for spec in &market.generation.detectors {
        for batch in batches {
            parts.push(market.detect(spec, *batch)?);
        }
    }
    parts.extend([market.shard()?, market.commit()?]);
    parts.extend(market.pack()?);
    Ok(parts)
}

/// What a server answers to one read.
pub(crate) fn answer() -> Result<Vec<u8>> {
    Ok(answers(&Market::new()?.full().remove(0)).remove(0))
}

/// What all parts work on.
struct Market {
    loaded: LoadedConfig,
    generation: Arc<Generation>,
    instruments: Vec<Instrument>,
    ticks: Vec<Tick>,
}

/// The rows of one read each, as a shard gets them, and the symbols in them.
struct Rows {
    batches: Vec<Batch>,
    symbols: Vec<(u32, Arc<str>)>,
}

impl Market {
    fn new() -> Result<Self> {
        let mut loaded = config::shipped(include_str!("../config/config.toml"))?;
        loaded.root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        // Compiled once, so that a run under valgrind need not.
        loaded.config.plugins.cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("benches");
        // The shipped configuration has breakout and momentum at work. With the plugins' own defaults they find more, and
        // every detection counts.
        for detector in loaded.config.detectors.values_mut() {
            let DetectorConfig { plugin, enabled, .. } = std::mem::take(detector);
            *detector = DetectorConfig { plugin, enabled, min_confidence: 0.0, ..DetectorConfig::default() };
        }
        let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
        let generation =
            Loader::start(&loaded, decoder.column_names(), |_, _| Ok(()), Isolation::InProcess)?.newest().clone();
        let mut simulator = Simulator::new(&SimConfig { symbols: SYMBOLS, ..SimConfig::default() });
        let ticks = simulator.by_ref().take(PASS * PASSES).collect();
        Ok(Self { loaded, generation, instruments: simulator.instruments().to_vec(), ticks })
    }

    fn decoder(&self) -> Result<Decoder> {
        Decoder::new(&self.loaded.config.input, &self.loaded.root)
    }

    /// Entries as `tickhound feed --simulate` adds them; one [`Entries`] for each pass.
    fn simulated(&self, layout: Layout) -> Vec<Entries> {
        let mut renderer = Renderer::new(layout);
        self.entries(PASS, |tick, instrument, entries| {
            renderer.render(instrument, tick, |name, value| entries.push_field(name, value));
        })
    }

    /// Entries as scanners publish Kite's full mode: a good two dozen keys, of which half matter.
    fn full(&self) -> Vec<Entries> {
        let zone = TimeZone::get("Asia/Kolkata").unwrap_or(TimeZone::UTC);
        self.entries(PASS, |tick, instrument, entries| {
            let time = Timestamp::from_millisecond((tick.time / 1_000_000) as i64).unwrap_or_default();
            let stamp = zone.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%S");
            let Tick { price, last_quantity, cum_volume, bid, ask, bid_quantity, ask_quantity, oi, .. } = tick;
            let json = format!(
                r#"{{"instrument_token": {}, "mode": "full", "tradable": true, "symbol": "{}", "exchange": "NFO", "segment": "NFO-OPT", "last_price": {price}, "last_traded_quantity": {last_quantity}, "average_traded_price": {price}, "volume_traded": {cum_volume}, "total_buy_quantity": {}, "total_sell_quantity": {}, "ohlc": {{"open": {bid}, "high": {ask}, "low": {bid}, "close": {price}}}, "change": -1.0352, "last_trade_time": "{stamp}", "oi": {oi}, "oi_day_high": {oi}, "oi_day_low": {oi}, "exchange_timestamp": "{stamp}", "best_bid_price": {bid}, "best_bid_quantity": {bid_quantity}, "best_ask_price": {ask}, "best_ask_quantity": {ask_quantity}, "processed_at": 1762141501.482913, "asset_class": "derivatives", "iv": null}}"#,
                instrument.token,
                instrument.symbol,
                cum_volume / 3,
                cum_volume / 4,
            );
            entries.push_field(b"data", json.as_bytes());
        })
    }

    fn entries(&self, size: usize, mut put: impl FnMut(&Tick, &Instrument, &mut Entries)) -> Vec<Entries> {
        let mut all = Vec::new();
        for ticks in self.ticks.chunks(size) {
            let mut entries = Entries::default();
            for tick in ticks {
                entries.push_entry(EntryId { millis: tick.time / 1_000_000 + DELAY_MS, seq: tick.instrument.into() });
                put(tick, &self.instruments[tick.instrument as usize], &mut entries);
            }
            all.push(entries);
        }
        all
    }

    fn ingest_for(&self, shards: usize) -> Result<Ingest> {
        Ok(Ingest::new(self.decoder()?, self.normalizer()?, shards, Clock::default()))
    }

    fn normalizer(&self) -> Result<Normalizer> {
        Normalizer::new(&self.loaded.config.input, &Sessions::default())
    }

    /// Normalised rows in batches of this size.
    fn rows(&self, size: usize) -> Result<Rows> {
        let mut ingest = self.ingest_for(1)?;
        let mut rows = Rows { batches: Vec::new(), symbols: Vec::new() };
        for (read, entries) in (1..).zip(self.simulated(Layout::Json)) {
            let mut job = ingest.route(read, &entries).jobs.remove(0).context("a read without ticks")?;
            rows.symbols.append(&mut job.symbols);
            // Clock rows come on top of the ticks.
            let length = job.batch.len();
            rows.batches.extend((0..length).step_by(size).map(|at| job.batch.rows(at..length.min(at + size))));
        }
        Ok(rows)
    }

    /// The answers to reads, to entries.
    fn read(&self) -> Part {
        let passes: Vec<Vec<Vec<u8>>> = self.full().iter().map(answers).collect();
        let mut pass = 0;
        part("read".to_owned(), PASS, move || {
            for answer in &passes[pass % PASSES] {
                assert_eq!(read(answer).len(), READ);
            }
            pass += 1;
        })
    }

    fn decode(&self, layout: &str, reads: &[Entries]) -> Result<Part> {
        let mut decoder = self.decoder()?;
        let reads: Vec<Entries> = reads.iter().map(copied).collect();
        let mut pass = 0;
        Ok(part(format!("decode/{layout}"), PASS, move || {
            let mut price = 0.0;
            for entry in reads[pass % PASSES].iter() {
                let outcome = decoder.decode(entry, &mut |tick| price += tick.price);
                assert_eq!(outcome, Ok(Outcome::Ticks(1)));
            }
            assert!(price > 0.0);
            pass += 1;
        }))
    }

    /// Ticks that are decoded already, to the queues of four shards.
    fn route(&self) -> Result<Part> {
        self.routing("route", self.decoded()?)
    }

    /// Reads of ticks that are decoded already.
    fn decoded(&self) -> Result<Vec<Entries>> {
        let mut decoder = self.decoder()?;
        let mut reads = self.simulated(Layout::Json);
        let names: Vec<(u32, Arc<str>)> =
            (0..).zip(self.instruments.iter().map(|instrument| instrument.symbol.as_str().into())).collect();
        let number = |symbol: &str| names.iter().position(|(_, name)| **name == *symbol).expect("it is traded") as u32;
        for entries in &mut reads {
            let mut decoded = DecodedTicks { names: names.clone(), ..DecodedTicks::default() };
            for (index, entry) in (0..).zip(entries.iter()) {
                let outcome = decoder.decode(entry, &mut |tick| {
                    let symbol = number(&tick.symbol);
                    let (time, price, columns) = (tick.time, tick.price, &tick.columns[..]);
                    decoded.push(TickRow { entry: index, symbol, time, price, columns });
                });
                outcome?;
            }
            entries.decoded = Some(Box::new(decoded));
        }
        Ok(reads)
    }

    /// From entries to the queues of four shards.
    fn ingest(&self) -> Result<Part> {
        self.routing("ingest", self.full())
    }

    fn routing(&self, name: &str, reads: Vec<Entries>) -> Result<Part> {
        let mut ingest = self.ingest_for(4)?;
        let mut pass = 0;
        Ok(part(name.to_owned(), PASS, move || {
            if pass % PASSES == 0 {
                ingest.reset(Clock::default(), 0);
            }
            let routed = ingest.route(pass as u64, &reads[pass % PASSES]);
            assert_eq!(routed.ticks, PASS);
            pass += 1;
        }))
    }

    fn normalize(&self) -> Result<Part> {
        let reads = self.decoded()?;
        let fresh = self.normalizer()?;
        let (mut normalizer, mut pass, mut row) = (fresh.beside(), 0, Vec::new());
        Ok(part("normalize".to_owned(), PASS, move || {
            if pass % PASSES == 0 {
                normalizer = fresh.beside();
            }
            let ticks = reads[pass % PASSES].decoded.as_ref().expect("they are decoded");
            let width = ticks.columns.len() / ticks.symbol.len();
            row.resize(width, 0.0);
            for (at, columns) in ticks.columns.chunks_exact(width).enumerate() {
                row.copy_from_slice(columns);
                let (symbol, time, price) = (ticks.symbol[at], ticks.time[at].unwrap_or_default(), ticks.price[at]);
                let mut tick = NormalizedRow { symbol, time, price, columns: &mut row };
                normalizer.normalize(&mut tick);
                assert!(!tick.price.is_nan());
            }
            pass += 1;
        }))
    }

    fn detect(&self, spec: &Arc<DetectorSpec>, batch: usize) -> Result<Part> {
        let rows = self.rows(batch)?;
        let spec = spec.clone();
        let name = format!("detect/{}/{batch}", spec.name);
        let calls = rows.batches.len() / PASSES;
        let mut instance = started(&spec, &rows)?;
        let mut next = 0;
        Ok(part(name, PASS, move || {
            if next + calls > rows.batches.len() {
                next = 0;
                instance = started(&spec, &rows).expect("it was started once");
            }
            for batch in &rows.batches[next..next + calls] {
                instance.detect(batch).expect("it detects");
            }
            next += calls;
        }))
    }

    /// A worker with both detectors; its queue and its thread included.
    fn shard(&self) -> Result<Part> {
        let rows = self.rows(READ)?;
        let generation = self.generation.clone();
        let calls = rows.batches.len() / PASSES;
        let mut worker = Worker::start(&generation)?;
        let mut next = 0;
        let shard = part("shard".to_owned(), PASS, move || {
            if next + calls > rows.batches.len() {
                next = 0;
                worker = Worker::start(&generation).expect("it was started once");
            }
            for number in next..next + calls {
                let symbols = if number == 0 { rows.symbols.clone() } else { Vec::new() };
                let batch = rows.batches[number].clone();
                let (members, views) = (Vec::new(), Vec::new());
                worker.work(Job { read: number as u64, symbols, members, batch, views });
            }
            next += calls;
        });
        Ok(Part { in_worker: true, ..shard })
    }

    /// What a worker found in one pass, to a commit, and from there to the fields of alerts; counted by alerts.
    fn commit(&self) -> Result<Part> {
        let rows = self.rows(usize::MAX)?;
        let mut ingest = self.ingest_for(1)?;
        let mut worker = Worker::start(&self.generation)?;
        for (read, entries) in (0..).zip(self.simulated(Layout::Json)) {
            ingest.route(read, &entries);
        }
        let mut richest = (Vec::new(), 0);
        for (number, batch) in rows.batches.iter().enumerate() {
            let symbols = if number == 0 { rows.symbols.clone() } else { Vec::new() };
            let (members, views, batch) = (Vec::new(), Vec::new(), batch.clone());
            let job = Job { read: number as u64, symbols, members, batch, views };
            let TaskOutcome::Processed(Processing { found, .. }) = worker.work(job).outcome else {
                bail!("a worker answers a job with what it has processed");
            };
            if found.len() > richest.0.len() {
                richest = (found, number);
            }
        }
        let (found, number) = richest;
        let alerts = found.len();
        ensure!(alerts > 0, "the detectors find nothing");
        let entries = self.read_of(&rows.batches[number])?;
        let generation = self.generation.clone();
        let flight = move || {
            let newest = entries.last().unwrap_or_default();
            let frontier = Frontier { generation: generation.clone(), newest, index: None, clock: Clock::default() };
            let mut routed = Routed { jobs: vec![Some(job())], ticks: PASS, ..Routed::default() };
            let mut flight = Flight::read(1, copied(&entries), Origin::New, &mut routed, frontier);
            let processing = Processing { found: found.iter().map(again).collect(), ..Processing::default() };
            flight.accept(Answer::new(1, Incidents::default(), TaskOutcome::Processed(processing)));
            flight
        };
        // Made beforehand where they can be.
        let mut ahead: Vec<Flight> = (0..PASSES).map(|_| flight()).collect();
        Ok(part("commit".to_owned(), alerts, move || {
            let flight = ahead.pop().unwrap_or_else(&flight);
            let mut commit = Commit::default();
            flight.add_to(&ingest, 0, &mut commit);
            assert_eq!(commit.alerts.len(), alerts);
            assert!(commit.alerts.iter().all(|alert| alert.fields().len() > 10));
        }))
    }

    /// Entries for the rows of one batch.
    fn read_of(&self, batch: &Batch) -> Result<Entries> {
        let last = batch.entry.iter().max().context("an empty batch")?;
        let mut entries = Entries::default();
        for seq in 0..=u64::from(*last) {
            entries.push_entry(EntryId { millis: 1, seq });
            entries.push_field(b"symbol", b"A");
        }
        Ok(entries)
    }

    /// A symbol's state, packed and unpacked.
    fn pack(&self) -> Result<[Part; 2]> {
        let rows = self.rows(READ)?;
        let mut detectors = Vec::new();
        for spec in &self.generation.detectors {
            let mut instance = started(spec, &rows)?;
            for batch in &rows.batches {
                instance.detect(batch).map_err(failed)?;
            }
            for (_, bytes) in instance.save(&[rows.symbols[0].0]).map_err(failed)? {
                let detector = spec.name.clone();
                let (schema, alerted, alerted_apart) = (spec.schema(), [0; 3], [0; 3]);
                let about = Vec::new();
                detectors.push(DetectorState { detector, schema, bytes, alerted, alerted_apart, about });
            }
        }
        let state = SymbolState { normalizer: vec![7; 30], detectors, series: Vec::new() };
        let (mut packer, mut unpacker) = (Packer::new()?, Packer::new()?);
        let packed = packer.pack(1, &state)?;
        let expected = packed.clone();
        Ok([
            part("checkpoint/pack".to_owned(), 1, move || {
                assert_eq!(packer.pack(1, &state).expect("there is memory"), expected);
            }),
            part("checkpoint/unpack".to_owned(), 1, move || {
                unpacker.unpack(&packed).expect("it was packed here");
            }),
        ])
    }
}

/// A worker's thread.
struct Worker {
    runtime: runtime::Runtime,
    shard: Option<ShardHandle>,
    answers: mpsc::Receiver<Answer>,
}

impl Worker {
    fn start(generation: &Arc<Generation>) -> Result<Self> {
        let (outbox, answers) = mpsc::channel(4);
        let setup = ShardSetup {
            number: 0,
            generation: generation.clone(),
            queue: 4,
            priority: Priority::Live,
            tape: Some(Arc::new(Caller)),
        };
        let shard = ShardHandle::start(setup, outbox)?;
        let runtime = runtime::Builder::new_current_thread().build()?;
        Ok(Self { runtime, shard: Some(shard), answers })
    }

    fn work(&mut self, job: Job) -> Answer {
        let Self { runtime, shard, answers } = self;
        let shard = shard.as_ref().expect("the shard exists until the worker is dropped");
        runtime.block_on(shard.submit(Task::Process(job)));
        answers.blocking_recv().expect("a worker answers each job")
    }
}

/// Calls what is to be measured, in the worker's thread.
struct Caller;

impl Tape for Caller {
    fn note(&self, _: usize, _: &[(u32, Arc<str>)], _: &Batch) {
        if let Some(call) = IN_WORKER.lock().ok().and_then(|mut call| call.take()) {
            call();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shard.take().into_iter().for_each(ShardHandle::join);
    }
}

fn part(name: String, items: usize, pass: impl FnMut() + 'static) -> Part {
    Part { name, items, in_worker: false, pass: Box::new(pass) }
}

fn started(spec: &DetectorSpec, rows: &Rows) -> Result<Instance> {
    let mut instance = spec.start().map_err(failed)?;
    let symbols: Vec<(u32, &str)> = rows.symbols.iter().map(|(id, name)| (*id, &**name)).collect();
    instance.introduce(&symbols).map_err(failed)?;
    Ok(instance)
}

fn failed(fault: Fault) -> anyhow::Error {
    anyhow!("a detector failed: {fault}")
}

/// What a server answers to reads that bring these entries.
fn answers(entries: &Entries) -> Vec<Vec<u8>> {
    fn bulk(answer: &mut Vec<u8>, bytes: &[u8]) {
        answer.extend(format!("${}\r\n", bytes.len()).bytes());
        answer.extend_from_slice(bytes);
        answer.extend_from_slice(b"\r\n");
    }
    let entries: Vec<_> = entries.iter().collect();
    let answer = |read: &[Entry<'_>]| {
        let mut answer = format!("*{}\r\n", read.len()).into_bytes();
        for entry in read {
            answer.extend_from_slice(b"*2\r\n");
            bulk(&mut answer, entry.id.to_string().as_bytes());
            answer.extend(format!("*{}\r\n", 2 * entry.fields().len()).bytes());
            for (name, value) in entry.fields() {
                bulk(&mut answer, name);
                bulk(&mut answer, value);
            }
        }
        answer
    };
    entries.chunks(READ).map(answer).collect()
}

/// Entries of one answer: first it must be known that it is whole, as it comes in pieces.
pub(crate) fn read(answer: &[u8]) -> Entries {
    let mut scanner = Scanner::new(1);
    let mut ends = (0..answer.len()).step_by(PIECE).skip(1).chain([answer.len()]);
    assert!(ends.any(|end| scanner.scan(&answer[..end]) == Ok(Some(answer.len()))));
    let mut entries = Entries::default();
    Replies::new(answer).entries(&mut entries).expect("it was written here");
    entries
}

fn copied(entries: &Entries) -> Entries {
    let mut copy = Entries::default();
    for entry in entries.iter() {
        copy.push_entry(entry.id);
        entry.fields().for_each(|(name, value)| copy.push_field(name, value));
    }
    copy
}

fn job() -> Job {
    Job { read: 1, symbols: Vec::new(), members: Vec::new(), batch: Batch::new(0), views: Vec::new() }
}

fn again(found: &ResolvedDetection) -> ResolvedDetection {
    ResolvedDetection { members: found.members.clone(), evidence: found.evidence.clone(), ..*found }
}
