//! Reads the times of recorded ticks, just well enough for their order and their pace.
//!
//! A tick carries its time as recorded, and only the decoder decides what that means.

use jiff::tz::TimeZone;

/// The columns and keys that hold a tick's time, the preferred one first.
pub(crate) const NAMES: [&str; 11] = [
    "exchange_timestamp_ms",
    "exchange_timestamp",
    "timestamp_ns",
    "timestamp_ms",
    "timestamp",
    "datetime",
    "time",
    "ts",
    "date",
    "T",
    "E",
];

/// Reads times. Those without an offset are in the reader's zone.
#[derive(Clone, Debug)]
pub(crate) struct TimeReader {
    zone: TimeZone,
    /// The day of the last time, and when that day began in the zone: this avoids most of the slow zone lookups.
    day: Option<(jiff::civil::Date, i64)>,
}

impl TimeReader {
    /// A reader for times in this zone.
    pub(crate) fn new(zone: TimeZone) -> Self {
        Self { zone, day: None }
    }

    /// Reads a time, ns since the Unix epoch; `None` if the text is not a time.
    pub(crate) fn read(&mut self, text: &str) -> Option<i64> {
        let text = text.trim();
        if let Ok(number) = text.parse::<i64>() {
            return from_whole(number);
        }
        if let Ok(number) = text.parse::<f64>() {
            return from_number(text, number);
        }
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return i64::try_from(instant.as_nanosecond()).ok();
        }
        let naive = text.parse::<jiff::civil::DateTime>().ok().or_else(|| compact(text))?;
        self.instant(naive)
    }

    /// The instant of a local time. After clocks are put forward or back, the result is an hour off until the end of
    /// the day, which is good enough for an order.
    fn instant(&mut self, naive: jiff::civil::DateTime) -> Option<i64> {
        let date = naive.date();
        let start = match self.day {
            Some((day, start)) if day == date => start,
            _ => {
                let start = self.zone.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok()?;
                let start = i64::try_from(start.as_nanosecond()).ok()?;
                self.day = Some((date, start));
                start
            }
        };
        let (time, hour) = (naive.time(), 3_600_000_000_000);
        let within = i64::from(time.hour()) * hour
            + i64::from(time.minute()) * 60_000_000_000
            + i64::from(time.second()) * 1_000_000_000
            + i64::from(time.subsec_nanosecond());
        start.checked_add(within)
    }
}

/// Converts an integer of unknown unit like [`from_number`].
pub(super) fn from_whole(number: i64) -> Option<i64> {
    let scale = match number {
        _ if number < 0 => return None,
        _ if number < 100_000_000_000 => 1_000_000_000,
        _ if number < 100_000_000_000_000 => 1_000_000,
        _ if number < 100_000_000_000_000_000 => 1000,
        _ => 1,
    };
    number.checked_mul(scale)
}

/// Converts a number of unknown unit to ns since the Unix epoch: its size distinguishes seconds, ms, us and ns.
pub(super) fn from_number(text: &str, number: f64) -> Option<i64> {
    let scale = match number {
        _ if !(0.0..1e19).contains(&number) => return None,
        _ if number < 1e11 => 1_000_000_000,
        _ if number < 1e14 => 1_000_000,
        _ if number < 1e17 => 1000,
        _ => 1,
    };
    match text.parse::<i64>() {
        Ok(whole) => whole.checked_mul(scale),
        Err(_) => Some((number * scale as f64) as i64),
    }
}

/// Reads a form such as `20200101 170000065`: a date and a time to the millisecond, without separators.
fn compact(text: &str) -> Option<jiff::civil::DateTime> {
    let (date, time) = text.split_once([' ', 'T'])?;
    if date.len() != 8 || !matches!(time.len(), 6 | 9) || !text.is_ascii() {
        return None;
    }
    let date = format!("{}-{}-{}", &date[..4], &date[4..6], &date[6..]);
    let millis = if time.len() == 9 { &time[6..] } else { "000" };
    format!("{date}T{}:{}:{}.{millis}", &time[..2], &time[2..4], &time[4..6]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<i64> {
        TimeReader::new(TimeZone::UTC).read(text)
    }

    #[test]
    fn a_time_without_a_zone_is_of_the_zone_asked_for() {
        let mut kolkata = TimeReader::new(TimeZone::get("Asia/Kolkata").unwrap());
        let utc = parse("2024-08-08 12:00:00").unwrap();
        assert_eq!(kolkata.read("2024-08-08 17:30:00"), Some(utc));
        assert_eq!(kolkata.read("2024-08-08 17:30:01.5"), Some(utc + 1_500_000_000));
        assert_eq!(kolkata.read("2024-08-08T12:00:00Z"), Some(utc));
    }

    #[test]
    fn every_usual_form_is_read() {
        const NOON: i64 = 1_723_118_400_000_000_000;
        for text in [
            "2024-08-08 12:00:00",
            "2024-08-08T12:00:00Z",
            "2024-08-08 14:00:00.000000+02:00",
            "20240808 120000000",
            "1723118400",
            "1723118400.0",
            "1723118400000",
            "1723118400000000",
            "1723118400000000000",
        ] {
            assert_eq!(parse(text), Some(NOON), "{text}");
        }
        assert_eq!(parse("20240808 120000065"), Some(NOON + 65_000_000));
        for text in ["", "n/a", "nan", "-5", "1e300", "12:00", "2024-08-08 12:00:0x", "ÄÄÄÄ 120000"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
