//! Reads CSV, and decides which column is published under which name.

use std::{
    collections::HashSet,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use csv::{ReaderBuilder, StringRecord};

use super::{
    Options, RECORD_MAX,
    record::Record,
    time::{self, TimeReader},
};
use tickhound_core::{
    config::nearest,
    decode::Scalar,
    market::reference::TableSink,
    simulate::layout::{Encoder, Value},
};

/// The short names for `--map`, and the keys of the `kite` preset that they stand for.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("time", "exchange_timestamp"),
    ("price", "last_price"),
    ("quantity", "last_traded_quantity"),
    ("cum_volume", "volume_traded"),
    ("bid", "best_bid_price"),
    ("ask", "best_ask_price"),
    ("bid_quantity", "best_bid_quantity"),
    ("ask_quantity", "best_ask_quantity"),
    ("oi", "open_interest"),
];

/// The columns that name the instrument.
const SYMBOL_NAMES: [&str; 5] = ["symbol", "tradingsymbol", "trading_symbol", "instrument_key", "instrument_token"];

/// The published names of columns, as given by `--map`: name and source column.
#[derive(Clone, Debug, Default)]
pub struct Mapping(Vec<(String, String)>);

impl Mapping {
    /// Parses `NAME=COLUMN` arguments.
    ///
    /// # Errors
    /// When an argument has another form, or a name occurs twice.
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut names = HashSet::new();
        let mut pairs = Vec::new();
        for arg in args {
            let (name, column) = arg
                .split_once('=')
                .filter(|(name, column)| !name.is_empty() && !column.is_empty())
                .with_context(|| format!("--map {arg}: expected NAME=COLUMN, such as price=ltp"))?;
            let key = SHORT_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, key)| key);
            ensure!(names.insert(key.to_owned()), "--map {arg}: {name} is mapped twice");
            pairs.push((key.to_owned(), column.to_owned()));
        }
        Ok(Self(pairs))
    }

    /// Whether no name is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which values of a row are published, and under which names.
pub(super) struct Header {
    /// Published name and position of each column.
    pub(super) columns: Vec<(String, usize)>,
    /// Position of the time, if it is needed.
    pub(super) time: Option<usize>,
    /// The symbol of all rows, if no column has it.
    pub(super) symbol: Option<String>,
    /// The decoder's ids for the columns, if rows stay cells.
    pub(super) column_ids: Option<ColumnIds>,
}

/// A decoder's ids for the values of a row.
pub(super) struct ColumnIds {
    /// The id of each column; `None`: its values are not used.
    pub(super) columns: Vec<Option<usize>>,
    /// The id of the symbol of all rows.
    pub(super) symbol: Option<usize>,
}

impl Header {
    /// Decides what to publish. `names` is empty if there is no header line; `file_symbol` is the symbol if neither an
    /// option nor a column names it.
    pub(super) fn resolve(names: &[&str], width: usize, file_symbol: &str, options: &Options) -> Result<Self> {
        let mut columns = resolve(names, width, &options.mapping)?;
        let has_symbol = columns.iter().any(|(name, _)| is_symbol(name));
        let symbol = match &options.symbol {
            Some(symbol) => Some(symbol.clone()),
            None if has_symbol => None,
            None if file_symbol.is_empty() => bail!("has no symbol column: name the symbol with --symbol"),
            None => Some(file_symbol.to_owned()),
        };
        if options.symbol.is_some() {
            columns.retain(|(name, _)| !is_symbol(name));
        }
        let mut times = time::NAMES.iter().filter_map(|time| columns.iter().find(|(name, _)| name == time));
        let time = times.next().filter(|_| options.needs_time).map(|(_, position)| *position);
        let column_ids = options.decoder.as_ref().map(|decoder| ColumnIds {
            columns: columns.iter().map(|(name, _)| decoder.column_id(name)).collect(),
            symbol: decoder.column_id("symbol"),
        });
        Ok(Self { columns, time, symbol, column_ids })
    }

    /// Whether a tick needs the column at this position.
    pub(super) fn uses(&self, position: usize) -> bool {
        let ids = self.column_ids.as_ref().map(|ids| &ids.columns);
        let is_column = |(at, (_, column)): (usize, &(String, usize))| {
            *column == position && ids.is_none_or(|ids| ids[at].is_some())
        };
        self.time == Some(position) || self.columns.iter().enumerate().any(is_column)
    }
}

/// Whether a column of this name holds the symbol.
pub(super) fn is_symbol(name: &str) -> bool {
    SYMBOL_NAMES.contains(&name)
}

/// Ends a row that does not end: a quote that is never closed would read the whole file into memory.
struct RowReader {
    text: Box<dyn Read + Send>,
    /// How many bytes the current row may still take.
    left: Arc<AtomicU64>,
}

impl Read for RowReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Relaxed);
        if left == 0 {
            let text = format!("a row is longer than {} MiB; is a quote not closed?", RECORD_MAX >> 20);
            return Err(io::Error::other(text));
        }
        let bytes = self.text.read(buffer)?;
        self.left.store(left.saturating_sub(bytes as u64), Relaxed);
        Ok(bytes)
    }
}

/// Passes the first line of a CSV file to `sink` as names of columns, and then each row.
pub(super) fn pass_rows(text: Box<dyn Read + Send>, separator: u8, sink: &mut dyn TableSink) -> Result<()> {
    let left = Arc::new(AtomicU64::new(RECORD_MAX));
    let text = RowReader { text, left: left.clone() };
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).delimiter(separator).from_reader(text);
    let mut row = StringRecord::new();
    reader.read_record(&mut row)?;
    let names: Vec<&str> = row.iter().map(str::trim).collect();
    sink.header(&names)?;
    loop {
        left.store(RECORD_MAX, Relaxed);
        if !reader.read_record(&mut row)? {
            return Ok(());
        }
        let cells: Vec<&str> = row.iter().collect();
        sink.row(&cells)?;
    }
}

/// The rows of one CSV file.
pub(crate) struct Table {
    reader: csv::Reader<RowReader>,
    /// How many bytes the next row may take.
    row_left: Arc<AtomicU64>,
    encoder: Encoder,
    header: Header,
    row: StringRecord,
    /// Whether `row` holds the first row, which was read in search of a header.
    is_first_pending: bool,
    times: TimeReader,
}

impl Table {
    /// Reads the first line.
    pub(crate) fn open(
        text: Box<dyn Read + Send>,
        separator: u8,
        file_symbol: &str,
        options: &Options,
    ) -> Result<Self> {
        let row_left = Arc::new(AtomicU64::new(RECORD_MAX));
        let text = RowReader { text, left: row_left.clone() };
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).delimiter(separator).from_reader(text);
        let mut row = StringRecord::new();
        reader.read_record(&mut row)?;
        let is_header = !row.iter().map(str::trim).any(starts_like_a_number);
        let names: Vec<&str> = if is_header { row.iter().map(str::trim).collect() } else { Vec::new() };
        let header = Header::resolve(&names, row.len(), file_symbol, options)?;
        let (encoder, times) = (Encoder::new(options.table_layout), options.time_reader());
        Ok(Self { reader, row_left, encoder, header, row, is_first_pending: !is_header, times })
    }

    /// Reads the next row into `record`; false at the end.
    pub(crate) fn next(&mut self, record: &mut Record) -> Result<bool> {
        self.row_left.store(RECORD_MAX, Relaxed);
        if !std::mem::take(&mut self.is_first_pending) && !self.reader.read_record(&mut self.row)? {
            return Ok(false);
        }
        let Header { columns, time, symbol, column_ids } = &self.header;
        // The csv crate would trim into a new record for each row.
        let cell = |position: usize| self.row.get(position).map(str::trim);
        if let Some(ids) = column_ids {
            record.clear_row();
            if let (Some(symbol), Some(id)) = (symbol, ids.symbol) {
                record.put_cell(id, Scalar::Text(symbol));
            }
            for ((_, position), id) in columns.iter().zip(&ids.columns) {
                if let (Some(id), Some(cell)) = (id, cell(*position)) {
                    record.put_cell(*id, Scalar::Text(cell));
                }
            }
            record.time = time.and_then(|position| self.times.read(cell(position)?));
            return Ok(true);
        }
        let symbol = symbol.as_deref().map(|symbol| ("symbol", Value::Text(symbol)));
        let cells = columns.iter().filter_map(|(name, position)| {
            let cell = cell(*position)?;
            // A symbol that consists of digits stays a text.
            Some((name.as_str(), if is_symbol(name) { Value::Text(cell) } else { Value::guess(cell) }))
        });
        let tick: Vec<_> = symbol.into_iter().chain(cells).collect();
        record.clear();
        record.time = time.and_then(|position| self.times.read(cell(position)?));
        self.encoder.encode(&tick, |name, value| record.put(name, value));
        Ok(true)
    }
}

/// The published name and the position of each column. `names` is empty if the file has no header.
fn resolve(names: &[&str], width: usize, mapping: &Mapping) -> Result<Vec<(String, usize)>> {
    if names.is_empty() && mapping.is_empty() {
        bail!("no header line: name the columns by number, for example --map time=1 --map price=2 (there are {width})");
    }
    let mut columns = Vec::new();
    for (key, source) in &mapping.0 {
        let position = match source.parse::<usize>() {
            // `1` is the name of a column if there is one, otherwise the number of a column.
            _ if names.contains(&source.as_str()) => names.iter().position(|name| name == source),
            Ok(number) => Some(number.wrapping_sub(1)).filter(|position| *position < width),
            Err(_) => None,
        };
        let position = position.ok_or_else(|| no_such_column(names, width, source))?;
        columns.push((key.clone(), position));
    }
    for (position, name) in names.iter().enumerate() {
        let is_taken = columns.iter().any(|(key, taken)| *taken == position || key == name);
        if !is_taken && !name.is_empty() {
            columns.push(((*name).to_owned(), position));
        }
    }
    Ok(columns)
}

fn no_such_column(names: &[&str], width: usize, source: &str) -> anyhow::Error {
    if names.is_empty() {
        return anyhow!("--map: no column {source}: the file has {width} columns and no header line");
    }
    let guess = nearest(source, names.iter().copied());
    let guess = guess.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    anyhow!("--map: no column {source}: the file has {}{guess}", names.join(", "))
}

/// Whether a cell begins like a number or a date: a line with such a cell is a row and not a header.
fn starts_like_a_number(cell: &str) -> bool {
    cell.trim_start_matches(['-', '+', '.']).starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(map: &[&str], symbol: Option<&str>) -> Options {
        let map: Vec<_> = map.iter().map(|arg| (*arg).to_owned()).collect();
        Options { mapping: Mapping::parse(&map).unwrap(), symbol: symbol.map(str::to_owned), ..Options::default() }
    }

    fn rows(text: &'static str, map: &[&str], symbol: Option<&str>) -> Result<Vec<String>> {
        let mut table = Table::open(Box::new(text.as_bytes()), b',', "FILE", &options(map, symbol))?;
        let mut record = Record::default();
        let mut rows = Vec::new();
        while table.next(&mut record)? {
            let (_, json) = record.fields().next().unwrap();
            rows.push(String::from_utf8(json.to_vec()).unwrap());
        }
        Ok(rows)
    }

    #[test]
    fn columns_are_renamed_and_the_rest_passes_as_it_is() {
        let text = "timestamp,ltp,volume\n2021-04-12 09:15:08,548.80,369670\n";
        let map = ["time=timestamp", "price=ltp", "cum_volume=volume"];
        assert_eq!(
            rows(text, &map, None).unwrap(),
            [
                r#"{"symbol":"FILE","exchange_timestamp":"2021-04-12 09:15:08","last_price":548.8,"volume_traded":369670}"#
            ]
        );
        assert_eq!(
            rows(text, &[], Some("ICICIBANK")).unwrap(),
            [r#"{"symbol":"ICICIBANK","timestamp":"2021-04-12 09:15:08","ltp":548.8,"volume":369670}"#]
        );
    }

    #[test]
    fn without_a_header_columns_go_by_number() {
        let text = "20200101 170000065,1.121200,1.121720,0\n20200101 170010447,1.1212\n";
        assert_eq!(
            rows(text, &["time=1", "bid=2", "ask=3"], None).unwrap(),
            [
                r#"{"symbol":"FILE","exchange_timestamp":"20200101 170000065","best_bid_price":1.1212,"best_ask_price":1.12172}"#,
                r#"{"symbol":"FILE","exchange_timestamp":"20200101 170010447","best_bid_price":1.1212}"#,
            ]
        );
        let error = rows(text, &[], None).unwrap_err().to_string();
        assert!(error.contains("--map time=1"), "{error}");
        assert!(rows(text, &["price=5"], None).is_err());
        assert!(rows(text, &["price=0"], None).is_err());
    }

    #[test]
    fn a_symbol_column_goes_before_the_file_and_an_option_before_both() {
        let text = "tradingsymbol,p\n500325,1\n";
        assert_eq!(rows(text, &["symbol=tradingsymbol"], None).unwrap(), [r#"{"symbol":"500325","p":1}"#]);
        assert_eq!(rows(text, &[], None).unwrap(), [r#"{"tradingsymbol":"500325","p":1}"#]);
        assert_eq!(rows(text, &[], Some("X")).unwrap(), [r#"{"symbol":"X","p":1}"#]);
    }

    #[test]
    fn a_wrong_column_is_answered_with_those_there_are() {
        let error = rows("timestamp,ltp\n1,2\n", &["price=lpt"], None).unwrap_err().to_string();
        assert_eq!(error, "--map: no column lpt: the file has timestamp, ltp; did you mean ltp?");
        assert!(Mapping::parse(&["price".into()]).is_err());
        assert!(Mapping::parse(&["price=a".into(), "last_price=b".into()]).is_err());
    }
}
