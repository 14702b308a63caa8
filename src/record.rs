//! Writes the stream to daily files, without a group, in a process of its own.
//!
//! What holds: an entry is in the files once, in the order of the stream, whatever ends this process or the server. What was
//! removed from the stream before it was read is a hole, which the log and the file of holes say. Nothing is read that can't
//! be written, so memory is bounded. A disk that is full stops the recording, and nothing else.

mod continuity;
mod day_folder;
mod status;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::{civil::Date, tz::TimeZone};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

pub(crate) use self::status::{RecordStatus, RecordVerdict};
use self::{
    continuity::{Continuity, Hole, HoleCause, PageOutcome},
    day_folder::DayFolder,
    status::RecordState,
};
use tickhound_core::{
    condition::ConditionCode,
    config::{LoadedConfig, is_unset, time_zone},
    event::Entries,
    stream::{StreamError, owner::Owner},
    wall::now_ms,
};
use tickhound_engine::conditions::Conditions;
use tickhound_recorded::day_file::PendingFrame;
use tickhound_redis::StreamTail;

/// The name of the file that the recorder of a folder keeps locked.
pub(crate) const LOCK: &str = "record.pid";

/// The name of the file with a JSON line for each hole.
pub(crate) const HOLES: &str = "holes.log";

/// Entries that are read at once.
const PAGE: usize = 2000;

/// Entries that have waited for this long are written. Those that are not are read again after a kill, so this costs nothing
/// as long as the stream still has them; and a frame of more lines compresses better.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// The pause after the end of the stream was reached: otherwise each entry of a busy stream would be a read of its own.
/// Producers keep thousands of entries, and this is far less than any of them takes to send so many.
const PAUSE: Duration = Duration::from_millis(50);

/// The pause between two attempts to reach the server, or to write.
const RETRY: Duration = Duration::from_secs(1);

/// How often the system is asked to write everything to the disk: what a power cut takes is read again, if the stream still
/// has it.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// How often the status is written.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How often holes are logged: a stream that keeps too little has one between any two reads. The file of holes has them all.
const HOLES_EVERY: Duration = Duration::from_secs(10);

/// How often hosts look at the status.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// The folder of the day files.
///
/// # Errors
/// The configuration names none.
pub(crate) fn folder_of(loaded: &LoadedConfig) -> Result<PathBuf> {
    let dir = &loaded.config.history.dir;
    ensure!(
        !is_unset(dir),
        "history.dir is empty, so there is no folder to record into: name one under `[history]`, such as dir = \"history\""
    );
    Ok(loaded.resolve(dir))
}

/// The zone by whose days the files are divided: that of the default calendar, or the exchange's.
///
/// # Errors
/// The zone does not exist, which loading a configuration rules out.
pub(crate) fn zone_of(loaded: &LoadedConfig) -> Result<TimeZone> {
    let calendar = loaded.config.session.sessions.by_number().next().flatten();
    calendar.map_or_else(|| time_zone(&loaded.config.input.timezone), |calendar| Ok(calendar.zone().clone()))
}

/// Reports, as long as this process lives, what is wrong with the recorder of a folder, if it has had one. On a thread of its
/// own: a network disk that hangs must hold up nothing, and not the end of the host either.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn watch_recorder(folder: PathBuf, conditions: Conditions) -> Result<()> {
    let watch = move || {
        loop {
            std::thread::park_timeout(WATCH_EVERY);
            if let Ok(Some(status)) = RecordStatus::read(&folder) {
                report(&status, &conditions);
            }
        }
    };
    std::thread::Builder::new().name("record-watch".into()).spawn(watch).map(drop).context("failed to start a thread")
}

fn report(status: &RecordStatus, conditions: &Conditions) {
    match status.verdict(now_ms()) {
        RecordVerdict::Failing(text) => {
            conditions.report(ConditionCode::RecordingFailing, "", &text, status.missing);
        }
        RecordVerdict::Recording | RecordVerdict::Stopped => conditions.end(ConditionCode::RecordingFailing, ""),
    }
}

/// A process that records.
pub(crate) struct StreamRecorder {
    folder: PathBuf,
    days: DayFolder,
    tail: StreamTail,
    continuity: Continuity,
    /// The entries of the last page, and how many of them have passed.
    page: Entries,
    passed: usize,
    /// The number of the first entry of the page.
    first_index: Option<u64>,
    /// Whether the last page reached the end of the stream.
    is_at_end: bool,
    pending: PendingFrame,
    /// The day of the pending entries.
    day: Date,
    flush_at: Instant,
    sync_at: Instant,
    /// The most entries of a page: fewer after one that was too large.
    count: usize,
    status: RecordStatus,
    status_at: Instant,
    /// When the next hole may be logged, and how many were not since the last one.
    holes_at: Instant,
    holes_unlogged: u64,
}

impl StreamRecorder {
    /// Opens the files, and finds where to continue.
    ///
    /// # Errors
    /// The folder can't be used, or belongs to another stream.
    pub(crate) fn open(loaded: &LoadedConfig) -> Result<Self> {
        let (config, folder) = (&loaded.config, folder_of(loaded)?);
        let stream = &config.stream.key;
        let mut days =
            DayFolder::new(&folder, stream, zone_of(loaded)?, config.record.keep_days, config.record.free_min_mib);
        let opened = days.resume()?;
        days.remove_old();
        let last = opened.last;
        info!(
            event = "record_started",
            %stream,
            folder = %folder.display(),
            after = last.map(|last| last.id.to_string()),
            "recording the stream"
        );
        let status = RecordStatus {
            owner: Owner::current().to_text(),
            stream: stream.clone(),
            state: RecordState::Recording,
            started_ms: now_ms(),
            last: last.map(|last| last.id.to_string()),
            last_index: last.and_then(|last| last.index),
            ..RecordStatus::default()
        };
        let now = Instant::now();
        let mut recorder = Self {
            tail: StreamTail::new(&config.stream)?,
            folder,
            days,
            continuity: Continuity::resume(opened),
            page: Entries::default(),
            passed: 0,
            first_index: None,
            is_at_end: false,
            pending: PendingFrame::default(),
            day: Date::MIN,
            flush_at: now,
            sync_at: now + SYNC_EVERY,
            count: PAGE,
            status,
            status_at: now,
            holes_at: now,
            holes_unlogged: 0,
        };
        recorder.write_status();
        Ok(recorder)
    }

    /// Records until it is stopped. What was read is then in the files, as far as they can be written.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let pause = self.turn().await;
            if self.status_at <= Instant::now() {
                self.write_status();
            }
            let Some(pause) = pause else { continue };
            tokio::select! {
                // All are cancel-safe; after an error, a wait for entries waits for the server.
                _ = stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep(pause) => {}
            }
            if pause == PAUSE && !self.is_due() {
                tokio::select! {
                    // Both are cancel-safe.
                    _ = stop.wait_for(|stop| *stop) => {}
                    waited = self.tail.wait(self.continuity.cursor()) => {
                        waited.unwrap_or_else(|error| self.note_disconnected(&error));
                    }
                }
            }
        }
        self.pass_page();
        self.flush();
        self.log_further_holes();
        self.status.state = RecordState::Stopped;
        self.status.reason.clear();
        self.write_status();
        if let Err(error) = self.days.sync() {
            warn!(event = "record_sync_failed", %error, "the system failed to write the day file to the disk");
        }
        info!(event = "record_stopped", entries = self.status.entries, last = self.status.last, "stopped recording");
    }

    /// Writes what is due, and reads the next page. Returns how long to pause before the next turn.
    async fn turn(&mut self) -> Option<Duration> {
        if !self.pass_page() || (self.is_due() && !self.flush()) {
            return Some(RETRY);
        }
        self.sync_if_due();
        match self.tail.read(self.continuity.cursor(), self.count).await {
            Ok(page) => {
                self.note_reached();
                let asked = self.count;
                self.count = (self.count * 2).min(PAGE);
                match self.continuity.judge(&page, asked) {
                    PageOutcome::Entries { first_index, holes } => {
                        holes.into_iter().for_each(|hole| self.note_hole(&hole));
                        self.is_at_end = page.entries.len() < asked;
                        (self.page, self.passed, self.first_index) = (page.entries, 0, first_index);
                    }
                    PageOutcome::WentBack { to } => {
                        self.is_at_end = false;
                        warn!(
                            event = "record_stream_went_back",
                            newest = to.map(|id| id.to_string()),
                            recorded = self.status.last,
                            "the stream is older than what was recorded: it was created again, or the server has lost its \
                             last entries; reading it from its beginning, without the entries that are recorded"
                        );
                    }
                }
                let passed = self.pass_page();
                if self.is_at_end && passed {
                    self.continuity.caught_up();
                }
                match (passed, self.is_at_end) {
                    (false, _) => Some(RETRY),
                    (true, true) => Some(PAUSE),
                    (true, false) => None,
                }
            }
            Err(StreamError::TooLarge(_)) if self.count > 1 => {
                self.count = (self.count / 4).max(1);
                None
            }
            Err(error) => {
                self.note_disconnected(&error);
                Some(RETRY)
            }
        }
    }

    /// Whether entries have waited for long enough to be written.
    fn is_due(&self) -> bool {
        !self.pending.is_empty() && (self.pending.is_full() || self.flush_at <= Instant::now())
    }

    /// Moves the entries of the page into frames. Returns false if that must wait, because the files can't be written.
    fn pass_page(&mut self) -> bool {
        let page = std::mem::take(&mut self.page);
        let has_passed = self.pass_entries(&page);
        self.page = page;
        has_passed
    }

    fn pass_entries(&mut self, page: &Entries) -> bool {
        while let Some(entry) = page.get(self.passed) {
            let day = self.days.day_of(entry.id).max(self.day);
            if (self.pending.is_full() || day != self.day) && !self.flush() {
                return false;
            }
            self.day = day;
            let index = self.first_index.map(|first| first + self.passed as u64);
            self.passed += 1;
            let (is_new, hole) = self.continuity.admit(&entry);
            hole.iter().for_each(|hole| self.note_hole(hole));
            if is_new && self.pending.push(&entry, index).is_err() {
                let (after, before) = (entry.id.before(), entry.id);
                self.note_hole(&Hole { after, before, entries: Some(1), cause: HoleCause::TooLarge });
            }
            if self.pending.entries() == 1 {
                self.flush_at = Instant::now() + FLUSH_AFTER;
            }
        }
        true
    }

    /// Writes the pending entries; false if that fails.
    fn flush(&mut self) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        if let Err(error) = self.days.append(self.day, &self.pending) {
            self.note_stalled(&format!("{error:#}"));
            return false;
        }
        if self.status.state == RecordState::Stalled {
            info!(event = "record_resumed", "the day file can be written again; recording goes on");
            self.set_state(RecordState::Recording, "");
        }
        self.status.entries += self.pending.entries();
        if let Some(last) = self.pending.last() {
            (self.status.last, self.status.last_index) = (Some(last.id.to_string()), last.index);
        }
        self.pending.clear();
        true
    }

    fn sync_if_due(&mut self) {
        if self.is_at_end && self.sync_at <= Instant::now() {
            self.sync_at = Instant::now() + SYNC_EVERY;
            if let Err(error) = self.days.sync() {
                debug!(event = "record_sync_delayed", %error, "the system failed to write the day file to the disk");
            }
        }
    }

    fn note_stalled(&mut self, reason: &str) {
        if self.status.state != RecordState::Stalled {
            error!(
                event = "record_stalled",
                reason,
                "the day file can't be written; nothing is read until it can, and what is trimmed meanwhile is lost"
            );
        }
        self.set_state(RecordState::Stalled, reason);
    }

    fn note_disconnected(&mut self, error: &StreamError) {
        if self.status.state == RecordState::Recording {
            self.status.disconnects += 1;
            warn!(event = "record_disconnected", %error, "the server can't be read; trying again every second");
        }
        if self.status.state != RecordState::Stalled {
            self.set_state(RecordState::WaitingForRedis, &error.to_string());
        }
    }

    fn note_reached(&mut self) {
        if self.status.state == RecordState::WaitingForRedis {
            info!(event = "record_reconnected", "reconnected to Redis; recording goes on");
            self.set_state(RecordState::Recording, "");
        }
    }

    fn set_state(&mut self, state: RecordState, reason: &str) {
        if self.status.state != state || self.status.reason != reason {
            self.status.state = state;
            reason.clone_into(&mut self.status.reason);
            self.status_at = Instant::now();
        }
    }

    /// Reports a hole: in the log, in the file of holes, and in the status.
    fn note_hole(&mut self, hole: &Hole) {
        let Hole { after, before, entries, cause } = hole;
        self.status.holes += 1;
        self.status.missing += entries.unwrap_or(0);
        let text = match cause {
            HoleCause::Trimmed => "entries were trimmed from the stream before they were recorded; keep more of them",
            HoleCause::StreamReplaced => "the stream was replaced by another one; what it had last is not recorded",
            HoleCause::TooLarge => "an entry is too large to be recorded",
        };
        if self.holes_at <= Instant::now() {
            self.holes_at = Instant::now() + HOLES_EVERY;
            error!(event = "record_hole", %after, %before, entries, "{text}");
        } else {
            self.holes_unlogged += 1;
        }
        if let Err(error) = write_hole(&self.folder, hole) {
            warn!(event = "record_hole_unwritten", %error, "the hole can't be written to the file of holes");
        }
    }

    /// Logs how many holes there were since the last one that was logged.
    fn log_further_holes(&mut self) {
        if self.holes_unlogged > 0 {
            let (holes, missing) = (std::mem::take(&mut self.holes_unlogged), self.status.missing);
            error!(event = "record_holes_continue", holes, missing, "there are more holes; holes.log has each of them");
        }
    }

    fn write_status(&mut self) {
        self.status_at = Instant::now() + STATUS_EVERY;
        if self.holes_at <= Instant::now() {
            self.log_further_holes();
        }
        let current = self.days.current();
        self.status.file_bytes = current.as_ref().map_or(0, |(_, bytes)| *bytes);
        self.status.file = current.map(|(file, _)| file);
        if let Err(error) = self.status.write(&self.folder) {
            debug!(event = "record_status_failed", %error, "failed to write the status of the recorder");
        }
    }
}

/// Appends a line to the file of holes.
fn write_hole(folder: &Path, hole: &Hole) -> std::io::Result<()> {
    let mut line = json!({ "at_ms": now_ms() });
    if let (Some(line), serde_json::Value::Object(hole)) = (line.as_object_mut(), serde_json::to_value(hole)?) {
        line.extend(hole);
    }
    let mut file = OpenOptions::new().append(true).create(true).open(folder.join(HOLES))?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Creates the folder of the day files, if it is missing.
///
/// # Errors
/// It can't be created.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("history.dir: can't create {}", folder.display()))
}
