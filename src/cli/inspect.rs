//! `tickhound inspect`: shows what a `.wasm` file contains.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use serde_json::{Value, json};

use super::author::{self, Subject};
use crate::authoring::kit::anatomy::Anatomy;
use tickhound_core::{config::LoadedConfig, decode::Decoder, market::UNDERLYING, text::printable};
use tickhound_engine::plugin::{
    BatchColumns, ColumnOrigin, Limits, Plugin,
    manifest::{Column, DeclaredColumn, DeclaredFeed, Manifest},
    params::{self, expected},
    runtime::CONTRACT_VERSIONS,
    structure,
};
use tickhound_recorded::read_reference;

/// What follows the name of a column or text that the configuration has no values for.
const ABSENT: &str = "not in this configuration";

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

/// Where the values of columns and texts come from, as the configuration is.
struct Origins {
    columns: BatchColumns,
    loaded: LoadedConfig,
}

impl Origins {
    /// The origins; a file is inspected although the reference data can't be read.
    fn of(loaded: &LoadedConfig) -> Result<Self> {
        let mut loaded = loaded.clone();
        if let Err(error) = loaded.load_market(read_reference, None) {
            errln!(
                "note: where columns come from is shown without [reference] and [context]: {}",
                printable(&format!("{error:#}"))
            );
        }
        let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
        Ok(Self { columns: BatchColumns::new(decoder.column_names(), &loaded.market, None), loaded })
    }

    /// Where a column comes from; `None` if there is none of this name.
    fn of_column(&self, manifest: &Manifest, column: &Column) -> Option<&'static str> {
        let has_bars = manifest.feeds.iter().any(|feed| matches!(feed, DeclaredFeed::Bars(_)));
        let origin = self.columns.origin(&column.name, has_bars, self.loaded.market.reference());
        origin.map(ColumnOrigin::as_str)
    }

    /// Where a text comes from; `None` if there is none of this name.
    fn of_text(&self, text: &Column) -> Option<&'static str> {
        let mut of_reference = self.loaded.market.reference().text_columns();
        match () {
            () if of_reference.any(|known| known == text.name) => Some("reference"),
            () if text.name == UNDERLYING => Some("symbol"),
            () => None,
        }
    }
}

pub(super) fn run(args: &InspectArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let Subject { name, file, bytes, .. } = Subject::find(&args.plugin, loaded)?;
    let runtime = author::runtime(loaded)?;
    let plugin = runtime.compile(&name, &file, &bytes, Limits::of(&loaded.config.plugins));
    // The parts of a file are only listed if there are not too many of them.
    let origins = Origins::of(loaded)?;
    let anatomy = structure::check(&bytes).and_then(|()| Anatomy::of(&bytes)).ok();
    if args.json {
        let rejection = plugin.as_ref().err().map(|error| format!("{error:#}"));
        let manifest = plugin.as_ref().ok().map(|plugin| manifest_json(plugin, &origins));
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
            print_manifest(plugin, &origins);
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

/// A column or text, and where it comes from.
fn column(column: &Column, origin: Option<&str>) -> String {
    let optional = if column.required { "" } else { ", optional" };
    format!("{} ({}{optional})", column.name, origin.unwrap_or(ABSENT))
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

fn print_manifest(plugin: &Plugin, origins: &Origins) {
    let manifest = &plugin.manifest;
    let effect = if manifest.state_outlives_params { "keeps" } else { "resets" };
    outln!("state        version {}; a change of parameters {effect} it", manifest.state_version);
    outln!("clock        {}", if manifest.wants_clock { "called every second" } else { "not used" });
    outln!("scope        {}", manifest.scope.as_str());
    outln!("feeds        {}", list(manifest.feeds.iter().map(ToString::to_string)));
    let columns = manifest.columns.iter();
    outln!("columns      {}", list(columns.map(|it| column(it, origins.of_column(manifest, it)))));
    if !manifest.computed.is_empty() {
        outln!("computed     {}", list(manifest.computed.iter().map(ToString::to_string)));
    }
    if !manifest.wakes.is_empty() {
        outln!("wakes        {}", list(manifest.wakes.iter().map(ToString::to_string)));
    }
    if !manifest.texts.is_empty() {
        outln!("texts        {}", list(manifest.texts.iter().map(|it| column(it, origins.of_text(it)))));
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

fn manifest_json(plugin: &Plugin, origins: &Origins) -> Value {
    let manifest = &plugin.manifest;
    let column = |column: &Column, origin: Option<&str>| json!({ "name": column.name, "required": column.required, "source": origin });
    let columns: Vec<Value> = manifest.columns.iter().map(|it| column(it, origins.of_column(manifest, it))).collect();
    let texts: Vec<Value> = manifest.texts.iter().map(|it| column(it, origins.of_text(it))).collect();
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
        "columns": columns, "scope": manifest.scope, "feeds": feeds, "computed": computed,
        "wakes": wakes, "texts": texts, "contract": plugin.contract(), "explains": plugin.can_probe(),
        "params": params, "state_version": manifest.state_version,
        "state_outlives_params": manifest.state_outlives_params, "wants_clock": manifest.wants_clock,
    })
}
