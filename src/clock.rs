//! The clock that people see: in the log and in what commands print.
//!
//! What holds: each time names its zone, by its abbreviation (`IST`) or its offset (`+04:00`). Times of the log are RFC 3339
//! with an offset, in text as in JSON, so that programs read what people read. The zone is `service.timezone`, by default
//! the exchange's; lines that are logged before the configuration is read are in UTC, which their `Z` says.

use std::{fmt, sync::OnceLock};

use jiff::{Timestamp, tz::TimeZone};
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

/// The zone of this process.
static ZONE: OnceLock<TimeZone> = OnceLock::new();

/// Sets the zone of the log, once the configuration is known. Later calls change nothing: a host keeps its zone until a
/// restart.
pub(crate) fn set_zone(zone: TimeZone) {
    let _ = ZONE.set(zone);
}

/// Writes the times of log lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogClock;

impl FormatTime for LogClock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&log_time(Timestamp::now(), ZONE.get()))
    }
}

/// The time now, as the log writes it.
pub(crate) fn log_now() -> String {
    log_time(Timestamp::now(), ZONE.get())
}

fn log_time(at: Timestamp, zone: Option<&TimeZone>) -> String {
    match zone.filter(|zone| **zone != TimeZone::UTC) {
        Some(zone) => format(at, zone, "%Y-%m-%dT%H:%M:%S%.6f%:z"),
        None => format(at, &TimeZone::UTC, "%Y-%m-%dT%H:%M:%S%.6fZ"),
    }
}

/// Date and time to the second: `2025-11-24 09:55:15 IST`.
pub(crate) fn to_the_second(at: Timestamp, zone: &TimeZone) -> String {
    format!("{} {}", format(at, zone, "%Y-%m-%d %H:%M:%S"), label(at, zone))
}

/// Date and time to the millisecond: `2025-11-24 09:55:15.250 IST`.
pub(crate) fn to_the_millisecond(at: Timestamp, zone: &TimeZone) -> String {
    format!("{} {}", format(at, zone, "%Y-%m-%d %H:%M:%S%.3f"), label(at, zone))
}

/// The time of day: `09:55:15 IST`.
pub(crate) fn time_of_day(at: Timestamp, zone: &TimeZone) -> String {
    format!("{} {}", bare_time_of_day(at, zone), label(at, zone))
}

/// The time of day below a heading that has the zone's [`label`].
pub(crate) fn bare_time_of_day(at: Timestamp, zone: &TimeZone) -> String {
    format(at, zone, "%H:%M:%S")
}

/// Date and time for programs: RFC 3339 with milliseconds and offset.
pub(crate) fn rfc_3339(at: Timestamp, zone: &TimeZone) -> String {
    format(at, zone, "%Y-%m-%dT%H:%M:%S%.3f%:z")
}

/// The zone's abbreviation at that time, or its offset where it has none.
pub(crate) fn label(at: Timestamp, zone: &TimeZone) -> String {
    let abbreviation = format(at, zone, "%Z");
    if abbreviation.starts_with(|c: char| c.is_ascii_alphabetic()) { abbreviation } else { format(at, zone, "%:z") }
}

fn format(at: Timestamp, zone: &TimeZone, format: &str) -> String {
    at.to_zoned_datetime(zone.clone()).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    #[test]
    fn each_time_names_its_zone() {
        let at: Timestamp = "2025-11-24T04:25:15.25Z".parse().unwrap();
        let shown = ["Asia/Kolkata", "Asia/Dubai", "America/New_York", "UTC"].map(|name| time_of_day(at, &zone(name)));
        assert_eq!(shown, ["09:55:15 IST", "08:25:15 +04:00", "23:25:15 EST", "04:25:15 UTC"]);
        assert_eq!(to_the_millisecond(at, &zone("Asia/Kolkata")), "2025-11-24 09:55:15.250 IST");
        // In summer the same zone has another label.
        let summer: Timestamp = "2025-07-01T13:30:00Z".parse().unwrap();
        assert_eq!(to_the_second(summer, &zone("America/New_York")), "2025-07-01 09:30:00 EDT");
    }

    #[test]
    fn the_log_is_in_rfc_3339_before_and_after_the_configuration_is_known() {
        let at: Timestamp = "2025-11-24T04:25:15.250311Z".parse().unwrap();
        let before = log_time(at, None);
        let after = log_time(at, Some(&zone("Asia/Kolkata")));
        assert_eq!([before.as_str(), &after], ["2025-11-24T04:25:15.250311Z", "2025-11-24T09:55:15.250311+05:30"]);
        assert_eq!([before, after].map(|text| text.parse::<Timestamp>().unwrap()), [at, at]);
    }
}
