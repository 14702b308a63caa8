//! JSON as publishers write it, walked by hand in a fraction of the time.
//!
//! A tick is an object of plain names, numbers and short texts, and most of it is of no interest. Such a document needs
//! no UTF-8 checked but in the texts that are used, and no number parsed but those. Python's `NaN` is absent here.
//!
//! What holds: where this reads a document, the general walk ([`super::walk`]) gathers the same; it declines what is not
//! of this kind or not JSON before a tick was emitted, and the general walk has the last word.

use super::{
    mapping::ROOT,
    scan::{Scalar, Scan},
};

/// Deeper documents are the general walk's.
const DEPTH_MAX: usize = 32;

/// Powers of ten that a double holds exactly, as a quotient by one is rounded once.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Whole numbers that a double holds exactly.
const EXACT_MAX: u64 = 1 << 53;

/// So many digits fit into 64 bits with a sign.
const DIGITS_MAX: usize = 18;

/// A document on its way, and what is gathered from it.
struct Quick<'q, 'a> {
    text: &'q [u8],
    at: usize,
    scan: &'q mut Scan<'a>,
}

/// Gathers a tick from an object; `None`: what was gathered so far means nothing, and the general walk is to begin anew.
pub(super) fn read(text: &[u8], scan: &mut Scan<'_>) -> Option<()> {
    if scan.mapping.has_each() {
        return None;
    }
    let mut quick = Quick { text, at: 0, scan };
    quick.space();
    quick.expect(b'{')?;
    quick.scan.visit(ROOT);
    quick.object(Some(ROOT), 0)?;
    quick.space();
    if quick.at < text.len() {
        return None;
    }
    scan.finish_tick();
    Some(())
}

impl<'q> Quick<'q, '_> {
    /// Behind its brace. `None` for a node: all of it is skipped.
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
            let child = node.and_then(|node| self.scan.mapping.key(node, key));
            self.value(child.filter(|child| self.scan.wants(*child, 0)), depth)?;
            self.space();
            match self.next()? {
                b',' => self.space(),
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Behind its bracket.
    fn array(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Some(());
        }
        let mut position = 0;
        loop {
            let child = node.and_then(|node| self.scan.mapping.index(node, position));
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
            self.scan.visit(node);
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
            self.scan.offer(node, 0, value);
        }
        Some(())
    }

    /// Behind its first byte. The inner `None`: it is of no interest.
    fn number(&mut self, first: u8, wanted: bool) -> Option<Option<Scalar<'q>>> {
        let start = self.at - 1;
        let is_negative = first == b'-';
        // The first digit is one of them.
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
            _ => general(&self.text[start..self.at])?,
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

    /// A text of ASCII without escapes, behind its quote.
    fn plain_string(&mut self) -> Option<&'q [u8]> {
        let text: &'q [u8] = self.text;
        let start = self.at;
        self.at += plain_length(&text[start..]);
        (self.next()? == b'"').then(|| &text[start..self.at - 1])
    }

    /// Behind its quote. What is skipped need not be UTF-8, as in the general walk.
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
    /// Means something up to 19 of them.
    number: u64,
    count: usize,
}

/// A number that takes more than a glance, as the general walk has it.
fn general(text: &[u8]) -> Option<Scalar<'static>> {
    let text = std::str::from_utf8(text).ok()?;
    let is_whole = !text.contains(['.', 'e', 'E']);
    match text.parse::<i64>() {
        // There is a negative zero, and it is no whole number.
        Ok(number) if is_whole && text != "-0" => Some(Scalar::Integer(number)),
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Scalar::Number),
    }
}

/// How many bytes from the start on are ASCII, and neither quotes, backslashes nor control characters: eight at a time.
fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let (chunks, rest) = text.as_chunks::<8>();
    for (number, chunk) in chunks.iter().enumerate() {
        let bytes = u64::from_le_bytes(*chunk);
        // A borrow goes upwards, so that the lowest hit is always a true one.
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
