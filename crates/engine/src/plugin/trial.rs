//! A trial of each new detector on made-up ticks, before it gets a real one.
//!
//! A detector that fails is rejected. The trial also measures the cost of a row.

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
    trial_rows::TrialRows,
};

/// The version of the trial. Results of another version don't count, so raise it when the trial changes.
const VERSION: u32 = 2;

/// The length of a digest in the name of a result's file. It only has to differ among the settings of one plugin.
const DIGEST_LENGTH: usize = 16;

/// Enough batches for a median of their costs, so that one interruption does not count.
const BATCHES: u64 = 4;

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
    let task = CheckTask::Try { params, wiring: Box::new(wiring), rows: rows.clone() };
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
