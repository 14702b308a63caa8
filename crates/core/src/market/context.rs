//! Contexts: columns with the last value of another symbol, as of the row.
//!
//! What holds: a context reads columns of the input, never another context, so that there are no cycles. Which symbol is the
//! source of which others is decided by names and the reference data, not by which symbols have had a tick.

use std::borrow::Cow;

use anyhow::{Result, bail, ensure};
use rustc_hash::FxHashSet;

use super::{UNDERLYING, groups::text_column, is_spot, reference::Reference, underlying_of};
use crate::{
    config::{Config, ContextConfig, Source, nearest},
    event::column,
    pattern::SymbolPattern,
    venue,
};

/// A context, as ingest needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextRule {
    /// The name of the column that it is.
    pub name: String,
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
enum ContextSource {
    /// This one, for all rows.
    Symbol(SymbolPattern),
    /// The underlying of the row's symbol, at this venue; empty: at any.
    Underlying { venue: String },
    /// The symbol that this text column of the reference data names for the row's symbol.
    Named(usize, FxHashSet<String>),
}

impl Contexts {
    pub(super) fn build(config: &Config, source: &Source, reference: &Reference) -> Result<Self> {
        let input: Vec<&str> = column::NAMES.into_iter().chain(config.input.extra.keys().map(String::as_str)).collect();
        let mut contexts = Self::default();
        for (name, context) in &config.context {
            let at = |key: &str| source.at(&["context", name, key]);
            ensure!(
                !input.contains(&name.as_str()),
                "{}: context.{name}: the input has a column of this name; choose another",
                source.at(&["context", name])
            );
            let value = value(context, &input, config, || at("column"))?;
            contexts.rules.push(ContextRule { name: name.clone(), value });
            contexts.sources.push(match context.of.as_str() {
                "" => ContextSource::Symbol(SymbolPattern::new(&context.symbol)),
                UNDERLYING => ContextSource::Underlying { venue: context.venue.to_uppercase() },
                column => {
                    let column = text_column(column, reference, || at("of"))?;
                    let named = reference.distinct_texts(column).map(str::to_uppercase);
                    ContextSource::Named(column, named.collect())
                }
            });
        }
        Ok(contexts)
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
            ContextSource::Named(_, names) => {
                let name = venue::split(symbol).1;
                [symbol, name].into_iter().find_map(|name| names.get(name)).map(|name| Cow::Borrowed(name.as_str()))
            }
        }
    }
}

fn value(context: &ContextConfig, input: &[&str], config: &Config, at: impl Fn() -> String) -> Result<ContextValue> {
    let name = context.column.as_str();
    if name == "price" {
        return Ok(ContextValue::Price);
    }
    if let Some(position) = input.iter().position(|known| *known == name) {
        return Ok(ContextValue::Column(position));
    }
    ensure!(
        !config.context.contains_key(name),
        "{}: `{name}` is a context itself, expected price or a column of the input",
        at()
    );
    let near = nearest(name, input.iter().copied().chain(["price"]));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    bail!("{}: the input has no column `{name}`, expected price or one of {}{near}", at(), input.join(", "))
}
