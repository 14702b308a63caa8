//! Dates of expiry as files have them.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The names of months.
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The years of instruments. A date of another century is a mistake.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=2199;

/// Reads a date: `2025-11-25`, perhaps with a time behind it, `20251125`, `25-Nov-2025`, `25NOV2025`, `25 Nov 25`, or the seconds,
/// milliseconds, or smaller units since 1970 of a time in `zone`. A form whose parts could be day or month is no date.
pub(super) fn read_date(text: &str, zone: &TimeZone) -> Option<Date> {
    let text = text.trim();
    let date = iso(text).or_else(|| named_month(text)).or_else(|| since_epoch(text, zone))?;
    YEARS.contains(&date.year()).then_some(date)
}

/// The number of a date since 1970-01-01.
pub(super) fn day_number(date: Date) -> i32 {
    date.since(Date::constant(1970, 1, 1)).map_or(0, |span| span.get_days())
}

fn iso(text: &str) -> Option<Date> {
    let digits = text.strip_suffix(".0").unwrap_or(text);
    if digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return date(&digits[..4], digits[4..6].parse().ok()?, &digits[6..]);
    }
    let day = text.get(..10)?;
    let is_whole = text.as_bytes().get(10).is_none_or(|byte| matches!(byte, b' ' | b'T'));
    day.parse().ok().filter(|_| is_whole)
}

fn named_month(text: &str) -> Option<Date> {
    let text = text.to_ascii_lowercase();
    let (month, at) =
        MONTHS.iter().enumerate().find_map(|(number, month)| Some((number as i8 + 1, text.find(month)?)))?;
    let part = |text: &str| text.trim_matches(['-', ' ', '/', ',']).to_owned();
    let (day, year) = (part(&text[..at]), part(text.get(at + 3..)?));
    let year = if year.len() == 2 { format!("20{year}") } else { year };
    date(&year, month, &day)
}

fn since_epoch(text: &str, zone: &TimeZone) -> Option<Date> {
    let digits = text.strip_suffix(".0").unwrap_or(text);
    let scale = match digits.len() {
        10 => 1,
        13 => 1000,
        16 => 1_000_000,
        19 => 1_000_000_000,
        _ => return None,
    };
    let time = Timestamp::from_second(digits.parse::<i64>().ok()? / scale).ok()?;
    Some(zone.to_datetime(time).date())
}

fn date(year: &str, month: i8, day: &str) -> Option<Date> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if year.len() != 4 || day.len() > 2 || !is_number(year) || !is_number(day) {
        return None;
    }
    Date::new(year.parse().ok()?, month, day.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_forms_of_exchanges_and_brokers() {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        for text in [
            "2025-11-25",
            " 2025-11-25 ",
            "2025-11-25 14:30:00",
            "2025-11-25T00:00:00Z",
            "20251125",
            "20251125.0",
            "25-Nov-2025",
            "25NOV2025",
            "25-NOV-25",
            "25 nov 2025",
            "1764095399000",
            "1764028800",
            "1764028800000000000",
        ] {
            assert_eq!(read_date(text, &zone), Some(Date::constant(2025, 11, 25)), "{text}");
        }
        for text in
            ["", "0", "25/11/2025", "2025-13-01", "2025-11-251", "NOV2025", "0000-00-00", "1899-12-30", "ÄNOV25"]
        {
            assert_eq!(read_date(text, &zone), None, "{text}");
        }
        assert_eq!(day_number(Date::constant(2025, 11, 25)), 20_417);
    }
}
