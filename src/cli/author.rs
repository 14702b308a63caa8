//! Shared by the commands for authors of detectors: the files that ship, and how to find a plugin.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::authoring::kit::project::{self, BuiltPlugin};
use tickhound_core::config::{self, DetectorConfig, LoadedConfig};
use tickhound_engine::plugin::{CacheLocation, Isolation, Runtime, file::read_file, folder::Folder, loader};

/// The configuration that ships.
pub(super) const CONFIG: &str = include_str!("../../config/config.toml");

/// The plugins that ship, so that commands work from any folder.
pub(super) const SHIPPED: [(&str, &[u8]); 13] = [
    ("breadth", include_bytes!("../../plugins/breadth.wasm")),
    ("breakout", include_bytes!("../../plugins/breakout.wasm")),
    ("gap", include_bytes!("../../plugins/gap.wasm")),
    ("lead-lag", include_bytes!("../../plugins/lead-lag.wasm")),
    ("momentum", include_bytes!("../../plugins/momentum.wasm")),
    ("order-flow", include_bytes!("../../plugins/order-flow.wasm")),
    ("pair", include_bytes!("../../plugins/pair.wasm")),
    ("residual-move", include_bytes!("../../plugins/residual-move.wasm")),
    ("reversal", include_bytes!("../../plugins/reversal.wasm")),
    ("stale-feed", include_bytes!("../../plugins/stale-feed.wasm")),
    ("straddle", include_bytes!("../../plugins/straddle.wasm")),
    ("volume-spike", include_bytes!("../../plugins/volume-spike.wasm")),
    ("vwap", include_bytes!("../../plugins/vwap.wasm")),
];

/// The configuration that ships, with the defaults of the plugins in place of the settings of detectors, with which alerts are
/// rare: for commands of authors without a configuration, and for the demo.
pub(super) fn shipped_with_defaults() -> Result<LoadedConfig> {
    let mut loaded = config::shipped(CONFIG)?;
    for detector in loaded.config.detectors.values_mut() {
        let DetectorConfig { plugin, enabled, .. } = std::mem::take(detector);
        *detector = DetectorConfig { plugin, enabled, ..DetectorConfig::default() };
    }
    Ok(loaded)
}

/// The plugin that a command works on.
pub(super) struct Subject {
    /// The name that a configuration would use.
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// The folder of its cases, if it has any.
    pub(super) cases: PathBuf,
}

impl Subject {
    /// Finds the plugin that `given` names: a file; a project, which is built; or a plugin of the folder or of those
    /// that ship.
    pub(super) fn find(given: &Path, loaded: &LoadedConfig) -> Result<Self> {
        let is_configured = given.to_str().is_some_and(|name| loaded.config.detectors.contains_key(name));
        if names_path(given, is_configured, loaded) {
            return Self::read(given, loaded);
        }
        let name = given.display().to_string();
        let (file, bytes) = loader::PluginFiles::read(&Catalogue::of(loaded), &name)
            .with_context(|| format!("{name} is not a .wasm file, a project folder or a plugin"))?;
        let cases = file.with_file_name("cases");
        Ok(Self { name, file, bytes, cases })
    }

    /// Reads the plugin in a file, or builds the project in a folder.
    pub(super) fn read(given: &Path, loaded: &LoadedConfig) -> Result<Self> {
        if given.is_dir() {
            let BuiltPlugin { file, bytes } = project::build(given)?;
            // The plugin is called after its folder; the compiler may name its file differently.
            let dir = given.canonicalize().with_context(|| format!("can't read {}", given.display()))?;
            return Ok(Self {
                name: plugin_name(&dir.with_added_extension("wasm"))?,
                file,
                bytes,
                cases: given.join("cases"),
            });
        }
        let bytes = read_file(given, loaded.config.plugins.file_max_mib << 20)?;
        let cases = given.with_file_name("cases");
        Ok(Self { name: plugin_name(given)?, file: given.to_path_buf(), bytes, cases })
    }
}

/// Returns whether an argument names a file or a folder, and not a plugin or a detector by its name. If it may be either, a
/// project comes first, which is said; another folder does not.
pub(super) fn names_path(given: &Path, is_configured: bool, loaded: &LoadedConfig) -> bool {
    if !given.is_dir() {
        return given.extension().is_some_and(|ending| ending == "wasm");
    }
    // `./breakout` and `breakout/` can only be the folder.
    let Some(name) = given.to_str().filter(|name| is_bare(name)) else { return true };
    let plugin = Catalogue::of(loaded).find(name);
    if plugin.is_none() && !is_configured {
        return true;
    }
    if !project::is_project(given) {
        return false;
    }
    let other = match plugin {
        Some(file) if file.exists() => format!("the plugin {}", file.display()),
        Some(_) => "the plugin that ships with this program".to_owned(),
        None => "the plugin of the configured detector".to_owned(),
    };
    errln!("note: {name} is the project in the folder ./{name}, and not {other}; ./{name} says that without this note");
    true
}

/// Whether this is a name without a path.
fn is_bare(given: &str) -> bool {
    let mut parts = Path::new(given).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None)) && !given.ends_with('/')
}

/// The name that a configuration would use for the plugin in this file.
fn plugin_name(file: &Path) -> Result<String> {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    ensure!(!name.is_empty(), "{}: a plugin needs a name", file.display());
    Ok(name)
}

/// The plugins that can be used: those added by name, then the folder's, then those that ship.
pub(super) struct Catalogue {
    folder: Folder,
    named: Vec<Subject>,
}

impl Catalogue {
    pub(super) fn of(loaded: &LoadedConfig) -> Self {
        Self { folder: Folder::of(loaded), named: Vec::new() }
    }

    /// Returns where the plugin of this name is; the file of one that ships may not exist. `None` if there is no such plugin.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let file = self.folder.file(name);
        (file.exists() || SHIPPED.iter().any(|(shipped, _)| *shipped == name)).then_some(file)
    }

    pub(super) fn add(&mut self, subject: Subject) {
        self.named.push(subject);
    }
}

impl loader::PluginFiles for Catalogue {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        if let Some(named) = self.named.iter().find(|named| named.name == name) {
            return Ok((named.file.clone(), named.bytes.clone()));
        }
        let file = self.folder.file(name);
        match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, bytes)) if !file.exists() => Ok((file, bytes.to_vec())),
            _ => loader::PluginFiles::read(&self.folder, name),
        }
    }
}

/// Reduces the configuration to one detector of this plugin, with the parameters that were given as NAME=VALUE.
pub(super) fn only(loaded: &mut LoadedConfig, plugin: &str, params: &[String]) -> Result<()> {
    let mut detector = DetectorConfig { plugin: plugin.to_owned(), ..DetectorConfig::default() };
    for given in params {
        let (name, value) = param(given)?;
        detector.params.insert(name, value);
    }
    loaded.config.detectors = [(plugin.to_owned(), detector)].into();
    Ok(())
}

/// Parses a parameter of the command line.
pub(super) fn param(given: &str) -> Result<(String, toml::Value)> {
    let (name, text) = given.split_once('=').with_context(|| format!("--params {given}: expected NAME=VALUE"))?;
    Ok((name.to_owned(), value(text)))
}

/// Returns a runtime that checks plugins in processes of their own, as a host does.
pub(super) fn runtime(loaded: &LoadedConfig) -> Result<Runtime> {
    Runtime::new(CacheLocation::of(loaded).as_ref(), Isolation::of(&loaded.config.plugins))
}

/// Parses the value of a parameter as TOML; if it is not valid TOML, it is a string.
pub(super) fn value(text: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}
