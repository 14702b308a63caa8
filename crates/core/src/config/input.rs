//! `[input]`: how entries become ticks.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// The largest value of `input.ahead_max_ms`: a time that is still further ahead of its arrival is not a time.
pub const AHEAD_MAX_MS: u64 = 5 * 60 * 1000;

/// The values of `input.price_scale`: prices are published in units from nano to billions.
const PRICE_SCALES: RangeInclusive<f64> = 1e-9..=1e9;

/// `[input]` and its sub-tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// How ticks are written into entries. `auto` detects it for each entry.
    pub layout: InputLayout,
    /// The vendor whose field names to expect. `generic` has common names of no particular vendor.
    pub preset: String,
    /// The IANA time zone of times that name none, and of session days.
    pub timezone: String,
    /// The factor from published prices to prices in quote currency, in addition to that of the preset.
    pub price_scale: f64,
    /// The price of a tick that has only quotes.
    pub quotes: Quotes,
    /// What a field called `volume` holds.
    pub volume: VolumeKind,
    /// What becomes of the venue of a symbol, as in `NSE:RELIANCE`, or in a field of its own. Two venues of one name trade
    /// at two prices, so by default a name has one venue, and ticks of another are rejected.
    pub venue: VenueRule,
    /// Patterns of what producers write as the symbol of an instrument that they don't know. A tick with such a symbol
    /// needs another field that names it.
    pub unresolved: Vec<String>,
    /// How far the time of a tick may be ahead of its entry's arrival, ms. A time further ahead is lowered to that, since
    /// it would stop the clock of all detectors until the feed has caught up with it. The default allows for clocks that
    /// are synchronized, and for times that are rounded up to the next second.
    pub ahead_max_ms: u64,
    /// Field names, or paths such as `depth.buy[0].price`, by target. They are tried before those of the preset.
    pub map: BTreeMap<String, Vec<String>>,
    /// Further columns for detectors that request them: field names or paths, by column.
    pub extra: BTreeMap<String, Vec<String>>,
    /// The symbols of ticks that carry a number instead.
    pub tokens: TokensConfig,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            layout: InputLayout::Auto,
            preset: "kite".into(),
            timezone: "Asia/Kolkata".into(),
            price_scale: 1.0,
            quotes: Quotes::Carry,
            volume: VolumeKind::Auto,
            venue: VenueRule::RefuseMixed,
            unresolved: ["UNKNOWN", "UNKNOWN_*", "TOKEN_*"].map(str::to_owned).to_vec(),
            ahead_max_ms: 2000,
            map: BTreeMap::new(),
            extra: BTreeMap::new(),
            tokens: TokensConfig::default(),
        }
    }
}

impl InputConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["input"]);
        section.check_range("price_scale", self.price_scale, PRICE_SCALES)?;
        section.check_range("ahead_max_ms", self.ahead_max_ms, 0..=AHEAD_MAX_MS)?;
        for pattern in &self.unresolved {
            section.check_not_empty("unresolved", pattern)?;
            ensure!(
                pattern.chars().any(|character| character != '*'),
                "{}: input.unresolved has `{pattern}`, which matches every symbol",
                section.at("unresolved")
            );
        }
        Ok(())
    }
}

/// How a tick is written into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputLayout {
    /// Any of the others, detected for each entry.
    Auto,
    /// JSON text in the field `data`, `payload`, `tick` or `json`.
    Json,
    /// Each value is a field of its own.
    Flat,
    /// MessagePack in the field `data`, `payload`, `tick` or `json`.
    Msgpack,
}

/// The price of a tick without a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quotes {
    /// The symbol's last price. Ticks before its first price are not shown to detectors.
    Carry,
    /// The middle of the latest bid and ask, for feeds without trades.
    Mid,
}

/// What a field called `volume` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// Detected for each symbol from the first 50 changes of its value; unknown until then.
    Auto,
    /// The volume traded in the session so far.
    Cumulative,
    /// The volume traded since the previous tick.
    PerTick,
}

/// What becomes of the venue in front of a symbol, or in a field of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VenueRule {
    /// It is a part of the symbol: `NSE:RELIANCE` and `BSE:RELIANCE` are two symbols.
    Keep,
    /// It is dropped: both are `RELIANCE`, and their ticks are processed as those of one symbol.
    Strip,
    /// It is dropped, and the first venue that a symbol comes from is the only one: ticks of another are rejected.
    RefuseMixed,
}

/// `[input.tokens]`: the symbols of instrument numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// A CSV file with the columns `instrument_token` and `tradingsymbol`, or with these two and no header, relative to
    /// the project root. Empty: no file.
    pub file: PathBuf,
}
