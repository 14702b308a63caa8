//! Which process runs in the background: a file that it keeps locked for as long as it lives.
//!
//! What holds: the lock is the proof of life, not the number in the file. The system drops it when the
//! process ends, however it ends; so a number that meanwhile belongs to another process is never
//! believed, and nobody is stopped in its place.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use tickhound_core::stream::owner::Owner;

/// Somebody who only looks, or has just taken the lock and not yet written, is done long before.
const PATIENCE: Duration = Duration::from_secs(1);

/// A killed process gives back its memory before its lock.
const DYING: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(10);

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The process.
    pub owner: Owner,
    /// The options that it was started with, to start it again.
    pub options: Vec<String>,
}

/// What was found in a pid file's place.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing, or nothing any more: what a process that is gone had left is removed, and given if it could be read.
    Nobody(Option<Left>),
    /// A process that lives.
    Running(Record),
}

/// A file that was left behind.
#[derive(Debug)]
pub(crate) struct Left {
    /// What it said, if that could be read.
    pub record: Option<Record>,
}

/// Held by the process that the file names; removed when it ends in order.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// Names this process in the file, and keeps it locked.
    ///
    /// # Errors
    /// Another process holds it, or it can't be written.
    pub(crate) async fn hold(path: &Path, options: &[String]) -> Result<Self> {
        let explain = || format!("service.pid_file: can't write {}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(explain)?;
        }
        let since = Instant::now();
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let mut file = file.with_context(explain)?;
            match file.try_lock() {
                // One that was removed meanwhile proves nothing to those who come later.
                Ok(()) if is_at(&file, path) => {
                    let record = Record { owner: Owner::current(), options: options.to_vec() };
                    file.set_len(0).and_then(|()| file.write_all(record.to_text().as_bytes())).with_context(explain)?;
                    return Ok(Self { path: path.to_path_buf(), _locked: file });
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::WouldBlock) => match read(&mut file) {
                    Some(Record { owner, .. }) => bail!("{} is held by {owner}", path.display()),
                    None => bail!("{} is held by another process", path.display()),
                },
                Err(TryLockError::Error(error)) => return Err(error).with_context(explain),
            }
        }
    }

    /// Who holds it. A file that nobody holds is removed.
    ///
    /// # Errors
    /// It can't be read, or says nothing that can be understood though somebody holds it.
    pub(crate) async fn look(path: &Path) -> Result<Found> {
        let since = Instant::now();
        loop {
            let mut file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nobody(None)),
                Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
            };
            match (file.try_lock(), read(&mut file)) {
                (Ok(()), record) if is_at(&file, path) => {
                    fs::remove_file(path).with_context(|| format!("can't remove {}", path.display()))?;
                    return Ok(Found::Nobody(Some(Left { record })));
                }
                (Ok(()), _) => {}
                // Its first thread has ended, others are about to.
                (Err(TryLockError::WouldBlock), Some(record)) if record.owner.is_gone() && since.elapsed() < DYING => {}
                (Err(TryLockError::WouldBlock), Some(record)) => return Ok(Found::Running(record)),
                (Err(TryLockError::WouldBlock), None) if since.elapsed() < PATIENCE => {}
                (Err(_), _) => bail!("{} is locked by a process that can't be told from it", path.display()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Still locked: nobody else's can be there.
        let _ = fs::remove_file(&self.path);
    }
}

impl Record {
    /// The number alone in the first line, as other programs expect it.
    fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.owner.pid(), self.owner.to_text(), self.options.join(" "))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let owner = Owner::parse(lines.next()?)?;
        let options = lines.next()?.split_whitespace().map(str::to_owned).collect();
        Some(Self { owner, options })
    }
}

fn read(file: &mut File) -> Option<Record> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Record::parse(&text)
}

/// Whether this open file is the one that stands at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_holds_it_is_known_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/it.pid");
        assert!(matches!(PidFile::look(&path).await.unwrap(), Found::Nobody(None)));
        let held = PidFile::hold(&path, &["--debug".into()]).await.unwrap();
        let Found::Running(record) = PidFile::look(&path).await.unwrap() else { panic!("it is held") };
        assert_eq!(record, Record { owner: Owner::current(), options: vec!["--debug".into()] });
        let refused = PidFile::hold(&path, &[]).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("is held by {}", Owner::current())), "{refused}");
        drop(held);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_was_left_behind_is_removed_whatever_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.pid");
        // Even one that names a living process, and rightly so: it does not hold it.
        let ours = Record { owner: Owner::current(), options: Vec::new() };
        for (text, expected) in [(ours.to_text(), Some(ours)), ("4711".into(), None), (String::new(), None)] {
            fs::write(&path, text).unwrap();
            let Found::Nobody(Some(left)) = PidFile::look(&path).await.unwrap() else { panic!("nobody holds it") };
            assert_eq!(left.record, expected);
            assert!(!path.exists());
        }
    }
}
