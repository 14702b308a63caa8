//! `tickhound test`: runs the cases of a detector.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use serde_json::json;

use super::author::{self, Subject};
use crate::authoring::kit::case;
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::Limits;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound test opening-drive
  tickhound test plugins/breakout.wasm cases/
  tickhound test . cases/fall.toml --write

A case is a file:
  about = \"a fall of two percent is reported\"
  ticks = \"\"\"
  symbol,time,price
  NIFTY,0.0,100.0
  NIFTY,1.0,98.0
  \"\"\"
  [params]
  move_pct = 1.0
  [[alerts]]
  symbol = \"NIFTY\"
  time = 1.0
  direction = \"down\"

Times are seconds from `start`, by default 2025-11-24T09:15:00+05:30. Columns beside symbol, time and price: quantity,
cum_volume, bid, ask, bid_quantity, ask_quantity, oi; others are extra columns. [groups.NAME] and [context.NAME] tables are
as in the configuration; an alert of a group has a `group`, and may have `members`. The detector must raise exactly the
listed alerts. The fields that are given are compared, numbers to 0.1 %. Every case runs with several batch sizes, with
several workers, and with a restart after every tick: none of these may change the result.

Exit codes: 0 all cases hold, 1 a case fails, or an error.")]
pub(super) struct TestArgs {
    /// The folder of a project, which is built; a .wasm file; or the name of a plugin.
    #[arg(default_value = ".")]
    plugin: PathBuf,
    /// Case files, or folders of them; by default the folder `cases` beside the plugin.
    cases: Vec<PathBuf>,
    /// Write the raised alerts into the cases as the expected ones; review the difference before you commit it.
    #[arg(long)]
    write: bool,
    /// Print the results as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &TestArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let subject = Subject::find(&args.plugin, loaded)?;
    let paths = if args.cases.is_empty() { vec![subject.cases.clone()] } else { args.cases.clone() };
    let cases = case::read_all(&paths)?;
    ensure!(!cases.is_empty(), "there are no cases");
    let plugins = author::runtime(loaded)?;
    let limits = Limits::of(&loaded.config.plugins);
    let plugin = plugins.compile(&subject.name, &subject.file, &subject.bytes, limits)?;
    let runtime = super::process::runtime()?;
    let (mut failed, mut results) = (0, Vec::new());
    for case in &cases {
        let verdict = runtime.block_on(case.run(&plugin, loaded))?;
        if args.write {
            case.write(&verdict.alerts)?;
        }
        let holds = verdict.failures.is_empty();
        failed += usize::from(!holds);
        let name = case.file.display();
        if args.json {
            results.push(json!({ "case": case.file, "about": case.about, "holds": holds, "failures": verdict.failures, "alerts": verdict.alerts.len() }));
        } else {
            let verdict_word = if holds { "holds" } else { "FAILS" };
            outln!("{verdict_word}  {name}: {}", if case.about.is_empty() { "no description" } else { &case.about });
            verdict.failures.iter().for_each(|failure| outln!("       {failure}"));
        }
    }
    let manifest = &plugin.manifest;
    if args.json {
        crate::output::print_json(
            &json!({ "plugin": manifest.name, "version": manifest.version, "failed": failed, "cases": results }),
        );
    } else {
        outln!();
        outln!("{} {}: {} of {} cases hold", manifest.name, manifest.version, cases.len() - failed, cases.len());
        if args.write {
            outln!("wrote the raised alerts into {} cases", cases.len());
        }
    }
    Ok(if failed == 0 || args.write { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
