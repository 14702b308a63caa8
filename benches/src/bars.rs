//! What fifty detectors cost that see bars of a minute, which the host builds once for all of them; beside as many that see
//! every tick.

use std::fs;

use anyhow::{Context, Result};
use tickhound_core::simulate::Layout;

use crate::{
    Bench,
    host::Project,
    market::Market,
    recording::write_parquet,
    replay::replay,
    report::{Row, Target},
    server::Server,
};

const SYMBOLS: usize = 200;

/// The rate of recordings: about a hundred ticks in a bar.
const RATE: f64 = 1.5;

const MANY: usize = 50;

/// A detector of bars, built by the caller, that does next to nothing: what fifty of them cost is what the host adds for each.
const LIGHT: &str = "light";

/// The detector of bars that ships, whose own work is part of what fifty cost.
const OF_BARS: &str = "residual-move";

/// Fifty of them take so long that fewer ticks do.
const OF_TICKS: &str = "breakout";

/// What the detector of bars that ships needs: the values of its index.
const INDEX: &str = "[context.index]\nsymbol = \"NIFTY\"\n";

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, plugin, target) in [
        ("light detectors of bars of a minute", LIGHT, Some(Target::RatioAtMost(1.5))),
        ("`residual-move` with bars of a minute", OF_BARS, None),
        ("`breakout`, which sees every tick", OF_TICKS, None),
    ] {
        for row in [replayed(bench, what, plugin)?, drained(bench, what, plugin)?] {
            rows.push(match target {
                Some(target) => row.target(target),
                None => row,
            });
        }
    }
    Ok(rows)
}

/// A project with so many times the same detector.
fn project(bench: &Bench, server: Option<&Server>, plugin: &str, count: usize) -> Result<Project> {
    let project = Project::new(bench, server, &detectors(plugin, count))?;
    let light = bench.light.as_ref().context("the light detector is not built")?;
    fs::copy(light, project.path("plugins").join(format!("{LIGHT}.wasm")))?;
    Ok(project)
}

/// So many times the same detector under different names.
fn detectors(plugin: &str, count: usize) -> String {
    let one = |n: usize| format!("[detectors.{plugin}-{n}]\nplugin = \"{plugin}\"\n");
    let index = if plugin == OF_BARS { INDEX } else { "" };
    std::iter::once(index.to_owned()).chain((0..count).map(one)).collect()
}

fn replayed(bench: &Bench, what: &str, plugin: &str) -> Result<Row> {
    let full = if plugin == OF_TICKS { (3, 500_000) } else { (7, 2_000_000) };
    let (rounds, ticks) = bench.sized((3, 500_000), full);
    let (one, many) = (project(bench, None, plugin, 1)?, project(bench, None, plugin, MANY)?);
    let file = one.path("ticks.parquet");
    write_parquet(&file, SYMBOLS, ticks)?;
    let cost = |project: &Project| -> Result<f64> {
        Ok(replay(project, &file, &["--workers", "1"])?.cpu / ticks as f64 * 1e9)
    };
    compared(bench, (what, "replayed", "replayed"), rounds, (|| cost(&one), || cost(&many)))
}

/// From Redis: the host reads as many entries at once as by default.
fn drained(bench: &Bench, what: &str, plugin: &str) -> Result<Row> {
    let full = if plugin == OF_TICKS { (3, 200_000) } else { (7, 600_000) };
    let (rounds, ticks) = bench.sized((3, 200_000), full);
    let server = Server::start()?;
    Market::new(SYMBOLS, RATE, Layout::Flat).publish_many(&mut server.wire()?, &[], ticks)?;
    let (one, many) = (project(bench, Some(&server), plugin, 1)?, project(bench, Some(&server), plugin, MANY)?);
    let cost = |project: &Project| -> Result<f64> {
        Ok(server.drained_by(&mut project.command(&["run", "--drain"])?)?.client_cpu / ticks as f64 * 1e9)
    };
    compared(bench, (what, "from Redis", "Redis to committed alerts"), rounds, (|| cost(&one), || cost(&many)))
}

/// The cost of many detectors beside that of one, in turns. The second text says how, while it is measured, and the third in the
/// table.
fn compared(
    bench: &Bench,
    (what, told, shown): (&str, &str, &str),
    rounds: usize,
    (one, many): (impl Fn() -> Result<f64>, impl Fn() -> Result<f64>),
) -> Result<Row> {
    // The first run compiles the plugin.
    one()?;
    many()?;
    let (mut of_one, mut of_many) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        bench.tell(&format!("{what}, {told}: {round} of {rounds}"));
        of_one.push(one()?);
        of_many.push(many()?);
    }
    let what = format!("{MANY} × {what}, {shown}, processor time of a tick");
    Ok(Row::beside(what, "ns", &of_many, "1 detector", &of_one))
}
