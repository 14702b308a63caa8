//! Builds generations from the configuration and the plugins folder, at the start and on each change.
//!
//! What holds: a generation is complete. If any part of a change can't be used, the whole change is rejected, and the
//! previous generation stays in force.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, ensure};
use tracing::warn;

use super::{
    check_process::{Isolation, TrialResult},
    code::CacheLocation,
    columns::BatchColumns,
    digest::sha256,
    folder::Folder,
    generation::{Generation, PluginSource},
    guest::Limits,
    runtime::{Plugin, Runtime},
    spec::DetectorSpec,
    trial,
    trial_rows::TrialRows,
};
use tickhound_core::{
    config::{self, ChangedKey, DetectorConfig, LoadedConfig, NEXT_VERSION},
    market::Market,
};

/// Reads and checks those parts of a configuration that the engine does not know: reference data, of which the market of before
/// may have what is unchanged, and notification channels. The program hands it in, and each load calls it before it builds
/// anything.
pub type Complete = fn(&mut LoadedConfig, Option<&Market>) -> Result<()>;

/// Loads the first generation, and each later one on a change.
pub struct Loader {
    runtime: Runtime,
    /// The configuration in force. Keys that need a restart keep their values from the start.
    loaded: LoadedConfig,
    column_names: Vec<String>,
    newest: Arc<Generation>,
    complete: Complete,
    needs_restart: Vec<String>,
    /// The files of reference data of the configuration that was read last, whether it is in force or not.
    reference_files: Vec<PathBuf>,
}

impl Loader {
    /// Loads the first generation.
    ///
    /// # Errors
    /// Names the first problem, with its position and what to do.
    pub fn start(
        loaded: &LoadedConfig,
        column_names: &[String],
        complete: Complete,
        isolation: Isolation,
    ) -> Result<Self> {
        let mut loaded = loaded.clone();
        let market = loaded.market.clone();
        complete(&mut loaded, Some(&market))?;
        let runtime = Runtime::new(CacheLocation::of(&loaded).as_ref(), isolation)?;
        let newest = Arc::new(build_first(&runtime, &loaded, column_names, &Folder::of(&loaded))?);
        newest.log_loaded();
        let column_names = column_names.to_vec();
        let reference_files = reference_files(&loaded);
        Ok(Self { runtime, loaded, column_names, newest, complete, needs_restart: Vec::new(), reference_files })
    }

    /// Returns the newest generation.
    pub fn newest(&self) -> &Arc<Generation> {
        &self.newest
    }

    /// Returns the changed keys that are only read at the start, such as `stream.key`.
    pub fn needs_restart(&self) -> &[String] {
        &self.needs_restart
    }

    /// Returns the configuration file.
    pub fn config_file(&self) -> &Path {
        self.loaded.source.file()
    }

    /// Returns the plugins folder.
    pub(crate) fn plugins_dir(&self) -> PathBuf {
        self.loaded.resolve(&self.loaded.config.plugins.dir)
    }

    /// Returns the files of reference data, those of a rejected configuration if that was read last.
    pub(crate) fn reference_files(&self) -> &[PathBuf] {
        &self.reference_files
    }

    /// Returns whether next versions of plugins start shadows.
    pub fn allows_next(&self) -> bool {
        self.loaded.config.plugins.allow_next
    }

    /// Returns whether an enabled detector uses the plugin.
    pub fn uses(&self, plugin: &str) -> bool {
        with_next(&self.loaded).config.detectors.values().any(|detector| detector.enabled && detector.plugin == plugin)
    }

    /// Loads configuration and plugins again, and returns whether that made a newer generation.
    ///
    /// # Errors
    /// Names the first problem. The newest generation then stays the same.
    pub fn reload(&mut self) -> Result<bool> {
        let mut read = config::load(self.config_file(), config::environment())?;
        let (merged, differ) = config::merge(&self.loaded.config, &read.config)?;
        read.config = merged;
        self.reference_files = reference_files(&read);
        (self.complete)(&mut read, Some(&self.loaded.market))?;
        let next = build(&self.runtime, &read, &self.column_names, Some(&self.newest), &Folder::of(&read))?;
        self.needs_restart = self.report_needs_restart(differ, &read);
        self.loaded = read;
        let is_newer = !next.is(&self.newest);
        if is_newer {
            next.log_loaded();
            self.newest = Arc::new(next);
        }
        Ok(is_newer)
    }

    /// Logs each key that newly needs a restart, and returns the names of all that do.
    fn report_needs_restart(&self, changed: Vec<ChangedKey>, read: &LoadedConfig) -> Vec<String> {
        let mut names = Vec::new();
        for ChangedKey { section, key, in_force } in changed {
            let name = format!("{section}.{key}");
            if !self.needs_restart.contains(&name) {
                let at = read.source.at(&[&section, &key]);
                let in_force = match name.as_str() {
                    // The URL may contain a password.
                    "stream.url" => self.loaded.config.stream.address(),
                    "server.token" => "as it was",
                    _ => &in_force,
                };
                warn!(event = "restart_required", "{at}: {name} needs a restart; until then it stays {in_force}");
            }
            names.push(name);
        }
        names
    }
}

fn reference_files(loaded: &LoadedConfig) -> Vec<PathBuf> {
    loaded.config.reference.files.iter().map(|file| loaded.resolve(file)).collect()
}

/// Returns the name of the plugin that `plugin` is the next version of, if it is one.
pub fn next_of(plugin: &str) -> Option<&str> {
    plugin.strip_suffix(NEXT_VERSION)
}

/// Returns the configuration with a shadow `NAME-next` for each enabled detector whose plugin `X.wasm` has a next version
/// `X.next.wasm` beside it, if the configuration allows that. The shadow has the detector's settings. A
/// `[detectors.NAME-next]` table takes precedence. A detector whose plugin is pinned has no such shadow, since nothing pins
/// the next version.
pub fn with_next(loaded: &LoadedConfig) -> LoadedConfig {
    let mut with = loaded.clone();
    if !loaded.config.plugins.allow_next {
        return with;
    }
    let dir = loaded.resolve(&loaded.config.plugins.dir);
    let live = loaded
        .config
        .detectors
        .iter()
        .filter(|(_, live)| live.enabled && live.shadow_of.is_empty() && live.sha256.is_empty());
    for (name, live) in live {
        let plugin = format!("{}{NEXT_VERSION}", live.plugin);
        if dir.join(format!("{plugin}.wasm")).exists() {
            let shadow = DetectorConfig { plugin, shadow_of: name.clone(), ..live.clone() };
            with.config.detectors.entry(format!("{name}-next")).or_insert(shadow);
        }
    }
    with
}

/// A source of plugins' bytes.
pub trait PluginFiles {
    /// Reads the file of a plugin, and returns its path and its bytes.
    ///
    /// # Errors
    /// Names the file, the problem and what to do.
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)>;
}

impl PluginFiles for Folder {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        Ok((self.file(name), Self::read(self, name)?))
    }
}

/// Compiles plugins that it reads from `files`, each once.
pub struct Compiling<'a, F> {
    runtime: &'a Runtime,
    files: &'a F,
    /// The plugins in force, which are used if their bytes are the same.
    known: Vec<Arc<Plugin>>,
    read: Vec<ReadPlugin>,
}

/// A plugin with the bytes of its file.
struct ReadPlugin {
    plugin: Arc<Plugin>,
    bytes: Vec<u8>,
}

impl<'a, F: PluginFiles> Compiling<'a, F> {
    /// Returns a source without any plugins in force.
    pub fn new(runtime: &'a Runtime, files: &'a F) -> Self {
        Self { runtime, files, known: Vec::new(), read: Vec::new() }
    }
}

impl<F: PluginFiles> PluginSource for Compiling<'_, F> {
    fn plugin(&mut self, detector: &DetectorConfig, limits: Limits) -> Result<Arc<Plugin>> {
        let DetectorConfig { plugin: name, sha256: pinned, .. } = detector;
        if let Some(ReadPlugin { plugin, .. }) = self.read.iter().find(|read| read.plugin.name == *name) {
            check_pin(pinned, &plugin.sha256, &plugin.file)?;
            return Ok(plugin.clone());
        }
        let (file, bytes) = self.files.read(name).map_err(|error| {
            if self.known.iter().any(|plugin| plugin.name == *name) {
                anyhow!("{error}; keeping the loaded plugin. `enabled = false` stops its detector")
            } else {
                error
            }
        })?;
        let hash = sha256(&bytes);
        check_pin(pinned, &hash, &file)?;
        let plugin = match self.known.iter().find(|plugin| plugin.name == *name && plugin.sha256 == hash) {
            Some(plugin) => plugin.clone(),
            None => {
                let compiled = self.runtime.compile(name, &file, &bytes, limits);
                compiled.with_context(|| format!("rejected {}", file.display()))?
            }
        };
        self.read.push(ReadPlugin { plugin: plugin.clone(), bytes });
        Ok(plugin)
    }

    fn try_out(&mut self, spec: &DetectorSpec, columns: &BatchColumns) -> Result<TrialResult> {
        let read = self.read.iter().find(|read| read.plugin.sha256 == spec.plugin.sha256);
        let bytes = &read.context("its plugin was not read")?.bytes;
        trial::try_out(self.runtime, spec, bytes, &TrialRows::new(spec.view(), columns))
    }
}

/// Checks the digest of a plugin that is pinned, before anything reads what is in it.
fn check_pin(pinned: &str, hash: &str, file: &Path) -> Result<()> {
    ensure!(
        pinned.is_empty() || pinned.eq_ignore_ascii_case(hash),
        "{} has the SHA-256 {hash}, but `sha256` pins {pinned}: if the change is wanted, change the pin",
        file.display()
    );
    Ok(())
}

/// Builds the generation that the configuration asks for, with plugins from `files`. A plugin whose bytes are unchanged
/// since `before` is not compiled again.
///
/// # Errors
/// Names the first problem, with its position and what to do.
pub fn build(
    runtime: &Runtime,
    loaded: &LoadedConfig,
    column_names: &[String],
    before: Option<&Generation>,
    files: &impl PluginFiles,
) -> Result<Generation> {
    let loaded = &with_next(loaded);
    ensure!(
        loaded.config.detectors.values().any(|detector| detector.enabled),
        "no detector is enabled: add a [detectors.NAME] table to the configuration"
    );
    let mut plugins = Compiling::new(runtime, files);
    plugins.known = before.iter().flat_map(|before| &before.detectors).map(|spec| spec.plugin.clone()).collect();
    Generation::build(loaded, column_names, before, &mut plugins)
}

/// Builds the first generation. A next version that can't be used does not keep a host from starting: it is left out, until a
/// change of its file or of the configuration.
fn build_first(
    runtime: &Runtime,
    loaded: &LoadedConfig,
    column_names: &[String],
    files: &impl PluginFiles,
) -> Result<Generation> {
    let failure = match build(runtime, loaded, column_names, None, files) {
        Ok(generation) => return Ok(generation),
        Err(failure) if loaded.config.plugins.allow_next => failure,
        Err(failure) => return Err(failure),
    };
    let mut without_next = loaded.clone();
    without_next.config.plugins.allow_next = false;
    let Ok(generation) = build(runtime, &without_next, column_names, None, files) else { return Err(failure) };
    warn!(
        event = "next_version_left_out",
        error = format!("{failure:#}"),
        "starting without the next version of a plugin, which can't be used"
    );
    Ok(generation)
}
