//! A fast path for JSON as publishers write it: an object of plain names, numbers and short texts.
//!
//! Most of a tick is of no interest, so UTF-8 is checked and numbers are parsed only in the values that are used.
//! Python's `NaN` counts as an absent value.
//!
//! What holds: for a document that is read here, the general reader ([`super::document`]) gives the same ticks. All other
//! documents are declined before a tick is emitted, and left to the general reader.

use super::{
    assemble::{Assembler, Scalar},
    mapping::ROOT,
};

/// The nesting beyond which a document is left to the general reader.
const DEPTH_MAX: usize = 32;

/// The powers of ten that a double holds exactly. A quotient of two exact numbers is rounded once, as a parser rounds.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The largest integer up to which a double holds every integer exactly.
const EXACT_MAX: u64 = 1 << 53;

/// The number of digits that always fit into 64 bits with a sign.
const DIGITS_MAX: usize = 18;

/// A document that is being read.
struct FastReader<'q, 'a> {
    text: &'q [u8],
    at: usize,
    assembler: &'q mut Assembler<'a>,
}

/// Reads an object as a tick. `None`: the document is declined, and the values that were read so far must be discarded.
pub(super) fn read(text: &[u8], assembler: &mut Assembler<'_>) -> Option<()> {
    if assembler.rules.mapping.has_tick_map() {
        return None;
    }
    let mut reader = FastReader { text, at: 0, assembler };
    reader.space();
    reader.expect(b'{')?;
    reader.assembler.visit(ROOT);
    reader.object(Some(ROOT), 0)?;
    reader.space();
    if reader.at < text.len() {
        return None;
    }
    assembler.finish_tick();
    Some(())
}

impl<'q> FastReader<'q, '_> {
    /// Reads an object whose brace is already read. Without a node, its members are skipped.
    fn object(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let key = self.plain_string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let child = node.and_then(|node| self.assembler.rules.mapping.key(node, key));
            self.value(child.filter(|child| self.assembler.wants(*child, 0)), depth)?;
            self.space();
            match self.next()? {
                b',' => self.space(),
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads a list whose bracket is already read.
    fn array(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Some(());
        }
        let mut position = 0;
        loop {
            let child = node.and_then(|node| self.assembler.rules.mapping.index(node, position));
            self.value(child, depth)?;
            position += 1;
            self.space();
            match self.next()? {
                b',' => self.space(),
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    fn value(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        if let Some(node) = node {
            self.assembler.visit(node);
        }
        let value = match self.next()? {
            b'"' if node.is_none() => return self.skip_string(),
            b'"' => Scalar::Text(std::str::from_utf8(self.plain_string()?).ok()?),
            b'{' if depth < DEPTH_MAX => return self.object(node, depth + 1),
            b'[' if depth < DEPTH_MAX => return self.array(node, depth + 1),
            b't' => self.literal(b"rue").map(|()| Scalar::Flag(true))?,
            b'f' => self.literal(b"alse").map(|()| Scalar::Flag(false))?,
            b'n' => return self.literal(b"ull"),
            b'N' => return self.literal(b"aN"),
            b'I' => return self.literal(b"nfinity"),
            b'-' if self.peek() == Some(b'I') => return self.literal(b"Infinity"),
            first @ (b'-' | b'0'..=b'9') => match self.number(first, node.is_some())? {
                Some(number) => number,
                None => return Some(()),
            },
            _ => return None,
        };
        if let Some(node) = node {
            self.assembler.offer(node, 0, value);
        }
        Some(())
    }

    /// Reads a number whose first byte is already read. The inner `None`: the number is not wanted.
    fn number(&mut self, first: u8, wanted: bool) -> Option<Option<Scalar<'q>>> {
        let start = self.at - 1;
        let is_negative = first == b'-';
        // Without a sign, the first byte is a digit and is read again.
        self.at -= usize::from(!is_negative);
        let whole = self.digits();
        if whole.count == 0 || whole.count > 1 && self.text[self.at - whole.count] == b'0' {
            return None;
        }
        let (mut mantissa, mut count, mut places, mut is_plain) = (whole.number, whole.count, None, true);
        if self.peek() == Some(b'.') {
            self.at += 1;
            let fraction = self.digits();
            if fraction.count == 0 {
                return None;
            }
            count += fraction.count;
            is_plain = count <= DIGITS_MAX;
            if is_plain {
                mantissa = mantissa * 10_u64.pow(fraction.count as u32) + fraction.number;
            }
            places = Some(fraction.count);
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits().count == 0 {
                return None;
            }
            is_plain = false;
        }
        if !wanted {
            return Some(None);
        }
        let number = match places {
            None if is_plain && count <= DIGITS_MAX && (mantissa > 0 || !is_negative) => {
                let number = mantissa as i64;
                Scalar::Integer(if is_negative { -number } else { number })
            }
            Some(places) if is_plain && mantissa <= EXACT_MAX => {
                let number = mantissa as f64 / POWERS[places];
                Scalar::Number(if is_negative { -number } else { number })
            }
            _ => parse_number(&self.text[start..self.at])?,
        };
        Some(Some(number))
    }

    fn digits(&mut self) -> Digits {
        let start = self.at;
        let mut number = 0_u64;
        while let Some(byte) = self.peek() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        Digits { number, count: self.at - start }
    }

    /// Reads a text whose quote is already read; it must be ASCII without escapes.
    fn plain_string(&mut self) -> Option<&'q [u8]> {
        let text: &'q [u8] = self.text;
        let start = self.at;
        self.at += plain_length(&text[start..]);
        (self.next()? == b'"').then(|| &text[start..self.at - 1])
    }

    /// Skips a text whose quote is already read. It need not be UTF-8, as in the general reader.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            self.at += plain_length(&self.text[self.at..]);
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let code = self.text.get(self.at..self.at + 4)?;
                        if !code.iter().all(u8::is_ascii_hexdigit) {
                            return None;
                        }
                        self.at += 4;
                    }
                    _ => return None,
                },
                0x80.. => {}
                _ => return None,
            }
        }
    }

    fn literal(&mut self, rest: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(rest).then(|| self.at += rest.len())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }
}

struct Digits {
    /// The number, unless it overflowed: it is valid for up to 19 digits.
    number: u64,
    count: usize,
}

/// Parses a number as the general reader does, for those that the fast path can't compute exactly.
fn parse_number(text: &[u8]) -> Option<Scalar<'static>> {
    let text = std::str::from_utf8(text).ok()?;
    let is_whole = !text.contains(['.', 'e', 'E']);
    match text.parse::<i64>() {
        // A negative zero exists, but not as an integer.
        Ok(number) if is_whole && text != "-0" => Some(Scalar::Integer(number)),
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Scalar::Number),
    }
}

/// The number of leading bytes that are ASCII and neither quotes, backslashes nor control characters, counted eight at a
/// time.
fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let (chunks, rest) = text.as_chunks::<8>();
    for (number, chunk) in chunks.iter().enumerate() {
        let bytes = u64::from_le_bytes(*chunk);
        // The subtraction borrows upwards, so only hits above the lowest one can be false.
        let below = |bytes: u64, least: u64| bytes.wrapping_sub(ONES * least) & !bytes;
        let is = |byte: u8| below(bytes ^ (ONES * u64::from(byte)), 1);
        let hits = (below(bytes, 0x20) | is(b'"') | is(b'\\') | bytes) & HIGHS;
        if hits != 0 {
            return number * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &u8| matches!(byte, 0x20..0x80) && !matches!(byte, b'"' | b'\\');
    text.len() - rest.len() + rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_end_at_the_first_that_is_not() {
        for byte in 0..=255_u8 {
            for length in 0..20 {
                for at in 0..length {
                    let mut text = vec![b'!'; length];
                    text[at] = byte;
                    let plain = (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\';
                    assert_eq!(plain_length(&text), if plain { length } else { at }, "{byte} at {at} of {length}");
                }
            }
        }
    }
}
