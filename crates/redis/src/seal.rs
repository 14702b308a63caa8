//! The form and the checksum of what is saved as text: boundaries, marks of poisonous entries, fields of the checkpoint.
//!
//! What holds: a text that this release wrote is read back unchanged, or is recognized as damaged. A text of a later
//! release is recognized as such, so that a host can leave it alone. Texts of releases without seals have neither form
//! nor checksum, and are accepted as they are.

use std::fmt::{self, Display, Write};

use tickhound_core::checkpoint;

/// The form of everything that this release writes. It is the form of packed states, so that an earlier release
/// recognizes from the checkpoint alone that it must not continue.
pub(super) const FORM: u32 = checkpoint::FORM as u32;

/// A checksum over names and values: FNV-1a of 64 bits. It is the same on every machine, is cheap for short texts, and
/// differs whenever one byte does. It protects against damage, not against forgery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum(u64);

/// The result of checking a saved text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsealed<'a> {
    /// The text as it was written, without its seal.
    Intact(&'a str),
    /// The text is not what was written.
    Damaged,
    /// A later release wrote the text, in this form.
    Newer(u32),
}

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    /// Adds a named value. Zeros separate names and values, so that no byte can move from one to the next unnoticed.
    pub(super) fn add(&mut self, name: &str, value: impl Display) {
        // Writing to a sum can't fail.
        let _ = write!(self, "{name}\0{value}\0");
    }
}

impl Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Adds the form to a text, and a checksum over the text and the name of its field.
pub(super) fn seal(field: &str, text: &str) -> String {
    format!("v{FORM} {} {text}", sum(field, text))
}

/// Checks and removes the seal that [`seal`] added. A text without a seal is of a release that had none.
pub(super) fn unseal<'a>(field: &str, sealed: &'a str) -> Unsealed<'a> {
    let Some(rest) = sealed.strip_prefix('v') else { return Unsealed::Intact(sealed) };
    let (form, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match form.parse::<u32>() {
        Ok(form) if form > FORM => Unsealed::Newer(form),
        Ok(FORM) => match rest.split_once(' ') {
            Some((saved, text)) if saved == sum(field, text).to_string() => Unsealed::Intact(text),
            _ => Unsealed::Damaged,
        },
        _ => Unsealed::Damaged,
    }
}

fn sum(field: &str, text: &str) -> Sum {
    let mut sum = Sum::default();
    sum.add(field, text);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_is_read_as_it_was_and_any_other_byte_is_noticed() {
        let sealed = seal("c:7", "7-1 2 3 - 4 6");
        assert_eq!(unseal("c:7", &sealed), Unsealed::Intact("7-1 2 3 - 4 6"));
        assert_eq!(unseal("c:8", &sealed), Unsealed::Damaged, "it belongs to another field");
        // The first bytes say whether there is a seal, and of what form.
        for at in 2..sealed.len() {
            let mut damaged = sealed.clone().into_bytes();
            damaged[at] ^= 1;
            let damaged = String::from_utf8(damaged).unwrap();
            assert_eq!(unseal("c:7", &damaged), Unsealed::Damaged, "{damaged}");
        }
        for length in 1..sealed.len() {
            assert_eq!(unseal("c:7", &sealed[..length]), Unsealed::Damaged, "cut off at {length}");
        }
    }

    #[test]
    fn other_forms_are_recognized() {
        assert_eq!(unseal("c:7", "7-1 2 3 - 4 6"), Unsealed::Intact("7-1 2 3 - 4 6"), "of a release without seals");
        assert_eq!(unseal("c:7", "v3 whatever"), Unsealed::Newer(3));
        assert_eq!(unseal("c:7", "v1 whatever"), Unsealed::Damaged, "there never was such a form");
    }

    #[test]
    fn sums_are_the_same_for_ever() {
        assert_eq!(seal("c:7", "7-1 2"), "v2 09f42bc77447c374 7-1 2");
    }
}
