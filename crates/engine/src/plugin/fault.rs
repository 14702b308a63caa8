//! The reason why a guest's call failed, in words for the author of the guest.

use std::fmt;

use memchr::memmem;
use wasmtime::{Store, Trap, WasmCoreDump};

use super::{
    deadline::Overrun,
    guest::{Guest, Limits, Shortage, TABLE_ELEMENTS_MAX},
    texts::{MESSAGE_BYTES_MAX, shortened},
};
use tickhound_core::text::printable;

/// The mark in linear memory behind which the SDK's panic hook writes the message: a length of four bytes
/// (little-endian), then the text.
const PANIC_MARK: &[u8; 16] = b"TICKHOUND-PANIC\0";

/// The marks that are looked at in each memory; a guest could fill its memory with empty ones.
const PANIC_MARKS_MAX: usize = 8;

/// Part of wasmtime's message when a guest returns more than the call allows. It has no public type.
const TOO_MUCH_RETURNED: &str = "fuel allocated for hostcalls has been exhausted";

/// The reason why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The guest panicked or did something that WebAssembly forbids. The text is the guest's own panic message if there
    /// is one.
    Trap(String),
    /// The guest wanted more memory than `plugins.memory_max_mib` allows.
    Memory {
        /// The limit, MiB.
        limit_mib: usize,
        /// The number of symbols that were introduced to the instance.
        symbols: usize,
    },
    /// The call took longer than `plugins.call_deadline_ms` allows for its number of rows.
    Deadline(Overrun),
    /// The start took longer than `plugins.start_deadline_ms` allows.
    Start(Overrun),
    /// The guest returned something that the contract does not allow, or rejected its parameters.
    Contract(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => f.write_str(text),
            Self::Memory { limit_mib, symbols: 0 } => {
                write!(f, "wanted more memory than its {limit_mib} MiB (plugins.memory_max_mib)")
            }
            Self::Memory { limit_mib, symbols } => write!(
                f,
                "wanted more memory than its {limit_mib} MiB (plugins.memory_max_mib), with {symbols} symbols in one worker; \
                 if it needs that for so many, raise the limit, or lower engine.symbols_max"
            ),
            Self::Deadline(overrun) => overrun.describe(f, "ran", "plugins.call_deadline_ms"),
            Self::Start(overrun) => overrun.describe(f, "its start took", "plugins.start_deadline_ms"),
            Self::Contract(text) => write!(f, "broke the contract: {text}"),
        }
    }
}

/// Returns the reason of a failed call, with the guest's own panic message if there is one. `on_overrun` makes the reason
/// if the call was ended at a time limit.
pub(super) fn describe_fault(
    error: &wasmtime::Error,
    store: &mut Store<Guest>,
    limits: Limits,
    on_overrun: fn(Overrun) -> Fault,
) -> Fault {
    if let (Some(Trap::Interrupt), Some(overrun)) = (error.downcast_ref::<Trap>(), store.data().overrun()) {
        return on_overrun(overrun);
    }
    match store.data().shortage() {
        Some(Shortage::Total) => return Fault::Memory { limit_mib: limits.memory_max_bytes >> 20, symbols: 0 },
        Some(Shortage::Declared) => {
            return Fault::Trap("wanted more memory than the maximum that it declares itself".to_owned());
        }
        Some(Shortage::Table) => {
            return Fault::Trap(format!("wanted a table of more than {TABLE_ELEMENTS_MAX} elements"));
        }
        None => {}
    }
    let root = error.root_cause().to_string();
    if root.contains(TOO_MUCH_RETURNED) {
        return Fault::Contract(store.data().call().excess(limits.state_max_bytes));
    }
    // A guest that reports a text then executes `unreachable`. SDKs for interpreters leave a text in advance, for calls of
    // the system that can't be caught, so it says nothing about any other trap.
    let is_reported = matches!(error.downcast_ref::<Trap>(), None | Some(Trap::UnreachableCodeReached));
    // Last, since this searches the guest's memory.
    if is_reported && let Some(text) = error.downcast_ref::<WasmCoreDump>().and_then(|dump| panic_text(dump, store)) {
        return Fault::Trap(text);
    }
    Fault::Trap(shortened(&root, MESSAGE_BYTES_MAX).into_owned())
}

fn panic_text(dump: &WasmCoreDump, store: &mut Store<Guest>) -> Option<String> {
    dump.memories().iter().find_map(|memory| {
        let bytes = memory.data(&*store);
        // An interpreter may have copied the mark, for example while it compiled the SDK.
        memmem::find_iter(bytes, PANIC_MARK).take(PANIC_MARKS_MAX).find_map(|mark| {
            let mark = mark + PANIC_MARK.len();
            let length = u32::from_le_bytes(bytes.get(mark..mark + 4)?.try_into().ok()?) as usize;
            let text = bytes.get(mark + 4..mark + 4 + length.min(MESSAGE_BYTES_MAX))?;
            // It ends up in the log, in dead letters and on the page.
            (length > 0).then(|| shortened(&printable(&String::from_utf8_lossy(text)), MESSAGE_BYTES_MAX).into_owned())
        })
    })
}
