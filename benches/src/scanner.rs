//! What the users have today: a scanner in Python, as they describe it, and the best that can be made of it.

use std::process::Command;

use anyhow::{Context, Result};
use tickhound_core::simulate::Layout;

use crate::{
    Bench,
    host::{BOTH, Project},
    market::Market,
    report::{Row, Target},
    server::{ALERTS, GROUP, STREAM, Server},
};

/// So many that each symbol's detectors are long warm.
const TICKS_A_SYMBOL: u64 = 2400;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let python = bench.python.as_ref().context("the scanner's Python is not built; run without --quick once")?;
    let (pairs, symbols) = bench.sized((1, 20), (3, 50));
    let ticks = symbols * TICKS_A_SYMBOL;
    let server = Server::start()?;
    Market::new(symbols as usize, 1.5, Layout::Json).publish_many(&mut server.wire()?, &[], ticks)?;
    let project = Project::new(bench, Some(&server), BOTH)?;
    let measured = |command: &mut Command| -> Result<(f64, f64)> {
        let drained = server.drained_by(command)?;
        Ok((ticks as f64 / drained.seconds, server.length(ALERTS)? as f64))
    };
    let scanner = |mode: &str| {
        let mut command = Command::new(python);
        command.arg("-B").arg(bench.root.join("benches/scanner/scanner.py")).args(["--mode", mode]);
        command.args(["--port", &server.port.to_string(), "--key", STREAM, "--group", GROUP, "--alerts", ALERTS]);
        command
    };
    measured(&mut project.command(&["run", "--drain"])?)?;
    let (mut ours, mut quo, mut fair) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=pairs {
        bench.tell(&format!("{pair} of {pairs}"));
        ours.push(measured(&mut project.command(&["run", "--drain"])?)?);
        quo.push(measured(&mut scanner("status-quo"))?);
        fair.push(measured(&mut scanner("fair"))?);
    }
    let rates = |runs: &[(f64, f64)]| -> Vec<f64> { runs.iter().map(|run| run.0).collect() };
    let alerts = |runs: &[(f64, f64)]| -> Vec<f64> { runs.iter().map(|run| run.1).collect() };
    let row =
        |what: &str, other: &str, runs: &[(f64, f64)]| Row::beside(what, "ticks/s", &rates(&ours), other, &rates(runs));
    Ok(vec![
        row("JSON, Redis to committed alerts", "Python scanner", &quo).target(Target::RatioAtLeast(30.0)),
        row("beside the best of it", "Python, large reads, no pool", &fair),
        Row::beside("alerts that were raised", "", &alerts(&ours), "Python scanner", &alerts(&quo)),
        Row::beside("alerts, beside the best of it", "", &alerts(&ours), "Python", &alerts(&fair)),
    ])
}
