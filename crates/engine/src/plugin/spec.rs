//! A detector of the configuration, checked against its plugin: a [`DetectorSpec`], from which shards start instances.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::{
    check_process::TrialResult,
    columns::BatchColumns,
    facts::SymbolFacts,
    fault::Fault,
    guest::Limits,
    health::Health,
    instance::Instance,
    manifest::Manifest,
    params::{self, Params},
    probe_log::ProbeLog,
    resolve::Resolving,
    runtime::{Plugin, sha256},
    view::{Scope, View},
    wiring::Wiring,
};
use tickhound_core::{
    config::{DetectorConfig, LoadedConfig},
    event::{AlertOrigin, CODE_DIGITS},
    pattern::SymbolPattern,
    session,
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
    /// How its rows are made from batches.
    pub(super) wiring: Arc<Wiring>,
    /// What it learns about symbols.
    facts: SymbolFacts,
    /// Patterns of the symbols it sees; `None` if it sees all.
    symbols: Option<Vec<WatchedPattern>>,
    /// The first digits of the hash of all parameters, as alerts have them.
    params_hash: String,
    /// Whether it asks for times of the session.
    wants_session: bool,
    /// The fingerprint of the market, if it decides what the detector sees.
    market: Option<u64>,
    /// Where its instances write what they look at, if it is not a detector of a host.
    probe_log: Option<Arc<ProbeLog>>,
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
    /// Checks the settings of a detector against its plugin and the columns of batches, which then have its computed ones.
    pub(super) fn resolve(
        name: &str,
        config: &DetectorConfig,
        plugin: Arc<Plugin>,
        columns: &mut BatchColumns,
        loaded: &LoadedConfig,
    ) -> Result<Self> {
        let params = params::resolve(&plugin.manifest, name, &config.params, &loaded.source)?;
        let mut params_hash = sha256(params::to_json(&params).to_string().as_bytes());
        params_hash.truncate(CODE_DIGITS);
        let manifest = &plugin.manifest;
        let wiring = Resolving { detector: name, manifest, params: &params, config, loaded }.wiring(columns)?;
        let market = depends_on_market(&wiring, columns).then(|| loaded.market.fingerprint());
        let times = columns.session()..columns.session() + session::COLUMNS.len();
        let wants_session = wiring.positions().any(|position| times.contains(&position));
        let sees_all = config.symbols.iter().any(|pattern| pattern == "*");
        Ok(Self {
            name: name.to_owned(),
            schema: schema(&plugin.manifest, &params),
            fingerprint: fingerprint(&plugin, &params, config, market),
            wants_session,
            market,
            facts: SymbolFacts::Market(loaded.market.clone()),
            wiring: Arc::new(wiring),
            plugin,
            params,
            settings: config.clone(),
            min_confidence: config.min_confidence,
            limits: Limits::of(&loaded.config.plugins),
            generation: 1,
            since_ms: now_ms(),
            trial: TrialResult::default(),
            health: Health::default(),
            probe_log: None,
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

    /// Returns which rows the detector sees.
    pub fn view(&self) -> &View {
        &self.wiring.view
    }

    /// Returns whether the detector gets only some of the ticks, by its own conditions: see
    /// [`Instance::keep_waking`](super::Instance::keep_waking).
    pub fn has_wakes(&self) -> bool {
        !self.wiring.wakes.is_empty()
    }

    /// Returns the positions in a batch of the columns that the detector reads.
    pub fn batch_columns(&self) -> impl Iterator<Item = usize> {
        self.wiring.positions()
    }

    /// Returns whether the detector reads a column of `[context]`.
    pub(crate) fn reads_context(&self, columns: &BatchColumns) -> bool {
        self.batch_columns().any(|position| (columns.contexts()..columns.bars()).contains(&position))
    }

    /// Returns whether the detector asks for times of the session.
    pub(crate) fn wants_session(&self) -> bool {
        self.wants_session
    }

    /// Returns the same detector without its faults, and thus out of quarantine.
    pub fn without_faults(&self) -> Self {
        let Self { name, plugin, params, settings, wiring, facts, symbols, params_hash, .. } = self;
        Self {
            name: name.clone(),
            plugin: plugin.clone(),
            params: params.clone(),
            settings: settings.clone(),
            wiring: wiring.clone(),
            facts: facts.clone(),
            symbols: symbols.clone(),
            params_hash: params_hash.clone(),
            health: Health::default(),
            probe_log: self.probe_log.clone(),
            ..*self
        }
    }

    /// Returns the same detector under a name, with instances that write what they look at to a log, and detect nothing.
    pub fn probing(&self, name: &str, log: Arc<ProbeLog>) -> Self {
        Self { name: name.to_owned(), probe_log: Some(log), ..self.without_faults() }
    }

    /// Returns the names of the columns that the detector reads, in its order.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        let Manifest { columns, computed, .. } = &self.plugin.manifest;
        columns.iter().map(|column| column.name.as_str()).chain(computed.iter().map(|column| column.name.as_str()))
    }

    /// Returns the first digits of the hash of all parameters, as alerts have them.
    pub fn params_hash(&self) -> &str {
        &self.params_hash
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
            && self.wiring == other.wiring
            && self.market == other.market
            && self.limits == other.limits
    }

    /// Starts a new instance.
    ///
    /// # Errors
    /// Returns a fault, also if the plugin rejects its parameters.
    pub fn start(&self) -> Result<Instance, Fault> {
        self.start_with(self.facts.clone())
    }

    /// Starts a new instance for a trial, which introduces symbols that are made up.
    ///
    /// # Errors
    /// Returns a fault, also if the plugin rejects its parameters.
    pub(super) fn start_trial(&self) -> Result<Instance, Fault> {
        self.start_with(SymbolFacts::MadeUp)
    }

    fn start_with(&self, facts: SymbolFacts) -> Result<Instance, Fault> {
        let instance = Instance::start(&self.plugin, &self.params, self.wiring.clone(), facts, self.limits)?;
        Ok(match &self.probe_log {
            Some(log) => instance.with_probe_log(log.clone()),
            None => instance,
        })
    }

    /// Returns whether nothing differs from `other`.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.settings == other.settings && self.runs_as(other)
    }
}

/// Returns whether the groups, contexts and reference data decide what a detector sees.
fn depends_on_market(wiring: &Wiring, columns: &BatchColumns) -> bool {
    let mut of_market =
        wiring.positions().filter(|position| (columns.days_to_expiry()..columns.bars()).contains(position));
    wiring.view.scope == Scope::Group
        || !wiring.constants.is_empty()
        || wiring.texts.iter().any(Option::is_some)
        || of_market.next().is_some()
}

fn schema(manifest: &Manifest, params: &Params) -> u64 {
    let params = if manifest.state_outlives_params { &[] } else { params.as_slice() };
    hash(&format!("{}\0{}\0{params:?}", manifest.name, manifest.state_version))
}

fn fingerprint(plugin: &Plugin, params: &Params, config: &DetectorConfig, market: Option<u64>) -> u64 {
    let DetectorConfig { symbols, cooldown_s, min_confidence, groups, .. } = config;
    // Detectors that don't depend on the market keep the fingerprint that they have had before there was one.
    let market = market.map(|market| format!("\0{groups:?}\0{market:016x}")).unwrap_or_default();
    hash(&format!("{}\0{params:?}\0{symbols:?}\0{min_confidence:?}\0{cooldown_s:?}{market}", plugin.sha256))
}

/// Hashes a text. The hash is saved, so it must be the same in every release.
fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer"))
}
