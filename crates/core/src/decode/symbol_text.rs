//! Reads the text of a symbol: its venue, its name, and whether it names an instrument at all.

use rustc_hash::FxHashMap;

use crate::{
    config::{InputConfig, input::VenueRule},
    pattern::SymbolPattern,
    symbol::{SYMBOL_BYTES_MAX, worth_copying},
    text::is_absent,
    venue,
};

/// The exchanges that publishers put before a symbol, as in `NSE:RELIANCE`. Of other venues, the symbol has always kept the
/// name unless `input.venue` is `keep`, and states are saved under it.
const EXCHANGES: [&str; 9] = ["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO", "NSEIX"];

/// What a text says about the symbol of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SymbolText {
    /// It names an instrument.
    Name,
    /// It names an instrument and its venue.
    NameAtVenue,
    /// It is a way to write that there is no value.
    Absent,
    /// The producer did not know the instrument.
    Unresolved,
}

/// What symbols are read by.
#[derive(Clone, Debug)]
pub(super) struct SymbolRules {
    /// The symbols of instrument numbers.
    tokens: FxHashMap<String, String>,
    venue: VenueRule,
    unresolved: Vec<SymbolPattern>,
    /// Which bytes a name may begin with that one of `unresolved` matches, so that most symbols are compared with none.
    unresolved_first: Box<[bool; 256]>,
}

impl SymbolRules {
    pub(super) fn new(config: &InputConfig, tokens: FxHashMap<String, String>) -> Self {
        let mut first = Box::new([false; 256]);
        for pattern in &config.unresolved {
            match venue::split_pattern(pattern).1.bytes().next() {
                Some(byte) if byte.is_ascii() && !b"*?".contains(&byte) => {
                    first[usize::from(byte.to_ascii_uppercase())] = true;
                    first[usize::from(byte.to_ascii_lowercase())] = true;
                    // A letter may be the lower case of one that is not ASCII.
                    first[128..].fill(true);
                }
                _ => first.fill(true),
            }
        }
        let unresolved = SymbolPattern::list(&config.unresolved);
        Self { tokens, venue: config.venue, unresolved, unresolved_first: first }
    }

    /// Writes the symbol that a text names into `symbol`, and its venue into `venue` if it is not a part of the symbol.
    /// Neither is changed if the text names none.
    pub(super) fn read(&self, text: &str, symbol: &mut String, venue: &mut String) -> SymbolText {
        let text = text.trim();
        // pandas writes a column of integers as floats if some of them are missing.
        let text = match text.strip_suffix(".0") {
            Some(token) if token.bytes().all(|byte| byte.is_ascii_digit()) => token,
            _ => text,
        };
        let text = self.tokens.get(text).map_or(text, String::as_str);
        let (prefix, name) = self.split(text);
        if is_absent(name) {
            return SymbolText::Absent;
        }
        if self.unresolved_first[usize::from(name.as_bytes()[0])] && SymbolPattern::any_matches(&self.unresolved, name)
        {
            return SymbolText::Unresolved;
        }
        copy_upper(worth_copying(name), symbol);
        match prefix.filter(|_| self.venue != VenueRule::Strip) {
            Some(prefix) => {
                copy_upper(prefix, venue);
                SymbolText::NameAtVenue
            }
            None => SymbolText::Name,
        }
    }

    /// Puts the venue back in front of the symbol if it is a part of it, unless the symbol names one already.
    #[inline]
    pub(super) fn join(&self, symbol: &mut String, venue: &mut String) {
        if self.venue == VenueRule::Keep && !venue.is_empty() && !symbol.is_empty() {
            if venue::split(symbol).0.is_none() {
                symbol.insert(0, ':');
                symbol.insert_str(0, venue);
            }
            venue.clear();
        }
    }

    /// The venue in front of a name, and the name.
    fn split<'t>(&self, text: &'t str) -> (Option<&'t str>, &'t str) {
        let Some((prefix, name)) = text.split_once(':') else { return (None, text) };
        let is_venue = match self.venue {
            VenueRule::Keep => venue::is_venue(prefix),
            VenueRule::Strip | VenueRule::RefuseMixed => {
                EXCHANGES.iter().any(|known| prefix.eq_ignore_ascii_case(known))
            }
        };
        if is_venue { (Some(prefix), name.trim()) } else { (None, text) }
    }
}

fn copy_upper(text: &str, into: &mut String) {
    into.clear();
    into.push_str(text);
    if text.len() > SYMBOL_BYTES_MAX {
        // In upper case it might be shorter, and look like another symbol.
    } else if text.is_ascii() {
        into.make_ascii_uppercase();
    } else {
        *into = text.to_uppercase();
    }
}
