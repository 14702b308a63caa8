//! `[input]`: how entries become ticks.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// `[input]` and its sub-tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// How ticks are written into entries; `auto` looks at each entry.
    pub layout: Layout,
    /// Whose field names to expect; `generic` knows the usual ones of no vendor in particular.
    pub preset: String,
    /// IANA zone of times that name none, and of session days.
    pub timezone: String,
    /// Prices as published times this are prices in quote currency; on top of what the preset knows.
    pub price_scale: f64,
    /// Price of a tick that only brings quotes.
    pub quotes: Quotes,
    /// What a field called just `volume` holds.
    pub volume: VolumeKind,
    /// Field names, or paths such as `depth.buy[0].price`, that go before the preset's, by target.
    pub map: BTreeMap<String, Vec<String>>,
    /// Further columns for detectors that ask for them: names or paths, by column.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Names for ticks that carry a number instead of a symbol.
    pub tokens: TokensConfig,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            layout: Layout::Auto,
            preset: "kite".into(),
            timezone: "Asia/Kolkata".into(),
            price_scale: 1.0,
            quotes: Quotes::Carry,
            volume: VolumeKind::Auto,
            map: BTreeMap::new(),
            extra: BTreeMap::new(),
            tokens: TokensConfig::default(),
        }
    }
}

/// How a tick is written into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Any of the others, found out for each entry.
    Auto,
    /// JSON text in the field `data`, `payload`, `tick` or `json`.
    Json,
    /// Each value in a field of its own.
    Flat,
    /// MessagePack in the field `data`, `payload`, `tick` or `json`.
    Msgpack,
}

/// The price of a tick without a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quotes {
    /// The last one known; before the first the tick is not shown to detectors.
    Carry,
    /// The middle of the latest bid and ask: for feeds that hold no trades at all.
    Mid,
}

/// What `volume` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// Found out per symbol from the first 50 changes of its value; unknown until then.
    Auto,
    /// Traded in the session so far.
    Cumulative,
    /// Traded in this tick.
    PerTick,
}

/// `[input.tokens]`: from instrument numbers to names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// CSV file with the columns `instrument_token` and `tradingsymbol`, or without a header and in that order;
    /// relative to the project root; empty = none.
    pub file: PathBuf,
}
