//! `tickhound init`: creates a folder to run in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use super::author;
use tickhound_core::config;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound init scanner && cd scanner && tickhound doctor")]
pub(super) struct InitArgs {
    /// The folder; created if it does not exist.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(args: &InitArgs) -> Result<ExitCode> {
    let config = args.dir.join(config::DEFAULT_FILE);
    let mut files: Vec<(PathBuf, &[u8])> = vec![(config, author::CONFIG.as_bytes())];
    files.extend(author::SHIPPED.map(|(name, bytes)| (args.dir.join(format!("plugins/{name}.wasm")), bytes)));
    // All or nothing: existing files belong to the user.
    if let Some((existing, _)) = files.iter().find(|(file, _)| file.exists()) {
        bail!("{} already exists; nothing was written", existing.display());
    }
    for (file, bytes) in &files {
        write(file, bytes).with_context(|| format!("can't write {}", file.display()))?;
        outln!("{}", file.display());
    }
    outln!();
    outln!("Set stream.url and stream.key in the configuration, then: tickhound doctor, and tickhound run");
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    fs::write(file, bytes)
}
