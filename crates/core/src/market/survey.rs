//! What the groups, contexts and reference data of a configuration amount to for the symbols of a stream.

use std::collections::BTreeMap;

use super::Market;
use crate::pattern::SymbolPattern;

/// How many symbols without a row a sentence names.
const NAMED: usize = 3;

/// What there is for the symbols that were seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MarketSurvey {
    /// The number of symbols.
    pub symbols: usize,
    /// The number of those for which the reference data has no row, if there is any.
    pub without_row: usize,
    /// The first of these by name.
    pub examples: Vec<String>,
    /// The families by number.
    pub families: Vec<FamilySurvey>,
    /// The names of contexts whose source is none of the symbols.
    pub silent_contexts: Vec<String>,
    /// The names of contexts with a source that several symbols are, with these.
    pub shared_sources: Vec<(String, Vec<String>)>,
}

/// What there is of one family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FamilySurvey {
    /// Its name.
    pub name: String,
    /// The number of its groups with a member.
    pub groups: usize,
    /// The number of members of all groups.
    pub members: usize,
    /// The group with the most members, and their number.
    pub largest: Option<(String, usize)>,
    /// Its patterns that match none of the symbols.
    pub unmatched: Vec<String>,
}

impl Market {
    /// Looks up these symbols, which have no control characters: owners of groups among them are left out.
    pub fn survey<'a>(&self, symbols: impl Iterator<Item = &'a str>) -> MarketSurvey {
        let mut symbols: Vec<&str> = symbols.filter(|symbol| !symbol.starts_with('\0')).collect();
        symbols.sort_unstable();
        symbols.dedup();
        let mut survey = MarketSurvey { symbols: symbols.len(), ..MarketSurvey::default() };
        if !self.reference.is_empty() {
            let lacking = || symbols.iter().filter(|symbol| self.reference.row(symbol) == Default::default());
            survey.without_row = lacking().count();
            survey.examples = lacking().take(NAMED).map(|symbol| (*symbol).to_owned()).collect();
        }
        survey.families =
            self.families().enumerate().map(|(at, name)| self.survey_family(at, name, &symbols)).collect();
        for (at, rule) in self.contexts().iter().enumerate() {
            let mut sources: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for symbol in &symbols {
                if let Some(source) = self.context_fed_by(at, symbol) {
                    sources.entry(source.into_owned()).or_default().push((*symbol).to_owned());
                }
            }
            let has_source = symbols
                .iter()
                .any(|symbol| self.context_source(at, symbol).is_some_and(|source| sources.contains_key(&*source)));
            if !has_source {
                survey.silent_contexts.push(rule.name.clone());
            }
            let shared = sources.into_values().find(|feeding| feeding.len() > 1);
            survey.shared_sources.extend(shared.map(|feeding| (rule.name.clone(), feeding)));
        }
        survey
    }

    fn survey_family(&self, at: usize, name: &str, symbols: &[&str]) -> FamilySurvey {
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        for symbol in symbols {
            if let Some(group) = self.group_of(at, symbol) {
                *sizes.entry(group.into_owned()).or_default() += 1;
            }
        }
        let matches = |pattern: &SymbolPattern| symbols.iter().any(|symbol| pattern.matches(symbol));
        let unmatched = self.groups.patterns(at).iter().filter(|pattern| !matches(pattern));
        FamilySurvey {
            name: name.to_owned(),
            groups: sizes.len(),
            members: sizes.values().sum(),
            unmatched: unmatched.map(|pattern| pattern.text().to_owned()).collect(),
            largest: sizes.into_iter().rev().max_by_key(|(_, size)| *size),
        }
    }
}

impl MarketSurvey {
    /// Sentences about what is probably a mistake; none before any symbol was seen.
    pub fn warnings(&self) -> Vec<String> {
        let Self { symbols, without_row, examples, families, silent_contexts, shared_sources } = self;
        let mut warnings = Vec::new();
        if *symbols == 0 {
            return warnings;
        }
        if *without_row > 0 {
            let others = if *without_row > examples.len() { ", …" } else { "" };
            let examples = examples.join(", ");
            warnings
                .push(format!("reference: {without_row} of {symbols} symbols seen have no row ({examples}{others})"));
        }
        for FamilySurvey { name, members, unmatched, .. } in families {
            for pattern in unmatched {
                warnings.push(format!("groups.{name}.symbols: `{pattern}` matches none of {symbols} symbols seen"));
            }
            if *members == 0 && unmatched.is_empty() {
                warnings.push(format!("groups.{name}: none of {symbols} symbols seen is a member"));
            }
        }
        for name in silent_contexts {
            warnings
                .push(format!("context.{name}: none of {symbols} symbols seen is its source, so its value is missing"));
        }
        for (name, sources) in shared_sources {
            let (count, sources) = (sources.len(), sources[..sources.len().min(NAMED)].join(", "));
            warnings.push(format!(
                "context.{name}: {count} symbols are one source ({sources}), and the value is that of the last tick of any of them"
            ));
        }
        warnings
    }
}
