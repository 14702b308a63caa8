//! Puts the next version of a plugin, `X.next.wasm`, in the place of `X.wasm`.
//!
//! What holds: at each moment both names have a whole file, or only `X.wasm` is left and is the new one. So a host can start
//! after a kill at any point, and the same command completes what it began. `X.wasm.previous` is always the old version.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::replace::replace;
use tickhound_core::config::{LoadedConfig, NEXT_VERSION};
use tickhound_engine::plugin::{
    folder::Folder,
    loader::{PluginFiles, next_of},
    signature::signature_file,
};

/// The suffix of files that were replaced. No plugin and no configuration has such a name.
pub(super) const PREVIOUS: &str = "previous";

/// The exchange of one plugin's file.
pub(super) struct Exchange {
    plugin: String,
    folder: Folder,
    /// The bytes of the next version, whose signature was checked if one is required.
    bytes: Vec<u8>,
}

/// The plugins folder as it will be after the exchange.
impl PluginFiles for Exchange {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        if name == self.plugin {
            return Ok((self.folder.file(name), self.bytes.clone()));
        }
        ensure!(
            next_of(name) != Some(&self.plugin),
            "another detector has the plugin {name}, which becomes {}: change or remove its table first",
            self.plugin
        );
        self.folder.read(name).map(|bytes| (self.folder.file(name), bytes))
    }
}

impl Exchange {
    /// Plans the exchange for `plugin`.
    pub(super) fn plan(plugin: &str, loaded: &LoadedConfig) -> Result<Self> {
        let folder = Folder::of(loaded);
        let bytes = folder.read(&format!("{plugin}{NEXT_VERSION}"))?;
        Ok(Self { plugin: plugin.to_owned(), folder, bytes })
    }

    /// The file of the next version.
    pub(super) fn next(&self) -> PathBuf {
        self.folder.file(&format!("{}{NEXT_VERSION}", self.plugin))
    }

    /// The file that is replaced.
    pub(super) fn live(&self) -> PathBuf {
        self.folder.file(&self.plugin)
    }

    /// The file that has the old version afterwards.
    pub(super) fn previous(&self) -> PathBuf {
        self.live().with_added_extension(PREVIOUS)
    }

    /// The commands that bring the old version back. As in [`Self::install`], the signature goes first.
    pub(super) fn way_back(&self) -> Vec<String> {
        let [live, previous] = [self.live(), self.previous()];
        let [signature, old_signature] = [&live, &previous].map(|file| signature_file(file));
        let moved = |from: &Path, to: &Path| format!("mv {} {}", from.display(), to.display());
        let of_signature = match (old_signature.exists(), signature.exists()) {
            (true, _) => Some(moved(&old_signature, &signature)),
            // The old version had none, and this one is not its own.
            (false, true) => Some(format!("rm {}", signature.display())),
            (false, false) => None,
        };
        of_signature.into_iter().chain([moved(&previous, &live)]).collect()
    }

    /// Copies the old version, unless an earlier run has already replaced it.
    pub(super) fn save_previous(&self) -> Result<()> {
        let live = self.live();
        let old = fs::read(&live).with_context(|| format!("can't read {}", live.display()))?;
        if old == self.bytes {
            return Ok(());
        }
        copy(&live, &self.previous())?;
        let [next, signature, previous] = [self.next(), live, self.previous()].map(|file| signature_file(&file));
        match fs::read(&signature) {
            // An earlier run may have replaced the signature before it was killed.
            Ok(bytes) if fs::read(&next).is_ok_and(|next| next == bytes) => Ok(()),
            Ok(_) => copy(&signature, &previous),
            // One of an earlier exchange is not that of this version.
            Err(_) => remove(&previous),
        }
    }

    /// Replaces the old version. The next version's own file stays.
    pub(super) fn install(&self) -> Result<()> {
        let [next, live] = [self.next(), self.live()];
        let [next_signature, signature] = [&next, &live].map(|file| signature_file(file));
        // A plugin without its signature may be rejected, so the signature goes first.
        if next_signature.exists() {
            copy(&next_signature, &signature)?;
        } else {
            remove(&signature)?;
        }
        let permissions = fs::metadata(&next).with_context(|| format!("can't read {}", next.display()))?.permissions();
        replace(&live, &self.bytes, Some(permissions)).with_context(|| format!("can't write {}", live.display()))
    }

    /// Removes the next version's own file, once it has the other name.
    pub(super) fn finish(&self) -> Result<()> {
        let next = self.next();
        remove(&next)?;
        remove(&signature_file(&next))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("can't read {}", from.display()))?;
    let permissions = fs::metadata(from).with_context(|| format!("can't read {}", from.display()))?.permissions();
    replace(to, &bytes, Some(permissions)).with_context(|| format!("can't write {}", to.display()))
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", file.display()))
        }
        _ => Ok(()),
    }
}
