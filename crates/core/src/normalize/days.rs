//! Session days, which are the days of the configured time zone.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// Numbers the days of a time zone. It caches the last day, as zone lookups are too slow for each tick.
#[derive(Debug)]
pub(super) struct Days {
    zone: TimeZone,
    last: Option<Day>,
}

/// One day of the zone.
#[derive(Clone, Copy, Debug)]
struct Day {
    /// The first instant, ns.
    begin: u64,
    /// The first instant after the day, ns.
    end: u64,
    /// The number of the day since 1970-01-01.
    number: i32,
}

impl Days {
    pub(super) fn new(zone: TimeZone) -> Self {
        Self { zone, last: None }
    }

    /// The number of the day that contains a time.
    pub(super) fn number(&mut self, time: u64) -> i32 {
        match self.last {
            Some(day) if (day.begin..day.end).contains(&time) => day.number,
            _ => {
                let day = self.day_of(time);
                self.last = Some(day);
                day.number
            }
        }
    }

    fn day_of(&self, time: u64) -> Day {
        let instant = Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH);
        let date = self.zone.to_datetime(instant).date();
        let midnight = |date: Date| {
            let instant = self.zone.to_timestamp(date.at(0, 0, 0, 0)).unwrap_or(Timestamp::UNIX_EPOCH);
            u64::try_from(instant.as_nanosecond()).unwrap_or(0)
        };
        let end = date.tomorrow().map_or(u64::MAX, midnight);
        let number = date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24;
        Day { begin: midnight(date), end, number: i32::try_from(number).unwrap_or(0) }
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
