//! What happens to alerts once they are committed: log line, JSON lines file.
//!
//! The alerts stream is not a sink: it is written by the commit itself.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tracing::{error, info};

use crate::event::Alert;

/// The sinks that are switched on.
#[derive(Debug, Default)]
pub struct Sinks {
    log: bool,
    jsonl: Option<JsonLines>,
}

#[derive(Debug)]
struct JsonLines {
    path: PathBuf,
    file: File,
    failing: bool,
}

impl Sinks {
    /// Opens what is switched on; `jsonl` is appended to, its folder made if missing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn open(log: bool, jsonl: Option<&Path>) -> Result<Self> {
        let jsonl = jsonl.map(JsonLines::open).transpose()?;
        Ok(Self { log, jsonl })
    }

    /// Tells of alerts that have just been committed.
    pub fn publish(&mut self, alerts: &[Alert]) {
        if self.log {
            for alert in alerts {
                info!(target: "alert", "{}", alert.to_log_line());
            }
        }
        if let (Some(jsonl), false) = (&mut self.jsonl, alerts.is_empty()) {
            jsonl.write(alerts);
        }
    }
}

impl JsonLines {
    fn open(path: &Path) -> Result<Self> {
        let explain = || format!("alerts.jsonl: can't write {}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(explain)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(explain)?;
        end_torn_line(&mut file).with_context(explain)?;
        Ok(Self { path: path.to_path_buf(), file, failing: false })
    }

    fn write(&mut self, alerts: &[Alert]) {
        let lines: String = alerts.iter().map(|alert| alert.to_json() + "\n").collect();
        match self.file.write_all(lines.as_bytes()) {
            Ok(()) => self.failing = false,
            Err(cause) if !self.failing => {
                self.failing = true;
                error!(file = %self.path.display(), %cause, "alerts are missing from the file; the alerts stream has them");
            }
            Err(_) => {}
        }
    }
}

/// Cuts off what a killed process left of its last line.
fn end_torn_line(file: &mut File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut byte = [0];
    while end > 0 {
        file.seek(SeekFrom::Start(end - 1))?;
        file.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            break;
        }
        end -= 1;
    }
    if end < length { file.set_len(end) } else { Ok(()) }
}
