//! Reads Parquet by column, a few thousand rows at a time.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray,
    cast::AsArray,
    types::{Float64Type, Int64Type, TimestampNanosecondType},
};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{
    Options,
    record::Record,
    table::{ColumnIds, Header, is_symbol},
    time::{self, TimeReader},
};
use tickhound_core::{
    decode::{ColumnKind, Decoder, Names, Scalar, TablePlan},
    simulate::layout::{Encoder, Value},
};

/// The first bytes of a Parquet file.
const MAGIC: &[u8] = b"PAR1";

/// The number of rows that are decoded at once: their columns fit into the processor's caches.
const ROWS: usize = 4096;

/// Whether `file` is a Parquet file, judging by its first bytes.
pub(super) fn is_parquet(mut file: &File) -> bool {
    let mut start = [0; MAGIC.len()];
    let has_magic = file.read_exact(&mut start).is_ok() && start == MAGIC;
    file.seek(SeekFrom::Start(0)).is_ok() && has_magic
}

/// The rows of one file.
pub(crate) struct ParquetFile {
    reader: ParquetRecordBatchReader,
    encoder: Encoder,
    header: Header,
    /// The decoder, until the first rows show how it can read them.
    decoder: Option<(Decoder, Names)>,
    /// The plan of the fast path, if the columns fit it.
    plan: Option<TablePlan>,
    times: TimeReader,
    /// The columns of the current rows, by position in the file; `None` for a nested column.
    cells: Vec<Option<Cells>>,
    /// The number of current rows.
    rows: usize,
    /// The index of the next one.
    next: usize,
    /// Bytes of the file per row, for the progress bar.
    row_bytes: f64,
    rows_read: u64,
    /// Bytes that the progress bar has counted.
    bytes_counted: u64,
    read: Arc<AtomicU64>,
}

/// The cells of a column.
enum Cells {
    Text(StringArray),
    Whole(Int64Array),
    Float(Float64Array),
}

impl ParquetFile {
    /// Reads the schema.
    pub(super) fn open(
        file: File,
        file_symbol: &str,
        options: &Options,
        size: u64,
        read: Arc<AtomicU64>,
    ) -> Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).context("is not a readable Parquet file")?;
        let rows = builder.metadata().file_metadata().num_rows();
        let schema = builder.schema().clone();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let header = Header::resolve(&names, names.len(), file_symbol, options)?;
        if let Some((name, _)) = header.columns.iter().find(|(name, at)| {
            is_symbol(name) && matches!(schema.field(*at).data_type(), DataType::Struct(_) | DataType::List(_))
        }) {
            bail!("the column {name} is nested, expected the name of the symbol");
        }
        let reader = builder.with_batch_size(ROWS).build().context("is not a readable Parquet file")?;
        Ok(Self {
            reader,
            encoder: Encoder::new(options.table_layout),
            header,
            decoder: options.decoder.clone().map(|decoder| (decoder, options.names.clone())),
            plan: None,
            times: options.time_reader(),
            cells: Vec::new(),
            rows: 0,
            next: 0,
            row_bytes: size as f64 / rows.max(1) as f64,
            rows_read: 0,
            bytes_counted: 0,
            read,
        })
    }

    /// Reads the next row into `record`; false at the end.
    pub(super) fn next(&mut self, record: &mut Record) -> Result<bool> {
        while self.next >= self.rows {
            match self.reader.next() {
                Some(batch) => self.take_batch(&batch.context("a part of the file is damaged")?)?,
                None => return Ok(false),
            }
        }
        let row = self.next;
        self.next += 1;
        if !self.put_tick(row, record) {
            match &self.header.column_ids {
                Some(ids) => self.put_cells(row, ids, record),
                None => self.put_fields(row, record),
            }
        }
        let cells = self.header.time.and_then(|position| self.cells.get(position)?.as_ref());
        record.time = cells.and_then(|cells| match cells.value(row)? {
            Value::Text(text) => self.times.read(text),
            Value::Whole(number) => time::from_whole(i64::try_from(number).ok()?),
            Value::Float(number) => self.times.read(&number.to_string()),
        });
        Ok(true)
    }

    /// Decodes a row on the fast path; false if that declines it.
    fn put_tick(&mut self, row: usize, record: &mut Record) -> bool {
        let Self { plan: Some(plan), cells, .. } = self else { return false };
        plan.read(|position| cells[position].as_ref()?.scalar(row), record.begin_tick())
    }

    /// Plans the fast path from the current columns, whose types are the same in the whole file.
    fn plan(&self, decoder: &Decoder, names: &Names) -> Option<TablePlan> {
        let Header { columns, time, symbol, column_ids } = &self.header;
        let ids = column_ids.as_ref()?;
        let (mut kinds, mut seen) = (vec![None; self.cells.len()], vec![false; self.cells.len()]);
        for ((_, position), id) in columns.iter().zip(&ids.columns) {
            if std::mem::replace(&mut seen[*position], true) {
                // --map publishes this column under two names.
                return None;
            }
            let kind = self.cells[*position].as_ref().map(Cells::kind);
            kinds[*position] = id.zip(kind);
        }
        let symbol = match symbol {
            Some(symbol) => Some((ids.symbol?, symbol.as_str())),
            None => None,
        };
        decoder.plan_table(&kinds, (*time)?, symbol, names)
    }

    fn put_cells(&self, row: usize, ids: &ColumnIds, record: &mut Record) {
        record.clear_row();
        if let (Some(symbol), Some(id)) = (&self.header.symbol, ids.symbol) {
            record.put_cell(id, Scalar::Text(symbol));
        }
        for ((_, position), id) in self.header.columns.iter().zip(&ids.columns) {
            let Some(id) = id else { continue };
            let cells = self.cells.get(*position).and_then(Option::as_ref);
            if let Some(scalar) = cells.and_then(|cells| cells.scalar(row)) {
                record.put_cell(*id, scalar);
            }
        }
    }

    fn put_fields(&mut self, row: usize, record: &mut Record) {
        let Header { columns, symbol, .. } = &self.header;
        let symbol = symbol.as_deref().map(|symbol| ("symbol", Value::Text(symbol)));
        let cells = columns
            .iter()
            .filter_map(|(name, position)| Some((name.as_str(), self.cells.get(*position)?.as_ref()?.value(row)?)));
        // A symbol that consists of digits stays a text.
        let mut digits = String::new();
        let mut tick: Vec<(&str, Value<'_>)> = symbol.into_iter().chain(cells).collect();
        if let Some((_, value @ Value::Whole(_))) = tick.iter_mut().find(|(name, _)| is_symbol(name)) {
            if let Value::Whole(number) = value {
                digits = number.to_string();
            }
            *value = Value::Text(&digits);
        }
        record.clear();
        self.encoder.encode(&tick, |name, value| record.put(name, value));
    }

    /// Makes a batch the current rows.
    fn take_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        self.cells = batch.columns().iter().map(Cells::of).collect::<Result<_>>()?;
        (self.rows, self.next) = (batch.num_rows(), 0);
        if let Some((decoder, names)) = self.decoder.take() {
            self.plan = self.plan(&decoder, &names);
        }
        self.rows_read += batch.num_rows() as u64;
        let bytes = (self.rows_read as f64 * self.row_bytes) as u64;
        self.read.fetch_add(bytes - self.bytes_counted, Ordering::Relaxed);
        self.bytes_counted = bytes;
        Ok(())
    }
}

impl Cells {
    /// Converts a column; `None` if its type can't be a field of a tick.
    fn of(column: &ArrayRef) -> Result<Option<Self>> {
        let to = |kind: DataType| cast(column, &kind).with_context(|| format!("a column of {}", column.data_type()));
        Ok(Some(match column.data_type() {
            kind if kind.is_integer() => Self::Whole(to(DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            kind if kind.is_floating() || kind.is_decimal() => {
                Self::Float(to(DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            DataType::Timestamp(_, zone) => {
                let nanos = to(DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()))?;
                let nanos = nanos.as_primitive::<TimestampNanosecondType>();
                match zone {
                    Some(_) => Self::Whole(nanos.iter().collect()),
                    // The file does not say in which zone this local time is, so it stays a text.
                    None => Self::Text(nanos.iter().map(|nanos| nanos.and_then(civil)).collect()),
                }
            }
            kind if kind.is_nested() => return Ok(None),
            DataType::Null => return Ok(None),
            _ => Self::Text(to(DataType::Utf8)?.as_string::<i32>().clone()),
        }))
    }

    fn kind(&self) -> ColumnKind {
        match self {
            Self::Text(_) => ColumnKind::Text,
            Self::Whole(_) => ColumnKind::Whole,
            Self::Float(_) => ColumnKind::Float,
        }
    }

    /// A value in the form that the decoder takes.
    fn scalar(&self, row: usize) -> Option<Scalar<'_>> {
        Some(match self.value(row)? {
            Value::Text(text) => Scalar::Text(text),
            Value::Whole(number) => i64::try_from(number).map_or(Scalar::Number(number as f64), Scalar::Integer),
            Value::Float(number) => Scalar::Number(number),
        })
    }

    fn value(&self, row: usize) -> Option<Value<'_>> {
        match self {
            Self::Text(texts) => texts.is_valid(row).then(|| Value::Text(texts.value(row))),
            Self::Whole(numbers) => numbers.is_valid(row).then(|| match u64::try_from(numbers.value(row)) {
                Ok(number) => Value::Whole(number),
                Err(_) => Value::Float(numbers.value(row) as f64),
            }),
            // A number that is not finite counts as absent.
            Self::Float(numbers) => Some(Value::Float(numbers.value(row)))
                .filter(|_| numbers.is_valid(row) && numbers.value(row).is_finite()),
        }
    }
}

/// Formats a local time.
fn civil(nanos: i64) -> Option<String> {
    let instant = jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok()?;
    Some(jiff::tz::Offset::UTC.to_datetime(instant).to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow_array::{BooleanArray, DictionaryArray, TimestampMicrosecondArray, types::Int32Type};
    use parquet::arrow::ArrowWriter;
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::{Files, Mapping};
    use tickhound_core::{
        config::InputConfig,
        decode::{Decoder, Outcome, PlainTick, RawTick},
        event::{Entries, EntryId},
        simulate::Layout,
    };

    fn write(file: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(file).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn read(file: &Path, options: &Options) -> Result<Vec<(Option<i64>, String)>> {
        let mut files = Files::open(&[file.to_path_buf()], options)?;
        let (mut record, mut rows) = (Record::default(), Vec::new());
        while files.next(&mut record)? {
            let (_, json) = record.fields().next().unwrap();
            rows.push((record.time, String::from_utf8(json.to_vec()).unwrap()));
        }
        assert_eq!(files.read(), files.size());
        Ok(rows)
    }

    /// 2024-08-08 12:00 UTC.
    const NOON_US: i64 = 1_723_118_400_000_000;

    #[test]
    fn columns_of_every_kind_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("day.parquet");
        let symbols: DictionaryArray<Int32Type> = ["M&M", "SBIN"].into_iter().collect();
        let times = TimestampMicrosecondArray::from(vec![NOON_US, NOON_US + 1]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("symbol", Arc::new(symbols)),
            ("timestamp", Arc::new(times.with_timezone("UTC"))),
            ("price", Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), None]))),
            ("volume", Arc::new(Int64Array::from(vec![7, -7]))),
            ("is_tradable", Arc::new(BooleanArray::from(vec![true, false]))),
        ];
        write(&file, columns);
        let rows = read(&file, &Options::default()).unwrap();
        let first = r#"{"symbol":"M&M","timestamp":1723118400000000000,"price":0.30000000000000004,"volume":7,"is_tradable":"true"}"#;
        let second = r#"{"symbol":"SBIN","timestamp":1723118400000001000,"volume":-7.0,"is_tradable":"false"}"#;
        assert_eq!(rows, [(Some(NOON_US * 1000), first.into()), (Some(NOON_US * 1000 + 1000), second.into())]);
    }

    #[test]
    fn a_clock_without_a_zone_stays_one_and_the_file_names_the_symbol() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("SBIN.parquet");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![NOON_US]))),
            ("ltp", Arc::new(Float64Array::from(vec![500.0]))),
        ];
        write(&file, columns);
        let mapping = Mapping::parse(&["time=at".into(), "price=ltp".into()]).unwrap();
        let options = Options { mapping, ..Options::default() };
        let rows = read(&file, &options).unwrap();
        let expected = r#"{"symbol":"SBIN","exchange_timestamp":"2024-08-08T12:00:00","last_price":500.0}"#;
        assert_eq!(rows, [(Some(NOON_US * 1000), expected.into())]);
    }

    /// Odd rows: absent, negative and huge values, symbols with exchange and of digits, times as text and of every unit.
    fn odd() -> Vec<(&'static str, ArrayRef)> {
        let symbols = ["NSE:SBIN", "256265", "nan", "tcs", "X"].map(Some);
        let times = ["2024-08-08 12:00:00.25", "1723118400", "soon", "1723118400000000001", "2024-08-08T12:00:00Z"];
        let counts = vec![Some(7), Some(-7), None, Some(i64::MAX), Some(0)];
        vec![
            ("symbol", Arc::new(StringArray::from(symbols.to_vec()))),
            ("timestamp", Arc::new(StringArray::from(times.to_vec()))),
            (
                "last_price",
                Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(-1.0), None, Some(1e300), Some(5.0)])),
            ),
            ("last_traded_quantity", Arc::new(Int64Array::from(counts.clone()))),
            ("volume_traded", Arc::new(Float64Array::from(vec![f64::NAN, 1.0, f64::INFINITY, 2.5, 0.0]))),
            ("depth", Arc::new(StringArray::from(vec![r#"{"buy":[{"price":4.5,"quantity":3}]}"#; 5]))),
            ("open_interest", Arc::new(Int64Array::from(counts))),
        ]
    }

    /// A row of numbers: symbol, stamp, price in two columns, volume, bid.
    type Row = (Option<&'static str>, Option<i64>, [Option<f64>; 2], Option<i64>, Option<f64>);

    /// Numbers where numbers belong.
    fn plain(rows: &[Row]) -> Vec<(&'static str, ArrayRef)> {
        let floats = |of: fn(&Row) -> Option<f64>| Arc::new(rows.iter().map(of).collect::<Float64Array>());
        vec![
            ("symbol", Arc::new(rows.iter().map(|row| row.0).collect::<StringArray>())),
            ("exchange_timestamp_ms", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>())),
            ("ltp", floats(|row| row.2[0])),
            ("last_price", floats(|row| row.2[1])),
            ("volume_traded", Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>())),
            ("best_bid_price", floats(|row| row.4)),
        ]
    }

    const NAMES: [Option<&str>; 8] =
        [Some("sbin"), Some("NSE:M&M"), Some("TCS"), Some("nan"), Some("{}"), Some("256265.0"), Some(""), None];
    /// What says "none" among them, and years that nobody means.
    const STAMPS: [Option<i64>; 10] = [
        Some(NOON_US / 1000),
        Some(NOON_US / 1000 + 1),
        Some(NOON_US),
        Some(NOON_US / 1000 + 9_000_000),
        Some(0),
        Some(-1),
        Some(9_999_999_999),
        Some(9_999_999_999_999),
        Some(i64::MAX),
        None,
    ];
    const NUMBERS: [Option<f64>; 8] =
        [Some(0.1 + 0.2), Some(5.0), Some(1e300), Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY), None];
    const MAPS: [&[&str]; 4] = [&[], &["bid=ltp"], &["price=ltp", "bid=ltp"], &["price=ltp", "other=ltp"]];
    const WHOLES: [Option<i64>; 5] = [Some(7), Some(0), Some(-7), Some(i64::MAX), None];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever the rows, the names that the decoder knows, and what columns are called.
        #[test]
        fn the_fast_path_gives_the_ticks_of_the_fields(
            rows in vec(
                (select(&NAMES[..]), select(&STAMPS[..]), [select(&NUMBERS[..]), select(&NUMBERS[..])], select(&WHOLES[..]),
                 select(&NUMBERS[..])),
                1..20,
            ),
            has_symbol: bool,
            preset in select(&["generic", "kite", "binance", "upstox"][..]),
            map in select(&MAPS[..]),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("TCS.parquet");
            write(&file, plain(&rows).into_iter().filter(|(name, _)| has_symbol || *name != "symbol").collect());
            let decoder = Decoder::new(&InputConfig { preset: preset.into(), ..InputConfig::default() }, Path::new("."));
            let decoder = decoder.unwrap();
            let (by_field, _) = decoded(&file, map, None, decoder.clone());
            let (at_once, _) = decoded(&file, map, Some(decoder.clone()), decoder);
            prop_assert_eq!(at_once, by_field);
        }
    }

    /// The same as [`odd`] in CSV, where a cell is text.
    fn odd_csv() -> &'static str {
        "symbol,timestamp,last_price,last_traded_quantity,volume_traded,open_interest\n\
         NSE:SBIN,2024-08-08 12:00:00.25,0.30000000000000004,7,nan,7\n256265,1723118400,-1,-7,1.0,\n\
         nan,soon,,,inf,x\ntcs,1723118400000000001,1e300,9223372036854775807,2.50,1\nX,2024-08-08T12:00:00Z,5.0,0,0,True\n\
         Y,1723118400250,007,+3,1_000,-\nshort,1723118400\n"
    }

    #[test]
    fn cells_say_what_fields_say() {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<(&str, ArrayRef)> = vec![
            ("instrument_token", Arc::new(Int64Array::from(vec![1, 0, 5]))),
            (
                "exchange_timestamp_ms",
                Arc::new(Float64Array::from(vec![1_723_118_400_000.0, 1_723_118_400.25, f64::NAN])),
            ),
            ("ltp", Arc::new(Int64Array::from(vec![100, 0, 3]))),
        ];
        write(&folder.path().join("odd.parquet"), odd());
        let row: Row = (Some("sbin"), Some(NOON_US / 1000), [None, Some(5.0)], Some(7), None);
        write(&folder.path().join("plain.parquet"), plain(&[row; 3]));
        write(
            &folder.path().join("TCS.parquet"),
            plain(&[row; 3]).into_iter().filter(|(name, _)| *name != "symbol").collect(),
        );
        write(&folder.path().join("numbers.parquet"), numbers);
        std::fs::write(folder.path().join("odd.csv"), odd_csv()).unwrap();
        for (name, at_once) in
            [("odd.parquet", 0), ("numbers.parquet", 0), ("odd.csv", 0), ("plain.parquet", 3), ("TCS.parquet", 3)]
        {
            let file = folder.path().join(name);
            let decoder = Decoder::new(&InputConfig::default(), Path::new(".")).unwrap();
            let (by_field, none) = decoded(&file, &[], None, decoder.clone());
            assert!(by_field.iter().filter(|row| row.starts_with("Ok")).count() >= 2, "{by_field:#?}");
            assert_eq!(decoded(&file, &[], Some(decoder.clone()), decoder), (by_field, at_once), "{name}");
            assert_eq!(none, 0);
        }
    }

    /// Each row's ticks, or why it has none; and how many rows were decoded at once.
    fn decoded(file: &Path, map: &[&str], cells_for: Option<Decoder>, mut decoder: Decoder) -> (Vec<String>, usize) {
        let mapping = Mapping::parse(&map.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()).unwrap();
        let options = Options { mapping, decoder: cells_for, table_layout: Layout::Flat, ..Options::default() };
        let mut files = Files::open(&[file.to_path_buf()], &options).unwrap();
        let (mut record, mut rows, mut at_once, mut names) = (Record::default(), Vec::new(), 0, Vec::new());
        while files.next(&mut record).unwrap() {
            let recorded = record.time.map_or(0, |time| time / 1_000_000) as u64;
            let arrival = EntryId { millis: recorded.max(1_723_118_500_000), seq: 0 };
            let mut ticks = Vec::new();
            let mut emit = |tick: &RawTick| ticks.push(format!("{tick:?}"));
            let outcome = if let Some(PlainTick { symbol, time, price, columns }) = record.tick() {
                names.append(&mut options.names.take_new());
                let (symbol, columns) = (names[*symbol as usize].1.to_string(), columns.clone());
                emit(&RawTick { symbol, time: Some(*time), price: *price, columns });
                at_once += 1;
                Ok(Outcome::Ticks(1))
            } else if let Some(cells) = record.cells() {
                decoder.decode_cells(arrival.millis, cells, &mut emit)
            } else {
                let mut entries = Entries::default();
                entries.push_entry(arrival);
                record.fields().for_each(|(name, value)| entries.push_field(name, value));
                decoder.decode(entries.get(0).unwrap(), &mut emit)
            };
            rows.push(format!("{outcome:?} {ticks:?} {:?}", record.time));
        }
        (rows, at_once)
    }

    #[test]
    fn a_torn_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("SBIN.parquet");
        std::fs::write(&file, b"PAR1 and then nothing").unwrap();
        let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
        assert!(error.contains("is not a readable Parquet file"), "{error}");
    }
}
