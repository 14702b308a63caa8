//! Stale feed: a symbol has fallen silent, or its price is stuck while it is traded.
//!
//! - *silent*: no tick of the symbol for at least `silent_s`, and for longer than
//!   `rank_min` of its own recent gaps between ticks, so that a quiet symbol is not
//!   compared with a busy one. It fires once. The next tick ends the silence.
//! - *stuck*: the price has not changed for `stuck_s`, though at least `stuck_k` times as
//!   much was traded meanwhile as is usual in that time (exponential average over 20
//!   such spans). A price at a circuit limit looks the same. It fires once, until the
//!   price changes. `stuck_s = 0` turns it off, and symbols without volume don't fire.
//!
//! The clock reveals silence, and it advances with the ticks of all symbols. If all
//! symbols are silent together, the clock stops and then leaps. The leap does not count
//! as silence of any symbol. So a feed that stops as a whole raises no alert here. The
//! host's status shows that event time has stopped, since a detector sees only ticks.
//! A symbol is not silent before its session opens and after it closes, if the host has a
//! calendar for it. A session of a whole day is taken not to close.
//!
//! There is no direction. The confidence of silence is the share of recent gaps that
//! were shorter; that of a stuck price is 1 - usual / traded.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Clock, Column, Detection, Detector, Manifest, Param, Tick, bars::MicroBars, detector, flag, indicators::Ema,
    rank::RankSketch,
};

const SECOND: u64 = 1_000_000_000;

/// The number of gaps after which ranks are meaningful.
const GAPS_MIN: u32 = 200;

/// The number of spans over which the usual quantity is averaged.
const USUAL_STRETCHES: u32 = 20;

/// The positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;
const SINCE_OPEN: usize = 2;
const TO_CLOSE: usize = 3;

/// The length of a session that is followed by the next one without a pause.
const DAY: u64 = 86_400 * SECOND;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    silent_s: f64,
    rank_min: f64,
    stuck_s: f64,
    stuck_k: f64,
    half_life: f64,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The times of the last tick (0 before the first), and of the last clock row since.
    last: u64,
    clock: u64,
    /// The time that the clock has leapt since the last tick, ns.
    leapt: u64,
    /// When the session closes; 0 outside of it.
    closes: u64,
    /// Whether the silence was reported.
    silent: bool,
    gaps: RankSketch,
    count: u32,
    price: f64,
    /// When the price last changed, and the quantity traded since.
    since: u64,
    traded: f64,
    /// Whether the stuck price was reported.
    stuck: bool,
    stretches: MicroBars,
    usual: Ema,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct StaleFeed {
    params: Params,
    silent: u64,
    stuck: u64,
}

impl Detector for StaleFeed {
    type Params = Params;
    type State = State;
    const WANTS_CLOCK: bool = true;
    const STATE_VERSION: u32 = 2;

    fn manifest() -> Manifest {
        let text = "a symbol has fallen silent, or its price is stuck while it is traded";
        Manifest::new("stale-feed", env!("CARGO_PKG_VERSION"), text)
            .column(Column::optional("quantity"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .column(Column::optional("to_close"))
            .param(number("silent_s", 10.0, [1.0, 86400.0], "s", "minimum silence that raises an alert"))
            .param(number("rank_min", 0.999, [0.0, 1.0], "", "least share of recent gaps that were shorter"))
            .param(number("stuck_s", 60.0, [0.0, 86400.0], "s", "minimum time without a change of price; 0 = off"))
            .param(number("stuck_k", 2.0, [0.1, 1000.0], "", "least multiple of the usual quantity meanwhile"))
            .param(number("half_life", 5000.0, [100.0, 1e6], "gaps", "after which a gap counts half"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        Ok(Self { silent: ns(params.silent_s), stuck: ns(params.stuck_s), params })
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            // Nothing is expected until the session's first tick.
            state.closes = 0;
            return None;
        }
        state.closes = closes(tick);
        let anew = state.last == 0 || tick.flags(FLAGS) & flag::SESSION_START != 0;
        if !anew {
            let gap = state.own_silence(tick.time);
            if gap > 0 {
                state.gaps.push(gap as f64, self.params.half_life);
                state.count = state.count.saturating_add(1);
            }
        }
        (state.last, state.clock, state.leapt, state.silent) = (tick.time, tick.time, 0, false);
        self.look_at_price(state, tick, anew)
    }

    fn on_clock(&self, state: &mut State, clock: &Clock<'_>) -> Option<Detection> {
        state.leapt += (clock.time.saturating_sub(state.clock)).saturating_sub(SECOND);
        state.clock = state.clock.max(clock.time);
        let silence = state.own_silence(clock.time);
        let gates = clock.gates();
        let is_open = gates.holds("to_close_s", state.to_close(clock.time), 0.0, clock.time < state.closes);
        let is_news = gates.holds("silence_reported", told(state.silent), 0.0, !state.silent);
        let is_known = gates.at_least("gaps", f64::from(state.count), f64::from(GAPS_MIN));
        let is_silent = gates.holds("silent_s", seconds(silence), seconds(self.silent), silence >= self.silent);
        if !(is_open && is_news && is_known && is_silent) {
            return None;
        }
        // Compared last, and only then: a rank costs more than the rest together.
        let rank = state.gaps.rank(silence as f64)?;
        if !gates.at_least("rank", rank, self.params.rank_min) {
            return None;
        }
        state.silent = true;
        Some(Detection::neutral(rank).with("silent_s", seconds(silence)).with("price", state.price))
    }
}

/// Returns when the session of a tick closes; never, if another one follows without a pause.
fn closes(tick: &Tick<'_>) -> u64 {
    match (tick.session_open(SINCE_OPEN), tick.session_close(TO_CLOSE)) {
        (Some(open), Some(close)) if close - open < DAY => close,
        _ => u64::MAX,
    }
}

impl StaleFeed {
    fn look_at_price(&self, state: &mut State, tick: &Tick<'_>, anew: bool) -> Option<Detection> {
        let quantity = tick.column(QUANTITY);
        if self.stuck == 0 {
            state.price = tick.price;
            return None;
        }
        if anew {
            state.stretches.clear();
        }
        if let Some(stretch) = state.stretches.push(self.stuck, tick.time, tick.price, quantity) {
            state.usual.push(USUAL_STRETCHES, stretch.quantity);
        }
        if anew || tick.price != state.price {
            (state.price, state.since, state.traded, state.stuck) = (tick.price, tick.time, 0.0, false);
        } else if quantity.is_finite() {
            state.traded += quantity;
        }
        let still = tick.time - state.since;
        let gates = tick.gates();
        let is_news = gates.holds("stuck_reported", told(state.stuck), 0.0, !state.stuck);
        let is_stuck = gates.holds("stuck_s", seconds(still), seconds(self.stuck), still >= self.stuck);
        // Before, there is too little to be compared with what is usual.
        if !(is_news && is_stuck) {
            return None;
        }
        let usual = state.usual.get(USUAL_STRETCHES).map_or(f64::NAN, |usual| usual * still as f64 / self.stuck as f64);
        let is_traded = gates.above("usual", usual, 0.0);
        let is_much = gates.at_least("traded", state.traded, usual * self.params.stuck_k);
        if !(is_traded && is_much) {
            return None;
        }
        state.stuck = true;
        Some(
            Detection::neutral((1.0 - usual / state.traded).max(0.0))
                .with("stuck_s", seconds(still))
                .with("traded", state.traded)
                .with("usual", usual)
                .with("price", tick.price),
        )
    }
}

impl State {
    /// Returns the time since the last tick without the clock's leaps, ns.
    fn own_silence(&self, time: u64) -> u64 {
        time.saturating_sub(self.last).saturating_sub(self.leapt)
    }

    /// Returns the time until the session closes, s; 0 outside of a session, and infinite if it never closes.
    fn to_close(&self, time: u64) -> f64 {
        if self.closes == u64::MAX { f64::INFINITY } else { seconds(self.closes.saturating_sub(time)) }
    }
}

/// Returns a flag as a number that a gate shows.
fn told(reported: bool) -> f64 {
    f64::from(u8::from(reported))
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(StaleFeed);
