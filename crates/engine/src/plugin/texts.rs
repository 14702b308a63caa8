//! Texts that a guest returns: whether they can be shown, and how messages quote them.

use std::borrow::Cow;

pub(super) use tickhound_core::text::is_printable;
use tickhound_core::text::printable;

/// The maximum length of a guest's text in a message, bytes. The SDK's panic hook writes no more than that either.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024;

/// The maximum length of a guest's name in a message, bytes.
const QUOTE_BYTES_MAX: usize = 80;

/// Returns the beginning of a text that may be too long for a message.
pub(super) fn shortened(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let shown = &text[..text.floor_char_boundary(bytes_max)];
    Cow::Owned(format!("{shown}… ({} bytes)", text.len()))
}

/// Returns a name as a message quotes it, whatever is in it.
pub(super) fn shown(name: &str) -> String {
    printable(&shortened(name, QUOTE_BYTES_MAX)).into_owned()
}

/// Returns whether a text can be a key in the configuration, in JSON paths and in labels of metrics.
pub(super) fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_shortened_between_two_characters() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("aéé", 4), "aé… (5 bytes)");
        assert_eq!(shown(&"\u{1b}".repeat(2)), r"\u{1b}\u{1b}");
    }
}
