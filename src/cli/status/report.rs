//! The report of `tickhound status` as text.

use std::fmt;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::{
    cli::text::{self, grouped, span},
    observe::health::{ConsumerReport, EntryCounts, HealthReport, Reason, Throughput, Verdict},
    output::Lines,
};
use tickhound_core::{
    event::CODE_DIGITS,
    receipt::{DetectorReceipt, MarketReceipt, Receipt},
    wall::now_ms,
};
use tickhound_redis::{SavedState, StoredAlert, Survey};

/// The state of the partition at one moment.
#[derive(Serialize)]
pub(super) struct Observation {
    #[serde(flatten)]
    pub(super) report: HealthReport,
    /// The throughput since the previous observation; `None` for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pace: Option<Throughput>,
    /// The patterns of channels and calendars that match nothing. Those of detectors are in the receipt.
    pub(super) warnings: Vec<String>,
    /// The newest alerts, newest first.
    #[serde(skip)]
    pub(super) alerts: Vec<StoredAlert>,
}

/// Writes the report, the throughput and the newest alerts, which are newest first.
pub(super) fn write_report(out: &mut Lines, observation: &Observation, zone: &TimeZone) -> fmt::Result {
    let Observation { report, pace, warnings, alerts } = observation;
    let mark = match report.verdict {
        Verdict::Healthy => "✅ healthy",
        Verdict::Degraded => "⚠️  degraded",
        Verdict::Stuck => "❌ stuck",
        Verdict::Unreachable => "❌ unreachable",
    };
    writeln!(out, "{mark}: {}", report.reason)?;
    for Reason { text, .. } in report.reasons.iter().skip(1) {
        writeln!(out, "   and: {text}")?;
    }
    let Some(survey) = &report.survey else { return Ok(()) };
    write_stream(out, report, survey)?;
    if let Some(pace) = pace {
        writeln!(out, "throughput: {}", throughput_line(pace))?;
    }
    match &survey.owner {
        Some(owner) => writeln!(out, "host: {owner}, epoch {}", survey.epoch)?,
        None => writeln!(out, "host: none")?,
    }
    if let Some(receipt) = survey.receipt.as_ref().filter(|_| survey.owner.is_some()) {
        write_receipt(out, receipt)?;
    }
    for warning in warnings {
        writeln!(out, "  ⚠️  {warning}")?;
    }
    write_totals(out, survey)?;
    if !alerts.is_empty() {
        writeln!(out, "newest alerts (`tickhound alerts` has more):")?;
    }
    alerts.iter().rev().try_for_each(|alert| writeln!(out, "  {}", text::alert_line(alert, zone)))
}

/// The stream, its consumer group and the work in flight.
fn write_stream(out: &mut Lines, report: &HealthReport, survey: &Survey) -> fmt::Result {
    let lag = survey.lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
    writeln!(out, "{}: {} entries, {lag} not yet read", report.stream, survey.length)?;
    writeln!(out, "{}: {} pending, {} consumers", report.group, survey.pending, report.consumers.len())?;
    for consumer in &report.consumers {
        let mark = match consumer.verdict {
            "active" | "idle" => "✅",
            "stale" => "⚠️ ",
            _ => "❌",
        };
        let ConsumerReport { name, pending, idle_ms, verdict } = consumer;
        writeln!(out, "  → {name}: {pending} pending, idle {} {mark} {verdict}", span(*idle_ms))?;
    }
    if let Some(work) = &report.work {
        let EntryCounts { submitted, completed, backlog } = work;
        writeln!(out, "workers: submitted: {submitted}, completed: {completed}, backlog: {backlog} (entries)")?;
    }
    Ok(())
}

/// What was processed, saved and stored since the group exists.
fn write_totals(out: &mut Lines, survey: &Survey) -> fmt::Result {
    let totals = survey.totals;
    let committed = survey.committed_ms_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", span(ago)));
    writeln!(out, "last commit: {committed}{}", last_tick(survey))?;
    writeln!(
        out,
        "processed: {} entries = {} with alerts or dead letters + {} without + {} lost to trimming; {} alerts, {} held back, \
         {} below min_confidence, {} dead",
        totals.entries,
        totals.entries.saturating_sub(totals.quiet + totals.lost),
        totals.quiet,
        totals.lost,
        totals.alerts,
        totals.held_back,
        totals.below_min_confidence,
        totals.dead,
    )?;
    if let Some(SavedState { symbols, bytes, age_ms, behind }) = &survey.state {
        let size = bytes.map_or_else(String::new, |bytes| format!(", {:.2} MB", bytes as f64 / 1e6));
        writeln!(
            out,
            "state: {symbols} symbols{size}, saved {} ago; a new host would replay {behind} entries",
            span(*age_ms)
        )?;
    }
    if totals.state_gap > 0 {
        writeln!(
            out,
            "state: {} entries were trimmed before their effect on detectors was saved (total)",
            totals.state_gap
        )?;
    }
    writeln!(
        out,
        "stored: {} alerts in {}, {} dead letters in {}",
        survey.alerts_length, survey.alerts_key, survey.dead_length, survey.dead_key
    )
}

/// The age of the last tick, for the line of the last commit, which may be one without ticks.
fn last_tick(survey: &Survey) -> String {
    let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
    let last_ms = receipt.and_then(|receipt| receipt.last_tick_ms);
    last_ms.map_or_else(String::new, |last_ms| format!(", last tick: {} ago", span(now_ms().saturating_sub(last_ms))))
}

fn throughput_line(pace: &Throughput) -> String {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "unknown".to_owned(), |rate| grouped(rate.round() as u64));
    let Throughput { seconds, entries_per_s, added_per_s, alerts_per_s } = pace;
    format!(
        "{}/s processed, {}/s added, {alerts_per_s:.1} alerts/s in the last {seconds:.1}s",
        grouped(entries_per_s.round() as u64),
        rate(*added_per_s),
    )
}

/// What became of a detector's detections; empty if there were none.
fn outcomes(detector: &DetectorReceipt) -> String {
    let DetectorReceipt { alerts, left_out, .. } = detector;
    if *alerts == 0 && left_out.is_empty() {
        return String::new();
    }
    let (held_back, below) = (left_out.held_back(), left_out.min_confidence);
    format!(", {alerts} alerts, {held_back} held back, {below} below min_confidence")
}

/// The reference data, groups and contexts in force.
fn market_line(market: &MarketReceipt) -> String {
    let MarketReceipt { reference, rows, groups, contexts } = market;
    let mut parts = Vec::new();
    if let Some(hash) = reference.get(..CODE_DIGITS) {
        parts.push(format!("reference data: {} rows, sha256 {hash}", grouped(*rows)));
    }
    for (what, names) in [("groups", groups), ("contexts", contexts)] {
        if !names.is_empty() {
            parts.push(format!("{what}: {}", names.join(", ")));
        }
    }
    parts.join("; ")
}

fn write_receipt(out: &mut Lines, receipt: &Receipt) -> fmt::Result {
    let now_ms = now_ms();
    let ago = |at_ms: u64| span(now_ms.saturating_sub(at_ms));
    let Receipt { generation, since_ms, detectors, warming, rejection, needs_restart, market, .. } = receipt;
    writeln!(out, "generation {generation}, in force for {}:", ago(*since_ms))?;
    for detector in detectors {
        let cost = detector.ns_per_tick.map_or_else(String::new, |ns| format!(", {ns} ns/tick"));
        let mut name = detector.name.clone();
        if !detector.shadow_of.is_empty() {
            name.push_str(&format!(" (shadow of {})", detector.shadow_of));
        }
        writeln!(
            out,
            "  → {}: {} {} ({}, sha256 {}), since generation {}, {} ago, state {}{cost}{}",
            name,
            detector.plugin,
            detector.version,
            detector.file,
            detector.sha256.get(..12).unwrap_or_default(),
            detector.generation,
            ago(detector.since_ms),
            detector.state_text(),
            outcomes(detector),
        )?;
        for pattern in &detector.unmatched {
            let (name, seen) = (&detector.name, receipt.symbols);
            writeln!(out, "    ⚠️  detectors.{name}.symbols: `{pattern}` matches none of {seen} symbols seen")?;
        }
        if let Some(fault) = detector.last_fault.as_ref().filter(|_| detector.faults > 0) {
            writeln!(out, "    {} faults, the last: {fault}", detector.faults)?;
        }
        if let Some(until_ms) = detector.quarantined_until_ms {
            let left = span(until_ms.saturating_sub(now_ms));
            writeln!(out, "    ❌ quarantined, retried in {left}; {} ticks skipped so far", detector.skipped)?;
        }
    }
    if !market.is_empty() {
        writeln!(out, "  → {}", market_line(market))?;
    }
    if !warming.is_empty() {
        writeln!(out, "  … warming up on earlier entries before taking over: {}", warming.join(", "))?;
    }
    if let Some(rejection) = rejection {
        let (mark, fixed) = if rejection.is_current { ("❌ ", "") } else { ("", ", fixed since") };
        writeln!(out, "  {mark}change rejected {} ago{fixed}: {}", ago(rejection.at_ms), rejection.reason)?;
    }
    if !needs_restart.is_empty() {
        writeln!(out, "  ⚠️  needs a restart: {}", needs_restart.join(", "))?;
    }
    Ok(())
}
