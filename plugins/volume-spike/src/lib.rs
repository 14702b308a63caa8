//! Volume spike: far more is traded in a bar than is usual at that time of day.
//!
//! It judges the quantity of each `bar_s` bar in which anything was traded. The usual
//! quantity is, once a session has shown it, the mean quantity of a bar in
//! this part of the session (`slot_min` minutes, counted from the session's first
//! tick; a new session weighs 0.3, the ones before 0.7): volume is high at the
//! open and at the close of each day, which is not news. Until then it is
//! the exponential average over `mean_bars` bars. A bar is a spike when
//!
//! 1. its quantity is at least `k` times the usual,
//! 2. this multiple ranks at `rank_min` or above among the symbol's recent ones,
//! 3. it was ended within 5 bars of its start (later it is old news), and no spike
//!    was reported within `cooldown_s`.
//!
//! The direction is that of the price over the bar, or none if it did not move. The
//! confidence is the rank: 0.99 means that one bar in a hundred is as large for its
//! time of day. It is not a probability that the price goes on.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Direction, Manifest, Param, Tick,
    bars::{Bar, Grid, MicroBars},
    detector, flag,
    indicators::Ema,
    rank::RankSketch,
};

const SECOND: u64 = 1_000_000_000;

/// The number of bars after which ranks are meaningful.
const RANK_WARM_UP_BARS: u32 = 60;

/// A bar does not fire if the tick that ends it comes more than this many bars after its start.
const LATE_BARS: u64 = 5;

/// The weight of the newest session in the profile of the day.
const SESSION_WEIGHT: f64 = 0.3;

/// The maximum number of slots in a session. The last one lasts to the session's end.
const SLOTS_MAX: usize = 96;

/// The positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;
const SINCE_OPEN: usize = 2;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    bar_s: f64,
    k: f64,
    rank_min: f64,
    mean_bars: u32,
    slot_min: f64,
    cooldown_s: f64,
    half_life: f64,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    bars: MicroBars,
    /// The time of the session's first tick.
    opened: u64,
    mean: Ema,
    ratios: RankSketch,
    /// The number of bars in which anything was traded.
    closed: u32,
    told: Option<u64>,
    /// The mean quantity of a bar in each slot of the session; 0 if it is unknown.
    profile: Vec<f64>,
    /// The current slot of the session: its number, quantity and number of bars.
    slot: (u32, f64, u32),
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct VolumeSpike {
    params: Params,
    bar: u64,
    slot: u64,
    cooldown: u64,
}

impl Detector for VolumeSpike {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "far more is traded than is usual at that time of day";
        Manifest::new("volume-spike", env!("CARGO_PKG_VERSION"), text)
            .column(Column::required("quantity"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .param(number("bar_s", 60.0, [1.0, 3600.0], "s", "length of the bars"))
            .param(number("k", 3.0, [1.0, 1000.0], "", "least multiple of the usual quantity"))
            .param(number("rank_min", 0.99, [0.0, 1.0], "", "least rank of the multiple among recent ones"))
            .param(
                Param::integer("mean_bars", 60)
                    .range(5.0, 5000.0)
                    .unit("bars")
                    .doc("bars of the average, until a session has shown what is usual"),
            )
            .param(number("slot_min", 30.0, [1.0, 1440.0], "min", "parts of a session that have a usual quantity each"))
            .param(number("cooldown_s", 300.0, [0.0, 86400.0], "s", "least time between two"))
            .param(number("half_life", 1000.0, [10.0, 1e6], "bars", "after which a bar counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        if params.slot_min * 60.0 < params.bar_s {
            return Err(format!(
                "a part of a session (slot_min {}) must hold a bar (bar_s {})",
                params.slot_min, params.bar_s
            ));
        }
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        Ok(Self { bar: ns(params.bar_s), slot: ns(params.slot_min * 60.0), cooldown: ns(params.cooldown_s), params })
    }

    fn warm_up(&self) -> Duration {
        Duration::from_nanos(u64::from(self.params.mean_bars.max(RANK_WARM_UP_BARS)) * self.bar)
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            return None;
        }
        if tick.flags(FLAGS) & flag::SESSION_START != 0 {
            state.bars.clear();
            state.end_slot(0);
            state.opened = tick.session_open(SINCE_OPEN).unwrap_or(tick.time);
        }
        let grid = Grid { origin: tick.session_open(SINCE_OPEN).unwrap_or(0), length: self.bar };
        let bar = state.bars.push_on(grid, tick.time, tick.price, tick.column(QUANTITY))?;
        if bar.quantity <= 0.0 {
            return None;
        }
        self.close_bar(state, &bar, tick)
    }
}

impl VolumeSpike {
    fn close_bar(&self, state: &mut State, bar: &Bar, tick: &Tick<'_>) -> Option<Detection> {
        let Params { k, rank_min, mean_bars, half_life, .. } = self.params;
        let slot = (bar.start.saturating_sub(state.opened) / self.slot).min(SLOTS_MAX as u64 - 1) as u32;
        if slot != state.slot.0 {
            state.end_slot(slot);
        }
        let profile = state.profile.get(slot as usize).copied().filter(|mean| *mean > 0.0);
        let usual = profile.or(state.mean.get(mean_bars));
        state.closed = state.closed.saturating_add(1);
        state.mean.push(mean_bars, bar.quantity);
        state.slot.1 += bar.quantity;
        state.slot.2 += 1;
        let gates = tick.gates();
        let is_warm = gates.above("bars", f64::from(state.closed), f64::from(mean_bars.max(RANK_WARM_UP_BARS)));
        let usual = usual?;
        let ratio = bar.quantity / usual;
        let rank = state.ratios.rank(ratio);
        // Added only now, since a value is compared with those before it.
        state.ratios.push(ratio, half_life);
        let next = state.bars.current().map_or(tick.time, |next| next.start);
        let (pause, late) = (next - bar.start, self.bar * LATE_BARS);
        let since_told = state.told.map(|told| tick.time - told);
        let has_rested = since_told.is_none_or(|since| since >= self.cooldown);
        let is_much = gates.at_least("ratio", ratio, k);
        let is_rare = gates.at_least("rank", rank.unwrap_or(f64::NAN), rank_min);
        let is_fresh = gates.holds("pause_s", seconds(pause), seconds(late), pause <= late);
        let has_rested =
            gates.holds("armed_s", since_told.map_or(f64::INFINITY, seconds), seconds(self.cooldown), has_rested);
        if !(is_warm && is_much && is_rare && is_fresh && has_rested) {
            return None;
        }
        let rank = rank?;
        state.told = Some(tick.time);
        let direction = match bar.close - bar.open {
            up if up > 0.0 => Direction::Up,
            down if down < 0.0 => Direction::Down,
            _ => Direction::None,
        };
        Some(
            Detection::new(direction, rank)
                .with("quantity", bar.quantity)
                .with("usual", usual)
                .with("ratio", ratio)
                .with("by_time_of_day", f64::from(u8::from(profile.is_some())))
                .with("bar_pct", (bar.close / bar.open - 1.0) * 100.0),
        )
    }
}

impl State {
    /// Adds the current slot of the session to the profile.
    fn end_slot(&mut self, next: u32) {
        let (slot, quantity, bars) = std::mem::replace(&mut self.slot, (next, 0.0, 0));
        if bars == 0 {
            return;
        }
        let slot = slot as usize;
        if self.profile.len() <= slot {
            self.profile.resize(slot + 1, 0.0);
        }
        let mean = quantity / f64::from(bars);
        let usual = &mut self.profile[slot];
        *usual = if *usual > 0.0 { *usual + (mean - *usual) * SESSION_WEIGHT } else { mean };
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(VolumeSpike);
