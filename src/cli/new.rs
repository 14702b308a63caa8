//! `tickhound new`: creates a detector project, and updates the SDK of projects.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, ensure};
use clap::builder::PossibleValuesParser;

use crate::authoring::kit::{
    project::advice,
    sdk,
    template::{self, FeedChoice, LANGUAGES, ProjectShape, SCOPES},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound new opening-drive
  tickhound new opening-drive --lang python
  tickhound new opening-drive --scope group --feed bars:60
  tickhound new --update-sdk opening-drive

The folder tickhound-sdk is created beside the project. All projects beside each other share it, with its tools and what
cargo builds (unless a cargo configuration or CARGO_TARGET_DIR names another folder). `build`, `test`, `bench` and `replay`
say when it is not the SDK of this program; --update-sdk replaces its files.")]
pub(super) struct NewArgs {
    /// Name of the detector and of the folder: lower-case letters, digits and `-`.
    #[arg(required_unless_present = "update_sdk")]
    name: Option<String>,
    /// Language of the project.
    #[arg(long, value_name = "LANGUAGE", default_value = LANGUAGES[0].0, value_parser = PossibleValuesParser::new(LANGUAGES.map(|(name, _)| name)))]
    lang: String,
    /// Scope of the detector: it sees one symbol, the members of a group, or the whole market.
    #[arg(long, value_name = "SCOPE", default_value = SCOPES[0], value_parser = PossibleValuesParser::new(SCOPES))]
    scope: String,
    /// Rows that the detector sees: `ticks`, `bars:SECONDS` or `snapshots:SECONDS`.
    #[arg(long, value_name = "FEED", default_value = "ticks")]
    feed: FeedChoice,
    /// Replace the files of the SDK that this project uses by those of this program, instead of creating a project.
    #[arg(long, value_name = "PROJECT", conflicts_with_all = ["name", "lang", "scope", "feed"])]
    update_sdk: Option<PathBuf>,
}

pub(super) fn run(args: &NewArgs) -> Result<ExitCode> {
    match (&args.update_sdk, &args.name) {
        (Some(project), _) => update_sdk(project),
        (None, Some(name)) => create(name, &args.lang, &ProjectShape { scope: args.scope.clone(), feed: args.feed }),
        (None, None) => Ok(ExitCode::FAILURE), // the parser has asked for one of them
    }
}

fn create(name: &str, lang: &str, shape: &ProjectShape) -> Result<ExitCode> {
    let dir = template::create(name, lang, shape, Path::new("."))?;
    sdk::note_difference(&dir)?;
    outln!("{} is a working detector. Next:", dir.display());
    outln!();
    if let Some(tools) = template::tools(lang) {
        outln!("  (cd {name} && {tools})");
    }
    outln!("  tickhound test {name}      # run its cases");
    outln!("  tickhound bench {name}     # measure its cost");
    outln!("  tickhound replay --simulate --detector {name}");
    outln!("  tickhound build {name}     # install it into plugins/");
    outln!();
    outln!("Its README.md has more. The SDK is in {}, for all projects beside it.", sdk::DIR);
    Ok(ExitCode::SUCCESS)
}

fn update_sdk(project: &Path) -> Result<ExitCode> {
    ensure!(project.is_dir(), "{} is not the folder of a project", project.display());
    let dir = sdk::of_project(project)?;
    let contract = sdk::contract(&dir);
    let written = sdk::update(&dir)?;
    if written.is_empty() {
        outln!("{} is the SDK of this program already", dir.display());
    } else {
        outln!("{} is now the SDK of this program; it wrote:", dir.display());
        written.iter().for_each(|path| outln!("  {path}"));
    }
    if let (Some(before), Some(now)) = (contract, sdk::contract(&dir))
        && before != now
    {
        outln!(
            "It implements contract {now}, and before {before}: detectors of groups, bars and more, see its README.md."
        );
        if let Some(todo) = advice(project) {
            outln!("{}: {todo}.", project.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
