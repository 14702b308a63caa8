//! The detectors that ship, in this process: as the host loads them.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Result;
use tickhound_core::{config, decode::Decoder};
use tickhound_engine::plugin::{Generation, Isolation, Runtime};

use crate::Bench;

/// What the host would make of this configuration.
pub(crate) fn generation(bench: &Bench, text: &str) -> Result<Arc<Generation>> {
    generation_of(bench, "plugins", text)
}

/// The same with the plugins of another folder of the repository.
pub(crate) fn generation_of(bench: &Bench, folder: &str, text: &str) -> Result<Arc<Generation>> {
    let loaded = config::shipped(text)?;
    let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
    let runtime = Runtime::new(None, Isolation::InProcess)?;
    let mut plugins = Vec::new();
    for name in ["breakout", "momentum"] {
        let file = bench.root.join(folder).join(name).with_extension("wasm");
        plugins.push((name, file.clone(), fs::read(file)?));
    }
    let plugins: Vec<(&str, PathBuf, &[u8])> =
        plugins.iter().map(|(name, file, bytes)| (*name, file.clone(), &bytes[..])).collect();
    Ok(Arc::new(Generation::embedded(&runtime, &loaded, decoder.column_names(), &plugins)?))
}
