//! The report of a replay: an HTML page in one file that works offline.
//!
//! What holds: whatever symbols, names and evidence say, the page shows it as text. It can't end the element that it is
//! in, and no script runs but the two of this page.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    outcome::{AlertOutcome, Judge},
    tape::PriceHistory,
};
use crate::clock;
use tickhound_core::event::Alert;
use tickhound_engine::plugin::{DetectorSpec, Generation, params};

const PAGE: &str = include_str!("report.html");
const SCRIPT: &str = include_str!("report.js");
const VISIBLE: &str = include_str!("../../assets/dashboard/visible.js");
const AXIS: &str = include_str!("../../assets/dashboard/axis.js");
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
    /// The time zone of the times on the page.
    pub(crate) zone: &'a TimeZone,
}

/// Returns the page's HTML.
pub(crate) fn page(contents: &Contents<'_>) -> String {
    let Contents { replayed, alerts, judge, generation, zone } = contents;
    let mut per_symbol: BTreeMap<&str, usize> = BTreeMap::new();
    alerts.iter().for_each(|alert| *per_symbol.entry(&alert.symbol).or_default() += 1);
    let mut charted: Vec<(&str, usize)> = per_symbol.iter().map(|(name, count)| (*name, *count)).collect();
    charted.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    charted.truncate(CHARTS_MAX);
    let symbols: Vec<&str> = per_symbol.keys().copied().collect();
    let detectors: Vec<&str> = generation.detectors.iter().map(|spec| spec.name.as_str()).collect();
    let rows: Vec<Value> =
        shown(alerts).into_iter().map(|alert| alert_row(alert, &detectors, &symbols, judge)).collect();
    let prices: serde_json::Map<String, Value> = judge
        .histories()
        .filter(|(name, _)| charted.iter().any(|(charted, _)| charted == name))
        .map(|(name, history)| (name.to_owned(), price_line(history)))
        .collect();
    let newest = alerts.last().and_then(|alert| Timestamp::from_millisecond(millis(alert.time).try_into().ok()?).ok());
    let label = clock::label(newest.unwrap_or_else(Timestamp::now), zone);
    let data = json!({
        "replayed": replayed, "detectors": detector_rows(generation), "symbols": symbols, "alerts": rows,
        "alerts_in_all": alerts.len(), "charted": charted, "prices": prices,
        "timezone": zone.iana_name().unwrap_or("UTC"), "timezone_label": label,
    });
    fill(&data)
}

/// Puts the data and the scripts into the page.
fn fill(data: &Value) -> String {
    // The dashboard imports them; here they are parts of the script.
    let shared = [VISIBLE, AXIS].map(|script| script.replace("export ", "")).join("\n");
    let script = format!("\"use strict\";\n{shared}\n{SCRIPT}");
    // Without it, no script runs. Nobody whose texts are in the data can know it.
    let nonce = format!("{:032x}", rand::random::<u128>());
    let page = PAGE.replace("/*NONCE*/", &nonce);
    // The data comes last, so that nothing in it is taken for a place to fill.
    page.replacen("/*CHARTS*/", CHARTS, 1).replacen("/*SCRIPT*/", &script, 1).replacen("/*DATA*/", &embed(data), 1)
}

/// JSON that can stand in a `<script>`: `</script>` would end it, and after `<!--` and `<script` it would go on behind
/// its end. JSON has `<` in strings only, where its code means the same.
fn embed(data: &Value) -> String {
    let escaped = [("<", "\\u003c"), ("\u{2028}", "\\u2028"), ("\u{2029}", "\\u2029")];
    escaped.iter().fold(data.to_string(), |json, (character, code)| json.replace(character, code))
}

/// Returns the alerts that are on the page, in their order.
fn shown(alerts: &[Alert]) -> Vec<&Alert> {
    let mut shown: Vec<&Alert> = alerts.iter().collect();
    if shown.len() > ALERTS_MAX {
        shown.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        shown.truncate(ALERTS_MAX);
        shown.sort_by_key(|alert| alert.time);
    }
    shown
}

/// Returns the columns of an alert. Detector and symbol are indexes, which keeps the page small.
fn alert_row(alert: &Alert, detectors: &[&str], symbols: &[&str], judge: &Judge) -> Value {
    let evidence: serde_json::Map<String, Value> =
        alert.evidence.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let outcome = match judge.judge(alert) {
        AlertOutcome::Reached => "reached",
        AlertOutcome::Failed => "failed",
        AlertOutcome::Neither => "neither",
        AlertOutcome::Open => "open",
    };
    json!([
        detectors.iter().position(|name| *name == alert.detector),
        symbols.binary_search(&alert.symbol.as_str()).ok(),
        millis(alert.time),
        Some(alert.price).filter(|price| price.is_finite()),
        alert.confidence,
        alert.direction.as_str(),
        evidence,
        outcome
    ])
}

fn price_line(history: &PriceHistory) -> Value {
    let merged = history.bars.len().div_ceil(POINTS_MAX).max(1) as u64;
    let bars = history.in_bars_of(history.bar * merged);
    bars.iter().map(|bar| json!([millis(bar.start), bar.close])).collect()
}

fn detector_rows(generation: &Generation) -> Vec<Value> {
    let row = |spec: &DetectorSpec| {
        json!({
            "name": spec.name, "plugin": spec.plugin.manifest.name, "version": spec.plugin.manifest.version,
            "sha256": spec.plugin.sha256, "description": spec.plugin.manifest.description,
            "params": params::to_json(&spec.params), "min_confidence": spec.min_confidence,
        })
    };
    generation.detectors.iter().map(|spec| row(spec)).collect()
}

fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_leaves_its_place() {
        for text in ["<!--<script>", "</script><script>alert(1)</script>", "/*DATA*/", "/*NONCE*/", "\u{2028}", "]]>"] {
            let data = json!({ "symbols": [text] });
            let page = fill(&data);
            let usual = fill(&json!({ "symbols": ["A"] }));
            for part in ["<script", "</script", "<!--"] {
                assert_eq!(page.matches(part).count(), usual.matches(part).count(), "{text:?}: {part}");
            }
            let embedded = page.split("application/json\">").nth(1).and_then(|rest| rest.split("</script>").next());
            assert_eq!(serde_json::from_str::<Value>(embedded.unwrap()).unwrap(), data);
        }
    }
}
