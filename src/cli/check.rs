//! `tickhound check`: checks configuration, plugins and Redis without reading ticks or changing anything.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::parts::Parts;
use crate::notify;
use tickhound_core::{config::LoadedConfig, stream::StreamError, wall::now_ms};
use tickhound_engine::plugin::{Generation, params};
use tickhound_redis::RedisStream;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound check && tickhound run")]
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
    if args.json {
        let detectors: Vec<_> = generation
            .detectors
            .iter()
            .map(|spec| {
                json!({
                    "name": spec.name, "plugin": spec.plugin.manifest.name, "version": spec.plugin.manifest.version,
                    "file": spec.plugin.file, "sha256": spec.plugin.sha256,
                    "params": params::to_json(&spec.params),
                    "min_confidence": spec.min_confidence, "trial_ns_per_tick": spec.trial.ns_per_tick,
                })
            })
            .collect();
        let redis = reached.as_ref().err().map(ToString::to_string);
        let notify: Vec<_> = channels
            .iter()
            .map(|channel| json!({ "name": channel.name, "told": channel.receiver, "warnings": channel.warnings }))
            .collect();
        crate::output::print_json(
            &json!({ "ok": redis.is_none(), "redis_error": redis, "detectors": detectors, "notify": notify,
                "warnings": warnings }),
        );
    } else {
        outln!("ok: {}", loaded.source.at(&[]));
        warnings.iter().for_each(|warning| outln!("      warning: {warning}"));
        for spec in &generation.detectors {
            let manifest = &spec.plugin.manifest;
            outln!(
                "ok: detector {} = {} {} ({}), {} ns per tick in its trial",
                spec.name,
                manifest.name,
                manifest.version,
                spec.plugin.file.display(),
                spec.trial.ns_per_tick
            );
            for (name, value) in &spec.params {
                outln!("      {name} = {value}");
            }
        }
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
