//! Bars of a few seconds, built from ticks.

use serde::{Deserialize, Serialize};

/// The open, high, low, close and quantity of a span of time.
///
/// ```
/// use tickhound_sdk::bars::Bar;
/// let bar = Bar { start: 0, open: 100.0, high: 102.0, low: 99.0, close: 101.0, quantity: 6.0 };
/// assert_eq!(bar.high - bar.low, 3.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// The start, ns since the Unix epoch.
    pub start: u64,
    /// The first price.
    pub open: f64,
    /// The highest price.
    pub high: f64,
    /// The lowest price.
    pub low: f64,
    /// The last price.
    pub close: f64,
    /// The quantity traded. Ticks with an unknown quantity (NaN) add nothing.
    pub quantity: f64,
}

/// Where bars start: at the origin, and at each multiple of their length after it.
///
/// ```
/// use tickhound_sdk::{Tick, bars::Grid};
///
/// const SINCE_OPEN: usize = 0; // the position of the column `since_open` in the manifest
///
/// /// Minutes since the session's open; since the Unix epoch if the host does not know it.
/// fn minutes(tick: &Tick<'_>) -> Grid {
///     Grid { origin: tick.session_open(SINCE_OPEN).unwrap_or(0), length: 60_000_000_000 }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The start of the first bar, ns since the Unix epoch.
    pub origin: u64,
    /// The length of a bar, ns.
    pub length: u64,
}

/// Builds bars that start at multiples of their length since the Unix epoch, or since the open of their session.
///
/// A bar ends with the first tick of a later one. A span without a tick has no bar: with flat bars instead, all measures of
/// range would collapse in thinly traded symbols.
///
/// ```
/// use tickhound_sdk::bars::MicroBars;
/// let (second, length) = (1_000_000_000, 5 * 1_000_000_000);
/// let mut bars = MicroBars::default();
/// assert!(bars.push(length, 1 * second, 100.0, 5.0).is_none());
/// assert!(bars.push(length, 4 * second, 101.0, f64::NAN).is_none());
/// let bar = bars.push(length, 11 * second, 99.0, 1.0).unwrap();
/// assert_eq!((bar.start, bar.open, bar.close, bar.quantity), (0, 100.0, 101.0, 5.0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MicroBars {
    current: Option<Bar>,
}

impl MicroBars {
    /// Adds a tick, and returns the bar that it ends, if any. `length` and `time` are in ns. Times must not decrease.
    pub fn push(&mut self, length: u64, time: u64, price: f64, quantity: f64) -> Option<Bar> {
        self.push_on(Grid { origin: 0, length }, time, price, quantity)
    }

    /// Adds a tick like [`push`](Self::push), to bars that start on a grid.
    ///
    /// ```
    /// use tickhound_sdk::bars::{Grid, MicroBars};
    /// let minute = 60_000_000_000;
    /// let open = 15 * minute + 7;
    /// let grid = Grid { origin: open, length: 5 * minute };
    /// let mut bars = MicroBars::default();
    /// bars.push_on(grid, open, 100.0, 5.0);
    /// bars.push_on(grid, open + 5 * minute - 1, 101.0, 1.0);
    /// let bar = bars.push_on(grid, open + 5 * minute, 99.0, 1.0).unwrap();
    /// assert_eq!((bar.start, bar.quantity), (open, 6.0));
    /// ```
    pub fn push_on(&mut self, grid: Grid, time: u64, price: f64, quantity: f64) -> Option<Bar> {
        let Grid { origin, length } = grid;
        let start = time - time.checked_sub(origin).unwrap_or(time) % length.max(1);
        let quantity = if quantity.is_nan() { 0.0 } else { quantity };
        match &mut self.current {
            Some(bar) if bar.start >= start => {
                bar.high = bar.high.max(price);
                bar.low = bar.low.min(price);
                bar.close = price;
                bar.quantity += quantity;
                None
            }
            current => current.replace(Bar { start, open: price, high: price, low: price, close: price, quantity }),
        }
    }

    /// Returns the unfinished bar.
    pub fn current(&self) -> Option<&Bar> {
        self.current.as_ref()
    }

    /// Drops the unfinished bar.
    pub fn clear(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_bar_is_what_its_ticks_say(
            length in 1u64..1000,
            steps in prop::collection::vec((0u64..900, 1i32..100, 0i32..10), 1..200),
        ) {
            let (mut bars, mut time, mut built) = (MicroBars::default(), 0, Vec::new());
            let mut ticks = Vec::new();
            for (step, price, quantity) in steps {
                time += step;
                built.extend(bars.push(length, time, price.into(), quantity.into()));
                ticks.push((time, f64::from(price), f64::from(quantity)));
            }
            built.extend(bars.current());
            let mut expected = Vec::new();
            for group in ticks.chunk_by(|a, b| a.0 / length == b.0 / length) {
                let prices = || group.iter().map(|tick| tick.1);
                expected.push(Bar {
                    start: group[0].0 / length * length,
                    open: group[0].1,
                    high: prices().reduce(f64::max).unwrap(),
                    low: prices().reduce(f64::min).unwrap(),
                    close: group[group.len() - 1].1,
                    quantity: group.iter().map(|tick| tick.2).sum(),
                });
            }
            prop_assert_eq!(built, expected);
        }
    }
}
