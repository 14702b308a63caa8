//! Breakout: the price leaves its recent range by more than noise, with volume behind it.
//!
//! The range is a Donchian channel over ticks: highest and lowest price of the
//! `window_s` before this tick, or of the session's first `or_minutes` (the
//! opening-range breakout of Crabel 1990). A tick breaks out when
//!
//! 1. it is beyond the channel by more than `buffer_atr` average true ranges
//!    (Wilder 1978) of `bar_s` bars,
//! 2. the current bar's volume, scaled to a full bar, or the last full bar's, is
//!    `volume_min_ratio` times the moving average of bars, if the symbol has
//!    volume,
//! 3. the direction is armed: it fires once, and again only after the price has
//!    come back by `rearm_atr` ranges or, if the channel moves on, after a window,
//!    and not within `cooldown_s`.
//!
//! The confidence shows how rare this is for this symbol: the rank of the distance
//! beyond the channel among recent bar-to-bar moves, and the rank of the volume
//! among recent bar volumes, combined by Stouffer's method (weights 1 and 0.7,
//! correlation 0.5, since volume and moves go together: Karpoff 1987). 0.95 means
//! "rarer than 95 % of this symbol's moves". It is not a probability of profit.
//!
//! Ticks of a pre-open and from outside of the session are ignored, and bars start at the
//! session's open.
//!
//! A new session resets the channel, the current bar and the armed directions.
//! Averages and ranks stay. An opening range needs the session's first tick: a
//! session that is joined later has none. After a pause of more than 5 bars the first
//! tick detects nothing, since the level is stale, and volume before the pause does
//! not count. After a pause of more than half a window the channel fills again. Quotes
//! that only carry the last price are ignored: as flat bars they would make the range
//! collapse, and the first one of a session has the price of the previous session.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Direction, Manifest, Param, Tick,
    bars::{Bar, Grid, MicroBars},
    detector, flag,
    indicators::{Atr, Ema},
    rank::{RankSketch, stouffer},
    window::{TimeMax, TimeMin},
};

const SECOND: u64 = 1_000_000_000;

/// The number of bars after which ranks are meaningful.
const RANK_WARM_UP_BARS: u32 = 60;

/// The level is stale after a pause longer than this.
const STALE_BARS: u64 = 5;

/// Bars of the squeeze's Bollinger band, and its widths (Carter's TTM squeeze): two standard
/// deviations inside one and a half average true ranges.
const SQUEEZE_BARS: usize = 20;
const SQUEEZE_DEVIATIONS: f64 = 2.0;
const SQUEEZE_RANGES: f64 = 1.5;

/// The weight of the volume's rank relative to the move's, and their correlation.
const VOLUME_WEIGHT: f64 = 0.7;
const CORRELATION: f64 = 0.5;

/// The positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;
const SINCE_OPEN: usize = 2;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    window_s: f64,
    mode: Mode,
    or_minutes: f64,
    bar_s: f64,
    atr_len: u32,
    buffer_atr: f64,
    volume_min_ratio: f64,
    vol_len: u32,
    rearm_atr: f64,
    cooldown_s: f64,
    squeeze_only: bool,
    half_life: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Rolling,
    OpeningRange,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    high: TimeMax,
    low: TimeMin,
    opening: Option<(f64, f64)>,
    bars: MicroBars,
    /// The last closed bar of this session.
    last_bar: Option<Bar>,
    /// The number of bars closed so far, in all sessions.
    closed: u32,
    /// The closes of the last bars, for the squeeze; empty without `squeeze_only`.
    closes: Vec<f64>,
    atr: Atr,
    volume: Ema,
    moves: RankSketch,
    volumes: RankSketch,
    /// The smallest price step so far, which is the minimum of a range.
    step: Option<f64>,
    /// The time of the first known tick of the session.
    began: Option<u64>,
    /// Whether that tick started the session.
    from_start: bool,
    /// The time of the first tick of the channel: of the session, or after a long pause.
    since: u64,
    last_time: Option<u64>,
    /// The price of the last tick, also of an earlier session.
    price: Option<f64>,
    up: Arm,
    down: Arm,
}

/// The state that decides whether a direction may fire.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Arm {
    /// The time and level when it fired last; `None` if never in this session.
    fired: Option<(u64, f64)>,
    /// Whether the price has not come back since it fired.
    spent: bool,
}

/// What a price is compared with.
#[derive(Clone, Copy, Debug)]
struct Channel {
    high: f64,
    low: f64,
    /// The average true range of bars.
    range: f64,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Breakout {
    params: Params,
    window: u64,
    bar: u64,
    opening: u64,
    cooldown: u64,
}

impl Detector for Breakout {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "price leaves its recent range by more than noise, with volume behind it";
        Manifest::new("breakout", env!("CARGO_PKG_VERSION"), text)
            .column(Column::optional("quantity"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .param(number("window_s", 300.0, [10.0, 86_400.0], "s", "length of the channel"))
            .param(
                Param::text("mode", "rolling")
                    .choices(&["rolling", "opening-range"])
                    .doc("channel of the last window_s, or of the session's first or_minutes"),
            )
            .param(number("or_minutes", 15.0, [1.0, 120.0], "min", "length of the opening range"))
            .param(number("bar_s", 5.0, [1.0, 300.0], "s", "length of the bars for range and volume"))
            .param(bars("atr_len", 14, 2.0, 200.0, "bars of the average true range"))
            .param(number("buffer_atr", 0.25, [0.0, 5.0], "ATR", "how far beyond the channel is more than noise"))
            .param(number("volume_min_ratio", 1.5, [0.0, 20.0], "", "least volume against its average; 0 = any"))
            .param(bars("vol_len", 120, 10.0, 2000.0, "bars of the volume average"))
            .param(number("rearm_atr", 1.0, [0.0, 10.0], "ATR", "how far back the price comes before the next"))
            .param(number("cooldown_s", 60.0, [0.0, 3600.0], "s", "least time between two in one direction"))
            .param(Param::flag("squeeze_only", false).doc("only out of a squeeze: Bollinger inside Keltner"))
            .param(number("half_life", 720.0, [10.0, 1e6], "bars", "after which a bar counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        if params.window_s < 2.0 * params.bar_s {
            return Err(format!("window_s must hold at least two bars of bar_s = {} s", params.bar_s));
        }
        Ok(Self {
            window: ns(params.window_s),
            bar: ns(params.bar_s),
            opening: ns(params.or_minutes * 60.0),
            cooldown: ns(params.cooldown_s),
            params,
        })
    }

    fn warm_up(&self) -> Duration {
        let bars = u64::from(self.warm_up_bars()) * self.bar;
        let channel = match self.params.mode {
            Mode::Rolling => self.window / 2,
            Mode::OpeningRange => self.opening,
        };
        Duration::from_nanos(bars.max(channel))
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        let flags = tick.flags(FLAGS);
        if flags & flag::OUTSIDE != 0 {
            return None;
        }
        if flags & flag::SESSION_START != 0 {
            state.begin_session();
        }
        if flags & flag::QUOTE_ONLY != 0 && state.price == Some(tick.price) {
            return None;
        }
        if state.last_time.is_none_or(|last| tick.time - last > self.window / 2) {
            state.since = tick.time;
        }
        let began = *state.began.get_or_insert(tick.time);
        let open = tick.session_open(SINCE_OPEN);
        // A session that is joined late has the age that it has, and not that of its first known tick.
        let age = tick.time.saturating_sub(open.unwrap_or(began));
        let grid = Grid { origin: open.unwrap_or(0), length: self.bar };
        if let Some(bar) = state.bars.push_on(grid, tick.time, tick.price, tick.column(QUANTITY)) {
            self.close_bar(state, bar);
        }
        if let (Some(last), Some(_)) = (state.price, state.last_time) {
            let step = (tick.price - last).abs();
            if step > 0.0 {
                state.step = Some(state.step.map_or(step, |least| least.min(step)));
            }
        }
        let found = self.find(state, tick, age);
        state.last_time = Some(tick.time);
        state.price = Some(tick.price);
        match self.params.mode {
            Mode::Rolling => {
                state.high.push(self.window, tick.time, tick.price);
                state.low.push(self.window, tick.time, tick.price);
            }
            Mode::OpeningRange if state.from_start && age < self.opening => {
                let (high, low) = state.opening.unwrap_or((tick.price, tick.price));
                state.opening = Some((high.max(tick.price), low.min(tick.price)));
            }
            Mode::OpeningRange => {}
        }
        found
    }
}

impl Breakout {
    fn warm_up_bars(&self) -> u32 {
        self.params.atr_len.max(RANK_WARM_UP_BARS)
    }

    fn close_bar(&self, state: &mut State, bar: Bar) {
        state.atr.push(self.params.atr_len, bar.high, bar.low, bar.close);
        state.volume.push(self.params.vol_len, bar.quantity);
        state.volumes.push(bar.quantity, self.params.half_life);
        if let Some(last) = state.last_bar {
            state.moves.push((bar.close - last.close).abs(), self.params.half_life);
        }
        if self.params.squeeze_only {
            state.closes.push(bar.close);
            if state.closes.len() > SQUEEZE_BARS {
                state.closes.remove(0);
            }
        }
        state.last_bar = Some(bar);
        state.closed += 1;
    }

    /// Returns the detection at this tick, before the tick becomes part of the channel.
    fn find(&self, state: &mut State, tick: &Tick<'_>, age: u64) -> Option<Detection> {
        let channel = self.channel(state, tick.time, age);
        let range = state.atr.get(self.params.atr_len);
        let (Some((high, low)), Some(range)) = (channel, range) else {
            self.is_ready(state, tick, age, channel.is_some());
            return None;
        };
        let range = range.max(state.step.unwrap_or(0.0));
        let outlived = match self.params.mode {
            Mode::Rolling => self.window,
            // The level of an opening range does not move, so a price that stays beyond it is not news.
            Mode::OpeningRange => u64::MAX,
        };
        state.up.rearm(tick, 1.0, range * self.params.rearm_atr, outlived);
        state.down.rearm(tick, -1.0, range * self.params.rearm_atr, outlived);
        if !tick.gates().go_on(tick.price > high || tick.price < low) {
            return None;
        }
        self.judge(state, tick, age, Channel { high, low, range })
    }

    /// Returns whether enough is known. Before that there is no channel.
    fn is_ready(&self, state: &State, tick: &Tick<'_>, age: u64, has_channel: bool) -> bool {
        let gates = tick.gates();
        let filled = match self.params.mode {
            Mode::Rolling => (tick.time - state.since, self.window / 2),
            Mode::OpeningRange => (age, self.opening),
        };
        let is_filled = gates.holds("channel_filled_s", seconds(filled.0), seconds(filled.1), has_channel);
        gates.at_least("bars", state.closed.into(), self.warm_up_bars().into()) && is_filled
    }

    // Out of line, since few prices are beyond the channel.
    #[cold]
    fn judge(&self, state: &mut State, tick: &Tick<'_>, age: u64, channel: Channel) -> Option<Detection> {
        let Channel { high, low, range } = channel;
        let (gates, price) = (tick.gates(), tick.price);
        let is_ready = self.is_ready(state, tick, age, true);
        // Between the two, the level that is closer counts.
        let (direction, sign, level) = match () {
            () if price - high >= low - price => (Direction::Up, 1.0, high),
            () => (Direction::Down, -1.0, low),
        };
        let excess = sign * (price - level);
        let arm = if sign > 0.0 { state.up } else { state.down };
        let pause = tick.time - state.last_time?;
        let noise = self.params.buffer_atr * range;
        let is_fresh = gates.at_most("pause_s", seconds(pause), seconds(STALE_BARS * self.bar));
        let since_fired = arm.fired.map_or(f64::INFINITY, |(fired, _)| seconds(tick.time - fired));
        let is_armed =
            gates.holds("armed_s", since_fired, seconds(self.cooldown), arm.may_fire(tick.time, self.cooldown));
        let is_beyond = gates.holds("beyond_channel", price, level + sign * noise, excess > noise);
        if !(is_ready && is_fresh && is_armed && is_beyond) {
            return None;
        }
        if self.params.squeeze_only {
            let (band, ranges) = squeeze(&state.closes, range);
            if !gates.below("squeeze", band, ranges) {
                return None;
            }
        }
        let move_rank = state.moves.rank(excess)?;
        let volume = self.volume(state, tick.time);
        let found = match volume {
            Some((ratio, _)) if !gates.at_least("volume_ratio", ratio, self.params.volume_min_ratio) => return None,
            Some((ratio, rank)) => {
                let confidence = stouffer(&[(move_rank, 1.0), (rank, VOLUME_WEIGHT)], CORRELATION);
                Detection::new(direction, confidence).with("volume_ratio", ratio).with("volume_rank", rank)
            }
            // An index has no volume, so its price is the only evidence.
            None => Detection::new(direction, stouffer(&[(move_rank, 1.0)], CORRELATION)),
        };
        let arm = if sign > 0.0 { &mut state.up } else { &mut state.down };
        *arm = Arm { fired: Some((tick.time, level)), spent: true };
        Some(found.with("level", level).with("excess", excess).with("atr", range).with("move_rank", move_rank))
    }

    /// Returns the highest and lowest price of the channel, once it is filled. `age` is that of the session, ns.
    fn channel(&self, state: &mut State, time: u64, age: u64) -> Option<(f64, f64)> {
        match self.params.mode {
            Mode::Rolling if time - state.since < self.window / 2 => None,
            Mode::Rolling => Some((state.high.get(self.window, time)?, state.low.get(self.window, time)?)),
            Mode::OpeningRange if age < self.opening => None,
            Mode::OpeningRange => state.opening,
        }
    }

    /// Returns the ratio of the current volume to its average, and its rank; `None` for a symbol without volume.
    fn volume(&self, state: &State, time: u64) -> Option<(f64, f64)> {
        let average = state.volume.estimate(self.params.vol_len)?;
        if average <= 0.0 {
            return None;
        }
        let current = state.bars.current()?;
        // Less than a second of a bar, scaled to a full bar, is not meaningful.
        let elapsed = (time - current.start).max(SECOND).min(self.bar);
        let scaled = current.quantity * self.bar as f64 / elapsed as f64;
        // Volume before a pause is not behind the current price.
        let fresh = |bar: &Bar| current.start - bar.start <= STALE_BARS * self.bar;
        let last = state.last_bar.filter(fresh).map_or(0.0, |bar| bar.quantity);
        let now = scaled.max(last);
        Some((now / average, state.volumes.rank(now)?))
    }
}

impl State {
    fn begin_session(&mut self) {
        let Self { closed, atr, volume, moves, volumes, step, price, .. } = std::mem::take(self);
        *self = Self { closed, atr, volume, moves, volumes, step, price, from_start: true, ..Self::default() };
        self.atr.pause();
    }
}

impl Arm {
    /// Arms the direction again if the price has come back from the level, or the level is older than `outlived` (ns).
    fn rearm(&mut self, tick: &Tick<'_>, sign: f64, distance: f64, outlived: u64) {
        if let Some((fired, level)) = self.fired
            && (sign * (tick.price - level) < -distance || tick.time - fired >= outlived)
        {
            self.spent = false;
        }
    }

    fn may_fire(&self, time: u64, cooldown: u64) -> bool {
        !self.spent && self.fired.is_none_or(|(fired, _)| time - fired >= cooldown)
    }
}

/// Returns how far the band of the closes reaches, and how far the channel of the bars: in a squeeze, the band lies inside the
/// channel. With too few closes there is no band.
fn squeeze(closes: &[f64], range: f64) -> (f64, f64) {
    let count = closes.len() as f64;
    let mean = closes.iter().sum::<f64>() / count;
    let variance = closes.iter().map(|close| (close - mean) * (close - mean)).sum::<f64>() / count;
    let band = if closes.len() == SQUEEZE_BARS { SQUEEZE_DEVIATIONS * variance.sqrt() } else { f64::NAN };
    (band, SQUEEZE_RANGES * range)
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

detector!(Breakout);
