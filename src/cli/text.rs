//! Text that several commands print: spans of time, counts, and alerts.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::clock::to_the_millisecond;
use tickhound_core::{config::Config, publish::log_line, text::printable};
use tickhound_redis::StoredAlert;

/// The time zone in which times are shown.
pub(super) fn zone(config: &Config) -> TimeZone {
    config.display_zone().unwrap_or(TimeZone::UTC)
}

/// Cuts or pads the text to exactly this many columns of a terminal; `…` marks a cut.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut fitted = text.to_owned();
    if text.width() > columns {
        let mut left = columns.saturating_sub(1);
        let fits = |c: &char| {
            let width = c.width().unwrap_or(0);
            let fits = width <= left;
            left -= if fits { width } else { left };
            fits
        };
        fitted = text.chars().take_while(fits).chain((columns > 0).then_some('…')).collect();
    }
    let missing = columns.saturating_sub(fitted.width());
    fitted.extend(std::iter::repeat_n(' ', missing));
    fitted
}

/// Columns of the end of a name that [`fit_middle`] keeps at least: the strike of an option, and whether it is a call or a put.
const NAME_END: usize = 8;

/// Cuts or pads a name to exactly this many columns of a terminal. It is cut in its middle, since names of options differ at
/// their ends.
pub(super) fn fit_middle(name: &str, columns: usize) -> String {
    let (width, room) = (name.width(), columns.saturating_sub(1));
    if width <= columns || room < NAME_END {
        return fit(name, columns);
    }
    let end_room = NAME_END.max(room / 2);
    let mut left = end_room;
    let end: Vec<char> = name
        .chars()
        .rev()
        .take_while(|c| {
            let width = c.width().unwrap_or(0);
            let fits = width <= left;
            left -= if fits { width } else { 0 };
            fits
        })
        .collect();
    let end: String = end.into_iter().rev().collect();
    // `fit` marks the cut.
    fit(&format!("{}{end}", fit(name, columns - end.width())), columns)
}

/// Formats a span of time with the precision that a person needs: `4.2s`, `12m 05s`, `3h 40m`, `2d 5h`.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..100 => format!("{:.1}s", ms as f64 / 1000.0),
        100..6000 => format!("{}m {:02}s", s / 60, s % 60),
        6000..172_800 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3600 % 24),
    }
}

/// Formats a number as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The event time of an alert, as `show` formats it.
pub(super) fn event_time(alert: &StoredAlert, zone: &TimeZone, show: fn(Timestamp, &TimeZone) -> String) -> String {
    let instant = alert.number::<i128>("time").and_then(|ns| Timestamp::from_nanosecond(ns).ok());
    instant.map_or_else(|| "-".to_owned(), |at| show(at, zone))
}

/// The line that the log has for an alert.
pub(super) fn detected(alert: &StoredAlert) -> String {
    let confidence = alert.number("confidence").unwrap_or(0.0);
    printable(&log_line(alert.field("detector"), alert.field("symbol"), confidence)).into_owned()
}

/// The log's line for an alert with its time in front, and with direction, price and lateness behind.
pub(super) fn alert_line(alert: &StoredAlert, zone: &TimeZone) -> String {
    let mut line = format!("{}  {}", event_time(alert, zone, to_the_millisecond), detected(alert));
    let direction = alert.field("direction");
    if matches!(direction, "up" | "down") {
        let _ = write!(line, ", {direction}");
    }
    if let Some(price) = alert.number::<f64>("price") {
        let _ = write!(line, ", at {price}");
    }
    if alert.is("stale") {
        let _ = write!(line, ", {} late", span(alert.number("lag_ms").unwrap_or(0)));
    }
    if let Some(shadow_of) = Some(alert.field("shadow_of")).filter(|name| !name.is_empty()) {
        let _ = write!(line, ", shadow of {}", printable(shadow_of));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::EntryId;

    #[test]
    fn a_cell_has_its_width_with_any_content() {
        assert_eq!([fit("abc", 5), fit("abcdef", 4), fit("abc", 0)], ["abc  ", "abc…", ""]);
        assert_eq!([fit("✅✅✅", 5), fit("✅✅✅", 4), fit("✅", 1)], ["✅✅…", "✅… ", "…"]);
    }

    #[test]
    fn a_name_keeps_its_end() {
        let option = "BANKNIFTY25NOV57800CE";
        assert_eq!([fit_middle(option, 22), fit_middle(option, 21)], [format!("{option} "), option.to_owned()]);
        assert_eq!([fit_middle(option, 20), fit_middle(option, 12)], ["BANKNIFTY2…OV57800CE", "BAN…V57800CE"]);
        for columns in 0..30 {
            for name in [option, "✅✅✅✅✅✅✅✅✅✅✅✅CE", "日本1日本2日本3日本4日本5CE", ""]
            {
                let fitted = fit_middle(name, columns);
                assert_eq!(fitted.width(), columns, "{fitted:?}");
                let is_whole = name.is_empty() || columns < NAME_END + 1 || fitted.trim_end().ends_with("CE");
                assert!(is_whole, "{fitted:?}");
            }
        }
    }

    #[test]
    fn spans_and_counts_are_short() {
        let spans = [0, 4_249, 99_900, 100_000, 725_000, 13_200_000, 190_859_000].map(span);
        assert_eq!(spans, ["0.0s", "4.2s", "99.9s", "1m 40s", "12m 05s", "3h 40m", "2d 5h"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn an_alert_is_a_line_with_its_time_and_price() {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        let mut alert = StoredAlert { at: EntryId::ZERO, fields: Vec::new() };
        let fields = [
            ("detector", "breakout"),
            ("symbol", "NIFTY25NOV25750PE"),
            ("time", "1763958315250000000"),
            ("price", "101.05"),
            ("confidence", "0.9473"),
            ("direction", "up"),
            ("stale", "1"),
            ("lag_ms", "725000"),
        ];
        alert.fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(
            alert_line(&alert, &zone),
            "2025-11-24 09:55:15.250 IST  ✅ [BREAKOUT] NIFTY25NOV25750PE - DETECTED: 0.95 confidence, up, at 101.05, 12m 05s late"
        );
        alert.fields.truncate(2);
        assert_eq!(alert_line(&alert, &zone), "-  ✅ [BREAKOUT] NIFTY25NOV25750PE - DETECTED: 0.00 confidence");
    }
}
