//! Reads the rows of a Parquet file from columns that are decoded a few thousand rows at a time.

mod columns;
mod delta;
mod limits;
mod pages;
#[cfg(test)]
pub(crate) mod sample;
mod texts;
mod thrift;
mod types;

use std::{
    borrow::Cow,
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail};

use self::columns::{Cells, Columns};
use super::{
    Options,
    contained::contained,
    record::Record,
    table::{ColumnIds, Header, is_symbol},
    time::{self, TimeReader},
};
use tickhound_core::{
    decode::{Decoder, Names, Scalar, TablePlan},
    market::reference::TableSink,
    simulate::layout::{Encoder, Value},
};

/// The first bytes of a Parquet file.
const MAGIC: &[u8] = b"PAR1";

/// Whether `file` is a Parquet file, judging by its first bytes.
pub(super) fn is_parquet(mut file: &File) -> bool {
    let mut start = [0; MAGIC.len()];
    let has_magic = file.read_exact(&mut start).is_ok() && start == MAGIC;
    file.seek(SeekFrom::Start(0)).is_ok() && has_magic
}

/// Passes the names of the columns to `sink`, and then each row. Nested columns have no cells.
pub(super) fn pass_rows(file: File, sink: &mut dyn TableSink) -> Result<()> {
    let mut columns = Columns::open(file).context("is not a readable Parquet file")?;
    columns.select(|_| true)?;
    sink.header(&columns.names())?;
    let mut cells: Vec<Option<Cells>> = Vec::new();
    loop {
        let rows = columns.read(&mut cells).context("a part of the file is damaged")?;
        if rows == 0 {
            return Ok(());
        }
        for row in 0..rows {
            let texts = cells
                .iter()
                .map(|cells| cells.as_ref().and_then(|cells| cells.scalar(row)).map_or(Cow::Borrowed(""), text));
            let texts: Vec<Cow<'_, str>> = texts.collect();
            sink.row(&texts.iter().map(|text| &**text).collect::<Vec<_>>())?;
        }
    }
}

/// A cell as text, from which numbers can be read back exactly.
fn text(cell: Scalar<'_>) -> Cow<'_, str> {
    match cell {
        Scalar::Text(text) => text.into(),
        Scalar::Integer(number) => number.to_string().into(),
        Scalar::Number(number) => number.to_string().into(),
        Scalar::Flag(flag) => flag.to_string().into(),
    }
}

/// The rows of one file.
pub(crate) struct ParquetFile {
    columns: Columns,
    encoder: Encoder,
    header: Header,
    /// The decoder, until the first rows show how it can read them.
    decoder: Option<(Decoder, Names)>,
    /// The plan of the fast path, if the columns fit it.
    plan: Option<TablePlan>,
    times: TimeReader,
    /// The columns of the current rows, by position in the file; `None` for a column without cells.
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

impl ParquetFile {
    /// Reads the schema.
    pub(super) fn open(
        file: File,
        file_symbol: &str,
        options: &Options,
        size: u64,
        read: Arc<AtomicU64>,
    ) -> Result<Self> {
        let mut columns = Columns::open(file).context("is not a readable Parquet file")?;
        let names = columns.names();
        let header = Header::resolve(&names, names.len(), file_symbol, options)?;
        let nested = |(name, position): &&(String, usize)| is_symbol(name) && columns.is_nested(*position);
        if let Some((name, _)) = header.columns.iter().find(nested) {
            bail!("the column {name} is nested, expected the name of the symbol");
        }
        let rows = columns.stated_rows();
        columns.select(|position| header.uses(position))?;
        Ok(Self {
            columns,
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
            if !contained("a page", || self.read_rows()).context("a part of the file is damaged")? {
                return Ok(false);
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

    /// Decodes the next rows; false at the end.
    fn read_rows(&mut self) -> Result<bool> {
        (self.rows, self.next) = (self.columns.read(&mut self.cells)?, 0);
        if self.rows == 0 {
            return Ok(false);
        }
        if let Some((decoder, names)) = self.decoder.take() {
            self.plan = self.plan(&decoder, &names);
        }
        self.rows_read += self.rows as u64;
        let bytes = (self.rows_read as f64 * self.row_bytes).round() as u64;
        self.read.fetch_add(bytes - self.bytes_counted, Ordering::Relaxed);
        self.bytes_counted = bytes;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use parquet::{
        basic::{Compression, Encoding, GzipLevel, ZstdLevel},
        data_type::{ByteArray, FixedLenByteArray, Int96},
        file::properties::{WriterProperties, WriterVersion},
    };
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::{
        sample::{Column, Values, floats, texts, wholes, write, write_groups},
        *,
    };
    use crate::{Files, Mapping};
    use tickhound_core::{
        config::InputConfig,
        decode::{Decoder, Outcome, PlainTick, RawTick},
        event::{Entries, EntryId},
        simulate::Layout,
    };

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
        let columns = [
            texts("symbol", [Some("M&M"), Some("SBIN")]),
            (
                "required int64 timestamp (TIMESTAMP(MICROS,true))".into(),
                Values::Int64(vec![Some(NOON_US), Some(NOON_US + 1)]),
            ),
            floats("price", [Some(0.1 + 0.2), None]),
            wholes("volume", [Some(7), Some(-7)]),
            ("required boolean is_tradable".into(), Values::Flags(vec![Some(true), Some(false)])),
        ];
        write(&file, &columns);
        let rows = read(&file, &Options::default()).unwrap();
        let first = r#"{"symbol":"M&M","timestamp":1723118400000000000,"price":0.30000000000000004,"volume":7,"is_tradable":"true"}"#;
        let second = r#"{"symbol":"SBIN","timestamp":1723118400000001000,"volume":-7.0,"is_tradable":"false"}"#;
        assert_eq!(rows, [(Some(NOON_US * 1000), first.into()), (Some(NOON_US * 1000 + 1000), second.into())]);
    }

    #[test]
    fn a_clock_without_a_zone_stays_one_and_the_file_names_the_symbol() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("SBIN.parquet");
        let columns = [
            ("required int64 at (TIMESTAMP(MICROS,false))".into(), Values::Int64(vec![Some(NOON_US)])),
            floats("ltp", [Some(500.0)]),
        ];
        write(&file, &columns);
        let mapping = Mapping::parse(&["time=at".into(), "price=ltp".into()]).unwrap();
        let options = Options { mapping, ..Options::default() };
        let rows = read(&file, &options).unwrap();
        let expected = r#"{"symbol":"SBIN","exchange_timestamp":"2024-08-08T12:00:00","last_price":500.0}"#;
        assert_eq!(rows, [(Some(NOON_US * 1000), expected.into())]);
    }

    /// Odd rows: absent, negative and huge values, symbols with exchange and of digits, times as text and of every unit.
    fn odd() -> Vec<Column> {
        let symbols = ["NSE:SBIN", "256265", "nan", "tcs", "X"].map(Some);
        let times = ["2024-08-08 12:00:00.25", "1723118400", "soon", "1723118400000000001", "2024-08-08T12:00:00Z"];
        let counts = [Some(7), Some(-7), None, Some(i64::MAX), Some(0)];
        vec![
            texts("symbol", symbols),
            texts("timestamp", times.map(Some)),
            floats("last_price", [Some(0.1 + 0.2), Some(-1.0), None, Some(1e300), Some(5.0)]),
            wholes("last_traded_quantity", counts),
            floats("volume_traded", [f64::NAN, 1.0, f64::INFINITY, 2.5, 0.0].map(Some)),
            texts("depth", [Some(r#"{"buy":[{"price":4.5,"quantity":3}]}"#); 5]),
            wholes("open_interest", counts),
        ]
    }

    /// A row of numbers: symbol, stamp, price in two columns, volume, bid.
    type Row = (Option<&'static str>, Option<i64>, [Option<f64>; 2], Option<i64>, Option<f64>);

    /// Numbers where numbers belong, with or without a column for the symbol.
    fn plain(rows: &[Row], symbol: Symbols) -> Vec<Column> {
        let mut columns = vec![
            wholes("exchange_timestamp_ms", rows.iter().map(|row| row.1)),
            floats("ltp", rows.iter().map(|row| row.2[0])),
            floats("last_price", rows.iter().map(|row| row.2[1])),
            wholes("volume_traded", rows.iter().map(|row| row.3)),
            floats("best_bid_price", rows.iter().map(|row| row.4)),
        ];
        if symbol == Symbols::InColumn {
            columns.insert(0, texts("symbol", rows.iter().map(|row| row.0)));
        }
        columns
    }

    /// What names the symbol.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Symbols {
        InColumn,
        InFileName,
    }

    const NAMES: [Option<&str>; 8] =
        [Some("sbin"), Some("NSE:M&M"), Some("TCS"), Some("nan"), Some("{}"), Some("256265.0"), Some(""), None];
    /// Times, with values that mean "none" and implausible years among them.
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

        /// This holds for any rows, any preset, and any names of columns.
        #[test]
        fn the_fast_path_gives_the_ticks_of_the_fields(
            rows in vec(
                (select(&NAMES[..]), select(&STAMPS[..]), [select(&NUMBERS[..]), select(&NUMBERS[..])], select(&WHOLES[..]),
                 select(&NUMBERS[..])),
                1..20,
            ),
            symbol in select(&[Symbols::InColumn, Symbols::InFileName][..]),
            preset in select(&["generic", "kite", "binance", "upstox"][..]),
            map in select(&MAPS[..]),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("TCS.parquet");
            write(&file, &plain(&rows, symbol));
            let decoder = Decoder::new(&InputConfig { preset: preset.into(), ..InputConfig::default() }, Path::new("."));
            let decoder = decoder.unwrap();
            let (by_field, _) = decoded(&file, map, None, decoder.clone());
            let (at_once, _) = decoded(&file, map, Some(decoder.clone()), decoder);
            prop_assert_eq!(at_once, by_field);
        }
    }

    /// Rows like those of [`odd`] in CSV, where each cell is text.
    fn odd_csv() -> &'static str {
        "symbol,timestamp,last_price,last_traded_quantity,volume_traded,open_interest\n\
         NSE:SBIN,2024-08-08 12:00:00.25,0.30000000000000004,7,nan,7\n256265,1723118400,-1,-7,1.0,\n\
         nan,soon,,,inf,x\ntcs,1723118400000000001,1e300,9223372036854775807,2.50,1\nX,2024-08-08T12:00:00Z,5.0,0,0,True\n\
         Y,1723118400250,007,+3,1_000,-\nshort,1723118400\n"
    }

    #[test]
    fn cells_say_what_fields_say() {
        let folder = tempfile::tempdir().unwrap();
        let numbers = [
            wholes("instrument_token", [1, 0, 5].map(Some)),
            floats("exchange_timestamp_ms", [1_723_118_400_000.0, 1_723_118_400.25, f64::NAN].map(Some)),
            wholes("ltp", [100, 0, 3].map(Some)),
        ];
        write(&folder.path().join("odd.parquet"), &odd());
        let row: Row = (Some("sbin"), Some(NOON_US / 1000), [None, Some(5.0)], Some(7), None);
        write(&folder.path().join("plain.parquet"), &plain(&[row; 3], Symbols::InColumn));
        write(&folder.path().join("TCS.parquet"), &plain(&[row; 3], Symbols::InFileName));
        write(&folder.path().join("numbers.parquet"), &numbers);
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

    /// The outcome and the ticks of each row, and how many rows the fast path has decoded.
    fn decoded(file: &Path, map: &[&str], cells_for: Option<Decoder>, mut decoder: Decoder) -> (Vec<String>, usize) {
        let mapping = Mapping::parse(&map.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()).unwrap();
        let options = Options { mapping, decoder: cells_for, table_layout: Layout::Flat, ..Options::default() };
        let mut files = Files::open(&[file.to_path_buf()], &options).unwrap();
        let (mut record, mut rows, mut at_once, mut names) = (Record::default(), Vec::new(), 0, Vec::new());
        let mut venues: std::collections::HashMap<u32, std::sync::Arc<str>> = std::collections::HashMap::new();
        while files.next(&mut record).unwrap() {
            let recorded = record.time.map_or(0, |time| time / 1_000_000) as u64;
            let arrival = EntryId { millis: recorded.max(1_723_118_500_000), seq: 0 };
            let mut ticks = Vec::new();
            let mut emit = |tick: &RawTick| ticks.push(format!("{tick:?}"));
            let outcome = if let Some(PlainTick { symbol, time, price, columns }) = record.tick() {
                let mut new = options.names.take_new();
                venues.extend(new.venues);
                names.append(&mut new.names);
                let venue = venues.get(symbol).map_or_else(String::new, ToString::to_string);
                let (symbol, columns) = (names[*symbol as usize].1.to_string(), columns.clone());
                emit(&RawTick { symbol, venue, time: Some(*time), price: *price, columns });
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

    /// A column of two rows, and the value that each has in the JSON of a tick; `None` where the tick has no such field.
    type Typed = (Column, [Option<&'static str>; 2]);

    fn int32(declared: &str, values: [i32; 2]) -> Column {
        (declared.to_owned(), Values::Int32(values.map(Some).to_vec()))
    }

    fn int64(declared: &str, values: [i64; 2]) -> Column {
        (declared.to_owned(), Values::Int64(values.map(Some).to_vec()))
    }

    fn bytes(declared: &str, values: [Option<&[u8]>; 2]) -> Column {
        let values = values.map(|value| value.map(|bytes| ByteArray::from(bytes.to_vec())));
        (declared.to_owned(), Values::Bytes(values.to_vec()))
    }

    fn fixed(declared: &str, values: [Option<&[u8]>; 2]) -> Column {
        let values = values.map(|value| value.map(|bytes| FixedLenByteArray::from(bytes.to_vec())));
        (declared.to_owned(), Values::Fixed(values.to_vec()))
    }

    fn numbers() -> Vec<Typed> {
        let mut wide = [0; 17];
        wide[0] = 1;
        vec![
            (int32("required int32 NAME", [7, i32::MIN]), [Some("7"), Some("-2147483648.0")]),
            (int32("required int32 NAME (INTEGER(8,true))", [7, -7]), [Some("7"), Some("-7.0")]),
            (int32("required int32 NAME (INTEGER(8,false))", [7, 255]), [Some("7"), Some("255")]),
            (int32("required int32 NAME (INTEGER(16,true))", [7, -7]), [Some("7"), Some("-7.0")]),
            (int32("required int32 NAME (UINT_16)", [7, 65_535]), [Some("7"), Some("65535")]),
            (int32("required int32 NAME (INTEGER(32,false))", [7, -1]), [Some("7"), Some("4294967295")]),
            (int64("required int64 NAME (INTEGER(64,false))", [7, -1]), [Some("7"), None]),
            (int64("required int64 NAME", [i64::MAX, -1]), [Some("9223372036854775807"), Some("-1.0")]),
            (("optional float NAME".into(), Values::Float(vec![Some(0.1), None])), [Some("0.10000000149011612"), None]),
            (("optional double NAME".into(), Values::Double(vec![None, Some(f64::NAN)])), [None, None]),
            (
                fixed("optional fixed_len_byte_array (2) NAME (FLOAT16)", [Some(&[0x55, 0x35]), Some(&[0x01, 0x80])]),
                [Some("0.333251953125"), Some("-5.960464477539063e-8")],
            ),
            (int32("required int32 NAME (DECIMAL(9,2))", [1230, -5]), [Some("12.3"), Some("-0.05")]),
            (
                int64("required int64 NAME (DECIMAL(18,17))", [123_456_789_012_345_678, 0]),
                [Some("1.2345678901234567"), Some("0.0")],
            ),
            (
                fixed("optional fixed_len_byte_array (3) NAME (DECIMAL(6,3))", [Some(&[0xff, 0xff, 0x9c]), None]),
                [Some("-0.1"), None],
            ),
            (
                bytes("optional binary NAME (DECIMAL(38,4))", [Some(&[0x01, 0x00]), Some(&[0x80])]),
                [Some("0.0256"), Some("-0.0128")],
            ),
            (
                fixed("optional fixed_len_byte_array (17) NAME (DECIMAL(40,0))", [Some(&wide), Some(&[0xff; 17])]),
                [Some("3.402823669209385e+38"), Some("-1.0")],
            ),
        ]
    }

    fn times_and_texts() -> Vec<Typed> {
        // 12:00 on the Julian day of 2024-08-08.
        let (mut int96, noon_ns) = (Int96::new(), 12 * 3_600_000_000_000_u64);
        int96.set_data(noon_ns as u32, (noon_ns >> 32) as u32, 2_460_531);
        vec![
            (int32("required int32 NAME (DATE)", [19_943, -1]), [Some(r#""2024-08-08""#), Some(r#""1969-12-31""#)]),
            (
                int32("required int32 NAME (TIME(MILLIS,false))", [43_200_250, 0]),
                [Some(r#""12:00:00.250""#), Some(r#""00:00:00""#)],
            ),
            (
                int64("required int64 NAME (TIME(MICROS,true))", [43_200_000_250, 1_000_000]),
                [Some(r#""12:00:00.000250""#), Some(r#""00:00:01""#)],
            ),
            (
                int64("required int64 NAME (TIMESTAMP(MILLIS,true))", [NOON_US / 1000, i64::MAX]),
                [Some("1723118400000000000"), None],
            ),
            (
                int64("required int64 NAME (TIMESTAMP_MICROS)", [NOON_US, -1]),
                [Some("1723118400000000000"), Some("-1000.0")],
            ),
            (
                int64("required int64 NAME (TIMESTAMP(NANOS,false))", [NOON_US * 1000 + 250_000_000, 0]),
                [Some(r#""2024-08-08T12:00:00.25""#), Some(r#""1970-01-01T00:00:00""#)],
            ),
            (
                ("optional int96 NAME".into(), Values::Int96(vec![Some(int96), None])),
                [Some(r#""2024-08-08T12:00:00""#), None],
            ),
            (bytes("optional binary NAME", [Some(b"plain"), Some(&[0xff])]), [Some(r#""plain""#), None]),
            (bytes("optional binary NAME (UTF8)", [Some("Ä".as_bytes()), Some(b"")]), [Some(r#""Ä""#), Some(r#""""#)]),
            (bytes("optional binary NAME (JSON)", [Some(b"{}"), None]), [Some(r#""{}""#), None]),
            (("optional boolean NAME".into(), Values::Flags(vec![Some(true), None])), [Some(r#""true""#), None]),
            (("optional int32 NAME (UNKNOWN)".into(), Values::Int32(vec![None, None])), [None, None]),
        ]
    }

    fn typed() -> Vec<Typed> {
        [numbers(), times_and_texts()].concat()
    }

    #[test]
    fn values_of_every_type_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let named = |number: usize, declared: &str| declared.replace("NAME", &format!("c{number}"));
        let columns =
            typed().into_iter().enumerate().map(|(number, ((declared, values), _))| (named(number, &declared), values));
        let columns: Vec<Column> = columns.collect();
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let properties = WriterProperties::builder().set_writer_version(version).build();
            write_groups(&file, std::slice::from_ref(&columns), properties);
            let rows = read(&file, &Options::default()).unwrap();
            assert_eq!(rows.len(), 2);
            for (row, (_, json)) in rows.iter().enumerate() {
                let values = typed().into_iter().enumerate();
                let fields: Vec<String> = values
                    .filter_map(|(number, (_, expected))| Some(format!("\"c{number}\":{}", expected[row]?)))
                    .collect();
                assert_eq!(json, &format!("{{\"symbol\":\"X\",{}}}", fields.join(",")));
            }
        }
    }

    /// Pages, dictionaries and row groups end anywhere; a batch of rows may end within them.
    #[test]
    fn rows_are_read_across_pages_and_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let group = |start: i64, rows: i64| {
            let numbers = start..start + rows;
            let names: Vec<String> = numbers.clone().map(|number| format!("S{}", number % 700)).collect();
            vec![
                texts("symbol", names.iter().map(|name| Some(name.as_str()).filter(|name| *name != "S13"))),
                wholes("n", numbers.clone().map(|number| (number % 3 > 0).then_some(number))),
                texts("note", numbers.map(|_| None)),
            ]
        };
        let properties = || WriterProperties::builder().set_data_page_row_count_limit(1000).set_write_batch_size(64);
        // All symbols in the dictionary, only the first, and none.
        for properties in [
            properties().build(),
            properties().set_dictionary_page_size_limit(512).build(),
            properties().set_dictionary_enabled(false).build(),
        ] {
            write_groups(&file, &[group(0, 9000), group(9000, 1), group(9001, 4096)], properties);
            let rows = read(&file, &Options::default()).unwrap();
            assert_eq!(rows.len(), 13_097);
            for (number, (_, json)) in rows.iter().enumerate() {
                let symbol = (number % 700 != 13).then(|| format!("\"symbol\":\"S{}\"", number % 700));
                let field = (number % 3 > 0).then(|| format!("\"n\":{number}"));
                let fields: Vec<String> = symbol.into_iter().chain(field).collect();
                assert_eq!(json, &format!("{{{}}}", fields.join(",")));
            }
        }
    }

    /// A bit that is wrong in the pages may change values; more often the file can't be read.
    #[test]
    fn damage_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let rows = 0..40_i64;
        let names: Vec<String> = rows.clone().map(|number| format!("S{}", number % 3)).collect();
        write(
            &file,
            &[
                texts("symbol", names.iter().map(|name| Some(name.as_str()))),
                wholes("n", rows.clone().map(|number| (number % 3 > 0).then_some(number % 5))),
                floats("price", rows.map(|number| Some(number as f64))),
            ],
        );
        let sound = std::fs::read(&file).unwrap();
        // The length of the metadata stands before the last four bytes.
        let (_, length) = sound[..sound.len() - MAGIC.len()].split_last_chunk().unwrap();
        let pages = MAGIC.len()..sound.len() - u32::from_le_bytes(*length) as usize - 8;
        let (count, mut errors) = (pages.len(), 0);
        for position in pages {
            let mut bytes = sound.clone();
            bytes[position] ^= 1 << (position % 8);
            std::fs::write(&file, &bytes).unwrap();
            let Ok(mut files) = Files::open(std::slice::from_ref(&file), &Options::default()) else {
                errors += 1;
                continue;
            };
            let mut record = Record::default();
            while files.next(&mut record).unwrap_or_default() {}
        }
        assert!(errors > count / 10, "{errors} of {count}");
    }

    /// The parquet crate panics where metadata is damaged in some ways, as with an offset below zero.
    #[test]
    fn damaged_metadata_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        write(&file, &[texts("symbol", ["A", "B", "A"].map(Some)), wholes("n", [Some(1), None, Some(3)])]);
        let sound = std::fs::read(&file).unwrap();
        let (_, length) = sound[..sound.len() - MAGIC.len()].split_last_chunk().unwrap();
        let end = sound.len() - 8;
        let mut contained = 0;
        for position in end - u32::from_le_bytes(*length) as usize..end {
            for bit in 0..8 {
                let mut bytes = sound.clone();
                bytes[position] ^= 1 << bit;
                std::fs::write(&file, &bytes).unwrap();
                let mut record = Record::default();
                let opened = Files::open(std::slice::from_ref(&file), &Options::default());
                // A number of rows may be damaged, too.
                let read = opened.and_then(|mut files| (0..100).try_for_each(|_| files.next(&mut record).map(drop)));
                let error = read.err().map_or_else(String::new, |error| format!("{error:#}"));
                contained +=
                    usize::from(error.contains("the file is damaged: ") || error.contains("a page is damaged: "));
            }
        }
        assert!(contained > 0, "no damage made the crate panic");
    }

    /// A file in which some bytes, or the numbers that begin there, are others: `PROPTEST_CASES` says how many files.
    fn damaged_anywhere(encoding: Encoding, damage: &[(f64, u8, u8)]) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let names: Vec<String> = (0..60).map(|number| format!("SYMBOL{}", number % 9)).collect();
        let columns = vec![
            texts("symbol", names.iter().map(|name| Some(name.as_str()))),
            wholes("n", (0..60).map(|number| (number % 3 > 0).then_some(number))),
        ];
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
        let properties = match encoding {
            Encoding::RLE_DICTIONARY => properties,
            encoding => properties.set_dictionary_enabled(false).set_column_encoding("symbol".into(), encoding),
        };
        write_groups(&file, &[columns], properties.build());
        let mut bytes = std::fs::read(&file).unwrap();
        for (at, kind, byte) in damage {
            let position = (at * (bytes.len() - 8) as f64) as usize;
            match kind {
                0 => bytes[position] = *byte,
                1 => bytes[position] ^= 1 << (byte % 8),
                _ => bytes[position..position + 5].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, byte % 16]),
            }
        }
        std::fs::write(&file, bytes).unwrap();
        if let Ok(mut files) = Files::open(std::slice::from_ref(&file), &Options::default()) {
            let mut record = Record::default();
            // A number of rows may be damaged, too.
            (0..1000).take_while(|_| files.next(&mut record).unwrap_or_default()).for_each(drop);
        }
    }

    proptest! {
        #[test]
        fn damage_anywhere_neither_panics_nor_aborts(
            encoding in select(vec![Encoding::RLE_DICTIONARY, Encoding::PLAIN, Encoding::DELTA_BYTE_ARRAY, Encoding::DELTA_LENGTH_BYTE_ARRAY]),
            damage in vec((0.0..1.0, 0..3_u8, any::<u8>()), 1..6),
        ) {
            damaged_anywhere(encoding, &damage);
        }
    }

    /// A file of these bytes as its metadata.
    fn with_metadata(metadata: &[u8]) -> Vec<u8> {
        [MAGIC, metadata, &(metadata.len() as u32).to_le_bytes(), MAGIC].concat()
    }

    /// The beginning of a file's metadata: the version, and a schema of so many groups with these numbers of columns.
    fn schema(elements: u32, children: impl Fn(u32) -> i32) -> Vec<u8> {
        let varint = |bytes: &mut Vec<u8>, mut value: u32| {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        };
        // Version 1, and the head of the list.
        let mut bytes = vec![0x15, 0x02, 0x19, 0xfc];
        varint(&mut bytes, elements);
        for element in 0..elements {
            // A required group of the name g.
            bytes.extend([0x35, 0, 0x18, 1, b'g', 0x15]);
            let children = children(element);
            varint(&mut bytes, ((children << 1) ^ (children >> 31)) as u32);
            bytes.push(0);
        }
        bytes
    }

    /// A schema of a thousand levels overflowed the stack, and a group of two billion columns reserved memory for them.
    /// Both abort the process.
    #[test]
    fn a_schema_that_asks_for_too_much_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let cases = [
            (schema(9000, |element| i32::from(element < 8999)), "nested more than 64 levels"),
            (schema(2_000_000, |_| 1), "more than 10000 columns"),
            (schema(2, |_| i32::MAX), "a group with more columns than there are"),
            (schema(2, |_| -1), "a group with more columns than there are"),
            // A list that states more than there is, and a field of another type than the format's.
            (vec![0x15, 0x02, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07], "is cut off"),
            (vec![0x18, 0x02, 0x19, 0xfc], "no field 1"),
        ];
        for (metadata, expected) in cases {
            std::fs::write(&file, with_metadata(&metadata)).unwrap();
            let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
            assert!(error.contains("is not a readable Parquet file") && error.contains(expected), "{error}");
        }
        let mut cut = with_metadata(&schema(1, |_| 0));
        let length = cut.len();
        cut[length - 8..length - 4].copy_from_slice(&u32::MAX.to_le_bytes());
        std::fs::write(&file, cut).unwrap();
        assert!(format!("{:#}", read(&file, &Options::default()).unwrap_err()).contains("longer than 64 MiB"));
    }

    /// A page of two kilobytes that unfolds to any length, by zstd or by the encoding of its texts.
    #[test]
    fn a_page_that_asks_for_too_much_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let one_page = || {
            let properties = WriterProperties::builder().set_dictionary_enabled(false).set_compression(zstd);
            properties.set_data_page_size_limit(usize::MAX).set_data_page_row_count_limit(usize::MAX)
        };
        let zeros = wholes("n", std::iter::repeat_n(Some(0), 3_000_000));
        write_groups(&file, &[vec![zeros]], one_page().build());
        let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
        assert!(error.contains("a page of") && error.contains("would take 24"), "{error}");

        let long = "x".repeat(400_000);
        let copies = texts("note", std::iter::repeat_n(Some(long.as_str()), 1000));
        write_groups(&file, &[vec![copies]], one_page().set_encoding(Encoding::DELTA_BYTE_ARRAY).build());
        assert!(std::fs::metadata(&file).unwrap().len() < 10_000);
        let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
        assert!(error.contains("the texts of a page take more than 256 MiB"), "{error}");
    }

    /// Memory for as many values as a dictionary states was reserved before any was read.
    #[test]
    fn a_dictionary_that_states_too_much_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        write(&file, &[wholes("n", [Some(1), Some(2), Some(3)])]);
        let mut bytes = std::fs::read(&file).unwrap();
        // The head of the dictionary's page: field 7, with 3 values as its first field.
        let at = bytes.windows(3).position(|part| part == [0x4c, 0x15, 0x06]).unwrap();
        bytes[at + 2] = 0x7e;
        std::fs::write(&file, bytes).unwrap();
        let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
        assert!(error.contains("a dictionary states more values than it has"), "{error}");
    }

    /// What is checked before must not reject what writers write.
    #[test]
    fn texts_of_every_encoding_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let names: Vec<String> = (0..9000).map(|number| "NIFTY".repeat(number % 7) + &number.to_string()).collect();
        let column = texts("note", names.iter().enumerate().map(|(at, name)| (at % 5 > 0).then_some(name.as_str())));
        let codecs = [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(GzipLevel::default())];
        for codec in codecs.into_iter().chain([Compression::ZSTD(ZstdLevel::default()), Compression::LZ4_RAW]) {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                for encoding in [Encoding::PLAIN, Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
                    let properties = WriterProperties::builder().set_dictionary_enabled(false).set_encoding(encoding);
                    let properties = properties.set_compression(codec).set_writer_version(version).build();
                    write_groups(&file, &[vec![column.clone()]], properties);
                    let rows = read(&file, &Options::default()).unwrap();
                    assert_eq!(rows.len(), names.len());
                    let is_read = |at: usize| rows[at].1.contains(&format!("\"note\":\"{}\"", names[at]));
                    assert!((0..rows.len()).all(|at| is_read(at) == (at % 5 > 0)), "{codec:?} {encoding:?}");
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_not_unicode_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.parquet");
        let values = [b"fine".to_vec(), vec![0xff]].map(|bytes| Some(ByteArray::from(bytes)));
        write(&file, &[("required binary note (STRING)".into(), Values::Bytes(values.to_vec()))]);
        let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
        assert!(error.contains("a part of the file is damaged"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("SBIN.parquet");
        std::fs::write(&file, b"PAR1 and then nothing").unwrap();
        let error = format!("{:#}", read(&file, &Options::default()).unwrap_err());
        assert!(error.contains("is not a readable Parquet file"), "{error}");
    }
}
