//! What happens to alerts once they are committed: log line, JSON lines file.
//!
//! The log is for people, for whom an alert that comes long after its tick is no news: of stale ones
//! it only tells how many there were. The file has them all.
//!
//! The alerts stream is not a sink: it is written by the commit itself.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tracing::{error, info};

use crate::{config::AlertsConfig, event::Alert};

/// How often at most the log tells how many alerts it left out.
const TELL_LATE_EVERY: Duration = Duration::from_secs(1);

/// The sinks that are switched on.
#[derive(Debug, Default)]
pub struct Sinks {
    log: bool,
    /// Leaves stale alerts out of the log.
    late: Option<Late>,
    jsonl: Option<JsonLines>,
}

/// Stale alerts that the log has not told of yet.
#[derive(Debug)]
struct Late {
    alerts: u64,
    told: Option<Instant>,
    /// Where they are instead.
    places: String,
}

#[derive(Debug)]
struct JsonLines {
    path: PathBuf,
    file: File,
    failing: bool,
}

impl Sinks {
    /// Opens what is switched on; the file `jsonl` is appended to, its folder made if missing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn open(config: &AlertsConfig, jsonl: Option<&Path>) -> Result<Self> {
        let places = match jsonl {
            Some(file) => format!("{} and {}", config.stream, file.display()),
            None => config.stream.clone(),
        };
        let late = (config.log && !config.log_stale).then_some(Late { alerts: 0, told: None, places });
        let jsonl = jsonl.map(JsonLines::open).transpose()?;
        Ok(Self { log: config.log, late, jsonl })
    }

    /// Goes on as `config` says; the file is the same as before unless it is another one.
    ///
    /// # Errors
    /// When the file can't be written; then nothing has changed.
    pub fn reopen(&mut self, config: &AlertsConfig, jsonl: Option<&Path>) -> Result<()> {
        let same = self.jsonl.as_ref().map(|open| open.path.as_path()) == jsonl;
        let mut next = Self::open(config, jsonl.filter(|_| !same))?;
        if same {
            next.jsonl = self.jsonl.take();
        }
        *self = next;
        Ok(())
    }

    /// Id of the last alert in the file: a host that was killed between a commit and this sink has
    /// left the file behind the alerts stream, perhaps in the middle of a line.
    pub fn last_in_file(&mut self) -> Option<String> {
        let jsonl = self.jsonl.as_mut()?;
        let line = settle_end(&mut jsonl.file).ok()??;
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        Some(line.get("id")?.as_str()?.to_owned())
    }

    /// Adds lines that the file has missed.
    pub fn catch_up(&mut self, lines: Vec<String>) {
        if let (Some(jsonl), false) = (&mut self.jsonl, lines.is_empty()) {
            let (alerts, file) = (lines.len(), jsonl.path.display());
            info!(alerts, %file, "added alerts that an earlier run had committed but not written");
            jsonl.append(lines.into_iter());
        }
    }

    /// Tells of alerts that have just been committed.
    pub fn publish(&mut self, alerts: &[Alert]) {
        if self.log {
            for alert in alerts {
                match &mut self.late {
                    Some(late) if alert.stale => late.alerts += 1,
                    _ => info!(target: "alert", "{}", alert.to_log_line()),
                }
            }
        }
        self.tell_late();
        if let (Some(jsonl), false) = (&mut self.jsonl, alerts.is_empty()) {
            jsonl.write(alerts);
        }
    }
}

impl Sinks {
    /// Says how many alerts the log has left out, unless it said so a moment ago.
    pub fn tell_late(&mut self) {
        if let Some(late) = &mut self.late
            && late.told.is_none_or(|told| told.elapsed() >= TELL_LATE_EVERY)
        {
            late.tell();
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.late.iter_mut().for_each(Late::tell);
    }
}

impl Late {
    fn tell(&mut self) {
        let Self { alerts, places, .. } = self;
        if *alerts > 0 {
            info!(target: "alert", "{alerts} late alerts are in {places} only (alerts.log_stale)");
            (self.alerts, self.told) = (0, Some(Instant::now()));
        }
    }
}

impl JsonLines {
    fn open(path: &Path) -> Result<Self> {
        let explain = || format!("alerts.jsonl: can't write {}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(explain)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(explain)?;
        Ok(Self { path: path.to_path_buf(), file, failing: false })
    }

    fn write(&mut self, alerts: &[Alert]) {
        self.append(alerts.iter().map(Alert::to_json));
    }

    fn append(&mut self, lines: impl Iterator<Item = String>) {
        let lines: String = lines.map(|line| line + "\n").collect();
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

/// The end of a file of lines is read in pieces of this size, from the back.
const TAIL_STEP: u64 = 64 * 1024;

/// Cuts off what a killed process left of its last line, and returns the last whole one.
fn settle_end(file: &mut File) -> std::io::Result<Option<String>> {
    let length = file.metadata()?.len();
    let (mut start, mut tail) = (length, Vec::new());
    // Until a whole line is in hand: one that begins after a line's end, or with the file.
    while start > 0 && tail.iter().filter(|byte| **byte == b'\n').count() < 2 {
        start = start.saturating_sub(TAIL_STEP);
        file.seek(SeekFrom::Start(start))?;
        tail.clear();
        file.read_to_end(&mut tail)?;
    }
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < tail.len() {
        file.set_len(start + whole as u64)?;
    }
    let last = tail[..whole].split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    Ok(last.map(|line| String::from_utf8_lossy(line).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off_and_the_last_whole_one_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(100_000);
        let cases = [
            (String::new(), "", None),
            ("{\"id\":\"1\"}\n{\"id\":\"2\"}\n{\"id".to_owned(), "{\"id\":\"1\"}\n{\"id\":\"2\"}\n", Some("2")),
            ("{\"id\":\"1\"}\n".to_owned(), "{\"id\":\"1\"}\n", Some("1")),
            ("{\"id".to_owned(), "", None),
            (format!("{{\"id\":\"{long}\"}}\n{long}"), "same", Some(long.as_str())),
        ];
        for (number, (text, left, last)) in cases.into_iter().enumerate() {
            let path = dir.path().join(number.to_string());
            fs::write(&path, &text).unwrap();
            let mut sinks = Sinks::open(&AlertsConfig::default(), Some(&path)).unwrap();
            assert_eq!(sinks.last_in_file().as_deref(), last);
            let expected = if left == "same" { format!("{{\"id\":\"{long}\"}}\n") } else { left.to_owned() };
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        }
    }
}
