//! Writes a panic's message into memory, where the host reads it after a trap: a detector imports nothing, so it can't log.
//!
//! The module's memory contains, once: the 16 bytes `TICKHOUND-PANIC\0`, a u32
//! (little-endian) length, and that many bytes of UTF-8, at most 1024. The
//! length is 0 until a panic.

use std::{
    fmt::{self, Write},
    sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
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

// Only the host reads it, so the compiler would remove it as unused.
#[used]
static REPORT: Report =
    Report { magic: *b"TICKHOUND-PANIC\0", len: AtomicU32::new(0), text: [const { AtomicU8::new(0) }; TEXT_MAX] };

/// Installs a panic hook that writes the location and the message to [`REPORT`].
#[cfg(target_family = "wasm")]
pub(crate) fn install() {
    static DONE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if !DONE.swap(true, Relaxed) {
        std::panic::set_hook(Box::new(|info| {
            let message = info.payload_as_str().unwrap_or("panic");
            match info.location() {
                Some(place) => leave(format_args!("{place}: {message}")),
                None => leave(format_args!("{message}")),
            }
        }));
    }
}

fn leave(message: fmt::Arguments<'_>) {
    let mut text = Text { len: 0 };
    // An error means that the message was cut off.
    let _ = text.write_fmt(message);
    REPORT.len.store((text.len as u32).to_le(), Relaxed);
}

/// Writes to [`REPORT`] without an allocation, since memory may be exhausted.
struct Text {
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let fits = piece.floor_char_boundary(TEXT_MAX - self.len);
        for (to, from) in REPORT.text[self.len..].iter().zip(&piece.as_bytes()[..fits]) {
            to.store(*from, Relaxed);
        }
        self.len += fits;
        if fits < piece.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    fn left() -> String {
        let len = u32::from_le(REPORT.len.load(Relaxed)) as usize;
        String::from_utf8(REPORT.text[..len].iter().map(|byte| byte.load(Relaxed)).collect()).unwrap()
    }

    #[test]
    fn a_message_lies_where_the_host_looks_and_is_cut_between_characters() {
        assert_eq!((offset_of!(Report, magic), offset_of!(Report, len), offset_of!(Report, text)), (0, 16, 20));
        assert_eq!(&REPORT.magic, b"TICKHOUND-PANIC\0");
        assert_eq!(left(), "");

        leave(format_args!("{}:{}: {}", "lib.rs", 7, "no price"));
        assert_eq!(left(), "lib.rs:7: no price");

        leave(format_args!("x{}", "é".repeat(TEXT_MAX)));
        assert_eq!(left(), format!("x{}", "é".repeat((TEXT_MAX - 1) / 2)));
    }
}
