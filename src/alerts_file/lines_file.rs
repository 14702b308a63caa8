//! A file of lines that one process appends to.
//!
//! What holds: a write adds whole lines, or nothing. Half a line that a killed process or a full disk has left
//! is cut off before anything is appended.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::service::is_trusted;
use tickhound_redis::RecentIds;

/// Limits the ids that are remembered: as many as the busiest market raises in some minutes, which is more than a failover
/// takes back.
const KNOWN_MAX: usize = 50_000;

/// Bytes at the end of a file that are read to find its position in the stream: some 50,000 alerts.
const TAIL_MAX: u64 = 16 << 20;

/// The result of locking a file.
#[derive(Debug)]
pub(super) enum Lock {
    /// This process writes the file.
    Ours,
    /// Another process writes it.
    Held,
    /// The file can't be locked, so two processes may write it.
    Impossible(io::Error),
    /// The file is no longer at its path, and no new one can be created there.
    Gone(io::Error),
}

/// The end of a file.
#[derive(Debug)]
pub(super) struct Tail {
    /// The ids of its last alerts.
    pub(super) known: RecentIds,
    /// Alerts that were published before this time do not belong into the file, ms since the Unix epoch. It is used
    /// where no id is known.
    pub(super) since_ms: u64,
}

/// A file of lines; a pipe or a device is written without a lock.
#[derive(Debug)]
pub(super) struct LinesFile {
    path: PathBuf,
    file: File,
    /// Half a line begins here: a write has failed, and so has cutting it off.
    torn_at: Option<u64>,
    /// When an empty file was created. Truncating it must not make it newer.
    created: Option<SystemTime>,
}

/// The part of a line that identifies its alert.
#[derive(Deserialize)]
struct Line {
    id: Option<String>,
}

/// Creates an empty set for the ids of a file's last alerts.
pub(super) fn known_ids() -> RecentIds {
    RecentIds::new(KNOWN_MAX)
}

impl LinesFile {
    /// Opens the file; creates it and its folder if they are missing.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open(path).with_context(|| format!("alerts.jsonl: can't write {}", path.display()))?;
        Ok(Self { path: path.to_path_buf(), file, torn_at: None, created: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a regular file, not a pipe or a device.
    pub(super) fn is_regular(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// Tries to become the only writer.
    pub(super) fn lock(&mut self) -> Lock {
        if !self.is_regular() {
            return Lock::Ours;
        }
        match self.file.try_lock() {
            Ok(()) if self.is_at_path() => Lock::Ours,
            // It was moved or deleted while another process had it.
            Ok(()) => match open(&self.path) {
                Ok(file) => {
                    self.file = file;
                    Lock::Held
                }
                // Lines written to the open file, which has no name, would be lost.
                Err(error) => Lock::Gone(error),
            },
            Err(TryLockError::WouldBlock) => Lock::Held,
            Err(TryLockError::Error(error)) => Lock::Impossible(error),
        }
    }

    /// Opens the file at the path if that is another one by now, or if there is none any more: lines that are written to a
    /// file without a name are lost. The new one is not locked. Returns whether it was opened.
    ///
    /// # Errors
    /// No file can be created at the path.
    pub(super) fn reopen_if_gone(&mut self) -> io::Result<bool> {
        if !self.is_regular() || self.is_at_path() {
            return Ok(false);
        }
        self.file = open(&self.path)?;
        (self.torn_at, self.created) = (None, None);
        Ok(true)
    }

    /// Cuts off half a line at the end, and returns the last whole ones.
    pub(super) fn recover(&mut self) -> io::Result<Tail> {
        let metadata = self.file.metadata()?;
        if !metadata.is_file() {
            return Ok(Tail { known: known_ids(), since_ms: millis(SystemTime::now()) });
        }
        let (length, changed) = (metadata.len(), metadata.modified()?);
        let start = length.saturating_sub(TAIL_MAX);
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(start))?;
        (&self.file).take(length - start).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        // An empty file counts from its last change; half a first line was written after the file's creation.
        let created = if length == 0 { changed } else { metadata.created().unwrap_or(changed).min(changed) };
        self.created = (start == 0 && whole == 0).then_some(created);
        if whole < tail.len() {
            self.cut(start + whole as u64)?;
        }
        let mut lines = tail[..whole].split(|byte| *byte == b'\n');
        if start > 0 {
            // The first piece is most likely the end of a line.
            lines.next();
        }
        let mut known = known_ids();
        let ids = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()?.id);
        ids.for_each(|id| _ = known.insert(&id));
        Ok(Tail { known, since_ms: millis(self.created.unwrap_or(changed)) })
    }

    /// Appends these lines, or nothing.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(length) = self.torn_at {
            self.cut(length)?;
        }
        // Asked each time: another program may have truncated the file meanwhile.
        let metadata = self.file.metadata()?;
        let Err(error) = self.file.write_all(lines) else { return Ok(()) };
        if metadata.is_file() {
            self.torn_at = Some(metadata.len());
            let _ = self.cut(metadata.len());
        }
        Err(error)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.torn_at = None;
        if let (0, Some(created)) = (length, self.created) {
            let _ = self.file.set_modified(created);
        }
        Ok(())
    }

    /// Whether the file at the path is still the one that is open.
    fn is_at_path(&self) -> bool {
        let (Ok(open), Ok(at_path)) = (self.file.metadata(), fs::metadata(&self.path)) else { return false };
        (open.dev(), open.ino()) == (at_path.dev(), at_path.ino())
    }
}

/// Opens the file. A link is followed, since users point the file to a pipe or another disk, unless another user of this
/// machine has put it there.
fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if let Ok(at_path) = fs::symlink_metadata(path)
        && at_path.is_symlink()
        && !is_trusted(at_path.uid())
    {
        let owner = at_path.uid();
        return Err(io::Error::other(format!("it is a link that another user ({owner}) has made; remove it")));
    }
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(path: &Path) -> Tail {
        LinesFile::open(path).unwrap().recover().unwrap()
    }

    /// The link of another user would have made the host append to any file of its own user.
    #[test]
    fn only_a_link_of_ones_own_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("alerts.jsonl"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        LinesFile::open(&path).unwrap();
        assert!(target.exists());
        // Only the superuser can make a link another user's.
        if std::os::unix::fs::lchown(&path, Some(4711), None).is_ok() {
            let error = format!("{:#}", LinesFile::open(&path).unwrap_err());
            assert!(error.contains("another user (4711)"), "{error}");
        }
    }

    #[test]
    fn a_torn_line_is_cut_off_and_whole_ones_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(100_000);
        let whole = format!("{{\"id\":\"{long}\"}}\n");
        let cases = [
            (String::new(), "", vec![]),
            (
                "{\"id\":\"1\"}\nno JSON\n{\"id\":\"2\"}\n{\"id".to_owned(),
                "{\"id\":\"1\"}\nno JSON\n{\"id\":\"2\"}\n",
                vec!["1", "2"],
            ),
            ("{\"id\":\"1\"}\n".to_owned(), "{\"id\":\"1\"}\n", vec!["1"]),
            ("{\"id".to_owned(), "", vec![]),
            (format!("{whole}{long}"), whole.as_str(), vec![long.as_str()]),
        ];
        for (number, (text, left, ids)) in cases.into_iter().enumerate() {
            let path = dir.path().join(number.to_string());
            fs::write(&path, &text).unwrap();
            let tail = tail_of(&path);
            assert!(ids.iter().all(|id| tail.known.contains(id)) && tail.known.is_empty() == ids.is_empty());
            assert_eq!(fs::read_to_string(&path).unwrap(), left);
        }
    }

    #[test]
    fn truncating_an_empty_file_does_not_change_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        let created = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::write(&path, "").unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(created).unwrap();
        let mut file = LinesFile::open(&path).unwrap();
        assert_eq!(file.recover().unwrap().since_ms, 1_000_000_000);
        // As a write that fails halfway does.
        file.file.write_all(b"{\"id").unwrap();
        file.cut(0).unwrap();
        assert_eq!(tail_of(&path).since_ms, 1_000_000_000);
    }

    #[test]
    fn a_write_that_fails_leaves_no_half_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        let mut file = LinesFile::open(&path).unwrap();
        file.append(b"{\"id\":\"1\"}\n").unwrap();
        file.file.write_all(b"{\"id\":\"2").unwrap();
        file.torn_at = Some(11);
        file.append(b"{\"id\":\"2\"}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"id\":\"1\"}\n{\"id\":\"2\"}\n");
    }

    /// The folder was removed while another process had the file: lines went into a file that no longer had a name.
    #[test]
    fn a_file_that_is_gone_is_not_written_until_it_can_be_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out");
        let path = folder.join("alerts");
        let mut file = LinesFile::open(&path).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "no folder").unwrap();
        assert!(matches!(file.lock(), Lock::Gone(_)));
        assert!(matches!(file.lock(), Lock::Gone(_)));
        fs::remove_file(&folder).unwrap();
        assert!(matches!(file.lock(), Lock::Held), "it is opened, and locked the next time");
        assert!(matches!(file.lock(), Lock::Ours));
        assert!(path.exists());
    }

    #[test]
    fn one_process_writes_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts");
        let (mut one, mut other) = (LinesFile::open(&path).unwrap(), LinesFile::open(&path).unwrap());
        assert!(matches!(one.lock(), Lock::Ours));
        assert!(matches!(other.lock(), Lock::Held));
        // The lock goes with its holder; a file that was moved is not the one to write to.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        drop(one);
        assert!(matches!(other.lock(), Lock::Held));
        assert!(matches!(other.lock(), Lock::Ours));
        assert!(path.exists());
    }
}
