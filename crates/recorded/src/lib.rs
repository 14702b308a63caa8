//! Files of recorded ticks: their format is detected from their content, and several files are merged by time.
//!
//! Supported are CSV, JSON lines, recorded `<ns> <json>` lines and the day files of `tickhound record`, plain or compressed
//! by gzip or zstd, and Parquet.
//! Each tick becomes the fields that a producer would have put into a stream entry.

mod contained;
pub mod day_file;
mod entry_line;
mod lines;
pub mod pace;
mod parquet;
pub mod record;
mod reference;
mod table;
mod time;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;
use jiff::tz::TimeZone;

use self::{contained::contained, lines::Lines, parquet::ParquetFile, record::Record, table::Table, time::TimeReader};
pub use self::{contained::contains_panics, entry_line::EntryTooLarge, reference::read_reference, table::Mapping};
use tickhound_core::{
    decode::{Decoder, Names},
    simulate::Layout,
};

/// How files are read and published.
#[derive(Clone, Debug)]
pub struct Options {
    /// The names under which columns of a table are published.
    pub mapping: Mapping,
    /// The symbol of all ticks. `None`: the files name it.
    pub symbol: Option<String>,
    /// The layout in which JSON lines are published.
    pub layout: Layout,
    /// The layout in which the rows of a table are published.
    pub table_layout: Layout,
    /// Whether the order or the pace of the ticks depends on their times.
    pub needs_time: bool,
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// The decoder of the rows of tables, which then stay cells. `None`: rows become the fields that a producer would
    /// publish.
    pub decoder: Option<Decoder>,
    /// The symbols of decoded ticks.
    pub names: Names,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mapping: Mapping::default(),
            symbol: None,
            layout: Layout::Json,
            table_layout: Layout::Json,
            needs_time: true,
            zone: TimeZone::UTC,
            decoder: None,
            names: Names::default(),
        }
    }
}

impl Options {
    fn time_reader(&self) -> TimeReader {
        TimeReader::new(self.zone.clone())
    }
}

/// The longest line or row, bytes. A tick takes hundreds, one with its depth some thousands; a file without line breaks, or
/// one whose quotes do not match, would be read into memory as a whole.
pub(crate) const RECORD_MAX: u64 = 4 << 20;

/// The largest window of zstd, as a power of two: what `zstd --ultra` uses, and no more than 128 MiB.
const ZSTD_WINDOW_MAX: u32 = 27;

/// The endings of files that hold ticks, without the ending of a compressed file.
const ENDINGS: [&str; 7] = [".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet"];

/// Replaces each folder in `paths` by the files in it that hold ticks, judging by their names.
///
/// # Errors
/// When a folder can't be read or has no such file.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let explain = || format!("can't read the folder {}", path.display());
        let mut inside: Vec<PathBuf> = Vec::new();
        for entry in path.read_dir().with_context(explain)? {
            let file = entry.with_context(explain)?.path();
            if has_ticks(&file) {
                inside.push(file);
            }
        }
        ensure!(!inside.is_empty(), "{} has no file that ends in {}", path.display(), ENDINGS.join(", "));
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

/// Whether a path is that of a file that holds ticks, judging by its name.
pub fn has_ticks(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.is_file() && ENDINGS.iter().any(|ending| without_compression(name).ends_with(ending))
}

/// A file name without the ending of a compressed file.
fn without_compression(name: &str) -> &str {
    [".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// The ticks of all files, as one sequence.
pub struct Files {
    sources: Vec<Source>,
    names: Names,
    /// Whether all files have times, so that they can be merged by them.
    is_merged: bool,
    /// Bytes read from disk so far.
    read: Arc<AtomicU64>,
    /// Bytes of all files.
    size: u64,
}

impl Files {
    /// Opens the files, and reads the first tick of each.
    ///
    /// # Errors
    /// When a file can't be read, has no tick, or does not fit the options.
    pub fn open(paths: &[PathBuf], options: &Options) -> Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut sources = Vec::with_capacity(paths.len());
        let mut size = 0;
        for path in paths {
            let name = path.display().to_string();
            let (source, bytes) = Source::open(path, options, &read).with_context(|| name)?;
            sources.push(source);
            size += bytes;
        }
        let is_merged = sources.iter().all(|source| source.head.time.is_some());
        Ok(Self { sources, names: options.names.clone(), is_merged, read, size })
    }

    /// The size of all files on disk, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The part of that size that has been read, bytes.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The number of lines that could not be published in the requested layout.
    pub fn skipped(&self) -> u64 {
        self.sources.iter().map(|source| source.rows.skipped()).sum()
    }

    /// The name of a file whose ticks have no time, if there is one.
    pub fn without_time(&self) -> Option<&str> {
        self.sources.iter().find(|source| source.head.time.is_none()).map(|source| source.name.as_str())
    }

    /// The names of symbols in decoded ticks.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Moves the next tick into `record`; false at the end of all files.
    ///
    /// # Errors
    /// When a file can't be read on.
    pub fn next(&mut self, record: &mut Record) -> Result<bool> {
        if let [only] = &mut self.sources[..] {
            return only.next(record);
        }
        let mut remaining = self.sources.iter_mut().filter(|source| !source.is_done);
        let next = if self.is_merged { remaining.min_by_key(|source| source.head.time) } else { remaining.next() };
        match next {
            Some(source) => {
                std::mem::swap(record, &mut source.head);
                source.advance().map(|()| true)
            }
            None => Ok(false),
        }
    }
}

/// The ticks of one file, by its format.
enum Rows {
    Table(Table),
    Lines(Lines),
    Parquet(Box<ParquetFile>),
}

impl Rows {
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        match self {
            Self::Table(table) => table.next(record),
            Self::Lines(lines) => lines.next(record),
            Self::Parquet(file) => file.next(record),
        }
    }

    fn skipped(&self) -> u64 {
        match self {
            Self::Table(_) | Self::Parquet(_) => 0,
            Self::Lines(lines) => lines.skipped(),
        }
    }
}

/// One file, and its next tick.
struct Source {
    name: String,
    rows: Rows,
    head: Record,
    /// The latest time of its ticks so far.
    latest: Option<i64>,
    is_done: bool,
    /// Whether the file is the only one, and its first tick was taken: `head` is not used any more.
    is_begun: bool,
}

impl Source {
    /// Opens a file, and returns its size on disk as well.
    fn open(path: &Path, options: &Options, read: &Arc<AtomicU64>) -> Result<(Self, u64)> {
        let name = path.display().to_string();
        let is_stdin = path == Path::new("-");
        let (file, size): (Box<dyn Read + Send>, u64) = if is_stdin {
            (Box::new(io::stdin()), 0)
        } else {
            let file = File::open(path).context("can't open the file")?;
            let metadata = file.metadata().context("can't read the file's metadata")?;
            if metadata.is_file() && parquet::is_parquet(&file) {
                let symbol = file_symbol(path);
                let open = || ParquetFile::open(file, symbol, options, metadata.len(), read.clone());
                let file = contained("the file", open)?;
                let rows = Rows::Parquet(Box::new(file));
                return Ok((Self::begin(name, rows)?, metadata.len()));
            }
            (Box::new(file), metadata.len())
        };
        let mut text = plain_text(CountingReader { file, read: read.clone() })?;
        let start = text.fill_buf()?;
        let rows = match Format::of(start)? {
            Format::Lines => {
                ensure!(
                    options.mapping.is_empty(),
                    "--map is for CSV: JSON keys are mapped by [input.map] of the configuration"
                );
                Rows::Lines(Lines::new(text, name.clone(), options))
            }
            Format::Csv { separator } => {
                let symbol = if is_stdin { "" } else { file_symbol(path) };
                Rows::Table(Table::open(Box::new(text), separator, symbol, options)?)
            }
        };
        Ok((Self::begin(name, rows)?, size))
    }

    fn begin(name: String, rows: Rows) -> Result<Self> {
        let mut source = Self { name, rows, head: Record::default(), latest: None, is_done: false, is_begun: false };
        source.advance()?;
        ensure!(!source.is_done, "holds no tick");
        Ok(source)
    }

    /// Moves the next tick into `record`, if this is the only file: there is no need to read ahead.
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        if !std::mem::replace(&mut self.is_begun, true) {
            std::mem::swap(record, &mut self.head);
            return Ok(true);
        }
        self.read(record)
    }

    /// Reads the next tick into `head`.
    fn advance(&mut self) -> Result<()> {
        let mut head = std::mem::take(&mut self.head);
        self.is_done = !self.read(&mut head)?;
        self.head = head;
        Ok(())
    }

    /// Reads a tick; false at the end. A time that is missing or goes back counts as the one before it, so that merging
    /// keeps the order of each file.
    fn read(&mut self, record: &mut Record) -> Result<bool> {
        let has_tick = self.rows.next(record).with_context(|| format!("failed to read {}", self.name))?;
        self.latest = self.latest.max(record.time);
        record.time = self.latest;
        Ok(has_tick)
    }
}

/// Counts the bytes that are read from disk, for the progress bar.
struct CountingReader {
    file: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for CountingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Decompresses gzip and zstd, and drops a byte order mark.
///
/// The text may be thousands of times as long as the file. It is read piece by piece, so that memory does not depend on its
/// length: only on the window of the compression, and on the longest line.
fn plain_text(file: CountingReader) -> Result<Box<dyn BufRead + Send>> {
    const BUFFER: usize = 1 << 16;
    const GZIP: &[u8] = b"\x1f\x8b";
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
    /// A frame that decoders skip, with which day files begin: the first byte may be any from 0x50 to 0x5f.
    const ZSTD_SKIPPED: &[u8] = b"\x2a\x4d\x18";
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut raw = BufReader::with_capacity(BUFFER, file);
    let start = raw.fill_buf()?;
    let mut text: Box<dyn BufRead + Send> = if start.starts_with(GZIP) {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw)))
    } else if start.starts_with(ZSTD) || (start.len() > 4 && start[0] >> 4 == 5 && start[1..4] == *ZSTD_SKIPPED) {
        let mut unpacked = zstd::Decoder::with_buffer(raw).context("is compressed by zstd, and damaged")?;
        unpacked.window_log_max(ZSTD_WINDOW_MAX)?;
        Box::new(BufReader::with_capacity(BUFFER, unpacked))
    } else {
        Box::new(raw)
    };
    if text.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        text.consume(BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

/// The format of a file's text.
#[derive(Debug, PartialEq)]
enum Format {
    Lines,
    Csv { separator: u8 },
}

impl Format {
    /// Detects the format from the first bytes.
    fn of(start: &[u8]) -> Result<Self> {
        let text = start.trim_ascii_start();
        ensure!(!text.is_empty(), "is empty");
        ensure!(
            !text.contains(&0),
            "contains neither CSV nor lines of JSON nor Parquet; supported compressions are gzip and zstd"
        );
        if text.starts_with(b"[") {
            bail!("begins with [, expected one JSON object a line: convert it with `jq -c '.[]'`");
        }
        let line = text.split(|b| *b == b'\n').next().unwrap_or(text);
        if line.starts_with(b"{") || lines::split_recorded(line).0.is_some() {
            return Ok(Self::Lines);
        }
        let count = |separator: u8| line.iter().filter(|b| **b == separator).count();
        // Of equal counts the last separator wins: a comma, if the line has none.
        let separator = [b'|', b'\t', b';', b','].into_iter().max_by_key(|b| count(*b)).unwrap_or(b',');
        Ok(Self::Csv { separator })
    }
}

/// The symbol that a file name stands for: ICICIBANK for `data/ICICIBANK.csv.gz`.
fn file_symbol(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = without_compression(name);
    ENDINGS.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn format(text: &str) -> Format {
        Format::of(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_format_is_detected_from_the_content() {
        assert_eq!(format("{\"a\":1}\n"), Format::Lines);
        assert_eq!(format("\n 1723161254024619568 {\"u\":1}"), Format::Lines);
        assert_eq!(format("20200101 170000065,1.1,1.2"), Format::Csv { separator: b',' });
        assert_eq!(format("time;price,x;volume\n"), Format::Csv { separator: b';' });
        assert_eq!(format("time\tprice\n1,2,3"), Format::Csv { separator: b'\t' });
        assert_eq!(format("price"), Format::Csv { separator: b',' });
        for text in ["", " \n", "[{}]", "PAR1\0\x15"] {
            assert!(Format::of(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_file_names_the_symbol() {
        for (path, symbol) in [
            ("data/ICICIBANK.csv.gz", "ICICIBANK"),
            ("M&M.csv", "M&M"),
            ("NIFTY25NOV422.5CE.csv", "NIFTY25NOV422.5CE"),
            ("SBIN", "SBIN"),
        ] {
            assert_eq!(file_symbol(Path::new(path)), symbol);
        }
    }

    /// A file without an end of its line was read into memory as a whole.
    #[test]
    fn a_line_or_a_row_that_does_not_end_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("X.zst");
        let long = "x".repeat(RECORD_MAX as usize + (1 << 17));
        let cases = [
            (format!("{{\"a\":1}}\n{{\"a\":\"{long}"), "line 2 is longer than 4 MiB"),
            (format!("timestamp,price\n1,2\n1,\"{}", long.replace('x', "x\n")), "is a quote not closed?"),
            (format!("timestamp,{long}"), "is a quote not closed?"),
        ];
        for (text, expected) in cases {
            std::fs::write(&file, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
            let error = read_all(&file).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        let close = "y".repeat(RECORD_MAX as usize - (1 << 17));
        std::fs::write(&file, format!("timestamp,price\n1,\"{close}\"\n1,\"{close}\"\n")).unwrap();
        assert_eq!(read_all(&file).unwrap(), 2);
    }

    /// How many ticks a file has.
    fn read_all(file: &Path) -> Result<usize> {
        let mut files = Files::open(&[file.to_path_buf()], &Options::default())?;
        let (mut record, mut count) = (Record::default(), 0);
        while files.next(&mut record)? {
            count += 1;
        }
        Ok(count)
    }

    /// Each file keeps its own order, compressed or not, even with a row whose time is the epoch.
    #[test]
    fn files_of_one_day_are_merged_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("A.csv.gz"), folder.path().join("B.csv"));
        let mut gzip = flate2::write::GzEncoder::new(File::create(&a).unwrap(), flate2::Compression::default());
        gzip.write_all(b"timestamp,n\n2024-01-01 09:15:00,1\n1970-01-01 05:30:00,2\n2024-01-01 09:15:04,5\n").unwrap();
        gzip.finish().unwrap();
        std::fs::write(&b, "timestamp,n\n2024-01-01 09:15:01,3\n2024-01-01 09:15:02,4\n2024-01-01 09:15:09,6\n")
            .unwrap();
        let options = Options { table_layout: Layout::Flat, ..Options::default() };
        let mut files = Files::open(&[b, a], &options).unwrap();
        let (mut record, mut order) = (Record::default(), Vec::new());
        while files.next(&mut record).unwrap() {
            order.push(record.fields().last().unwrap().1.to_vec());
        }
        assert_eq!(order.concat(), b"123456");
        assert_eq!(files.read(), files.size());
    }
}
