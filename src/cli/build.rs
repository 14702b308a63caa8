//! `tickhound build`: builds a detector project and installs it into the plugins folder.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use serde_json::json;

use super::author::{self, Catalogue, Subject};
use crate::authoring::kit::project;
use tickhound_core::{config::LoadedConfig, decode::Decoder};
use tickhound_engine::plugin::loader;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound build opening-drive
  tickhound build . --into ../plugins

A project with a Cargo.toml is built for wasm32-unknown-unknown; other projects name their build command in
detector.toml. The plugin is loaded and tested as a host would do it, and then installed in one step, so that a running
host never reads half of it.")]
pub(super) struct BuildArgs {
    /// Folder of the project.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Folder to install into; by default the plugins folder of the configuration.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BuildArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let project::BuiltPlugin { file, bytes } = project::build(&args.dir)?;
    let name = "plugin".to_owned();
    let mut alone = loaded.clone();
    author::only(&mut alone, &name, &[])?;
    // Whether the input has the columns that it requires is checked when the detector is switched on.
    let mut catalogue = Catalogue::of(loaded);
    catalogue.add(Subject { name, file, bytes: bytes.clone(), cases: PathBuf::new() });
    let runtime = author::runtime(loaded)?;
    let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
    let generation = loader::build(&runtime, &alone, decoder.column_names(), None, &catalogue)
        .with_context(|| format!("{} was built, but a host would reject it", args.dir.display()))?;
    let spec = &generation.detectors[0];
    let manifest = &spec.plugin.manifest;
    let folder = args.into.clone().unwrap_or_else(|| loaded.resolve(&loaded.config.plugins.dir));
    let installed = project::install(&bytes, &manifest.name, &folder)?;
    if args.json {
        crate::output::print_json(
            &json!({ "name": manifest.name, "version": manifest.version, "file": installed, "bytes": bytes.len(), "sha256": spec.plugin.sha256 }),
        );
        return Ok(ExitCode::SUCCESS);
    }
    outln!("{} {}: {}, {} bytes", manifest.name, manifest.version, installed.display(), bytes.len());
    let plugin = &manifest.name;
    match loaded.config.detectors.values().find(|detector| detector.plugin == *plugin) {
        Some(detector) if detector.enabled => outln!("A running host loads it within a second."),
        Some(_) => outln!("Switch it on in {}: enabled = true", loaded.source.file().display()),
        None => {
            outln!("Switch it on in {}:", loaded.source.file().display());
            outln!();
            outln!("[detectors.{plugin}]");
            outln!("plugin = \"{plugin}\"");
        }
    }
    Ok(ExitCode::SUCCESS)
}
