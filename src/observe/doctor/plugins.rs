//! The plugins: each is loaded and tried as a host does it, and compared with what the running host has in force.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use super::{
    finding::Finding,
    fix::{Remedy, holds_only_compiled},
    text::size,
};
use tickhound_core::{
    config::{Config, DetectorConfig, LoadedConfig, Watch},
    decode::Decoder,
    event::column,
    receipt::{DetectorReceipt, Receipt},
};
use tickhound_engine::plugin::{
    CacheLocation, DetectorSpec, Feed, Generation, Isolation, PluginSource, Runtime, Scope, View,
    code::COMPILED_FOLDER as COMPILED,
    folder::{Folder, plugin_name},
    loader::{Compiling, next_of, with_next},
};

/// A compiled plugin that no host has used for this long is stale.
const STALE: Duration = Duration::from_secs(30 * 86_400);

/// Above this share of all workers' time, ticks queue up in a busy minute.
const LOAD_MAX: f64 = 0.5;

/// The cure for a plugin that does not load.
const REJECTED: &str = "fix the plugin, or leave the detector out with `enabled = false`; no host starts with it, and a running host keeps its detectors as they are";

/// What the inspection of the partition has shown, as far as the plugins depend on it.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionFacts {
    /// What the running host has in force; `None` if no host is running.
    pub(super) receipt: Option<Receipt>,
    /// The symbols in the newest entries.
    pub(super) symbols: BTreeSet<String>,
    pub(super) ticks_per_second: f64,
}

pub(super) fn judge(loaded: &LoadedConfig, decoder: Option<&Decoder>, facts: &PartitionFacts) -> Vec<Finding> {
    let loaded = &with_next(loaded);
    let standard = column::NAMES.map(str::to_owned);
    let columns = decoder.map_or(&standard[..], Decoder::column_names);
    let workers = loaded.config.engine.worker_count();
    let (enabled, disabled): (Vec<_>, Vec<_>) = loaded.config.detectors.iter().partition(|(_, one)| one.enabled);
    let mut findings = Vec::new();
    if enabled.is_empty() {
        let observed = "no detector is enabled, so nothing can be detected, and `tickhound run` does not start";
        findings.push(
            Finding::problem("plugins.detectors", observed).cure(
                "add a [detectors.NAME] table with plugin = \"breakout\", or set enabled = true in an existing one",
            ),
        );
    }
    let (mut busy_ns, mut market_ns) = (0, 0);
    let (folder, cache) = (Folder::of(loaded), CacheLocation::of(loaded));
    // A host makes the folder and closes it to others; a diagnosis changes nothing.
    let closed = cache.as_ref().filter(|cache| {
        fs::metadata(&cache.dir).is_ok_and(|metadata| metadata.is_dir() && metadata.mode() & 0o022 == 0)
    });
    match Runtime::new(closed, Isolation::of(&loaded.config.plugins)) {
        Err(error) => findings.push(Finding::problem("plugins.runtime", format!("{error:#}"))),
        Ok(runtime) => {
            let mut plugins = Compiling::new(&runtime, &folder);
            for (name, detector) in enabled {
                let id = format!("plugins.{name}");
                match load_alone(&mut plugins, loaded, name, detector, columns) {
                    Err(error) => findings.push(Finding::problem(id, format!("{error:#}")).cure(REJECTED)),
                    Ok(spec) => {
                        let View { scope, feeds, .. } = spec.view();
                        // Bars and snapshots are far fewer than ticks.
                        let ns = if feeds.contains(&Feed::Ticks) { u64::from(spec.trial.ns_per_tick) } else { 0 };
                        busy_ns += ns;
                        market_ns += if *scope == Scope::Market { ns } else { 0 };
                        findings.push(judge_detector(&id, &spec, loaded, facts.receipt.as_ref()));
                        findings.extend(judge_symbols(&spec, &facts.symbols));
                    }
                }
            }
        }
    }
    if !disabled.is_empty() {
        let names: Vec<&str> = disabled.iter().map(|(name, _)| name.as_str()).collect();
        findings.push(Finding::ok("plugins.off", format!("these detectors are disabled: {}", names.join(", "))));
    }
    if facts.ticks_per_second > 0.0 && busy_ns > 0 {
        findings.push(judge_load(busy_ns, facts.ticks_per_second, workers));
        findings.extend(judge_market_load(market_ns, facts.ticks_per_second));
    }
    findings.extend(unused(&folder.dir, &loaded.config));
    // In a shared folder, other programs may own the files.
    if let Some(CacheLocation { dir, .. }) = cache.filter(|cache| holds_only_compiled(&cache.dir)) {
        findings.extend(stale(&stale_files(&dir, SystemTime::now())));
    }
    findings
}

/// Loads one detector, so that each has a finding of its own.
fn load_alone(
    plugins: &mut impl PluginSource,
    loaded: &LoadedConfig,
    name: &str,
    detector: &DetectorConfig,
    columns: &[String],
) -> Result<Arc<DetectorSpec>> {
    let mut only = loaded.clone();
    only.config.detectors = [(name.to_owned(), detector.clone())].into();
    let generation = Generation::build(&only, columns, None, plugins)?;
    generation.detectors.first().cloned().context("the detector was not loaded")
}

fn judge_detector(id: &str, spec: &DetectorSpec, loaded: &LoadedConfig, receipt: Option<&Receipt>) -> Finding {
    let manifest = &spec.plugin.manifest;
    let workers = loaded.config.engine.worker_count();
    let memory = spec.start().map_or(0, |instance| instance.memory_bytes() as u64);
    let observed = format!(
        "{} {} (sha256 {}, contract {}) takes {} ns a tick in its trial, and {} of memory at the start in each of {workers} workers",
        manifest.name,
        manifest.version,
        &spec.plugin.sha256[..12],
        spec.plugin.contract(),
        spec.trial.ns_per_tick,
        size(memory)
    );
    match receipt.and_then(|receipt| differs(&spec.name, &spec.plugin.sha256, receipt)) {
        None => Finding::ok(id, observed),
        Some(how) => Finding::warning(id, format!("{observed}; {how}")).cure(match loaded.config.plugins.watch {
            Watch::Off => "restart the host, since plugins.watch is off",
            _ => "run `tickhound doctor` again: a host loads changes within two seconds; `tickhound status` shows why a change was rejected",
        }),
    }
}

/// Says how the running host's detector of this name differs from the file, if it does.
fn differs(name: &str, sha256: &str, receipt: &Receipt) -> Option<String> {
    if receipt.warming.iter().any(|warming| warming == name) {
        return None;
    }
    match receipt.detectors.iter().find(|detector| detector.name == name) {
        None => Some("the running host does not have this detector".into()),
        Some(DetectorReceipt { sha256: other, version, .. }) if other != sha256 => Some(format!(
            "the running host has another file in force: version {version}, sha256 {}",
            other.get(..12).unwrap_or(other)
        )),
        Some(_) => None,
    }
}

fn judge_symbols(spec: &DetectorSpec, sample: &BTreeSet<String>) -> Option<Finding> {
    if spec.wants_all() || sample.is_empty() {
        return None;
    }
    let matching = sample.iter().filter(|symbol| spec.wants(symbol)).count();
    let (id, all) = (format!("plugins.{}.symbols", spec.name), sample.len());
    let patterns = &spec.settings.symbols;
    let observed = format!("symbols = {patterns:?} matches {matching} of the {all} symbols in the newest entries");
    if matching > 0 {
        return Some(Finding::ok(id, observed));
    }
    let examples: Vec<&str> = sample.iter().take(3).map(String::as_str).collect();
    Some(Finding::warning(id, observed).cure(format!(
        "correct detectors.{}.symbols, for example to {}",
        spec.name,
        examples.join(", ")
    )))
}

fn judge_load(busy_ns: u64, ticks_per_second: f64, workers: usize) -> Finding {
    let share = busy_ns as f64 * ticks_per_second / 1e9 / workers as f64;
    let observed = format!(
        "all detectors together take {busy_ns} ns a tick, which is {:.1} % of {workers} workers' time at {ticks_per_second:.0} ticks a second",
        share * 100.0
    );
    if share <= LOAD_MAX {
        return Finding::ok("plugins.load", observed);
    }
    Finding::warning("plugins.load", observed)
        .cure("raise engine.workers up to the number of cores, or narrow the detectors' symbols; `tickhound bench` shows what a detector costs")
}

/// Judges the one thread that has the state of the whole market.
fn judge_market_load(market_ns: u64, ticks_per_second: f64) -> Option<Finding> {
    let share = market_ns as f64 * ticks_per_second / 1e9;
    if market_ns == 0 {
        return None;
    }
    let observed = format!(
        "detectors of scope market take {market_ns} ns a tick, which is {:.1} % of their one thread at {ticks_per_second:.0} \
         ticks a second",
        share * 100.0
    );
    if share <= LOAD_MAX {
        return Some(Finding::ok("plugins.market", observed));
    }
    let cure = "narrow their symbols, or give them bars or snapshots instead of ticks; more workers do not help";
    Some(Finding::warning("plugins.market", observed).cure(cure))
}

fn unused(dir: &Path, config: &Config) -> Option<Finding> {
    let used: BTreeSet<&str> = config.detectors.values().map(|detector| detector.plugin.as_str()).collect();
    let files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = files
        .filter_map(|path| plugin_name(&path).map(str::to_owned))
        .filter(|name| !used.contains(name.as_str()))
        .collect();
    names.sort();
    let first = names.first()?;
    Some(
        Finding::note("plugins.unused", format!("no detector uses these plugins: {}", names.join(", ")))
            .cure(format!("{}, or move the file away", use_for(first, config))),
    )
}

/// How a plugin that no detector uses would be used.
fn use_for(plugin: &str, config: &Config) -> String {
    let live = |of: &str| {
        let mut live = config.detectors.iter().filter(|(_, one)| one.plugin == of && one.enabled);
        live.find(|(_, one)| one.shadow_of.is_empty()).map(|(name, one)| (name.clone(), one.sha256.is_empty()))
    };
    match next_of(plugin).map(|of| (of, live(of))) {
        None => format!("add [detectors.{plugin}] with plugin = \"{plugin}\" to the configuration"),
        Some((_, Some((name, true)))) => {
            format!("plugins.allow_next = true makes {plugin}.wasm a shadow of {name}")
        }
        Some((_, Some((name, false)))) => format!(
            "{name} is pinned by sha256, so it has no automatic shadow: add [detectors.{name}-next] with plugin = \
             \"{plugin}\", shadow_of = \"{name}\" and the sha256 of {plugin}.wasm"
        ),
        Some((of, None)) => {
            format!("{plugin}.wasm is the next version of {of}.wasm, which no enabled detector uses: enable one")
        }
    }
}

/// Returns the compiled plugins that have not been used lately. A host records a use, within a day, as the file's time
/// of modification. Older hosts left that to wasmtime, which writes a `.stats` file beside a file that it uses.
fn stale_files(cache: &Path, now: SystemTime) -> Vec<PathBuf> {
    let entries =
        |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let files = entries(&cache.join(COMPILED)).into_iter().flat_map(|dir| entries(&dir));
    let old = |path: &Path| match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(written) => now.duration_since(written).is_ok_and(|age| age > STALE),
        Err(_) => true,
    };
    let stats =
        |path: &Path| path.with_file_name(format!("{}.stats", path.file_name().unwrap_or_default().to_string_lossy()));
    files.filter(|path| path.is_file() && old(path) && (path.extension().is_some() || old(&stats(path)))).collect()
}

fn stale(files: &[PathBuf]) -> Option<Finding> {
    let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum();
    let observed =
        format!("{} files of compiled plugins ({}) have not been used for 30 days", files.len(), size(bytes));
    (!files.is_empty()).then(|| {
        Finding::note("plugins.cache", observed)
            .cure("delete these files; a plugin that is needed again is compiled again")
            .remedy(Remedy::StaleFiles(files.to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;

    #[test]
    fn a_host_with_another_plugin_in_force_is_reported() {
        let detector = |name: &str, sha256: &str| DetectorReceipt {
            name: name.into(),
            sha256: sha256.into(),
            ..DetectorReceipt::default()
        };
        let receipt = Receipt {
            detectors: vec![detector("a", "11"), detector("b", "22")],
            warming: vec!["w".into()],
            ..Receipt::default()
        };
        assert_eq!(differs("a", "11", &receipt), None);
        assert!(differs("b", "33", &receipt).unwrap().contains("another file"));
        assert!(differs("c", "33", &receipt).unwrap().contains("does not have this detector"));
        assert_eq!(differs("w", "33", &receipt), None);
    }

    /// The cure was a table [detectors.breakout.next], which is one of another kind.
    #[test]
    fn a_next_version_that_is_not_used_has_a_cure_that_works() {
        let mut config = Config::default();
        assert!(use_for("breakout", &config).starts_with("add [detectors.breakout] with plugin = \"breakout\""));
        assert!(use_for("breakout.next", &config).contains("no enabled detector uses"));
        let mut detector = DetectorConfig { plugin: "breakout".into(), ..DetectorConfig::default() };
        config.detectors.insert("mine".into(), detector.clone());
        let cure = use_for("breakout.next", &config);
        assert_eq!(cure, "plugins.allow_next = true makes breakout.next.wasm a shadow of mine");
        detector.sha256 = "0".repeat(64);
        config.detectors.insert("mine".into(), detector);
        let cure = use_for("breakout.next", &config);
        assert!(cure.contains("pinned") && cure.contains("shadow_of = \"mine\""), "{cure}");
    }

    #[test]
    fn load_is_judged_by_the_workers_time() {
        // 2 us a tick, 100,000 ticks a second: a fifth of one core.
        assert_eq!(judge_load(2_000, 100_000.0, 1).level, Level::Ok);
        assert_eq!(judge_load(2_000, 400_000.0, 1).level, Level::Warning);
        assert_eq!(judge_load(2_000, 400_000.0, 4).level, Level::Ok);
    }

    #[test]
    fn what_sees_the_market_is_judged_by_one_thread() {
        assert_eq!(judge_market_load(0, 100_000.0).map(|finding| finding.level), None);
        assert_eq!(judge_market_load(2_000, 100_000.0).map(|finding| finding.level), Some(Level::Ok));
        assert_eq!(judge_market_load(2_000, 400_000.0).map(|finding| finding.level), Some(Level::Warning));
    }

    #[test]
    fn only_compiled_plugins_that_nothing_has_used_for_long_are_stale() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("modules/compiler");
        fs::create_dir_all(&dir).unwrap();
        let now = SystemTime::now();
        let long_ago = now - STALE - Duration::from_secs(60);
        for (name, at) in
            [("old", long_ago), ("old.stats", long_ago), ("used", long_ago), ("used.stats", now), ("new", now)]
        {
            let file = fs::File::create(dir.join(name)).unwrap();
            file.set_modified(at).unwrap();
        }
        fs::write(cache.path().join("not-ours"), "").unwrap();
        let mut stale = stale_files(cache.path(), now);
        stale.sort();
        assert_eq!(stale, [dir.join("old"), dir.join("old.stats")]);
    }
}
