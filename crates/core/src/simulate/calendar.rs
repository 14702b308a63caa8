//! The trading hours of the Indian market: Monday to Friday, 09:15 to 15:30, UTC+05:30.

pub(super) const NS_PER_MS: u64 = 1_000_000;
pub(super) const NS_PER_S: u64 = 1_000_000_000;

const MINUTE: u64 = 60 * NS_PER_S;
const DAY: u64 = 24 * 60 * MINUTE;
/// The offset of India from UTC, which has been constant, without summer time, since 1945.
pub(super) const OFFSET: u64 = 330 * MINUTE;
const OPEN: u64 = (9 * 60 + 15) * MINUTE;
const CLOSE: u64 = (15 * 60 + 30) * MINUTE;

/// The number of the day in India, since 1970-01-01.
pub(super) fn day(time: u64) -> u64 {
    (time + OFFSET) / DAY
}

/// Returns `time` if it is within a session, and the open of the next session otherwise.
pub(super) fn in_session(time: u64) -> u64 {
    let local = time + OFFSET;
    let (mut day, within) = (local / DAY, local % DAY);
    if (OPEN..CLOSE).contains(&within) && !is_weekend(day) {
        return time;
    }
    if within >= CLOSE {
        day += 1;
    }
    while is_weekend(day) {
        day += 1;
    }
    day * DAY + OPEN - OFFSET
}

fn is_weekend(day: u64) -> bool {
    // Day 0 was a Thursday.
    matches!((day + 3) % 7, 5 | 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> u64 {
        text.parse::<jiff::Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
    }

    #[test]
    fn a_time_outside_of_a_session_becomes_the_next_open() {
        for (time, expected) in [
            ("2025-11-03T09:14:59.999+05:30", "2025-11-03T09:15:00+05:30"),
            ("2025-11-03T09:15:00+05:30", "2025-11-03T09:15:00+05:30"),
            ("2025-11-03T15:29:59.999+05:30", "2025-11-03T15:29:59.999+05:30"),
            ("2025-11-03T15:30:00+05:30", "2025-11-04T09:15:00+05:30"),
            ("2025-11-07T15:30:00+05:30", "2025-11-10T09:15:00+05:30"),
            ("2025-11-08T12:00:00+05:30", "2025-11-10T09:15:00+05:30"),
            ("2025-11-09T23:59:59+05:30", "2025-11-10T09:15:00+05:30"),
        ] {
            assert_eq!(in_session(ns(time)), ns(expected), "{time}");
        }
    }
}
