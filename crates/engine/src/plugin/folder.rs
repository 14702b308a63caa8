//! The plugins folder: reads a plugin's file by the plugin's name.
//!
//! What holds: the bytes are those of a whole file, which is not too large. A file that changes while it is read is an
//! error. If the configuration asks for a signature, it was checked.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail, ensure};

use super::{file::read_file, signature::Trust};
use tickhound_core::config::{LoadedConfig, nearest};

/// The folder with the plugins' `.wasm` files.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The path of the folder.
    pub dir: PathBuf,
    /// Whether a link that leads out of it is followed.
    pub follow_links: bool,
    /// The maximum size of a file, bytes.
    pub file_bytes_max: u64,
    /// Whose signatures are required.
    pub trust: Trust,
}

impl Folder {
    /// Returns the folder that the configuration names.
    pub fn of(loaded: &LoadedConfig) -> Self {
        let plugins = &loaded.config.plugins;
        Self {
            dir: loaded.resolve(&plugins.dir),
            follow_links: plugins.follow_links,
            file_bytes_max: plugins.file_max_mib << 20,
            trust: Trust::of(plugins),
        }
    }

    /// Returns the path of a plugin's file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.wasm"))
    }

    /// Reads the file of a plugin.
    ///
    /// # Errors
    /// Names the file, the problem and what to do.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.file(name);
        let describe = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!("there is no {}{}", file.display(), self.suggestion(name)),
            _ => anyhow!("can't read {}: {error}", file.display()),
        };
        let target = file.canonicalize().map_err(describe)?;
        ensure!(fs::metadata(&target).map_err(describe)?.is_file(), "{} is not a file", file.display());
        if !self.follow_links && !target.starts_with(self.dir.canonicalize().map_err(describe)?) {
            bail!(
                "{} is a link out of the folder, to {}: copy the file, or set plugins.follow_links = true",
                file.display(),
                target.display()
            );
        }
        let bytes = read_file(&target, self.file_bytes_max)?;
        self.trust.check(&file, &bytes)?;
        Ok(bytes)
    }

    /// Returns the rest of the message about a missing plugin: the nearest name, or all names in the folder.
    fn suggestion(&self, missing: &str) -> String {
        let mut names: Vec<String> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(plugin_name(&entry.ok()?.path())?.to_owned()))
            .collect();
        names.sort();
        match nearest(missing, names.iter().map(String::as_str)) {
            Some(name) => format!("; did you mean `{name}`?"),
            None if names.is_empty() => format!("; {} contains no .wasm file", self.dir.display()),
            None => format!("; there are: {}", names.join(", ")),
        }
    }
}

/// Returns the name of the plugin at `path`, if the path is that of a plugin's file. Hidden files are not plugins.
pub fn plugin_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".wasm").filter(|name| !name.starts_with('.') && !name.is_empty())
}
