//! Text of strangers in a form that is safe to show: in a log, on a terminal, in one line.
//!
//! What holds: what these functions return has no line break, no character that controls a terminal, and none that is
//! invisible or changes the direction of what follows. So nobody who can add an entry, write a plugin or name a consumer
//! can forge a line of the log, move the cursor of a terminal, or make two names look the same.
//!
//! Symbols, notifications, plugins' texts, terminals and pages all follow the one table of hidden characters here.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// The hidden characters, apart from control characters: first and last of each range, in ascending order. They are the
/// general categories Cf, Zl and Zp of Unicode, all that it recommends to ignore where they can't be shown
/// (Default_Ignorable_Code_Point), and the empty Braille pattern.
const HIDDEN: [(char, char, HiddenKind); 30] = [
    ('\u{ad}', '\u{ad}', HiddenKind::Invisible),
    ('\u{34f}', '\u{34f}', HiddenKind::Invisible),
    ('\u{600}', '\u{605}', HiddenKind::Format),
    ('\u{61c}', '\u{61c}', HiddenKind::Direction),
    ('\u{6dd}', '\u{6dd}', HiddenKind::Format),
    ('\u{70f}', '\u{70f}', HiddenKind::Format),
    ('\u{890}', '\u{891}', HiddenKind::Format),
    ('\u{8e2}', '\u{8e2}', HiddenKind::Format),
    ('\u{115f}', '\u{1160}', HiddenKind::Invisible),
    ('\u{17b4}', '\u{17b5}', HiddenKind::Invisible),
    ('\u{180b}', '\u{180f}', HiddenKind::Invisible),
    ('\u{200b}', '\u{200d}', HiddenKind::Invisible),
    ('\u{200e}', '\u{200f}', HiddenKind::Direction),
    ('\u{2028}', '\u{2029}', HiddenKind::LineBreak),
    ('\u{202a}', '\u{202e}', HiddenKind::Direction),
    ('\u{2060}', '\u{2065}', HiddenKind::Invisible),
    ('\u{2066}', '\u{2069}', HiddenKind::Direction),
    ('\u{206a}', '\u{206f}', HiddenKind::Invisible),
    ('\u{2800}', '\u{2800}', HiddenKind::Invisible),
    ('\u{3164}', '\u{3164}', HiddenKind::Invisible),
    (VARIATION_FIRST, VARIATION_LAST, HiddenKind::Invisible),
    ('\u{feff}', '\u{feff}', HiddenKind::Invisible),
    ('\u{ffa0}', '\u{ffa0}', HiddenKind::Invisible),
    ('\u{fff0}', '\u{fffb}', HiddenKind::Invisible),
    ('\u{110bd}', '\u{110bd}', HiddenKind::Format),
    ('\u{110cd}', '\u{110cd}', HiddenKind::Format),
    ('\u{13430}', '\u{1343f}', HiddenKind::Format),
    ('\u{1bca0}', '\u{1bca3}', HiddenKind::Invisible),
    ('\u{1d173}', '\u{1d17a}', HiddenKind::Invisible),
    ('\u{e0000}', '\u{e0fff}', HiddenKind::Invisible),
];

/// The characters that select another form of the one before them. Behind a letter they are invisible.
const VARIATION_FIRST: char = '\u{fe00}';
const VARIATION_LAST: char = '\u{fe0f}';

/// The texts that mean "no value".
const ABSENT: [&str; 6] = ["", "nan", "none", "null", "-", "n/a"];

/// What makes a character hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenKind {
    /// It is a control character, such as ESC or a line feed.
    Control,
    /// It breaks the line.
    LineBreak,
    /// It changes the direction of the text around it.
    Direction,
    /// It changes how the characters around it are drawn.
    Format,
    /// It has no width, or no ink.
    Invisible,
}

impl HiddenKind {
    /// What the character is, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "a control character",
            Self::LineBreak => "a line break",
            Self::Direction => "a character that changes the direction of text",
            Self::Format => "a character that changes how others are drawn",
            Self::Invisible => "an invisible character",
        }
    }
}

/// Whether a text means "no value".
pub(crate) fn is_absent(text: &str) -> bool {
    ABSENT.iter().any(|absent| text.eq_ignore_ascii_case(absent))
}

/// What makes a character hidden; `None` for all others.
pub fn hidden_kind(character: char) -> Option<HiddenKind> {
    if character.is_control() {
        return Some(HiddenKind::Control);
    }
    if character.is_ascii() {
        return None;
    }
    let after = HIDDEN.partition_point(|(first, _, _)| *first <= character);
    let (_, last, kind) = HIDDEN[after.checked_sub(1)?];
    (character <= last).then_some(kind)
}

/// Whether [`printable`] returns the text as it is.
pub fn is_printable(text: &str) -> bool {
    // Nearly all texts are ASCII.
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || in_context(text).all(|(_, _, kind)| kind.is_none())
}

/// The characters of a text, with another one in place of each that [`printable`] would escape.
pub fn replace_hidden(text: &str, replacement: fn(HiddenKind) -> char) -> impl Iterator<Item = char> {
    in_context(text).map(move |(_, character, kind)| kind.map_or(character, replacement))
}

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
    for (at, c, kind) in in_context(text) {
        match &mut out {
            Some(out) if kind.is_none() => out.push(c),
            None if kind.is_none() => {}
            _ => escape(out.get_or_insert_with(|| text[..at].to_owned()), c),
        }
    }
    out.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The characters of a text, each with what makes it hidden where it is: behind a pictograph, a selector of another form is
/// visible in its effect.
fn in_context(text: &str) -> impl Iterator<Item = (usize, char, Option<HiddenKind>)> {
    let mut before = None;
    text.char_indices().map(move |(at, character)| {
        let is_visible = is_variation(character) && before.is_some_and(is_pictograph);
        before = Some(character);
        (at, character, hidden_kind(character).filter(|_| !is_visible))
    })
}

fn is_variation(c: char) -> bool {
    matches!(c, VARIATION_FIRST..=VARIATION_LAST)
}

/// Whether a character may have a form in colour, as `⚠` has.
fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{27ff}' | '\u{2900}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}')
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
        assert!(shown.chars().all(|c| c == '\n' || c == '\u{fe0f}' || hidden_kind(c).is_none()), "{shown}");
        assert!(shown.contains(r"\udb40\udc41"), "{shown}");
    }

    /// The lists of symbols, logs, notifications and pages differed from each other.
    #[test]
    fn one_table_says_what_is_hidden() {
        assert!(HIDDEN.is_sorted_by_key(|(first, _, _)| *first));
        assert!(
            HIDDEN.windows(2).all(|two| two[0].1 < two[1].0) && HIDDEN.iter().all(|(first, last, _)| first <= last)
        );
        let everywhere = |c: char| {
            let text = format!("a{c}");
            let is_shown = hidden_kind(c).is_none();
            assert_eq!(is_printable(&text), is_shown, "{c:?}");
            assert_eq!(matches!(printable(&text), Cow::Borrowed(_)), is_shown, "{c:?}");
            assert_eq!(replace_hidden(&text, |_| '?').eq(text.chars()), is_shown || c == '?', "{c:?}");
        };
        ('\0'..=char::MAX).for_each(everywhere);
        for c in ['\u{180e}', '\u{1bca3}', '\u{13430}', '\u{fff0}', '\u{1d17a}', '\u{2800}', '\u{e01ef}', '\u{fe0f}'] {
            assert!(hidden_kind(c).is_some(), "{c:?}");
        }
        for c in ['\u{a0}', 'é', '\u{301}', '株', 'ن', '✅', '🚀', '\u{27ff}', '⣿', '\u{10ffff}'] {
            assert_eq!(hidden_kind(c), None, "{c:?}");
        }
    }

    #[test]
    fn a_writer_escapes_what_passes() {
        let mut out = PrintableWriter(String::new());
        let symbol = "a\nb";
        write!(out, "{symbol}: {}", 1).unwrap();
        assert_eq!(out.0, r"a\nb: 1");
    }
}
