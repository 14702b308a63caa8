//! Gap: a session opens far from where the last one closed.
//!
//! The gap is the logarithm of a session's first traded price over the last
//! price of the session before. It is compared with what is usual for the symbol:
//!
//! 1. by the root mean square of its past gaps (exponentially weighted, half as
//!    much after `half_life` gaps), once there are five of them: a gap of at
//!    least `k` of these fires;
//! 2. before, by the average range of its sessions, the logarithm of high over low
//!    (as Wilder 1978 averages true ranges, over 14): at least `k_range` of it;
//! 3. before the first session has ended, not at all.
//!
//! It fires once, at the first trade of a session. A first tick with only quotes
//! still has the old price, so it does not count. The direction is the gap's.
//!
//! The confidence is the rank of the gap's size among past gaps, which is coarse
//! with few gaps. With fewer than five it is the two-sided probability of a normal
//! distribution with the scale above, 2 Φ(gap / scale) - 1. It is not a probability
//! that the gap is closed.
//!
//! A split or a bonus issue looks like a gap, since ticks don't show the difference.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Direction, Manifest, Param, Tick, detector, flag,
    rank::{RankSketch, normal_cdf},
};

/// The number of gaps from which their root mean square is the scale.
const GAPS_MIN: u32 = 5;

/// The number of sessions in the average of ranges.
const RANGE_SESSIONS: f64 = 14.0;

/// The position of the manifest's column.
const FLAGS: usize = 0;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    k: f64,
    k_range: f64,
    half_life: f64,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The last price.
    price: Option<f64>,
    /// Whether a session has started in which nothing was traded yet.
    waits: bool,
    high: f64,
    low: f64,
    /// The average logarithm of high over low, and the number of sessions in it.
    range: f64,
    sessions: u32,
    /// The mean square of gaps, and the number of gaps in it.
    square: f64,
    gaps: u32,
    sizes: RankSketch,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Gap {
    params: Params,
    /// The weight of the newest gap.
    alpha: f64,
}

impl Detector for Gap {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "a session opens far from where the last one closed";
        Manifest::new("gap", env!("CARGO_PKG_VERSION"), text)
            .column(Column::required("flags"))
            .param(number("k", 2.0, [0.1, 20.0], "sd", "least size, in root mean squares of past gaps"))
            // Used until there are enough gaps for `k`.
            .param(number(
                "k_range",
                0.75,
                [0.05, 20.0],
                "ranges",
                "least size while there are few gaps, in sessions' ranges",
            ))
            .param(number("half_life", 60.0, [5.0, 1e5], "gaps", "after which a gap counts half"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let alpha = 1.0 - libm::exp2(-1.0 / params.half_life);
        Ok(Self { params, alpha })
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            return None;
        }
        let flags = tick.flags(FLAGS);
        if flags & flag::SESSION_START != 0 {
            state.end_session();
        }
        if flags & flag::QUOTE_ONLY != 0 && state.price == Some(tick.price) {
            return None;
        }
        let last = state.price.replace(tick.price);
        if !std::mem::take(&mut state.waits) && last.is_some() {
            state.high = state.high.max(tick.price);
            state.low = state.low.min(tick.price);
            return None;
        }
        (state.high, state.low) = (tick.price, tick.price);
        self.judge(state, last?, tick)
    }
}

impl Gap {
    fn judge(&self, state: &mut State, last: f64, tick: &Tick<'_>) -> Option<Detection> {
        let size = libm::log(tick.price / last);
        let few = state.gaps < GAPS_MIN;
        // With few past gaps their root mean square says little, so the gap is compared
        // with the usual range of a session.
        let (scale, least) =
            if few { (state.range, self.params.k_range) } else { (state.square.sqrt(), self.params.k) };
        let rank = state.sizes.rank(size.abs());
        // Added only now, since a value is compared with those before it.
        let weight = self.alpha.max(1.0 / f64::from(state.gaps + 1));
        state.square += (size * size - state.square) * weight;
        state.gaps = state.gaps.saturating_add(1);
        state.sizes.push(size.abs(), self.params.half_life);
        let gates = tick.gates();
        let name = if few { "gap_ranges" } else { "gap_sd" };
        let z = size / scale;
        let has_scale = gates.above(if few { "range" } else { "sd" }, scale, 0.0);
        // The first session has no range yet, and nothing is far without one.
        let is_far = gates.at_least(name, if has_scale { z.abs() } else { f64::NAN }, least);
        if !is_far {
            return None;
        }
        let confidence = match rank.filter(|_| !few) {
            Some(rank) => rank,
            None => 2.0 * normal_cdf(z.abs()) - 1.0,
        };
        let direction = if size > 0.0 { Direction::Up } else { Direction::Down };
        let found = Detection::new(direction, confidence.clamp(0.0, 1.0));
        Some(
            found
                .with("gap_pct", libm::expm1(size) * 100.0)
                .with("last_close", last)
                .with(name, z)
                .with("past_gaps", f64::from(state.gaps - 1)),
        )
    }
}

impl State {
    fn end_session(&mut self) {
        if self.price.is_some() && !self.waits {
            let range = libm::log(self.high / self.low);
            self.sessions = self.sessions.saturating_add(1);
            self.range += (range - self.range) / f64::from(self.sessions).min(RANGE_SESSIONS);
        }
        self.waits = true;
    }
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(Gap);
