//! `config.toml`: sections, defaults, units, and errors that say where and what to do.
//!
//! What holds: a `Config` that was returned is valid in itself. Whether plugins
//! exist and take the parameters given is checked where plugins are loaded;
//! [`Source::at`] lets that check point at the line in question.

pub mod input;
mod live;
pub mod notify;
mod server;
mod source;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

pub use self::{
    input::InputConfig,
    live::{ChangedKey, merge},
    notify::{NotifyConfig, NotifyKind, OnDoubt},
    server::{ServerConfig, Token},
    source::{Source, nearest},
};
use crate::event::EntryId;

/// Where `config.toml` is looked for when no `--config` is given.
pub const DEFAULT_FILE: &str = "config/config.toml";

/// Most that `engine.backlog` may be.
pub const BACKLOG_MAX: usize = 10_000_000;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where ticks come from.
    pub stream: StreamConfig,
    /// How entries become ticks.
    pub input: InputConfig,
    /// Threads and queues.
    pub engine: EngineConfig,
    /// Where plugins lie, and what they may use.
    pub plugins: PluginsConfig,
    /// Where alerts go.
    pub alerts: AlertsConfig,
    /// Entries set aside.
    pub dead_letters: DeadLettersConfig,
    /// Who is told of alerts, beside the streams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NotifyConfig>,
    /// What is shown over HTTP.
    pub server: ServerConfig,
    /// Running in the background.
    pub service: ServiceConfig,
    /// Detectors by name; the name is what alerts carry.
    pub detectors: BTreeMap<String, DetectorConfig>,
}

/// `[stream]`: the Redis Stream that is read, and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Redis server, `redis://[user:password@]host:port[/db]`, with TLS `rediss://…`, or `redis+unix:///path`.
    pub url: String,
    /// PEM file of the authority that signs the server's certificate; empty = those this machine trusts.
    pub tls_ca: PathBuf,
    /// PEM file of the certificate that shows the server who we are, with its chain; empty = none.
    pub tls_cert: PathBuf,
    /// PEM file of the key to it, not encrypted.
    pub tls_key: PathBuf,
    /// Key of the stream.
    pub key: String,
    /// Consumer group; created if missing.
    pub group: String,
    /// Consumer name. Belongs to the stream, not to the process: a restarted host goes on under it.
    pub consumer: String,
    /// Where a group that is created begins: `earliest`, `latest` or an entry id.
    pub start: Start,
    /// Most entries in one read.
    pub batch: usize,
    /// Longest wait for new entries before looking again, ms.
    pub block_ms: u64,
    /// How long the right to read outlives a host that hangs, ms. A stand-by takes over after it.
    pub lease_ms: u64,
    /// What another consumer of the group holds without touching it for this long is taken over, ms.
    pub claim_idle_ms: u64,
    /// How often an entry may end hosts, its first delivery included, before it becomes a dead letter; 0 = never. Later
    /// ends count while it alone is processed: that of a host that was stuck on it as one, a sudden one as a third.
    pub max_deliveries: u64,
    /// Longest silence of the server while an answer is waited for, ms.
    pub timeout_ms: u64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            key: "ticks:intraday:processed".into(),
            group: "scanner_group".into(),
            consumer: "tickhound".into(),
            start: Start::Earliest,
            // From about 500 on the server is the limit; more only makes what is redone after a crash larger.
            batch: 500,
            block_ms: 2000,
            lease_ms: 5000,
            claim_idle_ms: 60_000,
            max_deliveries: 5,
            timeout_ms: 3000,
        }
    }
}

impl StreamConfig {
    /// The server's address without user and password, for messages.
    pub fn address(&self) -> &str {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        // In front of a host, and behind the path of a socket: `?pass=…`.
        let address = match scheme.ends_with("unix") {
            true => rest,
            false => rest.rsplit_once('@').map_or(rest, |(_, address)| address),
        };
        address.split(['?', '#']).next().unwrap_or(address)
    }
}

/// Where a new consumer group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Start {
    /// With the oldest entry that the stream still holds.
    Earliest,
    /// With what is added from now on.
    Latest,
    /// After this entry.
    After(EntryId),
}

impl TryFrom<String> for Start {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            id => id.parse().map(Self::After).map_err(|_| {
                format!("`{id}`: expected \"earliest\", \"latest\" or an entry id such as \"1700000000000-0\"")
            }),
        }
    }
}

impl From<Start> for String {
    fn from(start: Start) -> Self {
        match start {
            Start::Earliest => "earliest".into(),
            Start::Latest => "latest".into(),
            Start::After(id) => id.to_string(),
        }
    }
}

/// `[engine]`: threads and queues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Worker threads; 0 = one per core.
    pub workers: usize,
    /// Most ticks between read and commit. Bounds memory, and what is worked again after a crash.
    pub backlog: usize,
    /// What detectors know is saved about this often, ms; less often where saving takes long, more
    /// often where many ticks come.
    pub checkpoint_every_ms: u64,
    /// Seconds between two progress lines in the log; 0 = none.
    pub report_every: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        // Four reads: one being read, two being worked, one being committed.
        Self { workers: 0, backlog: 2000, checkpoint_every_ms: 5000, report_every: 5 }
    }
}

impl EngineConfig {
    /// Number of worker threads: as configured, or one per core.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, Into::into),
            n => n,
        }
    }
}

/// `[plugins]`: the folder of `.wasm` files and the limits each instance gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginsConfig {
    /// Folder, relative to the project root.
    pub dir: PathBuf,
    /// How changes of that folder and of the configuration are noticed while the host runs.
    pub watch: Watch,
    /// Whether a link that leads out of the folder is followed.
    pub follow_links: bool,
    /// Folder for compiled plugins, relative to `dir`; empty = they are compiled at each start.
    pub cache: PathBuf,
    /// Most memory of one instance (one detector in one worker), MiB.
    pub memory_max_mib: usize,
    /// Most processor time that one call may use, ms, for each thousand rows begun. What other programs use does not
    /// count.
    pub call_deadline_ms: u64,
    /// Most processor time that a detector may use to start, ms.
    pub start_deadline_ms: u64,
    /// So many faults of a detector within `fault_window_s` are borne; at one more it is given no ticks for a
    /// while.
    pub faults: usize,
    /// See `faults`, seconds.
    pub fault_window_s: u64,
    /// A detector that starts without a state of its own is first shown, without alerts, what the stream
    /// holds of the so many seconds before its newest entry; 0 = it starts cold.
    pub rewarm_s: u64,
}

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// The system tells at once, and a look every second sees what it does not tell.
    Auto,
    /// By looking every second only.
    Poll,
    /// Not at all.
    Off,
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            dir: "plugins".into(),
            watch: Watch::Auto,
            follow_links: false,
            cache: ".cache".into(),
            memory_max_mib: 64,
            // A batch is a matter of a millisecond. One that looped has been stopped by then before anyone
            // else is late.
            call_deadline_ms: 100,
            // Interpreters that come as a component take seconds.
            start_deadline_ms: 10_000,
            faults: 3,
            fault_window_s: 60,
            rewarm_s: 86_400,
        }
    }
}

/// `[alerts]`: where alerts go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// Redis Stream that alerts are added to, in the same step that acknowledges their ticks. Of one group only.
    pub stream: String,
    /// Alerts that the stream keeps, about; 0 = all.
    pub maxlen: usize,
    /// An alert that comes later than this after its entry's arrival is marked as stale, ms; 0 = none is.
    pub stale_after_ms: u64,
    /// Redis Stream for alerts of shadows; it keeps as many.
    pub shadow_stream: String,
    /// Write a `DETECTED` line to the log for each.
    pub log: bool,
    /// Also for each stale one; else the log only tells how many there were.
    pub log_stale: bool,
    /// File that gets a JSON line for each, relative to the project root; empty = none.
    pub jsonl: PathBuf,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            stream: "alerts:intraday".into(),
            shadow_stream: "alerts:intraday:shadow".into(),
            maxlen: 100_000,
            // Above any pause that a busy day brings, below what makes an intraday alert worthless.
            stale_after_ms: 60_000,
            log: true,
            log_stale: false,
            jsonl: PathBuf::new(),
        }
    }
}

/// `[dead_letters]`: entries and ticks that were set aside, with the reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// Letters that are kept, about; 0 = all.
    pub maxlen: usize,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self { maxlen: 100_000 }
    }
}

/// `[service]`: running in the background.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// Tells which process runs in the background, relative to the project root; locked while it does.
    pub pid_file: PathBuf,
    /// Its log, relative to the project root.
    pub log_file: PathBuf,
    /// A new log is begun when it would become larger than this, MiB.
    pub log_max_mib: u64,
    /// So many logs of before are kept, as `log_file.1` (the newest), `log_file.2`, …
    pub log_keep: u32,
    /// A new log is begun each day of `input.timezone` as well.
    pub log_daily: bool,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            pid_file: "run/tickhound.pid".into(),
            log_file: "logs/tickhound.log".into(),
            // Some days of a busy market, and together less than anyone's disk.
            log_max_mib: 64,
            log_keep: 10,
            log_daily: false,
        }
    }
}

/// `[detectors.NAME]`: one configured use of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectorConfig {
    /// File name in the plugins folder, without `.wasm`.
    pub plugin: String,
    /// Whether ticks are given to it.
    pub enabled: bool,
    /// Symbols it sees; `*` stands for any text, `?` for one character.
    pub symbols: Vec<String>,
    /// The detector that it runs beside, its alerts kept apart; empty = it is live.
    pub shadow_of: String,
    /// Detections below this confidence are dropped; 0..=1.
    pub min_confidence: f64,
    /// After an alert of a symbol and direction, further ones are held back for so much event time, seconds; 0 = none is.
    pub cooldown_s: f64,
    /// Alerts beyond so many in a minute of event time, all symbols together, are held back; 0 = none is.
    pub max_alerts_per_minute: u64,
    /// The plugin's own parameters; what is left out has the plugin's default.
    pub params: toml::Table,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            plugin: String::new(),
            enabled: true,
            symbols: vec!["*".into()],
            shadow_of: String::new(),
            min_confidence: 0.6,
            cooldown_s: 0.0,
            max_alerts_per_minute: 0,
            params: toml::Table::new(),
        }
    }
}

/// A configuration with the place it came from.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// What the file and the environment say.
    pub config: Config,
    /// Finds the line of a key, for messages.
    pub source: Source,
    /// Paths in the file are relative to this: the folder that holds the file,
    /// or that folder's parent when the folder is called `config`.
    pub root: PathBuf,
}

impl LoadedConfig {
    /// `path` as the configuration means it.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

/// Reads `file`, applies `TICKHOUND_SECTION__KEY` variables, validates.
///
/// # Errors
/// A sentence with file, line, column, what was expected and the nearest valid name.
pub fn load(file: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<LoadedConfig> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!("can't read {}: run tickhound in the project's folder, or name the file with --config", file.display())
    })?;
    parse(file, text, environment)
}

/// The configuration that ships with Tickhound, from its text.
///
/// # Errors
/// When the text is not valid; a test sees to it that it is.
pub fn shipped(text: &str) -> Result<LoadedConfig> {
    parse(Path::new(DEFAULT_FILE), text.to_owned(), std::iter::empty())
}

/// A configuration from its text, as if `file` held it.
///
/// # Errors
/// As [`load`].
pub fn parse_text(file: &Path, text: &str) -> Result<LoadedConfig> {
    parse(file, text.to_owned(), std::iter::empty())
}

fn parse(file: &Path, text: String, environment: impl Iterator<Item = (String, String)>) -> Result<LoadedConfig> {
    let source = Source::parse(file, text)?;
    let mut config = source.config(environment)?;
    validate(&config, &source)?;
    let root = project_root(file);
    let StreamConfig { tls_ca, tls_cert, tls_key, .. } = &mut config.stream;
    let told = config.notify.iter_mut().flat_map(|sink| [&mut sink.url_file, &mut sink.token_file, &mut sink.tls_ca]);
    let files = [tls_ca, tls_cert, tls_key].into_iter().chain(told);
    for file in files.filter(|file| !file.as_os_str().is_empty()) {
        *file = root.join(&file);
    }
    Ok(LoadedConfig { config, root, source })
}

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

fn validate(config: &Config, source: &Source) -> Result<()> {
    let StreamConfig { key, group, consumer, batch, block_ms, lease_ms, timeout_ms, .. } = &config.stream;
    for (name, value) in [("key", key), ("group", group), ("consumer", consumer)] {
        ensure!(!value.is_empty(), "{}: stream.{name} is empty", source.at(&["stream", name]));
    }
    let [certificate, key] = [&config.stream.tls_cert, &config.stream.tls_key].map(|file| !file.as_os_str().is_empty());
    let (given, missing) = if certificate { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
    let at = source.at(&["stream", given]);
    ensure!(certificate == key, "{at}: stream.{given} is of no use without stream.{missing}: name both or none");
    let ranges = [
        ("stream", "batch", *batch as u64, 1, 10_000),
        ("stream", "block_ms", *block_ms, 10, 60_000),
        ("stream", "lease_ms", *lease_ms, 500, 600_000),
        ("stream", "timeout_ms", *timeout_ms, 100, 600_000),
        ("stream", "max_deliveries", config.stream.max_deliveries, 0, 1_000_000),
        ("engine", "checkpoint_every_ms", config.engine.checkpoint_every_ms, 10, 3_600_000),
        ("engine", "backlog", config.engine.backlog as u64, 1, BACKLOG_MAX as u64),
        ("service", "log_max_mib", config.service.log_max_mib, 1, 1_000_000),
        ("service", "log_keep", u64::from(config.service.log_keep), 0, 1000),
        ("plugins", "call_deadline_ms", config.plugins.call_deadline_ms, 1, 600_000),
        ("plugins", "start_deadline_ms", config.plugins.start_deadline_ms, 1, 600_000),
        ("plugins", "faults", config.plugins.faults as u64, 0, 1_000_000),
        ("plugins", "fault_window_s", config.plugins.fault_window_s, 1, 86_400),
        ("plugins", "rewarm_s", config.plugins.rewarm_s, 0, 31_536_000),
    ];
    for (section, key, value, least, most) in ranges {
        let at = source.at(&[section, key]);
        ensure!((least..=most).contains(&value), "{at}: {section}.{key} is {value}, expected {least} to {most}");
    }
    let memory = config.plugins.memory_max_mib;
    let at = source.at(&["plugins", "memory_max_mib"]);
    ensure!((1..=4096).contains(&memory), "{at}: plugins.memory_max_mib is {memory}, expected 1 to 4096");
    for (key, file) in [("pid_file", &config.service.pid_file), ("log_file", &config.service.log_file)] {
        let at = source.at(&["service", key]);
        ensure!(file.file_name().is_some(), "{at}: service.{key} is `{}`, expected a file", file.display());
    }
    for (key, stream) in [("stream", &config.alerts.stream), ("shadow_stream", &config.alerts.shadow_stream)] {
        ensure!(!stream.is_empty(), "{}: alerts.{key} is empty", source.at(&["alerts", key]));
    }
    config.server.validate(source)?;
    for (name, detector) in &config.detectors {
        let at = |key| source.at(&["detectors", name, key]);
        // The name is part of every alert's id, where `/` separates.
        ensure!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "{}: detector name `{name}`: expected letters, digits, - and _",
            source.at(&["detectors", name])
        );
        ensure!(
            !detector.plugin.is_empty() && !detector.plugin.contains(['/', '\\']),
            "{}: detectors.{name}.plugin is `{}`, expected the name of a file in {} without .wasm",
            at("plugin"),
            detector.plugin,
            config.plugins.dir.display()
        );
        let shadow_of = &detector.shadow_of;
        let followed = config.detectors.get(shadow_of).is_some_and(|live| live.shadow_of.is_empty());
        ensure!(
            shadow_of.is_empty() || (followed && shadow_of != name),
            "{}: detectors.{name}.shadow_of is `{shadow_of}`, expected the name of a detector that is no shadow itself",
            at("shadow_of")
        );
        let confidence = detector.min_confidence;
        ensure!(
            (0.0..=1.0).contains(&confidence),
            "{}: detectors.{name}.min_confidence is {confidence}, expected 0 to 1",
            at("min_confidence")
        );
        let cooldown = detector.cooldown_s;
        ensure!(
            (0.0..=86_400.0).contains(&cooldown),
            "{}: detectors.{name}.cooldown_s is {cooldown}, expected 0 to 86400",
            at("cooldown_s")
        );
        ensure!(
            !detector.symbols.is_empty(),
            "{}: detectors.{name}.symbols is empty; to switch the detector off write enabled = false",
            at("symbols")
        );
    }
    notify::validate(&config.notify, source)
}
