//! `[plugins]`: the folder of `.wasm` files, and the limits of each instance.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// `[plugins]`: the folder of `.wasm` files and the limits each instance gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginsConfig {
    /// The plugins folder, relative to the project root.
    pub dir: PathBuf,
    /// How the host notices changes of that folder and of the configuration.
    pub watch: Watch,
    /// Whether a `.wasm` file may be a link that leads out of the folder.
    pub follow_links: bool,
    /// The folder for compiled plugins. `auto`: in the cache folder of the service (`CACHE_DIRECTORY`) or of the user
    /// (`XDG_CACHE_HOME`, or `~/.cache`). A path is relative to `dir`. Empty: plugins are compiled at each start.
    pub cache: PathBuf,
    /// The public keys of minisign whose signatures of plugins are trusted. A plugin with a wrong signature is rejected.
    pub trusted_keys: Vec<String>,
    /// Whether a plugin without a signature of a trusted key is rejected, too.
    pub require_signed: bool,
    /// Whether a file `X.next.wasm` starts a shadow of each detector with the plugin `X`.
    pub allow_next: bool,
    /// The maximum size of a plugin's file, MiB. A Python interpreter has 18.
    pub file_max_mib: u64,
    /// The maximum processor time for the check of a plugin, of which compilation takes the largest part, seconds. A
    /// Python interpreter takes 13.
    pub compile_deadline_s: u64,
    /// The maximum memory for the check of a plugin, MiB. A Python interpreter takes 360.
    pub compile_memory_max_mib: u64,
    /// The maximum memory of one instance, which is one detector in one worker, MiB: all of its linear memories and tables
    /// together. It also limits the size of all states together that the instance saves.
    pub memory_max_mib: usize,
    /// The maximum size of a detector's saved state of one symbol, KiB. The detectors that ship need less than 12; the
    /// default has room for a window of 30,000 prices.
    pub state_max_kib: usize,
    /// The maximum processor time of one call for each thousand rows begun, ms. A batch takes about a millisecond, so
    /// that 100 stop an endless loop before anyone notices a delay.
    pub call_deadline_ms: u64,
    /// The maximum processor time that a detector may use to start, ms. Interpreters that are compiled into a
    /// component take seconds.
    pub start_deadline_ms: u64,
    /// The number of faults within `fault_window_s` that a detector may have; the next one quarantines it.
    pub faults: usize,
    /// The length of the window in which faults are counted, seconds.
    pub fault_window_s: u64,
    /// How much of the stream's end a detector without a saved state replays, without alerts, before it sees new
    /// ticks, seconds. 0: it starts cold. The default of a day covers what intraday detectors remember.
    pub rewarm_s: u64,
    /// How many sessions before the present one a detector without a saved state is shown from the files of `[history]`
    /// before the stream. 0: none. The default of a week of trading covers what baselines over days need.
    pub rewarm_sessions: u32,
}

/// How the host notices changes of plugins and configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// The operating system reports changes at once; a check every second catches those it does not report.
    Auto,
    /// Only the check every second.
    Poll,
    /// Changes are not noticed.
    Off,
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            dir: "plugins".into(),
            watch: Watch::Auto,
            follow_links: false,
            cache: "auto".into(),
            trusted_keys: Vec::new(),
            require_signed: false,
            allow_next: false,
            file_max_mib: 64,
            compile_deadline_s: 120,
            compile_memory_max_mib: 2048,
            memory_max_mib: 64,
            state_max_kib: 256,
            call_deadline_ms: 100,
            start_deadline_ms: 10_000,
            faults: 3,
            fault_window_s: 60,
            rewarm_s: 86_400,
            rewarm_sessions: 5,
        }
    }
}

impl PluginsConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["plugins"]);
        section.check_range("call_deadline_ms", self.call_deadline_ms, 1..=600_000)?;
        section.check_range("start_deadline_ms", self.start_deadline_ms, 1..=600_000)?;
        section.check_range("faults", self.faults, 0..=1_000_000)?;
        section.check_range("fault_window_s", self.fault_window_s, 1..=86_400)?;
        section.check_range("rewarm_s", self.rewarm_s, 0..=31_536_000)?;
        section.check_range("rewarm_sessions", self.rewarm_sessions, 0..=1000)?;
        section.check_range("state_max_kib", self.state_max_kib, 1..=65_536)?;
        section.check_range("memory_max_mib", self.memory_max_mib, 1..=4096)?;
        section.check_range("file_max_mib", self.file_max_mib, 1..=1024)?;
        section.check_range("compile_deadline_s", self.compile_deadline_s, 1..=3600)?;
        section.check_range("compile_memory_max_mib", self.compile_memory_max_mib, 256..=65_536)?;
        ensure!(
            !self.require_signed || !self.trusted_keys.is_empty(),
            "{}: plugins.require_signed is true, but plugins.trusted_keys is empty: name the keys that sign plugins",
            section.at("require_signed")
        );
        Ok(())
    }
}
