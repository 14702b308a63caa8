//! Compiled plugins on disk, each with a checksum: nothing is run but what a host has written.
//!
//! Wasmtime runs what lies in its cache as it is, and a flipped bit there is another program, or the end of the process.
//! So its cache is a folder that this process alone uses, the exchange, which is empty but for the time of one
//! compilation. What holds: whatever wasmtime finds there was checked a moment before. The folder that lasts is ours,
//! and several hosts may share it: a file is written beside its place and renamed, and what is not whole, of another
//! form, or damaged is compiled again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
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

/// Where compiled plugins lie within the cache's folder. Other folders beside it are wasmtime's own, of older hosts.
const FOLDER: &str = "modules";
const CHECKED: &str = "checked";
const EXCHANGE: &str = "tickhound-exchange-";

/// Where exchanges are, unless the system has no such folder: in memory, since a disk takes longer to make and remove a
/// few small files than wasmtime takes to load them.
const IN_MEMORY: &str = "/dev/shm";

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
    /// In the folder `dir`, which is there and nobody else's.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        // Wasmtime wants it absolute.
        let dir = dir.canonicalize()?.join(FOLDER);
        let kept = dir.join(CHECKED);
        fs::create_dir_all(&kept)?;
        let exchange = Exchange::new(Path::new(IN_MEMORY)).or_else(|_| Exchange::new(&dir))?;
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
    /// stands for the same code.
    pub(super) fn compile<T>(&self, key: &str, compile: impl FnOnce() -> T) -> (T, bool) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.kept.join(format!("{key}.code"));
        let known = read(&file);
        if let Err(error) = self.exchange.make(known.as_ref()) {
            debug!(
                event = "compiled_plugin_not_loaded",
                file = %file.display(),
                %error,
                "failed to load a compiled plugin"
            );
        }
        let hits = self.wasmtime.cache_hits();
        let made = compile();
        let found = self.wasmtime.cache_hits() > hits;
        let done = match found {
            true => note_use(&file, SystemTime::now()),
            false => self.keep(&file, known.as_ref()),
        };
        if let Err(error) = done {
            debug!(
                event = "compiled_plugin_not_saved",
                file = %file.display(),
                %error,
                "failed to save a compiled plugin"
            );
        }
        self.exchange.remove();
        (made, found)
    }

    /// Keeps what has been compiled; `known` was not what was needed.
    fn keep(&self, file: &Path, known: Option<&Code>) -> io::Result<()> {
        let Some(code) = self.exchange.codes()?.into_iter().find(|code| Some(code) != known) else { return Ok(()) };
        // Whoever clears the folder while a host runs need not know about this one.
        fs::create_dir_all(&self.kept)?;
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
    fn new(within: &Path) -> Result<Self> {
        sweep(within, SystemTime::now());
        let exchange = Self { dir: within.join(format!("{EXCHANGE}{:016x}", rand::random::<u64>())) };
        exchange.make(None)?;
        Ok(exchange)
    }

    /// Makes it anew, with this code in it.
    fn make(&self, code: Option<&Code>) -> io::Result<()> {
        self.remove();
        // Others may write beside it, and must not write into it.
        DirBuilder::new().mode(0o700).create(&self.dir)?;
        let Some(code) = code else { return Ok(()) };
        let place = self.dir.join(&code.place);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(place, &code.bytes)
    }

    /// Wasmtime's code files. Others, such as its statistics, have an extension.
    fn codes(&self) -> io::Result<Vec<Code>> {
        let mut codes = Vec::new();
        for compiler in fs::read_dir(self.dir.join(FOLDER))? {
            for file in fs::read_dir(compiler?.path())? {
                let path = file?.path();
                if let (None, Ok(place)) = (path.extension(), path.strip_prefix(&self.dir)) {
                    codes.push(Code { place: place.to_owned(), bytes: fs::read(&path)? });
                }
            }
        }
        Ok(codes)
    }

    fn remove(&self) {
        // Wasmtime's thread may be adding its statistics there meanwhile, which nobody needs.
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let _ = (0..3).any(|_| fs::remove_dir_all(&self.dir).is_err_and(gone));
    }
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
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let old = modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFT_BEHIND));
        if old && entry.file_name().to_string_lossy().starts_with(EXCHANGE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What a file holds, if it is there and whole. One that is not is removed, and that is said.
fn read(file: &Path) -> Option<Code> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
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
    let mut file = OpenOptions::new().write(true).create_new(true).open(file)?;
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
        let ((), found) = cache.compile("it", || {
            let mode = fs::metadata(&cache.exchange.dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            cache.exchange.make(Some(&code())).unwrap();
        });
        assert!(!found && !cache.exchange.dir.exists());
        assert_eq!(read(&cache.kept.join("it.code")).unwrap(), code());
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
