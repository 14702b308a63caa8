//! What a detector costs on this machine: time per tick by batch size, memory per symbol, start; beside a yardstick
//! that is measured in the same run, tick for tick.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tokio::sync::watch;

use super::rows::Rows;
use crate::authoring::replay::{Ids, Setup, Source, replay};
use tickhound_core::{config::LoadedConfig, event::Entries, simulate::SimConfig};
use tickhound_engine::plugin::{DetectorSpec, Generation, Limits, Plugin, Runtime};
use tickhound_recorded::{pace::Pace, record::Record};

/// Rows in one call: alone, as in a quiet market, busy, and as in a replay.
pub(crate) const BATCHES: [usize; 4] = [1, 16, 256, 2000];

/// Each figure is the median of so many measurements; the yardstick's are taken in between.
const ROUNDS: usize = 5;

/// A measurement goes on for about this long: an interpreted detector does not get through all ticks.
const ROUND_TIME: Duration = Duration::from_millis(300);

const STARTS: usize = 20;

/// What is measured.
pub(crate) struct Plan {
    /// Symbols in the simulated market.
    pub(crate) symbols: u32,
    /// Ticks of it.
    pub(crate) ticks: u64,
}

/// Median, least and most, ns.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// Cost of one tick.
#[derive(Debug, Serialize)]
pub(crate) struct PerTick {
    /// Rows in one call.
    pub(crate) batch: usize,
    pub(crate) ns: Spread,
    /// Of the yardstick.
    pub(crate) yardstick_ns: Spread,
    /// The longest call, ms.
    pub(crate) longest_call_ms: f64,
}

/// See above.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) compile_ms: f64,
    /// Of what was compiled before.
    pub(crate) load_ms: f64,
    /// Until a fresh instance has taken its parameters.
    pub(crate) start_ms: Spread,
    pub(crate) per_tick: Vec<PerTick>,
    /// Of a fresh instance, bytes.
    pub(crate) memory_at_start: usize,
    /// Of one that has seen all ticks, bytes.
    pub(crate) memory: usize,
    pub(crate) memory_per_symbol: f64,
    /// Of its saved state, bytes.
    pub(crate) state_per_symbol: f64,
    pub(crate) symbols: usize,
    pub(crate) ticks: usize,
    /// Through the whole engine with this detector alone, from entries in memory to alerts.
    pub(crate) engine_ticks_per_second: f64,
    pub(crate) workers: usize,
}

/// How long it takes to compile a plugin, and to load it when that was done before.
///
/// # Errors
/// When it is refused.
pub(crate) fn compile(
    name: &str,
    file: &Path,
    bytes: &[u8],
    limits: Limits,
    cache: &Path,
) -> Result<(Arc<Plugin>, Duration, Duration)> {
    let timed = |runtime: &Runtime| -> Result<_> {
        let started = Instant::now();
        Ok((runtime.compile(name, file, bytes, limits)?, started.elapsed()))
    };
    let (_, compile) = timed(&Runtime::new(None)?)?;
    let runtime = Runtime::new(Some(cache))?;
    timed(&runtime)?;
    let (plugin, load) = timed(&runtime)?;
    Ok((plugin, compile, load))
}

/// Measures one detector beside another. `loaded` has just the one.
///
/// # Errors
/// When it fails on simulated ticks.
pub(crate) async fn measure(
    generation: Generation,
    yardstick: &DetectorSpec,
    loaded: &LoadedConfig,
    plan: &Plan,
    told: &impl Fn(&str),
) -> Result<Cost> {
    let spec = generation.detectors[0].clone();
    let failed = |fault| anyhow!("{} failed: {fault}", spec.name);
    told("simulating a market");
    let entries = Arc::new(simulated(plan)?);
    let rows = Rows::of(&entries, &loaded.config.input)?;

    told("starting it");
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        spec.start().map_err(failed)?;
        starts.push(started.elapsed().as_secs_f64() * 1e3);
    }

    let mut per_tick = Vec::new();
    for batch in BATCHES {
        told(&format!("calling it with batches of {batch}"));
        let chunks = rows.chunks(batch);
        let (mut own, mut other, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
        for _ in 0..ROUNDS {
            let (ns, call) = round(&rows, &chunks, &spec)?;
            own.push(ns);
            longest = longest.max(call);
            other.push(round(&rows, &chunks, yardstick)?.0);
        }
        let longest_call_ms = longest.as_secs_f64() * 1e3;
        per_tick.push(PerTick { batch, ns: Spread::of(own), yardstick_ns: Spread::of(other), longest_call_ms });
    }

    told("filling its memory");
    let memory_at_start = spec.start().map_err(failed)?.memory_bytes();
    let mut instance = rows.start(&spec).map_err(failed)?;
    for chunk in rows.chunks(256) {
        instance.detect(&chunk).map_err(failed)?;
    }
    let memory = instance.memory_bytes();
    let saved = instance.save(&rows.ids()).map_err(failed)?;
    let symbols = rows.ids().len();
    let of_each = |bytes: usize| bytes as f64 / symbols as f64;

    told("running the engine");
    let started = Instant::now();
    let (config, root) = (&loaded.config, loaded.root.as_path());
    let setup = Setup { config, root, generation, batch: None, pace: Pace::Max, tape: None };
    replay(Source::given(entries.clone()), setup, |_| Ok(()), Arc::default(), watch::Sender::new(false)).await?;
    let engine_ticks_per_second = entries.len() as f64 / started.elapsed().as_secs_f64();

    Ok(Cost {
        compile_ms: 0.0,
        load_ms: 0.0,
        start_ms: Spread::of(starts),
        per_tick,
        memory_at_start,
        memory,
        memory_per_symbol: of_each(memory - memory_at_start),
        state_per_symbol: of_each(saved.iter().map(|(_, state)| state.len()).sum()),
        symbols,
        ticks: rows.batch.len(),
        engine_ticks_per_second,
        workers: config.engine.worker_count(),
    })
}

/// Ns of one tick, and the longest call, of a fresh instance.
fn round(rows: &Rows, chunks: &[tickhound_core::event::Batch], spec: &DetectorSpec) -> Result<(f64, Duration)> {
    let failed = |fault| anyhow!("{} failed: {fault}", spec.name);
    let mut instance = rows.start(spec).map_err(failed)?;
    let (mut done, mut longest) = (0, Duration::ZERO);
    let started = Instant::now();
    let mut last = started;
    for chunk in chunks {
        instance.detect(chunk).map_err(failed)?;
        done += chunk.len();
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
        if now - started > ROUND_TIME {
            break;
        }
    }
    Ok(((last - started).as_nanos() as f64 / done as f64, longest))
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
