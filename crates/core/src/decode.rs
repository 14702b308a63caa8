//! From an entry to ticks: three layouts, many vendors' field names, times of every kind.
//!
//! Pure: the same entry gives the same ticks. What spans entries (clamping of
//! time, volume repair, carried prices) is `normalize`'s work.
//!
//! Layouts are found out per entry. JSON and MessagePack are walked by one
//! visitor along one compiled mapping; what no path leads to is skipped unread.
//! Where an entry has both a document and flat fields, the document wins and
//! the flat fields fill what it leaves out. Of fields that repeat, the first counts.

mod iso;
mod mapping;
mod names;
mod nan;
mod plain;
mod preset;
mod quick;
mod scan;
mod time;
mod walk;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;

use self::{
    iso::Zone,
    mapping::{Mapping, ROOT},
    scan::{Scan, Work},
};
pub use self::{
    names::Names,
    plain::{Kind, PlainTick, Plan},
    scan::Scalar,
};
use crate::{
    config::{InputConfig, input::Layout, nearest},
    event::{Entry, column},
};

/// Fields that may hold a whole tick.
const DOCUMENT_FIELDS: [&str; 4] = ["data", "payload", "tick", "json"];

/// One tick as the producer wrote it; absent numbers are NaN.
#[derive(Debug, Default, PartialEq)]
pub struct RawTick {
    /// Name, upper case, without exchange prefix.
    pub symbol: String,
    /// Event time, ns since the Unix epoch; `None` when missing, unreadable or absurd.
    pub time: Option<u64>,
    /// Last traded price, quote currency.
    pub price: f64,
    /// By position: the standard columns, then those of `[input.extra]`. `flags` is 0.
    pub columns: Vec<f64>,
}

impl Clone for RawTick {
    fn clone(&self) -> Self {
        Self { symbol: self.symbol.clone(), columns: self.columns.clone(), ..*self }
    }

    /// Into the buffers that are there.
    fn clone_from(&mut self, other: &Self) {
        self.symbol.clone_from(&other.symbol);
        self.columns.clone_from(&other.columns);
        (self.time, self.price) = (other.time, other.price);
    }
}

/// What an entry held.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// This many ticks.
    Ticks(usize),
    /// A list with this many ticks in it, and with something that is none, for this reason.
    Partly(usize, DecodeError),
    /// A message of a kind that is known and is no tick, e.g. a confirmation.
    Skipped,
}

/// Why an entry is no tick. Each reads as the reason of a dead letter.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The document can't be read.
    #[error("field `{field}` is not {format}: {cause}")]
    Document {
        /// Its field.
        field: String,
        /// JSON or MessagePack.
        format: &'static str,
        /// The parser's own words.
        cause: String,
    },
    /// The layout asks for a document and there is none.
    #[error("no field data, payload, tick or json holds a {0} document")]
    NoDocument(&'static str),
    /// Bytes that are neither text nor MessagePack.
    #[error(
        "field `{0}` holds binary data that is no MessagePack; binary vendor packets are not supported, publish decoded ticks"
    )]
    Binary(String),
    /// Text that is neither, e.g. a packet in base64, and no flat fields that would make a tick.
    #[error("field `{0}` is neither JSON nor MessagePack, and the other fields name no symbol")]
    NotADocument(String),
    /// A list of bare values.
    #[error("the document holds no object")]
    NoObject,
    /// No name.
    #[error("no symbol: none of {0} has a value")]
    NoSymbol(String),
    /// A name, and nothing to say of it.
    #[error("neither price nor quote: {symbol} has no usable value in any of {names}")]
    Empty {
        /// The symbol.
        symbol: String,
        /// Where a price was looked for.
        names: String,
    },
}

/// Decodes entries by a compiled mapping.
#[derive(Clone, Debug)]
pub struct Decoder {
    mapping: Mapping,
    layout: Layout,
    zone: Zone,
    tokens: FxHashMap<String, String>,
    column_names: Vec<String>,
    /// Kept for its buffers.
    work: Work,
    /// Whether JSON is tried the quick way first; only a test that compares both does without.
    is_quick: bool,
}

impl Decoder {
    /// Compiles the mapping; `root` is what the token file's path is relative to.
    ///
    /// # Errors
    /// Unknown preset, target, zone; a path that makes no sense; an unreadable token file.
    pub fn new(config: &InputConfig, root: &Path) -> Result<Self> {
        let mapping = Mapping::compile(config)?;
        let zone = Zone::new(time_zone(&config.timezone)?);
        let tokens = match config.tokens.file.as_os_str().is_empty() {
            true => FxHashMap::default(),
            false => read_tokens(&root.join(&config.tokens.file))?,
        };
        let mut column_names: Vec<String> = column::NAMES.map(str::to_owned).to_vec();
        for name in config.extra.keys() {
            ensure!(!column_names.contains(name), "input.extra.{name}: this column exists already; use [input.map]");
            column_names.push(name.clone());
        }
        let work = Work::new(column_names.len(), mapping.targets());
        Ok(Self { mapping, layout: config.layout, zone, tokens, column_names, work, is_quick: true })
    }

    /// Names of the columns by position: the standard ones, then those of `[input.extra]` by name.
    pub fn column_names(&self) -> &[String] {
        &self.column_names
    }

    /// Hands each tick in `entry` to `emit`, also those before an error.
    ///
    /// # Errors
    /// Why the entry is no tick.
    pub fn decode(&mut self, entry: Entry<'_>, emit: &mut impl FnMut(&RawTick)) -> Result<Outcome, DecodeError> {
        let found = match self.layout {
            Layout::Flat => Found::Nothing,
            layout => find(&entry, layout)?,
        };
        let mut emitted = 0;
        let outcome = self.read(&entry, &found, self.is_quick, &mut |tick| {
            emitted += 1;
            emit(tick);
        });
        match (&outcome, found) {
            (Err(DecodeError::Document { .. }), Found::Document(Document { field, value, format: Format::Json })) => {
                let Some(value) = nan::to_null(value) else { return outcome };
                let plain = Found::Document(Document { field, value: &value, format: Format::Json });
                // The ticks before the first NaN come again.
                self.read(&entry, &plain, false, &mut |tick| match emitted {
                    0 => emit(tick),
                    _ => emitted -= 1,
                })
            }
            (Err(DecodeError::NoSymbol(_)), Found::Unreadable(field)) => Err(DecodeError::NotADocument(lossy(field))),
            _ => outcome,
        }
    }

    /// The place of a table's column of this name, for [`Self::decode_cells`]; `None`: no value is looked for there.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.mapping.key(ROOT, name.as_bytes())
    }

    /// As [`Self::decode`], for the cells of a table's row, each with its column's place.
    pub fn decode_cells<'c>(
        &mut self,
        arrival_ms: u64,
        cells: impl Iterator<Item = (usize, Scalar<'c>)>,
        emit: &mut dyn FnMut(&RawTick),
    ) -> Result<Outcome, DecodeError> {
        let Self { mapping, zone, tokens, work, .. } = self;
        let mut scan = Scan::new(mapping, zone, tokens, arrival_ms, work, emit);
        for (place, value) in cells {
            match value {
                Scalar::Text(text) => scan.flat_text(place, 0, text),
                value => scan.offer(place, 0, value),
            }
        }
        scan.finish_tick();
        scan.outcome()
    }

    fn read(
        &mut self,
        entry: &Entry<'_>,
        found: &Found<'_>,
        quickly: bool,
        emit: &mut dyn FnMut(&RawTick),
    ) -> Result<Outcome, DecodeError> {
        let Self { mapping, zone, tokens, work, .. } = self;
        let mut scan = Scan::new(mapping, zone, tokens, entry.id.millis, work, &mut *emit);
        let document = match found {
            Found::Document(document) => Some(document),
            _ => None,
        };
        for (name, value) in entry.fields() {
            if document.is_none_or(|found| found.field != name) {
                scan.flat_field(name, value, document.is_some());
            }
        }
        let Some(Document { field, value, format }) = document else {
            scan.finish_tick();
            return scan.outcome();
        };
        let (format, walked) = match format {
            Format::Json if quickly => match quick::read(value, &mut scan) {
                Some(()) => return scan.outcome(),
                None => return self.read(entry, found, false, emit),
            },
            Format::Json => ("JSON", scan.json(value).map_err(|cause| cause.to_string())),
            Format::Msgpack => ("MessagePack", scan.msgpack(value).map_err(|cause| cause.to_string())),
        };
        match walked {
            Ok(()) => scan.outcome(),
            Err(cause) => Err(DecodeError::Document { field: lossy(field), format, cause }),
        }
    }
}

/// What the fields that may hold a document do hold.
enum Found<'a> {
    Document(Document<'a>),
    /// Text that is no document, in this field.
    Unreadable(&'a [u8]),
    Nothing,
}

struct Document<'a> {
    field: &'a [u8],
    value: &'a [u8],
    format: Format,
}

enum Format {
    Json,
    Msgpack,
}

/// The first field that holds a whole tick.
fn find<'a>(entry: &Entry<'a>, layout: Layout) -> Result<Found<'a>, DecodeError> {
    let (mut binary, mut unreadable) = (None, None);
    for (field, value) in entry.fields() {
        if !DOCUMENT_FIELDS.iter().any(|name| name.as_bytes() == field) {
            continue;
        }
        let format = match (layout, value.trim_ascii_start().first()) {
            (Layout::Json | Layout::Auto, Some(b'{' | b'[')) => Format::Json,
            // Maps and arrays of MessagePack; no text begins with these bytes.
            (Layout::Msgpack | Layout::Auto, Some(0x80..=0x9f | 0xdc..=0xdf)) => Format::Msgpack,
            _ if std::str::from_utf8(value).is_err() => {
                binary = Some(field);
                continue;
            }
            _ => {
                unreadable = Some(field);
                continue;
            }
        };
        return Ok(Found::Document(Document { field, value, format }));
    }
    match (layout, binary, unreadable) {
        (Layout::Json, ..) => Err(DecodeError::NoDocument("JSON")),
        (Layout::Msgpack, ..) => Err(DecodeError::NoDocument("MessagePack")),
        (_, Some(field), _) => Err(DecodeError::Binary(lossy(field))),
        (_, None, Some(field)) => Ok(Found::Unreadable(field)),
        (_, None, None) => Ok(Found::Nothing),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The zone by its IANA name.
///
/// # Errors
/// When there is none of that name.
pub fn time_zone(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|_| {
        let usual = ["Asia/Kolkata", "UTC", "America/New_York", "America/Chicago", "Europe/London", "Asia/Tokyo"];
        let hint = nearest(name, usual.into_iter()).unwrap_or("Asia/Kolkata");
        anyhow::anyhow!("input.timezone: there is no time zone `{name}`; expected an IANA name such as {hint}")
    })
}

fn read_tokens(file: &Path) -> Result<FxHashMap<String, String>> {
    let text = fs::read_to_string(file).with_context(|| format!("input.tokens.file: can't read {}", file.display()))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).has_headers(false).from_reader(text.as_bytes());
    let mut records = reader.records().peekable();
    let header = match records.peek() {
        Some(Ok(first)) if first.get(0).is_some_and(|field| field.parse::<u64>().is_err()) => records.next(),
        _ => None,
    };
    let (token, symbol) = match header.transpose()? {
        None => (0, 1),
        Some(header) => {
            let position = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
            let (Some(token), Some(symbol)) = (position("instrument_token"), position("tradingsymbol")) else {
                bail!(
                    "input.tokens.file: {} needs the columns instrument_token and tradingsymbol; it has: {}",
                    file.display(),
                    header.iter().collect::<Vec<_>>().join(", ")
                );
            };
            (token, symbol)
        }
    };
    let mut tokens = FxHashMap::default();
    for record in records {
        let record = record.with_context(|| format!("input.tokens.file: {}", file.display()))?;
        if let (Some(token), Some(symbol)) = (record.get(token), record.get(symbol)) {
            tokens.insert(token.to_owned(), symbol.to_owned());
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
