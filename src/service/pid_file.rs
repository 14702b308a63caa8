//! The pid file of a background host, which the host keeps locked for as long as it lives.
//!
//! What holds: the lock proves that the process is alive, not the number in the file. The system releases the lock when
//! the process ends, however it ends. So a number that belongs to another process by now is never trusted, and no other
//! process is stopped by mistake.

use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::own_file::{OwnFileUse, create_folder_of, open_own};
use tickhound_core::stream::owner::Owner;

/// A process that inspects the file, or has just locked it and not yet written to it, needs less than this.
const BRIEF_LOCK_MAX: Duration = Duration::from_secs(1);

/// A killed process frees its memory before its lock, which may take this long.
const EXIT_MAX: Duration = Duration::from_secs(10);

const POLL_EVERY: Duration = Duration::from_millis(10);

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The process that wrote it.
    pub owner: Owner,
    /// The options that the process was started with, to start it again.
    pub options: Vec<String>,
}

/// Which process holds a pid file.
#[derive(Debug)]
pub(crate) enum Holder {
    /// There is no pid file.
    Nobody,
    /// A process that ended without removing the file. The file is removed now; `None` if it could not be read.
    Gone(Option<Record>),
    /// A process that is alive.
    Running(Record),
}

/// The locked pid file of this process; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// Records this process in the file, and locks it.
    ///
    /// # Errors
    /// Another process holds the file, or it can't be written.
    pub(crate) async fn acquire(path: &Path, options: &[String]) -> Result<Self> {
        let explain = || format!("can't write the pid file {}", path.display());
        create_folder_of(path).with_context(explain)?;
        let since = Instant::now();
        loop {
            let file = open_own(path, OwnFileUse::Replace);
            let mut file = file.with_context(explain)?;
            match file.try_lock() {
                // A file that was removed meanwhile is invisible to processes that start later.
                Ok(()) if is_at(&file, path) => {
                    let record = Record { owner: Owner::current(), options: options.to_vec() };
                    file.set_len(0).and_then(|()| file.write_all(record.to_text().as_bytes())).with_context(explain)?;
                    return Ok(Self { path: path.to_path_buf(), _locked: file });
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if since.elapsed() < BRIEF_LOCK_MAX => {
                    tokio::time::sleep(POLL_EVERY).await;
                }
                Err(TryLockError::WouldBlock) => match read(&mut file) {
                    Some(Record { owner, .. }) => bail!("{} is held by {owner}", path.display()),
                    None => bail!("{} is held by another process", path.display()),
                },
                Err(TryLockError::Error(error)) => return Err(error).with_context(explain),
            }
        }
    }

    /// Which process holds the file. A file that no process holds is removed.
    ///
    /// # Errors
    /// The file can't be read, or a process holds it but its content is invalid.
    pub(crate) async fn inspect(path: &Path) -> Result<Holder> {
        let since = Instant::now();
        loop {
            let mut file = match open_own(path, OwnFileUse::Read) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holder::Nobody),
                Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
            };
            match (file.try_lock(), read(&mut file)) {
                (Ok(()), record) if is_at(&file, path) => {
                    fs::remove_file(path).with_context(|| format!("can't remove {}", path.display()))?;
                    return Ok(Holder::Gone(record));
                }
                (Ok(()), _) => {}
                // The first thread of the process has ended, and the others are about to.
                (Err(TryLockError::WouldBlock), Some(record))
                    if record.owner.is_gone() && since.elapsed() < EXIT_MAX => {}
                (Err(TryLockError::WouldBlock), Some(record)) => return Ok(Holder::Running(record)),
                (Err(TryLockError::WouldBlock), None) if since.elapsed() < BRIEF_LOCK_MAX => {}
                (Err(_), _) => bail!("{} is locked by a process that it does not name", path.display()),
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It is still locked, so the file can't belong to another process.
        let _ = fs::remove_file(&self.path);
    }
}

impl Record {
    /// The first line has the number alone, as other programs expect it.
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

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(at_path)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (at_path.dev(), at_path.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_holder_is_known_until_the_file_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/it.pid");
        assert!(matches!(PidFile::inspect(&path).await.unwrap(), Holder::Nobody));
        let held = PidFile::acquire(&path, &["--debug".into()]).await.unwrap();
        let Holder::Running(record) = PidFile::inspect(&path).await.unwrap() else { panic!("it is held") };
        assert_eq!(record, Record { owner: Owner::current(), options: vec!["--debug".into()] });
        let error = PidFile::acquire(&path, &[]).await.unwrap_err().to_string();
        assert!(error.contains(&format!("is held by {}", Owner::current())), "{error}");
        drop(held);
        assert!(!path.exists());
    }

    /// A link in place of the pid file made the host empty the file that it points to.
    #[tokio::test]
    async fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("it.pid"), dir.path().join("target"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        for error in [PidFile::acquire(&path, &[]).await.unwrap_err(), PidFile::inspect(&path).await.unwrap_err()] {
            assert!(format!("{error:#}").contains("it is a link"), "{error:#}");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_file_that_no_process_holds_is_removed_whatever_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.pid");
        // Also one that names a living process, since that process does not hold it.
        let ours = Record { owner: Owner::current(), options: Vec::new() };
        for (text, expected) in [(ours.to_text(), Some(ours)), ("4711".into(), None), (String::new(), None)] {
            fs::write(&path, text).unwrap();
            let Holder::Gone(record) = PidFile::inspect(&path).await.unwrap() else { panic!("no process holds it") };
            assert_eq!(record, expected);
            assert!(!path.exists());
        }
    }
}
