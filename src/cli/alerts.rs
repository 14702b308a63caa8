//! `tickhound alerts`: shows alerts of the alerts stream, and follows new ones.
//!
//! What holds with `--follow`: each alert is shown once and in order, even if Redis restarts meanwhile; alerts that
//! were trimmed before they could be shown are reported.

mod since;

use std::{collections::VecDeque, process::ExitCode, time::Duration};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use tokio::time::sleep;

use self::since::Since;
use super::{
    process::{output_closed, stop_requested},
    text,
};
use crate::output::{self, Lines};
use tickhound_core::{config::LoadedConfig, pattern::SymbolPattern};
use tickhound_redis::{AlertFilter, AlertsReader, NamePattern, News, StoredAlert};

/// How many alerts are shown by default.
const LAST: usize = 20;

/// The wait before another attempt to reach the server: short enough to miss no alert of a restart.
const RETRY_AFTER: Duration = Duration::from_millis(500);

const HELP: &str = "\
Examples:
  tickhound alerts
  tickhound alerts --follow --symbol 'NIFTY*' --min-confidence 0.9 --no-stale
  tickhound alerts --since 10m --detector breakout --json | jq .symbol
  tickhound alerts --since 09:15 --direction up

--since accepts a span (10m, 2h 30m, 1d) or a time (09:15 today, 2025-11-24 09:15,
2025-11-24T09:15:00+05:30), which select by publication time; or the id of an entry or of an alert,
which selects the alerts of that entry and of later ones. A time that names no zone is in
service.timezone, which is by default the exchange's; so are the times that are shown.

Each line shows the tick's time, detector, symbol, confidence, direction and price; and how late the
alert was, if it is stale. --follow continues after a restart of Redis; Ctrl-C ends it with exit code 0.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct AlertsArgs {
    /// Show the newest N; by default 20, or all with --since.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Also show new alerts as they are published.
    #[arg(long, short)]
    follow: bool,
    /// Only alerts since then: a span, a time, or an id.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only alerts of this detector, in any case; * and ? as in symbols. May be repeated.
    #[arg(long, value_name = "NAME")]
    detector: Vec<String>,
    /// Only alerts about this symbol, in any case, with or without its venue; * = any text, ? = one character. May be
    /// repeated.
    #[arg(long, value_name = "PATTERN")]
    symbol: Vec<String>,
    /// Minimum confidence.
    #[arg(long, value_name = "0..1", value_parser = super::parse::share)]
    min_confidence: Option<f64>,
    /// Only alerts of this direction.
    #[arg(long, value_enum)]
    direction: Option<DirectionArg>,
    /// Hide stale alerts: those that were raised late.
    #[arg(long)]
    no_stale: bool,
    /// Show the alerts of shadow detectors instead.
    #[arg(long)]
    shadow: bool,
    /// Print one JSON object per line, as in the alerts file.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DirectionArg {
    Up,
    Down,
    None,
}

/// Which alerts are shown.
struct AlertSelection {
    alerts: AlertFilter,
    since: Option<Since>,
}

pub(super) fn run(args: &AlertsArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let zone = text::zone(config);
    let since = args.since.as_deref().map(|text| Since::parse(text, &zone, Timestamp::now())).transpose()?;
    let stream = if args.shadow { &config.alerts.shadow_stream } else { &config.alerts.stream };
    let reader = AlertsReader::new(&config.stream, stream)?;
    let selection = AlertSelection::new(args, since);
    let viewer = Viewer { args, selection, zone, reader, problem: None, foreign: 0 };
    let ended = super::process::runtime()?.block_on(async {
        let stop_requested = stop_requested()?;
        tokio::select! {
            () = stop_requested => Ok(()),
            // So that `tickhound alerts --follow | head` ends even if no further alert arrives.
            () = output_closed() => Ok(()),
            // Cancelled only when the command ends.
            result = viewer.show() => result,
        }
    });
    ended.map(|()| ExitCode::SUCCESS)
}

struct Viewer<'a> {
    args: &'a AlertsArgs,
    selection: AlertSelection,
    zone: TimeZone,
    reader: AlertsReader,
    /// The reported reason why the server can't be reached.
    problem: Option<String>,
    /// Entries of the stream that are not alerts.
    foreign: u64,
}

impl Viewer<'_> {
    async fn show(mut self) -> Result<()> {
        let shown = self.show_stored().await?;
        let stream = self.reader.stream();
        if shown == 0 && !self.args.json && !self.args.follow {
            let none = if self.selection.is_open() { "no alerts" } else { "no matching alerts" };
            outln!("{none} in {stream}");
        }
        if self.args.follow { self.follow().await } else { Ok(()) }
    }

    /// Shows the alerts that the stream holds; returns how many.
    async fn show_stored(&mut self) -> Result<usize> {
        let Some(since) = &self.selection.since else {
            let count = self.args.last.unwrap_or(LAST);
            let newest = self.reader.newest(count, |alert| self.selection.wants(alert)).await?;
            self.print(newest.iter())?;
            return Ok(newest.len());
        };
        self.reader.continue_after(since.before());
        let (mut shown, mut newest) = (0, VecDeque::new());
        loop {
            let news = self.reader.read().await?;
            let wanted = news.alerts.iter().filter(|alert| self.selection.wants(alert));
            match self.args.last {
                None => {
                    shown += wanted.clone().count();
                    self.print(wanted)?;
                }
                Some(count) => {
                    newest.extend(wanted.cloned());
                    newest.drain(..newest.len().saturating_sub(count));
                }
            }
            if news.at_end {
                break;
            }
        }
        self.print(newest.iter())?;
        Ok(shown + newest.len())
    }

    async fn follow(mut self) -> Result<()> {
        loop {
            match self.reader.read().await {
                Ok(news) => {
                    self.report(&news);
                    self.print(news.alerts.iter().filter(|alert| self.selection.wants(alert)))?;
                    if !news.at_end {
                        continue;
                    }
                }
                Err(error) => self.report_lost(&error).await,
            }
            if let Err(error) = self.reader.wait().await {
                self.report_lost(&error).await;
            }
        }
    }

    /// Reports a lost connection once, and waits before the next attempt.
    async fn report_lost(&mut self, error: &anyhow::Error) {
        let error = error.to_string();
        if self.problem.as_ref() != Some(&error) {
            errln!("{error}; retrying");
            self.problem = Some(error);
        }
        sleep(RETRY_AFTER).await;
    }

    fn report(&mut self, news: &News) {
        if self.problem.take().is_some() {
            errln!("reconnected to Redis; continuing");
        }
        if news.went_back {
            errln!("Redis has come back without its newest alerts; alerts that are published again are not repeated");
        }
        if news.missed > 0 {
            let stream = self.reader.stream();
            errln!("at least {} alerts were trimmed from {stream} before they could be shown", news.missed);
        }
        if news.foreign > 0 && self.foreign == 0 {
            errln!("{} has entries that are not alerts; skipping them", self.reader.stream());
        }
        self.foreign += news.foreign;
    }

    fn print<'a>(&self, alerts: impl Iterator<Item = &'a StoredAlert>) -> Result<()> {
        let mut lines = Lines::default();
        for alert in alerts {
            if self.args.json {
                lines.push_json(&alert.to_json());
            } else {
                writeln!(lines, "{}", text::alert_line(alert, &self.zone))?;
            }
        }
        output::print(&lines);
        Ok(())
    }
}

impl AlertSelection {
    fn new(args: &AlertsArgs, since: Option<Since>) -> Self {
        let direction = args.direction.map(|direction| match direction {
            DirectionArg::Up => "up",
            DirectionArg::Down => "down",
            DirectionArg::None => "none",
        });
        let alerts = AlertFilter {
            detectors: args.detector.iter().map(|pattern| NamePattern::wildcard(pattern)).collect(),
            symbols: SymbolPattern::list(&args.symbol),
            directions: direction.into_iter().map(str::to_owned).collect(),
            min_confidence: args.min_confidence.filter(|least| *least > 0.0),
            stale: args.no_stale.then_some(false),
        };
        Self { alerts, since }
    }

    /// Whether it accepts every alert.
    fn is_open(&self) -> bool {
        self.alerts.is_open() && self.since.is_none()
    }

    fn wants(&self, alert: &StoredAlert) -> bool {
        self.alerts.matches(alert) && self.since.as_ref().is_none_or(|since| since.covers(alert))
    }
}
