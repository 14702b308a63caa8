//! `tickhound near`: the symbols that are closest to a detection.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    author, text,
    why::{Inquiry, TicksArgs, load_detector, print_text},
};
use crate::{
    output,
    why::shown::{NearStates, Shower},
};
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::ProbeQuestion;

const HELP: &str = "\
Examples:
  tickhound near breakout
  tickhound near straddle --last 5 --json | jq '.near[].owner'

A symbol (or group) is near if all of the detector's gates held at its last row but one. The closest come first. The
detector is replayed alone, from the states that the host has saved and the entries since; symbols that had no tick
since then are left out. No running host is asked or slowed down. With files, the last row of each symbol counts.

Exit codes: 0 answered, also if none is near; 1 failed, with the reason.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct NearArgs {
    /// The detector, by its name in the configuration.
    detector: String,
    #[command(flatten)]
    ticks: TicksArgs,
    /// Show at most N.
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
    /// Print the answer as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &NearArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let zone = text::zone(&loaded.config);
    let runtime = super::process::runtime()?;
    let inquiry = Inquiry { loaded, ticks: &args.ticks, runtime: &runtime };
    let plugins = author::runtime(loaded)?;
    let detector = load_detector(loaded, &args.detector, &plugins)?;
    let saved = if inquiry.has_files() { None } else { inquiry.replay_saved(&detector, &ProbeQuestion::Latest)? };
    let probed = match saved {
        Some(saved) => saved,
        None => inquiry.replay_all(&detector, ProbeQuestion::Latest, u64::MAX)?,
    };
    let shower = Shower { spec: detector.spec(), zone: &zone };
    let near = NearStates::of(&probed, args.last);
    if args.json {
        output::print_json(&shower.near_json(&near));
    } else {
        print_text(&shower.near(&near))?;
    }
    Ok(ExitCode::SUCCESS)
}
