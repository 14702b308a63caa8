//! The engine on recorded ticks: without Redis, at full speed, and with the same alerts as in a live host.
//!
//! What holds: everything between the stream and the sinks is the code of `tickhound run`: the decoder, the shards, the
//! plugins, and the order of alerts. Ids and event times come from the recording and never from the wall clock, so the
//! alerts depend neither on the number of workers nor on the speed.

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
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Instant,
};

use anyhow::{Context, Result};
use tokio::sync::watch;

pub(crate) use self::{
    source::{Ids, Source},
    stream::Progress,
};
use self::{
    stream::{Reader, ReplayCounts, ReplayStream},
    tape::Tape,
};
use tickhound_core::{
    config::{AlertsConfig, Config},
    decode::Decoder,
    normalize::Normalizer,
    stream::{Commit, LeftOut, Totals},
};
use tickhound_engine::{
    partition::{Partition, Stages, Until},
    plugin::{DetectorSpec, Flow, Generation, Reload},
    sink::Sinks,
    stats::Stats,
};
use tickhound_recorded::pace::Pace;

/// Entries in one read: enough to make the cost of a batch negligible next to that of its ticks.
const BATCH: usize = 2000;

/// Reads that may be in flight.
const READS_AHEAD: usize = 8;

/// The parameters of a replay.
pub(crate) struct ReplaySetup<'a> {
    /// The configuration.
    pub(crate) config: &'a Config,
    /// The folder that paths in the configuration are relative to.
    pub(crate) root: &'a Path,
    /// The detectors.
    pub(crate) generation: Generation,
    /// The entries in one read; `None` for the fastest number. The alerts do not depend on it.
    pub(crate) batch: Option<usize>,
    /// The speed, relative to the recording.
    pub(crate) pace: Pace,
    /// What happens when a detector fails.
    pub(crate) on_faults: OnFaults,
    /// The tape that prices and data quality are recorded on.
    pub(crate) tape: Option<Arc<Tape>>,
}

/// What a replay does when a detector fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OnFaults {
    /// It goes on, and counts them. A detector beyond its fault budget is quarantined.
    Count,
    /// It ends with an error when a detector has failed more often than this.
    EndAfter(u64),
}

/// The result of a replay.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Summary {
    /// Whether the replay was stopped before the end.
    pub(crate) stopped: bool,
    /// The duration of the replay.
    pub(crate) seconds: f64,
    /// Entries, alerts and dead letters.
    pub(crate) totals: Totals,
    /// Ticks that detectors saw.
    pub(crate) ticks: u64,
    /// The number of alerts of each detector.
    pub(crate) alerts: BTreeMap<String, u64>,
    /// The detections of each detector that did not become alerts.
    pub(crate) left_out: BTreeMap<String, LeftOut>,
    /// The time that each detector takes for a tick, ns.
    pub(crate) ns_per_tick: BTreeMap<String, u64>,
    /// The number of ticks on which each detector failed, and the last fault.
    pub(crate) faults: BTreeMap<String, (u64, String)>,
    /// Entries that are not ticks, by reason.
    pub(crate) undecodable: BTreeMap<String, u64>,
    /// Lines of files that are not JSON objects.
    pub(crate) skipped_lines: u64,
    /// Ticks that no detector saw, because their time or price was unknown.
    pub(crate) unseen: u64,
}

/// Runs a recording through the engine, and passes every commit to `sink`.
///
/// # Errors
/// When the recording can't be read to its end, a detector fails too often, or the sink returns an error.
pub(crate) async fn replay(
    source: Source,
    setup: ReplaySetup<'_>,
    sink: impl FnMut(&Commit) -> Result<()> + Send + 'static,
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
) -> Result<Summary> {
    let ReplaySetup { config, root, mut generation, batch, pace, on_faults, tape } = setup;
    let batch = batch.unwrap_or(BATCH);
    generation.flow = Flow { batch, backlog: batch * READS_AHEAD };
    let decoder = Decoder::new(&config.input, root)?;
    let detectors = generation.detectors.clone();
    let silent = AlertsConfig { log: false, ..AlertsConfig::default() };
    let sinks = Sinks::new(&silent);
    let (started, stopped) = (Instant::now(), stop.subscribe());
    let reader = Reader::start(source, pace, batch, progress, stop.subscribe())?;
    let counts = Arc::<Mutex<ReplayCounts>>::default();
    let stream = ReplayStream::new(reader, Box::new(sink), counts.clone(), on_faults, stop);
    let stats = Arc::<Stats>::default();
    let normalizer = Normalizer::new(&config.input, &config.session.sessions)?;
    let stages = Stages { reloads: Reload::fixed(generation), decoder, normalizer, sinks, stats: stats.clone() };
    let mut engine = Partition::new(stream, config, stages);
    if let Some(tape) = tape {
        engine = engine.with_tape(tape);
    }
    let totals = engine.run(Until::Stopped, stopped).await?.context("the replay was stopped before it began")?;
    let mut counts = counts.lock().expect("no thread panics while it holds the lock");
    if let Some(error) = counts.error.take() {
        return Err(error.context(format!("stopped after {} entries", totals.entries)));
    }
    if let OnFaults::EndAfter(tolerated) = on_faults
        && let Some(spec) = detectors.iter().find(|spec| spec.health.is_quarantined())
    {
        // It failed outside of its ticks, so no dead letter has said so.
        let (faults, last) = spec.health.fault_count();
        return Err(stream::out_of_budget(&spec.name, faults, tolerated, &last.unwrap_or_default()));
    }
    let ns_per_tick = |spec: &Arc<DetectorSpec>| Some((spec.name.clone(), spec.health.ns_per_tick()?));
    let faults = |spec: &Arc<DetectorSpec>| match spec.health.fault_count() {
        (0, _) => None,
        (count, last) => Some((spec.name.clone(), (count, last.unwrap_or_default()))),
    };
    // A detector without alerts is part of the result as well.
    let mut alerts: BTreeMap<String, u64> = detectors.iter().map(|spec| (spec.name.clone(), 0)).collect();
    alerts.extend(std::mem::take(&mut counts.alerts));
    let (completed, unseen) = (stats.completed.load(Relaxed), stats.unseen.load(Relaxed));
    Ok(Summary {
        stopped: counts.stopped,
        seconds: started.elapsed().as_secs_f64(),
        totals,
        ticks: completed.saturating_sub(unseen),
        alerts,
        left_out: detectors.iter().map(|spec| (spec.name.clone(), stats.monitor.outcomes(&spec.name).1)).collect(),
        ns_per_tick: detectors.iter().filter_map(ns_per_tick).collect(),
        faults: detectors.iter().filter_map(faults).collect(),
        undecodable: std::mem::take(&mut counts.undecodable),
        skipped_lines: counts.skipped_lines,
        unseen: unseen + counts.untimed,
    })
}
