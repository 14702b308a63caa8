//! `tickhound replay` of recorded ticks, by the processor time of the whole process, start included.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{
    Bench,
    host::Project,
    measure::run_to_end,
    recording::{bare_csv, bare_parquet, write_csv, write_parquet},
    report::{Row, Target},
};

const SYMBOLS: usize = 200;

/// What a replay took.
pub(crate) struct Replayed {
    /// By the clock, from the first read to the last alert, s.
    pub(crate) seconds: f64,
    /// Processor time of the process from its start to its end, s.
    pub(crate) cpu: f64,
}

type Bare = fn(&Path, usize) -> Result<f64>;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (pairs, ticks) = bench.sized((3, 1_000_000), (7, 5_000_000));
    let project = Project::new(bench, None, "[detectors.breakout]\nplugin = \"breakout\"\n")?;
    let (parquet, csv) = (project.path("ticks.parquet"), project.path("ticks.csv"));
    write_parquet(&parquet, SYMBOLS, ticks)?;
    write_csv(&csv, SYMBOLS, ticks)?;
    let kinds: [(&str, &PathBuf, f64, Bare); 2] =
        [("Parquet", &parquet, 3e6, bare_parquet), ("CSV", &csv, 1e6, bare_csv)];
    let mut rows = Vec::new();
    for (name, file, target, bare) in kinds {
        replay(&project, file, &[])?;
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for pair in 1..=pairs {
            bench.tell(&format!("{name}: {pair} of {pairs}"));
            ours.push(ticks as f64 / replay(&project, file, &["--workers", "1"])?.cpu);
            plain.push(ticks as f64 / bare(file, ticks)?);
        }
        let what = format!("{name}, breakout, ticks a second of processor time");
        rows.push(
            Row::beside(what, "ticks/s", &ours, "reading the file alone", &plain).target(Target::AtLeast(target)),
        );
    }
    Ok(rows)
}

/// Replays a file of the project with its detectors.
pub(crate) fn replay(project: &Project, file: &Path, more: &[&str]) -> Result<Replayed> {
    let file = file.to_string_lossy();
    let (printed, cpu) = run_to_end(&mut project.command(&[&["replay", &file, "--json"], more].concat())?)?;
    let summary: serde_json::Value = serde_json::from_str(&printed).context("a replay's summary is JSON")?;
    let seconds = summary["seconds"].as_f64().context("a replay tells how long it took")?;
    Ok(Replayed { seconds, cpu })
}
