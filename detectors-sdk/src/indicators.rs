//! Standard indicators whose state can be saved.
//!
//! Own code for one hard reason: everything that a detector remembers is saved
//! and restored with it, and the crates that have these indicators
//! (`quantedge-ta` is the best of them) keep their state private and without
//! serde. Each is checked against TA-Lib's own values, see `tests/oracle.rs`.
//!
//! Lengths are arguments, not fields: a detector's state is made by `Default`,
//! and knows nothing of parameters.

use serde::{Deserialize, Serialize};

/// Exponential moving average: seeded with the mean of the first `length` values, then
/// `ema += (value - ema) * 2 / (length + 1)` (the classic form, as in TA-Lib).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ema {
    average: Seeded,
}

impl Ema {
    /// Adds a value.
    pub fn push(&mut self, length: u32, value: f64) {
        self.average.push(length, value, 2.0 / (f64::from(length) + 1.0));
    }

    /// The average; `None` before `length` values.
    pub fn get(&self, length: u32) -> Option<f64> {
        self.average.get(length)
    }

    /// The average, or the mean of the values so far where there are fewer than `length`; `None`
    /// before the first.
    pub fn estimate(&self, length: u32) -> Option<f64> {
        let Seeded { count, value } = self.average;
        if count >= length.max(1) { Some(value) } else { (count > 0).then(|| value / f64::from(count)) }
    }
}

/// Average true range (Wilder 1978): true range = highest of high - low, |high - previous close|
/// and |low - previous close|; the first bar, which has no previous close, only begins the series
/// (as in TA-Lib). Seeded with the mean of the first `length` ranges, then
/// `atr += (range - atr) / length`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Atr {
    average: Seeded,
    close: Option<f64>,
}

impl Atr {
    /// Adds a bar.
    pub fn push(&mut self, length: u32, high: f64, low: f64, close: f64) {
        if let Some(previous) = self.close {
            let range = high.max(previous) - low.min(previous);
            self.average.push(length, range, 1.0 / f64::from(length));
        }
        self.close = Some(close);
    }

    /// The average, >= 0; `None` before `length` ranges.
    pub fn get(&self, length: u32) -> Option<f64> {
        self.average.get(length)
    }

    /// Lets the next bar begin a new series without a range across the pause; the average stays.
    pub fn pause(&mut self) {
        self.close = None;
    }
}

/// Relative strength index (Wilder 1978), 0..=100: 100 times the average gain's share of average
/// gain + average loss, both smoothed as [`Atr`] is. 50 where nothing has moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rsi {
    gain: Seeded,
    loss: Seeded,
    last: Option<f64>,
}

impl Rsi {
    /// Adds a close.
    pub fn push(&mut self, length: u32, close: f64) {
        if let Some(last) = self.last {
            let (change, alpha) = (close - last, 1.0 / f64::from(length));
            self.gain.push(length, change.max(0.0), alpha);
            self.loss.push(length, (-change).max(0.0), alpha);
        }
        self.last = Some(close);
    }

    /// The index; `None` before `length` changes.
    pub fn get(&self, length: u32) -> Option<f64> {
        let (gain, loss) = (self.gain.get(length)?, self.loss.get(length)?);
        Some(if gain + loss > 0.0 { 100.0 * gain / (gain + loss) } else { 50.0 })
    }

    /// Lets the next close begin a new series without a change across the pause; the averages stay.
    pub fn pause(&mut self) {
        self.last = None;
    }
}

/// An average that begins as a plain mean and then moves towards each new value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seeded {
    count: u32,
    /// The sum until `length` values are there, the average from then on.
    value: f64,
}

impl Seeded {
    fn push(&mut self, length: u32, value: f64, alpha: f64) {
        let length = length.max(1);
        if self.count < length {
            self.value += value;
            self.count += 1;
            if self.count == length {
                self.value /= f64::from(length);
            }
        } else {
            self.value += (value - self.value) * alpha;
        }
    }

    fn get(&self, length: u32) -> Option<f64> {
        (self.count >= length.max(1)).then_some(self.value)
    }
}
