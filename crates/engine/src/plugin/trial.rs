//! A trial of each new detector on made-up ticks, before it gets a real one.
//!
//! The ticks are a few seconds of a made-up market: wandering prices, volumes, quotes, clock rows. A detector that reads bars or
//! snapshots gets some of those too. They are the same in each trial. A detector that fails is rejected. The trial also
//! measures the cost of a row.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    check_process::{self, CheckTask, Isolation, TrialResult},
    columns::BatchColumns,
    digest,
    fault::Fault,
    guest::Limits,
    instance::{GROUP_MARK, Instance},
    runtime::Runtime,
    spec::DetectorSpec,
    view::{Feed, LAST_OF_SNAPSHOT, Scope, View},
};
use tickhound_core::event::{Batch, CLOCK, TickRow, column};

/// The version of the trial. Results of another version don't count, so raise it when the trial changes.
const VERSION: u32 = 2;

/// The length of a digest in the name of a result's file. It only has to differ among the settings of one plugin.
const DIGEST_LENGTH: usize = 16;

/// The number of made-up symbols.
const SYMBOLS: u32 = 16;

/// The number of made-up groups, unless all symbols are one.
const GROUPS: u32 = 4;

/// Enough batches for a median of their costs, so that one interruption does not count.
const BATCHES: u64 = 4;

/// Ticks in a batch, so that it holds several of each symbol.
const ROWS: u64 = 256;

/// Event time of the first tick: 2025-11-03 09:15 in India, ns since the Unix epoch.
const OPEN: u64 = 1_762_141_500_000_000_000;

/// Time between two ticks, ns, which makes four ticks per second and symbol.
const STEP: u64 = 15_625_000;

/// The rows of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrialRows {
    view: View,
    /// The number of columns of a batch.
    width: usize,
    /// The position of the first column of bars.
    bars: usize,
}

/// Tries a detector where the runtime checks plugins, unless an earlier host of this user has done that with the same plugin
/// and the same settings. `bytes` are those of its plugin.
///
/// # Errors
/// Names the call that failed, and its fault.
pub(super) fn try_out(runtime: &Runtime, spec: &DetectorSpec, bytes: &[u8], rows: &TrialRows) -> Result<TrialResult> {
    let Isolation::Process(process) = runtime.isolation() else {
        return run(|| spec.start_trial(), rows, spec.plugin.manifest.state_version);
    };
    let (params, wiring) = (spec.params.clone(), spec.wiring.as_ref().clone());
    let task = CheckTask::Try { params, wiring, rows: rows.clone() };
    let request = |exchange| check_process::request(&spec.plugin.name, exchange, spec.limits, task);
    let (no_result, sha256) = ("its check process has no result", &spec.plugin.sha256);
    let Some((cache, key)) = runtime.cached_code(sha256) else {
        return runtime.check(process, request(None), bytes, sha256)?.context(no_result);
    };
    let notes = format!("{key}-{}.trial", settings_digest(spec, rows)?);
    if let Some(known) = cache.notes(&notes).and_then(|notes| serde_json::from_slice(&notes).ok()) {
        return Ok(known);
    }
    let handover = cache.begin(&key);
    let exchange = handover.as_ref().map(|handover| handover.dir());
    let result = runtime.check(process, request(exchange), bytes, sha256)?.context(no_result)?;
    cache.save_notes(&notes, &serde_json::to_vec(&result)?);
    Ok(result)
}

/// Returns a digest of everything that decides how a trial of a plugin ends.
fn settings_digest(spec: &DetectorSpec, rows: &TrialRows) -> Result<String> {
    // The fault budget plays no part.
    let decisive = Limits { faults_max: 0, fault_window: Duration::ZERO, ..spec.limits };
    let settings = serde_json::to_vec(&(&spec.params, spec.wiring.as_ref(), decisive, rows, VERSION))?;
    Ok(digest::sha256(&settings)[..DIGEST_LENGTH].to_owned())
}

/// Calls the instances that `start` returns like a shard does.
///
/// # Errors
/// Names the failed call and its fault.
pub(super) fn run(
    start: impl Fn() -> Result<Instance, Fault>,
    rows: &TrialRows,
    state_version: u32,
) -> Result<TrialResult> {
    let mut instance = start().map_err(|fault| anyhow::anyhow!("does not start: {fault}"))?;
    let names = rows.names();
    let introduced: Vec<(u32, &str)> = (0u32..).zip(names.iter().map(String::as_str)).collect();
    check(instance.introduce(&introduced), "was introduced to its symbols")?;
    let mut costs = Vec::new();
    for number in 0..BATCHES {
        let batch = rows.batch(number);
        let started = Instant::now();
        check(instance.detect(&batch), "processed made-up ticks")?;
        costs.push(started.elapsed().as_nanos() / batch.len() as u128);
    }
    let ids: Vec<u32> = introduced.iter().map(|(id, _)| *id).collect();
    let saved = check(instance.save(&ids), "saved its state")?;
    let states: Vec<(u32, &[u8])> = saved.iter().map(|(id, state)| (*id, state.as_slice())).collect();
    let mut successor = start().map_err(|fault| anyhow::anyhow!("does not start again: {fault}"))?;
    check(successor.introduce(&introduced), "was introduced to its symbols again")?;
    let restored = check(successor.restore(state_version, &states), "restored its state")?;
    if let Err(rejection) = restored {
        bail!("rejected in its trial the state that it had just saved: {rejection}");
    }
    costs.sort_unstable();
    let ns_per_tick = costs[costs.len() / 2].try_into().unwrap_or(u32::MAX);
    Ok(TrialResult { ns_per_tick, warm_up_seconds: instance.warm_up_seconds })
}

fn check<T>(answer: Result<T, Fault>, when: &str) -> Result<T> {
    answer.map_err(|fault| anyhow::anyhow!("failed in its trial when it {when}: {fault}"))
}

impl TrialRows {
    pub(super) fn new(spec: &DetectorSpec, columns: &BatchColumns) -> Self {
        Self { view: spec.view().clone(), width: columns.width(), bars: columns.bars() }
    }

    /// Returns the names of the symbols, then those of the groups, by their ids.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = (0..SYMBOLS).map(|number| format!("TRIAL{number}")).collect();
        match self.view.scope {
            Scope::Symbol => {}
            Scope::Group => names.extend((0..GROUPS).map(|number| format!("{GROUP_MARK}trial/GROUP{number}"))),
            Scope::Market => names.push(format!("{GROUP_MARK}market")),
        }
        names
    }

    /// Returns the rows of a quarter of the trial.
    fn batch(&self, number: u64) -> Batch {
        debug_assert!(self.width >= column::NAMES.len());
        let mut batch = Batch::new(self.width);
        let mut row = vec![f64::NAN; self.width];
        for tick in number * ROWS..(number + 1) * ROWS {
            let time = OPEN + tick * STEP;
            let entry = tick as u32;
            if tick % 64 == 0 {
                self.push_second(&mut batch, entry, time);
                batch.push_clock(entry, time);
                self.note(&mut batch, CLOCK, 0);
            }
            let symbol = (tick % u64::from(SYMBOLS)) as u32;
            let price = fill(&mut row, tick);
            if let Some(feed) = self.view.feeds.iter().position(|feed| *feed == Feed::Ticks) {
                batch.push(TickRow { entry, symbol, time, price, columns: &row });
                self.note(&mut batch, symbol, feed as u8);
            }
        }
        batch
    }

    /// Adds the bars and the snapshots that end at a second.
    fn push_second(&self, batch: &mut Batch, entry: u32, time: u64) {
        let mut row = vec![f64::NAN; self.width];
        let feeds = (0u8..).zip(&self.view.feeds);
        let (bars, snapshots): (Vec<_>, Vec<_>) =
            feeds.filter(|(_, feed)| **feed != Feed::Ticks).partition(|(_, feed)| matches!(feed, Feed::Bars(_)));
        for (feed, kind) in bars.into_iter().chain(snapshots) {
            for symbol in 0..SYMBOLS {
                let price = fill(&mut row, u64::from(entry + symbol));
                let is_bar = matches!(kind, Feed::Bars(_));
                let [open, high, low, vwap, count] = [price - 0.05, price + 0.1, price - 0.1, price, 4.0];
                let of_bar = if is_bar { [open, high, low, vwap, count] } else { [f64::NAN; 5] };
                row[self.bars..self.bars + of_bar.len()].copy_from_slice(&of_bar);
                batch.push(TickRow { entry, symbol, time, price, columns: &row });
                self.note(batch, symbol, if is_bar { feed } else { feed | self.last_bit(symbol) });
            }
        }
    }

    /// Adds group and feed of the row that was pushed last.
    fn note(&self, batch: &mut Batch, symbol: u32, feed: u8) {
        if self.view.has_groups() {
            batch.group.push(if symbol == CLOCK { CLOCK } else { self.group(symbol) });
        }
        if self.view.has_feeds() {
            batch.feed.push(feed);
        }
    }

    fn group(&self, symbol: u32) -> u32 {
        if self.view.scope == Scope::Market { SYMBOLS } else { SYMBOLS + symbol % GROUPS }
    }

    /// Returns the bit of the last row of a snapshot, if a symbol's is the last one of its state.
    fn last_bit(&self, symbol: u32) -> u8 {
        let rows_behind = match self.view.scope {
            Scope::Symbol => 0,
            Scope::Group => (SYMBOLS - 1 - symbol) / GROUPS,
            Scope::Market => SYMBOLS - 1 - symbol,
        };
        if rows_behind == 0 { LAST_OF_SNAPSHOT } else { 0 }
    }
}

/// Fills the columns of the input for a tick, and returns its price.
fn fill(row: &mut [f64], tick: u64) -> f64 {
    let symbol = (tick % u64::from(SYMBOLS)) as u32;
    let chance = (tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24);
    let price = (100.0 + f64::from(symbol)) * (1.0 + 0.01 * (tick as f64 / 97.0).sin()) + 0.05 * (chance * 8.0).floor();
    let quantity = (chance * 100.0).floor();
    row[column::QUANTITY] = quantity;
    row[column::CUM_VOLUME] = tick as f64 * 100.0 + quantity;
    row[column::BID] = price - 0.05;
    row[column::ASK] = price + 0.05;
    row[column::BID_QUANTITY] = 50.0 + quantity;
    row[column::ASK_QUANTITY] = 150.0 - quantity;
    row[column::OI] = 10_000.0;
    row[column::FLAGS] = 0.0;
    row[column::VOLUME] = row[column::CUM_VOLUME];
    price
}

const _: () = assert!(STEP * 64 == 1_000_000_000, "clock rows stand at whole seconds");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_made_up_ticks_are_within_the_contract() {
        let width = column::NAMES.len();
        let rows = TrialRows { view: View::default(), width, bars: width };
        let (mut time, mut volume) = ([0; SYMBOLS as usize], [0.0; SYMBOLS as usize]);
        for number in 0..BATCHES {
            let batch = rows.batch(number);
            for row in 0..batch.len() {
                if batch.symbol[row] == CLOCK {
                    assert_eq!(batch.time[row] % 1_000_000_000, 0);
                    continue;
                }
                let symbol = batch.symbol[row] as usize;
                assert!(batch.time[row] > time[symbol] && batch.price[row] > 0.0);
                assert!(batch.columns[column::QUANTITY][row] >= 0.0);
                assert!(batch.columns[column::CUM_VOLUME][row] >= volume[symbol]);
                time[symbol] = batch.time[row];
                volume[symbol] = batch.columns[column::CUM_VOLUME][row];
            }
        }
    }
}
