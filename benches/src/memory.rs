//! What detectors take for each symbol when their windows are full, and whether a host that runs for long takes more.

use anyhow::{Context, Result, anyhow};
use tickhound_core::{
    event::{Batch, TickRow, column, flag},
    simulate::{Layout, SimConfig, Simulator},
};
use tickhound_engine::plugin::DetectorSpec;

use crate::{
    Bench,
    detectors::generation,
    host::{BOTH, Project, wait_for},
    market::Market,
    measure::memory_bytes,
    report::{Row, Target, number},
    server::{Group, Server},
};

/// Ten minutes of the market at its usual rate: twice the longest window.
const TICKS_A_SYMBOL: usize = 900;

const ROWS_A_CALL: usize = 2000;

/// Entries that the stream keeps in the long run, and how far its feed may be ahead of the host.
const KEPT: &str = "200000";
const AHEAD: u64 = 50_000;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    // Room for them all, whatever the limit is.
    let generation = generation(bench, &format!("[plugins]\nmemory_max_mib = 4000\n{BOTH}"))?;
    let mut rows = Vec::new();
    for symbols in bench.sized(&[1000, 10_000][..], &[1000, 10_000, 50_000]) {
        bench.tell(&format!("{symbols} symbols"));
        for (spec, course) in
            generation.detectors.iter().flat_map(|spec| [(spec, Course::Usual), (spec, Course::Worst)])
        {
            let of = if course == Course::Worst { ", prices that only fall" } else { "" };
            let what = format!("{}, {} symbols{of}: memory for each", spec.name, number(*symbols as f64));
            let kib = of_symbol(spec, *symbols, course)? / 1024.0;
            rows.push(Row::alone(what, "KiB", &[kib]).target(Target::AtMost(30.0)));
        }
    }
    rows.extend(long_run(bench)?);
    Ok(rows)
}

/// Which way prices go.
#[derive(Clone, Copy, PartialEq)]
enum Course {
    /// As in the simulated market.
    Usual,
    /// Each below the last, by ever more: nothing in a window is covered by what came later, and no two moves are alike.
    Worst,
}

/// What an instance takes more than at its start, by symbol, bytes.
fn of_symbol(spec: &DetectorSpec, symbols: usize, course: Course) -> Result<f64> {
    let failed = |fault| anyhow!("{} failed: {fault}", spec.name);
    let mut market = Simulator::new(&SimConfig { symbols, dirt: 0.0, ..SimConfig::default() });
    let mut instance = spec.start().map_err(failed)?;
    let at_start = instance.memory_bytes();
    let names: Vec<(u32, &str)> =
        (0..).zip(market.instruments()).map(|(id, instrument)| (id, instrument.symbol.as_str())).collect();
    for part in names.chunks(1000) {
        instance.introduce(part).map_err(failed)?;
    }
    let (mut traded, mut fallen) = (vec![0; symbols], vec![0_i32; symbols]);
    let mut left = symbols * TICKS_A_SYMBOL;
    while left > 0 {
        let mut batch = Batch::new(column::NAMES.len());
        for _ in 0..left.min(ROWS_A_CALL) {
            let tick = market.next().context("the simulated market never ends")?;
            let before = std::mem::replace(&mut traded[tick.instrument as usize], tick.cum_volume);
            let quantity = tick.cum_volume.saturating_sub(before);
            let mut columns = [f64::NAN; column::NAMES.len()];
            columns[column::QUANTITY] = quantity as f64;
            columns[column::FLAGS] = f64::from(if quantity == 0 { flag::QUOTE_ONLY } else { 0 });
            let mut price = tick.price;
            if course == Course::Worst {
                let fallen = &mut fallen[tick.instrument as usize];
                *fallen += 1;
                price = 1e6 - 1.01_f64.powi(*fallen);
                columns[column::QUANTITY] = 1.02_f64.powi(*fallen);
                columns[column::FLAGS] = 0.0;
            }
            batch.push(TickRow { entry: 0, symbol: tick.instrument, time: tick.time, price, columns: &columns });
        }
        left -= batch.len();
        instance.detect(&batch).map_err(failed)?;
    }
    Ok((instance.memory_bytes() - at_start) as f64 / symbols as f64)
}

/// A host that is never quite without work, looked at after each quarter.
fn long_run(bench: &Bench) -> Result<Vec<Row>> {
    let (symbols, ticks) = bench.sized((200, 800_000), (1000, 20_000_000));
    let server = Server::start()?;
    let project = Project::new(bench, Some(&server), BOTH)?;
    let host = project.start(&["run"])?;
    host.wait_for_log("event=\"lease_acquired\"")?;
    let mut market = Market::new(symbols, 1.5, Layout::Json);
    let (mut wire, mut connection) = (server.wire()?, server.connect()?);
    let (mut fed, mut after_quarter) = (0, Vec::new());
    for quarter in 1..=4 {
        bench.tell(&format!("long run: quarter {quarter}"));
        while fed < ticks / 4 * quarter {
            market.publish_many(&mut wire, &["MAXLEN", "~", KEPT], 10_000)?;
            fed += 10_000;
            wait_for("the host keeps up", || Ok((waiting(&mut connection)? <= AHEAD).then_some(())))?;
        }
        wait_for("the host has processed everything", || Ok((waiting(&mut connection)? == 0).then_some(())))?;
        after_quarter.push(memory_bytes(host.pid(), "VmRSS")? / 1_048_576.0);
    }
    host.stop()?;
    let [first, .., last] = after_quarter[..] else { return Ok(Vec::new()) };
    let million = number(f64::from(ticks) / 1e6);
    let what = format!("host after {million} M ticks of {} symbols", number(symbols as f64));
    Ok(vec![Row::beside(what, "MiB", &[last], "after a quarter of them", &[first]).target(Target::RatioAtMost(1.1))])
}

/// Entries that are not acknowledged yet.
fn waiting(connection: &mut redis::Connection) -> Result<u64> {
    let group = Group::read(connection)?;
    Ok(group.lag.context("the server can't tell how far the group is behind")? + group.pending)
}
