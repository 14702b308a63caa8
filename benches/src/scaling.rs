//! What more workers bring, and what more symbols and more detectors cost.

use anyhow::Result;

use crate::{
    Bench,
    host::{BOTH, Project},
    recording::write_parquet,
    replay::replay,
    report::{Row, Target, number},
};

const SYMBOLS: usize = 200;

/// Room for the states of 100,000 symbols.
const ROOM: &str = "[plugins]\nmemory_max_mib = 4000\ncall_deadline_ms = 10000\n";

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = vec![of_workers(bench)?];
    rows.extend(of_symbols(bench)?);
    rows.extend(of_detectors(bench)?);
    Ok(rows)
}

/// So many times the same detector under different names.
fn breakouts(count: usize) -> String {
    (0..count).map(|n| format!("[detectors.breakout-{n}]\nplugin = \"breakout\"\n")).collect()
}

fn of_workers(bench: &Bench) -> Result<Row> {
    let (pairs, ticks) = bench.sized((3, 300_000), (7, 2_000_000));
    let project = Project::new(bench, None, &breakouts(10))?;
    let file = project.path("ticks.parquet");
    write_parquet(&file, SYMBOLS, ticks)?;
    replay(&project, &file, &[])?;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        bench.tell(&format!("workers: {pair} of {pairs}"));
        one.push(ticks as f64 / replay(&project, &file, &["--workers", "1"])?.seconds);
        two.push(ticks as f64 / replay(&project, &file, &["--workers", "2"])?.seconds);
    }
    Ok(Row::beside("10 detectors, 2 workers, replayed", "ticks/s", &two, "1 worker", &one)
        .target(Target::RatioAtLeast(1.8)))
}

fn of_symbols(bench: &Bench) -> Result<Vec<Row>> {
    let (rounds, ticks) = bench.sized((3, 500_000), (3, 6_000_000));
    let project = Project::new(bench, None, &format!("{ROOM}{BOTH}"))?;
    let counts = [10, 1000, 10_000, 100_000];
    for symbols in counts {
        write_parquet(&project.path(symbols.to_string()).with_extension("parquet"), symbols, ticks)?;
    }
    let mut ns = vec![Vec::new(); counts.len()];
    for round in 1..=rounds {
        bench.tell(&format!("symbols: {round} of {rounds}"));
        for (symbols, ns) in counts.iter().zip(&mut ns) {
            let file = project.path(symbols.to_string()).with_extension("parquet");
            ns.push(replay(&project, &file, &["--workers", "1"])?.cpu / ticks as f64 * 1e9);
        }
    }
    let row = |(symbols, taken): (&usize, &Vec<f64>)| {
        let what = format!("{} symbols, processor time of a tick", number(*symbols as f64));
        Row::beside(what, "ns", taken, "10 symbols", &ns[0]).target(Target::RatioAtMost(2.0))
    };
    Ok(counts.iter().zip(&ns).skip(1).map(row).collect())
}

fn of_detectors(bench: &Bench) -> Result<Vec<Row>> {
    let (rounds, ticks) = bench.sized((3, 200_000), (7, 1_000_000));
    let projects: Vec<Project> =
        [1, 10, 50].iter().map(|count| Project::new(bench, None, &breakouts(*count))).collect::<Result<_>>()?;
    for project in &projects {
        write_parquet(&project.path("ticks.parquet"), SYMBOLS, ticks)?;
    }
    let (mut to_10, mut to_50) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        bench.tell(&format!("detectors: {round} of {rounds}"));
        let mut ns = Vec::new();
        for project in &projects {
            let taken = replay(project, &project.path("ticks.parquet"), &["--workers", "1"])?;
            ns.push(taken.cpu / ticks as f64 * 1e9);
        }
        // What the one more costs: reading and decoding, which all share, is left out.
        to_10.push((ns[1] - ns[0]) / 9.0);
        to_50.push((ns[2] - ns[1]) / 40.0);
    }
    let what = "the 11th to the 50th detector, processor time of a tick in each";
    Ok(vec![Row::beside(what, "ns", &to_50, "the 2nd to the 10th", &to_10).target(Target::RatioAtMost(1.1))])
}
