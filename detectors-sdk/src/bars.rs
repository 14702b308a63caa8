//! Bars of a few seconds, built from ticks.

use serde::{Deserialize, Serialize};

/// Open, high, low, close and quantity of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Where it begins, ns since the Unix epoch; a whole multiple of its length.
    pub start: u64,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Traded in it; ticks of unknown quantity (NaN) add nothing.
    pub quantity: f64,
}

/// Builds bars that begin at whole multiples of their length since the Unix epoch.
///
/// A bar ends with the first tick of a later one. Stretches without a tick have
/// no bar: flat ones in their place would make every measure of range collapse
/// in thinly traded symbols.
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
    /// Adds a tick; `length` and `time` in ns, times must not fall. Returns the bar that it ended.
    pub fn push(&mut self, length: u64, time: u64, price: f64, quantity: f64) -> Option<Bar> {
        let start = time - time % length.max(1);
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

    /// The bar that is being built.
    pub fn current(&self) -> Option<&Bar> {
        self.current.as_ref()
    }

    /// Drops the bar that is being built.
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
