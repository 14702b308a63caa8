//! Compiles plugin files, and rejects with a reason what is not a detector.
//!
//! What holds: a [`Plugin`] was compiled for this engine, speaks this host's contract, imports no function, and has a
//! valid manifest. In a runtime with [`Isolation::Process`], a check process has found that before.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tracing::{debug, warn};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};
use wasmtime::{
    Cache, Config, Engine, Store,
    component::{Component, Linker, types::ComponentItem},
};

use super::{
    check_process::{CheckFailure, CheckTask, Isolation, ProcessLimits, Request, TrialResult, request},
    code::{CacheLocation, CodeCache, CodeOrigin, wasmtime_cache},
    contract::{ContractVersion, stated_version},
    deadline::EPOCH_TICK,
    exports::ExportsPre,
    fault::{Fault, describe_fault},
    guest::{Guest, Limits},
    manifest::Manifest,
    params, structure,
};

pub use super::{
    contract::{CONTRACT_VERSION, CONTRACT_VERSIONS, built_for},
    digest::sha256,
};

/// The number of core parameters of `detect` in contract 0.1: four lists, each an address and a length. In 0.2 there are three.
const PARAMS_OF_DETECT_0_1: usize = 8;

/// The maximum stack of a guest. It is enough for any sane detector, and an endless recursion exceeds it before the
/// thread's own stack.
const WASM_STACK_BYTES: usize = 512 * 1024;

/// The niceness of background threads, so that the workers' threads go first.
pub const BACKGROUND_NICE: i32 = 10;

/// The wasmtime engines, and the thread that advances their epochs.
pub struct Runtime {
    isolation: Isolation,
    compiler: Compiler,
    /// The cache of compiled plugins, and the compiler that uses it.
    cached: Option<(CodeCache, Compiler)>,
    /// The last rejection by a check process. A change that is rejected is tried once more when its files have settled, and
    /// a check may take minutes.
    rejected: Mutex<Option<Rejected>>,
    /// The threads that compile, which give way to the workers' threads.
    pool: ThreadPool,
    ticker: Arc<Ticker>,
}

/// A plugin that a check process has rejected.
struct Rejected {
    sha256: String,
    request: Request,
    reason: String,
}

/// A wasmtime engine with its linker.
struct Compiler {
    engine: Engine,
    linker: Linker<Guest>,
}

/// Keeps the thread alive that advances the epochs, on which deadlines depend. Each plugin holds a reference.
struct Ticker {
    _alive: mpsc::Sender<()>,
}

/// A compiled plugin, ready to be instantiated in any shard.
pub struct Plugin {
    /// The name in `config.toml`, which is the file's name without `.wasm`.
    pub name: String,
    /// The path of the plugin's file.
    pub file: PathBuf,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The plugin's description of itself.
    pub manifest: Manifest,
    exports: ExportsPre,
    engine: Engine,
    _ticker: Arc<Ticker>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {})", self.name, self.sha256)
    }
}

impl Runtime {
    /// Returns a runtime that keeps compiled plugins in `cache`, if one is given.
    ///
    /// # Errors
    /// Fails when wasmtime does not support this machine.
    pub fn new(cache: Option<&CacheLocation>, isolation: Isolation) -> Result<Self> {
        let code = cache.and_then(|location| open_cache(Some(location)));
        // A check process hands its code over in an exchange, although it is not kept.
        let code = match (code, isolation) {
            (None, Isolation::Process(_)) => open_cache(None),
            (code, _) => code,
        };
        let with_compiler = |code: CodeCache| anyhow::Ok((Compiler::new(Some(code.wasmtime()))?, code));
        let cached = code.map(with_compiler).transpose()?.map(|(compiler, code)| (code, compiler));
        Self::of(Compiler::new(None)?, cached, isolation)
    }

    /// Returns the runtime of a check process, which leaves the code that it compiles in the folder `exchange`.
    pub(super) fn in_check_process(exchange: Option<&Path>) -> Result<Self> {
        let cache = exchange.map(wasmtime_cache).transpose()?;
        Self::of(Compiler::new(cache)?, None, Isolation::InProcess)
    }

    fn of(compiler: Compiler, cached: Option<(CodeCache, Compiler)>, isolation: Isolation) -> Result<Self> {
        let engines =
            cached.iter().map(|(_, cached)| cached).chain([&compiler]).map(|compiler| compiler.engine.clone());
        let ticker = start_ticker(engines.collect())?;
        Ok(Self { isolation, compiler, cached, rejected: Mutex::new(None), pool: background_pool()?, ticker })
    }

    /// Compiles the bytes of a plugin in background threads, so that ticks go first. `file` only appears in messages.
    ///
    /// # Errors
    /// Names the reason why the plugin is rejected, and what to do.
    pub fn compile(&self, name: &str, file: &Path, bytes: &[u8], limits: Limits) -> Result<Arc<Plugin>> {
        let (started, sha256) = (Instant::now(), sha256(bytes));
        let handover = self.cached.as_ref().and_then(|(cache, compiler)| {
            let handover = cache.begin(&compiler.key(&sha256))?;
            Some((handover, compiler))
        });
        let is_cached = handover.as_ref().is_some_and(|(handover, _)| handover.is_cached());
        if let (Isolation::Process(process), false) = (self.isolation, is_cached) {
            let exchange = handover.as_ref().map(|(handover, _)| handover.dir());
            self.check(process, request(name, exchange, limits, CheckTask::Describe), bytes, &sha256)?;
            if let Some((handover, _)) = handover.as_ref().filter(|(handover, _)| !handover.has_code()) {
                // This process must not do again what a check process may have needed minutes and gigabytes for.
                bail!("no room for its compiled code in {}", handover.dir().display());
            }
        }
        let stated = stated_version(bytes)?;
        structure::check(bytes)?;
        let encoded = component_bytes(bytes)?;
        let component = encoded.as_deref().unwrap_or(bytes);
        let compile = |compiler: &Compiler| self.pool.install(|| Component::new(&compiler.engine, component));
        let (compiler, (component, origin)) = match handover {
            Some((handover, compiler)) => (compiler, handover.compile(|| compile(compiler))),
            None => (&self.compiler, (compile(&self.compiler), CodeOrigin::Compiler)),
        };
        let component = component.map_err(|error| anyhow!("not a valid component: {}", first_line(&error)))?;
        debug!(
            event = "plugin_compiled",
            plugin = name,
            cached = origin == CodeOrigin::Cache,
            took_ms = started.elapsed().as_millis() as u64,
            "compiled a plugin, or loaded it from the cache"
        );
        check_imports(&compiler.engine, &component)?;
        let version = stated.unwrap_or_else(|| version_of_exports(&compiler.engine, &component));
        let exports = compiler
            .linker
            .instantiate_pre(&component)
            .and_then(|pre| ExportsPre::new(version, pre))
            .map_err(|error| not_a_detector(stated, &error))?;
        let manifest = compiler.describe(&exports, limits)?;
        params::check_manifest(&manifest).context("invalid manifest; please report this to the plugin's author")?;
        Ok(Arc::new(Plugin {
            name: name.to_owned(),
            file: file.to_path_buf(),
            sha256,
            manifest,
            exports,
            engine: compiler.engine.clone(),
            _ticker: self.ticker.clone(),
        }))
    }

    /// Has a plugin checked in a process of its own, unless the same request was just rejected for a reason that does not
    /// depend on the machine. `sha256` is the digest of the plugin's `bytes`.
    ///
    /// # Errors
    /// The reason why the plugin is rejected.
    pub(super) fn check(
        &self,
        process: ProcessLimits,
        request: Request,
        bytes: &[u8],
        sha256: &str,
    ) -> Result<Option<TrialResult>> {
        let mut last = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref().filter(|known| known.sha256 == sha256 && known.request == request) {
            bail!(known.reason.clone());
        }
        let checked = process.check(&request, bytes);
        if let Err(CheckFailure::Rejected(reason)) = &checked {
            *last = Some(Rejected { sha256: sha256.to_owned(), request, reason: reason.clone() });
        }
        Ok(checked?)
    }

    /// Returns where plugins are checked.
    pub(super) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Returns the cache of compiled plugins, with the key of the code of a plugin.
    pub(super) fn cached_code(&self, sha256: &str) -> Option<(&CodeCache, String)> {
        self.cached.as_ref().map(|(cache, compiler)| (cache, compiler.key(sha256)))
    }
}

impl Compiler {
    /// Returns a compiler that uses wasmtime's `cache`, if one is given.
    fn new(cache: Option<Cache>) -> Result<Self> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            // NaN bits differ between processors, but alerts must not.
            .cranelift_nan_canonicalization(true)
            .coredump_on_trap(true)
            .max_wasm_stack(WASM_STACK_BYTES)
            .cache(cache);
        let engine = Engine::new(&config).map_err(anyhow::Error::from).context("failed to start wasmtime")?;
        let linker = Linker::new(&engine);
        Ok(Self { engine, linker })
    }

    /// Returns the key of compiled code. It differs between hosts that can't share code, because of another processor or
    /// release of wasmtime.
    fn key(&self, sha256: &str) -> String {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        format!("{sha256}-{:016x}", hasher.finish())
    }

    fn describe(&self, exports: &ExportsPre, limits: Limits) -> Result<Manifest> {
        let mut store = Guest::store(&self.engine, limits);
        let answer = exports.instantiate(&mut store).and_then(|exports| exports.describe(&mut store));
        answer.map_err(|error| {
            let fault = describe_fault(&error, &mut store, limits, Fault::Start);
            anyhow!("it failed while it described itself: {fault}")
        })
    }
}

impl Plugin {
    /// Returns the version of the contract that the plugin speaks.
    pub fn contract(&self) -> &'static str {
        self.exports.version().as_str()
    }

    /// Returns whether the plugin can tell why it found something, or nothing.
    pub fn can_probe(&self) -> bool {
        self.exports.can_probe()
    }

    pub(super) fn exports(&self) -> &ExportsPre {
        &self.exports
    }

    pub(super) fn store(&self, limits: Limits) -> Store<Guest> {
        Guest::store(&self.engine, limits)
    }
}

/// Starts the threads that compile. They give way to the workers' threads, and use what these leave of every core.
fn background_pool() -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(thread::available_parallelism().map_or(1, usize::from))
        .thread_name(|number| format!("compile-{number}"))
        .start_handler(|_| {
            // On Linux the niceness is per thread. If it can't be set, compiling only takes more time from the workers.
            let _ = rustix::process::nice(BACKGROUND_NICE);
        })
        .build()
        .context("failed to start the threads that compile")
}

fn open_cache(location: Option<&CacheLocation>) -> Option<CodeCache> {
    CodeCache::open(location)
        .inspect_err(|error| {
            warn!(
                event = "plugin_cache_unavailable",
                dir = location.map(|location| location.dir.display().to_string()),
                error = format!("{error:#}"),
                "can't use the plugin cache (plugins.cache); plugins are compiled at each start"
            );
        })
        .ok()
}

/// Starts a thread that advances the epochs at a fixed rate until the returned ticker is dropped.
fn start_ticker(engines: Vec<Engine>) -> Result<Arc<Ticker>> {
    let (alive, stopped) = mpsc::channel::<()>();
    thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(EPOCH_TICK) {
                engines.iter().for_each(Engine::increment_epoch);
            }
        })
        .context("failed to start the deadline thread")?;
    Ok(Arc::new(Ticker { _alive: alive }))
}

/// Returns the component made from a core module, or `None` if the bytes are a component already.
///
/// # Errors
/// Fails when the module is not a detector.
pub fn component_bytes(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    if Parser::is_component(bytes) {
        return Ok(None);
    }
    let mut module = bytes.to_vec();
    if !custom_section_exists(bytes, |name| name.starts_with("component-type")) {
        let Some(params) = params_of_detect(bytes) else {
            bail!("a WebAssembly module, but not a detector: build it with tickhound-sdk and the `detector!` macro")
        };
        let stated = stated_version(bytes)?;
        let by_shape = if params == PARAMS_OF_DETECT_0_1 { ContractVersion::V0_1 } else { ContractVersion::V0_2 };
        describe_exports(&mut module, stated.unwrap_or(by_shape)).context("can't be made a component")?;
    }
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| {
            let cause = format!("{error:#}");
            if cause.contains("wasi") {
                anyhow!("it imports WASI, which detectors don't have; {BUILD_HINT} ({cause})")
            } else {
                anyhow!("can't be made a component: {cause}")
            }
        })?;
    Ok(Some(encoded))
}

const BUILD_HINT: &str = "built for wasm32-wasip1 or wasm32-wasip2? build with --target wasm32-unknown-unknown";

fn custom_section_exists(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> bool {
    Parser::new(0)
        .parse_all(bytes)
        .any(|payload| matches!(payload, Ok(Payload::CustomSection(section)) if wanted(section.name())))
}

/// Returns the number of parameters of the core function that a module exports as `detect`.
fn params_of_detect(bytes: &[u8]) -> Option<usize> {
    let (mut types, mut functions, mut detect) = (Vec::new(), Vec::new(), None);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::TypeSection(section) => {
                types.extend(section.into_iter_err_on_gc_types().map(|ty| ty.map_or(0, |ty| ty.params().len())));
            }
            Payload::ImportSection(section) => {
                let imports = section.into_imports().flatten();
                functions.extend(imports.filter_map(|import| match import.ty {
                    TypeRef::Func(ty) => Some(ty),
                    _ => None,
                }));
            }
            Payload::FunctionSection(section) => functions.extend(section.into_iter().flatten()),
            Payload::ExportSection(section) => {
                let mut exports = section.into_iter().flatten();
                detect = exports.find(|export| export.name == "detect" && export.kind == ExternalKind::Func);
            }
            _ => {}
        }
    }
    let ty = functions.get(detect?.index as usize)?;
    types.get(*ty as usize).copied()
}

/// Adds a description of the exports in terms of the contract to a core module, since C compilers can't.
fn describe_exports(module: &mut Vec<u8>, version: ContractVersion) -> Result<()> {
    let mut contract = wit_parser::Resolve::default();
    let package = contract.push_source("detector.wit", version.wit())?;
    let can_probe = version == ContractVersion::V0_2 && exports_function(module, "probe");
    let world = if can_probe { "explaining-detector" } else { "detector" };
    let world = contract.select_world(&[package], Some(world))?;
    wit_component::embed_component_metadata(module, &contract, world, wit_component::StringEncoding::UTF8)
}

fn exports_function(bytes: &[u8], wanted: &str) -> bool {
    Parser::new(0).parse_all(bytes).any(|payload| match payload {
        Ok(Payload::ExportSection(exports)) => exports.into_iter().flatten().any(|export| export.name == wanted),
        _ => false,
    })
}

/// Returns the version whose `detect` a component exports: that of 0.1 has one parameter.
fn version_of_exports(engine: &Engine, component: &Component) -> ContractVersion {
    match component.component_type().get_export(engine, "detect").map(|export| export.ty) {
        Some(ComponentItem::ComponentFunc(detect)) if detect.params().len() != 1 => ContractVersion::V0_2,
        _ => ContractVersion::V0_1,
    }
}

fn not_a_detector(stated: Option<ContractVersion>, error: &wasmtime::Error) -> anyhow::Error {
    let version = stated.map_or_else(|| CONTRACT_VERSIONS.join(" or "), |version| version.as_str().to_owned());
    anyhow!("not a detector of contract {version}: {}", first_line(error))
}

/// Rejects a component that could call anything. A detector is a function of its ticks, so it may import types only.
fn check_imports(engine: &Engine, component: &Component) -> Result<()> {
    for (name, item) in component.component_type().imports(engine) {
        let callable = match item.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).any(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
            }
            ComponentItem::Type(_) => false,
            _ => true,
        };
        if callable && name.starts_with("wasi:") {
            bail!("it imports {name}, but detectors have no WASI; {BUILD_HINT}");
        }
        ensure!(!callable, "it imports {name}, but a detector can call nothing outside itself");
    }
    Ok(())
}

fn first_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tickhound_core::config::PluginsConfig;

    #[test]
    fn a_plugin_is_compiled_without_the_cache_where_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let location = CacheLocation { dir: dir.path().join("cache"), key: dir.path().join("user/key") };
        let runtime = Runtime::new(Some(&location), Isolation::InProcess).unwrap();
        let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/breakout.wasm");
        let (bytes, limits) = (fs::read(&wasm).unwrap(), Limits::of(&PluginsConfig::default()));
        let cache = &runtime.cached.as_ref().unwrap().0;
        fs::write(cache.exchange_dir(), "in the way").unwrap();
        let plugin = runtime.compile("breakout", &wasm, &bytes, limits).unwrap();
        fs::remove_file(cache.exchange_dir()).unwrap();
        assert_eq!(plugin.manifest.name, "breakout");
        assert_eq!(fs::read_dir(location.dir.join("modules/authentic")).unwrap().count(), 0);
    }
}
