//! The rows that a test feeds.

use crate::shape::RowKind;

/// Returns a tick of a symbol, `seconds` after the Unix epoch. [`Row::with`] adds columns.
///
/// ```
/// use tickhound_sdk::harness::tick;
/// let row = tick("NIFTY", 1.5, 100.0).with("quantity", 75.0);
/// ```
pub fn tick(symbol: &str, seconds: f64, price: f64) -> Row {
    row(Kind::Tick, symbol, seconds, price)
}

/// Returns a tick of a member of a group.
///
/// ```
/// use tickhound_sdk::harness::group_tick;
/// let row = group_tick("NIFTY", "NIFTY25NOV25750CE", 1.5, 100.0);
/// ```
pub fn group_tick(group: &str, symbol: &str, seconds: f64, price: f64) -> Row {
    tick(symbol, seconds, price).in_group(group)
}

/// Returns a bar with this open, high, low and close, which ends `seconds` after the Unix epoch. It has one tick, and neither
/// quantity nor VWAP, unless [`Row::with`] sets `count`, `quantity` and `vwap`.
///
/// ```
/// use tickhound_sdk::harness::bar;
/// let row = bar("SBIN", 60.0, [800.0, 802.0, 799.5, 801.0]).with("quantity", 5000.0).with("vwap", 800.7);
/// ```
pub fn bar(symbol: &str, seconds: f64, [open, high, low, close]: [f64; 4]) -> Row {
    let row = row(Kind::Bar, symbol, seconds, close);
    row.with("open", open).with("high", high).with("low", low).with("count", 1.0)
}

/// Returns a row of a snapshot that is taken `seconds` after the Unix epoch. [`Row::last`] marks the last row of a step.
///
/// ```
/// use tickhound_sdk::harness::snapshot;
/// let step = [snapshot("SBIN", 60.0, 801.0).in_group("banks"), snapshot("YESBANK", 60.0, 21.5).in_group("banks").last()];
/// ```
pub fn snapshot(symbol: &str, seconds: f64, price: f64) -> Row {
    row(Kind::Snapshot, symbol, seconds, price)
}

/// A row for the harness, made by [`tick`], [`group_tick`], [`bar`] or [`snapshot`].
///
/// ```
/// use tickhound_sdk::harness::{Row, tick};
///
/// fn quote(bid: f64, ask: f64) -> Row {
///     tick("NIFTY", 0.0, 100.0).with("bid", bid).with("ask", ask).at_nanos(1_500_000_001)
/// }
///
/// let row = quote(99.95, 100.05);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Row {
    pub(super) symbol: String,
    pub(super) group: Option<String>,
    pub(super) time: u64,
    pub(super) price: f64,
    kind: Kind,
    is_last: bool,
    /// The length of its feed in seconds, if the test says it.
    length: Option<u32>,
    columns: Vec<(String, f64)>,
    texts: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tick,
    Bar,
    Snapshot,
}

impl Row {
    /// Sets the value of a column. By default `flags` is 0, and every other column is NaN. Columns that the detector doesn't
    /// ask for are ignored.
    pub fn with(mut self, column: &str, value: f64) -> Self {
        self.columns.push((column.into(), value));
        self
    }

    /// Sets a text of the symbol's reference data. The symbol has the texts of its first row.
    pub fn with_text(mut self, name: &str, text: &str) -> Self {
        self.texts.push((name.into(), text.into()));
        self
    }

    /// Sets the group whose state the row is for.
    pub fn in_group(mut self, group: &str) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Marks the last row of a snapshot's step.
    pub fn last(mut self) -> Self {
        self.is_last = true;
        self
    }

    /// Sets the length of the row's feed in seconds, for a detector with several feeds of bars or snapshots. By default it is
    /// the first one.
    pub fn of_length(mut self, seconds: u32) -> Self {
        self.length = Some(seconds);
        self
    }

    /// Sets the event time in ns since the Unix epoch, if seconds are not precise enough.
    pub fn at_nanos(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    pub(super) fn column(&self, name: &str) -> f64 {
        let absent = if name == "flags" { 0.0 } else { f64::NAN };
        self.columns.iter().rfind(|(n, _)| n == name).map_or(absent, |(_, value)| *value)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.texts.iter().rfind(|(n, _)| n == name).map(|(_, text)| text.clone())
    }

    pub(super) fn is_tick(&self) -> bool {
        self.kind == Kind::Tick
    }

    pub(super) fn is_snapshot(&self) -> bool {
        self.kind == Kind::Snapshot
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Returns the index of the row's feed.
    pub(super) fn feed(&self, feeds: &[RowKind]) -> u8 {
        let is_length = |length: u32| self.length.is_none_or(|wanted| wanted == length);
        let position = feeds.iter().position(|feed| match (self.kind, feed) {
            (Kind::Tick, RowKind::Tick) => true,
            (Kind::Bar, RowKind::Bar(length)) | (Kind::Snapshot, RowKind::Snapshot(length)) => is_length(*length),
            _ => false,
        });
        match position {
            Some(position) => position as u8,
            None => panic!("the detector has no feed for this row: {self:?}"),
        }
    }
}

fn row(kind: Kind, symbol: &str, seconds: f64, price: f64) -> Row {
    Row {
        symbol: symbol.into(),
        group: None,
        time: (seconds * 1e9).round() as u64,
        price,
        kind,
        is_last: false,
        length: None,
        columns: Vec::new(),
        texts: Vec::new(),
    }
}
