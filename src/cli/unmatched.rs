//! The patterns of channels and calendars that match nothing, for `check` and `status`.

use tickhound_core::{
    config::{Config, input::VenueRule},
    pattern::SymbolPattern,
};
use tickhound_redis::NamePattern;

/// The patterns of channels that match no detector, or none of the symbols that detectors remember, if they remember any.
pub(super) fn of_channels(config: &Config, symbols: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for channel in config.notify.iter().filter(|channel| channel.enabled) {
        for text in &channel.detectors {
            let pattern = NamePattern::wildcard(text);
            if !config.detectors.iter().any(|(name, of)| of.enabled && pattern.matches(name)) {
                let name = &channel.name;
                warnings.push(format!("notify `{name}`: detectors has `{text}`, which matches no configured detector"));
            }
        }
        for text in &channel.symbols {
            let pattern = SymbolPattern::new(text);
            if !symbols.is_empty() && !symbols.iter().any(|symbol| pattern.matches(symbol)) {
                let (name, seen) = (&channel.name, symbols.len());
                warnings
                    .push(format!("notify `{name}`: symbols has `{text}`, which matches none of {seen} symbols seen"));
            }
        }
    }
    warnings
}

/// The patterns of calendars that match none of the symbols that detectors remember. One with a venue matches only symbols
/// that contain theirs, so that it is named before there are any, too.
pub(super) fn of_calendars(config: &Config, symbols: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for text in config.session.by_symbol.iter().flat_map(|of| &of.symbols) {
        let pattern = SymbolPattern::new(text);
        if symbols.iter().any(|symbol| pattern.matches_known_venue(symbol)) {
            continue;
        }
        if pattern.names_venue() && config.input.venue != VenueRule::Keep {
            warnings.push(format!(
                "session.by_symbol: `{text}` matches only symbols that contain their venue; set input.venue to \"keep\", or \
                 leave out the venue"
            ));
        } else if !symbols.is_empty() {
            warnings.push(format!("session.by_symbol: `{text}` matches none of {} symbols seen", symbols.len()));
        }
    }
    warnings
}
