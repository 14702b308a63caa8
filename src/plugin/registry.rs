//! The set of detectors in force: a [`Generation`], immutable once made.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tracing::info;
use wildmatch::WildMatch;

use super::{
    guest::Limits,
    health::Health,
    instance::Instance,
    params::{self, Params},
    runtime::{Plugin, Runtime},
};
use crate::config::{AlertsConfig, DetectorConfig, Loaded, Source, nearest};

/// A detector that is to run: a plugin with its settings, checked.
#[derive(Debug)]
pub struct DetectorSpec {
    /// As in `[detectors.NAME]`, and in every alert.
    pub name: String,
    /// The code.
    pub plugin: Arc<Plugin>,
    /// Every parameter of the plugin.
    pub params: Params,
    /// Detections below are dropped; 0..=1.
    pub min_confidence: f64,
    /// What each of its instances may use.
    pub limits: Limits,
    /// The generation that it came with as it is.
    pub generation: u64,
    /// When that was, ms since the Unix epoch.
    pub since_ms: u64,
    /// How often it has failed lately, in all shards.
    pub health: Health,
    /// Position in a batch of each column that the plugin asks for; `None` = optional and not there.
    pub columns: Arc<[Option<usize>]>,
    /// Patterns of the symbols it sees; `None` = all.
    symbols: Option<Vec<WildMatch>>,
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
        let Self { name, plugin, params, columns, symbols, .. } = self;
        Self {
            name: name.clone(),
            plugin: plugin.clone(),
            params: params.clone(),
            columns: columns.clone(),
            symbols: symbols.clone(),
            health: Health::default(),
            ..*self
        }
    }

    /// Hash of what must be the same for a saved state of this detector to be read again: the plugin's
    /// name and state version, and its parameters unless it says that states outlive them.
    pub fn schema(&self) -> u64 {
        let manifest = &self.plugin.manifest;
        let params = if manifest.state_outlives_params { &[] } else { self.params.as_slice() };
        let text = format!("{}\0{}\0{params:?}", manifest.name, manifest.state_version);
        let digest = Sha256::digest(text);
        u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer"))
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
    /// The same with other detectors.
    pub fn with(&self, detectors: Vec<Arc<DetectorSpec>>) -> Self {
        Self { number: self.number, detectors, alerts: self.alerts.clone() }
    }

    /// Loads every plugin that an enabled detector names, and starts each detector once to see that it does.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place in the configuration.
    pub fn load(runtime: &Runtime, loaded: &Loaded, column_names: &[String]) -> Result<Self> {
        let dir = loaded.resolve(&loaded.config.plugins.dir);
        Self::build(loaded, column_names, |name| runtime.load(&dir, name))
    }

    /// As [`Generation::load`], from plugins that are in memory: name, what messages call the file, bytes.
    ///
    /// # Errors
    /// As [`Generation::load`].
    pub fn embedded(
        runtime: &Runtime,
        loaded: &Loaded,
        column_names: &[String],
        plugins: &[(&str, PathBuf, &[u8])],
    ) -> Result<Self> {
        Self::build(loaded, column_names, |name| {
            let found = plugins.iter().find(|(built_in, ..)| *built_in == name);
            let (_, file, bytes) = found.context("no such plugin is built in")?;
            runtime.compile(name, file, bytes)
        })
    }

    fn build(
        loaded: &Loaded,
        column_names: &[String],
        mut load: impl FnMut(&str) -> Result<Arc<Plugin>>,
    ) -> Result<Self> {
        let mut plugins: BTreeMap<&str, Arc<Plugin>> = BTreeMap::new();
        let mut detectors = Vec::new();
        for (name, config) in loaded.config.detectors.iter().filter(|(_, config)| config.enabled) {
            let plugin = match plugins.get(config.plugin.as_str()) {
                Some(plugin) => plugin.clone(),
                None => {
                    let at = loaded.source.at(&["detectors", name, "plugin"]);
                    let plugin = load(&config.plugin).with_context(|| format!("{at}: plugin of detector {name}"))?;
                    plugins.insert(&config.plugin, plugin.clone());
                    plugin
                }
            };
            let spec = spec(name, config, plugin, column_names, &loaded.source)?;
            let instance = spec.start().map_err(|fault| {
                anyhow::anyhow!("{}: detector {name} does not start: {fault}", loaded.source.at(&["detectors", name]))
            })?;
            info!(
                detector = %name,
                plugin = %spec.plugin.manifest.name,
                version = %spec.plugin.manifest.version,
                sha256 = &spec.plugin.sha256[..12],
                warm_up_s = instance.warm_up_seconds,
                "detector loaded"
            );
            detectors.push(Arc::new(spec));
        }
        let mut alerts = loaded.config.alerts.clone();
        if !alerts.jsonl.as_os_str().is_empty() {
            alerts.jsonl = loaded.resolve(&alerts.jsonl);
        }
        Ok(Self { number: 1, detectors, alerts })
    }
}

fn spec(
    name: &str,
    config: &DetectorConfig,
    plugin: Arc<Plugin>,
    column_names: &[String],
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
    let limits = plugin.limits();
    let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let all = config.symbols.iter().any(|pattern| pattern == "*");
    Ok(DetectorSpec {
        name: name.to_owned(),
        plugin,
        params,
        min_confidence: config.min_confidence,
        limits,
        generation: 1,
        since_ms,
        health: Health::default(),
        columns: columns.into(),
        symbols: (!all).then(|| config.symbols.iter().map(|pattern| WildMatch::new(pattern)).collect()),
    })
}
