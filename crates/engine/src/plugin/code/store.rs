//! Files that only this user's hosts have written: compiled plugins, and the results of trials.
//!
//! What holds: a file is used only if its contents and its name are authenticated with a key of this user. So a folder that
//! comes with an archive, and one that others can write to, contain nothing that is used. The folder is opened once, and
//! its files are opened relative to it, without following links. A file that is incomplete, damaged, in another format, or
//! written by somebody else is removed. Several hosts may share the folder: a file is written under a temporary name and
//! renamed.

use std::{
    ffi::OsStr,
    fs::{DirBuilder, File, Metadata, Permissions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use hmac::{Hmac, Mac};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use sha2::Sha256;
use tracing::warn;

/// The first line of a file, with the version of its format. The authentication code of everything behind it follows.
const FORMAT: &[u8] = b"tickhound checked file 2\n";

/// The length of an authentication code, bytes.
const CODE_LENGTH: usize = 32;

/// The length of the key, bytes.
const KEY_LENGTH: usize = 32;

/// The time of a use is updated once a day, which is precise enough to find unused files.
const USE_UPDATED_AFTER: Duration = Duration::from_secs(86_400);

/// The maximum size of all files together. Beyond that, the least recently used ones are removed. A compiled plugin has a
/// few hundred KB.
const BYTES_MAX: u64 = 512 << 20;

/// The folder of files, and the key that authenticates them.
pub(super) struct Store {
    dir: File,
    key: [u8; KEY_LENGTH],
}

impl Store {
    /// Opens the folder `dir` and the key in the file `key`. Both are made if they are missing, and closed to all other
    /// users.
    ///
    /// # Errors
    /// Fails when one of them can't be written to, is a link, or belongs to another user.
    pub(super) fn open(dir: &Path, key: &Path) -> Result<Self> {
        let key = read_or_make_key(key).with_context(|| format!("can't use the key {}", key.display()))?;
        Ok(Self { dir: open_closed_to_others(dir)?, key })
    }

    /// Reads a file if it exists, is undamaged, and was written by this user. Any other file is removed with a warning.
    pub(super) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let name = &self.own_name(name);
        let (file, bytes) = match self.contents(name) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(
                    event = "compiled_plugin_unreadable",
                    file = name,
                    %error,
                    "can't read a compiled plugin; compiling it again"
                );
                return None;
            }
        };
        match self.open_envelope(name, &bytes) {
            Ok(body) => {
                let _ = update_use(&file, SystemTime::now());
                Some(body.to_vec())
            }
            Err(error) => {
                warn!(
                    event = "compiled_plugin_damaged",
                    file = name,
                    error = format!("{error:#}"),
                    "a compiled plugin is damaged, or was not written by this user's hosts; compiling it again"
                );
                let _ = rustix::fs::unlinkat(&self.dir, &**name, AtFlags::empty());
                None
            }
        }
    }

    /// Writes a file, and removes the least recently used ones if there are too many.
    ///
    /// # Errors
    /// Fails when the folder can't be written to, also because it was removed.
    pub(super) fn write(&self, name: &str, body: &[u8]) -> Result<()> {
        let name = &self.own_name(name);
        let temporary = format!("{name}.{:016x}.tmp", rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::openat(&self.dir, &*temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .and_then(|file| {
                let mut file = File::from(file);
                file.write_all(FORMAT)?;
                file.write_all(&self.code(name, body).finalize().into_bytes())?;
                file.write_all(body)?;
                Ok(rustix::fs::renameat(&self.dir, &*temporary, &self.dir, &**name)?)
            });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.dir, &*temporary, AtFlags::empty());
        }
        self.limit(BYTES_MAX)?;
        Ok(written?)
    }

    /// Returns the name that a file has for hosts with this key, so that those with another one leave it alone.
    fn own_name(&self, name: &str) -> String {
        let id = self.code("", b"").finalize().into_bytes();
        format!("{:02x}{:02x}{:02x}{:02x}-{name}", id[0], id[1], id[2], id[3])
    }

    fn contents(&self, name: &str) -> io::Result<(File, Vec<u8>)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let mut bytes = Vec::new();
        // More than all files together may have is not one of ours.
        (&file).take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok((file, bytes))
    }

    /// Returns what a file contains behind its authentication code.
    fn open_envelope<'a>(&self, name: &str, file: &'a [u8]) -> Result<&'a [u8]> {
        let rest = file.strip_prefix(FORMAT).context("another format")?;
        let (code, body) = rest.split_at_checked(CODE_LENGTH).context("cut off")?;
        self.code(name, body).verify_slice(code).context("not written with the key of this user")?;
        Ok(body)
    }

    /// Authenticates a file with its name, so that one can't be put in the place of another.
    fn code(&self, name: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut code = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key may have any length");
        code.update(&(name.len() as u64).to_le_bytes());
        code.update(name.as_bytes());
        code.update(body);
        code
    }

    /// Removes the least recently used files until all together have at most `bytes_max` bytes.
    fn limit(&self, bytes_max: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let name = entry?.file_name().to_owned();
            // Another process may have removed it meanwhile.
            let Ok(stat) = rustix::fs::statat(&self.dir, &*name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
                files.push(((stat.st_mtime, stat.st_mtime_nsec), stat.st_size as u64, name));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, name) in files {
            if bytes <= bytes_max {
                break;
            }
            bytes -= size;
            let _ = rustix::fs::unlinkat(&self.dir, &*name, AtFlags::empty());
        }
        Ok(())
    }
}

/// Makes the folder if it is missing, and ensures that no other user can write to it.
///
/// # Errors
/// Fails when it can't be made, is a link, or belongs to another user.
pub(super) fn close_to_others(dir: &Path) -> Result<()> {
    open_closed_to_others(dir).map(drop)
}

/// Returns whether a file belongs to the user of this process.
pub(super) fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

fn open_closed_to_others(dir: &Path) -> Result<File> {
    let failed = || format!("can't make {}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(failed)?;
    ensure!(!dir.symlink_metadata()?.is_symlink(), "{} is a link to a folder, not a folder", dir.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty()).map_err(io::Error::from);
    let opened = File::from(opened.with_context(|| format!("can't open the folder {}", dir.display()))?);
    let metadata = opened.metadata()?;
    ensure!(is_ours(&metadata), "{} belongs to another user", dir.display());
    if metadata.mode() & 0o777 != 0o700 {
        opened.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(opened)
}

/// Reads the key, or makes a random one. Of several processes that make it at once, all use the same.
fn read_or_make_key(file: &Path) -> Result<[u8; KEY_LENGTH]> {
    let folder = file.parent().context("a key has a folder")?;
    let dir = open_closed_to_others(folder)?;
    let name = file.file_name().context("a key has a name")?;
    if let Some(key) = read_key(&dir, name)? {
        return Ok(key);
    }
    let temporary = format!("key.{:016x}.tmp", rand::random::<u64>());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&dir, &*temporary, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
    File::from(made).write_all(&rand::random::<[u8; KEY_LENGTH]>())?;
    // A link fails if another process was faster, and is complete if it succeeds.
    let _ = rustix::fs::linkat(&dir, &*temporary, &dir, name, AtFlags::empty());
    rustix::fs::unlinkat(&dir, &*temporary, AtFlags::empty()).map_err(io::Error::from)?;
    read_key(&dir, name)?.context("it was removed while it was made")
}

fn read_key(dir: &File, name: &OsStr) -> Result<Option<[u8; KEY_LENGTH]>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name.as_bytes(), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(io::Error::from(error).into()),
    };
    let metadata = file.metadata()?;
    ensure!(metadata.is_file() && is_ours(&metadata), "it is not a file of this user; remove it");
    ensure!(metadata.mode() & 0o077 == 0, "others may read it; remove it, and a new one is made");
    let mut key = Vec::new();
    file.take(KEY_LENGTH as u64 + 1).read_to_end(&mut key)?;
    let key = key.try_into().ok().context("it does not have 32 bytes; remove it, and a new one is made")?;
    Ok(Some(key))
}

/// Updates the time at which a file was last used, which decides what is removed first.
fn update_use(file: &File, now: SystemTime) -> io::Result<()> {
    let used = file.metadata()?.modified()?;
    if now.duration_since(used).is_ok_and(|age| age > USE_UPDATED_AFTER) { file.set_modified(now) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn store(dir: &Path) -> Store {
        Store::open(&dir.join("files"), &dir.join("user/key")).unwrap()
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let body: Vec<u8> = (0..=255).cycle().take(2000).collect();
        store.write("it", &body).unwrap();
        assert_eq!(store.read("it").unwrap(), body);
        let whole = fs::read(dir.path().join("files").join(store.own_name("it"))).unwrap();
        for position in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[position] ^= 1 << (position % 8);
            assert!(store.open_envelope(&store.own_name("it"), &flipped).is_err(), "byte {position}");
            assert!(store.open_envelope(&store.own_name("it"), &whole[..position]).is_err(), "cut off at {position}");
        }
    }

    #[test]
    fn a_damaged_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let file = dir.path().join("files").join(store.own_name("it"));
        fs::write(&file, "something else").unwrap();
        assert_eq!(store.read("it"), None);
        assert!(!file.exists());
    }

    /// Whatever lay in the folder of compiled plugins was run: an archive with a plugin could bring machine code along.
    #[test]
    fn a_file_of_another_key_or_another_name_is_not_used() {
        let (dir, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, other) = (store(dir.path()), store(theirs.path()));
        other.write("it", b"machine code").unwrap();
        let (from, to) = (theirs.path().join("files"), dir.path().join("files"));
        fs::copy(from.join(other.own_name("it")), to.join(other.own_name("it"))).unwrap();
        assert_eq!(ours.read("it"), None);
        assert!(to.join(other.own_name("it")).exists(), "hosts with other keys may share the folder");
        fs::copy(from.join(other.own_name("it")), to.join(ours.own_name("it"))).unwrap();
        assert_eq!(ours.read("it"), None);
        assert!(!to.join(ours.own_name("it")).exists());
        ours.write("one", b"code of one plugin").unwrap();
        fs::rename(to.join(ours.own_name("one")), to.join(ours.own_name("two"))).unwrap();
        assert_eq!(ours.read("two"), None);
    }

    #[test]
    fn what_is_not_a_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.write("it", b"code").unwrap();
        let path = |name: &str| dir.path().join("files").join(store.own_name(name));
        std::os::unix::fs::symlink(path("it"), path("link")).unwrap();
        assert_eq!(store.read("link"), None);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::RUSR).unwrap();
        assert_eq!(store.read("fifo"), None);
    }

    #[test]
    fn the_key_is_made_once_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("user/key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_make_key(&file).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("user")).unwrap().count(), 1);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        assert!(read_or_make_key(&file).unwrap_err().to_string().contains("others may read it"));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "short").unwrap();
        assert!(read_or_make_key(&file).unwrap_err().to_string().contains("32 bytes"));
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        assert!(read_or_make_key(&file).is_err());
    }

    #[test]
    fn a_folder_of_another_user_or_behind_a_link_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        let error = close_to_others(&link).unwrap_err().to_string();
        assert!(error.contains("a link"), "{error}");
        // Only root can give a folder away. To other users, /proc belongs to another user.
        let theirs = tempfile::tempdir().unwrap();
        let given = std::os::unix::fs::chown(theirs.path(), Some(65_534), None);
        let theirs = if given.is_ok() { theirs.path() } else { Path::new("/proc") };
        let error = close_to_others(theirs).unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
    }

    #[test]
    fn the_least_recently_used_file_is_removed_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for (name, age) in [("old", 300), ("new", 100), ("middle", 200)] {
            let path = dir.path().join("files").join(name);
            fs::write(&path, [0; 100]).unwrap();
            File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        store.limit(250).unwrap();
        let exist = ["old", "middle", "new"].map(|name| dir.path().join("files").join(name).exists());
        assert_eq!(exist, [false, true, true]);
    }
}
