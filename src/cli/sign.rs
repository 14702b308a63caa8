//! `tickhound sign`: signs plugins, so that a host can require it.

use std::{
    fs::OpenOptions,
    io::{Cursor, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, ensure};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};
use serde_json::json;

use crate::output::print_json;
use crate::replace::replace;
use tickhound_core::config::LoadedConfig;
use tickhound_engine::plugin::{file::read_file, signature::signature_file};

/// The maximum size of a file with a secret key, bytes. It has two short lines.
const KEY_BYTES_MAX: u64 = 8 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tickhound sign --new-key desk.key
  tickhound sign --key desk.key plugins/breakout.wasm plugins/momentum.wasm

A signature says that you have checked this plugin. Keys and signatures have the format of minisign, whose files can be
used, too. A host that knows the public key (plugins.trusted_keys) rejects a plugin with a wrong signature, and with
plugins.require_signed = true one without a signature as well.")]
pub(super) struct SignArgs {
    /// The plugins to sign. The signature of FILE is written to FILE.minisig.
    #[arg(value_name = "FILE", required_unless_present = "new_key")]
    files: Vec<PathBuf>,
    /// The file with the secret key. Its password is asked for, if it has one.
    #[arg(long, value_name = "KEY", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// Make a new secret key in this file, and its public key in KEY.pub.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["key", "files"])]
    new_key: Option<PathBuf>,
    /// Do not protect the new key with a password.
    #[arg(long, requires = "new_key")]
    no_password: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SignArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    if let Some(file) = &args.new_key {
        return make_key(file, args);
    }
    let key_file = args.key.as_deref().context("--key is missing")?;
    let key = read_key(key_file)?;
    let public = PublicKey::from_secret_key(&key)?;
    let mut signed = Vec::new();
    for file in &args.files {
        let bytes = read_file(file, loaded.config.plugins.file_max_mib << 20)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let comment = format!("file:{name}");
        let signature = minisign::sign(Some(&public), &key, Cursor::new(&bytes), Some(&comment), None)
            .with_context(|| format!("can't sign {}", file.display()))?;
        let target = signature_file(file);
        replace(&target, signature.into_string().as_bytes(), None)
            .with_context(|| format!("can't write {}", target.display()))?;
        signed.push(target);
    }
    if args.json {
        print_json(&json!({ "signed": signed, "public_key": public.to_base64() }));
    } else {
        signed.iter().for_each(|file| outln!("{}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn make_key(file: &Path, args: &SignArgs) -> Result<ExitCode> {
    let made = if args.no_password {
        KeyPair::generate_unencrypted_keypair()
    } else {
        // It asks for the password twice.
        KeyPair::generate_encrypted_keypair(None)
    };
    let KeyPair { pk, sk } = made.map_err(|error| anyhow!("can't make a key: {error}"))?;
    let mut secret = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("can't create {}", file.display()))?;
    secret.write_all(sk.to_box(Some("secret key of tickhound sign"))?.into_string().as_bytes())?;
    let public_file = file.with_added_extension("pub");
    replace(&public_file, pk.to_box()?.into_string().as_bytes(), None)
        .with_context(|| format!("can't write {}", public_file.display()))?;
    let public = pk.to_base64();
    if args.json {
        print_json(&json!({ "key": file, "public_key_file": public_file, "public_key": public }));
    } else {
        outln!("{} is the secret key, {} the public one. In the configuration:", file.display(), public_file.display());
        outln!();
        outln!("[plugins]");
        outln!("trusted_keys = [\"{public}\"]");
        outln!("require_signed = true");
    }
    Ok(ExitCode::SUCCESS)
}

fn read_key(file: &Path) -> Result<SecretKey> {
    let bytes = read_file(file, KEY_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let parse = || SecretKeyBox::from_string(text).with_context(|| format!("{} is not a secret key", file.display()));
    ensure!(!text.is_empty(), "{} is not a secret key", file.display());
    // The first succeeds if the key has no password.
    match parse()?.into_unencrypted_secret_key() {
        Ok(key) => Ok(key),
        Err(_) => parse()?
            .into_secret_key(None)
            .map_err(|error| anyhow!("can't use the secret key {}: {error}", file.display())),
    }
}
