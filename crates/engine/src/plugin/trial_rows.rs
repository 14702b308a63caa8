//! The made-up rows of a trial: a few seconds of wandering prices, volumes, quotes and clock rows; with bars and snapshots for a
//! detector that reads them. They are the same in each trial.

use serde::{Deserialize, Serialize};

use super::{
    columns::BatchColumns,
    view::{Feed, GROUP_MARK, LAST_OF_SNAPSHOT, Scope, View},
};
use tickhound_core::event::{Batch, CLOCK, TickRow, column};

/// The number of made-up symbols.
const SYMBOLS: u32 = 16;

/// The number of made-up groups, unless all symbols are one.
const GROUPS: u32 = 4;

/// Ticks in a batch, so that it holds several of each symbol.
const ROWS: u64 = 256;

/// Event time of the first tick: 2025-11-03 09:15 in India, ns since the Unix epoch.
const OPEN: u64 = 1_762_141_500_000_000_000;

/// Time between two ticks, ns, which makes four ticks per second and symbol.
const STEP: u64 = 15_625_000;

/// The rows of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrialRows {
    view: View,
    /// The number of columns of a batch.
    width: usize,
    /// The position of the first column of bars.
    bars: usize,
}

impl TrialRows {
    pub(super) fn new(view: &View, columns: &BatchColumns) -> Self {
        Self { view: view.clone(), width: columns.width(), bars: columns.bars() }
    }

    /// Returns the names of the symbols, then those of the groups, by their ids.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = (0..SYMBOLS).map(|number| format!("TRIAL{number}")).collect();
        match self.view.scope {
            Scope::Symbol => {}
            Scope::Group => names.extend((0..GROUPS).map(|number| format!("{GROUP_MARK}trial/GROUP{number}"))),
            Scope::Market => names.push(format!("{GROUP_MARK}market")),
        }
        names
    }

    /// Returns the rows of a quarter of the trial.
    pub(super) fn batch(&self, number: u64) -> Batch {
        debug_assert!(self.width >= column::NAMES.len());
        let mut batch = Batch::new(self.width);
        let mut row = vec![f64::NAN; self.width];
        for tick in number * ROWS..(number + 1) * ROWS {
            let time = OPEN + tick * STEP;
            let entry = tick as u32;
            if tick % 64 == 0 {
                self.push_second(&mut batch, entry, time);
                batch.push_clock(entry, time);
                self.note(&mut batch, CLOCK, 0);
            }
            let symbol = (tick % u64::from(SYMBOLS)) as u32;
            let price = fill(&mut row, tick);
            if let Some(feed) = self.view.feeds.iter().position(|feed| *feed == Feed::Ticks) {
                batch.push(TickRow { entry, symbol, time, price, columns: &row });
                self.note(&mut batch, symbol, feed as u8);
            }
        }
        batch
    }

    /// Adds the bars and the snapshots that end at a second.
    fn push_second(&self, batch: &mut Batch, entry: u32, time: u64) {
        let mut row = vec![f64::NAN; self.width];
        let feeds = (0u8..).zip(&self.view.feeds);
        let (bars, snapshots): (Vec<_>, Vec<_>) =
            feeds.filter(|(_, feed)| **feed != Feed::Ticks).partition(|(_, feed)| matches!(feed, Feed::Bars(_)));
        for (feed, kind) in bars.into_iter().chain(snapshots) {
            for symbol in 0..SYMBOLS {
                let price = fill(&mut row, u64::from(entry + symbol));
                let is_bar = matches!(kind, Feed::Bars(_));
                let [open, high, low, vwap, count] = [price - 0.05, price + 0.1, price - 0.1, price, 4.0];
                let of_bar = if is_bar { [open, high, low, vwap, count] } else { [f64::NAN; 5] };
                row[self.bars..self.bars + of_bar.len()].copy_from_slice(&of_bar);
                batch.push(TickRow { entry, symbol, time, price, columns: &row });
                self.note(batch, symbol, if is_bar { feed } else { feed | self.last_bit(symbol) });
            }
        }
    }

    /// Adds group and feed of the row that was pushed last.
    fn note(&self, batch: &mut Batch, symbol: u32, feed: u8) {
        if self.view.has_groups() {
            batch.group.push(if symbol == CLOCK { CLOCK } else { self.group(symbol) });
        }
        if self.view.has_feeds() {
            batch.feed.push(feed);
        }
    }

    fn group(&self, symbol: u32) -> u32 {
        if self.view.scope == Scope::Market { SYMBOLS } else { SYMBOLS + symbol % GROUPS }
    }

    /// Returns the bit of the last row of a snapshot, if a symbol's is the last one of its state.
    fn last_bit(&self, symbol: u32) -> u8 {
        let rows_behind = match self.view.scope {
            Scope::Symbol => 0,
            Scope::Group => (SYMBOLS - 1 - symbol) / GROUPS,
            Scope::Market => SYMBOLS - 1 - symbol,
        };
        if rows_behind == 0 { LAST_OF_SNAPSHOT } else { 0 }
    }
}

/// Fills the columns of the input for a tick, and returns its price.
fn fill(row: &mut [f64], tick: u64) -> f64 {
    let symbol = (tick % u64::from(SYMBOLS)) as u32;
    let chance = (tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24);
    let price = (100.0 + f64::from(symbol)) * (1.0 + 0.01 * (tick as f64 / 97.0).sin()) + 0.05 * (chance * 8.0).floor();
    let quantity = (chance * 100.0).floor();
    row[column::QUANTITY] = quantity;
    row[column::CUM_VOLUME] = tick as f64 * 100.0 + quantity;
    row[column::BID] = price - 0.05;
    row[column::ASK] = price + 0.05;
    row[column::BID_QUANTITY] = 50.0 + quantity;
    row[column::ASK_QUANTITY] = 150.0 - quantity;
    row[column::OI] = 10_000.0;
    row[column::FLAGS] = 0.0;
    row[column::VOLUME] = row[column::CUM_VOLUME];
    price
}

const _: () = assert!(STEP * 64 == 1_000_000_000, "clock rows stand at whole seconds");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_made_up_ticks_are_within_the_contract() {
        let width = column::NAMES.len();
        let rows = TrialRows { view: View::default(), width, bars: width };
        let (mut time, mut volume) = ([0; SYMBOLS as usize], [0.0; SYMBOLS as usize]);
        for number in 0..4 {
            let batch = rows.batch(number);
            for row in 0..batch.len() {
                if batch.symbol[row] == CLOCK {
                    assert_eq!(batch.time[row] % 1_000_000_000, 0);
                    continue;
                }
                let symbol = batch.symbol[row] as usize;
                assert!(batch.time[row] > time[symbol] && batch.price[row] > 0.0);
                assert!(batch.columns[column::QUANTITY][row] >= 0.0);
                assert!(batch.columns[column::CUM_VOLUME][row] >= volume[symbol]);
                time[symbol] = batch.time[row];
                volume[symbol] = batch.columns[column::CUM_VOLUME][row];
            }
        }
    }
}
