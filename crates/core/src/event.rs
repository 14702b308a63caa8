//! The data that flows between stages: entries, batches of ticks, alerts, dead letters.
//!
//! What holds: this is pure data. The module imports no other module of this crate, so that every stage can use it.

use std::{fmt, ops::Range, str::FromStr, sync::Arc};

/// The id of a Redis Stream entry: its arrival time at the server, and its number within that millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch, by the server's clock.
    pub millis: u64,
    /// The number among the entries of that millisecond.
    pub seq: u64,
}

impl EntryId {
    /// The id that sorts before every entry.
    pub const ZERO: Self = Self { millis: 0, seq: 0 };

    /// From here on (2001-09-09) the first part of an id is a time; smaller ones are numbers that a producer has chosen.
    pub const TIMES_FROM_MS: u64 = 1_000_000_000_000;

    /// The id right before this one. Zero has none, and returns itself.
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

/// An error: the text is not of the form `<milliseconds>-<sequence>`.
#[derive(Debug, thiserror::Error)]
#[error("not an entry id: expected <milliseconds>-<sequence>")]
pub struct NotAnEntryId;

impl FromStr for EntryId {
    type Err = NotAnEntryId;

    /// Parses an id. A missing sequence counts as 0, as in the commands of Redis.
    fn from_str(text: &str) -> Result<Self, NotAnEntryId> {
        let (millis, seq) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { millis: millis.parse().map_err(|_| NotAnEntryId)?, seq: seq.parse().map_err(|_| NotAnEntryId)? })
    }
}

/// The undecoded entries of one read, with their bytes in one buffer.
#[derive(Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    /// Name and value of each field, as ranges of `bytes`.
    fields: Vec<(Range<usize>, Range<usize>)>,
    /// The id of each entry, and its range of `fields`.
    entries: Vec<(EntryId, Range<usize>)>,
    /// The ticks of the entries, if their reader has decoded them. They then have no fields.
    pub decoded: Option<Box<DecodedTicks>>,
}

/// The ticks of entries that their reader has decoded, as it does with rows of a table.
#[derive(Debug, Default)]
pub struct DecodedTicks {
    /// The index of the tick's entry in the read.
    pub entry: Vec<u32>,
    /// The names that no earlier read contained, each with its number.
    pub names: Vec<(u32, Arc<str>)>,
    /// The venues that some of these names come from.
    pub venues: Vec<(u32, Arc<str>)>,
    /// The number of the symbol's name.
    pub symbol: Vec<u32>,
    /// The event time, ns since the Unix epoch, if it is known.
    pub time: Vec<Option<u64>>,
    /// The last traded price, quote currency; NaN where absent.
    pub price: Vec<f64>,
    /// All columns of the first tick, then of the second, and so on; NaN where absent.
    pub columns: Vec<f64>,
    /// The entries that are not ticks, by index, with the reason.
    pub rejected: Vec<(u32, String)>,
}

impl DecodedTicks {
    /// Adds a tick.
    #[inline]
    pub fn push(&mut self, row: TickRow<'_, Option<u64>>) {
        self.entry.push(row.entry);
        self.symbol.push(row.symbol);
        self.time.push(row.time);
        self.price.push(row.price);
        self.columns.extend_from_slice(row.columns);
    }

    /// Takes out the ticks of the entries from `entry` on, which are numbered from 0 then. Names stay.
    fn split_off(&mut self, entry: u32) -> Self {
        let width = self.columns.len().checked_div(self.entry.len()).unwrap_or_default();
        let first = self.entry.partition_point(|of| *of < entry);
        let of_rest = |of: &u32| *of >= entry;
        let (rejected, kept) = std::mem::take(&mut self.rejected).into_iter().partition(|(of, _)| of_rest(of));
        self.rejected = kept;
        let mut rest = Self {
            entry: self.entry.split_off(first),
            names: Vec::new(),
            venues: Vec::new(),
            symbol: self.symbol.split_off(first),
            time: self.time.split_off(first),
            price: self.price.split_off(first),
            columns: self.columns.split_off(first * width),
            rejected,
        };
        rest.entry.iter_mut().for_each(|of| *of -= entry);
        rest.rejected.iter_mut().for_each(|(of, _)| *of -= entry);
        rest
    }
}

impl Entries {
    /// Reserves room for this number of further entries, fields, and bytes of all names and values.
    pub fn reserve(&mut self, entries: usize, fields: usize, bytes: usize) {
        self.entries.reserve(entries);
        self.fields.reserve(fields);
        self.bytes.reserve(bytes);
    }

    /// Starts the next entry, which the fields that follow belong to.
    pub fn push_entry(&mut self, id: EntryId) {
        let at = self.fields.len();
        self.entries.push((id, at..at));
    }

    /// Adds a field to the last entry.
    ///
    /// # Panics
    /// When there is no entry.
    pub fn push_field(&mut self, name: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.fields.push((start..middle, middle..self.bytes.len()));
        let (_, fields) = self.entries.last_mut().expect("a field follows its entry");
        fields.end = self.fields.len();
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The id of the first entry.
    pub fn first(&self) -> Option<EntryId> {
        self.entries.first().map(|(id, _)| *id)
    }

    /// The id of the last entry.
    pub fn last(&self) -> Option<EntryId> {
        self.entries.last().map(|(id, _)| *id)
    }

    /// The id of the entry at `index`.
    pub fn id(&self, index: usize) -> Option<EntryId> {
        self.entries.get(index).map(|(id, _)| *id)
    }

    /// Keeps only the entries whose ids `keep` accepts.
    pub fn retain(&mut self, keep: impl Fn(EntryId) -> bool) {
        self.entries.retain(|(id, _)| keep(*id));
    }

    /// Takes out the entries from `at` on, with the memory that they take.
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut entries = self.entries.split_off(at.min(self.entries.len()));
        // Fields and bytes are in the order of the entries, even after some were removed.
        let first_field = entries.first().map_or(self.fields.len(), |(_, fields)| fields.start);
        let first_byte = self.fields.get(first_field).map_or(self.bytes.len(), |(name, _)| name.start);
        let mut fields = self.fields.split_off(first_field);
        let bytes = self.bytes.split_off(first_byte);
        entries.iter_mut().for_each(|(_, range)| *range = range.start - first_field..range.end - first_field);
        for range in fields.iter_mut().flat_map(|(name, value)| [name, value]) {
            *range = range.start - first_byte..range.end - first_byte;
        }
        self.entries.shrink_to_fit();
        self.fields.shrink_to_fit();
        self.bytes.shrink_to_fit();
        let decoded = self.decoded.as_mut().map(|decoded| Box::new(decoded.split_off(at as u32)));
        Self { entries, fields, bytes, decoded }
    }

    /// The entry at `index`, in stream order.
    pub fn get(&self, index: usize) -> Option<Entry<'_>> {
        let (id, fields) = self.entries.get(index)?;
        Some(Entry { id: *id, bytes: &self.bytes, fields: &self.fields[fields.clone()] })
    }

    /// The entries in stream order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.entries.iter().map(|(id, fields)| Entry {
            id: *id,
            bytes: &self.bytes,
            fields: &self.fields[fields.clone()],
        })
    }
}

/// One undecoded entry: its id, and its fields as the producer wrote them.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The entry's id.
    pub id: EntryId,
    bytes: &'a [u8],
    fields: &'a [(Range<usize>, Range<usize>)],
}

impl<'a> Entry<'a> {
    /// The name and the value of each field in the producer's order. Names may repeat.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.fields.iter().map(move |(name, value)| (&bytes[name.clone()], &bytes[value.clone()]))
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.fields().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// The symbol of a clock row, which says that event time has reached a whole second.
pub const CLOCK: u32 = u32::MAX;

/// The positions of the standard columns in [`Batch::columns`], which those of `[input.extra]` follow.
pub mod column {
    /// The quantity traded since the symbol's previous tick, >= 0, in the venue's units.
    pub const QUANTITY: usize = 0;
    /// The quantity traded in the session so far. It falls only where counting starts again, with a session or within
    /// it.
    pub const CUM_VOLUME: usize = 1;
    /// The best bid, quote currency, > 0.
    pub const BID: usize = 2;
    /// The best ask, quote currency, > 0.
    pub const ASK: usize = 3;
    /// The quantity at the best bid, >= 0.
    pub const BID_QUANTITY: usize = 4;
    /// The quantity at the best ask, >= 0.
    pub const ASK_QUANTITY: usize = 5;
    /// The open interest as published, >= 0.
    pub const OI: usize = 6;
    /// A bit set of [`super::flag`]: an integer, never NaN.
    pub const FLAGS: usize = 7;
    /// A published `volume` that may be per tick or cumulative, >= 0.
    pub const VOLUME: usize = 8;
    /// The names by position, as in manifests and `config.toml`.
    pub const NAMES: [&str; 9] =
        ["quantity", "cum_volume", "bid", "ask", "bid_quantity", "ask_quantity", "oi", "flags", "volume"];
}

/// The bits of the `flags` column.
pub mod flag {
    /// The producer's time was missing or implausible, and was estimated from the entry's arrival.
    pub const TIME_ESTIMATED: u32 = 1;
    /// The producer's time was before that of the symbol's previous tick, and was raised to it.
    pub const OUT_OF_ORDER: u32 = 2;
    /// The cumulative volume fell without a new session, and the fall was ignored.
    pub const VOLUME_REPAIRED: u32 = 4;
    /// There was no trade, only a change of quotes or open interest; the price is the last one.
    pub const QUOTE_ONLY: u32 = 8;
    /// The tick is the symbol's first one in a new session.
    pub const SESSION_START: u32 = 16;
    /// The tick is from the pre-open of a session.
    pub const PRE_OPEN: u32 = 32;
    /// The tick is from outside of the session and its pre-open.
    pub const OFF_SESSION: u32 = 64;
}

/// One tick, to be added to a batch. `Time` is optional where ticks may have none.
#[derive(Clone, Copy, Debug)]
pub struct TickRow<'a, Time> {
    /// The index of the tick's entry in the read.
    pub entry: u32,
    /// The number of the symbol.
    pub symbol: u32,
    /// The event time, ns since the Unix epoch, UTC.
    pub time: Time,
    /// The last traded price, quote currency; NaN where absent.
    pub price: f64,
    /// The value of each column.
    pub columns: &'a [f64],
}

/// Rows of ticks by column: what one shard receives of one read, and what a guest call is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The index of the row's entry in the read.
    pub entry: Vec<u32>,
    /// The interned symbol, or [`CLOCK`].
    pub symbol: Vec<u32>,
    /// The event time, ns since the Unix epoch, UTC.
    pub time: Vec<u64>,
    /// The last traded price, quote currency; NaN on clock rows, and before normalization where absent.
    pub price: Vec<f64>,
    /// The group whose state the row is for, or [`CLOCK`]; empty if states belong to symbols.
    pub group: Vec<u32>,
    /// The position of the row's feed in its view, 0 for a clock row; empty if the only feed is ticks. Bit 7 marks the last row of
    /// a snapshot.
    pub feed: Vec<u8>,
    /// The standard columns, then the extra ones; NaN where absent. A column that no detector reads may be empty.
    pub columns: Vec<Vec<f64>>,
}

impl Batch {
    /// An empty batch of `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self::with_capacity(columns, 0)
    }

    /// An empty batch of `columns` columns, with room for `rows` rows.
    pub fn with_capacity(columns: usize, rows: usize) -> Self {
        Self {
            entry: Vec::with_capacity(rows),
            symbol: Vec::with_capacity(rows),
            time: Vec::with_capacity(rows),
            price: Vec::with_capacity(rows),
            group: Vec::new(),
            feed: Vec::new(),
            columns: (0..columns).map(|_| Vec::with_capacity(rows)).collect(),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.symbol.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.symbol.is_empty()
    }

    /// Adds a row.
    #[inline]
    pub fn push(&mut self, row: TickRow<'_, u64>) {
        debug_assert_eq!(row.columns.len(), self.columns.len(), "a row fills every column");
        self.entry.push(row.entry);
        self.symbol.push(row.symbol);
        self.time.push(row.time);
        self.price.push(row.price);
        for (column, value) in self.columns.iter_mut().zip(row.columns) {
            column.push(*value);
        }
    }

    /// Copies a range of rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        Self {
            entry: self.entry[rows.clone()].to_vec(),
            symbol: self.symbol[rows.clone()].to_vec(),
            time: self.time[rows.clone()].to_vec(),
            price: self.price[rows.clone()].to_vec(),
            group: part(&self.group, &rows),
            feed: part(&self.feed, &rows),
            columns: self.columns.iter().map(|column| part(column, &rows)).collect(),
        }
    }

    /// Removes the ticks of `entry`, which must be the last ones, and returns their number. Clock rows stay.
    pub fn take_back(&mut self, entry: u32) -> usize {
        let first = self.entry.partition_point(|from| *from < entry);
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

    /// Adds a clock row: event time reached `time` just before `entry`.
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

/// Copies a range of a list that is either empty or has a value for each row.
fn part<T: Copy>(list: &[T], rows: &Range<usize>) -> Vec<T> {
    list.get(rows.clone()).unwrap_or_default().to_vec()
}

/// The direction in which a detector saw the price move, or expects it to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Up.
    Up,
    /// Down.
    Down,
    /// The detection has no direction.
    None,
}

impl Direction {
    /// The names of all directions.
    pub const NAMES: [&str; 3] = [Self::Up.as_str(), Self::Down.as_str(), Self::None.as_str()];

    /// The name of the direction in alerts.
    pub const fn as_str(self) -> &'static str {
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
    /// `<entry id>/<detector>/<ordinal>`: the same each time the entry is processed.
    pub id: String,
    /// The name of the detector.
    pub detector: String,
    /// The name of its plugin.
    pub plugin: String,
    /// The version of its plugin.
    pub version: String,
    /// The code and the settings that raised it.
    pub origin: AlertOrigin,
    /// The symbol, as detectors see it.
    pub symbol: String,
    /// The venue that the symbol names, or that its ticks had named by then; empty if neither does.
    pub venue: String,
    /// The group whose detector raised it; empty if a symbol's did.
    pub group: String,
    /// The symbols that make up the event of a group.
    pub members: Vec<String>,
    /// The event time, ns since the Unix epoch, UTC.
    pub time: u64,
    /// The price at that time, quote currency; NaN if no price is known.
    pub price: f64,
    /// The confidence from 0 to 1, as the detector defines it.
    pub confidence: f64,
    /// The direction of the move.
    pub direction: Direction,
    /// The numbers that let a person check the alert, with their names.
    pub evidence: Vec<(String, f64)>,
    /// The entry that caused the alert.
    pub entry: EntryId,
    /// The time from the entry's arrival to its commit, ms; 0 if the clocks disagree.
    pub lag_ms: u64,
    /// Whether the entry was read again after a crash or a takeover.
    pub recovered: bool,
    /// Whether `lag_ms` exceeds `alerts.stale_after_ms`.
    pub stale: bool,
}

/// Which code raised an alert, with which settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertOrigin {
    /// The first [`CODE_DIGITS`] digits of the SHA-256 of the plugin's file.
    pub sha256: String,
    /// The first [`CODE_DIGITS`] digits of the SHA-256 of all parameters with their values.
    pub params_hash: String,
    /// The number of the generation that was active at the entry, counted from the start of the host.
    pub generation: u64,
    /// The first [`CODE_DIGITS`] digits of the SHA-256 of the reference data; empty if there is none.
    pub reference: String,
}

/// How many digits of a SHA-256 an alert has: 48 bits tell a million versions of a plugin apart, and are short enough to
/// read.
pub const CODE_DIGITS: usize = 12;

/// An entry that could not be processed, or on which one detector failed.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Why it could not be processed, as a sentence.
    pub reason: String,
    /// The entry.
    pub entry: EntryId,
    /// The detector that failed, if one did.
    pub blamed: Option<DetectorFault>,
    /// The entry's fields as a JSON object, from which the entry can be restored.
    pub raw: String,
}

/// A detector that failed, as it was then.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorFault {
    /// The name of the detector.
    pub detector: String,
    /// The name of its plugin, as the plugin's manifest has it.
    pub plugin: String,
    /// The version of its plugin.
    pub version: String,
    /// The SHA-256 of the plugin's file, hexadecimal.
    pub sha256: String,
    /// The values of all parameters, as a JSON object.
    pub params: String,
}

/// The event time of a partition, as of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The latest event time, ns since the Unix epoch; 0 before the first tick.
    pub time: u64,
    /// The time from the latest tick with a time to its entry's arrival, ms, or 0 in a feed that is taken to have no times;
    /// `None` before either is known.
    pub delay_ms: Option<i64>,
    /// The number of ticks without a time before the first one with a time. If it is so large that the feed is taken to
    /// have none, ticks with a time reduce it, and those without raise it again.
    pub unstamped: u64,
    /// The ticks far behind those of before that came last.
    pub behind: TicksBehind,
}

/// Successive ticks far behind earlier ones of their symbols, which may show that the feed's clock went back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicksBehind {
    /// The time of the first of them, ns since the Unix epoch.
    pub since: u64,
    /// The latest time among them, ns since the Unix epoch.
    pub time: u64,
    /// The number of them; 0 if there are none.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first part of a divided read kept the bytes of the rest, so that a read that was divided often was in memory once
    /// for each part.
    #[test]
    fn the_parts_of_divided_entries_have_their_own_fields_and_no_others() {
        let build = || {
            let mut entries = Entries::default();
            for seq in 0..40 {
                entries.push_entry(EntryId { millis: 1, seq });
                for field in 0..seq % 3 {
                    entries.push_field(format!("f{field}").as_bytes(), &[seq as u8; 100]);
                }
            }
            // Not every entry of a read is processed.
            entries.retain(|id| id.seq % 7 != 5);
            entries
        };
        type Fields = Vec<(Vec<u8>, Vec<u8>)>;
        let fields = |entry: Entry<'_>| entry.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let texts = |entries: &Entries| -> Vec<(EntryId, Fields)> {
            entries.iter().map(|entry| (entry.id, fields(entry))).collect()
        };
        let whole = build();
        for at in 0..=whole.len() + 1 {
            let mut first = build();
            let mut rest = first.split_off(at);
            assert_eq!([texts(&first), texts(&rest)].concat(), texts(&whole), "divided at {at}");
            assert_eq!(first.len(), at.min(whole.len()));
            assert_eq!(first.bytes() + rest.bytes(), whole.bytes());
            assert!(first.bytes.capacity() <= first.bytes() + 64, "{} of {}", first.bytes.capacity(), first.bytes());
            rest.push_entry(EntryId { millis: 2, seq: 0 });
            rest.push_field(b"name", b"value");
            assert_eq!(rest.get(rest.len() - 1).unwrap().field(b"name"), Some(b"value".as_slice()));
        }
    }
}
