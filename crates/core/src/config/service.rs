//! `[service]`: running in the background, and the clocks that people see.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section, zone::time_zone};

/// `[service]`: running in the background, and the clocks that people see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// The file that names the background process, relative to the project root. The process holds a lock on it.
    pub pid_file: PathBuf,
    /// The log of the background process, relative to the project root.
    pub log_file: PathBuf,
    /// The size at which a new log file begins, MiB. With `log_keep` files, the default holds some days of a busy
    /// market.
    pub log_max_mib: u64,
    /// The number of earlier log files to retain, as `log_file.1` (the newest), `log_file.2`, …
    pub log_keep: u32,
    /// Whether a new log file also begins each day in `timezone`.
    pub log_daily: bool,
    /// The IANA time zone of the times that people see: in the log, on the page, in reports and messages. Empty:
    /// `input.timezone`, which is the exchange's.
    pub timezone: String,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            pid_file: "run/tickhound.pid".into(),
            log_file: "logs/tickhound.log".into(),
            log_max_mib: 64,
            log_keep: 10,
            log_daily: false,
            timezone: String::new(),
        }
    }
}

impl ServiceConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["service"]);
        section.check_range("log_max_mib", self.log_max_mib, 1..=1_000_000)?;
        section.check_range("log_keep", self.log_keep, 0..=1000)?;
        let zone = &self.timezone;
        ensure!(
            zone.is_empty() || time_zone(zone).is_ok(),
            "{}: service.timezone is `{zone}`, expected a zone such as Asia/Kolkata or UTC, or nothing",
            section.at("timezone")
        );
        section.check_file("pid_file", &self.pid_file)?;
        section.check_file("log_file", &self.log_file)
    }
}
