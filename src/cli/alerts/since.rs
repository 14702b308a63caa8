//! The value of `--since`: a span, a time, or an id.

use anyhow::{Result, bail};
use jiff::{
    Span, Timestamp,
    civil::{DateTime, Time},
    tz::TimeZone,
};

use tickhound_core::event::EntryId;
use tickhound_redis::StoredAlert;

#[derive(Debug, PartialEq)]
pub(super) enum Since {
    /// Alerts that were published at this time or later, ms since the Unix epoch.
    Published(u64),
    /// Alerts that this entry, or a later one, caused.
    Entry(EntryId),
}

impl Since {
    /// Parses the forms that the help of the command lists.
    ///
    /// # Errors
    /// A sentence on what was expected.
    pub(super) fn parse(text: &str, zone: &TimeZone, now: Timestamp) -> Result<Self> {
        let text = text.trim();
        // The id of an alert begins with the id of its entry.
        let id = text.split('/').next().unwrap_or_default();
        if let Ok(entry) = id.parse() {
            return Ok(Self::Entry(entry));
        }
        match instant(text, zone, now) {
            Some(at) => Ok(Self::Published(u64::try_from(at.as_millisecond()).unwrap_or(0))),
            None => bail!(
                "--since {text}: expected a span such as 10m, a time such as 09:15 or 2025-11-24 09:15, \
                 or the id of an entry or of an alert"
            ),
        }
    }

    /// The position in the alerts stream to read after: no alert is published before its entry arrives.
    pub(super) fn before(&self) -> EntryId {
        let millis = match self {
            Self::Published(millis) => *millis,
            Self::Entry(entry) => entry.millis,
        };
        EntryId { millis, seq: 0 }.before()
    }

    pub(super) fn covers(&self, alert: &StoredAlert) -> bool {
        match self {
            Self::Published(millis) => alert.at.millis >= *millis,
            Self::Entry(first) => alert.number::<EntryId>("entry").is_some_and(|entry| entry >= *first),
        }
    }
}

fn instant(text: &str, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let here = now.to_zoned_datetime(zone.clone());
    let time = || text.parse::<Time>().map(|time| here.datetime().date().to_datetime(time));
    if let Ok(civil) = text.parse::<DateTime>().or_else(|_| time()) {
        return zone.to_timestamp(civil).ok();
    }
    // Last, since 09:15:30 is also a valid span.
    let span: Span = text.parse().ok()?;
    here.checked_sub(span.abs()).ok().map(|then| then.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_times_and_ids_are_distinguished() {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        let now: Timestamp = "2025-11-24T06:00:00Z".parse().unwrap();
        let ms = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond() as u64;
        let published = [
            ("10m", "2025-11-24T05:50:00Z"),
            ("2h 30m", "2025-11-24T03:30:00Z"),
            ("1d", "2025-11-23T06:00:00Z"),
            ("90s", "2025-11-24T05:58:30Z"),
            ("09:15", "2025-11-24T03:45:00Z"),
            ("09:15:30", "2025-11-24T03:45:30Z"),
            ("2025-11-21", "2025-11-20T18:30:00Z"),
            ("2025-11-21 09:15", "2025-11-21T03:45:00Z"),
            ("2025-11-21T09:15:00Z", "2025-11-21T09:15:00Z"),
            ("2025-11-21T09:15:00+05:30", "2025-11-21T03:45:00Z"),
        ];
        for (text, at) in published {
            assert_eq!(Since::parse(text, &zone, now).unwrap(), Since::Published(ms(at)), "{text}");
        }
        let entry = EntryId { millis: 1_763_958_315_250, seq: 3 };
        for text in ["1763958315250-3", "1763958315250-3/breakout/0"] {
            assert_eq!(Since::parse(text, &zone, now).unwrap(), Since::Entry(entry), "{text}");
        }
        for text in ["", "yesterday", "25:00", "10", "-", "10 parsecs"] {
            let parsed = Since::parse(text, &zone, now);
            assert!(parsed.is_err() || text == "10", "{text}: {parsed:?}");
        }
    }

    #[test]
    fn reading_begins_right_before() {
        let at = |millis, seq| Since::Entry(EntryId { millis, seq }).before();
        assert_eq!(at(5, 3), EntryId { millis: 4, seq: u64::MAX });
        assert_eq!(at(0, 0), EntryId::ZERO);
        assert_eq!(Since::Published(1).before(), EntryId { millis: 0, seq: u64::MAX });
    }
}
