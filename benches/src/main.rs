//! `cargo xtask bench`: how fast Tickhound is, beside what it could be at most and what others are.
//!
//! What holds: a figure and its baseline are taken in turns in one run, on the same ticks, so that what the machine
//! does beside it meets both. Medians of several, with least and most. A missed target is reported as such, and is not an error.

mod bare;
mod bars;
mod checkpoint;
mod detectors;
mod guest;
mod host;
mod latency;
mod machine;
mod market;
mod measure;
mod memory;
mod pipeline;
mod recording;
mod replay;
mod report;
mod scaling;
mod scanner;
mod server;
mod start;
mod wire;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::report::Row;

type Suite = fn(&Bench) -> Result<Vec<Row>>;

/// In the order of the document.
const SUITES: [(&str, Suite); 10] = [
    ("pipeline", pipeline::run),
    ("scanner", scanner::run),
    ("guest", guest::run),
    ("latency", latency::run),
    ("replay", replay::run),
    ("scaling", scaling::run),
    ("bars", bars::run),
    ("memory", memory::run),
    ("start", start::run),
    ("checkpoint", checkpoint::run),
];

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, prints a table, and writes docs/PERFORMANCE.md unless it was quick.
    Run(RunArgs),
    /// A baseline; the suites start it.
    Bare(bare::BareArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// Fewer and shorter measurements; nothing is written.
    #[arg(long)]
    quick: bool,
    /// Only this suite. May be repeated.
    #[arg(long, value_name = "SUITE", value_parser = SUITES.map(|(name, _)| name))]
    only: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The built host.
    #[arg(long)]
    host: PathBuf,
    /// A detector that alerts on every tick it is given.
    #[arg(long)]
    probe: Option<PathBuf>,
    /// A detector of bars that does next to nothing.
    #[arg(long)]
    light: Option<PathBuf>,
    /// A Python with the scanner's packages.
    #[arg(long)]
    python: Option<PathBuf>,
    /// The built peers.
    #[arg(long)]
    peers: Option<PathBuf>,
}

/// What suites are given.
pub(crate) struct Bench {
    quick: bool,
    /// The repository.
    pub(crate) root: PathBuf,
    /// This program.
    pub(crate) program: PathBuf,
    pub(crate) host: PathBuf,
    pub(crate) probe: Option<PathBuf>,
    pub(crate) light: Option<PathBuf>,
    pub(crate) python: Option<PathBuf>,
    pub(crate) peers: Option<PathBuf>,
}

impl Bench {
    /// The first of both if it is to be quick.
    pub(crate) fn sized<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// What is being done, for who waits.
    pub(crate) fn tell(&self, what: &str) {
        eprintln!("  {what}");
    }
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Bare(args) => bare::drain(&args).map(|()| true),
        Command::Run(args) => run(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every suite could be measured.
fn run(args: RunArgs) -> Result<bool> {
    let RunArgs { quick, only, json, host, probe, light, python, peers } = args;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("benches is in the repository")?.to_path_buf();
    // Programs are started in other folders.
    let absolute = |path: PathBuf| path.canonicalize().with_context(|| format!("can't find {}", path.display()));
    let host = absolute(host)?;
    let bench = Bench { quick, root, program: env::current_exe()?, host, probe, light, python, peers };
    let document = bench.root.join("docs/PERFORMANCE.md");
    let facts = machine::facts(&bench)?;
    let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let (mut all, mut suites, mut failed) = (Vec::new(), serde_json::Map::new(), false);
    for (name, suite) in SUITES.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|only| only == name)) {
        eprintln!("{name}");
        match suite(&bench) {
            Ok(rows) => {
                if !quick {
                    let taken = format!("`cargo xtask bench --only {name}`, {date}.");
                    report::write_section(&document, name, &report::section(&rows, &taken))?;
                }
                suites.insert((*name).to_owned(), json!(rows));
                all.extend(rows);
            }
            Err(error) => {
                failed = true;
                eprintln!("error: {name} can't be measured: {error:#}");
            }
        }
    }
    if !quick {
        report::write_section(&document, "machine", &facts)?;
    }
    if json {
        println!("{}", json!({ "date": date, "machine": facts, "quick": quick, "suites": suites }));
    } else {
        println!("\n{facts}\n{}", report::table(&all));
    }
    Ok(!failed)
}
