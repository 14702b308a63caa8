//! `tickhound check`: is everything fit to run? Reads no tick, changes nothing.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::Prepared;
use crate::notify;
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::params;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound check && tickhound run")]
pub(super) struct CheckArgs {
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let Prepared { loader, stream, .. } = Prepared::load(loaded)?;
    let generation = loader.newest();
    let told = notify::check(loaded)?;
    let reached = super::runtime()?.block_on(stream.check());
    if args.json {
        let detectors: Vec<_> = generation
            .detectors
            .iter()
            .map(|spec| {
                json!({
                    "name": spec.name, "plugin": spec.plugin.manifest.name, "version": spec.plugin.manifest.version,
                    "file": spec.plugin.file, "sha256": spec.plugin.sha256,
                    "params": params::to_json(&spec.params),
                    "min_confidence": spec.min_confidence, "trial_ns_per_tick": spec.trial_ns_per_tick,
                })
            })
            .collect();
        let redis = reached.as_ref().err().map(ToString::to_string);
        let notify: Vec<_> = told
            .iter()
            .map(|sink| json!({ "name": sink.name, "told": sink.what, "warnings": sink.warnings }))
            .collect();
        println!(
            "{}",
            json!({ "ok": redis.is_none(), "redis_error": redis, "detectors": detectors, "notify": notify })
        );
    } else {
        println!("ok: {}", loaded.source.at(&[]));
        for spec in &generation.detectors {
            let manifest = &spec.plugin.manifest;
            println!(
                "ok: detector {} = {} {} ({}), {} ns a tick in its trial",
                spec.name,
                manifest.name,
                manifest.version,
                spec.plugin.file.display(),
                spec.trial_ns_per_tick
            );
            for (name, value) in &spec.params {
                println!("      {name} = {value}");
            }
        }
        for notify::Finding { name, what, warnings } in &told {
            println!("ok: notify {name} = {what}");
            warnings.iter().for_each(|warning| println!("      warning: {warning}"));
        }
        match &reached {
            Ok(()) => println!("ok: redis at {}", config.stream.address()),
            Err(error) => eprintln!("error: redis at {}: {error}", config.stream.address()),
        }
    }
    Ok(if reached.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
