//! The tape of a replay: the prices of each symbol as bars, and the quality of the data, for outcomes and reports.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rustc_hash::FxHashMap;

use tickhound_core::event::{Batch, CLOCK, column, flag};
use tickhound_engine::{plugin::GROUP_MARK, shard};

/// The length of a bar, ns, unless a symbol has too many.
const BAR: u64 = 5_000_000_000;

/// The most bars of a symbol: about four trading days. Beyond it, pairs of bars are merged, so that memory is bounded.
const BARS_MAX: usize = 20_000;

/// The prices of a span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar {
    /// The beginning of the span, ns since the Unix epoch.
    pub(crate) start: u64,
    /// The first price.
    pub(crate) open: f64,
    /// The highest price.
    pub(crate) high: f64,
    /// The lowest price.
    pub(crate) low: f64,
    /// The last price.
    pub(crate) close: f64,
    /// The quantity traded.
    pub(crate) quantity: f64,
}

/// The prices of a symbol over time.
#[derive(Clone, Debug)]
pub(crate) struct PriceHistory {
    /// The length of each bar, ns.
    pub(crate) bar: u64,
    /// The bars in order of time; there is none where there was no tick.
    pub(crate) bars: Vec<Bar>,
}

/// The quality of the recorded data.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Quality {
    /// Ticks that detectors saw.
    pub(crate) ticks: u64,
    /// The first event time, ns since the Unix epoch.
    pub(crate) first: u64,
    /// The last event time, ns since the Unix epoch.
    pub(crate) last: u64,
    /// Ticks whose time was missing or implausible, and was estimated.
    pub(crate) time_estimated: u64,
    /// Ticks with an earlier time than the previous tick.
    pub(crate) out_of_order: u64,
    /// Ticks whose volume was implausible, and was repaired.
    pub(crate) volume_repaired: u64,
    /// Ticks with quotes only.
    pub(crate) quote_only: u64,
    /// The number of symbols.
    pub(crate) symbols: u64,
    /// The number of groups that detectors saw, the market included.
    pub(crate) groups: u64,
}

/// Records the rows that detectors see.
#[derive(Default)]
pub(crate) struct Tape {
    records_bars: bool,
    shards: Vec<Mutex<ShardTape>>,
}

#[derive(Default)]
struct ShardTape {
    /// The symbols and groups of the shard.
    names: FxHashMap<u32, Arc<str>>,
    histories: FxHashMap<u32, PriceHistory>,
    quality: Quality,
}

impl Tape {
    /// Makes a tape for this many workers; without bars, it only counts.
    pub(crate) fn new(workers: usize, records_bars: bool) -> Self {
        Self { records_bars, shards: (0..workers).map(|_| Mutex::default()).collect() }
    }

    /// Takes the prices of each symbol, by its name.
    pub(crate) fn histories(&self) -> BTreeMap<Arc<str>, PriceHistory> {
        let mut all = BTreeMap::new();
        for part in &self.shards {
            let ShardTape { names, histories, .. } =
                &mut *part.lock().expect("no thread panics while it holds the lock");
            all.extend(histories.drain().map(|(id, history)| (names[&id].clone(), history)));
        }
        all
    }

    /// Returns the quality of the data of all symbols together.
    pub(crate) fn quality(&self) -> Quality {
        let mut all = Quality { first: u64::MAX, ..Quality::default() };
        for part in &self.shards {
            let part = part.lock().expect("no thread panics while it holds the lock");
            if part.quality.ticks == 0 {
                continue;
            }
            let shard = part.quality;
            all.ticks += shard.ticks;
            (all.first, all.last) = (all.first.min(shard.first), all.last.max(shard.last));
            all.time_estimated += shard.time_estimated;
            all.out_of_order += shard.out_of_order;
            all.volume_repaired += shard.volume_repaired;
            all.quote_only += shard.quote_only;
            let groups = part.names.values().filter(|name| name.starts_with(GROUP_MARK)).count();
            all.groups += groups as u64;
            all.symbols += (part.names.len() - groups) as u64;
        }
        if all.ticks == 0 {
            all.first = 0;
        }
        all
    }
}

impl shard::Tape for Tape {
    fn note(&self, shard: usize, symbols: &[(u32, Arc<str>)], rows: &Batch) {
        let mut part = self.shards[shard].lock().expect("no thread panics while it holds the lock");
        part.names.extend(symbols.iter().cloned());
        let ShardTape { histories, quality, .. } = &mut *part;
        for row in (0..rows.len()).filter(|row| rows.symbol[*row] != CLOCK) {
            let (time, price) = (rows.time[row], rows.price[row]);
            let flags = rows.columns[column::FLAGS][row] as u32;
            let has = |bit| u64::from(flags & bit != 0);
            if quality.ticks == 0 {
                quality.first = time;
            }
            quality.ticks += 1;
            (quality.first, quality.last) = (quality.first.min(time), quality.last.max(time));
            quality.time_estimated += has(flag::TIME_ESTIMATED);
            quality.out_of_order += has(flag::OUT_OF_ORDER);
            quality.volume_repaired += has(flag::VOLUME_REPAIRED);
            quality.quote_only += has(flag::QUOTE_ONLY);
            if self.records_bars {
                let quantity = rows.columns[column::QUANTITY][row];
                histories.entry(rows.symbol[row]).or_default().push(time, price, quantity);
            }
        }
    }
}

impl Default for PriceHistory {
    fn default() -> Self {
        Self { bar: BAR, bars: Vec::new() }
    }
}

impl PriceHistory {
    /// Adds a tick, which must not be earlier than the last one.
    pub(crate) fn push(&mut self, time: u64, price: f64, quantity: f64) {
        let (start, quantity) = (time - time % self.bar, if quantity.is_nan() { 0.0 } else { quantity });
        let one = Bar { start, open: price, high: price, low: price, close: price, quantity };
        match self.bars.last_mut() {
            Some(bar) if bar.start == start => bar.add(one),
            _ => {
                if self.bars.len() >= BARS_MAX {
                    self.coarsen();
                    return self.push(time, price, quantity);
                }
                self.bars.push(one);
            }
        }
    }

    fn coarsen(&mut self) {
        self.bar *= 2;
        let fine = std::mem::take(&mut self.bars);
        for mut bar in fine {
            bar.start -= bar.start % self.bar;
            match self.bars.last_mut() {
                Some(last) if last.start == bar.start => last.add(bar),
                _ => self.bars.push(bar),
            }
        }
    }

    /// Returns bars of `length` ns, or the present ones if they are longer.
    pub(crate) fn in_bars_of(&self, length: u64) -> Vec<Bar> {
        let length = (length / self.bar).max(1) * self.bar;
        let mut bars: Vec<Bar> = Vec::new();
        for bar in &self.bars {
            let start = bar.start - bar.start % length;
            match bars.last_mut() {
                Some(last) if last.start == start => last.add(*bar),
                _ => bars.push(Bar { start, ..*bar }),
            }
        }
        bars
    }
}

impl Bar {
    /// Merges a later bar into this one.
    fn add(&mut self, later: Self) {
        self.high = self.high.max(later.high);
        self.low = self.low.min(later.low);
        self.close = later.close;
        self.quantity += later.quantity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn ticks_become_bars_that_become_longer_bars() {
        let mut history = PriceHistory::default();
        for (second, price) in [(0, 10.0), (1, 12.0), (4, 9.0), (5, 11.0), (61, 20.0)] {
            history.push(second * S, price, 1.0);
        }
        let first = Bar { start: 0, open: 10.0, high: 12.0, low: 9.0, close: 9.0, quantity: 3.0 };
        assert_eq!((history.bars.len(), history.bars[0]), (3, first));
        let minutes = history.in_bars_of(60 * S);
        assert_eq!(minutes.len(), 2);
        assert_eq!(minutes[0], Bar { close: 11.0, quantity: 4.0, ..first });
    }

    #[test]
    fn memory_of_a_symbol_is_bounded() {
        let mut history = PriceHistory::default();
        for bar in 0..3 * BARS_MAX as u64 {
            history.push(bar * BAR, bar as f64, f64::NAN);
        }
        assert!(history.bars.len() <= BARS_MAX && history.bar == 4 * BAR);
        assert_eq!(history.bars.last().unwrap().close, 3.0 * BARS_MAX as f64 - 1.0);
        assert!(history.bars.windows(2).all(|pair| pair[0].start < pair[1].start));
    }
}
