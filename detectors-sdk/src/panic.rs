//! Where a panic's message is left for the host: a detector imports nothing, so it can't log.
//!
//! The module's memory holds, once: the 16 bytes `TICKHOUND-PANIC\0`, a u32
//! (little-endian) length, and that many bytes of UTF-8, at most 1024. The
//! length is 0 until a panic. The host finds it after a trap.

use std::{
    fmt::{self, Write},
    panic,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
};

/// Enough for a file, a line and a few sentences.
const TEXT_MAX: usize = 1024;

#[repr(C)]
struct Report {
    magic: [u8; 16],
    /// Little-endian, whatever the machine.
    len: AtomicU32,
    text: [AtomicU8; TEXT_MAX],
}

// Only the host reads it, so the compiler would drop it.
#[used]
static REPORT: Report =
    Report { magic: *b"TICKHOUND-PANIC\0", len: AtomicU32::new(0), text: [const { AtomicU8::new(0) }; TEXT_MAX] };

/// Has every panic from now on leave its place and message in [`REPORT`].
pub(crate) fn install() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Relaxed) {
        panic::set_hook(Box::new(|info| {
            let mut text = Text { len: 0 };
            // It can only be full, and then what fits is there.
            let _ = match info.location() {
                Some(at) => write!(text, "{at}: {}", info.payload_as_str().unwrap_or("panic")),
                None => write!(text, "{}", info.payload_as_str().unwrap_or("panic")),
            };
            REPORT.len.store((text.len as u32).to_le(), Relaxed);
        }));
    }
}

/// Writes to [`REPORT`] without allocating: memory may be what has run out.
struct Text {
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let fits = piece.floor_char_boundary(TEXT_MAX - self.len);
        for (to, from) in REPORT.text[self.len..].iter().zip(piece[..fits].bytes()) {
            to.store(from, Relaxed);
        }
        self.len += fits;
        if fits < piece.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
