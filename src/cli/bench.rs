//! `tickhound bench`: measures what a detector costs on this machine.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use serde_json::json;

use super::author::{self, SHIPPED, Subject};
use crate::authoring::kit::cost::{self, Candidate, Cost, Plan};
use tickhound_core::{config::LoadedConfig, decode::Decoder};
use tickhound_engine::plugin::{Generation, Isolation, Limits, Runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound bench opening-drive
  tickhound bench plugins/momentum.wasm --params n=24 --symbols 1000

The ticks are simulated. Each figure has a reference beside it: the shipped detector `breakout`, measured alternately in
the same run. Compare ratios, not figures, between runs or machines.")]
pub(super) struct BenchArgs {
    /// The folder of a project, which is built; a .wasm file; or the name of a plugin.
    #[arg(default_value = ".")]
    plugin: PathBuf,
    /// Set a parameter. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Number of symbols.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    symbols: u32,
    /// Number of ticks.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    ticks: u64,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchArgs, loaded: LoadedConfig) -> Result<ExitCode> {
    let mut loaded = loaded;
    let Subject { name, file, bytes, .. } = Subject::find(&args.plugin, &loaded)?;
    let bar = indicatif::ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    let progress = |step: &str| bar.set_message(step.to_owned());
    progress("compiling the plugin");
    let cache = tempfile_dir()?;
    let limits = Limits::of(&loaded.config.plugins);
    let measured = cost::compile(&name, &file, &bytes, &loaded.config.plugins, &cache);
    let _ = std::fs::remove_dir_all(&cache);
    let compiled = measured?;
    let plugin = compiled.plugin.clone();
    // The simulated market publishes ticks in the default format.
    loaded.config.input = tickhound_core::config::InputConfig::default();
    author::only(&mut loaded, &name, &args.params)?;
    let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
    let generation = |loaded: &LoadedConfig, mut plugin: std::sync::Arc<tickhound_engine::plugin::Plugin>| {
        Generation::build(loaded, decoder.column_names(), None, &mut plugin)
    };
    let own = generation(&loaded, plugin.clone())?;
    let yardstick = "breakout";
    let (_, shipped) =
        SHIPPED.iter().find(|(name, _)| *name == yardstick).context("`breakout` is part of the program")?;
    let mut other = loaded.clone();
    author::only(&mut other, yardstick, &[])?;
    let runtime = Runtime::new(None, Isolation::InProcess)?;
    let other = generation(&other, runtime.compile(yardstick, &PathBuf::from(yardstick), shipped, limits)?)?;
    let candidate = Candidate { generation: own, compiled };
    let plan = Plan { symbols: args.symbols, ticks: args.ticks };
    let measured =
        super::process::runtime()?.block_on(cost::measure(candidate, &other.detectors[0], &loaded, &plan, &progress));
    bar.finish_and_clear();
    let cost = measured?;
    let manifest = &plugin.manifest;
    if args.json {
        crate::output::print_json(
            &json!({ "plugin": manifest.name, "version": manifest.version, "sha256": plugin.sha256, "bytes": bytes.len(), "yardstick": yardstick, "cost": cost }),
        );
    } else {
        outln!("{} {}, {} bytes; beside it {yardstick}", manifest.name, manifest.version, bytes.len());
        outln!();
        print(&cost);
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder for the compiled plugin; `run` removes it.
fn tempfile_dir() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("tickhound-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(dir)
}

fn print(cost: &Cost) {
    outln!("rows per call  ns per tick  (least to most)       breakout   ratio   longest call");
    for row in &cost.per_tick {
        let ratio = row.ns.median / row.baseline_ns.median;
        outln!(
            "{:>13} {:>12.0}  ({:.0} to {:.0}){:pad$} {:>9.0} {ratio:>7.2} {:>11.2} ms",
            row.batch,
            row.ns.median,
            row.ns.least,
            row.ns.most,
            "",
            row.baseline_ns.median,
            row.longest_call_ms,
            pad = 18usize.saturating_sub(format!("({:.0} to {:.0})", row.ns.least, row.ns.most).len()),
        );
    }
    let kib = |bytes: f64| format!("{:.1} KiB", bytes / 1024.0);
    outln!();
    outln!(
        "memory         {} at start, {} per symbol ({} symbols, {} rows)",
        kib(cost.memory_at_start as f64),
        kib(cost.memory_per_symbol),
        cost.symbols,
        cost.ticks
    );
    outln!("saved state    {:.0} bytes per symbol", cost.state_per_symbol);
    outln!(
        "start          {:.0} ms to compile, {:.1} ms from the cache, {:.2} ms per instance",
        cost.compile_ms,
        cost.load_ms,
        cost.start_ms.median
    );
    outln!(
        "throughput     {:.0} ticks/s on this machine, {} workers, with this detector alone",
        cost.engine_ticks_per_second,
        cost.workers
    );
}
