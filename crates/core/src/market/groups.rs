//! Families of groups: which symbols a detector of scope `group` sees together.
//!
//! What holds: in a family, a symbol belongs to one group or to none, which its name and the reference data decide.

use std::borrow::Cow;

use super::{UNDERLYING, hash, reference::Reference, underlying_of};
use crate::pattern::SymbolPattern;

/// The name of the group of all symbols, which no family has.
pub const MARKET: &str = "market";

/// The families of a configuration, and `underlying`.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Family>);

/// A family of groups.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: String,
    /// The symbols that may be members; `None`: all.
    pub(crate) patterns: Option<Vec<SymbolPattern>>,
    pub(crate) rule: GroupRule,
    /// The hash of all that decides who is a member of which group.
    pub(crate) fingerprint: u64,
}

/// How the group of a member follows.
#[derive(Debug)]
pub(crate) enum GroupRule {
    /// All members are one group, which has the family's name.
    One,
    /// The group is that of the member's underlying.
    Underlying,
    /// The group is the value of this text column of the reference data.
    Text(usize),
}

impl Groups {
    /// The families of a configuration, behind that of underlyings.
    pub(super) fn new(families: Vec<Family>, reference: &Reference) -> Self {
        let fingerprint = hash(reference.sha256());
        let built_in = Family { name: UNDERLYING.to_owned(), patterns: None, rule: GroupRule::Underlying, fingerprint };
        Self([built_in].into_iter().chain(families).collect())
    }

    /// The patterns of a family's members; none if all symbols may be.
    pub(super) fn patterns(&self, family: usize) -> &[SymbolPattern] {
        self.0.get(family).and_then(|family| family.patterns.as_deref()).unwrap_or_default()
    }

    pub(super) fn fingerprint(&self, family: usize) -> u64 {
        self.0[family].fingerprint
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
        let Family { name, patterns, rule, .. } = self.0.get(family)?;
        if patterns.as_ref().is_some_and(|patterns| !SymbolPattern::any_matches(patterns, symbol)) {
            return None;
        }
        match rule {
            GroupRule::One => Some(Cow::Borrowed(name)),
            GroupRule::Underlying => Some(underlying_of(symbol, reference)),
            GroupRule::Text(column) => reference.text(*column, reference.row(symbol)).map(Cow::Borrowed),
        }
    }
}
