//! `tickhound check`: is everything fit to run? Reads no tick, changes nothing.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::Prepared;
use crate::{config::Loaded, plugin::params::Value};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound check && tickhound run")]
pub(super) struct CheckArgs {
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs, loaded: &Loaded) -> Result<ExitCode> {
    let config = &loaded.config;
    let Prepared { generation, stream, .. } = Prepared::load(loaded)?;
    let reached = super::runtime()?.block_on(stream.check());
    if args.json {
        let detectors: Vec<_> = generation
            .detectors
            .iter()
            .map(|spec| {
                let params: serde_json::Map<String, serde_json::Value> =
                    spec.params.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
                json!({
                    "name": spec.name, "plugin": spec.plugin.manifest.name, "version": spec.plugin.manifest.version,
                    "file": spec.plugin.file, "sha256": spec.plugin.sha256, "params": params,
                    "min_confidence": spec.min_confidence,
                })
            })
            .collect();
        let redis = reached.as_ref().err().map(ToString::to_string);
        println!("{}", json!({ "ok": redis.is_none(), "redis_error": redis, "detectors": detectors }));
    } else {
        println!("ok: {}", loaded.source.at(&[]));
        for spec in &generation.detectors {
            let manifest = &spec.plugin.manifest;
            println!(
                "ok: detector {} = {} {} ({})",
                spec.name,
                manifest.name,
                manifest.version,
                spec.plugin.file.display()
            );
            for (name, value) in &spec.params {
                println!("      {name} = {}", to_json(value));
            }
        }
        match &reached {
            Ok(()) => println!("ok: redis at {}", config.stream.address()),
            Err(error) => eprintln!("error: redis at {}: {error}", config.stream.address()),
        }
    }
    Ok(if reached.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Flag(v) => json!(v),
        Value::Integer(v) => json!(v),
        Value::Number(v) => json!(v),
        Value::Text(v) => json!(v),
    }
}
