//! What was known of each symbol at the steps of its session: the rows of snapshots.
//!
//! What holds: the steps of a session are its open plus multiples of their length, up to its close, or such multiples since the
//! Unix epoch if there is no calendar. At a step, a symbol has a row if it had a tick in the session. If event time
//! passes several steps at once, only the last one of them that is in the session counts: nothing was known at the others
//! that is not known at that one. Values are those of ticks of the open session alone, and none outlives its session.

use serde::{Deserialize, Serialize};

use super::tick::MarketTick;
use crate::{
    event::column,
    session::{Phase, Span, UNKNOWN},
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A step of the symbols of one calendar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SnapshotStep {
    /// The instant of the step, ns since the Unix epoch.
    pub time: u64,
    /// The number of the session.
    pub session: i32,
    /// Seconds since the session's open; NaN without a calendar.
    pub since_open: f64,
    /// Seconds to the session's close; NaN without a calendar.
    pub to_close: f64,
    /// The instant of the step before, ns since the Unix epoch.
    previous: u64,
}

/// What is known of a symbol at a step, or at the end of a bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastRow<'a> {
    /// The last price, quote currency.
    pub price: f64,
    /// The last known value of each column of the input. `quantity` and `flags` say nothing here.
    pub columns: &'a [f64],
    /// Whether it is the symbol's first row of snapshots in the session.
    pub is_first: bool,
}

/// The last values of all symbols.
#[derive(Clone, Debug)]
pub struct LastValues {
    /// The number of columns of the input.
    columns: usize,
    /// By the numbers of the symbols.
    states: Vec<LastState>,
}

/// The last values of a symbol in a session. Its fields are stored by position, in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LastState {
    /// The number of the last session in which there was a tick.
    session: Option<i32>,
    /// The event time of the partition at the first tick of the session, ns since the Unix epoch.
    since: u64,
    price: f64,
    /// The columns of the input, NaN where nothing is known.
    values: Vec<f64>,
}

/// The step that symbols of a calendar have when event time moves from `before` to `now`, if any. `span` is what contains
/// `before`: at most one session has symbols with ticks then.
pub fn step_passed(span: &Span, before: u64, now: u64, seconds: u32) -> Option<SnapshotStep> {
    if span.phase != Phase::Open {
        return None;
    }
    let length = u64::from(seconds.max(1)) * NANOS_PER_SECOND;
    let is_known = span.open != UNKNOWN;
    // The span of a session without a calendar begins at midnight of a zone, where no step needs to be.
    let (origin, close) = if is_known { (span.open, span.close) } else { (0, span.end) };
    let last_by = |time: u64| time - time.saturating_sub(origin) % length;
    // Steps are whole seconds, and event time passes them with the tick that reaches them.
    let (previous, time) = (last_by(before), last_by(now.min(close)));
    let seconds = |from: u64, to: u64| if is_known { (to - from) as f64 / 1e9 } else { f64::NAN };
    (time > previous).then(|| SnapshotStep {
        time,
        session: span.number,
        since_open: seconds(origin, time),
        to_close: seconds(time, close),
        previous,
    })
}

impl LastValues {
    /// The last values of so many columns of the input, the standard ones first.
    pub fn new(columns: usize) -> Self {
        Self { columns, states: Vec::new() }
    }

    /// The number of columns of the input.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Notes the values of a tick.
    #[inline]
    pub fn push(&mut self, tick: &MarketTick<'_>) {
        if !tick.is_in_session() {
            return;
        }
        let (columns, session) = (self.columns, Some(tick.span.number));
        let state = self.state(tick.symbol);
        if state.session != session {
            (state.session, state.since) = (session, tick.now);
            state.values.clear();
            state.values.resize(columns, f64::NAN);
        }
        state.price = tick.price;
        for (last, value) in state.values.iter_mut().zip(tick.columns) {
            *last = if value.is_nan() { *last } else { *value };
        }
    }

    /// The row of a symbol at a step; `None` if it had no tick in the session.
    pub fn at_step(&self, symbol: u32, step: &SnapshotStep) -> Option<LastRow<'_>> {
        let state = self.states.get(symbol as usize).filter(|state| state.session == Some(step.session))?;
        // A tick that came when event time was at a step came after that step.
        Some(LastRow { price: state.price, columns: &state.values, is_first: state.since >= step.previous })
    }

    /// The last values of a symbol in its last session, such as for a bar that ends; `None` if it had no tick.
    pub fn latest(&self, symbol: u32) -> Option<LastRow<'_>> {
        let state = self.states.get(symbol as usize).filter(|state| state.session.is_some())?;
        Some(LastRow { price: state.price, columns: &state.values, is_first: false })
    }

    /// The state of a symbol, for [`Self::restore`]; `None` if it had no tick.
    pub fn save(&self, symbol: u32) -> Option<LastState> {
        self.states.get(symbol as usize).filter(|state| state.session.is_some()).cloned()
    }

    /// Replaces the state of a symbol by a saved one. Columns that the user defines are only known if there are as many as then.
    pub fn restore(&mut self, symbol: u32, mut state: LastState) {
        if state.values.len() != self.columns {
            state.values.truncate(column::NAMES.len());
            state.values.resize(self.columns, f64::NAN);
        }
        *self.state(symbol) = state;
    }

    /// Forgets the state of a symbol.
    pub fn forget(&mut self, symbol: u32) {
        if let Some(state) = self.states.get_mut(symbol as usize) {
            *state = LastState::default();
        }
    }

    fn state(&mut self, symbol: u32) -> &mut LastState {
        let symbol = symbol as usize;
        if self.states.len() <= symbol {
            self.states.resize_with(symbol + 1, LastState::default);
        }
        &mut self.states[symbol]
    }
}
