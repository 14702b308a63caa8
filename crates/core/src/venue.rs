//! The venue in front of a symbol, as in `NSE:RELIANCE` or `NSE_EQ|INE002A01018`.
//!
//! What holds: whether a symbol names a venue depends on its text alone, so that every reader of an alert finds the same one.

use crate::text::is_absent;

/// The characters between a venue and the name of an instrument.
const SEPARATORS: [char; 2] = [':', '|'];

/// The exchange of each segment that vendors write in its place. Publishers write either for the same instrument, which would
/// then come from two venues.
const SEGMENTS: [(&str, &str); 30] = [
    ("NSE_EQ", "NSE"),
    ("NSE_CM", "NSE"),
    ("NSE_INDEX", "NSE"),
    ("NSE_FO", "NFO"),
    ("NSE_FNO", "NFO"),
    ("NFO_FUT", "NFO"),
    ("NFO_OPT", "NFO"),
    ("BSE_EQ", "BSE"),
    ("BSE_CM", "BSE"),
    ("BSE_INDEX", "BSE"),
    ("BSE_FO", "BFO"),
    ("BSE_FNO", "BFO"),
    ("BFO_FUT", "BFO"),
    ("BFO_OPT", "BFO"),
    ("NSE_CD", "CDS"),
    ("NSE_CURRENCY", "CDS"),
    ("NCD_FO", "CDS"),
    ("CDE_FO", "CDS"),
    ("CDS_FUT", "CDS"),
    ("CDS_OPT", "CDS"),
    ("BSE_CURRENCY", "BCD"),
    ("BCD_FO", "BCD"),
    ("BCD_FUT", "BCD"),
    ("BCD_OPT", "BCD"),
    ("MCX_FO", "MCX"),
    ("MCX_FUT", "MCX"),
    ("MCX_OPT", "MCX"),
    ("MCX_COMM", "MCX"),
    ("NCO_FUT", "NCO"),
    ("NCO_OPT", "NCO"),
];

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

/// The exchange that a text names, itself or by a segment; `None` if the text is not a venue.
pub(crate) fn exchange_of(text: &str) -> Option<String> {
    let mut venue = String::new();
    read_exchange(text, &[], &mut venue).then_some(venue)
}

/// Reads the venue in a field of its own, as its exchange if it is a segment of one; false if the text is not a venue. A segment
/// that the vendor of the feed has a number for, in `numbered`, stays: the number stands for the same venue.
pub(crate) fn read_exchange(text: &str, numbered: &[(i64, &str)], venue: &mut String) -> bool {
    let is_venue = read_venue(text, venue);
    // No exchange has an underscore, and this is read with each tick.
    if is_venue
        && venue.contains('_')
        && numbered.iter().all(|(_, name)| name != venue)
        && let Some((_, exchange)) = SEGMENTS.iter().find(|(segment, _)| segment == venue)
    {
        venue.clear();
        venue.push_str(exchange);
    }
    is_venue
}

/// Reads the venue in a field of its own, as it is written but for the case; false if the text is not one.
pub(crate) fn read_venue(text: &str, venue: &mut String) -> bool {
    let text = text.trim();
    let is_separator = |byte: u8| byte == b' ' || byte == b'-';
    let is_venue =
        !is_absent(text) && is_venue_of(text.bytes().map(|byte| if is_separator(byte) { b'_' } else { byte }));
    if is_venue {
        venue.clear();
        venue.extend(text.chars().map(|c| if c == ' ' || c == '-' { '_' } else { c.to_ascii_uppercase() }));
    }
    is_venue
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
