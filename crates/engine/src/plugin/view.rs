//! Views: which rows a detector sees, and whose state they go to. Detectors of the same view share its rows.

use serde::{Deserialize, Serialize};

use tickhound_core::event::{Batch, CLOCK};

/// The first character of the name under which a group is interned, which no symbol has. The name of its family and `/` follow,
/// and then its own name; of the group of all symbols, its own name alone.
pub const GROUP_MARK: char = '\0';

/// The bit of a row's feed that marks the last row of a snapshot, of one symbol or group.
pub const LAST_OF_SNAPSHOT: u8 = 0x80;

/// What a state belongs to, and which rows one state sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One symbol.
    #[default]
    Symbol,
    /// A group of symbols.
    Group,
    /// All symbols: they are one group.
    Market,
}

/// What a row is, with its length in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// A tick.
    Ticks,
    /// A bar of so many seconds.
    Bars(u32),
    /// What was known of a symbol at a step, of which there is one each so many seconds.
    Snapshots(u32),
}

/// Which rows a detector sees. A row's feed is a position in [`Self::feeds`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct View {
    /// What its states belong to.
    pub scope: Scope,
    /// The families whose groups it sees, sorted; empty unless the scope is a group.
    pub families: Vec<String>,
    /// What its rows are, in the order of the manifest. No two are equal.
    pub feeds: Vec<Feed>,
}

impl Scope {
    /// Returns the name, as in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Symbol => "symbol",
            Self::Group => "group",
            Self::Market => "market",
        }
    }
}

impl std::fmt::Display for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ticks => f.write_str("ticks"),
            Self::Bars(seconds) => write!(f, "bars of {seconds} s"),
            Self::Snapshots(seconds) => write!(f, "snapshots each {seconds} s"),
        }
    }
}

impl Default for View {
    /// The view of contract 0.1: ticks of symbols.
    fn default() -> Self {
        Self { scope: Scope::Symbol, families: Vec::new(), feeds: vec![Feed::Ticks] }
    }
}

impl View {
    /// Returns whether states belong to groups, so that rows say to which.
    pub fn has_groups(&self) -> bool {
        self.scope != Scope::Symbol
    }

    /// Returns whether rows say from which feed they are.
    pub fn has_feeds(&self) -> bool {
        self.feeds != [Feed::Ticks]
    }

    /// Returns whether this is the view of contract 0.1.
    pub fn is_of_ticks(&self) -> bool {
        !self.has_groups() && !self.has_feeds()
    }
}

/// Returns the feed of a row for a detector that does not see all symbols, with [`LAST_OF_SNAPSHOT`] where the row is the last
/// one of a snapshot that the detector sees of the state. `batch` has all rows of the view, and the marks for those who see
/// all symbols.
pub(crate) fn feed_of_row(batch: &Batch, view: &View, row: usize, sees: impl Fn(u32) -> bool) -> u8 {
    let Batch { entry, symbol, group, feed, .. } = batch;
    let number = feed[row] & !LAST_OF_SNAPSHOT;
    // Each row of a symbol is a snapshot of its own.
    if !view.has_groups() || !matches!(view.feeds.get(usize::from(number)), Some(Feed::Snapshots(_))) {
        return feed[row];
    }
    // The rows of a snapshot follow each other, and the next row of the state is usually near.
    let is_behind = |other: &usize| {
        entry[*other] == entry[row] && symbol[*other] != CLOCK && feed[*other] & !LAST_OF_SNAPSHOT == number
    };
    let mut behind = (row + 1..feed.len()).take_while(is_behind);
    let has_next = behind.any(|other| group[other] == group[row] && sees(symbol[other]));
    if has_next { number } else { number | LAST_OF_SNAPSHOT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::TickRow;

    /// A detector that sees only some members of a group never had a last row if the last member was not among them.
    #[test]
    fn the_last_row_of_a_snapshot_is_the_last_one_that_a_detector_sees() {
        let feeds = vec![Feed::Ticks, Feed::Snapshots(1), Feed::Snapshots(5)];
        let view = View { scope: Scope::Group, families: vec!["banks".into()], feeds: feeds.clone() };
        let mut batch = Batch::new(0);
        let last = LAST_OF_SNAPSHOT;
        // The first step, one of the other length at the same place, a clock row, a tick, and the next step.
        let rows = [
            (1, 10, 1),
            (2, 10, 1),
            (3, 11, 1 | last),
            (4, 10, 1 | last),
            (1, 10, 2),
            (4, 10, 2 | last),
            (CLOCK, CLOCK, 0),
            (1, 10, 0),
            (1, 10, 1),
            (4, 10, 1 | last),
        ];
        for (at, (symbol, group, feed)) in rows.into_iter().enumerate() {
            let entry = if at < 8 { 0 } else { 1 };
            batch.push(TickRow { entry, symbol, time: u64::from(entry), price: 1.0, columns: &[] });
            batch.group.push(group);
            batch.feed.push(feed);
        }
        let seen = |symbols: &[u32]| -> Vec<u8> {
            let sees = |symbol: u32| symbols.contains(&symbol);
            let rows = (0..batch.len()).filter(|row| sees(batch.symbol[*row]));
            rows.map(|row| feed_of_row(&batch, &view, row, sees)).collect()
        };
        assert_eq!(seen(&[1, 2, 3]), [1, 1 | last, 1 | last, 2 | last, 0, 1 | last]);
        assert_eq!(seen(&[2, 4]), [1, 1 | last, 2 | last, 1 | last]);
        assert_eq!(seen(&[1, 4]), [1, 1 | last, 2, 2 | last, 0, 1, 1 | last]);
        let symbols = View { scope: Scope::Symbol, families: Vec::new(), feeds };
        assert_eq!(feed_of_row(&batch, &symbols, 2, |_| true), 1 | last);
    }
}
