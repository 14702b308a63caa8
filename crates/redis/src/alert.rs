//! An alert as its stream holds it, and the filter that selects some of them.

use std::str::FromStr;

use redis::Value;
use wildmatch::WildMatch;

use crate::reply;
use tickhound_core::{
    event::{Entries, Entry, EntryId},
    pattern::SymbolPattern,
    publish::{json_line, read_document},
};

/// An entry of an alerts stream. Any client may add entries, so every field may be missing or malformed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredAlert {
    /// The id in the alerts stream. Its first part is the time of publication.
    pub at: EntryId,
    /// Names and values, in the order of the stream. Those of a JSON object are the fields of the alert in it.
    pub fields: Vec<(String, String)>,
}

impl StoredAlert {
    /// The value of a field; empty if the field is missing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Parses the value of a field.
    pub fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.field(name).parse().ok()
    }

    /// Whether a field that holds 0 or 1 holds 1.
    pub fn is(&self, name: &str) -> bool {
        self.field(name) == "1"
    }

    /// The confidence, from 0 to 1; 0 if it is missing.
    pub fn confidence(&self) -> f64 {
        self.number("confidence").unwrap_or(0.0)
    }

    /// The time since the entry that caused the alert arrived, ms.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.at.millis).saturating_add(self.number("lag_ms").unwrap_or(0))
    }

    /// The alert as a line of the JSON lines file.
    pub fn to_json(&self) -> String {
        json_line(self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// Whether the entry has the fields of an alert, and numbers where an alert has numbers.
    pub(crate) fn is_well_formed(&self) -> bool {
        let evidence = serde_json::from_str::<serde::de::IgnoredAny>(self.field("evidence"));
        let is_named = ["id", "detector", "symbol"].iter().all(|name| !self.field(name).is_empty());
        let is_empty_or_number = |name| self.field(name).is_empty() || self.number::<f64>(name).is_some();
        is_named
            && evidence.is_ok()
            && self.number::<f64>("confidence").is_some()
            && ["time", "price", "lag_ms", "recovered", "stale"].into_iter().all(is_empty_or_number)
    }
}

/// A detector's name that is written out, or a pattern in which `*` stands for any text and `?` for one character, in any
/// case: log lines have the names in upper case.
#[derive(Clone, Debug)]
pub enum NamePattern {
    /// Matches this name only.
    Exact(String),
    /// Matches every name of this form.
    Wildcard(WildMatch),
}

impl NamePattern {
    /// Parses a pattern with `*` and `?`.
    pub fn wildcard(pattern: &str) -> Self {
        Self::Wildcard(WildMatch::new_case_insensitive(pattern))
    }

    /// Whether the name fits.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(pattern) => pattern.matches(name),
        }
    }
}

/// Selects alerts. The default selects all of them.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// Selects alerts of detectors that match one of these; empty selects any detector.
    pub detectors: Vec<NamePattern>,
    /// Selects alerts about symbols that match one of these; empty selects any symbol.
    pub symbols: Vec<SymbolPattern>,
    /// Selects alerts of one of these directions (`up`, `down`, `none`); empty selects any direction.
    pub directions: Vec<String>,
    /// Selects alerts with at least this confidence.
    pub min_confidence: Option<f64>,
    /// Selects alerts that are stale, or that are not.
    pub stale: Option<bool>,
}

impl AlertFilter {
    /// Whether the filter selects every alert.
    pub fn is_open(&self) -> bool {
        let Self { detectors, symbols, directions, min_confidence, stale } = self;
        let names = detectors.is_empty() && symbols.is_empty() && directions.is_empty();
        names && min_confidence.is_none() && stale.is_none()
    }

    /// Whether the filter selects this alert.
    pub fn matches(&self, alert: &StoredAlert) -> bool {
        let any = |patterns: &[NamePattern], name| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
        };
        let direction = alert.field("direction");
        any(&self.detectors, alert.field("detector"))
            && (self.symbols.is_empty() || SymbolPattern::any_matches(&self.symbols, alert.field("symbol")))
            && (self.directions.is_empty() || self.directions.iter().any(|wanted| wanted == direction))
            && self
                .min_confidence
                .is_none_or(|least| alert.number::<f64>("confidence").is_some_and(|confidence| confidence >= least))
            && self.stale.is_none_or(|stale| alert.is("stale") == stale)
    }
}

/// Parses a page of an alerts stream, which is the reply to `XRANGE` or `XREVRANGE`.
pub(crate) fn parse_alerts(page: Value) -> anyhow::Result<Vec<StoredAlert>> {
    Ok(alerts_of(&reply::entries_of(page).map_err(|error| anyhow::anyhow!(error))?))
}

/// The fields of an alert in a JSON object.
fn document(value: &[u8]) -> Option<Vec<(String, String)>> {
    value.starts_with(b"{").then(|| read_document(std::str::from_utf8(value).ok()?)).flatten()
}

/// The alerts in entries of an alerts stream.
pub(crate) fn alerts_of(entries: &Entries) -> Vec<StoredAlert> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let alert = |entry: Entry<'_>| {
        let document = entry.field(b"id").is_none().then(|| entry.fields().find_map(|(_, value)| document(value)));
        let plain = || entry.fields().map(|(name, value)| (text(name), text(value))).collect();
        StoredAlert { at: entry.id, fields: document.flatten().unwrap_or_else(plain) }
    };
    entries.iter().map(alert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(fields: &[(&str, &str)]) -> StoredAlert {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        StoredAlert { at: EntryId { millis: 5000, seq: 0 }, fields }
    }

    #[test]
    fn a_filter_selects_by_name_direction_confidence_and_staleness() {
        let nifty = alert(&[
            ("detector", "breakout"),
            ("symbol", "NIFTY25NOV25750PE"),
            ("direction", "up"),
            ("confidence", "0.9"),
            ("stale", "1"),
        ]);
        let filter = AlertFilter::default;
        let cases = [
            (filter(), true),
            (AlertFilter { detectors: vec![NamePattern::Exact("breakout".into())], ..filter() }, true),
            (AlertFilter { detectors: vec![NamePattern::Exact("break*".into())], ..filter() }, false),
            (AlertFilter { detectors: vec![NamePattern::wildcard("BREAKOUT")], ..filter() }, true),
            (AlertFilter { detectors: vec![NamePattern::wildcard("Break*")], ..filter() }, true),
            (AlertFilter { detectors: vec![NamePattern::wildcard("BREAK")], ..filter() }, false),
            (AlertFilter { symbols: vec![SymbolPattern::new("A*"), SymbolPattern::new("N*PE")], ..filter() }, true),
            (AlertFilter { symbols: vec![SymbolPattern::new("NIFTY")], ..filter() }, false),
            (AlertFilter { directions: vec!["down".into()], ..filter() }, false),
            (AlertFilter { min_confidence: Some(0.9), ..filter() }, true),
            (AlertFilter { min_confidence: Some(0.91), ..filter() }, false),
            (AlertFilter { stale: Some(true), ..filter() }, true),
            (AlertFilter { stale: Some(false), ..filter() }, false),
        ];
        for (number, (filter, expected)) in cases.into_iter().enumerate() {
            assert_eq!(filter.matches(&nifty), expected, "case {number}");
            assert_eq!(filter.is_open(), number == 0, "case {number}");
        }
        let unknown = AlertFilter { min_confidence: Some(0.0), ..filter() };
        assert!(!unknown.matches(&alert(&[])), "an entry without a confidence is below any");
    }

    #[test]
    fn age_counts_from_the_entry_and_not_from_the_alert() {
        assert_eq!(alert(&[("lag_ms", "30")]).age_ms(5200), 230);
        assert_eq!(alert(&[("lag_ms", "?")]).age_ms(4000), 0);
    }
}
