//! Decodes an entry to ticks: three layouts, the field names of many vendors, times of many forms.
//!
//! What holds: decoding is pure, so that the same entry gives the same ticks. What spans entries (order of time, volume
//! repair, carried prices) belongs to `normalize`.
//!
//! The layout is detected for each entry. One visitor reads JSON and MessagePack along one compiled mapping; what no
//! path leads to is skipped unread. If an entry has both a document and flat fields, the document wins and the flat
//! fields fill what it leaves out. Of fields that repeat, the first wins.

mod assemble;
mod document;
mod fast_json;
mod iso;
mod mapping;
mod names;
mod nan;
mod preset;
mod python;
mod symbol_text;
mod table;
mod time;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use rustc_hash::FxHashMap;

pub use self::{
    assemble::Scalar,
    names::{Names, NewNames},
    table::{ColumnKind, PlainTick, TablePlan},
};
pub use crate::{
    config::time_zone,
    symbol::{SYMBOL_BYTES_MAX, UnusableSymbol, check_symbol},
};

use self::{
    assemble::{Assembler, Buffers, Rules},
    iso::Zone,
    mapping::{Mapping, ROOT},
    symbol_text::SymbolRules,
};
use crate::{
    config::{InputConfig, input::InputLayout, is_unset},
    event::{Entry, column},
};

/// The fields that may hold a whole tick.
const DOCUMENT_FIELDS: [&str; 4] = ["data", "payload", "tick", "json"];

/// One tick as the producer wrote it. Absent numbers are NaN.
#[derive(Debug, Default, PartialEq)]
pub struct RawTick {
    /// The symbol in upper case, as detectors see it: with its venue only if `input.venue` is `keep`.
    pub symbol: String,
    /// The venue that it comes from, if `input.venue` is `refuse-mixed`; empty if the tick names none.
    pub venue: String,
    /// The event time, ns since the Unix epoch; `None` if it is missing, unreadable or implausible.
    pub time: Option<u64>,
    /// The last traded price, quote currency.
    pub price: f64,
    /// The columns by position: the standard ones, then those of `[input.extra]`. `flags` is 0.
    pub columns: Vec<f64>,
}

impl Clone for RawTick {
    fn clone(&self) -> Self {
        let Self { symbol, venue, columns, .. } = self;
        Self { symbol: symbol.clone(), venue: venue.clone(), columns: columns.clone(), ..*self }
    }

    /// Reuses the buffers of `self`.
    fn clone_from(&mut self, other: &Self) {
        self.symbol.clone_from(&other.symbol);
        self.venue.clone_from(&other.venue);
        self.columns.clone_from(&other.columns);
        (self.time, self.price) = (other.time, other.price);
    }
}

/// What an entry contained.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// This number of ticks.
    Ticks(usize),
    /// A list with this number of ticks, and with an element that is not a tick, for this reason.
    Partly(usize, DecodeError),
    /// A message of a known kind that is not a tick, such as a confirmation.
    Skipped,
}

/// Why an entry is not a tick. The text is the reason of a dead letter.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The document can't be read.
    #[error("field `{field}` is not {format}: {cause}")]
    Document {
        /// The field that holds the document.
        field: String,
        /// JSON or MessagePack.
        format: &'static str,
        /// The parser's message.
        cause: String,
    },
    /// The layout requires a document, and the entry has none.
    #[error("no field data, payload, tick or json holds a {0} document")]
    NoDocument(&'static str),
    /// The document is neither text nor MessagePack.
    #[error(
        "field `{0}` holds binary data that is not MessagePack; binary vendor packets are not supported, publish decoded ticks"
    )]
    Binary(String),
    /// The document is text of another form, such as a packet in base64, and the flat fields do not make a tick.
    #[error("field `{0}` is neither JSON nor MessagePack, and the other fields name no symbol")]
    NotADocument(String),
    /// The document is a bare value, or a list of bare values.
    #[error("the document contains no object")]
    NoObject,
    /// The entry has no symbol.
    #[error("no symbol: none of {0} has a value")]
    NoSymbol(String),
    /// The producer did not know the instrument, and wrote this instead of its symbol.
    #[error(
        "unresolved symbol: `{0}` is what the producer writes for an instrument that it does not know (input.unresolved), and \
         no other field names it; input.tokens.file can name instrument numbers"
    )]
    Unresolved(String),
    /// The entry has a symbol that is not usable, and no value that makes a tick.
    #[error(transparent)]
    Symbol(#[from] UnusableSymbol),
    /// The entry has a symbol, and no value that makes a tick.
    #[error("neither price nor quote: {symbol} has no usable value in any of {names}")]
    Empty {
        /// The symbol.
        symbol: String,
        /// The names of a price.
        names: String,
    },
}

/// Decodes entries by a compiled mapping.
#[derive(Clone, Debug)]
pub struct Decoder {
    rules: Rules,
    layout: InputLayout,
    ahead_max_ms: u64,
    column_names: Vec<String>,
    buffers: Buffers,
    json_reader: JsonReader,
}

/// Which reader JSON documents are given to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum JsonReader {
    /// The fast reader, and the general one for documents that it declines.
    Fast,
    /// The general reader alone, as for text that the fast one has already declined.
    General,
}

impl Decoder {
    /// Compiles the mapping. The path of the token file is relative to `root`.
    ///
    /// # Errors
    /// When a preset, a target or a time zone is unknown, a path is invalid, or the token file is unreadable.
    pub fn new(config: &InputConfig, root: &Path) -> Result<Self> {
        let mapping = Mapping::compile(config)?;
        let zone = Zone::new(time_zone(&config.timezone)?);
        let file = &config.tokens.file;
        let tokens = if is_unset(file) { FxHashMap::default() } else { read_tokens(&root.join(file))? };
        let mut column_names: Vec<String> = column::NAMES.map(str::to_owned).to_vec();
        for name in config.extra.keys() {
            ensure!(!column_names.contains(name), "input.extra.{name}: this column already exists; use [input.map]");
            column_names.push(name.clone());
        }
        let buffers = Buffers::new(zone, column_names.len(), mapping.targets());
        let rules = Rules { mapping, symbols: SymbolRules::new(config, tokens) };
        let InputConfig { layout, ahead_max_ms, .. } = *config;
        Ok(Self { rules, layout, ahead_max_ms, column_names, buffers, json_reader: JsonReader::Fast })
    }

    /// How far the time of a tick may be ahead of its arrival, ms: `input.ahead_max_ms`.
    pub fn ahead_max_ms(&self) -> u64 {
        self.ahead_max_ms
    }

    /// The names of the columns by position: the standard ones, then those of `[input.extra]` in alphabetical order.
    pub fn column_names(&self) -> &[String] {
        &self.column_names
    }

    /// Passes each tick in `entry` to `emit`, including those before an error.
    ///
    /// # Errors
    /// When the entry is not a tick: the reason.
    pub fn decode(&mut self, entry: Entry<'_>, emit: &mut impl FnMut(&RawTick)) -> Result<Outcome, DecodeError> {
        let content = match self.layout {
            InputLayout::Flat => Content::Fields,
            layout => content_of(&entry, layout)?,
        };
        let mut emitted = 0;
        let outcome = self.read(&entry, &content, self.json_reader, &mut |tick| {
            emitted += 1;
            emit(tick);
        });
        match (&outcome, content) {
            // Python's NaN is not JSON, so a document that can't be read may only contain some of these.
            (Err(DecodeError::Document { .. }), Content::Document(Document { field, value, format: Format::Json })) => {
                let Some(value) = nan::to_null(value) else { return outcome };
                let repaired = Content::Document(Document { field, value: &value, format: Format::Json });
                // The ticks before the first NaN are already emitted, and are read once more.
                self.read(&entry, &repaired, JsonReader::General, &mut |tick| match emitted {
                    0 => emit(tick),
                    _ => emitted -= 1,
                })
            }
            (Err(DecodeError::NoSymbol(_)), Content::Unreadable(field)) => Err(DecodeError::NotADocument(lossy(field))),
            _ => outcome,
        }
    }

    /// The id of a table's column, for [`Self::decode_cells`]; `None` if the column's values are not used.
    pub fn column_id(&self, name: &str) -> Option<usize> {
        self.rules.mapping.key(ROOT, name.as_bytes())
    }

    /// Decodes a row of a table, from its values and the [ids](Self::column_id) of their columns, like
    /// [`Self::decode`].
    ///
    /// # Errors
    /// When the row is not a tick: the reason.
    pub fn decode_cells<'c>(
        &mut self,
        arrival_ms: u64,
        cells: impl Iterator<Item = (usize, Scalar<'c>)>,
        emit: &mut dyn FnMut(&RawTick),
    ) -> Result<Outcome, DecodeError> {
        let mut assembler = Assembler::new(&self.rules, &mut self.buffers, arrival_ms, emit);
        for (column, value) in cells {
            match value {
                Scalar::Text(text) => document::add_text(&mut assembler, column, 0, text),
                value => assembler.offer(column, 0, value),
            }
        }
        assembler.finish_tick();
        assembler.outcome()
    }

    fn read(
        &mut self,
        entry: &Entry<'_>,
        content: &Content<'_>,
        reader: JsonReader,
        emit: &mut dyn FnMut(&RawTick),
    ) -> Result<Outcome, DecodeError> {
        let mut assembler = Assembler::new(&self.rules, &mut self.buffers, entry.id.millis, &mut *emit);
        let document = match content {
            Content::Document(document) => Some(document),
            _ => None,
        };
        // Flat fields come first: what precedes a list of ticks applies to each of them.
        for (name, value) in entry.fields() {
            if document.is_none_or(|document| document.field != name) {
                document::add_field(&mut assembler, name, value, document.is_some());
            }
        }
        let Some(Document { field, value, format }) = document else {
            assembler.finish_tick();
            return assembler.outcome();
        };
        let (format, result) = match format {
            Format::Json if reader == JsonReader::Fast => match fast_json::read(value, &mut assembler) {
                Some(()) => return assembler.outcome(),
                // Some values of the declined document are already in the assembler, so a new one begins.
                None => return self.read(entry, content, JsonReader::General, emit),
            },
            Format::Json => ("JSON", document::add_json(&mut assembler, value).map_err(|cause| cause.to_string())),
            Format::Msgpack => {
                ("MessagePack", document::add_msgpack(&mut assembler, value).map_err(|cause| cause.to_string()))
            }
        };
        match result {
            Ok(()) => assembler.outcome(),
            Err(cause) => Err(DecodeError::Document { field: lossy(field), format, cause }),
        }
    }
}

/// Where the values of an entry are.
enum Content<'a> {
    /// In a document, and in the flat fields beside it.
    Document(Document<'a>),
    /// In flat fields; this field should hold a document and holds other text.
    Unreadable(&'a [u8]),
    /// In flat fields.
    Fields,
}

/// A field that holds a document.
struct Document<'a> {
    field: &'a [u8],
    value: &'a [u8],
    format: Format,
}

enum Format {
    Json,
    Msgpack,
}

/// Finds the first field that holds a document.
fn content_of<'a>(entry: &Entry<'a>, layout: InputLayout) -> Result<Content<'a>, DecodeError> {
    let (mut binary, mut unreadable) = (None, None);
    for (field, value) in entry.fields() {
        if !DOCUMENT_FIELDS.iter().any(|name| name.as_bytes() == field) {
            continue;
        }
        let format = match (layout, value.trim_ascii_start().first()) {
            (InputLayout::Json | InputLayout::Auto, Some(b'{' | b'[')) => Format::Json,
            // The first bytes of MessagePack's maps and arrays; no text begins with them.
            (InputLayout::Msgpack | InputLayout::Auto, Some(0x80..=0x9f | 0xdc..=0xdf)) => Format::Msgpack,
            _ if std::str::from_utf8(value).is_err() => {
                binary = Some(field);
                continue;
            }
            _ => {
                unreadable = Some(field);
                continue;
            }
        };
        return Ok(Content::Document(Document { field, value, format }));
    }
    match (layout, binary, unreadable) {
        (InputLayout::Json, ..) => Err(DecodeError::NoDocument("JSON")),
        (InputLayout::Msgpack, ..) => Err(DecodeError::NoDocument("MessagePack")),
        (_, Some(field), _) => Err(DecodeError::Binary(lossy(field))),
        (_, None, Some(field)) => Ok(Content::Unreadable(field)),
        (_, None, None) => Ok(Content::Fields),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads the symbols of instrument numbers from a CSV file.
fn read_tokens(file: &Path) -> Result<FxHashMap<String, String>> {
    let text = fs::read_to_string(file).with_context(|| format!("input.tokens.file: can't read {}", file.display()))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).has_headers(false).from_reader(text.as_bytes());
    let mut records = reader.records().peekable();
    // A first line whose first field is not a number is a header.
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
