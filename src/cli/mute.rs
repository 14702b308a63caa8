//! `tickhound mute`, `mutes` and `unmute`: alerts that notification channels leave out for a while.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::text::span;
use crate::{
    clock::to_the_second,
    notify::{self, MuteEnd},
};
use tickhound_core::{
    config::{Config, LoadedConfig},
    text::printable,
    wall::now_ms,
};
use tickhound_redis::{NamePattern, mutes::Mute};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound mute 'NIFTY*' --detector breakout --for 30m\n  tickhound mute SBIN       # until the session ends\n\n\
                  Muted alerts are left out by all [[notify]] channels, and counted. The alerts stream, the log, the page and the\n\
                  JSON lines file have them all. A mute is kept in Redis: it survives restarts, and holds for a standby. The same\n\
                  patterns again replace the mute.\n\n\
                  Exit codes: 0 muted, 1 failed, 2 wrong usage."
)]
pub(super) struct MuteArgs {
    /// Symbols: `*` matches any text, `?` one character; in any case, with or without the venue.
    #[arg(value_name = "SYMBOLS")]
    symbols: String,
    /// Detectors: `*` matches any text, `?` one character; in any case.
    #[arg(long, value_name = "DETECTORS", default_value = "*")]
    detector: String,
    /// How long: a span such as 30m or 2h, at most 30 days; or `session`, until the session of the symbols ends,
    /// the last one if they may have several calendars.
    #[arg(long = "for", value_name = "SPAN", default_value = "session", value_parser = parse_end)]
    end: MuteEnd,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub(super) struct MutesArgs {
    /// Print everything as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound unmute 'NIFTY*' --detector breakout\n  tickhound unmute --all\n\n\
                  Exit codes: 0 done, 1 failed or there is no such mute, 2 wrong usage.")]
pub(super) struct UnmuteArgs {
    /// The pattern of symbols, as `tickhound mutes` shows it.
    #[arg(value_name = "SYMBOLS", required_unless_present = "all", conflicts_with = "all")]
    symbols: Option<String>,
    /// The pattern of detectors, as `tickhound mutes` shows it.
    #[arg(long, value_name = "DETECTORS", default_value = "*")]
    detector: String,
    /// End all mutes.
    #[arg(long)]
    all: bool,
}

fn parse_end(text: &str) -> Result<MuteEnd, String> {
    MuteEnd::parse(text).map_err(|error| error.to_string())
}

pub(super) fn mute(args: &MuteArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let mute = notify::mute(config, &args.symbols, &args.detector, &args.end)?;
    let detectors = NamePattern::wildcard(&mute.detector);
    if !config.detectors.keys().any(|name| detectors.matches(name)) {
        let pattern = printable(&mute.detector);
        errln!("note: no configured detector matches `{pattern}`; `tickhound check` lists the detectors");
    }
    if args.json {
        crate::output::print_json(&to_json(&mute, 0));
        return Ok(ExitCode::SUCCESS);
    }
    outln!("muted {} until {}", describe(&mute), until(&mute, config)?);
    if config.notify.iter().all(|channel| !channel.enabled) {
        errln!("note: no [[notify]] channel is configured, so nothing is sent anyway");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(args: &MutesArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let mutes = notify::mutes(&loaded.config)?;
    if args.json {
        let mutes: Vec<Value> = mutes.iter().map(|(mute, alerts)| to_json(mute, *alerts)).collect();
        crate::output::print_json(&json!({ "mutes": mutes }));
        return Ok(ExitCode::SUCCESS);
    }
    if mutes.is_empty() {
        outln!("nothing is muted");
    }
    for (mute, alerts) in &mutes {
        let left = span(mute.until_ms.saturating_sub(now_ms()));
        outln!("{}: until {} ({left} left), {alerts} alerts left out", describe(mute), until(mute, &loaded.config)?);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn unmute(args: &UnmuteArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    if let Some(symbols) = &args.symbols {
        notify::unmute(config, symbols, &args.detector)?;
        outln!("unmuted {}", printable(&format!("{symbols} for detector {}", args.detector)));
        return Ok(ExitCode::SUCCESS);
    }
    let ended = notify::unmute_all(config)?;
    ensure!(ended > 0, "nothing is muted");
    outln!("{ended} mutes ended");
    Ok(ExitCode::SUCCESS)
}

/// A mute as JSON, with the number of alerts that it has left out.
fn to_json(mute: &Mute, alerts: u64) -> Value {
    let Mute { symbols, detector, made_ms, until_ms } = mute;
    json!({ "symbols": symbols, "detector": detector, "made_ms": made_ms, "until_ms": until_ms, "alerts": alerts })
}

/// What a mute is about. Any client of the server may have written it.
fn describe(mute: &Mute) -> String {
    let what = match mute.detector.as_str() {
        "*" => mute.symbols.clone(),
        detector => format!("{} for detector {detector}", mute.symbols),
    };
    printable(&what).into_owned()
}

fn until(mute: &Mute, config: &Config) -> Result<String> {
    let zone: TimeZone = config.display_zone()?;
    let end = i64::try_from(mute.until_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Ok(end.map_or_else(|| "?".to_owned(), |end| to_the_second(end, &zone)))
}
