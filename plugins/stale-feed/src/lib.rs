//! Stale feed: a symbol has fallen silent, or its price is stuck while it is traded.
//!
//! - *silent*: no tick of the symbol for at least `silent_s`, and for longer than
//!   `rank_min` of its own recent gaps between ticks: a quiet symbol is not held to a
//!   busy one's pace. Told once; the next tick ends the silence.
//! - *stuck*: the price has not changed for `stuck_s`, though at least `stuck_k` times as
//!   much was traded meanwhile as is usual in that time (exponential average over 20
//!   such stretches). A price at a circuit limit looks the same. Told once, until the
//!   price changes. `stuck_s = 0` leaves it out, and so do symbols without volume.
//!
//! Silence is noticed by the clock, which goes by the ticks of all symbols. When all are
//! silent together, the clock stands still and then leaps; what it leaps is nobody's
//! own silence and is not counted as one. So a feed that breaks down as a whole
//! raises no alert here, neither one nor thousands: that event time stands still is
//! for the host's status to tell, not for a detector, which sees ticks alone. Where some
//! markets close before others, their symbols do fall silent once a day: give each market
//! a `[detectors.NAME]` table with its `symbols`, and what is told after its close is that.
//!
//! Direction is none. Confidence: of silence, the share of recent gaps that were
//! shorter; of a stuck price, 1 - usual / traded.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Clock, Column, Detection, Detector, Manifest, Param, Tick, bars::MicroBars, detector, flag, indicators::Ema,
    rank::RankSketch,
};

const SECOND: u64 = 1_000_000_000;

/// Gaps that ranks need before they say anything.
const GAPS_MIN: u32 = 200;

/// Stretches over which the usual quantity is averaged.
const USUAL_STRETCHES: u32 = 20;

/// Positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;

/// `[detectors.NAME.params]`; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    silent_s: f64,
    rank_min: f64,
    stuck_s: f64,
    stuck_k: f64,
    half_life: f64,
}

/// What is remembered of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Time of the last tick, 0 before the first, and of the last clock row since.
    last: u64,
    clock: u64,
    /// What the clock has leapt since the last tick, ns.
    leapt: u64,
    /// The silence was told.
    silent: bool,
    gaps: RankSketch,
    count: u32,
    price: f64,
    /// Since when the price has been the same, and what was traded since.
    since: u64,
    traded: f64,
    /// That it is stuck was told.
    stuck: bool,
    stretches: MicroBars,
    usual: Ema,
}

/// The detector.
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

    fn manifest() -> Manifest {
        let text = "a symbol has fallen silent, or its price is stuck while it is traded";
        Manifest::new("stale-feed", env!("CARGO_PKG_VERSION"), text)
            .column(Column::optional("quantity"))
            .column(Column::required("flags"))
            .param(number("silent_s", 10.0, 1.0, 86400.0, "s", "least silence that is told"))
            .param(number("rank_min", 0.999, 0.0, 1.0, "", "least share of recent gaps that were shorter"))
            .param(number("stuck_s", 60.0, 0.0, 86400.0, "s", "least time without a change of price; 0 = never mind"))
            .param(number("stuck_k", 2.0, 0.1, 1000.0, "", "least multiple of the usual quantity meanwhile"))
            .param(number("half_life", 5000.0, 100.0, 1e6, "gaps", "after which a gap counts half"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        Ok(Self { silent: ns(params.silent_s), stuck: ns(params.stuck_s), params })
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
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
        if state.silent || silence < self.silent || state.count < GAPS_MIN {
            return None;
        }
        let rank = state.gaps.rank(silence as f64).filter(|rank| *rank >= self.params.rank_min)?;
        state.silent = true;
        let seconds = silence as f64 / SECOND as f64;
        Some(Detection::neutral(rank).with("silent_s", seconds).with("price", state.price))
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
            return None;
        }
        if quantity.is_finite() {
            state.traded += quantity;
        }
        let still = tick.time - state.since;
        if state.stuck || still < self.stuck {
            return None;
        }
        let usual = state.usual.get(USUAL_STRETCHES)? * still as f64 / self.stuck as f64;
        if usual <= 0.0 || state.traded < usual * self.params.stuck_k {
            return None;
        }
        state.stuck = true;
        Some(
            Detection::neutral((1.0 - usual / state.traded).max(0.0))
                .with("stuck_s", still as f64 / SECOND as f64)
                .with("traded", state.traded)
                .with("usual", usual)
                .with("price", tick.price),
        )
    }
}

impl State {
    /// Time since the last tick but for what the clock has leapt, ns.
    fn own_silence(&self, time: u64) -> u64 {
        time.saturating_sub(self.last).saturating_sub(self.leapt)
    }
}

fn number(name: &str, default: f64, least: f64, most: f64, unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(StaleFeed);
