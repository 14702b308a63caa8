//! The whole way, from entries in Redis to alerts that are committed, beside the bare drain of the same entries.

use std::process::Command;

use anyhow::{Result, ensure};
use tickhound_core::{config::Config, simulate::Layout};

use crate::{
    Bench,
    host::{BOTH, Project},
    market::Market,
    report::{Row, Target},
    server::{ALERTS, Drained, GROUP, STREAM, Server},
};

/// As many as the users of the old scanner watch.
const SYMBOLS: usize = 200;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (pairs, ticks) = bench.sized((3, 300_000), (7, 600_000));
    let mut rows = Vec::new();
    for (name, layout) in [("flat", Layout::Flat), ("JSON", Layout::Json)] {
        rows.extend(of_layout(bench, name, layout, pairs, ticks)?);
    }
    Ok(rows)
}

fn of_layout(bench: &Bench, name: &str, layout: Layout, pairs: usize, ticks: u64) -> Result<Vec<Row>> {
    let server = Server::start()?;
    bench.tell(&format!("publishing {ticks} ticks, {name}"));
    Market::new(SYMBOLS, 1.5, layout).publish_many(&mut server.wire()?, &[], ticks)?;
    let project = Project::new(bench, Some(&server), BOTH)?;
    let host = || -> Result<Drained> {
        let drained = server.drained_by(&mut project.command(&["run", "--drain"])?)?;
        ensure!(server.length(ALERTS)? > 0, "no alert was raised");
        Ok(drained)
    };
    let bare = |more: &[&str]| server.drained_by(&mut bare(bench, &server, more)?);
    // The first run compiles the plugins, and warms everything.
    host()?;
    let (mut ours, mut plain, mut fenced, mut ahead) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=pairs {
        bench.tell(&format!("{name}: {pair} of {pairs}"));
        ours.push(host()?);
        plain.push(bare(&[])?);
        fenced.push(bare(&["--fence"])?);
        ahead.push(bare(&["--ahead"])?);
    }
    let rate = |runs: &[Drained]| -> Vec<f64> { runs.iter().map(|run| ticks as f64 / run.seconds).collect() };
    let cost = |seconds: fn(&Drained) -> f64, runs: &[Drained]| -> Vec<f64> {
        runs.iter().map(|run| seconds(run) / ticks as f64 * 1e6).collect()
    };
    let beside = |what: &str, other: &str, runs: &[Drained]| {
        Row::beside(format!("{name}, {what}"), "ticks/s", &rate(&ours), other, &rate(runs))
    };
    let cpu = |what: &str, seconds: fn(&Drained) -> f64| {
        let (ours, theirs) = (cost(seconds, &ours), cost(seconds, &plain));
        Row::beside(format!("{name}, {what}"), "µs/tick", &ours, "bare drain", &theirs)
    };
    Ok(vec![
        beside("Redis to committed alerts", "bare drain", &plain).target(Target::RatioAtLeast(0.8)),
        beside("beside a fenced drain", "MULTI/EXEC", &fenced),
        beside("beside one that reads ahead", "two reads on their way", &ahead),
        cpu("processor time of the host", |run| run.client_cpu),
        cpu("processor time of Redis", |run| run.server_cpu),
        cpu("both together", |run| run.client_cpu + run.server_cpu),
    ])
}

/// This program again, as a bare drain in batches as large as the host's.
pub(crate) fn bare(bench: &Bench, server: &Server, more: &[&str]) -> Result<Command> {
    let count = Config::default().stream.batch.to_string();
    let mut command = Command::new(&bench.program);
    command.args(["bare", "--port", &server.port.to_string(), "--key", STREAM, "--group", GROUP, "--count", &count]);
    command.args(more);
    Ok(command)
}
