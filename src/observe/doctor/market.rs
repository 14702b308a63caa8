//! The reference data, the groups and the contexts: whether they can be read, and fit the symbols of the stream.

use std::collections::BTreeSet;

use super::finding::Finding;
use tickhound_core::market::Market;

/// From this share of symbols without a row on, the file is probably of another day or market.
const WITHOUT_ROW_MAX: f64 = 0.5;

/// Judges what was loaded. `symbols` are those in the newest entries.
pub(super) fn judge(loaded: anyhow::Result<()>, market: &Market, symbols: &BTreeSet<String>) -> Vec<Finding> {
    if let Err(error) = loaded {
        let finding = Finding::problem("market.config", format!("{error:#}"));
        return vec![finding.cure(
            "fix the file or the key: no host starts with it, and a running host keeps the reference data, groups and contexts \
             that it has",
        )];
    }
    let reference = market.reference();
    let mut findings = Vec::new();
    if reference.is_empty() && market.receipt().is_empty() {
        return findings;
    }
    for file in reference.files() {
        let observed = format!("{} has {} rows of reference data, sha256 {}", file.name, file.rows, &file.sha256[..12]);
        findings.push(Finding::ok("market.reference", observed));
    }
    findings.extend(
        reference.notes().iter().map(|note| Finding::note("market.reference", format!("reference data: {note}"))),
    );
    let survey = market.survey(symbols.iter().map(String::as_str));
    let without_row = survey.without_row as f64 / survey.symbols.max(1) as f64;
    for warning in survey.warnings() {
        let finding = if warning.starts_with("reference:") && without_row >= WITHOUT_ROW_MAX {
            Finding::warning("market.symbols", warning).cure(
                "check that the file is of today, that reference.symbol names the column with the symbols as the stream has \
                 them, and that reference.venues has their venues",
            )
        } else {
            // The newest entries have only some of the symbols.
            Finding::note("market.symbols", warning)
        };
        findings.push(finding);
    }
    findings
}
