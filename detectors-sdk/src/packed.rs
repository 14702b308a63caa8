//! The rows of a call as the host packs them, and the detections as the host reads them.
//!
//! What holds: whoever reads a row reads within the bytes of the call, or panics. Both forms are those of `detect` in the
//! contract's WIT.

use std::cell::RefCell;

use crate::{
    contract::Gate,
    detector::{Detection, Direction},
    row::Named,
    shape::{RowKind, Shape},
};

/// The id that marks a clock row: event time has reached a whole second.
pub(crate) const CLOCK: u32 = u32::MAX;

/// The bit of a row's feed that marks the last row of a snapshot.
pub(crate) const LAST_OF_SNAPSHOT: u8 = 0x80;

/// The rows of one call, column by column.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) shape: &'a Shape,
    /// The symbols and groups by their ids.
    pub(crate) names: &'a [Option<Named>],
    rows: usize,
    times: &'a [[u8; 8]],
    prices: &'a [[u8; 8]],
    columns: &'a [[u8; 8]],
    symbols: &'a [[u8; 4]],
    /// The groups, unless a state belongs to a symbol.
    groups: Option<&'a [[u8; 4]]>,
    /// The feeds, unless there are only ticks.
    feeds: Option<&'a [u8]>,
    /// The gates of the present row, in a call of `probe`. Not in here, or the compiler would take it that all of this may change.
    pub(crate) gates: Option<&'a RefCell<Vec<Gate>>>,
}

impl<'a> Batch<'a> {
    /// Returns the rows that are packed in `values`.
    pub(crate) fn new(
        shape: &'a Shape,
        names: &'a [Option<Named>],
        (rows, values): (u32, &'a [u8]),
        gates: Option<&'a RefCell<Vec<Gate>>>,
    ) -> Self {
        let rows = rows as usize;
        let mut rest = Unread(values);
        let batch = Self {
            shape,
            names,
            rows,
            times: rest.arrays(rows),
            prices: rest.arrays(rows),
            columns: rest.arrays(rows * shape.columns),
            symbols: rest.arrays(rows),
            groups: shape.has_groups().then(|| rest.arrays(rows)),
            feeds: shape.has_feeds().then(|| rest.bytes(rows)),
            gates,
        };
        assert!(rest.0.is_empty(), "the host sent {} bytes too many for {rows} rows", rest.0.len());
        batch
    }

    /// Returns the number, the id, the time and the price of each row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (usize, u32, u64, f64)> + use<'a> {
        let rows = self.symbols.iter().zip(self.times).zip(self.prices).enumerate();
        rows.map(|(row, ((symbol, time), price))| {
            (row, u32::from_le_bytes(*symbol), u64::from_le_bytes(*time), f64::from_le_bytes(*price))
        })
    }

    #[track_caller]
    pub(crate) fn column(&self, position: usize, row: usize) -> f64 {
        f64::from_le_bytes(self.columns[position * self.rows + row])
    }

    /// Returns the id of the group that the row is for, or of its symbol if states belong to symbols.
    pub(crate) fn owner(&self, row: usize, symbol: u32) -> u32 {
        self.groups.map_or(symbol, |groups| u32::from_le_bytes(groups[row]))
    }

    pub(crate) fn kind(&self, row: usize) -> RowKind {
        match self.feeds {
            None => RowKind::Tick,
            Some(feeds) => self.shape.feeds[usize::from(feeds[row] & !LAST_OF_SNAPSHOT)],
        }
    }

    /// Returns whether the row is the last one of a snapshot, for its state.
    pub(crate) fn is_last(&self, row: usize) -> bool {
        self.feeds.is_some_and(|feeds| feeds[row] & LAST_OF_SNAPSHOT != 0)
    }

    /// Returns the gates of the row that was processed last.
    pub(crate) fn take_gates(&self) -> Vec<Gate> {
        self.gates.map(RefCell::take).unwrap_or_default()
    }
}

/// The bytes that have not been read yet.
struct Unread<'a>(&'a [u8]);

impl<'a> Unread<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let Some((bytes, rest)) = self.0.split_at_checked(count) else { panic!("the host sent too few bytes") };
        self.0 = rest;
        bytes
    }

    fn arrays<const N: usize>(&mut self, count: usize) -> &'a [[u8; N]] {
        let (arrays, _) = self.bytes(count * N).as_chunks();
        arrays
    }
}

/// Appends a detection of the state of `owner`. `id_of` returns the id of a symbol, given its name.
pub(crate) fn pack_detection(
    detection: &Detection,
    row: u32,
    owner: u32,
    id_of: impl Fn(&str) -> u32,
    packed: &mut Vec<u8>,
) {
    let Detection { confidence, direction, evidence, about, members } = detection;
    packed.extend(row.to_le_bytes());
    packed.extend(owner.to_le_bytes());
    packed.extend(about.as_deref().map_or(owner, &id_of).to_le_bytes());
    packed.extend(confidence.to_le_bytes());
    packed.push(match direction {
        Direction::Up => 0,
        Direction::Down => 1,
        Direction::None => 2,
    });
    let Ok(count) = u16::try_from(members.len()) else {
        panic!("a detection has at most {} members, not {}", u16::MAX, members.len())
    };
    packed.extend(count.to_le_bytes());
    for member in members {
        packed.extend(id_of(member).to_le_bytes());
    }
    packed.push(length("numbers of evidence", evidence.len()));
    for (name, value) in evidence {
        packed.push(length("bytes in a name of evidence", name.len()));
        packed.extend(name.as_bytes());
        packed.extend(value.to_le_bytes());
    }
}

fn length(what: &str, length: usize) -> u8 {
    u8::try_from(length).unwrap_or_else(|_| panic!("a detection has at most 255 {what}, not {length}"))
}
