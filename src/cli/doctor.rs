//! `tickhound doctor`: finds what may cause trouble in market hours; each finding has a cure.

use std::process::ExitCode;

use anyhow::Result;

use crate::observe::doctor::{Finding, Level, examine};
use tickhound_core::config::LoadedConfig;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound doctor\n  tickhound doctor --fix\n  tickhound doctor --json | jq '.[] | select(.level == \"problem\")'\n\n\
                  Exit codes: 0 nothing worse than notes, 1 warnings, 2 problems; with --fix, the state after the fixes."
)]
pub(super) struct DoctorArgs {
    /// Print an array of findings: id, area, level (ok, note, warning, problem), found, cure, fixed.
    #[arg(long)]
    json: bool,
    /// Apply safe fixes: create missing folders and the group, remove empty left-over consumers and old compiled
    /// plugins. Never changes entries, the server's settings or the configuration.
    #[arg(long)]
    fix: bool,
    /// Show what --fix would do, which is also the default without --fix.
    #[arg(long)]
    dry_run: bool,
    /// Hide findings that are ok.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &DoctorArgs, loaded: Result<LoadedConfig>) -> Result<ExitCode> {
    let mut findings = super::process::runtime()?.block_on(examine(loaded, args.fix && !args.dry_run));
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let summary = format!(
        "problems: {}, warnings: {}, notes: {}, ok: {}",
        count(Level::Problem),
        count(Level::Warning),
        count(Level::Note),
        count(Level::Ok)
    );
    findings.retain(|finding| !args.quiet || finding.level > Level::Ok);
    if args.json {
        crate::output::print_pretty_json(&serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(print);
        outln!();
        outln!("{summary}");
    }
    Ok(match worst {
        Level::Ok | Level::Note => ExitCode::SUCCESS,
        Level::Warning => ExitCode::from(1),
        Level::Problem => ExitCode::from(2),
    })
}

fn print(finding: &Finding) {
    let Finding { id, level, found, cure, fixed, .. } = finding;
    let mark = match level {
        Level::Ok => "✅",
        Level::Note => "📝",
        Level::Warning => "⚠️ ",
        Level::Problem => "❌",
    };
    outln!("{mark} {id}: {found}");
    match (fixed, cure) {
        (Some(fixed), _) => outln!("     fixed: {fixed}"),
        (None, Some(cure)) => outln!("     → {cure}"),
        (None, None) => {}
    }
}
