//! From the configuration and the plugins folder to a generation, at the start and ever after.
//!
//! What holds: a generation is whole. If any part of what is there can't be used, nothing of it is,
//! and the one before stays in force.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, ensure};
use tracing::warn;

use super::{Generation, Plugin, Runtime, folder::Folder, runtime::sha256};
use tickhound_core::config::{self, ChangedKey, DetectorConfig, LoadedConfig};

/// What else must hold for a configuration to be used, beyond the plugins.
pub type Validate = fn(&LoadedConfig) -> Result<()>;

/// Makes generations, one after the other.
pub struct Loader {
    runtime: Runtime,
    /// As in force: keys that need a restart are those of the start.
    loaded: LoadedConfig,
    column_names: Vec<String>,
    newest: Arc<Generation>,
    validate: Validate,
    needs_restart: Vec<String>,
}

impl Loader {
    /// Loads what the configuration asks for.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what to do.
    pub fn start(loaded: &LoadedConfig, column_names: &[String], validate: Validate) -> Result<Self> {
        validate(loaded)?;
        let plugins = &loaded.config.plugins;
        let cache = (!plugins.cache.as_os_str().is_empty()).then(|| loaded.resolve(&plugins.dir).join(&plugins.cache));
        let runtime = Runtime::new(cache.as_deref())?;
        let newest = Arc::new(build(&runtime, loaded, column_names, None, &Folder::of(loaded))?);
        newest.tell();
        let column_names = column_names.to_vec();
        Ok(Self { runtime, loaded: loaded.clone(), column_names, newest, validate, needs_restart: Vec::new() })
    }

    /// The newest generation.
    pub fn newest(&self) -> &Arc<Generation> {
        &self.newest
    }

    /// Keys that differ in the file from what is in force, and are read at the start only.
    pub fn needs_restart(&self) -> &[String] {
        &self.needs_restart
    }

    /// The configuration's file.
    pub fn config_file(&self) -> &Path {
        self.loaded.source.file()
    }

    /// The plugins folder.
    pub fn plugins_dir(&self) -> PathBuf {
        self.loaded.resolve(&self.loaded.config.plugins.dir)
    }

    /// Whether an enabled detector uses the plugin.
    pub fn uses(&self, plugin: &str) -> bool {
        with_next(&self.loaded).config.detectors.values().any(|detector| detector.enabled && detector.plugin == plugin)
    }

    /// Looks again. `Ok(true)`: there is a newer generation.
    ///
    /// # Errors
    /// What can't be used; the newest generation is still that of before.
    pub fn reload(&mut self) -> Result<bool> {
        let mut read = config::load(self.config_file(), std::env::vars())?;
        let (merged, differ) = config::merge(&self.loaded.config, &read.config)?;
        read.config = merged;
        (self.validate)(&read)?;
        let next = build(&self.runtime, &read, &self.column_names, Some(&self.newest), &Folder::of(&read))?;
        let mut needs_restart = Vec::new();
        for ChangedKey { section, key, in_force } in differ {
            let name = format!("{section}.{key}");
            if !self.needs_restart.contains(&name) {
                let at = read.source.at(&[&section, &key]);
                let in_force = match name.as_str() {
                    // It may have a password in it.
                    "stream.url" => self.loaded.config.stream.address(),
                    "server.token" => "as it was",
                    _ => &in_force,
                };
                warn!(event = "restart_required", "{at}: {name} needs a restart; until then it stays {in_force}");
            }
            needs_restart.push(name);
        }
        self.needs_restart = needs_restart;
        self.loaded = read;
        let changed = !next.is(&self.newest);
        if changed {
            next.tell();
            self.newest = Arc::new(next);
        }
        Ok(changed)
    }
}

/// What stands behind a plugin's name if it is the next version of another.
const NEXT: &str = ".next";

/// The plugin that one is the next version of, if it is.
pub fn next_of(plugin: &str) -> Option<&str> {
    plugin.strip_suffix(NEXT)
}

/// The configuration with a shadow `NAME-next` for each enabled detector beside whose plugin `X.wasm`
/// there is an `X.next.wasm`; with its settings, and unless it has a table.
pub fn with_next(loaded: &LoadedConfig) -> LoadedConfig {
    let mut with = loaded.clone();
    let dir = loaded.resolve(&loaded.config.plugins.dir);
    let live = loaded.config.detectors.iter().filter(|(_, live)| live.enabled && live.shadow_of.is_empty());
    for (name, live) in live {
        let plugin = format!("{}{NEXT}", live.plugin);
        if dir.join(format!("{plugin}.wasm")).exists() {
            let shadow = DetectorConfig { plugin, shadow_of: name.clone(), ..live.clone() };
            with.config.detectors.entry(format!("{name}-next")).or_insert(shadow);
        }
    }
    with
}

/// Where the bytes of a plugin come from.
pub trait Files {
    /// The file of a plugin, and what it holds.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)>;
}

impl Files for Folder {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        Ok((self.file(name), Self::read(self, name)?))
    }
}

/// What the configuration asks for, from `files`.
///
/// # Errors
/// As [`Loader::start`].
pub fn build(
    runtime: &Runtime,
    loaded: &LoadedConfig,
    column_names: &[String],
    before: Option<&Generation>,
    files: &impl Files,
) -> Result<Generation> {
    let loaded = &with_next(loaded);
    let mut known: Vec<Arc<Plugin>> =
        before.iter().flat_map(|before| &before.detectors).map(|spec| spec.plugin.clone()).collect();
    let mut read: Vec<(String, Arc<Plugin>)> = Vec::new();
    ensure!(
        loaded.config.detectors.values().any(|detector| detector.enabled),
        "no detector is enabled: add a [detectors.NAME] table to the configuration"
    );
    Generation::build(loaded, column_names, before, |name, limits| {
        if let Some((_, plugin)) = read.iter().find(|(known, _)| known == name) {
            return Ok(plugin.clone());
        }
        let (file, bytes) = files.read(name).map_err(|error| match known.iter().any(|plugin| plugin.name == name) {
            true => anyhow!("{error}; what was loaded goes on, `enabled = false` stops it"),
            false => error,
        })?;
        let hash = sha256(&bytes);
        let plugin = match known.iter().find(|plugin| plugin.name == name && plugin.sha256 == hash) {
            Some(plugin) => plugin.clone(),
            None => {
                let compiled = runtime.compile(name, &file, &bytes, limits);
                compiled.with_context(|| format!("refused {}", file.display()))?
            }
        };
        known.push(plugin.clone());
        read.push((name.to_owned(), plugin.clone()));
        Ok(plugin)
    })
}
