//! `tickhound alerts`: what was raised, and what is being raised, from the alerts stream.
//!
//! What holds with `--follow`: each alert once and in order, whatever becomes of Redis meanwhile; what
//! was trimmed away unseen is told.

mod since;

use std::{
    collections::VecDeque,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use tokio::time::sleep;

use self::since::Since;
use super::text;
use tickhound_core::config::LoadedConfig;
use tickhound_redis::{AlertFilter, AlertsReader, NamePattern, News, StoredAlert};

/// So many are shown if nothing else is asked for.
const LAST: usize = 20;

/// Wait before another attempt to reach the server: short enough to miss nothing of a restart.
const RETRY_AFTER: Duration = Duration::from_millis(500);

const HELP: &str = "\
Examples:
  tickhound alerts
  tickhound alerts --follow --symbol 'NIFTY*' --min-confidence 0.9 --no-stale
  tickhound alerts --since 10m --detector breakout --json | jq .symbol
  tickhound alerts --since 09:15 --direction up

--since takes a span (10m, 2h 30m, 1d), a time (09:15 today, 2025-11-24 09:15, 2025-11-24T09:15:00+05:30;
in input.timezone unless it names a zone), both by when alerts were published; or the id of an entry or
of an alert: then what that entry and later ones caused.

A line: time of the tick, detector, symbol, confidence, direction, price; and how late, if it is stale.
--follow goes on after a restart of Redis where it was, and ends with Ctrl-C, exit code 0.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct AlertsArgs {
    /// The newest N; without --since 20.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Go on with those to come.
    #[arg(long, short)]
    follow: bool,
    /// Only those since then: a span, a time, or an id.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only those of this detector; * and ? as in symbols. May be repeated.
    #[arg(long, value_name = "NAME")]
    detector: Vec<String>,
    /// Only those about this symbol; * = any text, ? = one character. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    symbol: Vec<String>,
    /// Only those as sure as this, or surer.
    #[arg(long, value_name = "0..1", value_parser = super::replay::confidence)]
    min_confidence: Option<f64>,
    /// Only those of this direction.
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Leave out those that came late.
    #[arg(long)]
    no_stale: bool,
    /// Those of shadows instead.
    #[arg(long)]
    shadow: bool,
    /// Print one JSON object a line, as the JSON lines file has them.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Direction {
    Up,
    Down,
    None,
}

/// Which alerts are asked for.
struct Filter {
    alerts: AlertFilter,
    since: Option<Since>,
}

pub(super) fn run(args: &AlertsArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let zone = text::zone(config);
    let since = args.since.as_deref().map(|text| Since::parse(text, &zone, Timestamp::now())).transpose()?;
    let stream = if args.shadow { &config.alerts.shadow_stream } else { &config.alerts.stream };
    let reader = AlertsReader::new(&config.stream, stream)?;
    let session = Session { args, filter: Filter::new(args, since), zone, reader, told: None, foreign: 0 };
    let ended = super::runtime()?.block_on(async {
        let told_to_stop = super::told_to_stop()?;
        tokio::select! {
            () = told_to_stop => Ok(()),
            // `tickhound alerts --follow | head` has seen enough, also where no further alert comes.
            () = super::output_closed() => Ok(()),
            shown = session.show() => shown,
        }
    });
    match ended {
        Err(error) if text::is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        ended => ended.map(|()| ExitCode::SUCCESS),
    }
}

struct Session<'a> {
    args: &'a AlertsArgs,
    filter: Filter,
    zone: TimeZone,
    reader: AlertsReader,
    /// What was said of a server that can't be reached.
    told: Option<String>,
    foreign: u64,
}

impl Session<'_> {
    async fn show(mut self) -> Result<()> {
        let shown = self.kept().await?;
        let stream = self.reader.stream();
        if shown == 0 && !self.args.json && !self.args.follow {
            let which = if self.filter.is_open() { "no alerts" } else { "no such alerts" };
            writeln!(io::stdout(), "{which} in {stream}")?;
        }
        match self.args.follow {
            true => self.follow().await,
            false => Ok(()),
        }
    }

    /// Shows what the stream holds; how many there were.
    async fn kept(&mut self) -> Result<usize> {
        let Some(since) = &self.filter.since else {
            let count = self.args.last.unwrap_or(LAST);
            let newest = self.reader.newest(count, |alert| self.filter.wants(alert)).await?;
            self.print(newest.iter())?;
            return Ok(newest.len());
        };
        self.reader.go_on_after(since.before());
        let (mut shown, mut newest) = (0, VecDeque::new());
        loop {
            let news = self.reader.read().await?;
            let wanted = news.alerts.iter().filter(|alert| self.filter.wants(alert));
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
                    self.tell(&news);
                    self.print(news.alerts.iter().filter(|alert| self.filter.wants(alert)))?;
                    if !news.at_end {
                        continue;
                    }
                }
                Err(error) => self.lost(&error).await,
            }
            if let Err(error) = self.reader.wait().await {
                self.lost(&error).await;
            }
        }
    }

    async fn lost(&mut self, error: &anyhow::Error) {
        let error = error.to_string();
        if self.told.as_ref() != Some(&error) {
            eprintln!("{error}; trying again until it is there");
            self.told = Some(error);
        }
        sleep(RETRY_AFTER).await;
    }

    fn tell(&mut self, news: &News) {
        if self.told.take().is_some() {
            eprintln!("redis is reached again; going on where it was");
        }
        if news.went_back {
            eprintln!("redis has come back without its newest alerts; those that are published again are not repeated");
        }
        if news.missed > 0 {
            let stream = self.reader.stream();
            eprintln!("at least {} alerts were trimmed from {stream} before they could be shown", news.missed);
        }
        if news.foreign > 0 && self.foreign == 0 {
            eprintln!("{} has entries that are no alerts; they are left out", self.reader.stream());
        }
        self.foreign += news.foreign;
    }

    fn print<'a>(&self, alerts: impl Iterator<Item = &'a StoredAlert>) -> Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for alert in alerts {
            match self.args.json {
                true => writeln!(out, "{}", alert.to_json())?,
                false => writeln!(out, "{}", text::alert_line(alert, &self.zone))?,
            }
        }
        out.flush()?;
        Ok(())
    }
}

impl Filter {
    fn new(args: &AlertsArgs, since: Option<Since>) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| NamePattern::wildcard(text)).collect();
        let direction = args.direction.map(|direction| match direction {
            Direction::Up => "up",
            Direction::Down => "down",
            Direction::None => "none",
        });
        let alerts = AlertFilter {
            detectors: patterns(&args.detector),
            symbols: patterns(&args.symbol),
            directions: direction.into_iter().map(str::to_owned).collect(),
            min_confidence: args.min_confidence.filter(|least| *least > 0.0),
            stale: args.no_stale.then_some(false),
        };
        Self { alerts, since }
    }

    /// Whether it wants everything.
    fn is_open(&self) -> bool {
        self.alerts.is_open() && self.since.is_none()
    }

    fn wants(&self, alert: &StoredAlert) -> bool {
        self.alerts.matches(alert) && self.since.as_ref().is_none_or(|since| since.covers(alert))
    }
}
