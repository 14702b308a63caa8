//! `tickhound build`: from a detector's project to the plugins folder.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use serde_json::json;

use super::author::{self, Catalogue, Subject};
use crate::authoring::kit::project;
use tickhound_core::{config::LoadedConfig, decode::Decoder};
use tickhound_engine::plugin::{Runtime, loader};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound build opening-drive
  tickhound build . --into ../plugins

A Cargo.toml is built for wasm32-unknown-unknown; other projects say in detector.toml what to run. What comes of it is
loaded and tried as a host would; only then does it take its place, in one step, so that a running host never sees half
of it.")]
pub(super) struct BuildArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to put it; else the plugins folder of the configuration.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Print what was built as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BuildArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let project::Built { file, bytes } = project::build(&args.dir)?;
    let name = "plugin".to_owned();
    let mut alone = loaded.clone();
    author::only(&mut alone, &name, &[])?;
    // Columns of a column's own are the input's business, and told when it is switched on.
    let mut catalogue = Catalogue::of(loaded);
    catalogue.add(Subject { name, file, bytes: bytes.clone(), cases: PathBuf::new() });
    let runtime = Runtime::new(author::cache(loaded).as_deref())?;
    let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
    let generation = loader::build(&runtime, &alone, decoder.column_names(), None, &catalogue)
        .with_context(|| format!("{} was built, but a host would not take it", args.dir.display()))?;
    let spec = &generation.detectors[0];
    let manifest = &spec.plugin.manifest;
    let folder = args.into.clone().unwrap_or_else(|| loaded.resolve(&loaded.config.plugins.dir));
    let installed = project::install(&bytes, &manifest.name, &folder)?;
    if args.json {
        println!(
            "{}",
            json!({ "name": manifest.name, "version": manifest.version, "file": installed, "bytes": bytes.len(), "sha256": spec.plugin.sha256 })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} {}: {}, {} bytes", manifest.name, manifest.version, installed.display(), bytes.len());
    let plugin = &manifest.name;
    match loaded.config.detectors.values().find(|detector| detector.plugin == *plugin) {
        Some(detector) if detector.enabled => println!("A host that runs takes it up within a second."),
        Some(_) => println!("Switch it on in {}: enabled = true", loaded.source.file().display()),
        None => println!(
            "Switch it on in {}:\n\n[detectors.{plugin}]\nplugin = \"{plugin}\"",
            loaded.source.file().display()
        ),
    }
    Ok(ExitCode::SUCCESS)
}
