//! How the zone of a clock that people see is called.

use jiff::{Timestamp, tz::TimeZone};

/// The label of a zone at a time, such as `IST`. A zone without an abbreviation has its distance from UTC.
pub(crate) fn zone_label(zone: &TimeZone, at: Timestamp) -> String {
    let label = at.to_zoned_datetime(zone.clone()).strftime("%Z").to_string();
    if label.starts_with(['+', '-']) { format!("UTC{label}") } else { label }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_which_clock_it_is() {
        let label = |zone: &str, at: &str| zone_label(&TimeZone::get(zone).unwrap(), at.parse().unwrap());
        assert_eq!(label("Asia/Kolkata", "2025-11-24T04:00:00Z"), "IST");
        assert_eq!(label("America/New_York", "2025-11-24T15:00:00Z"), "EST");
        assert_eq!(label("America/New_York", "2025-07-24T15:00:00Z"), "EDT");
        assert_eq!(label("America/Sao_Paulo", "2025-11-24T15:00:00Z"), "UTC-03");
        assert_eq!(label("UTC", "2025-11-24T15:00:00Z"), "UTC");
    }
}
