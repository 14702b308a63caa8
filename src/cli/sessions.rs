//! `tickhound sessions`: shows when the markets of the configuration trade.

use std::process::ExitCode;

use anyhow::{Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::output;
use tickhound_core::{
    config::{BUILT_IN, LoadedConfig},
    session::{Calendar, Phase, Session},
    wall::now_ms,
};

/// The number of sessions that are shown after the current one.
const AHEAD: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound sessions\n  tickhound sessions --at 2026-11-08T18:30:00+05:30\n  \
                  tickhound sessions --print nse > config/sessions/nse.toml")]
pub(super) struct SessionsArgs {
    /// Show what is open at this time instead of now: an RFC 3339 time.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
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
    let at = args.at.map_or_else(|| now_ms() * 1_000_000, |at| u64::try_from(at.as_nanosecond()).unwrap_or(0));
    let calendars = loaded.config.session.sessions.calendars();
    let reports: Vec<CalendarReport> = calendars.iter().map(|calendar| CalendarReport::of(calendar, at)).collect();
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

fn print_built_in(name: &str) -> Result<ExitCode> {
    let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
        bail!("no calendar `{name}` is built in, expected one of {}", BUILT_IN.map(|(name, _)| name).join(", "));
    };
    text.lines().for_each(|line| outln!("{line}"));
    Ok(ExitCode::SUCCESS)
}

impl CalendarReport {
    fn of(calendar: &Calendar, at: u64) -> Self {
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
            since: (span.begin > 0).then(|| shown(span.begin, zone)),
            until: (span.end < u64::MAX).then(|| shown(span.end, zone)),
            next: calendar.sessions_after(at).take(AHEAD).map(|session| SessionReport::of(session, zone)).collect(),
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
    fn of(session: Session, zone: &TimeZone) -> Self {
        let Session { begin, open, close, .. } = session;
        Self {
            pre_open: (begin < open).then(|| shown(begin, zone)),
            open: shown(open, zone),
            close: shown(close, zone),
        }
    }
}

fn shown(time: u64, zone: &TimeZone) -> String {
    let instant = Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH);
    instant.to_zoned_datetime(zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}
