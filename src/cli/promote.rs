//! `tickhound promote`: makes a shadow detector live. A running host applies the change by itself.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use toml_edit::{DocumentMut, Item, Table};

use crate::output;
use tickhound_core::config::{self, DetectorConfig, LoadedConfig};
use tickhound_engine::plugin::{
    loader::{next_of, with_next},
    signature::signature_file,
};

/// Keys that the live detector gets from its shadow.
const PROMOTED_KEYS: [&str; 7] =
    ["plugin", "sha256", "symbols", "min_confidence", "cooldown_s", "max_alerts_per_minute", "params"];

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound promote breakout-next    # plugins/breakout.next.wasm becomes plugins/breakout.wasm\n  \
                  tickhound promote bolder --dry-run # [detectors.bolder] has shadow_of = \"breakout\""
)]
pub(super) struct PromoteArgs {
    /// Name of the shadow detector.
    name: String,
    /// Show what would be done, without doing it.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &PromoteArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let name = args.name.as_str();
    match loaded.config.detectors.get(name) {
        Some(shadow) => promote_table(name, shadow, loaded, args.dry_run)?,
        None => promote_file(name, loaded, args.dry_run)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Replaces `X.wasm` by `X.next.wasm`. The old file gets a name that no plugin has.
fn promote_file(name: &str, loaded: &LoadedConfig, dry_run: bool) -> Result<()> {
    let with_next = with_next(loaded);
    let Some(shadow) = with_next.config.detectors.get(name) else {
        bail!(
            "{name} is not a shadow; there is neither [detectors.{name}] nor, with plugins.allow_next = true, a \
             PLUGIN.next.wasm for it"
        );
    };
    let dir = loaded.resolve(&loaded.config.plugins.dir);
    let plugin = next_of(&shadow.plugin).context("a shadow without a table has a plugin of its own")?;
    let [next, live] = [&shadow.plugin, plugin].map(|name| dir.join(format!("{name}.wasm")));
    let previous = dir.join(format!("{plugin}.wasm.previous"));
    outln!("{} -> {} (the previous one becomes {})", next.display(), live.display(), previous.display());
    if dry_run {
        return Ok(());
    }
    fs::copy(&live, &previous).with_context(|| format!("can't copy {}", live.display()))?;
    // A plugin without its signature may be rejected, so the signature goes first. That of the previous one does not fit
    // any more.
    let [next_signature, live_signature] = [&next, &live].map(|file| signature_file(file));
    let moved = if next_signature.exists() {
        fs::rename(&next_signature, &live_signature)
    } else {
        fs::remove_file(&live_signature).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    };
    moved.with_context(|| format!("can't replace {}", live_signature.display()))?;
    fs::rename(&next, &live).with_context(|| format!("can't move {}", next.display()))
}

/// Moves the settings of the shadow's table into the live detector's, and removes the shadow's.
fn promote_table(name: &str, shadow: &DetectorConfig, loaded: &LoadedConfig, dry_run: bool) -> Result<()> {
    let live = shadow.shadow_of.as_str();
    ensure!(!live.is_empty(), "{name} is not a shadow; its table has no shadow_of");
    let file = loaded.source.file();
    let text = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let mut document: DocumentMut = text.parse().with_context(|| format!("can't read {}", file.display()))?;
    let detectors = document.get_mut("detectors").and_then(Item::as_table_like_mut);
    let detectors = detectors.context("the file has no [detectors] table; edit it by hand")?;
    let from = detectors
        .get(name)
        .and_then(Item::as_table_like)
        .map(|table| PROMOTED_KEYS.map(|key| (key, table.get(key).cloned())));
    let from = from.with_context(|| format!("[detectors.{name}] is not in the file; edit it by hand"))?;
    if detectors.get(live).is_none() {
        detectors.insert(live, Item::Table(Table::new()));
    }
    let table = detectors.get_mut(live).and_then(Item::as_table_like_mut);
    let table = table.with_context(|| format!("[detectors.{live}] is not a table"))?;
    for (key, item) in from {
        match item {
            // An existing value keeps its comment.
            Some(Item::Value(value)) if table.get(key).is_some_and(Item::is_value) => {
                if let Some(Item::Value(before)) = table.get_mut(key) {
                    let decor = before.decor().clone();
                    *before = value;
                    *before.decor_mut() = decor;
                }
            }
            Some(item) => drop(table.insert(key, item)),
            None => drop(table.remove(key)),
        }
    }
    detectors.remove(name);
    let text = document.to_string();
    config::parse_text(file, &text).context("the configuration would not be valid; nothing was changed")?;
    outln!("[detectors.{live}] gets the settings of [detectors.{name}], which is removed from {}", file.display());
    if dry_run {
        output::print_document(&text);
        return Ok(());
    }
    replace(file, &text)
}

/// Replaces the file in one step.
fn replace(file: &Path, text: &str) -> Result<()> {
    // A symbolic link is followed, not replaced.
    let file = file.canonicalize()?;
    let new = file.with_extension("toml.new");
    let write = || {
        let mut open = fs::File::create(&new)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        fs::set_permissions(&new, fs::metadata(&file)?.permissions())?;
        fs::rename(&new, &file)
    };
    write().with_context(|| format!("can't write {}", file.display()))
}
