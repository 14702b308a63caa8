//! The folder of day files: which file an entry belongs to, how much room there is, and which files are too old.
//!
//! What holds: days go forward only, whatever the ids of entries are; and only files that a recorder of this stream wrote are
//! ever deleted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::{ToSpan, civil::Date, tz::TimeZone};
use tracing::{info, warn};

use tickhound_core::{event::EntryId, text::printable, wall::now_ms};
use tickhound_recorded::day_file::{DayFile, ENDING, OpenedDay, PendingFrame, stream_of};

/// The files of a recorder, and the one that it writes.
pub(super) struct DayFolder {
    folder: PathBuf,
    stream: String,
    zone: TimeZone,
    keep_days: u32,
    free_min_bytes: u64,
    current: Option<(Date, DayFile)>,
}

impl DayFolder {
    pub(super) fn new(folder: &Path, stream: &str, zone: TimeZone, keep_days: u32, free_min_mib: u64) -> Self {
        Self {
            folder: folder.to_path_buf(),
            stream: stream.to_owned(),
            zone,
            keep_days,
            free_min_bytes: free_min_mib.saturating_mul(1 << 20),
            current: None,
        }
    }

    /// Opens the newest file, to continue in it. Returns where the recording ends, which may be in an older file.
    ///
    /// # Errors
    /// A file can't be written, or belongs to another stream.
    pub(super) fn resume(&mut self) -> Result<OpenedDay> {
        let mut days = days_in(&self.folder).with_context(|| format!("can't read {}", self.folder.display()))?;
        days.sort();
        for date in days.into_iter().rev() {
            let (file, opened) = self.open(date)?;
            if self.current.is_none() {
                self.current = Some((date, file));
            }
            if opened.last.is_some() {
                return Ok(opened);
            }
        }
        Ok(OpenedDay::default())
    }

    /// The day whose file an entry belongs to: that of its arrival, by its id. Ids that are not times belong to the present
    /// day. No entry goes into a file before that of the entry before it.
    pub(super) fn day_of(&self, id: EntryId) -> Date {
        let millis = if id.millis < EntryId::TIMES_FROM_MS { now_ms() } else { id.millis };
        let day = self.date(millis).unwrap_or(Date::MAX);
        self.current.as_ref().map_or(day, |(current, _)| day.max(*current))
    }

    /// Appends a frame to the file of a day, or nothing. Returns the bytes that it takes.
    ///
    /// # Errors
    /// There is too little room, or the file can't be written.
    pub(super) fn append(&mut self, day: Date, frame: &PendingFrame) -> Result<u64> {
        self.check_room()?;
        if self.current.as_ref().is_none_or(|(current, _)| *current != day) {
            if let Some((before, file)) = &self.current {
                file.sync().with_context(|| format!("can't write {}", self.path(*before).display()))?;
            }
            let (file, _) = self.open(day)?;
            info!(event = "record_file_began", file = %self.path(day).display(), "recording into a new day file");
            self.current = Some((day, file));
            self.remove_old();
        }
        let path = self.path(day);
        if self.current.as_ref().is_some_and(|(_, file)| !file.is_at(&path)) {
            warn!(
                event = "record_file_gone",
                file = %path.display(),
                "another program has removed or renamed the day file; recording goes on in a new one"
            );
            self.current = Some((day, self.open(day)?.0));
        }
        let Some((_, file)) = &mut self.current else { return Ok(0) };
        file.append(frame).with_context(|| format!("can't write {}", path.display()))
    }

    /// Has the system write everything to the disk.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |(_, file)| file.sync())
    }

    /// The file that is written, and its length.
    pub(super) fn current(&self) -> Option<(PathBuf, u64)> {
        self.current.as_ref().map(|(date, file)| (self.path(*date), file.length()))
    }

    /// Removes the files that are older than they are kept. The present day is the earlier one of the clock's and the
    /// entries': one of them that is wrong must not empty the folder.
    pub(super) fn remove_old(&self) {
        let Some((newest, _)) = &self.current else { return };
        let today = self.date(now_ms()).unwrap_or(*newest).min(*newest);
        let kept = i64::from(self.keep_days).saturating_sub(1);
        let Some(first_kept) = (self.keep_days > 0).then(|| today.checked_sub(kept.days()).ok()).flatten() else {
            return;
        };
        for date in days_in(&self.folder).unwrap_or_default().into_iter().filter(|date| *date < first_kept) {
            let path = self.path(date);
            let is_ours = stream_of(&path).is_ok_and(|stream| stream.as_ref() == Some(&self.stream));
            match is_ours.then(|| fs::remove_file(&path)) {
                None => {}
                Some(Ok(())) => info!(
                    event = "record_file_removed",
                    file = %path.display(),
                    "removed a day file that is older than record.keep_days"
                ),
                Some(Err(error)) => warn!(
                    event = "record_file_stays",
                    file = %path.display(),
                    %error,
                    "can't remove a day file that is older than record.keep_days"
                ),
            }
        }
    }

    /// Whether the disk has as much room as it must keep.
    fn check_room(&self) -> Result<()> {
        let disk =
            rustix::fs::statvfs(&self.folder).with_context(|| format!("can't read {}", self.folder.display()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        anyhow::ensure!(
            free >= self.free_min_bytes,
            "the disk of {} has {} MiB left, and record.free_min_mib keeps {} MiB free for others: free some space, or lower \
             record.keep_days",
            self.folder.display(),
            free >> 20,
            self.free_min_bytes >> 20
        );
        Ok(())
    }

    fn open(&self, date: Date) -> Result<(DayFile, OpenedDay)> {
        let path = self.path(date);
        let (file, opened) = DayFile::open(&path, &self.stream).with_context(|| path.display().to_string())?;
        if opened.torn_bytes > 0 {
            warn!(
                event = "record_tail_cut",
                file = %path.display(),
                bytes = opened.torn_bytes,
                "cut off the part of a frame that a recorder left when it ended; its entries are read again"
            );
        }
        Ok((file, opened))
    }

    fn path(&self, date: Date) -> PathBuf {
        self.folder.join(format!("{date}{ENDING}"))
    }

    fn date(&self, millis: u64) -> Option<Date> {
        let time = jiff::Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()?;
        Some(self.zone.to_datetime(time).date())
    }
}

/// The days that have a file in a folder.
fn days_in(folder: &Path) -> io::Result<Vec<Date>> {
    let mut days = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let Some(date) = name.strip_suffix(ENDING) else { continue };
        match date.parse::<Date>() {
            // Not `20251103` or another form: those are files of others.
            Ok(parsed) if parsed.to_string() == date => days.push(parsed),
            _ => warn!(
                event = "record_file_ignored",
                file = %printable(&name),
                "ignored a file whose name is not a date"
            ),
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use tickhound_core::event::Entries;

    use super::*;

    /// 2025-11-03, 09:15 in India.
    const OPEN_MS: u64 = 1_762_141_500_000;
    const DAY_MS: u64 = 86_400_000;

    fn folder(path: &Path, keep_days: u32) -> DayFolder {
        DayFolder::new(path, "ticks", TimeZone::get("Asia/Kolkata").unwrap(), keep_days, 0)
    }

    fn record(folder: &mut DayFolder, millis: u64) -> Date {
        let mut entries = Entries::default();
        entries.push_entry(EntryId { millis, seq: 0 });
        entries.push_field(b"data", b"{}");
        let (mut frame, entry) = (PendingFrame::default(), entries.get(0).unwrap());
        frame.push(&entry, None).unwrap();
        let day = folder.day_of(entry.id);
        folder.append(day, &frame).unwrap();
        day
    }

    #[test]
    fn a_day_ends_at_midnight_of_the_zone_and_never_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut days = folder(dir.path(), 0);
        assert_eq!(record(&mut days, OPEN_MS).to_string(), "2025-11-03");
        // 23:59:59.999 and midnight in India, which are on one day in UTC.
        assert_eq!(record(&mut days, OPEN_MS + 53_099_999).to_string(), "2025-11-03");
        assert_eq!(record(&mut days, OPEN_MS + 53_100_000).to_string(), "2025-11-04");
        assert_eq!(record(&mut days, OPEN_MS).to_string(), "2025-11-04");
        let mut again = folder(dir.path(), 0);
        assert_eq!(again.resume().unwrap().last.unwrap().id.millis, OPEN_MS);
        assert_eq!(again.day_of(EntryId { millis: OPEN_MS, seq: 0 }).to_string(), "2025-11-04");
    }

    /// A producer that chooses ids can name any day, and a machine without a battery begins in 1970.
    #[test]
    fn old_files_are_removed_and_a_wrong_clock_removes_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut days = folder(dir.path(), 3);
        for day in 0..5 {
            record(&mut days, OPEN_MS + day * DAY_MS);
        }
        fs::write(dir.path().join("2025-01-01.jsonl.zst"), "of a user").unwrap();
        let names = || {
            let mut names: Vec<String> = days_in(dir.path()).unwrap().iter().map(ToString::to_string).collect();
            names.sort();
            names
        };
        days.remove_old();
        assert_eq!(names(), ["2025-01-01", "2025-11-05", "2025-11-06", "2025-11-07"]);
        // The entries are of the year 2100; the clock is not.
        record(&mut days, 4_102_444_800_000);
        let today = days.date(now_ms()).unwrap();
        let gone = names().iter().filter(|name| name.parse::<Date>().unwrap() < today).count();
        assert!(gone <= 4 && names().contains(&"2100-01-01".to_owned()));
        assert!(dir.path().join("2025-01-01.jsonl.zst").exists());
    }

    /// A file without a name takes lines until it is closed, and then they are gone.
    #[test]
    fn a_file_that_was_removed_is_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut days = folder(dir.path(), 0);
        record(&mut days, OPEN_MS);
        fs::remove_file(dir.path().join("2025-11-03.jsonl.zst")).unwrap();
        record(&mut days, OPEN_MS + 1);
        assert_eq!(folder(dir.path(), 0).resume().unwrap().last.unwrap().id.millis, OPEN_MS + 1);
        fs::remove_dir_all(dir.path()).unwrap();
        let mut frame = PendingFrame::default();
        let mut entries = Entries::default();
        entries.push_entry(EntryId { millis: OPEN_MS + 2, seq: 0 });
        frame.push(&entries.get(0).unwrap(), None).unwrap();
        assert!(days.append(days.day_of(entries.get(0).unwrap().id), &frame).is_err());
    }

    #[test]
    fn a_disk_with_too_little_room_is_not_filled() {
        let dir = tempfile::tempdir().unwrap();
        let mut days = DayFolder::new(dir.path(), "ticks", TimeZone::UTC, 0, u64::MAX);
        let error = days.append(Date::MIN, &PendingFrame::default()).unwrap_err().to_string();
        assert!(error.contains("record.free_min_mib"), "{error}");
        assert_eq!(days_in(dir.path()).unwrap(), []);
    }
}
