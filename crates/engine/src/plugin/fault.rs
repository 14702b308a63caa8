//! Why a guest's call failed, in words for the author of the guest.

use std::fmt;

use wasmtime::{Store, Trap, WasmCoreDump};

use super::{
    deadline::OutOfTime,
    guest::{Guest, Limits},
};

/// The SDK's panic hook leaves the message behind these bytes in linear memory,
/// its length in the four (little-endian) that follow.
const PANIC_MARK: &[u8; 16] = b"TICKHOUND-PANIC\0";

/// As much as the SDK keeps of a message.
const PANIC_TEXT_MAX: usize = 1024;

/// Why a call did not end well.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It panicked or did something WebAssembly forbids; the text is the guest's own where it left one.
    Trap(String),
    /// A call was not done within what `plugins.call_deadline_ms` allows for so many rows.
    Deadline(OutOfTime),
    /// It did not start within what `plugins.start_deadline_ms` allows.
    Start(OutOfTime),
    /// It returned what the contract does not allow, or refused what it had accepted before.
    Contract(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => f.write_str(text),
            Self::Deadline(limit) => limit.describe(f, "ran", "plugins.call_deadline_ms"),
            Self::Start(limit) => limit.describe(f, "its start took", "plugins.start_deadline_ms"),
            Self::Contract(text) => write!(f, "broke the contract: {text}"),
        }
    }
}

/// Turns a failed call into its reason, with the guest's own panic text where there is one;
/// `out_of_time` makes the reason if a limit has ended it.
pub(super) fn describe_fault(
    error: &wasmtime::Error,
    store: &mut Store<Guest>,
    limits: Limits,
    out_of_time: fn(OutOfTime) -> Fault,
) -> Fault {
    if let (Some(Trap::Interrupt), Some(limit)) = (error.downcast_ref::<Trap>(), store.data().out_of_time()) {
        return out_of_time(limit);
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
