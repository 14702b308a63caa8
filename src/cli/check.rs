//! `tickhound check`: checks configuration, plugins and Redis without reading ticks or changing anything.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{market_report, parts::Parts, text::grouped, unmatched};
use crate::notify;
use tickhound_core::{
    config::{LoadedConfig, Origin},
    stream::StreamError,
    wall::now_ms,
};
use tickhound_engine::plugin::{DetectorSpec, Generation, Scope, params};
use tickhound_redis::RedisStream;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How far origins are aligned: a longer value moves only its own.
const VALUE_WIDTH_MAX: usize = 40;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound check && tickhound run\n\n\
                        The values in force of each detector are listed with where they come from: the file, a variable, the\n\
                        live detector of a shadow, or the defaults.")]
pub(super) struct CheckArgs {
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let Parts { loader, stream, .. } = Parts::load(loaded)?;
    let generation = loader.newest();
    let channels = notify::check(loaded)?;
    let exposed = loaded.exposed_secrets();
    let mut warnings: Vec<String> =
        exposed.iter().map(|exposed| format!("{}; {}", exposed.describe(), exposed.cure())).collect();
    warnings.extend(config.session.sessions.warnings(now_ms() * 1_000_000));
    let (reached, symbols) = super::process::runtime()?.block_on(ask(&stream));
    warnings.extend(unmatched_patterns(generation, &symbols));
    warnings.extend(unmatched::of_channels(config, &symbols));
    warnings.extend(unmatched::of_calendars(config, &symbols));
    let market = market_report::MarketReport::new(&generation.market, &symbols);
    warnings.extend(market.warnings());
    if args.json {
        let detectors: Vec<_> = generation.detectors.iter().map(|spec| detector_json(spec, loaded)).collect();
        let redis = reached.as_ref().err().map(ToString::to_string);
        let notify: Vec<_> = channels
            .iter()
            .map(|channel| json!({ "name": channel.name, "told": channel.receiver, "warnings": channel.warnings }))
            .collect();
        crate::output::print_json(
            &json!({ "ok": redis.is_none(), "redis_error": redis, "detectors": detectors, "notify": notify,
                "market": market.to_json(), "warnings": warnings }),
        );
    } else {
        outln!("ok: {}", loaded.source.at(&[]));
        if config.session.sessions.calendars().is_empty() {
            outln!("      without session.calendar, a silent feed is not noticed");
        }
        warnings.iter().for_each(|warning| outln!("      warning: {warning}"));
        market.lines().iter().for_each(|line| outln!("ok: {line}"));
        generation.detectors.iter().for_each(|spec| print_detector(spec, loaded));
        for notify::ChannelSummary { name, receiver, warnings } in &channels {
            outln!("ok: notify {name} = {receiver}");
            warnings.iter().for_each(|warning| outln!("      warning: {warning}"));
        }
        match &reached {
            Ok(()) => outln!("ok: redis at {}", config.stream.address()),
            Err(error) => errln!("error: redis at {}: {error}", config.stream.address()),
        }
    }
    Ok(if reached.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn detector_json(spec: &DetectorSpec, loaded: &LoadedConfig) -> serde_json::Value {
    let manifest = &spec.plugin.manifest;
    let settings = &spec.settings;
    json!({
        "name": spec.name, "plugin": manifest.name, "version": manifest.version,
        "file": spec.plugin.file, "sha256": spec.plugin.sha256,
        "params": params::to_json(&spec.params),
        "min_confidence": spec.min_confidence, "trial_ns_per_tick": spec.trial.ns_per_tick,
        "shadow_of": Some(&settings.shadow_of).filter(|live| !live.is_empty()),
        "scope": spec.view().scope.as_str(), "feeds": spec.view().feeds.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "symbols": settings.symbols, "cooldown_s": settings.cooldown_s,
        "max_alerts_per_minute": settings.max_alerts_per_minute,
        "view": spec.view(), "contract": spec.plugin.contract(),
        "origins": origins_json(spec, loaded),
    })
}

fn print_detector(spec: &DetectorSpec, loaded: &LoadedConfig) {
    let manifest = &spec.plugin.manifest;
    let shadow_of = &spec.settings.shadow_of;
    let role = if shadow_of.is_empty() { String::new() } else { format!(", shadow of {shadow_of}") };
    outln!(
        "ok: detector {} = {} {} ({}){role}, {} ns per tick in its trial",
        spec.name,
        manifest.name,
        manifest.version,
        spec.plugin.file.display(),
        spec.trial.ns_per_tick
    );
    if let Some(capacity) = capacity(spec) {
        outln!("      {capacity}");
    }
    print_values(spec, loaded);
}

/// What one thread carries, if all rows of a state go through one.
fn capacity(spec: &DetectorSpec) -> Option<String> {
    let rows = match spec.trial.ns_per_tick {
        0 => return None,
        ns => grouped(NANOS_PER_SECOND / u64::from(ns)),
    };
    let feeds: Vec<String> = spec.view().feeds.iter().map(ToString::to_string).collect();
    let feeds = feeds.join(" and ");
    match spec.view().scope {
        Scope::Symbol => None,
        Scope::Group => Some(format!(
            "sees groups of {} ({feeds}); the rows of one group go through one thread, which carries about {rows} a second by \
             its trial",
            spec.view().families.join(", ")
        )),
        Scope::Market => Some(format!(
            "sees all symbols ({feeds}) in one thread, whatever engine.workers is; it carries about {rows} rows a second by its \
             trial"
        )),
    }
}

/// The values in force of a detector's settings, beside its parameters.
fn settings(spec: &DetectorSpec) -> Vec<(&'static str, serde_json::Value)> {
    let settings = &spec.settings;
    let groups = (spec.view().scope == Scope::Group).then(|| ("groups", json!(settings.groups)));
    let others = [
        ("symbols", json!(settings.symbols)),
        ("min_confidence", json!(settings.min_confidence)),
        ("cooldown_s", json!(settings.cooldown_s)),
        ("max_alerts_per_minute", json!(settings.max_alerts_per_minute)),
    ];
    others.into_iter().chain(groups).collect()
}

/// Where a value of a detector comes from. A shadow that a `.next.wasm` starts has no table: it has all from its live detector.
fn origin(spec: &DetectorSpec, loaded: &LoadedConfig, key: &[&str]) -> Origin {
    let has_table = loaded.config.detectors.contains_key(&spec.name);
    let live = &spec.settings.shadow_of;
    let table = if has_table { &spec.name } else { live };
    let origin = loaded.origin(&[&["detectors", table.as_str()], key].concat());
    if has_table { origin } else { Origin::Inherited { live: live.clone(), origin: Box::new(origin) } }
}

/// Prints the values in force, with where each comes from as a comment.
fn print_values(spec: &DetectorSpec, loaded: &LoadedConfig) {
    let settings = settings(spec).into_iter().map(|(key, value)| (vec![key], value.to_string()));
    let params = spec.params.iter().map(|(name, value)| (vec!["params", name.as_str()], value.to_string()));
    let lines: Vec<(String, Origin)> = settings
        .into_iter()
        .chain(params)
        .map(|(path, value)| (format!("{} = {value}", path.join(".")), origin(spec, loaded, &path)))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(VALUE_WIDTH_MAX);
    for (line, origin) in lines {
        outln!("      {line:width$}  # {origin}");
    }
}

fn origins_json(spec: &DetectorSpec, loaded: &LoadedConfig) -> serde_json::Value {
    let of = |path: &[&str]| json!(origin(spec, loaded, path).to_string());
    let settings = settings(spec).into_iter().map(|(key, _)| (key.to_owned(), of(&[key])));
    let params: serde_json::Map<_, _> =
        spec.params.iter().map(|(name, _)| (name.clone(), of(&["params", name]))).collect();
    settings.chain([("params".to_owned(), json!(params))]).collect()
}

/// Whether the server can be used, and the symbols that detectors remember; none for a user who may not read them.
async fn ask(stream: &RedisStream) -> (Result<(), StreamError>, Vec<String>) {
    let reached = stream.check().await;
    let symbols = if reached.is_ok() { stream.known_symbols().await.unwrap_or_default() } else { Vec::new() };
    (reached, symbols)
}

/// The patterns that match none of the symbols that detectors remember, if they remember any.
fn unmatched_patterns(generation: &Generation, symbols: &[String]) -> Vec<String> {
    if symbols.is_empty() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    for spec in &generation.detectors {
        // It notes which patterns match.
        symbols.iter().for_each(|symbol| _ = spec.wants(symbol));
        warnings.extend(spec.unmatched().map(|pattern| {
            let (at, seen) = (format!("detectors.{}.symbols", spec.name), symbols.len());
            format!("{at}: `{pattern}` matches none of {seen} symbols seen")
        }));
    }
    warnings
}
