//! Values of alerts and answers of receivers, without characters that nobody sees or that change the order of others; pure.

use tickhound_core::text::{HiddenKind, replace_hidden};

/// The characters of a text, with a space in place of each control character, and `�` in place of each hidden one.
pub(super) fn sanitize(text: &str) -> impl Iterator<Item = char> {
    replace_hidden(text, |kind| if kind == HiddenKind::Control { ' ' } else { '�' })
}
