//! Replays one detector beside everything else, and keeps what it has looked at.
//!
//! What holds: the engine is that of a host, with a stream that is only read. So groups, bars, contexts and states are what they
//! are in a host, and what is kept is as of the same rows.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;

use crate::authoring::replay::{OnFaults, ReplaySetup, Source, replay};
use tickhound_core::{
    config::{AlertsConfig, Config, LoadedConfig},
    decode::Decoder,
    event::Alert,
    normalize::Normalizer,
    stream::Commit,
};
use tickhound_engine::{
    partition::{Partition, Stages, Until},
    plugin::{DetectorSpec, Generation, ProbeLog, ProbeQuestion, ProbedRows, Reload},
    sink::Sinks,
    stats::Stats,
};
use tickhound_recorded::pace::Pace;
use tickhound_redis::ObservedStream;

/// What a detector is replayed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// The states that the host has saved, and the entries after them.
    Saved,
    /// So many entries, without any state before them.
    Entries(u64),
}

/// What became of a replay.
pub(crate) struct Probed {
    pub(crate) basis: Basis,
    pub(crate) rows: ProbedRows,
    /// The alerts that the detector raised on the way. None are known from saved states.
    pub(crate) alerts: Vec<Alert>,
    /// On how many ticks the detector failed, and the last fault.
    pub(crate) faults: Option<(u64, String)>,
}

/// A detector apart from all others.
pub(crate) struct LoneDetector {
    config: Config,
    /// The folder that paths in the configuration are relative to.
    root: PathBuf,
    spec: Arc<DetectorSpec>,
    /// The generation that it is from.
    generation: Generation,
}

impl LoneDetector {
    /// Loads a detector of the configuration, whether or not it is enabled.
    ///
    /// # Errors
    /// When there is no such detector, it can't be loaded, or it can't tell what it looks at.
    pub(crate) fn load(
        loaded: &LoadedConfig,
        name: &str,
        load: impl FnOnce(&LoadedConfig) -> Result<Generation>,
    ) -> Result<Self> {
        let mut loaded = loaded.clone();
        let detectors = &mut loaded.config.detectors;
        let Some(mut settings) = detectors.remove(name) else {
            let known: Vec<&str> = detectors.keys().map(String::as_str).collect();
            bail!("there is no detector {name} in the configuration; it has {}", known.join(", "));
        };
        settings.enabled = true;
        settings.shadow_of = String::new();
        *detectors = [(name.to_owned(), settings)].into();
        let generation = load(&loaded)?;
        Self::of(&loaded.config, &loaded.root, &generation, name)
    }

    /// Takes a detector that is loaded already.
    ///
    /// # Errors
    /// When there is no such detector, or it can't tell what it looks at.
    pub(crate) fn of(config: &Config, root: &Path, generation: &Generation, name: &str) -> Result<Self> {
        let spec = generation.detectors.iter().find(|spec| spec.name == name);
        let spec = spec.with_context(|| format!("there is no detector {name}, or it is not enabled"))?.clone();
        let manifest = &spec.plugin.manifest;
        ensure!(
            spec.plugin.can_probe(),
            "{name} can't tell what it looks at: its plugin, {} {}, does not export `probe`. Build it with an SDK of contract \
             0.2 (docs/why.md)",
            manifest.name,
            manifest.version
        );
        let mut config = config.clone();
        config.engine.workers = 1;
        // Faults count over the whole replay, and what has no state is not warmed up a second time.
        config.plugins.fault_window_s = u64::MAX;
        config.plugins.rewarm_s = 0;
        Ok(Self { config, root: root.to_owned(), spec, generation: generation.clone() })
    }

    /// The detector.
    pub(crate) fn spec(&self) -> &DetectorSpec {
        &self.spec
    }

    /// A generation of these detectors.
    fn generation(&self, detectors: Vec<Arc<DetectorSpec>>) -> Generation {
        Generation { detectors, ..self.generation.clone() }
    }

    /// Replays the detector without a state from the beginning of a source on, until event time is beyond `until`, ns since the Unix
    /// epoch.
    ///
    /// # Errors
    /// When the source can't be read.
    pub(crate) async fn replay(&self, source: Source, question: ProbeQuestion, until: u64) -> Result<Probed> {
        let (spec, log) = (&self.spec, Arc::new(ProbeLog::new(question)));
        // Both see the same rows. Names of detectors have no spaces, so this one is no other's.
        let probing = Arc::new(spec.probing(&format!("{} probed", spec.name), log.clone()));
        let generation = self.generation(vec![spec.clone(), probing.clone()]);
        let raised = Arc::<Mutex<Vec<Alert>>>::default();
        let stop = watch::Sender::new(false);
        let sink = {
            let (raised, stop) = (raised.clone(), stop.clone());
            move |commit: &Commit| {
                raised.lock().expect("no holder of this lock panics").extend(commit.alerts.iter().cloned());
                if commit.clock.time > until {
                    stop.send_replace(true);
                }
                Ok(())
            }
        };
        let setup = ReplaySetup {
            config: &self.config,
            root: &self.root,
            generation,
            batch: None,
            pace: Pace::Max,
            on_faults: OnFaults::Count,
            tape: None,
        };
        let summary = replay(source, setup, sink, Arc::default(), stop).await?;
        let alerts = std::mem::take(&mut *raised.lock().expect("no holder of this lock panics"));
        let basis = Basis::Entries(summary.totals.entries);
        Ok(Probed { basis, rows: log.take(), alerts, faults: faults(&probing) })
    }

    /// Continues the detector from the states that the host has saved, up to the newest entry; `None` if not all of its states are
    /// saved, such as those of a detector that no host runs, or with other parameters.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub(crate) async fn replay_saved(&self, question: ProbeQuestion) -> Result<Option<Probed>> {
        let (spec, log) = (&self.spec, Arc::new(ProbeLog::new(question)));
        let config = &self.config;
        let done = watch::Sender::new(false);
        let stream = ObservedStream::new(&config.stream, &config.alerts, &config.dead_letters, done.clone())?;
        if stream.saved_detectors().await?.get(&spec.name) != Some(&spec.schema()) {
            return Ok(None);
        }
        // Saved states are found by the name of the detector.
        let probing = Arc::new(spec.probing(&spec.name, log.clone()));
        let generation = self.generation(vec![probing.clone()]);
        let stages = Stages {
            reloads: Reload::fixed(generation),
            decoder: Decoder::new(&config.input, &self.root)?,
            normalizer: Normalizer::new(&config.input, &config.session.sessions)?,
            sinks: Sinks::new(&AlertsConfig { log: false, ..AlertsConfig::default() }),
            stats: Arc::<Stats>::default(),
        };
        Partition::new(stream, config, stages).run(Until::Stopped, done.subscribe()).await?;
        Ok(Some(Probed { basis: Basis::Saved, rows: log.take(), alerts: Vec::new(), faults: faults(&probing) }))
    }
}

fn faults(spec: &DetectorSpec) -> Option<(u64, String)> {
    let (count, last) = spec.health.fault_count();
    (count > 0).then(|| (count, last.unwrap_or_default()))
}
