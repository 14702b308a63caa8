//! A mute: which alerts notification channels leave out, and until when; pure.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::alert::{NamePattern, StoredAlert};
use tickhound_core::{pattern::SymbolPattern, text::is_printable};

/// The longest pattern of a mute, characters: the longest symbols have some 40.
pub const PATTERN_MAX: usize = 100;

/// The longest mute, seconds: what should never be sent is a matter of the channel's `symbols` and `detectors`.
pub const MUTE_SECONDS_MAX: u64 = 30 * 86_400;

/// Separates the patterns of a mute in the name of its field; no pattern contains a control character.
const SEPARATOR: char = '\u{1f}';

/// Alerts that are not sent for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// The pattern of the symbols.
    pub symbols: String,
    /// The pattern of the detectors.
    pub detector: String,
    /// When it was made, ms since the Unix epoch.
    pub made_ms: u64,
    /// When it ends, ms since the Unix epoch.
    pub until_ms: u64,
}

impl Mute {
    /// A mute with these patterns, without a time.
    ///
    /// # Errors
    /// When a pattern can't be one of a symbol or a detector.
    pub fn new(symbols: &str, detector: &str) -> Result<Self> {
        for (what, pattern) in [("symbols", symbols), ("detector", detector)] {
            ensure!(!pattern.trim().is_empty(), "the pattern of {what} is empty; `*` matches all");
            let length = pattern.chars().count();
            ensure!(
                length <= PATTERN_MAX,
                "the pattern of {what} has {length} characters, expected at most {PATTERN_MAX}"
            );
            ensure!(is_printable(pattern), "the pattern of {what} contains a character that can't be seen");
        }
        let [symbols, detector] = [symbols, detector].map(|pattern| pattern.trim().to_owned());
        Ok(Self { symbols, detector, made_ms: 0, until_ms: 0 })
    }

    /// Checks when it begins and ends.
    ///
    /// # Errors
    /// When it would end at once or last too long.
    pub fn check_length(&self) -> Result<()> {
        ensure!(self.until_ms > self.made_ms, "the mute would end before it begins");
        ensure!(
            self.until_ms - self.made_ms <= MUTE_SECONDS_MAX * 1000,
            "a mute lasts at most {} days; to send something never, set `symbols` or `detectors` of the channel",
            MUTE_SECONDS_MAX / 86_400
        );
        Ok(())
    }

    /// Identifies this mute among all that there ever were: its patterns, and when it was made.
    pub fn id(&self) -> String {
        format!("{}{SEPARATOR}{}", self.made_ms, self.field())
    }

    /// The field that holds it. Patterns are the same in any case.
    pub(crate) fn field(&self) -> String {
        format!("{}{SEPARATOR}{}", self.symbols.to_uppercase(), self.detector.to_lowercase())
    }
}

/// The mutes that are in force at one time, ready to be compared with alerts.
pub struct MutesInForce(Vec<MuteInForce>);

/// A mute, ready to be compared with alerts.
struct MuteInForce {
    symbols: SymbolPattern,
    detectors: NamePattern,
    id: String,
}

impl MutesInForce {
    /// Those of `mutes` that have not ended at `now_ms`.
    pub fn at(mutes: &[Mute], now_ms: u64) -> Self {
        let in_force = mutes.iter().filter(|mute| mute.until_ms > now_ms);
        let compiled = |mute: &Mute| MuteInForce {
            symbols: SymbolPattern::new(&mute.symbols),
            detectors: NamePattern::wildcard(&mute.detector),
            id: mute.id(),
        };
        Self(in_force.map(compiled).collect())
    }

    /// The id of the mute that leaves out this alert; of several, the first.
    pub fn of(&self, alert: &StoredAlert) -> Option<&str> {
        let (symbol, detector) = (alert.field("symbol"), alert.field("detector"));
        let fits = |mute: &&MuteInForce| mute.symbols.matches(symbol) && mute.detectors.matches(detector);
        self.0.iter().find(fits).map(|mute| mute.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mute(symbols: &str, detector: &str, until_ms: u64) -> Mute {
        Mute { until_ms, made_ms: 1, ..Mute::new(symbols, detector).unwrap() }
    }

    fn alert(symbol: &str, detector: &str) -> StoredAlert {
        let fields = [("symbol", symbol), ("detector", detector)];
        StoredAlert {
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..StoredAlert::default()
        }
    }

    #[test]
    fn a_mute_leaves_out_what_its_patterns_match_until_it_ends() {
        let mutes = [mute("NIFTY*", "BREAKOUT", 200), mute("nse:sbin", "*", 300)];
        for (symbol, detector, now_ms, muted) in [
            ("NIFTY25NOVFUT", "breakout", 199, true),
            ("NIFTY25NOVFUT", "breakout", 200, false),
            ("NIFTY25NOVFUT", "momentum", 100, false),
            ("BANKNIFTY25NOVFUT", "breakout", 100, false),
            ("NIFTY25NOVFUT", "Breakout", 100, true),
            ("SBIN", "momentum", 299, true),
            ("BSE:SBIN", "momentum", 299, false),
            ("SBIN", "momentum", 300, false),
        ] {
            let found = MutesInForce::at(&mutes, now_ms).of(&alert(symbol, detector)).is_some();
            assert_eq!(found, muted, "{symbol} {detector} at {now_ms}");
        }
    }

    #[test]
    fn a_pattern_is_one_short_visible_text() {
        for (symbols, detector) in [("", "*"), ("*", " "), ("A\n", "*"), ("A\u{1f}B", "*"), ("*", "\u{202e}")] {
            assert!(Mute::new(symbols, detector).is_err(), "{symbols:?} {detector:?}");
        }
        assert!(Mute::new(&"A".repeat(PATTERN_MAX + 1), "*").is_err());
        assert_eq!(Mute::new("株*", "*").unwrap().symbols, "株*");
        assert_eq!(mute("nifty*", "a", 1).field(), mute("NIFTY*", "A", 2).field());
    }
}
