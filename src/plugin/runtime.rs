//! Compiles plugin files and refuses, with a sentence, what is no detector.
//!
//! What holds for a [`Plugin`]: it was compiled for this engine, speaks this
//! host's contract, imports no function, and its manifest makes sense.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::{
    Config, Engine, Store,
    component::{Component, Linker, types::ComponentItem},
};

use super::{
    bindings::{DetectorPre, tickhound::detector::types::Manifest},
    fault::describe_fault,
    guest::{EPOCH_TICK, Guest, Limits},
    params,
};

/// The contract that this host speaks: version of the WIT package `tickhound:detector`.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// Custom section in which the SDK writes the contract version that a plugin was built for.
const CONTRACT_SECTION: &str = "tickhound:contract";

/// The contract's package as it stands in a component's type imports.
const CONTRACT_TYPES: &str = "tickhound:detector/types@";

/// Enough for any sane detector; a recursion without end hits it before the thread's own stack.
const WASM_STACK_BYTES: usize = 512 * 1024;

/// The wasmtime engine and the thread that lets its calls run out of time.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Guest>,
    limits: Limits,
    /// Closed on drop, which ends the ticker.
    _ticker: mpsc::Sender<()>,
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
    limits: Limits,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {})", self.name, self.sha256)
    }
}

impl Runtime {
    /// An engine whose guests get `limits`.
    ///
    /// # Errors
    /// When wasmtime does not support this machine.
    pub fn new(limits: Limits) -> Result<Self> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            // NaN bits differ between processors; alerts must not.
            .cranelift_nan_canonicalization(true)
            .coredump_on_trap(true)
            .max_wasm_stack(WASM_STACK_BYTES);
        let engine = Engine::new(&config).map_err(anyhow::Error::from).context("failed to start wasmtime")?;
        let linker = Linker::new(&engine);
        let ticker = start_ticker(engine.clone())?;
        Ok(Self { engine, linker, limits, _ticker: ticker })
    }

    /// Compiles `dir/name.wasm`.
    ///
    /// # Errors
    /// Names the file, the step that refused it, and what to do.
    pub fn load(&self, dir: &Path, name: &str) -> Result<Arc<Plugin>> {
        let file = dir.join(format!("{name}.wasm"));
        let bytes = fs::read(&file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow!("there is no {}{}", file.display(), others(dir, name)),
            _ => anyhow!("can't read {}: {error}", file.display()),
        })?;
        self.compile(name, &file, &bytes).with_context(|| format!("refused {}", file.display()))
    }

    /// Compiles a plugin that is in memory; `file` is only what messages call it.
    ///
    /// # Errors
    /// Names the step that refused it, and what to do.
    pub fn compile(&self, name: &str, file: &Path, bytes: &[u8]) -> Result<Arc<Plugin>> {
        check_contract_section(bytes)?;
        let sha256 = hex(&Sha256::digest(bytes));
        let encoded = component_bytes(bytes)?;
        let component = Component::new(&self.engine, encoded.as_deref().unwrap_or(bytes))
            .map_err(|error| anyhow!("not a valid component: {}", first_line(&error)))?;
        check_imports(&self.engine, &component)?;
        let pre = self
            .linker
            .instantiate_pre(&component)
            .and_then(DetectorPre::new)
            .map_err(|error| anyhow!("not a detector of contract {CONTRACT_VERSION}: {}", first_line(&error)))?;
        let manifest = self.describe(&pre)?;
        params::check_manifest(&manifest).context("its manifest is not sound; tell its author")?;
        Ok(Arc::new(Plugin {
            name: name.to_owned(),
            file: file.to_path_buf(),
            sha256,
            manifest,
            pre,
            engine: self.engine.clone(),
            limits: self.limits,
        }))
    }

    fn describe(&self, pre: &DetectorPre<Guest>) -> Result<Manifest> {
        let mut store = Guest::store(&self.engine, self.limits);
        let answer = pre.instantiate(&mut store).and_then(|guest| guest.call_describe(&mut store));
        answer.map_err(|error| {
            let fault = describe_fault(&error, &mut store, self.limits);
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

    /// What each of its instances may use.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// Raises the epoch at a steady pace until the returned sender is dropped.
fn start_ticker(engine: Engine) -> Result<mpsc::Sender<()>> {
    let (alive, stopped) = mpsc::channel::<()>();
    thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(EPOCH_TICK) {
                engine.increment_epoch();
            }
        })
        .context("failed to start the deadline thread")?;
    Ok(alive)
}

/// The component inside a core module as cargo builds it; `None` when the bytes are a component already.
fn component_bytes(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    if Parser::is_component(bytes) {
        return Ok(None);
    }
    ensure!(
        custom_section_exists(bytes, |name| name.starts_with("component-type")),
        "a WebAssembly module, but no detector: build it with tickhound-sdk and the `detector!` macro"
    );
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(bytes)
        .and_then(|encoder| encoder.encode())
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
        let built_for = match &payload {
            Payload::CustomSection(section) if section.name() == CONTRACT_SECTION => {
                String::from_utf8_lossy(section.data()).into_owned()
            }
            Payload::ComponentImportSection(imports) => {
                let names = imports.clone().into_iter().filter_map(|import| import.ok());
                match names.filter_map(|i| i.name.name.strip_prefix(CONTRACT_TYPES)).next() {
                    Some(version) => version.to_owned(),
                    None => continue,
                }
            }
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => continue,
            _ => continue,
        };
        ensure!(
            built_for == CONTRACT_VERSION,
            "built for detector contract {built_for}, this host speaks {CONTRACT_VERSION}: \
             rebuild it with the tickhound-sdk of this release"
        );
    }
    Ok(())
}

fn custom_section_exists(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> bool {
    Parser::new(0)
        .parse_all(bytes)
        .any(|payload| matches!(payload, Ok(Payload::CustomSection(section)) if wanted(section.name())))
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

/// The other plugins in the folder, to choose from.
fn others(dir: &Path, wrong: &str) -> String {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".wasm").map(str::to_owned))
        .collect();
    names.sort();
    match crate::config::nearest(wrong, names.iter().map(String::as_str)) {
        Some(name) => format!("; did you mean `{name}`?"),
        None if names.is_empty() => format!("; {} holds no .wasm file", dir.display()),
        None => format!("; there are: {}", names.join(", ")),
    }
}

fn first_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
