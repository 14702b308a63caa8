//! Checks pages of texts whose lengths are stored as differences: their decoders reserve memory for as many texts as the
//! page states, and repeat the beginnings of texts.

use anyhow::{Context, Result, ensure};
use parquet::basic::Encoding;

/// The most bytes of texts that a page may unfold to, with the beginnings that its texts share.
const TEXTS_MAX: u64 = 256 << 20;

/// Checks the values of a page, of which it has `most` at most.
///
/// # Errors
/// The page states more values, or they are longer than the limit, or it is damaged.
pub(super) fn check(encoding: Encoding, values: &[u8], most: usize) -> Result<()> {
    match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => Differences::open(values, most).map(drop),
        Encoding::DELTA_BYTE_ARRAY => {
            let prefixes = Differences::open(values, most)?;
            let (shared, rest) = prefixes.sum()?;
            ensure!(shared <= TEXTS_MAX, "the texts of a page take more than {} MiB", TEXTS_MAX >> 20);
            Differences::open(rest, most).map(drop)
        }
        _ => Ok(()),
    }
}

/// Numbers that are stored as differences, in blocks of small blocks of bits.
struct Differences<'a> {
    rest: &'a [u8],
    first: i64,
    count: usize,
    blocks: usize,
    values_per_block: usize,
}

impl<'a> Differences<'a> {
    fn open(bytes: &'a [u8], most: usize) -> Result<Self> {
        let mut rest = bytes;
        let block = unsigned(&mut rest)?;
        let blocks = unsigned(&mut rest)?;
        let count = unsigned(&mut rest)?;
        let first = signed(&mut rest)?;
        ensure!(count <= most as u64, "a page has more texts than values");
        // As the format demands; so the numbers are also small.
        let is_sound = (1..=1 << 20).contains(&block) && (1..=block).contains(&blocks) && block % blocks == 0;
        ensure!(is_sound && (block / blocks).is_multiple_of(32), "a page has blocks of a length that does not exist");
        let values_per_block = usize::try_from(block / blocks)?;
        Ok(Self { rest, first, count: usize::try_from(count)?, blocks: usize::try_from(blocks)?, values_per_block })
    }

    /// The sum of the numbers that are positive, and the bytes behind them.
    fn sum(self) -> Result<(u64, &'a [u8])> {
        let Self { mut rest, first, count, blocks, values_per_block } = self;
        // The decoder computes with 32 bits, and wraps.
        let mut value = first as i32;
        let mut left = count.saturating_sub(1);
        let mut sum = if count > 0 { u64::try_from(value).unwrap_or(0) } else { 0 };
        while left > 0 {
            let least = signed(&mut rest)?;
            let widths = take(&mut rest, blocks)?;
            for width in widths {
                if left == 0 {
                    break;
                }
                ensure!(*width <= 32, "a page has numbers that are too long");
                let bits = take(&mut rest, usize::from(*width) * values_per_block / 8)?;
                for index in 0..values_per_block.min(left) {
                    let difference = number(bits, index * usize::from(*width), *width);
                    value = value.wrapping_add(least as i32).wrapping_add(difference as i32);
                    sum += u64::try_from(value).unwrap_or(0);
                }
                left -= values_per_block.min(left);
            }
        }
        Ok((sum, rest))
    }
}

/// The number of `width` bits that begins at this bit.
fn number(bits: &[u8], start: usize, width: u8) -> u64 {
    let mut bytes = [0; 8];
    let from = start / 8;
    let available = &bits[from.min(bits.len())..(from + 8).min(bits.len())];
    bytes[..available.len()].copy_from_slice(available);
    (u64::from_le_bytes(bytes) >> (start % 8)) & ((1 << width) - 1)
}

fn unsigned(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(anyhow::anyhow!("a page has a number that is too long"))
}

fn signed(rest: &mut &[u8]) -> Result<i64> {
    let value = unsigned(rest)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length).context("a page is cut off")?;
    *rest = after;
    Ok(taken)
}
