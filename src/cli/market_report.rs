//! What `tickhound check` says of reference data, groups and contexts.

use serde_json::{Value, json};

use tickhound_core::market::{
    Market, UNDERLYING,
    survey::{FamilySurvey, MarketSurvey},
};

/// What there is of the market, for the symbols that detectors remember.
pub(super) struct MarketReport<'a> {
    market: &'a Market,
    survey: MarketSurvey,
}

impl<'a> MarketReport<'a> {
    pub(super) fn new(market: &'a Market, symbols: &[String]) -> Self {
        Self { market, survey: market.survey(symbols.iter().map(String::as_str)) }
    }

    /// What is odd in the files, and what is probably a mistake in the configuration.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let notes = self.market.reference().notes().iter().map(|note| format!("reference: {note}"));
        notes.chain(self.survey.warnings())
    }

    /// A line for each file, for each family of the configuration, and for the contexts.
    pub(super) fn lines(&self) -> Vec<String> {
        let reference = self.market.reference();
        let mut lines = Vec::new();
        for file in reference.files() {
            lines.push(format!("reference {} = {} rows, sha256 {}", file.name, file.rows, &file.sha256[..12]));
        }
        if !reference.is_empty() {
            let numbers: Vec<&str> = reference.numeric_columns().collect();
            let texts: Vec<&str> = self.market.text_columns().iter().map(String::as_str).collect();
            let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            lines.push(format!("reference columns = {}; texts: {}", list(&numbers), list(&texts)));
        }
        // Each symbol has an underlying, so its groups say something only where something else depends on them.
        let is_shown = |family: &&FamilySurvey| family.name != UNDERLYING || !reference.is_empty();
        for FamilySurvey { name, groups, members, largest, .. } in self.survey.families.iter().filter(is_shown) {
            let symbols = self.survey.symbols;
            let largest = largest.as_ref().map(|(group, size)| format!("; the largest is {group} with {size}"));
            let largest = largest.unwrap_or_default();
            lines.push(format!("groups {name} = {groups} groups with {members} of {symbols} symbols seen{largest}"));
        }
        if !self.market.contexts().is_empty() {
            let names: Vec<&str> = self.market.contexts().iter().map(|rule| rule.name.as_str()).collect();
            lines.push(format!("contexts = {}", names.join(", ")));
        }
        lines
    }

    pub(super) fn to_json(&self) -> Value {
        let (reference, survey) = (self.market.reference(), &self.survey);
        let files = reference.files().iter();
        let files: Vec<Value> =
            files.map(|file| json!({ "file": file.name, "sha256": file.sha256, "rows": file.rows })).collect();
        let family = |family: &FamilySurvey| {
            let largest = family.largest.as_ref().map(|(group, size)| json!({ "group": group, "symbols": size }));
            json!({ "name": family.name, "groups": family.groups, "symbols": family.members, "largest": largest })
        };
        json!({
            "reference": {
                "sha256": reference.sha256(), "files": files, "rows": reference.len(),
                "numbers": reference.numeric_columns().collect::<Vec<_>>(), "texts": self.market.text_columns(),
            },
            "groups": survey.families.iter().map(family).collect::<Vec<_>>(),
            "contexts": self.market.contexts().iter().map(|rule| &rule.name).collect::<Vec<_>>(),
            "symbols_seen": survey.symbols, "symbols_without_row": survey.without_row,
        })
    }
}
