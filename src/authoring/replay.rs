//! The engine on recorded ticks: without Redis, as fast as it goes, and with the alerts that a live host raises.
//!
//! Everything between the stream and the sinks is what `run` runs: decoder, shards, plugins, order of alerts.
//! Ids and event time come from the recording, never from the clock of the wall, so that what comes out depends
//! neither on the number of workers nor on the speed.

pub(crate) mod outcome;
pub(crate) mod output;
pub(crate) mod report;
mod source;
mod stream;
pub(crate) mod surrogate;
pub(crate) mod tape;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use anyhow::{Context, Result};
use tokio::sync::watch;

pub(crate) use self::{
    source::{Ids, Source},
    stream::Progress,
};
use self::{
    stream::{Collected, Reader, ReplayStream},
    tape::Tape,
};
use tickhound_core::{
    config::{AlertsConfig, Config},
    decode::Decoder,
    stream::{Commit, Totals},
};
use tickhound_engine::{
    engine::{Engine, Stages, Until},
    plugin::{Flow, Generation, Reload},
    sink::Sinks,
    stats::Stats,
};
use tickhound_recorded::pace::Pace;

/// Entries in one read: so many that what a batch costs beside its ticks no longer shows.
const BATCH: usize = 2000;

/// Reads between reading and committing.
const READS_AHEAD: usize = 8;

/// What replays run with.
pub(crate) struct Setup<'a> {
    /// As `config.toml` has it, or changed.
    pub(crate) config: &'a Config,
    /// Paths in it are relative to this.
    pub(crate) root: &'a Path,
    /// The detectors.
    pub(crate) generation: Generation,
    /// Entries in one read; `None` = as many as are best. Makes no difference to what comes out.
    pub(crate) batch: Option<usize>,
    /// How fast, in the time of the recording.
    pub(crate) pace: Pace,
    /// Looks on.
    pub(crate) tape: Option<Arc<Tape>>,
}

/// How a replay went.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Summary {
    /// Whether it was stopped before the end.
    pub(crate) stopped: bool,
    /// What it took.
    pub(crate) seconds: f64,
    /// Entries, alerts, what was set aside.
    pub(crate) totals: Totals,
    /// Ticks that detectors saw.
    pub(crate) ticks: u64,
    /// Alerts of each detector.
    pub(crate) alerts: BTreeMap<String, u64>,
    /// What a tick costs in each detector, ns.
    pub(crate) ns_per_tick: BTreeMap<String, u64>,
    /// Ticks on which each detector failed, and how the last one did.
    pub(crate) faults: BTreeMap<String, (u64, String)>,
    /// Entries that are no tick, by reason.
    pub(crate) undecodable: BTreeMap<String, u64>,
    /// Lines of files that are no JSON object.
    pub(crate) skipped_lines: u64,
    /// Ticks that no detector saw: no time, or no price, was known yet.
    pub(crate) unseen: u64,
}

/// Runs the recording through the engine, and gives every commit to `sink`.
///
/// # Errors
/// When the recording can't be read to its end, a detector fails all the time, or the sink refuses.
pub(crate) async fn replay(
    source: Source,
    setup: Setup<'_>,
    sink: impl FnMut(&Commit) -> Result<()> + Send + 'static,
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
) -> Result<Summary> {
    let Setup { config, root, mut generation, batch, pace, tape } = setup;
    let batch = batch.unwrap_or(BATCH);
    generation.flow = Flow { batch, backlog: batch * READS_AHEAD };
    let decoder = Decoder::new(&config.input, root)?;
    let detectors = generation.detectors.clone();
    let silent = AlertsConfig { log: false, ..AlertsConfig::default() };
    let sinks = Sinks::new(&silent);
    let (started, stopped) = (Instant::now(), stop.subscribe());
    let reader = Reader::start(source, pace, batch, progress, stop.subscribe())?;
    let collected = Arc::<std::sync::Mutex<Collected>>::default();
    let stream = ReplayStream::new(reader, Box::new(sink), collected.clone(), stop);
    let stats = Arc::<Stats>::default();
    let stages = Stages { reloads: Reload::fixed(generation), decoder, sinks, stats: stats.clone() };
    let mut engine = Engine::new(stream, config, stages);
    if let Some(tape) = tape {
        engine = engine.with_tape(tape);
    }
    let totals = engine.run(Until::Stopped, stopped).await?.context("the replay was stopped before it began")?;
    let mut collected = collected.lock().expect("nobody panics while holding it");
    if let Some(error) = collected.error.take() {
        return Err(error.context(format!("stopped after {} entries", totals.entries)));
    }
    let of = |name: &dyn Fn(&tickhound_engine::plugin::DetectorSpec) -> Option<u64>| {
        detectors.iter().filter_map(|spec| Some((spec.name.clone(), name(spec)?))).collect()
    };
    let faults = detectors.iter().filter_map(|spec| match spec.health.fault_count() {
        (0, _) => None,
        (count, last) => Some((spec.name.clone(), (count, last.unwrap_or_default()))),
    });
    let mut alerts: BTreeMap<String, u64> = detectors.iter().map(|spec| (spec.name.clone(), 0)).collect();
    alerts.extend(std::mem::take(&mut collected.alerts));
    Ok(Summary {
        stopped: collected.stopped,
        seconds: started.elapsed().as_secs_f64(),
        totals,
        ticks: stats.completed.load(Relaxed) - stats.unseen.load(Relaxed).min(stats.completed.load(Relaxed)),
        alerts,
        ns_per_tick: of(&|spec| spec.health.ns_per_tick()),
        faults: faults.collect(),
        undecodable: std::mem::take(&mut collected.undecodable),
        skipped_lines: collected.skipped_lines,
        unseen: stats.unseen.load(Relaxed) + collected.untimed,
    })
}
