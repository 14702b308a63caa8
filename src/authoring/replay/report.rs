//! The report of a replay: an HTML page in one file that works offline.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::outcome::{AlertOutcome, Judge};
use tickhound_core::event::Alert;
use tickhound_engine::plugin::{Generation, params};

const PAGE: &str = include_str!("report.html");
const CHARTS: &str = include_str!("../../assets/echarts.common.min.js");

/// The most points of a price line: more than a screen has.
const POINTS_MAX: usize = 5000;

/// The most symbols with a chart, since a page with more opens slowly. Those with the most alerts get one.
const CHARTS_MAX: usize = 60;

/// The most alerts on the page. Those with the highest confidence are shown.
const ALERTS_MAX: usize = 50_000;

/// The contents of the report.
pub(crate) struct Contents<'a> {
    /// The summary, as `--json` prints it.
    pub(crate) replayed: Value,
    pub(crate) alerts: &'a [Alert],
    pub(crate) judge: &'a Judge,
    pub(crate) generation: &'a Generation,
    /// The IANA time zone of the times on the page.
    pub(crate) timezone: &'a str,
}

/// Returns the page's HTML.
pub(crate) fn page(contents: &Contents<'_>) -> String {
    let Contents { replayed, alerts, judge, generation, timezone } = contents;
    let mut per_symbol: BTreeMap<&str, usize> = BTreeMap::new();
    alerts.iter().for_each(|alert| *per_symbol.entry(&alert.symbol).or_default() += 1);
    let mut charted: Vec<(&str, usize)> = per_symbol.iter().map(|(name, count)| (*name, *count)).collect();
    charted.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    charted.truncate(CHARTS_MAX);
    let mut shown: Vec<&Alert> = alerts.iter().collect();
    if shown.len() > ALERTS_MAX {
        shown.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        shown.truncate(ALERTS_MAX);
        shown.sort_by_key(|alert| alert.time);
    }
    let names: Vec<&String> = generation.detectors.iter().map(|spec| &spec.name).collect();
    let symbols: Vec<&str> = per_symbol.keys().copied().collect();
    let alert_rows: Vec<Value> = shown
        .iter()
        .map(|alert| {
            let detector = names.iter().position(|name| **name == alert.detector);
            let symbol = symbols.binary_search(&alert.symbol.as_str()).ok();
            let evidence: serde_json::Map<String, Value> =
                alert.evidence.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let outcome = match judge.judge(alert) {
                AlertOutcome::Reached => "reached",
                AlertOutcome::Failed => "failed",
                AlertOutcome::Neither => "neither",
                AlertOutcome::Open => "open",
            };
            let price = Some(alert.price).filter(|price| price.is_finite());
            json!([
                detector,
                symbol,
                millis(alert.time),
                price,
                alert.confidence,
                alert.direction.as_str(),
                evidence,
                outcome
            ])
        })
        .collect();
    let prices: serde_json::Map<String, Value> = judge
        .histories()
        .filter(|(name, _)| charted.iter().any(|(charted, _)| charted == name))
        .map(|(name, history)| {
            let merged = history.bars.len().div_ceil(POINTS_MAX).max(1) as u64;
            let bars = history.in_bars_of(history.bar * merged);
            let points: Vec<Value> = bars.iter().map(|bar| json!([millis(bar.start), bar.close])).collect();
            (name.to_owned(), points.into())
        })
        .collect();
    let detectors: Vec<Value> = generation
        .detectors
        .iter()
        .map(|spec| {
            json!({
                "name": spec.name, "plugin": spec.plugin.manifest.name, "version": spec.plugin.manifest.version,
                "sha256": spec.plugin.sha256, "description": spec.plugin.manifest.description,
                "params": params::to_json(&spec.params), "min_confidence": spec.min_confidence,
            })
        })
        .collect();
    let data = json!({
        "replayed": replayed, "detectors": detectors, "symbols": symbols, "alerts": alert_rows,
        "alerts_in_all": alerts.len(), "charted": charted, "prices": prices, "timezone": timezone,
    });
    // A `</script>` within a text would end the script.
    let data = data.to_string().replace("</", "<\\/");
    PAGE.replacen("/*CHARTS*/", CHARTS, 1).replacen("/*DATA*/null", &data, 1)
}

fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}
