//! `config.toml`: sections, defaults, units, and errors that say where and what to do.
//!
//! What holds: a `Config` that was returned is valid in itself. Whether plugins exist and accept the parameters given
//! is checked where plugins are loaded; [`Source::at`] lets that check name the line. Each section has a file of its
//! own, with its defaults and its checks.

pub mod alerts;
mod calendar;
mod context;
mod detectors;
mod engine;
mod environment;
mod groups;
mod health;
mod history;
pub mod input;
mod live;
mod market;
pub mod notify;
mod origin;
mod plugins;
mod record;
mod reference;
mod secrets;
mod section;
mod server;
mod service;
mod session;
mod source;
mod stream;
mod zone;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, anyhow};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) use self::calendar::parse_calendar;
pub use self::{
    alerts::{AlertsConfig, DeadLettersConfig},
    calendar::{BUILT_IN, built_in},
    context::ContextConfig,
    detectors::{DetectorConfig, Inheritance, NEXT_VERSION, inheritance},
    engine::{BACKLOG_MAX, EngineConfig, WORKERS_MAX},
    environment::environment,
    groups::FamilyConfig,
    health::HealthConfig,
    history::HistoryConfig,
    input::InputConfig,
    live::{ChangedKey, merge},
    notify::{GroupBy, NotifyConfig, NotifyEvent, NotifyKind, OnDoubt},
    origin::Origin,
    plugins::{PluginsConfig, Watch},
    record::RecordConfig,
    reference::ReferenceConfig,
    secrets::ExposedSecrets,
    section::is_unset,
    server::{CONNECTIONS_MAX, ServerConfig, Token},
    service::ServiceConfig,
    session::{SessionConfig, SymbolSession},
    source::Source,
    stream::{Start, StreamConfig},
    zone::time_zone,
};

pub use crate::nearest::nearest;

use self::{environment::Overridden, origin::Origins};
use crate::market::{Market, reference::ReadTable};

/// The file that is read when no `--config` is given.
pub const DEFAULT_FILE: &str = "config/config.toml";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where ticks come from.
    pub stream: StreamConfig,
    /// How entries become ticks.
    pub input: InputConfig,
    /// When the markets of the symbols trade.
    pub session: SessionConfig,
    /// What is known of symbols beside their ticks.
    pub reference: ReferenceConfig,
    /// The families of groups by name.
    pub groups: BTreeMap<String, FamilyConfig>,
    /// The columns with values of other symbols by name.
    pub context: BTreeMap<String, ContextConfig>,
    /// Threads, queues and checkpoints.
    pub engine: EngineConfig,
    /// The folder of plugins, and their limits.
    pub plugins: PluginsConfig,
    /// Where alerts go.
    pub alerts: AlertsConfig,
    /// Where entries and ticks go that can't be processed.
    pub dead_letters: DeadLettersConfig,
    /// The notification channels, which send alerts to people and programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NotifyConfig>,
    /// Ticks from before the stream, in files.
    pub history: HistoryConfig,
    /// How `tickhound record` writes these files.
    pub record: RecordConfig,
    /// From when on a feed counts as not healthy.
    pub health: HealthConfig,
    /// The page, the API and the metrics.
    pub server: ServerConfig,
    /// Running in the background.
    pub service: ServiceConfig,
    /// The detectors by name. Alerts carry that name.
    pub detectors: BTreeMap<String, DetectorConfig>,
}

impl Config {
    fn validate(&self, source: &Source) -> Result<()> {
        self.stream.validate(source)?;
        self.input.validate(source)?;
        self.reference.validate(source)?;
        groups::validate(&self.groups, source)?;
        context::validate(&self.context, source)?;
        self.engine.validate(source)?;
        self.plugins.validate(source)?;
        self.alerts.validate(source)?;
        self.dead_letters.validate(source)?;
        notify::validate(&self.notify, source)?;
        self.record.validate(source)?;
        self.health.validate(source)?;
        self.server.validate(source)?;
        self.service.validate(source)?;
        detectors::validate(self, source)
    }

    /// The zone of the times that people see.
    ///
    /// # Errors
    /// When the zone does not exist, which loading a configuration rules out.
    pub fn display_zone(&self) -> Result<TimeZone> {
        let (own, exchange) = (&self.service.timezone, &self.input.timezone);
        time_zone(if own.is_empty() { exchange } else { own })
    }

    /// Makes the paths of certificates and secrets absolute or relative to the working directory.
    fn resolve_secrets(&mut self, root: &Path) {
        let StreamConfig { tls_ca, tls_cert, tls_key, .. } = &mut self.stream;
        let channels = self
            .notify
            .iter_mut()
            .flat_map(|channel| [&mut channel.url_file, &mut channel.token_file, &mut channel.tls_ca]);
        let files = [tls_ca, tls_cert, tls_key].into_iter().chain(channels);
        for file in files.filter(|file| !is_unset(file)) {
            *file = root.join(&file);
        }
    }
}

/// A configuration, and where it was loaded from.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// What the file and the environment say.
    pub config: Config,
    /// The text of the file, which locates keys for messages.
    pub source: Source,
    /// The folder that paths in the file are relative to: the folder that holds the file, or that folder's parent when
    /// the folder is called `config`.
    pub root: PathBuf,
    /// The reference data, groups and contexts. Without reference data until [`load_market`](Self::load_market) has read it.
    pub market: Arc<Market>,
}

impl LoadedConfig {
    /// A path of the configuration, relative to the project root.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Reads the reference data, and builds what detectors know of the market. The data that `before` has is taken from there if
    /// the files are the same.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, or the key of a group or context that does not fit the data.
    pub fn load_market(&mut self, read: ReadTable, before: Option<&Market>) -> Result<()> {
        let reference = market::load_reference(self, read, before.map(Market::reference))?;
        self.market = Arc::new(market::build(&self.config, &self.source, reference)?);
        Ok(())
    }
}

/// Reads `file`, applies the variables `TICKHOUND_SECTION__KEY`, and validates the result.
///
/// # Errors
/// An error says file, line, column, what was expected and the nearest valid name.
pub fn load(file: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<LoadedConfig> {
    let text = std::fs::read_to_string(file).map_err(|error| explain_unreadable(file, error))?;
    parse(file, text, environment)
}

fn explain_unreadable(file: &Path, error: io::Error) -> anyhow::Error {
    let name = file.display();
    match error.kind() {
        io::ErrorKind::NotFound if file == Path::new(DEFAULT_FILE) => anyhow!(
            "there is no {name} here: `tickhound init` creates it, with the plugins that ship; if you have one, run tickhound \
             in the project's folder, or name the file with --config"
        ),
        io::ErrorKind::NotFound => anyhow!("there is no {name}, which --config names"),
        _ => anyhow!("can't read {name}: {error}"),
    }
}

/// Parses the text of the configuration that ships with Tickhound.
///
/// # Errors
/// When the text is not valid, which a test rules out.
pub fn shipped(text: &str) -> Result<LoadedConfig> {
    parse(Path::new(DEFAULT_FILE), text.to_owned(), std::iter::empty())
}

/// Parses a configuration as if `file` held this text.
///
/// # Errors
/// The same as those of [`load`].
pub fn parse_text(file: &Path, text: &str) -> Result<LoadedConfig> {
    parse(file, text.to_owned(), std::iter::empty())
}

/// Parses a configuration as if `file` held this text, and applies the variables as [`load`] does.
///
/// # Errors
/// The same as those of [`load`].
pub fn parse(file: &Path, text: String, environment: impl Iterator<Item = (String, String)>) -> Result<LoadedConfig> {
    let mut source = Source::parse(file, text)?;
    // Errors in the file have a position as long as nothing else is mixed with it.
    source.config()?;
    let Overridden { mut table, variables } = environment::apply(source.table()?, environment)?;
    let inherited = detectors::inherit(&mut table);
    source.set_origins(Origins { variables, inherited });
    let mut config: Config = table.try_into()?;
    config.validate(&source)?;
    config.session.load(file.parent().unwrap_or(Path::new("")), &source)?;
    let root = project_root(file);
    config.resolve_secrets(&root);
    let market = if config.reference.files.is_empty() {
        market::build(&config, &source, Arc::default())?
    } else {
        // Groups and contexts can't be checked before the files are read.
        Market::default()
    };
    Ok(LoadedConfig { config, source, root, market: Arc::new(market) })
}

/// The folder above `config/`, or that of the file where it is not in a folder of this name. An empty path would not be
/// readable as a folder, so it becomes `.`.
fn project_root(file: &Path) -> PathBuf {
    let dir = match file.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => Path::new("."),
    };
    if dir.file_name().is_some_and(|name| name == "config") {
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => return parent.to_path_buf(),
            _ => return PathBuf::from("."),
        }
    }
    dir.to_path_buf()
}
