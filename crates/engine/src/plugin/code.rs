//! Compiled plugins on disk, each with a checksum: nothing is run but what a host has written.
//!
//! Wasmtime runs what lies in its cache as it is, and a flipped bit there is another program, or the end of the process.
//! So its cache is a folder that this process alone uses, the exchange, which is empty but for the time of one
//! compilation. What holds: whatever wasmtime finds there was checked a moment before. The exchange lies in a folder of
//! this user that no other user may write to, and is made by this very process. Where that is not possible, because
//! another user has made something of its name, wasmtime does not look there. The folder that lasts is this user's too,
//! and several hosts may share it: a file is written beside its place and renamed, and what is not whole, of another form,
//! damaged, or written by somebody else is compiled again.

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

use super::runtime::sha256;

/// First line of a file, with the version of its form. The checksum of all that follows it comes next.
const FORM: &[u8] = b"tickhound compiled plugin 1\n";

/// Everything in the cache's folder is in this one.
pub const FOLDER: &str = "modules";

/// Where compiled plugins lie within it. Other folders beside this one are exchanges, and wasmtime's own of older hosts.
const CHECKED: &str = "checked";
const EXCHANGE: &str = "tickhound-exchange-";

/// Where exchanges are, if it is safe: in memory. On a disk it took ten times as long to make and remove a few small files
/// as wasmtime takes to load them: 185 ms instead of 17 to 36 for twenty compiled plugins.
const IN_MEMORY: &str = "/dev/shm";

/// The start of the name of a user's folder for exchanges there; the user's number follows. It stays when an exchange is
/// removed: wasmtime's own thread tidies up there after a compilation, follows links, and deletes what it does not know.
/// If all users could write there, one of them could lead it to this user's files.
const OF_USER: &str = "tickhound-";

/// The mode bit of a folder in which nobody may remove or rename what belongs to others.
const STICKY: u32 = 0o1000;

/// Wasmtime's name for the folder in its cache that holds a folder for each compiler.
const IN_EXCHANGE: &str = "modules";

/// A use is noted once a day, which is exact enough to tell what is not used any more.
const NOTED_AFTER: Duration = Duration::from_secs(86_400);

/// An exchange that is older than this was left by a process that was killed. To remove one that is in use is no harm:
/// what is missing there is compiled.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// When there is more, what was not used for the longest time is removed. A compiled plugin is some hundred KB.
const KEPT_BYTES_MAX: u64 = 512 << 20;

/// A hexadecimal SHA-256.
const SUM_LENGTH: usize = 64;

/// The folder for compiled plugins, for one [`super::Runtime`].
pub(super) struct CodeCache {
    kept: PathBuf,
    exchange: Exchange,
    wasmtime: Cache,
    /// One compilation at a time: the exchange holds its code and no other.
    turn: Mutex<()>,
}

/// Machine code as wasmtime has it in its cache.
#[derive(Debug, PartialEq)]
struct Code {
    /// Its place there.
    place: PathBuf,
    bytes: Vec<u8>,
}

/// A folder that this process alone uses, and that is there only while it does.
struct Exchange {
    dir: PathBuf,
}

impl CodeCache {
    /// In the folder `dir`, which is made if missing, and closed to all other users.
    ///
    /// # Errors
    /// It can't be written, or belongs to somebody else.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let is_trusted = |metadata: Metadata| !metadata.is_symlink() || metadata.uid() == 0 || is_ours(&metadata);
        ensure!(is_trusted(dir.symlink_metadata()?), "{} is a link that somebody else has made", dir.display());
        // Wasmtime wants it absolute.
        let dir = dir.canonicalize()?;
        let modules = dir.join(FOLDER);
        let kept = modules.join(CHECKED);
        for dir in [&dir, &modules, &kept] {
            close_to_others(dir)?;
        }
        let exchange = folder_in_memory().and_then(|dir| Exchange::new(&dir)).or_else(|_| Exchange::new(&modules))?;
        let mut config = CacheConfig::new();
        config.with_directory(&exchange.dir);
        let wasmtime = Cache::new(config)?;
        // It was made to see that it can be.
        exchange.remove();
        Ok(Self { kept, exchange, wasmtime, turn: Mutex::new(()) })
    }

    /// The cache that the engine is to use.
    pub(super) fn wasmtime(&self) -> Cache {
        self.wasmtime.clone()
    }

    /// What `compile` makes with the engine that uses this cache, and whether it was found here. The same `key`
    /// stands for the same code. `None`: the exchange can't be made, so that engine must not compile now.
    pub(super) fn compile<T>(&self, key: &str, compile: impl FnOnce() -> T) -> Option<(T, bool)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.kept.join(format!("{key}.code"));
        let known = read(&file);
        if let Err(error) = self.exchange.make(known.as_ref()) {
            warn!(
                event = "compiled_plugin_not_handed_over",
                dir = %self.exchange.dir.display(),
                error = format!("{error:#}"),
                "can't hand a compiled plugin to wasmtime in this folder; compiling it without the cache"
            );
            self.exchange.remove();
            return None;
        }
        let hits = self.wasmtime.cache_hits();
        let made = compile();
        let found = self.wasmtime.cache_hits() > hits;
        let done = if found { note_use(&file, SystemTime::now()) } else { self.keep(&file, known.as_ref()) };
        if let Err(error) = done {
            debug!(
 event = "compiled_plugin_not_saved", file = %file.display(), %error, "failed to save a compiled plugin");
        }
        self.exchange.remove();
        Some((made, found))
    }

    /// Keeps what has been compiled; `known` was not what was needed.
    fn keep(&self, file: &Path, known: Option<&Code>) -> io::Result<()> {
        let Some(code) = self.exchange.codes()?.into_iter().find(|code| Some(code) != known) else { return Ok(()) };
        // Whoever clears the folder while a host runs need not know about this one.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.kept)?;
        let beside = file.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
        let written = write(&beside, &code).and_then(|()| fs::rename(&beside, file));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        limit(&self.kept, KEPT_BYTES_MAX)?;
        written
    }
}

impl Exchange {
    /// Within a folder of this user, which is made if missing.
    fn new(within: &Path) -> Result<Self> {
        close_to_others(within)?;
        sweep(within, SystemTime::now());
        let exchange = Self { dir: within.join(format!("{EXCHANGE}{:016x}", rand::random::<u64>())) };
        exchange.make(None)?;
        Ok(exchange)
    }

    /// Makes it anew, with this code in it.
    fn make(&self, code: Option<&Code>) -> Result<()> {
        self.remove();
        if let Some(above) = self.dir.parent() {
            // It may have been removed since, with the rest of the cache or when the user logged out, and made by others.
            close_to_others(above)?;
        }
        // Fails if there is anything in its place, a link too.
        DirBuilder::new().mode(0o700).create(&self.dir)?;
        let Some(code) = code else { return Ok(()) };
        let place = self.dir.join(&code.place);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(place, &code.bytes)?;
        Ok(())
    }

    /// Wasmtime's code files. Others, such as its statistics, have an extension.
    fn codes(&self) -> io::Result<Vec<Code>> {
        let mut codes = Vec::new();
        for compiler in fs::read_dir(self.dir.join(IN_EXCHANGE))? {
            for file in fs::read_dir(compiler?.path())? {
                let path = file?.path();
                if let (None, Ok(place)) = (path.extension(), path.strip_prefix(&self.dir)) {
                    codes.push(Code { place: place.to_owned(), bytes: fs::read(&path)? });
                }
            }
        }
        Ok(codes)
    }

    /// Removes it, but not what somebody else has put in its place.
    fn remove(&self) {
        if !self.dir.symlink_metadata().is_ok_and(|metadata| is_ours(&metadata)) {
            return;
        }
        // Wasmtime's thread may be adding its statistics there meanwhile, which nobody needs.
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let _ = (0..3).any(|_| fs::remove_dir_all(&self.dir).is_err_and(gone));
    }
}

/// The folder for the exchanges of this user in memory. It is not made yet.
fn folder_in_memory() -> Result<PathBuf> {
    let dir = Path::new(IN_MEMORY);
    ensure!(protects_from_others(dir), "other users could replace what is in {IN_MEMORY}");
    Ok(dir.join(format!("{OF_USER}{}", rustix::process::geteuid().as_raw())))
}

/// Makes the folder if it is missing, and sees to it that no other user can write to it.
fn close_to_others(dir: &Path) -> Result<()> {
    let failed = || format!("can't make {}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(failed)?;
    let metadata = dir.symlink_metadata()?;
    ensure!(metadata.is_dir(), "{} is a link to a folder, not a folder", dir.display());
    ensure!(is_ours(&metadata), "{} belongs to somebody else", dir.display());
    if metadata.mode() & 0o777 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Whether others may neither remove nor rename there what is ours, though they may write beside it.
fn protects_from_others(dir: &Path) -> bool {
    let is_safe = |metadata: Metadata| metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & STICKY != 0;
    dir.symlink_metadata().is_ok_and(is_safe)
}

/// Whether it belongs to the user that this process runs as.
fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Notes that a file is used, for those who remove what is not.
fn note_use(file: &Path, now: SystemTime) -> io::Result<()> {
    let file = File::open(file)?;
    let noted = file.metadata()?.modified()?;
    if now.duration_since(noted).is_ok_and(|age| age > NOTED_AFTER) { file.set_modified(now) } else { Ok(()) }
}

/// Removes what processes that were killed have left.
fn sweep(dir: &Path, now: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let ours = entry.metadata().ok().filter(is_ours);
        let modified = ours.and_then(|metadata| metadata.modified().ok());
        let old = modified.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFT_BEHIND));
        if old && entry.file_name().to_string_lossy().starts_with(EXCHANGE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What a file holds, if it is there, whole, and written by nobody else. One that is not is removed, and that is said.
fn read(file: &Path) -> Option<Code> {
    let (bytes, metadata) = match contents(file) {
        Ok(contents) => contents,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(event = "compiled_plugin_unreadable", file = %file.display(), %error, "can't read a compiled plugin; compiling it again");
            return None;
        }
    };
    if !is_ours(&metadata) || metadata.mode() & 0o022 != 0 {
        warn!(event = "compiled_plugin_foreign", file = %file.display(), "a compiled plugin may belong to another user; compiling it again");
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

/// The bytes of a file, and whose they are.
fn contents(file: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let mut file = File::open(file)?;
    let (mut bytes, metadata) = (Vec::new(), file.metadata()?);
    file.read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

fn parse(file: &[u8]) -> Result<Code> {
    let rest = file.strip_prefix(FORM).context("it is of another form")?;
    let (sum, body) = rest.split_at_checked(SUM_LENGTH).context("it is cut off")?;
    ensure!(sum == sha256(body).as_bytes(), "its checksum is wrong");
    let end = body.iter().position(|byte| *byte == b'\n').context("it has no place")?;
    let place = PathBuf::from(std::str::from_utf8(&body[..end])?);
    let inside = place.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(inside, "its place is outside the cache");
    Ok(Code { place, bytes: body[end + 1..].to_vec() })
}

fn write(file: &Path, code: &Code) -> io::Result<()> {
    let mut body = code.place.to_string_lossy().into_owned().into_bytes();
    body.push(b'\n');
    body.extend_from_slice(&code.bytes);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(FORM)?;
    file.write_all(sha256(&body).as_bytes())?;
    file.write_all(&body)
}

/// Removes what was not used for the longest time until the folder has no more bytes than that.
fn limit(kept: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(kept)? {
        let entry = entry?;
        // Another process may have removed it meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        files.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, size, path) in files {
        if bytes <= most {
            break;
        }
        bytes -= size;
        let _ = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{guest::Limits, runtime::Runtime},
        *,
    };

    fn code() -> Code {
        Code { place: "modules/compiler/name".into(), bytes: (0..=255).cycle().take(5000).collect() }
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
    fn a_place_outside_the_cache_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (number, place) in ["/etc/passwd", "../up", "modules/../../up"].into_iter().enumerate() {
            let file = dir.path().join(number.to_string());
            write(&file, &Code { place: place.into(), bytes: vec![1] }).unwrap();
            assert!(parse(&fs::read(&file).unwrap()).is_err(), "{place}");
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
        assert!(compiled == Some(((), false)) && !cache.exchange.dir.exists());
        assert_eq!(read(&cache.kept.join("it.code")).unwrap(), code());
    }

    /// The exchange is in a folder that all users may write to, always under the same name while a process lives. Where it
    /// could not be made, wasmtime once ran what it found there all the same: the machine code of whoever made it first.
    #[test]
    fn what_lies_in_the_place_of_an_exchange_is_not_used() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(dir.path()).unwrap();
        let place = &cache.exchange.dir;
        let evil = other.path().join(code().place);
        fs::create_dir_all(evil.parent().unwrap()).unwrap();
        fs::write(&evil, "machine code").unwrap();
        let prepare = || std::os::unix::fs::symlink(other.path(), place).unwrap();
        prepare();
        let seen = cache.compile("it", || place.read_dir().unwrap().count());
        assert_eq!(seen, Some((0, false)), "what is ours is made anew, and empty");
        assert!(evil.exists(), "what a link leads to is not touched");
        prepare();
        // Only root can give something away.
        if std::os::unix::fs::lchown(place, Some(65_534), None).is_ok() {
            assert_eq!(cache.compile("it", || ()), None, "nothing is compiled with what somebody else has put there");
            assert!(place.is_symlink());
        }
        fs::remove_file(place).unwrap();
        fs::write(place, "no folder").unwrap();
        assert_eq!(cache.compile("it", || ()), None, "nothing is compiled with what can't be made anew");
        fs::remove_file(place).unwrap();
    }

    #[test]
    fn a_plugin_is_compiled_without_the_cache_where_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(Some(dir.path())).unwrap();
        let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/breakout.wasm");
        let (bytes, limits) = (fs::read(&wasm).unwrap(), Limits::of(&tickhound_core::config::PluginsConfig::default()));
        let exchange = &runtime.cached.as_ref().unwrap().0.exchange.dir;
        fs::write(exchange, "in the way").unwrap();
        let plugin = runtime.compile("breakout", &wasm, &bytes, limits).unwrap();
        fs::remove_file(exchange).unwrap();
        assert_eq!(plugin.manifest.name, "breakout");
        assert_eq!(fs::read_dir(dir.path().join(FOLDER).join(CHECKED)).unwrap().count(), 0);
    }

    /// Wasmtime's thread works in an exchange after a compilation, when it is removed already. While exchanges lay among
    /// the files of all users, one of them could then put a link there and have what it leads to deleted.
    #[test]
    fn nobody_else_can_make_anything_in_the_place_of_an_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path()).unwrap();
        cache.compile("it", || ()).unwrap();
        let above = cache.exchange.dir.parent().unwrap().symlink_metadata().unwrap();
        assert!(above.is_dir() && is_ours(&above));
        assert_eq!(above.mode() & 0o777, 0o700);
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
    fn a_link_to_a_cache_is_followed_unless_somebody_else_has_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (link, place) = (dir.path().join("link"), dir.path().join("place"));
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, &link).unwrap();
        CodeCache::open(&link).unwrap();
        assert!(place.join(FOLDER).is_dir());
        // Only root can give it away.
        if std::os::unix::fs::lchown(&link, Some(65_534), None).is_ok() {
            let error = CodeCache::open(&link).err().unwrap().to_string();
            assert!(error.contains("a link that somebody else has made"), "{error}");
        }
    }

    #[test]
    fn exchanges_are_only_where_others_can_not_replace_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(!protects_from_others(dir.path()), "it is not sticky");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(IN_MEMORY, &link).unwrap();
        assert!(!protects_from_others(&link) && !protects_from_others(&dir.path().join("nothing")));
    }

    #[test]
    fn a_cache_of_another_user_or_behind_a_link_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join(FOLDER)).unwrap();
        let error = CodeCache::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("a link"), "{error}");
        // Only root can make what belongs to somebody else; to all others /proc does.
        let theirs = tempfile::tempdir().unwrap();
        let given = std::os::unix::fs::chown(theirs.path(), Some(65_534), None);
        let theirs = if given.is_ok() { theirs.path() } else { Path::new("/proc") };
        let error = close_to_others(theirs).unwrap_err().to_string();
        assert!(error.contains("somebody else"), "{error}");
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
    fn an_exchange_that_was_left_behind_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let exchange = Exchange::new(dir.path()).unwrap();
        exchange.make(Some(&code())).unwrap();
        fs::create_dir(dir.path().join("else")).unwrap();
        sweep(dir.path(), SystemTime::now());
        assert!(exchange.dir.exists(), "it may be in use");
        sweep(dir.path(), SystemTime::now() + 2 * LEFT_BEHIND);
        assert!(!exchange.dir.exists() && dir.path().join("else").exists());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
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
