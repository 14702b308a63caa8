//! Views: which rows a detector sees, and whose state they go to. Detectors of the same view share its rows.

use rustc_hash::FxHashMap;
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

/// Marks the last row of each step of a snapshot, of each state, and no other row. Called on the rows that a detector sees:
/// when some symbols are left out, another row may be the last one. All rows of a step must be there.
pub fn mark_last_rows(batch: &mut Batch, view: &View) {
    let Batch { symbol, group, time, feed, .. } = batch;
    let mut step_of_state: FxHashMap<(u32, u8), u64> = FxHashMap::default();
    for row in (0..feed.len()).rev().filter(|row| symbol[*row] != CLOCK) {
        let number = feed[row] & !LAST_OF_SNAPSHOT;
        if !matches!(view.feeds.get(usize::from(number)), Some(Feed::Snapshots(_))) {
            continue;
        }
        let owner = if view.has_groups() { group[row] } else { symbol[row] };
        let is_last = step_of_state.insert((owner, number), time[row]) != Some(time[row]);
        feed[row] = if is_last { number | LAST_OF_SNAPSHOT } else { number };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::TickRow;

    #[test]
    fn the_last_row_of_a_step_is_marked_for_each_state() {
        let feeds = vec![Feed::Ticks, Feed::Snapshots(1)];
        let groups = View { scope: Scope::Group, families: vec!["banks".into()], feeds: feeds.clone() };
        let mut batch = Batch::new(0);
        let rows = [(1, 10, 1, 5), (2, 10, 1, 5), (3, 11, 1, 5), (1, 10, 0, 6), (1, 10, 1, 7), (3, 11, 1, 7)];
        for (symbol, group, feed, time) in rows {
            batch.push(TickRow { entry: 0, symbol, time, price: 1.0, columns: &[] });
            batch.group.push(group);
            // Marks of rows that were left out may be there.
            batch.feed.push(feed | (LAST_OF_SNAPSHOT * u8::from(feed == 1)));
        }
        mark_last_rows(&mut batch, &groups);
        assert_eq!(batch.feed, [1, 0x81, 0x81, 0, 0x81, 0x81]);
        mark_last_rows(&mut batch, &View { scope: Scope::Symbol, families: Vec::new(), feeds });
        assert_eq!(batch.feed, [0x81, 0x81, 0x81, 0, 0x81, 0x81]);
    }
}
