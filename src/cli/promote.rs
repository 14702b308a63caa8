//! `tickhound promote`: makes a shadow detector live. A running host applies the change by itself.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use toml_edit::{DocumentMut, Item, Table};

use super::author;
use crate::output;
use crate::replace::replace;
use tickhound_core::{
    config::{self, DetectorConfig, LoadedConfig},
    decode::Decoder,
};
use tickhound_engine::plugin::{
    folder::Folder,
    loader::{self, next_of, with_next},
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
    // The next version must be one that a host accepts, or the detector would be gone after the next restart.
    let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
    let folder = Folder::of(loaded);
    loader::build(&author::runtime(loaded)?, loaded, decoder.column_names(), None, &folder)
        .with_context(|| format!("{name} can't be promoted"))?;
    copy(&live, &previous)?;
    // A plugin without its signature may be rejected, so the signature goes first. The previous one keeps its own.
    let [next_signature, live_signature, previous_signature] =
        [&next, &live, &previous].map(|file| signature_file(file));
    if live_signature.exists() {
        copy(&live_signature, &previous_signature)?;
        fs::remove_file(&live_signature).with_context(|| format!("can't remove {}", live_signature.display()))?;
    }
    if next_signature.exists() {
        fs::rename(&next_signature, &live_signature)
            .with_context(|| format!("can't move {}", next_signature.display()))?;
    }
    fs::rename(&next, &live).with_context(|| format!("can't move {}", next.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("can't read {}", from.display()))?;
    replace(to, &bytes, None).with_context(|| format!("can't write {}", to.display()))
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
    // A symbolic link is followed, not replaced.
    let file = file.canonicalize()?;
    let permissions = fs::metadata(&file)?.permissions();
    replace(&file, text.as_bytes(), Some(permissions)).with_context(|| format!("can't write {}", file.display()))
}
