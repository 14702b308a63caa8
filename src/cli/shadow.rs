//! `tickhound shadow`: compares the alerts of a shadow detector with those of its live detector.

use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitCode,
};

use anyhow::{Result, bail};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::text;
use crate::clock;
use tickhound_core::{
    config::{Config, LoadedConfig},
    event::EntryId,
    receipt::Receipt,
};
use tickhound_redis::{StoredAlert, all_alerts, survey};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound shadow\n  tickhound shadow breakout-next --last 20 --json\n\n\
                  Two alerts match if entry, symbol and direction are equal. The comparison begins with the shadow's\n\
                  oldest stored alert, or when the shadow started, whichever is earlier.")]
pub(super) struct ShadowArgs {
    /// Name of a shadow detector; by default all of them.
    name: Option<String>,
    /// How many of the newest unmatched alerts to show for each of the two.
    #[arg(long, default_value_t = 5, value_name = "N")]
    last: usize,
    /// Print one JSON object per shadow.
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

/// How a shadow compares with its live detector.
#[derive(Debug, Serialize)]
struct Comparison {
    shadow: String,
    live: String,
    /// When the comparison begins, by arrival of ticks, ms since the Unix epoch; `None` if the shadow has not run yet.
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
    let runtime = super::process::runtime()?;
    let receipt = runtime.block_on(survey(&config.stream, &config.alerts))?.receipt.unwrap_or_default();
    let mut shadows = shadows(config, &receipt);
    if let Some(name) = &args.name {
        shadows.retain(|shadow, _| shadow == name);
        if shadows.is_empty() {
            bail!(
                "{name} is not a shadow; set shadow_of in its table, or set plugins.allow_next = true and put a PLUGIN.next.wasm beside PLUGIN.wasm"
            );
        }
    }
    if shadows.is_empty() {
        outln!(
            "no detector has a shadow; set shadow_of = \"NAME\" in the table of another detector, or set plugins.allow_next = true and put a PLUGIN.next.wasm beside PLUGIN.wasm"
        );
    }
    let live = runtime.block_on(all_alerts(&config.stream, &config.alerts.stream, AlertSummary::new))?;
    let shadowed = runtime.block_on(all_alerts(&config.stream, &config.alerts.shadow_stream, AlertSummary::new))?;
    let alerts = StoredAlerts { live: &live, shadow: &shadowed };
    for (shadow, of) in shadows {
        let comparison = compare(&shadow, &of, &alerts, &receipt, args.last);
        if args.json {
            crate::output::print_json(&serde_json::to_string(&comparison)?);
        } else {
            print(&comparison, &text::zone(config));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The alerts of all detectors that Redis stores, oldest first.
struct StoredAlerts<'a> {
    live: &'a [AlertSummary],
    shadow: &'a [AlertSummary],
}

/// Every shadow that is configured or running, with its live detector.
fn shadows(config: &Config, receipt: &Receipt) -> BTreeMap<String, String> {
    let configured = config.detectors.iter().map(|(name, detector)| (name, &detector.shadow_of));
    let running = receipt.detectors.iter().map(|detector| (&detector.name, &detector.shadow_of));
    let all = configured.chain(running).filter(|(_, of)| !of.is_empty());
    all.map(|(name, of)| (name.clone(), of.clone())).collect()
}

fn compare(shadow: &str, of: &str, alerts: &StoredAlerts<'_>, receipt: &Receipt, last: usize) -> Comparison {
    let about = |name: &str| receipt.detectors.iter().find(|detector| detector.name == name);
    let shadowed: Vec<&AlertSummary> = alerts.shadow.iter().filter(|alert| alert.detector == shadow).collect();
    let first = shadowed.first().map(|alert| alert.entry.parse::<EntryId>().unwrap_or_default().millis);
    let since_ms = first.into_iter().chain(about(shadow).map(|detector| detector.since_ms)).min();
    let known = |alert: &&AlertSummary| {
        let arrived = alert.entry.parse::<EntryId>().unwrap_or_default().millis;
        since_ms.is_some_and(|since| arrived >= since)
    };
    let live: Vec<&AlertSummary> = alerts.live.iter().filter(|alert| alert.detector == of).filter(known).collect();
    // Of several alerts with the same key, any can be matched.
    let mut unmatched: BTreeMap<(&str, &str, &str), VecDeque<&AlertSummary>> = BTreeMap::new();
    for alert in &live {
        unmatched.entry((&alert.entry, &alert.symbol, &alert.direction)).or_default().push_back(alert);
    }
    let (mut both, mut only_shadow) = (0, Vec::new());
    for alert in shadowed {
        let same = unmatched.get_mut(&(alert.entry.as_str(), alert.symbol.as_str(), alert.direction.as_str()));
        match same.and_then(VecDeque::pop_front) {
            Some(_) => both += 1,
            None => only_shadow.push(alert.clone()),
        }
    }
    let mut only_live: Vec<AlertSummary> = unmatched.into_values().flatten().cloned().collect();
    only_live.sort_by_key(|alert| alert.entry.parse::<EntryId>().unwrap_or_default());
    let newest = |alerts: &[AlertSummary]| alerts.iter().rev().take(last).cloned().collect();
    Comparison {
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

fn print(report: &Comparison, zone: &TimeZone) {
    let Comparison { shadow, live, both, only_live, only_shadow, .. } = report;
    outln!(
        "{shadow}, shadow of {live}: {both} alerts in both, {only_live} only from {live}, {only_shadow} only from {shadow}"
    );
    match report.since_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms as i64).ok()) {
        Some(since) => outln!("  since {}", clock::to_the_second(since, zone)),
        None => outln!("  it has not run yet"),
    }
    if let (Some(live_ns), Some(shadow_ns)) = (report.live_ns_per_tick, report.shadow_ns_per_tick) {
        outln!("  {live} {live_ns} ns/tick, {shadow} {shadow_ns} ns/tick");
    }
    for (name, alerts) in [(live, &report.newest_only_live), (shadow, &report.newest_only_shadow)] {
        for AlertSummary { id, symbol, direction, confidence, .. } in alerts {
            outln!("  only from {name}: {symbol} {direction}, {confidence:.2} confidence ({id})");
        }
    }
}
