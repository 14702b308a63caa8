//! `tickhound new`: creates a detector project.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::builder::PossibleValuesParser;

use crate::authoring::kit::template::{self, LANGUAGES};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound new opening-drive\n  tickhound new opening-drive --lang python")]
pub(super) struct NewArgs {
    /// Name of the detector and of the folder: lower-case letters, digits and `-`.
    name: String,
    /// Language of the project.
    #[arg(long, value_name = "LANGUAGE", default_value = LANGUAGES[0].0, value_parser = PossibleValuesParser::new(LANGUAGES.map(|(name, _)| name)))]
    lang: String,
}

pub(super) fn run(args: &NewArgs) -> Result<ExitCode> {
    let NewArgs { name, lang } = args;
    let dir = template::create(name, lang, Path::new("."))?;
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
    outln!("Its README.md has more.");
    Ok(ExitCode::SUCCESS)
}
