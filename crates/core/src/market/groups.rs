//! Families of groups: which symbols a detector of scope `group` sees together.
//!
//! What holds: in a family, a symbol belongs to one group or to none, which its name and the reference data decide.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::{Result, bail, ensure};

use super::{UNDERLYING, reference::Reference, underlying_of};
use crate::{
    config::{FamilyConfig, Source, nearest},
    pattern::SymbolPattern,
};

/// The name of the group of all symbols, which no family has.
pub const MARKET: &str = "market";

/// The families of a configuration, and `underlying`.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: String,
    /// The symbols that may be members; `None`: all.
    patterns: Option<Vec<SymbolPattern>>,
    rule: Rule,
}

/// How the group of a member follows.
#[derive(Debug)]
enum Rule {
    /// All members are one group, which has the family's name.
    One,
    /// The group is that of the member's underlying.
    Underlying,
    /// The group is the value of this text column of the reference data.
    Text(usize),
}

impl Groups {
    pub(super) fn build(
        families: &BTreeMap<String, FamilyConfig>,
        source: &Source,
        reference: &Reference,
    ) -> Result<Self> {
        let built_in = Family { name: UNDERLYING.to_owned(), patterns: None, rule: Rule::Underlying };
        let mut groups = vec![built_in];
        for (name, family) in families {
            let patterns = (!family.symbols.is_empty()).then(|| SymbolPattern::list(&family.symbols));
            let rule = match family.by.as_str() {
                "" => Rule::One,
                UNDERLYING => Rule::Underlying,
                column => Rule::Text(text_column(column, reference, || source.at(&["groups", name, "by"]))?),
            };
            groups.push(Family { name: name.clone(), patterns, rule });
        }
        Ok(Self(groups))
    }

    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|family| family.name.as_str())
    }

    pub(super) fn group_of<'a>(
        &'a self,
        family: usize,
        symbol: &str,
        reference: &'a Reference,
    ) -> Option<Cow<'a, str>> {
        let Family { name, patterns, rule } = self.0.get(family)?;
        if patterns.as_ref().is_some_and(|patterns| !SymbolPattern::any_matches(patterns, symbol)) {
            return None;
        }
        match rule {
            Rule::One => Some(Cow::Borrowed(name)),
            Rule::Underlying => Some(underlying_of(symbol, reference)),
            Rule::Text(column) => reference.text(*column, reference.row(symbol)).map(Cow::Borrowed),
        }
    }
}

/// The number of a text column of the reference data, which a key names that is `at` a position.
pub(super) fn text_column(name: &str, reference: &Reference, at: impl Fn() -> String) -> Result<usize> {
    if let Some(column) = reference.text_columns().position(|known| known == name) {
        return Ok(column);
    }
    ensure!(
        !reference.is_empty(),
        "{}: `{name}` is a column of the reference data, but [reference] has no files",
        at()
    );
    ensure!(
        !reference.numeric_columns().any(|known| known == name),
        "{}: `{name}` is a column of numbers, expected one of texts; reference.texts = [\"{name}\"] makes it one",
        at()
    );
    let known: Vec<&str> = reference.text_columns().collect();
    let near = nearest(name, known.iter().copied());
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    bail!("{}: the reference data has no column `{name}`; its texts are {}{near}", at(), known.join(", "))
}
