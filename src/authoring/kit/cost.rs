//! What a detector costs on this machine: time per tick by batch size, memory per symbol, and start times, next to a
//! baseline detector that is measured in the same run, in turn with it.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use tokio::sync::watch;

use super::rows::Rows;
use crate::authoring::replay::{Ids, OnFaults, ReplaySetup, Source, replay};
use tickhound_core::config::PluginsConfig;
use tickhound_core::{
    config::LoadedConfig,
    event::{Batch, Entries},
    simulate::SimConfig,
};
use tickhound_engine::plugin::{CacheLocation, DetectorSpec, Fault, Generation, Isolation, Limits, Plugin, Runtime};
use tickhound_recorded::{pace::Pace, record::Record};

/// The rows in one call: a single tick, as in a quiet market, busy, and as in a replay.
pub(crate) const BATCHES: [usize; 4] = [1, 16, 256, 2000];

/// Each figure is the median of this many measurements; those of the baseline are taken in between.
const ROUNDS: usize = 5;

/// A measurement ends after this time, since an interpreted detector would take too long for all ticks.
const ROUND_TIME: Duration = Duration::from_millis(300);

/// The start time is measured this many times.
const STARTS: usize = 20;

/// The rows in one call while memory is filled.
const FILL_BATCH: usize = 256;

/// The simulated market that is used for the measurement.
pub(crate) struct Plan {
    /// The number of symbols.
    pub(crate) symbols: u32,
    /// The number of ticks.
    pub(crate) ticks: u64,
}

/// A compiled plugin, with the times that it took.
pub(crate) struct Compiled {
    pub(crate) plugin: Arc<Plugin>,
    /// The time to compile it.
    pub(crate) compile: Duration,
    /// The time to load it from the cache.
    pub(crate) load: Duration,
}

/// The detector that is measured.
pub(crate) struct Candidate {
    /// A generation with only this detector.
    pub(crate) generation: Generation,
    /// Its plugin.
    pub(crate) compiled: Compiled,
}

/// The median, least and greatest of several measurements.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// The cost of a tick at one batch size.
#[derive(Debug, Serialize)]
pub(crate) struct PerTick {
    /// The rows in one call.
    pub(crate) batch: usize,
    pub(crate) ns: Spread,
    /// The same for the baseline.
    #[serde(rename = "yardstick_ns")]
    pub(crate) baseline_ns: Spread,
    /// The longest call, ms.
    pub(crate) longest_call_ms: f64,
}

/// The costs of a detector.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) compile_ms: f64,
    /// The time to load the compiled plugin from the cache.
    pub(crate) load_ms: f64,
    /// The time until a fresh instance has accepted its parameters.
    pub(crate) start_ms: Spread,
    pub(crate) per_tick: Vec<PerTick>,
    /// The memory of a fresh instance, bytes.
    pub(crate) memory_at_start: usize,
    /// The memory of an instance that has seen all ticks, bytes.
    pub(crate) memory: usize,
    pub(crate) memory_per_symbol: f64,
    /// The size of the saved state, bytes.
    pub(crate) state_per_symbol: f64,
    pub(crate) symbols: usize,
    pub(crate) ticks: usize,
    /// The throughput of the whole engine with this detector alone, from entries in memory to alerts.
    pub(crate) engine_ticks_per_second: f64,
    pub(crate) workers: usize,
}

/// Compiles a plugin, and loads it again from the cache.
///
/// # Errors
/// When the plugin is rejected.
pub(crate) fn compile(name: &str, file: &Path, bytes: &[u8], config: &PluginsConfig, cache: &Path) -> Result<Compiled> {
    let (limits, isolation) = (Limits::of(config), Isolation::of(config));
    let timed = |runtime: &Runtime| -> Result<_> {
        let started = Instant::now();
        Ok((runtime.compile(name, file, bytes, limits)?, started.elapsed()))
    };
    let (_, compile) = timed(&Runtime::new(None, isolation)?)?;
    let location = CacheLocation { dir: cache.join("plugins"), key: cache.join("key") };
    let runtime = Runtime::new(Some(&location), isolation)?;
    // This fills the cache, from which the next call loads.
    timed(&runtime)?;
    let (plugin, load) = timed(&runtime)?;
    Ok(Compiled { plugin, compile, load })
}

/// Measures a detector next to a baseline. `loaded` contains only that detector; `progress` is called with each phase.
///
/// # Errors
/// When a detector fails on simulated ticks.
pub(crate) async fn measure(
    candidate: Candidate,
    baseline: &DetectorSpec,
    loaded: &LoadedConfig,
    plan: &Plan,
    progress: &impl Fn(&str),
) -> Result<Cost> {
    let Candidate { generation, compiled } = candidate;
    let spec = generation.detectors[0].clone();
    progress("simulating a market");
    let entries = Arc::new(simulated(plan)?);
    let rows = Rows::of(&entries, &loaded.config.input, &loaded.config.session.sessions, &generation)?;
    let row_count = rows.of_view(spec.view()).len();
    ensure!(row_count > 0, "the simulated market has no row of the detector's feeds: simulate more ticks (--ticks)");

    progress("starting the detector");
    let start_ms = measure_starts(&spec)?;

    let mut per_tick = Vec::new();
    for batch in BATCHES {
        progress(&format!("calling the detector with batches of {batch}"));
        per_tick.push(measure_ticks(&rows, batch, &spec, baseline)?);
    }

    progress("filling the detector's memory");
    let memory = measure_memory(&rows, &spec)?;
    let symbols = rows.owners(spec.view()).len();
    let per_symbol = |bytes: usize| bytes as f64 / symbols as f64;

    progress("running the engine");
    let started = Instant::now();
    let (config, root) = (&loaded.config, loaded.root.as_path());
    let setup =
        ReplaySetup { config, root, generation, batch: None, pace: Pace::Max, on_faults: OnFaults::Count, tape: None };
    replay(Source::given(entries.clone()), setup, |_| Ok(()), Arc::default(), watch::Sender::new(false)).await?;
    let engine_ticks_per_second = entries.len() as f64 / started.elapsed().as_secs_f64();

    Ok(Cost {
        compile_ms: compiled.compile.as_secs_f64() * 1e3,
        load_ms: compiled.load.as_secs_f64() * 1e3,
        start_ms,
        per_tick,
        memory_at_start: memory.at_start,
        memory: memory.filled,
        memory_per_symbol: per_symbol(memory.filled - memory.at_start),
        state_per_symbol: per_symbol(memory.state),
        symbols,
        ticks: row_count,
        engine_ticks_per_second,
        workers: config.engine.worker_count(),
    })
}

/// The memory of an instance, bytes.
struct Memory {
    at_start: usize,
    /// After all ticks.
    filled: usize,
    /// The size of the saved state.
    state: usize,
}

fn measure_starts(spec: &DetectorSpec) -> Result<Spread> {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        spec.start().map_err(|fault| failed(spec, &fault))?;
        starts.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(starts))
}

fn measure_ticks(rows: &Rows, batch: usize, spec: &DetectorSpec, baseline: &DetectorSpec) -> Result<PerTick> {
    let [chunks, other_chunks] = [spec, baseline].map(|spec| rows.chunks(spec.view(), batch));
    let (mut own, mut other, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
    // The two take turns, so that a change in the machine's speed affects both.
    for _ in 0..ROUNDS {
        let (ns, call) = measure_round(rows, &chunks, spec)?;
        own.push(ns);
        longest = longest.max(call);
        other.push(measure_round(rows, &other_chunks, baseline)?.0);
    }
    let longest_call_ms = longest.as_secs_f64() * 1e3;
    Ok(PerTick { batch, ns: Spread::of(own), baseline_ns: Spread::of(other), longest_call_ms })
}

/// Measures the time per tick of a fresh instance, ns, and its longest call.
fn measure_round(rows: &Rows, chunks: &[Batch], spec: &DetectorSpec) -> Result<(f64, Duration)> {
    let mut instance = rows.start(spec).map_err(|fault| failed(spec, &fault))?;
    let (mut ticks, mut longest) = (0, Duration::ZERO);
    let started = Instant::now();
    let mut last = started;
    for chunk in chunks {
        instance.detect(chunk).map_err(|fault| failed(spec, &fault))?;
        ticks += chunk.len();
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
        if now - started > ROUND_TIME {
            break;
        }
    }
    Ok(((last - started).as_nanos() as f64 / ticks as f64, longest))
}

fn measure_memory(rows: &Rows, spec: &DetectorSpec) -> Result<Memory> {
    let fault = |fault| failed(spec, &fault);
    let at_start = spec.start().map_err(fault)?.memory_bytes();
    let mut instance = rows.start(spec).map_err(fault)?;
    for chunk in rows.chunks(spec.view(), FILL_BATCH) {
        instance.detect(&chunk).map_err(fault)?;
    }
    let filled = instance.memory_bytes();
    let saved = instance.save(&rows.owners(spec.view())).map_err(fault)?;
    Ok(Memory { at_start, filled, state: saved.iter().map(|(_, state)| state.len()).sum() })
}

fn failed(spec: &DetectorSpec, fault: &Fault) -> anyhow::Error {
    anyhow!("{} failed: {fault}", spec.name)
}

fn simulated(plan: &Plan) -> Result<Entries> {
    let market = SimConfig { symbols: plan.symbols as usize, dirt: 0.0, ..SimConfig::default() };
    let mut source = Source::simulated(&market, plan.ticks);
    let (mut ids, mut record, mut entries) = (Ids::default(), Record::default(), Entries::default());
    while source.next(&mut record)? {
        let Some(id) = ids.next(&record)? else { continue };
        entries.push_entry(id);
        record.fields().for_each(|(name, value)| entries.push_field(name, value));
    }
    Ok(entries)
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}
