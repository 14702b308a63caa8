//! Columns that are computed from the rows of one symbol, once for all detectors that ask for them.
//!
//! What holds: a value depends on the rows before the present one, on nothing else, and is the same on every machine. Rows of
//! `ticks` are those that count in bars: of an open session, with a price of their own. A state is bounded by the length of
//! its computation, so by [`LENGTH_MAX`]: at most 16 bytes a row for extremes, where prices that wander take some dozens of
//! rows; 8 bytes a row for a mean; and 48 bytes for a volatility.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::bars::Bar;

/// The greatest length of a computation, rows: a mean of so many rows takes 80 KB for each symbol.
pub const LENGTH_MAX: u32 = 10_000;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Function {
    /// The greatest of the last values.
    Highest,
    /// The least of the last values.
    Lowest,
    /// The mean of the last values.
    Mean,
    /// The exponentially weighted standard deviation of the logarithm of the ratio of successive values.
    EwVolatility,
}

/// The value of a row that something is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RowValue {
    /// The price; of a bar, its close.
    Price,
    /// The highest price of a bar.
    High,
    /// The lowest price of a bar.
    Low,
}

/// The rows that something is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RowKind {
    /// Ticks.
    Ticks,
    /// Bars of so many seconds.
    Bars(u32),
}

/// A computed column without its name. Equal ones have the same values, whoever asks for them. It is saved with states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Computation {
    /// What is computed.
    pub function: Function,
    /// From which value.
    pub of: RowValue,
    /// Of which rows.
    pub rows: RowKind,
    /// The number of rows, from 1 to [`LENGTH_MAX`]; of a volatility, the number of rows with half of the weight.
    pub length: u32,
}

/// A computed column of all symbols.
#[derive(Clone, Debug)]
pub struct ComputedColumn {
    computation: Computation,
    /// The share of its weight that a row keeps with each later one.
    keep: f64,
    /// By the numbers of the symbols.
    states: Vec<Option<ComputedState>>,
}

/// The state of a computed column for a symbol, for [`ComputedColumn::restore`]. Its fields are stored by position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComputedState(FunctionState);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum FunctionState {
    Extreme(Extreme),
    Mean(Mean),
    Volatility(Volatility),
}

/// The rows that are or may become the extreme one: each is beyond all later ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Extreme {
    /// The number of rows so far.
    rows: u64,
    /// The number of each row, and its value.
    candidates: VecDeque<(u64, f64)>,
}

/// The sum of the last rows as that of a finished block and that of the block in progress: without subtracting anything, so that a
/// value that was much larger leaves no error behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mean {
    /// The values of the block in progress, and behind them, for each row of the finished block, the sum of its value and
    /// the later ones. Without a finished block there is nothing behind them.
    block: Vec<f64>,
    /// The number of values of the block in progress.
    filled: u32,
    /// Their sum.
    sum: f64,
}

/// Mean and squared deviations of the ratios' logarithms, weighted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Volatility {
    last: Option<f64>,
    rows: u64,
    weight: f64,
    mean: f64,
    squares: f64,
}

impl Function {
    /// The names of all functions, as in manifests.
    pub const NAMES: [(Self, &str); 4] = [
        (Self::Highest, "highest"),
        (Self::Lowest, "lowest"),
        (Self::Mean, "mean"),
        (Self::EwVolatility, "ew-volatility"),
    ];
}

impl RowValue {
    /// The names of all values, as in manifests.
    pub const NAMES: [(Self, &str); 3] = [(Self::Price, "price"), (Self::High, "high"), (Self::Low, "low")];

    /// The value with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(value, _)| *value)
    }

    /// The value of a bar.
    pub fn of_bar(self, bar: &Bar) -> f64 {
        match self {
            Self::Price => bar.close,
            Self::High => bar.high,
            Self::Low => bar.low,
        }
    }
}

impl ComputedColumn {
    /// A column without any symbol. A length out of range counts as the nearest one in range.
    pub fn new(computation: Computation) -> Self {
        let length = computation.length.clamp(1, LENGTH_MAX);
        let keep = libm::exp2(-1.0 / f64::from(length));
        Self { computation: Computation { length, ..computation }, keep, states: Vec::new() }
    }

    /// What is computed.
    pub fn computation(&self) -> &Computation {
        &self.computation
    }

    /// The value for the next row of a symbol; NaN until there were enough rows.
    #[inline]
    pub fn value(&self, symbol: u32) -> f64 {
        let length = self.computation.length;
        match self.states.get(symbol as usize) {
            Some(Some(ComputedState(state))) => state.value(length),
            _ => f64::NAN,
        }
    }

    /// Adds the value of a row, which must be finite and > 0.
    #[inline]
    pub fn push(&mut self, symbol: u32, value: f64) {
        let Computation { function, length, .. } = self.computation;
        let ComputedState(state) = slot(&mut self.states, symbol).get_or_insert_with(|| ComputedState::new(function));
        match state {
            FunctionState::Extreme(extreme) if function == Function::Highest => {
                extreme.push(length, value, |known, value| known <= value);
            }
            FunctionState::Extreme(extreme) => extreme.push(length, value, |known, value| known >= value),
            FunctionState::Mean(mean) => mean.push(length, value),
            FunctionState::Volatility(volatility) => volatility.push(self.keep, value),
        }
    }

    /// The state of a symbol; `None` if it had no row.
    pub fn save(&self, symbol: u32) -> Option<ComputedState> {
        self.states.get(symbol as usize).cloned().flatten()
    }

    /// Replaces the state of a symbol by one that was saved from a column of the same computation.
    ///
    /// # Errors
    /// When it can't be a state of this computation. Nothing has changed then.
    pub fn restore(&mut self, symbol: u32, state: ComputedState) -> Result<()> {
        ensure!(state.fits(&self.computation), "the state is not one of {:?}", self.computation);
        *slot(&mut self.states, symbol) = Some(state);
        Ok(())
    }

    /// Forgets the state of a symbol.
    pub fn forget(&mut self, symbol: u32) {
        if let Some(state) = self.states.get_mut(symbol as usize) {
            *state = None;
        }
    }
}

fn slot(states: &mut Vec<Option<ComputedState>>, symbol: u32) -> &mut Option<ComputedState> {
    let symbol = symbol as usize;
    if states.len() <= symbol {
        states.resize_with(symbol + 1, || None);
    }
    &mut states[symbol]
}

impl ComputedState {
    fn new(function: Function) -> Self {
        Self(match function {
            Function::Highest | Function::Lowest => FunctionState::Extreme(Extreme::default()),
            Function::Mean => FunctionState::Mean(Mean::default()),
            Function::EwVolatility => FunctionState::Volatility(Volatility::default()),
        })
    }

    /// Whether it can be a state of this computation.
    pub(super) fn fits(&self, computation: &Computation) -> bool {
        let length = computation.length as usize;
        match (&self.0, computation.function) {
            (FunctionState::Extreme(extreme), Function::Highest | Function::Lowest) => {
                extreme.candidates.len() <= length
            }
            (FunctionState::Mean(mean), Function::Mean) => {
                mean.block.len() <= length && mean.filled as usize <= mean.block.len()
            }
            (FunctionState::Volatility(_), Function::EwVolatility) => true,
            _ => false,
        }
    }
}

impl FunctionState {
    #[inline]
    fn value(&self, length: u32) -> f64 {
        let value = match self {
            Self::Extreme(extreme) => extreme.value(length),
            Self::Mean(mean) => mean.value(length),
            Self::Volatility(volatility) => volatility.value(length),
        };
        // Sums of values that are too large for a float say nothing.
        value.filter(|value| value.is_finite()).unwrap_or(f64::NAN)
    }
}

impl Extreme {
    #[inline]
    fn push(&mut self, length: u32, value: f64, is_beaten: impl Fn(f64, f64) -> bool) {
        while self.candidates.pop_back_if(|(_, known)| is_beaten(*known, value)).is_some() {}
        self.candidates.push_back((self.rows, value));
        self.rows += 1;
        self.candidates.pop_front_if(|(row, _)| *row + u64::from(length) < self.rows);
    }

    fn value(&self, length: u32) -> Option<f64> {
        let (_, value) = self.candidates.front()?;
        (self.rows >= u64::from(length)).then_some(*value)
    }
}

impl Mean {
    fn push(&mut self, length: u32, value: f64) {
        if self.filled == length {
            let mut later = 0.0;
            for value in self.block.iter_mut().rev() {
                later += *value;
                *value = later;
            }
            (self.filled, self.sum) = (0, 0.0);
        }
        match self.block.get_mut(self.filled as usize) {
            Some(oldest) => *oldest = value,
            None => self.block.push(value),
        }
        self.filled += 1;
        self.sum += value;
    }

    fn value(&self, length: u32) -> Option<f64> {
        let before = self.block.get(self.filled as usize).copied().unwrap_or(0.0);
        (self.block.len() == length as usize).then(|| (before + self.sum) / f64::from(length))
    }
}

impl Volatility {
    fn push(&mut self, keep: f64, value: f64) {
        let Some(last) = self.last.replace(value) else { return };
        // The C library's logarithm may differ in its last place among machines.
        let change = libm::log(value / last);
        if !change.is_finite() {
            return;
        }
        self.weight = keep * self.weight + 1.0;
        let from_mean = change - self.mean;
        self.mean += from_mean / self.weight;
        self.squares = keep * self.squares + from_mean * (change - self.mean);
        self.rows += 1;
    }

    fn value(&self, length: u32) -> Option<f64> {
        (self.rows >= u64::from(length)).then(|| (self.squares / self.weight).max(0.0).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(function: Function, length: u32) -> ComputedColumn {
        ComputedColumn::new(Computation { function, of: RowValue::Price, rows: RowKind::Ticks, length })
    }

    /// The value of a function, from the definition in the contract.
    fn defined(function: Function, length: usize, values: &[f64]) -> f64 {
        let last = || values[values.len() - length..].iter().copied();
        match function {
            Function::EwVolatility if values.len() > length => {
                let changes = values.windows(2).map(|pair| (pair[1] / pair[0]).ln());
                let weights = (0..values.len() - 1).rev().map(|age| 0.5f64.powf(age as f64 / length as f64));
                let weighted: Vec<(f64, f64)> = weights.zip(changes).collect();
                let weight: f64 = weighted.iter().map(|(weight, _)| weight).sum();
                let mean = weighted.iter().map(|(weight, change)| weight * change).sum::<f64>() / weight;
                let squares = weighted.iter().map(|(weight, change)| weight * (change - mean).powi(2));
                (squares.sum::<f64>() / weight).sqrt()
            }
            Function::EwVolatility => f64::NAN,
            _ if values.len() < length => f64::NAN,
            Function::Highest => last().fold(f64::MIN, f64::max),
            Function::Lowest => last().fold(f64::MAX, f64::min),
            Function::Mean => last().sum::<f64>() / length as f64,
        }
    }

    proptest! {
        #[test]
        fn each_value_is_what_its_function_says_also_with_a_saved_state(
            length in 1u32..12,
            steps in prop::collection::vec((0u8..4, 1u32..50, prop::bool::weighted(0.1)), 0..120),
        ) {
            for (function, name) in Function::NAMES {
                let mut of = column(function, length);
                let (mut values, mut price) = (Vec::new(), 1000.0);
                for (kind, size, is_saved) in &steps {
                    let expected = defined(function, length as usize, &values);
                    let value = of.value(3);
                    let is_near = (value - expected).abs() <= 1e-9 * expected.abs().max(1e-3);
                    prop_assert!(is_near || value.is_nan() && expected.is_nan(), "{name} {value} {expected}");
                    price = match kind {
                        0 => price,
                        1 => price + f64::from(*size),
                        2 => price / (1.0 + f64::from(*size) / 100.0),
                        _ => price * (1.0 + f64::from(*size) / 100.0),
                    };
                    values.push(price);
                    of.push(3, price);
                    if *is_saved && let Some(state) = of.save(3) {
                        let bytes = rmp_serde::to_vec(&state).unwrap();
                        of = column(function, length);
                        of.restore(3, rmp_serde::from_slice(&bytes).unwrap()).unwrap();
                        prop_assert_eq!(of.save(3), Some(state));
                    }
                }
            }
        }
    }

    /// A running sum from which old values are subtracted never recovers from one.
    #[test]
    fn a_value_that_is_much_too_large_leaves_no_error_behind() {
        let mut of = column(Function::Mean, 3);
        for value in [1.0, 1e300, f64::MAX, f64::MAX, 1.25, 1.5, 1.75] {
            of.push(0, value);
        }
        assert_eq!(of.value(0), 1.5);
        let mut of = column(Function::EwVolatility, 1);
        for value in [1.0, 1.0, f64::MAX, f64::MIN_POSITIVE, 1.0, 1.0] {
            of.push(0, value);
            assert!(!of.value(0).is_infinite());
        }
    }

    #[test]
    fn states_are_bounded_whatever_the_prices_do() {
        for (function, name) in Function::NAMES {
            let mut of = column(function, u32::MAX);
            assert_eq!(of.computation().length, LENGTH_MAX);
            // Prices that fall are all candidates for the highest, and prices that rise for the lowest.
            for row in 0..3 * LENGTH_MAX {
                let distance = f64::from(row) / 1e6;
                of.push(0, if function == Function::Lowest { 1.0 + distance } else { 2.0 - distance });
            }
            let bytes = rmp_serde::to_vec(&of.save(0).unwrap()).unwrap().len();
            assert!(bytes <= 16 * LENGTH_MAX as usize, "{name}: {bytes}");
        }
    }

    #[test]
    fn a_state_of_another_computation_is_rejected_and_changes_nothing() {
        let mut long = column(Function::Mean, 5);
        (0..5).for_each(|_| long.push(0, 1.0));
        let mut of = column(Function::Mean, 3);
        (0..3).for_each(|_| of.push(0, 2.0));
        assert!(of.restore(0, long.save(0).unwrap()).is_err());
        let mut highest = column(Function::Highest, 3);
        highest.push(0, 1.0);
        assert!(of.restore(0, highest.save(0).unwrap()).is_err());
        assert_eq!(of.value(0), 2.0);
        of.forget(0);
        assert!(of.value(0).is_nan() && of.save(0).is_none());
    }
}
