//! The detectors and settings in force: a [`Generation`], which never changes.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, anyhow};
use tracing::info;

use super::{
    check_process::TrialResult,
    columns::BatchColumns,
    guest::Limits,
    runtime::{Plugin, Runtime},
    spec::DetectorSpec,
    trial::{self, TrialRows},
};
use tickhound_core::{
    config::{AlertsConfig, DetectorConfig, LoadedConfig, NotifyConfig, is_unset},
    market::Market,
    publish::AlertLayout,
};

/// The plugins and settings that are in force together.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The number of the generation: 1 at the start, one more with each change while the host runs.
    pub number: u64,
    /// Each enabled detector, in the order of their names, which is the order of alerts at one tick. An unchanged
    /// detector is the same `Arc` as in the previous generation.
    pub detectors: Vec<Arc<DetectorSpec>>,
    /// The settings of alerts.
    pub alerts: AlertsConfig,
    /// What detectors know of the market beside the ticks of one symbol.
    pub market: Arc<Market>,
    /// The columns of batches.
    pub columns: Arc<BatchColumns>,
    /// How alerts are written.
    pub layout: Arc<AlertLayout>,
    /// The sizes of reads.
    pub flow: Flow,
    /// The channels that are notified of alerts.
    pub notify: Vec<NotifyConfig>,
}

/// How many entries are read at once, and processed at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The maximum number of entries in one read.
    pub batch: usize,
    /// The maximum number of entries between read and commit.
    pub backlog: usize,
}

/// Where a generation gets its plugins, and where new detectors are tried.
pub trait PluginSource {
    /// Returns the plugin of a detector.
    ///
    /// # Errors
    /// Names the reason why there is none.
    fn plugin(&mut self, detector: &DetectorConfig, limits: Limits) -> Result<Arc<Plugin>>;

    /// Tries a detector whose plugin this source has returned. `columns` are those of batches.
    ///
    /// # Errors
    /// Names the call that failed, and its fault.
    fn try_out(&mut self, spec: &DetectorSpec, columns: &BatchColumns) -> Result<TrialResult>;
}

/// The source of a single plugin, which was checked before.
impl PluginSource for Arc<Plugin> {
    fn plugin(&mut self, _: &DetectorConfig, _: Limits) -> Result<Arc<Plugin>> {
        Ok(self.clone())
    }

    fn try_out(&mut self, spec: &DetectorSpec, columns: &BatchColumns) -> Result<TrialResult> {
        trial::run(|| spec.start_trial(), &TrialRows::new(spec, columns), spec.plugin.manifest.state_version)
    }
}

/// Plugins in memory: each has its name, the name of its file in messages, and its bytes.
struct Embedded<'a> {
    runtime: &'a Runtime,
    plugins: &'a [(&'a str, PathBuf, &'a [u8])],
}

impl<'a> Embedded<'a> {
    fn find(&self, name: &str) -> Result<&'a (&'a str, PathBuf, &'a [u8])> {
        self.plugins.iter().find(|(embedded, ..)| *embedded == name).context("no such plugin is built in")
    }
}

impl PluginSource for Embedded<'_> {
    fn plugin(&mut self, detector: &DetectorConfig, limits: Limits) -> Result<Arc<Plugin>> {
        let (name, file, bytes) = self.find(&detector.plugin)?;
        self.runtime.compile(name, file, bytes, limits)
    }

    fn try_out(&mut self, spec: &DetectorSpec, columns: &BatchColumns) -> Result<TrialResult> {
        let (.., bytes) = self.find(&spec.plugin.name)?;
        trial::try_out(self.runtime, spec, bytes, &TrialRows::new(spec, columns))
    }
}

impl Generation {
    /// Builds what the configuration asks for, and tries each new detector. A detector that is unchanged since `before`
    /// is taken from there.
    ///
    /// # Errors
    /// Names the first problem with its position in the configuration.
    pub fn build(
        loaded: &LoadedConfig,
        column_names: &[String],
        before: Option<&Self>,
        plugins: &mut impl PluginSource,
    ) -> Result<Self> {
        let limits = Limits::of(&loaded.config.plugins);
        let number = before.map_or(1, |before| before.number + 1);
        let known = before.map_or(&[][..], |before| &before.detectors);
        let mut columns = BatchColumns::new(column_names, &loaded.market, before.map(|before| before.columns.as_ref()));
        let mut detectors = Vec::new();
        for (name, config) in loaded.config.detectors.iter().filter(|(_, config)| config.enabled) {
            let plugin = plugins.plugin(config, limits).with_context(|| {
                format!("{}: plugin of detector {name}", loaded.source.at(&["detectors", name, "plugin"]))
            })?;
            let mut spec = DetectorSpec::resolve(name, config, plugin, &mut columns, loaded)?;
            spec.generation = number;
            if let Some(unchanged) = known.iter().find(|other| other.is(&spec)) {
                detectors.push(unchanged.clone());
                continue;
            }
            spec.trial = match known.iter().find(|other| other.runs_as(&spec)) {
                Some(tried) => tried.trial,
                None => plugins
                    .try_out(&spec, &columns)
                    .map_err(|error| anyhow!("{}: detector {name} {error:#}", loaded.position_of_params(name)))?,
            };
            detectors.push(Arc::new(spec));
        }
        let mut alerts = loaded.config.alerts.clone();
        if !is_unset(&alerts.jsonl) {
            alerts.jsonl = loaded.resolve(&alerts.jsonl);
        }
        let flow = Flow { batch: loaded.config.stream.batch, backlog: loaded.config.engine.backlog };
        let layout = AlertLayout::compile(&alerts);
        let layout = layout.map_err(|error| anyhow!("{}: {error}", loaded.source.at(&["alerts"])))?.into();
        let (market, columns) = (loaded.market.clone(), Arc::new(columns));
        Ok(Self { number, detectors, alerts, market, columns, layout, flow, notify: loaded.config.notify.clone() })
    }

    /// Builds a generation from plugins in memory. Each has its name, the name of its file in messages, and its bytes.
    ///
    /// # Errors
    /// Fails like [`Generation::build`].
    pub fn embedded(
        runtime: &Runtime,
        loaded: &LoadedConfig,
        column_names: &[String],
        plugins: &[(&str, PathBuf, &[u8])],
    ) -> Result<Self> {
        Self::build(loaded, column_names, None, &mut Embedded { runtime, plugins })
    }

    /// Returns the same generation with other detectors.
    pub fn with(&self, detectors: Vec<Arc<DetectorSpec>>) -> Self {
        let (alerts, layout, notify) = (self.alerts.clone(), self.layout.clone(), self.notify.clone());
        let (market, columns) = (self.market.clone(), self.columns.clone());
        Self { number: self.number, detectors, alerts, market, columns, layout, flow: self.flow, notify }
    }

    /// Returns whether nothing but the number differs from `other`.
    pub fn is(&self, other: &Self) -> bool {
        self.alerts == other.alerts
            && self.market.fingerprint() == other.market.fingerprint()
            && self.columns == other.columns
            && self.flow == other.flow
            && self.notify == other.notify
            && self.detectors.len() == other.detectors.len()
            && self.detectors.iter().zip(&other.detectors).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Logs each detector that is new in this generation.
    pub fn log_loaded(&self) {
        for spec in self.detectors.iter().filter(|spec| spec.generation == self.number) {
            info!(
                event = "detector_loaded",
                detector = %spec.name,
                plugin = %spec.plugin.manifest.name,
                version = %spec.plugin.manifest.version,
                sha256 = &spec.plugin.sha256[..12],
                warm_up_s = spec.trial.warm_up_seconds,
                ns_per_tick = spec.trial.ns_per_tick,
                "detector loaded"
            );
        }
    }
}
