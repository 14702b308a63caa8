//! The clock that people see.

use jiff::{Timestamp, tz::TimeZone};

/// The zone's abbreviation at that time, or its offset where it has none.
pub(crate) fn label(at: Timestamp, zone: &TimeZone) -> String {
    let format = |format| at.to_zoned_datetime(zone.clone()).strftime(format).to_string();
    let abbreviation = format("%Z");
    if abbreviation.starts_with(|c: char| c.is_ascii_alphabetic()) { abbreviation } else { format("%:z") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_which_clock_it_is() {
        let label = |zone: &str, at: &str| label(at.parse().unwrap(), &TimeZone::get(zone).unwrap());
        assert_eq!(label("Asia/Kolkata", "2025-11-24T04:00:00Z"), "IST");
        assert_eq!(label("America/New_York", "2025-11-24T15:00:00Z"), "EST");
        assert_eq!(label("America/New_York", "2025-07-24T15:00:00Z"), "EDT");
        assert_eq!(label("America/Sao_Paulo", "2025-11-24T15:00:00Z"), "-03:00");
        assert_eq!(label("UTC", "2025-11-24T15:00:00Z"), "UTC");
    }
}
