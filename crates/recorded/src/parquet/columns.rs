//! Decodes the columns of a Parquet file, a few thousand rows at a time.
//!
//! What holds: a cell has the type that the file's schema gives to its column, whatever the encoding and the compression.
//! Only columns that are used are decoded.

use std::{fs::File, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use parquet::{
    basic::Encoding,
    column::{
        page::PageReader,
        reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
    },
    data_type::{DataType, FixedLenByteArray},
    file::{metadata::ColumnChunkMetaData, reader::FileReader, serialized_reader::SerializedFileReader},
};

use super::{
    limits::{self, HeldBytes, LimitedPages},
    pages,
    texts::{TextDictionary, Texts},
    types::{self, CellType},
};
use tickhound_core::{
    decode::{ColumnKind, Scalar},
    simulate::layout::Value,
};

/// The number of rows that are decoded at once: their columns fit into the processor's caches.
const ROWS: usize = 4096;

/// The columns of one file, and the position in it.
pub(super) struct Columns {
    file: SerializedFileReader<File>,
    /// The same file, to check what it states before it is read.
    bytes: Arc<File>,
    held: HeldBytes,
    fields: Vec<Field>,
    /// The index of the next row group.
    next_group: usize,
    /// The readers of the current row group, by position in the file.
    readers: Vec<Option<CellReader>>,
    /// The number of rows of the current row group that are still to be read.
    rows_left: usize,
}

/// One column in the sense of a table.
enum Field {
    /// A group or a list of values, which can't be a field of a tick.
    Nested,
    /// A column without values, or one that is not used.
    Skipped,
    /// A column of plain values.
    Plain { leaf: usize, cell_type: CellType },
}

impl Columns {
    /// Reads the schema.
    pub(super) fn open(file: File) -> Result<Self> {
        limits::check_schema(&file)?;
        let bytes = Arc::new(file.try_clone()?);
        let file = SerializedFileReader::new(file)?;
        let schema = file.metadata().file_metadata().schema_descr();
        let mut fields: Vec<Field> = schema.root_schema().get_fields().iter().map(|_| Field::Nested).collect();
        for (leaf, column) in schema.columns().iter().enumerate() {
            if schema.get_column_root(leaf).is_primitive() && column.max_rep_level() == 0 {
                fields[schema.get_column_root_idx(leaf)] = match types::cell_type(column)? {
                    Some(cell_type) => Field::Plain { leaf, cell_type },
                    None => Field::Skipped,
                };
            }
        }
        let readers = fields.iter().map(|_| None).collect();
        Ok(Self { file, bytes, held: HeldBytes::default(), fields, next_group: 0, readers, rows_left: 0 })
    }

    /// The names of the columns.
    pub(super) fn names(&self) -> Vec<&str> {
        self.file.metadata().file_metadata().schema().get_fields().iter().map(|field| field.name()).collect()
    }

    /// The number of rows in the file, as the file states it.
    pub(super) fn stated_rows(&self) -> i64 {
        self.file.metadata().file_metadata().num_rows()
    }

    /// Whether the values of a column consist of other values.
    pub(super) fn is_nested(&self, position: usize) -> bool {
        matches!(self.fields[position], Field::Nested)
    }

    /// Skips the columns for which `is_used` is false.
    ///
    /// # Errors
    /// When a column that is used has a type without a meaning for ticks.
    pub(super) fn select(&mut self, is_used: impl Fn(usize) -> bool) -> Result<()> {
        let names: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
        for (position, field) in self.fields.iter_mut().enumerate() {
            if !is_used(position) {
                *field = Field::Skipped;
            }
            if let Field::Plain { cell_type: CellType::Opaque, .. } = field {
                bail!(
                    "the column {} holds bytes of fixed length, expected a number, a time or a text",
                    names[position]
                );
            }
        }
        Ok(())
    }

    /// Decodes the next rows into `cells`, by position in the file; `None` stands for a column without cells. Returns the
    /// number of rows, 0 at the end of the file.
    pub(super) fn read(&mut self, cells: &mut Vec<Option<Cells>>) -> Result<usize> {
        while self.rows_left == 0 {
            if self.next_group == self.file.num_row_groups() {
                return Ok(0);
            }
            self.open_group()?;
        }
        let rows = self.rows_left.min(ROWS);
        cells.clear();
        for (field, reader) in self.fields.iter().zip(&mut self.readers) {
            cells.push(match (field, reader) {
                (Field::Plain { cell_type, .. }, Some(reader)) => Some(reader.read(*cell_type, rows)?),
                _ => None,
            });
        }
        self.rows_left -= rows;
        Ok(rows)
    }

    fn open_group(&mut self) -> Result<()> {
        let group = self.file.get_row_group(self.next_group)?;
        self.next_group += 1;
        let rows = group.metadata().num_rows();
        self.rows_left = usize::try_from(rows).context("a row group has a negative number of rows")?;
        if self.rows_left == 0 {
            return Ok(());
        }
        for (field, reader) in self.fields.iter().zip(&mut self.readers) {
            if let Field::Plain { leaf, cell_type } = field {
                // The pages of the row group before are given back first.
                *reader = None;
                let column = group.metadata().column(*leaf);
                let pages = || {
                    let pages = group.get_column_page_reader(*leaf)?;
                    LimitedPages::over(pages, self.bytes.clone(), column, self.held.clone())
                };
                *reader = Some(CellReader::open(column, pages, *cell_type)?);
            }
        }
        Ok(())
    }
}

/// Reads the cells of a column of one row group.
enum CellReader {
    Values(ColumnReader),
    Dictionary(TextDictionary),
}

impl CellReader {
    /// `open_pages` opens the column's pages at the first one.
    fn open(
        column: &ColumnChunkMetaData,
        open_pages: impl Fn() -> Result<Box<dyn PageReader>>,
        cell_type: CellType,
    ) -> Result<Self> {
        if matches!(cell_type, CellType::Text)
            && refers_to_dictionary(column)
            && let Some(dictionary) = TextDictionary::open(column.column_descr(), open_pages()?)?
        {
            return Ok(Self::Dictionary(dictionary));
        }
        let pages = pages::with_dictionary(open_pages()?);
        Ok(Self::Values(get_column_reader(column.column_descr_ptr(), pages)))
    }

    fn read(&mut self, cell_type: CellType, rows: usize) -> Result<Cells> {
        match self {
            Self::Values(reader) => Cells::read(reader, cell_type, rows),
            Self::Dictionary(dictionary) => {
                let positions = ColumnValues::read(&mut dictionary.positions, rows)?;
                Ok(Cells::Text(dictionary.texts(positions.each().map(Option::<&i32>::copied))))
            }
        }
    }
}

/// Whether all rows refer to a dictionary, as the file states it.
fn refers_to_dictionary(column: &ColumnChunkMetaData) -> bool {
    column.page_encoding_stats_mask().is_some_and(|encodings| {
        encodings.is_only(Encoding::RLE_DICTIONARY) || encodings.is_only(Encoding::PLAIN_DICTIONARY)
    })
}

/// The cells of a column.
pub(super) enum Cells {
    Text(Texts),
    Whole(Vec<Option<i64>>),
    /// A missing number is NaN.
    Float(Vec<f64>),
}

impl Cells {
    fn read(reader: &mut ColumnReader, cell_type: CellType, rows: usize) -> Result<Self> {
        match reader {
            ColumnReader::BoolColumnReader(reader) => {
                let flags = ColumnValues::read(reader, rows)?;
                Self::of_texts(flags.each().map(|flag| Some(if *flag? { "true" } else { "false" })))
            }
            ColumnReader::Int32ColumnReader(reader) => Self::of_integers(&ColumnValues::read(reader, rows)?, cell_type),
            ColumnReader::Int64ColumnReader(reader) => Self::of_integers(&ColumnValues::read(reader, rows)?, cell_type),
            ColumnReader::Int96ColumnReader(reader) => {
                let times = ColumnValues::read(reader, rows)?;
                Self::of_texts(times.each().map(|time| types::civil(time?.to_nanos())))
            }
            ColumnReader::FloatColumnReader(reader) => {
                Ok(Self::Float(ColumnValues::read(reader, rows)?.map(f64::NAN, |number| f64::from(*number))))
            }
            ColumnReader::DoubleColumnReader(reader) => {
                Ok(Self::Float(ColumnValues::read(reader, rows)?.map(f64::NAN, |number| *number)))
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                Self::of_bytes(&ColumnValues::read(reader, rows)?, cell_type, |value| value.data())
            }
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                Self::of_bytes(&ColumnValues::read(reader, rows)?, cell_type, |value: &FixedLenByteArray| value.data())
            }
        }
    }

    fn of_texts<T: AsRef<str>>(texts: impl Iterator<Item = Option<T>>) -> Result<Self> {
        Texts::join(texts.map(Ok)).map(Self::Text)
    }

    fn of_integers<T: Copy + Into<i64>>(values: &ColumnValues<T>, cell_type: CellType) -> Result<Self> {
        let whole = |number: &T| -> i64 { (*number).into() };
        let formatted = |format: fn(i64) -> Option<String>, unit: i64| {
            Self::of_texts(values.each().map(|number| format(whole(number?).checked_mul(unit)?)))
        };
        Ok(match cell_type {
            // A value that needs more bits than its type has is cut, as by other readers.
            CellType::Signed { bits } => {
                let unused = i64::BITS - bits;
                Self::Whole(values.map(None, |number| Some((whole(number) << unused) >> unused)))
            }
            CellType::Unsigned { bits } => {
                let unused = i64::BITS - bits;
                let cut = |number: &T| ((whole(number) as u64) << unused) >> unused;
                Self::Whole(values.map(None, |number| i64::try_from(cut(number)).ok()))
            }
            CellType::Instant { unit_ns } => Self::Whole(values.map(None, |number| whole(number).checked_mul(unit_ns))),
            CellType::Decimal { scale } => {
                let power = 10_f64.powi(scale);
                Self::Float(values.map(f64::NAN, |number| types::decimal(whole(number).into(), scale, power)))
            }
            CellType::LocalTime { unit_ns } => formatted(types::civil, unit_ns)?,
            CellType::TimeOfDay { unit_ns } => formatted(types::time_of_day, unit_ns)?,
            CellType::Date => formatted(types::date, 1)?,
            other => bail!("a column of integers can't hold values of the type {other:?}"),
        })
    }

    fn of_bytes<T>(values: &ColumnValues<T>, cell_type: CellType, bytes: impl Fn(&T) -> &[u8]) -> Result<Self> {
        Ok(match cell_type {
            CellType::Text => Self::Text(Texts::join(values.each().map(|value| {
                let text = value.map(|value| std::str::from_utf8(bytes(value))).transpose();
                text.context("a text is not UTF-8")
            }))?),
            CellType::Bytes => Self::of_texts(values.each().map(|value| std::str::from_utf8(bytes(value?)).ok()))?,
            CellType::HalfFloat => Self::Float(values.map(f64::NAN, |value| types::half_float(bytes(value)))),
            CellType::Decimal { scale } => {
                let power = 10_f64.powi(scale);
                Self::Float(values.map(f64::NAN, |value| types::decimal_of_bytes(bytes(value), scale, power)))
            }
            other => bail!("a column of bytes can't hold values of the type {other:?}"),
        })
    }

    /// What kind of values the decoder may expect.
    pub(super) fn kind(&self) -> ColumnKind {
        match self {
            Self::Text(_) => ColumnKind::Text,
            Self::Whole(_) => ColumnKind::Whole,
            Self::Float(_) => ColumnKind::Float,
        }
    }

    /// A value in the form that the decoder takes.
    pub(super) fn scalar(&self, row: usize) -> Option<Scalar<'_>> {
        Some(match self.value(row)? {
            Value::Text(text) => Scalar::Text(text),
            Value::Whole(number) => i64::try_from(number).map_or(Scalar::Number(number as f64), Scalar::Integer),
            Value::Float(number) => Scalar::Number(number),
        })
    }

    /// A value in the form in which it is published.
    pub(super) fn value(&self, row: usize) -> Option<Value<'_>> {
        match self {
            Self::Text(texts) => texts.get(row).map(Value::Text),
            Self::Whole(numbers) => numbers[row].map(|number| match u64::try_from(number) {
                Ok(number) => Value::Whole(number),
                Err(_) => Value::Float(number as f64),
            }),
            // A number that is not finite counts as absent.
            Self::Float(numbers) => Some(Value::Float(numbers[row])).filter(|_| numbers[row].is_finite()),
        }
    }
}

/// The values of a column in some rows, as the file has them.
struct ColumnValues<T> {
    /// The values that are present.
    values: Vec<T>,
    /// One level per row, 0 where the value is missing; empty if the schema requires a value.
    levels: Vec<i16>,
    rows: usize,
}

impl<T> ColumnValues<T> {
    fn read<D: DataType<T = T>>(reader: &mut ColumnReaderImpl<D>, rows: usize) -> Result<Self> {
        let (mut values, mut levels) = (Vec::with_capacity(rows), Vec::new());
        let (rows_read, _, _) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
        ensure!(rows_read == rows, "a column has fewer rows than its row group");
        Ok(Self { values, levels, rows })
    }

    /// Converts the values; a missing one becomes `missing`.
    fn map<C: Clone>(&self, missing: C, convert: impl Fn(&T) -> C) -> Vec<C> {
        if self.values.len() == self.rows {
            return self.values.iter().map(convert).collect();
        }
        self.each().map(|value| value.map_or_else(|| missing.clone(), &convert)).collect()
    }

    /// The value of each row; `None` where it is missing.
    fn each(&self) -> impl Iterator<Item = Option<&T>> {
        let mut values = self.values.iter();
        (0..self.rows).map(move |row| {
            let is_present = self.levels.get(row).is_none_or(|level| *level > 0);
            if is_present { values.next() } else { None }
        })
    }
}
