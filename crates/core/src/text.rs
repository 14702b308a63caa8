//! Text of strangers in a form that is safe to show: in a log, on a terminal, in one line.
//!
//! What holds: what these functions return has no line break, no character that controls a terminal, and none that is
//! invisible or changes the direction of what follows. So nobody who can add an entry, write a plugin or name a consumer
//! can forge a line of the log, move the cursor of a terminal, or make two names look the same.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// Replaces line breaks, control characters and invisible characters by escapes such as `\n` and `\u{1b}`; all other text
/// stays as it is.
///
/// ```
/// use tickhound_core::text::printable;
///
/// assert_eq!(printable("NIFTY\n\u{1b}[2J"), r"NIFTY\n\u{1b}[2J");
/// assert_eq!(printable("Zürich ⚠️"), "Zürich ⚠️");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |out, hidden| out.extend(hidden.escape_default()))
}

/// Replaces in a JSON text what [`printable`] replaces in plain text, by escapes of JSON; the text keeps its meaning, and
/// the line breaks and tabs between its values.
///
/// Serializers escape the control characters below U+0020 and no others, so a terminal would still obey the rest.
///
/// ```
/// use tickhound_core::text::printable_json;
///
/// assert_eq!(printable_json("{\"a\":\"\u{9b}2J\u{202e}\"}\n"), "{\"a\":\"\\u009b2J\\u202e\"}\n");
/// ```
pub fn printable_json(json: &str) -> Cow<'_, str> {
    escaped(json, |out, hidden| {
        if matches!(hidden, '\n' | '\r' | '\t') {
            out.push(hidden);
            return;
        }
        for unit in hidden.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// Passes text on in the form that [`printable`] gives it.
#[derive(Debug)]
pub struct PrintableWriter<W>(pub W);

impl<W: fmt::Write> fmt::Write for PrintableWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&printable(text))
    }
}

/// The text with each hidden character replaced by what `escape` writes for it.
fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let mut out: Option<String> = None;
    let mut before = None;
    for (at, c) in text.char_indices() {
        let shown = !is_hidden(c) && (!is_variation(c) || before.is_some_and(is_pictograph));
        before = Some(c);
        match &mut out {
            Some(out) if shown => out.push(c),
            None if shown => {}
            _ => escape(out.get_or_insert_with(|| text[..at].to_owned()), c),
        }
    }
    out.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Whether a character controls a terminal, breaks a line, changes the direction of text, or shows nothing.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, joiner of graphemes, Arabic letter mark.
            '\u{ad}' | '\u{34f}' | '\u{61c}'
            // Hangul and Khmer letters that show nothing, Mongolian selectors.
            | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{3164}' | '\u{ffa0}'
            // Zero width, marks of direction; separators of lines and paragraphs, overrides; joiners, isolates.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Byte order mark, annotations.
            | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            // Marks of shorthand and of music, tags and further selectors.
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a character selects another form of the one before it. Behind a letter it is invisible.
fn is_variation(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}')
}

/// Whether a character may have a form in colour, as `⚠` has.
fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_copied_where_nothing_is_hidden() {
        for text in ["", "NIFTY25NOV25750PE", "M&M \\n \"x\"", "日経 Zürich ✅ ⚠️ → …", "का"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
            assert!(matches!(printable_json(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    /// A symbol with a line break and `DETECTED` in it forged an alert in the log.
    #[test]
    fn what_is_hidden_becomes_an_escape() {
        let cases = [
            ("A\nDETECTED\r\n", r"A\nDETECTED\r\n"),
            ("\0\t\u{7f}\u{9b}2J", r"\u{0}\t\u{7f}\u{9b}2J"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("a\u{202e}b\u{2066}c\u{2029}", r"a\u{202e}b\u{2066}c\u{2029}"),
            ("NI\u{200b}FTY\u{ad}\u{feff}", r"NI\u{200b}FTY\u{ad}\u{feff}"),
            ("\u{e0041}é", r"\u{e0041}é"),
            // After a letter it is invisible: two names would look the same.
            ("NIFTY\u{fe0f} ⚠️\u{fe0f}", r"NIFTY\u{fe0f} ⚠️\u{fe0f}"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected);
            assert!(matches!(printable(expected), Cow::Borrowed(_)), "escapes are not escaped again: {expected}");
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "\u{0}\u{7f}\u{85}\u{9b}2J\u{202e}\u{2028}\u{200b}\u{e0041}\u{feff}é⚠️\n";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let shown = printable_json(&json);
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [text]);
        assert!(shown.chars().all(|c| c == '\n' || !is_hidden(c)), "{shown}");
        assert!(shown.contains(r"\udb40\udc41"), "{shown}");
    }

    #[test]
    fn a_writer_escapes_what_passes() {
        let mut out = PrintableWriter(String::new());
        let symbol = "a\nb";
        write!(out, "{symbol}: {}", 1).unwrap();
        assert_eq!(out.0, r"a\nb: 1");
    }
}
