//! Compiled plugins on disk, and how they reach wasmtime. This process runs only code that this user's hosts have written.
//!
//! Wasmtime runs code in its cache without a check, so a flipped bit there may crash the process, or worse. So wasmtime's
//! cache is the exchange: a folder that only this process and its check processes use, and that exists only during a
//! compilation. What lasts is in the `store`, whose files are authenticated.
//!
//! What holds: code in the exchange was checked right before wasmtime reads it, or was written there by a check process.
//! The exchange is made by this process, in a folder of this user that no other user can write to. If it can't be made,
//! because another user has made something of that name, wasmtime compiles without its cache.

mod store;

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Component, Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use rustix::fs::FlockOperation;
use tracing::{debug, warn};
use wasmtime::{Cache, CacheConfig};

use self::store::{Store, close_to_others, is_ours};
use tickhound_core::config::{LoadedConfig, is_unset};

/// The one folder within the cache's folder, which contains everything else.
pub const COMPILED_FOLDER: &str = "modules";

/// The folder of compiled plugins within [`COMPILED_FOLDER`]. The folders beside it are exchanges, and those of
/// older hosts, whose files are not authenticated.
const CHECKED: &str = "authentic";

/// The value of `plugins.cache` that stands for the cache folder of the user or of the service.
const AUTO: &str = "auto";

/// The name of the folder within the user's cache folder.
const OUR_FOLDER: &str = "tickhound";

/// The name of the file with the key, within the user's folder. It is never in the folder that the configuration names,
/// because both could come from the same archive then.
const KEY: &str = "key";

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

/// An exchange that is older than this and that no process has locked was left by a killed process. A process locks its
/// exchange right after it has made it.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// The folder of compiled plugins, and the key that authenticates them.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheLocation {
    /// The folder.
    pub dir: PathBuf,
    /// The file with the key of this user.
    pub key: PathBuf,
}

/// The way of compiled plugins to wasmtime, for one [`super::Runtime`].
pub(super) struct CodeCache {
    /// The compiled plugins that last, if the configuration wants any.
    store: Option<Store>,
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

/// The exchange with the code of one plugin, while that is compiled or loaded.
pub(super) struct Handover<'a> {
    cache: &'a CodeCache,
    name: String,
    cached: Option<CodeFile>,
    _lock: File,
    _turn: MutexGuard<'a, ()>,
}

/// A file in wasmtime's cache.
#[derive(Debug, PartialEq)]
struct CodeFile {
    /// The path within the cache.
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A folder that only this process and its check processes use, and that exists only during a compilation.
struct Exchange {
    dir: PathBuf,
}

impl CacheLocation {
    /// Returns where the configuration wants compiled plugins, or `None` if it wants none or this user has no folder for
    /// the key.
    pub fn of(loaded: &LoadedConfig) -> Option<Self> {
        let configured = &loaded.config.plugins.cache;
        if is_unset(configured) {
            return None;
        }
        let Some(user) = user_folder(|name| std::env::var_os(name).map(PathBuf::from)) else {
            warn!(
                event = "plugin_cache_unavailable",
                "this user has no cache folder, so plugins are compiled at each start: set HOME, XDG_CACHE_HOME or \
                 CACHE_DIRECTORY"
            );
            return None;
        };
        let key = user.join(KEY);
        if configured == Path::new(AUTO) {
            return Some(Self { dir: user.join("plugins"), key });
        }
        Some(Self { dir: loaded.resolve(&loaded.config.plugins.dir).join(configured), key })
    }
}

/// Returns the cache folder of the service or the user, from the environment's `variable`s.
fn user_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|path| path.is_absolute());
    let of_service = || set("CACHE_DIRECTORY");
    let of_user = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    of_service().or_else(|| Some(of_user()?.join(OUR_FOLDER)))
}

impl CodeCache {
    /// Opens the cache in a folder, which is made if missing, and closed to all other users. Without a location nothing
    /// lasts.
    ///
    /// # Errors
    /// Fails when the folder can't be written to, or belongs to another user.
    pub(super) fn open(location: Option<&CacheLocation>) -> Result<Self> {
        let mut store = None;
        let mut on_disk = None;
        if let Some(CacheLocation { dir, key }) = location {
            if let Some(above) = dir.parent() {
                fs::create_dir_all(above)?;
            }
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            let is_trusted = |metadata: Metadata| !metadata.is_symlink() || metadata.uid() == 0 || is_ours(&metadata);
            ensure!(is_trusted(dir.symlink_metadata()?), "{} is a link that another user has made", dir.display());
            // Wasmtime requires an absolute path.
            let dir = dir.canonicalize()?;
            let modules = dir.join(COMPILED_FOLDER);
            for dir in [&dir, &modules] {
                close_to_others(dir)?;
            }
            store = Some(Store::open(&modules.join(CHECKED), key)?);
            on_disk = Some(modules);
        }
        let in_memory = folder_in_memory().and_then(|dir| Exchange::new(&dir));
        let exchange = in_memory.or_else(|error| {
            let Some(modules) = on_disk else { return Err(error) };
            debug!(
                event = "compiled_plugins_not_in_memory",
                error = format!("{error:#}"),
                "can't hand compiled plugins over in memory; using the cache folder, which is slower"
            );
            Exchange::new(&modules)
        })?;
        let wasmtime = wasmtime_cache(&exchange.dir)?;
        // It was only made to check that it can be.
        exchange.remove();
        Ok(Self { store, exchange, wasmtime, turn: Mutex::new(()) })
    }

    /// Returns the cache for the wasmtime engine.
    pub(super) fn wasmtime(&self) -> Cache {
        self.wasmtime.clone()
    }

    /// Makes the exchange for the code of one plugin, with that code if it is there already. Equal code has an equal `key`.
    /// Returns `None` if the exchange can't be made: the engine that uses it must not compile now.
    pub(super) fn begin(&self, key: &str) -> Option<Handover<'_>> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{key}.code");
        let cached = self.store.as_ref().and_then(|store| store.read(&name)).and_then(|body| parse(&body).ok());
        match self.exchange.make(cached.as_ref()) {
            Ok(lock) => Some(Handover { cache: self, name, cached, _lock: lock, _turn: turn }),
            Err(error) => {
                warn!(
                    event = "compiled_plugin_not_handed_over",
                    dir = %self.exchange.dir.display(),
                    error = format!("{error:#}"),
                    "can't hand a compiled plugin to wasmtime in this folder; compiling it without the cache"
                );
                self.exchange.remove();
                None
            }
        }
    }

    /// Returns the notes that were saved under this key.
    pub(super) fn notes(&self, key: &str) -> Option<Vec<u8>> {
        self.store.as_ref()?.read(key)
    }

    /// Saves notes for the next start.
    pub(super) fn save_notes(&self, key: &str, notes: &[u8]) {
        if let Some(store) = &self.store {
            report_unsaved(key, store.write(key, notes));
        }
    }

    #[cfg(test)]
    pub(super) fn exchange_dir(&self) -> &Path {
        &self.exchange.dir
    }
}

impl Handover<'_> {
    /// The exchange, where a check process puts compiled code.
    pub(super) fn dir(&self) -> &Path {
        &self.cache.exchange.dir
    }

    /// Returns whether the code is already there, because a host has compiled it before.
    pub(super) fn is_cached(&self) -> bool {
        self.cached.is_some()
    }

    /// Returns whether there is code in the exchange by now.
    pub(super) fn has_code(&self) -> bool {
        self.cache.exchange.files().is_ok_and(|files| !files.is_empty())
    }

    /// Calls `compile`, which compiles with the engine that uses this cache, saves the code, and returns the result.
    pub(super) fn compile<T>(self, compile: impl FnOnce() -> T) -> (T, CodeOrigin) {
        let hits = self.cache.wasmtime.cache_hits();
        let compiled = compile();
        let is_hit = self.cache.wasmtime.cache_hits() > hits;
        if is_hit && self.is_cached() {
            return (compiled, CodeOrigin::Cache);
        }
        if let Some(store) = &self.cache.store {
            report_unsaved(&self.name, self.save(store));
        }
        (compiled, CodeOrigin::Compiler)
    }

    /// Saves the code that is in the exchange. If wasmtime did not use what was there, that is outdated.
    fn save(&self, store: &Store) -> Result<()> {
        let mut files = self.cache.exchange.files()?.into_iter();
        let Some(code) = files.find(|code| Some(code) != self.cached.as_ref()) else { return Ok(()) };
        let mut body = code.path.to_string_lossy().into_owned().into_bytes();
        body.push(b'\n');
        body.extend_from_slice(&code.bytes);
        store.write(&self.name, &body)
    }
}

impl Drop for Handover<'_> {
    fn drop(&mut self) {
        self.cache.exchange.remove();
    }
}

fn report_unsaved(file: &str, saved: Result<()>) {
    if let Err(error) = saved {
        debug!(
            event = "compiled_plugin_not_saved",
            file,
            error = format!("{error:#}"),
            "failed to save a compiled plugin"
        );
    }
}

/// Returns wasmtime's cache in this folder, for as long as the folder exists.
///
/// # Errors
/// Fails when the folder does not exist.
pub(super) fn wasmtime_cache(exchange: &Path) -> Result<Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(exchange);
    Ok(Cache::new(config)?)
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

    /// Makes the folder again, with this code in it. While the returned file is open, no other process removes the folder.
    fn make(&self, code: Option<&CodeFile>) -> Result<File> {
        if let Some(parent) = self.dir.parent() {
            // The parent may have been removed meanwhile, with the cache or at a logout, and made by another user.
            close_to_others(parent)?;
        }
        self.remove();
        // This fails if anything has that name, a link too.
        DirBuilder::new().mode(0o700).create(&self.dir)?;
        let lock = File::open(&self.dir)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)?;
        let Some(code) = code else { return Ok(lock) };
        let file = self.dir.join(&code.path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, &code.bytes)?;
        Ok(lock)
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

/// Returns whether other users can neither remove nor rename this user's files in `dir`, though they may write there.
fn protects_from_others(dir: &Path) -> bool {
    let is_safe = |metadata: Metadata| metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & STICKY != 0;
    dir.symlink_metadata().is_ok_and(is_safe)
}

/// Returns whether no process has locked the exchange.
fn is_unused(dir: &Path) -> bool {
    let lock = |dir: &File| rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
    File::open(dir).and_then(|dir| lock(&dir)).is_ok()
}

/// Removes exchanges that were left by killed processes.
fn remove_stale(dir: &Path, now: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let ours = entry.metadata().ok().filter(is_ours);
        let modified = ours.and_then(|metadata| metadata.modified().ok());
        let is_stale = modified.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > STALE_AFTER));
        if is_stale && entry.file_name().to_string_lossy().starts_with(EXCHANGE) && is_unused(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Splits what the store returned into a path within wasmtime's cache and the code.
fn parse(body: &[u8]) -> Result<CodeFile> {
    let end = body.iter().position(|byte| *byte == b'\n').context("no path")?;
    let path = PathBuf::from(std::str::from_utf8(&body[..end])?);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(is_inside, "the path is outside the cache");
    Ok(CodeFile { path, bytes: body[end + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn code() -> CodeFile {
        CodeFile { path: "modules/compiler/name".into(), bytes: (0..=255).cycle().take(5000).collect() }
    }

    fn location(dir: &Path) -> CacheLocation {
        CacheLocation { dir: dir.join("cache"), key: dir.join("user/key") }
    }

    fn cache(dir: &Path) -> CodeCache {
        CodeCache::open(Some(&location(dir))).unwrap()
    }

    #[test]
    fn the_folder_is_that_of_the_service_or_the_user() {
        let folder = |set: &[(&str, &str)]| {
            user_folder(|name| set.iter().find(|(known, _)| *known == name).map(|(_, path)| PathBuf::from(path)))
        };
        let service = ("CACHE_DIRECTORY", "/var/cache/tickhound");
        let (user, home) = (("XDG_CACHE_HOME", "/home/me/caches"), ("HOME", "/home/me"));
        assert_eq!(folder(&[service, user, home]), Some("/var/cache/tickhound".into()));
        assert_eq!(folder(&[user, home]), Some("/home/me/caches/tickhound".into()));
        assert_eq!(folder(&[home]), Some("/home/me/.cache/tickhound".into()));
        assert_eq!(folder(&[("HOME", "here")]), None);
    }

    #[test]
    fn a_path_outside_the_exchange_is_rejected() {
        for path in ["/etc/passwd", "../up", "modules/../../up"] {
            assert!(parse(format!("{path}\ncode").as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn an_exchange_is_there_only_while_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        assert!(!cache.exchange.dir.exists());
        let handover = cache.begin("it").unwrap();
        assert!(!handover.is_cached());
        let mode = fs::metadata(handover.dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // A check process has put it there.
        cache.exchange.make(Some(&code())).unwrap();
        assert_eq!(handover.compile(|| ()), ((), CodeOrigin::Compiler));
        assert!(!cache.exchange.dir.exists());
        assert_eq!(cache.begin("it").unwrap().cached, Some(code()));
    }

    #[test]
    fn without_a_folder_nothing_lasts() {
        let cache = CodeCache::open(None).unwrap();
        let handover = cache.begin("it").unwrap();
        cache.exchange.make(Some(&code())).unwrap();
        assert_eq!(handover.compile(|| ()), ((), CodeOrigin::Compiler));
        assert!(!cache.begin("it").unwrap().is_cached());
    }

    /// The exchange was in a folder that all users could write to, under the same name for the life of a process. If it
    /// could not be made, wasmtime used what had that name: machine code of any user who made it first.
    #[test]
    fn what_has_the_name_of_an_exchange_is_not_used() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = cache(dir.path());
        let exchange = &cache.exchange.dir;
        let evil = other.path().join(code().path);
        fs::create_dir_all(evil.parent().unwrap()).unwrap();
        fs::write(&evil, "machine code").unwrap();
        let prepare = || std::os::unix::fs::symlink(other.path(), exchange).unwrap();
        prepare();
        let seen = cache.begin("it").unwrap().compile(|| exchange.read_dir().unwrap().count());
        assert_eq!(seen, (0, CodeOrigin::Compiler), "a link of this user is replaced with an empty folder");
        assert!(evil.exists(), "the target of a link is not touched");
        prepare();
        // Only root can give something away.
        if std::os::unix::fs::lchown(exchange, Some(65_534), None).is_ok() {
            assert!(cache.begin("it").is_none(), "nothing is compiled with files of another user");
            assert!(exchange.is_symlink());
        }
        fs::remove_file(exchange).unwrap();
        fs::write(exchange, "not a folder").unwrap();
        assert!(cache.begin("it").is_none(), "nothing is compiled with what can't be replaced");
        fs::remove_file(exchange).unwrap();
    }

    /// Wasmtime's thread cleans up in an exchange after a compilation, when the exchange is removed already. While
    /// exchanges were in a folder of all users, one of them could put a link there, and have the link's target deleted.
    #[test]
    fn nobody_else_can_make_anything_in_the_place_of_an_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.begin("it").unwrap().compile(|| ());
        let parent = cache.exchange.dir.parent().unwrap().symlink_metadata().unwrap();
        assert!(parent.is_dir() && is_ours(&parent));
        assert_eq!(parent.mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_for_exchanges_that_is_a_link_is_not_used() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = cache(dir.path());
        let within = dir.path().join("exchanges");
        let exchange = Exchange::new(&within).unwrap();
        fs::remove_dir_all(&within).unwrap();
        std::os::unix::fs::symlink(other.path(), &within).unwrap();
        let error = exchange.make(None).unwrap_err().to_string();
        assert!(error.contains("a link"), "{error}");
        assert_eq!(other.path().read_dir().unwrap().count(), 0);
        let cache = CodeCache { exchange, ..cache };
        assert!(cache.begin("it").is_none());
    }

    #[test]
    fn a_link_to_a_cache_is_followed_unless_another_user_has_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let location = CacheLocation { dir: link.clone(), ..location(dir.path()) };
        CodeCache::open(Some(&location)).unwrap();
        assert!(target.join(COMPILED_FOLDER).is_dir());
        // Only root can give it away.
        if std::os::unix::fs::lchown(&link, Some(65_534), None).is_ok() {
            let error = CodeCache::open(Some(&location)).err().unwrap().to_string();
            assert!(error.contains("a link that another user has made"), "{error}");
        }
    }

    #[test]
    fn exchanges_are_only_where_other_users_can_not_replace_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!protects_from_others(dir.path()), "not sticky");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(IN_MEMORY, &link).unwrap();
        assert!(!protects_from_others(&link) && !protects_from_others(&dir.path().join("nothing")));
    }

    #[test]
    fn a_stale_exchange_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let exchange = Exchange::new(dir.path()).unwrap();
        exchange.make(Some(&code())).unwrap();
        fs::create_dir(dir.path().join("else")).unwrap();
        remove_stale(dir.path(), SystemTime::now());
        assert!(exchange.dir.exists(), "it may be in use");
        // Another host's clock may be wrong: two days ahead, one removed exchanges that were in use.
        let lock = exchange.make(Some(&code())).unwrap();
        remove_stale(dir.path(), SystemTime::now() + 2 * STALE_AFTER);
        assert!(exchange.dir.exists(), "it is in use");
        drop(lock);
        remove_stale(dir.path(), SystemTime::now() + 2 * STALE_AFTER);
        assert!(!exchange.dir.exists() && dir.path().join("else").exists());
    }
}
