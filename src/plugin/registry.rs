//! The set of detectors in force: a [`Generation`], immutable once made.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tracing::info;
use wildmatch::WildMatch;

use super::{
    instance::Instance,
    params::{self, Params},
    runtime::{Plugin, Runtime},
};
use crate::config::{DetectorConfig, Loaded, Source, nearest};

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
    /// Position in a batch of each column that the plugin asks for; `None` = optional and not there.
    pub columns: Arc<[Option<usize>]>,
    /// Patterns of the symbols it sees; `None` = all.
    symbols: Option<Vec<WildMatch>>,
}

/// The enabled detectors, in the order of their names: the order of alerts at one tick.
#[derive(Debug, Default)]
pub struct Generation {
    /// Each enabled detector.
    pub detectors: Vec<Arc<DetectorSpec>>,
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

    /// Hash of what must be the same for a saved state of this detector to be read again: the plugin's
    /// name and state version, and its parameters unless it says that states outlive them.
    pub fn schema(&self) -> u64 {
        let manifest = &self.plugin.manifest;
        let params = if manifest.state_outlives_params { &[] } else { self.params.as_slice() };
        let text = format!("{}\0{}\0{params:?}", manifest.name, manifest.state_version);
        let digest = Sha256::digest(text);
        u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer"))
    }

    /// A fresh instance.
    ///
    /// # Errors
    /// The plugin's refusal of its parameters, or a fault.
    pub fn start(&self) -> Result<Instance, super::Fault> {
        Instance::new(&self.plugin, &self.params, self.columns.clone())
    }
}

impl Generation {
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
        Ok(Self { detectors })
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
    let all = config.symbols.iter().any(|pattern| pattern == "*");
    Ok(DetectorSpec {
        name: name.to_owned(),
        plugin,
        params,
        min_confidence: config.min_confidence,
        columns: columns.into(),
        symbols: (!all).then(|| config.symbols.iter().map(|pattern| WildMatch::new(pattern)).collect()),
    })
}
