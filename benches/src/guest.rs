//! What a tick costs in a detector: behind our contract, compiled natively, and behind other ways to call a guest.
//!
//! Each sees the same rows, decoded and normalised, in the same order, and must find the same. Time is that of the
//! processor on the one thread that works, so that what else runs on the machine counts little.

use std::{fs, hint::black_box, path::Path, process::Command, sync::Arc};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use tickhound_core::{
    config,
    decode::Decoder,
    event::{Batch, CLOCK, Clock, Entries, EntryId, TickRow, column},
    normalize::Normalizer,
    session::Sessions,
    simulate::{Layout, Renderer, SimConfig, Simulator},
};
use tickhound_engine::{
    ingest::Ingest,
    plugin::{DetectorSpec, Generation},
};
use tickhound_sdk::__private::{
    Instance, Plugin,
    bindings::{Guest, tickhound::detector::types::Symbol},
};

use crate::{
    Bench,
    detectors::{generation, generation_of},
    host::BOTH,
    measure::own_cpu_seconds,
    report::{Row, Target, number},
};

const SYMBOLS: usize = 200;

/// Rows in one call: alone, as in a quiet market, busy, and as in a replay.
const BATCHES: [usize; 3] = [1, 256, 2000];

/// Detectors of the first contract, which get a list for each column. They are the same detectors as those that ship.
const FIRST_CONTRACT: &str = "tests/fixtures/contract-0.1";

/// Calls that are timed to know what a call costs.
const CALLS: usize = 200_000;

/// Rows for those that are slow.
const SLOW_ROWS: usize = 100_000;

macro_rules! native {
    ($name:ident, $detector:ty) => {
        struct $name;

        impl Plugin for $name {
            type Detector = $detector;

            fn with<R>(call: impl FnOnce(&mut Instance<$detector>) -> R) -> R {
                thread_local! {
                    static INSTANCE: std::cell::RefCell<Instance<$detector>> =
                        const { std::cell::RefCell::new(Instance::new()) };
                }
                INSTANCE.with(|instance| call(&mut instance.borrow_mut()))
            }
        }
    };
}

native!(Breakout, breakout::Breakout);
native!(Momentum, momentum::Momentum);

/// Time of a tick, ns, and how much was found.
type Measured = (f64, usize);

type Native = fn(&Rows, usize) -> Result<Measured>;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (pairs, ticks) = bench.sized((3, 200_000), (11, 600_000));
    let generation = generation(bench, BOTH)?;
    let rows = Rows::simulated(ticks)?;
    let mut table = Vec::new();
    let natives: [Native; 2] = [native::<Breakout>, native::<Momentum>];
    for (spec, native) in generation.detectors.iter().zip(natives) {
        for batch in BATCHES {
            bench.tell(&format!("{}, {} a call", spec.name, rows_of(batch)));
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..pairs {
                let (wasm, native) = (wasm(spec, &rows, batch)?, native(&rows, batch)?);
                ensure!(wasm.1 == native.1, "{} found {} in wasm, {} natively", spec.name, wasm.1, native.1);
                ours.push(wasm.0);
                theirs.push(native.0);
            }
            let row =
                Row::beside(format!("{}, {} a call", spec.name, rows_of(batch)), "ns/tick", &ours, "native", &theirs);
            table.push(if batch >= 256 { row.target(Target::RatioAtMost(1.3)) } else { row });
        }
    }
    table.extend(beside_first_contract(bench, &generation, &rows, pairs)?);
    let breakout = &generation.detectors[0];
    let floor = (0..pairs).map(|_| floor(breakout)).collect::<Result<Vec<f64>>>()?;
    table.push(Row::alone("a call with one row that concerns nobody", "µs", &floor).target(Target::AtMost(0.6)));
    match &bench.peers {
        Some(peers) => table.extend(beside_peers(bench, peers, breakout, &rows, pairs.min(5))?),
        None => bench.tell("without Extism: it is not built"),
    }
    Ok(table)
}

/// Rows as detectors see them.
struct Rows {
    symbols: Vec<(u32, Arc<str>)>,
    batch: Batch,
}

impl Rows {
    fn simulated(ticks: u64) -> Result<Self> {
        let input = config::shipped("")?.config.input;
        let mut market = Simulator::new(&SimConfig { symbols: SYMBOLS, dirt: 0.0, ..SimConfig::default() });
        let (mut renderer, mut entries) = (Renderer::new(Layout::Json), Entries::default());
        for seq in 0..ticks {
            let tick = market.next().context("the simulated market never ends")?;
            entries.push_entry(EntryId { millis: tick.time / 1_000_000, seq });
            let instrument = &market.instruments()[tick.instrument as usize];
            renderer.render(instrument, &tick, |name, value| entries.push_field(name, value));
        }
        let normalizer = Normalizer::new(&input, &Sessions::default())?;
        let mut ingest = Ingest::new(Decoder::new(&input, Path::new("."))?, normalizer, 1, Clock::default());
        let job = ingest.route(1, &entries).jobs.into_iter().flatten().next().context("there is not one tick")?;
        let batch = job.batch;
        // Other ways have no clock rows, and these detectors don't listen to them.
        let mut ticks_only = Batch::new(batch.columns.len());
        for row in (0..batch.len()).filter(|row| batch.symbol[*row] != CLOCK) {
            let columns: Vec<f64> = batch.columns.iter().map(|column| column[row]).collect();
            let (symbol, time, price) = (batch.symbol[row], batch.time[row], batch.price[row]);
            ticks_only.push(TickRow { entry: 0, symbol, time, price, columns: &columns });
        }
        Ok(Self { symbols: job.symbols, batch: ticks_only })
    }

    fn first(&self, rows: usize) -> Self {
        Self { symbols: self.symbols.clone(), batch: self.batch.rows(0..rows.min(self.batch.len())) }
    }

    fn chunks(&self, size: usize) -> Vec<Batch> {
        let rows = self.batch.len();
        (0..rows).step_by(size).map(|from| self.batch.rows(from..rows.min(from + size))).collect()
    }
}

fn rows_of(batch: usize) -> String {
    if batch == 1 { "1 row".to_owned() } else { format!("{} rows", number(batch as f64)) }
}

fn wasm(spec: &DetectorSpec, rows: &Rows, batch: usize) -> Result<Measured> {
    let failed = |fault| anyhow!("{} failed: {fault}", spec.name);
    let mut instance = spec.start().map_err(failed)?;
    let symbols: Vec<(u32, &str)> = rows.symbols.iter().map(|(id, name)| (*id, &**name)).collect();
    instance.introduce(&symbols).map_err(failed)?;
    let (chunks, mut found) = (rows.chunks(batch), 0);
    let begun = own_cpu_seconds();
    for chunk in &chunks {
        found += instance.detect(chunk).map_err(failed)?.len();
    }
    Ok(((own_cpu_seconds() - begun) * 1e9 / rows.batch.len() as f64, found))
}

/// The same detectors as built for the first contract.
fn beside_first_contract(bench: &Bench, present: &Generation, rows: &Rows, pairs: usize) -> Result<Vec<Row>> {
    let first = generation_of(bench, FIRST_CONTRACT, BOTH)?;
    let mut table = Vec::new();
    for (spec, first) in present.detectors.iter().zip(&first.detectors) {
        bench.tell(&format!("{}, by the first contract", spec.name));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (now, before) = (wasm(spec, rows, 256)?, wasm(first, rows, 256)?);
            ensure!(now.1 == before.1, "{} found {}, and {} by contract 0.1", spec.name, now.1, before.1);
            ours.push(now.0);
            theirs.push(before.0);
        }
        let what = format!("{}, 256 rows a call, beside contract 0.1", spec.name);
        table.push(Row::beside(what, "ns/tick", &ours, "contract 0.1", &theirs));
    }
    Ok(table)
}

/// The same code without WebAssembly. It is given its rows, so nothing is copied for it.
fn native<P: Plugin>(rows: &Rows, batch: usize) -> Result<Measured> {
    let manifest = P::describe();
    let column = |name: &str| column::NAMES.iter().position(|known| *known == name);
    let columns: Vec<Option<usize>> = manifest.columns.iter().map(|asked| column(&asked.name)).collect();
    P::with(|instance| *instance = Instance::new());
    let params: Vec<_> = manifest.params.into_iter().map(|param| (param.name, param.default)).collect();
    P::configure(params).map_err(|rejection| anyhow!("{rejection}"))?;
    let symbol = |(id, name): &(u32, Arc<str>)| Symbol { id: *id, name: name.to_string(), texts: Vec::new() };
    P::introduce(rows.symbols.iter().map(symbol).collect(), Vec::new());
    let chunks: Vec<(u32, Vec<u8>)> =
        rows.chunks(batch).iter().map(|chunk| (chunk.len() as u32, packed_call(chunk, &columns))).collect();
    let mut found = 0;
    let begun = own_cpu_seconds();
    for (rows, values) in chunks {
        found += count_detections(&black_box(P::detect(rows, values)))?;
    }
    Ok(((own_cpu_seconds() - begun) * 1e9 / rows.batch.len() as f64, found))
}

/// The rows of a call as the contract packs them. Columns that the input lacks are NaN.
fn packed_call(batch: &Batch, columns: &[Option<usize>]) -> Vec<u8> {
    let absent = vec![f64::NAN; batch.len()];
    let columns = columns.iter().map(|position| position.map_or(&absent, |position| &batch.columns[position]));
    let mut packed: Vec<u8> = batch.time.iter().flat_map(|time| time.to_le_bytes()).collect();
    packed.extend(std::iter::once(&batch.price).chain(columns).flatten().flat_map(|value| value.to_le_bytes()));
    packed.extend(batch.symbol.iter().flat_map(|symbol| symbol.to_le_bytes()));
    packed
}

/// The number of packed detections.
fn count_detections(packed: &[u8]) -> Result<usize> {
    let (mut rest, mut count) = (packed, 0);
    while !rest.is_empty() {
        // Row, owner, about, confidence and direction.
        let members: [u8; 2] = *taken(&mut rest, 21 + 2)?.last_chunk().context("it has as many bytes")?;
        taken(&mut rest, 4 * usize::from(u16::from_le_bytes(members)))?;
        for _ in 0..taken(&mut rest, 1)?[0] {
            let name = taken(&mut rest, 1)?[0];
            taken(&mut rest, usize::from(name) + 8)?;
        }
        count += 1;
    }
    Ok(count)
}

fn taken<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(bytes).context("a detection is cut off")?;
    *rest = behind;
    Ok(taken)
}

/// What a call costs beside what the detector does, µs: a clock row, to which it does not listen.
fn floor(spec: &DetectorSpec) -> Result<f64> {
    let failed = |fault| anyhow!("{} failed: {fault}", spec.name);
    let mut instance = spec.start().map_err(failed)?;
    let mut batch = Batch::new(column::NAMES.len());
    batch.push_clock(0, 1_000_000_000);
    let begun = own_cpu_seconds();
    for _ in 0..CALLS {
        black_box(instance.detect(black_box(&batch)).map_err(failed)?);
    }
    Ok((own_cpu_seconds() - begun) * 1e6 / CALLS as f64)
}

/// Breakout behind Extism, in a process of its own.
fn beside_peers(bench: &Bench, peers: &Path, spec: &DetectorSpec, rows: &Rows, pairs: usize) -> Result<Vec<Row>> {
    #[derive(Deserialize)]
    struct Answer {
        ns: f64,
        found: usize,
    }
    let rows = rows.first(SLOW_ROWS);
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), packed(&rows.batch))?;
    let guest = peers.with_file_name("").join("../wasm32-unknown-unknown/guest/tickhound_peers_guest.wasm");
    let theirs = |form: &str| -> Result<Measured> {
        let mut command = Command::new(peers);
        command.args(["measure", form]).arg(&guest).arg(file.path()).arg(rows.symbols.len().to_string());
        let output = command.output().context("can't start the peers")?;
        ensure!(output.status.success(), "the peers failed: {}", String::from_utf8_lossy(&output.stderr));
        let Answer { ns, found } = serde_json::from_slice(&output.stdout)?;
        Ok((ns, found))
    };
    let mut table = Vec::new();
    for (what, form, batch) in [
        ("256 rows a call, beside a JSON object a tick", "json", 256),
        ("1 row a call, beside a JSON object a tick", "json", 1),
        ("1 row a call, beside packed bytes a tick", "packed", 1),
        ("256 rows a call, beside 256 packed rows a call", "batch", 256),
    ] {
        bench.tell(&format!("Extism, {form}"));
        let (mut our_ns, mut their_ns) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (ours, theirs) = (wasm(spec, &rows, batch)?, theirs(form)?);
            ensure!(ours.1 == theirs.1, "we found {}, Extism {}", ours.1, theirs.1);
            our_ns.push(ours.0);
            their_ns.push(theirs.0);
        }
        let row = Row::faster_than(format!("breakout, {what}"), "ns/tick", &our_ns, "Extism", &their_ns);
        table.push(if form == "json" && batch > 1 { row.target(Target::RatioAtLeast(20.0)) } else { row });
    }
    Ok(table)
}

/// Each row in 32 bytes, little endian: symbol, flags, time, price, quantity.
fn packed(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in 0..batch.len() {
        bytes.extend(batch.symbol[row].to_le_bytes());
        bytes.extend((batch.columns[column::FLAGS][row] as u32).to_le_bytes());
        bytes.extend(batch.time[row].to_le_bytes());
        bytes.extend(batch.price[row].to_le_bytes());
        bytes.extend(batch.columns[column::QUANTITY][row].to_le_bytes());
    }
    bytes
}
