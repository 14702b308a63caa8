//! `tickhound shadow`: what a shadow would have alerted on, beside what the live detector did.

use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitCode,
};

use anyhow::{Result, bail};
use serde::Serialize;

use tickhound_core::{
    config::{Config, LoadedConfig},
    event::EntryId,
    receipt::Receipt,
};
use tickhound_redis::{StoredAlert, all_alerts, survey};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound shadow\n  tickhound shadow breakout-next --last 20 --json\n\n\
                  Alerts are the same if entry, symbol and direction are. The span begins with the shadow's first\n\
                  alert that is kept, or when it came into force, whichever is earlier.")]
pub(super) struct ShadowArgs {
    /// Name of a shadow; all of them if none is given.
    name: Option<String>,
    /// How many of the newest alerts to show that only one of the two has.
    #[arg(long, default_value_t = 5, value_name = "N")]
    last: usize,
    /// Print a JSON object for each shadow.
    #[arg(long)]
    json: bool,
}

/// The fields of an alert that a report compares and shows.
#[derive(Clone, Debug, Serialize)]
struct AlertSummary {
    id: String,
    detector: String,
    /// The id of the entry that caused the alert.
    entry: String,
    symbol: String,
    direction: String,
    confidence: f64,
}

impl AlertSummary {
    fn new(alert: &StoredAlert) -> Self {
        let field = |name| alert.field(name).to_owned();
        Self {
            id: field("id"),
            detector: field("detector"),
            entry: field("entry"),
            symbol: field("symbol"),
            direction: field("direction"),
            confidence: alert.confidence(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    shadow: String,
    live: String,
    /// Since when, ms since the Unix epoch, by arrival of ticks; `None` if nothing is known of it yet.
    since_ms: Option<u64>,
    both: usize,
    only_live: usize,
    only_shadow: usize,
    live_ns_per_tick: Option<u64>,
    shadow_ns_per_tick: Option<u64>,
    newest_only_live: Vec<AlertSummary>,
    newest_only_shadow: Vec<AlertSummary>,
}

pub(super) fn run(args: &ShadowArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let runtime = super::runtime()?;
    let receipt = runtime.block_on(survey(&config.stream, &config.alerts))?.receipt.unwrap_or_default();
    let mut shadows = shadows(config, &receipt);
    if let Some(name) = &args.name {
        shadows.retain(|shadow, _| shadow == name);
        if shadows.is_empty() {
            bail!("{name} is no shadow: write shadow_of into its table, or put a PLUGIN.next.wasm beside PLUGIN.wasm");
        }
    }
    if shadows.is_empty() {
        println!(
            "no detector has a shadow: write shadow_of = \"NAME\" into another one's table, or put a PLUGIN.next.wasm beside PLUGIN.wasm"
        );
    }
    let live = runtime.block_on(all_alerts(&config.stream, &config.alerts.stream, AlertSummary::new))?;
    let shadowed = runtime.block_on(all_alerts(&config.stream, &config.alerts.shadow_stream, AlertSummary::new))?;
    for (shadow, of) in shadows {
        let report = compare(&shadow, &of, &live, &shadowed, &receipt, args.last);
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print(&report);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every shadow that is configured or in force, and whose it is.
fn shadows(config: &Config, receipt: &Receipt) -> BTreeMap<String, String> {
    let configured = config.detectors.iter().map(|(name, detector)| (name, &detector.shadow_of));
    let running = receipt.detectors.iter().map(|detector| (&detector.name, &detector.shadow_of));
    let all = configured.chain(running).filter(|(_, of)| !of.is_empty());
    all.map(|(name, of)| (name.clone(), of.clone())).collect()
}

fn compare(
    shadow: &str,
    of: &str,
    live: &[AlertSummary],
    shadowed: &[AlertSummary],
    receipt: &Receipt,
    last: usize,
) -> Report {
    let about = |name: &str| receipt.detectors.iter().find(|detector| detector.name == name);
    let shadowed: Vec<&AlertSummary> = shadowed.iter().filter(|alert| alert.detector == shadow).collect();
    let first = shadowed.first().map(|alert| alert.entry.parse::<EntryId>().unwrap_or_default().millis);
    let since_ms = first.into_iter().chain(about(shadow).map(|detector| detector.since_ms)).min();
    let known = |alert: &&AlertSummary| {
        let arrived = alert.entry.parse::<EntryId>().unwrap_or_default().millis;
        since_ms.is_some_and(|since| arrived >= since)
    };
    let live: Vec<&AlertSummary> = live.iter().filter(|alert| alert.detector == of).filter(known).collect();
    // One of several at the same place is as good as the other.
    let mut unmatched: BTreeMap<(&str, &str, &str), VecDeque<&AlertSummary>> = BTreeMap::new();
    for alert in &live {
        unmatched.entry((&alert.entry, &alert.symbol, &alert.direction)).or_default().push_back(alert);
    }
    let (mut both, mut only_shadow) = (0, Vec::new());
    for alert in shadowed {
        let there = unmatched.get_mut(&(alert.entry.as_str(), alert.symbol.as_str(), alert.direction.as_str()));
        match there.and_then(VecDeque::pop_front) {
            Some(_) => both += 1,
            None => only_shadow.push(alert.clone()),
        }
    }
    let mut only_live: Vec<AlertSummary> = unmatched.into_values().flatten().cloned().collect();
    only_live.sort_by_key(|alert| alert.entry.parse::<EntryId>().unwrap_or_default());
    let newest = |alerts: &[AlertSummary]| alerts.iter().rev().take(last).cloned().collect();
    Report {
        shadow: shadow.to_owned(),
        live: of.to_owned(),
        since_ms,
        both,
        only_live: only_live.len(),
        only_shadow: only_shadow.len(),
        live_ns_per_tick: about(of).and_then(|detector| detector.ns_per_tick),
        shadow_ns_per_tick: about(shadow).and_then(|detector| detector.ns_per_tick),
        newest_only_live: newest(&only_live),
        newest_only_shadow: newest(&only_shadow),
    }
}

fn print(report: &Report) {
    let Report { shadow, live, both, only_live, only_shadow, .. } = report;
    println!(
        "{shadow}, shadow of {live}: {both} alerts of both, {only_live} of {live} only, {only_shadow} of {shadow} only"
    );
    match report.since_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms as i64).ok()) {
        Some(since) => println!("  since {since}"),
        None => println!("  it has not run yet"),
    }
    if let (Some(live_ns), Some(shadow_ns)) = (report.live_ns_per_tick, report.shadow_ns_per_tick) {
        println!("  {live_ns} ns a tick, and {shadow_ns} ns");
    }
    for (whose, alerts) in [(live, &report.newest_only_live), (shadow, &report.newest_only_shadow)] {
        for AlertSummary { id, symbol, direction, confidence, .. } in alerts {
            println!("  only {whose}: {symbol} {direction}, {confidence:.2} confidence ({id})");
        }
    }
}
