//! Where the values of a detector's rows come from: resolved once, when a generation is built, so that a call only copies.

use serde::{Deserialize, Serialize};

use super::view::View;
use tickhound_core::event::{Batch, CLOCK};

/// Where the values of a column come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ColumnSource {
    /// The column at this position of a batch.
    Batch(usize),
    /// The constant of the row's symbol at this position, from the reference data.
    Constant(usize),
    /// An optional column that there is not: NaN.
    Absent,
}

/// On which side of a column the price wakes a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WakeSide {
    Above,
    Below,
}

/// A condition under which a tick reaches a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WakeCondition {
    pub(super) side: WakeSide,
    /// The position of the column among those of the detector.
    pub(super) column: usize,
}

/// How the rows of a detector are made from batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Wiring {
    pub(super) view: View,
    /// The source of each column that the plugin asks for, computed ones included.
    pub(super) columns: Vec<ColumnSource>,
    /// The conditions of which one must hold for a tick; empty: every tick reaches the detector.
    pub(super) wakes: Vec<WakeCondition>,
    /// The columns of the reference data that are constants of this detector.
    pub(super) constants: Vec<usize>,
    /// The text column of each text that the plugin asks for; `None` for an optional one that there is not.
    pub(super) texts: Vec<Option<usize>>,
}

/// The constants of symbols, by their ids.
#[derive(Debug, Default)]
pub(super) struct Constants {
    /// The number of constants of a symbol.
    pub(super) columns: usize,
    /// Those of the first symbol, then those of the next one.
    pub(super) values: Vec<f64>,
}

impl Constants {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, values: Vec::new() }
    }

    pub(super) fn set(&mut self, symbol: u32, values: &[f64]) {
        let start = symbol as usize * self.columns;
        self.values.resize(self.values.len().max(start + self.columns), f64::NAN);
        self.values[start..start + self.columns].copy_from_slice(values);
    }

    /// Returns a constant of a symbol; NaN if it has none.
    pub(super) fn get(&self, symbol: u32, column: usize) -> f64 {
        if symbol == CLOCK {
            return f64::NAN;
        }
        self.values.get(symbol as usize * self.columns + column).copied().unwrap_or(f64::NAN)
    }
}

impl Wiring {
    /// Returns the positions in a batch of the columns that are read.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().filter_map(|source| match source {
            ColumnSource::Batch(position) => Some(*position),
            ColumnSource::Constant(_) | ColumnSource::Absent => None,
        })
    }

    /// Returns whether a row of a batch reaches the detector: each row that is not a tick does, and a tick for which one of the
    /// conditions holds.
    ///
    /// It depends on the row alone, so that the same rows reach a detector however they are divided into batches.
    pub(super) fn wakes(&self, batch: &Batch, row: usize, constants: &Constants) -> bool {
        let is_tick = batch.symbol[row] != CLOCK && self.feed_is_ticks(batch.feed.get(row).copied().unwrap_or(0));
        if self.wakes.is_empty() || !is_tick {
            return true;
        }
        let price = batch.price[row];
        self.wakes.iter().any(|WakeCondition { side, column }| {
            let limit = match self.columns[*column] {
                ColumnSource::Batch(position) => {
                    batch.columns.get(position).and_then(|values| values.get(row)).copied()
                }
                ColumnSource::Constant(position) => Some(constants.get(batch.symbol[row], position)),
                ColumnSource::Absent => None,
            };
            let limit = limit.unwrap_or(f64::NAN);
            limit.is_nan()
                || match side {
                    WakeSide::Above => price > limit,
                    WakeSide::Below => price < limit,
                }
        })
    }

    fn feed_is_ticks(&self, feed: u8) -> bool {
        self.view.feeds.get(usize::from(feed)) == Some(&super::view::Feed::Ticks)
    }
}
