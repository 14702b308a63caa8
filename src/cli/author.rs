//! What the commands for authors of detectors share.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    config::Loaded,
    plugin::{folder::Folder, loader},
};

/// The configuration as it ships.
pub(super) const CONFIG: &str = include_str!("../../config/config.toml");

/// The plugins that ship, so that commands work from any folder.
pub(super) const SHIPPED: [(&str, &[u8]); 2] = [
    ("breakout", include_bytes!("../../plugins/breakout.wasm")),
    ("momentum", include_bytes!("../../plugins/momentum.wasm")),
];

/// Where plugins are found: files that were named, then the folder, then those that ship.
pub(super) struct Catalogue {
    folder: Folder,
    files: BTreeMap<String, PathBuf>,
}

impl Catalogue {
    pub(super) fn of(loaded: &Loaded) -> Self {
        Self { folder: Folder::of(loaded), files: BTreeMap::new() }
    }

    /// Adds a file; returns the name that it has from now on.
    pub(super) fn add_file(&mut self, file: &Path) -> Result<String> {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
        ensure!(!name.is_empty(), "{}: a plugin has a name", file.display());
        self.files.insert(name.clone(), file.to_path_buf());
        Ok(name)
    }
}

impl loader::Files for Catalogue {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        if let Some(file) = self.files.get(name) {
            let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
            return Ok((file.clone(), bytes));
        }
        let file = self.folder.file(name);
        match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, bytes)) if !file.exists() => Ok((file, bytes.to_vec())),
            _ => loader::Files::read(&self.folder, name),
        }
    }
}

/// Where compiled plugins are kept, if the plugins folder is there.
pub(super) fn cache(loaded: &Loaded) -> Option<PathBuf> {
    let plugins = &loaded.config.plugins;
    let dir = loaded.resolve(&plugins.dir);
    (dir.is_dir() && !plugins.cache.as_os_str().is_empty()).then(|| dir.join(&plugins.cache))
}

/// A parameter's value as it stands on the command line: as in TOML, and what is none is a text.
pub(super) fn value(text: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}
