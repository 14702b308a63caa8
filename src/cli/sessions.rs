//! `tickhound sessions`: shows when the markets of the configuration trade.

use std::{ops::RangeInclusive, process::ExitCode};

use anyhow::{Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{clock::rfc_3339, output};
use tickhound_core::{
    config::{BUILT_IN, LoadedConfig},
    session::{Calendar, Phase, Session},
    wall::now_ms,
};

/// The number of sessions that are shown after the current one.
const AHEAD: usize = 5;

/// The years that a time can be in: it is 64 bits of nanoseconds since 1970, which end in 2554.
const YEARS: RangeInclusive<i16> = 1970..=2553;

/// A time in the form of `--at`.
const EXAMPLE: &str = "2026-11-08T18:30:00+05:30";

/// How a time is written, given its zone.
type TimeFormat = fn(u64, &TimeZone) -> String;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound sessions\n  tickhound sessions --at 2026-11-08T18:30:00+05:30\n  \
                  tickhound sessions --print nse > config/sessions/nse.toml")]
pub(super) struct SessionsArgs {
    /// Show what is open at this time instead of now: an RFC 3339 time, from 1970 to 2553.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
    /// Print the file of a calendar that is built in, to change it: nse, mcx, us or crypto.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["at", "json"])]
    print: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A calendar at a time.
#[derive(Serialize)]
struct CalendarReport {
    name: String,
    timezone: String,
    phase: &'static str,
    /// The first and last instant of that phase.
    since: Option<String>,
    until: Option<String>,
    next: Vec<SessionReport>,
    warning: Option<String>,
}

/// A session, in the zone of its calendar.
#[derive(Serialize)]
struct SessionReport {
    pre_open: Option<String>,
    open: String,
    close: String,
}

pub(super) fn run(args: &SessionsArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    if let Some(name) = &args.print {
        return print_built_in(name);
    }
    let at = args.at.unwrap_or_else(|| now_ms() * 1_000_000);
    let calendars = loaded.config.session.sessions.calendars();
    let written: TimeFormat = if args.json { for_programs } else { shown };
    let reports: Vec<CalendarReport> =
        calendars.iter().map(|calendar| CalendarReport::of(calendar, at, written)).collect();
    if args.json {
        output::print_json(&serde_json::json!({ "calendars": reports }));
        return Ok(ExitCode::SUCCESS);
    }
    if reports.is_empty() {
        outln!("session.calendar is not set: each day in {} is a session", loaded.config.input.timezone);
    }
    reports.iter().for_each(CalendarReport::print);
    Ok(ExitCode::SUCCESS)
}

/// Parses a time, as ns since the Unix epoch.
fn parse_time(text: &str) -> Result<u64, String> {
    let time: Timestamp = text.parse().map_err(|error| format!("{error}; expected a time such as {EXAMPLE}"))?;
    let years = YEARS.contains(&time.to_zoned_datetime(TimeZone::UTC).year());
    let nanos = u64::try_from(time.as_nanosecond()).ok().filter(|_| years);
    let (first, last) = (YEARS.start(), YEARS.end());
    nanos.ok_or_else(|| format!("expected a time from {first} to {last}, such as {EXAMPLE}"))
}

fn print_built_in(name: &str) -> Result<ExitCode> {
    let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
        bail!("no calendar `{name}` is built in, expected one of {}", BUILT_IN.map(|(name, _)| name).join(", "));
    };
    text.lines().for_each(|line| outln!("{line}"));
    Ok(ExitCode::SUCCESS)
}

impl CalendarReport {
    fn of(calendar: &Calendar, at: u64, written: TimeFormat) -> Self {
        let zone = calendar.zone();
        let span = calendar.span(at);
        let phase = match span.phase {
            Phase::PreOpen => "pre-open",
            Phase::Open => "open",
            Phase::Closed => "closed",
        };
        Self {
            name: calendar.name().to_owned(),
            timezone: zone.iana_name().unwrap_or("UTC").to_owned(),
            phase,
            since: (span.begin > 0).then(|| written(span.begin, zone)),
            until: (span.end < u64::MAX).then(|| written(span.end, zone)),
            next: calendar
                .sessions_after(at)
                .take(AHEAD)
                .map(|session| SessionReport::of(session, zone, written))
                .collect(),
            warning: calendar.warning(at),
        }
    }

    fn print(&self) {
        let until = self.until.as_deref().map_or_else(String::new, |until| format!(" until {until}"));
        outln!("{} ({}): {}{until}", self.name, self.timezone, self.phase);
        for SessionReport { pre_open, open, close } in &self.next {
            let pre_open = pre_open.as_deref().map_or_else(String::new, |at| format!(" (pre-open {at})"));
            outln!("      {open} to {close}{pre_open}");
        }
        if let Some(warning) = &self.warning {
            outln!("      warning: {warning}");
        }
    }
}

impl SessionReport {
    fn of(session: Session, zone: &TimeZone, written: TimeFormat) -> Self {
        let Session { begin, open, close, .. } = session;
        Self {
            pre_open: (begin < open).then(|| written(begin, zone)),
            open: written(open, zone),
            close: written(close, zone),
        }
    }
}

fn instant(time: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn for_programs(time: u64, zone: &TimeZone) -> String {
    rfc_3339(instant(time), zone)
}

fn shown(time: u64, zone: &TimeZone) -> String {
    instant(time).to_zoned_datetime(zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}
