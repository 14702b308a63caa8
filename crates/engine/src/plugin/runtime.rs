//! Compiles plugin files and refuses, with a sentence, what is no detector.
//!
//! What holds for a [`Plugin`]: it was compiled for this engine, speaks this
//! host's contract, imports no function, and its manifest makes sense.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::{ThreadPool, ThreadPoolBuilder};
use sha2::{Digest, Sha256};
use tracing::{debug, warn};
use wasmparser::{Parser, Payload};
use wasmtime::{
    Cache, Config, Engine, Store,
    component::{Component, Linker, types::ComponentItem},
};

use super::{
    bindings::{DetectorPre, tickhound::detector::types::Manifest},
    code::CodeCache,
    deadline::EPOCH_TICK,
    fault::{Fault, describe_fault},
    guest::{Guest, Limits},
    params,
};

/// The contract that this host speaks: version of the WIT package `tickhound:detector`.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// The contract itself.
pub const CONTRACT_WIT: &str = include_str!("../../../../detectors-sdk/wit/detector.wit");

/// Custom section in which the SDK writes the contract version that a plugin was built for.
const CONTRACT_SECTION: &str = "tickhound:contract";

/// The contract's package as it stands in a component's type imports.
const CONTRACT_TYPES: &str = "tickhound:detector/types@";

/// Enough for any sane detector; a recursion without end hits it before the thread's own stack.
const WASM_STACK_BYTES: usize = 512 * 1024;

/// How far what runs in the background gives way to the workers.
pub const BACKGROUND_NICE: i32 = 10;

/// The wasmtime engines and the thread that lets their calls run out of time.
pub struct Runtime {
    compiler: Compiler,
    /// What was compiled before, and the compiler that looks there.
    pub(super) cached: Option<(CodeCache, Compiler)>,
    /// Where plugins are compiled, so that ticks go first.
    pool: ThreadPool,
    ticker: Arc<Ticker>,
}

/// An engine, and what it links plugins with.
pub(super) struct Compiler {
    engine: Engine,
    linker: Linker<Guest>,
}

/// Lets calls run out of time, as long as there is anything to call: closed on drop, which ends the thread.
struct Ticker {
    _alive: mpsc::Sender<()>,
}

/// A compiled plugin file, ready to be instantiated in any shard.
pub struct Plugin {
    /// Name as `config.toml` writes it: the file's name without `.wasm`.
    pub name: String,
    /// The file it came from.
    pub file: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// What it says about itself.
    pub manifest: Manifest,
    pre: DetectorPre<Guest>,
    engine: Engine,
    _ticker: Arc<Ticker>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {})", self.name, self.sha256)
    }
}

impl Runtime {
    /// An engine that keeps what it has compiled in the folder `cache`, if there is one.
    ///
    /// # Errors
    /// When wasmtime does not support this machine.
    pub fn new(cache: Option<&Path>) -> Result<Self> {
        let compiler = Compiler::new(None)?;
        let with_cache = |cache: CodeCache| anyhow::Ok((Compiler::new(Some(cache.wasmtime()))?, cache));
        let cached = cache.and_then(open_cache).map(with_cache).transpose()?;
        let cached = cached.map(|(compiler, cache)| (cache, compiler));
        let engines =
            cached.iter().map(|(_, cached)| cached).chain([&compiler]).map(|compiler| compiler.engine.clone());
        let ticker = start_ticker(engines.collect())?;
        Ok(Self { compiler, cached, pool: background_pool()?, ticker })
    }

    /// Compiles the bytes of a plugin; `file` is only what messages call it. One that is a file is
    /// compiled in the background, however long it takes, and ticks go first.
    ///
    /// # Errors
    /// Names the step that refused it, and what to do.
    pub fn compile(&self, name: &str, file: &Path, bytes: &[u8], limits: Limits) -> Result<Arc<Plugin>> {
        check_contract_section(bytes)?;
        let encoded = component_bytes(bytes)?;
        let (started, sha256) = (Instant::now(), sha256(bytes));
        let (compiler, component, cached) = self.component(&sha256, encoded.as_deref().unwrap_or(bytes));
        let component = component.map_err(|error| anyhow!("not a valid component: {}", first_line(&error)))?;
        let took_ms = started.elapsed().as_millis() as u64;
        debug!(
            event = "plugin_compiled",
            plugin = name,
            cached,
            took_ms,
            "compiled a plugin, or took it from the cache"
        );
        check_imports(&compiler.engine, &component)?;
        let pre = compiler
            .linker
            .instantiate_pre(&component)
            .and_then(DetectorPre::new)
            .map_err(|error| anyhow!("not a detector of contract {CONTRACT_VERSION}: {}", first_line(&error)))?;
        let manifest = compiler.describe(&pre, limits)?;
        params::check_manifest(&manifest).context("its manifest is not sound; tell its author")?;
        Ok(Arc::new(Plugin {
            name: name.to_owned(),
            file: file.to_path_buf(),
            sha256,
            manifest,
            pre,
            engine: compiler.engine.clone(),
            _ticker: self.ticker.clone(),
        }))
    }

    /// What these bytes are compiled to, by which compiler, and whether that was known before.
    fn component(&self, sha256: &str, bytes: &[u8]) -> (&Compiler, wasmtime::Result<Component>, bool) {
        let compile = |compiler: &Compiler| self.pool.install(|| Component::new(&compiler.engine, bytes));
        let cached = self.cached.as_ref().and_then(|(cache, compiler)| {
            let key = format!("{sha256}-{:016x}", compiler.compatibility());
            let (component, found) = cache.compile(&key, || compile(compiler))?;
            Some((compiler, component, found))
        });
        cached.unwrap_or_else(|| (&self.compiler, compile(&self.compiler), false))
    }
}

impl Compiler {
    /// One that looks in `cache`, if there is one, before it compiles.
    fn new(cache: Option<Cache>) -> Result<Self> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            // NaN bits differ between processors; alerts must not.
            .cranelift_nan_canonicalization(true)
            .coredump_on_trap(true)
            .max_wasm_stack(WASM_STACK_BYTES)
            .cache(cache);
        let engine = Engine::new(&config).map_err(anyhow::Error::from).context("failed to start wasmtime")?;
        let linker = Linker::new(&engine);
        Ok(Self { engine, linker })
    }

    /// Tells hosts apart whose compiled code is not each other's: another processor, or release of wasmtime.
    fn compatibility(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    fn describe(&self, pre: &DetectorPre<Guest>, limits: Limits) -> Result<Manifest> {
        let mut store = Guest::store(&self.engine, limits);
        let answer = pre.instantiate(&mut store).and_then(|guest| guest.call_describe(&mut store));
        answer.map_err(|error| {
            let fault = describe_fault(&error, &mut store, limits, Fault::Start);
            anyhow!("it failed while it was asked what it is: {fault}")
        })
    }
}

impl Plugin {
    pub(super) fn pre(&self) -> &DetectorPre<Guest> {
        &self.pre
    }

    pub(super) fn store(&self, limits: Limits) -> Store<Guest> {
        Guest::store(&self.engine, limits)
    }
}

/// Threads that give way to those that work ticks: they take what is left of every core.
fn background_pool() -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(thread::available_parallelism().map_or(1, usize::from))
        .thread_name(|number| format!("compile-{number}"))
        .start_handler(|_| {
            // On Linux the niceness is the thread's own. Where it can't be had, compiling is only less polite.
            let _ = rustix::process::nice(BACKGROUND_NICE);
        })
        .build()
        .context("failed to start the threads that compile")
}

fn open_cache(dir: &Path) -> Option<CodeCache> {
    CodeCache::open(dir)
        .inspect_err(|error| {
            warn!(
                event = "plugin_cache_unavailable",
                dir = %dir.display(),
                error = format!("{error:#}"),
                "can't use the plugin cache (plugins.cache); plugins are compiled at each start"
            );
        })
        .ok()
}

/// Raises the epochs at a steady pace until what it returns is dropped.
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

/// The component that a core module is made into; `None` when the bytes are a component already.
///
/// # Errors
/// When it is no detector's.
pub fn component_bytes(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    if Parser::is_component(bytes) {
        return Ok(None);
    }
    let mut module = bytes.to_vec();
    if !custom_section_exists(bytes, |name| name.starts_with("component-type")) {
        ensure!(
            exports_function(bytes, "detect"),
            "a WebAssembly module, but no detector: build it with tickhound-sdk and the `detector!` macro"
        );
        describe_exports(&mut module).context("can't be made a component")?;
    }
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| {
            let cause = format!("{error:#}");
            match cause.contains("wasi") {
                true => anyhow!("it imports WASI, which detectors don't have; {BUILD_HINT} ({cause})"),
                false => anyhow!("can't be made a component: {cause}"),
            }
        })?;
    Ok(Some(encoded))
}

const BUILD_HINT: &str = "built for wasm32-wasip1 or wasm32-wasip2? build with --target wasm32-unknown-unknown";

/// Refuses another contract version before anything is compiled. Also the first look at the
/// bytes: what is not WebAssembly, or was cut off, ends here.
fn check_contract_section(bytes: &[u8]) -> Result<()> {
    ensure!(!bytes.is_empty(), "the file is empty; was it still being copied?");
    ensure!(bytes.starts_with(b"\0asm"), "not a WebAssembly file");
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| anyhow!("damaged or cut off, copy it again: {error}"))?;
        let Some(built_for) = built_for(&payload) else { continue };
        ensure!(
            built_for == CONTRACT_VERSION,
            "built for detector contract {built_for}, this host speaks {CONTRACT_VERSION}: \
             rebuild it with the tickhound-sdk of this release"
        );
    }
    Ok(())
}

/// The contract version that a part of a file tells.
pub fn built_for(payload: &Payload<'_>) -> Option<String> {
    match payload {
        Payload::CustomSection(section) if section.name() == CONTRACT_SECTION => {
            Some(String::from_utf8_lossy(section.data()).into_owned())
        }
        Payload::ComponentImportSection(imports) => {
            let names = imports.clone().into_iter().filter_map(|import| import.ok());
            names.filter_map(|import| import.name.name.strip_prefix(CONTRACT_TYPES)).next().map(str::to_owned)
        }
        _ => None,
    }
}

fn custom_section_exists(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> bool {
    Parser::new(0)
        .parse_all(bytes)
        .any(|payload| matches!(payload, Ok(Payload::CustomSection(section)) if wanted(section.name())))
}

fn exports_function(bytes: &[u8], wanted: &str) -> bool {
    Parser::new(0).parse_all(bytes).any(|payload| match payload {
        Ok(Payload::ExportSection(exports)) => exports.into_iter().flatten().any(|export| export.name == wanted),
        _ => false,
    })
}

/// Writes into a core module what its exports are in the contract's terms: compilers of C can't.
fn describe_exports(module: &mut Vec<u8>) -> Result<()> {
    let mut contract = wit_parser::Resolve::default();
    let package = contract.push_source("detector.wit", CONTRACT_WIT)?;
    let world = contract.select_world(&[package], Some("detector"))?;
    wit_component::embed_component_metadata(module, &contract, world, wit_component::StringEncoding::UTF8)
}

/// A detector is a function of its ticks: it may import types, but nothing that it could call.
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

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
