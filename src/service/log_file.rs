//! A log in a file, of which a new one is begun when it has become large, or a day old.
//!
//! What holds: a line is in one file, whole. A line that can't be written never stops whoever logs; how
//! many there were, and why, is the first thing that is written when it can be again. What another
//! program has moved away or deleted is opened anew within a second, so `logrotate` needs no signal.
//!
//! The crates for this let lines go silently where a file can't be opened, or write on a thread that
//! drops what it can't keep up with.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use tickhound_core::config::ServiceConfig;

/// How often it is looked whether the file is still there, and how large it is: panics are written to it too.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After one that could not be put aside: so long it grows, before that is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// Written to by one thread, a line at a time.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// Whose days count; `None` = no day does.
    zone: Option<TimeZone>,
    /// Whether what goes to stderr goes here as well.
    takes_stderr: bool,
    /// `None` while it can't be opened.
    file: Option<File>,
    size: u64,
    day: Date,
    look_at: Instant,
    rotate_after: Instant,
    lost: u64,
    cause: String,
}

impl LogFile {
    /// Appends to the file; its folder is made if missing.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn open(path: &Path, config: &ServiceConfig, timezone: &str) -> Result<Self> {
        let explain = || format!("can't write the log {}", path.display());
        let zone = config.log_daily.then(|| TimeZone::get(timezone)).transpose().with_context(explain)?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(explain)?;
        }
        let mut log = Self {
            path: path.to_path_buf(),
            max_bytes: config.log_max_mib << 20,
            keep: config.log_keep,
            zone,
            takes_stderr: false,
            file: None,
            size: 0,
            day: Date::default(),
            look_at: Instant::now(),
            rotate_after: Instant::now(),
            lost: 0,
            cause: String::new(),
        };
        log.open_again().with_context(explain)?;
        Ok(log)
    }

    /// From now on stderr, where panics go, is this file, also after the next one is begun.
    pub fn take_stderr(&mut self) {
        self.takes_stderr = true;
        self.redirect();
    }

    /// Opens the file by its name again.
    pub fn reopen(&mut self) {
        if let Err(error) = self.open_again() {
            self.cause = error.to_string();
        }
    }

    /// Adds a line, or counts it as lost.
    pub fn append(&mut self, line: &[u8]) {
        let now = Instant::now();
        if self.look_at <= now {
            self.look_at = now + LOOK_EVERY;
            self.look(line);
        }
        if self.size > 0 && self.size + line.len() as u64 > self.max_bytes {
            self.rotate(line);
        }
        if let Err(error) = self.tell_lost(line).and_then(|()| self.write(line)) {
            self.cause = error.to_string();
            self.lost += 1;
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other(self.cause.clone()))?;
        file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// In the form of `line`, which comes behind it; what was written last may be half a line.
    fn tell_lost(&mut self, line: &[u8]) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let message = format!("{} lines of this log could not be written: {}", self.lost, self.cause);
        let note = in_form_of(line, "ERROR", "log_lines_lost", &message);
        self.write(&[b"\n", note.as_slice()].concat())?;
        self.lost = 0;
        Ok(())
    }

    /// Whether it is still the file of that name, of today, and as large as we think; `line` comes next.
    fn look(&mut self, line: &[u8]) {
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = fs::metadata(&self.path).ok();
        match (open, there) {
            (Some(open), Some(there)) if (open.dev(), open.ino()) == (there.dev(), there.ino()) => {
                self.size = there.len();
            }
            _ => self.reopen(),
        }
        let today = self.day_of(SystemTime::now());
        if today != self.day && self.size > 0 {
            self.rotate(line);
        }
        self.day = today;
    }

    fn open_again(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let metadata = file.metadata()?;
        self.size = metadata.len();
        self.day = self.day_of(metadata.modified()?);
        self.file = Some(file);
        self.redirect();
        Ok(())
    }

    fn redirect(&self) {
        if let (true, Some(file)) = (self.takes_stderr, &self.file) {
            // Where that fails, panics are told where they were told before.
            let _ = rustix::stdio::dup2_stderr(file);
        }
    }

    /// Puts the file aside and begins another. Where that fails this one goes on, and says so in the form of `line`.
    fn rotate(&mut self, line: &[u8]) {
        let now = Instant::now();
        if now < self.rotate_after {
            return;
        }
        if let Err(error) = self.put_aside().and_then(|()| self.open_again()) {
            self.rotate_after = now + ROTATE_AGAIN;
            let message = format!("failed to start a new log file; continuing this one: {error}");
            let _ = self.write(&in_form_of(line, "ERROR", "log_rotation_failed", &message));
        }
    }

    fn put_aside(&self) -> io::Result<()> {
        let aside = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev().filter(|number| aside(*number).exists()) {
            fs::rename(aside(number), aside(number + 1))?;
        }
        fs::rename(&self.path, aside(1))
    }

    fn day_of(&self, time: SystemTime) -> Date {
        let (Some(zone), Ok(time)) = (&self.zone, Timestamp::try_from(time)) else { return Date::default() };
        zone.to_datetime(time).date()
    }
}

/// A line about the log itself, JSON or text as the line `model` is.
pub(super) fn in_form_of(model: &[u8], level: &str, event: &str, message: &str) -> Vec<u8> {
    let now = Timestamp::now();
    let line = match model.first() {
        Some(b'{') => {
            let timestamp = now.to_string();
            serde_json::json!({ "timestamp": timestamp, "level": level, "event": event, "message": message })
                .to_string()
        }
        _ => format!("{now} {level:>5} {message} event=\"{event}\""),
    };
    (line + "\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, keep: u32, daily: bool) -> LogFile {
        let config = ServiceConfig { log_keep: keep, log_daily: daily, ..ServiceConfig::default() };
        let mut log = LogFile::open(path, &config, "Asia/Kolkata").unwrap();
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
    fn lines_stay_whole_and_the_newest_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/it.log");
        let mut log = log(&path, 2, false);
        let lines: Vec<String> = (0..20).map(|number| format!("line {number:034}")).collect();
        lines.iter().for_each(|line| write(&mut log, line));
        // Two lines of 40 bytes to a file.
        let kept = [".2", ".1", ""].map(|suffix| read(&path, suffix)).concat();
        assert_eq!(kept.lines().collect::<Vec<_>>(), lines[14..].iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!dir.path().join("logs/it.log.3").exists());
        // What was there at the start counts.
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
        log.look_at = Instant::now();
        write(&mut log, "today");
        write(&mut log, "later");
        assert_eq!((read(&path, ".1"), read(&path, "")), ("yesterday\n".into(), "today\nlater\n".into()));
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 2, false);
        write(&mut log, "one");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.reopen();
        write(&mut log, "two");
        fs::remove_file(&path).unwrap();
        log.look_at = Instant::now();
        write(&mut log, "three");
        assert_eq!(read(&path, ""), "three\n");
    }

    /// It was plain text once, whatever the form of the log, so that a reader of JSON stumbled.
    #[test]
    fn a_rotation_that_fails_is_told_in_the_form_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 1, false);
        let line = format!("{{\"message\":\"{:060}\"}}", 1);
        write(&mut log, &line);
        // In the way of the file that is put aside.
        fs::create_dir_all(dir.path().join("it.log.1/occupied")).unwrap();
        write(&mut log, &line);
        let text = read(&path, "");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
        assert_eq!((lines.len(), events), (3, vec!["log_rotation_failed"]), "{text}");
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let mut log = log(&path, 2, false);
        write(&mut log, "one");
        // Every write to it fails as on a full disk.
        log.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
        log.look_at = Instant::now() + Duration::from_secs(60);
        write(&mut log, "two");
        write(&mut log, "three");
        log.reopen();
        write(&mut log, "four");
        let text = read(&path, "");
        assert!(text.starts_with("one\n") && text.ends_with("\nfour\n"), "{text}");
        assert!(text.contains("ERROR 2 lines of this log could not be written: No space left on device"), "{text}");
    }

    /// In a JSON log this one line was text.
    #[test]
    fn a_log_that_can_not_be_put_aside_goes_on_and_says_so_in_its_form() {
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
        assert_eq!([lines[0], lines[2]], [line.as_str(); 2]);
        let note: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!((note["event"].as_str(), note["level"].as_str()), (Some("log_not_rotated"), Some("ERROR")));
    }
}
