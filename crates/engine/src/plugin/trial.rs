//! A trial of each new detector on made-up ticks, before it gets a real one.
//!
//! The ticks are a few seconds of a made-up market: wandering prices, volumes, quotes, clock rows. They are the same in
//! each trial. A detector that fails is rejected. The trial also measures the cost of a tick.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{
    check_process::{self, CheckTask, Isolation, TrialResult},
    digest,
    fault::Fault,
    guest::Limits,
    instance::Instance,
    runtime::Runtime,
    spec::DetectorSpec,
};
use tickhound_core::event::{Batch, TickRow, column};

/// The version of the trial. Results of another version don't count, so raise it when the trial changes.
const VERSION: u32 = 1;

/// The length of a digest in the name of a result's file. It only has to differ among the settings of one plugin.
const DIGEST_LENGTH: usize = 16;

/// The number of made-up symbols.
const SYMBOLS: u32 = 16;

/// Enough batches for a median of their costs, so that one interruption does not count.
const BATCHES: u64 = 4;

/// Ticks in a batch, so that it holds several of each symbol.
const ROWS: u64 = 256;

/// Event time of the first tick: 2025-11-03 09:15 in India, ns since the Unix epoch.
const OPEN: u64 = 1_762_141_500_000_000_000;

/// Time between two ticks, ns, which makes four ticks per second and symbol.
const STEP: u64 = 15_625_000;

/// Tries a detector where the runtime checks plugins, unless an earlier host of this user has done that with the same plugin
/// and the same settings. `bytes` are those of its plugin, and `width` is the number of columns of the input.
///
/// # Errors
/// Names the call that failed, and its fault.
pub(super) fn try_out(runtime: &Runtime, spec: &DetectorSpec, bytes: &[u8], width: usize) -> Result<TrialResult> {
    let Isolation::Process(process) = runtime.isolation() else {
        return run(|| spec.start(), spec.plugin.manifest.state_version, width);
    };
    let task = CheckTask::Try { params: spec.params.clone(), columns: spec.columns.to_vec(), width };
    let request = |exchange| check_process::request(&spec.plugin.name, exchange, spec.limits, task);
    let (no_result, sha256) = ("its check process has no result", &spec.plugin.sha256);
    let Some((cache, key)) = runtime.cached_code(sha256) else {
        return runtime.check(process, request(None), bytes, sha256)?.context(no_result);
    };
    let notes = format!("{key}-{}.trial", settings_digest(spec, width)?);
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
fn settings_digest(spec: &DetectorSpec, width: usize) -> Result<String> {
    // The fault budget plays no part.
    let decisive = Limits { faults_max: 0, fault_window: Duration::ZERO, ..spec.limits };
    let settings = serde_json::to_vec(&(&spec.params, &spec.columns[..], decisive, width, VERSION))?;
    Ok(digest::sha256(&settings)[..DIGEST_LENGTH].to_owned())
}

/// Calls the instances that `start` returns like a shard does. `width` is the number of columns of the input.
///
/// # Errors
/// Names the failed call and its fault.
pub(super) fn run(
    start: impl Fn() -> Result<Instance, Fault>,
    state_version: u32,
    width: usize,
) -> Result<TrialResult> {
    let mut instance = start().map_err(|fault| anyhow::anyhow!("does not start: {fault}"))?;
    let names: Vec<String> = (0..SYMBOLS).map(|number| format!("TRIAL{number}")).collect();
    let symbols: Vec<(u32, &str)> = (0u32..).zip(names.iter().map(String::as_str)).collect();
    check(instance.introduce(&symbols), "was introduced to its symbols")?;
    let mut costs = Vec::new();
    for number in 0..BATCHES {
        let batch = batch(number, width);
        let started = Instant::now();
        check(instance.detect(&batch), "processed made-up ticks")?;
        costs.push(started.elapsed().as_nanos() / batch.len() as u128);
    }
    let ids: Vec<u32> = symbols.iter().map(|(id, _)| *id).collect();
    let saved = check(instance.save(&ids), "saved its state")?;
    let states: Vec<(u32, &[u8])> = saved.iter().map(|(id, state)| (*id, state.as_slice())).collect();
    let mut successor = start().map_err(|fault| anyhow::anyhow!("does not start again: {fault}"))?;
    check(successor.introduce(&symbols), "was introduced to its symbols again")?;
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

fn batch(number: u64, columns: usize) -> Batch {
    debug_assert!(columns >= column::NAMES.len());
    let mut batch = Batch::new(columns);
    let mut row = vec![f64::NAN; columns];
    for tick in number * ROWS..(number + 1) * ROWS {
        let time = OPEN + tick * STEP;
        if tick % 64 == 0 {
            batch.push_clock(tick as u32, time);
        }
        let symbol = (tick % u64::from(SYMBOLS)) as u32;
        let chance = (tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24);
        let price =
            (100.0 + f64::from(symbol)) * (1.0 + 0.01 * (tick as f64 / 97.0).sin()) + 0.05 * (chance * 8.0).floor();
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
        batch.push(TickRow { entry: tick as u32, symbol, time, price, columns: &row });
    }
    batch
}

const _: () = assert!(STEP * 64 == 1_000_000_000, "clock rows stand at whole seconds");

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::CLOCK;

    #[test]
    fn the_made_up_ticks_are_within_the_contract() {
        let (mut time, mut volume) = ([0; SYMBOLS as usize], [0.0; SYMBOLS as usize]);
        for number in 0..BATCHES {
            let batch = batch(number, column::NAMES.len());
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
