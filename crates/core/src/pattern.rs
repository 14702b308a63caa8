//! Patterns of symbols, as detectors, channels, commands and the page's filter have them.
//!
//! What holds: a pattern means the same wherever a user writes it. `*` stands for any text and `?` for one character; upper
//! and lower case are the same; and a venue counts only where both the pattern and the symbol name one. A pattern that names
//! nothing but a venue needs a symbol that names one: `MCX:*` would match every other symbol.

use wildmatch::WildMatch;

use crate::venue;

/// Which symbols are meant.
#[derive(Clone, Debug, PartialEq)]
pub struct SymbolPattern(Form);

#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// This symbol only, as alerts have it.
    Exact(String),
    /// Every symbol that fits.
    Glob {
        /// The pattern as it is written.
        text: String,
        /// All of it.
        whole: WildMatch,
        /// The part in front of the separator, if there is one.
        venue: Option<WildMatch>,
        /// The part behind it, or all of it.
        name: WildMatch,
        /// Whether that part consists of `*` and `?`, so that it names no instrument.
        any_name: bool,
    },
}

impl SymbolPattern {
    /// Compiles a pattern with `*` and `?`.
    pub fn new(pattern: &str) -> Self {
        // Symbols are in upper case, in which a letter may become two.
        let upper = pattern.to_uppercase();
        let (venue, name) = venue::split_pattern(&upper);
        Self(Form::Glob {
            text: pattern.to_owned(),
            whole: WildMatch::new_case_insensitive(&upper),
            venue: venue.map(WildMatch::new_case_insensitive),
            name: WildMatch::new_case_insensitive(name),
            any_name: name.bytes().all(|byte| b"*?".contains(&byte)),
        })
    }

    /// Compiles patterns.
    pub fn list(patterns: &[String]) -> Vec<Self> {
        patterns.iter().map(|pattern| Self::new(pattern)).collect()
    }

    /// A pattern that matches this symbol only, with its venue if it has one.
    pub fn exact(symbol: &str) -> Self {
        Self(Form::Exact(symbol.to_owned()))
    }

    /// Whether the symbol fits. `RELIANCE` matches the symbol `NSE:RELIANCE`; `NSE:RELIANCE` matches the symbol `RELIANCE`,
    /// whose venue is unknown, but not `BSE:RELIANCE`; `NSE:*` matches `NSE:RELIANCE`, but not `RELIANCE`.
    pub fn matches(&self, symbol: &str) -> bool {
        match &self.0 {
            Form::Exact(exact) => exact == symbol,
            Form::Glob { whole, venue: wanted, name: pattern, any_name, .. } => {
                if whole.matches(symbol) {
                    return true;
                }
                let (venue, name) = venue::split(symbol);
                let fits = match (wanted, venue) {
                    (Some(wanted), Some(venue)) => wanted.matches(venue),
                    (Some(_), None) => !any_name,
                    (None, _) => true,
                };
                fits && pattern.matches(name)
            }
        }
    }

    /// Whether one of `patterns` matches the symbol.
    pub fn any_matches(patterns: &[Self], symbol: &str) -> bool {
        patterns.iter().any(|pattern| pattern.matches(symbol))
    }

    /// Whether the pattern names a venue.
    pub fn names_venue(&self) -> bool {
        match &self.0 {
            Form::Exact(symbol) => venue::split(symbol).0.is_some(),
            Form::Glob { venue, .. } => venue.is_some(),
        }
    }

    /// Whether the symbol fits, and names a venue if the pattern does: a symbol of an unknown venue is not of that one.
    pub fn matches_known_venue(&self, symbol: &str) -> bool {
        self.matches(symbol) && (!self.names_venue() || venue::split(symbol).0.is_some())
    }

    /// Whether the pattern names a venue, and matches the symbol of this name at it.
    pub(crate) fn matches_at_its_venue(&self, name: &str) -> bool {
        match &self.0 {
            Form::Exact(symbol) => matches!(venue::split(symbol), (Some(_), own) if own == name),
            Form::Glob { venue, name: pattern, .. } => venue.is_some() && pattern.matches(name),
        }
    }

    /// The pattern as it is written.
    pub fn text(&self) -> &str {
        match &self.0 {
            Form::Exact(text) | Form::Glob { text, .. } => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_with_and_without_the_venue_in_any_case() {
        for (pattern, symbol, expected) in [
            ("RELIANCE", "RELIANCE", true),
            ("RELIANCE", "NSE:RELIANCE", true),
            ("reliance", "NSE:RELIANCE", true),
            ("Nifty*pe", "NIFTY25NOV25750PE", true),
            ("NSE:RELIANCE", "NSE:RELIANCE", true),
            ("nse:rel*", "NSE:RELIANCE", true),
            ("NSE:RELIANCE", "BSE:RELIANCE", false),
            ("NSE:RELIANCE", "RELIANCE", true),
            ("NSE:TCS", "RELIANCE", false),
            ("NSE:*", "RELIANCE", false),
            ("NSE:???????*", "RELIANCE", false),
            ("*:*", "RELIANCE", false),
            ("*:*", "NSE:RELIANCE", true),
            ("MCX|*", "RELIANCE", false),
            ("NSE:REL*", "RELIANCE", true),
            ("NSE:*", "NSE:RELIANCE", true),
            ("NSE:*", "BSE:RELIANCE", false),
            ("?SE:RELIANCE", "BSE:RELIANCE", true),
            ("?SE:RELIANCE", "MCX:RELIANCE", false),
            ("*:RELIANCE", "RELIANCE", true),
            ("*:RELIANCE", "MCX:RELIANCE", true),
            ("INE002A01018", "NSE_EQ|INE002A01018", true),
            ("NSE_EQ:INE*", "NSE_EQ|INE002A01018", true),
            ("nifty 50", "NSE_INDEX|NIFTY 50", true),
            ("NFITY*", "NIFTY25NOVFUT", false),
            ("REL", "NSE:RELIANCE", false),
            ("NSE", "NSE:RELIANCE", false),
            ("NSE*", "NSE:RELIANCE", true),
            ("ES/Z5:CME", "ES/Z5:CME", true),
            ("ES*", "ES/Z5:CME", true),
            ("straße", "STRASSE", true),
            ("*", "", true),
            ("*", "株式会社", true),
            ("", "RELIANCE", false),
            ("", "", true),
        ] {
            assert_eq!(SymbolPattern::new(pattern).matches(symbol), expected, "{pattern} against {symbol}");
        }
    }

    #[test]
    fn an_exact_symbol_is_no_pattern() {
        let exact = SymbolPattern::exact("NSE:A*");
        assert!(exact.matches("NSE:A*"));
        for other in ["A*", "NSE:AB", "nse:a*", "BSE:A*"] {
            assert!(!exact.matches(other), "{other}");
        }
        assert_eq!(SymbolPattern::new("Nifty*").text(), "Nifty*");
    }
}
