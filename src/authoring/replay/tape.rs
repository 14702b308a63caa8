//! What prices did during a replay, as bars, and what was repaired in the data: for outcomes and reports.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rustc_hash::FxHashMap;

use tickhound_core::event::{Batch, CLOCK, column, flag};
use tickhound_engine::shard;

/// Length of the bars, ns, as long as a symbol has not too many.
const BAR: u64 = 5_000_000_000;

/// Most bars of a symbol, four days of an exchange; beyond it pairs of bars become one, so that memory stays bounded.
const BARS_MAX: usize = 20_000;

/// The prices of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar {
    /// Where it begins, ns since the Unix epoch.
    pub(crate) start: u64,
    /// First price.
    pub(crate) open: f64,
    /// Highest.
    pub(crate) high: f64,
    /// Lowest.
    pub(crate) low: f64,
    /// Last.
    pub(crate) close: f64,
    /// Traded in it.
    pub(crate) quantity: f64,
}

/// What a symbol did.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    /// Length of each bar, ns.
    pub(crate) bar: u64,
    /// In order of time; none where there was no tick.
    pub(crate) bars: Vec<Bar>,
}

/// How good the data was.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Quality {
    /// Ticks that detectors saw.
    pub(crate) ticks: u64,
    /// First and last event time, ns since the Unix epoch.
    pub(crate) first: u64,
    /// See there.
    pub(crate) last: u64,
    /// Ticks whose time was missing or absurd, and estimated.
    pub(crate) time_estimated: u64,
    /// Ticks that were stamped before the one before them.
    pub(crate) out_of_order: u64,
    /// Ticks whose volume was not believed.
    pub(crate) volume_repaired: u64,
    /// Ticks with quotes only.
    pub(crate) quote_only: u64,
    /// Symbols.
    pub(crate) symbols: u64,
}

/// Looks on, and writes it down.
#[derive(Default)]
pub(crate) struct Tape {
    keeps_bars: bool,
    shards: Vec<Mutex<Part>>,
}

#[derive(Default)]
struct Part {
    names: FxHashMap<u32, Arc<str>>,
    courses: FxHashMap<u32, Course>,
    quality: Quality,
}

impl Tape {
    /// For so many workers; without bars it only counts.
    pub(crate) fn new(workers: usize, keeps_bars: bool) -> Self {
        Self { keeps_bars, shards: (0..workers).map(|_| Mutex::default()).collect() }
    }

    /// What each symbol did, by name; takes it out.
    pub(crate) fn courses(&self) -> BTreeMap<Arc<str>, Course> {
        let mut all = BTreeMap::new();
        for part in &self.shards {
            let Part { names, courses, .. } = &mut *part.lock().expect("nobody panics while holding it");
            all.extend(courses.drain().map(|(id, course)| (names[&id].clone(), course)));
        }
        all
    }

    /// Of all symbols together.
    pub(crate) fn quality(&self) -> Quality {
        let mut all = Quality { first: u64::MAX, ..Quality::default() };
        for part in &self.shards {
            let part = part.lock().expect("nobody panics while holding it");
            if part.quality.ticks == 0 {
                continue;
            }
            let of = part.quality;
            all.ticks += of.ticks;
            (all.first, all.last) = (all.first.min(of.first), all.last.max(of.last));
            all.time_estimated += of.time_estimated;
            all.out_of_order += of.out_of_order;
            all.volume_repaired += of.volume_repaired;
            all.quote_only += of.quote_only;
            all.symbols += part.names.len() as u64;
        }
        if all.ticks == 0 {
            all.first = 0;
        }
        all
    }
}

impl shard::Tape for Tape {
    fn note(&self, shard: usize, symbols: &[(u32, Arc<str>)], rows: &Batch) {
        let mut part = self.shards[shard].lock().expect("nobody panics while holding it");
        part.names.extend(symbols.iter().cloned());
        let Part { courses, quality, .. } = &mut *part;
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
            if self.keeps_bars {
                let quantity = rows.columns[column::QUANTITY][row];
                courses.entry(rows.symbol[row]).or_default().push(time, price, quantity);
            }
        }
    }
}

impl Default for Course {
    fn default() -> Self {
        Self { bar: BAR, bars: Vec::new() }
    }
}

impl Course {
    /// Adds a tick, which is not before the last one.
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

    /// The same in bars of `length` ns, or in those that there are if they are longer.
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
    /// Adds what came after.
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
        let mut course = Course::default();
        for (second, price) in [(0, 10.0), (1, 12.0), (4, 9.0), (5, 11.0), (61, 20.0)] {
            course.push(second * S, price, 1.0);
        }
        let first = Bar { start: 0, open: 10.0, high: 12.0, low: 9.0, close: 9.0, quantity: 3.0 };
        assert_eq!((course.bars.len(), course.bars[0]), (3, first));
        let minutes = course.in_bars_of(60 * S);
        assert_eq!(minutes.len(), 2);
        assert_eq!(minutes[0], Bar { close: 11.0, quantity: 4.0, ..first });
    }

    #[test]
    fn memory_of_a_symbol_is_bounded() {
        let mut course = Course::default();
        for bar in 0..3 * BARS_MAX as u64 {
            course.push(bar * BAR, bar as f64, f64::NAN);
        }
        assert!(course.bars.len() <= BARS_MAX && course.bar == 4 * BAR);
        assert_eq!(course.bars.last().unwrap().close, 3.0 * BARS_MAX as f64 - 1.0);
        assert!(course.bars.windows(2).all(|pair| pair[0].start < pair[1].start));
    }
}
