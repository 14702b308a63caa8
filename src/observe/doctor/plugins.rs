//! The plugins: each loaded and tried as a host does it, compared with what the running host has in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow};

use super::{
    Finding,
    fix::{Remedy, holds_only_compiled},
    size,
    stream::Sample,
};
use tickhound_core::{
    config::{DetectorConfig, LoadedConfig, Watch},
    decode::Decoder,
    event::column,
    receipt::{DetectorReceipt, Receipt},
};
use tickhound_engine::plugin::{
    DetectorSpec, Generation, Plugin, Runtime,
    code::FOLDER as COMPILED,
    folder::{Folder, plugin_name},
    loader::with_next,
    runtime::CONTRACT_VERSION,
};

/// A compiled plugin that no start has used for so long is of no use.
const STALE: Duration = Duration::from_secs(30 * 86_400);

/// Above this share of all workers' time, a busy minute makes ticks wait.
const BUSY: f64 = 0.5;

/// What the rest of the examination knows.
#[derive(Clone, Copy, Default)]
pub(super) struct Known<'a> {
    pub(super) decoder: Option<&'a Decoder>,
    /// Of the running host.
    pub(super) receipt: Option<&'a Receipt>,
    pub(super) sample: Option<&'a Sample>,
    pub(super) ticks_per_second: f64,
}

pub(super) fn judge(loaded: &LoadedConfig, known: Known<'_>) -> Vec<Finding> {
    let loaded = &with_next(loaded);
    let workers = loaded.config.engine.worker_count();
    let mut findings = Vec::new();
    let (on, off): (Vec<_>, Vec<_>) = loaded.config.detectors.iter().partition(|(_, detector)| detector.enabled);
    if on.is_empty() {
        let found = "no detector is switched on, so nothing would be detected, and `run` does not start";
        findings.push(
            Finding::problem("plugins.detectors", found)
                .cure("a [detectors.NAME] table with plugin = \"breakout\", or enabled = true in one that is there"),
        );
    }
    let standard = column::NAMES.map(str::to_owned);
    let columns = known.decoder.map_or(&standard[..], Decoder::column_names);
    let mut busy_ns = 0;
    match Bench::new(loaded) {
        Err(error) => findings.push(Finding::problem("plugins.runtime", format!("{error:#}"))),
        Ok(mut bench) => {
            for (name, detector) in on {
                let id = format!("plugins.{name}");
                match bench.load(loaded, name, detector, columns) {
                    Err(error) => findings.push(Finding::problem(id, format!("{error:#}")).cure("a host does not start with it; one that runs goes on with what it has. `enabled = false` leaves it out")),
                    Ok(spec) => {
                        busy_ns += u64::from(spec.trial_ns_per_tick);
                        findings.push(judge_detector(&id, &spec, workers, loaded.config.plugins.watch, known.receipt));
                        findings.extend(known.sample.and_then(|sample| symbols(&spec, &sample.symbols)));
                    }
                }
            }
        }
    }
    if !off.is_empty() {
        let names: Vec<&str> = off.iter().map(|(name, _)| name.as_str()).collect();
        findings.push(Finding::ok("plugins.off", format!("switched off: {}", names.join(", "))));
    }
    if known.ticks_per_second > 0.0 && busy_ns > 0 {
        findings.push(load(busy_ns, known.ticks_per_second, workers));
    }
    let folder = Folder::of(loaded);
    findings.extend(unused(&folder.dir, loaded.config.detectors.values()));
    // Without a folder of its own (`cache = ""`), or in one that is shared, files may be anybody's.
    let cache = cache(loaded);
    if holds_only_compiled(&cache) {
        findings.extend(stale(&stale_files(&cache, SystemTime::now())));
    }
    findings
}

/// Loads detectors one by one, so that each has a verdict of its own.
struct Bench {
    runtime: Runtime,
    folder: Folder,
    plugins: BTreeMap<String, Arc<Plugin>>,
}

impl Bench {
    fn new(loaded: &LoadedConfig) -> Result<Self> {
        let cache = cache(loaded);
        // What anybody could have put there must not run here, and making the folder is the host's business.
        let trusted = fs::metadata(&cache).is_ok_and(|found| found.is_dir() && found.mode() & 0o022 == 0);
        let used = trusted && !loaded.config.plugins.cache.as_os_str().is_empty();
        let runtime = Runtime::new(used.then_some(cache.as_path()))?;
        Ok(Self { runtime, folder: Folder::of(loaded), plugins: BTreeMap::new() })
    }

    fn load(
        &mut self,
        loaded: &LoadedConfig,
        name: &str,
        detector: &DetectorConfig,
        columns: &[String],
    ) -> Result<Arc<DetectorSpec>> {
        let mut only = loaded.clone();
        only.config.detectors = [(name.to_owned(), detector.clone())].into();
        let Self { runtime, folder, plugins } = self;
        let generation = Generation::build(&only, columns, None, |plugin, limits| {
            if let Some(known) = plugins.get(plugin) {
                return Ok(known.clone());
            }
            let bytes = folder.read(plugin)?;
            let file = folder.file(plugin);
            let compiled = runtime.compile(plugin, &file, &bytes, limits);
            let compiled = compiled.with_context(|| format!("refused {}", file.display()))?;
            plugins.insert(plugin.to_owned(), compiled.clone());
            Ok(compiled)
        })?;
        generation.detectors.first().cloned().ok_or_else(|| anyhow!("it is not there"))
    }
}

fn cache(loaded: &LoadedConfig) -> PathBuf {
    loaded.resolve(&loaded.config.plugins.dir).join(&loaded.config.plugins.cache)
}

fn judge_detector(id: &str, spec: &DetectorSpec, workers: usize, watch: Watch, receipt: Option<&Receipt>) -> Finding {
    let manifest = &spec.plugin.manifest;
    let memory = spec.start().map_or(0, |instance| instance.memory_bytes() as u64);
    let found = format!(
        "{} {} (sha256 {}, contract {CONTRACT_VERSION}): {} ns a tick in its trial, {} at its start in each of {workers} workers",
        manifest.name,
        manifest.version,
        &spec.plugin.sha256[..12],
        spec.trial_ns_per_tick,
        size(memory)
    );
    match receipt.and_then(|receipt| differs(&spec.name, &spec.plugin.sha256, receipt)) {
        None => Finding::ok(id, found),
        Some(how) => Finding::warning(id, format!("{found}; {how}")).cure(match watch {
            Watch::Off => "plugins.watch is off: restart the host",
            _ => "a host takes up changes within a second or two; if it stays so, `tickhound status` shows why it was refused",
        }),
    }
}

/// How the running host's detector of this name is another one.
fn differs(name: &str, sha256: &str, receipt: &Receipt) -> Option<String> {
    if receipt.warming.iter().any(|warming| warming == name) {
        return None;
    }
    match receipt.detectors.iter().find(|detector| detector.name == name) {
        None => Some("the running host does not have it".into()),
        Some(DetectorReceipt { sha256: other, version, .. }) if other != sha256 => Some(format!(
            "the running host has another file in force: version {version}, sha256 {}",
            other.get(..12).unwrap_or(other)
        )),
        Some(_) => None,
    }
}

fn symbols(spec: &DetectorSpec, sample: &BTreeSet<String>) -> Option<Finding> {
    if spec.wants_all() || sample.is_empty() {
        return None;
    }
    let wanted = sample.iter().filter(|symbol| spec.wants(symbol)).count();
    let (id, all) = (format!("plugins.{}.symbols", spec.name), sample.len());
    let found =
        format!("symbols = {:?} match {wanted} of the {all} symbols in the newest entries", spec.settings.symbols);
    let some: Vec<&str> = sample.iter().take(3).map(String::as_str).collect();
    Some(match wanted {
        0 => Finding::warning(id, found).cure(format!(
            "mend detectors.{}.symbols (names are upper case and without exchange); there are e.g. {}",
            spec.name,
            some.join(", ")
        )),
        _ => Finding::ok(id, found),
    })
}

fn load(busy_ns: u64, ticks_per_second: f64, workers: usize) -> Finding {
    let share = busy_ns as f64 * ticks_per_second / 1e9 / workers as f64;
    let found = format!(
        "{busy_ns} ns a tick for all detectors: {:.1} % of {workers} workers' time at {ticks_per_second:.0} ticks a second",
        share * 100.0
    );
    match share > BUSY {
        true => Finding::warning("plugins.load", found)
            .cure("more engine.workers, up to the number of cores; narrower `symbols`; `tickhound bench` tells which detector is dear"),
        false => Finding::ok("plugins.load", found),
    }
}

fn unused<'a>(dir: &Path, detectors: impl Iterator<Item = &'a DetectorConfig>) -> Option<Finding> {
    let used: BTreeSet<&str> = detectors.map(|detector| detector.plugin.as_str()).collect();
    let files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = files
        .filter_map(|path| plugin_name(&path).map(str::to_owned))
        .filter(|name| !used.contains(name.as_str()))
        .collect();
    names.sort();
    let first = names.first()?;
    Some(
        Finding::note("plugins.unused", format!("no detector uses {}", names.join(", ")))
            .cure(format!("[detectors.{first}] with plugin = \"{first}\", or move the file away")),
    )
}

/// Compiled plugins that were not used of late. A use is noted as the file's time of writing, within a day. Older hosts
/// left it to wasmtime, which writes a `.stats` beside what was used.
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
    let found = format!("{} files of compiled plugins ({}) were not used for 30 days", files.len(), size(bytes));
    (!files.is_empty()).then(|| {
        Finding::note("plugins.cache", found)
            .cure("remove them: what is missing is compiled again")
            .remedy(Remedy::Stale(files.to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;

    #[test]
    fn a_host_that_runs_something_else_is_told() {
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
        assert!(differs("c", "33", &receipt).unwrap().contains("does not have it"));
        assert_eq!(differs("w", "33", &receipt), None);
    }

    #[test]
    fn load_is_judged_by_the_workers_time() {
        // 2 us a tick, 100,000 ticks a second: a fifth of one core.
        assert_eq!(load(2_000, 100_000.0, 1).level, Level::Ok);
        assert_eq!(load(2_000, 400_000.0, 1).level, Level::Warning);
        assert_eq!(load(2_000, 400_000.0, 4).level, Level::Ok);
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
        let mut found = stale_files(cache.path(), now);
        found.sort();
        assert_eq!(found, [dir.join("old"), dir.join("old.stats")]);
    }
}
