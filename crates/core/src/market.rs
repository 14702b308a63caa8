//! What a detector may know beside the ticks of one symbol: reference data, groups of symbols, and values of other symbols; and
//! what is computed from ticks once for all detectors, in stream order.
//!
//! What holds: a [`Market`] never changes. Which group a symbol belongs to and whose value it reads depend on the symbol's name,
//! the configuration and the reference data alone, so that they are the same in each worker, live and in a replay.

pub mod bars;
pub mod computed;
pub mod context;
pub mod groups;
pub mod order;
pub mod reference;
pub mod series;
pub mod snapshots;
pub mod survey;
#[cfg(test)]
mod tests;
pub mod tick;
mod underlying;

use std::{borrow::Cow, sync::Arc};

use sha2::{Digest, Sha256};

use self::{
    context::{Context, ContextRule, Contexts},
    groups::{Family, Groups},
    reference::{DAYS_TO_EXPIRY, Reference},
    underlying::{is_derivative, underlying},
};
use crate::{event::column, receipt::MarketReceipt, session::COLUMNS};

/// The text column that every symbol has: the name of its underlying.
pub const UNDERLYING: &str = "underlying";

/// The columns that rows have beside those of the input, so that neither a context nor the reference data can have their names.
const COLUMNS_OF_ROWS: [&str; 7] = ["price", "open", "high", "low", "vwap", "count", DAYS_TO_EXPIRY];

/// The reference data, groups and contexts that are in force together.
#[derive(Debug, Default)]
pub struct Market {
    reference: Arc<Reference>,
    groups: Groups,
    contexts: Contexts,
    /// The text columns of the reference data, and [`UNDERLYING`].
    texts: Vec<String>,
    fingerprint: u64,
}

impl Market {
    /// A market with these families and contexts. `settings` are all that they follow from beside the reference data.
    pub(crate) fn new(
        reference: Arc<Reference>,
        families: Vec<Family>,
        contexts: Vec<Context>,
        settings: &str,
    ) -> Self {
        let mut texts: Vec<String> = reference.text_columns().map(str::to_owned).collect();
        if !texts.iter().any(|text| text == UNDERLYING) {
            texts.push(UNDERLYING.to_owned());
        }
        let fingerprint = hash(&format!("{}\0{settings}", reference.sha256()));
        let groups = Groups::new(families, &reference);
        Self { reference, groups, contexts: Contexts::new(contexts), texts, fingerprint }
    }

    /// The reference data.
    pub fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    /// The names of the families of groups by number. `underlying` is always one of them.
    pub fn families(&self) -> impl ExactSizeIterator<Item = &str> {
        self.groups.names()
    }

    /// The group of this family that a symbol belongs to; `None` if it belongs to none.
    ///
    /// It searches, so callers ask once for each symbol.
    pub fn group_of(&self, family: usize, symbol: &str) -> Option<Cow<'_, str>> {
        self.groups.group_of(family, symbol, &self.reference)
    }

    /// The hash of all that decides who is a member of which group of this family. It is equal in every process of a release.
    pub fn family_fingerprint(&self, family: usize) -> u64 {
        self.groups.fingerprint(family)
    }

    /// The contexts by number, in the order of their names.
    pub fn contexts(&self) -> &[ContextRule] {
        self.contexts.rules()
    }

    /// The source whose value the rows of `symbol` have in this context; `None` if there is none, so that the value is NaN.
    /// Sources are names that mean something within one context only.
    ///
    /// It searches, so callers ask once for each symbol.
    pub fn context_source(&self, context: usize, symbol: &str) -> Option<Cow<'_, str>> {
        self.contexts.source_of(context, symbol, &self.reference)
    }

    /// The source in this context whose value each tick of `symbol` is; `None` if it is not part of any. Usually one symbol is a
    /// source. If several are (an index under two names), the value is that of the last tick of any of them.
    ///
    /// It searches, so callers ask once for each symbol.
    pub fn context_fed_by(&self, context: usize, symbol: &str) -> Option<Cow<'_, str>> {
        self.contexts.fed_by(context, symbol, &self.reference)
    }

    /// The hash of all that decides whose value each row has in this context. It is equal in every process of a release.
    pub fn context_fingerprint(&self, context: usize) -> u64 {
        self.contexts.fingerprint(context)
    }

    /// The text columns that detectors may ask for, by number.
    pub fn text_columns(&self) -> &[String] {
        &self.texts
    }

    /// The value of a text column for a symbol. Its underlying is known also without reference data.
    ///
    /// It searches, so callers ask once for each symbol.
    pub fn text(&self, column: usize, symbol: &str) -> Option<Cow<'_, str>> {
        let name = self.texts.get(column)?;
        if name == UNDERLYING {
            return Some(underlying_of(symbol, &self.reference));
        }
        self.reference.text(column, self.reference.row(symbol)).map(Cow::Borrowed)
    }

    /// What `status` shows of it.
    pub fn receipt(&self) -> MarketReceipt {
        MarketReceipt {
            reference: self.reference.sha256().to_owned(),
            rows: self.reference.len() as u64,
            groups: self.families().filter(|name| *name != UNDERLYING).map(str::to_owned).collect(),
            contexts: self.contexts().iter().map(|rule| rule.name.clone()).collect(),
        }
    }

    /// The underlying of a symbol: by the reference data if it says so, or else by the symbol's name.
    pub fn underlying(&self, symbol: &str) -> Cow<'_, str> {
        underlying_of(symbol, &self.reference)
    }

    /// The hash of everything that decides what detectors see of the market. It is equal in every process of a release.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// Whether rows have a column of this name without `[input.extra]`, contexts and reference data.
pub(crate) fn is_column_of_rows(name: &str) -> bool {
    column::NAMES.iter().chain(&COLUMNS).chain(&COLUMNS_OF_ROWS).any(|known| *known == name)
}

/// The underlying of a symbol: by the reference data if it says so, or else by the symbol's name.
pub(crate) fn underlying_of<'a>(symbol: &str, reference: &'a Reference) -> Cow<'a, str> {
    match reference.underlying(reference.row(symbol)) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(underlying(symbol)),
    }
}

/// Whether a symbol is not a future or an option: its ticks are those of the underlying itself.
pub(crate) fn is_spot(symbol: &str, reference: &Reference) -> bool {
    !reference.is_derivative(reference.row(symbol)).unwrap_or_else(|| is_derivative(symbol))
}

/// Hashes a text, the same in every process.
pub(crate) fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer"))
}
