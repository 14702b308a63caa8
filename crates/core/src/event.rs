//! The data that flows: entries in, batches of ticks, detections, alerts out.
//!
//! Pure data, no I/O, imports no sibling. Stages meet here and nowhere else.

use std::{fmt, ops::Range, str::FromStr, sync::Arc};

/// Id of a Redis Stream entry: arrival time at the server and a sequence within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch, by the server's clock.
    pub millis: u64,
    /// Position among the entries of that millisecond.
    pub seq: u64,
}

impl EntryId {
    /// Sorts before every entry.
    pub const ZERO: Self = Self { millis: 0, seq: 0 };

    /// The id right before this one; zero has none and stays.
    pub fn before(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self { seq, ..self },
            None => self.millis.checked_sub(1).map_or(Self::ZERO, |millis| Self { millis, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.seq)
    }
}

/// The text is not `<milliseconds>-<sequence>`.
#[derive(Debug, thiserror::Error)]
#[error("not an entry id: expected <milliseconds>-<sequence>")]
pub struct NotAnEntryId;

impl FromStr for EntryId {
    type Err = NotAnEntryId;

    /// A missing sequence reads as 0, as in Redis' own commands.
    fn from_str(text: &str) -> Result<Self, NotAnEntryId> {
        let (millis, seq) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { millis: millis.parse().map_err(|_| NotAnEntryId)?, seq: seq.parse().map_err(|_| NotAnEntryId)? })
    }
}

/// Undecoded entries of one read, their bytes in one buffer.
#[derive(Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    /// Name and value of each field, as ranges of `bytes`.
    fields: Vec<(Range<usize>, Range<usize>)>,
    /// Id, and the entry's range of `fields`.
    entries: Vec<(EntryId, Range<usize>)>,
    /// Their ticks, if they were decoded where they were read; then they have no fields.
    pub decoded: Option<Box<DecodedTicks>>,
}

/// Ticks of entries that were decoded where they were read, as rows of a table are: there never was a text of them.
#[derive(Debug, Default)]
pub struct DecodedTicks {
    /// Which entry, by index.
    pub entry: Vec<u32>,
    /// Names that no read before had, each with its number.
    pub names: Vec<(u32, Arc<str>)>,
    /// Number of the symbol's name.
    pub symbol: Vec<u32>,
    /// Event time, ns since the Unix epoch, if it is known.
    pub time: Vec<Option<u64>>,
    /// Last traded price, quote currency; NaN where absent.
    pub price: Vec<f64>,
    /// All columns of the first tick, then of the second, and so on; NaN where absent.
    pub columns: Vec<f64>,
    /// Entries that are no tick, by index, with the reason.
    pub refused: Vec<(u32, String)>,
}

impl DecodedTicks {
    /// Adds a tick of the entry at this index; `columns` has a value for each column.
    pub fn push(&mut self, entry: u32, symbol: u32, time: Option<u64>, price: f64, columns: &[f64]) {
        self.entry.push(entry);
        self.symbol.push(symbol);
        self.time.push(time);
        self.price.push(price);
        self.columns.extend_from_slice(columns);
    }
}

impl Entries {
    /// Makes room for so many more entries, fields, and bytes of all names and values.
    pub fn reserve(&mut self, entries: usize, fields: usize, bytes: usize) {
        self.entries.reserve(entries);
        self.fields.reserve(fields);
        self.bytes.reserve(bytes);
    }

    /// Starts the next entry; the fields that follow belong to it.
    pub fn push_entry(&mut self, id: EntryId) {
        let at = self.fields.len();
        self.entries.push((id, at..at));
    }

    /// Adds a field to the entry begun last.
    ///
    /// # Panics
    /// When no entry was begun.
    pub fn push_field(&mut self, name: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.fields.push((start..middle, middle..self.bytes.len()));
        let (_, fields) = self.entries.last_mut().expect("a field follows its entry");
        fields.end = self.fields.len();
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the read brought nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Id of the first entry.
    pub fn first(&self) -> Option<EntryId> {
        self.entries.first().map(|(id, _)| *id)
    }

    /// Id of the last entry.
    pub fn last(&self) -> Option<EntryId> {
        self.entries.last().map(|(id, _)| *id)
    }

    /// Id of the entry at `index`.
    pub fn id(&self, index: usize) -> Option<EntryId> {
        self.entries.get(index).map(|(id, _)| *id)
    }

    /// Leaves out the entries of other ids.
    pub fn retain(&mut self, keep: impl Fn(EntryId) -> bool) {
        self.entries.retain(|(id, _)| keep(*id));
    }

    /// The entry at `index`, in stream order.
    pub fn get(&self, index: usize) -> Option<Entry<'_>> {
        let (id, fields) = self.entries.get(index)?;
        Some(Entry { id: *id, bytes: &self.bytes, fields: &self.fields[fields.clone()] })
    }

    /// All entries in stream order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.entries.iter().map(|(id, fields)| Entry {
            id: *id,
            bytes: &self.bytes,
            fields: &self.fields[fields.clone()],
        })
    }
}

/// One undecoded entry: its id and its fields as the producer wrote them.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The entry's id.
    pub id: EntryId,
    bytes: &'a [u8],
    fields: &'a [(Range<usize>, Range<usize>)],
}

impl<'a> Entry<'a> {
    /// Name and value of each field in the producer's order; names may repeat.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.fields.iter().map(move |(name, value)| (&bytes[name.clone()], &bytes[value.clone()]))
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.fields().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// Stands for no symbol: such a row tells that event time has reached a whole second.
pub const CLOCK: u32 = u32::MAX;

/// Position of each standard column in [`Batch::columns`]; those of `[input.extra]` follow.
pub mod column {
    /// Traded since the symbol's previous tick, >= 0, venue's units.
    pub const QUANTITY: usize = 0;
    /// Traded in the session so far; falls only where a count began again, with a session or within it.
    pub const CUM_VOLUME: usize = 1;
    /// Best bid, quote currency, > 0.
    pub const BID: usize = 2;
    /// Best ask, quote currency, > 0.
    pub const ASK: usize = 3;
    /// Quantity resting at the best bid, >= 0.
    pub const BID_QUANTITY: usize = 4;
    /// Quantity resting at the best ask, >= 0.
    pub const ASK_QUANTITY: usize = 5;
    /// Open interest as published, >= 0.
    pub const OI: usize = 6;
    /// Bit set of [`super::flag`], a whole number, never NaN.
    pub const FLAGS: usize = 7;
    /// `volume` as published, where its name does not tell whether it is per tick or cumulative, >= 0.
    pub const VOLUME: usize = 8;
    /// Names by position, as manifests and `config.toml` write them.
    pub const NAMES: [&str; 9] =
        ["quantity", "cum_volume", "bid", "ask", "bid_quantity", "ask_quantity", "oi", "flags", "volume"];
}

/// Bits of the `flags` column.
pub mod flag {
    /// The producer's time was missing or absurd; estimated from the entry's arrival.
    pub const TIME_ESTIMATED: u32 = 1;
    /// The producer's time was before the symbol's previous tick; raised to that.
    pub const OUT_OF_ORDER: u32 = 2;
    /// Cumulative volume fell without a new session; the fall was not believed.
    pub const VOLUME_REPAIRED: u32 = 4;
    /// No trade: only quotes or open interest changed; the price is the last one.
    pub const QUOTE_ONLY: u32 = 8;
    /// First tick of the symbol in a new session day.
    pub const SESSION_START: u32 = 16;
}

/// Rows of ticks by column: what one shard gets of one read, and what a guest call is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Which entry of the read the row comes from, by index.
    pub entry: Vec<u32>,
    /// Interned symbol, or [`CLOCK`].
    pub symbol: Vec<u32>,
    /// Event time, ns since the Unix epoch, UTC.
    pub time: Vec<u64>,
    /// Last traded price, quote currency; NaN on clock rows, and before normalising where absent.
    pub price: Vec<f64>,
    /// Standard columns, then extra ones; NaN where absent.
    pub columns: Vec<Vec<f64>>,
}

impl Batch {
    /// An empty batch of `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self::with_capacity(columns, 0)
    }

    /// As [`Self::new`], with room for so many rows.
    pub fn with_capacity(columns: usize, rows: usize) -> Self {
        Self {
            entry: Vec::with_capacity(rows),
            symbol: Vec::with_capacity(rows),
            time: Vec::with_capacity(rows),
            price: Vec::with_capacity(rows),
            columns: (0..columns).map(|_| Vec::with_capacity(rows)).collect(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.symbol.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.symbol.is_empty()
    }

    /// Adds a row; `columns` has a value for each column.
    pub fn push(&mut self, entry: u32, symbol: u32, time: u64, price: f64, columns: &[f64]) {
        debug_assert_eq!(columns.len(), self.columns.len(), "a row fills every column");
        self.entry.push(entry);
        self.symbol.push(symbol);
        self.time.push(time);
        self.price.push(price);
        for (column, value) in self.columns.iter_mut().zip(columns) {
            column.push(*value);
        }
    }

    /// Some of its rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        Self {
            entry: self.entry[rows.clone()].to_vec(),
            symbol: self.symbol[rows.clone()].to_vec(),
            time: self.time[rows.clone()].to_vec(),
            price: self.price[rows.clone()].to_vec(),
            columns: self.columns.iter().map(|column| column[rows.clone()].to_vec()).collect(),
        }
    }

    /// Takes out the ticks of `entry`, which must be the last ones; clock rows stay. Returns how many.
    pub fn take_back(&mut self, entry: u32) -> usize {
        let Some(first) = self.entry.iter().position(|from| *from == entry) else { return 0 };
        let clocks: Vec<u64> =
            (first..self.len()).filter(|row| self.symbol[*row] == CLOCK).map(|row| self.time[row]).collect();
        let taken = self.len() - first - clocks.len();
        self.entry.truncate(first);
        self.symbol.truncate(first);
        self.time.truncate(first);
        self.price.truncate(first);
        self.columns.iter_mut().for_each(|column| column.truncate(first));
        clocks.into_iter().for_each(|time| self.push_clock(entry, time));
        taken
    }

    /// Adds a clock row: event time has reached `time` just before `entry`.
    pub fn push_clock(&mut self, entry: u32, time: u64) {
        self.entry.push(entry);
        self.symbol.push(CLOCK);
        self.time.push(time);
        self.price.push(f64::NAN);
        for column in &mut self.columns {
            column.push(f64::NAN);
        }
    }
}

/// Which way a detector expects, or saw, the price move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Upwards.
    Up,
    /// Downwards.
    Down,
    /// Not a matter of direction.
    None,
}

impl Direction {
    /// As alerts write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::None => "none",
        }
    }
}

/// A detection that is, or is about to be, committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// `<entry id>/<detector>/<ordinal>`; never changes, however often the entry is worked.
    pub id: String,
    /// Name of the detector.
    pub detector: String,
    /// Name of its plugin.
    pub plugin: String,
    /// Version of its plugin.
    pub version: String,
    /// Name of the symbol.
    pub symbol: String,
    /// Event time, ns since the Unix epoch, UTC.
    pub time: u64,
    /// Price at that time, quote currency; NaN when no price is known.
    pub price: f64,
    /// Rarity in 0..=1, as the detector defines it.
    pub confidence: f64,
    /// Up, down or none.
    pub direction: Direction,
    /// Numbers that let a person check it.
    pub evidence: Vec<(String, f64)>,
    /// The entry that caused it.
    pub entry: EntryId,
    /// Time from the entry's arrival to its commit, ms; 0 when the clocks disagree.
    pub lag_ms: u64,
    /// Whether the entry was read again after a crash or take-over.
    pub recovered: bool,
    /// Whether `lag_ms` is above `alerts.stale_after_ms`: old news.
    pub stale: bool,
}

/// An entry, or one detector's part of it, set aside.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// A sentence.
    pub reason: String,
    /// The entry.
    pub entry: EntryId,
    /// The detector to blame, if one is.
    pub blamed: Option<DetectorFault>,
    /// The entry's fields as a JSON object, from which the entry can be made again.
    pub raw: String,
}

/// A detector as it was when it failed.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorFault {
    /// Its name.
    pub detector: String,
    /// Name of its plugin, as the plugin has it.
    pub plugin: String,
    /// Version of its plugin.
    pub version: String,
    /// SHA-256 of the plugin's file, hexadecimal.
    pub sha256: String,
    /// Each parameter with its value, as a JSON object.
    pub params: String,
}

/// Event time of the partition, as of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Latest event time seen, ns since the Unix epoch; 0 before the first tick.
    pub time: u64,
    /// How far behind its entry's arrival the latest stamped tick was, ms; `None` before the first.
    pub delay_ms: Option<i64>,
    /// Ticks without a stamp before the first that had one.
    pub unstamped: u64,
}
