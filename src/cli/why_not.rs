//! `tickhound why-not`: what a detector looked at when it found nothing.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use jiff::SignedDuration;
use serde_json::json;

use super::{
    author, text,
    why::{Inquiry, TicksArgs, load_detector, print_text, span},
};
use crate::{
    output,
    why::{judged::WindowAccount, scratch::Probed, shown::Shower},
};
use tickhound_core::{config::LoadedConfig, event::Alert, pattern::SymbolPattern};
use tickhound_engine::plugin::{ProbeQuestion, Scope};

/// The rows before and after the window that are kept: none is shown.
const AROUND: usize = 0;

const HELP: &str = "\
Examples:
  tickhound why-not SBIN --detector breakout --at 10:42
  tickhound why-not NIFTY --detector straddle --at '2025-11-24 10:42' --for 5m history/
  tickhound why-not SBIN --detector breakout --at 10:42:17 --json | jq .closest.gates

The detector is replayed alone: from the states that the host has saved, if they are from before that time; else from
all entries that the stream holds; or from the files that are named. No running host is asked or slowed down. A time
without a date is one of today, or of the first day of the files, in service.timezone.

The detector's conditions are its gates. The row is shown at which the fewest of them did not hold.

Exit codes: 0 answered; 1 failed, with the reason: no tick of the symbol then, or a detector that can't tell.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct WhyNotArgs {
    /// The symbol, or the group of a detector of groups.
    symbol: String,
    #[command(flatten)]
    ticks: TicksArgs,
    /// The detector, by its name in the configuration.
    #[arg(long, value_name = "NAME")]
    detector: String,
    /// When: a minute such as 10:42, a second such as 10:42:17, or either with a date.
    #[arg(long, value_name = "TIME")]
    at: String,
    /// How long from then on; by default the minute or second that --at names.
    #[arg(long = "for", value_name = "SPAN", value_parser = span)]
    span: Option<SignedDuration>,
    /// Print the answer as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &WhyNotArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let zone = text::zone(&loaded.config);
    let runtime = super::process::runtime()?;
    let inquiry = Inquiry { loaded, ticks: &args.ticks, runtime: &runtime };
    let window = inquiry.window(&args.at, args.span, &zone)?;
    let plugins = author::runtime(loaded)?;
    let detector = load_detector(loaded, &args.detector, &plugins)?;
    let spec = detector.spec();
    let symbol = args.symbol.to_uppercase();
    ensure!(
        spec.view().scope != Scope::Symbol || spec.wants(&symbol),
        "{} does not see {symbol}: its `symbols` in the configuration leave it out",
        spec.name
    );
    let subject = SymbolPattern::new(&symbol);
    let question = ProbeQuestion::Window { subject: subject.clone(), from: window.from, to: window.to, around: AROUND };
    let probed = inquiry.replay_window(&detector, &question, window)?;
    let shower = Shower { spec, zone: &zone };
    let (from, to) = (shower.time(window.from), shower.time(window.to));
    if probed.rows.within.is_empty() {
        bail!(
            "{} saw no row of {symbol} from {from} to {to}; {}",
            spec.name,
            match probed.rows.since {
                Some(since) => format!("the first one that could be replayed is of {}", shower.time(since)),
                None =>
                    "there is none at all. Is it the symbol as detectors see it? Earlier ticks are in recorded files"
                        .to_owned(),
            }
        );
    }
    let account = WindowAccount::of(&probed.rows.within);
    let is_of_window =
        |alert: &&Alert| (window.from..=window.to).contains(&alert.time) && subject.matches(&alert.symbol);
    let alerts: Vec<Alert> = probed.alerts.iter().filter(is_of_window).cloned().collect();
    if args.json {
        output::print_json(&to_json(&shower, &symbol, &probed, &account, &alerts));
        return Ok(ExitCode::SUCCESS);
    }
    let mut answer = format!("{} on {symbol}, {from} to {to}\n", spec.name);
    answer.push_str(&format!("replayed {}\n\n", shower.basis(&probed, window.from)));
    answer.push_str(&shower.window(&account, &alerts));
    if probed.rows.left_out > 0 {
        answer.push_str(&format!("{} more rows were left out; ask about a shorter time\n", probed.rows.left_out));
    }
    print_text(&answer)?;
    Ok(ExitCode::SUCCESS)
}

fn to_json(
    shower: &Shower<'_>,
    symbol: &str,
    probed: &Probed,
    account: &WindowAccount<'_>,
    alerts: &[Alert],
) -> serde_json::Value {
    let at = probed.rows.within.first().map_or(0, |row| row.time);
    json!({
        "detector": shower.spec.name,
        "symbol": symbol,
        "replayed": shower.basis_json(probed, at),
        "rows": probed.rows.within.len(),
        "rows_left_out": probed.rows.left_out,
        "looked_at": account.judged.len(),
        "all_held": account.detections().map(|judged| shower.time_json(judged.row.time)).collect::<Vec<_>>(),
        "alerts": alerts.iter().map(|alert| &alert.id).collect::<Vec<_>>(),
        "closest": account.closest.map(|judged| shower.judged_json(&judged)),
        "gates": account.gates,
    })
}
