//! `[context.NAME]`: columns with the last value of another symbol.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};
use crate::market::reference::column_name;

/// `[context.NAME]`: a column with the last value of another symbol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContextConfig {
    /// The symbol whose value all rows have, as the stream has it. Empty, if `of` says which it is.
    pub symbol: String,
    /// `underlying`, for the underlying of the row's symbol, or a text column of the reference data that names the symbol.
    pub of: String,
    /// The venue at which the underlying is traded, if the stream has it from several. Empty: any.
    pub venue: String,
    /// What the value is: `price` or a column of the input.
    pub column: String,
}

impl Default for ContextConfig {
    fn default() -> Self {
        Self { symbol: String::new(), of: String::new(), venue: String::new(), column: "price".into() }
    }
}

pub(super) fn validate(contexts: &BTreeMap<String, ContextConfig>, source: &Source) -> Result<()> {
    for (name, context) in contexts {
        let section = Section::new(source, &["context", name]);
        let at = section.position();
        ensure!(
            *name == column_name(name) && !name.is_empty(),
            "{at}: the context `{name}`: expected a name in lower case, such as vix, which is a column of detectors"
        );
        let ContextConfig { symbol, of, venue, .. } = context;
        ensure!(
            symbol.is_empty() != of.is_empty(),
            "{at}: context.{name} has {}, expected `symbol` for one symbol, or `of` for one that depends on the row's",
            if symbol.is_empty() { "neither `symbol` nor `of`" } else { "both `symbol` and `of`" }
        );
        ensure!(
            !symbol.contains(['*', '?']),
            "{}: context.{name}.symbol is `{symbol}`, expected the name of one symbol without * and ?",
            section.at("symbol")
        );
        ensure!(
            venue.is_empty() || of == crate::market::UNDERLYING,
            "{}: context.{name}.venue is for `of = \"underlying\"` only; put the venue in front of a symbol",
            section.at("venue")
        );
    }
    Ok(())
}
