//! Which symbols are usable: short ones without characters that can't be seen.
//!
//! Whoever may add an entry chooses its symbols. They are kept in memory, given to detectors, and shown in logs, terminals
//! and on the page, so a symbol must be short, and must look like what it is. A symbol is checked once, when it is new, and
//! not with each tick.

use crate::text::{HiddenKind, hidden_kind};

/// The length of the longest usable symbol, bytes of UTF-8. Names of options have some 20 to 40, those of spreads and of
/// tokens on a chain up to 128. A longer text is not a name.
pub const SYMBOL_BYTES_MAX: usize = 128;

/// Why a symbol is not usable. The text is the reason of a dead letter, and does not repeat the symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSymbol {
    /// It is empty, or only spaces.
    #[error("unusable symbol: it is blank")]
    Blank,
    /// It is longer than [`SYMBOL_BYTES_MAX`].
    #[error("unusable symbol: it is longer than {SYMBOL_BYTES_MAX} bytes")]
    TooLong,
    /// It contains this character.
    #[error("unusable symbol: it contains U+{:04X}, {}", u32::from(*.0), .1.as_str())]
    Hidden(char, HiddenKind),
}

/// Checks a symbol before its first tick.
///
/// # Errors
/// When the symbol is not usable.
pub fn check_symbol(symbol: &str) -> Result<(), UnusableSymbol> {
    if symbol.len() > SYMBOL_BYTES_MAX {
        return Err(UnusableSymbol::TooLong);
    }
    if let Some((character, kind)) = symbol.chars().find_map(|character| Some((character, hidden_kind(character)?))) {
        return Err(UnusableSymbol::Hidden(character, kind));
    }
    if symbol.trim().is_empty() { Err(UnusableSymbol::Blank) } else { Ok(()) }
}

/// The part of a text that is worth copying as a symbol: all of it, or, if it is too long, just enough to be too long.
pub(crate) fn worth_copying(text: &str) -> &str {
    if text.len() <= SYMBOL_BYTES_MAX {
        return text;
    }
    let end = (SYMBOL_BYTES_MAX + 1..text.len()).find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_venues_are_usable() {
        let long = "X".repeat(SYMBOL_BYTES_MAX);
        for symbol in [
            "NIFTY25NOV25750PE",
            "NIFTY 50",
            "M&M-EQ",
            "BRK.B",
            "ES/Z5:CME",
            "BTC-27JUN25-100000-C",
            "^GSPC",
            "株式会社",
            "ÖMV",
            "निफ्टी",
            "🚀USDT",
            &long,
        ] {
            assert_eq!(check_symbol(symbol), Ok(()), "{symbol}");
        }
    }

    #[test]
    fn what_can_not_be_seen_is_named_by_its_number() {
        for (hidden, reason) in [
            ('\u{1b}', "U+001B, a control character"),
            ('\n', "U+000A, a control character"),
            ('\0', "U+0000, a control character"),
            ('\u{7f}', "U+007F, a control character"),
            ('\u{9b}', "U+009B, a control character"),
            ('\u{85}', "U+0085, a control character"),
            ('\u{2028}', "U+2028, a line break"),
            ('\u{2029}', "U+2029, a line break"),
            ('\u{202e}', "U+202E, a character that changes the direction of text"),
            ('\u{2066}', "U+2066, a character that changes the direction of text"),
            ('\u{2069}', "U+2069, a character that changes the direction of text"),
            ('\u{200e}', "U+200E, a character that changes the direction of text"),
            ('\u{61c}', "U+061C, a character that changes the direction of text"),
            ('\u{200b}', "U+200B, an invisible character"),
            ('\u{200d}', "U+200D, an invisible character"),
            ('\u{feff}', "U+FEFF, an invisible character"),
            ('\u{ad}', "U+00AD, an invisible character"),
            ('\u{e0041}', "U+E0041, an invisible character"),
            ('\u{fe0f}', "U+FE0F, an invisible character"),
            ('\u{13430}', "U+13430, a character that changes how others are drawn"),
        ] {
            let error = check_symbol(&format!("A{hidden}B")).unwrap_err();
            assert_eq!(error.to_string(), format!("unusable symbol: it contains {reason}"));
        }
    }

    #[test]
    fn a_long_symbol_stays_too_long_however_little_of_it_is_copied() {
        for character in ["x", "é", "株", "🚀"] {
            for count in [SYMBOL_BYTES_MAX / character.len(), SYMBOL_BYTES_MAX / character.len() + 1, 100_000] {
                let text = character.repeat(count);
                let copied = worth_copying(&text);
                assert_eq!(check_symbol(copied), check_symbol(&text), "{count} × {character}");
                assert!(copied.len() <= SYMBOL_BYTES_MAX + 4);
            }
        }
        assert_eq!(check_symbol(" \u{a0}"), Err(UnusableSymbol::Blank));
        assert_eq!(check_symbol(""), Err(UnusableSymbol::Blank));
    }
}
