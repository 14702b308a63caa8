//! Bars of one length, built from the ticks of each symbol.
//!
//! What holds: a bar starts at the open of a session plus a multiple of its length, or at such a multiple since the Unix
//! epoch if the symbol has no calendar. It ends after its length, or at the close if that is earlier. It consists of the ticks
//! that come while event time, which is that of the whole partition, is in it: a tick that comes after the end of its own bar
//! belongs to the bar that is then current, and to none if its session has closed by then. So a bar that has ended never
//! changes, and the bars of a symbol don't overlap. Spans without a tick have no bar. Ticks from outside of sessions, and
//! those without a price of their own, neither start a bar nor change one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tick::MarketTick;
use crate::{
    event::{column, flag},
    session::{Span, UNKNOWN},
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The longest bar: a day, in seconds. A session is not longer.
pub const SECONDS_MAX: u32 = 86_400;

/// The columns that only rows of bars have, in the order of [`Bar::columns`].
pub const COLUMNS: [&str; 5] = ["open", "high", "low", "vwap", "count"];

/// A bar that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The first instant of the bar, ns since the Unix epoch.
    pub start: u64,
    /// The first instant after the bar, ns since the Unix epoch.
    pub end: u64,
    /// The first price.
    pub open: f64,
    /// The highest price.
    pub high: f64,
    /// The lowest price.
    pub low: f64,
    /// The last price.
    pub close: f64,
    /// The sum of the quantities that are known, >= 0; 0 if none is.
    pub quantity: f64,
    /// The mean of the prices weighted by quantity; NaN if no quantity is known.
    pub vwap: f64,
    /// The number of ticks, >= 1.
    pub count: u64,
    /// All flags of its ticks, with [`flag::SESSION_START`] exactly in the symbol's first bar of a session.
    pub flags: u32,
    /// Seconds from the session's open to the bar's end; NaN without a calendar.
    pub since_open: f64,
    /// Seconds from the bar's end to the session's close; NaN without a calendar.
    pub to_close: f64,
}

/// The bars of all symbols that are being built.
#[derive(Clone, Debug)]
pub struct Bars {
    seconds: u32,
    /// By the numbers of the symbols.
    states: Vec<BarState>,
    /// The symbols by the ends of their open bars. A symbol that was forgotten may be listed still.
    ends: BTreeMap<u64, Vec<u32>>,
    /// The first key of `ends`, or the end of time.
    next_end: u64,
}

/// The bar of a symbol that is being built. Its fields are stored by position, in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BarState {
    /// The number of the session of the last bar that was started.
    session: Option<i32>,
    open: Option<OpenBar>,
}

/// A bar that has not ended. Its fields are stored by position, in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OpenBar {
    start: u64,
    end: u64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    quantity: f64,
    /// The sum of price times quantity of the ticks whose quantity is known and not 0.
    turnover: f64,
    count: u64,
    flags: u32,
    /// The open and the close of the session, [`UNKNOWN`] without a calendar.
    session_open: u64,
    session_close: u64,
}

impl Bars {
    /// Bars of so many seconds, at least one and at most [`SECONDS_MAX`].
    pub fn new(seconds: u32) -> Self {
        let seconds = seconds.clamp(1, SECONDS_MAX);
        Self { seconds, states: Vec::new(), ends: BTreeMap::new(), next_end: u64::MAX }
    }

    /// The length of a bar.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// The earliest end of an open bar, ns since the Unix epoch; the end of time if no bar is open.
    #[inline]
    pub fn next_end(&self) -> u64 {
        self.next_end
    }

    /// Adds a tick. The bars that had ended by then must have been taken with [`Self::end_by`].
    #[inline]
    pub fn push(&mut self, tick: &MarketTick<'_>) {
        if !tick.counts() {
            return;
        }
        match self.states.get_mut(tick.symbol as usize).and_then(|state| state.open.as_mut()) {
            Some(bar) => {
                debug_assert!(tick.now < bar.end, "bars that have ended are taken before the next tick");
                bar.add(tick);
            }
            None => self.start(tick),
        }
    }

    /// Ends every bar whose end event time has reached, and adds each with its symbol, in the order of their ends.
    pub fn end_by(&mut self, now: u64, ended: &mut Vec<(u32, Bar)>) {
        while let Some(of_end) = self.ends.first_entry().filter(|of_end| *of_end.key() <= now) {
            let (end, symbols) = of_end.remove_entry();
            for symbol in symbols {
                let open = &mut self.states[symbol as usize].open;
                ended.extend(open.take_if(|bar| bar.end == end).map(|bar| (symbol, bar.finish())));
            }
        }
        self.next_end = self.ends.keys().next().copied().unwrap_or(u64::MAX);
    }

    /// The state of a symbol, for [`Self::restore`]; `None` if it had no bar.
    pub fn save(&self, symbol: u32) -> Option<BarState> {
        self.states.get(symbol as usize).filter(|state| **state != BarState::default()).cloned()
    }

    /// Replaces the state of a symbol by one that was saved from bars of the same length.
    pub fn restore(&mut self, symbol: u32, state: BarState) {
        if let Some(bar) = &state.open {
            self.list(symbol, bar.end);
        }
        *self.state(symbol) = state;
    }

    /// Forgets the state of a symbol.
    pub fn forget(&mut self, symbol: u32) {
        if let Some(state) = self.states.get_mut(symbol as usize) {
            *state = BarState::default();
        }
    }

    /// Starts a bar with a tick, unless the tick's session has closed.
    #[cold]
    fn start(&mut self, tick: &MarketTick<'_>) {
        let length = u64::from(self.seconds) * NANOS_PER_SECOND;
        let &Span { open, close, number, .. } = tick.span;
        if tick.now >= close {
            return;
        }
        let origin = if open == UNKNOWN { 0 } else { open };
        let start = tick.now - tick.now.saturating_sub(origin) % length;
        let end = start.saturating_add(length).min(close);
        let price = tick.price;
        let mut bar = OpenBar {
            start,
            end,
            open: price,
            high: price,
            low: price,
            close: price,
            quantity: 0.0,
            turnover: 0.0,
            count: 0,
            flags: 0,
            session_open: open,
            session_close: close,
        };
        bar.add(tick);
        // The flag of the tick is not enough: the first tick of the session may have had no price of its own.
        let state = self.state(tick.symbol);
        if state.session != Some(number) {
            bar.flags |= flag::SESSION_START;
        }
        *state = BarState { session: Some(number), open: Some(bar) };
        self.list(tick.symbol, end);
    }

    fn list(&mut self, symbol: u32, end: u64) {
        self.ends.entry(end).or_default().push(symbol);
        self.next_end = self.next_end.min(end);
    }

    fn state(&mut self, symbol: u32) -> &mut BarState {
        let symbol = symbol as usize;
        if self.states.len() <= symbol {
            self.states.resize_with(symbol + 1, BarState::default);
        }
        &mut self.states[symbol]
    }
}

impl Bar {
    /// The values of [`COLUMNS`].
    pub fn columns(&self) -> [f64; COLUMNS.len()] {
        [self.open, self.high, self.low, self.vwap, self.count as f64]
    }
}

impl OpenBar {
    #[inline]
    fn add(&mut self, tick: &MarketTick<'_>) {
        let (price, quantity) = (tick.price, tick.columns[column::QUANTITY]);
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.close = price;
        if quantity > 0.0 {
            self.quantity += quantity;
            self.turnover += price * quantity;
        }
        self.count += 1;
        self.flags |= tick.flags() & !flag::SESSION_START;
    }

    fn finish(self) -> Bar {
        let Self { start, end, open, high, low, close, count, flags, session_open, session_close, .. } = self;
        let vwap = self.turnover / self.quantity;
        // A mean of equal prices may differ from them in its last place. Sums that are too large for a float say nothing.
        let vwap = if vwap.is_finite() { vwap.clamp(low, high) } else { f64::NAN };
        let quantity = if self.quantity.is_finite() { self.quantity } else { f64::NAN };
        let seconds = |from: u64, to: u64| if session_open == UNKNOWN { f64::NAN } else { (to - from) as f64 / 1e9 };
        let since_open = seconds(session_open.min(end), end);
        let to_close = seconds(end, session_close.max(end));
        Bar { start, end, open, high, low, close, quantity, vwap, count, flags, since_open, to_close }
    }
}
