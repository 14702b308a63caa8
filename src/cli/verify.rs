//! `tickhound verify`: checks the signatures of plugins.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::output::print_json;
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::{digest::sha256, file::read_file, signature::Trust};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound verify plugins/*.wasm
  tickhound verify breakout.wasm --key RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3

Exit codes: 0 all files have a signature of a trusted key, 1 one has not (the reason is on stderr).")]
pub(super) struct VerifyArgs {
    /// The plugins to verify. The signature of FILE is read from FILE.minisig.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A public key to trust, instead of those in plugins.trusted_keys. May be repeated.
    #[arg(long, value_name = "PUBLIC_KEY")]
    key: Vec<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let (keys, origin) = match &args.key[..] {
        [] => (&loaded.config.plugins.trusted_keys, None),
        _ => (&args.key, Some("--key")),
    };
    ensure!(!keys.is_empty(), "no key is trusted: give one with --key, or name it in plugins.trusted_keys");
    let trust = Trust::in_keys(keys.clone(), origin);
    let mut results = Vec::new();
    let mut failed = 0;
    for file in &args.files {
        let bytes = read_file(file, loaded.config.plugins.file_max_mib << 20);
        let verified = bytes.and_then(|bytes| trust.check(file, &bytes).map(|()| sha256(&bytes)));
        match &verified {
            Ok(sha256) if !args.json => outln!("ok: {} (sha256 {sha256})", file.display()),
            Err(error) if !args.json => errln!("error: {error:#}"),
            _ => {}
        }
        failed += usize::from(verified.is_err());
        results.push(json!({
            "file": file, "sha256": verified.as_ref().ok(), "error": verified.as_ref().err().map(|error| format!("{error:#}")),
        }));
    }
    if args.json {
        print_json(&json!({ "verified": args.files.len() - failed, "failed": failed, "files": results }));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
