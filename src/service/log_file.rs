//! A log file that is rotated by size and by day.
//!
//! What holds: a line is whole, and in one file. A line that can't be written never blocks the code that logs; the
//! first line after it says how many were lost, and why. A file that another program has moved or deleted is reopened
//! within a second, so `logrotate` needs no signal.
//!
//! The crates for this silently drop lines where a file can't be opened, or where their thread can't keep up.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::own_file::{OwnFileUse, create_folder_of, open_own};
use crate::clock;
use tickhound_core::{config::ServiceConfig, text::printable};

/// How often to check whether the file still exists and how large it is: panics are written to it too.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long the file grows after a failed rotation before the next attempt.
const ROTATION_RETRY: Duration = Duration::from_secs(60);

/// A log file that one thread writes, one line at a time.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// The time zone of the days by which the log is rotated; `None` = by size only.
    zone: Option<TimeZone>,
    /// Whether stderr is redirected to this file.
    takes_stderr: bool,
    /// `None` while it can't be opened.
    file: Option<File>,
    size: u64,
    day: Date,
    check_at: Instant,
    rotate_after: Instant,
    lost: u64,
    cause: String,
}

impl LogFile {
    /// Opens the file to append to it. A missing folder is created.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn open(path: &Path, config: &ServiceConfig, zone: TimeZone) -> Result<Self> {
        let explain = || format!("can't write the log {}", path.display());
        let zone = config.log_daily.then_some(zone);
        create_folder_of(path).with_context(explain)?;
        let mut log = Self {
            path: path.to_path_buf(),
            max_bytes: config.log_max_mib << 20,
            keep: config.log_keep,
            zone,
            takes_stderr: false,
            file: None,
            size: 0,
            day: Date::default(),
            check_at: Instant::now(),
            rotate_after: Instant::now(),
            lost: 0,
            cause: String::new(),
        };
        log.try_reopen().with_context(explain)?;
        Ok(log)
    }

    /// Redirects stderr, where panics go, to this file, and to its successors.
    pub(crate) fn take_stderr(&mut self) {
        self.takes_stderr = true;
        self.redirect();
    }

    /// Reopens the file by its name.
    pub(crate) fn reopen(&mut self) {
        if let Err(error) = self.try_reopen() {
            self.cause = error.to_string();
        }
    }

    /// Appends a line, or counts it as lost.
    pub(crate) fn append(&mut self, line: &[u8]) {
        let now = Instant::now();
        if self.check_at <= now {
            self.check_at = now + CHECK_EVERY;
            self.check(line);
        }
        if self.size > 0 && self.size + line.len() as u64 > self.max_bytes {
            self.rotate(line);
        }
        if let Err(error) = self.write_lost(line).and_then(|()| self.write(line)) {
            self.cause = error.to_string();
            self.lost += 1;
        }
    }

    /// How many lines could not be written since one could, and why; `None` if there are none.
    pub(crate) fn failure(&self) -> Option<(u64, &str)> {
        (self.lost > 0).then_some((self.lost, self.cause.as_str()))
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other(self.cause.clone()))?;
        file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// Writes how many lines were lost, in the form of `line`, which follows.
    fn write_lost(&mut self, line: &[u8]) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let message = format!("{} lines of this log could not be written: {}", self.lost, self.cause);
        let note = in_form_of(line, "ERROR", "log_lines_lost", &message);
        // The last write may have left half a line.
        self.write(&[b"\n", note.as_slice()].concat())?;
        self.lost = 0;
        Ok(())
    }

    /// Reopens the file if it was moved or deleted, and rotates it at the end of a day; `line` is written next.
    fn check(&mut self, line: &[u8]) {
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let at_path = fs::symlink_metadata(&self.path).ok();
        match (open, at_path) {
            (Some(open), Some(at_path)) if (open.dev(), open.ino()) == (at_path.dev(), at_path.ino()) => {
                self.size = at_path.len();
            }
            _ => self.reopen(),
        }
        let today = self.day_of(SystemTime::now());
        if today != self.day && self.size > 0 {
            self.rotate(line);
        }
        self.day = today;
    }

    fn try_reopen(&mut self) -> io::Result<()> {
        let file = open_own(&self.path, OwnFileUse::Append)?;
        let metadata = file.metadata()?;
        self.size = metadata.len();
        self.day = self.day_of(metadata.modified()?);
        self.file = Some(file);
        self.redirect();
        Ok(())
    }

    fn redirect(&self) {
        if let (true, Some(file)) = (self.takes_stderr, &self.file) {
            // If this fails, panics go where they went before.
            let _ = rustix::stdio::dup2_stderr(file);
        }
    }

    /// Renames the file and starts another. If that fails, this file continues, with a line about it in the form of
    /// `line`.
    fn rotate(&mut self, line: &[u8]) {
        let now = Instant::now();
        if now < self.rotate_after {
            return;
        }
        if let Err(error) = self.rename().and_then(|()| self.try_reopen()) {
            self.rotate_after = now + ROTATION_RETRY;
            let message = format!("failed to start a new log file; continuing this one: {error}");
            let _ = self.write(&in_form_of(line, "ERROR", "log_rotation_failed", &message));
        }
    }

    fn rename(&self) -> io::Result<()> {
        let older = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev().filter(|number| older(*number).exists()) {
            fs::rename(older(number), older(number + 1))?;
        }
        fs::rename(&self.path, older(1))
    }

    fn day_of(&self, time: SystemTime) -> Date {
        let (Some(zone), Ok(time)) = (&self.zone, Timestamp::try_from(time)) else { return Date::default() };
        zone.to_datetime(time).date()
    }
}

/// A line about the log itself, in JSON or text like the line `model`.
pub(super) fn in_form_of(model: &[u8], level: &str, event: &str, message: &str) -> Vec<u8> {
    let now = clock::log_now();
    let line = match model.first() {
        Some(b'{') => {
            serde_json::json!({ "timestamp": now, "level": level, "event": event, "message": message }).to_string()
        }
        _ => format!("{now} {level:>5} {} event=\"{event}\"", printable(message)),
    };
    (line + "\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, keep: u32, daily: bool) -> LogFile {
        let config = ServiceConfig { log_keep: keep, log_daily: daily, ..ServiceConfig::default() };
        let mut log = LogFile::open(path, &config, TimeZone::get("Asia/Kolkata").unwrap()).unwrap();
        log.max_bytes = 100;
        log
    }

    fn write(log: &mut LogFile, line: &str) {
        log.append(format!("{line}\n").as_bytes());
    }

    fn read(path: &Path, suffix: &str) -> String {
        fs::read_to_string(format!("{}{suffix}", path.display())).unwrap_or_default()
    }

    #[test]
    fn lines_are_whole_and_the_newest_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/it.log");
        let mut log = log(&path, 2, false);
        let lines: Vec<String> = (0..20).map(|number| format!("line {number:034}")).collect();
        lines.iter().for_each(|line| write(&mut log, line));
        // Two lines of 40 bytes to a file.
        let written = [".2", ".1", ""].map(|suffix| read(&path, suffix)).concat();
        assert_eq!(written.lines().collect::<Vec<_>>(), lines[14..].iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!dir.path().join("logs/it.log.3").exists());
        // The size at the start counts.
        drop(log);
        let mut log = self::log(&path, 2, false);
        write(&mut log, "more than there is room for");
        assert_eq!(read(&path, ""), "more than there is room for\n");
    }

    #[test]
    fn a_day_of_the_market_has_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 2, true);
        write(&mut log, "yesterday");
        log.day = log.day.yesterday().unwrap();
        log.check_at = Instant::now();
        write(&mut log, "today");
        write(&mut log, "later");
        assert_eq!((read(&path, ".1"), read(&path, "")), ("yesterday\n".into(), "today\nlater\n".into()));
    }

    #[test]
    fn a_file_that_was_moved_is_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 2, false);
        write(&mut log, "one");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.reopen();
        write(&mut log, "two");
        fs::remove_file(&path).unwrap();
        log.check_at = Instant::now();
        write(&mut log, "three");
        assert_eq!(read(&path, ""), "three\n");
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_and_logged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 2, false);
        write(&mut log, "one");
        // Every write to it fails as on a full disk.
        log.file = Some(fs::OpenOptions::new().append(true).open("/dev/full").unwrap());
        log.check_at = Instant::now() + Duration::from_secs(60);
        write(&mut log, "two");
        write(&mut log, "three");
        log.reopen();
        write(&mut log, "four");
        let text = read(&path, "");
        assert!(text.starts_with("one\n") && text.ends_with("\nfour\n"), "{text}");
        assert!(text.contains("ERROR 2 lines of this log could not be written: No space left on device"), "{text}");
    }

    /// A link that appeared in place of the log, as at a rotation, made the host write into another file.
    #[test]
    fn a_link_in_place_of_the_log_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("it.log"), dir.path().join("target"));
        let mut log = log(&path, 2, false);
        write(&mut log, "one");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        log.check_at = Instant::now();
        write(&mut log, "two");
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(read(&dir.path().join("moved"), ""), "one\ntwo\n", "no line is lost");
        let error = format!("{:#}", LogFile::open(&path, &ServiceConfig::default(), TimeZone::UTC).unwrap_err());
        assert!(error.contains("can't write the log") && error.contains("it is a link"), "{error}");
    }

    /// In a JSON log this one line was text.
    #[test]
    fn a_log_that_can_not_be_rotated_continues_with_a_line_in_its_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 1, false);
        // A folder of that name can't be replaced.
        fs::create_dir(dir.path().join("it.log.1")).unwrap();
        let line = format!("{{\"number\":\"{:070}\"}}", 1);
        write(&mut log, &line);
        write(&mut log, &line);
        let text = read(&path, "");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[2]), (3, line.as_str(), line.as_str()));
        let note: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!((note["event"].as_str(), note["level"].as_str()), (Some("log_rotation_failed"), Some("ERROR")));
    }
}
