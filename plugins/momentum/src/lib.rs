//! Momentum: a move that is large for its symbol, straight, and with the trend.
//!
//! It judges the close of each `bar_s` bar. The move is the logarithmic return
//! over `n` bars; its straightness is Kaufman's efficiency ratio (1995), the move
//! divided by the way that the closes went, 0 to 1. A bar has momentum when
//!
//! 1. the move's size ranks at `rank_min` or above among this symbol's recent ones
//!    (0.6 by default: with 0.8 nearly every confidence is above 0.8, and
//!    `min_confidence` would have no effect),
//! 2. the efficiency ratio is at least `er_min`,
//! 3. the fast average of closes is on the move's side of the slow one,
//! 4. `rsi_guard`, if on, does not call the move overdone (Wilder's RSI, 14 bars,
//!    at most 80 upwards, at least 20 downwards),
//! 5. the direction is armed: it fires once, and again only after the move in its
//!    direction has fallen below `rearm_z` standard deviations, and not within
//!    `cooldown_s`.
//!
//! The confidence shows how rare this is for this symbol: the ranks of the move's size
//! and of its straightness combined by Stouffer's method (weights 1 and 0.7,
//! correlation 0.5). It is not a probability of profit.
//!
//! A bar ends with the first tick after it. If that comes more than 5 bars late, the
//! bar counts but does not fire, since the price may have moved on. A new session,
//! or a pause longer than the look-back, restarts the look-back. Averages and ranks
//! stay. Moves overlap, so neighbours are similar: `half_life` is in bars, not in
//! independent moves. Quotes that only carry the last price are ignored: they would
//! fill a thin market with flat bars, and the first one of a session has the price
//! of the previous session.

#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Direction, Gates, Manifest, Param, Tick,
    bars::{Bar, Grid, MicroBars},
    detector, flag,
    indicators::{Ema, Rsi},
    rank::{RankSketch, stouffer},
};

const SECOND: u64 = 1_000_000_000;

/// The number of bars after which ranks are meaningful.
const RANK_WARM_UP_BARS: u32 = 120;

/// A bar does not fire if the tick that ends it comes more than this many bars after its start.
const LATE_BARS: u64 = 5;

/// The smoothing of the moves' mean square, which is that of an average over 240 bars.
const SQUARE_ALPHA: f64 = 2.0 / 241.0;

const RSI_BARS: u32 = 14;
const OVERBOUGHT: f64 = 80.0;
const OVERSOLD: f64 = 20.0;

/// The weight of the straightness' rank relative to the move's, and their correlation.
const STRAIGHT_WEIGHT: f64 = 0.7;
const CORRELATION: f64 = 0.5;

/// The position of the manifest's column.
const FLAGS: usize = 0;
const SINCE_OPEN: usize = 1;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    bar_s: f64,
    n: u32,
    er_min: f64,
    ema_fast: u32,
    ema_slow: u32,
    rank_min: f64,
    rsi_guard: Guard,
    cooldown_s: f64,
    rearm_z: f64,
    half_life: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Guard {
    Off,
    Overdone,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    bars: MicroBars,
    /// The price of the last tick, also of an earlier session.
    price: Option<f64>,
    /// The logarithm of the last close in the look-back.
    last: Option<f64>,
    /// The logarithmic returns of the last `n` bars.
    steps: VecDeque<f64>,
    fast: Ema,
    slow: Ema,
    rsi: Rsi,
    mean_square: f64,
    sizes: RankSketch,
    ratios: RankSketch,
    /// The number of bars closed so far, in all sessions.
    closed: u32,
    up: Arm,
    down: Arm,
}

/// The state that decides whether a direction may fire.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Arm {
    fired: Option<u64>,
    /// Whether the move has not died down since it fired.
    spent: bool,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Momentum {
    params: Params,
    bar: u64,
    cooldown: u64,
}

impl Detector for Momentum {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "a move that is large for its symbol, straight, and with the trend";
        Manifest::new("momentum", env!("CARGO_PKG_VERSION"), text)
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .param(number("bar_s", 5.0, [1.0, 300.0], "s", "length of the bars"))
            .param(bars("n", 12, 3.0, 500.0, "bars that a move spans"))
            .param(number("er_min", 0.4, [0.0, 1.0], "", "least efficiency ratio: 1 = a straight line"))
            .param(bars("ema_fast", 12, 2.0, 500.0, "bars of the fast average"))
            .param(bars("ema_slow", 26, 3.0, 1000.0, "bars of the slow average"))
            .param(number("rank_min", 0.6, [0.0, 1.0], "", "least rank of the move among recent ones"))
            .param(
                Param::text("rsi_guard", "off")
                    .choices(&["off", "overdone"])
                    .doc("leave out moves that RSI(14) calls overbought (80) or oversold (20)"),
            )
            .param(number("cooldown_s", 60.0, [0.0, 3600.0], "s", "least time between two in one direction"))
            .param(number("rearm_z", 0.5, [0.0, 5.0], "sd", "how far the move dies down before the next"))
            .param(number("half_life", 720.0, [10.0, 1e6], "bars", "after which a bar counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        if params.ema_fast >= params.ema_slow {
            return Err(format!("ema_fast ({}) must be below ema_slow ({})", params.ema_fast, params.ema_slow));
        }
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        Ok(Self { bar: ns(params.bar_s), cooldown: ns(params.cooldown_s), params })
    }

    fn warm_up(&self) -> Duration {
        Duration::from_nanos(u64::from(self.warm_up_bars()) * self.bar)
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        let flags = tick.flags(FLAGS);
        if flags & flag::OUTSIDE != 0 {
            return None;
        }
        if flags & flag::SESSION_START != 0 {
            state.bars.clear();
            state.begin_look_back();
        }
        if flags & flag::QUOTE_ONLY != 0 && state.price == Some(tick.price) {
            return None;
        }
        state.price = Some(tick.price);
        let grid = Grid { origin: tick.session_open(SINCE_OPEN).unwrap_or(0), length: self.bar };
        let bar = state.bars.push_on(grid, tick.time, tick.price, f64::NAN)?;
        let pause = state.bars.current()?.start - bar.start;
        if pause > self.bar * u64::from(self.params.n) {
            state.begin_look_back();
            return None;
        }
        self.close_bar(state, &bar, tick, pause)
    }
}

impl Momentum {
    fn warm_up_bars(&self) -> u32 {
        self.params.ema_slow.max(self.params.n + 1).max(RANK_WARM_UP_BARS)
    }

    /// Processes a bar. `pause` is the time from its start to the start of the next one, ns.
    fn close_bar(&self, state: &mut State, bar: &Bar, tick: &Tick<'_>, pause: u64) -> Option<Detection> {
        let Params { n, ema_fast, ema_slow, half_life, .. } = self.params;
        state.closed += 1;
        state.fast.push(ema_fast, bar.close);
        state.slow.push(ema_slow, bar.close);
        state.rsi.push(RSI_BARS, bar.close);
        let close = libm::log(bar.close);
        if let Some(last) = state.last.replace(close) {
            state.steps.push_back(close - last);
            if state.steps.len() > n as usize {
                state.steps.pop_front();
            }
        }
        if !tick.gates().at_least("look_back_bars", state.steps.len() as f64, f64::from(n)) {
            return None;
        }
        // A new sum of at most 500 numbers per bar is cheaper than protecting a running sum against drift.
        let size: f64 = state.steps.iter().sum();
        let way: f64 = state.steps.iter().map(|step| step.abs()).sum();
        let ratio = if way > 0.0 { (size.abs() / way).min(1.0) } else { 0.0 };
        let deviation = state.mean_square.sqrt();
        let found = self.judge(state, Move { size, ratio, deviation, pause }, tick);
        // Added only now, since a value is compared with those before it.
        state.mean_square += (size * size - state.mean_square) * SQUARE_ALPHA;
        state.sizes.push(size.abs(), half_life);
        state.ratios.push(ratio, half_life);
        found
    }

    fn judge(&self, state: &mut State, it: Move, tick: &Tick<'_>) -> Option<Detection> {
        let Params { er_min, rank_min, rearm_z, .. } = self.params;
        let gates = tick.gates();
        let z = if it.deviation > 0.0 { it.size / it.deviation } else { 0.0 };
        state.up.spent &= z >= rearm_z;
        state.down.spent &= -z >= rearm_z;
        let is_warm = gates.above("bars", f64::from(state.closed), f64::from(self.warm_up_bars()));
        let fast = state.fast.get(self.params.ema_fast)?;
        let slow = state.slow.get(self.params.ema_slow)?;
        // A move of size 0 counts as a fall here, and is rejected below.
        let rises = it.size > 0.0;
        let (direction, with_trend, arm) =
            if rises { (Direction::Up, fast > slow, state.up) } else { (Direction::Down, fast < slow, state.down) };
        let (size_rank, ratio_rank) = (state.sizes.rank(it.size.abs()), state.ratios.rank(it.ratio));
        let late = self.bar * LATE_BARS;
        let is_fresh = gates.holds("pause_s", seconds(it.pause), seconds(late), it.pause <= late);
        let moves = gates.above("abs_move", it.size.abs(), 0.0);
        let is_straight = gates.at_least("efficiency", it.ratio, er_min);
        let is_large = gates.at_least("move_rank", size_rank.unwrap_or(f64::NAN), rank_min);
        let is_with_trend = gates.holds("ema_fast", fast, slow, with_trend);
        let is_sound = self.is_sound(state, gates, direction);
        let died_down = gates.holds("died_down_z", if rises { z } else { -z }, rearm_z, !arm.spent);
        let since_fired = arm.fired.map(|fired| tick.time - fired);
        let has_rested = since_fired.is_none_or(|since| since >= self.cooldown);
        let has_rested =
            gates.holds("armed_s", since_fired.map_or(f64::INFINITY, seconds), seconds(self.cooldown), has_rested);
        let is_move = is_warm && is_fresh && moves && is_straight && is_large;
        if !(is_move && is_with_trend && is_sound && died_down && has_rested) {
            return None;
        }
        let (size_rank, ratio_rank) = (size_rank?, ratio_rank?);
        let arm = if rises { &mut state.up } else { &mut state.down };
        *arm = Arm { fired: Some(tick.time), spent: true };
        let confidence = stouffer(&[(size_rank, 1.0), (ratio_rank, STRAIGHT_WEIGHT)], CORRELATION);
        Some(
            Detection::new(direction, confidence)
                .with("move_pct", libm::expm1(it.size) * 100.0)
                .with("efficiency", it.ratio)
                .with("move_rank", size_rank)
                .with("efficiency_rank", ratio_rank)
                .with("z", z)
                .with("ema_fast", fast)
                .with("ema_slow", slow),
        )
    }

    /// Returns whether the guard, if on, does not call the move overdone.
    fn is_sound(&self, state: &State, gates: Gates<'_>, direction: Direction) -> bool {
        let Some(rsi) = state.rsi.get(RSI_BARS).filter(|_| self.params.rsi_guard == Guard::Overdone) else {
            return true;
        };
        match direction {
            Direction::Up => gates.at_most("rsi", rsi, OVERBOUGHT),
            Direction::Down => gates.at_least("rsi", rsi, OVERSOLD),
            Direction::None => true,
        }
    }
}

/// The move up to the bar that has just closed.
#[derive(Clone, Copy)]
struct Move {
    /// The logarithmic return over `n` bars.
    size: f64,
    /// The efficiency ratio, 0..=1.
    ratio: f64,
    /// The root mean square of the moves before.
    deviation: f64,
    /// The time from the start of its last bar to the start of the next one, ns.
    pause: u64,
}

impl State {
    fn begin_look_back(&mut self) {
        self.last = None;
        self.steps.clear();
        self.rsi.pause();
        self.up.spent = false;
        self.down.spent = false;
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

fn bars(name: &str, default: i64, least: f64, most: f64, doc: &str) -> Param {
    Param::integer(name, default).range(least, most).unit("bars").doc(doc)
}

detector!(Momentum);
