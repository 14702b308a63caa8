//! One entry on its way to the stream, or out of a recording.

use crate::{
    decode::Scalar,
    event::{Entry, EntryId},
};

/// Fields of an entry, their bytes in one buffer that is kept from tick to tick.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// When it happened, ns since the Unix epoch in whatever zone the file is in: for order and pace alone.
    pub(crate) time: Option<i64>,
    /// Its id, if it comes from a stream.
    pub(crate) id: Option<EntryId>,
    bytes: Vec<u8>,
    /// Where the name and the value of each field end.
    ends: Vec<(usize, usize)>,
    /// The cells of a table's row, each with the place that the decoder has for its column. Then there are no fields.
    cells: Option<Vec<(usize, Cell)>>,
}

#[derive(Clone, Copy, Debug)]
enum Cell {
    Whole(i64),
    Number(f64),
    /// Where it begins and ends in `bytes`.
    Text(usize, usize),
}

impl Record {
    pub(crate) fn clear(&mut self) {
        (self.time, self.id) = (None, None);
        self.bytes.clear();
        self.ends.clear();
        self.cells = None;
    }

    /// Becomes a row without cells.
    pub(crate) fn clear_row(&mut self) {
        let mut cells = self.cells.take().unwrap_or_default();
        cells.clear();
        self.clear();
        self.cells = Some(cells);
    }

    pub(crate) fn put_cell(&mut self, place: usize, value: Scalar<'_>) {
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
        if let Some(cells) = &mut self.cells {
            cells.push((place, cell));
        }
    }

    /// The cells, if it is a table's row.
    pub(crate) fn cells(&self) -> Option<impl Iterator<Item = (usize, Scalar<'_>)>> {
        let cells = self.cells.as_ref()?.iter();
        Some(cells.map(|(place, cell)| match cell {
            Cell::Whole(number) => (*place, Scalar::Integer(*number)),
            Cell::Number(number) => (*place, Scalar::Number(*number)),
            // What went in was text.
            Cell::Text(start, end) => {
                (*place, Scalar::Text(std::str::from_utf8(&self.bytes[*start..*end]).unwrap_or_default()))
            }
        }))
    }

    /// Becomes the entry.
    pub(crate) fn copy(&mut self, entry: &Entry<'_>) {
        self.clear();
        self.id = Some(entry.id);
        self.time = i64::try_from(entry.id.millis).ok().map(|millis| millis * 1_000_000);
        entry.fields().for_each(|(name, value)| self.put(name, value));
    }

    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len()));
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let field = (&self.bytes[start..*middle], &self.bytes[*middle..*end]);
            start = *end;
            field
        })
    }
}
