//! `tickhound init`: a folder to run in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use super::author;
use tickhound_core::config;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound init scanner && cd scanner && tickhound check")]
pub(super) struct InitArgs {
    /// The folder; made if it is not there.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(args: &InitArgs) -> Result<ExitCode> {
    let config = args.dir.join(config::DEFAULT_FILE);
    let mut files: Vec<(PathBuf, &[u8])> = vec![(config, author::CONFIG.as_bytes())];
    files.extend(author::SHIPPED.map(|(name, bytes)| (args.dir.join(format!("plugins/{name}.wasm")), bytes)));
    // All or nothing: what is there is somebody's.
    if let Some((there, _)) = files.iter().find(|(file, _)| file.exists()) {
        bail!("{} is there already; nothing was written", there.display());
    }
    for (file, bytes) in &files {
        write(file, bytes).with_context(|| format!("can't write {}", file.display()))?;
        println!("{}", file.display());
    }
    println!("\nSay in it where your Redis is and what the stream is called, then: tickhound check && tickhound run");
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    fs::write(file, bytes)
}
