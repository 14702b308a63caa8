//! `tickhound status`: one look that tells whether ticks are being worked, or one after the other.

mod watch;

use std::{
    fmt::Write as _,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::text::{self, grouped, span};
use crate::observe::health::{ConsumerReport, Pace, Report, Verdict, Watch, Work};
use tickhound_core::{config::LoadedConfig, receipt::Receipt, wall::now_ms};
use tickhound_redis::{AlertsReader, SavedState, StoredAlert};

/// So many of the newest alerts are shown.
const ALERTS_SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound status\n  tickhound status --watch\n  tickhound status --json | jq .verdict\n  \
                  tickhound status --watch 10 --json | jq -c '[.verdict, .pace.entries_per_s]'\n\n\
                  Exit codes: 0 healthy, 1 degraded, 2 stuck or unreachable; with --watch that of the last look."
)]
pub(super) struct StatusArgs {
    /// Look again every so many seconds until Ctrl-C, 2 if none are given: in place on a terminal, else one
    /// report after the other.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = period)]
    watch: Option<Duration>,
    /// Print everything as one JSON object; with --watch one a line.
    #[arg(long)]
    json: bool,
}

/// What one look has found.
#[derive(Serialize)]
struct Look {
    #[serde(flatten)]
    report: Report,
    /// Since the look before; `None` for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pace: Option<Pace>,
    /// The newest, oldest first.
    #[serde(skip)]
    alerts: Vec<StoredAlert>,
}

/// Looks, as often as it is asked to.
struct Onlooker {
    watch: Watch,
    alerts: AlertsReader,
    json: bool,
    zone: TimeZone,
}

pub(super) fn run(args: &StatusArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let config = &loaded.config;
    let mut onlooker = Onlooker {
        watch: Watch::new(config),
        alerts: AlertsReader::new(&config.stream, &config.alerts.stream)?,
        json: args.json,
        zone: text::zone(config),
    };
    let verdict = super::runtime()?.block_on(async {
        match args.watch {
            Some(period) => watch::watch(&mut onlooker, period).await,
            None => {
                let look = onlooker.look().await;
                print(&onlooker.write(&look)?)?;
                Ok(look.report.verdict)
            }
        }
    })?;
    Ok(match verdict {
        Verdict::Healthy => ExitCode::SUCCESS,
        Verdict::Degraded => ExitCode::from(1),
        Verdict::Stuck | Verdict::Unreachable => ExitCode::from(2),
    })
}

impl Onlooker {
    async fn look(&mut self) -> Look {
        let (report, pace) = self.watch.look().await;
        let mut alerts = Vec::new();
        if report.survey.is_some() && !self.json {
            // What the report says matters more than that the newest alerts can't be read.
            alerts = self.alerts.newest(ALERTS_SHOWN, |_| true).await.unwrap_or_default();
        }
        Look { report, pace, alerts }
    }

    /// As it is printed.
    fn write(&self, look: &Look) -> Result<String> {
        match self.json {
            true => Ok(serde_json::to_string(look)? + "\n"),
            false => {
                let mut text = String::new();
                write_report(&mut text, look, &self.zone)?;
                Ok(text)
            }
        }
    }
}

/// Prints at once and as a whole; a reader that has gone has seen enough.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

fn period(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected seconds, 0.1 to 86400".into())
}

fn write_report(out: &mut String, look: &Look, zone: &TimeZone) -> std::fmt::Result {
    let Look { report, pace, alerts } = look;
    let mark = match report.verdict {
        Verdict::Healthy => "✅ healthy",
        Verdict::Degraded => "⚠️  degraded",
        Verdict::Stuck => "❌ stuck",
        Verdict::Unreachable => "❌ unreachable",
    };
    writeln!(out, "{mark}: {}", report.reason)?;
    let Some(survey) = &report.survey else { return Ok(()) };
    let lag = survey.lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
    writeln!(out, "{}: {} entries, {lag} not yet read", report.stream, survey.length)?;
    writeln!(out, "{}: {} pending, {} consumers", report.group, survey.pending, report.consumers.len())?;
    for consumer in &report.consumers {
        let mark = match consumer.verdict {
            "active" | "idle" => "✅",
            "stale" => "⚠️ ",
            _ => "❌",
        };
        let ConsumerReport { name, pending, idle_ms, verdict } = consumer;
        writeln!(out, "  → {name}: {pending} pending, idle {} {mark} {verdict}", span(*idle_ms))?;
    }
    if let Some(work) = &report.work {
        let Work { submitted, completed, backlog } = work;
        writeln!(out, "workers: submitted: {submitted}, completed: {completed}, backlog: {backlog} (entries)")?;
    }
    if let Some(pace) = pace {
        writeln!(out, "pace: {}", pace_line(pace))?;
    }
    match &survey.owner {
        Some(owner) => writeln!(out, "host: {owner}, epoch {}", survey.epoch)?,
        None => writeln!(out, "host: none")?,
    }
    if let Some(receipt) = survey.receipt.as_ref().filter(|_| survey.owner.is_some()) {
        write_receipt(out, receipt)?;
    }
    let totals = survey.totals;
    let committed = survey.committed_ms_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", span(ago)));
    writeln!(out, "last commit: {committed}")?;
    writeln!(
        out,
        "worked: {} entries = {} with alerts or set aside + {} quiet + {} lost to trimming; {} alerts, {} held back, {} dead",
        totals.entries,
        totals.entries.saturating_sub(totals.quiet + totals.lost),
        totals.quiet,
        totals.lost,
        totals.alerts,
        totals.held_back,
        totals.dead,
    )?;
    if let Some(SavedState { symbols, bytes, age_ms, behind }) = &survey.state {
        let size = bytes.map_or_else(String::new, |bytes| format!(", {:.2} MB", bytes as f64 / 1e6));
        writeln!(
            out,
            "state: {symbols} symbols{size}, saved {} ago; a new host would re-read {behind} entries",
            span(*age_ms)
        )?;
    }
    if totals.state_gap > 0 {
        writeln!(
            out,
            "state: {} entries were trimmed away before their traces in detectors were saved (since the beginning)",
            totals.state_gap
        )?;
    }
    writeln!(
        out,
        "kept: {} alerts in {}, {} dead letters in {}",
        survey.alerts_length, survey.alerts_key, survey.dead_length, survey.dead_key
    )?;
    if !alerts.is_empty() {
        writeln!(out, "newest alerts (`tickhound alerts` has more):")?;
    }
    alerts.iter().rev().try_for_each(|alert| writeln!(out, "  {}", text::alert_line(alert, zone)))
}

fn pace_line(pace: &Pace) -> String {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "unknown".to_owned(), |rate| grouped(rate.round() as u64));
    let Pace { seconds, entries_per_s, added_per_s, alerts_per_s } = pace;
    format!(
        "{}/s worked, {}/s added, {alerts_per_s:.1} alerts/s in the last {seconds:.1}s",
        grouped(entries_per_s.round() as u64),
        rate(*added_per_s),
    )
}

fn write_receipt(out: &mut String, receipt: &Receipt) -> std::fmt::Result {
    let now_ms = now_ms();
    let ago = |at_ms: u64| span(now_ms.saturating_sub(at_ms));
    let Receipt { generation, since_ms, detectors, warming, refusal, needs_restart, .. } = receipt;
    writeln!(out, "generation {generation}, in force for {}:", ago(*since_ms))?;
    for detector in detectors {
        let cost = detector.ns_per_tick.map_or_else(String::new, |ns| format!(", {ns} ns/tick"));
        writeln!(
            out,
            "  → {}: {} {} ({}, sha256 {}), since generation {}, {} ago, state {}{cost}",
            match detector.shadow_of.is_empty() {
                true => detector.name.clone(),
                false => format!("{} (shadow of {})", detector.name, detector.shadow_of),
            },
            detector.plugin,
            detector.version,
            detector.file,
            detector.sha256.get(..12).unwrap_or_default(),
            detector.generation,
            ago(detector.since_ms),
            detector.state,
        )?;
        if let Some(fault) = detector.last_fault.as_ref().filter(|_| detector.faults > 0) {
            writeln!(out, "    {} faults, the last: {fault}", detector.faults)?;
        }
        if let Some(until_ms) = detector.quarantined_until_ms {
            let left = span(until_ms.saturating_sub(now_ms));
            writeln!(out, "    ❌ in quarantine, tried again in {left}; {} ticks skipped so far", detector.skipped)?;
        }
    }
    if !warming.is_empty() {
        writeln!(out, "  … being shown what the stream holds before it takes over: {}", warming.join(", "))?;
    }
    if let Some(refusal) = refusal {
        let (mark, mended) = if refusal.standing { ("❌ ", "") } else { ("", ", and mended since") };
        writeln!(out, "  {mark}refused {} ago{mended}: {}", ago(refusal.at_ms), refusal.reason)?;
    }
    if !needs_restart.is_empty() {
        writeln!(out, "  ⚠️  needs a restart: {}", needs_restart.join(", "))?;
    }
    Ok(())
}
