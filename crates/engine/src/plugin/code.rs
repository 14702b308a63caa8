//! A cache of compiled plugins on disk, each with a checksum. The host runs only code that a host has written.
//!
//! Wasmtime runs code in its cache without a check, so a flipped bit there may crash the process, or worse. So wasmtime's
//! cache is the exchange: a folder that only this process uses, and that exists only during a compilation.
//!
//! What holds: code in the exchange was checked right before wasmtime reads it. The exchange is made by this process, in
//! a folder of this user that no other user can write to. If it can't be made, because another user has made something
//! of that name, wasmtime compiles without its cache. The lasting folder belongs to this user too, and several hosts may
//! share it: a file is written under a temporary name and renamed. A file that is incomplete, damaged, in another format,
//! or written by another user is compiled again.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use tracing::{debug, warn};
use wasmtime::{Cache, CacheConfig};

use super::digest::sha256;

/// The first line of a file, with the version of its format. The checksum of everything behind the checksum follows.
const FORMAT: &[u8] = b"tickhound compiled plugin 1\n";

/// The one folder within the cache's folder, which contains everything else.
pub const COMPILED_FOLDER: &str = "modules";

/// The folder of compiled plugins within [`COMPILED_FOLDER`]. The folders beside it are exchanges, and wasmtime's own of older
/// hosts.
const CHECKED: &str = "checked";

/// The prefix of an exchange's name. A random number follows.
const EXCHANGE: &str = "tickhound-exchange-";

/// The folder in memory for exchanges, if it is safe. On a disk it took 185 ms instead of 17 to 36 ms to make and remove
/// the exchanges of twenty compiled plugins.
const IN_MEMORY: &str = "/dev/shm";

/// The prefix of the name of a user's folder in [`IN_MEMORY`]. The user's number follows. The folder stays when an exchange
/// is removed, because wasmtime's own thread cleans up in the exchange after a compilation: it follows links, and deletes
/// unknown files. If all users could write there, one of them could make a link to this user's files.
const OF_USER: &str = "tickhound-";

/// The mode bit of a folder in which users can't remove or rename files of other users.
const STICKY: u32 = 0o1000;

/// Wasmtime's name for the folder in its cache that contains a folder for each compiler.
const COMPILERS: &str = "modules";

/// The time of a use is updated once a day, which is precise enough to find unused files.
const USE_UPDATED_AFTER: Duration = Duration::from_secs(86_400);

/// An exchange that is older than this was left by a killed process. Removing one that is in use does no harm: its plugin
/// is compiled again.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// The maximum size of the cache. Beyond that, the least recently used files are removed. A compiled plugin has a few
/// hundred KB.
const CACHE_BYTES_MAX: u64 = 512 << 20;

/// The length of a SHA-256 in hexadecimal.
const CHECKSUM_LENGTH: usize = 64;

/// The cache of compiled plugins, for one [`super::Runtime`].
pub(super) struct CodeCache {
    /// The folder of compiled plugins.
    checked: PathBuf,
    exchange: Exchange,
    wasmtime: Cache,
    /// Allows one compilation at a time, since the exchange contains the code of one plugin.
    turn: Mutex<()>,
}

/// The origin of a compiled plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodeOrigin {
    /// The cache had it.
    Cache,
    /// It was compiled now.
    Compiler,
}

/// A file in wasmtime's cache.
#[derive(Debug, PartialEq)]
struct CodeFile {
    /// The path within the cache.
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A folder that only this process uses, and that exists only during a compilation.
struct Exchange {
    dir: PathBuf,
}

impl CodeCache {
    /// Opens the cache in the folder `dir`, which is made if missing, and closed to all other users.
    ///
    /// # Errors
    /// Fails when the folder can't be written to, or belongs to another user.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let is_trusted = |metadata: Metadata| !metadata.is_symlink() || metadata.uid() == 0 || is_ours(&metadata);
        ensure!(is_trusted(dir.symlink_metadata()?), "{} is a link that another user has made", dir.display());
        // Wasmtime requires an absolute path.
        let dir = dir.canonicalize()?;
        let modules = dir.join(COMPILED_FOLDER);
        let checked = modules.join(CHECKED);
        for dir in [&dir, &modules, &checked] {
            close_to_others(dir)?;
        }
        let exchange = folder_in_memory().and_then(|dir| Exchange::new(&dir)).or_else(|error| {
            debug!(
                event = "compiled_plugins_not_in_memory",
                error = format!("{error:#}"),
                "can't hand compiled plugins over in memory; using the cache folder, which is slower"
            );
            Exchange::new(&modules)
        })?;
        let mut config = CacheConfig::new();
        config.with_directory(&exchange.dir);
        let wasmtime = Cache::new(config)?;
        // It was only made to check that it can be.
        exchange.remove();
        Ok(Self { checked, exchange, wasmtime, turn: Mutex::new(()) })
    }

    /// Returns the cache for the wasmtime engine.
    pub(super) fn wasmtime(&self) -> Cache {
        self.wasmtime.clone()
    }

    /// Calls `compile`, which compiles with the engine that uses this cache, and returns its result with the origin of the
    /// code. Equal code has an equal `key`. Returns `None` if the exchange can't be made: that engine must not compile
    /// now.
    pub(super) fn compile<T>(&self, key: &str, compile: impl FnOnce() -> T) -> Option<(T, CodeOrigin)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.checked.join(format!("{key}.code"));
        // Checked each time: whoever can write to the plugins folder can put a link in the place of the cache.
        let handed_over = close_to_others(&self.checked).and_then(|()| {
            let cached = read(&file);
            self.exchange.make(cached.as_ref())?;
            Ok(cached)
        });
        let cached = match handed_over {
            Ok(cached) => cached,
            Err(error) => {
                warn!(
                    event = "compiled_plugin_not_handed_over",
                    dir = %self.exchange.dir.display(),
                    error = format!("{error:#}"),
                    "can't hand a compiled plugin to wasmtime in this folder; compiling it without the cache"
                );
                self.exchange.remove();
                return None;
            }
        };
        let hits = self.wasmtime.cache_hits();
        let compiled = compile();
        let is_hit = self.wasmtime.cache_hits() > hits;
        let saved = if is_hit {
            update_use(&file, SystemTime::now()).map_err(Into::into)
        } else {
            self.save(&file, cached.as_ref())
        };
        if let Err(error) = saved {
            debug!(
                event = "compiled_plugin_not_saved",
                file = %file.display(),
                error = format!("{error:#}"),
                "failed to save a compiled plugin"
            );
        }
        self.exchange.remove();
        Some((compiled, if is_hit { CodeOrigin::Cache } else { CodeOrigin::Compiler }))
    }

    /// Saves the code that wasmtime has put into the exchange. Wasmtime did not use `outdated`, which may still be there.
    fn save(&self, file: &Path, outdated: Option<&CodeFile>) -> Result<()> {
        let compiled = self.exchange.files()?.into_iter().find(|code| Some(code) != outdated);
        let Some(code) = compiled else { return Ok(()) };
        // A user may have cleared the cache while the host runs.
        close_to_others(&self.checked)?;
        let temporary = file.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
        let written = write(&temporary, &code).and_then(|()| fs::rename(&temporary, file));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        limit(&self.checked, CACHE_BYTES_MAX)?;
        Ok(written?)
    }

    #[cfg(test)]
    pub(super) fn exchange_dir(&self) -> &Path {
        &self.exchange.dir
    }

    #[cfg(test)]
    pub(super) fn checked_dir(&self) -> &Path {
        &self.checked
    }
}

impl Exchange {
    /// Makes an exchange in a folder of this user, which is made if missing.
    fn new(within: &Path) -> Result<Self> {
        close_to_others(within)?;
        remove_stale(within, SystemTime::now());
        let exchange = Self { dir: within.join(format!("{EXCHANGE}{:016x}", rand::random::<u64>())) };
        exchange.make(None)?;
        Ok(exchange)
    }

    /// Makes the folder again, with this code in it.
    fn make(&self, code: Option<&CodeFile>) -> Result<()> {
        if let Some(parent) = self.dir.parent() {
            // The parent may have been removed meanwhile, with the cache or at a logout, and made by another user.
            close_to_others(parent)?;
        }
        self.remove();
        // This fails if anything has that name, a link too.
        DirBuilder::new().mode(0o700).create(&self.dir)?;
        let Some(code) = code else { return Ok(()) };
        let file = self.dir.join(&code.path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, &code.bytes)?;
        Ok(())
    }

    /// Reads wasmtime's code files. Its other files, such as statistics, have an extension.
    fn files(&self) -> io::Result<Vec<CodeFile>> {
        let mut files = Vec::new();
        for compiler in fs::read_dir(self.dir.join(COMPILERS))? {
            for file in fs::read_dir(compiler?.path())? {
                let path = file?.path();
                if let (None, Ok(within)) = (path.extension(), path.strip_prefix(&self.dir)) {
                    files.push(CodeFile { path: within.to_owned(), bytes: fs::read(&path)? });
                }
            }
        }
        Ok(files)
    }

    /// Removes the folder, but not what another user has put in its place.
    fn remove(&self) {
        if !self.dir.symlink_metadata().is_ok_and(|metadata| is_ours(&metadata)) {
            return;
        }
        // Wasmtime's thread may add its statistics there meanwhile, after which a removal fails. They are not needed.
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let _ = (0..3).any(|_| fs::remove_dir_all(&self.dir).is_err_and(gone));
    }
}

/// Returns the folder in memory for the exchanges of this user, without making it.
fn folder_in_memory() -> Result<PathBuf> {
    let dir = Path::new(IN_MEMORY);
    ensure!(protects_from_others(dir), "other users could replace what is in {IN_MEMORY}");
    Ok(dir.join(format!("{OF_USER}{}", rustix::process::geteuid().as_raw())))
}

/// Makes the folder if it is missing, and ensures that no other user can write to it.
fn close_to_others(dir: &Path) -> Result<()> {
    let failed = || format!("can't make {}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(failed)?;
    let metadata = dir.symlink_metadata()?;
    ensure!(metadata.is_dir(), "{} is a link to a folder, not a folder", dir.display());
    ensure!(is_ours(&metadata), "{} belongs to another user", dir.display());
    if metadata.mode() & 0o777 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Returns whether other users can neither remove nor rename this user's files in `dir`, though they may write there.
fn protects_from_others(dir: &Path) -> bool {
    let is_safe = |metadata: Metadata| metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & STICKY != 0;
    dir.symlink_metadata().is_ok_and(is_safe)
}

/// Returns whether a file belongs to the user of this process.
fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Updates the time at which a file was last used, which decides what is removed first.
fn update_use(file: &Path, now: SystemTime) -> io::Result<()> {
    let file = File::open(file)?;
    let used = file.metadata()?.modified()?;
    if now.duration_since(used).is_ok_and(|age| age > USE_UPDATED_AFTER) { file.set_modified(now) } else { Ok(()) }
}

/// Removes exchanges that were left by killed processes.
fn remove_stale(dir: &Path, now: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let ours = entry.metadata().ok().filter(is_ours);
        let modified = ours.and_then(|metadata| metadata.modified().ok());
        let is_stale = modified.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > STALE_AFTER));
        if is_stale && entry.file_name().to_string_lossy().starts_with(EXCHANGE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Reads a file if it exists, is undamaged, and was written by this user. A damaged file, and one that another user may have
/// written, is removed with a warning.
fn read(file: &Path) -> Option<CodeFile> {
    let (bytes, metadata) = match contents(file) {
        Ok(contents) => contents,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(
                event = "compiled_plugin_unreadable",
                file = %file.display(),
                %error,
                "can't read a compiled plugin; compiling it again"
            );
            return None;
        }
    };
    if !is_ours(&metadata) || metadata.mode() & 0o022 != 0 {
        warn!(
            event = "compiled_plugin_foreign",
            file = %file.display(),
            "a compiled plugin may belong to another user; compiling it again"
        );
        let _ = fs::remove_file(file);
        return None;
    }
    parse(&bytes)
        .inspect_err(|error| {
            warn!(
                event = "compiled_plugin_damaged",
                file = %file.display(),
                error = format!("{error:#}"),
                "a compiled plugin is damaged on disk; compiling it again"
            );
            let _ = fs::remove_file(file);
        })
        .ok()
}

/// Returns the bytes of a file, with the metadata of that very file. Links are not followed.
fn contents(file: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let no_links = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut file = OpenOptions::new().read(true).custom_flags(no_links).open(file)?;
    let (mut bytes, metadata) = (Vec::new(), file.metadata()?);
    file.read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

fn parse(file: &[u8]) -> Result<CodeFile> {
    let rest = file.strip_prefix(FORMAT).context("unknown format")?;
    let (checksum, body) = rest.split_at_checked(CHECKSUM_LENGTH).context("cut off")?;
    ensure!(checksum == sha256(body).as_bytes(), "wrong checksum");
    let end = body.iter().position(|byte| *byte == b'\n').context("no path")?;
    let path = PathBuf::from(std::str::from_utf8(&body[..end])?);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(is_inside, "the path is outside the cache");
    Ok(CodeFile { path, bytes: body[end + 1..].to_vec() })
}

fn write(file: &Path, code: &CodeFile) -> io::Result<()> {
    let mut body = code.path.to_string_lossy().into_owned().into_bytes();
    body.push(b'\n');
    body.extend_from_slice(&code.bytes);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(FORMAT)?;
    file.write_all(sha256(&body).as_bytes())?;
    file.write_all(&body)
}

/// Removes the least recently used files until the folder has at most `bytes_max` bytes.
fn limit(dir: &Path, bytes_max: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Another process may have removed it meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        files.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, size, path) in files {
        if bytes <= bytes_max {
            break;
        }
        bytes -= size;
        let _ = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> CodeFile {
        CodeFile { path: "modules/compiler/name".into(), bytes: (0..=255).cycle().take(5000).collect() }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("it.code");
        write(&file, &code()).unwrap();
        assert_eq!(read(&file).unwrap(), code());
        let whole = fs::read(&file).unwrap();
        for position in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[position] ^= 1 << (position % 8);
            assert!(parse(&flipped).is_err(), "byte {position}");
            assert!(parse(&whole[..position]).is_err(), "cut off at {position}");
        }
    }

    #[test]
    fn a_damaged_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("it.code");
        fs::write(&file, "something else").unwrap();
        assert_eq!(read(&file), None);
        assert!(!file.exists());
    }

    #[test]
    fn a_path_outside_the_cache_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        for (number, path) in ["/etc/passwd", "../up", "modules/../../up"].into_iter().enumerate() {
            let file = dir.path().join(number.to_string());
            write(&file, &CodeFile { path: path.into(), bytes: vec![1] }).unwrap();
            assert!(parse(&fs::read(&file).unwrap()).is_err(), "{path}");
        }
    }

    #[test]
    fn an_exchange_is_there_only_while_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path()).unwrap();
        assert!(!cache.exchange.dir.exists());
        let compiled = cache.compile("it", || {
            let mode = fs::metadata(&cache.exchange.dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            cache.exchange.make(Some(&code())).unwrap();
        });
        assert!(compiled == Some(((), CodeOrigin::Compiler)) && !cache.exchange.dir.exists());
        assert_eq!(read(&cache.checked.join("it.code")).unwrap(), code());
    }

    /// The exchange was in a folder that all users could write to, under the same name for the life of a process. If it
    /// could not be made, wasmtime used what had that name: machine code of any user who made it first.
    #[test]
    fn what_has_the_name_of_an_exchange_is_not_used() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(dir.path()).unwrap();
        let exchange = &cache.exchange.dir;
        let evil = other.path().join(code().path);
        fs::create_dir_all(evil.parent().unwrap()).unwrap();
        fs::write(&evil, "machine code").unwrap();
        let prepare = || std::os::unix::fs::symlink(other.path(), exchange).unwrap();
        prepare();
        let seen = cache.compile("it", || exchange.read_dir().unwrap().count());
        assert_eq!(seen, Some((0, CodeOrigin::Compiler)), "a link of this user is replaced with an empty folder");
        assert!(evil.exists(), "the target of a link is not touched");
        prepare();
        // Only root can give something away.
        if std::os::unix::fs::lchown(exchange, Some(65_534), None).is_ok() {
            assert_eq!(cache.compile("it", || ()), None, "nothing is compiled with files of another user");
            assert!(exchange.is_symlink());
        }
        fs::remove_file(exchange).unwrap();
        fs::write(exchange, "not a folder").unwrap();
        assert_eq!(cache.compile("it", || ()), None, "nothing is compiled with what can't be replaced");
        fs::remove_file(exchange).unwrap();
    }

    /// Wasmtime's thread cleans up in an exchange after a compilation, when the exchange is removed already. While
    /// exchanges were in a folder of all users, one of them could put a link there, and have the link's target deleted.
    #[test]
    fn nobody_else_can_make_anything_in_the_place_of_an_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path()).unwrap();
        cache.compile("it", || ()).unwrap();
        let parent = cache.exchange.dir.parent().unwrap().symlink_metadata().unwrap();
        assert!(parent.is_dir() && is_ours(&parent));
        assert_eq!(parent.mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_for_exchanges_that_is_a_link_is_not_used() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(dir.path()).unwrap();
        let within = dir.path().join("exchanges");
        let exchange = Exchange::new(&within).unwrap();
        fs::remove_dir_all(&within).unwrap();
        std::os::unix::fs::symlink(other.path(), &within).unwrap();
        let error = exchange.make(None).unwrap_err().to_string();
        assert!(error.contains("a link"), "{error}");
        assert_eq!(other.path().read_dir().unwrap().count(), 0);
        let cache = CodeCache { exchange, ..cache };
        assert_eq!(cache.compile("it", || ()), None);
    }

    #[test]
    fn a_link_to_a_cache_is_followed_unless_another_user_has_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        CodeCache::open(&link).unwrap();
        assert!(target.join(COMPILED_FOLDER).is_dir());
        // Only root can give it away.
        if std::os::unix::fs::lchown(&link, Some(65_534), None).is_ok() {
            let error = CodeCache::open(&link).err().unwrap().to_string();
            assert!(error.contains("a link that another user has made"), "{error}");
        }
    }

    #[test]
    fn exchanges_are_only_where_other_users_can_not_replace_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(!protects_from_others(dir.path()), "not sticky");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(IN_MEMORY, &link).unwrap();
        assert!(!protects_from_others(&link) && !protects_from_others(&dir.path().join("nothing")));
    }

    #[test]
    fn a_cache_of_another_user_or_behind_a_link_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join(COMPILED_FOLDER)).unwrap();
        let error = CodeCache::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("a link"), "{error}");
        // Only root can give a folder away. To other users, /proc belongs to another user.
        let theirs = tempfile::tempdir().unwrap();
        let given = std::os::unix::fs::chown(theirs.path(), Some(65_534), None);
        let theirs = if given.is_ok() { theirs.path() } else { Path::new("/proc") };
        let error = close_to_others(theirs).unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
    }

    #[test]
    fn a_compiled_plugin_that_others_could_write_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("it.code");
        write(&file, &code()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o620)).unwrap();
        assert_eq!(read(&file), None);
        assert!(!file.exists());
    }

    #[test]
    fn a_stale_exchange_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let exchange = Exchange::new(dir.path()).unwrap();
        exchange.make(Some(&code())).unwrap();
        fs::create_dir(dir.path().join("else")).unwrap();
        remove_stale(dir.path(), SystemTime::now());
        assert!(exchange.dir.exists(), "it may be in use");
        remove_stale(dir.path(), SystemTime::now() + 2 * STALE_AFTER);
        assert!(!exchange.dir.exists() && dir.path().join("else").exists());
    }

    #[test]
    fn the_least_recently_used_file_is_removed_first() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("old", 300), ("new", 100), ("middle", 200)] {
            fs::write(dir.path().join(name), [0; 100]).unwrap();
            let file = File::open(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        limit(dir.path(), 250).unwrap();
        let exist = ["old", "middle", "new"].map(|name| dir.path().join(name).exists());
        assert_eq!(exist, [false, true, true]);
    }
}
