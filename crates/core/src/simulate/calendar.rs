//! The trading hours of the simulated market, which are those of the built-in calendar `nse`.

use crate::{
    config,
    session::{Calendar, Phase, Span},
};

pub(super) const NS_PER_MS: u64 = 1_000_000;
pub(super) const NS_PER_S: u64 = 1_000_000_000;

const MINUTE: u64 = 60 * NS_PER_S;
const DAY: u64 = 24 * 60 * MINUTE;
/// The offset of India from UTC, which has been constant, without summer time, since 1945.
pub(super) const OFFSET: u64 = 330 * MINUTE;

/// The sessions of the simulated market, and the one that was asked for last.
#[derive(Debug)]
pub(super) struct TradingHours {
    calendar: Calendar,
    session: Span,
}

impl TradingHours {
    pub(super) fn new() -> Self {
        let calendar = config::built_in("nse");
        let session = calendar.span(0);
        Self { calendar, session }
    }

    /// Returns `time` if it is within a session, and the open of the next session otherwise.
    pub(super) fn in_session(&mut self, time: u64) -> u64 {
        if self.session.phase == Phase::Open && self.session.contains(time) {
            return time;
        }
        let time = self.calendar.in_session(time).unwrap_or(time);
        self.session = self.calendar.span(time);
        time
    }
}

/// The number of the day in India, since 1970-01-01.
pub(super) fn day(time: u64) -> u64 {
    (time + OFFSET) / DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> u64 {
        text.parse::<jiff::Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
    }

    #[test]
    fn a_time_outside_of_a_session_becomes_the_next_open() {
        let mut hours = TradingHours::new();
        for (time, expected) in [
            ("2025-11-03T09:14:59.999+05:30", "2025-11-03T09:15:00+05:30"),
            ("2025-11-03T09:15:00+05:30", "2025-11-03T09:15:00+05:30"),
            ("2025-11-03T15:29:59.999+05:30", "2025-11-03T15:29:59.999+05:30"),
            ("2025-11-03T15:30:00+05:30", "2025-11-04T09:15:00+05:30"),
            ("2025-11-07T15:30:00+05:30", "2025-11-10T09:15:00+05:30"),
            ("2025-11-08T12:00:00+05:30", "2025-11-10T09:15:00+05:30"),
            ("2025-11-09T23:59:59+05:30", "2025-11-10T09:15:00+05:30"),
            // A holiday, after which the next day is one, too; then a Sunday with a session.
            ("2025-11-05T10:00:00+05:30", "2025-11-06T09:15:00+05:30"),
            ("2026-01-31T10:00:00+05:30", "2026-02-01T09:15:00+05:30"),
        ] {
            assert_eq!(hours.in_session(ns(time)), ns(expected), "{time}");
        }
    }
}
