//! The highest and lowest value over a span of time, in amortised O(1) per value and bounded memory.
//!
//! The span is divided into [`GRAINS`] grains. A value belongs to the grain that contains its time, and expires when
//! [`GRAINS`] grains have begun since. So a span of 300 s is exact to 0.6 s, and never needs more than [`GRAINS`] nodes,
//! however many ticks come.
//!
//! The span is an argument, not a field, since a detector's state is made by `Default`, without access to parameters.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The number of grains in a span, which is also the maximum number of nodes.
///
/// ```
/// use tickhound_sdk::window::GRAINS;
/// let span_ns = 300_000_000_000_u64;
/// assert!(span_ns / GRAINS < 600_000_000);
/// ```
pub const GRAINS: u64 = 512;

/// The highest value of a span of time.
///
/// ```
/// use tickhound_sdk::window::TimeMax;
/// let (second, span) = (1_000_000_000, 60 * 1_000_000_000);
/// let mut high = TimeMax::default();
/// high.push(span, 1 * second, 101.0);
/// high.push(span, 30 * second, 100.0);
/// assert_eq!(high.get(span, 31 * second), Some(101.0));
/// assert_eq!(high.get(span, 70 * second), Some(100.0));
/// assert_eq!(high.get(span, 200 * second), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeMax {
    /// The grain and the value of each node. Values decrease from front to back.
    nodes: VecDeque<(u64, f64)>,
}

impl TimeMax {
    /// Adds a value at `time` (ns). Times must not decrease.
    pub fn push(&mut self, span: u64, time: u64, value: f64) {
        let grain = grain(span, time);
        self.expire(grain);
        while self.nodes.back().is_some_and(|(_, last)| *last <= value) {
            self.nodes.pop_back();
        }
        // A higher value of the same grain expires at the same time.
        if self.nodes.back().is_none_or(|(last, _)| *last < grain) {
            self.nodes.push_back((grain, value));
        }
    }

    /// Returns the highest value of the span that ends at `time` (ns).
    pub fn get(&mut self, span: u64, time: u64) -> Option<f64> {
        self.expire(grain(span, time));
        self.nodes.front().map(|(_, value)| *value)
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }

    fn expire(&mut self, grain: u64) {
        while self.nodes.front().is_some_and(|(first, _)| first + GRAINS <= grain) {
            self.nodes.pop_front();
        }
    }
}

/// The lowest value of a span of time.
///
/// ```
/// use tickhound_sdk::window::TimeMin;
/// let (second, span) = (1_000_000_000, 60 * 1_000_000_000);
/// let mut low = TimeMin::default();
/// low.push(span, 1 * second, 99.0);
/// low.push(span, 30 * second, 100.0);
/// assert_eq!(low.get(span, 31 * second), Some(99.0));
/// assert_eq!(low.get(span, 70 * second), Some(100.0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeMin {
    negated: TimeMax,
}

impl TimeMin {
    /// Adds a value at `time` (ns). Times must not decrease.
    pub fn push(&mut self, span: u64, time: u64, value: f64) {
        self.negated.push(span, time, -value);
    }

    /// Returns the lowest value of the span that ends at `time` (ns).
    pub fn get(&mut self, span: u64, time: u64) -> Option<f64> {
        self.negated.get(span, time).map(|value| -value)
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.negated.clear();
    }
}

fn grain(span: u64, time: u64) -> u64 {
    time / span.div_ceil(GRAINS).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_extreme_of_all_values_whose_grain_is_young_enough(
            span in 1u64..5_000_000,
            steps in prop::collection::vec((0u64..40_000, -50i32..50), 1..400),
        ) {
            let (mut high, mut low) = (TimeMax::default(), TimeMin::default());
            let (mut time, mut all) = (0, Vec::new());
            for (step, value) in steps {
                time += step;
                let young = |t: &u64| grain(span, time) - grain(span, *t) < GRAINS;
                let inside = || all.iter().filter(|(t, _)| young(t)).map(|(_, v): &(u64, f64)| *v);
                prop_assert_eq!(high.get(span, time), inside().reduce(f64::max));
                prop_assert_eq!(low.get(span, time), inside().reduce(f64::min));
                high.push(span, time, value.into());
                low.push(span, time, value.into());
                all.push((time, value.into()));
                prop_assert!(high.nodes.len() as u64 <= GRAINS && low.negated.nodes.len() as u64 <= GRAINS);
            }
        }
    }
}
