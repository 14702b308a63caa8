//! The venue in front of a symbol, as in `NSE:RELIANCE` or `NSE_EQ|INE002A01018`.
//!
//! What holds: whether a symbol names a venue depends on its text alone, so that every reader of an alert finds the same one.

/// The characters between a venue and the name of an instrument.
const SEPARATORS: [char; 2] = [':', '|'];

/// The length of the longest venue, bytes. `BINANCE_DELIVERY` has 16, and no text that is much longer is a venue.
const VENUE_BYTES_MAX: usize = 20;

/// The venue and the name of a symbol; the venue is `None` if the symbol names none.
pub fn split(symbol: &str) -> (Option<&str>, &str) {
    match symbol.split_once(SEPARATORS) {
        Some((venue, name)) if is_venue(venue) && !name.is_empty() => (Some(venue), name),
        _ => (None, symbol),
    }
}

/// Whether a text has the form of a venue: a letter, then letters, digits and underscores. So the month of `ES/Z5:CME` is
/// not one.
pub fn is_venue(text: &str) -> bool {
    is_venue_of(text.bytes())
}

/// Whether these bytes have the form of a venue.
pub(crate) fn is_venue_of(mut bytes: impl ExactSizeIterator<Item = u8>) -> bool {
    (2..=VENUE_BYTES_MAX).contains(&bytes.len())
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The venue and the name of a pattern, whose venue may contain `*` and `?`.
pub(crate) fn split_pattern(pattern: &str) -> (Option<&str>, &str) {
    let is_wild = |byte: u8| byte.is_ascii_alphanumeric() || b"_*?".contains(&byte);
    match pattern.split_once(SEPARATORS) {
        Some((venue, name)) if !venue.is_empty() && !name.is_empty() && venue.bytes().all(is_wild) => {
            (Some(venue), name)
        }
        _ => (None, pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_venue_is_a_short_word_in_front_of_a_separator() {
        for (symbol, expected) in [
            ("NSE:RELIANCE", (Some("NSE"), "RELIANCE")),
            ("NSE_EQ|INE002A01018", (Some("NSE_EQ"), "INE002A01018")),
            ("BINANCE:BTC:USDT", (Some("BINANCE"), "BTC:USDT")),
            ("RELIANCE", (None, "RELIANCE")),
            ("ES/Z5:CME", (None, "ES/Z5:CME")),
            ("9:30", (None, "9:30")),
            ("C:EURUSD", (None, "C:EURUSD")),
            ("NSE:", (None, "NSE:")),
            (":RELIANCE", (None, ":RELIANCE")),
            ("AVERYLONGNAMEOFAVENUE:X", (None, "AVERYLONGNAMEOFAVENUE:X")),
            ("ÖKB:X", (None, "ÖKB:X")),
            ("", (None, "")),
        ] {
            assert_eq!(split(symbol), expected, "{symbol}");
        }
    }
}
