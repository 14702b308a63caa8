//! `tickhound demo`: runs the whole engine on a simulated market, without Redis.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;
use tracing::info;

use super::author;
use tickhound_core::{
    config::{AlertsConfig, LoadedConfig},
    decode::Decoder,
    normalize::Normalizer,
    simulate::SimConfig,
};
use tickhound_engine::{
    partition::{Partition, Stages, Until},
    plugin::{Generation, Isolation, Reload, Runtime},
    simulated::{CommitSummary, SimulatedStream},
    sink::Sinks,
    stats::{self, Stats},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound demo --seconds 20 --symbols 200")]
pub(super) struct DemoArgs {
    /// Seconds to run; Ctrl-C stops earlier.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Number of instruments: options, futures, stocks, indices.
    #[arg(long, default_value_t = 60)]
    symbols: usize,
    /// Seed of the simulated market; the same seed gives the same ticks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Speed of the market, in multiples of real time.
    #[arg(long, default_value_t = 120.0)]
    speed: f64,
    /// Share of ticks with faults like those of real feeds, 0 to 1.
    #[arg(long, default_value_t = 0.01)]
    dirt: f64,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &DemoArgs) -> Result<ExitCode> {
    // The settings that ship are so rare that a demo of a minute would show nothing.
    let loaded: LoadedConfig = author::shipped_with_defaults()?;
    let config = &loaded.config;
    crate::clock::set_zone(config.display_zone()?);
    let decoder = Decoder::new(&config.input, Path::new("."))?;
    let runtime = Runtime::new(None, Isolation::InProcess)?;
    let plugins = author::SHIPPED.map(|(name, bytes)| (name, PathBuf::from(format!("plugins/{name}.wasm")), bytes));
    let generation = Generation::embedded(&runtime, &loaded, decoder.column_names(), &plugins)?;
    generation.log_loaded();
    let sim = SimConfig { symbols: args.symbols, seed: args.seed, dirt: args.dirt, ..SimConfig::default() };
    let (stream, committed) = SimulatedStream::new(&sim, args.speed);
    let stats = Arc::new(Stats::default());
    let alerts = AlertsConfig { log: !args.json, ..config.alerts.clone() };
    let stages = Stages {
        reloads: Reload::fixed(generation),
        decoder,
        normalizer: Normalizer::new(&config.input, &config.session.sessions)?,
        sinks: Sinks::new(&alerts),
        stats: stats.clone(),
    };
    let engine = Partition::new(stream, config, stages);
    info!(
        event = "demo_started",
        symbols = args.symbols,
        workers = config.engine.worker_count(),
        "simulating a market at {} times real speed; detectors first warm up for 5 to 10 minutes of market time. They \
         alert far more often here than with the settings of config/config.toml, so that there is something to see",
        args.speed
    );
    let started = Instant::now();
    super::process::runtime()?.block_on(async {
        let stop = super::process::stop_on_signal(None)?;
        let stopped = stop.subscribe();
        let seconds = args.seconds;
        tokio::spawn(async move {
            // Nobody sees more of it once its output is closed.
            let _ = tokio::time::timeout(Duration::from_secs(seconds), super::process::output_closed()).await;
            stop.send_replace(true);
        });
        tokio::spawn(stats::log_progress(stats.clone(), Duration::from_secs(5)));
        engine.run(Until::Stopped, stopped).await
    })?;
    let seconds = started.elapsed().as_secs_f64();
    print(args, &committed.lock().expect("the engine has ended"), seconds);
    Ok(ExitCode::SUCCESS)
}

fn print(args: &DemoArgs, committed: &CommitSummary, seconds: f64) {
    let totals = committed.totals;
    if args.json {
        let by_detector = &committed.by_detector;
        crate::output::print_json(&json!({ "seconds": seconds, "totals": totals, "alerts_by_detector": by_detector }));
        return;
    }
    outln!();
    outln!(
        "{} entries of {} symbols in {seconds:.0} s: {:.0} minutes of market time, {:.0} entries/s",
        totals.entries,
        args.symbols,
        committed.covered.as_secs_f64() / 60.0,
        totals.entries as f64 / seconds
    );
    outln!("{} dead letters (undecodable), {} entries without alerts", totals.dead, totals.quiet);
    for (detector, count) in &committed.by_detector {
        let clearest = &committed.clearest[detector];
        let evidence: Vec<String> =
            clearest.evidence.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        outln!(
            "{count:>6} alerts by {detector}; the clearest: {} {} at {}, {:.2} confidence ({})",
            clearest.symbol,
            clearest.direction.as_str(),
            clearest.price,
            clearest.confidence,
            evidence.join(", ")
        );
    }
    outln!("Next: README.md, \"With your Redis in 5 minutes\".");
}
