//! Reference data: numbers and texts that belong to a symbol and do not change with its ticks, such as strike and expiry.
//!
//! What holds: there is one row for each name at each venue. Files are joined by symbol, and of several values of one cell the
//! last one counts, in the order of the configuration and then of the file. A column is of numbers if all its values are.
//! Looking up a value for a [`ReferenceRow`] neither searches nor allocates.

mod build;
mod date;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

pub use self::build::{ReferenceBuilder, TableSink};
use crate::{event::CODE_DIGITS, session::NO_SESSION, venue, venue::exchange_of};

/// Reads a table from a file: its header, then its rows. The program hands it in, since Parquet is read by another crate.
pub type ReadTable = fn(File, &mut dyn TableSink) -> Result<()>;

/// The largest file, bytes. It is read at the start and with each change; the dump of all Indian instruments has 10 MB.
const FILE_MAX: u64 = 1 << 30;

/// The columns that say how long an instrument lives: the text column, and the number that follows from it.
pub const EXPIRY: &str = "expiry";
/// The calendar days from a session to the expiry of the row's symbol.
pub const DAYS_TO_EXPIRY: &str = "days_to_expiry";

/// Where a symbol is in the reference data. The default has no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReferenceRow(u32);

/// What is known of symbols beside their ticks.
#[derive(Debug, Default)]
pub struct Reference {
    /// The row that stands for a name without a venue.
    by_name: FxHashMap<String, ReferenceRow>,
    /// The row of `VENUE:NAME`.
    at_venue: FxHashMap<String, ReferenceRow>,
    /// The columns of numbers, which have a value for each row; that of row 0 is NaN.
    numbers: Vec<NumberColumn>,
    texts: Vec<TextColumn>,
    /// The number of the day of expiry since 1970-01-01, by row; NaN where there is none. Empty without the column.
    expiry: Vec<f64>,
    underlying: Option<usize>,
    /// Whether the row is a future or an option, where the data says so.
    derivative: Vec<Option<bool>>,
    /// The columns of the files that are left out, since rows have others of their names.
    taken: Vec<String>,
    files: Vec<ReferenceFile>,
    sha256: String,
    notes: Vec<String>,
    /// The settings that it was built with.
    settings: Option<ReferenceSettings>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceFile {
    /// Its path as the configuration has it.
    pub name: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// What differs after the file was changed or replaced.
    stamp: FileStamp,
    /// The number of its rows that have a symbol.
    pub rows: usize,
}

/// Which files are read, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReferenceSettings {
    /// The files.
    pub(crate) files: Vec<PathBuf>,
    /// The column with the symbol; empty: one of the usual names.
    pub(crate) symbol: String,
    /// The venues whose rows are used, the preferred one first; empty: all.
    pub(crate) venues: Vec<String>,
    /// The columns that hold texts in any case.
    pub(crate) texts: Vec<String>,
    /// The columns of the files by their new names.
    pub(crate) columns: BTreeMap<String, String>,
    /// The columns that rows have from the input and from contexts.
    pub(crate) taken: Vec<String>,
    /// The zone of times that stand for days.
    pub(crate) zone: TimeZone,
}

/// What differs after a file was changed or replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

#[derive(Debug)]
struct NumberColumn {
    name: String,
    values: Vec<f64>,
}

#[derive(Debug)]
struct TextColumn {
    name: String,
    /// The number of the row's text in `distinct`; 0: none.
    values: Vec<u32>,
    distinct: Vec<Box<str>>,
    /// A value that is not a number, if others are.
    odd: Option<Box<str>>,
}

impl Reference {
    /// The row of a symbol as the stream has it. A name without a venue stands for the venue that the configuration prefers.
    ///
    /// It searches, so callers ask once for each symbol.
    pub fn row(&self, symbol: &str) -> ReferenceRow {
        if let Some(row) = self.by_name.get(symbol) {
            return *row;
        }
        let (Some(venue), name) = venue::split(symbol) else { return ReferenceRow::default() };
        let exchange = exchange_of(venue).unwrap_or_else(|| venue.to_owned());
        let row = self.at_venue.get(&format!("{exchange}:{name}")).or_else(|| self.at_venue.get(&format!(":{name}")));
        row.copied().unwrap_or_default()
    }

    /// The value of the column of this number; NaN where absent.
    #[inline]
    pub fn number(&self, column: usize, row: ReferenceRow) -> f64 {
        self.numbers.get(column).and_then(|column| column.values.get(row.0 as usize)).copied().unwrap_or(f64::NAN)
    }

    /// The text in the text column of this number.
    pub fn text(&self, column: usize, row: ReferenceRow) -> Option<&str> {
        let TextColumn { values, distinct, .. } = self.texts.get(column)?;
        let number = values.get(row.0 as usize)?.checked_sub(1)?;
        distinct.get(number as usize).map(|text| &**text)
    }

    /// The calendar days from the session of this number ([`Session::number`](crate::session::Session)) to the expiry of a symbol:
    /// 0 on its last day, and NaN if it does not expire.
    #[inline]
    pub fn days_to_expiry(&self, row: ReferenceRow, session: i32) -> f64 {
        let expiry = self.expiry.get(row.0 as usize).copied().unwrap_or(f64::NAN);
        if session == NO_SESSION { f64::NAN } else { expiry - f64::from(session) }
    }

    /// Whether there is a column with dates of expiry, so that `days_to_expiry` is a column.
    pub fn has_expiry(&self) -> bool {
        !self.expiry.is_empty()
    }

    /// The names of the columns of numbers, by number.
    pub fn numeric_columns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.numbers.iter().map(|column| column.name.as_str())
    }

    /// The names of the text columns, by number.
    pub fn text_columns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.texts.iter().map(|column| column.name.as_str())
    }

    /// Why a column of the files is not one of numbers; `None` if no file has it.
    pub fn explain(&self, name: &str) -> Option<String> {
        if self.taken.iter().any(|taken| taken == name) {
            return Some(
                "the reference data has it, but ticks, bars or contexts have a column of this name; [reference.columns] can \
                 give it another name"
                    .to_owned(),
            );
        }
        let text = self.texts.iter().find(|column| column.name == name)?;
        let odd = text.odd.as_ref().map(|odd| format!(", such as `{odd}`")).unwrap_or_default();
        Some(format!("the reference data has it, but with values that are not numbers{odd}"))
    }

    /// The different values of a text column.
    pub(crate) fn distinct_texts(&self, column: usize) -> impl Iterator<Item = &str> {
        self.texts.get(column).into_iter().flat_map(|column| &column.distinct).map(|text| &**text)
    }

    /// The underlying of a row, where the data says so.
    pub(super) fn underlying(&self, row: ReferenceRow) -> Option<&str> {
        self.text(self.underlying?, row)
    }

    /// Whether a row is a future or an option, where the data says so.
    pub(super) fn is_derivative(&self, row: ReferenceRow) -> Option<bool> {
        self.derivative.get(row.0 as usize).copied().flatten()
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.derivative.len().saturating_sub(1)
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether it was built with these settings, from files that are as they were: `is_same` compares a name and a stamp.
    pub(crate) fn is_of(&self, settings: &ReferenceSettings, is_same: impl Fn(&str, FileStamp) -> bool) -> bool {
        self.settings.as_ref() == Some(settings) && self.files.iter().all(|file| is_same(&file.name, file.stamp))
    }

    /// The files that the data comes from.
    pub fn files(&self) -> &[ReferenceFile] {
        &self.files
    }

    /// The SHA-256 of the file, hexadecimal, or of the list of these if there are several; empty without a file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The first [`CODE_DIGITS`] digits of [`Self::sha256`], as alerts have them; empty without a file.
    pub fn code(&self) -> &str {
        self.sha256.get(..CODE_DIGITS).unwrap_or_default()
    }

    /// Sentences about what is odd in the data, and yet no error.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The name of a column of a file as detectors and keys have it: in lower case, with `_` for other characters.
pub fn column_name(text: &str) -> String {
    let text = text.trim().to_lowercase();
    text.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

/// Reads a file into `builder`.
pub(crate) fn read_file(path: &Path, name: &str, read: ReadTable, builder: &mut ReferenceBuilder) -> Result<()> {
    let mut file = File::open(path).context("can't read the reference data")?;
    let before = file.metadata().context("can't read the reference data")?;
    ensure!(before.is_file(), "is not a file");
    ensure!(before.len() <= FILE_MAX, "is larger than {} MiB", FILE_MAX >> 20);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).context("can't read the reference data")?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
    }
    file.rewind()?;
    builder.begin_file(name, hex(&digest.finalize()), FileStamp::from(&before));
    read(file.try_clone()?, builder)?;
    // Half of a file may be valid, and mean something else.
    ensure!(
        FileStamp::from(&file.metadata()?) == FileStamp::from(&before),
        "is being written: it changed while it was read"
    );
    builder.check_rows()
}

impl FileStamp {
    /// The stamp of the file at this path; `None` if there is none.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&std::fs::Metadata> for FileStamp {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The SHA-256 of the digests of files, one a line.
fn sha256_of_list<'a>(digests: impl Iterator<Item = &'a str>) -> String {
    let list: String = digests.map(|digest| format!("{digest}\n")).collect();
    if list.is_empty() { list } else { hex(&Sha256::digest(list)) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
