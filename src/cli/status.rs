//! `tickhound status`: one look that tells whether ticks are being worked.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use crate::{
    config::Loaded,
    health::{ConsumerReport, Report, Verdict, seconds},
    receipt::Receipt,
    stream::redis::SavedState,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound status\n  tickhound status --json | jq .verdict\n\n\
                  Exit codes: 0 healthy, 1 degraded, 2 stuck or unreachable.")]
pub(super) struct StatusArgs {
    /// Print everything as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs, loaded: &Loaded) -> Result<ExitCode> {
    let report = super::runtime()?.block_on(Report::ask(&loaded.config));
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
