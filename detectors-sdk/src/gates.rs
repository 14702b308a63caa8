//! The conditions of a detection, written so that they can be shown.

use std::cell::RefCell;

use crate::contract::Gate;

/// Compares values with limits, and records each comparison when somebody asks why there is a detection, or none.
///
/// Each method returns the result of its comparison. So a detector has its conditions once, for the detection and for its
/// explanation.
///
/// ```
/// use tickhound_sdk::{Detection, Tick};
///
/// const VIX: usize = 0; // the position of the column `vix` in the manifest
///
/// fn on_tick(tick: &Tick<'_>, channel_high: f64) -> Option<Detection> {
///     let gates = tick.gates();
///     let is_calm = gates.below("calm", tick.column(VIX), 25.0);
///     (gates.above("above_channel", tick.price, channel_high) && is_calm).then(|| Detection::up(0.9))
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Gates<'a> {
    pub(crate) record: Option<&'a RefCell<Vec<Gate>>>,
}

impl Gates<'_> {
    /// Returns whether `value > limit`.
    #[inline]
    #[must_use]
    pub fn above(&self, name: &str, value: f64, limit: f64) -> bool {
        self.holds(name, value, limit, value > limit)
    }

    /// Returns whether `value >= limit`.
    #[inline]
    #[must_use]
    pub fn at_least(&self, name: &str, value: f64, limit: f64) -> bool {
        self.holds(name, value, limit, value >= limit)
    }

    /// Returns whether `value < limit`.
    #[inline]
    #[must_use]
    pub fn below(&self, name: &str, value: f64, limit: f64) -> bool {
        self.holds(name, value, limit, value < limit)
    }

    /// Returns whether `value <= limit`.
    #[inline]
    #[must_use]
    pub fn at_most(&self, name: &str, value: f64, limit: f64) -> bool {
        self.holds(name, value, limit, value <= limit)
    }

    /// Returns `holds`, the result of any other comparison of `value` with `limit`.
    #[inline]
    #[must_use]
    pub fn holds(&self, name: &str, value: f64, limit: f64, holds: bool) -> bool {
        if let Some(record) = self.record {
            note(record, name, value, limit, holds);
        }
        holds
    }

    /// Returns whether to compare further conditions: if those `so_far` hold, or if somebody asks why there is a detection, or none,
    /// since then all of them are shown.
    ///
    /// It saves what later conditions cost in the usual case. The result of those so far still counts:
    ///
    /// ```
    /// use tickhound_sdk::{Tick, window::TimeMin};
    ///
    /// const MINUTE: u64 = 60_000_000_000;
    ///
    /// fn is_out(low: &mut TimeMin, tick: &Tick<'_>, high: f64) -> bool {
    ///     let gates = tick.gates();
    ///     let is_high = gates.above("above_channel", tick.price, high);
    ///     if !gates.go_on(is_high) {
    ///         return false;
    ///     }
    ///     let low = low.get(MINUTE, tick.time).unwrap_or(f64::NAN);
    ///     gates.above("rise_pct", (tick.price / low - 1.0) * 100.0, 1.0) && is_high
    /// }
    /// ```
    #[inline]
    #[must_use]
    pub fn go_on(&self, so_far: bool) -> bool {
        so_far || self.record.is_some()
    }
}

/// Kept out of line, since detectors run without a record.
#[cold]
fn note(record: &RefCell<Vec<Gate>>, name: &str, value: f64, limit: f64, holds: bool) {
    record.borrow_mut().push(Gate { name: name.into(), value, limit, holds });
}
