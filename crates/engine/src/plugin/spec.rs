//! A detector of the configuration, checked against its plugin: a [`DetectorSpec`], from which shards start instances.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::{
    bindings::tickhound::detector::types::Manifest,
    check_process::TrialResult,
    fault::Fault,
    guest::Limits,
    health::Health,
    instance::Instance,
    params::{self, Params},
    runtime::{Plugin, sha256},
};
use tickhound_core::{
    config::{DetectorConfig, LoadedConfig, nearest},
    event::{AlertOrigin, CODE_DIGITS},
    pattern::SymbolPattern,
    session::COLUMNS,
    wall::now_ms,
};

/// A plugin with its checked settings.
#[derive(Debug)]
pub struct DetectorSpec {
    /// The name in `[detectors.NAME]`, which is also in every alert.
    pub name: String,
    /// The code.
    pub plugin: Arc<Plugin>,
    /// Every parameter of the plugin.
    pub params: Params,
    /// The settings in the configuration.
    pub settings: DetectorConfig,
    /// The minimum confidence, in 0..=1. Detections below it are dropped.
    pub min_confidence: f64,
    /// The limits of each instance.
    pub limits: Limits,
    /// The generation since which this detector has been unchanged.
    pub generation: u64,
    /// When that generation was built, ms since the Unix epoch.
    pub since_ms: u64,
    /// The cost of a tick, and the time that must pass for a symbol before its first detection.
    pub trial: TrialResult,
    /// The health of all its instances together.
    pub health: Health,
    /// The position in a batch of each column that the plugin asks for; `None` for an optional column that the input
    /// lacks. Those with times of the session follow those of the input.
    pub columns: Arc<[Option<usize>]>,
    /// Patterns of the symbols it sees; `None` if it sees all.
    symbols: Option<Vec<WatchedPattern>>,
    /// The first digits of the hash of all parameters, as alerts have them.
    params_hash: String,
    /// Whether it asks for times of the session.
    wants_session: bool,
    schema: u64,
    fingerprint: u64,
}

/// A pattern of symbols, and whether it has matched one.
#[derive(Debug)]
struct WatchedPattern {
    pattern: SymbolPattern,
    has_matched: AtomicBool,
}

impl WatchedPattern {
    fn new(pattern: &str) -> Self {
        Self { pattern: SymbolPattern::new(pattern), has_matched: AtomicBool::new(false) }
    }

    fn matches(&self, symbol: &str) -> bool {
        let matches = self.pattern.matches(symbol);
        if matches {
            self.has_matched.store(true, Relaxed);
        }
        matches
    }
}

impl Clone for WatchedPattern {
    fn clone(&self) -> Self {
        Self { pattern: self.pattern.clone(), has_matched: AtomicBool::new(self.has_matched.load(Relaxed)) }
    }
}

impl DetectorSpec {
    /// Checks the settings of a detector against its plugin and the columns of the input.
    pub(super) fn resolve(
        name: &str,
        config: &DetectorConfig,
        plugin: Arc<Plugin>,
        column_names: &[String],
        loaded: &LoadedConfig,
    ) -> Result<Self> {
        let params = params::resolve(&plugin.manifest, name, &config.params, &loaded.source)?;
        let mut params_hash = sha256(params::to_json(&params).to_string().as_bytes());
        params_hash.truncate(CODE_DIGITS);
        let columns = positions(name, &plugin.manifest, column_names, loaded)?;
        let sees_all = config.symbols.iter().any(|pattern| pattern == "*");
        Ok(Self {
            name: name.to_owned(),
            schema: schema(&plugin.manifest, &params),
            fingerprint: fingerprint(&plugin, &params, config),
            wants_session: columns.iter().flatten().any(|position| *position >= column_names.len()),
            columns: columns.into(),
            plugin,
            params,
            settings: config.clone(),
            min_confidence: config.min_confidence,
            limits: Limits::of(&loaded.config.plugins),
            generation: 1,
            since_ms: now_ms(),
            trial: TrialResult::default(),
            health: Health::default(),
            params_hash,
            symbols: (!sees_all).then(|| config.symbols.iter().map(|text| WatchedPattern::new(text)).collect()),
        })
    }

    /// Returns whether the detector sees the ticks of `symbol`.
    pub fn wants(&self, symbol: &str) -> bool {
        let Some(patterns) = &self.symbols else { return true };
        // All of them are tried, so that each knows whether it has matched.
        patterns.iter().filter(|pattern| pattern.matches(symbol)).count() > 0
    }

    /// Returns the patterns that have matched none of the symbols that [`Self::wants`] was asked about.
    pub fn unmatched(&self) -> impl Iterator<Item = &str> {
        let patterns = self.symbols.iter().flatten();
        patterns.filter(|watched| !watched.has_matched.load(Relaxed)).map(|watched| watched.pattern.text())
    }

    /// Returns whether the detector sees every symbol, so that batches need no filter.
    pub fn wants_all(&self) -> bool {
        self.symbols.is_none()
    }

    /// What an alert of the generation of this number says about its code.
    pub(crate) fn alert_origin(&self, generation: u64) -> AlertOrigin {
        let sha256 = &self.plugin.sha256;
        AlertOrigin {
            sha256: sha256.get(..CODE_DIGITS).unwrap_or(sha256).to_owned(),
            params_hash: self.params_hash.clone(),
            generation,
            reference: String::new(),
        }
    }

    /// Returns whether the detector asks for times of the session.
    pub(crate) fn wants_session(&self) -> bool {
        self.wants_session
    }

    /// Returns the same detector without its faults, and thus out of quarantine.
    pub fn without_faults(&self) -> Self {
        let Self { name, plugin, params, settings, columns, symbols, params_hash, .. } = self;
        Self {
            name: name.clone(),
            plugin: plugin.clone(),
            params: params.clone(),
            settings: settings.clone(),
            columns: columns.clone(),
            symbols: symbols.clone(),
            params_hash: params_hash.clone(),
            health: Health::default(),
            ..*self
        }
    }

    /// Returns the hash of everything that must be equal for a saved state to be restored: the plugin's name and state
    /// version, and the parameters unless the plugin says that its states outlive them.
    pub fn schema(&self) -> u64 {
        self.schema
    }

    /// Returns the hash of everything that decides what the detector makes of the same ticks: the plugin's file, its
    /// parameters, and the host's settings that affect its states.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Returns whether instances of `other` can continue as instances of this detector: only the host's own settings
    /// may differ.
    pub(crate) fn runs_as(&self, other: &Self) -> bool {
        self.plugin.sha256 == other.plugin.sha256
            && self.params == other.params
            && self.columns == other.columns
            && self.limits == other.limits
    }

    /// Starts a new instance.
    ///
    /// # Errors
    /// Returns a fault, also if the plugin rejects its parameters.
    pub fn start(&self) -> Result<Instance, Fault> {
        Instance::start(&self.plugin, &self.params, self.columns.clone(), self.limits)
    }

    /// Returns whether nothing differs from `other`.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.settings == other.settings && self.runs_as(other)
    }
}

fn positions(
    detector: &str,
    manifest: &Manifest,
    column_names: &[String],
    loaded: &LoadedConfig,
) -> Result<Vec<Option<usize>>> {
    let mut positions = Vec::new();
    for column in &manifest.columns {
        let of_input = column_names.iter().position(|name| *name == column.name);
        let of_session = || COLUMNS.iter().position(|name| *name == column.name).map(|at| column_names.len() + at);
        let position = of_input.or_else(of_session);
        if position.is_none() && column.required {
            let near = nearest(&column.name, column_names.iter().map(String::as_str));
            let near = near.map(|near| format!("; did its author mean `{near}`?")).unwrap_or_default();
            bail!(
                "{}: {} needs the column `{}`, which the input does not have: define it in [input.extra]{near}",
                loaded.source.at(&["detectors", detector]),
                manifest.name,
                column.name
            );
        }
        positions.push(position);
    }
    Ok(positions)
}

fn schema(manifest: &Manifest, params: &Params) -> u64 {
    let params = if manifest.state_outlives_params { &[] } else { params.as_slice() };
    hash(&format!("{}\0{}\0{params:?}", manifest.name, manifest.state_version))
}

fn fingerprint(plugin: &Plugin, params: &Params, config: &DetectorConfig) -> u64 {
    let DetectorConfig { symbols, cooldown_s, min_confidence, .. } = config;
    hash(&format!("{}\0{params:?}\0{symbols:?}\0{min_confidence:?}\0{cooldown_s:?}", plugin.sha256))
}

/// Hashes a text. The hash is saved, so it must be the same in every release.
fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer"))
}
