//! One entry on its way to the stream, or out of a recording.

use tickhound_core::{
    decode::{PlainTick, Scalar},
    event::{Entry, EntryId},
};

/// Fields of an entry, their bytes in one buffer that is kept from tick to tick.
#[derive(Debug, Default)]
pub struct Record {
    /// When it happened, ns since the Unix epoch in whatever zone the file is in: for order and pace alone.
    pub time: Option<i64>,
    /// Its id, if it comes from a stream.
    pub id: Option<EntryId>,
    /// What it is made of; the rest is empty, or kept for its room.
    kind: Kind,
    bytes: Vec<u8>,
    /// Where the name and the value of each field end.
    ends: Vec<(usize, usize)>,
    /// The cells of a table's row, each with the place that the decoder has for its column.
    cells: Vec<(usize, Cell)>,
    tick: PlainTick,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Kind {
    /// What a producer would publish.
    #[default]
    Fields,
    /// A table's row.
    Row,
    /// A table's row, decoded.
    Tick,
}

#[derive(Clone, Copy, Debug)]
enum Cell {
    Whole(i64),
    Number(f64),
    /// Where it begins and ends in `bytes`.
    Text(usize, usize),
}

impl Record {
    pub fn clear(&mut self) {
        (self.time, self.id, self.kind) = (None, None, Kind::Fields);
        self.bytes.clear();
        self.ends.clear();
    }

    /// Becomes a row without cells.
    pub fn clear_row(&mut self) {
        self.clear();
        self.cells.clear();
        self.kind = Kind::Row;
    }

    /// Becomes the tick that is written to what it returns.
    pub fn begin_tick(&mut self) -> &mut PlainTick {
        self.clear();
        self.kind = Kind::Tick;
        &mut self.tick
    }

    /// Whether it is a table's row, decoded or not.
    pub fn is_row(&self) -> bool {
        self.kind != Kind::Fields
    }

    /// The tick, if it is decoded.
    pub fn tick(&self) -> Option<&PlainTick> {
        (self.kind == Kind::Tick).then_some(&self.tick)
    }

    pub fn put_cell(&mut self, place: usize, value: Scalar<'_>) {
        let cell = match value {
            Scalar::Integer(number) => Cell::Whole(number),
            Scalar::Number(number) => Cell::Number(number),
            Scalar::Text(text) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(text.as_bytes());
                Cell::Text(start, self.bytes.len())
            }
            Scalar::Flag(_) => return,
        };
        self.cells.push((place, cell));
    }

    /// The cells, if it is a table's row that is not decoded.
    pub fn cells(&self) -> Option<impl Iterator<Item = (usize, Scalar<'_>)>> {
        let cells = (self.kind == Kind::Row).then_some(&self.cells)?;
        Some(cells.iter().map(|(place, cell)| match cell {
            Cell::Whole(number) => (*place, Scalar::Integer(*number)),
            Cell::Number(number) => (*place, Scalar::Number(*number)),
            // What went in was text.
            Cell::Text(start, end) => {
                (*place, Scalar::Text(std::str::from_utf8(&self.bytes[*start..*end]).unwrap_or_default()))
            }
        }))
    }

    /// Becomes the entry.
    pub fn copy(&mut self, entry: &Entry<'_>) {
        self.clear();
        self.id = Some(entry.id);
        self.time = i64::try_from(entry.id.millis).ok().and_then(|millis| millis.checked_mul(1_000_000));
        entry.fields().for_each(|(name, value)| self.put(name, value));
    }

    pub fn put(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len()));
    }

    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let field = (&self.bytes[start..*middle], &self.bytes[*middle..*end]);
            start = *end;
            field
        })
    }
}
