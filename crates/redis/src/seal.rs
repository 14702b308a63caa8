//! The form and the checksum of what is saved as text: boundaries, marks of poisonous entries, fields of the checkpoint.
//!
//! What holds: a text that this release wrote is read back as it was, or is known to be damaged; a text of a later
//! release is known as such, so that a host can leave it alone. Texts of before there were seals have neither form nor sum
//! and are taken as they are.

use std::fmt::{self, Display, Write};

use tickhound_core::checkpoint;

/// The form of all that this release writes, the same as that of packed states: so an earlier release knows from the
/// checkpoint alone that it must not go on.
pub(super) const FORM: u32 = checkpoint::FORM as u32;

/// A sum over names and values: FNV-1a of 64 bits, which is the same everywhere, costs little for short texts, and differs
/// whenever one byte does. It guards against damage, not against forgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum(u64);

/// What a saved text turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsealed<'a> {
    /// It is what was written.
    Whole(&'a str),
    /// It is not what was written.
    Damaged,
    /// It was written by a later release, in this form.
    Newer(u32),
}

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    /// Adds a named value. Names and values are kept apart, so that nothing can move from one to the next.
    pub(super) fn add(&mut self, name: &str, value: impl Display) {
        // A sum takes whatever is written.
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

/// A text with its form and a sum over it and the name of its field.
pub(super) fn seal(field: &str, text: &str) -> String {
    format!("v{FORM} {} {text}", sum(field, text))
}

/// What [`seal`] was given, or what was written before there were seals.
pub(super) fn unseal<'a>(field: &str, sealed: &'a str) -> Unsealed<'a> {
    let Some(rest) = sealed.strip_prefix('v') else { return Unsealed::Whole(sealed) };
    let (form, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match form.parse::<u32>() {
        Ok(form) if form > FORM => Unsealed::Newer(form),
        Ok(FORM) => match rest.split_once(' ') {
            Some((known, text)) if known == sum(field, text).to_string() => Unsealed::Whole(text),
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
        assert_eq!(unseal("c:7", &sealed), Unsealed::Whole("7-1 2 3 - 4 6"));
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
    fn other_forms_are_told_from_this_one() {
        assert_eq!(unseal("c:7", "7-1 2 3 - 4 6"), Unsealed::Whole("7-1 2 3 - 4 6"), "of before there were seals");
        assert_eq!(unseal("c:7", "v3 whatever"), Unsealed::Newer(3));
        assert_eq!(unseal("c:7", "v1 whatever"), Unsealed::Damaged, "there never was such a form");
    }

    #[test]
    fn sums_are_the_same_for_ever() {
        assert_eq!(seal("c:7", "7-1 2"), "v2 09f42bc77447c374 7-1 2");
    }
}
