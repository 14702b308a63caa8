//! VWAP: the price crosses the session's average price, or turns back to it from afar.
//!
//! The volume-weighted average price of a session is the sum of price times quantity
//! over the sum of quantities (Berkowitz, Logue and Noser 1988), from the session's
//! first trade on. The distance of a trade from it is in standard deviations: z is the
//! distance over the root mean square of past distances (exponentially weighted,
//! half as much after `half_life` trades). An excursion is the path of the price from
//! one side's `hysteresis` to the other's. Its peak is the largest |z| on it.
//!
//! - *cross*: z reaches `hysteresis` on the other side. The direction is that of the
//!   cross. Moves within the hysteresis don't count.
//! - *reversion*: on an excursion with a peak of at least `far`, z comes back
//!   from its peak by `turn`. The direction is towards the average. It fires once per excursion.
//!
//! `mode` selects one of them, or both. Nothing fires in the first `opening_ticks`
//! trades of a session, when the average is not stable yet.
//!
//! The confidence is the rank of the excursion's peak among those of the symbol's past
//! excursions: a cross or turn from far away is rare. It is not a probability that
//! the price goes on.
//!
//! Symbols without volume, such as indices, have no such average and never fire.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Direction, Gates, Manifest, Param, Tick, detector, flag, rank::RankSketch,
};

/// The number of excursions after which ranks are meaningful.
const RANK_WARM_UP: u32 = 10;

/// The positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    mode: Mode,
    hysteresis: f64,
    far: f64,
    turn: f64,
    opening_ticks: u32,
    half_life: f64,
    excursions: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Cross,
    Reversion,
    Both,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The sums of price times quantity and of quantity, and the number of trades, in this session.
    turnover: f64,
    quantity: f64,
    trades: u32,
    /// The mean square of the distance relative to the average price, which hardly differs between sessions.
    square: f64,
    /// The side of the excursion: 1 above, -1 below, 0 before the first of a session.
    side: i8,
    /// The largest |z| of the excursion.
    peak: f64,
    /// Whether the turn was reported or rejected.
    turned: bool,
    peaks: RankSketch,
    ended: u32,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Vwap {
    params: Params,
    /// The weight of the newest distance.
    alpha: f64,
}

impl Detector for Vwap {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "the price crosses the session's average price, or turns back to it from afar";
        Manifest::new("vwap", env!("CARGO_PKG_VERSION"), text)
            .column(Column::required("quantity"))
            .column(Column::required("flags"))
            .param(Param::text("mode", "both").choices(&["cross", "reversion", "both"]).doc("what fires"))
            .param(number("hysteresis", 0.25, [0.0, 5.0], "sd", "how far beyond the average a cross is one"))
            .param(number("far", 2.0, [0.5, 20.0], "sd", "least peak of an excursion that may turn"))
            .param(number("turn", 0.5, [0.05, 20.0], "sd", "how far it comes back from its peak"))
            .param(
                Param::integer("opening_ticks", 100)
                    .range(1.0, 1e6)
                    .unit("trades")
                    .doc("trades of a session before anything fires"),
            )
            .param(number("half_life", 2000.0, [10.0, 1e7], "trades", "after which a distance counts half"))
            .param(number("excursions", 100.0, [5.0, 1e6], "excursions", "after which a peak counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        if params.far <= params.hysteresis {
            return Err(format!("far ({}) must be beyond the hysteresis ({})", params.far, params.hysteresis));
        }
        let alpha = 1.0 - libm::exp2(-1.0 / params.half_life);
        Ok(Self { params, alpha })
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            return None;
        }
        if tick.flags(FLAGS) & flag::SESSION_START != 0 {
            state.begin();
        }
        let quantity = tick.column(QUANTITY);
        // The quantity is NaN, or the tick is not a trade.
        if !(quantity > 0.0 && quantity.is_finite()) {
            return None;
        }
        state.turnover += tick.price * quantity;
        state.quantity += quantity;
        state.trades = state.trades.saturating_add(1);
        let average = state.turnover / state.quantity;
        let distance = tick.price / average - 1.0;
        let deviation = state.square.sqrt();
        // Added only now, since a value is compared with those before it.
        state.square += (distance * distance - state.square) * self.alpha;
        let gates = tick.gates();
        let is_open = gates.above("trades", f64::from(state.trades), f64::from(self.params.opening_ticks));
        let has_scale = gates.above("sd_pct", deviation * 100.0, 0.0);
        if !(is_open && has_scale) {
            return None;
        }
        let found = self.judge(state, gates, distance / deviation)?;
        Some(found.with("vwap", average).with("sd_pct", deviation * 100.0))
    }
}

impl Vwap {
    fn judge(&self, state: &mut State, gates: Gates<'_>, z: f64) -> Option<Detection> {
        let Params { mode, hysteresis, .. } = self.params;
        let beyond = z.abs() >= hysteresis && z != 0.0;
        let side = if z > 0.0 { 1 } else { -1 };
        let mut crosses = beyond && side != state.side;
        // Where no turn may fire, the next thing that may is a cross.
        if mode == Mode::Cross || (mode == Mode::Both && (crosses || state.turned)) {
            let across = if side == state.side { -z.abs() } else { z.abs() };
            crosses = gates.holds("beyond_average", across, hysteresis, crosses);
        }
        if crosses { self.cross(state, gates, z, side) } else { self.turn(state, gates, z) }
    }

    /// Begins an excursion on a side. The one before it, if there was one, ends with a cross.
    fn cross(&self, state: &mut State, gates: Gates<'_>, z: f64, side: i8) -> Option<Detection> {
        let (from, peak, rank, ended) = (state.side, state.peak, state.rank(), state.ended);
        (state.side, state.peak, state.turned) = (side, z.abs(), false);
        if from != 0 {
            state.peaks.push(peak, self.params.excursions);
            state.ended = state.ended.saturating_add(1);
        }
        if self.params.mode == Mode::Reversion {
            return self.turn(state, gates, z);
        }
        let is_end = gates.holds("from_side", f64::from(from), 0.0, from != 0);
        let is_ranked = gates.at_least("excursions", f64::from(ended), f64::from(RANK_WARM_UP));
        if !(is_end && is_ranked) {
            return None;
        }
        let direction = if side > 0 { Direction::Up } else { Direction::Down };
        Some(Detection::new(direction, rank?).with("cross", 1.0).with("z", z).with("peak", peak))
    }

    /// Continues an excursion, on which the price may turn back.
    fn turn(&self, state: &mut State, gates: Gates<'_>, z: f64) -> Option<Detection> {
        let Params { mode, far, turn, .. } = self.params;
        let out = z * f64::from(state.side);
        state.peak = state.peak.max(out);
        if mode == Mode::Cross || (mode == Mode::Both && state.turned) {
            return None;
        }
        let is_far = gates.at_least("peak", state.peak, far);
        let came_back = gates.at_least("came_back", state.peak - out, turn);
        let is_first = gates.holds("turned", f64::from(u8::from(state.turned)), 0.0, !state.turned);
        let is_ranked = gates.at_least("excursions", f64::from(state.ended), f64::from(RANK_WARM_UP));
        if !(is_far && came_back && is_first) {
            return None;
        }
        state.turned = true;
        if !is_ranked {
            return None;
        }
        let direction = if state.side > 0 { Direction::Down } else { Direction::Up };
        Some(Detection::new(direction, state.rank()?).with("cross", 0.0).with("z", z).with("peak", state.peak))
    }
}

impl State {
    fn begin(&mut self) {
        (self.turnover, self.quantity, self.trades) = (0.0, 0.0, 0);
        (self.side, self.peak, self.turned) = (0, 0.0, false);
    }

    /// Returns the rank of the excursion's peak among those before it.
    fn rank(&self) -> Option<f64> {
        self.peaks.rank(self.peak)
    }
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(Vwap);
