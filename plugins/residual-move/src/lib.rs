//! Residual move: a symbol moves by far more, or less, than its index explains.
//!
//! At the end of each bar, the move of the symbol is the logarithm of its close over that of `move_bars` bars ago in the same
//! session, and the move of the index is the same for the column `index`. Beta is the slope of the line through the origin
//! that fits the symbol's moves to the index's, by exponentially weighted least squares over all bars so far (half as much
//! after `beta_half_life` bars). The residual is the move less beta times the index's move: the part that is the symbol's own
//! (the market model of Sharpe 1963; event studies call it the abnormal return, MacKinlay 1997). Its unit is the usual
//! residual, the root mean square at this time of day: each part of a session (`slot_min` minutes) has a mean square over
//! past sessions, in which a session counts 0.9 times the next one, mixed with the mean square of all recent bars, which
//! weighs as much as three sessions. Neither beta nor a mean square takes a move as larger than eight usual ones, or one bad
//! price would spoil them for months. So an open that is always hectic is not news, and a detector that has seen few sessions
//! is not led astray.
//!
//! It fires when the residual is at least `k` usual ones and at least `least_pct`, and not again in that direction
//! within `cooldown_s` of the last time. The direction is that of the residual. The confidence is the rank of the residual, in
//! usual ones, among those of the symbol's recent bars.
//!
//! It is neither a forecast nor advice. On 50 real days of NSE, large moves, up or down, followed residuals of three usual ones
//! three times as often as other minutes, and those of six usual ones six times as often. Residuals of three usual ones reversed
//! a little on average, by less than it costs to trade.
//!
//! The column comes from the configuration: `[context.index] symbol = "NIFTY"`. The index itself has no residual; exclude it,
//! and what does not follow it, by `symbols`.

#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use tickhound_sdk::{Bar, Column, Detection, Detector, Direction, Feed, Manifest, Param, detector, rank::RankSketch};

const SECOND: u64 = 1_000_000_000;

/// The length of a session where no calendar says when it opens: a day of UTC.
const DAY: u64 = 86_400 * SECOND;

/// Sessions open further apart than this.
const APART: u64 = 3600 * SECOND;

/// The number of moves after which beta, usual residual and ranks are meaningful.
const WARM_UP_MOVES: u32 = 120;

/// The number of moves after which it is known which one is too large to be taken as it is, and how many usual ones that is.
const CLIP_FROM: u32 = 30;
const CLIP: f64 = 8.0;

/// The most parts of a session. The last one lasts to the session's end.
const SLOTS_MAX: usize = 96;

/// The least weight of the newest session in a part's mean square, by which a session counts 0.9 times the next one.
const SESSION_WEIGHT: f64 = 0.1;

/// The number of sessions that the mean square of all recent bars weighs as much as.
const POOL: f64 = 3.0;

/// The least weight of the newest residual in that mean square: half of the weight is on about four sessions of minutes.
const POOL_WEIGHT: f64 = 5e-4;

/// The least mean square of residuals that differ from 0: rounding errors are below it, and every price step above.
const SQUARE_MIN: f64 = 1e-20;

/// The positions of the manifest's columns.
const SINCE_OPEN: usize = 0;
const INDEX: usize = 1;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    bar_s: u32,
    move_bars: u32,
    k: f64,
    least_pct: f64,
    beta_half_life: f64,
    slot_min: f64,
    cooldown_s: f64,
    half_life: f64,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// When the session opened; 0 before the first.
    session: u64,
    /// The last bars of this session, oldest first.
    path: VecDeque<Point>,
    /// The sums of weights, of squares of the index's moves and of the symbol's, and of products of both.
    weight: f64,
    squares: f64,
    own_squares: f64,
    products: f64,
    moves: u32,
    /// The mean square of all recent residuals, and the number of them.
    pooled: f64,
    residuals: u32,
    /// The parts of a session.
    profile: Vec<Usual>,
    /// The present part: its number, the sum of squares and the number of residuals.
    slot: (u32, f64, u32),
    sizes: RankSketch,
    /// When it fired last upwards and downwards; 0 if never.
    fired: [u64; 2],
}

/// The prices of the symbol and its index at the end of a bar.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Point {
    time: u64,
    price: f64,
    index: f64,
}

impl Point {
    /// Returns the moves of the symbol and its index from here to a later bar.
    fn moves_to(self, now: Self) -> (f64, f64) {
        // Not of the quotients, which absurd prices make infinite.
        (libm::log(now.price) - libm::log(self.price), libm::log(now.index) - libm::log(self.index))
    }
}

/// The mean square of residuals in one part of a session, over so many sessions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Usual {
    square: f64,
    sessions: u8,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct ResidualMove {
    params: Params,
    bar: u64,
    slot: u64,
    /// What remains of a sum after one more bar.
    decay: f64,
}

impl Detector for ResidualMove {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "a symbol moves by far more, or less, than its index explains";
        Manifest::new("residual-move", env!("CARGO_PKG_VERSION"), text)
            .feed(Feed::bars_param("bar_s"))
            .column(Column::optional("since_open"))
            .column(Column::required("index"))
            .param(Param::integer("bar_s", 60).range(1.0, 3600.0).unit("s").doc("length of the bars"))
            .param(Param::integer("move_bars", 5).range(1.0, 60.0).unit("bars").doc("bars of a move"))
            .param(number("k", 6.0, [1.0, 100.0], "usual", "least residual, in usual ones"))
            .param(number("least_pct", 0.3, [0.0, 50.0], "%", "least residual, in percent of the price"))
            .param(number("beta_half_life", 1500.0, [60.0, 1e6], "bars", "after which a move counts half in beta"))
            .param(number("slot_min", 15.0, [1.0, 1440.0], "min", "parts of a session that have a usual residual each"))
            .param(number("cooldown_s", 1800.0, [0.0, 86_400.0], "s", "least time between two in one direction"))
            .param(number("half_life", 4000.0, [10.0, 1e6], "bars", "after which a bar counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let Params { bar_s, slot_min, beta_half_life, .. } = params;
        if slot_min * 60.0 < f64::from(bar_s) {
            return Err(format!("a part of a session (slot_min {slot_min}) must hold a bar (bar_s {bar_s})"));
        }
        Ok(Self {
            bar: u64::from(bar_s) * SECOND,
            slot: (slot_min * 60.0 * SECOND as f64) as u64,
            decay: libm::exp2(-1.0 / beta_half_life),
            params,
        })
    }

    fn warm_up(&self) -> Duration {
        // As many moves for beta, then as many residuals for the rest.
        let bars = u64::from(2 * WARM_UP_MOVES) + u64::from(self.params.move_bars);
        Duration::from_nanos(bars * self.bar)
    }

    fn on_bar(&self, state: &mut State, bar: &Bar<'_>) -> Option<Detection> {
        // A bar that ends at midnight is of the day before.
        let session = bar.session_open(SINCE_OPEN).unwrap_or(bar.time.saturating_sub(1) / DAY * DAY);
        if session > state.session + APART {
            state.begin(session);
        }
        let index = bar.column(INDEX);
        // The index has had no tick yet.
        if !(index > 0.0 && index.is_finite()) {
            return None;
        }
        let now = Point { time: bar.time, price: bar.price, index };
        let before = self.before(state, now);
        state.path.push_back(now);
        let (own, market) = before?.moves_to(now);
        let beta = state.beta();
        state.fit(self.decay, own, market);
        let residual = Residual { own, market, beta: beta?, size: own - beta? * market };
        let slot =
            (bar.time.saturating_sub(self.bar / 2).saturating_sub(state.session) / self.slot).min(SLOTS_MAX as u64 - 1);
        self.judge(state, bar, residual, slot as u32)
    }
}

/// A move and its parts, as logarithms.
#[derive(Clone, Copy, Debug)]
struct Residual {
    own: f64,
    market: f64,
    beta: f64,
    size: f64,
}

impl ResidualMove {
    /// Returns the bar that a move begins with: the last one at least `move_bars` before, if it is not twice as old. Drops
    /// those before it.
    fn before(&self, state: &mut State, now: Point) -> Option<Point> {
        let length = self.bar * u64::from(self.params.move_bars);
        while state.path.get(1).is_some_and(|next| next.time + length <= now.time) {
            state.path.pop_front();
        }
        let first = state.path.front()?;
        (first.time + length <= now.time && first.time + 2 * length > now.time).then_some(*first)
    }

    fn judge(&self, state: &mut State, bar: &Bar<'_>, residual: Residual, slot: u32) -> Option<Detection> {
        let Params { k, least_pct, cooldown_s, half_life, .. } = self.params;
        if slot != state.slot.0 {
            state.end_slot(slot);
        }
        let usual = state.usual(slot);
        state.learn(match usual {
            Some(usual) if state.residuals >= CLIP_FROM => clip(residual.size, usual * usual),
            _ => residual.size,
        });
        let (usual, gates) = (usual?, bar.gates());
        let (units, size_pct) = (residual.size.abs() / usual, residual.size.abs() * 100.0);
        let (side, direction) = if residual.size > 0.0 { (0, Direction::Up) } else { (1, Direction::Down) };
        let since = bar.time.saturating_sub(state.fired[side]);
        let is_large = gates.at_least("usual_residuals", units, k);
        let is_worth_it = gates.at_least("residual_pct", size_pct, least_pct);
        let has_rested = gates.at_least("rested_s", since as f64 / SECOND as f64, cooldown_s);
        let is_ranked = gates.above("residuals", f64::from(state.residuals), f64::from(WARM_UP_MOVES));
        let fires = is_large && is_worth_it && has_rested && is_ranked;
        // Few bars need a rank, which adds up all bins. It is among the values before this one.
        let rank = if fires { state.sizes.rank(units) } else { None };
        state.sizes.push(units, half_life);
        if !fires {
            return None;
        }
        state.fired[side] = bar.time;
        let found = Detection::new(direction, rank?)
            .with("residual_pct", residual.size * 100.0)
            .with("usual_pct", usual * 100.0);
        let found = found.with("units", units).with("move_pct", residual.own * 100.0);
        Some(found.with("index_pct", residual.market * 100.0).with("beta", residual.beta))
    }
}

impl State {
    fn begin(&mut self, session: u64) {
        self.end_slot(0);
        self.path.clear();
        self.session = session;
    }

    /// Returns the slope of the moves so far, if there are enough.
    fn beta(&self) -> Option<f64> {
        (self.moves >= WARM_UP_MOVES && self.squares > SQUARE_MIN).then(|| self.products / self.squares)
    }

    fn fit(&mut self, decay: f64, own: f64, market: f64) {
        let (mut own, mut market) = (own, market);
        if self.moves >= CLIP_FROM {
            own = clip(own, self.own_squares / self.weight);
            market = clip(market, self.squares / self.weight);
        }
        self.weight = self.weight * decay + 1.0;
        self.squares = self.squares * decay + market * market;
        self.own_squares = self.own_squares * decay + own * own;
        self.products = self.products * decay + market * own;
        self.moves = self.moves.saturating_add(1);
    }

    /// Returns the usual residual in a part of a session.
    fn usual(&self, slot: u32) -> Option<f64> {
        let known = self.profile.get(slot as usize).copied().unwrap_or_default();
        let sessions = f64::from(known.sessions);
        let square = (known.square * sessions + self.pooled * POOL) / (sessions + POOL);
        (square > SQUARE_MIN).then(|| square.sqrt())
    }

    /// Adds a residual to the mean squares.
    fn learn(&mut self, size: f64) {
        let square = size * size;
        self.residuals = self.residuals.saturating_add(1);
        let weight = (1.0 / f64::from(self.residuals)).max(POOL_WEIGHT);
        self.pooled += (square - self.pooled) * weight;
        self.slot.1 += square;
        self.slot.2 += 1;
    }

    /// Adds the present part of the session to the profile.
    fn end_slot(&mut self, next: u32) {
        let (slot, squares, count) = std::mem::replace(&mut self.slot, (next, 0.0, 0));
        if count == 0 {
            return;
        }
        let slot = slot as usize;
        if self.profile.len() <= slot {
            self.profile.resize(slot + 1, Usual::default());
        }
        let usual = &mut self.profile[slot];
        usual.sessions = usual.sessions.saturating_add(1);
        let weight = (1.0 / f64::from(usual.sessions)).max(SESSION_WEIGHT);
        usual.square += (squares / f64::from(count) - usual.square) * weight;
    }
}

/// Limits a move to so many usual ones, given their mean square. After prices that stood still, any move is taken as it is.
fn clip(size: f64, square: f64) -> f64 {
    let limit = if square > SQUARE_MIN { CLIP * square.sqrt() } else { f64::MAX };
    // Unlike `clamp`, this brings no code that prints numbers.
    size.max(-limit).min(limit)
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(ResidualMove);
