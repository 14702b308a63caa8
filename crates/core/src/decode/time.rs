//! The times that vendors write: numbers of any unit, ISO 8601, and other forms.

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    fmt::strtime,
    tz::TimeZone,
};

use super::iso::{self, Zone};
use crate::config::input::AHEAD_MAX_MS;

/// The earliest plausible time, ns: zero and small stamps mean a missing value.
const EARLIEST_NS: i128 = 946_684_800_000_000_000; // 2000-01-01

/// How far ahead of its arrival a time may be to count as a time, ns. `input.ahead_max_ms` says how much of that is
/// believed.
const AHEAD_NS: i128 = AHEAD_MAX_MS as i128 * 1_000_000;

/// Converts a number of unknown unit to ns since the Unix epoch. Its size distinguishes seconds, ms, us and ns for
/// every time from 1973 on.
pub(super) fn from_number(number: f64) -> i128 {
    let factor = match number {
        n if n < 1e11 => 1e9,
        n if n < 1e14 => 1e6,
        n if n < 1e17 => 1e3,
        _ => 1.0,
    };
    // Whole units and fraction are scaled separately, as one product would lose the last digits.
    let whole = number.trunc();
    (whole as i128).saturating_mul(factor as i128).saturating_add(((number - whole) * factor).round() as i128)
}

/// Converts an integer of unknown unit like [`from_number`], and exactly.
pub(super) fn from_integer(number: i128) -> i128 {
    let factor = match number {
        n if n < 100_000_000_000 => 1_000_000_000,
        n if n < 100_000_000_000_000 => 1_000_000,
        n if n < 100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    number * factor
}

/// Reads a text: a number, ISO 8601 with or without offset, `YYYYMMDD HHMMSSmmm`, or a time of day. A time of day is
/// the latest one that an entry which arrived at `arrival_ms` can mean. Times without an offset are in `zone`.
pub(super) fn from_text(text: &str, zone: &mut Zone, arrival_ms: u64) -> Option<i128> {
    if let Some(ns) = iso::read(text, zone) {
        return Some(i128::from(ns));
    }
    let zone = &zone.rules;
    if let Ok(number) = text.parse::<i64>() {
        return Some(from_integer(i128::from(number)));
    }
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then(|| from_number(number));
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant.as_nanosecond());
    }
    let instant = |civil: DateTime| Some(zone.to_timestamp(civil).ok()?.as_nanosecond());
    if let Some(civil) = text.parse::<DateTime>().ok().or_else(|| compact(text)) {
        return instant(civil);
    }
    let time: Time = text.parse().ok()?;
    let today = day_of(arrival_ms, zone)?;
    let ns = instant(today.to_datetime(time))?;
    // An entry that arrives just after midnight may carry 23:59:59 of yesterday.
    if ns > latest(arrival_ms) { instant(today.yesterday().ok()?.to_datetime(time)) } else { Some(ns) }
}

/// The time, if it is plausible for an entry that arrived at `arrival_ms`.
pub(super) fn plausible(ns: i128, arrival_ms: u64) -> Option<u64> {
    not_too_early(ns).filter(|_| ns <= latest(arrival_ms))
}

/// The time, if it is plausible for an entry that arrived then or later.
pub(super) fn not_too_early(ns: i128) -> Option<u64> {
    u64::try_from(ns).ok().filter(|_| ns >= EARLIEST_NS)
}

fn latest(arrival_ms: u64) -> i128 {
    i128::from(arrival_ms) * 1_000_000 + AHEAD_NS
}

fn compact(text: &str) -> Option<DateTime> {
    let (date, time) = text.split_once(' ')?;
    if date.len() != 8 || time.len() != 9 {
        return None;
    }
    let (seconds, millis) = time.split_at_checked(6)?;
    strtime::parse("%Y%m%d %H%M%S.%f", format!("{date} {seconds}.{millis}")).ok()?.to_datetime().ok()
}

fn day_of(arrival_ms: u64, zone: &TimeZone) -> Option<Date> {
    Some(zone.to_datetime(Timestamp::from_millisecond(i64::try_from(arrival_ms).ok()?).ok()?).date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_one_instant_is_read_alike() {
        let mut zone = Zone::new(TimeZone::get("Asia/Kolkata").unwrap());
        // 2025-11-24 10:15:30.250 in Kolkata.
        let expected = 1_763_959_530_250_000_000;
        let arrival_ms = 1_763_959_531_000;
        for text in [
            "1763959530.25",
            "1763959530250",
            "1763959530250000",
            "1763959530250000000",
            "2025-11-24T10:15:30.250",
            "2025-11-24 10:15:30.25",
            "2025-11-24T10:15:30.250+05:30",
            "2025-11-24T04:45:30.250Z",
            "20251124 101530250",
            "10:15:30.250",
        ] {
            assert_eq!(from_text(text, &mut zone, arrival_ms), Some(expected), "{text}");
        }
        assert_eq!(from_number(1_763_959_530.25), expected);
        for text in ["", "soon", "2025-13-01", "nan", "25:00:00"] {
            assert_eq!(from_text(text, &mut zone, arrival_ms), None, "{text}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_latest_that_can_be_meant() {
        let mut zone = Zone::new(TimeZone::get("Asia/Kolkata").unwrap());
        // 2025-11-24 00:00:05 in Kolkata.
        let arrival_ms = 1_763_922_605_000;
        let mut ago = |text| i128::from(arrival_ms) - from_text(text, &mut zone, arrival_ms).unwrap() / 1_000_000;
        assert_eq!(ago("00:00:04"), 1_000);
        assert_eq!(ago("23:59:59"), 6_000);
        assert_eq!(ago("00:01:05"), -60_000, "clocks differ a little");
    }

    #[test]
    fn absurd_times_are_no_times() {
        let arrival_ms = 1_763_959_531_000;
        let arrival_ns = i128::from(arrival_ms) * 1_000_000;
        assert_eq!(plausible(0, arrival_ms), None);
        assert_eq!(plausible(-1, arrival_ms), None);
        for number in [-1e300, 1e300, f64::MIN, f64::MAX] {
            assert_eq!(plausible(from_number(number), arrival_ms), None, "{number}");
        }
        assert_eq!(plausible(arrival_ns + AHEAD_NS + 1, arrival_ms), None);
        assert_eq!(plausible(arrival_ns + AHEAD_NS, arrival_ms), u64::try_from(arrival_ns + AHEAD_NS).ok());
    }
}
