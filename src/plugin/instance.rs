//! One detector at work in one shard: one `Store`, its limits, its faults.
//!
//! Invariant: after a [`Fault`] the instance is dropped, never called again.

use std::{fmt, sync::Arc, time::Duration};

use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder, Trap, WasmCoreDump};

use super::{
    bindings::{
        Detector,
        tickhound::detector::types::{Batch as TicksParam, Detection, Symbol, ValueParam},
    },
    params::Params,
    runtime::{EPOCH_TICK, Plugin},
};
use crate::{
    config::PluginsConfig,
    event::{Batch, CLOCK},
};

/// What one instance may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest linear memory, bytes.
    pub memory_max_bytes: usize,
    /// Longest call.
    pub call_deadline: Duration,
}

impl Limits {
    /// As `[plugins]` sets them.
    pub fn of(config: &PluginsConfig) -> Self {
        Self {
            memory_max_bytes: config.memory_max_mib << 20,
            call_deadline: Duration::from_millis(config.call_deadline_ms),
        }
    }
}

/// Tables hold a guest's function pointers; a detector has some hundred.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Parts of one component: its core module, and the adapters around it.
const CORE_INSTANCES_MAX: usize = 32;

/// The SDK's panic hook leaves the message behind these bytes in linear memory,
/// its length in the four (little-endian) that follow.
const PANIC_MARK: &[u8; 16] = b"TICKHOUND-PANIC\0";

/// As much as the SDK keeps of a message.
const PANIC_TEXT_MAX: usize = 1024;

/// What a store holds beside the guest.
pub struct Guest {
    limits: StoreLimits,
}

impl Guest {
    pub(super) fn store(engine: &Engine, limits: Limits) -> Store<Self> {
        let store_limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory_max_bytes)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(CORE_INSTANCES_MAX)
            .trap_on_grow_failure(true)
            .build();
        let mut store = Store::new(engine, Self { limits: store_limits });
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(ticks(limits.call_deadline));
        store
    }
}

fn ticks(deadline: Duration) -> u64 {
    // One more: the running epoch may be nearly over.
    deadline.as_nanos().div_ceil(EPOCH_TICK.as_nanos()) as u64 + 1
}

/// Why a call did not end well.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It panicked or did something WebAssembly forbids; the text is the guest's own where it left one.
    Trap(String),
    /// It ran longer than the limit.
    Deadline(Duration),
    /// It returned what the contract does not allow, or refused what it had accepted before.
    Contract(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => f.write_str(text),
            Self::Deadline(limit) => {
                write!(f, "ran longer than {} ms (plugins.call_deadline_ms)", limit.as_millis())
            }
            Self::Contract(text) => write!(f, "broke the contract: {text}"),
        }
    }
}

/// A running detector.
pub struct Instance {
    store: Store<Guest>,
    guest: Detector,
    limits: Limits,
    /// Position in [`Batch::columns`] of each column that it asked for.
    columns: Arc<[Option<usize>]>,
    /// A column of NaN for what is asked for, optional and not there.
    absent: Vec<f64>,
    /// By symbol id, whether it was introduced.
    introduced: Vec<bool>,
    /// Event time that must pass before its first detection, seconds.
    pub warm_up_seconds: f64,
}

impl Instance {
    /// Starts a detector with its parameters; `columns` as the manifest asked for them.
    ///
    /// # Errors
    /// A fault, or its own sentence on why it refuses the parameters.
    pub fn new(plugin: &Plugin, params: &Params, columns: Arc<[Option<usize>]>) -> Result<Self, Fault> {
        let limits = plugin.limits();
        let mut store = plugin.store();
        let values: Vec<(&str, ValueParam<'_>)> =
            params.iter().map(|(name, value)| (name.as_str(), params_value(value))).collect();
        let started = plugin.pre().instantiate(&mut store).and_then(|guest| {
            let answer = guest.call_configure(&mut store, &values)?;
            Ok((guest, answer))
        });
        match started {
            Ok((guest, Ok(readiness))) => Ok(Self {
                store,
                guest,
                limits,
                columns,
                absent: Vec::new(),
                introduced: Vec::new(),
                warm_up_seconds: readiness.warm_up_seconds,
            }),
            Ok((_, Err(refusal))) => Err(Fault::Contract(format!("refused its parameters: {refusal}"))),
            Err(error) => Err(describe_fault(&error, &mut store, limits)),
        }
    }

    /// Names symbols before their first tick.
    ///
    /// # Errors
    /// A fault; the instance must be dropped.
    pub fn introduce(&mut self, symbols: &[(u32, &str)]) -> Result<(), Fault> {
        for (id, _) in symbols {
            let id = *id as usize;
            self.introduced.resize(self.introduced.len().max(id + 1), false);
            self.introduced[id] = true;
        }
        let symbols: Vec<Symbol<'_>> = symbols.iter().map(|(id, name)| Symbol { id: *id, name }).collect();
        self.store.set_epoch_deadline(ticks(self.limits.call_deadline));
        let answer = self.guest.call_introduce(&mut self.store, &symbols);
        answer.map_err(|error| describe_fault(&error, &mut self.store, self.limits))
    }

    /// Works off one batch; detections come in the order of their rows and are within the contract.
    ///
    /// # Errors
    /// A fault; the instance must be dropped.
    pub fn detect(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        if self.columns.contains(&None) {
            self.absent.resize(batch.len(), f64::NAN);
        }
        let columns: Vec<&[f64]> = self
            .columns
            .iter()
            .map(|position| match position {
                Some(position) => batch.columns[*position].as_slice(),
                None => &self.absent[..batch.len()],
            })
            .collect();
        let ticks_param =
            TicksParam { symbols: &batch.symbol, times: &batch.time, prices: &batch.price, columns: &columns };
        self.store.set_epoch_deadline(ticks(self.limits.call_deadline));
        match self.guest.call_detect(&mut self.store, ticks_param) {
            Ok(detections) => check(detections, batch, &self.introduced),
            Err(error) => Err(describe_fault(&error, &mut self.store, self.limits)),
        }
    }
}

fn params_value(value: &super::params::Value) -> ValueParam<'_> {
    use super::params::Value;
    match value {
        Value::Flag(v) => ValueParam::Flag(*v),
        Value::Integer(v) => ValueParam::Integer(*v),
        Value::Number(v) => ValueParam::Number(*v),
        Value::Text(v) => ValueParam::Text(v),
    }
}

/// Refuses what the contract does not allow, so that nothing behind has to look again.
fn check(detections: Vec<Detection>, batch: &Batch, introduced: &[bool]) -> Result<Vec<Detection>, Fault> {
    let wrong = |what: String| Err(Fault::Contract(what));
    let mut last_row = 0;
    for found in &detections {
        let Some(&symbol) = batch.symbol.get(found.row as usize) else {
            return wrong(format!("a detection at row {} of a batch of {}", found.row, batch.len()));
        };
        if found.row < last_row {
            return wrong(format!("a detection at row {} after one at row {last_row}", found.row));
        }
        last_row = found.row;
        let about_it =
            if symbol == CLOCK { introduced.get(found.symbol as usize) == Some(&true) } else { found.symbol == symbol };
        if !about_it {
            return wrong(format!(
                "a detection at row {} about symbol {}, which is not the row's",
                found.row, found.symbol
            ));
        }
        if !(0.0..=1.0).contains(&found.confidence) {
            return wrong(format!("confidence {} is not in 0..=1", found.confidence));
        }
        if let Some((name, value)) = found.evidence.iter().find(|(_, value)| !value.is_finite()) {
            return wrong(format!("evidence {name} is {value}"));
        }
    }
    Ok(detections)
}

/// Turns a failed call into its reason, with the guest's own panic text where there is one.
pub(super) fn describe_fault(error: &wasmtime::Error, store: &mut Store<Guest>, limits: Limits) -> Fault {
    if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        return Fault::Deadline(limits.call_deadline);
    }
    if let Some(text) = error.downcast_ref::<WasmCoreDump>().and_then(|dump| panic_text(dump, store)) {
        return Fault::Trap(text);
    }
    let root = error.root_cause().to_string();
    if root.contains("growing memory") {
        let mib = limits.memory_max_bytes >> 20;
        return Fault::Trap(format!("wanted more memory than its {mib} MiB (plugins.memory_max_mib)"));
    }
    Fault::Trap(root)
}

fn panic_text(dump: &WasmCoreDump, store: &mut Store<Guest>) -> Option<String> {
    dump.memories().iter().find_map(|memory| {
        let bytes = memory.data(&*store);
        let mark = find(bytes, PANIC_MARK)? + PANIC_MARK.len();
        let length = u32::from_le_bytes(bytes.get(mark..mark + 4)?.try_into().ok()?) as usize;
        let text = bytes.get(mark + 4..mark + 4 + length.min(PANIC_TEXT_MAX))?;
        (length > 0).then(|| String::from_utf8_lossy(text).into_owned())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
