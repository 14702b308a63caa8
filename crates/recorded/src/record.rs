//! One recorded tick: the fields of an entry, the cells of a table's row, or a decoded tick.
//!
//! What holds: a record is reused from tick to tick, so that reading allocates nothing once its buffers are large
//! enough.

use anyhow::{Context, Result};

use tickhound_core::{
    decode::{PlainTick, Scalar},
    event::{Entry, EntryId},
    simulate::{Renderer, Simulator},
};

/// One recorded tick, and the buffers of the others.
#[derive(Debug, Default)]
pub struct Record {
    /// The time of the tick, ns since the Unix epoch in the zone of the file. It serves order and pace only.
    pub time: Option<i64>,
    /// The id of the entry, if the tick comes from a stream.
    pub id: Option<EntryId>,
    /// Which of the buffers below are in use.
    form: Form,
    bytes: Vec<u8>,
    /// Where the name and the value of each field end in `bytes`.
    ends: Vec<(usize, usize)>,
    /// The cells of a table's row, each with the id that the decoder has for its column.
    cells: Vec<(usize, Cell)>,
    tick: PlainTick,
}

/// What a record contains.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Form {
    /// The fields that a producer would publish.
    #[default]
    Fields,
    /// The cells of a table's row.
    Row,
    /// The decoded tick of a table's row.
    Tick,
}

/// The value of a cell.
#[derive(Clone, Copy, Debug)]
enum Cell {
    Whole(i64),
    Number(f64),
    /// Where the text begins and ends in `bytes`.
    Text(usize, usize),
}

impl Record {
    /// Turns the record into an entry without fields.
    pub fn clear(&mut self) {
        (self.time, self.id, self.form) = (None, None, Form::Fields);
        self.bytes.clear();
        self.ends.clear();
    }

    /// Turns the record into the entry of the next tick of a simulated market.
    ///
    /// # Errors
    /// Fails when the market has ended.
    pub fn take_simulated(&mut self, simulator: &mut Simulator, renderer: &mut Renderer) -> Result<()> {
        let tick = simulator.next().context("the simulated market has ended")?;
        self.clear();
        self.time = i64::try_from(tick.time).ok();
        let instrument = &simulator.instruments()[tick.instrument as usize];
        renderer.render(instrument, &tick, |name, value| self.put(name, value));
        Ok(())
    }

    /// Turns the record into a row without cells.
    pub(crate) fn clear_row(&mut self) {
        self.clear();
        self.cells.clear();
        self.form = Form::Row;
    }

    /// Turns the record into a decoded tick, which the caller fills in.
    pub(crate) fn begin_tick(&mut self) -> &mut PlainTick {
        self.clear();
        self.form = Form::Tick;
        &mut self.tick
    }

    /// Whether the record is a row of a table, decoded or not.
    pub fn is_row(&self) -> bool {
        self.form != Form::Fields
    }

    /// The tick, if the record is decoded.
    pub fn tick(&self) -> Option<&PlainTick> {
        (self.form == Form::Tick).then_some(&self.tick)
    }

    /// Adds a cell under the decoder's id for its column.
    pub(crate) fn put_cell(&mut self, column: usize, value: Scalar<'_>) {
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
        self.cells.push((column, cell));
    }

    /// The cells, if the record is a row that is not decoded, each with the decoder's id for its column.
    pub fn cells(&self) -> Option<impl Iterator<Item = (usize, Scalar<'_>)>> {
        let cells = (self.form == Form::Row).then_some(&self.cells)?;
        Some(cells.iter().map(|(column, cell)| match cell {
            Cell::Whole(number) => (*column, Scalar::Integer(*number)),
            Cell::Number(number) => (*column, Scalar::Number(*number)),
            // `put_cell` wrote these bytes from a text.
            Cell::Text(start, end) => {
                (*column, Scalar::Text(std::str::from_utf8(&self.bytes[*start..*end]).unwrap_or_default()))
            }
        }))
    }

    /// Turns the record into a copy of an entry.
    pub fn copy(&mut self, entry: &Entry<'_>) {
        self.clear();
        self.id = Some(entry.id);
        self.time = i64::try_from(entry.id.millis).ok().and_then(|millis| millis.checked_mul(1_000_000));
        entry.fields().for_each(|(name, value)| self.put(name, value));
    }

    /// Adds a field.
    pub fn put(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len()));
    }

    /// Name and value of each field.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let field = (&self.bytes[start..*middle], &self.bytes[*middle..*end]);
            start = *end;
            field
        })
    }
}
