//! Contract 0.2's lists of bytes: the rows that a guest gets, and the detections that it returns.
//!
//! What holds: rows are packed into a buffer that is reused. Whatever bytes a guest returns, they are read within their
//! bounds, and each detection is checked before the next one is read, so that a guest can't make the host reserve more than
//! the limits of detections allow.

use super::{
    detection::{Detection, EVIDENCE_MAX, MEMBERS_MAX},
    texts::shown,
};
use tickhound_core::event::{Batch, CLOCK, Direction};

/// The values of a column, a row each.
#[derive(Clone, Copy, Debug)]
pub(super) enum ColumnValues<'a> {
    /// One for each row.
    Rows(&'a [f64]),
    /// One for each symbol, by its id; NaN for a symbol that is not among them.
    Symbols {
        /// The values of all symbols: several columns of one, then of the next one.
        values: &'a [f64],
        /// The number of columns.
        columns: usize,
        /// The position of this one.
        column: usize,
    },
    /// NaN.
    Absent,
}

/// Which lists of a batch are packed beside those that all guests get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// The groups.
    pub(super) groups: bool,
    /// The feeds.
    pub(super) feeds: bool,
}

/// Packs the rows of calls, in a buffer that it keeps.
#[derive(Debug, Default)]
pub(super) struct RowPacker(Vec<u8>);

impl RowPacker {
    /// Returns the packed rows.
    pub(super) fn pack<'a>(
        &mut self,
        batch: &Batch,
        columns: impl ExactSizeIterator<Item = ColumnValues<'a>>,
        parts: Parts,
    ) -> &[u8] {
        let rows = batch.len();
        let bytes_of_row = 8 * (2 + columns.len()) + 4 * (1 + usize::from(parts.groups)) + usize::from(parts.feeds);
        let total = rows * bytes_of_row;
        // It only grows, so that its bytes are zeroed once.
        if self.0.len() < total {
            self.0.resize(total, 0);
        }
        let mut rest = &mut self.0[..total];
        write(&mut rest, batch.time.iter().map(|time| time.to_le_bytes()), rows);
        write(&mut rest, batch.price.iter().map(|price| price.to_le_bytes()), rows);
        for column in columns {
            match column {
                ColumnValues::Rows(values) => write(&mut rest, values.iter().map(|value| value.to_le_bytes()), rows),
                ColumnValues::Symbols { values, columns, column } => {
                    let value = |symbol: &u32| match symbol {
                        &CLOCK => f64::NAN,
                        symbol => values.get(*symbol as usize * columns + column).copied().unwrap_or(f64::NAN),
                    };
                    write(&mut rest, batch.symbol.iter().map(|symbol| value(symbol).to_le_bytes()), rows);
                }
                ColumnValues::Absent => write(&mut rest, std::iter::repeat_n(f64::NAN.to_le_bytes(), rows), rows),
            }
        }
        write(&mut rest, batch.symbol.iter().map(|symbol| symbol.to_le_bytes()), rows);
        if parts.groups {
            write(&mut rest, batch.group.iter().map(|group| group.to_le_bytes()), rows);
        }
        if parts.feeds {
            write(&mut rest, batch.feed.iter().map(|feed| [*feed]), rows);
        }
        &self.0[..total]
    }
}

/// Writes one list into the first bytes of `rest`, which then are the bytes behind it.
fn write<const N: usize>(rest: &mut &mut [u8], values: impl Iterator<Item = [u8; N]>, rows: usize) {
    let (list, behind) = std::mem::take(rest).split_at_mut(rows * N);
    let (items, _) = list.as_chunks_mut::<N>();
    for (item, value) in items.iter_mut().zip(values) {
        *item = value;
    }
    *rest = behind;
}

/// Reads packed detections. `accept` checks each.
///
/// # Errors
/// Says how the bytes break the contract.
pub(super) fn unpack(
    packed: &[u8],
    mut accept: impl FnMut(&Detection) -> Result<(), String>,
) -> Result<Vec<Detection>, String> {
    let mut detections = Vec::new();
    let mut unread = Unread(packed);
    while !unread.0.is_empty() {
        let detection = unread.detection()?;
        accept(&detection)?;
        detections.push(detection);
    }
    Ok(detections)
}

/// The bytes that are not read yet.
struct Unread<'a>(&'a [u8]);

impl<'a> Unread<'a> {
    fn detection(&mut self) -> Result<Detection, String> {
        let [row, owner, about] = [self.u32()?, self.u32()?, self.u32()?];
        let confidence = self.f64()?;
        let direction = match self.array()? {
            [0] => Direction::Up,
            [1] => Direction::Down,
            [2] => Direction::None,
            [other] => return Err(format!("a detection at row {row} has direction {other}, expected 0 to 2")),
        };
        let count = usize::from(u16::from_le_bytes(self.array()?));
        if count > MEMBERS_MAX {
            return Err(format!("{count} members in one detection, at most {MEMBERS_MAX}"));
        }
        let members = (0..count).map(|_| self.u32()).collect::<Result<Vec<u32>, String>>()?;
        let count = usize::from(self.array::<1>()?[0]);
        if count > EVIDENCE_MAX {
            return Err(format!("{count} numbers of evidence in one detection, at most {EVIDENCE_MAX}"));
        }
        let evidence = (0..count).map(|_| Ok((self.name()?, self.f64()?))).collect::<Result<Vec<_>, String>>()?;
        Ok(Detection { row, owner, about, confidence, direction, members, evidence })
    }

    fn name(&mut self) -> Result<String, String> {
        let [length] = self.array()?;
        let bytes = self.bytes(usize::from(length))?;
        let name = str::from_utf8(bytes).map_err(|_| {
            format!("evidence `{}` has a name that is not UTF-8", shown(&String::from_utf8_lossy(bytes)))
        })?;
        Ok(name.to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn f64(&mut self) -> Result<f64, String> {
        self.array().map(f64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*array)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(bytes)
    }
}

fn cut_off() -> String {
    "its detections end within a detection".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::TickRow;

    /// The parts of a packed detection, to be spoiled.
    struct Parts {
        direction: u8,
        members: Vec<u32>,
        name: Vec<u8>,
    }

    impl Parts {
        fn packed(&self) -> Vec<u8> {
            let mut packed: Vec<u8> = [1u32, 7, 8].iter().flat_map(|number| number.to_le_bytes()).collect();
            packed.extend(0.5f64.to_le_bytes());
            packed.push(self.direction);
            packed.extend((self.members.len() as u16).to_le_bytes());
            packed.extend(self.members.iter().flat_map(|member| member.to_le_bytes()));
            packed.extend([1, self.name.len() as u8]);
            packed.extend(&self.name);
            packed.extend(3.5f64.to_le_bytes());
            packed
        }
    }

    fn sound() -> Parts {
        Parts { direction: 2, members: vec![8, 9], name: b"rank".to_vec() }
    }

    #[test]
    fn rows_are_packed_list_after_list() {
        let mut batch = Batch::new(1);
        for symbol in [3, 4] {
            batch.push(TickRow { entry: 0, symbol, time: 5, price: 6.0, columns: &[7.0] });
        }
        batch.push_clock(1, 9);
        (batch.group, batch.feed) = (vec![10, 11, CLOCK], vec![1, 0x81, 0]);
        let constants = [f64::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 33.0, 0.0, 44.0];
        let columns = [
            ColumnValues::Rows(&batch.columns[0]),
            ColumnValues::Symbols { values: &constants, columns: 2, column: 1 },
            ColumnValues::Absent,
        ];
        let mut packer = RowPacker::default();
        let all = super::Parts { groups: true, feeds: true };
        let packed = packer.pack(&batch, columns.into_iter(), all).to_vec();
        let nan = f64::NAN;
        let mut expected: Vec<u8> = [5u64, 5, 9].iter().flat_map(|time| time.to_le_bytes()).collect();
        for list in [[6.0, 6.0, nan], [7.0, 7.0, nan], [33.0, 44.0, nan], [nan, nan, nan]] {
            expected.extend(list.iter().flat_map(|value| value.to_le_bytes()));
        }
        expected.extend([3u32, 4, CLOCK, 10, 11, CLOCK].iter().flat_map(|id| id.to_le_bytes()));
        expected.extend([1, 0x81, 0]);
        assert_eq!(packed, expected);
        // A smaller call after a larger one has none of its bytes.
        let none = super::Parts { groups: false, feeds: false };
        let packed = packer.pack(&batch.rows(0..1), std::iter::empty(), none);
        assert_eq!(packed, [&5u64.to_le_bytes()[..], &6f64.to_le_bytes(), &3u32.to_le_bytes()].concat());
    }

    #[test]
    fn a_detection_is_read_as_it_was_packed() {
        let packed = [sound().packed(), sound().packed()].concat();
        let detections = unpack(&packed, |_| Ok(())).unwrap();
        let expected = Detection {
            row: 1,
            owner: 7,
            about: 8,
            confidence: 0.5,
            direction: Direction::None,
            members: vec![8, 9],
            evidence: vec![("rank".into(), 3.5)],
        };
        assert_eq!(detections, [expected.clone(), expected]);
        assert_eq!(unpack(&[], |_| Ok(())), Ok(Vec::new()));
    }

    #[test]
    fn bytes_that_are_no_detections_are_a_fault() {
        let whole = sound().packed();
        for end in 1..whole.len() {
            assert_eq!(unpack(&whole[..end], |_| Ok(())).unwrap_err(), "its detections end within a detection");
        }
        let fault = |parts: Parts| unpack(&parts.packed(), |_| Ok(())).unwrap_err();
        assert_eq!(fault(Parts { direction: 3, ..sound() }), "a detection at row 1 has direction 3, expected 0 to 2");
        assert_eq!(fault(Parts { members: vec![0; 65], ..sound() }), "65 members in one detection, at most 64");
        assert_eq!(
            fault(Parts { name: b"a\xff\x1b[2J".to_vec(), ..sound() }),
            "evidence `a\u{fffd}\\u{1b}[2J` has a name that is not UTF-8"
        );
        let mut many = sound().packed();
        let count = 4 * 3 + 8 + 1 + 2 + 4 * 2;
        many[count] = 33;
        assert_eq!(unpack(&many, |_| Ok(())).unwrap_err(), "33 numbers of evidence in one detection, at most 32");
    }

    #[test]
    fn nothing_is_read_behind_a_detection_that_is_rejected() {
        let packed = [sound().packed(), vec![0xff; 3]].concat();
        assert_eq!(unpack(&packed, |_| Err("enough".to_owned())), Err("enough".to_owned()));
    }
}
