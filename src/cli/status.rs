//! `tickhound status`: one look that tells whether ticks are being worked.
//!
//! The verdict comes from work and progress: entries that wait, and how long
//! ago the last commit was. `idle`, `pending` and `lag` as Redis reports them
//! are shown, but not judged by: a quiet market makes every one of them look bad.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    config::Loaded,
    receipt::Receipt,
    stream::redis::{SavedState, Survey, survey},
};

/// With work waiting and no commit for this long, something is stuck.
const STUCK_AFTER_MS: u64 = 10_000;

/// Work may wait this long without anyone needing to know.
const BEHIND_AFTER_MS: u64 = 2_000;

/// A consumer that is not ours, holds nothing and did nothing for this long is a left-over.
const STALE_AFTER_MS: u64 = 300_000;

/// Entries that another consumer holds for this long will not be worked by it.
const HELD_AFTER_MS: u64 = 60_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound status\n  tickhound status --json | jq .verdict\n\n\
                  Exit codes: 0 healthy, 1 degraded, 2 stuck or unreachable.")]
pub(super) struct StatusArgs {
    /// Print everything as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Healthy,
    Degraded,
    Stuck,
    Unreachable,
}

#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    reason: String,
    stream: String,
    group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    survey: Option<Survey>,
    consumers: Vec<ConsumerReport>,
}

#[derive(Debug, Serialize)]
struct ConsumerReport {
    name: String,
    pending: u64,
    idle_ms: u64,
    verdict: &'static str,
}

pub(super) fn run(args: &StatusArgs, loaded: &Loaded) -> Result<ExitCode> {
    let config = &loaded.config;
    let surveyed = super::runtime()?.block_on(survey(&config.stream, &config.alerts));
    let (stream, group) = (config.stream.key.clone(), config.stream.group.clone());
    let report = match surveyed {
        Ok(survey) => {
            let consumers = judge_consumers(&survey, &config.stream.consumer);
            let (mut verdict, mut reason) = judge(&survey, &consumers, &config.stream.consumer);
            // What a host of the past said is of no interest any more.
            let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
            if let (Verdict::Healthy, Some(worse)) = (verdict, receipt.and_then(judge_detectors)) {
                (verdict, reason) = (Verdict::Degraded, worse);
            }
            Report { verdict, reason, stream, group, survey: Some(survey), consumers }
        }
        Err(error) => Report {
            verdict: Verdict::Unreachable,
            reason: format!("redis at {}: {error}", config.stream.address()),
            stream,
            group,
            survey: None,
            consumers: Vec::new(),
        },
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(match report.verdict {
        Verdict::Healthy => ExitCode::SUCCESS,
        Verdict::Degraded => ExitCode::from(1),
        Verdict::Stuck | Verdict::Unreachable => ExitCode::from(2),
    })
}

fn judge_consumers(survey: &Survey, ours: &str) -> Vec<ConsumerReport> {
    let verdict = |name: &str, pending: u64, idle_ms: u64| {
        if name == ours {
            match survey.waiting_ms {
                Some(waited) if waited > STUCK_AFTER_MS => "stuck",
                Some(_) if survey.owner.is_none() => "stale",
                None if survey.owner.is_none() => "idle",
                _ => "active",
            }
        } else if pending > 0 && idle_ms > HELD_AFTER_MS {
            "stuck"
        } else if idle_ms > STALE_AFTER_MS {
            "stale"
        } else {
            "active"
        }
    };
    let consumers = survey.consumers.iter();
    consumers
        .map(|(name, pending, idle_ms)| ConsumerReport {
            name: name.clone(),
            pending: *pending,
            idle_ms: *idle_ms,
            verdict: verdict(name, *pending, *idle_ms),
        })
        .collect()
}

fn judge(survey: &Survey, consumers: &[ConsumerReport], ours: &str) -> (Verdict, String) {
    let foreign: Vec<&ConsumerReport> = consumers.iter().filter(|c| c.name != ours && c.pending > 0).collect();
    match (survey.waiting_ms, &survey.owner) {
        _ if !survey.group_exists => {
            (Verdict::Degraded, "the group does not exist yet; `tickhound run` creates it".into())
        }
        (Some(waited), None) if waited > STUCK_AFTER_MS => {
            (Verdict::Stuck, format!("no host is running, and work has waited for {}", seconds(waited)))
        }
        (Some(waited), Some(_)) if waited > STUCK_AFTER_MS => {
            (Verdict::Stuck, format!("nothing was committed for {} though there is work", seconds(waited)))
        }
        _ if !foreign.is_empty() => {
            let names: Vec<&str> = foreign.iter().map(|c| c.name.as_str()).collect();
            let pending: u64 = foreign.iter().map(|c| c.pending).sum();
            (Verdict::Degraded, format!("{pending} entries are pending under other consumers: {}", names.join(", ")))
        }
        (Some(waited), None) => {
            (Verdict::Degraded, format!("no host is running, and work has waited for {}", seconds(waited)))
        }
        (None, None) => (Verdict::Healthy, "everything that was added is worked; no host is running".into()),
        (Some(waited), Some(_)) if waited > BEHIND_AFTER_MS => {
            (Verdict::Degraded, format!("behind: the oldest waiting entry is {} old, work goes on", seconds(waited)))
        }
        (Some(_), Some(_)) => (Verdict::Healthy, "working".into()),
        (None, Some(_)) => (Verdict::Healthy, "everything that was added is worked".into()),
    }
}

/// What the host says of its detectors, if that is worse.
fn judge_detectors(receipt: &Receipt) -> Option<String> {
    let refusal = receipt.refusal.as_ref().filter(|refusal| refusal.standing);
    if let Some(refusal) = refusal {
        return Some(format!("the last change was refused, what was before goes on: {}", refusal.reason));
    }
    let quarantined = receipt.detectors.iter().find(|detector| detector.quarantined_until_ms.is_some())?;
    let fault = quarantined.last_fault.as_deref().unwrap_or("it failed too often");
    Some(format!("detector {} is in quarantine: {fault}", quarantined.name))
}

fn print(report: &Report) {
    let mark = match report.verdict {
        Verdict::Healthy => "✅ healthy",
        Verdict::Degraded => "⚠️  degraded",
        Verdict::Stuck => "❌ stuck",
        Verdict::Unreachable => "❌ unreachable",
    };
    println!("{mark}: {}", report.reason);
    let Some(survey) = &report.survey else { return };
    let lag = survey.lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
    println!("{}: {} entries, {lag} not yet read", report.stream, survey.length);
    println!("{}: {} pending, {} consumers", report.group, survey.pending, report.consumers.len());
    for consumer in &report.consumers {
        let mark = match consumer.verdict {
            "active" | "idle" => "✅",
            "stale" => "⚠️ ",
            _ => "❌",
        };
        let ConsumerReport { name, pending, idle_ms, verdict } = consumer;
        println!("  → {name}: {pending} pending, idle {} {mark} {verdict}", seconds(*idle_ms));
    }
    match &survey.owner {
        Some(owner) => println!("host: {owner}, epoch {}", survey.epoch),
        None => println!("host: none"),
    }
    if let Some(receipt) = survey.receipt.as_ref().filter(|_| survey.owner.is_some()) {
        print_receipt(receipt);
    }
    let totals = survey.totals;
    let committed = survey.committed_ms_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", seconds(ago)));
    println!("last commit: {committed}");
    println!(
        "worked: {} entries = {} with alerts or set aside + {} quiet + {} lost to trimming; {} alerts, {} held back, {} dead",
        totals.entries,
        totals.entries.saturating_sub(totals.quiet + totals.lost),
        totals.quiet,
        totals.lost,
        totals.alerts,
        totals.held_back,
        totals.dead,
    );
    if let Some(SavedState { symbols, bytes, age_ms, behind }) = &survey.state {
        let size = bytes.map_or_else(String::new, |bytes| format!(", {:.2} MB", bytes as f64 / 1e6));
        println!(
            "state: {symbols} symbols{size}, saved {} ago; a new host would re-read {behind} entries",
            seconds(*age_ms)
        );
    }
    if totals.state_gap > 0 {
        println!(
            "state: {} entries were trimmed away before their traces in detectors were saved (since the beginning)",
            totals.state_gap
        );
    }
    println!(
        "kept: {} alerts in {}, {} dead letters in {}",
        survey.alerts_length, survey.alerts_key, survey.dead_length, survey.dead_key
    );
}

fn print_receipt(receipt: &Receipt) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let ago = |at_ms: u64| seconds(now_ms.saturating_sub(at_ms));
    let Receipt { generation, since_ms, detectors, warming, refusal, needs_restart, .. } = receipt;
    println!("generation {generation}, in force for {}:", ago(*since_ms));
    for detector in detectors {
        let cost = detector.ns_per_tick.map_or_else(String::new, |ns| format!(", {ns} ns/tick"));
        println!(
            "  → {}: {} {} ({}, sha256 {}), since generation {}, {} ago, state {}{cost}",
            match detector.shadow_of.is_empty() {
                true => detector.name.clone(),
                false => format!("{} (shadow of {})", detector.name, detector.shadow_of),
            },
            detector.plugin,
            detector.version,
            detector.file,
            detector.sha256.get(..12).unwrap_or_default(),
            detector.generation,
            ago(detector.since_ms),
            detector.state,
        );
        if let Some(fault) = detector.last_fault.as_ref().filter(|_| detector.faults > 0) {
            println!("    {} faults, the last: {fault}", detector.faults);
        }
        if let Some(until_ms) = detector.quarantined_until_ms {
            let left = seconds(until_ms.saturating_sub(now_ms));
            println!("    ❌ in quarantine, tried again in {left}; {} ticks skipped so far", detector.skipped);
        }
    }
    if !warming.is_empty() {
        println!("  … being shown what the stream holds before it takes over: {}", warming.join(", "));
    }
    if let Some(refusal) = refusal {
        let (mark, mended) = if refusal.standing { ("❌ ", "") } else { ("", ", and mended since") };
        println!("  {mark}refused {} ago{mended}: {}", ago(refusal.at_ms), refusal.reason);
    }
    if !needs_restart.is_empty() {
        println!("  ⚠️  needs a restart: {}", needs_restart.join(", "));
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.1}s", ms as f64 / 1000.0)
}
