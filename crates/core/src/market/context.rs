//! Contexts: columns with the last value of another symbol, as of the row.
//!
//! What holds: a context reads columns of the input, never another context, so that there are no cycles. Which symbol is the
//! source of which others is decided by names and the reference data, not by which symbols have had a tick.

use std::borrow::Cow;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{is_spot, reference::Reference, underlying_of};
use crate::{pattern::SymbolPattern, venue};

/// A context, as ingest needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextRule {
    /// The name of the column that it is.
    pub name: String,
    /// The name of what it is the last value of: `price`, or a column of the input.
    pub column: String,
    /// What it is the last value of.
    pub value: ContextValue,
}

/// What a context takes from each tick of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextValue {
    /// The price.
    Price,
    /// The column of the input at this position. Its value is the last one that was not NaN.
    Column(usize),
}

#[derive(Debug, Default)]
pub(super) struct Contexts {
    rules: Vec<ContextRule>,
    sources: Vec<ContextSource>,
}

/// Which symbol a context takes its value from.
#[derive(Debug)]
pub(crate) enum ContextSource {
    /// This one, for all rows.
    Symbol(SymbolPattern),
    /// The underlying of the row's symbol, at this venue; empty: at any.
    Underlying { venue: String },
    /// The symbol that this text column of the reference data names for the row's symbol.
    Named(usize, NamedSymbols),
}

/// The symbols that a text column names, in upper case.
#[derive(Debug, Default)]
pub(crate) struct NamedSymbols {
    whole: FxHashSet<String>,
    /// Those that name a venue, by the name behind it.
    at_venues: FxHashMap<String, String>,
}

impl NamedSymbols {
    pub(crate) fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut named = Self::default();
        for text in texts.map(str::to_uppercase) {
            if let (Some(_), name) = venue::split(&text) {
                named.at_venues.insert(name.to_owned(), text.clone());
            }
            named.whole.insert(text);
        }
        named
    }

    /// The text that names this symbol: like a pattern, it may leave out the venue, and so may the symbol.
    fn find(&self, symbol: &str) -> Option<&str> {
        let whole = |name: &str| self.whole.get(name).map(String::as_str);
        match venue::split(symbol) {
            (Some(_), name) => whole(symbol).or_else(|| whole(name)),
            (None, name) => whole(name).or_else(|| self.at_venues.get(name).map(String::as_str)),
        }
    }
}

impl Contexts {
    pub(super) fn new(contexts: Vec<(ContextRule, ContextSource)>) -> Self {
        let (rules, sources) = contexts.into_iter().unzip();
        Self { rules, sources }
    }

    pub(super) fn rules(&self) -> &[ContextRule] {
        &self.rules
    }

    pub(super) fn source_of<'a>(
        &'a self,
        context: usize,
        symbol: &str,
        reference: &'a Reference,
    ) -> Option<Cow<'a, str>> {
        match self.sources.get(context)? {
            ContextSource::Symbol(pattern) => Some(Cow::Borrowed(pattern.text())),
            ContextSource::Underlying { .. } => Some(underlying_of(symbol, reference)),
            ContextSource::Named(column, _) => {
                reference.text(*column, reference.row(symbol)).map(|name| Cow::Owned(name.to_uppercase()))
            }
        }
    }

    pub(super) fn fed_by<'a>(&'a self, context: usize, symbol: &str, reference: &'a Reference) -> Option<Cow<'a, str>> {
        match self.sources.get(context)? {
            ContextSource::Symbol(pattern) => pattern.matches(symbol).then(|| Cow::Borrowed(pattern.text())),
            ContextSource::Underlying { venue } => {
                let is_there = venue.is_empty() || venue::split(symbol).0.is_none_or(|own| own == venue);
                (is_there && is_spot(symbol, reference)).then(|| underlying_of(symbol, reference))
            }
            ContextSource::Named(_, names) => names.find(symbol).map(Cow::Borrowed),
        }
    }
}
