//! `tickhound promote`: makes a shadow detector live. A running host applies the change by itself.
//!
//! What holds: the result was checked as a host checks it before anything is written. Each file that is replaced stays beside
//! the new one as `.previous`. After a kill in the middle, a host can start, and the same command completes the change; a kill
//! before the last step leaves `X.next.wasm`, which is then the same as `X.wasm`.

mod exchange;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};

use self::exchange::{Exchange, PREVIOUS};
use super::author;
use crate::{output, replace::replace_same_owner};
use tickhound_core::{
    config::{self, LoadedConfig},
    decode::Decoder,
};
use tickhound_engine::plugin::{
    folder::Folder,
    loader::{self, next_of, with_next},
};
use tickhound_recorded::read_reference;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound promote breakout-next    # plugins/breakout.next.wasm becomes plugins/breakout.wasm\n  \
                  tickhound promote bolder --dry-run # [detectors.bolder] has shadow_of = \"breakout\"\n\n\
                  The live detector gets what the shadow sets, and keeps everything else with its comments. Digest and\n\
                  parameters belong to a plugin: a shadow with another plugin does not leave the old ones.\n\
                  Files that are replaced stay as FILE.previous."
)]
pub(super) struct PromoteArgs {
    /// Name of the shadow detector.
    name: String,
    /// Show what would be done, without doing it.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &PromoteArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let promotion = Promotion::plan(&args.name, loaded)?;
    // The result must be one that a host accepts, or the detector would be gone after the next restart.
    promotion.check(loaded).with_context(|| format!("{} can't be promoted; nothing was changed", args.name))?;
    promotion.print(loaded);
    if args.dry_run {
        outln!("nothing was changed (--dry-run)");
        return Ok(ExitCode::SUCCESS);
    }
    promotion.carry_out()?;
    promotion.print_way_back();
    Ok(ExitCode::SUCCESS)
}

/// What makes a shadow live: a change of the configuration, the exchange of a plugin's file, or both.
struct Promotion {
    shadow: String,
    live: String,
    change: Option<Change>,
    exchange: Option<Exchange>,
}

/// A change of the configuration file.
struct Change {
    /// The file as it was named, for messages.
    named: PathBuf,
    /// The file itself: a symbolic link is followed, not replaced.
    file: PathBuf,
    old: String,
    new: String,
}

impl Promotion {
    fn plan(name: &str, loaded: &LoadedConfig) -> Result<Self> {
        let with_next = with_next(loaded);
        let Some(shadow) = with_next.config.detectors.get(name) else {
            bail!(
                "{name} is not a shadow; there is neither [detectors.{name}] nor, with plugins.allow_next = true, a \
                 PLUGIN.next.wasm for it"
            );
        };
        let live = shadow.shadow_of.clone();
        ensure!(!live.is_empty(), "{name} is not a shadow; its table has no shadow_of");
        let plugin = &loaded.config.detectors[&live].plugin;
        let exchange = (next_of(&shadow.plugin) == Some(plugin)).then(|| Exchange::plan(plugin, loaded)).transpose()?;
        let change =
            loaded.config.detectors.contains_key(name).then(|| Change::plan(name, &live, loaded)).transpose()?;
        Ok(Self { shadow: name.to_owned(), live, change, exchange })
    }

    /// Checks that a host would accept the result.
    fn check(&self, loaded: &LoadedConfig) -> Result<()> {
        let mut after = match &self.change {
            Some(Change { named, new, .. }) => config::parse(named, new.clone(), config::environment())?,
            None => loaded.clone(),
        };
        after.load_market(read_reference, Some(&loaded.market))?;
        let decoder = Decoder::new(&after.config.input, &after.root)?;
        let runtime = author::runtime(&after)?;
        match &self.exchange {
            Some(exchange) => {
                // Its own shadow ends with it.
                after.config.plugins.allow_next = false;
                loader::build(&runtime, &after, decoder.column_names(), None, exchange)?;
            }
            None => drop(loader::build(&runtime, &after, decoder.column_names(), None, &Folder::of(&after))?),
        }
        Ok(())
    }

    fn print(&self, loaded: &LoadedConfig) {
        let Self { live, change, exchange, .. } = self;
        if let Some(exchange) = exchange {
            let [next, replaced, previous] = [exchange.next(), exchange.live(), exchange.previous()];
            outln!("{} -> {} (the old one becomes {})", next.display(), replaced.display(), previous.display());
            let plugin = &loaded.config.detectors[live].plugin;
            let others =
                loaded.config.detectors.iter().filter(|(name, other)| *name != live && other.plugin == *plugin);
            let others: Vec<&str> = others.map(|(name, _)| name.as_str()).collect();
            if !others.is_empty() {
                outln!("this also changes {}, which has the same plugin", others.join(", "));
            }
        }
        if let Some(Change { named, old, new, .. }) = change {
            output::print_diff(&named.display().to_string(), old, new);
            if table::has_mixed_line_ends(old) {
                outln!("{} has line ends of Windows and of Unix; all become those of Unix", named.display());
            }
        }
        for variable in loaded.variables_below(&["detectors", live]) {
            outln!("{variable} is set here, and overrides what the file has for {live}");
        }
        self.print_channels(loaded);
    }

    /// Says which notification channels name the shadow, whose alerts have the name of the live detector from now on.
    fn print_channels(&self, loaded: &LoadedConfig) {
        let Self { shadow, live, .. } = self;
        let channels = loaded.config.notify.iter().enumerate();
        for (index, channel) in channels.filter(|(_, channel)| channel.detectors.contains(shadow)) {
            let at = loaded.source.at(&["notify", &index.to_string(), "detectors"]);
            let cure = if channel.shadows {
                "it has shadows = true, so only a channel without that sends them".to_owned()
            } else {
                format!("write {live} there")
            };
            outln!(
                "{at}: the [[notify]] channel {} names {shadow}, whose alerts become those of {live}: {cure}",
                channel.name
            );
        }
    }

    fn carry_out(&self) -> Result<()> {
        // First what shows whether the folders can be written to.
        self.change.iter().try_for_each(Change::save_previous)?;
        self.exchange.iter().try_for_each(Exchange::save_previous)?;
        // The live detector's old settings suit the next version as well as its shadow's do, which inherits them.
        self.exchange.iter().try_for_each(Exchange::install)?;
        self.change.iter().try_for_each(Change::apply)?;
        self.exchange.iter().try_for_each(Exchange::finish)
    }

    fn print_way_back(&self) {
        let changed = self.change.iter().map(|change| change.file.clone());
        for file in changed {
            outln!("to go back: mv {} {}", previous(&file).display(), file.display());
        }
        self.exchange.iter().flat_map(Exchange::way_back).for_each(|command| outln!("to go back: {command}"));
    }
}

impl Change {
    fn plan(name: &str, live: &str, loaded: &LoadedConfig) -> Result<Self> {
        // The variable would begin the shadow again, without the table that the rest of it is in.
        if let Some(variable) = loaded.variables_below(&["detectors", name]).first() {
            bail!(
                "{variable} sets a key of {name}, which is not in the file: write it into [detectors.{name}], and unset it"
            );
        }
        let named = loaded.source.file();
        let file = named.canonicalize().with_context(|| format!("can't read {}", named.display()))?;
        let old = loaded.source.text().to_owned();
        let new = table::promoted(&old, name, live).with_context(|| format!("can't change {}", named.display()))?;
        Ok(Self { named: named.to_owned(), file, old, new })
    }

    fn save_previous(&self) -> Result<()> {
        let now = fs::read_to_string(&self.file).with_context(|| format!("can't read {}", self.named.display()))?;
        ensure!(now == self.old, "{} has been changed meanwhile; nothing was done", self.named.display());
        self.write(&previous(&self.file), &self.old)
    }

    fn apply(&self) -> Result<()> {
        self.write(&self.file, &self.new)
    }

    fn write(&self, to: &Path, text: &str) -> Result<()> {
        replace_same_owner(to, text.as_bytes(), &self.file).with_context(|| format!("can't write {}", to.display()))
    }
}

fn previous(file: &Path) -> PathBuf {
    file.with_added_extension(PREVIOUS)
}
