//! From the moment that a tick is due to be published to the moment that its alert can be read.
//!
//! Ticks are published by the clock, whether or not anything keeps up, and time counts from when each was *due*: a
//! stall is felt by all that came meanwhile. Every so many ticks comes one of a symbol of its own, and a detector that
//! sees only that symbol alerts on each; both detectors that ship see everything. Feed, Redis, host and reader share
//! the cores of the machine.

use std::{
    fs, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tickhound_core::{event::EntryId, simulate::Layout};

use crate::{
    Bench,
    host::{BOTH, Project},
    market::Market,
    measure::pause,
    report::{Row, Target},
    server::{ALERTS, STREAM, Server},
    wire::{Commands, Token},
};

const SYMBOLS: usize = 200;

/// Alerts a second that are waited for.
const PROBES: u64 = 500;

/// The symbol that only the probe sees.
const SYMBOL: &str = "PROBE";

/// What comes before counts as warming up.
const WARM_UP: Duration = Duration::from_secs(1);

/// Between two looks of the feed at the clock, if nothing is due.
const NAP: Duration = Duration::from_micros(50);

/// Percentiles, and what each may be, ms.
const PERCENTILES: [(f64, &str, f64); 3] = [(0.5, "p50", 0.5), (0.99, "p99", 2.0), (0.999, "p99.9", 5.0)];

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let probe = bench.probe.as_ref().context("the probe is not built")?;
    let (runs, seconds) = bench.sized((1, 4), (5, 11));
    let mut rows = Vec::new();
    for rate in [10_000, 50_000] {
        let mut measured = Vec::new();
        for run in 1..=runs {
            bench.tell(&format!("{rate} ticks/s: {run} of {runs}"));
            let server = Server::start()?;
            let config = format!("{BOTH}[detectors.probe]\nplugin = \"probe\"\nsymbols = [\"{SYMBOL}\"]\n");
            let project = Project::new(bench, Some(&server), &config)?;
            fs::copy(probe, project.path("plugins/probe.wasm"))?;
            measured.push(one_run(&server, &project, rate, rate * seconds)?);
        }
        for (share, name, most) in PERCENTILES {
            let values: Vec<f64> = measured.iter().map(|run| percentile(&run.latencies, share)).collect();
            let what = format!("{} a second, {name} from due to readable alert", crate::report::number(rate as f64));
            rows.push(Row::alone(what, "ms", &values).target(Target::AtMost(most)));
        }
        for (share, name, _) in PERCENTILES {
            let lates: Vec<f64> = measured.iter().map(|run| percentile(&run.lateness, share)).collect();
            rows.push(Row::alone(format!("of it, how late the feed itself was, {name}"), "ms", &lates));
        }
    }
    Ok(rows)
}

/// Sorted, ms.
struct Latencies {
    latencies: Vec<f64>,
    lateness: Vec<f64>,
}

fn one_run(server: &Server, project: &Project, rate: u64, ticks: u64) -> Result<Latencies> {
    let plan = Plan::new(rate, ticks)?;
    let host = project.start(&["run"])?;
    host.wait_for_log("event=\"lease_acquired\"")?;
    let start = Instant::now() + Duration::from_millis(300);
    let due = |tick: u64| start + Duration::from_nanos(tick * 1_000_000_000 / rate);
    let warm = WARM_UP.as_secs() * rate;
    let (read, fed) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_alerts(server, plan.probes()));
        let feeder = scope.spawn(|| feed(server, &plan, start, &due));
        let joined = |error: &str| anyhow!("{error} panicked");
        (reader.join().map_err(|_| joined("the reader")), feeder.join().map_err(|_| joined("the feed")))
    });
    let (read, fed) = (read??, fed??);
    ensure!(server.length(STREAM)? == ticks, "{} of {ticks} ticks were published", server.length(STREAM)?);
    host.stop()?;
    let sorted = |times: &[(u64, Instant)]| {
        let after = times.iter().filter(|(tick, _)| *tick >= warm);
        let mut ms: Vec<f64> =
            after.map(|(tick, at)| at.saturating_duration_since(due(*tick)).as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        ms
    };
    Ok(Latencies { latencies: sorted(&read), lateness: sorted(&fed) })
}

/// Everything that is to be published, ready to be sent.
struct Plan {
    bytes: Vec<u8>,
    /// Where each tick's command begins, and the end.
    begins: Vec<usize>,
    every: u64,
}

impl Plan {
    fn new(rate: u64, ticks: u64) -> Result<Self> {
        // At the rate at which they are published, so that event time advances with the clock.
        let mut market = Market::new(SYMBOLS, rate as f64 / SYMBOLS as f64, Layout::Json);
        let every = rate / PROBES;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        let (mut commands, mut begins) = (Commands::default(), vec![0]);
        for tick in 0..ticks {
            // The alert names the entry, and thus the tick that caused it.
            let id = format!("{}-{tick}", now_ms + tick * 1000 / rate);
            match tick % every {
                1 => market.publish_other(&mut commands, SYMBOL, &id),
                _ => market.publish(&mut commands, &[], &id)?,
            }
            begins.push(commands.0.len());
        }
        Ok(Self { bytes: commands.0, begins, every })
    }

    fn ticks(&self) -> u64 {
        self.begins.len() as u64 - 1
    }

    fn is_probe(&self, tick: u64) -> bool {
        tick % self.every == 1
    }

    fn probes(&self) -> usize {
        (0..self.ticks()).filter(|tick| self.is_probe(*tick)).count()
    }
}

/// Publishes each tick when it is due; when the probes went out.
fn feed(server: &Server, plan: &Plan, start: Instant, due: &impl Fn(u64) -> Instant) -> Result<Vec<(u64, Instant)>> {
    let mut wire = server.wire()?;
    wire.output.command(&[b"CLIENT", b"REPLY", b"OFF"]);
    wire.send()?;
    let (mut sent, mut went) = (0, Vec::new());
    while sent < plan.ticks() {
        let now = Instant::now();
        let mut until = sent;
        while until < plan.ticks() && due(until) <= now {
            until += 1;
        }
        if until == sent || now < start {
            pause(NAP);
            continue;
        }
        wire.raw(&plan.bytes[plan.begins[sent as usize]..plan.begins[until as usize]]);
        wire.send()?;
        let at = Instant::now();
        went.extend((sent..until).filter(|tick| plan.is_probe(*tick)).map(|tick| (tick, at)));
        sent = until;
    }
    // Closing the connection at once could lose what the server has not read yet.
    pause(Duration::from_millis(500));
    Ok(went)
}

/// Reads alerts as they come until each probe has had its one; the tick that each was about, and when it came.
fn read_alerts(server: &Server, probes: usize) -> Result<Vec<(u64, Instant)>> {
    let mut wire = server.wire()?;
    wire.patience(Duration::from_secs(30))?;
    let (mut last, mut came) = ("0-0".to_owned(), Vec::new());
    while came.len() < probes {
        let words = ["XREAD", "BLOCK", "0", "COUNT", "10000", "STREAMS", ALERTS, &last];
        wire.output.command(&words.map(str::as_bytes));
        wire.send()?;
        let missing = || format!("{} of {probes} alerts have come", came.len());
        wire.array_of(1).with_context(missing)?;
        let at = Instant::now();
        wire.array_of(2)?;
        wire.skip_answers(1)?;
        let Token::Array(alerts) = wire.token()? else { bail!("the alerts of a read are no array") };
        for _ in 0..alerts {
            wire.array_of(2)?;
            last = text(&mut wire)?;
            let Token::Array(fields) = wire.token()? else { bail!("an alert without fields") };
            let (mut is_probe, mut entry) = (false, EntryId::ZERO);
            for _ in 0..fields / 2 {
                match text(&mut wire)?.as_str() {
                    "detector" => is_probe = text(&mut wire)? == "probe",
                    "entry" => entry = text(&mut wire)?.parse()?,
                    _ => wire.skip_answers(1)?,
                }
            }
            if is_probe {
                came.push((entry.seq, at));
            }
        }
    }
    Ok(came)
}

fn text(wire: &mut crate::wire::Wire) -> Result<String> {
    let Token::Bulk(length) = wire.token()? else { bail!("text was expected") };
    Ok(String::from_utf8(wire.take(length)?.to_vec())?)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted
        .get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
