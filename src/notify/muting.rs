//! Mutes as people make them: until the session ends, or for a span of time.

use std::{error, fmt};

use anyhow::{Context, Result, anyhow};
use jiff::{Span, Timestamp};

use tickhound_core::{config::Config, decode::time_zone};
use tickhound_redis::mutes::{Addition, MUTES_MAX, Mute, Mutes};

/// When a mute ends.
#[derive(Clone, Debug)]
pub(crate) enum MuteEnd {
    /// With the session of the symbols: the last of them, if they may have several calendars.
    Session,
    /// After this time.
    After(Span),
}

impl MuteEnd {
    /// Parses `session`, or a span such as `30m`.
    ///
    /// # Errors
    /// A sentence on what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "session" {
            return Ok(Self::Session);
        }
        let span: Option<Span> = text.trim().parse().ok();
        let span = span.filter(|span| span.is_positive());
        span.map(Self::After).ok_or_else(|| anyhow!("`{text}`: expected a span such as 30m or 2h, or `session`"))
    }

    /// When a mute of these symbols ends, ms since the Unix epoch, if it begins at `now_ms`.
    ///
    /// # Errors
    /// When that is beyond the end of time.
    pub(crate) fn at(&self, config: &Config, symbols: &str, now_ms: u64) -> Result<u64> {
        let zone = time_zone(&config.input.timezone)?;
        let now = Timestamp::from_millisecond(i64::try_from(now_ms)?)?.to_zoned_datetime(zone.clone());
        let end = match self {
            Self::Session => {
                let close_ns = config.session.sessions.close_after(symbols, now_ms.saturating_mul(1_000_000), zone);
                match close_ns {
                    Some(close_ns) => return Ok(close_ns / 1_000_000),
                    // The calendar has ended.
                    None => now.tomorrow()?.start_of_day()?,
                }
            }
            Self::After(span) => now.checked_add(*span).context("the mute would be too long")?,
        };
        Ok(u64::try_from(end.timestamp().as_millisecond())?)
    }
}

/// Why a mute was not made or ended.
#[derive(Debug)]
pub(crate) enum MuteError {
    /// What was asked for is not possible.
    Rejected(String),
    /// Redis could not be asked.
    Failed(anyhow::Error),
}

impl fmt::Display for MuteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => f.write_str(reason),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl error::Error for MuteError {}

impl From<anyhow::Error> for MuteError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Mutes what the patterns match, on all channels of the group.
///
/// # Errors
/// When a pattern is not valid, there are too many mutes, or Redis can't be asked.
pub(crate) fn mute(config: &Config, symbols: &str, detector: &str, end: &MuteEnd) -> Result<Mute, MuteError> {
    let rejected = |error: anyhow::Error| MuteError::Rejected(format!("{error:#}"));
    let mute = Mute::new(symbols, detector).map_err(rejected)?;
    let mut mutes = Mutes::new(&config.stream)?;
    let now_ms = mutes.now_ms()?;
    let mute = Mute { made_ms: now_ms, until_ms: end.at(config, symbols, now_ms).map_err(rejected)?, ..mute };
    mute.check_length().map_err(rejected)?;
    match mutes.add(&mute)? {
        Addition::Added => Ok(mute),
        Addition::TooMany => Err(MuteError::Rejected(format!(
            "there are {MUTES_MAX} mutes already; `tickhound mutes` lists them, and `tickhound unmute` ends some"
        ))),
    }
}

/// Ends the mute with these patterns.
///
/// # Errors
/// When there is none, or Redis can't be asked.
pub(crate) fn unmute(config: &Config, symbols: &str, detector: &str) -> Result<(), MuteError> {
    let wanted = Mute::new(symbols, detector).map_err(|error| MuteError::Rejected(error.to_string()))?;
    let mut mutes = Mutes::new(&config.stream)?;
    let known = mutes.list()?;
    if mutes.remove(&wanted)? {
        return Ok(());
    }
    Err(MuteError::Rejected(format!("there is no mute of {symbols} for detector {detector}; {}", existing(&known))))
}

/// Ends all mutes, also those that can't be read, and returns their number.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) fn unmute_all(config: &Config) -> Result<u64> {
    Mutes::new(&config.stream)?.clear()
}

/// The mutes in force, each with the number of alerts that it has kept from channels.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) fn mutes(config: &Config) -> Result<Vec<(Mute, u64)>> {
    Mutes::new(&config.stream)?.list()
}

fn existing(mutes: &[(Mute, u64)]) -> String {
    if mutes.is_empty() {
        return "nothing is muted".to_owned();
    }
    let names: Vec<String> = mutes.iter().map(|(mute, _)| format!("{} for {}", mute.symbols, mute.detector)).collect();
    format!("muted: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mute_ends_after_its_span_or_with_the_day() {
        let config = Config::default();
        // 15:00 in Kolkata.
        let now_ms = 1_764_063_000_000;
        let ends = |text: &str| MuteEnd::parse(text).unwrap().at(&config, "SBIN", now_ms).unwrap() - now_ms;
        assert_eq!([ends("30m"), ends("2h"), ends("1h 30m")], [1_800_000, 7_200_000, 5_400_000]);
        assert_eq!(ends("session"), 9 * 3_600_000);
        for wrong in ["", "30", "-30m", "0m", "soon", "Session"] {
            assert!(MuteEnd::parse(wrong).is_err(), "{wrong}");
        }
        assert!(MuteEnd::parse("9999y").unwrap().at(&config, "SBIN", now_ms).is_err());
    }
}
