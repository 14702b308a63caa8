//! Checks who has signed a plugin, before anything reads what is in it.
//!
//! What holds: the signature is checked over the very bytes that are compiled. Signatures are those of minisign, in the
//! file `NAME.wasm.minisig` beside the plugin.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use minisign::{PublicKey, SignatureBox};

use super::file::read_file;
use tickhound_core::config::PluginsConfig;

/// The suffix of a signature's file, behind the name of the plugin's file.
pub const SUFFIX: &str = ".minisig";

/// The maximum size of a signature's file, bytes. It has four lines, two of which are comments.
const SIGNATURE_BYTES_MAX: u64 = 8 << 10;

/// Whose signatures are trusted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    keys: Vec<String>,
    is_required: bool,
}

impl Trust {
    /// Returns whom the configuration trusts.
    pub fn of(config: &PluginsConfig) -> Self {
        Self { keys: config.trusted_keys.clone(), is_required: config.require_signed }
    }

    /// Returns trust in these public keys, each in the form of the second line of a minisign key file. A signature is
    /// required.
    pub fn in_keys(keys: Vec<String>) -> Self {
        Self { keys, is_required: true }
    }

    /// Checks the signature of a plugin whose file has these bytes. Without trusted keys there is nothing to check. A file
    /// without a signature passes unless signatures are required, but a wrong signature never does.
    ///
    /// # Errors
    /// Says what is wrong, and what to do.
    pub fn check(&self, file: &Path, bytes: &[u8]) -> Result<()> {
        if self.keys.is_empty() && !self.is_required {
            return Ok(());
        }
        let signature_file = signature_file(file);
        if !signature_file.exists() {
            if !self.is_required {
                return Ok(());
            }
            bail!("{} has no signature beside it: check the plugin, and sign it with `tickhound sign`", file.display());
        }
        let text = read_file(&signature_file, SIGNATURE_BYTES_MAX)?;
        let signature = std::str::from_utf8(&text).ok().and_then(|text| SignatureBox::from_string(text).ok());
        let signature = signature
            .with_context(|| format!("{} is not a signature of minisign; sign it again", signature_file.display()))?;
        let mut is_signed = false;
        for (number, key) in self.keys.iter().enumerate() {
            let key = PublicKey::from_base64(key).map_err(|_| {
                anyhow!(
                    "plugins.trusted_keys[{number}] is not a public key of minisign, which is a line that begins with RW"
                )
            })?;
            // Signatures of the old kind, over the file itself instead of its hash, are not needed any more.
            is_signed |= minisign::verify(&key, &signature, Cursor::new(bytes), true, false, false).is_ok();
        }
        if !is_signed {
            bail!(
                "{} was not made for {} with any of plugins.trusted_keys: has the plugin changed since it was signed?",
                signature_file.display(),
                file.display()
            );
        }
        Ok(())
    }
}

/// Returns the file of a plugin's signature.
pub fn signature_file(plugin: &Path) -> PathBuf {
    let mut name = plugin.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}
