//! `tickhound inspect`: shows what a `.wasm` file contains.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use serde_json::{Value, json};

use super::author::{self, Subject};
use crate::authoring::kit::anatomy::Anatomy;
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::{
    Limits, Plugin,
    manifest::{Column, DeclaredColumn},
    params::{self, expected},
    runtime::CONTRACT_VERSIONS,
    structure,
};

/// The exports of every detector; any other comes from the language's runtime.
const CONTRACT: [&str; 7] = ["describe", "configure", "introduce", "detect", "save", "restore", "probe"];

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound inspect plugins/breakout.wasm\n  tickhound inspect momentum --json\n\nExit codes: 0 a host accepts it, 1 a host rejects it (the reason is on stderr)."
)]
pub(super) struct InspectArgs {
    /// A .wasm file; the name of a plugin; or the folder of a project, which is built.
    plugin: PathBuf,
    /// Print everything as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let Subject { name, file, bytes, .. } = Subject::find(&args.plugin, loaded)?;
    let runtime = author::runtime(loaded)?;
    let plugin = runtime.compile(&name, &file, &bytes, Limits::of(&loaded.config.plugins));
    // The parts of a file are only listed if there are not too many of them.
    let anatomy = structure::check(&bytes).and_then(|()| Anatomy::of(&bytes)).ok();
    if args.json {
        let rejection = plugin.as_ref().err().map(|error| format!("{error:#}"));
        let manifest = plugin.as_ref().ok().map(|plugin| manifest_json(plugin));
        crate::output::print_json(
            &json!({ "file": file, "anatomy": anatomy, "manifest": manifest, "refused": rejection }),
        );
    } else {
        if let Ok(plugin) = &plugin {
            let manifest = &plugin.manifest;
            outln!("{} {}: {}", manifest.name, manifest.version, manifest.description);
            outln!();
        }
        if let Some(anatomy) = &anatomy {
            print_anatomy(&file, anatomy);
        }
        if let Ok(plugin) = &plugin {
            print_manifest(plugin);
        }
    }
    match plugin {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(_) if args.json => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.context("a host would reject it")),
    }
}

fn list(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn column(column: &Column) -> String {
    format!("{}{}", column.name, if column.required { "" } else { " (optional)" })
}

fn print_anatomy(file: &std::path::Path, anatomy: &Anatomy) {
    let extra: Vec<String> =
        anatomy.exports.iter().filter(|name| !CONTRACT.contains(&name.as_str())).cloned().collect();
    outln!("file         {}, {} bytes, {}", file.display(), anatomy.bytes, anatomy.kind);
    outln!("sha256       {}", anatomy.sha256);
    let stated = anatomy.contract.as_deref().unwrap_or("not stated");
    outln!("contract     {stated} (this host: {})", CONTRACT_VERSIONS.join(", "));
    outln!("imports      {}", list(anatomy.imports.iter().cloned()));
    if anatomy.kind == "component" && !extra.is_empty() {
        outln!("also exports {}", list(extra));
    }
    outln!("made with    {}", list(anatomy.made_with.iter().cloned()));
}

fn print_manifest(plugin: &Plugin) {
    let manifest = &plugin.manifest;
    let effect = if manifest.state_outlives_params { "keeps" } else { "resets" };
    outln!("state        version {}; a change of parameters {effect} it", manifest.state_version);
    outln!("clock        {}", if manifest.wants_clock { "called every second" } else { "not used" });
    outln!("scope        {}", manifest.scope.as_str());
    outln!("feeds        {}", list(manifest.feeds.iter().map(ToString::to_string)));
    outln!("columns      {}", list(manifest.columns.iter().map(column)));
    if !manifest.computed.is_empty() {
        outln!("computed     {}", list(manifest.computed.iter().map(ToString::to_string)));
    }
    if !manifest.wakes.is_empty() {
        outln!("wakes        {}", list(manifest.wakes.iter().map(ToString::to_string)));
    }
    if !manifest.texts.is_empty() {
        outln!("texts        {}", list(manifest.texts.iter().map(column)));
    }
    outln!("explains     {}", if plugin.can_probe() { "why it found something, or nothing" } else { "nothing" });
    if manifest.params.is_empty() {
        outln!("parameters   none");
        return;
    }
    outln!("parameters");
    let width = manifest.params.iter().map(|param| param.name.len()).max().unwrap_or(0);
    for param in &manifest.params {
        outln!("  {:width$} = {}  {}: {}", param.name, params::default(param), expected(param), param.doc);
    }
}

fn manifest_json(plugin: &Plugin) -> Value {
    let manifest = &plugin.manifest;
    let columns = |columns: &[Column]| -> Vec<Value> {
        columns.iter().map(|column| json!({ "name": column.name, "required": column.required })).collect()
    };
    let computed: Vec<Value> = manifest
        .computed
        .iter()
        .map(|DeclaredColumn { name, function, of, feed, length }| {
            let (function, feed, length) = (function.as_str(), feed.to_string(), length.to_string());
            json!({ "name": name, "function": function, "of": of, "feed": feed, "length": length })
        })
        .collect();
    let feeds: Vec<String> = manifest.feeds.iter().map(ToString::to_string).collect();
    let wakes: Vec<String> = manifest.wakes.iter().map(ToString::to_string).collect();
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
        "name": manifest.name, "version": manifest.version, "description": manifest.description,
        "columns": columns(&manifest.columns), "scope": manifest.scope, "feeds": feeds, "computed": computed,
        "wakes": wakes, "texts": columns(&manifest.texts), "contract": plugin.contract(), "explains": plugin.can_probe(),
        "params": params, "state_version": manifest.state_version,
        "state_outlives_params": manifest.state_outlives_params, "wants_clock": manifest.wants_clock,
    })
}
