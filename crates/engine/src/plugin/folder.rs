//! The plugins folder: a file's bytes by the plugin's name, whole or with the reason why not.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail, ensure};

use tickhound_core::config::{LoadedConfig, nearest};

/// Where `.wasm` files lie.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder.
    pub dir: PathBuf,
    /// Whether a link that leads out of it is followed.
    pub follow_links: bool,
}

impl Folder {
    /// The one that the configuration names.
    pub fn of(loaded: &LoadedConfig) -> Self {
        let plugins = &loaded.config.plugins;
        Self { dir: loaded.resolve(&plugins.dir), follow_links: plugins.follow_links }
    }

    /// The file of a plugin.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.wasm"))
    }

    /// What the file of a plugin holds.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.file(name);
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!("there is no {}{}", file.display(), self.others(name)),
            _ => anyhow!("can't read {}: {error}", file.display()),
        };
        let whole = file.canonicalize().map_err(explain)?;
        let before = fs::metadata(&whole).map_err(explain)?;
        ensure!(before.is_file(), "{} is no file: put the plugin itself there", file.display());
        if !self.follow_links && !whole.starts_with(self.dir.canonicalize().map_err(explain)?) {
            bail!(
                "{} is a link out of the folder, to {}: copy the file, or set plugins.follow_links = true",
                file.display(),
                whole.display()
            );
        }
        let bytes = fs::read(&whole).map_err(explain)?;
        let after = fs::metadata(&whole).map_err(explain)?;
        let same = before.len() == after.len() && before.modified().ok() == after.modified().ok();
        ensure!(same && bytes.len() as u64 == after.len(), "{} changed while it was read", file.display());
        Ok(bytes)
    }

    /// The other plugins in the folder, to choose from.
    fn others(&self, wrong: &str) -> String {
        let mut names: Vec<String> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(plugin_name(&entry.ok()?.path())?.to_owned()))
            .collect();
        names.sort();
        match nearest(wrong, names.iter().map(String::as_str)) {
            Some(name) => format!("; did you mean `{name}`?"),
            None if names.is_empty() => format!("; {} holds no .wasm file", self.dir.display()),
            None => format!("; there are: {}", names.join(", ")),
        }
    }
}

/// The plugin that a path stands for, if it does.
pub fn plugin_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".wasm").filter(|name| !name.starts_with('.') && !name.is_empty())
}
