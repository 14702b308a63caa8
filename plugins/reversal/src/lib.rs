//! Reversal: a bar that engulfs the one before, at the end of a trend.
//!
//! It judges `bar_s` bars built from ticks. In the terms of Nison (1991) and with the
//! inequalities of TA-Lib's `CDLENGULFING`, a rise engulfs when
//!
//! 1. the bar before fell (close < open) and this one did not (close >= open),
//! 2. its body covers the body before: close >= open before and open <= close
//!    before, one of the two strictly,
//! 3. its range is at least `range_atr` average true ranges (Wilder 1978, `atr_len`
//!    bars): in a quiet market bodies engulf each other all the time,
//! 4. the `trend_bars` closes up to the bar before fell, each below its predecessor.
//!
//! For a fall it is the reverse. The direction is the engulfing bar's.
//!
//! The confidence shows how rare such a bar is for the symbol: the rank of its body in
//! average true ranges and, if the symbol has volume, the rank of its quantity,
//! combined by Stouffer's method (weights 1 and 0.7, correlation 0.5). It is not a
//! probability that the trend has turned.
//!
//! A bar ends with the first tick after it. If that comes more than 5 bars late, the bar
//! does not fire. A new session, or a pause of more than `trend_bars` bars, restarts
//! the trend. Quotes that only carry the last price are ignored.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Direction, Gates, Manifest, Param, Tick,
    bars::{Bar, Grid, MicroBars},
    detector, flag,
    indicators::Atr,
    rank::{RankSketch, stouffer},
};

const SECOND: u64 = 1_000_000_000;

/// The number of bars after which ranks are meaningful.
const RANK_WARM_UP_BARS: u32 = 60;

/// A bar does not fire if the tick that ends it comes more than this many bars after its start.
const LATE_BARS: u64 = 5;

/// The weight of the quantity's rank relative to the body's, and their correlation.
const QUANTITY_WEIGHT: f64 = 0.7;
const CORRELATION: f64 = 0.5;

/// The positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;
const SINCE_OPEN: usize = 2;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    bar_s: f64,
    trend_bars: u32,
    range_atr: f64,
    atr_len: u32,
    half_life: f64,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    bars: MicroBars,
    price: Option<f64>,
    before: Option<Bar>,
    /// The number of closes in a row, up to the bar before, that rose (> 0) or fell (< 0).
    run: i32,
    atr: Atr,
    bodies: RankSketch,
    quantities: RankSketch,
    closed: u32,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Reversal {
    params: Params,
    bar: u64,
}

impl Detector for Reversal {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "a bar engulfs the one before, at the end of a trend";
        Manifest::new("reversal", env!("CARGO_PKG_VERSION"), text)
            .column(Column::optional("quantity"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .param(number("bar_s", 60.0, [1.0, 3600.0], "s", "length of the bars: 60, 180, 300 are usual"))
            .param(bars("trend_bars", 3, 1.0, 100.0, "closes in a row that make a trend"))
            .param(number("range_atr", 1.0, [0.0, 20.0], "ATR", "least range of the engulfing bar"))
            .param(bars("atr_len", 14, 2.0, 200.0, "bars of the average true range"))
            .param(number("half_life", 500.0, [10.0, 1e6], "bars", "after which a bar counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        Ok(Self { bar: (params.bar_s * SECOND as f64) as u64, params })
    }

    fn warm_up(&self) -> Duration {
        Duration::from_nanos(u64::from(self.warm_up_bars()) * self.bar)
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            return None;
        }
        let flags = tick.flags(FLAGS);
        if flags & flag::SESSION_START != 0 {
            state.bars.clear();
            state.begin();
        }
        if flags & flag::QUOTE_ONLY != 0 && state.price == Some(tick.price) {
            return None;
        }
        state.price = Some(tick.price);
        let grid = Grid { origin: tick.session_open(SINCE_OPEN).unwrap_or(0), length: self.bar };
        let bar = state.bars.push_on(grid, tick.time, tick.price, tick.column(QUANTITY))?;
        let pause = (state.bars.current()?.start - bar.start) / self.bar;
        let found = self.close_bar(state, &bar, tick.gates(), pause);
        if pause > u64::from(self.params.trend_bars) {
            state.begin();
        }
        found
    }
}

impl Reversal {
    fn warm_up_bars(&self) -> u32 {
        self.params.atr_len.max(RANK_WARM_UP_BARS) + 1
    }

    /// Processes a bar. `pause` is the number of bars from its start to the start of the next one.
    fn close_bar(&self, state: &mut State, bar: &Bar, gates: Gates<'_>, pause: u64) -> Option<Detection> {
        let Params { atr_len, half_life, .. } = self.params;
        let atr = state.atr.get(atr_len).filter(|atr| *atr > 0.0);
        let body = atr.map(|atr| (bar.close - bar.open).abs() / atr);
        let is_fresh = gates.holds("pause_bars", pause as f64, LATE_BARS as f64, pause <= LATE_BARS);
        let found = self.judge(state, bar, gates).filter(|_| is_fresh);
        // Added only now, since a value is compared with those before it.
        state.closed = state.closed.saturating_add(1);
        state.atr.push(atr_len, bar.high, bar.low, bar.close);
        state.bodies.push(body.unwrap_or(0.0), half_life);
        state.quantities.push(bar.quantity, half_life);
        if let Some(before) = state.before.replace(*bar) {
            state.run = match bar.close - before.close {
                up if up > 0.0 => state.run.max(0).saturating_add(1),
                down if down < 0.0 => state.run.min(0).saturating_sub(1),
                _ => 0,
            };
        }
        found
    }

    fn judge(&self, state: &State, bar: &Bar, gates: Gates<'_>) -> Option<Detection> {
        let Params { trend_bars, range_atr, atr_len, .. } = self.params;
        let atr = state.atr.get(atr_len).filter(|atr| *atr > 0.0);
        // What the bar would end: a fall if it does not fall itself.
        let trend = if bar.close < bar.open { state.run } else { -state.run };
        let range = atr.map_or(f64::NAN, |atr| (bar.high - bar.low) / atr);
        let direction = state.before.and_then(|before| engulfs(&before, bar));
        let body_before = state.before.map_or(f64::NAN, |before| (before.close - before.open).abs());
        let is_warm = gates.at_least("bars", f64::from(state.closed), f64::from(self.warm_up_bars()));
        let ends_trend = gates.at_least("trend_bars", f64::from(trend), f64::from(trend_bars));
        let is_large = gates.at_least("range_atr", range, range_atr);
        let does_engulf = gates.holds("engulfs", (bar.close - bar.open).abs(), body_before, direction.is_some());
        if !(is_warm && ends_trend && is_large && does_engulf) {
            return None;
        }
        let (direction, atr) = (direction?, atr?);
        let body = (bar.close - bar.open).abs() / atr;
        let body_rank = state.bodies.rank(body)?;
        let quantity_rank = state.quantities.rank(bar.quantity).filter(|_| bar.quantity > 0.0);
        let confidence = match quantity_rank {
            Some(quantity) => stouffer(&[(body_rank, 1.0), (quantity, QUANTITY_WEIGHT)], CORRELATION),
            None => body_rank,
        };
        let found = Detection::new(direction, confidence)
            .with("body_atr", body)
            .with("range_atr", range)
            .with("trend_bars", f64::from(trend))
            .with("body_rank", body_rank);
        Some(match quantity_rank {
            Some(rank) => found.with("quantity_rank", rank),
            None => found,
        })
    }
}

/// Returns the direction in which a bar engulfs the one before, if it does.
fn engulfs(before: &Bar, bar: &Bar) -> Option<Direction> {
    let covers = |top: f64, bottom: f64, top_before: f64, bottom_before: f64| {
        top >= top_before && bottom <= bottom_before && (top > top_before || bottom < bottom_before)
    };
    let (fell_before, falls) = (before.close < before.open, bar.close < bar.open);
    match (fell_before, falls) {
        (true, false) if covers(bar.close, bar.open, before.open, before.close) => Some(Direction::Up),
        (false, true) if covers(bar.open, bar.close, before.close, before.open) => Some(Direction::Down),
        _ => None,
    }
}

impl State {
    fn begin(&mut self) {
        self.before = None;
        self.run = 0;
        self.atr.pause();
    }
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

fn bars(name: &str, default: i64, least: f64, most: f64, doc: &str) -> Param {
    Param::integer(name, default).range(least, most).unit("bars").doc(doc)
}

detector!(Reversal);
