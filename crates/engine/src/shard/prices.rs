//! The last price of each symbol of a shard, for alerts that are raised on clock rows.

use rustc_hash::FxHashSet;

use tickhound_core::event::{Batch, CLOCK};

/// The last prices as of the end of the last batch, by symbol id; NaN where none is known.
#[derive(Default)]
pub(super) struct LastPrices {
    last: Vec<f64>,
}

impl LastPrices {
    /// The price of a symbol at the clock row of this time, before an entry of the next batch.
    pub(super) fn at_clock(&self, symbol: u32, (entry, time): (u32, u64), batch: &Batch) -> f64 {
        let first = batch.entry.partition_point(|other| *other < entry);
        let is_it = |row: &usize| batch.symbol[*row] == CLOCK && batch.time[*row] == time;
        // Every shard has every clock row.
        let row = (first..batch.len()).find(is_it).unwrap_or(first);
        self.at(symbol, row, batch)
    }

    /// The price of a symbol at a clock row of the next batch: the price of its last row before that one, or else the last
    /// price before the batch. An alert must not depend on how ticks are divided into batches.
    fn at(&self, symbol: u32, clock_row: usize, batch: &Batch) -> f64 {
        let before = batch.symbol[..clock_row].iter().rposition(|other| *other == symbol);
        before.map_or_else(|| self.last.get(symbol as usize).copied().unwrap_or(f64::NAN), |row| batch.price[row])
    }

    /// Notes the prices of a batch.
    pub(super) fn note(&mut self, batch: &Batch) {
        for (symbol, price) in batch.symbol.iter().zip(&batch.price) {
            if let Some(last) = self.last.get_mut(*symbol as usize) {
                *last = *price;
            } else if *symbol != CLOCK {
                self.set(*symbol, *price);
            }
        }
    }

    /// Sets the last price of a symbol.
    pub(super) fn set(&mut self, symbol: u32, price: f64) {
        let symbol = symbol as usize;
        self.last.resize(self.last.len().max(symbol + 1), f64::NAN);
        self.last[symbol] = price;
    }

    /// Forgets the prices of symbols that are evicted.
    pub(super) fn forget(&mut self, evicted: &FxHashSet<u32>) {
        for id in evicted {
            if let Some(last) = self.last.get_mut(*id as usize) {
                *last = f64::NAN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::TickRow;

    #[test]
    fn the_price_at_a_clock_row_does_not_depend_on_batches() {
        let mut prices = LastPrices::default();
        let mut batch = Batch::new(0);
        batch.push_clock(0, 1);
        let tick = |price| TickRow { entry: 0, symbol: 3, time: 1, price, columns: &[] };
        batch.push(tick(10.0));
        batch.push_clock(0, 2);
        batch.push(tick(11.0));
        assert!(prices.at(3, 0, &batch).is_nan());
        assert_eq!(prices.at(3, 2, &batch), 10.0);
        prices.note(&batch);
        assert_eq!([prices.at(3, 0, &batch), prices.at(3, 2, &batch)], [11.0, 10.0]);
        // A batch without the symbol does not change it.
        prices.note(&batch.rows(0..1));
        assert_eq!(prices.at(3, 0, &batch), 11.0);
        prices.forget(&FxHashSet::from_iter([3, 9]));
        assert!(prices.at(3, 0, &batch).is_nan());
    }
}
