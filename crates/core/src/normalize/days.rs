//! Session days: the days of the configured time zone.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// Numbers days in the session's time zone; asks the zone once a day, not once a tick.
#[derive(Debug)]
pub(super) struct Days {
    zone: TimeZone,
    /// Begin, end (ns) and number of the day asked for last.
    known: Option<(u64, u64, i32)>,
}

impl Days {
    pub(super) fn new(zone: TimeZone) -> Self {
        Self { zone, known: None }
    }

    pub(super) fn number(&mut self, time: u64) -> i32 {
        match self.known {
            Some((begin, end, number)) if (begin..end).contains(&time) => number,
            _ => self.look_up(time),
        }
    }

    fn look_up(&mut self, time: u64) -> i32 {
        let instant = Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH);
        let date = self.zone.to_datetime(instant).date();
        let midnight = |date: Date| {
            let instant = self.zone.to_timestamp(date.at(0, 0, 0, 0)).unwrap_or(Timestamp::UNIX_EPOCH);
            u64::try_from(instant.as_nanosecond()).unwrap_or(0)
        };
        let end = date.tomorrow().map_or(u64::MAX, midnight);
        let number = date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24;
        let number = i32::try_from(number).unwrap_or(0);
        self.known = Some((midnight(date), end, number));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// 2025-11-24 10:00 in Kolkata.
    const START: u64 = 1_763_958_600 * SECOND;

    #[test]
    fn days_are_those_of_the_zone() {
        let mut days = Days::new(TimeZone::get("Asia/Kolkata").unwrap());
        let today = days.number(START);
        assert_eq!(days.number(START + 14 * 3600 * SECOND - 1), today, "until midnight in Kolkata");
        assert_eq!(days.number(START + 14 * 3600 * SECOND), today + 1);
        assert_eq!(days.number(START), today);
    }
}
