//! Standard indicators whose state can be saved.
//!
//! They are not taken from another crate, because the state of a detector is saved and restored with serde. Crates with
//! these indicators, such as `quantedge-ta`, have a private state without serde. `tests/oracle.rs` checks each indicator
//! against the values of TA-Lib.
//!
//! Lengths are arguments, not fields, since a detector's state is made by `Default`, without access to parameters.

use serde::{Deserialize, Serialize};

/// An exponential moving average in its classic form, as in TA-Lib. It starts with the mean of the first `length` values.
/// Then each value changes it: `ema += (value - ema) * 2 / (length + 1)`.
///
/// ```
/// use tickhound_sdk::indicators::Ema;
/// let mut ema = Ema::default();
/// ema.push(2, 10.0);
/// assert_eq!((ema.get(2), ema.estimate(2)), (None, Some(10.0)));
/// ema.push(2, 12.0);
/// assert_eq!(ema.get(2), Some(11.0));
/// ema.push(2, 14.0);
/// assert_eq!(ema.get(2), Some(13.0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ema {
    average: Seeded,
}

impl Ema {
    /// Adds a value.
    pub fn push(&mut self, length: u32, value: f64) {
        self.average.push(length, value, 2.0 / (f64::from(length) + 1.0));
    }

    /// Returns the average, or `None` before `length` values.
    pub fn get(&self, length: u32) -> Option<f64> {
        self.average.get(length)
    }

    /// Returns the average, or the mean of the values so far if there are fewer than `length`. Returns `None` before the
    /// first value.
    pub fn estimate(&self, length: u32) -> Option<f64> {
        let Seeded { count, value } = self.average;
        if count >= length.max(1) { Some(value) } else { (count > 0).then(|| value / f64::from(count)) }
    }
}

/// The average true range (Wilder 1978). The true range of a bar is the highest of high - low, |high - previous close| and
/// |low - previous close|. The first bar only starts the series, since it has no previous close (as in TA-Lib). The average
/// starts with the mean of the first `length` ranges. Then each range changes it: `atr += (range - atr) / length`.
///
/// ```
/// use tickhound_sdk::indicators::Atr;
/// let mut atr = Atr::default();
/// atr.push(2, 11.0, 9.0, 10.0);
/// atr.push(2, 12.0, 10.0, 11.0);
/// assert_eq!(atr.get(2), None);
/// atr.push(2, 15.0, 11.0, 14.0);
/// assert_eq!(atr.get(2), Some(3.0));
/// ```
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

    /// Returns the average, >= 0, or `None` before `length` ranges.
    pub fn get(&self, length: u32) -> Option<f64> {
        self.average.get(length)
    }

    /// Starts a new series with the next bar, so that there is no range across a pause. The average stays.
    pub fn pause(&mut self) {
        self.close = None;
    }
}

/// The relative strength index (Wilder 1978), in 0..=100: 100 times the average gain, divided by the sum of average gain and
/// average loss. Both averages are smoothed like those of [`Atr`]. The index is 50 if the price did not move.
///
/// ```
/// use tickhound_sdk::indicators::Rsi;
/// let mut rsi = Rsi::default();
/// for close in [10.0, 13.0, 12.0] {
///     rsi.push(2, close);
/// }
/// assert_eq!(rsi.get(2), Some(75.0));
/// ```
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

    /// Returns the index, or `None` before `length` changes.
    pub fn get(&self, length: u32) -> Option<f64> {
        let (gain, loss) = (self.gain.get(length)?, self.loss.get(length)?);
        Some(if gain + loss > 0.0 { 100.0 * gain / (gain + loss) } else { 50.0 })
    }

    /// Starts a new series with the next close, so that there is no change across a pause. The averages stay.
    pub fn pause(&mut self) {
        self.last = None;
    }
}

/// An average that starts as a mean, and then moves towards each new value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seeded {
    count: u32,
    /// The sum of the first `length` values, and the average from then on.
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
