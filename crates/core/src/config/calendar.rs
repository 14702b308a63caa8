//! The form of a calendar in `sessions/NAME.toml`, and the calendars that are built in.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Result, bail, ensure};
use jiff::civil::Date;
use serde::Deserialize;

use super::{Source, zone::time_zone};
use crate::session::{
    Calendar,
    calendar::{Hours, MINUTES_PER_DAY, weekday_of},
};

/// The calendars that are built in, by name, as the text of their files.
pub const BUILT_IN: [(&str, &str); 4] = [
    ("nse", include_str!("../../../../config/sessions/nse.toml")),
    ("mcx", include_str!("../../../../config/sessions/mcx.toml")),
    ("us", include_str!("../../../../config/sessions/us.toml")),
    ("crypto", include_str!("../../../../config/sessions/crypto.toml")),
];

/// A calendar as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarFile {
    /// Where the days come from, for whoever checks them.
    #[serde(default, rename = "source")]
    _source: String,
    /// The day on which the file was compared with its source.
    #[serde(default)]
    as_of: String,
    /// The first day whose holidays are known. Empty: all are.
    #[serde(default)]
    begins: String,
    /// The last day whose holidays are known. Empty: there will never be holidays.
    #[serde(default)]
    ends: String,
    timezone: String,
    days: Vec<String>,
    #[serde(default)]
    special: Vec<SpecialSession>,
    #[serde(default)]
    holidays: Vec<Holiday>,
    hours: Vec<UsualHours>,
}

/// A day with hours of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecialSession {
    date: String,
    #[serde(default)]
    pre_open: String,
    open: String,
    close: String,
    /// The reason, for whoever reads the file.
    #[serde(default, rename = "name")]
    _name: String,
}

/// A day without a session.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holiday {
    date: String,
    /// The reason, for whoever reads the file.
    #[serde(default, rename = "name")]
    _name: String,
}

/// The hours from a date on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsualHours {
    #[serde(default)]
    from: String,
    #[serde(default)]
    pre_open: String,
    open: String,
    close: String,
}

/// A built-in calendar.
///
/// # Panics
/// Panics if there is none of this name.
pub fn built_in(name: &str) -> Calendar {
    let known = BUILT_IN.iter().find(|(known, _)| *known == name);
    let (_, text) = known.expect("the name of a built-in calendar");
    let source = Source::parse(Path::new(name), (*text).to_owned()).expect("a test reads each built-in calendar");
    parse(name, &source).expect("a test reads each built-in calendar")
}

/// Reads a calendar from the text of its file.
///
/// # Errors
/// An error names the line, the value, and what was expected.
pub(super) fn parse(name: &str, source: &Source) -> Result<Calendar> {
    let file: CalendarFile = source.read()?;
    let zone = time_zone(&file.timezone);
    let Ok(zone) = zone else {
        bail!(
            "{}: timezone is `{}`, expected an IANA name such as Asia/Kolkata",
            source.at(&["timezone"]),
            file.timezone
        );
    };
    let mut days = [false; 7];
    for (number, day) in file.days.iter().enumerate() {
        let Some(at) = weekday_of(day) else {
            bail!("{}: days has `{day}`, expected mon, tue, wed, thu, fri, sat or sun", at(source, "days", number, ""));
        };
        days[at] = true;
    }
    ensure!(!file.hours.is_empty(), "{}: hours is empty, expected an open and a close", source.at(&["hours"]));
    let mut hours = BTreeMap::new();
    for (number, usual) in file.hours.iter().enumerate() {
        let at = |key: &str| at(source, "hours", number, key);
        let from = if usual.from.is_empty() { Date::MIN } else { date(&usual.from, || at("from"))? };
        let of_day = read_hours([&usual.pre_open, &usual.open, &usual.close], at)?;
        ensure!(hours.insert(from, of_day).is_none(), "{}: hours has {from} twice", at("from"));
    }
    let mut special = BTreeMap::new();
    for (number, session) in file.special.iter().enumerate() {
        let at = |key: &str| at(source, "special", number, key);
        let of_day = read_hours([&session.pre_open, &session.open, &session.close], at)?;
        let day = date(&session.date, || at("date"))?;
        ensure!(special.insert(day, of_day).is_none(), "{}: special has {day} twice", at("date"));
    }
    let holidays = file.holidays.iter().enumerate();
    let holidays = holidays.map(|(number, holiday)| date(&holiday.date, || at(source, "holidays", number, "date")));
    let optional = |text: &str, key: &str| {
        if text.is_empty() { Ok(None) } else { date(text, || source.at(&[key])).map(Some) }
    };
    let begins = optional(&file.begins, "begins")?;
    optional(&file.as_of, "as_of")?;
    let last_known = optional(&file.ends, "ends")?;
    ensure!(
        begins.zip(last_known).is_none_or(|(begins, ends)| begins <= ends),
        "{}: ends is before begins",
        source.at(&["ends"])
    );
    let holidays = holidays.collect::<Result<BTreeSet<Date>>>()?;
    Ok(Calendar { name: name.to_owned(), zone, days, hours, special, holidays, last_known })
}

fn at(source: &Source, list: &str, number: usize, key: &str) -> String {
    source.at(&[list, &number.to_string(), key])
}

fn date(text: &str, at: impl Fn() -> String) -> Result<Date> {
    // A date of a century that no feed has is a slip, and would be searched for.
    let plausible = |date: &Date| (1900..2500).contains(&date.year());
    let Some(date) = text.parse().ok().filter(plausible) else {
        bail!("{}: `{text}` is not a date, expected YYYY-MM-DD", at());
    };
    Ok(date)
}

fn read_hours([pre_open, open, close]: [&str; 3], at: impl Fn(&str) -> String) -> Result<Hours> {
    let read = |text: &str, key: &str| {
        let Some(minutes) = minutes(text) else {
            bail!("{}: {key} is `{text}`, expected a time from 00:00 to 24:00", at(key));
        };
        Ok(minutes)
    };
    let pre_open = if pre_open.is_empty() { None } else { Some(read(pre_open, "pre_open")?) };
    let (open, close) = (read(open, "open")?, read(close, "close")?);
    ensure!(open < MINUTES_PER_DAY, "{}: open is `24:00`, expected a time before midnight", at("open"));
    ensure!(open != close, "{}: close is also the open; a session of a whole day is 00:00 to 24:00", at("close"));
    ensure!(pre_open.is_none_or(|pre_open| pre_open < open), "{}: pre_open is not before the open", at("pre_open"));
    Ok(Hours { pre_open, open, close })
}

/// The minutes after midnight of `HH:MM`.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits =
        |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok());
    let (hours, minutes): (u16, u16) = (digits(hours)??, digits(minutes)??);
    (minutes < 60 && hours * 60 + minutes <= MINUTES_PER_DAY).then_some(hours * 60 + minutes)
}

/// Parses a calendar as if `sessions/x.toml` held this text.
#[cfg(test)]
pub(crate) fn parse_calendar(name: &str, text: &str) -> Result<Calendar> {
    parse(name, &Source::parse(Path::new("sessions/x.toml"), text.to_owned())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_that_can_not_be_read_says_where_and_why() {
        let valid = "timezone = \"UTC\"\ndays = [\"mon\"]\nhours = [{ open = \"09:00\", close = \"10:00\" }]\n";
        assert!(parse_calendar("x", valid).is_ok());
        for (from, to, expected) in [
            ("UTC", "Mars/Base", "sessions/x.toml:1:1: timezone is `Mars/Base`"),
            ("mon", "monday", "sessions/x.toml:2:9: days has `monday`, expected mon"),
            ("09:00", "9:00", "open is `9:00`, expected a time from 00:00 to 24:00"),
            ("09:00", "24:00", "open is `24:00`, expected a time before midnight"),
            ("09:00", "10:00", "close is also the open"),
            ("09:00", "+9:00", "open is `+9:00`"),
            ("open = ", "pre_open = \"09:30\", open = ", "pre_open is not before the open"),
            ("open = ", "from = \"2025-02-30\", open = ", "`2025-02-30` is not a date"),
            ("open = ", "from = \"9999-12-31\", open = ", "`9999-12-31` is not a date"),
            ("timezone", "ends = \"tomorrow\"\ntimezone", "sessions/x.toml:1:1: `tomorrow` is not a date"),
            ("timezone", "holiday = []\ntimezone", "unknown field `holiday`, expected one of"),
            ("hours = [{ open = \"09:00\", close = \"10:00\" }]", "hours = []", "hours is empty"),
        ] {
            let error = parse_calendar("x", &valid.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let never = parse_calendar("x", &valid.replace("[\"mon\"]", "[]")).unwrap();
        assert!(never.warning(1_763_942_400_000_000_000).unwrap().contains("no session in the next 30 days"));
    }
}
