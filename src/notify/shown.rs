//! Characters that nobody sees, or that change the order of others; pure.

/// What is shown in place of a character: itself, unless nobody sees it, or it changes the order of others.
pub(super) fn shown(c: char) -> char {
    match c {
        c if c.is_control() => ' ',
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}'
        | '\u{feff}' => '�',
        '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => '�',
        '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => '�',
        c => c,
    }
}
