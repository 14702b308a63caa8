//! `tickhound inspect`: what a `.wasm` file is.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use serde_json::{Value, json};

use super::author::{self, Subject};
use crate::authoring::kit::anatomy::Anatomy;
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::{
    Limits, Plugin, Runtime,
    params::{self, expected},
    runtime::CONTRACT_VERSION,
};

/// What every detector exports; anything beside it is the language's.
const CONTRACT: [&str; 6] = ["describe", "configure", "introduce", "detect", "save", "restore"];

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound inspect plugins/breakout.wasm\n  tickhound inspect momentum --json\n\nExit codes: 0 a host takes it, 1 it does not (the reason is on stderr)."
)]
pub(super) struct InspectArgs {
    /// A .wasm file, the name of a plugin, or a project's folder, which is built.
    plugin: PathBuf,
    /// Print it as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let Subject { name, file, bytes, .. } = Subject::find(&args.plugin, loaded)?;
    let anatomy = Anatomy::of(&bytes)?;
    let runtime = Runtime::new(author::cache(loaded).as_deref())?;
    let plugin = runtime.compile(&name, &file, &bytes, Limits::of(&loaded.config.plugins));
    if args.json {
        let refused = plugin.as_ref().err().map(|error| format!("{error:#}"));
        let manifest = plugin.as_ref().ok().map(|plugin| manifest_json(plugin));
        println!("{}", json!({ "file": file, "anatomy": anatomy, "manifest": manifest, "refused": refused }));
    } else {
        if let Ok(plugin) = &plugin {
            let manifest = &plugin.manifest;
            println!("{} {}: {}\n", manifest.name, manifest.version, manifest.description);
        }
        print_anatomy(&file, &anatomy);
        if let Ok(plugin) = &plugin {
            print_manifest(plugin);
        }
    }
    match plugin {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(_) if args.json => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.context("a host would refuse it")),
    }
}

fn print_anatomy(file: &std::path::Path, it: &Anatomy) {
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let extra: Vec<String> = it.exports.iter().filter(|name| !CONTRACT.contains(&name.as_str())).cloned().collect();
    println!("file         {}, {} bytes, {}", file.display(), it.bytes, it.kind);
    println!("sha256       {}", it.sha256);
    println!("contract     {} (this host: {CONTRACT_VERSION})", it.contract.as_deref().unwrap_or("not told"));
    println!("imports      {}", list(&it.imports));
    if it.kind == "component" && !extra.is_empty() {
        println!("also exports {}", list(&extra));
    }
    println!("made with    {}", list(&it.made_with));
}

fn print_manifest(plugin: &Plugin) {
    let manifest = &plugin.manifest;
    let outlives = if manifest.state_outlives_params { "stays" } else { "begins anew" };
    println!("state        version {}; {outlives} when parameters change", manifest.state_version);
    println!("clock        {}", if manifest.wants_clock { "is told every second" } else { "not told" });
    let columns = manifest.columns.iter().map(|column| match column.required {
        true => column.name.clone(),
        false => format!("{} (if there is)", column.name),
    });
    let columns: Vec<String> = columns.collect();
    println!("columns      {}", if columns.is_empty() { "none".to_owned() } else { columns.join(", ") });
    if manifest.params.is_empty() {
        println!("parameters   none");
        return;
    }
    println!("parameters");
    let width = manifest.params.iter().map(|param| param.name.len()).max().unwrap_or(0);
    for param in &manifest.params {
        println!("  {:width$} = {}  {}: {}", param.name, params::default(param), expected(param), param.doc);
    }
}

fn manifest_json(plugin: &Plugin) -> Value {
    let manifest = &plugin.manifest;
    let columns: Vec<Value> =
        manifest.columns.iter().map(|column| json!({ "name": column.name, "required": column.required })).collect();
    let params: Vec<Value> = manifest
        .params
        .iter()
        .map(|param| {
            json!({
                "name": param.name, "default": params::json_value(&params::default(param)), "minimum": param.minimum,
                "maximum": param.maximum, "choices": param.choices, "unit": param.unit, "doc": param.doc,
            })
        })
        .collect();
    json!({
        "name": manifest.name, "version": manifest.version, "description": manifest.description, "columns": columns,
        "params": params, "state_version": manifest.state_version,
        "state_outlives_params": manifest.state_outlives_params, "wants_clock": manifest.wants_clock,
    })
}
