//! The set of detectors in force: a [`Generation`], immutable once made.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tracing::info;
use wildmatch::WildMatch;

use super::{
    bindings::tickhound::detector::types::Manifest,
    guest::Limits,
    health::Health,
    instance::Instance,
    params::{self, Params},
    runtime::{Plugin, Runtime},
    trial,
};
use tickhound_core::{
    config::{AlertsConfig, DetectorConfig, LoadedConfig, NotifyConfig, Source, nearest},
    wall::now_ms,
};

/// A detector that is to run: a plugin with its settings, checked.
#[derive(Debug)]
pub struct DetectorSpec {
    /// As in `[detectors.NAME]`, and in every alert.
    pub name: String,
    /// The code.
    pub plugin: Arc<Plugin>,
    /// Every parameter of the plugin.
    pub params: Params,
    /// As the configuration has them.
    pub settings: DetectorConfig,
    /// Detections below are dropped; 0..=1.
    pub min_confidence: f64,
    /// What each of its instances may use.
    pub limits: Limits,
    /// The generation that it came with as it is.
    pub generation: u64,
    /// When that was, ms since the Unix epoch.
    pub since_ms: u64,
    /// What a tick cost in its trial, ns.
    pub trial_ns_per_tick: u32,
    /// Event time that must pass for a symbol before its first detection, as the detector says.
    pub warm_up_seconds: f64,
    /// How it is doing, in all shards together.
    pub health: Health,
    /// Position in a batch of each column that the plugin asks for; `None` = optional and not there.
    pub columns: Arc<[Option<usize>]>,
    /// Patterns of the symbols it sees; `None` = all.
    symbols: Option<Vec<WildMatch>>,
    schema: u64,
    fingerprint: u64,
}

/// Plugins and settings that are in force together.
#[derive(Debug)]
pub struct Generation {
    /// Rises by one whenever something changes while the host runs; the first is 1.
    pub number: u64,
    /// Each enabled detector, in the order of their names: the order of alerts at one tick. One that a
    /// change does not concern is the same `Arc` as before.
    pub detectors: Vec<Arc<DetectorSpec>>,
    /// What is done with alerts.
    pub alerts: AlertsConfig,
    /// How much is read at once.
    pub flow: Flow,
    /// Who is told of alerts.
    pub notify: Vec<NotifyConfig>,
}

/// How much is read at once, and worked at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Most entries in one read.
    pub batch: usize,
    /// Most entries between read and commit.
    pub backlog: usize,
}

impl DetectorSpec {
    /// Whether it is to see the ticks of `symbol`.
    pub fn wants(&self, symbol: &str) -> bool {
        self.symbols.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(symbol)))
    }

    /// Whether it sees every symbol, so that batches need no filtering.
    pub fn wants_all(&self) -> bool {
        self.symbols.is_none()
    }

    /// The same, as if it had never failed.
    pub fn healed(&self) -> Self {
        let Self { name, plugin, params, settings, columns, symbols, .. } = self;
        Self {
            name: name.clone(),
            plugin: plugin.clone(),
            params: params.clone(),
            settings: settings.clone(),
            columns: columns.clone(),
            symbols: symbols.clone(),
            health: Health::default(),
            ..*self
        }
    }

    /// Hash of what must be the same for a saved state of this detector to be read again: the plugin's
    /// name and state version, and its parameters unless it says that states outlive them.
    pub fn schema(&self) -> u64 {
        self.schema
    }

    /// Hash of all that decides what it makes of the same ticks: the plugin's file, its parameters, and the host's
    /// settings that have a say in its states.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether nothing about it differs from `other`.
    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.settings == other.settings && self.runs_as(other)
    }

    /// Whether its instances can go on as those of `other`: only the host's own settings may differ.
    pub fn runs_as(&self, other: &Self) -> bool {
        self.plugin.sha256 == other.plugin.sha256
            && self.params == other.params
            && self.columns == other.columns
            && self.limits == other.limits
    }

    /// A fresh instance.
    ///
    /// # Errors
    /// The plugin's refusal of its parameters, or a fault.
    pub fn start(&self) -> Result<Instance, super::Fault> {
        Instance::new(self)
    }
}

impl Generation {
    /// Tells which detectors are new in it.
    pub fn tell(&self) {
        for spec in self.detectors.iter().filter(|spec| spec.generation == self.number) {
            info!(
                event = "detector_loaded",
                detector = %spec.name,
                plugin = %spec.plugin.manifest.name,
                version = %spec.plugin.manifest.version,
                sha256 = &spec.plugin.sha256[..12],
                warm_up_s = spec.warm_up_seconds,
                ns_per_tick = spec.trial_ns_per_tick,
                "detector loaded"
            );
        }
    }

    /// The same with other detectors.
    pub fn with(&self, detectors: Vec<Arc<DetectorSpec>>) -> Self {
        let (alerts, notify) = (self.alerts.clone(), self.notify.clone());
        Self { number: self.number, detectors, alerts, flow: self.flow, notify }
    }

    /// What the configuration asks for, every detector tried. What has not changed since `before` is
    /// the same as there.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place in the configuration.
    pub fn build(
        loaded: &LoadedConfig,
        column_names: &[String],
        before: Option<&Self>,
        mut plugin: impl FnMut(&str, Limits) -> Result<Arc<Plugin>>,
    ) -> Result<Self> {
        let limits = Limits::of(&loaded.config.plugins);
        let number = before.map_or(1, |before| before.number + 1);
        let known = before.map_or(&[][..], |before| &before.detectors);
        let mut detectors = Vec::new();
        for (name, config) in loaded.config.detectors.iter().filter(|(_, config)| config.enabled) {
            let plugin = plugin(&config.plugin, limits).with_context(|| {
                format!("{}: plugin of detector {name}", loaded.source.at(&["detectors", name, "plugin"]))
            })?;
            let mut spec = spec(name, config, plugin, column_names, limits, &loaded.source)?;
            spec.generation = number;
            if let Some(same) = known.iter().find(|other| other.is(&spec)) {
                detectors.push(same.clone());
                continue;
            }
            (spec.trial_ns_per_tick, spec.warm_up_seconds) = match known.iter().find(|other| other.runs_as(&spec)) {
                Some(tried) => (tried.trial_ns_per_tick, tried.warm_up_seconds),
                None => trial::run(&spec, column_names.len()).map_err(|error| {
                    anyhow::anyhow!("{}: detector {name} {error:#}", loaded.source.at(&["detectors", name]))
                })?,
            };
            detectors.push(Arc::new(spec));
        }
        let mut alerts = loaded.config.alerts.clone();
        if !alerts.jsonl.as_os_str().is_empty() {
            alerts.jsonl = loaded.resolve(&alerts.jsonl);
        }
        let flow = Flow { batch: loaded.config.stream.batch, backlog: loaded.config.engine.backlog };
        Ok(Self { number, detectors, alerts, flow, notify: loaded.config.notify.clone() })
    }

    /// From plugins that are in memory: name, what messages call the file, bytes.
    ///
    /// # Errors
    /// As [`Generation::build`].
    pub fn embedded(
        runtime: &Runtime,
        loaded: &LoadedConfig,
        column_names: &[String],
        plugins: &[(&str, PathBuf, &[u8])],
    ) -> Result<Self> {
        Self::build(loaded, column_names, None, |name, limits| {
            let found = plugins.iter().find(|(built_in, ..)| *built_in == name);
            let (_, file, bytes) = found.context("no such plugin is built in")?;
            runtime.compile(name, file, bytes, limits)
        })
    }

    /// Whether nothing differs from `other` but the number.
    pub fn is(&self, other: &Self) -> bool {
        self.alerts == other.alerts
            && self.flow == other.flow
            && self.notify == other.notify
            && self.detectors.len() == other.detectors.len()
            && self.detectors.iter().zip(&other.detectors).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

fn spec(
    name: &str,
    config: &DetectorConfig,
    plugin: Arc<Plugin>,
    column_names: &[String],
    limits: Limits,
    source: &Source,
) -> Result<DetectorSpec> {
    let params = params::resolve(&plugin.manifest, name, &config.params, source)?;
    let mut columns = Vec::new();
    for column in &plugin.manifest.columns {
        let position = column_names.iter().position(|known| *known == column.name);
        if position.is_none() && column.required {
            let near = nearest(&column.name, column_names.iter().map(String::as_str));
            let near = near.map(|near| format!("; did its author mean `{near}`?")).unwrap_or_default();
            bail!(
                "{}: {} needs the column `{}`, which the input does not have: define it in [input.extra]{near}",
                source.at(&["detectors", name]),
                plugin.manifest.name,
                column.name
            );
        }
        columns.push(position);
    }
    let all = config.symbols.iter().any(|pattern| pattern == "*");
    Ok(DetectorSpec {
        name: name.to_owned(),
        schema: schema(&plugin.manifest, &params),
        fingerprint: fingerprint(&plugin, &params, config),
        plugin,
        params,
        settings: config.clone(),
        min_confidence: config.min_confidence,
        limits,
        generation: 1,
        since_ms: now_ms(),
        trial_ns_per_tick: 0,
        warm_up_seconds: 0.0,
        health: Health::default(),
        columns: columns.into(),
        symbols: (!all).then(|| config.symbols.iter().map(|pattern| WildMatch::new(pattern)).collect()),
    })
}

fn schema(manifest: &Manifest, params: &Params) -> u64 {
    let params = if manifest.state_outlives_params { &[] } else { params.as_slice() };
    hash(&format!("{}\0{}\0{params:?}", manifest.name, manifest.state_version))
}

fn fingerprint(plugin: &Plugin, params: &Params, config: &DetectorConfig) -> u64 {
    let DetectorConfig { symbols, cooldown_s, min_confidence, .. } = config;
    hash(&format!("{}\0{params:?}\0{symbols:?}\0{min_confidence:?}\0{cooldown_s:?}", plugin.sha256))
}

/// The same in every release, since it is saved.
fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer"))
}
