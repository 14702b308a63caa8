//! `tickhound status`: shows once, or again and again, whether ticks are being processed.

mod observer;
mod report;
mod watch;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use self::observer::Observer;
use crate::{observe::health::Verdict, output};
use tickhound_core::config::LoadedConfig;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound status\n  tickhound status --watch\n  tickhound status --json | jq .verdict\n  \
                  tickhound status --watch 10 --json | jq -c '[.verdict, .pace.entries_per_s]'\n\n\
                  Exit codes: 0 healthy, 1 degraded, 2 stuck or unreachable; with --watch, that of the last report."
)]
pub(super) struct StatusArgs {
    /// Refresh every SECONDS (default 2) until Ctrl-C: in place on a terminal, otherwise one report after the other.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = period)]
    watch: Option<Duration>,
    /// Print everything as one JSON object; with --watch, one per line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let mut observer = Observer::new(&loaded.config, args.json)?;
    let verdict = super::process::runtime()?.block_on(async {
        match args.watch {
            Some(period) => watch::watch(&mut observer, period).await,
            None => {
                let observation = observer.observe().await;
                if let Some(lines) = observer.report(&observation)? {
                    output::print(&lines);
                }
                Ok(observation.report.verdict)
            }
        }
    })?;
    Ok(match verdict {
        Verdict::Healthy => ExitCode::SUCCESS,
        Verdict::Degraded => ExitCode::from(1),
        Verdict::Stuck | Verdict::Unreachable => ExitCode::from(2),
    })
}

fn period(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected seconds from 0.1 to 86400".into())
}
